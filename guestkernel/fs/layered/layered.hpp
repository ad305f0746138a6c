// What mount -t overlay makes: directories of other file systems, one over the other, of which the
// topmost may be written (upperdir). The layers' format is that of Linux's overlayfs: whiteouts
// are character devices 0:0, opaque directories and the rest are extended attributes.
//
// A LayeredInode knows its place in the layers: `upper`, once it has one, and what it covers. What
// has no upper object yet gets one (copy-up) before its first change: built in the work directory,
// then moved into place with one rename. Nodes that were copied up stay in the superblock's table,
// so that inode numbers do not change while the file system is mounted.
//
// Lock order: the VFS's Inode::mutex() of the overlay's nodes; copy_mutex_ of one node, held as
// well while that loses a name; then everything of the layers' own file systems. Spin locks: the
// superblock's table lock.
#pragma once

#include "guestkernel/fs/acl.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/task/credentials.hpp"

namespace kernel {

class LayeredInode;

class LayeredSuperblock final : public Superblock {
public:
    struct Layers {
        Vector<Path> lower; // topmost first
        Path upper, work;   // null: read-only
        bool user_xattrs = false;
        String options; // as /proc/mounts shows them
    };
    static Result<Ref<LayeredSuperblock>> create(Layers layers);
    ~LayeredSuperblock() override;

    Ref<Inode> root() override;
    Result<FileSystemStats> stats() override;
    Result<void> sync() override;
    const char* type() const override { return "overlay"; }
    bool can_drop_dentries() const override { return true; }
    Result<void> describe_options(String& out) override { return out.append(options_.view()); }

    bool writable() const { return static_cast<bool>(layers_.upper); }
    // "trusted.overlay." or "user.overlay."
    std::string_view prefix() const;
    // A mark of ours on an object of a layer, or null data.
    Result<String> mark(Inode& object, std::string_view name) const;
    Result<void> set_mark(Inode& object, std::string_view name, std::string_view value) const;
    bool is_whiteout(Inode& object) const;
    bool is_opaque(Inode& directory) const;
    // It may have whiteouts of the other form.
    bool has_marked_whiteouts(Inode& directory) const;

    // The node for these objects: the one that is there, or a new one.
    Result<Ref<LayeredInode>> wrap(Ref<Dentry> upper, Vector<Ref<Dentry>> lowers,
                                   LayeredInode* parent, std::string_view name);
    // Whether who mounted it may put a name into this directory of the upper layer: whoever uses
    // the overlay, the layers are changed with the mounter's rights.
    Result<void> check_mounter(Inode& directory) const;
    // What the overlay shows as the inode number of an upper object (for listings).
    u64 number_of(const Superblock* layer, u64 number);
    u64 listed_number(const Inode& object);

private:
    friend class LayeredInode;
    template <typename T, typename... A>
    friend Result<Ref<T>> make_ref(A&&...);
    LayeredSuperblock() = default;
    void rekey(LayeredInode& node, Ref<Dentry> upper); // after a copy-up; pins
    void unpin(LayeredInode& node);
    void forget(LayeredInode& node);
    void take_out(LayeredInode& node); // of the table, whose lock is held
    Result<void> prepare_work();
    String next_name();

    static constexpr usize buckets = 512;
    static usize bucket_of(const Inode& object);

    Layers layers_;
    Ref<const Credentials> mounter_; // null: the kernel
    String options_;
    Ref<Dentry> work_; // the directory "work" in the work directory
    Vector<const Superblock*> systems_;
    SpinLock table_lock_{LockRank::SuperBlock};
    LayeredInode* table_[buckets] = {};
    base::Atomic<u64> next_temporary_{1};
    Ref<LayeredInode> root_;
};

class LayeredInode final : public Inode {
public:
    LayeredInode(LayeredSuperblock& fs, u64 number, u32 mode) : Inode(&fs, number, mode), fs_(fs) {}

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
    Result<Ref<const Acl>> get_acl(AclKind kind) override { return real().get_acl(kind); }
    Result<void> set_acl(AclKind kind, Ref<const Acl> acl) override;
    PageCache* page_cache() override { return real().page_cache(); }
    u64 file_size() override { return real().file_size(); }
    Result<void> extend(u64 size) override { return real().extend(size); }
    void note_modified() override { real().note_modified(); }
    void note_accessed(bool strict) override { real().note_accessed(strict); }
    // Whoever may mount an overlay over a file must not change by it what he may not change there.
    u32 flags_in_force() const override { return real().flags_in_force(); }

    Dentry* upper() const { return upper_pointer_.load(base::Order::Acquire); }
    // The object that shows: the upper one, else the topmost below.
    Inode& real() const;
    // Ensures: upper() is set. `with_data`: false leaves contents out (they will be cut off).
    Result<void> copy_up(bool with_data = true);
    // Attributes that permission checks look at, from the object that shows.
    void take_attributes(const Attributes& from, const Inode& object);

    struct Name {
        u32 at;
        u16 length;
        u8 type;
        u64 inode;
    };
    // Every name that shows, each once.
    Result<void> list(Vector<Name>& entries, Vector<char>& names) const;
    LayeredSuperblock& fs() const { return fs_; }

private:
    friend class LayeredSuperblock;
    void last_reference() override;
    bool merged() const { return upper() != nullptr ? !lowers_.empty() : lowers_.size() > 1; }
    // Whether a layer below shows the name in this directory.
    Result<bool> covers(std::string_view name) const;
    Result<void> copy_up_here(bool with_data);
    Result<Ref<Dentry>> make_copy(Inode& from, std::string_view temporary, bool with_data);
    Result<void> fill_copy(Inode& from, Dentry& copy, bool with_data);
    template <typename Make>
    Result<Ref<Inode>> add(std::string_view name, bool directory, Make&& make);
    Result<String> make_whiteout();
    Result<void> place_whiteout(const String& made, std::string_view name, LayeredInode* hidden);
    Result<void> clear_whiteouts();
    Result<bool> is_empty() const;
    Result<void> remove_name(std::string_view name, LayeredInode& child);
    void lost_name();
    Result<void> check_replaceable() const;
    Result<void> move_upper(std::string_view old_name, LayeredInode& child, LayeredInode& target,
                            std::string_view new_name, LayeredInode* other);

    LayeredSuperblock& fs_;
    Ref<Dentry> upper_; // set once
    base::Atomic<Dentry*> upper_pointer_{nullptr};
    Vector<Ref<Dentry>> lowers_; // topmost first; several only for directories
    Ref<LayeredInode> parent_;   // where it was found: of use as long as there is no upper object
    String name_;
    bool unlinked_ = false; // without a name while it had no upper object; under copy_mutex_
    Mutex copy_mutex_;
    LayeredInode* table_next_ = nullptr; // under table_lock_, as the next two
    bool in_table_ = false, pinned_ = false;
};

// An open file: all is done by one of the layer's own.
class LayeredFile final : public RegularFile {
public:
    static constexpr char file_type[] = "layered";
    LayeredFile(Path path, Ref<Inode> inode, u32 flags, Ref<File> real)
        : RegularFile(std::move(path), std::move(inode), flags), real_(std::move(real)) {}
    const char* type_name() const override { return file_type; }
    Result<usize> read(IoBuffer& out, u64 offset) override;
    Result<usize> write(IoBuffer& in, u64 offset) override;
    Result<u64> seek(i64 offset, int whence) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    Result<void> flush() override { return real_->flush(); }
    Result<void> sync(bool data_only) override;
    Result<void> allocate(int mode, u64 offset, u64 length) override;
    Result<Ref<PageCache>> mapping(u32 protection, u32 map_flags) override;
    Result<void> set_status_flags(u32 flags) override;

private:
    LayeredInode& node() const { return static_cast<LayeredInode&>(*inode_); }
    Result<File*> current();
    Ref<File> real_;
    Mutex later_mutex_;
    Ref<File> later_; // set once
    base::Atomic<File*> later_pointer_{nullptr};
};

class LayeredDirectory final : public File {
public:
    using File::File;
    const char* type_name() const override { return "layered-directory"; }
    Result<u64> read_directory(DirectorySink& sink, u64 offset) override;
    Result<u64> seek(i64 offset, int whence) override;
    Result<void> sync(bool data_only) override;

private:
    LayeredInode& node() const { return static_cast<LayeredInode&>(*inode_); }
    Mutex mutex_;
    bool started_ = false;
    Vector<LayeredInode::Name> list_; // what it held when it was rewound
    Vector<char> names_;
};

inline LayeredInode& as_layered(Inode& inode) {
    return static_cast<LayeredInode&>(inode);
}

} // namespace kernel
