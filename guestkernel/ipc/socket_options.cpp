// Options of SOL_SOCKET that few programs ask for: socket(7) and what it leaves out.
#include <asm/socket.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <linux/time.h>

#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr int longest_budget = 65535;

template <typename T>
usize put_value(std::span<u8> out, const T& value) {
    const usize bytes = out.size() < sizeof value ? out.size() : sizeof value;
    __builtin_memcpy(out.data(), &value, bytes);
    return bytes;
}

// Rules the whole machine.
bool administrates_machine() {
    return capable_over(nullptr, CAP_NET_ADMIN);
}

// No program of bpf(2) is one for sockets here.
Result<void> refuse_program(int fd) {
    TRY(const Ref<File> file, usable_file(current_task(), fd));
    return fail(EINVAL);
}

} // namespace

UserNamespace* SocketFile::network_owner() const {
    const NetNamespace* space = home();
    return space == nullptr ? nullptr : space->owner();
}

const NetNamespace* SocketFile::home() const {
    return current_net_namespace();
}

void SocketFile::memory_use(SocketMemory& out) const {
    out.receive_buffer = options_.receive_buffer;
    out.send_buffer = options_.send_buffer;
}

// SO_TXTIME. Only queueing disciplines heed the times, and there is none here that does: packets
// leave at once, as on Linux with the usual ones.
Result<void> SocketFile::set_send_time(std::span<const u8> value) {
    sock_txtime wanted{};
    if (value.size() != sizeof wanted)
        return fail(EINVAL);
    __builtin_memcpy(&wanted, value.data(), sizeof wanted);
    if ((wanted.flags & ~u32{SOF_TXTIME_FLAGS_MASK}) != 0)
        return fail(EINVAL);
    if (wanted.clockid != CLOCK_MONOTONIC && !capable_over(network_owner(), CAP_NET_ADMIN))
        return fail(EPERM);
    if (wanted.clockid != CLOCK_MONOTONIC && wanted.clockid != CLOCK_REALTIME &&
        wanted.clockid != CLOCK_TAI)
        return fail(EINVAL);
    options_.takes_send_times = true;
    options_.send_clock = wanted.clockid;
    options_.send_clock_flags = wanted.flags;
    return {};
}

Result<void> SocketFile::set_rare_option(int name, int number, std::span<const u8> value) {
    switch (name) {
    case SO_BUF_LOCK:
        if ((number & ~(SocketOptions::lock_send_buffer | SocketOptions::lock_receive_buffer)) != 0)
            return fail(EINVAL);
        options_.buffer_lock = static_cast<u8>(number);
        buffers_changed();
        return {};
    case SO_LOCK_FILTER:
        if (number == 0 && options_.filter_locked)
            return fail(EPERM);
        options_.filter_locked = number != 0;
        return {};
    case SO_ATTACH_BPF:
        if (options_.filter_locked)
            return fail(EPERM);
        return refuse_program(number);
    case SO_ATTACH_REUSEPORT_EBPF:
        return refuse_program(number);
    case SO_ATTACH_REUSEPORT_CBPF:
    case SO_DETACH_REUSEPORT_BPF: {
        const auto done = set_option(SOL_SOCKET, name, value);
        if (!done && done.error().code == ENOPROTOOPT)
            return fail(EINVAL); // shares no port
        return done;
    }
    case SO_TXTIME:
        return set_send_time(value);
    case SO_RCVMARK: {
        if (!capable_over(network_owner(), CAP_NET_RAW) &&
            !capable_over(network_owner(), CAP_NET_ADMIN))
            return fail(EPERM);
        // Shares its bit with SO_NO_CHECK, which the families keep themselves.
        constexpr u64 bit = socket_option_bit(SO_RCVMARK);
        options_.flags = number != 0 ? options_.flags | bit : options_.flags & ~bit;
        return {};
    }
    case SO_BUSY_POLL:
        if (number < 0)
            return fail(EINVAL);
        options_.busy_poll_us = number;
        return {};
    case SO_PREFER_BUSY_POLL:
        if (number != 0 && !administrates_machine())
            return fail(EPERM);
        options_.prefers_busy_poll = number != 0;
        return {};
    case SO_BUSY_POLL_BUDGET:
        if (number > 0 && !administrates_machine())
            return fail(EPERM);
        return number < 0 || number > longest_budget ? Result<void>(fail(EINVAL)) : Result<void>();
    case SO_MAX_PACING_RATE: {
        u64 rate = static_cast<u32>(number) == ~u32{0} ? ~u64{0} : u64{static_cast<u32>(number)};
        if (value.size() == sizeof rate)
            __builtin_memcpy(&rate, value.data(), sizeof rate);
        options_.pacing_rate = rate;
        return {};
    }
    case SO_CNX_ADVICE: // about the neighbour, which is asked again anyway
        return {};
    case SO_RESERVE_MEM: // memory of sockets is no cgroup's
        return fail(number < 0 ? EINVAL : EOPNOTSUPP);
    default:
        return set_option(SOL_SOCKET, name, value);
    }
}

Result<usize> SocketFile::get_rare_option(int name, std::span<u8> out) {
    switch (name) {
    case SO_BUF_LOCK:
        return put_value(out, int{options_.buffer_lock});
    case SO_LOCK_FILTER:
        return put_value(out, options_.filter_locked ? 1 : 0);
    case SO_MEMINFO: {
        SocketMemory memory;
        memory_use(memory);
        return put_value(out, memory);
    }
    case SO_NETNS_COOKIE: { // unique while the system runs, and tells no address
        if (out.size() != sizeof(u64))
            return fail(EINVAL);
        const NetNamespace* space = home();
        if (space == nullptr && initial_namespaces != nullptr)
            space = initial_namespaces->net.get();
        return put_value(out, hash_mix(space == nullptr ? 0 : space->number()));
    }
    case SO_BPF_EXTENSIONS:
        return put_value(out, int{SKF_AD_MAX});
    case SO_TXTIME: {
        sock_txtime value{};
        value.clockid = options_.send_clock;
        value.flags = options_.send_clock_flags;
        return put_value(out, value);
    }
    case SO_RCVMARK:
        return put_value(out, option_on(SO_RCVMARK) ? 1 : 0);
    case SO_BUSY_POLL:
        return put_value(out, options_.busy_poll_us);
    case SO_PREFER_BUSY_POLL:
        return put_value(out, options_.prefers_busy_poll ? 1 : 0);
    case SO_MAX_PACING_RATE:
        if (out.size() >= sizeof options_.pacing_rate)
            return put_value(out, options_.pacing_rate);
        return put_value(
            out, options_.pacing_rate > ~u32{0} ? ~u32{0} : static_cast<u32>(options_.pacing_rate));
    case SO_INCOMING_NAPI_ID:
    case SO_RESERVE_MEM:
        return put_value(out, 0);
    default: // SO_PEERSEC, too: no module of security labels anything
        return get_option(SOL_SOCKET, name, out);
    }
}

} // namespace kernel
