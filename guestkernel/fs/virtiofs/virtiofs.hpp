// The FUSE client: a file system whose objects live with a server on the host.
//
// Caching follows the timeouts that the server gives with each name and each set of attributes. One
// VirtiofsInode exists per node id at a time, found by a table of weak references. Names learned
// from READDIRPLUS and missing names are kept in the EntryCache until the VFS asks for them.
//
// File contents are written back: dirty pages stay in the page cache until close, fsync, a change
// of the attributes, or reclaim. While an inode is dirty its size and modification time are ours,
// not the server's.
//
// An answer can be older than what this kernel did since it asked: a listing is read out of its
// buffer long after it came, and who writes does not wait for who calls stat(2). So each question
// notes the moment (VirtiofsSuperblock::moment) before it is sent, each of our changes the moment
// that it made, and an answer from before the last change of its inode is not believed.
//
// Lock order: VirtiofsInode::handles_mutex_ (sleeping, innermost: nothing but a request happens
// under it, so that the last reference to a file may be dropped with an address space locked); spin
// locks are leaves.
#pragma once

#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/virtiofs/entry_cache.hpp"
#include "guestkernel/fs/virtiofs/fuse_connection.hpp"
#include "guestkernel/lib/hash_map.hpp"

struct fuse_attr;
struct fuse_init_in;
struct fuse_init_out;
struct fuse_entry_out;

namespace kernel {

class VirtiofsInode;
class VirtiofsDirectory;

// Whether files may be so long (off_t): what is computed from offsets and sizes relies on it, and
// the server may be any program.
bool valid_fuse_size(const fuse_attr& attr);

class VirtiofsSuperblock final : public Superblock {
public:
    // The transport must outlive the superblock. Sends INIT.
    static Result<Ref<VirtiofsSuperblock>> create(FuseTransport& transport, bool read_only);
    ~VirtiofsSuperblock() override;

    // A server that is a program of the guest (fuse_connection.hpp): it answers only after the
    // mount is made.
    struct UserServer {
        u32 owner_uid = 0, owner_gid = 0, root_mode = 0;
        bool default_permissions = false, allow_other = false;
        String type, options; // as /proc/mounts shows them
    };
    static Result<Ref<VirtiofsSuperblock>> create_for_user(Ref<FuseConnection> connection,
                                                           UserServer server);
    static void fill_init(fuse_init_in& in, usize payload);
    bool accept_init(const u8* answer, u32 bytes);

    Ref<Inode> root() override;
    Result<bool> admit(Inode& inode, const Credentials& who) override;
    Result<void> describe_options(String& out) override {
        return out.append(server_.options.view());
    }
    Result<FileSystemStats> stats() override;
    const char* type() const override {
        return server_.type.empty() ? "virtiofs" : server_.type.c_str();
    }
    // Nothing dirty stays with us: memory is given back without asking a program.
    bool writes_through() const { return static_cast<bool>(connection_); }
    bool can_drop_dentries() const override { return true; }
    bool parallel_lookup() const override { return true; }
    bool dentry_valid(Inode& parent, std::string_view name, Inode* inode,
                      u64 cached_at_ns) override;

    // Operations that the server does not have, remembered after its first ENOSYS.
    enum Missing : u32 {
        missing_open = 1,
        missing_opendir = 2,
        missing_flush = 4,
        missing_fsync = 8,
        missing_fsyncdir = 16,
        missing_xattr = 32,
        missing_fallocate = 64,
        missing_lseek = 128,
        missing_rename2 = 256,
        missing_readdirplus = 512,
        missing_create = 1024,
        missing_tmpfile = 2048,
    };
    bool lacks(u32 operation) const {
        return (missing_.load(base::Order::Relaxed) & operation) != 0;
    }
    void note_missing(u32 operation) { missing_.fetch_or(operation, base::Order::Relaxed); }

    // Whether the next directory read should ask for attributes as well.
    bool wants_attributes() const;
    // A lookup had to ask the server: attributes would have been of use.
    void note_lookup();

private:
    friend class VirtiofsInode;
    friend class VirtiofsFile;
    friend class VirtiofsDirectory;
    template <typename T, typename... A>
    friend Result<Ref<T>> make_ref(A&&...);
    explicit VirtiofsSuperblock(FuseTransport& transport) : transport_(transport) {}
    Result<void> negotiate();
    // The inode of an entry that the server counted as looked up once; it is forgotten again if
    // anything fails. `asked`: the moment before the question.
    Result<Ref<VirtiofsInode>> adopt_entry(const fuse_entry_out& entry, u64 asked);
    // Counts the changes that this kernel made.
    u64 moment() const { return changes_.load(base::Order::Acquire); }
    u64 next_moment() { return changes_.fetch_add(1, base::Order::AcqRel) + 1; }
    void remove_inode(VirtiofsInode& inode);

    static constexpr usize buckets = 1024;
    Result<void> take_limits(const fuse_init_out& out);

    FuseTransport& transport_;
    Ref<FuseConnection> connection_; // of a program's server
    UserServer server_;
    Ref<VirtiofsInode> root_;
    base::Atomic<u32> missing_{0};
    base::Atomic<u32> useless_attributes_{0}, missed_attributes_{0};
    base::Atomic<u64> negative_timeout_ns_{0};
    base::Atomic<bool> labels_known_{false};
    bool has_labels_ = false; // once labels_known_
    u32 max_write_ = 4096;
    u32 max_frames_ = 32;
    EntryCache entries_;
    struct InodeTable {
        VirtiofsInode* buckets[VirtiofsSuperblock::buckets] = {};
    };
    Owned<InodeTable> inodes_;
    SpinLock table_lock_{LockRank::SuperBlock};
    base::Atomic<u64> changes_{0};
    // The last change of all inodes that have left the table: one that comes back knows no better.
    u64 changes_of_gone_ = 0; // under table_lock_
};

// A file handle of the server, shared by all open files of the inode that can use it.
struct FuseHandle {
    u64 id = 0;
    u32 users = 0;
    bool open = false;
    bool can_read = false;
};

class VirtiofsInode final : public Inode, private PageSource {
public:
    VirtiofsInode(VirtiofsSuperblock& fs, u64 node, u64 number, u32 mode);
    ~VirtiofsInode() override;

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
    PageCache* page_cache() override;
    u64 file_size() override { return size_.load(base::Order::Acquire); }
    Result<void> extend(u64 size) override;
    void note_modified() override;

    u64 node() const { return node_; }

private:
    friend class VirtiofsSuperblock;
    friend class VirtiofsFile;
    friend class VirtiofsDirectory;
    void last_reference() override;

    // PageSource
    Result<void> read_pages(u64 first, std::span<Frame* const> frames) override;
    Result<void> write_pages(u64 first, std::span<Frame* const> frames, u64 file_size) override;
    u64 size() const override { return size_.load(base::Order::Acquire); }

    FuseTransport& transport() const { return fs_.transport_; }
    // `own`: the answer to a change of ours, which is of this moment.
    void update(const fuse_attr& attr, u64 valid_seconds, u32 valid_nanoseconds, u64 asked,
                bool own = false);
    Result<void> refresh();
    bool dirty() const {
        return modified_.load(base::Order::Acquire) != flushed_.load(base::Order::Acquire);
    }
    // The server has made a change for us: what it said before is void.
    void note_change();
    void note_change_locked(); // under attributes_lock()
    bool changed_since(u64 asked) const { return changed_at_.load(base::Order::Acquire) > asked; }
    // Keeps what the server said of a name of this directory (null: that it is missing); how many
    // entries that nobody used had to go.
    usize remember(std::string_view name, Ref<Inode> child, u64 until, u64 asked);
    Result<Ref<Inode>> finish_entry(std::string_view name, Result<u32> answer,
                                    const fuse_entry_out& entry, u64 asked);
    Result<Ref<Inode>> create_open(u32 opcode, std::string_view name, u32 mode, u32 uid, u32 gid);
    Result<void> remove_name(u32 opcode, std::string_view name, Inode& child);
    Result<FuseHandle> send_open(bool for_write);
    Result<void> acquire_handle(bool for_write);
    void release_handle(bool for_write);
    void send_release(const FuseHandle& handle, u32 opcode, bool for_write);
    bool any_handle(bool for_write, u64& id);
    Result<void> flush_pages();
    Result<void> flush_and_tell(); // of errors that nobody was told of before, too
    Result<void> send_pages(u64 first, std::span<Frame* const> frames, u64 file_size);
    Result<String> xattr_call(u32 opcode, std::string_view name);
    Result<String> get_capabilities();

    VirtiofsSuperblock& fs_;
    const u64 node_;
    u64 lookups_ = 1; // references of ours that the server counts; under table_lock_
    VirtiofsInode* table_next_ = nullptr;
    base::Atomic<u64> size_{0};
    base::Atomic<u64> attributes_until_{0}; // monotonic time
    base::Atomic<u64> entry_timeout_ns_{0}; // of the name it was found by
    // Changes of the contents, and how many of them the server has: equal when clean. Until then
    // size and mtime are ours.
    base::Atomic<u64> modified_{0}, flushed_{0};
    base::Atomic<u64> changed_at_{0};  // the moment of our last change; set under attributes_lock()
    base::Atomic<int> write_error_{0}; // of a write-back that had nobody to tell
    Attributes cached_;                // under attributes_lock(), as are the next two
    bool cached_once_ = false;
    bool no_capabilities_ = false; // while the attributes are valid and the ctime is the same
    Ref<PageCache> cache_;         // made on demand
    base::Atomic<PageCache*> cache_pointer_{nullptr};
    Mutex handles_mutex_;
    FuseHandle read_handle_, write_handle_;
    Mutex link_mutex_;
    String link_target_;
    base::Atomic<bool> link_known_{false};
};

class VirtiofsFile final : public RegularFile {
public:
    static constexpr char file_type[] = "virtiofs";
    VirtiofsFile(Path path, Ref<Inode> inode, u32 flags, bool writes)
        : RegularFile(std::move(path), std::move(inode), flags), writes_(writes) {}
    ~VirtiofsFile() override;
    const char* type_name() const override { return file_type; }
    Result<usize> write(IoBuffer& in, u64 offset) override;
    Result<u64> seek(i64 offset, int whence) override;
    Result<void> flush() override;
    Result<void> sync(bool data_only) override;
    Result<void> allocate(int mode, u64 offset, u64 length) override;

private:
    VirtiofsInode& node() const { return static_cast<VirtiofsInode&>(*inode_); }
    bool writes_; // the handle that it holds is the one for writing
    base::Atomic<u64> unflushed_{0};
};

class VirtiofsDirectory final : public File {
public:
    using File::File;
    ~VirtiofsDirectory() override;
    const char* type_name() const override { return "virtiofs-directory"; }
    Result<u64> read_directory(DirectorySink& sink, u64 offset) override;
    Result<u64> seek(i64 offset, int whence) override;
    Result<void> sync(bool data_only) override;

private:
    VirtiofsInode& node() const { return static_cast<VirtiofsInode&>(*inode_); }
    Result<void> open_handle();
    Result<void> fill(u64 offset);
    struct Record;
    bool next_record(Record& out);
    void discard_rest();

    Mutex mutex_; // getdents by several tasks
    u8* buffer_ = nullptr;
    u32 capacity_ = 0, filled_ = 0, at_ = 0;
    u64 asked_ = 0;            // the moment before the buffer was asked for
    u64 next_offset_ = 0;      // of the record at at_
    u64 end_offset_ = ~u64{0}; // where the server said there is no more
    bool with_attributes_ = false;
    bool ends_here_ = false; // after the records in the buffer there are no more
    FuseHandle handle_;
};

// A moment of the monotonic clock: now and a timeout of the server, which may be for ever.
inline u64 fuse_deadline(u64 seconds, u32 nanoseconds) {
    const u64 now = monotonic_ns();
    if (seconds >= (~u64{0} - now) / nanoseconds_per_second - 2)
        return ~u64{0};
    return now + seconds * nanoseconds_per_second + nanoseconds;
}

} // namespace kernel
