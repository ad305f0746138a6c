// Signals: what is pending, blocked and handled. signal.cpp sends, delivery.cpp acts,
// signal_frame.cpp writes frames.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/arch/trap_frame.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/sched/wait_queue.hpp"
#include "guestkernel/trace/call_dispatch.hpp"

namespace kernel {

class Process;
class Task;
class UserAccount;
struct PosixTimer;

inline constexpr int signal_count = 64;
constexpr u64 signal_bit(int signal) {
    return u64{1} << (signal - 1);
}

// siginfo_t: 128 bytes, the union by the names of its uses.
struct SignalInfo {
    struct Sender { // kill, tgkill, sigqueue, timers' value
        i32 pid;
        u32 uid;
        u64 value;
    };
    struct Child {
        i32 pid;
        u32 uid;
        i32 status;
        i32 padding;
        i64 user_ticks, system_ticks;
    };
    struct Fault {
        u64 address;
        u64 extra;
    };
    struct TimerExpiry {
        i32 timer;
        i32 overrun;
        u64 value;
    };
    struct Poll {
        i64 band;
        i32 fd;
    };
    struct SystemCall {
        u64 address;
        i32 number;
        u32 architecture;
    };
    i32 signo = 0;
    i32 error = 0;
    i32 code = 0;
    i32 padding = 0;
    union {
        u64 words[14] = {};
        Sender sender;
        Child child;
        Fault fault;
        TimerExpiry timer;
        Poll poll;
        SystemCall system_call;
    };
};
static_assert(sizeof(SignalInfo) == 128);

// struct sigaction as rt_sigaction(2) passes it.
struct SignalAction {
    u64 handler = 0; // SIG_DFL 0, SIG_IGN 1
    u64 flags = 0;   // SA_*, action_is_final
    u64 restorer = 0;
    u64 mask = 0;
};

// In SignalAction::flags, where Linux has its SA_IMMUTABLE: the signal ends the process, and
// neither a tracer nor another thread can change that any more.
inline constexpr u64 action_is_final = 0x00800000;

struct QueuedSignal {
    base::ListNode node;
    SignalInfo info;
    Ref<UserAccount> account; // whose RLIMIT_SIGPENDING it counts against
    Ref<RefCounted> source;   // keeps the timer that sent it
};

// One queue: a set, and for what carries information an entry each. Guarded by
// Process::signal_lock.
class PendingSignals {
public:
    u64 set() const { return set_; }
    bool has(int signal) const { return (set_ & signal_bit(signal)) != 0; }
    // `entry` may be null: only the bit is noted.
    void add(int signal, QueuedSignal* entry);
    // The next signal of `allowed`, synchronous faults first, then the lowest number; 0 if none.
    // `entry` is what was queued with it, to be freed by the caller without the lock; null when
    // there was only the bit.
    int take(u64 allowed, SignalInfo& info, QueuedSignal*& entry);
    // Forgets signals; entries are collected for the caller to free.
    // The entry of that index; false: there are not as many.
    bool peek(u64 index, SignalInfo& info) const;
    void discard(u64 signals, base::IntrusiveList<QueuedSignal, &QueuedSignal::node>& freed);

private:
    u64 set_ = 0;
    base::IntrusiveList<QueuedSignal, &QueuedSignal::node> entries_;
};

// The handlers: shared by the threads of a process and by CLONE_SIGHAND.
class SignalHandlers : public RefCounted {
public:
    SignalAction get(int signal) const {
        SpinGuard guard(lock_);
        return actions_[signal - 1];
    }
    // Returns the one before; one that is final stays.
    SignalAction exchange(int signal, const SignalAction& action) {
        SpinGuard guard(lock_);
        SignalAction& present = actions_[signal - 1];
        return (present.flags & action_is_final) != 0 ? present : std::exchange(present, action);
    }
    bool ignored(int signal) const; // explicitly or by default
    Result<Ref<SignalHandlers>> clone() const;
    // exec: handlers go back to the default, ignored signals stay ignored.
    void reset_for_exec();
    // For /proc/PID/status.
    void masks(u64& ignored, u64& caught) const;

private:
    mutable SpinLock lock_{LockRank::Leaf};
    SignalAction actions_[signal_count];
};

// The signal state of one thread. `pending`, `blocked` are guarded by Process::signal_lock; the
// rest is the thread's own.
struct SignalState {
    PendingSignals pending;
    u64 blocked = 0;
    u64 saved_blocked = 0; // sigsuspend, ppoll: what returns after the handler's frame is built
    bool restore_saved = false;
    bool stop_joined = false; // counted in Process::stopped_tasks
    bool may_stop = false;    // no SIGCONT since the last signal was taken; under signal_lock
    u64 waited_for = 0;       // sigtimedwait: these are taken though blocked
    u64 alternate_stack = 0, alternate_size = 0;
    u32 alternate_flags = 2; // SS_DISABLE
    // The last exception, for struct sigcontext.
    u64 last_trap = 0, last_error = 0, last_address = 0;
    // restart_syscall(2): what goes on after a stop or an ignored signal.
    long (*restart)(Task&) = nullptr;
    u64 restart_data[6] = {};
    CallDispatch dispatch; // while entry_dispatch is set
};

// Bits of Task::interrupt_flags.
inline constexpr u32 interrupt_signal = 1; // a signal may be deliverable, a stop or exit is due
inline constexpr u32 interrupt_fatal = 2;  // the task is to die: Killable sleep ends too
inline constexpr u32 interrupt_rseq =
    4; // preempted or about to get a signal in a restartable sequence

enum class SignalTarget : u8 { Thread, Process };

// Sends; allocates nothing for signals without information that are pending already. EAGAIN: the
// queue is full (only for signals that may not be merged). The process or task is kept alive by the
// caller.
Result<void> send_signal_info(Task& task, SignalTarget target, const SignalInfo& info,
                              Ref<RefCounted> source = {});
Result<void> send_signal_info(Process& process, const SignalInfo& info,
                              Ref<RefCounted> source = {});
// A signal that cannot be blocked or ignored away: exceptions. To the running task.
void force_signal(int signal, i32 code, u64 address);
void force_signal_info(const SignalInfo& info);
// It ends the process: no handler and no tracer gets to see it.
void end_by_signal(const SignalInfo& info);
// Kernel-made siginfo of a plain kill(2) by the running task.
SignalInfo user_signal(int signal, i32 code);
SignalInfo kernel_signal(int signal);

// Requires: process.signal_lock held. Recomputes interrupt_signal of a task.
void recalculate_pending(Task& task);
// rt_sigprocmask and all that changes the mask of the running task.
void set_blocked(u64 mask);
u64 blocked_signals(); // of the running task
// ppoll, pselect, sigsuspend, epoll_pwait: installs a mask for the duration of the call. The call
// ends by finish_temporary_mask(interrupted): with EINTR the old mask returns only after the
// handler's frame was built.
void set_temporary_mask(u64 mask);
void finish_temporary_mask(bool interrupted);

// signalfd: takes a pending signal of `mask` for the running task; false when there is none.
bool take_signal(u64 mask, SignalInfo& info);
u64 pending_signals(Task& task); // of the thread and its process
WaitQueue&
signal_wait_queue(Task& task); // woken when a signal is sent to the process or one of its threads

// Handles everything that is pending before the running task goes back to user mode. The frame may
// come to lead to a handler; the task may stop, or exit and not return.
void deliver_signals(arch::TrapFrame& frame);
// Writes the frame of a handler; false: the stack is not writable.
bool push_signal_frame(arch::TrapFrame& frame, int signal, const SignalAction& action,
                       const SignalInfo& info, u64 mask_to_restore);

// rt_sigreturn(2): puts back what the frame on the user's stack says; a bad frame is a SIGSEGV.
void pop_signal_frame(arch::TrapFrame& frame);
// The program is to go on at an address that is none of its half's: SIGSEGV, as the fault there
// would give it, with that address in its registers. It must not be returned to.
void refuse_return(const arch::TrapFrame& frame);
// FPE_* of a floating-point exception (#MF 16, #XM 19) of the running task.
i32 floating_point_code(unsigned vector);
// sigaltstack(2) state as stack_t has it, with SS_ONSTACK by the stack pointer.
u32 alternate_stack_flags(const SignalState& state, u64 stack_pointer);

enum class DefaultAction : u8 { Terminate, Core, Ignore, Stop, Continue };
DefaultAction default_action(int signal);

} // namespace kernel
