// Advisory locks: flock(2), POSIX record locks and open file description locks (fcntl(2)).
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class File;
class FileTable;
class Inode;
struct LockState;

enum class LockType : u8 { Shared, Exclusive, None };

// An inclusive range of bytes; to_end is "until infinity".
inline constexpr u64 lock_to_end = 0x7fff'ffff'ffff'ffff;
struct RecordLock {
    LockType type = LockType::None;
    u64 start = 0, end = lock_to_end;
    i32 pid = 0; // of the holder; -1 for OFD locks
};

// flock(2): EWOULDBLOCK unless `wait`, EINTR.
Result<void> lock_whole_file(File& file, LockType type, bool wait);
// F_SETLK, F_SETLKW (owner: the file table) and F_OFD_SETLK(W) (owner: the file). EAGAIN, EDEADLK,
// EINTR.
Result<void> lock_records(File& file, const void* owner, const RecordLock& lock, bool wait,
                          bool of_file);
// F_GETLK: the first lock that stands in the way, or type None.
Result<RecordLock> test_records(File& file, const void* owner, const RecordLock& lock);
// close(2) of any descriptor: all POSIX locks of that table on the file's inode go (fcntl(2)).
void release_posix_locks(Inode& inode, const FileTable* owner);
// The open file description dies: its flock and OFD locks go.
void release_file_locks(File& file);
void free_lock_state(LockState* state); // null is fine

// For /proc/locks and fdinfo: calls `tell` for each lock that is held.
struct LockView {
    enum class Kind : u8 { Posix, OfFile, Whole } kind;
    const void* owner; // the file table, or the file
    const Inode* inode;
    RecordLock lock;
};
void each_file_lock(void (*tell)(const LockView& lock, void* context), void* context);

} // namespace kernel
