#include "virtio/queue/queue.hpp"

#include <algorithm>
#include <bit>
#include <cassert>

#include <linux/virtio_config.h>

namespace virtio {

namespace {

// virtio 1.2, 2.7.5 to 2.7.8. linux/virtio_ring.h has these too, but it is not valid C++.
constexpr std::uint16_t descriptor_next = 1;
constexpr std::uint16_t descriptor_write = 2;
constexpr std::uint16_t descriptor_indirect = 4;
constexpr std::uint16_t available_no_interrupt = 1;
constexpr std::size_t descriptor_size = 16;
constexpr unsigned feature_indirect = 28;
constexpr unsigned feature_event_index = 29;

// Offsets in the available ring: flags, idx, ring[size], used_event.
constexpr std::size_t available_flags = 0;
constexpr std::size_t available_index = 2;
constexpr std::size_t available_entry(std::size_t i) {
    return 4 + 2 * i;
}
constexpr std::size_t available_bytes(std::size_t size) {
    return 6 + 2 * size;
}
constexpr std::size_t used_event(std::size_t size) {
    return 4 + 2 * size;
}

// Offsets in the used ring: flags, idx, ring[size] of {id, len}, avail_event.
constexpr std::size_t used_index = 2;
constexpr std::size_t used_entry(std::size_t i) {
    return 4 + 8 * i;
}
constexpr std::size_t used_bytes(std::size_t size) {
    return 6 + 8 * size;
}
constexpr std::size_t available_event(std::size_t size) {
    return 4 + 8 * size;
}

} // namespace

struct Queue::Descriptor {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t flags;
    std::uint16_t next;
};

struct Queue::Table {
    GuestSlice entries;
    std::size_t count;
    bool indirect;
};

QueueFeatures QueueFeatures::from(std::uint64_t negotiated) {
    return {.event_index = ((negotiated >> feature_event_index) & 1) != 0,
            .indirect = ((negotiated >> feature_indirect) & 1) != 0};
}

Checked<Queue::Rings> Queue::locate(const QueueConfig& config, const GuestMemory& memory) {
    const std::uint16_t size = config.size;
    if (!std::has_single_bit(size) || size > config.max_size || size > max_queue_size)
        return fault(FaultKind::QueueSize, size, config.index);
    if (!config.descriptors.is_aligned(16))
        return fault(FaultKind::QueueAlignment, config.descriptors.raw(), config.index);
    if (!config.available.is_aligned(2))
        return fault(FaultKind::QueueAlignment, config.available.raw(), config.index);
    if (!config.used.is_aligned(4))
        return fault(FaultKind::QueueAlignment, config.used.raw(), config.index);
    const auto descriptors = memory.slice(config.descriptors, descriptor_size * size, Access::Read);
    if (!descriptors)
        return fault(FaultKind::QueueOutsideMemory, config.descriptors.raw(), config.index);
    const auto available = memory.slice(config.available, available_bytes(size), Access::Read);
    if (!available)
        return fault(FaultKind::QueueOutsideMemory, config.available.raw(), config.index);
    const auto used = memory.slice(config.used, used_bytes(size), Access::Write);
    if (!used)
        return fault(FaultKind::QueueOutsideMemory, config.used.raw(), config.index);
    return Rings{*descriptors, *available, *used};
}

Checked<void> Queue::check(const QueueConfig& config, const GuestMemory& memory) {
    TRY(locate(config, memory));
    return {};
}

Checked<std::unique_ptr<Queue>> Queue::activate(const QueueConfig& config,
                                                const QueueFeatures& features,
                                                const GuestMemory& memory,
                                                QueueInterrupt* interrupt, QueueTraffic* traffic) {
    TRY(const Rings rings, locate(config, memory));
    return std::unique_ptr<Queue>(new Queue(config, features, rings, memory, interrupt, traffic));
}

Queue::Queue(const QueueConfig& config, const QueueFeatures& features, const Rings& rings,
             const GuestMemory& memory, QueueInterrupt* interrupt, QueueTraffic* traffic)
    : memory_(memory), interrupt_(interrupt), traffic_(traffic), index_(config.index),
      size_(config.size), features_(features), rings_(rings), slots_(config.size) {
    for (std::size_t head = 0; head < slots_.size(); ++head)
        slots_[head].head = static_cast<std::uint16_t>(head);
}

Queue::~Queue() {
    // Our own mistake if it fails: some thread still has a chain whose slot goes away now.
    assert(in_flight() == 0);
}

std::size_t Queue::in_flight() const {
    return static_cast<std::size_t>(
        std::count_if(slots_.begin(), slots_.end(), [](const detail::ChainSlot& slot) {
            return slot.in_flight.load(base::Order::Acquire);
        }));
}

Checked<Chain> Queue::pop(WhenEmpty when_empty) {
    return available_.with([&](Available& state) -> Checked<Chain> {
        if (state.fault.kind != FaultKind::None)
            return base::Failure(state.fault);
        Checked<Chain> chain = pop_locked(state, when_empty);
        if (!chain) {
            chain.error().queue = index_;
            state.fault = chain.error();
        }
        return chain;
    });
}

Checked<Chain> Queue::pop_locked(Available& state, WhenEmpty when_empty) {
    TRY(bool found, offered(state.next));
    if (!found && when_empty == WhenEmpty::Arm) {
        arm(state.next);
        // The driver stores its index, then reads our event; we store the event, then read its
        // index. With a full fence on both sides at least one of us sees the other
        // (2.7.10, 2.7.13.4.1).
        base::fence(base::Order::SeqCst);
        TRY(found, offered(state.next));
    }
    if (!found)
        return Chain();

    const auto head = rings_.available.load<std::uint16_t>(
        available_entry(state.next & (size_ - 1u)), base::Order::Relaxed);
    if (head >= size_)
        return fault(FaultKind::DescriptorIndex, head);
    detail::ChainSlot& slot = slots_[head];
    if (slot.in_flight.load(base::Order::Acquire))
        return fault(FaultKind::HeadInFlight, head);
    TRY(read_chain(head, slot));
    slot.in_flight.store(true, base::Order::Release);
    ++state.next;
    return Chain(slot);
}

Checked<bool> Queue::offered(std::uint16_t next) const {
    const auto index = rings_.available.load<std::uint16_t>(available_index, base::Order::Acquire);
    const auto ahead = static_cast<std::uint16_t>(index - next);
    if (ahead > size_)
        return fault(FaultKind::AvailableIndex, index);
    return ahead != 0;
}

void Queue::arm(std::uint16_t next) const {
    // Without the event index notifications are always on: our used.flags stay 0.
    if (features_.event_index)
        rings_.used.store<std::uint16_t>(available_event(size_), next, base::Order::Relaxed);
}

Checked<void> Queue::read_chain(std::uint16_t head, detail::ChainSlot& slot) const {
    slot.iovecs.clear();
    slot.readable_count = 0;
    slot.readable_bytes = 0;
    slot.writable_bytes = 0;
    std::size_t budget = max_chain_length;
    return walk({rings_.descriptors, size_, false}, head, slot, budget);
}

Checked<void> Queue::walk(const Table& table, std::uint16_t first, detail::ChainSlot& slot,
                          std::size_t& budget) const {
    std::uint16_t index = first;
    for (;;) {
        if (index >= table.count)
            return fault(FaultKind::DescriptorIndex, index);
        if (budget-- == 0)
            return fault(FaultKind::ChainTooLong, first);
        const auto descriptor = table.entries.read_object<Descriptor>(index * descriptor_size);
        if ((descriptor.flags & descriptor_indirect) != 0) {
            // 2.7.5.3.1: only where negotiated, not nested, and never with a next. Plain
            // descriptors may come before it; its own write flag means nothing (2.7.5.3.2).
            if (!features_.indirect || table.indirect ||
                (descriptor.flags & descriptor_next) != 0 || descriptor.length == 0 ||
                descriptor.length % descriptor_size != 0)
                return fault(FaultKind::IndirectTable, descriptor.length);
            const auto entries =
                memory_.slice(GuestAddr(descriptor.address), descriptor.length, Access::Read);
            if (!entries)
                return fault(FaultKind::ChainOutsideMemory, descriptor.address);
            // Recurses once at most: a table inside a table was refused above.
            return walk({*entries, descriptor.length / descriptor_size, true}, 0, slot, budget);
        }
        TRY(add_piece(descriptor, slot));
        if ((descriptor.flags & descriptor_next) == 0)
            return {};
        index = descriptor.next;
    }
}

Checked<void> Queue::add_piece(const Descriptor& descriptor, detail::ChainSlot& slot) const {
    const bool writable = (descriptor.flags & descriptor_write) != 0;
    const bool seen_writable = slot.iovecs.size() > slot.readable_count;
    if (!writable && seen_writable)
        return fault(FaultKind::ReadableAfterWritable, descriptor.address);
    if (descriptor.length == 0)
        return {};
    const auto range = memory_.slice(GuestAddr(descriptor.address), descriptor.length,
                                     writable ? Access::Write : Access::Read);
    if (!range)
        return fault(FaultKind::ChainOutsideMemory, descriptor.address);

    (writable ? slot.writable_bytes : slot.readable_bytes) += descriptor.length;
    const struct iovec piece = range->as_iovec();
    // Neighbours of one kind become one piece: fewer for preadv and pwritev.
    if (!slot.iovecs.empty() && writable == seen_writable) {
        struct iovec& last = slot.iovecs.back();
        if (static_cast<std::byte*>(last.iov_base) + last.iov_len == piece.iov_base) {
            last.iov_len += piece.iov_len;
            return {};
        }
    }
    slot.iovecs.push_back(piece);
    if (!writable)
        ++slot.readable_count;
    return {};
}

void Queue::push_used(Chain chain, std::uint32_t written) {
    const UsedChain one{&chain, written};
    push_used(std::span(&one, 1));
}

void Queue::count(std::span<const UsedChain> chains) const {
    if (traffic_ == nullptr)
        return;
    std::uint64_t from_driver = 0;
    std::uint64_t to_driver = 0;
    for (const UsedChain& used : chains) {
        from_driver += used.chain->readable_bytes();
        to_driver += used.written;
    }
    const auto add = [](base::Atomic<std::uint64_t>& counter, std::uint64_t by) {
        // One writer at a time: no need for a locked instruction.
        counter.store(counter.load(base::Order::Relaxed) + by, base::Order::Relaxed);
    };
    add(traffic_->chains, chains.size());
    add(traffic_->from_driver, from_driver);
    add(traffic_->to_driver, to_driver);
}

void Queue::push_used(std::span<const UsedChain> chains) {
    used_.with([&](Used& state) {
        count(chains);
        for (const UsedChain& used : chains) {
            assert(*used.chain);
            const std::uint16_t head = used.chain->head();
            // The head is free before the driver can see so: it may offer it again at once.
            used.chain->drop();
            const std::size_t at = used_entry(state.next & (size_ - 1u));
            // The ring is 4-aligned, its elements lie at 4 modulo 8: two stores.
            rings_.used.store(at, std::uint32_t{head}, base::Order::Relaxed);
            rings_.used.store(at + 4, used.written, base::Order::Relaxed);
            ++state.next;
        }
        rings_.used.store(used_index, state.next, base::Order::Release);
    });
}

bool Queue::needs_interrupt() {
    return used_.with([&](Used& state) {
        const std::uint16_t before = std::exchange(state.signalled, state.next);
        if (before == state.next)
            return false;
        // The mirror image of pop_locked(): our index first, then the driver's wish.
        base::fence(base::Order::SeqCst);
        if (!features_.event_index) {
            const auto flags =
                rings_.available.load<std::uint16_t>(available_flags, base::Order::Relaxed);
            return (flags & available_no_interrupt) == 0;
        }
        // Did the index pass used_event since we last asked? (2.7.7.2, modulo 2^16)
        const auto event =
            rings_.available.load<std::uint16_t>(used_event(size_), base::Order::Relaxed);
        return static_cast<std::uint16_t>(state.next - event - 1) <
               static_cast<std::uint16_t>(state.next - before);
    });
}

void Queue::interrupt_driver() {
    if (needs_interrupt() && interrupt_ != nullptr)
        interrupt_->used_buffer();
}

void Queue::complete(Chain chain, std::uint32_t written) {
    push_used(std::move(chain), written);
    interrupt_driver();
}

} // namespace virtio
