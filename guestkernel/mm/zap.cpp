// Taking translations away: gathered flushes, unmapping of ranges, the reverse map of page caches.
#include <linux/mman.h>

#include "guestkernel/mm/address_space_impl.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/mm/reverse_map.hpp"

namespace kernel {

void Gather::release(Frame& frame) {
    if (frame.cache == nullptr && frame.refs.load(base::Order::Acquire) == 1) {
        private_frames_.push_front(frame);
        return;
    }
    if (count_ == capacity)
        flush();
    frames_[count_++] = &frame;
}

void Gather::flush() {
    if (low_ < high_) {
        impl_.space.flush(VirtAddr(low_), (high_ - low_) >> page_shift);
        low_ = ~u64{0};
        high_ = 0;
    }
    while (Frame* frame = private_frames_.pop_front())
        put_frame(*frame);
    while (count_ > 0)
        put_frame(*frames_[--count_]);
}

void AddressSpaceImpl::note_resident(u64 entry, i64 by, bool memory_only) {
    u64& counter = (entry & pte_private) != 0 ? resident_anonymous
                   : memory_only              ? resident_shared
                                              : resident_file;
    counter += static_cast<u64>(by);
    if ((entry & pte_private) != 0)
        memory_counters.anonymous.fetch_add(static_cast<u64>(by), base::Order::Relaxed);
    const u64 resident = resident_anonymous + resident_file + resident_shared;
    if (resident > peak_resident)
        peak_resident = resident;
}

namespace {

// Requires: the page table's lock is held. One mapping at a time, so that memory_only is known.
void zap_leaf(AddressSpaceImpl& impl, const LeafRange& leaf, bool only_cached, bool memory_only,
              Gather& gather) {
    for (unsigned i = leaf.first; i < leaf.end; i++) {
        const u64 entry = leaf.entries[i];
        if (entry == 0 || (only_cached && (entry & pte_private) != 0))
            continue;
        leaf.entries[i] = 0;
        if ((entry & arch::pte_present) != 0)
            gather.changed(leaf.address(i));
        Frame* frame = frame_of(entry);
        if (frame == nullptr)
            continue;
        impl.note_resident(entry, -1, memory_only);
        if ((entry & pte_private) == 0)
            frame->map_count.fetch_sub(1, base::Order::Relaxed);
        gather.release(*frame);
    }
}

// Returns where it stopped after a step's work; `end` when all is done.
u64 zap_vma(AddressSpaceImpl& impl, Vma& vma, u64 start, u64 end, bool only_cached,
            Gather& gather) {
    const bool memory_only = vma.cache && vma.cache->memory_only();
    SpinGuard guard(impl.table.lock());
    return impl.table.for_some_leaves(start, end, leaves_per_step, [&](const LeafRange& leaf) {
        zap_leaf(impl, leaf, only_cached, memory_only, gather);
    });
}

// Calls back for each mapping of the cache that shows pages [first, end), with the addresses.
template <typename F>
void for_each_view(PageCache& cache, u64 first, u64 end, F&& function) {
    SpinGuard guard(cache.mappings_lock());
    for (CacheMapping& mapping : cache.mappings()) {
        Vma& vma = static_cast<Vma&>(mapping);
        const u64 vma_first = vma.offset >> page_shift;
        const u64 vma_end = vma_first + vma.pages();
        const u64 from = first > vma_first ? first : vma_first;
        const u64 to = end < vma_end ? end : vma_end;
        if (from < to)
            function(vma, vma.start + ((from - vma_first) << page_shift),
                     vma.start + ((to - vma_first) << page_shift));
    }
}

} // namespace

void AddressSpaceImpl::zap(u64 start, u64 end, bool only_cached) {
    Gather gather(*this);
    for (Vma* vma = vmas.find_from(start); vma != nullptr && vma->start < end;
         vma = VmaTree::next(*vma)) {
        const u64 stop = end < vma->end ? end : vma->end;
        u64 at = start > vma->start ? start : vma->start;
        while ((at = zap_vma(*this, *vma, at, stop, only_cached, gather)) < stop)
            cond_resched();
    }
}

bool has_writable_mapping(PageCache& cache) {
    for (CacheMapping& mapping : cache.mappings()) {
        const Vma& vma = static_cast<const Vma&>(mapping);
        if (vma.shared() && (vma.max_protection & PROT_WRITE) != 0)
            return true;
    }
    return false;
}

void unmap_cached_pages(PageCache& cache, u64 first, u64 end, bool with_copies, bool skip_locked) {
    for_each_view(cache, first, end, [&](Vma& vma, u64 from, u64 to) {
        if (skip_locked && (vma.flags & vma_locked) != 0)
            return;
        AddressSpaceImpl& impl = AddressSpaceImpl::of(*vma.space);
        Gather gather(impl);
        while ((from = zap_vma(impl, vma, from, to, !with_copies, gather)) < to)
            continue;
    });
}

void write_protect_cached_pages(PageCache& cache, u64 first, u64 end) {
    for_each_view(cache, first, end, [](Vma& vma, u64 from, u64 to) {
        if (!vma.shared())
            return;
        AddressSpaceImpl& impl = AddressSpaceImpl::of(*vma.space);
        Gather gather(impl);
        SpinGuard guard(impl.table.lock());
        impl.table.for_each_leaf(from, to, [&](const LeafRange& leaf) {
            for (unsigned i = leaf.first; i < leaf.end; i++) {
                if ((leaf.entries[i] & arch::pte_write) == 0)
                    continue;
                leaf.entries[i] &= ~arch::pte_write;
                gather.changed(leaf.address(i));
            }
        });
    });
}

} // namespace kernel
