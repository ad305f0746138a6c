#include "guestkernel/drivers/virtqueue.hpp"

#include <linux/errno.h>
#include <linux/virtio_mmio.h>

#include "base/atomic.hpp"
#include "base/checked.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/drivers/virtio_mmio.hpp"
#include "guestkernel/mm/frame.hpp"

namespace kernel {
namespace {

// linux/virtio_ring.h, which is not valid C++; virtio 1.2, 2.7.5.
constexpr u16 descriptor_next = 1;
constexpr u16 descriptor_write = 2;
constexpr u16 descriptor_indirect = 4;
constexpr u16 no_interrupt = 1;
constexpr u16 no_notify = 1;
constexpr u16 no_slot = 0xffff;

template <typename T>
T load(const T& place, base::Order order) {
    return __atomic_load_n(&place, static_cast<int>(order));
}
template <typename T>
void store(T& place, T value, base::Order order) {
    __atomic_store_n(&place, value, static_cast<int>(order));
}

// The free-running index `now` has passed `event` since it was `before` (virtio 1.2, 2.7.7.2).
constexpr bool passed(u16 event, u16 now, u16 before) {
    return static_cast<u16>(now - event - 1) < static_cast<u16>(now - before);
}

} // namespace

struct Virtqueue::Available {
    u16 flags;
    u16 index;
    u16 ring[1]; // `size_` entries, then used_event
};
struct Virtqueue::UsedRing {
    u16 flags;
    u16 index;
    struct Element {
        u32 id;
        u32 length;
    } ring[1]; // `size_` entries, then avail_event
};

DeviceSegment device_segment(const void* data, usize bytes) {
    return {arch::virt_to_phys(data), static_cast<u32>(bytes)};
}

Virtqueue::~Virtqueue() {
    // The device may write to the rings until it is reset, which closes it for good; a queue dies
    // only with a device that never started.
    if (memory_ != nullptr)
        put_frame(*memory_);
}

Result<void> Virtqueue::init(VirtioDevice& device, u16 index, u16 size, bool event_index,
                             bool indirect) {
    ASSERT(memory_ == nullptr && size > 0 && (size & (size - 1)) == 0);
    const usize available_at = usize{size} * sizeof(RingDescriptor);
    const usize used_at = base::align_up(available_at + 6 + 2 * usize{size}, 8);
    const usize slots_at = base::align_up(used_at + 6 + 8 * usize{size}, 16);
    const usize total = slots_at + usize{size} * sizeof(Slot);
    unsigned order = 0;
    while ((page_size << order) < total)
        order++;
    memory_ = alloc_frames(order);
    if (memory_ == nullptr)
        return fail(ENOMEM);
    auto* base = static_cast<u8*>(frame_data(*memory_));
    __builtin_memset(base, 0, total);
    descriptors_ = reinterpret_cast<RingDescriptor*>(base);
    available_ = reinterpret_cast<Available*>(base + available_at);
    used_ = reinterpret_cast<UsedRing*>(base + used_at);
    slots_ = reinterpret_cast<Slot*>(base + slots_at);
    for (u16 i = 0; i < size; i++)
        slots_[i].next = static_cast<u16>(i + 1 < size ? i + 1 : no_slot);
    device_ = &device;
    index_ = index;
    size_ = size;
    free_count_ = size;
    event_index_ = event_index;
    indirect_ = indirect;
    disable_interrupts();
    return {};
}

u16* Virtqueue::used_event() {
    return &available_->ring[size_];
}
const u16* Virtqueue::available_event() const {
    return reinterpret_cast<const u16*>(&used_->ring[size_]);
}

u16 Virtqueue::take_descriptor() {
    const u16 slot = free_head_;
    free_head_ = slots_[slot].next;
    free_count_--;
    return slot;
}

void Virtqueue::give_back(u16 head) {
    const u16 count = slots_[head].count;
    slots_[head].count = 0;
    slots_[head].token = nullptr;
    u16 last = head;
    for (u16 i = 1; i < count; i++)
        last = slots_[last].next;
    slots_[last].next = free_head_;
    free_head_ = head;
    free_count_ = static_cast<u16>(free_count_ + count);
}

bool Virtqueue::submit(std::span<const DeviceSegment> readable,
                       std::span<const DeviceSegment> writable, void* token,
                       std::span<RingDescriptor> table) {
    const usize count = readable.size() + writable.size();
    const bool through_table = indirect_ && count > 1 && table.size() >= count;
    const usize needed = through_table ? 1 : count;
    if (count == 0 || free_count_ < needed)
        return false;

    const auto describe = [&](usize i) {
        const bool write = i >= readable.size();
        const DeviceSegment& segment = write ? writable[i - readable.size()] : readable[i];
        return RingDescriptor{segment.address.raw(), segment.length,
                              static_cast<u16>((write ? descriptor_write : 0) |
                                               (i + 1 < count ? descriptor_next : 0)),
                              0};
    };
    const u16 head = take_descriptor();
    if (through_table) {
        for (usize i = 0; i < count; i++) {
            table[i] = describe(i);
            table[i].next = static_cast<u16>(i + 1 < count ? i + 1 : 0);
        }
        const DeviceSegment segment = device_segment(table.data(), count * sizeof(RingDescriptor));
        descriptors_[head] = {segment.address.raw(), segment.length, descriptor_indirect, 0};
    } else {
        u16 at = head;
        for (usize i = 0; i < count; i++) {
            descriptors_[at] = describe(i);
            if (i + 1 == count)
                break;
            const u16 next = take_descriptor();
            descriptors_[at].next = next;
            slots_[at].next = next;
            at = next;
        }
    }
    u64 room = 0;
    for (const DeviceSegment& segment : writable)
        room += segment.length;
    Slot& slot = slots_[head];
    slot.token = token;
    slot.count = static_cast<u16>(needed);
    slot.writable_bytes = static_cast<u32>(room);
    available_->ring[next_available_ & (size_ - 1)] = head;
    next_available_++;
    // Everything above must be visible before the index that offers it (2.7.13.2).
    store(available_->index, next_available_, base::Order::Release);
    return true;
}

bool Virtqueue::needs_notification() {
    // Our index must be out before the device's wish is read (2.7.13.4.1): the device does the two
    // in the other order.
    base::fence(base::Order::SeqCst);
    const u16 before = notified_;
    notified_ = next_available_;
    if (before == next_available_)
        return false;
    if (event_index_)
        return passed(load(*available_event(), base::Order::Relaxed), next_available_, before);
    return (load(used_->flags, base::Order::Relaxed) & no_notify) == 0;
}

void Virtqueue::notify_now() {
    device_->write(VIRTIO_MMIO_QUEUE_NOTIFY, index_);
}

bool Virtqueue::has_used() const {
    return load(used_->index, base::Order::Acquire) != next_used_;
}

bool Virtqueue::take_used(Used& out) {
    if (!has_used() || broken_)
        return false;
    const UsedRing::Element element = used_->ring[next_used_ & (size_ - 1)];
    if (element.id >= size_ || slots_[element.id].count == 0) {
        log::error("virtqueue {}: the device returned descriptor {}, which it does not have",
                   index_, element.id);
        broken_ = true;
        return false;
    }
    next_used_++;
    const Slot& slot = slots_[element.id];
    out.token = slot.token;
    out.written = element.length < slot.writable_bytes ? element.length : slot.writable_bytes;
    give_back(static_cast<u16>(element.id));
    if (event_index_ && !interrupts_)
        disable_interrupts(); // moves the event along, so that the index never reaches it
    return true;
}

bool Virtqueue::enable_interrupts() {
    interrupts_ = true;
    if (event_index_)
        store(*used_event(), next_used_, base::Order::Relaxed);
    else
        store(available_->flags, u16{0}, base::Order::Relaxed);
    base::fence(base::Order::SeqCst); // the wish is out before the look (2.7.7.2)
    return !has_used();
}

void Virtqueue::disable_interrupts() {
    interrupts_ = false;
    if (event_index_) // half the index space away: further than the queue is long
        store(*used_event(), static_cast<u16>(next_used_ + 0x8000), base::Order::Relaxed);
    else
        store(available_->flags, no_interrupt, base::Order::Relaxed);
}

bool Virtqueue::broken() const {
    return broken_ || device_->needs_reset();
}

} // namespace kernel
