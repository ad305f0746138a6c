// The KVM virtual machine: memory slots, interrupt routes, event descriptors, vCPUs.
#pragma once

#include <cstdint>
#include <span>

#include "virtio/backend/unique_fd.hpp"
#include "vmm/error.hpp"
#include "vmm/kvm/cpuid.hpp"
#include "vmm/kvm/vcpu.hpp"

namespace vmm::kvm {

enum class SlotAccess : std::uint8_t { ReadWrite, ReadOnly };

class VmHandle {
public:
    // Opens /dev/kvm and creates a VM with local APICs in the kernel and no other interrupt
    // controller. Refuses a KVM that lacks what the machine is built on.
    static Result<VmHandle> create();

    // Backs guest-physical memory from `guest_physical` on by `host`, which must outlive the VM.
    Result<void> set_memory(std::uint32_t slot, std::uint64_t guest_physical,
                            std::span<std::byte> host, SlotAccess access);
    Result<void> set_mmu_pages(std::uint64_t pages);
    // GSI i becomes an MSI with vectors[i] to the vCPU whose APIC id is 0.
    Result<void> set_msi_routes(std::span<const std::uint8_t> vectors);
    Result<void> add_irqfd(int fd, std::uint32_t gsi);
    // A 4-byte write of `value` at `guest_physical` signals `fd` and does not exit.
    Result<void> add_ioeventfd(std::uint64_t guest_physical, std::uint32_t value, int fd);
    Result<Vcpu> create_vcpu(unsigned index);
    Result<Cpuid> supported_cpuid() const;

private:
    VmHandle(virtio::UniqueFd kvm, virtio::UniqueFd vm, std::size_t run_size)
        : kvm_(std::move(kvm)), vm_(std::move(vm)), run_size_(run_size) {}

    virtio::UniqueFd kvm_;
    virtio::UniqueFd vm_;
    std::size_t run_size_;
};

} // namespace vmm::kvm
