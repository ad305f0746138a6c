// Agent: the containers, and the methods of agent.proto on them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/protocol/agent.pb.h"
#include "agent/service/container.hpp"
#include "agent/ttrpc/server.hpp"

namespace service {

class Agent {
public:
    struct Config {
        std::string cgroup_root; // where containers' groups are made
        bool is_init = false;    // pid 1: Shutdown powers the machine off
    };

    Agent(os::EventLoop& loop, Children& children, Config config)
        : loop_(loop), children_(children), config_(std::move(config)) {}
    Agent(const Agent&) = delete;
    Agent& operator=(const Agent&) = delete;

    void register_methods(ttrpc::Server& server);
    // What Shutdown does, without a client.
    void shut_down();
    // Set once that has been carried out.
    bool has_ended() const { return ended_; }

private:
    template <typename T>
    using Reply = ttrpc::Reply<T>;
    using ContainerRef = std::shared_ptr<Container>;

    void register_containers(ttrpc::Server& server);
    void register_streams(ttrpc::Server& server);
    void register_sandbox(ttrpc::Server& server);

    void info(const Reply<proto::InfoResponse>& reply) const;
    void create(const proto::CreateRequest& request, const Reply<proto::CreateResponse>& reply);
    void exec(const proto::ExecRequest& request, const Reply<proto::ExecResponse>& reply);
    void start(const proto::StartRequest& request, const Reply<proto::StartResponse>& reply);
    void signal(const proto::SignalRequest& request, const Reply<proto::Empty>& reply);
    void update(const proto::UpdateRequest& request, const Reply<proto::Empty>& reply);
    void wait(const proto::ProcessRequest& request, const Reply<proto::WaitResponse>& reply);
    void state(const proto::ProcessRequest& request, const Reply<proto::StateResponse>& reply);
    void list(const Reply<proto::ListResponse>& reply) const;
    void processes(const proto::ContainerRequest& request,
                   const Reply<proto::ProcessesResponse>& reply);
    void remove(const proto::DeleteRequest& request, const Reply<proto::WaitResponse>& reply);
    void read_output(const proto::ReadOutputRequest& request,
                     const Reply<proto::ReadOutputResponse>& reply);
    void write_input(const proto::WriteInputRequest& request, const Reply<proto::Empty>& reply);
    void close_input(const proto::CloseInputRequest& request, const Reply<proto::Empty>& reply);
    void resize(const proto::ResizeTerminalRequest& request, const Reply<proto::Empty>& reply);
    void next_events(const proto::NextEventsRequest& request,
                     const Reply<proto::NextEventsResponse>& reply);
    void shutdown(const Reply<proto::Empty>& reply);
    void end_containers(std::function<void()> done);
    void end_next_container();
    void stop();
    void forget(const ContainerRef& container);

    os::Result<ContainerRef> find(const std::string& container_id) const;
    os::Result<std::shared_ptr<Process>> find(const std::string& container_id,
                                              const std::string& exec_id) const;

    os::EventLoop& loop_;
    Children& children_;
    Config config_;
    EventLog events_;
    std::map<std::string, ContainerRef> containers_;
    std::vector<std::function<void()>> ending_; // who waits for the containers' end
    bool ended_ = false;
};

// Names of containers and of processes in them: letters, digits, and "_.+-"; no path of any kind.
os::Result<void> check_id(const char* field, const std::string& id);

// stats.cpp
proto::StatsResponse read_stats(const container::Cgroup& cgroup);

// sandbox.cpp
os::Result<void> mount_for_sandbox(const proto::MountRequest& request);
os::Result<void> unmount_for_sandbox(const proto::UnmountRequest& request);
os::Result<void> set_hostname(const proto::SetHostnameRequest& request);
os::Result<void> set_sysctls(const proto::SetSysctlsRequest& request);

} // namespace service
