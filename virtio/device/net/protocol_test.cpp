// Our names against the kernel's header, which needs a hand to be valid C++.
#ifdef __clang__
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wkeyword-macro"
#endif
#define class class_
#include <linux/virtio_net.h>
#undef class
#ifdef __clang__
#pragma clang diagnostic pop
#endif

#include <cstddef>

#include <catch2/catch.hpp>

#include "virtio/device/net/protocol.hpp"

using namespace virtio;

static_assert(sizeof(NetHeader) == sizeof(virtio_net_hdr_v1));
static_assert(offsetof(NetHeader, gso_type) == offsetof(virtio_net_hdr_v1, gso_type));
static_assert(offsetof(NetHeader, header_length) == offsetof(virtio_net_hdr_v1, hdr_len));
static_assert(offsetof(NetHeader, gso_size) == offsetof(virtio_net_hdr_v1, gso_size));
static_assert(offsetof(NetHeader, csum_start) == offsetof(virtio_net_hdr_v1, csum_start));
static_assert(offsetof(NetHeader, csum_offset) == offsetof(virtio_net_hdr_v1, csum_offset));
static_assert(offsetof(NetHeader, num_buffers) == offsetof(virtio_net_hdr_v1, num_buffers));
static_assert(offsetof(NetConfig, status) == offsetof(virtio_net_config, status));
static_assert(offsetof(NetConfig, max_pairs) == offsetof(virtio_net_config, max_virtqueue_pairs));
static_assert(offsetof(NetConfig, mtu) == offsetof(virtio_net_config, mtu));
static_assert(sizeof(NetControlHead) == sizeof(virtio_net_ctrl_hdr));

TEST_CASE("net: constants are those of the kernel's header") {
    CHECK(net_feature_csum == VIRTIO_NET_F_CSUM);
    CHECK(net_feature_guest_csum == VIRTIO_NET_F_GUEST_CSUM);
    CHECK(net_feature_ctrl_guest_offloads == VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
    CHECK(net_feature_mtu == VIRTIO_NET_F_MTU);
    CHECK(net_feature_mac == VIRTIO_NET_F_MAC);
    CHECK(net_feature_guest_tso4 == VIRTIO_NET_F_GUEST_TSO4);
    CHECK(net_feature_guest_tso6 == VIRTIO_NET_F_GUEST_TSO6);
    CHECK(net_feature_guest_ecn == VIRTIO_NET_F_GUEST_ECN);
    CHECK(net_feature_host_tso4 == VIRTIO_NET_F_HOST_TSO4);
    CHECK(net_feature_host_tso6 == VIRTIO_NET_F_HOST_TSO6);
    CHECK(net_feature_host_ecn == VIRTIO_NET_F_HOST_ECN);
    CHECK(net_feature_mrg_rxbuf == VIRTIO_NET_F_MRG_RXBUF);
    CHECK(net_feature_status == VIRTIO_NET_F_STATUS);
    CHECK(net_feature_ctrl_vq == VIRTIO_NET_F_CTRL_VQ);
    CHECK(net_feature_ctrl_rx == VIRTIO_NET_F_CTRL_RX);
    CHECK(net_feature_ctrl_vlan == VIRTIO_NET_F_CTRL_VLAN);
    CHECK(net_feature_ctrl_rx_extra == VIRTIO_NET_F_CTRL_RX_EXTRA);
    CHECK(net_feature_guest_announce == VIRTIO_NET_F_GUEST_ANNOUNCE);
    CHECK(net_feature_mq == VIRTIO_NET_F_MQ);
    CHECK(net_feature_ctrl_mac_addr == VIRTIO_NET_F_CTRL_MAC_ADDR);
    CHECK(net_needs_csum == VIRTIO_NET_HDR_F_NEEDS_CSUM);
    CHECK(net_data_valid == VIRTIO_NET_HDR_F_DATA_VALID);
    CHECK(net_gso_tcp4 == VIRTIO_NET_HDR_GSO_TCPV4);
    CHECK(net_gso_tcp6 == VIRTIO_NET_HDR_GSO_TCPV6);
    CHECK(net_gso_ecn == VIRTIO_NET_HDR_GSO_ECN);
    CHECK(net_link_up == VIRTIO_NET_S_LINK_UP);
    CHECK(net_announce == VIRTIO_NET_S_ANNOUNCE);
    CHECK(net_control_ok == VIRTIO_NET_OK);
    CHECK(net_control_error == VIRTIO_NET_ERR);
    CHECK(net_class_rx == VIRTIO_NET_CTRL_RX);
    CHECK(net_class_mac == VIRTIO_NET_CTRL_MAC);
    CHECK(net_class_vlan == VIRTIO_NET_CTRL_VLAN);
    CHECK(net_class_announce == VIRTIO_NET_CTRL_ANNOUNCE);
    CHECK(net_class_mq == VIRTIO_NET_CTRL_MQ);
    CHECK(net_class_offloads == VIRTIO_NET_CTRL_GUEST_OFFLOADS);
    CHECK(net_rx_promiscuous == VIRTIO_NET_CTRL_RX_PROMISC);
    CHECK(net_rx_all_multicast == VIRTIO_NET_CTRL_RX_ALLMULTI);
    CHECK(net_rx_all_unicast == VIRTIO_NET_CTRL_RX_ALLUNI);
    CHECK(net_rx_no_multicast == VIRTIO_NET_CTRL_RX_NOMULTI);
    CHECK(net_rx_no_unicast == VIRTIO_NET_CTRL_RX_NOUNI);
    CHECK(net_rx_no_broadcast == VIRTIO_NET_CTRL_RX_NOBCAST);
    CHECK(net_mac_table_set == VIRTIO_NET_CTRL_MAC_TABLE_SET);
    CHECK(net_mac_address_set == VIRTIO_NET_CTRL_MAC_ADDR_SET);
    CHECK(net_vlan_add == VIRTIO_NET_CTRL_VLAN_ADD);
    CHECK(net_vlan_remove == VIRTIO_NET_CTRL_VLAN_DEL);
    CHECK(net_announce_ack == VIRTIO_NET_CTRL_ANNOUNCE_ACK);
    CHECK(net_mq_pairs_set == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
    CHECK(net_offloads_set == VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET);
}
