// joey-agent: pid 1 of a pod's guest, or an ordinary process on a Linux host.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>

#include "agent/service/agent.hpp"
#include "agent/startup/listen.hpp"
#include "agent/startup/neighbours.hpp"
#include "agent/startup/own_program.hpp"
#include "agent/startup/system.hpp"

namespace {

constexpr const char* usage =
    "usage: joey-agent [--listen unix:PATH | vsock:PORT | fd:NUMBER] [--cgroup-root DIRECTORY]\n"
    "                  [--first] [--neighbour ADDRESS=MAC]...\n"
    "As pid 1, or with --first as the first program of a kernel that has its own pid 1, it mounts "
    "what\n"
    "a system needs. As pid 1 it powers the machine off at its end.\n";

struct Options {
    std::string listen = "vsock:1024";
    std::string cgroup_root = "/sys/fs/cgroup";
    bool first = false;
    std::vector<std::string> neighbours;
};

os::Result<Options> read_options(int argc, char** argv) {
    Options out;
    for (int i = 1; i < argc; ++i) {
        const std::string_view name = argv[i];
        if (name == "--first") {
            out.first = true;
            continue;
        }
        if (name != "--listen" && name != "--cgroup-root" && name != "--neighbour")
            return os::fail(os::Code::InvalidArgument, "unknown argument ", name, "\n", usage);
        if (i + 1 == argc)
            return os::fail(os::Code::InvalidArgument, name, " needs a value\n", usage);
        const std::string value = argv[++i];
        if (name == "--neighbour")
            out.neighbours.push_back(value);
        else
            (name == "--listen" ? out.listen : out.cgroup_root) = value;
    }
    while (out.cgroup_root.size() > 1 && out.cgroup_root.ends_with('/'))
        out.cgroup_root.pop_back();
    return out;
}

// Blocks those that end a service; its end is to be an orderly one.
os::Result<os::UniqueFd> take_end_signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGTERM, SIGINT, SIGPWR})
        sigaddset(&set, number);
    if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0)
        return os::fail_errno(errno, "block SIGTERM");
    os::UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals)
        return os::fail_errno(errno, "take signals from a descriptor");
    return signals;
}

os::Result<void> serve(const Options& options, bool is_init) {
    TRY(const auto loop, os::EventLoop::create());
    TRY(const auto children, service::Children::start(*loop));
    service::Agent agent(*loop, *children,
                         {.cgroup_root = options.cgroup_root, .is_init = is_init});
    ttrpc::Server server(*loop);
    agent.register_methods(server);
    TRY(const os::UniqueFd signals, take_end_signals());
    TRY(loop->watch(signals.get(), EPOLLIN, [&](std::uint32_t) {
        loop->forget(signals.get());
        agent.shut_down();
    }));
    TRY(os::UniqueFd listener, startup::open_listener(options.listen));
    TRY(server.listen(std::move(listener)));
    loop->run();
    // The answer to Shutdown is on its way.
    loop->run_once(std::chrono::milliseconds(0));
    return {};
}

os::Result<void> run(int argc, char** argv) {
    TRY(const Options options, read_options(argc, argv));
    const bool is_init = getpid() == 1;
    TRY(startup::protect_own_program(argv));
    if (options.first || is_init)
        TRY(startup::set_up_system());
    if (!is_init && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
        return os::fail_errno(errno, "become the reaper of what containers leave behind");
    for (const std::string& neighbour : options.neighbours)
        TRY(startup::add_neighbour(neighbour));
    signal(SIGPIPE, SIG_IGN);
    return serve(options, is_init);
}

} // namespace

int main(int argc, char** argv) {
    const auto result = run(argc, argv);
    if (!result)
        std::fprintf(stderr, "joey-agent: %s\n", result.error().message.c_str());
    if (getpid() == 1) {
        sync();
        reboot(RB_POWER_OFF);
    }
    return result ? 0 : 1;
}
