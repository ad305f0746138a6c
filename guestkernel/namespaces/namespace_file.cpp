#include "guestkernel/namespaces/namespace_file.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/nsfs.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/internal_mount.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/fs/open.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/namespaces/uts_namespace.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

class NamespaceInode final : public Inode {
public:
    NamespaceInode(Superblock* superblock, Ref<Namespace> space)
        : Inode(superblock, space->number(), mode_regular | 0444), space_(std::move(space)) {}
    Result<Ref<File>> open(const Path& path, u32 flags) override;
    Namespace& space() const { return *space_; }

private:
    const Ref<Namespace> space_;
};

class NamespaceFile final : public File {
public:
    static constexpr char file_type[] = "nsfs";
    using File::File;
    const char* type_name() const override { return file_type; }
    Result<long> ioctl(u32 command, u64 argument) override;
    bool describe(String& out) override {
        const auto name = path().dentry()->copy_name();
        return name && out.append(name->view());
    }
    Namespace& space() const { return static_cast<NamespaceInode&>(*inode()).space(); }
};

constinit InternalMount home{[] { return make_nameless_superblock("nsfs", NSFS_MAGIC); },
                             MS_NOSUID | MS_NODEV | MS_NOEXEC};

Result<long> install(Ref<Namespace> space) {
    TRY(Path path, path_of_namespace(std::move(space)));
    TRY(Ref<File> file, open_checked(path, O_RDONLY, true));
    TRY(const int fd, current_task().files->install(std::move(file), true));
    return fd;
}

} // namespace

Result<Ref<File>> NamespaceInode::open(const Path& path, u32 flags) {
    if ((flags & O_ACCMODE) != O_RDONLY)
        return fail(EPERM);
    TRY(Ref<NamespaceFile> file, make_ref<NamespaceFile>(path, Ref<Inode>::share(this), flags));
    return Ref<File>(std::move(file));
}

Result<long> NamespaceFile::ioctl(u32 command, u64 argument) {
    Namespace& own = space();
    const Credentials& who = *current_task().credentials;
    switch (command) {
    case NS_GET_USERNS:
    case NS_GET_PARENT: {
        Ref<Namespace> found;
        if (command == NS_GET_PARENT && own.kind() == NamespaceKind::Pid) {
            // Not beyond what the caller can see.
            PidNamespace* parent = static_cast<PidNamespace&>(own).parent();
            const PidNamespace* reader = current_task().process->pid_namespace.get();
            if (parent == nullptr || level_of(parent) < level_of(reader))
                return fail(EPERM);
            found = Ref<Namespace>::share(parent);
        } else if (command == NS_GET_PARENT && own.kind() != NamespaceKind::User) {
            return fail(EINVAL);
        } else {
            // The caller's own one and what is below it are in its sight.
            const UserNamespace* at = own.owner();
            while (at != nullptr && at != who.user_space())
                at = at->parent();
            if (at == nullptr)
                return fail(EPERM);
            found = Ref<Namespace>::share(own.owner());
        }
        return install(std::move(found));
    }
    case NS_GET_NSTYPE:
        return static_cast<long>(namespace_flag(own.kind()));
    case NS_GET_OWNER_UID: {
        if (own.kind() != NamespaceKind::User)
            return fail(EINVAL);
        const u32 uid =
            from_global_id(who.user_space(), false, static_cast<UserNamespace&>(own).owner_uid());
        TRY(UserPtr<u32>(argument).copy_out(uid));
        return 0;
    }
    default:
        return fail(ENOTTY);
    }
}

Namespace* namespace_of_file(File& file) {
    NamespaceFile* own = file_as<NamespaceFile>(file);
    return own == nullptr ? nullptr : &own->space();
}

Result<Path> path_of_namespace(Ref<Namespace> space) {
    TRY(const Ref<Mount> mount, home.get());
    char name[40];
    const usize length =
        log::format(name, sizeof name, "{}:[{}]", namespace_name(space->kind()), space->number());
    TRY(Ref<NamespaceInode> inode,
        make_ref<NamespaceInode>(&mount->superblock(), std::move(space)));
    TRY(Ref<Dentry> dentry, DentryCache::make_unhashed(mount->root(), {name, length},
                                                       Ref<Inode>(std::move(inode)), false));
    return Path(mount, std::move(dentry));
}

Ref<Namespace> namespace_of_task(Task& task, NamespaceKind kind, bool for_children) {
    if (kind == NamespaceKind::User) {
        const Ref<const Credentials> who = credentials_of(task);
        return who ? Ref<Namespace>::share(who->user_space()) : Ref<Namespace>();
    }
    const Ref<Namespaces> all = namespaces_of(task);
    if (kind == NamespaceKind::Pid) {
        if (for_children)
            return all && (all->pid_for_children->level() == 0 || all->pid_for_children->begun)
                       ? Ref<Namespace>(all->pid_for_children)
                       : Ref<Namespace>();
        return task.process == nullptr ? Ref<Namespace>()
                                       : Ref<Namespace>(task.process->pid_namespace);
    }
    if (!all)
        return {};
    switch (kind) {
    case NamespaceKind::Mount:
        return Ref<Namespace>(all->mount);
    case NamespaceKind::Uts:
        return Ref<Namespace>(all->uts);
    case NamespaceKind::Ipc:
        return Ref<Namespace>(all->ipc);
    case NamespaceKind::Net:
        return Ref<Namespace>(all->net);
    case NamespaceKind::Cgroup:
        return Ref<Namespace>(all->cgroup);
    default:
        return Ref<Namespace>(for_children ? all->time_for_children : all->time);
    }
}

} // namespace kernel
