// What several calls do: change something about every mapping of a range, cut to the range. For mm/
// only.
#pragma once

#include "guestkernel/mm/address_space_impl.hpp"

namespace kernel {

// `differs(vma)`: whether a mapping has to change (or an error, which ends it); `change(vma)` does
// it. Mappings are changed up to the first error; holes are passed over and told by `hole_error` at
// the end.
template <typename Differs, typename Change>
Result<void> change_mappings(AddressSpaceImpl& impl, u64 start, u64 end, int hole_error,
                             Differs&& differs, Change&& change) {
    RemovedVmas removed;
    MutexGuard guard(impl.mutex);
    bool holes = false;
    u64 at = start;
    while (at < end) {
        Vma* vma = impl.vmas.find_from(at);
        if (vma == nullptr || vma->start >= end) {
            holes = true;
            break;
        }
        if (vma->start > at) {
            holes = true;
            at = vma->start;
        }
        const u64 stop = vma->end < end ? vma->end : end;
        TRY(const bool wanted, differs(*vma));
        if (wanted) {
            TRY(impl.split_at(at));
            TRY(impl.split_at(stop));
            vma = impl.vmas.find(at);
            change(*vma);
            impl.merge(*vma, removed);
        }
        at = stop;
    }
    if (holes)
        return fail(hole_error);
    return {};
}

} // namespace kernel
