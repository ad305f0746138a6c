// Futexes and threads: waits, wake-ups, requeues, priority-inheriting locks, robust lists,
// futex_waitv, many threads that begin and end. futex(2), set_robust_list(2), set_tid_address(2),
// membarrier(2).
#include <csignal>
#include <ctime>
#include <initializer_list>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <unistd.h>

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

using Word = unsigned;

long futex(volatile void* word, int operation, Word value, const timespec* timeout = nullptr,
           volatile void* second = nullptr, Word third = 0) {
    return syscall(SYS_futex, word, operation, value, timeout, second, third);
}
long futex_count(volatile void* word, int operation, Word value, unsigned long count,
                 volatile void* second, Word third = 0) {
    return syscall(SYS_futex, word, operation, value, count, second, third);
}

constexpr timespec short_time = {0, 3'000'000};

timespec in_future(clockid_t clock, long ns) {
    timespec time;
    clock_gettime(clock, &time);
    time.tv_nsec += ns;
    time.tv_sec += time.tv_nsec / 1'000'000'000;
    time.tv_nsec %= 1'000'000'000;
    return time;
}

struct Waiter {
    volatile Word* word = nullptr;
    Word expected = 0;
    int operation = FUTEX_WAIT_PRIVATE;
    Word bitset = ~0u;
    volatile long result = -2;
    volatile int error = 0;
    volatile int tid = 0;
    pthread_t thread{};

    void start() {
        CHECK(pthread_create(&thread, nullptr, run, this) == 0);
        // Asleep when its state says so.
        while (tid == 0)
            sched_yield();
        wait_until_asleep(tid);
    }
    long join() {
        CHECK(pthread_join(thread, nullptr) == 0);
        return result;
    }
    static void* run(void* raw) {
        auto& self = *static_cast<Waiter*>(raw);
        self.tid = gettid();
        self.result =
            futex(self.word, self.operation, self.expected, nullptr, nullptr, self.bitset);
        self.error = errno;
        return nullptr;
    }
    static void wait_until_asleep(int which) {
        char name[64];
        std::snprintf(name, sizeof name, "/proc/self/task/%d/stat", which);
        for (;;) {
            FILE* file = std::fopen(name, "r");
            if (file == nullptr)
                return;
            char text[512] = {};
            (void)!std::fread(text, 1, sizeof text - 1, file);
            std::fclose(file);
            const char* at = std::strrchr(text, ')');
            if (at != nullptr && at[2] == 'S')
                return;
            sched_yield();
        }
    }
};

void waits() {
    volatile Word word = 5;
    CHECK_FAILS(futex(&word, FUTEX_WAIT, 6), EAGAIN);
    CHECK_FAILS(futex(&word, FUTEX_WAIT, 5, &short_time), ETIMEDOUT);
    CHECK_FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 5, &short_time), ETIMEDOUT);
    const timespec bad = {0, 1'000'000'000};
    CHECK_FAILS(futex(&word, FUTEX_WAIT, 5, &bad), EINVAL);
    CHECK_FAILS(futex(reinterpret_cast<char*>(const_cast<Word*>(&word)) + 1, FUTEX_WAIT, 5),
                EINVAL);
    CHECK_FAILS(futex(reinterpret_cast<void*>(16), FUTEX_WAIT, 5), EFAULT);
    CHECK_FAILS(futex(reinterpret_cast<void*>(16), FUTEX_WAIT_PRIVATE, 5), EFAULT);
    CHECK_FAILS(futex(&word, FUTEX_WAIT_BITSET, 5, nullptr, nullptr, 0), EINVAL);
    CHECK_FAILS(futex(&word, FUTEX_WAKE_BITSET, 1, nullptr, nullptr, 0), EINVAL);
    CHECK_FAILS(futex(&word, 99, 1), ENOSYS);
    CHECK_FAILS(futex(&word, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 1), ENOSYS);
    CHECK(futex(&word, FUTEX_WAKE, 1) == 0);
    // Absolute times, on either clock.
    timespec end = in_future(CLOCK_MONOTONIC, 3'000'000);
    CHECK_FAILS(futex(&word, FUTEX_WAIT_BITSET, 5, &end, nullptr, ~0u), ETIMEDOUT);
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    CHECK(now.tv_sec > end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec >= end.tv_nsec));
    end = in_future(CLOCK_REALTIME, 3'000'000);
    CHECK_FAILS(futex(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 5, &end, nullptr, ~0u),
                ETIMEDOUT);
    const timespec past = {0, 1};
    CHECK_FAILS(futex(&word, FUTEX_WAIT_BITSET, 5, &past, nullptr, ~0u), ETIMEDOUT);

    // By count and by bits.
    Waiter waiters[4];
    for (unsigned i = 0; i < 4; i++) {
        waiters[i].word = &word;
        waiters[i].expected = 5;
        waiters[i].operation = FUTEX_WAIT_BITSET_PRIVATE;
        waiters[i].bitset = 1u << i;
        waiters[i].start();
    }
    CHECK(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, nullptr, nullptr, 0x10) == 0);
    CHECK(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, nullptr, nullptr, 4) == 1);
    CHECK(waiters[2].join() == 0);
    CHECK(futex(&word, FUTEX_WAKE_PRIVATE, 2) == 2);
    CHECK(waiters[0].join() == 0 && waiters[1].join() == 0); // in the order of their coming
    CHECK(futex(&word, FUTEX_WAKE_PRIVATE, 1000) == 1);
    CHECK(waiters[3].join() == 0);
    CHECK(futex(&word, FUTEX_WAKE_PRIVATE, 1000) == 0);

    // Shared between processes by any mapping of the same page.
    auto* shared = static_cast<volatile Word*>(
        mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    auto* view =
        static_cast<volatile Word*>(mremap(const_cast<Word*>(shared), 0, 8192, MREMAP_MAYMOVE));
    CHECK(view != MAP_FAILED);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        while (futex(view, FUTEX_WAIT, 0) == 0 || errno == EINTR)
            if (shared[0] != 0)
                _exit(0);
        _exit(errno == EAGAIN && shared[0] == 1 ? 0 : 1);
    }
    usleep(2000);
    shared[0] = 1;
    (void)futex(shared, FUTEX_WAKE, 1);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    munmap(const_cast<Word*>(shared), 8192);
    munmap(const_cast<Word*>(view), 8192);
}

volatile sig_atomic_t interruptions;

void interrupted_waits() {
    // A wait without an end restarts only by SA_RESTART, one with an end not at all after a
    // handler.
    struct sigaction action = {};
    action.sa_handler = [](int) { interruptions = interruptions + 1; };
    CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
    volatile Word word = 1;
    // Again and again: the first signal may come before the wait has begun.
    itimerval timer = {{0, 3000}, {0, 3000}};
    CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    CHECK_FAILS(futex(&word, FUTEX_WAIT, 1), EINTR);
    CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    const timespec hour = {3600, 0};
    CHECK_FAILS(futex(&word, FUTEX_WAIT, 1, &hour), EINTR);
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
    CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    CHECK_FAILS(futex(&word, FUTEX_WAIT, 1, &hour), EINTR);
    timer = {};
    CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    Waiter waiter;
    waiter.word = &word;
    waiter.expected = 1;
    waiter.start();
    interruptions = 0;
    CHECK(pthread_kill(waiter.thread, SIGALRM) == 0);
    while (interruptions == 0)
        sched_yield();
    Waiter::wait_until_asleep(waiter.tid);
    CHECK(futex(&word, FUTEX_WAKE_PRIVATE, 1) == 1);
    CHECK(waiter.join() == 0);
}

void requeues() {
    volatile Word first = 1;
    volatile Word second = 2;
    Waiter waiters[5];
    for (Waiter& waiter : waiters) {
        waiter.word = &first;
        waiter.expected = 1;
        waiter.start();
    }
    CHECK_FAILS(futex_count(&first, FUTEX_CMP_REQUEUE_PRIVATE, 1, 1, &second, 7), EAGAIN);
    CHECK_FAILS(futex_count(&first, FUTEX_CMP_REQUEUE_PRIVATE, ~0u, 1, &second, 1), EINVAL);
    CHECK(futex_count(&first, FUTEX_CMP_REQUEUE_PRIVATE, 1, 2, &second, 1) == 3);
    CHECK(waiters[0].join() == 0);
    CHECK(futex(&first, FUTEX_WAKE_PRIVATE, 10) == 2);
    CHECK(waiters[3].join() == 0 && waiters[4].join() == 0);
    CHECK(futex_count(&second, FUTEX_REQUEUE_PRIVATE, 0, 1, &first) >= 0);
    CHECK(futex(&second, FUTEX_WAKE_PRIVATE, 10) + futex(&first, FUTEX_WAKE_PRIVATE, 10) == 2);
    CHECK(waiters[1].join() == 0 && waiters[2].join() == 0);

    // FUTEX_WAKE_OP.
    Waiter here;
    here.word = &first;
    here.expected = 1;
    Waiter there;
    there.word = &second;
    there.expected = 2;
    here.start();
    there.start();
    CHECK(futex_count(&first, FUTEX_WAKE_OP_PRIVATE, 1, 1, &second,
                      FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_EQ, 99)) == 1);
    CHECK(second == 7 && here.join() == 0);
    CHECK(futex_count(&first, FUTEX_WAKE_OP_PRIVATE, 1, 1, &second,
                      FUTEX_OP(FUTEX_OP_SET, 3, FUTEX_OP_CMP_GT, 6)) == 1);
    CHECK(second == 3 && there.join() == 0);
    CHECK(futex_count(&first, FUTEX_WAKE_OP_PRIVATE, 1, 1, &second,
                      FUTEX_OP(FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT, 4, FUTEX_OP_CMP_EQ, 0)) == 0);
    CHECK(second == 19);
    CHECK(futex_count(&first, FUTEX_WAKE_OP_PRIVATE, 1, 1, &second,
                      FUTEX_OP(FUTEX_OP_ANDN, 3, FUTEX_OP_CMP_EQ, 0)) == 0);
    CHECK(second == 16);
    CHECK(futex_count(&first, FUTEX_WAKE_OP_PRIVATE, 1, 1, &second,
                      FUTEX_OP(FUTEX_OP_XOR, 17, FUTEX_OP_CMP_EQ, 0)) == 0);
    CHECK(second == 1);
    CHECK_FAILS(futex_count(&first, FUTEX_WAKE_OP_PRIVATE, 1, 1, &second, 7u << 28), ENOSYS);
    CHECK_FAILS(futex_count(&first, FUTEX_WAKE_OP_PRIVATE, 1, 1, reinterpret_cast<Word*>(16), 0),
                EFAULT);
}

// --- priority inheritance

struct PiJob {
    volatile Word* lock;
    volatile int* inside;
    int rounds;
};

void pi_lock(volatile Word* lock) {
    Word expected = 0;
    if (!__atomic_compare_exchange_n(lock, &expected, static_cast<Word>(gettid()), false,
                                     __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        while (futex(lock, FUTEX_LOCK_PI_PRIVATE, 0) != 0)
            CHECK(errno == EINTR || errno == EAGAIN);
}
void pi_unlock(volatile Word* lock) {
    auto expected = static_cast<Word>(gettid());
    if (!__atomic_compare_exchange_n(lock, &expected, 0u, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST))
        CHECK(futex(lock, FUTEX_UNLOCK_PI_PRIVATE, 0) == 0);
}

void pi_locks() {
    volatile Word lock = 0;
    const auto self = static_cast<Word>(gettid());
    CHECK(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0) == 0 && lock == self);
    CHECK_FAILS(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0), EDEADLK);
    CHECK_FAILS(futex(&lock, FUTEX_TRYLOCK_PI_PRIVATE, 0), EDEADLK);
    CHECK(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0) == 0 && lock == 0);
    CHECK(futex(&lock, FUTEX_TRYLOCK_PI_PRIVATE, 0) == 0 && lock == self);
    CHECK(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0) == 0);
    CHECK_FAILS(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0), EPERM);
    lock = 0x3ffffff0; // nobody has this number
    CHECK_FAILS(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0), ESRCH);
    lock = static_cast<Word>(gettid());
    // Another thread times out, on either clock, and gets it afterwards.
    pthread_t thread;
    CHECK(pthread_create(
              &thread, nullptr,
              [](void* raw) -> void* {
                  auto* word = static_cast<volatile Word*>(raw);
                  timespec end = in_future(CLOCK_REALTIME, 3'000'000);
                  CHECK_FAILS(futex(word, FUTEX_LOCK_PI_PRIVATE, 0, &end), ETIMEDOUT);
                  end = in_future(CLOCK_MONOTONIC, 3'000'000);
                  CHECK_FAILS(futex(word, FUTEX_LOCK_PI2_PRIVATE, 0, &end), ETIMEDOUT);
                  CHECK_FAILS(futex(word, FUTEX_TRYLOCK_PI_PRIVATE, 0), EAGAIN);
                  CHECK_FAILS(futex(word, FUTEX_UNLOCK_PI_PRIVATE, 0), EPERM);
                  return nullptr;
              },
              const_cast<Word*>(&lock)) == 0);
    CHECK(pthread_join(thread, nullptr) == 0);
    CHECK(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0) == 0 && lock == 0);
    // Exclusion.
    static volatile int inside;
    PiJob job = {&lock, &inside, 500};
    pthread_t threads[4];
    for (pthread_t& each : threads)
        CHECK(pthread_create(
                  &each, nullptr,
                  [](void* raw) -> void* {
                      const PiJob& own = *static_cast<PiJob*>(raw);
                      for (int i = 0; i < own.rounds; i++) {
                          pi_lock(own.lock);
                          *own.inside = *own.inside + 1;
                          CHECK(*own.inside == 1);
                          if (i % 16 == 0)
                              sched_yield();
                          *own.inside = *own.inside - 1;
                          pi_unlock(own.lock);
                      }
                      return nullptr;
                  },
                  &job) == 0);
    for (const pthread_t each : threads)
        CHECK(pthread_join(each, nullptr) == 0);
    CHECK((lock & ~static_cast<Word>(FUTEX_WAITERS)) == 0);
}

// By the C library, which does the robust and the PI protocol itself.
void library_locks() {
    for (const int protocol : {PTHREAD_PRIO_NONE, PTHREAD_PRIO_INHERIT})
        for (const int shared : {PTHREAD_PROCESS_PRIVATE, PTHREAD_PROCESS_SHARED}) {
            auto* mutex = static_cast<pthread_mutex_t*>(
                mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
            pthread_mutexattr_t attributes;
            pthread_mutexattr_init(&attributes);
            CHECK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
            CHECK(pthread_mutexattr_setprotocol(&attributes, protocol) == 0);
            CHECK(pthread_mutexattr_setpshared(&attributes, shared) == 0);
            CHECK(pthread_mutex_init(mutex, &attributes) == 0);
            // Its holder ends, as a thread or as a process.
            if (shared == PTHREAD_PROCESS_SHARED) {
                const pid_t child = fork();
                if (child == 0) {
                    pthread_mutex_lock(mutex);
                    _exit(0);
                }
                CHECK(waitpid(child, nullptr, 0) == child);
            } else {
                pthread_t thread;
                CHECK(pthread_create(
                          &thread, nullptr,
                          [](void* raw) -> void* {
                              pthread_mutex_lock(static_cast<pthread_mutex_t*>(raw));
                              return nullptr;
                          },
                          mutex) == 0);
                CHECK(pthread_join(thread, nullptr) == 0);
            }
            CHECK(pthread_mutex_lock(mutex) == EOWNERDEAD);
            CHECK(pthread_mutex_consistent(mutex) == 0);
            CHECK(pthread_mutex_unlock(mutex) == 0);
            // A waiter is told, too.
            pthread_t holder;
            static sem_t held;
            static sem_t let_go;
            sem_init(&held, 0, 0);
            sem_init(&let_go, 0, 0);
            CHECK(pthread_create(
                      &holder, nullptr,
                      [](void* raw) -> void* {
                          pthread_mutex_lock(static_cast<pthread_mutex_t*>(raw));
                          sem_post(&held);
                          sem_wait(&let_go);
                          usleep(2000);
                          return nullptr;
                      },
                      mutex) == 0);
            sem_wait(&held);
            sem_post(&let_go);
            CHECK(pthread_mutex_lock(mutex) == EOWNERDEAD);
            CHECK(pthread_mutex_unlock(mutex) == 0); // not made consistent
            CHECK(pthread_mutex_lock(mutex) == ENOTRECOVERABLE);
            CHECK(pthread_join(holder, nullptr) == 0);
            munmap(mutex, 4096);
        }
    // The list itself.
    void* head = nullptr;
    size_t size = 0;
    CHECK(syscall(SYS_get_robust_list, 0, &head, &size) == 0 && head != nullptr && size == 24);
    CHECK(syscall(SYS_get_robust_list, gettid(), &head, &size) == 0);
    CHECK_FAILS(syscall(SYS_get_robust_list, 0x3fffffff, &head, &size), ESRCH);
    CHECK_FAILS(syscall(SYS_get_robust_list, 0, 16, &size), EFAULT);
    CHECK_FAILS(syscall(SYS_set_robust_list, head, 23), EINVAL);
    // A list in a circle, or into nowhere, ends all the same.
    const pid_t child = fork();
    if (child == 0) {
        static struct {
            void* next;
            long offset;
            void* pending;
        } list;
        static void* ring[2] = {&ring[1], &ring[0]};
        list = {&ring[0], 0, nullptr};
        syscall(SYS_set_robust_list, &list, 24);
        pthread_t thread;
        pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
                static struct {
                    void* next;
                    long offset;
                    void* pending;
                } bad;
                bad = {reinterpret_cast<void*>(0x10), -5,
                       reinterpret_cast<void*>(0xffff'8000'0000'0001)};
                syscall(SYS_set_robust_list, &bad, 24);
                return nullptr;
            },
            nullptr);
        pthread_join(thread, nullptr);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

void several() {
    volatile Word words[3] = {0, 0, 0};
    futex_waitv list[3] = {};
    for (int i = 0; i < 3; i++)
        list[i] = {0, reinterpret_cast<unsigned long>(&words[i]), FUTEX_32 | FUTEX_PRIVATE_FLAG, 0};
    const timespec past = in_future(CLOCK_MONOTONIC, 2'000'000);
    CHECK_FAILS(syscall(SYS_futex_waitv, list, 3, 0, &past, CLOCK_MONOTONIC), ETIMEDOUT);
    CHECK_FAILS(syscall(SYS_futex_waitv, list, 3, 1, nullptr, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_futex_waitv, list, 0, 0, nullptr, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_futex_waitv, list, 129, 0, nullptr, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_futex_waitv, nullptr, 3, 0, nullptr, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_futex_waitv, list, 3, 0, &past, CLOCK_BOOTTIME), EINVAL);
    list[1].flags = 0;
    CHECK_FAILS(syscall(SYS_futex_waitv, list, 3, 0, nullptr, 0), EINVAL);
    list[1].flags = FUTEX_32 | FUTEX_PRIVATE_FLAG;
    words[1] = 4;
    CHECK_FAILS(syscall(SYS_futex_waitv, list, 3, 0, nullptr, 0), EAGAIN);
    words[1] = 0;
    struct Job {
        futex_waitv* list;
        volatile long woken;
        volatile int tid;
    } job = {list, -2, 0};
    pthread_t thread;
    CHECK(pthread_create(
              &thread, nullptr,
              [](void* raw) -> void* {
                  auto& own = *static_cast<Job*>(raw);
                  own.tid = gettid();
                  own.woken = syscall(SYS_futex_waitv, own.list, 3, 0, nullptr, 0);
                  return nullptr;
              },
              &job) == 0);
    while (job.tid == 0)
        sched_yield();
    Waiter::wait_until_asleep(job.tid);
    CHECK(futex(&words[2], FUTEX_WAKE_PRIVATE, 1) == 1);
    CHECK(pthread_join(thread, nullptr) == 0 && job.woken == 2);
    CHECK(futex(&words[0], FUTEX_WAKE_PRIVATE, 1) == 0);
}

// --- threads

int cleared;
volatile int started;

void many_threads() {
    // Two hundred at once, over and over.
    constexpr int many = 200;
    static pthread_barrier_t barrier;
    static volatile int sum;
    for (int round = 0; round < 3; round++) {
        sum = 0;
        CHECK(pthread_barrier_init(&barrier, nullptr, many + 1) == 0);
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 64 * 1024);
        pthread_t threads[many];
        for (pthread_t& thread : threads)
            CHECK(pthread_create(
                      &thread, &attributes,
                      [](void*) -> void* {
                          __atomic_fetch_add(&sum, 1, __ATOMIC_SEQ_CST);
                          pthread_barrier_wait(&barrier);
                          return nullptr;
                      },
                      nullptr) == 0);
        pthread_barrier_wait(&barrier);
        CHECK(sum == many);
        for (const pthread_t thread : threads)
            CHECK(pthread_join(thread, nullptr) == 0);
        pthread_barrier_destroy(&barrier);
    }
    // The word at clear_child_tid is zeroed and woken at a thread's end.
    static char stack[16384];
    cleared = 1;
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                      CLONE_SYSVSEM | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID;
    // Without the C library's help, so with nothing of it in the thread.
    const int tid = clone(
        [](void*) -> int {
            started = 1;
            syscall(SYS_exit, 0);
            return 0;
        },
        stack + sizeof stack, flags, nullptr, nullptr, nullptr, &cleared);
    CHECK(tid > 0);
    while (__atomic_load_n(&cleared, __ATOMIC_SEQ_CST) != 0) {
        const int seen = __atomic_load_n(&cleared, __ATOMIC_SEQ_CST);
        if (seen != 0)
            (void)futex(&cleared, FUTEX_WAIT, static_cast<Word>(seen));
    }
    CHECK(started == 1);
    // Threads that begin and end while the process is ending, in every order.
    for (int round = 0; round < 30; round++) {
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (int i = 0; i < 8; i++) {
                pthread_t thread;
                pthread_create(
                    &thread, nullptr,
                    [](void* raw) -> void* {
                        if (reinterpret_cast<long>(raw) % 2 == 0)
                            pause();
                        return nullptr;
                    },
                    reinterpret_cast<void*>(static_cast<long>(i)));
            }
            if (round % 3 == 0)
                kill(getpid(), SIGKILL);
            if (round % 3 == 1)
                syscall(SYS_exit_group, 3);
            pthread_t thread;
            pthread_create(
                &thread, nullptr,
                [](void*) -> void* {
                    syscall(SYS_exit_group, 4);
                    return nullptr;
                },
                nullptr);
            for (;;)
                pause();
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(round % 3 == 0 ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                             : WIFEXITED(status) && WEXITSTATUS(status) == 2 + round % 3);
    }
}

// A mutex and a condition under contention.
void contention() {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    static int turn;
    constexpr int players = 4;
    constexpr int rounds = 50;
    pthread_t threads[players];
    for (long i = 0; i < players; i++)
        CHECK(pthread_create(
                  &threads[i], nullptr,
                  [](void* raw) -> void* {
                      const auto own = static_cast<int>(reinterpret_cast<long>(raw));
                      for (int n = 0; n < rounds; n++) {
                          pthread_mutex_lock(&mutex);
                          while (turn % players != own)
                              pthread_cond_wait(&condition, &mutex);
                          turn++;
                          pthread_cond_broadcast(&condition);
                          pthread_mutex_unlock(&mutex);
                      }
                      return nullptr;
                  },
                  reinterpret_cast<void*>(i)) == 0);
    for (const pthread_t thread : threads)
        CHECK(pthread_join(thread, nullptr) == 0);
    CHECK(turn == players * rounds);
}

// Who waits in an object that is gone takes no wake-up from those whose object took its place.
void waits_in_gone_objects() {
    const auto make = [] {
        const int fd = memfd_create("words", MFD_CLOEXEC);
        CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
        void* const at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(at != MAP_FAILED);
        close(fd);
        return static_cast<volatile Word*>(at);
    };
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        static Waiter waiter; // sleeps until all ends
        waiter.word = make();
        waiter.operation = FUTEX_WAIT_BITSET;
        waiter.start();
        munmap(const_cast<Word*>(waiter.word), 4096);
        for (int i = 0; i < 100; i++) {
            volatile Word* const word = make();
            CHECK(futex(word, FUTEX_WAKE, 1) == 0);
            munmap(const_cast<Word*>(word), 4096);
        }
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

// A thread whose stack, with the word that tells of its end, is shared memory can be joined.
void ends_in_shared_memory() {
    constexpr size_t bytes = 256 << 10;
    void* const stack =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstack(&attributes, stack, bytes) == 0);
    pthread_t thread;
    CHECK(pthread_create(
              &thread, &attributes,
              [](void*) -> void* {
                  usleep(20'000); // until it is waited for
                  return nullptr;
              },
              nullptr) == 0);
    const timespec end = in_future(CLOCK_REALTIME, 10'000'000'000);
    CHECK(pthread_timedjoin_np(thread, nullptr, &end) == 0);
    pthread_attr_destroy(&attributes);
    munmap(stack, bytes);
}

void barriers() {
    const long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    CHECK(commands > 0);
    CHECK((commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0 &&
          (commands & MEMBARRIER_CMD_GLOBAL) != 0);
    CHECK_FAILS(syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 1, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_membarrier, 1 << 20, 0, 0), EINVAL);
    const pid_t child = fork();
    if (child == 0) {
        CHECK_FAILS(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), EPERM);
        CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
        CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
        CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0);
        CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0);
        CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0);
        if ((commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) != 0) {
            CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0,
                          0) == 0);
            CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) == 0);
        }
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

} // namespace

int main() {
    waits();
    interrupted_waits();
    requeues();
    pi_locks();
    library_locks();
    several();
    many_threads();
    contention();
    waits_in_gone_objects();
    ends_in_shared_memory();
    barriers();
    return 0;
}
