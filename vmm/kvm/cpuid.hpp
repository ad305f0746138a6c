// The CPUID table that the guest's CPUs answer with: what KVM supports, with the APIC ids and the
// topology of this machine.
#pragma once

#include <cstdint>
#include <vector>

#include <linux/kvm.h>

#include "boot/handover/cpu_state.hpp"

namespace vmm::kvm {

class Cpuid {
public:
    explicit Cpuid(std::vector<kvm_cpuid_entry2> supported) : entries_(std::move(supported)) {}

    // The table of vCPU `cpu` of `cpus`: one socket, one thread per core.
    std::vector<kvm_cpuid_entry2> for_cpu(unsigned cpu, unsigned cpus) const;

    boot::CpuFeatures features() const;
    // What KVM offers of x87, SSE, AVX and AVX-512.
    std::uint64_t xcr0() const;
    // The sentence that says what the kernel misses on this CPU, or null.
    const char* missing() const;

private:
    const kvm_cpuid_entry2* find(std::uint32_t function, std::uint32_t index = 0) const;
    std::vector<kvm_cpuid_entry2> entries_;
};

} // namespace vmm::kvm
