// Control messages and options of sockets that send and receive whole packets.
#include <asm/socket.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/net_tstamp.h>
#include <linux/udp.h>

#include "guestkernel/net/datagram.hpp"
#include "guestkernel/net/wire.hpp"
#include "guestkernel/syscalls/syscall.hpp"

namespace kernel::net {

namespace {

constexpr int scm_timestamping = SO_TIMESTAMPING_OLD;
constexpr u32 stamp_software = 1u << 4, stamp_receive_software = 1u << 3; // SOF_TIMESTAMPING_*
constexpr int scm_rights = 1, scm_credentials = 2;                        // SCM_*

struct PacketInfo4 { // struct in_pktinfo
    i32 interface;
    u8 specific[4], address[4];
};
struct PacketInfo6 { // struct in6_pktinfo
    u8 address[16];
    u32 interface;
};

template <typename T>
bool value_of(std::span<const u8> data, T& out) {
    if (data.size() < sizeof out)
        return false;
    __builtin_memcpy(&out, data.data(), sizeof out);
    return true;
}

void add_timestamps(u64 stamp, const InetSocketFile::PacketOptions& options,
                    ReceiveRequest& request) {
    const i64 seconds = static_cast<i64>(stamp / nanoseconds_per_second);
    const i64 rest = static_cast<i64>(stamp % nanoseconds_per_second);
    if (options.timestamp_ns || options.timestamp)
        request.add_timestamp(stamp, options.timestamp_ns);
    if ((options.timestamping & stamp_software) != 0 &&
        (options.timestamping & stamp_receive_software) != 0) {
        const i64 value[6] = {seconds, rest, 0, 0, 0, 0};
        request.add_control(SOL_SOCKET, scm_timestamping, value, sizeof value);
    }
}

void add_info4(const DatagramInfo& info, ReceiveRequest& request) {
    PacketInfo4 value{};
    value.interface = static_cast<i32>(info.interface);
    __builtin_memcpy(value.address, info.destination.wire(), sizeof value.address);
    // Where an answer should come from: what the packet came to, unless that is a group.
    if (!info.destination.is_multicast() && !info.destination.is_limited_broadcast())
        __builtin_memcpy(value.specific, info.destination.wire(), sizeof value.specific);
    request.add_control(IPPROTO_IP, IP_PKTINFO, &value, sizeof value);
}

} // namespace

// Copied, for the caller's sake: what stands in a packet may be in pieces.
void DatagramSocketFile::add_extension(const Packet& packet, u32 at, u32 bytes, int type,
                                       ReceiveRequest& request) {
    Vector<u8> header;
    if (header.resize(bytes) && packet.copy_out(at, header.data(), bytes))
        request.add_control(IPPROTO_IPV6, type, header.data(), bytes);
}

// The packet begins with its network header. Options for each hop are told before all others.
void DatagramSocketFile::add_extensions(const Packet& packet, ReceiveRequest& request) const {
    for_extensions(packet, [&](u8 kind, u32 at, u32 bytes) {
        if (kind == proto_hop_options && ip_.on(ip6_receive_hop_options))
            add_extension(packet, at, bytes, IPV6_HOPOPTS, request);
        else if (kind == proto_routing && ip_.on(ip6_receive_routing))
            add_extension(packet, at, bytes, IPV6_RTHDR, request);
        else if (kind == proto_destination_options && ip_.on(ip6_receive_destination_options))
            add_extension(packet, at, bytes, IPV6_DSTOPTS, request);
    });
}

// The same under the names of RFC 2292.
void DatagramSocketFile::add_old_extensions(const Packet& packet, ReceiveRequest& request) const {
    for_extensions(packet, [&](u8 kind, u32 at, u32 bytes) {
        if (kind == proto_hop_options && ip_.on(ip6_receive_old_hop_options))
            add_extension(packet, at, bytes, IPV6_2292HOPOPTS, request);
        else if (kind == proto_routing && ip_.on(ip6_receive_old_routing))
            add_extension(packet, at, bytes, IPV6_2292RTHDR, request);
        else if (kind == proto_destination_options && ip_.on(ip6_receive_old_destination_options))
            add_extension(packet, at, bytes, IPV6_2292DSTOPTS, request);
    });
}

void DatagramSocketFile::add_control6(const Packet& packet, const DatagramInfo& info,
                                      ReceiveRequest& request) const {
    PacketInfo6 value{};
    __builtin_memcpy(value.address, info.destination.bytes(), sizeof value.address);
    value.interface = info.interface;
    const int hops = info.hop_limit, traffic_class = info.traffic_class;
    if (ip_.on(ip6_receive_info))
        request.add_control(IPPROTO_IPV6, IPV6_PKTINFO, &value, sizeof value);
    if (info.source.is_v4()) // what else there is to tell are IPv4's messages
        return;
    if (ip_.on(ip6_receive_hop_limit))
        request.add_control(IPPROTO_IPV6, IPV6_HOPLIMIT, &hops, sizeof hops);
    if (ip_.on(ip6_receive_class))
        request.add_control(IPPROTO_IPV6, IPV6_TCLASS, &traffic_class, sizeof traffic_class);
    if (const u32 told = u32{info.traffic_class} << 20 | info.flow_label;
        ip_.on(ip6_receive_flow_info) && told != 0) {
        const Be32 word(told);
        request.add_control(IPPROTO_IPV6, IPV6_FLOWINFO, &word, sizeof word);
    }
    const bool has_headers = packet.has_network() && packet.network_offset() == 0;
    if (has_headers)
        add_extensions(packet, request);
    if (ip_.on(ip6_receive_old_info))
        request.add_control(IPPROTO_IPV6, IPV6_2292PKTINFO, &value, sizeof value);
    if (ip_.on(ip6_receive_old_hop_limit))
        request.add_control(IPPROTO_IPV6, IPV6_2292HOPLIMIT, &hops, sizeof hops);
    if (has_headers)
        add_old_extensions(packet, request);
    if (ip_.on(ip6_receive_original) && info.destination_port != 0) {
        SocketAddress to;
        write_address({info.destination, info.destination_port, info.interface}, family_inet6, to);
        request.add_control(IPPROTO_IPV6, IPV6_ORIGDSTADDR, to.bytes, to.length);
    }
}

void DatagramSocketFile::add_control(const Packet& packet, const DatagramInfo& info,
                                     ReceiveRequest& request) {
    add_timestamps(packet.timestamp, packet_options_, request);
    if (packet_options_.overflow) {
        const u32 lost = endpoint_->dropped.load();
        request.add_control(SOL_SOCKET, SO_RXQ_OVFL, &lost, sizeof lost);
    }
    if (option_on(SO_RCVMARK))
        request.add_control(SOL_SOCKET, SO_MARK, &packet.mark, sizeof packet.mark);
    const bool as_v4 = info.source.is_v4();
    if (as_v4) {
        if (ip_.on(ip_receive_info))
            add_info4(info, request);
        const int ttl = info.hop_limit;
        if (ip_.on(ip_receive_ttl))
            request.add_control(IPPROTO_IP, IP_TTL, &ttl, sizeof ttl);
        if (ip_.on(ip_receive_tos))
            request.add_control(IPPROTO_IP, IP_TOS, &info.traffic_class, 1);
        if (ip_.on(ip_receive_original)) {
            SocketAddress to;
            write_address({info.destination, info.destination_port, 0}, family_inet, to);
            request.add_control(IPPROTO_IP, IP_ORIGDSTADDR, to.bytes, to.length);
        }
    }
    if (v6())
        add_control6(packet, info, request);
    add_more_control(packet, request);
}

// What may stand beside a packet of any family: SO_MARK, SO_TIMESTAMPING, SO_TXTIME's time.
Result<void> DatagramSocketFile::parse_socket_control(int type, std::span<const u8> data,
                                                      SendControl& out) {
    u32 number = 0;
    switch (type) {
    case SO_MARK:
        if (!capable(CAP_NET_ADMIN) && !capable(CAP_NET_RAW))
            return fail(EPERM);
        if (data.size() != sizeof number || !value_of(data, number))
            return fail(EINVAL);
        out.mark = number;
        out.has_mark = true;
        return {};
    case SO_TIMESTAMPING_OLD:
    case SO_TIMESTAMPING_NEW:
        if (data.size() != sizeof number || !value_of(data, number) ||
            (number & ~u32{SOF_TIMESTAMPING_TX_RECORD_MASK}) != 0)
            return fail(EINVAL);
        return {};
    case SCM_TXTIME:
        if (!options_.takes_send_times || data.size() != sizeof(u64))
            return fail(EINVAL);
        return {};
    case scm_rights: // means nothing here, which is no error
    case scm_credentials:
        return {};
    default:
        return fail(EINVAL);
    }
}

// True: the message is one of an extension header.
Result<bool> DatagramSocketFile::parse_extension(int type, std::span<const u8> data,
                                                 SendControl& out) const {
    const bool hop = type == IPV6_HOPOPTS || type == IPV6_2292HOPOPTS;
    const bool destination = type == IPV6_DSTOPTS || type == IPV6_2292DSTOPTS;
    const bool routing = type == IPV6_RTHDR || type == IPV6_2292RTHDR;
    if (!hop && !destination && !routing && type != IPV6_RTHDRDSTOPTS)
        return false;
    TRY(const std::span<const u8> header, check_extension(data));
    if (routing) // see set_sticky()
        return fail(EINVAL);
    if (!capable(CAP_NET_RAW))
        return fail(EPERM);
    if (!hop && !destination)
        return true;
    std::span<const u8>& place = hop ? out.hop_options : out.destination_options;
    if (hop && !place.empty())
        return fail(EINVAL);
    place = header;
    return true;
}

Result<void> DatagramSocketFile::take_extensions(SendControl& control, Flow& flow) const {
    if (!flow.destination.is_v6())
        return {};
    const ExtensionChain* chain = &control.chain;
    if (!control.hop_options.empty() || !control.destination_options.empty()) {
        TRY(control.chain, ExtensionChain::make(control.hop_options, control.destination_options));
    } else if ((control.sticky = sticky_.get())) {
        chain = &control.sticky->chain;
    }
    flow.options = chain->bytes.span();
    flow.first_extension = chain->first;
    return {};
}

Result<void> DatagramSocketFile::parse_control(std::span<const u8> control, SendControl& out) {
    return for_control_messages(
        control, [&](int level, int type, std::span<const u8> data) -> Result<void> {
            int number = 0;
            if (level == SOL_SOCKET)
                return parse_socket_control(type, data, out);
            if (level == IPPROTO_IP && type == IP_PKTINFO) {
                PacketInfo4 info{};
                if (!value_of(data, info))
                    return fail(EINVAL);
                out.interface = static_cast<u32>(info.interface);
                out.source = IpAddress::from_wire(false, info.specific);
                out.has_source = !out.source.is_any();
            } else if (level == IPPROTO_IP && type == IP_TTL) {
                if (!value_of(data, number) || number < 1 || number > 255)
                    return fail(EINVAL);
                out.hop_limit = number;
            } else if (level == IPPROTO_IP && type == IP_TOS) {
                u8 byte = 0;
                if (value_of(data, number))
                    out.traffic_class = number & 0xff;
                else if (value_of(data, byte))
                    out.traffic_class = byte;
                else
                    return fail(EINVAL);
            } else if (level == IPPROTO_IPV6 &&
                       (type == IPV6_PKTINFO || type == IPV6_2292PKTINFO)) {
                PacketInfo6 info{};
                if (!value_of(data, info))
                    return fail(EINVAL);
                out.interface = info.interface;
                out.source = IpAddress::v6(info.address);
                out.has_source = !out.source.is_any();
            } else if (level == IPPROTO_IPV6 &&
                       (type == IPV6_HOPLIMIT || type == IPV6_2292HOPLIMIT ||
                        type == IPV6_TCLASS)) {
                if (!value_of(data, number) || number < -1 || number > 255)
                    return fail(EINVAL);
                (type == IPV6_TCLASS ? out.traffic_class : out.hop_limit) = number;
            } else if (level == IPPROTO_IPV6 && type == IPV6_DONTFRAG) {
                if (!value_of(data, number) || number < 0 || number > 1)
                    return fail(EINVAL);
                out.dont_fragment = number;
            } else if (level == IPPROTO_UDP && type == UDP_SEGMENT) {
                u16 size = 0;
                if (data.size() != sizeof size || !value_of(data, size))
                    return fail(EINVAL);
                out.segment_size = size;
            } else if (level == IPPROTO_IPV6) {
                TRY(const bool known, parse_extension(type, data, out));
                if (!known)
                    return fail(EINVAL);
            } else if (level == IPPROTO_IP) {
                return fail(EINVAL);
            }
            return {};
        });
}

void DatagramSocketFile::apply_control(const SendControl& control, Flow& flow) {
    // One of the other version is not about this packet.
    if (control.has_source && control.source.is_v6() == flow.destination.is_v6())
        flow.source = control.source;
    if (control.interface != 0)
        flow.interface = control.interface;
    if (control.hop_limit >= 0) {
        flow.hop_limit = static_cast<u8>(control.hop_limit);
        flow.hop_limit_given = true;
    }
    if (control.traffic_class >= 0)
        flow.traffic_class = static_cast<u8>(control.traffic_class);
    if (control.has_mark)
        flow.mark = control.mark;
    if (control.dont_fragment >= 0)
        flow.dont_fragment = control.dont_fragment != 0;
}

Result<void> DatagramSocketFile::set_option(int level, int name, std::span<const u8> value) {
    Result<void> done;
    if (((level == IPPROTO_IP && family() != family_packet) || (level == IPPROTO_IPV6 && v6())) &&
        set_group_option(level == IPPROTO_IPV6, name, value, done)) {
        option_changed();
        return done;
    }
    if (level == SOL_SOCKET && (name == SO_ATTACH_FILTER || name == SO_DETACH_FILTER) &&
        options_.filter_locked)
        return fail(EPERM);
    if (level == SOL_SOCKET && name == SO_ATTACH_FILTER) {
        TRY(Ref<SocketFilter> filter, SocketFilter::of_user(value));
        endpoint_->filter.set(std::move(filter));
        return {};
    }
    if (level == SOL_SOCKET && name == SO_DETACH_FILTER) {
        if (!endpoint_->filter.present())
            return fail(ENOENT);
        endpoint_->filter.set({});
        return {};
    }
    return InetSocketFile::set_option(level, name, value);
}

Result<usize> DatagramSocketFile::get_option(int level, int name, std::span<u8> out) {
    if ((level == IPPROTO_IP && name == IP_MSFILTER) ||
        ((level == IPPROTO_IP || (level == IPPROTO_IPV6 && v6())) && name == MCAST_MSFILTER))
        return get_filter(level == IPPROTO_IPV6, name, out);
    return InetSocketFile::get_option(level, name, out);
}

} // namespace kernel::net
