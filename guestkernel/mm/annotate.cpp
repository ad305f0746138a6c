// What mappings carry besides their contents: names (PR_SET_VMA_ANON_NAME) and memory policies
// (mbind(2)); and what process_mrelease(2) does.
#include <asm/errno.h>
#include <linux/mempolicy.h>

#include "guestkernel/mm/change_mappings.hpp"

namespace kernel {

Result<void> AddressSpace::set_name(VirtAddr start, u64 length, Ref<MappingName> name) {
    const u64 from = start.raw();
    if (from % page_size != 0 || length > user_max || from > user_max - page_up(length))
        return fail(EINVAL);
    return change_mappings(
        *impl_, from, from + page_up(length), ENOMEM,
        [&](const Vma& vma) -> Result<bool> {
            if (vma.file)
                return fail(EBADF);
            return !(vma.given_name == name);
        },
        [&](Vma& vma) { vma.given_name = name; });
}

Result<void> AddressSpace::set_policy(VirtAddr start, u64 length, u32 policy) {
    return change_mappings(
        *impl_, start.raw(), start.raw() + page_up(length), EFAULT,
        [&](const Vma& vma) -> Result<bool> { return vma.policy != policy; },
        [&](Vma& vma) { vma.policy = policy; });
}

// Only a policy that prefers nodes can have one that it prefers most.
Result<void> AddressSpace::check_home_node(VirtAddr start, u64 length) {
    const u64 end = start.raw() + page_up(length);
    bool any = false;
    SharedGuard guard(impl_->mutex);
    for (const Vma* vma = impl_->vmas.find_from(start.raw()); vma != nullptr && vma->start < end;
         vma = VmaTree::next(*vma)) {
        if (vma->policy == 0)
            continue;
        const u32 mode = vma->policy & 0xff;
        if (mode != MPOL_BIND && mode != MPOL_PREFERRED_MANY)
            return fail(EOPNOTSUPP);
        any = true;
    }
    if (!any && start.raw() != end)
        return fail(ENOENT);
    return {};
}

Result<u32> AddressSpace::policy_at(VirtAddr address) {
    SharedGuard guard(impl_->mutex);
    const Vma* vma = impl_->vmas.find(address.raw());
    if (vma == nullptr)
        return fail(EFAULT);
    return vma->policy;
}

void AddressSpace::release_private() {
    SharedGuard guard(impl_->mutex);
    for (const Vma* vma = impl_->vmas.first(); vma != nullptr; vma = VmaTree::next(*vma))
        if (!vma->shared())
            impl_->zap(vma->start, vma->end);
}

} // namespace kernel
