// ProcessId: a process of the host that may be long gone, and whose number may be another's by now.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include <sys/types.h>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"
#include "tools/pod/json.hpp"

namespace pod {

struct ProcessId {
    pid_t pid = 0;
    // When it started, in the kernel's ticks since boot (proc(5), stat, field 22): the number and
    // this together are one process for as long as the machine runs.
    std::uint64_t start = 0;

    static std::optional<ProcessId> of(pid_t pid);
    static ProcessId from_json(const Json& value);
    Json to_json() const;

    // A zombie, which only its parent's negligence keeps, has ended.
    bool is_alive() const;
    // NotFound if it has ended.
    os::Result<void> signal(int number) const;
    // SIGKILL, and waits for the end; false if that does not come.
    bool kill_and_wait(std::chrono::milliseconds limit) const;
    // False at the limit.
    bool wait_for_end(std::chrono::milliseconds limit) const;
    // pidfd_open(2); empty if the process is gone.
    os::UniqueFd handle() const;
};

} // namespace pod
