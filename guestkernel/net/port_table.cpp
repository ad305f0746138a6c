#include "guestkernel/net/port_table.hpp"

#include <new>
#include <utility>

#include <linux/errno.h>

#include "guestkernel/core/random.hpp"

namespace kernel::net {

// A port that somebody has. A hundred thousand connections to one port, or to a range of ports,
// must not make other ports slow.
struct PortGroup {
    PortGroup* next = nullptr; // in the bucket
    u16 port = 0;
    bool lite = false;
    u32 alone = 0; // owners that are no connections
    base::IntrusiveList<PortOwner, &PortOwner::port_node_> owners;
    base::IntrusiveList<PortOwner, &PortOwner::receiver_node_> receivers;
};

struct PortTable::Bucket {
    SpinLock lock{LockRank::NetTable};
    PortGroup* first = nullptr;

    PortGroup* find(u16 port, bool lite) const {
        for (PortGroup* group = first; group != nullptr; group = group->next)
            if (group->port == port && group->lite == lite)
                return group;
        return nullptr;
    }
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
    for (usize i = 0; buckets_ != nullptr && i < buckets; i++)
        while (PortGroup* const group = buckets_[i].first) {
            buckets_[i].first = group->next;
            delete group;
        }
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

bool PortTable::taken(PortGroup* group, const PortOwner& owner) {
    if (group == nullptr)
        return false;
    for (const PortOwner& other : group->owners)
        if (&other != &owner && conflicts(owner, other))
            return true;
    return false;
}

// After `connected` changed, or at first.
void PortTable::note_connected(PortOwner& owner) {
    if (owner.alone_ == !owner.connected)
        return;
    owner.alone_ = !owner.connected;
    owner.group_->alone += owner.alone_ ? 1u : ~0u;
}

void PortTable::enter(PortGroup& group, PortOwner& owner, bool receiving) {
    owner.port = group.port;
    owner.group_ = &group;
    group.owners.push_back(owner);
    owner.alone_ = false;
    note_connected(owner);
    if (receiving)
        start_receiving(group, owner);
}

void PortTable::start_receiving(PortGroup& group, PortOwner& owner) {
    owner.receiving_ = true;
    if (owner.reuse_port)
        join_reuse_group(group, owner);
    group.receivers.push_front(owner); // of equals the newest one gets what comes
}

// Without memory it stays alone: the hash chooses among equals as it does without a program.
void PortTable::join_reuse_group(PortGroup& group, PortOwner& owner) {
    for (PortOwner& other : group.receivers)
        if (other.reuse_group_ && other.uid == owner.uid && other.interface == owner.interface &&
            other.v6 == owner.v6 && other.v6_only == owner.v6_only && other.local == owner.local) {
            owner.reuse_group_ = other.reuse_group_;
            break;
        }
    if (!owner.reuse_group_) {
        auto fresh = make_ref<ReuseGroup>();
        if (!fresh)
            return;
        owner.reuse_group_ = std::move(*fresh);
    }
    if (owner.reuse_group_->members.size() >= ReuseGroup::most ||
        !owner.reuse_group_->members.push_back(&owner))
        owner.reuse_group_ = {};
}

void PortTable::leave_reuse_group(PortOwner& owner) {
    if (!owner.reuse_group_)
        return;
    Vector<PortOwner*>& members = owner.reuse_group_->members;
    for (PortOwner*& member : members)
        if (member == &owner) {
            member = members.back();
            members.pop_back();
            break;
        }
    owner.reuse_group_ = {};
}

Result<void> PortTable::set_chooser(PortOwner& owner, Ref<SocketFilter> chooser) {
    Bucket& in = bucket(owner.port);
    SpinGuard guard(in.lock);
    if (!owner.reuse_group_) {
        if (!owner.reuse_port || owner.receiving_)
            return fail(EINVAL);
        if (!chooser)
            return fail(ENOENT);
        TRY(owner.reuse_group_, make_ref<ReuseGroup>());
    }
    if (!chooser && !owner.reuse_group_->chooser)
        return fail(ENOENT);
    std::swap(owner.reuse_group_->chooser, chooser);
    return {};
}

// Whom the group's program names; null: nobody, or not one that would do.
PortOwner* PortTable::chosen(const PortOwner& best, int points, const Key& key) {
    if (best.connected || !best.reuse_group_ || !best.reuse_group_->chooser ||
        key.packet == nullptr)
        return nullptr;
    const ReuseGroup& group = *best.reuse_group_;
    const u32 number = group.chooser->run(*key.packet, key.payload);
    if (number >= group.members.size())
        return nullptr;
    PortOwner* const named = group.members[number];
    return score(*named, key) == points ? named : nullptr;
}

Result<void> PortTable::insert(Bucket& in, PortGroup* group, PortOwner& owner, u16 port,
                               bool receiving) {
    if (group == nullptr) {
        group = new (std::nothrow) PortGroup();
        if (group == nullptr)
            return fail(ENOMEM);
        group->port = port;
        group->lite = owner.lite;
        group->next = in.first;
        in.first = group;
    }
    enter(*group, owner, receiving);
    return {};
}

Result<void> PortTable::bind(PortOwner& owner, u16 port, const Range& range, bool receiving,
                             Usable usable, void* context, u32 seed) {
    if (port != 0) {
        Bucket& in = bucket(port);
        SpinGuard guard(in.lock);
        PortGroup* group = in.find(port, owner.lite);
        if (taken(group, owner))
            return fail(EADDRINUSE);
        return insert(in, group, owner, port, receiving);
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
        PortGroup* group = in.find(candidate, owner.lite);
        // Not what somebody bound to for itself.
        if (group != nullptr &&
            (usable == nullptr || group->alone != 0 || !usable(context, candidate)))
            continue;
        return insert(in, group, owner, candidate, receiving);
    }
    return fail(EADDRINUSE);
}

void PortTable::join(PortOwner& child, const PortOwner& listener) {
    Bucket& in = bucket(listener.port);
    SpinGuard guard(in.lock);
    child.port = listener.port;
    if (PortGroup* group = in.find(listener.port, child.lite))
        enter(*group, child, false);
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
    leave_reuse_group(owner);
    owner.port = 0;
    PortGroup* const group = std::exchange(owner.group_, nullptr);
    if (group == nullptr)
        return;
    group->alone -= owner.alone_ ? 1 : 0;
    if (!group->owners.empty())
        return;
    for (PortGroup** at = &in.first; *at != nullptr; at = &(*at)->next)
        if (*at == group) {
            *at = group->next;
            break;
        }
    delete group;
}

void PortTable::set_receiving(PortOwner& owner, bool receiving) {
    Bucket& in = bucket(owner.port);
    SpinGuard guard(in.lock);
    if (owner.receiving_ == receiving || owner.group_ == nullptr)
        return;
    if (receiving) {
        start_receiving(*owner.group_, owner);
    } else {
        owner.receiving_ = false;
        leave_reuse_group(owner);
        owner.receiver_node_.unlink();
    }
}

void PortTable::set_peer(PortOwner& owner, const IpAddress& local, const IpAddress& peer,
                         u16 peer_port, bool connected) {
    Bucket& in = bucket(owner.port);
    SpinGuard guard(in.lock);
    owner.local = local;
    owner.peer = peer;
    owner.peer_port = peer_port;
    owner.connected = connected;
    if (owner.group_ != nullptr)
        note_connected(owner);
}

void PortTable::become_v4(PortOwner& owner) {
    Bucket& in = bucket(owner.port);
    SpinGuard guard(in.lock);
    owner.v6 = false;
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
    if (taken(owner.group_, owner)) {
        owner.listening = false;
        return fail(EADDRINUSE);
    }
    return {};
}

// Negative: not for it. What says more about the packet counts for more.
int PortTable::score(const PortOwner& owner, const Key& key) {
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
    PortGroup* const group = in.find(key.port, key.lite);
    if (group == nullptr)
        return nullptr;
    PortOwner* best = nullptr;
    int best_points = -1;
    u32 equals = 0;
    for (PortOwner& owner : group->receivers) {
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
    if (PortOwner* const named = chosen(*best, best_points, key)) {
        best = named;
    } else if (equals > 1) {
        const u64 hash = key.peer.hash(key.peer_port) ^ key.local.hash(key.port);
        u32 chosen = static_cast<u32>((hash_mix(hash) & 0xffff'ffff) * equals >> 32);
        for (PortOwner& owner : group->receivers)
            if (owner.reuse_port && score(owner, key) == best_points && chosen-- == 0) {
                best = &owner;
                break;
            }
    }
    return best->try_hold() ? best : nullptr;
}

usize PortTable::find_all(const Key& key, PortOwner** out, usize capacity, PortOwner* after) {
    Bucket& in = bucket(key.port);
    SpinGuard guard(in.lock);
    PortGroup* const group = in.find(key.port, key.lite);
    // One that left meanwhile does not say where to go on.
    if (group == nullptr || (after != nullptr && (after->group_ != group || !after->receiving_)))
        return 0;
    usize found = 0;
    PortOwner* owner = after != nullptr ? group->receivers.next(*after) : group->receivers.front();
    for (; owner != nullptr && found < capacity; owner = group->receivers.next(*owner))
        if (score(*owner, key) >= 0 && owner->try_hold())
            out[found++] = owner;
    return found;
}

void PortTable::for_each(void (*visit)(PortOwner& owner, void* context), void* context) {
    for (usize i = 0; i < buckets; i++)
        for_each_in(i, visit, context);
}

void PortTable::for_each_in(usize index, void (*visit)(PortOwner& owner, void* context),
                            void* context) {
    SpinGuard guard(buckets_[index].lock);
    for (PortGroup* group = buckets_[index].first; group != nullptr; group = group->next)
        for (PortOwner& owner : group->owners)
            visit(owner, context);
}

} // namespace kernel::net
