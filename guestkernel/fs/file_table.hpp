// The descriptors of a process, and its place in the tree.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

class FileTable : public RefCounted {
public:
    FileTable() = default;
    ~FileTable() override; // closes everything (may sleep)

    Result<Ref<File>> get(int fd) const; // EBADF
    // Installs at the lowest free number >= `minimum`; EMFILE at the caller's RLIMIT_NOFILE.
    Result<int> install(Ref<File> file, bool close_on_exec, int minimum = 0);
    // Two-phase: a number that nobody else gets, filled or given back later.
    Result<int> reserve(int minimum = 0);
    Result<int> reserve(int minimum, u64 limit); // of another process, whose table it is
    void fill(int fd, Ref<File> file, bool close_on_exec);
    void unreserve(int fd);
    // dup2/dup3: closes what was there.
    Result<void> replace(int fd, Ref<File> file, bool close_on_exec);
    Result<void> replace(int fd, Ref<File> file, bool close_on_exec, u64 limit);
    Result<void> close(int fd);
    Result<void> close_range(u32 first, u32 last, bool only_set_cloexec);
    Result<bool> close_on_exec(int fd) const;
    Result<void> set_close_on_exec(int fd, bool on);
    // fork: a copy that shares the open file descriptions.
    Result<Ref<FileTable>> clone() const;
    void close_for_exec();
    // The first open descriptor >= fd, or -1: to walk them for /proc.
    int next_open(int fd) const;
    usize capacity() const;

private:
    Result<void> grow(usize capacity);
    Ref<File> take(int fd);

    struct Slot {
        Ref<File> file;
        bool close_on_exec = false;
        bool reserved = false;
    };
    struct State {
        Vector<Slot> slots;
        int lowest_free = 0;
    };
    mutable Guarded<State, LockRank::FileTable> state_;
};

// Root, working directory and umask: shared with CLONE_FS.
class FsContext : public RefCounted {
public:
    FsContext(Path root, Path cwd, u32 umask) : state_(State{root, cwd, umask}) {}
    Path root() const { return state_.lock()->root; }
    Path cwd() const { return state_.lock()->cwd; }
    u32 umask() const { return state_.lock()->umask; }
    void set_root(Path root);
    void set_cwd(Path cwd);
    u32 exchange_umask(u32 umask);
    Result<Ref<FsContext>> clone() const { return make_ref<FsContext>(root(), cwd(), umask()); }

private:
    struct State {
        Path root, cwd;
        u32 umask;
    };
    mutable Guarded<State, LockRank::FileTable> state_;
};

} // namespace kernel
