#include "guestkernel/net/netlink/connector/connector.hpp"

#include <linux/capability.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/errno.h>
#include <linux/netlink.h>

#include "boot/protocol/layout.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"

namespace kernel::net::netlink {

namespace {

// The header's enumeration has moved out of the struct since; inside of a derived one it is found
// either way.
struct EventBits : proc_event {
    static constexpr u32 none = PROC_EVENT_NONE, fork = PROC_EVENT_FORK, exec = PROC_EVENT_EXEC,
                         uid = PROC_EVENT_UID, gid = PROC_EVENT_GID, session = PROC_EVENT_SID,
                         traced = PROC_EVENT_PTRACE, name = PROC_EVENT_COMM,
                         core = PROC_EVENT_COREDUMP, exit = static_cast<u32>(PROC_EVENT_EXIT);
};
// PROC_EVENT_NONZERO_EXIT of newer headers: of ends only those with a status.
constexpr u32 failed_exit = 0x2000'0000;
static_assert(all_process_events ==
              (EventBits::fork | EventBits::exec | EventBits::uid | EventBits::gid |
               EventBits::session | EventBits::traced | EventBits::name | failed_exit |
               EventBits::core | EventBits::exit));

// A connector message as it goes out, whole.
struct EventMessage {
    nlmsghdr header;
    u8 connector[sizeof(cn_msg)]; // its last member has no size: not for standing in a struct
    u8 event[sizeof(proc_event)];
};
static_assert(sizeof(EventMessage) == 76);

// What an endpoint said last, in Endpoint::private_word: 0 before that.
struct Choice {
    u32 operation = 0, events = 0;

    static Choice of(const Endpoint& endpoint) {
        const u64 word = __atomic_load_n(&endpoint.private_word, __ATOMIC_RELAXED);
        return {static_cast<u32>(word >> 32), static_cast<u32>(word)};
    }
    u64 word() const { return u64{operation} << 32 | events; }
};

// Messages are numbered by the CPU that sends them. The kernel is not preempted: nobody else counts
// here.
constinit u32 sent[boot::max_cpus] = {};

struct Told {
    u32 what, exit_status;
};

bool wants(const Endpoint& endpoint, const void* context) {
    const Told& told = *static_cast<const Told*>(context);
    const Choice choice = Choice::of(endpoint);
    if (choice.operation == 0)
        return true; // a member of the group that has never said anything
    if (choice.operation == PROC_CN_MCAST_IGNORE)
        return false;
    if (choice.events == all_process_events || (choice.events & told.what) != 0)
        return true;
    return (choice.events & failed_exit) != 0 && told.what == EventBits::exit &&
           told.exit_status != 0;
}

void send(proc_event& event, u32 what, u32 acknowledged, u32 exit_status = 0) {
    const unsigned cpu = arch::cpu_id();
    event.what = static_cast<decltype(event.what)>(what);
    event.cpu = cpu;
    event.timestamp_ns = monotonic_ns();
    cn_msg connector = {};
    connector.id = {.idx = CN_IDX_PROC, .val = CN_VAL_PROC};
    connector.seq = sent[cpu]++;
    connector.ack = acknowledged;
    connector.len = sizeof event;
    EventMessage message = {};
    message.header = {.nlmsg_len = sizeof message,
                      .nlmsg_type = NLMSG_DONE,
                      .nlmsg_flags = 0,
                      .nlmsg_seq = connector.seq,
                      .nlmsg_pid = 0};
    __builtin_memcpy(message.connector, &connector, sizeof connector);
    __builtin_memcpy(message.event, &event, sizeof event);
    u8 bytes[sizeof message];
    __builtin_memcpy(bytes, &message, sizeof message);
    const Told told = {what, exit_status};
    broadcast_if(stack_of(nullptr), NETLINK_CONNECTOR, CN_IDX_PROC, bytes, wants, &told);
}

// --- events --------------------------------------------------------------------------------------

struct Parent {
    i32 pid = 0, tgid = 0;
};

// The thread that made the process, while it lives.
Parent parent_of(const Task& task) {
    SpinGuard tree(process_tree_lock());
    const Process* parent = task.process->parent;
    if (parent == nullptr)
        return {};
    const Task* thread = find_task_locked(task.process->parent_task);
    const bool lives = thread != nullptr && thread->process == parent;
    return {lives ? thread->tid : parent->pid, parent->pid};
}

void tell_exit(proc_event& event, const Task& task) {
    auto& exit = event.event_data.exit;
    exit.process_pid = task.tid;
    exit.process_tgid = task.process->pid;
    exit.exit_code = task.exit_status;
    exit.exit_signal = ~u32{0};
    if (task.tid == task.process->pid) { // nobody waits for other threads: they have no parent
        exit.exit_signal = static_cast<u32>(task.process->exit_signal);
        const Parent parent = parent_of(task);
        exit.parent_pid = parent.pid;
        exit.parent_tgid = parent.tgid;
    }
    send(event, EventBits::exit, 0, task.exit_status);
}

void tell_ids(proc_event& event, u32 what, const Task& task) {
    const Credentials& own = *task.credentials;
    const bool user = what == EventBits::uid;
    event.event_data.id.process_pid = task.tid;
    event.event_data.id.process_tgid = task.process->pid;
    event.event_data.id.r.ruid = user ? own.uid : own.gid;
    event.event_data.id.e.euid = user ? own.euid : own.egid;
    send(event, what, 0);
}

void tell_fork(proc_event& event, const Task& child) {
    const Parent parent = parent_of(child);
    event.event_data.fork.parent_pid = parent.pid;
    event.event_data.fork.parent_tgid = parent.tgid;
    event.event_data.fork.child_pid = child.tid;
    event.event_data.fork.child_tgid = child.process->pid;
    send(event, EventBits::fork, 0);
}

void tell_core(proc_event& event, const Task& task) {
    const Parent parent = parent_of(task);
    event.event_data.coredump.process_pid = task.tid;
    event.event_data.coredump.process_tgid = task.process->pid;
    event.event_data.coredump.parent_pid = parent.pid;
    event.event_data.coredump.parent_tgid = parent.tgid;
    send(event, EventBits::core, 0);
}

void tell_traced(proc_event& event, const Task& task, bool begins) {
    event.event_data.ptrace.process_pid = task.tid;
    event.event_data.ptrace.process_tgid = task.process->pid;
    if (begins) {
        event.event_data.ptrace.tracer_pid = current_task().tid;
        event.event_data.ptrace.tracer_tgid = current_process().pid;
    }
    send(event, EventBits::traced, 0);
}

// Those that say no more than who.
void tell_plain(proc_event& event, u32 what, const Task& task) {
    event.event_data.exec.process_pid = task.tid;
    event.event_data.exec.process_tgid = task.process->pid;
    if (what == EventBits::name)
        __builtin_memcpy(event.event_data.comm.comm, task.name, sizeof task.name);
    send(event, what, 0);
}

void observe(ProcessEvent kind, Task& task) {
    if (task.process == nullptr)
        return;
    proc_event event = {};
    switch (kind) {
    case ProcessEvent::Fork:
        return tell_fork(event, task);
    case ProcessEvent::Exec:
        return tell_plain(event, EventBits::exec, task);
    case ProcessEvent::Uid:
        return tell_ids(event, EventBits::uid, task);
    case ProcessEvent::Gid:
        return tell_ids(event, EventBits::gid, task);
    case ProcessEvent::Session:
        return tell_plain(event, EventBits::session, task);
    case ProcessEvent::Traced:
        return tell_traced(event, task, true);
    case ProcessEvent::Untraced:
        return tell_traced(event, task, false);
    case ProcessEvent::Name:
        return tell_plain(event, EventBits::name, task);
    case ProcessEvent::Core:
        return tell_core(event, task);
    case ProcessEvent::Exit:
        return tell_exit(event, task);
    }
}

// --- what programs say ---------------------------------------------------------------------------

// Counts whether the endpoint listens; gives its former choice back.
Choice choose(Endpoint& endpoint, const Choice& fresh) {
    const u64 word = __atomic_exchange_n(&endpoint.private_word, fresh.word(), __ATOMIC_SEQ_CST);
    const Choice before = {static_cast<u32>(word >> 32), static_cast<u32>(word)};
    const bool did = before.operation == PROC_CN_MCAST_LISTEN;
    const bool does = fresh.operation == PROC_CN_MCAST_LISTEN;
    if (does && !did)
        process_listeners.fetch_add(1);
    if (did && !does)
        process_listeners.fetch_sub(1);
    return before;
}

Result<void> receive(Endpoint& sender, std::span<const u8> datagram) {
    ConnectorRequest request;
    if (!read_connector_request(datagram, request))
        return {};
    // Events tell of the initial pid and user namespaces' numbers: those of others are not told
    // anything.
    if (!is_initial(current_task().credentials->user_ns.get()) ||
        level_of(current_pid_namespace()) != 0)
        return {};
    const bool known =
        request.operation == PROC_CN_MCAST_LISTEN || request.operation == PROC_CN_MCAST_IGNORE;
    if (known)
        (void)choose(sender, {request.operation, request.events});
    if (process_listeners.load() == 0)
        return {};
    proc_event event = {};
    event.event_data.ack.err = known ? 0 : EINVAL;
    send(event, EventBits::none, request.acknowledged + 1);
    return {};
}

Result<void> join(Endpoint& endpoint, u32 group) {
    if (group != CN_IDX_PROC && !capable_over(endpoint.stack().owner(), CAP_NET_ADMIN))
        return fail(EPERM);
    return {};
}

void released(Endpoint& endpoint) {
    (void)choose(endpoint, {});
}

constexpr Protocol connector_protocol = {.number = NETLINK_CONNECTOR,
                                         .groups = 32,
                                         .anybody_joins = true,
                                         .initial_namespace_only = true,
                                         .receive_all = receive,
                                         .join = join,
                                         .released = released};

} // namespace

bool read_connector_request(std::span<const u8> datagram, ConnectorRequest& out) {
    nlmsghdr header;
    cn_msg connector;
    constexpr usize least = sizeof header + sizeof connector;
    if (datagram.size() < least)
        return false;
    __builtin_memcpy(&header, datagram.data(), sizeof header);
    __builtin_memcpy(&connector, datagram.data() + sizeof header, sizeof connector);
    if (header.nlmsg_len < least || header.nlmsg_len > datagram.size() ||
        header.nlmsg_len > sizeof header + CONNECTOR_MAX_MSG_SIZE)
        return false;
    if (connector.id.idx != CN_IDX_PROC || connector.id.val != CN_VAL_PROC)
        return false;
    const std::span<const u8> data = datagram.subspan(least, header.nlmsg_len - least);
    u32 words[2] = {0, all_process_events};
    if ((connector.len != sizeof words[0] && connector.len != sizeof words) ||
        data.size() < connector.len)
        return false;
    __builtin_memcpy(words, data.data(), connector.len);
    const u32 events = words[1] & all_process_events;
    out = {words[0], events != 0 ? events : all_process_events, connector.seq, connector.ack};
    return true;
}

void start_connector() {
    register_protocol(connector_protocol);
    process_observer = observe;
}

} // namespace kernel::net::netlink

namespace kernel {

ChangedIds changed_ids(const Credentials& before, const Credentials& after) {
    return {.user = before.uid != after.uid || before.euid != after.euid ||
                    before.suid != after.suid || before.fsuid != after.fsuid,
            .group = before.gid != after.gid || before.egid != after.egid ||
                     before.sgid != after.sgid || before.fsgid != after.fsgid};
}

void tell_changed_ids(Task& task, ChangedIds changed) {
    if (changed.user)
        tell_process_event(ProcessEvent::Uid, task);
    if (changed.group)
        tell_process_event(ProcessEvent::Gid, task);
}

} // namespace kernel
