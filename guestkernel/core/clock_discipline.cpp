#include "guestkernel/core/clock_discipline.hpp"

#include <linux/errno.h>
#include <linux/timex.h>

#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/core/vdso.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

namespace {

constexpr i64 most_frequency = i64{500} << 16; // 500 ppm, scaled as in struct timex
constexpr i64 nominal_tick = 10'000;           // microseconds, at 100 ticks a second
constexpr i64 phase_limit = 16'000'000;        // microseconds
constexpr i64 most_phase_ns = 500'000'000;     // of an offset that is slewed
constexpr i64 slew_ppm = 500;                  // adjtime(3)
constexpr i64 most_tai = 100'000, most_constant = 10;
constexpr u64 step_ns = 10'000'000;
constexpr unsigned pll_shift = 2; // how fast an offset goes, with the time constant
constexpr i64 million = 1'000'000;

// The state as struct timex has it. Its lock is held for short looks only.
struct Discipline {
    SpinLock lock{LockRank::Leaf};
    int status = STA_UNSYNC;
    i64 frequency = 0, tick = nominal_tick;
    i64 offset_ns = 0;   // ADJ_OFFSET: what is left of it
    i64 single_shot = 0; // adjtime(3): microseconds that are left
    i64 constant = 2, max_error = phase_limit, estimated_error = phase_limit;
    u64 last_ns = 0, second_ns = 0; // up to here it was steered, and the error has grown
    i64 rest = 0;                   // of a nanosecond, in millionths of 1 / 65536

    bool active() const {
        return frequency != 0 || tick != nominal_tick || offset_ns != 0 || single_shot != 0;
    }
};
constinit Discipline clock;
constinit base::Atomic<i32> tai_seconds{0}; // read with other locks held

i64 clamp(i64 value, i64 most) {
    return value < -most ? -most : value > most ? most : value;
}

// The error grows by the tolerance while nobody tells better. Requires: the lock.
void grow_error(u64 now) {
    const u64 seconds = (now - clock.second_ns) / nanoseconds_per_second;
    clock.second_ns += seconds * nanoseconds_per_second;
    const i64 more = seconds > phase_limit ? phase_limit : static_cast<i64>(seconds) * slew_ppm;
    clock.max_error += more;
    if (clock.max_error > phase_limit) {
        clock.max_error = phase_limit;
        clock.status |= STA_UNSYNC;
    }
}

// What the clock is to move for the time that has passed. Requires: the lock.
i64 due(u64 now) {
    constexpr u64 longest = nanoseconds_per_second; // a VM that stood still is not steered for it
    const u64 passed = now - clock.last_ns;
    const auto dt = static_cast<i64>(passed < longest ? passed : longest);
    clock.last_ns = now;
    // dt * frequency / (65536 * million), the rest kept.
    const i64 scaled = dt * (clock.frequency / 16) / 4096 + clock.rest; // in millionths
    i64 move = scaled / million;
    clock.rest = scaled % million;
    move += dt / nominal_tick * (clock.tick - nominal_tick);
    if (clock.single_shot != 0) {
        const i64 most = dt * slew_ppm / million / 1000; // microseconds
        const i64 part = clamp(clock.single_shot, most > 0 ? most : 1);
        clock.single_shot -= part;
        move += part * 1000;
    }
    if (clock.offset_ns != 0) {
        const i64 share = clock.offset_ns >> (pll_shift + clock.constant);
        i64 part = share / 1000 * dt / million;
        if (part == 0)
            part = clamp(clock.offset_ns, 1000);
        clock.offset_ns -= part;
        move += part;
    }
    return move;
}

void steer(Timer& timer, void*) {
    const u64 now = monotonic_ns();
    i64 move = 0;
    bool again = false;
    {
        SpinGuard guard(clock.lock);
        move = due(now);
        again = clock.active();
    }
    if (move != 0) {
        slew_realtime_ns(move);
        update_vdso_clock();
    }
    if (again)
        timer.arm(now + step_ns);
}

constinit Mutex steering; // who makes and arms the timer
constinit Timer* steering_timer = nullptr;

Result<void> start_steering() {
    MutexGuard guard(steering);
    {
        SpinGuard inner(clock.lock);
        if (!clock.active())
            return {};
    }
    if (steering_timer == nullptr) {
        TRY(Owned<Timer> fresh, make_owned<Timer>(steer, nullptr));
        steering_timer = fresh.leak();
    }
    // One whose callback runs just now arms itself again.
    if (!steering_timer->cancel()) {
        SpinGuard inner(clock.lock);
        clock.last_ns = monotonic_ns();
    }
    steering_timer->arm(monotonic_ns() + step_ns);
    guard.unlock();
    return {};
}

Result<void> check(const ::__kernel_timex& wanted, bool permitted) {
    const unsigned modes = wanted.modes;
    if ((modes & 0x8000) != 0) { // adjtime(3)
        if ((modes & ADJ_OFFSET_SINGLESHOT) != ADJ_OFFSET_SINGLESHOT)
            return fail(EINVAL);
        if ((modes & ADJ_NANO) == 0 && !permitted) // in these modes: only to look
            return fail(EPERM);
    } else {
        if (modes != 0 && !permitted)
            return fail(EPERM);
        if ((modes & ADJ_TICK) != 0 &&
            (wanted.tick < nominal_tick * 9 / 10 || wanted.tick > nominal_tick * 11 / 10))
            return fail(EINVAL);
    }
    if ((modes & ADJ_SETOFFSET) != 0) {
        if (!permitted)
            return fail(EPERM);
        const i64 most = (modes & ADJ_NANO) != 0 ? i64{nanoseconds_per_second} : million;
        if (wanted.time.tv_usec < 0 || wanted.time.tv_usec >= most)
            return fail(EINVAL);
    }
    constexpr i64 scale = i64{1} << 47; // beyond it the product with the scale of ppm overflows
    if ((modes & ADJ_FREQUENCY) != 0 && (wanted.freq > scale || wanted.freq < -scale))
        return fail(EINVAL);
    return {};
}

// Requires: the lock.
void set_status(int wanted) {
    if ((clock.status & STA_PLL) != 0 && (wanted & STA_PLL) == 0)
        clock.status = STA_UNSYNC;
    clock.status = (clock.status & STA_RONLY) | (wanted & ~STA_RONLY);
}

// Requires: the lock.
void apply(const ::__kernel_timex& wanted) {
    const unsigned modes = wanted.modes;
    if ((modes & ADJ_STATUS) != 0)
        set_status(wanted.status);
    if ((modes & ADJ_NANO) != 0)
        clock.status |= STA_NANO;
    if ((modes & ADJ_MICRO) != 0)
        clock.status &= ~STA_NANO;
    if ((modes & ADJ_FREQUENCY) != 0)
        clock.frequency = clamp(wanted.freq, most_frequency);
    if ((modes & ADJ_MAXERROR) != 0)
        clock.max_error = wanted.maxerror < 0 ? 0 : clamp(wanted.maxerror, phase_limit);
    if ((modes & ADJ_ESTERROR) != 0)
        clock.estimated_error = wanted.esterror < 0 ? 0 : clamp(wanted.esterror, phase_limit);
    if ((modes & ADJ_TIMECONST) != 0) {
        i64 constant = wanted.constant < 0 ? 0 : clamp(wanted.constant, most_constant);
        if ((clock.status & STA_NANO) == 0)
            constant += 4;
        clock.constant = clamp(constant, most_constant);
    }
    if ((modes & ADJ_TAI) != 0 && wanted.constant >= 0 && wanted.constant <= most_tai)
        tai_seconds.store(static_cast<i32>(wanted.constant));
    if ((modes & ADJ_OFFSET) != 0 && (clock.status & STA_PLL) != 0) {
        const i64 limit = (clock.status & STA_NANO) != 0 ? most_phase_ns : most_phase_ns / 1000;
        const i64 offset = clamp(wanted.offset, limit);
        clock.offset_ns = (clock.status & STA_NANO) != 0 ? offset : offset * 1000;
    }
    if ((modes & ADJ_TICK) != 0)
        clock.tick = wanted.tick;
}

// Requires: the lock.
void show(::__kernel_timex& out, i64 now) {
    const bool nano = (clock.status & STA_NANO) != 0;
    out.freq = clock.frequency;
    out.maxerror = clock.max_error;
    out.esterror = clock.estimated_error;
    out.status = clock.status;
    out.constant = clock.constant;
    out.precision = 1;
    out.tolerance = most_frequency;
    out.tick = clock.tick;
    out.tai = tai_seconds.load();
    out.ppsfreq = out.jitter = out.stabil = 0;
    out.jitcnt = out.calcnt = out.errcnt = out.stbcnt = 0;
    out.shift = 0;
    out.time.tv_sec = now / i64{nanoseconds_per_second};
    const i64 part = now % i64{nanoseconds_per_second};
    out.time.tv_usec = nano ? part : part / 1000;
}

// EINVAL: beyond the clock's end, or the boot would come to lie before the Epoch.
Result<void> step_clock(const ::__kernel_timex& wanted) {
    constexpr auto second = static_cast<i64>(nanoseconds_per_second);
    const i64 part =
        (wanted.modes & ADJ_NANO) != 0 ? i64{wanted.time.tv_usec} : i64{wanted.time.tv_usec} * 1000;
    {
        MutexGuard guard(steering); // two steps, each within bounds, may not be so together
        const u64 monotonic = monotonic_ns();
        i64 by = 0, now = 0;
        if (__builtin_mul_overflow(i64{wanted.time.tv_sec}, second, &by) ||
            __builtin_add_overflow(by, part, &by) ||
            __builtin_add_overflow(realtime_ns(), by, &now) || now < static_cast<i64>(monotonic) ||
            static_cast<u64>(now) >= wall_clock_end_ns)
            return fail(EINVAL);
        slew_realtime_ns(by);
    }
    update_vdso_clock();
    wall_clock_was_set();
    return {};
}

} // namespace

Result<int> discipline_clock(::__kernel_timex& timex, bool permitted) {
    TRY(check(timex, permitted));
    if ((timex.modes & ADJ_SETOFFSET) != 0)
        TRY(step_clock(timex));
    const u64 monotonic = monotonic_ns();
    const i64 now = realtime_ns();
    int answer = TIME_OK;
    {
        SpinGuard guard(clock.lock);
        grow_error(monotonic);
        if ((timex.modes & 0x8000) != 0) {
            const i64 before = clock.single_shot;
            if ((timex.modes & ADJ_NANO) == 0)
                clock.single_shot = timex.offset;
            timex.offset = before;
        } else {
            apply(timex);
            timex.offset =
                (clock.status & STA_NANO) != 0 ? clock.offset_ns : clock.offset_ns / 1000;
        }
        show(timex, now);
        if ((clock.status & (STA_UNSYNC | STA_CLOCKERR)) != 0)
            answer = TIME_ERROR;
    }
    TRY(start_steering());
    return answer;
}

i32 tai_offset() {
    return tai_seconds.load(base::Order::Relaxed);
}

} // namespace kernel
