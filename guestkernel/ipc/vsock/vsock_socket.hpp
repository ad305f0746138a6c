// AF_VSOCK's files: what the calls of socket(7) do with an endpoint. vsock(7).
#pragma once

#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/ipc/vsock/endpoint.hpp"

namespace kernel {

inline constexpr int family_vsock = 40; // AF_VSOCK

class VsockSocketFile final : public SocketFile {
public:
    VsockSocketFile(Ref<Inode> inode, u32 flags, int type, Ref<VsockEndpoint> endpoint);
    ~VsockSocketFile() override;

    Result<void> bind(const SocketAddress& address) override;
    Result<void> connect(const SocketAddress& address) override;
    Result<void> listen(int backlog) override;
    Result<Ref<SocketFile>> accept(u32 file_flags, bool non_blocking) override;
    Result<void> shutdown(u32 how) override;
    Result<void> local_address(SocketAddress& out) override;
    Result<void> peer_address(SocketAddress& out) override;
    Result<usize> send(IoBuffer& in, SendRequest& request) override;
    Result<usize> receive(IoBuffer& out, ReceiveRequest& request) override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    u32 poll(PollTable* table) override;
    bool listening() const override { return endpoint_->state == VsockState::Listening; }
    int take_error() override;

private:
    Result<void> begin_connecting(VsockAddress to);
    Result<void> wait_until_connected();
    Result<void> check_sendable() const;
    Result<usize> wait_for_room(u32 msg_flags, u64 deadline);
    Result<usize> send_piece(IoBuffer& in, u32 last_flags);
    Result<usize> send_all(IoBuffer& in, SendRequest& request);
    Result<void> begin_message(usize bytes, u32 msg_flags, u64 deadline);
    Result<void> wait_for_data(u32 msg_flags, u64 deadline);
    Result<usize> receive_stream(IoBuffer& out, ReceiveRequest& request);
    Result<usize> receive_message(IoBuffer& out, ReceiveRequest& request);

    Ref<VsockEndpoint> endpoint_;
};

// At boot: the family, /dev/vsock (no device is needed: the loopback is always there).
void init_vsock();
extern const SocketFamily vsock_family;

} // namespace kernel
