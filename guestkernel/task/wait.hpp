// wait4, waitid: what became of children.
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

enum class WaitFor : u8 { Any, Pid, Group };

struct WaitRequest {
    WaitFor kind = WaitFor::Any;
    i32 id = 0;
    u32 options = 0; // WNOHANG, WEXITED, WSTOPPED, WCONTINUED, WNOWAIT, __WALL, __WCLONE
};

struct WaitReport {
    i32 pid = 0; // 0: nothing to report (WNOHANG)
    u32 uid = 0;
    i32 code = 0;   // CLD_*
    u32 status = 0; // as wait4 stores it
    Process::Usage usage;
};

Result<WaitReport> wait_for_child(const WaitRequest& request);

} // namespace kernel
