#include <asm/ioctls.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/resource.h>

#include "guestkernel/fs/attributes.hpp"
#include "guestkernel/fs/file_flags.hpp"
#include "guestkernel/fs/leases.hpp"
#include "guestkernel/fs/locks.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/ipc/dnotify.hpp"
#include "guestkernel/ipc/file_owner.hpp"
#include "guestkernel/ipc/pipe.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

namespace {

Result<LockType> to_lock_type(u64 type) {
    switch (type) {
    case F_RDLCK:
        return LockType::Shared;
    case F_WRLCK:
        return LockType::Exclusive;
    case F_UNLCK:
        return LockType::None;
    default:
        return fail(EINVAL);
    }
}

i16 from_lock_type(LockType type) {
    return type == LockType::None ? F_UNLCK : type == LockType::Shared ? F_RDLCK : F_WRLCK;
}

// struct flock to an absolute range. `l_len` may be negative: the bytes before the start
// (fcntl(2)).
Result<RecordLock> to_range(File& file, const flock& wanted) {
    i64 start = wanted.l_start;
    i64 base = 0;
    switch (wanted.l_whence) {
    case SEEK_SET:
        break;
    case SEEK_CUR:
        base = static_cast<i64>(file.position());
        break;
    case SEEK_END: {
        TRY(const Attributes attributes, file.inode()->attributes());
        base = static_cast<i64>(attributes.size);
        break;
    }
    default:
        return fail(EINVAL);
    }
    if (__builtin_add_overflow(start, base, &start))
        return fail(EOVERFLOW);
    i64 end = 0;
    if (wanted.l_len > 0) {
        if (__builtin_add_overflow(start, wanted.l_len - 1, &end))
            return fail(EOVERFLOW);
    } else if (wanted.l_len < 0) {
        end = start - 1;
        if (__builtin_add_overflow(start, i64{wanted.l_len}, &start))
            return fail(EINVAL);
    } else {
        end = static_cast<i64>(lock_to_end);
    }
    if (start < 0)
        return fail(EINVAL);
    RecordLock lock;
    lock.start = static_cast<u64>(start);
    lock.end = static_cast<u64>(end);
    lock.pid = current_pid();
    TRY(lock.type, to_lock_type(static_cast<u64>(wanted.l_type)));
    return lock;
}

Result<long> record_lock(Task& task, int fd, File& file, u32 command, u64 argument) {
    if (file.inode() == nullptr)
        return fail(EINVAL);
    UserPtr<struct flock> user(argument);
    TRY(struct flock wanted, user.copy_in());
    const bool of_file =
        command == F_OFD_GETLK || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    if (of_file && wanted.l_pid != 0)
        return fail(EINVAL);
    TRY(const RecordLock lock, to_range(file, wanted));
    const void* owner = of_file ? static_cast<const void*>(&file) : task.files.get();
    if (command == F_GETLK || command == F_OFD_GETLK) {
        if (lock.type == LockType::None)
            return fail(EINVAL);
        TRY(const RecordLock found, test_records(file, owner, lock));
        wanted.l_type = from_lock_type(found.type);
        if (found.type != LockType::None) {
            wanted.l_whence = SEEK_SET;
            wanted.l_start = static_cast<i64>(found.start);
            wanted.l_len =
                found.end == lock_to_end ? 0 : static_cast<i64>(found.end - found.start + 1);
            wanted.l_pid = visible_pid(found.pid);
        }
        TRY(user.copy_out(wanted));
        return 0;
    }
    if ((lock.type == LockType::Shared && !file.readable()) ||
        (lock.type == LockType::Exclusive && !file.writable()))
        return fail(EBADF);
    const bool wait = command == F_SETLKW || command == F_OFD_SETLKW;
    TRY(restartable(lock_records(file, owner, lock, wait, of_file)));
    // Another thread may have closed the descriptor while this one got the lock: then nobody would
    // ever release it.
    if (!of_file && lock.type != LockType::None) {
        auto now = task.files->get(fd);
        if (!now || now->get() != &file) {
            release_posix_locks(*file.inode(), task.files.get());
            return fail(EBADF);
        }
    }
    return 0;
}

// O_ASYNC on or off. ENOTTY: the file knows no such signals.
Result<void> set_async(File& file, int fd, bool on) {
    if (on == ((file.flags() & FASYNC) != 0))
        return {};
    if (!file.signals_readiness())
        return fail(ENOTTY);
    TRY(FileOwner * owner, FileOwner::of(file));
    if (on)
        return owner->arm(file, fd);
    owner->disarm();
    return {};
}

Result<long> set_flags(File& file, int fd, u32 flags) {
    constexpr u32 settable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | FASYNC;
    if ((flags & O_NOATIME) != 0 && (file.flags() & O_NOATIME) == 0 && file.inode() != nullptr &&
        !owner_or_capable(*file.inode()))
        return fail(EPERM);
    if (((flags ^ file.flags()) & O_APPEND) != 0 && file.inode() != nullptr &&
        file.inode()->is_append_only())
        return fail(EPERM);
    // Unlike FIOASYNC's, a wish that the file cannot fulfil is passed over.
    if (file.signals_readiness())
        TRY(set_async(file, fd, (flags & FASYNC) != 0));
    else
        flags = (flags & ~u32{FASYNC}) | (file.flags() & FASYNC);
    TRY(file.set_status_flags((file.flags() & ~settable) | (flags & settable)));
    return 0;
}

Result<long> seals(File& file, u32 command, u64 argument) {
    auto* memory = file_as<TmpfsRegularFile>(file);
    if (memory == nullptr)
        return fail(EINVAL);
    if (command == F_GET_SEALS)
        return static_cast<long>(memory->file().seals());
    if (!file.writable())
        return fail(EPERM);
    TRY(memory->file().add_seals(static_cast<u32>(argument)));
    return 0;
}

// struct f_owner_ex of F_SETOWN_EX; the UAPI has it under a name that needs other headers.
struct OwnerEx {
    i32 type, pid;
};

Result<long> set_owner(File& file, FileOwner::Kind kind, i32 number) {
    TRY(FileOwner * owner, FileOwner::of(file));
    TRY(owner->set(kind, number));
    return 0;
}

Result<long> owner(File& file, u32 command, u64 argument) {
    FileOwner::Kind kind = FileOwner::Kind::Process;
    i32 number = 0;
    if (file.owner != nullptr)
        file.owner->get(kind, number);
    switch (command) {
    case F_SETOWN: {
        const auto wanted = static_cast<i32>(argument);
        if (wanted == -0x7fff'ffff - 1)
            return fail(EINVAL);
        return wanted < 0 ? set_owner(file, FileOwner::Kind::Group, global_pid(-wanted))
                          : set_owner(file, FileOwner::Kind::Process, global_pid(wanted));
    }
    case F_GETOWN:
        return kind == FileOwner::Kind::Group ? -visible_pid(number) : visible_pid(number);
    case F_SETSIG: {
        const auto signal = static_cast<u32>(argument);
        if (signal > 64)
            return fail(EINVAL);
        TRY(FileOwner * whom, FileOwner::of(file));
        whom->set_signal(static_cast<int>(signal));
        return 0;
    }
    case F_GETSIG:
        return file.owner == nullptr ? 0 : file.owner->signal();
    case F_SETOWN_EX: {
        TRY(const OwnerEx wanted, UserPtr<OwnerEx>(argument).copy_in());
        if (wanted.type < F_OWNER_TID || wanted.type > F_OWNER_PGRP)
            return fail(EINVAL);
        return set_owner(file, static_cast<FileOwner::Kind>(wanted.type), global_pid(wanted.pid));
    }
    default:
        TRY(UserPtr<OwnerEx>(argument).copy_out({static_cast<i32>(kind), visible_pid(number)}));
        return 0;
    }
}

Result<long> duplicate(Task& task, Ref<File> file, u32 minimum, bool close_on_exec) {
    if (minimum >= current_limit(RLIMIT_NOFILE) || minimum > 0x7fff'ffff)
        return fail(EINVAL);
    TRY(const int fd,
        task.files->install(std::move(file), close_on_exec, static_cast<int>(minimum)));
    return fd;
}

Result<long> pipe_size(File& file) {
    auto* pipe = file_as<PipeFile>(file);
    if (pipe == nullptr)
        return fail(EBADF);
    return static_cast<long>(pipe->pipe().capacity());
}

Result<long> set_pipe_size(File& file, u64 bytes) {
    auto* pipe = file_as<PipeFile>(file);
    if (pipe == nullptr)
        return fail(EBADF);
    if (bytes > 0x8000'0000)
        return fail(EINVAL);
    if (bytes > Pipe::max_capacity && !has_capability(current_credentials(), CAP_SYS_RESOURCE))
        return fail(EPERM);
    TRY(const usize size, pipe->pipe().set_capacity(bytes));
    return static_cast<long>(size);
}

} // namespace

// Most arguments are an int: C programs, whose fcntl(3) takes anything, may leave rubbish above it.
Result<long> sys_fcntl(Task& task, int fd, u32 command, u64 argument) {
    const auto number = static_cast<u32>(argument);
    TRY(Ref<File> file, task.files->get(fd));
    switch (command) {
    case F_DUPFD:
        return duplicate(task, std::move(file), number, false);
    case F_DUPFD_CLOEXEC:
        return duplicate(task, std::move(file), number, true);
    case F_GETFD: {
        TRY(const bool on, task.files->close_on_exec(fd));
        return on ? FD_CLOEXEC : 0;
    }
    case F_SETFD:
        TRY(task.files->set_close_on_exec(fd, (argument & FD_CLOEXEC) != 0));
        return 0;
    case F_GETFL:
        return static_cast<long>(file->flags() & ~u32{O_NOCTTY});
    default:
        break;
    }
    if ((file->flags() & O_PATH) != 0)
        return fail(EBADF);
    switch (command) {
    case F_SETFL:
        return set_flags(*file, fd, number);
    case F_GETLK:
    case F_SETLK:
    case F_SETLKW:
    case F_OFD_GETLK:
    case F_OFD_SETLK:
    case F_OFD_SETLKW:
        return record_lock(task, fd, *file, command, argument);
    case F_SETOWN:
    case F_GETOWN:
    case F_SETSIG:
    case F_GETSIG:
    case F_SETOWN_EX:
    case F_GETOWN_EX:
        return owner(*file, command, argument);
    case F_GETLEASE:
        return from_lock_type(lease_type(*file));
    case F_SETLEASE: {
        TRY(const LockType type, to_lock_type(number));
        TRY(set_lease(*file, fd, type));
        return 0;
    }
    case F_NOTIFY:
        TRY(watch_directory(task, fd, std::move(file), number));
        return 0;
    case F_GETPIPE_SZ:
        return pipe_size(*file);
    case F_SETPIPE_SZ:
        return set_pipe_size(*file, number);
    case F_ADD_SEALS:
    case F_GET_SEALS:
        return seals(*file, command, argument);
    case F_GET_RW_HINT:
    case F_GET_FILE_RW_HINT:
        TRY(UserPtr<u64>(argument).copy_out(0)); // RWH_WRITE_LIFE_NOT_SET
        return 0;
    case F_SET_RW_HINT:
    case F_SET_FILE_RW_HINT: {
        TRY(const u64 hint, UserPtr<u64>(argument).copy_in());
        return hint > 5 ? fail(EINVAL) : Result<long>(0);
    }
    default:
        return fail(EINVAL);
    }
}

Result<long> sys_flock(Task& task, int fd, u32 operation) {
    TRY(Ref<File> file, usable_file(task, fd));
    if (file->inode() == nullptr)
        return fail(EBADF);
    const bool wait = (operation & LOCK_NB) == 0;
    LockType type = LockType::None;
    switch (operation & ~u32{LOCK_NB}) {
    case LOCK_SH:
        type = LockType::Shared;
        break;
    case LOCK_EX:
        type = LockType::Exclusive;
        break;
    case LOCK_UN:
        break;
    default:
        return fail(EINVAL);
    }
    TRY(restartable(lock_whole_file(*file, type, wait)));
    return 0;
}

namespace {

bool is_regular(File& file) {
    Inode* inode = file.inode();
    return inode != nullptr && inode->is_regular();
}

// From the position to the end; less than nothing beyond that, as on Linux.
Result<long> tell_unread(File& file, u64 out) {
    TRY(const Attributes attributes, file.inode()->attributes());
    TRY(UserPtr<i32>(out).copy_out(static_cast<i32>(attributes.size - file.position())));
    return 0;
}

Result<long> tell_block_size(File& file, u64 out) {
    u32 size = page_size;
    if (Inode* inode = file.inode()) {
        TRY(const Attributes attributes, inode->attributes());
        size = attributes.block_size;
    }
    TRY(UserPtr<u32>(out).copy_out(size));
    return 0;
}

Result<long> tell_allocated(File& file, u64 out) {
    constexpr u64 block = 512;
    Inode* inode = file.inode();
    if (inode == nullptr || (!inode->is_regular() && !inode->is_directory()))
        return fail(ENOTTY);
    TRY(const Attributes attributes, inode->attributes());
    TRY(UserPtr<u64>(out).copy_out(attributes.blocks * block));
    return 0;
}

// FIBMAP. No file system here tells where on a device its blocks are.
Result<long> tell_block_place(u64 block) {
    if (!capable(CAP_SYS_RAWIO))
        return fail(EPERM);
    TRY(UserPtr<const i32>(block).copy_in());
    return fail(EINVAL);
}

} // namespace

Result<long> sys_ioctl(Task& task, int fd, u32 command, u64 argument) {
    TRY(Ref<File> file, usable_file(task, fd));
    switch (command) {
    case FIOCLEX:
    case FIONCLEX:
        TRY(task.files->set_close_on_exec(fd, command == FIOCLEX));
        return 0;
    case FIONBIO:
    case FIOASYNC: {
        TRY(const i32 on, UserPtr<i32>(argument).copy_in());
        const u32 flag = command == FIONBIO ? u32{O_NONBLOCK} : u32{FASYNC};
        if (command == FIOASYNC)
            TRY(set_async(*file, fd, on != 0));
        TRY(file->set_status_flags(on != 0 ? file->flags() | flag : file->flags() & ~flag));
        return 0;
    }
    case FIONREAD:
        if (!is_regular(*file))
            break;
        return tell_unread(*file, argument);
    case FIBMAP:
        if (!is_regular(*file))
            break;
        return tell_block_place(argument);
    case FIGETBSZ:
        return tell_block_size(*file, argument);
    case FIOQSIZE:
        return tell_allocated(*file, argument);
    case FS_IOC_GETFLAGS:
    case FS_IOC_SETFLAGS:
    case FS_IOC_FSGETXATTR:
    case FS_IOC_FSSETXATTR: {
        auto done = file_flags_ioctl(*file, command, argument);
        if (done || done.error().code != ENOTTY)
            return done;
        break;
    }
    case FICLONE: {
        TRY(usable_file(task, static_cast<int>(argument)));
        return fail(EOPNOTSUPP);
    }
    case FICLONERANGE:
    case FS_IOC_FIEMAP:
        return fail(EOPNOTSUPP); // no file system shares extents or tells of them
    default:
        break;
    }
    return restartable(file->ioctl(command, argument));
}

} // namespace kernel
