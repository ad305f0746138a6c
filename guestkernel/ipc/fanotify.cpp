// Groups of fanotify: their queues, and what is read and answered.
#include "guestkernel/ipc/fanotify.hpp"

#include <linux/errno.h>
#include <linux/fanotify.h>
#include <linux/fcntl.h>

#include "guestkernel/fs/fdinfo.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/open.hpp"
#include "guestkernel/ipc/fanotify_internal.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/pidfd.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

constinit FanotifyLimits fanotify_limits;

namespace {

constexpr u32 fionread = 0x541b;
constexpr usize merge_window = 128;
constexpr usize record_unit = 4;

struct InfoHead { // struct fanotify_event_info_fid and the struct file_handle in it
    u8 type, pad;
    u16 length;
    u32 file_system[2];
    u32 handle_bytes, handle_type;
};
struct PidInfo { // struct fanotify_event_info_pidfd
    u8 type, pad;
    u16 length;
    i32 pidfd;
};

bool same_handle(const FileHandle& a, const FileHandle& b) {
    return a.bytes == b.bytes && a.type == b.type && a.words[0] == b.words[0] &&
           a.words[1] == b.words[1];
}

usize record_length(const FileHandle& handle, usize name_bytes) {
    const usize bytes = sizeof(InfoHead) + handle.bytes + name_bytes;
    return (bytes + record_unit - 1) / record_unit * record_unit;
}

// One record of an event that identifies files.
struct Record {
    u8 type;
    const FileHandle* handle;
    std::string_view name; // with its NUL; empty: none
};

// A name with the NUL that follows it.
std::string_view with_end(const String& name) {
    return {name.c_str(), name.size() + 1};
}

// fanotify(7), "Information records": which there are, in order.
usize records_of(const FanotifyEvent& event, u32 mode, Record (&out)[3]) {
    constexpr u32 entries = FAN_CREATE | FAN_DELETE | FAN_MOVE | FAN_RENAME;
    usize count = 0;
    const bool rename = (event.mask & FAN_RENAME) != 0;
    if (event.directory.bytes != 0)
        out[count++] = {static_cast<u8>(rename               ? FAN_EVENT_INFO_TYPE_OLD_DFID_NAME
                                        : event.name.empty() ? FAN_EVENT_INFO_TYPE_DFID
                                                             : FAN_EVENT_INFO_TYPE_DFID_NAME),
                        &event.directory,
                        event.name.empty() ? std::string_view() : with_end(event.name)};
    if (event.new_directory.bytes != 0)
        out[count++] = {FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, &event.new_directory,
                        with_end(event.new_name)};
    if (event.object.bytes == 0)
        return count;
    constexpr u32 handles = FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME;
    if (count != 0 || (mode & handles) == FAN_REPORT_FID)
        out[count++] = {FAN_EVENT_INFO_TYPE_FID, &event.object, {}};
    else if ((mode & FAN_REPORT_NAME) != 0 && (event.mask & FAN_ONDIR) != 0)
        out[count++] = {FAN_EVENT_INFO_TYPE_DFID_NAME, &event.object, std::string_view(".", 2)};
    else if ((event.mask & (entries | FAN_ONDIR)) != 0)
        out[count++] = {FAN_EVENT_INFO_TYPE_DFID, &event.object, {}};
    else
        out[count++] = {FAN_EVENT_INFO_TYPE_FID, &event.object, {}};
    return count;
}

Result<void> give_record(const Record& record, u64 file_system, IoBuffer& out) {
    const FileHandle& handle = *record.handle;
    const usize length = record_length(handle, record.name.size());
    const InfoHead head{record.type,
                        0,
                        static_cast<u16>(length),
                        {static_cast<u32>(file_system), static_cast<u32>(file_system >> 32)},
                        handle.bytes,
                        handle.type};
    static constexpr char zeros[record_unit] = {};
    const usize padding = length - sizeof head - handle.bytes - record.name.size();
    usize copied = out.copy_out(&head, sizeof head);
    copied += out.copy_out(handle.words, handle.bytes);
    copied += out.copy_out(record.name.data(), record.name.size());
    copied += out.copy_out(zeros, padding);
    return copied == length ? Result<void>() : Result<void>(fail(EFAULT));
}

// Nobody can be told of it any more, not even its parent.
bool has_gone(const Process& process) {
    SpinGuard guard(process_tree_lock());
    return process.state == ProcessState::Reaped;
}

} // namespace

FanotifyFile::FanotifyFile(Ref<Inode> inode, u32 flags, u32 mode, u32 event_flags, bool trusted,
                           u32 uid)
    : AnonymousFile(std::move(inode), flags), mode_(mode), event_flags_(event_flags),
      most_queued_((mode & FAN_UNLIMITED_QUEUE) != 0 ? ~0u : fanotify_limits.events.load()),
      trusted_(trusted), uid_(uid) {}

FanotifyFile::~FanotifyFile() {
    end_fanotify_group(*this);
    // Whoever still waits may go on.
    for (auto* list : {&events_, &asked_})
        while (FanotifyEvent* event = list->pop_front()) {
            const Ref<FanotifyEvent> gone = Ref<FanotifyEvent>::adopt(event);
            event->answer = FAN_ALLOW;
            event->answered.wake_all();
        }
}

bool FanotifyFile::by_handle() const {
    return (mode_ & (FAN_REPORT_FID | FAN_REPORT_DIR_FID)) != 0;
}

// Requires: the queue's lock. Whether it went into an event that is queued already.
bool FanotifyFile::merge(const FanotifyEvent& event) {
    if (event.question)
        return false;
    usize looked = 0;
    for (FanotifyEvent* old = events_.back(); old != nullptr && looked < merge_window; looked++) {
        const bool same = !old->question && old->pid == event.pid && old->path == event.path &&
                          old->file_system == event.file_system &&
                          (old->mask & FAN_ONDIR) == (event.mask & FAN_ONDIR) &&
                          (old->mask & FAN_RENAME) == (event.mask & FAN_RENAME) &&
                          same_handle(old->directory, event.directory) &&
                          same_handle(old->new_directory, event.new_directory) &&
                          same_handle(old->object, event.object) &&
                          old->name.view() == event.name.view() &&
                          old->new_name.view() == event.new_name.view();
        if (same) {
            old->mask |= event.mask;
            return true;
        }
        old = events_.previous(*old);
    }
    return false;
}

void FanotifyFile::queue(Ref<FanotifyEvent> event) {
    {
        SpinGuard guard(lock_);
        if (!overflowed_ && merge(*event)) {
            // The reader is told of both at once.
        } else if (overflowed_ || queued_ >= most_queued_) {
            overflowed_ = true;
        } else {
            queued_ = queued_ + 1;
            bytes_ += length_of(*event);
            events_.push_back(*event.leak());
        }
    }
    waiters_.wake_all(poll_in | poll_rdnorm);
}

void FanotifyFile::note_overflow() {
    overflowed_ = true;
    waiters_.wake_all(poll_in | poll_rdnorm);
}

void FanotifyFile::pose(Ref<FanotifyEvent> event) {
    {
        SpinGuard guard(lock_);
        queued_ = queued_ + 1;
        bytes_ += length_of(*event);
        events_.push_back(*event.leak());
    }
    waiters_.wake_all(poll_in | poll_rdnorm);
}

Result<void> FanotifyFile::await_answer(FanotifyEvent& event) {
    const WaitOutcome outcome = wait_until(
        event.answered, [&] { return event.answer != 0; }, no_deadline, TaskState::Killable);
    if (outcome == WaitOutcome::Interrupted)
        return fail(EINTR); // whatever the listener says of it now
    return (event.answer & FAN_ALLOW) != 0 ? Result<void>() : Result<void>(fail(EPERM));
}

usize FanotifyFile::length_of(const FanotifyEvent& event) const {
    usize length = sizeof(fanotify_event_metadata);
    Record records[3];
    const usize count = records_of(event, mode_, records);
    for (usize i = 0; i < count; i++)
        length += record_length(*records[i].handle, records[i].name.size());
    if ((mode_ & FAN_REPORT_PIDFD) != 0)
        length += sizeof(PidInfo);
    return length;
}

// The next event if there is one and `room` for it; a question that was read goes to those that
// wait for an answer when it has its descriptor.
Ref<FanotifyEvent> FanotifyFile::take(usize room, Result<void>& outcome) {
    SpinGuard guard(lock_);
    FanotifyEvent* event = events_.front();
    const usize needed = event != nullptr ? length_of(*event)
                         : overflowed_    ? sizeof(fanotify_event_metadata)
                                          : 0;
    if (needed > room) {
        outcome = fail(EINVAL);
        return {};
    }
    if (event == nullptr)
        return {};
    event->node.unlink();
    queued_ = queued_ - 1;
    bytes_ -= needed;
    return Ref<FanotifyEvent>::adopt(event);
}

Result<int> FanotifyFile::open_for(const FanotifyEvent& event) {
    FileTable& table = *current_task().files;
    TRY(const int fd, table.reserve());
    auto file = open_checked(event.path, event_flags_ & ~u32{O_CLOEXEC}, true, true);
    if (!file) {
        table.unreserve(fd);
        return fail(file.error().code);
    }
    table.fill(fd, std::move(*file), (event_flags_ & O_CLOEXEC) != 0);
    return fd;
}

Result<usize> FanotifyFile::give(FanotifyEvent& event, IoBuffer& out) {
    fanotify_event_metadata head{};
    head.event_len = static_cast<u32>(length_of(event));
    head.vers = FANOTIFY_METADATA_VERSION;
    head.metadata_len = sizeof head;
    head.mask = event.mask;
    head.fd = FAN_NOFD;
    // Who has no rights learns from it which events are its own, and nothing of other processes
    // (fanotify(7), "Unprivileged").
    head.pid = trusted_ || event.pid == current_pid() ? visible_pid(event.pid) : 0;
    if (event.path) {
        TRY(const int fd, open_for(event));
        head.fd = fd;
    }
    PidInfo pid_info{FAN_EVENT_INFO_TYPE_PIDFD, 0, sizeof pid_info, FAN_NOPIDFD};
    const auto undo = [&] {
        for (const int fd : {head.fd, pid_info.pidfd})
            if (fd >= 0)
                (void)current_task().files->close(fd);
    };
    if (event.process && head.pid != 0 && !has_gone(*event.process)) {
        auto pidfd = make_pidfd(event.process, 0);
        auto fd = pidfd ? current_task().files->install(std::move(*pidfd), true)
                        : Result<int>(fail(pidfd.error().code));
        pid_info.pidfd = fd ? *fd : fd.error().code == ESRCH ? FAN_NOPIDFD : FAN_EPIDFD;
    }
    Result<void> done;
    if (out.copy_out(&head, sizeof head) != sizeof head)
        done = fail(EFAULT);
    Record records[3];
    const usize count = records_of(event, mode_, records);
    for (usize i = 0; i < count && done; i++)
        done = give_record(records[i], event.file_system, out);
    if (done && (mode_ & FAN_REPORT_PIDFD) != 0 &&
        out.copy_out(&pid_info, sizeof pid_info) != sizeof pid_info)
        done = fail(EFAULT);
    if (!done) {
        undo();
        return fail(done.error().code);
    }
    event.fd = head.fd;
    return head.event_len;
}

Result<usize> FanotifyFile::read(IoBuffer& out, u64) {
    usize done = 0;
    const auto end = [&](int code) -> Result<usize> {
        return done > 0 ? Result<usize>(done) : Result<usize>(fail(code));
    };
    for (;;) {
        Result<void> outcome;
        Ref<FanotifyEvent> event = take(out.remaining(), outcome);
        if (!outcome)
            return end(outcome.error().code);
        if (!event && overflowed_) {
            overflowed_ = false;
            FanotifyEvent overflow;
            overflow.mask = FAN_Q_OVERFLOW;
            TRY(const usize given, give(overflow, out));
            done += given;
            continue;
        }
        if (!event) {
            if (done > 0)
                return done;
            if (non_blocking())
                return fail(EAGAIN);
            const auto ready = [&] { return queued_ != 0 || overflowed_; };
            if (wait_until(waiters_, ready) == WaitOutcome::Interrupted)
                return fail(restart_syscall);
            continue;
        }
        auto given = give(*event, out);
        if (event->question) {
            SpinGuard guard(lock_);
            if (given) {
                asked_.push_back(*Ref<FanotifyEvent>(event).leak());
            } else { // nobody can answer it any more
                event->answer = FAN_DENY;
                guard.unlock();
                event->answered.wake_all();
            }
        }
        if (!given)
            return end(given.error().code);
        done += *given;
    }
}

Result<usize> FanotifyFile::write(IoBuffer& in, u64) {
    if ((mode_ & FAN_ALL_CLASS_BITS) == FAN_CLASS_NOTIF)
        return fail(EINVAL);
    fanotify_response response{};
    if (in.remaining() < sizeof response)
        return fail(EINVAL);
    if (in.copy_in(&response, sizeof response) != sizeof response)
        return fail(EFAULT);
    const u32 verdict = response.response & ~u32{FAN_AUDIT};
    if ((verdict != FAN_ALLOW && verdict != FAN_DENY) || response.fd < 0 ||
        ((response.response & FAN_AUDIT) != 0 && (mode_ & FAN_ENABLE_AUDIT) == 0))
        return fail(EINVAL);
    Ref<FanotifyEvent> found;
    {
        SpinGuard guard(lock_);
        for (FanotifyEvent& event : asked_)
            if (event.fd == response.fd) {
                event.node.unlink();
                found = Ref<FanotifyEvent>::adopt(&event);
                event.answer = verdict;
                break;
            }
    }
    if (!found)
        return fail(ENOENT);
    found->answered.wake_all();
    return sizeof response;
}

u32 FanotifyFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(waiters_);
    return queued_ != 0 || overflowed_ ? poll_in | poll_rdnorm : 0;
}

Result<long> FanotifyFile::ioctl(u32 command, u64 argument) {
    if (command != fionread)
        return fail(ENOTTY);
    int bytes = 0;
    {
        SpinGuard guard(lock_);
        bytes = static_cast<int>(bytes_ + (overflowed_ ? sizeof(fanotify_event_metadata) : 0));
    }
    TRY(UserPtr<int>(argument).copy_out(bytes));
    return 0;
}

bool FanotifyFile::describe(String& out) {
    return out.append("anon_inode:[fanotify]").has_value();
}

Result<void> FanotifyFile::describe_state(String& out) {
    TRY(append_line(out, "fanotify flags:{x} event-flags:{x}\n", mode_, event_flags_));
    MutexGuard guard(fanotify_mutex);
    for (const FanotifyMark& mark : marks) {
        const u32 flags = (mark.survives_modify ? u32{FAN_MARK_IGNORED_SURV_MODIFY} : 0u) |
                          (mark.evictable ? u32{FAN_MARK_EVICTABLE} : 0u) |
                          (mark.ignore_flags ? u32{FAN_MARK_IGNORE} : 0u);
        switch (mark.on) {
        case FanotifyMark::On::Inode: {
            const auto& inode = *static_cast<const Inode*>(mark.target);
            const FileHandle handle = encode_file_handle(inode);
            TRY(append_line(out, "fanotify ino:{x} sdev:{x} ", inode.number(), mark.device));
            TRY(append_line(out, "mflags:{x} mask:{x} ignored_mask:{x} ", flags, mark.mask,
                            mark.ignored));
            TRY(describe_file_handle(handle, out));
            break;
        }
        case FanotifyMark::On::Mount:
            TRY(append_line(out, "fanotify mnt_id:{x} ", mark.mount_id));
            TRY(append_line(out, "mflags:{x} mask:{x} ignored_mask:{x}\n", flags, mark.mask,
                            mark.ignored));
            break;
        default:
            TRY(append_line(out, "fanotify sdev:{x} ", mark.device));
            TRY(append_line(out, "mflags:{x} mask:{x} ignored_mask:{x}\n", flags, mark.mask,
                            mark.ignored));
        }
    }
    guard.unlock();
    return {};
}

Result<Ref<File>> make_fanotify_file(u32 mode, u32 event_flags, bool trusted) {
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    const Credentials* who = current_task().credentials.get();
    const u32 flags = O_RDWR | ((mode & FAN_NONBLOCK) != 0 ? u32{O_NONBLOCK} : 0u);
    TRY(Ref<FanotifyFile> file, make_ref<FanotifyFile>(std::move(inode), flags, mode, event_flags,
                                                       trusted, who == nullptr ? 0 : who->uid));
    TRY(list_fanotify_group(*file, trusted));
    return Ref<File>(std::move(file));
}

} // namespace kernel
