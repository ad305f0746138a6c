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
    const auto hooked = run_hooks(record.hooks, "poststart",
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
    const auto hooked =
        run_hooks(record.hooks, "poststop", to_text(state_json(record, "stopped", 0)));
    clean_up(record);
    return hooked;
}

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
    const std::string exec_id = fresh_exec_id();
    RelayStart what;
    what.relay.container = options.container;
    what.relay.exec = exec_id;
    what.relay.terminal = bool_of(process, "terminal");
    what.console_socket = options.console_socket;
    what.cgroups = now.record.cgroups;
    if (what.relay.terminal && options.detach && options.console_socket.empty())
        return os::fail(os::Code::InvalidArgument,
                        "cannot allocate tty if runc will detach without setting console socket");
    const auto begin = [&](AgentLink& agent) -> os::Result<std::vector<std::string>> {
        proto::ExecRequest request;
        request.set_container_id(options.container);
        request.set_exec_id(exec_id);
        request.set_process(to_text(process));
        request.mutable_streams()->set_input(true);
        request.mutable_streams()->set_output(true);
        request.mutable_streams()->set_error(true);
        TRY(agent.call<proto::ExecResponse>("Exec", request));
        proto::StartRequest start;
        start.set_container_id(options.container);
        start.set_exec_id(exec_id);
        TRY(agent.call<proto::StartResponse>("Start", start));
        return std::vector<std::string>();
    };
    const auto forget = [&](AgentLink& agent) {
        proto::DeleteRequest request;
        request.set_container_id(options.container);
        request.set_exec_id(exec_id);
        request.set_force(true);
        static_cast<void>(agent.call<proto::WaitResponse>("Delete", request).has_value());
    };
    if (!options.detach) {
        TRY(const auto loop, os::EventLoop::create());
        TRY(const auto agent, pod.connect(*loop));
        RelayConfig config = what.relay;
        os::UniqueFd terminal;
        if (config.terminal && !options.console_socket.empty()) {
            TRY(terminal, open_console(options.console_socket));
            config.streams = {terminal.get(), terminal.get(), terminal.get()};
        }
        Relay relay(*loop, *agent, config);
        TRY(relay.prepare());
        TRY(begin(*agent));
        if (!options.pid_file.empty())
            TRY(write_whole(options.pid_file, std::to_string(::getpid())));
        const int status = relay.run();
        forget(*agent);
        return status;
    }
    what.begin = begin;
    what.abandon = forget;
    TRY(StartedRelay relay, StartedRelay::start(pod, what));
    if (!options.pid_file.empty())
        TRY(write_whole(options.pid_file, std::to_string(relay.process().pid)));
    TRY(relay.commit());
    return 0;
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
