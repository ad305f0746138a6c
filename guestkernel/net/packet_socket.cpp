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
#include "guestkernel/net/packet_ring.hpp"
#include "guestkernel/net/packet_tap.hpp"
#include "guestkernel/net/raw_socket.hpp"
#include "guestkernel/net/wire.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::net {

namespace {

constexpr int level_packet = 263; // SOL_PACKET
constexpr u32 address_bytes = 20; // struct sockaddr_ll

// What a captured frame remembers, in its scratch().
struct FrameInfo {
    u32 interface, original, network_offset;
    u16 protocol, link_type;
    u16 vlan;
    PacketKind kind;
    bool vlan_present, partial, verified;
    u16 gso_size;
    u8 gso_type;
    MacAddress source;
};

struct LinkAddress { // struct sockaddr_ll
    u16 family;
    Be16 protocol;
    i32 interface;
    u16 link_type;
    u8 kind, length;
    u8 address[8];
};
static_assert(sizeof(LinkAddress) == address_bytes);

class PacketEndpoint final : public DatagramEndpoint, public PacketTap {
public:
    explicit PacketEndpoint(Ref<Stack> stack)
        : DatagramEndpoint(std::move(stack), LockRank::Leaf) {}
    bool try_hold() override { return try_add_ref(); }
    void let_go() override { release(); }
    void deliver(Interface& on, const Packet& packet, u32 link_bytes, PacketKind kind) override;

    void describe(PacketSocketRecord& out) const override;
    void interrupt() override { set_error(ENETDOWN); }

    bool cooked = false;                               // SOCK_DGRAM: without the link header
    u32 uid = 0;                                       // of the maker
    volatile bool attached = false, auxiliary = false; // PACKET_AUXDATA
    volatile bool ignore_outgoing = false;
    base::Atomic<u32> seen{0}, lost{0}; // PACKET_STATISTICS

    // Exchanges the ring for another one, or none; the former is at rest when it comes back.
    Owned<PacketRing> exchange_ring(Owned<PacketRing> other);
    bool has_ring() const { return ring_present; }
    bool ring_readable();
    Ref<File> ring_file(u64& bytes);

private:
    bool put_in_ring(const Packet& frame, const FrameInfo& info);
    volatile bool ring_present = false;
    Owned<PacketRing> ring_; // under the lock, but for those whom `ring_users` counts
    base::Atomic<u32> ring_users{0};
    volatile bool losing_ = false; // under the lock
};

// With the link header in front, whichever state the packet is in.
PacketPtr copy_frame(const Packet& packet, u32 link_bytes) {
    PacketPtr copy = packet.clone(64);
    if (copy && link_bytes > 0)
        copy->restore_link();
    return copy;
}

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
    if (ring_present && put_in_ring(*copy, info))
        return;
    seen.fetch_add(1);
    static_assert(sizeof(FrameInfo) <= sizeof(DatagramInfo));
    DatagramInfo kept;
    __builtin_memcpy(static_cast<void*>(&kept), &info, sizeof info);
    if (!enqueue(std::move(copy), kept))
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

// False: there is no ring any more. One that is full loses the frame.
bool PacketEndpoint::put_in_ring(const Packet& frame, const FrameInfo& info) {
    PacketRing* ring = nullptr;
    u32 slot = PacketRing::none;
    bool losing = false;
    {
        SpinGuard guard(lock);
        ring = ring_.get();
        if (ring == nullptr)
            return false;
        slot = ring->claim();
        if (slot == PacketRing::none) {
            losing_ = true;
            lost.fetch_add(1);
            return true;
        }
        losing = losing_;
        losing_ = false;
        ring_users.fetch_add(1);
    }
    seen.fetch_add(1);
    RingFrame about;
    about.status = status_of(info) | (losing ? TP_STATUS_LOSING : 0u) |
                   (info.vlan_present ? TP_STATUS_VLAN_TPID_VALID : 0u);
    about.original = info.original;
    about.link_header = cooked ? 0 : info.network_offset;
    about.cooked = cooked;
    about.wall_ns =
        frame.timestamp != 0 ? frame.timestamp : static_cast<u64>(stack().clock.wall_time());
    about.vlan = info.vlan;
    about.vlan_protocol = info.vlan_present ? 0x8100 : 0;
    const LinkAddress from = address_of(info);
    __builtin_memcpy(about.from, &from, sizeof from);
    ring->fill(slot, frame, about);
    {
        SpinGuard guard(lock);
        ring->filled(slot);
    }
    ring_users.fetch_sub(1);
    read_waiters.wake_all(poll_in | poll_rdnorm);
    return true;
}

Owned<PacketRing> PacketEndpoint::exchange_ring(Owned<PacketRing> other) {
    {
        SpinGuard guard(lock);
        std::swap(ring_, other);
        ring_present = ring_.get() != nullptr;
    }
    // Who still fills a slot wakes the readers when it is done.
    (void)wait_until(
        read_waiters, [this] { return ring_users.load() == 0; }, no_deadline,
        TaskState::Uninterruptible);
    return other;
}

bool PacketEndpoint::ring_readable() {
    SpinGuard guard(lock);
    return ring_ && ring_->readable();
}

Ref<File> PacketEndpoint::ring_file(u64& bytes) {
    SpinGuard guard(lock);
    if (!ring_)
        return {};
    bytes = ring_->bytes();
    return ring_->file();
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
    Result<void> set_ring(std::span<const u8> value);
    Result<void> set_ring_number(int name, u32 number);
    Mutex bind_mutex_;
    int version_ = TPACKET_V1; // of the ring, under bind_mutex_, as is what is left free in it
    u32 reserve_ = 0;
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

Result<usize> PacketSocketFile::send(IoBuffer& in, SendRequest& request) {
    u32 index = endpoint().PacketTap::interface;
    u16 protocol = endpoint().PacketTap::protocol;
    LinkAddress to{};
    if (request.to != nullptr) {
        // Nobody looks at the family.
        if (request.to->length < sizeof to)
            return fail(EINVAL);
        __builtin_memcpy(&to, request.to->bytes, sizeof to);
        if (request.to->length < offsetof(LinkAddress, address) + to.length)
            return fail(EINVAL);
        index = static_cast<u32>(to.interface);
        protocol = to.protocol.get();
    }
    const Ref<Interface> interface = stack().interface(index);
    if (!interface)
        return fail(ENXIO);
    if (!interface->is_up())
        return fail(ENETDOWN);
    const usize bytes = in.remaining();
    const u32 header = interface->link_header_bytes();
    if (bytes > interface->mtu() + (type() == socket_raw ? header : 0u))
        return fail(EMSGSIZE);
    if (type() == socket_raw && bytes < header)
        return fail(EINVAL);
    TRY(PacketPtr packet, load(in, bytes, 64, request.flags));
    if (type() == socket_datagram && header != 0) {
        EthernetHeader link;
        __builtin_memcpy(link.destination.bytes, to.address, sizeof link.destination.bytes);
        link.source = interface->mac();
        link.protocol.set(protocol);
        packet->push_header(link);
    }
    EthernetHeader link;
    packet->link_protocol = header != 0 && packet->read(0, link) ? link.protocol.get() : protocol;
    packet->mark_link();
    packet->mark_network_at(header);
    endpoint().charge(*packet);
    interface->transmit(std::move(packet));
    run_backlog();
    return bytes;
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

// PACKET_RX_RING: a ring instead of the queue; none of it (all zeros) takes it away.
Result<void> PacketSocketFile::set_ring(std::span<const u8> value) {
    PacketRingRequest request;
    if (value.size() < sizeof request)
        return fail(EINVAL);
    __builtin_memcpy(&request, value.data(), sizeof request);
    MutexGuard guard(bind_mutex_);
    if (request.blocks == 0) {
        if (request.frames != 0)
            return fail(EINVAL);
        (void)endpoint().exchange_ring({});
        return {};
    }
    if (endpoint().has_ring())
        return fail(EBUSY);
    if (version_ != TPACKET_V2)
        return fail(EINVAL);
    TRY(Owned<PacketRing> ring, PacketRing::make(request, reserve_));
    (void)endpoint().exchange_ring(std::move(ring));
    return {};
}

Result<void> PacketSocketFile::set_ring_number(int name, u32 number) {
    MutexGuard guard(bind_mutex_);
    if (endpoint().has_ring())
        return fail(EBUSY);
    if (name == PACKET_VERSION) {
        if (number != TPACKET_V1 && number != TPACKET_V2)
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
    u64 bytes = 0;
    Ref<File> file = endpoint().ring_file(bytes);
    if (!file || offset != 0 || length != bytes)
        return fail(EINVAL);
    return file;
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
    if (name == PACKET_RX_RING)
        return set_ring(value);
    int number = 0;
    if (value.size() < sizeof number)
        return fail(EINVAL);
    __builtin_memcpy(&number, value.data(), sizeof number);
    switch (name) {
    case PACKET_VERSION:
    case PACKET_RESERVE:
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
        const u32 values[2] = {endpoint().seen.exchange(0) + lost, lost};
        return put(values, sizeof values);
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
        if (value != TPACKET_V1 && value != TPACKET_V2)
            return fail(EINVAL);
        value = value == TPACKET_V1 ? sizeof(tpacket_hdr) : sizeof(tpacket2_hdr);
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
