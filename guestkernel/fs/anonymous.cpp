// Inodes of files that have no name anywhere: pipes, sockets, event counters.
#include <linux/errno.h>
#include <linux/magic.h>
#include <linux/mount.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

namespace {

class AnonymousInode : public Inode {
public:
    AnonymousInode(Superblock* superblock, u64 number, u32 mode)
        : Inode(superblock, number, mode), created_(current_time()) {}
    Result<Attributes> attributes() override {
        TRY(Attributes out, Inode::attributes());
        out.access_time = out.modify_time = out.change_time = created_;
        return out;
    }
    // fchmod(2) and fchown(2) of pipes and sockets work in Linux.
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override {
        if ((mask & set_size) != 0)
            return fail(EINVAL);
        SpinGuard guard(attributes_lock());
        if ((mask & set_mode) != 0)
            mode_ = type() | (wanted.mode & mode_permissions);
        if ((mask & set_uid) != 0)
            uid_ = wanted.uid;
        if ((mask & set_gid) != 0)
            gid_ = wanted.gid;
        return {};
    }

private:
    TimeSpec created_;
};

class AnonymousSuperblock : public Superblock {
public:
    Ref<Inode> root() override { return root_; }
    Result<FileSystemStats> stats() override {
        FileSystemStats out{};
        out.type = PIPEFS_MAGIC;
        out.block_size = page_size;
        out.name_max = Dentry::name_limit;
        return out;
    }
    const char* type() const override { return "anon_inodefs"; }
    Ref<Inode> root_;
};

struct Anonymous {
    Ref<AnonymousSuperblock> superblock;
    Ref<Mount> mount; // never attached
    base::Atomic<u64> next_number{2};
};

constinit Mutex creation;
constinit base::Atomic<Anonymous*> instance{nullptr};

Result<Anonymous*> anonymous() {
    if (Anonymous* made = instance.load(base::Order::Acquire))
        return made;
    MutexGuard guard(creation);
    if (Anonymous* made = instance.load(base::Order::Acquire))
        return made;
    TRY(Owned<Anonymous> fresh, make_owned<Anonymous>());
    TRY(fresh->superblock, make_ref<AnonymousSuperblock>());
    Superblock* superblock = fresh->superblock.get();
    TRY(Ref<Inode> root, make_ref<AnonymousInode>(superblock, u64{1}, u32{mode_directory | 0555}));
    fresh->superblock->root_ = root;
    TRY(Ref<Dentry> dentry, Dentry::make_root(*superblock, std::move(root)));
    TRY(fresh->mount, make_ref<Mount>(fresh->superblock, std::move(dentry),
                                      u32{MS_NOSUID | MS_NODEV | MS_NOEXEC}));
    instance.store(fresh.get(), base::Order::Release);
    return fresh.leak();
}

} // namespace

Result<Ref<Inode>> make_anonymous_inode(u32 mode) {
    TRY(Anonymous * home, anonymous());
    TRY(Ref<Inode> inode,
        make_ref<AnonymousInode>(home->superblock.get(),
                                 home->next_number.fetch_add(1, base::Order::Relaxed), mode));
    inode->uid_ = current_fsuid();
    inode->gid_ = current_fsgid();
    return inode;
}

Result<Path> path_of(File& file) {
    if (file.path())
        return file.path();
    if (file.inode() == nullptr)
        return fail(EBADF);
    TRY(Anonymous * home, anonymous());
    String name;
    if (!file.describe(name))
        TRY(name.append(file.type_name()));
    std::string_view text = name.view().substr(0, Dentry::name_limit);
    TRY(Ref<Dentry> dentry, DentryCache::make_unhashed(home->mount->root(), text,
                                                       Ref<Inode>::share(file.inode()), false));
    return Path(home->mount, std::move(dentry));
}

} // namespace kernel
