// SocketGroups: the groups that a socket is in, and from which sources it takes what comes to them.
#pragma once

#include "guestkernel/lib/vector.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel::net {

struct GroupMembership {
    IpAddress group;
    u32 interface = 0;
    bool exclude = true; // its sources are those it does not want
    bool listed = false; // it names sources, or did: as in Linux, its mode is fixed from then on
    Vector<IpAddress> sources;

    GroupFilter filter() const { return {exclude, sources.span()}; }
    bool names(const IpAddress& source) const {
        for (const IpAddress& own : sources)
            if (own == source)
                return true;
        return false;
    }
};

// Under the endpoint's lock; changed by who has the file's mutex of groups, too.
class SocketGroups {
public:
    Vector<GroupMembership> all;

    // `interface` 0: whichever.
    GroupMembership* find(const IpAddress& group, u32 interface) {
        for (GroupMembership& own : all)
            if (own.group == group && (interface == 0 || own.interface == interface))
                return &own;
        return nullptr;
    }
    // Whether a packet to the group is for the socket; `otherwise`: of a group it is not in
    // (IP_MULTICAST_ALL). Of IPv6, Linux does not ask where it came in.
    bool admits(const IpAddress& group, const IpAddress& source, u32 interface, bool otherwise) {
        const GroupMembership* own = find(group, group.is_v4() ? interface : 0);
        return own == nullptr ? otherwise : own->exclude != own->names(source);
    }
};

} // namespace kernel::net
