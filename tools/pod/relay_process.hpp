// Starting a relay: a process that first does something with the agent, says how that went, and
// then stands for the program.
#pragma once

#include <array>
#include <functional>
#include <optional>

#include "tools/pod/pod.hpp"
#include "tools/pod/relay.hpp"

namespace pod {

struct RelayStart {
    RelayConfig relay;
    std::string console_socket; // with relay.terminal: the terminal's other side goes there
    // Descriptors of the caller for the streams, -1 for none; absent: the caller's own 0, 1 and 2.
    std::optional<std::array<int, 3>> streams;
    std::vector<std::string> cgroups;
    // In the new process, before anything else is done. Its strings are warnings.
    std::function<os::Result<std::vector<std::string>>(AgentLink&)> begin;
    // Undoes it, if whoever started the relay dies before commit(); for an executed process, also
    // at its end.
    std::function<void(AgentLink&)> abandon;
    // The last thing that is done, when the program has ended and all of its output has come.
    std::function<void()> ended;
};

// A relay that has begun and waits to be told to go on.
class StartedRelay {
public:
    static os::Result<StartedRelay> start(const Pod& pod, const RelayStart& what);
    StartedRelay(StartedRelay&&) noexcept = default;
    StartedRelay& operator=(StartedRelay&&) noexcept = default;

    const ProcessId& process() const { return process_; }
    const std::vector<std::string>& warnings() const { return warnings_; }
    // From here on it lives for itself. Without it, it undoes what it began, and ends.
    os::Result<void> commit();

private:
    StartedRelay(ProcessId process, os::UniqueFd channel, std::vector<std::string> warnings)
        : process_(process), channel_(std::move(channel)), warnings_(std::move(warnings)) {}
    ProcessId process_;
    os::UniqueFd channel_;
    std::vector<std::string> warnings_;
};

} // namespace pod
