// timespec and timeval of user memory as nanoseconds.
#pragma once

#include "guestkernel/core/time.hpp"
#include "guestkernel/mm/user_copy.hpp"

namespace kernel {

struct UserTimeSpec { // struct __kernel_timespec
    i64 seconds;
    i64 nanoseconds;
};
struct UserTimeVal { // struct timeval
    i64 seconds;
    i64 microseconds;
};

inline constexpr int einval = 22; // EINVAL

constexpr bool valid(const UserTimeSpec& time) {
    return time.seconds >= 0 && time.nanoseconds >= 0 &&
           time.nanoseconds < i64{nanoseconds_per_second};
}

// Far futures saturate below no_deadline.
constexpr u64 to_ns(const UserTimeSpec& time) {
    constexpr i64 most = static_cast<i64>((no_deadline - 1) / nanoseconds_per_second / 2);
    if (time.seconds > most)
        return no_deadline / 2;
    return static_cast<u64>(time.seconds) * nanoseconds_per_second +
           static_cast<u64>(time.nanoseconds);
}

constexpr UserTimeSpec to_timespec(u64 ns) {
    return {static_cast<i64>(ns / nanoseconds_per_second),
            static_cast<i64>(ns % nanoseconds_per_second)};
}
constexpr UserTimeVal to_timeval(u64 ns) {
    return {static_cast<i64>(ns / nanoseconds_per_second),
            static_cast<i64>(ns % nanoseconds_per_second / 1000)};
}

inline Result<u64> ns_of(const UserTimeVal& time) {
    if (time.seconds < 0 || time.microseconds < 0 || time.microseconds >= 1'000'000)
        return fail(einval);
    return to_ns({time.seconds, time.microseconds * 1000});
}

inline Result<u64> copy_in_timespec(u64 address) {
    auto time = UserPtr<const UserTimeSpec>(address).copy_in();
    if (!time)
        return fail(time.error().code);
    if (!valid(*time))
        return fail(einval);
    return to_ns(*time);
}

// A relative timeout as a deadline; address 0: none.
inline Result<u64> copy_in_timeout(u64 address) {
    if (address == 0)
        return no_deadline;
    auto ns = copy_in_timespec(address);
    if (!ns)
        return ns;
    return monotonic_ns() + *ns;
}

} // namespace kernel
