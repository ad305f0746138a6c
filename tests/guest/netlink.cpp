// netlink(7) and rtnetlink(7): the sockets themselves, and what getifaddrs(3) needs of them. In a
// network namespace of its own.
#include <cstdint>
#include <ifaddrs.h>
#include <poll.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/guest/check.hpp"
#include "tests/guest/netlink_support.hpp"

namespace {

// --- sockets

void ports() {
    CHECK_FAILS(socket(AF_NETLINK, SOCK_STREAM, NETLINK_ROUTE), ESOCKTNOSUPPORT);
    CHECK_FAILS(socket(AF_NETLINK, SOCK_RAW, 1000), EPROTONOSUPPORT);
    const int first = open_socket(), second = open_socket();
    CHECK(port_of(first) == 0);
    sockaddr_nl any{};
    any.nl_family = AF_NETLINK;
    CHECK_FAILS(bind(first, general(any), sizeof any - 1), EINVAL);
    CHECK(bind(first, general(any), sizeof any) == 0);
    CHECK(port_of(first) == static_cast<uint32_t>(getpid()));
    // The next one has to do with another number.
    CHECK(bind(second, general(any), sizeof any) == 0);
    CHECK(static_cast<int32_t>(port_of(second)) < 0);
    const int third = open_socket();
    sockaddr_nl taken = any;
    taken.nl_pid = port_of(second);
    CHECK_FAILS(bind(third, general(taken), sizeof taken), EADDRINUSE);
    taken.nl_pid = 777'777'777;
    CHECK(bind(third, general(taken), sizeof taken) == 0);
    CHECK(port_of(third) == 777'777'777);
    taken.nl_pid = 5;
    CHECK_FAILS(bind(third, general(taken), sizeof taken), EINVAL);
    CHECK_FAILS(listen(third, 1), EOPNOTSUPP);
    close(first);
    close(second);
    close(third);
}

void options() {
    const int fd = open_socket();
    for (const int name : {NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS,
                           NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK}) {
        int value = -1;
        socklen_t length = sizeof value;
        CHECK(getsockopt(fd, SOL_NETLINK, name, &value, &length) == 0 && value == 0);
        set_option(fd, name, 1);
        CHECK(getsockopt(fd, SOL_NETLINK, name, &value, &length) == 0 && value == 1);
    }
    int group = RTNLGRP_LINK;
    CHECK(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0);
    group = 5000;
    CHECK_FAILS(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group), EINVAL);
    uint32_t groups[2] = {};
    socklen_t length = sizeof groups;
    CHECK(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &length) == 0);
    CHECK(length == sizeof groups && groups[0] == 1u << (RTNLGRP_LINK - 1) && groups[1] == 0);
    sockaddr_nl own{};
    socklen_t own_length = sizeof own;
    CHECK(getsockname(fd, general(own), &own_length) == 0);
    CHECK(own.nl_groups == 1u << (RTNLGRP_LINK - 1));
    CHECK_FAILS(setsockopt(fd, SOL_NETLINK, 99, &group, sizeof group), ENOPROTOOPT);
    close(fd);
}

Builder link_dump(uint32_t sequence = 1) {
    Builder request(RTM_GETLINK, NLM_F_DUMP, sequence);
    request.put(ifinfomsg{});
    return request;
}

void acknowledgements() {
    const int fd = open_socket();
    // A message that is no request of the protocol is acknowledged if it wants to be.
    CHECK(ask(fd, Builder(NLMSG_NOOP, NLM_F_ACK)) == 0);
    CHECK(ask(fd, Builder(RTM_GETLINK, NLM_F_ACK)) == 0); // one without content is none
    Builder short_header(RTM_GETLINK, 0);
    short_header.put(uint32_t{0});
    CHECK(ask(fd, std::move(short_header)) == EINVAL);
    CHECK(ask(fd, Builder(0x3ff, 0)) == EOPNOTSUPP);
    // An error comes with the whole request, unless that is not wanted.
    ifinfomsg missing{};
    missing.ifi_index = 4711;
    Builder request(RTM_GETLINK, 0, 42);
    request.put(missing).number(IFLA_EXT_MASK, 0);
    request.send(fd);
    std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1 && got[0].header.nlmsg_seq == 42);
    CHECK(got[0].as<nlmsgerr>().error == -ENODEV && got[0].header.nlmsg_flags == 0);
    CHECK(got[0].data.size() == sizeof(int) + request.bytes.size());
    CHECK(got[0].as<nlmsgerr>().msg.nlmsg_len == request.bytes.size());
    set_option(fd, NETLINK_CAP_ACK, 1);
    request.send(fd);
    got = receive(fd);
    CHECK(got[0].data.size() == sizeof(nlmsgerr) && got[0].header.nlmsg_flags == NLM_F_CAPPED);
    // Two messages in one datagram are two requests.
    std::vector<char> both;
    for (const uint32_t sequence : {7u, 8u}) {
        Builder one(NLMSG_NOOP, NLM_F_ACK, sequence);
        const auto length = static_cast<uint32_t>(one.bytes.size());
        std::memcpy(one.bytes.data(), &length, sizeof length);
        both.insert(both.end(), one.bytes.begin(), one.bytes.end());
    }
    CHECK(send(fd, both.data(), both.size(), 0) == static_cast<ssize_t>(both.size()));
    CHECK(receive(fd)[0].header.nlmsg_seq == 7);
    CHECK(receive(fd)[0].header.nlmsg_seq == 8);
    close(fd);
}

void extended_acknowledgements() {
    const int fd = open_socket();
    set_option(fd, NETLINK_EXT_ACK, 1);
    set_option(fd, NETLINK_GET_STRICT_CHK, 1);
    ifinfomsg header{};
    header.ifi_index = 1;
    Builder request(RTM_GETLINK, NLM_F_DUMP);
    request.put(header);
    request.send(fd);
    // A dump that cannot be is over at once.
    std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1 && got[0].header.nlmsg_type == NLMSG_DONE);
    CHECK(got[0].as<int>() == -EINVAL && (got[0].header.nlmsg_flags & NLM_F_ACK_TLVS));
    CHECK(got[0].text(sizeof(int), NLMSGERR_ATTR_MSG) ==
          "Filter by device index not supported for link dumps");
    // A request that fails says why behind its copy.
    ifaddrmsg address{};
    address.ifa_family = AF_INET;
    address.ifa_prefixlen = 33;
    address.ifa_index = 1;
    const uint32_t value = htonl(0x0a000001);
    Builder add(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE);
    add.put(address).attribute(IFA_LOCAL, &value, sizeof value);
    add.send(fd);
    got = receive(fd);
    CHECK(got.size() == 1 && got[0].as<nlmsgerr>().error == -EINVAL);
    CHECK(got[0].header.nlmsg_flags == NLM_F_ACK_TLVS);
    CHECK(got[0].text(sizeof(int) + add.bytes.size(), NLMSGERR_ATTR_MSG) ==
          "ipv4: Invalid prefix length");
    close(fd);
}

void dumps() {
    const int fd = open_socket();
    int pieces = 0;
    const std::vector<Message> links = dump(fd, link_dump(9), 65536, pieces);
    CHECK(!links.empty() && links[0].header.nlmsg_type == RTM_NEWLINK);
    CHECK(links[0].header.nlmsg_seq == 9 && links[0].header.nlmsg_pid == port_of(fd));
    CHECK(links[0].as<ifinfomsg>().ifi_index == 1);
    CHECK(links[0].text(sizeof(ifinfomsg), IFLA_IFNAME) == "lo");
    // Many addresses: more than a message of what the reader offers.
    for (uint32_t i = 1; i <= 120; i++) {
        ifaddrmsg address{};
        address.ifa_family = AF_INET;
        address.ifa_prefixlen = 32;
        address.ifa_index = 1;
        const uint32_t value = htonl(0x0a640000 + i);
        Builder add(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        add.put(address).attribute(IFA_LOCAL, &value, sizeof value);
        CHECK(ask(fd, std::move(add)) == 0);
    }
    Builder addresses(RTM_GETADDR, NLM_F_DUMP);
    addresses.put(ifaddrmsg{});
    const int small = open_socket(); // one that was never read with a larger buffer
    const std::vector<Message> all = dump(small, std::move(addresses), 4096, pieces);
    CHECK(all.size() >= 120 && pieces > 2);
    close(small);
    close(fd);
}

void peeking_and_truncation() {
    const int fd = open_socket();
    link_dump().send(fd);
    char small[8];
    iovec vector = {small, sizeof small};
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    const ssize_t whole = recvmsg(fd, &header, MSG_PEEK | MSG_TRUNC);
    CHECK(whole > static_cast<ssize_t>(sizeof small) && (header.msg_flags & MSG_TRUNC));
    CHECK(recv(fd, nullptr, 0, MSG_PEEK | MSG_TRUNC) == whole);
    CHECK(recvmsg(fd, &header, 0) == sizeof small && (header.msg_flags & MSG_TRUNC));
    // The rest of that message is gone.
    char buffer[65536];
    for (;;) {
        const ssize_t length = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (length < 0)
            break;
    }
    CHECK(errno == EAGAIN);
    close(fd);
}

void waiting() {
    const int fd = open_socket();
    pollfd waits = {fd, POLLIN | POLLOUT, 0};
    CHECK(poll(&waits, 1, 0) == 1 && waits.revents == POLLOUT);
    link_dump().send(fd);
    CHECK(poll(&waits, 1, 0) == 1 && waits.revents == (POLLIN | POLLOUT));
    CHECK_FAILS(send(fd, "x", 1, MSG_OOB), EOPNOTSUPP);
    sockaddr_nl nobody{};
    nobody.nl_family = AF_NETLINK;
    nobody.nl_pid = 0x7fff0000;
    CHECK_FAILS(sendto(fd, "xxxx", 4, 0, general(nobody), sizeof nobody), ECONNREFUSED);
    close(fd);
}

// --- programs among themselves

// Who got more than there was room for gets no more until all of it is read: senders wait for that.
void after_an_overrun() {
    const int from = open_socket(NETLINK_USERSOCK), to = open_socket(NETLINK_USERSOCK);
    sockaddr_nl own{};
    own.nl_family = AF_NETLINK;
    own.nl_groups = 1;
    CHECK(bind(to, general(own), sizeof own) == 0);
    const int least = 1;
    CHECK(setsockopt(to, SOL_SOCKET, SO_RCVBUF, &least, sizeof least) == 0);
    const timeval soon{0, 100'000};
    CHECK(setsockopt(from, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon) == 0);
    sockaddr_nl target = own;
    const char text[64] = {};
    for (int i = 0; i < 100; i++)
        (void)sendto(from, text, sizeof text, 0, general(target), sizeof target);
    char byte = 0;
    CHECK_FAILS(recv(to, &byte, 1, MSG_DONTWAIT), ENOBUFS);
    CHECK(recv(to, &byte, 1, MSG_DONTWAIT) == 1); // one of several
    target.nl_groups = 0;
    target.nl_pid = port_of(to);
    CHECK_FAILS(sendto(from, text, sizeof text, 0, general(target), sizeof target), EAGAIN);
    while (recv(to, &byte, 1, MSG_DONTWAIT) == 1)
        ;
    CHECK(sendto(from, text, sizeof text, 0, general(target), sizeof target) == sizeof text);
    CHECK(recv(to, &byte, 1, MSG_DONTWAIT) == 1);
    close(from);
    close(to);
}

void between_programs() {
    const int from = open_socket(NETLINK_USERSOCK), to = open_socket(NETLINK_USERSOCK);
    sockaddr_nl any{};
    any.nl_family = AF_NETLINK;
    CHECK(bind(to, general(any), sizeof any) == 0);
    sockaddr_nl target = any;
    target.nl_pid = port_of(to);
    const int one = 1;
    CHECK(setsockopt(to, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0);
    CHECK(sendto(from, "hello", 5, 0, general(target), sizeof target) == 5);
    char text[16] = {};
    iovec vector = {text, sizeof text};
    alignas(cmsghdr) char control[128];
    sockaddr_nl sender{};
    msghdr header{};
    header.msg_name = &sender;
    header.msg_namelen = sizeof sender;
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    CHECK(recvmsg(to, &header, 0) == 5 && std::strcmp(text, "hello") == 0);
    CHECK(sender.nl_pid == port_of(from) && sender.nl_groups == 0);
    const cmsghdr* message = CMSG_FIRSTHDR(&header);
    CHECK(message != nullptr && message->cmsg_type == SCM_CREDENTIALS);
    ucred credentials{};
    std::memcpy(&credentials, CMSG_DATA(message), sizeof credentials);
    CHECK(credentials.pid == getpid() && credentials.uid == getuid());
    // A group.
    const int group = 3;
    CHECK(setsockopt(to, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0);
    set_option(to, NETLINK_PKTINFO, 1);
    target = any;
    target.nl_groups = 1u << (group - 1);
    // Nobody in the kernel takes what goes to the group; Linux says so after it has sent it.
    (void)sendto(from, "all", 3, 0, general(target), sizeof target);
    header.msg_controllen = sizeof control;
    CHECK(recvmsg(to, &header, 0) == 3 && sender.nl_groups == 1u << (group - 1));
    bool told = false;
    for (const cmsghdr* at = CMSG_FIRSTHDR(&header); at != nullptr;
         at = CMSG_NXTHDR(&header, const_cast<cmsghdr*>(at)))
        told = told || (at->cmsg_level == SOL_NETLINK && at->cmsg_type == NETLINK_PKTINFO);
    CHECK(told);
    close(from);
    close(to);
}

// --- notifications

void set_up(int fd, bool up) {
    ifinfomsg link{};
    link.ifi_index = 1;
    link.ifi_flags = up ? IFF_UP : 0;
    link.ifi_change = IFF_UP;
    Builder request(RTM_NEWLINK, NLM_F_ACK);
    request.put(link);
    CHECK(ask(fd, std::move(request)) == 0);
}

void notifications() {
    const int fd = open_socket(), listener = open_socket();
    sockaddr_nl groups{};
    groups.nl_family = AF_NETLINK;
    groups.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR;
    CHECK(bind(listener, general(groups), sizeof groups) == 0);
    set_up(fd, false);
    set_up(fd, true);
    bool down = false, up = false;
    while (!up) {
        for (const Message& message : receive(listener)) {
            if (message.header.nlmsg_type != RTM_NEWLINK)
                continue;
            const bool is_up = (message.as<ifinfomsg>().ifi_flags & IFF_UP) != 0;
            down = down || !is_up;
            up = down && is_up;
        }
    }
    // Too much for a small queue: the listener learns that it missed something.
    const int size = 2304;
    CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof size) == 0);
    for (int i = 0; i < 12; i++)
        set_up(fd, i % 2 != 0);
    pollfd waits = {listener, POLLIN, 0};
    CHECK(poll(&waits, 1, 0) == 1 && (waits.revents & POLLERR));
    char buffer[8192];
    CHECK_FAILS(recv(listener, buffer, sizeof buffer, 0), ENOBUFS);
    CHECK(recv(listener, buffer, sizeof buffer, 0) > 0);
    close(fd);
    close(listener);
}

// --- what the C library makes of it

void interface_lists() {
    CHECK(if_nametoindex("lo") == 1);
    char name[IF_NAMESIZE];
    CHECK(if_indextoname(1, name) != nullptr && std::strcmp(name, "lo") == 0);
    ifaddrs* list = nullptr;
    CHECK(getifaddrs(&list) == 0);
    bool packet = false, inet = false, inet6 = false;
    for (const ifaddrs* at = list; at != nullptr; at = at->ifa_next) {
        CHECK(std::strcmp(at->ifa_name, "lo") == 0);
        packet = packet || at->ifa_addr->sa_family == AF_PACKET;
        inet = inet || at->ifa_addr->sa_family == AF_INET;
        inet6 = inet6 || at->ifa_addr->sa_family == AF_INET6;
    }
    CHECK(packet && inet && inet6);
    freeifaddrs(list);
    struct if_nameindex* names = if_nameindex();
    CHECK(names != nullptr && names[0].if_index == 1 && names[1].if_index == 0);
    if_freenameindex(names);
}

void without_privilege() {
    const int fd = open_socket();
    int pieces = 0;
    CHECK(!dump(fd, link_dump(), 65536, pieces).empty());
    // Rights are those of the moment, and of whoever opened the socket.
    CHECK(seteuid(1000) == 0);
    ifinfomsg link{};
    link.ifi_index = 1;
    link.ifi_change = IFF_UP;
    Builder request(RTM_NEWLINK, NLM_F_ACK);
    request.put(link);
    CHECK(ask(fd, std::move(request)) == EPERM);
    const int weak = open_socket();
    CHECK(seteuid(0) == 0);
    Builder again(RTM_NEWLINK, NLM_F_ACK);
    again.put(link);
    CHECK(ask(weak, std::move(again)) == EPERM);
    close(weak);
    close(fd);
}

void own_network() {
    CHECK(unshare(CLONE_NEWNET) == 0);
    const int fd = open_socket();
    set_up(fd, true);
    close(fd);
}

} // namespace

int main() {
    own_network();
    ports();
    options();
    acknowledgements();
    extended_acknowledgements();
    peeking_and_truncation();
    waiting();
    between_programs();
    after_an_overrun();
    interface_lists();
    notifications();
    dumps();
    without_privilege();
    return 0;
}
