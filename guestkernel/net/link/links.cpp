#include "guestkernel/net/link/links.hpp"

#include <linux/errno.h>

namespace kernel::net {

Result<void> attach_link(Ref<Interface> link, const netlink::LinkWanted& wanted) {
    TRY(link->set_mac(wanted.mac != nullptr ? *wanted.mac : netlink::random_mac()));
    if (wanted.mtu != 0)
        TRY(link->set_mtu(wanted.mtu));
    if (wanted.queue_length != ~u32{0})
        link->tx_queue_length = wanted.queue_length;
    link->group = wanted.group;
    return wanted.stack->attach(std::move(link), wanted.index);
}

void register_links() {
    netlink::register_link_kind(dummy_kind);
    netlink::register_link_kind(veth_kind);
    netlink::register_link_kind(bridge_kind);
}

} // namespace kernel::net
