#include "guestkernel/net/loopback.hpp"

#include "guestkernel/net/backlog.hpp"

namespace kernel::net {

LoopbackInterface::LoopbackInterface() : Interface("lo", LinkType::Loopback, 65536, max_queues) {
    features_ = feature_all_offloads;
    max_mtu = 65536;
    settings.accept_dad = 0;
}

bool LoopbackInterface::start_transmit(unsigned, PacketPtr& packet) {
    queue_receive(*this, std::move(packet));
    return true;
}

} // namespace kernel::net
