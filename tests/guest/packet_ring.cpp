// Frames in mapped memory: PACKET_RX_RING of all versions, PACKET_TX_RING. packet(7).
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
    CHECK(header_length(fd, TPACKET_V3) == sizeof(tpacket3_hdr));
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

uint8_t* map(int fd, size_t bytes) {
    void* const out = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(out != MAP_FAILED);
    return static_cast<uint8_t*>(out);
}

int sink() { // so that nothing answers
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_port = htons(9);
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0);
    return fd;
}

void first_version() {
    const int fd = open_socket();
    const int silent = sink();
    CHECK(set_ring(fd, {4096, 2, frame_bytes, frames}) == 0);
    uint8_t* const ring = map(fd, 8192);
    attach(fd);
    send_datagram("one");
    send_datagram("two");
    pollfd watched{fd, POLLIN, 0};
    CHECK(poll(&watched, 1, 5000) == 1 && watched.revents == POLLIN);
    for (uint32_t i = 0; i < 2; i++) {
        tpacket_hdr header;
        std::memcpy(&header, ring + i * frame_bytes, sizeof header);
        CHECK((header.tp_status & TP_STATUS_USER) != 0 && header.tp_usec < 1'000'000);
        CHECK(header.tp_len == ETH_HLEN + 28 + 3 && header.tp_snaplen == header.tp_len);
        CHECK(header.tp_net - header.tp_mac == ETH_HLEN);
        CHECK(std::memcmp(ring + i * frame_bytes + header.tp_net + 28, i == 0 ? "one" : "two", 3) ==
              0);
    }
    CHECK(munmap(ring, 8192) == 0);
    close(silent);
    close(fd);
}

constexpr uint32_t block_bytes = 4096, blocks = 3;

const tpacket_block_desc* block_of(const uint8_t* ring, uint32_t number) {
    return reinterpret_cast<const tpacket_block_desc*>(ring + number * block_bytes);
}
uint32_t block_status(const uint8_t* ring, uint32_t number) {
    return __atomic_load_n(&block_of(ring, number)->hdr.bh1.block_status, __ATOMIC_ACQUIRE);
}
void give_block_back(uint8_t* ring, uint32_t number) {
    auto* const block = reinterpret_cast<tpacket_block_desc*>(ring + number * block_bytes);
    __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

// The frames' payloads, in their order.
std::string payloads(const uint8_t* ring, uint32_t number) {
    const tpacket_hdr_v1& about = block_of(ring, number)->hdr.bh1;
    std::string out;
    uint32_t at = about.offset_to_first_pkt;
    for (uint32_t i = 0; i < about.num_pkts; i++) {
        const uint8_t* const start = ring + number * block_bytes + at;
        tpacket3_hdr header;
        std::memcpy(&header, start, sizeof header);
        CHECK((header.tp_status & TP_STATUS_USER) != 0);
        CHECK(header.tp_snaplen == header.tp_len && header.tp_net - header.tp_mac == ETH_HLEN);
        sockaddr_ll from;
        std::memcpy(&from, start + TPACKET_ALIGN(sizeof header), sizeof from);
        CHECK(from.sll_family == AF_PACKET && from.sll_protocol == htons(ETH_P_IP));
        out.append(reinterpret_cast<const char*>(start + header.tp_net + 28),
                   header.tp_len - ETH_HLEN - 28);
        CHECK((header.tp_next_offset == 0) == (i + 1 == about.num_pkts));
        CHECK(header.tp_next_offset % 8 == 0);
        at += header.tp_next_offset;
    }
    return out;
}

int set_block_ring(int fd, uint32_t milliseconds, uint32_t own_bytes) {
    tpacket_req3 request{};
    request.tp_block_size = block_bytes;
    request.tp_block_nr = blocks;
    request.tp_frame_size = frame_bytes;
    request.tp_frame_nr = blocks * (block_bytes / frame_bytes);
    request.tp_retire_blk_tov = milliseconds;
    request.tp_sizeof_priv = own_bytes;
    return setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request);
}

tpacket_stats_v3 statistics(int fd) {
    tpacket_stats_v3 out{};
    socklen_t length = sizeof out;
    CHECK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &out, &length) == 0);
    CHECK(length == sizeof out);
    return out;
}

void blocks_come() {
    const int fd = open_socket();
    const int silent = sink();
    CHECK(set(fd, PACKET_VERSION, TPACKET_V3) == 0);
    CHECK_FAILS(set_ring(fd, {block_bytes, blocks, frame_bytes, 6}), EINVAL); // too short
    CHECK_FAILS(set_block_ring(fd, 50, block_bytes), EINVAL);
    CHECK(set_block_ring(fd, 50, 13) == 0);
    uint8_t* const ring = map(fd, block_bytes * blocks);
    attach(fd);
    pollfd watched{fd, POLLIN, 0};
    CHECK(poll(&watched, 1, 0) == 0);
    send_datagram("one");
    send_datagram("twenty");
    // Given when its time is over.
    CHECK(poll(&watched, 1, 5000) == 1 && watched.revents == POLLIN);
    uint32_t at = 0;
    std::string got;
    uint64_t sequence = 0;
    while (block_status(ring, at) != TP_STATUS_KERNEL) { // one or, on a slow machine, two
        const tpacket_hdr_v1& about = block_of(ring, at)->hdr.bh1;
        CHECK((about.block_status & TP_STATUS_BLK_TMO) != 0);
        CHECK(block_of(ring, at)->version == TPACKET_V3);
        CHECK(block_of(ring, at)->offset_to_priv == 48 && about.offset_to_first_pkt == 64);
        CHECK(about.seq_num > sequence && about.blk_len > 64 && about.blk_len <= block_bytes);
        CHECK(about.ts_first_pkt.ts_sec > 1'600'000'000);
        CHECK(about.ts_last_pkt.ts_sec >= about.ts_first_pkt.ts_sec);
        sequence = about.seq_num;
        got += payloads(ring, at);
        give_block_back(ring, at);
        at = (at + 1) % blocks;
        if (got != "onetwenty")
            CHECK(poll(&watched, 1, 5000) == 1);
    }
    CHECK(got == "onetwenty" && poll(&watched, 1, 0) == 0);
    CHECK(statistics(fd).tp_packets == 2);
    // Three of these fill a block; with none given back, those beyond the last are lost.
    const std::string large(1000, 'x');
    for (uint32_t i = 0; i < 12; i++)
        send_datagram(large);
    CHECK((block_status(ring, at) & TP_STATUS_USER) != 0);
    CHECK(payloads(ring, at).size() % 1000 == 0);
    const tpacket_stats_v3 counts = statistics(fd);
    CHECK(counts.tp_packets == 12 && counts.tp_drops >= 3 && counts.tp_freeze_q_cnt == 1);
    // The queue thaws when they come back.
    for (uint32_t i = 0; i < blocks; i++)
        give_block_back(ring, i);
    send_datagram("again");
    CHECK(poll(&watched, 1, 5000) == 1);
    CHECK(munmap(ring, block_bytes * blocks) == 0);
    close(silent);
    close(fd);
}

// Slots that are sent, in a mapping with slots that receive.
void frames_go() {
    const int fd = open_socket();
    CHECK(set(fd, PACKET_VERSION, TPACKET_V2) == 0);
    const tpacket_req request = {4096, 2, frame_bytes, frames};
    CHECK(setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &request, sizeof request) == 0);
    CHECK_FAILS(setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &request, sizeof request), EBUSY);
    CHECK(set_ring(fd, request) == 0);
    CHECK(mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EINVAL);
    uint8_t* const received = map(fd, 16384);
    uint8_t* const slots = received + 8192;
    attach(fd);
    CHECK(send(fd, nullptr, 0, 0) == 0); // nothing is asked for
    const auto fill = [&](uint32_t slot, uint32_t bytes, const char* text) {
        uint8_t* const start = slots + slot * frame_bytes;
        tpacket2_hdr header{};
        header.tp_len = bytes;
        std::memcpy(start, &header, sizeof header);
        ethhdr link{};
        link.h_proto = htons(ETH_P_IP);
        uint8_t* const data = start + TPACKET2_HDRLEN - sizeof(sockaddr_ll);
        std::memcpy(data, &link, sizeof link);
        std::memcpy(data + sizeof link, text, std::strlen(text));
        __atomic_store_n(reinterpret_cast<uint32_t*>(start), TP_STATUS_SEND_REQUEST,
                         __ATOMIC_RELEASE);
    };
    fill(0, 60, "first");
    fill(1, 80, "second");
    CHECK(send(fd, nullptr, 0, 0) == 140);
    for (int i = 0; i < 5000 && status_of(slots + frame_bytes) != TP_STATUS_AVAILABLE; i++)
        usleep(1000);
    CHECK(status_of(slots) == TP_STATUS_AVAILABLE);
    // On the loopback interface they come back, and are shown.
    pollfd watched{fd, POLLIN, 0};
    CHECK(poll(&watched, 1, 5000) == 1);
    tpacket2_hdr header;
    std::memcpy(&header, received, sizeof header);
    CHECK(header.tp_len == 60 && std::memcmp(received + header.tp_net, "first", 5) == 0);
    // One that cannot be ends the call, or is passed over.
    fill(2, frame_bytes, "");
    fill(3, 60, "third");
    CHECK_FAILS(send(fd, nullptr, 0, 0), EMSGSIZE);
    CHECK(status_of(slots + 2 * frame_bytes) == TP_STATUS_WRONG_FORMAT);
    CHECK(status_of(slots + 3 * frame_bytes) == TP_STATUS_SEND_REQUEST);
    fill(2, 5, ""); // shorter than a link header
    CHECK_FAILS(send(fd, nullptr, 0, 0), EINVAL);
    fill(2, 60, "later");
    CHECK(send(fd, nullptr, 0, 0) == 120);
    CHECK_FAILS(set(fd, PACKET_LOSS, 1), EBUSY);
    CHECK(munmap(received, 16384) == 0);
    // Without a ring to send, send(2) is what it was.
    const tpacket_req none{};
    CHECK(setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &none, sizeof none) == 0);
    CHECK_FAILS(send(fd, "x", 1, 0), EINVAL);
    CHECK(munmap(map(fd, 8192), 8192) == 0);
    close(fd);
}

} // namespace

int main() {
    own_network();
    what_cannot_be();
    frames_come();
    first_version();
    blocks_come();
    frames_go();
    return 0;
}
