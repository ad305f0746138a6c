// Service: the task service of the shim API, for all containers of one pod. What is asked of the
// pod's engine is done by workers; answers are given when those have finished.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/ttrpc/server.hpp"
#include "tools/containerd-shim-joey-v2/pod_link.hpp"
#include "tools/containerd-shim-joey-v2/publisher.hpp"
#include "tools/containerd-shim-joey-v2/task.hpp"
#include "tools/containerd-shim-joey-v2/workers.hpp"

namespace shim {

class Service {
public:
    struct Parts {
        os::EventLoop& loop;
        Reaper& reaper;
        Workers& workers;
        Publisher& publisher;
        const Log& log;
    };
    Service(Parts parts, std::string name_space);

    void add_to(ttrpc::Server& server);
    // When containerd has asked for the end and there is nothing left to do.
    void on_shutdown(std::function<void()> action) { shutdown_ = std::move(action); }
    bool has_tasks() const { return !tasks_.empty(); }

private:
    template <typename Response>
    using Reply = ttrpc::Reply<Response>;
    using Empty = wellknown::Empty;
    using TaskRef = std::shared_ptr<Task>;
    using ProcessRef = std::shared_ptr<Process>;
    struct Found {
        TaskRef task;
        ProcessRef process;
    };

    // service.cpp: from nothing to a container and back
    void create(const api::CreateTaskRequest& request, const Reply<api::CreateTaskResponse>& reply);
    void created(const TaskRef& task, const api::CreateTaskRequest& request,
                 const os::Result<std::string>& answer,
                 const Reply<api::CreateTaskResponse>& reply);
    void remove(const api::DeleteRequest& request, const Reply<api::DeleteResponse>& reply);
    void remove_container(const TaskRef& task, const Reply<api::DeleteResponse>& reply);
    void remove_pod(const TaskRef& last, const Reply<api::DeleteResponse>& reply);
    void container_removed(const TaskRef& task, const Reply<api::DeleteResponse>& reply);
    static void settled(Task& task); // it is created, deleted, or neither
    void removed(const Task& task, const Process& process, const Reply<api::DeleteResponse>& reply);
    void shut_down(const api::ShutdownRequest& request, const Reply<Empty>& reply);
    void connect(const api::ConnectRequest& request, const Reply<api::ConnectResponse>& reply);

    // service_processes.cpp: processes
    void start(const api::StartRequest& request, const Reply<api::StartResponse>& reply);
    void start_init(const Found& found, const Reply<api::StartResponse>& reply);
    void start_exec(const Found& found, const Reply<api::StartResponse>& reply);
    void executed(const Found& found, const os::Result<std::string>& answer,
                  const Reply<api::StartResponse>& reply);
    void started(const Found& found, const Reply<api::StartResponse>& reply);
    void exec(const api::ExecProcessRequest& request, const Reply<Empty>& reply);
    void kill(const api::KillRequest& request, const Reply<Empty>& reply);
    void force_end(const Found& found);
    void force_end_later(const Found& found);
    void resize(const api::ResizePtyRequest& request, const Reply<Empty>& reply);
    void close_io(const api::CloseIORequest& request, const Reply<Empty>& reply);
    void wait(const api::WaitRequest& request, const Reply<api::WaitResponse>& reply);
    void expect_end(const Found& found);
    void on_end(const Found& found, int status);
    // The console's socket, if there is to be a terminal.
    os::Result<std::string> open_streams(const Task& task, const ProcessRef& process);
    void end_logger(const Process& process);
    static std::array<int, 3> worker_streams(const Process& process);

    // service_control.cpp: what is known of them, limits
    void state(const api::StateRequest& request, const Reply<api::StateResponse>& reply);
    void pids(const api::PidsRequest& request, const Reply<api::PidsResponse>& reply);
    void stats(const api::StatsRequest& request, const Reply<api::StatsResponse>& reply);
    void pause(const api::PauseRequest& request, const Reply<Empty>& reply);
    void resume(const api::ResumeRequest& request, const Reply<Empty>& reply);
    void set_paused(const std::string& id, bool paused, const Reply<Empty>& reply);
    void update(const api::UpdateTaskRequest& request, const Reply<Empty>& reply);
    static void checkpoint(const api::CheckpointTaskRequest& request, const Reply<Empty>& reply);

    os::Result<TaskRef> find(const std::string& id) const;
    os::Result<Found> find(const std::string& id, const std::string& exec_id) const;

    Parts parts_;
    const std::string name_space_;
    const std::string root_;
    PodLink link_;
    std::string pod_;         // its first container's id
    std::string kept_rootfs_; // of that one, when it was deleted and stayed for the others
    std::map<std::string, TaskRef> tasks_;
    unsigned last_exec_ = 0;
    std::function<void()> shutdown_;
};

} // namespace shim
