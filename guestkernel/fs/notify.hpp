// The hooks of inotify, dnotify and fanotify: the VFS tells of events here, ipc/ knows who listens.
// Nearly free while nobody does.
#pragma once

#include <string_view>

#include "base/atomic.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/fs/path.hpp"

namespace kernel {

class Inode;
class Dentry;
class Superblock;

// Who listens anywhere, and who wants to be asked; kept by whoever adds and removes them.
extern base::Atomic<u32> notify_watches;
extern base::Atomic<u32> permission_watches;

// What happened. Null: not known, or not part of it.
struct NotifyEvent {
    u32 mask = 0;   // IN_*, which FAN_* continue (IN_ISDIR included; IN_EXCL_UNLINK: unlinked)
    u32 cookie = 0; // pairs IN_MOVED_FROM with IN_MOVED_TO
    std::string_view name; // in the directory
    Inode* directory = nullptr;
    Dentry* directory_place = nullptr;
    Inode* object = nullptr;
    Dentry* object_place = nullptr;
    Mount* mount = nullptr;          // by which it was reached
    bool entry = false;              // the directory changed, not the object
    Dentry* new_directory = nullptr; // FAN_RENAME
    std::string_view new_name;
};

// All are called without spin locks, and may sleep.
void notify_slow(const NotifyEvent& event);
void notify_path_slow(const Path& path, u32 mask);
void notify_entry_slow(Dentry& directory, u32 mask, std::string_view name, Inode* child,
                       u32 cookie);
Result<void> ask_slow(const Path& path, u32 mask);
void forget_notify_target_slow(const void* target);
void forget_unmounted_slow(const Superblock& superblock);

// `name` is empty for an event on the inode itself, else the child's name in the directory `inode`.
inline void notify_event(Inode& inode, u32 mask, std::string_view name, u32 cookie = 0) {
    if (notify_watches.load(base::Order::Relaxed) == 0) [[likely]]
        return;
    NotifyEvent event{.mask = mask, .cookie = cookie, .name = name};
    event.entry = !name.empty();
    (name.empty() ? event.object : event.directory) = &inode;
    notify_slow(event);
}
// An entry of a directory came, went or moved.
inline void notify_entry(Dentry& directory, u32 mask, std::string_view name, Inode* child,
                         u32 cookie = 0) {
    if (notify_watches.load(base::Order::Relaxed) != 0) [[unlikely]]
        notify_entry_slow(directory, mask, name, child, cookie);
}
inline void notify_rename_pair(const NotifyEvent& event) {
    if (notify_watches.load(base::Order::Relaxed) != 0) [[unlikely]]
        notify_slow(event);
}
// An event on an object: tells its own watches and, with its name, those of its directory.
inline void notify_path(const Path& path, u32 mask) {
    if (notify_watches.load(base::Order::Relaxed) != 0) [[unlikely]]
        notify_path_slow(path, mask);
}
inline void notify_file(const File& file, u32 mask) {
    if (notify_watches.load(base::Order::Relaxed) != 0 && !file.silent) [[unlikely]]
        notify_path_slow(file.path(), mask);
}
// Whether listeners let it happen: FAN_*_PERM. EPERM, EINTR.
inline Result<void> ask_to_use(const Path& path, u32 mask) {
    if (permission_watches.load(base::Order::Relaxed) == 0) [[likely]]
        return {};
    return ask_slow(path, mask);
}
// A mount or a file system goes.
inline void forget_notify_target(const void* target) {
    if (notify_watches.load(base::Order::Relaxed) != 0) [[unlikely]]
        forget_notify_target_slow(target);
}

// A file system has lost its last mount: nobody is told of its files any more (inotify(7),
// IN_UNMOUNT).
inline void forget_unmounted(const Superblock& superblock) {
    if (notify_watches.load(base::Order::Relaxed) != 0) [[unlikely]]
        forget_unmounted_slow(superblock);
}

// close(2) of a descriptor by a file table: its F_NOTIFY goes.
void end_directory_notice(const File& file, const void* table);

// ipc/: what each kind of listener makes of it.
void tell_inotify(const NotifyEvent& event);
void tell_dnotify(const NotifyEvent& event);
void tell_fanotify(const NotifyEvent& event);
Result<void> ask_fanotify(const NotifyEvent& event);

} // namespace kernel
