#include "guestkernel/ipc/inode_watches.hpp"

namespace kernel {

Result<InodeWatches*> watches_of(Inode& inode) {
    static constinit Mutex creation;
    MutexGuard guard(creation);
    if (inode.watches == nullptr) {
        TRY(Owned<InodeWatches> fresh, make_owned<InodeWatches>());
        inode.watches = fresh.leak();
    }
    return inode.watches;
}

void free_inode_watches(InodeWatches* watches) {
    end_inotify_watches(*watches);
    end_directory_notices(*watches);
    end_fanotify_marks(*watches);
    delete watches;
}

void forget_unmounted_slow(const Superblock& superblock) {
    end_inotify_watches_of(superblock);
    end_fanotify_marks_of(superblock);
}

bool is_unlinked(Inode& inode) {
    const auto attributes = inode.attributes();
    return !attributes || attributes->links == 0;
}

} // namespace kernel
