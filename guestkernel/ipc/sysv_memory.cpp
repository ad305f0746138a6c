// System V shared memory: shmget(2), shmat(2), shmdt(2), shmctl(2). A segment is a nameless file
// in memory; an attachment is a shared mapping of it, so fork, exit and removal need nothing more.
#include <asm/shmbuf.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/shm.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/syscalls/sysv_calls.hpp"

namespace kernel {

namespace {

constexpr u32 may_read = 0444, may_write = 0222;
constexpr std::string_view segment_prefix = "SYSV"; // as /proc/PID/maps shows them

constexpr u32 removed_mode = 01000; // SHM_DEST: removed, but attached

struct Segment : SysvObject {
    Ref<File> file,
        reader; // `reader`: what SHM_RDONLY maps, so that mprotect(2) makes no more of it
    u64 size = 0;
    i64 attach_time = 0, detach_time = 0, change_time = 0;
    i32 creator = 0, last_pid = 0;

    // Each mapping holds the file.
    u64 attachments() const { return file->ref_count() - 1 + (reader->ref_count() - 1); }
    bool is_shown_by(const Ref<File>& mapped) const { return file == mapped || reader == mapped; }
};

// Removed segments that were attached then, by number. Its lock comes before those of the tables.
struct Removed {
    Ref<IpcNamespace> space;
    i32 id;
};
union RemovedList { // never destroyed
    constexpr RemovedList() : list() {}
    ~RemovedList() {}
    Vector<Removed> list;
};
constinit Mutex removed_mutex;
constinit RemovedList removed_segments;
constinit base::Atomic<usize> removed_count{0};

// The running task's: it does not change while a call of it waits.
SysvTable& table() {
    return current_ipc_namespace().segments;
}

Result<Segment*> find_segment(i32 id, u32 access) {
    TRY(SysvObject * object, table().find(id));
    TRY(check_sysv_access(*object, access));
    return static_cast<Segment*>(object);
}

bool is_segment(File& file) {
    Dentry* dentry = file.path().dentry();
    return dentry != nullptr && dentry->name().starts_with(segment_prefix) &&
           dentry->superblock().type() == std::string_view("tmpfs") && !dentry->is_root();
}

// The pieces of the attachment that begins at an address.
struct Attachment {
    u64 start;
    static constexpr usize most_pieces = 64; // mprotect(2) splits
    struct Piece {
        u64 start, length;
    } pieces[most_pieces];
    usize count = 0;
    Ref<File> file;

    static bool visit(const MappingInfo& mapping, void* context) {
        auto& self = *static_cast<Attachment*>(context);
        const u64 at = mapping.start.raw();
        if (at < self.start || !mapping.file || at - mapping.offset != self.start ||
            !is_segment(*mapping.file) || (self.file && self.file != mapping.file))
            return true;
        self.file = mapping.file;
        if (self.count < most_pieces)
            self.pieces[self.count++] = {at, mapping.end.raw() - at};
        return true;
    }
};

} // namespace

Result<long> sys_shmget(Task&, int key, u64 size, u32 flags) {
    const auto fits = [&](SysvObject& object) -> Result<void> {
        if (size > static_cast<Segment&>(object).size)
            return fail(EINVAL);
        return {};
    };
    const auto make = [&]() -> Result<Ref<SysvObject>> {
        const SysvLimits& limits = current_ipc_namespace().limits;
        if (size == 0 || size > user_max || size > limits.segment_bytes.load())
            return fail(EINVAL);
        u64 pages = page_up(size) >> page_shift;
        table().for_each([&](SysvObject& object) {
            pages += page_up(static_cast<Segment&>(object).size) >> page_shift;
        });
        if (pages > limits.segment_pages.load())
            return fail(ENOSPC);
        char name[16];
        constexpr char digits[] = "0123456789abcdef";
        usize length = segment_prefix.copy(name, segment_prefix.size());
        for (int shift = 28; shift >= 0; shift -= 4)
            name[length++] = digits[static_cast<u32>(key) >> shift & 15];
        TRY(Ref<Segment> segment, make_ref<Segment>());
        TRY(segment->file,
            make_shared_memory_file(std::string_view(name, length), page_up(size), 0));
        TRY(segment->reader,
            segment->file->inode()->open(segment->file->path(), O_RDONLY | O_LARGEFILE));
        segment->size = size;
        segment->creator = current_pid();
        segment->change_time = sysv_time();
        return Ref<SysvObject>(std::move(segment));
    };
    return sysv_get(table(), key, flags, fits, make);
}

Result<long> sys_shmat(Task& task, int id, u64 address, u32 flags) {
    MapRequest request;
    {
        MutexGuard guard(table().mutex);
        TRY(Segment * segment,
            find_segment(id, (flags & SHM_RDONLY) != 0 ? may_read : may_read | may_write));
        request.file = (flags & SHM_RDONLY) != 0 ? segment->reader : segment->file;
        request.length = page_up(segment->size);
        segment->attach_time = sysv_time();
        segment->last_pid = current_pid();
    }
    if (address % page_size != 0) {
        if ((flags & SHM_RND) == 0)
            return fail(EINVAL);
        address = page_down(address);
    }
    if (address == 0 && (flags & SHM_REMAP) != 0)
        return fail(EINVAL);
    request.hint = VirtAddr(address);
    request.protection = PROT_READ;
    if ((flags & SHM_RDONLY) == 0)
        request.protection |= PROT_WRITE;
    if ((flags & SHM_EXEC) != 0)
        request.protection |= PROT_EXEC;
    request.flags = MAP_SHARED;
    if (address != 0)
        request.flags |= (flags & SHM_REMAP) != 0 ? u32{MAP_FIXED} : u32{MAP_FIXED_NOREPLACE};
    auto mapped = task.address_space->map(request);
    if (!mapped)
        return fail(mapped.error().code == EEXIST ? EINVAL : mapped.error().code);
    return static_cast<long>(mapped->raw());
}

Result<long> sys_shmdt(Task& task, u64 address) {
    if (address % page_size != 0)
        return fail(EINVAL);
    Attachment attachment{address};
    task.address_space->for_each_mapping(Attachment::visit, &attachment, false);
    if (attachment.count == 0)
        return fail(EINVAL);
    for (usize i = 0; i < attachment.count; i++) {
        const auto& piece = attachment.pieces[i];
        TRY(task.address_space->unmap(VirtAddr(piece.start), piece.length));
    }
    {
        MutexGuard guard(table().mutex);
        table().for_each([&](SysvObject& object) {
            auto& segment = static_cast<Segment&>(object);
            if (!segment.is_shown_by(attachment.file))
                return;
            segment.detach_time = sysv_time();
            segment.last_pid = current_pid();
        });
    }
    attachment.file = nullptr;
    sweep_removed_segments();
    return 0;
}

void sweep_removed_segments() {
    if (removed_count.load() == 0)
        return;
    Vector<Ref<SysvObject>> gone; // dropped without the locks
    Vector<Removed> spaces;
    MutexGuard list_guard(removed_mutex);
    Vector<Removed>& list = removed_segments.list;
    for (usize i = list.size(); i-- > 0;) {
        SysvTable& segments = list[i].space->segments;
        MutexGuard guard(segments.mutex);
        const auto found = segments.find(list[i].id);
        if (found && static_cast<Segment*>(*found)->attachments() > 0)
            continue;
        if (found && !gone.push_back(segments.remove(**found)))
            continue; // without memory it is dropped here, which is as good
        guard.unlock();
        if (!spaces.push_back(std::move(list[i])))
            continue;
        list.erase(i);
        removed_count.fetch_sub(1);
    }
}

namespace {

// IPC_RMID: at once, or with the last attachment.
Result<long> remove_segment(i32 id) {
    {
        MutexGuard list_guard(removed_mutex);
        MutexGuard guard(table().mutex);
        TRY(Segment * segment, find_segment(id, 0));
        TRY(check_sysv_owner(*segment));
        if ((segment->mode & removed_mode) == 0) {
            TRY(removed_segments.list.push_back(
                {Ref<IpcNamespace>::share(&current_ipc_namespace()), id}));
            removed_count.fetch_add(1);
            segment->mode |= removed_mode;
            segment->key = IPC_PRIVATE; // nobody finds it by its key
        }
    }
    sweep_removed_segments();
    return 0;
}

Result<long> stat_segment(MutexGuard<Mutex>& guard, const Segment& segment, u64 argument,
                          long answer) {
    shmid64_ds status{};
    fill_sysv_permissions(segment, status.shm_perm);
    status.shm_segsz = segment.size;
    status.shm_atime = segment.attach_time;
    status.shm_dtime = segment.detach_time;
    status.shm_ctime = segment.change_time;
    status.shm_cpid = visible_pid(segment.creator);
    status.shm_lpid = visible_pid(segment.last_pid);
    status.shm_nattch = segment.attachments();
    return tell_unlocked(guard, argument, status, answer);
}

// IPC_INFO and SHM_INFO, what ipcs(1) shows; the answer is the last place in use.
Result<long> tell_limits(MutexGuard<Mutex>& guard, u64 argument) {
    shminfo64 info{};
    const SysvLimits& limits = current_ipc_namespace().limits;
    info.shmmax = limits.segment_bytes.load();
    info.shmall = limits.segment_pages.load();
    info.shmmin = 1;
    info.shmmni = info.shmseg = table().most.load();
    return tell_unlocked(guard, argument, info, table().last_index());
}

Result<long> tell_use(MutexGuard<Mutex>& guard, u64 argument) {
    shm_info info{};
    info.used_ids = table().count();
    table().for_each([&](SysvObject& object) {
        const auto& segment = static_cast<Segment&>(object);
        info.shm_tot += page_up(segment.size) >> page_shift;
        if (auto cache = segment.file->mapping(PROT_READ, MAP_SHARED))
            info.shm_rss += (*cache)->resident_pages();
    });
    return tell_unlocked(guard, argument, info, table().last_index());
}

} // namespace

Result<long> sys_shmctl(Task&, int id, int command, u64 argument) {
    sweep_removed_segments();
    if (command == IPC_RMID)
        return remove_segment(id);
    shmid64_ds wanted{};
    if (command == IPC_SET)
        TRY(copy_in_bytes(&wanted, argument, sizeof wanted));
    MutexGuard guard(table().mutex);
    switch (command) {
    case IPC_INFO:
        return tell_limits(guard, argument);
    case SHM_INFO:
        return tell_use(guard, argument);
    case SHM_STAT:
    case SHM_STAT_ANY: {
        TRY(SysvObject * object, table().at_index(id));
        if (command == SHM_STAT)
            TRY(check_sysv_access(*object, may_read));
        return stat_segment(guard, static_cast<Segment&>(*object), argument, object->id);
    }
    case IPC_STAT: {
        TRY(Segment * segment, find_segment(id, may_read));
        return stat_segment(guard, *segment, argument, 0);
    }
    case IPC_SET: {
        TRY(Segment * segment, find_segment(id, 0));
        TRY(check_sysv_owner(*segment));
        const u32 kept = segment->mode & removed_mode;
        TRY(set_sysv_permissions(*segment, wanted.shm_perm));
        segment->mode |= kept;
        segment->change_time = sysv_time();
        return 0;
    }
    case SHM_LOCK: // there is no swap
    case SHM_UNLOCK: {
        TRY(Segment * segment, find_segment(id, 0));
        TRY(check_sysv_owner(*segment));
        return 0;
    }
    default:
        return fail(EINVAL);
    }
}

void each_segment(void (*tell)(const SysvView& view, void* context), void* context) {
    sweep_removed_segments();
    MutexGuard guard(table().mutex);
    table().for_each([&](SysvObject& object) {
        const auto& segment = static_cast<Segment&>(object);
        u64 resident = 0;
        if (auto cache = segment.file->mapping(PROT_READ, MAP_SHARED))
            resident = (*cache)->resident_pages() * page_size;
        tell({object,
              segment.size,
              segment.attachments(),
              resident,
              segment.creator,
              segment.last_pid,
              {segment.attach_time, segment.detach_time, segment.change_time}},
             context);
    });
}

} // namespace kernel
