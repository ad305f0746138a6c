// packet(7): groups of sockets that divide frames among themselves (PACKET_FANOUT), headers of
// virtio_net in front of frames, times of what was sent, and options that packet_ring.cpp leaves
// out.
#include <cstdint>
#include <poll.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/net_tstamp.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "tests/guest/network_support.hpp"

namespace {

constexpr uint32_t with_flags(uint32_t type, uint32_t id = 0) {
    return id | type << 16;
}

int set(int fd, int name, uint32_t value) {
    return setsockopt(fd, SOL_PACKET, name, &value, sizeof value);
}

int get(int fd, int name) {
    int value = -77;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, SOL_PACKET, name, &value, &length) == 0 && length == sizeof value);
    return value;
}

int attach(int fd, uint16_t protocol) {
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(protocol);
    where.sll_ifindex = static_cast<int>(if_nametoindex("lo"));
    return bind(fd, reinterpret_cast<sockaddr*>(&where), sizeof where);
}

int open_tap(uint16_t protocol = ETH_P_IP) {
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
    CHECK(fd >= 0 && attach(fd, protocol) == 0);
    return fd;
}

// From one port to another, where nobody is: what the kernel answers is of another protocol.
void send_datagram(uint16_t from, uint16_t to, const std::string& text = "x") {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons(from);
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    at.sin_port = htons(to);
    CHECK(sendto(fd, text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&at), sizeof at) ==
          static_cast<ssize_t>(text.size()));
    close(fd);
}

// How many datagrams of UDP wait.
unsigned drain(int fd) {
    uint8_t frame[2048];
    unsigned count = 0;
    for (;;) {
        const ssize_t bytes = recv(fd, frame, sizeof frame, 0);
        if (bytes < 0)
            return count;
        count += bytes > 24 && frame[23] == IPPROTO_UDP ? 1 : 0;
    }
}

std::vector<int> group(unsigned members, uint32_t value) {
    std::vector<int> out;
    for (unsigned i = 0; i < members; i++) {
        out.push_back(open_tap());
        CHECK(set(out.back(), PACKET_FANOUT, value) == 0);
    }
    return out;
}

std::vector<unsigned> shares(std::vector<int>& members) {
    std::vector<unsigned> out;
    for (const int fd : members) {
        out.push_back(drain(fd));
        close(fd);
    }
    members.clear();
    return out;
}

void what_cannot_be() {
    const int first = open_tap(), second = open_tap(), other = open_tap(ETH_P_IPV6);
    const int idle = socket(AF_PACKET, SOCK_RAW, 0);
    CHECK(get(first, PACKET_FANOUT) == 0);
    CHECK_FAILS(set(idle, PACKET_FANOUT, with_flags(PACKET_FANOUT_LB, 1)), EINVAL);
    CHECK_FAILS(set(first, PACKET_FANOUT, with_flags(9, 1)), EINVAL);
    CHECK_FAILS(
        set(first, PACKET_FANOUT, with_flags(PACKET_FANOUT_ROLLOVER | PACKET_FANOUT_FLAG_ROLLOVER)),
        EINVAL);
    CHECK_FAILS(set(first, PACKET_FANOUT_DATA, 0), EINVAL);
    CHECK(set(first, PACKET_FANOUT, with_flags(PACKET_FANOUT_LB, 1)) == 0);
    CHECK(get(first, PACKET_FANOUT) == (1 | PACKET_FANOUT_LB << 16));
    CHECK_FAILS(set(first, PACKET_FANOUT, with_flags(PACKET_FANOUT_LB, 1)), EALREADY);
    CHECK_FAILS(set(second, PACKET_FANOUT, with_flags(PACKET_FANOUT_HASH, 1)), EINVAL);
    CHECK_FAILS(
        set(second, PACKET_FANOUT, with_flags(PACKET_FANOUT_LB | PACKET_FANOUT_FLAG_ROLLOVER, 1)),
        EINVAL);
    CHECK_FAILS(set(other, PACKET_FANOUT, with_flags(PACKET_FANOUT_LB, 1)), EINVAL);
    CHECK_FAILS(attach(first, ETH_P_IP), EINVAL);
    CHECK_FAILS(set(first, PACKET_FANOUT_DATA, 0), EINVAL);
    tpacket_rollover_stats rolled{};
    socklen_t length = sizeof rolled;
    CHECK_FAILS(getsockopt(first, SOL_PACKET, PACKET_ROLLOVER_STATS, &rolled, &length), EINVAL);
    // A number of its own.
    CHECK_FAILS(
        set(second, PACKET_FANOUT, with_flags(PACKET_FANOUT_LB | PACKET_FANOUT_FLAG_UNIQUEID, 5)),
        EINVAL);
    CHECK(set(second, PACKET_FANOUT, with_flags(PACKET_FANOUT_LB | PACKET_FANOUT_FLAG_UNIQUEID)) ==
          0);
    CHECK((get(second, PACKET_FANOUT) & 0xffff) != 1);
    CHECK(get(second, PACKET_FANOUT) >> 16 == PACKET_FANOUT_LB);
    // No more than the first one said.
    struct {
        uint16_t id, type;
        uint32_t most;
    } bounded = {7, PACKET_FANOUT_LB, 1};
    const int third = open_tap(), fourth = open_tap();
    CHECK(setsockopt(third, SOL_PACKET, PACKET_FANOUT, &bounded, sizeof bounded) == 0);
    CHECK_FAILS(setsockopt(fourth, SOL_PACKET, PACKET_FANOUT, &bounded, sizeof bounded), ENOSPC);
    bounded.most = 2;
    CHECK_FAILS(setsockopt(fourth, SOL_PACKET, PACKET_FANOUT, &bounded, sizeof bounded), EINVAL);
    CHECK_FAILS(setsockopt(fourth, SOL_PACKET, PACKET_FANOUT, &bounded, 6), EINVAL);
    close(third); // the last of a group takes it along
    CHECK(setsockopt(fourth, SOL_PACKET, PACKET_FANOUT, &bounded, sizeof bounded) == 0);
    for (const int fd : {first, second, other, idle, fourth})
        close(fd);
}

void in_turn() {
    std::vector<int> members = group(3, with_flags(PACKET_FANOUT_LB, 21));
    const int alone = open_tap();
    for (uint16_t i = 0; i < 9; i++)
        send_datagram(5000, 6000);
    const std::vector<unsigned> got = shares(members);
    CHECK(got[0] == 3 && got[1] == 3 && got[2] == 3);
    CHECK(drain(alone) == 9); // who is in no group sees all
    close(alone);
}

void by_conversation() {
    std::vector<int> members = group(4, with_flags(PACKET_FANOUT_HASH, 22));
    // Both directions are of one.
    for (int i = 0; i < 4; i++) {
        send_datagram(5001, 6001);
        send_datagram(6001, 5001);
    }
    std::vector<unsigned> got = shares(members);
    unsigned with_any = 0, total = 0;
    for (const unsigned count : got) {
        with_any += count != 0 ? 1 : 0;
        total += count;
    }
    CHECK(with_any == 1 && total == 8);
    members = group(4, with_flags(PACKET_FANOUT_HASH, 22));
    for (uint16_t port = 7000; port < 7064; port++)
        send_datagram(5001, port);
    got = shares(members);
    total = 0;
    for (const unsigned count : got) {
        CHECK(count > 0);
        total += count;
    }
    CHECK(total == 64);
}

void other_ways() {
    std::vector<int> members = group(2, with_flags(PACKET_FANOUT_RND, 23));
    for (int i = 0; i < 40; i++)
        send_datagram(5002, 6002);
    std::vector<unsigned> got = shares(members);
    CHECK(got[0] > 0 && got[1] > 0 && got[0] + got[1] == 40);
    for (const uint32_t type : {PACKET_FANOUT_CPU, PACKET_FANOUT_QM}) {
        members = group(2, with_flags(type, 24));
        for (int i = 0; i < 10; i++)
            send_datagram(5002, 6002);
        got = shares(members);
        CHECK(got[0] + got[1] == 10);
    }
    // A program: one by the number that it gives.
    members = group(3, with_flags(PACKET_FANOUT_CBPF, 25));
    sock_filter always[] = {{BPF_RET | BPF_K, 0, 0, 5}};
    const sock_fprog program = {1, always};
    CHECK(setsockopt(members[0], SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof program) == 0);
    for (int i = 0; i < 5; i++)
        send_datagram(5002, 6002);
    got = shares(members);
    CHECK(got[0] == 0 && got[1] == 0 && got[2] == 5);
}

// Who has no room leaves what comes to others.
void rolling_over() {
    for (const uint32_t type : {uint32_t{PACKET_FANOUT_ROLLOVER},
                                uint32_t{PACKET_FANOUT_CPU | PACKET_FANOUT_FLAG_ROLLOVER}}) {
        std::vector<int> members = group(2, with_flags(type, 26));
        for (const int fd : members) {
            const int small = 8192;
            CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
        }
        for (int i = 0; i < 40; i++)
            send_datagram(5003, 6003, std::string(1000, 'r'));
        tpacket_rollover_stats sum{};
        for (const int fd : members) {
            tpacket_rollover_stats rolled{};
            socklen_t length = sizeof rolled;
            CHECK(getsockopt(fd, SOL_PACKET, PACKET_ROLLOVER_STATS, &rolled, &length) == 0);
            CHECK(length == sizeof rolled);
            sum.tp_all += rolled.tp_all;
            sum.tp_failed += rolled.tp_failed;
        }
        CHECK(sum.tp_all > 0 && sum.tp_failed > 0);
        const std::vector<unsigned> got = shares(members);
        CHECK(got[0] > 0 && got[1] > 0 && got[0] + got[1] < 40);
    }
}

// A group may see only what comes in. Of a tap alone, both: it tells when all has passed.
void incoming_only() {
    const uint32_t flag = 0x4000; // PACKET_FANOUT_FLAG_IGNORE_OUTGOING: newer than some headers
    const int before = open_tap(ETH_P_ALL), fd = open_tap(ETH_P_ALL), other = open_tap(ETH_P_ALL);
    CHECK(set(fd, PACKET_FANOUT, with_flags(PACKET_FANOUT_LB | flag, 27)) == 0);
    CHECK(get(fd, PACKET_FANOUT) == (27 | static_cast<int>((PACKET_FANOUT_LB | flag) << 16)));
    CHECK_FAILS(set(other, PACKET_FANOUT, with_flags(PACKET_FANOUT_LB, 27)), EINVAL);
    const int after = open_tap(ETH_P_ALL);
    send_datagram(5004, 6004);
    for (const int witness : {before, after})
        for (unsigned seen = 0; seen < 2;) {
            pollfd one{witness, POLLIN, 0};
            CHECK(poll(&one, 1, 10'000) == 1);
            seen += drain(witness);
        }
    CHECK(drain(fd) == 1);
    for (const int each : {before, fd, other, after})
        close(each);
}

// --- options of one socket

void numbers() {
    const int fd = open_tap(), cooked = socket(AF_PACKET, SOCK_DGRAM, 0);
    for (const int name : {PACKET_ORIGDEV, PACKET_VNET_HDR, PACKET_QDISC_BYPASS}) {
        CHECK(get(fd, name) == 0 && set(fd, name, 5) == 0 && get(fd, name) == 1);
        CHECK(set(fd, name, 0) == 0 && get(fd, name) == 0);
    }
    CHECK(get(fd, PACKET_TIMESTAMP) == 0 && set(fd, PACKET_TIMESTAMP, 100) == 0);
    CHECK(get(fd, PACKET_TIMESTAMP) == 100);
    CHECK(set(fd, PACKET_COPY_THRESH, 1) == 0);
    CHECK_FAILS(set(cooked, PACKET_VNET_HDR, 1), EINVAL);
    tpacket_req ring = {4096, 1, 2048, 2};
    CHECK(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) == 0);
    CHECK_FAILS(set(fd, PACKET_VNET_HDR, 1), EBUSY);
    close(fd);
    close(cooked);
}

constexpr uint16_t own_protocol = 0x88b5; // for local experiments

std::string frame_of(size_t bytes) {
    std::string out(12, '\2');
    out += static_cast<char>(own_protocol >> 8);
    out += static_cast<char>(own_protocol & 0xff);
    out.resize(bytes, 'v');
    return out;
}

void offload_headers() {
    const int receiver = open_tap(own_protocol), sender = open_tap(0);
    CHECK(set(receiver, PACKET_VNET_HDR, 1) == 0 && set(sender, PACKET_VNET_HDR, 1) == 0);
    std::string message = std::string(10, '\0') + frame_of(60);
    CHECK_FAILS(send(sender, message.data(), 9, 0), EINVAL);
    CHECK_FAILS(send(sender, message.data(), 10, 0), EINVAL);
    CHECK(send(sender, message.data(), 70, 0) == 70);
    char got[128];
    CHECK(recv(receiver, got, sizeof got, 0) == 70);
    CHECK(std::string(got + 10, 60) == message.substr(10));
    CHECK(send(sender, message.data(), 70, 0) == 70);
    CHECK_FAILS(recv(receiver, got, 5, 0), EINVAL); // which loses it
    CHECK_FAILS(recv(receiver, got, sizeof got, 0), EAGAIN);
    // A sum that is still to be made stays so over the loopback; it must lie inside.
    message[0] = 1; // VIRTIO_NET_HDR_F_NEEDS_CSUM
    message[6] = 60;
    message[8] = 6;
    CHECK_FAILS(send(sender, message.data(), 70, 0), EINVAL);
    message[6] = 20;
    CHECK(send(sender, message.data(), 70, 0) == 70);
    CHECK(recv(receiver, got, 20, MSG_TRUNC) == 70);
    CHECK(got[0] == 1 && got[6] == 20 && got[8] == 6);
    close(receiver);
    close(sender);
}

// What devices cut: a segment of TCP that is longer than any packet.
void segments_to_come() {
    const int receiver = open_tap(ETH_P_IP), sender = open_tap(0);
    CHECK(set(receiver, PACKET_VNET_HDR, 1) == 0 && set(sender, PACKET_VNET_HDR, 1) == 0);
    constexpr size_t head = 10, link = 14, bytes = 4000;
    std::string message(head + link + bytes, '\0');
    message[0] = 1; // VIRTIO_NET_HDR_F_NEEDS_CSUM
    message[1] = 1; // VIRTIO_NET_HDR_GSO_TCPV4
    message[2] = 54;
    message[4] = static_cast<char>(1400 & 0xff);
    message[5] = 1400 >> 8;
    message[6] = 34;
    message[8] = 16;
    message[head + 12] = 8;
    // Its header's own sum is wrong: nobody answers it.
    char* const ip = &message[head + link];
    ip[0] = 0x45;
    ip[2] = static_cast<char>(bytes >> 8);
    ip[3] = static_cast<char>(bytes & 0xff);
    ip[9] = IPPROTO_TCP;
    ip[12] = ip[16] = 127;
    ip[15] = ip[19] = 1;
    ip[32] = 0x50;
    CHECK(send(sender, message.data(), message.size(), 0) == static_cast<ssize_t>(message.size()));
    std::string got(message.size() + 1, 'x');
    pollfd one{receiver, POLLIN, 0};
    CHECK(poll(&one, 1, 10'000) == 1);
    CHECK(recv(receiver, got.data(), got.size(), 0) == static_cast<ssize_t>(message.size()));
    CHECK(got[0] == 1 && got[1] == 1 && got.substr(4, 6) == message.substr(4, 6));
    CHECK(got.substr(head, message.size() - head) == message.substr(head));
    // Marks of congestion alone are of no kind of segments.
    message[1] = static_cast<char>(0x80);
    CHECK_FAILS(send(sender, message.data(), message.size(), 0), EINVAL);
    // A frame that is as long as may be, without segments.
    message.resize(head + link + 1500);
    message[1] = message[4] = message[5] = 0;
    CHECK(send(sender, message.data(), message.size(), 0) == static_cast<ssize_t>(message.size()));
    close(receiver);
    close(sender);
}

void times_of_sending() {
    const int fd = open_tap(0);
    const int wanted =
        SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_OPT_ID;
    CHECK(setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &wanted, sizeof wanted) == 0);
    const std::string sent = frame_of(60);
    for (uint32_t number = 0; number < 2; number++) {
        CHECK(send(fd, sent.data(), sent.size(), 0) == 60);
        pollfd one{fd, 0, 0};
        CHECK(poll(&one, 1, 10'000) == 1 && (one.revents & POLLERR) != 0);
        char data[128];
        alignas(cmsghdr) char control[256];
        iovec part{data, sizeof data};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        CHECK(recvmsg(fd, &message, MSG_ERRQUEUE) == 60);
        CHECK((message.msg_flags & MSG_ERRQUEUE) != 0 && std::string(data, 60) == sent);
        unsigned seen = 0;
        for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
            if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SO_TIMESTAMPING) {
                timespec stamp;
                std::memcpy(&stamp, CMSG_DATA(at), sizeof stamp);
                CHECK(stamp.tv_sec > 1'600'000'000);
                seen |= 1;
            }
            if (at->cmsg_level == SOL_PACKET && at->cmsg_type == PACKET_TX_TIMESTAMP) {
                sock_extended_err error;
                std::memcpy(&error, CMSG_DATA(at), sizeof error);
                CHECK(error.ee_errno == ENOMSG && error.ee_info == SCM_TSTAMP_SND);
                CHECK(error.ee_origin == SO_EE_ORIGIN_TIMESTAMPING && error.ee_data == number);
                seen |= 2;
            }
        }
        CHECK(seen == 3);
        CHECK_FAILS(recvmsg(fd, &message, MSG_ERRQUEUE), EAGAIN);
    }
    close(fd);
}

// What goes past the queues goes past those who look at what is sent, too.
void past_the_queue() {
    const int watcher = open_tap(ETH_P_ALL), sender = open_tap(0);
    const std::string sent = frame_of(60);
    const auto outgoing = [&] {
        unsigned count = 0;
        char data[128];
        sockaddr_ll from{};
        socklen_t length = sizeof from;
        while (recvfrom(watcher, data, sizeof data, 0, reinterpret_cast<sockaddr*>(&from),
                        &length) >= 0)
            count += from.sll_protocol == htons(own_protocol) && from.sll_pkttype == PACKET_OUTGOING
                         ? 1
                         : 0;
        return count;
    };
    CHECK(send(sender, sent.data(), sent.size(), 0) == 60);
    CHECK(outgoing() == 1);
    CHECK(set(sender, PACKET_QDISC_BYPASS, 1) == 0);
    CHECK(send(sender, sent.data(), sent.size(), 0) == 60);
    CHECK(outgoing() == 0);
    close(watcher);
    close(sender);
}

// A frame that a slot cuts is to be had whole by recv(2), for who asks.
void cut_frames() {
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
    const int version = TPACKET_V2;
    CHECK(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) == 0);
    CHECK(set(fd, PACKET_COPY_THRESH, 1) == 0);
    const tpacket_req ring = {4096, 1, 256, 16};
    CHECK(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) == 0);
    void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED && attach(fd, own_protocol) == 0);
    const int sender = open_tap(0);
    const std::string sent = frame_of(600);
    CHECK(send(sender, sent.data(), sent.size(), 0) == 600);
    tpacket2_hdr header;
    std::memcpy(&header, memory, sizeof header);
    CHECK((header.tp_status & (TP_STATUS_USER | TP_STATUS_COPY)) ==
          (TP_STATUS_USER | TP_STATUS_COPY));
    CHECK(header.tp_len == 600 && header.tp_snaplen < 256);
    char data[1024];
    CHECK(recv(fd, data, sizeof data, 0) == 600 && std::string(data, 600) == sent);
    CHECK(munmap(memory, 4096) == 0);
    close(fd);
    close(sender);
}

} // namespace

int main() {
    own_network();
    what_cannot_be();
    in_turn();
    by_conversation();
    other_ways();
    rolling_over();
    incoming_only();
    numbers();
    offload_headers();
    segments_to_come();
    times_of_sending();
    past_the_queue();
    cut_frames();
    return 0;
}
