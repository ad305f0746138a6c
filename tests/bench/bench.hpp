// What the measuring programs share. Each is a static program that times itself and prints one
// number per line: it runs unchanged on the host and in the guest.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <vector>

namespace bench {

inline double now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

// Prints the median over `rounds` of the nanoseconds that one of `operations` in `body` takes.
template <typename Body>
void report(int rounds, double operations, Body&& body) {
    std::vector<double> times;
    for (int round = 0; round < rounds; ++round) {
        const double start = now_ns();
        body();
        times.push_back((now_ns() - start) / operations);
    }
    std::sort(times.begin(), times.end());
    std::printf("%.1f\n", times[times.size() / 2]);
}

} // namespace bench
