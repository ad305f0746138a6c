// Dirty pages, writing them back, and dropping pages: the second half of PageCache.
#include <asm/errno.h>

#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/mm/page_lock.hpp"
#include "guestkernel/mm/reverse_map.hpp"

namespace kernel {
namespace {

constexpr u64 no_limit = ~u64{0} >> page_shift;
constexpr usize run_limit = 64;

struct DirtyCaches {
    SpinLock lock{LockRank::Leaf};
    base::IntrusiveList<PageCache, &PageCache::dirty_node> list;
};
constinit DirtyCaches dirty_caches;

// Pages [first, end) of a cache while they are being written: clean by their marks already, and
// not yet where they belong.
struct RunInFlight {
    base::ListNode node;
    const PageCache* cache;
    u64 first, end;
    u64 number = 0; // in order of their beginnings
};

struct RunsInFlight {
    SpinLock lock{LockRank::Leaf};
    base::IntrusiveList<RunInFlight, &RunInFlight::node> list;
    base::Atomic<u64> begun{0};
    base::Atomic<u32> count{0};
    WaitQueue ended;

    void begin(RunInFlight& run) {
        SpinGuard guard(lock);
        run.number = begun.fetch_add(1);
        list.push_back(run);
        count.fetch_add(1);
    }
    void end(RunInFlight& run) {
        {
            SpinGuard guard(lock);
            run.node.unlink();
            count.fetch_sub(1);
        }
        ended.wake_all();
    }
    // Whether one that began before number `until` writes any of the pages.
    bool any(const PageCache& cache, u64 first, u64 end, u64 until) {
        if (count.load() == 0)
            return false;
        SpinGuard guard(lock);
        for (const RunInFlight& run : list)
            if (run.cache == &cache && run.number < until && run.first < end && first < run.end)
                return true;
        return false;
    }
};
constinit RunsInFlight in_flight;

} // namespace

void PageCache::mark_dirty(Frame& frame) {
    if (memory_only_)
        return;
    if ((frame.flags.load(base::Order::Relaxed) & frame_dirty) != 0)
        return;
    SpinGuard guard(lock_);
    if (frame.cache != this ||
        (frame.flags.fetch_or(frame_dirty, base::Order::AcqRel) & frame_dirty) != 0)
        return;
    tree_.set_mark(frame.index);
    count_up(memory_counters.dirty);
    if (dirty_.fetch_add(1, base::Order::Relaxed) == 0) {
        SpinGuard list_guard(dirty_caches.lock);
        if (!dirty_node.linked())
            dirty_caches.list.push_back(*this);
    }
}

// Takes the next run of dirty pages at or after `index`: referenced, no longer dirty; `index`
// becomes the first one's.
usize PageCache::claim_dirty_run(u64& index, u64 end, std::span<Frame*> out) {
    SpinGuard guard(lock_);
    index = tree_.next_marked(index, end);
    usize count = 0;
    while (count < out.size() && index + count < end &&
           tree_.next_marked(index + count, index + count + 1) == index + count) {
        Frame* frame = static_cast<Frame*>(tree_.get(index + count));
        get_frame(*frame);
        out[count++] = frame;
    }
    return count;
}

Result<void> PageCache::write_run(u64 first, std::span<Frame*> run) {
    RunInFlight flight{{}, this, first, first + run.size()};
    in_flight.begin(flight);
    for (Frame* frame : run)
        lock_page(*frame);
    Result<void> outcome;
    for (usize at = 0; at < run.size();) {
        usize live = 0; // pages that are still this cache's
        {
            SpinGuard guard(lock_);
            while (at + live < run.size() && run[at + live]->cache == this) {
                Frame& frame = *run[at + live++];
                tree_.clear_mark(frame.index);
                if ((frame.flags.fetch_and(~u32{frame_dirty}, base::Order::AcqRel) & frame_dirty) !=
                    0) {
                    dirty_.fetch_sub(1, base::Order::Relaxed);
                    count_down(memory_counters.dirty);
                }
            }
        }
        if (live == 0) { // dropped; what follows may still be here
            at++;
            continue;
        }
        // After the marks went: a store until here is written now, and from here on it faults and
        // marks the page again. The other way round, it could find the old mark, which then goes.
        write_protect_cached_pages(*this, first + at, first + at + live);
        const std::span<Frame*> part = run.subspan(at, live);
        Result<void> written = source_ != nullptr
                                   ? source_->write_pages(first + at, part, source_->size())
                                   : Result<void>(fail(EIO));
        // Nothing came of it for reasons of the caller's: a later one has to try again.
        if (!written && (written.error().code == EINTR || written.error().code == ENOMEM))
            for (Frame* frame : part)
                mark_dirty(*frame);
        if (!written && outcome)
            outcome = fail(written.error().code);
        at += live;
    }
    for (Frame* frame : run) {
        unlock_page(*frame);
        put_frame(*frame);
    }
    in_flight.end(flight);
    return outcome;
}

Result<void> PageCache::write_back(u64 first_byte, u64 end_byte) {
    if (memory_only_)
        return {};
    const u64 first = first_byte >> page_shift;
    const u64 end = end_byte > no_limit << page_shift ? no_limit : page_up(end_byte) >> page_shift;
    Result<void> outcome;
    // What others are writing has to arrive, too, and is dirty again if they were interrupted.
    // Reclaim does not wait: it may be what the other one needs.
    for (unsigned round = 0; round < 2; round++) {
        u64 index = first_byte >> page_shift;
        Frame* run[run_limit];
        while (index < end && dirty_pages() != 0) {
            const usize count = claim_dirty_run(index, end, run);
            if (count == 0)
                break;
            Result<void> written = write_run(index, {run, count});
            if (!written && outcome)
                outcome = fail(
                    written.error().code); // the first error is told; the rest is still written
            index += count;
        }
        const u64 until = in_flight.begun.load();
        const auto arrived = [&] { return !in_flight.any(*this, first, end, until); };
        if (writes_for_reclaim() || arrived())
            break;
        if (wait_until(in_flight.ended, arrived, no_deadline, TaskState::Killable) ==
            WaitOutcome::Interrupted)
            return fail(EINTR);
    }
    if (dirty_pages() == 0) {
        SpinGuard guard(dirty_caches.lock);
        if (dirty_node.linked() && dirty_pages() == 0)
            dirty_node.unlink();
    }
    return outcome;
}

void write_back_all() {
    // Caches that become dirty meanwhile go to the end of the list; each is visited once.
    constexpr usize most = 1u << 16;
    for (usize visited = 0; visited < most; visited++) {
        Ref<PageCache> cache;
        {
            SpinGuard guard(dirty_caches.lock);
            while (PageCache* first = dirty_caches.list.pop_front())
                if (first->try_add_ref()) {
                    cache = Ref<PageCache>::adopt(first);
                    break;
                }
        }
        if (!cache)
            return;
        // fsync(2) is who tells of errors; after these, pages would be found dirty again and again.
        auto written = cache->write_back(0, ~u64{0});
        if (!written && (written.error().code == EINTR || written.error().code == ENOMEM))
            return;
    }
}

// Takes pages [first, end) out of the cache, a batch at a time.
void PageCache::drop_range(u64 first, u64 end, bool only_clean) {
    constexpr usize batch_size = 32;
    while (first < end) {
        Frame* batch[batch_size];
        usize count = 0;
        {
            SpinGuard guard(lock_);
            while (count < batch_size && (first = tree_.next(first, end)) < end) {
                Frame* frame = static_cast<Frame*>(tree_.get(first++));
                get_frame(*frame);
                batch[count++] = frame;
            }
        }
        for (usize i = 0; i < count; i++) {
            Frame& frame = *batch[i];
            bool locked = true;
            if (only_clean)
                locked = try_lock_page(frame);
            else
                lock_page(frame);
            if (locked) {
                bool mine = false;
                {
                    SpinGuard guard(lock_);
                    mine = frame.cache == this &&
                           !(only_clean &&
                             (frame.flags.load(base::Order::Relaxed) & frame_dirty) != 0);
                    if (mine)
                        detach_frame(frame);
                }
                unlock_page(frame);
                if (mine)
                    put_frame(frame);
            }
            put_frame(frame);
        }
    }
    if (!only_clean && dirty_pages() == 0) {
        SpinGuard guard(dirty_caches.lock);
        if (dirty_node.linked() && dirty_pages() == 0)
            dirty_node.unlink();
    }
}

void PageCache::punch(u64 first_byte, u64 end_byte) {
    if (first_byte >= end_byte)
        return;
    const auto clear = [this](u64 from, u64 to) { // inside of one page
        if (FrameRef frame = lookup(from >> page_shift)) {
            __builtin_memset(frame.data() + from % page_size, 0, to - from);
            mark_dirty(*frame);
        } else {
            drop_range(from >> page_shift, (from >> page_shift) + 1, false); // being read
        }
    };
    const u64 first = page_up(first_byte) >> page_shift;
    const u64 end = end_byte >> page_shift;
    if (first > end) {
        clear(first_byte, end_byte);
        return;
    }
    if (first_byte % page_size != 0)
        clear(first_byte, first << page_shift);
    if (end_byte % page_size != 0)
        clear(end << page_shift, end_byte);
    drop_range(first, end, false);
    unmap_cached_pages(*this, first, end, false);
}

void PageCache::truncate(u64 first_byte) {
    if (first_byte > no_limit << page_shift)
        return;
    const u64 first = page_up(first_byte) >> page_shift;
    if (first_byte % page_size != 0) {
        const u64 last = first_byte >> page_shift;
        if (FrameRef frame = lookup(last))
            __builtin_memset(frame.data() + first_byte % page_size, 0,
                             page_size - first_byte % page_size);
        else
            drop_range(last, last + 1, false); // being read: it may hold what was cut off
    }
    // First out of the cache, then out of the page tables: a fault maps only what it finds in the
    // cache, and looks once more under the page table's lock.
    drop_range(first, no_limit, false);
    unmap_cached_pages(*this, first, no_limit, true);
}

void PageCache::invalidate() {
    drop_range(0, no_limit, true);
    unmap_cached_pages(*this, 0, no_limit, false);
}

bool PageCache::evict(Frame& frame) {
    SpinGuard guard(lock_);
    // References: the cache's and the caller's. A new one can come only through the tree, under
    // lock_.
    if (frame.cache != this || frame.refs.load(base::Order::Acquire) != 2 ||
        (frame.flags.load(base::Order::Relaxed) & (frame_dirty | frame_locked)) != 0)
        return false;
    detach_frame(frame);
    frame.refs.fetch_sub(1, base::Order::AcqRel);
    return true;
}

} // namespace kernel
