// Session: making, removing and renaming.
#include <fcntl.h>
#include <unistd.h>

#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "virtio/backend/fs/session.hpp"

namespace virtio::fs {

namespace {

constexpr mode_t permission_bits = 07777;

// FUSE_DONT_MASK is not offered, so that the client has masked the mode itself; doing so again does
// no harm, and is right for one that did not.
mode_t masked(std::uint32_t mode, std::uint32_t umask) {
    return mode & permission_bits & ~(umask & 0777);
}

} // namespace

Result<Session::Directory> Session::changeable_directory(std::uint64_t node) {
    TRY(Directory found, directory(node));
    if (!found.fd)
        return fail(EACCES);
    if (is_frame(found.inode))
        return fail(EPERM);
    return found;
}

Result<void> Session::reply_entry(const Directory& parent, const Name& name, Reply& reply) {
    TRY(const struct statx found, stat_at(parent.fd->get(), name.c_str()));
    TRY(const InodeRef inode, inodes_.look_up(found, parent.inode, parent.fd->get(), name.c_str()));
    return reply.put(entry(inode, found));
}

Result<void> Session::op_mknod(Request& request, Reply& reply) {
    TRY(const fuse_mknod_in in, request.arguments<fuse_mknod_in>());
    Name name;
    TRY(request.name(name));
    TRY(const Directory parent, changeable_directory(request.node()));
    const mode_t type = in.mode & S_IFMT;
    const bool device = S_ISCHR(type) || S_ISBLK(type);
    // The character device 0:0 is overlayfs's sign for "removed"; nothing is behind it.
    if (device && !share_.device_nodes && !(S_ISCHR(type) && in.rdev == 0))
        return fail(EPERM);
    // new_decode_dev() of the kernel.
    const dev_t number =
        ::makedev((in.rdev & 0xfff00) >> 8, (in.rdev & 0xff) | ((in.rdev >> 12) & 0xfff00));
    {
        const OwnerSwitch owner(share_.switch_owner, request.header().uid, request.header().gid);
        TRY(check(
            ::mknodat(parent.fd->get(), name.c_str(), type | masked(in.mode, in.umask), number)));
    }
    return reply_entry(parent, name, reply);
}

Result<void> Session::op_mkdir(Request& request, Reply& reply) {
    TRY(const fuse_mkdir_in in, request.arguments<fuse_mkdir_in>());
    Name name;
    TRY(request.name(name));
    TRY(const Directory parent, changeable_directory(request.node()));
    {
        const OwnerSwitch owner(share_.switch_owner, request.header().uid, request.header().gid);
        TRY(check(::mkdirat(parent.fd->get(), name.c_str(), masked(in.mode, in.umask))));
    }
    return reply_entry(parent, name, reply);
}

Result<void> Session::op_symlink(Request& request, Reply& reply) {
    Name name;
    TRY(request.name(name));
    std::array<char, PATH_MAX> target;
    TRY(request.string(target));
    TRY(const Directory parent, changeable_directory(request.node()));
    {
        const OwnerSwitch owner(share_.switch_owner, request.header().uid, request.header().gid);
        TRY(check(::symlinkat(target.data(), parent.fd->get(), name.c_str())));
    }
    return reply_entry(parent, name, reply);
}

Result<void> Session::op_link(Request& request, Reply& reply) {
    TRY(const fuse_link_in in, request.arguments<fuse_link_in>());
    Name name;
    TRY(request.name(name));
    TRY(const InodeRef inode, inodes_.find(in.oldnodeid));
    TRY(const Directory parent, changeable_directory(request.node()));
    TRY(const FdRef fd, inodes_.any_fd(inode));
    // The magic link leads to the very file, even if that is a symbolic link, and no further.
    TRY(check(::linkat(proc_.dir(), ProcFds::name_of(fd->get()).text, parent.fd->get(),
                       name.c_str(), AT_SYMLINK_FOLLOW)));
    return reply_entry(parent, name, reply);
}

void Session::keep_in_reach(const Directory& parent, const Name& name) {
    const auto found = stat_at(parent.fd->get(), name.c_str());
    // Not a file whose last name it is: its contents would stay on the disk for nobody. One that is
    // open has a descriptor.
    if (found && (!S_ISREG(found->stx_mode) || found->stx_nlink > 1))
        inodes_.keep_in_reach(*found, parent.inode, name.view());
}

Result<void> Session::op_unlink(Request& request, Reply&) {
    Name name;
    TRY(request.name(name));
    TRY(const Directory parent, changeable_directory(request.node()));
    keep_in_reach(parent, name);
    return check(::unlinkat(parent.fd->get(), name.c_str(), 0));
}

Result<void> Session::op_rmdir(Request& request, Reply&) {
    Name name;
    TRY(request.name(name));
    TRY(const Directory parent, changeable_directory(request.node()));
    keep_in_reach(parent, name);
    return check(::unlinkat(parent.fd->get(), name.c_str(), AT_REMOVEDIR));
}

Result<void> Session::rename(Request& request, std::uint64_t new_directory, unsigned flags) {
    if ((flags & ~static_cast<unsigned>(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)) != 0)
        return fail(EINVAL);
    Name old_name;
    Name new_name;
    TRY(request.name(old_name));
    TRY(request.name(new_name));
    TRY(const Directory from, changeable_directory(request.node()));
    TRY(const Directory to, changeable_directory(new_directory));
    keep_in_reach(to, new_name);
    // The call itself: the C library's function makes another one where there are no flags, which
    // the sandbox does not know.
    TRY(check(static_cast<int>(::syscall(SYS_renameat2, from.fd->get(), old_name.c_str(),
                                         to.fd->get(), new_name.c_str(), flags))));
    // Where they are now. What cannot be found is gone again already.
    if (const auto found = stat_at(to.fd->get(), new_name.c_str()))
        inodes_.moved(*found, to.inode, new_name.c_str());
    if ((flags & RENAME_EXCHANGE) != 0) {
        if (const auto found = stat_at(from.fd->get(), old_name.c_str()))
            inodes_.moved(*found, from.inode, old_name.c_str());
    }
    return {};
}

Result<void> Session::op_rename(Request& request, Reply&) {
    TRY(const fuse_rename_in in, request.arguments<fuse_rename_in>());
    return rename(request, in.newdir, 0);
}

Result<void> Session::op_rename2(Request& request, Reply&) {
    TRY(const fuse_rename2_in in, request.arguments<fuse_rename2_in>());
    return rename(request, in.newdir, in.flags);
}

} // namespace virtio::fs
