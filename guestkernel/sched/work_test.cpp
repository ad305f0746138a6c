#include <catch2/catch.hpp>

#include "guestkernel/sched/work.hpp"

using namespace kernel;

namespace {

struct Counted {
    Work work{[](void* self) { static_cast<Counted*>(self)->runs++; }, this};
    int runs = 0;
};

} // namespace

TEST_CASE("work for a queue that nobody has started is refused, not kept") {
    testing::stand_in_for_worker(false);
    Counted counted;
    CHECK_FALSE(queue_work(counted.work));
    CHECK_FALSE(counted.work.queued);
    testing::run_queued_work();
    CHECK(counted.runs == 0);
    // Nor does the refusal stick to it.
    testing::stand_in_for_worker(true);
    CHECK(queue_work(counted.work));
    testing::run_queued_work();
    CHECK(counted.runs == 1);
    testing::stand_in_for_worker(false);
}

TEST_CASE("work that is queued twice runs once, and again when it was queued while it ran") {
    testing::stand_in_for_worker(true);
    Counted counted;
    CHECK(queue_work(counted.work));
    CHECK_FALSE(queue_work(counted.work));
    testing::run_queued_work();
    CHECK(counted.runs == 1);
    struct Again {
        Work work{[](void* raw) {
                      auto& self = *static_cast<Again*>(raw);
                      if (++self.runs < 3)
                          CHECK(queue_work(self.work));
                  },
                  this};
        int runs = 0;
    } again;
    CHECK(queue_work(again.work));
    testing::run_queued_work();
    CHECK(again.runs == 3);
    testing::stand_in_for_worker(false);
}
