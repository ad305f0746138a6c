// The devices that are not somebody else's: major 1.
#pragma once

#include "guestkernel/fs/file.hpp"

namespace kernel {

// Once at boot; again is harmless.
void register_memory_devices();

Result<Ref<File>> make_log_device(const Path& path, Ref<Inode> inode, u32 flags); // /dev/kmsg

} // namespace kernel
