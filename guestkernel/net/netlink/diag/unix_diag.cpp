// unix_diag: sockets of AF_UNIX.
#include <linux/errno.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/unix_socket.hpp"
#include "guestkernel/net/netlink/diag/diag.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u8 established = 1, closed = 7, listening = 10; // of TCP, which all families use

u8 state_of(const UnixEndpoint& endpoint) {
    switch (endpoint.state) {
    case UnixState::Listening:
        return listening;
    case UnixState::Connected:
        return established;
    case UnixState::Unconnected:
        // A datagram socket that has a peer.
        return endpoint.peer ? established : closed;
    case UnixState::Closed:
        break;
    }
    return closed;
}

// What is the table's to guard.
struct Names {
    u8 name[112] = {};
    u32 name_length = 0;
    u32 peer = 0; // its inode
    bool has_peer = false;
    u8 state = closed;
    Ref<Inode> bound;
    Vector<u32> pending; // inodes of those that wait to be accepted
    bool failed = false;
};

void take_names(UnixEndpoint& endpoint, bool with_pending, Names& out) {
    SpinGuard guard(unix_lock());
    out.state = state_of(endpoint);
    if (const UnixName* name = endpoint.name.get()) {
        out.name_length = name->length < sizeof out.name ? name->length : sizeof out.name;
        const usize kept =
            out.name_length < sizeof name->bytes ? out.name_length : sizeof name->bytes;
        __builtin_memcpy(out.name, name->bytes, kept);
    }
    out.has_peer = endpoint.peer.get() != nullptr;
    if (out.has_peer)
        out.peer = static_cast<u32>(endpoint.peer->inode_number);
    out.bound = endpoint.bound_inode;
    if (!with_pending)
        return;
    for (UnixEndpoint* waiting = endpoint.first_pending; waiting != nullptr;
         waiting = waiting->next_pending)
        if (!out.pending.push_back(waiting->peer ? static_cast<u32>(waiting->peer->inode_number)
                                                 : 0))
            out.failed = true;
}

void put_place(MessageWriter& out, const Inode& inode) {
    unix_diag_vfs place{};
    place.udiag_vfs_ino = static_cast<u32>(inode.number());
    // As Linux keeps device numbers inside: 12 bits and 20.
    const u64 device = inode.superblock()->device_number;
    const u32 major = static_cast<u32>(device >> 8 & 0xfff),
              minor = static_cast<u32>((device & 0xff) | (device >> 12 & 0xfff00));
    place.udiag_vfs_dev = major << 20 | minor;
    out.value(UNIX_DIAG_VFS, place);
}

bool put_socket(MessageWriter& out, UnixEndpoint& endpoint, u32 show, const Endpoint* reader) {
    Names names;
    take_names(endpoint, (show & UDIAG_SHOW_ICONS) != 0, names);
    unix_diag_msg message{};
    message.udiag_family = family_unix;
    message.udiag_type = static_cast<u8>(endpoint.type);
    message.udiag_state = names.state;
    message.udiag_ino = static_cast<u32>(endpoint.inode_number);
    const DiagCookie cookie = DiagCookie::of(
        cookie_of_inode(endpoint.inode_number != 0 ? endpoint.inode_number : endpoint.serial));
    message.udiag_cookie[0] = cookie.words[0];
    message.udiag_cookie[1] = cookie.words[1];
    out.put(message);
    const bool listens = names.state == listening;
    if ((show & UDIAG_SHOW_NAME) != 0 && names.name_length != 0)
        out.attribute(UNIX_DIAG_NAME, names.name, names.name_length);
    if ((show & UDIAG_SHOW_VFS) != 0 && names.bound)
        put_place(out, *names.bound);
    if ((show & UDIAG_SHOW_PEER) != 0 && names.has_peer)
        out.number32(UNIX_DIAG_PEER, names.peer);
    if ((show & UDIAG_SHOW_ICONS) != 0 && listens)
        out.attribute(UNIX_DIAG_ICONS, names.pending.data(), names.pending.size() * sizeof(u32));
    const u32 sent = static_cast<u32>(endpoint.sent.load());
    if ((show & UDIAG_SHOW_RQLEN) != 0) {
        unix_diag_rqlen lengths{};
        lengths.udiag_rqueue = listens ? endpoint.pending : static_cast<u32>(endpoint.queued_bytes);
        lengths.udiag_wqueue = listens ? endpoint.backlog : sent;
        out.value(UNIX_DIAG_RQLEN, lengths);
    }
    if ((show & UDIAG_SHOW_MEMINFO) != 0) {
        SocketMemory memory; // who sends pays
        memory.receive_buffer = memory.send_buffer = endpoint.send_buffer;
        memory.sent = sent;
        out.value(UNIX_DIAG_MEMINFO, memory);
    }
    out.number8(UNIX_DIAG_SHUTDOWN, static_cast<u8>(endpoint.shutdown));
    if ((show & UDIAG_SHOW_UID) != 0)
        out.number32(UNIX_DIAG_UID, uid_for(reader, endpoint.uid));
    return out.end();
}

bool here(const UnixEndpoint& endpoint, const Stack& stack) {
    return !endpoint.dead && &stack_of(endpoint.net.get()) == &stack;
}

// words: the serial number of the last one shown.
Result<bool> step(Dump& dump, MessageWriter& out) {
    unix_diag_req asked;
    __builtin_memcpy(&asked, dump.payload.data(), sizeof asked);
    for (;;) {
        constexpr usize at_once = 16;
        Ref<UnixEndpoint> held[at_once];
        u64 after = dump.words[0];
        const usize count = hold_unix_endpoints(after, held, at_once);
        for (usize i = 0; i < count; i++) {
            UnixEndpoint& endpoint = *held[i];
            if (here(endpoint, *dump.stack) &&
                (asked.udiag_states >> state_of(endpoint) & 1) != 0) {
                dump.begin(out, SOCK_DIAG_BY_FAMILY);
                if (!put_socket(out, endpoint, asked.udiag_show, dump.reader))
                    return false;
            }
            dump.words[0] = endpoint.serial;
        }
        if (count < at_once)
            return true;
    }
}

} // namespace

Result<void> unix_diag(Request& request) {
    TRY(const unix_diag_req asked, request.payload_header<unix_diag_req>());
    if (request.is_dump())
        return request.start_dump(step, {}, false);
    if (asked.udiag_ino == 0)
        return fail(EINVAL);
    for (u64 after = 0;;) {
        Ref<UnixEndpoint> held;
        if (hold_unix_endpoints(after, &held, 1) == 0)
            return fail(ENOENT);
        if (!here(*held, request.stack()) || held->inode_number != asked.udiag_ino)
            continue;
        TRY(check_cookie({{asked.udiag_cookie[0], asked.udiag_cookie[1]}},
                         cookie_of_inode(held->inode_number)));
        MessageWriter out;
        request.begin(out, SOCK_DIAG_BY_FAMILY);
        if (!put_socket(out, *held, asked.udiag_show, &request.sender()))
            return fail(ENOMEM);
        return request.reply(out);
    }
}

} // namespace kernel::net::netlink
