// AF_PACKET: frames as they pass an interface, and frames to send as they are. packet(7).
#include <asm/socket.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/if_packet.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/packet_endpoint.hpp"
#include "guestkernel/net/raw_socket.hpp"
#include "guestkernel/net/wire.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::net {

namespace {

constexpr int level_packet = 263; // SOL_PACKET

class PacketSocketFile final : public DatagramSocketFile {
public:
    PacketSocketFile(Ref<Inode> inode, u32 flags, int type, int protocol, Ref<NetNamespace> space,
                     Ref<PacketEndpoint> endpoint);
    ~PacketSocketFile() override;
    Result<void> bind(const SocketAddress& address) override;
    Result<void> local_address(SocketAddress& out) override;
    Result<usize> send(IoBuffer& in, SendRequest& request) override;
    Result<usize> receive(IoBuffer& out, ReceiveRequest& request) override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;
    u32 poll(PollTable* table) override;
    Result<Ref<File>> mapped_file(u64& offset, u64 length) override;
    void attach(u32 interface, u16 protocol);
    PacketEndpoint& endpoint() const { return static_cast<PacketEndpoint&>(*endpoint_); }

private:
    struct Watched {
        u32 interface;
        bool all_multicast;
        u32 users;
    };
    void count_taps(u32 interface, bool add);
    Result<void> change_membership(u32 interface, u16 kind, bool join);
    void count_watch(Interface& interface, bool all_multicast, bool add);
    struct Target {
        Ref<Interface> interface;
        u16 protocol = 0;
        LinkAddress to{};
    };
    Result<Target> find_target(const SendRequest& request);
    Result<usize> send_frame(IoBuffer& in, const Target& target, u32 flags);
    Result<usize> send_slots(const SendRequest& request);
    Result<usize> send_slot(const Target& target, u32 flags);
    Result<void> set_ring(bool sending, std::span<const u8> value);
    Result<void> place_rings(u64 receive_bytes, u64 send_bytes, Owned<PacketRing> receive,
                             Owned<SendRing> send);
    Result<void> set_ring_number(int name, u32 number);
    Mutex bind_mutex_;
    // Of the rings, under bind_mutex_.
    int version_ = TPACKET_V1;
    u32 reserve_ = 0;
    Ref<SharedPages> ring_pages_; // both: what one mmap(2) maps, received frames first
    u64 receive_bytes_ = 0, send_bytes_ = 0;
    Mutex send_mutex_;          // inside of bind_mutex_
    Owned<SendRing> send_ring_; // under send_mutex_
    volatile bool sends_by_ring_ = false, skips_malformed_ = false, has_send_offset_ = false;
    Vector<Watched> watched_; // under bind_mutex_
};

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

Result<usize> PacketSocketFile::send_frame(IoBuffer& in, const Target& target, u32 flags) {
    Interface& interface = *target.interface;
    const usize bytes = in.remaining();
    const u32 header = interface.link_header_bytes();
    if (bytes > interface.mtu() + (type() == socket_raw ? header : 0u))
        return fail(EMSGSIZE);
    if (type() == socket_raw && bytes < header)
        return fail(EINVAL);
    TRY(PacketPtr packet, load(in, bytes, 64, flags));
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
    endpoint().charge(*packet);
    interface.transmit(std::move(packet));
    run_backlog();
    return bytes;
}

// The next slot of the ring to send. Requires: send_mutex_.
Result<usize> PacketSocketFile::send_slot(const Target& target, u32 flags) {
    constexpr u32 vlan_bytes = 4;
    const u32 most = target.interface->mtu() + vlan_bytes +
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

Result<usize> PacketSocketFile::receive(IoBuffer& out, ReceiveRequest& request) {
    TRY(PacketPtr packet, wait_for_packet(request.flags));
    if (!packet)
        return usize{0};
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
    return (request.flags & msg_trunc) != 0 ? usize{length} : usize{copied};
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

// PACKET_RX_RING: a ring instead of the queue; PACKET_TX_RING: what send(2) sends. None of it (all
// zeros) takes it away.
Result<void> PacketSocketFile::set_ring(bool sending, std::span<const u8> value) {
    PacketRingRequest request;
    MutexGuard guard(bind_mutex_);
    const usize size = version_ == TPACKET_V3 ? sizeof(tpacket_req3) : sizeof(tpacket_req);
    static_assert(sizeof request == sizeof(tpacket_req3));
    if (value.size() < size)
        return fail(EINVAL);
    __builtin_memcpy(static_cast<void*>(&request), value.data(), size);
    if (request.blocks == 0 && request.frames != 0)
        return fail(EINVAL);
    if (request.blocks != 0 && (sending ? send_bytes_ : receive_bytes_) != 0)
        return fail(EBUSY);
    Owned<PacketRing> receive;
    Owned<SendRing> send;
    u64 bytes = 0;
    if (request.blocks != 0 && sending) {
        TRY(send, SendRing::make(request, version_));
        bytes = send->memory.bytes();
    } else if (request.blocks != 0) {
        TRY(receive, PacketRing::make(request, version_, reserve_));
        bytes = receive->memory.bytes();
    }
    return place_rings(sending ? receive_bytes_ : bytes, sending ? bytes : send_bytes_,
                       std::move(receive), std::move(send));
}

// Lays both rings into fresh memory: those that are given, and those that are there and stay. A
// mapping of the former memory keeps that.
Result<void> PacketSocketFile::place_rings(u64 receive_bytes, u64 send_bytes,
                                           Owned<PacketRing> receive, Owned<SendRing> send) {
    Ref<SharedPages> pages;
    if (receive_bytes + send_bytes != 0) {
        TRY(pages, SharedPages::make("packet-ring", receive_bytes + send_bytes));
    }
    MutexGuard sending(send_mutex_);
    if (send) {
        send->memory.place(pages, receive_bytes);
        send_ring_ = std::move(send);
    } else if (send_bytes != 0) {
        send_ring_->memory.move_to(pages, receive_bytes);
    } else {
        send_ring_ = {};
    }
    sends_by_ring_ = send_bytes != 0;
    if (receive) {
        receive->memory.place(pages, 0);
        receive->start(static_cast<u64>(stack().clock.wall_time()));
    } else if (receive_bytes != 0) {
        receive = endpoint().exchange_ring({}, true);
        receive->memory.move_to(pages, 0);
    }
    (void)endpoint().exchange_ring(std::move(receive));
    ring_pages_ = std::move(pages);
    receive_bytes_ = receive_bytes;
    send_bytes_ = send_bytes;
    return {};
}

Result<void> PacketSocketFile::set_ring_number(int name, u32 number) {
    MutexGuard guard(bind_mutex_);
    const bool present = receive_bytes_ + send_bytes_ != 0;
    if (name == PACKET_TX_HAS_OFF) {
        if (!present)
            has_send_offset_ = number != 0;
        return {};
    }
    if (present)
        return fail(EBUSY);
    if (name == PACKET_LOSS) {
        skips_malformed_ = number != 0;
        return {};
    }
    if (name == PACKET_VERSION) {
        if (number > TPACKET_V3)
            return fail(EINVAL);
        version_ = static_cast<int>(number);
        return {};
    }
    if (number > 0x7fffffff)
        return fail(EINVAL);
    reserve_ = number;
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

Result<void> PacketSocketFile::set_option(int level, int name, std::span<const u8> value) {
    if (level != level_packet)
        return DatagramSocketFile::set_option(level, name, value);
    if (name == PACKET_ADD_MEMBERSHIP || name == PACKET_DROP_MEMBERSHIP) {
        packet_mreq request{};
        if (value.size() < sizeof request)
            return fail(EINVAL);
        __builtin_memcpy(&request, value.data(), sizeof request);
        return change_membership(static_cast<u32>(request.mr_ifindex), request.mr_type,
                                 name == PACKET_ADD_MEMBERSHIP);
    }
    if (name == PACKET_RX_RING || name == PACKET_TX_RING)
        return set_ring(name == PACKET_TX_RING, value);
    int number = 0;
    if (value.size() < sizeof number)
        return fail(EINVAL);
    __builtin_memcpy(&number, value.data(), sizeof number);
    switch (name) {
    case PACKET_VERSION:
    case PACKET_RESERVE:
    case PACKET_LOSS:
    case PACKET_TX_HAS_OFF:
        return set_ring_number(name, static_cast<u32>(number));
    case PACKET_AUXDATA:
        endpoint().auxiliary = number != 0;
        return {};
    case PACKET_IGNORE_OUTGOING:
        if (number < 0 || number > 1)
            return fail(EINVAL);
        endpoint().ignore_outgoing = number != 0;
        return {};
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<usize> PacketSocketFile::get_option(int level, int name, std::span<u8> out) {
    if (level != level_packet)
        return DatagramSocketFile::get_option(level, name, out);
    const auto put = [out](const void* value, usize size) {
        const usize bytes = out.size() < size ? out.size() : size;
        __builtin_memcpy(out.data(), value, bytes);
        return bytes;
    };
    switch (name) {
    case PACKET_STATISTICS: { // read and cleared
        const u32 lost = endpoint().lost.exchange(0);
        const u32 values[3] = {endpoint().seen.exchange(0) + lost, lost, endpoint().take_freezes()};
        return put(values,
                   version_ == TPACKET_V3 ? sizeof(tpacket_stats_v3) : sizeof(tpacket_stats));
    }
    case PACKET_VERSION:
        return put(&version_, sizeof version_);
    case PACKET_RESERVE:
        return put(&reserve_, sizeof reserve_);
    case PACKET_HDRLEN: { // the caller's value is a version
        int value = 0;
        if (out.size() < sizeof value)
            return fail(EINVAL);
        __builtin_memcpy(&value, out.data(), sizeof value);
        if (value < TPACKET_V1 || value > TPACKET_V3)
            return fail(EINVAL);
        value = value == TPACKET_V1   ? sizeof(tpacket_hdr)
                : value == TPACKET_V2 ? sizeof(tpacket2_hdr)
                                      : sizeof(tpacket3_hdr);
        return put(&value, sizeof value);
    }
    case PACKET_LOSS:
    case PACKET_TX_HAS_OFF: {
        const int value = (name == PACKET_LOSS ? skips_malformed_ : has_send_offset_) ? 1 : 0;
        return put(&value, sizeof value);
    }
    case PACKET_AUXDATA: {
        const int value = endpoint().auxiliary ? 1 : 0;
        return put(&value, sizeof value);
    }
    case PACKET_IGNORE_OUTGOING: {
        const int value = endpoint().ignore_outgoing ? 1 : 0;
        return put(&value, sizeof value);
    }
    default:
        return fail(ENOPROTOOPT);
    }
}

} // namespace

Result<Ref<SocketFile>> make_packet_socket(int type, int protocol, u32 flags) {
    Ref<NetNamespace> space = Ref<NetNamespace>::share(current_net_namespace());
    if (!capable_over(space ? space->owner() : nullptr, CAP_NET_RAW))
        return fail(EPERM);
    if (type != socket_raw && type != socket_datagram)
        return fail(ESOCKTNOSUPPORT);
    TRY(Ref<Inode> inode, make_anonymous_inode(mode_socket | 0777));
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
