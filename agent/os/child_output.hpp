// What a child process says while it runs, for the message when it fails: hooks, on the host and
// inside.
#pragma once

#include <cstdint>
#include <string>

namespace os {

// Waits until the child has ended; `said` gets the end of what it has written until then.
//   pidfd    the child's, or -1: then the end of its output counts
//   output   the end that is read of the pipe that it writes to; made non-blocking
//   seconds  0: without limit
// What the child has left behind may hold the output open, or write for ever: the child's own end
// counts. False: the time was over first; the child still runs.
bool wait_for_child(int pidfd, int output, std::int64_t seconds, std::string& said);

} // namespace os
