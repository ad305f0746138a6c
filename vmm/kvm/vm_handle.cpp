#include "vmm/kvm/vm_handle.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <vector>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include "vmm/kvm/flexible.hpp"
#include "vmm/kvm/privilege.hpp"

namespace vmm::kvm {
namespace {

struct Requirement {
    int capability;
    const char* sentence;
};

constexpr std::array requirements{
    Requirement{KVM_CAP_SPLIT_IRQCHIP, "this KVM lacks KVM_CAP_SPLIT_IRQCHIP (Linux 4.4)"},
    Requirement{KVM_CAP_READONLY_MEM, "this KVM lacks KVM_CAP_READONLY_MEM (Linux 3.7)"},
    Requirement{KVM_CAP_IRQFD, "this KVM lacks KVM_CAP_IRQFD"},
    Requirement{KVM_CAP_IOEVENTFD, "this KVM lacks KVM_CAP_IOEVENTFD"},
    Requirement{KVM_CAP_TSC_DEADLINE_TIMER, "this KVM lacks KVM_CAP_TSC_DEADLINE_TIMER"},
    Requirement{KVM_CAP_IMMEDIATE_EXIT, "this KVM lacks KVM_CAP_IMMEDIATE_EXIT (Linux 4.13)"},
    Requirement{KVM_CAP_XCRS, "this KVM lacks KVM_CAP_XCRS"},
};

Result<virtio::UniqueFd> open_kvm() {
    const int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        return virtio::UniqueFd(fd);
    if (errno == EACCES || errno == EPERM)
        return fail(0, "no permission to open /dev/kvm: add yourself to the group that owns it "
                       "(sudo usermod -aG kvm $USER), then log in again");
    if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
        return fail(0, "there is no /dev/kvm: load the kvm module (modprobe kvm_intel or kvm_amd), "
                       "or enable virtualization in the firmware or for this cloud machine");
    return fail(errno, "open /dev/kvm");
}

// Where KVM keeps a TSS of its own on Intel CPUs (KVM api.rst, 4.35): three pages that no slot has.
constexpr std::uint64_t intel_tss_address = 0xfffb'd000;

} // namespace

Result<VmHandle> VmHandle::create() {
    TRY(virtio::UniqueFd kvm, open_kvm());
    if (ioctl(kvm.get(), KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return fail(0, "/dev/kvm speaks another version of KVM's interface");
    for (const Requirement& requirement : requirements) {
        if (ioctl(kvm.get(), KVM_CHECK_EXTENSION, requirement.capability) <= 0)
            return fail(0, requirement.sentence);
    }
    const int run_size = ioctl(kvm.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < static_cast<int>(sizeof(kvm_run)))
        return fail(run_size < 0 ? errno : EINVAL, "KVM_GET_VCPU_MMAP_SIZE");

    int vm = -1;
    // Interrupted by a signal while it waits for memory (seen with SIGCHLD and SIGWINCH).
    do {
        vm = ioctl(kvm.get(), KVM_CREATE_VM, 0);
    } while (vm < 0 && errno == EINTR);
    if (vm < 0)
        return fail(errno, "KVM_CREATE_VM");
    VmHandle handle(std::move(kvm), virtio::UniqueFd(vm), static_cast<std::size_t>(run_size));

    if (host_has_vmx() && ioctl(vm, KVM_SET_TSS_ADDR, intel_tss_address) < 0)
        return fail(errno, "KVM_SET_TSS_ADDR");
    kvm_enable_cap split{};
    split.cap = KVM_CAP_SPLIT_IRQCHIP; // args[0] = 0: no GSIs kept for an I/O APIC
    if (ioctl(vm, KVM_ENABLE_CAP, &split) < 0)
        return fail(errno, "KVM_CAP_SPLIT_IRQCHIP");
    return handle;
}

Result<void> VmHandle::set_memory(std::uint32_t slot, std::uint64_t guest_physical,
                                  std::span<std::byte> host, SlotAccess access) {
    kvm_userspace_memory_region region{};
    region.slot = slot;
    region.flags = access == SlotAccess::ReadOnly ? KVM_MEM_READONLY : 0;
    region.guest_phys_addr = guest_physical;
    region.memory_size = host.size();
    const std::byte* const base = host.data();
    static_assert(sizeof(region.userspace_addr) == sizeof(base));
    std::memcpy(&region.userspace_addr, &base, sizeof(base));
    if (ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return fail(errno, "KVM_SET_USER_MEMORY_REGION");
    return {};
}

Result<void> VmHandle::set_mmu_pages(std::uint64_t pages) {
    if (ioctl(vm_.get(), KVM_SET_NR_MMU_PAGES, pages) < 0)
        return fail(errno, "KVM_SET_NR_MMU_PAGES");
    return {};
}

Result<void> VmHandle::set_msi_routes(std::span<const std::uint8_t> vectors) {
    std::vector<kvm_irq_routing_entry> entries;
    for (std::size_t gsi = 0; gsi < vectors.size(); ++gsi) {
        kvm_irq_routing_entry entry{};
        entry.gsi = static_cast<std::uint32_t>(gsi);
        entry.type = KVM_IRQ_ROUTING_MSI;
        // Destination APIC id 0, physical mode, fixed delivery, edge (Intel SDM 3A 11.11).
        entry.u.msi.address_lo = 0xfee0'0000;
        entry.u.msi.data = vectors[gsi];
        entries.push_back(entry);
    }
    auto buffer = to_flexible(std::span<const kvm_irq_routing_entry>(entries));
    if (ioctl(vm_.get(), set_gsi_routing, buffer.data()) < 0)
        return fail(errno, "KVM_SET_GSI_ROUTING");
    return {};
}

Result<void> VmHandle::add_irqfd(int fd, std::uint32_t gsi) {
    kvm_irqfd irqfd{};
    irqfd.fd = static_cast<std::uint32_t>(fd);
    irqfd.gsi = gsi;
    if (ioctl(vm_.get(), KVM_IRQFD, &irqfd) < 0)
        return fail(errno, "KVM_IRQFD");
    return {};
}

Result<void> VmHandle::add_ioeventfd(std::uint64_t guest_physical, std::uint32_t value, int fd) {
    kvm_ioeventfd bell{};
    bell.datamatch = value;
    bell.addr = guest_physical;
    bell.len = sizeof(value);
    bell.fd = fd;
    bell.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
    if (ioctl(vm_.get(), KVM_IOEVENTFD, &bell) < 0)
        return fail(errno, "KVM_IOEVENTFD");
    return {};
}

Result<Vcpu> VmHandle::create_vcpu(unsigned index) {
    virtio::UniqueFd fd(ioctl(vm_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(index)));
    if (!fd)
        return fail(errno, "KVM_CREATE_VCPU");
    TRY(Mapping run, Mapping::create(run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(),
                                     "map a vCPU's kvm_run"));
    return Vcpu(std::move(fd), std::move(run));
}

Result<Cpuid> VmHandle::supported_cpuid() const {
    // More entries than any CPU has; KVM answers E2BIG otherwise.
    constexpr std::uint32_t max_entries = 256;
    const std::vector<kvm_cpuid_entry2> room(max_entries);
    auto buffer = to_flexible(std::span<const kvm_cpuid_entry2>(room));
    if (ioctl(kvm_.get(), get_supported_cpuid, buffer.data()) < 0)
        return fail(errno, "KVM_GET_SUPPORTED_CPUID");
    return Cpuid(from_flexible<kvm_cpuid_entry2>(buffer));
}

} // namespace vmm::kvm
