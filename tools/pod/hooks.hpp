// Hooks of a configuration that run on the host.
#pragma once

#include <string>

#include "tools/pod/json.hpp"

namespace pod {

// Runs `kind` ("createRuntime", ...) of `hooks` in turn, each with `state` on its standard input;
// the first that fails ends it.
os::Result<void> run_hooks(const Json& hooks, const std::string& kind, const std::string& state);

} // namespace pod
