// The builder of one more process in a container that runs.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <sched.h>

#include <linux/sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>

#include "agent/container/builder_parts.hpp"
#include "agent/container/finish.hpp"

namespace container {

namespace {

class ProcessBuilder {
public:
    explicit ProcessBuilder(const ExecPlan& plan) : plan_(plan) {}
    os::Result<void> build();
    void end_what_was_born() const {
        if (pid_ > 0)
            kill(pid_, SIGKILL);
    }

private:
    [[noreturn]] void begin_inside();
    os::Result<void> enter();
    os::Result<pid_t> give_birth();

    const ExecPlan& plan_;
    SeccompFilter filter_;
    os::Channel sync_;
    pid_t pid_ = -1;
};

os::Result<void> ProcessBuilder::enter() {
    TRY(wait_for_go(sync_.far.get()));
    for (const OpenNamespace& entry : *plan_.namespaces) {
        // Those were entered by being born.
        if (entry.flag != CLONE_NEWPID && entry.flag != CLONE_NEWTIME) {
            TRY(join(entry));
        }
        if (entry.flag == CLONE_NEWUSER && (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0))
            return os::fail_errno(errno, "become root of the container's user namespace");
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (setsid() < 0)
        return os::fail_errno(errno, "make a session");
    if (plan_.personality && personality(*plan_.personality) < 0)
        return os::fail_errno(errno, "linux.personality");
    return {};
}

void ProcessBuilder::begin_inside() {
    sync_.near.reset();
    keep_start_only(plan_.common);
    const spec::Process& process = *plan_.common.process;
    const int sync = sync_.far.get();
    std::string program;
    const auto prepare = [&]() -> os::Result<void> {
        TRY(enter());
        Terminal terminal;
        if (process.terminal) {
            TRY(const os::UniqueFd root, os::open_path(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
            TRY(terminal, open_terminal(root.get(), process.rows, process.columns));
            TRY(os::send_message(sync, message::terminal, {}, terminal.master.get()));
        }
        TRY(connect_streams(plan_.common, terminal));
        TRY(ask_for_limits(process, sync));
        TRY(program, become_user(process));
        return wait_for_start(plan_.common, sync);
    };
    const auto prepared = prepare();
    if (!prepared)
        give_up(sync, prepared.error());
    give_up(plan_.common.start, execute(plan_.common, filter_, program));
}

os::Result<pid_t> ProcessBuilder::give_birth() {
    TemporaryStay stay;
    for (const OpenNamespace& entry : *plan_.namespaces) {
        if (entry.flag == CLONE_NEWPID || entry.flag == CLONE_NEWTIME) {
            TRY(stay.enter(entry));
        }
    }
    TRY(const pid_t pid, clone_sibling(0));
    if (pid == 0)
        begin_inside();
    return pid;
}

os::Result<void> ProcessBuilder::build() {
    TRY(leave_session_keyring());
    if (plan_.common.seccomp != nullptr) {
        TRY(filter_, compile_filter(*plan_.common.seccomp));
    }
    TRY(sync_, os::make_channel());
    TRY(pid_, give_birth());
    sync_.far.reset();
    keep_report_only(plan_.common);
    TRY(os::send_message(plan_.common.report, message::born, std::to_string(pid_)));
    TRY(plan_.cgroup->add_beside(pid_, plan_.first));
    TRY(apply_oom_score(*plan_.common.process, pid_));
    TRY(os::send_message(sync_.near.get(), message::go));
    return accompany(plan_.common, pid_, sync_.near.get(), [] { return os::Result<void>(); });
}

} // namespace

void build_process(const ExecPlan& plan) {
    std::vector<int> keep;
    for (const OpenNamespace& entry : *plan.namespaces)
        keep.push_back(entry.fd.get());
    begin_builder(plan.common, std::move(keep));
    ProcessBuilder builder(plan);
    const auto built = builder.build();
    if (!built) {
        builder.end_what_was_born();
        give_up(plan.common.report, built.error());
    }
    _exit(0);
}

} // namespace container
