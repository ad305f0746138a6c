// Changes of attributes with their permission rules: chmod(2), chown(2), utimensat(2), truncate(2).
#pragma once

#include "guestkernel/fs/inode.hpp"

namespace kernel {

inline constexpr u32 keep_id = ~u32{0}; // chown's -1

Result<void> change_mode(const Path& path, u32 mode);
Result<void> change_owner(const Path& path, u32 uid, u32 gid);
// set_access_time, set_modify_time and their _now forms; both "now" (or null times) need only write
// permission.
Result<void> change_times(const Path& path, const Attributes& times, u32 mask, bool both_now);
// For an open file or after the permission check; the size change itself. RLIMIT_FSIZE, suid
// clearing.
Result<void> truncate_path(const Path& path, u64 size);
Result<void> truncate_inode(Inode& inode, u64 size);
// A write or truncation takes the file's capabilities away, and one by an ordinary user S_ISUID,
// and S_ISGID of group-executable files, too. Locks: the inode's mutex is held.
Result<void> drop_privileges(Inode& inode);
inline bool has_suid(const Inode& inode) {
    return (inode.mode_ & 04000) != 0 || (inode.mode_ & 02010) == 02010;
}
// A write past the limit on file sizes: SIGXFSZ and EFBIG. Returns how many of the bytes may be
// written.
Result<usize> limit_file_size(u64 offset, usize bytes);

} // namespace kernel
