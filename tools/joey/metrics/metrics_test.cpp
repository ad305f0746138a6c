#include <cstring>
#include <fcntl.h>
#include <optional>
#include <unistd.h>
#include <vector>

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <catch2/catch.hpp>

#include "tools/joey/metrics/endpoint.hpp"
#include "tools/joey/metrics/exposition.hpp"
#include "virtio/testing/poll_loop.hpp"

namespace {

using joey::answer_to;
using joey::Exposition;
using joey::MetricKind;
using joey::MetricsEndpoint;

std::string simple() {
    return "# HELP a_total Help.\n# TYPE a_total counter\na_total 1\na_total{x=\"}\"} 2\n";
}

// An endpoint at a name of the abstract namespace.
struct Fixture {
    Fixture() {
        listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        name.sun_family = AF_UNIX;
        REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&name), sizeof(sa_family_t)) == 0);
        socklen_t length = sizeof name;
        REQUIRE(::getsockname(listener, reinterpret_cast<sockaddr*>(&name), &length) == 0);
        name_length = length;
        REQUIRE(::listen(listener, 64) == 0);
        endpoint.emplace(loop, virtio::UniqueFd(listener), [this] { return text; });
        REQUIRE(endpoint->start());
    }
    virtio::UniqueFd caller() {
        virtio::UniqueFd out(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        REQUIRE(::connect(out.get(), reinterpret_cast<sockaddr*>(&name), name_length) == 0);
        return out;
    }
    static void say(const virtio::UniqueFd& to, const std::string& what) {
        REQUIRE(::send(to.get(), what.data(), what.size(), MSG_NOSIGNAL) ==
                static_cast<ssize_t>(what.size()));
    }
    // Turns the loop between pieces, until the other side has closed.
    std::string hear(const virtio::UniqueFd& from) {
        std::string out;
        for (int turns = 0; turns < 10000; ++turns) {
            char piece[4096];
            const ssize_t got = ::recv(from.get(), piece, sizeof piece, 0);
            if (got == 0)
                return out;
            if (got > 0)
                out.append(piece, static_cast<std::size_t>(got));
            loop.settle();
        }
        return out + " (never ended)";
    }

    virtio::testing::PollLoop loop;
    std::string text = "a 1\n";
    int listener = -1;
    sockaddr_un name{};
    socklen_t name_length = 0;
    std::optional<MetricsEndpoint> endpoint;
};

} // namespace

TEST_CASE("metrics: families with their samples; what has none is left out", "[metrics]") {
    Exposition out;
    out.family("a_total", MetricKind::Counter, "First.");
    out.sample({}, std::uint64_t{7});
    out.family("empty", MetricKind::Gauge, "Nothing.");
    out.family("b", MetricKind::Gauge, "Second.");
    out.sample({{"name", "quote \" slash \\ line\n control \x1b"}}, 0.25);
    out.family("a_total", MetricKind::Counter, "First.");
    out.sample({{"x", "1"}, {"y", "2"}}, ~std::uint64_t{0});
    CHECK(out.text() == "# HELP a_total First.\n# TYPE a_total counter\na_total 7\n"
                        "a_total{x=\"1\",y=\"2\"} 18446744073709551615\n"
                        "# HELP b Second.\n# TYPE b gauge\n"
                        "b{name=\"quote \\\" slash \\\\ line\\n control ?\"} 0.25\n");
}

TEST_CASE("metrics: several VMs' become one page, family by family", "[metrics]") {
    Exposition out;
    out.add(simple(), "pod", "one");
    out.add(simple(), "pod", "t\"wo");
    CHECK(out.text() == "# HELP a_total Help.\n# TYPE a_total counter\na_total{pod=\"one\"} 1\n"
                        "a_total{pod=\"one\",x=\"}\"} 2\na_total{pod=\"t\\\"wo\"} 1\n"
                        "a_total{pod=\"t\\\"wo\",x=\"}\"} 2\n");
}

TEST_CASE("metrics: what is not in the format is left out", "[metrics]") {
    Exposition out;
    out.add("stray 1\n# TYPE b nonsense\n# TYPE 1x counter\n1x 3\n# TYPE c counter\nc{x=\"open 1\n"
            "c notanumber\nc\nc \nc{a=\"b\"}1\nc \x1b[31m\n# HELP\n#\nc 5",
            "pod", "p");
    CHECK(out.text() == "# HELP c \n# TYPE c counter\nc{pod=\"p\"} 5\n");
    Exposition large;
    std::string many;
    for (int i = 0; i < 3000; ++i)
        many += "# TYPE f" + std::to_string(i) + " gauge\nf" + std::to_string(i) + " 1\n";
    large.add(many, "pod", "p");
    CHECK(large.text().find("f999{") != std::string::npos);
    CHECK(large.text().find("f1000{") == std::string::npos);
}

TEST_CASE("metrics: the endpoint's answers", "[metrics]") {
    const auto text = [] { return std::string("a 1\n"); };
    const auto answer = [&](std::string_view request) { return answer_to(request, text); };
    CHECK(answer("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("\r\n\r\na 1\n"));
    CHECK(answer("GET /metrics?x=y HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
    const std::string head = answer("HEAD /metrics HTTP/1.1\r\n\r\n");
    CHECK(head.ends_with("\r\n\r\n"));
    CHECK(head.find("Content-Length: 4\r\n") != std::string::npos);
    CHECK(answer("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    CHECK(answer("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    for (const char* wrong :
         {"", " ", "GET\r\n\r\n", "GET /metrics\r\n\r\n", "GET  \r\n\r\n", "\r\n\r\n"})
        CHECK(answer(wrong).starts_with("HTTP/1.1 400 "));
}

TEST_CASE("metrics: a request in pieces, an answer longer than a socket holds", "[metrics]") {
    Fixture one;
    one.text.assign(4u << 20, 'x');
    const virtio::UniqueFd caller = one.caller();
    Fixture::say(caller, "GET /metr");
    one.loop.settle();
    Fixture::say(caller, "ics HTTP/1.1\r\n\r\n");
    const std::string answer = one.hear(caller);
    CHECK(answer.starts_with("HTTP/1.1 200 OK"));
    CHECK(answer.ends_with(one.text));
    CHECK(one.loop.watched() == 1);
}

TEST_CASE("metrics: without descriptors callers are turned away, and the loop rests", "[metrics]") {
    Fixture one;
    const virtio::UniqueFd first = one.caller();
    const virtio::UniqueFd second = one.caller();
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    std::vector<virtio::UniqueFd> all;
    do
        all.emplace_back(::fcntl(one.listener, F_DUPFD_CLOEXEC, 0));
    while (all.size() < 16);
    const rlimit few{static_cast<rlim_t>(all.back().get()) + 1, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
    bool rests = false;
    for (int turns = 0; turns < 10 && !rests; ++turns)
        rests = !one.loop.turn();
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK(rests);
    all.clear();
    CHECK(one.hear(first).empty());
    CHECK(one.hear(second).empty());
    const virtio::UniqueFd third = one.caller();
    Fixture::say(third, "GET /metrics HTTP/1.1\r\n\r\n");
    CHECK(one.hear(third).starts_with("HTTP/1.1 200 OK"));
}

TEST_CASE("metrics: callers that say nothing, too much or leave are forgotten", "[metrics]") {
    Fixture one;
    std::vector<virtio::UniqueFd> silent;
    for (std::size_t i = 0; i < 2 * MetricsEndpoint::most_callers; ++i) {
        silent.push_back(one.caller());
        one.loop.settle();
    }
    CHECK(one.loop.watched() == 1 + MetricsEndpoint::most_callers);
    CHECK(one.hear(silent.front()).empty());
    Fixture::say(silent.back(), std::string(2 * MetricsEndpoint::longest_request, 'y'));
    one.loop.settle();
    CHECK(one.loop.watched() == MetricsEndpoint::most_callers);
    silent.clear();
    one.loop.settle();
    CHECK(one.loop.watched() == 1);
    const virtio::UniqueFd caller = one.caller();
    Fixture::say(caller, "GET /metrics HTTP/1.1\r\n\r\n");
    CHECK(one.hear(caller).ends_with("a 1\n"));
}
