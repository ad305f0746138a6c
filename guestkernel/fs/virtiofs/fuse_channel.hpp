// One request and its answer between the FUSE client and the server, and the virtio-fs device that
// carries them (virtio 1.2, 5.11; linux/fuse.h).
//
// Three queues: 0 (hiprio) takes forgets, 1 is served by the device during the notification, on
// this vCPU's thread (20 us, no interrupt, nobody sleeps), 2 by the VMM's worker threads: the
// caller sleeps until the interrupt.
//
// Locks: one spin lock per queue (rank Device) around ring operations only; never held during a
// notification. Requests live in slots that are allocated on demand and never given back, so that
// at most as many exist as were ever in flight.
#pragma once

#include <span>
#include <string_view>

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/drivers/virtio_mmio.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

// Heap memory or frames in the direct map: the device reads or writes it directly.
struct FuseData {
    void* data = nullptr;
    u32 bytes = 0;
};

enum class FuseRoute : u8 { Inline, Worker };

struct FuseCall {
    u32 opcode = 0; // FUSE_*
    u64 node = 0;
    u32 uid = 0, gid = 0; // the owner of what is created
    FuseRoute route = FuseRoute::Inline;
    // The request: an argument structure, names (each sent with a NUL, when not null), then data.
    const void* in = nullptr;
    u32 in_bytes = 0;
    std::string_view names[2];
    FuseData in_data;
    // The answer: a structure of `out_bytes`, of which at least `out_minimum` must come (the rest
    // is zeroed), then data.
    void* out = nullptr;
    u32 out_bytes = 0;
    u32 out_minimum = 0;
    FuseData out_data;
    // File contents, as the data of a request (send_frames) or of an answer; the first
    // `frames_bytes` of them.
    std::span<Frame* const> frames;
    u32 frames_bytes = 0;
    bool send_frames = false;
};

class FuseTransport {
public:
    virtual ~FuseTransport() = default;
    // Sends and waits. The server's error, or the length of the data part of the answer. EIO: the
    // answer makes no sense, or the device is broken.
    virtual Result<u32> call(const FuseCall& request) = 0;
    // Drops `lookups` references on a node, some time. Never fails, never waits for the server.
    virtual void forget(u64 node, u64 lookups) = 0;
};

class FuseChannel final : public FuseTransport {
public:
    static constexpr usize max_frames = 248; // per call; a slot has room for that many apart

    FuseChannel();
    // The device with this tag, taken and started. ENODEV.
    static Result<FuseChannel*> open(std::string_view tag);

    Result<u32> call(const FuseCall& request) override;
    void forget(u64 node, u64 lookups) override;

private:
    struct Slot;
    struct Lane {
        Virtqueue queue;
        SpinLock lock{LockRank::Device};
        bool present = false;
    };
    static constexpr usize forgets_per_batch = 128;
    static constexpr u16 hiprio_lane = 0, inline_lane = 1, worker_lane = 2;

    Result<void> start(PhysAddr registers, u8 vector);
    Result<Slot*> take_slot();
    void put_slot(Slot* slot);
    Result<void> fill(Slot& slot, const FuseCall& request, usize& readable, usize& writable);
    void submit(Lane& lane, Slot& slot, usize readable, usize writable);
    void drain(Lane& lane);
    bool wait_inline(Lane& lane, Slot& slot);
    bool wait_worker(Lane& lane, Slot& slot);
    Result<u32> finish(Slot& slot, const FuseCall& request);
    static void on_interrupt(void* context);
    void send_forgets(Slot* slot);

    VirtioDevice device_;
    Lane lanes_[3];
    SpinLock pool_lock_{LockRank::Leaf};
    Slot* free_slots_ = nullptr;
    base::Atomic<u64> next_unique_{2};
    SpinLock forget_lock_{LockRank::Leaf};
    Slot* forgets_ = nullptr; // being filled
};

} // namespace kernel
