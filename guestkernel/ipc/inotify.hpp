// inotify(7): queues of events about inodes.
//
// Locks: one sleeping mutex guards all watches (they change rarely; events without watches cost
// nothing, fs/notify.hpp); inside of it each instance's spin lock guards its queue.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/ipc/event_files.hpp"

namespace kernel {

class InotifyFile;

struct InotifyWatch {
    InotifyFile* owner = nullptr;
    Inode* inode = nullptr; // not a reference: the inode's end ends the watch
    Ref<Dentry> place;      // keeps the inode in memory until it is unlinked
    i32 number = 0;
    u32 mask = 0;
    base::ListNode inode_node;
    base::ListNode owner_node;
    base::ListNode all_node;
};

class InotifyFile final : public AnonymousFile {
public:
    InotifyFile(Ref<Inode> inode, u32 flags) : AnonymousFile(std::move(inode), flags) {}
    ~InotifyFile() override;
    static constexpr char file_type[] = "inotify";
    const char* type_name() const override { return file_type; }
    bool signals_readiness() const override { return true; }
    Result<usize> read(IoBuffer& out, u64) override;
    u32 poll(PollTable* table) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    bool describe(String& out) override;
    Result<void> describe_state(String& out) override;

    Result<i32> add_watch(const Path& path, u32 mask);
    Result<void> remove_watch(i32 number);

    struct Event {
        Event* next;
        i32 watch;
        u32 mask, cookie;
        u32 name_length; // with its NUL and padding; 0: none
        char* name() { return static_cast<char*>(static_cast<void*>(this + 1)); }
    };
    void queue_event(i32 watch, u32 mask, u32 cookie, std::string_view name);

    base::IntrusiveList<InotifyWatch, &InotifyWatch::owner_node> watches; // under the mutex

private:
    static constexpr u32 max_queued = 16384; // fs.inotify.max_queued_events
    i32 last_number_ = 0;
    u32 watch_count_ = 0;
    friend void end_watch(InotifyWatch& watch, bool tell);

    SpinLock lock_{LockRank::Leaf};
    Event* volatile first_ = nullptr;
    Event* last_ = nullptr;
    u32 queued_ = 0;
    u64 bytes_ = 0;
    volatile bool overflowed_ = false;
    WaitQueue waiters_;
};

Result<Ref<File>> make_inotify_file(u32 flags);

} // namespace kernel
