// mremap(2).
#include <asm/errno.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>

#include "guestkernel/mm/address_space_impl.hpp"

namespace kernel {
namespace {

struct Move {
    u64 from, to, length;
    bool keep_guard;
};

// What is present of the old range. Requires: the page table's lock is held.
template <typename F>
void for_each_entry(AddressSpaceImpl& impl, const Move& move, F&& function) {
    impl.table.for_each_leaf(move.from, move.from + move.length, [&](const LeafRange& leaf) {
        for (unsigned i = leaf.first; i < leaf.end; i++)
            if (leaf.entries[i] != 0)
                function(leaf.entries[i], leaf.address(i));
    });
}

// The tables of the new range: without them, what has begun could fail half-way.
Result<void> make_tables(AddressSpaceImpl& impl, const Move& move) {
    for (;;) {
        bool complete = true;
        {
            SpinGuard guard(impl.table.lock());
            u64 made = ~u64{0}; // the table that was made last, by its number
            for_each_entry(impl, move, [&](u64&, u64 address) {
                const u64 target = address - move.from + move.to;
                if (target >> 21 != made && complete) {
                    complete = impl.table.make(target) != nullptr;
                    made = target >> 21;
                }
            });
        }
        if (complete)
            return {};
        TRY(make_room_for_tables());
    }
}

// Moves the entries of one range to another. Nothing comes into the old one meanwhile: the mutex is
// held exclusively.
Result<void> move_pages(AddressSpaceImpl& impl, const Move& move) {
    TRY(make_tables(impl, move));
    Gather gather(impl);
    SpinGuard guard(impl.table.lock());
    for_each_entry(impl, move, [&](u64& entry, u64 address) {
        *impl.table.find(address - move.from + move.to) =
            move.keep_guard ? entry : entry & ~pte_guarded;
        entry = 0;
        gather.changed(address);
    });
    // Under the lock: who takes the page out of its cache finds it at its new place, flushes that
    // one only, and frees a frame that a CPU could still reach by the old.
    gather.flush();
    return {};
}

Result<void> can_grow(AddressSpaceImpl& impl, const Vma& vma, u64 more) {
    const u64 pages = more >> page_shift;
    if ((vma.flags & vma_locked) != 0 &&
        impl.locked_pages + pages > impl.lock_limit() >> page_shift)
        return fail(EAGAIN);
    if (!impl.limits_allow(pages, vma.protection, vma.flags))
        return fail(ENOMEM);
    return {};
}

// The request of mremap(2), checked.
struct Remap {
    u64 old_start, old_length, new_length;
    u32 flags;
    u64 new_start;
};

Result<u64> choose_target(AddressSpaceImpl& impl, const Remap& request, RemovedVmas& removed) {
    if ((request.flags & MREMAP_FIXED) == 0) {
        MapRequest map;
        map.length = request.new_length;
        if ((request.flags & MREMAP_DONTUNMAP) != 0)
            map.hint = VirtAddr(request.new_start);
        return impl.choose_address(map);
    }
    const u64 start = request.new_start;
    TRY(impl.unmap_range(start, start + request.new_length, removed));
    return start;
}

// Grows where it stands if the room behind it is free.
bool grow_in_place(AddressSpaceImpl& impl, Vma& vma, const Remap& request, RemovedVmas& removed) {
    const u64 old_end = request.old_start + request.old_length;
    const u64 new_end = request.old_start + request.new_length;
    if (old_end != vma.end || new_end > user_max || !impl.vmas.range_free(old_end, new_end))
        return false;
    impl.account(vma, false);
    impl.vmas.set_bounds(vma, vma.start, new_end, vma.offset);
    impl.account(vma, true);
    impl.merge(vma, removed);
    return true;
}

// `moved_for`: who serves the faults there and wants to know.
Result<u64> move_mapping(AddressSpaceImpl& impl, const Remap& request, RemovedVmas& removed,
                         Ref<UserfaultContext>& moved_for) {
    // Room for the new one and for both cuts of the old one, so that nothing is moved in vain.
    if (impl.vmas.count() + 3 > max_mappings)
        return fail(ENOMEM);
    TRY(const u64 target, choose_target(impl, request, removed));
    const u64 old_end = request.old_start + request.old_length;
    Vma* vma = impl.vmas.find(request.old_start);
    if (vma == nullptr || vma->end < old_end)
        return fail(EFAULT);
    TRY(Owned<Vma> moved, [&]() -> Result<Owned<Vma>> {
        TRY(Vma * copy, impl.copy_vma(*vma, request.old_start, old_end));
        return Owned<Vma>(copy);
    }());
    moved->start = target;
    moved->end = target + request.new_length;
    if (moved->userfault && !moved->userfault->has(UFFD_FEATURE_EVENT_REMAP)) {
        moved->userfault = nullptr;
        moved->flags &= ~vma_userfault;
    }
    moved_for = moved->userfault;
    Vma& added = *moved.leak();
    // Before its pages come, and behind the old one on the cache's list: whoever takes pages out of
    // the cache meanwhile finds them here or there.
    impl.add_vma(added);
    if (request.old_length != 0) {
        auto done = move_pages(impl, {request.old_start, target,
                                      request.old_length < request.new_length ? request.old_length
                                                                              : request.new_length,
                                      (added.flags & vma_fault_write) != 0});
        if (!done) {
            impl.remove_vma(added, removed);
            moved_for = nullptr;
            return fail(done.error().code);
        }
    }
    if ((request.flags & MREMAP_DONTUNMAP) == 0 && request.old_length != 0) {
        // The entries are gone; splitting for the sake of it may still lack memory.
        TRY(impl.unmap_range(request.old_start, old_end, removed));
    }
    impl.merge(added, removed);
    return target;
}

// The vDSO and its data, which are where the kernel put them or nowhere.
bool is_kernels_own(const Vma& vma) {
    return vma.file && vma.name != nullptr;
}

Result<u64> remap_locked(AddressSpaceImpl& impl, Remap& request, RemovedVmas& removed,
                         Ref<UserfaultContext>& moved_for) {
    const bool may_move = (request.flags & MREMAP_MAYMOVE) != 0;
    Vma* vma = impl.vmas.find(request.old_start);
    if (vma == nullptr)
        return fail(EFAULT);
    if (request.old_length == 0 && (!vma->shared() || !may_move))
        return fail(EINVAL); // mremap(2): only shareable mappings are duplicated
    const bool keep = (request.flags & MREMAP_DONTUNMAP) != 0;
    if (keep && is_kernels_own(*vma))
        return fail(EINVAL);
    if (request.old_length >= request.new_length && request.old_length != 0) {
        if (request.new_length < request.old_length) {
            TRY(impl.unmap_range(request.old_start + request.new_length,
                                 request.old_start + request.old_length, removed));
            request.old_length = request.new_length;
        }
        if ((request.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) == 0)
            return request.old_start;
        vma = impl.vmas.find(request.old_start);
    }
    if (vma == nullptr || vma->end - request.old_start < request.old_length)
        return fail(EFAULT);
    if (keep && !impl.limits_allow(request.new_length >> page_shift, vma->protection, vma->flags))
        return fail(ENOMEM); // both stay
    if (request.new_length > request.old_length)
        TRY(can_grow(impl, *vma, request.new_length - request.old_length));
    if ((request.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) == 0 && request.old_length != 0 &&
        grow_in_place(impl, *vma, request, removed))
        return request.old_start;
    if (!may_move)
        return fail(ENOMEM);
    return move_mapping(impl, request, removed, moved_for);
}

} // namespace

Result<VirtAddr> AddressSpace::remap(VirtAddr old_start, u64 old_length, u64 new_length, u32 flags,
                                     VirtAddr new_start) {
    Remap request{old_start.raw(), page_up(old_length), page_up(new_length), flags,
                  new_start.raw()};
    constexpr u32 known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    if ((flags & ~known) != 0 || request.old_start % page_size != 0 || request.new_length == 0)
        return fail(EINVAL);
    if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0 && (flags & MREMAP_MAYMOVE) == 0)
        return fail(EINVAL);
    if ((flags & MREMAP_DONTUNMAP) != 0 && request.old_length != request.new_length)
        return fail(EINVAL);
    if (old_length > user_max || new_length > user_max ||
        request.old_start > user_max - request.old_length)
        return fail(EINVAL);
    // MREMAP_DONTUNMAP alone: a hint, of which as much is expected as of a place that is meant.
    if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0) {
        const u64 to = request.new_start;
        const bool too_low = (flags & MREMAP_FIXED) != 0 && to < user_min;
        if (to % page_size != 0 || too_low || to > user_max - request.new_length)
            return fail(EINVAL);
        if (to < request.old_start + request.old_length &&
            request.old_start < to + request.new_length)
            return fail(EINVAL);
    }
    u64 result = 0;
    bool populate = false;
    Ref<UserfaultContext> moved_for;
    RemovedVmas removed; // told of after the move itself
    {
        MutexGuard guard(impl_->mutex);
        TRY(result, remap_locked(*impl_, request, removed, moved_for));
        const Vma* vma = impl_->vmas.find(result);
        populate = vma != nullptr && (vma->flags & (vma_locked | vma_lock_on_fault)) == vma_locked;
    }
    if (moved_for)
        moved_for->tell(UFFD_EVENT_REMAP, request.old_start, result, request.old_length);
    if (populate && request.new_length > request.old_length)
        (void)impl_->populate(result, result + request.new_length, true, true);
    return VirtAddr(result);
}

// As Linux does since 4.0: an ordinary mapping takes the place of the range, which may by now be
// several that follow one another.
Result<void> AddressSpace::show_other_part(VirtAddr at, u64 length, u64 offset, bool populate) {
    const u64 start = at.raw(), end = start + length;
    u32 protection = 0;
    {
        RemovedVmas removed;
        MutexGuard guard(impl_->mutex);
        const Vma* vma = impl_->vmas.find(start);
        if (vma == nullptr || !vma->shared())
            return fail(EINVAL);
        for (const Vma* last = vma; last->end < end;) {
            const Vma* next = VmaTree::next(*last);
            if (next == nullptr || next->start != last->end || next->cache != vma->cache ||
                next->file != vma->file || next->flags != vma->flags ||
                next->protection != vma->protection)
                return fail(EINVAL);
            last = next;
        }
        TRY(Vma * copy, impl_->copy_vma(*vma, start, end));
        Owned<Vma> shown(copy);
        shown->offset = offset;
        shown->flags &= ~vma_userfault;
        shown->userfault = nullptr;
        if (impl_->vmas.count() >= max_mappings)
            return fail(ENOMEM);
        // Never off the cache's list: a seal against writing would take the object for unmapped.
        impl_->show_in_cache(*shown);
        if (auto done = impl_->unmap_range(start, end, removed); !done) {
            shown->cache->remove_mapping(*shown);
            return done;
        }
        protection = shown->protection;
        Vma& added = *shown.leak();
        impl_->add_vma(added);
        impl_->merge(added, removed);
    }
    if (populate && protection != PROT_NONE)
        (void)impl_->populate(start, end, (protection & PROT_WRITE) != 0, true);
    return {};
}

} // namespace kernel
