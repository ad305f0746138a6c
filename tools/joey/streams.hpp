// The caller's standard streams: what each one is, and holding its number when it is closed.
#pragma once

#include <array>
#include <cstdint>

#include "boot/fdt/guest_description.hpp"

namespace joey {

struct Streams {
    // stdin, stdout, stderr as the guest shall see them.
    std::array<boot::StreamKind, 3> kinds{};
    // stdin and stdout are one terminal line, to be put in raw mode.
    bool host_terminal = false;
    // The guest's program gets a terminal.
    bool guest_terminal = false;
};

// `force_terminal`: -t. Ensures: descriptors 0 to 2 are open, on /dev/null where the caller had
// closed them, so that no file of ours gets their numbers.
Streams classify_streams(bool force_terminal);

} // namespace joey
