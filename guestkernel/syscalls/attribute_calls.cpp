#include <linux/errno.h>
#include <linux/falloc.h>
#include <linux/fcntl.h>

#include "guestkernel/fs/attributes.hpp"
#include "guestkernel/fs/leases.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

namespace {

constexpr i64 now_marker = (i64{1} << 30) - 1;  // UTIME_NOW
constexpr i64 omit_marker = (i64{1} << 30) - 2; // UTIME_OMIT
constexpr i64 largest_nanoseconds = 999'999'999;

struct UserTime { // struct timespec and struct timeval alike
    i64 seconds, fraction;
};

struct TimeChange {
    Attributes times;
    u32 mask = set_access_time_now | set_modify_time_now;
    bool both_now = true;
};

Result<void> set_one(i64 seconds, i64 nanoseconds, TimeSpec& out, u32& mask, u32 set, u32 set_now) {
    if (nanoseconds == omit_marker)
        return {};
    if (nanoseconds == now_marker) {
        mask |= set_now;
        return {};
    }
    if (nanoseconds < 0 || nanoseconds > largest_nanoseconds)
        return fail(EINVAL);
    out = {seconds, static_cast<u32>(nanoseconds)};
    mask |= set;
    return {};
}

Result<TimeChange> explicit_times(const UserTime& access, const UserTime& modify) {
    TimeChange change;
    change.mask = 0;
    TRY(set_one(access.seconds, access.fraction, change.times.access_time, change.mask,
                set_access_time, set_access_time_now));
    TRY(set_one(modify.seconds, modify.fraction, change.times.modify_time, change.mask,
                set_modify_time, set_modify_time_now));
    change.both_now = access.fraction == now_marker && modify.fraction == now_marker;
    return change;
}

// The two times of utimes(2) and futimesat(2), in microseconds.
Result<TimeChange> microsecond_times(u64 address) {
    if (address == 0)
        return TimeChange{};
    constexpr i64 million = 1'000'000;
    UserTime times[2];
    TRY(copy_in_bytes(times, address, sizeof times));
    for (UserTime& time : times) {
        if (time.fraction < 0 || time.fraction >= million)
            return fail(EINVAL);
        time.fraction *= 1000;
    }
    return explicit_times(times[0], times[1]);
}

Result<long> apply_times(const Path& path, const TimeChange& change) {
    if (change.mask != 0)
        TRY(change_times(path, change.times, change.mask, change.both_now));
    return 0;
}

Result<Path> find(int directory, u64 name, u32 lookup) {
    TRY(String text, copy_path(name));
    return lookup_path(directory, text.view(), lookup);
}

Result<Path> find_open(Task& task, int fd) {
    TRY(Ref<File> file, usable_file(task, fd));
    return path_of(*file);
}

} // namespace

Result<long> sys_fchmodat(Task&, int directory, u64 name, u32 mode) {
    TRY(Path path, find(directory, name, lookup_follow));
    TRY(change_mode(path, mode));
    return 0;
}
Result<long> sys_chmod(Task& task, u64 name, u32 mode) {
    return sys_fchmodat(task, at_fdcwd, name, mode);
}

Result<long> sys_fchmod(Task& task, int fd, u32 mode) {
    TRY(Path path, find_open(task, fd));
    TRY(change_mode(path, mode));
    return 0;
}

namespace {

Result<void> change_owner_for_user(const Path& path, u32 uid, u32 gid) {
    const UserNamespace* space = current_task().credentials->user_ns.get();
    const u32 owner = uid == keep_id ? keep_id : to_global_id(space, false, uid);
    const u32 group = gid == keep_id ? keep_id : to_global_id(space, true, gid);
    if ((owner == invalid_id && uid != keep_id) || (group == invalid_id && gid != keep_id))
        return fail(EINVAL);
    return change_owner(path, owner, group);
}

} // namespace

Result<long> sys_fchownat(Task&, int directory, u64 name, u32 uid, u32 gid, u32 flags) {
    if ((flags & ~u32{AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH}) != 0)
        return fail(EINVAL);
    const u32 lookup = ((flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0u : u32{lookup_follow}) |
                       ((flags & AT_EMPTY_PATH) != 0 ? u32{lookup_empty_path} : 0u);
    TRY(Path path, find(directory, name, lookup));
    TRY(change_owner_for_user(path, uid, gid));
    return 0;
}
Result<long> sys_chown(Task& task, u64 name, u32 uid, u32 gid) {
    return sys_fchownat(task, at_fdcwd, name, uid, gid, 0);
}
Result<long> sys_lchown(Task& task, u64 name, u32 uid, u32 gid) {
    return sys_fchownat(task, at_fdcwd, name, uid, gid, AT_SYMLINK_NOFOLLOW);
}

Result<long> sys_fchown(Task& task, int fd, u32 uid, u32 gid) {
    TRY(Path path, find_open(task, fd));
    TRY(change_owner_for_user(path, uid, gid));
    return 0;
}

Result<long> sys_utime(Task&, u64 name, u64 address) {
    TimeChange change;
    if (address != 0) {
        i64 times[2]; // struct utimbuf
        TRY(copy_in_bytes(times, address, sizeof times));
        TRY(change, explicit_times({times[0], 0}, {times[1], 0}));
    }
    TRY(Path path, find(at_fdcwd, name, lookup_follow));
    return apply_times(path, change);
}

Result<long> sys_futimesat(Task& task, int directory, u64 name, u64 times) {
    TRY(TimeChange change, microsecond_times(times));
    if (name == 0) {
        TRY(Path open, find_open(task, directory));
        return apply_times(open, change);
    }
    TRY(Path path, find(directory, name, lookup_follow));
    return apply_times(path, change);
}
Result<long> sys_utimes(Task& task, u64 name, u64 times) {
    return sys_futimesat(task, at_fdcwd, name, times);
}

Result<long> sys_utimensat(Task& task, int directory, u64 name, u64 address, u32 flags) {
    if ((flags & ~u32{AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH}) != 0)
        return fail(EINVAL);
    TimeChange change;
    if (address != 0) {
        UserTime times[2];
        TRY(copy_in_bytes(times, address, sizeof times));
        TRY(change, explicit_times(times[0], times[1]));
        if (change.mask == 0)
            return 0; // both UTIME_OMIT: not even the path is looked at
    }
    if (name == 0) {
        if (flags != 0)
            return fail(EINVAL);
        TRY(Path open, find_open(task, directory));
        return apply_times(open, change);
    }
    const u32 lookup = ((flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0u : u32{lookup_follow}) |
                       ((flags & AT_EMPTY_PATH) != 0 ? u32{lookup_empty_path} : 0u);
    TRY(Path path, find(directory, name, lookup));
    return apply_times(path, change);
}

Result<long> sys_truncate(Task&, u64 name, i64 size) {
    if (size < 0)
        return fail(EINVAL);
    TRY(Path path, find(at_fdcwd, name, lookup_follow));
    Inode& inode = *path.dentry()->inode();
    if (inode.is_directory())
        return fail(EISDIR);
    if (!inode.is_regular())
        return fail(EINVAL);
    TRY(check_access(path, may_write));
    if (inode.is_append_only())
        return fail(EPERM);
    TRY(claim_write(inode));
    auto done = restartable(break_leases(inode, true, true));
    if (done)
        done = truncate_path(path, static_cast<u64>(size));
    inode.write_count.fetch_sub(1);
    TRY(std::move(done));
    return 0;
}

Result<long> sys_ftruncate(Task& task, int fd, i64 size) {
    if (size < 0)
        return fail(EINVAL);
    TRY(Ref<File> file, usable_file(task, fd));
    if (!file->writable() || file->inode() == nullptr || !file->inode()->is_regular())
        return fail(EINVAL);
    if (file->inode()->is_append_only())
        return fail(EPERM);
    TRY(restartable(file->truncate(static_cast<u64>(size))));
    return 0;
}

Result<long> sys_fallocate(Task& task, int fd, int mode, i64 offset, i64 length) {
    if (offset < 0 || length <= 0)
        return fail(EINVAL);
    TRY(Ref<File> file, usable_file(task, fd));
    i64 end = 0;
    if (__builtin_add_overflow(offset, length, &end))
        return fail(EFBIG);
    if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE |
                  FALLOC_FL_ZERO_RANGE | FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE)) != 0)
        return fail(EOPNOTSUPP);
    const int kind = mode & ~FALLOC_FL_KEEP_SIZE;
    if ((kind & FALLOC_FL_PUNCH_HOLE) != 0 && (mode & FALLOC_FL_KEEP_SIZE) == 0)
        return fail(EOPNOTSUPP);
    if ((kind & (kind - 1)) != 0)
        return fail((kind & FALLOC_FL_PUNCH_HOLE) != 0 ? EOPNOTSUPP : EINVAL);
    if (!file->writable())
        return fail(EBADF);
    if (const Inode* inode = file->inode();
        inode != nullptr && (inode->is_immutable() || (kind != 0 && inode->is_append_only())))
        return fail(EPERM);
    if (file->inode() == nullptr)
        return fail(file->is_stream() ? ESPIPE : ENODEV);
    if (file->is_stream() && !file->inode()->is_regular())
        return fail(ESPIPE);
    if (file->inode()->is_directory())
        return fail(EISDIR);
    if (!file->inode()->is_regular())
        return fail(ENODEV);
    if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && static_cast<u64>(end) > file->inode()->file_size())
        TRY(limit_file_size(static_cast<u64>(end) - 1, 1));
    auto done = file->allocate(mode, static_cast<u64>(offset), static_cast<u64>(length));
    // A regular file whose file system cannot: C libraries then write zeros themselves.
    if (!done && done.error().code == ENODEV)
        return fail(EOPNOTSUPP);
    TRY(restartable(std::move(done)));
    MutexGuard guard(file->inode()->mutex());
    TRY(drop_privileges(*file->inode()));
    return 0;
}

Result<long> sys_umask(Task& task, u32 mask) {
    return static_cast<long>(task.fs->exchange_umask(mask & 0777));
}

} // namespace kernel
