// Mappings change while a CPU that worked in the address space idles: what runs there next must see
// the new ones. Each round replaces a page, takes one away or makes one read-only, then wakes a
// thread on another CPU that had just used it.
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <sched.h>
#include <thread>
#include <unistd.h>

#include <sys/mman.h>

#include "tests/guest/check.hpp"

namespace {

constexpr int rounds = 300;
constexpr std::size_t page = 4096;

int to_worker[2], to_main[2];
volatile int* shared = nullptr;
sigjmp_buf fault_return;
std::atomic<int> faults{0};

void on_fault(int) {
    ++faults;
    siglongjmp(fault_return, 1);
}

void pin(unsigned cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

unsigned nth_cpu(unsigned n) {
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    const auto count = static_cast<unsigned>(CPU_COUNT(&set));
    n %= count;
    for (unsigned cpu = 0;; ++cpu)
        if (CPU_ISSET(cpu, &set) && n-- == 0)
            return cpu;
}

// 'r': what the page reads as, -1 if it faults. 'w': 1 if a store is refused.
void worker(unsigned cpu) {
    pin(cpu);
    char command = 0;
    while (read(to_worker[0], &command, 1) == 1 && command != 'q') {
        volatile int answer = -1;
        if (sigsetjmp(fault_return, 1) == 0) {
            if (command == 'r') {
                answer = *shared;
            } else {
                *shared = 7;
                answer = 0;
            }
        } else {
            answer = command == 'r' ? -1 : 1;
        }
        const int value = answer;
        CHECK(write(to_main[1], &value, sizeof value) == sizeof value);
    }
}

int ask(char command) {
    int answer = 0;
    CHECK(write(to_worker[1], &command, 1) == 1);
    CHECK(read(to_main[0], &answer, sizeof answer) == sizeof answer);
    return answer;
}

} // namespace

int main() {
    struct sigaction action {};
    action.sa_handler = on_fault;
    action.sa_flags = SA_NODEFER;
    CHECK(sigaction(SIGSEGV, &action, nullptr) == 0);
    CHECK(pipe(to_worker) == 0 && pipe(to_main) == 0);
    const unsigned mine = nth_cpu(0);
    const unsigned other = nth_cpu(1);
    std::thread thread(worker, other);
    pin(mine);
    void* const place =
        mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    shared = static_cast<volatile int*>(place);
    for (int i = 1; i <= rounds; ++i) {
        CHECK(mmap(place, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                   0) == place);
        *shared = i;
        CHECK(ask('r') == i);
        switch (i % 3) {
        case 0:
            CHECK(mprotect(place, page, PROT_READ) == 0);
            CHECK(ask('w') == 1);
            CHECK(ask('r') == i);
            break;
        case 1:
            CHECK(munmap(place, page) == 0);
            CHECK(ask('r') == -1);
            break;
        default:
            CHECK(madvise(place, page, MADV_DONTNEED) == 0);
            CHECK(ask('r') == 0);
            break;
        }
    }
    CHECK(faults == 2 * (rounds / 3));
    CHECK(write(to_worker[1], "q", 1) == 1);
    thread.join();
    return 0;
}
