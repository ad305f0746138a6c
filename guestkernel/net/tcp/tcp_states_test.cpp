// The state machine against a peer that follows a script: RFC 9293 and what came after it.
#include <linux/errno.h>

#include "guestkernel/net/route.hpp"
#include "guestkernel/net/tcp/test_support.hpp"

using namespace kernel;
using namespace kernel::tcp;
using namespace kernel::tcp::test;

namespace {

struct Fixture {
    Machine machine;
    Host host{machine, address_a};
    Peer peer{machine, host};

    Program connect(const Options& offer = {}, u32 window = 65535,
                    const ConnectionOptions* options = nullptr) {
        Program program = Program::open(host, address_b, 80, false, options);
        net::run_backlog();
        peer.serve_handshake(offer, window);
        CHECK(program.state() == State::Established);
        return program;
    }
};

Options all_options() {
    Options out;
    out.mss = 1460;
    out.has_scale = true;
    out.scale = 7;
    out.sack_permitted = true;
    out.has_timestamp = true;
    return out;
}

Options sack_options() {
    Options out;
    out.mss = 1460;
    out.sack_permitted = true;
    return out;
}

} // namespace

TEST_CASE("active open: SYN with all options, then established") {
    Fixture f;
    Program program = Program::open(f.host, address_b, 80);
    CHECK(program.state() == State::SynSent);
    const Segment syn = f.peer.expect(flag_syn);
    CHECK(syn.options.mss == 1460);
    CHECK(syn.options.has_scale);
    CHECK(syn.options.sack_permitted);
    CHECK(syn.options.has_timestamp);
    CHECK(syn.options.echo == 0);
    CHECK(syn.window == 64240);
    f.peer.host_port = syn.source_port;
    f.peer.port = 80;
    f.peer.send(flag_syn | flag_ack, 5000, syn.sequence + 1);
    const Segment ack = f.peer.expect(flag_ack);
    CHECK(ack.sequence == syn.sequence + 1);
    CHECK(ack.acknowledgement == 5001);
    CHECK(!ack.options.has_timestamp); // the peer did not want them
    CHECK(program.state() == State::Established);
    CHECK(f.host.tcp().established.load() == 1);
}

TEST_CASE("SYNs of both ends announce what fits the route's packets, not the interface's") {
    const auto [mtu, mss] = GENERATE(std::pair<u32, u16>(1400, u16{1360}),
                                     std::pair<u32, u16>(9000, u16{1460}), // the link has 1500
                                     std::pair<u32, u16>(200, u16{256}));  // min_adv_mss
    Fixture f;
    auto route = make_owned<net::Route>();
    REQUIRE(route);
    (*route)->prefix = address_b;
    (*route)->length = 32;
    (*route)->mtu = mtu;
    (*route)->scope = net::scope_link;
    net::NextHop hop;
    hop.interface = Ref<net::Interface>(f.host.wire);
    REQUIRE((*route)->hops.push_back(std::move(hop)));
    REQUIRE(net::add_route(f.host, std::move(*route), net::RouteTables::AddMode::Exclusive));
    Program program = Program::open(f.host, address_b, 80);
    CHECK(f.peer.expect(flag_syn).options.mss == mss);
    Server server(f.host, 80);
    Segment syn;
    syn.flags = flag_syn;
    syn.sequence = 5000;
    syn.window = 65535;
    f.peer.host_port = 80;
    f.peer.send(syn);
    CHECK(f.peer.expect(flag_syn | flag_ack).options.mss == mss);
}

TEST_CASE("a SYN is sent again after 1, 2, 4 ... seconds and given up in the end") {
    Fixture f;
    Program program = Program::open(f.host, address_b, 80);
    f.peer.expect(flag_syn);
    for (u64 wait = 1; wait <= 32; wait *= 2) {
        f.peer.pass(wait * second - ms);
        CHECK(f.peer.quiet());
        f.peer.pass(ms);
        f.peer.expect(flag_syn);
    }
    f.peer.pass(64 * second);
    CHECK(f.peer.quiet());
    CHECK(program.state() == State::Closed);
    CHECK(program.connection->error == ETIMEDOUT);
}

TEST_CASE("a reset in answer to a SYN refuses; one that does not acknowledge it is ignored") {
    Fixture f;
    Program program = Program::open(f.host, address_b, 80);
    const Segment syn = f.peer.expect(flag_syn);
    f.peer.host_port = syn.source_port;
    f.peer.port = 80;
    f.peer.send(flag_rst, 0, 0);
    CHECK(program.state() == State::SynSent);
    f.peer.send(flag_rst | flag_ack, 0, syn.sequence + 100);
    CHECK(program.state() == State::SynSent);
    f.peer.send(flag_rst | flag_ack, 0, syn.sequence + 1);
    CHECK(program.state() == State::Closed);
    CHECK(program.connection->error == ECONNREFUSED);
}

TEST_CASE("an acknowledgement of what a SYN never was is answered with a reset") {
    Fixture f;
    Program program = Program::open(f.host, address_b, 80);
    const Segment syn = f.peer.expect(flag_syn);
    f.peer.host_port = syn.source_port;
    f.peer.port = 80;
    f.peer.send(flag_ack, 5000, syn.sequence + 77);
    const Segment reset = f.peer.expect(flag_rst);
    CHECK(reset.sequence == syn.sequence + 77);
    CHECK(program.state() == State::SynSent);
}

TEST_CASE("simultaneous open") {
    Fixture f;
    Program program = Program::open(f.host, address_b, 80);
    const Segment syn = f.peer.expect(flag_syn);
    f.peer.host_port = syn.source_port;
    f.peer.port = 80;
    f.peer.send(flag_syn, 5000, 0);
    CHECK(program.state() == State::SynReceived);
    const Segment answer = f.peer.expect(flag_syn | flag_ack);
    CHECK(answer.sequence == syn.sequence);
    CHECK(answer.acknowledgement == 5001);
    f.peer.send(flag_syn | flag_ack, 5000, syn.sequence + 1); // as RFC 9293, figure 8
    f.peer.send(flag_ack, 5001, syn.sequence + 1);
    CHECK(program.state() == State::Established);
}

TEST_CASE("passive open: request, connection, accept") {
    Fixture f;
    Server server(f.host, 80);
    f.peer.open(80, all_options());
    CHECK(server.pending());
    Program program = server.accept();
    CHECK(program.state() == State::Established);
    CHECK(server.listener->request_count() == 0);
    f.peer.send(flag_ack | flag_psh, 5001, f.peer.next, "hello");
    CHECK(program.receive() == "hello");
    const Segment ack = f.peer.expect(flag_ack);
    CHECK(ack.acknowledgement == 5006);
    CHECK(ack.options.echo == f.peer.stamp());
}

TEST_CASE("a SYN-ACK is sent again, and the request given up after five times") {
    Fixture f;
    Server server(f.host, 80);
    f.peer.host_port = 80;
    f.peer.send(flag_syn, 5000, 0);
    f.peer.expect(flag_syn | flag_ack);
    for (u64 wait = 1; wait <= 16; wait *= 2) {
        f.peer.pass(wait * second);
        f.peer.expect(flag_syn | flag_ack);
        CHECK(server.listener->request_count() == 1);
    }
    f.peer.pass(32 * second);
    CHECK(f.peer.quiet());
    CHECK(server.listener->request_count() == 0);
}

TEST_CASE("a client that begins anew with other numbers is let in") {
    Fixture f;
    Server server(f.host, 80);
    f.peer.host_port = 80;
    f.peer.send(flag_syn, 5000, 0);
    f.peer.expect(flag_syn | flag_ack);
    f.peer.send(flag_syn, 900'000, 0);
    REQUIRE_FALSE(f.peer.quiet());
    CHECK(f.peer.expect(flag_syn | flag_ack).acknowledgement == 5001);
    f.peer.send(flag_syn, 900'000, 0); // one answer in half a second
    CHECK(f.peer.quiet());
    f.peer.send(flag_rst, 5001, 0);
    CHECK(server.listener->request_count() == 0);
    f.peer.send(flag_syn, 900'000, 0);
    const Segment answer = f.peer.expect(flag_syn | flag_ack);
    CHECK(answer.acknowledgement == 900'001);
    f.peer.send(flag_ack, 900'001, answer.sequence + 1);
    CHECK(server.accept().state() == State::Established);
}

TEST_CASE("a wrong acknowledgement of a SYN-ACK is answered with a reset and changes nothing") {
    Fixture f;
    Server server(f.host, 80);
    f.peer.host_port = 80;
    f.peer.send(flag_syn, 5000, 0);
    const Segment answer = f.peer.expect(flag_syn | flag_ack);
    f.peer.send(flag_ack, 5001, answer.sequence + 9);
    f.peer.expect(flag_rst);
    CHECK(server.listener->request_count() == 1);
    f.peer.send(flag_rst, 5002, 0);
    CHECK(server.listener->request_count() == 1);
    f.peer.send(flag_rst, 5001, 0);
    CHECK(server.listener->request_count() == 0);
}

TEST_CASE("a closed port resets: with the acknowledged number, or acknowledging all of it") {
    Fixture f;
    f.peer.host_port = 81;
    f.peer.send(flag_syn, 5000, 0);
    const Segment first = f.peer.expect(flag_rst | flag_ack);
    CHECK(first.sequence == 0);
    CHECK(first.acknowledgement == 5001);
    f.peer.send(flag_ack, 5000, 777, "abc");
    CHECK(f.peer.expect(flag_rst).sequence == 777);
    f.peer.send(flag_rst, 5000, 0);
    CHECK(f.peer.quiet());
}

TEST_CASE("a backlog that is full takes no more; abort_on_overflow says so") {
    Fixture f;
    Server server(f.host, 80, 1);
    for (u16 port = 4000; port < 4002; port++) {
        f.peer.port = port;
        f.peer.open(80);
    }
    CHECK(server.listener->pending_count() == 2);
    f.peer.port = 4002;
    f.peer.send(flag_syn, 5000, 0);
    CHECK(f.peer.quiet());
    CHECK(f.host.tcp().counters.listen_overflows.load() == 1);
}

TEST_CASE("SYN cookies serve a flood without memory, and keep all options with timestamps") {
    Fixture f;
    Server server(f.host, 80, 4);
    for (u16 port = 10'000; port < 10'500; port++) {
        f.peer.port = port;
        f.peer.host_port = 80;
        f.peer.send(flag_syn, 1, 0);
    }
    CHECK(server.listener->request_count() <= 6);
    CHECK(f.host.tcp().counters.syn_cookies_sent.load() > 400);
    f.peer.discard();
    f.peer.port = 4000;
    f.peer.open(80, all_options(), 10); // scaled by 7: 1280 bytes
    REQUIRE(server.pending());
    Program program = server.accept();
    CHECK(program.state() == State::Established);
    const std::string data(5000, 'x');
    program.send(data);
    CHECK(f.peer.take().data.size() == 1280);
    // Made-up acknowledgements are refused.
    f.peer.port = 4001;
    f.peer.timestamps = false;
    f.peer.discard();
    f.peer.send(flag_ack, 5001, 123456);
    f.peer.expect(flag_rst);
    CHECK(f.host.tcp().counters.syn_cookies_failed.load() == 1);
}

TEST_CASE("TCP_DEFER_ACCEPT waits for data") {
    Fixture f;
    ConnectionOptions options;
    options.defer_accept_retries = 3;
    Server server(f.host, 80, 10, options);
    f.peer.open(80);
    CHECK(!server.pending());
    f.peer.send(flag_ack | flag_psh, 5001, f.peer.next, "GET");
    REQUIRE(server.pending());
    Program program = server.accept();
    CHECK(program.receive() == "GET");
}

TEST_CASE("data both ways, and acknowledgements that ride on answers") {
    Fixture f;
    Program program = f.connect(all_options());
    program.send("ping");
    const Segment sent = f.peer.expect(flag_ack);
    CHECK(sent.data == "ping");
    CHECK(sent.sequence == f.peer.next);
    f.peer.send(flag_ack | flag_psh, 5001, f.peer.next + 4, "pong");
    f.peer.discard(); // a quick acknowledgement: the conversation is new
    CHECK(program.receive() == "pong");
    program.send("ping");
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5005);
    // From now on the acknowledgement waits for the answer.
    f.peer.send(flag_ack | flag_psh, 5005, f.peer.next + 8, "pong");
    CHECK(program.receive() == "pong");
    CHECK(f.peer.quiet());
    program.send("ping");
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5009);
    f.peer.send(flag_ack | flag_psh, 5009, f.peer.next + 12, "pong");
    CHECK(program.receive() == "pong");
    CHECK(f.peer.quiet());
    f.peer.pass(39 * ms);
    CHECK(f.peer.quiet());
    f.peer.pass(2 * ms);
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5013);
}

TEST_CASE("two full segments are acknowledged at once") {
    Fixture f;
    Program program = f.connect(sack_options());
    program.send("x"); // makes it a conversation: no quick acknowledgements
    f.peer.take();
    f.peer.send(flag_ack, 5001, f.peer.next + 1, std::string(1460, 'a'));
    (void)program.receive();
    f.peer.discard();
    program.send("y");
    f.peer.take();
    f.peer.send(flag_ack, 6461, f.peer.next + 2, std::string(1460, 'a'));
    (void)program.receive();
    CHECK(f.peer.quiet());
    f.peer.send(flag_ack, 7921, f.peer.next + 2, std::string(1460, 'b'));
    (void)program.receive();
    CHECK(f.peer.expect(flag_ack).acknowledgement == 9381);
}

TEST_CASE("Nagle: a small segment waits for the last; NODELAY and CORK change that") {
    Fixture f;
    Program program = f.connect();
    program.send("a");
    CHECK(f.peer.expect(flag_ack).data == "a");
    program.send("b");
    program.send("c");
    CHECK(f.peer.quiet());
    f.peer.send(flag_ack, 5001, f.peer.next + 1);
    CHECK(f.peer.expect(flag_ack).data == "bc");
    program.connection->options.no_delay = true;
    program.send("d");
    CHECK(f.peer.expect(flag_ack).data == "d");
    f.peer.send(flag_ack, 5001, f.peer.next + 4);
    program.connection->options.cork = true;
    program.send("e");
    CHECK(f.peer.quiet());
    program.send(std::string(600, 'f'));
    CHECK(f.peer.expect(flag_ack).data.size() == 536);
    program.connection->options.cork = false;
    {
        SpinGuard guard(program.connection->lock);
        program.connection->push_output(true);
    }
    CHECK(f.peer.expect(flag_ack).data.size() == 65);
}

TEST_CASE("what TCP_CORK and MSG_MORE hold back leaves after a while, if nothing follows") {
    Fixture f;
    Program program = f.connect();
    program.send(std::string("a"), true);
    f.peer.pass(100 * ms);
    CHECK(f.peer.quiet());
    program.send(std::string("b"), true); // no new patience
    f.peer.pass(200 * ms);
    REQUIRE_FALSE(f.peer.quiet());
    CHECK(f.peer.expect(flag_ack).data == "ab");
    f.peer.send(flag_ack, 5001, f.peer.next + 2);
    program.connection->options.cork = true;
    program.send("c");
    CHECK(f.peer.quiet());
    f.peer.pass(300 * ms);
    REQUIRE_FALSE(f.peer.quiet());
    CHECK(f.peer.expect(flag_ack).data == "c");
}

TEST_CASE("a big write leaves as one packet that is cut up later, in whole segments") {
    Fixture f;
    Program program = f.connect(all_options());
    program.send(std::string(14480, 'x'));
    const Segment sent = f.peer.take();
    CHECK(sent.data.size() == 14480); // the initial window: ten segments of 1448
    CHECK(sent.segment_size == 1448);
    CHECK(f.peer.quiet());
}

TEST_CASE("out of order: a duplicate acknowledgement with SACK at once, then all of it") {
    Fixture f;
    Program program = f.connect(all_options());
    f.peer.send(flag_ack, 5006, f.peer.next, "world");
    Segment ack = f.peer.expect(flag_ack);
    CHECK(ack.acknowledgement == 5001);
    REQUIRE(ack.options.sack_count == 1);
    CHECK(ack.options.sacks[0] == SequenceRange{Sequence(5006), Sequence(5011)});
    CHECK(program.connection->readable() == 0);
    f.peer.send(flag_ack, 5001, f.peer.next, "hello");
    ack = f.peer.expect(flag_ack);
    CHECK(ack.acknowledgement == 5011);
    CHECK(ack.options.sack_count == 0);
    CHECK(program.receive() == "helloworld");
    // The same again is reported as a duplicate (RFC 2883).
    f.peer.pass(second);
    f.peer.send(flag_ack, 5001, f.peer.next, "hello");
    ack = f.peer.expect(flag_ack);
    REQUIRE(ack.options.sack_count == 1);
    CHECK(ack.options.sacks[0] == SequenceRange{Sequence(5001), Sequence(5006)});
}

TEST_CASE("overlapping segments are cut to what is new") {
    Fixture f;
    Program program = f.connect();
    f.peer.send(flag_ack, 5001, f.peer.next, "abcde");
    f.peer.send(flag_ack, 5003, f.peer.next, "cdefg");
    CHECK(program.receive() == "abcdefg");
}

TEST_CASE("three duplicate acknowledgements retransmit, without SACK") {
    Fixture f;
    Options offer;
    offer.mss = 1000;
    Program program = f.connect(offer);
    program.send(std::string(10'000, 'x'));
    f.peer.discard();
    const u32 una = f.peer.next;
    f.peer.pass(10 * ms);
    f.peer.send(flag_ack, 5001, una + 1000);
    f.peer.discard();
    for (int i = 0; i < 2; i++)
        f.peer.send(flag_ack, 5001, una + 1000);
    CHECK(f.peer.quiet());
    f.peer.send(flag_ack, 5001, una + 1000);
    const Segment again = f.peer.take();
    CHECK(again.sequence == una + 1000);
    CHECK(again.data.size() == 1000);
    CHECK(f.host.tcp().counters.fast_retransmits.load() == 1);
    // A partial acknowledgement: the next hole.
    f.peer.discard();
    f.peer.send(flag_ack, 5001, una + 4000);
    CHECK(f.peer.take().sequence == una + 4000);
}

TEST_CASE("SACK repairs exactly the holes") {
    Fixture f;
    Options offer = sack_options();
    offer.mss = 1000;
    Program program = f.connect(offer);
    program.send(std::string(10'000, 'x'));
    f.peer.discard();
    const u32 una = f.peer.next;
    f.peer.pass(10 * ms);
    Segment ack;
    ack.flags = flag_ack;
    ack.sequence = 5001;
    ack.acknowledgement = una + 1000;
    ack.window = 65535;
    ack.options.sack_count = 2;
    ack.options.sacks[0] = {Sequence(una + 6000), Sequence(una + 8000)};
    ack.options.sacks[1] = {Sequence(una + 2000), Sequence(una + 5000)};
    f.peer.send(ack);
    std::vector<u32> again;
    while (!f.peer.quiet())
        again.push_back(f.peer.take().sequence - una);
    CHECK(again == std::vector<u32>{1000, 5000});
    ack.acknowledgement = una + 10'000;
    ack.options.sack_count = 0;
    f.peer.pass(10 * ms);
    f.peer.send(ack);
    CHECK(f.peer.quiet());
}

TEST_CASE("a tail that is lost is probed for before the timer") {
    Fixture f;
    Options offer = all_options();
    Program program = f.connect(offer);
    for (int i = 0; i < 5; i++) { // a round-trip time of 20 ms
        program.send("x");
        f.peer.take();
        f.peer.pass(20 * ms);
        f.peer.next++;
        f.peer.send(flag_ack, 5001, f.peer.next);
        f.peer.discard();
    }
    program.send(std::string(1448, 'x'));
    program.send(std::string(1448, 'y'));
    CHECK(f.peer.waiting() == 2);
    f.peer.discard();
    f.peer.pass(60 * ms);
    const Segment probe = f.peer.take();
    CHECK(probe.sequence == f.peer.next + 1448);
    CHECK(probe.data[0] == 'y');
    CHECK(f.host.tcp().counters.loss_probes.load() == 1);
}

TEST_CASE("the retransmission timer doubles, and TCP_USER_TIMEOUT ends it") {
    Fixture f;
    ConnectionOptions options;
    options.user_timeout_ms = 5000;
    Program program = f.connect({}, 65535, &options);
    program.send("lost");
    f.peer.take();
    u64 last = f.machine.clock.now();
    std::vector<u64> gaps;
    for (int i = 0; i < 400 && program.state() != State::Closed; i++) {
        f.peer.pass(50 * ms);
        if (f.peer.quiet())
            continue;
        CHECK(f.peer.take().data == "lost");
        gaps.push_back((f.machine.clock.now() - last) / ms);
        last = f.machine.clock.now();
    }
    REQUIRE(gaps.size() >= 3);
    CHECK(gaps[1] >= 2 * gaps[0] - 100);
    CHECK(gaps[2] >= 2 * gaps[1] - 100);
    CHECK(program.state() == State::Closed);
    CHECK(program.connection->error == ETIMEDOUT);
}

TEST_CASE("a spurious timeout is undone by the echo of the original") {
    Fixture f;
    Program program = f.connect(all_options());
    program.send(std::string(2 * 1448, 'x'));
    Segment original = f.peer.take();
    const u32 echo = original.options.timestamp;
    f.peer.discard();
    f.peer.pass(2 * second);
    CHECK(f.host.tcp().counters.timeouts.load() >= 1);
    f.peer.discard();
    f.peer.echo = echo;
    f.peer.send(flag_ack, 5001, f.peer.next + 2 * 1448);
    CHECK(f.host.tcp().counters.spurious.load() == 1);
}

TEST_CASE("a closed window is probed, and opens again") {
    Fixture f;
    Program program = f.connect({}, 100);
    program.send(std::string(500, 'x'));
    CHECK(f.peer.take().data.size() == 100);
    CHECK(f.peer.quiet());
    f.peer.send(flag_ack, 5001, f.peer.next + 100, {}, 0);
    CHECK(f.peer.quiet());
    u64 waited = 0;
    while (f.peer.quiet() && waited < 5000) {
        f.peer.pass(10 * ms);
        waited += 10;
    }
    const Segment probe = f.peer.expect(flag_ack);
    CHECK(probe.sequence == f.peer.next + 99); // acknowledged already
    f.peer.send(flag_ack, 5001, f.peer.next + 100, {}, 0);
    f.peer.pass(30 * second);
    CHECK(f.peer.waiting() >= 2);
    CHECK(program.state() == State::Established);
    f.peer.discard();
    f.peer.send(flag_ack, 5001, f.peer.next + 100, {}, 1000);
    CHECK(f.peer.take().data.size() == 400);
}

TEST_CASE("a window that stays closed is probed ever more rarely; for an orphan, not for ever") {
    Fixture f;
    Program program = f.connect({}, 100);
    program.send(std::string(500, 'x'));
    CHECK(f.peer.take().data.size() == 100);
    u32 probes = 0;
    // Every probe is answered.
    const auto pass = [&](u64 seconds) {
        for (u64 i = 0; i < 10 * seconds; i++) {
            f.peer.pass(100 * ms);
            const bool asked = !f.peer.quiet();
            f.peer.discard();
            if (asked)
                f.peer.send(flag_ack, 5001, f.peer.next + 100, {}, 0);
            probes += asked ? 1 : 0;
        }
    };
    f.peer.send(flag_ack, 5001, f.peer.next + 100, {}, 0);
    pass(60);
    CHECK(probes >= 5);
    CHECK(probes <= 15);
    pass(3600);
    CHECK(program.state() == State::Established);
    program.close();
    CHECK(f.host.tcp().orphans.load() == 1);
    pass(600);
    CHECK(f.host.tcp().orphans.load() == 0);
}

TEST_CASE("our window closes as data piles up, is never taken back, and opens with reading") {
    Fixture f;
    ConnectionOptions options;
    options.receive_buffer = 20'000;
    options.receive_buffer_fixed = true;
    Program program = f.connect({}, 65535, &options);
    u32 sequence = 5001;
    u32 right = 0;
    u32 window = 9380;
    for (int i = 0; i < 60; i++) {
        const u32 piece = std::min(500u, window);
        if (piece == 0)
            break;
        f.peer.send(flag_ack, sequence, f.peer.next, std::string(piece, 'x'));
        sequence += piece;
        f.peer.pass(250 * ms);
        Segment last;
        while (!f.peer.quiet())
            last = f.peer.take();
        window = last.window;
        CHECK(last.acknowledgement == sequence);
        CHECK(last.acknowledgement + window >= right);
        right = last.acknowledgement + window;
    }
    CHECK(window == 0);
    // Beyond the window: refused, and answered.
    f.peer.send(flag_ack, sequence, f.peer.next, "more");
    CHECK(f.peer.expect(flag_ack).acknowledgement == sequence);
    const std::string got = program.receive();
    CHECK(got.size() == sequence - 5001);
    const Segment update = f.peer.expect(flag_ack);
    CHECK(update.window > 5000);
}

TEST_CASE("closing from this side: FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT") {
    Fixture f;
    Program program = f.connect(all_options());
    program.shut();
    const Segment fin = f.peer.expect(flag_ack | flag_fin);
    CHECK(program.state() == State::FinWait1);
    f.peer.next = fin.sequence + 1;
    f.peer.send(flag_ack, 5001, f.peer.next);
    CHECK(program.state() == State::FinWait2);
    f.peer.send(flag_ack | flag_psh, 5001, f.peer.next, "late"); // half closed
    CHECK(program.receive() == "late");
    f.peer.discard();
    f.peer.send(flag_ack | flag_fin, 5005, f.peer.next);
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5006);
    CHECK(program.state() == State::Closed);
    CHECK(program.connection->peer_finished());
    CHECK(program.connection->error == 0);
    CHECK(f.host.tcp().time_wait_count() == 1);
    program.close();
    // The FIN once more: our acknowledgement was lost. It restarts the wait.
    f.peer.pass(30 * second);
    f.peer.send(flag_ack | flag_fin, 5005, f.peer.next);
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5006);
    f.peer.pass(31 * second);
    CHECK(f.host.tcp().time_wait_count() == 1);
    f.peer.pass(30 * second);
    CHECK(f.host.tcp().time_wait_count() == 0);
    f.peer.send(flag_ack, 5006, f.peer.next);
    f.peer.expect(flag_rst);
}

TEST_CASE("closing from both sides at once: CLOSING") {
    Fixture f;
    Program program = f.connect();
    program.shut();
    const Segment fin = f.peer.expect(flag_ack | flag_fin);
    f.peer.send(flag_ack | flag_fin, 5001, fin.sequence);
    CHECK(program.state() == State::Closing);
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5002);
    f.peer.send(flag_ack, 5002, fin.sequence + 1);
    CHECK(program.state() == State::Closed);
    CHECK(f.host.tcp().time_wait_count() == 1);
}

TEST_CASE("FIN and its acknowledgement in one segment: straight to TIME-WAIT") {
    Fixture f;
    Program program = f.connect();
    program.shut();
    const Segment fin = f.peer.expect(flag_ack | flag_fin);
    f.peer.send(flag_ack | flag_fin, 5001, fin.sequence + 1);
    CHECK(program.state() == State::Closed);
    CHECK(f.host.tcp().time_wait_count() == 1);
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5002);
}

TEST_CASE("closing from the other side: CLOSE-WAIT, LAST-ACK, gone") {
    Fixture f;
    Program program = f.connect();
    f.peer.send(flag_ack | flag_fin, 5001, f.peer.next, "end");
    CHECK(program.state() == State::CloseWait);
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5005);
    CHECK(program.receive() == "end");
    CHECK(program.connection->peer_finished());
    program.send("bye");
    CHECK(f.peer.expect(flag_ack).data == "bye");
    program.shut();
    const Segment fin = f.peer.expect(flag_ack | flag_fin);
    CHECK(program.state() == State::LastAck);
    f.peer.send(flag_ack, 5005, fin.sequence + 1);
    CHECK(program.state() == State::Closed);
    CHECK(f.host.tcp().time_wait_count() == 0);
    CHECK(Table::get().size() == 0);
}

TEST_CASE("a FIN ahead of its data waits for them") {
    Fixture f;
    Program program = f.connect();
    f.peer.send(flag_ack | flag_fin, 5006, f.peer.next);
    f.peer.discard();
    CHECK(program.state() == State::Established);
    f.peer.send(flag_ack, 5001, f.peer.next, "hello");
    CHECK(program.state() == State::CloseWait);
    CHECK(program.receive() == "hello");
    CHECK(f.peer.take().acknowledgement == 5007);
}

TEST_CASE("close with unread data resets; so does data for nobody") {
    Fixture f;
    {
        Program program = f.connect();
        f.peer.send(flag_ack, 5001, f.peer.next, "unread");
        f.peer.discard();
        program.close();
        f.peer.expect(flag_rst | flag_ack);
    }
    f.peer.port = 4000;
    Program program = f.connect();
    program.close();
    const Segment fin = f.peer.expect(flag_ack | flag_fin);
    CHECK(f.host.tcp().orphans.load() == 1);
    f.peer.send(flag_ack, 5001, fin.sequence + 1, "too late");
    f.peer.expect(flag_rst | flag_ack);
    CHECK(f.host.tcp().orphans.load() == 0);
}

TEST_CASE("an orphan in FIN-WAIT-2 is forgotten after a minute") {
    Fixture f;
    Program program = f.connect();
    program.close();
    const Segment fin = f.peer.expect(flag_ack | flag_fin);
    f.peer.send(flag_ack, 5001, fin.sequence + 1);
    CHECK(f.host.tcp().orphans.load() == 1);
    f.peer.pass(61 * second);
    CHECK(f.host.tcp().orphans.load() == 0);
    CHECK(f.host.tcp().sockets.load() == 0);
}

TEST_CASE("SO_LINGER of zero resets") {
    Fixture f;
    Program program = f.connect();
    program.close(true);
    f.peer.expect(flag_rst | flag_ack);
    CHECK(Table::get().size() == 0);
}

TEST_CASE("RFC 5961: only the exact number resets; others and SYNs get a challenge") {
    Fixture f;
    Program program = f.connect();
    f.peer.send(flag_rst, 5100, 0);
    CHECK(program.state() == State::Established);
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5001);
    f.peer.pass(second);
    f.peer.send(flag_syn, 5050, 0);
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5001);
    CHECK(program.state() == State::Established);
    f.peer.send(flag_rst, 5200, 0); // within half a second: not answered
    CHECK(f.peer.quiet());
    f.peer.pass(second);
    f.peer.send(flag_ack, 5001, f.peer.next + 50'000, "x"); // acknowledges the future
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5001);
    CHECK(program.connection->readable() == 0);
    f.peer.send(flag_rst, 5000u - 70'000, 0); // outside
    CHECK(f.peer.quiet());
    f.peer.send(flag_rst, 5001, 0);
    CHECK(program.state() == State::Closed);
    CHECK(program.connection->error == ECONNRESET);
}

TEST_CASE("PAWS: an old timestamp is not taken") {
    Fixture f;
    Program program = f.connect(all_options());
    f.peer.send(flag_ack, 5001, f.peer.next, "new");
    f.peer.discard();
    Segment old;
    old.flags = flag_ack;
    old.sequence = 5004;
    old.acknowledgement = f.peer.next;
    old.data = "old";
    old.options.has_timestamp = true;
    old.options.timestamp = f.peer.stamp() - 1000;
    f.peer.pass(second);
    f.peer.send(old);
    CHECK(f.peer.expect(flag_ack).acknowledgement == 5004);
    CHECK(program.receive() == "new");
    CHECK(f.host.tcp().counters.paws_rejected.load() == 1);
}

TEST_CASE("a damaged checksum is not taken") {
    Fixture f;
    Program program = f.connect();
    Segment data;
    data.flags = flag_ack;
    data.sequence = 5001;
    data.acknowledgement = f.peer.next;
    data.data = "data";
    data.source_port = f.peer.port;
    data.destination_port = f.peer.host_port;
    f.host.wire->receive(make_ip(address_b, address_a, data, false));
    CHECK(program.connection->readable() == 0);
    CHECK(f.host.tcp().counters.in_checksum_errors.load() == 1);
}

TEST_CASE("keepalive: idle, probes, the end") {
    Fixture f;
    ConnectionOptions options;
    options.keepalive = true;
    options.keepalive_idle_s = 10;
    options.keepalive_interval_s = 5;
    options.keepalive_probes = 3;
    Program program = f.connect({}, 65535, &options);
    f.peer.pass(9 * second);
    CHECK(f.peer.quiet());
    f.peer.pass(2 * second);
    const Segment probe = f.peer.expect(flag_ack);
    CHECK(probe.sequence == f.peer.next - 1);
    f.peer.send(flag_ack, 5001, f.peer.next); // alive
    f.peer.pass(9 * second);
    CHECK(f.peer.quiet());
    f.peer.pass(2 * second);
    f.peer.expect(flag_ack);
    for (int i = 0; i < 2; i++) {
        f.peer.pass(5 * second);
        f.peer.expect(flag_ack);
    }
    f.peer.pass(5 * second);
    f.peer.expect(flag_rst | flag_ack);
    CHECK(program.state() == State::Closed);
    CHECK(program.connection->error == ETIMEDOUT);
}

TEST_CASE("urgent data: the mark, the byte out of line, and sending it") {
    Fixture f;
    Program program = f.connect();
    Segment urgent;
    urgent.flags = flag_ack | flag_urg;
    urgent.sequence = 5001;
    urgent.acknowledgement = f.peer.next;
    urgent.data = "ab!cd";
    urgent.urgent = 3; // the byte after '!'
    urgent.window = 65535;
    f.peer.send(urgent);
    CHECK(program.connection->urgent().pending);
    CHECK(program.connection->urgent().valid);
    CHECK(program.connection->urgent().byte == '!');
    CHECK(program.connection->urgent().at == Sequence(5003));
    CHECK((program.connection->poll_events() & 2) != 0);
    f.peer.discard();
    {
        program.commit("xyz");
        SpinGuard guard(program.connection->lock);
        program.connection->appended(3, false, false);
        program.connection->appended_urgent();
        program.connection->push_output();
    }
    const Segment sent = f.peer.expect(flag_ack | flag_urg);
    CHECK(sent.urgent == 3);
    CHECK(sent.data == "xyz");
}

TEST_CASE("a new SYN ends TIME-WAIT with numbers beyond the old ones") {
    Fixture f;
    Server server(f.host, 80);
    f.peer.open(80, all_options());
    Program program = server.accept();
    program.shut();
    const Segment fin = f.peer.expect(flag_ack | flag_fin);
    f.peer.send(flag_ack | flag_fin, 5001, fin.sequence + 1);
    CHECK(f.host.tcp().time_wait_count() == 1);
    program.close();
    f.peer.discard();
    f.peer.pass(10 * ms);
    Segment syn;
    syn.flags = flag_syn;
    syn.sequence = 9000;
    syn.window = 65535;
    syn.options = all_options();
    syn.options.timestamp = f.peer.stamp();
    f.peer.send(syn);
    const Segment answer = f.peer.expect(flag_syn | flag_ack);
    CHECK(answer.sequence == fin.sequence + 1 + 65535 + 2);
    CHECK(f.host.tcp().time_wait_count() == 0);
}

TEST_CASE("fast open as a server: data of the SYN are there before the handshake ends") {
    Fixture f;
    f.host.tcp().settings.fast_open = 3;
    ConnectionOptions options;
    options.fast_open_backlog = 5;
    Server server(f.host, 80, 10, options);
    Options ask = sack_options();
    ask.has_cookie = true;
    Segment syn;
    syn.flags = flag_syn;
    syn.sequence = 5000;
    syn.window = 65535;
    syn.options = ask;
    f.peer.host_port = 80;
    f.peer.send(syn);
    const Segment offer = f.peer.expect(flag_syn | flag_ack);
    REQUIRE(offer.options.has_cookie);
    CHECK(offer.options.cookie.length == 8);
    f.peer.send(flag_rst, 5001, 0);
    f.peer.port = 4001;
    syn.options.cookie = offer.options.cookie;
    syn.data = "GET /";
    f.peer.send(syn);
    const Segment answer = f.peer.expect(flag_syn | flag_ack);
    CHECK(answer.acknowledgement == 5006);
    REQUIRE(server.pending());
    Program program = server.accept();
    CHECK(program.state() == State::SynReceived);
    CHECK(program.receive() == "GET /");
    f.peer.send(flag_ack, 5006, answer.sequence + 1);
    CHECK(program.state() == State::Established);
    // A wrong cookie is an ordinary SYN.
    f.peer.port = 4002;
    f.peer.discard();
    syn.options.cookie.bytes[0] ^= 1;
    f.peer.send(syn);
    CHECK(f.peer.expect(flag_syn | flag_ack).acknowledgement == 5001);
}

TEST_CASE("fast open as a server: an answer ahead of the handshake's end is not lost with it") {
    Fixture f;
    f.host.tcp().settings.fast_open = 3;
    ConnectionOptions options;
    options.fast_open_backlog = 5;
    Server server(f.host, 80, 10, options);
    Segment syn;
    syn.flags = flag_syn;
    syn.sequence = 5000;
    syn.window = 65535;
    syn.options = sack_options();
    syn.options.has_cookie = true;
    f.peer.host_port = 80;
    f.peer.send(syn);
    syn.options.cookie = f.peer.expect(flag_syn | flag_ack).options.cookie;
    f.peer.send(flag_rst, 5001, 0);
    syn.data = "GET /";
    // As a server that is quick: the SYN-ACK is on its way still.
    u32 first = 0;
    const auto serve = [&](u16 port) {
        f.peer.port = port;
        f.peer.send(syn);
        first = f.peer.expect(flag_syn | flag_ack).sequence + 1;
        Program program = server.accept();
        program.commit("yes");
        {
            SpinGuard guard(program.connection->lock);
            program.connection->appended(3, false, true);
        }
        CHECK(f.peer.expect(flag_ack).data == "yes");
        CHECK(program.state() == State::SynReceived);
        return program;
    };
    // Both are lost at first; then the client has them.
    Program program = serve(4001);
    f.peer.pass(1100 * ms);
    f.peer.expect(flag_syn | flag_ack);
    f.peer.discard();
    f.peer.send(flag_ack, 5006, first + 3);
    CHECK(program.state() == State::Established);
    CHECK(program.connection->unacknowledged() == 0);
    CHECK(f.peer.quiet());
    // The answer alone is lost.
    Program other = serve(4002);
    f.peer.send(flag_ack, 5006, first);
    CHECK(other.state() == State::Established);
    f.peer.discard();
    f.peer.pass(5 * second);
    REQUIRE_FALSE(f.peer.quiet());
    CHECK(f.peer.take().data == "yes");
}

TEST_CASE(
    "fast open as a server: a close ahead of the handshake's end does not end the handshake") {
    Fixture f;
    f.host.tcp().settings.fast_open = 3;
    ConnectionOptions options;
    options.fast_open_backlog = 5;
    Server server(f.host, 80, 10, options);
    Segment syn;
    syn.flags = flag_syn;
    syn.sequence = 5000;
    syn.window = 65535;
    syn.options = sack_options();
    syn.options.has_cookie = true;
    f.peer.host_port = 80;
    f.peer.send(syn);
    syn.options.cookie = f.peer.expect(flag_syn | flag_ack).options.cookie;
    f.peer.send(flag_rst, 5001, 0);
    syn.data = "GET /";
    f.peer.port = 4001;
    f.peer.send(syn);
    const u32 first = f.peer.expect(flag_syn | flag_ack).sequence + 1;
    Program program = server.accept();
    CHECK(program.receive() == "GET /");
    const Ref<Connection> closed = program.connection;
    program.close();
    // Both the SYN-ACK and the FIN are lost.
    CHECK(f.peer.expect(flag_ack | flag_fin).sequence == first);
    f.peer.pass(1100 * ms);
    const Segment again = f.peer.expect(flag_syn | flag_ack);
    CHECK(again.sequence + 1 == first);
    CHECK(again.acknowledgement == 5006);
    f.peer.discard();
    f.peer.send(flag_ack, 5006, first);
    CHECK(closed->state() == State::FinWait1);
    f.peer.pass(5 * second);
    CHECK(f.peer.expect(flag_ack | flag_fin).sequence == first);
    f.peer.send(flag_ack, 5006, first + 1);
    CHECK(closed->state() == State::FinWait2);
    // Nobody answers: given up like any handshake.
    f.peer.discard();
    f.peer.port = 4002;
    f.peer.send(syn);
    Program other = server.accept();
    CHECK(other.receive() == "GET /");
    const Ref<Connection> forgotten = other.connection;
    other.close();
    f.peer.pass(200 * second);
    CHECK(forgotten->state() == State::Closed);
}

TEST_CASE("fast open as a client: a cookie first, then data on the SYN") {
    Fixture f;
    Program first = Program::open(f.host, address_b, 80, true);
    const Segment ask = f.peer.expect(flag_syn);
    CHECK(ask.options.has_cookie);
    CHECK(ask.options.cookie.length == 0);
    f.peer.host_port = ask.source_port;
    f.peer.port = 80;
    Segment answer;
    answer.flags = flag_syn | flag_ack;
    answer.sequence = 5000;
    answer.acknowledgement = ask.sequence + 1;
    answer.window = 65535;
    answer.options = sack_options();
    answer.options.has_cookie = true;
    answer.options.cookie.length = 8;
    answer.options.cookie.bytes[3] = 9;
    f.peer.send(answer);
    CHECK(first.state() == State::Established);
    f.peer.discard();
    Program program = Program::open(f.host, address_b, 80, true, nullptr, "GET /");
    const Segment syn = f.peer.expect(flag_syn);
    CHECK(syn.options.cookie == answer.options.cookie);
    CHECK(syn.data == "GET /");
    f.peer.host_port = syn.source_port;
    answer.acknowledgement = syn.sequence + 6;
    f.peer.send(answer);
    CHECK(program.state() == State::Established);
    CHECK(program.connection->unacknowledged() == 0);
    CHECK(f.peer.expect(flag_ack).sequence == syn.sequence + 6);
    // A server that takes the SYN alone gets the data again.
    Program third = Program::open(f.host, address_b, 80, true, nullptr, "GET /");
    const Segment again = f.peer.expect(flag_syn);
    f.peer.host_port = again.source_port;
    answer.acknowledgement = again.sequence + 1;
    f.peer.send(answer);
    CHECK(f.peer.expect(flag_ack).data == "GET /");
}
