// Client: many calls at a time over one connection, each with its own callback and time limit. The
// server is not trusted: what breaks the protocol ends the connection, and every call with it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "agent/os/event_loop.hpp"
#include "agent/ttrpc/connection.hpp"

namespace ttrpc {

class Client {
public:
    using Answered = std::function<void(os::Result<std::string> payload)>;
    using CallId = std::uint32_t;
    static constexpr std::chrono::nanoseconds no_limit{0};

    static os::Result<std::unique_ptr<Client>> start(os::EventLoop& loop, os::UniqueFd socket);
    ~Client();
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    bool is_open() const { return connection_ && connection_->is_open(); }
    // Called once, when the connection is gone and all calls have failed with Unavailable.
    void on_closed(std::function<void(const std::string& why)> action) {
        closed_ = std::move(action);
    }

    // `answered` is called exactly once, from the loop and never from within call(), unless the
    // call is forgotten. The limit is told to the server and kept here too.
    CallId call(const std::string& service, const std::string& method, const std::string& payload,
                std::chrono::nanoseconds limit, Answered answered);
    // The answer, when it comes, is dropped. ttrpc cannot tell the server so.
    void forget(CallId call);

    template <typename Response, typename Request, typename Function>
    CallId call(const std::string& service, const std::string& method, const Request& request,
                std::chrono::nanoseconds limit, Function answered) {
        return call(service, method, request.SerializeAsString(), limit,
                    [answered](os::Result<std::string> payload) {
                        answered(parse<Response>(std::move(payload)));
                    });
    }
    // Runs the loop until the answer is there. Not from within a handler of the same loop.
    template <typename Response, typename Request>
    os::Result<Response> call_and_wait(const std::string& service, const std::string& method,
                                       const Request& request,
                                       std::chrono::nanoseconds limit = no_limit) {
        std::optional<os::Result<std::string>> result;
        call(service, method, request.SerializeAsString(), limit,
             [&result](os::Result<std::string> payload) { result.emplace(std::move(payload)); });
        while (!result)
            loop_.run_once(std::chrono::milliseconds(-1));
        return parse<Response>(std::move(*result));
    }

private:
    struct Waiting {
        Answered answered;
        os::EventLoop::TimerId timer = 0;
    };

    explicit Client(os::EventLoop& loop) : loop_(loop) {}
    template <typename Response>
    static os::Result<Response> parse(os::Result<std::string> payload) {
        if (!payload)
            return base::Failure(std::move(payload.error()));
        Response response;
        if (!response.ParseFromString(*payload))
            return os::fail(os::Code::Internal, "the server's answer is no valid message");
        return response;
    }
    void on_frame(const Frame& frame);
    void finish(CallId call, os::Result<std::string> payload);
    void fail_all(const std::string& why);

    os::EventLoop& loop_;
    std::unique_ptr<Connection> connection_;
    std::unordered_map<CallId, Waiting> waiting_;
    CallId next_ = 1;
    std::function<void(const std::string&)> closed_;
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

} // namespace ttrpc
