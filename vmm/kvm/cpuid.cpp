#include "vmm/kvm/cpuid.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cpuid.h>

namespace vmm::kvm {
namespace {

// Intel SDM 2A, CPUID; AMD APM 3, appendix E.
constexpr std::uint32_t leaf_features = 1;
constexpr std::uint32_t leaf_cache = 4;
constexpr std::uint32_t leaf_structured_features = 7;
constexpr std::uint32_t leaf_topology = 0xb;
constexpr std::uint32_t leaf_xsave = 0xd;
constexpr std::uint32_t leaf_topology_v2 = 0x1f;
constexpr std::uint32_t leaf_kvm_features = 0x4000'0001;
constexpr std::uint32_t leaf_extended_features = 0x8000'0001;
constexpr std::uint32_t leaf_amd_sizes = 0x8000'0008;
constexpr std::uint32_t leaf_amd_cache = 0x8000'001d;
constexpr std::uint32_t leaf_amd_topology = 0x8000'001e;

constexpr std::uint32_t features_ecx_x2apic = 1u << 21;
constexpr std::uint32_t features_ecx_tsc_deadline = 1u << 24;
constexpr std::uint32_t features_ecx_xsave = 1u << 26;
constexpr std::uint32_t features_ecx_osxsave = 1u << 27;
constexpr std::uint32_t features_ecx_hypervisor = 1u << 31;
constexpr std::uint32_t features_edx_htt = 1u << 28;
constexpr std::uint32_t extended_ecx_topology = 1u << 22;
constexpr std::uint32_t extended_ecx_legacy_cores = 1u << 1;
constexpr std::uint32_t structured_ebx_fsgsbase = 1u << 0;
constexpr std::uint32_t structured_ebx_smep = 1u << 7;
constexpr std::uint32_t structured_ebx_smap = 1u << 20;
constexpr std::uint32_t structured_ecx_umip = 1u << 2;

constexpr std::uint32_t level_type_thread = 1;
constexpr std::uint32_t level_type_core = 2;

constexpr std::uint32_t bits(std::initializer_list<unsigned> numbers) {
    std::uint32_t mask = 0;
    for (const unsigned number : numbers)
        mask |= 1u << number;
    return mask;
}

// Instructions that ring 3 can use without the kernel's help beyond CR4.OSXSAVE, FSGSBASE and XCR0.
struct NativeBits {
    std::uint32_t function;
    std::uint32_t index;
    Cpuid::Leaf mask;
};
constexpr std::array native_bits{
    // SSE3 PCLMULQDQ SSSE3 FMA CMPXCHG16B SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND
    NativeBits{
        leaf_features, 0, {0, 0, bits({0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30}), 0}},
    // FSGSBASE BMI1 AVX2 BMI2 ERMS AVX512-F,DQ RDSEED ADX IFMA CLFLUSHOPT CLWB CD SHA BW VL;
    // VBMI VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ RDPID; FSRM VP2INTERSECT
    NativeBits{leaf_structured_features,
               0,
               {0, bits({0, 3, 5, 8, 9, 16, 17, 18, 19, 21, 23, 24, 28, 29, 30, 31}),
                bits({1, 6, 8, 9, 10, 11, 12, 14, 22}), bits({4, 8})}},
    // AVX-VNNI AVX512-BF16
    NativeBits{leaf_structured_features, 1, {bits({4, 5}), 0, 0, 0}},
    // XSAVEOPT XSAVEC XGETBV with ECX=1
    NativeBits{leaf_xsave, 1, {bits({0, 1, 2}), 0, 0, 0}},
    // LAHF ABM SSE4A MISALIGNSSE 3DNOWPREFETCH; RDTSCP
    NativeBits{leaf_extended_features, 0, {0, 0, bits({0, 5, 6, 7, 8}), bits({27})}},
};

// Bits of the APIC id that tell the cores of the one socket apart.
std::uint32_t core_bits(unsigned cpus) {
    return static_cast<std::uint32_t>(std::bit_width(cpus - 1));
}

void describe_levels(std::vector<kvm_cpuid_entry2>& table, std::uint32_t leaf, unsigned cpu,
                     unsigned cpus) {
    std::erase_if(table, [leaf](const kvm_cpuid_entry2& e) { return e.function == leaf; });
    kvm_cpuid_entry2 level{};
    level.function = leaf;
    level.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    level.edx = cpu;
    // Subleaf 0: threads of a core, one; subleaf 1: threads of the socket; 2: no further level.
    level.index = 0;
    level.eax = 0;
    level.ebx = 1;
    level.ecx = level_type_thread << 8 | 0;
    table.push_back(level);
    level.index = 1;
    level.eax = core_bits(cpus);
    level.ebx = cpus;
    level.ecx = level_type_core << 8 | 1;
    table.push_back(level);
    level.index = 2;
    level.eax = 0;
    level.ebx = 0;
    level.ecx = 2;
    table.push_back(level);
}

void set_bit(std::uint32_t& word, std::uint32_t bit, bool on) {
    word = on ? word | bit : word & ~bit;
}

// Caches of level 3 are shared by the whole socket, the others by nobody (bits 25..14: threads that
// share it, less one).
void describe_cache(kvm_cpuid_entry2& entry, unsigned cpus) {
    const std::uint32_t level = entry.eax >> 5 & 7;
    const std::uint32_t sharing = level >= 3 ? cpus - 1 : 0;
    entry.eax = (entry.eax & ~(0xfffu << 14)) | sharing << 14;
    // Bits 31..26, Intel only: cores of the package, less one.
    if (entry.function == leaf_cache && (entry.eax & 0x1f) != 0)
        entry.eax = (entry.eax & ~(0x3fu << 26)) | ((1u << core_bits(cpus)) - 1) << 26;
}

void adapt(kvm_cpuid_entry2& entry, unsigned cpu, unsigned cpus) {
    switch (entry.function) {
    case leaf_features:
        entry.ebx = (entry.ebx & 0x0000'ffff) | cpus << 16 | cpu << 24;
        entry.ecx |= features_ecx_x2apic | features_ecx_tsc_deadline | features_ecx_hypervisor;
        // KVM sets it from CR4, which is what XGETBV users look at.
        entry.ecx &= ~features_ecx_osxsave;
        set_bit(entry.edx, features_edx_htt, cpus > 1);
        break;
    case leaf_cache:
    case leaf_amd_cache:
        describe_cache(entry, cpus);
        break;
    case leaf_kvm_features:
        // No paravirtual feature is used, and none of their MSRs are offered to the guest's kernel.
        entry.eax = 0;
        entry.edx = 0;
        break;
    case leaf_extended_features:
        set_bit(entry.ecx, extended_ecx_legacy_cores, cpus > 1);
        entry.ecx |= extended_ecx_topology;
        break;
    case leaf_amd_sizes:
        // 7..0 cores less one; 15..12 bits of the APIC id that number them.
        entry.ecx = (entry.ecx & ~0xf0ffu) | (cpus - 1) | core_bits(cpus) << 12;
        break;
    case leaf_amd_topology:
        entry.eax = cpu;
        entry.ebx = cpu & 0xff; // core id; one thread per core
        entry.ecx = 0;          // one node
        break;
    default:
        break;
    }
}

} // namespace

const kvm_cpuid_entry2* Cpuid::find(std::uint32_t function, std::uint32_t index) const {
    const auto found = std::ranges::find_if(entries_, [&](const kvm_cpuid_entry2& e) {
        return e.function == function && e.index == index;
    });
    return found == entries_.end() ? nullptr : &*found;
}

kvm_cpuid_entry2* Cpuid::find_mutable(std::uint32_t function, std::uint32_t index) {
    return const_cast<kvm_cpuid_entry2*>(find(function, index));
}

void Cpuid::add_native_instructions(HostCpuid host) {
    for (const NativeBits& native : native_bits) {
        kvm_cpuid_entry2* entry = find_mutable(native.function, native.index);
        if (entry == nullptr)
            continue;
        const Leaf has = host(native.function, native.index);
        entry->eax |= has.eax & native.mask.eax;
        entry->ebx |= has.ebx & native.mask.ebx;
        entry->ecx |= has.ecx & native.mask.ecx;
        entry->edx |= has.edx & native.mask.edx;
    }
}

std::vector<kvm_cpuid_entry2> Cpuid::for_cpu(unsigned cpu, unsigned cpus) const {
    std::vector<kvm_cpuid_entry2> table = entries_;
    const bool amd_topology = find(leaf_amd_topology) != nullptr;
    for (kvm_cpuid_entry2& entry : table) {
        // Without the leaf there is nothing to announce.
        const std::uint32_t extended_ecx = entry.ecx;
        adapt(entry, cpu, cpus);
        if (entry.function == leaf_extended_features && !amd_topology)
            entry.ecx = extended_ecx;
    }
    describe_levels(table, leaf_topology, cpu, cpus);
    std::erase_if(table, [](const kvm_cpuid_entry2& e) { return e.function == leaf_topology_v2; });
    return table;
}

boot::CpuFeatures Cpuid::features() const {
    const kvm_cpuid_entry2* structured = find(leaf_structured_features);
    if (structured == nullptr)
        return {};
    return {(structured->ebx & structured_ebx_smep) != 0,
            (structured->ebx & structured_ebx_smap) != 0,
            (structured->ecx & structured_ecx_umip) != 0};
}

std::uint64_t Cpuid::xcr0() const {
    constexpr std::uint64_t x87_sse_avx_avx512 = 0xe7;
    const kvm_cpuid_entry2* xsave = find(leaf_xsave);
    if (xsave == nullptr)
        return 0;
    return (xsave->eax | std::uint64_t{xsave->edx} << 32) & x87_sse_avx_avx512;
}

const char* Cpuid::missing() const {
    const kvm_cpuid_entry2* features = find(leaf_features);
    if (features == nullptr || (features->ecx & features_ecx_xsave) == 0)
        return "KVM does not offer XSAVE on this CPU, which the guest kernel needs";
    const kvm_cpuid_entry2* structured = find(leaf_structured_features);
    if (structured == nullptr || (structured->ebx & structured_ebx_fsgsbase) == 0)
        return "KVM does not offer FSGSBASE on this CPU, which the guest kernel needs";
    return nullptr;
}

Cpuid::Leaf host_cpuid(std::uint32_t function, std::uint32_t index) {
    Cpuid::Leaf leaf{};
    if (__get_cpuid_count(function, index, &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx) == 0)
        return {};
    return leaf;
}

} // namespace vmm::kvm
