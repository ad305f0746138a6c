#include "guestkernel/net/netlink/route/operational.hpp"

#include <linux/if.h>

namespace kernel::net::netlink {

u32 shown_flags(const Interface& interface) {
    const u32 flags = interface.flags();
    return (flags & iff_up) != 0 ? flags : flags & ~u32{iff_running | iff_lower_up};
}

u8 operational_state(Interface& interface) {
    if (!interface.is_up())
        return IF_OPER_DOWN;
    if (!interface.reports_carrier.load())
        return IF_OPER_UNKNOWN;
    if ((interface.flags() & iff_lower_up) != 0)
        return IF_OPER_UP;
    // The one below is to blame if it is here and has no carrier either.
    const Interface::Linked linked = interface.linked();
    if (linked.index == 0 || !linked.stack || linked.stack.get() != interface.stack().get())
        return IF_OPER_DOWN;
    const Ref<Interface> below = linked.stack->interface(linked.index);
    return below && (below->flags() & iff_lower_up) == 0 ? IF_OPER_LOWERLAYERDOWN : IF_OPER_DOWN;
}

std::string_view operational_name(u8 state) {
    constexpr std::string_view names[] = {"unknown", "notpresent", "down", "lowerlayerdown",
                                          "testing", "dormant",    "up"};
    return state < sizeof names / sizeof names[0] ? names[state] : names[0];
}

unsigned shown_queues(const Interface& interface) {
    return interface.is_loopback() ? 1 : interface.queue_count();
}

std::string_view queue_discipline(const Interface& interface) {
    if (!interface.is_up())
        return "noop";
    if (interface.is_loopback() || (!interface.kind().empty() && interface.kind() != "tun"))
        return "noqueue";
    return interface.queue_count() > 1 ? "mq" : "pfifo_fast";
}

} // namespace kernel::net::netlink
