// Landlock: what a task may do in parts of the tree, given up by the task itself. landlock(7), ABI
// version 2. A task without a domain pays one comparison.
#pragma once

#include <span>

#include "base/intrusive_list.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/path.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

class Task;

// LANDLOCK_ACCESS_FS_*
enum LandlockAccess : u64 {
    landlock_execute = 1u << 0,
    landlock_write_file = 1u << 1,
    landlock_read_file = 1u << 2,
    landlock_read_dir = 1u << 3,
    landlock_remove_dir = 1u << 4,
    landlock_remove_file = 1u << 5,
    landlock_make_char = 1u << 6,
    landlock_make_dir = 1u << 7,
    landlock_make_reg = 1u << 8,
    landlock_make_sock = 1u << 9,
    landlock_make_fifo = 1u << 10,
    landlock_make_block = 1u << 11,
    landlock_make_sym = 1u << 12,
    landlock_refer = 1u << 13,
    landlock_all = (1u << 14) - 1,
    landlock_of_files = landlock_execute | landlock_write_file | landlock_read_file,
};

// What a rule is about. It holds no mount, so that rulesets keep none busy, and lets go of the
// object when the file system has lost its last mount: there is nothing then to be found below it.
class LandlockObject : public RefCounted {
public:
    explicit LandlockObject(Dentry& place);
    ~LandlockObject() override;
    bool is(const Inode* inode) const { return inode_.load(base::Order::Relaxed) == inode; }

private:
    friend void landlock_forget(const Superblock& superblock);
    base::ListNode node_;
    // Keeps the inode the one that lookups find, and its file system. Under the list's lock.
    Ref<Dentry> place_;
    base::Atomic<const Inode*> inode_;

public:
    using List = base::IntrusiveList<LandlockObject, &LandlockObject::node_>;
};

struct LandlockRule {
    Ref<LandlockObject> object;
    const Inode* inode = nullptr; // the object's, or what was that: rules are sorted by it
    u64 allowed = 0;
};
// Where in sorted rules those about an inode begin. What follows with the same address and is about
// nothing any more was made when another inode was there.
usize landlock_find(std::span<const LandlockRule> rules, const Inode* inode);
struct LandlockLayer : RefCounted {
    u64 handled = 0;
    Vector<LandlockRule> rules; // sorted
};
struct LandlockDomain : RefCounted {
    static constexpr usize most_layers = 16;
    Vector<Ref<LandlockLayer>> layers;
};

// A file system has lost its last mount.
void landlock_forget(const Superblock& superblock);

// --- for the VFS: EACCES. Called with or without directories' mutexes held.
Result<void> landlock_check_slow(const Path& path, u64 access);
// What mknod(2) and its like need, by the mode's type; what a removal needs.
u64 landlock_make(u32 mode);
u64 landlock_remove(const Inode& inode);
// A name moves or is linked from one directory to another: EACCES, EXDEV. `exchanged`: what goes
// the other way, or null; `replaced`: what is there and goes.
Result<void> landlock_check_move(const Path& from, const Path& to, const Inode& moved,
                                 const Inode* replaced, const Inode* exchanged, bool keeps_old);
// Whether the running task may look into the other: EPERM of ptrace(2) unless that one is as
// restricted.
bool landlock_may_access(Task& target);
// The same of any two tasks. Requires: the tree lock.
bool landlock_may_access_locked(const Task& who, const Task& target);
bool landlock_restricted(); // mount(2) and its like are refused: EPERM

inline Result<void> landlock_check(const Path& path, u64 access) {
    if (!landlock_restricted()) [[likely]]
        return {};
    return landlock_check_slow(path, access);
}

} // namespace kernel
