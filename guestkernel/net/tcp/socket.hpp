// The file of a TCP socket: socket(7), tcp(7), ip(7).
//
// Locks, outermost first: `send_mutex_` or `receive_mutex_` (sleeping; user copies happen under
// them; never held while waiting for the peer), the listener's lock, the connection's lock.
#pragma once

#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/tcp/listener.hpp"

namespace kernel::tcp {

class TcpSocket final : public net::InetSocketFile {
public:
    TcpSocket(Ref<Inode> inode, u32 flags, int family, Ref<NetNamespace> space);
    ~TcpSocket() override;
    // A connection of its own, still closed: ENOMEM.
    Result<void> init();

    Result<void> bind(const SocketAddress& address) override;
    Result<void> connect(const SocketAddress& address) override;
    Result<void> listen(int backlog) override;
    Result<Ref<SocketFile>> accept(u32 file_flags, bool non_blocking) override;
    Result<void> shutdown(u32 how) override;
    Result<void> local_address(SocketAddress& out) override;
    Result<void> peer_address(SocketAddress& out) override;
    Result<void> accepted_address(SocketAddress& out) override;
    Result<usize> send(IoBuffer& in, SendRequest& request) override;
    Result<usize> receive(IoBuffer& out, ReceiveRequest& request) override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    u32 poll(PollTable* table) override;
    bool listening() const override;
    int take_error() override;
    void buffers_changed() override;
    void memory_use(SocketMemory& out) const override;
    void socket_option_changed() override { option_changed(); }

    Connection& connection() { return *connection_; }

protected:
    void option_changed() override;
    bool is_bound() const override { return connection_->port != 0; }
    u32 connected_mtu() override;
    Result<net::IpAddress> connected_peer() const override;
    Result<void> become_v4() override;

private:
    enum class Progress : u8 { Unconnected, Connecting, Connected };

    // --- socket.cpp
    void adopt(Ref<Connection> connection);
    Result<void> bind_port(const net::Endpoint& where);
    Result<void> start_connect(const net::Endpoint& to, bool fast_open);
    Result<void> choose_port(Pair& pair);
    Result<void> enter_table(Ref<Entry>& other);
    Result<void> finish_connect(int on_timeout);
    void return_names();
    void apply_options();
    void pass_to_listener();
    void take_over_buffers();
    void linger();
    // --- transfer.cpp
    Result<usize> send_all(IoBuffer& in, u32 flags, usize& done);
    Result<void> send_some(IoBuffer& in, u32 flags, usize& done);
    Result<void> check_sendable();
    Result<void> wait_for_space(u32 flags, u64 deadline);
    Result<void> send_fast_open(IoBuffer& in, const SendRequest& request, usize& done);
    Result<usize> receive_stream(IoBuffer& out, ReceiveRequest& request);
    Result<usize> receive_completions(ReceiveRequest& request);
    void count_zero_copy();
    Result<usize> receive_urgent(IoBuffer& out, ReceiveRequest& request);
    Result<usize> drain(IoBuffer& out, u32 flags, bool& at_mark);
    Result<usize> peek(IoBuffer& out, u32 flags, usize skip);
    Result<bool> may_wait_for_data(u32 flags);
    usize pass_urgent(Sequence at, usize piece, bool& skip, bool& stop);
    // --- socket.cpp
    void disconnect();
    // --- options.cpp
    Result<void> set_chooser(Ref<net::SocketFilter> chooser);
    Result<void> set_tcp_option(int name, std::span<const u8> value);
    Result<void> set_number(int name, int value);
    Result<void> set_fast_open(int name, int value);
    Result<usize> get_tcp_option(int name, std::span<u8> out);
    Result<usize> take_saved_syn(std::span<u8> out);

    Ref<Connection> connection_;
    Progress progress_ = Progress::Unconnected;
    net::IpAddress bound_address_; // by bind(2); any: connect(2) chooses
    Mutex send_mutex_, receive_mutex_;
    // Under receive_mutex_: packets taken from the connection, and what of the first was read.
    net::PacketList reading_;
    u32 reading_offset_ = 0;
    bool tell_readable_ = false; // TCP_INQ
    // SO_ZEROCOPY; sends that asked for it are numbered, and those from `told` on are to be told
    // of. Under the connection's lock.
    bool zero_copy_ = false;
    volatile u32 zero_copy_told_ = 0, zero_copy_next_ = 0;
};

// For net::set_stream_sockets(). At boot.
Result<Ref<SocketFile>> make_tcp_socket(Ref<NetNamespace> space, int family, u32 flags);

} // namespace kernel::tcp
