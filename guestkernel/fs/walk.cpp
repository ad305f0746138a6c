#include "guestkernel/fs/walk.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>

#include "guestkernel/fs/permission.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

std::string_view skip_slashes(std::string_view text) {
    while (!text.empty() && text.front() == '/')
        text.remove_prefix(1);
    return text;
}

Path task_root() {
    const FsContext* context = current_task().fs.get();
    return context == nullptr ? MountTree::root() : context->root();
}

Path task_cwd() {
    const FsContext* context = current_task().fs.get();
    return context == nullptr ? MountTree::root() : context->cwd();
}

} // namespace

Result<void> PathWalker::start(int directory, std::string_view name) {
    if (!name.empty() && name.front() == '/' && (flags_ & (lookup_in_root | lookup_beneath)) == 0)
        return start_from(Path(), name);
    if (directory == at_fdcwd)
        return start_from(task_cwd(), name);
    const FileTable* files = current_task().files.get();
    if (files == nullptr)
        return fail(EBADF);
    TRY(Ref<File> file, files->get(directory));
    if (name.empty()) {
        TRY(Path path, path_of(*file));
        return start_from(path, name);
    }
    if (!file->path() || !file->inode()->is_directory())
        return fail(ENOTDIR);
    return start_from(file->path(), name);
}

Result<void> PathWalker::start_from(const Path& start, std::string_view name) {
    if (name.empty() && (flags_ & lookup_empty_path) == 0)
        return fail(ENOENT);
    changes_ = way_changes();
    root_ = scoped() ? start : task_root();
    const bool absolute = !name.empty() && name.front() == '/';
    if (absolute && (flags_ & lookup_beneath) != 0)
        return fail(EXDEV);
    const Path& from = absolute || !start ? root_ : start;
    if (!from)
        return fail(ENOENT);
    mount_ = Ref<Mount>::share(from.mount());
    dentry_ = Ref<Dentry>::share(from.dentry());
    last_ = absolute ? Last::Root : Last::Jumped;
    rest_ = name;
    return {};
}

Result<void> PathWalker::cross(Ref<Mount>& mount, Ref<Dentry>& dentry) {
    if (dentry->mounts.load(base::Order::Relaxed) != 0 && MountTree::cross_down(mount, dentry) &&
        (flags_ & lookup_no_xdev) != 0)
        return fail(EXDEV);
    return {};
}

Result<void> PathWalker::step_up() {
    for (;;) {
        if (dentry_.get() == root_.dentry() && mount_.get() == root_.mount())
            return (flags_ & lookup_beneath) != 0 ? Result<void>(fail(EXDEV)) : Result<void>();
        if (dentry_.get() != &mount_->root())
            break;
        if (!MountTree::cross_up(mount_, dentry_))
            return {};
        if ((flags_ & lookup_no_xdev) != 0)
            return fail(EXDEV);
    }
    Ref<Dentry> parent = dentry_->parent_ref();
    if (parent) {
        // A directory may have been moved out of the part that a bind mount shows; what is above it
        // then is not the mount's to show.
        if (!mount_->root().is_root() && !is_descendant(*parent, mount_->root()))
            return fail(ENOENT);
        dentry_ = std::move(parent);
    }
    // openat2(2): what was moved out of the root meanwhile leads up past it.
    if (scoped() && way_changes() != changes_)
        return fail(EAGAIN);
    return cross(mount_, dentry_);
}

Result<void> PathWalker::follow_link(Dentry& link, std::string_view rest) {
    if (++links_ > link_limit || (flags_ & lookup_no_symlinks) != 0 ||
        (mount_->flags() & MS_NOSYMFOLLOW) != 0)
        return fail(ELOOP);
    Inode& inode = *link.inode();
    inode.note_accessed(false);
    if (inode.is_magic_link()) {
        if ((flags_ & lookup_no_magic_links) != 0)
            return fail(ELOOP);
        auto place = inode.follow_magic();
        if (place) {
            if (scoped())
                return fail(EXDEV);
            if ((flags_ & lookup_no_xdev) != 0 && place->mount() != mount_.get())
                return fail(EXDEV);
            mount_ = Ref<Mount>::share(place->mount());
            dentry_ = Ref<Dentry>::share(place->dentry());
            rest_ = rest;
            last_ = Last::Jumped;
            return {};
        }
        if (place.error().code != ENOENT)
            return fail(place.error().code);
    }
    TRY(String target, inode.readlink());
    if (target.empty())
        return fail(ENOENT);
    if (target.view().front() == '/') {
        if ((flags_ & lookup_beneath) != 0)
            return fail(EXDEV);
        if ((flags_ & lookup_no_xdev) != 0 && mount_.get() != root_.mount())
            return fail(EXDEV);
        mount_ = Ref<Mount>::share(root_.mount());
        dentry_ = Ref<Dentry>::share(root_.dentry());
        last_ = Last::Root;
    }
    TRY(pending_.push_back(Pending{std::move(target), rest}));
    if (!rest.empty())
        unfinished_++;
    rest_ = pending_.back().text.view();
    return {};
}

Result<Ref<Dentry>> PathWalker::child(std::string_view name) {
    if ((flags_ & lookup_cached) == 0)
        return DentryCache::lookup(*dentry_, name);
    Ref<Dentry> found = DentryCache::find(*dentry_, name);
    if (!found)
        return fail(EAGAIN); // openat2(2), RESOLVE_CACHED: the caller then asks without it
    return found;
}

Result<void> PathWalker::walk_parent() {
    for (;;) {
        rest_ = skip_slashes(rest_);
        if (rest_.empty()) {
            if (unfinished_ == 0)
                return {};
            // Back to the innermost text that goes on. The used-up ones stay: last_name_ may point
            // into them.
            usize i = pending_.size() - 1;
            while (pending_[i].rest.empty())
                i--;
            rest_ = std::exchange(pending_[i].rest, {});
            unfinished_--;
            continue;
        }
        Inode& directory = *dentry_->inode();
        if (!directory.is_directory())
            return fail(ENOTDIR);
        TRY(check_search(directory));
        usize length = 0;
        while (length < rest_.size() && rest_[length] != '/')
            length++;
        const std::string_view name = rest_.substr(0, length);
        const std::string_view after = skip_slashes(rest_.substr(length));
        const bool is_last = after.empty() && unfinished_ == 0;
        if (is_last && length < rest_.size())
            trailing_slash_ = true;
        rest_ = after;
        if (name == ".") {
            last_ = Last::Dot;
            continue;
        }
        if (name == "..") {
            TRY(step_up());
            last_ = Last::DotDot;
            continue;
        }
        if (is_last) {
            last_ = Last::Name;
            last_name_ = name;
            return {};
        }
        TRY(Ref<Dentry> child, this->child(name));
        if (child->is_negative())
            return fail(ENOENT);
        if (child->inode()->is_symlink()) {
            TRY(follow_link(*child, after));
            continue;
        }
        dentry_ = std::move(child);
        const Mount* before = mount_.get();
        TRY(cross(mount_, dentry_));
        if (mount_.get() != before)
            MountTree::note_use(*mount_);
    }
}

Result<void> PathWalker::step_into(Ref<Dentry> child) {
    dentry_ = std::move(child);
    return cross(mount_, dentry_);
}

Result<Path> PathWalker::finish() {
    for (;;) {
        TRY(walk_parent());
        if (last_ != Last::Name)
            break;
        TRY(Ref<Dentry> child, lookup_last());
        if (child->is_negative())
            return fail(ENOENT);
        if (child->inode()->is_symlink() && ((flags_ & lookup_follow) != 0 || trailing_slash_)) {
            TRY(follow(*child));
            continue;
        }
        TRY(step_into(std::move(child)));
        break;
    }
    if (((flags_ & lookup_directory) != 0 || trailing_slash_) && !dentry_->inode()->is_directory())
        return fail(ENOTDIR);
    return Path(std::move(mount_), std::move(dentry_));
}

Result<Path> lookup_path(int directory, std::string_view name, u32 flags) {
    PathWalker walker(flags);
    TRY(walker.start(directory, name));
    return walker.finish();
}

Result<Path> lookup_path_from(const Path& start, std::string_view name, u32 flags) {
    PathWalker walker(flags);
    TRY(walker.start_from(start, name));
    return walker.finish();
}

} // namespace kernel
