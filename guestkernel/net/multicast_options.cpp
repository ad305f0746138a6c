// Groups of sockets, and the sources they take or refuse: ip(7), RFC 3678.
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "guestkernel/net/datagram.hpp"

namespace kernel::net {

namespace {

constexpr usize most_groups = 1024;
constexpr usize most_sources6 = 64;     // net.ipv6.mld_max_msf
constexpr usize longest_filter = 65536; // about net.core.optmem_max

template <typename T>
T value_at(std::span<const u8> bytes, usize offset) {
    T out;
    __builtin_memcpy(&out, bytes.data() + offset, sizeof out);
    return out;
}

struct GroupRequest {
    IpAddress group;
    u32 interface = 0;
    IpAddress source; // of requests about one
};

// struct sockaddr_storage with an address of the level's family.
Result<IpAddress> address_at(std::span<const u8> bytes, usize offset, bool v6) {
    SocketAddress address;
    address.length = 28;
    __builtin_memcpy(address.bytes, bytes.data() + offset, address.length);
    TRY(const Endpoint parsed, parse_address(address, v6 ? family_inet6 : family_inet));
    return parsed.address;
}

// The interface that has an address; the any address stands for none.
Result<u32> interface_at(Stack& stack, std::span<const u8> bytes, usize offset) {
    const IpAddress local = IpAddress::from_wire(false, bytes.data() + offset);
    if (local.is_any())
        return u32{0};
    const u32 found = stack.interface_of(local);
    return found == 0 ? Result<u32>(fail(ENODEV)) : Result<u32>(found);
}

// struct ip_mreq, ip_mreqn, ipv6_mreq, group_req.
Result<GroupRequest> parse_group(Stack& stack, bool v6, int name, std::span<const u8> value) {
    GroupRequest out;
    if (name == MCAST_JOIN_GROUP || name == MCAST_LEAVE_GROUP) {
        if (value.size() < 8 + 28)
            return fail(EINVAL);
        TRY(out.group, address_at(value, 8, v6));
        out.interface = value_at<u32>(value, 0);
        return out;
    }
    if (v6) {
        if (value.size() < 20)
            return fail(EINVAL);
        out.group = IpAddress::v6(value.data());
        out.interface = value_at<u32>(value, 16);
        return out;
    }
    if (value.size() < 8)
        return fail(EINVAL);
    out.group = IpAddress::from_wire(false, value.data());
    if (value.size() >= 12)
        out.interface = value_at<u32>(value, 8);
    if (out.interface == 0) {
        TRY(out.interface, interface_at(stack, value, 4));
    }
    return out;
}

// struct ip_mreq_source, group_source_req.
Result<GroupRequest> parse_source(Stack& stack, bool v6, int name, std::span<const u8> value) {
    GroupRequest out;
    if (name >= MCAST_JOIN_GROUP) {
        constexpr usize group_offset = 8, source_offset = 136, size = 264;
        if (value.size() < size)
            return fail(EINVAL);
        const auto group = address_at(value, group_offset, v6);
        const auto source = address_at(value, source_offset, v6);
        if (!group || !source)
            return fail(EADDRNOTAVAIL);
        out.group = *group;
        out.source = *source;
        out.interface = value_at<u32>(value, 0);
        return out;
    }
    if (value.size() != 12)
        return fail(EINVAL);
    out.group = IpAddress::from_wire(false, value.data());
    out.source = IpAddress::from_wire(false, value.data() + 8);
    TRY(out.interface, interface_at(stack, value, 4));
    return out;
}

// What a request about one source does.
struct SourceChange {
    bool exclude, add, joins;
};
bool find_change(int name, SourceChange& out) {
    switch (name) {
    case IP_ADD_SOURCE_MEMBERSHIP:
    case MCAST_JOIN_SOURCE_GROUP:
        out = {false, true, true};
        return true;
    case IP_DROP_SOURCE_MEMBERSHIP:
    case MCAST_LEAVE_SOURCE_GROUP:
        out = {false, false, false};
        return true;
    case IP_BLOCK_SOURCE:
    case MCAST_BLOCK_SOURCE:
        out = {true, true, false};
        return true;
    case IP_UNBLOCK_SOURCE:
    case MCAST_UNBLOCK_SOURCE:
        out = {true, false, false};
        return true;
    default:
        return false;
    }
}
// Those of IP_* are numbers of IPPROTO_IP alone.
bool of_level(int name, bool v6) {
    return !v6 || name >= MCAST_JOIN_GROUP;
}

// struct ip_msfilter, and group_filter of both families.
struct FilterLayout {
    usize header, each, mode, count;
};
constexpr FilterLayout filter4{16, 4, 8, 12}, filter_of_groups{144, 128, 136, 140};

Result<GroupRequest> parse_filter_group(Stack& stack, bool v6, int name,
                                        std::span<const u8> value) {
    GroupRequest out;
    if (name == MCAST_MSFILTER) {
        TRY(out.group, address_at(value, 8, v6));
        out.interface = value_at<u32>(value, 0);
        return out;
    }
    out.group = IpAddress::from_wire(false, value.data());
    TRY(out.interface, interface_at(stack, value, 4));
    return out;
}

} // namespace

// The interface that is meant where none is named: where packets to the group would go.
u32 DatagramSocketFile::group_interface(const IpAddress& group, u32 wanted) {
    if (wanted != 0)
        return wanted;
    Flow flow;
    flow.destination = group;
    flow.source = IpAddress::any(group.is_v6());
    flow.interface = ip_.bound_interface;
    return resolve(stack(), flow) ? flow.path.interface->index() : 0;
}

// `exclude` false: from no source yet. Locks: groups_mutex_.
Result<void> DatagramSocketFile::join(const IpAddress& group, u32 wanted, bool exclude) {
    const Ref<Interface> interface = stack().interface(group_interface(group, wanted));
    if (!interface)
        return fail(ENODEV);
    SocketGroups& own = endpoint_->groups;
    if (own.find(group, interface->index()) != nullptr)
        return fail(EADDRINUSE);
    if (own.all.size() >= most_groups ||
        (group.is_v4() && own.all.size() >= stack().settings.igmp_max_memberships))
        return fail(ENOBUFS);
    GroupMembership fresh;
    fresh.group = group;
    fresh.interface = interface->index();
    fresh.exclude = exclude;
    {
        SpinGuard guard(endpoint_->lock);
        TRY(own.all.reserve(own.all.size() + 1));
    }
    TRY(stack().join_group(*interface, group, fresh.filter()));
    SpinGuard guard(endpoint_->lock);
    return own.all.push_back(std::move(fresh));
}

// Locks: groups_mutex_.
Result<void> DatagramSocketFile::leave(const IpAddress& group, u32 wanted) {
    SocketGroups& own = endpoint_->groups;
    GroupMembership* found = own.find(group, wanted);
    if (found == nullptr)
        return fail(EADDRNOTAVAIL);
    GroupMembership gone;
    {
        SpinGuard guard(endpoint_->lock);
        gone = std::move(*found);
        own.all.erase(static_cast<usize>(found - own.all.data()));
    }
    if (const Ref<Interface> left = stack().interface(gone.interface))
        stack().leave_group(*left, group, gone.filter());
    return {};
}

// Locks: groups_mutex_.
Result<void> DatagramSocketFile::set_sources(GroupMembership& own, bool exclude, bool listed,
                                             Vector<IpAddress> sources) {
    const Ref<Interface> interface = stack().interface(own.interface);
    if (!interface)
        return fail(ENODEV);
    TRY(stack().change_filter(*interface, own.group, own.filter(), {exclude, sources.span()}));
    SpinGuard guard(endpoint_->lock);
    own.exclude = exclude;
    own.listed = listed;
    std::swap(own.sources, sources);
    guard.unlock(); // the former are freed without it
    return {};
}

// One source more or less, as ip_mc_source() of Linux has it. Locks: groups_mutex_.
Result<void> DatagramSocketFile::change_source(const IpAddress& group, u32 interface,
                                               const IpAddress& source, bool exclude, bool add) {
    GroupMembership* own = endpoint_->groups.find(group, interface);
    if (!group.is_multicast() || own == nullptr || (own->listed && own->exclude != exclude))
        return fail(EINVAL);
    if (own->exclude != exclude) // nothing is named yet: the mode may change
        TRY(set_sources(*own, exclude, false, {}));
    if (add && own->listed && own->sources.size() >= most_sources(group))
        return fail(ENOBUFS);
    if (own->names(source) == add)
        return fail(EADDRNOTAVAIL);
    if (!add && !exclude && own->sources.size() == 1)
        return leave(group, own->interface); // nobody is included any more
    Vector<IpAddress> fresh;
    for (const IpAddress& other : own->sources)
        if (add || !(other == source))
            TRY(fresh.push_back(other));
    if (add)
        TRY(fresh.push_back(source));
    return set_sources(*own, exclude, true, std::move(fresh));
}

usize DatagramSocketFile::most_sources(const IpAddress& group) const {
    return group.is_v4() ? stack().settings.igmp_max_sources : most_sources6;
}

Result<void> DatagramSocketFile::set_filter(bool v6_level, int name, std::span<const u8> value) {
    const FilterLayout& at = name == MCAST_MSFILTER ? filter_of_groups : filter4;
    if (value.size() < at.header)
        return fail(EINVAL);
    const u32 mode = value_at<u32>(value, at.mode), count = value_at<u32>(value, at.count);
    const usize most = v6_level ? most_sources6 : stack().settings.igmp_max_sources;
    if (value.size() > longest_filter || count > most)
        return fail(ENOBUFS);
    if ((value.size() - at.header) / at.each < count)
        return fail(EINVAL);
    const auto request = parse_filter_group(stack(), v6_level, name, value);
    if (!request || !request->group.is_multicast() || mode > MCAST_INCLUDE)
        return fail(request ? EINVAL : request.error().code);
    Vector<IpAddress> sources;
    for (u32 i = 0; i < count; i++) {
        const usize offset = at.header + i * at.each;
        IpAddress source = IpAddress::from_wire(false, value.data() + offset);
        if (name == MCAST_MSFILTER) {
            const auto parsed = address_at(value, offset, v6_level);
            if (!parsed)
                return fail(EINVAL);
            source = *parsed;
        }
        bool known = false; // each counts once
        for (const IpAddress& other : sources)
            known = known || other == source;
        if (!known)
            TRY(sources.push_back(source));
    }
    MutexGuard guard(groups_mutex_);
    if (mode == MCAST_INCLUDE && count == 0)
        return leave(request->group, request->interface);
    GroupMembership* own = endpoint_->groups.find(request->group, request->interface);
    if (own == nullptr)
        return fail(EINVAL);
    return set_sources(*own, mode == MCAST_EXCLUDE, count != 0, std::move(sources));
}

// The caller's value says of which group and how many sources there is room for.
Result<usize> DatagramSocketFile::get_filter(bool v6_level, int name, std::span<u8> out) {
    const FilterLayout& at = name == MCAST_MSFILTER ? filter_of_groups : filter4;
    if (out.size() < at.header)
        return fail(EINVAL);
    TRY(const GroupRequest request, parse_filter_group(stack(), v6_level, name, out));
    if (!request.group.is_multicast())
        return fail(EINVAL);
    const u32 room = value_at<u32>(out, at.count);
    MutexGuard guard(groups_mutex_);
    const GroupMembership* own = endpoint_->groups.find(request.group, request.interface);
    if (own == nullptr)
        return fail(EADDRNOTAVAIL);
    const u32 mode = own->exclude ? MCAST_EXCLUDE : MCAST_INCLUDE;
    const u32 count = static_cast<u32>(own->sources.size());
    __builtin_memcpy(out.data() + at.mode, &mode, sizeof mode);
    __builtin_memcpy(out.data() + at.count, &count, sizeof count);
    usize filled = at.header;
    for (u32 i = 0; i < count && i < room && out.size() - filled >= at.each; i++) {
        const IpAddress& source = own->sources[i];
        if (name == MCAST_MSFILTER) {
            SocketAddress address;
            write_address({source, 0, 0}, v6_level ? family_inet6 : family_inet, address);
            __builtin_memset(out.data() + filled, 0, at.each);
            __builtin_memcpy(out.data() + filled, address.bytes, address.length);
        } else {
            __builtin_memcpy(out.data() + filled, source.wire(), at.each);
        }
        filled += at.each;
    }
    return filled;
}

void DatagramSocketFile::leave_groups() {
    Vector<GroupMembership> all;
    {
        SpinGuard guard(endpoint_->lock);
        all = std::move(endpoint_->groups.all);
    }
    for (const GroupMembership& own : all)
        if (const Ref<Interface> interface = stack().interface(own.interface))
            stack().leave_group(*interface, own.group, own.filter());
}

// Whether the option is about groups; if so, `done` is how it ended.
bool DatagramSocketFile::set_group_option(bool v6_level, int name, std::span<const u8> value,
                                          Result<void>& done) {
    const bool joins =
        name == (v6_level ? IPV6_ADD_MEMBERSHIP : IP_ADD_MEMBERSHIP) || name == MCAST_JOIN_GROUP;
    const bool leaves =
        name == (v6_level ? IPV6_DROP_MEMBERSHIP : IP_DROP_MEMBERSHIP) || name == MCAST_LEAVE_GROUP;
    SourceChange change{};
    const auto whole_group = [&]() -> Result<void> {
        TRY(const GroupRequest request, parse_group(stack(), v6_level, name, value));
        if (!request.group.is_multicast())
            return fail(EINVAL);
        MutexGuard guard(groups_mutex_);
        if (joins)
            return join(request.group, request.interface, true);
        return leave(request.group, request.interface);
    };
    const auto one_source = [&]() -> Result<void> {
        TRY(const GroupRequest request, parse_source(stack(), v6_level, name, value));
        if (!request.group.is_multicast())
            return fail(EINVAL);
        MutexGuard guard(groups_mutex_);
        if (change.joins) {
            const auto joined = join(request.group, request.interface, false);
            if (!joined && joined.error().code != EADDRINUSE)
                return joined;
        }
        return change_source(request.group, request.interface, request.source, change.exclude,
                             change.add);
    };
    if (joins || leaves)
        done = whole_group();
    else if (of_level(name, v6_level) && find_change(name, change))
        done = one_source();
    else if (name == MCAST_MSFILTER || (!v6_level && name == IP_MSFILTER))
        done = set_filter(v6_level, name, value);
    else
        return false;
    return true;
}

} // namespace kernel::net
