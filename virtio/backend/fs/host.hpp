// The host's side of the file server: system calls that cannot leave a directory, and what they say
// in FUSE's words. Nothing here follows a symbolic link.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include <linux/fuse.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/result.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace virtio::fs {

// An errno of the host, on its way to the guest as it is.
struct HostError {
    int code = EIO;
};
template <typename T>
using Result = base::Result<T, HostError>;

inline base::Failure<HostError> fail(int code) {
    return base::Failure(HostError{code});
}
inline base::Failure<HostError> fail_errno() {
    return fail(errno);
}
// For calls that say -1.
inline Result<void> check(long outcome) {
    if (outcome < 0)
        return fail_errno();
    return {};
}

// Opens one component below `dir`, by openat2 with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and
// RESOLVE_NO_MAGICLINKS; O_NOFOLLOW, O_NONBLOCK, O_NOCTTY and O_CLOEXEC are added.
// Requires: `name` holds no '/', and is not "..".
Result<UniqueFd> open_component(int dir, const char* name, int flags, mode_t mode = 0);

// Of `name` in `dir`, or of `dir` itself if it is empty. A descriptor of any kind will do.
Result<struct statx> stat_at(int dir, const char* name);

// A directory descriptor of /proc/self/fd, by which an O_PATH descriptor can be opened anew, or
// given to calls that take no O_PATH descriptor.
class ProcFds {
public:
    static Result<ProcFds> open();
    // Requires: what `fd` refers to is known to be a regular file or a directory.
    Result<UniqueFd> reopen(int fd, int flags) const;

    // The name of `fd` relative to dir(), to be followed as a symbolic link.
    struct Name {
        char text[16];
    };
    static Name name_of(int fd);
    int dir() const { return dir_.get(); }

private:
    explicit ProcFds(UniqueFd dir) : dir_(std::move(dir)) {}
    UniqueFd dir_;
};

// STATX_MNT_ID_UNIQUE of linux/stat.h (6.8): numbers of mounts that are never used again.
inline constexpr unsigned unique_mount_number = 0x4000;
// stx_mnt_id, which Debian 12's <sys/stat.h> does not name; 0 before Linux 5.8.
std::uint64_t mount_of(const struct statx& found);

inline std::uint64_t device_of(const struct statx& found) {
    return (std::uint64_t{found.stx_dev_major} << 32) | found.stx_dev_minor;
}
inline mode_t type_of(const struct statx& found) {
    return found.stx_mode & S_IFMT;
}
// The guest's attributes; `ino` is the inode number that it sees.
fuse_attr to_attr(const struct statx& found, std::uint64_t ino);

// True if this process may read files whatever their mode is.
bool may_read_everything();

// Makes new files belong to the one who asked, as far as this process may: while it lives, the
// thread's file system ids are `uid` and `gid`, with all its capabilities kept, so that the host
// refuses nothing on account of the change (permissions are the guest kernel's business). Without
// the right to change them files belong to this process's user.
class OwnerSwitch {
public:
    OwnerSwitch(bool enabled, uid_t uid, gid_t gid);
    OwnerSwitch(const OwnerSwitch&) = delete;
    OwnerSwitch& operator=(const OwnerSwitch&) = delete;
    ~OwnerSwitch();

private:
    bool active_ = false;
};
// Whether an OwnerSwitch would have any effect in this process.
bool may_switch_owner();

// Takes set-user-id, and set-group-id of executables, off a regular file, as the kernel does for a
// writer without CAP_FSETID (FUSE_HANDLE_KILLPRIV_V2).
Result<void> drop_set_id_bits(int fd);

// getxattrat and its relatives: of what `path` below `dir` leads to. ENOSYS before Linux 6.13.
// `at_flags`: 0 follows a link, AT_SYMLINK_NOFOLLOW does not; set and remove follow.
long getxattr_at(int dir, const char* path, int at_flags, const char* name,
                 std::span<std::byte> value);
long listxattr_at(int dir, const char* path, int at_flags, std::span<std::byte> names);
long setxattr_at(int dir, const char* path, const char* name, std::span<const std::byte> value,
                 int flags);
long removexattr_at(int dir, const char* path, const char* name);

} // namespace virtio::fs
