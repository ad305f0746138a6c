#include "vmm/kvm/privilege.hpp"

#include <cpuid.h>

namespace vmm::kvm {
namespace {

constexpr unsigned leaf1_ecx_vmx = 1u << 5;
constexpr unsigned extended_ecx_svm = 1u << 2;

unsigned leaf_ecx(unsigned leaf) {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    return __get_cpuid(leaf, &eax, &ebx, &ecx, &edx) != 0 ? ecx : 0;
}

} // namespace

bool host_has_vmx() {
    return (leaf_ecx(1) & leaf1_ecx_vmx) != 0;
}

bool host_has_svm() {
    return (leaf_ecx(0x8000'0001) & extended_ecx_svm) != 0;
}

Result<boot::Privilege> choose_privilege(PrivilegeChoice choice) {
    if (choice == PrivilegeChoice::Ring3)
        return boot::Privilege::Ring3;
    const bool hardware = host_has_vmx() || host_has_svm();
    if (choice == PrivilegeChoice::Ring0 && !hardware)
        return fail(0,
                    "ring0 needs hardware virtualization (vmx or svm in /proc/cpuinfo), and this "
                    "machine's KVM has none behind it; use --privilege=ring3");
    return hardware ? boot::Privilege::Ring0 : boot::Privilege::Ring3;
}

} // namespace vmm::kvm
