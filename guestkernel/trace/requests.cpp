// The system call ptrace(2): what a tracer asks of its tracees.
#include <asm/ptrace-abi.h>
#include <linux/audit.h>
#include <linux/elf.h>
#include <linux/errno.h>
#include <linux/ptrace.h>
#include <linux/signal.h>
#include <linux/uio.h>

#include "guestkernel/mm/heap.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"
#include "guestkernel/trace/debug_registers.hpp"
#include "guestkernel/trace/registers.hpp"
#include "guestkernel/trace/seccomp.hpp"
#include "guestkernel/trace/tracee.hpp"

namespace kernel {

namespace {

// struct user (sys/user.h): where PTRACE_PEEKUSER finds the debug registers, and its end.
constexpr u64 user_debug_registers = 848, user_struct_bytes = 912;
constexpr u64 trap_flag = 0x100;

// Holds a stopped tracee where it is: until the end of its life nothing runs the thread.
class Frozen {
public:
    explicit Frozen(Task& task) : task_(task) {}
    Frozen(const Frozen&) = delete;
    Frozen& operator=(const Frozen&) = delete;
    ~Frozen() {
        if (!held_)
            return;
        SpinGuard guard(task_.process->signal_lock);
        task_.trace->frozen = false;
        if ((task_.interrupt_flags & interrupt_fatal) != 0)
            wake(task_, static_cast<u32>(TaskState::Traced));
    }
    // False: the thread is not in a stop that its tracer may use.
    bool take() {
        {
            SpinGuard guard(task_.process->signal_lock);
            Tracee& trace = *task_.trace;
            if (!trace.stopped || trace.listening || task_.state != u32(TaskState::Traced) ||
                (task_.interrupt_flags & interrupt_fatal) != 0)
                return false;
            trace.frozen = held_ = true;
        }
        // It may still be on its way off the CPU, where its registers are.
        while (__atomic_load_n(&task_.on_cpu, __ATOMIC_ACQUIRE) != 0)
            arch::relax();
        return true;
    }
    // Lets the thread go on with a signal; nothing is held any more.
    void resume(int signal) {
        SpinGuard guard(task_.process->signal_lock);
        Tracee& trace = *task_.trace;
        trace.frozen = held_ = false;
        trace.stopped = false;
        trace.resume_signal = signal;
        wake(task_, static_cast<u32>(TaskState::Traced));
    }
    void forget() { held_ = false; }

private:
    Task& task_;
    bool held_ = false;
};

// --- memory and registers

// What a tracee has become since it was attached to.
bool memory_closed_to_tracer(Task& task) {
    return !task.trace->tracer_capable && memory_closed(*task.process, *current_task().credentials);
}

Result<long> peek_data(Task& task, u64 address, u64 data) {
    if (memory_closed_to_tracer(task))
        return fail(EIO);
    const Ref<AddressSpace> space = address_space_of(task);
    u64 word = 0;
    if (!space || space->read_foreign(VirtAddr(address), &word, sizeof word) != sizeof word)
        return fail(EIO);
    TRY(UserPtr<u64>(data).copy_out(word));
    return 0;
}

Result<long> poke_data(Task& task, u64 address, u64 data) {
    if (memory_closed_to_tracer(task))
        return fail(EIO);
    const Ref<AddressSpace> space = address_space_of(task);
    if (!space || space->write_foreign(VirtAddr(address), &data, sizeof data) != sizeof data)
        return fail(EIO);
    return 0;
}

bool is_debug_register(u64 offset) {
    return offset >= user_debug_registers && offset < user_debug_registers + 8 * sizeof(u64);
}

Result<long> peek_user(Task& task, u64 offset, u64 data) {
    if (offset % sizeof(u64) != 0 || offset >= user_struct_bytes)
        return fail(EIO);
    u64 word = 0;
    if (offset < sizeof(UserRegisters)) {
        const UserRegisters all = read_registers(task);
        __builtin_memcpy(&word, reinterpret_cast<const u8*>(&all) + offset, sizeof word);
    } else if (is_debug_register(offset)) {
        word = read_debug_register(*task.trace, (offset - user_debug_registers) / sizeof(u64));
    }
    TRY(UserPtr<u64>(data).copy_out(word));
    return 0;
}

Result<long> poke_user(Task& task, u64 offset, u64 data) {
    if (offset % sizeof(u64) != 0 || offset >= user_struct_bytes)
        return fail(EIO);
    if (is_debug_register(offset)) {
        TRY(write_debug_register(task, (offset - user_debug_registers) / sizeof(u64), data));
        return 0;
    }
    if (offset >= sizeof(UserRegisters))
        return 0; // as Linux: what is not a register is not written
    UserRegisters all = read_registers(task);
    __builtin_memcpy(reinterpret_cast<u8*>(&all) + offset, &data, sizeof data);
    TRY(write_registers(task, all));
    return 0;
}

Result<long> get_registers(Task& task, u64 to) {
    const UserRegisters all = read_registers(task);
    TRY(UserPtr<UserRegisters>(to).copy_out(all));
    return 0;
}

Result<long> set_registers(Task& task, u64 from) {
    TRY(const UserRegisters all, UserPtr<const UserRegisters>(from).copy_in());
    TRY(write_registers(task, all));
    return 0;
}

Result<long> get_fxsave(Task& task, u64 to) {
    u8 area[fxsave_bytes];
    read_fxsave(task, area);
    TRY(copy_out_bytes(to, area, sizeof area));
    return 0;
}

Result<long> set_fxsave(Task& task, u64 from) {
    u8 area[fxsave_bytes];
    TRY(copy_in_bytes(area, from, sizeof area));
    TRY(write_fxsave(task, area));
    return 0;
}

// Room for the XSAVE area, which may take kilobytes.
struct Buffer {
    explicit Buffer(usize size) : bytes(static_cast<u8*>(kmalloc(size))), count(size) {}
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { kfree(bytes); }
    std::span<u8> span() const { return {bytes, count}; }
    u8* bytes;
    usize count;
};

// PTRACE_GETREGSET and SETREGSET: the vector says how much is wanted, and hears how much there was.
Result<long> register_set(Task& task, u64 kind, u64 vector_at, bool write) {
    TRY(iovec vector, UserPtr<const iovec>(vector_at).copy_in());
    const auto base = reinterpret_cast<u64>(vector.iov_base);
    usize size = 0;
    switch (kind) {
    case NT_PRSTATUS:
        size = sizeof(UserRegisters);
        break;
    case NT_PRFPREG:
        size = fxsave_bytes;
        break;
    case NT_X86_XSTATE:
        size = arch::fpu_state_size();
        break;
    default:
        return fail(EINVAL);
    }
    if (vector.iov_len % sizeof(u64) != 0)
        return fail(EINVAL);
    const usize moved = vector.iov_len < size ? vector.iov_len : size;
    const Buffer buffer(size);
    if (buffer.bytes == nullptr)
        return fail(ENOMEM);
    // A short write changes only the first part.
    if (kind == NT_PRSTATUS) {
        const UserRegisters all = read_registers(task);
        __builtin_memcpy(buffer.bytes, &all, sizeof all);
    } else if (kind == NT_PRFPREG) {
        read_fxsave(task, buffer.span());
    } else {
        read_xstate(task, buffer.span());
    }
    if (write) {
        if (kind == NT_X86_XSTATE && moved != size)
            return fail(EFAULT);
        TRY(copy_in_bytes(buffer.bytes, base, moved));
        if (kind == NT_PRSTATUS) {
            UserRegisters all;
            __builtin_memcpy(&all, buffer.bytes, sizeof all);
            TRY(write_registers(task, all));
        } else if (kind == NT_PRFPREG) {
            TRY(write_fxsave(task, buffer.span()));
        } else {
            TRY(write_xstate(task, buffer.span()));
        }
    } else {
        TRY(copy_out_bytes(base, buffer.bytes, moved));
    }
    vector.iov_len = moved;
    TRY(UserPtr<iovec>(vector_at).copy_out(vector));
    return 0;
}

// --- signals and stops

Result<long> get_signal_info(Task& task, u64 to) {
    SignalInfo info;
    {
        SpinGuard guard(task.process->signal_lock);
        if (!task.trace->has_info)
            return fail(EINVAL);
        info = task.trace->info;
    }
    TRY(UserPtr<SignalInfo>(to).copy_out(info));
    return 0;
}

Result<long> set_signal_info(Task& task, u64 from) {
    TRY(const SignalInfo info, UserPtr<const SignalInfo>(from).copy_in());
    SpinGuard guard(task.process->signal_lock);
    if (!task.trace->has_info)
        return fail(EINVAL);
    task.trace->info = info;
    return 0;
}

Result<long> peek_signal_info(Task& task, u64 arguments, u64 to) {
    TRY(const ptrace_peeksiginfo_args args,
        UserPtr<const ptrace_peeksiginfo_args>(arguments).copy_in());
    if ((args.flags & ~u32{PTRACE_PEEKSIGINFO_SHARED}) != 0 || args.nr < 0)
        return fail(EINVAL);
    const bool shared = (args.flags & PTRACE_PEEKSIGINFO_SHARED) != 0;
    long done = 0;
    for (; done < args.nr; done++) {
        SignalInfo info;
        {
            SpinGuard guard(task.process->signal_lock);
            const PendingSignals& pending = shared ? task.process->pending : task.signals->pending;
            if (!pending.peek(args.off + static_cast<u64>(done), info))
                break;
        }
        auto told = UserPtr<SignalInfo>(to + static_cast<u64>(done) * sizeof info).copy_out(info);
        if (!told)
            return done != 0 ? Result<long>(done) : Result<long>(fail(EFAULT));
        if (fatal_signal_pending())
            break;
        cond_resched();
    }
    return done;
}

Result<long> signal_mask(Task& task, u64 size, u64 address, bool write) {
    if (size != sizeof(u64))
        return fail(EINVAL);
    if (!write) {
        // What sigsuspend(2) put in place is not what the program asked to have in the end.
        const SignalState& state = *task.signals;
        TRY(UserPtr<u64>(address).copy_out(state.restore_saved ? state.saved_blocked
                                                               : state.blocked));
        return 0;
    }
    TRY(const u64 mask, UserPtr<const u64>(address).copy_in());
    SpinGuard guard(task.process->signal_lock);
    task.signals->blocked = mask & ~(signal_bit(SIGKILL) | signal_bit(SIGSTOP));
    task.signals->restore_saved = false;
    recalculate_pending(task);
    return 0;
}

Result<long> set_options(Task& task, u64 options) {
    if ((options & ~u64{PTRACE_O_MASK}) != 0)
        return fail(EINVAL);
    if ((options & PTRACE_O_SUSPEND_SECCOMP) != 0 && !may_suspend_seccomp())
        return fail(EPERM);
    SpinGuard guard(task.process->signal_lock);
    task.trace->options = static_cast<u32>(options);
    return 0;
}

Result<long> syscall_info(Task& task, u64 size, u64 to) {
    ptrace_syscall_info info;
    __builtin_memset(&info, 0, sizeof info);
    const Tracee& trace = *task.trace;
    const UserRegisters registers = read_registers(task);
    info.op = PTRACE_SYSCALL_INFO_NONE;
    info.arch = AUDIT_ARCH_X86_64;
    info.instruction_pointer = registers.rip;
    info.stack_pointer = registers.rsp;
    const u64 arguments[6] = {registers.rdi, registers.rsi, registers.rdx,
                              registers.r10, registers.r8,  registers.r9};
    usize actual = offsetof(ptrace_syscall_info, entry);
    constexpr u32 seccomp_stop = SIGTRAP | PTRACE_EVENT_SECCOMP << 8;
    const bool good = trace.stop_code == (SIGTRAP | 0x80);
    if (good && trace.message == PTRACE_EVENTMSG_SYSCALL_ENTRY) {
        info.op = PTRACE_SYSCALL_INFO_ENTRY;
        info.entry.nr = registers.orig_rax;
        __builtin_memcpy(info.entry.args, arguments, sizeof arguments);
        actual = offsetof(ptrace_syscall_info, entry) + sizeof info.entry;
    } else if (good && trace.message == PTRACE_EVENTMSG_SYSCALL_EXIT) {
        info.op = PTRACE_SYSCALL_INFO_EXIT;
        info.exit.rval = static_cast<i64>(registers.rax);
        info.exit.is_error = info.exit.rval < 0 && info.exit.rval >= -4095 ? 1 : 0;
        actual = offsetof(ptrace_syscall_info, exit.is_error) + sizeof info.exit.is_error;
    } else if (trace.stop_code == seccomp_stop) {
        info.op = PTRACE_SYSCALL_INFO_SECCOMP;
        info.seccomp.nr = registers.orig_rax;
        __builtin_memcpy(info.seccomp.args, arguments, sizeof arguments);
        info.seccomp.ret_data = static_cast<u32>(trace.message);
        actual = offsetof(ptrace_syscall_info, seccomp.ret_data) + sizeof info.seccomp.ret_data;
    }
    TRY(copy_out_bytes(to, &info, size < actual ? size : actual));
    return static_cast<long>(actual);
}

// --- going on

Result<long> resume(Task& task, Frozen& frozen, u64 request, u64 signal) {
    if (signal > signal_count)
        return fail(EIO);
    Tracee& trace = *task.trace;
    u32 work = 0;
    if (request == PTRACE_SYSCALL)
        work = entry_trace;
    else if (request == PTRACE_SYSEMU || request == PTRACE_SYSEMU_SINGLESTEP)
        work = entry_emulate;
    const bool step = request == PTRACE_SINGLESTEP || request == PTRACE_SYSEMU_SINGLESTEP;
    if (step)
        work |= entry_step;
    __atomic_fetch_and(&task.entry_work, ~(entry_trace | entry_emulate | entry_step),
                       __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&task.entry_work, work, __ATOMIC_SEQ_CST);
    arch::TrapFrame& frame = arch::user_frame(task);
    trace.single_step = step;
    if (step && (frame.rflags & trap_flag) == 0) {
        frame.rflags |= trap_flag;
        trace.trap_flag_forced = true;
    } else if (!step && trace.trap_flag_forced) {
        frame.rflags &= ~trap_flag;
        trace.trap_flag_forced = false;
    }
    frozen.resume(static_cast<int>(signal));
    return 0;
}

Result<long> detach(Task& task, Frozen& frozen, u64 signal) {
    if (signal > signal_count)
        return fail(EIO);
    arch::TrapFrame& frame = arch::user_frame(task);
    SpinGuard tree(process_tree_lock());
    Tracee& trace = *task.trace;
    if (trace.tracer == nullptr)
        return fail(ESRCH);
    if (trace.trap_flag_forced)
        frame.rflags &= ~trap_flag;
    frozen.forget();
    {
        SpinGuard guard(task.process->signal_lock);
        trace.resume_signal = static_cast<int>(signal);
    }
    detach_locked(trace);
    tree.unlock();
    tell_process_event(ProcessEvent::Untraced, task);
    return 0;
}

Result<long> interrupt_tracee(Task& task) {
    SpinGuard guard(task.process->signal_lock);
    Tracee& trace = *task.trace;
    if (!trace.seized)
        return fail(EIO);
    trace.trap_stop = true;
    wake_tracee_locked(task, trace.listening);
    return 0;
}

Result<long> listen(Task& task, Frozen& frozen) {
    SpinGuard guard(task.process->signal_lock);
    Tracee& trace = *task.trace;
    if (!trace.seized || !trace.has_info || trace.stop_code >> 8 != PTRACE_EVENT_STOP)
        return fail(EIO);
    trace.listening = true;
    (void)frozen;
    if (trace.trap_notify) {
        trace.stopped = false;
        trace.frozen = false;
        wake_tracee_locked(task, true);
    }
    return 0;
}

Result<long> rseq_configuration(const Task& task, u64 size, u64 to) {
    ptrace_rseq_configuration out = {};
    out.rseq_abi_pointer = task.rseq;
    out.rseq_abi_size = task.rseq_length;
    out.signature = task.rseq_signature;
    TRY(copy_out_bytes(to, &out, size < sizeof out ? size : sizeof out));
    return sizeof out;
}

Result<long> serve(Task& task, Frozen& frozen, u64 request, u64 address, u64 data) {
    switch (request) {
    case PTRACE_PEEKTEXT:
    case PTRACE_PEEKDATA:
        return peek_data(task, address, data);
    case PTRACE_POKETEXT:
    case PTRACE_POKEDATA:
        return poke_data(task, address, data);
    case PTRACE_PEEKUSR:
        return peek_user(task, address, data);
    case PTRACE_POKEUSR:
        return poke_user(task, address, data);
    case PTRACE_GETREGS:
        return get_registers(task, data);
    case PTRACE_SETREGS:
        return set_registers(task, data);
    case PTRACE_GETFPREGS:
        return get_fxsave(task, data);
    case PTRACE_SETFPREGS:
        return set_fxsave(task, data);
    case PTRACE_GETREGSET:
        return register_set(task, address, data, false);
    case PTRACE_SETREGSET:
        return register_set(task, address, data, true);
    case PTRACE_GETSIGINFO:
        return get_signal_info(task, data);
    case PTRACE_SETSIGINFO:
        return set_signal_info(task, data);
    case PTRACE_PEEKSIGINFO:
        return peek_signal_info(task, address, data);
    case PTRACE_GETSIGMASK:
        return signal_mask(task, address, data, false);
    case PTRACE_SETSIGMASK:
        return signal_mask(task, address, data, true);
    case PTRACE_SETOPTIONS:
    case PTRACE_OLDSETOPTIONS:
        return set_options(task, data);
    case PTRACE_GETEVENTMSG:
        TRY(UserPtr<u64>(data).copy_out(task.trace->message));
        return 0;
    case PTRACE_GET_SYSCALL_INFO:
        return syscall_info(task, address, data);
    case PTRACE_GET_RSEQ_CONFIGURATION:
        return rseq_configuration(task, address, data);
    case PTRACE_SECCOMP_GET_FILTER:
        return read_seccomp_filter(task, address, data);
    case PTRACE_SECCOMP_GET_METADATA:
        return read_seccomp_metadata(task, address, data);
    case PTRACE_ARCH_PRCTL:
        return access_segment_base(task, data, address);
    case PTRACE_CONT:
    case PTRACE_SYSCALL:
    case PTRACE_SYSEMU:
    case PTRACE_SINGLESTEP:
    case PTRACE_SYSEMU_SINGLESTEP:
        return resume(task, frozen, request, data);
    case PTRACE_LISTEN:
        return listen(task, frozen);
    case PTRACE_DETACH:
        return detach(task, frozen, data);
    default:
        return fail(EIO); // 32-bit segments, PTRACE_SINGLEBLOCK, what no one knows
    }
}

} // namespace

void wake_tracee_locked(Task& task, bool from_trap) {
    u32 states = static_cast<u32>(TaskState::Interruptible);
    if (from_trap)
        states |= static_cast<u32>(TaskState::Traced);
    __atomic_fetch_or(&task.interrupt_flags, interrupt_signal, __ATOMIC_SEQ_CST);
    if (!wake(task, states) && task.on_cpu != 0 && &task != arch::current())
        arch::kick_cpu(task.cpu);
}

Result<long> sys_ptrace(Task& self, u64 request, i32 tid, u64 address, u64 data) {
    tid = global_pid(tid);
    if (request == PTRACE_TRACEME) {
        TRY(trace_me());
        return 0;
    }
    if (request == PTRACE_ATTACH || request == PTRACE_SEIZE) {
        const bool seize = request == PTRACE_SEIZE;
        if (seize && address != 0)
            return fail(EIO);
        TRY(trace_attach(tid, seize, seize ? data : 0));
        return 0;
    }
    const Ref<Task> task = find_task(tid);
    if (!task)
        return fail(ESRCH);
    {
        SpinGuard tree(process_tree_lock());
        if (!task->trace || task->trace->tracer != &self || task->trace->task == nullptr)
            return fail(ESRCH);
    }
    // These two ask nothing of the tracee's state.
    if (request == PTRACE_KILL) {
        (void)send_signal_info(*task, SignalTarget::Thread, kernel_signal(SIGKILL));
        return 0;
    }
    if (request == PTRACE_INTERRUPT)
        return interrupt_tracee(*task);
    Frozen frozen(*task);
    if (!frozen.take())
        return fail(ESRCH);
    return serve(*task, frozen, request, address, data);
}

} // namespace kernel
