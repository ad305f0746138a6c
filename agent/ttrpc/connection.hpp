// Connection: one non-blocking stream socket on an event loop, frames in and frames out. It knows
// no requests and no answers; Server and Client do.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "agent/os/event_loop.hpp"
#include "agent/ttrpc/budget.hpp"
#include "agent/ttrpc/frame.hpp"

namespace ttrpc {

class Connection {
public:
    struct Events {
        std::function<void(Frame)> frame;
        std::function<void(const FrameHeader&)> too_long;
        // The last call back. `why` is empty when the peer closed in order.
        std::function<void(const std::string& why)> closed;
    };

    // The socket is made non-blocking. `budget`, if there is one, outlives the connection.
    static os::Result<std::unique_ptr<Connection>> start(os::EventLoop& loop, os::UniqueFd socket,
                                                         Events events, Budget* budget = nullptr);
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    void send(std::string frame);
    // Ends the connection from this side; `closed` is called later, from the loop.
    void close(const std::string& why);
    bool is_open() const { return static_cast<bool>(socket_); }

private:
    Connection(os::EventLoop& loop, os::UniqueFd socket, Events events, Budget* budget);
    void on_ready(std::uint32_t events);
    void read_some();
    bool write_some();
    void update_interest();
    void account();
    bool must_wait() const;

    os::EventLoop& loop_;
    os::UniqueFd socket_;
    Events events_;
    FrameReader reader_;
    std::deque<std::string> output_;
    std::size_t sent_of_first_ = 0;
    std::size_t output_bytes_ = 0;
    std::uint32_t interest_ = 0;
    Budget* const budget_;
    std::size_t accounted_ = 0;
    // Deferred calls hold it weakly: they may outlive the connection.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

} // namespace ttrpc
