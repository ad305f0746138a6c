#include "guestkernel/fs/virtiofs/fuse_channel.hpp"

#include <linux/errno.h>
#include <linux/fuse.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/panic.hpp"

namespace kernel {
namespace {

constexpr u16 request_queue_size = 64;
constexpr u16 hiprio_queue_size = 16;
constexpr int max_errno = 4095;
// How long a vCPU looks at the used ring before it lets others run: the answer is under way on
// another vCPU's exit.
constexpr unsigned spins_before_yield = 2000;

} // namespace

// Physically contiguous; page 0 is all that a small request touches.
struct FuseChannel::Slot {
    static constexpr usize in_capacity = 1024, out_capacity = 512, small_table = 64,
                           large_table = 512;
    alignas(16) u8 in_area[in_capacity];   // header, arguments, names
    alignas(16) u8 out_area[out_capacity]; // header, fixed answer
    RingDescriptor small[small_table];
    Slot* next;
    base::Atomic<u32> done;
    u32 written;
    u32 forgets; // entries in a batch of forgets; such a slot has no waiter
    bool is_forget;
    WaitQueue waiters;
    DeviceSegment* segments; // in `large` while a request is built

    alignas(page_size) u8 payload[page_size]; // a long name, or a batch of forgets
    RingDescriptor large[large_table];
};

FuseChannel::FuseChannel() = default;

Result<FuseChannel*> FuseChannel::open(std::string_view tag) {
    const BootConfig& config = boot_config();
    for (u32 i = 0; i < config.device_count; i++) {
        const PhysAddr registers(config.devices[i].phys);
        if (VirtioDevice::identify(registers) != VIRTIO_ID_FS)
            continue;
        char name[sizeof(virtio_fs_config::tag)];
        VirtioDevice::peek_config(registers, 0, name, sizeof name);
        usize length = 0;
        while (length < sizeof name && name[length] != '\0')
            length++;
        if (std::string_view(name, length) != tag)
            continue;
        TRY(Owned<FuseChannel> channel, make_owned<FuseChannel>());
        TRY(channel->start(registers, config.devices[i].vector));
        return channel.leak();
    }
    return fail(ENODEV);
}

Result<void> FuseChannel::start(PhysAddr registers, u8 vector) {
    TRY(device_.open(registers, vector, VIRTIO_ID_FS, 0));
    const u32 request_queues = device_.config32(offsetof(virtio_fs_config, num_request_queues));
    if (request_queues == 0)
        return fail(ENODEV);
    TRY(device_.setup_queue(lanes_[hiprio_lane].queue, hiprio_lane, hiprio_queue_size));
    TRY(device_.setup_queue(lanes_[inline_lane].queue, inline_lane, request_queue_size));
    if (request_queues > 1) {
        TRY(device_.setup_queue(lanes_[worker_lane].queue, worker_lane, request_queue_size));
        lanes_[worker_lane].present = true;
    }
    // Two segments of a request are never contiguous with each other, so a chain needs a table.
    if (!lanes_[inline_lane].queue.indirect())
        return fail(EOPNOTSUPP);
    TRY(device_.start());
    if (lanes_[worker_lane].present) {
        arch::register_device_interrupt(vector, &on_interrupt, this);
        (void)lanes_[worker_lane].queue.enable_interrupts(); // nothing was submitted yet
    }
    return {};
}

Result<FuseChannel::Slot*> FuseChannel::take_slot() {
    {
        SpinGuard guard(pool_lock_);
        if (Slot* slot = free_slots_; slot != nullptr) {
            free_slots_ = slot->next;
            return slot;
        }
    }
    unsigned order = 0;
    while ((page_size << order) < sizeof(Slot))
        order++;
    Frame* memory = alloc_frames(order);
    if (memory == nullptr)
        return fail(ENOMEM);
    auto* slot = static_cast<Slot*>(frame_data(*memory));
    // Only what is not written by each request anyway: the tables' pages stay untouched until they
    // are needed.
    ::new (static_cast<void*>(&slot->done)) base::Atomic<u32>(0);
    ::new (static_cast<void*>(&slot->waiters)) WaitQueue();
    return slot;
}

void FuseChannel::put_slot(Slot* slot) {
    SpinGuard guard(pool_lock_);
    slot->next = free_slots_;
    free_slots_ = slot;
}

namespace {

// Gathers segments, joining neighbours.
class SegmentList {
public:
    explicit SegmentList(std::span<DeviceSegment> room) : room_(room) {}
    bool add(const void* data, usize bytes) {
        if (bytes == 0)
            return true;
        const DeviceSegment segment = device_segment(data, bytes);
        if (count_ > 0 && room_[count_ - 1].address + room_[count_ - 1].length == segment.address) {
            room_[count_ - 1].length += segment.length;
            return true;
        }
        if (count_ == room_.size())
            return false;
        room_[count_++] = segment;
        return true;
    }
    bool add_frames(std::span<Frame* const> frames, usize bytes) {
        for (Frame* frame : frames) {
            const usize part = bytes < page_size ? bytes : page_size;
            if (!add(frame_data(*frame), part))
                return false;
            bytes -= part;
        }
        return bytes == 0;
    }
    usize count() const { return count_; }

private:
    std::span<DeviceSegment> room_;
    usize count_ = 0;
};

} // namespace

// Lays the request out in the slot. Segments are collected in the upper half of the large table,
// descriptors go to the small one or to the lower half.
Result<void> FuseChannel::fill(Slot& slot, const FuseCall& request, usize& readable,
                               usize& writable) {
    static_assert(max_frames + 8 <= Slot::large_table / 2); // no two of them need be neighbours
    slot.done.store(0, base::Order::Relaxed);
    slot.written = 0;
    slot.is_forget = false;
    usize at = sizeof(fuse_in_header);
    if (at + request.in_bytes > Slot::in_capacity ||
        sizeof(fuse_out_header) + request.out_bytes > Slot::out_capacity)
        return fail(EINVAL);
    if (request.in_bytes > 0)
        __builtin_memcpy(slot.in_area + at, request.in, request.in_bytes);
    at += request.in_bytes;
    usize payload = 0;
    for (const std::string_view name : request.names) {
        if (name.data() == nullptr)
            continue;
        u8* to = slot.in_area + at;
        // In order: once something went to the payload page, the rest does too.
        if (payload > 0 || at + name.size() + 1 > Slot::in_capacity) {
            if (payload + name.size() + 1 > page_size)
                return fail(ENAMETOOLONG);
            to = slot.payload + payload;
            payload += name.size() + 1;
        } else {
            at += name.size() + 1;
        }
        __builtin_memcpy(to, name.data(), name.size());
        to[name.size()] = '\0';
    }
    const usize sent_frames = request.send_frames ? request.frames_bytes : 0;
    fuse_in_header header{};
    header.len = static_cast<u32>(at + payload + request.in_data.bytes + sent_frames);
    header.opcode = request.opcode;
    header.unique = next_unique_.fetch_add(2, base::Order::Relaxed);
    header.nodeid = request.node;
    header.uid = request.uid;
    header.gid = request.gid;
    header.pid = 1;
    __builtin_memcpy(slot.in_area, &header, sizeof header);

    // A request without file contents has few segments, which fit behind the small table's last
    // descriptors.
    const bool small = request.frames.size() < Slot::small_table / 4;
    slot.segments = small ? reinterpret_cast<DeviceSegment*>(slot.small + Slot::small_table / 2)
                          : reinterpret_cast<DeviceSegment*>(slot.large + Slot::large_table / 2);
    const usize room = small ? Slot::small_table / 2 : Slot::large_table / 2;
    static_assert(sizeof(DeviceSegment) == sizeof(RingDescriptor));
    SegmentList list(std::span(slot.segments, room));
    bool fits = list.add(slot.in_area, at) && list.add(slot.payload, payload) &&
                list.add(request.in_data.data, request.in_data.bytes);
    if (request.send_frames)
        fits = fits && list.add_frames(request.frames, request.frames_bytes);
    readable = list.count();
    SegmentList answer(std::span(slot.segments + readable, room - readable));
    fits = fits && answer.add(slot.out_area, sizeof(fuse_out_header) + request.out_bytes) &&
           answer.add(request.out_data.data, request.out_data.bytes);
    if (!request.send_frames && !request.frames.empty())
        fits = fits && answer.add_frames(request.frames, request.frames_bytes);
    writable = answer.count();
    if (!fits)
        return fail(EINVAL);
    return {};
}

void FuseChannel::drain(Lane& lane) {
    Slot* forgets = nullptr;
    {
        SpinGuard guard(lane.lock);
        Virtqueue::Used used;
        while (lane.queue.take_used(used)) {
            auto* slot = static_cast<Slot*>(used.token);
            slot->written = used.written;
            if (slot->is_forget) {
                slot->next = forgets;
                forgets = slot;
                continue;
            }
            // From here on the waiter may reuse the slot; its memory stays, so a late wake-up is
            // only spurious.
            slot->done.store(1, base::Order::Release);
            slot->waiters.wake_all();
        }
    }
    while (forgets != nullptr) {
        Slot* next = forgets->next;
        put_slot(forgets);
        forgets = next;
    }
}

void FuseChannel::submit(Lane& lane, Slot& slot, usize readable, usize writable) {
    const usize count = readable + writable;
    const std::span<RingDescriptor> table = count <= Slot::small_table / 2
                                                ? std::span(slot.small, Slot::small_table / 2)
                                                : std::span(slot.large, Slot::large_table / 2);
    const std::span<const DeviceSegment> segments(slot.segments, count);
    for (;;) {
        bool done = false;
        bool notify = false;
        {
            SpinGuard guard(lane.lock);
            done = lane.queue.submit(segments.first(readable), segments.subspan(readable), &slot,
                                     table);
            notify = done && lane.queue.needs_notification();
        }
        if (notify)
            lane.queue.notify_now();
        if (done || lane.queue.broken())
            return;
        drain(lane); // the ring is full
        yield();
    }
}

bool FuseChannel::wait_inline(Lane& lane, Slot& slot) {
    for (unsigned turn = 1;; turn++) {
        if (slot.done.load(base::Order::Acquire) != 0)
            return true;
        drain(lane);
        if (slot.done.load(base::Order::Acquire) != 0)
            return true;
        if (lane.queue.broken())
            return false;
        if (turn % spins_before_yield == 0)
            yield();
        else
            arch::relax();
    }
}

bool FuseChannel::wait_worker(Lane& lane, Slot& slot) {
    const auto over = [&] {
        return slot.done.load(base::Order::Acquire) != 0 || lane.queue.broken();
    };
#ifdef JOEY_HOSTED
    while (!over()) // a test has one task and no interrupts
        drain(lane);
#else
    wait_until(slot.waiters, over, no_deadline, TaskState::Uninterruptible);
#endif
    return slot.done.load(base::Order::Acquire) != 0;
}

void FuseChannel::on_interrupt(void* context) {
    auto& channel = *static_cast<FuseChannel*>(context);
    Lane& lane = channel.lanes_[worker_lane];
    for (;;) {
        channel.drain(lane);
        SpinGuard guard(lane.lock);
        if (lane.queue.enable_interrupts() || lane.queue.broken())
            return;
    }
}

// The server is trusted with the files' contents, not with our memory: lengths are checked against
// what was asked.
Result<u32> FuseChannel::finish(Slot& slot, const FuseCall& request) {
    fuse_out_header header;
    __builtin_memcpy(&header, slot.out_area, sizeof header);
    fuse_in_header sent;
    __builtin_memcpy(&sent, slot.in_area, sizeof sent);
    if (slot.written < sizeof header || header.len != slot.written ||
        header.unique != sent.unique || header.error > 0 || header.error < -max_errno) {
        log::warning("fuse: bad answer to opcode {}: {} bytes, {} written, error {}",
                     request.opcode, header.len, slot.written, header.error);
        return fail(EIO);
    }
    if (header.error != 0)
        return fail(-header.error);
    const u32 body = header.len - static_cast<u32>(sizeof header);
    if (body < request.out_minimum)
        return fail(EIO);
    const u32 fixed = body < request.out_bytes ? body : request.out_bytes;
    if (request.out_bytes > 0) {
        __builtin_memcpy(request.out, slot.out_area + sizeof header, fixed);
        __builtin_memset(static_cast<u8*>(request.out) + fixed, 0, request.out_bytes - fixed);
    }
    return body - fixed;
}

Result<u32> FuseChannel::call(const FuseCall& request) {
    TRY(Slot * slot, take_slot());
    usize readable = 0;
    usize writable = 0;
    if (auto filled = fill(*slot, request, readable, writable); !filled) {
        put_slot(slot);
        return fail(filled.error().code);
    }
    const bool by_worker = request.route == FuseRoute::Worker && lanes_[worker_lane].present;
    Lane& lane = lanes_[by_worker ? worker_lane : inline_lane];
    submit(lane, *slot, readable, writable);
    if (!(by_worker ? wait_worker(lane, *slot) : wait_inline(lane, *slot))) {
        // The device may still write to the slot: it is lost, and so is the file system.
        log::error("fuse: the device stopped answering (opcode {})", request.opcode);
        return fail(EIO);
    }
    auto answer = finish(*slot, request);
    put_slot(slot);
    return answer;
}

void FuseChannel::forget(u64 node, u64 lookups) {
    Slot* full = nullptr;
    {
        SpinGuard guard(forget_lock_);
        if (forgets_ != nullptr && forgets_->forgets < forgets_per_batch) {
            auto* entries = reinterpret_cast<fuse_forget_one*>(forgets_->payload);
            entries[forgets_->forgets++] = {node, lookups};
            return;
        }
        full = forgets_;
        forgets_ = nullptr;
    }
    if (full != nullptr)
        send_forgets(full);
    auto fresh = take_slot();
    if (!fresh)
        return; // the server keeps the node a while longer than it need
    (*fresh)->is_forget = true;
    (*fresh)->forgets = 1;
    reinterpret_cast<fuse_forget_one*>((*fresh)->payload)[0] = {node, lookups};
    Slot* other = nullptr;
    {
        SpinGuard guard(forget_lock_);
        other = forgets_;
        forgets_ = *fresh;
    }
    if (other != nullptr) // another CPU began a batch meanwhile
        send_forgets(other);
}

void FuseChannel::send_forgets(Slot* slot) {
    static_assert(forgets_per_batch * sizeof(fuse_forget_one) <= page_size);
    fuse_in_header header{};
    const fuse_batch_forget_in batch{slot->forgets, 0};
    const usize entries = slot->forgets * sizeof(fuse_forget_one);
    header.len = static_cast<u32>(sizeof header + sizeof batch + entries);
    header.opcode = FUSE_BATCH_FORGET;
    header.unique = next_unique_.fetch_add(2, base::Order::Relaxed);
    __builtin_memcpy(slot->in_area, &header, sizeof header);
    __builtin_memcpy(slot->in_area + sizeof header, &batch, sizeof batch);
    slot->segments = reinterpret_cast<DeviceSegment*>(slot->small + Slot::small_table / 2);
    slot->segments[0] = device_segment(slot->in_area, sizeof header + sizeof batch);
    slot->segments[1] = device_segment(slot->payload, entries);
    Lane& lane = lanes_[hiprio_lane];
    drain(lane); // gives back the slots of batches that were served
    submit(lane, *slot, 2, 0);
}

} // namespace kernel
