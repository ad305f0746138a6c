// What virtio 1.2, 5.1 lays down: ours, since linux/virtio_net.h is not valid C++ (a member named
// `class`), with sizes and offsets compared with it in protocol_test.cpp. Little-endian, as this
// host is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace virtio {

// Feature bits (5.1.3).
enum NetFeature : unsigned {
    net_feature_csum = 0,
    net_feature_guest_csum = 1,
    net_feature_ctrl_guest_offloads = 2,
    net_feature_mtu = 3,
    net_feature_mac = 5,
    net_feature_guest_tso4 = 7,
    net_feature_guest_tso6 = 8,
    net_feature_guest_ecn = 9,
    net_feature_host_tso4 = 11,
    net_feature_host_tso6 = 12,
    net_feature_host_ecn = 13,
    net_feature_mrg_rxbuf = 15,
    net_feature_status = 16,
    net_feature_ctrl_vq = 17,
    net_feature_ctrl_rx = 18,
    net_feature_ctrl_vlan = 19,
    net_feature_ctrl_rx_extra = 20,
    net_feature_guest_announce = 21,
    net_feature_mq = 22,
    net_feature_ctrl_mac_addr = 23,
    net_feature_guest_uso4 = 54, // virtio 1.3; absent from the headers of Linux 6.1
    net_feature_guest_uso6 = 55,
    net_feature_host_uso = 56,
};

constexpr std::uint64_t net_bit(NetFeature feature) {
    return std::uint64_t{1} << feature;
}

using MacAddress = std::array<std::uint8_t, 6>;

// In front of each packet (5.1.6).
struct NetHeader {
    std::uint8_t flags = 0;
    std::uint8_t gso_type = 0;
    std::uint16_t header_length = 0;
    std::uint16_t gso_size = 0;
    std::uint16_t csum_start = 0;
    std::uint16_t csum_offset = 0;
    std::uint16_t num_buffers = 0;
    bool operator==(const NetHeader&) const = default;
};
static_assert(sizeof(NetHeader) == 12);

inline constexpr std::uint8_t net_needs_csum = 1; // NetHeader::flags
inline constexpr std::uint8_t net_data_valid = 2;

inline constexpr std::uint8_t net_gso_none = 0; // NetHeader::gso_type
inline constexpr std::uint8_t net_gso_tcp4 = 1;
inline constexpr std::uint8_t net_gso_tcp6 = 4;
inline constexpr std::uint8_t net_gso_udp = 5; // VIRTIO_NET_HDR_GSO_UDP_L4
inline constexpr std::uint8_t net_gso_ecn = 0x80;

struct NetConfig { // 5.1.4
    MacAddress mac{};
    std::uint16_t status = 0;
    std::uint16_t max_pairs = 1;
    std::uint16_t mtu = 0;
};
static_assert(sizeof(NetConfig) == 12);

inline constexpr std::uint16_t net_link_up = 1; // NetConfig::status
inline constexpr std::uint16_t net_announce = 2;

// The control queue (5.1.6.5): a command's head, its data, and one byte for the answer.
struct NetControlHead {
    std::uint8_t command_class;
    std::uint8_t command;
};

inline constexpr std::uint8_t net_control_ok = 0;
inline constexpr std::uint8_t net_control_error = 1;

inline constexpr std::uint8_t net_class_rx = 0;
inline constexpr std::uint8_t net_class_mac = 1;
inline constexpr std::uint8_t net_class_vlan = 2;
inline constexpr std::uint8_t net_class_announce = 3;
inline constexpr std::uint8_t net_class_mq = 4;
inline constexpr std::uint8_t net_class_offloads = 5;

enum NetRxCommand : std::uint8_t {
    net_rx_promiscuous,
    net_rx_all_multicast,
    net_rx_all_unicast,
    net_rx_no_multicast,
    net_rx_no_unicast,
    net_rx_no_broadcast,
};
inline constexpr std::uint8_t net_mac_table_set = 0;
inline constexpr std::uint8_t net_mac_address_set = 1;
inline constexpr std::uint8_t net_vlan_add = 0;
inline constexpr std::uint8_t net_vlan_remove = 1;
inline constexpr std::uint8_t net_announce_ack = 0;
inline constexpr std::uint8_t net_mq_pairs_set = 0;
inline constexpr std::uint8_t net_offloads_set = 0;

// The longest frame there can be: 64 KiB of IP behind an Ethernet header with two VLAN tags.
inline constexpr std::size_t net_ethernet_header = 14;
inline constexpr std::size_t net_max_frame = 65535 + net_ethernet_header + 8;

// Queues (5.1.2): receive and transmit of each pair, then the control queue.
constexpr std::uint32_t net_receive_queue(std::uint32_t pair) {
    return 2 * pair;
}
constexpr std::uint32_t net_transmit_queue(std::uint32_t pair) {
    return 2 * pair + 1;
}

} // namespace virtio
