// Programs that decide which devices a group's members may open and make: bpf(2),
// BPF_PROG_TYPE_CGROUP_DEVICE.
#pragma once

#include <span>

#include "base/intrusive_list.hpp"
#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/trace/ebpf.hpp"

namespace kernel {

class DeviceProgram final : public RefCounted {
public:
    static constexpr usize name_size = 16;

    // Requires: checked, for the context of device programs.
    DeviceProgram(Vector<EbpfInstruction> instructions, std::span<const char, name_size> name,
                  u32 maker);
    ~DeviceProgram() override;

    const u32 id;
    const Vector<EbpfInstruction> instructions;
    char name[name_size];
    const u32 maker; // a user id
    const i64 made;  // monotonic_ns()

    base::ListNode node; // of all programs, by rising ids

protected:
    void last_reference() override;
};

// Loads from the context that a device program may make: struct bpf_cgroup_dev_ctx.
bool device_context_rule(i32 offset, u32 size);

// The program of this id; null: none. After `id`: the smallest id above it, 0: none.
Ref<DeviceProgram> find_device_program(u32 id);
u32 next_device_program(u32 id);

// What a group has attached; replaced as a whole.
struct DevicePrograms final : RefCounted {
    Vector<Ref<DeviceProgram>> programs;
    u32 flags = 0; // BPF_F_ALLOW_OVERRIDE, BPF_F_ALLOW_MULTI
};

// `flags` and `replaced` as BPF_PROG_ATTACH has them. EINVAL, EPERM, ENOENT, E2BIG, ENOMEM.
Result<void> attach_device_program(Cgroup& group, Ref<DeviceProgram> program, u32 flags,
                                   const DeviceProgram* replaced);
// ENOENT; EINVAL: the group has several and none was named.
Result<void> detach_device_program(Cgroup& group, const DeviceProgram* program);
// The group's own or, with `effective`, all that its members are asked about.
Result<void> list_device_programs(Cgroup& group, bool effective,
                                  Vector<Ref<DeviceProgram>>& programs, u32& flags);

// The group is removed. Requires: hierarchy_mutex().
void forget_device_programs(Cgroup& group);

bool device_programs_exist(); // attached somewhere
// May the running task do this with the device? `may`: may_read, may_write; `make`: mknod(2).
// EPERM.
Result<void> check_device_programs(u32 mode, u64 device_number, u32 may, bool make);

} // namespace kernel
