#include "guestkernel/task/process_timers.hpp"

#include <linux/errno.h>
#include <linux/resource.h>
#include <linux/signal.h>
#include <linux/time.h>

#include "guestkernel/core/clock_discipline.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

// What a timer looks at when it is polled while its process runs: the interval of that for
// ITIMER_VIRTUAL and ITIMER_PROF.
constexpr u64 run_time_poll_ns = 10'000'000;
// A program that asks for shorter periods gets overruns: the CPU must get to run it, too.
constexpr u64 least_period_ns = 50'000;
constexpr i32 max_timers = 1024;
constexpr u32 max_overrun = 0x7fffffff; // DELAYTIMER_MAX

u64 saturating_add(u64 a, u64 b) {
    return a > no_deadline - 1 - b ? no_deadline - 1 : a + b;
}

} // namespace

namespace {

// Whose time a CPU clock counts, by numbers that mean the same to everybody: a timer keeps it, and
// expires while anybody runs.
struct CpuClock {
    i32 pid = 0; // 0: the process itself
    i32 tid = 0; // 0: all threads
    bool user_only = false;
};
u64 now_of(const CpuClock& clock, Process& own);

bool is_wall_clock(i32 clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_TAI || clock == CLOCK_REALTIME_ALARM;
}

u64 to_wall_time(i32 clock, u64 value_ns) {
    const u64 ahead =
        clock == CLOCK_TAI ? static_cast<u64>(tai_offset()) * nanoseconds_per_second : 0;
    return value_ns > ahead ? value_ns - ahead : 0;
}

} // namespace

// One timer_create(2) timer. Kept alive by the process's table and by a queued signal.
struct PosixTimer : RefCounted {
    PosixTimer(Process& owner, const PosixTimerRequest& what)
        : process(&owner), request(what), timer(expired, this) {}

    static void expired(Timer&, void* raw) { static_cast<PosixTimer*>(raw)->fire(); }
    void fire();
    bool send(); // false: nobody will take it
    u32 signal_taken();
    void signal_dropped();
    u64 cpu_now() const; // 0 with other clocks. Takes locks: before the timer's own
    // On the clock of the deadline. Requires: lock.
    u64 now_at(u64 cpu_ns) const;
    void arm_at(u64 when);       // on that clock. Requires: lock
    void arm_for_clock(u64 now); // of CPU time. Requires: lock
    // Periods that went by up to `now`; moves the deadline beyond it. Requires: lock.
    u32 skip_periods(u64 now);

    Process* process; // outlives the timer: destroyed at its end
    const PosixTimerRequest request;
    CpuClock cpu_clock; // of no use with other clocks
    i32 id = 0;
    SpinLock lock{LockRank::Leaf}; // signals are dropped under the tree lock
    Timer timer;
    u64 interval_ns = 0;
    u64 deadline_ns = 0; // monotonic; for CPU clocks of the clock itself
    // The deadline is, and follows the clock when it is set: an absolute time was asked for.
    bool on_wall_clock = false;
    bool armed = false;
    bool signal_queued = false;
    u32 reported_overrun = 0; // of the last signal taken
};

struct ProcessTimers {
    explicit ProcessTimers(Process& owner);

    static void real_expired(Timer&, void* raw);
    static void poll_expired(Timer&, void* raw);

    Process* process;
    SpinLock lock{LockRank::Leaf};
    Timer real;
    u64 real_interval = 0, real_deadline = 0;
    // By run time of the process; 0: disarmed.
    u64 run_interval[2] = {}, run_deadline[2] = {};
    Timer poll;
    Vector<Ref<PosixTimer>> timers; // by id; null: free
};

namespace {

Result<ProcessTimers*> timers_of(Process& process) {
    if (ProcessTimers* timers = __atomic_load_n(&process.timers, __ATOMIC_ACQUIRE);
        timers != nullptr)
        return timers;
    auto* fresh = new (std::nothrow) ProcessTimers(process);
    if (fresh == nullptr)
        return fail(ENOMEM);
    ProcessTimers* expected = nullptr;
    if (!__atomic_compare_exchange_n(&process.timers, &expected, fresh, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
        delete fresh;
        return expected;
    }
    return fresh;
}

u64 process_time(Process& process, bool with_system) {
    SpinGuard tree(process_tree_lock());
    const Process::Usage usage = process.usage();
    return usage.user_ns + (with_system ? usage.system_ns : 0);
}

// RLIMIT_CPU, setrlimit(2): SIGXCPU at the soft limit and every second beyond it, SIGKILL at the
// hard one. Returns whether there is a limit to watch.
bool check_cpu_limit(Process& process) {
    ResourceLimit& limit = process.limits[RLIMIT_CPU];
    constexpr u64 most = no_deadline / nanoseconds_per_second;
    if (limit.soft >= most && limit.hard >= most)
        return false;
    const u64 used = process_time(process, true);
    if (limit.hard < most && used >= limit.hard * nanoseconds_per_second) {
        (void)send_signal_info(process, kernel_signal(SIGKILL));
        return false;
    }
    if (limit.soft < most && used >= limit.soft * nanoseconds_per_second) {
        {
            SpinGuard tree(process_tree_lock());
            limit.soft = used / nanoseconds_per_second + 1; // as Linux does
        }
        (void)send_signal_info(process, kernel_signal(SIGXCPU));
    }
    return true;
}

SignalInfo timer_signal(const PosixTimer& timer) {
    SignalInfo info;
    info.signo = timer.request.signal;
    info.code = SI_TIMER;
    info.timer = {timer.id, 0,
                  timer.request.value_is_id ? static_cast<u64>(timer.id) : timer.request.value};
    return info;
}

} // namespace

ProcessTimers::ProcessTimers(Process& owner)
    : process(&owner), real(real_expired, this), poll(poll_expired, this) {}

void ProcessTimers::real_expired(Timer&, void* raw) {
    auto& self = *static_cast<ProcessTimers*>(raw);
    {
        SpinGuard guard(self.lock);
        const u64 now = monotonic_ns();
        if (self.real_deadline == 0)
            return;
        if (self.real_interval != 0) {
            self.real_deadline += self.real_interval;
            if (self.real_deadline <= now) // missed some: they are one signal
                self.real_deadline =
                    now + self.real_interval - (now - self.real_deadline) % self.real_interval;
            const u64 earliest = now + least_period_ns;
            self.real.arm(self.real_deadline > earliest ? self.real_deadline : earliest);
        } else {
            self.real_deadline = 0;
        }
    }
    (void)send_signal_info(*self.process, kernel_signal(SIGALRM));
}

void ProcessTimers::poll_expired(Timer&, void* raw) {
    auto& self = *static_cast<ProcessTimers*>(raw);
    u32 due = 0;
    bool more = false;
    for (unsigned i = 0; i < 2; i++) {
        const u64 now = process_time(*self.process, i == 1);
        SpinGuard guard(self.lock);
        if (self.run_deadline[i] == 0)
            continue;
        if (now >= self.run_deadline[i]) {
            due |= u32{1} << i;
            self.run_deadline[i] = self.run_interval[i] != 0 ? now + self.run_interval[i] : 0;
        }
        more = more || self.run_deadline[i] != 0;
    }
    more = check_cpu_limit(*self.process) || more;
    if (more) {
        SpinGuard guard(self.lock);
        self.poll.arm(monotonic_ns() + run_time_poll_ns);
    }
    if ((due & 1) != 0)
        (void)send_signal_info(*self.process, kernel_signal(SIGVTALRM));
    if ((due & 2) != 0)
        (void)send_signal_info(*self.process, kernel_signal(SIGPROF));
}

void watch_cpu_limit(Process& process) {
    constexpr u64 most = no_deadline / nanoseconds_per_second;
    const ResourceLimit& limit = process.limits[RLIMIT_CPU];
    if (limit.soft >= most && limit.hard >= most)
        return;
    auto timers = timers_of(process);
    if (!timers)
        return; // without memory for it the limit goes unwatched
    SpinGuard guard((*timers)->lock);
    if (!(*timers)->poll.pending())
        (*timers)->poll.arm(monotonic_ns() + run_time_poll_ns);
}

TimerSetting get_interval_timer(Process& process, int which) {
    ProcessTimers* timers = process.timers;
    if (timers == nullptr)
        return {};
    const bool real = which == ITIMER_REAL;
    const u64 now = real ? monotonic_ns() : process_time(process, which == ITIMER_PROF);
    SpinGuard guard(timers->lock);
    const unsigned index = which == ITIMER_PROF ? 1 : 0;
    const u64 deadline = real ? timers->real_deadline : timers->run_deadline[index];
    const u64 interval = real ? timers->real_interval : timers->run_interval[index];
    if (deadline == 0)
        return {interval, 0};
    return {interval, deadline > now ? deadline - now : 1000}; // never 0 while armed
}

Result<TimerSetting> set_interval_timer(Process& process, int which, TimerSetting setting) {
    const TimerSetting old = get_interval_timer(process, which);
    if (process.timers == nullptr && setting.value_ns == 0)
        return old;
    TRY(ProcessTimers * timers, timers_of(process));
    if (which == ITIMER_REAL) {
        timers->real.cancel();
        SpinGuard guard(timers->lock);
        // Unlike the others' it is gone when the timer is disarmed.
        timers->real_interval = setting.value_ns != 0 ? setting.interval_ns : 0;
        timers->real_deadline =
            setting.value_ns != 0 ? saturating_add(monotonic_ns(), setting.value_ns) : 0;
        if (timers->real_deadline != 0)
            timers->real.arm(timers->real_deadline);
        return old;
    }
    const unsigned index = which == ITIMER_PROF ? 1 : 0;
    const u64 now = process_time(process, index == 1);
    SpinGuard guard(timers->lock);
    timers->run_interval[index] = setting.interval_ns;
    timers->run_deadline[index] = setting.value_ns != 0 ? saturating_add(now, setting.value_ns) : 0;
    if (setting.value_ns != 0 && !timers->poll.pending())
        timers->poll.arm(monotonic_ns() + (setting.value_ns < run_time_poll_ns ? setting.value_ns
                                                                               : run_time_poll_ns));
    return old;
}

// --- POSIX timers
// ------------------------------------------------------------------------------------------------

u32 PosixTimer::skip_periods(u64 now) {
    if (interval_ns == 0 || now < deadline_ns)
        return 0;
    const u64 periods = (now - deadline_ns) / interval_ns + 1;
    deadline_ns += periods * interval_ns;
    return periods > max_overrun ? max_overrun : static_cast<u32>(periods);
}

u64 PosixTimer::cpu_now() const {
    return is_cpu_clock(request.clock) ? now_of(cpu_clock, *process) : 0;
}

u64 PosixTimer::now_at(u64 cpu_ns) const {
    if (is_cpu_clock(request.clock))
        return cpu_ns;
    return on_wall_clock ? static_cast<u64>(realtime_ns()) : monotonic_ns();
}

void PosixTimer::arm_at(u64 when) {
    timer.arm(on_wall_clock ? wall_deadline(when) : when);
}

void PosixTimer::fire() {
    const u64 now = cpu_now();
    {
        SpinGuard guard(lock);
        // While a signal is queued nothing fires: what goes by is counted when it is taken.
        if (!armed || signal_queued)
            return;
        if (is_cpu_clock(request.clock) && now < deadline_ns) {
            arm_for_clock(now);
            return;
        }
        if (interval_ns == 0)
            armed = false;
        signal_queued = true;
    }
    if (!send())
        signal_dropped();
}

bool PosixTimer::send() {
    const SignalInfo info = timer_signal(*this);
    if (request.tid == 0)
        return static_cast<bool>(send_signal_info(*process, info, Ref<RefCounted>::share(this)));
    const Ref<Task> thread = find_task(request.tid);
    return thread && thread->process == process &&
           send_signal_info(*thread, SignalTarget::Thread, info, Ref<RefCounted>::share(this));
}

// A periodic timer goes on; returns how many periods were missed.
u32 PosixTimer::signal_taken() {
    const u64 cpu_ns = cpu_now();
    SpinGuard guard(lock);
    const u64 now = now_at(cpu_ns);
    signal_queued = false;
    const u32 periods = armed ? skip_periods(now) : 0;
    reported_overrun = periods > 0 ? periods - 1 : 0;
    if (!armed)
        return reported_overrun;
    if (is_cpu_clock(request.clock)) {
        arm_for_clock(now);
    } else {
        const u64 earliest = now + least_period_ns;
        arm_at(deadline_ns > earliest ? deadline_ns : earliest);
    }
    return reported_overrun;
}

// It is ignored: the timer goes on, at little cost, since the handler may change.
void PosixTimer::signal_dropped() {
    constexpr u64 ignored_period_ns = 10'000'000;
    SpinGuard guard(lock);
    signal_queued = false;
    if (armed)
        timer.arm(monotonic_ns() + ignored_period_ns);
}

void PosixTimer::arm_for_clock(u64 now) {
    // A process may run on several CPUs at once, and not at all.
    const u64 left = deadline_ns > now ? deadline_ns - now : 0;
    const u64 least = run_time_poll_ns / 10;
    timer.arm(monotonic_ns() + (left < least              ? least
                                : left > run_time_poll_ns ? run_time_poll_ns
                                                          : left));
}

// Only timers attach themselves as sources.
void finish_queued_signal(QueuedSignal& entry, SignalInfo& info) {
    if (!entry.source)
        return;
    info.timer.overrun = static_cast<i32>(static_cast<PosixTimer&>(*entry.source).signal_taken());
    entry.source = {};
}

void drop_queued_signal(QueuedSignal& entry) {
    if (entry.source)
        static_cast<PosixTimer&>(*entry.source).signal_dropped();
}

namespace {

// 0 for one that has ended: a timer on it stands still.
u64 now_of(const CpuClock& clock, Process& own) {
    if (clock.tid == 0) {
        const Ref<Process> other = clock.pid != 0 ? find_process(clock.pid) : Ref<Process>();
        if (clock.pid != 0 && !other)
            return 0;
        return process_time(other ? *other : own, !clock.user_only);
    }
    const Ref<Task> thread = find_task(clock.tid);
    if (!thread || thread->process != &own)
        return 0;
    const Process::Usage usage = task_usage(*thread);
    return usage.user_ns + (clock.user_only ? 0 : usage.system_ns);
}

// The caller's own by their names (and other clocks by none); those of others,
// clock_getcpuclockid(3): ~pid << 3 | kind, bit 2 for a thread; kind 0 PROF, 1 VIRT, 2 SCHED.
Result<CpuClock> find_cpu_clock(i32 clock) {
    CpuClock found;
    if (!is_cpu_clock(clock) || clock == CLOCK_PROCESS_CPUTIME_ID)
        return found;
    const i32 id = clock == CLOCK_THREAD_CPUTIME_ID ? 0 : ~(clock >> 3);
    const u32 kind = clock < 0 ? static_cast<u32>(clock) & 3 : 2;
    if (kind == 3)
        return fail(EINVAL);
    found.user_only = kind == 1;
    if (clock > 0 || (clock & 4) != 0) {
        const Ref<Task> thread =
            id == 0 ? Ref<Task>::share(arch::current()) : find_task(global_pid(id));
        if (!thread || thread->process != &current_process())
            return fail(EINVAL);
        found.tid = thread->tid;
    } else if (id != 0) {
        const Ref<Process> process = find_process(global_pid(id));
        if (!process)
            return fail(EINVAL);
        found.pid = process->pid;
    }
    return found;
}

Result<Ref<PosixTimer>> find_timer(i32 id) {
    ProcessTimers* timers = current_process().timers;
    if (timers == nullptr)
        return fail(EINVAL);
    SpinGuard guard(timers->lock);
    if (id < 0 || static_cast<usize>(id) >= timers->timers.size() ||
        !timers->timers[static_cast<usize>(id)])
        return fail(EINVAL);
    return Ref<PosixTimer>(timers->timers[static_cast<usize>(id)]);
}

void stop(PosixTimer& timer) {
    {
        SpinGuard guard(timer.lock);
        timer.armed = false;
    }
    timer.timer.cancel();
}

// Requires: lock.
TimerSetting setting_of(const PosixTimer& timer, u64 now) {
    if (!timer.armed)
        return {timer.interval_ns, 0};
    if (timer.deadline_ns > now)
        return {timer.interval_ns, timer.deadline_ns - now};
    if (timer.interval_ns != 0)
        return {timer.interval_ns,
                timer.interval_ns - (now - timer.deadline_ns) % timer.interval_ns};
    return {0, timer.request.notify == SIGEV_NONE ? u64{0} : u64{1}};
}

} // namespace

Result<i32> create_posix_timer(const PosixTimerRequest& request) {
    TRY(clock_now_ns(request.clock));
    if (!has_timers(request.clock))
        return fail(EOPNOTSUPP);
    TRY(const CpuClock cpu_clock, find_cpu_clock(request.clock));
    Process& process = current_process();
    if (request.notify != SIGEV_NONE && (request.signal < 1 || request.signal > signal_count))
        return fail(EINVAL);
    if (request.tid != 0) {
        const Ref<Task> thread = find_task(request.tid);
        if (!thread || thread->process != &process)
            return fail(EINVAL);
    }
    TRY(ProcessTimers * timers, timers_of(process));
    TRY(Ref<PosixTimer> timer, make_ref<PosixTimer>(process, request));
    timer->cpu_clock = cpu_clock;
    SpinGuard guard(timers->lock);
    usize id = 0;
    while (id < timers->timers.size() && timers->timers[id])
        id++;
    if (id >= static_cast<usize>(max_timers))
        return fail(EAGAIN);
    if (id == timers->timers.size())
        TRY(timers->timers.push_back(Ref<PosixTimer>()));
    timer->id = static_cast<i32>(id);
    timers->timers[id] = std::move(timer);
    return static_cast<i32>(id);
}

Result<TimerSetting> set_posix_timer(i32 id, TimerSetting setting, bool absolute) {
    TRY(Ref<PosixTimer> timer, find_timer(id));
    const i32 clock = timer->request.clock;
    TimerSetting old;
    {
        const u64 cpu_ns = timer->cpu_now();
        SpinGuard guard(timer->lock);
        old = setting_of(*timer, timer->now_at(cpu_ns));
    }
    stop(*timer);
    const u64 now = timer->cpu_now();
    SpinGuard guard(timer->lock);
    // One that is disarmed keeps no interval.
    timer->interval_ns = setting.value_ns != 0 ? setting.interval_ns : 0;
    timer->reported_overrun = 0;
    if (setting.value_ns == 0)
        return old;
    if (is_cpu_clock(clock)) {
        timer->deadline_ns = absolute ? setting.value_ns : saturating_add(now, setting.value_ns);
        timer->armed = true;
        if (timer->request.notify != SIGEV_NONE)
            timer->arm_for_clock(now);
        return old;
    }
    timer->on_wall_clock = absolute && is_wall_clock(clock);
    if (timer->on_wall_clock)
        timer->deadline_ns = to_wall_time(clock, setting.value_ns);
    else
        timer->deadline_ns = absolute ? without_clock_offset(clock, setting.value_ns)
                                      : saturating_add(monotonic_ns(), setting.value_ns);
    timer->armed = true;
    if (timer->request.notify != SIGEV_NONE)
        timer->arm_at(timer->deadline_ns);
    return old;
}

Result<TimerSetting> get_posix_timer(i32 id) {
    TRY(Ref<PosixTimer> timer, find_timer(id));
    const u64 cpu_ns = timer->cpu_now();
    SpinGuard guard(timer->lock);
    return setting_of(*timer, timer->now_at(cpu_ns));
}

Result<i32> posix_timer_overrun(i32 id) {
    TRY(Ref<PosixTimer> timer, find_timer(id));
    SpinGuard guard(timer->lock);
    return static_cast<i32>(timer->reported_overrun);
}

Result<void> delete_posix_timer(i32 id) {
    TRY(Ref<PosixTimer> timer, find_timer(id));
    {
        ProcessTimers& timers = *current_process().timers;
        Ref<PosixTimer> listed;
        SpinGuard guard(timers.lock);
        std::swap(listed, timers.timers[static_cast<usize>(id)]);
        guard.unlock();
    }
    stop(*timer);
    return {};
}

Result<void> list_posix_timers(Process& process, Vector<PosixTimerListing>& out) {
    SpinGuard tree(process_tree_lock()); // its end takes them away under it
    ProcessTimers* timers = process.timers;
    if (timers == nullptr)
        return {};
    SpinGuard guard(timers->lock);
    for (const Ref<PosixTimer>& timer : timers->timers)
        if (timer)
            TRY(out.push_back({timer->id, timer->request}));
    return {};
}

void delete_posix_timers(Process& process) {
    ProcessTimers* timers = process.timers;
    if (timers == nullptr)
        return;
    Vector<Ref<PosixTimer>> all;
    {
        SpinGuard guard(timers->lock);
        all = std::move(timers->timers);
    }
    for (Ref<PosixTimer>& timer : all)
        if (timer)
            stop(*timer);
}

void destroy_process_timers(Process& process) {
    ProcessTimers* timers = process.timers;
    if (timers == nullptr)
        return;
    delete_posix_timers(process);
    timers->real.cancel();
    timers->poll.cancel();
    {
        SpinGuard tree(process_tree_lock());
        process.timers = nullptr;
    }
    delete timers;
}

// --- clocks
// ---------------------------------------------------------------------------------------------------------

bool is_cpu_clock(i32 clock) {
    return clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID;
}

bool has_timers(i32 clock) {
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_TAI:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_BOOTTIME_ALARM:
        return true;
    default:
        return is_cpu_clock(clock);
    }
}

Result<u64> clock_now_ns(i32 clock) {
    if (clock < 0) {
        TRY(const CpuClock found, find_cpu_clock(clock));
        return now_of(found, current_process());
    }
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_REALTIME_ALARM:
        return static_cast<u64>(realtime_ns());
    case CLOCK_TAI:
        return static_cast<u64>(realtime_ns() + tai_offset() * i64{nanoseconds_per_second});
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM:
        return monotonic_ns() + static_cast<u64>(clock_offset_ns(clock));
    case CLOCK_PROCESS_CPUTIME_ID:
        return process_time(current_process(), true);
    case CLOCK_THREAD_CPUTIME_ID:
        return task_run_time(current_task());
    default:
        return fail(EINVAL);
    }
}

u64 deadline_on(i32 clock, u64 value_ns) {
    if (!is_wall_clock(clock))
        return without_clock_offset(clock, value_ns);
    return wall_deadline(to_wall_time(clock, value_ns));
}

} // namespace kernel
