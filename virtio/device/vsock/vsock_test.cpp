#include <csignal>
#include <fcntl.h>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unistd.h>

#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "virtio/backend/vsock/fd_channel.hpp"
#include "virtio/device/vsock/vsock.hpp"
#include "virtio/testing/poll_loop.hpp"
#include "virtio/testing/vsock_guest.hpp"

using namespace virtio;
using virtio::testing::FakeRam;
using virtio::testing::PollLoop;
using virtio::testing::VsockGuest;
using virtio::testing::VsockMessage;

namespace {

constexpr std::uint32_t port = 1234;
constexpr std::uint16_t packets = VIRTIO_VSOCK_TYPE_SEQPACKET;

struct SocketPair {
    explicit SocketPair(int type = SOCK_STREAM) {
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0);
        device = UniqueFd(ends[0]);
        program = UniqueFd(ends[1]);
    }
    UniqueFd device, program;
};

// Answers connections of the guest with socket pairs, at once or when told to.
class TestBackend final : public VsockBackend {
public:
    explicit TestBackend(EventLoop& loop) : loop_(loop) {}
    void attach(VsockHost& host) override { host_ = &host; }
    void connect(std::uint32_t host_port, VsockType type,
                 std::function<void(std::unique_ptr<VsockChannel>)> done) override {
        if (!listening.contains(host_port))
            return done(nullptr);
        if (later)
            waiting.push_back(std::move(done));
        else
            answer(done, type);
    }
    void room_again() override { ++rooms; }

    void answer(const std::function<void(std::unique_ptr<VsockChannel>)>& done, VsockType type) {
        SocketPair pair(type == VsockType::Stream ? SOCK_STREAM : SOCK_SEQPACKET);
        programs.push_back(std::move(pair.program));
        done(std::make_unique<FdChannel>(loop_, std::move(pair.device)));
    }
    // A program of the host connects to a port of the guest.
    UniqueFd open(std::uint32_t guest_port, VsockType type = VsockType::Stream) {
        SocketPair pair(type == VsockType::Stream ? SOCK_STREAM : SOCK_SEQPACKET);
        host_->open(guest_port, type, std::make_unique<FdChannel>(loop_, std::move(pair.device)),
                    [this](std::uint32_t host_port) { opened.push_back(host_port); });
        return std::move(pair.program);
    }

    std::set<std::uint32_t> listening{port};
    bool later = false;
    std::vector<std::function<void(std::unique_ptr<VsockChannel>)>> waiting;
    std::vector<UniqueFd> programs;
    std::vector<std::uint32_t> opened;
    unsigned rooms = 0;

private:
    EventLoop& loop_;
    VsockHost* host_ = nullptr;
};

struct Fixture {
    Fixture() {
        ::signal(SIGPIPE, SIG_IGN);
        REQUIRE(guest.started());
        guest.post();
    }
    // What the host sent, buffers posted anew.
    std::optional<VsockMessage> receive() {
        loop.settle();
        guest.post();
        loop.settle();
        return guest.receive();
    }
    VsockMessage expect(std::uint16_t op) {
        for (;;) {
            auto message = receive();
            REQUIRE(message);
            if (message->header.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE && op != message->header.op)
                continue;
            CHECK(message->header.op == op);
            CHECK(message->header.src_cid == VMADDR_CID_HOST);
            CHECK(message->header.dst_cid == VsockGuest::cid);
            return std::move(*message);
        }
    }
    void connect(std::uint32_t guest_port, std::uint16_t type = VIRTIO_VSOCK_TYPE_STREAM) {
        guest.send(VsockGuest::header(guest_port, port, VIRTIO_VSOCK_OP_REQUEST, 0, type));
        const VsockMessage answer = expect(VIRTIO_VSOCK_OP_RESPONSE);
        CHECK(answer.header.dst_port == guest_port);
        CHECK(answer.header.src_port == port);
        CHECK(answer.header.buf_alloc >= Vsock::smallest_buffer);
    }
    void send(std::uint32_t guest_port, std::string_view text) {
        guest.send(VsockGuest::header(guest_port, port, VIRTIO_VSOCK_OP_RW), text);
    }

    PollLoop loop;
    FakeRam ram{std::size_t{8} << 20};
    TestBackend backend{loop};
    Vsock device{loop, VsockGuest::cid, backend};
    VsockGuest guest{device, ram};
};

std::string read_some(int fd, std::size_t most = 1 << 20) {
    std::string text(most, '\0');
    const ssize_t got = ::recv(fd, text.data(), text.size(), MSG_DONTWAIT);
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
}

bool at_end(int fd) {
    char byte = 0;
    return ::recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

void put(int fd, std::string_view text) {
    REQUIRE(::send(fd, text.data(), text.size(), MSG_DONTWAIT) ==
            static_cast<ssize_t>(text.size()));
}

} // namespace

TEST_CASE("vsock: the guest connects, and bytes go both ways") {
    Fixture f;
    f.connect(70);
    const int program = f.backend.programs[0].get();
    f.send(70, "hello");
    CHECK(read_some(program) == "hello");
    put(program, "answer");
    const VsockMessage message = f.expect(VIRTIO_VSOCK_OP_RW);
    CHECK(message.payload == "answer");
    CHECK(message.header.dst_port == 70);
    CHECK(message.header.fwd_cnt == 5);
    CHECK_FALSE(f.guest.driver().needs_reset());
}

TEST_CASE("vsock: a port without a listener, a strange CID and a strange type are refused") {
    Fixture f;
    f.guest.send(VsockGuest::header(70, 99, VIRTIO_VSOCK_OP_REQUEST));
    CHECK(f.expect(VIRTIO_VSOCK_OP_RST).header.src_port == 99);
    auto header = VsockGuest::header(70, port, VIRTIO_VSOCK_OP_REQUEST);
    header.dst_cid = 77;
    f.guest.send(header);
    auto answer = f.receive();
    REQUIRE(answer);
    CHECK(answer->header.op == VIRTIO_VSOCK_OP_RST);
    CHECK(answer->header.src_cid == 77);
    header = VsockGuest::header(70, port, VIRTIO_VSOCK_OP_REQUEST, 0, 9);
    f.guest.send(header);
    CHECK(f.expect(VIRTIO_VSOCK_OP_RST).header.type == 9);
    // From another guest: not even that.
    header = VsockGuest::header(70, port, VIRTIO_VSOCK_OP_REQUEST);
    header.src_cid = 77;
    f.guest.send(header);
    CHECK_FALSE(f.receive());
    // Data of no connection; a reset of none has no answer.
    f.guest.send(VsockGuest::header(5, port, VIRTIO_VSOCK_OP_RW), "x");
    f.expect(VIRTIO_VSOCK_OP_RST);
    f.guest.send(VsockGuest::header(5, port, VIRTIO_VSOCK_OP_RST));
    CHECK_FALSE(f.receive());
    CHECK(f.device.stream_count() == 0);
}

TEST_CASE("vsock: the host connects to the guest") {
    Fixture f;
    const UniqueFd program = f.backend.open(500);
    put(program.get(), "early"); // before the guest has answered
    const VsockMessage request = f.expect(VIRTIO_VSOCK_OP_REQUEST);
    CHECK(request.header.dst_port == 500);
    CHECK_FALSE(f.receive());
    const std::uint32_t host_port = request.header.src_port;
    f.guest.send(VsockGuest::header(500, host_port, VIRTIO_VSOCK_OP_RESPONSE));
    f.loop.settle();
    CHECK(f.backend.opened == std::vector<std::uint32_t>{host_port});
    CHECK(f.expect(VIRTIO_VSOCK_OP_RW).payload == "early");

    const UniqueFd refused = f.backend.open(501);
    const VsockMessage second = f.expect(VIRTIO_VSOCK_OP_REQUEST);
    f.guest.send(VsockGuest::header(501, second.header.src_port, VIRTIO_VSOCK_OP_RST));
    f.loop.settle();
    CHECK(f.backend.opened.back() == 0);
    CHECK(at_end(refused.get()));
    CHECK(f.device.stream_count() == 1);
}

TEST_CASE("vsock: a program that gives up before the guest has answered is forgotten") {
    Fixture f;
    UniqueFd program = f.backend.open(500);
    f.expect(VIRTIO_VSOCK_OP_REQUEST);
    program.reset();
    f.expect(VIRTIO_VSOCK_OP_RST);
    CHECK(f.backend.opened == std::vector<std::uint32_t>{0});
    CHECK(f.device.stream_count() == 0);
}

TEST_CASE("vsock: each direction ends by itself") {
    Fixture f;
    f.connect(70);
    const int program = f.backend.programs[0].get();
    f.send(70, "last");
    f.guest.send(
        VsockGuest::header(70, port, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND));
    CHECK(read_some(program) == "last");
    CHECK(at_end(program));
    put(program, "still here");
    CHECK(f.expect(VIRTIO_VSOCK_OP_RW).payload == "still here");
    ::shutdown(program, SHUT_WR);
    CHECK((f.expect(VIRTIO_VSOCK_OP_SHUTDOWN).header.flags & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0);
    f.guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_SHUTDOWN,
                                    VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV));
    f.expect(VIRTIO_VSOCK_OP_RST);
    CHECK(f.device.stream_count() == 0);
    CHECK(f.backend.rooms == 1);
}

TEST_CASE("vsock: what a program wrote before it died arrives before the end") {
    Fixture f;
    f.connect(70);
    put(f.backend.programs[0].get(), "testament");
    f.backend.programs.clear();
    std::string text;
    std::uint32_t flags = 0;
    while (const auto message = f.receive()) {
        if (message->header.op == VIRTIO_VSOCK_OP_RW)
            text += message->payload;
        if (message->header.op == VIRTIO_VSOCK_OP_SHUTDOWN)
            flags |= message->header.flags;
    }
    CHECK(text == "testament");
    CHECK(flags == (VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV));
    f.send(70, "to nobody"); // taken and thrown away
    f.guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_RST));
    f.loop.settle();
    CHECK(f.device.stream_count() == 0);
    CHECK(f.loop.watched() == 0);
}

TEST_CASE("vsock: a slow program holds the guest back by credit, and loses nothing") {
    Fixture f;
    f.guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_REQUEST));
    const std::uint32_t room = f.expect(VIRTIO_VSOCK_OP_RESPONSE).header.buf_alloc;
    const int program = f.backend.programs[0].get();
    std::uint32_t credit = room;
    std::uint32_t forwarded = 0;
    std::string sent, got;
    const auto note = [&] {
        while (const auto message = f.receive()) {
            credit += message->header.fwd_cnt - forwarded;
            forwarded = message->header.fwd_cnt;
        }
    };
    // Until nothing more fits: what the socket takes is credited again.
    for (unsigned i = 0; credit >= 10'000; ++i) {
        std::string block(10'000, static_cast<char>('a' + i % 26));
        f.send(70, block);
        sent += block;
        credit -= 10'000;
        note();
        REQUIRE(sent.size() < (8u << 20));
    }
    CHECK(sent.size() >= room);
    while (got.size() < sent.size()) {
        const std::string piece = read_some(program);
        REQUIRE(!piece.empty());
        got += piece;
        f.loop.settle();
    }
    CHECK(got == sent);
    note();
    CHECK(credit > room / 2);
    CHECK_FALSE(f.guest.driver().needs_reset());
}

TEST_CASE("vsock: who sends more than it has credit for is reset, alone") {
    Fixture f;
    f.connect(70);
    f.connect(71);
    std::string block(60'000, 'x');
    bool reset = false;
    for (unsigned i = 0; i < 40 && !reset; ++i) {
        f.send(70, block);
        while (const auto message = f.receive())
            reset = reset ||
                    (message->header.op == VIRTIO_VSOCK_OP_RST && message->header.dst_port == 70);
    }
    CHECK(reset);
    f.send(71, "fine");
    CHECK(read_some(f.backend.programs[1].get()) == "fine");
    CHECK_FALSE(f.guest.driver().needs_reset());
}

TEST_CASE("vsock: the guest gets no more than it has room for") {
    Fixture f;
    auto header = VsockGuest::header(70, port, VIRTIO_VSOCK_OP_REQUEST);
    header.buf_alloc = 100;
    f.guest.send(header);
    f.expect(VIRTIO_VSOCK_OP_RESPONSE);
    put(f.backend.programs[0].get(), std::string(250, 'y'));
    CHECK(f.expect(VIRTIO_VSOCK_OP_RW).payload.size() == 100);
    CHECK_FALSE(f.receive());
    header = VsockGuest::header(70, port, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    header.buf_alloc = 100;
    header.fwd_cnt = 60;
    f.guest.send(header);
    CHECK(f.expect(VIRTIO_VSOCK_OP_RW).payload.size() == 60);
    CHECK_FALSE(f.receive());
    header.fwd_cnt = 160;
    f.guest.send(header);
    CHECK(f.expect(VIRTIO_VSOCK_OP_RW).payload.size() == 90);
    f.guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_CREDIT_REQUEST));
    f.expect(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

TEST_CASE("vsock: streams that are always ready take turns") {
    Fixture f;
    f.connect(70);
    f.connect(71);
    for (const UniqueFd& program : f.backend.programs)
        put(program.get(), std::string(40'000, 'z'));
    std::map<std::uint32_t, int> packets_of;
    for (int i = 0; i < 8; ++i)
        ++packets_of[f.expect(VIRTIO_VSOCK_OP_RW).header.dst_port];
    CHECK(packets_of[70] == 4);
    CHECK(packets_of[71] == 4);
}

TEST_CASE("vsock: sequenced packets keep their boundaries") {
    Fixture f;
    f.connect(70, packets);
    const int program = f.backend.programs[0].get();
    const auto part = VsockGuest::header(70, port, VIRTIO_VSOCK_OP_RW, 0, packets);
    const auto end =
        VsockGuest::header(70, port, VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_SEQ_EOM, packets);
    f.guest.send(part, "one ");
    CHECK(read_some(program).empty());
    f.guest.send(end, "message");
    f.guest.send(end, "two");
    CHECK(read_some(program) == "one message");
    CHECK(read_some(program) == "two");

    const std::string large(10'000, 'p'); // more than a buffer of the guest holds
    put(program, large);
    put(program, "small");
    std::string got;
    for (;;) {
        const VsockMessage message = f.expect(VIRTIO_VSOCK_OP_RW);
        got += message.payload;
        if ((message.header.flags & VIRTIO_VSOCK_SEQ_EOM) != 0)
            break;
    }
    CHECK(got == large);
    CHECK(f.expect(VIRTIO_VSOCK_OP_RW).payload == "small");
    put(program, std::string(70'000, 'q')); // more than the guest could ever hold
    f.expect(VIRTIO_VSOCK_OP_RST);
}

TEST_CASE("vsock: a message that takes all of the room gets it, whatever came before") {
    Fixture f;
    f.guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_REQUEST, 0, packets));
    const std::uint32_t buffer = f.expect(VIRTIO_VSOCK_OP_RESPONSE).header.buf_alloc;
    const auto end =
        VsockGuest::header(70, port, VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_SEQ_EOM, packets);
    // Too little of a stream to be told of by itself.
    const std::uint32_t small = buffer / 8;
    f.guest.send(end, std::string(small, 's'));
    CHECK(f.expect(VIRTIO_VSOCK_OP_CREDIT_UPDATE).header.fwd_cnt == small);
}

TEST_CASE("vsock: a stream for a packet's connection, and a second request, break it off") {
    Fixture f;
    f.connect(70, packets);
    f.send(70, "a stream's");
    f.expect(VIRTIO_VSOCK_OP_RST);
    CHECK(at_end(f.backend.programs[0].get()));
    f.connect(71);
    f.guest.send(VsockGuest::header(71, port, VIRTIO_VSOCK_OP_REQUEST));
    f.expect(VIRTIO_VSOCK_OP_RST);
    CHECK(f.device.stream_count() == 0);
}

TEST_CASE("vsock: packets without a header, or shorter than they say, are the driver's fault") {
    const bool short_header = GENERATE(true, false);
    Fixture f;
    auto header = VsockGuest::header(70, port, VIRTIO_VSOCK_OP_RW);
    if (short_header) {
        f.guest.driver().ring(vsock_transmit_queue).offer({{f.ram.place("short"), 5}});
        f.guest.driver().notify(vsock_transmit_queue);
    } else {
        header.len = 0x1000'0000;
        f.guest.send_raw(header, "x");
    }
    CHECK(f.guest.driver().needs_reset());
}

TEST_CASE("vsock: a buffer too small for a header is the driver's fault") {
    PollLoop loop;
    FakeRam ram{std::size_t{8} << 20};
    TestBackend backend(loop);
    Vsock device(loop, VsockGuest::cid, backend);
    VsockGuest guest(device, ram);
    guest.post(20);
    guest.send(VsockGuest::header(70, 99, VIRTIO_VSOCK_OP_REQUEST));
    CHECK(guest.driver().needs_reset());
}

TEST_CASE("vsock: connections are bounded, and so is what they may fill") {
    Fixture f;
    std::uint64_t granted = 0;
    std::uint32_t guest_port = 1;
    for (; guest_port <= Vsock::max_streams; ++guest_port) {
        f.backend.later = true; // no sockets: the test has descriptors to spare for none of them
        f.guest.send(VsockGuest::header(guest_port, port, VIRTIO_VSOCK_OP_REQUEST));
    }
    CHECK(f.device.stream_count() == Vsock::max_streams);
    f.guest.send(VsockGuest::header(guest_port, port, VIRTIO_VSOCK_OP_REQUEST));
    f.expect(VIRTIO_VSOCK_OP_RST);
    for (const auto& done : f.backend.waiting)
        done(nullptr);
    while (const auto message = f.receive()) {
        CHECK(message->header.op == VIRTIO_VSOCK_OP_RST);
        granted += message->header.buf_alloc;
    }
    CHECK(granted <= Vsock::buffer_budget + Vsock::max_streams * Vsock::smallest_buffer);
    CHECK(f.device.stream_count() == 0);
    f.backend.later = false;
    f.connect(5);
}

TEST_CASE("vsock: without buffers of the guest, answers pile up to a bound and none is lost") {
    PollLoop loop;
    FakeRam ram{std::size_t{8} << 20};
    TestBackend backend(loop);
    Vsock device(loop, VsockGuest::cid, backend);
    VsockGuest guest(device, ram);
    unsigned offered = 0;
    for (; offered < 64 + 20; ++offered) {
        // Beyond the bound packets stay in the ring: its descriptors are what the guest has left.
        guest.send(VsockGuest::header(1 + offered, 99, VIRTIO_VSOCK_OP_REQUEST));
    }
    unsigned refused = 0;
    for (int turn = 0; turn < 10; ++turn) {
        guest.post();
        loop.settle();
        while (const auto message = guest.receive())
            refused += message->header.op == VIRTIO_VSOCK_OP_RST ? 1 : 0;
    }
    CHECK(refused == offered);
}

TEST_CASE("vsock: packets behind as many answers as may pile up are looked at, too") {
    // All the answers find room at once, so that nothing of the guest's brings the device back.
    Fixture f;
    f.loop.settle();
    for (unsigned i = 0; i < VsockGuest::ring_size; ++i)
        f.guest.offer_raw(VsockGuest::header(1 + i, 99, VIRTIO_VSOCK_OP_RW));
    f.guest.driver().notify(vsock_transmit_queue);
    f.loop.settle();
    REQUIRE(f.guest.room_to_send());
    f.guest.send(VsockGuest::header(500, 99, VIRTIO_VSOCK_OP_RW));
    unsigned refused = 0;
    for (unsigned i = 0; i <= VsockGuest::ring_size; ++i)
        refused += f.receive() ? 1 : 0;
    CHECK(refused == VsockGuest::ring_size + 1);
}

TEST_CASE("vsock: the guest may change its mind while the host is being reached") {
    Fixture f;
    f.backend.later = true;
    f.guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_REQUEST));
    f.guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_RST));
    f.loop.settle();
    CHECK(f.device.stream_count() == 0);
    f.guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_REQUEST)); // and again
    REQUIRE(f.backend.waiting.size() == 2);
    f.backend.answer(f.backend.waiting[0], VsockType::Stream); // of the first: too late
    CHECK_FALSE(f.receive());
    f.backend.answer(f.backend.waiting[1], VsockType::Stream);
    f.expect(VIRTIO_VSOCK_OP_RESPONSE);
    CHECK(at_end(f.backend.programs[0].get()));
}

TEST_CASE(
    "vsock: a guest that asks and gives up, over and over, leaves no more than streams may be") {
    Fixture f;
    f.backend.later = true;
    for (std::uint32_t i = 0; i < 2 * Vsock::max_streams; ++i) {
        f.guest.send(VsockGuest::header(1 + i, port, VIRTIO_VSOCK_OP_REQUEST));
        f.guest.send(VsockGuest::header(1 + i, port, VIRTIO_VSOCK_OP_RST));
        while (f.receive()) {
        }
    }
    CHECK(f.device.stream_count() == 0);
    CHECK(f.backend.waiting.size() == Vsock::max_streams);
    // Nobody gets in until the host has answered, and then somebody who waited does.
    f.backend.open(70);
    CHECK(f.backend.opened == std::vector<std::uint32_t>{0});
    const unsigned rooms = f.backend.rooms;
    for (const auto& done : f.backend.waiting)
        done(nullptr);
    CHECK(f.backend.rooms > rooms);
    f.backend.later = false;
    f.connect(5);
}

TEST_CASE("vsock: connections that ended before they could be spoken of are not remembered") {
    PollLoop loop;
    FakeRam ram{std::size_t{8} << 20};
    TestBackend backend(loop);
    Vsock device(loop, VsockGuest::cid, backend);
    VsockGuest guest(device, ram); // that offers no buffers
    for (std::uint32_t i = 0; i < 5000; ++i) {
        guest.send(VsockGuest::header(1 + i, 99, VIRTIO_VSOCK_OP_REQUEST));
        guest.send(VsockGuest::header(1 + i, 99, VIRTIO_VSOCK_OP_RST));
    }
    CHECK(device.stream_count() == 0);
    CHECK(device.speakers() == 0);
}

TEST_CASE("vsock: programs that come and go before the guest could be asked are not remembered") {
    PollLoop loop;
    FakeRam ram{std::size_t{8} << 20};
    TestBackend backend(loop);
    Vsock device(loop, VsockGuest::cid, backend);
    VsockGuest guest(device, ram); // that offers no buffers
    for (unsigned i = 0; i < 2 * Vsock::max_streams; ++i) {
        backend.open(500).reset();
        loop.settle();
    }
    CHECK(backend.opened == std::vector<std::uint32_t>(2 * Vsock::max_streams, 0));
    CHECK(device.stream_count() == 0);
    CHECK(device.speakers() == 0);
    guest.post();
    loop.settle();
    CHECK_FALSE(guest.receive());
    // Nor do they hold up what the guest says meanwhile.
    guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_REQUEST));
    loop.settle();
    const auto answer = guest.receive();
    REQUIRE(answer);
    CHECK(answer->header.op == VIRTIO_VSOCK_OP_RESPONSE);
}

TEST_CASE("vsock: whatever is asked of the event loop, one task of it waits") {
    Fixture f;
    for (std::uint32_t i = 0; i < 100; ++i) {
        f.guest.send(VsockGuest::header(1 + i, 99, VIRTIO_VSOCK_OP_REQUEST));
        f.backend.open(70);
    }
    CHECK(f.loop.tasks() <= 1);
    while (f.receive()) {
    }
    f.connect(5);
}

TEST_CASE("vsock: the driver's reset ends every connection; what came before still arrives") {
    Fixture f;
    f.connect(70);
    f.send(70, "before");
    f.guest.driver().reset();
    f.loop.settle();
    CHECK(f.device.stream_count() == 0);
    CHECK(read_some(f.backend.programs[0].get()) == "before");
    CHECK(at_end(f.backend.programs[0].get()));
    CHECK(f.loop.watched() == 0);
}

TEST_CASE("vsock: a transport reset gives a new CID and tells the guest") {
    Fixture f;
    f.connect(70);
    const GuestAddr event = f.guest.post_event_room();
    f.device.reset_transport(4711);
    const auto used = f.guest.driver().ring(vsock_event_queue).take_used();
    REQUIRE(used);
    CHECK(used->written == 4);
    CHECK(f.ram.read(event, 4) == std::vector<std::byte>(4));
    CHECK(f.guest.driver().read(0x100) == 4711);
    CHECK(f.device.stream_count() == 0);
    CHECK(at_end(f.backend.programs[0].get()));
}

TEST_CASE("vsock: at the end of the machine, what the guest sent is delivered") {
    Fixture f;
    f.connect(70);
    std::string all;
    for (int i = 0; i < 6; ++i) {
        const std::string block(40'000, static_cast<char>('a' + i));
        f.send(70, block);
        all += block;
    }
    f.guest.send(VsockGuest::header(70, port, VIRTIO_VSOCK_OP_SHUTDOWN,
                                    VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV));
    bool drained = false;
    f.device.drain([&] { drained = true; });
    std::string got;
    for (std::string piece; !(piece = read_some(f.backend.programs[0].get())).empty();) {
        got += piece;
        f.loop.settle();
    }
    CHECK(got == all);
    CHECK(drained);
}
