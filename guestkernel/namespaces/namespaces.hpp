// The namespaces of a task, but for those of users (its credentials have it) and of its own pid
// (its process has it).
#pragma once

#include "guestkernel/namespaces/namespace.hpp"

namespace kernel {

class Task;
class AddressSpace;
class MountNamespace;
class PidNamespace;
struct Credentials;

struct Namespaces : RefCounted {
    Namespaces();
    ~Namespaces() override;
    Ref<MountNamespace> mount;
    Ref<UtsNamespace> uts;
    Ref<IpcNamespace> ipc;
    Ref<NetNamespace> net;
    Ref<CgroupNamespace> cgroup;
    Ref<PidNamespace> pid_for_children;
    Ref<TimeNamespace> time, time_for_children;
    Result<Ref<Namespaces>> clone() const;
};

// Called by the boot code before the root is mounted.
Result<void> init_namespaces();
// The running task's; null in unit tests and before boot made the first.
Namespaces* current_namespaces();
extern Namespaces* initial_namespaces;
inline NetNamespace* current_net_namespace() {
    const Namespaces* own = current_namespaces();
    return own == nullptr ? nullptr : own->net.get();
}
Ref<Namespaces> namespaces_of(Task& task);

// New ones of the kinds in `flags` (CLONE_NEW*, not CLONE_NEWUSER), owned by the user namespace of
// `who`. The mount namespace's places are the caller's to adjust: see MountNamespace. EPERM.
Result<Ref<Namespaces>> unshare_namespaces(const Namespaces& from, u32 flags,
                                           const Credentials& who);
// unshare(2) and setns(2) of the running task.
Result<void> unshare(u32 flags);
Result<void> enter_namespaces(int fd, u32 flags);
// What the running task's time namespace adds to a monotonic clock (CLOCK_*), and takes from an
// absolute time that the task gives.
i64 clock_offset_ns(i32 clock);
u64 without_clock_offset(i32 clock, u64 value_ns);
// Whether a program that is executed now will live with such offsets: the vDSO knows of none.
bool offsets_after_exec();
// A program that enters `target` without an execve: the vDSO that it has mapped knows nothing of
// offsets, and goes by the kernel from here on.
Result<void> use_clock_offsets(AddressSpace& space, const TimeNamespace& target);
// A process that runs another program enters the time namespace of its children.
Result<void> enter_time_namespace_for_exec(Task& task);

} // namespace kernel
