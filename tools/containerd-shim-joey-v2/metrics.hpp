// What the agent counts, as containerd's clients read it: io.containerd.cgroups.v2.Metrics, for the
// guest's control groups are of version 2.
#pragma once

#include "agent/protocol/agent.pb.h"
#include "tools/containerd-shim-joey-v2/messages.hpp"

namespace shim {

wellknown::Any metrics_of(const joey::agent::v1::StatsResponse& stats);

} // namespace shim
