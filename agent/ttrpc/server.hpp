// Server: accepts connections and runs handlers, which may answer at once or much later. A handler
// is registered with its protobuf types:
//
//     server.handle<StateRequest, StateResponse>("joey.agent.v1.Agent", "State",
//         [](const StateRequest& request, ttrpc::Reply<StateResponse> reply) { reply(...); });
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include <sys/socket.h>

#include "agent/os/event_loop.hpp"
#include "agent/ttrpc/connection.hpp"

namespace ttrpc {

// One request that waits for its answer. Dropped without one, it is answered as an internal error.
class Call {
public:
    Call(std::string service, std::string method, std::string payload,
         std::map<std::string, std::string> metadata)
        : service_(std::move(service)), method_(std::move(method)), payload_(std::move(payload)),
          metadata_(std::move(metadata)) {}
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    const std::string& service() const { return service_; }
    const std::string& method() const { return method_; }
    const std::string& payload() const { return payload_; }
    const std::map<std::string, std::string>& metadata() const { return metadata_; }

    // The first answer counts; later ones, and those to a caller that is gone, do nothing.
    void respond(std::string payload);
    void fail(const os::Error& error);
    // True when nobody waits any more: answered, timed out, or the caller is gone.
    bool is_over() const { return !answer_; }
    // Called when the caller's time is up or its connection is gone, unless answered before.
    void on_cancel(std::function<void()> action) { cancelled_ = std::move(action); }

private:
    friend class ServerConnection;
    using Answer = std::function<void(const os::Error* error, std::string payload)>;
    void cancel();

    std::string service_;
    std::string method_;
    std::string payload_;
    std::map<std::string, std::string> metadata_;
    Answer answer_;
    std::function<void()> cancelled_;
};

template <typename Response>
class Reply {
public:
    explicit Reply(std::shared_ptr<Call> call) : call_(std::move(call)) {}
    void operator()(const os::Result<Response>& result) const {
        if (result)
            call_->respond(result->SerializeAsString());
        else
            call_->fail(result.error());
    }
    bool is_over() const { return call_->is_over(); }
    void on_cancel(std::function<void()> action) const { call_->on_cancel(std::move(action)); }

private:
    std::shared_ptr<Call> call_;
};

class ServerConnection;

// Whether somebody with this address is served. Vsock knows no namespaces: by its loopback, every
// program in every container could ask the agent for anything. There, the host alone is served.
bool may_connect(const sockaddr_storage& peer);

class Server {
public:
    using Handler = std::function<void(std::shared_ptr<Call>)>;
    struct Limits {
        // Each container, and each process that is executed in one, has a connection for as long as
        // it runs.
        std::size_t connections = 8192;
        std::size_t calls_per_connection = 1024;
        std::size_t bytes = 64U << 20; // of all connections (Budget)
    };

    explicit Server(os::EventLoop& loop) : Server(loop, Limits{}) {}
    Server(os::EventLoop& loop, Limits limits);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // Accepts from a listening socket, whose owner the server becomes.
    os::Result<void> listen(os::UniqueFd socket);
    // Serves one connection that exists already.
    os::Result<void> serve(os::UniqueFd socket);

    void handle(const std::string& service, const std::string& method, Handler handler);
    template <typename Request, typename Response, typename Function>
    void handle(const std::string& service, const std::string& method, Function function) {
        handle(service, method, [function](const std::shared_ptr<Call>& call) {
            Request request;
            if (!request.ParseFromString(call->payload())) {
                call->fail({os::Code::InvalidArgument,
                            os::text(call->method(), ": the request is no valid message")});
                return;
            }
            function(request, Reply<Response>(call));
        });
    }

    std::size_t connections() const { return connections_.size(); }

private:
    friend class ServerConnection;
    void accept_some();
    const Handler* find(const std::string& service, const std::string& method,
                        os::Error& error) const;

    void wait_for_connections();

    os::EventLoop& loop_;
    Limits limits_;
    Budget budget_;
    os::UniqueFd listener_;
    os::EventLoop::TimerId pause_ = 0; // of accepting
    std::map<std::string, std::map<std::string, Handler>> services_;
    std::unordered_map<ServerConnection*, std::unique_ptr<ServerConnection>> connections_;
};

} // namespace ttrpc
