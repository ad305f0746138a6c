// Frames in mapped memory: PACKET_RX_RING, TPACKET_V2. packet(7).
#include <cstdint>
#include <poll.h>
#include <string>
#include <unistd.h>

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "tests/guest/network_support.hpp"

namespace {

constexpr uint32_t frame_bytes = 2048, frames = 4;

int set(int fd, int name, uint32_t value) {
    return setsockopt(fd, SOL_PACKET, name, &value, sizeof value);
}

int set_ring(int fd, const tpacket_req& request) {
    return setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request);
}

uint32_t header_length(int fd, int version) {
    int value = version;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, SOL_PACKET, PACKET_HDRLEN, &value, &length) == 0);
    return static_cast<uint32_t>(value);
}

int open_socket() {
    const int fd = socket(AF_PACKET, SOCK_RAW, 0);
    CHECK(fd >= 0);
    return fd;
}

void attach(int fd) {
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_IP);
    where.sll_ifindex = static_cast<int>(if_nametoindex("lo"));
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0);
}

void send_datagram(const std::string& text) {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(9);
    to.sin_addr.s_addr = htonl(0x7f000042); // nobody; what the kernel answers goes elsewhere
    CHECK(sendto(fd, text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to) ==
          static_cast<ssize_t>(text.size()));
    close(fd);
}

void what_cannot_be() {
    const int fd = open_socket();
    CHECK(header_length(fd, TPACKET_V1) == sizeof(tpacket_hdr));
    CHECK(header_length(fd, TPACKET_V2) == sizeof(tpacket2_hdr));
    int value = 77;
    socklen_t length = sizeof value;
    CHECK_FAILS(getsockopt(fd, SOL_PACKET, PACKET_HDRLEN, &value, &length), EINVAL);
    CHECK_FAILS(set(fd, PACKET_VERSION, 77), EINVAL);
    CHECK(set(fd, PACKET_VERSION, TPACKET_V2) == 0);
    const tpacket_req good = {4096, 2, frame_bytes, frames};
    tpacket_req bad = good;
    bad.tp_block_size = 4095;
    CHECK_FAILS(set_ring(fd, bad), EINVAL);
    bad = good;
    bad.tp_frame_size = 2040;
    CHECK_FAILS(set_ring(fd, bad), EINVAL);
    bad = good;
    bad.tp_frame_nr = 5;
    CHECK_FAILS(set_ring(fd, bad), EINVAL);
    bad = good;
    bad.tp_frame_size = 16;
    bad.tp_frame_nr = 512;
    CHECK_FAILS(set_ring(fd, bad), EINVAL);
    CHECK_FAILS(set_ring(fd, tpacket_req{0, 0, 0, 4}), EINVAL);
    CHECK(mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(set_ring(fd, good) == 0);
    CHECK_FAILS(set_ring(fd, good), EBUSY);
    CHECK_FAILS(set(fd, PACKET_VERSION, TPACKET_V1), EBUSY);
    CHECK_FAILS(set(fd, PACKET_RESERVE, 4), EBUSY);
    CHECK(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(set_ring(fd, tpacket_req{}) == 0);
    CHECK(set(fd, PACKET_RESERVE, 4) == 0);
    close(fd);
}

void check_frame(const uint8_t* slot, const std::string& text) {
    tpacket2_hdr header;
    std::memcpy(&header, slot, sizeof header);
    CHECK((header.tp_status & TP_STATUS_USER) != 0);
    const uint32_t bytes = static_cast<uint32_t>(ETH_HLEN + 20 + 8 + text.size());
    CHECK(header.tp_len == bytes && header.tp_snaplen == bytes);
    CHECK(header.tp_net - header.tp_mac == ETH_HLEN && header.tp_sec > 1'600'000'000);
    sockaddr_ll from;
    std::memcpy(&from, slot + TPACKET_ALIGN(sizeof header), sizeof from);
    CHECK(from.sll_family == AF_PACKET && from.sll_protocol == htons(ETH_P_IP));
    CHECK(from.sll_ifindex == static_cast<int>(if_nametoindex("lo")));
    CHECK(from.sll_pkttype == PACKET_HOST && from.sll_halen == ETH_ALEN);
    iphdr ip;
    std::memcpy(&ip, slot + header.tp_net, sizeof ip);
    CHECK(ip.version == 4 && ip.protocol == IPPROTO_UDP);
    CHECK(std::memcmp(slot + header.tp_net + 28, text.data(), text.size()) == 0);
}

uint32_t status_of(const uint8_t* slot) {
    return __atomic_load_n(reinterpret_cast<const uint32_t*>(slot), __ATOMIC_ACQUIRE);
}

void give_back(uint8_t* slot) {
    __atomic_store_n(reinterpret_cast<uint32_t*>(slot), TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

void frames_come() {
    const int fd = open_socket();
    CHECK(set(fd, PACKET_VERSION, TPACKET_V2) == 0);
    CHECK(set_ring(fd, {4096, 2, frame_bytes, frames}) == 0);
    auto* ring =
        static_cast<uint8_t*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    CHECK(ring != MAP_FAILED);
    attach(fd);
    pollfd watched{fd, POLLIN, 0};
    CHECK(poll(&watched, 1, 0) == 0);
    // The ICMP error that answers a datagram has another protocol within IP, and is seen, too.
    const int sink = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_port = htons(9);
    CHECK(bind(sink, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0);
    for (const char* text : {"one", "two", "three", "four", "five", "six"})
        send_datagram(text);
    CHECK(poll(&watched, 1, 5000) == 1 && watched.revents == POLLIN);
    const char* const texts[] = {"one", "two", "three", "four"};
    for (uint32_t i = 0; i < frames; i++)
        check_frame(ring + i * frame_bytes, texts[i]);
    tpacket_stats counts{};
    socklen_t length = sizeof counts;
    CHECK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &counts, &length) == 0);
    CHECK(counts.tp_packets == 6 && counts.tp_drops == 2);
    for (uint32_t i = 0; i < frames; i++)
        give_back(ring + i * frame_bytes);
    CHECK(poll(&watched, 1, 0) == 0);
    // A frame larger than its slot is cut.
    const std::string large(3000, 'x');
    send_datagram(large);
    CHECK(poll(&watched, 1, 5000) == 1);
    tpacket2_hdr header;
    std::memcpy(&header, ring, sizeof header);
    CHECK(header.tp_len == ETH_HLEN + 28 + large.size());
    CHECK(header.tp_snaplen == frame_bytes - header.tp_mac);
    CHECK(status_of(ring + frame_bytes) == TP_STATUS_KERNEL);
    // Whoever maps it keeps it; the queue is back once the ring has gone.
    CHECK(munmap(ring, 8192) == 0);
    CHECK(set_ring(fd, tpacket_req{}) == 0);
    send_datagram("seven");
    char frame[128];
    CHECK(recv(fd, frame, sizeof frame, 0) == ETH_HLEN + 28 + 5);
    close(sink);
    close(fd);
}

} // namespace

int main() {
    own_network();
    what_cannot_be();
    frames_come();
    return 0;
}
