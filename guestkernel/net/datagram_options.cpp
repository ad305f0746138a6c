// Control messages and options of sockets that send and receive whole packets.
#include <asm/socket.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/udp.h>

#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/net/datagram.hpp"
#include "guestkernel/syscalls/syscall.hpp"

namespace kernel::net {

namespace {

constexpr int scm_timestamp = SO_TIMESTAMP_OLD, scm_timestamp_ns = SO_TIMESTAMPNS_OLD,
              scm_timestamping = SO_TIMESTAMPING_OLD;
constexpr u32 stamp_software = 1u << 4, stamp_receive_software = 1u << 3; // SOF_TIMESTAMPING_*
constexpr usize most_groups = 1024;

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
    if (options.timestamp_ns) {
        const i64 value[2] = {seconds, rest};
        request.add_control(SOL_SOCKET, scm_timestamp_ns, value, sizeof value);
    } else if (options.timestamp) {
        const i64 value[2] = {seconds, rest / 1000};
        request.add_control(SOL_SOCKET, scm_timestamp, value, sizeof value);
    }
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

void DatagramSocketFile::add_control(const Packet& packet, const DatagramInfo& info,
                                     ReceiveRequest& request) {
    add_timestamps(packet.timestamp, packet_options_, request);
    if (packet_options_.overflow) {
        const u32 lost = endpoint_->dropped.load();
        request.add_control(SOL_SOCKET, SO_RXQ_OVFL, &lost, sizeof lost);
    }
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
    if (v6()) {
        if (ip_.on(ip6_receive_info)) {
            PacketInfo6 value{};
            __builtin_memcpy(value.address, info.destination.bytes(), sizeof value.address);
            value.interface = info.interface;
            request.add_control(IPPROTO_IPV6, IPV6_PKTINFO, &value, sizeof value);
        }
        const int hops = info.hop_limit, traffic_class = info.traffic_class;
        if (ip_.on(ip6_receive_hop_limit))
            request.add_control(IPPROTO_IPV6, IPV6_HOPLIMIT, &hops, sizeof hops);
        if (ip_.on(ip6_receive_class))
            request.add_control(IPPROTO_IPV6, IPV6_TCLASS, &traffic_class, sizeof traffic_class);
    }
    add_more_control(packet, request);
}

Result<void> DatagramSocketFile::parse_control(std::span<const u8> control, SendControl& out) {
    return for_control_messages(
        control, [&](int level, int type, std::span<const u8> data) -> Result<void> {
            int number = 0;
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
            } else if (level == IPPROTO_IPV6 && type == IPV6_PKTINFO) {
                PacketInfo6 info{};
                if (!value_of(data, info))
                    return fail(EINVAL);
                out.interface = info.interface;
                out.source = IpAddress::v6(info.address);
                out.has_source = !out.source.is_any();
            } else if (level == IPPROTO_IPV6 && (type == IPV6_HOPLIMIT || type == IPV6_TCLASS)) {
                if (!value_of(data, number) || number < -1 || number > 255)
                    return fail(EINVAL);
                (type == IPV6_HOPLIMIT ? out.hop_limit : out.traffic_class) = number;
            } else if (level == IPPROTO_IPV6 && type == IPV6_DONTFRAG) {
                if (!value_of(data, number) || number < 0 || number > 1)
                    return fail(EINVAL);
                out.dont_fragment = number;
            } else if (level == IPPROTO_UDP && type == UDP_SEGMENT) {
                u16 size = 0;
                if (data.size() != sizeof size || !value_of(data, size))
                    return fail(EINVAL);
                out.segment_size = size;
            } else if (level == IPPROTO_IP || level == IPPROTO_IPV6) {
                return fail(EINVAL);
            }
            return {};
        });
}

void DatagramSocketFile::apply_control(const SendControl& control, Flow& flow) {
    if (control.has_source)
        flow.source = control.source;
    if (control.interface != 0)
        flow.interface = control.interface;
    if (control.hop_limit >= 0) {
        flow.hop_limit = static_cast<u8>(control.hop_limit);
        flow.hop_limit_given = true;
    }
    if (control.traffic_class >= 0)
        flow.traffic_class = static_cast<u8>(control.traffic_class);
    if (control.dont_fragment >= 0)
        flow.dont_fragment = control.dont_fragment != 0;
}

// --- groups

Result<void> DatagramSocketFile::change_group(const IpAddress& group, u32 wanted, bool join) {
    if (!group.is_multicast())
        return fail(EINVAL);
    u32 number = wanted;
    if (number == 0) { // where packets to the group would go
        Flow flow;
        flow.destination = group;
        flow.source = IpAddress::any(group.is_v6());
        flow.interface = ip_.bound_interface;
        if (resolve(stack(), flow))
            number = flow.path.interface->index();
        if (number == 0 && join)
            return fail(ENODEV);
    }
    const Ref<Interface> interface = stack().interface(number);
    if (!interface && join)
        return fail(ENODEV);
    {
        SpinGuard guard(endpoint_->lock);
        usize at = 0;
        while (at < memberships_.size() && !(memberships_[at].group == group &&
                                             (memberships_[at].interface == number || number == 0)))
            at++;
        if (join) {
            if (at < memberships_.size())
                return fail(EADDRINUSE);
            if (memberships_.size() >= most_groups ||
                (group.is_v4() && memberships_.size() >= stack().settings.igmp_max_memberships))
                return fail(ENOBUFS);
            TRY(memberships_.push_back({group, number}));
        } else {
            if (at == memberships_.size())
                return fail(EADDRNOTAVAIL);
            number = memberships_[at].interface;
            memberships_.erase(at);
        }
    }
    if (join)
        return stack().join_group(*interface, group);
    if (const Ref<Interface> left = stack().interface(number))
        stack().leave_group(*left, group);
    return {};
}

void DatagramSocketFile::leave_groups() {
    Vector<Membership> all;
    {
        SpinGuard guard(endpoint_->lock);
        all = std::move(memberships_);
    }
    for (const Membership& membership : all)
        if (const Ref<Interface> interface = stack().interface(membership.interface))
            stack().leave_group(*interface, membership.group);
}

namespace {

struct GroupRequest {
    IpAddress group;
    u32 interface = 0;
};

// struct ip_mreq, ip_mreqn, ipv6_mreq, group_req.
Result<GroupRequest> parse_group(Stack& stack, int level, int name, std::span<const u8> value) {
    GroupRequest out;
    if (name == MCAST_JOIN_GROUP || name == MCAST_LEAVE_GROUP) {
        constexpr usize address_at = 8;
        u32 interface = 0;
        if (value.size() < address_at + 28 || !value_of(value, interface))
            return fail(EINVAL);
        SocketAddress address;
        address.length = 28;
        __builtin_memcpy(address.bytes, value.data() + address_at, 28);
        TRY(const Endpoint parsed,
            parse_address(address, level == IPPROTO_IPV6 ? family_inet6 : family_inet));
        out.group = parsed.address;
        out.interface = interface;
        return out;
    }
    if (level == IPPROTO_IPV6) {
        if (value.size() < 20)
            return fail(EINVAL);
        out.group = IpAddress::v6(value.data());
        __builtin_memcpy(&out.interface, value.data() + 16, sizeof out.interface);
        return out;
    }
    if (value.size() < 8)
        return fail(EINVAL);
    out.group = IpAddress::from_wire(false, value.data());
    const IpAddress local = IpAddress::from_wire(false, value.data() + 4);
    if (value.size() >= 12)
        __builtin_memcpy(&out.interface, value.data() + 8, sizeof out.interface);
    if (out.interface == 0 && !local.is_any()) {
        out.interface = stack.interface_of(local);
        if (out.interface == 0)
            return fail(ENODEV);
    }
    return out;
}

} // namespace

Result<void> DatagramSocketFile::set_option(int level, int name, std::span<const u8> value) {
    const bool four = level == IPPROTO_IP, six = level == IPPROTO_IPV6;
    const bool join = (four && name == IP_ADD_MEMBERSHIP) || (six && name == IPV6_ADD_MEMBERSHIP) ||
                      ((four || six) && name == MCAST_JOIN_GROUP);
    const bool leave = (four && name == IP_DROP_MEMBERSHIP) ||
                       (six && name == IPV6_DROP_MEMBERSHIP) ||
                       ((four || six) && name == MCAST_LEAVE_GROUP);
    if (join || leave) {
        TRY(const GroupRequest request, parse_group(stack(), level, name, value));
        return change_group(request.group, request.interface, join);
    }
    if (level == SOL_SOCKET && name == SO_ATTACH_FILTER) {
        struct {
            u16 length;
            u64 program;
        } given{};
        if (value.size() < 16)
            return fail(EINVAL);
        __builtin_memcpy(&given.length, value.data(), 2);
        __builtin_memcpy(&given.program, value.data() + 8, 8);
        Vector<FilterInstruction> program;
        TRY(program.resize(given.length));
        TRY(copy_in_bytes(program.data(), given.program,
                          program.size() * sizeof(FilterInstruction)));
        TRY(Ref<SocketFilter> filter, SocketFilter::make(program.span()));
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
    return InetSocketFile::get_option(level, name, out);
}

} // namespace kernel::net
