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
