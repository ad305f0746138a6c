// The mount namespace of a VM's process: what the guest is to see is mounted there, beneath the
// pod's share, and nowhere else. The mounts end with the process, whatever ends it.
#pragma once

#include <span>
#include <string>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"
#include "tools/pod/process_id.hpp"

namespace pod {

// In the process that will be the VM's: a mount namespace of its own, in which only the mounts on
// the way to `needed` are left. The others would be kept busy for as long as the VM runs.
os::Result<void> enter_private_mounts(std::span<const std::string> needed);

// In that process: nothing can be made, changed or removed in `directory` itself any more, from
// there on down to what is mounted in it later, which has rights of its own.
os::Result<void> seal_directory(const std::string& directory);
// A copy of what is at `source` on the host, mounts below it too if `recursive`; nobody's yet.
os::Result<os::UniqueFd> copy_of_mount(const std::string& source, bool recursive, bool read_only);
struct MountCopy {
    os::UniqueFd tree;
    std::string target; // is there already
};
// Mounts all of them in the namespace of `process`.
os::Result<void> mount_for(const ProcessId& process, std::span<const MountCopy> copies);

} // namespace pod
