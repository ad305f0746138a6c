// A cursor over the caller's memory for one read or write: user iovecs or a kernel span.
#pragma once

#include <span>

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

struct UserVector { // as struct iovec, checked to lie below user_max
    u64 base;
    u64 length;
};

class IoBuffer {
public:
    // The vectors stay the caller's and must outlive the buffer.
    explicit IoBuffer(std::span<const UserVector> vectors);
    // Kernel memory.
    IoBuffer(void* data, usize length);

    usize remaining() const { return remaining_; }
    usize done() const { return done_; }
    // Copy towards the caller (a read) or from it (a write); return the bytes copied, fewer than
    // asked when the caller's memory faults or the buffer ends. Zero bytes copied on a fault: the
    // operation's answer is EFAULT.
    usize copy_out(const void* from, usize bytes);
    usize copy_in(void* to, usize bytes);
    usize zero_out(usize bytes);
    // Touches the caller's memory that the next copy_in() of `bytes` will read; returns how many of
    // them are readable.
    usize fault_in(usize bytes);
    bool is_user() const { return kernel_ == nullptr; }
    // Limits what is left to at most `bytes`.
    void truncate(usize bytes);

private:
    template <typename Copy>
    usize for_pieces(usize bytes, Copy&& copy);
    usize kernel_piece(usize bytes, u8*& at);

    std::span<const UserVector> vectors_;
    u8* kernel_ = nullptr;
    usize position_ = 0; // in the current vector
    usize remaining_ = 0;
    usize done_ = 0;
};

} // namespace kernel
