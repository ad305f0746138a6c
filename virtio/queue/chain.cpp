#include "virtio/queue/chain.hpp"

#include <algorithm>
#include <cstring>

namespace virtio {

ChainCursor::ChainCursor(std::span<const struct iovec> pieces) : pieces_(pieces) {
    for (const struct iovec& piece : pieces)
        remaining_ += piece.iov_len;
}

bool ChainCursor::skip(std::uint64_t length) {
    if (length > remaining_)
        return false;
    remaining_ -= length;
    position_ += length;
    while (length > 0) {
        const std::size_t here = pieces_.front().iov_len - offset_;
        if (length < here) {
            offset_ += static_cast<std::size_t>(length);
            return true;
        }
        length -= here;
        pieces_ = pieces_.subspan(1);
        offset_ = 0;
    }
    return true;
}

std::span<struct iovec> ChainCursor::peek(std::span<struct iovec> out, std::uint64_t limit,
                                          std::uint64_t* bytes) const {
    std::size_t count = 0;
    std::uint64_t total = 0;
    std::size_t offset = offset_;
    for (const struct iovec& piece : pieces_) {
        if (count == out.size() || total == limit)
            break;
        const std::uint64_t here = std::min<std::uint64_t>(piece.iov_len - offset, limit - total);
        if (here > 0) {
            out[count++] = {static_cast<std::byte*>(piece.iov_base) + offset,
                            static_cast<std::size_t>(here)};
            total += here;
        }
        offset = 0;
    }
    if (bytes != nullptr)
        *bytes = total;
    return out.first(count);
}

template <typename Byte, typename Copy>
bool ChainCursor::transfer(std::span<Byte> buffer, Copy copy) {
    if (buffer.size() > remaining_)
        return false;
    while (!buffer.empty()) {
        const struct iovec& piece = pieces_.front();
        const std::size_t here = std::min(piece.iov_len - offset_, buffer.size());
        if (here > 0) {
            copy(static_cast<std::byte*>(piece.iov_base) + offset_, buffer.first(here));
            // Each guest byte is read once: see GuestSlice::copy_to.
            __asm__ volatile("" ::: "memory");
            buffer = buffer.subspan(here);
        }
        if (!skip(here) || here == 0) {
            // Only an empty piece gets here: step over it.
            pieces_ = pieces_.subspan(1);
            offset_ = 0;
        }
    }
    return true;
}

bool ChainReader::read(std::span<std::byte> out) {
    return transfer(out, [](const std::byte* guest, std::span<std::byte> local) {
        std::memcpy(local.data(), guest, local.size());
    });
}

bool ChainWriter::write(std::span<const std::byte> in) {
    return transfer(in, [](std::byte* guest, std::span<const std::byte> local) {
        std::memcpy(guest, local.data(), local.size());
    });
}

} // namespace virtio
