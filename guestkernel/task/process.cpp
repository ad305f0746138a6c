#include "guestkernel/task/process.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/resource.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/fs/landlock.hpp"

namespace kernel {

constinit Process* kernel_init_process = nullptr;

namespace {
base::Atomic<u64> serials{0};
}

Process::Process(i32 number) : pid(number), serial(serials.fetch_add(1) + 1), own_pid(number) {}

Process::~Process() {
    ASSERT(tasks.empty() && children.empty() && !group);
}

Result<Ref<Process>> allocate_process(i32 pid) {
    TRY(Ref<Process> process, make_ref<Process>(pid));
    process->start_time_ns = monotonic_ns();
    return process;
}

i32 Process::group_id() const {
    return group ? group->id : 0;
}

i32 Process::session_id() const {
    return group ? group->session->id : 0;
}

void Process::join_group(Ref<ProcessGroup> fresh) {
    if (group)
        group_node.unlink();
    if (group && group->members.empty() && group != fresh)
        remove_group_locked(*group); // over, whoever still has it
    group = std::move(fresh);
    if (group)
        group->members.push_back(*this);
}

void Process::Usage::add(const Usage& other) {
    user_ns += other.user_ns;
    system_ns += other.system_ns;
    minor_faults += other.minor_faults;
    major_faults += other.major_faults;
    voluntary_switches += other.voluntary_switches;
    involuntary_switches += other.involuntary_switches;
    read_bytes += other.read_bytes;
    written_bytes += other.written_bytes;
    reads += other.reads;
    writes += other.writes;
    peak_pages = peak_pages > other.peak_pages ? peak_pages : other.peak_pages;
}

Process::Usage task_usage(Task& task) {
    Process::Usage usage;
    const u64 ran = task_run_time(task);
    usage.system_ns = task.system_time_ns < ran ? task.system_time_ns : ran;
    usage.user_ns = ran - usage.system_ns;
    usage.minor_faults = task.minor_faults;
    usage.major_faults = task.major_faults;
    usage.voluntary_switches = task.voluntary_switches;
    usage.involuntary_switches = task.involuntary_switches;
    usage.read_bytes = task.read_bytes;
    usage.written_bytes = task.written_bytes;
    usage.reads = task.reads;
    usage.writes = task.writes;
    return usage;
}

Process::Usage Process::usage() {
    Usage sum = ended_threads;
    for (Task& task : tasks)
        sum.add(task_usage(task));
    return sum;
}

u32 max_tasks() {
    // Kernel stacks may take an eighth of memory.
    static u32 limit = 0;
    if (limit == 0) {
        const u64 stacks = memory_stats().total * page_size / 8 / arch::kernel_stack_size;
        limit = static_cast<u32>(stacks < 128 ? 128 : stacks > 4'000'000 ? 4'000'000 : stacks);
    }
    return limit;
}

void set_credentials(Ref<const Credentials> fresh) {
    Task& task = current_task();
    SpinGuard guard(process_tree_lock());
    std::swap(task.credentials, fresh);
    guard.unlock();
} // the old ones are dropped here, without the lock

u32 visible_uid(u32 global) {
    return from_global_id(current_task().credentials->user_ns.get(), false, global);
}

u32 uid_for_locked(Process& reader, u32 global) {
    const Task* first = reader.first_task();
    return first != nullptr && first->credentials
               ? from_global_id(first->credentials->user_ns.get(), false, global)
               : global;
}

bool shares_places_locked(const Task& task, Among among) {
    bool shared = false;
    for_each_process_locked([&](Process& process) {
        if (among == Among::AllTasks || &process != task.process)
            for (const Task& other : process.tasks)
                shared = shared || (&other != &task && other.fs == task.fs);
    });
    return shared;
}

bool shares_places(const Task& task, Among among) {
    // One reference is its own: the common case needs no look at everybody.
    if (task.fs->ref_count() == 1)
        return false;
    SpinGuard tree(process_tree_lock());
    return shares_places_locked(task, among);
}

bool may_signal_locked(Task& target, int signal) {
    const Task& self = current_task();
    if (target.process == self.process)
        return true;
    constexpr int sigcont = 18;
    const Credentials* other = target.credentials.get();
    if (other == nullptr)
        return false;
    const Credentials& own = *self.credentials;
    if (capable_in(own, other->user_space(), CAP_KILL))
        return true;
    if (own.euid == other->suid || own.euid == other->uid || own.uid == other->suid ||
        own.uid == other->uid)
        return true;
    return signal == sigcont && target.process->session_id() == self.process->session_id();
}

bool may_signal(Task& target, int signal) {
    SpinGuard guard(process_tree_lock());
    return may_signal_locked(target, signal);
}

// Who comes into a user namespace with a program from outside keeps its members out of its memory
// by not being dumpable, whatever they may do there.
bool memory_closed(Process& process, const Credentials& own) {
    Ref<UserNamespace> space;
    {
        SpinGuard guard(process_tree_lock());
        if (process.dumpable)
            return false;
        space = process.memory_space;
    }
    return !capable_in(own, space ? space.get() : initial_user_namespace, CAP_SYS_PTRACE);
}

namespace {

// ptrace(2), "Ptrace access mode checking", with these of the running task's ids and capabilities.
bool may_reach(Task& target, u32 uid, u32 gid, u64 capabilities) {
    if (!landlock_may_access(target))
        return false;
    const Ref<const Credentials> other = credentials_of(target);
    if (!other)
        return false;
    const Credentials& own = *current_task().credentials;
    const bool same = uid == other->uid && uid == other->euid && uid == other->suid &&
                      gid == other->gid && gid == other->egid && gid == other->sgid;
    // Nobody becomes more powerful than he is by what he looks into (capabilities(7)).
    const bool weaker =
        other->user_space() == own.user_space() && (other->cap_permitted & ~capabilities) == 0;
    if (!(same && weaker) && !capable_in(own, other->user_space(), CAP_SYS_PTRACE))
        return false;
    return !memory_closed(*target.process, own);
}

} // namespace

bool may_access(Task& target) {
    const Task& self = current_task();
    if (target.process == self.process)
        return true;
    const Credentials& own = *self.credentials;
    return may_reach(target, own.fsuid, own.fsgid, own.cap_effective);
}

bool may_attach(Task& target) {
    const Credentials& own = *current_task().credentials;
    return may_reach(target, own.uid, own.gid, own.cap_permitted);
}

bool capable(unsigned capability) {
    const Ref<const Credentials>& credentials = current_task().credentials;
    return !credentials || credentials->capable(capability); // kernel tasks may do anything
}

bool capable_over(const UserNamespace* space, unsigned capability) {
    const Ref<const Credentials>& credentials = current_task().credentials;
    return !credentials || capable_in(*credentials, space, capability);
}

bool capable_here(unsigned capability) {
    const Ref<const Credentials>& credentials = current_task().credentials;
    return !credentials || credentials->capable_here(capability);
}

u64 current_limit(unsigned resource) {
    const Process* process = current_task().process;
    return process == nullptr || resource >= resource_limit_count ? ~u64{0}
                                                                  : process->limits[resource].soft;
}

bool Credentials::in_group(u32 group) const {
    if (group == fsgid)
        return true;
    for (const u32 other : groups)
        if (other == group)
            return true;
    return false;
}

Result<Ref<Credentials>> Credentials::clone() const {
    TRY(Ref<Credentials> copy, make_ref<Credentials>());
    copy->uid = uid, copy->euid = euid, copy->suid = suid, copy->fsuid = fsuid;
    copy->gid = gid, copy->egid = egid, copy->sgid = sgid, copy->fsgid = fsgid;
    TRY(copy->groups.append(groups.span()));
    copy->cap_permitted = cap_permitted, copy->cap_effective = cap_effective;
    copy->cap_inheritable = cap_inheritable, copy->cap_bounding = cap_bounding;
    copy->cap_ambient = cap_ambient;
    copy->securebits = securebits;
    copy->user_ns = user_ns;
    return copy;
}

} // namespace kernel
