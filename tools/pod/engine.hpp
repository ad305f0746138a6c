// Engine: containers in pods, from their configurations to what is left of them. What joey's
// commands and the shim do with containers, they do by this.
//
//     pod::Engine engine(pod::StateRoot("/run/joey"));
//     TRY(engine.create({.id = "web", .bundle = "/bundles/web"}));
//     TRY(engine.start("web"));
//
// Locks: create, start, remove, pause, resume and update hold the container's; see records.hpp.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/pod/guest_config.hpp"
#include "tools/pod/pod.hpp"
#include "tools/pod/records.hpp"

namespace pod {

enum class ContainerStatus { Created, Running, Paused, Stopped };
std::string_view name_of(ContainerStatus status);

struct ContainerState {
    ContainerRecord record;
    ContainerStatus status = ContainerStatus::Stopped;
    std::optional<ExitRecord> exit;
};

struct CreateOptions {
    std::string id;
    std::string bundle;         // absolute
    std::string console_socket; // with process.terminal
    std::string pid_file;
    std::string pod; // empty: as the configuration's annotations say
    VmConfig vm;     // what the annotations leave open; only of a pod's first container
};

struct ExecOptions {
    std::string container;
    std::string exec_id; // the agent's name for the process; empty: one that was never used
    Json process;
    std::string console_socket;
    std::string pid_file;
    bool detach = false;
};

class Engine {
public:
    explicit Engine(StateRoot root) : root_(std::move(root)) {}

    // The program waits for start(). Its streams are those of this process. The result: warnings.
    os::Result<std::vector<std::string>> create(const CreateOptions& options);
    os::Result<void> start(const std::string& id);
    os::Result<void> kill(const std::string& id, int signal, bool all);
    // `force`: whatever its state, and no error if there is none.
    os::Result<void> remove(const std::string& id, bool force);
    // The status, or 0 at once when detached.
    os::Result<int> exec(const ExecOptions& options);
    os::Result<void> pause(const std::string& id);
    os::Result<void> resume(const std::string& id);
    os::Result<void> update(const std::string& id, const Json& resources);

    os::Result<ContainerState> state(const std::string& id) const;
    std::vector<ContainerState> list() const;
    // Pids in the guest.
    os::Result<std::vector<std::uint32_t>> processes(const std::string& id);
    os::Result<proto::StatsResponse> stats(const std::string& id);

    const StateRoot& root() const { return root_; }

private:
    // A connection and the loop it runs on.
    struct Link {
        std::unique_ptr<os::EventLoop> loop;
        std::unique_ptr<AgentLink> agent;
    };
    struct Creation;

    os::Result<Link> connect(const std::string& pod) const;
    os::Result<Lock> lock(const std::string& id) const;
    os::Result<void> build(Creation& creation, const Json& config, const CreateOptions& options);
    static void describe(Creation& creation, const Json& config, const CreateOptions& options);
    os::Result<void> enter_pod(Creation& creation, const Json& config, GuestConfig& guest,
                               const VmConfig& defaults) const;
    os::Result<void> start_relay(Creation& creation, const GuestConfig& guest,
                                 const CreateOptions& options) const;
    os::Result<void> join_pod(Creation& creation, GuestConfig& guest, Link& link) const;
    os::Result<void> share_sources(Creation& creation, GuestConfig& guest) const;
    void undo(Creation& creation);
    void clean_up(const ContainerRecord& record);
    os::Result<ContainerRecord> running(const std::string& id, const char* refusal) const;

    StateRoot root_;
};

// state of the specification, as hooks and `state` have it.
Json state_json(const ContainerRecord& record, std::string_view status, pid_t pid);

// Which pod a configuration belongs to, by the annotations of CRI engines; the container's own id
// if there are none.
std::string pod_of(const Json& config, const std::string& id);

} // namespace pod
