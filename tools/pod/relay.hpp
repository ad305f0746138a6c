// Relay: the process that stands for a container, or for a process in one, on the host. Its number
// is the one in the pid file: signals sent to it reach the program in the guest, and it ends when
// that does, with its status. Meanwhile it carries the standard streams.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/os/event_loop.hpp"
#include "tools/pod/agent_link.hpp"
#include "tools/pod/preserved.hpp"

namespace pod {

struct RelayConfig {
    std::string container;
    std::string exec; // empty: the container's first process
    // stdin, stdout and stderr of this process, or with `terminal` a terminal for all three, which
    // is put in raw mode.
    std::array<int, 3> streams{0, 1, 2};
    // The program's descriptors 3 and up. The relay has them for itself: it closes each when the
    // program has.
    std::vector<PreservedFd> preserved;
    bool terminal = false;
    // The terminal becomes this process's own, so that its size can be followed.
    bool take_terminal = false;
    // With `terminal`: the streams are none themselves (pipes, fifos); the first two carry what the
    // program's terminal does, and its size comes from elsewhere.
    bool over_streams = false;
    // With a terminal: sees what is typed, may take some of it away; true: the caller has had
    // enough of it. Then run() returns 0 at once, and a copy of this process stands for the
    // program.
    std::function<bool(std::string& typed)> leaves;
    std::string exit_record; // where the status goes; empty: nowhere
    // Called when the program has ended and nothing of its is left in the guest, then when there is
    // no more to do with the guest; by a copy of this process, if others hold its streams for
    // longer.
    std::function<void()> received;
    std::function<void()> ended;
};

class Relay {
public:
    Relay(os::EventLoop& loop, AgentLink& agent, RelayConfig config);
    ~Relay();
    Relay(const Relay&) = delete;
    Relay& operator=(const Relay&) = delete;

    // Blocks the signals that go to the program. Requires: one thread.
    os::Result<void> prepare();
    // Until the program has ended and what it wrote has been delivered; its status, as a shell has
    // it. A program that is left behind with the streams open, and whoever is slow to take what was
    // written, are served by a copy of this process, which has the loop from then on.
    int run();

private:
    struct Output;
    class Input;

    template <typename Request>
    Request addressed() const;
    void open_streams();
    void open_preserved();
    void add_output(const std::shared_ptr<Output>& output);
    void add_preserved_output(std::uint32_t descriptor, os::UniqueFd fd);
    bool all_received() const;
    bool all_delivered() const;
    void tell_received();
    void deliver_rest();
    int leave();
    void look_at_typed(std::uint32_t descriptor, std::string& data);
    void record_exit() const;
    void send_signal(std::uint32_t number);
    void send_size();
    void close_input();
    void read_more(const std::shared_ptr<Output>& output);
    void deliver(const std::shared_ptr<Output>& output);
    bool is_on_terminal() const { return config_.terminal && !config_.over_streams; }
    void take_signals();
    void wait_for_exit();
    void restore_terminal();

    os::EventLoop& loop_;
    AgentLink& agent_;
    const RelayConfig config_;
    os::UniqueFd signals_;
    std::vector<std::unique_ptr<Input>> inputs_; // the first is standard input, or null
    std::vector<std::shared_ptr<Output>> outputs_;
    os::UniqueFd terminal_out_;
    struct Saved;
    std::unique_ptr<Saved> saved_; // of the terminal
    bool exited_ = false;
    bool left_ = false; // by the caller
    bool told_received_ = false;
    bool oom_killed_ = false;
    int status_ = 0;
};

// Sent to a relay: what is in its standard input now is the last of it.
int close_input_signal();

// What the agent says about an end, as a shell has it.
int status_of(const proto::ExitStatus& exit);

// A pseudo-terminal; its master goes over the Unix socket at `console_socket` (as runc's does), and
// the slave is the result.
os::Result<os::UniqueFd> open_console(const std::string& console_socket);

} // namespace pod
