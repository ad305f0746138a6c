#include "tools/containerd-shim-joey-v2/engine_work.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include "agent/os/files.hpp"
#include "tools/containerd-shim-joey-v2/rootfs.hpp"

namespace shim {

namespace {

pod::Engine engine_at(const std::string& root) {
    return pod::Engine(pod::StateRoot(root));
}

pod::VmConfig vm_of(const Settings& settings) {
    pod::VmConfig out;
    out.cpus = settings.vcpus;
    out.memory = settings.memory;
    out.privilege = settings.privilege;
    return out;
}

// The shim has containerd's protection from the host's OOM killer; a pod has what it was given.
void set_oom_score(const pod::Json& config) {
    const pod::Json* process = pod::find(config, "process");
    const std::int64_t score = process == nullptr ? 0 : pod::int_of(*process, "oomScoreAdj");
    static_cast<void>(
        os::write_file(AT_FDCWD, "/proc/self/oom_score_adj", std::to_string(score)).has_value());
}

os::Result<Created> create_mounted(const std::string& root, const CreateWork& work) {
    pod::Engine engine = engine_at(root);
    pod::CreateOptions options{.id = work.id, .bundle = work.bundle};
    options.console_socket = work.console_socket;
    options.pod = work.pod;
    options.vm = vm_of(work.settings);
    Created out;
    TRY(out.warnings, engine.create(options));
    TRY(const pod::ContainerState state, engine.state(work.id));
    out.pid = state.record.process.pid;
    return out;
}

// Nobody else is in the pod, and containerd has removed the bundle of the one it began with.
bool is_forgotten(const pod::StateRoot& state, const std::string& pod) {
    const auto first = pod::ContainerRecord::load(state, pod);
    return first && !pod::exists(first->bundle) && !has_others(state, pod);
}

} // namespace

bool has_others(const pod::StateRoot& state, const std::string& pod) {
    const std::vector<std::string> all = state.containers();
    return std::any_of(all.begin(), all.end(), [&](const std::string& id) {
        const auto other = pod::ContainerRecord::load(state, id);
        return id != pod && other && other->pod == pod;
    });
}

std::string state_root(const std::string& name_space) {
    return "/run/containerd/joey/" + name_space;
}

std::string Created::to_text() const {
    return pod::to_text(pod::Json{{"pid", pid}, {"warnings", warnings}});
}

os::Result<Created> Created::parse(const std::string& text) {
    TRY(const pod::Json value, pod::parse_object(text, "a worker's answer"));
    Created out;
    out.pid = static_cast<pid_t>(pod::int_of(value, "pid"));
    out.warnings = pod::strings_of(value, "warnings");
    return out;
}

os::Result<std::string> create(const std::string& root, const CreateWork& work) {
    TRY(const pod::Json config, pod::read_json(work.bundle + "/config.json"));
    TRY(work.settings.check(pod::string_map_of(config, "annotations")));
    set_oom_score(config);
    MountCalls calls;
    const std::string rootfs = work.bundle + "/rootfs";
    TRY(mount_rootfs(calls, work.mounts, rootfs));
    const auto created = create_mounted(root, work);
    if (created)
        return created->to_text();
    if (!work.mounts.empty())
        static_cast<void>(unmount_rootfs(calls, rootfs).has_value());
    return base::Failure(created.error());
}

os::Result<std::string> execute(const std::string& root, const ExecWork& work) {
    const std::string pid_file = os::text(work.bundle, "/", work.agent_id, ".pid");
    pod::ExecOptions options;
    options.container = work.id;
    options.exec_id = work.agent_id;
    options.process = work.spec;
    options.console_socket = work.console_socket;
    options.pid_file = pid_file;
    options.detach = true;
    TRY(engine_at(root).exec(options));
    auto pid = os::read_file(AT_FDCWD, pid_file.c_str());
    ::unlink(pid_file.c_str());
    return pid;
}

os::Result<std::string> remove(const std::string& root, const std::string& id,
                               const std::string& rootfs, std::chrono::milliseconds patience) {
    const pod::StateRoot state(root);
    pod::Engine engine(state, patience);
    const auto record = pod::ContainerRecord::load(state, id);
    const auto removed = engine.remove(id, true);
    MountCalls calls;
    TRY(unmount_rootfs(calls, rootfs));
    if (!removed)
        return base::Failure(removed.error());
    if (record && record->pod != id && is_forgotten(state, record->pod))
        TRY(engine.remove(record->pod, true));
    return std::string();
}

os::Result<std::string> sweep(const std::string& root) {
    const pod::StateRoot state(root);
    pod::Engine engine(state);
    for (const std::string& id : state.containers()) {
        auto record = pod::ContainerRecord::load(state, id);
        if (!record)
            record = pod::ContainerRecord::load_begun(state, id);
        // A pod's first one stays for the others, see forget().
        if (record && !record->bundle.empty() && !pod::exists(record->bundle) &&
            !has_others(state, id))
            static_cast<void>(engine.remove(id, true).has_value());
    }
    return std::string();
}

os::Result<std::string> forget(const std::string& root, const std::string& id,
                               const std::string& rootfs) {
    pod::Engine engine{pod::StateRoot(root)};
    // If it was never started; one that has ended is no error here.
    static_cast<void>(engine.kill(id, SIGKILL, true).has_value());
    MountCalls calls;
    TRY(unmount_rootfs(calls, rootfs));
    return std::string();
}

} // namespace shim
