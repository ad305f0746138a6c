// Chain: one request of the driver, whole and checked, as host-side iovecs into guest RAM. It was
// read from the rings exactly once; nothing the guest does afterwards can change its shape (its
// bytes, yes).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <sys/uio.h>

#include "virtio/memory/guest_memory.hpp"

namespace virtio {

class Queue;

// Descriptors in one chain, indirect ones included. The specification says "queue size"; we allow
// more in indirect tables, and stay within IOV_MAX so that a chain is always one preadv/pwritev.
inline constexpr std::size_t max_chain_length = 1024;

namespace detail {
// Lives in the Queue, one per head, so that vectors keep their capacity and pop() does not allocate
// once warm. `in_flight` is written under the queue's available lock or by the Chain's one owner.
struct ChainSlot {
    std::vector<struct iovec> iovecs; // readable ones first
    std::size_t readable_count = 0;
    std::uint64_t readable_bytes = 0;
    std::uint64_t writable_bytes = 0;
    std::uint16_t head = 0;
    base::Atomic<bool> in_flight{false};
};
} // namespace detail

// A unique handle; move-only; may be completed on any thread (Queue::push_used). False when empty,
// which is how pop() says that there is nothing to do.
//
// Requires: it does not outlive its Queue. Dropping it without push_used never returns the buffers
// to the driver: right only while the device is being reset.
class Chain {
public:
    Chain() = default;
    Chain(Chain&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
    Chain& operator=(Chain&& other) noexcept {
        if (this != &other) {
            drop();
            slot_ = std::exchange(other.slot_, nullptr);
        }
        return *this;
    }
    Chain(const Chain&) = delete;
    Chain& operator=(const Chain&) = delete;
    ~Chain() { drop(); }

    explicit operator bool() const { return slot_ != nullptr; }
    std::uint16_t head() const { return slot_->head; }

    // What the driver wrote for the device, and what the device may fill; no empty pieces.
    std::span<const struct iovec> readable() const {
        return std::span(slot_->iovecs).first(slot_->readable_count);
    }
    std::span<const struct iovec> writable() const {
        return std::span(slot_->iovecs).subspan(slot_->readable_count);
    }
    // Descriptors may overlap, so these can exceed guest memory: bound them before allocating.
    std::uint64_t readable_bytes() const { return slot_->readable_bytes; }
    std::uint64_t writable_bytes() const { return slot_->writable_bytes; }

private:
    friend class Queue;
    explicit Chain(detail::ChainSlot& slot) : slot_(&slot) {}
    void drop() {
        if (slot_ != nullptr)
            slot_->in_flight.store(false, base::Order::Release);
        slot_ = nullptr;
    }

    detail::ChainSlot* slot_ = nullptr;
};

// A position in a list of iovecs; the base of ChainReader and ChainWriter. The list must outlive
// it.
class ChainCursor {
public:
    explicit ChainCursor(std::span<const struct iovec> pieces);

    std::uint64_t remaining() const { return remaining_; }
    std::uint64_t position() const { return position_; } // bytes passed so far
    // All or nothing.
    [[nodiscard]] bool skip(std::uint64_t length);
    // The next up to `limit` bytes as iovecs for preadv/pwritev, at most out.size() pieces; does
    // not advance. Returns the pieces; `bytes` (optional) receives their sum.
    std::span<struct iovec> peek(std::span<struct iovec> out, std::uint64_t limit,
                                 std::uint64_t* bytes = nullptr) const;

protected:
    // Copies between `buffer` and the pieces; returns false and stays where it is if too few are
    // left.
    template <typename Byte, typename Copy>
    bool transfer(std::span<Byte> buffer, Copy copy);

private:
    std::span<const struct iovec> pieces_; // the first one is where we are
    std::size_t offset_ = 0;               // inside the first
    std::uint64_t remaining_ = 0;
    std::uint64_t position_ = 0;
};

class ChainReader : public ChainCursor {
public:
    explicit ChainReader(const Chain& chain) : ChainCursor(chain.readable()) {}
    using ChainCursor::ChainCursor;
    [[nodiscard]] bool read(std::span<std::byte> out);
    template <GuestSafe T>
    std::optional<T> read_object() {
        T value;
        if (!read(std::as_writable_bytes(std::span(&value, 1))))
            return std::nullopt;
        return value;
    }
};

// position() at the end is what push_used wants as `written`, if nothing was skipped unwritten.
class ChainWriter : public ChainCursor {
public:
    explicit ChainWriter(const Chain& chain) : ChainCursor(chain.writable()) {}
    using ChainCursor::ChainCursor;
    [[nodiscard]] bool write(std::span<const std::byte> in);
    template <GuestSafe T>
    [[nodiscard]] bool write_object(const T& value) {
        return write(std::as_bytes(std::span(&value, 1)));
    }
};

} // namespace virtio
