// System V message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2).
#include <linux/errno.h>
#include <linux/msg.h>

#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/syscalls/sysv_calls.hpp"

namespace kernel {

namespace {

constexpr u32 may_read = 0444, may_write = 0222;
constexpr unsigned cap_sys_resource = 24;

struct Message {
    Message* next = nullptr;
    i64 type = 0;
    Vector<u8> text;
};

struct MessageQueue : SysvObject {
    ~MessageQueue() override {
        while (Message* message = first) {
            first = message->next;
            delete message;
        }
    }
    Message* first = nullptr;
    Message* last = nullptr;
    u64 bytes = 0, messages = 0, capacity = 0;
    i64 send_time = 0, receive_time = 0, change_time = 0;
    i32 last_sender = 0, last_receiver = 0;
    volatile u32 sends = 0, receives = 0; // what waiters watch
    WaitQueue senders, receivers;

    bool has_room(u64 more) const { return bytes + more <= capacity && messages + 1 <= capacity; }
    void append(Message* message) {
        (last != nullptr ? last->next : first) = message;
        last = message;
        bytes += message->text.size();
        messages++;
    }
    // msgrcv(2): the first of any type, of one type, of any other, or of the lowest up to -type.
    Message* find(i64 type, bool except) {
        const i64 highest = type == limit_type ? ~limit_type : -type;
        Message* best = nullptr;
        for (Message* message = first; message != nullptr; message = message->next) {
            if (type < 0) {
                if (message->type <= highest && (best == nullptr || message->type < best->type))
                    best = message;
            } else if (type == 0 || (message->type == type) != except) {
                return message;
            }
        }
        return best;
    }
    void take(Message* message) {
        Message* before = nullptr;
        for (Message* at = first; at != message; at = at->next)
            before = at;
        (before != nullptr ? before->next : first) = message->next;
        if (last == message)
            last = before;
        bytes -= message->text.size();
        messages--;
    }
    static constexpr i64 limit_type = -0x7fff'ffff'ffff'ffff - 1;
};

// The running task's: it does not change while a call of it waits.
SysvTable& table() {
    return current_ipc_namespace().messages;
}

Result<MessageQueue*> find_queue(i32 id, u32 access) {
    TRY(SysvObject * object, table().find(id));
    TRY(check_sysv_access(*object, access));
    return static_cast<MessageQueue*>(object);
}

Result<void> copy_message_out(u64 to, const Message& message, u64 bytes) {
    TRY(UserPtr<i64>(to).copy_out(message.type));
    return copy_out_bytes(to + sizeof(i64), message.text.data(), bytes);
}

Result<long> change_queue(MessageQueue& queue, const msqid64_ds& wanted) {
    if (wanted.msg_qbytes > current_ipc_namespace().limits.queue_bytes.load() &&
        !capable(cap_sys_resource))
        return fail(EPERM);
    TRY(set_sysv_permissions(queue, wanted.msg_perm));
    queue.capacity = wanted.msg_qbytes;
    queue.change_time = sysv_time();
    queue.receives = queue.receives + 1;
    queue.senders.wake_all();
    return 0;
}

// MSG_COPY: the message at a place of the queue, which stays there.
Result<long> copy_message(i32 id, u64 text, u64 bytes, i64 place, u32 flags) {
    if ((flags & IPC_NOWAIT) == 0 || (flags & MSG_EXCEPT) != 0)
        return fail(EINVAL);
    Message copy;
    {
        MutexGuard guard(table().mutex);
        TRY(MessageQueue * queue, find_queue(id, may_read));
        const Message* message = queue->first;
        for (i64 i = 0; i < place && message != nullptr; i++)
            message = message->next;
        if (message == nullptr || place < 0)
            return fail(ENOMSG);
        if (message->text.size() > bytes) // never in parts, unlike messages that are taken
            return fail((flags & MSG_NOERROR) == 0 ? E2BIG : EINVAL);
        copy.type = message->type;
        TRY(copy.text.append(message->text.span()));
    }
    TRY(copy_message_out(text, copy, copy.text.size()));
    return static_cast<long>(copy.text.size());
}

// IPC_INFO: limits; MSG_INFO: some fields tell of use instead. The answer is the last place in use.
Result<long> tell_info(MutexGuard<Mutex>& guard, u64 argument, bool use) {
    msginfo info{};
    const SysvLimits& limits = current_ipc_namespace().limits;
    info.msgmax = static_cast<int>(limits.message_bytes.load());
    info.msgmnb = static_cast<int>(limits.queue_bytes.load());
    info.msgmni = static_cast<int>(table().most.load());
    info.msgssz = MSGSSZ;
    info.msgseg = MSGSEG;
    info.msgpool = use ? table().count() : MSGPOOL;
    info.msgmap = use ? 0 : MSGMAP;
    info.msgtql = use ? 0 : MSGTQL;
    if (use)
        table().for_each([&](SysvObject& object) {
            info.msgmap += static_cast<int>(static_cast<MessageQueue&>(object).messages);
            info.msgtql += static_cast<int>(static_cast<MessageQueue&>(object).bytes);
        });
    return tell_unlocked(guard, argument, info, table().last_index());
}

Result<long> stat_queue(MutexGuard<Mutex>& guard, const MessageQueue& queue, u64 argument,
                        long answer) {
    msqid64_ds status{};
    fill_sysv_permissions(queue, status.msg_perm);
    status.msg_stime = queue.send_time;
    status.msg_rtime = queue.receive_time;
    status.msg_ctime = queue.change_time;
    status.msg_cbytes = queue.bytes;
    status.msg_qnum = queue.messages;
    status.msg_qbytes = queue.capacity;
    status.msg_lspid = visible_pid(queue.last_sender);
    status.msg_lrpid = visible_pid(queue.last_receiver);
    return tell_unlocked(guard, argument, status, answer);
}

} // namespace

Result<long> sys_msgget(Task&, int key, u32 flags) {
    const auto fits = [](SysvObject&) -> Result<void> { return {}; };
    const auto make = []() -> Result<Ref<SysvObject>> {
        TRY(Ref<MessageQueue> queue, make_ref<MessageQueue>());
        queue->change_time = sysv_time();
        queue->capacity = current_ipc_namespace().limits.queue_bytes.load();
        return Ref<SysvObject>(std::move(queue));
    };
    return sysv_get(table(), key, flags, fits, make);
}

Result<long> sys_msgsnd(Task&, int id, u64 text, u64 bytes, u32 flags) {
    if (bytes > current_ipc_namespace().limits.message_bytes.load() || id < 0)
        return fail(EINVAL);
    TRY(Owned<Message> message, make_owned<Message>());
    TRY(message->type, UserPtr<i64>(text).copy_in());
    if (message->type < 1)
        return fail(EINVAL);
    TRY(message->text.resize(bytes));
    TRY(copy_in_bytes(message->text.data(), text + sizeof(i64), bytes));
    Ref<MessageQueue> queue;
    for (;;) {
        u32 seen = 0;
        {
            MutexGuard guard(table().mutex);
            if (queue && queue->removed)
                return fail(EIDRM);
            TRY(MessageQueue * found, find_queue(id, may_write));
            queue = Ref<MessageQueue>::share(found);
            if (queue->has_room(bytes)) {
                queue->append(message.leak());
                queue->last_sender = current_pid();
                queue->send_time = sysv_time();
                queue->sends = queue->sends + 1;
                queue->receivers.wake_all();
                return 0;
            }
            seen = queue->receives;
        }
        if ((flags & IPC_NOWAIT) != 0)
            return fail(EAGAIN);
        const auto ready = [&] { return queue->removed || queue->receives != seen; };
        if (wait_until(queue->senders, ready) == WaitOutcome::Interrupted)
            return fail(EINTR); // never restarted (signal(7))
    }
}

Result<long> sys_msgrcv(Task&, int id, u64 text, u64 bytes, i64 type, u32 flags) {
    if (id < 0 || static_cast<i64>(bytes) < 0)
        return fail(EINVAL);
    if ((flags & MSG_COPY) != 0)
        return copy_message(id, text, bytes, type, flags);
    Ref<MessageQueue> queue;
    for (;;) {
        u32 seen = 0;
        Owned<Message> taken;
        {
            MutexGuard guard(table().mutex);
            if (queue && queue->removed)
                return fail(EIDRM);
            TRY(MessageQueue * found, find_queue(id, may_read));
            queue = Ref<MessageQueue>::share(found);
            if (Message* message = queue->find(type, (flags & MSG_EXCEPT) != 0)) {
                if (message->text.size() > bytes && (flags & MSG_NOERROR) == 0)
                    return fail(E2BIG);
                queue->take(message);
                taken = Owned<Message>(message);
                queue->last_receiver = current_pid();
                queue->receive_time = sysv_time();
                queue->receives = queue->receives + 1;
                queue->senders.wake_all();
            }
            seen = queue->sends;
        }
        if (taken) {
            const u64 size = taken->text.size() < bytes ? taken->text.size() : bytes;
            TRY(copy_message_out(text, *taken, size));
            return static_cast<long>(size);
        }
        if ((flags & IPC_NOWAIT) != 0)
            return fail(ENOMSG);
        const auto ready = [&] { return queue->removed || queue->sends != seen; };
        if (wait_until(queue->receivers, ready) == WaitOutcome::Interrupted)
            return fail(EINTR);
    }
}

Result<long> sys_msgctl(Task&, int id, int command, u64 argument) {
    msqid64_ds wanted{};
    if (command == IPC_SET)
        TRY(copy_in_bytes(&wanted, argument, sizeof wanted));
    MutexGuard guard(table().mutex);
    switch (command) {
    case IPC_STAT: {
        TRY(MessageQueue * queue, find_queue(id, may_read));
        return stat_queue(guard, *queue, argument, 0);
    }
    case IPC_INFO:
    case MSG_INFO:
        return tell_info(guard, argument, command == MSG_INFO);
    case MSG_STAT:
    case MSG_STAT_ANY: {
        TRY(SysvObject * object, table().at_index(id));
        if (command == MSG_STAT)
            TRY(check_sysv_access(*object, may_read));
        return stat_queue(guard, static_cast<MessageQueue&>(*object), argument, object->id);
    }
    case IPC_SET: {
        TRY(MessageQueue * queue, find_queue(id, 0));
        TRY(check_sysv_owner(*queue));
        return change_queue(*queue, wanted);
    }
    case IPC_RMID: {
        TRY(MessageQueue * queue, find_queue(id, 0));
        TRY(check_sysv_owner(*queue));
        Ref<SysvObject> last = table().remove(*queue);
        queue->senders.wake_all();
        queue->receivers.wake_all();
        return 0;
    }
    default:
        return fail(EINVAL);
    }
}

void each_message_queue(void (*tell)(const SysvView& view, void* context), void* context) {
    MutexGuard guard(table().mutex);
    table().for_each([&](SysvObject& object) {
        const auto& queue = static_cast<MessageQueue&>(object);
        tell({object,
              queue.bytes,
              queue.messages,
              0,
              queue.last_sender,
              queue.last_receiver,
              {queue.send_time, queue.receive_time, queue.change_time}},
             context);
    });
}

} // namespace kernel
