// System calls of processes, signals, futexes, scheduling, time, credentials, limits and system
// information.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

// --- processes (processes.cpp)
Result<long> sys_clone(Task& task, u64 flags, u64 stack, u64 parent_tid, u64 child_tid, u64 tls);
Result<long> sys_clone3(Task& task, u64 arguments, u64 size);
Result<long> sys_fork(Task& task);
Result<long> sys_vfork(Task& task);
Result<long> sys_execve(Task& task, u64 path, u64 arguments, u64 environment);
Result<long> sys_execveat(Task& task, int directory, u64 path, u64 arguments, u64 environment,
                          u32 flags);
Result<long> sys_exit(Task& task, int status);
Result<long> sys_exit_group(Task& task, int status);
Result<long> sys_wait4(Task& task, i32 pid, u64 status, u32 options, u64 usage);
Result<long> sys_waitid(Task& task, u32 kind, i32 id, u64 info, u32 options, u64 usage);
Result<long> sys_getpid(Task& task);
Result<long> sys_gettid(Task& task);
Result<long> sys_getppid(Task& task);
Result<long> sys_getpgrp(Task& task);
Result<long> sys_getpgid(Task& task, i32 pid);
Result<long> sys_setpgid(Task& task, i32 pid, i32 group);
Result<long> sys_getsid(Task& task, i32 pid);
Result<long> sys_setsid(Task& task);
Result<long> sys_set_tid_address(Task& task, u64 address);
Result<long> sys_pidfd_open(Task& task, i32 pid, u32 flags);
Result<long> sys_pidfd_send_signal(Task& task, int fd, int signal, u64 info, u32 flags);
Result<long> sys_pidfd_getfd(Task& task, int fd, int target, u32 flags);
Result<long> sys_ptrace(Task& task, u64 request, i32 tid, u64 address, u64 data);
Result<long> sys_seccomp(Task& task, u32 operation, u32 flags, u64 argument);
Result<long> sys_kcmp(Task& task, i32 first, i32 second, int type, u64 index1, u64 index2);

// --- signals (signals.cpp)
Result<long> sys_rt_sigaction(Task& task, int signal, u64 action, u64 old, u64 set_size);
Result<long> sys_rt_sigprocmask(Task& task, int how, u64 set, u64 old, u64 set_size);
Result<long> sys_rt_sigreturn(Task& task);
Result<long> sys_rt_sigpending(Task& task, u64 set, u64 set_size);
Result<long> sys_rt_sigtimedwait(Task& task, u64 set, u64 info, u64 timeout, u64 set_size);
Result<long> sys_rt_sigqueueinfo(Task& task, i32 pid, int signal, u64 info);
Result<long> sys_rt_tgsigqueueinfo(Task& task, i32 pid, i32 tid, int signal, u64 info);
Result<long> sys_rt_sigsuspend(Task& task, u64 set, u64 set_size);
Result<long> sys_sigaltstack(Task& task, u64 stack, u64 old);
Result<long> sys_kill(Task& task, i32 pid, int signal);
Result<long> sys_tkill(Task& task, i32 tid, int signal);
Result<long> sys_tgkill(Task& task, i32 pid, i32 tid, int signal);
Result<long> sys_pause(Task& task);
Result<long> sys_restart_syscall(Task& task);

// --- futexes (futexes.cpp)
Result<long> sys_futex(Task& task, u64 address, int operation, u32 value, u64 timeout, u64 second,
                       u32 third);
Result<long> sys_futex_waitv(Task& task, u64 waiters, u32 count, u32 flags, u64 timeout, i32 clock);
Result<long> sys_set_robust_list(Task& task, u64 head, u64 size);
Result<long> sys_get_robust_list(Task& task, i32 pid, u64 head, u64 size);

// --- scheduling (scheduling.cpp)
Result<long> sys_sched_yield(Task& task);
Result<long> sys_sched_setparam(Task& task, i32 pid, u64 parameters);
Result<long> sys_sched_getparam(Task& task, i32 pid, u64 parameters);
Result<long> sys_sched_setscheduler(Task& task, i32 pid, int policy, u64 parameters);
Result<long> sys_sched_getscheduler(Task& task, i32 pid);
Result<long> sys_sched_get_priority_max(Task& task, int policy);
Result<long> sys_sched_get_priority_min(Task& task, int policy);
Result<long> sys_sched_rr_get_interval(Task& task, i32 pid, u64 interval);
Result<long> sys_sched_setaffinity(Task& task, i32 pid, u32 bytes, u64 mask);
Result<long> sys_sched_getaffinity(Task& task, i32 pid, u32 bytes, u64 mask);
Result<long> sys_sched_setattr(Task& task, i32 pid, u64 attributes, u32 flags);
Result<long> sys_sched_getattr(Task& task, i32 pid, u64 attributes, u32 size, u32 flags);
Result<long> sys_getpriority(Task& task, int which, i32 who);
Result<long> sys_setpriority(Task& task, int which, i32 who, int nice);
Result<long> sys_getcpu(Task& task, u64 cpu, u64 node);
Result<long> sys_ioprio_get(Task& task, int which, i32 who);
Result<long> sys_ioprio_set(Task& task, int which, i32 who, int priority);

// --- time (clocks.cpp, timers.cpp)
Result<long> sys_nanosleep(Task& task, u64 request, u64 remaining);
Result<long> sys_clock_nanosleep(Task& task, i32 clock, int flags, u64 request, u64 remaining);
Result<long> sys_clock_gettime(Task& task, i32 clock, u64 time);
Result<long> sys_clock_getres(Task& task, i32 clock, u64 resolution);
Result<long> sys_clock_settime(Task& task, i32 clock, u64 time);
Result<long> sys_clock_adjtime(Task& task, i32 clock, u64 timex);
Result<long> sys_adjtimex(Task& task, u64 timex);
Result<long> sys_gettimeofday(Task& task, u64 time, u64 zone);
Result<long> sys_settimeofday(Task& task, u64 time, u64 zone);
Result<long> sys_time(Task& task, u64 time);
Result<long> sys_times(Task& task, u64 times);
Result<long> sys_alarm(Task& task, u32 seconds);
Result<long> sys_getitimer(Task& task, int which, u64 value);
Result<long> sys_setitimer(Task& task, int which, u64 value, u64 old);
Result<long> sys_timer_create(Task& task, i32 clock, u64 event, u64 id);
Result<long> sys_timer_settime(Task& task, i32 id, int flags, u64 setting, u64 old);
Result<long> sys_timer_gettime(Task& task, i32 id, u64 setting);
Result<long> sys_timer_getoverrun(Task& task, i32 id);
Result<long> sys_timer_delete(Task& task, i32 id);

// --- credentials (credentials.cpp)
Result<long> sys_getuid(Task& task);
Result<long> sys_geteuid(Task& task);
Result<long> sys_getgid(Task& task);
Result<long> sys_getegid(Task& task);
Result<long> sys_getresuid(Task& task, u64 real, u64 effective, u64 saved);
Result<long> sys_getresgid(Task& task, u64 real, u64 effective, u64 saved);
Result<long> sys_getgroups(Task& task, int count, u64 list);
Result<long> sys_setuid(Task& task, u32 id);
Result<long> sys_setgid(Task& task, u32 id);
Result<long> sys_setreuid(Task& task, u32 real, u32 effective);
Result<long> sys_setregid(Task& task, u32 real, u32 effective);
Result<long> sys_setresuid(Task& task, u32 real, u32 effective, u32 saved);
Result<long> sys_setresgid(Task& task, u32 real, u32 effective, u32 saved);
Result<long> sys_setfsuid(Task& task, u32 id);
Result<long> sys_setfsgid(Task& task, u32 id);
Result<long> sys_setgroups(Task& task, int count, u64 list);
Result<long> sys_capget(Task& task, u64 header, u64 data);
Result<long> sys_capset(Task& task, u64 header, u64 data);

// --- limits and usage (limits.cpp)
Result<long> sys_getrlimit(Task& task, u32 resource, u64 limit);
Result<long> sys_setrlimit(Task& task, u32 resource, u64 limit);
Result<long> sys_prlimit64(Task& task, i32 pid, u32 resource, u64 fresh, u64 old);
Result<long> sys_getrusage(Task& task, int who, u64 usage);

// --- the process's odds and ends (process_control.cpp)
// PR_SET_MM of it: syscalls/memory_layout.cpp.
Result<long> set_memory_layout(Task& task, u64 option, u64 address, u64 size, u64 rest);
Result<long> sys_prctl(Task& task, int option, u64 a, u64 b, u64 c, u64 d);
// The FS and GS base of a task that is the running one or stopped: ARCH_SET_FS and its like,
// arch_prctl(2). EINVAL: another option.
Result<long> access_segment_base(Task& task, u64 option, u64 argument);
Result<long> sys_arch_prctl(Task& task, int option, u64 argument);
Result<long> sys_rseq(Task& task, u64 record, u32 length, int flags, u32 signature);
Result<long> sys_personality(Task& task, u32 persona);

// --- the system (system_info.cpp)
Result<long> sys_uname(Task& task, u64 names);
Result<long> sys_sethostname(Task& task, u64 name, u64 length);
Result<long> sys_setdomainname(Task& task, u64 name, u64 length);
Result<long> sys_sysinfo(Task& task, u64 info);
Result<long> sys_syslog(Task& task, int type, u64 buffer, int length);
Result<long> sys_getrandom(Task& task, u64 buffer, u64 length, u32 flags);

} // namespace kernel
