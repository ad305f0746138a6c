// /proc/sysvipc, /proc/keys and /proc/key-users; sysvipc(7), keyrings(7).
#include <linux/errno.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/task/keys.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::procfs {
namespace {

constexpr u32 read_only = mode_regular | 0444;
constexpr unsigned id_width = 5, long_width = 10, size_width = 21;

void signed_number(TextBuilder& out, i64 value, unsigned width) {
    char text[24];
    const usize length = log::format(text, sizeof text, "{}", value);
    for (usize i = length; i < width; i++)
        out.append(" ");
    out.append({text, length});
}

void column(TextBuilder& out, u64 value, unsigned width) {
    out.append(" ");
    out.number(value, width);
}

UserNamespace* own_space() {
    const Credentials* who = current_task().credentials.get();
    return who == nullptr ? nullptr : who->user_ns.get();
}

void identity(TextBuilder& out, const SysvObject& object) {
    signed_number(out, object.key, long_width);
    out.append(" ");
    signed_number(out, object.id, long_width);
    out.append("  ");
    char mode[8];
    usize length = 0;
    for (u32 left = object.mode & 07777; left != 0 || length == 0; left >>= 3)
        mode[length++] = static_cast<char>('0' + (left & 7));
    for (usize i = length; i < 4; i++)
        out.append(" ");
    while (length > 0)
        out.append({&mode[--length], 1});
}

void owners(TextBuilder& out, const SysvObject& object) {
    UserNamespace* space = own_space();
    column(out, from_global_id(space, false, object.uid), id_width);
    column(out, from_global_id(space, true, object.gid), id_width);
    column(out, from_global_id(space, false, object.creator_uid), id_width);
    column(out, from_global_id(space, true, object.creator_gid), id_width);
}

void times(TextBuilder& out, const SysvView& view, usize count) {
    for (usize i = 0; i < count; i++)
        column(out, static_cast<u64>(view.times[i]), long_width);
}

void pids(TextBuilder& out, const SysvView& view) {
    column(out, static_cast<u64>(visible_pid(view.first_pid)), id_width);
    column(out, static_cast<u64>(visible_pid(view.last_pid)), id_width);
}

void tell_queue(const SysvView& view, void* context) {
    auto& out = *static_cast<TextBuilder*>(context);
    identity(out, view.object);
    out.append(" ");
    column(out, view.bytes, long_width);
    column(out, view.count, long_width);
    pids(out, view);
    owners(out, view.object);
    times(out, view, 3);
    out.append("\n");
}

void tell_set(const SysvView& view, void* context) {
    auto& out = *static_cast<TextBuilder*>(context);
    identity(out, view.object);
    column(out, view.count, long_width);
    owners(out, view.object);
    times(out, view, 2);
    out.append("\n");
}

void tell_segment(const SysvView& view, void* context) {
    auto& out = *static_cast<TextBuilder*>(context);
    identity(out, view.object);
    column(out, view.bytes, size_width);
    pids(out, view);
    out.append(" ");
    column(out, view.count, id_width);
    owners(out, view.object);
    times(out, view, 3);
    column(out, view.resident, size_width);
    column(out, 0, size_width);
    out.append("\n");
}

Result<void> show_queues(TextBuilder& out, const TableContext&) {
    out.append("       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  "
               "cgid      stime      rtime      ctime\n");
    each_message_queue(tell_queue, &out);
    return {};
}

Result<void> show_sets(TextBuilder& out, const TableContext&) {
    out.append("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      "
               "ctime\n");
    each_semaphore_set(tell_set, &out);
    return {};
}

Result<void> show_segments(TextBuilder& out, const TableContext&) {
    out.append("       key      shmid perms                  size  cpid  lpid nattch   uid   gid  "
               "cuid  cgid      atime      dtime      ctime                   rss                  "
               "swap\n");
    each_segment(tell_segment, &out);
    return {};
}

// "perm", "expd", or the time that is left in its largest unit.
void expiry(TextBuilder& out, const KeyObject& key) {
    if (key.expires_ns == 0)
        return out.append("perm");
    const u64 now = monotonic_ns();
    if (key.expires_ns <= now)
        return out.append("expd");
    const u64 seconds = (key.expires_ns - now) / nanoseconds_per_second;
    constexpr u64 minute = 60, hour = 60 * minute, day = 24 * hour, week = 7 * day;
    struct Unit {
        u64 below, unit;
        char letter;
    };
    static constexpr Unit units[] = {{minute, 1, 's'},
                                     {hour, minute, 'm'},
                                     {day, hour, 'h'},
                                     {week, day, 'd'},
                                     {~u64{0}, week, 'w'}};
    const Unit* unit = units;
    while (seconds >= unit->below)
        unit++;
    out.number(seconds / unit->unit, 3);
    out.append({&unit->letter, 1});
}

void tell_key(TextBuilder& out, const KeyObject& key) {
    UserNamespace* space = own_space();
    out.hex(static_cast<u32>(key.serial), 8);
    out.append(" I");
    out.append(key.revoked ? "R" : "-");
    out.append("-Q--");
    out.append(key.invalidated ? "i" : "-");
    column(out, key.ref_count(), id_width);
    out.append(" ");
    expiry(out, key);
    out.append(" ");
    out.hex(key.permissions, 8);
    column(out, from_global_id(space, false, key.uid), id_width);
    column(out, from_global_id(space, true, key.gid), id_width);
    out.append(" ");
    out.text(key_type_name(key.type), 9);
    out.append(" ");
    out.append(key.description.view());
    if (!key.is_ring())
        out.print(": {}\n", key.payload.size());
    else if (key.links.empty())
        out.append(": empty\n");
    else
        out.print(": {}\n", key.links.size());
}

} // namespace

Result<void> show_keys(TextBuilder& out, const TableContext&) {
    MutexGuard guard(keys_mutex());
    Vector<i32> serials;
    TRY(list_keys(serials));
    for (const i32 serial : serials) {
        if (auto key = lookup_key(current_task(), serial, false, key_view))
            tell_key(out, *key->key);
        // Each look may go through all rings of the reader.
        if (fatal_signal_pending())
            return fail(EINTR);
        cond_resched();
    }
    guard.unlock();
    return {};
}

Result<void> show_key_users(TextBuilder& out, const TableContext&) {
    MutexGuard guard(keys_mutex());
    each_key_user(
        [](const KeyQuota& user, void* context) {
            auto& to = *static_cast<TextBuilder*>(context);
            const bool root = user.uid == 0;
            to.number(from_global_id(own_space(), false, user.uid), id_width);
            to.append(": ");
            to.number(user.ref_count(), id_width);
            to.print(" {}/{} {}/{} {}/{}\n", user.keys, user.keys, user.keys,
                     root ? 1'000'000 : 200, user.bytes, root ? 25'000'000 : 20'000);
        },
        &out);
    guard.unlock();
    return {};
}

constinit const TableEntry sysvipc_entries[3] = {
    {.name = "msg", .mode = read_only, .show = show_queues},
    {.name = "sem", .mode = read_only, .show = show_sets},
    {.name = "shm", .mode = read_only, .show = show_segments},
};

} // namespace kernel::procfs
