// Control groups of the host, in which a pod's processes run: where an engine put the container is
// where its VM is accounted. The containers' limits are the guest's affair; what is limited here is
// the VM's process, so that even one that was taken over takes no more of the host than it was
// given.
#pragma once

#include <cstdint>
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
// What a VM's processes may need beside the guest's memory: the VMM, KVM's page tables, the relays,
// the files that are being read for it.
inline constexpr std::uint64_t vm_overhead_bytes = std::uint64_t{128} << 20;
// The VMM's threads, the relays of containers and of what is executed in them.
inline constexpr std::uint64_t vm_processes = 1024;
// What the processes there may use together; 0: no limit.
struct HostLimits {
    std::uint64_t memory = 0; // bytes
    std::uint64_t cpus = 0;
    std::uint64_t processes = 0; // and threads
};
// Where there is a controller for it. Best effort: a hierarchy without it does not keep the VM from
// its start.
void limit_cgroups(const std::vector<std::string>& directories, const HostLimits& limits);
// Version 2: each group on the way gives the controller ("+io") to those below.
void delegate_controller(const std::string& directory, const char* controller);
void join_cgroups(const std::vector<std::string>& directories);
// Once their processes have gone.
void remove_cgroups(const std::vector<std::string>& directories);

} // namespace pod
