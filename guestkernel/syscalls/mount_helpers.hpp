// What the old and the new calls that mount have in common.
#pragma once

#include "guestkernel/fs/mount.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

// CAP_SYS_ADMIN in the user namespace that owns the caller's mount namespace: EPERM.
Result<void> require_mount_rights();
// A mount of the caller's namespace: EINVAL.
Result<void> require_own(const Path& path);
// Whether such a file system, mounted with these flags, shows nothing and lets nothing be written
// that was hidden or read-only so far; and what of the flags must then stay. EPERM.
Result<u32> check_revealing(std::string_view type, u32 flags);
// A new file system with the restrictions of user namespaces. ENODEV, EPERM.
Result<Ref<Superblock>> make_checked_filesystem(std::string_view type, std::string_view source,
                                                std::string_view options, u32 flags);

} // namespace kernel
