// --strace: one line per system call, from inside the kernel.
#pragma once

#include "guestkernel/syscalls/table.hpp"

namespace kernel {

class StraceLine {
public:
    // Notes the call before it runs: its arguments may be gone afterwards. Calls that do not return
    // (exit, a successful execve) are printed at once.
    StraceLine(Task& task, u32 number, const SyscallEntry* entry, const SyscallArgs& args);
    void finish(long result, const SyscallEntry* entry);

private:
    void put(std::string_view text);
    void put_argument(u32 number, usize index, u64 value);
    char text_[480];
    usize length_ = 0;
};

} // namespace kernel
