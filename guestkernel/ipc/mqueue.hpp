// POSIX message queues, mq_overview(7): files of a file system of their own, which mq_open(2) uses
// without a mount of it.
//
// Locks: a queue's mutex guards its messages and who is to be notified; Inode::mutex of the one
// directory comes outside of it.
#pragma once

#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/sched/mutex.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

// What a namespace limits: /proc/sys/fs/mqueue.
struct MqueueLimits {
    static constexpr u32 hard_messages = 65536, hard_message_size = 16 << 20; // HARD_MSG*MAX
    base::Atomic<u32> queues{256}, messages{10}, message_size{8192};
    base::Atomic<u32> default_messages{10}, default_message_size{8192};

    // For who asks for nothing. The defaults may be set above what is allowed.
    u32 usual_messages() const { return lesser(default_messages.load(), messages.load()); }
    u32 usual_size() const { return lesser(default_message_size.load(), message_size.load()); }

private:
    static u32 lesser(u32 a, u32 b) { return a < b ? a : b; }
};
// Those of the running task's IPC namespace. ENOMEM.
Result<MqueueLimits*> current_mqueue_limits();

// The queues of one IPC namespace.
class MqueueSuperblock final : public TmpfsSuperblock {
public:
    explicit MqueueSuperblock(const Options& options) : TmpfsSuperblock(options, "mqueue") {}
    Result<void> make_root() override;
    Result<FileSystemStats> stats() override;
    Result<void> describe_options(String&) override { return {}; }

    MqueueLimits limits;
    base::Atomic<u64> queues{0};
};

// SIGEV_THREAD: a netlink socket that gets a cookie of the registering program's, whose last byte
// says why. The C library reads it in a helper thread (mq_notify(3)).
class NoticeSocket {
public:
    static constexpr usize cookie_size = 32;
    static constexpr u8 woken_up = 1, removed = 2;

    NoticeSocket() = default;
    // ENOMEM now rather than a notice lost later.
    static Result<NoticeSocket> make(net::netlink::Endpoint& socket,
                                     std::span<const u8, cookie_size> cookie);
    NoticeSocket(NoticeSocket&& other) noexcept { swap(other); }
    NoticeSocket& operator=(NoticeSocket&& other) noexcept {
        swap(other);
        return *this;
    }
    ~NoticeSocket();
    // Once; nothing without a socket. A socket that is closed or full loses it.
    void tell(u8 why);

private:
    void swap(NoticeSocket& other) noexcept {
        std::swap(socket_, other.socket_);
        std::swap(message_, other.message_);
    }
    Ref<net::netlink::Endpoint> socket_;
    net::netlink::QueuedMessage* message_ = nullptr;
};

class MessageQueue final : public TmpfsInode {
public:
    struct Message {
        Message* next = nullptr;
        u32 priority = 0;
        Vector<u8> text;
    };
    // Who is told of a message that comes to an empty queue (mq_notify(3)).
    struct Notification {
        Ref<Process> process;
        int method = 0; // SIGEV_*
        int signal = 0;
        u64 value = 0;
        NoticeSocket socket; // SIGEV_THREAD
    };

    // EINVAL: not within the limits; EMFILE: RLIMIT_MSGQUEUE; ENOSPC: too many queues.
    static Result<Ref<MessageQueue>> make(MqueueSuperblock& home, u32 mode, u32 uid, u32 gid,
                                          u64 most_messages, u64 message_size);
    MessageQueue(MqueueSuperblock& home, u64 number, u32 mode, u32 uid, u32 gid, u64 most,
                 u64 size);
    ~MessageQueue() override;
    Result<Ref<File>> open(const Path& path, u32 flags) override;

    u64 most_messages() const { return most_messages_; }
    u64 message_size() const { return message_size_; }
    u64 count() const { return count_; }
    u32 ready() const; // POLL*

    // Takes the message over on success. EAGAIN, ETIMEDOUT, restart_syscall.
    Result<void> send(Owned<Message>& message, bool non_blocking, u64 deadline_ns);
    Result<Owned<Message>> receive(bool non_blocking, u64 deadline_ns);
    // EBUSY: somebody is registered.
    Result<void> set_notification(Notification wanted);
    void drop_notification(const Process& owner);
    Result<void> describe(String& out);
    WaitQueue senders, receivers;

protected:
    u64 visible_size() const override { return 80; } // FILENT_SIZE

private:
    void insert(Message& message);
    void notify();
    MqueueSuperblock& queue_home() const { return static_cast<MqueueSuperblock&>(home()); }

    const u64 most_messages_, message_size_;
    Ref<UserAccount> account_;
    u64 charged_ = 0;
    Mutex mutex_;
    Message* first_ = nullptr; // by falling priority, then by age
    volatile u64 count_ = 0;
    u64 bytes_ = 0;
    u64 waiting_receivers_ = 0;
    Notification notification_;
};

class MessageQueueFile final : public File {
public:
    static constexpr char file_type[] = "mqueue";
    using File::File;
    const char* type_name() const override { return file_type; }
    MessageQueue& queue() const { return static_cast<MessageQueue&>(*inode()); }
    Result<usize> read(IoBuffer& out, u64 offset) override;
    Result<usize> write(IoBuffer&, u64) override;
    u32 poll(PollTable* table) override;
    bool can_wait() const override { return true; }
    Result<void> flush() override;
    Result<void> truncate(u64) override { return {}; } // O_TRUNC has no effect
};

// The root of the queues of the running task's IPC namespace.
Result<Path> mqueue_root();
Result<Ref<Superblock>> mqueue_filesystem();
// What mq_open(2) asks for a new queue beyond its mode; of the running task, for the creation that
// follows.
Result<Ref<MessageQueue>> create_queue(Inode& directory, std::string_view name, u32 mode,
                                       u64 most_messages, u64 message_size);

} // namespace kernel
