// The hooks of inotify: the VFS tells of events here; ipc/ registers who listens. Nearly free while
// nobody does.
#pragma once

#include <string_view>

#include "base/atomic.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/fs/path.hpp"

namespace kernel {

class Inode;
class Dentry;

// Watches that exist anywhere; kept by whoever adds and removes them.
extern base::Atomic<u32> notify_watches;

// `name` is empty for an event on the inode itself, else the child's name in the directory `inode`.
// `mask`: IN_* (IN_ISDIR included; IN_EXCL_UNLINK: the child has been unlinked). `cookie` pairs
// IN_MOVED_FROM with IN_MOVED_TO. Called without spin locks; may sleep.
using NotifyListener = void (*)(Inode& inode, u32 mask, u32 cookie, std::string_view name);
void set_notify_listener(NotifyListener listener);

void notify_event_slow(Inode& inode, u32 mask, std::string_view name, u32 cookie);
void notify_path_slow(const Path& path, u32 mask);

inline void notify_event(Inode& inode, u32 mask, std::string_view name, u32 cookie = 0) {
    if (notify_watches.load(base::Order::Relaxed) != 0) [[unlikely]]
        notify_event_slow(inode, mask, name, cookie);
}
// An event on an object: tells its own watches and, with its name, those of its directory.
inline void notify_path(const Path& path, u32 mask) {
    if (notify_watches.load(base::Order::Relaxed) != 0) [[unlikely]]
        notify_path_slow(path, mask);
}

} // namespace kernel
