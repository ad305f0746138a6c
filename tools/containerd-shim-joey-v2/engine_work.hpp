// What workers do with the engine of pods: each a function for Workers::run().
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "tools/containerd-shim-joey-v2/messages.hpp"
#include "tools/containerd-shim-joey-v2/settings.hpp"
#include "tools/pod/engine.hpp"

namespace shim {

// Where the pods of a namespace are.
std::string state_root(const std::string& name_space);

struct CreateWork {
    std::string id;
    std::string pod;
    std::string bundle;
    std::vector<Mount> mounts;
    std::string console_socket;
    Settings settings;
};
struct Created {
    pid_t pid = 0;
    std::vector<std::string> warnings;

    std::string to_text() const;
    static os::Result<Created> parse(const std::string& text);
};
// The answer is a Created.
os::Result<std::string> create(const std::string& root, const CreateWork& work);

struct ExecWork {
    std::string id;
    std::string bundle;
    std::string agent_id;
    pod::Json spec;
    std::string console_socket;
};
os::Result<std::string> execute(const std::string& root, const ExecWork& work);

// Whatever its state: the container ends, and nothing of it stays. Neither does a pod whose first
// container was forgotten before it, see forget().
os::Result<std::string> remove(const std::string& root, const std::string& id,
                               const std::string& rootfs,
                               std::chrono::milliseconds patience = pod::Pod::usual_patience());
// What nobody will ask for again: containers whose bundles containerd has removed without a word to
// a shim, as it does when one is killed at the wrong moment.
os::Result<std::string> sweep(const std::string& root);

// Whether there are containers in the pod beside the one it began with.
bool has_others(const pod::StateRoot& state, const std::string& pod);

// A pod's first container, which ends, when others live on: the VM, which is known by its
// name, stays for them.
os::Result<std::string> forget(const std::string& root, const std::string& id,
                               const std::string& rootfs);

} // namespace shim
