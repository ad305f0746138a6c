// UDP: RFC 768, udp(7); UDP-Lite: RFC 3828, udplite(7).
#pragma once

#include "guestkernel/net/datagram.hpp"

namespace kernel::net {

class UdpEndpoint final : public DatagramEndpoint, public PortOwner {
public:
    explicit UdpEndpoint(Ref<Stack> stack) : DatagramEndpoint(std::move(stack)) {}
    bool try_hold() override { return try_add_ref(); }
    // A datagram for it: the data begin with the UDP header.
    void deliver(PacketPtr packet, const DatagramInfo& info);

    // What the input path needs to know of the options; plain words, written by the owner.
    volatile bool receive_segments = false; // UDP_GRO
    volatile bool wants_errors4 = false, wants_errors6 = false;
    volatile bool discovers_mtu = true;
    volatile u8 min_ttl = 0;
    // Of UDP-Lite: how many bytes of a datagram the sum is over (0: all), how many it has to be
    // over at least; 0 or 8 and more, the header's.
    volatile u16 send_coverage = 0, least_coverage = 0;
    // Kept from one send to the next; under the lock.
    Destination path;
    IpAddress path_to;
};

class UdpSocketFile final : public DatagramSocketFile {
public:
    UdpSocketFile(Ref<Inode> inode, u32 flags, int family, int protocol, Ref<NetNamespace> space,
                  Ref<UdpEndpoint> endpoint);
    ~UdpSocketFile() override;

    Result<void> bind(const SocketAddress& address) override;
    Result<void> connect(const SocketAddress& address) override;
    Result<void> shutdown(u32 how) override;
    Result<void> local_address(SocketAddress& out) override;
    Result<void> peer_address(SocketAddress& out) override;
    Result<usize> send(IoBuffer& in, SendRequest& request) override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;
    UdpEndpoint& endpoint() const { return static_cast<UdpEndpoint&>(*endpoint_); }

private:
    void option_changed() override;
    bool is_bound() const override { return endpoint().port != 0; }
    u32 connected_mtu() override;
    Result<IpAddress> connected_peer() const override;
    Result<void> become_v4() override;
    void add_more_control(const Packet& packet, ReceiveRequest& request) override;
    Result<void> bind_port(const IpAddress& address, u16 port);
    Result<void> autobind();
    Result<void> set_chooser(Ref<SocketFilter> chooser);
    Result<Endpoint> target(const SendRequest& request);
    Result<usize> send_one(IoBuffer& in, usize bytes, SendRequest& request);
    Result<void> transmit(Flow& flow, PacketPtr packet, u16 segment);
    Result<void> transmit_lite(Flow& flow, PacketPtr packet);
    bool lite() const { return endpoint().lite; }
    Result<void> take_source(Flow& flow) const;
    Result<void> check_given_source(const SendControl& control, const Flow& flow) const;
    Result<void> start_cork(IoBuffer& in, usize bytes, SendRequest& request);
    Result<usize> add_to_cork(IoBuffer& in, usize bytes, SendRequest& request);
    Result<void> uncork();
    void take_path(Flow& flow);
    void keep_path(const Flow& flow);

    Mutex bind_mutex_;
    IpAddress bound_local_; // what bind(2) set, while connected
    u32 peer_scope_ = 0;
    bool corked_ = false;       // UDP_CORK
    bool encapsulates_ = false; // UDP_ENCAP
    u16 segment_size_ = 0;
    bool no_check6_send_ = false, no_check6_receive_ = false;
    // A datagram that is put together by several calls.
    Mutex cork_mutex_;
    PacketPtr pending_;
    Flow pending_flow_;
    SendControl pending_control_; // whose headers the flow has
};

// `protocol`: UDP or UDP-Lite.
Result<Ref<SocketFile>> make_udp_socket(Ref<NetNamespace> space, int family, int protocol,
                                        u32 flags);

} // namespace kernel::net
