#include "virtio/backend/fs/xattrs.hpp"

#include <fcntl.h>

#include <sys/xattr.h>

namespace virtio::fs {

namespace {

Result<std::size_t> length_or_error(long outcome) {
    if (outcome < 0)
        return fail_errno();
    return static_cast<std::size_t>(outcome);
}

} // namespace

bool Xattrs::native_available() {
    return listxattr_at(-1, ".", 0, {}) >= 0 || errno != ENOSYS;
}

Result<std::size_t> Xattrs::get_named(int dir, const char* path, const char* name,
                                      std::span<std::byte> value) {
    return length_or_error(getxattr_at(dir, path, AT_SYMLINK_NOFOLLOW, name, value));
}

Result<std::size_t> Xattrs::list_named(int dir, const char* path, std::span<std::byte> names) {
    return length_or_error(listxattr_at(dir, path, AT_SYMLINK_NOFOLLOW, names));
}

Result<UniqueFd> Xattrs::opened(int fd, mode_t type) const {
    if (!S_ISREG(type) && !S_ISDIR(type))
        return fail(EOPNOTSUPP);
    return proc_.reopen(fd, O_RDONLY);
}

Result<std::size_t> Xattrs::get(int fd, mode_t type, const char* name,
                                std::span<std::byte> value) const {
    if (native_)
        return length_or_error(getxattr_at(proc_.dir(), ProcFds::name_of(fd).text, 0, name, value));
    auto file = opened(fd, type);
    if (!file)
        return fail(file.error().code == EACCES ? ENODATA : file.error().code);
    return length_or_error(::fgetxattr(file->get(), name, value.data(), value.size()));
}

Result<std::size_t> Xattrs::list(int fd, mode_t type, std::span<std::byte> names) const {
    if (native_)
        return length_or_error(listxattr_at(proc_.dir(), ProcFds::name_of(fd).text, 0, names));
    auto file = opened(fd, type);
    if (!file) {
        if (file.error().code == EACCES)
            return std::size_t{0};
        return base::Failure(file.error());
    }
    // SAFETY: names are bytes to us, char to flistxattr.
    return length_or_error(
        ::flistxattr(file->get(), reinterpret_cast<char*>(names.data()), names.size()));
}

Result<void> Xattrs::set(int fd, mode_t type, const char* name, std::span<const std::byte> value,
                         int flags) const {
    if (native_)
        return check(setxattr_at(proc_.dir(), ProcFds::name_of(fd).text, name, value, flags));
    TRY(const UniqueFd file, opened(fd, type));
    return check(::fsetxattr(file.get(), name, value.data(), value.size(), flags));
}

Result<void> Xattrs::remove(int fd, mode_t type, const char* name) const {
    if (native_)
        return check(removexattr_at(proc_.dir(), ProcFds::name_of(fd).text, name));
    TRY(const UniqueFd file, opened(fd, type));
    return check(::fremovexattr(file.get(), name));
}

} // namespace virtio::fs
