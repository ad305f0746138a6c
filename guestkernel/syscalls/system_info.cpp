// Names of the machine, its memory and load, random numbers, the kernel log.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/personality.h>
#include <linux/random.h>
#include <linux/sysinfo.h>
#include <linux/utsname.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/core/uts.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/uts_namespace.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

void copy_text(char (&to)[uts_length + 1], std::string_view from) {
    for (usize i = 0; i < from.size() && i < uts_length; i++)
        to[i] = from[i];
}

Result<long> set_name(u64 from, u64 length, Result<void> (*store)(std::string_view)) {
    if (!capable_over(current_namespaces()->uts->owner(), CAP_SYS_ADMIN))
        return fail(EPERM);
    if (length > uts_length)
        return fail(EINVAL);
    char name[uts_length];
    TRY(copy_in_bytes(name, from, length));
    const std::string_view text(name, length);
    TRY(store(text.substr(0, text.find('\0'))));
    return 0;
}

} // namespace

Result<long> sys_uname(Task& task, u64 names) {
    new_utsname out = {};
    copy_text(out.sysname, uts_sysname);
    copy_text(out.release, uts_release);
    copy_text(out.version, uts_version);
    const bool as_32_bit = (task.personality & PER_MASK) == PER_LINUX32;
    copy_text(out.machine, as_32_bit ? std::string_view("i686") : uts_machine);
    get_hostname(out.nodename);
    get_domainname(out.domainname);
    TRY(UserPtr<new_utsname>(names).copy_out(out));
    return 0;
}

Result<long> sys_sethostname(Task&, u64 name, u64 length) {
    return set_name(name, length, set_hostname);
}

Result<long> sys_setdomainname(Task&, u64 name, u64 length) {
    return set_name(name, length, set_domainname);
}

Result<long> sys_sysinfo(Task&, u64 info) {
    const MemoryStats stats = memory_stats();
    u64 loads[3];
    load_averages(loads);
    struct sysinfo out = {};
    out.uptime = static_cast<__kernel_long_t>((monotonic_ns() + nanoseconds_per_second - 1) /
                                              nanoseconds_per_second);
    for (unsigned i = 0; i < 3; i++)
        out.loads[i] = loads[i];
    out.totalram = stats.total * page_size;
    out.freeram = stats.free * page_size;
    out.sharedram = stats.shared * page_size;
    out.procs = static_cast<u16>(task_total());
    out.mem_unit = 1;
    TRY(UserPtr<struct sysinfo>(info).copy_out(out));
    return 0;
}

Result<long> sys_getrandom(Task&, u64 buffer, u64 length, u32 flags) {
    if ((flags & ~u32{GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE}) != 0 ||
        (flags & (GRND_RANDOM | GRND_INSECURE)) == (GRND_RANDOM | GRND_INSECURE))
        return fail(EINVAL);
    constexpr u64 most = 0x7fff'f000; // MAX_RW_COUNT
    length = length < most ? length : most;
    u8 chunk[256];
    u64 done = 0;
    while (done < length) {
        const u64 part = length - done < sizeof chunk ? length - done : sizeof chunk;
        random_bytes(chunk, part);
        if (!copy_out_bytes(buffer + done, chunk, part))
            return done != 0 ? Result<long>(static_cast<long>(done)) : Result<long>(fail(EFAULT));
        done += part;
        if ((done & (page_size - 1)) == 0) {
            if (signal_pending() && done < length)
                return static_cast<long>(done);
            cond_resched();
        }
    }
    return static_cast<long>(done);
}

} // namespace kernel
