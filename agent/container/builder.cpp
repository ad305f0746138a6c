// The builder of a container: everything that is done from outside of its namespaces.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <sched.h>

#include <linux/sched.h>

#include "agent/container/builder_parts.hpp"
#include "agent/container/device_program.hpp"
#include "agent/container/init.hpp"

namespace container {

namespace {

std::string mapping_text(const std::vector<spec::IdMapping>& mappings) {
    std::string out;
    for (const spec::IdMapping& mapping : mappings)
        out += os::text(mapping.container_id, " ", mapping.host_id, " ", mapping.size, "\n");
    return out;
}

class Builder {
public:
    explicit Builder(const ContainerPlan& plan) : plan_(plan), part_(plan.spec->linux_part) {}

    os::Result<void> build();
    // After a failure.
    void end_what_was_born() const {
        if (pid_ > 0)
            kill(pid_, SIGKILL);
    }

private:
    os::Result<void> prepare();
    os::Result<pid_t> give_birth();
    os::Result<pid_t> clone_into_user_namespace(const OpenNamespace& user);
    os::Result<pid_t> clone_from_between(const OpenNamespace& user, TemporaryStay& stay);
    os::Result<void> enter_named(TemporaryStay& stay);
    os::Result<void> set_time_offsets();
    os::Result<void> equip();
    [[noreturn]] void begin_inside();
    const OpenNamespace* named(int flag) const;

    const ContainerPlan& plan_;
    const spec::Linux& part_;
    SeccompFilter filter_;
    Trees trees_;
    std::vector<OpenNamespace> named_;
    os::Channel sync_;
    pid_t pid_ = -1;
};

const OpenNamespace* Builder::named(int flag) const {
    for (const OpenNamespace& entry : named_) {
        if (entry.flag == flag)
            return &entry;
    }
    return nullptr;
}

// What a container may do to a namespace that is its own, or another container's, it may not do to
// the agent's by giving its path. The root of a joined mount namespace is exchanged.
os::Result<void> refuse_own_namespaces(const spec::Spec& spec,
                                       const std::vector<OpenNamespace>& named) {
    for (const OpenNamespace& entry : named) {
        if (!is_own(entry))
            continue;
        const bool names = !spec.hostname.empty() || !spec.domainname.empty();
        const auto& sysctls = spec.linux_part.sysctls;
        const bool sets = std::any_of(sysctls.begin(), sysctls.end(), [&entry](const auto& sysctl) {
            return spec::namespace_of_sysctl(sysctl.first) == entry.flag;
        });
        if (entry.flag == CLONE_NEWNS || (entry.flag == CLONE_NEWUTS && names) || sets)
            return os::fail(os::Code::InvalidArgument, "linux.namespaces: the ",
                            spec::namespace_name(entry.flag), " namespace is the agent's own",
                            entry.flag == CLONE_NEWNS ? "" : ", where nothing can be set");
    }
    return {};
}

os::Result<void> Builder::prepare() {
    TRY(leave_session_keyring());
    if (plan_.common.seccomp != nullptr) {
        TRY(filter_, compile_filter(*plan_.common.seccomp));
    }
    TRY(plan_.cgroup->apply(part_.resources));
    TRY(apply_device_rules(plan_.cgroup->directory(), part_.resources.devices));
    TRY(trees_, take_trees(*plan_.spec, plan_.cgroup->directory()));
    TRY(named_, open_named(part_));
    TRY(refuse_own_namespaces(*plan_.spec, named_));
    TRY(sync_, os::make_channel());
    return {};
}

void Builder::begin_inside() {
    sync_.near.reset();
    keep_start_only(plan_.common);
    const bool in_user_namespace = part_.find(CLONE_NEWUSER) != nullptr;
    run_init({.plan = plan_,
              .trees = trees_,
              .filter = filter_,
              .mount_namespace = named(CLONE_NEWNS),
              .in_user_namespace = in_user_namespace,
              .sync = sync_.far.get()});
}

// What is new, but for the cgroup namespace, which waits for the process to be in its group, and
// time, which is entered by being born.
int flags_of_birth(const spec::Linux& part) {
    int flags = 0;
    for (const spec::Namespace& entry : part.namespaces) {
        if (entry.path.empty() && entry.flag != CLONE_NEWCGROUP && entry.flag != CLONE_NEWTIME)
            flags |= entry.flag;
    }
    return flags;
}

// A user namespace that exists cannot be left again, so a process in between enters it. The new
// namespaces then belong to it. That process is born where the agent is, and enters what the
// container is born into itself: numbers of processes then mean what they mean to the agent, also
// with a pid namespace that is joined.
os::Result<pid_t> Builder::clone_into_user_namespace(const OpenNamespace& user) {
    TRY(os::Channel answer, os::make_channel());
    TRY(const pid_t between, clone_sibling(0));
    if (between == 0) {
        TemporaryStay stay; // for good: this process does not return
        const auto born = clone_from_between(user, stay);
        if (!born)
            give_up(answer.far.get(), born.error());
        if (*born == 0) {
            answer = {};
            begin_inside();
        }
        static_cast<void>(os::send_message(answer.far.get(), message::born, std::to_string(*born)));
        _exit(0);
    }
    answer.far.reset();
    TRY(const std::optional<os::Message> word, os::receive_message(answer.near.get()));
    if (!word)
        return os::fail(os::Code::Aborted, "the process between two user namespaces ended early");
    if (word->kind != message::born)
        return base::Failure(decode_error(word->text));
    return static_cast<pid_t>(std::atoi(word->text.c_str()));
}

os::Result<pid_t> Builder::clone_from_between(const OpenNamespace& user, TemporaryStay& stay) {
    TRY(enter_named(stay));
    TRY(join(user));
    if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0)
        return os::fail_errno(errno, "linux.namespaces: become root of the user namespace");
    return clone_sibling(flags_of_birth(part_));
}

os::Result<void> Builder::set_time_offsets() {
    std::string text;
    for (const spec::TimeOffset& offset : part_.time_offsets)
        text += os::text(offset.clock == CLOCK_MONOTONIC ? "monotonic " : "boottime ",
                         offset.seconds, " ", offset.nanoseconds, "\n");
    if (text.empty())
        return {};
    const auto written = os::write_file(AT_FDCWD, "/proc/self/timens_offsets", text);
    if (!written)
        return os::fail(written.error().code, "linux.timeOffsets: ", written.error().message);
    return {};
}

// What the container's process is to be born into.
os::Result<void> Builder::enter_named(TemporaryStay& stay) {
    for (const OpenNamespace& entry : named_) {
        if (entry.flag != CLONE_NEWUSER && entry.flag != CLONE_NEWNS) {
            TRY(stay.enter(entry));
        }
    }
    if (!part_.is_new(CLONE_NEWTIME))
        return {};
    TRY(stay.remember(CLONE_NEWTIME));
    if (unshare(CLONE_NEWTIME) != 0)
        return os::fail_errno(errno, "linux.namespaces: make a time namespace");
    return set_time_offsets();
}

os::Result<pid_t> Builder::give_birth() {
    if (const OpenNamespace* user = named(CLONE_NEWUSER))
        return clone_into_user_namespace(*user);
    TemporaryStay stay;
    TRY(enter_named(stay));
    TRY(const pid_t pid, clone_sibling(flags_of_birth(part_)));
    if (pid == 0)
        begin_inside();
    return pid;
}

os::Result<void> Builder::equip() {
    if (part_.is_new(CLONE_NEWUSER)) {
        for (const auto& [file, mappings] : {std::pair("uid_map", &part_.uid_mappings),
                                             std::pair("gid_map", &part_.gid_mappings)}) {
            const auto written = os::write_file(
                AT_FDCWD, os::text("/proc/", pid_, "/", file).c_str(), mapping_text(*mappings));
            if (!written)
                return os::fail(written.error().code,
                                "linux.uidMappings, linux.gidMappings: ", written.error().message);
        }
    }
    TRY(plan_.cgroup->add(pid_));
    return apply_oom_score(*plan_.common.process, pid_);
}

os::Result<void> Builder::build() {
    TRY(prepare());
    TRY(pid_, give_birth());
    sync_.far.reset();
    keep_report_only(plan_.common);
    TRY(os::send_message(plan_.common.report, message::born, std::to_string(pid_)));
    TRY(equip());
    TRY(os::send_message(sync_.near.get(), message::go));
    return accompany(plan_.common, pid_, sync_.near.get(), [this] {
        return run_hooks(plan_.spec->hooks.create_runtime, plan_.state.json("creating", pid_));
    });
}

} // namespace

void build_container(const ContainerPlan& plan) {
    begin_builder(plan.common, {});
    Builder builder(plan);
    const auto built = builder.build();
    if (!built) {
        builder.end_what_was_born();
        give_up(plan.common.report, built.error());
    }
    _exit(0);
}

} // namespace container
