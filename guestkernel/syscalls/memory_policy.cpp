// man section 2: mbind, set_mempolicy, get_mempolicy, migrate_pages, move_pages. The machine has
// one memory node, so that every policy that can be asked for leads to the same pages: it is kept
// and shown.
#include <asm/errno.h>
#include <linux/capability.h>
#include <linux/mempolicy.h>

#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/syscalls/memory_calls.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {
namespace {

constexpr u64 most_nodes = 1024; // as Linux's MAX_NUMNODES

// A node mask of the caller: false in `any` if it is empty. EINVAL for nodes that do not exist.
Result<bool> copy_in_nodes(u64 mask, u64 max_node) {
    if (mask == 0 || max_node <= 1)
        return false;
    const u64 bits = max_node - 1; // get_mempolicy(2): one too many, by tradition
    if (bits > page_size * 8)
        return fail(EINVAL);
    bool any = false;
    for (u64 word = 0; word * 64 < bits; word++) {
        TRY(u64 value, UserPtr<const u64>(mask + word * 8).copy_in());
        if (bits - word * 64 < 64)
            value &= (u64{1} << (bits - word * 64)) - 1;
        if ((value & ~u64{word == 0 ? 1u : 0u}) != 0)
            return fail(EINVAL);
        any = any || value != 0;
    }
    return any;
}

constexpr u32 kept_mode = 0xffff;
constexpr u32 has_node_zero = 1u << 16;
constexpr u32 numa_balancing = 1u << 13; // MPOL_F_NUMA_BALANCING

// A policy as Task::memory_policy has it; zero is the default one.
Result<u32> to_policy(u64 wanted, u64 nodes, u64 max_node) {
    constexpr u64 mode_flags = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | numa_balancing;
    const u64 flags = wanted & mode_flags;
    u64 mode = wanted & ~mode_flags;
    const bool placed = (flags & (MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES)) != 0;
    if (mode >= MPOL_MAX ||
        ((flags & MPOL_F_STATIC_NODES) != 0 && (flags & MPOL_F_RELATIVE_NODES) != 0) ||
        ((flags & numa_balancing) != 0 && mode != MPOL_BIND))
        return fail(EINVAL);
    TRY(const bool any, copy_in_nodes(nodes, max_node));
    switch (mode) {
    case MPOL_DEFAULT:
        if (any)
            return fail(EINVAL);
        return 0;
    case MPOL_LOCAL:
        if (any || placed)
            return fail(EINVAL);
        return u32{MPOL_LOCAL};
    case MPOL_PREFERRED:
        if (!any && placed)
            return fail(EINVAL);
        if (!any)
            return u32{MPOL_LOCAL};
        break;
    default:
        if (!any)
            return fail(EINVAL);
    }
    return static_cast<u32>(mode | flags) | has_node_zero;
}

} // namespace

Result<long> sys_mbind(Task& task, u64 address, u64 length, u64 mode, u64 nodes, u64 max_node,
                       u32 flags) {
    if ((flags & ~(MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)) != 0)
        return fail(EINVAL);
    if ((flags & MPOL_MF_MOVE_ALL) != 0 && !capable(CAP_SYS_NICE))
        return fail(EPERM);
    if (address % page_size != 0 || length > user_max || address > user_max - page_up(length))
        return fail(EINVAL);
    TRY(const u32 policy, to_policy(mode, nodes, max_node));
    TRY(task.address_space->set_policy(VirtAddr(address), length, policy));
    return 0;
}

Result<long> sys_set_mempolicy(Task& task, int mode, u64 nodes, u64 max_node) {
    TRY(task.memory_policy, to_policy(static_cast<u32>(mode), nodes, max_node));
    return 0;
}

Result<long> sys_get_mempolicy(Task& task, UserPtr<int> mode, u64 nodes, u64 max_node, u64 address,
                               u64 flags) {
    if ((flags & ~u64{MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED}) != 0)
        return fail(EINVAL);
    if (nodes != 0 && max_node < 1)
        return fail(EINVAL);
    u32 policy = task.memory_policy;
    bool node_zero = true;
    if ((flags & MPOL_F_MEMS_ALLOWED) != 0) {
        if ((flags & (MPOL_F_NODE | MPOL_F_ADDR)) != 0)
            return fail(EINVAL);
        policy = 0;
    } else {
        if ((flags & MPOL_F_ADDR) != 0) {
            TRY(policy, task.address_space->policy_at(VirtAddr(address)));
        } else if (address != 0) {
            return fail(EINVAL);
        }
        node_zero = (policy & has_node_zero) != 0;
    }
    int shown = static_cast<int>(policy & kept_mode);
    if ((flags & MPOL_F_NODE) != 0) {
        // The node of the page, or that of the next page of an interleaving task.
        if ((flags & MPOL_F_ADDR) != 0) {
            TRY(task.address_space->frame_at(VirtAddr(address), false));
        } else if ((policy & 0xff) != MPOL_INTERLEAVE) {
            return fail(EINVAL);
        }
        shown = 0;
    }
    if (mode)
        TRY(mode.copy_out(shown));
    if (nodes != 0) {
        const u64 bytes = ((max_node < most_nodes ? max_node : most_nodes) + 63) / 64 * 8;
        for (u64 at = 0; at < bytes; at += 8)
            TRY(UserPtr<u64>(nodes + at).copy_out(at == 0 && node_zero ? 1 : 0));
    }
    return 0;
}

namespace {

// What move_pages(2) and migrate_pages(2) may work on: zero is the caller.
Result<Ref<AddressSpace>> space_to_move(Task& task, i32 pid) {
    Ref<Task> target = pid == 0 ? Ref<Task>::share(&task) : find_task(global_pid(pid));
    if (!target)
        return fail(ESRCH);
    if (target.get() != &task && !may_access(*target))
        return fail(EPERM);
    Ref<AddressSpace> space = address_space_of(*target);
    if (!space)
        return fail(EINVAL);
    return space;
}

} // namespace

Result<long> sys_migrate_pages(Task& task, int pid, u64 max_node, u64 old_nodes, u64 new_nodes) {
    TRY(copy_in_nodes(old_nodes, max_node));
    TRY(const bool any, copy_in_nodes(new_nodes, max_node));
    TRY(space_to_move(task, pid));
    if (!any)
        return fail(EINVAL);
    return 0;
}

Result<long> sys_move_pages(Task& task, int pid, u64 count, UserPtr<const u64> pages,
                            UserPtr<const int> nodes, UserPtr<int> status, int flags) {
    if ((flags & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)) != 0)
        return fail(EINVAL);
    if ((flags & MPOL_MF_MOVE_ALL) != 0 && !capable(CAP_SYS_NICE))
        return fail(EPERM);
    TRY(const Ref<AddressSpace> space, space_to_move(task, pid));
    for (u64 i = 0; i < count; i++) {
        TRY(const u64 address, (pages + i).copy_in());
        if (nodes) {
            TRY(const int node, (nodes + i).copy_in());
            if (node != 0)
                return fail(ENODEV);
        }
        u8 here = 0;
        const bool mapped =
            static_cast<bool>(space->resident(VirtAddr(page_down(address)), page_size, &here));
        TRY((status + i).copy_out(!mapped ? -EFAULT : here != 0 ? 0 : -ENOENT));
    }
    return 0;
}

Result<long> sys_set_mempolicy_home_node(Task& task, u64 address, u64 length, u64 node, u64 flags) {
    if (flags != 0 || node != 0 || address % page_size != 0 || length > user_max ||
        address > user_max - page_up(length))
        return fail(EINVAL);
    TRY(task.address_space->check_home_node(VirtAddr(address), length));
    return 0;
}

} // namespace kernel
