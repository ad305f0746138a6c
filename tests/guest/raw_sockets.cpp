// raw(7), packet(7), icmp(7): over the loopback of a network namespace of its own.
#include <cstdint>
#include <fstream>
#include <initializer_list>
#include <poll.h>
#include <sched.h>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "tests/guest/network_support.hpp"

namespace {

sockaddr_in address4(uint32_t address, int port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(static_cast<uint16_t>(port));
    out.sin_addr.s_addr = htonl(address);
    return out;
}

template <typename A>
const sockaddr* general(const A& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

uint16_t sum_of(const void* data, size_t bytes) {
    uint32_t sum = 0;
    const auto* at = static_cast<const uint8_t*>(data);
    for (size_t i = 0; i < bytes; i++)
        sum += i % 2 == 0 ? uint32_t{at[i]} << 8 : uint32_t{at[i]};
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons(static_cast<uint16_t>(~sum));
}

struct Echo {
    icmphdr header;
    char data[24];
};

Echo make_echo(uint16_t id, uint16_t sequence) {
    Echo echo{};
    echo.header.type = ICMP_ECHO;
    echo.header.un.echo.id = htons(id);
    echo.header.un.echo.sequence = htons(sequence);
    std::strcpy(echo.data, "is anybody there?");
    echo.header.checksum = sum_of(&echo, sizeof echo);
    return echo;
}

void ping_by_raw_socket() {
    const int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    CHECK(fd >= 0);
    // struct icmp_filter: linux/icmp.h does not stand beside netinet/ip_icmp.h.
    constexpr int icmp_filter_option = 1;
    const uint32_t filter = ~(1u << ICMP_ECHOREPLY);
    CHECK(setsockopt(fd, SOL_RAW, icmp_filter_option, &filter, sizeof filter) == 0);
    const Echo echo = make_echo(77, 1);
    const sockaddr_in to = address4(INADDR_LOOPBACK, 0);
    CHECK(sendto(fd, &echo, sizeof echo, 0, general(to), sizeof to) ==
          static_cast<ssize_t>(sizeof echo));
    // The answer, with its IP header; the request was filtered out.
    uint8_t got[128];
    const ssize_t length = recv(fd, got, sizeof got, 0);
    CHECK(length == static_cast<ssize_t>(sizeof(iphdr) + sizeof echo));
    iphdr ip;
    std::memcpy(&ip, got, sizeof ip);
    CHECK(ip.version == 4 && ip.protocol == IPPROTO_ICMP && ntohs(ip.tot_len) == length);
    Echo answer;
    std::memcpy(&answer, got + sizeof ip, sizeof answer);
    CHECK(answer.header.type == ICMP_ECHOREPLY && answer.header.un.echo.id == htons(77));
    CHECK(std::memcmp(answer.data, echo.data, sizeof echo.data) == 0);
    CHECK(sum_of(&answer, sizeof answer) == 0);
    close(fd);
}

void ping6_by_raw_socket() {
    const int fd = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
    CHECK(fd >= 0);
    icmp6_filter filter;
    ICMP6_FILTER_SETBLOCKALL(&filter);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
    CHECK(setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter) == 0);
    icmp6_hdr echo{};
    echo.icmp6_type = ICMP6_ECHO_REQUEST;
    echo.icmp6_id = htons(5);
    sockaddr_in6 to{};
    to.sin6_family = AF_INET6;
    to.sin6_addr = in6addr_loopback;
    CHECK(sendto(fd, &echo, sizeof echo, 0, general(to), sizeof to) ==
          static_cast<ssize_t>(sizeof echo));
    icmp6_hdr answer{};
    CHECK(recv(fd, &answer, sizeof answer, 0) == static_cast<ssize_t>(sizeof answer));
    CHECK(answer.icmp6_type == ICMP6_ECHO_REPLY && answer.icmp6_id == htons(5));
    close(fd);
}

// RFC 3542, 3.1: the sum of ICMPv6 is the kernel's; at SOL_RAW Linux lets programs say otherwise.
void checksum_of_icmp6() {
    constexpr int level_raw = 255; // SOL_RAW
    const int fd = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
    CHECK(fd >= 0);
    int at = -5;
    socklen_t length = sizeof at;
    CHECK(getsockopt(fd, level_raw, IPV6_CHECKSUM, &at, &length) == 0 && at == 2);
    CHECK_FAILS(setsockopt(fd, IPPROTO_IPV6, IPV6_CHECKSUM, &at, sizeof at), EINVAL);
    at = 3; // sums stand at even places
    CHECK_FAILS(setsockopt(fd, level_raw, IPV6_CHECKSUM, &at, sizeof at), EINVAL);
    at = 4;
    CHECK(setsockopt(fd, level_raw, IPV6_CHECKSUM, &at, sizeof at) == 0);
    at = -1;
    CHECK(setsockopt(fd, level_raw, IPV6_CHECKSUM, &at, sizeof at) == 0);
    at = 9;
    CHECK(getsockopt(fd, level_raw, IPV6_CHECKSUM, &at, &length) == 0 && at == -1);
    icmp6_hdr echo{};
    echo.icmp6_type = ICMP6_ECHO_REQUEST;
    sockaddr_in6 to{};
    to.sin6_family = AF_INET6;
    to.sin6_addr = in6addr_loopback;
    at = 2;
    CHECK(setsockopt(fd, level_raw, IPV6_CHECKSUM, &at, sizeof at) == 0);
    echo.icmp6_id = htons(7);
    CHECK(sendto(fd, &echo, sizeof echo, 0, general(to), sizeof to) == sizeof echo);
    icmp6_hdr answer{};
    do
        CHECK(recv(fd, &answer, sizeof answer, 0) == sizeof answer);
    while (answer.icmp6_type != ICMP6_ECHO_REPLY);
    CHECK(answer.icmp6_id == htons(7));
    close(fd);
}

// A UDP datagram whose IP header the program made.
void own_header() {
    const int server = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in any = address4(INADDR_LOOPBACK, 0);
    CHECK(bind(server, general(any), sizeof any) == 0);
    sockaddr_in name{};
    socklen_t length = sizeof name;
    CHECK(getsockname(server, reinterpret_cast<sockaddr*>(&name), &length) == 0);
    const int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    CHECK(fd >= 0);
    struct {
        iphdr ip;
        udphdr udp;
        char data[4];
    } __attribute__((packed)) packet{};
    packet.ip.version = 4;
    packet.ip.ihl = 5;
    packet.ip.ttl = 9;
    packet.ip.protocol = IPPROTO_UDP;
    packet.ip.saddr = htonl(0x7f000042);
    packet.ip.daddr = htonl(INADDR_LOOPBACK);
    packet.udp.source = htons(1234);
    packet.udp.dest = name.sin_port;
    packet.udp.len = htons(sizeof packet.udp + sizeof packet.data);
    std::memcpy(packet.data, "raw!", 4);
    CHECK(sendto(fd, &packet, sizeof packet, 0, general(any), sizeof any) ==
          static_cast<ssize_t>(sizeof packet));
    char data[8];
    sockaddr_in from{};
    length = sizeof from;
    CHECK(recvfrom(server, data, sizeof data, 0, reinterpret_cast<sockaddr*>(&from), &length) == 4);
    CHECK(std::memcmp(data, "raw!", 4) == 0);
    CHECK(from.sin_addr.s_addr == htonl(0x7f000042) && from.sin_port == htons(1234));
    close(fd);
    close(server);
}

// raw(7) has it that an IPPROTO_RAW socket only sends; of its own protocol it receives, too.
void own_protocol() {
    const int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    CHECK(fd >= 0);
    struct {
        iphdr ip;
        char data[4];
    } packet{}, got{};
    packet.ip.version = 4;
    packet.ip.ihl = 5;
    packet.ip.ttl = 9;
    packet.ip.saddr = packet.ip.daddr = htonl(INADDR_LOOPBACK);
    const sockaddr_in to = address4(INADDR_LOOPBACK, 0);
    for (const uint8_t protocol : {uint8_t{254}, uint8_t{IPPROTO_RAW}}) {
        packet.ip.protocol = protocol;
        CHECK(sendto(fd, &packet, sizeof packet, 0, general(to), sizeof to) == sizeof packet);
    }
    pollfd ready{fd, POLLIN, 0};
    CHECK(poll(&ready, 1, 5000) == 1);
    CHECK(recv(fd, &got, sizeof got, 0) == sizeof got && got.ip.protocol == IPPROTO_RAW);
    CHECK_FAILS(recv(fd, &got, sizeof got, MSG_DONTWAIT), EAGAIN);
    close(fd);
}

// A socket of `type` on a port of its own, which goes to `port` in network order.
int bound_to_loopback(int type, uint16_t& port) {
    const int fd = socket(AF_INET, type, 0);
    const sockaddr_in any = address4(INADDR_LOOPBACK, 0);
    sockaddr_in name{};
    socklen_t length = sizeof name;
    CHECK(fd >= 0 && bind(fd, general(any), sizeof any) == 0);
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) == 0);
    port = name.sin_port;
    return fd;
}

// Over the loopback, too, what a raw socket sends has to have the right sum.
void wrong_sums() {
    const sockaddr_in to = address4(INADDR_LOOPBACK, 0);
    struct {
        udphdr header;
        char text;
    } __attribute__((packed)) datagram{};
    uint16_t port = 0;
    const int server = bound_to_loopback(SOCK_DGRAM | SOCK_NONBLOCK, port);
    const int udp = socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
    datagram.header.source = htons(999);
    datagram.header.dest = port;
    datagram.header.len = htons(sizeof datagram);
    for (const char text : {'w', 'n'}) { // a wrong sum, and none
        datagram.text = text;
        datagram.header.check = text == 'w' ? 0x1234 : 0;
        CHECK(sendto(udp, &datagram, sizeof datagram, 0, general(to), sizeof to) ==
              static_cast<ssize_t>(sizeof datagram));
    }
    pollfd ready{server, POLLIN, 0};
    char text = 0;
    CHECK(poll(&ready, 1, 5000) == 1 && recv(server, &text, 1, 0) == 1 && text == 'n');
    CHECK_FAILS(recv(server, &text, 1, 0), EAGAIN);
    close(udp);
    close(server);
    // An echo.
    const int icmp = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    constexpr int icmp_filter_option = 1;
    const uint32_t filter = ~(1u << ICMP_ECHOREPLY);
    CHECK(setsockopt(icmp, SOL_RAW, icmp_filter_option, &filter, sizeof filter) == 0);
    for (const uint16_t sequence : {uint16_t{1}, uint16_t{2}}) {
        Echo echo = make_echo(78, sequence);
        echo.header.checksum = static_cast<uint16_t>(echo.header.checksum + (sequence == 1));
        CHECK(sendto(icmp, &echo, sizeof echo, 0, general(to), sizeof to) ==
              static_cast<ssize_t>(sizeof echo));
    }
    struct {
        iphdr ip;
        Echo echo;
    } __attribute__((packed)) answer{};
    CHECK(recv(icmp, &answer, sizeof answer, 0) == static_cast<ssize_t>(sizeof answer));
    CHECK(answer.echo.header.un.echo.sequence == htons(2));
    close(icmp);
    // A SYN: what the listener answers tells which one it took.
    const int listener = bound_to_loopback(SOCK_STREAM, port);
    CHECK(listen(listener, 1) == 0);
    const int tcp = socket(AF_INET, SOCK_RAW, IPPROTO_TCP);
    struct {
        uint32_t from, to;
        uint16_t protocol, length;
        tcphdr header;
    } syn{};
    syn.from = syn.to = htonl(INADDR_LOOPBACK);
    syn.protocol = htons(IPPROTO_TCP);
    syn.length = htons(sizeof syn.header);
    syn.header.source = htons(999);
    syn.header.dest = port;
    syn.header.doff = sizeof syn.header / 4;
    syn.header.syn = 1;
    syn.header.window = htons(1000);
    for (const uint32_t sequence : {100u, 200u}) {
        syn.header.seq = htonl(sequence);
        syn.header.check = 0;
        syn.header.check = static_cast<uint16_t>(sum_of(&syn, sizeof syn) + (sequence == 100));
        CHECK(sendto(tcp, &syn.header, sizeof syn.header, 0, general(to), sizeof to) ==
              static_cast<ssize_t>(sizeof syn.header));
    }
    struct {
        iphdr ip;
        tcphdr header;
    } reply{};
    do
        CHECK(recv(tcp, &reply, sizeof reply, 0) > 0);
    while (reply.header.source != port || reply.header.rst != 0);
    CHECK(reply.header.syn == 1 && reply.header.ack == 1 && ntohl(reply.header.ack_seq) == 201);
    close(tcp);
    close(listener);
}

// An error that came in does not fail the next send, but one with a header of its own.
void pending_errors() {
    const int fd = socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
    const int on = 1;
    CHECK(setsockopt(fd, SOL_IP, IP_RECVERR, &on, sizeof on) == 0);
    udphdr nobody{};
    nobody.source = htons(1);
    nobody.dest = htons(9);
    nobody.len = htons(sizeof nobody);
    const sockaddr_in to = address4(INADDR_LOOPBACK, 0);
    const auto send_one = [&] {
        return sendto(fd, &nobody, sizeof nobody, 0, general(to), sizeof to);
    };
    CHECK(send_one() == sizeof nobody);
    pollfd watched{fd, 0, 0};
    CHECK(poll(&watched, 1, 5000) == 1 && (watched.revents & POLLERR) != 0);
    CHECK(send_one() == sizeof nobody);
    CHECK(setsockopt(fd, SOL_IP, IP_HDRINCL, &on, sizeof on) == 0);
    iphdr packet{};
    packet.version = 4;
    packet.ihl = 5;
    packet.ttl = 9;
    packet.protocol = IPPROTO_UDP;
    packet.daddr = htonl(INADDR_LOOPBACK);
    CHECK_FAILS(sendto(fd, &packet, sizeof packet, 0, general(to), sizeof to), ECONNREFUSED);
    int error = -1;
    socklen_t length = sizeof error;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0);
    // Who reads the queue to its end has heard of them all: no error is left.
    const int off = 0;
    CHECK(setsockopt(fd, SOL_IP, IP_HDRINCL, &off, sizeof off) == 0);
    CHECK(send_one() == sizeof nobody && send_one() == sizeof nobody);
    char quoted[64];
    for (int reports = 0; reports < 4; reports++) {
        CHECK(poll(&watched, 1, 5000) == 1 && (watched.revents & POLLERR) != 0);
        CHECK(recv(fd, quoted, sizeof quoted, MSG_ERRQUEUE) == sizeof nobody);
    }
    CHECK_FAILS(recv(fd, quoted, sizeof quoted, MSG_ERRQUEUE | MSG_DONTWAIT), EAGAIN);
    CHECK(poll(&watched, 1, 0) == 0);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0);
    close(fd);
}

sockaddr_ll loopback_link(int protocol) {
    sockaddr_ll out{};
    out.sll_family = AF_PACKET;
    out.sll_protocol = htons(static_cast<uint16_t>(protocol));
    out.sll_ifindex = static_cast<int>(if_nametoindex("lo"));
    return out;
}

void send_datagram(uint16_t port, const char* text) {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to = address4(INADDR_LOOPBACK, port);
    CHECK(sendto(fd, text, std::strlen(text), 0, general(to), sizeof to) ==
          static_cast<ssize_t>(std::strlen(text)));
    close(fd);
}

void frames() {
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
    CHECK(fd >= 0);
    // UDP to port 4711, as tcpdump would compile it for IPv4 without options.
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_IP, 0, 6),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 4),
        BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14),
        BPF_STMT(BPF_LD | BPF_H | BPF_IND, 16),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 4711, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    const sock_fprog filter{sizeof program / sizeof program[0], program};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0);
    const sockaddr_ll link = loopback_link(ETH_P_ALL);
    CHECK(bind(fd, general(link), sizeof link) == 0);
    send_datagram(4710, "not this");
    send_datagram(4711, "this");
    uint8_t frame[256];
    sockaddr_ll from{};
    bool outgoing = false, incoming = false;
    for (int i = 0; i < 2; i++) {
        socklen_t length = sizeof from;
        pollfd ready{fd, POLLIN, 0};
        CHECK(poll(&ready, 1, 5000) == 1);
        CHECK(recvfrom(fd, frame, sizeof frame, 0, reinterpret_cast<sockaddr*>(&from), &length) ==
              14 + 20 + 8 + 4);
        CHECK(std::memcmp(frame + 42, "this", 4) == 0);
        CHECK(from.sll_ifindex == link.sll_ifindex && from.sll_protocol == htons(ETH_P_IP));
        outgoing = outgoing || from.sll_pkttype == PACKET_OUTGOING;
        incoming = incoming || from.sll_pkttype == PACKET_HOST;
    }
    CHECK(outgoing && incoming);
    CHECK_FAILS(recv(fd, frame, sizeof frame, 0), EAGAIN);
    tpacket_stats statistics{};
    socklen_t length = sizeof statistics;
    CHECK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &statistics, &length) == 0);
    CHECK(statistics.tp_packets >= 2 && statistics.tp_drops == 0);
    sock_filter wild[] = {BPF_STMT(BPF_LD | BPF_MEM, 99), BPF_STMT(BPF_RET | BPF_K, 0)};
    const sock_fprog bad{2, wild};
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &bad, sizeof bad), EINVAL);
    close(fd);
}

// To where a frame goes: the family does not matter, but all of the address has to be there.
void sent_frames() {
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL));
    CHECK(fd >= 0);
    uint8_t frame[60] = {};
    frame[12] = 0x12; // of no protocol
    sockaddr_ll link = loopback_link(0);
    link.sll_family = 0;
    link.sll_halen = 6;
    CHECK(sendto(fd, frame, sizeof frame, 0, general(link), sizeof link) == sizeof frame);
    CHECK_FAILS(sendto(fd, frame, sizeof frame, 0, general(link), sizeof link - 1), EINVAL);
    CHECK_FAILS(sendto(fd, frame, 13, 0, general(link), sizeof link), EINVAL);
    link.sll_halen = 9; // more than there is
    CHECK_FAILS(sendto(fd, frame, sizeof frame, 0, general(link), sizeof link), EINVAL);
    uint8_t got[100];
    pollfd ready{fd, POLLIN, 0};
    CHECK(poll(&ready, 1, 5000) == 1);
    CHECK(recv(fd, got, sizeof got, 0) == sizeof frame && got[12] == 0x12);
    close(fd);
}

void cooked_frames() {
    const int fd = socket(AF_PACKET, SOCK_DGRAM, 0);
    CHECK(fd >= 0);
    const sockaddr_ll link = loopback_link(ETH_P_IP);
    CHECK(bind(fd, general(link), sizeof link) == 0);
    send_datagram(4712, "cooked");
    uint8_t packet[256];
    CHECK(recv(fd, packet, sizeof packet, 0) == 20 + 8 + 6);
    CHECK(packet[0] == 0x45);
    sockaddr_ll name{};
    socklen_t length = sizeof name;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) == 0);
    CHECK(name.sll_protocol == htons(ETH_P_IP) && name.sll_ifindex == link.sll_ifindex);
    close(fd);
}

// A stream sends while it holds its own locks; whoever watches the link gets its copies all the
// same, in both directions.
void frames_of_a_stream() {
    const int watcher = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
    CHECK(watcher >= 0);
    const sockaddr_ll link = loopback_link(ETH_P_ALL);
    CHECK(bind(watcher, general(link), sizeof link) == 0);
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in where = address4(INADDR_LOOPBACK, 4713);
    CHECK(bind(listener, general(where), sizeof where) == 0 && listen(listener, 1) == 0);
    const int client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, general(where), sizeof where) == 0);
    const int served = accept(listener, nullptr, nullptr);
    CHECK(served >= 0);
    constexpr char text[] = "watched";
    CHECK(send(client, text, sizeof text, 0) == sizeof text);
    char got[sizeof text];
    CHECK(recv(served, got, sizeof got, MSG_WAITALL) == sizeof got);
    close(client);
    CHECK(recv(served, got, sizeof got, 0) == 0);
    close(served);
    close(listener);
    int with_data = 0;
    uint8_t frame[256];
    for (ssize_t length; (length = recv(watcher, frame, sizeof frame, 0)) > 0;)
        if (length >= 14 + 20 + 20 && frame[14 + 9] == IPPROTO_TCP &&
            std::memcmp(frame + length - sizeof text, text, sizeof text) == 0)
            with_data++;
    CHECK(with_data == 2);
    close(watcher);
}

template <typename Info>
ssize_t send_from(int fd, const sockaddr* to, socklen_t length, int level, int type,
                  const Info& info, uint8_t echo) {
    uint8_t packet[16] = {echo};
    iovec part{packet, sizeof packet};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof info)] = {};
    msghdr message{};
    message.msg_name = const_cast<sockaddr*>(to);
    message.msg_namelen = length;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = level;
    header->cmsg_type = type;
    header->cmsg_len = CMSG_LEN(sizeof info);
    std::memcpy(CMSG_DATA(header), &info, sizeof info);
    return sendmsg(fd, &message, 0);
}

// An address that is not here is nobody's to send from, be it by a ping socket, which needs no
// privilege.
void borrowed_addresses() {
    std::ofstream("/proc/sys/net/ipv4/ping_group_range") << "0 2147483647" << std::flush;
    const sockaddr_in here = address4(INADDR_LOOPBACK, 0);
    sockaddr_in6 here6{};
    here6.sin6_family = AF_INET6;
    here6.sin6_addr = in6addr_loopback;
    for (const int type : {SOCK_RAW, SOCK_DGRAM}) {
        const int fd = socket(AF_INET, type, IPPROTO_ICMP);
        if (fd < 0 && type == SOCK_DGRAM && errno == EACCES)
            break; // not in a group that may
        CHECK(fd >= 0);
        in_pktinfo info{};
        info.ipi_spec_dst.s_addr = htonl(0x7f000009); // 127.0.0.9
        CHECK(send_from(fd, general(here), sizeof here, IPPROTO_IP, IP_PKTINFO, info, ICMP_ECHO) ==
              16);
        info.ipi_spec_dst.s_addr = htonl(0xc6336407); // 198.51.100.7
        CHECK_FAILS(
            send_from(fd, general(here), sizeof here, IPPROTO_IP, IP_PKTINFO, info, ICMP_ECHO),
            ENETUNREACH);
        close(fd);
        const int fd6 = socket(AF_INET6, type, IPPROTO_ICMPV6);
        CHECK(fd6 >= 0);
        in6_pktinfo info6{};
        info6.ipi6_addr = in6addr_loopback;
        CHECK(send_from(fd6, general(here6), sizeof here6, IPPROTO_IPV6, IPV6_PKTINFO, info6,
                        ICMP6_ECHO_REQUEST) == 16);
        CHECK(inet_pton(AF_INET6, "2001:db8::7", &info6.ipi6_addr) == 1);
        CHECK_FAILS(send_from(fd6, general(here6), sizeof here6, IPPROTO_IPV6, IPV6_PKTINFO, info6,
                              ICMP6_ECHO_REQUEST),
                    EINVAL);
        close(fd6);
    }
}

// Everybody who listens hears it, however many they are.
void many_listeners() {
    constexpr unsigned many = 100;
    const sockaddr_ll link = loopback_link(ETH_P_IP);
    std::vector<int> all;
    while (all.size() < many) {
        all.push_back(socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
        CHECK(all.back() >= 0);
        CHECK(bind(all.back(), general(link), sizeof link) == 0);
    }
    send_datagram(4712, "all");
    for (const int fd : all) {
        char packet[64];
        pollfd ready{fd, POLLIN, 0};
        CHECK(poll(&ready, 1, 5000) == 1);
        CHECK(recv(fd, packet, sizeof packet, 0) == 20 + 8 + 3);
        CHECK(std::memcmp(packet + 28, "all", 3) == 0);
        close(fd);
    }
}

// Each network has all identifiers: many ping sockets leave enough for others.
void many_pings() {
    std::ofstream("/proc/sys/net/ipv4/ping_group_range") << "0 2147483647" << std::flush;
    constexpr unsigned many = 1100;
    const rlimit limit{many + 100, many + 100};
    std::vector<int> open;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return; // not root
    const sockaddr_in here = address4(INADDR_LOOPBACK, 0);
    while (open.size() < many) {
        open.push_back(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
        if (open.back() < 0 && errno == EACCES)
            break; // nor in a group that may
        CHECK(open.back() >= 0);
        CHECK(bind(open.back(), general(here), sizeof here) == 0);
    }
    for (const int fd : open)
        close(fd);
}

} // namespace

int main() {
    own_network();
    ping_by_raw_socket();
    ping6_by_raw_socket();
    checksum_of_icmp6();
    own_header();
    own_protocol();
    wrong_sums();
    pending_errors();
    frames();
    sent_frames();
    cooked_frames();
    frames_of_a_stream();
    borrowed_addresses();
    many_listeners();
    many_pings();
    return 0;
}
