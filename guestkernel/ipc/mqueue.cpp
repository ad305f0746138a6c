#include "guestkernel/ipc/mqueue.hpp"

#include <asm/resource.h>
#include <linux/errno.h>
#include <linux/mqueue.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/devices.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/signal.hpp"

namespace kernel {

// The queues of an IPC namespace.
struct MqueueInstance {
    Ref<MqueueSuperblock> superblock;
    Path root;
};

void free_mqueue_instance(MqueueInstance* instance) {
    delete instance;
}

namespace {

constexpr u64 mqueue_magic = 0x1980'0202;
constexpr u64 overhead_per_message = 96; // as Linux charges: struct msg_msg and a tree node
constexpr unsigned cap_sys_resource = 24;
constexpr int si_mesgq = -3;
constexpr int sigev_signal = 0;

class MqueueDirectory final : public TmpfsDirectory {
public:
    using TmpfsDirectory::TmpfsDirectory;
    bool keeps_flags() const override { return false; }
    Result<Ref<Inode>> create(std::string_view name, u32 mode, u64, u32 uid, u32 gid) override {
        if ((mode & mode_type) != mode_regular)
            return fail(EPERM);
        const MqueueLimits& limits = static_cast<MqueueSuperblock&>(home()).limits;
        return create_sized(name, mode, uid, gid, limits.usual_messages(), limits.usual_size());
    }
    Result<Ref<Inode>> create_sized(std::string_view name, u32 mode, u32 uid, u32 gid, u64 most,
                                    u64 size) {
        TRY(Ref<MessageQueue> queue,
            MessageQueue::make(static_cast<MqueueSuperblock&>(home()), mode, uid, gid, most, size));
        TRY(add(name, queue));
        return Ref<Inode>(std::move(queue));
    }
    Result<Ref<Inode>> symlink(std::string_view, std::string_view, u32, u32) override {
        return fail(EPERM);
    }
    Result<void> link(std::string_view, Inode&) override { return fail(EPERM); }
    Result<void> rename(std::string_view, Inode&, Inode&, std::string_view, Inode*, u32) override {
        return fail(EPERM);
    }
    Result<Ref<Inode>> create_unnamed(u32, u32, u32) override { return fail(EOPNOTSUPP); }
};

constinit Mutex creation;

Ref<Dentry> mqueue_root_dentry(const Superblock& superblock) {
    const MqueueInstance* made = current_ipc_namespace().queues.load(base::Order::Acquire);
    if (made == nullptr || made->superblock.get() != &superblock)
        return {};
    return Ref<Dentry>::share(made->root.dentry());
}

Result<MqueueInstance*> current_instance() {
    base::Atomic<MqueueInstance*>& instance = current_ipc_namespace().queues;
    if (MqueueInstance* made = instance.load(base::Order::Acquire))
        return made;
    MutexGuard guard(creation);
    if (MqueueInstance* made = instance.load(base::Order::Acquire))
        return made;
    TRY(Owned<MqueueInstance> fresh, make_owned<MqueueInstance>());
    TmpfsSuperblock::Options options;
    TRY(fresh->superblock, make_ref<MqueueSuperblock>(options));
    TRY(fresh->superblock->make_root());
    TRY(fresh->root, detached_mount(fresh->superblock, 0, "mqueue"));
    instance.store(fresh.get(), base::Order::Release);
    set_shared_root(mqueue_root_dentry);
    return fresh.leak();
}

Result<void> check_size(const MqueueLimits& limits, u64 messages, u64 size) {
    const bool privileged = capable(cap_sys_resource);
    const u64 most = privileged ? limits.hard_messages : limits.messages.load();
    const u64 largest = privileged ? limits.hard_message_size : limits.message_size.load();
    if (messages == 0 || size == 0 || messages > most || size > largest)
        return fail(EINVAL);
    return {};
}

} // namespace

Result<MqueueLimits*> current_mqueue_limits() {
    TRY(MqueueInstance * instance, current_instance());
    return &instance->superblock->limits;
}

Result<void> MqueueSuperblock::make_root() {
    TRY(const u64 number, take_inode());
    TRY(Ref<MqueueDirectory> made,
        make_ref<MqueueDirectory>(*this, number, u32{mode_directory | mode_sticky | 0777}, 0u, 0u));
    root_ = std::move(made);
    return {};
}

Result<FileSystemStats> MqueueSuperblock::stats() {
    FileSystemStats out{};
    out.type = mqueue_magic;
    out.block_size = page_size;
    out.name_max = Dentry::name_limit;
    out.fsid = device_number;
    return out;
}

Result<NoticeSocket> NoticeSocket::make(net::netlink::Endpoint& socket,
                                        std::span<const u8, cookie_size> cookie) {
    NoticeSocket made;
    made.message_ = net::netlink::make_message(cookie, 0, 0);
    if (made.message_ == nullptr)
        return fail(ENOMEM);
    made.socket_ = Ref<net::netlink::Endpoint>::share(&socket);
    return made;
}

NoticeSocket::~NoticeSocket() {
    if (message_ != nullptr)
        net::netlink::destroy_message(message_);
}

void NoticeSocket::tell(u8 why) {
    if (message_ == nullptr)
        return;
    message_->data()[cookie_size - 1] = why;
    if (socket_->push(message_) == net::netlink::Endpoint::Push::Done)
        message_ = nullptr;
}

MessageQueue::MessageQueue(MqueueSuperblock& home, u64 number, u32 mode, u32 uid, u32 gid, u64 most,
                           u64 size)
    : TmpfsInode(home, number, mode, 0, uid, gid), most_messages_(most), message_size_(size) {}

Result<Ref<MessageQueue>> MessageQueue::make(MqueueSuperblock& home, u32 mode, u32 uid, u32 gid,
                                             u64 most, u64 size) {
    TRY(check_size(home.limits, most, size));
    const u64 bytes = most * (size + overhead_per_message);
    TRY(const u64 number, home.take_inode());
    auto made = make_ref<MessageQueue>(home, number, mode, uid, gid, most, size);
    if (!made) {
        home.give_back_inode();
        return fail(ENOMEM);
    }
    // From here on the destructor gives back what was counted.
    Ref<MessageQueue> queue = std::move(*made);
    const bool too_many =
        home.queues.fetch_add(1) >= home.limits.queues.load() && !capable(cap_sys_resource);
    if (too_many)
        return fail(ENOSPC);
    const Ref<UserAccount>& account = current_task().account;
    if (account) {
        queue->account_ = account;
        queue->charged_ = bytes;
        if (account->queue_bytes.fetch_add(bytes) + bytes > current_limit(RLIMIT_MSGQUEUE))
            return fail(EMFILE);
    }
    return queue;
}

MessageQueue::~MessageQueue() {
    while (Message* message = first_) {
        first_ = message->next;
        delete message;
    }
    if (account_)
        account_->queue_bytes.fetch_sub(charged_);
    queue_home().queues.fetch_sub(1);
}

Result<Ref<File>> MessageQueue::open(const Path& path, u32 flags) {
    TRY(Ref<MessageQueueFile> file,
        make_ref<MessageQueueFile>(path, Ref<Inode>::share(this), flags));
    return Ref<File>(std::move(file));
}

u32 MessageQueue::ready() const {
    return (count_ != 0 ? poll_in | poll_rdnorm : 0) |
           (count_ < most_messages_ ? poll_out | poll_wrnorm : 0);
}

void MessageQueue::insert(Message& message) {
    Message** at = &first_;
    while (*at != nullptr && (*at)->priority >= message.priority)
        at = &(*at)->next;
    message.next = *at;
    *at = &message;
    count_ = count_ + 1;
    bytes_ += message.text.size();
}

// Requires: mutex_. Once: the registration ends.
void MessageQueue::notify() {
    Notification to = std::exchange(notification_, Notification());
    to.socket.tell(NoticeSocket::woken_up);
    if (!to.process || to.method != sigev_signal || to.signal == 0)
        return;
    SignalInfo info;
    info.signo = to.signal;
    info.code = si_mesgq;
    // As the receiver's namespaces know the sender.
    info.sender.pid = pid_in(pid_namespace_of(*to.process), current_pid());
    {
        SpinGuard tree(process_tree_lock());
        info.sender.uid = uid_for_locked(*to.process, current_task().credentials->uid);
    }
    info.sender.value = to.value;
    (void)send_signal_info(*to.process, info); // a full queue of signals loses it, as on Linux
}

Result<void> MessageQueue::send(Owned<Message>& message, bool non_blocking, u64 deadline_ns) {
    for (;;) {
        {
            MutexGuard guard(mutex_);
            if (count_ < most_messages_) {
                // Sleeping receivers are served first: they leave nothing to tell of.
                if (count_ == waiting_receivers_)
                    notify();
                insert(*message.leak());
                break;
            }
        }
        if (non_blocking)
            return fail(EAGAIN);
        const auto outcome = wait_until(
            senders, [&] { return count_ < most_messages_; }, deadline_ns);
        if (outcome == WaitOutcome::Interrupted)
            return fail(restart_syscall);
        if (outcome == WaitOutcome::TimedOut)
            return fail(ETIMEDOUT);
    }
    note_modified();
    receivers.wake_all(poll_in | poll_rdnorm);
    return {};
}

Result<Owned<MessageQueue::Message>> MessageQueue::receive(bool non_blocking, u64 deadline_ns) {
    bool waiting = false;
    int error = 0;
    for (;;) {
        {
            MutexGuard guard(mutex_);
            if (first_ != nullptr || error != 0 || non_blocking) {
                if (waiting)
                    waiting_receivers_--;
                if (first_ == nullptr)
                    return fail(error != 0 ? error : EAGAIN);
                Owned<Message> taken(first_);
                first_ = taken->next;
                count_ = count_ - 1;
                bytes_ -= taken->text.size();
                guard.unlock();
                note_accessed(true);
                senders.wake_all(poll_out | poll_wrnorm);
                return taken;
            }
            if (!waiting)
                waiting_receivers_++;
            waiting = true;
        }
        const auto outcome = wait_until(
            receivers, [&] { return count_ != 0; }, deadline_ns);
        if (outcome != WaitOutcome::Ready)
            error = outcome == WaitOutcome::Interrupted ? restart_syscall : ETIMEDOUT;
    }
}

Result<void> MessageQueue::set_notification(Notification wanted) {
    MutexGuard guard(mutex_);
    if (notification_.process)
        return fail(EBUSY);
    notification_ = std::move(wanted);
    return {};
}

void MessageQueue::drop_notification(const Process& owner) {
    Notification dropped;
    MutexGuard guard(mutex_);
    if (notification_.process.get() != &owner)
        return;
    std::swap(dropped, notification_);
    dropped.socket.tell(NoticeSocket::removed);
}

Result<void> MessageQueue::describe(String& out) {
    MutexGuard guard(mutex_);
    char text[128];
    const i32 pid = notification_.process ? notification_.process->pid : 0;
    const auto field = [&](std::string_view name, u64 value, usize width) -> Result<void> {
        TRY(out.append(name));
        const usize length = log::format(text, sizeof text, "{}", value);
        TRY(out.append({text, length}));
        for (usize i = length; i < width; i++)
            TRY(out.push_back(' '));
        return {};
    };
    TRY(field("QSIZE:", bytes_, 10));
    TRY(field(" NOTIFY:", pid != 0 ? static_cast<u64>(notification_.method) : 0, 5));
    TRY(field(" SIGNO:",
              pid != 0 && notification_.method == sigev_signal
                  ? static_cast<u64>(notification_.signal)
                  : 0,
              5));
    TRY(field(" NOTIFY_PID:", static_cast<u64>(pid), 6));
    return out.push_back('\n');
}

Result<usize> MessageQueueFile::read(IoBuffer& out, u64 offset) {
    String text;
    TRY(queue().describe(text));
    if (offset >= text.size())
        return usize{0};
    const std::string_view rest = text.view().substr(offset);
    const usize wanted = rest.size() < out.remaining() ? rest.size() : out.remaining();
    const usize done = out.copy_out(rest.data(), wanted);
    if (done == 0 && wanted != 0)
        return fail(EFAULT);
    return done;
}

Result<usize> MessageQueueFile::write(IoBuffer&, u64) {
    return fail(EINVAL);
}

u32 MessageQueueFile::poll(PollTable* table) {
    if (table != nullptr) {
        table->watch(queue().receivers);
        table->watch(queue().senders);
    }
    return queue().ready();
}

// A process that closes the queue, by any of its descriptors, gives up its registration
// (mq_close(3)).
Result<void> MessageQueueFile::flush() {
    if (Process* process = current_task().process)
        queue().drop_notification(*process);
    return {};
}

Result<Path> mqueue_root() {
    TRY(MqueueInstance * home, current_instance());
    return home->root;
}

Result<Ref<Superblock>> mqueue_filesystem() {
    TRY(MqueueInstance * home, current_instance());
    return Ref<Superblock>(home->superblock);
}

Result<Ref<MessageQueue>> create_queue(Inode& directory, std::string_view name, u32 mode, u64 most,
                                       u64 size) {
    auto& home = static_cast<MqueueDirectory&>(directory);
    TRY(Ref<Inode> made,
        home.create_sized(name, mode, current_fsuid(), current_fsgid(), most, size));
    return Ref<MessageQueue>::adopt(static_cast<MessageQueue*>(made.leak()));
}

} // namespace kernel
