#include "tools/pod/guest_config.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

namespace pod {

namespace {

constexpr std::array<std::uint32_t, 9> interfaces = {
    PROC_SUPER_MAGIC, SYSFS_MAGIC,   CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC,
    DEBUGFS_MAGIC,    TRACEFS_MAGIC, SECURITYFS_MAGIC,   BPF_FS_MAGIC};

bool has(const std::vector<std::string>& list, std::string_view wanted) {
    return std::find(list.begin(), list.end(), wanted) != list.end();
}

// Takes a label of a security module of the host away: inside there is none.
void drop_label(Json& object, const char* name, std::vector<std::string>& warnings) {
    if (!string_of(object, name).empty())
        warnings.push_back(os::text(name, ": labels are the host's, the guest has none"));
    object.erase(name);
}

void translate_namespaces(Json& linux_part, GuestConfig& out) {
    Json* list = find(linux_part, "namespaces");
    if (list == nullptr || !list->is_array())
        return;
    Json kept = Json::array();
    for (Json& item : *list) {
        const std::string type = string_of(item, "type");
        const std::string path = string_of(item, "path");
        // The pod's network is the VM's.
        if (type == "network") {
            out.own_network = true;
            out.network_namespace = path;
            continue;
        }
        if (!path.empty()) {
            // The host's namespace of this kind is the one of the pod's first container.
            if (type == "ipc" || type == "uts" || type == "pid")
                out.pod_namespaces.push_back(type);
            continue;
        }
        kept.push_back(std::move(item));
    }
    *list = std::move(kept);
}

void translate_sysctls(Json& linux_part, GuestConfig& out) {
    for (const auto& [name, value] : string_map_of(linux_part, "sysctl")) {
        if (name.starts_with("net.") || name.starts_with("net/")) {
            out.pod_sysctls[name] = value;
            linux_part["sysctl"].erase(name);
        }
    }
}

os::Result<void> translate_linux(Json& config, GuestConfig& out) {
    Json* linux_part = find(config, "linux");
    if (linux_part == nullptr || !linux_part->is_object())
        return {};
    translate_namespaces(*linux_part, out);
    translate_sysctls(*linux_part, out);
    drop_label(*linux_part, "mountLabel", out.warnings);
    if (find(*linux_part, "intelRdt") != nullptr)
        out.warnings.emplace_back(
            "linux.intelRdt: caches of the host are not the guest's to divide");
    linux_part->erase("intelRdt");
    // In the guest, a container's group is named after it.
    linux_part->erase("cgroupsPath");
    if (Json* resources = find(*linux_part, "resources"); resources != nullptr) {
        TRY(out.block_io, BlockIo::take(*resources));
    }
    return {};
}

os::Result<void> translate_mount(Json& mount, std::size_t number, const std::string& bundle,
                                 const Classify& classify, GuestConfig& out) {
    const std::vector<std::string> options = strings_of(mount, "options");
    const std::string type = string_of(mount, "type");
    const bool recursive = has(options, "rbind") || type == "rbind";
    if (!recursive && !has(options, "bind") && type != "bind")
        return {};
    std::string source = string_of(mount, "source");
    if (source.empty())
        return os::fail(os::Code::InvalidArgument, "mounts[", number, "]: source is missing");
    if (source[0] != '/')
        source = os::text(bundle, "/", source);
    switch (classify(source, string_of(mount, "destination"))) {
    case SourceKind::Missing:
        return os::fail(os::Code::NotFound, "mounts[", number, "]: ", source,
                        ": no such file or directory");
    case SourceKind::Interface:
        return {};
    case SourceKind::SharedMemory:
        mount["source"] = "/dev/shm"; // the pod's own
        return {};
    case SourceKind::Files:
        break;
    }
    out.sources.push_back(
        {source, recursive, has(options, "ro") || has(options, "rro"), number, false});
    return {};
}

os::Result<void> translate_root(const Json& config, const std::string& bundle, GuestConfig& out) {
    const Json* root = find(config, "root");
    std::string path = root != nullptr ? string_of(*root, "path") : std::string();
    if (path.empty())
        return os::fail(os::Code::InvalidArgument, "root.path is missing");
    if (path[0] != '/')
        path = os::text(bundle, "/", path);
    // Writable even if the container's is not: places for mounts may have to be made first.
    out.sources.push_back({path, true, false, 0, true});
    return {};
}

// On the host stay those that the specification runs in the runtime's own namespaces.
void translate_hooks(Json& config) {
    Json* hooks = find(config, "hooks");
    if (hooks == nullptr || !hooks->is_object())
        return;
    for (const char* name :
         {"prestart", "createRuntime", "createContainer", "poststart", "poststop"})
        hooks->erase(name);
}

} // namespace

SourceKind kind_of_source(const std::string& path, const std::string& destination) {
    struct stat about {};
    struct statfs system {};
    if (::stat(path.c_str(), &about) != 0 || ::statfs(path.c_str(), &system) != 0)
        return SourceKind::Missing;
    if (S_ISCHR(about.st_mode) || S_ISBLK(about.st_mode))
        return SourceKind::Interface;
    const auto is_magic = [&](auto magic) {
        return static_cast<std::uint32_t>(magic) == static_cast<std::uint32_t>(system.f_type);
    };
    if (std::any_of(interfaces.begin(), interfaces.end(), is_magic))
        return SourceKind::Interface;
    if (destination == "/dev/shm" && is_magic(TMPFS_MAGIC))
        return SourceKind::SharedMemory;
    return SourceKind::Files;
}

void make_guest_process(Json& process, std::vector<std::string>& warnings) {
    if (!process.is_object())
        return;
    drop_label(process, "apparmorProfile", warnings);
    drop_label(process, "selinuxLabel", warnings);
}

os::Result<GuestConfig> make_guest_config(Json config, const std::string& bundle,
                                          const Classify& classify) {
    GuestConfig out;
    TRY(translate_root(config, bundle, out));
    if (Json* mounts = find(config, "mounts"); mounts != nullptr && mounts->is_array()) {
        std::size_t number = 0;
        for (Json& mount : *mounts)
            TRY(translate_mount(mount, number++, bundle, classify, out));
    }
    if (Json* process = find(config, "process"))
        make_guest_process(*process, out.warnings);
    TRY(translate_linux(config, out));
    translate_hooks(config);
    out.spec = std::move(config);
    return out;
}

void GuestConfig::place(const Source& source, const std::string& path) {
    if (source.is_root)
        spec["root"]["path"] = path;
    else
        spec["mounts"][source.mount]["source"] = path;
}

void GuestConfig::join(unsigned pid) {
    for (const std::string& kind : pod_namespaces)
        spec["linux"]["namespaces"].push_back(
            Json{{"type", kind}, {"path", os::text("/proc/", pid, "/ns/", kind)}});
}

} // namespace pod
