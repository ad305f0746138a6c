// What goes out: who has something to say, in turns; and the loopback, which hands it on at once.
#include <linux/errno.h>
#include <linux/virtio_vsock.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/vsock/endpoint.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel {

namespace {

constexpr u32 most_resets = 64;
constexpr u32 unsent_limit = 256 << 10; // of one endpoint's data, whatever its peer has room for
constexpr usize small_segment = 1024, segment_step = 64;
constexpr usize segment_head = largest_vsock_allocation - largest_vsock_payload;

// A transport's way out.
struct Lane {
    base::IntrusiveList<VsockEndpoint, &VsockEndpoint::ready_node> ready;
    VsockHeader resets[most_resets] = {}; // answers to packets that belong to nobody
    u32 first_reset = 0, reset_count = 0;
};

constinit SpinLock vsock_lock{LockRank::Socket};
constinit Lane loopback_lane, device_lane;
constinit VsockEndpoint* doomed = nullptr;
constinit const VsockDeviceDriver* device_driver = nullptr;
constinit u32 guest_cid = vsock_any;

Lane& lane(VsockTransport transport) {
    return transport == VsockTransport::Device ? device_lane : loopback_lane;
}

u32 own_cid(VsockTransport transport) {
    return transport == VsockTransport::Device ? guest_cid : vsock_cid_local;
}

VsockHeader header_of(VsockEndpoint& endpoint, u16 op, u32 flags = 0) {
    endpoint.told_forwarded = endpoint.forwarded;
    return {own_cid(endpoint.transport),
            endpoint.remote.cid,
            endpoint.local.port,
            endpoint.remote.port,
            0,
            endpoint.type,
            op,
            flags,
            endpoint.buffer,
            endpoint.forwarded};
}

bool take_wish(VsockEndpoint& endpoint, u32 wish) {
    const bool wished = (endpoint.saying & wish) != 0;
    endpoint.saying &= ~wish;
    return wished;
}

VsockSegment* take_unsent(VsockEndpoint& endpoint) {
    VsockSegment* segment = endpoint.unsent;
    endpoint.unsent = segment->next;
    if (endpoint.unsent == nullptr)
        endpoint.unsent_last = nullptr;
    endpoint.unsent_bytes = endpoint.unsent_bytes - segment->size();
    segment->next = nullptr;
    return segment;
}

// Requires: it has something to say.
VsockPacket next_of(VsockEndpoint& endpoint) {
    if (take_wish(endpoint, say_request))
        return {header_of(endpoint, VIRTIO_VSOCK_OP_REQUEST), nullptr};
    if (take_wish(endpoint, say_response))
        return {header_of(endpoint, VIRTIO_VSOCK_OP_RESPONSE), nullptr};
    if (endpoint.unsent != nullptr) {
        take_wish(endpoint, say_credit); // data carry it
        const bool was_full = endpoint.room_to_send() == 0;
        VsockSegment* segment = take_unsent(endpoint);
        VsockHeader header = header_of(endpoint, VIRTIO_VSOCK_OP_RW, segment->flags);
        header.len = segment->size();
        if (was_full)
            endpoint.wake(poll_out | poll_wrnorm);
        return {header, segment};
    }
    if (take_wish(endpoint, say_credit))
        return {header_of(endpoint, VIRTIO_VSOCK_OP_CREDIT_UPDATE), nullptr};
    if (take_wish(endpoint, say_shutdown))
        return {header_of(endpoint, VIRTIO_VSOCK_OP_SHUTDOWN, endpoint.shutdown), nullptr};
    take_wish(endpoint, say_reset);
    return {header_of(endpoint, VIRTIO_VSOCK_OP_RST), nullptr};
}

void deliver_loopback() {
    VsockPacket packet;
    while (next_vsock_packet(VsockTransport::Loopback, packet)) {
        if (!receive_vsock_packet(VsockTransport::Loopback, packet.header, packet.data, true) &&
            packet.data != nullptr)
            free_vsock_segment(packet.data);
    }
}

} // namespace

VsockSegment* allocate_vsock_segment(usize bytes) {
    usize size = bytes + segment_head;
    size = size <= small_segment ? (size + segment_step - 1) / segment_step * segment_step
           : size <= page_size   ? page_size
                                 : largest_vsock_allocation;
    void* memory = kmalloc(size);
    if (memory == nullptr && size > page_size) {
        size = page_size; // memory is in pieces
        memory = kmalloc(size);
    }
    if (memory == nullptr)
        return nullptr;
    auto* segment = ::new (memory) VsockSegment();
    segment->capacity = static_cast<u32>(size - segment_head);
    return segment;
}

void free_vsock_segment(VsockSegment* segment) {
    kfree(segment);
}

VsockGuard::VsockGuard(At end) : end_(end) {
    vsock_lock.lock();
}

VsockGuard::~VsockGuard() {
    deliver_loopback();
    // The last reference must not go under the lock.
    while (VsockEndpoint* gone = doomed) {
        doomed = gone->doomed_next;
        gone->doomed = false;
        vsock_lock.unlock();
        gone->release();
        vsock_lock.lock();
    }
    const bool tell = end_ == At::TellDevice && device_driver != nullptr &&
                      vsock_has_packets(VsockTransport::Device);
    vsock_lock.unlock();
    if (tell)
        device_driver->transmit();
}

void doom(VsockEndpoint& endpoint) {
    if (endpoint.doomed) {
        endpoint.release(); // never the last: the list has one
        return;
    }
    endpoint.doomed = true;
    endpoint.doomed_next = doomed;
    doomed = &endpoint;
}

void make_vsock_ready(VsockEndpoint& endpoint) {
    if (endpoint.ready_node.linked() || endpoint.transport == VsockTransport::None)
        return;
    endpoint.add_ref();
    lane(endpoint.transport).ready.push_back(endpoint);
}

bool vsock_has_packets(VsockTransport transport) {
    return lane(transport).reset_count != 0 || !lane(transport).ready.empty();
}

bool next_vsock_packet(VsockTransport transport, VsockPacket& out) {
    Lane& from = lane(transport);
    if (from.reset_count != 0) {
        out = {from.resets[from.first_reset], nullptr};
        from.first_reset = (from.first_reset + 1) % most_resets;
        from.reset_count--;
        return true;
    }
    while (VsockEndpoint* endpoint = from.ready.pop_front()) {
        const bool something = endpoint->saying != 0 || endpoint->unsent != nullptr;
        if (something)
            out = next_of(*endpoint);
        if (endpoint->saying != 0 || endpoint->unsent != nullptr)
            from.ready.push_back(*endpoint); // behind the others
        else
            doom(*endpoint);
        if (something)
            return true;
    }
    return false;
}

void reply_vsock_reset(VsockTransport transport, const VsockHeader& to) {
    Lane& out = lane(transport);
    if (to.op == VIRTIO_VSOCK_OP_RST || out.reset_count == most_resets)
        return;
    VsockHeader& reset = out.resets[(out.first_reset + out.reset_count) % most_resets];
    reset = {to.dst_cid, to.src_cid,          to.dst_port, to.src_port, 0,
             to.type,    VIRTIO_VSOCK_OP_RST, 0,           0,           0};
    out.reset_count++;
}

u32 VsockEndpoint::room_to_send() const {
    const u32 here = unsent_bytes < unsent_limit ? unsent_limit - unsent_bytes : 0;
    const u32 there = credit();
    return here < there ? here : there;
}

void VsockEndpoint::say(u32 what) {
    saying |= what;
    make_vsock_ready(*this);
}

void VsockEndpoint::forget_unsent() {
    saying = 0;
    while (unsent != nullptr)
        free_vsock_segment(take_unsent(*this));
}

void attach_vsock_device(const VsockDeviceDriver& driver, u32 cid) {
    VsockGuard guard(VsockGuard::At::Quiet);
    device_driver = &driver;
    guest_cid = cid;
}

void detach_vsock_device() {
    VsockGuard guard(VsockGuard::At::Quiet);
    device_driver = nullptr;
    guest_cid = vsock_any;
}

u32 vsock_guest_cid() {
    return guest_cid;
}

bool vsock_device_present() {
    return device_driver != nullptr;
}

void reset_vsock_transport(u32 cid) {
    VsockGuard guard;
    guest_cid = cid;
    for_each_vsock_connection([](VsockEndpoint& endpoint) {
        if (endpoint.transport != VsockTransport::Device)
            return;
        if (endpoint.state == VsockState::Connecting) {
            endpoint.fail_connecting(ECONNRESET);
            return;
        }
        endpoint.forget_unsent();
        endpoint.error = ECONNRESET;
        endpoint.ended();
        leave_vsock_connection(endpoint);
    });
}

VsockTransport vsock_transport_to(u32 cid) {
    if (cid == vsock_cid_local)
        return VsockTransport::Loopback;
    if (!vsock_device_present()) // as Linux with its loopback alone
        return cid == vsock_cid_host ? VsockTransport::Loopback : VsockTransport::None;
    if (cid == guest_cid)
        return VsockTransport::Loopback;
    return VsockTransport::Device; // there is no other; the host knows who is there
}

} // namespace kernel
