#include "guestkernel/mm/frame.hpp"

#include "boot/protocol/layout.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/sched/scheduler.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

constinit MemoryCounters memory_counters;

namespace {

constexpr unsigned max_order = 10;
// RAM is taken into use in chunks. The descriptors of a chunk's frames stand at its start, so that
// frame and address lead to each other by arithmetic alone.
constexpr u64 chunk_size = u64{32} << 20;
// Frames that one trip to the buddy lists brings into, or takes out of, a CPU's cache.
constexpr unsigned cache_batch = 16;
constexpr unsigned cache_limit = 96;
// Nobody is killed for more frames in a row than 2^this.
constexpr unsigned most_killed_for = 3;

using FrameList = base::IntrusiveList<Frame, &Frame::node>;

// A stretch of RAM. Everything at and past `fresh` was never handed out.
struct Region {
    u64 start = 0;
    u64 end = 0;
    u64 fresh = 0;
    base::Atomic<u64> known_end{0}; // the end of the chunks whose descriptors are valid

    bool contains(u64 phys) const { return phys >= start && phys < end; }
    u64 chunk_base(u64 phys) const {
        const u64 chunk = phys & ~(chunk_size - 1);
        return chunk < start ? start : chunk;
    }
    u64 chunk_end(u64 phys) const {
        const u64 chunk = (phys & ~(chunk_size - 1)) + chunk_size;
        return chunk > end ? end : chunk;
    }
    // The bytes of descriptors at the start of the chunk of `phys`.
    u64 descriptor_bytes(u64 phys) const {
        return page_up((chunk_end(phys) - chunk_base(phys)) / page_size * sizeof(Frame));
    }
    Frame& frame(u64 phys) const {
        const u64 chunk = chunk_base(phys);
        // SAFETY: descriptors of a known chunk are laid out there by open_chunk().
        Frame* first = static_cast<Frame*>(arch::phys_to_virt(PhysAddr(chunk)));
        return first[(phys - chunk) / page_size];
    }
};

struct alignas(64) CpuCache {
    FrameList frames; // hottest first
    unsigned count = 0;
};

struct Buddy {
    FrameList free[max_order + 1];
    u64 listed[max_order + 1] = {}; // blocks in `free`
    Region regions[2];              // below the device hole, above 4 GiB
    u64 total = 0;
    u64 free_frames = 0; // in the lists and never handed out
    u64 reserve = 0;     // for those who cannot wait for reclaim
    bool zeroed = false;
};

constinit SpinLock buddy_lock{LockRank::FrameAllocator};
constinit Buddy buddy;
// Touched by their own CPU only, between two points where it could switch tasks or be interrupted
// by a user of them.
constinit CpuCache cpu_caches[boot::max_cpus];

Region* region_of(u64 phys) {
    for (Region& region : buddy.regions)
        if (region.contains(phys))
            return &region;
    return nullptr;
}

u64 phys_of(const Frame& frame) {
    const u64 at = arch::virt_to_phys(&frame).raw();
    const u64 chunk = region_of(at)->chunk_base(at);
    return chunk + (at - chunk) / sizeof(Frame) * page_size;
}

void list_block(Frame& frame, unsigned order, u32 zero_flag) {
    frame.order = static_cast<u8>(order);
    frame.flags.store(frame_free | zero_flag, base::Order::Relaxed);
    buddy.free[order].push_front(frame);
    buddy.listed[order]++;
}

u32 fresh_flag() {
    return buddy.zeroed ? u32{frame_zeroed} : 0;
}

// Lists [start, end), never handed out so far, in blocks as large as alignment allows.
void list_fresh_range(Region& region, u64 start, u64 end) {
    while (start < end) {
        unsigned order = 0;
        while (order < max_order && (start & ((u64{page_size} << (order + 1)) - 1)) == 0 &&
               start + (u64{page_size} << (order + 1)) <= end)
            order++;
        list_block(region.frame(start), order, fresh_flag());
        start += u64{page_size} << order;
    }
}

void open_chunk(Region& region) {
    const u64 base = region.fresh;
    const u64 bytes = region.descriptor_bytes(base);
    if (!buddy.zeroed)
        __builtin_memset(arch::phys_to_virt(PhysAddr(base)), 0, bytes);
    region.known_end.store(region.chunk_end(base), base::Order::Release);
    region.fresh = base + bytes;
    buddy.free_frames -= bytes / page_size;
    buddy.total -= bytes / page_size;
}

// A block that was never handed out. Memory is opened in address order and no earlier than needed:
// descriptors and page are then both memory that the host has not backed yet, at 13 us a page.
Frame* take_fresh(unsigned order) {
    const u64 size = u64{page_size} << order;
    for (Region& region : buddy.regions) {
        while (region.fresh < region.end) {
            if (region.fresh == region.chunk_base(region.fresh)) {
                if (region.chunk_end(region.fresh) - region.fresh <=
                    region.descriptor_bytes(region.fresh)) {
                    region.fresh = region.chunk_end(region.fresh); // too small to be of use
                    continue;
                }
                open_chunk(region);
            }
            const u64 chunk_end = region.chunk_end(region.fresh - 1);
            const u64 block = (region.fresh + size - 1) & ~(size - 1);
            if (block + size > chunk_end) {
                list_fresh_range(region, region.fresh, chunk_end);
                region.fresh = chunk_end;
                continue;
            }
            list_fresh_range(region, region.fresh, block);
            region.fresh = block + size;
            Frame& frame = region.frame(block);
            frame.order = static_cast<u8>(order);
            frame.flags.store(fresh_flag(), base::Order::Relaxed);
            return &frame;
        }
    }
    return nullptr;
}

// A free block, marked as not free; frame_zeroed says what it holds.
Frame* take_block(unsigned order) {
    for (unsigned from = order; from <= max_order; from++) {
        Frame* frame = buddy.free[from].pop_front();
        if (frame == nullptr)
            continue;
        buddy.listed[from]--;
        const u32 zero_flag = frame->flags.load(base::Order::Relaxed) & frame_zeroed;
        const u64 phys = phys_of(*frame);
        Region& region = *region_of(phys);
        while (from > order) {
            from--;
            list_block(region.frame(phys + (u64{page_size} << from)), from, zero_flag);
        }
        frame->order = static_cast<u8>(order);
        frame->flags.store(zero_flag, base::Order::Relaxed);
        return frame;
    }
    return take_fresh(order);
}

void release_block(Frame& released) {
    Frame* frame = &released;
    u64 phys = phys_of(*frame);
    Region& region = *region_of(phys);
    const u64 lowest = region.chunk_base(phys);
    const u64 end = region.chunk_end(phys);
    unsigned order = frame->order;
    u32 zero_flag = frame->flags.load(base::Order::Relaxed) & frame_zeroed;
    buddy.free_frames += u64{1} << order;
    while (order < max_order) {
        const u64 size = u64{page_size} << order;
        const u64 other_phys = phys ^ size;
        if (other_phys < lowest || other_phys + size > end)
            break;
        Frame& other = region.frame(other_phys);
        const u32 flags = other.flags.load(base::Order::Relaxed);
        if ((flags & frame_free) == 0 || !other.node.linked() || other.order != order)
            break;
        other.node.unlink();
        buddy.listed[order]--;
        other.flags.store(0, base::Order::Relaxed);
        zero_flag &= flags;
        phys &= ~size;
        order++;
    }
    list_block(region.frame(phys), order, zero_flag);
}

bool may_take(unsigned order, bool use_reserve) {
    const u64 wanted = u64{1} << order;
    return buddy.free_frames >= wanted &&
           (use_reserve || buddy.free_frames - wanted >= buddy.reserve);
}

Frame* take_cached(bool use_reserve) {
    CpuCache& cache = cpu_caches[arch::cpu_id()];
    if (cache.count == 0) {
        SpinGuard guard(buddy_lock);
        // Taken in address order and pushed in reverse, so that fresh frames leave the cache in
        // address order.
        Frame* taken[cache_batch];
        unsigned count = 0;
        while (count < cache_batch && may_take(0, use_reserve)) {
            Frame* frame = take_block(0);
            if (frame == nullptr)
                break;
            buddy.free_frames--;
            taken[count++] = frame;
        }
        while (count > 0) {
            cache.frames.push_front(*taken[--count]);
            cache.count++;
        }
    }
    Frame* frame = cache.frames.pop_front();
    if (frame != nullptr)
        cache.count--;
    return frame;
}

void put_cached(Frame& frame) {
    CpuCache& cache = cpu_caches[arch::cpu_id()];
    cache.frames.push_front(frame);
    if (++cache.count <= cache_limit)
        return;
    SpinGuard guard(buddy_lock);
    while (cache.count > cache_limit - 2 * cache_batch) {
        Frame* coldest = cache.frames.back();
        coldest->node.unlink();
        cache.count--;
        release_block(*coldest);
    }
}

Frame* try_alloc(unsigned order, bool use_reserve) {
    Frame* frame = nullptr;
    if (order == 0) {
        frame = take_cached(use_reserve);
    } else if (order <= max_order) {
        SpinGuard guard(buddy_lock);
        if (may_take(order, use_reserve))
            frame = take_block(order);
        if (frame != nullptr)
            buddy.free_frames -= u64{1} << order;
    }
    return frame;
}

// What is given up may never come to lie in a row; a single frame is got in the end.
constexpr unsigned attempts_at(unsigned order) {
    return order == 0 ? ~0U : 4096;
}

// As alloc_frames(); the frame_zeroed flag says whether all of it is known to hold zeros.
Frame* alloc_with_flag(unsigned order, bool may_reclaim, Charge how) {
    const u16 owner = how == Charge::None ? u16{0} : current_memory_owner();
    if (owner != 0 && !charge_frames(owner, u64{1} << order, may_reclaim, how)) [[unlikely]]
        return nullptr;
    Frame* frame = try_alloc(order, !may_reclaim);
    if (frame == nullptr && may_reclaim && order <= max_order) {
        unsigned in_vain = 0;
        for (unsigned attempt = 0; frame == nullptr && attempt < attempts_at(order); attempt++) {
            if (reclaim_page_cache(usize{32} << order) == 0 &&
                (order > most_killed_for || !wait_for_memory(nullptr, in_vain++))) {
                frame = try_alloc(order, true); // who is about to end may use the reserve to do so
                break;
            }
            frame = try_alloc(order, false);
        }
    }
    if (frame == nullptr) {
        if (owner != 0)
            give_back_charge(owner, u64{1} << order);
        return nullptr;
    }
    frame->refs.store(1, base::Order::Relaxed);
    frame->owner = owner;
    if (owner != 0) [[unlikely]] {
        frame->kind = FrameKind::Kernel;
        note_frame_kind(owner, FrameKind::Kernel, i64{1} << order);
    }
    return frame;
}

} // namespace

void init_frame_range(u64 start, u64 end, bool zeroed) {
    Region& region = buddy.regions[start < boot::high_ram_base ? 0 : 1];
    region.start = region.fresh = page_up(start);
    region.end = page_down(end);
    region.known_end.store(region.start);
    if (region.end <= region.start) {
        region.end = region.start;
        return;
    }
    const u64 frames = (region.end - region.start) / page_size;
    buddy.zeroed = zeroed;
    buddy.total += frames;
    buddy.free_frames += frames;
    buddy.reserve = buddy.total / 256;
    if (buddy.reserve > 1024)
        buddy.reserve = 1024;
}

void init_frames(const boot::BootBlock& block) {
    init_frame_range(block.boot_area_end, block.low_ram_end, block.ram_is_zeroed != 0);
    if (block.high_ram_end > boot::high_ram_base)
        init_frame_range(boot::high_ram_base, block.high_ram_end, block.ram_is_zeroed != 0);
}

u16 current_memory_owner() {
    const Task* task = arch::current();
    return task == nullptr ? u16{0} : task->memory_owner; // unit tests have none
}

bool frames_are_scarce() {
    return __atomic_load_n(&buddy.free_frames, __ATOMIC_RELAXED) +
               memory_counters.cached.load(base::Order::Relaxed) <
           buddy.total / 16;
}

Frame* alloc_frames(unsigned order, bool may_reclaim) {
    return alloc_frames(order, may_reclaim, Charge::Try);
}

Frame* as_kind(FrameKind kind, Frame* frame) {
    if (frame != nullptr && frame->owner != 0) [[unlikely]] {
        const i64 pages = i64{1} << frame->order;
        note_frame_kind(frame->owner, frame->kind, -pages);
        note_frame_kind(frame->owner, kind, pages);
        frame->kind = kind;
    }
    return frame;
}

Frame* alloc_frames(unsigned order, bool may_reclaim, Charge how) {
    Frame* frame = alloc_with_flag(order, may_reclaim, how);
    if (frame != nullptr)
        frame->flags.store(0, base::Order::Relaxed);
    return frame;
}

Frame* alloc_zeroed_frame(bool may_reclaim) {
    return alloc_zeroed_frame(may_reclaim, Charge::Try);
}

Frame* alloc_zeroed_frame(bool may_reclaim, Charge how) {
    Frame* frame = alloc_with_flag(0, may_reclaim, how);
    if (frame == nullptr)
        return nullptr;
    if ((frame->flags.load(base::Order::Relaxed) & frame_zeroed) == 0)
        __builtin_memset(frame_data(*frame), 0, page_size);
    frame->flags.store(0, base::Order::Relaxed);
    return frame;
}

void get_frame(Frame& frame) {
    frame.refs.fetch_add(1, base::Order::Relaxed);
}

void put_frame(Frame& frame) {
    const u32 refs = frame.refs.fetch_sub(1, base::Order::AcqRel);
    ASSERT(refs != 0);
    if (refs != 1)
        return;
    ASSERT(frame.cache == nullptr);
    frame.flags.store(
        0,
        base::Order::Relaxed); // frame_free only in the buddy lists: else neighbours merge with it
    frame.map_count.store(0, base::Order::Relaxed);
    if (frame.owner != 0) [[unlikely]]
        uncharge_frames(std::exchange(frame.owner, u16{0}), u64{1} << frame.order, frame.kind);
    if (frame.order == 0) {
        put_cached(frame);
    } else {
        SpinGuard guard(buddy_lock);
        release_block(frame);
    }
}

PhysAddr frame_to_phys(const Frame& frame) {
    return PhysAddr(phys_of(frame));
}

Frame* phys_to_frame(PhysAddr phys) {
    Region* region = region_of(phys.raw());
    if (region == nullptr || phys.raw() >= region->known_end.load(base::Order::Acquire))
        return nullptr;
    return &region->frame(phys.raw());
}

void* frame_data(const Frame& frame) {
    return arch::phys_to_virt(PhysAddr(phys_of(frame)));
}

MemoryStats memory_stats() {
    MemoryStats stats{};
    {
        SpinGuard guard(buddy_lock);
        stats.total = buddy.total;
        stats.free = buddy.free_frames;
    }
    for (const CpuCache& cache : cpu_caches)
        stats.free += cache.count;
    const auto read = [](const base::Atomic<u64>& counter) {
        return counter.load(base::Order::Relaxed);
    };
    stats.cached = read(memory_counters.cached);
    stats.dirty = read(memory_counters.dirty);
    stats.anonymous = read(memory_counters.anonymous);
    stats.slab = read(memory_counters.slab);
    stats.page_tables = read(memory_counters.page_tables);
    stats.kernel_stacks = read(memory_counters.kernel_stacks);
    stats.shared = read(memory_counters.shared);
    return stats;
}

void free_blocks(u64 (&counts)[buddy_orders]) {
    static_assert(buddy_orders == max_order + 1);
    SpinGuard guard(buddy_lock);
    for (unsigned order = 0; order <= max_order; order++)
        counts[order] = buddy.listed[order];
}

void reset_frames_for_test() {
    for (FrameList& list : buddy.free)
        ::new (static_cast<void*>(&list)) FrameList;
    for (CpuCache& cache : cpu_caches)
        ::new (static_cast<void*>(&cache)) CpuCache;
    for (Region& region : buddy.regions)
        ::new (static_cast<void*>(&region)) Region;
    buddy.total = buddy.free_frames = buddy.reserve = 0;
    ::new (static_cast<void*>(&memory_counters)) MemoryCounters;
}

} // namespace kernel
