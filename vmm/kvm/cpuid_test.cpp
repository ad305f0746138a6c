#include <catch2/catch.hpp>

#include "vmm/kvm/cpuid.hpp"

namespace {

using vmm::kvm::Cpuid;
using Table = std::vector<kvm_cpuid_entry2>;

kvm_cpuid_entry2 entry(std::uint32_t function, std::uint32_t index, Cpuid::Leaf leaf) {
    kvm_cpuid_entry2 made{};
    made.function = function;
    made.index = index;
    made.eax = leaf.eax;
    made.ebx = leaf.ebx;
    made.ecx = leaf.ecx;
    made.edx = leaf.edx;
    return made;
}

Table supported() {
    return {entry(1, 0, {0x00a1'0f11, 0x0102'0800, 0, 0x178b'fbff}),
            entry(4, 3, {0x1c00'0163, 0x03c0'003f, 0x7fff, 1}),
            entry(7, 0, {1, 1u << 7 | 1u << 20, 1u << 2, 0}),
            entry(0xb, 0, {9, 9, 9, 9}),
            entry(0xb, 1, {9, 9, 9, 9}),
            entry(0xd, 0, {0xe7, 0x980, 0x980, 0}),
            entry(0x1f, 0, {9, 9, 9, 9}),
            entry(0x4000'0001, 0, {0xff, 0, 0, 1}),
            entry(0x8000'0001, 0, {0, 0, 0, 0}),
            entry(0x8000'0008, 0, {0x3030, 0, 0x7001, 0}),
            entry(0x8000'001d, 3, {0x4163, 0, 0, 0}),
            entry(0x8000'001e, 0, {9, 9, 9, 9})};
}

const kvm_cpuid_entry2* find(const Table& table, std::uint32_t function, std::uint32_t index = 0) {
    for (const kvm_cpuid_entry2& e : table) {
        if (e.function == function && e.index == index)
            return &e;
    }
    return nullptr;
}

Cpuid::Leaf host_with_everything(std::uint32_t, std::uint32_t) {
    return {~0u, ~0u, ~0u, ~0u};
}

} // namespace

TEST_CASE("every CPU has its own APIC id, in every leaf that tells it") {
    const Cpuid cpuid(supported());
    for (unsigned cpu = 0; cpu < 5; ++cpu) {
        const Table table = cpuid.for_cpu(cpu, 5);
        CHECK(find(table, 1)->ebx >> 24 == cpu);
        CHECK((find(table, 1)->ebx >> 16 & 0xff) == 5);
        CHECK(find(table, 0xb, 0)->edx == cpu);
        CHECK(find(table, 0xb, 1)->edx == cpu);
        CHECK(find(table, 0xb, 1)->eax == 3); // five cores need three bits
        CHECK(find(table, 0xb, 1)->ebx == 5);
        CHECK(find(table, 0x8000'001e)->eax == cpu);
        CHECK((find(table, 0x8000'0008)->ecx & 0xff) == 4);
        CHECK((find(table, 0x8000'0008)->ecx >> 12 & 0xf) == 3);
        CHECK((find(table, 4, 3)->eax >> 14 & 0xfff) == 4); // L3 is everybody's
        CHECK((find(table, 0x8000'001d, 3)->eax >> 14 & 0xfff) == 4);
    }
}

TEST_CASE("a single CPU announces no siblings") {
    const Table table = Cpuid(supported()).for_cpu(0, 1);
    CHECK((find(table, 1)->edx >> 28 & 1) == 0);
    CHECK(find(table, 0xb, 1)->eax == 0);
    CHECK((find(table, 0x8000'0001)->ecx >> 1 & 1) == 0);
    CHECK((find(table, 0x8000'0008)->ecx & 0xff) == 0);
}

TEST_CASE("x2APIC, TSC deadline and hypervisor are announced, KVM's paravirtual features are not") {
    const Table table = Cpuid(supported()).for_cpu(1, 2);
    CHECK((find(table, 1)->ecx & (1u << 21 | 1u << 24 | 1u << 31)) ==
          (1u << 21 | 1u << 24 | 1u << 31));
    CHECK(find(table, 0x4000'0001)->eax == 0);
    CHECK(find(table, 0x1f) == nullptr);
    CHECK(find(table, 0xb, 2)->ebx == 0);
}

TEST_CASE("the host's unprivileged instructions are added, privileged features are not") {
    Cpuid cpuid(supported());
    CHECK(cpuid.missing() != nullptr);
    cpuid.add_native_instructions(host_with_everything);
    CHECK(cpuid.missing() == nullptr);
    const Table table = cpuid.for_cpu(0, 1);
    const std::uint32_t ecx = find(table, 1)->ecx;
    CHECK((ecx >> 28 & 1) == 1);                          // AVX
    CHECK((ecx >> 5 & 1) == 0);                           // VMX
    CHECK((ecx >> 17 & 1) == 0);                          // PCID
    CHECK((find(table, 7)->ebx >> 10 & 1) == 0);          // INVPCID
    CHECK((find(table, 7)->ecx >> 3 & 1) == 0);           // PKU
    CHECK((find(table, 0x8000'0001)->ecx >> 2 & 1) == 0); // SVM
}

TEST_CASE("optional CR4 bits and XCR0 follow what KVM supports") {
    const Cpuid cpuid(supported());
    CHECK(cpuid.features().smep);
    CHECK(cpuid.features().smap);
    CHECK(cpuid.features().umip);
    CHECK(cpuid.xcr0() == 0xe7);
    CHECK_FALSE(Cpuid({}).features().smep);
    CHECK(Cpuid({}).xcr0() == 0);
}
