// Sessions and controlling terminals; see also task.hpp, which has what terminals ask.
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class Process;

Result<long> create_session();                      // setsid(2)
Result<void> set_process_group(i32 pid, i32 group); // setpgid(2)
// The end of a session's leader hangs up its terminal.
void leave_session(Process& process);

} // namespace kernel
