// Cursors over a message in pieces. The memory may be the guest's, which changes it when it likes:
// every byte is copied once, and only the copy is looked at.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>

#include <sys/uio.h>

namespace virtio::fs {

// As many pieces as one preadv takes (IOV_MAX).
inline constexpr std::size_t max_pieces = 1024;
using PieceArray = std::array<struct iovec, max_pieces>;

class IovCursor {
public:
    explicit IovCursor(std::span<const struct iovec> pieces) : pieces_(pieces) {
        for (const struct iovec& piece : pieces) {
            if (__builtin_add_overflow(remaining_, piece.iov_len, &remaining_))
                remaining_ = std::numeric_limits<std::size_t>::max();
        }
    }

    std::size_t remaining() const { return remaining_; }
    // What lies beyond the next `length` bytes is not there any more.
    void limit(std::size_t length) { remaining_ = std::min(remaining_, length); }

    bool skip(std::size_t length) {
        return walk(length, [](std::byte*, std::size_t) {});
    }
    // Copies out and advances; false, and nothing done, if fewer bytes remain.
    bool read(std::span<std::byte> out) {
        return walk(out.size(), [&](const std::byte* piece, std::size_t length) {
            std::memcpy(out.data(), piece, length);
            out = out.subspan(length);
        });
    }
    bool write(std::span<const std::byte> in) {
        return walk(in.size(), [&](std::byte* piece, std::size_t length) {
            std::memcpy(piece, in.data(), length);
            in = in.subspan(length);
        });
    }
    template <typename T>
    requires std::is_trivially_copyable_v<T>
    bool read_object(T& out) { return read(std::as_writable_bytes(std::span(&out, 1))); }
    template <typename T>
    requires std::is_trivially_copyable_v<T>
    bool write_object(const T& in) { return write(std::as_bytes(std::span(&in, 1))); }

    // The next up to `length` bytes as pieces for preadv and pwritev; does not advance. Fewer bytes
    // if there are more than max_pieces pieces.
    std::span<struct iovec> take_pieces(PieceArray& out, std::size_t length) const {
        std::size_t count = 0;
        std::size_t left = std::min(length, remaining_);
        std::size_t offset = offset_;
        for (const struct iovec& piece : pieces_) {
            if (left == 0 || count == out.size())
                break;
            const std::size_t here = std::min(piece.iov_len - offset, left);
            if (here > 0)
                out[count++] = {static_cast<std::byte*>(piece.iov_base) + offset, here};
            left -= here;
            offset = 0;
        }
        return std::span(out).first(count);
    }

private:
    template <typename F>
    bool walk(std::size_t length, F&& use) {
        if (length > remaining_)
            return false;
        remaining_ -= length;
        while (length > 0) {
            const struct iovec& piece = pieces_.front();
            const std::size_t here = std::min(piece.iov_len - offset_, length);
            if (here > 0)
                use(static_cast<std::byte*>(piece.iov_base) + offset_, here);
            length -= here;
            offset_ += here;
            if (offset_ == piece.iov_len) {
                pieces_ = pieces_.subspan(1);
                offset_ = 0;
            }
        }
        return true;
    }

    std::span<const struct iovec> pieces_; // the first is where we are
    std::size_t offset_ = 0;               // inside the first
    std::size_t remaining_ = 0;
};

} // namespace virtio::fs
