// dummy: an interface to hang addresses on.
#include "guestkernel/net/link/links.hpp"

namespace kernel::net {

namespace {

class DummyInterface final : public Interface {
public:
    explicit DummyInterface(std::string_view name) : Interface(name, LinkType::Ethernet, 1500) {
        features_ = feature_all_offloads;
        set_first_flags(iff_broadcast | iff_no_arp | iff_running | iff_lower_up);
        min_mtu = 0;
        max_mtu = 0xffff'ffff;
    }
    bool start_transmit(unsigned, PacketPtr& packet) override {
        packet = {};
        return true;
    }
    std::string_view kind() const override { return "dummy"; }
    std::string_view driver() const override { return "dummy"; }
};

} // namespace

constinit const netlink::LinkKind dummy_kind = {
    .name = "dummy",
    .make = [](netlink::Request&, const netlink::LinkWanted& wanted) -> Result<Ref<Interface>> {
        TRY(Ref<DummyInterface> made, make_ref<DummyInterface>(wanted.name));
        TRY(attach_link(made, wanted));
        return Ref<Interface>(std::move(made));
    },
};

} // namespace kernel::net
