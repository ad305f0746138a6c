#include "agent/container/cgroup.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>

#include <sys/stat.h>

#include "agent/os/files.hpp"
#include "agent/os/unique_fd.hpp"

namespace container {

namespace {

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> out;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find(separator), text.size());
        if (end > 0)
            out.emplace_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

std::string trimmed(std::string text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' '))
        text.pop_back();
    return text;
}

std::vector<std::string> groups_in(int directory) {
    std::vector<std::string> out;
    const int again = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* listing = again < 0 ? nullptr : fdopendir(again);
    if (listing == nullptr)
        return out;
    while (const dirent* entry = readdir(listing)) {
        const std::string_view name = entry->d_name;
        if (entry->d_type == DT_DIR && name != "." && name != "..")
            out.emplace_back(name);
    }
    closedir(listing);
    return out;
}

// Calls `visit` with a directory and the name in it, for each group below `top`, the deepest first,
// and then for `top`. A container may have made groups deeper than a path is long, or than there
// are descriptors: one is open at a time.
template <typename Visit>
void for_each_group(const std::string& top, const Visit& visit) {
    struct Level {
        std::string name;
        std::vector<std::string> below;
    };
    constexpr int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    os::UniqueFd here(open(top.c_str(), flags));
    if (!here)
        return;
    std::vector<Level> way;
    way.push_back({"", groups_in(here.get())});
    for (;;) {
        if (!way.back().below.empty()) {
            std::string name = std::move(way.back().below.back());
            way.back().below.pop_back();
            os::UniqueFd next(openat(here.get(), name.c_str(), flags));
            if (!next)
                continue; // it has gone
            way.push_back({std::move(name), groups_in(next.get())});
            here = std::move(next);
            continue;
        }
        if (way.size() == 1)
            break;
        os::UniqueFd above(openat(here.get(), "..", flags));
        if (!above)
            return;
        visit(above.get(), way.back().name);
        here = std::move(above);
        way.pop_back();
    }
    visit(AT_FDCWD, top);
}

std::vector<pid_t> processes_of(int directory, const std::string& group) {
    std::vector<pid_t> out;
    const auto text = os::read_file(directory, (group + "/cgroup.procs").c_str());
    if (!text)
        return out;
    for (const std::string& line : split(*text, '\n')) {
        pid_t pid = 0;
        std::from_chars(line.data(), line.data() + line.size(), pid);
        if (pid > 0)
            out.push_back(pid);
    }
    return out;
}

// Everything that a group has, it lets its children have.
void pass_controllers_on(const std::string& directory) {
    const auto text = os::read_file(AT_FDCWD, (directory + "/cgroup.controllers").c_str());
    if (!text)
        return;
    for (const std::string& name : split(trimmed(*text), ' ')) {
        // One by one: one that cannot be passed on must not keep the others.
        static_cast<void>(
            os::write_file(AT_FDCWD, (directory + "/cgroup.subtree_control").c_str(), "+" + name));
    }
}

} // namespace

std::string path_of_group(std::string_view cgroups_path) {
    const std::vector<std::string> parts = split(cgroups_path, ':');
    if (parts.size() != 3 || cgroups_path.find('/') != std::string_view::npos)
        return std::string(cgroups_path);
    return os::text(parts[0], "/", parts[1], "-", parts[2], ".scope");
}

Cgroup::Cgroup(std::string root, std::string_view path)
    : root_(std::move(root)), directory_(root_) {
    for (const std::string& part : split(path_of_group(path), '/'))
        directory_ += "/" + part;
}

std::vector<std::string> Cgroup::controllers(const std::string& root) {
    const auto text = os::read_file(AT_FDCWD, (root + "/cgroup.controllers").c_str());
    return text ? split(trimmed(*text), ' ') : std::vector<std::string>();
}

bool Cgroup::overlaps(const Cgroup& other) const {
    const std::string one = directory_ + "/";
    const std::string two = other.directory_ + "/";
    return one.starts_with(two) || two.starts_with(one);
}

os::Result<void> Cgroup::make() const {
    if (directory_ == root_)
        return os::fail(os::Code::InvalidArgument, "names the agent's own group");
    std::vector<std::string> made;
    auto result = make_all(made);
    // The groups of a container that never was are nobody's to remove later.
    for (auto group = made.rbegin(); !result && group != made.rend(); ++group)
        rmdir(group->c_str());
    return result;
}

os::Result<void> Cgroup::make_all(std::vector<std::string>& made) const {
    pass_controllers_on(root_);
    for (std::size_t at = root_.size() + 1; at < directory_.size();) {
        const std::size_t end = std::min(directory_.find('/', at), directory_.size());
        const std::string group = directory_.substr(0, end);
        if (mkdir(group.c_str(), 0755) == 0)
            made.push_back(group);
        else if (errno != EEXIST)
            return os::fail_errno(errno, "make the control group ", group);
        if (end < directory_.size())
            pass_controllers_on(group);
        at = end + 1;
    }
    TRY(const std::vector<pid_t> found, processes());
    if (!found.empty())
        return os::fail(os::Code::FailedPrecondition, "the control group ", directory_,
                        " has processes already");
    return {};
}

os::Result<void> Cgroup::check_usage(const spec::CgroupSetting& setting) const {
    std::uint64_t wanted = 0;
    std::uint64_t used = 0;
    const std::string current = read("memory.current");
    std::from_chars(current.data(), current.data() + current.size(), used);
    const auto parsed =
        std::from_chars(setting.value.data(), setting.value.data() + setting.value.size(), wanted);
    // "max" is no number.
    if (setting.file != "memory.max" || parsed.ec != std::errc() || current.empty() ||
        wanted > used)
        return {};
    return os::fail(os::Code::FailedPrecondition, setting.name, ": ", wanted,
                    " is not more than the ", used, " bytes in use");
}

os::Result<void> Cgroup::apply(const spec::Resources& resources) const {
    for (const spec::CgroupSetting& setting : resources.settings) {
        if (resources.check_usage)
            TRY(check_usage(setting));
    }
    for (const spec::CgroupSetting& setting : resources.settings) {
        const std::string file = directory_ + "/" + setting.file;
        if (access(file.c_str(), F_OK) != 0) {
            // Without swap there is nothing to limit or to take away (runc does alike).
            if (setting.file == "memory.swap.max" &&
                (setting.value == "0" || setting.value == "max"))
                continue;
            const std::string controller = setting.file.substr(0, setting.file.find('.'));
            const std::string there = trimmed(read("cgroup.controllers"));
            return os::fail(os::Code::FailedPrecondition, setting.name, ": there is no ",
                            setting.file, " here: of controller ", controller,
                            "; this group has: ", there.empty() ? "none" : there);
        }
        const auto written = os::write_file(AT_FDCWD, file.c_str(), setting.value);
        if (!written)
            return os::fail(written.error().code, setting.name, ": \"", setting.value,
                            "\": ", written.error().message);
    }
    return {};
}

os::Result<void> Cgroup::add(pid_t pid) const {
    return os::write_file(AT_FDCWD, (directory_ + "/cgroup.procs").c_str(), std::to_string(pid));
}

os::Result<void> Cgroup::add_beside(pid_t pid, pid_t first) const {
    auto added = add(pid);
    if (added)
        return added;
    for_each_group(directory_, [&](int directory, const std::string& group) {
        const std::vector<pid_t> found = processes_of(directory, group);
        if (group != directory_ && std::find(found.begin(), found.end(), first) != found.end())
            added =
                os::write_file(directory, (group + "/cgroup.procs").c_str(), std::to_string(pid));
    });
    return added;
}

os::Result<void> Cgroup::freeze(bool frozen) const {
    return os::write_file(AT_FDCWD, (directory_ + "/cgroup.freeze").c_str(), frozen ? "1" : "0");
}

os::Result<void> Cgroup::kill() const {
    if (access(directory_.c_str(), F_OK) != 0)
        return {};
    if (os::write_file(AT_FDCWD, (directory_ + "/cgroup.kill").c_str(), "1"))
        return {};
    // A kernel older than cgroup.kill. Nothing forks while it is frozen.
    static_cast<void>(freeze(true));
    TRY(const std::vector<pid_t> found, processes());
    for (const pid_t pid : found)
        ::kill(pid, SIGKILL);
    return freeze(false);
}

os::Result<std::vector<pid_t>> Cgroup::processes() const {
    std::vector<pid_t> out;
    for_each_group(directory_, [&out](int directory, const std::string& group) {
        const std::vector<pid_t> found = processes_of(directory, group);
        out.insert(out.end(), found.begin(), found.end());
    });
    std::sort(out.begin(), out.end());
    return out;
}

os::Result<void> Cgroup::remove() const {
    int error = 0;
    for_each_group(directory_, [&error](int directory, const std::string& group) {
        error =
            unlinkat(directory, group.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : errno;
    });
    if (error != 0)
        return os::fail_errno(error, "remove the control group ", directory_);
    // Groups above it that were made for it; those of others are not empty and stay.
    std::string parent = directory_;
    for (;;) {
        parent.erase(parent.rfind('/'));
        if (parent.size() <= root_.size() || rmdir(parent.c_str()) != 0)
            return {};
    }
}

std::string Cgroup::read(const char* file) const {
    auto text = os::read_file(AT_FDCWD, os::text(directory_, "/", file).c_str());
    return text ? trimmed(std::move(*text)) : std::string();
}

std::map<std::string, std::uint64_t> Cgroup::read_pairs(const char* file) const {
    std::map<std::string, std::uint64_t> out;
    for (const std::string& line : split(read(file), '\n')) {
        const std::size_t space = line.find(' ');
        if (space == std::string::npos)
            continue;
        std::uint64_t value = 0;
        std::from_chars(line.data() + space + 1, line.data() + line.size(), value);
        out[line.substr(0, space)] = value;
    }
    return out;
}

} // namespace container
