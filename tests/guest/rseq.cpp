// Restartable sequences: registration, the CPU's number, and sequences that begin anew after
// preemption, migration and signals. rseq(2).
#include <atomic>
#include <csignal>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <linux/membarrier.h>
#include <linux/rseq.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/ucontext.h>
#include <sys/wait.h>

#include "tests/guest/process_support.hpp"

namespace {

constexpr unsigned signature = RSEQ_SIG;

struct alignas(32) Record {
    unsigned cpu_id_start, cpu_id;
    unsigned long sequence;
    unsigned flags, node_id, mm_cid, padding;
};
static_assert(sizeof(Record) == 32);
struct alignas(32) Sequence {
    unsigned version, flags;
    unsigned long start, length, abort;
};

thread_local Record own __attribute__((tls_model("local-exec"))) = {};

long rseq_call(void* record, unsigned length, int flags, unsigned mark) {
    return syscall(SYS_rseq, record, length, flags, mark);
}

// Takes the C library's registration back and makes one of our own.
bool take_over() {
    if (__rseq_size != 0) {
        auto* record = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
        // It registers no thread any more once the first one's is gone.
        (void)rseq_call(record, sizeof(Record), RSEQ_FLAG_UNREGISTER, signature);
    }
    return rseq_call(&own, sizeof own, 0, signature) == 0;
}

void registration() {
    CHECK(take_over());
    CHECK(own.cpu_id_start == own.cpu_id && own.cpu_id < 4096);
    CHECK_FAILS(rseq_call(&own, sizeof own, 0, signature), EBUSY);
    CHECK_FAILS(rseq_call(&own, sizeof own, 0, signature + 1), EPERM);
    static Record other;
    CHECK_FAILS(rseq_call(&other, sizeof other, 0, signature), EINVAL);
    CHECK_FAILS(rseq_call(&own, sizeof own, 2, signature), EINVAL);
    CHECK_FAILS(rseq_call(&other, sizeof own, RSEQ_FLAG_UNREGISTER, signature), EINVAL);
    CHECK_FAILS(rseq_call(&own, sizeof own, RSEQ_FLAG_UNREGISTER, signature + 1), EPERM);
    CHECK(rseq_call(&own, sizeof own, RSEQ_FLAG_UNREGISTER, signature) == 0);
    CHECK(own.cpu_id == static_cast<unsigned>(RSEQ_CPU_ID_UNINITIALIZED) && own.cpu_id_start == 0);
    CHECK_FAILS(rseq_call(&own, sizeof own, RSEQ_FLAG_UNREGISTER, signature), EINVAL);
    CHECK_FAILS(rseq_call(&own, 16, 0, signature), EINVAL);
    CHECK_FAILS(rseq_call(reinterpret_cast<char*>(&own) + 4, sizeof own, 0, signature), EINVAL);
    CHECK(rseq_call(&own, sizeof own, 0, signature) == 0);
    // A fork's child goes on with it, a new thread has none.
    CHECK(status_of([] { CHECK_FAILS(rseq_call(&own, sizeof own, 0, signature), EBUSY); }) == 0);
}

void cpu_numbers() {
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set))
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
        for (int i = 0; i < 50; i++) {
            CHECK(__atomic_load_n(&own.cpu_id, __ATOMIC_RELAXED) == static_cast<unsigned>(cpu));
            sched_yield();
        }
    }
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

volatile unsigned long interrupted_at;
void note_place(int, siginfo_t*, void* raw) {
    interrupted_at =
        static_cast<unsigned long>(static_cast<ucontext_t*>(raw)->uc_mcontext.gregs[REG_RIP]);
}

// Turns in a sequence until something throws it out; returns the address of the abort handler.
unsigned long turn_until_aborted() {
    unsigned long handler = 0;
    asm volatile(".pushsection __rseq_cs, \"aw\"\n"
                 ".balign 32\n"
                 "3: .long 0, 0\n"
                 ".quad 1f, (2f - 1f), 4f\n"
                 ".popsection\n"
                 "lea 3b(%%rip), %%rax\n"
                 "mov %%rax, %[sequence]\n"
                 "1: pause\n"
                 "jmp 1b\n"
                 "2:\n"
                 ".byte 0x0f, 0xb9, 0x3d\n" // UD1: the signature stands in an instruction
                 ".long %c[signature]\n"
                 "4: lea 4b(%%rip), %[handler]\n"
                 : [sequence] "=m"(own.sequence), [handler] "=r"(handler)
                 : [signature] "i"(RSEQ_SIG)
                 : "rax", "memory", "cc");
    return handler;
}

void aborts() {
    // By a signal: the handler already sees the abort address.
    struct sigaction action = {};
    action.sa_sigaction = note_place;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
    const itimerval timer = {{0, 0}, {0, 2000}};
    for (int i = 0; i < 3; i++) {
        interrupted_at = 0;
        CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
        // Preemption may have come first.
        unsigned long handler = 0;
        while (interrupted_at == 0)
            handler = turn_until_aborted();
        CHECK(interrupted_at == handler || own.sequence == 0);
        CHECK(own.sequence == 0);
    }
    // By preemption: somebody else wants this CPU.
    cpu_set_t old;
    CHECK(sched_getaffinity(0, sizeof old, &old) == 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    const pid_t rival = fork();
    if (rival == 0)
        for (;;)
            asm volatile("");
    (void)turn_until_aborted();
    CHECK(own.sequence == 0);
    CHECK(kill(rival, SIGKILL) == 0 && waitpid(rival, nullptr, 0) == rival);
    CHECK(sched_setaffinity(0, sizeof old, &old) == 0);
    // Records that make no sense end the program.
    static Sequence bad = {0, 0, 0x1000, 0x10, 0x1008}; // aborts into itself
    for (int which = 0; which < 3; which++) {
        const int status = status_of([which] {
            if (which == 1)
                bad = {7, 0, 0x1000, 0x10, 0x2000};
            own.sequence = which == 2 ? 0x10 : reinterpret_cast<unsigned long>(&bad);
            for (;;)
                sched_yield(), usleep(100);
        });
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
}

// Counters by CPU that only sequences keep right.
struct alignas(64) Counter {
    unsigned long value;
};
Counter counters[1024];

bool add_one(Counter* to, unsigned cpu) {
    asm goto(".pushsection __rseq_cs, \"aw\"\n"
             ".balign 32\n"
             "3: .long 0, 0\n"
             ".quad 1f, (2f - 1f), 4f\n"
             ".popsection\n"
             "lea 3b(%%rip), %%rax\n"
             "mov %%rax, %[sequence]\n"
             "1: cmp %[cpu], %[current]\n"
             "jnz 4f\n"
             "addq $1, %[value]\n"
             "2:\n"
             ".pushsection __rseq_failure, \"ax\"\n"
             ".byte 0x0f, 0xb9, 0x3d\n"
             ".long %c[signature]\n"
             "4: jmp %l[aborted]\n"
             ".popsection\n"
             :
             : [sequence] "m"(own.sequence), [current] "m"(own.cpu_id), [cpu] "r"(cpu),
               [value] "m"(to->value), [signature] "i"(RSEQ_SIG)
             : "rax", "memory", "cc"
             : aborted);
    return true;
aborted:
    return false;
}

void counting() {
    constexpr unsigned long each = 100'000;
    pthread_t threads[4];
    for (pthread_t& thread : threads)
        CHECK(pthread_create(
                  &thread, nullptr,
                  [](void*) -> void* {
                      CHECK(take_over());
                      for (unsigned long i = 0; i < each; i++) {
                          unsigned cpu = 0;
                          do
                              cpu = __atomic_load_n(&own.cpu_id_start, __ATOMIC_RELAXED);
                          while (!add_one(&counters[cpu], cpu));
                          if (i % 4096 == 0)
                              sched_yield();
                      }
                      CHECK(rseq_call(&own, sizeof own, RSEQ_FLAG_UNREGISTER, signature) == 0);
                      return nullptr;
                  },
                  nullptr) == 0);
    for (const pthread_t thread : threads)
        CHECK(pthread_join(thread, nullptr) == 0);
    unsigned long sum = 0;
    for (const Counter& counter : counters)
        sum += counter.value;
    CHECK(sum == 4 * each);
}

// membarrier(2): another thread's sequence begins anew.
void barriers() {
    CHECK_FAILS(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0), EPERM);
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ, 0, 0) == 0);
    CHECK_FAILS(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 2, 0), EINVAL);
    CHECK_FAILS(
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_FLAG_CPU, 0),
        EINVAL);
    static std::atomic<unsigned> rounds{0};
    static std::atomic<bool> over{false}, ended{false};
    pthread_t thread;
    CHECK(pthread_create(
              &thread, nullptr,
              [](void*) -> void* {
                  CHECK(take_over());
                  while (!over) {
                      (void)turn_until_aborted();
                      rounds++;
                  }
                  CHECK(rseq_call(&own, sizeof own, RSEQ_FLAG_UNREGISTER, signature) == 0);
                  ended = true;
                  return nullptr;
              },
              nullptr) == 0);
    // Each call throws it out, as soon as it turns; on its CPU, or wherever it is.
    const unsigned cpu_flag = MEMBARRIER_CMD_FLAG_CPU;
    for (const unsigned flags : {0u, cpu_flag}) {
        const unsigned before = rounds;
        while (rounds == before)
            for (int cpu = 0; cpu < (flags != 0 ? 4 : 1); cpu++)
                CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, flags, cpu) ==
                      0);
    }
    over = true;
    while (!ended)
        CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0) == 0);
    CHECK(pthread_join(thread, nullptr) == 0);
}

} // namespace

int main() {
    registration();
    cpu_numbers();
    aborts();
    counting();
    barriers();
    return 0;
}
