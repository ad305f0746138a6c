#include "vmm/kvm/vcpu.hpp"

#include <cerrno>
#include <cstring>
#include <vector>

#include <sys/ioctl.h>

#include "vmm/kvm/flexible.hpp"

namespace vmm::kvm {
namespace {

constexpr std::uint32_t msr_tsc = 0x10;
constexpr std::uint32_t msr_star = 0xc000'0081;
constexpr std::uint64_t apic_base_x2apic_enabled = 1u << 11 | 1u << 10;

kvm_segment code_segment(const boot::CpuState& state) {
    kvm_segment segment{};
    segment.limit = 0xffff'ffff;
    segment.selector = state.code_selector;
    segment.type = 0xb; // execute, read, accessed
    segment.present = 1;
    segment.dpl = state.privilege_level;
    segment.s = 1;
    segment.l = 1;
    segment.g = 1;
    return segment;
}

kvm_segment data_segment(const boot::CpuState& state) {
    kvm_segment segment{};
    segment.limit = 0xffff'ffff;
    segment.selector = state.data_selector;
    segment.type = 0x3; // read, write, accessed
    segment.present = 1;
    segment.dpl = state.privilege_level;
    segment.db = 1;
    segment.s = 1;
    segment.g = 1;
    return segment;
}

kvm_segment task_segment(const boot::CpuState& state) {
    kvm_segment segment{};
    segment.base = state.tss_base;
    segment.limit = state.tss_limit;
    segment.selector = state.tss_selector;
    segment.type = 0xb; // busy 64-bit TSS
    segment.present = 1;
    return segment;
}

} // namespace

Result<void> Vcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) {
    auto buffer = to_flexible(entries);
    if (ioctl(fd_.get(), set_cpuid2, buffer.data()) < 0)
        return fail(errno, "KVM_SET_CPUID2");
    return {};
}

Result<void> Vcpu::set_state(const boot::CpuState& state, std::uint64_t xcr0) {
    kvm_sregs special{};
    if (ioctl(fd_.get(), KVM_GET_SREGS, &special) < 0)
        return fail(errno, "KVM_GET_SREGS");
    special.cr0 = state.cr0;
    special.cr3 = state.cr3;
    special.cr4 = state.cr4;
    special.efer = state.efer;
    special.apic_base |= apic_base_x2apic_enabled;
    special.cs = code_segment(state);
    special.ds = special.es = special.fs = special.gs = special.ss = data_segment(state);
    special.tr = task_segment(state);
    special.gdt.base = state.gdt_base;
    special.gdt.limit = state.gdt_limit;
    special.idt.base = state.idt_base;
    special.idt.limit = state.idt_limit;
    if (ioctl(fd_.get(), KVM_SET_SREGS, &special) < 0)
        return fail(errno, "KVM_SET_SREGS");

    kvm_regs general{};
    general.rip = state.rip;
    general.rsp = state.rsp;
    general.rdi = state.rdi;
    general.rsi = state.rsi;
    general.rflags = state.rflags;
    if (ioctl(fd_.get(), KVM_SET_REGS, &general) < 0)
        return fail(errno, "KVM_SET_REGS");

    kvm_xcrs extended{};
    extended.nr_xcrs = 1;
    extended.xcrs[0].xcr = 0;
    extended.xcrs[0].value = xcr0;
    if (ioctl(fd_.get(), KVM_SET_XCRS, &extended) < 0)
        return fail(errno, "KVM_SET_XCRS");
    TRY(set_msr(msr_star, state.star));

    // vCPUs other than the first wait for a start-up IPI by default.
    kvm_mp_state runnable{KVM_MP_STATE_RUNNABLE};
    if (ioctl(fd_.get(), KVM_SET_MP_STATE, &runnable) < 0)
        return fail(errno, "KVM_SET_MP_STATE");
    return {};
}

Result<void> Vcpu::set_msr(std::uint32_t index, std::uint64_t value) {
    const kvm_msr_entry entry{index, 0, value};
    auto buffer = to_flexible(std::span(&entry, 1));
    const int set = ioctl(fd_.get(), set_msrs, buffer.data());
    if (set != 1)
        return fail(set < 0 ? errno : EINVAL, "KVM_SET_MSRS");
    return {};
}

Result<void> Vcpu::align_tsc() {
    std::uint64_t offset = 0;
    kvm_device_attr attribute{};
    attribute.group = KVM_VCPU_TSC_CTRL;
    attribute.attr = KVM_VCPU_TSC_OFFSET;
    static_assert(sizeof(attribute.addr) == sizeof(&offset));
    std::uint64_t* const pointer = &offset;
    std::memcpy(&attribute.addr, &pointer, sizeof(pointer));
    if (ioctl(fd_.get(), KVM_SET_DEVICE_ATTR, &attribute) < 0)
        return fail(errno, "KVM_VCPU_TSC_OFFSET");
    return {};
}

Result<std::uint64_t> Vcpu::tsc_khz() const {
    const int khz = ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
    if (khz <= 0)
        return fail(khz < 0 ? errno : EIO, "KVM_GET_TSC_KHZ");
    return static_cast<std::uint64_t>(khz);
}

Result<std::uint64_t> Vcpu::tsc() const {
    const kvm_msr_entry wanted{msr_tsc, 0, 0};
    auto buffer = to_flexible(std::span(&wanted, 1));
    const int got = ioctl(fd_.get(), get_msrs, buffer.data());
    if (got != 1)
        return fail(got < 0 ? errno : EINVAL, "KVM_GET_MSRS");
    return from_flexible<kvm_msr_entry>(buffer).front().data;
}

Result<Registers> Vcpu::registers() const {
    Registers registers{};
    if (ioctl(fd_.get(), KVM_GET_REGS, &registers.general) < 0)
        return fail(errno, "KVM_GET_REGS");
    if (ioctl(fd_.get(), KVM_GET_SREGS, &registers.special) < 0)
        return fail(errno, "KVM_GET_SREGS");
    return registers;
}

int Vcpu::run() {
    return ioctl(fd_.get(), KVM_RUN, 0) < 0 ? errno : 0;
}

kvm_run& Vcpu::exit() const {
    // SAFETY: KVM shares a kvm_run at the start of this mapping (KVM api.rst, 4.4).
    return *reinterpret_cast<kvm_run*>(run_.data());
}

} // namespace vmm::kvm
