// What arrives: connections that begin and end, and data. virtio 1.2, 5.10.6.
#include <linux/errno.h>
#include <linux/virtio_vsock.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/vsock/endpoint.hpp"

namespace kernel {

namespace {

constexpr u32 readable_events = poll_in | poll_rdnorm, writable_events = poll_out | poll_wrnorm;
constexpr u32 all_events = readable_events | writable_events | poll_hup | poll_rdhup | poll_err;
constexpr u64 patience_at_the_end_ns = 8 * nanoseconds_per_second; // VSOCK_CLOSE_TIMEOUT of Linux

void destroy_segments(VsockSegment* segment) {
    while (segment != nullptr) {
        VsockSegment* next = segment->next;
        free_vsock_segment(segment);
        segment = next;
    }
}

void forget_received(VsockEndpoint& endpoint) {
    destroy_segments(endpoint.received);
    endpoint.received = endpoint.received_last = nullptr;
    endpoint.received_bytes = 0;
    endpoint.messages = 0;
    endpoint.pieces = 0;
}

void take_credit(VsockEndpoint& endpoint, const VsockHeader& header) {
    const bool was_stuck = endpoint.room_to_send() == 0;
    endpoint.peer_buffer = header.buf_alloc;
    endpoint.peer_forwarded = header.fwd_cnt;
    if (was_stuck && endpoint.room_to_send() != 0)
        endpoint.wake(writable_events);
}

void append(VsockEndpoint& endpoint, VsockSegment& segment) {
    segment.next = nullptr;
    if (endpoint.received_last != nullptr)
        endpoint.received_last->next = &segment;
    else
        endpoint.received = &segment;
    endpoint.received_last = &segment;
    endpoint.pieces++;
}

// Keeps the payload: in what is there already, in a copy of the right size, or as it is. False: it
// was copied, or there was no memory (`kept` tells).
bool store_payload(VsockEndpoint& endpoint, VsockSegment& segment, bool may_keep, bool& kept) {
    const u32 bytes = segment.size();
    VsockSegment* last = endpoint.received_last;
    kept = true;
    if (endpoint.is_stream() && last != nullptr && last->capacity - last->end >= bytes) {
        __builtin_memcpy(last->data() + last->end, segment.data() + segment.start, bytes);
        last->end += bytes;
        return false;
    }
    // A little in a large buffer would let its sender take far more memory than it has credit for.
    const bool wasteful = bytes < segment.capacity / 4;
    if (may_keep && !wasteful) {
        append(endpoint, segment);
        return true;
    }
    VsockSegment* copy = allocate_vsock_segment(bytes);
    if (copy == nullptr || copy->capacity < bytes) {
        if (copy != nullptr)
            free_vsock_segment(copy);
        if (may_keep) {
            append(endpoint, segment);
            return true;
        }
        kept = false;
        return false;
    }
    __builtin_memcpy(copy->data(), segment.data() + segment.start, bytes);
    copy->end = bytes;
    copy->flags = segment.flags;
    append(endpoint, *copy);
    return false;
}

void break_off(VsockEndpoint& endpoint, int code) {
    endpoint.forget_unsent();
    endpoint.say(say_reset);
    endpoint.error = code;
    endpoint.ended();
    leave_vsock_connection(endpoint);
}

bool receive_data(VsockEndpoint& endpoint, const VsockHeader& header, VsockSegment* segment,
                  bool may_keep) {
    if (segment == nullptr || header.len == 0)
        return false;
    if (endpoint.orphan)
        return false; // it was told that nobody reads
    const u32 unread = endpoint.arrived - endpoint.forwarded;
    if (header.len > endpoint.granted - (unread < endpoint.granted ? unread : endpoint.granted)) {
        break_off(endpoint, ECONNRESET); // more than it may: the stream would have a hole
        return false;
    }
    segment->flags = header.flags;
    bool kept = true;
    const bool taken = store_payload(endpoint, *segment, may_keep, kept);
    if (!kept) {
        break_off(endpoint, ENOMEM);
        return false;
    }
    endpoint.arrived += header.len;
    endpoint.received_bytes = endpoint.received_bytes + header.len;
    if ((header.flags & VIRTIO_VSOCK_SEQ_EOM) != 0)
        endpoint.messages = endpoint.messages + 1;
    if (endpoint.has_data())
        endpoint.wake(readable_events);
    return taken;
}

void receive_shutdown(VsockEndpoint& endpoint, u32 flags) {
    endpoint.peer_shutdown = endpoint.peer_shutdown | (flags & vsock_shut_both);
    if (endpoint.peer_shutdown == vsock_shut_both) {
        endpoint.forget_unsent();
        if (!endpoint.has_data() || endpoint.orphan) {
            endpoint.say(say_reset); // agreed
            endpoint.ended();
            leave_vsock_connection(endpoint);
        }
    }
    endpoint.wake(all_events);
}

void receive_reset(VsockEndpoint& endpoint) {
    endpoint.forget_unsent();
    endpoint.ended();
    leave_vsock_connection(endpoint);
}

void receive_request(VsockEndpoint& listener, VsockTransport transport, const VsockHeader& header) {
    if (header.op != VIRTIO_VSOCK_OP_REQUEST || listener.pending > listener.backlog)
        return reply_vsock_reset(transport, header);
    auto made = make_ref<VsockEndpoint>(header.type);
    if (!made)
        return reply_vsock_reset(transport, header);
    VsockEndpoint& child = **made;
    child.transport = transport;
    child.local = {static_cast<u32>(header.dst_cid), header.dst_port};
    child.remote = {static_cast<u32>(header.src_cid), header.src_port};
    child.buffer_size = listener.buffer_size;
    child.buffer_min = listener.buffer_min;
    child.buffer_max = listener.buffer_max;
    child.connect_timeout_ns = listener.connect_timeout_ns;
    child.set_buffer(child.buffer_size);
    child.peer_buffer = header.buf_alloc;
    child.peer_forwarded = header.fwd_cnt;
    child.state = VsockState::Connected;
    child.connected_once = true;
    child.listener = &listener;
    enter_vsock_connection(child);
    child.say(say_response);
    VsockEndpoint* last = made->leak();
    if (listener.last_pending != nullptr)
        listener.last_pending->next_pending = last;
    else
        listener.first_pending = last;
    listener.last_pending = last;
    listener.pending = listener.pending + 1;
    listener.wake(readable_events);
}

void receive_answer(VsockEndpoint& endpoint, const VsockHeader& header) {
    switch (header.op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
        take_credit(endpoint, header);
        set_vsock_deadline(endpoint, 0);
        endpoint.state = VsockState::Connected;
        endpoint.connected_once = true;
        endpoint.wake(all_events);
        break;
    case VIRTIO_VSOCK_OP_RST:
        endpoint.fail_connecting(ECONNRESET);
        break;
    default:
        reply_vsock_reset(endpoint.transport, header);
        endpoint.fail_connecting(EPROTO);
    }
}

bool receive_connected(VsockEndpoint& endpoint, const VsockHeader& header, VsockSegment* segment,
                       bool may_keep) {
    take_credit(endpoint, header);
    switch (header.op) {
    case VIRTIO_VSOCK_OP_RW:
        return receive_data(endpoint, header, segment, may_keep);
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        endpoint.say(say_credit);
        break;
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        receive_shutdown(endpoint, header.flags);
        break;
    case VIRTIO_VSOCK_OP_RST:
        receive_reset(endpoint);
        break;
    default: // credit updates; what makes no sense now means nothing
        break;
    }
    return false;
}

} // namespace

VsockEndpoint::~VsockEndpoint() {
    destroy_segments(received);
    destroy_segments(unsent);
}

bool VsockEndpoint::is_stream() const {
    return type == VIRTIO_VSOCK_TYPE_STREAM;
}

void VsockEndpoint::wake(u32 events) {
    waiters.wake_all(events);
}

void VsockEndpoint::consumed(u32 bytes) {
    forwarded += bytes;
    if (done || peer_shutdown == vsock_shut_both)
        return;
    // Whatever the peer still has room for, the rest is told before it can run out for good.
    if (forwarded - told_forwarded >= buffer / 4)
        say(say_credit);
}

// The next message may take all the room that there is, and nobody reads it before it is whole.
void VsockEndpoint::message_taken() {
    if (!done && peer_shutdown != vsock_shut_both && forwarded != told_forwarded)
        say(say_credit);
}

void VsockEndpoint::set_buffer(u64 bytes) {
    buffer = static_cast<u32>(bytes < largest_buffer ? bytes : largest_buffer);
    granted = buffer > granted ? buffer : granted;
    if (state == VsockState::Connected && !done)
        say(say_credit);
}

void VsockEndpoint::fail_connecting(int code) {
    forget_unsent();
    error = code;
    state = VsockState::Unconnected;
    leave_vsock_connection(*this);
    transport = VsockTransport::None;
    wake(all_events);
}

void VsockEndpoint::ended() {
    done = true;
    peer_shutdown = vsock_shut_both;
    if (!has_data())
        state = VsockState::Closing;
    wake(all_events);
}

u32 VsockEndpoint::poll_events(u32 low_water) const {
    u32 events = 0;
    const bool no_more = (shutdown & vsock_shut_receive) != 0 || peer_wont_send();
    if (error != 0)
        events |= poll_err;
    if (shutdown == vsock_shut_both || ((shutdown & vsock_shut_send) != 0 && peer_wont_send()))
        events |= poll_hup;
    if (no_more)
        events |= poll_rdhup | readable_events;
    if (state == VsockState::Listening) {
        if (pending != 0)
            events |= readable_events;
        return events;
    }
    if (is_stream() ? received_bytes >= low_water : messages != 0)
        events |= readable_events;
    const bool may_send = (shutdown & vsock_shut_send) == 0;
    if (may_send && state == VsockState::Connected && (room_to_send() != 0 || done))
        events |= writable_events;
    // As other families: one that is not connected can be written to, and says why not.
    if (may_send && (state == VsockState::Unconnected || state == VsockState::Closing))
        events |= writable_events;
    return events;
}

void close_vsock(VsockEndpoint& endpoint) {
    endpoint.orphan = true;
    unbind_vsock(endpoint);
    while (VsockEndpoint* first = endpoint.first_pending) {
        endpoint.first_pending = first->next_pending;
        first->listener = nullptr;
        close_vsock(*first);
        doom(*first);
    }
    endpoint.last_pending = nullptr;
    endpoint.pending = 0;
    if (endpoint.state == VsockState::Connecting) {
        endpoint.fail_connecting(0);
    } else if (endpoint.in_table) {
        forget_received(endpoint);
        if (endpoint.peer_shutdown == vsock_shut_both) {
            endpoint.forget_unsent();
            endpoint.say(say_reset);
            leave_vsock_connection(endpoint);
        } else {
            if (endpoint.shutdown != vsock_shut_both) {
                endpoint.shutdown = vsock_shut_both;
                endpoint.say(say_shutdown);
            }
            set_vsock_deadline(endpoint, monotonic_ns() + patience_at_the_end_ns);
        }
    }
}

bool receive_vsock_packet(VsockTransport transport, const VsockHeader& header,
                          VsockSegment* segment, bool may_keep) {
    if (header.src_cid > vsock_any || header.dst_cid > vsock_any)
        return false;
    const VsockAddress from{static_cast<u32>(header.src_cid), header.src_port};
    const VsockAddress to{static_cast<u32>(header.dst_cid), header.dst_port};
    // The host must not pass for the guest itself.
    if (transport == VsockTransport::Device &&
        (to.cid != vsock_guest_cid() || from.cid == to.cid || from.cid == vsock_cid_local))
        return false;
    VsockEndpoint* endpoint = find_vsock_connection(transport, to, from);
    if (endpoint == nullptr) {
        endpoint = find_bound_vsock(to, transport);
        if (endpoint != nullptr && endpoint->state != VsockState::Listening)
            endpoint = nullptr;
    }
    if (endpoint == nullptr || endpoint->type != header.type) {
        reply_vsock_reset(transport, header);
        return false;
    }
    switch (endpoint->state) {
    case VsockState::Listening:
        receive_request(*endpoint, transport, header);
        return false;
    case VsockState::Connecting:
        receive_answer(*endpoint, header);
        return false;
    case VsockState::Connected:
    case VsockState::Closing:
        return receive_connected(*endpoint, header, segment, may_keep);
    case VsockState::Unconnected:
        break;
    }
    return false;
}

} // namespace kernel
