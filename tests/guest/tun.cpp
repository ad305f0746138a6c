// /dev/net/tun: programs as the other end of network interfaces. In a network namespace of its own.
#include <array>
#include <cstdint>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <linux/aio_abi.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"
#include "tests/guest/netlink_support.hpp"
#include "tests/guest/network_support.hpp"

namespace {

// struct virtio_net_hdr: its header is none of C++'s.
struct OffloadHeader {
    std::uint8_t flags, gso_type;
    std::uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
constexpr std::uint8_t needs_checksum = 1;

int open_tun(int flags = 0) {
    const int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | flags);
    CHECK(fd >= 0);
    return fd;
}

ifreq request_for(const char* name, int flags) {
    ifreq request{};
    std::strcpy(request.ifr_name, name);
    request.ifr_flags = static_cast<short>(flags);
    return request;
}

std::string attach(int fd, const char* name, int flags) {
    ifreq request = request_for(name, flags);
    CHECK(ioctl(fd, TUNSETIFF, &request) == 0);
    return request.ifr_name;
}

int flags_of(int fd) {
    ifreq request{};
    CHECK(ioctl(fd, TUNGETIFF, &request) == 0);
    return static_cast<unsigned short>(request.ifr_flags);
}

class Control {
public:
    Control() : fd_(socket(AF_INET, SOCK_DGRAM, 0)) { CHECK(fd_ >= 0); }
    ~Control() { close(fd_); }
    Control(const Control&) = delete;
    Control& operator=(const Control&) = delete;

    int shown_flags(const std::string& name) const {
        ifreq request = request_for(name.c_str(), 0);
        CHECK(ioctl(fd_, SIOCGIFFLAGS, &request) == 0);
        return static_cast<unsigned short>(request.ifr_flags);
    }
    void up(const std::string& name, bool on = true) const {
        const int before = shown_flags(name);
        ifreq request = request_for(name.c_str(), on ? before | IFF_UP : before & ~IFF_UP);
        CHECK(ioctl(fd_, SIOCSIFFLAGS, &request) == 0);
    }
    // Linux hears of a carrier a little later.
    void wait_for_running(const std::string& name, bool on) const {
        for (int i = 0; ((shown_flags(name) & IFF_RUNNING) != 0) != on; i++) {
            CHECK(i < 2000);
            usleep(10'000);
        }
    }
    void address(const std::string& name, const char* text) const {
        ifreq request = request_for(name.c_str(), 0);
        sockaddr_in own{};
        own.sin_family = AF_INET;
        CHECK(inet_pton(AF_INET, text, &own.sin_addr) == 1);
        std::memcpy(&request.ifr_addr, &own, sizeof own);
        CHECK(ioctl(fd_, SIOCSIFADDR, &request) == 0);
        CHECK(inet_pton(AF_INET, "255.255.255.0", &own.sin_addr) == 1);
        std::memcpy(&request.ifr_netmask, &own, sizeof own);
        CHECK(ioctl(fd_, SIOCSIFNETMASK, &request) == 0);
    }

private:
    int fd_;
};

std::uint16_t sum_of(const void* data, std::size_t bytes) {
    const auto* at = static_cast<const unsigned char*>(data);
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < bytes; i++)
        sum += i % 2 == 0 ? at[i] * 256u : at[i];
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons(static_cast<std::uint16_t>(~sum));
}

using Bytes = std::vector<unsigned char>;

template <typename T>
T part(const Bytes& packet, std::size_t at) {
    T out{};
    CHECK(packet.size() >= at + sizeof out);
    std::memcpy(&out, packet.data() + at, sizeof out);
    return out;
}

iphdr ip_header(const char* from, const char* to, unsigned protocol, std::size_t payload) {
    iphdr header{};
    header.version = 4;
    header.ihl = 5;
    header.ttl = 64;
    header.protocol = static_cast<std::uint8_t>(protocol);
    header.tot_len = htons(static_cast<std::uint16_t>(sizeof header + payload));
    CHECK(inet_pton(AF_INET, from, &header.saddr) == 1);
    CHECK(inet_pton(AF_INET, to, &header.daddr) == 1);
    header.check = sum_of(&header, sizeof header);
    return header;
}

void append(Bytes& out, const void* data, std::size_t bytes) {
    const auto* at = static_cast<const unsigned char*>(data);
    out.insert(out.end(), at, at + bytes);
}

Bytes ping(const char* from, const char* to, std::size_t payload) {
    icmphdr echo{};
    echo.type = ICMP_ECHO;
    echo.un.echo.id = htons(7);
    Bytes message;
    append(message, &echo, sizeof echo);
    message.resize(sizeof echo + payload, 'x');
    echo.checksum = sum_of(message.data(), message.size());
    std::memcpy(message.data(), &echo, sizeof echo);
    const iphdr header = ip_header(from, to, IPPROTO_ICMP, message.size());
    Bytes out;
    append(out, &header, sizeof header);
    append(out, message.data(), message.size());
    return out;
}

void write_packet(int fd, const Bytes& packet) {
    CHECK(write(fd, packet.data(), packet.size()) == static_cast<ssize_t>(packet.size()));
}

// The next packet that is IPv4 behind `headers` bytes: others (of IPv6's autoconfiguration) come
// unasked.
Bytes next_ipv4(int fd, std::size_t headers = 0) {
    for (;;) {
        pollfd ready{fd, POLLIN, 0};
        CHECK(poll(&ready, 1, 20'000) == 1 && (ready.revents & POLLIN) != 0);
        Bytes packet(70'000);
        const ssize_t got = read(fd, packet.data(), packet.size());
        CHECK(got > static_cast<ssize_t>(headers));
        packet.resize(static_cast<std::size_t>(got));
        if (packet[headers] >> 4 == 4)
            return packet;
    }
}

sockaddr_in place(const char* address, std::uint16_t port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(port);
    CHECK(inet_pton(AF_INET, address, &out.sin_addr) == 1);
    return out;
}

// A datagram to a program on the other side; the socket that sent it.
int say_hello(const char* address) {
    const int sender = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to = place(address, 9);
    CHECK(sendto(sender, "hello", 5, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 5);
    return sender;
}

short events_of(int fd) {
    pollfd ready{fd, POLLIN | POLLOUT, 0};
    CHECK(poll(&ready, 1, 0) >= 0);
    return ready.revents;
}

// Before there is an interface, and what does not make one.
void nothing_attached() {
    const int fd = open_tun(O_NONBLOCK);
    unsigned features = 0;
    CHECK(ioctl(fd, TUNGETFEATURES, &features) == 0);
    CHECK(features == (IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_ONE_QUEUE | IFF_VNET_HDR |
                       IFF_MULTI_QUEUE | IFF_NAPI | IFF_NAPI_FRAGS | IFF_NO_CARRIER));
    char byte = 0;
    ifreq request{};
    CHECK_FAILS(read(fd, &byte, 1), EBADFD);
    CHECK_FAILS(write(fd, &byte, 1), EBADFD);
    CHECK_FAILS(ioctl(fd, TUNGETIFF, &request), EBADFD);
    CHECK_FAILS(ioctl(fd, TUNSETPERSIST, 1), EBADFD);
    CHECK((events_of(fd) & POLLERR) != 0);
    request = request_for("", 0);
    CHECK_FAILS(ioctl(fd, TUNSETIFF, &request), EINVAL);
    request = request_for("lo", IFF_TUN);
    CHECK_FAILS(ioctl(fd, TUNSETIFF, &request), EINVAL);
    request = request_for("a/b", IFF_TUN);
    CHECK_FAILS(ioctl(fd, TUNSETIFF, &request), EINVAL);
    CHECK_FAILS(ioctl(fd, TUNSETIFF, nullptr), EFAULT);
    close(fd);
}

void pings() {
    const Control control;
    const int fd = open_tun(O_NONBLOCK);
    const std::string name = attach(fd, "", IFF_TUN | IFF_NO_PI);
    CHECK(name == "tun0");
    ifreq again = request_for("", IFF_TUN);
    CHECK_FAILS(ioctl(fd, TUNSETIFF, &again), EEXIST);
    CHECK(flags_of(fd) == (IFF_TUN | IFF_NO_PI));
    CHECK((control.shown_flags(name) & (IFF_POINTOPOINT | IFF_NOARP | IFF_BROADCAST | IFF_UP)) ==
          (IFF_POINTOPOINT | IFF_NOARP));
    const Bytes question = ping("10.9.0.2", "10.9.0.1", 1000);
    CHECK_FAILS(write(fd, question.data(), question.size()), EIO); // down
    CHECK((events_of(fd) & POLLOUT) == 0);
    control.address(name, "10.9.0.1");
    control.up(name);
    control.wait_for_running(name, true);
    CHECK((events_of(fd) & POLLOUT) != 0);
    write_packet(fd, question);
    const Bytes answer = next_ipv4(fd);
    CHECK(answer.size() == question.size());
    const auto header = part<iphdr>(answer, 0);
    CHECK(header.protocol == IPPROTO_ICMP && sum_of(&header, sizeof header) == 0);
    CHECK(header.saddr == part<iphdr>(question, 0).daddr);
    CHECK(part<icmphdr>(answer, sizeof header).type == ICMP_ECHOREPLY);
    CHECK(sum_of(answer.data() + sizeof header, answer.size() - sizeof header) == 0);
    // Nothing else waits; what is no packet is refused.
    char byte = 0x45;
    CHECK(read(fd, &byte, 0) == 0);
    byte = 0x15;
    CHECK_FAILS(write(fd, &byte, 1), EINVAL);
    CHECK_FAILS(write(fd, &byte, 0), EINVAL);
    // A buffer that is too small gets the beginning, and the rest is lost.
    write_packet(fd, question);
    pollfd ready{fd, POLLIN, 0};
    CHECK(poll(&ready, 1, 20'000) == 1);
    std::array<unsigned char, 20> beginning{};
    CHECK(read(fd, beginning.data(), beginning.size()) == 20);
    control.up(name, false);
    close(fd);
    CHECK(if_nametoindex(name.c_str()) == 0); // gone with the file
}

void protocol_information() {
    const Control control;
    const int fd = open_tun(O_NONBLOCK);
    const std::string name = attach(fd, "vpn%d", IFF_TUN);
    CHECK(name == "vpn0");
    control.address(name, "10.9.1.1");
    control.up(name);
    const tun_pi info{0, htons(ETH_P_IP)};
    Bytes question;
    append(question, &info, sizeof info);
    const Bytes packet = ping("10.9.1.2", "10.9.1.1", 10);
    append(question, packet.data(), packet.size());
    write_packet(fd, question);
    const Bytes answer = next_ipv4(fd, sizeof info);
    CHECK(answer.size() == question.size());
    CHECK(part<tun_pi>(answer, 0).proto == htons(ETH_P_IP) && part<tun_pi>(answer, 0).flags == 0);
    CHECK_FAILS(write(fd, question.data(), 3), EINVAL);
    write_packet(fd, question);
    pollfd ready{fd, POLLIN, 0};
    CHECK(poll(&ready, 1, 20'000) == 1);
    std::array<unsigned char, 8> beginning{};
    CHECK(read(fd, beginning.data(), beginning.size()) == 8);
    tun_pi stripped{};
    std::memcpy(&stripped, beginning.data(), sizeof stripped);
    CHECK(stripped.flags == TUN_PKT_STRIP);
    close(fd);
}

// A frame with an address that the program chose, between it and a socket.
void frames() {
    const Control control;
    const int fd = open_tun(O_NONBLOCK);
    const std::string name = attach(fd, "tap7", IFF_TAP | IFF_NO_PI);
    CHECK(name == "tap7" && flags_of(fd) == (IFF_TAP | IFF_NO_PI));
    ifreq mac{};
    CHECK(ioctl(fd, SIOCGIFHWADDR, &mac) == 0);
    CHECK(mac.ifr_hwaddr.sa_family == ARPHRD_ETHER);
    const unsigned char wanted[6] = {2, 0, 0, 0, 0, 9};
    std::memcpy(mac.ifr_hwaddr.sa_data, wanted, sizeof wanted);
    CHECK(ioctl(fd, SIOCSIFHWADDR, &mac) == 0);
    control.address(name, "10.9.2.1");
    control.up(name);
    // ARP: who has 10.9.2.1? Its own address answers.
    Bytes question(14 + 28);
    std::memset(question.data(), 0xff, 6);
    const unsigned char peer[6] = {2, 0, 0, 0, 0, 8};
    std::memcpy(question.data() + 6, peer, 6);
    const unsigned char rest[] = {8, 6,  0, 1, 8, 0, 6, 4, 0, 1, 2, 0,  0, 0, 0,
                                  8, 10, 9, 2, 2, 0, 0, 0, 0, 0, 0, 10, 9, 2, 1};
    std::memcpy(question.data() + 12, rest, sizeof rest);
    CHECK_FAILS(write(fd, question.data(), 13), EINVAL);
    write_packet(fd, question);
    for (;;) {
        pollfd ready{fd, POLLIN, 0};
        CHECK(poll(&ready, 1, 20'000) == 1);
        Bytes frame(2000);
        const ssize_t got = read(fd, frame.data(), frame.size());
        CHECK(got >= 14);
        if (frame[12] != 8 || frame[13] != 6)
            continue;
        CHECK(got >= 42 && std::memcmp(frame.data(), peer, 6) == 0);
        CHECK(std::memcmp(frame.data() + 6, wanted, 6) == 0 && frame[21] == 2); // a reply
        break;
    }
    close(fd);
}

// A file that waits is told when the interface goes.
void reading_waits() {
    const Control control;
    const int fd = open_tun();
    const std::string name = attach(fd, "", IFF_TUN | IFF_NO_PI);
    control.address(name, "10.9.3.1");
    control.up(name);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const Bytes packet = next_ipv4(fd); // poll(2) first, then what is there
        _exit(part<iphdr>(packet, 0).protocol == IPPROTO_UDP ? 0 : 1);
    }
    const int sender = say_hello("10.9.3.2");
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(sender);
    close(fd);
}

// What waits for its checksum says so in the header, if the program takes that.
void offloads() {
    const Control control;
    const int fd = open_tun(O_NONBLOCK);
    const std::string name = attach(fd, "", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR);
    int bytes = 0;
    CHECK(ioctl(fd, TUNGETVNETHDRSZ, &bytes) == 0 && bytes == sizeof(OffloadHeader));
    bytes = 9;
    CHECK_FAILS(ioctl(fd, TUNSETVNETHDRSZ, &bytes), EINVAL);
    bytes = 12;
    CHECK(ioctl(fd, TUNSETVNETHDRSZ, &bytes) == 0);
    CHECK_FAILS(ioctl(fd, TUNSETOFFLOAD, TUN_F_TSO4), EINVAL); // needs checksums
    CHECK_FAILS(ioctl(fd, TUNSETOFFLOAD, 0x10000), EINVAL);
    CHECK(ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) == 0);
    control.address(name, "10.9.4.1");
    control.up(name);
    const int sender = say_hello("10.9.4.2");
    const Bytes sent = next_ipv4(fd, 12);
    const auto header = part<OffloadHeader>(sent, 0);
    CHECK(sent.size() == 12 + sizeof(iphdr) + sizeof(udphdr) + 5);
    if ((header.flags & needs_checksum) != 0) {
        CHECK(header.csum_start == sizeof(iphdr) && header.csum_offset == 6);
    }
    // And the other way: a datagram whose checksum is to be made.
    const int receiver = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in own = place("10.9.4.1", 99);
    CHECK(bind(receiver, reinterpret_cast<sockaddr*>(&own), sizeof own) == 0);
    udphdr datagram{};
    datagram.source = htons(5);
    datagram.dest = htons(99);
    datagram.len = htons(sizeof datagram + 3);
    const iphdr ip = ip_header("10.9.4.2", "10.9.4.1", IPPROTO_UDP, sizeof datagram + 3);
    OffloadHeader note{};
    note.flags = needs_checksum;
    note.csum_start = sizeof ip;
    note.csum_offset = 6;
    Bytes packet;
    append(packet, &note, sizeof note);
    packet.resize(12);
    append(packet, &ip, sizeof ip);
    append(packet, &datagram, sizeof datagram);
    append(packet, "you", 3);
    write_packet(fd, packet);
    char text[8] = {};
    CHECK(recv(receiver, text, sizeof text, 0) == 3 && std::memcmp(text, "you", 3) == 0);
    // Places outside of the packet.
    note.csum_start = 2000;
    std::memcpy(packet.data(), &note, sizeof note);
    CHECK_FAILS(write(fd, packet.data(), packet.size()), EINVAL);
    note = {};
    note.hdr_len = 2000;
    std::memcpy(packet.data(), &note, sizeof note);
    CHECK_FAILS(write(fd, packet.data(), packet.size()), EINVAL);
    CHECK_FAILS(write(fd, packet.data(), 11), EINVAL);
    close(sender);
    close(receiver);
    close(fd);
}

// Interfaces that outlive the file.
void persistent() {
    const Control control;
    int fd = open_tun();
    const std::string name = attach(fd, "stays", IFF_TUN | IFF_NO_PI);
    CHECK(ioctl(fd, TUNSETPERSIST, 1) == 0);
    CHECK(flags_of(fd) == (IFF_TUN | IFF_NO_PI | IFF_PERSIST));
    // One at a time.
    const int other = open_tun();
    ifreq request = request_for("stays", IFF_TUN | IFF_NO_PI);
    CHECK_FAILS(ioctl(other, TUNSETIFF, &request), EBUSY);
    control.up(name);
    close(fd);
    control.wait_for_running(name, false); // nobody is there
    request = request_for("stays", IFF_TAP | IFF_NO_PI);
    CHECK_FAILS(ioctl(other, TUNSETIFF, &request), EINVAL);
    request = request_for("stays", IFF_TUN | IFF_TUN_EXCL);
    CHECK_FAILS(ioctl(other, TUNSETIFF, &request), EBUSY);
    attach(other, "stays", IFF_TUN | IFF_NO_PI);
    control.wait_for_running(name, true);
    CHECK(ioctl(other, TUNSETPERSIST, 0) == 0);
    close(other);
    CHECK(if_nametoindex("stays") == 0);
}

// Who watches an interface is told when it goes down, and that it has gone; tcpdump ends then.
void watched() {
    const Control control;
    const int fd = open_tun();
    const std::string name = attach(fd, "watched", IFF_TUN | IFF_NO_PI);
    control.up(name);
    const int watcher = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(watcher >= 0);
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_IP);
    where.sll_ifindex = static_cast<int>(if_nametoindex(name.c_str()));
    CHECK(bind(watcher, reinterpret_cast<const sockaddr*>(&where), sizeof where) == 0);
    char byte = 0;
    CHECK_FAILS(recv(watcher, &byte, 1, 0), EAGAIN);
    control.up(name, false);
    CHECK((events_of(watcher) & POLLERR) != 0);
    CHECK_FAILS(recv(watcher, &byte, 1, 0), ENETDOWN);
    CHECK_FAILS(recv(watcher, &byte, 1, 0), EAGAIN);
    control.up(name);
    close(fd);
    CHECK_FAILS(recv(watcher, &byte, 1, 0), ENETDOWN);
    socklen_t length = sizeof where;
    CHECK(getsockname(watcher, reinterpret_cast<sockaddr*>(&where), &length) == 0);
    CHECK(where.sll_ifindex == -1);
    close(watcher);
}

// The last to hold the file is a request of aio that waits: the interface goes when it is complete,
// and whoever listens is told, though no program closes anything then.
void held_by_a_request() {
    const Control control;
    const int listener = open_socket();
    sockaddr_nl groups{};
    groups.nl_family = AF_NETLINK;
    groups.nl_groups = RTMGRP_LINK;
    CHECK(bind(listener, general(groups), sizeof groups) == 0);
    const int fd = open_tun();
    const std::string name = attach(fd, "held", IFF_TUN | IFF_NO_PI);
    control.address(name, "10.9.7.1");
    control.up(name);
    Bytes packet(2048);
    pollfd ready{fd, POLLIN, 0};
    while (poll(&ready, 1, 200) == 1) // what IPv6 says when an interface comes up
        CHECK(read(fd, packet.data(), packet.size()) > 0);
    aio_context_t context = 0;
    CHECK(syscall(SYS_io_setup, 1, &context) == 0);
    iocb request{};
    request.aio_lio_opcode = IOCB_CMD_POLL;
    request.aio_fildes = static_cast<std::uint32_t>(fd);
    request.aio_buf = POLLIN;
    iocb* requests[1] = {&request};
    CHECK(syscall(SYS_io_submit, context, 1, requests) == 1);
    close(fd);
    close(say_hello("10.9.7.2"));
    io_event event{};
    CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, nullptr) == 1);
    for (int i = 0; if_nametoindex(name.c_str()) != 0; i++) {
        CHECK(i < 1000);
        usleep(10'000);
    }
    bool told = false;
    while (!told)
        for (const Message& message : receive(listener))
            told = told || (message.header.nlmsg_type == RTM_DELLINK &&
                            message.text(sizeof(ifinfomsg), IFLA_IFNAME) == name);
    CHECK(syscall(SYS_io_destroy, context) == 0);
    close(listener);
}

// What iproute2's `ip tuntap` reads.
void in_sysfs() {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    CHECK(mount("sysfs", "/sys", "sysfs", 0, nullptr) == 0);
    const int fd = open_tun();
    attach(fd, "shown", IFF_TAP | IFF_NO_PI);
    CHECK(ioctl(fd, TUNSETGROUP, 3) == 0);
    for (const auto& [name, expected] :
         {std::pair{"tun_flags", "0x1002\n"}, {"owner", "-1\n"}, {"group", "3\n"}}) {
        char text[32] = {};
        const int file = open((std::string("/sys/class/net/shown/") + name).c_str(), O_RDONLY);
        CHECK(file >= 0 && read(file, text, sizeof text - 1) > 0);
        CHECK(std::strcmp(text, expected) == 0);
        close(file);
    }
    CHECK(access("/sys/class/net/lo/tun_flags", F_OK) != 0);
    close(fd);
}

int set_queue(int fd, int flags) {
    ifreq request = request_for("", flags);
    return ioctl(fd, TUNSETQUEUE, &request);
}

int try_attach(int fd, const char* name, int flags) {
    ifreq request = request_for(name, flags);
    return ioctl(fd, TUNSETIFF, &request);
}

// How many packets wait in a queue; it is empty afterwards.
int drained(int fd) {
    char packet[2000];
    int count = 0;
    while (read(fd, packet, sizeof packet) > 0)
        count++;
    return count;
}

// Datagrams of a flow each.
void send_flows(int count) {
    for (int i = 0; i < count; i++) {
        const int fd = socket(AF_INET, SOCK_DGRAM, 0);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(static_cast<uint16_t>(1000 + 7 * i));
        CHECK(inet_pton(AF_INET, "10.12.0.2", &to.sin_addr) == 1);
        CHECK(sendto(fd, "x", 1, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) == 1);
        close(fd);
    }
}

void several_queues() {
    constexpr int kind = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE;
    const Control control;
    int first = open_tun(O_NONBLOCK), second = open_tun(O_NONBLOCK);
    CHECK_FAILS(set_queue(first, IFF_ATTACH_QUEUE), EINVAL);
    attach(first, "many0", kind);
    CHECK_FAILS(try_attach(second, "many0", IFF_TUN | IFF_NO_PI), EINVAL);
    attach(second, "many0", kind);
    CHECK(flags_of(first) == kind && flags_of(second) == kind);
    CHECK_FAILS(set_queue(first, 0), EINVAL);
    CHECK_FAILS(set_queue(first, IFF_ATTACH_QUEUE), EINVAL);
    control.address("many0", "10.12.0.1");
    control.up("many0");
    control.wait_for_running("many0", true);
    (void)drained(first); // what IPv6 says at the beginning
    (void)drained(second);
    constexpr int flows = 64;
    send_flows(flows);
    const int shares[2] = {drained(first), drained(second)};
    CHECK(shares[0] > 0 && shares[1] > 0 && shares[0] + shares[1] >= flows);
    // Answers go where questions came from; Linux learns it a moment after the first.
    for (const int fd : {first, second, first})
        for (int round = 0; round < 2; round++) {
            const Bytes question = ping("10.12.0.2", "10.12.0.1", 100);
            const auto size = static_cast<ssize_t>(question.size());
            CHECK(write(fd, question.data(), question.size()) == size);
            const int answers = drained(fd);
            CHECK(drained(fd == first ? second : first) + answers >= 1);
            CHECK(round == 0 || answers >= 1);
        }
    CHECK(set_queue(first, IFF_DETACH_QUEUE) == 0);
    CHECK(flags_of(first) == (kind | IFF_DETACH_QUEUE) && flags_of(second) == kind);
    CHECK_FAILS(set_queue(first, IFF_DETACH_QUEUE), EINVAL);
    send_flows(flows);
    CHECK(drained(first) == 0 && drained(second) >= flows);
    CHECK(set_queue(second, IFF_DETACH_QUEUE) == 0);
    control.wait_for_running("many0", true); // with nobody to read
    send_flows(flows);
    CHECK(drained(first) == 0 && drained(second) == 0);
    CHECK(set_queue(first, IFF_ATTACH_QUEUE) == 0);
    send_flows(flows);
    CHECK(drained(first) >= flows);
    // The interface goes with the last file, whatever its queue does.
    close(first);
    CHECK(control.shown_flags("many0") != 0);
    close(second);
    CHECK(if_nametoindex("many0") == 0);
    first = open_tun();
    second = open_tun();
    attach(first, "one0", IFF_TUN);
    CHECK_FAILS(try_attach(second, "one0", IFF_TUN | IFF_MULTI_QUEUE), EINVAL);
    CHECK_FAILS(try_attach(second, "one0", IFF_TUN), EBUSY);
    CHECK_FAILS(set_queue(first, IFF_DETACH_QUEUE), EINVAL);
    close(first);
    close(second);
}

void batches_and_filters() {
    const int fd = open_tun(O_NONBLOCK), tun = open_tun();
    if (geteuid() == 0) {
        CHECK_FAILS(try_attach(fd, "nap0", IFF_TAP | IFF_NAPI_FRAGS), EINVAL);
        CHECK_FAILS(try_attach(fd, "nap0", IFF_TUN | IFF_NAPI | IFF_NAPI_FRAGS), EINVAL);
    }
    attach(fd, "nap0", IFF_TAP | IFF_NO_PI | IFF_NAPI);
    CHECK(flags_of(fd) == (IFF_TAP | IFF_NO_PI | IFF_NAPI));
    const Control control;
    control.address("nap0", "10.13.0.1");
    control.up("nap0");
    control.wait_for_running("nap0", true);
    struct {
        uint16_t flags, count;
        uint8_t addresses[12][6];
    } filter{0, 1, {{2, 2, 2, 2, 2, 2}}};
    const auto looks_for_neighbour = [&](const char* where) {
        (void)drained(fd);
        const int sender = socket(AF_INET, SOCK_DGRAM, 0);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(9);
        CHECK(inet_pton(AF_INET, where, &to.sin_addr) == 1);
        (void)sendto(sender, "x", 1, 0, reinterpret_cast<sockaddr*>(&to), sizeof to);
        close(sender);
        uint8_t frame[2000];
        while (read(fd, frame, sizeof frame) > 0)
            if (frame[12] == 8 && frame[13] == 6) // ARP
                return true;
        return false;
    };
    CHECK(looks_for_neighbour("10.13.0.2"));
    CHECK(ioctl(fd, TUNSETTXFILTER, &filter) == 1);
    CHECK(!looks_for_neighbour("10.13.0.3")); // broadcast, which is not among them
    filter.flags = TUN_FLT_ALLMULTI;
    CHECK(ioctl(fd, TUNSETTXFILTER, &filter) == 1);
    CHECK(looks_for_neighbour("10.13.0.4"));
    filter.flags = 0;
    filter.count = 9; // the ninth is a station: no filter
    CHECK(ioctl(fd, TUNSETTXFILTER, &filter) == 0);
    CHECK(looks_for_neighbour("10.13.0.5"));
    filter.count = 0;
    CHECK(ioctl(fd, TUNSETTXFILTER, &filter) == 0);
    CHECK_FAILS(ioctl(fd, TUNSETTXFILTER, nullptr), EFAULT);
    attach(tun, "nof0", IFF_TUN);
    CHECK_FAILS(ioctl(tun, TUNSETTXFILTER, &filter), EINVAL);
    close(fd);
    close(tun);
}

// Without the right to administer the network.
void unprivileged() {
    const int fd = open_tun();
    attach(fd, "owned", IFF_TUN | IFF_NO_PI);
    CHECK(ioctl(fd, TUNSETPERSIST, 1) == 0 && ioctl(fd, TUNSETOWNER, 65534) == 0);
    close(fd);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const int own = open_tun();
        const int another = open_tun();
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
        ifreq request = request_for("", IFF_TUN);
        CHECK_FAILS(ioctl(another, TUNSETIFF, &request), EPERM);
        attach(own, "owned", IFF_TUN | IFF_NO_PI);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    const int last = open_tun();
    attach(last, "owned", IFF_TUN | IFF_NO_PI);
    CHECK(ioctl(last, TUNSETOWNER, 0) == 0 && ioctl(last, TUNSETPERSIST, 0) == 0);
    close(last);
}

} // namespace

int main() {
    own_network();
    nothing_attached();
    pings();
    protocol_information();
    frames();
    reading_waits();
    offloads();
    persistent();
    watched();
    held_by_a_request();
    several_queues();
    batches_and_filters();
    if (geteuid() == 0) {
        in_sysfs();
        unprivileged();
    }
    return 0;
}
