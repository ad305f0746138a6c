// RFC 3678, ip(7): which sources of a group a socket takes, of both versions.
#include <cstdint>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>

#include "tests/guest/network_support.hpp"

namespace {

constexpr char group_text[] = "239.1.1.1";

in_addr address(const char* text) {
    in_addr out{};
    CHECK(inet_aton(text, &out) != 0);
    return out;
}

ip_mreq_source source_request(const char* group, const char* source) {
    ip_mreq_source out{};
    out.imr_multiaddr = address(group);
    out.imr_interface = address("127.0.0.1");
    out.imr_sourceaddr = address(source);
    return out;
}

int change(int fd, int name, const char* source, const char* group = group_text) {
    const ip_mreq_source request = source_request(group, source);
    return setsockopt(fd, IPPROTO_IP, name, &request, sizeof request);
}

int whole(int fd, int name, const char* group = group_text) {
    ip_mreqn request{};
    request.imr_multiaddr = address(group);
    request.imr_ifindex = 1;
    return setsockopt(fd, IPPROTO_IP, name, &request, sizeof request);
}

int receiver(uint16_t port) {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    return fd;
}

constexpr uint16_t port = 5353;

void send_from(const char* source, const char* group = group_text) {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in from{};
    from.sin_family = AF_INET;
    from.sin_addr = address(source);
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&from), sizeof from) == 0);
    ip_mreqn through{};
    through.imr_ifindex = 1;
    CHECK(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &through, sizeof through) == 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr = address(group);
    CHECK(sendto(fd, "x", 1, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) == 1);
    close(fd);
}

bool arrives(int fd) {
    char byte[128];
    const bool came = recv(fd, byte, sizeof byte, MSG_DONTWAIT) > 0;
    CHECK(recv(fd, byte, sizeof byte, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    return came;
}

bool gets(int fd, const char* source) {
    send_from(source);
    return arrives(fd);
}

void included() {
    const int fd = receiver(port);
    CHECK_FAILS(change(fd, IP_DROP_SOURCE_MEMBERSHIP, "127.0.0.2"), EINVAL);
    CHECK_FAILS(change(fd, IP_BLOCK_SOURCE, "127.0.0.2"), EINVAL);
    CHECK_FAILS(change(fd, IP_ADD_SOURCE_MEMBERSHIP, "127.0.0.2", "10.0.0.1"), EINVAL);
    CHECK_FAILS(setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, "12345678", 8), EINVAL);
    CHECK(change(fd, IP_ADD_SOURCE_MEMBERSHIP, "127.0.0.2") == 0);
    CHECK(gets(fd, "127.0.0.2") && !gets(fd, "127.0.0.3"));
    CHECK_FAILS(change(fd, IP_ADD_SOURCE_MEMBERSHIP, "127.0.0.2"), EADDRNOTAVAIL);
    CHECK_FAILS(whole(fd, IP_ADD_MEMBERSHIP), EADDRINUSE);
    CHECK_FAILS(change(fd, IP_BLOCK_SOURCE, "127.0.0.4"), EINVAL);
    CHECK(change(fd, IP_ADD_SOURCE_MEMBERSHIP, "127.0.0.3") == 0);
    CHECK(gets(fd, "127.0.0.2") && gets(fd, "127.0.0.3") && !gets(fd, "127.0.0.4"));
    CHECK_FAILS(change(fd, IP_DROP_SOURCE_MEMBERSHIP, "127.0.0.9"), EADDRNOTAVAIL);
    CHECK(change(fd, IP_DROP_SOURCE_MEMBERSHIP, "127.0.0.2") == 0);
    CHECK(!gets(fd, "127.0.0.2") && gets(fd, "127.0.0.3"));
    // The last one that goes takes the membership along.
    CHECK(change(fd, IP_DROP_SOURCE_MEMBERSHIP, "127.0.0.3") == 0);
    CHECK_FAILS(change(fd, IP_DROP_SOURCE_MEMBERSHIP, "127.0.0.3"), EINVAL);
    CHECK_FAILS(whole(fd, IP_DROP_MEMBERSHIP), EADDRNOTAVAIL);
    for (int i = 0; i < 10; i++)
        CHECK(change(fd, IP_ADD_SOURCE_MEMBERSHIP, ("127.0.1." + std::to_string(i)).c_str()) == 0);
    CHECK_FAILS(change(fd, IP_ADD_SOURCE_MEMBERSHIP, "127.0.1.10"), ENOBUFS);
    close(fd);
}

void excluded() {
    const int fd = receiver(port);
    CHECK(whole(fd, IP_ADD_MEMBERSHIP) == 0);
    CHECK(gets(fd, "127.0.0.2"));
    CHECK(change(fd, IP_BLOCK_SOURCE, "127.0.0.2") == 0);
    CHECK_FAILS(change(fd, IP_BLOCK_SOURCE, "127.0.0.2"), EADDRNOTAVAIL);
    CHECK(!gets(fd, "127.0.0.2") && gets(fd, "127.0.0.3"));
    CHECK_FAILS(change(fd, IP_ADD_SOURCE_MEMBERSHIP, "127.0.0.2"), EINVAL);
    CHECK_FAILS(change(fd, IP_UNBLOCK_SOURCE, "127.0.0.5"), EADDRNOTAVAIL);
    CHECK(change(fd, IP_UNBLOCK_SOURCE, "127.0.0.2") == 0);
    CHECK(gets(fd, "127.0.0.2"));
    // A list that is empty again keeps its mode.
    CHECK_FAILS(change(fd, IP_ADD_SOURCE_MEMBERSHIP, "127.0.0.2"), EINVAL);
    CHECK(whole(fd, IP_DROP_MEMBERSHIP) == 0);
    close(fd);
}

// Groups that the socket itself is not in.
void groups_of_others() {
    const int member = receiver(port), other = receiver(port), off = 0;
    CHECK(whole(member, IP_ADD_MEMBERSHIP) == 0);
    send_from("127.0.0.2");
    CHECK(arrives(member) && arrives(other));
    CHECK(setsockopt(other, IPPROTO_IP, IP_MULTICAST_ALL, &off, sizeof off) == 0);
    send_from("127.0.0.2");
    CHECK(arrives(member) && !arrives(other));
    close(member);
    close(other);
}

void raw_sockets() {
    const int fd = socket(AF_INET, SOCK_RAW, IPPROTO_UDP), off = 0;
    CHECK(fd >= 0);
    CHECK(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, &off, sizeof off) == 0);
    CHECK(!gets(fd, "127.0.0.2"));
    CHECK(change(fd, IP_ADD_SOURCE_MEMBERSHIP, "127.0.0.2") == 0);
    CHECK(gets(fd, "127.0.0.2") && !gets(fd, "127.0.0.3"));
    close(fd);
}

void whole_filters() {
    const int fd = receiver(port);
    alignas(8) char bytes[IP_MSFILTER_SIZE(12)] = {};
    auto* filter = reinterpret_cast<ip_msfilter*>(bytes);
    filter->imsf_multiaddr = address(group_text);
    filter->imsf_interface = address("127.0.0.1");
    const auto set = [&](uint32_t mode, std::vector<const char*> sources, int more = 0) {
        filter->imsf_fmode = mode;
        filter->imsf_numsrc = static_cast<uint32_t>(sources.size());
        for (size_t i = 0; i < sources.size(); i++)
            (&filter->imsf_slist[0])[i] = address(sources[i]);
        return setsockopt(fd, IPPROTO_IP, IP_MSFILTER, filter,
                          static_cast<socklen_t>(IP_MSFILTER_SIZE(sources.size()) + more));
    };
    CHECK_FAILS(set(MCAST_EXCLUDE, {}), EINVAL);
    CHECK_FAILS(set(MCAST_INCLUDE, {}), EADDRNOTAVAIL);
    CHECK(whole(fd, IP_ADD_MEMBERSHIP) == 0);
    CHECK_FAILS(set(7, {"127.0.0.2"}), EINVAL);
    CHECK_FAILS(set(MCAST_INCLUDE, {"127.0.0.2", "127.0.0.3"}, -4), EINVAL);
    CHECK_FAILS(set(MCAST_INCLUDE, std::vector<const char*>(11, "127.0.0.2")), ENOBUFS);
    CHECK(set(MCAST_INCLUDE, {"127.0.0.2", "127.0.0.3"}) == 0);
    CHECK(gets(fd, "127.0.0.3") && !gets(fd, "127.0.0.4"));
    filter->imsf_numsrc = 1;
    filter->imsf_fmode = 99;
    socklen_t length = sizeof bytes;
    CHECK(getsockopt(fd, IPPROTO_IP, IP_MSFILTER, filter, &length) == 0);
    CHECK(length == IP_MSFILTER_SIZE(1) && filter->imsf_numsrc == 2);
    CHECK(filter->imsf_fmode == MCAST_INCLUDE);
    CHECK(filter->imsf_slist[0].s_addr == address("127.0.0.2").s_addr);
    CHECK(set(MCAST_EXCLUDE, {"127.0.0.3"}) == 0);
    CHECK(!gets(fd, "127.0.0.3") && gets(fd, "127.0.0.4"));
    CHECK(set(MCAST_INCLUDE, {}) == 0); // leaves
    CHECK_FAILS(whole(fd, IP_DROP_MEMBERSHIP), EADDRNOTAVAIL);
    close(fd);
}

void version_6() {
    const int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    sockaddr_in6 at{};
    at.sin6_family = AF_INET6;
    at.sin6_port = htons(port);
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    group_source_req request{};
    request.gsr_interface = 1;
    auto* group = reinterpret_cast<sockaddr_in6*>(&request.gsr_group);
    auto* source = reinterpret_cast<sockaddr_in6*>(&request.gsr_source);
    group->sin6_family = source->sin6_family = AF_INET6;
    CHECK(inet_pton(AF_INET6, "ff15::7", &group->sin6_addr) == 1);
    CHECK(inet_pton(AF_INET6, "::1", &source->sin6_addr) == 1);
    const auto ask = [&](int name) {
        return setsockopt(fd, IPPROTO_IPV6, name, &request, sizeof request);
    };
    CHECK_FAILS(ask(MCAST_BLOCK_SOURCE), EINVAL);
    CHECK(ask(MCAST_JOIN_SOURCE_GROUP) == 0);
    CHECK_FAILS(ask(MCAST_JOIN_SOURCE_GROUP), EADDRNOTAVAIL);
    CHECK_FAILS(setsockopt(fd, IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, &request, 100), EINVAL);
    source->sin6_family = AF_INET;
    CHECK_FAILS(ask(MCAST_JOIN_SOURCE_GROUP), EADDRNOTAVAIL);
    source->sin6_family = AF_INET6;
    std::vector<char> bytes(GROUP_FILTER_SIZE(64));
    auto* filter = reinterpret_cast<group_filter*>(bytes.data());
    filter->gf_interface = 1;
    filter->gf_group = request.gsr_group;
    filter->gf_numsrc = 64;
    socklen_t length = static_cast<socklen_t>(bytes.size());
    CHECK(getsockopt(fd, IPPROTO_IPV6, MCAST_MSFILTER, filter, &length) == 0);
    CHECK(length == GROUP_FILTER_SIZE(1) && filter->gf_numsrc == 1);
    CHECK(filter->gf_fmode == MCAST_INCLUDE && filter->gf_slist[0].ss_family == AF_INET6);
    // A long one, of others.
    filter->gf_numsrc = 64;
    for (uint32_t i = 0; i < 64; i++) {
        auto* other = reinterpret_cast<sockaddr_in6*>(&filter->gf_slist[0] + i);
        *other = *source;
        other->sin6_addr.s6_addr[14] = static_cast<uint8_t>(i + 1);
    }
    length = static_cast<socklen_t>(bytes.size());
    CHECK(setsockopt(fd, IPPROTO_IPV6, MCAST_MSFILTER, filter, length) == 0);
    CHECK_FAILS(ask(MCAST_JOIN_SOURCE_GROUP), ENOBUFS);
    filter->gf_fmode = MCAST_EXCLUDE;
    CHECK(setsockopt(fd, IPPROTO_IPV6, MCAST_MSFILTER, filter, length) == 0);
    filter->gf_numsrc = 65;
    CHECK_FAILS(setsockopt(fd, IPPROTO_IPV6, MCAST_MSFILTER, filter, length), ENOBUFS);
    CHECK(setsockopt(fd, IPPROTO_IPV6, MCAST_LEAVE_GROUP, &request, sizeof(group_req)) == 0);
    close(fd);
}

} // namespace

int main() {
    own_network();
    included();
    excluded();
    groups_of_others();
    raw_sockets();
    whole_filters();
    version_6();
    return 0;
}
