// Life of Unix sockets: from creation over connections to the end.
#include "guestkernel/ipc/unix_socket.hpp"

#include <asm/socket.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/sockios.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/pidfd.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr u32 largest_backlog = 4096; // net.core.somaxconn
constexpr u32 readable_events = poll_in | poll_rdnorm, writable_events = poll_out | poll_wrnorm;
constexpr u32 all_events =
    readable_events | writable_events | poll_hup | poll_rdhup | poll_err | poll_wrband;

constinit SpinLock the_unix_lock{LockRank::Socket};

Result<Ref<UnixIdentity>> current_identity() {
    TRY(Ref<UnixIdentity> out, make_ref<UnixIdentity>());
    const Task& task = current_task();
    out->ids = current_socket_credentials();
    out->credentials = task.credentials;
    if (task.process != nullptr)
        out->process = Ref<Process>::share(task.process);
    return out;
}

Result<Ref<Inode>> make_inode(int type) {
    return make_socket_inode(type == socket_stream ? "UNIX-STREAM" : "UNIX");
}

Result<Ref<UnixSocketFile>> make_file(Ref<UnixEndpoint> endpoint, u32 flags) {
    TRY(Ref<Inode> inode, make_inode(endpoint->type));
    const int type = endpoint->type;
    return make_ref<UnixSocketFile>(std::move(inode), flags, type, std::move(endpoint));
}

Result<Ref<UnixSocketFile>> make_unix(int type, int protocol, u32 flags) {
    if (protocol != 0 && protocol != family_unix)
        return fail(EPROTONOSUPPORT);
    if (type == socket_raw) // historical: unix_create() of Linux
        type = socket_datagram;
    if (type != socket_stream && type != socket_datagram && type != socket_seqpacket)
        return fail(ESOCKTNOSUPPORT);
    TRY(Ref<UnixEndpoint> endpoint, make_ref<UnixEndpoint>(type));
    return make_file(std::move(endpoint), flags);
}

Result<Ref<SocketFile>> create(int type, int protocol, u32 flags) {
    TRY(Ref<UnixSocketFile> file, make_unix(type, protocol, flags));
    return Ref<SocketFile>(std::move(file));
}

Result<SocketPair> create_pair(int type, int protocol, u32 flags) {
    TRY(Ref<UnixSocketFile> first, make_unix(type, protocol, flags));
    TRY(Ref<UnixSocketFile> second, make_unix(type, protocol, flags));
    UnixEndpoint& a = first->endpoint();
    UnixEndpoint& b = second->endpoint();
    TRY(Ref<UnixIdentity> own, current_identity());
    SpinGuard guard(unix_lock());
    a.peer_identity = own;
    b.peer_identity = std::move(own);
    a.peer = Ref<UnixEndpoint>::share(&b);
    b.peer = Ref<UnixEndpoint>::share(&a);
    if (!a.connection_based()) {
        a.connectors.push_back(b);
        b.connectors.push_back(a);
    }
    a.state = UnixState::Connected;
    b.state = UnixState::Connected;
    return SocketPair{std::move(first), std::move(second)};
}

} // namespace

UnixIdentity::UnixIdentity() = default;
UnixIdentity::~UnixIdentity() = default;

const SocketFamily unix_family = {family_unix, create, create_pair};

SpinLock& unix_lock() {
    return the_unix_lock;
}

Result<void> waited(WaitOutcome outcome, u64 deadline) {
    if (outcome == WaitOutcome::Interrupted)
        return fail(deadline == no_deadline ? restart_syscall : EINTR);
    if (outcome == WaitOutcome::TimedOut)
        return fail(EAGAIN);
    return {};
}

// --- endpoints

namespace {
constinit SpinLock all_lock{LockRank::WaitQueue};
constinit base::IntrusiveList<UnixEndpoint, &UnixEndpoint::all_node> all_endpoints;
constinit u64 last_serial = 0; // under all_lock
} // namespace

void for_each_unix_endpoint(void (*visit)(const UnixEndpoint& endpoint, void* context),
                            void* context) {
    // Names change under the first, the list under the second.
    SpinGuard names(unix_lock());
    SpinGuard guard(all_lock);
    for (const UnixEndpoint& endpoint : all_endpoints)
        visit(endpoint, context);
}

usize hold_unix_endpoints(u64& after, Ref<UnixEndpoint>* out, usize capacity) {
    usize count = 0;
    SpinGuard guard(all_lock);
    for (UnixEndpoint& endpoint : all_endpoints) {
        if (count == capacity)
            break;
        if (endpoint.serial <= after || !endpoint.try_add_ref())
            continue;
        out[count++] = Ref<UnixEndpoint>::adopt(&endpoint);
        after = endpoint.serial;
    }
    return count;
}

UnixEndpoint::UnixEndpoint(int socket_type)
    : type(socket_type), net(Ref<NetNamespace>::share(current_net_namespace())) {
    uid = current_socket_credentials().uid;
    if (net && net->stack)
        net->stack->other_sockets.fetch_add(1);
    SpinGuard guard(all_lock);
    serial = ++last_serial;
    all_endpoints.push_back(*this);
}

UnixEndpoint::~UnixEndpoint() {
    {
        SpinGuard guard(all_lock);
        all_node.unlink();
    }
    if (net && net->stack)
        net->stack->other_sockets.fetch_sub(1);
    purge();
    kfree(spare.exchange(nullptr));
}

Ref<UnixEndpoint> UnixEndpoint::peer_ref() {
    SpinGuard guard(lock);
    return peer;
}
Ref<UnixName> UnixEndpoint::name_ref() {
    SpinGuard guard(lock);
    return name;
}

void UnixEndpoint::shut(u32 how) {
    SpinGuard guard(unix_lock());
    {
        SpinGuard inner(lock);
        shutdown = shutdown | how;
    }
    if (peer && connection_based()) {
        UnixEndpoint& other = *peer;
        const u32 mirrored =
            ((how & shut_read) != 0 ? shut_write : 0) | ((how & shut_write) != 0 ? shut_read : 0);
        {
            SpinGuard inner(other.lock);
            other.shutdown = other.shutdown | mirrored;
        }
        other.read_waiters.wake_all(all_events);
        other.write_waiters.wake_all(all_events);
    }
    read_waiters.wake_all(all_events);
    write_waiters.wake_all(all_events);
    room_waiters.wake_all();
}

void UnixEndpoint::set_file(File* opened) {
    SpinGuard guard(lock);
    file = opened;
}

void UnixEndpoint::close(bool unaccepted) {
    unbind_unix(*this);
    UnixEndpoint* waiting = nullptr; // connections that nobody will accept
    Ref<UnixEndpoint> former_peer;
    {
        SpinGuard guard(unix_lock());
        bool unread = false;
        {
            SpinGuard inner(lock);
            dead = true;
            state = UnixState::Closed;
            shutdown = shut_both;
            // The mark of an urgent byte that was taken is nothing to read.
            unread = head != nullptr &&
                     (head->size() != 0 || head->next != nullptr || type != socket_stream);
        }
        if (peer && connection_based()) {
            UnixEndpoint& other = *peer;
            {
                SpinGuard inner(other.lock);
                other.shutdown = shut_both;
            }
            if (unread || unaccepted)
                other.error.store(ECONNRESET);
            other.read_waiters.wake_all(all_events);
            other.write_waiters.wake_all(all_events);
        }
        if (connector_node.linked())
            connector_node.unlink();
        // They find out by their next message.
        while (UnixEndpoint* connector = connectors.pop_front())
            connector->write_waiters.wake_all(writable_events);
        waiting = first_pending;
        first_pending = last_pending = nullptr;
        pending = 0;
    }
    while (waiting != nullptr) {
        UnixEndpoint* next = waiting->next_pending;
        waiting->close(true);
        waiting->release();
        waiting = next;
    }
    purge();
    room_waiters.wake_all();
    {
        SpinGuard guard(unix_lock());
        SpinGuard inner(lock);
        former_peer = std::move(peer);
    }
}

u32 UnixEndpoint::poll(PollTable* table) {
    if (table != nullptr) {
        table->watch(read_waiters);
        table->watch(write_waiters);
    }
    u32 events = 0;
    const u32 shut_now = shutdown;
    if (error.load() != 0)
        events |= poll_err;
    if (shut_now == shut_both)
        events |= poll_hup;
    if ((shut_now & shut_read) != 0)
        events |= poll_rdhup | readable_events;
    if (head != nullptr || pending != 0)
        events |= readable_events;
    if (urgent != nullptr)
        events |= poll_pri;
    if (connection_based() && state == UnixState::Unconnected)
        events |= poll_hup;
    if (!writable())
        return events;
    if (!connection_based()) {
        // Not while the peer's queue is full, unless the two are each other's peers.
        SpinGuard guard(unix_lock());
        if (peer && peer->peer.get() != this && !peer->dead && peer->queue_full())
            return events;
    }
    return events | writable_events | poll_wrband;
}

// --- files

UnixSocketFile::UnixSocketFile(Ref<Inode> inode, u32 flags, int type, Ref<UnixEndpoint> endpoint)
    : SocketFile(std::move(inode), flags, family_unix, type, 0), endpoint_(std::move(endpoint)) {
    endpoint_->inode_number = inode_->number();
    endpoint_->set_file(this);
}

UnixSocketFile::~UnixSocketFile() {
    endpoint_->set_file(nullptr);
    endpoint_->close(false);
    endpoint_ = nullptr;
    collect_unix_cycles();
}

Result<void> UnixSocketFile::bind(const SocketAddress& address) {
    return bind_unix(*endpoint_, address);
}

Result<void> UnixSocketFile::listen(int backlog) {
    if (type() == socket_datagram)
        return fail(EOPNOTSUPP);
    TRY(Ref<UnixIdentity> listener, current_identity()); // and later the one it had before
    SpinGuard guard(unix_lock());
    UnixEndpoint& own = *endpoint_;
    if (!own.name || (own.state != UnixState::Unconnected && own.state != UnixState::Listening))
        return fail(EINVAL);
    const u32 wanted = static_cast<u32>(backlog);
    const u32 allowed = wanted > largest_backlog ? largest_backlog : wanted;
    if (allowed > own.backlog)
        own.room_waiters.wake_all();
    own.backlog = allowed;
    own.state = UnixState::Listening;
    std::swap(own.peer_identity, listener); // what those who connect will see
    return {};
}

Result<Ref<SocketFile>> UnixSocketFile::accept(u32 file_flags, bool non_blocking_call) {
    if (type() == socket_datagram)
        return fail(EOPNOTSUPP);
    UnixEndpoint& own = *endpoint_;
    const u64 deadline = receive_deadline();
    // The file first: a connection that was taken cannot be put back.
    TRY(Ref<Inode> inode, make_inode(type()));
    for (;;) {
        Ref<UnixEndpoint> taken;
        {
            SpinGuard guard(unix_lock());
            if (own.state != UnixState::Listening)
                return fail(EINVAL);
            if (UnixEndpoint* first = own.first_pending) {
                own.first_pending = first->next_pending;
                if (own.first_pending == nullptr)
                    own.last_pending = nullptr;
                own.pending = own.pending - 1;
                taken = Ref<UnixEndpoint>::adopt(first);
            } else if ((own.shutdown & shut_read) != 0) {
                return fail(EINVAL);
            }
        }
        if (taken) {
            own.room_waiters.wake_all();
            auto file = make_ref<UnixSocketFile>(inode, file_flags, type(), taken);
            if (!file) {
                taken->close(true);
                return fail(file.error().code);
            }
            (*file)->options_.flags |= options_.flags & socket_option_bit(SO_PASSCRED);
            taken->wants_pidfds = own.wants_pidfds;
            return Ref<SocketFile>(std::move(*file));
        }
        if (non_blocking_call)
            return fail(EAGAIN);
        const auto ready = [&] { return own.pending != 0 || (own.shutdown & shut_read) != 0; };
        const auto outcome =
            wait_until(own.read_waiters, ready, deadline, TaskState::Interruptible, true);
        if (outcome != WaitOutcome::Ready && own.pending != 0)
            own.read_waiters.wake_one(readable_events); // the wake-up may have been ours alone
        TRY(waited(outcome, deadline));
    }
}

Result<void> UnixSocketFile::autobind_for_credentials() {
    if ((!option_on(SO_PASSCRED) && !endpoint_->wants_pidfds) || endpoint_->name_ref())
        return {};
    return autobind_unix(*endpoint_);
}

Result<void> UnixSocketFile::connect(const SocketAddress& address) {
    return type() == socket_datagram ? connect_datagram(address) : connect_stream(address);
}

Result<void> UnixSocketFile::connect_stream(const SocketAddress& address) {
    TRY(check_unix_address(address, false));
    TRY(autobind_for_credentials());
    UnixEndpoint& own = *endpoint_;
    const u64 deadline = send_deadline();
    TRY(Ref<UnixEndpoint> served, make_ref<UnixEndpoint>(type()));
    TRY(served->peer_identity, current_identity());
    for (;;) {
        TRY(Ref<UnixEndpoint> listener, find_unix(address, type()));
        {
            SpinGuard guard(unix_lock());
            if (listener->dead)
                continue; // gone just now: look again
            if (listener->state != UnixState::Listening || (listener->shutdown & shut_read) != 0)
                return fail(ECONNREFUSED);
            if (listener->pending <= listener->backlog) {
                if (own.state != UnixState::Unconnected)
                    return fail(own.state == UnixState::Connected ? EISCONN : EINVAL);
                served->name = listener->name;
                served->state = UnixState::Connected;
                served->peer = endpoint_;
                {
                    SpinGuard inner(own.lock);
                    own.peer = served;
                }
                own.peer_identity = listener->peer_identity;
                own.state = UnixState::Connected;
                UnixEndpoint* last = served.leak();
                if (listener->last_pending != nullptr)
                    listener->last_pending->next_pending = last;
                else
                    listener->first_pending = last;
                listener->last_pending = last;
                listener->pending = listener->pending + 1;
                listener->read_waiters.wake_one(readable_events);
                break;
            }
        }
        if (non_blocking())
            return fail(EAGAIN);
        const auto ready = [&] {
            return listener->dead || listener->pending <= listener->backlog ||
                   listener->state != UnixState::Listening || (listener->shutdown & shut_read) != 0;
        };
        TRY(waited(wait_until(listener->room_waiters, ready, deadline), deadline));
    }
    own.write_waiters.wake_all(all_events); // from POLLHUP to POLLOUT
    return {};
}

Result<void> UnixSocketFile::connect_datagram(const SocketAddress& address) {
    if (address.length < sizeof(u16))
        return fail(EINVAL);
    Ref<UnixEndpoint> target; // none: the connection is dissolved (connect(2))
    if (address.family() != family_unspecified) {
        TRY(check_unix_address(address, false));
        TRY(autobind_for_credentials());
        TRY(target, find_unix(address, type()));
    }
    UnixEndpoint& own = *endpoint_;
    Ref<UnixEndpoint> former;
    {
        SpinGuard guard(unix_lock());
        if (target && target->dead)
            return fail(ECONNREFUSED);
        if (target && target->peer && target->peer.get() != &own)
            return fail(EPERM); // it talks to one other only
        if (own.connector_node.linked())
            own.connector_node.unlink();
        if (target)
            target->connectors.push_back(own);
        own.state = target ? UnixState::Connected : UnixState::Unconnected;
        SpinGuard inner(own.lock);
        former = std::move(own.peer);
        own.peer = std::move(target);
    }
    if (former && former != own.peer_ref()) {
        MutexGuard guard(own.read_mutex);
        own.purge(); // what the former peer sent is not for the new conversation
    }
    own.write_waiters.wake_all(writable_events);
    return {};
}

Result<void> UnixSocketFile::shutdown(u32 how) {
    endpoint_->shut(how);
    return {};
}

Result<void> UnixSocketFile::local_address(SocketAddress& out) {
    unix_address(endpoint_->name_ref().get(), out);
    return {};
}

Result<void> UnixSocketFile::peer_address(SocketAddress& out) {
    Ref<UnixEndpoint> peer = endpoint_->peer_ref();
    if (!peer)
        return fail(ENOTCONN);
    unix_address(peer->name_ref().get(), out);
    return {};
}

void UnixSocketFile::buffers_changed() {
    endpoint_->send_buffer = options_.send_buffer;
    endpoint_->write_waiters.wake_all(writable_events);
}

Ref<UnixIdentity> UnixSocketFile::identity_of_peer() {
    SpinGuard guard(unix_lock());
    return endpoint_->peer_identity;
}

SocketCredentials UnixSocketFile::peer_credentials() {
    const Ref<UnixIdentity> peer = identity_of_peer();
    return peer ? peer->ids : SocketCredentials{};
}

Result<Ref<const Credentials>> UnixSocketFile::peer_identity() {
    const Ref<UnixIdentity> peer = identity_of_peer();
    if (!peer || !peer->credentials)
        return fail(ENODATA);
    return Ref<const Credentials>(peer->credentials);
}

// One that has ended, too: the number may be another's by now, and the descriptor tells.
Result<Ref<File>> UnixSocketFile::peer_pidfd() {
    const Ref<UnixIdentity> peer = identity_of_peer();
    if (!peer || !peer->process)
        return fail(ENODATA);
    return make_pidfd(peer->process, 0);
}

namespace {

// Whether it is one of the options that ask for timestamps, and the kind of them.
bool is_timestamp(int level, int name, bool& fine) {
    fine = name == SO_TIMESTAMPNS_OLD || name == SO_TIMESTAMPNS_NEW;
    return level == SOL_SOCKET && (fine || name == SO_TIMESTAMP_OLD || name == SO_TIMESTAMP_NEW);
}

} // namespace

// Those of streams are kept as well, without effect, as on Linux.
Result<void> UnixSocketFile::set_option(int level, int name, std::span<const u8> value) {
    bool fine = false;
    int on = 0;
    const bool timestamp = is_timestamp(level, name, fine);
    const bool known =
        level == SOL_SOCKET && (name == option_pass_pidfd || name == SO_PEEK_OFF || timestamp);
    if (!known)
        return fail(ENOPROTOOPT);
    if (value.size() < sizeof on)
        return fail(EINVAL);
    __builtin_memcpy(&on, value.data(), sizeof on);
    if (name == option_pass_pidfd) {
        endpoint_->wants_pidfds = on != 0;
        return {};
    }
    if (name == SO_PEEK_OFF) {
        MutexGuard guard(endpoint_->read_mutex);
        peek_offset_ = on;
        return {};
    }
    endpoint_->fine_timestamps = on != 0 && fine;
    endpoint_->timestamps = on != 0;
    return {};
}

Result<usize> UnixSocketFile::get_option(int level, int name, std::span<u8> out) {
    bool fine = false;
    int on = 0;
    if (is_timestamp(level, name, fine))
        on = endpoint_->timestamps && endpoint_->fine_timestamps == fine ? 1 : 0;
    else if (level == SOL_SOCKET && name == option_pass_pidfd)
        on = endpoint_->wants_pidfds ? 1 : 0;
    else if (level == SOL_SOCKET && name == SO_PEEK_OFF)
        on = __atomic_load_n(&peek_offset_, __ATOMIC_RELAXED);
    else
        return fail(ENOPROTOOPT);
    const usize bytes = out.size() < sizeof on ? out.size() : sizeof on;
    __builtin_memcpy(out.data(), &on, bytes);
    return bytes;
}

void UnixSocketFile::memory_use(SocketMemory& out) const {
    SocketFile::memory_use(out);
    out.sent = static_cast<u32>(endpoint_->sent.load()); // who sends pays
}

u32 UnixSocketFile::poll(PollTable* table) {
    return endpoint_->poll(table);
}

Result<long> UnixSocketFile::ioctl(u32 command, u64 argument) {
    constexpr u32 siocinq = 0x541b, siocoutq = 0x5411; // FIONREAD, TIOCOUTQ
    UnixEndpoint& own = *endpoint_;
    u64 bytes = 0;
    if (command == siocoutq) {
        bytes = own.sent.load();
    } else if (command == siocinq) {
        if (own.state == UnixState::Listening)
            return fail(EINVAL);
        SpinGuard guard(own.lock);
        if (type() == socket_datagram)
            bytes = own.head != nullptr ? own.head->size() : 0;
        else
            bytes = own.queued_bytes;
    } else if (command == SIOCATMARK) {
        if (type() != socket_stream)
            return fail(EOPNOTSUPP);
        bytes = own.at_mark() ? 1 : 0;
    } else {
        // The C library asks about interfaces through a socket of this family (netdevice(7)).
        return net::network_ioctl_of_caller(command, argument);
    }
    TRY(UserPtr<int>(argument).copy_out(static_cast<int>(bytes)));
    return 0;
}

} // namespace kernel
