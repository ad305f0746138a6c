// splice(2), tee(2), vmsplice(2). The data are copied: pages of pipes are not shared with anybody.
#include <linux/errno.h>
#include <linux/fcntl.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/pipe.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/message_helpers.hpp"
#include "guestkernel/syscalls/socket_calls.hpp"

namespace kernel {

namespace {

constexpr usize chunk = 64 * 1024;
constexpr int sigpipe = 13;
// SPLICE_F_*: no UAPI header has them.
constexpr u32 splice_move = 1, splice_nonblock = 2, splice_more = 4, splice_gift = 8;
constexpr u32 splice_all = splice_move | splice_nonblock | splice_more | splice_gift;

class Bounce {
public:
    Bounce() : memory_(static_cast<u8*>(kmalloc(chunk))) {}
    Bounce(const Bounce&) = delete;
    Bounce& operator=(const Bounce&) = delete;
    ~Bounce() { kfree(memory_); }
    u8* data() const { return memory_; }

private:
    u8* memory_;
};

usize least(u64 a, u64 b) {
    return static_cast<usize>(a < b ? a : b);
}

// Until there is something to take; false: never again (no writers).
Result<bool> wait_for_bytes(Pipe& pipe, bool non_blocking) {
    const auto ready = [&] { return pipe.available() > 0 || pipe.writers() == 0; };
    if (!ready() && non_blocking)
        return fail(EAGAIN);
    if (wait_until(pipe.read_waiters, ready) == WaitOutcome::Interrupted)
        return fail(restart_syscall);
    return pipe.available() > 0;
}

// Room in the pipe, at least a byte.
Result<usize> wait_for_room(Pipe& pipe, bool non_blocking) {
    const auto room = [&] { return pipe.capacity() - pipe.available(); };
    const auto ready = [&] { return room() > 0 || pipe.readers() == 0; };
    if (!ready() && non_blocking)
        return fail(EAGAIN);
    if (wait_until(pipe.write_waiters, ready) == WaitOutcome::Interrupted)
        return fail(restart_syscall);
    if (pipe.readers() == 0) {
        send_signal(current_task(), sigpipe);
        return fail(EPIPE);
    }
    return room();
}

// The place in a file that splice(2) reads or writes: the caller's offset or the file's.
struct Place {
    File& file;
    UserPtr<i64> user;
    u64 offset = 0;
    bool given = false; // `offset` came by value

    Result<void> load() {
        if (given)
            return file.is_stream() ? Result<void>(fail(EINVAL)) : Result<void>();
        if (!user) {
            offset = file.position();
            return {};
        }
        if (file.is_stream())
            return fail(EINVAL);
        TRY(const i64 wanted, user.copy_in());
        if (wanted < 0)
            return fail(EINVAL);
        offset = static_cast<u64>(wanted);
        return {};
    }
    Result<void> store() {
        if (given)
            return {};
        if (user)
            return user.copy_out(static_cast<i64>(offset));
        if (!file.is_stream())
            file.set_position(offset);
        return {};
    }
};

// What the file did not take stays in the pipe, for the reader whose turn is next.
Result<u64> pipe_to_file(Pipe& pipe, Place& to, u64 count, bool non_blocking) {
    Bounce bounce;
    if (bounce.data() == nullptr)
        return fail(ENOMEM);
    u64 done = 0;
    while (done < count) {
        if (pipe.available() == 0) {
            if (done > 0)
                break;
            TRY(const bool more, wait_for_bytes(pipe, non_blocking));
            if (!more)
                break;
        }
        const MutexGuard turn(pipe.taking());
        IoBuffer seen(bounce.data(), least(chunk, count - done));
        TRY(const usize here, pipe.peek(seen, 0));
        if (here == 0)
            continue; // another reader was faster
        IoBuffer data(bounce.data(), here);
        const auto written = to.file.write(data, to.offset);
        if (!written && done == 0)
            return fail(written.error().code);
        if (!written || *written == 0)
            break;
        pipe.discard(*written);
        to.offset += *written;
        done += *written;
        if (*written < here || signal_pending())
            break;
    }
    return done;
}

// One filling of the pipe: only what has room is read.
Result<u64> file_to_pipe(Place& from, Pipe& pipe, u64 count, bool non_blocking) {
    Bounce bounce;
    if (bounce.data() == nullptr)
        return fail(ENOMEM);
    u64 done = 0;
    while (done < count) {
        if (done > 0 && pipe.capacity() == pipe.available())
            break;
        const auto room = wait_for_room(pipe, non_blocking);
        if (!room && done == 0)
            return fail(room.error().code);
        if (!room)
            break;
        const usize piece = least(least(chunk, *room), count - done);
        IoBuffer data(bounce.data(), piece);
        const auto got = from.file.read(data, from.offset);
        if (!got && done == 0)
            return fail(got.error().code);
        if (!got || *got == 0)
            break;
        IoBuffer filled(bounce.data(), *got);
        const auto put = pipe.write(filled, false);
        if (!put && done == 0)
            return fail(put.error().code);
        if (!put)
            break;
        from.offset += *put;
        done += *put;
        if (*got < piece || from.file.is_stream() || signal_pending())
            break; // what a stream has now is enough (splice(2))
    }
    return done;
}

// Moves what is there and has room, or with `keep` copies it (tee), in one turn as a reader. Never
// sleeps for anybody else: two pipes may be each other's source.
Result<u64> transfer_between(Pipe& from, Pipe& to, const Bounce& bounce, u64 count, bool keep) {
    const MutexGuard turn(from.taking());
    u64 done = 0;
    while (done < count && to.available() < to.capacity()) {
        const usize room = to.capacity() - to.available();
        IoBuffer seen(bounce.data(), least(least(chunk, room), count - done));
        TRY(const usize here, from.peek(seen, keep ? static_cast<usize>(done) : 0));
        if (here == 0)
            break;
        IoBuffer data(bounce.data(), here);
        const auto put = to.write(data, true);
        if (!put && done == 0 && put.error().code != EAGAIN)
            return fail(put.error().code);
        if (!put)
            break;
        if (!keep)
            from.discard(*put);
        done += *put;
    }
    return done;
}

Result<u64> pipe_to_pipe(Pipe& from, Pipe& to, u64 count, bool non_blocking, bool keep) {
    const Bounce bounce;
    if (bounce.data() == nullptr)
        return fail(ENOMEM);
    for (;;) {
        TRY(const bool more, wait_for_bytes(from, non_blocking));
        if (!more)
            return u64{0};
        TRY(const usize room, wait_for_room(to, non_blocking));
        (void)room;
        TRY(const u64 done, transfer_between(from, to, bounce, count, keep));
        if (done > 0)
            return done;
    }
}

Pipe* pipe_of(File& file) {
    PipeFile* pipe = file_as<PipeFile>(file);
    return pipe != nullptr ? &pipe->pipe() : nullptr;
}

Result<u64> splice_with_file(Place place, Pipe& pipe, u64 count, bool non_blocking, bool to_pipe) {
    TRY(place.load());
    auto moved = to_pipe ? file_to_pipe(place, pipe, count, non_blocking)
                         : pipe_to_file(pipe, place, count, non_blocking);
    TRY(const u64 done, restartable(std::move(moved)));
    TRY(place.store());
    return done;
}

// An offset of splice(2): none, in user memory, or by value.
struct Offset {
    u64 address = 0;
    u64 value = 0;
    bool by_value = false;
    bool there() const { return address != 0 || by_value; }
};

Result<long> splice(Task& task, int in_fd, Offset in_offset, int out_fd, Offset out_offset,
                    u64 count, u32 flags) {
    if (count == 0)
        return 0;
    if ((flags & ~splice_all) != 0)
        return fail(EINVAL);
    count = least(count, largest_transfer);
    TRY(Ref<File> in, usable_file(task, in_fd));
    TRY(Ref<File> out, usable_file(task, out_fd));
    if (!in->readable() || !out->writable())
        return fail(EBADF);
    Pipe* from = pipe_of(*in);
    Pipe* to = pipe_of(*out);
    if ((from != nullptr && in_offset.there()) || (to != nullptr && out_offset.there()))
        return fail(ESPIPE);
    const bool nonblock = (flags & splice_nonblock) != 0;
    if (from != nullptr && to != nullptr) {
        if (from == to)
            return fail(EINVAL);
        TRY(const u64 done,
            pipe_to_pipe(*from, *to, count, nonblock || in->non_blocking() || out->non_blocking(),
                         false));
        return static_cast<long>(done);
    }
    if (from == nullptr && to == nullptr)
        return fail(EINVAL);
    File& other = from != nullptr ? *out : *in;
    if (other.inode() != nullptr && other.inode()->is_directory())
        return fail(EINVAL);
    if (from != nullptr && (out->flags() & O_APPEND) != 0)
        return fail(EINVAL);
    const Offset& where = from != nullptr ? out_offset : in_offset;
    Place place{other, UserPtr<i64>(where.address), where.value, where.by_value};
    TRY(const u64 done,
        splice_with_file(place, from != nullptr ? *from : *to, count,
                         nonblock || (from != nullptr ? in : out)->non_blocking(), to != nullptr));
    return static_cast<long>(done);
}

} // namespace

Result<long> sys_splice(Task& task, int in_fd, u64 in_offset, int out_fd, u64 out_offset, u64 count,
                        u32 flags) {
    return splice(task, in_fd, {in_offset}, out_fd, {out_offset}, count, flags);
}

Result<long> splice_at(Task& task, int in_fd, u64 in_offset, int out_fd, u64 out_offset, u64 count,
                       u32 flags) {
    constexpr u64 none = ~u64{0};
    return splice(task, in_fd, {0, in_offset, in_offset != none}, out_fd,
                  {0, out_offset, out_offset != none}, count, flags);
}

Result<long> sys_tee(Task& task, int in_fd, int out_fd, u64 count, u32 flags) {
    if ((flags & ~splice_all) != 0)
        return fail(EINVAL);
    if (count == 0)
        return 0;
    TRY(Ref<File> in, usable_file(task, in_fd));
    TRY(Ref<File> out, usable_file(task, out_fd));
    if (!in->readable() || !out->writable())
        return fail(EBADF);
    Pipe* from = pipe_of(*in);
    Pipe* to = pipe_of(*out);
    if (from == nullptr || to == nullptr || from == to)
        return fail(EINVAL);
    TRY(const u64 done,
        pipe_to_pipe(*from, *to, least(count, largest_transfer),
                     (flags & splice_nonblock) != 0 || in->non_blocking() || out->non_blocking(),
                     true));
    return static_cast<long>(done);
}

Result<long> sys_vmsplice(Task& task, int fd, u64 address, u64 count, u32 flags) {
    if ((flags & ~splice_all) != 0)
        return fail(EINVAL);
    TRY(Ref<File> file, usable_file(task, fd));
    Pipe* pipe = pipe_of(*file);
    if (pipe == nullptr)
        return fail(EBADF);
    UserVectors vectors;
    TRY(vectors.load(address, count));
    IoBuffer data(vectors.span());
    const bool non_blocking = file->non_blocking() || (flags & splice_nonblock) != 0;
    auto moved =
        file->writable() ? pipe->write(data, non_blocking) : pipe->read(data, non_blocking);
    if (!moved && moved.error().code == EPIPE)
        send_signal(task, sigpipe);
    TRY(const usize done, restartable(std::move(moved)));
    return static_cast<long>(done);
}

} // namespace kernel
