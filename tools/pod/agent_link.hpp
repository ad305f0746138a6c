// AgentLink: a connection to the agent in a pod's VM, by the VM's vsock. The guest is not trusted:
// its answers are messages of known types, read within bounds, and it can keep nobody waiting
// longer than he wants to.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "agent/protocol/agent.pb.h"
#include "agent/ttrpc/client.hpp"
#include "tools/pod/patience.hpp"
#include "tools/pod/process_id.hpp"

namespace pod {

namespace proto = joey::agent::v1;

class AgentLink {
public:
    // `directory` is the pod's. Waits for a VM that is just starting, as long as it is alive;
    // `ready` becomes readable when its agent listens, -1: nobody says so.
    static os::Result<std::unique_ptr<AgentLink>>
    connect(os::EventLoop& loop, const std::string& directory, const ProcessId& vm,
            std::chrono::milliseconds limit, int ready = -1);

    // Over a connection that the agent has taken.
    static std::unique_ptr<AgentLink> over(std::unique_ptr<ttrpc::Client> client) {
        return std::unique_ptr<AgentLink>(new AgentLink(std::move(client)));
    }

    template <typename Response, typename Request>
    os::Result<Response> call(const char* method, const Request& request,
                              std::chrono::nanoseconds limit = usual_limit()) {
        return client_->call_and_wait<Response>(service, method, request, limit);
    }
    template <typename Response, typename Request, typename Function>
    void call_later(const char* method, const Request& request, Function answered) {
        client_->call<Response>(service, method, request, ttrpc::Client::no_limit,
                                std::move(answered));
    }
    ttrpc::Client& client() { return *client_; }

    static std::chrono::nanoseconds usual_limit() { return patience(std::chrono::seconds(60)); }

private:
    static constexpr const char* service = "joey.agent.v1.Agent";
    explicit AgentLink(std::unique_ptr<ttrpc::Client> client) : client_(std::move(client)) {}
    std::unique_ptr<ttrpc::Client> client_;
};

} // namespace pod
