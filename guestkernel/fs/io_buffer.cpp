#include "guestkernel/fs/io_buffer.hpp"

#include "guestkernel/arch/arch.hpp"

namespace kernel {

IoBuffer::IoBuffer(std::span<const UserVector> vectors) : vectors_(vectors) {
    for (const UserVector& vector : vectors)
        remaining_ += vector.length;
}

IoBuffer::IoBuffer(void* data, usize length)
    : kernel_(static_cast<u8*>(data)), remaining_(length) {}

// Applies `copy(user address, offset in the request, bytes) -> bytes not copied` to the pieces of
// the next `bytes`.
template <typename Copy>
usize IoBuffer::for_pieces(usize bytes, Copy&& copy) {
    bytes = bytes < remaining_ ? bytes : remaining_;
    usize copied = 0;
    while (copied < bytes) {
        const UserVector& vector = vectors_.front();
        if (position_ == vector.length) {
            vectors_ = vectors_.subspan(1);
            position_ = 0;
            continue;
        }
        const usize left = vector.length - position_;
        const usize piece = bytes - copied < left ? bytes - copied : left;
        const usize missed = copy(vector.base + position_, copied, piece);
        copied += piece - missed;
        position_ += piece - missed;
        if (missed != 0)
            break;
    }
    remaining_ -= copied;
    done_ += copied;
    return copied;
}

usize IoBuffer::kernel_piece(usize bytes, u8*& at) {
    const usize piece = bytes < remaining_ ? bytes : remaining_;
    at = kernel_ + done_;
    remaining_ -= piece;
    done_ += piece;
    return piece;
}

usize IoBuffer::copy_out(const void* from, usize bytes) {
    if (kernel_ != nullptr) {
        u8* at = nullptr;
        const usize piece = kernel_piece(bytes, at);
        __builtin_memcpy(at, from, piece);
        return piece;
    }
    return for_pieces(bytes, [&](u64 user, usize offset, usize piece) {
        return arch::copy_to_user(user, static_cast<const u8*>(from) + offset, piece);
    });
}

usize IoBuffer::copy_in(void* to, usize bytes) {
    if (kernel_ != nullptr) {
        u8* at = nullptr;
        const usize piece = kernel_piece(bytes, at);
        __builtin_memcpy(to, at, piece);
        return piece;
    }
    return for_pieces(bytes, [&](u64 user, usize offset, usize piece) {
        return arch::copy_from_user(static_cast<u8*>(to) + offset, user, piece);
    });
}

usize IoBuffer::zero_out(usize bytes) {
    if (kernel_ != nullptr) {
        u8* at = nullptr;
        const usize piece = kernel_piece(bytes, at);
        __builtin_memset(at, 0, piece);
        return piece;
    }
    return for_pieces(bytes,
                      [](u64 user, usize, usize piece) { return arch::clear_user(user, piece); });
}

usize IoBuffer::fault_in(usize bytes) {
    if (kernel_ != nullptr)
        return bytes < remaining_ ? bytes : remaining_;
    bytes = bytes < remaining_ ? bytes : remaining_;
    usize position = position_;
    usize reached = 0;
    for (const UserVector& vector : vectors_) {
        const usize left = vector.length - position;
        const usize piece = bytes - reached < left ? bytes - reached : left;
        // One byte of each page that the piece touches.
        for (u64 at = vector.base + position; at < vector.base + position + piece;
             at = page_down(at) + page_size) {
            u8 probe = 0;
            if (arch::copy_from_user(&probe, at, 1) != 0)
                return reached + (at - (vector.base + position));
        }
        reached += piece;
        position = 0;
        if (reached == bytes)
            break;
    }
    return reached;
}

void IoBuffer::truncate(usize bytes) {
    if (bytes < remaining_)
        remaining_ = bytes;
}

} // namespace kernel
