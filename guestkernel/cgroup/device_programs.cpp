#include "guestkernel/cgroup/device_programs.hpp"

#include <linux/bpf.h>
#include <linux/errno.h>

#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr usize most_programs = 64; // of a group (Linux: BPF_CGROUP_MAX_PROGS)
constexpr u32 sharing_flags = BPF_F_ALLOW_OVERRIDE | BPF_F_ALLOW_MULTI;

SpinLock programs_lock{LockRank::Leaf}; // of `programs` and of Cgroup::devices
base::IntrusiveList<DeviceProgram, &DeviceProgram::node> all_programs;
constinit u32 last_id = 0;
// Groups that have programs: nobody asks while there are none.
base::Atomic<u32> groups_with_programs{0};

u32 take_id() {
    SpinGuard guard(programs_lock);
    return ++last_id;
}

Ref<DevicePrograms> programs_of(Cgroup& group) {
    SpinGuard guard(programs_lock);
    return Ref<DevicePrograms>::share(group.devices);
}

bool is_shared(const DevicePrograms& list) {
    return (list.flags & BPF_F_ALLOW_MULTI) != 0;
}

// The nearest group above that has programs says whether those below it may have their own.
bool attachable_below(Cgroup& group) {
    for (Cgroup* at = group.parent.get(); at != nullptr; at = at->parent.get())
        if (const Ref<DevicePrograms> list = programs_of(*at))
            return (list->flags & sharing_flags) != 0;
    return true;
}

void exchange_programs(Cgroup& group, Ref<DevicePrograms> list) {
    const bool some = static_cast<bool>(list);
    Ref<DevicePrograms> old; // dropped without the lock
    {
        SpinGuard guard(programs_lock);
        old = Ref<DevicePrograms>::adopt(std::exchange(group.devices, list.leak()));
    }
    if (some && !old)
        groups_with_programs.fetch_add(1);
    if (!some && old)
        groups_with_programs.fetch_sub(1);
}

// Calls `ask` with each program that decides about members of the group, the nearest first, until
// one says false. Those of groups above decide as well where they are shared.
template <typename F>
void for_each_effective(Cgroup& group, F&& ask) {
    bool found = false;
    for (Cgroup* at = &group; at != nullptr; at = at->parent.get()) {
        const Ref<DevicePrograms> list = programs_of(*at);
        if (!list || (found && !is_shared(*list)))
            continue;
        found = true;
        for (const Ref<DeviceProgram>& program : list->programs)
            if (!ask(program))
                return;
    }
}

} // namespace

DeviceProgram::DeviceProgram(Vector<EbpfInstruction> code,
                             std::span<const char, name_size> program_name, u32 user)
    : id(take_id()), instructions(std::move(code)), maker(user), made(monotonic_ns()) {
    __builtin_memcpy(name, program_name.data(), name_size);
    SpinGuard guard(programs_lock);
    all_programs.push_back(*this);
}

DeviceProgram::~DeviceProgram() = default;

void DeviceProgram::last_reference() {
    {
        SpinGuard guard(programs_lock);
        node.unlink();
    }
    delete this;
}

bool device_context_rule(i32 offset, u32 size) {
    if (offset < 0 || offset % static_cast<i32>(size) != 0 ||
        static_cast<u32>(offset) + size > sizeof(bpf_cgroup_dev_ctx))
        return false;
    // The first member holds two halves that may be loaded alone.
    return size == sizeof(u32) ||
           (size < sizeof(u32) && static_cast<u32>(offset) + size <= sizeof(u32));
}

Ref<DeviceProgram> find_device_program(u32 id) {
    SpinGuard guard(programs_lock);
    for (DeviceProgram& program : all_programs)
        if (program.id == id && program.try_add_ref())
            return Ref<DeviceProgram>::adopt(&program);
    return {};
}

u32 next_device_program(u32 id) {
    SpinGuard guard(programs_lock);
    u32 next = 0;
    for (DeviceProgram& program : all_programs)
        if (program.id > id && (next == 0 || program.id < next))
            next = program.id;
    return next;
}

Result<void> attach_device_program(Cgroup& group, Ref<DeviceProgram> program, u32 flags,
                                   const DeviceProgram* replaced) {
    MutexGuard guard(hierarchy_mutex());
    if (group.dead)
        return fail(ENOENT);
    if (!attachable_below(group))
        return fail(EPERM);
    const Ref<DevicePrograms> old = programs_of(group);
    const u32 sharing = flags & sharing_flags;
    if (old && old->flags != sharing)
        return fail(EPERM);
    TRY(Ref<DevicePrograms> list, make_ref<DevicePrograms>());
    list->flags = sharing;
    const bool several = (sharing & BPF_F_ALLOW_MULTI) != 0;
    bool placed = false;
    if (old && several)
        for (const Ref<DeviceProgram>& known : old->programs) {
            if (known == program && known.get() != replaced)
                return fail(EINVAL);
            const bool here = known.get() == replaced;
            TRY(list->programs.push_back(here ? program : known));
            placed |= here;
        }
    if (replaced != nullptr && !placed)
        return fail(ENOENT);
    if (!placed) {
        if (list->programs.size() >= most_programs)
            return fail(E2BIG);
        TRY(list->programs.push_back(std::move(program)));
    }
    exchange_programs(group, std::move(list));
    return {};
}

Result<void> detach_device_program(Cgroup& group, const DeviceProgram* program) {
    MutexGuard guard(hierarchy_mutex());
    const Ref<DevicePrograms> old = programs_of(group);
    if (old && !is_shared(*old)) {
        exchange_programs(group, {});
        return {};
    }
    if (!old)
        return fail(ENOENT);
    if (program == nullptr)
        return fail(EINVAL);
    TRY(Ref<DevicePrograms> list, make_ref<DevicePrograms>());
    list->flags = old->flags;
    for (const Ref<DeviceProgram>& known : old->programs)
        if (known.get() != program)
            TRY(list->programs.push_back(known));
    if (list->programs.size() == old->programs.size())
        return fail(ENOENT);
    exchange_programs(group, list->programs.empty() ? Ref<DevicePrograms>() : std::move(list));
    return {};
}

Result<void> list_device_programs(Cgroup& group, bool effective,
                                  Vector<Ref<DeviceProgram>>& programs, u32& flags) {
    const Ref<DevicePrograms> own = programs_of(group);
    flags = own && !effective ? own->flags : 0;
    if (!effective)
        return own ? programs.append(own->programs.span()) : Result<void>();
    Result<void> done;
    for_each_effective(group, [&](const Ref<DeviceProgram>& program) {
        done = programs.push_back(program);
        return static_cast<bool>(done);
    });
    return done;
}

void forget_device_programs(Cgroup& group) {
    exchange_programs(group, {});
}

bool device_programs_exist() {
    return groups_with_programs.load(base::Order::Relaxed) != 0;
}

Result<void> check_device_programs(u32 mode, u64 device_number, u32 may, bool make) {
    if (!device_programs_exist())
        return {};
    u32 access = make ? u32{BPF_DEVCG_ACC_MKNOD} : 0;
    access |= (may & may_read) != 0 ? u32{BPF_DEVCG_ACC_READ} : 0;
    access |= (may & may_write) != 0 ? u32{BPF_DEVCG_ACC_WRITE} : 0;
    const u32 type = (mode & mode_type) == mode_block ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR;
    bpf_cgroup_dev_ctx context{};
    context.access_type = access << 16 | type;
    context.major = device_major(device_number);
    context.minor = device_minor(device_number);
    const Ref<Cgroup> group = cgroup_of(current_task());
    if (!group)
        return {};
    bool allowed = true;
    for_each_effective(*group, [&](const Ref<DeviceProgram>& program) {
        allowed = run_ebpf(program->instructions.span(),
                           {reinterpret_cast<const u8*>(&context), sizeof context}) != 0;
        return allowed;
    });
    return allowed ? Result<void>() : fail(EPERM);
}

} // namespace kernel
