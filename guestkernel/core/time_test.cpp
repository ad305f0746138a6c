#include <atomic>
#include <chrono>
#include <thread>

#include <catch2/catch.hpp>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/time.hpp"

using namespace kernel;

namespace {

struct Rearmed {
    Timer timer{[](Timer& self, void* raw) {
                    auto& state = *static_cast<Rearmed*>(raw);
                    state.called = true;
                    while (!state.may_end)
                        std::this_thread::yield();
                    self.arm(~u64{0} - 1);
                },
                this};
    std::atomic<bool> called{false}, may_end{false};
};

} // namespace

TEST_CASE("a timer that its callback arms anew while it is cancelled stays cancelled", "[time]") {
    hosted::set_cpu_count(2);
    Rearmed state;
    state.timer.arm(0);
    std::thread canceller([&] {
        hosted::set_cpu(1);
        while (!state.called)
            std::this_thread::yield();
        (void)state.timer.cancel();
        CHECK_FALSE(state.timer.pending());
    });
    std::thread ender([&] {
        while (!state.called)
            std::this_thread::yield();
        // Long enough for the other one to wait for the callback.
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        state.may_end = true;
    });
    run_timers();
    canceller.join();
    ender.join();
    CHECK_FALSE(state.timer.pending());
    hosted::set_cpu_count(1);
}

namespace {

struct Counted {
    Timer timer{[](Timer&, void* raw) { ++*static_cast<int*>(raw); }, &calls};
    int calls = 0;
};

} // namespace

TEST_CASE("a timer on the wall clock follows it when it is set, others do not", "[time]") {
    constexpr u64 hour = 3600 * nanoseconds_per_second;
    const i64 before = realtime_ns();
    set_realtime_ns(static_cast<i64>(monotonic_ns() + 1000 * hour));
    Counted wall, monotonic, far;
    wall.timer.arm(wall_deadline(static_cast<u64>(realtime_ns()) + hour));
    far.timer.arm(wall_deadline(static_cast<u64>(realtime_ns()) + 3 * hour));
    monotonic.timer.arm(monotonic_ns() + hour);
    run_timers();
    CHECK(wall.calls == 0);
    set_realtime_ns(realtime_ns() - static_cast<i64>(2 * hour));
    run_timers();
    CHECK(wall.calls == 0);
    set_realtime_ns(realtime_ns() + static_cast<i64>(4 * hour));
    recheck_wall_timers();
    run_timers();
    CHECK(wall.calls == 1);
    CHECK(far.calls == 0);
    CHECK(monotonic.calls == 0);
    CHECK(far.timer.cancel());
    CHECK(monotonic.timer.cancel());
    set_realtime_ns(before);
}

TEST_CASE("deadlines on the wall clock and the longest on the monotonic one are told apart",
          "[time]") {
    CHECK(is_wall_deadline(wall_deadline(0)));
    CHECK(is_wall_deadline(wall_deadline(~u64{0})));
    CHECK_FALSE(is_wall_deadline((u64{1} << 63) + 10 * 365 * 86400 * nanoseconds_per_second));
    CHECK_FALSE(is_wall_deadline(no_deadline));
    CHECK_FALSE(is_wall_deadline(no_deadline - 1));
    CHECK(deadline_passed(wall_deadline(0)));
    CHECK_FALSE(deadline_passed(wall_deadline(wall_clock_end_ns)));
}
