// Physical memory: the descriptor of each page frame, and the buddy allocator that hands them out.
// Descriptors and free lists are set up lazily, chunk by chunk: boot time and idle memory do not
// grow with the size of RAM.
#pragma once

#include "base/atomic.hpp"
#include "base/intrusive_list.hpp"
#include "boot/protocol/boot_block.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class PageCache;

enum FrameFlag : u32 {
    frame_dirty = 1u << 0,    // of a page cache: newer than its source
    frame_uptodate = 1u << 1, // of a page cache: contents are valid
    frame_locked = 1u << 2,   // of a page cache: being read or written
    frame_zeroed = 1u << 3,   // free or fresh: known to hold zeros
    frame_slab = 1u << 4,
    frame_free = 1u << 5,
    frame_referenced = 1u << 6, // used since the reclaim clock last passed
};

// What a page is used for.
enum class FrameKind : u8 { Kernel, Anonymous, File, Shared, PageTable, Stack };
enum class Charge : u8; // memory_group.hpp

struct Frame {
    base::Atomic<u32> refs{0};
    base::Atomic<u32> flags{0};
    base::Atomic<u32> map_count{0}; // page-table entries of user address spaces that name it
    u8 order = 0;
    FrameKind kind = FrameKind::Kernel; // as memory.stat tells its owner
    u16 owner = 0;                      // the group that pays for it (memory_group.hpp); 0: none
    PageCache* cache = nullptr;         // owner, when in a page cache
    u64 index = 0;                      // page number in that cache
    base::ListNode node;                // free list, reclaim list or slab list
};

// Called once, first thing: gives the allocator all of RAM past the boot area.
void init_frames(const boot::BootBlock& block);
// For unit tests: the same over a given range of the hosted "RAM".

// 2^order frames, contiguous and naturally aligned, one reference, or null when memory is exhausted
// even after reclaim. May sleep only if `may_reclaim`. Contents: undefined unless `zeroed`.
Frame* alloc_frames(unsigned order, bool may_reclaim = true);
// The same, charged to the running task's group in another way than by trying.
Frame* alloc_frames(unsigned order, bool may_reclaim, Charge how);
// Tells what a fresh frame is for; null stays null.
Frame* as_kind(FrameKind kind, Frame* frame);
Frame* alloc_zeroed_frame(bool may_reclaim = true);
Frame* alloc_zeroed_frame(bool may_reclaim, Charge how);
// Called whenever memory runs short, by who needs some: may only note it for another task.
void set_memory_pressure_hook(void (*hook)());
inline Frame* alloc_frame(bool may_reclaim = true) {
    return alloc_frames(0, may_reclaim);
}

void get_frame(Frame& frame);
void put_frame(Frame& frame); // frees at the last reference

PhysAddr frame_to_phys(const Frame& frame);
Frame* phys_to_frame(PhysAddr phys);  // null outside of managed RAM
void* frame_data(const Frame& frame); // in the direct map

struct MemoryStats {
    u64 total, free, cached, dirty, anonymous, slab, page_tables, kernel_stacks,
        shared; // in frames
};
MemoryStats memory_stats();
inline constexpr unsigned buddy_orders = 11;
void free_blocks(u64 (&counts)[buddy_orders]); // in the allocator's lists, by order

// One reference, dropped by the destructor.
class FrameRef {
public:
    FrameRef() = default;
    static FrameRef adopt(Frame* frame) {
        FrameRef ref;
        ref.frame_ = frame;
        return ref;
    }
    static FrameRef share(Frame& frame) {
        get_frame(frame);
        return adopt(&frame);
    }
    FrameRef(const FrameRef&) = delete;
    FrameRef(FrameRef&& other) noexcept : frame_(other.leak()) {}
    FrameRef& operator=(FrameRef&& other) noexcept {
        if (this != &other) {
            reset();
            frame_ = other.leak();
        }
        return *this;
    }
    ~FrameRef() { reset(); }
    void reset() {
        if (Frame* frame = leak())
            put_frame(*frame);
    }
    Frame* leak() {
        Frame* frame = frame_;
        frame_ = nullptr;
        return frame;
    }
    Frame* get() const { return frame_; }
    Frame* operator->() const { return frame_; }
    Frame& operator*() const { return *frame_; }
    explicit operator bool() const { return frame_ != nullptr; }
    u8* data() const { return static_cast<u8*>(frame_data(*frame_)); }

private:
    Frame* frame_ = nullptr;
};

} // namespace kernel
