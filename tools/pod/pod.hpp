// Pod: one VM with its agent, and what of the host the guest sees.
#pragma once

#include <memory>
#include <string>

#include "tools/pod/agent_link.hpp"
#include "tools/pod/records.hpp"
#include "tools/pod/vm_process.hpp"

namespace pod {

class Pod {
public:
    static std::chrono::milliseconds patience_for_boot() {
        return pod::patience(std::chrono::seconds(120));
    }
    static std::chrono::milliseconds usual_patience() {
        return pod::patience(std::chrono::seconds(10));
    }

    // Starts the VM and waits for its agent. Whatever was left of a pod of that name is removed.
    static os::Result<Pod> start(const StateRoot& root, const std::string& id, VmConfig config);
    // One that is there; its VM may have ended.
    static os::Result<Pod> open(const StateRoot& root, const std::string& id);

    const std::string& id() const { return id_; }
    const std::string& directory() const { return directory_; }
    const ProcessId& vm() const { return vm_; }
    bool is_running() const { return vm_.is_alive(); }
    os::Result<std::unique_ptr<AgentLink>> connect(os::EventLoop& loop) const {
        return connect(loop, patience_for_boot());
    }
    os::Result<std::unique_ptr<AgentLink>> connect(os::EventLoop& loop,
                                                   std::chrono::milliseconds limit) const;

    // Where a directory or file of the host will be in the share; what is shown already, and by a
    // mount that allows as much, is shown once, unless it is to be `alone`: then all see the same.
    // Requires: the pod's lock.
    struct Wanted {
        std::string source;
        bool read_only = false;
        bool recursive = false;
        bool alone = false;
    };
    struct Place {
        Shared shared;
        bool fresh = false; // share() is still to be called
    };
    os::Result<Place> place_for(const StateRoot& root, const Wanted& wanted) const;
    // Shows them to the guest, while that runs. Requires: the pod's lock.
    struct Showing {
        Shared shared;
        std::string source;
        bool recursive = false;
    };
    os::Result<void> share(const std::vector<Showing>& all) const;
    // Takes away what none of the pod's other containers uses, or is about to use. Requires: the
    // pod's lock.
    void unshare(const StateRoot& root, const std::vector<Shared>& shared,
                 const std::string& except) const;

    // Ends the VM; gently if it listens, and if that does not take longer than `patience`.
    void end(std::chrono::milliseconds patience = usual_patience()) const;
    // That, if none of its containers but this one runs or is being created. Locks: the pod's.
    void end_unless_used(const StateRoot& root, const std::string& except) const;
    // Ends the VM, and removes all that is known of the pod.
    void remove(std::chrono::milliseconds patience = usual_patience()) const;
    os::Result<Lock> lock() const { return Lock::take(directory_ + "/lock"); }

private:
    Pod(std::string id, std::string directory, ProcessId vm)
        : id_(std::move(id)), directory_(std::move(directory)), vm_(vm) {}
    std::string id_;
    std::string directory_;
    ProcessId vm_;
    // Of a VM that is being started: its agent says here that it listens.
    std::shared_ptr<os::UniqueFd> ready_;
};

// Where to find it in the guest.
std::string guest_path(const Shared& shared);

} // namespace pod
