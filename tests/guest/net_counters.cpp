// proc(5): /proc/net/snmp, netstat, snmp6 and softnet_stat count what happens. In a network
// namespace of its own, so that nothing else does.
#include <fstream>
#include <poll.h>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "tests/guest/network_support.hpp"

namespace {

std::vector<std::string> lines_of(const std::string& path) {
    std::ifstream file(path);
    CHECK(file.good());
    std::vector<std::string> out;
    for (std::string line; std::getline(file, line);)
        out.push_back(line);
    return out;
}

std::vector<std::string> words_of(const std::string& line) {
    std::istringstream words(line);
    std::vector<std::string> out;
    for (std::string word; words >> word;)
        out.push_back(word);
    return out;
}

// Of a file of pairs of lines: names, then values. -1: there is no such name.
long counter(const std::string& path, const std::string& group, const std::string& name) {
    const std::vector<std::string> lines = lines_of(path);
    for (size_t i = 0; i + 1 < lines.size(); i++) {
        const std::vector<std::string> names = words_of(lines[i]), values = words_of(lines[i + 1]);
        if (names.empty() || values.empty() || names[0] != group + ":" || values[0] != names[0])
            continue;
        CHECK(names.size() == values.size());
        for (size_t at = 1; at < names.size(); at++)
            if (names[at] == name)
                return std::stol(values[at]);
        return -1;
    }
    return -1;
}

long snmp(const std::string& group, const std::string& name) {
    return counter("/proc/net/snmp", group, name);
}
long tcp_extended(const std::string& name) {
    return counter("/proc/net/netstat", "TcpExt", name);
}
long ip_extended(const std::string& name) {
    return counter("/proc/net/netstat", "IpExt", name);
}
long snmp6(const std::string& name) {
    for (const std::string& line : lines_of("/proc/net/snmp6")) {
        const std::vector<std::string> words = words_of(line);
        if (words.size() == 2 && words[0] == name)
            return std::stol(words[1]);
    }
    return -1;
}

sockaddr_in at_port(int fd) {
    sockaddr_in out{};
    socklen_t length = sizeof out;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&out), &length) == 0);
    return out;
}

sockaddr_in loopback(uint16_t port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(port);
    out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return out;
}

int connect_to(int fd, const sockaddr_in& to) {
    return connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to);
}

int listening(int backlog) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in at = loopback(0);
    CHECK(bind(fd, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
    CHECK(listen(fd, backlog) == 0);
    return fd;
}

void names() {
    for (const char* name : {"SyncookiesSent",  "EmbryonicRsts",        "TW",
                             "PAWSEstab",       "DelayedACKs",          "ListenOverflows",
                             "TCPSACKReorder",  "TCPFastRetrans",       "TCPTimeouts",
                             "TCPLossProbes",   "TCPDSACKRecv",         "TCPBacklogDrop",
                             "TCPReqQFullDrop", "TCPOFOQueue",          "TCPOrigDataSent",
                             "TCPKeepAlive",    "TCPMigrateReqFailure", "IPReversePathFilter",
                             "TCPHPHits",       "TCPMD5Failure"})
        if (tcp_extended(name) < 0) {
            std::fprintf(stderr, "no %s\n", name);
            CHECK(false);
        }
    for (const char* name : {"InNoRoutes", "InMcastPkts", "OutOctets", "InCEPkts", "ReasmOverlaps"})
        CHECK(ip_extended(name) >= 0);
    for (const char* name : {"InParmProbs", "InTimestamps", "OutRedirects", "OutAddrMaskReps"})
        CHECK(snmp("Icmp", name) >= 0);
    for (const char* name : {"Ip6InOctets", "Ip6InNoECTPkts", "Icmp6InNeighborSolicits",
                             "Icmp6OutMLDv2Reports", "Icmp6OutPktTooBigs"})
        CHECK(snmp6(name) >= 0);
    const std::vector<std::string> cpus = lines_of("/proc/net/softnet_stat");
    CHECK(!cpus.empty());
    for (const std::string& line : cpus) {
        const std::vector<std::string> words = words_of(line);
        CHECK(words.size() >= 13);
        for (const std::string& word : words)
            CHECK(word.size() == 8);
    }
}

void datagrams() {
    const long octets = ip_extended("InOctets"), plain = ip_extended("InNoECTPkts");
    const long unreachable = snmp("Icmp", "InDestUnreachs");
    const long out = snmp("Icmp", "OutMsgs");
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(connect_to(fd, loopback(9)) == 0);
    CHECK(send(fd, std::string(100, 'x').data(), 100, 0) == 100);
    // Its answer says that nobody is there.
    char byte;
    CHECK_FAILS(recv(fd, &byte, 1, 0), ECONNREFUSED);
    CHECK(ip_extended("InOctets") == octets + 128 + 28 + 128);
    CHECK(ip_extended("InNoECTPkts") == plain + 2 || ip_extended("InNoECTPkts") == plain + 1);
    CHECK(snmp("Icmp", "InDestUnreachs") == unreachable + 1);
    CHECK(snmp("Icmp", "OutDestUnreachs") >= 1 && snmp("Icmp", "OutMsgs") == out + 1);
    CHECK(snmp("IcmpMsg", "InType3") >= 1 && snmp("IcmpMsg", "OutType3") >= 1);
    // The field of congestion.
    const int marked = IPTOS_ECN_ECT0;
    const long capable = ip_extended("InECT0Pkts");
    CHECK(setsockopt(fd, IPPROTO_IP, IP_TOS, &marked, sizeof marked) == 0);
    CHECK(send(fd, "x", 1, 0) == 1);
    CHECK(ip_extended("InECT0Pkts") >= capable + 1);
    close(fd);
    const int six = socket(AF_INET6, SOCK_DGRAM, 0);
    sockaddr_in6 own{};
    own.sin6_family = AF_INET6;
    own.sin6_port = htons(9);
    own.sin6_addr = in6addr_loopback;
    const long bytes = snmp6("Ip6InOctets"), told = snmp6("Icmp6InDestUnreachs");
    CHECK(sendto(six, "0123456789", 10, 0, reinterpret_cast<sockaddr*>(&own), sizeof own) == 10);
    CHECK(snmp6("Ip6InOctets") >= bytes + 58);
    CHECK(snmp6("Icmp6InDestUnreachs") == told + 1);
    CHECK(snmp6("Icmp6OutType1") >= 1 && snmp6("Icmp6InType1") >= 1);
    close(six);
}

void connections() {
    const long failed = snmp("Tcp", "AttemptFails"), sent = tcp_extended("TCPOrigDataSent");
    const long pure = tcp_extended("TCPPureAcks"), delivered = tcp_extended("TCPDelivered");
    const long on_close = tcp_extended("TCPAbortOnClose"), resets = snmp("Tcp", "EstabResets");
    const int nobody = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_FAILS(connect_to(nobody, loopback(9)), ECONNREFUSED);
    CHECK(snmp("Tcp", "AttemptFails") == failed + 1);
    close(nobody);
    const int listener = listening(5), client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect_to(client, at_port(listener)) == 0);
    const int server = accept(listener, nullptr, nullptr);
    CHECK(send(client, "abc", 3, 0) == 3);
    char text[8];
    CHECK(recv(server, text, sizeof text, 0) == 3);
    CHECK(send(server, "de", 2, 0) == 2 && recv(client, text, sizeof text, 0) == 2);
    CHECK(tcp_extended("TCPOrigDataSent") >= sent + 2);
    CHECK(tcp_extended("TCPDelivered") > delivered);
    CHECK(tcp_extended("TCPPureAcks") >= pure);
    // What was not read is lost: the peer is told.
    CHECK(send(client, "lost", 4, 0) == 4);
    pollfd one{server, POLLIN, 0};
    CHECK(poll(&one, 1, 10'000) == 1);
    close(server);
    CHECK(tcp_extended("TCPAbortOnClose") == on_close + 1);
    CHECK(snmp("Tcp", "EstabResets") >= resets + 1);
    close(client);
    close(listener);
}

void full_queues() {
    const long overflows = tcp_extended("ListenOverflows"), drops = tcp_extended("ListenDrops");
    const int listener = listening(0);
    int clients[3];
    for (int& fd : clients) {
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect_to(fd, at_port(listener));
    }
    CHECK(tcp_extended("ListenOverflows") > overflows && tcp_extended("ListenDrops") > drops);
    for (const int fd : clients)
        close(fd);
    close(listener);
}

void closed_windows() {
    const long closed = tcp_extended("TCPToZeroWindowAdv");
    const int listener = listening(5), client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const int small = 4096;
    CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
    (void)connect_to(client, at_port(listener));
    const int server = accept(listener, nullptr, nullptr);
    const std::string text(1 << 16, 'w');
    for (int i = 0; i < 200 && tcp_extended("TCPToZeroWindowAdv") == closed; i++) {
        while (send(client, text.data(), text.size(), 0) > 0) {
        }
        usleep(10'000);
    }
    CHECK(tcp_extended("TCPToZeroWindowAdv") > closed);
    const long opened = tcp_extended("TCPFromZeroWindowAdv");
    std::string got(1 << 16, '\0');
    for (int i = 0; i < 200 && tcp_extended("TCPFromZeroWindowAdv") == opened; i++)
        CHECK(recv(server, got.data(), got.size(), 0) > 0);
    CHECK(tcp_extended("TCPFromZeroWindowAdv") > opened);
    close(client);
    close(server);
    close(listener);
}

// IP_MINTTL: what comes from further away does not count (RFC 5082).
void too_far_away() {
    const long drops = tcp_extended("TCPMinTTLDrop");
    const int listener = listening(5), most = 255, far = 254;
    CHECK(setsockopt(listener, IPPROTO_IP, IP_MINTTL, &most, sizeof most) == 0);
    const int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(setsockopt(client, IPPROTO_IP, IP_TTL, &far, sizeof far) == 0);
    CHECK_FAILS(connect_to(client, at_port(listener)), EINPROGRESS);
    CHECK(tcp_extended("TCPMinTTLDrop") >= drops + 1);
    close(client);
    const int near = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(setsockopt(near, IPPROTO_IP, IP_TTL, &most, sizeof most) == 0);
    CHECK(setsockopt(listener, IPPROTO_IP, IP_TTL, &most, sizeof most) == 0);
    CHECK(connect_to(near, at_port(listener)) == 0);
    close(near);
    close(listener);
}

} // namespace

int main() {
    own_network();
    names();
    datagrams();
    connections();
    full_queues();
    closed_windows();
    too_far_away();
    return 0;
}
