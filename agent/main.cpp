// joey-agent: pid 1 of a pod's guest, or an ordinary process on a Linux host.
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <sched.h>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "agent/os/descriptor_limit.hpp"
#include "agent/service/agent.hpp"
#include "agent/startup/listen.hpp"
#include "agent/startup/neighbours.hpp"
#include "agent/startup/own_program.hpp"
#include "agent/startup/system.hpp"

namespace {

constexpr const char* usage =
    "usage: joey-agent [--listen unix:PATH | vsock:PORT | fd:NUMBER] [--cgroup-root DIRECTORY]\n"
    "                  [--first] [--ready vsock:PORT] [--neighbour ADDRESS=MAC]...\n"
    "As pid 1 it mounts what a system needs, and powers the machine off at its end. With --first, "
    "as "
    "the\n"
    "first program of a kernel that has its own pid 1, it becomes pid 1 of a pid namespace.\n"
    "With --ready it connects to that port of the host, once, when it listens.\n";

struct Options {
    std::string listen = "vsock:1024";
    std::string cgroup_root = "/sys/fs/cgroup";
    std::string ready;
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
        if (name != "--listen" && name != "--cgroup-root" && name != "--neighbour" &&
            name != "--ready")
            return os::fail(os::Code::InvalidArgument, "unknown argument ", name, "\n", usage);
        if (i + 1 == argc)
            return os::fail(os::Code::InvalidArgument, name, " needs a value\n", usage);
        const std::string value = argv[++i];
        if (name == "--neighbour")
            out.neighbours.push_back(value);
        else if (name == "--ready")
            out.ready = value;
        else
            (name == "--listen" ? out.listen : out.cgroup_root) = value;
    }
    while (out.cgroup_root.size() > 1 && out.cgroup_root.ends_with('/'))
        out.cgroup_root.pop_back();
    return out;
}

constexpr std::array end_signals = {SIGTERM, SIGINT, SIGPWR};

// Blocks those that end a service; its end is to be an orderly one.
os::Result<os::UniqueFd> take_end_signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : end_signals)
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
    os::UniqueFd ready;
    if (!options.ready.empty()) {
        TRY(ready, startup::say_ready(options.ready));
    }
    loop->run();
    // The answer to Shutdown is on its way.
    loop->run_once(std::chrono::milliseconds(0));
    return {};
}

// What is left of the agent's first process when it has made another one the first of a new pid
// namespace: there, no container can end it, not even one that sees its processes, and with it all
// of them end. The exit status of this one is what the VM's process on the host gets.
pid_t passed_on_to = -1;

int stand_by(pid_t agent) {
    passed_on_to = agent;
    for (const int number : end_signals)
        signal(number, [](int which) { kill(passed_on_to, which); });
    int status = 0;
    while (waitpid(agent, &status, 0) < 0 && errno == EINTR)
        continue;
    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    constexpr int signal_base = 128;
    std::fprintf(stderr, "joey-agent: signal %d (%s) has ended the agent, and the pod with it\n",
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    return signal_base + WTERMSIG(status);
}

// Goes on in a process that is the first of a pid namespace. Only that one returns.
os::Result<void> become_first() {
    if (unshare(CLONE_NEWPID) != 0)
        return os::fail_errno(errno, "make a pid namespace");
    const pid_t agent = fork();
    if (agent < 0)
        return os::fail_errno(errno, "fork");
    if (agent > 0)
        _exit(stand_by(agent));
    return {};
}

os::Result<void> run(int argc, char** argv) {
    TRY(const Options options, read_options(argc, argv));
    const bool is_init = getpid() == 1;
    TRY(startup::protect_own_program(argv));
    if (options.first && !is_init) {
        // Before there are two of them: the machine goes with either.
        startup::outlive_want_of_memory();
        TRY(become_first());
    }
    if (options.first || is_init)
        TRY(startup::set_up_system(!is_init));
    else if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
        return os::fail_errno(errno, "become the reaper of what containers leave behind");
    for (const std::string& neighbour : options.neighbours)
        TRY(startup::add_neighbour(neighbour));
    signal(SIGPIPE, SIG_IGN);
    os::raise_descriptor_limit();
    return serve(options, is_init);
}

} // namespace

int main(int argc, char** argv) {
    const bool is_machine_init = getpid() == 1;
    const auto result = run(argc, argv);
    if (!result)
        std::fprintf(stderr, "joey-agent: %s\n", result.error().message.c_str());
    if (is_machine_init) {
        sync();
        reboot(RB_POWER_OFF);
    }
    return result ? 0 : 1;
}
