// Session: one `joey do`, from the caller's streams and shares to the exit status.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "boot/protocol/device_tree.hpp"
#include "tools/joey/metrics/endpoint.hpp"
#include "tools/joey/metrics/vm_metrics.hpp"
#include "tools/joey/network.hpp"
#include "tools/joey/options.hpp"
#include "tools/joey/outcome.hpp"
#include "tools/joey/reporter.hpp"
#include "tools/joey/shares.hpp"
#include "tools/joey/signals.hpp"
#include "tools/joey/streams.hpp"
#include "tools/joey/terminal.hpp"
#include "tools/joey/vsock.hpp"
#include "virtio/backend/host_entropy.hpp"
#include "virtio/backend/ports.hpp"
#include "virtio/device/console/console.hpp"
#include "virtio/device/rng/rng.hpp"
#include "vmm/machine/vm.hpp"

namespace joey {

class Session {
public:
    // `start_tsc`: when the process started.
    Session(DoOptions options, std::uint64_t start_tsc)
        : options_(std::move(options)), start_tsc_(start_tsc),
          reporter_(options_.log_format, options_.log_fd) {}

    // To say why run() failed.
    const Reporter& reporter() const { return reporter_; }

    // Runs the command to its end; the result is the exit status. The terminal is as it was. The
    // process must end soon after, without this object's destructor: devices and the machine's
    // event loop refer to each other. Requires: one thread so far.
    Outcome<int> run();

private:
    Outcome<int> run_machine();
    Outcome<void> set_up_process();
    Outcome<void> open_network();
    Outcome<boot::GuestDescription> describe_guest() const;
    Outcome<void> enter_sandbox();
    Outcome<void> make_machine(boot::GuestDescription guest);
    Outcome<void> list_devices();
    Outcome<void> add_devices();
    Outcome<void> offer_metrics();
    std::unique_ptr<virtio::FdPort> make_port(int input, int output);
    void deliver_last_output(std::function<void()> done);
    void on_signal(int signal);
    void send(boot::ControlMessageType type, std::uint32_t a = 0, std::uint32_t b = 0);
    void send_window();
    void stop_and_continue();
    Outcome<int> conclude(const vmm::EndReason& end);
    void print_timing();
    void mark(std::string_view name);

    const DoOptions options_;
    const std::uint64_t start_tsc_;
    std::vector<vmm::TimingMark> marks_;
    std::uint32_t umask_ = 022;
    std::vector<boot::Rlimit> rlimits_;
    unsigned cpus_ = 1;
    std::uint64_t memory_bytes_ = 0;
    Reporter reporter_;
    Streams streams_;
    // By descriptor; opened before the sandbox, which forbids opening a terminal.
    std::array<std::optional<virtio::FdStream::Prepared>, 3> prepared_;
    std::optional<SignalQueue> signals_;
    std::optional<Shares> shares_;
    std::unique_ptr<RawTerminal> terminal_;
    std::unique_ptr<VmSockets> sockets_; // null: the VM has none

    virtio::HostEntropy entropy_;
    virtio::Rng rng_{entropy_};
    virtio::MessagePort control_port_;
    std::unique_ptr<virtio::FdPort> stdio_port_;
    std::unique_ptr<virtio::FdPort> stderr_port_;
    std::unique_ptr<virtio::Console> console_;
    std::unique_ptr<Network> network_; // null: none
    std::vector<WatchedDevice> devices_;
    std::unique_ptr<MetricsEndpoint> metrics_; // null: none
    std::unique_ptr<vmm::Vm> vm_;
};

} // namespace joey
