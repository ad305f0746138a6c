// A mark of fanotify(7): what a group wants to hear of an inode, a mount or a file system.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/fs/dentry.hpp"

namespace kernel {

class FanotifyFile;

// Under the mutex of all marks.
struct FanotifyMark {
    enum class On : u8 { Inode, Mount, Superblock };
    FanotifyFile* group = nullptr;
    On on = On::Inode;
    const void* target = nullptr; // not a reference: its end ends the mark
    Ref<Dentry> place; // of inodes: keeps it in memory until it is unlinked; evictable marks do not
    u32 mask = 0;
    u32 ignored = 0;
    bool ignore_flags =
        false; // FAN_MARK_IGNORE: FAN_ONDIR and FAN_EVENT_ON_CHILD count in `ignored`
    bool survives_modify = false; // so does what is ignored
    bool evictable = false;
    u64 file_system = 0; // as statfs(2) numbers it
    u64 device = 0;
    u32 mount_id = 0;
    base::ListNode target_node; // of the inode's or of all wide marks
    base::ListNode group_node;
};

} // namespace kernel
