// The CPU's number as instructions tell it. "ring0": the CPU's registers are the kernel's own; in
// ring3 mode some are the host's.
#include <cpuid.h>
#include <cstring>
#include <sched.h>
#include <x86intrin.h>

#include <sys/utsname.h>

#include "tests/guest/check.hpp"

namespace {

// RDTSCP tells the CPU, in the lower bits.
void numbers_of_cpus() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) == 0 || (edx >> 27 & 1) == 0)
        return;
    cpu_set_t allowed;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed))
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
        unsigned number = 0;
        __builtin_ia32_rdtscp(&number);
        CHECK(static_cast<int>(number & 0xfff) == cpu);
    }
    CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
}

} // namespace

int main(int argc, char** argv) {
    utsname names;
    CHECK(uname(&names) == 0);
    const bool in_joey = strstr(names.version, "Joey") != nullptr;
    if (!in_joey || (argc > 1 && strcmp(argv[1], "ring0") == 0))
        numbers_of_cpus();
    return 0;
}
