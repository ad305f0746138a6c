// The seccomp part of an OCI configuration, checked, in libseccomp's numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace spec {

struct SeccompArg {
    unsigned index = 0;
    int comparison = 0; // scmp_compare
    std::uint64_t value = 0;
    std::uint64_t value_two = 0;
};

struct SeccompRule {
    std::vector<std::string> names;
    std::uint32_t action = 0; // SCMP_ACT_*, errno included
    std::vector<SeccompArg> args;
};

struct Seccomp {
    std::uint32_t default_action = 0;
    std::vector<std::uint32_t> architectures; // SCMP_ARCH_*, besides the native one
    std::uint32_t flags = 0;                  // SECCOMP_FILTER_FLAG_*
    std::vector<SeccompRule> rules;
};

} // namespace spec
