// UnixVsock: the host's side of a VM's vsock as Unix sockets, and as descriptors within this
// process.
//
//   host to guest: a program connects to PATH (streams) or PATH_seqpacket and sends "CONNECT
//   <port>\n"; the
//                  answer is "OK <host port>\n", and from there on the socket is the connection.
//                  Without a listener in the guest it is closed.
//   guest to host: a connection to port N of CID 2 becomes one to PATH_N, where a program listens
//   with a
//                  socket of the guest's type. Without one the guest is refused.
//   in-process:    connect_to_guest() with one end of a socket pair, serve() for ports of the host.
//
// All on the event loop's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "virtio/backend/unique_fd.hpp"
#include "virtio/backend/vsock/broker.hpp"
#include "virtio/backend/vsock/channel.hpp"

namespace virtio {

class UnixVsock final : public VsockBackend {
public:
    // Connections that have not said where to yet; the oldest makes way for a new one.
    static constexpr std::size_t max_handshakes = 64;

    explicit UnixVsock(EventLoop& loop) : loop_(loop) {}
    UnixVsock(const UnixVsock&) = delete;
    UnixVsock& operator=(const UnixVsock&) = delete;
    ~UnixVsock() override;

    // Before the loop runs. The broker's socket is SOCK_SEQPACKET.
    base::Result<void, HostError> listen(UniqueFd listener, VsockType type);
    base::Result<void, HostError> use_broker(UniqueFd broker);

    // A connection from here to a port of the guest: the guest's end is what is sent and received
    // on the other end of this socket. `done` hears the host's port, or 0.
    void connect_to_guest(std::uint32_t guest_port, VsockType type, UniqueFd socket,
                          std::function<void(std::uint32_t host_port)> done);
    // The guest's connections to this port of the host come here in place of PATH_N: the service
    // makes a socket pair, keeps one end and returns the other, or nothing to refuse.
    using Service = std::function<UniqueFd(VsockType type)>;
    void serve(std::uint32_t host_port, Service service) {
        services_[host_port] = std::move(service);
    }

    // --- for the device
    void attach(VsockHost& host) override { host_ = &host; }
    void connect(std::uint32_t host_port, VsockType type,
                 std::function<void(std::unique_ptr<VsockChannel>)> done) override;
    void room_again() override;

private:
    struct Listener {
        UniqueFd socket;
        VsockType type;
        bool watched = false;
    };
    struct Handshake {
        UniqueFd socket;
        VsockType type;
        std::string line; // what came of it so far
    };
    using Handshakes = std::list<Handshake>;

    void watch(Listener& listener);
    void accept(Listener& listener);
    void pause(Listener& listener);
    void hear(Handshakes::iterator which);
    void forget(Handshakes::iterator which);
    void open(Handshakes::iterator which, std::uint32_t port);
    void send_requests();
    void hear_broker();
    void broker_gone();

    EventLoop& loop_;
    VsockHost* host_ = nullptr;
    std::vector<std::unique_ptr<Listener>> listeners_;
    Handshakes handshakes_;
    UniqueFd broker_;
    std::uint64_t next_serial_ = 1;
    std::deque<BrokerRequest> requests_; // not yet sent
    std::map<std::uint64_t, std::function<void(std::unique_ptr<VsockChannel>)>> asked_;
    std::map<std::uint32_t, Service> services_;
};

} // namespace virtio
