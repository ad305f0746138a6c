// veth(4): a cable with two ends. Each is an interface; the two live and die together, in whichever
// network namespaces they are.
#pragma once

#include "guestkernel/net/interface.hpp"

namespace kernel::net {

class VethInterface final : public Interface {
public:
    explicit VethInterface(std::string_view name);
    // Joins two ends that are not attached yet.
    static void connect(VethInterface& a, VethInterface& b);

    bool start_transmit(unsigned queue, PacketPtr& packet) override;
    Result<void> open() override;
    void close() override;
    void detached() override;
    Linked linked() override;
    std::string_view kind() const override { return "veth"; }
    std::string_view driver() const override { return "veth"; }

private:
    Ref<VethInterface> peer();
    SpinLock lock_{LockRank::Nested}; // taken under the queue's
    Ref<VethInterface> peer_;         // each keeps the other until one is detached
};

} // namespace kernel::net
