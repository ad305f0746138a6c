#include "tools/image/attributes.hpp"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

namespace image {
namespace {

constexpr std::uint32_t set_id_bits = S_ISUID | S_ISGID;
constexpr std::string_view user_prefix = "user.";

// EINVAL: a number that this user namespace has no place for.
bool is_refusal(int error) {
    return error == EPERM || error == EINVAL || error == EACCES || error == ENOTSUP ||
           error == EOPNOTSUPP;
}

std::string octal(std::uint32_t mode) {
    std::string out;
    for (int shift = 9; shift >= 0; shift -= 3)
        out += static_cast<char>('0' + ((mode >> shift) & 7));
    return out;
}

std::string stat_text(const TarEntry& entry) {
    return os::text(entry.uid, ":", entry.gid, ":", octal(entry.mode));
}

// What an image may set. The rest belongs to the host: labels and hashes of its security modules
// ("security.selinux", "security.ima"), marks of its overlays ("trusted.overlay.*").
bool is_welcome(std::string_view name) {
    if (name == override_xattr || name.starts_with(kept_xattr_prefix))
        return false;
    return name == "security.capability" || name.starts_with(user_prefix) ||
           name == "system.posix_acl_access" || name == "system.posix_acl_default";
}

base::Failure<int> last_errno() {
    return base::Failure(errno);
}

std::array<timespec, 2> times_of(const TarEntry& entry) {
    return {timespec{0, UTIME_OMIT}, entry.modified};
}

} // namespace

void AttributeWriter::record(int fd, const std::string& value) {
    if (::fsetxattr(fd, override_xattr, value.data(), value.size(), 0) == 0)
        ++counts_.recorded;
    else
        ++counts_.lost;
}

base::Result<void, int> AttributeWriter::set_xattrs(int fd, const TarEntry& entry) {
    for (const Xattr& xattr : entry.xattrs) {
        if (!is_welcome(xattr.name)) {
            ++counts_.lost;
            continue;
        }
        if (::fsetxattr(fd, xattr.name.c_str(), xattr.value.data(), xattr.value.size(), 0) == 0)
            continue;
        if (!is_refusal(errno) && errno != ERANGE)
            return last_errno();
        const std::string kept = kept_xattr_prefix + xattr.name;
        if (::fsetxattr(fd, kept.c_str(), xattr.value.data(), xattr.value.size(), 0) != 0)
            ++counts_.lost;
    }
    return {};
}

base::Result<void, int> AttributeWriter::apply(int fd, const TarEntry& entry) {
    bool owner_set = true;
    // First the owner: a change of it takes away set-id bits and capabilities.
    if (::fchown(fd, entry.uid, entry.gid) != 0) {
        if (!is_refusal(errno))
            return last_errno();
        owner_set = false;
    }
    TRY(set_xattrs(fd, entry));
    std::uint32_t mode = entry.mode;
    if (!privileged_ || !owner_set) {
        mode &= ~set_id_bits;
        mode |= entry.kind == TarEntry::Kind::Directory ? 0700 : 0600;
    }
    if (!owner_set || mode != entry.mode)
        record(fd, stat_text(entry));
    if (::fchmod(fd, mode) != 0)
        return last_errno();
    if (::futimens(fd, times_of(entry).data()) != 0)
        return last_errno();
    return {};
}

base::Result<void, int> AttributeWriter::apply_at(int directory, const char* name,
                                                  const TarEntry& entry) {
    bool owner_set = true;
    if (::fchownat(directory, name, entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) {
        if (!is_refusal(errno))
            return last_errno();
        // Neither links nor pipes can have attributes of the user's.
        ++counts_.lost;
        owner_set = false;
    }
    if (entry.kind != TarEntry::Kind::SymbolicLink) {
        const std::uint32_t mode =
            privileged_ && owner_set ? entry.mode : (entry.mode & ~set_id_bits) | 0600;
        // The name was made just now, and is no link.
        if (::fchmodat(directory, name, mode, 0) != 0)
            return last_errno();
    }
    if (::utimensat(directory, name, times_of(entry).data(), AT_SYMLINK_NOFOLLOW) != 0)
        return last_errno();
    return {};
}

base::Result<void, int> AttributeWriter::record_device(int fd, const TarEntry& entry) {
    const bool block = entry.kind == TarEntry::Kind::BlockDevice;
    record(fd, os::text(stat_text(entry), block ? ":block-" : ":char-", major(entry.device), "-",
                        minor(entry.device)));
    if (::fchmod(fd, 0600) != 0)
        return last_errno();
    if (::futimens(fd, times_of(entry).data()) != 0)
        return last_errno();
    return {};
}

} // namespace image
