// One KVM vCPU: its registers, and running it until it exits.
#pragma once

#include <cstdint>
#include <span>

#include <linux/kvm.h>

#include "boot/handover/cpu_state.hpp"
#include "virtio/backend/unique_fd.hpp"
#include "vmm/error.hpp"
#include "vmm/kvm/mapping.hpp"
#include "vmm/kvm/statistics.hpp"

namespace vmm::kvm {

struct Registers {
    kvm_regs general;
    kvm_sregs special;
};

class Vcpu {
public:
    Vcpu(virtio::UniqueFd fd, Mapping run) : fd_(std::move(fd)), run_(std::move(run)) {}

    Result<void> set_cpuid(std::span<const kvm_cpuid_entry2> entries);
    // Everything of the initial state; the vCPU can be run afterwards.
    Result<void> set_state(const boot::CpuState& state, std::uint64_t xcr0);
    // Makes the guest's TSC the host's, where this KVM can.
    Result<void> align_tsc();
    Result<std::uint64_t> tsc_khz() const;
    // The guest's TSC now.
    Result<std::uint64_t> tsc() const;
    Result<Registers> registers() const;
    Result<Statistics> statistics() const { return Statistics::open(fd_.get()); }

    // KVM_RUN. Returns 0 at an exit, described in exit(); EINTR after a signal or immediate exit.
    int run();
    kvm_run& exit() const;

private:
    Result<void> set_msr(std::uint32_t index, std::uint64_t value);

    virtio::UniqueFd fd_;
    Mapping run_;
};

} // namespace vmm::kvm
