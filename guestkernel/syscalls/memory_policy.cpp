// man section 2: mbind, set_mempolicy, get_mempolicy, migrate_pages, move_pages. The machine has
// one memory node, so that every policy that can be asked for leads to the same pages: arguments
// are checked, nothing is kept.
#include <asm/errno.h>
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

Result<void> check_policy(u64 mode, u64 nodes, u64 max_node) {
    constexpr u64 mode_flags =
        MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | (1u << 13); // MPOL_F_NUMA_BALANCING
    if ((mode & MPOL_F_STATIC_NODES) != 0 && (mode & MPOL_F_RELATIVE_NODES) != 0)
        return fail(EINVAL);
    mode &= ~mode_flags;
    if (mode >= MPOL_MAX)
        return fail(EINVAL);
    TRY(const bool any, copy_in_nodes(nodes, max_node));
    const bool wants_nodes = mode == MPOL_BIND || mode == MPOL_INTERLEAVE;
    const bool refuses_nodes = mode == MPOL_DEFAULT || mode == MPOL_LOCAL;
    if ((wants_nodes && !any) || (refuses_nodes && any))
        return fail(EINVAL);
    return {};
}

} // namespace

Result<long> sys_mbind(Task&, u64 address, u64 length, u64 mode, u64 nodes, u64 max_node,
                       u32 flags) {
    if ((flags & ~(MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)) != 0 ||
        address % page_size != 0 || length > user_max || address > user_max - page_up(length))
        return fail(EINVAL);
    TRY(check_policy(mode, nodes, max_node));
    return 0;
}

Result<long> sys_set_mempolicy(Task&, int mode, u64 nodes, u64 max_node) {
    TRY(check_policy(static_cast<u32>(mode), nodes, max_node));
    return 0;
}

Result<long> sys_get_mempolicy(Task& task, UserPtr<int> mode, u64 nodes, u64 max_node, u64 address,
                               u64 flags) {
    if ((flags & ~u64{MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED}) != 0)
        return fail(EINVAL);
    if (nodes != 0 && max_node < 1)
        return fail(EINVAL);
    if ((flags & MPOL_F_MEMS_ALLOWED) != 0) {
        if ((flags & (MPOL_F_NODE | MPOL_F_ADDR)) != 0)
            return fail(EINVAL);
    } else if ((flags & MPOL_F_ADDR) != 0) {
        TRY(task.address_space->frame_at(VirtAddr(address), false));
    } else if (address != 0) {
        return fail(EINVAL);
    }
    if (mode)
        TRY(mode.copy_out(MPOL_DEFAULT)); // with MPOL_F_NODE: node 0, the same number
    if (nodes != 0) {
        const u64 bytes = ((max_node < most_nodes ? max_node : most_nodes) + 63) / 64 * 8;
        for (u64 at = 0; at < bytes; at += 8)
            TRY(UserPtr<u64>(nodes + at)
                    .copy_out(at == 0 && (flags & MPOL_F_MEMS_ALLOWED) != 0 ? 1 : 0));
    }
    return 0;
}

Result<long> sys_migrate_pages(Task&, int pid, u64 max_node, u64 old_nodes, u64 new_nodes) {
    if (pid < 0)
        return fail(ESRCH);
    TRY(copy_in_nodes(old_nodes, max_node));
    TRY(const bool any, copy_in_nodes(new_nodes, max_node));
    if (!any)
        return fail(EINVAL);
    return 0;
}

Result<long> sys_move_pages(Task& task, int pid, u64 count, UserPtr<const u64> pages,
                            UserPtr<const int> nodes, UserPtr<int> status, int flags) {
    if ((flags & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)) != 0)
        return fail(EINVAL);
    if (pid != 0 && pid != current_process().own_pid)
        return fail(EPERM);
    for (u64 i = 0; i < count; i++) {
        TRY(const u64 address, (pages + i).copy_in());
        if (nodes) {
            TRY(const int node, (nodes + i).copy_in());
            if (node != 0)
                return fail(ENODEV);
        }
        u8 here = 0;
        const bool mapped = static_cast<bool>(
            task.address_space->resident(VirtAddr(page_down(address)), page_size, &here));
        TRY((status + i).copy_out(!mapped ? -EFAULT : here != 0 ? 0 : -ENOENT));
    }
    return 0;
}

Result<long> sys_set_mempolicy_home_node(Task&, u64 address, u64 length, u64 node, u64 flags) {
    if (flags != 0 || node != 0 || address % page_size != 0 || address + length < address)
        return fail(EINVAL);
    return 0;
}

} // namespace kernel
