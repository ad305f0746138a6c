// Session: open files.
#include <algorithm>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>
#include <sys/uio.h>

#include "virtio/backend/fs/session.hpp"

namespace virtio::fs {

namespace {

constexpr std::uint64_t max_offset = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
// One request must not keep a worker for minutes; the client asks for the rest.
constexpr std::uint64_t max_copy = std::uint64_t{256} << 20;

// The client's flags that mean something to the host's file. Not O_DIRECT (the guest's buffers are
// what they are), nor O_NOATIME (not for everyone); O_CREAT and O_EXCL where they belong.
int host_flags(std::uint32_t flags) {
    return static_cast<int>(flags) & (O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC);
}
bool writes(int flags) {
    return (flags & O_ACCMODE) != O_RDONLY;
}

// What opening something else than a regular file fails with. Pipes, sockets and devices are the
// guest kernel's own; the host's are never opened.
int not_openable(mode_t type) {
    if (S_ISDIR(type))
        return EISDIR;
    return S_ISLNK(type) ? ELOOP : ENXIO;
}

} // namespace

Result<std::shared_ptr<OpenFile>> Session::open_file(std::uint64_t handle, std::uint64_t node) {
    std::shared_ptr<OpenFile> open = files_.find(handle);
    if (!open || open->inode->id() != node)
        return fail(EBADF);
    return open;
}

Result<FdRef> Session::file_for_reading(std::uint64_t handle, std::uint64_t node) {
    if (handle == 0 && zero_open_.load(std::memory_order_relaxed)) {
        TRY(const InodeRef inode, inodes_.find(node));
        if (!inode->is_regular())
            return fail(not_openable(inode->key().type));
        return inodes_.readable_fd(inode, proc_);
    }
    TRY(const auto open, open_file(handle, node));
    return open->fd;
}

Result<std::shared_ptr<OpenFile>> Session::make_open_file(const InodeRef& inode, int flags,
                                                          bool drop_set_id) {
    if (!inode->is_regular())
        return fail(not_openable(inode->key().type));
    auto open = std::make_shared<OpenFile>();
    open->inode = inode;
    open->writable = writes(flags);
    if (flags == O_RDONLY) {
        // Reads carry their offset, so that all readers can share one descriptor.
        TRY(open->fd, inodes_.readable_fd(inode, proc_));
        TRY(open->path, inodes_.any_fd(inode));
        return open;
    }
    TRY(open->path, inodes_.any_fd(inode));
    TRY(UniqueFd fd,
        inodes_.with_descriptors([&] { return proc_.reopen(open->path->get(), flags); }));
    if ((flags & O_TRUNC) != 0 && drop_set_id)
        TRY(drop_set_id_bits(fd.get()));
    open->fd = std::make_shared<HostFd>(std::move(fd));
    return open;
}

std::uint32_t Session::open_flags(const InodeRef& inode, const struct statx& found) {
    switch (share_.cache) {
    case Cache::None:
        return 0;
    case Cache::Auto:
        return inodes_.unchanged_since_open(inode, found) ? FOPEN_KEEP_CACHE : 0;
    case Cache::Always:
        break;
    }
    return FOPEN_KEEP_CACHE;
}

Result<void> Session::op_open(Request& request, Reply& reply) {
    TRY(const fuse_open_in in, request.arguments<fuse_open_in>());
    const int flags = host_flags(in.flags);
    if (share_.read_only && (writes(flags) || (flags & O_TRUNC) != 0))
        return fail(EROFS);
    if (zero_open_.load(std::memory_order_relaxed))
        return fail(ENOSYS);
    TRY(const InodeRef inode, inodes_.find(request.node()));
    TRY(auto open, make_open_file(inode, flags, (in.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0));
    struct statx found {};
    if (share_.cache == Cache::Auto) {
        TRY(found, stat_at(open->fd->get(), ""));
    }
    fuse_open_out out{};
    TRY(out.fh, files_.insert(std::move(open)));
    out.open_flags = open_flags(inode, found);
    return reply.put(out);
}

Result<void> Session::reply_opened(std::shared_ptr<OpenFile> open, const struct statx& found,
                                   Reply& reply) {
    const InodeRef inode = open->inode;
    fuse_open_out out{};
    auto number = files_.insert(std::move(open));
    if (!number) {
        inodes_.forget(inode->id(), 1);
        return base::Failure(number.error());
    }
    out.fh = *number;
    out.open_flags = open_flags(inode, found);
    TRY(reply.put(entry(inode, found)));
    return reply.put(out);
}

// For CREATE of a name that exists; counts a lookup, as CREATE does.
Result<InodeRef> Session::open_existing(const Directory& parent, const Name& name, int flags,
                                        std::shared_ptr<OpenFile>& open) {
    TRY(const struct statx found, stat_at(parent.fd->get(), name.c_str()));
    if (!S_ISREG(found.stx_mode))
        return fail(not_openable(found.stx_mode & S_IFMT));
    TRY(InodeRef inode, inodes_.look_up(found, parent.inode, parent.fd->get(), name.c_str()));
    auto made = make_open_file(inode, flags, false);
    if (!made) {
        inodes_.forget(inode->id(), 1);
        return base::Failure(made.error());
    }
    open = std::move(*made);
    return inode;
}

Result<void> Session::op_create(Request& request, Reply& reply) {
    TRY(const fuse_create_in in, request.arguments<fuse_create_in>());
    Name name;
    TRY(request.name(name));
    TRY(const Directory parent, changeable_directory(request.node()));
    const int flags = host_flags(in.flags);
    const mode_t mode = in.mode & 07777 & ~(in.umask & 0777);

    // O_EXCL: a file that is there already may be anything, and is opened with more care.
    auto made = [&] {
        const OwnerSwitch owner(share_.switch_owner, request.header().uid, request.header().gid);
        return inodes_.with_descriptors([&] {
            return open_component(parent.fd->get(), name.c_str(),
                                  (flags & ~O_TRUNC) | O_CREAT | O_EXCL, mode);
        });
    }();
    std::shared_ptr<OpenFile> open;
    if (!made && made.error().code == EEXIST && (in.flags & O_EXCL) == 0) {
        TRY(open_existing(parent, name, flags, open));
    } else if (!made) {
        return base::Failure(made.error());
    } else {
        open = std::make_shared<OpenFile>();
        open->writable = writes(flags);
        open->fd = open->path = std::make_shared<HostFd>(std::move(*made));
        TRY(const struct statx found, stat_at(open->fd->get(), ""));
        TRY(open->inode, inodes_.look_up(found, parent.inode, parent.fd->get(), name.c_str()));
        inodes_.offer_fd(open->inode, open->fd);
    }
    TRY(const struct statx found, stat_at(open->fd->get(), ""));
    return reply_opened(std::move(open), found, reply);
}

Result<void> Session::op_tmpfile(Request& request, Reply& reply) {
    TRY(const fuse_create_in in, request.arguments<fuse_create_in>());
    TRY(const Directory parent, changeable_directory(request.node()));
    const int flags = host_flags(in.flags) & ~O_TRUNC;
    const mode_t mode = in.mode & 07777 & ~(in.umask & 0777);
    auto made = [&] {
        const OwnerSwitch owner(share_.switch_owner, request.header().uid, request.header().gid);
        return inodes_.with_descriptors([&] {
            return open_component(parent.fd->get(), ".",
                                  flags | O_TMPFILE | static_cast<int>(in.flags & O_EXCL), mode);
        });
    }();
    if (!made)
        return base::Failure(made.error());
    auto open = std::make_shared<OpenFile>();
    open->writable = true;
    open->fd = open->path = std::make_shared<HostFd>(std::move(*made));
    TRY(const struct statx found, stat_at(open->fd->get(), ""));
    TRY(open->inode, inodes_.adopt(found, open->fd));
    return reply_opened(std::move(open), found, reply);
}

Result<void> Session::op_read(Request& request, Reply& reply) {
    TRY(const fuse_read_in in, request.arguments<fuse_read_in>());
    TRY(const FdRef fd, file_for_reading(in.fh, request.node()));
    if (in.offset > max_offset)
        return fail(EINVAL);
    std::size_t left = std::min<std::size_t>({in.size, reply.room(), fs_max_transfer});
    off_t offset = static_cast<off_t>(in.offset);
    PieceArray storage;
    // A short answer means the end of the file to the client: go on until there is nothing more.
    while (left > 0) {
        const auto pieces = reply.body().take_pieces(storage, left);
        const ssize_t got =
            ::preadv(fd->get(), pieces.data(), static_cast<int>(pieces.size()), offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && reply.length() == 0)
            return fail_errno();
        if (got <= 0)
            break;
        reply.body().skip(static_cast<std::size_t>(got));
        left -= static_cast<std::size_t>(got);
        offset += got;
    }
    return {};
}

Result<void> Session::op_write(Request& request, Reply& reply) {
    TRY(const fuse_write_in in, request.arguments<fuse_write_in>());
    TRY(const auto open, open_file(in.fh, request.node()));
    if (in.size > fs_max_transfer || in.size > request.rest().remaining() || in.offset > max_offset)
        return fail(EINVAL);
    std::size_t left = in.size;
    off_t offset = static_cast<off_t>(in.offset);
    PieceArray storage;
    while (left > 0) {
        const auto pieces = request.rest().take_pieces(storage, left);
        const ssize_t put =
            ::pwritev(open->fd->get(), pieces.data(), static_cast<int>(pieces.size()), offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && left == in.size)
            return fail_errno();
        if (put <= 0)
            break;
        request.rest().skip(static_cast<std::size_t>(put));
        left -= static_cast<std::size_t>(put);
        offset += put;
    }
    if ((in.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0)
        TRY(drop_set_id_bits(open->fd->get()));
    fuse_write_out out{};
    out.size = static_cast<std::uint32_t>(in.size - left);
    return reply.put(out);
}

Result<void> Session::op_flush(Request& request, Reply&) {
    TRY(const fuse_flush_in in, request.arguments<fuse_flush_in>());
    // Nothing of a read-only share is ever waiting to be written; the client need not ask again.
    if (share_.read_only)
        return fail(ENOSYS);
    TRY(const auto open, open_file(in.fh, request.node()));
    if (!open->writable)
        return {};
    // What close(2) would report: a network file system's delayed error.
    UniqueFd copy(::fcntl(open->fd->get(), F_DUPFD_CLOEXEC, 0));
    if (!copy)
        return fail_errno();
    return check(::close(copy.release()));
}

Result<void> Session::op_release(Request& request, Reply&) {
    TRY(const fuse_release_in in, request.arguments<fuse_release_in>());
    if (in.fh == 0 && zero_open_.load(std::memory_order_relaxed))
        return {};
    return files_.remove(in.fh) ? Result<void>() : fail(EBADF);
}

Result<void> Session::op_fsync(Request& request, Reply&) {
    TRY(const fuse_fsync_in in, request.arguments<fuse_fsync_in>());
    TRY(const FdRef fd, file_for_reading(in.fh, request.node()));
    return check((in.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0 ? ::fdatasync(fd->get())
                                                              : ::fsync(fd->get()));
}

Result<void> Session::op_syncfs(Request&, Reply&) {
    if (share_.read_only || !has_stream(inodes_.root()))
        return fail(ENOSYS);
    TRY(const FdRef root, inodes_.readable_fd(inodes_.root(), proc_));
    return check(::syncfs(root->get()));
}

Result<void> Session::op_lseek(Request& request, Reply& reply) {
    TRY(const fuse_lseek_in in, request.arguments<fuse_lseek_in>());
    TRY(const FdRef fd, file_for_reading(in.fh, request.node()));
    // The others are the client's own business, who knows the position.
    if ((in.whence != SEEK_DATA && in.whence != SEEK_HOLE) || in.offset > max_offset)
        return fail(EINVAL);
    const off_t found =
        ::lseek(fd->get(), static_cast<off_t>(in.offset), static_cast<int>(in.whence));
    if (found < 0)
        return fail_errno();
    return reply.put(fuse_lseek_out{static_cast<std::uint64_t>(found)});
}

Result<void> Session::op_fallocate(Request& request, Reply&) {
    TRY(const fuse_fallocate_in in, request.arguments<fuse_fallocate_in>());
    TRY(const auto open, open_file(in.fh, request.node()));
    if (in.offset > max_offset || in.length > max_offset)
        return fail(EFBIG);
    return check(::fallocate(open->fd->get(), static_cast<int>(in.mode),
                             static_cast<off_t>(in.offset), static_cast<off_t>(in.length)));
}

Result<void> Session::op_copy_file_range(Request& request, Reply& reply) {
    TRY(const fuse_copy_file_range_in in, request.arguments<fuse_copy_file_range_in>());
    TRY(const FdRef from, file_for_reading(in.fh_in, request.node()));
    TRY(const auto to, open_file(in.fh_out, in.nodeid_out));
    if (in.flags != 0 || in.off_in > max_offset || in.off_out > max_offset)
        return fail(EINVAL);
    auto from_offset = static_cast<off_t>(in.off_in);
    auto to_offset = static_cast<off_t>(in.off_out);
    const ssize_t copied =
        ::copy_file_range(from->get(), &from_offset, to->fd->get(), &to_offset,
                          static_cast<std::size_t>(std::min(in.len, max_copy)), 0);
    if (copied < 0)
        return fail_errno();
    fuse_write_out out{};
    out.size = static_cast<std::uint32_t>(copied);
    return reply.put(out);
}

} // namespace virtio::fs
