// AF_NETLINK's files: what the calls of socket(7) do with an endpoint. netlink(7).
#pragma once

#include "guestkernel/net/netlink/endpoint.hpp"

namespace kernel::net::netlink {

inline constexpr int family_netlink = 16; // AF_NETLINK

class NetlinkSocketFile final : public SocketFile {
public:
    NetlinkSocketFile(Ref<Inode> inode, u32 flags, int type, Ref<NetNamespace> space,
                      Ref<Endpoint> endpoint);
    ~NetlinkSocketFile() override;

    Result<void> bind(const SocketAddress& address) override;
    Result<void> connect(const SocketAddress& address) override;
    Result<void> local_address(SocketAddress& out) override;
    Result<void> peer_address(SocketAddress& out) override;
    Result<usize> send(IoBuffer& in, SendRequest& request) override;
    Result<usize> receive(IoBuffer& out, ReceiveRequest& request) override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    u32 poll(PollTable* table) override;
    int take_error() override { return endpoint_->error.exchange(0); }
    void buffers_changed() override;
    void memory_use(SocketMemory& out) const override;
    const kernel::NetNamespace* home() const override { return space_.get(); }
    Endpoint& endpoint() const { return *endpoint_; }
    const Ref<NetNamespace>& network_namespace() const { return space_; }

private:
    bool may_administer() const;
    bool kernel_listens() const;
    Result<void> autobind();
    Result<void> send_to_port(u32 port, std::span<const u8> bytes, const SendRequest& request,
                              SocketCredentials credentials);
    Result<QueuedMessage*> wait_for_message(u32 msg_flags, usize wanted);
    Result<void> change_membership(u32 group, bool join);

    const Ref<NetNamespace> space_; // keeps it, as any socket does
    const Ref<Endpoint> endpoint_;
};

// Registers AF_NETLINK and its protocols. At boot.
void start_netlink();
void register_netlink_protocols(); // alone, for tests
extern const SocketFamily netlink_family;

} // namespace kernel::net::netlink
