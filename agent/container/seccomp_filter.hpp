// A seccomp filter, compiled ahead: what installs it has only one system call left to make.
#pragma once

#include <cstdint>
#include <vector>

#include <linux/filter.h>

#include "agent/os/error.hpp"
#include "agent/spec/seccomp_spec.hpp"

namespace container {

struct SeccompFilter {
    std::vector<sock_filter> program; // empty: none
    std::uint32_t flags = 0;

    os::Result<void> install() const;
};

os::Result<SeccompFilter> compile_filter(const spec::Seccomp& seccomp);

} // namespace container
