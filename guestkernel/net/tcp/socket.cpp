// Life of TCP sockets: addresses, connecting, listening, the end.
#include "guestkernel/net/tcp/socket.hpp"

#include <asm/socket.h>
#include <linux/errno.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::tcp {

namespace {

Result<void> waited(WaitOutcome outcome, u64 deadline, int on_timeout) {
    if (outcome == WaitOutcome::Interrupted)
        return fail(deadline == no_deadline ? restart_syscall : EINTR);
    if (outcome == WaitOutcome::TimedOut)
        return fail(on_timeout);
    return {};
}

// A TIME-WAIT whose pair a new connection may take (tcp_tw_reuse): timestamps must tell its
// segments from old ones, so a second must have passed.
bool reusable(const TcpStack& tcp, const TimeWait& entry) {
    const u8 mode = tcp.settings.reuse_time_wait;
    if (mode == 0 || !entry.timestamps)
        return false;
    if (mode == 2 && !entry.pair.remote.address.is_loopback())
        return false;
    return tcp.now() - entry.recent_at >= nanoseconds_per_second;
}

Result<Ref<Inode>> make_inode(int family) {
    return make_socket_inode(family == net::family_inet6 ? "TCPv6" : "TCP");
}

} // namespace

Result<Ref<SocketFile>> make_tcp_socket(Ref<NetNamespace> space, int family, u32 flags) {
    TRY(Ref<Inode> inode, make_inode(family));
    TRY(Ref<TcpSocket> file,
        make_ref<TcpSocket>(std::move(inode), flags, family, std::move(space)));
    TRY(file->init());
    return Ref<SocketFile>(std::move(file));
}

TcpSocket::TcpSocket(Ref<Inode> inode, u32 flags, int family, Ref<NetNamespace> space)
    : InetSocketFile(std::move(inode), flags, family, socket_stream, 6, std::move(space)),
      bound_address_(net::IpAddress::any(v6())) {}

Result<void> TcpSocket::init() {
    TRY(Table::get().prepare());
    TRY(Ref<Connection> fresh, make_ref<Connection>(stack()));
    adopt(std::move(fresh));
    options_.send_buffer = connection_->tcp().settings.send_default;
    options_.receive_buffer = connection_->tcp().settings.receive_default;
    return {};
}

void TcpSocket::adopt(Ref<Connection> connection) {
    connection_ = std::move(connection);
    SpinGuard guard(connection_->lock);
    connection_->inode_number = inode_->number();
    connection_->file = this;
}

TcpSocket::~TcpSocket() {
    if (!connection_)
        return;
    Connection& own = *connection_;
    // Without a lock: the last user is gone.
    const bool unread = !reading_.empty();
    reading_.clear();
    const bool hurry = option_on(SO_LINGER) && options_.linger == 0;
    Ref<Listener> served;
    {
        SpinGuard guard(own.lock);
        own.file = nullptr;
        own.buffer().close_block();
        if (own.state() == State::Listen)
            served = own.stop_listening();
        else if (own.state() != State::Closed)
            own.orphan(hurry || (unread && own.readable() != 0));
        own.forget_fast_open();
        if (own.state() == State::Closed)
            stack().tcp_ports.unbind(own);
    }
    if (served)
        served->close();
    net::run_backlog();
    if (option_on(SO_LINGER) && options_.linger > 0)
        linger();
}

// close(2) waits until what was sent has arrived, or until its patience is over.
void TcpSocket::linger() {
    Connection& own = *connection_;
    const auto over = [&] {
        const State state = own.state();
        return state != State::FinWait1 && state != State::Closing && state != State::LastAck;
    };
    // At a process's end there is nobody whose patience that would be (socket(7), SO_LINGER).
    if (arch::current() == nullptr || current_task().exiting)
        return;
    (void)wait_until(own.writers, over,
                     monotonic_ns() + static_cast<u64>(options_.linger) * nanoseconds_per_second);
}

// --- addresses

Result<void> TcpSocket::bind_port(const net::Endpoint& where) {
    Connection& own = *connection_;
    own.local = where.address;
    own.v6 = v6();
    own.v6_only = ip_.on(net::ip6_v6_only);
    own.interface = where.scope != 0 ? where.scope : ip_.bound_interface;
    own.reuse_address = option_on(SO_REUSEADDR);
    own.reuse_port = option_on(SO_REUSEPORT);
    own.uid = current_socket_credentials().uid;
    net::PortTable::Range range = stack().settings.local_ports;
    if (ip_.port_range_first != 0)
        range.first = ip_.port_range_first;
    if (ip_.port_range_last != 0)
        range.last = ip_.port_range_last;
    return stack().tcp_ports.bind(own, where.port, range, false);
}

Result<void> TcpSocket::bind(const SocketAddress& address) {
    TRY(const net::Endpoint where, parse_bind(address));
    TRY(check_bind(where));
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    if (own.port != 0 || own.state() != State::Closed)
        return fail(EINVAL);
    if (where.port == 0 && ip_.on(net::ip_bind_no_port)) {
        own.local = bound_address_ = where.address; // connect(2) chooses the port
        return {};
    }
    TRY(bind_port(where));
    bound_address_ = where.address;
    own.port_kept = where.port != 0; // one that was chosen for it goes with the connection
    own.pair.local = {where.address, own.port, where.scope};
    return {};
}

Result<void> TcpSocket::local_address(SocketAddress& out) {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    net::Endpoint shown = own.pair.local;
    if (own.port == 0 && own.state() == State::Closed && progress_ == Progress::Unconnected) {
        shown = {net::IpAddress::any(v6()), 0, 0};
    } else if (own.state() == State::Listen || progress_ == Progress::Unconnected) {
        shown = {own.local, own.port, 0};
    }
    net::write_address(shown, family(), out);
    return {};
}

Result<void> TcpSocket::peer_address(SocketAddress& out) {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    if (own.state() == State::Closed || own.state() == State::Listen ||
        own.state() == State::SynSent)
        return fail(ENOTCONN);
    net::write_address(own.pair.remote, family(), out);
    return {};
}

Result<void> TcpSocket::accepted_address(SocketAddress& out) {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    net::write_address(own.pair.remote, family(), out);
    return {};
}

// --- connecting

Result<void> TcpSocket::connect(const SocketAddress& address) {
    Connection& own = *connection_;
    if (address.length < sizeof(u16))
        return fail(EINVAL);
    if (address.family() == family_unspecified) {
        disconnect();
        return {};
    }
    TRY(net::Endpoint to, net::parse_address(address, family()));
    switch (progress_) {
    case Progress::Connected:
        return fail(EISCONN);
    case Progress::Connecting:
        if (own.fast_open_waiting)
            return fail(EISCONN);
        if (own.state() == State::SynSent || own.state() == State::SynReceived) {
            if (non_blocking())
                return fail(EALREADY);
        }
        return finish_connect(EALREADY);
    case Progress::Unconnected:
        break;
    }
    if (own.state() != State::Closed)
        return fail(EISCONN);
    if (to.address.is_any())
        to.address = net::IpAddress::loopback(to.address.is_v6());
    if (to.address.is_multicast() || to.address.is_limited_broadcast())
        return fail(ENETUNREACH);
    if (to.address.is_v4() && v6() && ip_.on(net::ip6_v6_only))
        return fail(ENETUNREACH);
    const bool deferred = own.options.fast_open_connect && (own.tcp().settings.fast_open & 1) != 0;
    TRY(start_connect(to, deferred));
    if (own.fast_open_waiting)
        return {};
    net::run_backlog();
    // Even if the answer is here by now: Linux tells of it by poll(2) and the next call.
    if (non_blocking())
        return fail(EINPROGRESS);
    return finish_connect(EINPROGRESS);
}

// connect(2) with AF_UNSPEC. Both mutexes for all of it: a reader must not account for bytes, nor a
// sender open with data, of a connection that was reset meanwhile.
void TcpSocket::disconnect() {
    Connection& own = *connection_;
    Ref<Listener> served;
    {
        MutexGuard sending(send_mutex_);
        MutexGuard reading(receive_mutex_);
        reading_.clear();
        reading_offset_ = 0;
        SpinGuard guard(own.lock);
        if (own.state() == State::Listen)
            served = own.stop_listening();
        own.disconnect();
        return_names();
        progress_ = Progress::Unconnected;
    }
    if (served)
        served->close();
    net::run_backlog();
}

Result<void> TcpSocket::start_connect(const net::Endpoint& to, bool deferred) {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    // One that waits for the data of a fast open is Closed still, but in the table.
    if (own.state() != State::Closed || own.fast_open_waiting)
        return fail(EISCONN);
    net::Flow flow;
    fill_flow(flow, to.address, to.scope);
    flow.protocol = 6;
    flow.destination = to.address;
    flow.destination_port = to.port;
    flow.source = own.local.is_any() || own.local.is_v4() != to.address.is_v4()
                      ? net::IpAddress::any(to.address.is_v6())
                      : own.local;
    flow.dont_fragment = true;
    TRY(check_source(flow));
    TRY(net::resolve(stack(), flow));
    if (flow.path.type == net::RouteType::Broadcast || flow.path.type == net::RouteType::Multicast)
        return fail(ENETUNREACH);
    apply_options();
    own.error = own.soft_error = 0;
    Pair pair;
    pair.local = {flow.source, own.port, 0};
    pair.remote = {to.address, to.port, 0};
    if (to.address.is_link_local() && to.address.is_v6())
        pair.remote.scope = to.scope != 0 ? to.scope : flow.path.interface->index();
    if (own.port == 0) {
        TRY(choose_port(pair));
    } else {
        own.pair = pair;
        Ref<Entry> other;
        TRY(enter_table(other));
        own.connected = true;
    }
    flow.source_port = own.pair.local.port;
    own.set_flow(std::move(flow));
    stack().tcp_ports.set_peer(own, own.pair.local.address, to.address, to.port, true);
    progress_ = Progress::Connecting;
    if (deferred) {
        FastOpenCookie cookie;
        u16 mss = 0;
        if (own.options.fast_open_no_cookie ||
            own.tcp().fast_open_cookie(to.address, cookie, mss)) {
            own.fast_open_waiting = true;
            return {};
        }
    }
    return own.open(deferred);
}

// The pair must be nobody's. With `other`, who has it.
Result<void> TcpSocket::enter_table(Ref<Entry>& other) {
    Connection& own = *connection_;
    Table& table = Table::get();
    if (table.insert(own, &other))
        return {};
    if (other->kind != EntryKind::TimeWait)
        return fail(EADDRNOTAVAIL);
    auto& old = static_cast<TimeWait&>(*other);
    if (!reusable(own.tcp(), old))
        return fail(EADDRNOTAVAIL);
    own.take_over(old);
    Counters::count(own.tcp().counters.time_waits_reused);
    own.tcp().end_time_wait(old);
    if (!table.insert(own))
        return fail(EADDRNOTAVAIL);
    return {};
}

// An ephemeral port with which the pair as a whole is new: one that other connections have, too.
Result<void> TcpSocket::choose_port(Pair& pair) {
    Connection& own = *connection_;
    net::PortTable& ports = stack().tcp_ports;
    net::PortTable::Range range = stack().settings.local_ports;
    if (ip_.port_range_first != 0)
        range.first = ip_.port_range_first;
    if (ip_.port_range_last != 0)
        range.last = ip_.port_range_last;
    own.v6 = v6();
    own.v6_only = ip_.on(net::ip6_v6_only);
    own.local = pair.local.address;
    own.interface = ip_.bound_interface;
    own.uid = current_socket_credentials().uid;
    own.reuse_address = own.reuse_port = false;
    own.connected = true;
    // RFC 6056, 3.3.4: a hash of the peer, and a count that moves on.
    static constinit base::Atomic<u32> next{0};
    const u32 base = static_cast<u32>(Secrets::get().port_offset(pair));
    const auto usable = [](void* context, u16 port) {
        const Pair& wanted = *static_cast<const Pair*>(context);
        return !(wanted.remote.port == port && wanted.remote.address == wanted.local.address);
    };
    // Once round the range: those in a row may all be taken by connections to the same peer.
    const u32 count = u32{range.last} - range.first + 1;
    u32 at = (base + next.fetch_add(1, base::Order::Relaxed)) % count;
    for (u32 tried = 0; tried < count;) {
        if (!ports.bind(own, 0, range, false, usable, &pair, at == 0 ? count : at))
            break;
        const u32 found = u32{own.port} - range.first;
        tried += (found + count - at) % count + 1;
        pair.local.port = own.port;
        own.pair = pair;
        Ref<Entry> other;
        if (tried <= count && enter_table(other)) {
            next.fetch_add(tried - 1, base::Order::Relaxed);
            return {};
        }
        ports.unbind(own);
        at = (found + 1) % count;
    }
    own.connected = false;
    own.local = bound_address_;
    return fail(EADDRNOTAVAIL);
}

// There is no connection any more: what connect(2) chose for it goes, and what bind(2) chose is
// nobody's in particular. Locks: the connection's is held.
void TcpSocket::return_names() {
    Connection& own = *connection_;
    net::PortTable& ports = stack().tcp_ports;
    if (!own.port_kept)
        ports.unbind(own);
    ports.set_peer(own, bound_address_, net::IpAddress::any(v6()), 0, false);
}

// Waits for the handshake; `on_timeout` if that is not over when SO_SNDTIMEO is.
Result<void> TcpSocket::finish_connect(int on_timeout) {
    Connection& own = *connection_;
    const auto settled = [&] {
        return own.state() != State::SynSent && own.state() != State::SynReceived;
    };
    if (!settled()) {
        const u64 deadline = send_deadline();
        TRY(waited(wait_until(own.writers, settled, deadline), deadline, on_timeout));
    }
    SpinGuard guard(own.lock);
    if (own.state() == State::Closed) {
        progress_ = Progress::Unconnected;
        const int error = std::exchange(own.error, 0);
        own.reset_for_reuse();
        return_names();
        return fail(error != 0 ? error : ECONNABORTED);
    }
    progress_ = Progress::Connected;
    return {};
}

// --- listening

Result<void> TcpSocket::listen(int backlog) {
    Connection& own = *connection_;
    const u32 most = own.tcp().settings.accept_backlog;
    const u32 wanted = static_cast<u32>(backlog) > most ? most : static_cast<u32>(backlog);
    TRY(Ref<Listener> made, make_ref<Listener>(stack(), connection_));
    SpinGuard guard(own.lock);
    if (own.state() == State::Listen) {
        own.listener->backlog = wanted;
        return {};
    }
    if (own.state() != State::Closed || progress_ != Progress::Unconnected)
        return fail(EINVAL);
    const bool was_bound = own.port != 0;
    if (!was_bound) {
        const net::IpAddress any = net::IpAddress::any(v6());
        TRY(bind_port({any, 0, 0}));
        own.pair.local = {any, own.port, 0};
    }
    own.reuse_port = option_on(SO_REUSEPORT);
    if (auto done = stack().tcp_ports.start_listening(own); !done) {
        if (!was_bound)
            stack().tcp_ports.unbind(own);
        return done;
    }
    apply_options();
    made->options = own.options;
    net::Flow model;
    fill_flow(model, net::IpAddress::any(v6()), 0);
    made->set_model(std::move(model));
    made->backlog = wanted;
    if (own.options.fast_open_backlog == 0 && (own.tcp().settings.fast_open & 0x402) == 0x402)
        made->options.fast_open_backlog = wanted;
    own.become_listener(std::move(made));
    stack().tcp_ports.set_receiving(own, true);
    return {};
}

bool TcpSocket::listening() const {
    return connection_->state() == State::Listen;
}

Result<Ref<SocketFile>> TcpSocket::accept(u32 file_flags, bool non_blocking_call) {
    Connection& own = *connection_;
    const u64 deadline = receive_deadline();
    // The file first: a connection that was taken cannot be put back.
    Ref<Inode> inode;
    for (;;) {
        Ref<Listener> served;
        {
            SpinGuard guard(own.lock);
            if (own.state() != State::Listen)
                return fail(EINVAL);
            served = own.listener;
        }
        if (!inode) {
            TRY(inode, make_inode(family()));
        }
        if (served->has_pending()) {
            TRY(Ref<TcpSocket> file,
                make_ref<TcpSocket>(inode, file_flags, family(), network_namespace()));
            if (Ref<Connection> taken = served->take()) {
                file->adopt(std::move(taken));
                file->options_ = options_;
                file->options_.priority = 0;
                file->zero_copy_ = zero_copy_;
                file->ip_ = ip_;
                file->progress_ = Progress::Connected;
                return Ref<SocketFile>(std::move(file));
            }
        }
        if (non_blocking_call)
            return fail(EAGAIN);
        const auto ready = [&] { return served->has_pending() || own.state() != State::Listen; };
        const auto outcome =
            wait_until(own.readers, ready, deadline, TaskState::Interruptible, true);
        if (outcome != WaitOutcome::Ready && served->has_pending())
            own.readers.wake_one(poll_in | poll_rdnorm); // the wake-up may have been ours alone
        TRY(waited(outcome, deadline, EAGAIN));
    }
}

Result<void> TcpSocket::shutdown(u32 how) {
    Connection& own = *connection_;
    Ref<Listener> served;
    {
        SpinGuard guard(own.lock);
        switch (own.state()) {
        case State::Closed:
            return fail(ENOTCONN);
        case State::Listen:
            if ((how & shut_read) == 0)
                return {};
            served = own.stop_listening();
            if (!own.port_kept)
                stack().tcp_ports.unbind(own);
            break;
        case State::SynSent:
            // Whichever side: the attempt is over (inet_shutdown() of Linux), and the next one must
            // not find what this one's end left shut.
            own.disconnect();
            return_names();
            progress_ = Progress::Unconnected;
            break;
        default:
            if ((how & shut_read) != 0)
                own.shut_read();
            if ((how & shut_write) != 0)
                own.shut_write();
            break;
        }
    }
    if (served)
        served->close();
    net::run_backlog();
    return {};
}

// --- readiness

u32 TcpSocket::poll(PollTable* table) {
    Connection& own = *connection_;
    if (table != nullptr) {
        table->watch(own.readers);
        table->watch(own.writers);
    }
    if (own.state() == State::Listen) {
        SpinGuard guard(own.lock);
        if (own.listener)
            return own.listener->has_pending() ? poll_in | poll_rdnorm : 0;
    }
    const u32 events = own.poll_events();
    return zero_copy_told_ != zero_copy_next_ ? events | poll_err : events;
}

int TcpSocket::take_error() {
    SpinGuard guard(connection_->lock);
    const int error = std::exchange(connection_->error, 0);
    return error != 0 ? error : std::exchange(connection_->soft_error, 0);
}

} // namespace kernel::tcp
