// Process: one process of a container as the agent sees it, from the fork of its builder to its
// exit.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "agent/container/plan.hpp"
#include "agent/protocol/agent.pb.h"
#include "agent/service/children.hpp"
#include "agent/service/streams.hpp"

namespace service {

namespace proto = joey::agent::v1;

class Process : public std::enable_shared_from_this<Process> {
public:
    enum class Stage { Creating, Created, Running, Stopped };
    using Done = std::function<void(os::Result<void>)>;
    using Exited = std::function<void()>;

    Process(os::EventLoop& loop, Children& children)
        : loop_(loop), children_(children), streams_(loop) {}
    ~Process();
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    // Forks; `build` runs in the child and does not return. `done` is told when the process waits
    // for its start, or why there is none; then nothing of it is left.
    void launch(const spec::Process& process, const WantedStreams& wanted,
                const std::function<void(container::ProcessPlan)>& build, Done done);
    // Told when its program runs, or why it does not.
    void start(Done done);
    os::Result<void> signal(int number) const;
    // Called when it has ended; at once if it has. The number is one to stop waiting by.
    std::uint64_t on_exit(Exited exited);
    void forget(std::uint64_t waiting) { exited_.erase(waiting); }
    // The first to be called when it ends, before all others.
    void set_exit_hook(Exited hook) { exit_hook_ = std::move(hook); }

    Stage stage() const { return stage_; }
    pid_t pid() const { return pid_; }
    bool terminal() const { return terminal_; }
    bool exists() const { return pid_ > 0 && stage_ != Stage::Stopped; }
    // What launch() has begun is still at work, perhaps for a process that has been killed already.
    bool is_launching() const { return launched_ != nullptr; }
    std::int64_t created_at() const { return created_at_; }
    std::int64_t started_at() const { return started_at_; }
    proto::ExitStatus& exit() { return exit_; }
    Streams& streams() { return streams_; }
    os::Result<void> resize(std::uint16_t rows, std::uint16_t columns) const;
    // Whoever waited for it, and would have told of its end, is gone.
    void abandon() { abandoned_ = true; }
    bool is_abandoned() const { return abandoned_; }

private:
    void on_report();
    void on_word(os::Message word);
    void stop_listening();
    void settle(const os::Result<void>& result);
    void fail(const os::Error& error);
    void on_start_word();
    void ended(int wait_status);

    os::EventLoop& loop_;
    Children& children_;
    Streams streams_;
    os::UniqueFd report_; // the builder's messages
    os::UniqueFd start_;  // to the process, and what it says when its program cannot run
    Stage stage_ = Stage::Creating;
    pid_t pid_ = -1;
    bool terminal_ = false;
    bool abandoned_ = false;
    Done launched_;
    Done started_;
    Exited exit_hook_;
    std::map<std::uint64_t, Exited> exited_;
    std::uint64_t last_waiting_ = 0;
    proto::ExitStatus exit_;
    std::int64_t created_at_ = 0;
    std::int64_t started_at_ = 0;
};

} // namespace service
