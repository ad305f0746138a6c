// Which ring the guest kernel can run in on this host.
#pragma once

#include <cstdint>

#include "boot/protocol/boot_block.hpp"
#include "vmm/error.hpp"

namespace vmm {

enum class PrivilegeChoice : std::uint8_t { Auto, Ring0, Ring3 };

namespace kvm {

bool host_has_vmx();
bool host_has_svm();

// Auto: ring 0 where hardware virtualization is behind KVM. Ring 0 without it is refused: KVM then
// emulates ring 0 instruction by instruction, and SYSCALL does not enter it.
Result<boot::Privilege> choose_privilege(PrivilegeChoice choice);

} // namespace kvm
} // namespace vmm
