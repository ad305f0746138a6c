#include "guestkernel/ipc/dnotify.hpp"

#include <linux/errno.h>
#include <linux/fanotify.h>
#include <linux/fcntl.h>
#include <linux/inotify.h>

#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/ipc/inode_watches.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constinit Mutex notices_mutex;

// What DN_* means in events of a directory; DN_RENAME is about names that stay in it.
u32 events_of(u32 mask) {
    struct Row {
        u32 bit, events;
    };
    static constexpr Row rows[] = {
        {DN_ACCESS, IN_ACCESS},
        {DN_MODIFY, IN_MODIFY},
        {DN_CREATE, IN_CREATE | IN_MOVED_TO},
        {DN_DELETE, IN_DELETE | IN_MOVED_FROM},
        {DN_RENAME, FAN_RENAME},
        {DN_ATTRIB, IN_ATTRIB},
    };
    u32 events = 0;
    for (const Row& row : rows)
        if ((mask & row.bit) != 0)
            events |= row.events;
    return events;
}

// Requires: the mutex. What it was is the caller's to delete, without the mutex.
Owned<DirectoryNotice> end_notice(DirectoryNotice& notice) {
    notice.inode_node.unlink();
    notify_watches.fetch_sub(1);
    return Owned<DirectoryNotice>(&notice);
}

DirectoryNotice* find_notice(InodeWatches& watches, const File& file, const void* table) {
    for (DirectoryNotice& notice : watches.notices)
        if (notice.file == &file && notice.table == table)
            return &notice;
    return nullptr;
}

void tell_directory(Inode& directory, u32 mask) {
    if (directory.watches == nullptr || directory.watches->notices.empty())
        return;
    base::IntrusiveList<DirectoryNotice, &DirectoryNotice::inode_node> ended;
    {
        MutexGuard guard(notices_mutex);
        auto& list = directory.watches->notices;
        for (DirectoryNotice* notice = list.front(); notice != nullptr;) {
            DirectoryNotice* following = list.next(*notice);
            if ((notice->mask & mask) != 0) {
                notice->owner->tell_message(notice->fd);
                if (!notice->repeats)
                    ended.push_back(*end_notice(*notice).leak());
            }
            notice = following;
        }
    }
    while (DirectoryNotice* notice = ended.pop_front())
        delete notice;
}

} // namespace

void tell_dnotify(const NotifyEvent& event) {
    Inode* own = event.object != nullptr && !event.entry && event.object->is_directory()
                     ? event.object
                     : nullptr;
    if (event.directory != nullptr)
        tell_directory(*event.directory, event.mask);
    if (own != nullptr)
        tell_directory(*own, event.mask);
}

Result<void> watch_directory(Task& task, int fd, Ref<File> file, u32 mask) {
    const FileTable* table = task.files.get();
    if ((mask & ~u32{DN_MULTISHOT}) == 0) {
        end_directory_notice(*file, table);
        return {};
    }
    if (file->inode() == nullptr || !file->inode()->is_directory())
        return fail(ENOTDIR);
    TRY(Owned<DirectoryNotice> fresh, make_owned<DirectoryNotice>());
    TRY(InodeWatches * watches, watches_of(*file->inode()));
    TRY(FileOwner * owner, FileOwner::of(*file));
    TRY(owner->set_if_none());
    {
        MutexGuard guard(notices_mutex);
        DirectoryNotice* notice = find_notice(*watches, *file, table);
        if (notice == nullptr) {
            notice = fresh.leak();
            notice->file = file.get();
            notice->table = table;
            notice->owner = Ref<FileOwner>::share(owner);
            watches->notices.push_back(*notice);
            notify_watches.fetch_add(1);
        }
        notice->mask |= events_of(mask);
        notice->repeats = notice->repeats || (mask & DN_MULTISHOT) != 0;
        notice->fd = fd;
    }
    // Another thread may have closed the descriptor meanwhile: then nobody would end it.
    auto now = task.files->get(fd);
    if (!now || now->get() != file.get()) {
        end_directory_notice(*file, table);
        return fail(EBADF);
    }
    return {};
}

void end_directory_notice(const File& file, const void* table) {
    InodeWatches* watches = file.inode() == nullptr ? nullptr : file.inode()->watches;
    if (watches == nullptr || watches->notices.empty())
        return;
    Owned<DirectoryNotice> ended;
    MutexGuard guard(notices_mutex);
    if (DirectoryNotice* notice = find_notice(*watches, file, table))
        ended = end_notice(*notice);
    guard.unlock();
}

void end_directory_notices(InodeWatches& watches) {
    base::IntrusiveList<DirectoryNotice, &DirectoryNotice::inode_node> ended;
    {
        MutexGuard guard(notices_mutex);
        while (DirectoryNotice* notice = watches.notices.front())
            ended.push_back(*end_notice(*notice).leak());
    }
    while (DirectoryNotice* notice = ended.pop_front())
        delete notice;
}

} // namespace kernel
