#include "guestkernel/net/testing/virtual_link.hpp"

#include <cstdlib>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/inet_socket.hpp"

namespace kernel::net::testing {

LinkEnd::LinkEnd(std::string_view name, const MacAddress& mac, u32 mtu, u32 features)
    : Interface(name, LinkType::Ethernet, mtu) {
    mac_ = mac;
    features_ = features;
    set_carrier(true);
}

bool LinkEnd::start_transmit(unsigned, PacketPtr& packet) {
    if (link != nullptr)
        link->send(side, std::move(packet));
    packet = {};
    return true;
}

VirtualLink::~VirtualLink() {
    for (Flight* flight : flying_)
        delete flight;
    for (const Ref<LinkEnd>& end : ends_) {
        if (end)
            end->link = nullptr;
    }
}

void VirtualLink::connect(LinkEnd& a, LinkEnd& b) {
    ends_[0] = Ref<LinkEnd>::share(&a);
    ends_[1] = Ref<LinkEnd>::share(&b);
    a.link = b.link = this;
    a.side = 0;
    b.side = 1;
}

u64 VirtualLink::next_random() { // xorshift64*
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (state_ * 0x2545'f491'4f6c'dd1d) >> 16;
}

void VirtualLink::launch(unsigned to, PacketPtr packet, u64 when) {
    auto* flight = new Flight{this, to, std::move(packet), nullptr};
    flight->timer = std::make_unique<NetTimer>(
        StackClock(clock_),
        [](NetTimer&, void* argument) {
            auto* arrived = static_cast<Flight*>(argument);
            VirtualLink& link = *arrived->link;
            std::erase(link.flying_, arrived);
            link.counts[1 - arrived->to].delivered++;
            link.ends_[arrived->to]->receive(std::move(arrived->packet));
            delete arrived;
        },
        flight);
    flying_.push_back(flight);
    flight->timer->arm(when);
}

// As it would be on a wire: bytes and nothing else.
static PacketPtr wire_copy(const Packet& packet) {
    PacketPtr copy = Packet::allocate(packet.length() < 1500 ? packet.length() : 0, 64);
    std::vector<u8> bytes(packet.length());
    if (!copy || !packet.copy_out(0, bytes.data(), packet.length()) ||
        !copy->append(bytes.data(), packet.length()))
        std::abort();
    // What a device with offloads hands over is marked so.
    copy->checksum_state = packet.checksum_state == ChecksumState::None ? ChecksumState::None
                                                                        : ChecksumState::Verified;
    return copy;
}

void VirtualLink::send(unsigned side, PacketPtr packet) {
    const LinkQuality& is = quality[side];
    Counts& seen = counts[side];
    seen.sent++;
    if (spy != nullptr)
        spy(side, *packet, spy_context);
    if (chance(is.loss_per_million)) {
        seen.lost++;
        return;
    }
    u64 start = clock_.now();
    if (is.bits_per_second != 0) {
        if (free_at_[side] > start) {
            const u64 waiting = (free_at_[side] - start) * is.bits_per_second / 8 / 1'000'000'000;
            if (waiting > is.queue_bytes) {
                seen.overflowed++;
                return;
            }
            start = free_at_[side];
        }
        start += u64{packet->length()} * 8 * 1'000'000'000 / is.bits_per_second;
        free_at_[side] = start;
    }
    const auto when = [&] {
        return start + is.delay_ns + (is.jitter_ns == 0 ? 0 : next_random() % is.jitter_ns);
    };
    const bool whole = packet->segmentation != Segmentation::None;
    PacketPtr copy = whole ? std::move(packet) : wire_copy(*packet);
    if (!whole && chance(is.corrupt_per_million)) {
        seen.corrupted++;
        const u32 at = static_cast<u32>(next_random() % copy->length());
        u8 byte = 0;
        if (copy->read(at, byte)) {
            byte = static_cast<u8>(byte ^ 1u << next_random() % 8);
            (void)copy->write(at, byte);
        }
        copy->checksum_state = ChecksumState::None;
    }
    if (!whole && chance(is.duplicate_per_million)) {
        seen.duplicated++;
        launch(1 - side, wire_copy(*copy), when());
    }
    launch(1 - side, std::move(copy), when());
}

void run(VirtualClock& clock, u64 until) {
    for (;;) {
        while (backlog_pending())
            run_backlog();
        const u64 next = clock.next_deadline();
        if (next > until)
            break;
        clock.advance_to(next);
    }
    clock.advance_to(until);
}

void reset_network(u64 ram_bytes) {
    hosted::reset(ram_bytes);
    hosted::set_cpu(0);
    hosted::set_cpu_count(1);
    reset_packet_pool_for_test();
    reset_payload_blocks_for_test();
    register_protocols();
}

IpAddress ip4(u8 a, u8 b, u8 c, u8 d) {
    return IpAddress::v4(u32{a} << 24 | u32{b} << 16 | u32{c} << 8 | d);
}

Pair::Pair(u64 seed, u32 mtu, u32 features) : link(clock, seed) {
    for (u8 side = 0; side < 2; side++) {
        auto stack = Stack::make(StackClock(clock), nullptr);
        auto end = make_ref<LinkEnd>(
            "eth%d", MacAddress{{2, 0, 0, 0, 0, static_cast<u8>(side + 1)}}, mtu, features);
        if (!stack || !end)
            std::abort();
        stacks[side] = std::move(*stack);
        ends[side] = std::move(*end);
        ends[side]->settings.accept_dad = 0;
        if (!stacks[side]->attach(ends[side]))
            std::abort();
        ends[side]->settings.accept_dad = 0;
    }
    link.connect(*ends[0], *ends[1]);
    for (u8 side = 0; side < 2; side++) {
        Stack& stack = *stacks[side];
        InterfaceAddress address;
        address.address = address.peer = ip4(10, 0, 0, static_cast<u8>(side + 1));
        address.broadcast = ip4(10, 0, 0, 255);
        address.prefix_length = 24;
        InterfaceAddress six;
        six.address = six.peer = IpAddress::v6_words(0xfd00'0000'0000'0000, u64{side} + 1);
        six.broadcast = IpAddress();
        six.prefix_length = 64;
        if (!stack.set_flags(stack.loopback(), iff_up, iff_up) ||
            !stack.set_flags(*ends[side], iff_up, iff_up) ||
            !stack.add_address(*ends[side], address) || !stack.add_address(*ends[side], six) ||
            !stack.join_group(*ends[side], IpAddress::v6_words(0xff02'0000'0000'0000,
                                                               0x1'ff00'0000 + u64{side} + 1)))
            std::abort();
    }
}

Pair::~Pair() {
    for (unsigned side = 0; side < 2; side++) {
        stacks[side]->shutdown();
        stacks[side] = {};
    }
}

} // namespace kernel::net::testing
