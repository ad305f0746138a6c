// Container: one container, its first process, what is executed in it, and its control group.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "agent/container/cgroup.hpp"
#include "agent/service/event_log.hpp"
#include "agent/service/process.hpp"
#include "agent/spec/spec.hpp"

namespace service {

class Container : public std::enable_shared_from_this<Container> {
public:
    using Done = Process::Done;
    struct Surroundings {
        os::EventLoop& loop;
        Children& children;
        EventLog& events;
    };

    Container(const Surroundings& around, std::string id, std::string bundle, spec::Spec spec,
              const std::string& cgroup_root);
    ~Container();
    Container(const Container&) = delete;
    Container& operator=(const Container&) = delete;

    void create(const WantedStreams& wanted, const Done& done);
    void start(const Done& done);
    void exec(const std::string& exec_id, spec::Process process, const WantedStreams& wanted,
              const Done& done);
    void start_exec(const std::string& exec_id, const Done& done);
    os::Result<void> signal_all(int number) const;
    // Done when nothing of it runs any more.
    void pause(const Done& done);
    os::Result<void> resume();
    os::Result<void> update(const spec::Resources& resources) const;
    // Ends what runs, if that is allowed; removes everything; runs the poststop hooks.
    void remove(bool force, const Done& done);
    void remove_exec(const std::string& exec_id, bool force, const Done& done);

    // An empty exec_id is the first process.
    os::Result<std::shared_ptr<Process>> find(const std::string& exec_id) const;
    proto::StateResponse describe(const std::string& exec_id, Process& process) const;
    const std::string& id() const { return id_; }
    const spec::Spec& spec() const { return spec_; }
    const container::Cgroup& cgroup() const { return cgroup_; }
    // Not while its builder is at work, nor while what a failed one has left is cleaned up: a
    // container that took the name meanwhile would be cleaned up with it.
    bool is_ready() const { return !building_; }

private:
    struct Executed {
        std::shared_ptr<Process> process;
        std::shared_ptr<spec::Process> wanted;
    };

    proto::Event event(proto::Event::Kind kind, const std::string& exec_id, Process& process) const;
    void watch_memory();
    void note_oom();
    void on_ended(const std::string& exec_id, Process& process);
    void when_frozen(int attempts, const Done& done);
    void when_all_ended(const std::function<void()>& action);
    void when_all_delivered(int attempts, const std::function<void()>& action);
    bool is_all_delivered() const;
    void remove_group(int attempts, const Done& done);
    void finish_removal(const Done& done);
    os::Result<void> require_running() const;
    container::HookState hook_state() const;

    Surroundings around_;
    std::string id_;
    std::string bundle_;
    spec::Spec spec_;
    container::Cgroup cgroup_;
    std::shared_ptr<Process> process_;
    std::map<std::string, Executed> executed_;
    os::UniqueFd memory_watch_;
    std::uint64_t oom_kills_ = 0;
    bool building_ = false;
    bool paused_ = false;
    bool removing_ = false;
};

} // namespace service
