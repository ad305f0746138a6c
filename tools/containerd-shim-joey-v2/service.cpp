// From nothing to a container and back.
#include "tools/containerd-shim-joey-v2/service.hpp"

#include <array>
#include <csignal>
#include <unistd.h>

#include "tools/containerd-shim-joey-v2/engine_work.hpp"
#include "tools/containerd-shim-joey-v2/options.hpp"
#include "tools/containerd-shim-joey-v2/topics.hpp"
#include "tools/pod/records.hpp"
#include "tools/pod/state_files.hpp"

namespace shim {

namespace {

constexpr std::chrono::seconds patience_for_output(10);

void fill_exit(const Process& process, api::DeleteResponse& out) {
    out.set_pid(static_cast<std::uint32_t>(process.pid));
    out.set_exit_status(static_cast<std::uint32_t>(process.exit_status));
    if (process.exited_at != 0)
        set_time(*out.mutable_exited_at(), process.exited_at);
}

events::TaskCreate creation_event(const Task& task, const api::CreateTaskRequest& request) {
    events::TaskCreate out;
    out.set_container_id(task.id);
    out.set_bundle(task.bundle);
    *out.mutable_rootfs() = request.rootfs();
    out.mutable_io()->set_stdin(request.stdin());
    out.mutable_io()->set_stdout(request.stdout());
    out.mutable_io()->set_stderr(request.stderr());
    out.mutable_io()->set_terminal(request.terminal());
    out.set_pid(static_cast<std::uint32_t>(task.init->pid));
    return out;
}

// The third version has the second's methods and messages.
constexpr std::array service_names = {"containerd.task.v2.Task", "containerd.task.v3.Task"};

} // namespace

Service::Service(Parts parts, std::string name_space)
    : parts_(parts), name_space_(std::move(name_space)), root_(state_root(name_space_)),
      link_(parts_.loop, parts_.log) {
    link_.on_oom([this](const std::string& id) {
        const auto task = tasks_.find(id);
        if (task == tasks_.end())
            return;
        // A guest may say so all the time; containerd's log and its clients hear it now and then.
        constexpr std::chrono::seconds between(1);
        const auto now = os::EventLoop::Clock::now();
        if (now < task->second->oom_told + between)
            return;
        task->second->oom_told = now;
        events::TaskOOM event;
        event.set_container_id(id);
        parts_.publisher.publish(topic::oom, event);
    });
}

void Service::add_to(ttrpc::Server& server) {
    const auto add = [&]<typename Request, typename Response>(
                         const char* method,
                         void (Service::*handler)(const Request&, const Reply<Response>&)) {
        for (const char* service : service_names)
            server.handle<Request, Response>(
                service, method,
                [this, handler](const Request& request, const Reply<Response>& reply) {
                    (this->*handler)(request, reply);
                });
    };
    add("State", &Service::state);
    add("Create", &Service::create);
    add("Start", &Service::start);
    add("Delete", &Service::remove);
    add("Pids", &Service::pids);
    add("Pause", &Service::pause);
    add("Resume", &Service::resume);
    add("Kill", &Service::kill);
    add("Exec", &Service::exec);
    add("ResizePty", &Service::resize);
    add("CloseIO", &Service::close_io);
    add("Update", &Service::update);
    add("Wait", &Service::wait);
    add("Stats", &Service::stats);
    add("Connect", &Service::connect);
    add("Shutdown", &Service::shut_down);
    for (const char* service : service_names)
        server.handle<api::CheckpointTaskRequest, Empty>(service, "Checkpoint",
                                                         &Service::checkpoint);
}

os::Result<Service::TaskRef> Service::find(const std::string& id) const {
    const auto found = tasks_.find(id);
    if (found == tasks_.end())
        return os::fail(os::Code::NotFound, "container ", id, ": not found");
    return found->second;
}

os::Result<Service::Found> Service::find(const std::string& id, const std::string& exec_id) const {
    TRY(const TaskRef task, find(id));
    const ProcessRef process = task->process(exec_id);
    if (!process)
        return os::fail(os::Code::NotFound, "process ", exec_id, " of container ", id,
                        ": not found");
    return Found{task, process};
}

void Service::create(const api::CreateTaskRequest& request,
                     const Reply<api::CreateTaskResponse>& reply) {
    if (!request.checkpoint().empty()) {
        reply(os::fail(os::Code::Unimplemented, "a VM's container has no checkpoints"));
        return;
    }
    if (const auto valid = pod::check_id(request.id()); !valid) {
        reply(base::Failure(valid.error()));
        return;
    }
    if (tasks_.contains(request.id())) {
        reply(os::fail(os::Code::AlreadyExists, "container ", request.id(), ": already exists"));
        return;
    }
    const auto settings = settings_of(request.options(), parts_.log);
    if (!settings) {
        reply(base::Failure(settings.error()));
        return;
    }
    const auto task = std::make_shared<Task>();
    task->id = request.id();
    task->bundle = request.bundle();
    task->init->streams = {request.stdin(), request.stdout(), request.stderr(), request.terminal()};
    const auto console = open_streams(*task, task->init);
    if (!console) {
        reply(base::Failure(console.error()));
        return;
    }
    if (tasks_.empty())
        pod_ = task->id;
    tasks_[task->id] = task;
    CreateWork work{task->id,     pod_,
                    task->bundle, {request.rootfs().begin(), request.rootfs().end()},
                    *console,     *settings};
    task->init->stdio->when_ready(parts_.loop, [this, task, request, reply,
                                                work](const os::Result<void>& ready) {
        if (!ready) {
            end_logger(*task->init);
            created(task, request, base::Failure(ready.error()), reply);
            return;
        }
        parts_.workers.run(
            worker_streams(*task->init), [root = root_, work] { return shim::create(root, work); },
            [this, task, request, reply](const os::Result<std::string>& answer) {
                created(task, request, answer, reply);
            });
    });
}

void Service::created(const TaskRef& task, const api::CreateTaskRequest& request,
                      const os::Result<std::string>& answer,
                      const Reply<api::CreateTaskResponse>& reply) {
    const auto made = answer ? Created::parse(*answer) : base::Failure(answer.error());
    if (!made) {
        // A worker that was killed has not tidied up.
        task->init->console.reset();
        task->init->stdio->ended();
        parts_.workers.run(
            [root = root_, id = task->id, rootfs = task->rootfs()] {
                return shim::remove(root, id, rootfs);
            },
            [this, task, reply, error = made.error()](const os::Result<std::string>&) {
                tasks_.erase(task->id);
                reply(base::Failure(error));
                settled(*task);
            });
        return;
    }
    for (const std::string& warning : made->warnings)
        parts_.log.warning(os::text("container ", task->id, ": ", warning));
    Process& init = *task->init;
    init.pid = made->pid;
    init.status = ProcessStatus::Created;
    if (!init.console)
        init.stdio->handed_over();
    expect_end({task, task->init});
    if (const auto written =
            pod::write_quickly(task->bundle + "/init.pid", std::to_string(init.pid));
        !written)
        parts_.log.warning(written.error().message);
    if (!link_.is_open())
        link_.connect(pod::StateRoot(root_), pod_);
    parts_.publisher.publish(topic::create, creation_event(*task, request));
    api::CreateTaskResponse response;
    response.set_pid(static_cast<std::uint32_t>(init.pid));
    reply(response);
    settled(*task);
}

void Service::settled(Task& task) {
    for (const auto& go_on : std::exchange(task.when_settled, {}))
        go_on();
}

void Service::remove(const api::DeleteRequest& request, const Reply<api::DeleteResponse>& reply) {
    const auto found = find(request.id(), request.exec_id());
    if (!found) {
        reply(base::Failure(found.error()));
        return;
    }
    const auto& [task, process] = *found;
    // containerd that was killed in the middle of either deletes what it does not know. An error
    // would have it forget this shim, with all that it has.
    const bool being_created = process == task->init && process->status == ProcessStatus::Creating;
    if (being_created || (process == task->init && task->deleting)) {
        task->when_settled.emplace_back([this, request, reply] { remove(request, reply); });
        return;
    }
    if (process->status != ProcessStatus::Stopped && process->status != ProcessStatus::Created) {
        reply(os::fail(os::Code::FailedPrecondition, "cannot delete a process that runs"));
        return;
    }
    if (!process->is_drained() && process->status == ProcessStatus::Stopped) {
        // Once: then the rest is not waited for.
        const auto once = std::make_shared<bool>(false);
        const auto again = [this, request, reply, once, process = process] {
            if (std::exchange(*once, true))
                return;
            process->console.reset();
            process->stdio->ended();
            remove(request, reply);
        };
        process->after_drain = again;
        parts_.loop.after(pod::patience(patience_for_output), again);
        return;
    }
    if (process->exec_id.empty()) {
        remove_container(task, reply);
        return;
    }
    process->console.reset();
    end_logger(*process);
    task->execs.erase(process->exec_id);
    if (!process->agent_id.empty()) {
        // The agent keeps it until it is told; one that is gone already is no matter.
        pod::proto::DeleteRequest forgotten;
        forgotten.set_container_id(task->id);
        forgotten.set_exec_id(process->agent_id);
        forgotten.set_force(true);
        link_.call<pod::proto::WaitResponse>("Delete", forgotten,
                                             pod::patience(patience_for_output),
                                             [](const os::Result<pod::proto::WaitResponse>&) {});
        // What the engine and its relay wrote of it, too: a probe is one more every few seconds.
        pod::ExecRecord::remove(pod::StateRoot(root_), task->id, process->agent_id);
    }
    removed(*task, *process, reply);
}

void Service::remove_container(const TaskRef& task, const Reply<api::DeleteResponse>& reply) {
    task->deleting = true;
    const bool others_live = task->id == pod_ && tasks_.size() > 1;
    parts_.workers.run(
        [root = root_, id = task->id, rootfs = task->rootfs(), others_live] {
            return others_live ? forget(root, id, rootfs) : shim::remove(root, id, rootfs);
        },
        [this, task, others_live, reply](const os::Result<std::string>& answer) {
            if (!answer) {
                task->deleting = false;
                reply(base::Failure(answer.error()));
                settled(*task);
                return;
            }
            if (others_live)
                kept_rootfs_ = task->rootfs();
            if (tasks_.size() > 1 || kept_rootfs_.empty())
                container_removed(task, reply);
            else
                remove_pod(task, reply);
        });
}

// The last of the others may have gone at the same time as the pod's first one, which stayed for
// it. The task is there until then: without one, the shim is told to end.
void Service::remove_pod(const TaskRef& last, const Reply<api::DeleteResponse>& reply) {
    parts_.workers.run(
        [root = root_, id = pod_, rootfs = std::exchange(kept_rootfs_, std::string())] {
            return shim::remove(root, id, rootfs);
        },
        [this, last, reply](const os::Result<std::string>& answer) {
            if (!answer)
                parts_.log.warning(os::text("pod ", pod_, ": ", answer.error().message));
            container_removed(last, reply);
        });
}

void Service::container_removed(const TaskRef& task, const Reply<api::DeleteResponse>& reply) {
    task->deleting = false;
    Process& init = *task->init;
    init.console.reset();
    end_logger(init);
    init.stdio->ended();
    tasks_.erase(task->id);
    removed(*task, init, reply);
    settled(*task);
}

void Service::removed(const Task& task, const Process& process,
                      const Reply<api::DeleteResponse>& reply) {
    api::DeleteResponse response;
    fill_exit(process, response);
    events::TaskDelete event;
    event.set_container_id(task.id);
    event.set_id(process.exec_id);
    event.set_pid(response.pid());
    event.set_exit_status(response.exit_status());
    if (response.has_exited_at())
        *event.mutable_exited_at() = response.exited_at();
    // Executed processes go without one, as with runc's shim.
    if (process.exec_id.empty())
        parts_.publisher.publish(topic::remove, event);
    reply(response);
}

void Service::shut_down(const api::ShutdownRequest& /*request*/, const Reply<Empty>& reply) {
    reply(Empty());
    if (tasks_.empty() && shutdown_)
        shutdown_();
}

void Service::connect(const api::ConnectRequest& request,
                      const Reply<api::ConnectResponse>& reply) {
    const auto task = find(request.id());
    api::ConnectResponse response;
    response.set_shim_pid(static_cast<std::uint32_t>(::getpid()));
    if (task)
        response.set_task_pid(static_cast<std::uint32_t>((*task)->init->pid));
    reply(response);
}

} // namespace shim
