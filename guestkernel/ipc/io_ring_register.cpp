// io_uring_register(2), and the tables that it fills.
#include <linux/errno.h>
#include <linux/io_uring.h>

#include "guestkernel/ipc/io_ring.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/time_values.hpp"

namespace kernel {

namespace {

constexpr u32 most_files = 1u << 15, most_buffers = 1u << 14;
constexpr u64 largest_buffer = u64{1} << 30;
constexpr u32 most_personalities = 1024, most_groups = 4096, most_provided = 65536;

template <typename T>
Result<T> copy_argument(u64 address) {
    return UserPtr<const T>(address).copy_in();
}

// Whether there is memory at all of it now: Linux takes hold of the pages (EFAULT).
Result<void> check_present(u64 address, u64 bytes) {
    if (!user_range_ok(address, bytes))
        return fail(EFAULT);
    for (u64 at = address; at < address + bytes; at = page_down(at) + page_size)
        TRY(UserPtr<const u8>(at).copy_in());
    return {};
}

bool same_group(const IoBufferGroup* group, u16 id) {
    return group->id == id;
}

void hold(IoRequest& request, const IoProvided& chosen, u16 position) {
    request.buffer_id = chosen.id;
    request.buffer_address = chosen.address;
    request.chosen_length = chosen.length;
    request.buffer_position = position;
    request.holds_buffer = true;
}

} // namespace

// --- files

Ref<File> IoRing::fixed_file(u32 index) {
    MutexGuard guard(mutex);
    return index < files_.size() ? files_[index] : Ref<File>();
}

Result<i32> IoRing::install_fixed(Ref<File> file, u32 index_plus_one) {
    if (file_as<IoRingFile>(*file) != nullptr)
        return fail(EBADF);
    Ref<File> old; // closed without the lock
    MutexGuard guard(mutex);
    if (files_.empty())
        return fail(ENXIO);
    u32 index = index_plus_one - 1;
    if (index_plus_one == IORING_FILE_INDEX_ALLOC) {
        const u32 end = alloc_end_ != 0 ? alloc_end_ : static_cast<u32>(files_.size());
        index = alloc_first_;
        while (index < end && files_[index])
            index++;
        if (index >= end)
            return fail(ENFILE);
    }
    if (index >= files_.size())
        return fail(EINVAL);
    old = std::exchange(files_[index], std::move(file));
    guard.unlock();
    return static_cast<i32>(index);
}

Result<void> IoRing::remove_fixed(u32 index) {
    Ref<File> old;
    MutexGuard guard(mutex);
    if (files_.empty())
        return fail(ENXIO);
    if (index >= files_.size())
        return fail(EINVAL);
    if (!files_[index])
        return fail(EBADF);
    old = std::exchange(files_[index], nullptr);
    guard.unlock();
    return {};
}

Result<i32> IoRing::update_files(Task& task, u32 offset, u64 descriptors, u32 count) {
    if (count == 0)
        return fail(EINVAL);
    i32 done = 0;
    for (u32 i = 0; i < count; i++) {
        const auto step = [&]() -> Result<void> {
            TRY(const i32 fd, UserPtr<const i32>(descriptors + u64{i} * 4).copy_in());
            if (fd == IORING_REGISTER_FILES_SKIP)
                return {};
            Ref<File> file;
            if (fd != -1) {
                TRY(file, usable_file(task, fd));
                if (file_as<IoRingFile>(*file) != nullptr)
                    return fail(EBADF);
            }
            Ref<File> old;
            MutexGuard guard(mutex);
            if (files_.empty())
                return fail(ENXIO);
            if (u64{offset} + i >= files_.size())
                return fail(EINVAL);
            old = std::exchange(files_[offset + i], std::move(file));
            guard.unlock();
            return {};
        }();
        if (!step)
            return done != 0 ? Result<i32>(done) : Result<i32>(fail(step.error().code));
        done++;
    }
    return done;
}

// --- buffers

bool IoRing::fixed_buffer(u16 index, u64 address, u64 length) {
    MutexGuard guard(mutex);
    if (index >= buffers_.size())
        return false;
    const UserVector& buffer = buffers_[index];
    return address >= buffer.base && length <= buffer.length &&
           address - buffer.base <= buffer.length - length;
}

u32 told_buffer(const IoRequest& request) {
    return IORING_CQE_F_BUFFER | u32{request.buffer_id} << IORING_CQE_BUFFER_SHIFT;
}

// Requires: mutex.
IoBufferGroup* IoRing::find_group(u16 id) {
    IoBufferGroup* group = groups_;
    while (group != nullptr && !same_group(group, id))
        group = group->next;
    return group;
}

// The next one of a ring in the program's memory, as it was `seen`. Read without the mutex: a page
// of it may come when another program likes (userfaultfd(2), FUSE).
IoRing::Choice IoRing::choose_of_ring(IoRequest& request, const IoBufferGroup& seen) {
    const auto tail = UserPtr<const u16>(seen.ring_address + 14).copy_in();
    if (!tail || *tail == seen.ring_head)
        return Choice::None;
    const u64 at = seen.ring_head & (seen.ring_entries - 1);
    const auto entry =
        UserPtr<const io_uring_buf>(seen.ring_address + at * sizeof(io_uring_buf)).copy_in();
    if (!entry)
        return Choice::None;
    MutexGuard guard(mutex);
    IoBufferGroup* group = find_group(request.entry.buffer);
    if (group == nullptr || group->ring_address != seen.ring_address ||
        group->ring_entries != seen.ring_entries || group->ring_head != seen.ring_head)
        return Choice::Again; // another request was faster
    hold(request, {entry->addr, entry->len, entry->bid}, group->ring_head++);
    return Choice::Made;
}

bool IoRing::choose_buffer(IoRequest& request) {
    while (!request.holds_buffer) {
        IoBufferGroup seen;
        {
            MutexGuard guard(mutex);
            IoBufferGroup* group = find_group(request.entry.buffer);
            if (group == nullptr)
                return false;
            if (group->ring_address == 0) {
                if (group->buffers.empty())
                    return false;
                hold(request, group->buffers.back(), 0);
                group->buffers.pop_back();
                return true;
            }
            seen.ring_address = group->ring_address;
            seen.ring_entries = group->ring_entries;
            seen.ring_head = group->ring_head;
        }
        if (choose_of_ring(request, seen) == Choice::None)
            return false;
    }
    return true;
}

void IoRing::put_back_buffer(IoRequest& request) {
    MutexGuard guard(mutex);
    IoBufferGroup* group = find_group(request.entry.buffer);
    if (group == nullptr)
        return;
    if (group->ring_address != 0) {
        // Only the last one can: going back by one would else give away what another request took.
        if (group->ring_head != static_cast<u16>(request.buffer_position + 1))
            return;
        group->ring_head--;
        request.holds_buffer = false;
        return;
    }
    const IoProvided back{request.buffer_address, request.chosen_length, request.buffer_id};
    request.holds_buffer = !group->buffers.push_back(back);
}

i32 IoRing::provide_buffers(const IoEntry& entry) {
    const auto count = static_cast<u32>(entry.fd);
    if (count == 0 || count > most_provided || entry.op_flags != 0 || entry.offset > 0xffff)
        return entry.offset > 0xffff ? -E2BIG : entry.op_flags != 0 ? -EINVAL : -E2BIG;
    if (!user_range_ok(entry.address, u64{count} * entry.length))
        return -EFAULT;
    MutexGuard guard(mutex);
    IoBufferGroup* group = groups_;
    u32 groups = 0;
    for (; group != nullptr && !same_group(group, entry.buffer); group = group->next)
        groups++;
    if (group == nullptr) {
        group = groups < most_groups ? new (std::nothrow) IoBufferGroup() : nullptr;
        if (group == nullptr)
            return -ENOMEM;
        group->id = entry.buffer;
        group->next = groups_;
        groups_ = group;
    }
    if (group->ring_address != 0)
        return -EINVAL;
    if (group->buffers.size() + count > most_provided ||
        !group->buffers.reserve(group->buffers.size() + count))
        return -ENOMEM;
    // Taken from the end: the first of them is used first.
    for (u32 i = count; i > 0; i--)
        (void)group->buffers.push_back({entry.address + u64{i - 1} * entry.length, entry.length,
                                        static_cast<u16>(entry.offset + i - 1)});
    return 0;
}

i32 IoRing::remove_buffers(const IoEntry& entry) {
    const auto count = static_cast<u32>(entry.fd);
    if (count == 0 || count > most_provided || entry.op_flags != 0 || entry.offset != 0 ||
        entry.address != 0 || entry.length != 0)
        return -EINVAL;
    MutexGuard guard(mutex);
    for (IoBufferGroup* group = groups_; group != nullptr; group = group->next) {
        if (!same_group(group, entry.buffer))
            continue;
        if (group->ring_address != 0)
            return -EINVAL;
        i32 removed = 0;
        while (removed < static_cast<i32>(count) && !group->buffers.empty()) {
            group->buffers.pop_back();
            removed++;
        }
        return removed;
    }
    return -ENOENT;
}

// --- io_uring_register(2)

bool IoRing::allowed(const IoEntry& entry) const {
    if (!restricted_)
        return true;
    return (allowed_operations_ >> entry.opcode & 1) != 0 &&
           (entry.flags & required_flags_) == required_flags_ &&
           (entry.flags & ~(allowed_flags_ | required_flags_)) == 0;
}

Result<void> IoRing::set_files(Task& task, u64 descriptors, u32 count, bool sparse) {
    if (count == 0)
        return fail(EINVAL);
    if (count > most_files || count > current_limit(7)) // RLIMIT_NOFILE
        return fail(EMFILE);
    Vector<Ref<File>> fresh;
    TRY(fresh.resize(count));
    for (u32 i = 0; i < count && !sparse; i++) {
        TRY(const i32 fd, UserPtr<const i32>(descriptors + u64{i} * 4).copy_in());
        if (fd == -1)
            continue;
        TRY(fresh[i], usable_file(task, fd));
        if (file_as<IoRingFile>(*fresh[i]) != nullptr)
            return fail(EBADF);
    }
    MutexGuard guard(mutex);
    if (!files_.empty())
        return fail(EBUSY);
    std::swap(files_, fresh);
    alloc_first_ = alloc_end_ = 0;
    return {};
}

Result<void> IoRing::set_buffers(u64 vectors, u32 count, bool sparse) {
    if (count == 0 || count > most_buffers)
        return fail(EINVAL);
    Vector<UserVector> fresh;
    TRY(fresh.resize(count));
    for (u32 i = 0; i < count && !sparse; i++) {
        TRY(fresh[i], UserPtr<const UserVector>(vectors + u64{i} * sizeof(UserVector)).copy_in());
        TRY(check_buffer(fresh[i]));
    }
    MutexGuard guard(mutex);
    if (!buffers_.empty())
        return fail(EBUSY);
    std::swap(buffers_, fresh);
    return {};
}

Result<void> IoRing::check_buffer(const UserVector& buffer) const {
    if (buffer.base == 0 && buffer.length == 0)
        return {};
    if (buffer.base == 0 || buffer.length == 0 || buffer.length > largest_buffer ||
        !user_range_ok(buffer.base, buffer.length))
        return fail(EFAULT);
    // Nothing is pinned, but what is not there is refused as on Linux.
    u8 byte = 0;
    TRY(copy_in_bytes(&byte, buffer.base, 1));
    return copy_in_bytes(&byte, buffer.base + buffer.length - 1, 1);
}

Result<long> IoRing::update_buffers(u64 argument) {
    TRY(const auto update, copy_argument<io_uring_rsrc_update2>(argument));
    if (update.resv != 0 || update.resv2 != 0 || update.nr == 0)
        return fail(EINVAL);
    for (u32 i = 0; i < update.nr; i++) {
        TRY(const UserVector buffer,
            UserPtr<const UserVector>(update.data + u64{i} * sizeof(UserVector)).copy_in());
        TRY(check_buffer(buffer));
        MutexGuard guard(mutex);
        if (u64{update.offset} + i >= buffers_.size())
            return fail(buffers_.empty() ? ENXIO : EINVAL);
        buffers_[update.offset + i] = buffer;
    }
    return static_cast<long>(update.nr);
}

Result<void> IoRing::set_event_file(Task& task, u64 argument) {
    TRY(const i32 fd, copy_argument<i32>(argument));
    TRY(Ref<File> file, usable_file(task, fd));
    if (file_as<EventFile>(*file) == nullptr)
        return fail(EINVAL);
    SpinGuard guard(cq_lock_);
    if (event_file_)
        return fail(EBUSY);
    event_file_ = std::move(file);
    return {};
}

Result<void> IoRing::drop_event_file() {
    Ref<File> dropped;
    SpinGuard guard(cq_lock_);
    if (!event_file_)
        return fail(ENXIO);
    std::swap(dropped, event_file_);
    guard.unlock();
    return {};
}

Result<void> IoRing::set_restrictions(u64 argument, u32 count) {
    if (!disabled)
        return fail(EBADFD);
    if (has_restrictions_)
        return fail(EBUSY);
    if (count == 0 || count > 256)
        return fail(EINVAL);
    for (u32 i = 0; i < count; i++) {
        TRY(const auto item,
            copy_argument<io_uring_restriction>(argument + u64{i} * sizeof(io_uring_restriction)));
        switch (item.opcode) {
        case IORING_RESTRICTION_REGISTER_OP:
            if (item.register_op >= IORING_REGISTER_LAST)
                return fail(EINVAL);
            allowed_registers_ |= u64{1} << item.register_op;
            break;
        case IORING_RESTRICTION_SQE_OP:
            if (item.sqe_op >= IORING_OP_LAST)
                return fail(EINVAL);
            allowed_operations_ |= u64{1} << item.sqe_op;
            break;
        case IORING_RESTRICTION_SQE_FLAGS_ALLOWED:
            allowed_flags_ = item.sqe_flags;
            break;
        case IORING_RESTRICTION_SQE_FLAGS_REQUIRED:
            required_flags_ = item.sqe_flags;
            break;
        default:
            return fail(EINVAL);
        }
    }
    has_restrictions_ = true;
    return {};
}

Result<long> IoRing::probe(u64 argument, u32 count) {
    if (count > 256)
        return fail(EINVAL);
    constexpr u32 known = IORING_OP_LAST;
    struct Head { // struct io_uring_probe without its array
        u8 last_op, ops_len;
        u16 reserved;
        u32 reserved2[3];
    };
    TRY(Head head, copy_argument<Head>(argument));
    if (head.last_op != 0 || head.ops_len != 0)
        return fail(EINVAL);
    const u32 told = count < known ? count : known;
    head.last_op = known - 1;
    head.ops_len = static_cast<u8>(told);
    TRY(copy_out_bytes(argument, &head, sizeof head));
    for (u32 i = 0; i < told; i++) {
        io_uring_probe_op item{};
        item.op = static_cast<u8>(i);
        const bool missing = i == IORING_OP_SEND_ZC || i == IORING_OP_SENDMSG_ZC;
        item.flags = missing ? 0 : IO_URING_OP_SUPPORTED;
        TRY(copy_out_bytes(argument + sizeof head + u64{i} * sizeof item, &item, sizeof item));
    }
    return 0;
}

Result<long> IoRing::change_personality(Task& task, u32 operation, u32 id) {
    MutexGuard guard(mutex);
    if (operation == IORING_REGISTER_PERSONALITY) {
        if (personalities_.size() >= most_personalities || next_personality_ > 0xffff)
            return fail(ENOMEM);
        TRY(personalities_.push_back({next_personality_, task.credentials}));
        return static_cast<long>(next_personality_++);
    }
    for (usize i = 0; i < personalities_.size(); i++)
        if (personalities_[i].id == id) {
            personalities_.erase(i);
            return 0;
        }
    return fail(EINVAL);
}

Result<long> IoRing::change_buffer_ring(u64 argument, bool add) {
    TRY(const auto wanted, copy_argument<io_uring_buf_reg>(argument));
    if (wanted.pad != 0 || wanted.resv[0] != 0 || wanted.resv[1] != 0 || wanted.resv[2] != 0)
        return fail(EINVAL);
    const u32 entries = wanted.ring_entries;
    if (add) { // without the mutex, as above
        if (wanted.ring_addr == 0)
            return fail(EFAULT);
        if (wanted.ring_addr % page_size != 0 || entries == 0 || (entries & (entries - 1)) != 0 ||
            entries >= 65536)
            return fail(EINVAL);
        TRY(check_present(wanted.ring_addr, u64{entries} * sizeof(io_uring_buf)));
    }
    MutexGuard guard(mutex);
    IoBufferGroup** at = &groups_;
    u32 groups = 0;
    while (*at != nullptr && !same_group(*at, wanted.bgid)) {
        at = &(*at)->next;
        groups++;
    }
    if (!add) {
        IoBufferGroup* group = *at;
        if (group == nullptr)
            return fail(ENOENT);
        if (group->ring_address == 0)
            return fail(EINVAL);
        *at = group->next;
        delete group;
        return 0;
    }
    if (*at != nullptr && ((*at)->ring_address != 0 || !(*at)->buffers.empty()))
        return fail(EEXIST);
    IoBufferGroup* group = *at;
    if (group == nullptr) {
        group = groups < most_groups ? new (std::nothrow) IoBufferGroup() : nullptr;
        if (group == nullptr)
            return fail(ENOMEM);
        group->id = wanted.bgid;
        group->next = groups_;
        groups_ = group;
    }
    group->ring_address = wanted.ring_addr;
    group->ring_entries = entries;
    group->ring_head = 0;
    return 0;
}

Result<long> IoRing::set_worker_limits(u64 argument) {
    u32 wanted[2];
    TRY(copy_in_bytes(wanted, argument, sizeof wanted));
    constexpr u32 most = 256;
    MutexGuard guard(mutex);
    for (unsigned i = 0; i < 2; i++) {
        const u32 before = most_workers_[i];
        if (wanted[i] != 0)
            most_workers_[i] = wanted[i] < most ? wanted[i] : most;
        wanted[i] = before;
    }
    guard.unlock();
    TRY(copy_out_bytes(argument, wanted, sizeof wanted));
    return 0;
}

Result<long> IoRing::sync_cancel(u64 argument) {
    TRY(const auto wanted, copy_argument<io_uring_sync_cancel_reg>(argument));
    for (const auto word : wanted.pad)
        if (word != 0)
            return fail(EINVAL);
    IoEntry entry{};
    entry.address = wanted.addr;
    entry.fd = wanted.fd;
    entry.op_flags = wanted.flags;
    const i32 result = cancel_by_entry(entry);
    if (result < 0)
        return fail(-result);
    return result;
}

Result<long> IoRing::register_resource(Task& task, u32 operation, u64 argument, u32 count) {
    if (restricted_ && (operation >= 64 || (allowed_registers_ >> operation & 1) == 0))
        return fail(EACCES);
    const auto done = [](Result<void> result) -> Result<long> {
        TRY(std::move(result));
        return 0;
    };
    switch (operation) {
    case IORING_REGISTER_BUFFERS:
        return argument == 0 ? fail(EFAULT) : done(set_buffers(argument, count, false));
    case IORING_UNREGISTER_BUFFERS: {
        if (argument != 0 || count != 0)
            return fail(EINVAL);
        MutexGuard guard(mutex);
        if (buffers_.empty())
            return fail(ENXIO);
        buffers_.clear();
        return 0;
    }
    case IORING_REGISTER_FILES:
        return argument == 0 ? fail(EFAULT) : done(set_files(task, argument, count, false));
    case IORING_UNREGISTER_FILES: {
        if (argument != 0 || count != 0)
            return fail(EINVAL);
        Vector<Ref<File>> dropped;
        MutexGuard guard(mutex);
        if (files_.empty())
            return fail(ENXIO);
        std::swap(files_, dropped);
        guard.unlock();
        return 0;
    }
    case IORING_REGISTER_FILES2:
    case IORING_REGISTER_BUFFERS2: {
        if (count != sizeof(io_uring_rsrc_register))
            return fail(EINVAL);
        TRY(const auto wanted, copy_argument<io_uring_rsrc_register>(argument));
        const bool sparse = (wanted.flags & IORING_RSRC_REGISTER_SPARSE) != 0;
        if (wanted.resv2 != 0 || (wanted.flags & ~u32{IORING_RSRC_REGISTER_SPARSE}) != 0 ||
            (sparse && wanted.data != 0) || wanted.tags != 0)
            return fail(EINVAL); // tags are not told
        return done(operation == IORING_REGISTER_FILES2
                        ? set_files(task, wanted.data, wanted.nr, sparse)
                        : set_buffers(wanted.data, wanted.nr, sparse));
    }
    case IORING_REGISTER_FILES_UPDATE: {
        TRY(const auto wanted, copy_argument<io_uring_rsrc_update>(argument));
        TRY(const i32 updated, update_files(task, wanted.offset, wanted.data, count));
        return updated;
    }
    case IORING_REGISTER_FILES_UPDATE2: {
        if (count != sizeof(io_uring_rsrc_update2))
            return fail(EINVAL);
        TRY(const auto wanted, copy_argument<io_uring_rsrc_update2>(argument));
        if (wanted.resv != 0 || wanted.resv2 != 0 || wanted.tags != 0)
            return fail(EINVAL);
        TRY(const i32 updated, update_files(task, wanted.offset, wanted.data, wanted.nr));
        return updated;
    }
    case IORING_REGISTER_BUFFERS_UPDATE:
        return count != sizeof(io_uring_rsrc_update2) ? fail(EINVAL) : update_buffers(argument);
    case IORING_REGISTER_EVENTFD:
    case IORING_REGISTER_EVENTFD_ASYNC:
        return count != 1 ? fail(EINVAL) : done(set_event_file(task, argument));
    case IORING_UNREGISTER_EVENTFD:
        return argument != 0 || count != 0 ? fail(EINVAL) : done(drop_event_file());
    case IORING_REGISTER_PROBE:
        return probe(argument, count);
    case IORING_REGISTER_PERSONALITY:
        return argument != 0 || count != 0 ? fail(EINVAL) : change_personality(task, operation, 0);
    case IORING_UNREGISTER_PERSONALITY:
        return argument != 0 ? fail(EINVAL) : change_personality(task, operation, count);
    case IORING_REGISTER_RESTRICTIONS:
        return done(set_restrictions(argument, count));
    case IORING_REGISTER_ENABLE_RINGS:
        if (argument != 0 || count != 0)
            return fail(EINVAL);
        if (!disabled)
            return fail(EBADFD);
        restricted_ = has_restrictions_;
        if (has(IORING_SETUP_SINGLE_ISSUER))
            issuer = &task;
        disabled = false;
        wake_submitter();
        return 0;
    case IORING_REGISTER_IOWQ_AFF: // workers run where the scheduler has room
        return argument == 0 || count == 0 ? fail(EINVAL) : Result<long>(0);
    case IORING_UNREGISTER_IOWQ_AFF:
        return argument != 0 || count != 0 ? fail(EINVAL) : Result<long>(0);
    case IORING_REGISTER_IOWQ_MAX_WORKERS:
        return argument == 0 || count != 2 ? fail(EINVAL) : set_worker_limits(argument);
    case IORING_REGISTER_PBUF_RING:
    case IORING_UNREGISTER_PBUF_RING:
        if (argument == 0 || count != 1)
            return fail(EINVAL);
        return change_buffer_ring(argument, operation == IORING_REGISTER_PBUF_RING);
    case IORING_REGISTER_SYNC_CANCEL:
        return argument == 0 || count != 1 ? fail(EINVAL) : sync_cancel(argument);
    case IORING_REGISTER_FILE_ALLOC_RANGE: {
        TRY(const auto range, copy_argument<io_uring_file_index_range>(argument));
        MutexGuard guard(mutex);
        if (count != 0 || range.resv != 0 || u64{range.off} + range.len > files_.size())
            return fail(EINVAL);
        alloc_first_ = range.off;
        alloc_end_ = range.off + range.len;
        return 0;
    }
    default:
        return fail(EINVAL);
    }
}

} // namespace kernel
