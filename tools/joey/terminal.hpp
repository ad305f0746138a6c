// The caller's terminal in raw mode, restored whatever happens: by the destructor, by suspend(),
// and, should this process be killed outright, by a guardian process that waits for its end.
#pragma once

#include <cstdint>
#include <memory>
#include <termios.h>

#include <sys/types.h>

#include "tools/joey/outcome.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace joey {

class RawTerminal {
public:
    // Starts the guardian; the mode stays as it is until resume().
    // Requires: one thread so far (it forks), and `fd` is a terminal.
    static Outcome<std::unique_ptr<RawTerminal>> prepare(int fd);
    RawTerminal(const RawTerminal&) = delete;
    RawTerminal& operator=(const RawTerminal&) = delete;
    // Restores the terminal and sees the guardian off.
    ~RawTerminal();

    // The mode that the caller had; before the process stops.
    void suspend();
    // Raw again, if this process is in the foreground; after it goes on. The mode found then is the
    // one to restore: somebody may have changed it meanwhile.
    void resume();

private:
    RawTerminal(int fd, const termios& saved, pid_t guardian, virtio::UniqueFd pipe)
        : fd_(fd), saved_(saved), guardian_(guardian), pipe_(std::move(pipe)) {}
    bool in_foreground() const;
    void make_raw();

    int fd_;
    termios saved_;
    pid_t guardian_;
    virtio::UniqueFd pipe_; // the guardian reads the other end
    bool raw_ = false;
};

struct TerminalSize {
    std::uint16_t columns = 80;
    std::uint16_t rows = 24;
};
TerminalSize terminal_size(int fd);

} // namespace joey
