// F_NOTIFY of fcntl(2): a signal to a file's owner when its directory changes.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/ipc/file_owner.hpp"

namespace kernel {

// A notice that one file table asked for by one open directory; under dnotify's mutex.
struct DirectoryNotice {
    const File* file = nullptr; // the notice goes with the descriptor, at the latest with the file
    const void* table = nullptr;
    Ref<FileOwner> owner;
    u32 mask = 0;         // IN_* of what is told
    bool repeats = false; // DN_MULTISHOT
    int fd = -1;
    base::ListNode inode_node;
};

// DN_* added to what is told already; 0: no more. ENOTDIR, EBADF.
Result<void> watch_directory(Task& task, int fd, Ref<File> file, u32 mask);

} // namespace kernel
