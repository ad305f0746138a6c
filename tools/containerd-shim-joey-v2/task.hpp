// Task: what the shim knows of a container and its processes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tools/containerd-shim-joey-v2/console.hpp"
#include "tools/containerd-shim-joey-v2/messages.hpp"
#include "tools/containerd-shim-joey-v2/stdio.hpp"
#include "tools/pod/json.hpp"

namespace shim {

enum class ProcessStatus { Creating, Created, Starting, Running, Stopped };

struct Process {
    std::string exec_id;  // empty: the container's first
    std::string agent_id; // what the agent knows it by, if it is not the first
    Streams streams;
    pod::Json spec; // of an executed one
    std::unique_ptr<Stdio> stdio;
    std::unique_ptr<Console> console;
    ProcessStatus status = ProcessStatus::Creating;
    pid_t pid = 0; // its relay's
    int exit_status = 0;
    std::int64_t exited_at = 0;
    bool input_closed = false; // before there was one
    bool to_be_ended = false;  // by force, if its end is not heard of in time
    bool ended_early = false;  // while it was being started: told afterwards
    std::vector<std::function<void(const Process&)>> waiting;
    std::function<void()> after_drain;

    TaskStatus api_status() const;
    // Before it goes, what it wrote must have been passed on.
    bool is_drained() const { return !console || console->is_drained() || pid == 0; }
};

struct Task {
    std::string id;
    std::string bundle;
    std::shared_ptr<Process> init = std::make_shared<Process>();
    std::map<std::string, std::shared_ptr<Process>> execs;
    bool paused = false;
    bool deleting = false;
    // Deletions that came while it was being created or deleted: they go on when that has ended.
    std::vector<std::function<void()>> when_settled;
    os::EventLoop::Clock::time_point oom_told{}; // to containerd, last

    std::string rootfs() const { return bundle + "/rootfs"; }
    // Null if there is none of that name.
    std::shared_ptr<Process> process(const std::string& exec_id) const;
};

} // namespace shim
