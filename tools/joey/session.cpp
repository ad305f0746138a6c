#include "tools/joey/session.hpp"

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <unistd.h>
#include <x86intrin.h>

#include <sys/stat.h>
#include <sys/wait.h>

#include <fmt/format.h>

#include "tools/joey/host.hpp"
#include "tools/joey/timing.hpp"
#include "vmm/sandbox/sandbox.hpp"

extern char** environ;

namespace joey {
namespace {

// The name before '=' of a NAME=VALUE string.
std::string_view variable_name(std::string_view variable) {
    return variable.substr(0, variable.find('='));
}

std::vector<std::string> merge_environment(const std::vector<std::string>& changes) {
    std::vector<std::string> merged;
    const auto set = [&](std::string_view variable) {
        for (std::string& known : merged) {
            if (variable_name(known) == variable_name(variable)) {
                known = variable;
                return;
            }
        }
        merged.emplace_back(variable);
    };
    for (char** variable = environ; *variable != nullptr; ++variable)
        merged.emplace_back(*variable);
    for (const std::string& variable : changes)
        set(variable);
    return merged;
}

UserError from(const vmm::Error& error) {
    return {vmm::describe(error)};
}

} // namespace

void Session::mark(std::string_view name) {
    marks_.push_back({name, __rdtsc(), false});
}

Outcome<void> Session::set_up_process() {
    streams_ = classify_streams(options_.terminal);
    for (std::size_t i = 0; i < prepared_.size(); ++i) {
        using Direction = virtio::FdStream::Direction;
        const Direction direction = i == STDIN_FILENO ? Direction::Input : Direction::Output;
        if (auto stream = virtio::FdStream::prepare(static_cast<int>(i), direction))
            prepared_[i] = std::move(*stream);
    }
    // Now: what the control groups say is out of the sandbox's reach.
    cpus_ = options_.cpus ? *options_.cpus : usable_cpus();
    memory_bytes_ = options_.memory_bytes ? *options_.memory_bytes : default_memory_bytes();
    rlimits_ = current_rlimits(); // before the shares raise one of them for themselves
    umask_ = ::umask(0);          // the guest's modes arrive with its own mask applied
    std::signal(SIGPIPE, SIG_IGN);
    std::initializer_list<int> always = {SIGTERM, SIGHUP,  SIGINT, SIGQUIT,
                                         SIGUSR1, SIGUSR2, SIGPWR};
    std::initializer_list<int> with_terminal = {SIGTERM, SIGHUP,  SIGINT,   SIGQUIT, SIGUSR1,
                                                SIGUSR2, SIGTSTP, SIGWINCH, SIGCONT, SIGPWR};
    TRY(signals_, SignalQueue::block(streams_.host_terminal ? with_terminal : always));
    return {};
}

Outcome<void> Session::open_network() {
    if (options_.network.kind == NetworkOptions::Kind::None)
        return {};
    TRY(network_, Network::open(options_.network, options_.rootfs, options_.hostname, cpus_));
    mark("network opened");
    return {};
}

Outcome<boot::GuestDescription> Session::describe_guest() const {
    boot::GuestDescription guest;
    guest.args = options_.command;
    guest.env = merge_environment(options_.env);
    guest.hostname = options_.hostname;
    guest.strace = options_.strace;
    guest.strace_filter = options_.strace_filter;
    guest.strace_time = options_.strace_time;
    guest.log_level = options_.log_level;
    guest.umask = umask_;
    guest.address_randomization = current_address_randomization();
    guest.rlimits = rlimits_;
    if (!options_.core_directory.empty())
        lift_core_limit(guest.rlimits);
    shares_->describe(guest);
    if (network_)
        network_->describe(guest);

    if (options_.cwd) {
        guest.cwd = *options_.cwd;
        if (guest.cwd.empty() || guest.cwd[0] != '/')
            return fail(fmt::format("--cwd {}: give a path that begins with /", guest.cwd));
    } else if (options_.rootfs == "/") {
        char here[PATH_MAX];
        // A directory that was deleted under the caller has no name inside.
        guest.cwd = ::getcwd(here, sizeof here) != nullptr && here[0] == '/' ? here : "/";
    }

    Identity identity = caller_identity();
    if (options_.user) {
        TRY(identity, resolve_user(*options_.user, options_.rootfs));
    }
    guest.uid = identity.uid;
    guest.gid = identity.gid;
    guest.groups = std::move(identity.groups);

    guest.standard_input = streams_.kinds[0];
    guest.standard_output = streams_.kinds[1];
    guest.standard_error = streams_.kinds[2];
    if (streams_.guest_terminal) {
        const TerminalSize size = terminal_size(STDOUT_FILENO);
        guest.window = boot::WindowSize{size.columns, size.rows};
    }
    return guest;
}

Outcome<void> Session::enter_sandbox() {
    const bool reads_resolver = network_ && network_->user_mode();
    // Far more than serving a guest of this size takes.
    constexpr std::uint64_t least = std::uint64_t{1} << 30;
    const std::uint64_t most_memory = least + memory_bytes_ / 4;
    if (auto done = vmm::give_up_privileges(
            {shares_->paths(), options_.kernel, reads_resolver, options_.read_write, most_memory});
        !done)
        return base::Failure(from(done.error()));
    mark("privileges given up");
    return {};
}

Outcome<void> Session::make_machine(boot::GuestDescription guest) {
    vmm::VmConfig config;
    config.guest = std::move(guest);
    config.kernel_path = options_.kernel;
    config.privilege = options_.privilege;
    config.cpus = cpus_;
    config.memory_bytes = memory_bytes_;
    config.process_start_tsc = start_tsc_;
    config.watched = !options_.metrics.empty();

    const bool writable = vmm::SandboxPolicy{.shares = shares_->paths()}.writable();
    vmm::VmHooks hooks;
    hooks.log = [this](boot::LogLevel level, std::string_view text) { reporter_.log(level, text); };
    hooks.before_guest = [writable] {
        return vmm::confine_thread(vmm::ThreadClass::EventLoop, writable);
    };
    hooks.last_output = [this](std::function<void()> done) {
        deliver_last_output(std::move(done));
    };
    hooks.on_thread_start = [writable](vmm::ThreadClass thread_class) {
        return vmm::confine_thread(thread_class, writable);
    };
    auto vm = vmm::Vm::create(std::move(config), std::move(hooks));
    if (!vm) {
        std::string line = vmm::describe(vm.error());
        if (line.find("kernel image") == std::string::npos)
            return fail(std::move(line));
        if (options_.kernel.empty())
            return fail(std::move(line) + "; build or install joey again");
        return fail(fmt::format("--kernel {}: {}; leave the option out to boot joey's own",
                                options_.kernel, line));
    }
    vm_ = std::move(*vm);
    return {};
}

std::unique_ptr<virtio::FdPort> Session::make_port(int input, int output) {
    using virtio::FdStream;
    const auto open = [this](int fd, boot::StreamKind& kind) {
        std::unique_ptr<FdStream> stream;
        if (fd < 0 || kind == boot::StreamKind::Null || kind == boot::StreamKind::Closed)
            return stream;
        auto& prepared = prepared_[static_cast<std::size_t>(fd)];
        if (prepared)
            stream = std::make_unique<FdStream>(vm_->event_loop(), std::move(*prepared));
        else
            kind = boot::StreamKind::Closed; // open, but not for this direction
        return stream;
    };
    boot::GuestDescription& guest = vm_->guest();
    boot::StreamKind& output_kind =
        output == STDERR_FILENO ? guest.standard_error : guest.standard_output;
    auto in = open(input, guest.standard_input);
    auto out = open(output, output_kind);
    return std::make_unique<virtio::FdPort>(std::move(in), std::move(out));
}

// In the order of their numbers.
Outcome<void> Session::list_devices() {
    devices_ = {{console_.get(), "console", ""}, {&rng_, "rng", ""}};
    for (std::size_t i = 0; i < shares_->devices().size(); ++i) {
        virtio::Fs* share = shares_->devices()[i].get();
        devices_.push_back({share, "fs", shares_->place(i), share});
    }
    if (options_.vsock) {
        TRY(virtio::Device * vsock, sockets_->make_device(vm_->event_loop()));
        devices_.push_back({vsock, "vsock", ""});
    }
    // Last: what a volume's device is called must not depend on it.
    if (network_) {
        TRY(virtio::Net * device, network_->connect(*vm_));
        devices_.push_back({device, "net", "", nullptr, device});
    }
    return {};
}

Outcome<void> Session::offer_metrics() {
    virtio::UniqueFd listener = sockets_ ? sockets_->take_metrics() : virtio::UniqueFd();
    if (!listener)
        return {};
    metrics_ = std::make_unique<MetricsEndpoint>(vm_->event_loop(), std::move(listener), [this] {
        std::vector<vmm::TimingMark> marks = vm_->timing();
        marks.insert(marks.end(), marks_.begin(), marks_.end());
        return vm_metrics(*vm_, devices_, std::move(marks), start_tsc_);
    });
    if (auto started = metrics_->start(); !started)
        return fail(fmt::format("cannot offer metrics: {}: {}", started.error().action,
                                std::strerror(started.error().code)));
    return {};
}

Outcome<void> Session::add_devices() {
    stdio_port_ = make_port(STDIN_FILENO, STDOUT_FILENO);
    stdio_port_->on_end_of_input([this] { send(boot::ControlMessageType::stdin_closed); });
    // A terminal has one output; what the program writes to stderr goes there through the guest's.
    const bool stderr_apart = streams_.kinds[2] != boot::StreamKind::Terminal;
    stderr_port_ = make_port(-1, stderr_apart ? STDERR_FILENO : -1);
    static_assert(boot::console_port_stdio == 0 && boot::console_port_stderr == 1 &&
                  boot::console_port_control == 2);
    console_ = std::make_unique<virtio::Console>(
        vm_->event_loop(),
        std::vector<virtio::Console::Port>{{stdio_port_.get(), "stdio", streams_.guest_terminal},
                                           {stderr_port_.get(), "stderr", false},
                                           {&control_port_, "control", false}});
    TRY(list_devices());
    for (const WatchedDevice& one : devices_) {
        if (auto added = vm_->add_device(*one.device); !added)
            return base::Failure(from(added.error()));
    }
    for (const auto& share : shares_->devices()) {
        if (auto started = share->start_workers(); !started)
            return fail(
                fmt::format("{}: {}", started.error().action, std::strerror(started.error().code)));
    }
    const auto watched = vm_->event_loop().add(
        signals_->fd(), {.read = true, .write = false},
        [this](virtio::Readiness) { signals_->take([this](int signal) { on_signal(signal); }); });
    if (!watched)
        return fail(fmt::format("cannot watch for signals: {}", watched.error().action));
    return offer_metrics();
}

void Session::deliver_last_output(std::function<void()> done) {
    if (!options_.vsock)
        return console_->drain(std::move(done));
    // In turn: what both still hold leaves while the loop runs.
    console_->drain(
        [this, done = std::move(done)]() mutable { sockets_->device().drain(std::move(done)); });
}

void Session::send(boot::ControlMessageType type, std::uint32_t a, std::uint32_t b) {
    const boot::ControlMessage message{type, a, b, 0};
    if (!control_port_.send(std::as_bytes(std::span(&message, 1))))
        reporter_.print("joey: ", "the guest does not take its control messages");
}

void Session::send_window() {
    const TerminalSize size = terminal_size(STDOUT_FILENO);
    send(boot::ControlMessageType::window, size.columns, size.rows);
}

// SIGTSTP from outside (a Ctrl-Z typed here goes to the guest's terminal): stops as any program
// with a terminal does. All threads stop, the guest's CPUs with them.
void Session::stop_and_continue() {
    terminal_->suspend();
    reporter_.set_raw(false);
    ::kill(::getpid(), SIGSTOP);
    // SIGCONT, which ends the stop, is read from the signal queue next.
}

void Session::on_signal(int signal) {
    switch (signal) {
    case SIGWINCH:
        send_window();
        return;
    case SIGTSTP:
        stop_and_continue();
        return;
    case SIGCONT:
        terminal_->resume();
        reporter_.set_raw(true);
        send_window();
        return;
    case SIGPWR: // no program waits for it: where the guest's CPUs stand, for one that hangs
        reporter_.print("joey: ", vm_->describe_cpus());
        return;
    default:
        send(boot::ControlMessageType::signal, static_cast<std::uint32_t>(signal));
    }
}

Outcome<int> Session::run() {
    auto status = run_machine();
    terminal_.reset();
    if (sockets_)
        sockets_->finish();
    return status;
}

Outcome<int> Session::run_machine() {
    mark("options parsed");
    TRY(set_up_process());
    TRY(shares_, Shares::open(options_, [this] {
            const bool writable = vmm::SandboxPolicy{.shares = shares_->paths()}.writable();
            return vmm::confine_thread(vmm::ThreadClass::FsWorker, writable).has_value();
        }));
    mark("shares opened");
    TRY(open_network());
    // Before the first thread, and before the sandbox: it forks.
    if (streams_.host_terminal) {
        TRY(terminal_, RawTerminal::prepare(STDIN_FILENO));
    }
    if (options_.vsock || !options_.metrics.empty()) {
        TRY(sockets_, VmSockets::open(options_.vsock, options_.metrics, umask_));
    }
    TRY(boot::GuestDescription guest, describe_guest());
    raise_open_file_limit();
    TRY(enter_sandbox());
    TRY(make_machine(std::move(guest)));
    TRY(add_devices());
    if (terminal_) {
        terminal_->resume();
        reporter_.set_raw(true);
    }
    const vmm::EndReason end = vm_->run();
    reporter_.set_raw(false);
    terminal_.reset();
    return conclude(end);
}

void Session::print_timing() {
    std::vector<vmm::TimingMark> marks = vm_->timing();
    marks.insert(marks.end(), marks_.begin(), marks_.end());
    if (vm_->tsc_khz() != 0)
        reporter_.print("", timing_table(std::move(marks), start_tsc_, vm_->tsc_khz()));
}

Outcome<int> Session::conclude(const vmm::EndReason& end) {
    if (options_.timing)
        print_timing();
    using Kind = vmm::EndReason::Kind;
    switch (end.kind) {
    case Kind::ProgramExited:
        if (WIFSIGNALED(end.wait_status))
            return exit_signal_base + WTERMSIG(end.wait_status);
        return WEXITSTATUS(end.wait_status);
    case Kind::ExecFailed:
        reporter_.print("joey: ", fmt::format("cannot run {}: {}", options_.command.front(),
                                              std::strerror(end.exec_errno)));
        return end.exec_errno == ENOENT ? exit_not_found : exit_not_executable;
    case Kind::Stopped:
        return fail("the VM was stopped");
    case Kind::HostFailure:
        return fail(end.report);
    case Kind::GuestPanic:
    case Kind::GuestFault:
    case Kind::GuestViolation:
        break;
    }
    return fail(end.report);
}

} // namespace joey
