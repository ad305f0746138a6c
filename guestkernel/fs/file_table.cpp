#include "guestkernel/fs/file_table.hpp"

#include <linux/errno.h>
#include <linux/resource.h>

#include "guestkernel/core/speculation.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/locks.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr usize first_capacity = 32;

Result<void> close_file(const FileTable& table, Ref<File> file) {
    auto flushed = file->flush();
    if (Inode* inode = file->inode(); inode != nullptr && inode->file_locks != nullptr)
        release_posix_locks(*inode, &table);
    if (Inode* inode = file->inode(); inode != nullptr && inode->watches != nullptr)
        end_directory_notice(*file, &table);
    return flushed;
}

} // namespace

FileTable::~FileTable() {
    for (int fd = next_open(0); fd >= 0; fd = next_open(fd + 1))
        if (!close(fd)) {
            // The process ends: nobody is left to hear of a failed flush.
        }
}

Result<Ref<File>> FileTable::get(int fd) const {
    auto state = state_.lock();
    if (static_cast<usize>(static_cast<u32>(fd)) >= state->slots.size())
        return fail(EBADF);
    const usize slot = speculation::bounded_index(static_cast<usize>(fd), state->slots.size());
    const Ref<File>& file = state->slots[slot].file;
    if (!file)
        return fail(EBADF);
    return file;
}

// Makes room for `capacity` slots; the allocation comes outside of the lock.
Result<void> FileTable::grow(usize capacity) {
    usize wanted = first_capacity;
    while (wanted < capacity)
        wanted *= 2;
    Vector<Slot> fresh;
    TRY(fresh.resize(wanted));
    auto state = state_.lock();
    if (state->slots.size() < fresh.size()) {
        for (usize i = 0; i < state->slots.size(); i++)
            fresh[i] = std::move(state->slots[i]);
        std::swap(fresh, state->slots);
    }
    state.unlock(); // the old array goes after the lock
    return {};
}

Result<int> FileTable::reserve(int minimum) {
    return reserve(minimum, current_limit(RLIMIT_NOFILE));
}

Result<int> FileTable::reserve(int minimum, u64 limit) {
    for (;;) {
        usize size = 0;
        {
            auto state = state_.lock();
            size = state->slots.size();
            usize fd =
                static_cast<usize>(minimum > state->lowest_free ? minimum : state->lowest_free);
            while (fd < size && (state->slots[fd].file || state->slots[fd].reserved))
                fd++;
            if (fd >= limit)
                return fail(EMFILE);
            if (fd < size) {
                state->slots[fd].reserved = true;
                state->slots[fd].close_on_exec = false;
                if (minimum <= state->lowest_free)
                    state->lowest_free = static_cast<int>(fd) + 1;
                return static_cast<int>(fd);
            }
        }
        const usize least = static_cast<usize>(minimum) + 1;
        TRY(grow(least > size + 1 ? least : size + 1));
    }
}

void FileTable::fill(int fd, Ref<File> file, bool close_on_exec) {
    auto state = state_.lock();
    Slot& slot = state->slots[static_cast<usize>(fd)];
    ASSERT(slot.reserved && !slot.file);
    slot.file = std::move(file);
    slot.reserved = false;
    slot.close_on_exec = close_on_exec;
}

void FileTable::unreserve(int fd) {
    auto state = state_.lock();
    state->slots[static_cast<usize>(fd)].reserved = false;
    if (fd < state->lowest_free)
        state->lowest_free = fd;
}

Result<int> FileTable::install(Ref<File> file, bool close_on_exec, int minimum) {
    TRY(const int fd, reserve(minimum));
    fill(fd, std::move(file), close_on_exec);
    return fd;
}

Result<void> FileTable::replace(int fd, Ref<File> file, bool close_on_exec) {
    return replace(fd, std::move(file), close_on_exec, current_limit(RLIMIT_NOFILE));
}

Result<void> FileTable::replace(int fd, Ref<File> file, bool close_on_exec, u64 limit) {
    if (fd < 0 || static_cast<u64>(fd) >= limit)
        return fail(EBADF);
    Ref<File> old;
    const auto index = static_cast<usize>(fd);
    for (;;) {
        {
            auto state = state_.lock();
            if (index < state->slots.size()) {
                Slot& slot = state->slots[index];
                if (slot.reserved)
                    return fail(EBUSY); // another thread's open() is about to use it (dup2(2))
                old = std::exchange(slot.file, std::move(file));
                slot.close_on_exec = close_on_exec;
                break;
            }
        }
        TRY(grow(index + 1));
    }
    if (old && !close_file(*this, std::move(old))) {
        // dup2(2): errors of the implicit close are lost
    }
    return {};
}

Ref<File> FileTable::take(int fd) {
    auto state = state_.lock();
    if (static_cast<usize>(static_cast<u32>(fd)) >= state->slots.size())
        return nullptr;
    Slot& slot = state->slots[static_cast<usize>(fd)];
    Ref<File> file = std::move(slot.file);
    if (file) {
        slot.close_on_exec = false;
        if (fd < state->lowest_free)
            state->lowest_free = fd;
    }
    return file;
}

Result<void> FileTable::close(int fd) {
    Ref<File> file = take(fd);
    if (!file)
        return fail(EBADF);
    return close_file(*this, std::move(file));
}

Result<void> FileTable::close_range(u32 first, u32 last, bool only_set_cloexec) {
    if (first > last)
        return fail(EINVAL);
    if (first > 0x7fff'ffff)
        return {};
    for (int fd = next_open(static_cast<int>(first)); fd >= 0 && static_cast<u32>(fd) <= last;
         fd = next_open(fd + 1)) {
        if (!(only_set_cloexec ? set_close_on_exec(fd, true) : close(fd))) {
            // Closed by another thread meanwhile, or a failed flush: close_range(2) goes on.
        }
    }
    return {};
}

Result<bool> FileTable::close_on_exec(int fd) const {
    auto state = state_.lock();
    if (static_cast<usize>(static_cast<u32>(fd)) >= state->slots.size() ||
        !state->slots[static_cast<usize>(fd)].file)
        return fail(EBADF);
    return state->slots[static_cast<usize>(fd)].close_on_exec;
}

Result<void> FileTable::set_close_on_exec(int fd, bool on) {
    auto state = state_.lock();
    if (static_cast<usize>(static_cast<u32>(fd)) >= state->slots.size() ||
        !state->slots[static_cast<usize>(fd)].file)
        return fail(EBADF);
    state->slots[static_cast<usize>(fd)].close_on_exec = on;
    return {};
}

Result<Ref<FileTable>> FileTable::clone() const {
    TRY(Ref<FileTable> copy, make_ref<FileTable>());
    for (;;) {
        usize size = 0;
        {
            auto state = state_.lock();
            size = state->slots.size();
            // As many as are used: a child seldom opens thousands of files because its parent did.
            while (size > 0 && !state->slots[size - 1].file)
                size--;
        }
        if (size != 0)
            TRY(copy->grow(size));
        auto state = state_.lock();
        // The copy is not shared yet, so its lock is not needed (and of the same rank).
        State& fresh = copy->state_.unlocked();
        bool fits = true;
        for (usize i = fresh.slots.size(); i < state->slots.size(); i++)
            fits = fits && !state->slots[i].file;
        if (!fits)
            continue; // the table grew between the two looks
        for (usize i = 0; i < fresh.slots.size() && i < state->slots.size(); i++) {
            fresh.slots[i].file = state->slots[i].file;
            fresh.slots[i].close_on_exec = state->slots[i].close_on_exec;
        }
        return copy;
    }
}

void FileTable::close_for_exec() {
    for (int fd = next_open(0); fd >= 0; fd = next_open(fd + 1)) {
        auto wanted = close_on_exec(fd);
        if (wanted && *wanted && !close(fd)) {
            // execve(2) has no way to tell
        }
    }
}

int FileTable::next_open(int fd) const {
    auto state = state_.lock();
    for (usize i = static_cast<usize>(fd < 0 ? 0 : fd); i < state->slots.size(); i++)
        if (state->slots[i].file)
            return static_cast<int>(i);
    return -1;
}

usize FileTable::capacity() const {
    return state_.lock()->slots.size();
}

void FsContext::set_root(Path root) {
    auto state = state_.lock();
    std::swap(state->root, root);
    state.unlock();
}

void FsContext::set_cwd(Path cwd) {
    auto state = state_.lock();
    std::swap(state->cwd, cwd);
    state.unlock();
}

u32 FsContext::exchange_umask(u32 umask) {
    auto state = state_.lock();
    return std::exchange(state->umask, umask & 0777);
}

} // namespace kernel
