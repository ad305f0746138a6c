// Session: extended attributes.
#include <memory>

#include <linux/limits.h>

#include "virtio/backend/fs/session.hpp"

namespace virtio::fs {

namespace {

using AttributeName = std::array<char, XATTR_NAME_MAX + 1>;

Result<void> attribute_name(Request& request, AttributeName& name) {
    TRY(const std::size_t length, request.string(name));
    return length == 0 ? fail(ERANGE) : Result<void>();
}

// Of the file behind a request, up to `size` bytes, or the length alone for 0.
template <typename Get>
Result<void> reply_value(std::uint32_t size, Reply& reply, Get&& get) {
    if (size == 0) {
        TRY(const std::size_t length, get(std::span<std::byte>()));
        fuse_getxattr_out out{};
        out.size = static_cast<std::uint32_t>(length);
        return reply.put(out);
    }
    const std::size_t room = std::min<std::size_t>({size, XATTR_SIZE_MAX, reply.room()});
    const std::unique_ptr<std::byte[]> value(new std::byte[room]);
    TRY(const std::size_t length, get(std::span(value.get(), room)));
    // With no room at all the host was asked for the length.
    if (length > room || !reply.body().write(std::span(value.get(), length)))
        return fail(ERANGE);
    return {};
}

} // namespace

// `ls -l` asks for attributes of every file, and nearly none has any: not worth a descriptor where
// the client cannot swap names. Should the host have swapped them, it sees the new file's.
Result<InodeTable::Place> Session::place_of_attributes(const InodeRef& inode) {
    if (share_.read_only && xattrs_.native())
        return inodes_.place(inode);
    TRY(FdRef fd, inodes_.any_fd(inode));
    return InodeTable::Place{std::move(fd), {}};
}

Result<void> Session::op_getxattr(Request& request, Reply& reply) {
    if (!share_.xattrs)
        return fail(ENOSYS);
    TRY(const fuse_getxattr_in in, request.arguments<fuse_getxattr_in>());
    AttributeName name;
    TRY(attribute_name(request, name));
    TRY(const InodeRef inode, inodes_.find(request.node()));
    if (inode->sealed() || is_frame(inode))
        return fail(ENODATA);
    TRY(const InodeTable::Place at, place_of_attributes(inode));
    if (!at.name.empty())
        return reply_value(in.size, reply, [&](std::span<std::byte> value) {
            return Xattrs::get_named(at.dir->get(), at.name.c_str(), name.data(), value);
        });
    const FdRef& fd = at.dir;
    return reply_value(in.size, reply, [&](std::span<std::byte> value) {
        return xattrs_.get(fd->get(), inode->key().type, name.data(), value);
    });
}

Result<void> Session::op_listxattr(Request& request, Reply& reply) {
    if (!share_.xattrs)
        return fail(ENOSYS);
    TRY(const fuse_getxattr_in in, request.arguments<fuse_getxattr_in>());
    TRY(const InodeRef inode, inodes_.find(request.node()));
    if (inode->sealed() || is_frame(inode))
        return reply_value(in.size, reply, [](std::span<std::byte>) {
            return Result<std::size_t>(std::size_t{0});
        });
    TRY(const InodeTable::Place at, place_of_attributes(inode));
    if (!at.name.empty())
        return reply_value(in.size, reply, [&](std::span<std::byte> names) {
            return Xattrs::list_named(at.dir->get(), at.name.c_str(), names);
        });
    const FdRef& fd = at.dir;
    return reply_value(in.size, reply, [&](std::span<std::byte> names) {
        return xattrs_.list(fd->get(), inode->key().type, names);
    });
}

Result<void> Session::op_setxattr(Request& request, Reply&) {
    if (!share_.xattrs)
        return fail(ENOSYS);
    fuse_setxattr_in in{};
    const bool extended = setxattr_ext_.load(std::memory_order_relaxed);
    const std::size_t head = extended ? sizeof in : std::size_t{FUSE_COMPAT_SETXATTR_IN_SIZE};
    if (!request.rest().read(std::as_writable_bytes(std::span(&in, 1)).first(head)))
        return fail(EINVAL);
    AttributeName name;
    TRY(attribute_name(request, name));
    if (in.size > XATTR_SIZE_MAX)
        return fail(E2BIG);
    const std::unique_ptr<std::byte[]> value(new std::byte[in.size]);
    if (!request.rest().read(std::span(value.get(), in.size)))
        return fail(EINVAL);
    TRY(const InodeRef inode, inodes_.find(request.node()));
    // An access list is an attribute, too: it would open the directory to others on the host.
    if (is_frame(inode))
        return fail(EPERM);
    TRY(const FdRef fd, inodes_.any_fd(inode));
    return xattrs_.set(fd->get(), inode->key().type, name.data(), std::span(value.get(), in.size),
                       static_cast<int>(in.flags));
}

Result<void> Session::op_removexattr(Request& request, Reply&) {
    if (!share_.xattrs)
        return fail(ENOSYS);
    AttributeName name;
    TRY(attribute_name(request, name));
    TRY(const InodeRef inode, inodes_.find(request.node()));
    if (is_frame(inode))
        return fail(EPERM);
    TRY(const FdRef fd, inodes_.any_fd(inode));
    return xattrs_.remove(fd->get(), inode->key().type, name.data());
}

} // namespace virtio::fs
