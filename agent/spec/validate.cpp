// Rules that bind parts of a configuration to each other.
#include <algorithm>
#include <array>
#include <sched.h>

#include <linux/sched.h>
#include <sys/mount.h>

#include "agent/spec/parts.hpp"

namespace spec {

namespace {

base::Failure<os::Error> wrong(std::string_view name, std::string_view why) {
    return os::fail(os::Code::InvalidArgument, name, ": ", why);
}

os::Result<void> check_namespaces(const Spec& spec) {
    const Linux& part = spec.linux_part;
    if (part.find(CLONE_NEWNS) == nullptr)
        return wrong("linux.namespaces", "a container needs a mount namespace");
    const bool new_user = part.is_new(CLONE_NEWUSER);
    if (new_user && (part.uid_mappings.empty() || part.gid_mappings.empty()))
        return wrong("linux.uidMappings", "a new user namespace needs uidMappings and gidMappings");
    if (!new_user && part.find(CLONE_NEWUSER) == nullptr &&
        (!part.uid_mappings.empty() || !part.gid_mappings.empty()))
        return wrong("linux.uidMappings", "there are mappings without a user namespace");
    if (!part.time_offsets.empty() && !part.is_new(CLONE_NEWTIME))
        return wrong("linux.timeOffsets", "there are offsets without a new time namespace");
    const bool uts = part.find(CLONE_NEWUTS) != nullptr;
    if (!spec.hostname.empty() && !uts)
        return wrong("hostname", "cannot be set without a uts namespace of the container's own");
    if (!spec.domainname.empty() && !uts)
        return wrong("domainname", "cannot be set without a uts namespace of the container's own");
    if (spec.hostname.size() > 64 || spec.domainname.size() > 64)
        return wrong(spec.hostname.size() > 64 ? "hostname" : "domainname",
                     "is longer than 64 bytes");
    return {};
}

constexpr std::array ipc_sysctls = {"kernel.msgmax", "kernel.msgmnb",         "kernel.msgmni",
                                    "kernel.sem",    "kernel.shmall",         "kernel.shmmax",
                                    "kernel.shmmni", "kernel.shm_rmid_forced"};

// sysctl(8) takes both, and a name with a slash may have dots in it (an interface's).
std::string dotted_name(const std::string& key) {
    std::string dotted = key;
    if (key.find('/') != std::string::npos) {
        std::replace(dotted.begin(), dotted.end(), '.', '\0');
        std::replace(dotted.begin(), dotted.end(), '/', '.');
    }
    return dotted;
}

// Only what a namespace of the container's own holds: everything else belongs to others as well.
os::Result<void> check_sysctl(const Linux& part, const std::string& key) {
    const std::string dotted = dotted_name(key);
    const std::string name = os::text("linux.sysctl[", quote(key), "]");
    if (os::text("/", key, "/").find("/../") != std::string::npos || dotted.empty() ||
        dotted.find("..") != std::string::npos || dotted[0] == '.')
        return wrong(name, "is no name of a sysctl");
    if (dotted == "kernel.hostname")
        return wrong(name, "is set by hostname");
    const int needed = namespace_of_sysctl(key);
    if (needed == 0)
        return wrong(name, "does not belong to a namespace");
    if (part.find(needed) == nullptr)
        return wrong(name, os::text("needs a ", namespace_name(needed),
                                    " namespace of the container's own"));
    return {};
}

// What a mount inside /proc could pretend to be (runc allows the same; lxcfs mounts these).
constexpr std::array allowed_in_proc = {"/proc/cpuinfo",
                                        "/proc/diskstats",
                                        "/proc/meminfo",
                                        "/proc/stat",
                                        "/proc/swaps",
                                        "/proc/uptime",
                                        "/proc/loadavg",
                                        "/proc/slabinfo",
                                        "/proc/net/dev",
                                        "/proc/sys/kernel/ns_last_pid",
                                        "/proc/sys/crypto/fips_enabled"};

os::Result<void> check_mounts(const Spec& spec) {
    for (const Mount& mount : spec.mounts) {
        const std::string& destination = mount.destination;
        if (destination == "/")
            return wrong(mount.path, "destination: the root is not mounted over");
        if (destination == "/proc" && mount.type != "proc" && mount.type != "bind")
            return wrong(mount.path, "destination: only proc can be mounted at /proc");
        if (destination.starts_with("/proc/") &&
            std::find(allowed_in_proc.begin(), allowed_in_proc.end(), destination) ==
                allowed_in_proc.end())
            return wrong(mount.path, "destination: nothing is mounted inside of /proc");
    }
    return {};
}

bool maps(const std::vector<IdMapping>& mappings, std::uint32_t id) {
    return std::any_of(mappings.begin(), mappings.end(), [id](const IdMapping& mapping) {
        return id >= mapping.container_id && id - mapping.container_id < mapping.size;
    });
}

os::Result<void> check_process(const Spec& spec) {
    if (!spec.process)
        return {};
    const Linux& part = spec.linux_part;
    const User& user = spec.process->user;
    // Root inside builds the container.
    if (!part.uid_mappings.empty() && (!maps(part.uid_mappings, 0) || !maps(part.gid_mappings, 0)))
        return wrong("linux.uidMappings, linux.gidMappings", "must map root, 0");
    if (!part.uid_mappings.empty() && !maps(part.uid_mappings, user.uid))
        return wrong("process.user.uid", "linux.uidMappings does not map it");
    if (!part.gid_mappings.empty() && !maps(part.gid_mappings, user.gid))
        return wrong("process.user.gid", "linux.gidMappings does not map it");
    return {};
}

} // namespace

int namespace_of_sysctl(const std::string& key) {
    const std::string dotted = dotted_name(key);
    if (dotted == "kernel.domainname")
        return CLONE_NEWUTS;
    if (dotted.starts_with("net."))
        return CLONE_NEWNET;
    if (dotted.starts_with("fs.mqueue.") ||
        std::find(ipc_sysctls.begin(), ipc_sysctls.end(), dotted) != ipc_sysctls.end())
        return CLONE_NEWIPC;
    return 0;
}

std::string clean_path(std::string_view path) {
    std::string out;
    while (!path.empty()) {
        const std::size_t end = std::min(path.find('/'), path.size());
        const std::string_view part = path.substr(0, end);
        if (part == "..")
            out.erase(std::min(out.rfind('/'), out.size()));
        else if (!part.empty() && part != ".")
            out += os::text("/", part);
        path.remove_prefix(std::min(end + 1, path.size()));
    }
    return out.empty() ? "/" : out;
}

bool is_clean_absolute(std::string_view path) {
    if (path.empty() || path[0] != '/' || path.ends_with('/'))
        return false;
    return os::text(path, "/").find("/../") == std::string::npos;
}

os::Result<void> validate(const Spec& spec) {
    TRY(check_namespaces(spec));
    for (const auto& [key, value] : spec.linux_part.sysctls)
        TRY(check_sysctl(spec.linux_part, key));
    TRY(check_mounts(spec));
    TRY(check_process(spec));
    for (const auto* paths : {&spec.linux_part.masked_paths, &spec.linux_part.readonly_paths}) {
        for (const std::string& path : *paths) {
            if (path.empty() || path[0] != '/')
                return wrong("linux.maskedPaths, linux.readonlyPaths",
                             os::text(quote(path), " is not absolute"));
        }
    }
    std::string cgroups = os::text("/", spec.linux_part.cgroups_path, "/");
    // "slice:prefix:name" becomes a path as well, with the slice as a directory of it.
    std::replace(cgroups.begin(), cgroups.end(), ':', '/');
    if (cgroups.find("/../") != std::string::npos || cgroups.find("/./") != std::string::npos)
        return wrong("linux.cgroupsPath", "must be free of \"..\"");
    return {};
}

} // namespace spec
