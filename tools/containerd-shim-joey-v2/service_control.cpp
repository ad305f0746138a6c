// What is known of containers, and their limits.
#include "tools/containerd-shim-joey-v2/engine_work.hpp"
#include "tools/containerd-shim-joey-v2/metrics.hpp"
#include "tools/containerd-shim-joey-v2/protocol/runc_options.pb.h"
#include "tools/containerd-shim-joey-v2/service.hpp"
#include "tools/containerd-shim-joey-v2/topics.hpp"

namespace shim {

namespace {

constexpr std::chrono::seconds patience_for_stats(10);

} // namespace

void Service::state(const api::StateRequest& request, const Reply<api::StateResponse>& reply) {
    const auto found = find(request.id(), request.exec_id());
    if (!found) {
        reply(base::Failure(found.error()));
        return;
    }
    const auto& [task, process] = *found;
    api::StateResponse response;
    response.set_id(task->id);
    response.set_bundle(task->bundle);
    response.set_pid(static_cast<std::uint32_t>(process->pid));
    const bool paused = task->paused && process->status == ProcessStatus::Running;
    response.set_status(paused ? TaskStatus::PAUSED : process->api_status());
    response.set_stdin(process->streams.in);
    response.set_stdout(process->streams.out);
    response.set_stderr(process->streams.err);
    response.set_terminal(process->streams.terminal);
    response.set_exec_id(process->exec_id);
    if (process->status == ProcessStatus::Stopped) {
        response.set_exit_status(static_cast<std::uint32_t>(process->exit_status));
        set_time(*response.mutable_exited_at(), process->exited_at);
    }
    reply(response);
}

// Of the host: each process that was asked for has one here. What runs inside besides has numbers
// of the guest's, which would be others' here.
void Service::pids(const api::PidsRequest& request, const Reply<api::PidsResponse>& reply) {
    const auto task = find(request.id());
    if (!task) {
        reply(base::Failure(task.error()));
        return;
    }
    api::PidsResponse response;
    const auto add = [&](const Process& process) {
        if (process.pid == 0 || process.status == ProcessStatus::Stopped)
            return;
        auto& entry = *response.add_processes();
        entry.set_pid(static_cast<std::uint32_t>(process.pid));
        if (process.exec_id.empty())
            return;
        ::containerd::runc::v1::ProcessDetails details;
        details.set_exec_id(process.exec_id);
        *entry.mutable_info() = any_of(details);
    };
    add(*(*task)->init);
    for (const auto& [id, process] : (*task)->execs)
        add(*process);
    reply(response);
}

void Service::stats(const api::StatsRequest& request, const Reply<api::StatsResponse>& reply) {
    const auto task = find(request.id());
    if (!task) {
        reply(base::Failure(task.error()));
        return;
    }
    pod::proto::ContainerRequest asked;
    asked.set_container_id(request.id());
    link_.call<pod::proto::StatsResponse>(
        "Stats", asked, pod::patience(patience_for_stats),
        [reply](const os::Result<pod::proto::StatsResponse>& answer) {
            if (!answer) {
                reply(base::Failure(answer.error()));
                return;
            }
            api::StatsResponse response;
            *response.mutable_stats() = metrics_of(*answer);
            reply(response);
        });
}

void Service::pause(const api::PauseRequest& request, const Reply<Empty>& reply) {
    set_paused(request.id(), true, reply);
}

void Service::resume(const api::ResumeRequest& request, const Reply<Empty>& reply) {
    set_paused(request.id(), false, reply);
}

void Service::set_paused(const std::string& id, bool paused, const Reply<Empty>& reply) {
    const auto task = find(id);
    if (!task) {
        reply(base::Failure(task.error()));
        return;
    }
    parts_.workers.run(
        [root = root_, id, paused]() -> os::Result<std::string> {
            pod::Engine engine{pod::StateRoot(root)};
            TRY(paused ? engine.pause(id) : engine.resume(id));
            return std::string();
        },
        [this, task = *task, paused, reply](const os::Result<std::string>& answer) {
            if (!answer) {
                reply(base::Failure(answer.error()));
                return;
            }
            task->paused = paused;
            if (paused) {
                events::TaskPaused event;
                event.set_container_id(task->id);
                parts_.publisher.publish(topic::paused, event);
            } else {
                events::TaskResumed event;
                event.set_container_id(task->id);
                parts_.publisher.publish(topic::resumed, event);
            }
            reply(Empty());
        });
}

void Service::update(const api::UpdateTaskRequest& request, const Reply<Empty>& reply) {
    const auto task = find(request.id());
    if (!task) {
        reply(base::Failure(task.error()));
        return;
    }
    const auto resources = pod::parse_object(request.resources().value(), "the resources");
    if (!resources) {
        reply(base::Failure(resources.error()));
        return;
    }
    parts_.workers.run(
        [root = root_, id = request.id(), wanted = *resources]() -> os::Result<std::string> {
            pod::Engine engine{pod::StateRoot(root)};
            TRY(engine.update(id, wanted));
            return std::string();
        },
        [reply](const os::Result<std::string>& answer) {
            if (answer)
                reply(Empty());
            else
                reply(base::Failure(answer.error()));
        });
}

void Service::checkpoint(const api::CheckpointTaskRequest& /*request*/, const Reply<Empty>& reply) {
    reply(os::fail(os::Code::Unimplemented, "a VM's container has no checkpoints"));
}

} // namespace shim
