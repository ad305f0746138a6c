// Unit tests have no control groups: every task is in the root, and nobody is charged.
#include <asm/errno.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/cgroup/cpu_group.hpp"
#include "guestkernel/cgroup/cpuset.hpp"
#include "guestkernel/cgroup/io.hpp"
#include "guestkernel/cgroup/pressure.hpp"
#include "guestkernel/cgroup/view.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/mm/memory_group.hpp"

namespace kernel {

bool charge_frames(u16, u64, bool, Charge) {
    return true;
}
void uncharge_frames(u16, u64, FrameKind) {}
void note_frame_kind(u16, FrameKind, i64) {}
void give_back_charge(u16, u64) {}
MemoryGroup* memory_group_by_number(u16) {
    return nullptr;
}
void note_memory_event(MemoryGroup&, MemoryEvent) {}
void kill_members(Cgroup&, KillMembers) {}
void join_root_cgroup_locked() {}
void leave_cgroup_locked(Task&, bool) {}
void reap_from_cgroup_locked(Process&) {}
bool memory_protected(u16, bool) {
    return false;
}
bool memory_groups_exist() {
    return false;
}
u64 memory_group_kind(const MemoryGroup&, FrameKind) {
    return 0;
}

// Never made; UBSan asks for the type's name where it is used.
CpuGroup::~CpuGroup() = default;
Cgroup::~Cgroup() = default;

Mutex& hierarchy_mutex() {
    static Mutex mutex;
    return mutex;
}
Ref<Cgroup> cgroup_of(Task&) {
    return {};
}
Ref<Cgroup> cgroup_of(MemoryGroup&) {
    return {};
}
Result<Ref<Cgroup>> cgroup_of_file(File&) {
    return fail(EBADF);
}
Result<void> check_cgroup_entry(Cgroup&, Cgroup&) {
    return {};
}
Result<void> plan_fork(ForkPlan&, Ref<Cgroup>) {
    return {};
}
void cancel_fork(ForkPlan&) {}
Result<void> join_cgroup_locked(Task&, ForkPlan&) {
    return {};
}
u64 allowed_by_cpuset(Task&, u64 wanted) {
    return wanted;
}

void count_runnable(Task&, unsigned) {}
void uncount_runnable(Task&, unsigned) {}
u64 share_of_groups(const Task&, unsigned, u64 weighted_ns) {
    return weighted_ns;
}
void account_groups(Task&, u64, u64) {}
void note_group_waited(Task&, unsigned, u64) {}
u64 bandwidth_left_ns(const Task&) {
    return no_deadline;
}

void charge_io(u64, bool, u64) {}
PressureStall::PressureStall(PressureKind kind) : kind_(kind) {}
PressureStall::~PressureStall() = default;

ResourceView resource_view(bool) {
    return {};
}

namespace procfs {
Result<void> show_cgroup(TextBuilder&, const TableContext&) {
    return {};
}
Result<void> show_cgroups(TextBuilder&, const TableContext&) {
    return {};
}
constinit const TableEntry pressure_entries[3] = {};
} // namespace procfs

Result<void> append_shown_group(String&, Inode&) {
    return fail(EINVAL);
}
Result<Ref<Superblock>> make_cgroupfs() {
    return fail(ENODEV);
}

} // namespace kernel
