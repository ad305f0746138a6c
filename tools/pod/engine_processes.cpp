// The processes in a container: executing one more, and what is done with one.
#include <array>
#include <csignal>
#include <ctime>

#include <sys/random.h>

#include "tools/pod/engine.hpp"
#include "tools/pod/relay_process.hpp"

namespace pod {

namespace {

std::string fresh_exec_id() {
    std::uint64_t number = 0;
    static_cast<void>(::getrandom(&number, sizeof number, 0) == 0);
    return os::text("exec-", number);
}

} // namespace

namespace {

// The process in the guest, started; its streams wait to be served.
os::Result<void> begin_exec(AgentLink& agent, const RelayConfig& relay, const Json& process) {
    proto::ExecRequest request;
    request.set_container_id(relay.container);
    request.set_exec_id(relay.exec);
    request.set_process(to_text(process));
    request.mutable_streams()->set_input(relay.streams[0] >= 0);
    request.mutable_streams()->set_output(relay.streams[1] >= 0);
    request.mutable_streams()->set_error(relay.streams[2] >= 0);
    for (const PreservedFd& preserved : relay.preserved)
        request.mutable_streams()->add_preserved(preserved.kind);
    TRY(agent.call<proto::ExecResponse>("Exec", request));
    proto::StartRequest start;
    start.set_container_id(relay.container);
    start.set_exec_id(relay.exec);
    TRY(agent.call<proto::StartResponse>("Start", start));
    return {};
}

void forget_exec(AgentLink& agent, const RelayConfig& relay) {
    proto::DeleteRequest request;
    request.set_container_id(relay.container);
    request.set_exec_id(relay.exec);
    request.set_force(true);
    static_cast<void>(
        agent.call<proto::WaitResponse>("Delete", request, Pod::usual_patience()).has_value());
}

os::Result<void> write_pid(const std::string& path, pid_t pid) {
    return path.empty() ? os::Result<void>() : write_quickly(path, std::to_string(pid));
}

// In this process, until it has ended.
os::Result<int> exec_here(const Pod& pod, RelayConfig config, const ExecOptions& options,
                          const Json& process) {
    TRY(const auto loop, os::EventLoop::create());
    TRY(const auto agent, pod.connect(*loop));
    os::UniqueFd terminal;
    if (config.terminal && !options.console_socket.empty()) {
        TRY(terminal, open_console(options.console_socket));
        config.streams = {terminal.get(), terminal.get(), terminal.get()};
    }
    config.received = [&agent, &config] { forget_exec(*agent, config); };
    Relay relay(*loop, *agent, config);
    TRY(relay.prepare());
    if (auto begun = begin_exec(*agent, config, process); !begun) {
        // The agent keeps what it could not start.
        if (begun.error().code != os::Code::AlreadyExists)
            forget_exec(*agent, config);
        return base::Failure(begun.error());
    }
    if (auto written = write_pid(options.pid_file, ::getpid()); !written) {
        // It runs by now, and nobody would be there for its streams and its end.
        forget_exec(*agent, config);
        return base::Failure(written.error());
    }
    return relay.run();
}

os::Result<int> exec_apart(const StateRoot& root, const Pod& pod, const RelayStart& what,
                           const ExecOptions& options) {
    TRY(StartedRelay relay, StartedRelay::start(pod, what));
    TRY(write_pid(options.pid_file, relay.process().pid));
    if (!options.exec_id.empty()) {
        const ExecRecord record{options.exec_id, relay.process(), what.relay.terminal};
        TRY(record.store(root, options.container));
    }
    TRY(relay.commit());
    return 0;
}

// A name that the caller chose: free, and one that no other name's files are called by.
os::Result<void> check_name(const StateRoot& root, const ExecOptions& options) {
    if (options.exec_id.empty())
        return {};
    TRY(check_id(options.exec_id));
    if (options.exec_id.ends_with(".exit"))
        return os::fail(os::Code::InvalidArgument, "the name of a process cannot end in .exit");
    if (ExecRecord::load(root, options.container, options.exec_id))
        return os::fail(os::Code::AlreadyExists, "there is a process ", options.exec_id,
                        " in container ", options.container);
    return {};
}

} // namespace

os::Result<int> Engine::exec(const ExecOptions& options) {
    TRY(const ContainerState now, state(options.container));
    if (now.status == ContainerStatus::Stopped)
        return os::fail(os::Code::FailedPrecondition, "cannot exec in a stopped container");
    if (now.status == ContainerStatus::Paused)
        return os::fail(os::Code::FailedPrecondition, "cannot exec in a paused container");
    TRY(check_name(root_, options));
    TRY(const Pod pod, Pod::open(root_, now.record.pod));
    Json process = options.process;
    std::vector<std::string> warnings;
    make_guest_process(process, warnings);
    RelayStart what;
    what.relay.container = options.container;
    what.relay.exec = options.exec_id.empty() ? fresh_exec_id() : options.exec_id;
    if (!options.exec_id.empty() && options.detach)
        what.relay.exit_record = ExecRecord::exit_path(root_, options.container, options.exec_id);
    what.relay.terminal = bool_of(process, "terminal");
    TRY(what.relay.preserved, preserved_fds(options.preserve_fds));
    if (options.streams) {
        what.streams = options.streams;
        what.relay.streams = *options.streams;
        what.relay.over_streams = what.relay.terminal && options.console_socket.empty();
    }
    what.relay.leaves = options.leaves;
    what.console_socket = options.console_socket;
    what.cgroups = now.record.cgroups;
    if (!options.detach)
        return exec_here(pod, what.relay, options, process);
    if (what.relay.terminal && options.console_socket.empty() && !options.streams)
        return os::fail(os::Code::InvalidArgument,
                        "cannot allocate tty if joey will detach without setting console socket");
    what.begin = [&](AgentLink& agent) -> os::Result<std::vector<std::string>> {
        TRY(begin_exec(agent, what.relay, process));
        return warnings;
    };
    what.abandon = [&](AgentLink& agent) { forget_exec(agent, what.relay); };
    return exec_apart(root_, pod, what, options);
}

os::Result<ProcessState> Engine::process(const std::string& container,
                                         const std::string& exec_id) const {
    ProcessState out;
    out.exec_id = exec_id;
    if (exec_id.empty()) {
        TRY(const ContainerState now, state(container));
        out.process = now.record.process;
        out.terminal = now.record.terminal;
        out.exit = now.exit;
    } else {
        TRY(const ExecRecord record, ExecRecord::load(root_, container, exec_id));
        out.process = record.process;
        out.terminal = record.terminal;
        out.exit = ExitRecord::load(ExecRecord::exit_path(root_, container, exec_id));
    }
    out.running = !out.exit && out.process.is_alive();
    return out;
}

std::vector<ProcessState> Engine::executed(const std::string& container) const {
    std::vector<ProcessState> out;
    for (const std::string& name : ExecRecord::names(root_, container)) {
        if (auto one = process(container, name))
            out.push_back(std::move(*one));
    }
    return out;
}

os::Result<ExitRecord> Engine::wait(const std::string& container, const std::string& exec_id,
                                    std::optional<std::chrono::milliseconds> limit) const {
    TRY(const ProcessState before, process(container, exec_id));
    if (before.exit)
        return *before.exit;
    if (!before.process.wait_for_end(limit.value_or(std::chrono::milliseconds(-1))))
        return os::fail(os::Code::DeadlineExceeded, "the process has not ended");
    TRY(const ProcessState after, process(container, exec_id));
    if (after.exit)
        return *after.exit;
    // Its relay was killed, so nobody knows; the program is the caller's to end.
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return ExitRecord{128 + SIGKILL, now.tv_sec * 1'000'000'000 + now.tv_nsec};
}

os::Result<void> Engine::kill_process(const std::string& container, const std::string& exec_id,
                                      int signal) {
    if (exec_id.empty())
        return kill(container, signal, false);
    TRY(const ProcessState now, process(container, exec_id));
    if (!now.running)
        return os::fail(os::Code::NotFound, "the process has ended");
    TRY(const ContainerState state_of, state(container));
    TRY(const Link link, connect(state_of.record.pod));
    proto::SignalRequest request;
    request.set_container_id(container);
    request.set_exec_id(exec_id);
    request.set_signal(static_cast<std::uint32_t>(signal));
    TRY(link.agent->call<proto::Empty>("Signal", request));
    return {};
}

os::Result<void> Engine::resize(const std::string& container, const std::string& exec_id,
                                unsigned rows, unsigned columns) {
    TRY(const ContainerState now, state(container));
    TRY(const Link link, connect(now.record.pod));
    proto::ResizeTerminalRequest request;
    request.set_container_id(container);
    request.set_exec_id(exec_id);
    request.set_rows(rows);
    request.set_columns(columns);
    TRY(link.agent->call<proto::Empty>("ResizeTerminal", request));
    return {};
}

os::Result<void> Engine::close_input(const std::string& container, const std::string& exec_id) {
    TRY(const ProcessState now, process(container, exec_id));
    return now.process.signal(close_input_signal());
}

os::Result<ExitRecord> Engine::remove_process(const std::string& container,
                                              const std::string& exec_id) {
    TRY(const ProcessState now, process(container, exec_id));
    if (exec_id.empty())
        return os::fail(os::Code::InvalidArgument,
                        "a container's first process goes with the container");
    if (now.running)
        static_cast<void>(kill_process(container, exec_id, SIGKILL).has_value());
    const auto patience = Pod::usual_patience();
    auto exit = wait(container, exec_id, patience);
    if (!exit) {
        // The guest does not do it: then the relay goes alone.
        static_cast<void>(now.process.kill_and_wait(patience));
        exit = wait(container, exec_id, patience);
    }
    ExecRecord::remove(root_, container, exec_id);
    return exit;
}

} // namespace pod
