// What a container may do without being told otherwise: Docker's choice of capabilities, system
// calls and places in /proc.
#pragma once

#include <string>
#include <vector>

#include "tools/pod/json.hpp"

namespace joey::containers {

// "CAP_CHOWN" and so on, after `add` and `drop` ("chown", "CAP_CHOWN", "ALL").
os::Result<std::vector<std::string>> capabilities(const std::vector<std::string>& add,
                                                  const std::vector<std::string>& drop);
// All there are.
std::vector<std::string> all_capabilities();

// linux.seccomp: what is allowed with these capabilities; all else is EPERM.
pod::Json usual_seccomp(const std::vector<std::string>& capabilities);

std::vector<std::string> masked_paths();
std::vector<std::string> read_only_paths();

} // namespace joey::containers
