#include "tools/pod/agent_link.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <poll.h>

#include "tools/pod/vm_socket.hpp"

namespace pod {

namespace {

using Clock = std::chrono::steady_clock;

int milliseconds_until(Clock::time_point deadline) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    return static_cast<int>(std::max<decltype(left)>(left, 0));
}

// Without a listener inside, the socket closes.
os::Result<void> ask_for_port(int socket, Clock::time_point deadline) {
    TRY(PortRequest::send(socket));
    PortRequest request;
    for (;;) {
        pollfd wanted{socket, POLLIN, 0};
        const int ready = ::poll(&wanted, 1, milliseconds_until(deadline));
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return os::fail(os::Code::DeadlineExceeded, "the VM does not answer");
        TRY(const bool granted, request.take(socket));
        if (granted)
            return {};
    }
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
        auto socket = reach_vm(place.get());
        if (socket) {
            const auto connected =
                ask_for_port(socket->get(), std::min(deadline, Clock::now() + attempt));
            if (connected) {
                TRY(auto client, ttrpc::Client::start(loop, std::move(*socket)));
                return over(std::move(client));
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
