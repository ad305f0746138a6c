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

    struct Leaf {
        std::uint32_t eax, ebx, ecx, edx;
    };
    using HostCpuid = Leaf (*)(std::uint32_t function, std::uint32_t index);

    // A KVM without hardware virtualization names as supported what it can emulate; guest ring 3
    // runs on the CPU itself, though, and so has every unprivileged instruction that the host's
    // ring 3 has (KVM_SET_CPUID2, CR4.OSXSAVE and XCR0 are accepted accordingly). Adds those.
    void add_native_instructions(HostCpuid host);

    // The table of vCPU `cpu` of `cpus`: one socket, one thread per core.
    std::vector<kvm_cpuid_entry2> for_cpu(unsigned cpu, unsigned cpus) const;

    boot::CpuFeatures features() const;
    // What KVM offers of x87, SSE, AVX and AVX-512.
    std::uint64_t xcr0() const;
    // The sentence that says what the kernel misses on this CPU, or null.
    const char* missing() const;

private:
    kvm_cpuid_entry2* find_mutable(std::uint32_t function, std::uint32_t index);
    const kvm_cpuid_entry2* find(std::uint32_t function, std::uint32_t index = 0) const;
    std::vector<kvm_cpuid_entry2> entries_;
};

// CPUID on the processor that this runs on.
Cpuid::Leaf host_cpuid(std::uint32_t function, std::uint32_t index);

} // namespace vmm::kvm
