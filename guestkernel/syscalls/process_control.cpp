// prctl, arch_prctl, personality.
#include <asm/prctl.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/personality.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>

#include "guestkernel/mm/vma.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"
#include "guestkernel/task/rseq.hpp"
#include "guestkernel/trace/call_dispatch.hpp"
#include "guestkernel/trace/seccomp.hpp"

namespace kernel {

namespace {

Result<long> set_name(Task& task, u64 from) {
    char name[sizeof task.name] = {};
    if (!user_range_ok(from, 1))
        return fail(EFAULT);
    if (arch::copy_string_from_user(name, from, sizeof name - 1) < 0)
        return fail(EFAULT);
    __builtin_memcpy(task.name, name, sizeof name);
    tell_process_event(ProcessEvent::Name, task);
    return 0;
}

Result<long> ambient(u64 operation, u64 capability) {
    const Credentials& old = *current_task().credentials;
    TRY(Ref<Credentials> fresh, old.clone());
    if (operation == PR_CAP_AMBIENT_CLEAR_ALL) {
        if (capability != 0)
            return fail(EINVAL);
        fresh->cap_ambient = 0;
        set_credentials(std::move(fresh));
        return 0;
    }
    if (capability > CAP_LAST_CAP)
        return fail(EINVAL);
    const u64 bit = u64{1} << capability;
    switch (operation) {
    case PR_CAP_AMBIENT_IS_SET:
        return (old.cap_ambient & bit) != 0 ? 1 : 0;
    case PR_CAP_AMBIENT_RAISE:
        if ((old.cap_permitted & bit) == 0 || (old.cap_inheritable & bit) == 0 ||
            (old.securebits & SECBIT_NO_CAP_AMBIENT_RAISE) != 0)
            return fail(EPERM);
        fresh->cap_ambient |= bit;
        break;
    case PR_CAP_AMBIENT_LOWER:
        fresh->cap_ambient &= ~bit;
        break;
    default:
        return fail(EINVAL);
    }
    set_credentials(std::move(fresh));
    return 0;
}

Result<long> drop_bounding(u64 capability) {
    if (capability > CAP_LAST_CAP)
        return fail(EINVAL);
    if (!capable_here(CAP_SETPCAP))
        return fail(EPERM);
    TRY(Ref<Credentials> fresh, current_task().credentials->clone());
    fresh->cap_bounding &= ~(u64{1} << capability);
    set_credentials(std::move(fresh));
    return 0;
}

Result<long> set_securebits(u64 bits) {
    const Credentials& old = *current_task().credentials;
    const u32 locks = old.securebits & SECURE_ALL_LOCKS;
    if (bits > 0xff)
        return fail(EPERM);
    const auto wanted = static_cast<u32>(bits);
    if (((old.securebits ^ wanted) & (locks >> 1)) != 0 || (locks & ~wanted) != 0 ||
        !capable_here(CAP_SETPCAP))
        return fail(EPERM);
    TRY(Ref<Credentials> fresh, old.clone());
    fresh->securebits = wanted;
    set_credentials(std::move(fresh));
    return 0;
}

Result<long> keep_capabilities(bool keep) {
    const Credentials& old = *current_task().credentials;
    if ((old.securebits & SECBIT_KEEP_CAPS_LOCKED) != 0)
        return fail(EPERM);
    TRY(Ref<Credentials> fresh, old.clone());
    fresh->securebits =
        (old.securebits & ~u32{SECBIT_KEEP_CAPS}) | (keep ? u32{SECBIT_KEEP_CAPS} : 0);
    set_credentials(std::move(fresh));
    return 0;
}

// PR_SET_VMA_ANON_NAME: printable, without what would confuse readers of /proc/PID/maps.
Result<Ref<MappingName>> mapping_name(u64 address) {
    constexpr usize longest = 80; // with its NUL
    if (address == 0)
        return Ref<MappingName>();
    const auto text = copy_in_string(address, longest);
    if (!text)
        return fail(text.error().code == ENAMETOOLONG ? EINVAL : text.error().code);
    const std::string_view name = text->view();
    for (const char c : name)
        if (c < ' ' || c > '~' || std::string_view("\\`$[]").find(c) != std::string_view::npos)
            return fail(EINVAL);
    TRY(Ref<MappingName> made, make_ref<MappingName>());
    TRY(made->text.append("[anon:"));
    TRY(made->shared_text.append("[anon_shmem:"));
    for (String* out : {&made->text, &made->shared_text}) {
        TRY(out->append(name));
        TRY(out->append("]"));
    }
    return made;
}

Result<long> set_mapping_name(u64 attribute, u64 start, u64 length, u64 name) {
    if (attribute != PR_SET_VMA_ANON_NAME)
        return fail(EINVAL);
    TRY(Ref<MappingName> made, mapping_name(name));
    TRY(current_task().address_space->set_name(VirtAddr(start), length, std::move(made)));
    return 0;
}

// Questions about what this kernel does not have or always has.
// prctl(2), PR_MCE_KILL. No memory fails here: kept and shown.
Result<long> set_memory_failure_policy(Task& task, u64 how, u64 policy, u64 rest) {
    if (rest != 0)
        return fail(EINVAL);
    if (how == PR_MCE_KILL_CLEAR && policy == 0)
        task.memory_failure_policy = PR_MCE_KILL_DEFAULT;
    else if (how == PR_MCE_KILL_SET && policy <= PR_MCE_KILL_DEFAULT)
        task.memory_failure_policy = static_cast<u8>(policy);
    else
        return fail(EINVAL);
    return 0;
}

Result<long> fixed_answers(Task& task, int option, u64 a, u64 b, u64 c, u64 d) {
    switch (option) {
    case PR_GET_TIMING:
        return PR_TIMING_STATISTICAL;
    case PR_SET_TIMING:
        return a == PR_TIMING_STATISTICAL ? Result<long>(0) : Result<long>(fail(EINVAL));
    case PR_SET_IO_FLUSHER:
    case PR_GET_IO_FLUSHER: {
        if (!capable(CAP_SYS_RESOURCE))
            return fail(EPERM);
        const bool set = option == PR_SET_IO_FLUSHER;
        if ((set ? a > 1 : a != 0) || (b | c | d) != 0)
            return fail(EINVAL);
        if (set)
            current_task().io_flusher = a == 1;
        return current_task().io_flusher && !set ? 1 : 0;
    }
    case PR_GET_TSC:
        TRY(UserPtr<u32>(a).copy_out(PR_TSC_ENABLE));
        return 0;
    case PR_SET_TSC:
        return a == PR_TSC_ENABLE ? Result<long>(0) : Result<long>(fail(EINVAL));
    case PR_GET_THP_DISABLE:
        if ((a | b | c | d) != 0)
            return fail(EINVAL);
        return current_process().huge_pages_disabled ? 1 : 0;
    case PR_SET_THP_DISABLE:
        if ((b | c | d) != 0)
            return fail(EINVAL);
        current_process().huge_pages_disabled = a != 0;
        return 0; // there are no huge pages to disable
    case PR_MCE_KILL_GET:
        if ((a | b | c | d) != 0)
            return fail(EINVAL);
        return task.memory_failure_policy;
    case PR_MCE_KILL:
        return set_memory_failure_policy(task, a, b, c | d);
    default:
        return fail(EINVAL);
    }
}

} // namespace

Result<long> sys_prctl(Task& task, int option, u64 a, u64 b, u64 c, u64 d) {
    Process& process = *task.process;
    switch (option) {
    case PR_SET_NAME:
        return set_name(task, a);
    case PR_SET_VMA:
        return set_mapping_name(a, b, c, d);
    case PR_GET_NAME:
        TRY(copy_out_bytes(a, task.name, sizeof task.name));
        return 0;
    case PR_SET_PDEATHSIG:
        if (a > signal_count)
            return fail(EINVAL);
        process.parent_death_signal = static_cast<int>(a);
        return 0;
    case PR_GET_PDEATHSIG:
        TRY(UserPtr<i32>(a).copy_out(process.parent_death_signal));
        return 0;
    case PR_SET_CHILD_SUBREAPER:
        process.is_subreaper = a != 0;
        return 0;
    case PR_GET_CHILD_SUBREAPER:
        TRY(UserPtr<i32>(a).copy_out(process.is_subreaper ? 1 : 0));
        return 0;
    case PR_GET_DUMPABLE:
        return process.dumpable ? 1 : 0;
    case PR_SET_DUMPABLE:
        if (a > 1)
            return fail(EINVAL);
        process.dumpable = a == 1;
        return 0;
    case PR_SET_NO_NEW_PRIVS:
        if (a != 1 || b != 0 || c != 0 || d != 0)
            return fail(EINVAL);
        task.no_new_privileges = true;
        return 0;
    case PR_GET_NO_NEW_PRIVS:
        if (a != 0 || b != 0 || c != 0 || d != 0)
            return fail(EINVAL);
        return task.no_new_privileges ? 1 : 0;
    case PR_SET_KEEPCAPS:
        if (a > 1)
            return fail(EINVAL);
        return keep_capabilities(a == 1);
    case PR_GET_KEEPCAPS:
        return (task.credentials->securebits & SECBIT_KEEP_CAPS) != 0 ? 1 : 0;
    case PR_GET_SPECULATION_CTRL:
        return (b | c | d) == 0 ? speculation::get_wish(task.speculation, a) : fail(EINVAL);
    case PR_SET_SPECULATION_CTRL:
        if ((c | d) != 0)
            return fail(EINVAL);
        TRY(speculation::set_wish(task.speculation, a, b));
        arch::apply_speculation(task);
        return 0;
    case PR_CAPBSET_READ:
        if (a > CAP_LAST_CAP)
            return fail(EINVAL);
        return static_cast<long>(task.credentials->cap_bounding >> a & 1);
    case PR_CAPBSET_DROP:
        return drop_bounding(a);
    case PR_CAP_AMBIENT:
        return ambient(a, b);
    case PR_GET_SECUREBITS:
        return task.credentials->securebits;
    case PR_SET_SECUREBITS:
        return set_securebits(a);
    case PR_SET_TIMERSLACK:
        task.timer_slack_ns = static_cast<i64>(a) <= 0 ? task.default_slack_ns : a;
        return 0;
    case PR_GET_TIMERSLACK:
        return static_cast<long>(task.timer_slack_ns);
    case PR_GET_TID_ADDRESS:
        TRY(UserPtr<u64>(a).copy_out(task.clear_child_tid));
        return 0;
    case PR_GET_SECCOMP:
        return task.seccomp_mode;
    case PR_SET_SECCOMP:
        if (a == SECCOMP_MODE_STRICT)
            return set_seccomp_strict();
        return a == SECCOMP_MODE_FILTER ? install_seccomp_filter(0, b) : fail(EINVAL);
    case PR_SET_MM:
        return set_memory_layout(task, a, b, c, d);
    case PR_SET_SYSCALL_USER_DISPATCH:
        return set_call_dispatch(a, b, c, d);
    default:
        return fixed_answers(task, option, a, b, c, d);
    }
}

Result<long> access_segment_base(Task& task, u64 option, u64 argument) {
    switch (option) {
    case ARCH_SET_FS:
    case ARCH_SET_GS:
        if (argument >= user_max)
            return fail(EPERM);
        if (option == ARCH_SET_FS)
            arch::set_fs_base(task, argument);
        else
            arch::set_gs_base(task, argument);
        return 0;
    case ARCH_GET_FS:
        TRY(UserPtr<u64>(argument).copy_out(arch::get_fs_base(task)));
        return 0;
    case ARCH_GET_GS:
        TRY(UserPtr<u64>(argument).copy_out(arch::get_gs_base(task)));
        return 0;
    default:
        return fail(EINVAL);
    }
}

namespace {

// ARCH_REQ_XCOMP_PERM: extended states that programs must ask for, of which the kernel enables none
// (Intel's AMX tiles are the only ones there are).
Result<long> request_extended_state(u64 number) {
    constexpr u64 known = 19; // up to XFEATURE_XTILE_DATA
    return fail(number < known ? EOPNOTSUPP : EINVAL);
}

} // namespace

Result<long> sys_arch_prctl(Task& task, int option, u64 argument) {
    switch (option) {
    case ARCH_GET_XCOMP_SUPP:
    case ARCH_GET_XCOMP_PERM:
    case ARCH_GET_XCOMP_GUEST_PERM:
        TRY(UserPtr<u64>(argument).copy_out(arch::fpu_features()));
        return 0;
    case ARCH_REQ_XCOMP_PERM:
    case ARCH_REQ_XCOMP_GUEST_PERM:
        return request_extended_state(argument);
    case ARCH_GET_CPUID:
        return 1;
    case ARCH_SET_CPUID:
        return argument == 1 ? Result<long>(0) : Result<long>(fail(ENODEV));
    default:
        return access_segment_base(task, static_cast<u64>(static_cast<i64>(option)), argument);
    }
}

Result<long> sys_rseq(Task&, u64 record, u32 length, int flags, u32 signature) {
    constexpr int unregister = 1; // RSEQ_FLAG_UNREGISTER
    if ((flags & ~unregister) != 0)
        return fail(EINVAL);
    if (flags == unregister)
        TRY(unregister_rseq(record, length, signature));
    else
        TRY(register_rseq(record, length, signature));
    return 0;
}

Result<long> sys_personality(Task& task, u32 persona) {
    constexpr u32 ask = 0xffff'ffff;
    const long before = task.personality;
    if (persona != ask)
        task.personality = persona;
    return before;
}

} // namespace kernel
