// Session: one share and what its client knows of it. The operations of linux/fuse.h are its member
// functions, by family: session_nodes.cpp (lookup, attributes), session_names.cpp (make, remove,
// rename), session_files.cpp (open, read, write), session_directories.cpp, session_xattrs.cpp.
//
// Threads: any number at once. Each table has its own short locks; none is held during a call to
// the host, except for a directory stream, whose position belongs to its descriptor.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "virtio/backend/fs/handle_table.hpp"
#include "virtio/backend/fs/host.hpp"
#include "virtio/backend/fs/inode_table.hpp"
#include "virtio/backend/fs/message.hpp"
#include "virtio/backend/fs/server.hpp"
#include "virtio/backend/fs/xattrs.hpp"

namespace virtio::fs {

struct OpenFile {
    FdRef fd;
    FdRef path; // keeps the inode within reach, though its name may go
    InodeRef inode;
    bool writable = false;
};

struct OpenDirectory {
    InodeRef inode;
    FdRef path;            // as OpenFile's; none of a read-only share, whose names stay
    Guarded<FdRef> stream; // null without has_stream(); the lock is for its position
};

// What create() has made ready.
struct Share {
    UniqueFd directory;
    struct statx root {};
    std::string only_name; // of the one file that is shared, or empty
    UniqueFd only_file;    // that file
    bool read_only = false;
    Cache cache = Cache::Auto;
    bool xattrs = true;
    bool zero_message_opens = false;
    bool device_nodes = false;
    bool switch_owner = false;
    std::size_t max_cached_fds = 0;
    std::size_t max_fds = 0;
    std::size_t max_handles = 0;
};

using Accept = FsServer::Accept;

class Session {
public:
    Session(Share share, ProcFds proc);
    std::size_t handle(std::span<const struct iovec> in, std::span<const struct iovec> out,
                       Accept accept);
    void reset();
    const std::string& only_name() const { return share_.only_name; }
    std::array<std::uint64_t, FsServer::operation_count> requests() const;

    struct Operation;

private:
    static const Operation* operation(std::uint32_t opcode);
    Result<void> run(const Operation& operation, Request& request, Reply& reply);

    // The protocol.
    Result<void> op_init(Request& request, Reply& reply);
    Result<void> op_destroy(Request& request, Reply& reply);
    Result<void> op_forget(Request& request, Reply& reply);
    Result<void> op_batch_forget(Request& request, Reply& reply);
    Result<void> op_ignore(Request& request, Reply& reply);

    // Nodes.
    Result<void> op_lookup(Request& request, Reply& reply);
    Result<void> op_getattr(Request& request, Reply& reply);
    Result<void> op_setattr(Request& request, Reply& reply);
    Result<void> op_readlink(Request& request, Reply& reply);
    Result<void> op_access(Request& request, Reply& reply);
    Result<void> op_statfs(Request& request, Reply& reply);

    // Names.
    Result<void> op_mknod(Request& request, Reply& reply);
    Result<void> op_mkdir(Request& request, Reply& reply);
    Result<void> op_symlink(Request& request, Reply& reply);
    Result<void> op_link(Request& request, Reply& reply);
    Result<void> op_unlink(Request& request, Reply& reply);
    Result<void> op_rmdir(Request& request, Reply& reply);
    Result<void> op_rename(Request& request, Reply& reply);
    Result<void> op_rename2(Request& request, Reply& reply);
    Result<void> op_create(Request& request, Reply& reply);
    Result<void> op_tmpfile(Request& request, Reply& reply);

    // Files.
    Result<void> op_open(Request& request, Reply& reply);
    Result<void> op_read(Request& request, Reply& reply);
    Result<void> op_write(Request& request, Reply& reply);
    Result<void> op_flush(Request& request, Reply& reply);
    Result<void> op_release(Request& request, Reply& reply);
    Result<void> op_fsync(Request& request, Reply& reply);
    Result<void> op_syncfs(Request& request, Reply& reply);
    Result<void> op_lseek(Request& request, Reply& reply);
    Result<void> op_fallocate(Request& request, Reply& reply);
    Result<void> op_copy_file_range(Request& request, Reply& reply);

    // Directories.
    Result<void> op_opendir(Request& request, Reply& reply);
    Result<void> op_readdir(Request& request, Reply& reply);
    Result<void> op_readdirplus(Request& request, Reply& reply);
    Result<void> op_releasedir(Request& request, Reply& reply);
    Result<void> op_fsyncdir(Request& request, Reply& reply);

    // Extended attributes.
    Result<void> op_getxattr(Request& request, Reply& reply);
    Result<void> op_listxattr(Request& request, Reply& reply);
    Result<void> op_setxattr(Request& request, Reply& reply);
    Result<void> op_removexattr(Request& request, Reply& reply);

    // A directory and a descriptor of it.
    struct Directory {
        InodeRef inode;
        FdRef fd;
    };
    Result<Directory> directory(std::uint64_t node);
    // One in which names may be made and removed.
    Result<Directory> changeable_directory(std::uint64_t node);
    // Before a name goes: what it leads to may be in use by another.
    void keep_in_reach(const Directory& parent, const Name& name);
    // Whether a name in the share's root is not part of a share of one file.
    bool hidden(const InodeRef& directory, std::string_view name) const {
        return is_frame(directory) && name != share_.only_name;
    }

    // The directory that a share of one file is in: nothing of it but the name is the client's.
    bool is_frame(const InodeRef& inode) const {
        return !share_.only_name.empty() && inode == inodes_.root();
    }
    // What a name of a directory is. Of a share of one file it is that file, whatever the host has
    // put in its place since: as with a bind mount, and the sandbox opens no other.
    Result<struct statx> stat_name(const InodeRef& directory, int fd, const char* name) const {
        return is_frame(directory) ? stat_at(only_file_->get(), "") : stat_at(fd, name);
    }
    // The inode of what stat_name() found.
    Result<InodeRef> look_up(const struct statx& found, const InodeRef& directory, int fd,
                             const char* name);
    fuse_entry_out entry(const InodeRef& inode, const struct statx& found) const;
    fuse_attr_out attributes(const InodeRef& inode, const struct statx& found) const;
    Result<void> reply_entry(const Directory& parent, const Name& name, Reply& reply);
    Result<void> reply_opened(std::shared_ptr<OpenFile> open, const struct statx& found,
                              Reply& reply);
    Result<void> rename(Request& request, std::uint64_t new_directory, unsigned flags);
    Result<InodeRef> open_existing(const Directory& parent, const Name& name, int flags,
                                   std::shared_ptr<OpenFile>& open);
    Result<void> set_attributes(const fuse_setattr_in& in, const InodeRef& inode, const FdRef& fd,
                                const OpenFile* open);
    Result<void> set_size(const fuse_setattr_in& in, const InodeRef& inode, const FdRef& fd,
                          const OpenFile* open);
    Result<void> set_times(const fuse_setattr_in& in, const FdRef& fd);

    // EBADF unless the number is one of an open file of this node.
    Result<std::shared_ptr<OpenFile>> open_file(std::uint64_t handle, std::uint64_t node);
    // The same; or, where files need not be opened, the node's own descriptor for reading.
    Result<FdRef> file_for_reading(std::uint64_t handle, std::uint64_t node);
    Result<std::shared_ptr<OpenFile>> make_open_file(const InodeRef& inode, int flags,
                                                     bool drop_set_id);
    std::uint32_t open_flags(const InodeRef& inode, const struct statx& found);

    Result<InodeTable::Place> place_of_attributes(const InodeRef& inode);

    class DirectoryReply;
    Result<void> read_directory(Request& request, Reply& reply, bool plus);
    // Whether the host lists it. The directory of a single shared file need not be readable.
    bool has_stream(const InodeRef& directory) const {
        return !directory->sealed() && !is_frame(directory);
    }
    Result<void> fill_only_name(DirectoryReply& out, const InodeRef& inode);
    Result<void> fill(DirectoryReply& out, const InodeRef& inode, const FdRef& stream,
                      std::uint64_t offset);

    Share share_; // its directory has moved into inodes_, its file into only_file_
    const ProcFds proc_;
    const Xattrs xattrs_;
    InodeTable inodes_;
    const FdRef only_file_; // null but in a share of one file
    HandleTable<OpenFile> files_;
    HandleTable<OpenDirectory> directories_;
    // For directories that are read without being opened: by inode.
    struct Nothing {};
    std::array<Guarded<Nothing>, 64> stream_locks_;
    std::array<std::atomic<std::uint64_t>, FsServer::operation_count> requests_{};
    // What INIT agreed upon.
    std::atomic<bool> initialized_{false};
    std::atomic<bool> zero_open_{false};
    std::atomic<bool> zero_opendir_{false};
    std::atomic<bool> setxattr_ext_{false};
};

} // namespace virtio::fs
