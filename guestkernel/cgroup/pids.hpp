// The pids controller: how many tasks a group may have.
#pragma once

#include "guestkernel/cgroup/cgroup.hpp"

namespace kernel {

void charge_pids(Cgroup& group);
Result<void> try_charge_pids(Cgroup& group); // EAGAIN
void uncharge_pids(Cgroup& group);

} // namespace kernel
