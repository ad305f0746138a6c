#include "agent/ttrpc/budget.hpp"

#include <utility>

namespace ttrpc {

void Budget::change(std::size_t before, std::size_t now) {
    held_ = held_ - before + now;
    if (is_short() || waiting_.empty())
        return;
    // None of them adds to it, or goes, here: they ask the loop to be called.
    for (const auto& [who, resume] : std::exchange(waiting_, {}))
        resume();
}

} // namespace ttrpc
