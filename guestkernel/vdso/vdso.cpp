// The code that runs in user mode: clocks without a system call. vdso(7).
#include "guestkernel/vdso/data.hpp"

extern "C" {

extern const volatile vdso::Data joey_vdso_data __attribute__((visibility("hidden")));

struct TimeSpec {
    long seconds, nanoseconds;
};
struct TimeVal {
    long seconds, microseconds;
};

#define EXPORT __attribute__((visibility("default")))

EXPORT int __vdso_clock_gettime(int clock, TimeSpec* out);
EXPORT int __vdso_clock_getres(int clock, TimeSpec* out);
EXPORT int __vdso_gettimeofday(TimeVal* out, void* zone);
EXPORT long __vdso_time(long* out);
}

namespace {

constexpr long call_clock_gettime = 228, call_clock_getres = 229, call_gettimeofday = 96,
               call_time = 201;
constexpr unsigned long long second = 1'000'000'000;

long system_call(long number, long a, void* b) {
    long result = 0;
    asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return result;
}

unsigned long long now(bool realtime) {
    for (;;) {
        const unsigned before = joey_vdso_data.sequence;
        unsigned low = 0;
        unsigned high = 0;
        asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
        const unsigned long long ticks =
            (static_cast<unsigned long long>(high) << 32 | low) - joey_vdso_data.base_tsc;
        __extension__ using Wide = unsigned __int128;
        unsigned long long ns = static_cast<unsigned long long>(
            static_cast<Wide>(ticks) * joey_vdso_data.ns_per_tick >> 32);
        if (realtime)
            ns += static_cast<unsigned long long>(joey_vdso_data.realtime_offset);
        asm volatile("" : : : "memory");
        if ((before & 1) == 0 && before == joey_vdso_data.sequence)
            return ns;
    }
}

// In a time namespace with offsets the page is a copy, which does not even follow the clock.
bool asks_kernel() {
    return joey_vdso_data.asks_kernel != 0;
}
// CLOCK_REALTIME, _MONOTONIC, _MONOTONIC_RAW, the coarse two, _BOOTTIME.
bool is_ours(int clock) {
    return !asks_kernel() && (clock == 0 || clock == 1 || (clock >= 4 && clock <= 7));
}
bool is_realtime(int clock) {
    return clock == 0 || clock == 5;
}
bool is_coarse(int clock) {
    return clock == 5 || clock == 6;
}

} // namespace

int __vdso_clock_gettime(int clock, TimeSpec* out) {
    if (!is_ours(clock))
        return static_cast<int>(system_call(call_clock_gettime, clock, out));
    const unsigned long long ns = now(is_realtime(clock));
    out->seconds = static_cast<long>(ns / second);
    out->nanoseconds = static_cast<long>(ns % second);
    return 0;
}

int __vdso_clock_getres(int clock, TimeSpec* out) {
    if (!is_ours(clock))
        return static_cast<int>(system_call(call_clock_getres, clock, out));
    constexpr long coarse = 4'000'000; // as the system call says
    if (out != nullptr)
        *out = {0, is_coarse(clock) ? coarse : 1};
    return 0;
}

int __vdso_gettimeofday(TimeVal* out, void* zone) {
    if (zone != nullptr || asks_kernel()) {
        return static_cast<int>(system_call(call_gettimeofday, reinterpret_cast<long>(out), zone));
    }
    if (out != nullptr) {
        const unsigned long long ns = now(true);
        out->seconds = static_cast<long>(ns / second);
        out->microseconds = static_cast<long>(ns % second / 1000);
    }
    return 0;
}

long __vdso_time(long* out) {
    if (asks_kernel())
        return system_call(call_time, reinterpret_cast<long>(out), nullptr);
    const long seconds = static_cast<long>(now(true) / second);
    if (out != nullptr)
        *out = seconds;
    return seconds;
}

extern "C" {
EXPORT int clock_gettime(int clock, TimeSpec* out)
    __attribute__((weak, alias("__vdso_clock_gettime")));
EXPORT int clock_getres(int clock, TimeSpec* out)
    __attribute__((weak, alias("__vdso_clock_getres")));
EXPORT int gettimeofday(TimeVal* out, void* zone)
    __attribute__((weak, alias("__vdso_gettimeofday")));
EXPORT long time(long* out) __attribute__((weak, alias("__vdso_time")));
}
