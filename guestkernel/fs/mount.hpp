// Mount: a file system attached to a place in the tree.
#pragma once

#include "base/atomic.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/path.hpp"
#include "guestkernel/lib/string.hpp"

namespace kernel {

// Bits of Mount::flags() are MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME, MS_NODIRATIME,
// MS_RELATIME, MS_STRICTATIME, as mount(2) has them.
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

    // Files open for writing on it: a remount to read-only is refused while there are any.
    base::Atomic<i32> writers{0};

private:
    friend class MountTree;
    Ref<Superblock> superblock_;
    Ref<Dentry> root_;
    String source_;
    u32 id_;
    base::Atomic<u32> flags_;
    // Under tree_lock():
    Ref<Mount> parent_;
    Ref<Dentry> place_; // in the parent
    bool attached_ = false;
    Mount* next_ = nullptr;
};

class MountTree {
public:
    // The mount on top of `path`, or null.
    static Ref<Mount> mounted_at(const Mount& mount, const Dentry& dentry);
    // Crosses into whatever is mounted on the place, all the way up. Returns whether it did.
    static bool cross_down(Ref<Mount>& mount, Ref<Dentry>& dentry);
    // From a mount's root to the place it covers; false at the top of the tree.
    static bool cross_up(Ref<Mount>& mount, Ref<Dentry>& dentry);

    static Result<void> attach(const Path& where, Ref<Mount> mount);
    static Result<void> bind(const Path& from, const Path& where, bool recursive);
    static Result<void> move(const Path& from, const Path& where);
    static Result<void> remount(const Path& where, u32 flags, bool bind_only);
    static Result<void> unmount(const Path& where, bool detach, bool expire);
    static Result<void> pivot_root(const Path& new_root, const Path& put_old);
    // All attached mounts, parents before children, for /proc/PID/mountinfo. Use attached_at() and
    // path_name_from().
    static Result<void> list(Vector<Ref<Mount>>& out);
    // The root of the tree (with what is mounted on it); what kernel tasks use as their root.
    static Path root();

private:
    friend Result<Path> mount_root(Ref<Superblock>, u32, std::string_view);
    friend Result<Path> detached_mount(Ref<Superblock>, u32, std::string_view);
    friend Result<void> mount_at(const Path&, Ref<Superblock>, u32, std::string_view);
    static Result<Ref<Mount>> make(Ref<Superblock> superblock, Ref<Dentry> root, u32 flags,
                                   std::string_view source);
    static void link(Mount& mount, Mount* parent, Dentry* place);
    static void unlink(Mount& mount);
    static void detach_all(Mount& top);
    static bool is_below(const Mount& mount, const Mount& ancestor);
    static Result<void> bind_below(const Path& from, Mount& copy);
};

// "rw,nosuid,relatime" and the superblock's own part, as in /proc/mounts.
Result<void> format_mount_options(const Mount& mount, String& out);
Result<void> format_superblock_options(const Mount& mount, String& out);
// Makes a file system by its name in /proc/filesystems. ENODEV: unknown.
Result<Ref<Superblock>> make_filesystem(std::string_view type, std::string_view source,
                                        std::string_view options, u32 flags);
// The names of the types that mount(2) knows; the list ends with a null pointer.
const char* const* filesystem_types();

} // namespace kernel
