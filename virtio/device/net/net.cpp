#include "virtio/device/net/net.hpp"

#include <algorithm>
#include <cassert>
#include <cstddef>

#include <linux/virtio_ids.h>

#include "virtio/device/net/pair.hpp"

namespace virtio {

namespace {

constexpr std::uint16_t control_queue_size = 16;

// What a driver can change with VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: the bits are the features'.
constexpr std::uint64_t guest_offloads =
    net_bit(net_feature_guest_csum) | net_bit(net_feature_guest_tso4) |
    net_bit(net_feature_guest_tso6) | net_bit(net_feature_guest_ecn) |
    net_bit(net_feature_guest_uso4) | net_bit(net_feature_guest_uso6);

DeviceInfo describe_net(const NetBackend& backend, const NetOptions& options) {
    const unsigned pairs = backend.pairs();
    DeviceInfo info;
    info.id = VIRTIO_ID_NET;
    for (const NetFeature feature :
         {net_feature_mac, net_feature_mtu, net_feature_status, net_feature_mrg_rxbuf,
          net_feature_ctrl_vq, net_feature_ctrl_rx, net_feature_ctrl_rx_extra,
          net_feature_ctrl_vlan, net_feature_ctrl_mac_addr, net_feature_guest_announce})
        info.features |= net_bit(feature);
    info.features |= backend.offloads();
    if ((backend.offloads() & guest_offloads) != 0)
        info.features |= net_bit(net_feature_ctrl_guest_offloads);
    if (pairs > 1)
        info.features |= net_bit(net_feature_mq);
    info.queues.assign(2 * std::size_t{pairs}, {options.queue_size, NotifyStyle::Eventfd});
    info.queues.push_back({control_queue_size, NotifyStyle::Inline});

    const NetConfig config{.mac = options.mac,
                           .status = net_link_up,
                           .max_pairs = static_cast<std::uint16_t>(pairs),
                           .mtu = options.mtu};
    const auto bytes = std::as_bytes(std::span(&config, 1));
    info.config.assign(bytes.begin(), bytes.end());
    return info;
}

// 5.1.6.5.2: the number of entries, then the entries. Too many: all of them, for all we know.
bool read_addresses(ChainReader& data, std::vector<MacAddress>& list, bool& overflow) {
    const auto count = data.read_object<std::uint32_t>();
    if (!count || std::uint64_t{*count} * sizeof(MacAddress) > data.remaining())
        return false;
    overflow = *count > ReceiveFilter::max_entries;
    if (overflow)
        return data.skip(std::uint64_t{*count} * sizeof(MacAddress));
    for (std::uint32_t i = 0; i < *count; ++i) {
        const auto address = data.read_object<MacAddress>();
        if (!address)
            return false;
        list.push_back(*address);
    }
    return true;
}

} // namespace

Net::Net(NetBackend& backend, std::span<EventLoop* const> loops, const NetOptions& options)
    : Device(describe_net(backend, options)), backend_(backend), options_(options) {
    assert(loops.size() == backend.pairs());
    for (std::uint32_t i = 0; i < backend.pairs(); ++i)
        pairs_.push_back(std::make_unique<Pair>(*this, i, *loops[i], backend.port(i)));
}

Net::~Net() = default;

EventLoop* Net::event_loop(std::uint32_t queue_index) {
    const std::uint32_t pair = std::min(queue_index / 2, pair_count() - 1);
    return &pairs_[pair]->loop();
}

NetCounters Net::counters() const {
    NetCounters sum;
    for (const auto& pair : pairs_)
        pair->add_to(sum);
    return sum;
}

void Net::on_activate() {
    std::uint64_t offloads = features() & guest_offloads;
    // 5.1.3.1: the others need it. A driver that forgets gets whole packets.
    if (!negotiated(net_feature_guest_csum))
        offloads = 0;
    guest_offloads_.store(offloads, std::memory_order_relaxed);
    active_pairs_.store(1, std::memory_order_relaxed);
    filter_.with([&](ReceiveFilter& filter) {
        filter.reset(options_.mac, negotiated(net_feature_ctrl_vlan));
    });
    apply_on_loop();
}

void Net::on_reset() {
    for (const auto& pair : pairs_)
        pair->reset();
}

// Tells the backend what the driver wants, then has the pairs listen: in this order, since a queue
// that is not attached yet has nothing to say.
void Net::apply_on_loop() {
    // One task waits: a guest gives commands faster than the host's kernel carries them out.
    if (apply_posted_.exchange(true))
        return;
    pairs_[0]->loop().post([this, alive = std::weak_ptr<bool>(alive_)] {
        if (alive.expired())
            return;
        apply_posted_.store(false);
        backend_.set_guest_offloads(guest_offloads_.load(std::memory_order_relaxed));
        backend_.set_active_pairs(active_pairs_.load(std::memory_order_relaxed));
        for (const auto& pair : pairs_)
            pair->start_later();
    });
}

Checked<void> Net::on_notify(std::uint32_t queue_index) {
    // 5.1.2: without MQ the control queue comes third, whatever could have been.
    const std::uint32_t control = negotiated(net_feature_mq) ? control_queue() : 2;
    if (queue_index == control)
        return serve_control();
    if (queue_index >= net_receive_queue(pair_count()))
        return {};
    return pairs_[queue_index / 2]->run();
}

// ---- the control queue -----------------------------------------------------------------------

Checked<void> Net::serve_control() {
    const std::uint32_t index = negotiated(net_feature_mq) ? control_queue() : 2;
    Queue* const ring = queue(index);
    if (ring == nullptr) // another driver than the one that gave the commands
        return {};
    Queue& commands = *ring;
    for (unsigned served = 0;; ++served) {
        // At most one round of the ring: another vCPU that goes on adding must not keep this one
        // here. The loop takes the rest, for which no notification was asked.
        if (served == commands.size()) {
            control_later();
            break;
        }
        TRY(Chain chain, commands.pop());
        if (!chain)
            break;
        ChainReader data(chain);
        const auto head = data.read_object<NetControlHead>();
        ChainWriter answer(chain);
        const bool done = head && execute(*head, data);
        if (!answer.write_object(done ? net_control_ok : net_control_error))
            return fault(FaultKind::Request, chain.writable_bytes(),
                         static_cast<std::uint16_t>(index));
        commands.push_used(std::move(chain), 1);
    }
    commands.interrupt_driver();
    return {};
}

void Net::control_later() {
    if (control_posted_.exchange(true))
        return;
    pairs_[0]->loop().post([this, alive = std::weak_ptr<bool>(alive_)] {
        if (alive.expired())
            return;
        control_posted_.store(false);
        const Gate::Pass pass(gate());
        if (!pass)
            return;
        if (const Checked<void> done = serve_control(); !done)
            report(done.error());
    });
}

bool Net::execute(const NetControlHead& head, ChainReader& data) {
    switch (head.command_class) {
    case net_class_rx: {
        const auto on = data.read_object<std::uint8_t>();
        const bool extra = head.command > net_rx_all_multicast;
        return on && negotiated(extra ? net_feature_ctrl_rx_extra : net_feature_ctrl_rx) &&
               filter_.with(
                   [&](ReceiveFilter& filter) { return filter.set_mode(head.command, *on != 0); });
    }
    case net_class_mac:
        return set_mac(head.command, data);
    case net_class_vlan: {
        const auto id = data.read_object<std::uint16_t>();
        return id && head.command <= net_vlan_remove && negotiated(net_feature_ctrl_vlan) &&
               filter_.with([&](ReceiveFilter& filter) {
                   return filter.set_vlan(*id, head.command == net_vlan_add);
               });
    }
    case net_class_announce:
        if (head.command != net_announce_ack || !negotiated(net_feature_guest_announce))
            return false;
        update_status(0, net_announce);
        return true;
    case net_class_mq:
        return head.command == net_mq_pairs_set && set_pairs(data);
    case net_class_offloads:
        return head.command == net_offloads_set && set_offloads(data);
    default:
        return false;
    }
}

bool Net::set_mac(std::uint8_t command, ChainReader& data) {
    if (command == net_mac_address_set) {
        const auto mac = data.read_object<MacAddress>();
        if (!mac || ((*mac)[0] & 1) != 0 || !negotiated(net_feature_ctrl_mac_addr))
            return false;
        filter_.with([&](ReceiveFilter& filter) { filter.set_mac(*mac); });
        return true;
    }
    if (command != net_mac_table_set || !negotiated(net_feature_ctrl_rx))
        return false;
    std::vector<MacAddress> unicast;
    std::vector<MacAddress> multicast;
    bool unicast_overflow = false;
    bool multicast_overflow = false;
    if (!read_addresses(data, unicast, unicast_overflow) ||
        !read_addresses(data, multicast, multicast_overflow))
        return false;
    filter_.with([&](ReceiveFilter& filter) {
        filter.set_unicast(unicast, unicast_overflow);
        filter.set_multicast(multicast, multicast_overflow);
    });
    return true;
}

bool Net::set_pairs(ChainReader& data) {
    const auto count = data.read_object<std::uint16_t>();
    if (!count || *count < 1 || *count > pair_count() || !negotiated(net_feature_mq))
        return false;
    active_pairs_.store(*count, std::memory_order_relaxed);
    apply_on_loop();
    return true;
}

bool Net::set_offloads(ChainReader& data) {
    const auto wanted = data.read_object<std::uint64_t>();
    const std::uint64_t possible = features() & guest_offloads;
    if (!wanted || (*wanted & ~possible) != 0 || !negotiated(net_feature_ctrl_guest_offloads))
        return false;
    guest_offloads_.store((*wanted & net_bit(net_feature_guest_csum)) != 0 ? *wanted : 0,
                          std::memory_order_relaxed);
    apply_on_loop();
    return true;
}

// ---- the configuration space -------------------------------------------------------------------

void Net::update_status(std::uint16_t set, std::uint16_t clear) {
    status_.with([&](std::uint16_t& status) {
        status = static_cast<std::uint16_t>((status | set) & ~clear);
        update_config(offsetof(NetConfig, status), std::as_bytes(std::span(&status, 1)));
    });
}

void Net::set_link(bool up) {
    update_status(up ? net_link_up : 0, up ? 0 : net_link_up);
}

void Net::announce() {
    update_status(net_announce, 0);
}

} // namespace virtio
