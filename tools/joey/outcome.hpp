// What a command of joey can end with besides success: one line for the person who typed it.
#pragma once

#include <string>

#include "base/result.hpp"

namespace joey {

// The line without "joey: " before it and without a newline: what is wrong, and what to do next.
struct UserError {
    std::string line;
};

template <typename T>
using Outcome = base::Result<T, UserError>;

inline base::Failure<UserError> fail(std::string line) {
    return base::Failure(UserError{std::move(line)});
}

// Exit statuses of joey itself; every other status is the program's.
inline constexpr int exit_joey_failed = 125;
inline constexpr int exit_not_executable = 126;
inline constexpr int exit_not_found = 127;
inline constexpr int exit_signal_base = 128;

} // namespace joey
