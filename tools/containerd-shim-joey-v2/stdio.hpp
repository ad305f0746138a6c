// Stdio: a process's standard streams as containerd names them: fifos, files, or a program that
// logs.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "agent/os/event_loop.hpp"

namespace shim {

struct Streams {
    std::string in;
    std::string out;
    std::string err;
    bool terminal = false;
};

// Where one stream goes.
struct StreamTarget {
    enum class Kind { None, Path, File, Program };
    Kind kind = Kind::None;
    std::string path;
    std::vector<std::string> arguments; // of the program
    // A path is that of a fifo or of what is there; file:// one is made; binary:// is a program.
    static os::Result<StreamTarget> parse(const std::string& text);
};

// Whose streams they are: a program that logs is told.
struct StreamOwner {
    std::string container;
    std::string name_space;
};

class Stdio {
public:
    using Ready = std::function<void(os::Result<void>)>;

    static os::Result<std::unique_ptr<Stdio>> open(const Streams& streams,
                                                   const StreamOwner& owner);

    // Calls back when whoever takes the output has said that it does: at once, but for a program,
    // which has its time for that while the loop goes on.
    void when_ready(os::EventLoop& loop, const Ready& done);

    // stdin, stdout and stderr for the program; -1: none.
    std::array<int, 3> ends() const;
    // The program has them now. Here stay the fifos' other ends: so the program's output waits
    // while containerd is away, and its input does not end with containerd.
    void handed_over();
    void close_input() { input_keeper_.reset(); }
    void ended();
    // The program that logs, or 0.
    pid_t logger() const { return logger_; }

private:
    struct Beginning;
    os::Result<void> open_input(const std::string& text);
    os::Result<os::UniqueFd> open_output(const std::string& text);
    os::Result<void> start_logger(const StreamTarget& target, const StreamOwner& owner);

    std::array<os::UniqueFd, 3> ends_;
    os::UniqueFd input_keeper_;
    std::vector<os::UniqueFd> output_keepers_;
    pid_t logger_ = 0;
    std::shared_ptr<Beginning> beginning_; // of a program that was not waited for yet
};

} // namespace shim
