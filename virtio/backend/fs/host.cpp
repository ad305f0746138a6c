#include "virtio/backend/fs/host.hpp"

#include <charconv>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include <linux/capability.h>
#include <linux/openat2.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>

namespace virtio::fs {

namespace {

// asm/unistd_64.h of Debian 12 is older than these calls.
constexpr long setxattrat_number = 463;
constexpr long getxattrat_number = 464;
constexpr long listxattrat_number = 465;
constexpr long removexattrat_number = 466;

// struct xattr_args of linux/xattr.h (6.13).
struct XattrArguments {
    std::uint64_t value;
    std::uint32_t size;
    std::uint32_t flags;
};
static_assert(sizeof(XattrArguments) == 16);

struct Capabilities {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3]{};

    bool load() { return ::syscall(SYS_capget, &header, data) == 0; }
    bool store() { return ::syscall(SYS_capset, &header, data) == 0; }
    bool effective(unsigned capability) const {
        return (data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability)) != 0;
    }
};

} // namespace

Result<UniqueFd> open_component(int dir, const char* name, int flags, mode_t mode) {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_NOFOLLOW | O_CLOEXEC);
    // openat2 refuses what O_PATH ignores.
    if ((flags & O_PATH) == 0)
        how.flags |= O_NONBLOCK | O_NOCTTY;
    how.mode = (flags & (O_CREAT | __O_TMPFILE)) != 0 ? mode : 0;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    for (;;) {
        const long fd = ::syscall(SYS_openat2, dir, name, &how, sizeof how);
        if (fd >= 0)
            return UniqueFd(static_cast<int>(fd));
        // EAGAIN: a rename somewhere raced with the walk (openat2(2)); also a lease, for
        // O_NONBLOCK, which does not go away by itself: the guest may try again.
        if (errno != EINTR)
            return fail_errno();
    }
}

std::uint64_t mount_of(const struct statx& found) {
    constexpr std::size_t offset = 0x90;
    std::uint64_t number = 0;
    if ((found.stx_mask & (STATX_MNT_ID | unique_mount_number)) != 0) {
        const void* start = &found;
        std::memcpy(&number, static_cast<const char*>(start) + offset, sizeof number);
    }
    return number;
}

Result<struct statx> stat_at(int dir, const char* name) {
    struct statx found {};
    const int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH;
    TRY(check(::statx(dir, name, flags,
                      STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID | unique_mount_number,
                      &found)));
    return found;
}

Result<ProcFds> ProcFds::open() {
    UniqueFd dir(::open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!dir)
        return fail_errno();
    return ProcFds(std::move(dir));
}

ProcFds::Name ProcFds::name_of(int fd) {
    Name name{};
    std::to_chars(name.text, name.text + sizeof name.text - 1, fd);
    return name;
}

Result<UniqueFd> ProcFds::reopen(int fd, int flags) const {
    for (;;) {
        UniqueFd opened(
            ::openat(dir_.get(), name_of(fd).text, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
        if (opened)
            return opened;
        if (errno != EINTR)
            return fail_errno();
    }
}

fuse_attr to_attr(const struct statx& found, std::uint64_t ino) {
    fuse_attr attr{};
    attr.ino = ino;
    attr.size = found.stx_size;
    attr.blocks = found.stx_blocks;
    attr.atime = static_cast<std::uint64_t>(found.stx_atime.tv_sec);
    attr.mtime = static_cast<std::uint64_t>(found.stx_mtime.tv_sec);
    attr.ctime = static_cast<std::uint64_t>(found.stx_ctime.tv_sec);
    attr.atimensec = found.stx_atime.tv_nsec;
    attr.mtimensec = found.stx_mtime.tv_nsec;
    attr.ctimensec = found.stx_ctime.tv_nsec;
    attr.mode = found.stx_mode;
    attr.nlink = found.stx_nlink;
    attr.uid = found.stx_uid;
    attr.gid = found.stx_gid;
    // new_encode_dev() of the kernel.
    attr.rdev = (found.stx_rdev_minor & 0xff) | (found.stx_rdev_major << 8) |
                ((found.stx_rdev_minor & ~0xffu) << 12);
    attr.blksize = found.stx_blksize;
    return attr;
}

bool may_read_everything() {
    Capabilities own;
    return own.load() && (own.effective(CAP_DAC_OVERRIDE) || own.effective(CAP_DAC_READ_SEARCH));
}

bool may_switch_owner() {
    Capabilities own;
    return own.load() && own.effective(CAP_SETUID) && own.effective(CAP_SETGID);
}

OwnerSwitch::OwnerSwitch(bool enabled, uid_t uid, gid_t gid) {
    // This process's own ids need no change.
    if (!enabled || (uid == ::geteuid() && gid == ::getegid()))
        return;
    Capabilities before;
    if (!before.load())
        return;
    active_ = true;
    ::setfsgid(gid);
    ::setfsuid(uid);
    // Leaving uid 0 cleared the file system capabilities (capabilities(7)): take them up again.
    before.store();
}

OwnerSwitch::~OwnerSwitch() {
    if (!active_)
        return;
    // The operation's errno is still to be looked at.
    const int saved = errno;
    ::setfsuid(::geteuid());
    ::setfsgid(::getegid());
    errno = saved;
}

Result<void> drop_set_id_bits(int fd) {
    struct stat found {};
    TRY(check(::fstat(fd, &found)));
    if (!S_ISREG(found.st_mode))
        return {};
    mode_t mode = found.st_mode & ~static_cast<mode_t>(S_ISUID);
    if ((mode & S_IXGRP) != 0)
        mode &= ~static_cast<mode_t>(S_ISGID);
    if (mode == found.st_mode)
        return {};
    return check(::fchmod(fd, mode & 07777));
}

long getxattr_at(int dir, const char* path, int at_flags, const char* name,
                 std::span<std::byte> value) {
    XattrArguments arguments{};
    // SAFETY: the kernel takes the address as a number.
    arguments.value = reinterpret_cast<std::uintptr_t>(value.data());
    arguments.size = static_cast<std::uint32_t>(value.size());
    return ::syscall(getxattrat_number, dir, path, at_flags, name, &arguments, sizeof arguments);
}

long listxattr_at(int dir, const char* path, int at_flags, std::span<std::byte> names) {
    return ::syscall(listxattrat_number, dir, path, at_flags, names.data(), names.size());
}

long setxattr_at(int dir, const char* path, const char* name, std::span<const std::byte> value,
                 int flags) {
    XattrArguments arguments{};
    // SAFETY: as above.
    arguments.value = reinterpret_cast<std::uintptr_t>(value.data());
    arguments.size = static_cast<std::uint32_t>(value.size());
    arguments.flags = static_cast<std::uint32_t>(flags);
    return ::syscall(setxattrat_number, dir, path, 0, name, &arguments, sizeof arguments);
}

long removexattr_at(int dir, const char* path, const char* name) {
    return ::syscall(removexattrat_number, dir, path, 0, name);
}

} // namespace virtio::fs
