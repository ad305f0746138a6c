// Sockets: making, naming and connecting them, and their options.
#include "guestkernel/syscalls/socket_calls.hpp"

#include <asm/socket.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/syscalls/socket_helpers.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u32 creation_flags = socket_nonblock | socket_cloexec;
constexpr int type_mask = 0xf; // SOCK_TYPE_MASK

// The family that makes such a socket; `type` loses its flags.
Result<const SocketFamily*> family_for(int number, int& type, u32& flags) {
    flags = static_cast<u32>(type & ~type_mask);
    type &= type_mask;
    constexpr int socket_packet = 10; // the last type there is
    if ((flags & ~creation_flags) != 0 || type > socket_packet)
        return fail(EINVAL);
    const SocketFamily* family = find_socket_family(number);
    if (family == nullptr)
        return fail(EAFNOSUPPORT);
    return family;
}

} // namespace

Result<Ref<File>> socket_file(Task& task, int fd) {
    TRY(Ref<File> file, usable_file(task, fd));
    if (file_as<SocketFile>(*file) == nullptr)
        return fail(ENOTSOCK);
    return file;
}

Result<void> copy_address_in(u64 address, int length, SocketAddress& out) {
    if (length < 0 || static_cast<u32>(length) > SocketAddress::capacity)
        return fail(EINVAL);
    out.length = static_cast<u32>(length);
    return copy_in_bytes(out.bytes, address, out.length);
}

// The value is cut to the caller's room, the length is what it would have been (accept(2)).
Result<void> copy_address_out(const SocketAddress& from, u64 address, UserPtr<int> length) {
    TRY(const int room, length.copy_in());
    if (room < 0)
        return fail(EINVAL);
    const u32 bytes = from.length < static_cast<u32>(room) ? from.length : static_cast<u32>(room);
    TRY(copy_out_bytes(address, from.bytes, bytes));
    return length.copy_out(static_cast<int>(from.length));
}

Result<long> sys_socket(Task& task, int number, int type, int protocol) {
    u32 flags = 0;
    TRY(const SocketFamily* family, family_for(number, type, flags));
    TRY(Ref<SocketFile> file, family->create(type, protocol, flags & socket_nonblock));
    TRY(const int fd, task.files->install(std::move(file), (flags & socket_cloexec) != 0));
    return fd;
}

Result<long> sys_socketpair(Task& task, int number, int type, int protocol,
                            UserPtr<SocketPairNumbers> out) {
    u32 flags = 0;
    TRY(const SocketFamily* family, family_for(number, type, flags));
    if (family->create_pair == nullptr)
        return fail(EOPNOTSUPP);
    TRY(SocketPair pair, family->create_pair(type, protocol, flags & socket_nonblock));
    FileTable& files = *task.files;
    TRY(const int first, files.reserve());
    const auto second = files.reserve();
    if (!second) {
        files.unreserve(first);
        return fail(second.error().code);
    }
    // Before they are filled: from then on another thread can use or close the descriptors.
    if (auto done = out.copy_out({first, *second}); !done) {
        files.unreserve(first);
        files.unreserve(*second);
        return fail(done.error().code);
    }
    files.fill(first, std::move(pair.first), (flags & socket_cloexec) != 0);
    files.fill(*second, std::move(pair.second), (flags & socket_cloexec) != 0);
    return 0;
}

Result<long> sys_bind(Task& task, int fd, u64 address, int length) {
    TRY(Ref<File> file, socket_file(task, fd));
    SocketAddress where;
    TRY(copy_address_in(address, length, where));
    TRY(as_socket(file).bind(where));
    return 0;
}

Result<long> sys_connect(Task& task, int fd, u64 address, int length) {
    TRY(Ref<File> file, socket_file(task, fd));
    SocketAddress where;
    TRY(copy_address_in(address, length, where));
    TRY(as_socket(file).connect(where));
    return 0;
}

Result<long> sys_listen(Task& task, int fd, int backlog) {
    TRY(Ref<File> file, socket_file(task, fd));
    TRY(as_socket(file).listen(backlog));
    return 0;
}

Result<long> sys_accept4(Task& task, int fd, u64 address, UserPtr<int> length, int flags) {
    if ((static_cast<u32>(flags) & ~creation_flags) != 0)
        return fail(EINVAL);
    TRY(Ref<File> file, socket_file(task, fd));
    const bool close_on_exec = (static_cast<u32>(flags) & socket_cloexec) != 0;
    TRY(const int number, task.files->reserve());
    const auto give_up = [&](int error) {
        task.files->unreserve(number);
        return fail(error);
    };
    auto accepted =
        as_socket(file).accept(static_cast<u32>(flags) & socket_nonblock, file->non_blocking());
    if (!accepted)
        return give_up(accepted.error().code);
    if (address != 0) {
        SocketAddress peer;
        if (!(*accepted)->accepted_address(peer))
            return give_up(ECONNABORTED);
        if (auto done = copy_address_out(peer, address, length); !done)
            return give_up(done.error().code);
    }
    task.files->fill(number, std::move(*accepted), close_on_exec);
    return number;
}

Result<long> sys_accept(Task& task, int fd, u64 address, UserPtr<int> length) {
    return sys_accept4(task, fd, address, length, 0);
}

Result<long> sys_getsockname(Task& task, int fd, u64 address, UserPtr<int> length) {
    TRY(Ref<File> file, socket_file(task, fd));
    SocketAddress name;
    TRY(as_socket(file).local_address(name));
    TRY(copy_address_out(name, address, length));
    return 0;
}

Result<long> sys_getpeername(Task& task, int fd, u64 address, UserPtr<int> length) {
    TRY(Ref<File> file, socket_file(task, fd));
    SocketAddress name;
    TRY(as_socket(file).peer_address(name));
    TRY(copy_address_out(name, address, length));
    return 0;
}

Result<long> sys_shutdown(Task& task, int fd, int how) {
    TRY(Ref<File> file, socket_file(task, fd));
    if (how < 0 || static_cast<u32>(how) >= shut_both)
        return fail(EINVAL);
    TRY(as_socket(file).shutdown(static_cast<u32>(how) + 1));
    return 0;
}

namespace {

// IP_MSFILTER and MCAST_MSFILTER: lists of addresses.
bool is_source_filter(int level, int name) {
    return (level == IPPROTO_IP && (name == IP_MSFILTER || name == MCAST_MSFILTER)) ||
           (level == IPPROTO_IPV6 && name == MCAST_MSFILTER);
}

// An extension header of IPv6, of up to 8 * 255 bytes.
bool is_sticky_header(int level, int name) {
    return level == IPPROTO_IPV6 && (name == IPV6_HOPOPTS || name == IPV6_RTHDRDSTOPTS ||
                                     name == IPV6_RTHDR || name == IPV6_DSTOPTS);
}

// The kernel's copy of an option's value. Others that are longer have tails that nobody reads.
class OptionValue {
public:
    Result<void> make(int level, int name, usize length) {
        constexpr usize longest_filter = 65537; // beyond what may be set
        if (length <= sizeof few_ ||
            !(is_source_filter(level, name) || is_sticky_header(level, name))) {
            span_ = std::span<u8>(few_).first(length < sizeof few_ ? length : sizeof few_);
            return {};
        }
        TRY(many_.resize(length < longest_filter ? length : longest_filter));
        span_ = many_.span();
        return {};
    }
    std::span<u8> span() const { return span_; }

private:
    u8 few_[512];
    Vector<u8> many_;
    std::span<u8> span_;
};

} // namespace

Result<long> sys_setsockopt(Task& task, int fd, int level, int name, u64 value, int length) {
    TRY(Ref<File> file, socket_file(task, fd));
    if (length < 0)
        return fail(EINVAL);
    OptionValue bytes;
    TRY(bytes.make(level, name, static_cast<usize>(length)));
    TRY(copy_in_bytes(bytes.span().data(), value, bytes.span().size()));
    TRY(as_socket(file).set_socket_option(level, name, bytes.span()));
    return 0;
}

namespace {

// ERANGE: the room that they need is told.
Result<long> peer_groups(const Ref<File>& file, u64 value, int room, UserPtr<int> length) {
    TRY(const Ref<const Credentials> peer, as_socket(file).peer_identity());
    const auto needed = static_cast<int>(peer->groups.size() * sizeof(u32));
    TRY(length.copy_out(needed));
    if (room < needed)
        return fail(ERANGE);
    const UserNamespace* reader = current_task().credentials->user_ns.get();
    for (usize i = 0; i < peer->groups.size(); i++)
        TRY((UserPtr<u32>(value) + i).copy_out(from_global_id(reader, true, peer->groups[i])));
    return 0;
}

Result<long> peer_pidfd(Task& task, const Ref<File>& file, u64 value, int room,
                        UserPtr<int> length) {
    TRY(Ref<File> pidfd, as_socket(file).peer_pidfd());
    TRY(const int fd, task.files->reserve());
    const usize bytes = static_cast<usize>(room) < sizeof fd ? static_cast<usize>(room) : sizeof fd;
    auto told = copy_out_bytes(value, &fd, bytes);
    if (told)
        told = length.copy_out(static_cast<int>(bytes));
    if (!told) {
        task.files->unreserve(fd);
        return fail(told.error().code);
    }
    task.files->fill(fd, std::move(pidfd), true);
    return 0;
}

} // namespace

Result<long> sys_getsockopt(Task& task, int fd, int level, int name, u64 value,
                            UserPtr<int> length) {
    TRY(Ref<File> file, socket_file(task, fd));
    TRY(const int room, length.copy_in());
    if (room < 0)
        return fail(EINVAL);
    if (level == SOL_SOCKET && name == SO_PEERGROUPS)
        return peer_groups(file, value, room, length);
    if (level == SOL_SOCKET && name == option_peer_pidfd)
        return peer_pidfd(task, file, value, room, length);
    OptionValue bytes;
    TRY(bytes.make(level, name, static_cast<usize>(room)));
    const usize offered = bytes.span().size();
    constexpr int level_packet = 263;                    // SOL_PACKET
    if (level == level_packet && offered >= sizeof(int)) // PACKET_HDRLEN asks by what is there
        TRY(copy_in_bytes(bytes.span().data(), value, sizeof(int)));
    constexpr usize filter_header = 144; // of struct group_filter
    if (is_source_filter(level, name))   // of which group
        TRY(copy_in_bytes(bytes.span().data(), value,
                          offered < filter_header ? offered : filter_header));
    TRY(const usize filled, as_socket(file).get_socket_option(level, name, bytes.span()));
    constexpr int level_tcp = 6, saved_syn = 28;                       // IPPROTO_TCP, TCP_SAVED_SYN
    if (filled > offered && level == level_tcp && name == saved_syn) { // which comes whole only
        TRY(length.copy_out(static_cast<int>(filled)));
        return fail(EINVAL);
    }
    // An answer may be longer than the room for it: its length says so.
    TRY(copy_out_bytes(value, bytes.span().data(), filled < offered ? filled : offered));
    TRY(length.copy_out(static_cast<int>(filled)));
    return 0;
}

} // namespace kernel
