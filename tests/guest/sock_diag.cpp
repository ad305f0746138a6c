// sock_diag(7): what ss(8) asks, in a network namespace of its own.
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <poll.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink_diag.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <linux/unix_diag.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/guest/check.hpp"
#include "tests/guest/netlink_support.hpp"
#include "tests/guest/network_support.hpp"

namespace {

constexpr uint16_t by_family = SOCK_DIAG_BY_FAMILY;
constexpr unsigned established = 1, closed = 7, listening = 10;
constexpr size_t after_inet = sizeof(inet_diag_msg), after_unix = sizeof(unix_diag_msg);

uint64_t inode_of(int fd) {
    struct stat about {};
    CHECK(fstat(fd, &about) == 0);
    return about.st_ino;
}

uint64_t cookie_of(int fd) {
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0);
    return cookie;
}

struct Pair {
    int listener = -1, client = -1, served = -1;
    sockaddr_in at{}, from{};
    Pair() {
        listener = socket(AF_INET, SOCK_STREAM, 0);
        at.sin_family = AF_INET;
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        CHECK(bind(listener, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
        CHECK(listen(listener, 5) == 0);
        socklen_t length = sizeof at;
        CHECK(getsockname(listener, reinterpret_cast<sockaddr*>(&at), &length) == 0);
        client = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(client, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
        length = sizeof from;
        served = accept(listener, reinterpret_cast<sockaddr*>(&from), &length);
        CHECK(served >= 0);
    }
    Pair(const Pair&) = delete;
    ~Pair() {
        close(client);
        close(served);
        close(listener);
    }
};

inet_diag_req_v2 query(uint8_t protocol, uint32_t states = ~0u, uint8_t extensions = 0) {
    inet_diag_req_v2 out{};
    out.sdiag_family = AF_INET;
    out.sdiag_protocol = protocol;
    out.idiag_states = states;
    out.idiag_ext = extensions;
    out.id.idiag_cookie[0] = out.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    return out;
}

uint8_t extension(unsigned which) {
    return static_cast<uint8_t>(1u << (which - 1));
}

Builder request_for(const inet_diag_req_v2& asked, uint16_t flags, uint16_t type = by_family) {
    Builder out(type, flags);
    out.put(asked);
    return out;
}

std::vector<Message> ask_all(const inet_diag_req_v2& asked, const std::vector<char>& filter = {}) {
    const int fd = open_socket(NETLINK_SOCK_DIAG);
    Builder request = request_for(asked, NLM_F_DUMP);
    if (!filter.empty())
        request.attribute(INET_DIAG_REQ_BYTECODE, filter.data(), filter.size());
    int pieces = 0;
    std::vector<Message> out = dump(fd, std::move(request), 65536, pieces);
    close(fd);
    return out;
}

// How a dump that cannot begin ends.
int refusal(Builder&& request) {
    const int fd = open_socket(NETLINK_SOCK_DIAG);
    request.send(fd);
    const std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1);
    CHECK(got[0].header.nlmsg_type == NLMSG_ERROR || got[0].header.nlmsg_type == NLMSG_DONE);
    close(fd);
    return -got[0].as<int>();
}

const Message* with_inode(const std::vector<Message>& all, uint64_t inode) {
    for (const Message& message : all)
        if (message.as<inet_diag_msg>().idiag_inode == static_cast<uint32_t>(inode))
            return &message;
    return nullptr;
}

void streams_are_listed() {
    Pair pair;
    CHECK(send(pair.client, "hello", 5, 0) == 5);
    pollfd ready{pair.served, POLLIN, 0};
    CHECK(poll(&ready, 1, 5000) == 1);
    const uint8_t wanted =
        static_cast<uint8_t>(extension(INET_DIAG_INFO) | extension(INET_DIAG_CONG) |
                             extension(INET_DIAG_SKMEMINFO) | extension(INET_DIAG_TOS));
    const std::vector<Message> all = ask_all(query(IPPROTO_TCP, ~0u, wanted));
    const Message* listener = with_inode(all, inode_of(pair.listener));
    const Message* client = with_inode(all, inode_of(pair.client));
    const Message* served = with_inode(all, inode_of(pair.served));
    CHECK(all.size() == 3 && listener != nullptr && client != nullptr && served != nullptr);
    const auto about = listener->as<inet_diag_msg>();
    CHECK(about.idiag_family == AF_INET && about.idiag_state == listening);
    CHECK(about.id.idiag_sport == pair.at.sin_port && about.id.idiag_dport == 0);
    CHECK(about.id.idiag_src[0] == htonl(INADDR_LOOPBACK) && about.id.idiag_src[1] == 0);
    CHECK(about.idiag_rqueue == 0 && about.idiag_wqueue == 5);
    const auto end = served->as<inet_diag_msg>();
    CHECK(end.idiag_state == established && end.idiag_rqueue == 5);
    CHECK(end.id.idiag_sport == pair.at.sin_port && end.id.idiag_dport == pair.from.sin_port);
    CHECK((uint64_t{end.id.idiag_cookie[1]} << 32 | end.id.idiag_cookie[0]) ==
          cookie_of(pair.served));
    for (const Message* one : {client, served}) {
        CHECK(one->attribute(after_inet, INET_DIAG_SHUTDOWN) == std::vector<char>{0});
        CHECK(one->attribute(after_inet, INET_DIAG_TOS) == std::vector<char>{0});
        CHECK(!one->text(after_inet, INET_DIAG_CONG).empty());
        CHECK(one->attribute(after_inet, INET_DIAG_SKMEMINFO).size() >= 8 * sizeof(uint32_t));
        const std::vector<char> info = one->attribute(after_inet, INET_DIAG_INFO);
        tcp_info own{};
        CHECK(info.size() >= offsetof(tcp_info, tcpi_bytes_sent));
        std::memcpy(&own, info.data(), std::min(info.size(), sizeof own));
        CHECK(own.tcpi_state == established && own.tcpi_snd_mss > 0 && own.tcpi_rto > 0);
        CHECK(own.tcpi_bytes_received == (one == served ? 5u : 0u));
    }
    // By state, and by port.
    CHECK(ask_all(query(IPPROTO_TCP, 1u << listening)).size() == 1);
    CHECK(ask_all(query(IPPROTO_TCP, 1u << established)).size() == 2);
    inet_diag_req_v2 to_port = query(IPPROTO_TCP);
    to_port.id.idiag_dport = pair.at.sin_port;
    const std::vector<Message> there = ask_all(to_port);
    CHECK(there.size() == 1 && with_inode(there, inode_of(pair.client)) != nullptr);
    inet_diag_req_v2 six = query(IPPROTO_TCP);
    six.sdiag_family = AF_INET6;
    CHECK(ask_all(six).empty());
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    CHECK(recv(pair.served, &ready, sizeof ready, 0) == 5);
    CHECK(recv(pair.served, &ready, sizeof ready, 0) == 0);
    const std::vector<Message> later = ask_all(query(IPPROTO_TCP, ~0u, wanted));
    const Message* half = with_inode(later, inode_of(pair.client));
    CHECK(half != nullptr);
    const unsigned state = half->as<inet_diag_msg>().idiag_state;
    CHECK(state == 4 || state == 5); // FIN_WAIT1, and 2 once that is acknowledged
    CHECK(half->attribute(after_inet, INET_DIAG_SHUTDOWN) == std::vector<char>{2});
}

void append_op(std::vector<char>& to, uint8_t code, uint8_t yes, uint16_t no) {
    const inet_diag_bc_op op{code, yes, no};
    const char* bytes = reinterpret_cast<const char*>(&op);
    to.insert(to.end(), bytes, bytes + sizeof op);
}

// A condition on the local address, alone.
std::vector<char> source_is(uint32_t address, uint8_t bits, int port) {
    std::vector<char> out;
    append_op(out, INET_DIAG_BC_S_COND, 4 + sizeof(inet_diag_hostcond) + 4,
              4 + sizeof(inet_diag_hostcond) + 4 + 4);
    inet_diag_hostcond condition{};
    condition.family = AF_INET;
    condition.prefix_len = bits;
    condition.port = port;
    const uint32_t wire = htonl(address);
    const char* bytes = reinterpret_cast<const char*>(&condition);
    out.insert(out.end(), bytes, bytes + sizeof condition);
    bytes = reinterpret_cast<const char*>(&wire);
    out.insert(out.end(), bytes, bytes + sizeof wire);
    return out;
}

void filters_choose() {
    Pair pair;
    const int port = ntohs(pair.at.sin_port);
    const auto count = [&](const std::vector<char>& filter) {
        // Without what is left of connections that were closed before.
        return ask_all(query(IPPROTO_TCP, 1u << established | 1u << listening), filter).size();
    };
    CHECK(count(source_is(0x7f000001, 32, -1)) == 3);
    CHECK(count(source_is(0x7f000001, 32, port)) == 2);
    CHECK(count(source_is(0x7e000000, 7, -1)) == 3);
    CHECK(count(source_is(0x7f000002, 32, -1)) == 0);
    std::vector<char> peers_port;
    append_op(peers_port, INET_DIAG_BC_D_EQ, 8, 12);
    append_op(peers_port, INET_DIAG_BC_NOP, 0, static_cast<uint16_t>(port));
    CHECK(count(peers_port) == 1);
    std::vector<char> unbound; // whose port was chosen for it
    append_op(unbound, INET_DIAG_BC_AUTO, 4, 8);
    const std::vector<Message> automatic = ask_all(query(IPPROTO_TCP), unbound);
    CHECK(with_inode(automatic, inode_of(pair.client)) != nullptr);

    const auto refused = [&](const std::vector<char>& filter) {
        Builder request = request_for(query(IPPROTO_TCP), NLM_F_DUMP);
        request.attribute(INET_DIAG_REQ_BYTECODE, filter.data(), filter.size());
        return refusal(std::move(request));
    };
    std::vector<char> bad;
    append_op(bad, 99, 4, 8);
    CHECK(refused(bad) == EINVAL);
    bad.clear();
    append_op(bad, INET_DIAG_BC_JMP, 4, 0); // in a circle
    CHECK(refused(bad) == EINVAL);
    bad.clear();
    append_op(bad, INET_DIAG_BC_AUTO, 4, 400); // far beyond
    CHECK(refused(bad) == EINVAL);
    bad = source_is(0x7f000001, 33, -1);
    CHECK(refused(bad) == EINVAL);
    CHECK(refused({}) == EINVAL);
}

void one_is_found() {
    Pair pair;
    const int fd = open_socket(NETLINK_SOCK_DIAG);
    inet_diag_req_v2 asked = query(IPPROTO_TCP);
    asked.id.idiag_sport = pair.from.sin_port;
    asked.id.idiag_dport = pair.at.sin_port;
    asked.id.idiag_src[0] = asked.id.idiag_dst[0] = htonl(INADDR_LOOPBACK);
    request_for(asked, 0).send(fd);
    const std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1 && got[0].header.nlmsg_type == by_family);
    CHECK(got[0].as<inet_diag_msg>().idiag_inode == inode_of(pair.client));
    inet_diag_req_v2 stale = asked;
    stale.id.idiag_cookie[0] = stale.id.idiag_cookie[1] = 1;
    CHECK(ask(fd, request_for(stale, 0)) == ENOENT);
    inet_diag_req_v2 nobody = asked;
    nobody.id.idiag_sport = nobody.id.idiag_dport = htons(1);
    CHECK(ask(fd, request_for(nobody, 0)) == ENOENT);
    inet_diag_req_v2 other = asked;
    other.sdiag_protocol = 200;
    CHECK(ask(fd, request_for(other, 0)) == ENOENT);
    other.sdiag_family = 200;
    CHECK(ask(fd, request_for(other, 0)) == EINVAL);
    Builder tiny(by_family, 0);
    tiny.put(uint8_t{AF_INET});
    CHECK(ask(fd, std::move(tiny)) == EINVAL);
    // A protocol that nobody has, by its long number.
    Builder longer = request_for(query(IPPROTO_TCP), NLM_F_DUMP);
    longer.number(INET_DIAG_REQ_PROTOCOL, 261);
    CHECK(refusal(std::move(longer)) == ENOENT);
    close(fd);
}

void connections_are_destroyed() {
    Pair pair;
    const int fd = open_socket(NETLINK_SOCK_DIAG);
    inet_diag_req_v2 asked = query(IPPROTO_TCP);
    asked.id.idiag_sport = pair.from.sin_port;
    asked.id.idiag_dport = pair.at.sin_port;
    asked.id.idiag_src[0] = asked.id.idiag_dst[0] = htonl(INADDR_LOOPBACK);
    const int destroyed = ask(fd, request_for(asked, NLM_F_ACK, SOCK_DESTROY));
    CHECK(destroyed == 0);
    char byte = 0;
    CHECK_FAILS(recv(pair.client, &byte, 1, MSG_DONTWAIT), ECONNABORTED);
    CHECK_FAILS(recv(pair.served, &byte, 1, 0), ECONNRESET);
    CHECK(ask(fd, request_for(asked, NLM_F_ACK, SOCK_DESTROY)) == ENOENT ||
          with_inode(ask_all(query(IPPROTO_TCP)), inode_of(pair.client)) == nullptr);
    close(fd);
}

void datagram_sockets() {
    const int plain = socket(AF_INET, SOCK_DGRAM, 0), connected = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(plain, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    socklen_t length = sizeof at;
    CHECK(getsockname(plain, reinterpret_cast<sockaddr*>(&at), &length) == 0);
    CHECK(connect(connected, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    CHECK(send(connected, "abc", 3, 0) == 3);
    const std::vector<Message> all =
        ask_all(query(IPPROTO_UDP, ~0u, extension(INET_DIAG_SKMEMINFO)));
    const Message* first = with_inode(all, inode_of(plain));
    const Message* second = with_inode(all, inode_of(connected));
    CHECK(all.size() == 2 && first != nullptr && second != nullptr);
    CHECK(first->as<inet_diag_msg>().idiag_state == closed);
    CHECK(first->as<inet_diag_msg>().idiag_rqueue > 3); // with what keeping it costs
    CHECK(second->as<inet_diag_msg>().idiag_state == established);
    CHECK(second->as<inet_diag_msg>().id.idiag_dport == at.sin_port);
    CHECK(ask_all(query(IPPROTO_UDP, 1u << established)).size() == 1);
    close(plain);
    close(connected);
}

unix_diag_req unix_query(uint32_t show, uint32_t inode = 0, uint32_t states = ~0u) {
    unix_diag_req out{};
    out.sdiag_family = AF_UNIX;
    out.udiag_states = states;
    out.udiag_show = show;
    out.udiag_ino = inode;
    out.udiag_cookie[0] = out.udiag_cookie[1] = INET_DIAG_NOCOOKIE;
    return out;
}

Message unix_socket(int of, uint32_t show) {
    const int fd = open_socket(NETLINK_SOCK_DIAG);
    Builder request(by_family, 0);
    request.put(unix_query(show, static_cast<uint32_t>(inode_of(of))));
    request.send(fd);
    std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1 && got[0].header.nlmsg_type == by_family);
    close(fd);
    return std::move(got[0]);
}

void unix_sockets() {
    char place[] = "/tmp/sock-diag-XXXXXX";
    CHECK(mkdtemp(place) != nullptr);
    const std::string path = std::string(place) + "/name";
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strcpy(name.sun_path, path.c_str());
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(listener, reinterpret_cast<sockaddr*>(&name), sizeof name) == 0);
    CHECK(listen(listener, 7) == 0);
    CHECK(connect(client, reinterpret_cast<sockaddr*>(&name), sizeof name) == 0);
    constexpr uint32_t everything = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER |
                                    UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID;
    const Message waits = unix_socket(listener, everything);
    CHECK(waits.as<unix_diag_msg>().udiag_state == listening);
    CHECK(waits.as<unix_diag_msg>().udiag_type == SOCK_STREAM);
    CHECK(waits.text(after_unix, UNIX_DIAG_NAME) == path);
    struct stat bound {};
    CHECK(stat(path.c_str(), &bound) == 0);
    CHECK(waits.number(after_unix, UNIX_DIAG_VFS) == static_cast<uint32_t>(bound.st_ino));
    const std::vector<char> pending = waits.attribute(after_unix, UNIX_DIAG_ICONS);
    uint32_t who = 0;
    CHECK(pending.size() == sizeof who);
    std::memcpy(&who, pending.data(), sizeof who);
    CHECK(who == inode_of(client));
    const std::vector<char> lengths = waits.attribute(after_unix, UNIX_DIAG_RQLEN);
    unix_diag_rqlen queue{};
    CHECK(lengths.size() == sizeof queue);
    std::memcpy(&queue, lengths.data(), sizeof queue);
    CHECK(queue.udiag_rqueue == 1 && queue.udiag_wqueue == 7);
    const int served = accept(listener, nullptr, nullptr);
    CHECK(write(client, "abc", 3) == 3);
    const Message end = unix_socket(served, everything);
    CHECK(end.as<unix_diag_msg>().udiag_state == established);
    CHECK(end.number(after_unix, UNIX_DIAG_PEER) == inode_of(client));
    CHECK(end.number(after_unix, UNIX_DIAG_RQLEN) == 3);
    CHECK(end.number(after_unix, UNIX_DIAG_UID) == getuid());
    const int fd = open_socket(NETLINK_SOCK_DIAG);
    Builder none(by_family, 0);
    none.put(unix_query(0));
    CHECK(ask(fd, std::move(none)) == EINVAL);
    Builder listeners(by_family, NLM_F_DUMP);
    listeners.put(unix_query(UDIAG_SHOW_NAME, 0, 1u << listening));
    int pieces = 0;
    bool seen = false;
    for (const Message& message : dump(fd, std::move(listeners), 65536, pieces)) {
        CHECK(message.as<unix_diag_msg>().udiag_state == listening);
        seen = seen || message.as<unix_diag_msg>().udiag_ino == inode_of(listener);
    }
    CHECK(seen);
    for (const int one : {fd, served, client, listener})
        close(one);
    unlink(path.c_str());
    rmdir(place);
}

// Those of the other two families say who has them.
void netlink_sockets() {
    const int of = open_socket();
    sockaddr_nl own{};
    own.nl_family = AF_NETLINK;
    own.nl_pid = 4'711'000;
    own.nl_groups = 1u << (RTNLGRP_NEIGH - 1);
    CHECK(bind(of, general(own), sizeof own) == 0);
    netlink_diag_req asked{};
    asked.sdiag_family = AF_NETLINK;
    asked.sdiag_protocol = NETLINK_ROUTE;
    asked.ndiag_show = NDIAG_SHOW_GROUPS | NDIAG_SHOW_MEMINFO | NDIAG_SHOW_FLAGS;
    const int fd = open_socket(NETLINK_SOCK_DIAG);
    Builder request(by_family, NLM_F_DUMP);
    request.put(asked);
    int pieces = 0;
    bool seen = false;
    for (const Message& message : dump(fd, std::move(request), 65536, pieces)) {
        const auto about = message.as<netlink_diag_msg>();
        CHECK(about.ndiag_family == AF_NETLINK && about.ndiag_protocol == NETLINK_ROUTE);
        if (about.ndiag_portid != own.nl_pid)
            continue;
        seen = true;
        CHECK(about.ndiag_type == SOCK_RAW && about.ndiag_ino == inode_of(of));
        CHECK(message.number(sizeof about, NETLINK_DIAG_GROUPS) == own.nl_groups);
        CHECK(message.number(sizeof about, NETLINK_DIAG_FLAGS) == 0);
    }
    CHECK(seen);
    close(fd);
    close(of);
}

} // namespace

int main() {
    own_network();
    streams_are_listed();
    filters_choose();
    one_is_found();
    connections_are_destroyed();
    datagram_sockets();
    unix_sockets();
    netlink_sockets();
    return 0;
}
