// ServerConnection: the calls of one client, from frame to handler to answer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "agent/ttrpc/server.hpp"

namespace ttrpc {

class ServerConnection {
public:
    ServerConnection(Server& server, os::EventLoop& loop) : server_(server), loop_(loop) {}
    ~ServerConnection();
    ServerConnection(const ServerConnection&) = delete;
    ServerConnection& operator=(const ServerConnection&) = delete;
    os::Result<void> start(os::UniqueFd socket);

private:
    struct Pending {
        std::weak_ptr<Call> call;
        os::EventLoop::TimerId timer = 0;
    };

    void on_frame(const Frame& frame);
    // True when a client may open this stream; otherwise the answer was sent.
    bool open_stream(const FrameHeader& header);
    void on_request(std::uint32_t stream, const std::string& bytes);
    void start_timer(std::uint32_t stream, std::int64_t nanoseconds);
    void finish(std::uint32_t stream);
    void answer(std::uint32_t stream, const os::Error* error, std::string payload);
    void refuse(std::uint32_t stream, os::Code code, const char* why);
    void cancel_calls();

    Server& server_;
    os::EventLoop& loop_;
    std::unique_ptr<Connection> connection_;
    std::unordered_map<std::uint32_t, Pending> pending_;
    std::uint32_t last_stream_ = 0;
};

} // namespace ttrpc
