#include "guestkernel/ipc/sysv.hpp"

#include <asm/ipcbuf.h>
#include <linux/errno.h>
#include <linux/ipc.h>

#include "guestkernel/core/time.hpp"
#include "guestkernel/namespaces/namespaces.hpp"

namespace kernel {

namespace {

constexpr i32 sequence_step = 32768; // an id is sequence * step + index
constexpr unsigned cap_ipc_owner = 15, cap_sys_admin = 21;

} // namespace

IpcNamespace::IpcNamespace(Ref<UserNamespace> owner, bool counted)
    : Namespace(NamespaceKind::Ipc, std::move(owner), counted) {
    segments.most.store(4096); // SHMMNI
}

IpcNamespace::~IpcNamespace() {
    free_mqueue_instance(queues.load());
}

IpcNamespace& current_ipc_namespace() {
    return *current_namespaces()->ipc;
}

i64 sysv_time() {
    return realtime_ns() / static_cast<i64>(nanoseconds_per_second);
}

SysvObject* SysvTable::find_key(i32 key) {
    if (key == IPC_PRIVATE)
        return nullptr;
    for (Slot& slot : slots_)
        if (slot.object && slot.object->key == key)
            return slot.object.get();
    return nullptr;
}

Result<SysvObject*> SysvTable::find(i32 id) {
    if (id < 0)
        return fail(EINVAL);
    const auto index = static_cast<usize>(id % sequence_step);
    if (index >= slots_.size() || !slots_[index].object)
        return fail(EINVAL);
    SysvObject* object = slots_[index].object.get();
    if (object->id != id)
        return fail(EIDRM);
    return object;
}

Result<SysvObject*> SysvTable::at_index(i32 index) {
    if (index < 0)
        return fail(EINVAL);
    const auto place = static_cast<usize>(index % sequence_step);
    if (place >= slots_.size() || !slots_[place].object)
        return fail(EINVAL);
    return slots_[place].object.get();
}

i32 SysvTable::last_index() const {
    for (usize i = slots_.size(); i-- > 0;)
        if (slots_[i].object)
            return static_cast<i32>(i);
    return 0;
}

i32 SysvTable::count() const {
    i32 count = 0;
    for (const Slot& slot : slots_.span())
        count += slot.object ? 1 : 0;
    return count;
}

Result<i32> SysvTable::insert(Ref<SysvObject> object, i32 key, u32 mode) {
    if (static_cast<u32>(count()) >= most.load())
        return fail(ENOSPC);
    const i32 wanted = wanted_id.exchange(-1);
    usize index = wanted < 0 ? 0 : static_cast<usize>(wanted % sequence_step);
    while (index < slots_.size() && slots_[index].object)
        index++;
    if (index >= (wanted < 0 ? usize{limit} : usize{sequence_step}))
        return fail(ENOSPC);
    if (index >= slots_.size())
        TRY(slots_.resize(index + 1));
    Slot& slot = slots_[index];
    if (wanted >= 0)
        slot.sequence = static_cast<u16>(wanted / sequence_step);
    const Credentials& own = *current_task().credentials;
    object->key = key;
    object->mode = mode;
    object->uid = object->creator_uid = own.euid;
    object->gid = object->creator_gid = own.egid;
    object->sequence = slot.sequence;
    object->id = slot.sequence * sequence_step + static_cast<i32>(index);
    const i32 id = object->id;
    slot.object = std::move(object);
    return id;
}

Ref<SysvObject> SysvTable::remove(SysvObject& object) {
    Slot& slot = slots_[static_cast<usize>(object.id % sequence_step)];
    slot.sequence = static_cast<u16>((slot.sequence + 1) % 32768);
    object.removed = true;
    return std::move(slot.object);
}

Result<void> check_sysv_access(const SysvObject& object, u32 wanted) {
    const Credentials& own = *current_task().credentials;
    const u32 requested = (wanted >> 6 | wanted >> 3 | wanted) & 7;
    u32 granted = object.mode;
    if (own.euid == object.uid || own.euid == object.creator_uid)
        granted >>= 6;
    else if (own.egid == object.gid || own.egid == object.creator_gid || own.in_group(object.gid) ||
             own.in_group(object.creator_gid))
        granted >>= 3;
    if ((requested & ~granted & 7) != 0 &&
        !capable_over(current_ipc_namespace().owner(), cap_ipc_owner))
        return fail(EACCES);
    return {};
}

Result<void> check_sysv_owner(const SysvObject& object) {
    const u32 user = current_task().credentials->euid;
    if (user != object.uid && user != object.creator_uid &&
        !capable_over(current_ipc_namespace().owner(), cap_sys_admin))
        return fail(EPERM);
    return {};
}

void fill_sysv_permissions(const SysvObject& object, ipc64_perm& out) {
    out.key = object.key;
    const UserNamespace* reader = current_task().credentials->user_ns.get();
    out.uid = from_global_id(reader, false, object.uid);
    out.gid = from_global_id(reader, true, object.gid);
    out.cuid = from_global_id(reader, false, object.creator_uid);
    out.cgid = from_global_id(reader, true, object.creator_gid);
    out.mode = static_cast<__kernel_mode_t>(object.mode);
    out.seq = object.sequence;
}

Result<void> set_sysv_permissions(SysvObject& object, const ipc64_perm& from) {
    const UserNamespace* writer = current_task().credentials->user_ns.get();
    const u32 uid = to_global_id(writer, false, from.uid);
    const u32 gid = to_global_id(writer, true, from.gid);
    if (uid == invalid_id || gid == invalid_id)
        return fail(EINVAL);
    object.uid = uid;
    object.gid = gid;
    object.mode = from.mode & 0777;
    return {};
}

} // namespace kernel
