// Framing, server and client, and what a hostile peer can send to either.
#include <cstring>
#include <fcntl.h>
#include <thread>
#include <vector>

#include <linux/vm_sockets.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <catch2/catch.hpp>

#include "agent/ttrpc/client.hpp"
#include "agent/ttrpc/server.hpp"
#include "agent/ttrpc/ttrpc.pb.h"

namespace {

using std::chrono::milliseconds;

std::pair<os::UniqueFd, os::UniqueFd> socket_pair() {
    int ends[2] = {};
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    return {os::UniqueFd(ends[0]), os::UniqueFd(ends[1])};
}

struct Collected {
    std::vector<ttrpc::Frame> frames;
    std::vector<ttrpc::FrameHeader> too_long;
    ttrpc::FrameReader reader{
        {.frame = [this](ttrpc::Frame frame) { frames.push_back(std::move(frame)); },
         .too_long = [this](const auto& header) { too_long.push_back(header); }}};
};

// A server with a few methods, and one end of a connection to it.
struct Fixture {
    std::unique_ptr<os::EventLoop> loop = std::move(*os::EventLoop::create());
    ttrpc::Server server;
    std::vector<ttrpc::Reply<ttrpc::KeyValue>> held;
    int cancelled = 0;

    explicit Fixture(ttrpc::Server::Limits limits = {.connections = 4, .calls_per_connection = 8})
        : server(*loop, limits) {
        server.handle<ttrpc::KeyValue, ttrpc::KeyValue>(
            "test.Service", "Echo",
            [](const ttrpc::KeyValue& request, const ttrpc::Reply<ttrpc::KeyValue>& reply) {
                reply(request);
            });
        server.handle<ttrpc::KeyValue, ttrpc::KeyValue>(
            "test.Service", "Fail",
            [](const auto& request, const ttrpc::Reply<ttrpc::KeyValue>& reply) {
                reply(os::fail(os::Code::NotFound, "no ", request.key()));
            });
        server.handle<ttrpc::KeyValue, ttrpc::KeyValue>(
            "test.Service", "Hold",
            [this](const auto&, const ttrpc::Reply<ttrpc::KeyValue>& reply) {
                reply.on_cancel([this] { ++cancelled; });
                held.push_back(reply);
            });
        server.handle<ttrpc::KeyValue, ttrpc::KeyValue>("test.Service", "Drop",
                                                        [](const auto&, const auto&) {});
        server.handle<ttrpc::KeyValue, ttrpc::KeyValue>(
            "test.Service", "Huge", [](const auto&, const ttrpc::Reply<ttrpc::KeyValue>& reply) {
                ttrpc::KeyValue answer;
                answer.set_value(std::string(ttrpc::max_message, 'x'));
                reply(answer);
            });
    }
    std::unique_ptr<ttrpc::Client> connect() {
        auto [near, far] = socket_pair();
        REQUIRE(server.serve(std::move(far)));
        return std::move(*ttrpc::Client::start(*loop, std::move(near)));
    }
    // A raw end for what no client of ours would send.
    os::UniqueFd connect_raw() {
        auto [near, far] = socket_pair();
        REQUIRE(server.serve(std::move(far)));
        return std::move(near);
    }
    void turn(int rounds = 5) {
        for (int i = 0; i < rounds; ++i)
            loop->run_once(milliseconds(0));
    }
    // Sends bytes and gathers the answers; empty when the server closed the connection.
    std::vector<ttrpc::Frame> exchange(int fd, std::string_view bytes, bool& closed) {
        while (!bytes.empty()) {
            const ssize_t put = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (put > 0)
                bytes.remove_prefix(static_cast<std::size_t>(put));
            else if (errno != EAGAIN)
                break;
            loop->run_once(milliseconds(0));
        }
        turn();
        Collected collected;
        std::vector<char> buffer(1 << 20);
        closed = false;
        for (;;) {
            const ssize_t got = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
            closed = got == 0;
            if (got <= 0)
                return std::move(collected.frames);
            collected.reader.take({buffer.data(), static_cast<std::size_t>(got)});
        }
    }
};

ttrpc::KeyValue key(const std::string& text) {
    ttrpc::KeyValue out;
    out.set_key(text);
    return out;
}

std::string request_frame(std::uint32_t stream, const std::string& method,
                          std::int64_t timeout = 0) {
    ttrpc::Request request;
    request.set_service("test.Service");
    request.set_method(method);
    request.set_payload(key("k").SerializeAsString());
    request.set_timeout_nano(timeout);
    return ttrpc::make_frame(stream, ttrpc::FrameType::Request, request.SerializeAsString());
}

ttrpc::Response response_of(const ttrpc::Frame& frame) {
    ttrpc::Response response;
    REQUIRE(response.ParseFromString(frame.payload));
    return response;
}

} // namespace

TEST_CASE("a frame has the ten bytes of the protocol before its payload") {
    const std::string frame = ttrpc::make_frame(0x01020305, ttrpc::FrameType::Request, "abc");
    REQUIRE(frame == std::string("\0\0\0\3\1\2\3\5\1\0abc", 13));
}

TEST_CASE("frames are found again however the bytes are cut") {
    const std::string bytes =
        ttrpc::make_frame(1, ttrpc::FrameType::Request, "hello") +
        ttrpc::make_frame(3, ttrpc::FrameType::Request, "") +
        ttrpc::make_frame(5, ttrpc::FrameType::Response, std::string(1000, 'z'));
    const std::size_t step = GENERATE(1U, 2U, 7U, 10U, 11U, 4096U);
    Collected collected;
    for (std::size_t at = 0; at < bytes.size(); at += step)
        collected.reader.take(std::string_view(bytes).substr(at, step));
    REQUIRE(collected.frames.size() == 3);
    CHECK(collected.frames[0].payload == "hello");
    CHECK(collected.frames[1].payload.empty());
    CHECK(collected.frames[1].header.stream == 3);
    CHECK(collected.frames[2].payload == std::string(1000, 'z'));
    CHECK_FALSE(collected.reader.in_frame());
}

TEST_CASE("a message above the limit is passed over and the next one is found") {
    Collected collected;
    const auto header = ttrpc::encode({.length = ttrpc::max_message + 1, .stream = 7, .type = 1});
    collected.reader.take({header.data(), header.size()});
    REQUIRE(collected.too_long.size() == 1);
    CHECK(collected.too_long[0].stream == 7);
    const std::string chunk(65536, 'x');
    std::size_t left = ttrpc::max_message + 1;
    while (left > 0) {
        const std::size_t some = std::min(left, chunk.size());
        collected.reader.take(std::string_view(chunk).substr(0, some));
        left -= some;
    }
    collected.reader.take(ttrpc::make_frame(9, ttrpc::FrameType::Request, "next"));
    REQUIRE(collected.frames.size() == 1);
    CHECK(collected.frames[0].payload == "next");
}

TEST_CASE("a call is answered") {
    Fixture f;
    const auto client = f.connect();
    const auto answer =
        client->call_and_wait<ttrpc::KeyValue>("test.Service", "Echo", key("hello"));
    REQUIRE(answer);
    CHECK(answer->key() == "hello");
}

TEST_CASE("a failure carries its code and its sentence") {
    Fixture f;
    const auto client = f.connect();
    const auto answer = client->call_and_wait<ttrpc::KeyValue>("test.Service", "Fail", key("cake"));
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == os::Code::NotFound);
    CHECK(answer.error().message == "no cake");
}

TEST_CASE("a failure's sentence may hold any bytes: its connection goes on") {
    Fixture fixture;
    fixture.server.handle<ttrpc::KeyValue, ttrpc::KeyValue>(
        "test.Service", "Bytes", [](const auto&, const ttrpc::Reply<ttrpc::KeyValue>& reply) {
            reply(os::fail(os::Code::Aborted, "\xff a\xc3\xa4 \xed\xa0\x80 \xe2\x82"));
        });
    const auto client = fixture.connect();
    const auto failed = client->call_and_wait<ttrpc::KeyValue>("test.Service", "Bytes", key("x"));
    REQUIRE_FALSE(failed);
    CHECK(failed.error().message == "? a\xc3\xa4 ??? ??");
    CHECK(client->call_and_wait<ttrpc::KeyValue>("test.Service", "Echo", key("y")));
}

TEST_CASE("what is no UTF-8 is replaced byte by byte") {
    CHECK(os::as_utf8("plain \xf0\x9f\xa6\x98 \xef\xbf\xbf") ==
          "plain \xf0\x9f\xa6\x98 \xef\xbf\xbf");
    CHECK(os::as_utf8("\xc0\x80 \xe0\x80\x80 \xf0\x80\x80\x80 \xf4\x90\x80\x80 \xf5") ==
          "?? ??? ???? ???? ?");
    CHECK(os::as_utf8(std::string_view("a\0b\xc3", 4)) == std::string("a\0b?", 4));
}

TEST_CASE("services and methods that do not exist are named") {
    Fixture f;
    const auto client = f.connect();
    const auto method = client->call_and_wait<ttrpc::KeyValue>("test.Service", "Nope", key(""));
    REQUIRE_FALSE(method);
    CHECK(method.error().code == os::Code::Unimplemented);
    CHECK(method.error().message == "the service test.Service has no method \"Nope\"");
    const auto service = client->call_and_wait<ttrpc::KeyValue>("other.Service", "Nope", key(""));
    REQUIRE_FALSE(service);
    CHECK(service.error().message == "there is no service \"other.Service\"");
}

TEST_CASE("calls are answered in any order") {
    Fixture f;
    const auto client = f.connect();
    std::vector<std::string> order;
    for (const char* name : {"first", "second", "third"})
        client->call<ttrpc::KeyValue>("test.Service", "Hold", key(name), ttrpc::Client::no_limit,
                                      [&order](const os::Result<ttrpc::KeyValue>& answer) {
                                          REQUIRE(answer);
                                          order.push_back(answer->key());
                                      });
    f.turn();
    REQUIRE(f.held.size() == 3);
    f.held[2](key("third"));
    f.held[0](key("first"));
    f.held[1](key("second"));
    f.turn();
    CHECK(order == std::vector<std::string>{"third", "first", "second"});
}

TEST_CASE("many calls at once on many connections") {
    Fixture f;
    std::vector<std::unique_ptr<ttrpc::Client>> clients;
    int answers = 0;
    for (int c = 0; c < 4; ++c) {
        clients.push_back(f.connect());
        for (int i = 0; i < 200; ++i) {
            const std::string text = os::text(c, "/", i);
            clients.back()->call<ttrpc::KeyValue>(
                "test.Service", "Echo", key(text), ttrpc::Client::no_limit,
                [&answers, text](const os::Result<ttrpc::KeyValue>& answer) {
                    answers += answer && answer->key() == text ? 1 : 0;
                });
        }
    }
    for (int i = 0; i < 1000 && answers < 800; ++i)
        f.loop->run_once(milliseconds(100));
    CHECK(answers == 800);
}

TEST_CASE("a handler that drops its call is reported, not waited for") {
    Fixture f;
    const auto client = f.connect();
    const auto answer = client->call_and_wait<ttrpc::KeyValue>("test.Service", "Drop", key(""));
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == os::Code::Internal);
}

TEST_CASE("an answer above the limit becomes an error of that call alone") {
    Fixture f;
    const auto client = f.connect();
    const auto answer = client->call_and_wait<ttrpc::KeyValue>("test.Service", "Huge", key(""));
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == os::Code::ResourceExhausted);
    CHECK(client->call_and_wait<ttrpc::KeyValue>("test.Service", "Echo", key("x")));
}

TEST_CASE("a request above the limit fails at the client") {
    Fixture f;
    const auto client = f.connect();
    const auto answer = client->call_and_wait<ttrpc::KeyValue>(
        "test.Service", "Echo", key(std::string(ttrpc::max_message, 'x')));
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == os::Code::ResourceExhausted);
    CHECK(client->is_open());
}

TEST_CASE("a call whose time is up fails at the client and is cancelled at the server") {
    Fixture f;
    const auto client = f.connect();
    const auto answer =
        client->call_and_wait<ttrpc::KeyValue>("test.Service", "Hold", key("x"), milliseconds(20));
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == os::Code::DeadlineExceeded);
    for (int i = 0; i < 100 && f.cancelled == 0; ++i)
        f.loop->run_once(milliseconds(20));
    CHECK(f.cancelled == 1);
    CHECK(f.held[0].is_over());
    f.held[0](key("too late"));
    CHECK(client->call_and_wait<ttrpc::KeyValue>("test.Service", "Echo", key("x")));
}

TEST_CASE("the server enforces the time limit by itself") {
    Fixture f;
    const os::UniqueFd raw = f.connect_raw();
    bool closed = false;
    auto frames = f.exchange(raw.get(), request_frame(1, "Hold", 1'000'000), closed);
    for (int i = 0; i < 100 && frames.empty(); ++i) {
        f.loop->run_once(milliseconds(10));
        frames = f.exchange(raw.get(), "", closed);
    }
    REQUIRE(frames.size() == 1);
    CHECK(response_of(frames[0]).status().code() == static_cast<int>(os::Code::DeadlineExceeded));
    CHECK(f.cancelled == 1);
}

TEST_CASE("a client that goes away cancels its calls") {
    Fixture f;
    {
        const auto client = f.connect();
        client->call<ttrpc::KeyValue>("test.Service", "Hold", key("x"), ttrpc::Client::no_limit,
                                      [](const auto&) { FAIL("answered"); });
        f.turn();
        REQUIRE(f.held.size() == 1);
    }
    f.turn();
    CHECK(f.cancelled == 1);
    CHECK(f.server.connections() == 0);
    f.held[0](key("nobody is there"));
}

TEST_CASE("a forgotten call's answer is dropped") {
    Fixture f;
    const auto client = f.connect();
    const auto id =
        client->call<ttrpc::KeyValue>("test.Service", "Echo", key("x"), ttrpc::Client::no_limit,
                                      [](const auto&) { FAIL("answered"); });
    client->forget(id);
    f.turn();
    CHECK(client->is_open());
}

TEST_CASE("calls beyond the limit of a connection are refused") {
    Fixture f;
    const os::UniqueFd raw = f.connect_raw();
    std::string bytes;
    for (std::uint32_t i = 0; i < 9; ++i)
        bytes += request_frame(2 * i + 1, "Hold");
    bool closed = false;
    const auto frames = f.exchange(raw.get(), bytes, closed);
    REQUIRE(frames.size() == 1);
    CHECK(frames[0].header.stream == 17);
    CHECK(response_of(frames[0]).status().code() == static_cast<int>(os::Code::ResourceExhausted));
}

TEST_CASE("connections beyond the limit are closed") {
    Fixture f;
    const os::UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    // An abstract name that the kernel chooses.
    REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)) == 0);
    socklen_t length = sizeof address;
    REQUIRE(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
    REQUIRE(listen(listener.get(), 16) == 0);
    REQUIRE(f.server.listen(os::UniqueFd(dup(listener.get()))));
    std::vector<os::UniqueFd> sockets;
    for (int i = 0; i < 6; ++i) {
        sockets.emplace_back(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(connect(sockets.back().get(), reinterpret_cast<sockaddr*>(&address), length) == 0);
    }
    f.turn();
    CHECK(f.server.connections() == 4);
    char byte = 0;
    CHECK(recv(sockets[5].get(), &byte, 1, MSG_DONTWAIT) == 0);
    bool closed = false;
    CHECK(f.exchange(sockets[0].get(), request_frame(1, "Echo"), closed).size() == 1);
}

TEST_CASE("a server has connections for all processes of a large pod") {
    Fixture f(ttrpc::Server::Limits{});
    std::vector<os::UniqueFd> sockets;
    for (int i = 0; i < 300; ++i)
        sockets.push_back(f.connect_raw());
    f.turn();
    CHECK(f.server.connections() == 300);
    bool closed = false;
    CHECK(f.exchange(sockets.back().get(), request_frame(1, "Echo"), closed).size() == 1);
}

TEST_CASE("what all connections keep has a bound: others wait, who goes on is closed") {
    constexpr std::size_t bound = 1U << 20;
    Fixture f({.connections = 4, .calls_per_connection = 8, .bytes = bound});
    os::UniqueFd slow = f.connect_raw();
    const os::UniqueFd other = f.connect_raw();
    const auto header = ttrpc::encode({.length = ttrpc::max_message, .stream = 1, .type = 1});
    const std::string begun = std::string(header.data(), header.size()) + std::string(600000, 'x');
    bool closed = false;
    CHECK(f.exchange(slow.get(), begun, closed).empty());
    CHECK(f.exchange(other.get(), request_frame(1, "Echo"), closed).empty());
    CHECK_FALSE(closed);
    slow.reset();
    f.turn();
    CHECK(f.exchange(other.get(), request_frame(3, "Echo"), closed).size() == 2);
    const os::UniqueFd greedy = f.connect_raw();
    CHECK(f.exchange(greedy.get(), begun + std::string(600000, 'x'), closed).empty());
    CHECK(f.server.connections() == 1); // the other's
    CHECK(f.exchange(other.get(), request_frame(5, "Echo"), closed).size() == 1);
}

TEST_CASE("streams of a client are odd and never used twice") {
    Fixture f;
    const os::UniqueFd raw = f.connect_raw();
    bool closed = false;
    auto frames = f.exchange(raw.get(), request_frame(2, "Echo"), closed);
    REQUIRE(frames.size() == 1);
    CHECK(response_of(frames[0]).status().code() == static_cast<int>(os::Code::InvalidArgument));
    frames = f.exchange(
        raw.get(), request_frame(5, "Echo") + request_frame(5, "Echo") + request_frame(3, "Echo"),
        closed);
    REQUIRE(frames.size() == 3);
    CHECK(response_of(frames[0]).status().code() == 0);
    CHECK(response_of(frames[1]).status().code() == static_cast<int>(os::Code::InvalidArgument));
    CHECK(response_of(frames[2]).status().code() == static_cast<int>(os::Code::InvalidArgument));
    CHECK_FALSE(closed);
}

TEST_CASE("a server survives garbage: the call is refused or the connection ends") {
    Fixture f;
    const os::UniqueFd raw = f.connect_raw();
    bool closed = false;
    SECTION("a payload that is no message") {
        const auto frames = f.exchange(
            raw.get(), ttrpc::make_frame(1, ttrpc::FrameType::Request, "\xff\xff\xff"), closed);
        REQUIRE(frames.size() == 1);
        CHECK(response_of(frames[0]).status().code() ==
              static_cast<int>(os::Code::InvalidArgument));
    }
    SECTION("an answer from a client") {
        f.exchange(raw.get(), ttrpc::make_frame(1, ttrpc::FrameType::Response, ""), closed);
        CHECK(closed);
    }
    SECTION("an unknown type") {
        f.exchange(raw.get(), ttrpc::make_frame(1, static_cast<ttrpc::FrameType>(77), ""), closed);
        CHECK(closed);
    }
    SECTION("data of a stream") {
        const auto frames =
            f.exchange(raw.get(), ttrpc::make_frame(1, ttrpc::FrameType::Data, "x"), closed);
        REQUIRE(frames.size() == 1);
        CHECK(response_of(frames[0]).status().code() == static_cast<int>(os::Code::Unimplemented));
    }
    SECTION("a message above the limit, then a good one") {
        const auto header =
            ttrpc::encode({.length = ttrpc::max_message + 1, .stream = 1, .type = 1});
        std::string bytes(header.data(), header.size());
        bytes += std::string(ttrpc::max_message + 1, 'x') + request_frame(3, "Echo");
        const auto frames = f.exchange(raw.get(), bytes, closed);
        REQUIRE(frames.size() == 2);
        CHECK(response_of(frames[0]).status().code() ==
              static_cast<int>(os::Code::ResourceExhausted));
        CHECK(response_of(frames[1]).status().code() == 0);
    }
    SECTION("an end in the middle of a message") {
        f.exchange(raw.get(), request_frame(1, "Echo").substr(0, 15), closed);
        shutdown(raw.get(), SHUT_WR);
        f.turn();
        CHECK(f.server.connections() == 0);
    }
    const auto other = f.connect();
    CHECK(other->call_and_wait<ttrpc::KeyValue>("test.Service", "Echo", key("x")));
}

TEST_CASE("a client that reads no answers is not read from any more, and others are served") {
    Fixture f;
    const os::UniqueFd raw = f.connect_raw();
    ttrpc::Request request;
    request.set_service("test.Service");
    request.set_method("Echo");
    request.set_payload(key(std::string(1 << 20, 'x')).SerializeAsString());
    const std::string payload = request.SerializeAsString();
    std::size_t taken = 0;
    for (std::uint32_t i = 0; i < 64; ++i) {
        std::string bytes = ttrpc::make_frame(2 * i + 1, ttrpc::FrameType::Request, payload);
        std::string_view rest = bytes;
        for (int idle = 0; !rest.empty() && idle < 20;) {
            const ssize_t put =
                send(raw.get(), rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (put > 0) {
                rest.remove_prefix(static_cast<std::size_t>(put));
                taken += static_cast<std::size_t>(put);
            } else {
                ++idle;
            }
            f.loop->run_once(milliseconds(0));
        }
        if (!rest.empty())
            break;
    }
    CHECK(taken < (16U << 20));
    const auto other = f.connect();
    CHECK(other->call_and_wait<ttrpc::KeyValue>("test.Service", "Echo", key("x")));
}

TEST_CASE("a client ends the connection with a server that breaks the protocol") {
    Fixture f;
    auto [near, far] = socket_pair();
    const auto client = std::move(*ttrpc::Client::start(*f.loop, std::move(near)));
    std::optional<os::Error> error;
    std::string why;
    client->on_closed([&why](const std::string& reason) { why = reason; });
    client->call<ttrpc::KeyValue>(
        "s", "m", key("x"), ttrpc::Client::no_limit,
        [&error](const os::Result<ttrpc::KeyValue>& answer) { error = answer.error(); });
    const auto [bytes, reason] =
        GENERATE(std::pair(ttrpc::make_frame(3, ttrpc::FrameType::Response, ""),
                           "the server answered a call that was never made, or twice"),
                 std::pair(ttrpc::make_frame(2, ttrpc::FrameType::Response, ""),
                           "the server answered a call that was never made, or twice"),
                 std::pair(ttrpc::make_frame(1, ttrpc::FrameType::Request, ""),
                           "the server sent a frame that only a client sends"),
                 std::pair(ttrpc::make_frame(1, ttrpc::FrameType::Response, "\xff"),
                           "the server's answer is no valid message"),
                 std::pair(std::string("\0\0", 2), "the peer closed in the middle of a message"));
    REQUIRE(send(far.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
    shutdown(far.get(), SHUT_WR);
    f.turn();
    REQUIRE(error);
    CHECK(error->code == os::Code::Unavailable);
    CHECK(error->message == reason);
    CHECK(why == reason);
    CHECK_FALSE(client->call_and_wait<ttrpc::KeyValue>("s", "m", key("x")));
}

TEST_CASE("a server answers each call once, also one that nobody waits for any more") {
    Fixture f;
    auto [near, far] = socket_pair();
    const auto client = std::move(*ttrpc::Client::start(*f.loop, std::move(near)));
    int answers = 0;
    const auto call = [&] {
        return client->call("s", "m", "", ttrpc::Client::no_limit,
                            [&answers](const os::Result<std::string>&) { ++answers; });
    };
    const auto kept = call();
    const auto forgotten = call();
    client->forget(forgotten);
    const auto answer = [&, far = far.get()](ttrpc::Client::CallId id) {
        const std::string bytes = ttrpc::make_frame(id, ttrpc::FrameType::Response, "");
        REQUIRE(send(far, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
        f.turn();
    };
    answer(kept);
    answer(forgotten);
    CHECK(answers == 1);
    CHECK(client->is_open());
    const bool the_forgotten = GENERATE(false, true);
    answer(the_forgotten ? forgotten : kept);
    CHECK_FALSE(client->is_open());
    CHECK(answers == 1);
}

TEST_CASE("what a peer sends does not get to standard error") {
    Fixture f;
    const auto client = f.connect();
    const os::UniqueFd file(memfd_create("stderr", MFD_CLOEXEC));
    const os::UniqueFd before(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
    dup2(file.get(), STDERR_FILENO);
    ttrpc::KeyValue message;
    const bool parsed = message.ParseFromString("\x0a\x01\xff");
    dup2(before.get(), STDERR_FILENO);
    CHECK_FALSE(parsed);
    CHECK(lseek(file.get(), 0, SEEK_END) == 0);
}

TEST_CASE("a server that leaves forgotten calls unanswered is not talked to for ever") {
    Fixture f;
    auto [near, far] = socket_pair();
    const auto client = std::move(*ttrpc::Client::start(*f.loop, std::move(near)));
    int calls = 0;
    for (; client->is_open() && calls < 10000; ++calls) {
        client->forget(client->call("s", "m", "", ttrpc::Client::no_limit,
                                    [](const os::Result<std::string>&) {}));
    }
    CHECK_FALSE(client->is_open());
    CHECK(calls > 1000);
}

TEST_CASE("an action posted by another thread wakes the loop") {
    const auto loop = std::move(*os::EventLoop::create());
    bool ran = false;
    std::thread other([&] {
        loop->post([&] {
            ran = true;
            loop->stop();
        });
    });
    loop->run();
    other.join();
    CHECK(ran);
}

TEST_CASE("timers run in order and can be cancelled") {
    const auto loop = std::move(*os::EventLoop::create());
    std::string order;
    loop->after(milliseconds(2), [&] { order += "b"; });
    loop->after(milliseconds(1), [&] { order += "a"; });
    const auto never = loop->after(milliseconds(1), [&] { order += "x"; });
    loop->after(milliseconds(3), [&] { loop->stop(); });
    loop->cancel(never);
    loop->run();
    CHECK(order == "ab");
}

TEST_CASE("over vsock the host is served, and no program of the same machine") {
    const auto served = [](unsigned cid) {
        sockaddr_vm address{};
        address.svm_family = AF_VSOCK;
        address.svm_cid = cid;
        sockaddr_storage peer{};
        std::memcpy(&peer, &address, sizeof address);
        return ttrpc::may_connect(peer);
    };
    constexpr unsigned some_guest = 3;
    CHECK(served(VMADDR_CID_HOST));
    CHECK_FALSE(served(VMADDR_CID_LOCAL));
    CHECK_FALSE(served(some_guest));
    sockaddr_storage local{};
    local.ss_family = AF_UNIX;
    CHECK(ttrpc::may_connect(local));
}
