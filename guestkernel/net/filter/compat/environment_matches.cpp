// Matches of iptables that ask for what is known besides a packet's headers.
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/xt_addrtype.h>
#include <linux/netfilter/xt_connmark.h>
#include <linux/netfilter/xt_conntrack.h>
#include <linux/netfilter/xt_limit.h>
#include <linux/netfilter/xt_mark.h>
#include <linux/netfilter/xt_owner.h>
#include <linux/netfilter/xt_pkttype.h>
#include <linux/netfilter/xt_state.h>
#include <linux/netfilter/xt_statistic.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/net/filter/address_type.hpp"
#include "guestkernel/net/filter/compat/kinds.hpp"
#include "guestkernel/net/filter/conntrack.hpp"

namespace kernel::net::filter {

namespace {

const Connection* connection_of(const Evaluation& at) {
    return static_cast<const Connection*>(at.packet->connection.get());
}

// As XT_CONNTRACK_STATE_BIT() has them.
u32 state_bits(const Evaluation& at) {
    switch (tracking_of(*at.packet)) {
    case Tracking::Established:
        return XT_CONNTRACK_STATE_BIT(IP_CT_ESTABLISHED);
    case Tracking::Related:
        return XT_CONNTRACK_STATE_BIT(IP_CT_RELATED);
    case Tracking::New:
        return XT_CONNTRACK_STATE_BIT(IP_CT_NEW);
    case Tracking::Untracked:
        return XT_CONNTRACK_STATE_UNTRACKED;
    default:
        return XT_CONNTRACK_STATE_INVALID;
    }
}

bool masked_equal(const IpAddress& address, const nf_inet_addr& wanted, const nf_inet_addr& mask) {
    const auto* want = reinterpret_cast<const u8*>(&wanted); // SAFETY: bytes of a union
    const auto* bits = reinterpret_cast<const u8*>(&mask);
    for (usize i = 0; i < address.wire_bytes(); i++)
        if (((address.wire()[i] ^ want[i]) & bits[i]) != 0)
            return false;
    return true;
}

bool port_within(u16 port, u16 low, u16 high) {
    return port >= low && port <= high;
}

class ConntrackMatch {
public:
    explicit ConntrackMatch(const xt_conntrack_mtinfo3& info) : info_(info) {}
    bool matches(const Evaluation& at) const {
        const Connection* connection = connection_of(at);
        if (wants(XT_CONNTRACK_STATE)) {
            u32 bits = state_bits(at);
            if (connection != nullptr) {
                bits |= connection->has(status_source_nat) ? XT_CONNTRACK_STATE_SNAT : 0;
                bits |= connection->has(status_destination_nat) ? XT_CONNTRACK_STATE_DNAT : 0;
            }
            if (((info_.state_mask & bits) != 0) == inverted(XT_CONNTRACK_STATE))
                return false;
        }
        if (connection == nullptr)
            return (info_.match_flags & XT_CONNTRACK_STATE) != 0;
        if (wants(XT_CONNTRACK_DIRECTION) &&
            ((at.packet->tracking & tracking_reply) == 0) == inverted(XT_CONNTRACK_DIRECTION))
            return false;
        return addresses(*connection) && ports(*connection) && rest(at, *connection);
    }

private:
    bool wants(u32 bit) const { return (info_.match_flags & bit) != 0; }
    bool inverted(u32 bit) const { return (info_.invert_flags & bit) != 0; }
    bool address(u32 bit, const IpAddress& own, const nf_inet_addr& wanted,
                 const nf_inet_addr& mask) const {
        return !wants(bit) || masked_equal(own, wanted, mask) != inverted(bit);
    }
    bool port(u32 bit, u16 own, u16 low, u16 high) const {
        return !wants(bit) || port_within(own, low, high) != inverted(bit);
    }
    bool addresses(const Connection& connection) const {
        const Tuple& there = connection.ends[0].tuple;
        const Tuple& back = connection.ends[1].tuple;
        return address(XT_CONNTRACK_ORIGSRC, there.source, info_.origsrc_addr,
                       info_.origsrc_mask) &&
               address(XT_CONNTRACK_ORIGDST, there.destination, info_.origdst_addr,
                       info_.origdst_mask) &&
               address(XT_CONNTRACK_REPLSRC, back.source, info_.replsrc_addr, info_.replsrc_mask) &&
               address(XT_CONNTRACK_REPLDST, back.destination, info_.repldst_addr,
                       info_.repldst_mask);
    }
    bool ports(const Connection& connection) const {
        const Tuple& there = connection.ends[0].tuple;
        const Tuple& back = connection.ends[1].tuple;
        if (wants(XT_CONNTRACK_PROTO) &&
            (there.protocol == info_.l4proto) == inverted(XT_CONNTRACK_PROTO))
            return false;
        return port(XT_CONNTRACK_ORIGSRC_PORT, there.source_port, info_.origsrc_port,
                    info_.origsrc_port_high) &&
               port(XT_CONNTRACK_ORIGDST_PORT, there.destination_port, info_.origdst_port,
                    info_.origdst_port_high) &&
               port(XT_CONNTRACK_REPLSRC_PORT, back.source_port, info_.replsrc_port,
                    info_.replsrc_port_high) &&
               port(XT_CONNTRACK_REPLDST_PORT, back.destination_port, info_.repldst_port,
                    info_.repldst_port_high);
    }
    bool rest(const Evaluation& at, const Connection& connection) const {
        if (wants(XT_CONNTRACK_STATUS) &&
            ((info_.status_mask & connection.status.load()) != 0) == inverted(XT_CONNTRACK_STATUS))
            return false;
        if (!wants(XT_CONNTRACK_EXPIRES))
            return true;
        const u64 left = connection.left_seconds(at.stack.now());
        return (left >= info_.expires_min && left <= info_.expires_max) !=
               inverted(XT_CONNTRACK_EXPIRES);
    }
    const xt_conntrack_mtinfo3& info_;
};

bool match_conntrack3(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_conntrack_mtinfo3>(raw);
    return ConntrackMatch(info).matches(at);
}

// Earlier ones have single ports, in network order.
template <typename T>
xt_conntrack_mtinfo3 widen(const T& old) {
    xt_conntrack_mtinfo3 info{};
    __builtin_memcpy(&info, &old, offsetof(T, l4proto) + sizeof old.l4proto);
    const auto host = [](u16 port) { return __builtin_bswap16(port); };
    info.origsrc_port = info.origsrc_port_high = host(old.origsrc_port);
    info.origdst_port = info.origdst_port_high = host(old.origdst_port);
    info.replsrc_port = info.replsrc_port_high = host(old.replsrc_port);
    info.repldst_port = info.repldst_port_high = host(old.repldst_port);
    info.match_flags = old.match_flags;
    info.invert_flags = old.invert_flags;
    info.state_mask = old.state_mask;
    info.status_mask = old.status_mask;
    return info;
}

bool match_conntrack2(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    return ConntrackMatch(widen(info_as<xt_conntrack_mtinfo2>(raw))).matches(at);
}
bool match_conntrack1(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    return ConntrackMatch(widen(info_as<xt_conntrack_mtinfo1>(raw))).matches(at);
}

bool match_state(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    u32 bits = state_bits(at);
    if (bits == XT_CONNTRACK_STATE_UNTRACKED)
        bits = XT_STATE_UNTRACKED;
    return (info_as<xt_state_info>(raw).statemask & bits) != 0;
}

bool match_mark(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_mark_mtinfo1>(raw);
    return ((at.packet->mark & info.mask) == info.mark) != (info.invert != 0);
}

bool match_connmark(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_connmark_mtinfo1>(raw);
    const Connection* connection = connection_of(at);
    return connection != nullptr &&
           ((connection->mark.load() & info.mask) == info.mark) != (info.invert != 0);
}

bool is_of_type(const Evaluation& at, const IpAddress& address, u16 mask,
                const Interface* interface) {
    return mask == 0 || (mask >> address_type(at.stack, address, interface) & 1) != 0;
}

bool match_addrtype1(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_addrtype_info_v1>(raw);
    IpAddress source, destination;
    if (!read_addresses(*at.packet, at.hook.v6, source, destination))
        return false;
    const Interface* interface = (info.flags & XT_ADDRTYPE_LIMIT_IFACE_IN) != 0    ? at.hook.in
                                 : (info.flags & XT_ADDRTYPE_LIMIT_IFACE_OUT) != 0 ? at.hook.out
                                                                                   : nullptr;
    if (info.source != 0 && is_of_type(at, source, info.source, interface) ==
                                ((info.flags & XT_ADDRTYPE_INVERT_SOURCE) != 0))
        return false;
    return info.dest == 0 || is_of_type(at, destination, info.dest, interface) !=
                                 ((info.flags & XT_ADDRTYPE_INVERT_DEST) != 0);
}

bool match_addrtype0(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_addrtype_info>(raw);
    IpAddress source, destination;
    if (!read_addresses(*at.packet, at.hook.v6, source, destination))
        return false;
    if (info.source != 0 &&
        is_of_type(at, source, info.source, nullptr) == (info.invert_source != 0))
        return false;
    return info.dest == 0 ||
           is_of_type(at, destination, info.dest, nullptr) != (info.invert_dest != 0);
}

bool match_owner(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_owner_match_info>(raw);
    const bool ours = at.hook.flow != nullptr && at.packet->ingress == nullptr;
    if (!ours)
        return ((info.match ^ info.invert) & XT_OWNER_UID) == 0;
    const u32 uid = at.hook.flow->uid;
    return (info.match & XT_OWNER_UID) == 0 ||
           (uid >= info.uid_min && uid <= info.uid_max) != ((info.invert & XT_OWNER_UID) != 0);
}

// Whose group a packet is, and whether it has a socket, is not known on its way.
bool check_owner(const u8* raw) {
    return (info_as<xt_owner_match_info>(raw).match & ~u32{XT_OWNER_UID}) == 0;
}

bool match_packet_type(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_pkttype_info>(raw);
    return (static_cast<int>(at.packet->kind) == info.pkttype) != (info.invert != 0);
}

bool match_statistic(Evaluation& at, const u8* raw, MatchState& state) {
    (void)at;
    const auto info = info_as<xt_statistic_info>(raw);
    bool hit = false;
    if (info.mode == XT_STATISTIC_MODE_RANDOM) {
        hit = (static_cast<u32>(random_u64()) & 0x7fff'ffff) < info.u.random.probability;
    } else {
        const u32 now = state.count.fetch_add(1, base::Order::Relaxed);
        const u64 every = u64{info.u.nth.every} + 1;
        hit = now % every == info.u.nth.packet;
    }
    return hit != ((info.flags & XT_STATISTIC_INVERT) != 0);
}

bool check_statistic(const u8* raw) {
    const auto info = info_as<xt_statistic_info>(raw);
    return info.mode <= XT_STATISTIC_MODE_NTH && (info.flags & ~XT_STATISTIC_MASK) == 0;
}

// iptables' own limit: `avg` ten-thousandths of a second for each packet, `burst` of them at once.
// The state is what has gathered since the last packet, in milliseconds of them.
bool match_limit(Evaluation& at, const u8* raw, MatchState& state) {
    const auto info = info_as<xt_rateinfo>(raw);
    constexpr u64 unit = nanoseconds_per_second / XT_LIMIT_SCALE;
    const u64 cost = info.avg * unit, most = cost * info.burst;
    SpinGuard guard(state.lock);
    // Under the lock: no packet's time is before the last one's.
    const u64 now = at.stack.now();
    // Full at first.
    const u64 gathered = state.last == 0 ? most : state.credit + (now - state.last);
    state.credit = gathered < most ? gathered : most;
    state.last = now;
    if (state.credit < cost)
        return false;
    state.credit -= cost;
    return true;
}

bool check_limit(const u8* raw) {
    const auto info = info_as<xt_rateinfo>(raw);
    return info.burst != 0 && info.avg != 0 && u64{info.avg} * info.burst <= 0xffff'ffff;
}

constexpr u8 outgoing_points = 0x18;

constexpr MatchKind kinds[] = {
    {"conntrack",
     1,
     0,
     sizeof(xt_conntrack_mtinfo1),
     sizeof(xt_conntrack_mtinfo1),
     nullptr,
     match_conntrack1,
     {},
     true},
    {"conntrack",
     2,
     0,
     sizeof(xt_conntrack_mtinfo2),
     sizeof(xt_conntrack_mtinfo2),
     nullptr,
     match_conntrack2,
     {},
     true},
    {"conntrack",
     3,
     0,
     sizeof(xt_conntrack_mtinfo3),
     sizeof(xt_conntrack_mtinfo3),
     nullptr,
     match_conntrack3,
     {},
     true},
    {"state", 0, 0, sizeof(xt_state_info), sizeof(xt_state_info), nullptr, match_state, {}, true},
    {"mark", 1, 0, sizeof(xt_mark_mtinfo1), sizeof(xt_mark_mtinfo1), nullptr, match_mark},
    {"connmark",
     1,
     0,
     sizeof(xt_connmark_mtinfo1),
     sizeof(xt_connmark_mtinfo1),
     nullptr,
     match_connmark,
     {},
     true},
    {"addrtype", 0, 4, sizeof(xt_addrtype_info), sizeof(xt_addrtype_info), nullptr,
     match_addrtype0},
    {"addrtype", 1, 0, sizeof(xt_addrtype_info_v1), sizeof(xt_addrtype_info_v1), nullptr,
     match_addrtype1},
    {"owner",
     1,
     0,
     sizeof(xt_owner_match_info),
     sizeof(xt_owner_match_info),
     check_owner,
     match_owner,
     {.points = outgoing_points}},
    {"pkttype", 0, 0, sizeof(xt_pkttype_info), sizeof(xt_pkttype_info), nullptr, match_packet_type},
    {"statistic", 0, 0, sizeof(xt_statistic_info), offsetof(xt_statistic_info, master),
     check_statistic, match_statistic},
    {"limit", 0, 0, sizeof(xt_rateinfo), offsetof(xt_rateinfo, prev), check_limit, match_limit},
};

} // namespace

std::span<const MatchKind> environment_matches() {
    return kinds;
}

} // namespace kernel::net::filter
