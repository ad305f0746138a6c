#include "guestkernel/mm/page_cache.hpp"

#include <asm/errno.h>

#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/mm/page_lock.hpp"
#include "guestkernel/mm/reverse_map.hpp"

namespace kernel {
namespace {

constexpr u64 no_limit = ~u64{0} >> page_shift; // page numbers end here
// Reading costs a round trip of some 60 us, and 13 to 20 us a page whose memory the host has not
// backed yet.
constexpr u64 first_window = 16;
constexpr u64 random_window = 4;
constexpr u64 largest_window = 256;
constexpr u64 small_file = 32;

constinit WaitQueue page_waiters[64];
constinit base::Atomic<u64> caches_made{0};

WaitQueue& waiters_of(const Frame& frame) {
    return page_waiters[reinterpret_cast<u64>(&frame) / sizeof(Frame) % 64];
}

bool has(const Frame& frame, u32 flag) {
    return (frame.flags.load(base::Order::Acquire) & flag) != 0;
}

void mark_used(Frame& frame) {
    if (!has(frame, frame_referenced))
        frame.flags.fetch_or(frame_referenced, base::Order::Relaxed);
}

// Until whoever reads the page is done with it. EINTR: this task is being killed.
Result<void> wait_page_read(Frame& frame) {
    const auto read = [&frame] { return has(frame, frame_uptodate) || !has(frame, frame_locked); };
    if (wait_until(waiters_of(frame), read, no_deadline, TaskState::Killable) ==
        WaitOutcome::Interrupted)
        return fail(EINTR);
    return {};
}

// One page of zeros that stands for the absent pages of memory-only caches.
constinit base::Atomic<Frame*> shared_zeros{nullptr};

Frame* zero_page() {
    Frame* page = shared_zeros.load(base::Order::Acquire);
    if (page != nullptr)
        return page;
    Frame* fresh = alloc_frames(0, true, Charge::None); // everybody's
    if (fresh != nullptr)
        __builtin_memset(frame_data(*fresh), 0, page_size);
    if (fresh == nullptr)
        return nullptr;
    if (!shared_zeros.compare_exchange(page, fresh, base::Order::AcqRel)) {
        put_frame(*fresh);
        return page;
    }
    return fresh;
}

} // namespace

void reset_page_cache_for_test() {
    shared_zeros.store(nullptr);
    reset_reclaim_for_test();
}

bool try_lock_page(Frame& frame) {
    return (frame.flags.fetch_or(frame_locked, base::Order::AcqRel) & frame_locked) == 0;
}

void wait_page_unlocked(Frame& frame) {
    wait_until(
        waiters_of(frame), [&frame] { return !has(frame, frame_locked); }, no_deadline,
        TaskState::Uninterruptible);
}

void lock_page(Frame& frame) {
    while (!try_lock_page(frame))
        wait_page_unlocked(frame);
}

void unlock_page(Frame& frame) {
    frame.flags.fetch_and(~u32{frame_locked}, base::Order::SeqCst);
    WaitQueue& waiters = waiters_of(frame);
    if (waiters.has_waiters())
        waiters.wake_all();
}

PageCache::PageCache(PageSource* source)
    : number_(caches_made.fetch_add(1, base::Order::Relaxed) + 1), source_(source),
      memory_only_(source == nullptr) {}

PageCache::~PageCache() {
    drop_range(0, no_limit, false);
}

void PageCache::detach() {
    // Whoever writes back for reclaim or sync(2) holds the cache alone: he keeps his pages locked
    // while he is in the source, and finds none afterwards.
    if (source_ != nullptr)
        drop_range(0, no_limit, false);
    source_ = nullptr;
}

// Requires: lock_ is held. Takes over the caller's reference on success.
bool PageCache::attach_frame(u64 index, Frame& frame) {
    if (!tree_.insert(index, &frame))
        return false;
    frame.index = index;
    __atomic_store_n(&frame.cache, this, __ATOMIC_RELEASE);
    pages_.fetch_add(1, base::Order::Relaxed);
    count_up(memory_only_ ? memory_counters.shared : memory_counters.cached);
    as_kind(memory_only_ ? FrameKind::Shared : FrameKind::File, &frame);
    if (!memory_only_)
        track_page(frame);
    return true;
}

// Requires: lock_ is held. The caller gets the cache's reference.
void PageCache::detach_frame(Frame& frame) {
    tree_.remove(frame.index);
    __atomic_store_n(&frame.cache, nullptr, __ATOMIC_RELEASE);
    pages_.fetch_sub(1, base::Order::Relaxed);
    count_down(memory_only_ ? memory_counters.shared : memory_counters.cached);
    if (!memory_only_)
        untrack_page(frame);
    if ((frame.flags.fetch_and(~u32{frame_dirty}, base::Order::AcqRel) & frame_dirty) != 0) {
        dirty_.fetch_sub(1, base::Order::Relaxed);
        count_down(memory_counters.dirty);
    }
}

FrameRef PageCache::find_ready(u64 index, bool& present) {
    SpinGuard guard(lock_);
    Frame* frame = static_cast<Frame*>(tree_.get(index));
    present = frame != nullptr;
    return present ? FrameRef::share(*frame) : FrameRef();
}

FrameRef PageCache::lookup(u64 index) {
    SpinGuard guard(lock_);
    Frame* frame = static_cast<Frame*>(tree_.get(index));
    if (frame == nullptr || !has(*frame, frame_uptodate))
        return {};
    mark_used(*frame);
    return FrameRef::share(*frame);
}

void PageCache::lookup_range(u64 first, std::span<Frame*> out) {
    SpinGuard guard(lock_);
    for (usize i = 0; i < out.size(); i++) {
        Frame* frame = static_cast<Frame*>(tree_.get(first + i));
        if (frame != nullptr && !has(*frame, frame_uptodate))
            frame = nullptr;
        if (frame != nullptr)
            get_frame(*frame);
        out[i] = frame;
    }
}

// Reads the absent pages among [first, first + count) in runs. What another task reads meanwhile is
// left to it.
Result<void> PageCache::read_window(u64 first, u64 count) {
    constexpr usize on_stack = 32;
    Frame* few[on_stack];
    Frame** frames = few;
    u64 room = on_stack;
    if (count > on_stack) {
        if (void* memory = kmalloc(largest_window * sizeof(Frame*))) {
            frames = static_cast<Frame**>(memory);
            room = largest_window;
        }
    }
    const u64 end = first + count;
    Result<void> outcome;
    while (first < end && outcome) {
        u64 run_end = 0;
        {
            SpinGuard guard(lock_);
            first = tree_.next_absent(first, end);
            run_end = tree_.next(first, end);
        }
        u64 wanted = run_end - first < room ? run_end - first : room;
        if (wanted == 0)
            break;
        u64 got = 0;
        while (got < wanted) {
            Frame* frame = alloc_frame();
            if (frame == nullptr)
                break;
            frames[got++] = frame;
        }
        u64 placed = 0;
        {
            SpinGuard guard(lock_);
            while (placed < got && tree_.get(first + placed) == nullptr) {
                Frame& frame = *frames[placed];
                frame.flags.store(frame_locked, base::Order::Relaxed);
                if (!attach_frame(first + placed, frame)) {
                    outcome = fail(ENOMEM);
                    break;
                }
                get_frame(frame); // for this function
                placed++;
            }
        }
        for (u64 i = placed; i < got; i++) {
            frames[i]->flags.store(0, base::Order::Relaxed);
            put_frame(*frames[i]);
        }
        if (got == 0)
            outcome = fail(ENOMEM);
        if (placed == 0)
            break; // if not for want of memory, another task was faster: the caller looks again
        PageSource* source = source_;
        outcome = source != nullptr ? source->read_pages(first, {frames, placed})
                                    : Result<void>(fail(EIO));
        for (u64 i = 0; i < placed; i++) {
            Frame& frame = *frames[i];
            if (outcome) {
                frame.flags.fetch_or(frame_uptodate | frame_referenced, base::Order::Release);
            } else {
                SpinGuard guard(lock_);
                if (frame.cache == this) {
                    detach_frame(frame);
                    frame.refs.fetch_sub(1, base::Order::AcqRel); // the cache's; ours remains
                }
            }
            unlock_page(frame);
            put_frame(frame);
        }
        first += placed;
    }
    if (frames != few)
        kfree(frames);
    return outcome;
}

// How much to read for `index`, absent: pages that are here just before it tell of sequential use.
// Keeping no state per open file, it serves any number of concurrent readers.
u64 PageCache::sequential_window(u64 index, u64 start_window, u64 limit) {
    u64 run = 0;
    SpinGuard guard(lock_);
    while (run < largest_window / 2 && run < index && tree_.get(index - run - 1) != nullptr)
        run++;
    u64 window = index == 0 ? first_window : run == 0 ? start_window : 2 * run;
    if (window < start_window)
        window = start_window;
    return window < limit ? window : limit;
}

// Reads at least `index`, which was absent, the rest of [first, end) around it, and ahead if use is
// sequential.
Result<void> PageCache::fill(u64 index, u64 first, u64 end) {
    PageSource* source = source_;
    if (source == nullptr)
        return fail(EIO);
    const u64 file_end = page_up(source->size()) >> page_shift;
    if (index >= file_end)
        return fail(ENXIO);
    if (file_end <= small_file)
        return read_window(0, file_end);
    const u64 window = sequential_window(index, random_window, largest_window);
    u64 stop = index + window > end ? index + window : end;
    if (stop > file_end)
        stop = file_end;
    return read_window(first, stop - first < largest_window ? stop - first : largest_window);
}

Result<FrameRef> PageCache::create(u64 index) {
    Frame* frame = alloc_zeroed_frame();
    if (frame == nullptr)
        return fail(ENOMEM);
    frame->flags.store(frame_uptodate | frame_referenced, base::Order::Relaxed);
    FrameRef mine = FrameRef::adopt(frame);
    SpinGuard guard(lock_);
    if (Frame* other = static_cast<Frame*>(tree_.get(index)))
        return FrameRef::share(*other);
    get_frame(*frame); // the cache's
    if (attach_frame(index, *frame))
        return mine;
    frame->refs.fetch_sub(1, base::Order::AcqRel);
    return fail(ENOMEM);
}

Result<void> PageCache::insert(u64 index, FrameRef frame) {
    frame->flags.store(frame_uptodate | frame_referenced, base::Order::Relaxed);
    SpinGuard guard(lock_);
    if (tree_.get(index) != nullptr)
        return fail(EEXIST);
    if (!attach_frame(index, *frame))
        return fail(ENOMEM);
    frame.leak();
    return {};
}

Result<FrameRef> PageCache::get(u64 index) {
    for (;;) {
        bool present = false;
        FrameRef frame = find_ready(index, present);
        if (present) {
            if (has(*frame, frame_uptodate)) {
                mark_used(*frame);
                return frame;
            }
            wait_page_unlocked(*frame);
            if (has(*frame, frame_uptodate))
                return frame;
            continue; // the read failed: try for ourselves
        }
        if (memory_only_) {
            Frame* zeros = zero_page();
            if (zeros == nullptr)
                return fail(ENOMEM);
            return FrameRef::share(*zeros);
        }
        TRY(fill(index, index, index + 1));
    }
}

Result<FrameRef> PageCache::get_for_fault(u64 index) {
    bool present = false;
    FrameRef frame = find_ready(index, present);
    if (!present)
        return memory_only_ ? create(index) : Result<FrameRef>(FrameRef());
    if (!has(*frame, frame_uptodate))
        return FrameRef();
    mark_used(*frame);
    return frame;
}

Result<FrameRef> PageCache::read_for_fault(u64 index, u64 first, u64 end) {
    for (;;) {
        bool present = false;
        FrameRef frame = find_ready(index, present);
        if (!present) {
            TRY(fill(index, first, end));
            continue;
        }
        TRY(wait_page_read(*frame));
        if (has(*frame, frame_uptodate))
            return frame;
    }
}

Result<FrameRef> PageCache::get_for_write(u64 index, bool whole_page) {
    for (;;) {
        bool present = false;
        FrameRef frame = find_ready(index, present);
        if (present) {
            if (!has(*frame, frame_uptodate)) {
                wait_page_unlocked(*frame);
                if (!has(*frame, frame_uptodate))
                    continue;
            }
            mark_used(*frame);
            return frame;
        }
        if (memory_only_ || whole_page)
            return create(index);
        PageSource* source = source_;
        if (source == nullptr)
            return fail(EIO);
        if (index >= page_up(source->size()) >> page_shift)
            return create(index);
        TRY(read_window(index, 1));
    }
}

Result<void> PageCache::read_ahead(u64 first, u64 pages) {
    PageSource* source = source_;
    if (source == nullptr)
        return {};
    const u64 file_end = page_up(source->size()) >> page_shift;
    if (first >= file_end)
        return {};
    return read_window(first, pages < file_end - first ? pages : file_end - first);
}

u64 PageCache::next_present(u64 index, u64 limit) {
    SpinGuard guard(lock_);
    return tree_.next(index, limit);
}

u64 PageCache::next_hole(u64 index, u64 limit) {
    SpinGuard guard(lock_);
    return tree_.next_absent(index, limit);
}

void PageCache::add_mapping(CacheMapping& mapping) {
    SpinGuard guard(mappings_lock_);
    mappings_.push_back(mapping);
}

void PageCache::remove_mapping(CacheMapping& mapping) {
    SpinGuard guard(mappings_lock_);
    if (mapping.cache_node.linked())
        mapping.cache_node.unlink();
}

} // namespace kernel
