#include "guestkernel/net/netlink/socket.hpp"

#include <asm/ioctls.h>
#include <asm/socket.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/netlink.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/unix_socket.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/net/filter/protocol.hpp"
#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/link/links.hpp"
#include "guestkernel/net/netlink/connector/connector.hpp"
#include "guestkernel/net/netlink/diag/diag.hpp"
#include "guestkernel/net/netlink/generic/generic.hpp"
#include "guestkernel/net/netlink/route/family.hpp"
#include "guestkernel/net/netlink/uevent.hpp"
#include "guestkernel/net/tun/tun_interface.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::net::netlink {

namespace {

constexpr int level_netlink = 270; // SOL_NETLINK
constexpr u32 readable_events = poll_in | poll_rdnorm;
constexpr u32 writable_events = poll_out | poll_wrnorm | poll_wrband;

struct NetlinkAddress { // struct sockaddr_nl
    u16 family, pad;
    u32 port, groups;
};
static_assert(sizeof(NetlinkAddress) == sizeof(sockaddr_nl));

Result<NetlinkAddress> parse_address(const SocketAddress& address) {
    NetlinkAddress out;
    if (address.length < sizeof out)
        return fail(EINVAL);
    __builtin_memcpy(&out, address.bytes, sizeof out);
    if (out.family != family_netlink)
        return fail(EINVAL);
    return out;
}

void show_address(u32 port, u32 groups, SocketAddress& out) {
    const NetlinkAddress address{family_netlink, 0, port, groups};
    __builtin_memcpy(out.bytes, &address, sizeof address);
    out.length = sizeof address;
}

u32 group_mask(u32 group) {
    return group == 0 || group > 32 ? 0 : 1u << (group - 1);
}

Result<Ref<SocketFile>> create(int type, int protocol, u32 flags) {
    if (type != socket_raw && type != socket_datagram)
        return fail(ESOCKTNOSUPPORT);
    const Protocol* known = find_protocol(protocol);
    if (known == nullptr)
        return fail(EPROTONOSUPPORT);
    Ref<NetNamespace> space = Ref<NetNamespace>::share(current_net_namespace());
    TRY(Ref<Inode> inode, make_socket_inode("NETLINK"));
    TRY(Ref<Endpoint> endpoint,
        make_ref<Endpoint>(Ref<Stack>::share(&stack_of(space.get())), *known));
    endpoint->opener = current_task().credentials;
    endpoint->inode_number = inode->number();
    endpoint->socket_type = type;
    TRY(Ref<NetlinkSocketFile> file,
        make_ref<NetlinkSocketFile>(std::move(inode), flags, type, std::move(space),
                                    std::move(endpoint)));
    return Ref<SocketFile>(std::move(file));
}

} // namespace

const SocketFamily netlink_family = {family_netlink, create, nullptr};

NetlinkSocketFile::NetlinkSocketFile(Ref<Inode> inode, u32 flags, int type, Ref<NetNamespace> space,
                                     Ref<Endpoint> endpoint_of)
    : SocketFile(std::move(inode), flags, family_netlink, type, endpoint_of->protocol().number),
      space_(std::move(space)), endpoint_(std::move(endpoint_of)) {
    options_.receive_buffer = endpoint_->stack().settings.receive_buffer_default;
    options_.send_buffer = endpoint_->stack().settings.send_buffer_default;
    buffers_changed();
}

NetlinkSocketFile::~NetlinkSocketFile() {
    endpoint_->close();
}

void NetlinkSocketFile::buffers_changed() {
    endpoint_->receive_buffer = options_.receive_buffer;
    endpoint_->send_buffer = options_.send_buffer;
}

bool NetlinkSocketFile::may_administer() const {
    return capable_over(endpoint_->stack().owner(), CAP_NET_ADMIN);
}

// --- addresses

Result<void> NetlinkSocketFile::autobind() {
    if (endpoint_->bound())
        return {};
    return endpoint_->autobind(static_cast<u32>(visible_pid(current_task().process->pid)));
}

Result<void> NetlinkSocketFile::bind(const SocketAddress& address) {
    TRY(NetlinkAddress wanted, parse_address(address));
    const Protocol& protocol = endpoint_->protocol();
    if (wanted.groups != 0 && !protocol.anybody_joins && !may_administer())
        return fail(EPERM);
    if (protocol.groups < 32)
        wanted.groups &= (1u << protocol.groups) - 1;
    if (endpoint_->bound() && wanted.port != endpoint_->port())
        return fail(EINVAL);
    u32 joined = 0;
    const u32 before = endpoint_->first_groups();
    for (u32 group = 1; group <= 32; group++) {
        if ((wanted.groups & ~before & group_mask(group)) == 0)
            continue;
        if (auto done = endpoint_->join(group); !done) {
            for (u32 undo = 1; undo < group; undo++)
                if ((joined & group_mask(undo)) != 0)
                    endpoint_->leave(undo);
            return done;
        }
        joined |= group_mask(group);
    }
    if (!endpoint_->bound()) {
        auto bound = wanted.port != 0 ? endpoint_->bind_port(wanted.port) : autobind();
        if (!bound) {
            for (u32 group = 1; group <= 32; group++)
                if ((joined & group_mask(group)) != 0)
                    endpoint_->leave(group);
            return bound;
        }
    }
    // Those that it does not name any more it leaves.
    for (u32 group = 1; group <= 32; group++)
        if ((before & ~wanted.groups & group_mask(group)) != 0)
            endpoint_->leave(group);
    return {};
}

Result<void> NetlinkSocketFile::connect(const SocketAddress& address) {
    if (address.length < sizeof(u16))
        return fail(EINVAL);
    if (address.family() == family_unspecified) {
        endpoint_->peer_port = 0;
        endpoint_->peer_group = 0;
        return {};
    }
    TRY(const NetlinkAddress wanted, parse_address(address));
    if ((wanted.port != 0 || wanted.groups != 0) && !endpoint_->protocol().anybody_sends &&
        !may_administer())
        return fail(EPERM);
    TRY(autobind());
    endpoint_->peer_port = wanted.port;
    endpoint_->peer_group =
        wanted.groups == 0 ? 0 : static_cast<u32>(__builtin_ctz(wanted.groups)) + 1;
    return {};
}

Result<void> NetlinkSocketFile::local_address(SocketAddress& out) {
    show_address(endpoint_->bound() ? endpoint_->port() : 0, endpoint_->first_groups(), out);
    return {};
}

Result<void> NetlinkSocketFile::peer_address(SocketAddress& out) {
    show_address(endpoint_->peer_port, group_mask(endpoint_->peer_group), out);
    return {};
}

// --- sending

Result<void> NetlinkSocketFile::send_to_port(u32 port, std::span<const u8> bytes,
                                             const SendRequest& request,
                                             SocketCredentials credentials) {
    const Ref<Endpoint> to = find_endpoint(endpoint_->stack(), protocol(), port);
    if (!to)
        return fail(ECONNREFUSED);
    // One that talks to somebody else only hears of nobody else.
    if (to->peer_port != 0 && to->peer_port != endpoint_->port())
        return fail(ECONNREFUSED);
    QueuedMessage* message = make_message(bytes, endpoint_->port(), 0, credentials);
    if (message == nullptr)
        return fail(ENOBUFS);
    const u64 deadline = send_deadline();
    for (;;) {
        const auto pushed = to->push(message);
        if (pushed == Endpoint::Push::Done)
            return {};
        int error = pushed == Endpoint::Push::Closed ? ECONNREFUSED
                    : blocks(request.flags)          ? 0
                                                     : EAGAIN;
        if (error == 0) {
            const auto ready = [&] { return to->has_room(); };
            if (auto done = waited(wait_until(to->room_waiters, ready, deadline), deadline); !done)
                error = done.error().code;
        }
        if (error != 0) {
            destroy_message(message);
            return fail(error);
        }
    }
}

bool NetlinkSocketFile::kernel_listens() const {
    const Protocol& protocol = endpoint_->protocol();
    return (protocol.receive != nullptr || protocol.receive_all != nullptr) &&
           (!protocol.initial_namespace_only || &endpoint_->stack() == &stack_of(nullptr));
}

Result<usize> NetlinkSocketFile::send(IoBuffer& in, SendRequest& request) {
    if ((request.flags & msg_oob) != 0)
        return fail(EOPNOTSUPP);
    u32 port = endpoint_->peer_port, group = endpoint_->peer_group;
    if (request.to != nullptr && request.to->length != 0) {
        TRY(const NetlinkAddress to, parse_address(*request.to));
        port = to.port;
        group = to.groups == 0 ? 0 : static_cast<u32>(__builtin_ctz(to.groups)) + 1;
        if ((port != 0 || group != 0) && !endpoint_->protocol().anybody_sends && !may_administer())
            return fail(EPERM);
    }
    TRY(autobind());
    const usize bytes = in.remaining();
    if (bytes > options_.send_buffer - 32)
        return fail(EMSGSIZE);
    Vector<u8> data;
    if (!data.resize(bytes))
        return fail(ENOBUFS);
    if (in.copy_in(data.data(), bytes) < bytes)
        return fail(EFAULT);
    const SocketCredentials credentials =
        request.has_credentials ? request.credentials : current_socket_credentials();
    if (group != 0)
        broadcast_from(endpoint_->stack(), protocol(), group, data.span(), endpoint_->port(),
                       endpoint_->port(), credentials);
    if (port != 0)
        TRY(send_to_port(port, data.span(), request, credentials));
    else if (kernel_listens())
        endpoint_->submit(data.span());
    else if (group == 0)
        return fail(ECONNREFUSED); // nobody in the kernel listens
    return bytes;
}

// --- receiving

Result<QueuedMessage*> NetlinkSocketFile::wait_for_message(u32 msg_flags, usize wanted) {
    Endpoint& own = *endpoint_;
    const u64 deadline = receive_deadline();
    for (;;) {
        if (const int error = own.error.exchange(0); error != 0)
            return fail(error);
        QueuedMessage* message = (msg_flags & msg_peek) != 0 ? own.peek(wanted) : own.take();
        if (message != nullptr)
            return message;
        if (own.dumping()) { // there was no room for what follows
            own.continue_dump();
            continue;
        }
        if (!blocks(msg_flags))
            return fail(EAGAIN);
        const auto ready = [&] { return own.has_data() || own.error.load() != 0; };
        TRY(waited(wait_until(own.read_waiters, ready, deadline, TaskState::Interruptible, true),
                   deadline));
    }
}

Result<usize> NetlinkSocketFile::receive(IoBuffer& out, ReceiveRequest& request) {
    if ((request.flags & msg_oob) != 0)
        return fail(EOPNOTSUPP);
    Endpoint& own = *endpoint_;
    const usize wanted = out.remaining();
    if (wanted > own.longest_read)
        own.longest_read = static_cast<u32>(wanted < 0xffff'ffff ? wanted : 0xffff'ffff);
    TRY(QueuedMessage * message, wait_for_message(request.flags, wanted));
    const usize length = message->bytes;
    const usize copied = out.copy_out(message->data(), wanted < length ? wanted : length);
    const bool faulted = copied < (wanted < length ? wanted : length);
    if (wanted < length)
        request.result_flags |= msg_trunc;
    if (request.wants_address)
        show_address(message->port, group_mask(message->group), request.from);
    if (own.packet_info && request.wants_control) {
        const u32 group = message->group;
        request.add_control(level_netlink, NETLINK_PKTINFO, &group, sizeof group);
    }
    if (option_on(SO_PASSCRED)) {
        request.has_credentials = true;
        request.credentials = message->credentials;
    }
    destroy_message(message);
    own.continue_dump();
    if (faulted)
        return fail(EFAULT);
    return (request.flags & msg_trunc) != 0 ? length : copied;
}

u32 NetlinkSocketFile::poll(PollTable* table) {
    Endpoint& own = *endpoint_;
    if (table != nullptr)
        table->watch(own.read_waiters);
    u32 events = writable_events;
    if (own.error.load() != 0)
        events |= poll_err;
    if (own.has_data())
        events |= readable_events;
    return events;
}

Result<long> NetlinkSocketFile::ioctl(u32 command, u64 argument) {
    if (command == TIOCINQ) {
        TRY(UserPtr<int>(argument).copy_out(static_cast<int>(endpoint_->next_length())));
        return 0;
    }
    return network_ioctl_of_caller(command, argument);
}

// --- options

Result<void> NetlinkSocketFile::change_membership(u32 group, bool join) {
    const Protocol& protocol = endpoint_->protocol();
    if (!protocol.anybody_joins && !may_administer())
        return fail(EPERM);
    if (group == 0 || group > protocol.groups)
        return fail(EINVAL);
    if (join)
        return endpoint_->join(group);
    endpoint_->leave(group);
    return {};
}

void NetlinkSocketFile::memory_use(SocketMemory& out) const {
    SocketFile::memory_use(out);
    out.received = static_cast<u32>(endpoint_->queued_bytes());
    out.drops = endpoint_->drops.load();
}

Result<void> NetlinkSocketFile::set_option(int level, int name, std::span<const u8> value) {
    if (level != level_netlink)
        return fail(ENOPROTOOPT);
    int number = 0;
    if (value.size() >= sizeof number)
        __builtin_memcpy(&number, value.data(), sizeof number);
    const bool on = number != 0;
    Endpoint& own = *endpoint_;
    switch (name) {
    case NETLINK_PKTINFO:
        own.packet_info = on;
        return {};
    case NETLINK_ADD_MEMBERSHIP:
    case NETLINK_DROP_MEMBERSHIP:
        return change_membership(static_cast<u32>(number), name == NETLINK_ADD_MEMBERSHIP);
    case NETLINK_BROADCAST_ERROR:
        own.broadcast_error = on;
        return {};
    case NETLINK_NO_ENOBUFS:
        own.no_enobufs = on;
        return {};
    case NETLINK_LISTEN_ALL_NSID:
        if (!capable_over(own.stack().owner(), CAP_NET_BROADCAST))
            return fail(EPERM);
        own.all_namespaces = on;
        return {};
    case NETLINK_CAP_ACK:
        own.short_ack = on;
        return {};
    case NETLINK_EXT_ACK:
        own.extended_ack = on;
        return {};
    case NETLINK_GET_STRICT_CHK:
        own.strict = on;
        return {};
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<usize> NetlinkSocketFile::get_option(int level, int name, std::span<u8> out) {
    if (level != level_netlink)
        return fail(ENOPROTOOPT);
    const Endpoint& own = *endpoint_;
    int value = 0;
    switch (name) {
    case NETLINK_PKTINFO:
        value = own.packet_info ? 1 : 0;
        break;
    case NETLINK_BROADCAST_ERROR:
        value = own.broadcast_error ? 1 : 0;
        break;
    case NETLINK_NO_ENOBUFS:
        value = own.no_enobufs ? 1 : 0;
        break;
    case NETLINK_LISTEN_ALL_NSID:
        value = own.all_namespaces ? 1 : 0;
        break;
    case NETLINK_CAP_ACK:
        value = own.short_ack ? 1 : 0;
        break;
    case NETLINK_EXT_ACK:
        value = own.extended_ack ? 1 : 0;
        break;
    case NETLINK_GET_STRICT_CHK:
        value = own.strict ? 1 : 0;
        break;
    case NETLINK_LIST_MEMBERSHIPS: {
        // Words of 32 groups; the answer is as long as all of them would be.
        const u32 groups = own.protocol().groups < 32 ? 32 : own.protocol().groups;
        const usize bytes = (groups + 31) / 32 * 4;
        for (usize at = 0; at + 4 <= out.size() && at < bytes; at += 4) {
            u32 word = 0;
            for (u32 bit = 0; bit < 32; bit++)
                if (own.member_of(static_cast<u32>(at) * 8 + bit + 1))
                    word |= 1u << bit;
            __builtin_memcpy(out.data() + at, &word, sizeof word);
        }
        return bytes;
    }
    default:
        return fail(ENOPROTOOPT);
    }
    if (out.size() < sizeof value)
        return fail(EINVAL);
    __builtin_memcpy(out.data(), &value, sizeof value);
    return sizeof value;
}

namespace {

// Programs among themselves: the kernel takes no part.
constexpr Protocol user_protocol = {
    .number = NETLINK_USERSOCK, .groups = 32, .anybody_sends = true};

} // namespace

void register_netlink_protocols() {
    register_protocol(user_protocol);
    start_route_protocol();
    start_sock_diag();
    start_generic_protocol();
    start_task_stats();
    start_uevents();
    start_connector();
}

void start_netlink() {
    register_socket_family(netlink_family);
    register_netlink_protocols();
    register_links();
    register_tun();
    filter::start_filter();
}

} // namespace kernel::net::netlink
