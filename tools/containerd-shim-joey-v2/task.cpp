#include "tools/containerd-shim-joey-v2/task.hpp"

namespace shim {

TaskStatus Process::api_status() const {
    switch (status) {
    case ProcessStatus::Creating:
    case ProcessStatus::Created:
    case ProcessStatus::Starting:
        return TaskStatus::CREATED;
    case ProcessStatus::Running:
        return TaskStatus::RUNNING;
    case ProcessStatus::Stopped:
        break;
    }
    return TaskStatus::STOPPED;
}

std::shared_ptr<Process> Task::process(const std::string& exec_id) const {
    if (exec_id.empty())
        return init;
    const auto found = execs.find(exec_id);
    return found == execs.end() ? nullptr : found->second;
}

} // namespace shim
