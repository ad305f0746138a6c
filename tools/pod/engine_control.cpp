// What is done with a container that is there.
#include <algorithm>
#include <csignal>

#include "tools/pod/engine.hpp"
#include "tools/pod/hooks.hpp"

namespace pod {

namespace {

proto::ContainerRequest of(const std::string& id) {
    proto::ContainerRequest request;
    request.set_container_id(id);
    return request;
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

os::Result<void> Engine::kill(const std::string& id, int signal, bool all,
                              std::chrono::milliseconds limit) {
    TRY(const ContainerState now, state(id));
    if (now.status == ContainerStatus::Stopped && !all)
        return os::fail(os::Code::FailedPrecondition, "container not running");
    if (now.status == ContainerStatus::Stopped) {
        const auto pod = Pod::open(root_, now.record.pod);
        if (!pod || !pod->is_running())
            return {}; // all of them have ended
    }
    TRY(const Link link, connect(now.record.pod, limit));
    proto::SignalRequest request;
    request.set_container_id(id);
    request.set_signal(static_cast<std::uint32_t>(signal));
    request.set_all(all);
    TRY(link.agent->call<proto::Empty>(
        "Signal", request, std::min<std::chrono::nanoseconds>(limit, AgentLink::usual_limit())));
    return {};
}

void Engine::forget_in_guest(const ContainerRecord& record) const {
    const auto pod = Pod::open(root_, record.pod);
    const auto loop = os::EventLoop::create();
    const auto link = pod && loop ? pod->connect(**loop, patience_)
                                  : os::fail(os::Code::NotFound, "the pod is gone");
    if (!link)
        return; // nor is there a guest that would have it
    proto::DeleteRequest request;
    request.set_container_id(record.id);
    request.set_force(true);
    static_cast<void>((*link)->call<proto::WaitResponse>("Delete", request, patience_).has_value());
}

namespace {

// It ends by itself when its program has; one that does not is ended.
void end_relay(const ProcessId& process, std::chrono::milliseconds patience) {
    if (!process.wait_for_end(patience))
        static_cast<void>(process.kill_and_wait(patience));
}

} // namespace

os::Result<void> Engine::remove(const std::string& id, bool force) {
    TRY(check_id(id));
    if (force && !exists(root_.container(id)) && !exists(root_.pod(id)))
        return {};
    if (!exists(root_.container(id)) && force) {
        // A pod whose container is gone: somebody was killed in between.
        TRY(const Pod rest, Pod::open(root_, id));
        rest.remove(patience_);
        return {};
    }
    const auto held = lock(id);
    if (!held && force && held.error().code == os::Code::NotFound)
        return {}; // another was faster
    if (!held)
        return base::Failure(held.error());
    auto now = state(id);
    if (!now && !force)
        return base::Failure(now.error());
    if (!now) {
        clean_up_begun(id);
        return {};
    }
    const ContainerRecord& record = now->record;
    if (!force &&
        (now->status == ContainerStatus::Running || now->status == ContainerStatus::Paused))
        return os::fail(os::Code::FailedPrecondition, "cannot delete container ", id,
                        " that is not stopped: ", name_of(now->status));
    // In the guest, unless the VM goes with it.
    if (record.pod != record.id)
        forget_in_guest(record);
    else if (const auto pod = Pod::open(root_, record.pod))
        pod->remove(patience_);
    end_relay(record.process, patience_);
    for (const ProcessState& one : executed(id))
        end_relay(one.process, patience_);
    auto hooked = run_hooks(record.hooks, "poststop", to_text(state_json(record, "stopped", 0)));
    clean_up(record);
    return hooked;
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

os::Result<proto::StatsResponse> Engine::stats(const std::string& id,
                                               std::chrono::milliseconds limit) {
    TRY(const ContainerRecord record, running(id, "container with id is not running"));
    TRY(const Link link, connect(record.pod, limit));
    return link.agent->call<proto::StatsResponse>("Stats", of(id), limit);
}

} // namespace pod
