// Sockets, whatever family is behind them: what the system calls of socket(7) need of a file.
// A family (ipc/unix_socket.cpp) derives from SocketFile and registers a way to create them.
#pragma once

#include <span>

#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/ipc/buffer_sizes.hpp"
#include "guestkernel/ipc/socket_rights.hpp"

namespace kernel {

class NetNamespace;
class UserNamespace;

// The numbers of the ABI that no UAPI header has: include/linux/socket.h and net.h of Linux.
inline constexpr int family_unspecified = 0, family_unix = 1;
inline constexpr int socket_stream = 1, socket_datagram = 2, socket_raw = 3, socket_seqpacket = 5;
inline constexpr u32 socket_nonblock = 04000, socket_cloexec = 02000000;
inline constexpr u32 msg_oob = 1, msg_peek = 2, msg_dontroute = 4, msg_ctrunc = 8, msg_trunc = 0x20,
                     msg_dontwait = 0x40, msg_eor = 0x80, msg_waitall = 0x100, msg_confirm = 0x800,
                     msg_errqueue = 0x2000, msg_nosignal = 0x4000, msg_more = 0x8000,
                     msg_waitforone = 0x10000, msg_zerocopy = 0x4000000,
                     msg_cmsg_cloexec = 0x40000000;
inline constexpr u32 shut_read = 1, shut_write = 2,
                     shut_both = 3; // shutdown(2)'s argument plus one

// struct sockaddr_storage with its length.
struct SocketAddress {
    static constexpr u32 capacity = 128;
    alignas(8) u8 bytes[capacity] = {};
    u32 length = 0;
    u16 family() const { return static_cast<u16>(bytes[0] | bytes[1] << 8); }
    void set_family(int family) {
        bytes[0] = static_cast<u8>(family);
        bytes[1] = static_cast<u8>(family >> 8);
    }
};

struct SocketCredentials { // struct ucred
    i32 pid = 0;
    u32 uid = ~u32{0}, gid = ~u32{0};
    friend bool operator==(const SocketCredentials&, const SocketCredentials&) = default;
};
// Ids are the kernel's; this gives them as the running task knows them.
SocketCredentials visible_credentials(SocketCredentials global);
SocketCredentials current_socket_credentials();

struct SendRequest {
    const SocketAddress* to = nullptr; // null: where the socket is connected to
    u32 flags = 0;                     // MSG_*
    bool has_credentials = false;      // given explicitly, and checked
    SocketCredentials credentials;
    Owned<FileRights> rights;
    // All control messages as the caller gave them, each checked to lie within: for what the
    // family knows of besides the above. See for_control_messages().
    std::span<const u8> control;
};

struct ControlHeader { // struct cmsghdr
    u64 length;
    int level, type;
};
constexpr u64 control_aligned(u64 bytes) {
    return (bytes + 7) & ~u64{7};
}
// Calls function(level, type, data) -> Result<void> for each.
template <typename F>
Result<void> for_control_messages(std::span<const u8> control, F&& function) {
    while (control.size() >= sizeof(ControlHeader)) {
        ControlHeader header;
        __builtin_memcpy(&header, control.data(), sizeof header);
        if (header.length < sizeof header || header.length > control.size())
            break;
        TRY(function(header.level, header.type,
                     control.subspan(sizeof header, header.length - sizeof header)));
        const u64 step = control_aligned(header.length);
        control = control.subspan(step < control.size() ? step : control.size());
    }
    return {};
}

// The numbers of <asm/socket.h> and <linux/socket.h> that older headers do not have.
inline constexpr int option_pass_pidfd = 76, option_peer_pidfd = 77, scm_pidfd = 4;

struct Credentials;

struct ReceiveRequest {
    u32 flags = 0; // MSG_*
    bool wants_address = false;
    // --- answers
    u32 result_flags = 0; // MSG_TRUNC, MSG_CTRUNC
    SocketAddress from;   // length 0: nameless
    bool has_credentials = false;
    SocketCredentials credentials;
    Owned<FileRights> rights;
    bool has_pidfd = false;     // SO_PASSPIDFD is on
    Ref<File> pidfd;            // null: it is not known who sent it
    bool wants_control = false; // asked: there is room for control messages
    // Control messages of the family, laid out as the caller gets them.
    static constexpr u32 control_capacity = 512;
    u32 control_length = 0;
    alignas(8) u8 control[control_capacity];
    // What does not fit is cut, as it would be in the caller's buffer.
    void add_control(int level, int type, const void* data, u32 bytes);
    // SO_TIMESTAMPNS's message, or SO_TIMESTAMP's: when it came, since the Epoch.
    void add_timestamp(u64 realtime_ns, bool nanoseconds);
};

// net.core.rmem_max and wmem_max: what SO_RCVBUF and SO_SNDBUF can ask for, in bytes; of all
// namespaces.
extern base::Atomic<u32> most_receive_buffer, most_send_buffer;

// SK_MEMINFO_*, in their order: SO_MEMINFO, and what sock_diag(7) shows.
struct SocketMemory {
    u32 received = 0, receive_buffer = 0, sent = 0, send_buffer = 0, ahead = 0, queued = 0,
        options = 0, backlog = 0, drops = 0;
};

// The place of a boolean option in SocketOptions::flags. Those of larger numbers lie where options
// are that are no booleans, or a family's own.
constexpr u64 socket_option_bit(int name) {
    return u64{1} << (name & 63);
}

// What setsockopt(2) can set at SOL_SOCKET for any family.
struct SocketOptions {
    u64 receive_timeout_ns = 0, send_timeout_ns = 0; // 0: none
    u32 send_buffer = default_socket_buffer, receive_buffer = default_socket_buffer;
    u32 receive_low_water = 1;
    u64 flags = 0; // socket_option_bit()
    i32 linger = 0, priority = 0;
    u8 buffer_lock = 0;         // SO_BUF_LOCK: lock_send_buffer, lock_receive_buffer
    bool filter_locked = false; // SO_LOCK_FILTER
    // Kept and shown; nothing polls or paces here.
    i32 busy_poll_us = 0;
    bool prefers_busy_poll = false;
    u64 pacing_rate = ~u64{0}; // SO_MAX_PACING_RATE
    // SO_TXTIME: CLOCK_*, SOF_TXTIME_*.
    bool takes_send_times = false;
    i32 send_clock = 0;
    u32 send_clock_flags = 0;
    static constexpr u8 lock_send_buffer = 1, lock_receive_buffer = 2;
};

class SocketFile : public File {
public:
    SocketFile(Ref<Inode> inode, u32 flags, int family, int type, int protocol);
    static constexpr char file_type[] = "socket";
    const char* type_name() const final { return file_type; }
    bool is_stream() const final { return true; }
    bool signals_readiness() const final { return true; }
    bool describe(String& out) final;
    Result<usize> read(IoBuffer& out, u64) final;
    Result<usize> write(IoBuffer& in, u64) final;

    // EOPNOTSUPP by default. Waiting ends by a signal with restart_syscall, or EINTR under a
    // timeout (signal(7)).
    virtual Result<void> bind(const SocketAddress& address);
    virtual Result<void> connect(const SocketAddress& address);
    virtual Result<void> listen(int backlog);
    virtual Result<Ref<SocketFile>> accept(u32 file_flags, bool non_blocking);
    virtual Result<void> shutdown(u32 how); // shut_*
    virtual Result<void> local_address(SocketAddress& out);
    virtual Result<void> peer_address(SocketAddress& out);
    // Of a connection that accept() gave: told even if the peer has gone again.
    virtual Result<void> accepted_address(SocketAddress& out) { return peer_address(out); }
    virtual Result<usize> send(IoBuffer& in, SendRequest& request);
    virtual Result<usize> receive(IoBuffer& out, ReceiveRequest& request);
    // Levels and names the common part does not know: ENOPROTOOPT.
    virtual Result<void> set_option(int level, int name, std::span<const u8> value);
    virtual Result<usize> get_option(int level, int name, std::span<u8> out); // bytes filled
    virtual bool listening() const { return false; }
    virtual int take_error() { return 0; } // SO_ERROR
    virtual SocketCredentials peer_credentials() { return {}; }
    // SO_PEERGROUPS, SO_PEERPIDFD. ENODATA: of nobody.
    virtual Result<Ref<const Credentials>> peer_identity();
    virtual Result<Ref<File>> peer_pidfd();
    virtual void buffers_changed() {}
    virtual void socket_option_changed() {}           // another one of SOL_SOCKET
    virtual void memory_use(SocketMemory& out) const; // SO_MEMINFO
    // The one it was made in; null: the initial one.
    virtual const NetNamespace* home() const;

    // Of SOL_SOCKET; what it does not know it passes on.
    Result<void> set_socket_option(int level, int name, std::span<const u8> value);
    Result<usize> get_socket_option(int level, int name, std::span<u8> out);
    bool option_on(int name) const { return (options_.flags & socket_option_bit(name)) != 0; }

    // Whether its messages can say who sent them (SO_PASSCRED).
    bool passes_credentials() const {
        constexpr int netlink = 16; // AF_NETLINK
        return family_ == family_unix || family_ == netlink;
    }

    int family() const { return family_; }
    int type() const { return type_; }
    int protocol() const { return protocol_; }
    bool blocks(u32 msg_flags) const { return !non_blocking() && (msg_flags & msg_dontwait) == 0; }
    u64 receive_deadline() const { return deadline(options_.receive_timeout_ns); }
    u64 send_deadline() const { return deadline(options_.send_timeout_ns); }

protected:
    SocketOptions options_;
    UserNamespace* network_owner() const; // whose capabilities count
    void set_family(int family) { family_ = family; }

private:
    Result<void> check_passing(int name) const;
    // --- socket_options.cpp: those that few programs ask for
    Result<void> set_rare_option(int name, int number, std::span<const u8> value);
    Result<void> set_send_time(std::span<const u8> value);
    Result<usize> get_rare_option(int name, std::span<u8> out);
    static u64 deadline(u64 timeout) {
        return timeout == 0 ? no_deadline : monotonic_ns() + timeout;
    }
    // Another one by IPV6_ADDRFORM only, which who looks on meanwhile may see or not.
    volatile int family_;
    const int type_, protocol_;
};

struct SocketPair {
    Ref<SocketFile> first, second;
};

// A protocol family. `flags`: O_NONBLOCK or 0; `type` is SOCK_* without flags.
struct SocketFamily {
    int number;
    Result<Ref<SocketFile>> (*create)(int type, int protocol, u32 flags);
    Result<SocketPair> (*create_pair)(int type, int protocol, u32 flags); // null: EOPNOTSUPP
};
// At boot only; the object stays the caller's. AF_UNIX is always there.
void register_socket_family(const SocketFamily& family);
const SocketFamily* find_socket_family(int number);

extern const SocketFamily unix_family;

} // namespace kernel
