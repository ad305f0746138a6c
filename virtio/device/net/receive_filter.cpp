#include "virtio/device/net/receive_filter.hpp"

#include <algorithm>
#include <cstring>

#include <linux/if_ether.h>

namespace virtio {

namespace {
constexpr MacAddress broadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

bool contains(const std::vector<MacAddress>& list, const MacAddress& address) {
    return std::find(list.begin(), list.end(), address) != list.end();
}
} // namespace

void ReceiveFilter::reset(const MacAddress& mac, bool vlan_filtering) {
    *this = ReceiveFilter{};
    mac_ = mac;
    vlan_filtering_ = vlan_filtering;
    unicast_.reserve(max_entries);
    multicast_.reserve(max_entries);
}

bool ReceiveFilter::set_mode(std::uint8_t command, bool on) {
    switch (command) {
    case net_rx_promiscuous:
        promiscuous_ = on;
        return true;
    case net_rx_all_multicast:
        all_multicast_ = on;
        return true;
    case net_rx_all_unicast:
        all_unicast_ = on;
        return true;
    case net_rx_no_multicast:
        no_multicast_ = on;
        return true;
    case net_rx_no_unicast:
        no_unicast_ = on;
        return true;
    case net_rx_no_broadcast:
        no_broadcast_ = on;
        return true;
    default:
        return false;
    }
}

void ReceiveFilter::set_unicast(std::span<const MacAddress> list, bool overflow) {
    unicast_.assign(list.begin(), list.end());
    unicast_overflow_ = overflow;
}

void ReceiveFilter::set_multicast(std::span<const MacAddress> list, bool overflow) {
    multicast_.assign(list.begin(), list.end());
    multicast_overflow_ = overflow;
}

bool ReceiveFilter::set_vlan(std::uint16_t id, bool on) {
    if (id >= vlans_.size())
        return false;
    vlans_[id] = on;
    return true;
}

bool ReceiveFilter::accepts_address(const MacAddress& to) const {
    if (to == broadcast)
        return !no_broadcast_;
    if ((to[0] & 1) != 0)
        return !no_multicast_ &&
               (all_multicast_ || multicast_overflow_ || contains(multicast_, to));
    return !no_unicast_ &&
           (to == mac_ || all_unicast_ || unicast_overflow_ || contains(unicast_, to));
}

bool ReceiveFilter::accepts(std::span<const std::byte> head) const {
    if (promiscuous_)
        return true;
    MacAddress to;
    std::memcpy(to.data(), head.data(), to.size());
    if (!accepts_address(to))
        return false;
    const auto byte = [&](std::size_t at) { return std::to_integer<unsigned>(head[at]); };
    const unsigned type = byte(12) << 8 | byte(13);
    if (!vlan_filtering_ || type != ETH_P_8021Q || head.size() < net_ethernet_header + 2)
        return true;
    return vlans_[(byte(14) << 8 | byte(15)) & 0xfff];
}

} // namespace virtio
