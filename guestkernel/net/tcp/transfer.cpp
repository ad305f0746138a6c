// What goes through TCP sockets: send(2), recv(2) and their flags.
#include <asm/socket.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/tcp.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/socket.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::tcp {

namespace {

constexpr int sigpipe = 13, level_tcp = 6;
constexpr u32 msg_fast_open = 0x20000000;
constexpr u32 push_every = 65536; // what is gathered before the connection is asked to send
constexpr u32 page_frames = 32 * 1024;

Result<void> waited(WaitOutcome outcome, u64 deadline) {
    if (outcome == WaitOutcome::Interrupted)
        return fail(deadline == no_deadline ? restart_syscall : EINTR);
    if (outcome == WaitOutcome::TimedOut)
        return fail(EAGAIN);
    return {};
}

} // namespace

// --- sending

Result<usize> TcpSocket::send(IoBuffer& in, SendRequest& request) {
    usize done = 0;
    Result<void> outcome;
    if ((request.flags & msg_fast_open) != 0 || connection_->fast_open_waiting)
        outcome = send_fast_open(in, request, done);
    const u64 deadline = send_deadline();
    while (outcome && in.remaining() > 0) {
        outcome = wait_for_space(request.flags, deadline);
        if (outcome)
            outcome = send_some(in, request.flags, done);
    }
    if (outcome && done == 0) // nothing to send is an error all the same where nothing can be sent
        outcome = check_sendable();
    if (net::backlog_pending())
        net::run_backlog();
    if (done > 0) {
        if (zero_copy_ && (request.flags & msg_zerocopy) != 0)
            count_zero_copy();
        return done;
    }
    if (outcome)
        return usize{0};
    if (outcome.error().code == EPIPE && (request.flags & msg_nosignal) == 0 &&
        arch::current() != nullptr)
        send_signal(current_task(), sigpipe);
    return fail(outcome.error().code);
}

// Whether the stream takes data at all: the connection's error, EPIPE, ENOTCONN.
Result<void> TcpSocket::check_sendable() {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    if (own.error != 0)
        return fail(std::exchange(own.error, 0));
    if (own.can_send() && !own.write_shut())
        return {};
    if (own.state() == State::SynSent || own.state() == State::SynReceived)
        return own.fast_open_used ? Result<void>() : Result<void>(fail(EAGAIN));
    return fail(EPIPE);
}

Result<void> TcpSocket::wait_for_space(u32 flags, u64 deadline) {
    Connection& own = *connection_;
    for (;;) {
        const State state = own.state();
        const bool opening =
            (state == State::SynSent || state == State::SynReceived) && !own.fast_open_used;
        if (!opening) {
            TRY(check_sendable());
            if (own.send_space() > 0)
                return {};
        }
        if (!blocks(flags))
            return fail(EAGAIN);
        if (!opening) {
            // What is corked would never make room.
            SpinGuard guard(own.lock);
            own.push_output(true);
        }
        net::run_backlog();
        const auto ready = [&] {
            const State now = own.state();
            if (now == State::SynSent || (now == State::SynReceived && !own.fast_open_used))
                return false;
            return own.writable() || own.error != 0 || !own.can_send();
        };
        TRY(waited(wait_until(own.writers, ready, deadline), deadline));
    }
}

// As much as the send buffer takes now.
Result<void> TcpSocket::send_some(IoBuffer& in, u32 flags, usize& done) {
    Connection& own = *connection_;
    MutexGuard sending(send_mutex_);
    u32 gathered = 0;
    u32 space = own.send_space();
    while (in.remaining() > 0 && space > 0) {
        const usize left = in.remaining();
        const u32 wanted = left < space ? static_cast<u32>(left) : space;
        const SendBuffer::Room room =
            own.buffer().room(wanted < page_frames ? wanted : page_frames);
        if (room.data == nullptr)
            return fail(done > 0 || gathered > 0 ? EAGAIN : ENOBUFS);
        const u32 copied = static_cast<u32>(in.copy_in(room.data, room.bytes));
        gathered += copied;
        const bool last = copied == left || copied == space || copied < room.bytes;
        SpinGuard guard(own.lock);
        if (own.error != 0 || !(own.can_send() || own.fast_open_used) || own.write_shut()) {
            const int error = std::exchange(own.error, 0);
            return fail(error != 0 ? error : EPIPE);
        }
        if (copied == 0) {
            own.push_output();
            return fail(EFAULT);
        }
        if (!own.buffer().commit(copied))
            return fail(ENOMEM);
        done += copied;
        const bool end = last && copied == left;
        if (end && (flags & msg_oob) != 0) {
            own.appended(copied, false, false);
            own.appended_urgent();
            own.push_output();
        } else {
            const bool push = last || gathered >= push_every;
            own.appended(copied, last ? end && (flags & msg_more) != 0 : true, push);
            gathered = push ? 0 : gathered;
            if (last && !end) // nobody knows when the rest will come
                own.push_output(true);
        }
        space = own.send_space();
        if (copied < room.bytes)
            return fail(EFAULT);
    }
    return {};
}

// sendto(2) with MSG_FASTOPEN, or the first data after a connect(2) with TCP_FASTOPEN_CONNECT: the
// SYN takes along what fits.
Result<void> TcpSocket::send_fast_open(IoBuffer& in, const SendRequest& request, usize& done) {
    Connection& own = *connection_;
    if (!own.fast_open_waiting) {
        if ((own.tcp().settings.fast_open & 1) == 0)
            return fail(EOPNOTSUPP);
        if (progress_ != Progress::Unconnected || request.to == nullptr)
            return fail(progress_ == Progress::Unconnected ? EINVAL
                        : progress_ == Progress::Connected ? EISCONN
                                                           : EALREADY);
        TRY(net::Endpoint to, net::parse_address(*request.to, family()));
        if (to.address.is_any())
            to.address = net::IpAddress::loopback(to.address.is_v6());
        FastOpenCookie cookie;
        u16 mss = 0;
        const bool known =
            own.options.fast_open_no_cookie || own.tcp().fast_open_cookie(to.address, cookie, mss);
        TRY(start_connect(to, true));
        if (!known) {
            // The SYN asked for a cookie; the data wait for the handshake.
            net::run_backlog();
            return blocks(request.flags) ? finish_connect(EINPROGRESS)
                                         : Result<void>(fail(EINPROGRESS));
        }
    }
    {
        MutexGuard sending(send_mutex_);
        // Cleared under this mutex only. Another sender's SYN has gone, or all of it was broken
        // off: a second open() would give new numbers to what is under way.
        if (!own.fast_open_waiting)
            return {};
        const usize left = in.remaining();
        const SendBuffer::Room room =
            own.buffer().room(left < 1400 ? static_cast<u32>(left) : 1400);
        const usize copied = room.data != nullptr ? in.copy_in(room.data, room.bytes) : 0;
        SpinGuard guard(own.lock);
        own.fast_open_waiting = false;
        if (copied > 0 && own.buffer().commit(static_cast<u32>(copied)))
            done += copied;
        TRY(own.open(true));
    }
    net::run_backlog();
    progress_ = Progress::Connecting;
    if (in.remaining() == 0 || !blocks(request.flags)) {
        if (own.can_send())
            progress_ = Progress::Connected;
        return done > 0 ? Result<void>() : Result<void>(fail(EINPROGRESS));
    }
    return finish_connect(EINPROGRESS);
}

// --- MSG_ZEROCOPY: the data are copied, so that the program may have its memory back at once, and
// is told so, in the way that Linux tells it over the loopback.

void TcpSocket::count_zero_copy() {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    zero_copy_next_ = zero_copy_next_ + 1;
    own.writers.wake_all(poll_err);
    own.readers.wake_all(poll_err);
}

// One message for all that are over.
Result<usize> TcpSocket::receive_completions(ReceiveRequest& request) {
    struct { // struct sock_extended_err and the offender's address: nobody's
        u32 number = 0;
        u8 origin = 5, type = 0, code = 1,
           pad = 0; // SO_EE_ORIGIN_ZEROCOPY, SO_EE_CODE_ZEROCOPY_COPIED
        u32 first = 0, last = 0;
        u8 offender[28] = {};
    } told;
    {
        SpinGuard guard(connection_->lock);
        if (zero_copy_told_ == zero_copy_next_)
            return fail(EAGAIN);
        told.first = zero_copy_told_;
        told.last = zero_copy_next_ - 1;
        zero_copy_told_ = zero_copy_next_;
    }
    if (v6())
        request.add_control(IPPROTO_IPV6, IPV6_RECVERR, &told, sizeof told);
    else
        request.add_control(IPPROTO_IP, IP_RECVERR, &told, sizeof told - 12);
    request.result_flags |= msg_errqueue;
    return usize{0};
}

// --- receiving

// Whether it makes sense to wait for data: false at the end of the stream.
Result<bool> TcpSocket::may_wait_for_data(u32 flags) {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    if (own.state() == State::Listen)
        return fail(ENOTCONN);
    if (own.readable() > 0)
        return true; // it has come meanwhile
    if (own.error != 0)
        return fail((flags & msg_peek) != 0 ? own.error : std::exchange(own.error, 0));
    if (own.peer_finished() || own.read_shut())
        return false;
    if (own.state() == State::Closed) {
        if (progress_ == Progress::Connected)
            return false;
        return fail(ENOTCONN);
    }
    return true;
}

Result<usize> TcpSocket::receive(IoBuffer& out, ReceiveRequest& request) {
    TRY(const usize done, receive_stream(out, request));
    if (tell_readable_ && request.wants_control) {
        const int left = static_cast<int>(connection_->readable());
        request.add_control(level_tcp, TCP_CM_INQ, &left, sizeof left);
    }
    return done;
}

Result<usize> TcpSocket::receive_stream(IoBuffer& out, ReceiveRequest& request) {
    if ((request.flags & msg_errqueue) != 0)
        return receive_completions(request);
    if ((request.flags & msg_oob) != 0)
        return receive_urgent(out, request);
    Connection& own = *connection_;
    if (own.state() == State::Listen)
        return fail(ENOTCONN);
    const usize wanted = out.remaining();
    const usize low = own.options.receive_low_water;
    const usize target = (request.flags & msg_waitall) != 0 || wanted < low ? wanted : low;
    const u64 deadline = receive_deadline();
    usize done = 0;
    bool at_mark = false;
    for (;;) {
        {
            MutexGuard reading(receive_mutex_);
            auto got = (request.flags & msg_peek) != 0 ? peek(out, request.flags, done)
                                                       : drain(out, request.flags, at_mark);
            if (!got) {
                if (done > 0)
                    return done;
                return fail(got.error().code);
            }
            done += *got;
        }
        if (net::backlog_pending())
            net::run_backlog();
        if (done >= target || out.remaining() == 0 || (done > 0 && at_mark))
            return done;
        auto more = may_wait_for_data(request.flags);
        if (!more)
            return done > 0 ? Result<usize>(done) : Result<usize>(fail(more.error().code));
        if (!*more)
            return done;
        u32 seen = 0;
        if ((request.flags & msg_peek) != 0) {
            const Connection::Urgent& urgent = own.urgent();
            const bool passed = urgent.pending && !own.options.inline_urgent;
            seen = static_cast<u32>(done) + (passed ? 1 : 0);
        }
        const auto ready = [&] {
            return own.readable() > seen || own.error != 0 || own.peer_finished() ||
                   own.read_shut() || own.state() == State::Closed;
        };
        if (!ready() && !blocks(request.flags))
            return done > 0 ? Result<usize>(done) : Result<usize>(fail(EAGAIN));
        if (auto outcome = waited(wait_until(own.readers, ready, deadline), deadline); !outcome)
            return done > 0 ? Result<usize>(done) : Result<usize>(fail(outcome.error().code));
    }
}

// How much of `piece` at `at` may be read in one go, and whether the byte there is the urgent one,
// which is passed over.
usize TcpSocket::pass_urgent(Sequence at, usize piece, bool& skip, bool& stop) {
    Connection& own = *connection_;
    skip = stop = false;
    const Connection::Urgent& urgent = own.urgent();
    if (!urgent.pending || urgent.at < at)
        return piece;
    const u32 distance = urgent.at.since(at);
    if (distance >= piece)
        return piece;
    if (distance > 0)
        return distance; // up to the mark
    if (own.options.inline_urgent)
        return piece;
    skip = true;
    return 1;
}

// Copies what is here, and takes it out of the stream.
Result<usize> TcpSocket::drain(IoBuffer& out, u32 flags, bool& at_mark) {
    Connection& own = *connection_;
    usize done = 0;
    u32 passed = 0, freed = 0; // bytes of the stream, memory
    bool fault = false;
    const bool discard = (flags & msg_trunc) != 0;
    const usize wanted = out.remaining();
    while (out.remaining() > 0 && done < wanted) {
        if (reading_.empty()) {
            SpinGuard guard(own.lock);
            own.take_arrived(reading_);
            if (reading_.empty())
                break;
        }
        net::Packet& first = *reading_.front();
        const Sequence at = own.copied() + passed;
        usize piece = first.length() - reading_offset_;
        bool skip = false, stop = false;
        if (own.urgent().pending) {
            if (done > 0 && own.urgent().at == at) {
                at_mark = true; // a read stops in front of the mark
                break;
            }
            piece = pass_urgent(at, piece, skip, stop);
        }
        if (!skip) {
            piece = piece < wanted - done ? piece : wanted - done;
            if (!discard) {
                auto copied = first.copy_to(out, reading_offset_, static_cast<u32>(piece));
                if (!copied || *copied < piece) {
                    fault = true;
                    piece = copied ? *copied : 0;
                }
            }
            done += piece;
        }
        passed += static_cast<u32>(piece);
        reading_offset_ += static_cast<u32>(piece);
        if (reading_offset_ == first.length()) {
            freed += first.true_size();
            (void)reading_.pop_front();
            reading_offset_ = 0;
        }
        if (fault)
            break;
    }
    if (discard && done > 0)
        out.truncate(out.remaining() - done);
    if (passed > 0) {
        SpinGuard guard(own.lock);
        own.consumed(passed, freed);
    }
    if (fault && done == 0)
        return fail(EFAULT);
    return done;
}

// The same without taking anything, from `skip` on.
Result<usize> TcpSocket::peek(IoBuffer& out, u32 flags, usize skip) {
    Connection& own = *connection_;
    {
        SpinGuard guard(own.lock);
        own.take_arrived(reading_);
    }
    usize done = 0;
    Sequence at = own.copied();
    u32 offset = reading_offset_;
    for (net::Packet* packet = reading_.front(); packet != nullptr && out.remaining() > 0;
         packet = packet->next, offset = 0) {
        while (offset < packet->length() && out.remaining() > 0) {
            usize piece = packet->length() - offset;
            bool pass = false, stop = false;
            if (own.urgent().pending) {
                if (done > 0 && own.urgent().at == at)
                    return done;
                piece = pass_urgent(at, piece, pass, stop);
            }
            if (!pass && skip >= piece) {
                skip -= piece;
            } else if (!pass) {
                const usize from = skip;
                const usize length =
                    piece - from < out.remaining() ? piece - from : out.remaining();
                skip = 0;
                if ((flags & msg_trunc) != 0) {
                    out.truncate(out.remaining() - length);
                    done += length;
                } else {
                    auto copied = packet->copy_to(out, offset + static_cast<u32>(from),
                                                  static_cast<u32>(length));
                    if (!copied)
                        return done > 0 ? Result<usize>(done) : Result<usize>(fail(EFAULT));
                    done += *copied;
                    if (*copied < length)
                        return done;
                }
            }
            offset += static_cast<u32>(piece);
            at += static_cast<u32>(piece);
        }
    }
    return done;
}

Result<usize> TcpSocket::receive_urgent(IoBuffer& out, ReceiveRequest& request) {
    Connection& own = *connection_;
    u8 byte = 0;
    {
        SpinGuard guard(own.lock);
        Connection::Urgent& urgent = own.urgent();
        if (own.options.inline_urgent || !urgent.pending || urgent.taken)
            return fail(EINVAL);
        if (own.state() == State::Closed && progress_ != Progress::Connected)
            return fail(ENOTCONN);
        if (!urgent.valid)
            return own.state() == State::Closed || own.read_shut() ? Result<usize>(usize{0})
                                                                   : Result<usize>(fail(EAGAIN));
        byte = urgent.byte;
        if ((request.flags & msg_peek) == 0) {
            urgent.taken = true;
            urgent.valid = false;
        }
    }
    request.result_flags |= msg_oob;
    if (out.remaining() == 0) {
        request.result_flags |= msg_trunc;
        return usize{0};
    }
    if ((request.flags & msg_trunc) == 0 && out.copy_out(&byte, 1) != 1)
        return fail(EFAULT);
    return usize{1};
}

} // namespace kernel::tcp
