// User memory: the kernel can only copy it, once, checked. UserPtr has no operator*.
#pragma once

#include <concepts>
#include <type_traits>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/lib/string.hpp"

namespace kernel {

inline constexpr int efault = 14; // EFAULT

constexpr bool user_range_ok(u64 address, u64 bytes) {
    return bytes <= user_max && address <= user_max - bytes;
}

inline Result<void> copy_in_bytes(void* to, u64 from, usize bytes) {
    if (!user_range_ok(from, bytes) || arch::copy_from_user(to, from, bytes) != 0)
        return fail(efault);
    return {};
}
inline Result<void> copy_out_bytes(u64 to, const void* from, usize bytes) {
    if (!user_range_ok(to, bytes) || arch::copy_to_user(to, from, bytes) != 0)
        return fail(efault);
    return {};
}

// Trivially copyable and without padding that could leak kernel memory is the ideal; UAPI structs
// with padding are zero-initialised by their users before they are filled.
template <typename T>
concept AbiSafe = std::is_trivially_copyable_v<T>;

template <typename T>
requires AbiSafe<std::remove_const_t<T>>
class UserPtr {
public:
    using Value = std::remove_const_t<T>;
    constexpr UserPtr() = default;
    constexpr explicit UserPtr(u64 raw) : raw_(raw) {}

    Result<Value> copy_in() const {
        Value value;
        if (auto done = copy_in_bytes(&value, raw_, sizeof value); !done)
            return fail(done.error().code);
        return value;
    }
    Result<void> copy_out(const Value& value) const requires(!std::is_const_v<T>) {
        return copy_out_bytes(raw_, &value, sizeof value);
    }
    // Element `index` of an array.
    constexpr UserPtr operator+(usize index) const { return UserPtr(raw_ + index * sizeof(Value)); }
    constexpr u64 raw() const { return raw_; }
    constexpr explicit operator bool() const { return raw_ != 0; }

private:
    u64 raw_ = 0;
};

// A NUL-terminated string of at most `limit` bytes including the NUL: ENAMETOOLONG (36) or EFAULT
// otherwise.
Result<String> copy_in_string(u64 address, usize limit);

} // namespace kernel
