#include "guestkernel/namespaces/namespaces.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/sched.h>
#include <linux/time.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/core/vdso.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/namespaces/uts_namespace.hpp"
#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/vdso/data.hpp"

namespace kernel {

constinit Namespaces* initial_namespaces = nullptr;

Namespaces::Namespaces() = default;
Namespaces::~Namespaces() = default;

Result<Ref<Namespaces>> Namespaces::clone() const {
    TRY(Ref<Namespaces> copy, make_ref<Namespaces>());
    copy->mount = mount;
    copy->uts = uts;
    copy->ipc = ipc;
    copy->net = net;
    copy->cgroup = cgroup;
    copy->pid_for_children = pid_for_children;
    copy->time = time;
    copy->time_for_children = time_for_children;
    return copy;
}

Result<void> init_namespaces() {
    TRY(Ref<UserNamespace> user,
        make_ref<UserNamespace>(Ref<UserNamespace>(), u32{0}, u32{0}, false, true));
    initial_user_namespace = user.get();
    TRY(Ref<Namespaces> first, make_ref<Namespaces>());
    TRY(first->uts, make_ref<UtsNamespace>(user, false));
    TRY(first->ipc, make_ref<IpcNamespace>(user, false));
    TRY(first->net, make_ref<NetNamespace>(user, false));
    net::register_protocols(); // which every stack has its part of
    TRY(first->net->start());
    TRY(first->cgroup, make_ref<CgroupNamespace>(user, false));
    TRY(first->pid_for_children, make_ref<PidNamespace>(user, Ref<PidNamespace>(), false));
    TRY(first->time, make_ref<TimeNamespace>(user, false));
    first->time->frozen.store(true);
    first->time_for_children = first->time;
    // They live as long as the kernel.
    (void)user.leak();
    initial_namespaces = first.leak();
    return {};
}

Namespaces* current_namespaces() {
    const Task& task = current_task();
    return task.namespaces ? task.namespaces.get() : initial_namespaces;
}

Ref<Namespaces> namespaces_of(Task& task) {
    SpinGuard guard(process_tree_lock());
    return task.namespaces;
}

namespace {

// A new namespace of a kind that begins empty.
template <typename T>
Result<Ref<T>> make_counted(NamespaceKind kind, const Ref<UserNamespace>& owner) {
    TRY(charge_namespace(kind, owner.get()));
    auto made = make_ref<T>(owner, true);
    if (!made)
        uncharge_namespace(kind, owner.get());
    return made;
}

} // namespace

Result<Ref<Namespaces>> unshare_namespaces(const Namespaces& from, u32 flags,
                                           const Credentials& who) {
    if (!who.capable_here(CAP_SYS_ADMIN))
        return fail(EPERM);
    const Ref<UserNamespace> owner = Ref<UserNamespace>::share(who.user_space());
    TRY(Ref<Namespaces> fresh, from.clone());
    if ((flags & CLONE_NEWUTS) != 0) {
        TRY(fresh->uts, copy_uts_namespace(*from.uts, owner));
    }
    if ((flags & CLONE_NEWIPC) != 0) {
        TRY(fresh->ipc, make_counted<IpcNamespace>(NamespaceKind::Ipc, owner));
    }
    if ((flags & CLONE_NEWNET) != 0) {
        TRY(fresh->net, make_counted<NetNamespace>(NamespaceKind::Net, owner));
        TRY(fresh->net->start());
    }
    if ((flags & CLONE_NEWCGROUP) != 0) {
        TRY(fresh->cgroup, make_counted<CgroupNamespace>(NamespaceKind::Cgroup, owner));
        SpinGuard tree(process_tree_lock());
        fresh->cgroup->root = current_task().cgroup;
    }
    if ((flags & CLONE_NEWPID) != 0) {
        if (from.pid_for_children.get() != current_task().process->pid_namespace.get())
            return fail(EINVAL); // pid_namespaces(7): once only
        TRY(fresh->pid_for_children, make_pid_namespace(from.pid_for_children.get(), owner));
    }
    if ((flags & CLONE_NEWTIME) != 0) {
        TRY(fresh->time_for_children, make_counted<TimeNamespace>(NamespaceKind::Time, owner));
        fresh->time_for_children->monotonic_offset_ns = from.time->monotonic_offset_ns;
        fresh->time_for_children->boottime_offset_ns = from.time->boottime_offset_ns;
    }
    return fresh;
}

i64 clock_offset_ns(i32 clock) {
    const Namespaces* own = current_namespaces();
    if (own == nullptr || own == initial_namespaces)
        return 0;
    switch (clock) {
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
        return own->time->monotonic_offset_ns;
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM:
        return own->time->boottime_offset_ns;
    default:
        return 0;
    }
}

u64 without_clock_offset(i32 clock, u64 value_ns) {
    const i64 offset = clock_offset_ns(clock);
    if (offset > 0 && static_cast<u64>(offset) > value_ns)
        return 0;
    const u64 shifted = value_ns - static_cast<u64>(offset);
    return offset < 0 && shifted < value_ns ? ~u64{0} : shifted;
}

bool offsets_after_exec() {
    const Namespaces* own = current_namespaces();
    return own != nullptr && (own->time_for_children->monotonic_offset_ns != 0 ||
                              own->time_for_children->boottime_offset_ns != 0);
}

Result<void> use_clock_offsets(AddressSpace& space, const TimeNamespace& target) {
    const Ref<File>& vdso = vdso_image().file;
    if (!vdso || (target.monotonic_offset_ns == 0 && target.boottime_offset_ns == 0))
        return {};
    struct Search {
        const File* file;
        u64 data_page;
    } search{vdso.get(), 0};
    space.for_each_mapping(
        [](const MappingInfo& mapping, void* context) {
            auto& wanted = *static_cast<Search*>(context);
            if (mapping.file.get() != wanted.file || mapping.offset != 0)
                return true;
            wanted.data_page = mapping.start.raw();
            return false;
        },
        &search, false);
    if (search.data_page == 0)
        return {};
    const u32 on = 1;
    const VirtAddr place(search.data_page + __builtin_offsetof(vdso::Data, asks_kernel));
    if (space.write_foreign(place, &on, sizeof on) != sizeof on)
        return fail(ENOMEM);
    return {};
}

Result<void> enter_time_namespace_for_exec(Task& task) {
    const Namespaces* own = task.namespaces.get();
    if (own == nullptr || own->time == own->time_for_children)
        return {};
    TRY(Ref<Namespaces> fresh, own->clone());
    fresh->time = fresh->time_for_children;
    fresh->time->frozen.store(true);
    SpinGuard guard(process_tree_lock());
    std::swap(task.namespaces, fresh);
    guard.unlock();
    return {};
}

} // namespace kernel
