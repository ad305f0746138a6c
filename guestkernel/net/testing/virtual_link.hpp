// A link between two stacks of a unit test, on a clock that the test moves: it delays, loses,
// reorders, duplicates and corrupts what passes, the same way for the same seed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "guestkernel/net/stack.hpp"

namespace kernel::net::testing {

struct LinkQuality {
    u64 delay_ns = 50'000;
    u64 jitter_ns = 0; // up to so much more: packets overtake each other
    u32 loss_per_million = 0;
    u32 duplicate_per_million = 0;
    u32 corrupt_per_million = 0; // one bit, somewhere in the frame
    u64 bits_per_second = 0;     // 0: at once
    u64 queue_bytes = 1 << 20;   // that wait for the link's rate; more are dropped
};

class VirtualLink;

class LinkEnd final : public Interface {
public:
    LinkEnd(std::string_view name, const MacAddress& mac, u32 mtu, u32 features);
    bool start_transmit(unsigned queue, PacketPtr& packet) override;
    VirtualLink* link = nullptr;
    unsigned side = 0;
};

class VirtualLink {
public:
    VirtualLink(VirtualClock& clock, u64 seed) : clock_(clock), state_(seed * 2 + 1) {}
    ~VirtualLink();
    void connect(LinkEnd& a, LinkEnd& b);
    LinkQuality quality[2]; // by the sending side
    struct Counts {
        u64 sent = 0, lost = 0, duplicated = 0, corrupted = 0, overflowed = 0, delivered = 0;
    };
    Counts counts[2];
    // Sees each frame that a side sends; may be null.
    void (*spy)(unsigned side, const Packet& packet, void* context) = nullptr;
    void* spy_context = nullptr;

private:
    friend class LinkEnd;
    struct Flight {
        VirtualLink* link;
        unsigned to;
        PacketPtr packet;
        std::unique_ptr<NetTimer> timer;
    };
    void send(unsigned side, PacketPtr packet);
    void launch(unsigned to, PacketPtr packet, u64 when);
    u64 next_random();
    bool chance(u32 per_million) { return next_random() % 1'000'000 < per_million; }
    VirtualClock& clock_;
    u64 state_;
    Ref<LinkEnd> ends_[2];
    u64 free_at_[2] = {};
    std::vector<Flight*> flying_;
};

// Moves the clock on until nothing is left to do or `until` is reached; works off backlogs.
void run(VirtualClock& clock, u64 until);

// Fresh memory and allocators for a test; registers the built-in protocols.
void reset_network(u64 ram_bytes = u64{256} << 20);

// Two stacks with a link between them: 10.0.0.1 and 10.0.0.2 (/24), fd00::1 and fd00::2 (/64).
struct Pair {
    VirtualClock clock;
    VirtualLink link;
    Ref<Stack> stacks[2];
    Ref<LinkEnd> ends[2];
    explicit Pair(u64 seed = 1, u32 mtu = 1500, u32 features = 0);
    ~Pair();
    void run_for(u64 ns) { run(clock, clock.now() + ns); }
};

IpAddress ip4(u8 a, u8 b, u8 c, u8 d);

} // namespace kernel::net::testing
