// The process of a pod's VM: a joey of its own, detached, in a mount namespace of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/pod/process_id.hpp"

namespace pod {

// Where the guest's network interface leads.
enum class VmNetwork : std::uint8_t {
    Host, // by user-mode networking: the configuration wants the host's network
    None, // there is loopback only
    Pod,  // to the interface that is in the pod's network namespace
};

struct VmConfig {
    std::string directory;        // the pod's; holds root/ and share/
    std::optional<unsigned> cpus; // those of joey do, if absent
    std::string memory;           // the same, if empty
    std::string privilege = "auto";
    VmNetwork network = VmNetwork::Host; // unless the options have a --net
    std::string network_namespace;       // a path; empty: the caller's
    std::vector<std::string> options;    // more options for joey do
    std::vector<std::string> cgroups;    // directories that the process joins
};

// The most memory that joey do gives a VM for which nobody says how much.
inline constexpr std::uint64_t largest_usual_memory = std::uint64_t{4} << 30;

// The names in the guest.
inline constexpr const char* guest_share = "/share";
inline constexpr const char* guest_agent = "/joey-agent";
inline constexpr unsigned agent_port = 1024;
inline constexpr unsigned ready_port = 1025; // of the host, for the agent's word that it listens

// The agent's program, beside joey or where it was built or installed.
os::Result<std::string> find_agent();

// Starts it. Its identity is in DIRECTORY/vm.json before it is anything else than a copy of the
// caller, so that it is found by whoever cleans up.
os::Result<ProcessId> start_vm(const VmConfig& config);

} // namespace pod
