// The trees of mounts, one for each mount namespace, and what mount(2) and its like do to them.
//
// Locks: every change is made with one sleeping mutex held, which comes outside of all others of
// the VFS, and with tree_lock() for the moment in which links change.
#pragma once

#include "guestkernel/fs/mount.hpp"
#include "guestkernel/namespaces/namespace.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

class FsContext;
struct Credentials;

class MountNamespace : public Namespace {
public:
    MountNamespace(Ref<UserNamespace> owner, bool counted, bool anonymous);
    ~MountNamespace() override; // takes its tree apart; may sleep
    // What stands at the top, with everything that is mounted on it.
    Path root() const;
    // Of a tree that is not in the file system yet (open_tree(2), fsmount(2)).
    bool anonymous() const { return anonymous_; }
    usize mount_count() const { return mount_count_; }
    void note_change() {
        changes_.fetch_add(1);
        change_events_.wake_all();
    }
    u64 changes() const { return changes_.load(base::Order::Relaxed); }
    WaitQueue& change_events() { return change_events_; }

    // A copy of the tree; `place`, if any, moves over from the original's mounts to the copy's.
    static Result<Ref<MountNamespace>> copy(MountNamespace& from, Ref<UserNamespace> owner,
                                            FsContext* place);

private:
    friend class MountTree;
    const bool anonymous_;
    Ref<Mount> top_;                                         // under tree_lock()
    base::IntrusiveList<Mount, &Mount::space_node_> mounts_; // by age; tree_lock()
    usize mount_count_ = 0;
    usize awaited_ = 0; // mounts that the change in progress brings; under the mutex
    base::Atomic<u64> changes_{1};
    WaitQueue change_events_;
};

// The caller's (the initial one for kernel tasks and in tests); null before there is any.
MountNamespace* current_mount_namespace();
// Whether a place is the top of its namespace as all see it: no chroot.
bool at_namespace_root(const Path& path);

class MountTree {
public:
    static constexpr usize mount_limit = 16384; // of one namespace (fs.mount-max)

    // The mount on top of `path`, or null.
    static Ref<Mount> mounted_at(const Mount& mount, const Dentry& dentry);
    // Crosses into whatever is mounted on the place, all the way up. Returns whether it did.
    static bool cross_down(Ref<Mount>& mount, Ref<Dentry>& dentry);
    // From a mount's root to the place it covers; false at the top of the tree.
    static bool cross_up(Ref<Mount>& mount, Ref<Dentry>& dentry);

    // Whether something is mounted on it in the caller's namespace: then its name stays as it is.
    // What others have mounted there is no reason, or each could keep all others from theirs.
    static bool mounted_here(const Dentry& dentry);
    // Unmounts what is mounted, in any namespace, on an object that lost its name. Takes the mutex.
    static void drop_from(const Dentry& dentry);

    static Result<void> attach(const Path& where, Ref<Mount> mount);
    static Result<void> bind(const Path& from, const Path& where, bool recursive);
    static Result<void> move(const Path& from, const Path& where);
    // `set` and `clear` are MS_* bits of Mount::flags(). EPERM: a flag is locked; EBUSY: writers.
    static Result<void> change_flags(const Path& where, u32 set, u32 clear, bool recursive);
    static Result<void> remount(const Path& where, u32 flags, bool bind_only);
    // fspick(2): MS_* of the file system that is mounted there; the mount keeps its own. EBUSY.
    static Result<void> reconfigure(const Path& where, u32 flags);
    // MS_SHARED, MS_PRIVATE, MS_SLAVE or MS_UNBINDABLE.
    static Result<void> change_propagation(const Path& where, u32 type, bool recursive);
    static Result<void> unmount(const Path& where, bool detach, bool expire);
    // `root` is the caller's; afterwards `new_root` stands where it stood.
    static Result<void> pivot_root(const Path& root, const Path& new_root, const Path& put_old);
    // All mounts of the caller's namespace or of another one, parents before children, for
    // /proc/PID/mountinfo. Use attached_at() and path_name_from().
    static Result<void> list(Vector<Ref<Mount>>& out);
    static Result<void> list(MountNamespace& space, Vector<Ref<Mount>>& out);
    // The root of the initial tree (with what is mounted on it); what kernel tasks use as theirs.
    static Path root();

    // open_tree(OPEN_TREE_CLONE): a copy in an anonymous namespace. The path is its top.
    static Result<Ref<MountNamespace>> clone_tree(const Path& from, bool recursive);
    // fsmount(2): a namespace of a new mount alone.
    static Result<Ref<MountNamespace>> alone(Ref<Mount> mount);
    // move_mount(2): from the tree or from an anonymous namespace.
    static Result<void> move_from(const Path& from, const Path& where);
    // Whether a mount is one of the caller's namespace or of an anonymous one.
    static bool in_reach(const Mount& mount);
    // MOVE_MOUNT_SET_GROUP: the second mount takes part in what the first one hears and tells.
    // EPERM: CAP_SYS_ADMIN is needed over both of their namespaces.
    static Result<void> share_group(const Path& from, const Path& with);
    // `locked`: of the flags, what may not be cleared; MS_NOATIME stands for all of the times.
    static Result<Ref<Mount>> make(Ref<Superblock> superblock, Ref<Dentry> root, u32 flags,
                                   std::string_view source, u32 locked = 0);
    // Whether a full view of such a file system is there already (proc and sysfs in user
    // namespaces), no more restricted than `flags`: mount_namespaces(7), "Restrictions". `locked`
    // is then what a new one must keep of them.
    static bool fully_visible(MountNamespace& space, std::string_view type, u32 flags, u32& locked);
    // MNT_EXPIRE's mark goes when the mount is used.
    static void note_use(Mount& mount) {
        if (mount.expiry_mark_.load(base::Order::Relaxed))
            mount.expiry_mark_.store(false, base::Order::Relaxed);
    }

private:
    friend class Mount;
    friend class MountNamespace;
    friend Result<Path> mount_root(Ref<Superblock>, u32, std::string_view);
    friend Result<Path> detached_mount(Ref<Superblock>, u32, std::string_view);
    friend Result<void> mount_at(const Path&, Ref<Superblock>, u32, std::string_view, u32);

    enum class Copy : u8 { Same, Private, Slave, SharedSlave, SharedToSlave };
    struct Received {
        Ref<Mount> mount; // where it goes, at the same place
        Ref<Mount> tree;
    };
    using Doomed = base::IntrusiveList<Mount, &Mount::space_node_>;

    // mount.cpp: links. Require tree_lock() and the mutex.
    static Mount* find(const Mount& mount, const Dentry& dentry);
    static Mount* find_on(const Dentry& dentry); // takes the lock itself
    static void link(Mount& mount, Mount& parent, Dentry& place);
    static void unlink(Mount& mount, Ref<Mount>& parent, Ref<Dentry>& place);
    static void unhash(Mount& mount, const Mount& parent);
    static void keep_covering(Mount& mount, Ref<Mount>& parent);
    static void put(Mount& tree, Mount& parent, Dentry& place);
    static void adopt(Mount& tree, MountNamespace& space);
    static void leave_space(Mount& mount);
    static void become_top(const Ref<Mount>& mount, MountNamespace& space);
    static void uncover(Mount& dying); // takes the lock itself
    // mount_tree.cpp. Require the mutex.
    static Mount* next(Mount& mount, const Mount& top); // pre-order
    static usize size_of(Mount& tree);
    static bool is_below(const Mount& mount, const Mount& ancestor);
    static Result<Ref<Mount>> clone(const Mount& mount, Dentry& root, Copy kind);
    static Result<Ref<Mount>> copy_tree(Mount& top, Dentry& root, Copy kind, bool unbindable_too);
    static void dissolve(Mount& tree); // never in sight of others: no propagation
    static Result<void> attach_tree(Mount& tree, const Path& where);
    static Result<void> propagate_tree(Mount& tree, Mount& parent, Dentry& place,
                                       Vector<Received>& received);
    static Result<void> await(Mount& parent, usize mounts);
    static Result<void> check_bind_source(const Path& from, bool recursive);
    static void lock_tree(Mount& top);
    static bool has_locked_children(const Mount& mount, const Dentry& below);
    static void remove(Doomed& doomed);
    static Result<void> apply_flags(Mount& mount, u32 set, u32 clear, bool commit);
    static Result<void> apply_superblock_flags(Mount& mount, u32 flags, bool commit); // mount.cpp
    // mount_propagation.cpp. Require the mutex.
    static void join_groups(Mount& mount);
    static void leave_groups(Mount& mount);
    static void set_propagation(Mount& mount, u32 type);
    static Result<void> propagate(Mount& parent, Dentry& place, Mount& tree, Vector<Received>& out);
    static Result<void> collect_receivers(const Mount& parent, Vector<Mount*>& out);
    static Result<void> collect_unmounts(Mount& top, Vector<Mount*>& out);
    static u32 new_group();
    using Grouped = base::IntrusiveList<Mount, &Mount::group_node_>;
    static Grouped& grouped(); // all mounts of any namespace that have a group or a master
};

Mutex& mount_mutex();
// Whether a dentry is the other one or below it.
bool is_descendant(const Dentry& dentry, const Dentry& ancestor);

} // namespace kernel
