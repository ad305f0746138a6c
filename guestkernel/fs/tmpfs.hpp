// tmpfs: files whose only home is memory; also the store behind memfds and shared anonymous
// mappings.
#pragma once

#include "guestkernel/fs/acl.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

class TmpfsSuperblock : public Superblock {
public:
    struct Options {
        u64 max_pages = 0, max_inodes = 0; // 0: without limit
        u32 mode = 01777, uid = 0, gid = 0;
    };
    explicit TmpfsSuperblock(const Options& options, const char* type)
        : options_(options), type_(type) {}
    ~TmpfsSuperblock() override;
    virtual Result<void> make_root();

    Ref<Inode> root() override { return root_; }
    Result<FileSystemStats> stats() override;
    Result<void> reconfigure(std::string_view options) override;
    const char* type() const override { return type_; }
    bool can_drop_dentries() const override { return true; }
    bool parallel_lookup() const override { return true; }
    Result<void> describe_options(String& out) override;

    // How many pages more fit.
    u64 free_pages() const;
    Result<u64> take_inode();
    void give_back_inode() { inodes_.fetch_sub(1, base::Order::Relaxed); }
    // Extended attributes, too, are limited by the number of inodes, each as good as this many
    // bytes of them (Linux's BOGO_INODE_SIZE). ENOSPC.
    static constexpr u64 inode_bytes = 1024;
    Result<void> take_attribute_bytes(u64 bytes);
    void give_back_attribute_bytes(u64 bytes) {
        attribute_bytes_.fetch_sub(bytes, base::Order::Relaxed);
    }
    void account(u64 old_pages, u64 new_pages) {
        pages_.fetch_add(new_pages - old_pages,
                         base::Order::Relaxed); // modulo 2^64: also downwards
    }

protected:
    Options options_; // the limits change by remounting
    Ref<Inode> root_;

private:
    bool within_inodes(u64 inodes, u64 attribute_bytes) const;
    const char* type_;
    base::Atomic<u64> pages_{0};
    base::Atomic<u64> inodes_{0};
    base::Atomic<u64> attribute_bytes_{0};
    base::Atomic<u64> next_number_{1};
};

// What all kinds of its objects share; also the class of device nodes, FIFOs and sockets.
class TmpfsInode : public Inode {
public:
    TmpfsInode(TmpfsSuperblock& home, u64 number, u32 mode, u64 device_number, u32 uid, u32 gid);
    ~TmpfsInode() override;
    Result<Attributes> attributes() override;
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override;
    Result<String> get_xattr(std::string_view name) override;
    Result<void> set_xattr(std::string_view name, std::string_view value, u32 flags) override;
    Result<void> remove_xattr(std::string_view name) override;
    Result<void> list_xattrs(String& out) override;
    Result<Ref<const Acl>> get_acl(AclKind kind) override;
    Result<void> set_acl(AclKind kind, Ref<const Acl> acl) override;
    void note_modified() override;
    void note_accessed(bool strict) override;

    void change_links(i32 by); // and the change time
    u32 links() const { return links_; }
    TmpfsSuperblock& home() const { return static_cast<TmpfsSuperblock&>(*superblock()); }

protected:
    virtual Result<void> resize(u64 /*size*/) { return fail(22); } // EINVAL
    virtual u64 visible_size() const { return 0; }
    virtual u64 visible_pages() { return 0; }

private:
    struct Xattr {
        String name, value;
        u64 charge() const { return sizeof(Xattr) + name.size() + value.size(); }
    };
    Xattr* find_xattr(std::string_view name);

    const u64 device_number_;
    u32 links_ = 1;
    TimeSpec access_time_, modify_time_, change_time_, birth_time_;
    Mutex xattr_mutex_;
    Vector<Xattr> xattrs_;
    Ref<const Acl> access_acl_, default_acl_; // under attributes_lock()
};

class TmpfsFile : public TmpfsInode {
public:
    static Result<Ref<TmpfsFile>> make(TmpfsSuperblock& home, u32 mode, u32 uid, u32 gid);
    using TmpfsInode::TmpfsInode;
    ~TmpfsFile() override;
    Result<Ref<File>> open(const Path& path, u32 flags) override;
    PageCache* page_cache() override { return cache_.get(); }
    bool keeps_flags() const override { return true; }
    u64 file_size() override { return size_.load(base::Order::Relaxed); }
    Result<void> extend(u64 size) override;
    void note_modified() override;

    // Locks: mutex() held.
    // How many of the bytes there is room for, from the first on: ENOSPC, for none.
    Result<u64> room_for(u64 offset, u64 bytes);
    Result<void> allocate(int mode, u64 offset, u64 length);
    u32 seals() const { return seals_; }
    Result<void> add_seals(u32 seals);
    void set_seals(u32 seals) { seals_ = seals; }

protected:
    Result<void> resize(u64 size) override;
    u64 visible_size() const override { return size_.load(base::Order::Relaxed); }
    u64 visible_pages() override;

    Ref<PageCache> cache_;

private:
    void account();

    base::Atomic<u64> size_{0};
    base::Atomic<u64> accounted_pages_{0};
    volatile u32 seals_ = 1; // F_SEAL_SEAL: only memfds may be sealed
};

class TmpfsSymlink : public TmpfsInode {
public:
    TmpfsSymlink(TmpfsSuperblock& home, u64 number, u32 uid, u32 gid, String target);
    Result<String> readlink() override { return target_.clone(); }

protected:
    u64 visible_size() const override { return target_.size(); }

private:
    const String target_;
};

class TmpfsDirectory : public TmpfsInode {
public:
    TmpfsDirectory(TmpfsSuperblock& home, u64 number, u32 mode, u32 uid, u32 gid);
    ~TmpfsDirectory() override;
    bool keeps_flags() const override { return true; }
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
    Result<Ref<File>> open(const Path& path, u32 flags) override;

    // From position `offset` on (2 is the first); positions survive changes of other entries.
    u64 emit(DirectorySink& sink, u64 offset);
    // Hands all children out, for the teardown of the file system.
    Result<void> take_children(Vector<Ref<Inode>>& out);

protected:
    u64 visible_size() const override { return (2 + live_) * 20; } // as Linux's tmpfs counts
    Result<void> add(std::string_view name, Ref<Inode> inode);
    void pass_on_flags(Inode& fresh) const;

private:
    struct Entry {
        u64 cookie;
        Entry* next;
        u64 hash;
        Ref<Inode> inode;
        u16 length;
        char* name() { return reinterpret_cast<char*>(this + 1); }
        std::string_view view() { return {name(), length}; }
    };
    struct Slot {
        u64 cookie;
        Entry* entry; // null: removed
    };
    static Result<Entry*> make_entry(std::string_view name, Ref<Inode> inode);
    static void free_entry(Entry* entry);
    Entry* find(std::string_view name);
    Result<void> reserve_entry();
    void insert(Entry* entry);
    Entry* take_out(std::string_view name);
    Result<void> grow_buckets();
    void compact();
    usize position_of(u64 cookie) const;

    Mutex entries_mutex_; // innermost: overlayfs reads directories without Inode::mutex()
    Vector<Entry*> buckets_;
    Vector<Slot> order_; // by cookie
    usize live_ = 0;
    u64 next_cookie_ = 2; // after "." and ".."
};

// An open tmpfs file.
class TmpfsRegularFile : public RegularFile {
public:
    static constexpr char file_type[] = "tmpfs";
    using RegularFile::RegularFile;
    const char* type_name() const override { return file_type; }
    TmpfsFile& file() const { return static_cast<TmpfsFile&>(*inode()); }
    Result<u64> seek(i64 offset, int whence) override;
    Result<void> allocate(int mode, u64 offset, u64 length) override;
    Result<Ref<PageCache>> mapping(u32 protection, u32 map_flags) override;
    Result<void> sync(bool) override { return {}; }

protected:
    Result<usize> before_write(u64 offset, usize bytes) override;
};

Result<Ref<TmpfsSuperblock>> make_tmpfs_superblock(std::string_view options, const char* type);
// "name=value" or "name". EINVAL, and says what is wrong with it.
Result<void> check_tmpfs_option(std::string_view option, String& complaint);
// Its root belongs to these, unless the options say otherwise.
Result<Ref<Superblock>> make_owned_tmpfs(std::string_view options, u32 uid, u32 gid);

} // namespace kernel
