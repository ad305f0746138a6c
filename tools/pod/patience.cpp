#include "tools/pod/patience.hpp"

namespace pod {

namespace {

unsigned hurry = 1;

} // namespace

std::chrono::milliseconds patience(std::chrono::milliseconds usual) {
    return usual / hurry;
}

void set_hurry(unsigned times) {
    hurry = times;
}

} // namespace pod
