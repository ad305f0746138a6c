// Options of the levels IPPROTO_IP and IPPROTO_IPV6: ip(7), ipv6(7).
#include <asm/socket.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/ip.hpp"

namespace kernel::net {

namespace {

struct Flagged {
    int level, name;
    IpOptionFlag flag;
};
// Those that are a bit and nothing else.
constexpr Flagged flagged[] = {
    {IPPROTO_IP, IP_PKTINFO, ip_receive_info},
    {IPPROTO_IP, IP_RECVTTL, ip_receive_ttl},
    {IPPROTO_IP, IP_RECVTOS, ip_receive_tos},
    {IPPROTO_IP, IP_RECVOPTS, ip_receive_options},
    {IPPROTO_IP, IP_RECVORIGDSTADDR, ip_receive_original},
    {IPPROTO_IP, IP_RECVERR, ip_receive_error},
    {IPPROTO_IP, IP_RECVFRAGSIZE, ip_receive_fragment_size},
    {IPPROTO_IP, IP_FREEBIND, ip_freebind},
    {IPPROTO_IP, IP_MULTICAST_LOOP, ip_multicast_loop},
    {IPPROTO_IP, IP_MULTICAST_ALL, ip_multicast_all},
    {IPPROTO_IP, IP_ROUTER_ALERT, ip_router_alert},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, ip_bind_no_port},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO, ip6_receive_info},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT, ip6_receive_hop_limit},
    {IPPROTO_IPV6, IPV6_RECVTCLASS, ip6_receive_class},
    {IPPROTO_IPV6, IPV6_2292PKTINFO, ip6_receive_old_info},
    {IPPROTO_IPV6, IPV6_2292HOPLIMIT, ip6_receive_old_hop_limit},
    {IPPROTO_IPV6, IPV6_RECVERR, ip6_receive_error},
    {IPPROTO_IPV6, IPV6_RECVPATHMTU, ip6_receive_path_mtu},
    {IPPROTO_IPV6, IPV6_MULTICAST_LOOP, ip6_multicast_loop},
    {IPPROTO_IPV6, IPV6_MULTICAST_ALL, ip6_multicast_all},
    {IPPROTO_IPV6, IPV6_DONTFRAG, ip6_dont_fragment},
    {IPPROTO_IPV6, IPV6_FLOWINFO_SEND, ip6_flow_info_send},
    {IPPROTO_IPV6, IPV6_FLOWINFO, ip6_receive_flow_info},
    {IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, ip6_auto_flow_label},
    {IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, ip6_receive_original},
    {IPPROTO_IPV6, IPV6_RECVFRAGSIZE, ip6_receive_fragment_size},
    {IPPROTO_IPV6, IPV6_FREEBIND, ip_freebind},
    {IPPROTO_IPV6, IPV6_RECVHOPOPTS, ip6_receive_options},
    {IPPROTO_IPV6, IPV6_RECVRTHDR, ip6_receive_options},
    {IPPROTO_IPV6, IPV6_RECVDSTOPTS, ip6_receive_options},
};

const Flagged* find_flag(int level, int name) {
    for (const Flagged& known : flagged)
        if (known.level == level && known.name == name)
            return &known;
    return nullptr;
}

// IPv4's options may be given as one byte (ip(7)).
Result<int> number_of(int level, std::span<const u8> value) {
    int out = 0;
    if (value.size() >= sizeof out) {
        __builtin_memcpy(&out, value.data(), sizeof out);
        return out;
    }
    if (level == IPPROTO_IP && !value.empty())
        return int{value[0]};
    return fail(EINVAL);
}

Result<u8> byte_in(int number, int least, int most) {
    if (number < least || number > most)
        return fail(EINVAL);
    return static_cast<u8>(number);
}

// The interface that struct in_addr or struct ip_mreqn names.
Result<void> set_multicast_interface4(Stack& stack, IpOptions& ip, std::span<const u8> value) {
    u32 index = 0;
    IpAddress address = IpAddress::v4_any();
    if (value.size() >= 12) {
        address = IpAddress::from_wire(false, value.data() + 4);
        __builtin_memcpy(&index, value.data() + 8, sizeof index);
    } else if (value.size() >= 8) {
        address = IpAddress::from_wire(false, value.data() + 4);
    } else if (value.size() >= 4) {
        address = IpAddress::from_wire(false, value.data());
    } else {
        return fail(EINVAL);
    }
    if (index == 0 && !address.is_any()) {
        index = stack.interface_of(address);
        if (index == 0)
            return fail(EADDRNOTAVAIL);
    } else if (index != 0 && !stack.interface(index)) {
        return fail(EADDRNOTAVAIL);
    }
    ip.multicast_interface4 = index;
    ip.multicast_source = address;
    return {};
}

} // namespace

Result<void> InetSocketFile::set_ip_level(int name, std::span<const u8> value) {
    switch (name) {
    case IP_MULTICAST_IF:
        return set_multicast_interface4(stack(), ip_, value);
    case IP_OPTIONS: {
        if (value.size() > sizeof ip_.header_options)
            return fail(EINVAL);
        bool source_route = false;
        if (check_options(value, source_route) != 0 || source_route)
            return fail(EINVAL);
        __builtin_memset(ip_.header_options, 0, sizeof ip_.header_options);
        __builtin_memcpy(ip_.header_options, value.data(), value.size());
        ip_.header_options_length = static_cast<u8>((value.size() + 3) & ~usize{3});
        return {};
    }
    default:
        break;
    }
    TRY(const int number, number_of(IPPROTO_IP, value));
    switch (name) {
    case IP_TTL:
        if (number != -1 && (number < 1 || number > 255))
            return fail(EINVAL);
        ip_.ttl = static_cast<i16>(number);
        return {};
    case IP_TOS:
        // A stream's ECN bits are TCP's.
        ip_.tos = static_cast<u8>(type() == socket_stream ? (number & ~3) | (ip_.tos & 3) : number);
        // socket(7), SO_PRIORITY: what the kinds of service of RFC 1349 stand for.
        static constexpr u8 priorities[] = {0, 2, 6, 4};
        options_.priority = priorities[ip_.tos >> 3 & 3];
        return {};
    case IP_MULTICAST_TTL: {
        if (type() == socket_stream)
            return fail(EINVAL);
        if (number == -1) {
            ip_.multicast_ttl = 1;
            return {};
        }
        TRY(ip_.multicast_ttl, byte_in(number, 0, 255));
        return {};
    }
    case IP_MTU_DISCOVER: {
        TRY(ip_.path_mtu4, byte_in(number, 0, 5));
        return {};
    }
    case IP_MINTTL: {
        TRY(ip_.min_ttl, byte_in(number, 0, 255));
        return {};
    }
    case IP_HDRINCL:
        if (type() != socket_raw)
            return fail(ENOPROTOOPT);
        ip_.flags = number != 0 ? ip_.flags | ip_header_included : ip_.flags & ~ip_header_included;
        return {};
    case IP_TRANSPARENT:
        if (number != 0 && !capable(CAP_NET_RAW) && !capable(CAP_NET_ADMIN))
            return fail(EPERM);
        ip_.flags = number != 0 ? ip_.flags | ip_transparent : ip_.flags & ~ip_transparent;
        return {};
    case IP_UNICAST_IF:
        ip_.unicast_interface = __builtin_bswap32(static_cast<u32>(number));
        return {};
    case IP_LOCAL_PORT_RANGE: {
        const u32 both = static_cast<u32>(number);
        const u16 first = static_cast<u16>(both), last = static_cast<u16>(both >> 16);
        if (first != 0 && last != 0 && first > last)
            return fail(EINVAL);
        ip_.port_range_first = first;
        ip_.port_range_last = last;
        return {};
    }
    case IP_PASSSEC:
    case IP_CHECKSUM:
    case IP_NODEFRAG:
        return {};
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<void> InetSocketFile::set_ipv6_level(int name, std::span<const u8> value) {
    if (!v6())
        return fail(ENOPROTOOPT);
    TRY(const int number, number_of(IPPROTO_IPV6, value));
    switch (name) {
    case IPV6_V6ONLY:
        if (is_bound())
            return fail(EINVAL);
        ip_.flags = number != 0 ? ip_.flags | ip6_v6_only : ip_.flags & ~ip6_v6_only;
        return {};
    case IPV6_UNICAST_HOPS:
        if (number < -1 || number > 255)
            return fail(EINVAL);
        ip_.hop_limit = static_cast<i16>(number);
        return {};
    case IPV6_MULTICAST_HOPS:
        if (type() == socket_stream)
            return fail(ENOPROTOOPT);
        if (number < -1 || number > 255)
            return fail(EINVAL);
        ip_.multicast_hops = static_cast<u8>(number == -1 ? 1 : number);
        return {};
    case IPV6_TCLASS:
        if (number < -1 || number > 255)
            return fail(EINVAL);
        ip_.traffic_class = static_cast<u8>(number == -1 ? 0 : number);
        return {};
    case IPV6_MULTICAST_IF:
        if (number != 0 && !stack().interface(static_cast<u32>(number)))
            return fail(ENODEV);
        ip_.multicast_interface6 = static_cast<u32>(number);
        return {};
    case IPV6_UNICAST_IF:
        ip_.unicast_interface = __builtin_bswap32(static_cast<u32>(number));
        return {};
    case IPV6_MTU_DISCOVER: {
        TRY(ip_.path_mtu6, byte_in(number, 0, 5));
        return {};
    }
    case IPV6_MTU:
        if (number != 0 && number < 1280)
            return fail(EINVAL);
        ip_.mtu6 = static_cast<u32>(number);
        return {};
    case IPV6_MINHOPCOUNT: {
        TRY(ip_.min_hop_limit, byte_in(number, 0, 255));
        return {};
    }
    case IPV6_TRANSPARENT:
        if (number != 0 && !capable(CAP_NET_RAW) && !capable(CAP_NET_ADMIN))
            return fail(EPERM);
        ip_.flags = number != 0 ? ip_.flags | ip_transparent : ip_.flags & ~ip_transparent;
        return {};
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<void> InetSocketFile::set_option(int level, int name, std::span<const u8> value) {
    if (level == SOL_SOCKET)
        return set_socket_level(name, value);
    if (level != IPPROTO_IP && level != IPPROTO_IPV6)
        return fail(ENOPROTOOPT);
    if (level == IPPROTO_IPV6 && !v6())
        return fail(ENOPROTOOPT);
    if (const Flagged* known = find_flag(level, name)) {
        TRY(const int number, number_of(level, value));
        ip_.flags = number != 0 ? ip_.flags | known->flag : ip_.flags & ~u32{known->flag};
    } else {
        TRY(level == IPPROTO_IP ? set_ip_level(name, value) : set_ipv6_level(name, value));
    }
    option_changed();
    return {};
}

Result<int> InetSocketFile::get_ip_level(int name) {
    switch (name) {
    case IP_TTL:
        return ip_.ttl < 0 ? int{stack().settings.default_ttl} : int{ip_.ttl};
    case IP_TOS:
        return int{ip_.tos};
    case IP_MULTICAST_TTL:
        return int{ip_.multicast_ttl};
    case IP_MTU_DISCOVER:
        return int{ip_.path_mtu4};
    case IP_MINTTL:
        return int{ip_.min_ttl};
    case IP_HDRINCL:
        return ip_.on(ip_header_included) ? 1 : 0;
    case IP_TRANSPARENT:
        return ip_.on(ip_transparent) ? 1 : 0;
    case IP_UNICAST_IF:
        return static_cast<int>(__builtin_bswap32(ip_.unicast_interface));
    case IP_LOCAL_PORT_RANGE:
        return static_cast<int>(u32{ip_.port_range_last} << 16 | ip_.port_range_first);
    case IP_MTU: {
        const u32 mtu = connected_mtu();
        if (mtu == 0)
            return fail(ENOTCONN);
        return static_cast<int>(mtu);
    }
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<int> InetSocketFile::get_ipv6_level(int name) {
    switch (name) {
    case IPV6_V6ONLY:
        return ip_.on(ip6_v6_only) ? 1 : 0;
    case IPV6_UNICAST_HOPS:
        return ip_.hop_limit < 0 ? int{stack().settings.all_interfaces.hop_limit}
                                 : int{ip_.hop_limit};
    case IPV6_MULTICAST_HOPS:
        return int{ip_.multicast_hops};
    case IPV6_TCLASS:
        return int{ip_.traffic_class};
    case IPV6_MULTICAST_IF:
        return static_cast<int>(ip_.multicast_interface6);
    case IPV6_UNICAST_IF:
        return static_cast<int>(__builtin_bswap32(ip_.unicast_interface));
    case IPV6_MTU_DISCOVER:
        return int{ip_.path_mtu6};
    case IPV6_MINHOPCOUNT:
        return int{ip_.min_hop_limit};
    case IPV6_TRANSPARENT:
        return ip_.on(ip_transparent) ? 1 : 0;
    case IPV6_MTU: {
        const u32 mtu = connected_mtu();
        if (mtu == 0)
            return fail(ENOTCONN);
        return static_cast<int>(mtu);
    }
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<usize> InetSocketFile::get_option(int level, int name, std::span<u8> out) {
    if (level == SOL_SOCKET)
        return get_socket_level(name, out);
    if ((level != IPPROTO_IP && level != IPPROTO_IPV6) || (level == IPPROTO_IPV6 && !v6()))
        return fail(level == IPPROTO_IP || level == IPPROTO_IPV6 ? ENOPROTOOPT : EOPNOTSUPP);
    const auto put = [out](const void* value, usize size) {
        const usize bytes = out.size() < size ? out.size() : size;
        __builtin_memcpy(out.data(), value, bytes);
        return bytes;
    };
    if (level == IPPROTO_IP && name == IP_MULTICAST_IF)
        return put(ip_.multicast_source.wire(), 4);
    if (level == IPPROTO_IP && name == IP_OPTIONS)
        return put(ip_.header_options, ip_.header_options_length);
    int value = 0;
    if (const Flagged* known = find_flag(level, name)) {
        value = ip_.on(known->flag) ? 1 : 0;
    } else if (level == IPPROTO_IP) {
        TRY(value, get_ip_level(name));
    } else {
        TRY(value, get_ipv6_level(name));
    }
    // As ip(7) has it: a small value in a small buffer is a byte.
    if (level == IPPROTO_IP && out.size() < sizeof value && !out.empty() && value >= 0 &&
        value <= 255) {
        out[0] = static_cast<u8>(value);
        return usize{1};
    }
    return put(&value, sizeof value);
}

} // namespace kernel::net
