#include "tools/pod/host_cgroup.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <map>
#include <unistd.h>

#include <sys/stat.h>

#include "agent/os/files.hpp"

namespace pod {

namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> out;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find(separator), text.size());
        out.push_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

struct Hierarchy {
    std::string mount;       // where it is mounted
    std::string controllers; // empty: version 2
};

// proc(5), mountinfo: ID parent device root mount options ... - type source options
std::vector<Hierarchy> hierarchies() {
    std::vector<Hierarchy> out;
    constexpr std::size_t most = 64u << 20;
    const auto table = os::read_file(AT_FDCWD, "/proc/self/mountinfo", most);
    if (!table)
        return out;
    for (const std::string_view line : split(*table, '\n')) {
        const std::size_t dash = line.find(" - ");
        if (dash == std::string_view::npos)
            continue;
        const auto place = split(line.substr(0, dash), ' ');
        const auto what = split(line.substr(dash + 3), ' ');
        constexpr std::size_t mount_field = 4;
        if (place.size() <= mount_field || what.size() < 3)
            continue;
        if (what[0] == "cgroup2")
            out.push_back({std::string(place[mount_field]), ""});
        else if (what[0] == "cgroup")
            out.push_back({std::string(place[mount_field]), std::string(what[2])});
    }
    return out;
}

// This process's own group in each hierarchy: lines "id:controllers:path".
std::map<std::string, std::string> own_groups() {
    std::map<std::string, std::string> out;
    const auto text = os::read_file(AT_FDCWD, "/proc/self/cgroup");
    if (!text)
        return out;
    for (const std::string_view line : split(*text, '\n')) {
        const auto fields = split(line, ':');
        if (fields.size() >= 3)
            out[std::string(fields[1])] = std::string(fields[2]);
    }
    return out;
}

std::string own_group(const std::map<std::string, std::string>& groups, const Hierarchy& in) {
    for (const auto& [controllers, path] : groups) {
        if (controllers == in.controllers ||
            (!controllers.empty() && in.controllers.find(controllers) != std::string::npos))
            return path == "/" ? "" : path;
    }
    return "";
}

// systemd.slice(5): "a-b.slice" lies in "a.slice", and "-.slice" is the root.
std::string slice_path(std::string_view slice) {
    constexpr std::string_view ending = ".slice";
    if (!slice.ends_with(ending) || slice == "-.slice")
        return slice == "-.slice" || slice.empty() ? std::string() : os::text("/", slice);
    const std::string_view name = slice.substr(0, slice.size() - ending.size());
    std::string out;
    for (std::size_t dash = name.find('-'); dash != std::string_view::npos;
         dash = name.find('-', dash + 1))
        out += os::text("/", name.substr(0, dash), ending);
    return out + os::text("/", slice);
}

std::string relative_path(std::string_view path) {
    const auto parts = split(path, ':');
    if (parts.size() != 3 || path.find('/') != std::string_view::npos)
        return std::string(path);
    // As runc: without a slice, that of the system.
    const std::string slice = slice_path(parts[0].empty() ? "system.slice" : parts[0]);
    const std::string prefix = parts[1].empty() ? std::string() : os::text(parts[1], "-");
    return os::text(slice, "/", prefix, parts[2], ".scope");
}

bool write_to(const std::string& path, std::string_view text) {
    return os::write_file(AT_FDCWD, path.c_str(), text).has_value();
}

} // namespace

os::Result<std::vector<std::string>> cgroup_places(std::string_view path) {
    std::vector<std::string> places;
    const std::string wanted = relative_path(path);
    if (wanted.empty())
        return places;
    if (os::text("/", wanted, "/").find("/../") != std::string::npos)
        return os::fail(os::Code::InvalidArgument, "linux.cgroupsPath must be free of \"..\"");
    const auto groups = own_groups();
    for (const Hierarchy& in : hierarchies()) {
        // Version 1 takes no process there before its CPUs and nodes are set; the guest's CPUs are
        // divided inside.
        if (in.controllers.find("cpuset") != std::string::npos)
            continue;
        const std::string full =
            wanted[0] == '/' ? wanted : os::text(own_group(groups, in), "/", wanted);
        std::string at = in.mount;
        for (const std::string_view part : split(full, '/')) {
            if (!part.empty())
                at += os::text("/", part);
        }
        places.push_back(at);
    }
    return places;
}

os::Result<void> make_cgroups_at(const std::vector<std::string>& directories) {
    for (const std::string& directory : directories) {
        for (std::size_t end = directory.find('/', 1);; end = directory.find('/', end + 1)) {
            const std::string part = directory.substr(0, end);
            if (::mkdir(part.c_str(), 0755) != 0 && errno != EEXIST && errno != EROFS)
                return os::fail_errno(errno, "make the control group ", part);
            if (end == std::string::npos)
                break;
        }
    }
    return {};
}

os::Result<std::vector<std::string>> make_cgroups(std::string_view path) {
    TRY(std::vector<std::string> places, cgroup_places(path));
    TRY(make_cgroups_at(places));
    return places;
}

void delegate_controller(const std::string& directory, const char* controller) {
    for (std::size_t end = directory.find('/', 1); end != std::string::npos;
         end = directory.find('/', end + 1)) {
        const std::string control = directory.substr(0, end) + "/cgroup.subtree_control";
        if (::access(control.c_str(), W_OK) == 0)
            write_to(control, controller);
    }
}

void limit_cgroups(const std::vector<std::string>& directories, const HostLimits& limits) {
    constexpr std::uint64_t period = 100'000; // microseconds
    const std::string quota = std::to_string(limits.cpus * period);
    struct Setting {
        const char* controller; // of version 2
        const char* file;
        std::string value;
    };
    std::vector<Setting> settings;
    if (limits.memory != 0) {
        settings.push_back({"+memory", "/memory.max", std::to_string(limits.memory)});
        settings.push_back({nullptr, "/memory.limit_in_bytes", settings.back().value});
    }
    if (limits.cpus != 0) {
        settings.push_back({"+cpu", "/cpu.max", os::text(quota, " ", period)});
        settings.push_back({nullptr, "/cpu.cfs_period_us", std::to_string(period)});
        settings.push_back({nullptr, "/cpu.cfs_quota_us", quota});
    }
    if (limits.processes != 0) // in both versions
        settings.push_back({"+pids", "/pids.max", std::to_string(limits.processes)});
    for (const std::string& directory : directories) {
        for (const Setting& setting : settings) {
            if (setting.controller != nullptr)
                delegate_controller(directory, setting.controller);
            if (::access((directory + setting.file).c_str(), F_OK) == 0)
                write_to(directory + setting.file, setting.value);
        }
    }
}

void join_cgroups(const std::vector<std::string>& directories) {
    // A hierarchy that does not take the process leaves it where it is.
    for (const std::string& directory : directories)
        static_cast<void>(
            os::write_file(AT_FDCWD, (directory + "/cgroup.procs").c_str(), "0").has_value());
}

void remove_cgroups(const std::vector<std::string>& directories) {
    for (const std::string& directory : directories) {
        // The last process may be on its way out.
        constexpr int attempts = 50;
        constexpr unsigned between = 10'000; // microseconds
        for (int i = 0; i < attempts && ::rmdir(directory.c_str()) != 0 && errno == EBUSY; ++i)
            ::usleep(between);
    }
}

} // namespace pod
