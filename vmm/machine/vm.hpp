// Vm: one virtual machine, from its configuration to the reason for its end. This is what tools/
// calls; everything else in vmm/ stands behind it.
//
//     TRY(auto vm, vmm::Vm::create(std::move(config), std::move(hooks)));
//     TRY(vm->add_device(console));              // in the order of their numbers
//     vm->event_loop().add(signal_fd, ...);      // the caller's own events
//     const vmm::EndReason end = vm->run();      // on the main thread; runs the event loop
//
// All signals that the caller wants to see on the main thread alone, it blocks before create():
// the threads of the machine let through SIGRTMIN (their own) and what a fault raises, no more.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "boot/fdt/guest_description.hpp"
#include "boot/protocol/boot_block.hpp"
#include "boot/protocol/control.hpp"
#include "virtio/device/device.hpp"
#include "vmm/error.hpp"
#include "vmm/kvm/privilege.hpp"
#include "vmm/machine/event_loop.hpp"
#include "vmm/machine/limits.hpp"
#include "vmm/machine/metrics.hpp"

namespace vmm {

// Every kind of thread in the process; the sandbox has a row of rules for each.
enum class ThreadClass : std::uint8_t { EventLoop, Vcpu, FsWorker, Net, UserNet };

struct VmConfig {
    std::string kernel_path; // empty: find_kernel()
    PrivilegeChoice privilege = PrivilegeChoice::Auto;
    unsigned cpus = 1;                       // 1..boot::max_cpus
    std::uint64_t memory_bytes = 512u << 20; // min_memory_bytes..max_memory_bytes, whole pages
    boot::GuestDescription guest;
    bool watched = false;                // metrics() includes KVM's own counters
    std::uint64_t process_start_tsc = 0; // 0: the TSC when create() was called
};

struct VmHooks {
    // A line from the guest kernel's log. Runs on the vCPU thread that wrote it, possibly on
    // several at once; the text may hold any byte and dies with the call.
    std::function<void(boot::LogLevel, std::string_view)> log;
    // On the main thread, inside run(): all is set up, no guest instruction has run. An error ends
    // the VM. Here the sandbox of the process and of the main thread begins.
    std::function<Result<void>()> before_guest;
    // On the main thread, inside run(): the vCPUs have stopped, for whatever reason, and the
    // devices still work. Takes what the guest has put into their queues and calls `done`, soon or
    // at once; the machine waits for it, but not for ever.
    std::function<void(std::function<void()> done)> last_output;
    // On each thread that the machine starts, after its own set-up and before its first guest
    // instruction. All threads exist before before_guest is called; those of vCPUs that the guest
    // has not started yet (Control::start_cpu) sleep until then, create their vCPU (KVM_CREATE_VCPU
    // and its set-up) and come here.
    std::function<Result<void>(ThreadClass)> on_thread_start;
};

struct EndReason {
    enum class Kind : std::uint8_t {
        ProgramExited,  // wait_status
        ExecFailed,     // exec_errno: the program could not be started
        GuestPanic,     // report
        GuestFault,     // report: triple fault, or an instruction that KVM cannot emulate
        GuestViolation, // report: the guest broke the rules of the control page or the memory map
        HostFailure,    // report: the host refused something
        Stopped,        // by Vm::stop()
    };
    Kind kind = Kind::Stopped;
    int wait_status = 0;
    int exec_errno = 0;
    std::string report; // lines for a person, without a newline at the end
};

// One entry of --timing, by the host's TSC.
struct TimingMark {
    std::string_view name; // a string literal
    std::uint64_t tsc;
    bool from_guest;
};

class Vm {
public:
    static Result<std::unique_ptr<Vm>> create(VmConfig config, VmHooks hooks);
    virtual ~Vm() = default;
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;

    // Puts a device behind the next virtio-mmio page; returns its number, 0 first. The device is
    // the caller's and must outlive this object. Requires: run() has not been called.
    virtual Result<unsigned> add_device(virtio::Device& device) = 0;

    virtual EventLoop& event_loop() = 0;
    // Another loop with a thread of its own, for devices that would keep the main one busy
    // (virtio::Device::event_loop()); it runs while the guest does. Nothing of it may be in use
    // when this object is destroyed. Requires: run() has not been called.
    virtual Result<virtio::EventLoop*> add_event_loop(ThreadClass thread_class,
                                                      const char* thread_name) = 0;
    virtual const virtio::GuestMemory& guest_memory() const = 0;
    virtual boot::Privilege privilege() const = 0;
    // What the guest will be told; may still be changed until run().
    virtual boot::GuestDescription& guest() = 0;

    // Runs the machine to its end, once: its threads are gone and its devices are reset on return.
    virtual EndReason run() = 0;
    // Ends the machine as soon as may be; run() returns Kind::Stopped unless it ended otherwise
    // first. From any thread, and from a signal handler.
    virtual void stop() = 0;

    // Where each running CPU stands, as in a crash report, for a guest that seems to hang; it goes
    // on. Inside run(), on its thread: from a callback of the event loop.
    virtual std::string describe_cpus() = 0;

    // What was marked so far.
    virtual std::vector<TimingMark> timing() const = 0;
    // Requires: the guest has been started.
    virtual std::uint64_t tsc_khz() const = 0;
    // As it is now. Inside run(), on its thread.
    virtual MachineMetrics metrics() const = 0;

protected:
    Vm() = default;
};

// The kernel image beside this executable, or in the installation's library folder.
Result<std::string> find_kernel();

} // namespace vmm
