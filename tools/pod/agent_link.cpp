#include "tools/pod/agent_link.hpp"

#include <algorithm>
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
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
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
        char c = 0; // one by one: what follows the line is the agent's
        if (::recv(socket, &c, 1, MSG_DONTWAIT) != 1 || line.size() == longest)
            return os::fail(os::Code::Unavailable, "the agent does not listen");
        line += c;
    }
    if (!line.starts_with("OK "))
        return os::fail(os::Code::Unavailable, "the VM gives an unknown answer");
    return {};
}

} // namespace

os::Result<std::unique_ptr<AgentLink>> AgentLink::connect(os::EventLoop& loop,
                                                          const std::string& directory,
                                                          const ProcessId& vm,
                                                          std::chrono::milliseconds limit) {
    const os::UniqueFd place(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!place)
        return os::fail_errno(errno, "the pod's directory ", directory);
    const auto deadline = Clock::now() + limit;
    // More and more seldom: the VM needs the CPU for its start.
    std::chrono::milliseconds between(2);
    constexpr std::chrono::milliseconds longest_between(64);
    // A request that meets a driver which is just starting is lost: then another one is made.
    constexpr std::chrono::seconds attempt(3);
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
            return os::fail(os::Code::Unavailable, "the pod's VM has ended");
        if (Clock::now() >= deadline)
            return os::fail(os::Code::DeadlineExceeded, "the pod's agent does not answer");
    }
}

} // namespace pod
