// Who listens to one inode: inotify(7), F_NOTIFY of fcntl(2), fanotify(7).
#pragma once

#include "guestkernel/ipc/dnotify.hpp"
#include "guestkernel/ipc/fanotify_mark.hpp"
#include "guestkernel/ipc/inotify.hpp"

namespace kernel {

// Once made it stays until the inode ends, so that the hooks may look at the pointer without a
// lock. Each list is under the mutex of its kind.
struct InodeWatches {
    base::IntrusiveList<InotifyWatch, &InotifyWatch::inode_node> inotify;
    base::IntrusiveList<DirectoryNotice, &DirectoryNotice::inode_node> notices;
    base::IntrusiveList<FanotifyMark, &FanotifyMark::target_node> marks;
};

// The inode's, made when it is first needed. ENOMEM.
Result<InodeWatches*> watches_of(Inode& inode);

// The inode ends: each kind tells of it and drops what is listed.
void end_inotify_watches(InodeWatches& watches);
void end_fanotify_marks(InodeWatches& watches);
void end_directory_notices(InodeWatches& watches);

// The file system is mounted nowhere any more: so do those of all its inodes. F_NOTIFY needs an
// open file, which keeps the mount.
void end_inotify_watches_of(const Superblock& superblock);
void end_fanotify_marks_of(const Superblock& superblock);

// Whether the inode has no link left: then it shall go when its last file closes, and what a watch
// holds of it must go before.
bool is_unlinked(Inode& inode);

} // namespace kernel
