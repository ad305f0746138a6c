// Dentry: a name in a directory, cached; and the cache. A dentry without an inode is negative: the
// name is known not to exist.
//
// The cache owns one reference to each hashed dentry; a child holds its parent. A dentry's inode
// never changes, except that one which nobody outside of the cache holds may turn negative. Name
// and parent change only by a rename, with both directories' Inode::mutex() and tree_lock() held:
// so either of the two makes them stable.
#pragma once

#include <string_view>

#include "base/atomic.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/fs/inode.hpp"

namespace kernel {

class Dentry : public RefCounted {
public:
    static constexpr usize inline_capacity = 40;
    static constexpr usize name_limit = 255;

    // The root of a tree: no parent, an empty name, never hashed.
    static Result<Ref<Dentry>> make_root(Superblock& superblock, Ref<Inode> inode);
    ~Dentry() override;

    Inode* inode() const { return inode_.get(); }
    bool is_negative() const { return !inode_; }
    Superblock& superblock() const { return *superblock_; }
    // Requires: stable, as above.
    std::string_view name() const { return {name_, name_length_}; }
    Dentry* parent() const { return parent_.get(); } // null for roots
    // The same at any time.
    Ref<Dentry> parent_ref() const;
    Result<String> copy_name() const;
    bool is_root() const { return !parent_; }
    // Its object was unlinked, or the directory removed, under this name.
    bool deleted() const { return deleted_; }

    // Mounts that sit on it, in any place of the mount tree; changed by fs/mount.cpp with
    // tree_lock() held.
    base::Atomic<u32> mounts{0};
    struct HandleEntry* volatile handle = nullptr; // fs/file_handle.cpp

private:
    friend class DentryCache;
    template <typename T, typename... A>
    friend Result<Ref<T>> make_ref(A&&...);
    Dentry(Superblock& superblock, Ref<Inode> inode)
        : superblock_(Ref<Superblock>::share(&superblock)), inode_(std::move(inode)) {}
    void last_reference() override;

    Ref<Dentry> parent_;
    // Who keeps a place without its mount (a watch) keeps the file system as well: an inode that
    // goes after its file system would be given back to nobody. So this goes after the inode.
    Ref<Superblock> superblock_;
    Ref<Inode> inode_;
    Dentry* hash_next_ = nullptr;
    u64 hash_ = 0;
    u64 cached_at_ns_ = 0;
    char* name_ = inline_name_;
    u16 name_length_ = 0;
    bool hashed_ = false;
    volatile bool deleted_ = false;
    volatile bool referenced_ = false; // since the eviction clock last passed
    char inline_name_[inline_capacity];
};

// Guards names and parents of all dentries and the mount tree. Rank MountTable; held for short
// looks only.
SpinLock& tree_lock();
// Counts what changes the way up from a place: a dentry has another parent, a mount another place.
// Made with tree_lock() held.
u64 way_changes();
void note_way_change();

class DentryCache {
public:
    // From the cache alone, negative ones too; null when it is not there or may no longer be used.
    static Ref<Dentry> find(Dentry& parent, std::string_view name);
    // From the cache, else by Inode::lookup(); the answer may be negative. Takes the directory's
    // mutex when it has to ask. Requires: `parent` is a directory. ENAMETOOLONG.
    static Result<Ref<Dentry>> lookup(Dentry& parent, std::string_view name);
    // The same with the directory's mutex held exclusively by the caller.
    static Result<Ref<Dentry>> lookup_locked(Dentry& parent, std::string_view name);
    // A new object appeared: caches it. Requires: the directory's mutex held.
    static Result<Ref<Dentry>> insert(Dentry& parent, std::string_view name, Ref<Inode> inode);
    // The object behind it is gone: negative or dropped. Requires: the directory's mutex held.
    static void remove(Dentry& dentry);
    // Moves to another name; what was cached there is dropped as deleted. Requires: rename's locks.
    // Cannot fail: `storage` comes from prepare_name().
    static void move(Dentry& dentry, Dentry& new_parent, std::string_view new_name, char* storage);
    static void exchange(Dentry& a, Dentry& b);
    // Room for a long name (null when it fits inline).
    static Result<char*> prepare_name(std::string_view name);
    // An object without a name in the tree (O_TMPFILE, O_PATH of anonymous files): a dentry that is
    // not cached.
    static Result<Ref<Dentry>> make_unhashed(Dentry& parent, std::string_view name,
                                             Ref<Inode> inode, bool deleted);

    // Whether it has an object, and keeps it while the caller's reference lasts.
    static bool pin(Dentry& dentry);

    // Forgets one name, so that it is asked for again (something changed it behind us).
    static void forget(Dentry& parent, std::string_view name);
    // Forgets all names of a file system that nobody uses; of one that goes away: all.
    static void forget_superblock(Superblock& superblock);
    // Drops up to `count` unused dentries, for reclaim; returns how many. May sleep (inodes go with
    // them).
    static usize shrink(usize count);
    static usize count();

private:
    struct Shard;
    static Shard& shard_of(u64 hash);
    static Ref<Dentry> find_raw(Dentry& parent, std::string_view name, u64 hash);
    static Result<Ref<Dentry>> ask(Dentry& parent, std::string_view name, u64 hash);
    static Result<Ref<Dentry>> make(Dentry& parent, std::string_view name, Ref<Inode> inode);
    static Ref<Dentry> publish(Ref<Dentry> fresh, u64 hash);
    static void unhash(Dentry& dentry, bool deleted);
    static void rehash(Dentry& dentry);
    static void trim();
    static usize evict_from(Shard& shard, usize count);
    static usize collect(Shard& shard, Superblock& superblock, bool all);
    static bool usable(Dentry& parent, std::string_view name, Dentry& dentry);
};

// For File::read_directory(): emits "." (offset 0) and ".." (offset 1) if `offset` is not past
// them, and advances it. Further entries then start at offset 2. False when the sink is full.
bool add_dot_entries(File& directory, DirectorySink& sink, u64& offset);

} // namespace kernel
