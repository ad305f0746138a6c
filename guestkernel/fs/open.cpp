// open(2): from a path to a file.
#include "guestkernel/fs/open.hpp"

#include <linux/errno.h>
#include <linux/fanotify.h>
#include <linux/fcntl.h>
#include <linux/inotify.h>
#include <linux/mount.h>

#include "guestkernel/fs/attributes.hpp"
#include "guestkernel/fs/landlock.hpp"
#include "guestkernel/fs/leases.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

// O_PATH: only a place.
class PathFile : public File {
public:
    using File::File;
    Result<usize> read(IoBuffer&, u64) override { return fail(EBADF); }
    Result<usize> write(IoBuffer&, u64) override { return fail(EBADF); }
    Result<u64> seek(i64, int) override { return fail(EBADF); }
    Result<u64> read_directory(DirectorySink&, u64) override { return fail(EBADF); }
    Result<long> ioctl(u32, u64) override { return fail(EBADF); }
    Result<void> sync(bool) override { return fail(EBADF); }
    Result<void> allocate(int, u64, u64) override { return fail(EBADF); }
    Result<void> truncate(u64) override { return fail(EBADF); }
    Result<Ref<PageCache>> mapping(u32, u32) override { return fail(EBADF); }
    Result<void> set_status_flags(u32) override { return fail(EBADF); }
};

u32 access_bits(u32 flags) {
    static constexpr u32 table[] = {may_read, may_write, may_read | may_write,
                                    may_read | may_write};
    return table[flags & O_ACCMODE] | ((flags & O_TRUNC) != 0 ? may_write : 0u);
}

u64 landlock_access(const Inode& inode, u32 flags) {
    const u32 may = access_bits(flags & ~u32{O_TRUNC});
    if (inode.is_directory())
        return landlock_read_dir;
    return ((may & may_read) != 0 ? u64{landlock_read_file} : 0u) |
           ((may & may_write) != 0 ? u64{landlock_write_file} : 0u);
}

constexpr u32 creation_flags = O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC;

// Device nodes of a file system that a user namespace mounted are names only; terminals are its
// own.
bool trusts_devices(Superblock& superblock) {
    return is_initial(superblock.user_ns.get()) || superblock.type() == std::string_view("devpts");
}

Result<void> check_open(const Path& path, u32 flags) {
    Inode& inode = *path.dentry()->inode();
    const u32 may = access_bits(flags);
    switch (inode.type()) {
    case mode_symlink:
        return fail(ELOOP);
    case mode_directory:
        if ((may & may_write) != 0 || (flags & O_CREAT) != 0)
            return fail(EISDIR);
        break;
    case mode_char:
    case mode_block:
        if ((path.mount()->flags() & MS_NODEV) != 0 || !trusts_devices(*inode.superblock()))
            return fail(EACCES);
        break;
    case mode_socket:
        return fail(ENXIO);
    default:
        break;
    }
    TRY(check_access(path, may));
    if (inode.is_append_only() &&
        (((flags & O_ACCMODE) != O_RDONLY && (flags & O_APPEND) == 0) || (flags & O_TRUNC) != 0))
        return fail(EPERM);
    if ((flags & O_NOATIME) != 0 && !owner_or_capable(inode))
        return fail(EPERM);
    return {};
}

Result<Ref<File>> open_inode(const Path& path, u32 flags) {
    Ref<Inode> inode = Ref<Inode>::share(path.dentry()->inode());
    const u32 kept = flags & ~creation_flags;
    switch (inode->type()) {
    case mode_fifo: {
        // What only looks like a FIFO opens itself (a console port, by way of /dev/stderr).
        auto own = inode->open(path, kept);
        if (own || own.error().code != ENXIO)
            return own;
        return open_fifo(path, std::move(inode), kept);
    }
    case mode_char: {
        TRY(const Attributes attributes, inode->attributes());
        return open_char_device(path, std::move(inode), kept, attributes.device_number);
    }
    case mode_block:
        return fail(ENXIO); // no block devices here
    default:
        return inode->open(path, kept);
    }
}

// That a regular file is open counts on the inode and on the mount, from before it is.
class OpenClaim {
public:
    OpenClaim(const Path& path, u32 flags) : path_(path), inode_(*path.dentry()->inode()) {
        const u32 may = access_bits(flags);
        if (inode_.is_regular())
            kind_ = (may & may_write) != 0 ? File::Claim::Write : File::Claim::Read;
        if ((flags & O_ACCMODE) == O_ACCMODE && kind_ == File::Claim::Read)
            kind_ = File::Claim::None;
    }
    ~OpenClaim() {
        if (!taken_)
            return;
        if (kind_ == File::Claim::Write) {
            inode_.write_count.fetch_sub(1);
            path_.mount()->writers.fetch_sub(1);
        } else {
            inode_.read_count.fetch_sub(1);
        }
    }
    OpenClaim(const OpenClaim&) = delete;
    OpenClaim& operator=(const OpenClaim&) = delete;
    Result<void> take() {
        if (kind_ == File::Claim::None)
            return {};
        if (kind_ == File::Claim::Write) {
            TRY(claim_write(inode_));
            path_.mount()->writers.fetch_add(1);
        } else {
            inode_.read_count.fetch_add(1);
        }
        taken_ = true;
        return {};
    }
    // What the file system opened in its place looks after itself.
    void give_to(File& file) {
        if (!taken_ || file.inode() != &inode_ || !(file.path() == path_))
            return;
        file.claim = kind_;
        taken_ = false;
    }

private:
    const Path& path_;
    Inode& inode_;
    File::Claim kind_ = File::Claim::None;
    bool taken_ = false;
};

} // namespace

Result<Ref<File>> open_checked(const Path& path, u32 flags, bool created, bool silent) {
    if ((flags & O_PATH) != 0) {
        TRY(Ref<PathFile> place,
            make_ref<PathFile>(path, Ref<Inode>::share(path.dentry()->inode()),
                               u32{O_PATH} | (flags & (O_DIRECTORY | O_NOFOLLOW))));
        return Ref<File>(std::move(place));
    }
    Inode& inode = *path.dentry()->inode();
    if (!created)
        TRY(check_open(path, flags));
    TRY(landlock_check(path, landlock_access(inode, flags)));
    OpenClaim claim(path, flags);
    TRY(claim.take());
    if (inode.is_regular())
        TRY(break_leases(inode, (access_bits(flags) & may_write) != 0, (flags & O_NONBLOCK) == 0));
    if (!silent)
        TRY(ask_to_use(path, FAN_OPEN_PERM));
    auto opened = open_inode(path, flags);
    if (!opened)
        return opened;
    (*opened)->silent = silent;
    claim.give_to(**opened);
    notify_file(**opened, IN_OPEN);
    if ((flags & O_TRUNC) != 0 && inode.is_regular() && !created)
        TRY(truncate_path(path, 0));
    return opened;
}

Result<Ref<File>> open_path(const Path& path, u32 flags) {
    return open_checked(path, flags, false);
}

namespace {

// Creates the last component unless somebody else just did. Returns whether it was created; `child`
// is what is there.
Result<bool> create_last(PathWalker& walker, u32 mode, Ref<Dentry>& child) {
    Dentry& parent = walker.dentry();
    Inode& directory = *parent.inode();
    MutexGuard guard(directory.mutex());
    TRY(Ref<Dentry> now, DentryCache::lookup_locked(parent, walker.last_name()));
    child = std::move(now);
    if (!child->is_negative())
        return false;
    if (walker.mount().read_only())
        return fail(EROFS);
    TRY(check_create(parent));
    TRY(landlock_check(walker.path(), landlock_make_reg));
    TRY(const NewOwner owner, new_owner(directory, mode_regular | (mode & mode_permissions)));
    auto inode = directory.create(walker.last_name(), owner.mode, 0, owner.uid, owner.gid);
    if (!inode && inode.error().code == EEXIST) {
        // Made by somebody behind the server since it was asked: it is opened as what was there
        // before. The dentry says that there is nothing.
        child = nullptr;
        DentryCache::forget(parent, walker.last_name());
        TRY(child, DentryCache::lookup_locked(parent, walker.last_name()));
        return child->is_negative() ? Result<bool>(fail(EEXIST)) : Result<bool>(false);
    }
    if (!inode)
        return fail(inode.error().code);
    TRY(give_acls(**inode, owner));
    TRY(Ref<Dentry> fresh, DentryCache::insert(parent, walker.last_name(), std::move(*inode)));
    child = std::move(fresh);
    return true;
}

// O_TMPFILE: a file without a name in the directory that was found.
Result<Ref<File>> open_unnamed(const Path& directory, u32 flags, u32 mode) {
    Inode& inode = *directory.dentry()->inode();
    if (!inode.is_directory())
        return fail(ENOTDIR);
    if (directory.mount()->read_only())
        return fail(EROFS);
    TRY(check_permission(inode, may_write | may_exec));
    TRY(const NewOwner owner, new_owner(inode, mode_regular | (mode & mode_permissions)));
    Ref<Inode> fresh;
    {
        MutexGuard guard(inode.mutex());
        TRY(Ref<Inode> made, inode.create_unnamed(owner.mode, owner.uid, owner.gid));
        fresh = std::move(made);
        TRY(give_acls(*fresh, owner));
        fresh->linkable.store((flags & O_EXCL) == 0 ? 1 : 0);
    }
    char name[24];
    const usize length = log::format(name, sizeof name, "#{}", fresh->number());
    TRY(Ref<Dentry> dentry,
        DentryCache::make_unhashed(*directory.dentry(), std::string_view(name, length),
                                   std::move(fresh), true));
    // O_DIRECTORY is part of O_TMPFILE's value and says nothing about the file.
    return open_checked(Path(Ref<Mount>::share(directory.mount()), std::move(dentry)),
                        flags & ~u32{O_TMPFILE}, true);
}

// Which flags count, and which contradict each other (open(2)).
Result<void> normalize_flags(u32& flags) {
    if ((flags & O_PATH) != 0) {
        flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
        return {};
    }
    if ((flags & __O_TMPFILE) != 0) {
        if ((flags & O_TMPFILE) != O_TMPFILE || (access_bits(flags) & may_write) == 0 ||
            (flags & O_CREAT) != 0)
            return fail(EINVAL);
    } else if ((flags & (O_CREAT | O_DIRECTORY)) == (O_CREAT | O_DIRECTORY)) {
        return fail(EINVAL);
    }
    flags |= O_LARGEFILE; // as Linux does for 64-bit programs; fcntl(F_GETFL) shows it
    return {};
}

} // namespace

u32 current_umask() {
    const FsContext* context = current_task().fs.get();
    return context == nullptr ? 0 : context->umask();
}

Result<Ref<File>> open_walk(PathWalker& walker, u32 flags, u32 mode) {
    TRY(normalize_flags(flags));
    if ((flags & __O_TMPFILE) != 0) {
        TRY(Path directory, walker.finish());
        return open_unnamed(directory, flags, mode);
    }
    const bool creates = (flags & O_CREAT) != 0;
    const bool exclusive = creates && (flags & O_EXCL) != 0;
    const bool follows = (flags & O_NOFOLLOW) == 0 && !exclusive;
    bool created = false;
    for (;;) {
        TRY(walker.walk_parent());
        if (walker.last() != PathWalker::Last::Name) {
            if (exclusive)
                return fail(EEXIST);
            break;
        }
        if (creates && walker.trailing_slash())
            return fail(EISDIR);
        TRY(Ref<Dentry> child, walker.lookup_last());
        if (child->is_negative()) {
            if (!creates)
                return fail(ENOENT);
            TRY(created, create_last(walker, mode, child));
        }
        if (!created) {
            if (exclusive)
                return fail(EEXIST);
            if (child->inode()->is_symlink()) {
                if (follows || walker.trailing_slash()) {
                    TRY(walker.follow(*child));
                    continue;
                }
                if ((flags & O_PATH) == 0)
                    return fail((flags & O_DIRECTORY) != 0 ? ENOTDIR : ELOOP);
            }
        }
        TRY(walker.step_into(std::move(child)));
        break;
    }
    const Path path = walker.path();
    if (((flags & O_DIRECTORY) != 0 || walker.trailing_slash()) &&
        !path.dentry()->inode()->is_directory())
        return fail(ENOTDIR);
    if (created)
        if (Ref<Dentry> parent = path.dentry()->parent_ref())
            notify_entry(*parent, IN_CREATE, path.dentry()->name(), path.dentry()->inode());
    return open_checked(path, flags, created);
}

Result<Ref<File>> open_file(int directory, std::string_view name, u32 flags, u32 mode) {
    PathWalker walker(0);
    TRY(walker.start(directory, name));
    return open_walk(walker, flags, mode);
}

Result<Ref<File>> open_for_exec(int directory, std::string_view name, u32 at_flags) {
    u32 flags = (at_flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0u : u32{lookup_follow};
    if ((at_flags & AT_EMPTY_PATH) != 0)
        flags |= lookup_empty_path;
    TRY(Path path, lookup_path(directory, name, flags));
    Inode& inode = *path.dentry()->inode();
    if (inode.is_symlink())
        return fail(ELOOP);
    if (!inode.is_regular() || (path.mount()->flags() & MS_NOEXEC) != 0)
        return fail(EACCES);
    TRY(check_permission(inode, may_exec));
    TRY(landlock_check(path, landlock_execute | landlock_read_file));
    TRY(claim_deny_write(inode));
    inode.read_count.fetch_add(1);
    const auto open_program = [&]() -> Result<Ref<File>> {
        TRY(break_leases(inode, false, true));
        TRY(ask_to_use(path, FAN_OPEN_EXEC_PERM));
        TRY(ask_to_use(path, FAN_OPEN_PERM));
        return inode.open(path, O_RDONLY | O_LARGEFILE);
    };
    auto opened = open_program();
    if (opened && (*opened)->inode() == &inode) {
        (*opened)->claim = File::Claim::DenyWrite;
    } else {
        inode.write_count.fetch_add(1);
        inode.read_count.fetch_sub(1);
    }
    if (opened)
        notify_path(path, IN_OPEN | FAN_OPEN_EXEC);
    return opened;
}

Result<usize> read_file(File& file, void* to, usize bytes, u64 offset) {
    usize done = 0;
    while (done < bytes) {
        IoBuffer buffer(static_cast<u8*>(to) + done, bytes - done);
        auto got = file.read(buffer, offset + done);
        if (!got)
            return done != 0 ? Result<usize>(done) : std::move(got);
        if (*got == 0)
            break;
        done += *got;
    }
    return done;
}

} // namespace kernel
