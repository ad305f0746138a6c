#include "guestkernel/net/port_table.hpp"

#include <linux/errno.h>

#include "guestkernel/core/random.hpp"

namespace kernel::net {

struct PortTable::Bucket {
    SpinLock lock{LockRank::NetTable};
    base::IntrusiveList<PortOwner, &PortOwner::port_node_> owners;
    base::IntrusiveList<PortOwner, &PortOwner::receiver_node_> receivers;
};

ReservedPorts::~ReservedPorts() {
    delete[] bits_;
}

bool ReservedPorts::contains(u16 port) const {
    const base::Atomic<u64>* bits = bits_;
    return bits != nullptr && (bits[port / 64].load(base::Order::Relaxed) >> port % 64 & 1) != 0;
}

Result<void> ReservedPorts::replace(std::span<const u64, words> ports) {
    base::Atomic<u64>* fresh =
        bits_ == nullptr ? new (std::nothrow) base::Atomic<u64>[words] {} : nullptr;
    if (bits_ == nullptr && fresh == nullptr)
        return fail(ENOMEM);
    {
        SpinGuard guard(lock_);
        if (bits_ == nullptr) {
            base::fence(base::Order::Release);
            bits_ = fresh;
            fresh = nullptr;
        }
        for (usize i = 0; i < words; i++)
            bits_[i].store(ports[i], base::Order::Relaxed);
    }
    delete[] fresh; // another one was first
    return {};
}

PortTable::PortTable() = default;
PortTable::~PortTable() {
    delete[] buckets_;
}

Result<void> PortTable::init() {
    buckets_ = new (std::nothrow) Bucket[buckets];
    return buckets_ != nullptr ? Result<void>() : Result<void>(fail(enomem));
}

PortTable::Bucket& PortTable::bucket(u16 port) const {
    return buckets_[port & (buckets - 1)];
}

namespace {

// Whether some packet could be for either.
bool addresses_overlap(const PortOwner& a, const PortOwner& b) {
    // A socket of IPv6 only has nothing to do with IPv4, nor one of IPv4 with it.
    const auto takes_v4 = [](const PortOwner& owner) {
        return owner.local.is_v4() || (owner.local.is_any() && !owner.v6_only);
    };
    const auto takes_v6 = [](const PortOwner& owner) { return owner.local.is_v6(); };
    if (!(takes_v4(a) && takes_v4(b)) && !(takes_v6(a) && takes_v6(b)))
        return false;
    return a.local.is_any() || b.local.is_any() || a.local == b.local;
}

} // namespace

bool PortTable::conflicts(const PortOwner& a, const PortOwner& b) {
    if (a.lite != b.lite)
        return false;
    if (a.interface != 0 && b.interface != 0 && a.interface != b.interface)
        return false;
    // A listener is not got past, but may itself come to where connections are left (a server that
    // starts again beside its TIME-WAITs).
    if (a.reuse_address && b.reuse_address && !b.listening)
        return false;
    if (a.reuse_port && b.reuse_port && a.uid == b.uid)
        return false;
    return addresses_overlap(a, b);
}

bool PortTable::taken(Bucket& in, const PortOwner& owner, u16 port) const {
    for (const PortOwner& other : in.owners)
        if (other.port == port && &other != &owner && conflicts(owner, other))
            return true;
    return false;
}

void PortTable::insert(Bucket& in, PortOwner& owner, u16 port, bool receiving) {
    owner.port = port;
    in.owners.push_back(owner);
    owner.receiving_ = receiving;
    if (receiving)
        in.receivers.push_front(owner); // of equals the newest one gets what comes
}

Result<void> PortTable::bind(PortOwner& owner, u16 port, const Range& range, bool receiving,
                             Usable usable, void* context, u32 seed) {
    if (port != 0) {
        Bucket& in = bucket(port);
        SpinGuard guard(in.lock);
        if (taken(in, owner, port))
            return fail(EADDRINUSE);
        insert(in, owner, port, receiving);
        return {};
    }
    const u32 count = u32{range.last} - range.first + 1;
    u32 offset = seed;
    if (seed == 0)
        random_bytes(&offset, sizeof offset);
    for (u32 i = 0; i < count; i++) {
        const u16 candidate = static_cast<u16>(range.first + (u64{offset} + i) % count);
        if (range.reserved != nullptr && range.reserved->contains(candidate))
            continue;
        Bucket& in = bucket(candidate);
        SpinGuard guard(in.lock);
        bool used = false, shareable = usable != nullptr;
        for (const PortOwner& other : in.owners)
            if (other.port == candidate && other.lite == owner.lite) {
                used = true;
                // Not what somebody bound to for itself.
                shareable = shareable && other.connected;
            }
        if (used && (!shareable || !usable(context, candidate)))
            continue;
        insert(in, owner, candidate, receiving);
        return {};
    }
    return fail(EADDRINUSE);
}

void PortTable::join(PortOwner& child, const PortOwner& listener) {
    Bucket& in = bucket(listener.port);
    SpinGuard guard(in.lock);
    insert(in, child, listener.port, false);
}

void PortTable::unbind(PortOwner& owner) {
    if (owner.port == 0)
        return;
    Bucket& in = bucket(owner.port);
    SpinGuard guard(in.lock);
    if (owner.port_node_.linked())
        owner.port_node_.unlink();
    if (owner.receiver_node_.linked())
        owner.receiver_node_.unlink();
    owner.receiving_ = false;
    owner.port = 0;
}

void PortTable::set_receiving(PortOwner& owner, bool receiving) {
    Bucket& in = bucket(owner.port);
    SpinGuard guard(in.lock);
    if (owner.receiving_ == receiving)
        return;
    owner.receiving_ = receiving;
    if (receiving)
        in.receivers.push_front(owner);
    else
        owner.receiver_node_.unlink();
}

void PortTable::set_peer(PortOwner& owner, const IpAddress& local, const IpAddress& peer,
                         u16 peer_port, bool connected) {
    Bucket& in = bucket(owner.port);
    SpinGuard guard(in.lock);
    owner.local = local;
    owner.peer = peer;
    owner.peer_port = peer_port;
    owner.connected = connected;
}

void PortTable::set_reuse(PortOwner& owner, bool address, bool port) {
    Bucket& in = bucket(owner.port);
    SpinGuard guard(in.lock);
    owner.reuse_address = address;
    owner.reuse_port = port;
}

Result<void> PortTable::start_listening(PortOwner& owner) {
    Bucket& in = bucket(owner.port);
    SpinGuard guard(in.lock);
    owner.listening = true;
    if (taken(in, owner, owner.port)) {
        owner.listening = false;
        return fail(EADDRINUSE);
    }
    return {};
}

// Negative: not for it. What says more about the packet counts for more.
int PortTable::score(const PortOwner& owner, const Key& key) {
    if (owner.port != key.port || owner.lite != key.lite)
        return -1;
    int points = 0;
    if (!owner.local.is_any()) {
        if (!(owner.local == key.local))
            return -1;
        points += 4;
    } else if (owner.local.is_v4() ? key.local.is_v6() : key.local.is_v4() && owner.v6_only) {
        return -1;
    }
    if (owner.connected) {
        if (owner.peer_port != key.peer_port || !(owner.peer == key.peer))
            return -1;
        points += 8;
    }
    if (owner.interface != 0) {
        if (owner.interface != key.interface)
            return -1;
        points += 4;
    }
    // Of two wildcards, the one of the packet's own version.
    if (owner.v6 == key.local.is_v6())
        points += 1;
    return points;
}

PortOwner* PortTable::find(const Key& key) {
    Bucket& in = bucket(key.port);
    SpinGuard guard(in.lock);
    PortOwner* best = nullptr;
    int best_points = -1;
    u32 equals = 0;
    for (PortOwner& owner : in.receivers) {
        const int points = score(owner, key);
        if (points < 0 || points < best_points)
            continue;
        if (points == best_points) {
            equals += owner.reuse_port && best->reuse_port ? 1 : 0;
            continue;
        }
        best = &owner;
        best_points = points;
        equals = 1;
    }
    if (best == nullptr)
        return nullptr;
    if (equals > 1) {
        const u64 hash = key.peer.hash(key.peer_port) ^ key.local.hash(key.port);
        u32 chosen = static_cast<u32>((hash_mix(hash) & 0xffff'ffff) * equals >> 32);
        for (PortOwner& owner : in.receivers)
            if (owner.reuse_port && score(owner, key) == best_points && chosen-- == 0) {
                best = &owner;
                break;
            }
    }
    return best->try_hold() ? best : nullptr;
}

usize PortTable::find_all(const Key& key, PortOwner** out, usize capacity) {
    Bucket& in = bucket(key.port);
    SpinGuard guard(in.lock);
    usize found = 0;
    for (PortOwner& owner : in.receivers)
        if (found < capacity && score(owner, key) >= 0 && owner.try_hold())
            out[found++] = &owner;
    return found;
}

void PortTable::for_each(void (*visit)(PortOwner& owner, void* context), void* context) {
    for (usize i = 0; i < buckets; i++)
        for_each_in(i, visit, context);
}

void PortTable::for_each_in(usize index, void (*visit)(PortOwner& owner, void* context),
                            void* context) {
    SpinGuard guard(buckets_[index].lock);
    for (PortOwner& owner : buckets_[index].owners)
        visit(owner, context);
}

} // namespace kernel::net
