#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <thread>
#include <unistd.h>

#include <linux/virtio_console.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "virtio/backend/ports.hpp"
#include "virtio/device/console/console.hpp"
#include "virtio/testing/fake_guest.hpp"
#include "virtio/testing/poll_loop.hpp"

using namespace virtio;
using virtio::testing::FakeDriver;
using virtio::testing::FakeRam;
using virtio::testing::PollLoop;
using virtio::testing::UsedElement;

namespace {

struct Pipe {
    UniqueFd read;
    UniqueFd write;
};

Pipe make_pipe() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Pipe make_socket() {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::unique_ptr<FdStream> stream(EventLoop& loop, int fd, FdStream::Direction direction) {
    auto opened = FdStream::open(loop, fd, direction);
    REQUIRE(opened);
    return std::move(*opened);
}

// Everything that can be read without waiting.
std::string read_all(int fd) {
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
    std::string all;
    char block[4096];
    for (ssize_t got = 0; (got = ::read(fd, block, sizeof block)) > 0;)
        all.append(block, static_cast<std::size_t>(got));
    return all;
}

void put(int fd, std::string_view text) {
    REQUIRE(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

// stdin and stdout on descriptors of the test's choice, a control port, and a driver.
struct Fixture {
    Fixture(int in, int out) {
        ::signal(SIGPIPE, SIG_IGN);
        stdio = std::make_unique<FdPort>(stream(loop, in, FdStream::Direction::Input),
                                         stream(loop, out, FdStream::Direction::Output));
        stdio->on_end_of_input([this] {
            ++ends_of_input;
            control.send(std::as_bytes(std::span("end", 3)));
        });
        stdio->on_output_closed([this](int error) { output_error = error; });
        console = std::make_unique<Console>(
            loop,
            std::vector<Console::Port>{{stdio.get(), "stdio", true}, {&control, "control", false}});
        driver = std::make_unique<FakeDriver>(*console, ram);
        REQUIRE(driver->start(0, 128));
    }
    ~Fixture() { driver.reset(); }

    void send(std::string_view text) {
        driver->ring(1).offer({{ram.place(text), static_cast<std::uint32_t>(text.size())}});
        driver->notify(1);
    }
    GuestAddr post_input(std::uint32_t size, std::uint32_t queue = 0) {
        const GuestAddr at = ram.allocate(size);
        driver->ring(queue).offer({{at, size, true}});
        driver->notify(queue);
        return at;
    }
    void reap_output() {
        while (driver->ring(1).take_used()) {
        }
    }

    PollLoop loop;
    FakeRam ram{std::size_t{4} << 20};
    MessagePort control;
    std::unique_ptr<FdPort> stdio;
    std::unique_ptr<Console> console;
    std::unique_ptr<FakeDriver> driver;
    unsigned ends_of_input = 0;
    int output_error = -1;
};

constexpr std::uint32_t control_port_receive = console_receive_queue(1);

} // namespace

TEST_CASE("console: what the guest writes comes out of the descriptor, in order") {
    const bool sockets = GENERATE(false, true);
    const Pipe in = make_pipe();
    const Pipe out = sockets ? make_socket() : make_pipe();
    Fixture f(in.read.get(), out.write.get());
    f.send("hello ");
    f.send("");
    f.send("world");
    CHECK(read_all(out.read.get()) == "hello world");
    CHECK(f.driver->ring(1).take_used() == UsedElement{0, 0});
}

TEST_CASE("console: a slow reader holds the guest back and loses nothing") {
    const bool sockets = GENERATE(false, true);
    const Pipe in = make_pipe();
    const Pipe out = sockets ? make_socket() : make_pipe();
    Fixture f(in.read.get(), out.write.get());
    std::string sent;
    for (int i = 0; i < 100; ++i) {
        std::string block(10'000, static_cast<char>('a' + i % 26));
        block += std::to_string(i);
        f.send(block);
        sent += block;
    }
    f.loop.settle();
    CHECK(f.loop.watched() == 1);
    bool drained = false;
    f.console->drain([&] { drained = true; });
    CHECK_FALSE(drained);

    std::string received;
    while (received.size() < sent.size()) {
        received += read_all(out.read.get());
        f.loop.settle();
    }
    CHECK((received == sent)); // no megabyte in the report
    CHECK(drained);
    CHECK(f.loop.watched() == 0);
    f.reap_output();
    f.send("!");
    CHECK(read_all(out.read.get()) == "!");
}

TEST_CASE("console: the caller's descriptors stay blocking") {
    const Pipe in = make_pipe();
    const Pipe out = make_pipe();
    const Fixture f(in.read.get(), out.write.get());
    CHECK((::fcntl(in.read.get(), F_GETFL) & O_NONBLOCK) == 0);
    CHECK((::fcntl(out.write.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("console: when the reader is gone output is thrown away and the driver is told") {
    const Pipe in = make_pipe();
    Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    const GuestAddr answer = f.post_input(64, console_control_receive_queue);
    out.read.reset();
    f.send("lost");
    f.send("lost too");
    CHECK(f.output_error == EPIPE);
    CHECK(f.driver->ring(1).take_used());
    CHECK(f.driver->ring(1).take_used());
    REQUIRE(f.driver->ring(2).take_used() == UsedElement{0, sizeof(virtio_console_control)});
    const auto message = f.ram.memory().read_object<virtio_console_control>(answer);
    CHECK(message->id == 0);
    CHECK(message->event == VIRTIO_CONSOLE_PORT_OPEN);
    CHECK(message->value == 0);
    bool drained = false;
    f.console->drain([&] { drained = true; });
    CHECK(drained);
}

TEST_CASE("console: input is read only while the guest has room for it") {
    const bool sockets = GENERATE(false, true);
    const Pipe in = sockets ? make_socket() : make_pipe();
    const Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    put(in.write.get(), "abcdefgh");
    f.loop.settle();
    const GuestAddr at = f.post_input(5);
    REQUIRE(f.driver->ring(0).take_used() == UsedElement{0, 5});
    CHECK(f.ram.read_text(at, 5) == "abcde");
    f.loop.settle();
    CHECK(read_all(in.read.get()) == "fgh"); // left for the caller
}

TEST_CASE("console: input that comes later wakes the port") {
    const Pipe in = make_pipe();
    const Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    const GuestAddr at = f.post_input(16);
    CHECK(f.loop.watched() == 1);
    f.loop.settle();
    CHECK_FALSE(f.driver->ring(0).take_used());
    put(in.write.get(), "now");
    f.loop.settle();
    REQUIRE(f.driver->ring(0).take_used() == UsedElement{0, 3});
    CHECK(f.ram.read_text(at, 3) == "now");
    CHECK(f.loop.watched() == 0);
}

TEST_CASE("console: the end of input is announced once, after the last byte") {
    Pipe in = make_pipe();
    const Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    const GuestAddr message = f.post_input(16, control_port_receive);
    put(in.write.get(), "last");
    in.write.reset();
    f.post_input(4);
    CHECK(f.ends_of_input == 0); // without room nothing is read, not even the end
    f.post_input(16);
    CHECK(f.ends_of_input == 1);
    f.post_input(16);
    CHECK(f.ends_of_input == 1);
    REQUIRE(f.driver->ring(0).take_used() == UsedElement{0, 4});
    CHECK_FALSE(f.driver->ring(0).take_used());
    REQUIRE(f.driver->ring(control_port_receive).take_used() == UsedElement{0, 3});
    CHECK(f.ram.read_text(message, 3) == "end");
}

TEST_CASE("console: regular files and /dev/null serve as input and output") {
    char name[] = "/tmp/console_test.XXXXXX";
    const UniqueFd file(::mkstemp(name));
    REQUIRE(file);
    ::unlink(name);
    put(file.get(), "content");
    REQUIRE(::lseek(file.get(), 0, SEEK_SET) == 0);
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));

    SECTION("a file as input ends at its end") {
        Fixture f(file.get(), null.get());
        const GuestAddr at = f.post_input(16);
        f.post_input(16);
        f.loop.settle();
        REQUIRE(f.driver->ring(0).take_used() == UsedElement{0, 7});
        CHECK(f.ram.read_text(at, 7) == "content");
        CHECK(f.ends_of_input == 1);
        f.send("nothing");
        CHECK(f.driver->ring(1).take_used());
    }
    SECTION("a file as input is read from where the caller left it, and left where we stopped") {
        REQUIRE(::lseek(file.get(), 3, SEEK_SET) == 3);
        Fixture f(file.get(), null.get());
        f.post_input(2);
        CHECK(::lseek(file.get(), 0, SEEK_CUR) == 5);
    }
    SECTION("/dev/null as input is at its end at once") {
        Fixture f(null.get(), file.get());
        f.post_input(16);
        f.loop.settle();
        CHECK(f.ends_of_input == 1);
        f.send("+more");
        char content[16] = {};
        CHECK(::pread(file.get(), content, sizeof content, 0) == 7);
        CHECK(std::string_view(content) == "+morent");
    }
}

TEST_CASE("console: a descriptor of the wrong direction is refused") {
    PollLoop loop;
    const Pipe pipe = make_pipe();
    CHECK_FALSE(FdStream::open(loop, pipe.write.get(), FdStream::Direction::Input));
    CHECK_FALSE(FdStream::open(loop, pipe.read.get(), FdStream::Direction::Output));
    CHECK_FALSE(FdStream::open(loop, 1'000'000, FdStream::Direction::Input));
}

TEST_CASE("console: a terminal is opened anew, its master side is not") {
    ::signal(SIGPIPE, SIG_IGN);
    const UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    REQUIRE(master);
    REQUIRE(::grantpt(master.get()) == 0);
    REQUIRE(::unlockpt(master.get()) == 0);
    char name[64];
    REQUIRE(::ptsname_r(master.get(), name, sizeof name) == 0);
    UniqueFd line(::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
    REQUIRE(line);

    SECTION("the line") {
        Fixture f(line.get(), line.get());
        CHECK((::fcntl(line.get(), F_GETFL) & O_NONBLOCK) == 0);
        const GuestAddr at = f.post_input(16);
        put(master.get(), "typed\n");
        f.loop.settle();
        REQUIRE(f.driver->ring(0).take_used() == UsedElement{0, 6});
        CHECK(f.ram.read_text(at, 6) == "typed\n");
        f.send("shown");
        CHECK(read_all(master.get()).find("shown") != std::string::npos);
    }
    SECTION("the master") {
        Fixture f(master.get(), master.get());
        f.post_input(16);
        f.send("to the line\n");
        char text[32] = {};
        CHECK(::read(line.get(), text, sizeof text) == 12);
        put(line.get(), "x");
        f.loop.settle();
        CHECK(f.driver->ring(0).take_used());
    }
}

TEST_CASE("console: records reach the control port whole and in order") {
    const Pipe in = make_pipe();
    const Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    CHECK(f.control.send(std::as_bytes(std::span("one,", 4))));
    CHECK(f.control.send(std::as_bytes(std::span("two,", 4))));
    const GuestAddr at = f.post_input(16, control_port_receive);
    REQUIRE(f.driver->ring(control_port_receive).take_used() == UsedElement{0, 8});
    CHECK(f.ram.read_text(at, 8) == "one,two,");
    const std::vector<std::byte> much(MessagePort::max_pending);
    CHECK(f.control.send(much));
    CHECK_FALSE(f.control.send(std::as_bytes(std::span("x", 1))));
}

TEST_CASE("console: the port handshake tells names and sizes, and floods cost nothing") {
    const Pipe in = make_pipe();
    const Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    f.console->resize(80, 25);
    CHECK(f.driver->read(0x100) == (25u << 16 | 80u));
    CHECK(f.driver->read(0x104) == 2); // max_nr_ports

    const auto tell = [&](std::uint32_t id, std::uint16_t event) {
        const virtio_console_control message{id, event, 1};
        const GuestAddr at = f.ram.allocate(sizeof message);
        REQUIRE(f.ram.memory().write_object(at, message));
        f.driver->ring(3).offer({{at, sizeof message}});
        f.driver->notify(3);
        CHECK(f.driver->ring(3).take_used());
    };
    for (int i = 0; i < 1000; ++i)
        tell(0, VIRTIO_CONSOLE_DEVICE_READY);
    tell(0, VIRTIO_CONSOLE_PORT_READY);
    std::vector<std::uint16_t> events;
    for (;;) {
        const GuestAddr at = f.post_input(32, console_control_receive_queue);
        const auto used = f.driver->ring(2).take_used();
        if (!used)
            break;
        const auto message = f.ram.memory().read_object<virtio_console_control>(at);
        events.push_back(message->event);
        if (message->event == VIRTIO_CONSOLE_PORT_NAME) {
            CHECK(f.ram.read_text(at + sizeof *message, used->written - sizeof *message) ==
                  "stdio");
        }
        if (message->event == VIRTIO_CONSOLE_RESIZE) {
            CHECK(f.ram.memory().read_object<std::uint16_t>(at + sizeof *message) == 80);
        }
    }
    CHECK(events == std::vector<std::uint16_t>{VIRTIO_CONSOLE_PORT_ADD, VIRTIO_CONSOLE_CONSOLE_PORT,
                                               VIRTIO_CONSOLE_PORT_NAME, VIRTIO_CONSOLE_PORT_OPEN,
                                               VIRTIO_CONSOLE_RESIZE, VIRTIO_CONSOLE_PORT_ADD});
}

namespace {

// Whenever it is given output, the guest has more.
class EagerPort final : public PortBackend {
public:
    void attach(PortEvents&) override {}
    Transfer read(std::span<const struct iovec>) override { return {Transfer::Outcome::Ended, 0}; }
    Transfer write(std::span<const struct iovec> from) override {
        more();
        return {Transfer::Outcome::Done, from.front().iov_len};
    }
    std::function<void()> more;
};

} // namespace

TEST_CASE("console: however often a guest that never pauses notifies, one task waits") {
    PollLoop loop;
    FakeRam ram{std::size_t{4} << 20};
    EagerPort port;
    Console console(loop, {{&port, "only", false}});
    FakeDriver driver(console, ram);
    REQUIRE(driver.start(0, 128));
    const GuestAddr byte = ram.allocate(1);
    port.more = [&] {
        while (driver.ring(1).take_used()) {
        }
        driver.ring(1).offer({{byte, 1}});
    };
    port.more();
    for (int i = 0; i < 10; ++i)
        driver.transport().notify(1);
    CHECK(loop.tasks() == 1);
    driver.reset();
}

TEST_CASE("console: a guest that goes on sending control messages does not keep the event loop") {
    const Pipe in = make_pipe();
    const Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    const virtio_console_control message{0, VIRTIO_CONSOLE_PORT_OPEN, 1};
    const GuestAddr at = f.ram.allocate(sizeof message);
    REQUIRE(f.ram.memory().write_object(at, message));
    auto& ring = f.driver->ring(console_control_transmit_queue);
    const std::uint16_t size = ring.config().size;
    for (std::uint16_t head = 0; head < size; ++head) {
        ring.write_descriptor(head, at, sizeof message, 0);
        ring.offer_head(head);
    }
    // Another vCPU, which offers each buffer again as soon as it has been used.
    std::atomic<bool> returned{false};
    bool saw_it = false;
    std::thread other([&] {
        for (unsigned i = 0; i < 3'000'000 && !saw_it; ++i) {
            ring.set_available_index(static_cast<std::uint16_t>(ring.used_index() + size));
            saw_it = returned.load();
        }
    });
    f.driver->transport().notify(console_control_transmit_queue);
    returned.store(true);
    other.join();
    CHECK(saw_it);
    f.loop.settle();
    CHECK_FALSE(f.driver->needs_reset());
}

TEST_CASE("console: control messages that make no sense are the driver's fault") {
    const Pipe in = make_pipe();
    const Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    SECTION("too short") {
        f.driver->ring(3).offer({{f.ram.place("abc"), 3}});
        f.driver->notify(3);
    }
    SECTION("an unknown port") {
        const virtio_console_control message{2, VIRTIO_CONSOLE_PORT_READY, 1};
        const GuestAddr at = f.ram.allocate(sizeof message);
        REQUIRE(f.ram.memory().write_object(at, message));
        f.driver->ring(3).offer({{at, sizeof message}});
        f.driver->notify(3);
    }
    CHECK(f.driver->needs_reset());
    CHECK(f.driver->transport().first_fault().kind == FaultKind::Request);
}

TEST_CASE("console: a reset in the middle of everything leaves a console that works") {
    const Pipe in = make_pipe();
    const Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    f.post_input(16);
    f.send(std::string(200'000, 'x')); // more than the pipe takes
    CHECK(f.loop.watched() == 2);
    f.driver->reset();
    read_all(out.read.get());
    put(in.write.get(), "kept");
    f.loop.settle(); // both watches fire into a closed gate
    CHECK(f.loop.watched() == 0);

    REQUIRE(f.driver->start(0, 128));
    const GuestAddr at = f.post_input(16);
    REQUIRE(f.driver->ring(0).take_used() == UsedElement{0, 4});
    CHECK(f.ram.read_text(at, 4) == "kept");
    f.send("again");
    CHECK(read_all(out.read.get()) == "again");
}

TEST_CASE("console: a vCPU that resets meets a busy event loop at the gate") {
    const Pipe in = make_pipe();
    const Pipe out = make_pipe();
    Fixture f(in.read.get(), out.write.get());
    const GuestAddr text = f.ram.place("some output");
    const GuestAddr room = f.ram.allocate(64);
    put(in.write.get(), "input");
    std::atomic<bool> stop{false};
    std::thread loop_thread([&] {
        for (unsigned round = 0; !stop.load(); ++round) {
            f.driver->transport().notify(round % 6);
            f.control.send(std::as_bytes(std::span("record", 6)));
            f.loop.settle();
            read_all(out.read.get());
        }
    });
    bool sound = true;
    for (unsigned round = 0; sound && round < 300; ++round) {
        sound = f.driver->start(0, 16);
        for (unsigned i = 0; sound && i < 16; ++i) {
            f.driver->ring(1).offer({{text, 11}});
            f.driver->ring(0).offer({{room, 64, true}});
            f.driver->ring(control_port_receive).offer({{room, 64, true}});
        }
        std::this_thread::yield();
        f.driver->reset();
    }
    stop.store(true);
    loop_thread.join();
    CHECK(sound);
    CHECK_FALSE(f.driver->needs_reset());
}

TEST_CASE("console: draining a console without a driver is done at once") {
    PollLoop loop;
    MessagePort port;
    Console console(loop, {{&port, "only", false}});
    bool drained = false;
    console.drain([&] { drained = true; });
    CHECK(drained);
}
