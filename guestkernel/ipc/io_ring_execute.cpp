// What requests do: each operation by the system call that is its kind.
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <linux/time_types.h>

#include "guestkernel/ipc/epoll.hpp"
#include "guestkernel/ipc/ignore_nonblock.hpp"
#include "guestkernel/ipc/io_ring.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/ipc_calls.hpp"
#include "guestkernel/syscalls/memory_calls.hpp"
#include "guestkernel/syscalls/message_helpers.hpp"
#include "guestkernel/syscalls/socket_calls.hpp"
#include "guestkernel/syscalls/socket_helpers.hpp"
#include "guestkernel/syscalls/time_values.hpp"

namespace kernel {

namespace {

constexpr u8 fixed_file_flag = 1u << IOSQE_FIXED_FILE_BIT;
constexpr u8 select_flag = 1u << IOSQE_BUFFER_SELECT_BIT;
constexpr u32 multishot_accept = 1, multishot_receive = 2; // of entry.priority
constexpr u32 poll_first = 1;
constexpr u32 most_shots = 64; // of one request before others have their turn

bool would_wait(int error) {
    return error == EINTR || error >= restart_syscall;
}

// An answer, or the order to try again when `events` are there (0: in a worker).
IoOutcome outcome_of(Task& task, IoRequest& request, const Result<long>& result, u32 events) {
    if (result)
        return IoOutcome::done(*result);
    const int error = result.error().code;
    if (!would_wait(error))
        return IoOutcome::done(-error);
    if (!task.refuses_sleep || request.cancelled)
        return IoOutcome::done(request.cancelled ? -ECANCELED : -EINTR);
    request.watched = events;
    return IoOutcome::again();
}

Result<void> find_file(Task& task, IoRing& ring, IoRequest& request) {
    if (request.file)
        return {};
    if ((request.entry.flags & fixed_file_flag) != 0) {
        request.file = ring.fixed_file(static_cast<u32>(request.entry.fd));
        return request.file ? Result<void>() : Result<void>(fail(EBADF));
    }
    TRY(request.file, usable_file(task, request.entry.fd));
    return {};
}

u32 pollable(const IoRequest& request, u32 events) {
    return request.file->is_stream() ? events : 0;
}

struct Moving {
    bool write, vectored, fixed;
};

// A buffer of its group for a request that wants one: address and length as they are to be used.
class Selected {
public:
    Selected(IoRing& ring, IoRequest& request, u64& address, u64& length)
        : ring_(ring), request_(request), address_(address), length_(length) {}
    Result<void> choose() {
        if ((request_.entry.flags & select_flag) == 0)
            return {};
        if (!ring_.choose_buffer(request_))
            return fail(ENOBUFS);
        address_ = request_.buffer_address;
        if (length_ == 0 || request_.chosen_length < length_)
            length_ = request_.chosen_length;
        chosen_ = true;
        return {};
    }
    // Not used, or used and to be told.
    void settle(IoOutcome& outcome) {
        if (!chosen_)
            return;
        if (outcome.kind != IoOutcome::Kind::Done || outcome.result <= 0)
            return ring_.put_back_buffer(request_);
        request_.holds_buffer = false;
        outcome.flags |= told_buffer(request_);
    }

private:
    IoRing& ring_;
    IoRequest& request_;
    u64& address_;
    u64& length_;
    bool chosen_ = false;
};

IoOutcome move_data(Task& task, IoRing& ring, IoRequest& request, Moving how) {
    const IoEntry& entry = request.entry;
    if ((ring.limits.flags & IORING_SETUP_IOPOLL) != 0)
        return IoOutcome::done(-EOPNOTSUPP); // no file here can be polled for its completion
    if (!how.fixed && how.vectored == false && entry.buffer != 0 &&
        (entry.flags & select_flag) == 0)
        return IoOutcome::done(-EINVAL);
    if (auto found = find_file(task, ring, request); !found)
        return IoOutcome::done(-found.error().code);
    File& file = *request.file;
    if (how.write ? !file.writable() : !file.readable())
        return IoOutcome::done(-EBADF);
    u64 address = entry.address, length = entry.length;
    UserVectors vectors;
    UserVector one{0, 0};
    std::span<const UserVector> span;
    Selected selected(ring, request, address, length);
    if (how.vectored && (entry.flags & select_flag) == 0) {
        if (auto loaded = vectors.load(address, length); !loaded)
            return IoOutcome::done(-loaded.error().code);
        span = vectors.span();
    } else {
        if (how.vectored) { // one vector, whose length limits the buffer
            if (length != 1)
                return IoOutcome::done(-EINVAL);
            const auto vector = UserPtr<const UserVector>(address).copy_in();
            if (!vector)
                return IoOutcome::done(-EFAULT);
            length = vector->length;
        }
        if (auto chosen = selected.choose(); !chosen)
            return IoOutcome::done(-chosen.error().code);
        if (how.fixed && !ring.fixed_buffer(entry.buffer, address, length))
            return IoOutcome::done(-EFAULT);
        if (!user_range_ok(address, length))
            return IoOutcome::done(-EFAULT);
        one = {address, length < largest_transfer ? length : largest_transfer};
        span = {&one, 1};
    }
    const auto moved = [&] {
        const IgnoreNonblock waits(task, file);
        return transfer_file(file, span, entry.offset, entry.op_flags, how.write);
    }();
    IoOutcome outcome =
        outcome_of(task, request, moved, pollable(request, how.write ? poll_out : poll_in));
    selected.settle(outcome);
    return outcome;
}

IoOutcome poll_add(IoRing& ring, Task& task, IoRequest& request) {
    IoEntry& entry = request.entry;
    constexpr u32 known = IORING_POLL_ADD_MULTI | IORING_POLL_ADD_LEVEL;
    if ((entry.length & ~known) != 0 || entry.offset != 0 || entry.address != 0 ||
        entry.buffer != 0)
        return IoOutcome::done(-EINVAL);
    if (auto found = find_file(task, ring, request); !found)
        return IoOutcome::done(-found.error().code);
    const u32 wanted = (entry.op_flags & 0xffff) | poll_err | poll_hup;
    // What may hear of this ring's own completions is told of once: each would make the next.
    const bool multi = (entry.length & IORING_POLL_ADD_MULTI) != 0 &&
                       file_as<IoRingFile>(*request.file) == nullptr &&
                       !ring.signals(*request.file) && file_as<EpollFile>(*request.file) == nullptr;
    const u32 ready = multi ? 0 : request.file->poll(nullptr) & wanted;
    if (ready != 0)
        return IoOutcome::done(ready);
    request.tries = 0; // a wake-up that finds nothing is no try
    return multi ? ring.watch_edges(request, wanted) : ring.watch(request, wanted);
}

IoOutcome change_poll(IoRing& ring, const IoEntry& entry) {
    constexpr u32 known =
        IORING_POLL_UPDATE_EVENTS | IORING_POLL_UPDATE_USER_DATA | IORING_POLL_ADD_MULTI;
    if ((entry.length & ~known) != 0)
        return IoOutcome::done(-EINVAL);
    Ref<IoRequest> found;
    {
        MutexGuard guard(ring.mutex);
        found = Ref<IoRequest>::share(ring.find_request(entry.address, IORING_OP_POLL_ADD));
        if (!found)
            return IoOutcome::done(-ENOENT);
        if ((entry.length & ~u32{IORING_POLL_ADD_MULTI}) != 0) {
            if (found->state != IoRequest::State::Watching)
                return IoOutcome::done(-EALREADY);
            if ((entry.length & IORING_POLL_UPDATE_EVENTS) != 0)
                found->entry.op_flags = entry.op_flags;
            if ((entry.length & IORING_POLL_UPDATE_USER_DATA) != 0)
                found->entry.user_data = entry.offset;
            found->watched = (found->entry.op_flags & 0xffff) | poll_err | poll_hup;
        }
    }
    if ((entry.length & ~u32{IORING_POLL_ADD_MULTI}) != 0) {
        ring.push_ready(*found); // looks at what it wants now
        return IoOutcome::done(0);
    }
    return IoOutcome::done(-ring.cancel(*found));
}

IoOutcome change_timeout(IoRing& ring, const IoEntry& entry) {
    constexpr u32 known =
        IORING_TIMEOUT_UPDATE_MASK | IORING_TIMEOUT_ABS | IORING_TIMEOUT_CLOCK_MASK;
    if ((entry.op_flags & ~known) != 0 || entry.length != 0)
        return IoOutcome::done(-EINVAL);
    const bool update = (entry.op_flags & IORING_TIMEOUT_UPDATE_MASK) != 0;
    const u8 kind = (entry.op_flags & IORING_LINK_TIMEOUT_UPDATE) != 0
                        ? static_cast<u8>(IORING_OP_LINK_TIMEOUT)
                        : static_cast<u8>(IORING_OP_TIMEOUT);
    u64 deadline = 0;
    if (update) {
        const auto ns = copy_in_timespec(entry.offset);
        if (!ns)
            return IoOutcome::done(-ns.error().code);
        deadline = (entry.op_flags & IORING_TIMEOUT_ABS) != 0 ? *ns : monotonic_ns() + *ns;
    }
    Ref<IoRequest> found;
    {
        MutexGuard guard(ring.mutex);
        found = Ref<IoRequest>::share(ring.find_request(entry.address, kind));
        if (!found || found->state != IoRequest::State::Timing)
            return IoOutcome::done(-ENOENT);
        if (update) {
            // On the clock that it was made for.
            const bool on_wall_clock = (entry.op_flags & IORING_TIMEOUT_ABS) != 0 &&
                                       (found->entry.op_flags & IORING_TIMEOUT_REALTIME) != 0;
            found->timer.arm(on_wall_clock ? wall_deadline(deadline) : deadline);
            return IoOutcome::done(0);
        }
    }
    return IoOutcome::done(-ring.cancel(*found));
}

// A new file becomes a descriptor, or an entry of the table (direct descriptors).
Result<long> install(Task& task, IoRing& ring, const IoEntry& entry, Ref<File> file, bool cloexec) {
    if (entry.file_index != 0) {
        TRY(const i32 index, ring.install_fixed(std::move(file), entry.file_index));
        return entry.file_index == IORING_FILE_INDEX_ALLOC ? index : 0;
    }
    TRY(const int fd, task.files->install(std::move(file), cloexec));
    return fd;
}

// An accepted or opened descriptor moves into the table.
Result<long> to_fixed(Task& task, IoRing& ring, const IoEntry& entry, long fd) {
    TRY(Ref<File> file, task.files->get(static_cast<int>(fd)));
    TRY(task.files->close(static_cast<int>(fd)));
    return install(task, ring, entry, std::move(file), false);
}

IoOutcome open_file_at(Task& task, IoRing& ring, IoRequest& request) {
    const IoEntry& entry = request.entry;
    if (entry.buffer != 0 || (entry.flags & fixed_file_flag) != 0)
        return IoOutcome::done((entry.flags & fixed_file_flag) != 0 ? -EBADF : -EINVAL);
    if (entry.file_index != 0 && entry.opcode == IORING_OP_OPENAT &&
        (entry.op_flags & O_CLOEXEC) != 0)
        return IoOutcome::done(-EINVAL);
    Result<long> opened =
        entry.opcode == IORING_OP_OPENAT
            ? sys_openat(task, entry.fd, entry.address, entry.op_flags, entry.length)
            : sys_openat2(task, entry.fd, entry.address, entry.offset, entry.length);
    if (opened && entry.file_index != 0)
        opened = to_fixed(task, ring, entry, *opened);
    return outcome_of(task, request, opened, 0);
}

IoOutcome accept_one(Task& task, IoRing& ring, IoRequest& request) {
    const IoEntry& entry = request.entry;
    auto& socket = static_cast<SocketFile&>(*request.file);
    const auto accepted = [&]() -> Result<long> {
        TRY(Ref<SocketFile> fresh,
            socket.accept(entry.op_flags & socket_nonblock, request.file->non_blocking()));
        if (entry.address != 0) {
            SocketAddress peer;
            if (!fresh->accepted_address(peer))
                return fail(ECONNABORTED);
            TRY(copy_address_out(peer, entry.address, UserPtr<int>(entry.offset)));
        }
        return install(task, ring, entry, Ref<File>(std::move(fresh)),
                       (entry.op_flags & socket_cloexec) != 0);
    }();
    return outcome_of(task, request, accepted, poll_in);
}

IoOutcome accept_connections(Task& task, IoRing& ring, IoRequest& request) {
    const IoEntry& entry = request.entry;
    constexpr u32 known = socket_nonblock | socket_cloexec;
    if (entry.length != 0 || entry.buffer != 0 || (entry.op_flags & ~known) != 0 ||
        (entry.priority & ~multishot_accept) != 0)
        return IoOutcome::done(-EINVAL);
    if (file_as<SocketFile>(*request.file) == nullptr)
        return IoOutcome::done(-ENOTSOCK);
    if ((entry.priority & multishot_accept) == 0)
        return accept_one(task, ring, request);
    if (entry.file_index != 0 && entry.file_index != IORING_FILE_INDEX_ALLOC)
        return IoOutcome::done(-EINVAL);
    for (u32 shots = 0;; shots++) {
        IoOutcome outcome = accept_one(task, ring, request);
        if (outcome.kind != IoOutcome::Kind::Done || outcome.result < 0)
            return outcome;
        request.tries = 0;
        ring.post(entry.user_data, outcome.result, IORING_CQE_F_MORE);
        if (shots >= most_shots) {
            request.watched = poll_in;
            return IoOutcome::again();
        }
    }
}

IoOutcome receive_one(Task& task, IoRing& ring, IoRequest& request) {
    const IoEntry& entry = request.entry;
    u64 address = entry.address, length = entry.length;
    Selected selected(ring, request, address, length);
    const auto received = [&]() -> Result<long> {
        if (entry.opcode == IORING_OP_RECVMSG) {
            if ((entry.flags & select_flag) != 0)
                return fail(EOPNOTSUPP);
            return receive_message_into(task, request.file, entry.address, entry.op_flags);
        }
        if (length == 0 && (entry.flags & select_flag) != 0)
            length = largest_transfer;
        TRY(selected.choose());
        if (!user_range_ok(address, length))
            return fail(EFAULT);
        const UserVector vector{address, length < largest_transfer ? length : largest_transfer};
        ReceiveRequest wanted;
        wanted.flags = entry.op_flags;
        IoBuffer data(std::span<const UserVector>(&vector, 1));
        TRY(const usize bytes, as_socket(request.file).receive(data, wanted));
        return static_cast<long>(bytes);
    }();
    IoOutcome outcome = outcome_of(task, request, received, poll_in);
    selected.settle(outcome);
    return outcome;
}

IoOutcome receive(Task& task, IoRing& ring, IoRequest& request) {
    const IoEntry& entry = request.entry;
    if ((entry.priority & ~(poll_first | multishot_receive)) != 0)
        return IoOutcome::done(-EINVAL);
    const bool multi = (entry.priority & multishot_receive) != 0;
    if (multi && ((entry.flags & select_flag) == 0 || (entry.op_flags & msg_waitall) != 0 ||
                  entry.length != 0))
        return IoOutcome::done(-EINVAL);
    if ((entry.op_flags & msg_waitall) != 0 && task.refuses_sleep) {
        request.watched = 0; // all of it or nothing: a worker waits for it
        return IoOutcome::again();
    }
    for (u32 shots = 0;; shots++) {
        IoOutcome outcome = receive_one(task, ring, request);
        if (!multi || outcome.kind != IoOutcome::Kind::Done || outcome.result <= 0)
            return outcome;
        request.tries = 0;
        ring.post(entry.user_data, outcome.result, outcome.flags | IORING_CQE_F_MORE);
        if (shots >= most_shots) {
            request.watched = poll_in;
            return IoOutcome::again();
        }
    }
}

IoOutcome send(Task& task, IoRequest& request) {
    const IoEntry& entry = request.entry;
    if ((entry.priority & ~poll_first) != 0)
        return IoOutcome::done(-EINVAL);
    if ((entry.op_flags & msg_waitall) != 0 && task.refuses_sleep) {
        request.watched = 0; // not a part of it: a worker waits for room
        return IoOutcome::again();
    }
    const u32 flags = entry.op_flags | msg_nosignal;
    const auto sent = [&]() -> Result<long> {
        if (entry.opcode == IORING_OP_SENDMSG)
            return send_message_from(task, request.file, entry.address, flags);
        if (!user_range_ok(entry.address, entry.length))
            return fail(EFAULT);
        const UserVector vector{entry.address, entry.length};
        SendRequest wanted;
        wanted.flags = flags;
        SocketAddress to;
        if (entry.offset != 0 && (entry.file_index & 0xffff) != 0) { // addr2, addr_len
            TRY(copy_address_in(entry.offset, static_cast<int>(entry.file_index & 0xffff), to));
            wanted.to = &to;
        }
        IoBuffer data(std::span<const UserVector>(&vector, 1));
        TRY(const usize bytes, as_socket(request.file).send(data, wanted));
        return static_cast<long>(bytes);
    }();
    return outcome_of(task, request, sent, poll_out);
}

IoOutcome on_socket(Task& task, IoRing& ring, IoRequest& request) {
    const IoEntry& entry = request.entry;
    if (auto found = find_file(task, ring, request); !found)
        return IoOutcome::done(-found.error().code);
    const IgnoreNonblock waits(task, *request.file);
    if (entry.opcode == IORING_OP_ACCEPT)
        return accept_connections(task, ring, request);
    if (file_as<SocketFile>(*request.file) == nullptr)
        return IoOutcome::done(-ENOTSOCK);
    switch (entry.opcode) {
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
        return send(task, request);
    case IORING_OP_RECV:
    case IORING_OP_RECVMSG:
        return receive(task, ring, request);
    case IORING_OP_CONNECT: {
        const auto connected = [&]() -> Result<long> {
            SocketAddress where;
            TRY(copy_address_in(entry.address, static_cast<int>(entry.offset), where));
            TRY(as_socket(request.file).connect(where));
            return 0;
        }();
        return outcome_of(task, request, connected, 0);
    }
    default: { // IORING_OP_SHUTDOWN
        if (entry.length > 2)
            return IoOutcome::done(-EINVAL);
        const auto done = as_socket(request.file).shutdown(entry.length + 1);
        return IoOutcome::done(done ? 0 : -done.error().code);
    }
    }
}

// Operations whose calls know descriptors only: a fixed file gets one for the moment.
template <typename Call>
Result<long> with_descriptor(Task& task, IoRing& ring, IoRequest& request, Call&& call) {
    if ((request.entry.flags & fixed_file_flag) == 0)
        return call(request.entry.fd);
    TRY(find_file(task, ring, request));
    TRY(const int fd, task.files->install(request.file, true));
    auto result = call(fd);
    TRY(task.files->close(fd));
    return result;
}

Result<long> splice_files(Task& task, IoRing& ring, const IoEntry& entry) {
    constexpr u32 fd_in_fixed = 1u << 31; // SPLICE_F_FD_IN_FIXED
    int in = static_cast<int>(entry.file_index);
    const bool fixed = (entry.op_flags & fd_in_fixed) != 0;
    if (fixed) {
        Ref<File> file = ring.fixed_file(entry.file_index);
        if (!file)
            return fail(EBADF);
        TRY(in, task.files->install(std::move(file), true));
    }
    // Offsets come by value, and -1 is the file's own.
    const auto call = [&]() -> Result<long> {
        TRY(Ref<File> from, usable_file(task, in));
        TRY(Ref<File> to, usable_file(task, entry.fd));
        const u32 flags = entry.op_flags & ~fd_in_fixed;
        if (entry.opcode == IORING_OP_TEE)
            return sys_tee(task, in, entry.fd, entry.length, flags);
        return splice_at(task, in, entry.address, entry.fd, entry.offset, entry.length, flags);
    };
    auto result = call();
    if (fixed)
        TRY(task.files->close(in));
    return result;
}

Result<long> message_ring(Task& task, IoRing& ring, IoRequest& request) {
    const IoEntry& entry = request.entry;
    TRY(find_file(task, ring, request));
    auto* file = file_as<IoRingFile>(*request.file);
    if (file == nullptr)
        return fail(EBADFD);
    if (entry.address != IORING_MSG_DATA)
        return fail(EINVAL); // sending files between rings is not offered
    IoRing& target = *file->ring();
    if (target.disabled || target.dead)
        return fail(EBADFD);
    target.post(entry.offset, static_cast<i32>(entry.length), 0);
    return 0;
}

Result<long> control_epoll(Task& task, const IoEntry& entry) {
    return sys_epoll_ctl(task, entry.fd, static_cast<int>(entry.length),
                         static_cast<int>(entry.offset), UserPtr<const EpollEvent>(entry.address));
}

Result<long> by_path(Task& task, const IoEntry& entry) {
    const int second = static_cast<int>(entry.length);
    switch (entry.opcode) {
    case IORING_OP_STATX:
        return sys_statx(task, entry.fd, entry.address, entry.op_flags, entry.length, entry.offset);
    case IORING_OP_RENAMEAT:
        return sys_renameat2(task, entry.fd, entry.address, second, entry.offset, entry.op_flags);
    case IORING_OP_UNLINKAT:
        return sys_unlinkat(task, entry.fd, entry.address, entry.op_flags);
    case IORING_OP_MKDIRAT:
        return sys_mkdirat(task, entry.fd, entry.address, entry.length);
    case IORING_OP_SYMLINKAT:
        return sys_symlinkat(task, entry.address, entry.fd, entry.offset);
    case IORING_OP_LINKAT:
        return sys_linkat(task, entry.fd, entry.address, second, entry.offset, entry.op_flags);
    case IORING_OP_SETXATTR:
        return sys_setxattr(task, entry.address3, entry.address, entry.offset, entry.length,
                            entry.op_flags);
    default:
        return sys_getxattr(task, entry.address3, entry.address, entry.offset, entry.length);
    }
}

Result<long> by_descriptor(Task& task, const IoEntry& entry, int fd) {
    const auto offset = static_cast<i64>(entry.offset);
    switch (entry.opcode) {
    case IORING_OP_FSYNC:
        if ((entry.op_flags & ~u32{IORING_FSYNC_DATASYNC}) != 0)
            return fail(EINVAL);
        return entry.op_flags != 0 ? sys_fdatasync(task, fd) : sys_fsync(task, fd);
    case IORING_OP_SYNC_FILE_RANGE:
        return sys_sync_file_range(task, fd, offset, entry.length, entry.op_flags);
    case IORING_OP_FALLOCATE:
        return sys_fallocate(task, fd, static_cast<int>(entry.length), offset,
                             static_cast<i64>(entry.address));
    case IORING_OP_FADVISE:
        return sys_fadvise64(task, fd, offset, entry.length, static_cast<int>(entry.op_flags));
    case IORING_OP_FSETXATTR:
        return sys_fsetxattr(task, fd, entry.address, entry.offset, entry.length, entry.op_flags);
    default:
        return sys_fgetxattr(task, fd, entry.address, entry.offset, entry.length);
    }
}

Result<long> make_socket(Task& task, IoRing& ring, const IoEntry& entry) {
    TRY(const long fd,
        sys_socket(task, entry.fd, static_cast<int>(entry.offset), static_cast<int>(entry.length)));
    return entry.file_index != 0 ? to_fixed(task, ring, entry, fd) : Result<long>(fd);
}

Result<long> close_file(Task& task, IoRing& ring, const IoEntry& entry) {
    if (entry.offset != 0 || entry.address != 0 || entry.length != 0 || entry.op_flags != 0 ||
        entry.buffer != 0)
        return fail(EINVAL);
    if ((entry.flags & fixed_file_flag) != 0)
        return fail(EBADF);
    if (entry.file_index != 0) {
        if (entry.fd != 0)
            return fail(EINVAL);
        TRY(ring.remove_fixed(entry.file_index - 1));
        return 0;
    }
    // Not a ring: its end would wait for this request.
    TRY(Ref<File> file, task.files->get(entry.fd));
    if (file_as<IoRingFile>(*file) != nullptr)
        return fail(EBADF);
    return sys_close(task, entry.fd);
}

} // namespace

IoOutcome IoRing::execute(Task& task, IoRequest& request) {
    const IoEntry& entry = request.entry;
    switch (entry.opcode) {
    case IORING_OP_NOP:
        return IoOutcome::done(0);
    case IORING_OP_READV:
    case IORING_OP_WRITEV:
        return move_data(task, *this, request, {entry.opcode == IORING_OP_WRITEV, true, false});
    case IORING_OP_READ:
    case IORING_OP_WRITE:
        return move_data(task, *this, request, {entry.opcode == IORING_OP_WRITE, false, false});
    case IORING_OP_READ_FIXED:
    case IORING_OP_WRITE_FIXED:
        return move_data(task, *this, request,
                         {entry.opcode == IORING_OP_WRITE_FIXED, false, true});
    case IORING_OP_POLL_ADD:
        return poll_add(*this, task, request);
    case IORING_OP_POLL_REMOVE:
        return change_poll(*this, entry);
    case IORING_OP_TIMEOUT:
        return arm_timeout(request);
    case IORING_OP_TIMEOUT_REMOVE:
        return change_timeout(*this, entry);
    case IORING_OP_ASYNC_CANCEL:
        return IoOutcome::done(cancel_by_entry(entry));
    case IORING_OP_SENDMSG:
    case IORING_OP_RECVMSG:
    case IORING_OP_SEND:
    case IORING_OP_RECV:
    case IORING_OP_ACCEPT:
    case IORING_OP_CONNECT:
    case IORING_OP_SHUTDOWN:
        return on_socket(task, *this, request);
    case IORING_OP_OPENAT:
    case IORING_OP_OPENAT2:
        return open_file_at(task, *this, request);
    case IORING_OP_CLOSE:
        return outcome_of(task, request, close_file(task, *this, entry), 0);
    case IORING_OP_FILES_UPDATE: {
        const auto updated =
            update_files(task, static_cast<u32>(entry.offset), entry.address, entry.length);
        return IoOutcome::done(updated ? *updated : -updated.error().code);
    }
    case IORING_OP_FALLOCATE:
        // Linux does it in a worker always, where RLIMIT_FSIZE's signal meets nobody: the answer
        // is EFBIG alone.
        if (task.refuses_sleep && !request.cancelled) {
            request.watched = 0;
            return IoOutcome::again();
        }
        [[fallthrough]];
    case IORING_OP_FSYNC:
    case IORING_OP_SYNC_FILE_RANGE:
    case IORING_OP_FADVISE:
    case IORING_OP_FSETXATTR:
    case IORING_OP_FGETXATTR:
        return outcome_of(task, request,
                          with_descriptor(task, *this, request,
                                          [&](int fd) { return by_descriptor(task, entry, fd); }),
                          0);
    case IORING_OP_MADVISE:
        return outcome_of(
            task, request,
            sys_madvise(task, entry.address, entry.length, static_cast<int>(entry.op_flags)), 0);
    case IORING_OP_STATX:
    case IORING_OP_RENAMEAT:
    case IORING_OP_UNLINKAT:
    case IORING_OP_MKDIRAT:
    case IORING_OP_SYMLINKAT:
    case IORING_OP_LINKAT:
    case IORING_OP_SETXATTR:
    case IORING_OP_GETXATTR:
        if ((entry.flags & fixed_file_flag) != 0)
            return IoOutcome::done(-EBADF);
        return outcome_of(task, request, by_path(task, entry), 0);
    case IORING_OP_EPOLL_CTL:
        return outcome_of(task, request, control_epoll(task, entry), 0);
    case IORING_OP_SPLICE:
    case IORING_OP_TEE:
        return outcome_of(task, request, splice_files(task, *this, entry), 0);
    case IORING_OP_PROVIDE_BUFFERS:
        return IoOutcome::done(provide_buffers(entry));
    case IORING_OP_REMOVE_BUFFERS:
        return IoOutcome::done(remove_buffers(entry));
    case IORING_OP_MSG_RING:
        return outcome_of(task, request, message_ring(task, *this, request), 0);
    case IORING_OP_SOCKET:
        return outcome_of(task, request, make_socket(task, *this, entry), 0);
    case IORING_OP_URING_CMD:
        return IoOutcome::done(-EOPNOTSUPP); // no file has commands of its own
    default:
        return IoOutcome::done(-EINVAL);
    }
}

} // namespace kernel
