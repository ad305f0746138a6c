// Program: one run of a container's program, from its VM to its status, with its streams.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/os/event_loop.hpp"
#include "tools/joey/containers/attachment.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/registry.hpp"

namespace joey::containers {

class Program {
public:
    struct Handlers {
        std::function<void(Stream, std::string_view)> output;
        std::function<void()> input_full;
        std::function<void()> input_free;
    };
    Program(os::EventLoop& loop, Registry& registry, const Container& container, Handlers handlers);
    ~Program();
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    // Its VM, with the program waiting in it.
    os::Result<void> create();
    os::Result<void> start();
    // The status, once it has ended and all its output was handed on, or did not come in time.
    std::optional<int> status() const { return finished_ ? std::optional(status_) : std::nullopt; }

    void write_input(std::string_view data);
    void end_input();
    void resize(Size size);
    // Takes no output until it is told to go on.
    void hold_output(bool hold);
    bool has_ended() const { return ended_; }
    // Once it has ended: whoever holds its output is not waited for much longer.
    void hurry();

private:
    os::Result<void> make_pipes(std::array<os::UniqueFd, 3>& far);
    os::Result<void> create_here(const std::string& console);
    os::Result<void> accept_terminal(int listener);
    os::Result<void> watch_end();
    void watch_output(std::size_t index);
    void read_output(std::size_t index);
    void flush_input();
    void close_output(std::size_t index);
    void take_ready(std::size_t index);
    void try_to_finish();
    void give_up();

    os::EventLoop& loop_;
    Registry& registry_;
    const Container& container_;
    const Handlers handlers_;
    os::UniqueFd input_;                  // with a terminal: a second descriptor of it
    std::array<os::UniqueFd, 2> outputs_; // with a terminal: the first alone
    os::UniqueFd relay_;
    pid_t relay_pid_ = 0;
    std::string waiting_input_;
    bool input_ends_ = false;
    bool held_ = false;
    bool ended_ = false;
    bool given_up_ = false;
    bool finished_ = false;
    std::size_t rest_ = 0; // bytes that came after the end
    os::EventLoop::TimerId end_of_patience_ = 0;
    int status_ = 0;
    Size size_;
};

} // namespace joey::containers
