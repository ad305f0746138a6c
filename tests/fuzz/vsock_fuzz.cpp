// A driver that sends any vsock packet, real connections and nonsense mixed, against the device
// with sockets of the host behind it, whose programs write, read, end directions and die.
// Connections stay bounded, nothing runs without end, and after a reset a good driver finds a
// device that works.
#include <csignal>
#include <cstdlib>
#include <functional>
#include <memory>
#include <unistd.h>
#include <utility>
#include <vector>

#include <sys/socket.h>

#include "tests/fuzz/guest_bytes.hpp"
#include "virtio/backend/vsock/fd_channel.hpp"
#include "virtio/device/vsock/vsock.hpp"
#include "virtio/testing/poll_loop.hpp"
#include "virtio/testing/vsock_guest.hpp"

using namespace virtio;

namespace {

constexpr std::size_t ram_size = std::size_t{600} << 10;
constexpr std::size_t largest_packet = 4200; // that the guest sends
constexpr std::size_t most_programs = 24;

void require(bool holds) {
    if (!holds)
        std::abort();
}

class Programs final : public VsockBackend {
public:
    explicit Programs(EventLoop& loop) : loop_(loop) {}

    void attach(VsockHost& host) override { host_ = &host; }
    void connect(std::uint32_t host_port, VsockType type,
                 std::function<void(std::unique_ptr<VsockChannel>)> done) override {
        if (host_port % 4 == 3) // nobody there
            return done(nullptr);
        if (host_port % 4 == 2) // the answer takes its time
            waiting_.emplace_back(type, std::move(done));
        else
            done(make(type));
    }
    void room_again() override {}

    void open(std::uint32_t guest_port, VsockType type) {
        host_->open(guest_port, type, make(type), [this](std::uint32_t) { ++answers_; });
    }
    void answer_one() {
        if (waiting_.empty())
            return;
        auto [type, done] = std::move(waiting_.front());
        waiting_.erase(waiting_.begin());
        done(make(type));
    }
    void act(fuzz::GuestBytes& input) {
        if (programs_.empty())
            return;
        const auto which = input.take<std::uint8_t>();
        UniqueFd& program = programs_[which % programs_.size()];
        char block[8192] = {};
        switch (input.take<std::uint8_t>() % 5) {
        case 0:
            static_cast<void>(::send(program.get(), block, input.take<std::uint16_t>() % 8192,
                                     MSG_DONTWAIT | MSG_NOSIGNAL));
            break;
        case 1:
            static_cast<void>(::recv(program.get(), block, sizeof block, MSG_DONTWAIT));
            break;
        case 2:
            ::shutdown(program.get(), SHUT_WR);
            break;
        case 3:
            ::shutdown(program.get(), SHUT_RD);
            break;
        default:
            programs_.erase(programs_.begin() +
                            static_cast<std::ptrdiff_t>(which % programs_.size()));
        }
    }

private:
    std::unique_ptr<VsockChannel> make(VsockType type) {
        if (programs_.size() >= most_programs)
            return nullptr;
        int ends[2];
        const int kind = type == VsockType::Stream ? SOCK_STREAM : SOCK_SEQPACKET;
        require(::socketpair(AF_UNIX, kind | SOCK_CLOEXEC, 0, ends) == 0);
        programs_.emplace_back(ends[0]);
        return std::make_unique<FdChannel>(loop_, UniqueFd(ends[1]));
    }

    EventLoop& loop_;
    VsockHost* host_ = nullptr;
    std::vector<UniqueFd> programs_;
    std::vector<std::pair<VsockType, std::function<void(std::unique_ptr<VsockChannel>)>>> waiting_;
    unsigned answers_ = 0;
};

// Mostly of one of few connections, so that sequences mean something.
virtio_vsock_hdr wild_header(fuzz::GuestBytes& input) {
    const auto shape = input.take<std::uint8_t>();
    const auto ports = input.take<std::uint8_t>();
    virtio_vsock_hdr header = testing::VsockGuest::header(
        ports & 7, (ports >> 3) & 7, static_cast<std::uint16_t>(input.take<std::uint8_t>() % 10),
        input.take<std::uint8_t>() & 3,
        (shape & 1) != 0 ? VIRTIO_VSOCK_TYPE_SEQPACKET : VIRTIO_VSOCK_TYPE_STREAM);
    if ((shape & 2) != 0) // of one that the host opened
        header.dst_port = (1u << 30) + (ports >> 3);
    if ((shape & 0x0c) == 0x0c)
        header.buf_alloc = input.take<std::uint32_t>();
    if ((shape & 0x30) == 0x30)
        header.fwd_cnt = input.take<std::uint32_t>();
    if (shape == 0xff) {
        header.src_cid = input.take<std::uint64_t>();
        header.dst_cid = input.take<std::uint64_t>();
        header.type = input.take<std::uint16_t>();
    }
    return header;
}

void misbehave(fuzz::GuestBytes& input, testing::VsockGuest& guest, Programs& programs,
               Vsock& device, testing::PollLoop& loop) {
    const std::string block(4096, 'x');
    for (unsigned step = 0; step < 400 && !input.empty(); ++step) {
        const auto action = input.take<std::uint8_t>();
        // A device that found fault takes nothing: the ring would run over.
        const bool dead = guest.driver().needs_reset();
        switch (action % 8) {
        case 0:
        case 1:
        case 2: {
            const virtio_vsock_hdr header = wild_header(input);
            const std::size_t bytes = input.take<std::uint16_t>() % 4096;
            if (!dead && guest.room_to_send())
                guest.send(header, std::string_view(block).substr(0, bytes));
            break;
        }
        case 3:
            if (!dead && guest.room_to_send() && action > 0xf0) {
                virtio_vsock_hdr header = wild_header(input);
                header.len = input.take<std::uint32_t>();
                guest.send_raw(header, "y");
            }
            break;
        case 4:
            programs.act(input);
            break;
        case 5:
            if (action < 0x80)
                programs.open(input.take<std::uint8_t>() & 7,
                              (action & 0x40) != 0 ? VsockType::SeqPacket : VsockType::Stream);
            else
                programs.answer_one();
            break;
        case 6:
            guest.post(action > 0xf0 ? 44 + input.take<std::uint8_t>() : 4096);
            while (guest.receive()) {
            }
            break;
        default:
            if (action == 0xff)
                device.reset_transport(testing::VsockGuest::cid);
            loop.settle();
        }
        require(device.stream_count() <= Vsock::max_streams);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::signal(SIGPIPE, SIG_IGN);
    fuzz::GuestBytes input(data, size);
    testing::FakeRam ram(ram_size);
    testing::PollLoop loop;
    Programs programs(loop);
    Vsock device(loop, testing::VsockGuest::cid, programs);
    {
        testing::VsockGuest guest(device, ram, largest_packet);
        require(guest.started());
        misbehave(input, guest, programs, device, loop);
    }
    // The reset has let go of everything but what slow programs have yet to read.
    loop.settle();
    testing::FakeRam fresh(ram_size);
    testing::VsockGuest good(device, fresh, largest_packet);
    require(good.started());
    good.post();
    good.send(testing::VsockGuest::header(100, 3, VIRTIO_VSOCK_OP_REQUEST)); // nobody there
    loop.settle();
    const auto answer = good.receive();
    require(answer && answer->header.op == VIRTIO_VSOCK_OP_RST && answer->header.dst_port == 100);
    return 0;
}
