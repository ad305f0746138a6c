// The machine's memory: RAM in one memfd, the kernel image in a mapping of its own that shares its
// unwritten pages with the page cache, and the devices' register pages.
#pragma once

#include <cstdint>
#include <string>

#include "boot/elf/kernel_image.hpp"
#include "boot/protocol/layout.hpp"
#include "virtio/backend/unique_fd.hpp"
#include "virtio/memory/guest_memory.hpp"
#include "vmm/error.hpp"
#include "vmm/kvm/mapping.hpp"
#include "vmm/kvm/vm_handle.hpp"

namespace vmm {

class MachineMemory {
public:
    // Reserves `ram_bytes` of guest RAM (nothing is touched) and loads the kernel image.
    static Result<MachineMemory> create(std::uint64_t ram_bytes, const std::string& kernel_path);

    // Gives memory to KVM, which allocates several bytes of its own for each page: milliseconds for
    // gigabytes. So what a guest uses at first comes first, and the rest while it already runs.
    Result<void> attach_first(kvm::VmHandle& vm) const;
    Result<void> attach_rest(kvm::VmHandle& vm) const;

    // Has the host back what every guest touches while it boots: the start of RAM and the kernel's
    // data. A page that the host has backed costs the guest's first touch a fraction, and this runs
    // beside the rest of the set-up. Best effort.
    void populate() const;

    // Of RAM, what was touched by anybody so far.
    std::uint64_t backed_bytes() const;

    std::uint64_t low_ram_end() const { return low_bytes_; }
    std::uint64_t high_ram_end() const;
    std::span<std::byte> low_ram() const { return ram_.bytes().first(low_bytes_); }
    const boot::KernelImage& kernel() const { return kernel_; }
    // The whole ELF file, for its symbols.
    std::span<const std::byte> kernel_file() const { return kernel_file_.bytes(); }
    std::span<std::byte, boot::page_size> device_page(unsigned device) const;
    // All that the guest may name by address: RAM and the kernel image.
    const virtio::GuestMemory& guest() const { return guest_; }

private:
    MachineMemory() = default;
    Result<void> load_kernel(const std::string& path);

    virtio::UniqueFd ram_file_;
    Mapping ram_;
    std::uint64_t low_bytes_ = 0;
    boot::KernelImage kernel_{};
    Mapping kernel_file_;
    Mapping kernel_memory_;
    Mapping device_pages_;
    virtio::GuestMemory guest_;
};

} // namespace vmm
