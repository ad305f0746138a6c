// What the handlers of files have in common.
#pragma once

#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/lib/string.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

// A path from user memory; may be empty.
inline Result<String> copy_path(u64 address) {
    return copy_in_string(address, 4096);
}

// The open file, not one that is only a place (O_PATH): EBADF.
Result<Ref<File>> usable_file(Task& task, int fd);

// EINTR of an operation that was not begun becomes the order to begin it again (SA_RESTART).
template <typename T>
Result<T> restartable(Result<T> result) {
    constexpr int eintr = 4;
    if (!result && result.error().code == eintr)
        return fail(restart_syscall);
    return result;
}

// The vectors of readv(2) and its like: copied in and checked. Few of them need no memory.
class UserVectors {
public:
    Result<void> load(u64 address, u64 count);
    std::span<const UserVector> span() const { return span_; }

private:
    static constexpr usize on_stack = 8;
    UserVector few_[on_stack];
    Vector<UserVector> many_;
    std::span<const UserVector> span_;
};

// A transfer that was asked for other than by a call of its own (io_submit(2), io_uring): `offset`
// is ignored by streams, ~0 is the file's own position; `flags`: RWF_*. The file's direction has
// been checked.
Result<long> transfer_file(File& file, std::span<const UserVector> vectors, u64 offset, u32 flags,
                           bool write);

// One read(2) or write(2) takes at most this (MAX_RW_COUNT).
inline constexpr u64 largest_transfer = 0x7fff'f000;

} // namespace kernel
