// Engine: containers in pods, from their configurations to what is left of them. What joey's
// commands and the shim do with containers, they do by this.
//
//     pod::Engine engine(pod::StateRoot("/run/joey"));
//     TRY(engine.create({.id = "web", .bundle = "/bundles/web"}));
//     TRY(engine.start("web"));
//
// No thread is made and a fork is made for each relay: the caller has one thread.
//
// Locks: create, start, remove, pause, resume and update hold the container's; see records.hpp.
#pragma once

#include <array>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tools/pod/guest_config.hpp"
#include "tools/pod/host_cgroup.hpp"
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

// Descriptors for a program's stdin, stdout and stderr, -1 for /dev/null. Its relay has copies of
// them, and closes them with its end; the caller may close his own at once. A fifo is opened by the
// caller: for stdin with O_RDONLY | O_NONBLOCK (end of file counts when its last writer has gone),
// for the others with O_RDWR if nobody may be reading yet. With process.terminal and no console
// socket, the first two carry what the terminal does: then its size is set by resize().
using StreamFds = std::array<int, 3>;

struct CreateOptions {
    std::string id;
    std::string bundle;         // absolute
    std::string console_socket; // with process.terminal
    std::string pid_file;
    std::string pod; // whose VM it goes to; empty: as the annotations say (pod_of())
    std::optional<StreamFds> streams; // absent: this process's own
    // So many of this process's descriptors from 3 on are the program's, too (preserved.hpp).
    unsigned preserve_fds = 0;
    unsigned listen_fds = 0; // the first of these; its LISTEN_FDS tells the program
    // The VM ends with the last program in it, and not only with remove(): to engines whose
    // monitor of a container ends when it has no child process any more (conmon), the VM is one.
    bool vm_ends_with_programs = false;
    // For a pod's first container: cpus, memory and privilege where no annotation (io.joey.vcpus,
    // io.joey.memory, io.joey.privilege) says them, and options. The rest is the engine's.
    VmConfig vm;
};

struct ExecOptions {
    std::string container;
    // The agent's name for the process; empty: one that was never used. With `detach`, process(),
    // wait(), kill_process(), resize() and close_input() know it by this name until
    // remove_process().
    std::string exec_id;
    Json process;
    std::string console_socket;
    std::string pid_file;
    bool detach = false;
    std::optional<StreamFds> streams; // absent: this process's own
    // As in RelayConfig; without `detach`, and on the caller's own terminal.
    std::function<bool(std::string& typed)> leaves;
    // As in CreateOptions. Without `detach` they are closed when the program has closed them.
    unsigned preserve_fds = 0;
};

// A container's first process, or one that was executed in it, with a name.
struct ProcessState {
    std::string exec_id; // empty: the first
    ProcessId process;   // its relay
    bool terminal = false;
    bool running = false; // or waiting for its start
    std::optional<ExitRecord> exit;
};

struct PodState {
    std::string id;
    ProcessId vm;
    bool running = false;
    std::string log;                     // a file: the guest's console and the VMM's messages
    std::vector<std::string> containers; // that have a record
};

// What a pod's VM costs the host.
struct VmStats {
    std::uint64_t user_ns = 0;
    std::uint64_t system_ns = 0;
    std::uint64_t memory = 0; // resident bytes
    std::uint64_t threads = 0;
};

class Engine {
public:
    // `patience`: how long what is removed may take for an end of its own.
    explicit Engine(StateRoot root, std::chrono::milliseconds patience = Pod::usual_patience())
        : root_(std::move(root)), patience_(patience) {}

    // The program waits for start(). Its streams are those of this process. The result: warnings.
    os::Result<std::vector<std::string>> create(const CreateOptions& options);
    os::Result<void> start(const std::string& id);
    // `limit`: how long the guest may take, to be reached and for its answer.
    os::Result<void> kill(const std::string& id, int signal, bool all,
                          std::chrono::milliseconds limit = Pod::patience_for_boot());
    // `force`: whatever its state, and no error if there is none.
    os::Result<void> remove(const std::string& id, bool force);
    // The status, or 0 at once when detached.
    os::Result<int> exec(const ExecOptions& options);
    os::Result<void> pause(const std::string& id);
    os::Result<void> resume(const std::string& id);
    os::Result<void> update(const std::string& id, const Json& resources);

    // Processes by container and name; an empty name is the container's first.
    os::Result<ProcessState> process(const std::string& container,
                                     const std::string& exec_id) const;
    std::vector<ProcessState> executed(const std::string& container) const;
    // Until it has ended; DeadlineExceeded at the limit. To wait for many: pidfd_open(2) of
    // ProcessState::process, then this. A relay that was killed leaves 137.
    os::Result<ExitRecord> wait(const std::string& container, const std::string& exec_id,
                                std::optional<std::chrono::milliseconds> limit = {}) const;
    os::Result<void> kill_process(const std::string& container, const std::string& exec_id,
                                  int signal);
    os::Result<void> resize(const std::string& container, const std::string& exec_id, unsigned rows,
                            unsigned columns);
    // What is in its standard input by now is the last of it.
    os::Result<void> close_input(const std::string& container, const std::string& exec_id);
    // Forgets an executed process, and kills it first if it runs. How it ended.
    os::Result<ExitRecord> remove_process(const std::string& container, const std::string& exec_id);

    os::Result<ContainerState> state(const std::string& id) const;
    std::vector<ContainerState> list() const;
    // Pids in the guest.
    os::Result<std::vector<std::uint32_t>> processes(const std::string& id);
    // `limit`: how long the guest may take, to be reached and for its answer.
    os::Result<proto::StatsResponse>
    stats(const std::string& id, std::chrono::milliseconds limit = Pod::patience_for_boot());

    // Pods, also those whose caller or VM has been killed.
    std::vector<PodState> pods() const;
    os::Result<PodState> pod(const std::string& id) const;
    os::Result<VmStats> vm_stats(const std::string& pod) const;
    // What the pod's VM counts, in Prometheus's text format; its process said it, and is not to be
    // trusted more than that.
    os::Result<std::string> vm_metrics(const std::string& pod) const;
    // Ends a pod's containers and its VM and takes away all there is of them, in whatever state
    // they are; no error if there is none.
    os::Result<void> remove_pod(const std::string& id);
    // The agent, on the caller's loop: for what is not asked and answered at once. call_later()
    // with "NextEvents" waits for the pod's next events, OOM among them.
    os::Result<std::unique_ptr<AgentLink>> agent(const std::string& pod, os::EventLoop& loop) const;

    const StateRoot& root() const { return root_; }

private:
    // A connection and the loop it runs on.
    struct Link {
        std::unique_ptr<os::EventLoop> loop;
        std::unique_ptr<AgentLink> agent;
    };
    struct Creation;

    os::Result<Link> connect(const std::string& pod,
                             std::chrono::milliseconds limit = Pod::patience_for_boot()) const;
    os::Result<Lock> lock(const std::string& id) const;
    os::Result<Lock> claim(const std::string& id);
    os::Result<void> build(Creation& creation, const Json& config, const CreateOptions& options);
    static void describe(Creation& creation, const Json& config, const CreateOptions& options);
    os::Result<void> enter_pod(Creation& creation, const Json& config, GuestConfig& guest,
                               const CreateOptions& options) const;
    os::Result<void> start_relay(Creation& creation, const GuestConfig& guest,
                                 const CreateOptions& options) const;
    os::Result<void> join_pod(Creation& creation, GuestConfig& guest, Link& link) const;
    os::Result<void> share_sources(Creation& creation, GuestConfig& guest) const;
    void undo(Creation& creation);
    void clean_up(const ContainerRecord& record);
    void clean_up_begun(const std::string& id);
    void forget_in_guest(const ContainerRecord& record) const;
    os::Result<ContainerRecord> running(const std::string& id, const char* refusal) const;

    StateRoot root_;
    std::chrono::milliseconds patience_;
};

// What the host gives the processes of such a VM at most.
HostLimits limits_of(const VmConfig& vm);

// state of the specification, as hooks and `state` have it.
Json state_json(const ContainerRecord& record, std::string_view status, pid_t pid);

// Which pod a configuration belongs to, by the annotations of CRI engines; the container's own id
// if there are none.
std::string pod_of(const Json& config, const std::string& id);

} // namespace pod
