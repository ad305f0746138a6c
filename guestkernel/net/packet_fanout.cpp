// Groups of packet sockets: PACKET_FANOUT of packet(7).
#include <linux/errno.h>
#include <linux/if_packet.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/net/packet_tap.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

namespace {

constexpr u8 flag_rollover = PACKET_FANOUT_FLAG_ROLLOVER >> 8,
             flag_unique_id = PACKET_FANOUT_FLAG_UNIQUEID >> 8,
             flag_defragment = PACKET_FANOUT_FLAG_DEFRAG >> 8,
             flag_ignore_outgoing = 0x4000 >> 8; // PACKET_FANOUT_FLAG_IGNORE_OUTGOING, since 6.2
constexpr u32 usual_members = 256, most_members = 1u << 16; // as Linux has it

struct Conversation {
    IpAddress source, destination;
    u8 protocol = 0;
    u32 transport = 0; // where its header begins; 0: there is none to be read
};

bool read_conversation(const Packet& packet, u32 at, Conversation& out) {
    if (packet.link_protocol == ether_ip) {
        Ipv4Header header;
        if (!packet.read(at, header) || header.header_bytes() < sizeof header)
            return false;
        out.source = IpAddress::v4(header.source.get());
        out.destination = IpAddress::v4(header.destination.get());
        out.protocol = header.protocol;
        out.transport = header.is_fragment() ? 0 : at + header.header_bytes();
        return true;
    }
    Ipv6Header header;
    if (packet.link_protocol != ether_ipv6 || !packet.read(at, header))
        return false;
    out.source = IpAddress::v6(header.source);
    out.destination = IpAddress::v6(header.destination);
    out.protocol = header.next_header;
    out.transport = at + static_cast<u32>(sizeof header);
    constexpr u32 most_headers = 8;
    for (u32 i = 0; i < most_headers; i++) {
        if (out.protocol != proto_hop_options && out.protocol != proto_routing &&
            out.protocol != proto_destination_options)
            break;
        u8 start[2];
        if (!packet.read(out.transport, start))
            break;
        out.protocol = start[0];
        out.transport += (start[1] + 1u) * 8;
    }
    return true;
}

// A hash of a packet's conversation that is the same in both directions; what is neither TCP nor
// UDP, and fragments, have that of their addresses.
u32 symmetric_hash(const Packet& packet, u32 network_at) {
    Conversation of;
    if (!read_conversation(packet, network_at, of))
        return 0;
    u64 ports = 0;
    Be16 pair[2];
    if (of.transport != 0 &&
        (of.protocol == proto_tcp || of.protocol == proto_udp || of.protocol == proto_udplite) &&
        packet.read(of.transport, pair)) {
        const u16 a = pair[0].get(), b = pair[1].get();
        ports = a < b ? u64{a} << 16 | b : u64{b} << 16 | a;
    }
    // What both directions have alike: neither sum depends on the order.
    const u64 both = of.source.hash() + of.destination.hash();
    return static_cast<u32>(hash_mix(both ^ hash_mix(ports << 8 | of.protocol)));
}

} // namespace

bool PacketFanout::rolls_over() const {
    return (asked.flags & flag_rollover) != 0;
}

bool PacketFanout::wants(PacketKind kind) const {
    return kind != PacketKind::Outgoing || (asked.flags & flag_ignore_outgoing) == 0;
}

// --- membership

PacketFanout* PacketTaps::find_group(u16 id) {
    for (PacketFanout& group : groups_)
        if (group.asked.id == id)
            return &group;
    return nullptr;
}

// PACKET_FANOUT_FLAG_UNIQUEID: one that no group has. False: there is none.
bool PacketTaps::new_group_id(u16& id) {
    for (u32 tries = 0; tries < 1u << 16; tries++)
        if (find_group(id = next_group_id_++) == nullptr)
            return true;
    return false;
}

Result<void> PacketTaps::join_group(PacketTap& tap, const FanoutRequest& request) {
    if (request.type > PACKET_FANOUT_CBPF ||      // programs of extended BPF are not taken here
        (request.flags & flag_defragment) != 0 || // nor are fragments put together for taps
        (request.type == PACKET_FANOUT_ROLLOVER && (request.flags & flag_rollover) != 0))
        return fail(EINVAL);
    TRY(Ref<PacketFanout> group, make_ref<PacketFanout>(request));
    SpinGuard guard(lock_);
    if (tap.group_)
        return fail(EALREADY);
    FanoutRequest& asked = group->asked;
    if ((asked.flags & flag_unique_id) != 0) {
        if (asked.id != 0)
            return fail(EINVAL);
        if (!new_group_id(asked.id))
            return fail(ENOMEM);
        asked.flags &= static_cast<u8>(~flag_unique_id);
    }
    PacketFanout* const known = find_group(asked.id);
    if (!tap.node_.linked() || asked.most > most_members)
        return fail(EINVAL);
    if (known != nullptr) {
        if (known->asked.flags != asked.flags || known->asked.type != asked.type ||
            (asked.most != 0 && asked.most != known->asked.most) ||
            known->interface != tap.interface || known->protocol != tap.protocol)
            return fail(EINVAL);
        if (known->count >= known->asked.most)
            return fail(ENOSPC);
        group = Ref<PacketFanout>::share(known);
    } else {
        asked.most = asked.most == 0 ? usual_members : asked.most;
        group->interface = tap.interface;
        group->protocol = tap.protocol;
        groups_.push_back(*group);
    }
    group->members.push_back(tap);
    group->count++;
    tap.group_ = std::move(group);
    return {};
}

void PacketTaps::leave_group(PacketTap& tap) {
    Ref<PacketFanout> left; // goes without the lock
    SpinGuard guard(lock_);
    if (!tap.group_)
        return;
    left = std::move(tap.group_);
    tap.group_node_.unlink();
    if (--left->count == 0)
        left->node.unlink();
    guard.unlock();
}

Ref<PacketFanout> PacketTaps::group_of(PacketTap& tap) {
    SpinGuard guard(lock_);
    return tap.group_;
}

// --- delivery

PacketTap* PacketTaps::hold_member(PacketFanout& group, u32 index) {
    SpinGuard guard(lock_);
    for (PacketTap& tap : group.members)
        if (index-- == 0)
            return tap.try_hold() ? &tap : nullptr;
    return nullptr;
}

// The one behind `before`, in a circle; null: it is on its way out, or `before` was the group's no
// more and there is no other. Whoever looks at all members looks at each but once.
PacketTap* PacketTaps::hold_next(PacketFanout& group, PacketTap& before) {
    SpinGuard guard(lock_);
    PacketTap* next = before.group_.get() == &group ? group.members.next(before) : nullptr;
    if (next == nullptr)
        next = group.members.front();
    return next != nullptr && next->try_hold() ? next : nullptr;
}

// The first member from where the last one was found on that has room. `self`: the one whose turn
// it is comes first, if the packet is not one of many of a conversation that overruns it.
PacketTap* PacketTaps::roll_over(PacketFanout& group, u32 index, u32 count, bool self, u32 hash) {
    PacketTap* const own = hold_member(group, index);
    if (own == nullptr)
        return nullptr;
    PacketTap::Rollover& state = own->rollover;
    Room room = Room::None;
    if (self) {
        room = own->room();
        if (room == Room::Normal || (room == Room::Low && !state.is_huge(hash)))
            return own;
    }
    const u32 last = state.next.load(base::Order::Relaxed);
    const u32 start = last < count ? last : count - 1;
    PacketTap* other = hold_member(group, start);
    for (u32 step = 0; other != nullptr && step < count; step++) {
        if (!(self && other == own) && other->room() == Room::Normal) {
            state.next.store((start + step) % count, base::Order::Relaxed);
            state.all.fetch_add(1, base::Order::Relaxed);
            if (room == Room::Low)
                state.huge.fetch_add(1, base::Order::Relaxed);
            own->let_go();
            return other;
        }
        PacketTap* const next = hold_next(group, *other);
        other->let_go();
        other = next;
    }
    if (other != nullptr)
        other->let_go();
    state.failed.fetch_add(1, base::Order::Relaxed);
    return own;
}

// Whose turn it is, held; null: nobody's.
PacketTap* PacketTaps::choose(PacketFanout& group, const Packet& packet, u32 network_at) {
    const u32 count = __atomic_load_n(&group.count, __ATOMIC_RELAXED);
    if (count == 0)
        return nullptr;
    const bool hashes = group.asked.type == PACKET_FANOUT_HASH || group.rolls_over();
    const u32 hash = hashes ? symmetric_hash(packet, network_at) : 0;
    u32 index = 0;
    switch (group.asked.type) {
    case PACKET_FANOUT_HASH:
        index = static_cast<u32>(u64{hash} * count >> 32);
        break;
    case PACKET_FANOUT_LB:
        index = (group.turn.fetch_add(1, base::Order::Relaxed) + 1) % count;
        break;
    case PACKET_FANOUT_CPU:
        index = arch::cpu_id() % count;
        break;
    case PACKET_FANOUT_RND:
        index = static_cast<u32>(random_u64() % count);
        break;
    case PACKET_FANOUT_ROLLOVER:
        return roll_over(group, 0, count, false, 0);
    case PACKET_FANOUT_CBPF:
        if (const Ref<SocketFilter> program = group.chooser.get())
            index = program->run(packet) % count;
        break;
    default: // PACKET_FANOUT_QM: all packets of a device are of its first queue
        break;
    }
    if (group.rolls_over())
        return roll_over(group, index, count, true, hash);
    return hold_member(group, index);
}

// fanout_flow_is_huge() of Linux: most of what came lately is of the same conversation.
bool PacketTap::Rollover::is_huge(u32 hash) {
    u32 same = 0;
    for (const u32 seen : history)
        same += seen == hash ? 1 : 0;
    history[random_u64() % lately] = hash;
    return same > lately / 2;
}

} // namespace kernel::net
