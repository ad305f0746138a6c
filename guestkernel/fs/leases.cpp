#include "guestkernel/fs/leases.hpp"

#include <linux/capability.h>
#include <linux/errno.h>

#include "guestkernel/fs/permission.hpp"
#include "guestkernel/ipc/file_owner.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

constinit base::Atomic<u32> leases_enabled{1};
constinit base::Atomic<u32> lease_break_seconds{45};

namespace {

struct Lease {
    base::ListNode node; // of the inode
    base::ListNode all_node;
    const File* file = nullptr; // leaves the list before it dies
    Inode* inode = nullptr;
    Ref<FileOwner> owner;
    LockType type = LockType::None;
    bool to_unlock = false, to_downgrade = false; // it is being broken
    u64 unlock_at = no_deadline, downgrade_at = no_deadline;
    int fd = -1;
    i32 pid = 0;
};

constinit Mutex leases_mutex;
constinit base::IntrusiveList<Lease, &Lease::all_node> all_leases;

} // namespace

// Of one inode, under the mutex.
struct LeaseState {
    base::IntrusiveList<Lease, &Lease::node> list;
    WaitQueue waiters;
    base::Atomic<u32> generation{0}; // changes whenever a lease goes away or gets weaker
};

namespace {

void changed(LeaseState& state) {
    state.generation.fetch_add(1);
    state.waiters.wake_all();
}

LockType target(const Lease& lease) {
    return lease.to_unlock ? LockType::None : lease.to_downgrade ? LockType::Shared : lease.type;
}

// Requires: the mutex. The lease is the caller's to delete.
void end_lease(LeaseState& state, Lease& lease) {
    lease.node.unlink();
    lease.all_node.unlink();
    lease.owner->forget();
    changed(state);
}

void weaken(LeaseState& state, Lease& lease) {
    lease.type = LockType::Shared;
    lease.to_downgrade = false;
    lease.downgrade_at = no_deadline;
    changed(state);
}

void expire(LeaseState& state) {
    const u64 now = monotonic_ns();
    for (Lease* lease = state.list.front(); lease != nullptr;) {
        Lease* following = state.list.next(*lease);
        if (lease->unlock_at <= now) {
            end_lease(state, *lease);
            delete lease;
        } else if (lease->downgrade_at <= now) {
            weaken(state, *lease);
        }
        lease = following;
    }
}

// Whether others have the file open in a way that excludes the lease.
bool opened_otherwise(File& file, LockType type) {
    const Inode& inode = *file.inode();
    const i32 writers = inode.write_count.load();
    if (type == LockType::Shared)
        return writers > 0;
    const i32 own_writer = file.claim == File::Claim::Write ? 1 : 0;
    const i32 own_reader = file.claim == File::Claim::Read ? 1 : 0;
    return (writers > 0 ? writers : 0) != own_writer || inode.read_count.load() != own_reader;
}

Result<void> check_lease(File& file) {
    Inode* inode = file.inode();
    if (inode == nullptr || !inode->is_regular())
        return fail(EINVAL);
    if (current_fsuid() != inode->uid_ && !has_capability(current_credentials(), CAP_LEASE))
        return fail(EACCES);
    if (leases_enabled.load() == 0)
        return fail(EINVAL);
    // What has no count of its users cannot be leased (a file system that opens others' files).
    if (file.claim != File::Claim::Read && file.claim != File::Claim::Write)
        return fail(EINVAL);
    return {};
}

Result<void> end_own(File& file) {
    Owned<Lease> gone;
    MutexGuard guard(leases_mutex);
    LeaseState* state = file.inode() == nullptr ? nullptr : file.inode()->leases;
    if (state != nullptr)
        for (Lease& lease : state->list)
            if (lease.file == &file) {
                end_lease(*state, lease);
                gone = Owned<Lease>(&lease);
                break;
            }
    guard.unlock();
    return gone ? Result<void>() : Result<void>(fail(EAGAIN));
}

Result<LeaseState*> state_of(Inode& inode) {
    if (inode.leases == nullptr) {
        auto* fresh = new (std::nothrow) LeaseState;
        if (fresh == nullptr)
            return fail(ENOMEM);
        inode.leases = fresh;
    }
    return inode.leases;
}

} // namespace

Result<void> set_lease(File& file, int fd, LockType type) {
    if (type == LockType::None)
        return end_own(file);
    TRY(check_lease(file));
    TRY(Owned<Lease> fresh, make_owned<Lease>());
    TRY(FileOwner * owner, FileOwner::of(file));
    TRY(owner->set_if_none());
    MutexGuard guard(leases_mutex);
    if (opened_otherwise(file, type))
        return fail(EAGAIN);
    TRY(LeaseState * state, state_of(*file.inode()));
    expire(*state);
    Lease* own = nullptr;
    for (Lease& lease : state->list) {
        if (lease.file == &file)
            own = &lease;
        else if (type == LockType::Exclusive || lease.to_unlock)
            return fail(EAGAIN); // none beside an exclusive one, and none more while a writer waits
    }
    if (own != nullptr) {
        own->type = type;
        own->to_unlock = own->to_downgrade = false;
        own->unlock_at = own->downgrade_at = no_deadline;
        own->fd = fd;
        changed(*state);
        return {};
    }
    fresh->file = &file;
    fresh->inode = file.inode();
    fresh->owner = Ref<FileOwner>::share(owner);
    fresh->type = type;
    fresh->fd = fd;
    fresh->pid = current_pid();
    state->list.push_back(*fresh);
    all_leases.push_back(*fresh);
    if (opened_otherwise(file, type)) { // somebody came between
        fresh->node.unlink();
        fresh->all_node.unlink();
        return fail(EAGAIN);
    }
    (void)fresh.leak();
    return {};
}

LockType lease_type(File& file) {
    MutexGuard guard(leases_mutex);
    LeaseState* state = file.inode() == nullptr ? nullptr : file.inode()->leases;
    if (state == nullptr)
        return LockType::None;
    expire(*state);
    for (const Lease& lease : state->list)
        if (lease.file == &file)
            return target(lease);
    return LockType::None;
}

void release_leases(File& file) {
    (void)end_own(file);
}

void free_lease_state(LeaseState* state) {
    delete state; // its leases went with their files
}

Result<void> break_leases_slow(Inode& inode, bool write, bool wait) {
    for (;;) {
        MutexGuard guard(leases_mutex);
        LeaseState& state = *inode.leases;
        expire(state);
        const u32 seconds = lease_break_seconds.load();
        const u64 until =
            seconds == 0 ? no_deadline : monotonic_ns() + seconds * nanoseconds_per_second;
        u64 deadline = no_deadline;
        bool blocked = false;
        for (Lease& lease : state.list) {
            if (!write && lease.type != LockType::Exclusive)
                continue;
            blocked = true;
            const bool tell = write ? !lease.to_unlock : !lease.to_unlock && !lease.to_downgrade;
            if (tell && write) {
                lease.to_unlock = true;
                lease.unlock_at = until;
            } else if (tell) {
                lease.to_downgrade = true;
                lease.downgrade_at = until;
            }
            if (tell)
                lease.owner->tell_message(lease.fd);
            for (const u64 end : {lease.unlock_at, lease.downgrade_at})
                deadline = end < deadline ? end : deadline;
        }
        if (!blocked)
            return {};
        if (!wait)
            return fail(EWOULDBLOCK);
        const u32 seen = state.generation.load();
        guard.unlock();
        if (wait_until(
                state.waiters, [&] { return state.generation.load() != seen; }, deadline) ==
            WaitOutcome::Interrupted)
            return fail(EINTR);
    }
}

void each_lease(void (*tell)(const LeaseView& lease, void* context), void* context) {
    MutexGuard guard(leases_mutex);
    for (const Lease& lease : all_leases)
        tell(
            {lease.file, lease.type, lease.to_unlock || lease.to_downgrade, lease.pid, lease.inode},
            context);
}

} // namespace kernel
