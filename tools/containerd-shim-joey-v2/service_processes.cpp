// The processes of containers: their start, their end, what is sent to them.
#include <csignal>

#include "tools/containerd-shim-joey-v2/engine_work.hpp"
#include "tools/containerd-shim-joey-v2/service.hpp"
#include "tools/containerd-shim-joey-v2/topics.hpp"

namespace shim {

namespace {

constexpr std::chrono::seconds patience_for_signal(10);
// From a signal that nothing survives to the word that it has ended.
constexpr std::chrono::seconds patience_for_end(30);
constexpr std::chrono::seconds patience_for_logger(12);

events::TaskExit exit_event(const Task& task, const Process& process) {
    events::TaskExit out;
    out.set_container_id(task.id);
    // A container's first process goes by the container's name.
    out.set_id(process.exec_id.empty() ? task.id : process.exec_id);
    out.set_pid(static_cast<std::uint32_t>(process.pid));
    out.set_exit_status(static_cast<std::uint32_t>(process.exit_status));
    set_time(*out.mutable_exited_at(), process.exited_at);
    return out;
}

} // namespace

os::Result<std::string> Service::open_streams(const Task& task, const ProcessRef& process) {
    TRY(process->stdio, Stdio::open(process->streams, {task.id, name_space_}));
    if (const pid_t logger = process->stdio->logger(); logger != 0)
        parts_.reaper.expect(logger, [](int) {});
    if (process->input_closed)
        process->stdio->close_input();
    if (!process->streams.terminal)
        return std::string();
    const auto ends = process->stdio->ends();
    TRY(process->console, Console::listen(parts_.loop, task.bundle, ends[0], ends[1]));
    process->console->on_drained([weak = std::weak_ptr(process)] {
        const ProcessRef self = weak.lock();
        if (!self)
            return;
        self->stdio->ended();
        if (const auto action = std::exchange(self->after_drain, nullptr))
            action();
    });
    return process->console->socket_path();
}

// As others of its kind do: asked to end first, so that it can write what it has.
void Service::end_logger(const Process& process) {
    const pid_t logger = process.stdio ? process.stdio->logger() : 0;
    if (logger == 0 || !parts_.reaper.signal(logger, SIGTERM))
        return;
    parts_.loop.after(pod::patience(patience_for_logger),
                      [&reaper = parts_.reaper, logger] { reaper.signal(logger, SIGKILL); });
}

std::array<int, 3> Service::worker_streams(const Process& process) {
    return process.console ? std::array<int, 3>{-1, -1, -1} : process.stdio->ends();
}

void Service::expect_end(const Found& found) {
    parts_.reaper.expect(found.process->pid, [this, weak_task = std::weak_ptr(found.task),
                                              process = found.process](int status) {
        if (const TaskRef task = weak_task.lock())
            on_end({task, process}, status);
    });
}

void Service::on_end(const Found& found, int status) {
    const auto& [task, process] = found;
    process->exit_status = status;
    process->exited_at = now();
    // Nobody hears of an end before the start.
    if (process->status == ProcessStatus::Starting) {
        process->ended_early = true;
        return;
    }
    process->status = ProcessStatus::Stopped;
    if (!process->console)
        process->stdio->ended();
    parts_.publisher.publish(topic::exit, exit_event(*task, *process));
    for (const auto& tell : std::exchange(process->waiting, {}))
        tell(*process);
}

void Service::start(const api::StartRequest& request, const Reply<api::StartResponse>& reply) {
    const auto found = find(request.id(), request.exec_id());
    if (!found) {
        reply(base::Failure(found.error()));
        return;
    }
    if (found->process->status != ProcessStatus::Created) {
        reply(os::fail(os::Code::FailedPrecondition, "cannot start a process that was started"));
        return;
    }
    found->process->status = ProcessStatus::Starting;
    if (request.exec_id().empty())
        start_init(*found, reply);
    else
        start_exec(*found, reply);
}

void Service::start_init(const Found& found, const Reply<api::StartResponse>& reply) {
    parts_.workers.run(
        [root = root_, id = found.task->id]() -> os::Result<std::string> {
            pod::Engine engine{pod::StateRoot(root)};
            TRY(engine.start(id));
            return std::string();
        },
        [this, found, reply](const os::Result<std::string>& answer) {
            if (answer) {
                started(found, reply);
                return;
            }
            found.process->status = ProcessStatus::Created;
            if (std::exchange(found.process->ended_early, false))
                on_end(found, found.process->exit_status);
            reply(base::Failure(answer.error()));
        });
}

void Service::start_exec(const Found& found, const Reply<api::StartResponse>& reply) {
    const ProcessRef& process = found.process;
    const auto console = open_streams(*found.task, process);
    if (!console) {
        process->status = ProcessStatus::Created;
        reply(base::Failure(console.error()));
        return;
    }
    process->agent_id = os::text("shim-", ++last_exec_);
    ExecWork work{found.task->id, found.task->bundle, process->agent_id, process->spec, *console};
    process->stdio->when_ready(parts_.loop,
                               [this, found, reply, work](const os::Result<void>& ready) {
                                   if (!ready) {
                                       end_logger(*found.process);
                                       executed(found, base::Failure(ready.error()), reply);
                                       return;
                                   }
                                   parts_.workers.run(
                                       worker_streams(*found.process),
                                       [root = root_, work] { return shim::execute(root, work); },
                                       [this, found, reply](const os::Result<std::string>& answer) {
                                           executed(found, answer, reply);
                                       });
                               });
}

void Service::executed(const Found& found, const os::Result<std::string>& answer,
                       const Reply<api::StartResponse>& reply) {
    Process& one = *found.process;
    if (!answer) {
        // It counts as ended, as with runc's shim: it can be deleted.
        one.console.reset();
        one.stdio->ended();
        one.status = ProcessStatus::Stopped;
        one.exit_status = 255;
        one.exited_at = now();
        reply(base::Failure(answer.error()));
        for (const auto& tell : std::exchange(one.waiting, {}))
            tell(one);
        return;
    }
    one.pid = std::atoi(answer->c_str());
    if (!one.console)
        one.stdio->handed_over();
    expect_end(found);
    started(found, reply);
}

void Service::started(const Found& found, const Reply<api::StartResponse>& reply) {
    const auto& [task, process] = found;
    process->status = ProcessStatus::Running;
    const auto pid = static_cast<std::uint32_t>(process->pid);
    if (process->exec_id.empty()) {
        events::TaskStart event;
        event.set_container_id(task->id);
        event.set_pid(pid);
        parts_.publisher.publish(topic::start, event);
    } else {
        events::TaskExecStarted event;
        event.set_container_id(task->id);
        event.set_exec_id(process->exec_id);
        event.set_pid(pid);
        parts_.publisher.publish(topic::exec_started, event);
    }
    api::StartResponse response;
    response.set_pid(pid);
    reply(response);
    if (std::exchange(process->ended_early, false))
        on_end(found, process->exit_status);
}

void Service::exec(const api::ExecProcessRequest& request, const Reply<Empty>& reply) {
    const auto task = find(request.id());
    if (!task) {
        reply(base::Failure(task.error()));
        return;
    }
    if (request.exec_id().empty() || (*task)->execs.contains(request.exec_id())) {
        reply(os::fail(os::Code::AlreadyExists, "process ", request.exec_id(), ": already exists"));
        return;
    }
    if ((*task)->init->status != ProcessStatus::Running) {
        reply(os::fail(os::Code::FailedPrecondition,
                       "cannot exec in a container that is not running"));
        return;
    }
    auto spec = pod::parse_object(request.spec().value(), "the process");
    if (!spec) {
        reply(base::Failure(spec.error()));
        return;
    }
    const auto process = std::make_shared<Process>();
    process->exec_id = request.exec_id();
    process->streams = {request.stdin(), request.stdout(), request.stderr(), request.terminal()};
    process->spec = std::move(*spec);
    process->spec["terminal"] = request.terminal();
    process->status = ProcessStatus::Created;
    (*task)->execs[process->exec_id] = process;
    events::TaskExecAdded event;
    event.set_container_id((*task)->id);
    event.set_exec_id(process->exec_id);
    parts_.publisher.publish(topic::exec_added, event);
    reply(Empty());
}

void Service::kill(const api::KillRequest& request, const Reply<Empty>& reply) {
    const auto found = find(request.id(), request.exec_id());
    if (!found) {
        reply(base::Failure(found.error()));
        return;
    }
    const Process& process = *found->process;
    if (process.status == ProcessStatus::Stopped) {
        reply(os::fail(os::Code::NotFound, "process already finished: not found"));
        return;
    }
    if (process.pid == 0) {
        reply(os::fail(os::Code::FailedPrecondition, "process not created"));
        return;
    }
    pod::proto::SignalRequest signal;
    signal.set_container_id(request.id());
    signal.set_exec_id(process.agent_id);
    signal.set_signal(request.signal());
    signal.set_all(request.all());
    link_.call<pod::proto::Empty>(
        "Signal", signal, pod::patience(patience_for_signal),
        [this, found = *found, reply,
         number = request.signal()](const os::Result<pod::proto::Empty>& answer) {
            const os::Code code = answer ? os::Code::Ok : answer.error().code;
            // Whether it was killed or had ended: the word of its end has still to come.
            if (number == SIGKILL)
                force_end_later(found);
            if (answer) {
                reply(Empty());
            } else if (code == os::Code::FailedPrecondition || code == os::Code::NotFound) {
                reply(os::fail(os::Code::NotFound, "process already finished: not found"));
            } else if (number == SIGKILL &&
                       (code == os::Code::Unavailable || code == os::Code::DeadlineExceeded)) {
                force_end(found);
                reply(Empty());
            } else {
                reply(base::Failure(answer.error()));
            }
        });
}

// The guest does not do it. Whoever owns the VM loses it; another one loses what stands for it
// here, and the guest's memory and time remain the pod's.
void Service::force_end(const Found& found) {
    if (found.process->exec_id.empty() && found.task->id == pod_)
        static_cast<void>(link_.vm().signal(SIGKILL).has_value());
    parts_.reaper.signal(found.process->pid, SIGKILL);
}

// A guest can take the signal and say nothing for ever.
void Service::force_end_later(const Found& found) {
    if (std::exchange(found.process->to_be_ended, true))
        return;
    parts_.loop.after(pod::patience(patience_for_end),
                      [this, task = std::weak_ptr(found.task), process = found.process] {
                          const TaskRef left = task.lock();
                          if (!left || process->status == ProcessStatus::Stopped)
                              return;
                          parts_.log.warning(os::text("container ", left->id,
                                                      ": its end is not heard of, and forced"));
                          force_end({left, process});
                      });
}

void Service::resize(const api::ResizePtyRequest& request, const Reply<Empty>& reply) {
    const auto found = find(request.id(), request.exec_id());
    if (!found) {
        reply(base::Failure(found.error()));
        return;
    }
    if (found->process->console) {
        if (const auto done = found->process->console->resize(request.width(), request.height());
            !done) {
            reply(base::Failure(done.error()));
            return;
        }
    }
    reply(Empty());
}

void Service::close_io(const api::CloseIORequest& request, const Reply<Empty>& reply) {
    const auto found = find(request.id(), request.exec_id());
    if (!found) {
        reply(base::Failure(found.error()));
        return;
    }
    if (request.stdin()) {
        found->process->input_closed = true;
        if (found->process->stdio)
            found->process->stdio->close_input();
    }
    reply(Empty());
}

void Service::wait(const api::WaitRequest& request, const Reply<api::WaitResponse>& reply) {
    const auto found = find(request.id(), request.exec_id());
    if (!found) {
        reply(base::Failure(found.error()));
        return;
    }
    const auto tell = [reply](const Process& process) {
        api::WaitResponse response;
        response.set_exit_status(static_cast<std::uint32_t>(process.exit_status));
        set_time(*response.mutable_exited_at(), process.exited_at);
        reply(response);
    };
    if (found->process->status == ProcessStatus::Stopped)
        tell(*found->process);
    else
        found->process->waiting.emplace_back(tell);
}

} // namespace shim
