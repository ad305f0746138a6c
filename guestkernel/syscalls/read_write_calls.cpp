#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

Result<Ref<File>> usable_file(Task& task, int fd) {
    TRY(Ref<File> file, task.files->get(fd));
    if ((file->flags() & O_PATH) != 0)
        return fail(EBADF);
    return file;
}

Result<void> UserVectors::load(u64 address, u64 count) {
    constexpr u64 most = 1024; // UIO_MAXIOV
    if (count > most)
        return fail(EINVAL);
    UserVector* items = few_;
    if (count > on_stack) {
        TRY(many_.resize(count));
        items = many_.data();
    }
    TRY(copy_in_bytes(items, address, count * sizeof(UserVector)));
    u64 total = 0;
    for (u64 i = 0; i < count; i++) {
        if (static_cast<i64>(items[i].length) < 0)
            return fail(EINVAL);
        if (!user_range_ok(items[i].base, items[i].length))
            return fail(EFAULT);
        if (items[i].length > largest_transfer - total)
            items[i].length = largest_transfer - total; // the rest is not transferred (readv(2))
        total += items[i].length;
    }
    span_ = {items, count};
    return {};
}

namespace {

enum class Direction : u8 { Read, Write };

// How a file that may not know the transfer's per-call flags is asked for it.
constexpr u32 known_rw_flags = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;

Result<void> check_direction(const File& file, Direction direction) {
    if (direction == Direction::Read ? !file.readable() : !file.writable())
        return fail(EBADF);
    return {};
}

Result<Ref<File>> file_for(Task& task, int fd, Direction direction) {
    TRY(Ref<File> file, task.files->get(fd));
    TRY(check_direction(*file, direction));
    return file;
}

// For a transfer at an offset. The errors come in Linux's order: programs find out by ESPIPE what
// has no positions, whatever else they give.
Result<Ref<File>> file_at(Task& task, int fd, i64 offset, Direction direction) {
    if (offset < 0)
        return fail(EINVAL);
    TRY(Ref<File> file, usable_file(task, fd));
    if (file->is_stream())
        return fail(ESPIPE);
    TRY(check_direction(*file, direction));
    return file;
}

long counted(usize bytes, Direction direction) {
    Task& task = current_task();
    (direction == Direction::Read ? task.reads : task.writes)++;
    (direction == Direction::Read ? task.read_bytes : task.written_bytes) += bytes;
    return static_cast<long>(bytes);
}

// At the file's own position, which moves on.
Result<long> transfer(File& file, IoBuffer& buffer, Direction direction) {
    if (file.is_stream()) {
        auto moved = direction == Direction::Read ? file.read(buffer, 0) : file.write(buffer, 0);
        TRY(const usize bytes, restartable(std::move(moved)));
        return counted(bytes, direction);
    }
    MutexGuard guard(file.position_mutex());
    const u64 position = file.position();
    auto moved =
        direction == Direction::Read ? file.read(buffer, position) : file.write(buffer, position);
    TRY(const usize bytes, restartable(std::move(moved)));
    u64 next = position + bytes;
    if (direction == Direction::Write && (file.flags() & O_APPEND) != 0 && file.append_end > next)
        next = file.append_end;
    file.set_position(next);
    return counted(bytes, direction);
}

// Requires: a file with positions.
Result<long> transfer_at(File& file, IoBuffer& buffer, u64 at, Direction direction) {
    auto moved = direction == Direction::Read ? file.read(buffer, at) : file.write(buffer, at);
    TRY(const usize bytes, restartable(std::move(moved)));
    return counted(bytes, direction);
}

Result<UserVector> one_vector(u64 buffer, u64 count) {
    if (!user_range_ok(buffer, count))
        return fail(EFAULT);
    return UserVector{buffer, count < largest_transfer ? count : largest_transfer};
}

Result<long> plain(Task& task, int fd, u64 buffer, u64 count, Direction direction) {
    TRY(Ref<File> file, file_for(task, fd, direction));
    TRY(const UserVector vector, one_vector(buffer, count));
    IoBuffer data(std::span<const UserVector>(&vector, 1));
    return transfer(*file, data, direction);
}

Result<long> plain_at(Task& task, int fd, u64 buffer, u64 count, i64 offset, Direction direction) {
    TRY(Ref<File> file, file_at(task, fd, offset, direction));
    TRY(const UserVector vector, one_vector(buffer, count));
    IoBuffer data(std::span<const UserVector>(&vector, 1));
    return transfer_at(*file, data, static_cast<u64>(offset), direction);
}

Result<long> vectored(Task& task, int fd, u64 address, u64 count, Direction direction) {
    TRY(Ref<File> file, file_for(task, fd, direction));
    UserVectors vectors;
    TRY(vectors.load(address, count));
    IoBuffer data(vectors.span());
    return transfer(*file, data, direction);
}

Result<long> vectored_at(Task& task, int fd, u64 address, u64 count, i64 offset,
                         Direction direction) {
    TRY(Ref<File> file, file_at(task, fd, offset, direction));
    UserVectors vectors;
    TRY(vectors.load(address, count));
    IoBuffer data(vectors.span());
    return transfer_at(*file, data, static_cast<u64>(offset), direction);
}

// preadv2(2), pwritev2(2): offset -1 means the file's position.
Result<void> check_flags(u32 flags) {
    if ((flags & ~static_cast<u32>(known_rw_flags)) != 0)
        return fail(EOPNOTSUPP);
    return {};
}

// RWF_NOWAIT: as much of the transfer as needs no waiting, else EAGAIN.
Result<void> limit_to_ready(File& file, IoBuffer& data, u64 offset, Direction direction) {
    if (file.is_stream()) {
        const u32 wanted = direction == Direction::Read ? poll_in | poll_hup : poll_out | poll_err;
        return (file.poll(nullptr) & wanted) != 0 ? Result<void>() : Result<void>(fail(EAGAIN));
    }
    auto cache = file.mapping(0, 0);
    if (!cache)
        return fail(EOPNOTSUPP);
    if ((*cache)->memory_only())
        return {};
    if (direction == Direction::Write)
        return fail(EAGAIN); // may have to read, or to make room
    TRY(const Attributes attributes, file.inode()->attributes());
    const u64 wanted_end = offset + data.remaining();
    const u64 end = wanted_end < attributes.size ? wanted_end : attributes.size;
    u64 ready = offset;
    while (ready < end && (*cache)->lookup(ready >> page_shift))
        ready = page_down(ready) + page_size;
    if (ready < end && ready == offset)
        return fail(EAGAIN);
    if (ready < end)
        data.truncate(ready - offset);
    return {};
}

// A stream that had something a moment ago may have it no more: sleep is refused then.
class NoSleep {
public:
    NoSleep() : before_(current_task().refuses_sleep) { current_task().refuses_sleep = true; }
    NoSleep(const NoSleep&) = delete;
    NoSleep& operator=(const NoSleep&) = delete;
    ~NoSleep() { current_task().refuses_sleep = before_; }

private:
    bool before_;
};

Result<long> transfer_with_flags(File& file, IoBuffer& data, i64 offset, u32 flags,
                                 Direction direction) {
    if ((flags & static_cast<u32>(RWF_APPEND)) != 0 && direction == Direction::Write &&
        !file.is_stream()) {
        MutexGuard guard(file.position_mutex());
        TRY(const usize bytes, restartable(file.write(data, File::at_end)));
        if (offset == -1)
            file.set_position(file.append_end);
        return static_cast<long>(bytes);
    }
    const auto move = [&]() -> Result<long> {
        return offset == -1 ? transfer(file, data, direction)
                            : transfer_at(file, data, static_cast<u64>(offset), direction);
    };
    if ((flags & static_cast<u32>(RWF_NOWAIT)) != 0) {
        TRY(limit_to_ready(file, data, offset == -1 ? file.position() : static_cast<u64>(offset),
                           direction));
        const NoSleep no_sleep;
        auto moved = move();
        if (!moved && moved.error().code == restart_syscall)
            return fail(EAGAIN);
        return moved;
    }
    TRY(const long bytes, move());
    if (direction == Direction::Write && (flags & static_cast<u32>(RWF_DSYNC | RWF_SYNC)) != 0)
        TRY(file.sync((flags & static_cast<u32>(RWF_SYNC)) == 0));
    return bytes;
}

Result<long> vectored_with_flags(Task& task, int fd, u64 address, u64 count, i64 offset, u32 flags,
                                 Direction direction) {
    TRY(Ref<File> file,
        offset == -1 ? file_for(task, fd, direction) : file_at(task, fd, offset, direction));
    UserVectors vectors;
    TRY(vectors.load(address, count));
    IoBuffer data(vectors.span());
    if (data.remaining() == 0)
        return 0;
    TRY(check_flags(flags));
    return transfer_with_flags(*file, data, offset, flags, direction);
}

} // namespace

Result<long> transfer_file(File& file, std::span<const UserVector> vectors, u64 offset, u32 flags,
                           bool write) {
    TRY(check_flags(flags));
    IoBuffer data(vectors);
    const i64 at = file.is_stream() ? -1 : static_cast<i64>(offset);
    return transfer_with_flags(file, data, at, flags, write ? Direction::Write : Direction::Read);
}

Result<long> sys_read(Task& task, int fd, u64 buffer, u64 count) {
    return plain(task, fd, buffer, count, Direction::Read);
}
Result<long> sys_write(Task& task, int fd, u64 buffer, u64 count) {
    return plain(task, fd, buffer, count, Direction::Write);
}
Result<long> sys_pread64(Task& task, int fd, u64 buffer, u64 count, i64 offset) {
    return plain_at(task, fd, buffer, count, offset, Direction::Read);
}
Result<long> sys_pwrite64(Task& task, int fd, u64 buffer, u64 count, i64 offset) {
    return plain_at(task, fd, buffer, count, offset, Direction::Write);
}
Result<long> sys_readv(Task& task, int fd, u64 vectors, u64 count) {
    return vectored(task, fd, vectors, count, Direction::Read);
}
Result<long> sys_writev(Task& task, int fd, u64 vectors, u64 count) {
    return vectored(task, fd, vectors, count, Direction::Write);
}
Result<long> sys_preadv(Task& task, int fd, u64 vectors, u64 count, i64 offset) {
    return vectored_at(task, fd, vectors, count, offset, Direction::Read);
}
Result<long> sys_pwritev(Task& task, int fd, u64 vectors, u64 count, i64 offset) {
    return vectored_at(task, fd, vectors, count, offset, Direction::Write);
}
// On 64-bit machines the offset is whole in its first half.
Result<long> sys_preadv2(Task& task, int fd, u64 vectors, u64 count, i64 offset, u64, u32 flags) {
    return vectored_with_flags(task, fd, vectors, count, offset, flags, Direction::Read);
}
Result<long> sys_pwritev2(Task& task, int fd, u64 vectors, u64 count, i64 offset, u64, u32 flags) {
    return vectored_with_flags(task, fd, vectors, count, offset, flags, Direction::Write);
}

Result<long> sys_lseek(Task& task, int fd, i64 offset, int whence) {
    TRY(Ref<File> file, usable_file(task, fd));
    if (static_cast<u32>(whence) > SEEK_MAX)
        return fail(EINVAL);
    MutexGuard guard(file->position_mutex());
    TRY(const u64 position, file->seek(offset, whence));
    return static_cast<long>(position);
}

} // namespace kernel
