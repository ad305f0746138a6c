// A pseudo-terminal of a container's own devpts.
#pragma once

#include <cstdint>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace container {

struct Terminal {
    os::UniqueFd master; // empty: there is no terminal
    os::UniqueFd slave;
};

// `root` is the container's root directory. It may be hostile: what is opened is checked to be a
// terminal of a devpts.
os::Result<Terminal> open_terminal(int root, std::uint16_t rows, std::uint16_t columns);
os::Result<void> resize(int terminal, std::uint16_t rows, std::uint16_t columns);

} // namespace container
