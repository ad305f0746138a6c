// name_to_handle_at(2), open_by_handle_at(2): files by device and inode number. A handle is good
// for as long as the dentry cache remembers the name that it was made by; afterwards it is stale,
// until it is made again.
#pragma once

#include "guestkernel/fs/vfs.hpp"

namespace kernel {

struct FileHandle {
    static constexpr u32 largest = 16;
    u32 type = 0, bytes = 0;
    u64 words[largest / 8] = {};
};

// EOPNOTSUPP where files have no lasting identity (procfs, pipes, ...), unless the handle is only
// to be compared with others.
Result<FileHandle> make_file_handle(const Path& path, bool only_identity);
// The same in parts: whether the file system's files have handles, how an inode's reads, and that
// it shall be found by this name from now on.
bool has_file_handles(const Superblock& superblock);
FileHandle encode_file_handle(const Inode& inode);
Result<void> remember_file_handle(Dentry& dentry);
// "fhandle-bytes:8 fhandle-type:1 f_handle:..." with its newline, as in fdinfo.
Result<void> describe_file_handle(const FileHandle& handle, String& out);
// ESTALE. Requires: the caller may search anywhere (CAP_DAC_READ_SEARCH).
Result<Path> find_file_handle(const Path& where, const FileHandle& handle);
void forget_file_handle(Dentry& dentry); // it dies

} // namespace kernel
