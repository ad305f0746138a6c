// RTM_NEWADDR, RTM_DELADDR and RTM_GETADDR.
#include <linux/errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <linux/socket.h>

#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/ndp.hpp"
#include "guestkernel/net/netlink/route/family.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u32 forever = ~u32{0};
constexpr u8 inet = 2, inet6 = 10; // AF_INET, AF_INET6
constexpr u16 ifa_proto = 11;      // IFA_PROTO: linux/if_addr.h since 5.18

constexpr AttributePolicy policy[] = {
    {},
    {AttributeKind::Any, 4},      // IFA_ADDRESS
    {AttributeKind::Any, 4},      // IFA_LOCAL
    {AttributeKind::Text, 15},    // IFA_LABEL
    {AttributeKind::Any, 4},      // IFA_BROADCAST
    {},                           // IFA_ANYCAST
    {AttributeKind::Any, 16},     // IFA_CACHEINFO
    {},                           // IFA_MULTICAST
    {AttributeKind::Number32, 0}, // IFA_FLAGS
    {AttributeKind::Number32, 0}, // IFA_RT_PRIORITY
};
using AddressAttributes = AttributeTable<IFA_MAX + 2>;

} // namespace

u32 seconds_left(u64 until, u64 now) {
    if (until == no_deadline)
        return forever;
    return until <= now ? 0 : static_cast<u32>((until - now) / nanoseconds_per_second);
}

bool fill_address(MessageWriter& out, Stack& stack, const Interface& interface,
                  const InterfaceAddress& address, const Heading& heading) {
    const bool v6 = address.address.is_v6();
    heading.begin(out);
    ifaddrmsg header{};
    header.ifa_family = v6 ? inet6 : inet;
    header.ifa_prefixlen = address.prefix_length;
    header.ifa_flags = static_cast<u8>(address.flags);
    header.ifa_scope = address.scope;
    header.ifa_index = interface.index();
    out.put(header);
    const u64 now = stack.now();
    ifa_cacheinfo timing{};
    timing.ifa_prefered = seconds_left(address.preferred_until, now);
    timing.ifa_valid = seconds_left(address.valid_until, now);
    timing.cstamp = clock_ticks_of(address.created);
    timing.tstamp = clock_ticks_of(address.updated);
    const bool has_peer = !address.peer.is_any() && !(address.peer == address.address);
    if (v6) {
        if (has_peer)
            out.address(IFA_LOCAL, address.address);
        out.address(IFA_ADDRESS, has_peer ? address.peer : address.address);
        if (address.metric != 0)
            out.number32(IFA_RT_PRIORITY, address.metric);
        out.value(IFA_CACHEINFO, timing);
        out.number32(IFA_FLAGS, address.flags);
    } else {
        out.address(IFA_ADDRESS, has_peer ? address.peer : address.address);
        out.address(IFA_LOCAL, address.address);
        if (address.broadcast.is_v4() && !address.broadcast.is_any())
            out.address(IFA_BROADCAST, address.broadcast);
        if (address.label[0] != 0)
            out.text(IFA_LABEL, address.label);
        out.number32(IFA_FLAGS, address.flags);
        if (address.metric != 0)
            out.number32(IFA_RT_PRIORITY, address.metric);
        out.value(IFA_CACHEINFO, timing);
    }
    if (address.origin != 0)
        out.number8(ifa_proto, address.origin);
    return out.end();
}

// --- RTM_GETADDR

namespace {

struct AddressFilter final : DumpContext {
    u8 family = 0;
    u32 interface = 0;
};

// The addresses of one version of an interface from `at` on, which moves. False: no room.
bool dump_interface(Dump& dump, MessageWriter& out, Interface& interface, bool v6, u64& at) {
    Stack& stack = *dump.stack;
    for (;; at++) {
        InterfaceAddress address;
        {
            SpinGuard guard(stack.lock);
            if (at >= interface.addresses.size())
                return true;
            address = interface.addresses[at];
        }
        if (address.address.is_v6() == v6 &&
            !fill_address(out, stack, interface, address, Heading::of_dump(dump, RTM_NEWADDR)))
            return false;
    }
}

Result<bool> dump_addresses(Dump& dump, MessageWriter& out) {
    const auto& filter = static_cast<const AddressFilter&>(*dump.context);
    // Words: the version, the last interface that is done, the place within the next.
    for (; dump.words[0] < 2; dump.words[0]++, dump.words[1] = 0) {
        const bool v6 = dump.words[0] == 1;
        if (filter.family != 0 && filter.family != (v6 ? inet6 : inet))
            continue;
        while (const Ref<Interface> interface =
                   dump.stack->next_interface(static_cast<u32>(dump.words[1]))) {
            if ((filter.interface == 0 || filter.interface == interface->index()) &&
                !dump_interface(dump, out, *interface, v6, dump.words[2]))
                return false;
            dump.words[1] = interface->index();
            dump.words[2] = 0;
        }
    }
    return true;
}

} // namespace

Result<void> get_address(Request& request) {
    if (!request.is_dump())
        return request.refuse(EOPNOTSUPP, nullptr);
    ifaddrmsg header{};
    if (request.payload().size() >= sizeof header) {
        TRY(header, request.payload_header<ifaddrmsg>());
    } else if (request.strict()) {
        return request.refuse(EINVAL, "ipv4: Invalid header for address dump request");
    } else if (!request.payload().empty()) {
        header.ifa_family = request.payload()[0];
    }
    TRY(Owned<AddressFilter> filter, make_owned<AddressFilter>());
    filter->family = header.ifa_family;
    if (request.strict()) {
        if (header.ifa_prefixlen != 0 || header.ifa_flags != 0 || header.ifa_scope != 0)
            return request.refuse(EINVAL,
                                  "ipv4: Invalid values in header for address dump request");
        if (header.ifa_index != 0) {
            if (!request.stack().interface(header.ifa_index))
                return fail(ENODEV);
            filter->interface = header.ifa_index;
        }
        AddressAttributes attributes;
        TRY(attributes.parse(request.attributes_after<ifaddrmsg>(), policy, true, request.ack));
    }
    const bool filtered = filter->interface != 0;
    return request.start_dump(dump_addresses, std::move(filter), true, filtered);
}

// --- RTM_NEWADDR and RTM_DELADDR

namespace {

struct AddressRequest {
    ifaddrmsg header;
    AddressAttributes attributes;
    bool v6 = false;
};

Result<void> parse(Request& request, AddressRequest& out) {
    TRY(out.header, request.payload_header<ifaddrmsg>());
    TRY(out.attributes.parse(request.attributes_after<ifaddrmsg>(), policy, false, request.ack));
    out.v6 = out.header.ifa_family == inet6;
    if (!out.v6 && out.header.ifa_family != inet)
        return fail(EOPNOTSUPP);
    return {};
}

Result<void> read_lifetimes(Request& request, const AddressRequest& wanted,
                            InterfaceAddress& address) {
    u32 valid = forever, preferred = forever;
    if (const Attribute* times = wanted.attributes[IFA_CACHEINFO]) {
        const auto info = times->as<ifa_cacheinfo>();
        valid = info.ifa_valid;
        preferred = info.ifa_prefered;
        if (valid == 0 || preferred > valid)
            return request.refuse(EINVAL, times,
                                  wanted.v6 ? "ipv6: address lifetime invalid"
                                            : "ipv4: address lifetime invalid");
    }
    const u64 now = request.stack().now();
    const auto until = [now](u32 seconds) {
        return seconds == forever ? no_deadline : now + u64{seconds} * nanoseconds_per_second;
    };
    address.valid_until = until(valid);
    address.preferred_until = until(preferred);
    if (valid == forever)
        address.flags |= IFA_F_PERMANENT;
    else
        address.flags &= ~u32{IFA_F_PERMANENT};
    if (preferred == 0)
        address.flags |= IFA_F_DEPRECATED;
    return {};
}

u8 scope6(const IpAddress& address) {
    if (address.is_loopback())
        return scope_host;
    return address.is_link_local() ? scope_link : scope_universe;
}

Result<InterfaceAddress> read_address(Request& request, const AddressRequest& wanted,
                                      const Interface& interface) {
    const AddressAttributes& attributes = wanted.attributes;
    InterfaceAddress out;
    const Attribute* local = attributes[IFA_LOCAL];
    const Attribute* peer = attributes[IFA_ADDRESS];
    if (local == nullptr && wanted.v6)
        local = peer;
    TRY(out.address, address_of(*local, wanted.v6));
    out.peer = out.address;
    if (peer != nullptr) {
        TRY(out.peer, address_of(*peer, wanted.v6));
    }
    out.broadcast = IpAddress::any(wanted.v6);
    out.prefix_length = wanted.header.ifa_prefixlen;
    out.flags = attributes.number(IFA_FLAGS, wanted.header.ifa_flags);
    out.metric = attributes.number(IFA_RT_PRIORITY);
    if (const Attribute* origin = attributes[ifa_proto])
        out.origin = origin->as<u8>();
    if (wanted.v6) {
        out.scope = scope6(out.address);
        constexpr u32 settable = IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR |
                                 IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN | IFA_F_OPTIMISTIC;
        out.flags &= settable;
    } else {
        out.scope = wanted.header.ifa_scope;
        out.flags &= ~u32{IFA_F_SECONDARY};
        if (const Attribute* broadcast = attributes[IFA_BROADCAST]) {
            TRY(out.broadcast, address_of(*broadcast, false));
        }
        const std::string_view label =
            attributes[IFA_LABEL] != nullptr ? attributes.text(IFA_LABEL) : interface.name();
        __builtin_memcpy(out.label, label.data(),
                         label.size() < sizeof out.label ? label.size() : sizeof out.label - 1);
    }
    TRY(read_lifetimes(request, wanted, out));
    return out;
}

// Whether the address is there, and if so its new lifetimes and settings: NLM_F_REPLACE.
bool replace_address(Stack& stack, Interface& interface, const InterfaceAddress& fresh) {
    InterfaceAddress shown;
    bool found = false;
    {
        SpinGuard guard(stack.lock);
        for (InterfaceAddress& own : interface.addresses) {
            if (found || !(own.address == fresh.address) ||
                (own.prefix_length != fresh.prefix_length && fresh.address.is_v4()))
                continue;
            constexpr u32 kept = IFA_F_SECONDARY | IFA_F_TENTATIVE | IFA_F_DADFAILED;
            own.flags = (own.flags & kept) | (fresh.flags & ~kept);
            own.valid_until = fresh.valid_until;
            own.preferred_until = fresh.preferred_until;
            own.metric = fresh.metric;
            own.updated = stack.now();
            shown = own;
            found = true;
        }
    }
    if (!found)
        return false;
    Change change{ChangeKind::AddressAdded};
    change.interface = &interface;
    change.address = &shown;
    notify_change(stack, change);
    return true;
}

bool has_address(Stack& stack, Interface& interface, const InterfaceAddress& wanted) {
    SpinGuard guard(stack.lock);
    for (const InterfaceAddress& own : interface.addresses)
        if (own.address == wanted.address &&
            (wanted.address.is_v6() || own.prefix_length == wanted.prefix_length))
            return true;
    return false;
}

} // namespace

Result<void> new_address(Request& request) {
    AddressRequest wanted;
    TRY(parse(request, wanted));
    const bool v6 = wanted.v6;
    if (wanted.header.ifa_prefixlen > (v6 ? 128 : 32))
        return request.refuse(EINVAL,
                              v6 ? "ipv6: Invalid prefix length" : "ipv4: Invalid prefix length");
    if (wanted.attributes[IFA_LOCAL] == nullptr &&
        (!v6 || wanted.attributes[IFA_ADDRESS] == nullptr))
        return request.refuse(EINVAL, v6 ? nullptr : "ipv4: Local address is not supplied");
    Stack& stack = request.stack();
    const Ref<Interface> interface = stack.interface(wanted.header.ifa_index);
    if (!interface)
        return request.refuse(ENODEV,
                              v6 ? "ipv6: Unable to find the interface" : "ipv4: Device not found");
    if (v6 && interface->settings.disable_ipv6)
        return request.refuse(EACCES, "ipv6: IPv6 is disabled on this device");
    TRY(InterfaceAddress address, read_address(request, wanted, *interface));
    if (has_address(stack, *interface, address)) {
        if (request.wants(NLM_F_EXCL) || !request.wants(NLM_F_REPLACE))
            return request.refuse(EEXIST, v6 ? "ipv6: address already assigned"
                                             : "ipv4: Address already assigned");
        (void)replace_address(stack, *interface, address);
    } else {
        const bool probe =
            v6 && interface->has_link_addresses() && (address.flags & IFA_F_NODAD) == 0 &&
            stack.settings.greater(*interface, &Interface::Settings::accept_dad) != 0 &&
            (interface->flags() & iff_no_arp) == 0;
        if (probe) {
            address.flags |= IFA_F_TENTATIVE;
            address.probes_left = interface->settings.dad_transmits;
        }
        TRY(stack.add_address(*interface, address));
        if (v6 && interface->is_up())
            (void)stack.join_group(*interface, solicited_node(address.address));
    }
    // Probes and lifetimes are one timer's.
    stack.address_timer().soon(stack.now());
    return {};
}

Result<void> delete_address(Request& request) {
    AddressRequest wanted;
    TRY(parse(request, wanted));
    Stack& stack = request.stack();
    const Ref<Interface> interface = stack.interface(wanted.header.ifa_index);
    const Attribute* local = wanted.attributes[IFA_LOCAL];
    const Attribute* peer = wanted.attributes[IFA_ADDRESS];
    if (!interface)
        return request.refuse(ENODEV, wanted.v6 ? "ipv6: Unable to find the interface"
                                                : "ipv4: Device not found");
    if (wanted.v6 && local == nullptr)
        local = peer;
    if (wanted.v6 && local == nullptr)
        return fail(EINVAL);
    IpAddress address = IpAddress::any(wanted.v6), far = address;
    if (local != nullptr) {
        TRY(address, address_of(*local, wanted.v6));
    }
    if (peer != nullptr) {
        TRY(far, address_of(*peer, wanted.v6));
    }
    InterfaceAddress found;
    bool any = false;
    {
        SpinGuard guard(stack.lock);
        for (const InterfaceAddress& own : interface->addresses) {
            if (any || own.address.is_v6() != wanted.v6)
                continue;
            if (local != nullptr && !(own.address == address))
                continue;
            if (!wanted.v6 && wanted.attributes[IFA_LABEL] != nullptr &&
                wanted.attributes.text(IFA_LABEL) != std::string_view(own.label))
                continue;
            const bool by_prefix = wanted.v6 || peer != nullptr;
            if (by_prefix && own.prefix_length != wanted.header.ifa_prefixlen)
                continue;
            if (!wanted.v6 && peer != nullptr &&
                !far.in_prefix(own.peer.prefix(own.prefix_length), own.prefix_length))
                continue;
            found = own;
            any = true;
        }
    }
    if (!any)
        return request.refuse(EADDRNOTAVAIL,
                              wanted.v6 ? "ipv6: address not found" : "ipv4: Address not found");
    if (wanted.v6)
        stack.leave_group(*interface, solicited_node(found.address));
    return stack.remove_address(*interface, found.address, found.prefix_length);
}

} // namespace kernel::net::netlink
