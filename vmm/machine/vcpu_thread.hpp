// One vCPU and its thread: sleeps until it is started, runs the guest, hands each exit to the
// machine, and can be stopped from outside at any time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>

#include "vmm/error.hpp"
#include "vmm/kvm/vcpu.hpp"
#include "vmm/machine/metrics.hpp"
#include "vmm/machine/thread.hpp"

namespace vmm {

// An access of the guest to physical memory that nothing backs, or to read-only memory.
struct MmioAccess {
    std::uint64_t address;
    std::span<std::byte> data;
    bool is_write;
};

// What the machine does for its vCPUs; called on their threads.
class VcpuOwner {
public:
    virtual ~VcpuOwner() = default;
    virtual Result<kvm::Vcpu> make_vcpu(unsigned index) = 0;
    virtual Result<void> before_first_run(unsigned index) = 0;
    // Whether the vCPU goes on.
    virtual bool on_mmio(unsigned index, kvm::Vcpu& vcpu, const MmioAccess& access) = 0;
    // An exit that is not MMIO: it ends the machine.
    virtual void on_unexpected_exit(unsigned index, kvm::Vcpu& vcpu) = 0;
    virtual void on_failure(unsigned index, const Error& error) = 0;
};

class VcpuThread {
public:
    // `watched`: metrics() includes what KVM counts.
    VcpuThread(unsigned index, VcpuOwner& owner, bool watched)
        : index_(index), watched_(watched), owner_(owner) {}
    VcpuThread(const VcpuThread&) = delete;
    VcpuThread& operator=(const VcpuThread&) = delete;

    // Installs the handler of the signal that makes a running vCPU exit; once per process is
    // enough.
    static Result<void> install_signal();

    // Starts the thread. `eager`: it makes its vCPU at once, before start().
    Result<void> launch(bool eager);
    // Waits until an eager vCPU is made. Its result.
    Result<void> wait_ready();
    // Lets the vCPU run; false if it already was started.
    bool start();
    // Makes the thread leave the guest and end. From any thread.
    void stop();
    void join() { thread_.join(); }

    // The registers of a vCPU that runs; it goes on at once. Nothing if it is not started, or busy
    // with an exit for longer than a second. From one other thread at a time.
    std::optional<kvm::Registers> inspect();

    // From any thread.
    VcpuMetrics metrics() const; // without what the guest counts
    // On its own thread.
    void count(ExitKind kind) { exits_.count(kind); }

    // Requires: wait_ready() returned success.
    kvm::Vcpu& vcpu() { return *vcpu_; }

private:
    enum class Order : std::uint32_t { Wait, Run, Stop };
    enum class Progress : std::uint32_t { Making, Ready, Failed };

    void main(bool eager) noexcept;
    bool make();
    void run_loop();
    bool handle_exit();
    void answer_inspection();
    bool stopping() const { return order_.load() == Order::Stop; }

    const unsigned index_;
    const bool watched_;
    VcpuOwner& owner_;
    std::atomic<Order> order_{Order::Wait};
    std::atomic<Progress> progress_{Progress::Making};
    std::atomic<kvm_run*> run_{nullptr}; // once the vCPU and its statistics exist
    std::optional<kvm::Vcpu> vcpu_;
    std::optional<kvm::Statistics> statistics_; // not if it is not watched, or KVM has none
    ExitCounters exits_;
    struct Inspection {
        std::mutex mutex;
        std::condition_variable answered;
        bool wanted = false;
        std::optional<kvm::Registers> registers;
    };
    Inspection inspection_;
    Error failure_;
    Thread thread_; // last: its destructor waits for what uses the rest
};

} // namespace vmm
