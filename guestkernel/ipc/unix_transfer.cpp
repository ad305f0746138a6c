// What goes through Unix sockets: streams, datagrams and sequenced packets.
#include <optional>

#include <asm/socket.h>
#include <linux/errno.h>

#include "guestkernel/ipc/file_owner.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/unix_socket.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/pidfd.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr int sigpipe = 13;
constexpr u32 readable_events = poll_in | poll_rdnorm;
constexpr u32 writable_events = poll_out | poll_wrnorm | poll_wrband;
constexpr u32 most_datagrams = 10; // net.unix.max_dgram_qlen
// What a segment costs its sender beyond its bytes, so that empty ones are not free.
constexpr u32 segment_overhead = 512;
constexpr usize small_segment = 1024, page_segment = page_size, large_segment = 8 * page_size;

usize smaller(usize a, usize b) {
    return a < b ? a : b;
}

UnixSegment* allocate_segment(usize bytes) {
    usize size = bytes + sizeof(UnixSegment);
    if (size <= small_segment)
        size = small_segment;
    else if (size <= page_segment)
        size = page_segment;
    else if (size <= large_segment)
        size = large_segment;
    void* memory = kmalloc(size);
    if (memory == nullptr)
        return nullptr;
    auto* segment = ::new (memory) UnixSegment();
    segment->capacity = static_cast<u32>(size - sizeof(UnixSegment));
    return segment;
}

void destroy_segment(UnixSegment* segment) {
    segment->~UnixSegment();
    kfree(segment);
}

void uncharge(UnixEndpoint& sender, u32 charge) {
    const u64 before = sender.sent.fetch_sub(charge);
    // Only when it gets below a quarter, so that a writer that waited has room for a good piece.
    if (before * 4 > sender.send_buffer && (before - charge) * 4 <= sender.send_buffer)
        sender.write_waiters.wake_all(writable_events);
}

} // namespace

u8* UnixSegment::data() {
    return static_cast<u8*>(static_cast<void*>(this + 1));
}

bool UnixEndpoint::queue_full() const {
    return queued > most_datagrams;
}

void UnixEndpoint::free_segment(UnixSegment* segment) {
    if (FileRights* rights = segment->rights) {
        segment->rights = nullptr;
        rights->arrive();
        discard_rights(Owned<FileRights>(rights));
    }
    segment->sender = nullptr;
    segment->process = nullptr;
    segment->peeked = false;
    UnixSegment* none = nullptr;
    if (dead || segment->capacity > page_segment || !spare.compare_exchange(none, segment))
        destroy_segment(segment);
}

Result<void> UnixEndpoint::push(UnixSegment& segment, const UnixEndpoint& from, bool is_urgent) {
    {
        SpinGuard guard(lock);
        if (dead)
            return fail(connection_based() ? EPIPE : ECONNREFUSED);
        if (!connection_based()) {
            if (peer && peer.get() != &from)
                return fail(EPERM);
            if ((shutdown & shut_read) == 0 && queue_full() && peer.get() != &from && this != &from)
                return fail(EAGAIN);
        }
        if ((shutdown & shut_read) != 0)
            return fail(EPIPE);
        segment.next = nullptr;
        if (tail != nullptr)
            tail->next = &segment;
        else
            head = &segment;
        tail = &segment;
        queued = queued + 1;
        pushed = pushed + 1;
        queued_bytes = queued_bytes + segment.size();
        if (is_urgent) {
            urgent = &segment; // the one before it is a byte like any other now
            if (file != nullptr)
                FileOwner::tell_urgent(*file);
        }
    }
    read_waiters.wake_all(is_urgent ? readable_events | poll_pri : readable_events);
    return {};
}

void UnixEndpoint::pop_head() {
    UnixSegment* segment = nullptr;
    bool was_full = false;
    {
        SpinGuard guard(lock);
        segment = head;
        head = segment->next;
        if (head == nullptr)
            tail = nullptr;
        was_full = queue_full();
        queued = queued - 1;
        queued_bytes = queued_bytes - segment->size();
        if (segment == urgent)
            urgent = nullptr;
        if (segment == mark)
            mark = nullptr;
    }
    uncharge(connection_based() ? *peer : *segment->sender, segment->charge);
    free_segment(segment);
    if (connection_based() || !was_full)
        return;
    room_waiters.wake_all();
    SpinGuard guard(unix_lock());
    for (UnixEndpoint& connector : connectors)
        connector.write_waiters.wake_all(writable_events);
}

void UnixEndpoint::purge() {
    while (head != nullptr)
        pop_head();
}

// --- MSG_OOB: the last byte of a message, which reading passes over

bool UnixEndpoint::take_urgent(bool peek, u8& byte) {
    UnixSegment* needless = nullptr;
    {
        SpinGuard guard(lock);
        UnixSegment* const taken = urgent;
        if (taken == nullptr)
            return false;
        byte = taken->data()[taken->start];
        if (peek)
            return true;
        urgent = nullptr;
        taken->start++;
        queued_bytes = queued_bytes - 1;
        // Two marks in one place would be as good as one, and cost the sender its buffer.
        if (mark != nullptr && mark->next == taken) {
            mark->next = taken->next;
            if (tail == taken)
                tail = mark;
            queued = queued - 1;
            needless = taken;
        } else {
            mark = taken;
        }
    }
    if (needless != nullptr) {
        uncharge(*peer, needless->charge);
        free_segment(needless);
    }
    return true;
}

UnixSegment* UnixEndpoint::pass_mark(UnixSegment& segment, bool peek, bool read_some,
                                     bool inline_urgent) {
    const auto behind = [&](UnixSegment& passed) -> UnixSegment* {
        if (!peek) {
            pop_head();
            return head;
        }
        SpinGuard guard(lock);
        return passed.next;
    };
    UnixSegment* at = &segment;
    if (at->size() == 0) {
        if (read_some && urgent == nullptr)
            return nullptr;
        at = behind(*at);
    }
    if (at == nullptr || at != urgent)
        return at;
    if (read_some)
        return nullptr;
    if (!inline_urgent)
        return behind(*at);
    SpinGuard guard(lock);
    if (!peek && at == urgent)
        urgent = nullptr;
    return at;
}

bool UnixEndpoint::at_mark() {
    MutexGuard reading(read_mutex); // the first segment is not half read
    SpinGuard guard(lock);
    if (head == nullptr)
        return false;
    return head == urgent || (head->size() == 0 && (urgent == nullptr || head->next == urgent));
}

bool UnixEndpoint::has_unread(bool inline_urgent) {
    SpinGuard guard(lock);
    const UnixSegment* at = head;
    while (at != nullptr && (at->size() == 0 || (at == urgent && !inline_urgent)))
        at = at->next;
    return at != nullptr;
}

// --- sending

Result<usize> UnixSocketFile::send(IoBuffer& in, SendRequest& request) {
    // The urgent byte is the last one: there has to be one.
    if ((request.flags & msg_oob) != 0 && (type() != socket_stream || in.remaining() == 0))
        return fail(EOPNOTSUPP);
    return type() == socket_stream ? send_stream(in, request) : send_datagram(in, request);
}

Result<void> UnixSocketFile::wait_for_space(u32 msg_flags, u64 deadline) {
    UnixEndpoint& own = *endpoint_;
    for (;;) {
        if (own.error.load(base::Order::Relaxed) != 0)
            if (const int error = own.error.exchange(0); error != 0)
                return fail(error);
        if ((own.shutdown & shut_write) != 0)
            return fail(EPIPE);
        if (own.sent.load(base::Order::Relaxed) < own.send_buffer)
            return {};
        if (!blocks(msg_flags))
            return fail(EAGAIN);
        const auto ready = [&] {
            return own.sent.load() < own.send_buffer || own.error.load() != 0 ||
                   (own.shutdown & shut_write) != 0;
        };
        TRY(waited(wait_until(own.write_waiters, ready, deadline), deadline));
    }
}

// A segment filled from the caller's memory, charged to this end.
Result<UnixSegment*> UnixSocketFile::load_segment(IoBuffer& in, usize bytes, SendRequest& request,
                                                  UnixEndpoint* to) {
    UnixSegment* segment =
        to != nullptr ? to->spare.exchange(nullptr, base::Order::AcqRel) : nullptr;
    if (segment != nullptr && segment->capacity < bytes) {
        destroy_segment(segment);
        segment = nullptr;
    }
    if (segment == nullptr)
        segment = allocate_segment(bytes);
    if (segment == nullptr)
        return fail(ENOBUFS);
    segment->start = 0;
    segment->end = static_cast<u32>(bytes);
    if (in.copy_in(segment->data(), bytes) != bytes) {
        destroy_segment(segment);
        return fail(EFAULT);
    }
    segment->credentials =
        request.has_credentials ? request.credentials : current_socket_credentials();
    if (to != nullptr && to->wants_pidfds)
        segment->process = find_process(segment->credentials.pid);
    if (request.rights) {
        if (auto done = request.rights->depart(); !done) {
            destroy_segment(segment);
            return fail(done.error().code);
        }
        segment->rights = request.rights.leak();
    }
    segment->charge = segment->end + segment_overhead;
    endpoint_->sent.fetch_add(segment->charge);
    return segment;
}

// Hands it over; one that is not wanted is destroyed.
Result<void> UnixSocketFile::send_piece(UnixEndpoint& to, UnixSegment& segment, bool is_urgent) {
    auto done = to.push(segment, *endpoint_, is_urgent);
    if (!done) {
        uncharge(*endpoint_, segment.charge);
        endpoint_->free_segment(&segment);
    }
    return done;
}

Result<usize> UnixSocketFile::send_stream(IoBuffer& in, SendRequest& request) {
    UnixEndpoint& own = *endpoint_;
    if (request.to != nullptr)
        return fail(own.state == UnixState::Connected ? EISCONN : EOPNOTSUPP);
    if (own.state != UnixState::Connected)
        return fail(ENOTCONN);
    UnixEndpoint& to = *own.peer; // until this file closes
    const u64 deadline = send_deadline();
    usize done = 0;
    Result<void> outcome;
    if ((own.shutdown & shut_write) != 0)
        outcome = fail(EPIPE);
    while (outcome && in.remaining() > 0) {
        outcome = wait_for_space(request.flags, deadline);
        if (!outcome)
            break;
        const usize largest = smaller(large_segment - sizeof(UnixSegment), own.send_buffer / 2);
        const usize left = in.remaining();
        // The urgent byte goes by itself.
        const bool is_urgent = (request.flags & msg_oob) != 0 && left == 1;
        const usize ordinary = (request.flags & msg_oob) != 0 && left > 1 ? left - 1 : left;
        const usize bytes = smaller(ordinary, largest);
        auto segment = load_segment(in, bytes, request, &to);
        if (!segment) {
            outcome = fail(segment.error().code);
            break;
        }
        outcome = send_piece(to, **segment, is_urgent);
        if (outcome)
            done += bytes;
    }
    if (outcome || done > 0)
        return done;
    if (outcome.error().code == EPIPE && (request.flags & msg_nosignal) == 0)
        send_signal(current_task(), sigpipe);
    return fail(outcome.error().code);
}

// The peer of a datagram socket is gone, and with it the connection.
void UnixSocketFile::forget_dead_peer(UnixEndpoint& gone) {
    UnixEndpoint& own = *endpoint_;
    Ref<UnixEndpoint> former;
    {
        SpinGuard guard(unix_lock());
        if (own.peer.get() != &gone)
            return;
        if (own.connector_node.linked())
            own.connector_node.unlink();
        own.state = UnixState::Unconnected;
        SpinGuard inner(own.lock);
        former = std::move(own.peer);
    }
    MutexGuard guard(own.read_mutex);
    own.purge();
}

Result<void> UnixSocketFile::deliver_datagram(UnixSegment& segment, Ref<UnixEndpoint> to,
                                              SendRequest& request) {
    const u64 deadline = send_deadline();
    for (;;) {
        auto done = to->push(segment, *endpoint_);
        if (done)
            return done;
        if (done.error().code == ECONNREFUSED)
            forget_dead_peer(*to);
        if (done.error().code != EAGAIN || !blocks(request.flags))
            return done;
        UnixEndpoint& target = *to;
        const auto ready = [&] {
            return !target.queue_full() || target.dead || (target.shutdown & shut_read) != 0;
        };
        TRY(waited(wait_until(target.room_waiters, ready, deadline), deadline));
    }
}

Result<usize> UnixSocketFile::send_datagram(IoBuffer& in, SendRequest& request) {
    UnixEndpoint& own = *endpoint_;
    const usize bytes = in.remaining();
    Ref<UnixEndpoint> to;
    if (type() == socket_seqpacket) {
        if (const int error = own.error.exchange(0); error != 0)
            return fail(error);
        if (own.state != UnixState::Connected)
            return fail(ENOTCONN);
        to = own.peer; // an address is ignored
    } else if (request.to != nullptr) {
        TRY(check_unix_address(*request.to, false));
    } else {
        to = own.peer_ref();
        if (!to)
            return fail(ENOTCONN);
    }
    TRY(autobind_for_credentials());
    constexpr usize reserve = 32;
    if (bytes > own.send_buffer - reserve)
        return fail(EMSGSIZE);
    TRY(wait_for_space(request.flags, send_deadline()));
    if (!to) {
        TRY(to, find_unix(*request.to, type()));
    }
    TRY(UnixSegment * segment, load_segment(in, bytes, request, to.get()));
    if (type() == socket_datagram)
        segment->sender = endpoint_;
    segment->timestamp = to->timestamps ? static_cast<u64>(realtime_ns()) : 0;
    auto done = deliver_datagram(*segment, to, request);
    if (!done) {
        uncharge(own, segment->charge);
        own.free_segment(segment);
        return fail(done.error().code);
    }
    return bytes;
}

// --- receiving

Result<usize> UnixSocketFile::receive(IoBuffer& out, ReceiveRequest& request) {
    request.has_credentials = option_on(SO_PASSCRED);
    request.has_pidfd = endpoint_->wants_pidfds;
    if ((request.flags & msg_oob) != 0)
        return type() == socket_stream ? receive_urgent(out, request)
                                       : Result<usize>(fail(EOPNOTSUPP));
    return type() == socket_stream ? receive_stream(out, request) : receive_message(out, request);
}

Result<void> UnixSocketFile::wait_for_data(u32 msg_flags, u64 deadline, u64 seen) {
    UnixEndpoint& own = *endpoint_;
    if (!blocks(msg_flags))
        return fail(EAGAIN);
    // A peek leaves the urgent byte and its mark, which are not for it.
    const bool peeks_stream = type() == socket_stream && (msg_flags & msg_peek) != 0;
    const auto ready = [&] {
        const bool some =
            peeks_stream ? own.has_unread(option_on(SO_OOBINLINE)) : own.head != nullptr;
        return (some && own.pushed != seen) || (own.shutdown & shut_read) != 0 ||
               own.error.load() != 0;
    };
    return waited(wait_until(own.read_waiters, ready, deadline), deadline);
}

namespace {

// The files of a segment: taken out, or copied for a peek.
Result<void> receive_rights(UnixSegment& segment, ReceiveRequest& request) {
    if (segment.rights == nullptr)
        return {};
    if ((request.flags & msg_peek) != 0) {
        TRY(request.rights, segment.rights->clone());
        return {};
    }
    FileRights* rights = segment.rights;
    segment.rights = nullptr;
    rights->arrive();
    request.rights = Owned<FileRights>(rights);
    return {};
}

} // namespace

Result<usize> UnixSocketFile::receive_urgent(IoBuffer& out, ReceiveRequest& request) {
    UnixEndpoint& own = *endpoint_;
    if (own.state != UnixState::Connected)
        return fail(EINVAL);
    MutexGuard reading(own.read_mutex);
    u8 byte = 0;
    if (option_on(SO_OOBINLINE) || !own.take_urgent((request.flags & msg_peek) != 0, byte))
        return fail(EINVAL);
    if (out.remaining() > 0 && out.copy_out(&byte, 1) != 1)
        return fail(EFAULT);
    request.result_flags |= msg_oob;
    return usize{1};
}

// The segment to read from and how much of it to leave out: for a peek what lies at the offset of
// SO_PEEK_OFF, null past all that there is. Locks: the endpoint's read_mutex is held.
UnixSegment* UnixSocketFile::next_to_receive(bool peek, usize& skip) {
    UnixEndpoint& own = *endpoint_;
    skip = 0;
    if (!peek || peek_offset_ < 0)
        return own.head;
    skip = static_cast<usize>(peek_offset_);
    SpinGuard guard(own.lock);
    UnixSegment* at = own.head;
    while (at != nullptr && skip >= at->size() && (skip > 0 || at->peeked)) {
        skip -= at->size();
        at = at->next;
    }
    return at;
}

// What was peeked at lies behind it, what was read does not lie before it any more.
void UnixSocketFile::move_peek_offset(i64 by) {
    if (peek_offset_ < 0)
        return;
    constexpr i64 most = 0x7fff'ffff;
    const i64 moved = peek_offset_ + by;
    const i64 kept = moved < 0 ? 0 : moved > most ? most : moved;
    __atomic_store_n(&peek_offset_, static_cast<i32>(kept), __ATOMIC_RELAXED);
}

Result<void> UnixSocketFile::receive_sender(const UnixSegment& segment, ReceiveRequest& request) {
    request.credentials = segment.credentials;
    if (request.has_pidfd && segment.process && !request.pidfd) {
        TRY(request.pidfd, make_pidfd(segment.process, 0));
    }
    return {};
}

Result<usize> UnixSocketFile::receive_stream(IoBuffer& out, ReceiveRequest& request) {
    UnixEndpoint& own = *endpoint_;
    if (own.state != UnixState::Connected)
        return fail(EINVAL);
    const bool peek = (request.flags & msg_peek) != 0;
    const usize wanted = out.remaining();
    const usize low_water = smaller(options_.receive_low_water, wanted);
    const usize target = (request.flags & msg_waitall) != 0 ? wanted : low_water;
    const u64 deadline = receive_deadline();
    if (request.wants_address)
        unix_address(own.peer->name_ref().get(), request.from);
    if (request.from.length == sizeof(u16))
        request.from.length = 0; // nameless
    usize done = 0;
    bool have_credentials = false;
    usize skip = 0;
    std::optional<MutexGuard<Mutex>> guard(std::in_place, own.read_mutex);
    u64 seen = own.pushed;
    UnixSegment* segment = next_to_receive(peek, skip);
    for (;;) {
        if (segment != nullptr) {
            UnixSegment* const passed =
                own.pass_mark(*segment, peek, done > 0, option_on(SO_OOBINLINE));
            skip = passed == segment ? skip : 0;
            segment = passed;
            if (segment == nullptr && done > 0)
                break;
        }
        if (segment == nullptr) {
            if (done > 0 && (peek || done >= target))
                break;
            const int error = done > 0 ? own.error.load() : own.error.exchange(0);
            if (error != 0 && done == 0)
                return fail(error);
            if (error != 0 || (own.shutdown & shut_read) != 0)
                break;
            if (own.head == nullptr)
                seen = nothing_seen;
            guard.reset();
            if (auto waiting = wait_for_data(request.flags, deadline, seen); !waiting) {
                if (done > 0)
                    return done;
                return fail(waiting.error().code);
            }
            guard.emplace(own.read_mutex);
            seen = own.pushed;
            segment = next_to_receive(peek, skip);
            continue;
        }
        if (have_credentials && (request.has_credentials || request.has_pidfd) &&
            segment->credentials != request.credentials)
            break; // not of one message with what came before
        if (auto known = receive_sender(*segment, request); !known && done == 0)
            return fail(known.error().code);
        have_credentials = true;
        const bool with_rights = segment->rights != nullptr;
        const usize piece = smaller(segment->size() - skip, out.remaining());
        const usize copied = out.copy_out(segment->data() + segment->start + skip, piece);
        if (copied == 0 && piece > 0) {
            if (done > 0)
                break;
            return fail(EFAULT);
        }
        TRY(receive_rights(*segment, request));
        done += copied;
        move_peek_offset(peek ? static_cast<i64>(copied) : -static_cast<i64>(copied));
        if (peek) {
            skip = 0;
            SpinGuard inner(own.lock);
            segment = segment->next;
        } else {
            {
                SpinGuard inner(own.lock);
                segment->start += static_cast<u32>(copied);
                own.queued_bytes = own.queued_bytes - copied;
            }
            if (segment->size() > 0)
                break;
            own.pop_head();
            segment = own.head;
        }
        if (with_rights || copied < piece || out.remaining() == 0)
            break;
    }
    return done;
}

Result<usize> UnixSocketFile::receive_message(IoBuffer& out, ReceiveRequest& request) {
    UnixEndpoint& own = *endpoint_;
    const bool peek = (request.flags & msg_peek) != 0;
    if (type() == socket_seqpacket && own.state != UnixState::Connected)
        return fail(ENOTCONN);
    const u64 deadline = receive_deadline();
    UnixSegment* found = nullptr;
    usize skip = 0;
    std::optional<MutexGuard<Mutex>> guard(std::in_place, own.read_mutex);
    for (;;) {
        if (const int error = own.error.exchange(0); error != 0)
            return fail(error);
        const u64 seen = own.head != nullptr ? own.pushed : nothing_seen;
        found = next_to_receive(peek, skip);
        if (found != nullptr)
            break;
        if ((own.shutdown & shut_read) != 0 &&
            (type() == socket_seqpacket || blocks(request.flags)))
            return usize{0};
        guard.reset();
        TRY(wait_for_data(request.flags, deadline, seen));
        guard.emplace(own.read_mutex);
    }
    UnixSegment& segment = *found;
    const usize size = segment.size() - skip;
    const usize piece = smaller(size, out.remaining());
    if (request.wants_address) {
        UnixEndpoint& from = segment.sender ? *segment.sender : *own.peer;
        unix_address(from.name_ref().get(), request.from);
        if (request.from.length == sizeof(u16))
            request.from.length = 0; // nameless
    }
    auto sender = receive_sender(segment, request);
    if (own.timestamps)
        request.add_timestamp(segment.timestamp != 0 ? segment.timestamp
                                                     : static_cast<u64>(realtime_ns()),
                              own.fine_timestamps);
    if (size > piece)
        request.result_flags |= msg_trunc;
    const bool complete = out.copy_out(segment.data() + segment.start + skip, piece) == piece;
    auto rights = complete ? receive_rights(segment, request) : Result<void>{};
    if (complete)
        move_peek_offset(peek ? static_cast<i64>(piece) : -static_cast<i64>(size));
    if (peek && segment.size() == 0)
        segment.peeked = true;
    if (!peek)
        own.pop_head();
    if (!complete)
        return fail(EFAULT);
    TRY(std::move(rights));
    TRY(std::move(sender));
    return (request.flags & msg_trunc) != 0 ? size : piece;
}

} // namespace kernel
