#include "guestkernel/ipc/socket.hpp"

#include <asm/socket.h>
#include <linux/errno.h>
#include <linux/fcntl.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

constinit base::Atomic<u32> most_receive_buffer{default_socket_buffer};
constinit base::Atomic<u32> most_send_buffer{default_socket_buffer};

namespace {

constexpr unsigned cap_net_admin = 12;
constexpr u32 least_send_buffer = 4608, least_receive_buffer = 2304;

// Boolean options that are kept and shown, whether or not the family makes use of them.
constexpr int boolean_options[] = {SO_DEBUG,     SO_REUSEADDR, SO_DONTROUTE,   SO_BROADCAST,
                                   SO_KEEPALIVE, SO_OOBINLINE, SO_REUSEPORT,   SO_PASSCRED,
                                   SO_PASSSEC,   SO_NOFCS,     SO_WIFI_STATUS, SO_SELECT_ERR_QUEUE};

bool is_boolean(int name) {
    for (const int known : boolean_options)
        if (known == name)
            return true;
    return false;
}

Result<int> int_value(std::span<const u8> value) {
    int out = 0;
    if (value.size() < sizeof out)
        return fail(EINVAL);
    __builtin_memcpy(&out, value.data(), sizeof out);
    return out;
}

template <typename T>
usize put_value(std::span<u8> out, const T& value) {
    const usize bytes = out.size() < sizeof value ? out.size() : sizeof value;
    __builtin_memcpy(out.data(), &value, bytes);
    return bytes;
}

struct MicroTime { // struct timeval
    i64 seconds, microseconds;
};

Result<u64> timeout_value(std::span<const u8> value) {
    MicroTime time{};
    if (value.size() < sizeof time)
        return fail(EINVAL);
    __builtin_memcpy(&time, value.data(), sizeof time);
    if (time.microseconds < 0 || time.microseconds >= 1'000'000)
        return fail(EDOM);
    constexpr i64 longest = i64{1} << 32; // beyond a century: none
    if (time.seconds < 0)
        return u64{1}; // already over (socket(7) of Linux)
    if (time.seconds > longest)
        return u64{0};
    return static_cast<u64>(time.seconds) * nanoseconds_per_second +
           static_cast<u64>(time.microseconds) * 1000;
}

MicroTime timeout_shown(u64 ns) {
    return {static_cast<i64>(ns / nanoseconds_per_second),
            static_cast<i64>(ns % nanoseconds_per_second / 1000)};
}

// What is asked for is doubled for the kernel's own needs (socket(7)).
u32 buffer_value(int wanted, u32 least, bool forced, const base::Atomic<u32>& most) {
    constexpr u32 doubled = 0x3fff'ffff;
    u32 size = static_cast<u32>(wanted), limit = doubled;
    if (!forced && most.load(base::Order::Relaxed) < doubled)
        limit = most.load(base::Order::Relaxed);
    size = (size > limit ? limit : size) * 2;
    return size < least ? least : size;
}

constexpr usize most_families = 8;
constinit const SocketFamily* families[most_families] = {&unix_family};

} // namespace

SocketCredentials current_socket_credentials() {
    Task& task = current_task();
    SocketCredentials out;
    if (task.process == nullptr)
        return {0, 0, 0};
    out.pid = task.process->pid;
    out.uid = task.credentials->euid;
    out.gid = task.credentials->egid;
    return out;
}

SocketCredentials visible_credentials(SocketCredentials global) {
    const UserNamespace* reader = current_task().credentials->user_ns.get();
    global.pid = visible_pid(global.pid);
    if (global.uid != invalid_id)
        global.uid = from_global_id(reader, false, global.uid);
    if (global.gid != invalid_id)
        global.gid = from_global_id(reader, true, global.gid);
    return global;
}

SocketFile::SocketFile(Ref<Inode> inode, u32 flags, int family, int type, int protocol)
    : File(Path(), std::move(inode), O_RDWR | flags), family_(family), type_(type),
      protocol_(protocol) {}

bool SocketFile::describe(String& out) {
    char text[32];
    const usize length = log::format(text, sizeof text, "socket:[{}]", inode_->number());
    return out.append(std::string_view(text, length)).has_value();
}

Result<usize> SocketFile::read(IoBuffer& out, u64) {
    if (out.remaining() == 0)
        return usize{0};
    ReceiveRequest request;
    return receive(out, request);
}

Result<usize> SocketFile::write(IoBuffer& in, u64) {
    SendRequest request;
    return send(in, request);
}

void ReceiveRequest::add_control(int level, int type, const void* data, u32 bytes) {
    const ControlHeader header{sizeof header + bytes, level, type};
    const u64 step = control_aligned(header.length);
    if (!wants_control || step > control_capacity - control_length)
        return;
    u8* at = control + control_length;
    __builtin_memset(at, 0, step);
    __builtin_memcpy(at, &header, sizeof header);
    __builtin_memcpy(at + sizeof header, data, bytes);
    control_length += static_cast<u32>(step);
}

void ReceiveRequest::add_timestamp(u64 realtime_ns, bool nanoseconds) {
    const u64 rest = realtime_ns % nanoseconds_per_second;
    const u64 value[2] = {realtime_ns / nanoseconds_per_second, nanoseconds ? rest : rest / 1000};
    add_control(SOL_SOCKET, nanoseconds ? SO_TIMESTAMPNS_OLD : SO_TIMESTAMP_OLD, value,
                sizeof value);
}

Result<void> SocketFile::bind(const SocketAddress&) {
    return fail(EOPNOTSUPP);
}
Result<void> SocketFile::connect(const SocketAddress&) {
    return fail(EOPNOTSUPP);
}
Result<void> SocketFile::listen(int) {
    return fail(EOPNOTSUPP);
}
Result<Ref<SocketFile>> SocketFile::accept(u32, bool) {
    return fail(EOPNOTSUPP);
}
Result<void> SocketFile::shutdown(u32) {
    return fail(EOPNOTSUPP);
}
Result<void> SocketFile::local_address(SocketAddress&) {
    return fail(EOPNOTSUPP);
}
Result<void> SocketFile::peer_address(SocketAddress&) {
    return fail(EOPNOTSUPP);
}
Result<usize> SocketFile::send(IoBuffer&, SendRequest&) {
    return fail(EOPNOTSUPP);
}
Result<usize> SocketFile::receive(IoBuffer&, ReceiveRequest&) {
    return fail(EOPNOTSUPP);
}
Result<Ref<const Credentials>> SocketFile::peer_identity() {
    return fail(ENODATA);
}
Result<Ref<File>> SocketFile::peer_pidfd() {
    return fail(ENODATA);
}
Result<void> SocketFile::set_option(int, int, std::span<const u8>) {
    return fail(ENOPROTOOPT);
}
Result<usize> SocketFile::get_option(int, int, std::span<u8>) {
    return fail(ENOPROTOOPT);
}

// What of its sender a message of this family does not say cannot be asked for.
Result<void> SocketFile::check_passing(int name) const {
    if (((name == SO_PASSCRED || name == SO_PASSSEC) && !passes_credentials()) ||
        (name == option_pass_pidfd && family_ != family_unix))
        return fail(EOPNOTSUPP);
    return {};
}

Result<void> SocketFile::set_socket_option(int level, int name, std::span<const u8> value) {
    // The name of an interface is no number; the family knows.
    if (level != SOL_SOCKET || name == SO_BINDTODEVICE)
        return set_option(level, name, value);
    TRY(const int number, int_value(value));
    TRY(check_passing(name));
    if (is_boolean(name)) {
        const u64 bit = socket_option_bit(name);
        options_.flags = number != 0 ? options_.flags | bit : options_.flags & ~bit;
        socket_option_changed();
        return {};
    }
    switch (name) {
    case SO_SNDBUFFORCE:
    case SO_RCVBUFFORCE:
        if (!capable_over(network_owner(), cap_net_admin))
            return fail(EPERM);
        [[fallthrough]];
    case SO_SNDBUF:
    case SO_RCVBUF: {
        const bool forced = name == SO_SNDBUFFORCE || name == SO_RCVBUFFORCE;
        const bool sending = name == SO_SNDBUF || name == SO_SNDBUFFORCE;
        if (sending)
            options_.send_buffer =
                buffer_value(number, least_send_buffer, forced, most_send_buffer);
        else
            options_.receive_buffer =
                buffer_value(number, least_receive_buffer, forced, most_receive_buffer);
        options_.buffer_lock |=
            sending ? SocketOptions::lock_send_buffer : SocketOptions::lock_receive_buffer;
        buffers_changed();
        return {};
    }
    case SO_RCVTIMEO: {
        TRY(options_.receive_timeout_ns, timeout_value(value));
        return {};
    }
    case SO_SNDTIMEO: {
        TRY(options_.send_timeout_ns, timeout_value(value));
        return {};
    }
    case SO_RCVLOWAT:
        options_.receive_low_water = number < 0    ? 0x7fff'ffffu
                                     : number == 0 ? 1u
                                                   : static_cast<u32>(number);
        socket_option_changed();
        return {};
    case SO_LINGER: {
        int linger[2] = {};
        if (value.size() < sizeof linger)
            return fail(EINVAL);
        __builtin_memcpy(linger, value.data(), sizeof linger);
        constexpr u64 bit = socket_option_bit(SO_LINGER);
        options_.flags = linger[0] != 0 ? options_.flags | bit : options_.flags & ~bit;
        options_.linger = linger[1];
        return {};
    }
    case SO_PRIORITY:
        if ((number < 0 || number > 6) && !capable_over(network_owner(), cap_net_admin))
            return fail(EPERM);
        options_.priority = number;
        return {};
    default:
        return set_rare_option(name, number, value);
    }
}

Result<usize> SocketFile::get_socket_option(int level, int name, std::span<u8> out) {
    if (level != SOL_SOCKET)
        return get_option(level, name, out);
    TRY(check_passing(name));
    if (is_boolean(name))
        return put_value(out, static_cast<int>(option_on(name)));
    switch (name) {
    case SO_TYPE:
        return put_value(out, type_);
    case SO_DOMAIN:
        return put_value(out, family());
    case SO_PROTOCOL:
        return put_value(out, protocol_);
    case SO_ERROR:
        return put_value(out, take_error());
    case SO_ACCEPTCONN:
        return put_value(out, static_cast<int>(listening()));
    case SO_SNDBUF:
        return put_value(out, options_.send_buffer);
    case SO_RCVBUF:
        return put_value(out, options_.receive_buffer);
    case SO_RCVLOWAT:
        return put_value(out, options_.receive_low_water);
    case SO_SNDLOWAT:
        return put_value(out, 1);
    case SO_RCVTIMEO:
        return put_value(out, timeout_shown(options_.receive_timeout_ns));
    case SO_SNDTIMEO:
        return put_value(out, timeout_shown(options_.send_timeout_ns));
    case SO_LINGER: {
        const int linger[2] = {option_on(SO_LINGER) ? 1 : 0, options_.linger};
        return put_value(out, linger);
    }
    case SO_PRIORITY:
        return put_value(out, options_.priority);
    case SO_PEERCRED:
        return put_value(out, visible_credentials(peer_credentials()));
    case SO_COOKIE: // unique while the system runs, and tells no address
        if (out.size() < sizeof(u64))
            return fail(EINVAL);
        return put_value(out, hash_mix(inode_->number()));
    default:
        return get_rare_option(name, out);
    }
}

void register_socket_family(const SocketFamily& family) {
    for (const SocketFamily*& slot : families) {
        if (slot == nullptr) {
            slot = &family;
            return;
        }
    }
    PANIC("too many socket families");
}

const SocketFamily* find_socket_family(int number) {
    for (const SocketFamily* family : families)
        if (family != nullptr && family->number == number)
            return family;
    return nullptr;
}

} // namespace kernel
