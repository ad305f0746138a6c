// KVM's exits and registers in the words of a crash report.
#pragma once

#include <string>

#include <linux/kvm.h>

#include "boot/protocol/control.hpp"
#include "vmm/crash/report.hpp"
#include "vmm/kvm/vcpu.hpp"

namespace vmm {

// One line: why KVM stopped running the guest.
std::string describe_exit(const kvm_run& exit);

crash::Crash describe_crash(std::string title, unsigned index, const kvm::Registers& registers);
// The vCPU as it stands. On its own thread.
crash::Crash describe_crash(std::string title, unsigned index, const kvm::Vcpu& vcpu);

// A panic: the registers that the kernel recorded, or the vCPU's if it recorded none.
crash::Crash describe_panic(const boot::PanicRecord& record, unsigned index, const kvm::Vcpu& vcpu);

} // namespace vmm
