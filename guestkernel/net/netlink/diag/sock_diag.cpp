// NETLINK_SOCK_DIAG: which family a request is about.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>

#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/netlink/diag/diag.hpp"
#include "guestkernel/net/netlink/socket.hpp"

namespace kernel::net::netlink {

static_assert(sizeof(SocketMemory) == SK_MEMINFO_VARS * sizeof(u32));

namespace {

constexpr u32 most_families = 46; // AF_MAX
constexpr u32 no_cookie = ~u32{0};

struct Family {
    int number;
    Result<void> (*show)(Request& request);
    Result<void> (*destroy)(Request& request);
};

constexpr Family families[] = {
    {family_inet, inet_diag, inet_destroy}, {family_inet6, inet_diag, inet_destroy},
    {family_unix, unix_diag, nullptr},      {family_netlink, netlink_diag, nullptr},
    {family_packet, packet_diag, nullptr},
};

Result<void> receive(Request& request) {
    if (request.type() == TCPDIAG_GETSOCK || request.type() == DCCPDIAG_GETSOCK)
        return inet_diag(request);
    if (request.type() != SOCK_DIAG_BY_FAMILY && request.type() != SOCK_DESTROY)
        return fail(EINVAL);
    TRY(const sock_diag_req asked, request.payload_header<sock_diag_req>());
    if (asked.sdiag_family >= most_families)
        return fail(EINVAL);
    for (const Family& family : families) {
        if (family.number != asked.sdiag_family)
            continue;
        if (request.type() == SOCK_DIAG_BY_FAMILY)
            return family.show(request);
        if (family.destroy == nullptr)
            return fail(EOPNOTSUPP);
        if (!request.capable(CAP_NET_ADMIN))
            return fail(EPERM);
        return family.destroy(request);
    }
    return fail(ENOENT);
}

constexpr Protocol sock_diag_protocol = {
    .number = protocol_sock_diag,
    .groups = SKNLGRP_MAX,
    .receive = receive,
};

} // namespace

Result<void> check_cookie(const DiagCookie& wanted, u64 actual) {
    if (wanted.words[0] == no_cookie && wanted.words[1] == no_cookie)
        return {};
    const DiagCookie own = DiagCookie::of(actual);
    return wanted.words[0] == own.words[0] && wanted.words[1] == own.words[1]
               ? Result<void>()
               : Result<void>(fail(ESTALE));
}

u64 cookie_of_inode(u64 inode) {
    return hash_mix(inode);
}

u32 uid_for(const Endpoint* reader, u32 global) {
    const Credentials* who = reader == nullptr ? nullptr : reader->opener.get();
    return from_global_id(who == nullptr ? nullptr : who->user_space(), false, global);
}

bool may_administer(const Endpoint* reader) {
    return reader == nullptr || !reader->opener ||
           capable_in(*reader->opener, reader->stack().owner(), CAP_NET_ADMIN);
}

void start_sock_diag() {
    register_protocol(sock_diag_protocol);
}

} // namespace kernel::net::netlink
