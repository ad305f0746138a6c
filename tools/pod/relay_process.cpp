#include "tools/pod/relay_process.hpp"

#include <cerrno>
#include <csignal>
#include <fcntl.h>

#include <sys/prctl.h>
#include <sys/wait.h>

#include "agent/os/files.hpp"
#include "tools/pod/host_cgroup.hpp"

namespace pod {

namespace {

// Kinds of messages on the channel.
constexpr char begun = 'b';
constexpr char failed = 'f';
constexpr char go_on = 'g';

struct Begun {
    std::unique_ptr<os::EventLoop> loop;
    std::unique_ptr<AgentLink> agent;
    os::UniqueFd terminal;
    std::unique_ptr<Relay> relay;
    std::vector<std::string> warnings;
};

os::Result<Begun> begin(const Pod& pod, const RelayStart& what) {
    Begun out;
    join_cgroups(what.cgroups);
    RelayConfig config = what.relay;
    if (config.terminal && !what.console_socket.empty()) {
        TRY(out.terminal, open_console(what.console_socket));
        config.streams = {out.terminal.get(), out.terminal.get(), out.terminal.get()};
        config.take_terminal = true;
    }
    if (what.streams && out.terminal.get() < 0) {
        for (std::size_t i = 0; i < config.streams.size(); ++i)
            config.streams[i] = (*what.streams)[i] >= 0 ? static_cast<int>(i) : -1;
        config.over_streams = config.terminal;
    }
    TRY(out.loop, os::EventLoop::create());
    TRY(out.agent, pod.connect(*out.loop));
    // A container is somebody's to delete, a process that was executed in it is not.
    if (!config.exec.empty())
        config.received = [&what, agent = out.agent.get()] { what.abandon(*agent); };
    config.ended = what.ended;
    out.relay = std::make_unique<Relay>(*out.loop, *out.agent, config);
    TRY(out.relay->prepare());
    auto warnings = what.begin(*out.agent);
    if (!warnings) {
        // Half of it may be there, or come yet. What was there before is somebody else's.
        if (warnings.error().code != os::Code::AlreadyExists)
            what.abandon(*out.agent);
        return base::Failure(warnings.error());
    }
    out.warnings = std::move(*warnings);
    return out;
}

// The given descriptors become 0, 1 and 2; they may be among these themselves, in any order.
bool take_streams(const std::array<int, 3>& streams) {
    constexpr int first_free = 3;
    os::UniqueFd opened(::open("/dev/null", O_RDWR | O_CLOEXEC));
    const os::UniqueFd null(::fcntl(opened.get(), F_DUPFD_CLOEXEC, first_free));
    opened.reset();
    std::array<os::UniqueFd, 3> copies;
    for (std::size_t i = 0; i < streams.size(); ++i) {
        const int from = streams[i] >= 0 ? streams[i] : null.get();
        copies[i] = os::UniqueFd(::fcntl(from, F_DUPFD_CLOEXEC, first_free));
    }
    for (std::size_t i = 0; i < streams.size(); ++i) {
        if (!copies[i] || ::dup2(copies[i].get(), static_cast<int>(i)) < 0)
            return false;
    }
    return true;
}

[[noreturn]] void be_relay(const Pod& pod, const RelayStart& what, int channel) {
    ::setsid();
    ::prctl(PR_SET_NAME, "joey-relay", 0, 0, 0);
    // Above the streams, wherever the caller had it.
    constexpr int first_free = 3;
    channel = ::fcntl(channel, F_DUPFD_CLOEXEC, first_free);
    if (channel < 0 || (what.streams && !take_streams(*what.streams)))
        ::_exit(1);
    std::vector<int> keep{channel};
    for (const PreservedFd& preserved : what.relay.preserved)
        keep.push_back(preserved.fd);
    os::close_all_but(std::move(keep));
    auto started = begin(pod, what);
    if (!started) {
        static_cast<void>(os::send_message(channel, failed,
                                           os::text(static_cast<int>(started.error().code), " ",
                                                    started.error().message))
                              .has_value());
        ::_exit(1);
    }
    // Not before: the console socket's path may be relative.
    if (::chdir("/") != 0) {
        what.abandon(*started->agent);
        ::_exit(1);
    }
    std::string warnings;
    for (const std::string& warning : started->warnings)
        warnings += os::text(warning, "\n");
    const auto told = os::send_message(channel, begun, warnings);
    const auto answer = os::receive_message(channel);
    if (!told || !answer || !*answer || (*answer)->kind != go_on) {
        what.abandon(*started->agent);
        ::_exit(1);
    }
    ::close(channel);
    // The streams of a container with a terminal are the terminal alone.
    if (started->terminal) {
        const os::UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
        for (int fd = 0; fd < 3; ++fd)
            ::dup2(null.get(), fd);
    }
    ::_exit(started->relay->run());
}

} // namespace

os::Result<StartedRelay> StartedRelay::start(const Pod& pod, const RelayStart& what) {
    TRY(os::Channel channel, os::make_channel());
    const pid_t child = ::fork();
    if (child == 0)
        be_relay(pod, what, channel.far.get());
    if (child < 0)
        return os::fail_errno(errno, "fork");
    channel.far.reset();
    const auto process = ProcessId::of(child);
    auto answer = os::receive_message(channel.near.get());
    if (process && answer && *answer && (*answer)->kind == begun) {
        std::vector<std::string> warnings;
        std::string& text = (*answer)->text;
        for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n')) {
            warnings.push_back(text.substr(0, end));
            text.erase(0, end + 1);
        }
        return StartedRelay(*process, std::move(channel.near), std::move(warnings));
    }
    ::kill(child, SIGKILL);
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    if (!answer || !*answer)
        return os::fail(os::Code::Internal, "the container's process on the host has died");
    const std::string& text = (*answer)->text;
    const std::size_t blank = text.find(' ');
    return os::fail(static_cast<os::Code>(std::atoi(text.c_str())), text.substr(blank + 1));
}

os::Result<void> StartedRelay::commit() {
    return os::send_message(channel_.get(), go_on);
}

} // namespace pod
