// FUTEX_LOCK_PI and its kin: who waits for a lock lends its owner its priority, along chains of
// locks; who gets a lock next; FUTEX_WAIT_REQUEUE_PI and FUTEX_CMP_REQUEUE_PI; an owner that ends.
// What a thread has been lent shows in the priority of /proc/PID/task/TID/stat.
#include <atomic>
#include <climits>
#include <ctime>
#include <fstream>
#include <functional>
#include <mutex>
#include <sched.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <linux/futex.h>
#include <sys/syscall.h>

#include "tests/guest/check.hpp"

namespace {

using Word = std::atomic<unsigned>;

long futex(Word& word, int operation, unsigned value = 0, const void* timeout = nullptr,
           Word* second = nullptr, unsigned third = 0) {
    return syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, value, timeout, second, third);
}
long futex_count(Word& word, int operation, unsigned value, unsigned count, Word& second,
                 unsigned third) {
    return syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, value,
                   static_cast<unsigned long>(count), &second, third);
}
void lock(Word& word) {
    CHECK(futex(word, FUTEX_LOCK_PI) == 0);
}
void unlock(Word& word) {
    CHECK(futex(word, FUTEX_UNLOCK_PI) == 0);
}

pid_t self() {
    return static_cast<pid_t>(syscall(SYS_gettid));
}
bool owned(Word& word) {
    return (word & FUTEX_TID_MASK) == static_cast<unsigned>(self());
}

// /proc/PID/stat, proc(5), from its third field, the state, on.
std::string stat_of(pid_t thread) {
    std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
    std::string text;
    std::getline(file, text);
    text.erase(0, text.rfind(')') + 2);
    return text;
}

// The priority of a thread: -1 - N of real-time priority N, else 20 + nice.
int priority_of(pid_t thread) {
    std::string text = stat_of(thread);
    for (int field = 3; field < 18; field++)
        text.erase(0, text.find(' ') + 1);
    return std::stoi(text);
}

// Waits for what another thread is about to do; a test that hangs is ended from outside.
void until(const std::function<bool()>& holds) {
    while (!holds())
        usleep(500);
}
void until_priority(pid_t thread, int wanted) {
    until([&] { return priority_of(thread) == wanted; });
}

void become(int priority, pid_t thread = 0) {
    const sched_param parameters = {priority};
    CHECK(sched_setscheduler(thread, priority > 0 ? SCHED_FIFO : SCHED_OTHER, &parameters) == 0);
}

timespec in_future(long milliseconds, clockid_t clock) {
    timespec at;
    clock_gettime(clock, &at);
    at.tv_nsec += milliseconds % 1000 * 1'000'000;
    at.tv_sec += milliseconds / 1000 + at.tv_nsec / 1'000'000'000;
    at.tv_nsec %= 1'000'000'000;
    return at;
}

std::mutex order_mutex;
std::vector<int> order;
void note(int number) {
    const std::lock_guard guard(order_mutex);
    order.push_back(number);
}

// Waiters lend, the highest gets the lock first, and what was lent is given back.
void boosts() {
    Word word{0};
    order.clear();
    lock(word);
    std::vector<std::thread> threads;
    for (const int priority : {10, 20, 15}) {
        std::atomic<pid_t> waiter{0};
        threads.emplace_back([&word, &waiter, priority] {
            become(priority);
            waiter = self();
            lock(word);
            CHECK(owned(word));
            note(priority);
            unlock(word);
        });
        until([&] { return waiter != 0 && stat_of(waiter).starts_with('S'); });
        // The third has nothing to lend.
        until_priority(self(), priority == 15 ? -21 : -1 - priority);
    }
    CHECK((word & FUTEX_WAITERS) != 0);
    CHECK(owned(word));
    sched_param own;
    CHECK(sched_getparam(0, &own) == 0 && own.sched_priority == 0); // its own is what it was
    CHECK(sched_getscheduler(0) == SCHED_OTHER);
    unlock(word);
    CHECK(priority_of(self()) == 20);
    for (std::thread& thread : threads)
        thread.join();
    CHECK(order.size() == 3 && order[0] == 20 && order[2] == 10);
    CHECK((word & FUTEX_TID_MASK) == 0);
}

void chains() {
    Word first{0}, second{0};
    std::atomic<pid_t> middle{0}, top{0};
    lock(first);
    std::thread in_between([&] {
        lock(second);
        middle = self();
        lock(first);
        unlock(first);
        unlock(second);
        CHECK(priority_of(self()) == 20);
    });
    until([&] { return middle != 0 && (first & FUTEX_WAITERS) != 0; });
    CHECK(priority_of(self()) == 20);
    CHECK_FAILS(futex(second, FUTEX_LOCK_PI), EDEADLK); // it waits for this thread
    std::thread waiter([&] {
        become(12);
        top = self();
        const timespec end = in_future(60'000, CLOCK_MONOTONIC);
        CHECK(futex(second, FUTEX_LOCK_PI2, 0, &end) == 0);
        unlock(second);
    });
    until_priority(middle, -13);
    until_priority(self(), -13);
    // A waiter that changes its own priority changes what it lends.
    become(30, top);
    until_priority(self(), -31);
    become(5, top);
    until_priority(self(), -6);
    CHECK(priority_of(middle) == -6);
    unlock(first);
    in_between.join();
    waiter.join();
    CHECK(priority_of(self()) == 20);
}

void timeouts() {
    Word word{0};
    lock(word);
    std::thread waiter([&] {
        become(9);
        const timespec end = in_future(150, CLOCK_MONOTONIC);
        CHECK_FAILS(futex(word, FUTEX_LOCK_PI2, 0, &end), ETIMEDOUT);
        const timespec real = in_future(20, CLOCK_REALTIME);
        CHECK_FAILS(futex(word, FUTEX_LOCK_PI, 0, &real), ETIMEDOUT);
        CHECK_FAILS(futex(word, FUTEX_TRYLOCK_PI), EAGAIN);
    });
    waiter.join();
    CHECK(priority_of(self()) == 20); // nobody waits any more
    CHECK(owned(word));
    unlock(word);
    CHECK(word == 0);
}

// The owner ends while others wait: one of them gets the lock and is told.
void dead_owners() {
    Word word{0};
    std::atomic<pid_t> holder{0};
    std::atomic<bool> go{false};
    std::thread owner([&] {
        lock(word);
        holder = self();
        until([&] { return go.load(); });
    });
    until([&] { return holder != 0; });
    std::thread waiter([&] {
        become(8);
        lock(word);
        CHECK(owned(word) && (word & FUTEX_OWNER_DIED) != 0);
        unlock(word);
    });
    until_priority(holder, -9);
    go = true;
    owner.join();
    waiter.join();
    CHECK((word & FUTEX_TID_MASK) == 0);
}

void requeues() {
    Word condition{0}, word{0}, other{0};
    std::atomic<int> waiting{0};
    order.clear();
    std::vector<std::thread> threads;
    for (const int priority : {5, 7, 6})
        threads.emplace_back([&, priority] {
            become(priority);
            waiting++;
            CHECK(futex(condition, FUTEX_WAIT_REQUEUE_PI, 0, nullptr, &word) == 0);
            CHECK(owned(word));
            note(priority);
            unlock(word);
        });
    until([&] { return waiting == 3; });
    lock(word);
    CHECK_FAILS(futex_count(condition, FUTEX_CMP_REQUEUE_PI, 2, 2, word, 0),
                EINVAL); // one is woken, no other number
    CHECK_FAILS(futex_count(condition, FUTEX_CMP_REQUEUE_PI, 1, 2, word, 1), EAGAIN);
    CHECK_FAILS(futex_count(condition, FUTEX_CMP_REQUEUE_PI, 1, 2, condition, 0), EINVAL);
    // Until all three sleep: each call moves those that do.
    long moved = 0;
    until([&] {
        const long more = futex_count(condition, FUTEX_CMP_REQUEUE_PI, 1, INT_MAX, word, 0);
        CHECK(more >= 0);
        moved += more;
        return moved == 3;
    });
    CHECK(priority_of(self()) == -8);
    CHECK(owned(word) && (word & FUTEX_WAITERS) != 0);
    unlock(word);
    for (std::thread& thread : threads)
        thread.join();
    CHECK(order == std::vector<int>({7, 6, 5}));
    // To a lock that is free: the first has it at once.
    waiting = 0;
    std::thread last([&] {
        waiting++;
        CHECK(futex(condition, FUTEX_WAIT_REQUEUE_PI, 0, nullptr, &word) == 0);
        CHECK(owned(word));
        unlock(word);
    });
    // It can be moved to its own lock only, and not be woken.
    until([&] {
        errno = 0;
        const long woken = futex(condition, FUTEX_WAKE, 1);
        CHECK(woken == 0 || (woken == -1 && errno == EINVAL));
        return woken == -1;
    });
    CHECK_FAILS(futex_count(condition, FUTEX_CMP_REQUEUE_PI, 1, 0, other, 0), EINVAL);
    CHECK(futex_count(condition, FUTEX_CMP_REQUEUE_PI, 1, 0, word, 0) == 1);
    last.join();
    const timespec end = in_future(20, CLOCK_MONOTONIC);
    CHECK_FAILS(futex(condition, FUTEX_WAIT_REQUEUE_PI, 0, &end, &word), ETIMEDOUT);
    CHECK_FAILS(futex(condition, FUTEX_WAIT_REQUEUE_PI, 1, nullptr, &word), EAGAIN);
    CHECK_FAILS(futex(condition, FUTEX_WAIT_REQUEUE_PI, 0, nullptr, &condition), EINVAL);
}

} // namespace

int main() {
    const sched_param parameters = {1};
    if (sched_setscheduler(0, SCHED_FIFO, &parameters) != 0) {
        std::puts("real-time priorities need CAP_SYS_NICE: nothing tested");
        return 0;
    }
    become(0);
    boosts();
    chains();
    timeouts();
    dead_owners();
    requeues();
    return 0;
}
