// What System V semaphores, message queues and shared memory have in common: tables of objects by
// number and key, and permissions. sysvipc(7). One table per kind and namespace; its mutex guards
// the objects too.
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/namespace.hpp"
#include "guestkernel/sched/mutex.hpp"
#include "guestkernel/task/process.hpp"

struct ipc64_perm;

namespace kernel {

struct SysvObject : RefCounted {
    i32 key = 0, id = 0;
    u32 mode = 0; // permission bits
    u32 uid = 0, gid = 0, creator_uid = 0, creator_gid = 0;
    u16 sequence = 0;
    volatile bool removed = false;
};

class SysvTable {
public:
    static constexpr u32 limit = 32768; // of objects of one kind: an id has 15 bits for the place
    base::Atomic<u32> most{32000};      // ... as the namespace has it, at first (sysvipc(7))
    // The number that the next object gets, or one near it if that is taken; -1: any. For who
    // restores programs from files (kernel.shm_next_id and its like).
    base::Atomic<i32> wanted_id{-1};
    Mutex mutex;

    // --- Requires: mutex.
    // The object of a key, or null; IPC_PRIVATE has none.
    SysvObject* find_key(i32 key);
    Result<SysvObject*> find(i32 id); // EINVAL, EIDRM
    // By its place in the table, as the *_STAT commands ask for it: EINVAL. The last place in use,
    // or 0; objects.
    Result<SysvObject*> at_index(i32 index);
    i32 last_index() const;
    i32 count() const;
    // Owned by the running task. Its number; ENOSPC.
    Result<i32> insert(Ref<SysvObject> object, i32 key, u32 mode);
    Ref<SysvObject> remove(SysvObject& object);
    template <typename F>
    void for_each(F&& function) {
        for (Slot& slot : slots_)
            if (slot.object)
                function(*slot.object);
    }

private:
    struct Slot {
        Ref<SysvObject> object;
        u16 sequence = 0;
    };
    Vector<Slot> slots_;
};

struct MqueueInstance;

// kernel.msgmax and its like: what one namespace may have.
struct SysvLimits {
    static constexpr u64 unlimited = ~u64{0} - (u64{1} << 24); // as good as none
    base::Atomic<u64> segment_bytes{unlimited}, segment_pages{unlimited};
    base::Atomic<u32> message_bytes{8192}, queue_bytes{16384};
    base::Atomic<u32> set_size{32000}, semaphores{1'024'000'000}, operations{500};
};

// ipc_namespaces(7): identifiers and queues of its own.
struct IpcNamespace : Namespace {
    IpcNamespace(Ref<UserNamespace> owner, bool counted);
    ~IpcNamespace() override;
    SysvTable semaphores, messages, segments;
    SysvLimits limits;
    base::Atomic<MqueueInstance*> queues{nullptr}; // ipc/mqueue.cpp
};
IpcNamespace& current_ipc_namespace();
void free_mqueue_instance(MqueueInstance* instance);

// EACCES. `wanted`: 4 read, 2 write, in any of the three places of a mode.
Result<void> check_sysv_access(const SysvObject& object, u32 wanted);
Result<void> check_sysv_owner(const SysvObject& object); // EPERM
void fill_sysv_permissions(const SysvObject& object, ipc64_perm& out);
Result<void> set_sysv_permissions(SysvObject& object, const ipc64_perm& from); // EINVAL
i64 sysv_time(); // seconds since the Epoch
// The end of a *ctl(2) that tells something. Without the table's mutex, which `guard` holds until
// then: a page of the caller's memory may come when another program likes (userfaultfd(2), FUSE).
template <typename T>
Result<long> tell_unlocked(MutexGuard<Mutex>& guard, u64 to, const T& value, long answer) {
    guard.unlock();
    TRY(copy_out_bytes(to, &value, sizeof value));
    return answer;
}

// xxxget(2): the object of the key, or a new one. `fits(object)` checks what was asked of an old
// one, `make()` makes a Result<Ref<SysvObject>>.
template <typename Fits, typename Make>
Result<long> sysv_get(SysvTable& table, i32 key, u32 flags, Fits&& fits, Make&& make) {
    constexpr int enoent = 2, eexist = 17;
    constexpr u32 ipc_creat = 01000, ipc_excl = 02000;
    MutexGuard guard(table.mutex);
    if (SysvObject* old = table.find_key(key)) {
        if ((flags & ipc_creat) != 0 && (flags & ipc_excl) != 0)
            return fail(eexist);
        TRY(check_sysv_access(*old, flags));
        TRY(fits(*old));
        return old->id;
    }
    if (key != 0 && (flags & ipc_creat) == 0)
        return fail(enoent);
    TRY(Ref<SysvObject> fresh, make());
    TRY(const i32 id, table.insert(std::move(fresh), key, flags & 0777));
    return id;
}

// Shared memory that was removed goes with its last attachment: looks whether some has none any
// more.
void sweep_removed_segments();

// For kcmp(2): whether operations with SEM_UNDO of the process are yet to be taken back.
bool has_semaphore_undo(i32 pid);
// /proc/sysvipc: calls for each object of the running task's namespace, with the table's mutex
// held.
struct SysvView {
    const SysvObject& object;
    u64 bytes = 0, count = 0, resident = 0; // of a queue, a set, a segment; messages, semaphores,
                                            // attachments
    i32 first_pid = 0, last_pid = 0;
    i64 times[3] = {};
};
void each_message_queue(void (*tell)(const SysvView& view, void* context), void* context);
void each_semaphore_set(void (*tell)(const SysvView& view, void* context), void* context);
void each_segment(void (*tell)(const SysvView& view, void* context), void* context);

// The end of a process: what its operations with SEM_UNDO added is taken back.
void undo_semaphores(i32 pid);

} // namespace kernel
