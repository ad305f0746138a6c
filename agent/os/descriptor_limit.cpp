#include "agent/os/descriptor_limit.hpp"

#include <optional>

#include <sys/resource.h>

namespace os {

namespace {

std::optional<rlimit> original;

} // namespace

void raise_descriptor_limit() {
    rlimit now{};
    if (original || getrlimit(RLIMIT_NOFILE, &now) != 0)
        return;
    const rlimit raised{now.rlim_max, now.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
        original = now;
}

void restore_descriptor_limit() {
    if (original)
        setrlimit(RLIMIT_NOFILE, &*original);
}

} // namespace os
