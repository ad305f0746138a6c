// Console: a terminal's outer side. It arrives over a socket from whoever makes the terminal, and
// is copied from and to the streams that containerd gave.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/os/event_loop.hpp"

namespace shim {

class Console {
public:
    // Listens in the bundle. `in` and `out` stay the caller's until drained(); -1: none.
    static os::Result<std::unique_ptr<Console>> listen(os::EventLoop& loop,
                                                       const std::string& bundle, int in, int out);
    ~Console();
    Console(const Console&) = delete;
    Console& operator=(const Console&) = delete;

    // Short enough for a socket's name, wherever the bundle is.
    const std::string& socket_path() const { return socket_path_; }
    os::Result<void> resize(unsigned columns, unsigned rows) const;
    // All that was written to the terminal has been copied, and nobody can write any more.
    bool is_drained() const { return drained_; }
    void on_drained(std::function<void()> action) { on_drained_ = std::move(action); }

private:
    Console(os::EventLoop& loop, int in, int out) : loop_(loop), in_(in), out_(out) {}
    void accept();
    void receive();
    void drop_sender();
    void on_master(std::uint32_t events);
    void read_master();
    bool write_out();
    void read_in();
    void write_master();
    void watch_master();
    void drained();
    void remove_socket();

    os::EventLoop& loop_;
    os::UniqueFd folder_;
    os::UniqueFd listener_;
    os::UniqueFd sender_; // that has connected, and not sent the terminal yet
    std::string name_;    // of the socket, in the folder
    std::string socket_path_;
    os::UniqueFd master_;
    std::uint32_t watched_ = 0; // events of the master; 0: it is not watched
    int in_;
    int out_;
    bool in_watched_ = false;
    std::string to_out_;
    std::string to_master_;
    bool drained_ = false;
    std::function<void()> on_drained_;
};

} // namespace shim
