// Addresses of interfaces, and which of them to use.
#include <linux/errno.h>
#include <linux/if_addr.h>

#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/route.hpp"

namespace kernel::net {

namespace {

void tell(Stack& stack, ChangeKind kind, Interface& interface, const InterfaceAddress& address) {
    Change change{kind};
    change.interface = &interface;
    change.address = &address;
    notify_change(stack, change);
}

bool same(const InterfaceAddress& a, const IpAddress& address, u8 length) {
    return a.address == address && a.prefix_length == length;
}

// IPv6 addresses of wider scope come first, of one scope the newest; those of IPv4 as they came.
usize place_of(const Interface& interface, const InterfaceAddress& fresh) {
    if (fresh.address.is_v4())
        return interface.addresses.size();
    const auto narrow = [](const IpAddress& address) {
        return address.is_link_local() || address.is_loopback();
    };
    usize at = 0;
    while (at < interface.addresses.size() &&
           (interface.addresses[at].address.is_v4() ||
            (narrow(fresh.address) && !narrow(interface.addresses[at].address))))
        at++;
    return at;
}

} // namespace

Result<void> Stack::add_address(Interface& interface, const InterfaceAddress& wanted) {
    InterfaceAddress address = wanted;
    if (address.prefix_length > address.address.bits() || address.address.is_multicast() ||
        address.address.is_any())
        return fail(EINVAL);
    address.created = address.updated = now();
    {
        SpinGuard guard(lock);
        for (const InterfaceAddress& other : interface.addresses) {
            if (other.address == address.address &&
                (address.address.is_v6() || other.prefix_length == address.prefix_length))
                return fail(EEXIST);
            // A second one of a network that is there already (ip-address(8): secondary).
            if (address.address.is_v4() && other.address.is_v4() &&
                other.prefix_length == address.prefix_length &&
                (other.flags & IFA_F_SECONDARY) == 0 &&
                address.address.in_prefix(other.address.prefix(other.prefix_length),
                                          other.prefix_length))
                address.flags |= IFA_F_SECONDARY;
        }
        TRY(interface.addresses.insert(place_of(interface, address), address));
        if (address.address.is_v4())
            interface.settings.own4 = ~u64{0}; // as on Linux: in use, it is its own master
    }
    routes_changed();
    tell(*this, ChangeKind::AddressAdded, interface, address);
    if (interface.is_up()) {
        (void)add_address_routes(*this, interface, address);
        if (address.address.is_v4())
            announce_address(*this, interface, address.address);
    }
    return {};
}

// The secondary addresses of `primary`'s network, if that is one's primary address.
void Stack::remove_secondaries(Interface& interface, const IpAddress& primary, u8 length) {
    for (;;) {
        IpAddress next;
        bool found = false, is_primary = false;
        {
            SpinGuard guard(lock);
            for (const InterfaceAddress& own : interface.addresses) {
                if (own.address.is_v6() || own.prefix_length != length)
                    continue;
                const bool secondary = (own.flags & IFA_F_SECONDARY) != 0;
                if (own.address == primary)
                    is_primary = !secondary;
                else if (!found && secondary &&
                         own.address.in_prefix(primary.prefix(length), length)) {
                    next = own.address;
                    found = true;
                }
            }
        }
        if (!is_primary || !found || !remove_address(interface, next, length))
            return;
    }
}

Result<void> Stack::remove_address(Interface& interface, const IpAddress& address, u8 length) {
    if (address.is_v4() && !settings.either(interface, &Interface::Settings::promote_secondaries))
        remove_secondaries(interface, address, length);
    InterfaceAddress gone;
    InterfaceAddress promoted;
    bool promote = false;
    {
        SpinGuard guard(lock);
        usize at = 0;
        while (at < interface.addresses.size() && !same(interface.addresses[at], address, length))
            at++;
        if (at == interface.addresses.size())
            return fail(EADDRNOTAVAIL);
        gone = interface.addresses[at];
        interface.addresses.erase(at);
        if (address.is_v4() && (gone.flags & IFA_F_SECONDARY) == 0) {
            for (InterfaceAddress& other : interface.addresses)
                if (!promote && other.address.is_v4() && (other.flags & IFA_F_SECONDARY) != 0 &&
                    other.prefix_length == length &&
                    other.address.in_prefix(address.prefix(length), length)) {
                    other.flags &= ~u32{IFA_F_SECONDARY};
                    promoted = other;
                    promote = true;
                }
        }
    }
    remove_address_routes(*this, interface, gone);
    // promote_secondaries: a network is there as long as one of its addresses is.
    if (promote && interface.is_up())
        (void)add_address_routes(*this, interface, promoted);
    routes_changed();
    tell(*this, ChangeKind::AddressRemoved, interface, gone);
    return {};
}

bool Stack::is_local(const IpAddress& address, u32 on) {
    SpinGuard guard(lock);
    if (address.is_v4() && address.is_loopback())
        return loopback_->is_up();
    for (const Ref<Interface>& interface : interfaces_) {
        if (on != 0 && interface->index() != on)
            continue;
        for (const InterfaceAddress& own : interface->addresses)
            if (own.address == address)
                return (own.flags & (IFA_F_TENTATIVE | IFA_F_OPTIMISTIC)) != IFA_F_TENTATIVE;
    }
    return false;
}

bool Stack::is_broadcast(const IpAddress& address) {
    if (address.is_v6())
        return false;
    RouteKey key;
    key.destination = address;
    SpinGuard guard(lock);
    auto found = routes_->find_in(table_local, key, now());
    return found && found->route->type == RouteType::Broadcast;
}

u32 Stack::interface_of(const IpAddress& address) {
    SpinGuard guard(lock);
    for (const Ref<Interface>& interface : interfaces_)
        for (const InterfaceAddress& own : interface->addresses)
            if (own.address == address)
                return interface->index();
    return 0;
}

namespace {

u8 address_scope(const IpAddress& address) {
    if (address.is_loopback())
        return scope_host;
    return address.is_link_local() ? scope_link : scope_universe;
}

// RFC 6724, 5: greater is better; rules in their order.
u32 source_merit(const InterfaceAddress& candidate, const IpAddress& destination,
                 const Interface& interface, const Interface& out) {
    if (candidate.address == destination)
        return ~u32{0} - 1;
    u32 merit = 0;
    const u8 wanted = destination.is_multicast()
                          ? (destination.is_link_scope_multicast() ? scope_link : scope_universe)
                          : address_scope(destination);
    const u8 scope = address_scope(candidate.address);
    // Scopes count downwards in RT_SCOPE_*: a greater value reaches less far.
    if (scope == wanted)
        merit |= 3u << 20;
    else if (scope < wanted)
        merit |= 2u << 20;
    else
        merit |= (scope_nowhere - u32{scope}) >> 1 << 12;
    if ((candidate.flags & IFA_F_DEPRECATED) == 0)
        merit |= 1u << 19;
    if (&interface == &out)
        merit |= 1u << 18;
    if ((candidate.flags & IFA_F_TEMPORARY) == 0)
        merit |= 1u << 10;
    const unsigned common = candidate.address.common_bits(destination);
    merit |= common < candidate.prefix_length ? common : candidate.prefix_length;
    return merit;
}

bool usable_source(const InterfaceAddress& address) {
    return (address.flags & IFA_F_TENTATIVE) == 0 || (address.flags & IFA_F_OPTIMISTIC) != 0;
}

} // namespace

IpAddress Stack::select_source_locked(Interface& out, const IpAddress& destination) {
    const bool v6 = destination.is_v6();
    const bool link_only =
        address_scope(destination) == scope_link || (v6 && destination.is_link_scope_multicast());
    if (!v6) {
        const InterfaceAddress* first = nullptr;
        for (const InterfaceAddress& own : out.addresses) {
            if (own.address.is_v6() || (own.flags & IFA_F_SECONDARY) != 0)
                continue;
            if (destination.in_prefix(own.peer.prefix(own.prefix_length), own.prefix_length))
                return own.address;
            if (first == nullptr)
                first = &own;
        }
        if (first != nullptr)
            return first->address;
    }
    IpAddress best = IpAddress::any(v6);
    u32 best_merit = 0;
    for (const Ref<Interface>& interface : interfaces_) {
        if (!interface->is_up() || (v6 && link_only && interface.get() != &out))
            continue;
        for (const InterfaceAddress& own : interface->addresses) {
            if (own.address.is_v6() != v6 || !usable_source(own) ||
                (!v6 && own.scope >= scope_link))
                continue;
            const u32 merit = source_merit(own, destination, *interface, out) + 1;
            if (merit > best_merit) {
                best = own.address;
                best_merit = merit;
            }
        }
    }
    return best;
}

IpAddress Stack::select_source(Interface& out, const IpAddress& destination) {
    SpinGuard guard(lock);
    return select_source_locked(out, destination);
}

} // namespace kernel::net
