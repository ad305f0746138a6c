// OCI hooks: programs that are told the container's state on their standard input.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

#include "agent/os/error.hpp"
#include "agent/spec/spec.hpp"

namespace container {

// The state as the runtime-spec has it.
struct HookState {
    std::string oci_version;
    std::string id;
    std::string bundle;
    std::map<std::string, std::string> annotations;

    std::string json(std::string_view status, pid_t pid) const;
};

// Runs them in order and stops at the first that fails. Blocks; for the agent's short-lived
// processes.
os::Result<void> run_hooks(const std::vector<spec::Hook>& hooks, const std::string& state);
// Those of what is gone: each has something to clean up, whatever came of the ones before it.
void run_every_hook(const std::vector<spec::Hook>& hooks, const std::string& state);

} // namespace container
