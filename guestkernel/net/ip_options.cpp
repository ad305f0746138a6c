// Options of the levels IPPROTO_IP and IPPROTO_IPV6: ip(7), ipv6(7).
#include <asm/socket.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

namespace {

struct Flagged {
    int level, name;
    IpOptionFlag flag;
    bool strict = false; // 0 or 1 and nothing else
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
    {IPPROTO_IP, IP_RETOPTS, ip_return_options},
    {IPPROTO_IP, IP_PASSSEC, ip_pass_security},
    {IPPROTO_IP, IP_CHECKSUM, ip_receive_checksum},
    {IPPROTO_IP, IP_NODEFRAG, ip_no_defragmentation},
    {IPPROTO_IP, IP_RECVERR_RFC4884, ip_receive_extensions, true},
    {IPPROTO_IP, IP_FREEBIND, ip_freebind},
    {IPPROTO_IP, IP_MULTICAST_LOOP, ip_multicast_loop},
    {IPPROTO_IP, IP_MULTICAST_ALL, ip_multicast_all, true},
    {IPPROTO_IP, IP_ROUTER_ALERT, ip_router_alert},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, ip_bind_no_port},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO, ip6_receive_info},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT, ip6_receive_hop_limit},
    {IPPROTO_IPV6, IPV6_RECVTCLASS, ip6_receive_class},
    {IPPROTO_IPV6, IPV6_2292PKTINFO, ip6_receive_old_info},
    {IPPROTO_IPV6, IPV6_2292HOPLIMIT, ip6_receive_old_hop_limit},
    {IPPROTO_IPV6, IPV6_RECVERR, ip6_receive_error},
    {IPPROTO_IPV6, IPV6_RECVPATHMTU, ip6_receive_path_mtu},
    {IPPROTO_IPV6, IPV6_MULTICAST_LOOP, ip6_multicast_loop, true},
    {IPPROTO_IPV6, IPV6_MULTICAST_ALL, ip6_multicast_all},
    {IPPROTO_IPV6, IPV6_DONTFRAG, ip6_dont_fragment},
    {IPPROTO_IPV6, IPV6_FLOWINFO_SEND, ip6_flow_info_send},
    {IPPROTO_IPV6, IPV6_FLOWINFO, ip6_receive_flow_info},
    {IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, ip6_auto_flow_label},
    {IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, ip6_receive_original},
    {IPPROTO_IPV6, IPV6_RECVFRAGSIZE, ip6_receive_fragment_size},
    {IPPROTO_IPV6, IPV6_FREEBIND, ip_freebind},
    {IPPROTO_IPV6, IPV6_RECVHOPOPTS, ip6_receive_hop_options},
    {IPPROTO_IPV6, IPV6_RECVRTHDR, ip6_receive_routing},
    {IPPROTO_IPV6, IPV6_RECVDSTOPTS, ip6_receive_destination_options},
    {IPPROTO_IPV6, IPV6_2292HOPOPTS, ip6_receive_old_hop_options},
    {IPPROTO_IPV6, IPV6_2292RTHDR, ip6_receive_old_routing},
    {IPPROTO_IPV6, IPV6_2292DSTOPTS, ip6_receive_old_destination_options},
    {IPPROTO_IPV6, IPV6_RECVERR_RFC4884, ip6_receive_extensions, true},
    {IPPROTO_IPV6, IPV6_ROUTER_ALERT_ISOLATE, ip6_alert_isolate},
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

// What only some types of sockets have. 0: this one has it.
int refused_by_type(int level, int name, int type) {
    if (level != IPPROTO_IP)
        return 0;
    if (name == IP_NODEFRAG)
        return type == socket_raw ? 0 : ENOPROTOOPT;
    return name == IP_RECVFRAGSIZE && type == socket_stream ? EINVAL : 0;
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
        if (type() == socket_stream)
            return fail(EINVAL);
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
        return set_unicast_interface(static_cast<u32>(number));
    case IP_LOCAL_PORT_RANGE: {
        const u32 both = static_cast<u32>(number);
        const u16 first = static_cast<u16>(both), last = static_cast<u16>(both >> 16);
        if (first != 0 && last != 0 && first > last)
            return fail(EINVAL);
        ip_.port_range_first = first;
        ip_.port_range_last = last;
        return {};
    }
    default:
        return fail(ENOPROTOOPT);
    }
}

// IP_UNICAST_IF, IPV6_UNICAST_IF; in network byte order (ip(7)).
Result<void> InetSocketFile::set_unicast_interface(u32 wanted) {
    const u32 index = __builtin_bswap32(wanted);
    if (index != 0) {
        if (!stack().interface(index))
            return fail(EADDRNOTAVAIL);
        if (ip_.bound_interface != 0)
            return fail(EINVAL);
    }
    ip_.unicast_interface = index;
    return {};
}

// RFC 5014: which of several source addresses. There are no temporary ones here, nor any away from
// home, so that the answers are all there is to it.
Result<void> InetSocketFile::set_source_preferences(u32 given) {
    constexpr u32 temporary =
                      IPV6_PREFER_SRC_TMP | IPV6_PREFER_SRC_PUBLIC | IPV6_PREFER_SRC_PUBTMP_DEFAULT,
                  home = IPV6_PREFER_SRC_HOME | IPV6_PREFER_SRC_COA,
                  generated = IPV6_PREFER_SRC_CGA | IPV6_PREFER_SRC_NONCGA;
    u32 kept = ip_.source_preferences;
    for (const u32 choice : {temporary, home, generated}) {
        const u32 chosen = given & choice;
        if ((chosen & (chosen - 1)) != 0)
            return fail(EINVAL); // one of them at most
        if (chosen != 0 && choice != generated)
            kept = (kept & ~choice) | chosen;
    }
    ip_.source_preferences = kept;
    return {};
}

namespace {

bool is_sticky(int name) {
    return name == IPV6_HOPOPTS || name == IPV6_RTHDRDSTOPTS || name == IPV6_RTHDR ||
           name == IPV6_DSTOPTS;
}

Vector<u8>& sticky_part(StickyExtensions& all, int name) {
    return name == IPV6_HOPOPTS   ? all.hop_options
           : name == IPV6_DSTOPTS ? all.destination_options
                                  : all.before_routing;
}

} // namespace

Result<void> InetSocketFile::set_sticky(int name, std::span<const u8> value) {
    if (name != IPV6_RTHDR && !capable(CAP_NET_RAW))
        return fail(EPERM);
    std::span<const u8> header;
    if (!value.empty()) {
        if (value.size() % 8 != 0)
            return fail(EINVAL);
        TRY(header, check_extension(value));
    }
    // Of routing headers, type 0 is refused everywhere (RFC 5095), and there are no others here.
    if (name == IPV6_RTHDR)
        return header.empty() ? Result<void>() : Result<void>(fail(EINVAL));
    const Ref<StickyExtensions> former = sticky_.get();
    Ref<StickyExtensions> made;
    if (former) {
        TRY(made, former->copy());
    } else {
        TRY(made, make_ref<StickyExtensions>());
    }
    Vector<u8>& part = sticky_part(*made, name);
    TRY(part.resize(header.size()));
    if (!header.empty())
        __builtin_memcpy(part.data(), header.data(), header.size());
    TRY(made->chain,
        ExtensionChain::make(made->hop_options.span(), made->destination_options.span()));
    sticky_.set(std::move(made));
    return {};
}

Result<usize> InetSocketFile::get_sticky(int name, std::span<u8> out) const {
    const Ref<StickyExtensions> all = sticky_.get();
    if (!all || name == IPV6_RTHDR)
        return usize{0};
    const Vector<u8>& part = sticky_part(*all, name);
    const usize bytes = out.size() < part.size() ? out.size() : part.size();
    __builtin_memcpy(out.data(), part.data(), bytes);
    return bytes;
}

u32 InetSocketFile::given_flow_label(const SocketAddress& address) const {
    constexpr u32 label_end = 8;
    if (!ip_.on(ip6_flow_info_send) || address.length < label_end ||
        address.family() != family_inet6)
        return 0;
    Be32 info;
    __builtin_memcpy(&info, address.bytes + 4, sizeof info);
    return info.get() & 0xf'ffff;
}

Result<IpAddress> InetSocketFile::connected_peer() const {
    return fail(ENOPROTOOPT);
}

Result<void> InetSocketFile::change_form(int wanted) {
    if (wanted != family_inet)
        return fail(EINVAL);
    TRY(const IpAddress peer, connected_peer());
    if (ip_.on(ip6_v6_only) || !peer.is_v4())
        return fail(EADDRNOTAVAIL);
    TRY(become_v4());
    set_family(family_inet);
    return {};
}

Result<void> InetSocketFile::set_ipv6_level(int name, std::span<const u8> value) {
    if (!v6())
        return fail(ENOPROTOOPT);
    if (is_sticky(name))
        return set_sticky(name, value);
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
        if (type() == socket_stream)
            return fail(ENOPROTOOPT);
        if (number != 0 && !stack().interface(static_cast<u32>(number)))
            return fail(ENODEV);
        ip_.multicast_interface6 = static_cast<u32>(number);
        return {};
    case IPV6_UNICAST_IF:
        return set_unicast_interface(static_cast<u32>(number));
    case IPV6_ADDR_PREFERENCES:
        return set_source_preferences(static_cast<u32>(number));
    case IPV6_ADDRFORM:
        return change_form(number);
    case IPV6_2292PKTOPTIONS: // nothing that Linux heeds
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
        if (const int refused = refused_by_type(level, name, type()); refused != 0)
            return fail(refused);
        if (known->strict && number != 0 && number != 1)
            return fail(EINVAL);
        ip_.flags = number != 0 ? ip_.flags | known->flag : ip_.flags & ~u64{known->flag};
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
    case IPV6_ADDR_PREFERENCES: {
        constexpr u32 temporary = IPV6_PREFER_SRC_TMP | IPV6_PREFER_SRC_PUBLIC;
        const u32 told = ip_.source_preferences;
        const u32 first =
            (told & temporary) != 0 ? told & temporary : u32{IPV6_PREFER_SRC_PUBTMP_DEFAULT};
        const u32 second =
            (told & IPV6_PREFER_SRC_COA) != 0 ? IPV6_PREFER_SRC_COA : IPV6_PREFER_SRC_HOME;
        return static_cast<int>(first | second);
    }
    case IPV6_ADDRFORM: {
        TRY(connected_peer());
        return family();
    }
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
    if (level == IPPROTO_IPV6 && is_sticky(name))
        return get_sticky(name, out);
    if (level == IPPROTO_IPV6 && name == IPV6_PATHMTU) {
        struct { // struct ip6_mtuinfo: the address is not told
            u8 address[28];
            u32 mtu;
        } told = {};
        if (out.size() < sizeof told)
            return fail(EINVAL);
        told.mtu = connected_mtu();
        if (told.mtu == 0)
            return fail(ENOTCONN);
        return put(&told, sizeof told);
    }
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
