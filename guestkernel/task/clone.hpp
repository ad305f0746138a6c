// fork, vfork, clone, clone3.
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"

namespace kernel {

struct CloneRequest {
    u64 flags = 0; // CLONE_*, without the exit signal
    int exit_signal = 0;
    u64 stack = 0; // the child's stack pointer; 0: as the parent's
    u64 parent_tid = 0, child_tid = 0, tls = 0;
    u64 pidfd = 0;  // where CLONE_PIDFD's descriptor goes
    u64 cgroup = 0; // CLONE_INTO_CGROUP: the directory's descriptor
    // clone3's set_tid: innermost namespace first.
    i32 wanted_tids[PidNamespace::deepest + 1] = {};
    u32 wanted_count = 0;
};

// The running task forks; returns the child's tid.
Result<long> clone_task(const CloneRequest& request);

} // namespace kernel
