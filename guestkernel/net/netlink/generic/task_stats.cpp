// TASKSTATS: what threads and processes have used, for whoever asks (iotop, getdelays), and of each
// that ends, for whoever accounts.
#include <linux/acct.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/taskstats.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/procfs/table_fs.hpp"
#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/net/netlink/generic/generic.hpp"
#include "guestkernel/sched/scheduler.hpp"
#include "guestkernel/task/credentials.hpp"
#include "guestkernel/task/exit_observer.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u64 ns_per_us = 1000, ns_per_second = 1'000'000'000, kib_per_page = page_size / 1024;

u64 since(u64 start_ns) {
    const u64 now = monotonic_ns();
    return now > start_ns ? now - start_ns : 0;
}

void count_switches(taskstats& out, u64 voluntary, u64 involuntary) {
    out.nvcsw += voluntary;
    out.nivcsw += involuntary;
    out.cpu_count += voluntary + involuntary; // how often it got the CPU
}

void put_times(taskstats& out, const Process::Usage& usage, u64 run_ns, u64 waited_ns) {
    out.ac_utime = out.ac_utimescaled = usage.user_ns / ns_per_us;
    out.ac_stime = out.ac_stimescaled = usage.system_ns / ns_per_us;
    out.cpu_run_real_total = out.cpu_scaled_run_real_total = usage.user_ns + usage.system_ns;
    out.cpu_run_virtual_total = run_ns;
    out.cpu_delay_total = waited_ns;
}

// Its program as the device and number of the file (version 12), and what memory it takes.
void put_memory(taskstats& out, AddressSpace& space) {
    const AddressSpace::Usage usage = space.usage();
    out.hiwater_rss = usage.peak_resident * kib_per_page;
    out.hiwater_vm = usage.peak_virtual * kib_per_page;
    const Ref<File> file = space.program();
    if (!file || file->inode() == nullptr)
        return;
    const Inode& program = *file->inode();
    out.ac_exe_inode = program.number();
    out.ac_exe_dev = program.superblock() == nullptr ? 0 : program.superblock()->device_number;
}

void put_begin(taskstats& out, const Process& process, const Task& task) {
    const u64 age = since(task.start_time_ns);
    out.ac_etime = age / ns_per_us;
    out.ac_btime64 = (static_cast<u64>(realtime_ns()) - age) / ns_per_second;
    out.ac_btime = static_cast<u32>(out.ac_btime64);
    out.ac_tgetime = since(process.start_time_ns) / ns_per_us;
}

// A thread, as the reader's namespaces have it.
void describe_thread(taskstats& out, Task& task, const PidNamespace* pids,
                     const UserNamespace* users) {
    Process& process = *task.process;
    out.version = TASKSTATS_VERSION;
    const Ref<const Credentials> who = credentials_of(task);
    if (who) {
        out.ac_uid = from_global_id(users, false, who->uid);
        out.ac_gid = from_global_id(users, true, who->gid);
    }
    Process::Usage usage;
    {
        SpinGuard tree(process_tree_lock());
        usage = task_usage(task);
        out.ac_pid = static_cast<u32>(pid_in(pids, task.tid));
        out.ac_tgid = static_cast<u32>(pid_in(pids, process.pid));
        const i32 parent = process.parent != nullptr ? process.parent->pid : 0;
        out.ac_ppid = static_cast<u32>(pid_in(pids, parent));
        if (task.tid == process.pid && !process.has_executed)
            out.ac_flag |= AFORK;
    }
    put_times(out, usage, task_run_time(task), task.waited_ns);
    count_switches(out, usage.voluntary_switches, usage.involuntary_switches);
    put_begin(out, process, task);
    out.ac_nice = static_cast<u8>(task.nice);
    out.ac_sched = static_cast<u8>(task.policy);
    __builtin_memcpy(out.ac_comm, task.name, sizeof task.name);
    out.ac_minflt = usage.minor_faults;
    out.ac_majflt = usage.major_faults;
    out.read_char = usage.read_bytes;
    out.write_char = usage.written_bytes;
    out.read_syscalls = usage.reads;
    out.write_syscalls = usage.writes;
    if (const Ref<AddressSpace> space = address_space_of(task))
        put_memory(out, *space);
}

// A process: of what it says Linux fills in these. Threads that ended no longer tell how long they
// waited for a CPU.
void describe_process(taskstats& out, Process& process) {
    SpinGuard tree(process_tree_lock());
    out.version = TASKSTATS_VERSION;
    const Process::Usage usage = process.usage();
    u64 run_ns = 0, waited_ns = 0;
    for (Task& task : process.tasks) {
        run_ns += task_run_time(task);
        waited_ns += task.waited_ns;
    }
    run_ns += process.ended_threads.user_ns + process.ended_threads.system_ns;
    put_times(out, usage, run_ns, waited_ns);
    count_switches(out, usage.voluntary_switches, usage.involuntary_switches);
    out.ac_etime = since(process.start_time_ns) / ns_per_us;
}

void put_stats(MessageWriter& out, u16 aggregate, u16 kind, u32 number, const taskstats& stats) {
    const usize opened = out.open(aggregate);
    out.number32(kind, number);
    out.attribute(TASKSTATS_TYPE_STATS, &stats, sizeof stats);
    out.close(opened);
}

extern GenericFamily task_stats_family;

// --- who wants to hear of the ends

struct Listener {
    u32 port;
    u64 cpus;
};
constinit SpinLock listeners_lock{LockRank::Leaf};
constinit Vector<Listener> listeners; // ports of the initial network namespace
constinit base::Atomic<usize> listener_count{0};

Result<void> listen(u32 port, u64 cpus) {
    SpinGuard guard(listeners_lock);
    for (Listener& listener : listeners) {
        if (listener.port == port) {
            listener.cpus |= cpus;
            return {};
        }
    }
    TRY(listeners.push_back({port, cpus}));
    listener_count.store(listeners.size());
    return {};
}

void stop_listening(u32 port, u64 cpus) {
    SpinGuard guard(listeners_lock);
    for (usize i = 0; i < listeners.size(); i++) {
        if (listeners[i].port != port)
            continue;
        listeners[i].cpus &= ~cpus;
        if (listeners[i].cpus == 0) {
            listeners[i] = listeners[listeners.size() - 1];
            listeners.pop_back();
        }
        break;
    }
    listener_count.store(listeners.size());
}

void released(Endpoint& endpoint) {
    if (listener_count.load() != 0 && &endpoint.stack() == &stack_of(nullptr))
        stop_listening(endpoint.port(), ~u64{0});
}

// True: there is an `index`th one; `port` is zero when this CPU does not concern it.
bool listener_at(usize index, u64 cpu_bit, u32& port) {
    SpinGuard guard(listeners_lock);
    if (index >= listeners.size())
        return false;
    port = (listeners[index].cpus & cpu_bit) != 0 ? listeners[index].port : 0;
    return true;
}

// Linux tells of the process when it ever had more threads than one.
bool had_threads(Process& process) {
    SpinGuard tree(process_tree_lock());
    usize left = 0;
    for ([[maybe_unused]] const Task& task : process.tasks)
        left++;
    return left > 1 || process.ended_threads.user_ns + process.ended_threads.system_ns > 0;
}

void thread_ends(Task& task, bool last) {
    if (listener_count.load() == 0)
        return;
    Process& process = *task.process;
    taskstats stats{};
    describe_thread(stats, task, nullptr, nullptr);
    stats.ac_exitcode = task.exit_status;
    constexpr u32 signal_bits = 0x7f, core_bit = 0x80; // wait(2)
    if ((task.exit_status & signal_bits) != 0)
        stats.ac_flag |= AXSIG;
    if ((task.exit_status & core_bit) != 0)
        stats.ac_flag |= ACORE;
    if (last)
        stats.ac_flag |= AGROUP;
    MessageWriter out;
    out.begin(task_stats_family.id, 0, 0, 0);
    out.put(GenericHeader{TASKSTATS_CMD_NEW, TASKSTATS_GENL_VERSION, 0});
    put_stats(out, TASKSTATS_TYPE_AGGR_PID, TASKSTATS_TYPE_PID, stats.ac_pid, stats);
    if (last && had_threads(process)) {
        taskstats whole{};
        describe_process(whole, process);
        put_stats(out, TASKSTATS_TYPE_AGGR_TGID, TASKSTATS_TYPE_TGID, stats.ac_tgid, whole);
    }
    if (!out.end())
        return; // no memory: nobody waits for it
    const u64 cpu_bit = u64{1} << (task.cpu % 64);
    u32 port = 0;
    for (usize i = 0; listener_at(i, cpu_bit, port); i++)
        if (port != 0)
            (void)unicast(stack_of(nullptr), protocol_generic, port, out.bytes());
}

// --- requests

Result<u64> cpus_of(const Attribute& list) {
    TRY(const u64 cpus, parse_list(list.text()));
    const unsigned count = arch::cpu_count();
    if (cpus == 0 || (count < 64 && cpus >> count != 0))
        return fail(EINVAL);
    return cpus;
}

Result<void> change_listener(Request& request, const Attribute& list, bool listens) {
    const Credentials& who = *current_task().credentials;
    if (!is_initial(who.user_ns.get()) || current_pid_namespace() != nullptr ||
        &request.stack() != &stack_of(nullptr))
        return fail(EINVAL); // all see the numbers of the initial namespaces
    TRY(const u64 cpus, cpus_of(list));
    if (listens)
        return listen(request.sender().port(), cpus);
    stop_listening(request.sender().port(), cpus);
    return {};
}

Result<void> answer(Request& request, u16 aggregate, u16 kind, u32 number, const taskstats& stats) {
    MessageWriter out;
    request.begin(out, task_stats_family.id);
    out.put(GenericHeader{TASKSTATS_CMD_NEW, TASKSTATS_GENL_VERSION, 0});
    put_stats(out, aggregate, kind, number, stats);
    if (!out.end())
        return fail(ENOMEM);
    return request.reply(out);
}

Result<void> tell(Request& request) {
    if (!capable(CAP_NET_ADMIN)) // the machine's, not the network's
        return fail(EPERM);
    AttributeTable<TASKSTATS_CMD_ATTR_MAX + 1> attributes;
    constexpr AttributePolicy policy[] = {
        {},
        {AttributeKind::Number32, 0},
        {AttributeKind::Number32, 0},
        {AttributeKind::Text, 0xfff},
        {AttributeKind::Text, 0xfff},
    };
    TRY(attributes.parse(request.attributes_after<GenericHeader>(), policy, request.strict(),
                         request.ack));
    if (const Attribute* list = attributes[TASKSTATS_CMD_ATTR_REGISTER_CPUMASK])
        return change_listener(request, *list, true);
    if (const Attribute* list = attributes[TASKSTATS_CMD_ATTR_DEREGISTER_CPUMASK])
        return change_listener(request, *list, false);
    taskstats stats{};
    const Credentials& reader = *current_task().credentials;
    if (attributes[TASKSTATS_CMD_ATTR_PID] != nullptr) {
        const u32 number = attributes.number(TASKSTATS_CMD_ATTR_PID);
        const Ref<Task> task = find_task(global_pid(static_cast<i32>(number)));
        if (!task || task->process == nullptr)
            return fail(ESRCH);
        describe_thread(stats, *task, current_pid_namespace(), reader.user_ns.get());
        return answer(request, TASKSTATS_TYPE_AGGR_PID, TASKSTATS_TYPE_PID, number, stats);
    }
    if (attributes[TASKSTATS_CMD_ATTR_TGID] != nullptr) {
        const u32 number = attributes.number(TASKSTATS_CMD_ATTR_TGID);
        const Ref<Process> process = find_process(global_pid(static_cast<i32>(number)));
        if (!process)
            return fail(ESRCH);
        describe_process(stats, *process);
        return answer(request, TASKSTATS_TYPE_AGGR_TGID, TASKSTATS_TYPE_TGID, number, stats);
    }
    return fail(EINVAL);
}

constexpr GenericOperation operations[] = {
    {.command = TASKSTATS_CMD_GET, .administrator = true, .handle = tell},
};
constinit GenericFamily task_stats_family = {.name = TASKSTATS_GENL_NAME,
                                             .version = TASKSTATS_GENL_VERSION,
                                             .operations = operations,
                                             .released = released};

} // namespace

void start_task_stats() {
    if (task_stats_family.id == 0) // a test begins anew
        register_generic_family(task_stats_family);
    exit_observer = thread_ends;
}

} // namespace kernel::net::netlink
