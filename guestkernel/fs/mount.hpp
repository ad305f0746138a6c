// Mount: a file system attached to a place in the tree. The tree's operations: mount_tree.hpp.
#pragma once

#include "base/atomic.hpp"
#include "base/intrusive_list.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/path.hpp"
#include "guestkernel/lib/string.hpp"

namespace kernel {

class MountNamespace;

// Bits of Mount::flags() are MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME, MS_NODIRATIME,
// MS_RELATIME, MS_STRICTATIME, MS_NOSYMFOLLOW, as mount(2) has them.
class Mount : public RefCounted {
public:
    Mount(Ref<Superblock> superblock, Ref<Dentry> root, u32 flags);
    ~Mount() override;

    Superblock& superblock() const { return *superblock_; }
    const Ref<Superblock>& superblock_ref() const { return superblock_; }
    Dentry& root() const { return *root_; }
    u32 flags() const { return flags_.load(base::Order::Relaxed); }
    u32 id() const { return id_; }
    std::string_view source() const { return source_.view(); }
    bool read_only() const;
    // Where it is attached; an empty path for the topmost mount and for detached ones.
    Path attached_at() const;
    u32 parent_id() const; // its own id at the top
    // Null when it is attached nowhere. Only to be compared, unless it is the caller's own:
    // another one may end at any time that MountTree's mutex is not held.
    MountNamespace* space() const { return space_; }

    // Files open for writing on it: a remount to read-only is refused while there are any.
    base::Atomic<i32> writers{0};

    // mount_namespaces(7). Mounts of one peer group tell each other of changes; those that have it
    // for a master hear of them. 0: none. Under MountTree's mutex, but for /proc.
    u32 peer_group() const { return peer_group_; }
    u32 master_group() const { return master_group_; }
    bool unbindable() const { return unbindable_; }
    // It came from a more privileged mount namespace as part of a whole.
    bool locked() const { return locked_; }

private:
    friend class MountTree;
    friend class MountNamespace;
    Ref<Superblock> superblock_;
    Ref<Dentry> root_;
    String source_;
    u32 id_;
    base::Atomic<u32> flags_;
    // Under tree_lock() and MountTree's mutex: either makes them stable.
    Ref<Mount> parent_;
    Ref<Dentry> place_; // in the parent
    // Instead of the parent: an unmounted one in which it still covers its place, as it is locked.
    // That one's end takes it away; so it is no reference, and counts only with try_add_ref().
    Mount* covers_in_ = nullptr;
    Mount* hash_next_ = nullptr;
    base::ListNode sibling_node_;
    base::IntrusiveList<Mount, &Mount::sibling_node_> children_;
    base::ListNode space_node_;
    MountNamespace* volatile space_ = nullptr;
    // Under MountTree's mutex.
    base::ListNode group_node_;
    volatile u32 peer_group_ = 0, master_group_ = 0;
    volatile bool unbindable_ = false, locked_ = false;
    u32 locked_flags_ = 0; // may not be cleared
    bool chosen_ = false;  // to be unmounted with others
    bool gone_ = false;    // was unmounted: nothing may be hung up in it any more
    base::Atomic<bool> expiry_mark_{false};
};

// "rw,nosuid,relatime" and the superblock's own part, as in /proc/mounts.
Result<void> format_mount_options(const Mount& mount, String& out);
Result<void> format_superblock_options(const Mount& mount, String& out);
// Makes a file system by its name in /proc/filesystems. ENODEV: unknown.
Result<Ref<Superblock>> make_filesystem(std::string_view type, std::string_view source,
                                        std::string_view options, u32 flags);
// "fuse" and, with a subtype, "fuse.sshfs".
inline bool is_fuse(std::string_view type) {
    return type == "fuse" || type.starts_with("fuse.");
}
// The names of the types that mount(2) knows; the list ends with a null pointer.
const char* const* filesystem_types();

} // namespace kernel

#include "guestkernel/fs/mount_tree.hpp"
