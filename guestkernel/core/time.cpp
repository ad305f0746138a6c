// Clocks from the TSC, and the per-CPU timer queues.
#include "guestkernel/core/time.hpp"

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/panic.hpp"

namespace kernel {

namespace {

// ns = (tsc - base) * ns_per_tick >> 32 and back, with 128-bit products: exact enough for
// centuries.
struct Clock {
    u64 base_tsc = 0;
    u64 ns_per_tick = u64{1} << 32;
    u64 ticks_per_ns = u64{1} << 32;
    base::Atomic<i64> realtime_offset{0};
};
constinit Clock clock;

__extension__ using Wide = unsigned __int128;

u64 scale(u64 value, u64 factor) {
    return static_cast<u64>(static_cast<Wide>(value) * factor >> 32);
}

} // namespace

void init_clock(u64 tsc_khz, u64 base_tsc, u64 wall_ns, u64 wall_tsc) {
    clock.base_tsc = base_tsc;
    clock.ns_per_tick = static_cast<u64>((static_cast<Wide>(1'000'000) << 32) / tsc_khz);
    clock.ticks_per_ns = static_cast<u64>((static_cast<Wide>(tsc_khz) << 32) / 1'000'000);
    // The wall-clock pair may lie before or after our zero.
    const i64 since = wall_tsc >= base_tsc
                          ? static_cast<i64>(scale(wall_tsc - base_tsc, clock.ns_per_tick))
                          : -static_cast<i64>(scale(base_tsc - wall_tsc, clock.ns_per_tick));
    clock.realtime_offset.store(static_cast<i64>(wall_ns) - since);
}

ClockParameters clock_parameters() {
    return {clock.base_tsc, clock.ns_per_tick, clock.realtime_offset.load(base::Order::Relaxed)};
}

u64 tsc_to_monotonic_ns(u64 tsc) {
    return tsc > clock.base_tsc ? scale(tsc - clock.base_tsc, clock.ns_per_tick) : 0;
}
// What is further than the counter can say saturates: a shot at what is left of it after an
// overflow would come at once, over and over.
u64 monotonic_ns_to_tsc(u64 ns) {
    constexpr u64 last = ~u64{0} - 1;
    const Wide tsc = clock.base_tsc + (static_cast<Wide>(ns) * clock.ticks_per_ns >> 32);
    return tsc < last ? static_cast<u64>(tsc) : last;
}
u64 monotonic_ns() {
    return tsc_to_monotonic_ns(arch::read_tsc());
}
i64 realtime_ns() {
    return static_cast<i64>(monotonic_ns()) + clock.realtime_offset.load(base::Order::Relaxed);
}
void set_realtime_ns(i64 now) {
    clock.realtime_offset.store(now - static_cast<i64>(monotonic_ns()));
}

void slew_realtime_ns(i64 by) {
    clock.realtime_offset.fetch_add(by);
}

namespace {

// Before the Epoch there are no deadlines.
u64 wall_now(u64 monotonic) {
    const i64 now = static_cast<i64>(monotonic) + clock.realtime_offset.load(base::Order::Relaxed);
    return wall_deadline(now > 0 ? static_cast<u64>(now) : 0);
}

// When to look at a deadline. The wall clock may be made to go faster than the other, by a quarter
// at the very most (clock_discipline.cpp), and nobody looks again because of that: of a long way
// most is gone before the rest is measured anew.
u64 to_monotonic(u64 deadline) {
    constexpr u64 at_once = 10'000'000;
    if (!is_wall_deadline(deadline))
        return deadline;
    const u64 monotonic = monotonic_ns();
    const u64 wall = wall_now(monotonic);
    const u64 left = deadline > wall ? deadline - wall : 0;
    return monotonic + (left > at_once ? left - left / 4 : left);
}

} // namespace

bool deadline_passed(u64 deadline) {
    const u64 now = monotonic_ns();
    return (is_wall_deadline(deadline) ? wall_now(now) : now) >= deadline;
}

// Pairing heaps by deadline, one for each clock. A node's `left_` is its first child, `right_` its
// next sibling, `parent_` the previous sibling or, for a first child, the parent.
class TimerQueue {
public:
    void arm(Timer& timer, u64 deadline, u32 cpu) {
        SpinGuard guard(lock_);
        timer.deadline_ = deadline;
        timer.cpu_ = cpu;
        timer.left_ = timer.right_ = timer.parent_ = nullptr;
        timer.queued_ = true;
        Timer*& root = root_of(timer);
        root = merge(root, &timer);
        if (root == &timer)
            program(to_monotonic(deadline));
    }
    // Returns whether it was queued here, on CPU `cpu`.
    bool remove(Timer& timer, u32 cpu) {
        SpinGuard guard(lock_);
        // In this order: arm() says where before it says that.
        if (!timer.queued_ || timer.cpu_ != cpu)
            return false;
        detach(timer);
        timer.queued_ = false;
        return true;
    }
    void run() {
        // What is armed meanwhile waits for the next round: timers that re-arm themselves for at
        // once must not keep the CPU here.
        const u64 now = monotonic_ns(), wall = wall_now(now);
        for (;;) {
            Timer* due = nullptr;
            {
                SpinGuard guard(lock_);
                if (root_ != nullptr && root_->deadline_ <= now)
                    due = root_;
                else if (wall_root_ != nullptr && wall_root_->deadline_ <= wall)
                    due = wall_root_;
                if (due == nullptr) {
                    armed_ = no_deadline; // the shot that brought us here is spent
                    if (root_ != nullptr)
                        program(root_->deadline_);
                    if (wall_root_ != nullptr)
                        program(to_monotonic(wall_root_->deadline_));
                    return;
                }
                detach(*due);
                __atomic_fetch_add(&due->running_, 1, __ATOMIC_SEQ_CST);
                due->queued_ = false;
                running_ = due;
            }
            // Whoever destroys the timer waits in cancel() for the end of this.
            due->callback_(*due, due->argument_);
            SpinGuard guard(lock_);
            __atomic_fetch_sub(&due->running_, 1, __ATOMIC_SEQ_CST);
            running_ = nullptr;
        }
    }
    bool is_running(const Timer& timer) {
        SpinGuard guard(lock_);
        return running_ == &timer;
    }

private:
    Timer*& root_of(const Timer& timer) { return timer.on_wall_clock() ? wall_root_ : root_; }
    static Timer* merge(Timer* a, Timer* b) {
        if (a == nullptr)
            return b;
        if (b == nullptr)
            return a;
        if (b->deadline_ < a->deadline_) {
            Timer* swap = a;
            a = b;
            b = swap;
        }
        b->parent_ = a;
        b->right_ = a->left_;
        if (a->left_ != nullptr)
            a->left_->parent_ = b;
        a->left_ = b;
        a->right_ = a->parent_ = nullptr;
        return a;
    }
    // Merges the siblings pairwise, then the pairs from the last to the first.
    static Timer* merge_children(Timer* first) {
        Timer* pairs = nullptr;
        while (first != nullptr) {
            Timer* a = first;
            Timer* b = a->right_;
            first = b != nullptr ? b->right_ : nullptr;
            a->right_ = a->parent_ = nullptr;
            if (b != nullptr)
                b->right_ = b->parent_ = nullptr;
            Timer* merged = merge(a, b);
            merged->right_ = pairs;
            pairs = merged;
        }
        Timer* result = nullptr;
        while (pairs != nullptr) {
            Timer* next = pairs->right_;
            pairs->right_ = nullptr;
            result = merge(result, pairs);
            pairs = next;
        }
        return result;
    }
    void detach(Timer& timer) {
        Timer*& root = root_of(timer);
        if (&timer == root) {
            root = merge_children(timer.left_);
        } else {
            if (timer.parent_->left_ == &timer)
                timer.parent_->left_ = timer.right_;
            else
                timer.parent_->right_ = timer.right_;
            if (timer.right_ != nullptr)
                timer.right_->parent_ = timer.parent_;
            root = merge(root, merge_children(timer.left_));
        }
        timer.left_ = timer.right_ = timer.parent_ = nullptr;
    }
    // Arming costs a trip to ring 0, so an earlier shot that is still to come is left alone.
    void program(u64 deadline) {
        if (deadline >= armed_)
            return;
        armed_ = deadline;
        arch::arm_timer(monotonic_ns_to_tsc(deadline) + 1);
    }

    SpinLock lock_{LockRank::Timer};
    Timer* root_ = nullptr;
    Timer* wall_root_ = nullptr;
    Timer* running_ = nullptr;
    u64 armed_ = no_deadline;
};

namespace {
constinit TimerQueue queues[64] = {};
} // namespace

void run_timers() {
    queues[arch::cpu_id()].run();
}

void recheck_wall_timers() {
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++) {
        arch::raise_softirq(static_cast<u32>(Softirq::Timers), cpu);
        arch::kick_cpu(cpu);
    }
}

bool Timer::take_out() {
    while (queued_) {
        const u32 cpu = cpu_;
        if (queues[cpu].remove(*this, cpu))
            return true;
    }
    return false;
}

void Timer::arm(u64 deadline_ns) {
    (void)take_out();
    const unsigned cpu = arch::cpu_id();
    queues[cpu].arm(*this, deadline_ns, cpu);
}

bool Timer::cancel() {
    bool removed = false;
    // Again, since a callback that was under way may have armed it anew before it ended.
    do {
        removed |= take_out();
        // Its callback may be running on other CPUs, wherever it was armed since; on this one only
        // if we are called from it.
        if (running_ != 0)
            for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
                while (cpu != arch::cpu_id() && queues[cpu].is_running(*this))
                    arch::relax();
    } while (queued_);
    return removed;
}

} // namespace kernel
