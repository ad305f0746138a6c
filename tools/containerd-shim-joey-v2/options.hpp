// The runtime's options, which containerd passes on from its own configuration or its client.
#pragma once

#include <string>

#include "tools/containerd-shim-joey-v2/log.hpp"
#include "tools/containerd-shim-joey-v2/messages.hpp"
#include "tools/containerd-shim-joey-v2/settings.hpp"

namespace shim {

// Those of runc's shim are accepted: what they choose among (a way to make control groups, a
// program) is decided otherwise here. A configuration file may be named (ctr's
// --runtime-config-path, ConfigPath for CRI).
os::Result<Settings> settings_of(const wellknown::Any& options, const Log& log);
// The control group that the shim itself is to be in; empty: as it is.
os::Result<std::string> cgroup_of(const wellknown::Any& options);

} // namespace shim
