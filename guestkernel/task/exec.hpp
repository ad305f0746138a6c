// execve: from a path to a program that is ready to run.
#pragma once

#include <span>
#include <string_view>

#include "guestkernel/core/result.hpp"
#include "guestkernel/lib/string.hpp"
#include "guestkernel/task/exec_strings.hpp"

namespace kernel {

struct ExecRequest {
    int directory;
    String path;
    u32 at_flags = 0; // AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
    ExecStrings strings;
};

// The running task becomes the program. On failure nothing has changed, unless the task was killed
// meanwhile.
Result<void> exec_program(ExecRequest& request);

} // namespace kernel
