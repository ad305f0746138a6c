#include "guestkernel/fs/notify.hpp"

#include <linux/inotify.h>

#include "guestkernel/fs/dentry.hpp"

namespace kernel {

constinit base::Atomic<u32> notify_watches{0};
constinit base::Atomic<u32> permission_watches{0};

void notify_slow(const NotifyEvent& event) {
    tell_inotify(event);
    tell_dnotify(event);
    tell_fanotify(event);
}

void notify_entry_slow(Dentry& directory, u32 mask, std::string_view name, Inode* child,
                       u32 cookie) {
    if (directory.is_negative())
        return;
    notify_slow({.mask = mask,
                 .cookie = cookie,
                 .name = name,
                 .directory = directory.inode(),
                 .directory_place = &directory,
                 .object = child,
                 .entry = true});
}

namespace {

// Calls `use(event)` for what happens to what the path names; not at all where that is nothing.
template <typename Use>
Result<void> with_event(const Path& path, u32 mask, Use&& use) {
    Dentry* dentry = path.dentry();
    if (dentry == nullptr || dentry->is_negative())
        return {};
    NotifyEvent event{
        .mask = mask, .object = dentry->inode(), .object_place = dentry, .mount = path.mount()};
    if (dentry->inode()->is_directory())
        event.mask |= IN_ISDIR;
    Ref<Dentry> parent = dentry->parent_ref();
    String name;
    if (parent && !parent->is_negative()) {
        if (auto copy = dentry->copy_name()) {
            name = std::move(*copy);
            event.name = name.view();
            event.directory = parent->inode();
            event.directory_place = parent.get();
            if (dentry->deleted())
                event.mask |= IN_EXCL_UNLINK;
        }
    }
    return use(event);
}

} // namespace

void notify_path_slow(const Path& path, u32 mask) {
    (void)with_event(path, mask, [](const NotifyEvent& event) -> Result<void> {
        notify_slow(event);
        return {};
    });
}

Result<void> ask_slow(const Path& path, u32 mask) {
    return with_event(path, mask, ask_fanotify);
}

} // namespace kernel
