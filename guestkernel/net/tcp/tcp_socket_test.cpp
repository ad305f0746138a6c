// The file that programs have: states, errors, readiness, flags, as socket(7) and tcp(7) say.
#include <linux/errno.h>
#include <linux/tcp.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/namespaces/namespace.hpp"
#include "guestkernel/net/tcp/socket.hpp"
#include "guestkernel/net/tcp/test_support.hpp"

using namespace kernel;
using namespace kernel::tcp;
using namespace kernel::tcp::test;

namespace {

constexpr u32 non_blocking = 04000; // O_NONBLOCK
constexpr int level_tcp = 6;

struct Sockets {
    Machine machine;
    Host host{machine, address_a};
    Ref<NetNamespace> space;

    Sockets() {
        auto made = make_ref<NetNamespace>(Ref<UserNamespace>(), false);
        REQUIRE(made);
        space = std::move(*made);
        space->stack = host.stack;
    }
    ~Sockets() { space->stack = {}; }
    Ref<SocketFile> make() {
        auto file = make_tcp_socket(space, net::family_inet, non_blocking);
        REQUIRE(file);
        return std::move(*file);
    }
    static SocketAddress address(u16 port) {
        SocketAddress out;
        net::write_address({net::IpAddress::loopback(false), port, 0}, net::family_inet, out);
        return out;
    }
    Ref<SocketFile> listener(u16 port) {
        Ref<SocketFile> file = make();
        REQUIRE(file->bind(address(port)));
        REQUIRE(file->listen(8));
        return file;
    }
};

int code(const Result<void>& result) {
    return result ? 0 : result.error().code;
}

int send(SocketFile& file, std::string text, u32 flags = 0) {
    IoBuffer in(text.data(), text.size());
    SendRequest request;
    request.flags = flags | msg_nosignal;
    auto done = file.send(in, request);
    return done ? static_cast<int>(*done) : -done.error().code;
}

std::string receive(SocketFile& file, usize most = 65536, u32 flags = 0, int* error = nullptr) {
    std::string out(most, '\0');
    IoBuffer buffer(out.data(), most);
    ReceiveRequest request;
    request.flags = flags;
    auto done = file.receive(buffer, request);
    if (error != nullptr)
        *error = done ? 0 : done.error().code;
    out.resize(done ? *done : 0);
    return out;
}

} // namespace

TEST_CASE("connect, accept, both ways, half close, end") {
    Sockets s;
    Ref<SocketFile> listener = s.listener(8000);
    CHECK(listener->listening());
    CHECK(listener->poll(nullptr) == 0);
    CHECK(!listener->accept(non_blocking, true));
    Ref<SocketFile> client = s.make();
    CHECK(client->poll(nullptr) == (poll_hup | poll_out | poll_wrnorm));
    CHECK(send(*client, "x") == -EPIPE);
    REQUIRE(code(client->connect(Sockets::address(8000))) == EINPROGRESS);
    REQUIRE(code(client->connect(Sockets::address(8000))) == 0); // loopback: it is done by now
    CHECK(code(client->connect(Sockets::address(8000))) == EISCONN);
    CHECK(listener->poll(nullptr) == (poll_in | poll_rdnorm));
    auto accepted = listener->accept(non_blocking, true);
    REQUIRE(accepted);
    Ref<SocketFile> server = std::move(*accepted);
    SocketAddress own, peer;
    REQUIRE(client->local_address(own));
    REQUIRE(server->peer_address(peer));
    CHECK(std::memcmp(own.bytes, peer.bytes, own.length) == 0);
    int error = 0;
    receive(*server, 10, 0, &error);
    CHECK(error == EAGAIN);
    CHECK(send(*client, "hello world") == 11);
    CHECK((server->poll(nullptr) & poll_in) != 0);
    CHECK(receive(*server, 5, msg_peek) == "hello");
    CHECK(receive(*server, 5) == "hello");
    CHECK(receive(*server) == " world");
    REQUIRE(client->shutdown(shut_write));
    CHECK((server->poll(nullptr) & poll_rdhup) != 0);
    CHECK(receive(*server, 10, 0, &error).empty());
    CHECK(error == 0);
    CHECK(send(*client, "x") == -EPIPE);
    CHECK(send(*server, "bye") == 3);
    CHECK(receive(*client) == "bye");
    server = {};
    CHECK(receive(*client, 10, 0, &error).empty());
    CHECK(error == 0);
    client = {};
    listener = {};
    CHECK(s.host.tcp().sockets.load() == 0);
}

TEST_CASE("refused, taken addresses, and a second try") {
    Sockets s;
    Ref<SocketFile> client = s.make();
    CHECK(code(client->connect(Sockets::address(8001))) == EINPROGRESS);
    CHECK(code(client->connect(Sockets::address(8001))) == ECONNREFUSED);
    Ref<SocketFile> listener = s.listener(8001);
    CHECK(code(client->connect(Sockets::address(8001))) == EINPROGRESS);
    CHECK(code(client->connect(Sockets::address(8001))) == 0);
    Ref<SocketFile> other = s.make();
    CHECK(code(other->bind(Sockets::address(8001))) == EADDRINUSE);
    CHECK(code(other->bind(Sockets::address(8002))) == 0);
    CHECK(code(other->bind(Sockets::address(8003))) == EINVAL);
}

TEST_CASE("a connection to nowhere is under way, and its error comes once") {
    Sockets s;
    Ref<SocketFile> client = s.make();
    SocketAddress away;
    net::write_address({address_b, 80, 0}, net::family_inet, away);
    CHECK(code(client->connect(away)) == EINPROGRESS);
    CHECK(code(client->connect(away)) == EALREADY);
    CHECK((client->poll(nullptr) & poll_out) == 0);
    s.machine.clock.advance_to(s.machine.clock.now() + 200 * second);
    CHECK((client->poll(nullptr) & poll_err) != 0);
    CHECK(client->take_error() == ETIMEDOUT);
    CHECK(client->take_error() == 0);
}

TEST_CASE("a full buffer stops the sender until the reader reads") {
    Sockets s;
    Ref<SocketFile> listener = s.listener(8002);
    Ref<SocketFile> client = s.make();
    REQUIRE(code(client->connect(Sockets::address(8002))) == EINPROGRESS);
    auto accepted = listener->accept(non_blocking, true);
    REQUIRE(accepted);
    Ref<SocketFile> server = std::move(*accepted);
    const std::string piece(100'000, 'p');
    u64 sent = 0, got = 0;
    int last = 0;
    while ((last = send(*client, piece)) > 0)
        sent += static_cast<u64>(last);
    CHECK(last == -EAGAIN);
    CHECK(sent > 100'000);
    CHECK((client->poll(nullptr) & poll_out) == 0);
    for (std::string data = receive(*server); !data.empty(); data = receive(*server))
        got += data.size();
    CHECK(got == sent);
    CHECK((client->poll(nullptr) & poll_out) != 0);
}

TEST_CASE("urgent data by MSG_OOB") {
    Sockets s;
    Ref<SocketFile> listener = s.listener(8003);
    Ref<SocketFile> client = s.make();
    REQUIRE(code(client->connect(Sockets::address(8003))) == EINPROGRESS);
    auto accepted = listener->accept(non_blocking, true);
    REQUIRE(accepted);
    Ref<SocketFile> server = std::move(*accepted);
    int error = 0;
    receive(*server, 1, msg_oob, &error);
    CHECK(error == EINVAL);
    CHECK(send(*client, "ab!", msg_oob) == 3);
    CHECK(send(*client, "cd") == 2);
    CHECK((server->poll(nullptr) & poll_pri) != 0);
    CHECK(receive(*server, 1, msg_oob) == "!");
    CHECK(receive(*server, 10) == "ab"); // up to the mark
    CHECK(receive(*server, 10) == "cd");
}

TEST_CASE("options of the connection can be set and read") {
    Sockets s;
    Ref<SocketFile> file = s.make();
    const auto set = [&](int name, int value) {
        return code(file->set_socket_option(level_tcp, name,
                                            {reinterpret_cast<const u8*>(&value), sizeof value}));
    };
    const auto get = [&](int name) {
        int value = -1;
        REQUIRE(file->get_socket_option(level_tcp, name,
                                        {reinterpret_cast<u8*>(&value), sizeof value}));
        return value;
    };
    for (const int name : {TCP_NODELAY, TCP_CORK}) {
        CHECK(get(name) == 0);
        CHECK(set(name, 1) == 0);
        CHECK(get(name) == 1);
    }
    CHECK(get(TCP_KEEPIDLE) == 7200);
    CHECK(set(TCP_KEEPIDLE, 10) == 0);
    CHECK(get(TCP_KEEPIDLE) == 10);
    CHECK(set(TCP_KEEPIDLE, 0) == EINVAL);
    CHECK(set(TCP_KEEPCNT, 200) == EINVAL);
    CHECK(set(TCP_MAXSEG, 10) == EINVAL);
    CHECK(get(TCP_MAXSEG) == 536);
    CHECK(set(9999, 1) == ENOPROTOOPT);
    CHECK(set(TCP_DEFER_ACCEPT, 5) == 0);
    CHECK(get(TCP_DEFER_ACCEPT) == 7);
    char name[16] = {};
    REQUIRE(file->get_socket_option(level_tcp, TCP_CONGESTION, {reinterpret_cast<u8*>(name), 16}));
    CHECK(std::string(name) == "cubic");
    CHECK(code(file->set_socket_option(level_tcp, TCP_CONGESTION,
                                       {reinterpret_cast<const u8*>("reno"), 4})) == 0);
    CHECK(code(file->set_socket_option(level_tcp, TCP_CONGESTION,
                                       {reinterpret_cast<const u8*>("nosuch"), 6})) == ENOENT);
    struct tcp_info info = {};
    REQUIRE(
        file->get_socket_option(level_tcp, TCP_INFO, {reinterpret_cast<u8*>(&info), sizeof info}));
    CHECK(info.tcpi_state == 7);
}

TEST_CASE("a fast open whose data never came leaves nothing in the table") {
    Sockets s;
    const u32 before = Table::get().size();
    const int on = 1;
    const auto waiting = [&](u16 port) {
        Ref<SocketFile> file = s.make();
        for (const int name : {TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE})
            CHECK(code(file->set_socket_option(
                      level_tcp, name, {reinterpret_cast<const u8*>(&on), sizeof on})) == 0);
        CHECK(code(file->connect(Sockets::address(port))) == 0);
        CHECK(Table::get().size() == before + 1);
        return file;
    };
    SocketAddress nowhere;
    nowhere.length = sizeof(u16);
    nowhere.set_family(family_unspecified);
    Ref<SocketFile> file = waiting(8001);
    CHECK(code(file->connect(Sockets::address(8002))) == EISCONN);
    CHECK(code(file->connect(nowhere)) == 0);
    CHECK(Table::get().size() == before);
    // Elsewhere: it must not stand in two buckets.
    CHECK(code(file->connect(Sockets::address(8002))) == 0);
    CHECK(Table::get().size() == before + 1);
    file = nullptr;
    CHECK(Table::get().size() == before);
}

TEST_CASE("connect finds the one port that is left behind many that are taken") {
    Sockets sockets;
    sockets.host.stack->settings.local_ports.first = 40000;
    sockets.host.stack->settings.local_ports.last = 40199;
    const Ref<SocketFile> listener = sockets.listener(80);
    std::vector<Ref<SocketFile>> clients;
    for (int i = 0; i < 200; i++) {
        clients.push_back(sockets.make());
        REQUIRE(code(clients.back()->connect(Sockets::address(80))) == EINPROGRESS);
    }
    Ref<SocketFile> another = sockets.make();
    CHECK(code(another->connect(Sockets::address(80))) == EADDRNOTAVAIL);
    // Those that found the listener's queue full have nobody to say good-bye to.
    clients[150] = nullptr;
    CHECK(code(another->connect(Sockets::address(80))) == EINPROGRESS);
    CHECK(code(sockets.make()->connect(Sockets::address(80))) == EADDRNOTAVAIL);
}
