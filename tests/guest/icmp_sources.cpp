// How many ICMP errors this machine tells itself, and which address a router's come from:
// ip-sysctl's icmp_errors_use_inbound_ifaddr, and RFC 7600 where it has none. Packets go in and out
// by tun devices of a namespace of its own.
#include <cstdint>
#include <fcntl.h>
#include <fstream>
#include <poll.h>
#include <string>
#include <unistd.h>

#include <arpa/inet.h>
#include <linux/if_tun.h>
#include <net/route.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>

#include "tests/guest/network_support.hpp"

namespace {

void store(const std::string& path, const std::string& text) {
    std::ofstream file(path);
    file << text;
    file.flush();
    CHECK(file.good());
}

sockaddr address(const char* text) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    CHECK(inet_pton(AF_INET, text, &at.sin_addr) == 1);
    sockaddr out;
    std::memcpy(&out, &at, sizeof out);
    return out;
}

class Control {
public:
    Control() : fd_(socket(AF_INET, SOCK_DGRAM, 0)) { CHECK(fd_ >= 0); }
    ~Control() { close(fd_); }
    Control(const Control&) = delete;
    Control& operator=(const Control&) = delete;
    void up(const char* name) const {
        ifreq request{};
        std::strcpy(request.ifr_name, name);
        CHECK(ioctl(fd_, SIOCGIFFLAGS, &request) == 0);
        request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
        CHECK(ioctl(fd_, SIOCSIFFLAGS, &request) == 0);
    }
    void number(const char* name, const char* text) const {
        ifreq request{};
        std::strcpy(request.ifr_name, name);
        request.ifr_addr = address(text);
        CHECK(ioctl(fd_, SIOCSIFADDR, &request) == 0);
    }
    void route(const char* network, const char* device) const {
        rtentry entry{};
        char name[IFNAMSIZ];
        std::strcpy(name, device);
        entry.rt_dst = address(network);
        entry.rt_genmask = address("255.255.0.0");
        entry.rt_flags = RTF_UP;
        entry.rt_dev = name;
        CHECK(ioctl(fd_, SIOCADDRT, &entry) == 0);
    }

private:
    int fd_;
};

int open_tun(const char* name) {
    const int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    ifreq request{};
    std::strcpy(request.ifr_name, name);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    CHECK(ioctl(fd, TUNSETIFF, &request) == 0);
    return fd;
}

uint16_t checksum(const uint8_t* bytes, size_t count) {
    uint32_t sum = 0;
    for (size_t i = 0; i < count; i += 2)
        sum += static_cast<uint32_t>(bytes[i] << 8 | bytes[i + 1]);
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(~sum);
}

// A packet at the end of its way from one to the other.
void send_last_hop(int fd, const char* from, const char* to) {
    uint8_t packet[28] = {0x45, 0, 0, 28, 0, 1, 0, 0, 1, IPPROTO_UDP};
    CHECK(inet_pton(AF_INET, from, packet + 12) == 1 && inet_pton(AF_INET, to, packet + 16) == 1);
    const uint16_t sum = checksum(packet, 20);
    packet[10] = static_cast<uint8_t>(sum >> 8);
    packet[11] = static_cast<uint8_t>(sum & 0xff);
    packet[21] = packet[23] = 9; // ports
    packet[25] = 8;
    CHECK(write(fd, packet, sizeof packet) == sizeof packet);
}

// Who says that its time is over.
std::string teller(int fd) {
    for (;;) {
        pollfd one{fd, POLLIN, 0};
        CHECK(poll(&one, 1, 20'000) == 1);
        uint8_t packet[2048];
        const ssize_t bytes = read(fd, packet, sizeof packet);
        if (bytes < 28 || packet[0] != 0x45 || packet[9] != IPPROTO_ICMP ||
            packet[20] != ICMP_TIME_EXCEEDED)
            continue;
        char text[INET_ADDRSTRLEN];
        CHECK(inet_ntop(AF_INET, packet + 12, text, sizeof text) != nullptr);
        return text;
    }
}

// Each that has a cause here comes: only those that leave the machine are limited in their rate.
void errors_for_oneself(const sockaddr* nobody, socklen_t length) {
    const int fd = socket(nobody->sa_family, SOCK_DGRAM, 0);
    const timeval patience = {20, 0};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    CHECK(connect(fd, nobody, length) == 0);
    for (int i = 0; i < 30; i++) {
        char byte = 'x';
        CHECK(send(fd, &byte, 1, 0) == 1);
        CHECK_FAILS(recv(fd, &byte, 1, 0), ECONNREFUSED);
    }
    close(fd);
}

} // namespace

int main() {
    own_network();
    sockaddr_in four{};
    four.sin_family = AF_INET;
    four.sin_port = htons(9);
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    errors_for_oneself(reinterpret_cast<const sockaddr*>(&four), sizeof four);
    sockaddr_in6 six{};
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(9);
    six.sin6_addr = in6addr_loopback;
    errors_for_oneself(reinterpret_cast<const sockaddr*>(&six), sizeof six);
    const Control control;
    const int in = open_tun("in0"), out = open_tun("out0");
    for (const char* name : {"in0", "out0"}) {
        control.up(name);
        store(std::string("/proc/sys/net/ipv4/conf/") + name + "/rp_filter", "0");
    }
    store("/proc/sys/net/ipv4/conf/all/rp_filter", "0");
    store("/proc/sys/net/ipv4/ip_forward", "1");
    control.route("10.1.0.0", "out0"); // answers leave by another interface
    control.route("10.2.0.0", "out0");
    // Without any address it has the one that nobody has.
    send_last_hop(in, "10.1.0.5", "10.2.0.5");
    CHECK(teller(out) == "192.0.0.8");
    // Any that there is does, wherever.
    control.number("in0", "10.3.0.1");
    send_last_hop(in, "10.1.0.5", "10.2.0.5");
    CHECK(teller(out) == "10.3.0.1");
    // That of the way out comes first, unless that of the way in is asked for.
    control.number("out0", "10.4.0.1");
    send_last_hop(in, "10.1.0.5", "10.2.0.5");
    CHECK(teller(out) == "10.4.0.1");
    store("/proc/sys/net/ipv4/icmp_errors_use_inbound_ifaddr", "1");
    send_last_hop(in, "10.1.0.5", "10.2.0.5");
    CHECK(teller(out) == "10.3.0.1");
    close(in);
    close(out);
    return 0;
}
