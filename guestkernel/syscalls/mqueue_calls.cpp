// mq_overview(7). The names come without the C library's leading slash.
#include "guestkernel/syscalls/mqueue_calls.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/inotify.h>
#include <linux/mqueue.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/open.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/ipc/mqueue.hpp"
#include "guestkernel/net/netlink/socket.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/socket_helpers.hpp"
#include "guestkernel/syscalls/time_values.hpp"

namespace kernel {

namespace {

constexpr u32 most_priorities = 32768; // MQ_PRIO_MAX
constexpr int sigev_signal = 0, sigev_none = 1, sigev_thread = 2;

struct SignalEvent { // the head of struct sigevent
    u64 value;
    i32 signal, method;
    u64 rest[6];
};
static_assert(sizeof(SignalEvent) == 64);

Result<String> queue_name(u64 address) {
    TRY(String name, copy_path(address));
    const std::string_view text = name.view();
    if (text.empty())
        return fail(ENOENT); // as of any empty path
    if (text == "." || text == ".." || text.find('/') != std::string_view::npos)
        return fail(EACCES);
    if (text.size() > Dentry::name_limit)
        return fail(ENAMETOOLONG);
    return name;
}

Result<Ref<File>> queue_file(Task& task, int fd) {
    TRY(Ref<File> file, usable_file(task, fd));
    if (file_as<MessageQueueFile>(*file) == nullptr)
        return fail(EBADF);
    return file;
}

// An absolute time of CLOCK_REALTIME as a deadline. EINVAL.
Result<u64> deadline_of(u64 timeout) {
    if (timeout == 0)
        return no_deadline;
    TRY(const u64 when, copy_in_timespec(timeout));
    return wall_deadline(when);
}

struct Wanted {
    bool given = false;
    u64 messages = 0, size = 0;
};

Result<Wanted> copy_in_attributes(u64 address) {
    if (address == 0)
        return Wanted{};
    TRY(const mq_attr attributes, UserPtr<const mq_attr>(address).copy_in());
    if (attributes.mq_maxmsg <= 0 || attributes.mq_msgsize <= 0)
        return Wanted{true, 0, 0}; // EINVAL, but only if the queue must be made
    return Wanted{true, static_cast<u64>(attributes.mq_maxmsg),
                  static_cast<u64>(attributes.mq_msgsize)};
}

// The queue's dentry, made if need be and asked for.
Result<Ref<Dentry>> find_or_make(const Path& root, std::string_view name, u32 flags, u32 mode,
                                 const Wanted& wanted, bool& created) {
    Dentry& parent = *root.dentry();
    Inode& directory = *parent.inode();
    MutexGuard guard(directory.mutex());
    TRY(Ref<Dentry> child, DentryCache::lookup_locked(parent, name));
    if (!child->is_negative()) {
        if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
            return fail(EEXIST);
        return child;
    }
    if ((flags & O_CREAT) == 0)
        return fail(ENOENT);
    TRY(check_create(parent));
    const MqueueLimits& limits = static_cast<MqueueSuperblock&>(*directory.superblock()).limits;
    TRY(Ref<Inode> made,
        create_queue(directory, name, mode_regular | (mode & mode_permissions & ~current_umask()),
                     wanted.given ? wanted.messages : limits.usual_messages(),
                     wanted.given ? wanted.size : limits.usual_size()));
    created = true;
    return DentryCache::insert(parent, name, std::move(made));
}

} // namespace

Result<long> sys_mq_open(Task& task, u64 name_address, u32 flags, u32 mode, u64 attributes) {
    TRY(const Wanted wanted, copy_in_attributes(attributes));
    TRY(String name, queue_name(name_address));
    if ((flags & O_ACCMODE) == O_ACCMODE)
        return fail(EINVAL);
    TRY(Path root, mqueue_root());
    TRY(const int fd, task.files->reserve());
    const auto opened = [&]() -> Result<Ref<File>> {
        bool created = false;
        TRY(Ref<Dentry> child, find_or_make(root, name.view(), flags, mode, wanted, created));
        if (created)
            notify_event(*root.dentry()->inode(), IN_CREATE, name.view());
        constexpr u32 kept = O_ACCMODE | O_NONBLOCK;
        return open_checked(Path(Ref<Mount>::share(root.mount()), std::move(child)), flags & kept,
                            created);
    }();
    if (!opened) {
        task.files->unreserve(fd);
        return fail(opened.error().code);
    }
    task.files->fill(fd, *opened, true);
    return fd;
}

Result<long> sys_mq_unlink(Task&, u64 name_address) {
    TRY(String name, queue_name(name_address));
    TRY(Path root, mqueue_root());
    Dentry& parent = *root.dentry();
    Inode& directory = *parent.inode();
    Ref<Inode> inode;
    {
        MutexGuard guard(directory.mutex());
        TRY(Ref<Dentry> child, DentryCache::lookup_locked(parent, name.view()));
        if (child->is_negative())
            return fail(ENOENT);
        inode = Ref<Inode>::share(child->inode());
        TRY(check_delete(parent, *inode, false));
        TRY(directory.unlink(name.view(), *inode));
        DentryCache::remove(*child);
    }
    notify_event(*inode, IN_ATTRIB, {});
    notify_event(directory, IN_DELETE, name.view());
    return 0;
}

Result<long> sys_mq_timedsend(Task& task, int fd, u64 text, u64 bytes, u32 priority, u64 timeout) {
    TRY(const u64 deadline, deadline_of(timeout));
    if (priority >= most_priorities)
        return fail(EINVAL);
    TRY(Ref<File> file, queue_file(task, fd));
    if (!file->writable())
        return fail(EBADF);
    MessageQueue& queue = static_cast<MessageQueueFile&>(*file).queue();
    if (bytes > queue.message_size())
        return fail(EMSGSIZE);
    TRY(Owned<MessageQueue::Message> message, make_owned<MessageQueue::Message>());
    message->priority = priority;
    TRY(message->text.resize(bytes));
    TRY(copy_in_bytes(message->text.data(), text, bytes));
    TRY(queue.send(message, file->non_blocking(), deadline));
    return 0;
}

Result<long> sys_mq_timedreceive(Task& task, int fd, u64 text, u64 bytes, u64 priority,
                                 u64 timeout) {
    TRY(const u64 deadline, deadline_of(timeout));
    TRY(Ref<File> file, queue_file(task, fd));
    if (!file->readable())
        return fail(EBADF);
    MessageQueue& queue = static_cast<MessageQueueFile&>(*file).queue();
    if (bytes < queue.message_size())
        return fail(EMSGSIZE);
    TRY(Owned<MessageQueue::Message> message, queue.receive(file->non_blocking(), deadline));
    if (priority != 0)
        TRY(UserPtr<u32>(priority).copy_out(message->priority));
    TRY(copy_out_bytes(text, message->text.data(), message->text.size()));
    return static_cast<long>(message->text.size());
}

namespace {

// The socket is given in place of the signal, its cookie by address.
Result<NoticeSocket> notice_socket(Task& task, const SignalEvent& event) {
    u8 cookie[NoticeSocket::cookie_size];
    TRY(copy_in_bytes(cookie, event.value, sizeof cookie));
    TRY(Ref<File> file, socket_file(task, event.signal));
    auto& socket = static_cast<SocketFile&>(*file);
    if (socket.family() != net::netlink::netlink_family.number)
        return fail(EINVAL);
    return NoticeSocket::make(static_cast<net::netlink::NetlinkSocketFile&>(socket).endpoint(),
                              cookie);
}

} // namespace

Result<long> sys_mq_notify(Task& task, int fd, u64 notification) {
    SignalEvent event{};
    if (notification != 0) {
        TRY(event, UserPtr<const SignalEvent>(notification).copy_in());
        if (event.method != sigev_none && event.method != sigev_signal &&
            event.method != sigev_thread)
            return fail(EINVAL);
        if (event.method == sigev_signal && (event.signal < 0 || event.signal > signal_count))
            return fail(EINVAL);
    }
    NoticeSocket notice;
    if (event.method == sigev_thread) {
        TRY(notice, notice_socket(task, event));
    }
    TRY(Ref<File> file, queue_file(task, fd));
    MessageQueue& queue = static_cast<MessageQueueFile&>(*file).queue();
    if (notification == 0) {
        queue.drop_notification(*task.process);
        return 0;
    }
    MessageQueue::Notification wanted;
    wanted.process = Ref<Process>::share(task.process);
    wanted.method = event.method;
    wanted.signal = event.signal;
    wanted.value = event.value;
    wanted.socket = std::move(notice);
    TRY(queue.set_notification(std::move(wanted)));
    return 0;
}

Result<long> sys_mq_getsetattr(Task& task, int fd, u64 fresh, u64 old) {
    mq_attr wanted{};
    if (fresh != 0) {
        TRY(wanted, UserPtr<const mq_attr>(fresh).copy_in());
        if ((wanted.mq_flags & ~long{O_NONBLOCK}) != 0)
            return fail(EINVAL);
    }
    TRY(Ref<File> file, queue_file(task, fd));
    MessageQueue& queue = static_cast<MessageQueueFile&>(*file).queue();
    mq_attr before{};
    before.mq_flags = file->non_blocking() ? O_NONBLOCK : 0;
    before.mq_maxmsg = static_cast<long>(queue.most_messages());
    before.mq_msgsize = static_cast<long>(queue.message_size());
    before.mq_curmsgs = static_cast<long>(queue.count());
    if (fresh != 0)
        TRY(file->set_status_flags((file->flags() & ~u32{O_NONBLOCK}) |
                                   static_cast<u32>(wanted.mq_flags)));
    if (old != 0)
        TRY(UserPtr<mq_attr>(old).copy_out(before));
    return 0;
}

} // namespace kernel
