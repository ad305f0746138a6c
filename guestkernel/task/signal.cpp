// Sending signals, and what is pending.
#include "guestkernel/task/signal.hpp"

#include <linux/errno.h>
#include <linux/resource.h>
#include <linux/signal.h>

#include "guestkernel/core/panic.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_timers.hpp"

namespace kernel {

namespace {

constexpr u64 bits(int a, int b) {
    return signal_bit(a) | signal_bit(b);
}
constexpr u64 stop_signals = bits(SIGSTOP, SIGTSTP) | bits(SIGTTIN, SIGTTOU);
constexpr u64 unblockable = bits(SIGKILL, SIGSTOP);
// Delivered before others: they belong to the instruction that is about to run.
constexpr u64 synchronous = bits(SIGSEGV, SIGBUS) | bits(SIGILL, SIGTRAP) | bits(SIGFPE, SIGSYS);
constexpr u64 ignored_by_default = bits(SIGCONT, SIGCHLD) | bits(SIGWINCH, SIGURG);
constexpr u64 core_dumping = bits(SIGQUIT, SIGILL) | bits(SIGTRAP, SIGABRT) |
                             bits(SIGFPE, SIGSEGV) | bits(SIGBUS, SIGSYS) | bits(SIGXCPU, SIGXFSZ);
constexpr u64 handler_ignore = 1;  // SIG_IGN
constexpr u64 handler_default = 0; // SIG_DFL

using Freed = base::IntrusiveList<QueuedSignal, &QueuedSignal::node>;

void free_entry(QueuedSignal* entry) {
    if (entry == nullptr)
        return;
    if (entry->source)
        drop_queued_signal(*entry);
    if (entry->account)
        entry->account->queued_signals.fetch_sub(1);
    delete entry;
}

void free_all(Freed& entries) {
    while (QueuedSignal* entry = entries.pop_front())
        free_entry(entry);
}

// An entry for the queue; null: only the bit can be noted. `must`: the sender is to hear of a full
// queue.
Result<QueuedSignal*> make_entry(Process& target, const SignalInfo& info, Ref<RefCounted> source,
                                 bool must) {
    const Task* first = target.first_task();
    UserAccount* account = first != nullptr ? first->account.get() : nullptr;
    if (account != nullptr) {
        const u32 before = account->queued_signals.fetch_add(1);
        if (before >= target.limits[RLIMIT_SIGPENDING].soft && info.signo >= SIGRTMIN) {
            account->queued_signals.fetch_sub(1);
            return must ? Result<QueuedSignal*>(fail(EAGAIN)) : Result<QueuedSignal*>(nullptr);
        }
    }
    auto* entry = new (std::nothrow) QueuedSignal();
    if (entry == nullptr) {
        if (account != nullptr)
            account->queued_signals.fetch_sub(1);
        return must ? Result<QueuedSignal*>(fail(EAGAIN)) : Result<QueuedSignal*>(nullptr);
    }
    entry->info = info;
    entry->account = Ref<UserAccount>::share(account);
    entry->source = std::move(source);
    return entry;
}

void discard_everywhere(Process& process, u64 signals, Freed& freed) {
    process.pending.discard(signals, freed);
    for (Task& task : process.tasks)
        task.signals->pending.discard(signals, freed);
}

// What a stop or continue signal does the moment it is sent. Requires: signal_lock.
void prepare(Process& process, int signal, Freed& freed) {
    if ((signal_bit(signal) & stop_signals) != 0) {
        discard_everywhere(process, signal_bit(SIGCONT), freed);
    } else if (signal == SIGCONT) {
        discard_everywhere(process, stop_signals, freed);
        if (process.stopped) {
            process.continue_notice = true;
            process.continue_unreported = true;
            process.stop_unreported = false;
        }
        process.stop_requested = false;
        process.stopped = false;
        process.stopped_tasks = 0;
        for (Task& task : process.tasks) {
            task.signals->stop_joined = false;
            task.signals->may_stop = false; // by what it has taken and not acted upon yet
            if (process.continue_notice)
                __atomic_fetch_or(&task.interrupt_flags, interrupt_signal, __ATOMIC_SEQ_CST);
            if (is_traced(task) && task.trace->seized) {
                task.trace->trap_notify = true;
                wake_tracee_locked(task, task.trace->listening);
            }
            wake(task, static_cast<u32>(TaskState::Stopped));
        }
    }
}

bool wants(const Task& task, int signal) {
    if (task.exiting)
        return false;
    if (signal == SIGKILL)
        return true;
    const SignalState& state = *task.signals;
    return (state.blocked & ~state.waited_for & signal_bit(signal)) == 0 &&
           (task.state &
            (static_cast<u32>(TaskState::Stopped) | static_cast<u32>(TaskState::Traced))) == 0;
}

void interrupt(Task& task, bool fatal) {
    __atomic_fetch_or(&task.interrupt_flags, interrupt_signal | (fatal ? interrupt_fatal : 0),
                      __ATOMIC_SEQ_CST);
    u32 states = static_cast<u32>(TaskState::Interruptible);
    if (fatal) {
        states |= static_cast<u32>(TaskState::Killable) | static_cast<u32>(TaskState::Stopped);
        // Not while its tracer works on its registers, who wakes it then.
        if (!task.trace || !task.trace->frozen)
            states |= static_cast<u32>(TaskState::Traced);
    }
    if (!wake(task, states) && task.on_cpu != 0 && &task != arch::current())
        arch::kick_cpu(task.cpu); // out of user mode
}

// Chooses who hears of a signal that is now pending. Requires: signal_lock.
void complete(Process& process, Task* only, int signal) {
    Task* chosen = nullptr;
    if (only != nullptr) {
        chosen = wants(*only, signal) ? only : nullptr;
    } else {
        for (Task& task : process.tasks) {
            if (!wants(task, signal))
                continue;
            if (chosen == nullptr)
                chosen = &task;
            // Rather one that is not busy with another signal.
            if ((task.interrupt_flags & interrupt_signal) == 0) {
                chosen = &task;
                break;
            }
        }
    }
    process.signal_events.wake_all();
    if (chosen == nullptr)
        return;
    const DefaultAction action = default_action(signal);
    // A core file shows the thread that acts on the signal, and a tracer hears of it first.
    const bool deadly =
        signal == SIGKILL || (action == DefaultAction::Terminate && !is_traced(*chosen));
    const bool waited = (chosen->signals->waited_for & signal_bit(signal)) != 0;
    const bool unhandled =
        signal == SIGKILL || process.handlers->get(signal).handler == handler_default;
    if (deadly && unhandled && !waited && !process.group_exiting) {
        process.group_exit_status = static_cast<u32>(signal);
        kill_threads_locked(process, nullptr);
        return;
    }
    interrupt(*chosen, signal == SIGKILL);
}

bool is_ignored(Process& process, const Task* only, int signal) {
    if ((signal_bit(signal) & unblockable) != 0)
        return false;
    // A blocked signal is kept: the handler may change before it is unblocked.
    const Task* task = only != nullptr ? only : process.tasks.front();
    if (task == nullptr ||
        ((task->signals->blocked | task->signals->waited_for) & signal_bit(signal)) != 0)
        return false;
    if (is_traced(*task))
        return false; // its tracer wants to know
    return process.handlers->ignored(signal);
}

// pid_namespaces(7): the first process of a namespace gets from within only what it has a handler
// for; from above also SIGKILL and SIGSTOP. The kernel's own SIGKILL is one from above.
bool spared(Process& process, const SignalInfo& info) {
    if (!process.is_namespace_init || process.handlers->get(info.signo).handler != handler_default)
        return false;
    const u64 bit = signal_bit(info.signo);
    if ((bit & unblockable) == 0) {
        // One that is blocked waits: the handler may come, or sigwaitinfo(2).
        const Task* first = process.tasks.front();
        return first == nullptr ||
               ((first->signals->blocked | first->signals->waited_for) & bit) == 0;
    }
    const Process* sender = current_task().process;
    return info.code != SI_KERNEL && sender != nullptr &&
           in_namespace(*process.pid_namespace, sender->pid);
}

// Ids of the sender in a message to another namespace are those that it knows.
SignalInfo translated(Process& process, const SignalInfo& info) {
    SignalInfo out = info;
    if (info.code != SI_USER && info.code != SI_TKILL)
        return out;
    out.sender.pid = pid_in(pid_namespace_of(process), info.sender.pid);
    out.sender.uid = uid_for_locked(process, info.sender.uid);
    return out;
}

Result<void> send(Process& process, Task* only, const SignalInfo& sent, Ref<RefCounted> source) {
    const int signal = sent.signo;
    if (&process == kernel_init_process)
        return {}; // it takes no signals
    // kill(2) may lose a repeated signal, sigqueue(3) may not.
    const bool timed = static_cast<bool>(source);
    const bool must = (signal >= SIGRTMIN && sent.code < 0) || timed;
    Freed freed;
    QueuedSignal* entry = nullptr;
    bool queue = false;
    {
        SpinGuard guard(process.signal_lock);
        if (process.tasks.empty() || spared(process, sent))
            return timed ? Result<void>(fail(ESRCH)) : Result<void>();
        if (process.group_exiting) {
            // Its threads end, but a tracer may have stopped one of them on its way.
            if (signal == SIGKILL)
                for (Task& task : process.tasks)
                    interrupt(task, true);
            return timed ? Result<void>(fail(ESRCH)) : Result<void>();
        }
        const SignalInfo info = translated(process, sent);
        prepare(process, signal, freed);
        if (!is_ignored(process, only, signal)) {
            PendingSignals& pending = only != nullptr ? only->signals->pending : process.pending;
            // A timer has one signal of its own on its way at most.
            const bool merged = signal < SIGRTMIN && pending.has(signal) && !timed;
            if (!merged) {
                if (signal != SIGKILL) {
                    // The heap's locks rank below this one.
                    auto made = make_entry(process, info, std::move(source), must);
                    if (!made) {
                        guard.unlock();
                        free_all(freed);
                        return fail(made.error().code);
                    }
                    entry = *made;
                }
                pending.add(signal, entry);
                queue = true;
            }
        }
        if (queue)
            complete(process, only, signal);
    }
    free_all(freed);
    return timed && !queue ? Result<void>(fail(ECANCELED)) : Result<void>();
}

} // namespace

// --- PendingSignals
// -----------------------------------------------------------------------------------

void PendingSignals::add(int signal, QueuedSignal* entry) {
    set_ |= signal_bit(signal);
    if (entry != nullptr)
        entries_.push_back(*entry);
}

int PendingSignals::take(u64 allowed, SignalInfo& info, QueuedSignal*& entry) {
    entry = nullptr;
    u64 candidates = set_ & allowed;
    if (candidates == 0)
        return 0;
    if ((candidates & synchronous) != 0)
        candidates &= synchronous;
    const int signal = __builtin_ctzll(candidates) + 1;
    bool more = false;
    for (QueuedSignal& queued : entries_) {
        if (queued.info.signo != signal)
            continue;
        if (entry != nullptr) {
            more = true;
            break;
        }
        entry = &queued;
    }
    if (!more)
        set_ &= ~signal_bit(signal);
    if (entry != nullptr) {
        entry->node.unlink();
        info = entry->info;
    } else {
        info = SignalInfo{};
        info.signo = signal;
        info.code = SI_USER;
    }
    return signal;
}

bool PendingSignals::peek(u64 index, SignalInfo& info) const {
    u64 at = 0;
    for (const QueuedSignal& queued :
         const_cast<base::IntrusiveList<QueuedSignal, &QueuedSignal::node>&>(entries_)) {
        if (at++ == index) {
            info = queued.info;
            return true;
        }
    }
    return false;
}

void PendingSignals::discard(u64 signals, Freed& freed) {
    if ((set_ & signals) == 0)
        return;
    set_ &= ~signals;
    for (auto it = entries_.begin(); it != entries_.end();) {
        QueuedSignal& queued = *it;
        ++it;
        if ((signal_bit(queued.info.signo) & signals) != 0) {
            queued.node.unlink();
            freed.push_back(queued);
        }
    }
}

// --- SignalHandlers
// -------------------------------------------------------------------------------------

DefaultAction default_action(int signal) {
    const u64 bit = signal_bit(signal);
    if (signal == SIGCONT)
        return DefaultAction::Continue;
    if ((bit & ignored_by_default) != 0)
        return DefaultAction::Ignore;
    if ((bit & stop_signals) != 0)
        return DefaultAction::Stop;
    return (bit & core_dumping) != 0 ? DefaultAction::Core : DefaultAction::Terminate;
}

bool SignalHandlers::ignored(int signal) const {
    const u64 handler = get(signal).handler;
    return handler == handler_ignore ||
           (handler == handler_default && (signal_bit(signal) & ignored_by_default) != 0);
}

Result<Ref<SignalHandlers>> SignalHandlers::clone() const {
    TRY(Ref<SignalHandlers> copy, make_ref<SignalHandlers>());
    SpinGuard guard(lock_);
    for (int i = 0; i < signal_count; i++)
        copy->actions_[i] = actions_[i];
    return copy;
}

void SignalHandlers::reset_for_exec() {
    SpinGuard guard(lock_);
    for (SignalAction& action : actions_) {
        const bool ignore = action.handler == handler_ignore;
        action = SignalAction{};
        if (ignore)
            action.handler = handler_ignore;
    }
}

void SignalHandlers::masks(u64& ignored, u64& caught) const {
    ignored = caught = 0;
    SpinGuard guard(lock_);
    for (int i = 0; i < signal_count; i++) {
        if (actions_[i].handler == handler_ignore)
            ignored |= u64{1} << i;
        else if (actions_[i].handler != handler_default)
            caught |= u64{1} << i;
    }
}

// --- sending
// ------------------------------------------------------------------------------------------------

SignalInfo user_signal(int signal, i32 code) {
    const Task& self = current_task();
    SignalInfo info;
    info.signo = signal;
    info.code = code;
    info.sender = {self.process != nullptr ? self.process->pid : 0,
                   self.credentials ? self.credentials->uid : 0, 0};
    return info;
}

SignalInfo kernel_signal(int signal) {
    SignalInfo info;
    info.signo = signal;
    info.code = SI_KERNEL;
    return info;
}

Result<void> send_signal_info(Task& task, SignalTarget target, const SignalInfo& info,
                              Ref<RefCounted> source) {
    if (task.process == nullptr || task.signals == nullptr)
        return {};
    return send(*task.process, target == SignalTarget::Thread ? &task : nullptr, info,
                std::move(source));
}

Result<void> send_signal_info(Process& process, const SignalInfo& info, Ref<RefCounted> source) {
    return send(process, nullptr, info, std::move(source));
}

void send_child_signal_locked(Process& process, const SignalInfo& info) {
    (void)send(process, nullptr, info, {});
}

void send_signal(Task& task, int signal) {
    (void)send_signal_info(task, SignalTarget::Thread, kernel_signal(signal));
}

void kill_threads_locked(Process& process, Task* except) {
    process.group_exiting = true;
    process.stop_requested = false;
    for (Task& task : process.tasks)
        if (&task != except)
            interrupt(task, true);
}

void end_other_threads_locked(Process& process, Task& survivor) {
    for (Task& task : process.tasks)
        if (&task != &survivor)
            interrupt(task, true);
}

void force_signal(int signal, i32 code, u64 address) {
    SignalInfo info;
    info.signo = signal;
    info.code = code;
    info.fault = {address, 0};
    force_signal_info(info);
}

void force_signal_info(const SignalInfo& info) {
    Task& task = current_task();
    Process& process = *task.process;
    const int signal = info.signo;
    Freed freed;
    {
        SpinGuard guard(process.signal_lock);
        SignalAction action = process.handlers->get(signal);
        // A program that blocks or ignores what it cannot go on after is ended.
        if ((task.signals->blocked & signal_bit(signal)) != 0 || action.handler == handler_ignore) {
            action.handler = handler_default;
            process.handlers->exchange(signal, action);
            task.signals->blocked &= ~signal_bit(signal);
        }
        if (!task.signals->pending.has(signal)) {
            auto entry = make_entry(process, info, {}, false);
            task.signals->pending.add(signal, entry ? *entry : nullptr);
        }
        __atomic_fetch_or(&task.interrupt_flags, interrupt_signal, __ATOMIC_SEQ_CST);
    }
    free_all(freed);
}

void end_by_signal(const SignalInfo& info) {
    current_process().handlers->exchange(info.signo, {.flags = action_is_final});
    force_signal_info(info);
}

void recalculate_pending(Task& task) {
    const SignalState& state = *task.signals;
    const Process& process = *task.process;
    const u64 pending =
        (state.pending.set() | process.pending.set()) & ~(state.blocked & ~state.waited_for);
    const bool due =
        pending != 0 || process.group_exiting || process.continue_notice ||
        (process.stop_requested && !task.exiting && !(state.stop_joined && is_traced(task))) ||
        trap_due(task) || (process.exec_task != nullptr && process.exec_task != &task);
    if (due)
        __atomic_fetch_or(&task.interrupt_flags, interrupt_signal, __ATOMIC_SEQ_CST);
    else
        __atomic_fetch_and(&task.interrupt_flags, ~interrupt_signal, __ATOMIC_SEQ_CST);
}

void discard_signal(Process& process, int signal) {
    Freed freed;
    {
        SpinGuard guard(process.signal_lock);
        discard_everywhere(process, signal_bit(signal), freed);
    }
    free_all(freed);
}

void set_waited_for(u64 mask) {
    Task& task = current_task();
    SpinGuard guard(task.process->signal_lock);
    task.signals->waited_for = mask;
    recalculate_pending(task);
}

// An ending thread passes on what it was chosen for.
void retarget_signals(Task& task) {
    Process& process = *task.process;
    SpinGuard guard(process.signal_lock);
    if (process.group_exiting)
        return;
    const u64 shared = process.pending.set() & ~task.signals->blocked;
    for (int signal = 1; signal <= signal_count; signal++)
        if ((shared & signal_bit(signal)) != 0)
            complete(process, nullptr, signal);
}

void free_pending_signals(PendingSignals& pending, Process& process) {
    Freed freed;
    {
        SpinGuard guard(process.signal_lock);
        pending.discard(~u64{0}, freed);
    }
    free_all(freed);
}

void free_queued_signal(QueuedSignal* entry) {
    free_entry(entry);
}

void set_blocked(u64 mask) {
    Task& task = current_task();
    Process& process = *task.process;
    mask &= ~unblockable;
    if (mask == task.signals->blocked)
        return;
    SpinGuard guard(process.signal_lock);
    // What others of the process could take is offered to them when this thread no longer wants it.
    const u64 newly_blocked = mask & ~task.signals->blocked & process.pending.set();
    task.signals->blocked = mask;
    recalculate_pending(task);
    if (newly_blocked != 0 && process.live_tasks > 1)
        for (int signal = 1; signal <= signal_count; signal++)
            if ((newly_blocked & signal_bit(signal)) != 0)
                complete(process, nullptr, signal);
}

u64 blocked_signals() {
    const Task& task = current_task();
    return task.signals != nullptr ? task.signals->blocked : 0;
}

void set_temporary_mask(u64 mask) {
    SignalState& state = *current_task().signals;
    state.saved_blocked = state.blocked;
    state.restore_saved = true;
    set_blocked(mask);
}

void finish_temporary_mask(bool interrupted) {
    SignalState& state = *current_task().signals;
    if (interrupted && signal_pending())
        return; // deliver_signals() restores it
    state.restore_saved = false;
    set_blocked(state.saved_blocked);
}

bool take_signal(u64 mask, SignalInfo& info) {
    Task& task = current_task();
    Process& process = *task.process;
    QueuedSignal* entry = nullptr;
    int signal = 0;
    {
        SpinGuard guard(process.signal_lock);
        signal = task.signals->pending.take(mask, info, entry);
        if (signal == 0)
            signal = process.pending.take(mask, info, entry);
        recalculate_pending(task);
    }
    if (entry != nullptr)
        finish_queued_signal(*entry, info);
    free_entry(entry);
    return signal != 0;
}

u64 pending_signals(Task& task) {
    if (task.signals == nullptr)
        return 0;
    SpinGuard guard(task.process->signal_lock);
    return task.signals->pending.set() | task.process->pending.set();
}

WaitQueue& signal_wait_queue(Task& task) {
    return task.process->signal_events;
}

bool signal_pending() {
    const Task& task = current_task();
    return (task.interrupt_flags & (interrupt_signal | interrupt_fatal)) != 0 || task.refuses_sleep;
}

bool fatal_signal_pending() {
    return (current_task().interrupt_flags & interrupt_fatal) != 0;
}

} // namespace kernel
