// Inode: a file system object, and Superblock: the file system it belongs to. File systems derive
// from both.
#pragma once

#include <string_view>

#include "base/atomic.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/lib/string.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

struct TimeSpec {
    i64 seconds = 0;
    u32 nanoseconds = 0;
};
TimeSpec current_time(); // CLOCK_REALTIME

struct Attributes {
    u64 inode = 0;
    u32 mode = 0; // type and permission bits
    u32 links = 1;
    u32 uid = 0, gid = 0;
    u64 device_number = 0;    // of a device node, as dev_t (userland encoding)
    u64 size = 0, blocks = 0; // bytes; units of 512 bytes
    u32 block_size = 4096;
    TimeSpec access_time, modify_time, change_time, birth_time;
};

// Which members of an Attributes a set_attributes() call changes.
enum AttributeMask : u32 {
    set_mode = 1,
    set_uid = 2,
    set_gid = 4,
    set_size = 8,
    set_access_time = 16,
    set_modify_time = 32,
    set_access_time_now = 64,
    set_modify_time_now = 128,
};

struct FileSystemStats {
    u64 type, block_size, blocks, free_blocks, available_blocks, files, free_files, name_max, flags;
    u64 fsid;
};

struct Credentials;
class Acl;                                   // fs/acl.hpp
enum class AclKind : u8 { Access, Default }; // who may use it; what is created in a directory gets

class Superblock : public RefCounted {
public:
    ~Superblock() override;
    virtual Ref<Inode> root() = 0;
    virtual Result<FileSystemStats> stats() = 0;
    virtual Result<void> sync() { return {}; }
    virtual const char* type() const = 0; // as in /proc/filesystems
    // Dentries may be dropped and looked up again; false where only the dentry holds the object
    // (tmpfs).
    virtual bool can_drop_dentries() const { return false; }
    // Whether a cached dentry (positive: `inode` set; negative: null) may still be used without
    // asking again.
    virtual bool dentry_valid(Inode& /*parent*/, std::string_view /*name*/, Inode* /*inode*/,
                              u64 /*cached_at_ns*/) {
        return true;
    }
    // Whether Inode::lookup() of one directory may run on several CPUs at once (its mutex() held
    // shared, not exclusively).
    virtual bool parallel_lookup() const { return false; }
    // Options for /proc/mounts beyond "rw" and "ro", each with a leading comma.
    virtual Result<void> describe_options(String& /*out*/) { return {}; }
    // mount(2) with MS_REMOUNT: what changes of the options. EINVAL.
    virtual Result<void> reconfigure(std::string_view /*options*/) { return {}; }
    // Where own_rules is set, it has its say before the mode bits count (FUSE, procfs). True: the
    // rest is for the server to check.
    virtual Result<bool> admit(Inode& /*inode*/, const Credentials& /*who*/) { return false; }
    bool own_rules = false;
    u64 device_number = 0;            // st_dev; assigned by allocate_device_number()
    base::Atomic<u32> mount_count{0}; // fs/mount.cpp
    bool read_only = false;
    u32 flags = 0; // MS_* of the superblock
    // What a mount asks for is the file system's only where it makes the file system: one that all
    // share (mqueue, cgroup2) is not the newcomer's to change.
    void take_flags(u32 wanted) {
        if (mount_count.load() == 0)
            flags |= wanted;
    }
    // How many file systems made of others' directories lie over each other here. Each calls those
    // below it, all on one kernel stack.
    u32 stacked = 0;
    // Who mounted it: device nodes work and ids count only for what the whole system trusts. Null:
    // the initial one.
    Ref<UserNamespace> user_ns;

protected:
    Superblock();
};

// Permission checks are the VFS's (fs/permission.hpp); operations get names that were checked (no
// '/', length at most 255, not empty, not "." or ".."). Directory operations run with the
// directory's mutex() held by the VFS.
class Inode : public RefCounted {
public:
    Inode(Superblock* superblock, u64 number, u32 mode);
    ~Inode() override;

    // A snapshot; file systems that must ask first do so here.
    virtual Result<Attributes> attributes();
    virtual Result<void> set_attributes(const Attributes& wanted, u32 mask);

    // Directories. ENOENT: not there.
    virtual Result<Ref<Inode>> lookup(std::string_view name);
    // `mode` has the S_IF* type: regular, directory, FIFO, socket or device node. `owner`: uid and
    // gid to give it.
    virtual Result<Ref<Inode>> create(std::string_view name, u32 mode, u64 device_number, u32 uid,
                                      u32 gid);
    virtual Result<Ref<Inode>> symlink(std::string_view name, std::string_view target, u32 uid,
                                       u32 gid);
    virtual Result<void> link(std::string_view name, Inode& target);
    virtual Result<void> unlink(std::string_view name, Inode& child);
    virtual Result<void> rmdir(std::string_view name, Inode& child);
    // `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT. `replaced` is what stands at the
    // new name, or null.
    virtual Result<void> rename(std::string_view old_name, Inode& child, Inode& new_directory,
                                std::string_view new_name, Inode* replaced, u32 flags);
    virtual Result<Ref<Inode>> create_unnamed(u32 mode, u32 uid, u32 gid); // O_TMPFILE

    virtual Result<String> readlink();
    // /proc magic links: where following leads, without a path walk. ENOENT by default: use
    // readlink().
    virtual Result<Path> follow_magic();
    virtual bool is_magic_link() const { return false; }
    // Whatever its mode and owner say, the caller may read and search it.
    virtual bool is_callers_own() const { return false; }

    // An open file description of it. FIFOs and device nodes are opened by the VFS, sockets refused
    // (ENXIO).
    virtual Result<Ref<File>> open(const Path& path, u32 flags);

    virtual Result<String> get_xattr(std::string_view name); // ENODATA, EOPNOTSUPP
    virtual Result<void> set_xattr(std::string_view name, std::string_view value, u32 flags);
    virtual Result<void> remove_xattr(std::string_view name);
    virtual Result<void> list_xattrs(String& out); // NUL-terminated names, one after the other
    // The contents or the owner change: "security.capability" goes. Locks: mutex() is held.
    virtual Result<void> drop_capabilities();

    // POSIX access control lists; null: none. EOPNOTSUPP: not on this file system.
    virtual Result<Ref<const Acl>> get_acl(AclKind kind);
    virtual Result<void> set_acl(AclKind kind, Ref<const Acl> acl);
    // Whether permission checks must ask for the access list.
    bool has_acl() const { return has_acl_; }

    // The file's pages, or null for what has none.
    virtual PageCache* page_cache() { return nullptr; }
    // For RegularFile, in memory, without asking anybody. The size now; by default that of
    // page_cache()->source().
    virtual u64 file_size();
    // A write went past the end: the new size, known before the next call to file_size(). mutex()
    // is held exclusively. By default set_attributes() with the size.
    virtual Result<void> extend(u64 size);
    // The contents were changed (mtime, ctime) or read (atime, only if due: relatime unless
    // `strict`) just now.
    virtual void note_modified() {}
    virtual void note_accessed(bool /*strict*/) {}

    Superblock* superblock() const { return superblock_; }
    u64 number() const { return number_; }
    u32 type() const { return mode_ & 0170000u; }
    bool is_directory() const { return type() == 0040000; }
    bool is_regular() const { return type() == 0100000; }
    bool is_symlink() const { return type() == 0120000; }
    RwMutex& mutex() {
        return mutex_;
    } // directory contents and, for regular files, size changes and writes
    // Kept by in-memory file systems and caches; under attributes_lock().
    SpinLock& attributes_lock() { return attributes_lock_; }
    u32 mode_;
    u32 uid_ = 0, gid_ = 0;
    // FS_*_FL, of file systems that keep them; changed under mutex().
    static constexpr u32 immutable_flag = 0x10, append_flag = 0x20, no_dump_flag = 0x40,
                         no_atime_flag = 0x80;
    base::Atomic<u32> file_flags{0};
    virtual bool keeps_flags() const { return false; }
    // The flags that hold for it: of what is shown in place of another object, that one's.
    virtual u32 flags_in_force() const { return file_flags.load(base::Order::Relaxed); }
    bool is_immutable() const { return (flags_in_force() & immutable_flag) != 0; }
    bool is_append_only() const { return (flags_in_force() & append_flag) != 0; }
    // Its names, owner, mode and attributes stay as they are.
    bool is_frozen() const { return (flags_in_force() & (immutable_flag | append_flag)) != 0; }
    // Without a name so far, and may get one (O_TMPFILE without O_EXCL).
    base::Atomic<u32> linkable{0};
    // Files open for writing, or, when negative, those that forbid it (a program that is running:
    // ETXTBSY).
    base::Atomic<i32> write_count{0};
    base::Atomic<i32> read_count{0}; // regular files: open for reading only, programs that run too

    // State that other subsystems hang here, created on demand and destroyed with the inode.
    struct FifoState* fifo = nullptr;       // ipc/pipe.cpp
    struct LockState* file_locks = nullptr; // fs/locks.cpp: flock, POSIX and OFD locks
    struct LeaseState* leases = nullptr;    // fs/leases.cpp
    struct SocketBinding* socket = nullptr; // ipc/unix_socket.cpp: a bound Unix socket
    struct InodeWatches* watches = nullptr; // inotify, dnotify, fanotify

protected:
    Ref<Superblock>
        superblock_holder_; // set by file systems whose inodes keep the superblock alive
    Superblock* superblock_;
    u64 number_;
    RwMutex mutex_;
    volatile bool has_acl_ = false;
    SpinLock attributes_lock_{LockRank::Inode};
};

// An open file with a page cache behind it: read, write, seek, mmap, fsync over
// Inode::page_cache(). File systems with ordinary regular files return one from open().
class RegularFile : public File {
public:
    using File::File;
    Result<usize> read(IoBuffer& out, u64 offset) override;
    Result<usize> write(IoBuffer& in, u64 offset) override;
    Result<Ref<PageCache>> mapping(u32 protection, u32 map_flags) override;
    u32 poll(PollTable* table) override;
    Result<void> sync(bool data_only) override;
    Result<void> truncate(u64 size) override;

protected:
    // Asked with the inode's mutex held before a write: seals, space. How many of the bytes may be
    // written, one at least.
    virtual Result<usize> before_write(u64 /*offset*/, usize bytes) { return bytes; }

private:
    Result<usize> write_locked(IoBuffer& in, u64 offset);
};

u64 allocate_device_number(); // for superblocks: 0:N

// Device nodes: drivers register; the VFS opens through it.
using DeviceOpen = Result<Ref<File>> (*)(const Path& path, Ref<Inode> inode, u32 flags,
                                         u64 device_number);
// Registers character devices major:[first_minor, first_minor + count). Called at boot only.
void register_char_device(u32 major, u32 first_minor, u32 count, DeviceOpen open);
Result<Ref<File>> open_char_device(const Path& path, Ref<Inode> inode, u32 flags,
                                   u64 device_number);

// A named FIFO's open, with its waiting for the other end (ipc/pipe.cpp).
Result<Ref<File>> open_fifo(const Path& path, Ref<Inode> inode, u32 flags);
// Destroy what Inode::fifo, ::socket and ::watches point to, when an inode that has some dies
// (ipc/).
void free_fifo_state(FifoState* state);
void free_socket_binding(SocketBinding* binding);
void free_inode_watches(InodeWatches* watches);

} // namespace kernel
