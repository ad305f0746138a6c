// Session: lookup and attributes.
#include <fcntl.h>
#include <unistd.h>

#include <sys/statfs.h>
#include <sys/syscall.h>

#include "virtio/backend/fs/session.hpp"

namespace virtio::fs {

namespace {

std::uint64_t validity(Cache cache) {
    switch (cache) {
    case Cache::None:
        return 0;
    case Cache::Auto:
        return 1;
    case Cache::Always:
        break;
    }
    return std::uint64_t{24} * 3600;
}

} // namespace

fuse_entry_out Session::entry(const InodeRef& inode, const struct statx& found) const {
    fuse_entry_out out{};
    out.nodeid = inode->id();
    // Node ids are never used twice, so that the generation says nothing.
    out.entry_valid = out.attr_valid = validity(share_.cache);
    out.attr = to_attr(found, inode->guest_number());
    return out;
}

fuse_attr_out Session::attributes(const InodeRef& inode, const struct statx& found) const {
    fuse_attr_out out{};
    out.attr_valid = validity(share_.cache);
    out.attr = to_attr(found, inode->guest_number());
    return out;
}

Result<Session::Directory> Session::directory(std::uint64_t node) {
    TRY(InodeRef inode, inodes_.find(node));
    if (!inode->is_directory())
        return fail(ENOTDIR);
    if (inode->sealed())
        return Directory{std::move(inode), nullptr};
    TRY(FdRef fd, inodes_.any_fd(inode));
    return Directory{std::move(inode), std::move(fd)};
}

Result<InodeRef> Session::look_up(const struct statx& found, const InodeRef& directory, int fd,
                                  const char* name) {
    TRY(InodeRef inode, inodes_.look_up(found, directory, fd, name));
    if (is_frame(directory))
        inodes_.offer_fd(inode, only_file_);
    return inode;
}

Result<void> Session::op_lookup(Request& request, Reply& reply) {
    Name name;
    TRY(request.name(name, true));
    TRY(const Directory parent, directory(request.node()));
    if (name.view() == "." || name.view() == "..") {
        // The way up ends at the share's root.
        InodeRef inode = parent.inode;
        if (name.view() == ".." && inode != inodes_.root())
            inode = inodes_.parent(inode);
        if (!inode)
            return fail(ESTALE);
        TRY(const struct statx found, inodes_.stat(inode));
        inodes_.count(inode);
        return reply.put(entry(inode, found));
    }

    Result<struct statx> found = fail(ENOENT);
    if (parent.fd && !hidden(parent.inode, name.view()))
        found = stat_name(parent.inode, parent.fd->get(), name.c_str());
    if (!found) {
        if (found.error().code != ENOENT || share_.cache != Cache::Always)
            return base::Failure(found.error());
        // Node 0: there is no such name, and the client may remember that.
        fuse_entry_out missing{};
        missing.entry_valid = validity(share_.cache);
        return reply.put(missing);
    }
    TRY(const InodeRef inode, look_up(*found, parent.inode, parent.fd->get(), name.c_str()));
    return reply.put(entry(inode, *found));
}

Result<void> Session::op_getattr(Request& request, Reply& reply) {
    TRY(const fuse_getattr_in in, request.arguments<fuse_getattr_in>());
    TRY(const InodeRef inode, inodes_.find(request.node()));
    if ((in.getattr_flags & FUSE_GETATTR_FH) != 0 && in.fh != 0 && inode->is_regular()) {
        TRY(const auto open, open_file(in.fh, request.node()));
        TRY(const struct statx found, stat_at(open->fd->get(), ""));
        return reply.put(attributes(inode, found));
    }
    TRY(const struct statx found, inodes_.stat(inode));
    return reply.put(attributes(inode, found));
}

Result<void> Session::set_size(const fuse_setattr_in& in, const InodeRef& inode, const FdRef& fd,
                               const OpenFile* open) {
    if (in.size > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()))
        return fail(EFBIG);
    if (!inode->is_regular())
        return fail(inode->is_directory() ? EISDIR : EINVAL);
    UniqueFd opened;
    int target = -1;
    if (open != nullptr && open->writable) {
        target = open->fd->get();
    } else {
        TRY(opened, inodes_.with_descriptors([&] { return proc_.reopen(fd->get(), O_WRONLY); }));
        target = opened.get();
    }
    TRY(check(::ftruncate(target, static_cast<off_t>(in.size))));
    if ((in.valid & FATTR_KILL_SUIDGID) != 0)
        TRY(drop_set_id_bits(target));
    return {};
}

Result<void> Session::set_times(const fuse_setattr_in& in, const FdRef& fd) {
    const auto time = [&](std::uint32_t given, std::uint32_t now, std::uint64_t seconds,
                          std::uint32_t nanoseconds) -> struct timespec {
        if ((in.valid & now) != 0)
            return {0, UTIME_NOW};
        if ((in.valid & given) == 0)
            return {0, UTIME_OMIT};
        // Out of range, it would be UTIME_NOW or UTIME_OMIT.
        return {static_cast<time_t>(seconds), std::min<long>(nanoseconds, 999'999'999)};
    };
    const struct timespec times[2] = {
        time(FATTR_ATIME, FATTR_ATIME_NOW, in.atime, in.atimensec),
        time(FATTR_MTIME, FATTR_MTIME_NOW, in.mtime, in.mtimensec),
    };
    if (::utimensat(fd->get(), "", times, AT_EMPTY_PATH) == 0)
        return {};
    if (errno != EINVAL)
        return fail_errno();
    // Before 5.8 there was no AT_EMPTY_PATH here.
    return check(::utimensat(proc_.dir(), ProcFds::name_of(fd->get()).text, times, 0));
}

Result<void> Session::set_attributes(const fuse_setattr_in& in, const InodeRef& inode,
                                     const FdRef& fd, const OpenFile* open) {
    if ((in.valid & FATTR_SIZE) != 0)
        TRY(set_size(in, inode, fd, open));
    // The owner before the mode: a change of owner takes set-id bits away.
    if ((in.valid & (FATTR_UID | FATTR_GID)) != 0) {
        const auto none = static_cast<std::uint32_t>(-1);
        const uid_t uid = (in.valid & FATTR_UID) != 0 ? in.uid : none;
        const gid_t gid = (in.valid & FATTR_GID) != 0 ? in.gid : none;
        TRY(check(::fchownat(fd->get(), "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)));
    }
    if ((in.valid & FATTR_MODE) != 0) {
        if (S_ISLNK(inode->key().type))
            return fail(EOPNOTSUPP);
        TRY(check(::fchmodat(proc_.dir(), ProcFds::name_of(fd->get()).text, in.mode & 07777, 0)));
    }
    if ((in.valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)) != 0)
        TRY(set_times(in, fd));
    return {};
}

Result<void> Session::op_setattr(Request& request, Reply& reply) {
    TRY(const fuse_setattr_in in, request.arguments<fuse_setattr_in>());
    TRY(const InodeRef inode, inodes_.find(request.node()));
    if (is_frame(inode))
        return fail(EPERM);
    std::shared_ptr<OpenFile> open;
    if ((in.valid & FATTR_FH) != 0 && inode->is_regular()) {
        TRY(open, open_file(in.fh, request.node()));
    }
    TRY(const FdRef fd, inodes_.any_fd(inode));
    TRY(set_attributes(in, inode, fd, open.get()));
    TRY(const struct statx found, stat_at(fd->get(), ""));
    return reply.put(attributes(inode, found));
}

Result<void> Session::op_readlink(Request& request, Reply& reply) {
    TRY(const InodeRef inode, inodes_.find(request.node()));
    if (!S_ISLNK(inode->key().type))
        return fail(EINVAL);
    TRY(const InodeTable::Place at, inodes_.place(inode));
    std::array<char, PATH_MAX> target;
    const ssize_t length =
        ::readlinkat(at.dir->get(), at.name.c_str(), target.data(), target.size());
    if (length < 0)
        return fail(errno == EINVAL || errno == ENOENT ? ESTALE : errno);
    if (!reply.body().write(
            std::as_bytes(std::span(target)).first(static_cast<std::size_t>(length))))
        return fail(ENAMETOOLONG);
    return {};
}

Result<void> Session::op_access(Request& request, Reply&) {
    TRY(const fuse_access_in in, request.arguments<fuse_access_in>());
    TRY(const InodeRef inode, inodes_.find(request.node()));
    if ((in.mask & ~static_cast<std::uint32_t>(R_OK | W_OK | X_OK)) != 0)
        return fail(EINVAL);
    // Device nodes and pipes of the share are the guest's own: writing to them changes nothing
    // here.
    if ((in.mask & W_OK) != 0 && share_.read_only &&
        (inode->is_regular() || inode->is_directory() || S_ISLNK(inode->key().type)))
        return fail(EROFS);
    if (inode->sealed())
        return {};
    TRY(const FdRef fd, inodes_.any_fd(inode));
    const long outcome = ::syscall(SYS_faccessat2, fd->get(), "", in.mask,
                                   AT_EACCESS | AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
    // W_OK on what the host has mounted read-only is EROFS for files only, as it should be.
    return check(outcome);
}

Result<void> Session::op_statfs(Request& request, Reply& reply) {
    TRY(const InodeRef inode, inodes_.find(request.node()));
    TRY(const FdRef fd, inodes_.any_fd(inode->sealed() ? inodes_.root() : inode));
    struct statfs found {};
    TRY(check(::fstatfs(fd->get(), &found)));
    fuse_statfs_out out{};
    out.st.blocks = found.f_blocks;
    out.st.bfree = found.f_bfree;
    out.st.bavail = found.f_bavail;
    out.st.files = found.f_files;
    out.st.ffree = found.f_ffree;
    out.st.bsize = static_cast<std::uint32_t>(found.f_bsize);
    out.st.namelen = static_cast<std::uint32_t>(found.f_namelen);
    out.st.frsize = static_cast<std::uint32_t>(found.f_frsize);
    return reply.put(out);
}

} // namespace virtio::fs
