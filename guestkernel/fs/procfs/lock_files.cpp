// /proc/locks, and the locks of one descriptor in fdinfo.
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/leases.hpp"
#include "guestkernel/fs/locks.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::procfs {
namespace {

struct Listing {
    TextBuilder& out;
    const PidNamespace* pids;
    std::string_view prefix;
    const File* file;       // only what is held by it; null: all
    const FileTable* table; // ... or through it by this table
    u64 number = 0;
};

void list(Listing& to, std::string_view kind, std::string_view state, LockType type, i32 pid,
          const Inode& inode, const RecordLock* range) {
    const i32 shown = pid < 0 ? pid : pid_in(to.pids, pid);
    if (shown == 0)
        return; // not a process of this namespace
    const u64 device = inode.superblock()->device_number;
    to.out.append(to.prefix);
    to.out.print("{}: {} {} {} {} ", ++to.number, kind, state,
                 type == LockType::Exclusive ? "WRITE"
                 : type == LockType::Shared  ? "READ"
                                             : "UNLCK",
                 shown);
    to.out.hex(device_major(device), 2);
    to.out.append(":");
    to.out.hex(device_minor(device), 2);
    to.out.print(":{} ", inode.number());
    if (range == nullptr || (range->start == 0 && range->end == lock_to_end))
        to.out.append("0 EOF\n");
    else if (range->end == lock_to_end)
        to.out.print("{} EOF\n", range->start);
    else
        to.out.print("{} {}\n", range->start, range->end);
}

void list_lock(const LockView& lock, void* context) {
    auto& to = *static_cast<Listing*>(context);
    if (to.file != nullptr &&
        (lock.inode != to.file->inode() || (lock.owner != to.file && lock.owner != to.table)))
        return;
    switch (lock.kind) {
    case LockView::Kind::Posix:
        return list(to, "POSIX ", "ADVISORY ", lock.lock.type, lock.lock.pid, *lock.inode,
                    &lock.lock);
    case LockView::Kind::OfFile:
        return list(to, "OFDLCK", "ADVISORY ", lock.lock.type, -1, *lock.inode, &lock.lock);
    case LockView::Kind::Whole:
        return list(to, "FLOCK ", "ADVISORY ", lock.lock.type, lock.lock.pid, *lock.inode, nullptr);
    }
}

void list_lease(const LeaseView& lease, void* context) {
    auto& to = *static_cast<Listing*>(context);
    if (to.file == nullptr || to.file == lease.file)
        list(to, "LEASE ", lease.breaking ? "BREAKING " : "ACTIVE   ", lease.type, lease.pid,
             *lease.inode, nullptr);
}

} // namespace

Result<void> show_locks(TextBuilder& out, const TableContext& of) {
    Listing to{out, of.pids, "", nullptr, nullptr};
    each_file_lock(list_lock, &to);
    each_lease(list_lease, &to);
    return {};
}

void show_locks_of(TextBuilder& out, const TableContext& of, const File& file,
                   const FileTable* table) {
    Listing to{out, of.pids, "lock:\t", &file, table};
    each_file_lock(list_lock, &to);
    each_lease(list_lease, &to);
}

} // namespace kernel::procfs
