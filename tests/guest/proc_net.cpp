// /proc/net and /proc/sys/net: proc(5), ip(7), tcp(7). In a network namespace of its own.
#include <fcntl.h>
#include <fstream>
#include <sched.h>
#include <sstream>
#include <string>
#include <unistd.h>

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "tests/guest/network_support.hpp"

namespace {

std::string text_of(const std::string& path) {
    std::ifstream file(path);
    CHECK(file.good());
    std::ostringstream out;
    out << file.rdbuf();
    return out.str();
}

int store(const std::string& path, const std::string& text) {
    std::ofstream file(path);
    CHECK(file.good());
    file << text;
    file.flush();
    return file.good() ? 0 : -1;
}

// Whether a line has all of these.
bool has_line(const std::string& text, const std::string& first, const std::string& second = "") {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
        if (line.find(first) != std::string::npos && line.find(second) != std::string::npos)
            return true;
    return false;
}

sockaddr_in loopback(int port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(static_cast<uint16_t>(port));
    out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return out;
}

std::string inode_of(int fd) {
    struct stat info {};
    CHECK(fstat(fd, &info) == 0);
    return " " + std::to_string(info.st_ino) + " ";
}

void interfaces() {
    const std::string dev = text_of("/proc/net/dev");
    CHECK(has_line(dev, "Inter-|   Receive"));
    CHECK(has_line(dev, "    lo:"));
    CHECK(has_line(text_of("/proc/self/net/if_inet6"), "00000000000000000000000000000001 01 80 10 "
                                                       "80       lo"));
    CHECK(has_line(text_of("/proc/net/route"), "Iface\tDestination\tGateway"));
    CHECK(has_line(text_of("/proc/net/arp"), "IP address       HW type"));
}

void sockets() {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in at = loopback(4711);
    CHECK(bind(listener, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
    CHECK(listen(listener, 5) == 0);
    // 4711 is 1267 in hexadecimal; 0A is LISTEN.
    CHECK(has_line(text_of("/proc/net/tcp"), "0100007F:1267 00000000:0000 0A", inode_of(listener)));
    const int client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
    CHECK(has_line(text_of("/proc/net/tcp"), " 0100007F:1267 01 ", inode_of(client)));
    // One waits to be accepted.
    CHECK(has_line(text_of("/proc/net/tcp"), " 0A 00000000:00000001 "));
    const int datagrams = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in port = loopback(4712);
    CHECK(bind(datagrams, reinterpret_cast<const sockaddr*>(&port), sizeof port) == 0);
    CHECK(
        has_line(text_of("/proc/net/udp"), "0100007F:1268 00000000:0000 07", inode_of(datagrams)));
    const int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    CHECK(has_line(text_of("/proc/net/raw"), "00000000:0001 00000000:0000 07", inode_of(raw)));
    const int other = socket(AF_INET6, SOCK_STREAM, 0);
    CHECK(bind(other, reinterpret_cast<const sockaddr*>(&port), sizeof port) == -1);
    CHECK(listen(other, 1) == 0);
    CHECK(has_line(text_of("/proc/net/tcp6"), "00000000000000000000000000000000:", " 0A "));
    CHECK(has_line(text_of("/proc/net/sockstat"), "UDP: inuse 1"));
    // Bound, but neither listening nor connected: it is nobody's to find.
    const int bound = socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in free_port = loopback(0);
    CHECK(bind(bound, reinterpret_cast<const sockaddr*>(&free_port), sizeof free_port) == 0);
    CHECK(has_line(text_of("/proc/net/sockstat"), "TCP: inuse 3 ", " tw 0 "));
    CHECK(has_line(text_of("/proc/net/sockstat"), "RAW: inuse 1"));
    CHECK(has_line(text_of("/proc/net/sockstat6"), "TCP6: inuse 1"));
    // Sockets of all families are in use, bound or not.
    const auto used = [] { return std::atoi(text_of("/proc/net/sockstat").c_str() + 14); };
    const int before = used();
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    const int more[] = {pair[0],
                        pair[1],
                        socket(AF_INET, SOCK_STREAM, 0),
                        socket(AF_INET6, SOCK_DGRAM, 0),
                        socket(AF_NETLINK, SOCK_RAW, 0),
                        socket(AF_PACKET, SOCK_RAW, 0)};
    CHECK(used() == before + 6);
    for (const int fd : more)
        close(fd);
    for (int i = 0; used() != before; i++) { // Linux takes a moment with those of packets
        CHECK(i < 500);
        usleep(10'000);
    }
    close(bound);
    CHECK(has_line(text_of("/proc/net/snmp"), "Tcp: 1 200 120000 -1 1 1 "));
    for (const int fd : {listener, client, datagrams, raw, other})
        close(fd);
}

// A socket on any address, or -1 and errno.
int bound_to(int type, int port) {
    const int fd = socket(AF_INET, type, 0);
    const sockaddr_in at = loopback(port);
    if (bind(fd, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0)
        return fd;
    close(fd);
    return -1;
}
int port_of(int fd) {
    sockaddr_in own{};
    socklen_t length = sizeof own;
    return getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0 ? ntohs(own.sin_port)
                                                                            : -1;
}

void settings() {
    const std::string ipv4 = "/proc/sys/net/ipv4/";
    // Linux gives a new namespace what the first one has.
    CHECK(store(ipv4 + "ip_forward", "0\n") == 0);
    CHECK(text_of(ipv4 + "conf/all/forwarding") == "0\n");
    CHECK(store(ipv4 + "ip_forward", "1\n") == 0);
    CHECK(text_of(ipv4 + "conf/all/forwarding") == "1\n");
    CHECK(store(ipv4 + "ip_forward", "0") == 0);
    CHECK(text_of(ipv4 + "ip_local_port_range") == "32768\t60999\n");
    CHECK(store(ipv4 + "ip_local_port_range", "40000 40009") == 0);
    CHECK(text_of(ipv4 + "ip_local_port_range") == "40000\t40009\n");
    CHECK(store(ipv4 + "ip_local_port_range", "5 4") == -1);
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in to = loopback(9);
    CHECK(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
    sockaddr_in own{};
    socklen_t length = sizeof own;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0);
    CHECK(ntohs(own.sin_port) >= 40000 && ntohs(own.sin_port) <= 40009);
    close(fd);
    // Of ten ports one is left for those who ask for any; by its number each can be had.
    const std::string reserved = ipv4 + "ip_local_reserved_ports";
    CHECK(text_of(reserved) == "\n");
    CHECK(store(reserved, "40008,40000-40006\n") == 0);
    CHECK(text_of(reserved) == "40000-40006,40008\n");
    for (const char* const wrong : {"5-3", "65536", "1,x", "1-"})
        CHECK(store(reserved, wrong) == -1);
    CHECK(store(reserved, "40000-40006,40008-40009\n") == 0);
    for (const int type : {SOCK_DGRAM, SOCK_STREAM}) {
        const int first = bound_to(type, 0), second = bound_to(type, 0),
                  by_number = bound_to(type, 40008);
        CHECK(port_of(first) == 40007 && second == -1 && errno == EADDRINUSE);
        CHECK(port_of(by_number) == 40008);
        close(first);
        close(by_number);
    }
    CHECK(store(reserved, "\n") == 0 && text_of(reserved) == "\n");
    CHECK(text_of(ipv4 + "ip_unprivileged_port_start") == "1024\n");
    CHECK(store(ipv4 + "ip_unprivileged_port_start", "80") == 0);
    CHECK(text_of(ipv4 + "ip_unprivileged_port_start") == "80\n");
    CHECK(store(ipv4 + "ip_default_ttl", "256") == -1);
    CHECK(store(ipv4 + "tcp_syn_retries", "3") == 0 && text_of(ipv4 + "tcp_syn_retries") == "3\n");
    CHECK(store(ipv4 + "ping_group_range", "0 100") == 0);
    CHECK(text_of(ipv4 + "ping_group_range") == "0\t100\n");
    CHECK(store(ipv4 + "tcp_congestion_control", "nonsense") == -1);
    CHECK(store(ipv4 + "tcp_congestion_control", "reno\n") == 0);
    CHECK(text_of(ipv4 + "tcp_congestion_control") == "reno\n");
    char algorithm[16] = {};
    const int stream = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t name_length = sizeof algorithm;
    CHECK(getsockopt(stream, IPPROTO_TCP, TCP_CONGESTION, algorithm, &name_length) == 0);
    CHECK(std::string(algorithm) == "reno");
    close(stream);
    CHECK(text_of(ipv4 + "tcp_notsent_lowat") == "4294967295\n");
    CHECK(store(ipv4 + "tcp_notsent_lowat", "131072") == 0);
    CHECK(text_of(ipv4 + "tcp_notsent_lowat") == "131072\n");
    for (const char* const name : {"tcp_dsack", "tcp_invalid_ratelimit", "tcp_challenge_ack_limit",
                                   "tcp_min_snd_mss", "route/min_pmtu", "ipfrag_time"}) {
        const std::string old = text_of(ipv4 + name);
        CHECK(!old.empty() && store(ipv4 + name, old) == 0);
    }
    CHECK(text_of("/proc/sys/net/core/somaxconn") == "4096\n");
    CHECK(store("/proc/sys/net/core/somaxconn", "-1") == -1);
}

// What is there belongs to the namespace: another one has its own.
void namespaces() {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in port = loopback(4713);
    CHECK(bind(fd, reinterpret_cast<const sockaddr*>(&port), sizeof port) == 0);
    CHECK(has_line(text_of("/proc/net/udp"), "0100007F:1269"));
    CHECK(unshare(CLONE_NEWNET) == 0);
    CHECK(!has_line(text_of("/proc/self/net/udp"), "0100007F:1269"));
    CHECK(text_of("/proc/sys/net/ipv4/ip_unprivileged_port_start") == "1024\n");
    close(fd);
}

// A descriptor of a setting is about the namespace in which it was opened.
void descriptors() {
    const std::string number = "/proc/sys/net/ipv4/tcp_fin_timeout";
    const std::string triple = "/proc/sys/net/ipv4/ip_local_port_range";
    const std::string own = "/proc/sys/net/ipv4/conf/lo/arp_ignore";
    const std::string names[] = {number, triple, own};
    const std::string defaults[] = {"60\n", "32768\t60999\n", "0\n"};
    const std::string changed[] = {"33\n", "20000\t30000\n", "2\n"};
    int fds[3];
    for (int i = 0; i < 3; i++) {
        CHECK((fds[i] = open(names[i].c_str(), O_RDWR)) >= 0);
        CHECK(text_of(names[i]) == defaults[i]);
    }
    const int lives_on = open("/proc/self/ns/net", O_RDONLY);
    CHECK(lives_on >= 0 && unshare(CLONE_NEWNET) == 0);
    for (int i = 0; i < 3; i++) {
        const auto length = static_cast<ssize_t>(changed[i].size());
        CHECK(write(fds[i], changed[i].data(), changed[i].size()) == length);
        CHECK(text_of(names[i]) == defaults[i]);
        char text[64];
        CHECK(pread(fds[i], text, sizeof text, 0) == length);
        CHECK(std::memcmp(text, changed[i].data(), changed[i].size()) == 0);
        close(fds[i]);
    }
    close(lives_on);
}

} // namespace

int main() {
    own_network();
    interfaces();
    sockets();
    settings();
    namespaces();
    descriptors();
    return 0;
}
