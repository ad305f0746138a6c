// socket(7), ipv6(7) and what they leave out: options that few programs ask for.
#include <cstdint>
#include <ctime>
#include <fcntl.h>
#include <initializer_list>
#include <poll.h>

#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "tests/guest/network_support.hpp"

namespace {

void set(int fd, int name, int value) {
    CHECK(setsockopt(fd, SOL_SOCKET, name, &value, sizeof value) == 0);
}

int get(int fd, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 && length == sizeof value);
    return value;
}

int refused(int fd, int name, int value) {
    return setsockopt(fd, SOL_SOCKET, name, &value, sizeof value);
}

int bound(int type, uint16_t port = 0, bool shared = false) {
    const int fd = socket(AF_INET, type, 0);
    CHECK(fd >= 0);
    if (shared)
        set(fd, SO_REUSEPORT, 1);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons(port);
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    return fd;
}

sockaddr_in name_of(int fd) {
    sockaddr_in out{};
    socklen_t length = sizeof out;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&out), &length) == 0);
    return out;
}

bool readable(int fd, int wait = 0) {
    pollfd one{fd, POLLIN, 0};
    return poll(&one, 1, wait) == 1;
}

// What every family keeps.
void kept_values() {
    const int kinds[][2] = {{AF_INET, SOCK_STREAM},
                            {AF_INET6, SOCK_DGRAM},
                            {AF_UNIX, SOCK_STREAM},
                            {AF_NETLINK, SOCK_RAW}};
    for (const auto& kind : kinds) {
        const int fd = socket(kind[0], kind[1], 0);
        CHECK(fd >= 0);
        for (const int name : {SO_SELECT_ERR_QUEUE, SO_RCVMARK, SO_NOFCS, SO_WIFI_STATUS}) {
            CHECK(get(fd, name) == 0);
            set(fd, name, 5);
            CHECK(get(fd, name) == 1);
            set(fd, name, 0);
            CHECK(get(fd, name) == 0);
        }
        CHECK(get(fd, SO_BPF_EXTENSIONS) == SKF_AD_MAX);
        CHECK_FAILS(refused(fd, SO_BPF_EXTENSIONS, 1), ENOPROTOOPT);
        CHECK(get(fd, SO_BUSY_POLL) == 0);
        set(fd, SO_BUSY_POLL, 50);
        CHECK(get(fd, SO_BUSY_POLL) == 50);
        CHECK_FAILS(refused(fd, SO_BUSY_POLL, -1), EINVAL);
        set(fd, SO_CNX_ADVICE, 1);
        CHECK(get(fd, SO_INCOMING_NAPI_ID) == 0);
        CHECK_FAILS(refused(fd, SO_RESERVE_MEM, -1), EINVAL);
        uint64_t rate = 0;
        socklen_t length = sizeof rate;
        CHECK(getsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, &length) == 0);
        CHECK(length == sizeof rate && rate == ~uint64_t{0});
        rate = 6'000'000'000;
        CHECK(setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate) == 0);
        CHECK(get(fd, SO_MAX_PACING_RATE) == -1);
        set(fd, SO_MAX_PACING_RATE, 1000);
        CHECK(get(fd, SO_MAX_PACING_RATE) == 1000);
        close(fd);
    }
}

// Without a security module nobody has a label.
void labels() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0), local = socket(AF_UNIX, SOCK_STREAM, 0);
    int value = 1;
    socklen_t length = sizeof value;
    CHECK_FAILS(getsockopt(fd, SOL_SOCKET, SO_PASSSEC, &value, &length), EOPNOTSUPP);
    CHECK_FAILS(refused(fd, SO_PASSSEC, 1), EOPNOTSUPP);
    set(local, SO_PASSSEC, 1);
    CHECK(get(local, SO_PASSSEC) == 1);
    close(fd);
    close(local);
}

void locked_buffers() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(get(fd, SO_BUF_LOCK) == 0);
    set(fd, SO_RCVBUF, 8192);
    CHECK(get(fd, SO_BUF_LOCK) == SOCK_RCVBUF_LOCK);
    set(fd, SO_SNDBUF, 8192);
    CHECK(get(fd, SO_BUF_LOCK) == (SOCK_RCVBUF_LOCK | SOCK_SNDBUF_LOCK));
    set(fd, SO_BUF_LOCK, SOCK_SNDBUF_LOCK);
    CHECK(get(fd, SO_BUF_LOCK) == SOCK_SNDBUF_LOCK);
    CHECK_FAILS(refused(fd, SO_BUF_LOCK, 4), EINVAL);
    close(fd);
}

void namespaces() {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0), local = socket(AF_UNIX, SOCK_STREAM, 0);
    const auto cookie = [](int of) {
        uint64_t value = 0;
        socklen_t length = sizeof value;
        CHECK(getsockopt(of, SOL_SOCKET, SO_NETNS_COOKIE, &value, &length) == 0);
        return value;
    };
    const uint64_t first = cookie(fd);
    CHECK(first == cookie(local));
    int small = 0;
    socklen_t length = sizeof small;
    CHECK_FAILS(getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &small, &length), EINVAL);
    own_network();
    const int other = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(cookie(other) != first);
    CHECK(cookie(fd) == first && cookie(local) == first); // where it was made
    for (const int each : {fd, local, other})
        close(each);
}

void send_times() {
    const int fd = bound(SOCK_DGRAM);
    const sockaddr_in to = name_of(fd);
    char space[CMSG_SPACE(sizeof(uint64_t))] = {};
    iovec text{const_cast<char*>("later"), 5};
    msghdr message{};
    message.msg_name = const_cast<sockaddr_in*>(&to);
    message.msg_namelen = sizeof to;
    message.msg_iov = &text;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_TXTIME;
    header->cmsg_len = CMSG_LEN(sizeof(uint64_t));
    CHECK_FAILS(sendmsg(fd, &message, 0), EINVAL); // nobody asked for times
    sock_txtime wanted{CLOCK_MONOTONIC, 4};
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_TXTIME, &wanted, sizeof wanted), EINVAL);
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_TXTIME, &wanted, 4), EINVAL);
    wanted = {CLOCK_BOOTTIME, 0};
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_TXTIME, &wanted, sizeof wanted), EINVAL);
    wanted = {CLOCK_MONOTONIC, SOF_TXTIME_REPORT_ERRORS};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_TXTIME, &wanted, sizeof wanted) == 0);
    wanted = {};
    socklen_t length = sizeof wanted;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_TXTIME, &wanted, &length) == 0 && length == sizeof wanted);
    CHECK(wanted.clockid == CLOCK_MONOTONIC && wanted.flags == SOF_TXTIME_REPORT_ERRORS);
    CHECK(sendmsg(fd, &message, 0) == 5);
    CHECK(readable(fd)); // no queueing discipline keeps it back
    close(fd);
}

void marks() {
    const int fd = bound(SOCK_DGRAM);
    const sockaddr_in to = name_of(fd);
    set(fd, SO_RCVMARK, 1);
    set(fd, SO_MARK, 7);
    CHECK(sendto(fd, "x", 1, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 1);
    char space[256], byte = 0;
    iovec text{&byte, 1};
    msghdr message{};
    message.msg_iov = &text;
    message.msg_iovlen = 1;
    const auto received = [&] {
        message.msg_name = nullptr;
        message.msg_namelen = 0;
        message.msg_control = space;
        message.msg_controllen = sizeof space;
        CHECK(recvmsg(fd, &message, 0) == 1);
        const cmsghdr* header = CMSG_FIRSTHDR(&message);
        CHECK(header != nullptr && header->cmsg_level == SOL_SOCKET);
        CHECK(header->cmsg_type == SO_MARK && header->cmsg_len == CMSG_LEN(sizeof(uint32_t)));
        uint32_t mark = 0;
        std::memcpy(&mark, CMSG_DATA(header), sizeof mark);
        return mark;
    };
    CHECK(received() == 7);
    // One packet's own.
    const uint32_t mark = 99;
    message.msg_name = const_cast<sockaddr_in*>(&to);
    message.msg_namelen = sizeof to;
    message.msg_control = space;
    message.msg_controllen = CMSG_SPACE(sizeof mark);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SO_MARK;
    header->cmsg_len = CMSG_LEN(sizeof mark);
    std::memcpy(CMSG_DATA(header), &mark, sizeof mark);
    CHECK(sendmsg(fd, &message, 0) == 1);
    CHECK(received() == 99);
    message.msg_name = const_cast<sockaddr_in*>(&to);
    message.msg_namelen = sizeof to;
    message.msg_control = space;
    message.msg_controllen = CMSG_SPACE(sizeof mark);
    header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = 1000;
    header->cmsg_len = CMSG_LEN(sizeof mark);
    CHECK_FAILS(sendmsg(fd, &message, 0), EINVAL);
    close(fd);
}

void memory() {
    const int fd = bound(SOCK_DGRAM);
    const sockaddr_in to = name_of(fd);
    uint32_t values[SK_MEMINFO_VARS + 1] = {};
    socklen_t length = sizeof values;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &length) == 0);
    CHECK(length == SK_MEMINFO_VARS * sizeof values[0]);
    CHECK(values[SK_MEMINFO_RMEM_ALLOC] == 0);
    CHECK(values[SK_MEMINFO_RCVBUF] == static_cast<uint32_t>(get(fd, SO_RCVBUF)));
    CHECK(values[SK_MEMINFO_SNDBUF] == static_cast<uint32_t>(get(fd, SO_SNDBUF)));
    CHECK(sendto(fd, "x", 1, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 1);
    length = 8;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &length) == 0 && length == 8);
    CHECK(values[SK_MEMINFO_RMEM_ALLOC] > 0);
    close(fd);
}

void errors_first() {
    const int fd = bound(SOCK_DGRAM);
    const int on = 1;
    CHECK(setsockopt(fd, SOL_IP, IP_RECVERR, &on, sizeof on) == 0);
    sockaddr_in nobody = name_of(fd);
    const int gone = bound(SOCK_DGRAM);
    nobody.sin_port = name_of(gone).sin_port;
    close(gone);
    CHECK(sendto(fd, "x", 1, 0, reinterpret_cast<sockaddr*>(&nobody), sizeof nobody) == 1);
    pollfd one{fd, POLLPRI, 0};
    CHECK(poll(&one, 1, 0) == 1 && one.revents == POLLERR);
    set(fd, SO_SELECT_ERR_QUEUE, 1);
    CHECK(poll(&one, 1, 0) == 1 && one.revents == (POLLERR | POLLPRI));
    close(fd);
}

sock_fprog program_of(sock_filter* steps, unsigned short count) {
    return {count, steps};
}

void locked_filters() {
    const int fd = bound(SOCK_DGRAM);
    sock_filter steps[] = {BPF_STMT(BPF_RET | BPF_K, 0xffff)};
    const sock_fprog program = program_of(steps, 1);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, 8), EINVAL);
    CHECK(get(fd, SO_LOCK_FILTER) == 0);
    set(fd, SO_LOCK_FILTER, 1);
    CHECK(get(fd, SO_LOCK_FILTER) == 1);
    CHECK_FAILS(refused(fd, SO_LOCK_FILTER, 0), EPERM);
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), EPERM);
    CHECK_FAILS(refused(fd, SO_DETACH_FILTER, 0), EPERM);
    CHECK_FAILS(refused(fd, SO_ATTACH_BPF, fd), EPERM);
    close(fd);
    const int other = bound(SOCK_DGRAM);
    CHECK_FAILS(refused(other, SO_ATTACH_BPF, -1), EBADF);
    CHECK_FAILS(refused(other, SO_ATTACH_BPF, other), EINVAL); // no program
    CHECK_FAILS(refused(other, SO_ATTACH_REUSEPORT_EBPF, -1), EBADF);
    close(other);
}

// The first byte of a datagram says whose it is.
void chosen_datagrams() {
    sock_filter steps[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_STMT(BPF_RET | BPF_A, 0)};
    const sock_fprog program = program_of(steps, 2);
    const auto attach = [&](int fd) {
        return setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program);
    };
    const int alone = bound(SOCK_DGRAM);
    CHECK_FAILS(attach(alone), EINVAL);
    CHECK_FAILS(refused(alone, SO_DETACH_REUSEPORT_BPF, 0), EINVAL);
    int members[4] = {bound(SOCK_DGRAM, 0, true)};
    const sockaddr_in to = name_of(members[0]);
    for (int i = 1; i < 4; i++)
        members[i] = bound(SOCK_DGRAM, ntohs(to.sin_port), true);
    CHECK_FAILS(refused(members[1], SO_DETACH_REUSEPORT_BPF, 0), ENOENT);
    CHECK(attach(members[2]) == 0);
    const auto reaches = [&](char first, int member) {
        CHECK(sendto(alone, &first, 1, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 1);
        char byte = 0;
        return readable(member) && recv(member, &byte, 1, 0) == 1 && byte == first;
    };
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 4; i++)
            CHECK(reaches(static_cast<char>(i), members[i]));
    // Whoever is last takes the place of one that goes.
    close(members[1]);
    CHECK(reaches(0, members[0]) && reaches(1, members[3]) && reaches(2, members[2]));
    // Out of range: as without a program.
    const char far = 77;
    CHECK(sendto(alone, &far, 1, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 1);
    CHECK(readable(members[0]) + readable(members[2]) + readable(members[3]) == 1);
    set(members[0], SO_DETACH_REUSEPORT_BPF, 0);
    CHECK_FAILS(refused(members[0], SO_DETACH_REUSEPORT_BPF, 0), ENOENT);
    for (const int fd : {alone, members[0], members[2], members[3]})
        close(fd);
    // Before it is bound; and of the running CPU.
    sock_filter by_cpu[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(SKF_AD_OFF + SKF_AD_CPU)),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0), BPF_STMT(BPF_RET | BPF_A, 0)};
    const sock_fprog first = program_of(by_cpu, 3);
    const int early = socket(AF_INET, SOCK_DGRAM, 0);
    const auto attach_first = [&] {
        return setsockopt(early, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &first, sizeof first);
    };
    CHECK_FAILS(attach_first(), EINVAL);
    set(early, SO_REUSEPORT, 1);
    CHECK(attach_first() == 0);
    CHECK(bind(early, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
    const int late = bound(SOCK_DGRAM, ntohs(to.sin_port), true);
    for (char i = 0; i < 8; i++)
        CHECK(sendto(late, &i, 1, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 1);
    CHECK(readable(early) && !readable(late));
    close(early);
    close(late);
}

void chosen_connections() {
    sock_filter steps[] = {BPF_STMT(BPF_RET | BPF_K, 1)};
    const sock_fprog program = program_of(steps, 1);
    const int first = bound(SOCK_STREAM, 0, true);
    const sockaddr_in to = name_of(first);
    const int second = bound(SOCK_STREAM, ntohs(to.sin_port), true);
    CHECK(listen(first, 8) == 0 && listen(second, 8) == 0);
    CHECK(setsockopt(first, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program) == 0);
    for (int i = 0; i < 6; i++) {
        const int client = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(client, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
        CHECK(readable(second, 5000) && !readable(first));
        const int served = accept(second, nullptr, nullptr);
        CHECK(served >= 0);
        close(served);
        close(client);
    }
    close(first);
    close(second);
}

// RFC 2292's names of what RFC 3542 named again, and where a datagram was sent to at first.
void old_names() {
    const int fd = socket(AF_INET6, SOCK_DGRAM, 0), on = 1;
    sockaddr_in6 at{};
    at.sin6_family = AF_INET6;
    at.sin6_addr = in6addr_loopback;
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    socklen_t size = sizeof at;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size) == 0);
    for (const int name : {IPV6_2292PKTINFO, IPV6_2292HOPLIMIT, IPV6_RECVORIGDSTADDR}) {
        int value = -1;
        CHECK(setsockopt(fd, IPPROTO_IPV6, name, &on, sizeof on) == 0);
        size = sizeof value;
        CHECK(getsockopt(fd, IPPROTO_IPV6, name, &value, &size) == 0 && value == 1);
    }
    char byte = 0;
    alignas(cmsghdr) char space[256] = {};
    iovec text{&byte, 1};
    msghdr message{};
    message.msg_name = &at;
    message.msg_namelen = sizeof at;
    message.msg_iov = &text;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = CMSG_SPACE(sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    const int hops = 33;
    header->cmsg_level = IPPROTO_IPV6;
    header->cmsg_type = IPV6_2292HOPLIMIT;
    header->cmsg_len = CMSG_LEN(sizeof hops);
    std::memcpy(CMSG_DATA(header), &hops, sizeof hops);
    CHECK(sendmsg(fd, &message, 0) == 1);
    message.msg_name = nullptr;
    message.msg_namelen = 0;
    message.msg_controllen = sizeof space;
    CHECK(recvmsg(fd, &message, 0) == 1);
    int seen = 0;
    for (header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
        CHECK(header->cmsg_level == IPPROTO_IPV6);
        if (header->cmsg_type == IPV6_2292HOPLIMIT) {
            int value = 0;
            std::memcpy(&value, CMSG_DATA(header), sizeof value);
            CHECK(value == 33);
            seen |= 1;
        } else if (header->cmsg_type == IPV6_2292PKTINFO) {
            CHECK(std::memcmp(CMSG_DATA(header), &in6addr_loopback, 16) == 0);
            seen |= 2;
        } else {
            sockaddr_in6 to{};
            CHECK(header->cmsg_type == IPV6_ORIGDSTADDR);
            std::memcpy(&to, CMSG_DATA(header), sizeof to);
            CHECK(to.sin6_family == AF_INET6 && to.sin6_port == at.sin6_port);
            CHECK(std::memcmp(&to.sin6_addr, &in6addr_loopback, 16) == 0);
            seen |= 4;
        }
    }
    CHECK(seen == 7);
    close(fd);
}

// A program's own IPv6 header.
void whole_packets() {
    const int fd = socket(AF_INET6, SOCK_RAW, 253), watch = socket(AF_INET6, SOCK_RAW, 254);
    const int udp = socket(AF_INET6, SOCK_DGRAM, 0), on = 1;
    CHECK(fd >= 0 && watch >= 0);
    int value = -1;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &value, &length) == 0 && value == 0);
    CHECK_FAILS(setsockopt(udp, IPPROTO_IPV6, IPV6_HDRINCL, &on, sizeof on), ENOPROTOOPT);
    CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &on, sizeof on) == 0);
    CHECK(getsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &value, &length) == 0 && value == 1);
    sockaddr_in6 to{};
    to.sin6_family = AF_INET6;
    to.sin6_addr = in6addr_loopback;
    unsigned char packet[41] = {0x60, 0, 0, 0, 0, 1, 254, 64};
    packet[23] = packet[39] = 1; // ::1 both
    packet[40] = 'x';
    CHECK_FAILS(sendto(fd, packet, 39, 0, reinterpret_cast<sockaddr*>(&to), sizeof to), EINVAL);
    CHECK(sendto(fd, packet, 41, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) == 41);
    char byte = 0;
    CHECK(readable(watch, 1000) && recv(watch, &byte, 1, 0) == 1 && byte == 'x');
    for (const int each : {fd, watch, udp})
        close(each);
}

} // namespace

int main() {
    own_network();
    kept_values();
    labels();
    locked_buffers();
    namespaces();
    send_times();
    marks();
    memory();
    errors_first();
    locked_filters();
    chosen_datagrams();
    chosen_connections();
    old_names();
    whole_packets();
    return 0;
}
