// How long the other side is waited for. Tests of what happens when it never answers are in more of
// a hurry than users are.
#pragma once

#include <chrono>

namespace pod {

// The time that is usually given, or less in a process that is in a hurry, and in those that it
// forks.
std::chrono::milliseconds patience(std::chrono::milliseconds usual);
// Everything is waited for `times` less long. Requires: not 0.
void set_hurry(unsigned times);

} // namespace pod
