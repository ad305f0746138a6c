// fanotify(7): queues of events about inodes, mounts and file systems, which may be asked for
// permission before they happen.
//
// Locks: one sleeping mutex guards all marks and the list of groups; inside of it each group's spin
// lock guards its queue. Events are dropped without the mutex: they hold places in the tree, whose
// end may be the end of marks.
#pragma once

#include "guestkernel/fs/file_handle.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/ipc/fanotify_mark.hpp"

namespace kernel {

class Process;

struct FanotifyEvent final : public RefCounted {
    base::ListNode node;
    u32 mask = 0;
    i32 pid = 0;          // of the process or thread, globally
    Ref<Process> process; // for a pidfd
    Path path;            // what a descriptor is opened for
    // What is told by handles (no bytes: not told) and names.
    u64 file_system = 0;
    FileHandle directory, new_directory, object;
    String name, new_name;
    // A question: nobody has answered yet while it is zero.
    bool question = false;
    volatile u32 answer = 0;
    int fd = -1; // by which the answer names it
    WaitQueue answered;
};

class FanotifyFile final : public AnonymousFile {
public:
    FanotifyFile(Ref<Inode> inode, u32 flags, u32 mode, u32 event_flags, bool trusted, u32 uid);
    ~FanotifyFile() override;
    static constexpr char file_type[] = "[fanotify]";
    const char* type_name() const override { return file_type; }
    Result<usize> read(IoBuffer& out, u64) override;
    Result<usize> write(IoBuffer& in, u64) override; // answers
    u32 poll(PollTable* table) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    bool describe(String& out) override;
    Result<void> describe_state(String& out) override;

    u32 mode() const { return mode_; } // FAN_CLASS_*, FAN_REPORT_*, FAN_UNLIMITED_*
    bool by_handle() const;
    bool trusted() const { return trusted_; } // of who has CAP_SYS_ADMIN
    u32 uid() const { return uid_; }

    // fanotify_mark(2). `flags`: FAN_MARK_*. Checked by the caller.
    Result<void> add_mark(const Path& path, u32 flags, u32 mask);
    Result<void> remove_mark(const Path& path, u32 flags, u32 mask);
    void flush_marks(FanotifyMark::On on);

    void queue(Ref<FanotifyEvent> event);
    void note_overflow();
    // A question; then, without holding the group, which may be closed meanwhile, its answer:
    // EPERM, EINTR.
    void pose(Ref<FanotifyEvent> event);
    static Result<void> await_answer(FanotifyEvent& event);

    // --- under the mutex of all marks
    base::IntrusiveList<FanotifyMark, &FanotifyMark::group_node> marks;
    base::ListNode all_node;     // of all groups
    base::ListNode touched_node; // while an event is looked at
    u32 mark_count = 0;
    struct Gathered {
        u32 wanted = 0, ignored = 0;
        u64 file_system = 0;
        bool by_old = false, by_new = false; // FAN_RENAME: which of the directories is told
    } gathered;

private:
    Result<usize> give(FanotifyEvent& event, IoBuffer& out);
    Result<int> open_for(const FanotifyEvent& event);
    usize length_of(const FanotifyEvent& event) const;
    bool merge(const FanotifyEvent& event);
    Ref<FanotifyEvent> take(usize room, Result<void>& outcome);

    const u32 mode_, event_flags_;
    const u32 most_queued_;
    const bool trusted_;
    const u32 uid_;
    SpinLock lock_{LockRank::Leaf};
    base::IntrusiveList<FanotifyEvent, &FanotifyEvent::node> events_; // each holds a reference
    base::IntrusiveList<FanotifyEvent, &FanotifyEvent::node> asked_;  // read, not answered
    volatile u32 queued_ = 0;
    u64 bytes_ = 0;
    volatile bool overflowed_ = false;
    WaitQueue waiters_;
};

// fanotify_init(2), checked by the caller. EMFILE.
Result<Ref<File>> make_fanotify_file(u32 mode, u32 event_flags, bool trusted);

} // namespace kernel
