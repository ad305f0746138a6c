// seccomp(2): filters in classic BPF that are asked before each system call. bpf.cpp checks and
// runs programs, seccomp.cpp acts on their answers, seccomp_install.cpp puts them in place,
// seccomp_notify.cpp passes calls on to a supervisor (SECCOMP_RET_USER_NOTIF).
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/trace/bpf.hpp"

namespace kernel {

namespace arch {
struct TrapFrame;
}
class File;
class SeccompListener; // seccomp_notify.hpp
class Task;

inline constexpr u32 seccomp_calls = 512; // the numbers that a filter is tried with beforehand

// One installed program and, by `previous`, all that were installed before it. Never changes: what
// another thread replaces a thread's filter by (SECCOMP_FILTER_FLAG_TSYNC) keeps the old one alive.
class SeccompFilter : public RefCounted {
public:
    Vector<BpfInstruction> program;
    Ref<SeccompFilter> previous;
    bool log = false;           // SECCOMP_FILTER_FLAG_LOG
    bool wait_killable = false; // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    u32 path_length = 0;        // instructions of all programs, as Linux counts them
    u32 depth = 1;
    Ref<SeccompListener> listener;
    // Tasks that run under exactly this filter: the last one's end hangs up the listeners.
    base::Atomic<u32> users{0};
    // Calls that this and all earlier programs allow, whatever their arguments are.
    u64 always_allowed[seccomp_calls / 64] = {};

protected:
    // The chain may be thousands long: not by recursion.
    void last_reference() override;
};

// What the filters say of the call in `frame`, from the entry of a system call. False: the call is
// not to be made, and `frame` has its result.
bool seccomp_allows(Task& task, arch::TrapFrame& frame);

Result<long> set_seccomp_strict();
Result<long> install_seccomp_filter(u32 flags, u64 program);
// PTRACE_SECCOMP_GET_FILTER and PTRACE_SECCOMP_GET_METADATA.
Result<long> read_seccomp_filter(Task& task, u64 index, u64 to);
Result<long> read_seccomp_metadata(Task& task, u64 size, u64 at);
// fork and clone: the child runs under its parent's filters. Requires: the parent's signal_lock.
void inherit_seccomp(Task& child, const Task& parent);
void release_seccomp(Task& task); // the task has ended
u32 seccomp_filter_count(const Task& task);

} // namespace kernel
