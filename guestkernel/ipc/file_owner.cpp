#include "guestkernel/ipc/file_owner.hpp"

#include <linux/errno.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/signal.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr int sigio = 29, sigurg = 23;
constexpr unsigned cap_kill = 5;
// si_code of a file's signal (sigaction(2)).
constexpr i32 code_in = 1, code_out = 2, code_message = 3, code_error = 4, code_urgent = 5,
              code_hang_up = 6;

} // namespace

Result<FileOwner*> FileOwner::of(File& file) {
    static constinit Mutex creation;
    MutexGuard guard(creation);
    if (file.owner == nullptr) {
        TRY(start_work_queue());
        TRY(Ref<FileOwner> fresh, make_ref<FileOwner>());
        __atomic_store_n(&file.owner, fresh.leak(), __ATOMIC_RELEASE); // read without the mutex
    }
    return file.owner;
}

void forget_file_owner(File& file) {
    FileOwner* owner = std::exchange(file.owner, nullptr);
    owner->disarm();
    owner->release();
}

FileOwner::~FileOwner() {
    SpinGuard tree(process_tree_lock());
    group_ = nullptr;
}

Result<void> FileOwner::set(Kind kind, i32 number) {
    Ref<Process> process;
    Ref<Task> task;
    Ref<ProcessGroup> group;
    bool permitted = false, privileged = false;
    u32 uid = 0, euid = 0;
    if (number != 0) {
        const Credentials& own = *current_task().credentials;
        uid = own.uid;
        euid = own.euid;
        privileged = own.capable(cap_kill);
        switch (kind) {
        case Kind::Thread:
            task = find_task(number);
            if (!task)
                return fail(ESRCH);
            permitted = may_signal(*task, sigio);
            break;
        case Kind::Process: {
            process = find_process(number);
            if (!process)
                return fail(ESRCH);
            Ref<Task> first = find_task(number);
            permitted = !first || may_signal(*first, sigio);
            break;
        }
        case Kind::Group: {
            SpinGuard tree(process_tree_lock());
            group = Ref<ProcessGroup>::share(find_group_locked(number));
            if (!group)
                return fail(ESRCH);
            permitted = true; // each member is looked at when it is told
            break;
        }
        }
    }
    MutexGuard guard(mutex_);
    kind_ = kind;
    number_ = number;
    permitted_ = permitted;
    privileged_ = privileged;
    uid_ = uid;
    euid_ = euid;
    std::swap(process_, process);
    std::swap(task_, task);
    std::swap(group_, group);
    guard.unlock();
    SpinGuard tree(process_tree_lock());
    group = nullptr;
    return {};
}

void FileOwner::get(Kind& kind, i32& number) {
    MutexGuard guard(mutex_);
    kind = kind_;
    number = number_;
}

Result<void> FileOwner::set_if_none() {
    Kind kind = Kind::Process;
    i32 number = 0;
    get(kind, number);
    return number != 0 ? Result<void>() : set(Kind::Process, current_pid());
}

void FileOwner::forget() {
    (void)set(Kind::Process, 0); // cannot fail
    signal_ = 0;
}

Result<void> FileOwner::arm(File& file, int fd) {
    MutexGuard guard(mutex_);
    fd_ = fd;
    if (armed_)
        return {};
    file.poll(&hook_);
    if (hook_.failed()) {
        hook_.disarm();
        return fail(ENOMEM);
    }
    armed_ = true;
    return {};
}

void FileOwner::disarm() {
    MutexGuard guard(mutex_);
    hook_.disarm();
    armed_ = false;
}

// With a queue's lock held: the signal is sent by a kernel task.
bool FileOwner::wake(Waiter& waiter, u32 events) {
    auto& owner = *static_cast<FileOwner*>(waiter.context);
    owner.events_.fetch_or(events != 0 ? events : u32{poll_in | poll_rdnorm});
    owner.start_delivery();
    return false;
}

void FileOwner::start_delivery() {
    add_ref();
    if (!queue_work(work_)) // it has a reference: this one cannot be the last
        (void)drop_ref();
}

void FileOwner::tell_urgent(File& file) {
    FileOwner* const owner = __atomic_load_n(&file.owner, __ATOMIC_ACQUIRE);
    if (owner == nullptr)
        return;
    owner->urgent_.store(1);
    owner->start_delivery();
}

void FileOwner::deliver(void* context) {
    const Ref<FileOwner> owner = Ref<FileOwner>::adopt(static_cast<FileOwner*>(context));
    if (const u32 events = owner->events_.exchange(0); events != 0)
        owner->tell(events);
    if (owner->urgent_.exchange(0) != 0)
        owner->tell_urgent();
}

// Whether the target still is one that whoever set it may signal (fcntl(2), F_SETOWN). Requires:
// mutex_.
bool FileOwner::may_tell(const Ref<Process>& process, const Ref<Task>& task) {
    if (!permitted_ || privileged_ || (!process && !task))
        return permitted_;
    Ref<Task> target = task;
    if (!target) {
        SpinGuard tree(process_tree_lock());
        target = Ref<Task>::share(process->first_task());
    }
    const Ref<const Credentials> now = target ? credentials_of(*target) : Ref<const Credentials>();
    return now && may_tell(*now);
}

bool FileOwner::may_tell(const Credentials& target) const {
    return privileged_ || euid_ == target.suid || euid_ == target.uid || uid_ == target.suid ||
           uid_ == target.uid;
}

void FileOwner::tell_group(int signal) {
    SpinGuard tree(process_tree_lock());
    for (Process& member : group_->members) {
        const Task* first = member.first_task();
        if (first != nullptr && first->credentials && may_tell(*first->credentials))
            send_child_signal_locked(member, kernel_signal(signal));
    }
}

void FileOwner::tell_urgent() {
    MutexGuard guard(mutex_);
    const Ref<Process> process = process_;
    const Ref<Task> task = task_;
    if (!may_tell(process, task))
        return;
    if (group_)
        return tell_group(sigurg);
    guard.unlock();
    if (task)
        (void)send_signal_info(*task, SignalTarget::Thread, kernel_signal(sigurg));
    else if (process)
        (void)send_signal_info(*process, kernel_signal(sigurg));
}

void FileOwner::tell(u32 events) {
    {
        MutexGuard guard(mutex_);
        if (!armed_)
            return;
    }
    const i32 code = (events & poll_in) != 0    ? code_in
                     : (events & poll_out) != 0 ? code_out
                     : (events & poll_pri) != 0 ? code_urgent
                     : (events & poll_hup) != 0 ? code_hang_up
                                                : code_error;
    send(code, events, fd_);
}

void FileOwner::tell_message(int fd) {
    send(code_message, poll_in | poll_rdnorm | poll_msg, fd);
}

void FileOwner::send(i32 code, i64 band, int fd) {
    MutexGuard guard(mutex_);
    const Ref<Process> process = process_;
    const Ref<Task> task = task_;
    if (!may_tell(process, task))
        return;
    const int number = signal_;
    if (group_) // without the descriptor's number: each member would need its own copy
        return tell_group(number == 0 ? sigio : number);
    guard.unlock();
    SignalInfo info = kernel_signal(sigio);
    if (number != 0) {
        info = {};
        info.signo = number;
        info.code = code;
        info.poll.band = band;
        info.poll.fd = fd;
    }
    const auto deliver_info = [&](const SignalInfo& what) {
        return task      ? send_signal_info(*task, SignalTarget::Thread, what)
               : process ? send_signal_info(*process, what)
                         : Result<void>();
    };
    // fcntl(2), F_SETSIG: when the queue of real-time signals is full, SIGIO instead.
    if (!deliver_info(info) && number != 0)
        (void)deliver_info(kernel_signal(sigio));
}

} // namespace kernel
