// RTM_GETNETCONF: what /proc/sys/net/ipv{4,6}/conf has, of one interface or of all.
#include <linux/errno.h>
#include <linux/netconf.h>
#include <linux/rtnetlink.h>

#include "guestkernel/net/netlink/route/family.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u8 inet = 2, inet6 = 10; // AF_INET, AF_INET6
// Beside the numbers of interfaces: "all" and "default".
constexpr i32 all = NETCONFA_IFINDEX_ALL, fresh = NETCONFA_IFINDEX_DEFAULT;

bool fill(MessageWriter& out, Stack& stack, bool v6, i32 index, const Interface::Settings& of,
          const Heading& heading) {
    heading.begin(out);
    const u8 family[4] = {v6 ? inet6 : inet, 0, 0, 0};
    out.put(family);
    out.value(NETCONFA_IFINDEX, index);
    const bool forwarding = index == all
                                ? (v6 ? stack.settings.forwarding6 : stack.settings.forwarding4)
                                : (v6 ? of.forwarding6 : of.forwarding4);
    out.number32(NETCONFA_FORWARDING, forwarding ? 1 : 0);
    if (!v6)
        out.number32(NETCONFA_RP_FILTER, of.rp_filter);
    out.number32(NETCONFA_MC_FORWARDING, 0);
    if (!v6)
        out.number32(NETCONFA_BC_FORWARDING, 0);
    out.number32(NETCONFA_PROXY_NEIGH, 0);
    out.number32(NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN, 0);
    return out.end();
}

Result<bool> dump(Dump& of, MessageWriter& out) {
    const u8 family = of.payload.empty() ? u8{0} : of.payload[0];
    Stack& stack = *of.stack;
    const Heading heading = Heading::of_dump(of, RTM_NEWNETCONF);
    // Words: the version, the last interface that is done, which of the two others.
    for (; of.words[0] < 2; of.words[0]++, of.words[1] = of.words[2] = 0) {
        const bool v6 = of.words[0] == 1;
        if ((family == inet && v6) || (family == inet6 && !v6))
            continue;
        while (const Ref<Interface> interface =
                   stack.next_interface(static_cast<u32>(of.words[1]))) {
            const i32 index = static_cast<i32>(interface->index());
            if (!fill(out, stack, v6, index, interface->settings, heading))
                return false;
            of.words[1] = interface->index();
        }
        for (const i32 index : {all, fresh}) {
            if (of.words[2] >= (index == all ? 1u : 2u))
                continue;
            if (!fill(out, stack, v6, index, stack.settings.default_interface, heading))
                return false;
            of.words[2]++;
        }
    }
    return true;
}

} // namespace

Result<void> get_netconf(Request& request) {
    if (request.is_dump())
        return request.start_dump(dump);
    if (request.payload().size() < 4)
        return request.refuse(EINVAL, "ipv4: Invalid header for netconf get request");
    const u8 family = request.payload()[0];
    if (family != inet && family != inet6)
        return fail(EOPNOTSUPP);
    AttributeTable<NETCONFA_MAX + 1> attributes;
    TRY(attributes.parse(request.payload().subspan(4), {}, request.strict(), request.ack));
    if (attributes[NETCONFA_IFINDEX] == nullptr)
        return fail(EINVAL);
    const i32 index = static_cast<i32>(attributes.number(NETCONFA_IFINDEX));
    Interface::Settings settings = request.stack().settings.default_interface;
    if (index != all && index != fresh) {
        const Ref<Interface> interface = request.stack().interface(static_cast<u32>(index));
        if (!interface)
            return fail(ENODEV);
        settings = interface->settings;
    }
    MessageWriter out;
    if (!fill(out, request.stack(), family == inet6, index, settings,
              Heading::of_reply(request, RTM_NEWNETCONF)))
        return fail(ENOBUFS);
    return request.reply(out);
}

} // namespace kernel::net::netlink
