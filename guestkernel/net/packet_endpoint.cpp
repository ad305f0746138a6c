#include "guestkernel/net/packet_endpoint.hpp"

#include <linux/errno.h>
#include <linux/if_packet.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/namespaces/namespaces.hpp"

namespace kernel::net {

namespace {

// With the link header in front, whichever state the packet is in.
PacketPtr copy_frame(const Packet& packet, u32 link_bytes) {
    PacketPtr copy = packet.clone(64);
    if (copy && link_bytes > 0)
        copy->restore_link();
    return copy;
}

} // namespace

void PacketEndpoint::deliver(Interface& on, const Packet& packet, u32 link_bytes,
                             PacketKind frame_kind) {
    if (frame_kind == PacketKind::Outgoing && ignore_outgoing)
        return;
    if (!ring_present && queued_bytes > receive_buffer) {
        lost.fetch_add(1);
        return;
    }
    PacketPtr copy = copy_frame(packet, link_bytes);
    if (!copy)
        return;
    copy->ingress_index = on.index();
    copy->kind = frame_kind;
    const u32 header = on.link_header_bytes();
    EthernetHeader link{};
    if (header != 0 && !copy->read(0, link))
        return;
    FrameInfo info{};
    info.interface = on.index();
    info.protocol = packet.link_protocol;
    info.link_type = static_cast<u16>(on.type());
    info.vlan = packet.vlan;
    info.vlan_present = packet.vlan_present;
    info.kind = frame_kind;
    info.partial = packet.checksum_state == ChecksumState::Partial;
    info.verified = packet.checksum_state == ChecksumState::Verified;
    info.source = link.source;
    info.network_offset = header;
    if (cooked && !copy->pull(header))
        return;
    info.original = copy->length();
    if (filter.present()) {
        const Ref<SocketFilter> program = filter.get();
        const u32 keep = program ? program->run(*copy) : ~u32{0};
        if (keep == 0)
            return;
        (void)copy->trim(keep);
    }
    const bool in_ring = ring_present && put_in_ring(copy, info);
    if (in_ring && !copy)
        return;
    if (!in_ring)
        seen.fetch_add(1);
    static_assert(sizeof(FrameInfo) <= sizeof(DatagramInfo));
    DatagramInfo kept;
    __builtin_memcpy(static_cast<void*>(&kept), &info, sizeof info);
    if (!enqueue(std::move(copy), kept) && !in_ring)
        lost.fetch_add(1);
}

LinkAddress address_of(const FrameInfo& info) {
    LinkAddress from{};
    from.family = family_packet;
    from.protocol.set(info.protocol);
    from.interface = static_cast<i32>(info.interface);
    from.link_type = info.link_type;
    from.kind = static_cast<u8>(info.kind);
    from.length = sizeof(MacAddress);
    __builtin_memcpy(from.address, info.source.bytes, sizeof info.source.bytes);
    return from;
}

u32 status_of(const FrameInfo& info) {
    return (info.partial ? TP_STATUS_CSUMNOTREADY : 0u) |
           (info.verified ? TP_STATUS_CSUM_VALID : 0u) |
           (info.vlan_present ? TP_STATUS_VLAN_VALID : 0u);
}

OffloadHeader offloads_of(const Packet& frame) {
    OffloadHeader out = describe_offloads(frame);
    constexpr u8 data_valid = 2; // VIRTIO_NET_HDR_F_DATA_VALID
    if (frame.checksum_state == ChecksumState::Verified)
        out.flags = data_valid;
    return out;
}

Room PacketEndpoint::room() {
    if (ring_present) {
        SpinGuard guard(lock);
        return ring_ ? ring_->room() : Room::None;
    }
    const u64 taken = queued_bytes, most = receive_buffer;
    if (taken >= most)
        return Room::None;
    return most - taken > most / 4 ? Room::Normal : Room::Low;
}

// False: there is no ring any more. One that is full loses the frame. The frame is taken unless it
// is to be had by recv(2), too.
bool PacketEndpoint::put_in_ring(PacketPtr& taken, const FrameInfo& info) {
    const Packet& frame = *taken;
    RingFrame about;
    about.status = status_of(info) | (info.vlan_present ? TP_STATUS_VLAN_TPID_VALID : 0u);
    about.original = info.original;
    about.link_header = cooked ? 0 : info.network_offset;
    about.cooked = cooked;
    about.wall_ns =
        frame.timestamp != 0 ? frame.timestamp : static_cast<u64>(stack().clock.wall_time());
    about.has_offloads = has_offloads;
    if (about.has_offloads)
        about.offloads = offloads_of(frame);
    about.may_queue = copy_threshold != 0 && queued_bytes < receive_buffer;
    about.vlan = info.vlan;
    about.vlan_protocol = info.vlan_present ? 0x8100 : 0;
    const LinkAddress from = address_of(info);
    __builtin_memcpy(about.from, &from, sizeof from);
    PacketRing::Outcome outcome{};
    {
        SpinGuard guard(lock);
        if (!ring_ && !ring_present)
            return false;
        if (lost.load() != 0)
            about.status |= TP_STATUS_LOSING;
        if (ring_)
            outcome = ring_->put(frame, about);
        (outcome.kept ? seen : lost).fetch_add(1);
    }
    if (outcome.tell)
        read_waiters.wake_all(poll_in | poll_rdnorm);
    if (!outcome.queued)
        taken = {};
    return true;
}

Owned<PacketRing> PacketEndpoint::exchange_ring(Owned<PacketRing> other, bool moving) {
    bool retires = false;
    {
        SpinGuard guard(lock);
        std::swap(ring_, other);
        ring_present = ring_.get() != nullptr || moving;
        retires = ring_ && ring_->retire_ns() != 0;
        if (retires)
            retire_timer_.arm(stack().now() + ring_->retire_ns());
    }
    if (!retires)
        (void)retire_timer_.cancel();
    return other;
}

void PacketEndpoint::retire(NetTimer& timer, void* self) {
    auto& own = *static_cast<PacketEndpoint*>(self);
    bool tell = false;
    {
        SpinGuard guard(own.lock);
        if (!own.ring_ || own.ring_->retire_ns() == 0)
            return;
        tell = own.ring_->retire(static_cast<u64>(own.stack().clock.wall_time()),
                                 own.lost.load() != 0);
        timer.arm(own.stack().now() + own.ring_->retire_ns());
    }
    if (tell)
        own.read_waiters.wake_all(poll_in | poll_rdnorm);
}

bool PacketEndpoint::ring_readable() {
    SpinGuard guard(lock);
    return ring_ && ring_->readable();
}

u32 PacketEndpoint::take_freezes() {
    SpinGuard guard(lock);
    return ring_ ? ring_->take_freezes() : 0;
}

void PacketEndpoint::interrupt() {
    set_error(ENETDOWN);
}

void PacketEndpoint::describe(PacketSocketRecord& out) const {
    out.inode = inode_number;
    out.type = cooked ? socket_datagram : socket_raw;
    out.protocol = PacketTap::protocol;
    out.interface = PacketTap::interface;
    out.attached = attached;
    out.auxiliary = auxiliary;
    out.uid = uid;
    out.references = ref_count();
    out.drops = lost.load();
    out.receive_memory = static_cast<u32>(queued_bytes);
    out.receive_buffer = receive_buffer;
    out.send_memory = static_cast<u32>(sent_.load());
    out.send_buffer = send_buffer_;
}

} // namespace kernel::net
