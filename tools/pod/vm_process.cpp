#include "tools/pod/vm_process.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <fcntl.h>
#include <sched.h>

#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent/os/files.hpp"
#include "tools/pod/host_cgroup.hpp"
#include "tools/pod/interface.hpp"
#include "tools/pod/mount_namespace.hpp"
#include "tools/pod/state_files.hpp"
#include "tools/pod/vm_log.hpp"

namespace pod {

namespace {

os::Result<std::string> own_program() {
    // Once: when this process has gone to another mount namespace, in a chroot the kernel calls its
    // program by a name that leads nowhere.
    static const std::string known = [] {
        char path[PATH_MAX];
        const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
        return std::string(path, length > 0 ? static_cast<std::size_t>(length) : 0);
    }();
    if (known.empty())
        return os::fail(os::Code::Internal, "/proc does not show this process's program");
    return known;
}

// Beside the caller, which may be the shim; installed, or in the build tree.
os::Result<std::string> find_beside(std::initializer_list<const char*> places, const char* what) {
    TRY(const std::string own, own_program());
    const std::string folder = own.substr(0, own.rfind('/'));
    for (const char* place : places) {
        const std::string candidate = folder + place;
        char resolved[PATH_MAX];
        if (::access(candidate.c_str(), R_OK) == 0 &&
            ::realpath(candidate.c_str(), resolved) != nullptr)
            return std::string(resolved);
    }
    return os::fail(os::Code::NotFound, what, " is neither beside ", own,
                    " nor where it is installed; build or install joey again");
}

// Where the VM writes: its console, and what it says by itself.
struct LogEnds {
    os::UniqueFd console;
    os::UniqueFd messages;
};

os::Result<void> set_up_streams(const LogEnds& log) {
    const os::UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!null || ::dup2(null.get(), STDIN_FILENO) < 0 ||
        ::dup2(log.console.get(), STDOUT_FILENO) < 0 ||
        ::dup2(log.console.get(), STDERR_FILENO) < 0 ||
        ::fcntl(log.messages.get(), F_SETFD, 0) != 0)
        return os::fail_errno(errno, "set up the VM's streams");
    return {};
}

struct Pipe {
    os::UniqueFd read;
    os::UniqueFd write;
};

os::Result<Pipe> make_pipe() {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
        return os::fail_errno(errno, "make a pipe");
    return Pipe{os::UniqueFd(ends[0]), os::UniqueFd(ends[1])};
}

// The process that keeps the VM's log; the result is where that one writes.
os::Result<LogEnds> start_log(const std::string& directory, os::UniqueFd& report) {
    TRY(VmLog log, VmLog::open(directory));
    TRY(Pipe console, make_pipe());
    TRY(Pipe messages, make_pipe());
    const pid_t keeper = ::fork();
    if (keeper < 0)
        return os::fail_errno(errno, "fork");
    if (keeper > 0)
        return LogEnds{std::move(console.write), std::move(messages.write)};
    console.write.reset();
    messages.write.reset();
    report.reset();
    ::prctl(PR_SET_NAME, "joey-log", 0, 0, 0);
    const os::UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    for (int fd = 0; fd < 3; ++fd)
        ::dup2(null.get(), fd);
    log.keep(console.read.get(), messages.read.get());
    ::_exit(0);
}

void reset_signals() {
    for (int number = 1; number < NSIG; ++number)
        std::signal(number, SIG_DFL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

os::Result<void> join_network(const std::string& path) {
    if (path.empty())
        return {};
    const os::UniqueFd place(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!place || ::setns(place.get(), CLONE_NEWNET) != 0)
        return os::fail_errno(errno, "network namespace ", path);
    return {};
}

// The words that tell the VM and the agent of the network; the descriptors have to stay open.
struct NetworkWords {
    std::vector<std::string> vm;
    std::vector<std::string> agent;
    std::vector<os::UniqueFd> tap;
};

unsigned queues_for(const VmConfig& config) {
    constexpr unsigned most = 4;
    cpu_set_t usable;
    CPU_ZERO(&usable);
    const bool known = ::sched_getaffinity(0, sizeof usable, &usable) == 0;
    return std::min(config.cpus.value_or(known ? static_cast<unsigned>(CPU_COUNT(&usable)) : 1),
                    most);
}

// Requires: the pod's network namespace was joined.
os::Result<NetworkWords> make_network(const VmConfig& config) {
    NetworkWords out;
    const bool is_given =
        std::any_of(config.options.begin(), config.options.end(),
                    [](const std::string& word) { return word.starts_with("--net"); });
    if (is_given || config.network == VmNetwork::Host)
        return out;
    if (config.network == VmNetwork::Pod) {
        TRY(const auto found, find_interface());
        if (found) {
            TRY(out.tap, join_tap(*found, queues_for(config)));
            out.vm = vm_words(*found, out.tap);
            out.agent = agent_words(*found);
            // The VM inherits them.
            for (const os::UniqueFd& queue : out.tap)
                ::fcntl(queue.get(), F_SETFD, 0);
            return out;
        }
    }
    out.vm = {"--net", "none"};
    return out;
}

std::vector<std::string> command_line(const std::string& joey, const std::string& agent,
                                      const VmConfig& config, const NetworkWords& network,
                                      int messages) {
    std::vector<std::string> out = {joey, "do", "--rootfs", config.directory + "/root", "--volume",
                                    os::text(config.directory, "/share:", guest_share), "--volume",
                                    os::text(agent, ":", guest_agent, ":ro"),
                                    // Relative: a socket's name has 107 bytes at most.
                                    "--vsock", "vsock", "--metrics", "metrics", "--log-format",
                                    "json", "--log-fd", std::to_string(messages), "--privilege",
                                    config.privilege, "--cwd", "/", "--hostname", "localhost"};
    if (config.cpus) {
        out.emplace_back("--cpus");
        out.push_back(std::to_string(*config.cpus));
    }
    if (!config.memory.empty()) {
        out.emplace_back("--memory");
        out.push_back(config.memory);
    }
    out.insert(out.end(), network.vm.begin(), network.vm.end());
    out.insert(out.end(), config.options.begin(), config.options.end());
    for (const char* word : {"--", guest_agent, "--first", "--listen"})
        out.emplace_back(word);
    out.push_back(os::text("vsock:", agent_port));
    out.emplace_back("--ready");
    out.push_back(os::text("vsock:", ready_port));
    out.insert(out.end(), network.agent.begin(), network.agent.end());
    return out;
}

// What becomes the VM. Returns only if that fails.
os::Result<void> become_vm(const VmConfig& config, const std::string& joey,
                           const std::string& agent, const LogEnds& log) {
    const auto self = ProcessId::of(::getpid());
    if (!self)
        return os::fail(os::Code::Internal, "/proc does not show this process");
    TRY(write_quickly(config.directory + "/vm.json", to_text(self->to_json())));
    join_cgroups(config.cgroups);
    TRY(set_up_streams(log));
    TRY(join_network(config.network_namespace));
    TRY(const NetworkWords network, make_network(config));
    const std::string needed[] = {config.directory + "/share",
                                  joey,
                                  agent,
                                  "/dev/kvm",
                                  "/proc",
                                  "/usr/lib",
                                  "/lib",
                                  "/lib64",
                                  "/etc"};
    TRY(enter_private_mounts(needed));
    // The share is of the host's /run: a guest that could write beside what is mounted for it would
    // fill that, and have a say in where the next mount goes.
    TRY(seal_directory(config.directory + "/share"));
    if (::chdir(config.directory.c_str()) != 0)
        return os::fail_errno(errno, "enter ", config.directory);
    reset_signals();
    ::umask(022);
    const std::vector<std::string> words =
        command_line(joey, agent, config, network, log.messages.get());
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (const std::string& word : words)
        arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    // What the agent gets, and no more.
    char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    std::array<char*, 2> environment = {path, nullptr};
    ::execve(joey.c_str(), arguments.data(), environment.data());
    return os::fail_errno(errno, "run ", joey);
}

} // namespace

os::Result<std::string> find_agent() {
    return find_beside({"/joey-agent", "/../../agent/joey-agent", "/../lib/joey/joey-agent"},
                       "the agent (joey-agent)");
}

os::Result<ProcessId> start_vm(const VmConfig& config) {
    TRY(const std::string agent, find_agent());
    TRY(const std::string joey, find_beside({"/joey", "/../joey/joey"}, "joey"));
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
        return os::fail_errno(errno, "make a pipe");
    os::UniqueFd report(ends[0]);
    os::UniqueFd failure(ends[1]);
    // Twice: the VM is nobody's child but init's, or the next subreaper's.
    const pid_t between = ::fork();
    if (between == 0) {
        ::setsid();
        const auto say = [&failure](const std::string& why) {
            static_cast<void>(!::write(failure.get(), why.data(), why.size()));
            ::_exit(1);
        };
        // The report's end is this process's and the VM's alone, and nothing of the caller stays
        // open in what outlives him.
        os::close_all_but({failure.get()});
        const auto log = start_log(config.directory, failure);
        if (!log)
            say(log.error().message);
        if (::fork() == 0)
            say(become_vm(config, joey, agent, *log).error().message);
        ::_exit(0);
    }
    if (between < 0)
        return os::fail_errno(errno, "fork");
    while (::waitpid(between, nullptr, 0) < 0 && errno == EINTR) {
    }
    failure.reset();
    std::string why;
    char piece[512];
    for (;;) {
        const ssize_t got = ::read(report.get(), piece, sizeof piece);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        why.append(piece, static_cast<std::size_t>(got));
    }
    if (!why.empty())
        return os::fail(os::Code::Internal, "start the VM: ", why);
    TRY(const Json record, read_json(config.directory + "/vm.json"));
    return ProcessId::from_json(record);
}

} // namespace pod
