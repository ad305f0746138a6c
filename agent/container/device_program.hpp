// linux.resources.devices as a BPF program of the container's control group (bpf(2),
// BPF_PROG_TYPE_CGROUP_DEVICE): version 2 has no files for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <linux/bpf.h>

#include "agent/os/error.hpp"
#include "agent/spec/spec.hpp"

namespace container {

// The instructions that decide as `rules` say, the last one that speaks of an access deciding it.
// What the specification promises to every container (its default devices, pseudo-terminals,
// making any node) stays allowed, as runc has it; what no rule names is refused. Empty: everything
// is allowed.
std::vector<bpf_insn> compile_device_rules(const std::vector<spec::DeviceRule>& rules);

// Puts the rules in force for the group in `directory`, in the place of earlier ones. No rules
// leave the group as it is.
os::Result<void> apply_device_rules(const std::string& directory,
                                    const std::vector<spec::DeviceRule>& rules);

} // namespace container
