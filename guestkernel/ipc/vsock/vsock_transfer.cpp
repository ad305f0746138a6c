// Data through vsock sockets: streams and sequenced packets.
#include <optional>

#include <linux/errno.h>
#include <linux/virtio_vsock.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/unix_socket.hpp"
#include "guestkernel/ipc/vsock/vsock_socket.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr int sigpipe = 13;

usize smaller(usize a, usize b) {
    return a < b ? a : b;
}

// Takes the first piece out of the queue.
void pop_piece(VsockEndpoint& endpoint) {
    VsockSegment* segment = endpoint.received;
    endpoint.received = segment->next;
    if (endpoint.received == nullptr)
        endpoint.received_last = nullptr;
    endpoint.pieces--;
    if ((segment->flags & VIRTIO_VSOCK_SEQ_EOM) != 0)
        endpoint.messages = endpoint.messages - 1;
    free_vsock_segment(segment);
}

void took(VsockEndpoint& endpoint, u32 bytes) {
    endpoint.received_bytes = endpoint.received_bytes - bytes;
    endpoint.consumed(bytes);
    if (endpoint.done && !endpoint.has_data())
        endpoint.state = VsockState::Closing;
}

} // namespace

// --- sending

Result<void> VsockSocketFile::check_sendable() const {
    const VsockEndpoint& own = *endpoint_;
    if ((own.shutdown & vsock_shut_send) != 0 || own.peer_wont_receive())
        return fail(EPIPE);
    if (own.state != VsockState::Connected)
        return fail(ENOTCONN);
    return {};
}

// How much may be sent now, at least one byte.
Result<usize> VsockSocketFile::wait_for_room(u32 msg_flags, u64 deadline) {
    VsockEndpoint& own = *endpoint_;
    for (;;) {
        {
            VsockGuard guard;
            if (own.error != 0)
                return fail(own.error);
            TRY(check_sendable());
            if (const u32 room = own.room_to_send(); room != 0)
                return usize{room};
        }
        if (!blocks(msg_flags))
            return fail(EAGAIN);
        const auto ready = [&] {
            return own.room_to_send() != 0 || own.error != 0 ||
                   (own.shutdown & vsock_shut_send) != 0 || own.peer_wont_receive() ||
                   own.state != VsockState::Connected;
        };
        TRY(waited(wait_until(own.waiters, ready, deadline), deadline));
    }
}

// Sends what there is room for at this moment, 0 if another writer took it. `last_flags`: of the
// piece that empties the buffer.
Result<usize> VsockSocketFile::send_piece(IoBuffer& in, u32 last_flags) {
    VsockEndpoint& own = *endpoint_;
    u32 room = 0;
    {
        VsockGuard guard;
        TRY(check_sendable());
        // Credit is taken before the copy, which may sleep; whoever gives up gives it back.
        room = own.room_to_send();
        const usize bytes = smaller(smaller(in.remaining(), room), largest_vsock_payload);
        room = static_cast<u32>(bytes);
        own.sent += room;
    }
    if (room == 0)
        return usize{0};
    const auto give_back = [&](u32 bytes) {
        VsockGuard guard;
        own.sent -= bytes;
        own.wake(poll_out | poll_wrnorm);
    };
    VsockSegment* segment = allocate_vsock_segment(room);
    if (segment == nullptr) {
        give_back(room);
        return fail(ENOMEM);
    }
    const u32 bytes = room < segment->capacity ? room : segment->capacity;
    const u32 copied = static_cast<u32>(in.copy_in(segment->data(), bytes));
    if (copied < room)
        give_back(room - copied);
    if (copied == 0) {
        free_vsock_segment(segment);
        return fail(EFAULT);
    }
    segment->end = copied;
    segment->flags = in.remaining() == 0 ? last_flags : 0;
    VsockGuard guard;
    if (auto still = check_sendable(); !still) {
        own.sent -= copied;
        free_vsock_segment(segment);
        return fail(still.error().code);
    }
    if (own.unsent_last != nullptr)
        own.unsent_last->next = segment;
    else
        own.unsent = segment;
    own.unsent_last = segment;
    own.unsent_bytes = own.unsent_bytes + copied;
    make_vsock_ready(own);
    return usize{copied};
}

Result<usize> VsockSocketFile::send_all(IoBuffer& in, SendRequest& request) {
    const u64 deadline = send_deadline();
    u32 last_flags = 0;
    if (type() == socket_seqpacket)
        last_flags =
            VIRTIO_VSOCK_SEQ_EOM | ((request.flags & msg_eor) != 0 ? u32{VIRTIO_VSOCK_SEQ_EOR} : 0);
    usize done = 0;
    while (in.remaining() > 0) {
        if (auto room = wait_for_room(request.flags, deadline); !room) {
            if (done > 0)
                return done;
            return fail(room.error().code);
        }
        auto sent = send_piece(in, last_flags);
        if (!sent && done == 0)
            return fail(sent.error().code);
        if (!sent)
            return done;
        done += *sent;
    }
    return done;
}

// A message's pieces follow each other: its sender is alone until the last one.
Result<void> VsockSocketFile::begin_message(usize bytes, u32 msg_flags, u64 deadline) {
    VsockEndpoint& own = *endpoint_;
    for (;;) {
        {
            VsockGuard guard;
            TRY(check_sendable());
            if (bytes > own.peer_buffer)
                return fail(EMSGSIZE); // the peer could never take the whole of it
            if (!own.message_under_way) {
                // All or nothing for those who do not wait.
                if (!blocks(msg_flags) && own.room_to_send() < bytes)
                    return fail(EAGAIN);
                own.message_under_way = true;
                return {};
            }
        }
        if (!blocks(msg_flags))
            return fail(EAGAIN);
        const auto ready = [&] { return !own.message_under_way; };
        TRY(waited(wait_until(own.waiters, ready, deadline), deadline));
    }
}

Result<usize> VsockSocketFile::send(IoBuffer& in, SendRequest& request) {
    VsockEndpoint& own = *endpoint_;
    if ((request.flags & msg_oob) != 0)
        return fail(EOPNOTSUPP);
    if (request.to != nullptr && request.to->length != 0)
        return fail(own.state == VsockState::Connected ? EISCONN : EOPNOTSUPP);
    Result<void> sendable;
    {
        VsockGuard guard;
        sendable = check_sendable();
    }
    if (type() == socket_seqpacket) {
        TRY(std::move(sendable));
        if (in.remaining() == 0)
            return usize{0};
        const usize bytes = in.remaining();
        TRY(begin_message(bytes, request.flags, send_deadline()));
        auto sent = send_all(in, request);
        const bool half = sent && *sent < bytes;
        VsockGuard guard;
        own.message_under_way = false;
        own.wake(poll_out | poll_wrnorm);
        if (!half)
            return sent;
        // What went out cannot be taken back, and what follows would be taken for its end.
        own.forget_unsent();
        own.say(say_reset);
        own.ended();
        leave_vsock_connection(own);
        return fail(EPIPE);
    }
    auto sent = sendable ? send_all(in, request) : Result<usize>(fail(sendable.error().code));
    if (!sent && sent.error().code == EPIPE && (request.flags & msg_nosignal) == 0)
        send_signal(current_task(), sigpipe);
    return sent;
}

// --- receiving

Result<void> VsockSocketFile::wait_for_data(u32 msg_flags, u64 deadline) {
    VsockEndpoint& own = *endpoint_;
    if (!blocks(msg_flags))
        return fail(EAGAIN);
    const auto ready = [&] {
        return own.has_data() || own.error != 0 || (own.shutdown & vsock_shut_receive) != 0 ||
               own.peer_wont_send() || own.done;
    };
    return waited(wait_until(own.waiters, ready, deadline), deadline);
}

Result<usize> VsockSocketFile::receive(IoBuffer& out, ReceiveRequest& request) {
    const VsockEndpoint& own = *endpoint_;
    {
        VsockGuard guard;
        if (own.state != VsockState::Connected) {
            if (own.done)
                return usize{0};
            return fail(ENOTCONN);
        }
    }
    if ((request.flags & msg_oob) != 0)
        return fail(EOPNOTSUPP);
    if ((own.shutdown & vsock_shut_receive) != 0 || out.remaining() == 0)
        return usize{0};
    return type() == socket_stream ? receive_stream(out, request) : receive_message(out, request);
}

Result<usize> VsockSocketFile::receive_stream(IoBuffer& out, ReceiveRequest& request) {
    VsockEndpoint& own = *endpoint_;
    const bool peek = (request.flags & msg_peek) != 0;
    const usize wanted = out.remaining();
    const usize target =
        (request.flags & msg_waitall) != 0 ? wanted : smaller(options_.receive_low_water, wanted);
    if (target >= own.buffer_size)
        return fail(ENOMEM); // vsock_connectible_recvmsg() of Linux
    const u64 deadline = receive_deadline();
    usize done = 0;
    std::optional<MutexGuard<Mutex>> turn(std::in_place, own.read_mutex);
    VsockSegment* segment = nullptr;
    for (;;) {
        u32 piece = 0;
        {
            VsockGuard guard;
            if (!peek || segment == nullptr)
                segment = own.received;
            if (segment == nullptr) {
                if (own.error != 0 && done == 0)
                    return fail(own.error);
                if (done >= target || own.error != 0 || own.peer_wont_send() ||
                    (own.shutdown & vsock_shut_receive) != 0)
                    return done;
            } else {
                piece = static_cast<u32>(smaller(segment->size(), out.remaining()));
            }
        }
        if (segment == nullptr) {
            turn.reset();
            if (auto waiting = wait_for_data(request.flags, deadline); !waiting) {
                if (done > 0)
                    return done;
                return fail(waiting.error().code);
            }
            turn.emplace(own.read_mutex);
            continue;
        }
        const u32 copied = static_cast<u32>(out.copy_out(segment->data() + segment->start, piece));
        if (copied < piece && copied == 0) {
            if (done > 0)
                return done;
            return fail(EFAULT);
        }
        done += copied;
        VsockGuard guard;
        if (peek) {
            segment = segment->next;
            if (segment == nullptr || out.remaining() == 0)
                return done; // a peek waits for the first bytes only
            continue;
        }
        segment->start += copied;
        if (segment->size() == 0)
            pop_piece(own);
        took(own, copied);
        if (copied < piece || out.remaining() == 0 || (own.received == nullptr && done >= target))
            return done;
    }
}

Result<usize> VsockSocketFile::receive_message(IoBuffer& out, ReceiveRequest& request) {
    VsockEndpoint& own = *endpoint_;
    const bool peek = (request.flags & msg_peek) != 0;
    const u64 deadline = receive_deadline();
    std::optional<MutexGuard<Mutex>> turn(std::in_place, own.read_mutex);
    VsockSegment* segment = nullptr;
    for (;;) {
        {
            VsockGuard guard;
            if (own.messages != 0) {
                segment = own.received;
                break;
            }
            if (own.error != 0)
                return fail(own.error);
            if (own.peer_wont_send() || (own.shutdown & vsock_shut_receive) != 0)
                return usize{0};
        }
        turn.reset();
        TRY(wait_for_data(request.flags, deadline));
        turn.emplace(own.read_mutex);
    }
    // Only readers take pieces away, and it is this one's turn; what arrives goes behind.
    usize size = 0, copied = 0;
    bool whole = true;
    u32 flags = 0;
    do {
        const usize piece = smaller(segment->size(), out.remaining());
        const usize got = out.copy_out(segment->data() + segment->start, piece);
        whole = whole && got == piece;
        copied += got;
        size += segment->size();
        flags = segment->flags;
        VsockGuard guard;
        VsockSegment* next = segment->next;
        if (!peek) {
            const u32 bytes = segment->size();
            pop_piece(own);
            took(own, bytes);
            if ((flags & VIRTIO_VSOCK_SEQ_EOM) != 0)
                own.message_taken();
        }
        segment = next;
    } while ((flags & VIRTIO_VSOCK_SEQ_EOM) == 0);
    if (!whole)
        return fail(EFAULT);
    if (size > copied)
        request.result_flags |= msg_trunc;
    if ((flags & VIRTIO_VSOCK_SEQ_EOR) != 0)
        request.result_flags |= msg_eor;
    return (request.flags & msg_trunc) != 0 ? size : copied;
}

} // namespace kernel
