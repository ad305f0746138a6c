// ip(7), ipv6(7), tcp(7), udp(7): what options of sockets take, what they answer, and what they
// are refused by; those that hand headers to programs.
#include <cstdint>
#include <poll.h>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <linux/in6.h>
#include <linux/udp.h>
#include <netinet/ip.h>

#include "tests/guest/network_support.hpp"
#include "tests/guest/tcp_support.hpp"

using namespace tcp_tests;

// linux/in.h does not stand beside netinet/in.h.
#ifndef IP_RECVERR_RFC4884
#define IP_RECVERR_RFC4884 26
#endif
#ifndef TCP_TX_DELAY
#define TCP_TX_DELAY 37
#endif

namespace {

constexpr int unasked = -1000; // not to be got
struct Row {
    int family, type, protocol, level, name, given;
    int error; // of setting it; 0: it is taken
    int shown; // then
};

void table() {
    const Row rows[] = {
        {AF_INET, SOCK_STREAM, 0, IPPROTO_TCP, TCP_TX_DELAY, 5000, 0, 5000},
        {AF_INET, SOCK_STREAM, 0, IPPROTO_TCP, TCP_TX_DELAY, -1, EINVAL, 0},
        {AF_INET, SOCK_STREAM, 0, IPPROTO_TCP, TCP_TIMESTAMP, 1, EPERM, unasked},
        {AF_INET, SOCK_STREAM, 0, IPPROTO_TCP, TCP_REPAIR_QUEUE, 1, EPERM, unasked},
        {AF_INET, SOCK_STREAM, 0, IPPROTO_TCP, TCP_REPAIR_OPTIONS, 1, EINVAL, unasked},
        {AF_INET, SOCK_STREAM, 0, IPPROTO_TCP, TCP_FASTOPEN_KEY, 1, EINVAL, unasked},
        {AF_INET, SOCK_STREAM, 0, IPPROTO_TCP, TCP_SAVED_SYN, 1, ENOPROTOOPT, unasked},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_UDP, UDP_ENCAP, 0, 0, 0},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_UDP, UDP_ENCAP, 3, 0, 3},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_UDP, UDP_ENCAP, 4, ENOPROTOOPT, 0},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_UDP, UDP_ENCAP, 99, ENOPROTOOPT, 0},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_RETOPTS, 7, 0, 1},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_RECVOPTS, 7, 0, 1},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_PASSSEC, 2, 0, 1},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_CHECKSUM, 1, 0, 1},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_RECVERR_RFC4884, 1, 0, 1},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_RECVERR_RFC4884, 2, EINVAL, 0},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_MULTICAST_ALL, 0, 0, 0},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_MULTICAST_ALL, 2, EINVAL, 1},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_NODEFRAG, 1, ENOPROTOOPT, 0},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_RECVFRAGSIZE, 1, 0, 1},
        {AF_INET, SOCK_STREAM, 0, IPPROTO_IP, IP_RECVFRAGSIZE, 1, EINVAL, 0},
        {AF_INET, SOCK_STREAM, 0, IPPROTO_IP, IP_MULTICAST_IF, 0, EINVAL, 0},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_UNICAST_IF, 1 << 24, 0, 1 << 24},
        {AF_INET, SOCK_DGRAM, 0, IPPROTO_IP, IP_UNICAST_IF, 77 << 16, EADDRNOTAVAIL, 0},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_UNICAST_IF, 1 << 24, 0, 1 << 24},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_UNICAST_IF, 77 << 16, EADDRNOTAVAIL, 0},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_RECVERR_RFC4884, 1, 0, 1},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_RECVERR_RFC4884, -1, EINVAL, 0},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_ROUTER_ALERT_ISOLATE, 3, 0, 1},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 2, EINVAL, 1},
        {AF_INET6, SOCK_STREAM, 0, IPPROTO_IPV6, IPV6_MULTICAST_IF, 0, ENOPROTOOPT, 0},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_2292HOPOPTS, 4, 0, 1},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_2292RTHDR, 4, 0, 1},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_2292DSTOPTS, 4, 0, 1},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_RECVHOPOPTS, 4, 0, 1},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, 0, 0, 0x500},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, 1, 0, 0x401},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, 6, 0, 6},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, 3, EINVAL, 0x500},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, 0x808, EINVAL, 0x500},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET, ENOTCONN, unasked},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET6, EINVAL, unasked},
        {AF_INET6, SOCK_DGRAM, 0, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0, 0, 0},
    };
    for (const Row& row : rows) {
        const int fd = socket(row.family, row.type, row.protocol);
        CHECK(fd >= 0);
        errno = 0;
        const int result = try_set(fd, row.level, row.name, row.given);
        const int error = result == 0 ? 0 : errno;
        const int shown = row.shown == unasked ? unasked : get(fd, row.level, row.name);
        if (error != row.error || shown != row.shown)
            std::fprintf(stderr, "level %d option %d set to %d: errno %d, shown %d\n", row.level,
                         row.name, row.given, error, shown);
        CHECK(error == row.error && shown == row.shown);
        close(fd);
    }
}

void answers() {
    const int fd = stream(), six = socket(AF_INET6, SOCK_DGRAM, 0);
    CHECK(get(six, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL) == 1);
    CHECK(get(six, IPPROTO_IPV6, IPV6_ADDR_PREFERENCES) == 0x500);
    char text[64];
    for (const int name : {TCP_ULP, TCP_FASTOPEN_KEY, TCP_SAVED_SYN}) {
        socklen_t length = sizeof text;
        CHECK(getsockopt(fd, IPPROTO_TCP, name, text, &length) == 0 && length == 0);
    }
    socklen_t length = 20;
    CHECK_FAILS(getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, text, &length), EPERM);
    length = 4;
    CHECK_FAILS(getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, text, &length), EINVAL);
    CHECK_FAILS(getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, text, &length), EINVAL);
    CHECK_FAILS(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "", 0), EINVAL);
    // An algorithm that has nothing to tell tells nothing.
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0);
    length = sizeof text;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_CC_INFO, text, &length) == 0 && length == 0);
    close(fd);
    close(six);
}

// The headers of a SYN, once, to who asked before it came.
void saved_syn() {
    const int listener = listening();
    set(listener, IPPROTO_TCP, TCP_SAVE_SYN, 1);
    Pair pair = connected_to(listener);
    CHECK(get(pair.server, IPPROTO_TCP, TCP_SAVE_SYN) == 1);
    uint8_t headers[200];
    socklen_t length = 10;
    CHECK_FAILS(getsockopt(pair.server, IPPROTO_TCP, TCP_SAVED_SYN, headers, &length), EINVAL);
    CHECK(length >= 40 && length < sizeof headers);
    const socklen_t told = length;
    CHECK(getsockopt(pair.server, IPPROTO_TCP, TCP_SAVED_SYN, headers, &length) == 0);
    CHECK(length == told && headers[0] == 0x45 && headers[9] == IPPROTO_TCP);
    CHECK((headers[33] & 0x3f) == 2); // SYN and nothing else
    CHECK(length == 20u + (headers[32] >> 4) * 4u);
    length = sizeof headers;
    CHECK(getsockopt(pair.server, IPPROTO_TCP, TCP_SAVED_SYN, headers, &length) == 0);
    CHECK(length == 0); // told
    length = sizeof headers;
    CHECK(getsockopt(pair.client, IPPROTO_TCP, TCP_SAVED_SYN, headers, &length) == 0);
    CHECK(length == 0);
    pair.close();
    close(listener);
}

struct Received {
    std::string data;
    std::vector<std::pair<int, std::string>> messages; // of level IPPROTO_IPV6
    const std::string* find(int type) const {
        for (const auto& message : messages)
            if (message.first == type)
                return &message.second;
        return nullptr;
    }
};

Received take(int fd) {
    Received out;
    char data[8192];
    alignas(cmsghdr) char control[2048];
    iovec one{data, sizeof data};
    msghdr message{};
    message.msg_iov = &one;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    CHECK((wait_for(fd, POLLIN) & POLLIN) != 0);
    const ssize_t bytes = recvmsg(fd, &message, 0);
    CHECK(bytes >= 0 && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0);
    out.data.assign(data, static_cast<size_t>(bytes));
    for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at))
        if (at->cmsg_level == IPPROTO_IPV6)
            out.messages.emplace_back(at->cmsg_type,
                                      std::string(reinterpret_cast<const char*>(CMSG_DATA(at)),
                                                  at->cmsg_len - CMSG_LEN(0)));
    return out;
}

// A socket that can do without IPv6 becomes one of IPv4 (RFC 3493, 3.7).
void address_form() {
    const int listener = listening();
    const int port = port_of(listener);
    const int fd = socket(AF_INET6, SOCK_STREAM, 0);
    CHECK_FAILS(try_set(fd, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET), ENOTCONN);
    const sockaddr_in6 mapped = address6("::ffff:127.0.0.1", port);
    CHECK(connect(fd, general(mapped), sizeof mapped) == 0);
    CHECK(get(fd, IPPROTO_IPV6, IPV6_ADDRFORM) == AF_INET6);
    CHECK(get(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6);
    set(fd, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET);
    CHECK(get(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET);
    sockaddr_in peer{};
    socklen_t length = sizeof peer;
    CHECK(getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) == 0);
    CHECK(length == sizeof peer && peer.sin_family == AF_INET && ntohs(peer.sin_port) == port);
    CHECK_FAILS(try_set(fd, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET), ENOPROTOOPT);
    const int server = accept(listener, nullptr, nullptr);
    send_all(fd, "four");
    CHECK(receive_exactly(server, 4) == "four");
    send_all(server, "back");
    CHECK(receive_exactly(fd, 4) == "back");
    close(server);
    close(fd);
    close(listener);
    // Those that cannot.
    const int datagram = socket(AF_INET6, SOCK_DGRAM, 0);
    const sockaddr_in6 own = address6("::1", 9);
    CHECK(connect(datagram, general(own), sizeof own) == 0);
    CHECK_FAILS(try_set(datagram, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET), EADDRNOTAVAIL);
    const sockaddr_in6 four = address6("::ffff:127.0.0.1", 9);
    CHECK(connect(datagram, general(four), sizeof four) == 0);
    set(datagram, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET);
    CHECK(get(datagram, SOL_SOCKET, SO_DOMAIN) == AF_INET);
    close(datagram);
}

// And stays one, wherever it was bound to, when it is connected no more.
void address_form_undone() {
    const int listener = listening();
    for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
        // A port that the program chose is kept: one that is free.
        const int finder = socket(AF_INET6, type, 0), fd = socket(AF_INET6, type, 0);
        sockaddr_in6 any = address6("::", 0);
        CHECK(bind(finder, general(any), sizeof any) == 0);
        const int port = port_of(finder);
        close(finder);
        any.sin6_port = htons(static_cast<uint16_t>(port));
        CHECK(bind(fd, general(any), sizeof any) == 0);
        const sockaddr_in6 four = address6("::ffff:127.0.0.1", port_of(listener));
        CHECK(connect(fd, general(four), sizeof four) == 0);
        set(fd, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET);
        sockaddr nothing{};
        nothing.sa_family = AF_UNSPEC;
        CHECK(connect(fd, &nothing, sizeof nothing) == 0);
        sockaddr_in name{};
        socklen_t length = sizeof name;
        CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) == 0);
        CHECK(name.sin_family == AF_INET && name.sin_addr.s_addr == 0);
        CHECK(ntohs(name.sin_port) == port);
        if (type == SOCK_DGRAM) {
            const int sender = socket(AF_INET6, SOCK_DGRAM, 0);
            const sockaddr_in6 to6 = address6("::1", port);
            const sockaddr_in6 to4 = address6("::ffff:127.0.0.1", port);
            CHECK(sendto(sender, "six", 3, 0, general(to6), sizeof to6) == 3);
            CHECK(sendto(sender, "four", 4, 0, general(to4), sizeof to4) == 4);
            CHECK(take(fd).data == "four");
            close(sender);
        }
        close(fd);
    }
    close(listener);
}

void path_mtu() {
    const int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    ip6_mtuinfo told{};
    socklen_t length = sizeof told;
    CHECK_FAILS(getsockopt(fd, IPPROTO_IPV6, IPV6_PATHMTU, &told, &length), ENOTCONN);
    const sockaddr_in6 own = address6("::1", 9);
    CHECK(connect(fd, general(own), sizeof own) == 0);
    CHECK(getsockopt(fd, IPPROTO_IPV6, IPV6_PATHMTU, &told, &length) == 0);
    CHECK(length == sizeof told && told.ip6m_mtu >= 1280);
    length = 8;
    CHECK_FAILS(getsockopt(fd, IPPROTO_IPV6, IPV6_PATHMTU, &told, &length), EINVAL);
    close(fd);
}

// --- extension headers (RFC 3542)

// Eight bytes of options: the header's two, then one of `kind`, four bytes that a router or host
// that does not know it passes over.
std::string options8(uint8_t kind) {
    return {0, 0, static_cast<char>(kind), 4, 'a', 'b', 'c', 'd'};
}

// With one control message.
ssize_t send_with(int fd, const sockaddr_in6& to, const std::string& data, int type,
                  const std::string& value) {
    alignas(cmsghdr) char control[512] = {};
    iovec one{const_cast<char*>(data.data()), data.size()};
    msghdr message{};
    message.msg_name = const_cast<sockaddr_in6*>(&to);
    message.msg_namelen = sizeof to;
    message.msg_iov = &one;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(value.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = IPPROTO_IPV6;
    header->cmsg_type = type;
    header->cmsg_len = CMSG_LEN(value.size());
    std::memcpy(CMSG_DATA(header), value.data(), value.size());
    return sendmsg(fd, &message, 0);
}

int receiver6(sockaddr_in6& at) {
    const int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    at = address6("::1", 0);
    CHECK(bind(fd, general(at), sizeof at) == 0);
    at.sin6_port = htons(static_cast<uint16_t>(port_of(fd)));
    return fd;
}

int set_text(int fd, int name, const std::string& value) {
    return setsockopt(fd, IPPROTO_IPV6, name, value.data(), static_cast<socklen_t>(value.size()));
}

void sticky_headers() {
    sockaddr_in6 to{};
    const int receiver = receiver6(to), sender = socket(AF_INET6, SOCK_DGRAM, 0);
    for (const int name : {IPV6_RECVHOPOPTS, IPV6_RECVDSTOPTS, IPV6_2292DSTOPTS})
        set(receiver, IPPROTO_IPV6, name, 1);
    const std::string hop = options8(0x1e), destination = options8(0x1f);
    CHECK(set_text(sender, IPV6_HOPOPTS, hop) == 0);
    CHECK(set_text(sender, IPV6_DSTOPTS, destination) == 0);
    char text[16];
    socklen_t length = sizeof text;
    CHECK(getsockopt(sender, IPPROTO_IPV6, IPV6_HOPOPTS, text, &length) == 0);
    CHECK(std::string(text, length) == hop);
    length = 3;
    CHECK(getsockopt(sender, IPPROTO_IPV6, IPV6_DSTOPTS, text, &length) == 0 && length == 3);
    length = sizeof text;
    CHECK(getsockopt(sender, IPPROTO_IPV6, IPV6_RTHDR, text, &length) == 0 && length == 0);
    CHECK(sendto(sender, "first", 5, 0, general(to), sizeof to) == 5);
    Received got = take(receiver);
    CHECK(got.data == "first" && got.messages.size() == 3);
    // As they were on the way: each names what follows it.
    const std::string* seen = got.find(IPV6_HOPOPTS);
    CHECK(seen != nullptr && seen->substr(2) == hop.substr(2) && (*seen)[0] == 60);
    seen = got.find(IPV6_DSTOPTS);
    CHECK(seen != nullptr && seen->substr(2) == destination.substr(2) && (*seen)[0] == 17);
    CHECK(got.find(IPV6_2292DSTOPTS) != nullptr);
    // A message's headers are instead of the socket's, all of them.
    CHECK(send_with(sender, to, "second", IPV6_DSTOPTS, options8(0x3e)) == 6);
    got = take(receiver);
    CHECK(got.data == "second" && got.find(IPV6_HOPOPTS) == nullptr);
    seen = got.find(IPV6_DSTOPTS);
    CHECK(seen != nullptr && (*seen)[2] == 0x3e);
    // So do those of a datagram that several calls put together.
    CHECK(sendto(sender, "thi", 3, MSG_MORE, general(to), sizeof to) == 3);
    CHECK(sendto(sender, "rd", 2, 0, general(to), sizeof to) == 2);
    got = take(receiver);
    CHECK(got.data == "third" && got.find(IPV6_HOPOPTS) != nullptr);
    // Nothing takes them away.
    CHECK(setsockopt(sender, IPPROTO_IPV6, IPV6_HOPOPTS, nullptr, 0) == 0);
    CHECK(setsockopt(sender, IPPROTO_IPV6, IPV6_DSTOPTS, nullptr, 0) == 0);
    CHECK(sendto(sender, "fourth", 6, 0, general(to), sizeof to) == 6);
    got = take(receiver);
    CHECK(got.data == "fourth" && got.messages.empty());
    close(receiver);
    close(sender);
}

void refused_headers() {
    sockaddr_in6 to{};
    const int receiver = receiver6(to), sender = socket(AF_INET6, SOCK_DGRAM, 0);
    CHECK_FAILS(set_text(sender, IPV6_HOPOPTS, std::string(4, '\0')), EINVAL);
    CHECK_FAILS(set_text(sender, IPV6_HOPOPTS, std::string(12, '\0')), EINVAL);
    std::string longer = options8(1);
    longer[1] = 1; // sixteen bytes, it says
    CHECK_FAILS(set_text(sender, IPV6_DSTOPTS, longer), EINVAL);
    CHECK_FAILS(set_text(sender, IPV6_RTHDR, options8(1)), EINVAL);
    CHECK_FAILS(send_with(sender, to, "x", IPV6_DSTOPTS, longer), EINVAL);
    CHECK_FAILS(send_with(sender, to, "x", IPV6_DSTOPTS, "a"), EINVAL);
    CHECK_FAILS(send_with(sender, to, "x", IPV6_RTHDR, options8(1)), EINVAL);
    // A long one is taken whole.
    std::string most(8 * 255, '\0');
    most[1] = static_cast<char>(254);
    for (size_t at = 2; at < most.size();) { // PadN
        const size_t left = most.size() - at - 2, fill = left < 255 ? left : 255;
        most[at] = 1;
        most[at + 1] = static_cast<char>(fill);
        at += 2 + fill;
        if (most.size() - at == 1)
            most[at++] = 0;
    }
    CHECK(set_text(sender, IPV6_DSTOPTS, most) == 0);
    std::string seen(4096, 'x');
    socklen_t length = static_cast<socklen_t>(seen.size());
    CHECK(getsockopt(sender, IPPROTO_IPV6, IPV6_DSTOPTS, seen.data(), &length) == 0);
    CHECK(length == most.size() && seen.compare(0, length, most) == 0);
    close(receiver);
    close(sender);
}

// A header of so many bytes, of options like those.
std::string options_of(size_t bytes) {
    std::string out{0, static_cast<char>(bytes / 8 - 1)};
    while (out.size() < bytes) {
        const size_t left = bytes - out.size() - 2, fill = left < 255 ? left : 255;
        out += {0x1e, static_cast<char>(fill)};
        out.append(fill, 'o');
    }
    return out;
}

// Whatever their length, and whatever stands before them.
void datagram_sizes() {
    sockaddr_in6 to{};
    const int receiver = receiver6(to), sender = socket(AF_INET6, SOCK_DGRAM, 0);
    for (const size_t header : {0, 8, 200, 1000}) {
        if (header != 0)
            CHECK(set_text(sender, IPV6_DSTOPTS, options_of(header)) == 0);
        for (const size_t size : {1, 300, 700, 1300, 1490, 1500, 1504, 1505, 4000}) {
            const std::string text(size, 'd');
            CHECK(sendto(sender, text.data(), size, 0, general(to), sizeof to) ==
                  static_cast<ssize_t>(size));
            CHECK(take(receiver).data == text);
        }
    }
    close(receiver);
    close(sender);
}

// Fragments carry the headers, each of them.
void fragmented_headers() {
    const int control = socket(AF_INET, SOCK_DGRAM, 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    CHECK(ioctl(control, SIOCGIFMTU, &request) == 0);
    const int former = request.ifr_mtu;
    request.ifr_mtu = 1500;
    CHECK(ioctl(control, SIOCSIFMTU, &request) == 0);
    sockaddr_in6 to{};
    const int receiver = receiver6(to), sender = socket(AF_INET6, SOCK_DGRAM, 0);
    set(receiver, IPPROTO_IPV6, IPV6_RECVDSTOPTS, 1);
    CHECK(set_text(sender, IPV6_DSTOPTS, options8(0x1f)) == 0);
    std::string text(4000, 'f');
    text += "end";
    CHECK(sendto(sender, text.data(), text.size(), 0, general(to), sizeof to) ==
          static_cast<ssize_t>(text.size()));
    const Received got = take(receiver);
    CHECK(got.data == text && got.find(IPV6_DSTOPTS) != nullptr);
    close(receiver);
    close(sender);
    request.ifr_mtu = former;
    CHECK(ioctl(control, SIOCSIFMTU, &request) == 0);
    close(control);
}

void flow_labels() {
    sockaddr_in6 to{};
    const int receiver = receiver6(to), sender = socket(AF_INET6, SOCK_DGRAM, 0);
    set(receiver, IPPROTO_IPV6, IPV6_FLOWINFO, 1);
    const auto label = [&]() -> uint32_t {
        const Received got = take(receiver);
        const std::string* told = got.find(IPV6_FLOWINFO);
        uint32_t word = 0;
        if (told != nullptr && told->size() == sizeof word)
            std::memcpy(&word, told->data(), sizeof word);
        return ntohl(word);
    };
    // The kernel makes one for each conversation, which stays the same.
    CHECK(sendto(sender, "a", 1, 0, general(to), sizeof to) == 1);
    const uint32_t first = label();
    CHECK(first != 0 && (first & ~0xfffffu) == 0);
    CHECK(sendto(sender, "b", 1, 0, general(to), sizeof to) == 1);
    CHECK(label() == first);
    set(sender, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0);
    CHECK(sendto(sender, "c", 1, 0, general(to), sizeof to) == 1);
    CHECK(label() == 0);
    // The traffic class is told with it.
    set(sender, IPPROTO_IPV6, IPV6_TCLASS, 0x20);
    CHECK(sendto(sender, "d", 1, 0, general(to), sizeof to) == 1);
    CHECK(label() == 0x20u << 20);
    // The address's own counts where the program says that it does.
    to.sin6_flowinfo = htonl(0x12345);
    CHECK(sendto(sender, "e", 1, 0, general(to), sizeof to) == 1);
    CHECK(label() == 0x20u << 20);
    set(sender, IPPROTO_IPV6, IPV6_FLOWINFO_SEND, 1);
    CHECK(sendto(sender, "f", 1, 0, general(to), sizeof to) == 1);
    CHECK(label() == (0x20u << 20 | 0x12345));
    CHECK(connect(sender, general(to), sizeof to) == 0);
    CHECK(send(sender, "g", 1, 0) == 1);
    CHECK(label() == (0x20u << 20 | 0x12345));
    close(receiver);
    close(sender);
}

} // namespace

int main(int argc, char** argv) {
    static constexpr Case cases[] = {
        {"table", table},
        {"answers", answers},
        {"saved_syn", saved_syn},
        {"address_form", address_form},
        {"address_form_undone", address_form_undone},
        {"path_mtu", path_mtu},
        {"sticky_headers", sticky_headers},
        {"refused_headers", refused_headers},
        {"datagram_sizes", datagram_sizes},
        {"fragmented_headers", fragmented_headers},
        {"flow_labels", flow_labels},
    };
    return run_cases(cases, argc, argv);
}
