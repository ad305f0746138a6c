// File leases (fcntl(2), F_SETLEASE): who holds one is told before another opens the file, and has
// some time to give it up.
//
// An open counts itself on the inode first and looks for leases then; a lease is listed first and
// looks at the counts then: so one of the two sees the other.
#pragma once

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/locks.hpp"

namespace kernel {

struct LeaseState;

// /proc/sys/fs/leases-enable, lease-break-time (seconds; 0: for ever).
extern base::Atomic<u32> leases_enabled, lease_break_seconds;

// F_SETLEASE by the descriptor `fd`. EAGAIN: opened by others in a way that it excludes, or, for
// None, there is none.
Result<void> set_lease(File& file, int fd, LockType type);
// F_GETLEASE: what it is to become, when it is being broken.
LockType lease_type(File& file);
void release_leases(File& file); // the open file description dies
void free_lease_state(LeaseState* state);

Result<void> break_leases_slow(Inode& inode, bool write, bool wait);
// Before a file is opened or truncated. EWOULDBLOCK, EINTR.
inline Result<void> break_leases(Inode& inode, bool write, bool wait) {
    if (inode.leases == nullptr) [[likely]]
        return {};
    return break_leases_slow(inode, write, wait);
}

// For /proc/locks and fdinfo: calls `tell(lease)` for each.
struct LeaseView {
    const File* file;
    LockType type;
    bool breaking;
    i32 pid;
    const Inode* inode;
};
void each_lease(void (*tell)(const LeaseView& lease, void* context), void* context);

} // namespace kernel
