#include "virtio/device/net/packet_check.hpp"

#include <linux/if_ether.h>
#include <netinet/in.h>

namespace virtio {

namespace {

// Reads the frame's head; what lies beyond it reads as nothing.
class Head {
public:
    explicit Head(std::span<const std::byte> bytes) : bytes_(bytes) {}
    bool has(std::size_t offset, std::size_t length) const {
        return offset <= bytes_.size() && length <= bytes_.size() - offset;
    }
    // Requires: has().
    std::uint8_t u8(std::size_t offset) const {
        return std::to_integer<std::uint8_t>(bytes_[offset]);
    }
    std::uint16_t u16(std::size_t offset) const {
        return static_cast<std::uint16_t>(u8(offset) << 8 | u8(offset + 1));
    }

private:
    std::span<const std::byte> bytes_;
};

constexpr std::size_t ipv4_header = 20;
constexpr std::size_t ipv6_header = 40;
constexpr std::size_t tcp_header = 20;
constexpr std::size_t udp_header = 8;

void read_ipv4(const Head& head, PacketLayout& layout) {
    const std::size_t at = layout.network;
    if (!head.has(at, ipv4_header) || head.u8(at) >> 4 != 4)
        return;
    const std::size_t length = std::size_t{4} * (head.u8(at) & 15);
    if (length < ipv4_header || !head.has(at, length))
        return;
    layout.ip_version = 4;
    const std::uint16_t fragment = head.u16(at + 6);
    layout.fragment = (fragment & 0x3fff) != 0; // more to come, or an offset
    layout.transport = static_cast<std::uint16_t>(at + length);
    if ((fragment & 0x1fff) == 0)
        layout.protocol = head.u8(at + 9);
}

void read_ipv6(const Head& head, PacketLayout& layout) {
    std::size_t at = layout.network;
    if (!head.has(at, ipv6_header) || head.u8(at) >> 4 != 6)
        return;
    std::uint8_t next = head.u8(at + 6);
    at += ipv6_header;
    layout.ip_version = 6;
    // Each step is at least 8 bytes inside of the head, so this ends.
    while (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
           next == IPPROTO_FRAGMENT) {
        if (!head.has(at, 8))
            return;
        if (next == IPPROTO_FRAGMENT) {
            layout.fragment = true;
            if ((head.u16(at + 2) & 0xfff8) != 0)
                return;
        }
        const std::size_t length =
            next == IPPROTO_FRAGMENT ? 8 : std::size_t{8} * (head.u8(at + 1) + 1u);
        next = head.u8(at);
        at += length;
    }
    layout.transport = static_cast<std::uint16_t>(at);
    layout.protocol = next;
}

void read_transport(const Head& head, PacketLayout& layout) {
    const std::size_t at = layout.transport;
    if (layout.protocol == IPPROTO_TCP && head.has(at, tcp_header)) {
        const std::size_t length = std::size_t{4} * (head.u8(at + 12) >> 4);
        layout.tcp_cwr = (head.u8(at + 13) & 0x80) != 0;
        if (length >= tcp_header && head.has(at, length))
            layout.payload = static_cast<std::uint16_t>(at + length);
    } else if (layout.protocol == IPPROTO_UDP && head.has(at, udp_header)) {
        layout.payload = static_cast<std::uint16_t>(at + udp_header);
    }
}

constexpr std::size_t checksum_offset(std::uint8_t protocol) {
    return protocol == IPPROTO_TCP ? 16 : 6;
}

bool has(std::uint64_t features, NetFeature feature) {
    return (features & net_bit(feature)) != 0;
}

bool checksum_fits(const NetHeader& header, const PacketLayout& layout, std::size_t length) {
    const std::size_t field = std::size_t{header.csum_start} + header.csum_offset;
    if (header.csum_start < net_ethernet_header || field + 2 > length)
        return false;
    // Where we know better: the sum is that of the transport, and lies where it belongs. Others
    // (tunnels, SCTP, ICMPv6) need only be inside.
    if (layout.protocol != IPPROTO_TCP && layout.protocol != IPPROTO_UDP)
        return true;
    if (header.csum_start == layout.transport)
        return header.csum_offset == checksum_offset(layout.protocol);
    return layout.protocol == IPPROTO_UDP && layout.payload != 0 &&
           header.csum_start >= layout.payload; // of what the tunnel carries
}

// Whether the features allow segmentation of this type, and the packet is of it.
bool segmentation_fits(std::uint8_t type, const PacketLayout& layout, std::uint64_t features) {
    if (layout.payload == 0 || layout.fragment)
        return false;
    switch (type) {
    case net_gso_tcp4:
        return has(features, net_feature_host_tso4) && layout.ip_version == 4 &&
               layout.protocol == IPPROTO_TCP;
    case net_gso_tcp6:
        return has(features, net_feature_host_tso6) && layout.ip_version == 6 &&
               layout.protocol == IPPROTO_TCP;
    case net_gso_udp:
        return has(features, net_feature_host_uso) && layout.protocol == IPPROTO_UDP;
    default:
        return false;
    }
}

} // namespace

PacketLayout read_layout(std::span<const std::byte> bytes) {
    const Head head(bytes);
    PacketLayout layout;
    std::size_t at = 2 * ETH_ALEN;
    for (int tags = 0;; ++tags) {
        if (!head.has(at, 2))
            return layout;
        const std::uint16_t type = head.u16(at);
        if ((type != ETH_P_8021Q && type != ETH_P_8021AD) || tags == 2) {
            layout.network = static_cast<std::uint16_t>(at + 2);
            if (type == ETH_P_IP)
                read_ipv4(head, layout);
            else if (type == ETH_P_IPV6)
                read_ipv6(head, layout);
            break;
        }
        at += 4;
    }
    read_transport(head, layout);
    return layout;
}

std::optional<NetHeader> check_transmit(const NetHeader& header, std::span<const std::byte> head,
                                        std::size_t length, std::uint64_t features) {
    if (length < net_ethernet_header || length > net_max_frame)
        return std::nullopt;
    // 5.1.6.2.1: bits that we do not know are to be ignored; DATA_VALID is not a driver's to say.
    NetHeader checked;
    checked.flags = header.flags & net_needs_csum;
    const bool needs_checksum = checked.flags != 0;
    if (!needs_checksum && header.gso_type == net_gso_none)
        return checked;

    const PacketLayout layout = read_layout(head);
    if (needs_checksum) {
        if (!has(features, net_feature_csum) || !checksum_fits(header, layout, length))
            return std::nullopt;
        checked.csum_start = header.csum_start;
        checked.csum_offset = header.csum_offset;
    }
    if (header.gso_type == net_gso_none)
        return checked;

    const auto type = static_cast<std::uint8_t>(header.gso_type & ~net_gso_ecn);
    const bool ecn = (header.gso_type & net_gso_ecn) != 0;
    if (!needs_checksum || header.csum_start != layout.transport || header.gso_size == 0 ||
        !segmentation_fits(type, layout, features))
        return std::nullopt;
    if (ecn && (type == net_gso_udp || !has(features, net_feature_host_ecn)))
        return std::nullopt;
    // One segment is no segmentation.
    if (length - layout.payload <= header.gso_size)
        return checked;
    checked.gso_type = header.gso_type;
    checked.gso_size = header.gso_size;
    checked.header_length = layout.payload; // the driver's own is only a hint (5.1.6.2.2)
    return checked;
}

bool may_receive(const NetHeader& header, std::uint64_t offloads) {
    if ((header.flags & net_needs_csum) != 0 && !has(offloads, net_feature_guest_csum))
        return false;
    const auto type = static_cast<std::uint8_t>(header.gso_type & ~net_gso_ecn);
    if ((header.gso_type & net_gso_ecn) != 0 && !has(offloads, net_feature_guest_ecn))
        return false;
    switch (type) {
    case net_gso_none:
        return true;
    case net_gso_tcp4:
        return has(offloads, net_feature_guest_tso4);
    case net_gso_tcp6:
        return has(offloads, net_feature_guest_tso6);
    case net_gso_udp:
        return has(offloads, net_feature_guest_uso4) || has(offloads, net_feature_guest_uso6);
    default:
        return false;
    }
}

} // namespace virtio
