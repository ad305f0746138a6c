// The network stack with any frames at all: what a neighbour on the link can send. Headers of IP
// are put right in part of them, so that the input gets past the first checks; whatever comes, the
// stack must stay within its bounds of memory and answer nothing forever.
#include <cstdlib>
#include <vector>

#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/reassembly.hpp"
#include "guestkernel/net/socket_filter.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"
#include "tests/fuzz/guest_bytes.hpp"

using namespace kernel::net;

namespace {

constexpr std::uint64_t millisecond = 1'000'000;

// What the sender of a frame can put right: versions, lengths, addresses, sums.
void mend_ipv4(Packet& packet) {
    Ipv4Header header;
    if (!packet.read(0, header))
        return;
    header.version_length = static_cast<std::uint8_t>(0x40 | (header.version_length & 0xf));
    header.total_length.set(static_cast<std::uint16_t>(packet.length()));
    header.destination.set(0x0a00'0002);
    if (!packet.write(0, header))
        return;
    if (packet.linear(header.header_bytes()) != nullptr && header.header_bytes() >= sizeof header)
        set_header_checksum(packet, header.header_bytes());
}

void mend_ipv6(Packet& packet) {
    Ipv6Header header;
    if (!packet.read(0, header))
        return;
    header.version_class_label.set(6u << 28);
    header.payload_length.set(static_cast<std::uint16_t>(packet.length() - sizeof header));
    const IpAddress own = IpAddress::v6_words(0xfd00'0000'0000'0000, 2);
    __builtin_memcpy(header.destination, own.bytes(), sizeof header.destination);
    (void)packet.write(0, header);
}

void try_filter(fuzz::GuestBytes& bytes, const Packet& packet) {
    std::vector<FilterInstruction> program(bytes.take<std::uint8_t>() % 16 + 1);
    for (FilterInstruction& step : program)
        step = {bytes.take<std::uint16_t>(), bytes.take<std::uint8_t>(), bytes.take<std::uint8_t>(),
                bytes.take<std::uint32_t>()};
    if (auto filter = SocketFilter::make(program))
        (void)(*filter)->run(packet);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    testing::reset_network(std::uint64_t{64} << 20);
    testing::Pair net;
    net.stacks[1]->settings.forwarding4 = net.stacks[1]->settings.forwarding6 = true;
    net.stacks[1]->settings.fragment_high4 = net.stacks[1]->settings.fragment_high6 = 256 * 1024;
    fuzz::GuestBytes bytes(data, size);
    for (int frames = 0; !bytes.empty() && frames < 64; frames++) {
        const auto kind = bytes.take<std::uint8_t>();
        const auto content = bytes.take_bytes(bytes.take<std::uint16_t>() % 2000);
        PacketPtr packet = Packet::allocate(0);
        if (!packet || !packet->append(content.data(), static_cast<std::uint32_t>(content.size())))
            std::abort();
        if ((kind & 0x40) != 0)
            try_filter(bytes, *packet);
        if ((kind & 3) == 0)
            mend_ipv4(*packet);
        if ((kind & 3) == 1)
            mend_ipv6(*packet);
        EthernetHeader link{};
        link.destination = (kind & 0x10) != 0 ? MacAddress::broadcast() : net.ends[1]->mac();
        link.source = net.ends[0]->mac();
        link.protocol.set((kind & 3) == 0 ? ether_ip : (kind & 3) == 1 ? ether_ipv6 : ether_arp);
        packet->push_header(link);
        if ((kind & 0x20) != 0)
            packet->checksum_state = ChecksumState::Verified;
        net.ends[1]->receive(std::move(packet));
        net.run_for(((kind & 0x80) != 0 ? 1000 : 1) * millisecond);
        if (net.stacks[1]->reassembly().memory() > 512 * 1024 ||
            net.stacks[1]->neighbours().count(false) > 1024 ||
            net.stacks[1]->neighbours().count(true) > 1024)
            std::abort();
    }
    return 0;
}
