// Which groups interfaces are in, from which sources, and telling the link: IGMPv3 (RFC 3376) and
// MLDv2 (RFC 3810), the reports of changes. Switches that watch them forward what belongs to the
// groups.
#include <linux/errno.h>

#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/neighbour.hpp"

namespace kernel::net {

namespace {

constexpr u8 igmp_report = 0x22, mld_report = 143;
constexpr u8 to_include = 3, to_exclude = 4, allow_new = 5, block_old = 6;
// More do not go into a packet: what is left of an exclusion the routers let through, and what
// they then send is dropped here.
constexpr usize most_reported = 64;

struct GroupRecord4 {
    u8 type, auxiliary;
    Be16 sources;
    Be32 group;
};
struct Report4 {
    u8 type, reserved, checksum[2];
    Be16 reserved2, records;
    GroupRecord4 record;
};
static_assert(sizeof(Report4) == 16);

struct Report6 {
    IcmpHeader header; // the number of records in the last two bytes
    u8 type, auxiliary;
    Be16 sources;
    u8 group[16];
};
static_assert(sizeof(Report6) == 28);

// Options that routers look at these packets for: RFC 2113, RFC 2711.
constexpr u8 router_alert4[4] = {0x94, 4, 0, 0};
constexpr u8 router_alert6[8] = {proto_icmpv6, 0, 5, 2, 0, 0, 1, 0};

void send_frame(Interface& interface, PacketPtr packet, const IpAddress& to) {
    packet->mark_network();
    EthernetHeader link;
    link.destination = multicast_mac(to);
    link.source = interface.mac();
    link.protocol.set(to.is_v6() ? ether_ipv6 : ether_ip);
    packet->push_header(link);
    packet->mark_link();
    packet->link_protocol = link.protocol.get();
    interface.transmit(std::move(packet));
}

// What changed about a group.
struct Record {
    IpAddress group;
    u8 type;
    std::span<const IpAddress> sources;
};

// A packet that holds the record's sources and nothing in front of them; they are added to `sum`,
// which has an even number of bytes so far.
PacketPtr with_sources(const Record& record, ChecksumSum& sum) {
    const u32 each = record.group.is_v4() ? 4 : 16;
    PacketPtr packet = Packet::allocate(static_cast<u32>(record.sources.size()) * each, 128);
    for (const IpAddress& source : record.sources)
        if (packet && !packet->append(source.wire(), each))
            packet = {};
    if (packet)
        packet->add_to(sum, 0, packet->length());
    return packet;
}

void report4(Stack& stack, Interface& interface, const Record& record) {
    Report4 report{};
    report.type = igmp_report;
    report.records.set(1);
    report.record.type = record.type;
    report.record.sources.set(static_cast<u16>(record.sources.size()));
    report.record.group.set(record.group.v4_value());
    ChecksumSum sum;
    sum.add(&report, sizeof report);
    PacketPtr packet = with_sources(record, sum);
    if (!packet)
        return;
    const u16 result = sum.finish();
    __builtin_memcpy(report.checksum, &result, sizeof result);
    const IpAddress routers = IpAddress::v4(0xe000'0016);
    packet->push_header(report);
    packet->push_header(router_alert4);
    Ipv4Header header{};
    header.version_length = 0x46;
    header.traffic_class = 0xc0;
    header.total_length.set(static_cast<u16>(packet->length() + sizeof header));
    header.fragment.set(Ipv4Header::dont_fragment);
    header.ttl = 1;
    header.protocol = proto_igmp;
    header.source.set(stack.select_source(interface, routers).v4_value());
    header.destination.set(routers.v4_value());
    packet->push_header(header);
    set_header_checksum(*packet, 24);
    send_frame(interface, std::move(packet), routers);
}

void report6(Stack& stack, Interface& interface, const Record& record) {
    Report6 report{};
    report.header.type = mld_report;
    report.header.rest[3] = 1;
    report.type = record.type;
    report.sources.set(static_cast<u16>(record.sources.size()));
    __builtin_memcpy(report.group, record.group.bytes(), sizeof report.group);
    const IpAddress routers = IpAddress::v6_words(0xff02'0000'0000'0000, 0x16);
    const IpAddress source = stack.select_source(interface, routers);
    const u32 bytes = static_cast<u32>(sizeof report + 16 * record.sources.size());
    ChecksumSum sum = pseudo_header(source, routers, proto_icmpv6, bytes);
    sum.add(&report, sizeof report);
    PacketPtr packet = with_sources(record, sum);
    if (!packet)
        return;
    const u16 result = sum.finish();
    __builtin_memcpy(report.header.checksum, &result, sizeof result);
    packet->push_header(report);
    packet->push_header(router_alert6);
    stack.counters.count(Counter::Icmp6OutMessages);
    stack.counters.count_icmp(true, true, mld_report);
    Ipv6Header header{};
    header.version_class_label.set(6u << 28);
    header.payload_length.set(static_cast<u16>(packet->length()));
    header.next_header = proto_hop_options;
    header.hop_limit = 1;
    __builtin_memcpy(header.source, source.bytes(), sizeof header.source);
    __builtin_memcpy(header.destination, routers.bytes(), sizeof header.destination);
    packet->push_header(header);
    send_frame(interface, std::move(packet), routers);
}

// The link's own groups are not reported.
void report(Stack& stack, Interface& interface, Record record) {
    if (!interface.is_up() || !interface.has_link_addresses())
        return;
    const IpAddress& group = record.group;
    if (group.is_v4() ? (group.v4_value() & 0xffff'ff00) == 0xe000'0000
                      : (group.bytes()[1] & 0xf) < 2)
        return;
    if (record.sources.size() > most_reported)
        record.sources = record.sources.first(most_reported);
    if (group.is_v4())
        report4(stack, interface, record);
    else
        report6(stack, interface, record);
}

JoinedGroup* find_group(Interface& interface, const IpAddress& group) {
    for (JoinedGroup& joined : interface.groups)
        if (joined.group == group)
            return &joined;
    return nullptr;
}

GroupSource* find_source(Interface& interface, const IpAddress& group, const IpAddress& source) {
    for (GroupSource& known : interface.group_sources)
        if (known.source == source && known.group == group)
            return &known;
    return nullptr;
}

// What all users of a group want together. Nobody's: no sources at all.
struct State {
    bool exclude = false;
    Vector<IpAddress> sources;
    bool has(const IpAddress& source) const {
        for (const IpAddress& own : sources)
            if (own == source)
                return true;
        return false;
    }
};

// Of an exclusion: what everybody excludes that excludes anything, and nobody asked for.
Result<void> take_state(Interface& interface, const IpAddress& group, State& out) {
    const JoinedGroup* joined = find_group(interface, group);
    out.exclude = joined != nullptr && joined->excluders != 0;
    for (const GroupSource& known : interface.group_sources) {
        if (!(known.group == group))
            continue;
        const bool listed = out.exclude ? known.included == 0 && known.excluded == joined->excluders
                                        : known.included != 0;
        if (listed)
            TRY(out.sources.push_back(known.source));
    }
    return {};
}

// The changes of one user, in either direction. Requires: room for all of its sources.
void count_user(Interface& interface, const IpAddress& group, const GroupFilter& filter, bool add) {
    const u32 by = add ? 1u : ~u32{0};
    JoinedGroup* joined = find_group(interface, group);
    ASSERT(joined != nullptr);
    joined->users += by;
    joined->excluders += filter.exclude ? by : 0;
    for (const IpAddress& source : filter.sources) {
        GroupSource* known = find_source(interface, group, source);
        if (known == nullptr) {
            (void)interface.group_sources.push_back({group, source, 0, 0});
            known = &interface.group_sources.back();
        }
        (filter.exclude ? known->excluded : known->included) += by;
        if (known->included == 0 && known->excluded == 0)
            interface.group_sources.erase(
                static_cast<usize>(known - interface.group_sources.data()));
    }
    if (joined->users == 0)
        interface.groups.erase(static_cast<usize>(joined - interface.groups.data()));
}

// RFC 3376, 5.1: another mode tells all sources, else what is new and what has gone.
void report_change(Stack& stack, Interface& interface, const IpAddress& group, const State& before,
                   const State& after) {
    if (before.exclude != after.exclude) {
        report(stack, interface,
               {group, after.exclude ? to_exclude : to_include, after.sources.span()});
        return;
    }
    const auto tell = [&](u8 type, const State& in, const State& not_in) {
        Vector<IpAddress> changed;
        for (const IpAddress& source : in.sources)
            if (!not_in.has(source) && !changed.push_back(source))
                return;
        if (!changed.empty())
            report(stack, interface, {group, type, changed.span()});
    };
    tell(allow_new, after.exclude ? before : after, after.exclude ? after : before);
    tell(block_old, after.exclude ? after : before, after.exclude ? before : after);
}

// From one filter to the other; null: no user before, or afterwards. One that only leaves cannot
// fail: without memory nobody is told.
Result<void> change_group(Stack& stack, Interface& interface, const IpAddress& group,
                          const GroupFilter* from, const GroupFilter* to) {
    State before, after;
    bool fresh = false, gone = false, told = true;
    {
        SpinGuard guard(stack.lock);
        told = take_state(interface, group, before).has_value();
        if (to != nullptr) {
            if (!told)
                return fail(ENOMEM);
            TRY(interface.group_sources.reserve(interface.group_sources.size() +
                                                to->sources.size()));
            fresh = find_group(interface, group) == nullptr;
            if (fresh) {
                JoinedGroup joined;
                joined.group = group;
                TRY(interface.groups.push_back(joined));
            }
            count_user(interface, group, *to, true);
        }
        if (from != nullptr && find_group(interface, group) != nullptr)
            count_user(interface, group, *from, false);
        gone = find_group(interface, group) == nullptr;
        told = told && take_state(interface, group, after);
    }
    if (fresh || gone)
        interface.receive_filter_changed();
    if (told)
        report_change(stack, interface, group, before, after);
    return {};
}

} // namespace

bool Stack::in_group(Interface& interface, const IpAddress& group, const IpAddress* source) {
    // Those that every host is in.
    if (group.is_v4() ? group.v4_value() == 0xe000'0001
                      : group == IpAddress::v6_words(0xff02'0000'0000'0000, 1) ||
                            group == IpAddress::v6_words(0xff01'0000'0000'0000, 1))
        return true;
    SpinGuard guard(lock);
    const JoinedGroup* joined = find_group(interface, group);
    if (joined == nullptr || source == nullptr)
        return joined != nullptr;
    const GroupSource* known = find_source(interface, group, *source);
    return known == nullptr ? joined->excluders != 0
                            : known->included != 0 || known->excluded != joined->excluders;
}

Result<void> Stack::join_group(Interface& interface, const IpAddress& group,
                               const GroupFilter& wanted) {
    return change_group(*this, interface, group, nullptr, &wanted);
}

void Stack::leave_group(Interface& interface, const IpAddress& group, const GroupFilter& wanted) {
    (void)change_group(*this, interface, group, &wanted, nullptr);
}

Result<void> Stack::change_filter(Interface& interface, const IpAddress& group,
                                  const GroupFilter& from, const GroupFilter& to) {
    return change_group(*this, interface, group, &from, &to);
}

} // namespace kernel::net
