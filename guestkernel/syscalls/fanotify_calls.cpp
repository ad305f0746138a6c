// fanotify_init(2), fanotify_mark(2).
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fanotify.h>
#include <linux/fcntl.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/ipc/fanotify.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/socket_calls.hpp"

namespace kernel {

namespace {

constexpr u32 questions = FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM;
constexpr u32 path_events = FAN_ACCESS | FAN_MODIFY | FAN_CLOSE | FAN_OPEN | FAN_OPEN_EXEC;
constexpr u32 entry_events = FAN_CREATE | FAN_DELETE | FAN_MOVE | FAN_RENAME;
constexpr u32 inode_events =
    entry_events | FAN_ATTRIB | FAN_MOVE_SELF | FAN_DELETE_SELF | FAN_FS_ERROR;
constexpr u32 modifiers = FAN_ONDIR | FAN_EVENT_ON_CHILD;
constexpr u32 known_events = path_events | inode_events | questions | modifiers;

constexpr u32 privileged_modes = FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT | FAN_REPORT_TID |
                                 FAN_REPORT_PIDFD | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS |
                                 FAN_ENABLE_AUDIT;
constexpr u32 report_modes =
    FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME | FAN_REPORT_TARGET_FID;
constexpr u32 known_modes = privileged_modes | report_modes | FAN_CLOEXEC | FAN_NONBLOCK;

constexpr u32 mark_types = FAN_MARK_MOUNT | FAN_MARK_FILESYSTEM;
constexpr u32 mark_commands = FAN_MARK_ADD | FAN_MARK_REMOVE | FAN_MARK_FLUSH;
constexpr u32 ignore_flags = FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORE;
constexpr u32 known_marks = mark_types | mark_commands | ignore_flags |
                            FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_EVICTABLE |
                            FAN_MARK_DONT_FOLLOW | FAN_MARK_ONLYDIR;

bool any(u32 value, u32 bits) {
    return (value & bits) != 0;
}
bool all(u32 value, u32 bits) {
    return (value & bits) == bits;
}

// What of a mark's mask does not go with the group's kind or with each other.
Result<void> check_mark(const FanotifyFile& group, u32 flags, u32 mask) {
    const u32 type = flags & mark_types;
    if (type != FAN_MARK_INODE && !group.trusted())
        return fail(EPERM);
    if (any(mask, questions) && (group.mode() & FAN_ALL_CLASS_BITS) == FAN_CLASS_NOTIF)
        return fail(EINVAL);
    if (any(mask, FAN_FS_ERROR) && type != FAN_MARK_FILESYSTEM)
        return fail(EINVAL);
    if (any(flags, FAN_MARK_EVICTABLE) && type != FAN_MARK_INODE)
        return fail(EINVAL);
    // A descriptor says nothing about an entry of a directory; nor does a mount.
    if (any(mask, inode_events) && (!group.by_handle() || type == FAN_MARK_MOUNT))
        return fail(EINVAL);
    if (any(mask, FAN_RENAME) && !any(group.mode(), FAN_REPORT_NAME))
        return fail(EINVAL);
    return {};
}

// ... or with what is marked.
Result<void> check_target(const FanotifyFile& group, const Path& path, u32 flags, u32 mask) {
    const bool directory = path.dentry()->inode()->is_directory();
    const u32 type = flags & mark_types;
    if (all(flags, FAN_MARK_ADD | FAN_MARK_IGNORE) && !any(flags, FAN_MARK_IGNORED_SURV_MODIFY) &&
        (type != FAN_MARK_INODE || directory))
        return fail(type != FAN_MARK_INODE ? EINVAL : EISDIR);
    if (type != FAN_MARK_INODE && path.mount() == nullptr)
        return fail(EINVAL); // pipes and sockets are on no mount
    const bool strict = any(group.mode(), FAN_REPORT_TARGET_FID) || any(mask, FAN_RENAME) ||
                        any(flags, FAN_MARK_IGNORE);
    if (type == FAN_MARK_INODE && strict && !directory && any(mask, entry_events | modifiers))
        return fail(ENOTDIR);
    return {};
}

Result<Path> marked_path(Task& task, int directory, u64 name, u32 flags) {
    if (name == 0) {
        TRY(Ref<File> file, task.files->get(directory));
        TRY(Path path, path_of(*file));
        if (any(flags, FAN_MARK_ONLYDIR) && !path.dentry()->inode()->is_directory())
            return fail(ENOTDIR);
        return path;
    }
    TRY(String text, copy_path(name));
    const u32 lookup = (any(flags, FAN_MARK_DONT_FOLLOW) ? 0u : u32{lookup_follow}) |
                       (any(flags, FAN_MARK_ONLYDIR) ? u32{lookup_directory} : 0u);
    return lookup_path(directory, text.view(), lookup);
}

} // namespace

Result<long> sys_fanotify_init(Task& task, u32 flags, u32 event_flags) {
    constexpr u32 known_event_flags =
        O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_CLOEXEC | O_LARGEFILE | O_NOATIME;
    const u32 kind = flags & FAN_ALL_CLASS_BITS;
    const bool trusted = has_capability(current_credentials(), CAP_SYS_ADMIN);
    if (!trusted && (any(flags, privileged_modes) || !any(flags, report_modes)))
        return fail(EPERM);
    if (any(flags, ~known_modes) || kind == FAN_ALL_CLASS_BITS)
        return fail(EINVAL);
    if (all(flags, FAN_REPORT_PIDFD | FAN_REPORT_TID))
        return fail(EINVAL);
    if (any(event_flags, ~known_event_flags) || all(event_flags, O_ACCMODE))
        return fail(EINVAL);
    if (any(flags, report_modes) && kind != FAN_CLASS_NOTIF)
        return fail(EINVAL);
    if (any(flags, FAN_REPORT_NAME) && !any(flags, FAN_REPORT_DIR_FID))
        return fail(EINVAL);
    if (any(flags, FAN_REPORT_TARGET_FID) && !all(flags, FAN_REPORT_NAME | FAN_REPORT_FID))
        return fail(EINVAL);
    TRY(Ref<File> file, make_fanotify_file(flags, event_flags | O_LARGEFILE, trusted));
    TRY(const int fd, task.files->install(std::move(file), any(flags, FAN_CLOEXEC)));
    return fd;
}

Result<long> sys_fanotify_mark(Task& task, int fd, u32 flags, u64 wide_mask, int directory,
                               u64 name) {
    if ((wide_mask >> 32) != 0)
        return fail(EINVAL);
    auto mask = static_cast<u32>(wide_mask);
    const u32 command = flags & mark_commands;
    if (any(flags, ~known_marks) || all(flags, mark_types) || all(flags, ignore_flags))
        return fail(EINVAL);
    if (command == FAN_MARK_FLUSH) {
        if (any(flags, ~(mark_types | FAN_MARK_FLUSH)))
            return fail(EINVAL);
    } else if ((command != FAN_MARK_ADD && command != FAN_MARK_REMOVE) || mask == 0) {
        return fail(EINVAL);
    }
    if (any(mask, ~known_events))
        return fail(EINVAL);
    if (any(flags, FAN_MARK_IGNORED_MASK))
        mask &= ~modifiers;
    TRY(Ref<File> file, usable_file(task, fd));
    auto* group = file_as<FanotifyFile>(*file);
    if (group == nullptr)
        return fail(EINVAL);
    TRY(check_mark(*group, flags, mask));
    if (command == FAN_MARK_FLUSH) {
        group->flush_marks(any(flags, FAN_MARK_FILESYSTEM) ? FanotifyMark::On::Superblock
                           : any(flags, FAN_MARK_MOUNT)    ? FanotifyMark::On::Mount
                                                           : FanotifyMark::On::Inode);
        return 0;
    }
    TRY(const Path path, marked_path(task, directory, name, flags));
    TRY(check_access(path, may_read));
    TRY(check_target(*group, path, flags, mask));
    if ((flags & mark_types) != FAN_MARK_INODE || !path.dentry()->inode()->is_directory())
        mask &= ~u32{FAN_EVENT_ON_CHILD};
    if (command == FAN_MARK_ADD)
        TRY(group->add_mark(path, flags, mask));
    else
        TRY(group->remove_mark(path, flags, mask));
    return 0;
}

} // namespace kernel
