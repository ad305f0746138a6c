// Creating containers, and what is known of them.
#include "tools/pod/engine.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <ctime>
#include <fcntl.h>

#include <sys/stat.h>

#include "agent/os/files.hpp"
#include "tools/pod/hooks.hpp"
#include "tools/pod/host_cgroup.hpp"
#include "tools/pod/relay_process.hpp"

namespace pod {

namespace {

// Of containerd's CRI plugin and of CRI-O.
struct PodAnnotations {
    const char* type;
    const char* pod;
};
constexpr PodAnnotations pod_annotations[] = {
    {"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"},
    {"io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"},
};

os::Result<VmConfig> vm_config_of(const Json& config, const VmConfig& defaults) {
    const auto annotations = string_map_of(config, "annotations");
    const auto value = [&](const char* name) {
        const auto found = annotations.find(name);
        return found == annotations.end() ? std::string() : found->second;
    };
    VmConfig out = defaults;
    if (const std::string memory = value("io.joey.memory"); !memory.empty())
        out.memory = memory;
    if (const std::string privilege = value("io.joey.privilege"); !privilege.empty())
        out.privilege = privilege;
    if (const std::string cpus = value("io.joey.vcpus"); !cpus.empty()) {
        const int number = std::atoi(cpus.c_str());
        if (number < 1)
            return os::fail(os::Code::InvalidArgument, "annotation io.joey.vcpus: ", cpus,
                            " is no number of CPUs");
        out.cpus = static_cast<unsigned>(number);
    }
    return out;
}

// "512M", "2G": as joey do takes it. 0: it is joey's to say.
std::uint64_t bytes_of(const std::string& memory) {
    constexpr std::string_view units = "KMGT";
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(memory.data(), memory.data() + memory.size(), value);
    if (error != std::errc() || end == memory.data() + memory.size())
        return error == std::errc() ? value : 0;
    const auto unit = units.find(static_cast<char>(*end & ~0x20));
    constexpr std::uint64_t most = std::uint64_t{1} << 40;
    if (unit == std::string_view::npos || value > most)
        return 0;
    return value << (10 * (unit + 1));
}

VmNetwork network_of(const GuestConfig& guest) {
    if (!guest.own_network)
        return VmNetwork::Host;
    if (guest.network_namespace.empty())
        return VmNetwork::None;
    struct stat wanted {};
    struct stat own {};
    // Engines also write the host's namespace by its name.
    const bool is_own = ::stat(guest.network_namespace.c_str(), &wanted) == 0 &&
                        ::stat("/proc/self/ns/net", &own) == 0 && wanted.st_ino == own.st_ino &&
                        wanted.st_dev == own.st_dev;
    return is_own ? VmNetwork::Host : VmNetwork::Pod;
}

os::Result<Json> read_config(const std::string& bundle) {
    const std::string path = bundle + "/config.json";
    if (!exists(path))
        return os::fail(os::Code::NotFound, "JSON specification file config.json not found");
    return read_json(path);
}

os::Result<void> check_console(bool terminal, const std::string& socket, bool detached) {
    if (terminal && detached && socket.empty())
        return os::fail(os::Code::InvalidArgument,
                        "cannot allocate tty if joey will detach without setting console socket");
    if (!terminal && !socket.empty())
        return os::fail(os::Code::InvalidArgument,
                        "cannot use console socket if joey will not detach or allocate tty");
    return {};
}

} // namespace

// One CPU more than the guest has, for what the VMM does beside it.
HostLimits limits_of(const VmConfig& vm) {
    const std::uint64_t bytes = bytes_of(vm.memory);
    return {.memory = (bytes != 0 ? bytes : largest_usual_memory) + vm_overhead_bytes,
            .cpus = vm.cpus ? *vm.cpus + 1 : 0,
            .processes = vm_processes};
}

std::string_view name_of(ContainerStatus status) {
    switch (status) {
    case ContainerStatus::Created:
        return "created";
    case ContainerStatus::Running:
        return "running";
    case ContainerStatus::Paused:
        return "paused";
    case ContainerStatus::Stopped:
        break;
    }
    return "stopped";
}

std::string pod_of(const Json& config, const std::string& id) {
    const auto annotations = string_map_of(config, "annotations");
    for (const PodAnnotations& names : pod_annotations) {
        const auto type = annotations.find(names.type);
        const auto pod = annotations.find(names.pod);
        if (type != annotations.end() && pod != annotations.end() && type->second == "container")
            return pod->second;
    }
    return id;
}

Json state_json(const ContainerRecord& record, std::string_view status, pid_t pid) {
    Json out = {{"ociVersion", record.oci_version},
                {"id", record.id},
                {"status", status},
                {"bundle", record.bundle}};
    if (pid > 0)
        out["pid"] = pid;
    if (!record.annotations.empty())
        out["annotations"] = record.annotations;
    return out;
}

namespace {

void set_streams(proto::Streams& wanted, const std::optional<StreamFds>& streams) {
    wanted.set_input(!streams || (*streams)[0] >= 0);
    wanted.set_output(!streams || (*streams)[1] >= 0);
    wanted.set_error(!streams || (*streams)[2] >= 0);
}

} // namespace

struct Engine::Creation {
    ContainerRecord record;
    std::optional<Pod> pod;
    bool owns_pod = false;
    std::optional<StartedRelay> relay;
    bool has_poststop = false;
};

os::Result<Engine::Link> Engine::connect(const std::string& pod,
                                         std::chrono::milliseconds limit) const {
    TRY(const Pod found, Pod::open(root_, pod));
    Link out;
    TRY(out.loop, os::EventLoop::create());
    TRY(out.agent, found.connect(*out.loop, limit));
    return out;
}

os::Result<Lock> Engine::lock(const std::string& id) const {
    TRY(check_id(id));
    auto held = exists(root_.container(id))
                    ? Lock::take(root_.container(id) + "/lock")
                    : os::fail(os::Code::NotFound, "container does not exist");
    // Whoever held it may have removed the container meanwhile.
    if (!held && held.error().code == os::Code::NotFound)
        return os::fail(os::Code::NotFound, "container does not exist");
    return held;
}

// The name for a new container, with its lock.
os::Result<Lock> Engine::claim(const std::string& id) {
    const std::string directory = root_.container(id);
    for (;;) {
        TRY(make_directories(directory));
        TRY(Lock held, Lock::take(directory + "/lock"));
        if (exists(directory + "/record.json"))
            return os::fail(os::Code::AlreadyExists, "container with given ID already exists");
        if (!exists(directory + "/begun.json"))
            return held;
        // What a creation left that did not live to its end; the lock's file goes with it.
        clean_up_begun(id);
    }
}

os::Result<std::vector<std::string>> Engine::create(const CreateOptions& options) {
    TRY(check_id(options.id));
    TRY(const Json config, read_config(options.bundle));
    const Json* process = find(config, "process");
    if (process == nullptr || !process->is_object())
        return os::fail(os::Code::InvalidArgument, "process property must not be empty");
    TRY(check_console(bool_of(*process, "terminal"), options.console_socket,
                      !options.streams.has_value()));
    if (!options.pod.empty())
        TRY(check_id(options.pod));
    // Before anything takes one of these numbers, or a VM has been started in vain.
    TRY(preserved_fds(options.preserve_fds));
    TRY(root_.make());
    TRY(const Lock held, claim(options.id));
    Creation creation;
    creation.record.id = options.id;
    creation.record.pod = options.pod.empty() ? pod_of(config, options.id) : options.pod;
    creation.owns_pod = creation.record.pod == options.id;
    const auto built = build(creation, config, options);
    if (!built) {
        undo(creation);
        return base::Failure(built.error());
    }
    return creation.relay->warnings();
}

os::Result<void> Engine::share_sources(Creation& creation, GuestConfig& guest) const {
    TRY(const Lock held, creation.pod->lock());
    std::vector<Pod::Showing> fresh;
    for (const GuestConfig::Source& source : guest.sources) {
        TRY(const Pod::Place place,
            creation.pod->place_for(
                root_, {source.path, source.read_only, source.recursive, source.is_root}));
        guest.place(source, guest_path(place.shared));
        creation.record.shared.push_back(place.shared);
        if (place.fresh)
            fresh.push_back({place.shared, source.path, source.recursive});
    }
    if (!fresh.empty())
        TRY(creation.record.store_begun(root_));
    return creation.pod->share(fresh);
}

os::Result<void> Engine::join_pod(Creation& creation, GuestConfig& guest, Link& link) const {
    if (!guest.pod_sysctls.empty()) {
        proto::SetSysctlsRequest request;
        for (const auto& [name, value] : guest.pod_sysctls)
            (*request.mutable_sysctls())[name] = value;
        TRY(link.agent->call<proto::Empty>("SetSysctls", request));
    }
    if (creation.owns_pod || guest.pod_namespaces.empty())
        return {};
    proto::ProcessRequest request;
    request.set_container_id(creation.record.pod);
    TRY(const auto first, link.agent->call<proto::StateResponse>("State", request));
    // The number of one that has ended may be another's by now, with another's namespaces.
    if (first.pid() == 0 || first.status() == proto::STOPPED)
        return os::fail(os::Code::FailedPrecondition, "the pod's first container has ended");
    guest.join(first.pid());
    return {};
}

// What the record says of the configuration alone.
void Engine::describe(Creation& creation, const Json& config, const CreateOptions& options) {
    ContainerRecord& record = creation.record;
    record.bundle = options.bundle;
    record.created = timestamp();
    record.oci_version = string_of(config, "ociVersion");
    record.annotations = string_map_of(config, "annotations");
    if (const Json* hooks = find(config, "hooks"); hooks != nullptr && hooks->is_object())
        record.hooks = *hooks;
    record.process_template = *find(config, "process");
    record.terminal = bool_of(record.process_template, "terminal");
}

os::Result<void> Engine::enter_pod(Creation& creation, const Json& config, GuestConfig& guest,
                                   const CreateOptions& options) const {
    ContainerRecord& record = creation.record;
    if (const Json* linux_part = find(config, "linux")) {
        TRY(record.cgroups, cgroup_places(string_of(*linux_part, "cgroupsPath")));
    }
    TRY(record.store_begun(root_));
    TRY(make_cgroups_at(record.cgroups));
    if (creation.owns_pod) {
        TRY(VmConfig vm, vm_config_of(config, options.vm));
        vm.network_namespace = guest.network_namespace;
        vm.network = network_of(guest);
        vm.cgroups = record.cgroups;
        limit_cgroups(record.cgroups, limits_of(vm));
        const std::vector<std::string> unset = guest.block_io.apply(record.cgroups);
        guest.warnings.insert(guest.warnings.end(), unset.begin(), unset.end());
        TRY(creation.pod, Pod::start(root_, record.pod, vm));
    } else {
        TRY(creation.pod, Pod::open(root_, record.pod));
        if (!guest.block_io.settings.empty())
            guest.warnings.emplace_back("linux.resources.blockIO: is for the VM as a whole, which "
                                        "another container of the pod has brought");
    }
    TRY(share_sources(creation, guest));
    Link link;
    TRY(link.loop, os::EventLoop::create());
    TRY(link.agent, creation.pod->connect(*link.loop));
    return join_pod(creation, guest, link);
}

os::Result<void> Engine::start_relay(Creation& creation, const GuestConfig& guest,
                                     const CreateOptions& options) const {
    const ContainerRecord& record = creation.record;
    RelayStart what;
    what.relay.container = record.id;
    what.relay.terminal = record.terminal;
    what.relay.exit_record = root_.container(record.id) + "/exit.json";
    what.console_socket = options.console_socket;
    what.cgroups = record.cgroups;
    proto::CreateRequest request;
    request.set_container_id(record.id);
    request.set_bundle("/run"); // all paths of the configuration are absolute by now
    request.set_spec(to_text(guest.spec));
    what.streams = options.streams;
    set_streams(*request.mutable_streams(), options.streams);
    TRY(what.relay.preserved, preserved_fds(options.preserve_fds));
    for (const PreservedFd& preserved : what.relay.preserved)
        request.mutable_streams()->add_preserved(preserved.kind);
    what.begin = [&](AgentLink& agent) -> os::Result<std::vector<std::string>> {
        TRY(const auto created, agent.call<proto::CreateResponse>("Create", request));
        std::vector<std::string> warnings = guest.warnings;
        warnings.insert(warnings.end(), created.warnings().begin(), created.warnings().end());
        return warnings;
    };
    what.abandon = [&](AgentLink& agent) {
        proto::DeleteRequest all;
        all.set_container_id(record.id);
        all.set_force(true);
        static_cast<void>(
            agent.call<proto::WaitResponse>("Delete", all, Pod::usual_patience()).has_value());
    };
    if (options.vm_ends_with_programs)
        what.ended = [&] { creation.pod->end_unless_used(root_, record.id); };
    TRY(creation.relay, StartedRelay::start(*creation.pod, what));
    creation.record.process = creation.relay->process();
    return {};
}

os::Result<void> Engine::build(Creation& creation, const Json& config,
                               const CreateOptions& options) {
    describe(creation, config, options);
    TRY(GuestConfig guest, make_guest_config(config, options.bundle));
    if (options.listen_fds != 0) {
        Json& env = guest.spec["process"]["env"];
        env.push_back(os::text("LISTEN_FDS=", options.listen_fds));
        env.push_back("LISTEN_PID=1");
    }
    ContainerRecord& record = creation.record;
    record.rootfs = guest.sources.front().path;
    TRY(enter_pod(creation, config, guest, options));
    TRY(start_relay(creation, guest, options));
    const std::string state = to_text(state_json(record, "creating", record.process.pid));
    creation.has_poststop = true;
    for (const char* kind : {"prestart", "createRuntime", "createContainer"})
        TRY(run_hooks(record.hooks, kind, state));
    if (!options.pid_file.empty())
        TRY(write_quickly(options.pid_file, std::to_string(record.process.pid)));
    TRY(record.store(root_));
    ::unlink((root_.container(record.id) + "/begun.json").c_str());
    return creation.relay->commit();
}

void Engine::undo(Creation& creation) {
    const ContainerRecord& record = creation.record;
    if (creation.relay) {
        const ProcessId process = creation.relay->process();
        creation.relay.reset(); // it sees the end of the channel, and undoes its part
        const auto patience = Pod::usual_patience();
        if (!process.wait_for_end(patience))
            static_cast<void>(process.kill_and_wait(patience));
    }
    if (creation.has_poststop)
        static_cast<void>(
            run_hooks(record.hooks, "poststop", to_text(state_json(record, "stopped", 0)))
                .has_value());
    clean_up(record);
}

// What a container has on the host.
void Engine::clean_up(const ContainerRecord& record) {
    if (const auto pod = Pod::open(root_, record.pod)) {
        const auto held = pod->lock();
        if (record.pod == record.id)
            pod->remove(patience_);
        else
            pod->unshare(root_, record.shared, record.id);
    }
    remove_cgroups(record.cgroups);
    static_cast<void>(remove_tree(root_.container(record.id)).has_value());
}

// Takes away what a creation left that did not live to its end. Requires: the container's lock.
void Engine::clean_up_begun(const std::string& id) {
    auto begun = ContainerRecord::load_begun(root_, id);
    if (!begun) {
        ContainerRecord unknown; // a pod of its own, if anything
        unknown.id = id;
        unknown.pod = id;
        return clean_up(unknown);
    }
    if (begun->pod != begun->id)
        forget_in_guest(*begun);
    clean_up(*begun);
}

os::Result<ContainerState> Engine::state(const std::string& id) const {
    ContainerState out;
    TRY(out.record, ContainerRecord::load(root_, id));
    out.exit = ExitRecord::load(root_.container(id) + "/exit.json");
    if (out.exit || !out.record.process.is_alive())
        out.status = ContainerStatus::Stopped;
    else if (out.record.paused)
        out.status = ContainerStatus::Paused;
    else
        out.status = out.record.started ? ContainerStatus::Running : ContainerStatus::Created;
    return out;
}

std::vector<ContainerState> Engine::list() const {
    std::vector<ContainerState> out;
    for (const std::string& id : root_.containers()) {
        if (auto one = state(id))
            out.push_back(std::move(*one));
    }
    return out;
}

} // namespace pod
