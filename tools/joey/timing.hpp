// The table of --timing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/machine/vm.hpp"

namespace joey {

// One line per mark, in the order of time: since the process started, since the mark before, who,
// what. Requires: tsc_khz > 0.
std::string timing_table(std::vector<vmm::TimingMark> marks, std::uint64_t start_tsc,
                         std::uint64_t tsc_khz);

} // namespace joey
