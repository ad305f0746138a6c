// A container's control group (version 2).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "agent/os/error.hpp"
#include "agent/spec/spec.hpp"

namespace container {

class Cgroup {
public:
    // `root` is the agent's own place in the hierarchy; `path` comes from linux.cgroupsPath, or is
    // the container's id. Nothing is made yet.
    Cgroup(std::string root, std::string_view path);

    const std::string& directory() const { return directory_; }
    // Whether one of the two is, or lies below, the other: killing one would kill the other.
    bool overlaps(const Cgroup& other) const;
    // Makes the group, with the controllers it can have. Refuses one that has processes.
    os::Result<void> make() const;
    os::Result<void> apply(const spec::Resources& resources) const;
    os::Result<void> add(pid_t pid) const;
    // Where that is refused, with `first`: a container that has divided its group (systemd, an
    // engine) has processes in groups below only (cgroup-v2.rst, "No Internal Process Constraint").
    os::Result<void> add_beside(pid_t pid, pid_t first) const;
    os::Result<void> freeze(bool frozen) const;
    // Ends every process of the group and of those below it.
    os::Result<void> kill() const;
    os::Result<std::vector<pid_t>> processes() const;
    // With all that was made below it.
    os::Result<void> remove() const;

    // A file's only line; nothing where the file is missing.
    std::string read(const char* file) const;
    // "key value" by line.
    std::map<std::string, std::uint64_t> read_pairs(const char* file) const;

    // The controllers that containers below `root` can have.
    static std::vector<std::string> controllers(const std::string& root);

private:
    os::Result<void> check_usage(const spec::CgroupSetting& setting) const;
    os::Result<void> make_all(std::vector<std::string>& made) const;

    std::string root_;
    std::string directory_;
};

// "slice:prefix:name", which is how systemd's users name a group, as a path; others unchanged.
std::string path_of_group(std::string_view cgroups_path);

} // namespace container
