// Raw, ping and packet sockets: raw(7), icmp(7), packet(7).
#pragma once

#include "guestkernel/net/datagram.hpp"
#include "guestkernel/net/raw.hpp"

namespace kernel::net {

class RawSocketEndpoint final : public DatagramEndpoint, public RawEndpoint {
public:
    explicit RawSocketEndpoint(Ref<Stack> stack) : DatagramEndpoint(std::move(stack)) {}
    bool try_hold() override { return try_add_ref(); }
    void let_go() override { release(); }
    void deliver(PacketPtr packet, const IpInfo& info) override;
    void notify(const IcmpNotice& notice) override;

    bool ping = false;
    u32 uid = 0;                 // of the maker
    volatile u16 identifier = 0; // of a ping socket, host order
    RawSocketEndpoint* next_ping = nullptr;
    volatile bool wants_errors = false; // IP_RECVERR
    volatile bool connected = false;
    base::Atomic<u64> icmp_filter[4] = {}; // ICMP_FILTER, ICMP6_FILTER: types that are blocked
    volatile i32 checksum_at = -1;         // IPV6_CHECKSUM
};

class RawSocketFile final : public DatagramSocketFile {
public:
    RawSocketFile(Ref<Inode> inode, u32 flags, int family, int type, int protocol,
                  Ref<NetNamespace> space, Ref<RawSocketEndpoint> endpoint);
    ~RawSocketFile() override;
    Result<void> bind(const SocketAddress& address) override;
    Result<void> connect(const SocketAddress& address) override;
    Result<void> shutdown(u32 how) override;
    Result<void> local_address(SocketAddress& out) override;
    Result<void> peer_address(SocketAddress& out) override;
    Result<usize> send(IoBuffer& in, SendRequest& request) override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;
    RawSocketEndpoint& endpoint() const { return static_cast<RawSocketEndpoint&>(*endpoint_); }

private:
    void option_changed() override;
    Result<void> send_with_header(Flow& flow, PacketPtr packet);
    Result<void> output_raw(Flow& flow, PacketPtr packet);
    Result<void> prepare_ping(Packet& packet, const Flow& flow);
    Result<void> finish_checksum(Packet& packet, const Flow& flow);
    u32 peer_scope_ = 0;
};

// Identifiers of ping sockets, per stack. claim: EADDRINUSE; 0 picks one, unless it has one
// already.
Result<void> claim_ping(Stack& stack, RawSocketEndpoint& endpoint, u16 wanted);
void release_ping(Stack& stack, RawSocketEndpoint& endpoint);
RawSocketEndpoint* find_ping(Stack& stack, bool v6, u16 identifier); // held

Result<Ref<SocketFile>> make_raw_socket(Ref<NetNamespace> space, int family, int protocol,
                                        u32 flags);
Result<Ref<SocketFile>> make_ping_socket(Ref<NetNamespace> space, int family, u32 flags);
Result<Ref<SocketFile>> make_packet_socket(int type, int protocol, u32 flags);

} // namespace kernel::net
