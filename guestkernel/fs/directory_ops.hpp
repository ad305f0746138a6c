// What changes directories: mkdir(2), mknod(2), unlink(2), rmdir(2), rename(2), link(2),
// symlink(2). Paths are the current task's, relative to `directory` (a descriptor or at_fdcwd).
#pragma once

#include <string_view>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/path.hpp"

namespace kernel {

Result<void> make_directory(int directory, std::string_view name, u32 mode);
// `mode` with its S_IF* type, a missing one is a regular file. The umask is applied. The new
// object's place.
Result<Path> make_node(int directory, std::string_view name, u32 mode, u64 device_number);
Result<void> make_symlink(std::string_view target, int directory, std::string_view name);
// `flags`: AT_SYMLINK_FOLLOW, AT_EMPTY_PATH.
Result<void> make_link(int old_directory, std::string_view old_name, int new_directory,
                       std::string_view new_name, u32 flags);
Result<void> remove_file(int directory, std::string_view name);
Result<void> remove_directory(int directory, std::string_view name);
// `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT.
Result<void> rename_path(int old_directory, std::string_view old_name, int new_directory,
                         std::string_view new_name, u32 flags);

} // namespace kernel
