// udp(7), ip(7), ipv6(7), socket(7): datagrams over the loopback of a network namespace of its own.
#include <csignal>
#include <cstdint>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/udp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/guest/check.hpp"

namespace {

sockaddr_in address4(const char* text, int port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(static_cast<uint16_t>(port));
    CHECK(inet_pton(AF_INET, text, &out.sin_addr) == 1);
    return out;
}

sockaddr_in6 address6(const char* text, int port) {
    sockaddr_in6 out{};
    out.sin6_family = AF_INET6;
    out.sin6_port = htons(static_cast<uint16_t>(port));
    CHECK(inet_pton(AF_INET6, text, &out.sin6_addr) == 1);
    return out;
}

template <typename A>
const sockaddr* general(const A& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

template <typename A>
int bound(const A& address, int family, int extra = 0) {
    const int fd = socket(family, SOCK_DGRAM | extra, 0);
    CHECK(fd >= 0);
    CHECK(bind(fd, general(address), sizeof address) == 0);
    return fd;
}

int port_of(int fd) {
    sockaddr_storage name{};
    socklen_t length = sizeof name;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) == 0);
    return ntohs(reinterpret_cast<sockaddr_in*>(&name)->sin_port);
}

void set(int fd, int level, int name, int value) {
    CHECK(setsockopt(fd, level, name, &value, sizeof value) == 0);
}

int get(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, level, name, &value, &length) == 0);
    return value;
}

int poll_now(int fd, short events = POLLIN | POLLOUT) {
    pollfd one{fd, events, 0};
    CHECK(poll(&one, 1, 0) >= 0);
    return one.revents;
}

void loopback_up() {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(fd >= 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    CHECK(ioctl(fd, SIOCGIFFLAGS, &request) == 0);
    CHECK((request.ifr_flags & IFF_LOOPBACK) != 0);
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
    CHECK(ioctl(fd, SIOCGIFFLAGS, &request) == 0);
    CHECK((request.ifr_flags & IFF_UP) != 0);
    close(fd);
}

// A namespace of its own: as root, or with a user namespace.
void own_network() {
    if (unshare(CLONE_NEWNET) != 0)
        CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0);
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(fd >= 0);
    const sockaddr_in nowhere = address4("127.0.0.1", 9);
    CHECK_FAILS(sendto(fd, "x", 1, 0, general(nowhere), sizeof nowhere), ENETUNREACH);
    close(fd);
    loopback_up();
}

void data_and_names() {
    const int server = bound(address4("127.0.0.1", 0), AF_INET);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to = address4("127.0.0.1", port_of(server));
    CHECK(port_of(server) != 0);
    CHECK(poll_now(server) == POLLOUT);
    CHECK(sendto(client, "hello", 5, 0, general(to), sizeof to) == 5);
    CHECK(port_of(client) != 0); // bound by sending
    CHECK(poll_now(server) == (POLLIN | POLLOUT));
    int waiting = 0;
    CHECK(ioctl(server, FIONREAD, &waiting) == 0 && waiting == 5);
    char text[16];
    sockaddr_in from{};
    socklen_t length = sizeof from;
    CHECK(recvfrom(server, text, 2, MSG_PEEK | MSG_TRUNC, nullptr, nullptr) == 5);
    CHECK(recvfrom(server, text, sizeof text, 0, reinterpret_cast<sockaddr*>(&from), &length) == 5);
    CHECK(std::memcmp(text, "hello", 5) == 0 && length == sizeof from);
    CHECK(from.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    CHECK(ntohs(from.sin_port) == port_of(client));
    CHECK_FAILS(recv(server, text, sizeof text, MSG_DONTWAIT), EAGAIN);
    // An empty datagram is one.
    CHECK(sendto(client, "", 0, 0, general(to), sizeof to) == 0);
    CHECK(recv(server, text, sizeof text, 0) == 0);
    // What does not fit is lost, and told.
    CHECK(sendto(client, "truncated", 9, 0, general(to), sizeof to) == 9);
    iovec vector{text, 4};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    CHECK(recvmsg(server, &message, 0) == 4 && (message.msg_flags & MSG_TRUNC) != 0);
    CHECK_FAILS(send(client, "x", 1, 0), EDESTADDRREQ);
    sockaddr_in none = to;
    none.sin_port = 0;
    CHECK_FAILS(sendto(client, "x", 1, 0, general(none), sizeof none), EINVAL);
    CHECK_FAILS(sendto(client, "x", 1, MSG_OOB, general(to), sizeof to), EOPNOTSUPP);
    CHECK_FAILS(bind(server, general(to), sizeof to), EINVAL);
    const sockaddr_in foreign = address4("203.0.113.5", 0);
    CHECK_FAILS(bind(socket(AF_INET, SOCK_DGRAM, 0), general(foreign), sizeof foreign),
                EADDRNOTAVAIL);
    CHECK_FAILS(bind(socket(AF_INET, SOCK_DGRAM, 0), general(to), sizeof to), EADDRINUSE);
    CHECK_FAILS(listen(server, 1), EOPNOTSUPP);
    CHECK_FAILS(shutdown(server, SHUT_RD), ENOTCONN);
    close(server);
    close(client);
}

void large_datagrams() {
    const int server = bound(address4("127.0.0.1", 0), AF_INET);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to = address4("127.0.0.1", port_of(server));
    std::vector<char> sent(65507), got(70000);
    for (size_t i = 0; i < sent.size(); i++)
        sent[i] = static_cast<char>(i * 31 >> 3);
    for (const size_t size :
         {size_t{1}, size_t{1472}, size_t{1473}, size_t{9000}, size_t{40000}, size_t{65507}}) {
        CHECK(sendto(client, sent.data(), size, 0, general(to), sizeof to) ==
              static_cast<ssize_t>(size));
        CHECK(recv(server, got.data(), got.size(), 0) == static_cast<ssize_t>(size));
        CHECK(std::memcmp(got.data(), sent.data(), size) == 0);
    }
    sent.resize(65508);
    CHECK_FAILS(sendto(client, sent.data(), sent.size(), 0, general(to), sizeof to), EMSGSIZE);
    close(server);
    close(client);
}

void connected() {
    const int server = bound(address4("127.0.0.1", 0), AF_INET);
    const int other = bound(address4("127.0.0.1", 0), AF_INET);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in to = address4("127.0.0.1", port_of(server));
    CHECK(connect(client, general(to), sizeof to) == 0);
    sockaddr_in name{};
    socklen_t length = sizeof name;
    CHECK(getpeername(client, reinterpret_cast<sockaddr*>(&name), &length) == 0);
    CHECK(name.sin_port == to.sin_port);
    CHECK(send(client, "a", 1, 0) == 1);
    char byte = 0;
    CHECK(recv(server, &byte, 1, 0) == 1 && byte == 'a');
    // Only the peer is heard.
    const sockaddr_in back = address4("127.0.0.1", port_of(client));
    CHECK(sendto(other, "x", 1, 0, general(back), sizeof back) == 1);
    CHECK_FAILS(recv(client, &byte, 1, MSG_DONTWAIT), EAGAIN);
    CHECK(sendto(server, "y", 1, 0, general(back), sizeof back) == 1);
    CHECK(recv(client, &byte, 1, 0) == 1 && byte == 'y');
    CHECK(get(client, IPPROTO_IP, IP_MTU) == 65535);
    // Nobody at the other end any more: an error, once.
    close(server);
    CHECK(send(client, "b", 1, 0) == 1);
    CHECK((poll_now(client) & POLLERR) != 0);
    CHECK(get(client, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
    CHECK(send(client, "c", 1, 0) == 1);
    CHECK_FAILS(send(client, "d", 1, 0), ECONNREFUSED);
    sockaddr none{};
    none.sa_family = AF_UNSPEC;
    CHECK(connect(client, &none, sizeof none) == 0);
    CHECK_FAILS(getpeername(client, reinterpret_cast<sockaddr*>(&name), &length), ENOTCONN);
    close(client);
    close(other);
}

void blocking_and_timeouts() {
    const int server = bound(address4("127.0.0.1", 0), AF_INET);
    const sockaddr_in to = address4("127.0.0.1", port_of(server));
    std::thread sender([&] {
        const int fd = socket(AF_INET, SOCK_DGRAM, 0);
        CHECK(sendto(fd, "late", 4, 0, general(to), sizeof to) == 4);
        close(fd);
    });
    char text[8];
    CHECK(recv(server, text, sizeof text, 0) == 4);
    sender.join();
    const timeval patience{0, 10'000};
    CHECK(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    CHECK_FAILS(recv(server, text, sizeof text, 0), EAGAIN);
    close(server);
}

// The receive buffer is a limit; what it does not take is lost, not the sender's problem.
void buffer_limit() {
    const int server = bound(address4("127.0.0.1", 0), AF_INET);
    set(server, SOL_SOCKET, SO_RCVBUF, 8192);
    CHECK(get(server, SOL_SOCKET, SO_RCVBUF) == 16384);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to = address4("127.0.0.1", port_of(server));
    char block[1000] = {};
    for (int i = 0; i < 1000; i++)
        CHECK(sendto(client, block, sizeof block, 0, general(to), sizeof to) == 1000);
    int arrived = 0;
    while (recv(server, block, sizeof block, MSG_DONTWAIT) == 1000)
        arrived++;
    CHECK(arrived >= 2 && arrived < 100);
    close(server);
    close(client);
}

struct Control {
    alignas(cmsghdr) char bytes[512];
    msghdr message{};
    iovec vector{};
    char data[64] = {};
    sockaddr_storage name{};

    ssize_t receive(int fd, int flags = 0) {
        vector = {data, sizeof data};
        message = {};
        message.msg_name = &name;
        message.msg_namelen = sizeof name;
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        message.msg_control = bytes;
        message.msg_controllen = sizeof bytes;
        return recvmsg(fd, &message, flags);
    }
    template <typename T>
    const T* find(int level, int type) {
        for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at))
            if (at->cmsg_level == level && at->cmsg_type == type)
                return reinterpret_cast<const T*>(CMSG_DATA(at));
        return nullptr;
    }
};

void control_messages() {
    const int server = bound(address4("0.0.0.0", 0), AF_INET);
    set(server, IPPROTO_IP, IP_PKTINFO, 1);
    set(server, IPPROTO_IP, IP_RECVTTL, 1);
    set(server, IPPROTO_IP, IP_RECVTOS, 1);
    set(server, SOL_SOCKET, SO_TIMESTAMPNS, 1);
    CHECK(get(server, IPPROTO_IP, IP_PKTINFO) == 1);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    set(client, IPPROTO_IP, IP_TTL, 7);
    set(client, IPPROTO_IP, IP_TOS, 0x10);
    CHECK(get(client, IPPROTO_IP, IP_TTL) == 7 && get(client, IPPROTO_IP, IP_TOS) == 0x10);
    const sockaddr_in to = address4("127.0.0.2", port_of(server));
    CHECK(sendto(client, "m", 1, 0, general(to), sizeof to) == 1);
    Control control;
    CHECK(control.receive(server) == 1);
    const auto* info = control.find<in_pktinfo>(IPPROTO_IP, IP_PKTINFO);
    CHECK(info != nullptr && info->ipi_addr.s_addr == to.sin_addr.s_addr);
    CHECK(info->ipi_ifindex == static_cast<int>(if_nametoindex("lo")));
    const int* ttl = control.find<int>(IPPROTO_IP, IP_TTL);
    CHECK(ttl != nullptr && *ttl == 7);
    const uint8_t* tos = control.find<uint8_t>(IPPROTO_IP, IP_TOS);
    CHECK(tos != nullptr && *tos == 0x10);
    const timespec* stamp = control.find<timespec>(SOL_SOCKET, SO_TIMESTAMPNS);
    CHECK(stamp != nullptr && stamp->tv_sec > 1'000'000'000);
    // A source that the message names.
    msghdr message{};
    iovec vector{const_cast<char*>("s"), 1};
    alignas(cmsghdr) char bytes[CMSG_SPACE(sizeof(in_pktinfo))] = {};
    message.msg_name = const_cast<sockaddr_in*>(&to);
    message.msg_namelen = sizeof to;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = bytes;
    message.msg_controllen = sizeof bytes;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = IPPROTO_IP;
    header->cmsg_type = IP_PKTINFO;
    header->cmsg_len = CMSG_LEN(sizeof(in_pktinfo));
    in_pktinfo wanted{};
    wanted.ipi_spec_dst.s_addr = htonl(0x7f000009);
    std::memcpy(CMSG_DATA(header), &wanted, sizeof wanted);
    CHECK(sendmsg(client, &message, 0) == 1);
    CHECK(control.receive(server) == 1);
    CHECK(reinterpret_cast<sockaddr_in*>(&control.name)->sin_addr.s_addr == htonl(0x7f000009));
    // Too little room: cut, and told.
    CHECK(sendto(client, "m", 1, 0, general(to), sizeof to) == 1);
    control.vector = {control.data, sizeof control.data};
    control.message.msg_controllen = 20;
    CHECK(recvmsg(server, &control.message, 0) == 1);
    CHECK((control.message.msg_flags & MSG_CTRUNC) != 0);
    close(server);
    close(client);
}

void error_queue() {
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    set(client, IPPROTO_IP, IP_RECVERR, 1);
    const int gone = bound(address4("127.0.0.1", 0), AF_INET);
    const sockaddr_in to = address4("127.0.0.1", port_of(gone));
    close(gone);
    CHECK(sendto(client, "lost", 4, 0, general(to), sizeof to) == 4);
    CHECK((poll_now(client) & POLLERR) != 0);
    Control control;
    CHECK(control.receive(client, MSG_ERRQUEUE) == 4);
    CHECK((control.message.msg_flags & MSG_ERRQUEUE) != 0);
    CHECK(std::memcmp(control.data, "lost", 4) == 0);
    CHECK(reinterpret_cast<sockaddr_in*>(&control.name)->sin_port == to.sin_port);
    const auto* error = control.find<sock_extended_err>(IPPROTO_IP, IP_RECVERR);
    CHECK(error != nullptr && error->ee_errno == ECONNREFUSED);
    CHECK(error->ee_origin == SO_EE_ORIGIN_ICMP && error->ee_type == ICMP_DEST_UNREACH &&
          error->ee_code == ICMP_PORT_UNREACH);
    const auto* offender = reinterpret_cast<const sockaddr_in*>(error + 1);
    CHECK(offender->sin_family == AF_INET && offender->sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    CHECK_FAILS(control.receive(client, MSG_ERRQUEUE | MSG_DONTWAIT), EAGAIN);
    close(client);
}

void dual_stack() {
    const int six = bound(address6("::", 0), AF_INET6);
    const int port = port_of(six);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to4 = address4("127.0.0.1", port);
    CHECK(sendto(client, "4", 1, 0, general(to4), sizeof to4) == 1);
    char byte = 0;
    sockaddr_in6 from{};
    socklen_t length = sizeof from;
    CHECK(recvfrom(six, &byte, 1, 0, reinterpret_cast<sockaddr*>(&from), &length) == 1);
    CHECK(length == sizeof from && from.sin6_family == AF_INET6 &&
          IN6_IS_ADDR_V4MAPPED(&from.sin6_addr));
    CHECK(sendto(six, "5", 1, 0, general(from), sizeof from) == 1);
    CHECK(recv(client, &byte, 1, 0) == 1 && byte == '5');
    const sockaddr_in6 to6 = address6("::1", port);
    const int client6 = socket(AF_INET6, SOCK_DGRAM, 0);
    CHECK(sendto(client6, "6", 1, 0, general(to6), sizeof to6) == 1);
    CHECK(recv(six, &byte, 1, 0) == 1 && byte == '6');
    CHECK_FAILS(bind(client, general(address4("0.0.0.0", port)), sizeof(sockaddr_in)), EINVAL);
    const int other = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_FAILS(bind(other, general(address4("0.0.0.0", port)), sizeof(sockaddr_in)), EADDRINUSE);
    const int only = socket(AF_INET6, SOCK_DGRAM, 0);
    set(only, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    CHECK(bind(only, general(address6("::", 0)), sizeof(sockaddr_in6)) == 0);
    CHECK(bind(other, general(address4("0.0.0.0", port_of(only))), sizeof(sockaddr_in)) == 0);
    const int zero = 0;
    CHECK_FAILS(setsockopt(only, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero), EINVAL);
    CHECK_FAILS(setsockopt(other, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero), ENOPROTOOPT);
    for (const int fd : {six, client, client6, other, only})
        close(fd);
}

void sharing_ports() {
    const int one = socket(AF_INET, SOCK_DGRAM, 0), two = socket(AF_INET, SOCK_DGRAM, 0);
    set(one, SOL_SOCKET, SO_REUSEPORT, 1);
    set(two, SOL_SOCKET, SO_REUSEPORT, 1);
    const sockaddr_in any = address4("127.0.0.1", 0);
    CHECK(bind(one, general(any), sizeof any) == 0);
    const sockaddr_in same = address4("127.0.0.1", port_of(one));
    CHECK(bind(two, general(same), sizeof same) == 0);
    int first = 0, second = 0;
    for (int i = 0; i < 64; i++) {
        const int client = socket(AF_INET, SOCK_DGRAM, 0);
        CHECK(sendto(client, "x", 1, 0, general(same), sizeof same) == 1);
        close(client);
        char byte = 0;
        if (recv(one, &byte, 1, MSG_DONTWAIT) == 1)
            first++;
        else if (recv(two, &byte, 1, MSG_DONTWAIT) == 1)
            second++;
    }
    CHECK(first + second == 64 && first > 0 && second > 0);
    close(one);
    close(two);
}

void segments() {
    const int server = bound(address4("127.0.0.1", 0), AF_INET);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to = address4("127.0.0.1", port_of(server));
    set(client, IPPROTO_UDP, UDP_SEGMENT, 1000);
    char data[2500], got[4000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = static_cast<char>(i / 10);
    CHECK(sendto(client, data, sizeof data, 0, general(to), sizeof to) == 2500);
    CHECK(recv(server, got, sizeof got, 0) == 1000);
    CHECK(std::memcmp(got, data, 1000) == 0);
    CHECK(recv(server, got, sizeof got, 0) == 1000);
    CHECK(recv(server, got, sizeof got, 0) == 500);
    CHECK(std::memcmp(got, data + 2000, 500) == 0);
    set(server, IPPROTO_UDP, UDP_GRO, 1);
    CHECK(sendto(client, data, sizeof data, 0, general(to), sizeof to) == 2500);
    iovec vector{got, sizeof got};
    alignas(cmsghdr) char bytes[64];
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = bytes;
    message.msg_controllen = sizeof bytes;
    CHECK(recvmsg(server, &message, 0) == 2500);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    CHECK(header != nullptr && header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_GRO);
    int size = 0;
    std::memcpy(&size, CMSG_DATA(header), sizeof size);
    CHECK(size == 1000);
    close(server);
    close(client);
}

void corking() {
    const int server = bound(address4("127.0.0.1", 0), AF_INET);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to = address4("127.0.0.1", port_of(server));
    CHECK(connect(client, general(to), sizeof to) == 0);
    char text[16];
    CHECK(send(client, "ab", 2, MSG_MORE) == 2 && send(client, "cd", 2, 0) == 2);
    CHECK(recv(server, text, sizeof text, 0) == 4 && std::memcmp(text, "abcd", 4) == 0);
    set(client, IPPROTO_UDP, UDP_CORK, 1);
    CHECK(send(client, "12", 2, 0) == 2 && send(client, "3", 1, 0) == 1);
    CHECK_FAILS(recv(server, text, sizeof text, MSG_DONTWAIT), EAGAIN);
    set(client, IPPROTO_UDP, UDP_CORK, 0);
    CHECK(recv(server, text, sizeof text, 0) == 3 && std::memcmp(text, "123", 3) == 0);
    // More than fits a datagram is refused from the start.
    const std::string large(65'510, 'x');
    CHECK_FAILS(send(client, large.data(), large.size(), MSG_MORE), EMSGSIZE);
    CHECK(send(client, "4", 1, 0) == 1);
    CHECK(recv(server, text, sizeof text, 0) == 1 && text[0] == '4');
    close(server);
    close(client);
}

// IP_FREEBIND is everybody's: to bind with, not to send in somebody else's name.
void foreign_sources() {
    const int server = bound(address4("127.0.0.1", 0), AF_INET);
    const sockaddr_in to = address4("127.0.0.1", port_of(server));
    const sockaddr_in foreign = address4("203.0.113.5", 0);
    char text[16] = {};
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    set(client, IPPROTO_IP, IP_FREEBIND, 1);
    CHECK(bind(client, general(foreign), sizeof foreign) == 0);
    for (const int flags : {0, int{MSG_MORE}})
        CHECK_FAILS(sendto(client, text, 1, flags, general(to), sizeof to), ENETUNREACH);
    CHECK_FAILS(connect(client, general(to), sizeof to), ENETUNREACH);
    close(client);
    const int stream = socket(AF_INET, SOCK_STREAM, 0);
    set(stream, IPPROTO_IP, IP_FREEBIND, 1);
    CHECK(bind(stream, general(foreign), sizeof foreign) == 0);
    CHECK_FAILS(connect(stream, general(to), sizeof to), ENETUNREACH);
    close(stream);
    // The last four bytes of an IPv6 address are no IPv4 address.
    const int six = bound(address6("::1", 0), AF_INET6);
    const sockaddr_in6 mapped = address6("::ffff:127.0.0.1", port_of(server));
    for (const int flags : {0, int{MSG_MORE}})
        CHECK_FAILS(sendto(six, text, 1, flags, general(mapped), sizeof mapped), ENETUNREACH);
    close(six);
    CHECK_FAILS(recv(server, text, sizeof text, MSG_DONTWAIT), EAGAIN);
    close(server);
}

void multicast() {
    const int member = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in any = address4("0.0.0.0", 0);
    CHECK(bind(member, general(any), sizeof any) == 0);
    ip_mreqn request{};
    request.imr_multiaddr.s_addr = htonl(0xe8010203);
    request.imr_ifindex = static_cast<int>(if_nametoindex("lo"));
    CHECK(setsockopt(member, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request) == 0);
    CHECK_FAILS(setsockopt(member, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request),
                EADDRINUSE);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(setsockopt(client, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request) == 0);
    CHECK(get(client, IPPROTO_IP, IP_MULTICAST_TTL) == 1);
    CHECK(get(client, IPPROTO_IP, IP_MULTICAST_LOOP) == 1);
    sockaddr_in to = address4("232.1.2.3", port_of(member));
    CHECK(sendto(client, "g", 1, 0, general(to), sizeof to) == 1);
    char byte = 0;
    CHECK(recv(member, &byte, 1, 0) == 1 && byte == 'g');
    CHECK(setsockopt(member, IPPROTO_IP, IP_DROP_MEMBERSHIP, &request, sizeof request) == 0);
    CHECK_FAILS(setsockopt(member, IPPROTO_IP, IP_DROP_MEMBERSHIP, &request, sizeof request),
                EADDRNOTAVAIL);
    close(member);
    close(client);
}

// A group has room for as many members as there are.
void many_members() {
    constexpr unsigned many = 150;
    ip_mreqn request{};
    request.imr_multiaddr.s_addr = htonl(0xe8010204);
    request.imr_ifindex = static_cast<int>(if_nametoindex("lo"));
    const int on = 1;
    std::vector<int> members;
    sockaddr_in to = address4("232.1.2.4", 0);
    while (members.size() < many) {
        members.push_back(socket(AF_INET, SOCK_DGRAM, 0));
        CHECK(setsockopt(members.back(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
        CHECK(bind(members.back(), general(to), sizeof to) == 0);
        CHECK(setsockopt(members.back(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request) ==
              0);
        to.sin_port = htons(static_cast<uint16_t>(port_of(members.front())));
    }
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(setsockopt(client, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request) == 0);
    CHECK(sendto(client, "g", 1, 0, general(to), sizeof to) == 1);
    for (const int fd : members) {
        char byte = 0;
        pollfd ready{fd, POLLIN, 0};
        CHECK(poll(&ready, 1, 5000) == 1);
        CHECK(recv(fd, &byte, 1, 0) == 1 && byte == 'g');
        CHECK_FAILS(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN); // once
        close(fd);
    }
    close(client);
}

void interfaces() {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    CHECK(ioctl(fd, SIOCGIFMTU, &request) == 0 && request.ifr_mtu == 65536);
    CHECK(ioctl(fd, SIOCGIFINDEX, &request) == 0 && request.ifr_ifindex == 1);
    CHECK(ioctl(fd, SIOCGIFADDR, &request) == 0);
    CHECK(reinterpret_cast<sockaddr_in*>(&request.ifr_addr)->sin_addr.s_addr ==
          htonl(INADDR_LOOPBACK));
    CHECK(ioctl(fd, SIOCGIFNETMASK, &request) == 0);
    CHECK(reinterpret_cast<sockaddr_in*>(&request.ifr_netmask)->sin_addr.s_addr ==
          htonl(0xff000000));
    ifreq list[4];
    ifconf all{};
    all.ifc_len = sizeof list;
    all.ifc_req = list;
    CHECK(ioctl(fd, SIOCGIFCONF, &all) == 0 && all.ifc_len == sizeof(ifreq));
    CHECK(std::strcmp(list[0].ifr_name, "lo") == 0);
    std::strcpy(request.ifr_name, "none0");
    CHECK_FAILS(ioctl(fd, SIOCGIFFLAGS, &request), ENODEV);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) == 0);
    char name[IFNAMSIZ] = {};
    socklen_t length = sizeof name;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &length) == 0);
    CHECK(std::strcmp(name, "lo") == 0);
    close(fd);
}

void many_messages() {
    const int server = bound(address4("127.0.0.1", 0), AF_INET);
    const int client = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to = address4("127.0.0.1", port_of(server));
    CHECK(connect(client, general(to), sizeof to) == 0);
    mmsghdr messages[8] = {};
    iovec vectors[8];
    char data[8];
    for (int i = 0; i < 8; i++) {
        data[i] = static_cast<char>('a' + i);
        vectors[i] = {&data[i], 1};
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    CHECK(sendmmsg(client, messages, 8, 0) == 8);
    char got[8] = {};
    for (int i = 0; i < 8; i++)
        vectors[i] = {&got[i], 1};
    CHECK(recvmmsg(server, messages, 8, 0, nullptr) == 8);
    CHECK(std::memcmp(got, "abcdefgh", 8) == 0);
    close(server);
    close(client);
}

void kinds_of_sockets() {
    CHECK_FAILS(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP), EPROTONOSUPPORT);
    CHECK_FAILS(socket(AF_INET, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
    CHECK_FAILS(socket(AF_INET, SOCK_RAW, 0), EPROTONOSUPPORT);
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP);
    CHECK(fd >= 0);
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(get(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET && get(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM &&
          get(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_UDP);
    char byte = 0;
    CHECK_FAILS(read(fd, &byte, 1), EAGAIN);
    close(fd);
}

// UDP-Lite: udplite(7), RFC 3828.
void lite() {
    constexpr int send_coverage = 10, receive_coverage = 11; // UDPLITE_SEND_CSCOV, _RECV_CSCOV
    const int server = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
    CHECK(server >= 0 && get(server, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_UDPLITE);
    sockaddr_in at = address4("127.0.0.1", 0);
    CHECK(bind(server, general(at), sizeof at) == 0);
    at = address4("127.0.0.1", port_of(server));
    // Its ports are others than UDP's.
    const int plain = socket(AF_INET, SOCK_DGRAM, 0), other = socket(AF_INET, SOCK_DGRAM, 136);
    CHECK(bind(plain, general(at), sizeof at) == 0);
    CHECK_FAILS(bind(other, general(at), sizeof at), EADDRINUSE);
    CHECK(get(other, IPPROTO_UDPLITE, send_coverage) == 0);
    set(other, IPPROTO_UDPLITE, send_coverage, 3); // at least the header
    CHECK(get(other, IPPROTO_UDPLITE, send_coverage) == 8);
    set(other, IPPROTO_UDPLITE, send_coverage, 12);
    CHECK(connect(other, general(at), sizeof at) == 0);
    char text[16] = {};
    for (const char* sent : {"partly covered", "yes", ""}) {
        const size_t length = std::strlen(sent);
        CHECK(send(other, sent, length, 0) == static_cast<ssize_t>(length));
        CHECK(recv(server, text, sizeof text, 0) == static_cast<ssize_t>(length));
        CHECK(std::memcmp(text, sent, length) == 0);
    }
    // Who wants more covered does not get less.
    set(server, IPPROTO_UDPLITE, receive_coverage, 16);
    CHECK(send(other, "partly covered", 14, 0) == 14);
    set(other, IPPROTO_UDPLITE, send_coverage, 0);
    CHECK(send(other, "whole", 5, 0) == 5);
    CHECK(recv(server, text, sizeof text, 0) == 5 && std::memcmp(text, "whole", 5) == 0);
    CHECK(poll_now(plain) == POLLOUT);
    int value = 8;
    CHECK_FAILS(setsockopt(plain, IPPROTO_UDP, send_coverage, &value, sizeof value), ENOPROTOOPT);
    CHECK(close(server) == 0);
    CHECK(send(other, "x", 1, 0) == 1);
    CHECK_FAILS(recv(other, text, sizeof text, 0), ECONNREFUSED);
    const int six = socket(AF_INET6, SOCK_DGRAM, IPPROTO_UDPLITE);
    sockaddr_in6 there = address6("::1", 0);
    CHECK(bind(six, general(there), sizeof there) == 0);
    there = address6("::1", port_of(six));
    CHECK(sendto(six, "six", 3, 0, general(there), sizeof there) == 3);
    CHECK(recv(six, text, sizeof text, 0) == 3);
    for (const int fd : {plain, other, six})
        close(fd);
}

} // namespace

int main() {
    own_network();
    kinds_of_sockets();
    data_and_names();
    large_datagrams();
    connected();
    blocking_and_timeouts();
    buffer_limit();
    control_messages();
    error_queue();
    dual_stack();
    sharing_ports();
    segments();
    corking();
    foreign_sources();
    lite();
    multicast();
    many_members();
    interfaces();
    many_messages();
    return 0;
}
