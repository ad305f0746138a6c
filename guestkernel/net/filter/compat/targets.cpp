// Targets of iptables.
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/xt_CT.h>
#include <linux/netfilter/xt_LOG.h>
#include <linux/netfilter/xt_NFLOG.h>
#include <linux/netfilter/xt_TCPMSS.h>
#include <linux/netfilter/xt_connmark.h>
#include <linux/netfilter/xt_mark.h>
#include <linux/netfilter_ipv4/ipt_REJECT.h>
#include <linux/netfilter_ipv6/ip6t_REJECT.h>

#include "guestkernel/net/filter/compat/kinds.hpp"
#include "guestkernel/net/filter/log_packet.hpp"
#include "guestkernel/net/filter/mangle.hpp"
#include "guestkernel/net/filter/nat.hpp"
#include "guestkernel/net/filter/reject_packet.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net::filter {

namespace {

// --- translation

u16 port_in(const nf_conntrack_man_proto& proto) {
    return __builtin_bswap16(proto.all);
}

NatRange range4(const u8* raw) {
    const nf_nat_ipv4_range from = info_as<nf_nat_ipv4_multi_range_compat>(raw).range[0];
    NatRange range;
    range.flags = from.flags;
    range.first = IpAddress::from_wire(false, &from.min_ip);
    range.last = IpAddress::from_wire(false, &from.max_ip);
    range.first_port = port_in(from.min);
    range.last_port = port_in(from.max);
    return range;
}

// Of revisions 1 and 2, whose beginnings are the same.
NatRange range_any(const Evaluation& at, const u8* raw) {
    const auto from = info_as<nf_nat_range>(raw);
    NatRange range;
    range.flags = from.flags;
    range.first = IpAddress::from_wire(at.hook.v6, &from.min_addr);
    range.last = IpAddress::from_wire(at.hook.v6, &from.max_addr);
    range.first_port = port_in(from.min_proto);
    range.last_port = port_in(from.max_proto);
    return range;
}
NatRange range_based(const Evaluation& at, const u8* raw) {
    NatRange range = range_any(at, raw);
    range.base_port = port_in(info_as<nf_nat_range2>(raw).base_proto);
    return range;
}

bool check_one_range(const u8* raw) {
    return info_as<nf_nat_ipv4_multi_range_compat>(raw).rangesize == 1;
}
bool check_own_address4(const u8* raw) {
    const auto info = info_as<nf_nat_ipv4_multi_range_compat>(raw);
    return info.rangesize == 1 && (info.range[0].flags & NF_NAT_RANGE_MAP_IPS) == 0;
}
bool check_own_address6(const u8* raw) {
    return (info_as<nf_nat_range>(raw).flags & NF_NAT_RANGE_MAP_IPS) == 0;
}

template <bool Source>
Verdict translate4(Evaluation& at, const u8* raw) {
    return set_up(at, range4(raw), Source);
}
template <bool Source>
Verdict translate_any(Evaluation& at, const u8* raw) {
    return set_up(at, range_any(at, raw), Source);
}
template <bool Source>
Verdict translate_based(Evaluation& at, const u8* raw) {
    return set_up(at, range_based(at, raw), Source);
}
Verdict masquerade4(Evaluation& at, const u8* raw) {
    return masquerade(at, range4(raw));
}
Verdict masquerade6(Evaluation& at, const u8* raw) {
    return masquerade(at, range_any(at, raw));
}
Verdict redirect4(Evaluation& at, const u8* raw) {
    return redirect(at, range4(raw));
}
Verdict redirect6(Evaluation& at, const u8* raw) {
    return redirect(at, range_any(at, raw));
}

constexpr u8 destination_points = 0x09, source_points = 0x12, masquerade_points = 0x10;
constexpr Placement of_destination{.nat = true, .points = destination_points},
    of_source{.nat = true, .points = source_points},
    of_masquerade{.nat = true, .points = masquerade_points};
constexpr u16 size4 = sizeof(nf_nat_ipv4_multi_range_compat), size_any = sizeof(nf_nat_range),
              size_based = sizeof(nf_nat_range2);

constexpr TargetKind nat_kinds[] = {
    {"DNAT", 0, 4, size4, size4, check_one_range, translate4<false>, of_destination, true},
    {"DNAT", 1, 0, size_any, size_any, nullptr, translate_any<false>, of_destination, true},
    {"DNAT", 2, 0, size_based, size_based, nullptr, translate_based<false>, of_destination, true},
    {"SNAT", 0, 4, size4, size4, check_one_range, translate4<true>, of_source, true},
    {"SNAT", 1, 0, size_any, size_any, nullptr, translate_any<true>, of_source, true},
    {"SNAT", 2, 0, size_based, size_based, nullptr, translate_based<true>, of_source, true},
    {"MASQUERADE", 0, 4, size4, size4, check_own_address4, masquerade4, of_masquerade, true},
    {"MASQUERADE", 0, 6, size_any, size_any, check_own_address6, masquerade6, of_masquerade, true},
    {"REDIRECT", 0, 4, size4, size4, check_own_address4, redirect4, of_destination, true},
    {"REDIRECT", 0, 6, size_any, size_any, check_own_address6, redirect6, of_destination, true},
};

// --- marks

Verdict set_mark(Evaluation& at, const u8* raw) {
    const auto info = info_as<xt_mark_tginfo2>(raw);
    at.packet->mark = (at.packet->mark & ~info.mask) ^ info.mark;
    return Verdict::Continue;
}

Verdict connection_mark(Evaluation& at, const u8* raw) {
    const auto info = info_as<xt_connmark_tginfo1>(raw);
    auto* connection = static_cast<Connection*>(at.packet->connection.get());
    if (connection == nullptr)
        return Verdict::Continue;
    const u32 old = connection->mark.load();
    switch (info.mode) {
    case XT_CONNMARK_SET:
        connection->mark.store((old & ~info.ctmask) ^ info.ctmark);
        break;
    case XT_CONNMARK_SAVE:
        connection->mark.store((old & ~info.ctmask) ^ (at.packet->mark & info.nfmask));
        break;
    default: // XT_CONNMARK_RESTORE
        at.packet->mark = (at.packet->mark & ~info.nfmask) ^ (old & info.ctmask);
        break;
    }
    return Verdict::Continue;
}

bool check_connection_mark(const u8* raw) {
    return info_as<xt_connmark_tginfo1>(raw).mode <= XT_CONNMARK_RESTORE;
}

// --- refusals

Verdict reject4(Evaluation& at, const u8* raw) {
    switch (info_as<ipt_reject_info>(raw).with) {
    case IPT_TCP_RESET:
        send_reset(at);
        break;
    case IPT_ICMP_NET_UNREACHABLE:
        send_unreachable(at, 0);
        break;
    case IPT_ICMP_HOST_UNREACHABLE:
        send_unreachable(at, 1);
        break;
    case IPT_ICMP_PROT_UNREACHABLE:
        send_unreachable(at, 2);
        break;
    case IPT_ICMP_NET_PROHIBITED:
        send_unreachable(at, 9);
        break;
    case IPT_ICMP_HOST_PROHIBITED:
        send_unreachable(at, 10);
        break;
    case IPT_ICMP_ADMIN_PROHIBITED:
        send_unreachable(at, 13);
        break;
    default:
        send_unreachable(at, 3);
        break;
    }
    return Verdict::Drop;
}

bool check_reject4(const u8* raw) {
    const u32 with = info_as<u32>(raw);
    return with <= IPT_ICMP_ADMIN_PROHIBITED && with != IPT_ICMP_ECHOREPLY;
}

Verdict reject6(Evaluation& at, const u8* raw) {
    switch (info_as<ip6t_reject_info>(raw).with) {
    case IP6T_TCP_RESET:
        send_reset(at);
        break;
    case IP6T_ICMP6_NO_ROUTE:
        send_unreachable(at, 0);
        break;
    case IP6T_ICMP6_ADM_PROHIBITED:
        send_unreachable(at, 1);
        break;
    case IP6T_ICMP6_NOT_NEIGHBOUR:
        send_unreachable(at, 2);
        break;
    case IP6T_ICMP6_ADDR_UNREACH:
        send_unreachable(at, 3);
        break;
    case IP6T_ICMP6_POLICY_FAIL:
        send_unreachable(at, 5);
        break;
    case IP6T_ICMP6_REJECT_ROUTE:
        send_unreachable(at, 6);
        break;
    default:
        send_unreachable(at, 4);
        break;
    }
    return Verdict::Drop;
}

bool check_reject6(const u8* raw) {
    const u32 with = info_as<u32>(raw);
    return with <= IP6T_ICMP6_REJECT_ROUTE && with != IP6T_ICMP6_ECHOREPLY;
}

// --- the rest

std::string_view text_in(const char* bytes, usize most) {
    const std::string_view all(bytes, most);
    return all.substr(0, all.find('\0'));
}

Verdict log_target(Evaluation& at, const u8* raw) {
    const auto info = info_as<xt_log_info>(raw);
    log_packet(at, text_in(info.prefix, sizeof info.prefix), info.level, info.logflags);
    return Verdict::Continue;
}
bool check_log(const u8* raw) {
    const auto info = info_as<xt_log_info>(raw);
    return info.level < 8 && text_in(info.prefix, sizeof info.prefix).size() < sizeof info.prefix;
}

// To a group that nobody here can listen to.
Verdict nothing(Evaluation& at, const u8* raw) {
    (void)at;
    (void)raw;
    return Verdict::Continue;
}

Verdict do_not_track(Evaluation& at, const u8* raw) {
    if ((info_as<xt_ct_target_info>(raw).flags & XT_CT_NOTRACK) != 0 && !at.packet->connection &&
        at.packet->tracking == 0)
        at.packet->tracking = static_cast<u8>(Tracking::Untracked);
    return Verdict::Continue;
}
bool check_ct(const u8* raw) { // helpers and zones are not there
    const auto info = info_as<xt_ct_target_info>(raw);
    return (info.flags & ~u32{XT_CT_NOTRACK | XT_CT_NOTRACK_ALIAS}) == 0 && info.zone == 0 &&
           info.helper[0] == 0;
}

// The segment size that a SYN offers becomes no larger than the one given, or than fits the path.
Verdict clamp_segment(Evaluation& at, const u8* raw) {
    const auto info = info_as<xt_tcpmss_info>(raw);
    Packet& packet = *at.packet;
    TcpHeader header;
    if (at.fragment_offset != 0 || !packet.read(at.transport, header) ||
        (header.flags & TcpHeader::syn) == 0 || header.header_bytes() < sizeof header ||
        packet.length() < at.transport + header.header_bytes() ||
        packet.linear(at.transport + header.header_bytes()) == nullptr)
        return Verdict::Continue;
    u32 wanted = info.mss;
    if (info.mss == XT_TCPMSS_CLAMP_PMTU) {
        const u32 mtu = at.hook.flow != nullptr  ? at.hook.flow->path.mtu
                        : at.hook.out != nullptr ? at.hook.out->mtu()
                                                 : 0;
        const u32 headers = (at.hook.v6 ? 40u : 20u) + static_cast<u32>(sizeof header);
        if (mtu <= headers)
            return Verdict::Continue;
        wanted = mtu - headers;
    }
    u8* options = packet.data() + at.transport;
    for (u32 offset = sizeof header; offset + 1 < header.header_bytes();) {
        const u8 kind = options[offset], length = kind < 2 ? u8{1} : options[offset + 1];
        if (kind == 0 || length == 0)
            return Verdict::Continue;
        if (kind == 2 && length == 4 && offset + 4 <= header.header_bytes()) {
            Be16 offered;
            __builtin_memcpy(&offered, options + offset + 2, sizeof offered);
            if (offered.get() <= wanted)
                return Verdict::Continue;
            const Be16 smaller(static_cast<u16>(wanted));
            u8 before[2], after[2];
            __builtin_memcpy(before, &offered, sizeof before);
            __builtin_memcpy(after, &smaller, sizeof after);
            __builtin_memcpy(options + offset + 2, after, sizeof after);
            if (packet.checksum_state != ChecksumState::Partial)
                replace_in_sum(options + tcp_checksum_field, before, after, sizeof after,
                               ((offset + 2) & 1) != 0, false);
            return Verdict::Continue;
        }
        offset += length;
    }
    return Verdict::Continue;
}

constexpr u8 clamp_points = 0x1c, refusal_points = 0x0e;
constexpr u16 ct_user = offsetof(xt_ct_target_info, ct),
              ct_user1 = offsetof(xt_ct_target_info_v1, ct);

constexpr TargetKind other_kinds[] = {
    {"MARK", 2, 0, sizeof(xt_mark_tginfo2), sizeof(xt_mark_tginfo2), nullptr, set_mark},
    {"CONNMARK",
     1,
     0,
     sizeof(xt_connmark_tginfo1),
     sizeof(xt_connmark_tginfo1),
     check_connection_mark,
     connection_mark,
     {},
     true},
    {"REJECT",
     0,
     4,
     sizeof(ipt_reject_info),
     sizeof(ipt_reject_info),
     check_reject4,
     reject4,
     {.points = refusal_points}},
    {"REJECT",
     0,
     6,
     sizeof(ip6t_reject_info),
     sizeof(ip6t_reject_info),
     check_reject6,
     reject6,
     {.points = refusal_points}},
    {"LOG", 0, 0, sizeof(xt_log_info), sizeof(xt_log_info), check_log, log_target},
    {"NFLOG", 0, 0, sizeof(xt_nflog_info), sizeof(xt_nflog_info), nullptr, nothing},
    {"CT", 0, 0, sizeof(xt_ct_target_info), ct_user, check_ct, do_not_track},
    {"CT", 1, 0, sizeof(xt_ct_target_info_v1), ct_user1, check_ct, do_not_track},
    {"CT", 2, 0, sizeof(xt_ct_target_info_v1), ct_user1, check_ct, do_not_track},
    {"TCPMSS",
     0,
     0,
     sizeof(xt_tcpmss_info),
     sizeof(xt_tcpmss_info),
     nullptr,
     clamp_segment,
     {.points = clamp_points, .protocol = proto_tcp}},
};

} // namespace

std::span<const TargetKind> nat_targets() {
    return nat_kinds;
}
std::span<const TargetKind> other_targets() {
    return other_kinds;
}

} // namespace kernel::net::filter
