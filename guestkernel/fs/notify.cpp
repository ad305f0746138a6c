#include "guestkernel/fs/notify.hpp"

#include <linux/inotify.h>

#include "guestkernel/fs/dentry.hpp"

namespace kernel {

constinit base::Atomic<u32> notify_watches{0};

namespace {
constinit NotifyListener the_listener = nullptr;
}

void set_notify_listener(NotifyListener listener) {
    the_listener = listener;
}

void notify_event_slow(Inode& inode, u32 mask, std::string_view name, u32 cookie) {
    if (the_listener != nullptr)
        the_listener(inode, mask, cookie, name);
}

void notify_path_slow(const Path& path, u32 mask) {
    Dentry* dentry = path.dentry();
    if (the_listener == nullptr || dentry == nullptr || dentry->is_negative())
        return;
    if (dentry->inode()->is_directory())
        mask |= IN_ISDIR;
    if (Ref<Dentry> parent = dentry->parent_ref())
        if (auto name = dentry->copy_name(); name && !parent->is_negative())
            the_listener(*parent->inode(), mask | (dentry->deleted() ? u32{IN_EXCL_UNLINK} : 0), 0,
                         name->view());
    the_listener(*dentry->inode(), mask, 0, {});
}

} // namespace kernel
