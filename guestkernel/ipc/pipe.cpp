#include "guestkernel/ipc/pipe.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr int sigpipe = 13;
constexpr u32 fionread = 0x541b;

constexpr bool opens_read(u32 flags) {
    return (flags & O_ACCMODE) == O_RDONLY || (flags & O_ACCMODE) == O_RDWR;
}
constexpr bool opens_write(u32 flags) {
    return (flags & O_ACCMODE) == O_WRONLY || (flags & O_ACCMODE) == O_RDWR;
}

usize smaller(usize a, usize b) {
    return a < b ? a : b;
}

} // namespace

Pipe::~Pipe() {
    for (Frame* frame : pages_)
        if (frame != nullptr)
            put_frame(*frame);
}

// The byte's place; pages come as the ring first reaches them, and a pipe that is emptied between
// writes stays on its first.
Result<u8*> Pipe::page_at(u64 position) {
    const usize index = static_cast<usize>(position / page_size % (capacity_ / page_size));
    if (index >= pages_.size())
        TRY(pages_.resize(index + 1));
    if (pages_[index] == nullptr) {
        pages_[index] = alloc_frame();
        if (pages_[index] == nullptr)
            return fail(ENOMEM);
    }
    return static_cast<u8*>(frame_data(*pages_[index])) + position % page_size;
}

Result<usize> Pipe::fill(IoBuffer& in, usize bytes) {
    usize done = 0;
    while (done < bytes) {
        const auto place = page_at(written_);
        if (!place) {
            if (done > 0)
                break;
            return fail(place.error().code);
        }
        const usize piece =
            smaller(bytes - done, page_size - static_cast<usize>(written_ % page_size));
        const usize copied = in.copy_in(*place, piece);
        written_ = written_ + copied;
        done += copied;
        if (copied < piece) {
            if (done == 0)
                return fail(EFAULT);
            break;
        }
    }
    return done;
}

Result<usize> Pipe::drain(IoBuffer& out, usize bytes) {
    usize done = 0;
    while (done < bytes) {
        TRY(u8 * place, page_at(taken_)); // exists: it was written
        const usize piece =
            smaller(bytes - done, page_size - static_cast<usize>(taken_ % page_size));
        const usize copied = out.copy_out(place, piece);
        taken_ = taken_ + copied;
        done += copied;
        if (copied < piece) {
            if (done == 0)
                return fail(EFAULT);
            break;
        }
    }
    if (taken_ == written_) {
        written_ = 0;
        taken_ = 0;
    }
    return done;
}

Result<usize> Pipe::read(IoBuffer& out, bool non_blocking) {
    if (out.remaining() == 0)
        return usize{0};
    for (bool slept = false;; slept = true) {
        {
            MutexGuard turn(taking_);
            MutexGuard guard(mutex_);
            const usize here = available();
            if (here > 0) {
                const bool was_full = here + atomic_limit > capacity_;
                auto done = drain(out, smaller(here, out.remaining()));
                const bool left = available() > 0;
                guard.unlock();
                turn.unlock();
                // One write wakes one reader: what that leaves is the next one's. Whoever did not
                // sleep took no wake-up from anybody, and a watcher is not told of the same bytes
                // again.
                if (left && slept)
                    read_waiters.wake_one(poll_in | poll_rdnorm);
                if (was_full || write_waiters.has_waiters())
                    write_waiters.wake_one(poll_out | poll_wrnorm);
                return done;
            }
            if (writers_.load() == 0)
                return usize{0};
        }
        if (non_blocking)
            return fail(EAGAIN);
        const auto ready = [&] { return available() > 0 || writers_.load() == 0; };
        if (wait_until(read_waiters, ready, no_deadline, TaskState::Interruptible, true) ==
            WaitOutcome::Interrupted) {
            // An exclusive wake-up may have been ours: pass it on.
            if (available() > 0)
                read_waiters.wake_one(poll_in | poll_rdnorm);
            return fail(restart_syscall);
        }
    }
}

// Writes of up to PIPE_BUF bytes are not interleaved with others (pipe(7)).
bool Pipe::can_write(usize bytes) const {
    const usize room = capacity_ - available();
    return bytes <= atomic_limit ? room >= bytes : room > 0;
}

Result<usize> Pipe::write(IoBuffer& in, bool non_blocking) {
    const usize total = in.remaining();
    usize sent = 0;
    if (total == 0)
        return sent;
    for (;;) {
        {
            MutexGuard guard(mutex_);
            if (readers_.load() == 0) {
                if (sent > 0)
                    return sent;
                return fail(EPIPE);
            }
            if (can_write(sent == 0 ? total : 1)) {
                const auto done = fill(in, smaller(in.remaining(), capacity_ - available()));
                if (!done) {
                    if (sent > 0)
                        return sent;
                    return fail(done.error().code);
                }
                sent += *done;
                const bool more_to_read = available() > 0;
                guard.unlock();
                if (more_to_read && read_waiters.has_waiters())
                    read_waiters.wake_one(poll_in | poll_rdnorm);
                if (in.remaining() == 0)
                    return sent;
                continue;
            }
        }
        if (non_blocking) {
            if (sent > 0)
                return sent;
            return fail(EAGAIN);
        }
        const auto ready = [&] { return can_write(sent == 0 ? total : 1) || readers_.load() == 0; };
        // Not one at a time: room that is not enough for one is enough for another.
        if (wait_until(write_waiters, ready) == WaitOutcome::Interrupted) {
            if (sent > 0)
                return sent;
            return fail(restart_syscall);
        }
    }
}

Result<usize> Pipe::peek(IoBuffer& out, usize skip) {
    MutexGuard guard(mutex_);
    const usize here = available();
    usize done = 0;
    while (skip + done < here && out.remaining() > 0) {
        const u64 from = taken_ + skip + done;
        TRY(u8 * place, page_at(from)); // exists: it was written
        const usize piece = smaller(smaller(here - skip - done, out.remaining()),
                                    page_size - static_cast<usize>(from % page_size));
        const usize copied = out.copy_out(place, piece);
        done += copied;
        if (copied < piece) {
            if (done == 0)
                return fail(EFAULT);
            break;
        }
    }
    return done;
}

void Pipe::discard(usize bytes) {
    MutexGuard guard(mutex_);
    taken_ = taken_ + smaller(bytes, available());
    if (taken_ == written_) {
        written_ = 0;
        taken_ = 0;
    }
    guard.unlock();
    write_waiters.wake_one(poll_out | poll_wrnorm);
}

u32 Pipe::poll_read(u32 writers_known) const {
    u32 events = 0;
    if (available() > 0)
        events |= poll_in | poll_rdnorm;
    if (writers_.load() == 0 && writer_opens_.load() != writers_known)
        events |= poll_hup;
    return events;
}

u32 Pipe::poll_write() const {
    u32 events = 0;
    if (capacity_ - available() >= atomic_limit)
        events |= poll_out | poll_wrnorm;
    if (readers_.load() == 0)
        events |= poll_err;
    return events;
}

Result<usize> Pipe::set_capacity(usize bytes) {
    usize wanted = page_size;
    while (wanted < bytes)
        wanted *= 2;
    MutexGuard guard(mutex_);
    const usize here = available();
    if (here > wanted)
        return fail(EBUSY);
    // Into a fresh ring that starts at zero.
    Vector<Frame*> pages;
    TRY(pages.resize((here + page_size - 1) / page_size));
    for (Frame*& frame : pages) {
        frame = alloc_frame();
        if (frame == nullptr) {
            for (Frame* taken : pages)
                if (taken != nullptr)
                    put_frame(*taken);
            return fail(ENOMEM);
        }
    }
    for (usize done = 0; done < here;) {
        const u64 from = taken_ + done;
        TRY(const u8* place, page_at(from));
        usize piece = smaller(here - done, page_size - static_cast<usize>(from % page_size));
        piece = smaller(piece, page_size - done % page_size);
        __builtin_memcpy(static_cast<u8*>(frame_data(*pages[done / page_size])) + done % page_size,
                         place, piece);
        done += piece;
    }
    for (Frame* frame : pages_)
        if (frame != nullptr)
            put_frame(*frame);
    pages_ = std::move(pages);
    taken_ = 0;
    written_ = here;
    capacity_ = wanted;
    guard.unlock();
    write_waiters.wake_all();
    return wanted;
}

void Pipe::add_end(bool reader, bool writer) {
    if (reader) {
        readers_.fetch_add(1);
        reader_opens_.fetch_add(1);
        write_waiters.wake_all();
    }
    if (writer) {
        writers_.fetch_add(1);
        writer_opens_.fetch_add(1);
        read_waiters.wake_all();
    }
}

void Pipe::drop_end(bool reader, bool writer) {
    if (reader && readers_.fetch_sub(1) == 1)
        write_waiters.wake_all(poll_err | poll_out);
    if (writer && writers_.fetch_sub(1) == 1)
        read_waiters.wake_all(poll_hup | poll_in);
}

namespace {

// The pipe behind a FIFO, counted as used by one more file until leave_fifo().
Result<Ref<Pipe>> join_fifo(Inode& inode) {
    TRY(Ref<Pipe> fresh, make_ref<Pipe>());
    TRY(Owned<FifoState> state, make_owned<FifoState>());
    SpinGuard guard(inode.attributes_lock());
    if (inode.fifo == nullptr)
        inode.fifo = state.leak();
    if (inode.fifo->files++ == 0)
        inode.fifo->pipe = std::move(fresh);
    return inode.fifo->pipe;
}

// What nobody has read is lost when the last end closes: the next open finds an empty FIFO.
void leave_fifo(Inode& inode) {
    Ref<Pipe> last;
    SpinGuard guard(inode.attributes_lock());
    if (--inode.fifo->files == 0)
        last = std::move(inode.fifo->pipe);
}

} // namespace

PipeFile::PipeFile(Path path, Ref<Inode> inode, u32 flags, Ref<Pipe> pipe)
    : File(std::move(path), std::move(inode), flags), pipe_(std::move(pipe)) {
    if ((flags & O_NONBLOCK) != 0 && pipe_->writers() == 0)
        writers_known_ = pipe_->writer_opens();
    pipe_->add_end(opens_read(flags), opens_write(flags));
}

PipeFile::~PipeFile() {
    pipe_->drop_end(opens_read(flags_), opens_write(flags_));
    leave_fifo(*inode_);
}

Result<usize> PipeFile::read(IoBuffer& out, u64) {
    return pipe_->read(out, non_blocking());
}

Result<usize> PipeFile::write(IoBuffer& in, u64) {
    const usize wanted = in.remaining();
    auto done = pipe_->write(in, non_blocking());
    // Also when the readers went after a part had been written.
    const bool broken = done ? *done < wanted && pipe_->readers() == 0 : done.error().code == EPIPE;
    if (broken)
        send_signal(current_task(), sigpipe);
    return done;
}

u32 PipeFile::poll(PollTable* table) {
    u32 events = 0;
    if (opens_read(flags_)) {
        if (table != nullptr)
            table->watch(pipe_->read_waiters);
        events |= pipe_->poll_read(writers_known_);
    }
    if (opens_write(flags_)) {
        if (table != nullptr)
            table->watch(pipe_->write_waiters);
        events |= pipe_->poll_write();
    }
    return events;
}

Result<long> PipeFile::ioctl(u32 command, u64 argument) {
    if (command != fionread)
        return fail(ENOTTY);
    TRY(UserPtr<int>(argument).copy_out(static_cast<int>(pipe_->available())));
    return 0;
}

bool PipeFile::describe(String& out) {
    if (!inode_->fifo->anonymous)
        return false; // a FIFO has a name
    char text[32];
    const usize length = log::format(text, sizeof text, "pipe:[{}]", inode_->number());
    return out.append(std::string_view(text, length)).has_value();
}

Result<PipeEnds> make_pipe(u32 flags) {
    TRY(Ref<Inode> inode, make_anonymous_inode(mode_fifo | 0600));
    TRY(Owned<FifoState> state, make_owned<FifoState>());
    state->anonymous = true;
    inode->fifo = state.leak(); // so that /proc/self/fd/N opens this pipe
    TRY(Ref<Pipe> pipe, join_fifo(*inode));
    auto reader = make_ref<PipeFile>(Path(), inode, O_RDONLY | flags, pipe);
    if (!reader) {
        leave_fifo(*inode);
        return fail(ENOMEM);
    }
    TRY(pipe, join_fifo(*inode));
    auto writer = make_ref<PipeFile>(Path(), inode, O_WRONLY | flags, pipe);
    if (!writer) {
        leave_fifo(*inode);
        return fail(ENOMEM);
    }
    return PipeEnds{std::move(*reader), std::move(*writer)};
}

void free_fifo_state(FifoState* state) {
    delete state;
}

Result<Ref<File>> open_fifo(const Path& path, Ref<Inode> inode, u32 flags) {
    const bool reads = opens_read(flags);
    const bool writes = opens_write(flags);
    if (!reads && !writes)
        return fail(EINVAL);
    TRY(Ref<Pipe> pipe, join_fifo(*inode));
    // An open of /proc/PID/fd/N of pipe(2)'s never waits for anybody.
    const bool meets = reads != writes && !inode->fifo->anonymous;
    if (meets && writes && (flags & O_NONBLOCK) != 0 && pipe->readers() == 0) {
        leave_fifo(*inode);
        return fail(ENXIO);
    }
    const u32 reader_opens = pipe->reader_opens();
    const u32 writer_opens = pipe->writer_opens();
    const bool alone = reads ? pipe->writers() == 0 : pipe->readers() == 0;
    auto file = make_ref<PipeFile>(path, inode, flags, pipe);
    if (!file) {
        leave_fifo(*inode);
        return fail(ENOMEM);
    }
    // fifo(7): an open for one direction waits for the other; the other may have come and gone
    // meanwhile.
    if (meets && alone && (flags & O_NONBLOCK) == 0) {
        const auto met = [&] {
            return reads ? pipe->writer_opens() != writer_opens
                         : pipe->reader_opens() != reader_opens;
        };
        if (wait_until(reads ? pipe->read_waiters : pipe->write_waiters, met) ==
            WaitOutcome::Interrupted)
            return fail(restart_syscall);
    }
    return Ref<File>(std::move(*file));
}

} // namespace kernel
