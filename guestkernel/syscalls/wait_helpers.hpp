// What calls that wait with a timeout and a signal mask have in common.
#pragma once

#include "guestkernel/core/time.hpp"
#include "guestkernel/syscalls/ipc_calls.hpp"
#include "guestkernel/task/signal.hpp"

namespace kernel {

// A relative time from user memory as a deadline; zero stays 0, "do not sleep". EINVAL.
inline Result<u64> deadline_after(i64 seconds, i64 nanoseconds) {
    constexpr int einval = 22;
    if (seconds < 0 || nanoseconds < 0 || static_cast<u64>(nanoseconds) >= nanoseconds_per_second)
        return fail(einval);
    if (seconds == 0 && nanoseconds == 0)
        return u64{0};
    constexpr i64 forever_seconds = i64{1} << 33; // 270 years
    if (seconds >= forever_seconds)
        return no_deadline;
    return monotonic_ns() + static_cast<u64>(seconds) * nanoseconds_per_second +
           static_cast<u64>(nanoseconds);
}

// The same of poll(2)'s milliseconds: negative is for ever.
inline u64 deadline_after_ms(int milliseconds) {
    if (milliseconds < 0)
        return no_deadline;
    return milliseconds == 0 ? 0 : monotonic_ns() + static_cast<u64>(milliseconds) * 1'000'000;
}

// Runs `call` under the signal mask at `mask` (0: the mask stays).
template <typename Call>
Result<long> with_signal_mask(UserPtr<const u64> mask, u64 size, Call&& call) {
    constexpr int eintr = 4, einval = 22;
    if (mask) {
        if (size != sizeof(u64))
            return fail(einval);
        TRY(const u64 bits, mask.copy_in());
        set_temporary_mask(bits);
    }
    auto result = call();
    if (mask)
        finish_temporary_mask(
            !result && (result.error().code == restart_no_handler || result.error().code == eintr));
    return result;
}

} // namespace kernel
