// Reaper: this process's children, its own and those it inherits as subreaper, and the signals that
// end it.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include <sys/types.h>

#include "agent/os/event_loop.hpp"

namespace shim {

class Reaper {
public:
    // The status as a shell has it.
    using Ended = std::function<void(int status)>;

    // Becomes the subreaper, and blocks SIGCHLD, SIGTERM and SIGINT.
    static os::Result<std::unique_ptr<Reaper>> start(os::EventLoop& loop);
    ~Reaper();
    Reaper(const Reaper&) = delete;
    Reaper& operator=(const Reaper&) = delete;

    void on_terminate(std::function<void()> action) { terminate_ = std::move(action); }
    // Calls back from the loop; also for one that was reaped since remember() was called.
    void expect(pid_t pid, Ended ended);
    // Until all that was asked for is forgotten again, statuses that nobody expects are kept:
    // whoever starts a process elsewhere hears its number later than it may end.
    void remember() { ++remembering_; }
    void forget();
    // SIGKILL or another to one that is expected still, so that the number is certain.
    bool signal(pid_t pid, int number) const;

private:
    Reaper(os::EventLoop& loop, os::UniqueFd signals) : loop_(loop), signals_(std::move(signals)) {}
    void take_signals();
    void reap();

    os::EventLoop& loop_;
    os::UniqueFd signals_;
    std::function<void()> terminate_;
    std::map<pid_t, Ended> expected_;
    std::map<pid_t, int> kept_;
    int remembering_ = 0;
};

// In a child, before it becomes something else: signals as a program wants them.
void reset_signals();

} // namespace shim
