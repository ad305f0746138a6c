// The steps that copying to directories and copying to archives are made of.
#pragma once

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <string>

#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/joey/containers/copy.hpp"

namespace joey::containers::copying {

// Descriptors are held for each level.
constexpr int deepest = 200;
constexpr std::size_t piece = 256U << 10;

// errno, with what it is about.
base::Failure<os::Error> failed(const std::string& name);
os::Result<struct stat> about(int fd, const std::string& name);
// For use what was opened by O_PATH, so that nothing was done by opening it.
os::Result<os::UniqueFd> reopen(int fd, int flags, const std::string& name);
os::Result<std::string> read_link(int fd, const std::string& name);
bool is_directory(int fd);

// Where something is to be made: a name in an open directory.
struct Target {
    int directory = -1;
    std::string name;
    std::string place; // in what is copied to
};
// A file that is there goes.
os::Result<void> clear(const Target& target);

// The parts of a path before and after its last name; "." and ".." are none.
struct Split {
    std::string parent;
    std::string name;
};
Split split(std::string path);
std::string place_in(const std::string& directory, const std::string& name);

// A directory, to be written to.
os::Result<os::UniqueFd> open_mounted(const Mount& mounted, const std::string& place);
// By O_PATH, following nothing out of `root`.
os::Result<os::UniqueFd> open_node(int root, const std::string& path);

// Calls `each(name, node)` for what is in the directory `from`, which is at `place` of what is
// copied; where something is mounted, with that.
template <typename Each>
os::Result<void> for_each_in(int from, const std::string& place, const Below& below, Each each) {
    auto names = image::list_names(from);
    if (!names)
        return os::fail_errno(names.error(), "read a directory");
    // Where it has never been mounted, its place may be missing.
    for (const auto& [path, node] : below) {
        const Split split_path = split(path);
        const std::string parent = split_path.parent == "." ? "" : split_path.parent;
        if (parent == place &&
            std::find(names->begin(), names->end(), split_path.name) == names->end())
            names->push_back(split_path.name);
    }
    for (const std::string& name : *names) {
        const auto mounted = below.find(place_in(place, name));
        if (mounted != below.end()) {
            TRY(each(name, mounted->second.node.get()));
            continue;
        }
        const os::UniqueFd node(::openat(from, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
        if (!node && errno == ENOENT)
            continue; // gone meanwhile
        if (!node)
            return failed(name);
        TRY(each(name, node.get()));
    }
    return {};
}

} // namespace joey::containers::copying
