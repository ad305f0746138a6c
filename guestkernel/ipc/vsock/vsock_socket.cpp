// Life of vsock sockets: names, connections, options.
#include "guestkernel/ipc/vsock/vsock_socket.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/virtio_vsock.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/unix_socket.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr unsigned cap_net_bind_service = 10;
constexpr u32 largest_backlog = 4096; // net.core.somaxconn
constexpr u32 all_events =
    poll_in | poll_rdnorm | poll_out | poll_wrnorm | poll_hup | poll_rdhup | poll_err;
// SO_VM_SOCKETS_* (linux/vm_sockets.h does not stand in the kernel: it wants sys/socket.h).
constexpr int option_buffer_size = 0, option_buffer_min = 1, option_buffer_max = 2,
              option_connect_timeout = 6, option_connect_timeout_new = 8;

// struct sockaddr_vm.
struct VmAddress {
    u16 family;
    u16 reserved;
    u32 port;
    u32 cid;
    u8 flags;
    u8 zero[3];
};
static_assert(sizeof(VmAddress) == 16);

Result<VsockAddress> parse_address(const SocketAddress& address) {
    constexpr u8 known_flags = 1; // VMADDR_FLAG_TO_HOST
    VmAddress out;
    if (address.length < sizeof out)
        return fail(EINVAL);
    __builtin_memcpy(&out, address.bytes, sizeof out);
    if (out.family != family_vsock || (out.flags & ~known_flags) != 0)
        return fail(EINVAL);
    return VsockAddress{out.cid, out.port};
}

void show_address(VsockAddress from, SocketAddress& out) {
    const VmAddress address{family_vsock, 0, from.port, from.cid, 0, {}};
    __builtin_memcpy(out.bytes, &address, sizeof address);
    out.length = sizeof address;
}

// The ports are the machine's: who has a network namespace of its own, with all capabilities over
// it, has no others.
bool may_bind_reserved() {
    return capable(cap_net_bind_service);
}

Result<Ref<SocketFile>> make_file(Ref<VsockEndpoint> endpoint, u32 flags) {
    TRY(Ref<Inode> inode, make_socket_inode("AF_VSOCK"));
    const int type = endpoint->is_stream() ? socket_stream : socket_seqpacket;
    TRY(Ref<VsockSocketFile> file,
        make_ref<VsockSocketFile>(std::move(inode), flags, type, std::move(endpoint)));
    return Ref<SocketFile>(std::move(file));
}

Result<Ref<SocketFile>> create(int type, int protocol, u32 flags) {
    if (protocol != 0 && protocol != family_vsock)
        return fail(EPROTONOSUPPORT);
    if (type == socket_datagram)
        return fail(ENODEV); // no transport of ours has datagrams (vsock_assign_transport of Linux)
    if (type != socket_stream && type != socket_seqpacket)
        return fail(ESOCKTNOSUPPORT);
    const u16 packet_type =
        type == socket_stream ? VIRTIO_VSOCK_TYPE_STREAM : VIRTIO_VSOCK_TYPE_SEQPACKET;
    TRY(Ref<VsockEndpoint> endpoint, make_ref<VsockEndpoint>(packet_type));
    return make_file(std::move(endpoint), flags);
}

} // namespace

const SocketFamily vsock_family = {family_vsock, create, nullptr};

VsockSocketFile::VsockSocketFile(Ref<Inode> inode, u32 flags, int type, Ref<VsockEndpoint> endpoint)
    : SocketFile(std::move(inode), flags, family_vsock, type, 0), endpoint_(std::move(endpoint)) {}

VsockSocketFile::~VsockSocketFile() {
    VsockGuard guard;
    close_vsock(*endpoint_);
    doom(*endpoint_.leak());
}

Result<void> VsockSocketFile::bind(const SocketAddress& address) {
    TRY(const VsockAddress wanted, parse_address(address));
    const bool privileged = may_bind_reserved();
    VsockGuard guard;
    return bind_vsock(*endpoint_, wanted, privileged);
}

Result<void> VsockSocketFile::listen(int backlog) {
    VsockGuard guard;
    VsockEndpoint& own = *endpoint_;
    const bool idle =
        (own.state == VsockState::Unconnected && !own.disconnecting && !own.connected_once) ||
        own.state == VsockState::Listening;
    if (!idle || !own.bound)
        return fail(EINVAL);
    // A connection keeps its place until somebody accepts it, even if its other end is long gone.
    const u32 wanted = static_cast<u32>(backlog);
    own.backlog = wanted > largest_backlog ? largest_backlog : wanted;
    own.state = VsockState::Listening;
    return {};
}

Result<void> VsockSocketFile::begin_connecting(VsockAddress to) {
    VsockEndpoint& own = *endpoint_;
    const VsockTransport transport = vsock_transport_to(to.cid);
    if (transport == VsockTransport::None)
        return fail(ENODEV);
    if (!own.bound) {
        TRY(bind_vsock(own, {}, false));
    }
    own.transport = transport;
    own.remote = to;
    own.error = 0; // of an earlier attempt
    own.arrived = own.forwarded = own.told_forwarded = own.sent = 0;
    own.peer_buffer = 0;
    own.peer_forwarded = 0;
    if (find_vsock_connection(transport, own.local, to) != nullptr) {
        own.transport = VsockTransport::None;
        return fail(EADDRINUSE);
    }
    own.state = VsockState::Connecting;
    enter_vsock_connection(own);
    own.say(say_request);
    if (non_blocking())
        set_vsock_deadline(own, monotonic_ns() + own.connect_timeout_ns);
    return {};
}

Result<void> VsockSocketFile::wait_until_connected() {
    VsockEndpoint& own = *endpoint_;
    const auto settled = [&] { return own.state != VsockState::Connecting; };
    const WaitOutcome outcome =
        wait_until(own.waiters, settled, monotonic_ns() + own.connect_timeout_ns);
    VsockGuard guard;
    if (own.state == VsockState::Connecting) {
        const int code = outcome == WaitOutcome::Interrupted ? EINTR : ETIMEDOUT;
        own.fail_connecting(0);
        return fail(code);
    }
    if (own.state == VsockState::Unconnected)
        return fail(own.error != 0 ? own.error : ECONNRESET);
    return {};
}

Result<void> VsockSocketFile::connect(const SocketAddress& address) {
    const auto to = parse_address(address);
    VsockEndpoint& own = *endpoint_;
    {
        VsockGuard guard;
        if (own.disconnecting)
            return fail(EINVAL);
        switch (own.state) {
        case VsockState::Connected:
        case VsockState::Closing:
            return fail(EISCONN);
        case VsockState::Listening:
            return fail(EINVAL);
        case VsockState::Connecting:
            if (non_blocking())
                return fail(EALREADY);
            break;
        case VsockState::Unconnected:
            if (!to)
                return fail(to.error().code);
            TRY(begin_connecting(*to));
            if (non_blocking())
                return fail(EINPROGRESS);
        }
    }
    return wait_until_connected();
}

Result<Ref<SocketFile>> VsockSocketFile::accept(u32 file_flags, bool non_blocking_call) {
    VsockEndpoint& own = *endpoint_;
    const u64 deadline = receive_deadline();
    for (;;) {
        Ref<VsockEndpoint> taken;
        {
            VsockGuard guard;
            if (own.state != VsockState::Listening)
                return fail(EINVAL);
            if (VsockEndpoint* first = own.first_pending) {
                own.first_pending = first->next_pending;
                if (own.first_pending == nullptr)
                    own.last_pending = nullptr;
                own.pending = own.pending - 1;
                first->listener = nullptr;
                taken = Ref<VsockEndpoint>::adopt(first);
            }
        }
        if (taken) {
            auto file = make_file(taken, file_flags);
            if (!file) {
                VsockGuard guard;
                close_vsock(*taken);
            }
            return file;
        }
        if (non_blocking_call)
            return fail(EAGAIN);
        const auto ready = [&] { return own.pending != 0; };
        const auto outcome =
            wait_until(own.waiters, ready, deadline, TaskState::Interruptible, true);
        if (outcome != WaitOutcome::Ready && own.pending != 0)
            own.wake(poll_in | poll_rdnorm); // the wake-up may have been ours alone
        TRY(waited(outcome, deadline));
    }
}

Result<void> VsockSocketFile::shutdown(u32 how) {
    static_assert(shut_read == vsock_shut_receive && shut_write == vsock_shut_send);
    VsockGuard guard;
    VsockEndpoint& own = *endpoint_;
    if (!own.connected_once && own.state != VsockState::Connecting)
        return fail(ENOTCONN);
    own.disconnecting = true;
    own.shutdown = own.shutdown | how;
    own.wake(all_events);
    if (own.state == VsockState::Connected && !own.done)
        own.say(say_shutdown);
    return {};
}

Result<void> VsockSocketFile::local_address(SocketAddress& out) {
    VsockGuard guard;
    show_address(endpoint_->local, out);
    return {};
}

Result<void> VsockSocketFile::peer_address(SocketAddress& out) {
    VsockGuard guard;
    if (!endpoint_->connected_once || endpoint_->disconnecting)
        return fail(ENOTCONN);
    show_address(endpoint_->remote, out);
    return {};
}

int VsockSocketFile::take_error() {
    VsockGuard guard;
    const int code = endpoint_->error;
    endpoint_->error = 0;
    return code;
}

u32 VsockSocketFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(endpoint_->waiters);
    VsockGuard guard;
    // One that could never be reached would make a poller wait for ever.
    const u32 most = endpoint_->buffer / 2 == 0 ? 1 : endpoint_->buffer / 2;
    return endpoint_->poll_events(options_.receive_low_water < most ? options_.receive_low_water
                                                                    : most);
}

Result<long> VsockSocketFile::ioctl(u32 command, u64 argument) {
    constexpr u32 siocinq = 0x541b, siocoutq = 0x5411; // FIONREAD, TIOCOUTQ
    if (command != siocinq && command != siocoutq)
        return fail(ENOTTY);
    u32 bytes = 0;
    {
        VsockGuard guard;
        VsockEndpoint& own = *endpoint_;
        if (own.state == VsockState::Listening)
            return fail(EINVAL);
        bytes = command == siocinq ? own.received_bytes : own.sent - own.peer_forwarded;
    }
    TRY(UserPtr<int>(argument).copy_out(static_cast<int>(bytes)));
    return 0;
}

// --- options

namespace {

struct MicroTime { // struct timeval
    i64 seconds, microseconds;
};

template <typename T>
Result<T> whole_value(std::span<const u8> value) {
    T out{};
    if (value.size() < sizeof out)
        return fail(EINVAL);
    __builtin_memcpy(&out, value.data(), sizeof out);
    return out;
}

template <typename T>
Result<usize> show_value(std::span<u8> out, const T& value) {
    if (out.size() < sizeof value)
        return fail(EINVAL);
    __builtin_memcpy(out.data(), &value, sizeof value);
    return sizeof value;
}

void set_buffer_size(VsockEndpoint& endpoint, u64 wanted) {
    const u64 most = wanted < endpoint.buffer_max ? wanted : endpoint.buffer_max;
    endpoint.buffer_size = most > endpoint.buffer_min ? most : endpoint.buffer_min;
    endpoint.set_buffer(endpoint.buffer_size);
}

} // namespace

Result<void> VsockSocketFile::set_option(int level, int name, std::span<const u8> value) {
    if (level != family_vsock)
        return fail(ENOPROTOOPT);
    VsockEndpoint& own = *endpoint_;
    if (name == option_connect_timeout || name == option_connect_timeout_new) {
        TRY(const MicroTime time, whole_value<MicroTime>(value));
        constexpr i64 longest = i64{1} << 32;
        if (time.seconds < 0 || time.seconds > longest || time.microseconds < 0 ||
            time.microseconds >= 1'000'000)
            return fail(ERANGE);
        const u64 ns = static_cast<u64>(time.seconds) * nanoseconds_per_second +
                       static_cast<u64>(time.microseconds) * 1000;
        constexpr u64 default_ns = 2 * nanoseconds_per_second;
        VsockGuard guard;
        own.connect_timeout_ns = ns == 0 ? default_ns : ns;
        return {};
    }
    if (name != option_buffer_size && name != option_buffer_min && name != option_buffer_max)
        return fail(ENOPROTOOPT);
    TRY(const u64 bytes, whole_value<u64>(value));
    VsockGuard guard;
    if (name == option_buffer_min)
        own.buffer_min = bytes;
    if (name == option_buffer_max)
        own.buffer_max = bytes;
    set_buffer_size(own, name == option_buffer_size ? bytes : own.buffer_size);
    return {};
}

Result<usize> VsockSocketFile::get_option(int level, int name, std::span<u8> out) {
    if (level != family_vsock)
        return fail(ENOPROTOOPT);
    VsockGuard guard;
    const VsockEndpoint& own = *endpoint_;
    switch (name) {
    case option_buffer_size:
        return show_value(out, own.buffer_size);
    case option_buffer_min:
        return show_value(out, own.buffer_min);
    case option_buffer_max:
        return show_value(out, own.buffer_max);
    case option_connect_timeout:
    case option_connect_timeout_new:
        return show_value(
            out,
            MicroTime{static_cast<i64>(own.connect_timeout_ns / nanoseconds_per_second),
                      static_cast<i64>(own.connect_timeout_ns % nanoseconds_per_second / 1000)});
    default:
        return fail(ENOPROTOOPT);
    }
}

} // namespace kernel
