// Which pages to give up when memory runs short: a clock over all pages that can be read again.
#include <new>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/mm/page_lock.hpp"
#include "guestkernel/mm/reverse_map.hpp"

namespace kernel {
namespace {

struct Clock {
    // Inside of the cache's lock: pages enter and leave with it held.
    SpinLock lock{LockRank::Leaf};
    base::IntrusiveList<Frame, &Frame::node> pages; // the next to look at comes first
    u64 count = 0;
};
constinit Clock clock;
// One task writes back for reclaim at a time: writing needs memory itself and would come here
// again.
constinit base::Atomic<bool> writing{false};
constinit base::Atomic<const Task*> writer{nullptr}; // while `writing`
constinit base::Atomic<void (*)()> pressure_hook{nullptr};

// A page and its cache, both held.
struct Candidate {
    FrameRef frame;
    Ref<PageCache> cache;
};

// The page under the hand; those used since the last pass get another round.
Candidate next_candidate(usize& budget, const MemoryGroup* only, bool spare_low) {
    // Others want the lock too: not the whole list at a time.
    usize steps = 512;
    SpinGuard guard(clock.lock);
    while (budget > 0 && steps-- > 0) {
        Frame* frame = clock.pages.pop_front();
        if (frame == nullptr)
            return {};
        budget--;
        clock.pages.push_back(*frame);
        const u32 flags = frame->flags.load(base::Order::Relaxed);
        if ((flags & frame_locked) != 0)
            continue;
        if (only != nullptr) {
            const MemoryGroup* owner = memory_group_by_number(frame->owner);
            if (owner == nullptr || !owner->is_below(*only))
                continue;
        } else if (frame->owner != 0 && memory_protected(frame->owner, spare_low)) {
            continue;
        }
        if ((flags & frame_referenced) != 0) {
            frame->flags.fetch_and(~u32{frame_referenced}, base::Order::Relaxed);
            continue;
        }
        // On the list, a page is in its cache, so that the cache is not gone; it may be on its way.
        PageCache* cache = frame->cache;
        if (cache == nullptr || !cache->try_add_ref())
            continue;
        return {FrameRef::share(*frame), Ref<PageCache>::adopt(cache)};
    }
    return {};
}

} // namespace

void reset_reclaim_for_test() {
    ::new (static_cast<void*>(&clock.pages)) decltype(clock.pages);
    clock.count = 0;
}

void track_page(Frame& frame) {
    SpinGuard guard(clock.lock);
    clock.pages.push_back(frame);
    clock.count++;
}

void untrack_page(Frame& frame) {
    SpinGuard guard(clock.lock);
    frame.node.unlink();
    clock.count--;
}

bool writes_for_reclaim() {
    return writing.load() && writer.load() == arch::current();
}

void set_memory_pressure_hook(void (*hook)()) {
    pressure_hook.store(hook);
}

namespace {

usize reclaim(usize wanted, const MemoryGroup* only, bool spare_low, bool only_clean = false) {
    usize budget = 0;
    {
        SpinGuard guard(clock.lock);
        budget = 2 * clock.count + 1;
    }
    usize freed = 0;
    while (freed < wanted && budget > 0) {
        Candidate candidate = next_candidate(budget, only, spare_low);
        if (!candidate.frame) {
            if (clock.pages.empty())
                break;
            continue;
        }
        Frame& frame = *candidate.frame;
        const u64 index = frame.index;
        if ((frame.flags.load(base::Order::Relaxed) & frame_dirty) != 0) {
            if (only_clean || writing.exchange(true, base::Order::Acquire))
                continue;
            writer.store(arch::current());
            const u64 first = index & ~u64{63};
            const bool written = static_cast<bool>(
                candidate.cache->write_back(first << page_shift, (first + 64) << page_shift));
            writer.store(nullptr);
            writing.store(false, base::Order::Release);
            if (!written)
                continue;
        }
        if (frame.map_count.load(base::Order::Relaxed) != 0)
            unmap_cached_pages(*candidate.cache, index, index + 1, false, true);
        if (candidate.cache->evict(frame))
            freed++;
    }
    return freed;
}

} // namespace

usize reclaim_page_cache(usize wanted) {
    if (auto* hook = pressure_hook.load(); hook != nullptr)
        hook();
    usize freed = reclaim(wanted, nullptr, true);
    if (freed == 0 && memory_groups_exist())
        freed = reclaim(wanted, nullptr, false);
    if (freed == 0)
        freed = release_kept_page_tables();
    return freed;
}

usize reclaim_clean_pages(usize wanted) {
    return reclaim(wanted, nullptr, false, true);
}

usize reclaim_memory_group(MemoryGroup& group, usize wanted) {
    if (memory_group_kind(group, FrameKind::File) == 0)
        return 0;
    return reclaim(wanted, &group, false);
}

} // namespace kernel
