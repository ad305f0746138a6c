#include "tools/joey/timing.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace joey {

std::string timing_table(std::vector<vmm::TimingMark> marks, std::uint64_t start_tsc,
                         std::uint64_t tsc_khz) {
    std::stable_sort(marks.begin(), marks.end(),
                     [](const auto& a, const auto& b) { return a.tsc < b.tsc; });
    const auto to_ms = [&](std::uint64_t cycles) {
        return static_cast<double>(cycles) / static_cast<double>(tsc_khz);
    };
    std::string table = "  at ms    +ms  where  what";
    std::uint64_t before = start_tsc;
    for (const vmm::TimingMark& mark : marks) {
        const std::uint64_t at = std::max(mark.tsc, before);
        table += fmt::format("\n{:7.2f} {:6.2f}  {:5}  {}", to_ms(at - start_tsc),
                             to_ms(at - before), mark.from_guest ? "guest" : "host", mark.name);
        before = at;
    }
    return table;
}

} // namespace joey
