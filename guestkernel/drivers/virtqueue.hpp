// The driver's side of a split virtqueue (virtio 1.2, 2.7), with event index and indirect
// descriptors where the device offers them.
//
// Locks: none of its own. The owner serialises submit(), take_used() and the interrupt switches by
// a spin lock of its choice (rank Device or Leaf); notify() needs no lock and should be called
// without one, since the write exits and a device may serve the whole queue during it.
//
// Two ways to use one:
//   synchronously (an inline queue: the device serves it during the notification, on this vCPU's
//   thread):
//       submit(); notify(); then take_used() until the own token came. Interrupts stay off, which
//       is the state after set-up. With several vCPUs the answer may still be on its way when
//       notify() returns: another vCPU's notification may be serving it.
//   asynchronously: enable_interrupts() once; in the callback
//       do { while (take_used(used)) ...; } while (!enable_interrupts());
#pragma once

#include <span>

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

struct Frame;
class VirtioDevice;

// Memory that a device reads or writes: physically contiguous.
struct DeviceSegment {
    PhysAddr address;
    u32 length;
};
// Of an object in the direct map or the kernel image that does not cross into memory that is not
// contiguous with it (heap objects, frames, static data; never user memory).
DeviceSegment device_segment(const void* data, usize bytes);

// As struct vring_desc: linux/virtio_ring.h is not valid C++.
struct RingDescriptor {
    u64 address;
    u32 length;
    u16 flags;
    u16 next;
};
static_assert(sizeof(RingDescriptor) == 16);

class Virtqueue {
public:
    Virtqueue() = default;
    Virtqueue(const Virtqueue&) = delete;
    Virtqueue& operator=(const Virtqueue&) = delete;
    ~Virtqueue();

    // Offers one chain: the device reads `readable`, then writes `writable`; `token` (not null)
    // comes back with take_used(). With `table` (room for all segments, direct map, 16-byte
    // aligned, the queue's until the chain is used) the chain costs one ring descriptor, if the
    // device takes indirect tables; without one, a descriptor per segment. False: not enough free
    // descriptors, nothing was done.
    [[nodiscard]] bool submit(std::span<const DeviceSegment> readable,
                              std::span<const DeviceSegment> writable, void* token,
                              std::span<RingDescriptor> table = {});
    // Whether the device wants to be told of what was submitted since the last notification, and
    // telling it. needs_notification() may be called under the owner's lock, after which
    // notify_now() follows without it.
    bool needs_notification();
    void notify_now();
    void notify() {
        if (needs_notification())
            notify_now();
    }

    struct Used {
        void* token;
        u32 written; // bytes the device says it wrote, at most what the chain had room for
    };
    bool take_used(Used& out);
    bool has_used() const;
    // Asks for an interrupt at the next used chain. False if there is one already: take it first.
    [[nodiscard]] bool enable_interrupts();
    void disable_interrupts();

    u16 size() const { return size_; }
    u16 index() const { return index_; }
    u16 free_descriptors() const { return free_count_; }
    bool indirect() const { return indirect_; }
    // The device answered what was never asked, or asks to be reset: nothing more will come of it.
    bool broken() const;

private:
    friend class VirtioDevice;
    struct Available;
    struct UsedRing;
    Result<void> init(VirtioDevice& device, u16 index, u16 size, bool event_index, bool indirect);
    u16 take_descriptor();
    void give_back(u16 head);
    u16* used_event();
    const u16* available_event() const;

    VirtioDevice* device_ = nullptr;
    Frame* memory_ = nullptr;
    RingDescriptor* descriptors_ = nullptr;
    Available* available_ = nullptr;
    UsedRing* used_ = nullptr;
    // By descriptor: what the driver must not read back from the shared memory.
    struct Slot {
        void* token;
        u32 writable_bytes;
        u16 next;  // of the chain or of the free list
        u16 count; // descriptors in the chain, for its head; 0: not a head in flight
    };
    Slot* slots_ = nullptr;
    u16 index_ = 0;
    u16 size_ = 0;
    u16 free_head_ = 0;
    u16 free_count_ = 0;
    u16 next_available_ = 0; // our available index
    u16 notified_ = 0;       // next_available_ at the last needs_notification()
    u16 next_used_ = 0;
    bool event_index_ = false;
    bool indirect_ = false;
    bool interrupts_ = false;
    volatile bool broken_ = false;
};

} // namespace kernel
