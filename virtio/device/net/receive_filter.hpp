// ReceiveFilter: which frames the driver wants (5.1.6.5.1 to 5.1.6.5.3). One writer and many
// readers, each under the owner's lock.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "virtio/device/net/protocol.hpp"

namespace virtio {

class ReceiveFilter {
public:
    // Beyond this the lists overflow into "all of them", as hardware does.
    static constexpr std::size_t max_entries = 64;

    // Back to what a device starts with: it takes everything until the driver says otherwise, which
    // spares a simple driver the commands.
    void reset(const MacAddress& mac, bool vlan_filtering);

    void set_mac(const MacAddress& mac) { mac_ = mac; }
    // False: no such mode.
    bool set_mode(std::uint8_t command, bool on);
    void set_unicast(std::span<const MacAddress> list, bool overflow);
    void set_multicast(std::span<const MacAddress> list, bool overflow);
    // False: no such VLAN.
    bool set_vlan(std::uint16_t id, bool on);

    // `head`: at least an Ethernet header, with 4 bytes more where the frame has them.
    bool accepts(std::span<const std::byte> head) const;

private:
    bool accepts_address(const MacAddress& to) const;

    MacAddress mac_{};
    bool promiscuous_ = true;
    bool all_multicast_ = false;
    bool all_unicast_ = false;
    bool no_multicast_ = false;
    bool no_unicast_ = false;
    bool no_broadcast_ = false;
    bool unicast_overflow_ = false;
    bool multicast_overflow_ = false;
    bool vlan_filtering_ = false;
    std::vector<MacAddress> unicast_;
    std::vector<MacAddress> multicast_;
    std::bitset<4096> vlans_;
};

} // namespace virtio
