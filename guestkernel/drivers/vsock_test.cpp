// The whole way from the guest's vsock sockets and driver to the host's device and sockets, over
// one memory.
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <fcntl.h>
#include <functional>
#include <memory>
#include <string>
#include <unistd.h>

#include <linux/virtio_vsock.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/drivers/virtio_mmio.hpp"
#include "guestkernel/drivers/vsock.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/vsock/vsock_socket.hpp"
#include "guestkernel/task/task.hpp"
#include "virtio/backend/vsock/unix_vsock.hpp"
#include "virtio/device/vsock/vsock.hpp"
#include "virtio/testing/poll_loop.hpp"
#include "virtio/transport/mmio_transport.hpp"

namespace kernel {

// What the machine's parts of the kernel would say.
static BootConfig test_config;
const BootConfig& boot_config() {
    return test_config;
}
// Nobody hears what interrupts before.
static bool handler_registered = false;
static std::function<void()> before_registration;
void arch::register_device_interrupt(u8, void (*)(void*), void*) {
    if (before_registration)
        before_registration();
    handler_registered = true;
}

namespace log {
// Weak: the hosted machine may come to have a log of its own.
[[gnu::weak]] void write_line(boot::LogLevel, std::string_view line) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}
} // namespace log

} // namespace kernel

using namespace kernel;

namespace {

constexpr u64 ram_bytes = u64{64} << 20;
constexpr u64 register_page = 0x10000;
constexpr u32 guest_cid = 42;
constexpr u32 host_port = 900;
constexpr u32 nonblock = socket_nonblock;

struct Interrupt final : virtio::InterruptSink {
    void signal() override { raised = raised || handler_registered; }
    bool raised = false;
};

virtio::MmioTransport* device_behind = nullptr;

SocketAddress address(u32 cid, u32 port) {
    SocketAddress out;
    const u32 words[] = {family_vsock, port, cid, 0};
    __builtin_memcpy(out.bytes, words, sizeof words);
    out.length = sizeof words;
    return out;
}

struct Machine {
    // `meanwhile`: called when the queues are there and nobody hears interrupts yet.
    explicit Machine(std::function<void(Machine&)> meanwhile = {}) {
        handler_registered = false;
        before_registration = [this, meanwhile = std::move(meanwhile)] {
            if (meanwhile)
                meanwhile(*this);
        };
        ::signal(SIGPIPE, SIG_IGN);
        // Once: what the kernel makes on demand stays.
        static const bool ready = [] {
            hosted::reset(ram_bytes);
            return true;
        }();
        REQUIRE(ready);
        hosted::set_current(&task);
        init_clock(2'000'000, arch::read_tsc(), 1'000'000'000, arch::read_tsc());
        auto* ram = static_cast<std::byte*>(arch::phys_to_virt(PhysAddr(0)));
        REQUIRE(memory.add_region({virtio::GuestAddr(0), ram, ram_bytes}));
        backend.serve(host_port, [this](virtio::VsockType type) {
            int ends[2];
            REQUIRE(
                ::socketpair(AF_UNIX,
                             (type == virtio::VsockType::Stream ? SOCK_STREAM : SOCK_SEQPACKET) |
                                 SOCK_CLOEXEC,
                             0, ends) == 0);
            programs.emplace_back(ends[0]);
            return virtio::UniqueFd(ends[1]);
        });
        transport = std::make_unique<virtio::MmioTransport>(
            device, memory,
            std::span<std::byte, virtio::register_page_size>(ram + register_page,
                                                             virtio::register_page_size),
            interrupt);
        device_behind = transport.get();
        hosted_mmio_write = [](volatile u8*, u32 offset, u32 value) {
            if (offset == virtio::queue_notify_offset)
                device_behind->notify(value);
            else
                device_behind->write(offset, 4, value);
        };
        test_config.devices[0] = {register_page, 0xe4};
        test_config.device_count = 1;
        REQUIRE(init_vsock_device());
        before_registration = {};
        run();
    }
    ~Machine() {
        transport->write(0x70, 4, 0); // the device's status: no more of it
        loop.settle();
        forget_vsock_device();
        transport.reset();
        device_behind = nullptr;
    }
    // Until both sides are quiet.
    void run() {
        do {
            loop.settle();
            if (std::exchange(interrupt.raised, false))
                vsock_device_interrupt();
            loop.settle();
        } while (interrupt.raised);
    }

    Ref<SocketFile> make(int type = socket_stream) {
        auto made = vsock_family.create(type, 0, nonblock);
        REQUIRE(made);
        return *made;
    }
    Ref<SocketFile> connect_to_host(int type = socket_stream) {
        Ref<SocketFile> file = make(type);
        CHECK(file->connect(address(vsock_cid_host, host_port)).error().code == EINPROGRESS);
        run();
        CHECK(file->take_error() == 0);
        CHECK((file->poll(nullptr) & (poll_out | poll_err)) == poll_out);
        return file;
    }
    int program() const { return programs.back().get(); }

    Task task;
    Interrupt interrupt;
    virtio::testing::PollLoop loop;
    virtio::GuestMemory memory;
    virtio::UnixVsock backend{loop};
    virtio::Vsock device{loop, guest_cid, backend};
    std::unique_ptr<virtio::MmioTransport> transport;
    std::vector<virtio::UniqueFd> programs;
};

// Bytes sent, or minus the error.
long put(SocketFile& file, std::string_view text, u32 flags = msg_nosignal) {
    IoBuffer in(const_cast<char*>(text.data()), text.size());
    SendRequest request;
    request.flags = flags;
    const auto sent = file.send(in, request);
    return sent ? static_cast<long>(*sent) : -sent.error().code;
}

// What a read gives now; nullopt when it would block.
std::optional<std::string> take(SocketFile& file, usize most = 1 << 20) {
    std::string text(most, '\0');
    IoBuffer out(text.data(), text.size());
    ReceiveRequest request;
    const auto got = file.receive(out, request);
    if (!got) {
        CHECK(got.error().code == EAGAIN);
        return std::nullopt;
    }
    text.resize(*got);
    return text;
}

std::string read_some(int fd) {
    std::string text(1 << 20, '\0');
    const ssize_t got = ::recv(fd, text.data(), text.size(), MSG_DONTWAIT);
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
}

bool at_end(int fd) {
    char byte = 0;
    return ::recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

std::string pattern(std::size_t bytes) {
    std::string out(bytes, '\0');
    u32 state = 7;
    for (char& c : out)
        c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
    return out;
}

} // namespace

TEST_CASE("vsock device: the guest knows its CID, and connects to the host") {
    Machine machine;
    CHECK(vsock_device_present());
    CHECK(vsock_guest_cid() == guest_cid);
    CHECK(sizeof(VsockHeader) == sizeof(virtio_vsock_hdr));
    CHECK(offsetof(VsockHeader, fwd_cnt) == offsetof(virtio_vsock_hdr, fwd_cnt));
    CHECK(offsetof(VsockHeader, type) == offsetof(virtio_vsock_hdr, type));
    const Ref<SocketFile> file = machine.connect_to_host();
    CHECK(put(*file, "hello") == 5);
    machine.run();
    CHECK(read_some(machine.program()) == "hello");
    REQUIRE(::send(machine.program(), "answer", 6, 0) == 6);
    machine.run();
    CHECK(take(*file) == "answer");
    CHECK_FALSE(take(*file));
}

TEST_CASE("vsock device: a port without a service is refused") {
    Machine machine;
    const Ref<SocketFile> file = machine.make();
    CHECK(file->connect(address(vsock_cid_host, 901)).error().code == EINPROGRESS);
    machine.run();
    CHECK(file->take_error() == ECONNRESET);
    const Ref<SocketFile> sibling = machine.make();
    CHECK(sibling->connect(address(77, 900)).error().code == EINPROGRESS);
    machine.run();
    CHECK(sibling->take_error() == ECONNRESET);
}

TEST_CASE("vsock device: megabytes go both ways, each held back by the other's reader") {
    Machine machine;
    const Ref<SocketFile> file = machine.connect_to_host();
    const std::string data = pattern(5'000'000);
    std::string to_host, to_guest;
    std::size_t from_guest = 0, from_host = 0;
    unsigned idle = 0;
    while (to_host.size() < data.size() || to_guest.size() < data.size()) {
        const long sent = from_guest < data.size()
                              ? put(*file, std::string_view(data).substr(from_guest, 100'000))
                              : 0;
        REQUIRE((sent >= 0 || sent == -EAGAIN));
        from_guest += sent > 0 ? static_cast<std::size_t>(sent) : 0;
        const ssize_t given =
            from_host < data.size()
                ? ::send(machine.program(), data.data() + from_host,
                         std::min<std::size_t>(100'000, data.size() - from_host), MSG_DONTWAIT)
                : 0;
        from_host += given > 0 ? static_cast<std::size_t>(given) : 0;
        machine.run();
        const std::string got = read_some(machine.program());
        to_host += got;
        const auto read = take(*file, 70'000);
        to_guest += read.value_or("");
        idle = got.empty() && !read && sent <= 0 && given <= 0 ? idle + 1 : 0;
        REQUIRE(idle < 3); // stuck
    }
    CHECK(to_host == data);
    CHECK(to_guest == data);
}

TEST_CASE("vsock device: a message that takes all of the room gets it, whatever came before") {
    Machine machine;
    const Ref<SocketFile> file = machine.connect_to_host(socket_seqpacket);
    // Just too little of a stream to be told of by itself; then more than is left without it.
    const std::string first = pattern(64'000);
    const std::string second = pattern(200'000);
    for (const std::string& message : {first, second}) {
        REQUIRE(::send(machine.program(), message.data(), message.size(), MSG_DONTWAIT) ==
                static_cast<ssize_t>(message.size()));
        machine.run();
        CHECK(take(*file) == message);
        machine.run();
    }
    for (const std::string& message : {first, second}) {
        CHECK(put(*file, message) == static_cast<long>(message.size()));
        machine.run();
        CHECK(read_some(machine.program()) == message);
        machine.run();
    }
}

TEST_CASE("vsock device: the host connects to a listener of the guest") {
    Machine machine;
    const Ref<SocketFile> listener = machine.make();
    REQUIRE(listener->bind(address(vsock_any, 5000)));
    REQUIRE(listener->listen(4));
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    const virtio::UniqueFd own(ends[0]);
    u32 port = 0;
    machine.backend.connect_to_guest(5000, virtio::VsockType::Stream, virtio::UniqueFd(ends[1]),
                                     [&](u32 given) { port = given; });
    machine.run();
    CHECK(port != 0);
    CHECK(listener->poll(nullptr) == (poll_in | poll_rdnorm));
    auto accepted = listener->accept(nonblock, true);
    REQUIRE(accepted);
    SocketAddress peer;
    REQUIRE((*accepted)->peer_address(peer));
    u32 words[4];
    __builtin_memcpy(words, peer.bytes, sizeof words);
    CHECK(words[1] == port);
    CHECK(words[2] == vsock_cid_host);

    // Each direction ends by itself.
    REQUIRE(::send(own.get(), "last", 4, 0) == 4);
    ::shutdown(own.get(), SHUT_WR);
    machine.run();
    CHECK(take(**accepted) == "last");
    CHECK(take(**accepted) == "");
    CHECK(put(**accepted, "and mine") == 8);
    *accepted = nullptr;
    machine.run();
    CHECK(read_some(own.get()) == "and mine");
    CHECK(at_end(own.get()));
    CHECK(machine.device.stream_count() == 0);

    // Nobody listens there.
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    const virtio::UniqueFd second(ends[0]);
    machine.backend.connect_to_guest(5001, virtio::VsockType::Stream, virtio::UniqueFd(ends[1]),
                                     [&](u32 given) { port = given; });
    machine.run();
    CHECK(port == 0);
    CHECK(at_end(second.get()));
}

TEST_CASE(
    "vsock device: whoever knocks while the driver starts is answered, not left to an interrupt "
    "that nobody heard") {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    const virtio::UniqueFd program(ends[0]);
    bool answered = false;
    Machine machine([&](Machine& at) {
        at.backend.connect_to_guest(4711, virtio::VsockType::Stream, virtio::UniqueFd(ends[1]),
                                    [&](u32) { answered = true; });
        at.loop.settle();
    });
    CHECK(answered); // nobody listens there: it is refused
    CHECK(at_end(program.get()));
    // And the next ones interrupt.
    const Ref<SocketFile> file = machine.connect_to_host();
    CHECK(put(*file, "hello") == 5);
    machine.run();
    CHECK(read_some(machine.program()) == "hello");
}

TEST_CASE("vsock device: a program of the host that dies is seen by the guest") {
    Machine machine;
    const Ref<SocketFile> file = machine.connect_to_host();
    REQUIRE(::send(machine.program(), "will", 4, 0) == 4);
    machine.programs.clear();
    machine.run();
    CHECK((file->poll(nullptr) & poll_rdhup) != 0);
    CHECK(put(*file, "x") == -EPIPE);
    CHECK(take(*file) == "will");
    CHECK(take(*file) == "");
    machine.run();
}

TEST_CASE("vsock device: sequenced packets keep their boundaries") {
    Machine machine;
    const Ref<SocketFile> file = machine.connect_to_host(socket_seqpacket);
    const std::string large = pattern(120'000);
    CHECK(put(*file, "one") == 3);
    CHECK(put(*file, large) == static_cast<long>(large.size()));
    machine.run();
    CHECK(read_some(machine.program()) == "one");
    machine.run();
    CHECK(read_some(machine.program()) == large);
    REQUIRE(::send(machine.program(), large.data(), large.size(), 0) ==
            static_cast<ssize_t>(large.size()));
    REQUIRE(::send(machine.program(), "two", 3, 0) == 3);
    machine.run();
    CHECK(take(*file) == large);
    CHECK(take(*file) == "two");
    CHECK_FALSE(take(*file));
}

TEST_CASE("vsock device: many small writes do not take a page each") {
    Machine machine;
    const Ref<SocketFile> file = machine.connect_to_host();
    const u64 before = memory_stats().free;
    std::string expected;
    for (int i = 0; i < 3000; i++) {
        const char byte = static_cast<char>('a' + i % 26);
        REQUIRE(::send(machine.program(), &byte, 1, 0) == 1);
        expected += byte;
        machine.run();
    }
    CHECK(before - memory_stats().free < 64);
    std::string got;
    while (const auto some = take(*file))
        got += *some;
    CHECK(got == expected);
}

TEST_CASE("vsock device: two hundred connections, each with its own bytes") {
    Machine machine;
    std::vector<Ref<SocketFile>> files;
    for (int i = 0; i < 200; i++)
        files.push_back(machine.connect_to_host());
    for (usize i = 0; i < files.size(); i++)
        CHECK(put(*files[i], "number " + std::to_string(i)) > 0);
    machine.run();
    for (usize i = 0; i < files.size(); i++) {
        const std::string text = read_some(machine.programs[i].get());
        CHECK(text == "number " + std::to_string(i));
        REQUIRE(::send(machine.programs[i].get(), text.data(), text.size(), 0) > 0);
    }
    machine.run();
    for (usize i = 0; i < files.size(); i++)
        CHECK(take(*files[i]) == "number " + std::to_string(i));
    files.clear();
    machine.run();
    CHECK(machine.device.stream_count() == 0);
}

TEST_CASE("vsock device: a transport reset ends the connections, listeners stay") {
    Machine machine;
    const Ref<SocketFile> file = machine.connect_to_host();
    const Ref<SocketFile> listener = machine.make();
    REQUIRE(listener->bind(address(vsock_any, 5000)));
    REQUIRE(listener->listen(4));
    machine.device.reset_transport(4711);
    machine.run();
    CHECK(vsock_guest_cid() == 4711);
    CHECK(file->take_error() == ECONNRESET);
    CHECK(put(*file, "x") < 0);
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    const virtio::UniqueFd own(ends[0]);
    u32 port = 0;
    machine.backend.connect_to_guest(5000, virtio::VsockType::Stream, virtio::UniqueFd(ends[1]),
                                     [&](u32 given) { port = given; });
    machine.run();
    CHECK(port != 0);
}

TEST_CASE("vsock device: a socket that closes leaves its last bytes to the host") {
    Machine machine;
    {
        const Ref<SocketFile> file = machine.connect_to_host();
        const std::string data = pattern(60'000);
        CHECK(put(*file, data) == static_cast<long>(data.size()));
    }
    flush_vsock_device();
    machine.run();
    CHECK(read_some(machine.program()) == pattern(60'000));
    CHECK(at_end(machine.program()));
}
