// A running agent with a place for containers, and what a test asks of it. The agent works in a
// mount namespace of the test's own, on a root directory with a static busybox, and below a control
// group that the test makes. Needs root.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/protocol/agent.pb.h"
#include "agent/ttrpc/client.hpp"

namespace agent_test {

namespace proto = joey::agent::v1;

// How a container's program ended and what it said; or why there was none.
struct Outcome {
    int code = -1;
    int signal = 0;
    std::string out;
    std::string err;
    std::string error; // the agent's answer, if it refused
};

// All output of a process, gathered in the background.
struct Collected {
    std::string out;
    std::string err;
    int open_streams = 0;
};

class Agent {
public:
    // The one that all tests of this program share.
    static Agent& shared();
    // The process of another one, which listens at `socket` and has `cgroup_root` for itself.
    static pid_t start_another(const std::string& socket, const std::string& cgroup_root);
    ~Agent();
    Agent(const Agent&) = delete;
    Agent& operator=(const Agent&) = delete;

    template <typename Response, typename Request>
    os::Result<Response> call(const std::string& method, const Request& request,
                              std::chrono::nanoseconds limit = std::chrono::seconds(60)) {
        return client_->call_and_wait<Response>("joey.agent.v1.Agent", method, request, limit);
    }
    ttrpc::Client& client() { return *client_; }
    os::EventLoop& loop() { return *loop_; }
    std::unique_ptr<ttrpc::Client> connect() { return connect(directory_ + "/agent.sock"); }
    std::unique_ptr<ttrpc::Client> connect(const std::string& path);
    // Waits, within a bound, for something that other processes bring about.
    bool eventually(const std::function<bool()>& holds);

    const std::string& directory() const { return directory_; }
    const std::string& cgroup_root() const { return cgroup_root_; }
    pid_t pid() const { return pid_; }
    bool has_controller(const std::string& name);

private:
    Agent();
    void start();

    std::string directory_;
    std::string cgroup_root_;
    pid_t pid_ = -1;
    std::unique_ptr<os::EventLoop> loop_;
    std::unique_ptr<ttrpc::Client> client_;
};

// The shell's words for a program of a test.
std::string shell(const std::string& script);
// {"process": {"args": ["sh", "-c", script]}} merged with `patch` (RFC 7396).
std::string script_spec(const std::string& script, const std::string& patch = "{}");
// `patch` merged into `base`.
std::string merged(const std::string& base, const std::string& patch);
// The configuration that every test begins with.
const std::string& base_spec();

// One container; removed, with its bundle, at the end.
class TestContainer {
public:
    // `patch` is merged into base_spec().
    explicit TestContainer(const std::string& patch = "{}");
    ~TestContainer();
    TestContainer(const TestContainer&) = delete;
    TestContainer& operator=(const TestContainer&) = delete;

    const std::string& id() const { return id_; }
    const std::string& bundle() const { return bundle_; }
    const std::string& spec() const { return spec_; }
    std::string rootfs() const { return bundle_ + "/rootfs"; }
    // Writes a file of the root directory, or makes a link there, before create().
    void write(const std::string& path, const std::string& text, unsigned mode = 0644) const;
    std::string read(const std::string& path) const;

    os::Result<proto::CreateResponse> create();
    os::Result<proto::StartResponse> start(const std::string& exec_id = "");
    os::Result<proto::Empty> kill(int signal, bool all = false, const std::string& exec_id = "");
    os::Result<proto::WaitResponse> wait(const std::string& exec_id = "");
    os::Result<proto::WaitResponse> remove(bool force = false, const std::string& exec_id = "");
    os::Result<proto::StateResponse> state(const std::string& exec_id = "");
    os::Result<proto::Empty> simple(const std::string& method);
    // Create, start, gather output, wait, delete.
    Outcome run();
    // The same for one more process.
    Outcome exec(const std::string& script, const std::string& patch = "{}");
    os::Result<proto::ExecResponse>
    create_exec(const std::string& exec_id, const std::string& process, bool input = false,
                const std::vector<proto::Preserved>& preserved = {});
    Collected& collect(const std::string& exec_id = "");
    os::Result<proto::Empty> write_input(const std::string& data, const std::string& exec_id = "");
    os::Result<proto::Empty> close_input(const std::string& exec_id = "");
    // create() and start(), REQUIREd.
    void must_run();

    bool input = false; // connect standard input

private:
    void read_more(const std::string& exec_id, proto::OutputStream stream, Collected& into);

    std::string id_;
    std::string bundle_;
    std::string spec_;
    std::vector<std::unique_ptr<Collected>> collected_;
    int executed_ = 0;
};

// new TestContainer(script_spec(...)).run()
Outcome run_script(const std::string& script, const std::string& patch = "{}");

} // namespace agent_test
