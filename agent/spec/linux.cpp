// The linux object of a configuration, without resources and seccomp.
#include <algorithm>
#include <array>
#include <ctime>
#include <sched.h>

#include <linux/sched.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/stat.h>

#include "agent/spec/parts.hpp"

namespace spec {

namespace {

struct NamespaceName {
    std::string_view name;
    int flag;
};
constexpr std::array namespace_names = {
    NamespaceName{"pid", CLONE_NEWPID},       NamespaceName{"network", CLONE_NEWNET},
    NamespaceName{"mount", CLONE_NEWNS},      NamespaceName{"ipc", CLONE_NEWIPC},
    NamespaceName{"uts", CLONE_NEWUTS},       NamespaceName{"user", CLONE_NEWUSER},
    NamespaceName{"cgroup", CLONE_NEWCGROUP}, NamespaceName{"time", CLONE_NEWTIME},
};

// The kernel takes as many lines (user_namespaces(7)).
constexpr std::size_t max_mappings = 340;

os::Result<std::vector<Namespace>> read_namespaces(const JsonView& linux_view) {
    std::vector<Namespace> out;
    TRY(const JsonView list, linux_view.member("namespaces"));
    TRY(const std::vector<JsonView> items, list.items());
    for (const JsonView& item : items) {
        std::string type;
        Namespace entry;
        TRY(item.read("type", type));
        TRY(item.read("path", entry.path));
        const auto* found =
            std::find_if(namespace_names.begin(), namespace_names.end(),
                         [&](const NamespaceName& known) { return known.name == type; });
        if (found == namespace_names.end())
            return item.wrong("type: there is no namespace ", quote(type));
        entry.flag = found->flag;
        if (!entry.path.empty() && entry.path[0] != '/')
            return item.wrong("path must be absolute");
        if (std::any_of(out.begin(), out.end(),
                        [&](const Namespace& other) { return other.flag == entry.flag; }))
            return item.wrong("the ", type, " namespace is given twice");
        out.push_back(std::move(entry));
    }
    return out;
}

os::Result<std::vector<IdMapping>> read_mappings(const JsonView& linux_view, const char* name) {
    std::vector<IdMapping> out;
    TRY(const JsonView list, linux_view.member(name));
    TRY(const std::vector<JsonView> items, list.items());
    if (items.size() > max_mappings)
        return list.wrong("the kernel takes ", max_mappings, " mappings at most");
    for (const JsonView& item : items) {
        IdMapping mapping;
        TRY(item.read("containerID", mapping.container_id));
        TRY(item.read("hostID", mapping.host_id));
        TRY(item.read("size", mapping.size));
        if (mapping.size == 0)
            return item.wrong("size must be 1 or more");
        out.push_back(mapping);
    }
    return out;
}

os::Result<std::vector<TimeOffset>> read_time_offsets(const JsonView& linux_view) {
    std::vector<TimeOffset> out;
    TRY(const JsonView view, linux_view.member("timeOffsets"));
    TRY(const auto members, view.members());
    for (const auto& [name, entry] : members) {
        TimeOffset offset;
        std::optional<std::int64_t> seconds;
        TRY(entry.read("secs", seconds));
        TRY(entry.read("nanosecs", offset.nanoseconds));
        offset.seconds = seconds.value_or(0);
        if (name != "monotonic" && name != "boottime")
            return entry.wrong("there are offsets of \"monotonic\" and \"boottime\" only");
        if (offset.nanoseconds > 999'999'999)
            return entry.wrong("nanosecs must be less than 1000000000");
        offset.clock = name == "monotonic" ? CLOCK_MONOTONIC : CLOCK_BOOTTIME;
        out.push_back(offset);
    }
    return out;
}

os::Result<Device> read_device(const JsonView& item) {
    Device device;
    std::string type;
    std::optional<std::uint32_t> major;
    std::optional<std::uint32_t> minor;
    TRY(item.read("path", device.path));
    TRY(item.read("type", type));
    TRY(item.read("major", major));
    TRY(item.read("minor", minor));
    TRY(item.read("fileMode", device.mode));
    TRY(item.read("uid", device.uid));
    TRY(item.read("gid", device.gid));
    if (type == "c" || type == "u")
        device.type = S_IFCHR;
    else if (type == "b")
        device.type = S_IFBLK;
    else if (type == "p")
        device.type = S_IFIFO;
    else
        return item.wrong("type must be \"c\", \"b\", \"u\" or \"p\"");
    if (device.type != S_IFIFO && (!major || !minor))
        return item.wrong("major and minor are missing");
    device.major = major.value_or(0);
    device.minor = minor.value_or(0);
    // Go's os.FileMode has bits of its own above the permissions.
    device.mode &= 0777;
    if (!is_clean_absolute(device.path))
        return item.wrong("path must be absolute and free of \"..\"");
    return device;
}

os::Result<std::vector<Device>> read_devices(const JsonView& view) {
    std::vector<Device> out;
    TRY(const JsonView devices, view.member("devices"));
    TRY(const std::vector<JsonView> items, devices.items());
    for (const JsonView& item : items) {
        TRY(Device device, read_device(item));
        out.push_back(std::move(device));
    }
    return out;
}

os::Result<void> read_propagation(const JsonView& view, Linux& out) {
    std::string name;
    TRY(view.read("rootfsPropagation", name));
    const std::uint64_t recursive = name.starts_with('r') ? std::uint64_t{MS_REC} : 0;
    const std::string_view plain = std::string_view(name).substr(recursive != 0 ? 1 : 0);
    if (plain == "shared")
        out.rootfs_propagation = MS_SHARED | recursive;
    else if (plain == "slave")
        out.rootfs_propagation = MS_SLAVE | recursive;
    else if (plain == "private")
        out.rootfs_propagation = MS_PRIVATE | recursive;
    else if (plain == "unbindable")
        out.rootfs_propagation = MS_UNBINDABLE | recursive;
    else if (!name.empty())
        return view.wrong("rootfsPropagation: there is no propagation ", quote(name));
    return {};
}

os::Result<void> read_personality(const JsonView& view, Linux& out) {
    TRY(const JsonView personality, view.member("personality"));
    if (!personality.exists())
        return {};
    std::string domain;
    std::vector<std::string> flags;
    TRY(personality.read("domain", domain));
    TRY(personality.read("flags", flags));
    if (!flags.empty())
        return personality.wrong("flags are not supported");
    if (domain == "LINUX")
        out.personality = PER_LINUX;
    else if (domain == "LINUX32")
        out.personality = PER_LINUX32;
    else
        return personality.wrong("domain must be \"LINUX\" or \"LINUX32\"");
    return {};
}

os::Result<void> refuse_what_is_not_here(const JsonView& view) {
    for (const char* name : {"intelRdt", "netDevices", "memoryPolicy"}) {
        TRY(const JsonView member, view.member(name));
        if (member.exists())
            return member.wrong("is not supported");
    }
    std::string label;
    TRY(view.read("mountLabel", label));
    if (!label.empty())
        return view.wrong("mountLabel: this system has no SELinux");
    return {};
}

} // namespace

const Namespace* Linux::find(int flag) const {
    const auto found = std::find_if(namespaces.begin(), namespaces.end(),
                                    [flag](const Namespace& entry) { return entry.flag == flag; });
    return found == namespaces.end() ? nullptr : &*found;
}

bool Linux::is_new(int flag) const {
    const Namespace* found = find(flag);
    return found != nullptr && found->path.empty();
}

std::string_view namespace_name(int flag) {
    const auto* found =
        std::find_if(namespace_names.begin(), namespace_names.end(),
                     [flag](const NamespaceName& known) { return known.flag == flag; });
    return found == namespace_names.end() ? std::string_view() : found->name;
}

namespace {

os::Result<void> read_isolation(const JsonView& view, Linux& out) {
    TRY(out.namespaces, read_namespaces(view));
    TRY(out.uid_mappings, read_mappings(view, "uidMappings"));
    TRY(out.gid_mappings, read_mappings(view, "gidMappings"));
    TRY(out.time_offsets, read_time_offsets(view));
    TRY(view.read("cgroupsPath", out.cgroups_path));
    TRY(view.read("maskedPaths", out.masked_paths));
    TRY(view.read("readonlyPaths", out.readonly_paths));
    TRY(view.read("sysctl", out.sysctls));
    return {};
}

} // namespace

os::Result<Linux> read_linux(const JsonView& view) {
    Linux out;
    TRY(read_isolation(view, out));
    TRY(read_propagation(view, out));
    TRY(read_personality(view, out));
    TRY(refuse_what_is_not_here(view));
    TRY(out.devices, read_devices(view));
    TRY(const JsonView resources, view.member("resources"));
    TRY(out.resources, read_resources(resources));
    TRY(const JsonView seccomp, view.member("seccomp"));
    if (seccomp.exists()) {
        TRY(out.seccomp, read_seccomp(seccomp));
    }
    return out;
}

} // namespace spec
