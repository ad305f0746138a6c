// Control groups of the host, in which a pod's processes run: where an engine put the container is
// where its VM is accounted. The limits themselves are the guest's.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"

namespace pod {

// The group's directory in every hierarchy that is mounted here.
// `path` is linux.cgroupsPath: absolute, or relative to this process's own group, or systemd's
// "slice:prefix:name", for which the scope's directory is made.
os::Result<std::vector<std::string>> cgroup_places(std::string_view path);
os::Result<void> make_cgroups_at(const std::vector<std::string>& directories);
// Both; the result are the directories.
os::Result<std::vector<std::string>> make_cgroups(std::string_view path);
void join_cgroups(const std::vector<std::string>& directories);
// Once their processes have gone.
void remove_cgroups(const std::vector<std::string>& directories);

} // namespace pod
