#include "tools/containerd-shim-joey-v2/messages.hpp"

#include <ctime>

namespace shim {

namespace {

constexpr std::int64_t second = 1'000'000'000;

} // namespace

std::int64_t now() {
    timespec time{};
    ::clock_gettime(CLOCK_REALTIME, &time);
    return time.tv_sec * second + time.tv_nsec;
}

void set_time(wellknown::Timestamp& out, std::int64_t nanoseconds) {
    out.set_seconds(nanoseconds / second);
    out.set_nanos(static_cast<std::int32_t>(nanoseconds % second));
}

} // namespace shim
