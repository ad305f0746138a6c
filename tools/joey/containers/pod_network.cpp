#include "tools/joey/containers/pod_network.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>

#include "agent/os/files.hpp"
#include "tools/joey/network.hpp"
#include "tools/pod/pod.hpp"

namespace joey::containers {

namespace {

os::Result<pod::Lock> lock_pods(const Registry& registry) {
    return pod::Lock::take(registry.path() + "/pods.lock");
}

// Every user of the container reads these; each start makes them anew.
os::Result<void> write_for_all(const std::string& path, std::string_view text) {
    constexpr unsigned for_all = 0644;
    return pod::write_quickly(path, text, for_all);
}

os::Result<pod::VmConfig> vm_config(const Container& container) {
    pod::VmConfig out;
    out.memory = container.vm_memory;
    if (!container.privilege.empty())
        out.privilege = container.privilege;
    if (!container.vm_cpus.empty())
        out.cpus = static_cast<unsigned>(std::atoi(container.vm_cpus.c_str()));
    out.options = container.vm_options;
    return out;
}

} // namespace

namespace {

os::Result<void> copy_files(const std::string& from, const std::string& to) {
    for (const char* name : {"/hosts", "/resolv.conf", "/hostname"}) {
        TRY(const std::string text, os::read_file(AT_FDCWD, (from + name).c_str()));
        TRY(write_for_all(to + name, text));
    }
    return {};
}

} // namespace

os::Result<void> write_network_files(const Registry& registry, const Container& container,
                                     const std::string& directory) {
    boot::GuestNetwork guest;
    if (container.network.starts_with("container:")) {
        TRY(const Container other,
            registry.find(container.network.substr(std::string_view("container:").size())));
        return copy_files(registry.directory(other), directory);
    }
    if (container.network == "user") {
        RawNetworkOptions raw;
        raw.dns = container.dns;
        const auto options = interpret_network(raw);
        if (!options)
            return os::fail(os::Code::InvalidArgument, options.error().line);
        guest = plan_user_network(*options, {}, container.hostname);
    } else {
        guest.hosts = os::text("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t",
                               container.hostname, "\n");
    }
    for (const std::string& line : container.hosts)
        guest.hosts += line + "\n";
    TRY(write_for_all(directory + "/hosts", guest.hosts));
    for (const std::string& line : container.resolver)
        guest.resolv_conf += line + "\n";
    TRY(write_for_all(directory + "/resolv.conf", guest.resolv_conf));
    return write_for_all(directory + "/hostname", container.hostname + "\n");
}

os::Result<void> join_pod(Registry& registry, const Container& container) {
    if (container.pod.empty())
        return {};
    TRY(const pod::Lock held, lock_pods(registry));
    const pod::StateRoot& root = registry.engine().root();
    if (const auto running = pod::Pod::open(root, container.pod); running && running->is_running())
        return {};
    // It is another container's VM.
    if (const auto owner = registry.find(container.pod); owner && owner->id == container.pod)
        return os::fail(os::Code::FailedPrecondition, "container ", owner->name,
                        ", whose VM this one shares, is not running");
    TRY(root.make());
    TRY(const pod::VmConfig config, vm_config(container));
    TRY(pod::Pod::start(root, container.pod, config));
    return {};
}

void leave_pod(Registry& registry, const Container& container) {
    const auto held = lock_pods(registry);
    // It has ended, so that it could be started again meanwhile, in the same VM.
    if (registry.peek(container).is_live())
        return;
    for (const Container& other : registry.list()) {
        if (other.id == container.pod)
            return; // the VM is that one's
        if (other.pod == container.pod && other.id != container.id &&
            registry.peek(other).is_live())
            return;
    }
    if (const auto pod = pod::Pod::open(registry.engine().root(), container.pod))
        pod->remove();
}

} // namespace joey::containers
