// What the program does: start, delete, and the service itself.
#pragma once

#include <string>

#include "tools/containerd-shim-joey-v2/command_line.hpp"

namespace shim {

// The address of the pod's shim, which runs then, as containerd wants to have it.
os::Result<std::string> start(const CommandLine& line);
// The answer for containerd, a DeleteResponse.
os::Result<std::string> clean_up(const CommandLine& line);
// Until containerd asks for the end.
os::Result<void> serve(const CommandLine& line);
// The same for an address: alone, or with the version of the shim API that is spoken there, where
// containerd knows more than the second (`most_known`: its MAX_SHIM_VERSION, null if it says none).
std::string bootstrap_answer(const std::string& address, const char* most_known);
// What `-info` prints: containerd 2's RuntimeInfo.
std::string runtime_info();

} // namespace shim
