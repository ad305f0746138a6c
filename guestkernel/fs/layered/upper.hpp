// Changes in the writable layer's file system, made as a program that works on it directly would:
// under its directories' mutexes, and with its cache of names kept right. No permission checks: the
// overlay's own were made before.
#pragma once

#include "guestkernel/fs/dentry.hpp"

namespace kernel {

Result<Ref<Dentry>> upper_create(Dentry& directory, std::string_view name, u32 mode,
                                 u64 device_number, u32 uid, u32 gid);
Result<Ref<Dentry>> upper_symlink(Dentry& directory, std::string_view name, std::string_view target,
                                  u32 uid, u32 gid);
Result<Ref<Dentry>> upper_link(Dentry& directory, std::string_view name, Inode& target);
// ENOENT, and what the file system says (ENOTEMPTY).
Result<void> upper_remove(Dentry& directory, std::string_view name);
// What stands at the new name is replaced, or exchanged (RENAME_EXCHANGE).
Result<void> upper_rename(Dentry& from, std::string_view old_name, Dentry& to,
                          std::string_view new_name, u32 flags);
// Removes a directory's contents and the directory itself, or a file; for leftovers, which may be
// anybody's: what the running task may not remove stays (EACCES, EPERM).
Result<void> upper_remove_tree(Dentry& directory, std::string_view name);

// All names but "." and "..": `each(name)` until it fails.
struct NameList {
    Vector<String> names;
    Result<void> read(Dentry& directory);
};

} // namespace kernel
