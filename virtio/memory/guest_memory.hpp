// Guest RAM as the host sees it. Everything the host reads or writes there goes through these
// types: a range is checked once, when a GuestSlice is made from it, and a slice cannot leave its
// range.
//
// The guest may change any byte at any time, so the rule is copy-once: read into a local, check the
// local, use the local.
#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

#include <sys/uio.h>

#include "base/address.hpp"
#include "base/atomic.hpp"

namespace virtio {

using GuestAddr = base::Address<struct GuestAddressTag>;

// What may cross between host and guest as bytes: no pointers to follow, no padding to leak.
template <typename T>
concept GuestSafe = std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>;

enum class Access : std::uint8_t { Read, Write };

// A checked range of guest memory. Cheap to copy; valid as long as the GuestMemory's mapping.
class GuestSlice {
public:
    GuestSlice() = default;
    // Host memory that the guest can see by other means: a register page. Not for guest RAM.
    static GuestSlice over(std::span<std::byte> shared) { return {shared.data(), shared.size()}; }

    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    struct iovec as_iovec() const {
        return {host_, size_};
    }

    // Requires: offset + length <= size(), in all of these; offsets are ours, not the guest's.
    GuestSlice sub(std::size_t offset, std::size_t length) const {
        assert(offset <= size_ && length <= size_ - offset);
        return {host_ + offset, length};
    }
    void copy_to(std::size_t offset, std::span<std::byte> out) const;
    void copy_from(std::size_t offset, std::span<const std::byte> in) const;

    template <GuestSafe T>
    T read_object(std::size_t offset) const {
        T value;
        copy_to(offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    template <GuestSafe T>
    void write_object(std::size_t offset, const T& value) const {
        copy_from(offset, std::as_bytes(std::span(&value, 1)));
    }

    // Single-copy atomic access. Requires: the place is naturally aligned.
    template <GuestSafe T>
    requires(sizeof(T) <= 8) T load(std::size_t offset, base::Order order)
    const {
        T value;
        __atomic_load(typed<T>(offset), &value, static_cast<int>(order));
        return value;
    }
    template <GuestSafe T>
    requires(sizeof(T) <= 8) void store(std::size_t offset, T value, base::Order order) const {
        __atomic_store(typed<T>(offset), &value, static_cast<int>(order));
    }

    template <GuestSafe T>
    requires(sizeof(T) <= 8) T fetch_or(std::size_t offset, T bits)
    const { return __atomic_fetch_or(typed<T>(offset), bits, __ATOMIC_SEQ_CST); }
    template <GuestSafe T>
    requires(sizeof(T) <= 8) T fetch_and(std::size_t offset, T bits)
    const { return __atomic_fetch_and(typed<T>(offset), bits, __ATOMIC_SEQ_CST); }

private:
    friend class GuestMemory;
    GuestSlice(std::byte* host, std::size_t size) : host_(host), size_(size) {}

    template <typename T>
    T* typed(std::size_t offset) const {
        assert(offset <= size_ && sizeof(T) <= size_ - offset);
        // SAFETY: inside the slice; T is GuestSafe, so every bit pattern is a T; the caller vouches
        // for alignment.
        return reinterpret_cast<T*>(host_ + offset);
    }

    std::byte* host_ = nullptr;
    std::size_t size_ = 0;
};

struct GuestRegion {
    GuestAddr base;
    std::byte* host = nullptr;
    std::uint64_t size = 0;
    bool writable =
        true; // false: devices may only read it (a read-only mapping of the kernel image)
};

// Built once while the machine is set up, then only read: safe from any thread.
class GuestMemory {
public:
    static constexpr std::size_t max_regions = 4;

    // False when the region is empty, wraps, overlaps another or is one too many, or when host and
    // guest address do not agree modulo 16 (atomics and descriptors rely on it). The mapping must
    // outlive this.
    [[nodiscard]] bool add_region(const GuestRegion& region);

    // The range, if it lies wholly inside one region. An empty range is inside when its address is.
    std::optional<GuestSlice> slice(GuestAddr address, std::uint64_t length,
                                    Access access = Access::Write) const;

    template <GuestSafe T>
    std::optional<T> read_object(GuestAddr address) const {
        const auto range = slice(address, sizeof(T), Access::Read);
        if (!range)
            return std::nullopt;
        return range->template read_object<T>(0);
    }
    template <GuestSafe T>
    [[nodiscard]] bool write_object(GuestAddr address, const T& value) const {
        const auto range = slice(address, sizeof(T), Access::Write);
        if (!range)
            return false;
        range->write_object(0, value);
        return true;
    }

private:
    std::array<GuestRegion, max_regions> regions_{};
    std::size_t count_ = 0;
};

} // namespace virtio
