#include "agent/container/builder_parts.hpp"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include <linux/keyctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "agent/os/descriptor_limit.hpp"

namespace container {

std::string encode(const os::Error& error) {
    return os::text(static_cast<int>(error.code), " ", error.message);
}

os::Error decode_error(const std::string& text) {
    const std::size_t space = text.find(' ');
    if (space == std::string::npos)
        return {os::Code::Internal, text};
    return {static_cast<os::Code>(std::atoi(text.c_str())), text.substr(space + 1)};
}

void begin_builder(const ProcessPlan& plan, std::vector<int> keep) {
    keep.insert(keep.end(), {plan.report, plan.start, plan.stdio[0], plan.stdio[1], plan.stdio[2]});
    keep.insert(keep.end(), plan.preserved.begin(), plan.preserved.end());
    os::close_all_but(std::move(keep));
    os::restore_descriptor_limit();
    for (int number = 1; number < NSIG; ++number)
        signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    // /proc/PID/exe of what becomes the container's process leads to the agent's own program until
    // that is replaced: nobody inside may look.
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_NAME, "agent-builder", 0, 0, 0);
}

os::Result<void> leave_session_keyring() {
    // ENOSYS: there are no keys. EPERM: a filter forbids them, and will do so inside.
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr) < 0 && errno != ENOSYS &&
        errno != EPERM)
        return os::fail_errno(errno, "make a session keyring");
    return {};
}

os::Result<void> apply_oom_score(const spec::Process& process, pid_t pid) {
    const std::string file = os::text("/proc/", pid, "/oom_score_adj");
    if (!process.oom_score_adj) {
        const auto inherited = os::read_file(AT_FDCWD, file.c_str());
        // What protects the agent is not for its containers.
        if (!inherited || !inherited->starts_with('-'))
            return {};
    }
    const auto written =
        os::write_file(AT_FDCWD, file.c_str(), std::to_string(process.oom_score_adj.value_or(0)));
    if (!written)
        return os::fail(written.error().code, "process.oomScoreAdj: ", written.error().message);
    return {};
}

namespace {

// Hard limits above the present ones, while the process is still root: from outside, because
// raising needs rights that a process in a user namespace does not have. It lowers limits itself,
// at the end.
os::Result<void> raise_limits(const spec::Process& process, pid_t pid) {
    for (const spec::Rlimit& limit : process.rlimits) {
        const auto resource = static_cast<__rlimit_resource>(limit.resource);
        rlimit value{};
        if (prlimit(pid, resource, nullptr, &value) != 0)
            return os::fail_errno(errno, "process.rlimits: resource ", limit.resource);
        if (limit.hard <= value.rlim_max)
            continue;
        value.rlim_max = limit.hard;
        if (prlimit(pid, resource, &value, nullptr) != 0)
            return os::fail_errno(errno, "process.rlimits: resource ", limit.resource,
                                  ": raise it");
    }
    return {};
}

} // namespace

os::Result<void> accompany(const ProcessPlan& plan, pid_t pid, int sync,
                           const std::function<os::Result<void>()>& run_hooks) {
    for (;;) {
        TRY(const std::optional<os::Message> word, os::receive_message(sync));
        if (!word)
            return os::fail(os::Code::Aborted, "the process ended before it was ready");
        switch (word->kind) {
        case message::failed:
            return base::Failure(decode_error(word->text));
        case message::terminal:
            TRY(os::send_message(plan.report, message::terminal, {}, word->fd.get()));
            break;
        case message::hooks:
            TRY(run_hooks());
            TRY(os::send_message(sync, message::go));
            break;
        case message::limits:
            TRY(raise_limits(*plan.process, pid));
            TRY(os::send_message(sync, message::go));
            break;
        case message::ready:
            return os::send_message(plan.report, message::ready);
        default:
            return os::fail(os::Code::Internal, "the process said something that is no message");
        }
    }
}

void keep_report_only(const ProcessPlan& plan) {
    close(plan.start);
}

void keep_start_only(const ProcessPlan& plan) {
    close(plan.report);
}

void give_up(int where, const os::Error& error) {
    static_cast<void>(os::send_message(where, message::failed, encode(error)));
    _exit(1);
}

os::Result<void> wait_for_go(int sync) {
    TRY(const std::optional<os::Message> word, os::receive_message(sync));
    if (!word || word->kind != message::go)
        return os::fail(os::Code::Aborted, "the builder is gone");
    return {};
}

} // namespace container
