// User: what containerd is to a shim, for a pod with one container. Its bundle, its fifos, its
// calls, and its events.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/ttrpc/client.hpp"
#include "agent/ttrpc/server.hpp"
#include "tests/shim/host.hpp"
#include "tools/containerd-shim-joey-v2/messages.hpp"

namespace shim_test {

namespace api = shim::api;
using wellknown::Empty;

class User {
public:
    // `hurry`: how much less long than usually the shim waits for its VM.
    User(std::string id, unsigned hurry);
    ~User();
    User(const User&) = delete;
    User& operator=(const User&) = delete;

    // METHOD MANNER, as fake_vm.cpp has it; replaces what was said before.
    void tell_vm(const std::string& lines) const;
    std::string vm_log() const;
    // A new container that is not created yet: `start` was called, and answered.
    bool start_shim();
    // The connection that there was is closed.
    bool connect();
    void disconnect() { client_.reset(); }

    template <typename Response, typename Request>
    os::Result<Response> call(const char* method, const Request& request) {
        if (!client_)
            return os::fail(os::Code::Unavailable, "there is no connection");
        const auto begin = os::EventLoop::Clock::now();
        auto answer = client_->call_and_wait<Response>("containerd.task.v2.Task", method, request,
                                                       longest_call);
        if (os::EventLoop::Clock::now() - begin > longest_call - std::chrono::seconds(1))
            complaints_.push_back(os::text(method, " got no answer"));
        return answer;
    }
    // Sent, and nobody waits.
    template <typename Request>
    void send(const char* method, const Request& request) {
        client_->call("containerd.task.v2.Task", method, request.SerializeAsString(),
                      ttrpc::Client::no_limit, [](const os::Result<std::string>&) {});
    }
    // Requests about the container or a process in it.
    template <typename Request>
    Request about(const std::string& exec = "") const {
        Request out;
        out.set_id(id_);
        if constexpr (requires { out.set_exec_id(exec); })
            out.set_exec_id(exec);
        return out;
    }
    api::CreateTaskRequest creation() const;
    api::ExecProcessRequest execution(const std::string& exec, bool terminal);
    api::KillRequest signal(int number, const std::string& exec = "") const;

    // Begins to wait for a process's end. The status, when it is known: -1 if an error came.
    struct Waiting {
        std::optional<int> status;
    };
    std::shared_ptr<Waiting> wait(const std::string& exec = "");
    bool until(const std::function<bool()>& holds);
    // All that the container (or, of the name, a process in it) wrote so far.
    std::string output(const std::string& exec = "");
    void write_input(const std::string& text) const;
    const std::vector<std::string>& topics() const { return topics_; }

    // What containerd that was killed and started again does with a shim that it finds
    // (runtime/v2/shim_load.go): one without a process is deleted and told to end, and forgotten if
    // the deletion fails. True: it is kept.
    bool load();
    // The end, in every state, as containerd brings it about; then nothing may be left.
    void finish();
    // What was wrong; empty if nothing was.
    std::string complaints() const;
    void complain(const std::string& what) { complaints_.push_back(what); }

    os::EventLoop& loop() { return *loop_; }
    const std::string& bundle() const { return bundle_; }
    const std::string& address() const { return address_; }
    Call shim_call(const char* action) const;

private:
    static constexpr std::chrono::seconds longest_call{25};
    std::string fifo(const std::string& name) const { return bundle_ + "/fifo-" + name; }
    void make_fifo(const std::string& name);
    void listen_for_events();
    void end_container();
    void shut_down();
    void look_for_leftovers();

    const std::string id_;
    const unsigned hurry_;
    const std::string bundle_;
    std::string address_;
    std::unique_ptr<os::EventLoop> loop_;
    std::unique_ptr<ttrpc::Client> client_;
    std::unique_ptr<ttrpc::Server> events_;
    std::map<std::string, os::UniqueFd> fifos_;
    std::map<std::string, std::string> outputs_;
    std::vector<std::string> topics_;
    std::vector<std::string> complaints_;
    std::vector<std::shared_ptr<Waiting>> waits_;
    bool ended_ = false; // load() saw to it
};

} // namespace shim_test
