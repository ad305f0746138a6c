// The overlay: read-only directories below, changes in memory above.
//
// Unlike Linux's, the upper layer is not a file system of its own but the overlay's nodes
// themselves: an OverlayInode refers to what it shows below (lower_) and holds what differs:
// attributes, names, contents, extended attributes, each copied on its own first change. A node
// that was never changed is nothing but a reference, made at the lookup and dropped with its
// dentry; a changed one is pinned in the superblock's table, by the lower inode that it covers,
// until its last name is gone. So nothing above it need exist, directories move by moving their
// node, hard links stay hard links, and inode numbers stay what they were.
//
// Lock order: the VFS's Inode::mutex(); copy_mutex_ (sleeping: contents and attributes copied up;
// only reads of the lower file and allocations happen under it); spin locks: the superblock's table
// lock, attributes_lock().
#pragma once

#include "guestkernel/fs/acl.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/overlay/entries.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

class OverlayInode;

class OverlaySuperblock final : public Superblock {
public:
    static Result<Ref<OverlaySuperblock>> create(std::span<const Path> lower, bool writable);
    ~OverlaySuperblock() override;

    Ref<Inode> root() override;
    Result<FileSystemStats> stats() override;
    const char* type() const override { return "overlay"; }
    bool can_drop_dentries() const override { return true; }
    bool parallel_lookup() const override { return true; }
    bool dentry_valid(Inode& parent, std::string_view name, Inode* inode,
                      u64 cached_at_ns) override;

    // The node over these lower inodes (topmost first): the one that is there, or a new one.
    Result<Ref<OverlayInode>> wrap(Vector<Ref<Inode>> lowers);
    u64 next_number() { return next_number_.fetch_add(1, base::Order::Relaxed); }

private:
    friend class OverlayInode;
    template <typename T, typename... A>
    friend Result<Ref<T>> make_ref(A&&...);
    OverlaySuperblock() = default;
    void remove_from_table(OverlayInode& inode);
    // Keeps a changed node alive without its dentry, and lets it go.
    void pin(OverlayInode& inode);
    void unpin(OverlayInode& inode);

    static constexpr usize buckets = 512;
    // New objects get numbers that file systems of the host hardly use.
    static constexpr u64 first_number = u64{1} << 40;
    SpinLock table_lock_{LockRank::SuperBlock};
    OverlayInode* table_[buckets] = {};
    base::Atomic<u64> next_number_{first_number};
    Vector<Path> layers_; // keeps their mounts
    Ref<OverlayInode> root_;
};

struct OverlayXattr {
    String name, value;
};

class OverlayInode final : public Inode {
public:
    OverlayInode(OverlaySuperblock& fs, u64 number, u32 mode);
    ~OverlayInode() override;

    Result<Attributes> attributes() override;
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override;
    Result<Ref<Inode>> lookup(std::string_view name) override;
    Result<Ref<Inode>> create(std::string_view name, u32 mode, u64 device_number, u32 uid,
                              u32 gid) override;
    Result<Ref<Inode>> symlink(std::string_view name, std::string_view target, u32 uid,
                               u32 gid) override;
    Result<void> link(std::string_view name, Inode& target) override;
    Result<void> unlink(std::string_view name, Inode& child) override;
    Result<void> rmdir(std::string_view name, Inode& child) override;
    Result<void> rename(std::string_view old_name, Inode& child, Inode& new_directory,
                        std::string_view new_name, Inode* replaced, u32 flags) override;
    Result<Ref<Inode>> create_unnamed(u32 mode, u32 uid, u32 gid) override;
    Result<String> readlink() override;
    Result<Ref<File>> open(const Path& path, u32 flags) override;
    Result<String> get_xattr(std::string_view name) override;
    Result<void> set_xattr(std::string_view name, std::string_view value, u32 flags) override;
    Result<void> remove_xattr(std::string_view name) override;
    Result<void> list_xattrs(String& out) override;
    Result<void> drop_capabilities() override;
    Result<Ref<const Acl>> get_acl(AclKind kind) override;
    Result<void> set_acl(AclKind kind, Ref<const Acl> acl) override;
    PageCache* page_cache() override;
    u64 file_size() override;
    Result<void> extend(u64 size) override;
    void note_modified() override;

    // Contents of its own, copied up to `limit` bytes if they are still the lower file's.
    Result<void> own_data(u64 limit);
    bool has_own_data() const { return data_pointer_.load(base::Order::Acquire) != nullptr; }
    Inode* lower() const { return lower_.get(); }

private:
    friend class OverlaySuperblock;
    friend class OverlayDirectory;
    friend class OverlayFile;
    void last_reference() override;

    Result<void> adopt_lowers(Vector<Ref<Inode>> lowers);
    Result<void> own_attributes();
    Result<void> own_xattrs();
    void stamp_change(bool contents);
    void change_links(i32 by);
    Result<Ref<OverlayInode>> new_node(u32 mode, u64 device_number, u32 uid, u32 gid);
    Result<Ref<Inode>> add_new(std::string_view name, Ref<OverlayInode> node);
    Result<void> prepare_entry(std::string_view name, OverlayEntry*& fresh);
    void put_entry(OverlayEntry* fresh, Ref<OverlayInode> node, bool covers_lower);
    void drop_entry(std::string_view name, OverlayEntry* fresh);
    Result<void> remove_name(std::string_view name, OverlayInode& child, bool directory);
    Result<bool> is_empty();
    Result<Vector<Ref<Inode>>> lookup_below(std::string_view name);
    usize layer_count() const;
    Inode& layer(usize index) const;
    Result<Ref<PageCache>> copy_contents(u64 limit);

    OverlaySuperblock& fs_;
    Ref<Inode> lower_;               // what it shows below; null for what was created here
    Vector<Ref<Inode>> more_lowers_; // of a directory that several layers have
    OverlayInode* table_next_ = nullptr;
    bool in_table_ = false, pinned_ = false; // under table_lock_

    Mutex copy_mutex_;
    base::Atomic<bool> own_attributes_{false};
    Attributes own_;                // under attributes_lock(), once own_attributes_
    Owned<OverlayEntries> entries_; // directories
    base::Atomic<OverlayEntries*> entries_pointer_{nullptr};
    Ref<PageCache> data_; // regular files
    base::Atomic<PageCache*> data_pointer_{nullptr};
    base::Atomic<u64> size_{0}; // with data_
    String target_;             // symlinks made here
    Mutex xattr_mutex_;
    bool own_xattrs_ = false;
    // Known since the first change of the contents, whatever the layer below may say later.
    base::Atomic<bool> no_capabilities_{false};
    Vector<OverlayXattr> xattrs_;
    Ref<const Acl> access_acl_, default_acl_; // under attributes_lock(); the layers below have none
};

class OverlayFile final : public RegularFile {
public:
    static constexpr char file_type[] = "overlay";
    OverlayFile(Path path, Ref<Inode> inode, u32 flags, Ref<File> lower)
        : RegularFile(std::move(path), std::move(inode), flags), lower_(std::move(lower)) {}
    const char* type_name() const override { return file_type; }
    Result<u64> seek(i64 offset, int whence) override;
    Result<void> sync(bool) override { return {}; }
    Result<void> allocate(int mode, u64 offset, u64 length) override;
    Result<Ref<PageCache>> mapping(u32 protection, u32 map_flags) override;

protected:
    Result<usize> before_write(u64 offset, usize bytes) override;

private:
    OverlayInode& node() const { return static_cast<OverlayInode&>(*inode_); }
    Ref<File> lower_; // open as long as this is: the server may read by handle only
};

class OverlayDirectory final : public File {
public:
    OverlayDirectory(Path path, Ref<Inode> inode, u32 flags)
        : File(std::move(path), std::move(inode), flags) {}
    const char* type_name() const override { return "overlay-directory"; }
    Result<u64> read_directory(DirectorySink& sink, u64 offset) override;
    Result<u64> seek(i64 offset, int whence) override;
    Result<void> sync(bool) override { return {}; }

private:
    OverlayInode& node() const { return static_cast<OverlayInode&>(*inode_); }
    Result<void> start();
    Result<void> build_list();
    Result<u64> emit_list(DirectorySink& sink, u64 offset);

    struct Name {
        u32 at;
        u16 length;
        u8 type;
        u64 inode;
    };
    Mutex mutex_;
    bool started_ = false;
    Ref<File> lower_;   // a directory of one layer and no changes is read through
    Vector<Name> list_; // otherwise: what it held when it was rewound
    Vector<char> names_;
};

} // namespace kernel
