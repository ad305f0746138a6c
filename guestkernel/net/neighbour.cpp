#include "guestkernel/net/neighbour.hpp"

#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

Neighbour::Neighbour(Stack& stack, Ref<Interface> on, const IpAddress& of)
    : interface(std::move(on)), address(of), stack_(stack), timer_(stack.clock, expired, this) {
    updated_ = confirmed_ = stack.now();
    used_.store(updated_);
}

Neighbour::~Neighbour() {
    ASSERT(!in_timer_);
}

u64 Neighbour::pack(const MacAddress& mac) {
    u64 out = 0;
    __builtin_memcpy(&out, mac.bytes, sizeof mac.bytes);
    return out;
}

namespace {

bool reachable_state(NeighbourState state) {
    return state == NeighbourState::Reachable || state == NeighbourState::NoArp ||
           state == NeighbourState::Permanent;
}
void tell(Stack& stack, Neighbour& neighbour, ChangeKind kind) {
    Change change{kind};
    change.interface = neighbour.interface.get();
    change.neighbour = &neighbour;
    notify_change(stack, change);
}
bool knows_address(NeighbourState state) {
    return state != NeighbourState::None && state != NeighbourState::Incomplete &&
           state != NeighbourState::Failed;
}

} // namespace

void Neighbour::set_state(NeighbourState state) {
    state_ = state;
    updated_ = stack_.now();
    link_.store(pack(mac_) | (reachable_state(state) ? usable : 0), base::Order::Release);
}

void Neighbour::send_now(PacketPtr packet, u16 protocol, u64 link) {
    packet = Packet::with_headroom(std::move(packet), sizeof(EthernetHeader));
    if (!packet)
        return;
    EthernetHeader header;
    __builtin_memcpy(header.destination.bytes, &link, sizeof header.destination.bytes);
    header.source = interface->mac();
    header.protocol.set(protocol);
    packet->push_header(header);
    packet->mark_link();
    packet->link_protocol = protocol;
    interface->transmit(std::move(packet));
}

void Neighbour::solicit() {
    MacAddress known;
    bool unicast = false;
    {
        SpinGuard guard(lock_);
        known = mac_;
        unicast = knows_address(state_);
    }
    if (address.is_v4())
        send_arp_request(stack_, *interface, address, unicast ? &known : nullptr);
    else
        send_neighbour_solicitation(stack_, *interface, address, unicast ? &known : nullptr);
}

// Packets that are forwarded are nobody's, and one may have 64 KB: without a bound on bytes a host
// that sends to many silent ones would have all memory.
void Neighbour::enqueue(PacketPtr packet, u32 most_packets, PacketList& dropped) {
    constexpr u32 most_bytes = 212'992; // unres_qlen_bytes
    const u32 bytes = packet->true_size();
    // The oldest go: what comes now is more use.
    while (!queue_.empty() &&
           (queue_.size() >= most_packets || queue_bytes_ + bytes > most_bytes)) {
        queue_bytes_ -= queue_.front()->true_size();
        dropped.push_back(queue_.pop_front());
    }
    queue_bytes_ += bytes;
    queue_.push_back(std::move(packet));
}

PacketList Neighbour::take_queue() {
    queue_bytes_ = 0;
    return std::move(queue_);
}

void Neighbour::output(PacketPtr packet, u16 protocol) {
    const u64 link = link_.load(base::Order::Acquire);
    used_.store(stack_.now(), base::Order::Relaxed);
    if ((link & usable) != 0) {
        send_now(std::move(packet), protocol, link);
        return;
    }
    const NeighbourSettings& settings = stack_.neighbours().settings(address.is_v6());
    bool ask = false;
    u64 to = 0;
    PacketList dropped;
    {
        SpinGuard guard(lock_);
        if (dead_)
            return;
        const u64 now = stack_.now();
        if (state_ == NeighbourState::Stale) {
            set_state(NeighbourState::Delay);
            timer_.arm(now + settings.delay_first_probe_ns);
        }
        if (knows_address(state_)) {
            to = pack(mac_);
        } else {
            if (state_ != NeighbourState::Incomplete) {
                set_state(NeighbourState::Incomplete);
                probes_ = 1;
                timer_.arm(now + settings.retransmit_ns);
                ask = true;
            }
            packet->link_protocol = protocol;
            enqueue(std::move(packet), settings.queue_packets, dropped);
        }
    }
    if (packet)
        send_now(std::move(packet), protocol, to);
    if (ask)
        solicit();
}

void Neighbour::update(const MacAddress& mac, NeighbourState state, bool override_mac) {
    PacketList waiting;
    bool changed = false;
    u64 link = 0;
    {
        SpinGuard guard(lock_);
        if (dead_)
            return;
        const bool known = knows_address(state_);
        if (state_ == NeighbourState::Permanent && state != NeighbourState::Permanent)
            return;
        if (known && !(mac == mac_) && !override_mac) {
            // Somebody else claims it: ask before believing either (RFC 4861, 7.2.5).
            if (state_ == NeighbourState::Reachable)
                set_state(NeighbourState::Stale);
            return;
        }
        changed = !known || !(mac == mac_);
        mac_ = mac;
        const u64 now = stack_.now();
        if (state == NeighbourState::Reachable) {
            confirmed_ = now;
            probes_ = 0;
            // Between half and one and a half of the base, so that hosts do not ask in step.
            const u64 base = stack_.neighbours().settings(address.is_v6()).base_reachable_ns;
            timer_.arm(now + base / 2 + random_u64() % base);
        }
        if (state == NeighbourState::Stale && known && !changed)
            return; // what we know is as good
        set_state(state);
        waiting = take_queue();
        link = pack(mac_);
    }
    while (PacketPtr packet = waiting.pop_front()) {
        const u16 protocol = packet->link_protocol;
        send_now(std::move(packet), protocol, link);
    }
    if (changed)
        tell(stack_, *this, ChangeKind::NeighbourChanged);
}

void Neighbour::configure(const MacAddress* mac, NeighbourState state, bool override_mac) {
    PacketList waiting;
    u64 link = 0;
    {
        SpinGuard guard(lock_);
        if (dead_)
            return;
        if (mac != nullptr && (override_mac || !knows_address(state_)))
            mac_ = *mac;
        const u64 now = stack_.now();
        const NeighbourSettings& settings = stack_.neighbours().settings(address.is_v6());
        if (state == NeighbourState::Reachable) {
            confirmed_ = now;
            timer_.arm(now + settings.base_reachable_ns);
        } else if (state == NeighbourState::Delay) {
            timer_.arm(now + settings.delay_first_probe_ns);
        } else if (state == NeighbourState::Probe || state == NeighbourState::Incomplete) {
            timer_.arm(now + settings.retransmit_ns);
        }
        probes_ = 0;
        set_state(state);
        if (knows_address(state)) {
            waiting = take_queue();
            link = pack(mac_);
        }
    }
    while (PacketPtr packet = waiting.pop_front()) {
        const u16 protocol = packet->link_protocol;
        send_now(std::move(packet), protocol, link);
    }
    tell(stack_, *this, ChangeKind::NeighbourChanged);
}

void Neighbour::confirm() {
    SpinGuard guard(lock_);
    if (dead_ || !knows_address(state_) || state_ == NeighbourState::Permanent ||
        state_ == NeighbourState::NoArp)
        return;
    confirmed_ = stack_.now();
    if (state_ == NeighbourState::Reachable)
        return;
    probes_ = 0;
    set_state(NeighbourState::Reachable);
    timer_.arm(confirmed_ + stack_.neighbours().settings(address.is_v6()).base_reachable_ns);
}

void Neighbour::expired(NetTimer&, void* argument) {
    auto& neighbour = *static_cast<Neighbour*>(argument);
    neighbour.in_timer_ = true;
    neighbour.on_timer();
    neighbour.in_timer_ = false;
}

void Neighbour::on_timer() {
    const NeighbourSettings& settings = stack_.neighbours().settings(address.is_v6());
    PacketList lost;
    bool ask = false, failed = false;
    {
        SpinGuard guard(lock_);
        if (dead_)
            return;
        const u64 now = stack_.now();
        switch (state_) {
        case NeighbourState::Reachable: {
            const u64 until = confirmed_ + settings.base_reachable_ns;
            if (until > now)
                timer_.arm(until);
            else
                set_state(NeighbourState::Stale);
            break;
        }
        case NeighbourState::Delay:
            set_state(NeighbourState::Probe);
            probes_ = 1;
            timer_.arm(now + settings.retransmit_ns);
            ask = true;
            break;
        case NeighbourState::Incomplete:
        case NeighbourState::Probe: {
            const u32 most = state_ == NeighbourState::Probe ? settings.unicast_probes
                                                             : settings.multicast_probes;
            if (probes_ < most) {
                probes_++;
                timer_.arm(now + settings.retransmit_ns);
                ask = true;
            } else {
                set_state(NeighbourState::Failed);
                lost = take_queue();
                failed = true;
            }
            break;
        }
        default:
            break;
        }
    }
    if (ask)
        solicit();
    if (failed)
        tell(stack_, *this, ChangeKind::NeighbourChanged);
    if (!lost.empty())
        stack_.neighbours().report_lost(*interface, std::move(lost));
}

void Neighbour::fail_now() {
    SpinGuard guard(lock_);
    if (!dead_)
        set_state(NeighbourState::Failed);
}

Neighbour::View Neighbour::view() {
    SpinGuard guard(lock_);
    return {state_, mac_, confirmed_, used_.load(), updated_, probes_, router.load()};
}

// --- the table

NeighbourTable::NeighbourTable(Stack& stack)
    : stack_(stack), lost_timer_(stack.clock, lost_due, this) {}

// Not in the timer of the neighbour that was asked in vain: the answer may need a place in this
// table for whoever sent the packet, and the neighbour whose place that is would be destroyed while
// its timer runs.
void NeighbourTable::report_lost(const Interface& on, PacketList packets) {
    for (Packet* packet = packets.front(); packet != nullptr; packet = packet->next) {
        packet->mark_network();
        packet->ingress = nullptr;
        packet->ingress_index = on.index();
    }
    SpinGuard guard(lock_);
    lost_.append(std::move(packets));
    if (!lost_timer_.pending())
        lost_timer_.arm(stack_.now());
}

void NeighbourTable::lost_due(NetTimer&, void* self) {
    static_cast<NeighbourTable*>(self)->answer_lost();
}

// Senders hear of it: EHOSTUNREACH.
void NeighbourTable::answer_lost() {
    PacketList packets;
    {
        SpinGuard guard(lock_);
        packets = std::move(lost_);
    }
    while (PacketPtr packet = packets.pop_front()) {
        const Ref<Interface> interface = stack_.interface(packet->ingress_index);
        if (!interface)
            continue;
        packet->ingress = interface.get();
        send_icmp_error(stack_, *packet, IcmpProblem::HostUnreachable);
    }
}

NeighbourTable::~NeighbourTable() {
    Neighbour* all = nullptr;
    table_.for_each([&](Neighbour& neighbour) {
        table_.remove(hash(*neighbour.interface, neighbour.address), neighbour);
        neighbour.next_ = all;
        all = &neighbour;
    });
    while (all != nullptr) {
        Neighbour* next = std::exchange(all->next_, nullptr);
        drop(Ref<Neighbour>::adopt(all));
        all = next;
    }
}

u64 NeighbourTable::hash(const Interface& interface, const IpAddress& address) const {
    return address.hash(stack_.secret() ^ interface.index());
}

Ref<Neighbour> NeighbourTable::find(const Interface& interface, const IpAddress& address) {
    SpinGuard guard(lock_);
    return Ref<Neighbour>::share(
        table_.find(hash(interface, address), [&](const Neighbour& neighbour) {
            return neighbour.address == address && neighbour.interface.get() == &interface;
        }));
}

Ref<Neighbour> NeighbourTable::find_or_make(Interface& interface, const IpAddress& address) {
    if (Ref<Neighbour> known = find(interface, address))
        return known;
    const bool v6 = address.is_v6();
    const NeighbourSettings& limits = settings_[v6];
    if (counts_[v6] >= limits.keep)
        collect(v6, counts_[v6] >= limits.soft_limit);
    if (counts_[v6] >= limits.hard_limit)
        return {};
    auto made = make_ref<Neighbour>(stack_, Ref<Interface>::share(&interface), address);
    if (!made)
        return {};
    Ref<Neighbour> fresh = std::move(*made);
    const u64 place = hash(interface, address);
    SpinGuard guard(lock_);
    Neighbour* raced = table_.find(place, [&](const Neighbour& neighbour) {
        return neighbour.address == address && neighbour.interface.get() == &interface;
    });
    if (raced != nullptr) {
        const Ref<Neighbour> winner = Ref<Neighbour>::share(raced);
        guard.unlock();
        fresh = {};
        return winner;
    }
    table_.insert(place, *fresh);
    fresh->add_ref(); // the table's
    counts_[v6]++;
    return fresh;
}

// Its timer is stopped for good; whoever still has it drops what they send.
void NeighbourTable::drop(Ref<Neighbour> neighbour) {
    PacketList waiting;
    {
        SpinGuard guard(neighbour->lock_);
        neighbour->dead_ = true;
        neighbour->link_.store(0, base::Order::Release);
        waiting = neighbour->take_queue();
    }
    neighbour->timer_.cancel();
}

void NeighbourTable::collect(bool v6, bool forced) {
    const u64 now = stack_.now();
    Neighbour* gone = nullptr;
    {
        SpinGuard guard(lock_);
        // Not at every packet to a new address: a scan of the link must not make it a scan of the
        // table.
        if (now - collected_at_ < nanoseconds_per_second / 10 &&
            counts_[v6] < settings_[v6].hard_limit)
            return;
        collected_at_ = now;
        table_.for_each([&](Neighbour& neighbour) {
            if (neighbour.address.is_v6() != v6 || neighbour.ref_count() > 1)
                return;
            const NeighbourState state = neighbour.state_;
            if (state == NeighbourState::Permanent || state == NeighbourState::NoArp)
                return;
            const bool old = now - neighbour.used_.load() > settings_[v6].stale_ns;
            if (!old && state != NeighbourState::Failed && !forced)
                return;
            table_.remove(hash(*neighbour.interface, neighbour.address), neighbour);
            counts_[v6]--;
            neighbour.next_ = gone;
            gone = &neighbour;
        });
    }
    while (gone != nullptr) {
        Neighbour* next = std::exchange(gone->next_, nullptr);
        tell(stack_, *gone, ChangeKind::NeighbourRemoved);
        drop(Ref<Neighbour>::adopt(gone));
        gone = next;
    }
    stack_.routes_changed();
}

bool NeighbourTable::remove(const Interface& interface, const IpAddress& address) {
    Neighbour* found = nullptr;
    {
        SpinGuard guard(lock_);
        const u64 place = hash(interface, address);
        found = table_.find(place, [&](const Neighbour& neighbour) {
            return neighbour.address == address && neighbour.interface.get() == &interface;
        });
        if (found == nullptr)
            return false;
        table_.remove(place, *found);
        counts_[address.is_v6()]--;
    }
    stack_.routes_changed();
    tell(stack_, *found, ChangeKind::NeighbourRemoved);
    drop(Ref<Neighbour>::adopt(found));
    return true;
}

void NeighbourTable::flush(const Interface& interface, bool permanent_too) {
    Neighbour* gone = nullptr;
    {
        SpinGuard guard(lock_);
        table_.for_each([&](Neighbour& neighbour) {
            if (neighbour.interface.get() != &interface ||
                (!permanent_too && neighbour.state_ == NeighbourState::Permanent))
                return;
            table_.remove(hash(interface, neighbour.address), neighbour);
            counts_[neighbour.address.is_v6()]--;
            neighbour.next_ = gone;
            gone = &neighbour;
        });
    }
    while (gone != nullptr) {
        Neighbour* next = std::exchange(gone->next_, nullptr);
        tell(stack_, *gone, ChangeKind::NeighbourRemoved);
        drop(Ref<Neighbour>::adopt(gone));
        gone = next;
    }
    stack_.routes_changed();
}

void NeighbourTable::for_each(bool v6, void (*visit)(Neighbour& neighbour, void* context),
                              void* context) {
    SpinGuard guard(lock_);
    table_.for_each([&](Neighbour& neighbour) {
        if (neighbour.address.is_v6() == v6)
            visit(neighbour, context);
    });
}

} // namespace kernel::net
