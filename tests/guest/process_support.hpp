// What the guest tests that make processes share.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <sys/wait.h>

#include "tests/guest/check.hpp"

// Starts `body` in a child, which then ends with 0.
template <typename F>
pid_t start(F&& body) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        body();
        _exit(0);
    }
    return child;
}

// Runs `body` in a child, which then ends with 0; its wait status.
template <typename F>
int status_of(F&& body) {
    std::fflush(nullptr);
    const pid_t child = start([&] {
        body();
        std::fflush(nullptr);
    });
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

// Runs it in a process of its own, which must end well.
template <typename F>
void in_child(F&& body) {
    const int status = status_of(body);
    if (status != 0) {
        std::fprintf(stderr, "child status %x\n", status);
        std::exit(1);
    }
}

// Confines the caller to the first of its CPUs; what it was confined to before.
inline cpu_set_t stay_on_one_cpu() {
    cpu_set_t before, one;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    return before;
}
