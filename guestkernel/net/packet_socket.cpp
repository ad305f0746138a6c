// AF_PACKET: frames as they pass an interface, and frames to send as they are. packet(7).
#include "guestkernel/net/packet_socket.hpp"

#include <asm/socket.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/if_packet.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/wire.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::net {

namespace {

constexpr u32 stamp_sent = 1u << 1, stamp_software = 1u << 4, // SOF_TIMESTAMPING_*
    stamp_numbered = 1u << 7, stamp_only = 1u << 11;
constexpr u8 origin_timestamping = 4; // SO_EE_ORIGIN_TIMESTAMPING

} // namespace

PacketSocketFile::PacketSocketFile(Ref<Inode> inode, u32 flags, int type, int protocol,
                                   Ref<NetNamespace> space, Ref<PacketEndpoint> endpoint_of)
    : DatagramSocketFile(std::move(inode), flags, family_packet, type, protocol, std::move(space),
                         std::move(endpoint_of)) {
    endpoint().cooked = type == socket_datagram;
    endpoint().uid = current_socket_credentials().uid;
    stack().taps().enroll(endpoint());
}

PacketSocketFile::~PacketSocketFile() {
    stack().taps().expel(endpoint());
    stack().taps().leave_group(endpoint());
    attach(0, 0);
    for (const Watched& watched : watched_)
        if (const Ref<Interface> interface = stack().interface(watched.interface))
            count_watch(*interface, watched.all_multicast, false);
    (void)endpoint().exchange_ring({});
    endpoint().close();
}

// Every interface counts the taps that look at it; those that look at all are counted by all.
void PacketSocketFile::count_taps(u32 index, bool add) {
    u32 after = 0;
    while (const Ref<Interface> interface = stack().next_interface(after)) {
        after = interface->index();
        if (index != 0 && index != after)
            continue;
        if (add)
            interface->taps.fetch_add(1);
        else
            interface->taps.fetch_sub(1);
    }
    if (index == 0)
        stack().taps_of_all.fetch_add(add ? 1u : ~u32{0});
}

void PacketSocketFile::attach(u32 interface, u16 protocol) {
    PacketEndpoint& own = endpoint();
    if (own.attached) {
        stack().taps().remove(own);
        count_taps(own.PacketTap::interface, false);
        own.attached = false;
    }
    own.PacketTap::interface = interface;
    own.PacketTap::protocol = protocol;
    if (protocol == 0)
        return;
    stack().taps().add(own);
    count_taps(interface, true);
    own.attached = true;
}

Result<void> PacketSocketFile::bind(const SocketAddress& address) {
    LinkAddress where;
    if (address.length < sizeof where)
        return fail(EINVAL);
    __builtin_memcpy(&where, address.bytes, sizeof where);
    if (where.family != family_packet)
        return fail(EINVAL);
    if (where.interface != 0) {
        const Ref<Interface> interface = stack().interface(static_cast<u32>(where.interface));
        if (!interface)
            return fail(ENODEV);
        if (!interface->is_up())
            endpoint().error.store(ENETDOWN);
    }
    MutexGuard guard(bind_mutex_);
    if (stack().taps().group_of(endpoint())) // whose members look at one interface
        return fail(EINVAL);
    const u16 given = where.protocol.get();
    attach(static_cast<u32>(where.interface), given != 0 ? given : endpoint().PacketTap::protocol);
    return {};
}

Result<void> PacketSocketFile::local_address(SocketAddress& out) {
    LinkAddress own{};
    own.family = family_packet;
    own.protocol.set(endpoint().PacketTap::protocol);
    own.interface = static_cast<i32>(endpoint().PacketTap::interface);
    out.length = offsetof(LinkAddress, address);
    if (const Ref<Interface> interface = stack().interface(endpoint().PacketTap::interface)) {
        own.link_type = static_cast<u16>(interface->type());
        own.length = sizeof(MacAddress);
        __builtin_memcpy(own.address, interface->mac().bytes, sizeof(MacAddress));
        out.length = offsetof(LinkAddress, address) + sizeof(MacAddress);
    }
    __builtin_memcpy(out.bytes, &own, sizeof own);
    return {};
}

Result<PacketSocketFile::Target> PacketSocketFile::find_target(const SendRequest& request) {
    Target out;
    u32 index = endpoint().PacketTap::interface;
    out.protocol = endpoint().PacketTap::protocol;
    if (request.to != nullptr) {
        // Nobody looks at the family.
        if (request.to->length < sizeof out.to)
            return fail(EINVAL);
        __builtin_memcpy(&out.to, request.to->bytes, sizeof out.to);
        if (request.to->length < offsetof(LinkAddress, address) + out.to.length)
            return fail(EINVAL);
        index = static_cast<u32>(out.to.interface);
        out.protocol = out.to.protocol.get();
    }
    out.interface = stack().interface(index);
    if (!out.interface)
        return fail(ENXIO);
    if (!out.interface->is_up())
        return fail(ENETDOWN);
    return out;
}

Result<usize> PacketSocketFile::send(IoBuffer& in, SendRequest& request) {
    if (sends_by_ring_)
        return send_slots(request);
    TRY(const Target target, find_target(request));
    return send_frame(in, target, request.flags);
}

// PACKET_VNET_HDR: what stands in front of a frame to send. EINVAL, EFAULT.
Result<void> PacketSocketFile::take_offloads(IoBuffer& in, OffloadHeader& out) {
    if (in.remaining() < sizeof out)
        return fail(EINVAL);
    if (in.copy_in(&out, sizeof out) != sizeof out)
        return fail(EFAULT);
    constexpr u8 needs_checksum = 1; // VIRTIO_NET_HDR_F_NEEDS_CSUM
    u32 headers = out.header_length;
    if ((out.flags & needs_checksum) != 0) {
        const u32 sum_end = u32{out.csum_start} + out.csum_offset + 2;
        headers = sum_end > headers ? sum_end : headers;
    }
    return headers > in.remaining() ? Result<void>(fail(EINVAL)) : Result<void>();
}

// SO_TIMESTAMPING of what is sent: the frame comes back on the error queue, with the time.
void PacketSocketFile::report_sent(PacketPtr copy) {
    const u32 wanted = packet_options_.timestamping;
    if (!copy)
        return;
    if ((wanted & stamp_only) != 0)
        (void)copy->trim(0);
    copy->timestamp = static_cast<u64>(stack().clock.wall_time());
    ErrorInfo info{};
    info.number = ENOMSG;
    info.origin = origin_timestamping;
    if ((wanted & stamp_numbered) != 0)
        info.data = sent_stamps_.fetch_add(1);
    endpoint().report(std::move(copy), info);
}

// Unlike load(), with the beginning of what is long, too, in the linear part: there are the headers
// whose checksums are still to be made, or of which each segment gets its own.
Result<PacketPtr> PacketSocketFile::load_frame(IoBuffer& in, usize bytes, u32 flags) {
    constexpr u32 headroom = 64;
    TRY(wait_for_room(flags));
    const u32 most = Packet::max_linear() - headroom;
    PacketPtr packet = Packet::allocate(bytes < most ? static_cast<u32>(bytes) : most, headroom);
    if (!packet)
        return fail(ENOBUFS);
    TRY(packet->append(in, static_cast<u32>(bytes)));
    return packet;
}

Result<usize> PacketSocketFile::send_frame(IoBuffer& in, const Target& target, u32 flags) {
    Interface& interface = *target.interface;
    const usize given = in.remaining();
    OffloadHeader offloads{};
    if (endpoint().has_offloads)
        TRY(take_offloads(in, offloads));
    const usize bytes = in.remaining();
    const u32 header = interface.link_header_bytes();
    constexpr u32 largest = 65535; // that is still to be cut into segments
    const u32 most = interface.mtu() + (type() == socket_raw ? header : 0u);
    if (bytes > (offloads.gso_type != 0 ? largest : most))
        return fail(EMSGSIZE);
    if (type() == socket_raw && bytes < header)
        return fail(EINVAL);
    TRY(PacketPtr packet, load_frame(in, bytes, flags));
    if (type() == socket_datagram && header != 0) {
        EthernetHeader link;
        __builtin_memcpy(link.destination.bytes, target.to.address, sizeof link.destination.bytes);
        link.source = interface.mac();
        link.protocol.set(target.protocol);
        packet->push_header(link);
    }
    EthernetHeader link;
    packet->link_protocol =
        header != 0 && packet->read(0, link) ? link.protocol.get() : target.protocol;
    packet->mark_link();
    packet->mark_network_at(header);
    if (endpoint().has_offloads && !apply_offloads(offloads, *packet))
        return fail(EINVAL);
    if (packet->segmentation != Segmentation::None) {
        if (packet->checksum_state != ChecksumState::Partial) // which says where segments begin
            return fail(EINVAL);
        packet->mark_transport(offloads.csum_start);
    }
    endpoint().charge(*packet);
    PacketPtr copy;
    if ((packet_options_.timestamping & stamp_sent) != 0)
        copy = packet->clone(0);
    interface.transmit(std::move(packet), !bypasses_queue_);
    report_sent(std::move(copy));
    run_backlog();
    return given;
}

// The next slot of the ring to send. Requires: send_mutex_.
Result<usize> PacketSocketFile::send_slot(const Target& target, u32 flags) {
    constexpr u32 vlan_bytes = 4;
    constexpr u32 largest = 65535 + sizeof(OffloadHeader);
    const u32 most = endpoint().has_offloads
                         ? largest
                         : target.interface->mtu() + vlan_bytes +
                               (type() == socket_raw ? target.interface->link_header_bytes() : 0u);
    TRY(const SendRing::Wanted wanted,
        send_ring_->next(most, has_send_offset_, type() == socket_datagram));
    // Copied before anything looks at it: the program may write on.
    Vector<u8> copy;
    if (!copy.resize(wanted.bytes))
        return fail(ENOBUFS);
    send_ring_->memory.read(wanted.data, copy.data(), wanted.bytes);
    IoBuffer in(copy.data(), wanted.bytes);
    return send_frame(in, target, flags);
}

// send(2) with PACKET_TX_RING: what the ring has, at most once around.
Result<usize> PacketSocketFile::send_slots(const SendRequest& request) {
    MutexGuard guard(send_mutex_);
    if (!send_ring_)
        return fail(EBUSY);
    TRY(const Target target, find_target(request));
    SendRing& ring = *send_ring_;
    usize done = 0;
    for (u32 left = ring.memory.shape().frames; left > 0 && ring.requested(); left--) {
        auto sent = send_slot(target, request.flags);
        const int error = sent ? 0 : sent.error().code;
        const bool malformed = error == EINVAL || error == EMSGSIZE;
        if (error != 0 && !malformed) // the slot stays for the next call
            return done > 0 ? Result<usize>(done) : Result<usize>(fail(error));
        if (malformed && !skips_malformed_) {
            ring.set_status(TP_STATUS_WRONG_FORMAT);
            return fail(error);
        }
        ring.set_status(TP_STATUS_AVAILABLE);
        ring.step();
        done += malformed ? 0 : *sent;
    }
    return done;
}

// What report_sent() put there: PACKET_TX_TIMESTAMP of packet(7)'s level.
Result<usize> PacketSocketFile::receive_stamp(IoBuffer& out, ReceiveRequest& request) {
    const PacketPtr packet = endpoint().take_error();
    if (!packet)
        return fail(EAGAIN);
    const ErrorInfo info = packet->scratch<ErrorInfo>();
    const u32 length = packet->length();
    const u32 wanted = out.remaining() < length ? static_cast<u32>(out.remaining()) : length;
    request.result_flags |= msg_errqueue | (wanted < length ? msg_trunc : 0);
    TRY(const u32 copied, packet->copy_to(out, 0, wanted));
    if ((packet_options_.timestamping & stamp_software) != 0) {
        const u64 stamp = packet->timestamp;
        const i64 value[6] = {static_cast<i64>(stamp / nanoseconds_per_second),
                              static_cast<i64>(stamp % nanoseconds_per_second)};
        request.add_control(SOL_SOCKET, SO_TIMESTAMPING_OLD, value, sizeof value);
    }
    constexpr u32 error_bytes = 16; // struct sock_extended_err
    request.add_control(level_packet, PACKET_TX_TIMESTAMP, &info, error_bytes);
    return usize{copied};
}

Result<usize> PacketSocketFile::receive(IoBuffer& out, ReceiveRequest& request) {
    if ((request.flags & msg_errqueue) != 0)
        return receive_stamp(out, request);
    TRY(PacketPtr packet, wait_for_packet(request.flags));
    if (!packet)
        return usize{0};
    usize in_front = 0;
    if (endpoint().has_offloads) {
        const OffloadHeader offloads = offloads_of(*packet);
        in_front = sizeof offloads;
        if (out.remaining() < in_front)
            return fail(EINVAL);
        if (out.copy_out(&offloads, in_front) != in_front)
            return fail(EFAULT);
    }
    FrameInfo info;
    __builtin_memcpy(static_cast<void*>(&info), &packet->scratch<DatagramInfo>(), sizeof info);
    const u32 length = packet->length();
    const u32 wanted = out.remaining() < length ? static_cast<u32>(out.remaining()) : length;
    if (wanted < length)
        request.result_flags |= msg_trunc;
    TRY(const u32 copied, packet->copy_to(out, 0, wanted));
    if (copied < wanted)
        return fail(EFAULT);
    if (request.wants_address) {
        const LinkAddress from = address_of(info);
        __builtin_memcpy(request.from.bytes, &from, sizeof from);
        request.from.length = offsetof(LinkAddress, address) + 8;
    }
    DatagramInfo none;
    none.source = none.destination = IpAddress();
    if (request.wants_control) {
        add_control(*packet, none, request);
        if (endpoint().auxiliary) {
            tpacket_auxdata value{};
            value.tp_status = TP_STATUS_USER | status_of(info);
            value.tp_len = info.original;
            value.tp_snaplen = length;
            value.tp_net = static_cast<u16>(type() == socket_datagram ? 0 : info.network_offset);
            value.tp_vlan_tci = info.vlan;
            request.add_control(level_packet, PACKET_AUXDATA, &value, sizeof value);
        }
    }
    return in_front + ((request.flags & msg_trunc) != 0 ? usize{length} : usize{copied});
}

void PacketSocketFile::count_watch(Interface& interface, bool all_multicast, bool add) {
    base::Atomic<u32>& users = all_multicast ? interface.all_multicast : interface.promiscuous;
    const u32 flag = all_multicast ? iff_all_multicast : iff_promiscuous;
    if (add && users.fetch_add(1) == 0)
        (void)stack().set_flags(interface, flag, flag);
    if (!add && users.fetch_sub(1) == 1)
        (void)stack().set_flags(interface, 0, flag);
}

Result<void> PacketSocketFile::change_membership(u32 index, u16 kind, bool join) {
    if (kind != PACKET_MR_PROMISC && kind != PACKET_MR_ALLMULTI && kind != PACKET_MR_MULTICAST)
        return fail(EINVAL);
    const Ref<Interface> interface = stack().interface(index);
    if (!interface)
        return fail(ENODEV);
    // A single group's frames come with all others': who asks for one gets more, never less.
    const bool all_multicast = kind != PACKET_MR_PROMISC;
    MutexGuard guard(bind_mutex_);
    usize at = 0;
    while (at < watched_.size() &&
           !(watched_[at].interface == index && watched_[at].all_multicast == all_multicast))
        at++;
    if (join) {
        if (at < watched_.size()) {
            watched_[at].users++;
            return {};
        }
        TRY(watched_.push_back({index, all_multicast, 1}));
        count_watch(*interface, all_multicast, true);
        return {};
    }
    if (at == watched_.size())
        return fail(EADDRNOTAVAIL);
    if (--watched_[at].users == 0) {
        watched_.erase(at);
        count_watch(*interface, all_multicast, false);
    }
    return {};
}

u32 PacketSocketFile::poll(PollTable* table) {
    const u32 events = DatagramSocketFile::poll(table);
    return events | (endpoint().ring_readable() ? poll_in | poll_rdnorm : 0);
}

Result<Ref<File>> PacketSocketFile::mapped_file(u64& offset, u64 length) {
    MutexGuard guard(bind_mutex_);
    if (!ring_pages_ || offset != 0 || length != ring_pages_->bytes())
        return fail(EINVAL);
    return ring_pages_->file();
}

Result<Ref<SocketFile>> make_packet_socket(int type, int protocol, u32 flags) {
    Ref<NetNamespace> space = Ref<NetNamespace>::share(current_net_namespace());
    if (!capable_over(space ? space->owner() : nullptr, CAP_NET_RAW))
        return fail(EPERM);
    if (type != socket_raw && type != socket_datagram)
        return fail(ESOCKTNOSUPPORT);
    TRY(Ref<Inode> inode, make_socket_inode("PACKET"));
    TRY(Ref<PacketEndpoint> endpoint,
        make_ref<PacketEndpoint>(Ref<Stack>::share(&stack_of(space.get()))));
    TRY(Ref<PacketSocketFile> file,
        make_ref<PacketSocketFile>(std::move(inode), flags, type, protocol, std::move(space),
                                   std::move(endpoint)));
    // The protocol is given in network order (packet(7)).
    file->attach(0, __builtin_bswap16(static_cast<u16>(protocol)));
    return Ref<SocketFile>(std::move(file));
}

} // namespace kernel::net
