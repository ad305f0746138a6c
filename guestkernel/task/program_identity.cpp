#include "guestkernel/task/program_identity.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/mount.h>
#include <linux/personality.h>
#include <linux/securebits.h>

#include "guestkernel/fs/file_capabilities.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

// user_namespaces(7): what another, not nested, namespace mounted gives no rights here. Nor does
// what is not mounted in the caller's mount namespace at all, and was come to by /proc/PID/root or
// a descriptor: root of another container decides what lies there (mnt_may_suid() of Linux).
bool may_give_rights(const Mount& mount, const Credentials& who) {
    if ((mount.flags() & MS_NOSUID) != 0 || mount.space() != current_mount_namespace())
        return false;
    const UserNamespace* owner = mount.superblock().user_ns.get();
    for (const UserNamespace* at = who.user_space(); at != nullptr; at = at->parent())
        if (at == owner)
            return true;
    return is_initial(owner);
}

// Who may execute a file without reading it does not read it in memory instead (ptrace(2),
// PR_SET_DUMPABLE): nor does root of a namespace that the file's owners do not belong to.
void note_unreadable(Inode& inode, const Credentials& who, ProgramIdentity& identity) {
    if (check_permission(inode, may_read, &who))
        return;
    identity.unreadable = true;
    UserNamespace* space = who.user_space();
    while (!is_initial(space) &&
           !(id_is_mapped(space, false, inode.uid_) && id_is_mapped(space, true, inode.gid_)))
        space = space->parent();
    identity.memory_space = Ref<UserNamespace>::share(space);
}

// bprm_fill_uid() of Linux.
Result<void> take_ids(Inode& inode, ProgramIdentity& identity) {
    if ((inode.mode_ & (mode_suid | mode_sgid)) == 0)
        return {};
    TRY(const Attributes attributes, inode.attributes());
    Credentials& fresh = *identity.credentials;
    const UserNamespace* space = fresh.user_ns.get();
    if (!id_is_mapped(space, false, attributes.uid) || !id_is_mapped(space, true, attributes.gid))
        return {};
    constexpr u32 group_execute = 010;
    const bool takes_user = (attributes.mode & mode_suid) != 0;
    const bool takes_group =
        (attributes.mode & (mode_sgid | group_execute)) == (mode_sgid | group_execute);
    if (takes_user)
        fresh.euid = attributes.uid;
    if (takes_group)
        fresh.egid = attributes.gid;
    if (takes_user || takes_group)
        identity.lost_personality = PER_CLEAR_ON_SETID;
    return {};
}

// Root needs no capabilities of files, unless it is said to be nobody special. A set-user-ID-root
// program that has some gets just those (handle_privileged_root() of Linux).
void take_root_capabilities(const Credentials& old, Credentials& fresh, bool of_file,
                            bool& effective) {
    const u32 root = old.root_id();
    if ((old.securebits & SECBIT_NOROOT) != 0 || root == invalid_id)
        return;
    if (of_file && fresh.uid != root && fresh.euid == root)
        return;
    if (fresh.euid == root || fresh.uid == root)
        fresh.cap_permitted = old.cap_bounding | old.cap_inheritable;
    if (fresh.euid == root)
        effective = true;
}

bool in_effective_group(const Credentials& who, u32 group) {
    return who.fsgid == group || who.in_group(group);
}

bool differ_in_ids(const Credentials& a, const Credentials& b) {
    return a.euid != b.euid || a.egid != b.egid || a.fsuid != b.fsuid || a.fsgid != b.fsgid;
}

// cap_bprm_creds_from_file() of Linux: capabilities(7), "Transformation of capabilities during
// execve()".
Result<void> compute_rights(Inode* giver, const Credentials& old, ProgramIdentity& identity) {
    Credentials& fresh = *identity.credentials;
    const bool bound = current_task().no_new_privileges;
    FileCapabilities of_file;
    if (giver != nullptr) {
        if (!bound)
            TRY(take_ids(*giver, identity));
        TRY(of_file, program_capabilities(*giver));
    }
    bool effective = of_file.effective;
    fresh.cap_permitted =
        (old.cap_bounding & of_file.permitted) | (old.cap_inheritable & of_file.inheritable);
    // A program that does not know of capabilities would go on without them.
    if (effective && (of_file.permitted & ~fresh.cap_permitted) != 0)
        return fail(EPERM);
    take_root_capabilities(old, fresh, of_file.present, effective);

    const bool grows = (fresh.cap_permitted & ~old.cap_permitted) != 0;
    if (grows)
        identity.lost_personality = PER_CLEAR_ON_SETID;
    const bool switched = fresh.euid != old.euid || !in_effective_group(old, fresh.egid);
    if ((switched || grows) && (bound || identity.was_traced || identity.shared_places)) {
        // Who could set the ids itself gains nothing by them.
        if (bound || !old.capable_here(CAP_SETUID)) {
            fresh.euid = old.euid;
            fresh.egid = old.egid;
        }
        fresh.cap_permitted &= old.cap_permitted;
    }
    fresh.suid = fresh.fsuid = fresh.euid;
    fresh.sgid = fresh.fsgid = fresh.egid;
    if (of_file.present || switched)
        fresh.cap_ambient = 0;
    fresh.cap_permitted |= fresh.cap_ambient;
    fresh.cap_effective = effective ? fresh.cap_permitted : fresh.cap_ambient;
    fresh.securebits &= ~u32{SECBIT_KEEP_CAPS};

    identity.secure = switched || fresh.euid != old.uid || fresh.egid != old.gid ||
                      (fresh.uid != old.root_id() &&
                       (effective || (fresh.cap_permitted & ~fresh.cap_ambient) != 0));
    identity.gains = fresh.euid != old.euid || fresh.egid != old.egid ||
                     (fresh.cap_permitted & ~old.cap_permitted) != 0;
    identity.guarded =
        identity.gains || differ_in_ids(fresh, old) || old.euid != old.uid || old.egid != old.gid;
    return {};
}

} // namespace

Result<ProgramIdentity> identity_by(File& program) {
    const Task& task = current_task();
    const Credentials& old = *task.credentials;
    ProgramIdentity identity;
    TRY(identity.credentials, old.clone());
    identity.memory_space = Ref<UserNamespace>::share(old.user_space());
    Inode* inode = program.inode();
    if (inode != nullptr)
        note_unreadable(*inode, old, identity);
    identity.was_traced = is_traced(task) && !task.trace->tracer_capable;
    // Another process could change them under a program that has more rights than it; own threads
    // end with the exec.
    identity.shared_places = shares_places(task, Among::OtherProcesses);
    const Mount* mount = program.path().mount();
    const bool gives = mount == nullptr || may_give_rights(*mount, old);
    TRY(compute_rights(gives ? inode : nullptr, old, identity));
    return identity;
}

} // namespace kernel
