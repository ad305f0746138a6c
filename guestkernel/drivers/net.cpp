// virtio-net (virtio 1.2, 5.1) for the stack. What it saves is exits and copies:
//   - the device is told of packets only when it sleeps (event index), and takes segments of 64 KB;
//   - sent packets are not missed: they are freed when their descriptors are needed, and their
//     sockets do not wait for that. An interrupt is asked for only while packets wait for room;
//   - received packets stay in the pages that the device filled, all but their headers; interrupts
//     are off while there is something to do.
//
// Locks: transmit queues are under Interface's queue lock (NetQueue), receive queues under a lock
// of their own (Device), which is not held while the stack has the packets.
#include "guestkernel/drivers/net.hpp"

#include <new>

#include <linux/errno.h>
#include <linux/virtio_ids.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/drivers/virtio_mmio.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/offload_header.hpp"
#include "guestkernel/net/route.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/sched/work.hpp"

namespace kernel {

namespace {

// linux/virtio_net.h is not valid C++; virtio 1.2, 5.1.3 and 5.1.6.
enum Feature : unsigned {
    feature_csum = 0,
    feature_guest_csum = 1,
    feature_mtu = 3,
    feature_mac = 5,
    feature_guest_tso4 = 7,
    feature_guest_tso6 = 8,
    feature_host_tso4 = 11,
    feature_host_tso6 = 12,
    feature_mrg_rxbuf = 15,
    feature_status = 16,
    feature_ctrl_vq = 17,
    feature_mq = 22,
};
constexpr u64 bit(Feature feature) {
    return u64{1} << feature;
}
constexpr u64 wanted_features = bit(feature_csum) | bit(feature_guest_csum) | bit(feature_mtu) |
                                bit(feature_mac) | bit(feature_guest_tso4) |
                                bit(feature_guest_tso6) | bit(feature_host_tso4) |
                                bit(feature_host_tso6) | bit(feature_mrg_rxbuf) |
                                bit(feature_status) | bit(feature_ctrl_vq) | bit(feature_mq);

struct Header { // struct virtio_net_hdr
    net::OffloadHeader offloads;
    u16 num_buffers;
};
static_assert(sizeof(Header) == 12);

constexpr u32 config_status = 6, config_max_pairs = 8, config_mtu = 10;
constexpr u16 link_up = 1;

// Pages that wait for packets: 256 take 15 segments of 64 KB, or 256 small packets.
constexpr u16 receive_size = 256, transmit_size = 256, control_size = 4;
constexpr unsigned batch = 64;
// Then others have their turn: a flood must not keep a CPU in here for ever.
constexpr unsigned batches_at_once = 16;
// When to look again whether there is memory for the pages that are missing.
constexpr u64 refill_delay = nanoseconds_per_second / 10;
// Smaller packets are copied whole, so that they do not pin a page each; of larger ones so much is
// copied that all headers are in one piece.
constexpr u32 copied_whole = 512, copied_head = 192;

struct NetPair {
    Virtqueue receive, transmit;
    SpinLock receive_lock{LockRank::Device};
    FrameRef spare; // of a packet that was copied: goes back into the ring; under receive_lock
    volatile bool lacks_pages = false; // written under receive_lock
    net::PacketList sent; // their descriptors came back; under the interface's queue lock
};

class NetDevice final : public net::Interface {
public:
    NetDevice(u32 mtu, unsigned pairs, const net::StackClock& clock)
        : Interface("eth%d", net::LinkType::Ethernet, mtu, pairs), clock_(clock),
          refill_(clock, refill_due, this) {}

    bool start_transmit(unsigned queue, net::PacketPtr& packet) override;
    void flush_transmit(unsigned queue) override;
    std::string_view driver() const override { return "virtio_net"; }

    Result<void> set_up(const VirtioSlot& slot);
    void serve();

private:
    static void serve_later(void* self) { static_cast<NetDevice*>(self)->serve(); }
    static void refill_due(net::NetTimer&, void* self) {
        (void)queue_work(static_cast<NetDevice*>(self)->rest_);
    }
    void choose_features();
    Result<void> activate_pairs();
    void look_at_link();

    void reclaim_locked(NetPair& pair);
    bool room_locked(NetPair& pair, usize descriptors);

    bool receive_batches(NetPair& pair);
    unsigned take_batch(NetPair& pair, net::PacketList& packets);
    net::PacketPtr take_packet(NetPair& pair, const Virtqueue::Used& first);
    bool append_buffer(net::Packet& packet, FrameRef buffer, u32 offset, u32 bytes);
    void fill_locked(NetPair& pair);
    void refill_later();

    VirtioDevice device_;
    Virtqueue control_;
    NetPair pairs_[max_queues];
    Work rest_{serve_later, this};
    const net::StackClock clock_;
    SpinLock refill_lock_{LockRank::Leaf}; // of arming it
    net::NetTimer refill_;
    bool merges_buffers_ = false;
};

// --- out

void NetDevice::reclaim_locked(NetPair& pair) {
    Virtqueue::Used used;
    while (pair.transmit.take_used(used))
        pair.sent.push_back(net::PacketPtr(static_cast<net::Packet*>(used.token)));
}

// Looks for free descriptors, and asks for an interrupt if there are too few.
bool NetDevice::room_locked(NetPair& pair, usize descriptors) {
    if (pair.transmit.free_descriptors() >= descriptors)
        return true;
    for (;;) {
        reclaim_locked(pair);
        if (pair.transmit.free_descriptors() >= descriptors) {
            pair.transmit.disable_interrupts();
            return true;
        }
        if (pair.transmit.broken() || pair.transmit.enable_interrupts())
            return false;
    }
}

bool NetDevice::start_transmit(unsigned queue, net::PacketPtr& packet) {
    NetPair& pair = pairs_[queue];
    if (!room_locked(pair, 1 + packet->fragments().size())) {
        if (!pair.transmit.broken())
            return false;
        net::count(counters.tx_errors);
        packet = {};
        return true;
    }
    const Header header{net::describe_offloads(*packet), 0};
    packet = net::Packet::with_headroom(std::move(packet), sizeof header);
    if (!packet) {
        net::count(counters.tx_dropped);
        return true;
    }
    packet->push_header(header);
    DeviceSegment segments[1 + net::Packet::max_fragments];
    usize count = 0;
    segments[count++] = device_segment(packet->data(), packet->linear_length());
    for (const net::Fragment& fragment : packet->fragments())
        segments[count++] = device_segment(fragment.data(), fragment.length);
    // Its socket may go on: when the device is done with it is the device's affair.
    packet->release_charge();
    if (pair.transmit.submit({segments, count}, {}, packet.get()))
        packet.leak();
    packet = {};
    return true;
}

void NetDevice::flush_transmit(unsigned queue) {
    NetPair& pair = pairs_[queue];
    bool notify = false;
    net::PacketList sent;
    {
        SpinGuard guard(queue_lock(queue));
        notify = pair.transmit.needs_notification();
        // Not at each packet: half a ring may lie there.
        if (pair.transmit.free_descriptors() < transmit_size / 2)
            reclaim_locked(pair);
        sent = std::move(pair.sent);
    }
    if (notify)
        pair.transmit.notify_now();
}

// --- in

void NetDevice::fill_locked(NetPair& pair) {
    while (pair.receive.free_descriptors() > 0) {
        FrameRef frame = std::move(pair.spare);
        // Nobody's: whoever happens to run while the ring is filled may be of a group that is at
        // its limit, and would keep all others from receiving.
        if (!frame)
            frame = FrameRef::adopt(alloc_frames(0, false, Charge::None));
        if (!frame)
            return; // the next packet tries again, or the timer
        const DeviceSegment room[] = {{frame_to_phys(*frame), static_cast<u32>(page_size)}};
        if (!pair.receive.submit({}, room, frame.get()))
            return;
        frame.leak();
    }
}

// Appends what is in one buffer.
bool NetDevice::append_buffer(net::Packet& packet, FrameRef buffer, u32 offset, u32 bytes) {
    if (bytes == 0)
        return true;
    return packet.append_fragment(buffer, offset, bytes);
}

// The packet that begins in this buffer, with all the buffers that belong to it. Null: dropped.
net::PacketPtr NetDevice::take_packet(NetPair& pair, const Virtqueue::Used& first) {
    FrameRef buffer = FrameRef::adopt(static_cast<Frame*>(first.token));
    Header header = {};
    unsigned more = 0;
    if (first.written >= sizeof header) {
        __builtin_memcpy(&header, buffer.data(), sizeof header);
        more = merges_buffers_ && header.num_buffers > 0 ? header.num_buffers - 1u : 0;
    }
    constexpr auto header_bytes = static_cast<u32>(sizeof header);
    const u32 bytes = first.written > header_bytes ? first.written - header_bytes : 0;
    const u32 head = more == 0 && bytes <= copied_whole ? bytes
                     : bytes < copied_head              ? bytes
                                                        : copied_head;
    net::PacketPtr packet = net::Packet::allocate(head);
    bool whole = bytes > 0 && packet;
    if (whole) {
        __builtin_memcpy(packet->put(head), buffer.data() + sizeof header, head);
        if (head == bytes)
            pair.spare = std::move(buffer);
        else
            whole = append_buffer(*packet, std::move(buffer), header_bytes + head, bytes - head);
    }
    // The others are taken in any case: the ring must not get out of step.
    for (; more > 0; more--) {
        Virtqueue::Used next;
        if (!pair.receive.take_used(next))
            return {};
        buffer = FrameRef::adopt(static_cast<Frame*>(next.token));
        whole = whole && append_buffer(*packet, std::move(buffer), 0, next.written);
    }
    if (!whole || !net::apply_offloads(header.offloads, *packet))
        return {};
    return packet;
}

// The last page may be gone: no packet comes into an empty ring, whose interrupt would fill it.
void NetDevice::refill_later() {
    SpinGuard guard(refill_lock_);
    if (!refill_.pending())
        refill_.arm(clock_.now() + refill_delay);
}

unsigned NetDevice::take_batch(NetPair& pair, net::PacketList& packets) {
    SpinGuard guard(pair.receive_lock);
    Virtqueue::Used used;
    unsigned taken = 0;
    for (; taken < batch && pair.receive.take_used(used); taken++) {
        if (net::PacketPtr packet = take_packet(pair, used))
            packets.push_back(std::move(packet));
        else
            net::count(counters.rx_dropped);
    }
    fill_locked(pair);
    pair.lacks_pages = pair.receive.free_descriptors() > 0 && !pair.receive.broken();
    return taken;
}

// False: there is more, but others have waited long enough.
bool NetDevice::receive_batches(NetPair& pair) {
    for (unsigned batches = 0; batches < batches_at_once; batches++) {
        net::PacketList packets;
        const unsigned taken = take_batch(pair, packets);
        receive(std::move(packets));
        bool notify = false;
        bool done = false;
        {
            SpinGuard guard(pair.receive_lock);
            notify = pair.receive.needs_notification();
            if (taken < batch)
                done = pair.receive.enable_interrupts() || pair.receive.broken();
            if (!done)
                pair.receive.disable_interrupts();
        }
        if (notify)
            pair.receive.notify_now();
        if (done)
            return true;
    }
    return false;
}

void NetDevice::serve() {
    bool done = true, lacking = false;
    for (unsigned i = 0; i < queue_count(); i++) {
        done = receive_batches(pairs_[i]) && done;
        lacking = pairs_[i].lacks_pages || lacking;
        // Sends what waits for room, if any does; reclaims on the way.
        wake_queue(i);
    }
    look_at_link();
    if (!done)
        (void)queue_work(rest_); // or it is queued already
    else if (lacking)
        refill_later();
}

void NetDevice::look_at_link() {
    if (device_.has_feature(feature_status))
        set_carrier((device_.config16(config_status) & link_up) != 0);
}

// --- set-up

void NetDevice::choose_features() {
    features_ = net::feature_fragments;
    if (device_.has_feature(feature_csum)) {
        features_ |= net::feature_checksum;
        features_ |= device_.has_feature(feature_host_tso4) ? u32{net::feature_tso4} : 0;
        features_ |= device_.has_feature(feature_host_tso6) ? u32{net::feature_tso6} : 0;
    }
    merges_buffers_ = device_.has_feature(feature_mrg_rxbuf);
}

// One pair works without a word; more are asked for.
Result<void> NetDevice::activate_pairs() {
    if (queue_count() == 1)
        return {};
    struct Command {
        u8 command_class, command;
        u16 pairs;
        u8 answer;
    };
    // A page for the few bytes: a task's stack need not be physically contiguous.
    FrameRef page = FrameRef::adopt(alloc_zeroed_frame());
    if (!page)
        return fail(ENOMEM);
    auto* command = new (page.data())
        Command{4, 0, static_cast<u16>(queue_count()), 1}; // VIRTIO_NET_CTRL_MQ, VQ_PAIRS_SET
    const DeviceSegment question[] = {device_segment(&command->command_class, 2),
                                      device_segment(&command->pairs, 2)};
    const DeviceSegment answer[] = {device_segment(&command->answer, 1)};
    if (!control_.submit(question, answer, command))
        return fail(ENOBUFS);
    control_.notify(); // inline: answered when this returns
    Virtqueue::Used used;
    if (!control_.take_used(used)) {
        page.leak(); // the device may still write to it
        return fail(EIO);
    }
    if (command->answer != 0)
        return fail(EIO);
    return {};
}

Result<void> NetDevice::set_up(const VirtioSlot& slot) {
    TRY(device_.open(PhysAddr(slot.phys), slot.vector, VIRTIO_ID_NET, wanted_features));
    // Without this a packet of 64 KB would need a buffer of that size, and without checksums we
    // could not tell good ones from bad ones for free: our own VMM has both.
    if (!device_.has_feature(feature_mrg_rxbuf))
        return fail(EOPNOTSUPP);
    choose_features();
    if (device_.has_feature(feature_mac))
        device_.read_config(0, mac_.bytes, sizeof mac_.bytes);
    const bool several = device_.has_feature(feature_mq) && device_.has_feature(feature_ctrl_vq);
    const u16 offered = several ? device_.config16(config_max_pairs) : u16{1};
    for (unsigned i = 0; i < queue_count(); i++) {
        TRY(device_.setup_queue(pairs_[i].receive, static_cast<u16>(2 * i), receive_size));
        TRY(device_.setup_queue(pairs_[i].transmit, static_cast<u16>(2 * i + 1), transmit_size));
    }
    if (queue_count() > 1)
        TRY(device_.setup_queue(control_, static_cast<u16>(2 * offered), control_size));
    TRY(device_.start());
    TRY(activate_pairs());
    for (unsigned i = 0; i < queue_count(); i++) {
        SpinGuard guard(pairs_[i].receive_lock);
        fill_locked(pairs_[i]); // serve() asks for interrupts, once somebody hears them
    }
    for (unsigned i = 0; i < queue_count(); i++)
        pairs_[i].receive.notify();
    look_at_link();
    return {};
}

// As many pairs as CPUs could use, if the device has them.
unsigned pairs_to_use(const VirtioSlot& slot) {
    u16 offered = 1;
    VirtioDevice::peek_config(PhysAddr(slot.phys), config_max_pairs, &offered, sizeof offered);
    unsigned pairs = arch::cpu_count();
    pairs = pairs < offered ? pairs : offered;
    pairs = pairs < net::Interface::max_queues ? pairs : net::Interface::max_queues;
    return pairs > 0 ? pairs : 1;
}

// --- what the boot parameters say

net::IpAddress to_address(u8 version, const u8* bytes) {
    return net::IpAddress::from_wire(version == 6, bytes);
}

Result<void> add_address(net::Stack& stack, net::Interface& interface,
                         const boot::NetworkAddress& given) {
    net::InterfaceAddress address;
    address.address = address.peer = to_address(given.version, given.bytes);
    address.prefix_length = given.prefix;
    if (given.version == 4 && given.prefix < 31)
        address.broadcast = net::IpAddress::v4(
            static_cast<u32>(address.address.v4_value() | (~u64{0} >> 32 >> given.prefix)));
    TRY(stack.add_address(interface, address));
    // Others ask for it there; without, they find the machine only when it has spoken to them.
    if (address.address.is_v6())
        TRY(stack.join_group(interface, net::solicited_node(address.address)));
    return {};
}

Result<void> add_boot_route(net::Stack& stack, net::Interface& interface,
                            const boot::NetworkRoute& given) {
    TRY(Owned<net::Route> route, make_owned<net::Route>());
    const u8 version = given.destination.version;
    route->prefix = to_address(version, given.destination.bytes).prefix(given.destination.prefix);
    route->length = given.destination.prefix;
    net::NextHop hop;
    hop.interface = Ref<net::Interface>::share(&interface);
    hop.gateway = to_address(version, given.gateway);
    route->scope = hop.has_gateway() ? net::scope_universe : net::scope_link;
    TRY(route->hops.push_back(std::move(hop)));
    return net::add_route(stack, std::move(route), net::RouteTables::AddMode::Exclusive);
}

void configure(net::Stack& stack, net::Interface& interface) {
    // Where nobody else can have the address there is nothing to probe for, and a program that
    // starts at once must be able to use it.
    interface.settings.accept_dad = 0;
    const BootConfig& config = boot_config();
    // Told of its router, it need not ask for one, nor take more addresses than it was given.
    for (const boot::NetworkRoute& route : config.network_routes())
        if (route.destination.version == 6 && route.destination.prefix == 0)
            interface.settings.accept_ra = 0;
    if (auto up = stack.set_flags(interface, net::iff_up, net::iff_up); !up)
        log::warning("{} stays down: error {}", interface.name(), up.error().code);
    for (const boot::NetworkAddress& address : config.network_addresses())
        if (auto added = add_address(stack, interface, address); !added)
            log::warning("{}: an address is refused: error {}", interface.name(),
                         added.error().code);
    for (const boot::NetworkRoute& route : config.network_routes())
        if (auto added = add_boot_route(stack, interface, route); !added)
            log::warning("{}: a route is refused: error {}", interface.name(), added.error().code);
}

} // namespace

Result<Ref<net::Interface>> open_net_device(const VirtioSlot& slot, net::Stack& stack) {
    // serve() leaves to it what is more than a turn's worth: with nobody to run that, interrupts
    // would stay off for good.
    TRY(start_work_queue());
    u16 mtu = 0;
    VirtioDevice::peek_config(PhysAddr(slot.phys), config_mtu, &mtu, sizeof mtu);
    constexpr u16 usual = 1500, least = 68;
    TRY(Ref<NetDevice> device,
        make_ref<NetDevice>(mtu >= least ? mtu : usual, pairs_to_use(slot), stack.clock));
    TRY(device->set_up(slot));
    TRY(stack.attach(Ref<net::Interface>(device)));
    arch::register_device_interrupt(
        slot.vector, [](void* self) { static_cast<NetDevice*>(self)->serve(); }, device.get());
    // What the link brought since the queues were there interrupted nobody, and what comes after it
    // would not either before it is taken.
    device->serve();
    device->add_ref(); // the interrupt's: it lives as long as the machine
    return Ref<net::Interface>(std::move(device));
}

void serve_net_device(net::Interface& interface) {
    static_cast<NetDevice&>(interface).serve();
}

void init_net_device() {
    const BootConfig& config = boot_config();
    for (u32 i = 0; i < config.device_count; i++) {
        if (VirtioDevice::identify(PhysAddr(config.devices[i].phys)) != VIRTIO_ID_NET)
            continue;
        net::Stack& stack = net::stack_of(nullptr);
        auto interface = open_net_device(config.devices[i], stack);
        if (interface)
            configure(stack, **interface);
        else
            log::warning("the network device does not work: error {}", interface.error().code);
        return;
    }
}

} // namespace kernel
