// Machine: the Vm. It puts memory, vCPUs, devices and the control page together, and keeps the
// first reason for the machine's end.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "virtio/guarded.hpp"
#include "vmm/crash/report.hpp"
#include "vmm/kvm/vm_handle.hpp"
#include "vmm/machine/control_page.hpp"
#include "vmm/machine/device_slot.hpp"
#include "vmm/machine/memory.hpp"
#include "vmm/machine/vcpu_thread.hpp"
#include "vmm/machine/vm.hpp"

namespace vmm {

class Machine final : public Vm, public VcpuOwner {
public:
    static Result<std::unique_ptr<Machine>> create(VmConfig config, VmHooks hooks);
    ~Machine() override;

    Result<unsigned> add_device(virtio::Device& device) override;
    EventLoop& event_loop() override { return *loop_; }
    Result<virtio::EventLoop*> add_event_loop(ThreadClass thread_class,
                                              const char* thread_name) override;
    const virtio::GuestMemory& guest_memory() const override { return memory_.guest(); }
    boot::Privilege privilege() const override { return privilege_; }
    boot::GuestDescription& guest() override { return config_.guest; }
    EndReason run() override;
    void stop() override;
    std::string describe_cpus() override;
    std::vector<TimingMark> timing() const override;
    std::uint64_t tsc_khz() const override { return tsc_khz_; }
    MachineMetrics metrics() const override;

private:
    // Why the machine ended, as far as the thread that saw it could say.
    struct End {
        EndReason reason;
        std::optional<crash::Crash> crash; // makes the report, once all is still
    };
    // Makes the sense of one vCPU's control-page writes.
    class Control;

    Machine(VmConfig config, VmHooks hooks, boot::Privilege privilege,
            std::unique_ptr<EventLoop> loop, kvm::VmHandle vm, MachineMemory memory);

    Result<void> set_up();
    Result<void> write_boot_area();
    // From the devices to the end of the main loop; the error is what kept it from running.
    Result<void> run_guest();
    void deliver_last_output();
    EndReason conclude();

    Result<kvm::Vcpu> make_vcpu(unsigned index) override;
    Result<void> before_first_run(unsigned index) override;
    bool on_mmio(unsigned index, kvm::Vcpu& vcpu, const MmioAccess& access) override;
    void on_unexpected_exit(unsigned index, kvm::Vcpu& vcpu) override;
    void on_failure(unsigned index, const Error& error) override;

    // A loop beside the main one.
    struct SideLoop {
        ThreadClass thread_class;
        const char* name;
        std::unique_ptr<EventLoop> loop;
        Thread thread;
    };
    Result<void> start_side_loops();
    void stop_side_loops();

    // When the thread that provides memory may go on from what is cheap to the rest.
    enum class RestOrder : std::uint32_t { Wait, Attach, Never };
    void provide_memory();
    void order_rest(RestOrder order);
    bool access_ram(const MmioAccess& access);
    bool write_device(const MmioAccess& access);
    void violation(unsigned index, kvm::Vcpu& vcpu, const std::string& what);
    void end(EndReason reason, std::optional<crash::Crash> crash = std::nullopt);
    void mark(std::string_view name, bool from_guest = false);

    VmConfig config_;
    VmHooks hooks_;
    const boot::Privilege privilege_;
    std::unique_ptr<EventLoop> loop_;
    // In this order: KVM lets go of the memory before it is unmapped.
    MachineMemory memory_;
    kvm::VmHandle vm_;
    std::optional<kvm::Cpuid> cpuid_; // by the thread of vCPU 0
    std::vector<std::unique_ptr<DeviceSlot>> devices_;
    std::uint64_t tsc_khz_ = 0;
    mutable virtio::Guarded<std::vector<TimingMark>> timing_;
    virtio::Guarded<std::optional<End>> end_;
    std::atomic<int> exec_errno_{0};
    std::atomic<RestOrder> rest_may_attach_{RestOrder::Wait}; // the first order holds
    std::atomic<bool> all_memory_attached_{false};
    // Last: the threads use all of the above.
    Thread memory_thread_;
    std::vector<std::unique_ptr<VcpuThread>> vcpus_;
    std::vector<std::unique_ptr<SideLoop>> side_loops_;
};

} // namespace vmm
