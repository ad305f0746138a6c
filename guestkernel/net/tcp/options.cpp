// Options of level IPPROTO_TCP, those of SOL_SOCKET that concern a connection, and ioctls: tcp(7).
#include <asm/socket.h>
#include <linux/errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>

#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/socket.hpp"
#include "guestkernel/net/tcp/tcp_info.hpp"

namespace kernel::tcp {

namespace {

constexpr int level_tcp = 6; // IPPROTO_TCP
constexpr usize longest_algorithm_name = 16;
constexpr int longest_keepalive = 32767, most_keepalive_probes = 127, most_syn_retries = 127;

Result<int> number_of(std::span<const u8> value) {
    int out = 0;
    if (value.size() < sizeof out)
        return fail(EINVAL);
    __builtin_memcpy(&out, value.data(), sizeof out);
    return out;
}

usize put(std::span<u8> out, const void* from, usize bytes) {
    const usize length = out.size() < bytes ? out.size() : bytes;
    __builtin_memcpy(out.data(), from, length);
    return length;
}

usize put_number(std::span<u8> out, i64 number) {
    const int value = static_cast<int>(number);
    return put(out, &value, sizeof value);
}

// TCP_DEFER_ACCEPT is given in seconds and kept as retransmissions, as Linux does.
u8 retransmissions_for(int seconds) {
    u8 count = 0;
    int period = 1, total = 0;
    if (seconds <= 0)
        return 0;
    for (total = period, count = 1; seconds > total && count < 255; count++) {
        period = period * 2 < 120 ? period * 2 : 120;
        total += period;
    }
    return count;
}

int seconds_for(u8 retransmissions) {
    int period = 1, total = 0;
    if (retransmissions == 0)
        return 0;
    total = period;
    for (u8 i = 1; i < retransmissions; i++) {
        period = period * 2 < 120 ? period * 2 : 120;
        total += period;
    }
    return total;
}

} // namespace

// --- setting

Result<void> TcpSocket::set_chooser(Ref<net::SocketFilter> chooser) {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    return stack().tcp_ports.set_chooser(own, std::move(chooser));
}

Result<void> TcpSocket::set_option(int level, int name, std::span<const u8> value) {
    if (level == level_tcp)
        return set_tcp_option(name, value);
    if (level == SOL_SOCKET && name == SO_ATTACH_REUSEPORT_CBPF) {
        if (options_.filter_locked)
            return fail(EPERM);
        TRY(Ref<net::SocketFilter> chooser, net::SocketFilter::of_user(value));
        return set_chooser(std::move(chooser));
    }
    if (level == SOL_SOCKET && name == SO_DETACH_REUSEPORT_BPF)
        return set_chooser({});
    if (level == SOL_SOCKET && name == SO_ZEROCOPY) {
        TRY(const int on, number_of(value));
        if (on < 0 || on > 1)
            return fail(EINVAL);
        zero_copy_ = on != 0;
        return {};
    }
    return InetSocketFile::set_option(level, name, value);
}

Result<void> TcpSocket::set_tcp_option(int name, std::span<const u8> value) {
    if (name == TCP_CONGESTION) {
        char text[longest_algorithm_name] = {};
        if (value.empty())
            return fail(EINVAL);
        usize length = 0;
        while (length < value.size() && length < sizeof text - 1 && value[length] != 0) {
            text[length] = static_cast<char>(value[length]);
            length++;
        }
        Algorithm algorithm{};
        if (!find_algorithm({text, length}, algorithm))
            return fail(ENOENT);
        {
            SpinGuard guard(connection_->lock);
            connection_->options.algorithm = algorithm;
            connection_->set_algorithm(algorithm);
        }
        pass_to_listener();
        return {};
    }
    if (name == TCP_ULP) // there is none to be found
        return fail(value.empty() ? EINVAL : ENOENT);
    if (name == TCP_FASTOPEN_KEY)
        return fail(EINVAL);
    TRY(const int number, number_of(value));
    {
        SpinGuard guard(connection_->lock);
        TRY(set_number(name, number));
    }
    pass_to_listener();
    if (net::backlog_pending())
        net::run_backlog();
    return {};
}

// Connections to come are as their listener is when they come.
void TcpSocket::pass_to_listener() {
    if (connection_->state() != State::Listen)
        return;
    Ref<Listener> served;
    ConnectionOptions changed;
    {
        SpinGuard guard(connection_->lock);
        served = connection_->listener;
        changed = connection_->options;
    }
    if (!served)
        return;
    net::Flow model;
    fill_flow(model, net::IpAddress::any(v6()), 0);
    SpinGuard guard(served->lock);
    if (changed.fast_open_backlog == 0) // what the namespace gave it by itself
        changed.fast_open_backlog = served->options.fast_open_backlog;
    served->options = changed;
    served->set_model(std::move(model));
}

Result<void> TcpSocket::set_number(int name, int value) {
    Connection& own = *connection_;
    ConnectionOptions& options = own.options;
    const bool on = value != 0;
    switch (name) {
    case TCP_NODELAY:
        options.no_delay = on;
        if (on)
            own.push_output(true);
        return {};
    case TCP_CORK:
        options.cork = on;
        if (!on)
            own.push_output(true);
        return {};
    case TCP_MAXSEG:
        // Linux: TCP_MIN_MSS to MAX_TCP_WINDOW.
        if (value != 0 && (value < 88 || value > 32767))
            return fail(EINVAL);
        options.max_segment = static_cast<u32>(value);
        return {};
    case TCP_KEEPIDLE:
    case TCP_KEEPINTVL:
        if (value < 1 || value > longest_keepalive)
            return fail(EINVAL);
        (name == TCP_KEEPIDLE ? options.keepalive_idle_s : options.keepalive_interval_s) =
            static_cast<u32>(value);
        if (name == TCP_KEEPIDLE)
            own.keepalive_changed();
        return {};
    case TCP_KEEPCNT:
        if (value < 1 || value > most_keepalive_probes)
            return fail(EINVAL);
        options.keepalive_probes = static_cast<u8>(value);
        return {};
    case TCP_SYNCNT:
        if (value < 1 || value > most_syn_retries)
            return fail(EINVAL);
        options.syn_retries = static_cast<u8>(value);
        return {};
    case TCP_LINGER2:
        options.fin_wait_s = value < 0 ? -1 : value > 120 ? 0 : value;
        return {};
    case TCP_DEFER_ACCEPT:
        options.defer_accept_retries = retransmissions_for(value);
        return {};
    case TCP_WINDOW_CLAMP:
        if (value == 0 && own.state() != State::Closed)
            return fail(EINVAL);
        options.window_clamp = value == 0                       ? 0
                               : static_cast<u32>(value) < 1152 ? 1152 // SOCK_MIN_RCVBUF / 2
                                                                : static_cast<u32>(value);
        return {};
    case TCP_QUICKACK:
        own.set_quick_ack(on);
        return {};
    case TCP_USER_TIMEOUT:
        if (value < 0)
            return fail(EINVAL);
        options.user_timeout_ms = static_cast<u32>(value);
        return {};
    case TCP_NOTSENT_LOWAT:
        options.unsent_low_water = static_cast<u32>(value);
        own.buffers_changed();
        return {};
    case TCP_THIN_LINEAR_TIMEOUTS:
    case TCP_THIN_DUPACK:
    case TCP_INQ:
        if (value < 0 || value > 1)
            return fail(EINVAL);
        if (name == TCP_INQ)
            tell_readable_ = on;
        else if (name == TCP_THIN_LINEAR_TIMEOUTS)
            options.thin_linear = on;
        return {};
    case TCP_FASTOPEN:
    case TCP_FASTOPEN_CONNECT:
    case TCP_FASTOPEN_NO_COOKIE:
        return set_fast_open(name, value);
    case TCP_SAVE_SYN:
        if (value < 0 || value > 2)
            return fail(EINVAL);
        options.save_syn = static_cast<u8>(value);
        return {};
    case TCP_TX_DELAY:
        // Kept, as on Linux, whose queues heed it where they are of the kind that can (fq).
        if (value < 0 || value >= 1 << 28)
            return fail(EINVAL);
        options.send_delay_us = static_cast<u32>(value);
        return {};
    case TCP_REPAIR: // checkpoints of connections are not offered
    case TCP_REPAIR_QUEUE:
    case TCP_REPAIR_WINDOW:
    case TCP_TIMESTAMP:
        return fail(EPERM);
    case TCP_QUEUE_SEQ:
        return fail(own.state() == State::Closed ? EINVAL : EPERM);
    case TCP_REPAIR_OPTIONS:
        return fail(EINVAL);
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<void> TcpSocket::set_fast_open(int name, int value) {
    Connection& own = *connection_;
    const bool closed = own.state() == State::Closed;
    if (name == TCP_FASTOPEN) {
        if (value < 0 || !(closed || own.state() == State::Listen))
            return fail(EINVAL);
        const u32 most = own.tcp().settings.accept_backlog;
        own.options.fast_open_backlog =
            static_cast<u32>(value) < most ? static_cast<u32>(value) : most;
        return {};
    }
    if (value < 0 || value > 1 || !(closed || own.state() == State::Listen))
        return fail(EINVAL);
    if (name == TCP_FASTOPEN_CONNECT) {
        if ((own.tcp().settings.fast_open & 1) == 0)
            return fail(EOPNOTSUPP);
        own.options.fast_open_connect = value != 0;
    } else {
        own.options.fast_open_no_cookie = value != 0;
    }
    return {};
}

// --- asking

Result<usize> TcpSocket::get_option(int level, int name, std::span<u8> out) {
    if (level == level_tcp)
        return get_tcp_option(name, out);
    if (level == SOL_SOCKET && name == SO_ZEROCOPY)
        return put_number(out, zero_copy_);
    return InetSocketFile::get_option(level, name, out);
}

// The SYN of a connection that was accepted; told once. A room that is too small changes nothing.
Result<usize> TcpSocket::take_saved_syn(std::span<u8> out) {
    Vector<u8> saved; // freed without the lock
    SpinGuard guard(connection_->lock);
    const usize bytes = connection_->saved_syn.size();
    if (out.size() < bytes)
        return bytes;
    saved = std::move(connection_->saved_syn);
    guard.unlock();
    return put(out, saved.data(), bytes);
}

Result<usize> TcpSocket::get_tcp_option(int name, std::span<u8> out) {
    if (name == TCP_SAVED_SYN)
        return take_saved_syn(out);
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    const ConnectionOptions& options = own.options;
    const Settings& settings = own.tcp().settings;
    const auto either = [](u32 value, u32 fallback) { return value != 0 ? value : fallback; };
    switch (name) {
    case TCP_NODELAY:
        return put_number(out, options.no_delay);
    case TCP_CORK:
        return put_number(out, options.cork);
    case TCP_MAXSEG:
        if (own.state() == State::Closed || own.state() == State::Listen)
            return put_number(out, either(options.max_segment, 536));
        return put_number(out, own.current_mss());
    case TCP_KEEPIDLE:
        return put_number(out, either(options.keepalive_idle_s, settings.keepalive_idle_s));
    case TCP_KEEPINTVL:
        return put_number(out, either(options.keepalive_interval_s, settings.keepalive_interval_s));
    case TCP_KEEPCNT:
        return put_number(out, either(options.keepalive_probes, settings.keepalive_probes));
    case TCP_SYNCNT:
        return put_number(out, either(options.syn_retries, settings.syn_retries));
    case TCP_LINGER2:
        return put_number(out, options.fin_wait_s < 0 ? -1
                                                      : either(static_cast<u32>(options.fin_wait_s),
                                                               settings.fin_timeout_s));
    case TCP_DEFER_ACCEPT:
        return put_number(out, seconds_for(options.defer_accept_retries));
    case TCP_WINDOW_CLAMP:
        return put_number(out, options.window_clamp == 0 && own.state() == State::Closed
                                   ? 0
                                   : either(options.window_clamp, own.receive_limit() / 2));
    case TCP_INFO: {
        struct tcp_info info = {};
        TcpInfo(own).fill(info);
        return put(out, &info, sizeof info);
    }
    case TCP_QUICKACK:
        return put_number(out, own.quick_ack());
    case TCP_CONGESTION: {
        char text[longest_algorithm_name] = {};
        const std::string_view algorithm = algorithm_name(options.algorithm);
        __builtin_memcpy(text, algorithm.data(), algorithm.size());
        return put(out, text, sizeof text);
    }
    case TCP_USER_TIMEOUT:
        return put_number(out, options.user_timeout_ms);
    case TCP_NOTSENT_LOWAT:
        return put_number(out, options.unsent_low_water);
    case TCP_THIN_LINEAR_TIMEOUTS:
        return put_number(out, options.thin_linear);
    case TCP_THIN_DUPACK:
    case TCP_REPAIR:
        return put_number(out, 0);
    case TCP_INQ:
        return put_number(out, tell_readable_);
    case TCP_FASTOPEN:
        return put_number(out, options.fast_open_backlog);
    case TCP_FASTOPEN_CONNECT:
        return put_number(out, options.fast_open_connect);
    case TCP_FASTOPEN_NO_COOKIE:
        return put_number(out, options.fast_open_no_cookie);
    case TCP_SAVE_SYN:
        return put_number(out, options.save_syn);
    case TCP_TX_DELAY:
        return put_number(out, options.send_delay_us);
    case TCP_ULP:          // none
    case TCP_CC_INFO:      // neither CUBIC nor Reno has anything to tell
    case TCP_FASTOPEN_KEY: // its own: none
        return usize{0};
    case TCP_REPAIR_WINDOW: {
        constexpr usize window = 20; // struct tcp_repair_window
        return fail(out.size() == window ? EPERM : EINVAL);
    }
    case TCP_REPAIR_QUEUE:
    case TCP_QUEUE_SEQ:
        return fail(EINVAL);
    case TCP_TIMESTAMP:
        return put_number(out, static_cast<i64>(own.tcp().now() / millisecond));
    default:
        return fail(ENOPROTOOPT);
    }
}

u32 TcpSocket::connected_mtu() {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    const bool connected = own.state() != State::Closed && own.state() != State::Listen;
    return connected ? own.flow.path.mtu : 0;
}

Result<net::IpAddress> TcpSocket::connected_peer() const {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    if (own.state() != State::Established)
        return fail(ENOTCONN);
    return net::IpAddress(own.pair.remote.address);
}

Result<void> TcpSocket::become_v4() {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    if (own.state() != State::Established || !own.pair.remote.address.is_v4()) // not any more
        return fail(ENOTCONN);
    stack().tcp_ports.become_v4(own);
    if (bound_address_.is_any()) // what it goes back to is of IPv4, too
        bound_address_ = net::IpAddress::any(false);
    return {};
}

// --- what SOL_SOCKET has to say

// Takes over what the family-independent part keeps. Locks: the connection's is held.
void TcpSocket::apply_options() {
    Connection& own = *connection_;
    own.options.inline_urgent = option_on(SO_OOBINLINE);
    // More than half of the buffer cannot come together; a buffer that is not fixed grows with it.
    const u32 most = (own.options.receive_buffer_fixed ? own.options.receive_buffer
                                                       : own.tcp().settings.receive_most) /
                     2;
    if (options_.receive_low_water > most)
        options_.receive_low_water = most;
    own.set_low_water(options_.receive_low_water);
    own.least_hop_limit4 = ip_.min_ttl;
    own.least_hop_limit6 = ip_.min_hop_limit;
    own.receives_errors_ = ip_.on(v6() ? net::ip6_receive_error : net::ip_receive_error);
    const bool reuse = option_on(SO_REUSEADDR), reuse_port = option_on(SO_REUSEPORT);
    if (reuse != own.reuse_address || reuse_port != own.reuse_port)
        stack().tcp_ports.set_reuse(own, reuse, reuse_port);
    const bool keepalive = option_on(SO_KEEPALIVE);
    if (keepalive != own.options.keepalive)
        own.set_keepalive(keepalive);
    own.flow.priority = static_cast<u8>(options_.priority);
    own.flow.mark = ip_.mark;
    own.flow.traffic_class = v6() && own.flow.destination.is_v6() ? ip_.traffic_class : ip_.tos;
}

void TcpSocket::option_changed() {
    if (!connection_)
        return;
    {
        SpinGuard guard(connection_->lock);
        apply_options();
    }
    pass_to_listener();
}

void TcpSocket::buffers_changed() {
    Connection& own = *connection_;
    {
        SpinGuard guard(own.lock);
        take_over_buffers();
    }
    pass_to_listener();
}

// Locks: the connection's is held.
void TcpSocket::take_over_buffers() {
    Connection& own = *connection_;
    // Those that are not fixed grow by themselves (SO_BUF_LOCK).
    own.options.send_buffer = options_.send_buffer;
    own.options.send_buffer_fixed = (options_.buffer_lock & SocketOptions::lock_send_buffer) != 0;
    own.options.receive_buffer = options_.receive_buffer;
    own.options.receive_buffer_fixed =
        (options_.buffer_lock & SocketOptions::lock_receive_buffer) != 0;
    own.buffers_changed();
}

void TcpSocket::memory_use(SocketMemory& out) const {
    Connection& own = *connection_;
    SpinGuard guard(own.lock);
    net::SocketRecord record;
    TcpInfo(own).describe(record);
    out.received = record.receive_memory;
    out.receive_buffer = record.receive_buffer;
    out.sent = record.packets_out;
    out.send_buffer = record.send_buffer;
    out.queued = record.send_memory;
}

// --- ioctl(2)

Result<long> TcpSocket::ioctl(u32 command, u64 argument) {
    constexpr u32 siocinq = 0x541b, siocoutq = 0x5411; // FIONREAD, TIOCOUTQ
    Connection& own = *connection_;
    int answer = 0;
    switch (command) {
    case siocinq: {
        SpinGuard guard(own.lock);
        if (own.state() == State::Listen)
            return fail(EINVAL);
        if (own.state() != State::SynSent && own.state() != State::SynReceived)
            answer = static_cast<int>(own.readable_to_mark());
        break;
    }
    case SIOCATMARK: {
        SpinGuard guard(own.lock);
        answer = own.urgent().pending && own.urgent().at == own.copied() ? 1 : 0;
        break;
    }
    case siocoutq:
    case SIOCOUTQNSD: {
        SpinGuard guard(own.lock);
        if (own.state() == State::Listen)
            return fail(EINVAL);
        if (own.state() != State::SynSent && own.state() != State::SynReceived)
            answer = static_cast<int>(command == siocoutq ? own.unacknowledged() : own.unsent());
        break;
    }
    default:
        return InetSocketFile::ioctl(command, argument);
    }
    TRY(UserPtr<int>(argument).copy_out(answer));
    return 0;
}

} // namespace kernel::tcp
