// Who is woken, where one wake-up wakes one of those that wait.
#include <linux/eventpoll.h>

#include <catch2/catch.hpp>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/test_support.hpp"
#include "guestkernel/ipc/epoll.hpp"
#include "guestkernel/ipc/poll_events.hpp"

using namespace kernel;

namespace {

// One that waits for its turn, as a task in wait_until() would; awake from its first wake-up on.
struct Sleeper : Waiter {
    Sleeper() {
        function = [](Waiter& waiter, u32) {
            auto& self = static_cast<Sleeper&>(waiter);
            return !std::exchange(self.awake, true);
        };
        exclusive = true;
    }
    bool awake = false;
};

} // namespace

TEST_CASE("timerfd: who reads it on a CPU whose clock is behind is told all the same") {
    test::FsFixture fixture;
    const u64 start = arch::read_tsc();
    init_clock(1'000'000, start, 0, start);
    auto file = make_timer_file(1, 0);
    REQUIRE(file);
    auto& timer = static_cast<TimerFile&>(**file);
    constexpr u64 first = 1'000'000;
    REQUIRE(timer.set(0, first, false, false));
    while (timer.poll(nullptr) == 0) {
    }
    run_timers();
    init_clock(1'000'000, arch::read_tsc(), 0, start); // that CPU's clock says zero
    CHECK(timer.poll(nullptr) == (poll_in | poll_rdnorm));
    u64 count = 0;
    IoBuffer out(&count, sizeof count);
    CHECK(timer.read(out, 0));
    CHECK(count == 1);
    CHECK(timer.poll(nullptr) == 0);
}

TEST_CASE("clock: a deadline beyond what the counter can say is the last, not the next") {
    init_clock(2'000'000, 1000, 0, 1000);
    constexpr u64 far = no_deadline / 2; // to_ns() saturates there
    CHECK(monotonic_ns_to_tsc(far) > monotonic_ns_to_tsc(far / 2));
    CHECK(monotonic_ns_to_tsc(no_deadline - 1) >= monotonic_ns_to_tsc(far));
    CHECK(monotonic_ns_to_tsc(no_deadline - 1) + 1 != 0);
}

TEST_CASE("epoll: what one waiter has no room for wakes the next one") {
    test::FsFixture fixture;
    auto made = make_epoll_file();
    REQUIRE(made);
    auto& epoll = static_cast<EpollFile&>(**made);
    Ref<File> files[3];
    for (Ref<File>& file : files) {
        auto event = make_event_file(0, false, 0);
        REQUIRE(event);
        file = *event;
        REQUIRE(epoll.add(3, *file, EPOLLIN | EPOLLET, 0));
    }
    struct QueueOf final : PollTable {
        void watch(WaitQueue& queue) override { found = &queue; }
        WaitQueue* found = nullptr;
    } table;
    CHECK(epoll.poll(&table) == 0);
    REQUIRE(table.found != nullptr);
    // All of them are told of while the one that waits is not yet asleep again.
    for (Ref<File>& file : files)
        static_cast<EventFile&>(*file).signal(1);
    Sleeper next;
    table.found->add(next);
    EpollFile::Ready room[2];
    CHECK(*epoll.wait(std::span(room, 2), 0) == 2);
    CHECK(next.awake);
    next.awake = false;
    CHECK(*epoll.wait(std::span(room, 2), 0) == 1);
    CHECK_FALSE(next.awake);
    table.found->remove(next);
    *made = nullptr;
}
