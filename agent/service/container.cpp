#include "agent/service/container.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <sched.h>

#include <linux/sched.h>
#include <sys/epoll.h>
#include <sys/inotify.h>

#include "agent/container/device_program.hpp"

namespace service {

namespace {

// A group can be removed when the kernel has finished with the last of its processes, which is a
// little after they were waited for.
constexpr std::chrono::milliseconds removal_interval(2);
constexpr int removal_attempts = 2500;
// For those who still fetch what programs said last. One that has not come for it by then does not
// keep a container or a machine.
constexpr int delivery_attempts = 1000;
// The kernel stops a process that is in a long call when that is over (cgroup-v2.rst,
// "cgroup.freeze"). runc waits as long.
constexpr int freezing_attempts = 5000;

} // namespace

Container::Container(const Surroundings& around, std::string id, std::string bundle,
                     spec::Spec spec, const std::string& cgroup_root)
    : around_(around), id_(std::move(id)), bundle_(std::move(bundle)), spec_(std::move(spec)),
      cgroup_(cgroup_root,
              spec_.linux_part.cgroups_path.empty() ? id_ : spec_.linux_part.cgroups_path),
      process_(std::make_shared<Process>(around_.loop, around_.children)) {}

Container::~Container() {
    if (memory_watch_)
        around_.loop.forget(memory_watch_.get());
}

container::HookState Container::hook_state() const {
    return {.oci_version = spec_.oci_version,
            .id = id_,
            .bundle = bundle_,
            .annotations = spec_.annotations};
}

proto::Event Container::event(proto::Event::Kind kind, const std::string& exec_id,
                              Process& process) const {
    proto::Event out;
    out.set_kind(kind);
    out.set_container_id(id_);
    out.set_exec_id(exec_id);
    out.set_pid(static_cast<std::uint32_t>(process.pid()));
    if (kind == proto::Event::EXITED)
        *out.mutable_exit() = process.exit();
    return out;
}

void Container::create(const WantedStreams& wanted, const Done& done) {
    // Here, not in the builder: if it fails, the group is somebody else's and must not be cleaned
    // up.
    const auto made = cgroup_.make();
    if (!made) {
        done(os::fail(made.error().code, "linux.cgroupsPath: ", made.error().message));
        return;
    }
    process_->set_exit_hook([self = weak_from_this()] {
        if (const auto container = self.lock())
            container->on_ended("", *container->process_);
    });
    const auto build = [this](const container::ProcessPlan& common) {
        container::ContainerPlan plan{
            .common = common, .spec = &spec_, .state = hook_state(), .cgroup = &cgroup_};
        if (spec_.linux_part.seccomp)
            plan.common.seccomp = &*spec_.linux_part.seccomp;
        container::build_container(plan);
    };
    building_ = true;
    process_->launch(
        *spec_.process, wanted, build,
        [self = shared_from_this(), done](const os::Result<void>& result) {
            if (!result) {
                os::Error error = result.error();
                if (self->process_->exit().oom_killed())
                    error.message += ": the kernel has ended it for want of memory "
                                     "(linux.resources.memory.limit is too low)";
                self->remove_group(removal_attempts,
                                   [done, error](const auto&) { done(base::Failure(error)); });
                return;
            }
            self->building_ = false;
            self->watch_memory();
            self->around_.events.add(self->event(proto::Event::CREATED, "", *self->process_));
            done({});
        });
}

void Container::start(const Done& done) {
    process_->start([self = shared_from_this(), done](const os::Result<void>& result) {
        if (!result) {
            done(base::Failure(result.error()));
            return;
        }
        self->around_.events.add(self->event(proto::Event::STARTED, "", *self->process_));
        if (self->spec_.hooks.poststart.empty()) {
            done({});
            return;
        }
        const std::string state = self->hook_state().json("running", self->process_->pid());
        self->around_.children.run_aside(
            [self, state] { return container::run_hooks(self->spec_.hooks.poststart, state); },
            [self, done](const os::Result<void>& hooked) {
                if (!hooked)
                    static_cast<void>(self->cgroup_.kill());
                done(hooked ? os::Result<void>() : base::Failure(hooked.error()));
            });
    });
}

os::Result<void> Container::require_running() const {
    if (process_->stage() != Process::Stage::Running)
        return os::fail(os::Code::FailedPrecondition, "the container ", id_, " is not running");
    if (removing_)
        return os::fail(os::Code::FailedPrecondition, "the container ", id_, " is being deleted");
    return {};
}

void Container::exec(const std::string& exec_id, spec::Process process, const WantedStreams& wanted,
                     const Done& done) {
    const auto running = require_running();
    if (!running || paused_) {
        done(running ? os::fail(os::Code::FailedPrecondition, "the container ", id_, " is paused")
                     : base::Failure(running.error()));
        return;
    }
    if (executed_.contains(exec_id)) {
        done(os::fail(os::Code::AlreadyExists, "there is a process ", exec_id, " in container ",
                      id_));
        return;
    }
    // Opened here: as long as nobody has waited for it, the number is the process's own.
    auto namespaces = container::open_namespaces_of(process_->pid());
    if (!namespaces) {
        done(base::Failure(namespaces.error()));
        return;
    }
    // What it does not speak of is as the container has it, as with runc and crun: limits are no
    // limits if one more process is without them.
    if (!process.capabilities.given)
        process.capabilities = spec_.process->capabilities;
    if (process.rlimits.empty())
        process.rlimits = spec_.process->rlimits;
    if (!process.oom_score_adj)
        process.oom_score_adj = spec_.process->oom_score_adj;
    Executed& entry = executed_[exec_id];
    entry.process = std::make_shared<Process>(around_.loop, around_.children);
    entry.wanted = std::make_shared<spec::Process>(std::move(process));
    entry.process->set_exit_hook([self = weak_from_this(), exec_id] {
        const auto container = self.lock();
        const auto found = container ? container->find(exec_id)
                                     : os::fail(os::Code::NotFound, "the container is gone");
        if (found)
            container->on_ended(exec_id, **found);
    });
    const auto build = [this, &namespaces](const container::ProcessPlan& common) {
        container::ExecPlan plan{.common = common,
                                 .namespaces = &*namespaces,
                                 .cgroup = &cgroup_,
                                 .first = process_->pid(),
                                 .personality = spec_.linux_part.personality};
        if (spec_.linux_part.seccomp)
            plan.common.seccomp = &*spec_.linux_part.seccomp;
        container::build_process(plan);
    };
    entry.process->launch(
        *entry.wanted, wanted, build,
        [self = shared_from_this(), exec_id, done](const os::Result<void>& result) {
            if (!result)
                self->executed_.erase(exec_id);
            done(result ? os::Result<void>() : base::Failure(result.error()));
        });
}

void Container::start_exec(const std::string& exec_id, const Done& done) {
    const auto process = find(exec_id);
    if (!process) {
        done(base::Failure(process.error()));
        return;
    }
    (*process)->start([self = shared_from_this(), process = *process, exec_id,
                       done](const os::Result<void>& result) {
        if (result)
            self->around_.events.add(self->event(proto::Event::STARTED, exec_id, *process));
        done(result ? os::Result<void>() : base::Failure(result.error()));
    });
}

os::Result<std::shared_ptr<Process>> Container::find(const std::string& exec_id) const {
    if (exec_id.empty())
        return process_;
    const auto found = executed_.find(exec_id);
    if (found == executed_.end())
        return os::fail(os::Code::NotFound, "there is no process ", exec_id, " in container ", id_);
    return found->second.process;
}

os::Result<void> Container::signal_all(int number) const {
    if (number == SIGKILL)
        return cgroup_.kill();
    TRY(const std::vector<pid_t> pids, cgroup_.processes());
    for (const pid_t pid : pids) {
        // It may have ended since.
        if (kill(pid, number) != 0 && errno != ESRCH)
            return os::fail_errno(errno, "signal ", number, " to process ", pid);
    }
    return {};
}

void Container::pause(const Done& done) {
    auto asked = require_running();
    if (asked)
        asked = cgroup_.freeze(true);
    if (!asked) {
        done(base::Failure(asked.error()));
        return;
    }
    const bool was_paused = std::exchange(paused_, true);
    when_frozen(freezing_attempts, [self = shared_from_this(), was_paused,
                                    done](const os::Result<void>& frozen) {
        if (frozen && !was_paused)
            self->around_.events.add(self->event(proto::Event::PAUSED, "", *self->process_));
        done(frozen ? os::Result<void>() : base::Failure(frozen.error()));
    });
}

void Container::when_frozen(int attempts, const Done& done) {
    if (!paused_) {
        done(os::fail(os::Code::Aborted, "the container ", id_,
                      " has ended, or was resumed, while it was being paused"));
        return;
    }
    if (cgroup_.read_pairs("cgroup.events")["frozen"] == 1) {
        done({});
        return;
    }
    if (attempts <= 0) {
        static_cast<void>(cgroup_.freeze(false));
        paused_ = false;
        done(os::fail(os::Code::DeadlineExceeded, "the container ", id_,
                      " has a process that does not stop; it runs again"));
        return;
    }
    around_.loop.after(removal_interval, [self = shared_from_this(), attempts, done] {
        self->when_frozen(attempts - 1, done);
    });
}

os::Result<void> Container::resume() {
    TRY(require_running());
    if (!paused_)
        return os::fail(os::Code::FailedPrecondition, "the container ", id_, " is not paused");
    TRY(cgroup_.freeze(false));
    paused_ = false;
    around_.events.add(event(proto::Event::RESUMED, "", *process_));
    return {};
}

os::Result<void> Container::update(const spec::Resources& resources) const {
    if (!process_->exists() || !is_ready())
        return os::fail(os::Code::FailedPrecondition, "the container ", id_, " is not running");
    TRY(cgroup_.apply(resources));
    return container::apply_device_rules(cgroup_.directory(), resources.devices);
}

void Container::watch_memory() {
    const std::string file = cgroup_.directory() + "/memory.events";
    os::UniqueFd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    // A kernel without the memory controller has no such file, and kills nobody of this group
    // alone.
    if (!watch || inotify_add_watch(watch.get(), file.c_str(), IN_MODIFY) < 0)
        return;
    const auto watching = around_.loop.watch(watch.get(), EPOLLIN, [this](std::uint32_t) {
        std::array<char, 1024> bytes{};
        while (read(memory_watch_.get(), bytes.data(), bytes.size()) > 0)
            continue;
        note_oom();
    });
    if (watching)
        memory_watch_ = std::move(watch);
}

void Container::note_oom() {
    const std::uint64_t kills = cgroup_.read_pairs("memory.events")["oom_kill"];
    if (kills > oom_kills_)
        around_.events.add(event(proto::Event::OOM, "", *process_));
    oom_kills_ = kills;
}

void Container::on_ended(const std::string& exec_id, Process& process) {
    note_oom();
    process.exit().set_oom_killed(oom_kills_ > 0);
    // In a namespace of its own the kernel does the same; in one that it shares, nobody else would.
    if (exec_id.empty()) {
        static_cast<void>(cgroup_.kill());
        paused_ = false;
    }
    // One that never ran its program was reported as a failure, or is being removed.
    if (process.started_at() != 0)
        around_.events.add(event(proto::Event::EXITED, exec_id, process));
}

void Container::remove(bool force, const Done& done) {
    if (removing_) {
        done(os::fail(os::Code::FailedPrecondition, "the container ", id_, " is being deleted"));
        return;
    }
    if (!is_ready() || (process_->stage() == Process::Stage::Running && !force)) {
        done(os::fail(os::Code::FailedPrecondition, "the container ", id_,
                      is_ready() ? " is running" : " is being created"));
        return;
    }
    removing_ = true;
    static_cast<void>(cgroup_.kill());
    if (process_->exists())
        static_cast<void>(process_->signal(SIGKILL));
    process_->on_exit([self = shared_from_this(), done] {
        self->remove_group(removal_attempts, [self, done](const os::Result<void>& removed) {
            if (removed) {
                self->when_all_ended([self, done] {
                    self->when_all_delivered(delivery_attempts,
                                             [self, done] { self->finish_removal(done); });
                });
                return;
            }
            self->removing_ = false;
            done(base::Failure(removed.error()));
        });
    });
}

// Whoever waits for one of them gets an answer.
void Container::when_all_ended(const std::function<void()>& action) {
    for (const auto& [exec_id, entry] : executed_) {
        if (entry.process->exists()) {
            entry.process->on_exit([self = shared_from_this(), action] {
                self->around_.loop.defer([self, action] { self->when_all_ended(action); });
            });
            return;
        }
    }
    action();
}

// What a program wrote before it was ended, or ended by itself, is its reader's, and so is the
// status: after a shutdown nobody can ask for them. An executed process has been dealt with when it
// is deleted, which is the last thing that its client does.
bool Container::is_all_delivered() const {
    const auto is_owed = [](Process& process) {
        return !process.is_abandoned() && process.streams().is_output_owed();
    };
    return !is_owed(*process_) &&
           std::all_of(executed_.begin(), executed_.end(),
                       [](const auto& entry) { return entry.second.process->is_abandoned(); });
}

void Container::when_all_delivered(int attempts, const std::function<void()>& action) {
    if (attempts <= 0 || is_all_delivered()) {
        action();
        return;
    }
    around_.loop.after(removal_interval, [self = shared_from_this(), attempts, action] {
        self->when_all_delivered(attempts - 1, action);
    });
}

void Container::remove_group(int attempts, const Done& done) {
    static_cast<void>(cgroup_.kill());
    const auto removed = cgroup_.remove();
    if (removed || attempts <= 0) {
        done(removed ? os::Result<void>() : base::Failure(removed.error()));
        return;
    }
    around_.loop.after(removal_interval, [self = shared_from_this(), attempts, done] {
        self->remove_group(attempts - 1, done);
    });
}

void Container::finish_removal(const Done& done) {
    around_.events.add(event(proto::Event::DELETED, "", *process_));
    executed_.clear();
    if (spec_.hooks.poststop.empty()) {
        done({});
        return;
    }
    const std::string state = hook_state().json("stopped", 0);
    // A hook that fails changes nothing any more, and keeps no other from running: the container is
    // gone (runtime-spec, lifecycle 13).
    around_.children.run_aside(
        [self = shared_from_this(), state] {
            container::run_every_hook(self->spec_.hooks.poststop, state);
            return os::Result<void>();
        },
        [done](const os::Result<void>&) { done({}); });
}

void Container::remove_exec(const std::string& exec_id, bool force, const Done& done) {
    const auto process = find(exec_id);
    if (!process) {
        done(base::Failure(process.error()));
        return;
    }
    const Process::Stage stage = (*process)->stage();
    if ((*process)->is_launching() || (stage == Process::Stage::Running && !force)) {
        done(os::fail(os::Code::FailedPrecondition, "the process ", exec_id, " is running"));
        return;
    }
    if ((*process)->exists())
        static_cast<void>((*process)->signal(SIGKILL));
    (*process)->on_exit([self = shared_from_this(), exec_id, process = *process, done] {
        // Whoever else has asked for it may have been first.
        const auto found = self->executed_.find(exec_id);
        if (found == self->executed_.end() || found->second.process != process) {
            done(os::fail(os::Code::NotFound, "there is no process ", exec_id, " in container ",
                          self->id_));
            return;
        }
        self->around_.events.add(self->event(proto::Event::DELETED, exec_id, *process));
        done({});
        self->executed_.erase(exec_id);
    });
}

proto::StateResponse Container::describe(const std::string& exec_id, Process& process) const {
    proto::StateResponse out;
    out.set_container_id(id_);
    out.set_exec_id(exec_id);
    out.set_pid(process.pid() > 0 ? static_cast<std::uint32_t>(process.pid()) : 0);
    out.set_bundle(bundle_);
    out.set_terminal(process.terminal());
    out.set_created_at(process.created_at());
    out.set_started_at(process.started_at());
    switch (process.stage()) {
    case Process::Stage::Creating:
        out.set_status(proto::CREATING);
        break;
    case Process::Stage::Created:
        out.set_status(proto::CREATED);
        break;
    case Process::Stage::Running:
        out.set_status(paused_ ? proto::PAUSED : proto::RUNNING);
        break;
    case Process::Stage::Stopped:
        out.set_status(proto::STOPPED);
        *out.mutable_exit() = process.exit();
        break;
    }
    for (const auto& [key, value] : spec_.annotations)
        (*out.mutable_annotations())[key] = value;
    if (exec_id.empty()) {
        for (const auto& [name, entry] : executed_)
            out.add_exec_ids(name);
    }
    return out;
}

} // namespace service
