// epoll(7): an interest list of files, and the list of those that may be ready.
#pragma once

#include "guestkernel/ipc/event_files.hpp"

namespace kernel {

struct EpollItem;

class EpollFile final : public AnonymousFile {
public:
    EpollFile(Ref<Inode> inode, u32 flags) : AnonymousFile(std::move(inode), flags) {}
    ~EpollFile() override;
    static constexpr char file_type[] = "eventpoll";
    const char* type_name() const override { return file_type; }

    // epoll_ctl(2): EEXIST, ENOENT, EINVAL, ELOOP, ENOMEM.
    Result<void> add(int fd, File& file, u32 events, u64 data);
    Result<void> modify(int fd, File& file, u32 events, u64 data);
    Result<void> remove(int fd, File& file);

    // A file that is watched: the one at `index` of those that were added by that number. ENOENT.
    Result<Ref<File>> target(int fd, u32 index);

    struct Ready {
        u32 events;
        u64 data;
    };
    // Takes up to out.size() ready ones. Sleeps until there is one, the deadline (no_deadline:
    // none; 0: does not sleep) has passed, or a signal comes (EINTR).
    Result<usize> wait(std::span<Ready> out, u64 deadline_ns);
    // How many may be ready; more can come at any time.
    usize ready_count() const { return ready_count_; }
    u32 poll(PollTable* table) override;
    Result<void> describe_state(String& out) override;
    u32 poll_locked(); // the same for who has the mutex of all epoll files

private:
    // As Linux: epoll files in each other.
    static constexpr unsigned max_nesting = 4;
    friend struct EpollItem;
    friend void forget_epoll_items(File& file);
    EpollItem* find(int fd, const File& file);
    usize collect(std::span<Ready> out);
    void make_ready(EpollItem& item);
    void leave_ready(EpollItem& item);
    static void destroy(EpollItem& item);
    bool enter_walk();
    unsigned depth_below(const EpollFile& needle);
    unsigned depth_above();
    bool nests_too_deep(EpollFile& inner);
    bool count_ways(unsigned length, u32 (&counts)[max_nesting + 1]) const;
    bool too_many_ways();

    EpollItem* items_ = nullptr; // under the epoll mutex, as the next three
    u64 walk_ = 0;               // the last that came by, and what it found
    unsigned depth_ = 0;
    static u64 walks_;
    SpinLock ready_lock_{LockRank::Nested};
    EpollItem* first_ready_ = nullptr; // under ready_lock_
    EpollItem* last_ready_ = nullptr;
    volatile usize ready_count_ = 0;
    WaitQueue waiters_{LockRank::Nested};
};

Result<Ref<File>> make_epoll_file();

} // namespace kernel
