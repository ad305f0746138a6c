// The marks of fanotify, and which groups an event is for.
#include <linux/errno.h>
#include <linux/fanotify.h>

#include "guestkernel/fs/mount.hpp"
#include "guestkernel/ipc/fanotify.hpp"
#include "guestkernel/ipc/fanotify_internal.hpp"
#include "guestkernel/ipc/inode_watches.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

constinit Mutex fanotify_mutex;

namespace {

constexpr u32 questions = FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM;
// Events of an object that its directory can hear of too.
constexpr u32 events_of_children =
    FAN_ACCESS | FAN_MODIFY | FAN_ATTRIB | FAN_CLOSE | FAN_OPEN | FAN_OPEN_EXEC | questions;

// Of mounts and file systems; few, and only by who has CAP_SYS_ADMIN.
constinit base::IntrusiveList<FanotifyMark, &FanotifyMark::target_node> wide_marks;
constinit base::IntrusiveList<FanotifyFile, &FanotifyFile::all_node> groups;
constinit base::Atomic<u32> mark_total{0};

bool asks(const FanotifyMark& mark) {
    return (mark.mask & questions) != 0;
}

// Marks that were ended, to be deleted when the mutex is no longer held: their places may be the
// last holders of inodes.
class EndedMarks {
public:
    ~EndedMarks() {
        while (FanotifyMark* mark = list_.pop_front())
            delete mark;
    }
    // Requires: the mutex.
    void end(FanotifyMark& mark) {
        if (asks(mark))
            permission_watches.fetch_sub(1);
        notify_watches.fetch_sub(1);
        mark_total.fetch_sub(1);
        mark.group->mark_count--;
        mark.target_node.unlink();
        mark.group_node.unlink();
        list_.push_back(mark);
    }

private:
    base::IntrusiveList<FanotifyMark, &FanotifyMark::group_node> list_;
};

FanotifyMark::On on_what(u32 flags) {
    return (flags & FAN_MARK_FILESYSTEM) != 0 ? FanotifyMark::On::Superblock
           : (flags & FAN_MARK_MOUNT) != 0    ? FanotifyMark::On::Mount
                                              : FanotifyMark::On::Inode;
}

const void* target_of(const Path& path, FanotifyMark::On on) {
    switch (on) {
    case FanotifyMark::On::Inode:
        return path.dentry()->inode();
    case FanotifyMark::On::Mount:
        return path.mount();
    default:
        return &path.dentry()->superblock();
    }
}

FanotifyMark* find_mark(FanotifyFile& group, const void* target, FanotifyMark::On on) {
    for (FanotifyMark& mark : group.marks)
        if (mark.target == target && mark.on == on)
            return &mark;
    return nullptr;
}

using Touched = base::IntrusiveList<FanotifyFile, &FanotifyFile::touched_node>;

// How a mark comes to an event.
enum class By : u8 { Object, Directory, NewDirectory, Wide };

void gather(Touched& touched, FanotifyMark& mark, const NotifyEvent& event, By by) {
    const bool of_child = by == By::Directory && !event.entry;
    if (of_child && (mark.mask & FAN_EVENT_ON_CHILD) == 0 &&
        (!mark.ignore_flags || (mark.ignored & FAN_EVENT_ON_CHILD) == 0))
        return;
    FanotifyFile& group = *mark.group;
    if (!group.touched_node.linked()) {
        group.gathered = {};
        touched.push_back(group);
    }
    const bool directory = (event.mask & FAN_ONDIR) != 0;
    const bool ignores =
        !mark.ignore_flags || ((!directory || (mark.ignored & FAN_ONDIR) != 0) &&
                               (!of_child || (mark.ignored & FAN_EVENT_ON_CHILD) != 0));
    if ((event.mask & FAN_MODIFY) != 0 && !mark.survives_modify && !mark.ignore_flags)
        mark.ignored = 0;
    if (ignores)
        group.gathered.ignored |= mark.ignored;
    if ((directory && (mark.mask & FAN_ONDIR) == 0) ||
        (of_child && (mark.mask & FAN_EVENT_ON_CHILD) == 0))
        return;
    group.gathered.wanted |= mark.mask;
    group.gathered.file_system = mark.file_system;
    if ((mark.mask & event.mask & FAN_RENAME) != 0) {
        group.gathered.by_old |= by != By::NewDirectory;
        group.gathered.by_new |= by == By::NewDirectory || by == By::Wide;
    }
}

void gather_inode(Touched& touched, Inode* inode, const NotifyEvent& event, By by) {
    if (inode != nullptr && inode->watches != nullptr)
        for (FanotifyMark& mark : inode->watches->marks)
            gather(touched, mark, event, by);
}

// Requires: the mutex. Calls `use(group, mask)` for each group that wants the event.
template <typename Use>
void for_each_group(const NotifyEvent& event, Use&& use) {
    Touched touched;
    const Inode* any = event.object != nullptr ? event.object : event.directory;
    if (!event.entry)
        gather_inode(touched, event.object, event, By::Object);
    if (event.entry || (event.mask & events_of_children) != 0)
        gather_inode(touched, event.directory, event, By::Directory);
    if (event.new_directory != nullptr)
        gather_inode(touched, event.new_directory->inode(), event, By::NewDirectory);
    for (FanotifyMark& mark : wide_marks)
        if (mark.target == (mark.on == FanotifyMark::On::Mount
                                ? static_cast<const void*>(event.mount)
                                : static_cast<const void*>(any->superblock())))
            gather(touched, mark, event, By::Wide);
    while (FanotifyFile* group = touched.pop_front()) {
        const u32 mask = event.mask & group->gathered.wanted & ~group->gathered.ignored &
                         ~u32{FAN_ONDIR | FAN_EVENT_ON_CHILD};
        if (mask != 0)
            use(*group, mask);
    }
}

FileHandle handle_of(const Inode* inode, Dentry* place) {
    if (inode == nullptr)
        return {};
    if (place != nullptr)
        (void)remember_file_handle(*place); // without it the handle is stale sooner
    return encode_file_handle(*inode);
}

// By what the group identifies files (fanotify_init(2), FAN_REPORT_*).
Result<void> identify(FanotifyEvent& out, const FanotifyFile& group, const NotifyEvent& event) {
    const u32 mode = group.mode();
    const bool on_directory = (event.mask & FAN_ONDIR) != 0;
    const bool target = (mode & FAN_REPORT_TARGET_FID) != 0;
    const Inode* object = event.entry && !target ? event.directory : event.object;
    Dentry* place = event.entry && !target ? event.directory_place : event.object_place;
    if (object == nullptr) {
        object = event.directory;
        place = event.directory_place;
    }
    const Inode* directory = event.directory;
    Dentry* directory_place = event.directory_place;
    if (!event.entry && event.object != nullptr && event.object->is_directory()) {
        directory = event.object;
        directory_place = event.object_place;
    }
    out.file_system = group.gathered.file_system;
    if ((mode & FAN_REPORT_DIR_FID) == 0 || directory == nullptr) {
        out.object = handle_of(object, place);
        return {};
    }
    const bool child =
        (mode & FAN_REPORT_FID) != 0 && object != directory && (target || !on_directory);
    const bool named = (mode & FAN_REPORT_NAME) != 0 && (event.entry || !on_directory);
    if (!child && !named) {
        out.object = handle_of(directory, directory_place);
        return {};
    }
    if (child)
        out.object = handle_of(object, place);
    if ((out.mask & FAN_RENAME) == 0 || group.gathered.by_old) {
        out.directory = handle_of(directory, directory_place);
        if (named)
            TRY(out.name.append(event.name));
    }
    if ((out.mask & FAN_RENAME) != 0 && group.gathered.by_new) {
        out.new_directory = handle_of(event.new_directory->inode(), event.new_directory);
        TRY(out.new_name.append(event.new_name));
    }
    return {};
}

// Null: nothing that this group can be told of.
Result<Ref<FanotifyEvent>> make_event(FanotifyFile& group, const NotifyEvent& event, u32 mask) {
    Ref<FanotifyEvent> out;
    const bool plain =
        event.object != nullptr && (event.object->is_regular() || event.object->is_directory());
    if (!group.by_handle() && (event.mount == nullptr || !plain))
        return out;
    TRY(out, make_ref<FanotifyEvent>());
    out->mask = mask;
    const Task& task = current_task();
    out->pid = (group.mode() & FAN_REPORT_TID) != 0 ? task.tid : current_pid();
    if ((group.mode() & FAN_REPORT_PIDFD) != 0 && task.process != nullptr)
        out->process = Ref<Process>::share(task.process);
    out->question = (mask & questions) != 0;
    if (group.by_handle()) {
        out->mask |= event.mask & FAN_ONDIR;
        TRY(identify(*out, group, event));
    } else {
        out->path = Path(Ref<Mount>::share(event.mount), Ref<Dentry>::share(event.object_place));
    }
    return out;
}

void drop_places(Inode& inode) {
    constexpr usize most_places = 16;
    Ref<Dentry> places[most_places]; // dropped after the mutex
    usize count = 0;
    MutexGuard guard(fanotify_mutex);
    for (FanotifyMark& mark : inode.watches->marks)
        if (mark.place && count < most_places)
            places[count++] = std::move(mark.place);
    guard.unlock();
}

} // namespace

void tell_fanotify(const NotifyEvent& event) {
    if (mark_total.load(base::Order::Relaxed) == 0)
        return;
    {
        MutexGuard guard(fanotify_mutex);
        for_each_group(event, [&](FanotifyFile& group, u32 mask) {
            auto made = make_event(group, event, mask);
            if (!made)
                group.note_overflow();
            else if (*made)
                group.queue(std::move(*made));
        });
    }
    if ((event.mask & FAN_ATTRIB) != 0 && event.object != nullptr &&
        event.object->watches != nullptr && !event.object->watches->marks.empty() &&
        is_unlinked(*event.object))
        drop_places(*event.object);
}

Result<void> ask_fanotify(const NotifyEvent& event) {
    struct Question {
        Ref<FanotifyFile> group;
        Ref<FanotifyEvent> event;
    };
    Vector<Question> all;
    bool failed = false;
    {
        MutexGuard guard(fanotify_mutex);
        for_each_group(event, [&](FanotifyFile& group, u32 mask) {
            auto made = make_event(group, event, mask & questions);
            if (!made || (*made && !group.try_add_ref())) {
                failed = failed || !made;
                return;
            }
            if (*made && !all.push_back({Ref<FanotifyFile>::adopt(&group), std::move(*made)}))
                failed = true;
        });
    }
    if (failed)
        return fail(ENOMEM);
    // Those that come before others change a file's contents are asked first.
    for (const u32 level : {FAN_CLASS_PRE_CONTENT, FAN_CLASS_CONTENT})
        for (Question& question : all)
            if (question.group && (question.group->mode() & FAN_ALL_CLASS_BITS) == level) {
                question.group->pose(question.event);
                question.group = nullptr;
                TRY(FanotifyFile::await_answer(*question.event));
            }
    return {};
}

void end_fanotify_marks(InodeWatches& watches) {
    EndedMarks ended;
    MutexGuard guard(fanotify_mutex);
    while (FanotifyMark* mark = watches.marks.front()) {
        if ((mark->mask & FAN_DELETE_SELF) != 0) {
            auto event = make_ref<FanotifyEvent>();
            if (event) {
                (*event)->mask = FAN_DELETE_SELF;
                (*event)->pid = current_pid();
                (*event)->file_system = mark->file_system;
                (*event)->object = encode_file_handle(*static_cast<const Inode*>(mark->target));
                mark->group->queue(std::move(*event));
            }
        }
        ended.end(*mark);
    }
    guard.unlock();
}

void end_fanotify_marks_of(const Superblock& superblock) {
    if (mark_total.load() == 0)
        return;
    EndedMarks ended;
    MutexGuard guard(fanotify_mutex);
    for (FanotifyFile& group : groups)
        for (FanotifyMark* mark = group.marks.front(); mark != nullptr;) {
            FanotifyMark* following = group.marks.next(*mark);
            if (mark->on == FanotifyMark::On::Inode &&
                static_cast<const Inode*>(mark->target)->superblock() == &superblock)
                ended.end(*mark);
            mark = following;
        }
    guard.unlock();
}

void forget_notify_target_slow(const void* target) {
    if (mark_total.load() == 0)
        return;
    EndedMarks ended;
    MutexGuard guard(fanotify_mutex);
    for (FanotifyMark* mark = wide_marks.front(); mark != nullptr;) {
        FanotifyMark* following = wide_marks.next(*mark);
        if (mark->target == target)
            ended.end(*mark);
        mark = following;
    }
    guard.unlock();
}

Result<void> list_fanotify_group(FanotifyFile& group, bool unlimited) {
    MutexGuard guard(fanotify_mutex);
    u32 count = 0;
    for (const FanotifyFile& other : groups)
        count += other.uid() == group.uid() ? 1 : 0;
    if (count >= fanotify_limits.groups.load() && !unlimited)
        return fail(EMFILE);
    groups.push_back(group);
    return {};
}

void end_fanotify_group(FanotifyFile& group) {
    EndedMarks ended;
    MutexGuard guard(fanotify_mutex);
    while (FanotifyMark* mark = group.marks.front())
        ended.end(*mark);
    if (group.all_node.linked())
        group.all_node.unlink();
    guard.unlock();
}

namespace {

bool too_many_marks(const FanotifyFile& group) {
    if ((group.mode() & FAN_UNLIMITED_MARKS) != 0)
        return false;
    u64 count = 0;
    for (const FanotifyFile& other : groups)
        count += other.uid() == group.uid() ? other.mark_count : 0;
    return count >= fanotify_limits.marks.load();
}

// What FAN_MARK_ADD changes of a mark. EEXIST: it contradicts what the mark is.
Result<void> strengthen(FanotifyMark& mark, u32 flags, u32 mask) {
    const bool ignore = (flags & (FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORE)) != 0;
    if (!ignore) {
        const bool asked = asks(mark);
        mark.mask |= mask;
        if (asks(mark) && !asked)
            permission_watches.fetch_add(1);
        return {};
    }
    mark.ignored |= mask;
    if ((flags & FAN_MARK_IGNORE) != 0)
        mark.ignore_flags = true;
    if ((flags & FAN_MARK_IGNORED_SURV_MODIFY) != 0)
        mark.survives_modify = true;
    return {};
}

Result<void> check_against(const FanotifyMark& mark, u32 flags) {
    const bool new_style = (flags & FAN_MARK_IGNORE) != 0;
    const bool old_style = (flags & FAN_MARK_IGNORED_MASK) != 0;
    if ((flags & FAN_MARK_EVICTABLE) != 0 && !mark.evictable)
        return fail(EEXIST);
    if ((old_style && mark.ignore_flags) || (new_style && !mark.ignore_flags && mark.ignored != 0))
        return fail(EEXIST);
    // What is ignored for good cannot be made to end with the next change.
    if (new_style && (flags & FAN_MARK_IGNORED_SURV_MODIFY) == 0 && mark.survives_modify)
        return fail(EEXIST);
    return {};
}

} // namespace

Result<void> FanotifyFile::add_mark(const Path& path, u32 flags, u32 mask) {
    const FanotifyMark::On on = on_what(flags);
    TRY(Owned<FanotifyMark> fresh, make_owned<FanotifyMark>());
    Inode& inode = *path.dentry()->inode();
    Superblock& superblock = path.dentry()->superblock();
    InodeWatches* watches = nullptr;
    if (on == FanotifyMark::On::Inode) {
        TRY(watches, watches_of(inode));
    }
    if (by_handle()) {
        if (!has_file_handles(superblock))
            return fail(EOPNOTSUPP);
        TRY(const FileSystemStats stats, superblock.stats());
        fresh->file_system = stats.fsid != 0 ? stats.fsid : superblock.device_number;
        TRY(remember_file_handle(*path.dentry()));
    }
    fresh->group = this;
    fresh->on = on;
    fresh->target = target_of(path, on);
    fresh->device = superblock.device_number;
    fresh->mount_id = path.mount() == nullptr ? 0 : path.mount()->id();
    Ref<Dentry> place; // dropped after the mutex
    MutexGuard guard(fanotify_mutex);
    if (FanotifyMark* old = find_mark(*this, fresh->target, on)) {
        TRY(check_against(*old, flags));
        if (old->evictable && (flags & FAN_MARK_EVICTABLE) == 0) {
            old->evictable = false;
            old->place = Ref<Dentry>::share(path.dentry());
        }
        return strengthen(*old, flags, mask);
    }
    if (too_many_marks(*this))
        return fail(ENOSPC);
    fresh->evictable = (flags & FAN_MARK_EVICTABLE) != 0;
    if (on == FanotifyMark::On::Inode && !fresh->evictable)
        fresh->place = Ref<Dentry>::share(path.dentry());
    if (on == FanotifyMark::On::Inode)
        watches->marks.push_back(*fresh);
    else
        wide_marks.push_back(*fresh);
    marks.push_back(*fresh);
    mark_count++;
    mark_total.fetch_add(1);
    notify_watches.fetch_add(1);
    return strengthen(*fresh.leak(), flags, mask);
}

Result<void> FanotifyFile::remove_mark(const Path& path, u32 flags, u32 mask) {
    const FanotifyMark::On on = on_what(flags);
    EndedMarks ended;
    MutexGuard guard(fanotify_mutex);
    FanotifyMark* mark = find_mark(*this, target_of(path, on), on);
    if (mark == nullptr)
        return fail(ENOENT);
    if ((flags & (FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORE)) != 0) {
        TRY(check_against(*mark, flags & ~u32{FAN_MARK_EVICTABLE}));
        mark->ignored &= ~mask;
    } else {
        const bool asked = asks(*mark);
        mark->mask &= ~mask;
        if (asked && !asks(*mark))
            permission_watches.fetch_sub(1);
    }
    constexpr u32 modifiers = FAN_ONDIR | FAN_EVENT_ON_CHILD;
    if (((mark->mask | mark->ignored) & ~modifiers) == 0)
        ended.end(*mark);
    guard.unlock();
    return {};
}

void FanotifyFile::flush_marks(FanotifyMark::On on) {
    EndedMarks ended;
    MutexGuard guard(fanotify_mutex);
    for (FanotifyMark* mark = marks.front(); mark != nullptr;) {
        FanotifyMark* following = marks.next(*mark);
        if (mark->on == on)
            ended.end(*mark);
        mark = following;
    }
    guard.unlock();
}

} // namespace kernel
