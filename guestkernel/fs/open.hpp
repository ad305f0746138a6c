// The parts of open(2) that others in fs/ and syscalls/ share.
#pragma once

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/walk.hpp"

namespace kernel {

// Opens what a path names; with `created` without asking for permission (the creator may always use
// its new file). `silent`: what is done with the file is nobody's event.
Result<Ref<File>> open_checked(const Path& path, u32 flags, bool created, bool silent = false);
// open(2) and openat2(2) from a walk that was started.
Result<Ref<File>> open_walk(PathWalker& walker, u32 flags, u32 mode);
u32 current_umask();

} // namespace kernel
