// --strace: one line per system call, from inside the kernel. strace_values.cpp shows arguments,
// strace_filter.cpp says which calls are wanted.
#pragma once

#include "guestkernel/syscalls/strace_values.hpp"
#include "guestkernel/syscalls/table.hpp"

namespace kernel {

class StraceLine {
public:
    // Shows the call before it runs, up to the first argument that it writes. Calls that do not
    // return (exit) are printed at once.
    StraceLine(Task& task, u32 number, const SyscallEntry* entry, const SyscallArgs& args);
    void finish(long result, const SyscallEntry* entry);

private:
    void put_arguments(bool outputs, long result);
    void put_result(long result, const SyscallEntry* entry);
    StraceText text_;
    const SyscallArgs args_;
    const u32 number_;
    usize count_ = 0;
    usize shown_ = 0;
    u64 began_ns_ = 0;
    bool wanted_ = false;
};

// --- strace_filter.cpp
// --strace=WHAT, as options.cpp of joey explains it; unknown names are told in the kernel's log.
void set_strace_filter(std::string_view what);
bool strace_wants(u32 number);
// --strace=missing: only calls that were refused, each of them once. `result`: of the call.
bool strace_only_missing();
bool strace_tells_missing(u32 number, const SyscallEntry* entry, long result);

} // namespace kernel
