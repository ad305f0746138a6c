// User and group ids, capabilities (credentials(7), capabilities(7)).
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/resource.h>
#include <linux/securebits.h>

#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"

namespace kernel {

namespace {

constexpr u32 unchanged = ~u32{0};
constexpr int max_groups = 65536; // NGROUPS_MAX
constexpr u64 fs_capabilities = u64{1} << CAP_CHOWN | u64{1} << CAP_DAC_OVERRIDE |
                                u64{1} << CAP_DAC_READ_SEARCH | u64{1} << CAP_FOWNER |
                                u64{1} << CAP_FSETID | u64{1} << CAP_LINUX_IMMUTABLE |
                                u64{1} << CAP_MAC_OVERRIDE | u64{1} << CAP_MKNOD;

// capabilities(7), "Effect of user ID changes on capabilities".
void adjust_capabilities(Credentials& fresh, const Credentials& old) {
    if ((old.securebits & SECBIT_NO_SETUID_FIXUP) != 0)
        return;
    const u32 root = old.root_id();
    if (root == invalid_id)
        return;
    const bool had_root = old.uid == root || old.euid == root || old.suid == root;
    const bool has_root = fresh.uid == root || fresh.euid == root || fresh.suid == root;
    if (had_root && !has_root) {
        if ((old.securebits & SECBIT_KEEP_CAPS) == 0)
            fresh.cap_permitted = fresh.cap_effective = 0;
        fresh.cap_ambient = 0;
    }
    if (old.euid == root && fresh.euid != root)
        fresh.cap_effective = 0;
    else if (old.euid != root && fresh.euid == root)
        fresh.cap_effective = fresh.cap_permitted;
}

// Ids that programs say and see are those of their user namespace.
u32 shown(bool group, u32 id) {
    return from_global_id(current_task().credentials->user_ns.get(), group, id);
}
Result<u32> meant(bool group, u32 id) {
    const u32 global = to_global_id(current_task().credentials->user_ns.get(), group, id);
    if (global == invalid_id)
        return fail(EINVAL);
    return global;
}
// ... where -1 leaves what is.
Result<u32> meant_or_unchanged(bool group, u32 id) {
    return id == unchanged ? Result<u32>(id) : meant(group, id);
}

Result<Ref<Credentials>> copy_own() {
    return current_task().credentials->clone();
}

// Publishes; the user's task count follows the real user id.
Result<long> commit(Ref<Credentials> fresh, bool ids_changed) {
    Task& task = current_task();
    if (ids_changed && fresh->uid != task.credentials->uid) {
        TRY(Ref<UserAccount> account, user_account(fresh->uid));
        task.over_process_limit =
            account->tasks.fetch_add(1) > current_limit(RLIMIT_NPROC) && account->uid != 0;
        task.account->tasks.fetch_sub(1);
        // Whoever sends it a signal counts that against the account, and may be at it.
        SpinGuard guard(task.process->signal_lock);
        std::swap(task.account, account);
    } // the old one is dropped without the lock
    const Credentials& old = *task.credentials;
    if (fresh->euid != old.euid || fresh->egid != old.egid || fresh->fsuid != old.fsuid ||
        fresh->fsgid != old.fsgid) {
        task.process->dumpable = false;
        task.process->parent_death_signal = 0; // PR_SET_PDEATHSIG: it was another's wish
    }
    const ChangedIds changed = changed_ids(old, *fresh);
    set_credentials(std::move(fresh));
    tell_changed_ids(task, changed);
    return 0;
}

// Heap sort: ascending, as getgroups(2) shows them on Linux; of 65536 at most, without recursion.
void sort_groups(std::span<u32> ids) {
    const auto sift = [&](usize at, usize end) {
        for (usize child = 2 * at + 1; child < end; child = 2 * at + 1) {
            if (child + 1 < end && ids[child + 1] > ids[child])
                child++;
            if (ids[at] >= ids[child])
                return;
            std::swap(ids[at], ids[child]);
            at = child;
        }
    };
    for (usize i = ids.size() / 2; i > 0; i--)
        sift(i - 1, ids.size());
    for (usize end = ids.size(); end > 1; end--) {
        std::swap(ids[0], ids[end - 1]);
        sift(0, end - 1);
    }
}

Result<long> store_three(u64 real, u64 effective, u64 saved, u32 a, u32 b, u32 c) {
    TRY(UserPtr<u32>(real).copy_out(a));
    TRY(UserPtr<u32>(effective).copy_out(b));
    TRY(UserPtr<u32>(saved).copy_out(c));
    return 0;
}

} // namespace

Result<long> sys_getuid(Task& task) {
    return from_global_id(task.credentials->user_ns.get(), false, task.credentials->uid);
}
Result<long> sys_geteuid(Task& task) {
    return from_global_id(task.credentials->user_ns.get(), false, task.credentials->euid);
}
Result<long> sys_getgid(Task& task) {
    return from_global_id(task.credentials->user_ns.get(), true, task.credentials->gid);
}
Result<long> sys_getegid(Task& task) {
    return from_global_id(task.credentials->user_ns.get(), true, task.credentials->egid);
}
Result<long> sys_getresuid(Task& task, u64 real, u64 effective, u64 saved) {
    const Credentials& c = *task.credentials;
    return store_three(real, effective, saved, shown(false, c.uid), shown(false, c.euid),
                       shown(false, c.suid));
}
Result<long> sys_getresgid(Task& task, u64 real, u64 effective, u64 saved) {
    const Credentials& c = *task.credentials;
    return store_three(real, effective, saved, shown(true, c.gid), shown(true, c.egid),
                       shown(true, c.sgid));
}

Result<long> sys_getgroups(Task& task, int count, u64 list) {
    const Vector<u32>& groups = task.credentials->groups;
    if (count < 0 || (count != 0 && static_cast<usize>(count) < groups.size()))
        return fail(EINVAL);
    for (usize i = 0; count != 0 && i < groups.size(); i++)
        TRY((UserPtr<u32>(list) + i).copy_out(shown(true, groups[i])));
    return static_cast<long>(groups.size());
}

Result<long> sys_setgroups(Task&, int count, u64 list) {
    const UserNamespace* space = current_task().credentials->user_ns.get();
    // user_namespaces(7): not before there is a map, and not where it was given up.
    if (!capable_here(CAP_SETGID) ||
        (!is_initial(space) && (space->map(true) == nullptr || !space->setgroups_allowed())))
        return fail(EPERM);
    if (count < 0 || count > max_groups)
        return fail(EINVAL);
    TRY(Ref<Credentials> fresh, copy_own());
    TRY(fresh->groups.resize(static_cast<usize>(count)));
    if (count != 0)
        TRY(copy_in_bytes(fresh->groups.data(), list, static_cast<usize>(count) * sizeof(u32)));
    for (u32& group : fresh->groups) {
        TRY(group, meant(true, group));
    }
    sort_groups(fresh->groups.span());
    return commit(std::move(fresh), false);
}

Result<long> sys_setuid(Task& task, u32 id) {
    TRY(id, meant(false, id));
    const Credentials& old = *task.credentials;
    TRY(Ref<Credentials> fresh, copy_own());
    if (capable_here(CAP_SETUID))
        fresh->uid = fresh->suid = id;
    else if (id != old.uid && id != old.suid)
        return fail(EPERM);
    fresh->euid = fresh->fsuid = id;
    adjust_capabilities(*fresh, old);
    return commit(std::move(fresh), true);
}

Result<long> sys_setgid(Task& task, u32 id) {
    TRY(id, meant(true, id));
    const Credentials& old = *task.credentials;
    TRY(Ref<Credentials> fresh, copy_own());
    if (capable_here(CAP_SETGID))
        fresh->gid = fresh->sgid = id;
    else if (id != old.gid && id != old.sgid)
        return fail(EPERM);
    fresh->egid = fresh->fsgid = id;
    return commit(std::move(fresh), false);
}

Result<long> sys_setreuid(Task& task, u32 real, u32 effective) {
    TRY(real, meant_or_unchanged(false, real));
    TRY(effective, meant_or_unchanged(false, effective));
    const Credentials& old = *task.credentials;
    const bool privileged = capable_here(CAP_SETUID);
    TRY(Ref<Credentials> fresh, copy_own());
    if (real != unchanged) {
        if (!privileged && real != old.uid && real != old.euid)
            return fail(EPERM);
        fresh->uid = real;
    }
    if (effective != unchanged) {
        if (!privileged && effective != old.uid && effective != old.euid && effective != old.suid)
            return fail(EPERM);
        fresh->euid = effective;
    }
    if (real != unchanged || (effective != unchanged && effective != old.uid))
        fresh->suid = fresh->euid;
    fresh->fsuid = fresh->euid;
    adjust_capabilities(*fresh, old);
    return commit(std::move(fresh), true);
}

Result<long> sys_setregid(Task& task, u32 real, u32 effective) {
    TRY(real, meant_or_unchanged(true, real));
    TRY(effective, meant_or_unchanged(true, effective));
    const Credentials& old = *task.credentials;
    const bool privileged = capable_here(CAP_SETGID);
    TRY(Ref<Credentials> fresh, copy_own());
    if (real != unchanged) {
        if (!privileged && real != old.gid && real != old.egid)
            return fail(EPERM);
        fresh->gid = real;
    }
    if (effective != unchanged) {
        if (!privileged && effective != old.gid && effective != old.egid && effective != old.sgid)
            return fail(EPERM);
        fresh->egid = effective;
    }
    if (real != unchanged || (effective != unchanged && effective != old.gid))
        fresh->sgid = fresh->egid;
    fresh->fsgid = fresh->egid;
    return commit(std::move(fresh), false);
}

Result<long> sys_setresuid(Task& task, u32 real, u32 effective, u32 saved) {
    TRY(real, meant_or_unchanged(false, real));
    TRY(effective, meant_or_unchanged(false, effective));
    TRY(saved, meant_or_unchanged(false, saved));
    const Credentials& old = *task.credentials;
    if (!capable_here(CAP_SETUID))
        for (const u32 id : {real, effective, saved})
            if (id != unchanged && id != old.uid && id != old.euid && id != old.suid)
                return fail(EPERM);
    TRY(Ref<Credentials> fresh, copy_own());
    if (real != unchanged)
        fresh->uid = real;
    if (effective != unchanged)
        fresh->euid = effective;
    if (saved != unchanged)
        fresh->suid = saved;
    fresh->fsuid = fresh->euid;
    adjust_capabilities(*fresh, old);
    return commit(std::move(fresh), true);
}

Result<long> sys_setresgid(Task& task, u32 real, u32 effective, u32 saved) {
    TRY(real, meant_or_unchanged(true, real));
    TRY(effective, meant_or_unchanged(true, effective));
    TRY(saved, meant_or_unchanged(true, saved));
    const Credentials& old = *task.credentials;
    if (!capable_here(CAP_SETGID))
        for (const u32 id : {real, effective, saved})
            if (id != unchanged && id != old.gid && id != old.egid && id != old.sgid)
                return fail(EPERM);
    TRY(Ref<Credentials> fresh, copy_own());
    if (real != unchanged)
        fresh->gid = real;
    if (effective != unchanged)
        fresh->egid = effective;
    if (saved != unchanged)
        fresh->sgid = saved;
    fresh->fsgid = fresh->egid;
    return commit(std::move(fresh), false);
}

Result<long> sys_setfsuid(Task& task, u32 id) {
    const Credentials& old = *task.credentials;
    const long before = shown(false, old.fsuid);
    const u32 global = to_global_id(old.user_ns.get(), false, id);
    if (global == invalid_id)
        return before;
    id = global;
    const bool allowed = id == old.uid || id == old.euid || id == old.suid || id == old.fsuid ||
                         capable_here(CAP_SETUID);
    if (!allowed)
        return before; // the call has no way to fail
    TRY(Ref<Credentials> fresh, copy_own());
    fresh->fsuid = id;
    if ((old.securebits & SECBIT_NO_SETUID_FIXUP) == 0) {
        if (old.fsuid == old.root_id() && id != old.root_id())
            fresh->cap_effective &= ~fs_capabilities;
        else if (old.fsuid != old.root_id() && id == old.root_id())
            fresh->cap_effective |= fresh->cap_permitted & fs_capabilities;
    }
    TRY(commit(std::move(fresh), false));
    return before;
}

Result<long> sys_setfsgid(Task& task, u32 id) {
    const Credentials& old = *task.credentials;
    const long before = shown(true, old.fsgid);
    const u32 global = to_global_id(old.user_ns.get(), true, id);
    if (global == invalid_id)
        return before;
    id = global;
    const bool allowed = id == old.gid || id == old.egid || id == old.sgid || id == old.fsgid ||
                         capable_here(CAP_SETGID);
    if (!allowed)
        return before;
    TRY(Ref<Credentials> fresh, copy_own());
    fresh->fsgid = id;
    TRY(commit(std::move(fresh), false));
    return before;
}

// --- capabilities
// -----------------------------------------------------------------------------------------------

namespace {

// How many 32-bit halves the header's version has; 0: unknown, and the header was answered with
// ours.
Result<unsigned> capability_words(u64 header, __user_cap_header_struct& out) {
    TRY(out, UserPtr<const __user_cap_header_struct>(header).copy_in());
    switch (out.version) {
    case _LINUX_CAPABILITY_VERSION_1:
        return 1u;
    case _LINUX_CAPABILITY_VERSION_2:
    case _LINUX_CAPABILITY_VERSION_3:
        return 2u;
    default:
        out.version = _LINUX_CAPABILITY_VERSION_3;
        TRY(UserPtr<__user_cap_header_struct>(header).copy_out(out));
        return 0u;
    }
}

} // namespace

Result<long> sys_capget(Task& task, u64 header, u64 data) {
    __user_cap_header_struct head;
    TRY(const unsigned words, capability_words(header, head));
    if (words == 0)
        return data == 0 ? Result<long>(0) : Result<long>(fail(EINVAL));
    if (head.pid < 0)
        return fail(EINVAL);
    Ref<const Credentials> credentials = task.credentials;
    if (head.pid != 0 && head.pid != task.own_tid) {
        const Ref<Task> other = find_task(global_pid(head.pid));
        if (!other)
            return fail(ESRCH);
        credentials = credentials_of(*other);
        if (!credentials)
            return fail(ESRCH);
    }
    if (data == 0)
        return 0;
    for (unsigned i = 0; i < words; i++) {
        const unsigned shift = 32 * i;
        const __user_cap_data_struct out = {
            static_cast<u32>(credentials->cap_effective >> shift),
            static_cast<u32>(credentials->cap_permitted >> shift),
            static_cast<u32>(credentials->cap_inheritable >> shift)};
        TRY((UserPtr<__user_cap_data_struct>(data) + i).copy_out(out));
    }
    return 0;
}

Result<long> sys_capset(Task& task, u64 header, u64 data) {
    __user_cap_header_struct head;
    TRY(const unsigned words, capability_words(header, head));
    if (words == 0)
        return fail(EINVAL);
    if (head.pid != 0 && head.pid != task.own_tid)
        return fail(EPERM);
    u64 effective = 0;
    u64 permitted = 0;
    u64 inheritable = 0;
    for (unsigned i = 0; i < words; i++) {
        TRY(const __user_cap_data_struct in,
            (UserPtr<const __user_cap_data_struct>(data) + i).copy_in());
        effective |= u64{in.effective} << 32 * i;
        permitted |= u64{in.permitted} << 32 * i;
        inheritable |= u64{in.inheritable} << 32 * i;
    }
    effective &= all_capabilities;
    permitted &= all_capabilities;
    inheritable &= all_capabilities;
    const Credentials& old = *task.credentials;
    const bool may_inherit_all = old.capable_here(CAP_SETPCAP);
    if ((permitted & ~old.cap_permitted) != 0 || (effective & ~permitted) != 0 ||
        (inheritable & ~(old.cap_inheritable | old.cap_bounding)) != 0 ||
        (!may_inherit_all && (inheritable & ~(old.cap_inheritable | old.cap_permitted)) != 0))
        return fail(EPERM);
    TRY(Ref<Credentials> fresh, copy_own());
    fresh->cap_effective = effective;
    fresh->cap_permitted = permitted;
    fresh->cap_inheritable = inheritable;
    fresh->cap_ambient &= permitted & inheritable;
    return commit(std::move(fresh), false);
}

} // namespace kernel
