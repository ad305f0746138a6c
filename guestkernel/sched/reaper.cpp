// Address spaces whose last reference fell in the middle of a task switch: their memory is given
// back by a kernel task, since that may sleep.
#include "guestkernel/sched/run_queue.hpp"

namespace kernel {

namespace {

struct Graveyard {
    Ref<AddressSpace> spaces[64];
    u32 count = 0;
    bool started = false;
};
union Storage { // never destroyed
    constexpr Storage() : graveyard() {}
    ~Storage() {}
    Guarded<Graveyard, LockRank::Leaf> graveyard;
};
constinit Storage storage;
constinit WaitQueue work;

Ref<AddressSpace> take() {
    auto graveyard = storage.graveyard.lock();
    if (graveyard->count == 0)
        return {};
    return std::move(graveyard->spaces[--graveyard->count]);
}

void reap(void*) {
    for (;;) {
        Ref<AddressSpace> space;
        (void)wait_until(
            work,
            [&] {
                space = take();
                return static_cast<bool>(space);
            },
            no_deadline, TaskState::Uninterruptible);
    }
}

bool bury(Ref<AddressSpace>& space) {
    auto graveyard = storage.graveyard.lock();
    if (!graveyard->started || graveyard->count == 64)
        return false;
    graveyard->spaces[graveyard->count++] = std::move(space);
    return true;
}

} // namespace

Result<void> start_reaper() {
    TRY(start_kernel_task("reaper", reap, nullptr));
    storage.graveyard.lock()->started = true;
    return {};
}

void drop_address_space(Ref<AddressSpace> space) {
    if (space->release_unless_last()) {
        (void)space.leak();
        return;
    }
    if (bury(space))
        work.wake_one();
    // Otherwise the graveyard is full, and this task frees the memory itself.
}

} // namespace kernel
