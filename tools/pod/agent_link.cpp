#include "tools/pod/agent_link.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <string_view>

#include <sys/socket.h>
#include <sys/un.h>

#include "tools/pod/vm_process.hpp"

namespace pod {

namespace {

using Clock = std::chrono::steady_clock;

int milliseconds_until(Clock::time_point deadline) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    return static_cast<int>(std::max<decltype(left)>(left, 0));
}

// By the directory's descriptor: its path may be longer than a socket's name can be.
os::Result<os::UniqueFd> reach_socket(int directory) {
    // Not blocking: a VM that takes no connections has a backlog that is full one day, and
    // connect(2) would wait for it without end.
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(name.sun_path, sizeof name.sun_path, "/proc/self/fd/%d/vsock", directory);
    if (!socket ||
        ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0)
        return os::fail_errno(errno, "connect to the VM");
    return socket;
}

// "CONNECT <port>" and the answer "OK <port>"; without a listener inside, the socket closes.
os::Result<void> ask_for_port(int socket, Clock::time_point deadline) {
    const std::string request = os::text("CONNECT ", agent_port, "\n");
    if (::send(socket, request.data(), request.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request.size()))
        return os::fail_errno(errno, "connect to the agent");
    std::string line;
    constexpr std::size_t longest = 64;
    while (!line.ends_with('\n')) {
        pollfd wanted{socket, POLLIN, 0};
        const int ready = ::poll(&wanted, 1, milliseconds_until(deadline));
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return os::fail(os::Code::DeadlineExceeded, "the VM does not answer");
        // No further than the line: what follows it is the agent's.
        std::array<char, longest> bytes{};
        const ssize_t there =
            ::recv(socket, bytes.data(), longest - line.size(), MSG_DONTWAIT | MSG_PEEK);
        if (there <= 0)
            return os::fail(os::Code::Unavailable, "the agent does not listen");
        const std::string_view seen(bytes.data(), static_cast<std::size_t>(there));
        const std::size_t own = std::min(seen.find('\n'), seen.size() - 1) + 1;
        if (::recv(socket, bytes.data(), own, MSG_DONTWAIT) != static_cast<ssize_t>(own))
            return os::fail(os::Code::Unavailable, "the agent does not listen");
        line += seen.substr(0, own);
        if (line.size() == longest && !line.ends_with('\n'))
            return os::fail(os::Code::Unavailable, "the VM gives an unknown answer");
    }
    if (!line.starts_with("OK "))
        return os::fail(os::Code::Unavailable, "the VM gives an unknown answer");
    return {};
}

// False: the VM has ended.
bool wait_for_ready(const ProcessId& vm, int ready, Clock::time_point deadline) {
    const os::UniqueFd end = vm.handle();
    if (!end)
        return false;
    std::array<pollfd, 2> wanted{{{ready, POLLIN, 0}, {end.get(), POLLIN, 0}}};
    while (::poll(wanted.data(), wanted.size(), milliseconds_until(deadline)) < 0 && errno == EINTR)
        continue;
    return wanted[0].revents != 0 || wanted[1].revents == 0;
}

} // namespace

os::Result<std::unique_ptr<AgentLink>>
AgentLink::connect(os::EventLoop& loop, const std::string& directory, const ProcessId& vm,
                   std::chrono::milliseconds limit, int ready) {
    const os::UniqueFd place(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!place)
        return os::fail_errno(errno, "the pod's directory ", directory);
    const auto deadline = Clock::now() + limit;
    const auto ended = [] { return os::fail(os::Code::Unavailable, "the pod's VM has ended"); };
    // An agent's word can be lost, and is for convenience only.
    const auto longest_silence = patience(std::chrono::seconds(30));
    if (ready >= 0 &&
        !wait_for_ready(vm, ready, std::min(deadline, Clock::now() + longest_silence)))
        return ended();
    // More and more seldom: the VM needs the CPU for its start.
    std::chrono::milliseconds between(2);
    constexpr std::chrono::milliseconds longest_between(64);
    // A request that meets a driver which is just starting is lost: then another one is made.
    const auto attempt = patience(std::chrono::seconds(3));
    for (;;) {
        auto socket = reach_socket(place.get());
        if (socket) {
            const auto connected =
                ask_for_port(socket->get(), std::min(deadline, Clock::now() + attempt));
            if (connected) {
                TRY(auto client, ttrpc::Client::start(loop, std::move(*socket)));
                return std::unique_ptr<AgentLink>(new AgentLink(std::move(client)));
            }
        }
        // A VM that has just been started has no socket yet, then no agent.
        between = std::min(2 * between, longest_between);
        if (vm.wait_for_end(between))
            return ended();
        if (Clock::now() >= deadline)
            return os::fail(os::Code::DeadlineExceeded, "the pod's agent does not answer");
    }
}

} // namespace pod
