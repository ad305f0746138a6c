// The loopback interface: what is sent comes back, whole and unchecked.
#pragma once

#include "guestkernel/net/interface.hpp"

namespace kernel::net {

class LoopbackInterface final : public Interface {
public:
    LoopbackInterface();
    bool start_transmit(unsigned queue, PacketPtr& packet) override;
    bool movable() const override { return false; }
};

} // namespace kernel::net
