#include "tools/pod/agent_dial.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <utility>

#include <sys/epoll.h>

namespace pod {

AgentDial::AgentDial(os::EventLoop& loop, std::string directory, ProcessId vm,
                     std::chrono::milliseconds limit, Done done)
    : loop_(loop), directory_(std::move(directory)), vm_(vm), deadline_(Clock::now() + limit),
      done_(std::move(done)) {
    timer_ = loop_.after(std::chrono::milliseconds(0), [this] { attempt(); });
}

void AgentDial::stop() {
    if (timer_ != 0)
        loop_.cancel(std::exchange(timer_, 0));
    if (socket_)
        loop_.forget(socket_.get());
    socket_.reset();
}

// The last thing that is done here: the dial may be gone when it returns.
void AgentDial::finish(os::Result<std::unique_ptr<AgentLink>> result) {
    stop();
    const Done done = std::exchange(done_, nullptr);
    done(std::move(result));
}

void AgentDial::attempt() {
    timer_ = 0;
    if (!ask())
        return try_again();
    // A request that meets a driver which is just starting is lost: then another one is made.
    const Clock::duration longest = patience(std::chrono::seconds(3));
    timer_ = loop_.after(std::min(longest, deadline_ - Clock::now()), [this] {
        timer_ = 0;
        try_again();
    });
}

os::Result<void> AgentDial::ask() {
    const os::UniqueFd place(::open(directory_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!place)
        return os::fail_errno(errno, "the pod's directory ", directory_);
    TRY(os::UniqueFd socket, reach_vm(place.get()));
    TRY(PortRequest::send(socket.get()));
    TRY(loop_.watch(socket.get(), EPOLLIN, [this](std::uint32_t) { on_ready(); }));
    socket_ = std::move(socket);
    request_ = PortRequest();
    return {};
}

void AgentDial::on_ready() {
    const auto granted = request_.take(socket_.get());
    if (!granted)
        return try_again();
    if (!*granted)
        return;
    loop_.forget(socket_.get());
    auto client = ttrpc::Client::start(loop_, std::move(socket_));
    if (!client)
        return finish(base::Failure(client.error()));
    finish(AgentLink::over(std::move(*client)));
}

void AgentDial::try_again() {
    stop();
    if (!vm_.is_alive())
        return finish(os::fail(os::Code::Unavailable, "the pod's VM has ended"));
    if (Clock::now() >= deadline_)
        return finish(os::fail(os::Code::DeadlineExceeded, "the pod's agent does not answer"));
    constexpr std::chrono::milliseconds longest_between(64);
    between_ = std::min(2 * between_, longest_between);
    timer_ = loop_.after(between_, [this] { attempt(); });
}

} // namespace pod
