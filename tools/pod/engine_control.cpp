// What is done with a container that is there.
#include <algorithm>
#include <array>
#include <csignal>

#include <sys/random.h>

#include "tools/pod/engine.hpp"
#include "tools/pod/hooks.hpp"
#include "tools/pod/host_cgroup.hpp"
#include "tools/pod/relay_process.hpp"

namespace pod {

namespace {

constexpr std::chrono::seconds patience(10);

proto::ContainerRequest of(const std::string& id) {
    proto::ContainerRequest request;
    request.set_container_id(id);
    return request;
}

std::string fresh_exec_id() {
    std::uint64_t number = 0;
    static_cast<void>(::getrandom(&number, sizeof number, 0) == 0);
    return os::text("exec-", number);
}

} // namespace

os::Result<void> Engine::start(const std::string& id) {
    ContainerRecord record;
    {
        TRY(const Lock held, lock(id));
        TRY(ContainerState now, state(id));
        if (now.status == ContainerStatus::Stopped)
            return os::fail(os::Code::FailedPrecondition,
                            "cannot start a container that has stopped");
        if (now.status != ContainerStatus::Created)
            return os::fail(os::Code::FailedPrecondition,
                            "cannot start an already running container");
        TRY(const Link link, connect(now.record.pod));
        proto::StartRequest request;
        request.set_container_id(id);
        TRY(link.agent->call<proto::StartResponse>("Start", request));
        record = now.record;
        record.started = true;
        TRY(record.store(root_));
    }
    // The specification: what poststart hooks say is logged and no failure; runc has it otherwise,
    // and stops the container. It is followed.
    auto hooked = run_hooks(record.hooks, "poststart",
                            to_text(state_json(record, "running", record.process.pid)));
    if (!hooked) {
        static_cast<void>(kill(id, SIGKILL, false).has_value());
        return hooked;
    }
    return {};
}

os::Result<void> Engine::kill(const std::string& id, int signal, bool all) {
    TRY(const ContainerState now, state(id));
    if (now.status == ContainerStatus::Stopped && !all)
        return os::fail(os::Code::FailedPrecondition, "container not running");
    TRY(const Link link, connect(now.record.pod));
    proto::SignalRequest request;
    request.set_container_id(id);
    request.set_signal(static_cast<std::uint32_t>(signal));
    request.set_all(all);
    TRY(link.agent->call<proto::Empty>("Signal", request));
    return {};
}

os::Result<void> Engine::remove(const std::string& id, bool force) {
    TRY(check_id(id));
    if (force && !exists(root_.container(id)) && !exists(root_.pod(id)))
        return {};
    if (!exists(root_.container(id)) && force) {
        // A pod whose container is gone: somebody was killed in between.
        TRY(const Pod rest, Pod::open(root_, id));
        rest.remove();
        return {};
    }
    TRY(const Lock held, lock(id));
    auto now = state(id);
    if (!now && !force)
        return base::Failure(now.error());
    if (!now) {
        ContainerRecord left;
        left.id = id;
        left.pod = id;
        clean_up(left);
        return {};
    }
    const ContainerRecord& record = now->record;
    if (!force &&
        (now->status == ContainerStatus::Running || now->status == ContainerStatus::Paused))
        return os::fail(os::Code::FailedPrecondition, "cannot delete container ", id,
                        " that is not stopped: ", name_of(now->status));
    // In the guest, unless the VM goes with it.
    if (record.pod != record.id) {
        if (const auto link = connect(record.pod)) {
            proto::DeleteRequest request;
            request.set_container_id(id);
            request.set_force(true);
            static_cast<void>(
                link->agent->call<proto::WaitResponse>("Delete", request).has_value());
        }
    } else if (const auto pod = Pod::open(root_, record.pod)) {
        pod->remove();
    }
    if (!record.process.wait_for_end(patience))
        static_cast<void>(record.process.kill_and_wait(patience));
    auto hooked = run_hooks(record.hooks, "poststop", to_text(state_json(record, "stopped", 0)));
    clean_up(record);
    return hooked;
}

namespace {

// The process in the guest, started; its streams wait to be served.
os::Result<void> begin_exec(AgentLink& agent, const RelayConfig& relay, const Json& process) {
    proto::ExecRequest request;
    request.set_container_id(relay.container);
    request.set_exec_id(relay.exec);
    request.set_process(to_text(process));
    request.mutable_streams()->set_input(true);
    request.mutable_streams()->set_output(true);
    request.mutable_streams()->set_error(true);
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
    static_cast<void>(agent.call<proto::WaitResponse>("Delete", request).has_value());
}

os::Result<void> write_pid(const std::string& path, pid_t pid) {
    return path.empty() ? os::Result<void>() : write_whole(path, std::to_string(pid));
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
    Relay relay(*loop, *agent, config);
    TRY(relay.prepare());
    TRY(begin_exec(*agent, config, process));
    TRY(write_pid(options.pid_file, ::getpid()));
    const int status = relay.run();
    if (relay.all_delivered())
        forget_exec(*agent, config);
    return status;
}

os::Result<int> exec_apart(const Pod& pod, const RelayStart& what, const ExecOptions& options) {
    TRY(StartedRelay relay, StartedRelay::start(pod, what));
    TRY(write_pid(options.pid_file, relay.process().pid));
    TRY(relay.commit());
    return 0;
}

} // namespace

os::Result<int> Engine::exec(const ExecOptions& options) {
    TRY(const ContainerState now, state(options.container));
    if (now.status == ContainerStatus::Stopped)
        return os::fail(os::Code::FailedPrecondition, "cannot exec in a stopped container");
    if (now.status == ContainerStatus::Paused)
        return os::fail(os::Code::FailedPrecondition, "cannot exec in a paused container");
    TRY(const Pod pod, Pod::open(root_, now.record.pod));
    Json process = options.process;
    std::vector<std::string> warnings;
    make_guest_process(process, warnings);
    RelayStart what;
    what.relay.container = options.container;
    what.relay.exec = options.exec_id.empty() ? fresh_exec_id() : options.exec_id;
    what.relay.terminal = bool_of(process, "terminal");
    what.console_socket = options.console_socket;
    what.cgroups = now.record.cgroups;
    if (!options.detach)
        return exec_here(pod, what.relay, options, process);
    if (what.relay.terminal && options.console_socket.empty())
        return os::fail(os::Code::InvalidArgument,
                        "cannot allocate tty if joey will detach without setting console socket");
    what.begin = [&](AgentLink& agent) -> os::Result<std::vector<std::string>> {
        TRY(begin_exec(agent, what.relay, process));
        return warnings;
    };
    what.abandon = [&](AgentLink& agent) { forget_exec(agent, what.relay); };
    return exec_apart(pod, what, options);
}

os::Result<void> Engine::pause(const std::string& id) {
    TRY(const Lock held, lock(id));
    TRY(ContainerState now, state(id));
    if (now.status != ContainerStatus::Running && now.status != ContainerStatus::Created)
        return os::fail(os::Code::FailedPrecondition,
                        "container not running or created: ", name_of(now.status));
    TRY(const Link link, connect(now.record.pod));
    TRY(link.agent->call<proto::Empty>("Pause", of(id)));
    now.record.paused = true;
    return now.record.store(root_);
}

os::Result<void> Engine::resume(const std::string& id) {
    TRY(const Lock held, lock(id));
    TRY(ContainerState now, state(id));
    if (now.status != ContainerStatus::Paused)
        return os::fail(os::Code::FailedPrecondition, "container not paused");
    TRY(const Link link, connect(now.record.pod));
    TRY(link.agent->call<proto::Empty>("Resume", of(id)));
    now.record.paused = false;
    return now.record.store(root_);
}

os::Result<void> Engine::update(const std::string& id, const Json& resources) {
    TRY(const Lock held, lock(id));
    TRY(const ContainerState now, state(id));
    if (now.status == ContainerStatus::Stopped)
        return os::fail(os::Code::FailedPrecondition, "container not running");
    TRY(const Link link, connect(now.record.pod));
    proto::UpdateRequest request;
    request.set_container_id(id);
    request.set_resources(to_text(resources));
    TRY(link.agent->call<proto::Empty>("Update", request));
    return {};
}

os::Result<ContainerRecord> Engine::running(const std::string& id, const char* refusal) const {
    TRY(ContainerState now, state(id));
    if (now.status == ContainerStatus::Stopped)
        return os::fail(os::Code::FailedPrecondition, refusal);
    return std::move(now.record);
}

os::Result<std::vector<std::uint32_t>> Engine::processes(const std::string& id) {
    TRY(const ContainerRecord record, running(id, "container not running"));
    TRY(const Link link, connect(record.pod));
    TRY(const auto found, link.agent->call<proto::ProcessesResponse>("Processes", of(id)));
    return std::vector<std::uint32_t>(found.pids().begin(), found.pids().end());
}

os::Result<proto::StatsResponse> Engine::stats(const std::string& id) {
    TRY(const ContainerRecord record, running(id, "container with id is not running"));
    TRY(const Link link, connect(record.pod));
    return link.agent->call<proto::StatsResponse>("Stats", of(id));
}

} // namespace pod
