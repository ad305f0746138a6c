#include "guestkernel/trace/seccomp_notify.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/ioctl.h>
#include <linux/resource.h>
#include <linux/seccomp.h>

#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

SeccompCall* find_locked(SeccompListener& listener, u64 id) {
    for (SeccompCall& call : listener.calls)
        if (call.id == id)
            return &call;
    return nullptr;
}

SeccompCall* first_locked(SeccompListener& listener, SeccompCall::State state) {
    for (SeccompCall& call : listener.calls)
        if (call.state == state)
            return &call;
    return nullptr;
}

class ListenerFile final : public AnonymousFile {
public:
    ListenerFile(Ref<Inode> inode, Ref<SeccompListener> listener)
        : AnonymousFile(std::move(inode), O_RDWR), listener_(std::move(listener)) {}
    ~ListenerFile() override;
    static constexpr char file_type[] = "seccomp notify";
    const char* type_name() const override { return file_type; }
    Result<u64> seek(i64 offset, int whence) override { return File::seek(offset, whence); }
    Result<long> ioctl(u32 command, u64 argument) override;
    u32 poll(PollTable* table) override;

private:
    Result<long> receive(u64 to);
    Result<long> send(u64 from);
    Result<long> id_valid(u64 from);
    Result<long> add_descriptor(u64 from, usize size);
    const Ref<SeccompListener> listener_;
};

// Who waits gets ENOSYS, as for a call that nobody knows.
ListenerFile::~ListenerFile() {
    SpinGuard guard(listener_->lock);
    listener_->closed = true;
    for (SeccompCall& call : listener_->calls) {
        if (call.state == SeccompCall::State::Answered)
            continue;
        call.state = SeccompCall::State::Answered;
        call.error = -ENOSYS;
        call.answered.wake_all();
    }
}

u32 ListenerFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(listener_->arrivals);
    SpinGuard guard(listener_->lock);
    u32 ready = 0;
    if (first_locked(*listener_, SeccompCall::State::New) != nullptr)
        ready |= poll_in | poll_rdnorm;
    if (first_locked(*listener_, SeccompCall::State::Sent) != nullptr)
        ready |= poll_out | poll_wrnorm;
    if (listener_->hung_up)
        ready |= poll_hup;
    return ready;
}

Result<long> ListenerFile::receive(u64 to) {
    seccomp_notif out;
    TRY(copy_in_bytes(&out, to, sizeof out));
    for (const u8& byte : std::span(reinterpret_cast<const u8*>(&out), sizeof out))
        if (byte != 0)
            return fail(EINVAL); // room for what later kernels say
    const auto arrived = [this] {
        SpinGuard guard(listener_->lock);
        return first_locked(*listener_, SeccompCall::State::New) != nullptr || listener_->hung_up;
    };
    if (wait_until(listener_->arrivals, arrived) == WaitOutcome::Interrupted)
        return fail(EINTR);
    i32 caller = 0;
    {
        SpinGuard guard(listener_->lock);
        SeccompCall* call = first_locked(*listener_, SeccompCall::State::New);
        if (call == nullptr)
            return fail(ENOENT);
        out.id = call->id;
        caller = call->task->tid;
        __builtin_memcpy(&out.data, &call->data, sizeof out.data);
        call->state = SeccompCall::State::Sent;
        call->answered.wake_all(); // WAIT_KILLABLE_RECV: it sleeps more soundly now
    }
    // Not under our lock, which is a leaf like that of the pid namespaces' numbers.
    out.pid = static_cast<u32>(visible_pid(caller));
    if (auto told = copy_out_bytes(to, &out, sizeof out); !told) {
        SpinGuard guard(listener_->lock);
        if (SeccompCall* call = find_locked(*listener_, out.id);
            call != nullptr && call->state == SeccompCall::State::Sent)
            call->state = SeccompCall::State::New;
        return fail(EFAULT);
    }
    listener_->arrivals.wake_all(poll_out | poll_wrnorm);
    return 0;
}

Result<long> ListenerFile::send(u64 from) {
    seccomp_notif_resp answer;
    TRY(copy_in_bytes(&answer, from, sizeof answer));
    const bool go_on = (answer.flags & SECCOMP_USER_NOTIF_FLAG_CONTINUE) != 0;
    if ((answer.flags & ~u32{SECCOMP_USER_NOTIF_FLAG_CONTINUE}) != 0 ||
        (go_on && (answer.error != 0 || answer.val != 0)))
        return fail(EINVAL);
    SpinGuard guard(listener_->lock);
    SeccompCall* call = find_locked(*listener_, answer.id);
    if (call == nullptr)
        return fail(ENOENT);
    if (call->state != SeccompCall::State::Sent)
        return fail(EINPROGRESS);
    call->state = SeccompCall::State::Answered;
    call->go_on = go_on;
    call->error = answer.error;
    call->value = answer.val;
    call->answered.wake_all();
    return 0;
}

Result<long> ListenerFile::id_valid(u64 from) {
    TRY(const u64 id, UserPtr<const u64>(from).copy_in());
    SpinGuard guard(listener_->lock);
    const SeccompCall* call = find_locked(*listener_, id);
    return call != nullptr && call->state == SeccompCall::State::Sent ? Result<long>(0)
                                                                      : fail(ENOENT);
}

// A struct that is longer than we know it says nothing more.
Result<void> check_rest(u64 from, usize known, usize size) {
    for (usize at = known; at < size; at++) {
        TRY(const u8 byte, UserPtr<const u8>(from + at).copy_in());
        if (byte != 0)
            return fail(E2BIG);
    }
    return {};
}

// Gives the caller of the waiting call a descriptor of ours.
Result<long> ListenerFile::add_descriptor(u64 from, usize size) {
    seccomp_notif_addfd wanted = {};
    constexpr u32 known = SECCOMP_ADDFD_FLAG_SETFD | SECCOMP_ADDFD_FLAG_SEND;
    if (size < sizeof wanted || size > page_size)
        return fail(EINVAL);
    TRY(check_rest(from, sizeof wanted, size));
    TRY(copy_in_bytes(&wanted, from, sizeof wanted));
    if ((wanted.newfd_flags & ~u32{O_CLOEXEC}) != 0 || (wanted.flags & ~known) != 0)
        return fail(EINVAL);
    if (wanted.newfd != 0 && (wanted.flags & SECCOMP_ADDFD_FLAG_SETFD) == 0)
        return fail(EINVAL);
    TRY(Ref<File> file, current_task().files->get(static_cast<int>(wanted.srcfd)));
    u64 limit = 0;
    const auto find = [&]() -> Result<Ref<Task>> {
        SpinGuard guard(listener_->lock);
        SeccompCall* call = find_locked(*listener_, wanted.id);
        if (call == nullptr)
            return fail(ENOENT);
        if (call->state != SeccompCall::State::Sent)
            return fail(EINPROGRESS);
        // As if it opened the file itself. Its process is there for as long as the call waits.
        limit = call->task->process->limits[RLIMIT_NOFILE].soft;
        return Ref<Task>::share(call->task);
    };
    TRY(const Ref<Task> task, find());
    const Ref<FileTable> files = files_of(*task);
    if (!files)
        return fail(ENOENT);
    const bool close_on_exec = (wanted.newfd_flags & O_CLOEXEC) != 0;
    int number = static_cast<int>(wanted.newfd);
    if ((wanted.flags & SECCOMP_ADDFD_FLAG_SETFD) != 0) {
        TRY(files->replace(number, std::move(file), close_on_exec, limit));
    } else {
        TRY(number, files->reserve(0, limit));
        files->fill(number, std::move(file), close_on_exec);
    }
    if ((wanted.flags & SECCOMP_ADDFD_FLAG_SEND) == 0)
        return number;
    SpinGuard guard(listener_->lock);
    SeccompCall* call = find_locked(*listener_, wanted.id);
    if (call == nullptr || call->state != SeccompCall::State::Sent)
        return fail(ENOENT);
    call->state = SeccompCall::State::Answered;
    call->value = number;
    call->answered.wake_all();
    return number;
}

Result<long> ListenerFile::ioctl(u32 command, u64 argument) {
    constexpr u32 size_shift = 16;
    constexpr u32 size_mask = 0x3fff;
    switch (command) {
    case SECCOMP_IOCTL_NOTIF_RECV:
        return receive(argument);
    case SECCOMP_IOCTL_NOTIF_SEND:
        return send(argument);
    case SECCOMP_IOCTL_NOTIF_ID_VALID:
    case SECCOMP_IOR(2, __u64): // the number that older programs use
        return id_valid(argument);
    default:
        break;
    }
    const u32 size = command >> size_shift & size_mask;
    // Of any size and direction: both may be others in later kernels' headers.
    constexpr u32 what = 0xffff;
    if ((command & what) == (u32{SECCOMP_IOCTL_NOTIF_ADDFD} & what))
        return add_descriptor(argument, size);
    return fail(EINVAL);
}

} // namespace

bool ask_supervisor(const SeccompFilter& filter, const SeccompData& data, long& result) {
    result = -ENOSYS;
    if (!filter.listener)
        return false;
    SeccompListener& listener = *filter.listener;
    SeccompCall call;
    call.task = &current_task();
    call.data = data;
    {
        SpinGuard guard(listener.lock);
        if (listener.closed)
            return false;
        call.id = listener.next_id++;
        listener.calls.push_back(call);
    }
    listener.arrivals.wake_all(poll_in | poll_rdnorm);
    const auto state = [&] {
        SpinGuard guard(listener.lock);
        return call.state;
    };
    // Interrupted by any signal, or only by fatal ones from when the supervisor has seen the call.
    WaitOutcome outcome = wait_until(call.answered, [&] {
        return state() == SeccompCall::State::Answered ||
               (filter.wait_killable && state() == SeccompCall::State::Sent);
    });
    if (filter.wait_killable && outcome == WaitOutcome::Ready)
        outcome = wait_until(
            call.answered, [&] { return state() == SeccompCall::State::Answered; }, no_deadline,
            TaskState::Killable);
    SpinGuard guard(listener.lock);
    call.node.unlink();
    if (call.state != SeccompCall::State::Answered) {
        result = -long{restart_syscall};
        return false;
    }
    call.task->result_is_verbatim = true;
    result = call.error != 0 ? call.error : static_cast<long>(call.value);
    return call.go_on;
}

Result<Ref<File>> make_listener_file(Ref<SeccompListener> listener) {
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    TRY(Ref<ListenerFile> file, make_ref<ListenerFile>(std::move(inode), std::move(listener)));
    return Ref<File>(std::move(file));
}

void hang_up(SeccompListener& listener) {
    {
        SpinGuard guard(listener.lock);
        listener.hung_up = true;
    }
    listener.arrivals.wake_all(poll_hup);
}

} // namespace kernel
