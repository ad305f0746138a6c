#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <poll.h>
#include <string>
#include <thread>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/un.h>

#include <catch2/catch.hpp>

#include "virtio/backend/vsock/unix_vsock.hpp"
#include "virtio/testing/poll_loop.hpp"
#include "virtio/testing/vsock_guest.hpp"

using namespace virtio;
using virtio::testing::FakeRam;
using virtio::testing::PollLoop;
using virtio::testing::VsockGuest;
using virtio::testing::VsockMessage;

namespace {

sockaddr_un address_of(const std::string& path) {
    sockaddr_un out{};
    out.sun_family = AF_UNIX;
    REQUIRE(path.size() < sizeof out.sun_path);
    path.copy(out.sun_path, sizeof out.sun_path - 1);
    return out;
}

UniqueFd connect_to(const std::string& path, int type = SOCK_STREAM) {
    UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    const sockaddr_un address = address_of(path);
    REQUIRE(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
            0);
    return socket;
}

UniqueFd listen_at(const std::string& path, int type = SOCK_STREAM) {
    UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    const sockaddr_un address = address_of(path);
    REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(socket.get(), 16) == 0);
    return socket;
}

bool readable(int fd) {
    struct pollfd watched {
        fd, POLLIN, 0
    };
    return ::poll(&watched, 1, 10'000) == 1;
}

std::string read_some(int fd) {
    char text[4096];
    const ssize_t got = ::recv(fd, text, sizeof text, MSG_DONTWAIT);
    return {text, got > 0 ? static_cast<std::size_t>(got) : 0};
}

bool closed(int fd) {
    char byte = 0;
    return ::recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

// The whole of the host's side: paths in a directory of the test's own, a broker on a thread.
struct Host {
    Host() {
        ::signal(SIGPIPE, SIG_IGN);
        char name[] = "/tmp/joey-vsock-test-XXXXXX";
        directory = ::mkdtemp(name);
        path = directory + "/vm";
        for (const VsockType type : {VsockType::Stream, VsockType::SeqPacket}) {
            auto listener = listen_for_vsock(
                type == VsockType::Stream ? path : path + vsock_seqpacket_suffix, type);
            REQUIRE(listener);
            REQUIRE(backend.listen(std::move(listener->socket), type));
            listeners.push_back(std::move(*listener));
        }
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
        REQUIRE(backend.use_broker(UniqueFd(ends[0])));
        broker_client = ends[0];
        broker = std::thread(
            [this, end = UniqueFd(ends[1])] { serve_as_vsock_broker(end.get(), path, listeners); });
        guest.post();
    }
    ~Host() {
        stop_broker();
        std::filesystem::remove_all(directory);
    }
    void stop_broker() {
        if (!broker.joinable())
            return;
        ::shutdown(broker_client, SHUT_RDWR);
        broker.join();
    }
    std::optional<VsockMessage> receive() {
        loop.settle();
        guest.post();
        loop.settle();
        return guest.receive();
    }
    // The broker answers when it does.
    VsockMessage wait_for_packet() {
        for (;;) {
            if (auto message = receive())
                return std::move(*message);
            REQUIRE(readable(broker_client));
        }
    }

    std::string directory, path;
    PollLoop loop;
    UnixVsock backend{loop};
    FakeRam ram{std::size_t{8} << 20};
    Vsock device{loop, VsockGuest::cid, backend};
    VsockGuest guest{device, ram};
    std::vector<VsockListener> listeners;
    int broker_client = -1;
    std::thread broker;
};

virtio_vsock_hdr answer_to(const virtio_vsock_hdr& from, std::uint16_t op) {
    auto out = VsockGuest::header(from.dst_port, from.src_port, op);
    out.type = from.type;
    return out;
}

} // namespace

TEST_CASE("unix vsock: a program connects to the guest by CONNECT, whole or in pieces") {
    const bool in_pieces = GENERATE(false, true);
    Host host;
    const UniqueFd program = connect_to(host.path);
    if (in_pieces) {
        for (const char byte : std::string("CONNECT 52\n")) {
            CHECK_FALSE(host.receive());
            REQUIRE(::send(program.get(), &byte, 1, 0) == 1);
        }
    } else {
        REQUIRE(::send(program.get(), "CONNECT 52\nand more", 19, 0) == 19);
    }
    auto request = host.receive();
    REQUIRE(request);
    CHECK(request->header.op == VIRTIO_VSOCK_OP_REQUEST);
    CHECK(request->header.dst_port == 52);
    host.guest.send(answer_to(request->header, VIRTIO_VSOCK_OP_RESPONSE));
    host.loop.settle();
    CHECK(read_some(program.get()) == "OK " + std::to_string(request->header.src_port) + "\n");
    if (!in_pieces)
        CHECK(host.receive()->payload == "and more");
    host.guest.send(answer_to(request->header, VIRTIO_VSOCK_OP_RW), "hello");
    host.loop.settle();
    CHECK(read_some(program.get()) == "hello");
}

TEST_CASE("unix vsock: what is no CONNECT is closed, and so is a connection that is refused") {
    Host host;
    const std::string what = GENERATE("GET / HTTP/1.1\n", "CONNECT \n", "CONNECT 5x\n",
                                      "CONNECT 99999999999\n", "CONNECT -1\n", "connect 5\n", "\n",
                                      "CONNECT 00000000000000000000000000000000005");
    const UniqueFd program = connect_to(host.path);
    REQUIRE(::send(program.get(), what.data(), what.size(), 0) ==
            static_cast<ssize_t>(what.size()));
    CHECK_FALSE(host.receive());
    char byte = 0;
    CHECK(::recv(program.get(), &byte, 1, MSG_DONTWAIT) <= 0);
    CHECK(errno != EAGAIN);

    const UniqueFd second = connect_to(host.path);
    REQUIRE(::send(second.get(), "CONNECT 52\r\n", 12, 0) == 12);
    host.guest.send(answer_to(host.receive()->header, VIRTIO_VSOCK_OP_RST));
    host.loop.settle();
    CHECK(closed(second.get()));
    CHECK(host.device.stream_count() == 0);
}

TEST_CASE("unix vsock: those who connect and say nothing make way for others") {
    Host host;
    std::vector<UniqueFd> silent;
    for (std::size_t i = 0; i < UnixVsock::max_handshakes + 3; ++i) {
        silent.push_back(connect_to(host.path));
        host.loop.settle();
    }
    CHECK(closed(silent[0].get()));
    CHECK(closed(silent[2].get()));
    CHECK_FALSE(closed(silent[3].get()));
    REQUIRE(::send(silent.back().get(), "CONNECT 52\n", 11, 0) == 11);
    CHECK(host.receive()->header.dst_port == 52);
}

TEST_CASE("unix vsock: the guest connects to the program that listens at PATH_N") {
    Host host;
    const bool seqpacket = GENERATE(false, true);
    const std::uint16_t type = seqpacket ? VIRTIO_VSOCK_TYPE_SEQPACKET : VIRTIO_VSOCK_TYPE_STREAM;
    const UniqueFd listener =
        listen_at(host.path + "_7000", seqpacket ? SOCK_SEQPACKET : SOCK_STREAM);
    host.guest.send(VsockGuest::header(80, 7000, VIRTIO_VSOCK_OP_REQUEST, 0, type));
    CHECK(host.wait_for_packet().header.op == VIRTIO_VSOCK_OP_RESPONSE);
    const UniqueFd program(::accept(listener.get(), nullptr, nullptr));
    REQUIRE(program.get() >= 0);
    host.guest.send(VsockGuest::header(80, 7000, VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_SEQ_EOM, type),
                    "to you");
    host.loop.settle();
    CHECK(read_some(program.get()) == "to you");
    if (seqpacket) // of each message that was taken
        CHECK(host.receive()->header.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    REQUIRE(::send(program.get(), "to me", 5, 0) == 5);
    CHECK(host.receive()->payload == "to me");

    // Nobody there, and a listener of the other kind.
    host.guest.send(VsockGuest::header(81, 7001, VIRTIO_VSOCK_OP_REQUEST, 0, type));
    CHECK(host.wait_for_packet().header.op == VIRTIO_VSOCK_OP_RST);
    const std::uint16_t other = seqpacket ? VIRTIO_VSOCK_TYPE_STREAM : VIRTIO_VSOCK_TYPE_SEQPACKET;
    host.guest.send(VsockGuest::header(82, 7000, VIRTIO_VSOCK_OP_REQUEST, 0, other));
    CHECK(host.wait_for_packet().header.op == VIRTIO_VSOCK_OP_RST);
}

TEST_CASE("unix vsock: without its broker the guest is refused, and programs still connect") {
    Host host;
    host.stop_broker();
    host.guest.send(VsockGuest::header(80, 7000, VIRTIO_VSOCK_OP_REQUEST));
    CHECK(host.wait_for_packet().header.op == VIRTIO_VSOCK_OP_RST);
    host.guest.send(VsockGuest::header(81, 7000, VIRTIO_VSOCK_OP_REQUEST));
    CHECK(host.receive()->header.op == VIRTIO_VSOCK_OP_RST);
}

TEST_CASE("unix vsock: the broker removes the listening sockets, and only its own") {
    std::string other;
    Host host;
    CHECK(std::filesystem::exists(host.path));
    CHECK(listen_for_vsock(host.path, VsockType::Stream).error().code == EADDRINUSE);
    std::filesystem::remove(host.path + vsock_seqpacket_suffix);
    const UniqueFd successor = listen_at(host.path + vsock_seqpacket_suffix, SOCK_SEQPACKET);
    host.stop_broker();
    CHECK_FALSE(std::filesystem::exists(host.path));
    CHECK(std::filesystem::exists(host.path + vsock_seqpacket_suffix));
}

TEST_CASE("unix vsock: connections within the process need no path") {
    Host host;
    UniqueFd served;
    host.backend.serve(9, [&](VsockType type) {
        CHECK(type == VsockType::Stream);
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        served = UniqueFd(ends[0]);
        return UniqueFd(ends[1]);
    });
    host.guest.send(VsockGuest::header(80, 9, VIRTIO_VSOCK_OP_REQUEST));
    CHECK(host.receive()->header.op == VIRTIO_VSOCK_OP_RESPONSE);
    host.guest.send(VsockGuest::header(80, 9, VIRTIO_VSOCK_OP_RW), "inside");
    CHECK(read_some(served.get()) == "inside");

    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    const UniqueFd own(ends[0]);
    std::uint32_t port = 1;
    host.backend.connect_to_guest(1024, VsockType::Stream, UniqueFd(ends[1]),
                                  [&](std::uint32_t host_port) { port = host_port; });
    const auto request = host.receive();
    REQUIRE(request);
    host.guest.send(answer_to(request->header, VIRTIO_VSOCK_OP_RESPONSE));
    host.loop.settle();
    CHECK(port == request->header.src_port);
    REQUIRE(::send(own.get(), "no line before", 14, 0) == 14);
    CHECK(host.receive()->payload == "no line before");
}
