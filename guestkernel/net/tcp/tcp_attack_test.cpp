// What strangers on the link may send: the stack keeps serving, and what it keeps of it is bounded.
#include <linux/errno.h>

#include "guestkernel/net/tcp/test_support.hpp"

using namespace kernel;
using namespace kernel::tcp;
using namespace kernel::tcp::test;

namespace {

struct Scene {
    Machine machine;
    Host host{machine, address_a};
    Server server{host, 80};
    Peer peer{machine, host};

    void receive(const net::IpAddress& from, const Segment& segment) {
        host.wire->receive(make_ip(from, address_a, segment));
        net::run_backlog();
    }
    // A client like any other is served.
    void check_serving(u16 from_port) {
        peer.discard();
        peer.port = from_port;
        Options offer;
        offer.mss = 1460;
        peer.open(80, offer);
        REQUIRE(server.pending());
        Program program = server.accept();
        peer.send(flag_ack | flag_psh, peer.sequence, peer.next, "hello");
        CHECK(program.receive() == "hello");
        program.close(true);
        peer.discard();
    }
};

Segment syn(u16 from, u16 to, u32 sequence) {
    Segment out;
    out.flags = flag_syn;
    out.source_port = from;
    out.destination_port = to;
    out.sequence = sequence;
    out.window = 65535;
    return out;
}

} // namespace

TEST_CASE("a scan of all ports is answered with resets and leaves nothing behind") {
    Scene scene;
    const u64 sockets = scene.host.tcp().sockets.load();
    for (u32 port = 1; port < 65536; port++) {
        if (port == 80)
            continue;
        scene.receive(address_b, syn(40'000, static_cast<u16>(port), port));
        REQUIRE(scene.peer.waiting() == 1);
        const Segment answer = scene.peer.take();
        REQUIRE(answer.flags == (flag_rst | flag_ack));
        REQUIRE(answer.acknowledgement == port + 1);
    }
    // Stealthier kinds: a bare FIN, nothing at all, everything.
    for (const u8 flags : {u8{flag_fin}, u8{0}, u8(flag_fin | flag_psh | flag_urg), u8{flag_ack}}) {
        for (const u16 port : {u16{80}, u16{81}}) {
            Segment odd = syn(40'001, port, 9);
            odd.flags = flags;
            scene.receive(address_b, odd);
            while (!scene.peer.quiet())
                CHECK(scene.peer.take().has(flag_rst));
        }
    }
    CHECK(scene.host.tcp().sockets.load() == sockets);
    CHECK(scene.server.listener->request_count() == 0);
    scene.check_serving(4001);
}

TEST_CASE("a flood of SYNs from everywhere keeps few requests, and a client gets in") {
    Scene scene;
    for (u32 i = 0; i < 50'000; i++) {
        const auto from = net::IpAddress::v4(0x0a00'0000 + 3 + i % 250);
        scene.receive(from, syn(static_cast<u16>(1024 + i / 250), 80, i * 7919));
        scene.peer.discard();
    }
    CHECK(scene.server.listener->request_count() <= scene.server.listener->backlog + 1);
    CHECK_FALSE(scene.server.pending());
    scene.check_serving(4002);
    // Those who never answered are forgotten.
    for (int i = 0; i < 200; i++) {
        scene.peer.pass(second);
        scene.peer.discard();
    }
    CHECK(scene.server.listener->request_count() == 0);
    scene.check_serving(4003);
}

TEST_CASE("segments without sense, to connections in all states, leave the stack serving") {
    for (u32 seed = 1; seed <= 4; seed++) {
        Scene scene;
        std::mt19937 engine(seed);
        const auto random = [&] { return static_cast<u32>(engine()); };
        std::vector<Program> programs;
        for (u32 i = 0; i < 20'000; i++) {
            Segment odd;
            odd.flags = static_cast<u8>(random());
            odd.source_port = static_cast<u16>(4000 + random() % 4);
            odd.destination_port = random() % 8 != 0 ? 80 : static_cast<u16>(random());
            odd.sequence = 5000 + random() % 4 * 1000 + random() % 3;
            odd.acknowledgement =
                random() % 2 != 0 && !programs.empty() ? scene.peer.next + random() % 3 : random();
            odd.window = static_cast<u16>(random());
            odd.urgent = random() % 4 == 0 ? static_cast<u16>(random() % 64) : u16{0};
            odd.options.mss = static_cast<u16>(random() % 3 == 0 ? random() : 0);
            odd.options.has_scale = random() % 3 == 0;
            odd.options.scale = static_cast<u8>(random() % 15);
            odd.options.sack_permitted = random() % 2 == 0;
            odd.options.has_timestamp = random() % 3 == 0;
            odd.options.timestamp = random();
            odd.options.echo = random() % 2 == 0 ? random() : 0;
            odd.options.sack_count = static_cast<u8>(random() % 3);
            for (auto& block : odd.options.sacks)
                block = {Sequence(random()), Sequence(random())};
            if (random() % 3 == 0)
                odd.data.assign(random() % 600, 'x');
            scene.receive(address_b, odd);
            while (!scene.peer.quiet()) {
                const Segment answer = scene.peer.take();
                if (answer.has(flag_syn))
                    scene.peer.next = answer.sequence + 1;
            }
            if (scene.server.pending())
                programs.push_back(scene.server.accept());
            if (!programs.empty() && random() % 16 == 0) {
                Program& any = programs[random() % programs.size()];
                (void)any.receive();
                if (random() % 4 == 0)
                    (void)any.send("some data");
            }
            if (programs.size() > 8)
                programs.erase(programs.begin());
            if (random() % 64 == 0)
                scene.peer.pass(random() % 2000 * ms);
        }
        programs.clear();
        scene.check_serving(4100);
    }
}

TEST_CASE("blind resets and SYNs through the whole window end nothing and are answered rarely") {
    Scene scene;
    scene.peer.open(80);
    Program program = scene.server.accept();
    scene.peer.discard();
    usize answers = 0;
    for (u32 step = 1; step < 65'000; step += 97) {
        for (const u8 flag : {u8{flag_rst}, u8{flag_syn}}) {
            scene.peer.send(flag, scene.peer.sequence + step, scene.peer.next);
            answers += scene.peer.waiting();
            scene.peer.discard();
        }
    }
    CHECK(answers <= 4); // one in half a second
    CHECK(program.state() == State::Established);
    // Acknowledgements of what was never sent neither (RFC 5961, 5).
    for (u32 i = 0; i < 1000; i++)
        scene.peer.send(flag_ack, scene.peer.sequence, scene.peer.next + 1 + i * 4'000'000, "bad");
    CHECK(program.receive().empty());
    scene.peer.discard();
    scene.peer.send(flag_ack | flag_psh, scene.peer.sequence, scene.peer.next, "good");
    CHECK(program.receive() == "good");
}

TEST_CASE("a connection keeps IP options of its own, whatever becomes of the socket's") {
    Scene scene;
    auto options = std::make_unique<std::array<u8, 4>>();
    options->fill(1); // nothing, four times
    net::Flow model;
    model.options = {options->data(), options->size()};
    {
        SpinGuard guard(scene.server.listener->lock);
        scene.server.listener->set_model(std::move(model));
    }
    options = nullptr;
    scene.peer.open(80);
    Program program = scene.server.accept();
    scene.server.close(); // the listener goes, too
    scene.peer.discard();
    CHECK(program.send("x") == 1);
    REQUIRE(scene.peer.waiting() == 1);
    u8 header[24];
    REQUIRE(scene.host.wire->sent.front()->copy_out(0, header, sizeof header));
    CHECK(header[0] == 0x46);
    CHECK(std::string(header + 20, header + 24) == std::string(4, 1));
}
