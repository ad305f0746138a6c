#include "guestkernel/net/link/bridge_table.hpp"

namespace kernel::net {

u64 BridgeTable::hash(const MacAddress& mac) {
    u64 bits = 0;
    __builtin_memcpy(&bits, mac.bytes, sizeof mac.bytes);
    return hash_mix(bits);
}

BridgeTable::~BridgeTable() {
    clear();
}

void BridgeTable::learn(const MacAddress& mac, u32 port, u64 now) {
    if (mac.is_group() || mac.is_zero())
        return;
    const u64 place = hash(mac);
    {
        SpinGuard guard(lock_);
        Entry* known = entries_.find(place, [&](const Entry& entry) { return entry.mac == mac; });
        if (known != nullptr) {
            known->port = port;
            known->seen = now;
            return;
        }
    }
    if (count_ >= most)
        collect(now);
    auto* fresh = new (std::nothrow) Entry{mac, port, now};
    if (fresh == nullptr)
        return;
    SpinGuard guard(lock_);
    Entry* raced = entries_.find(place, [&](const Entry& entry) { return entry.mac == mac; });
    if (raced != nullptr || count_ >= most) {
        guard.unlock();
        delete fresh;
        return;
    }
    entries_.insert(place, *fresh);
    count_ = count_ + 1;
}

u32 BridgeTable::find(const MacAddress& mac, u64 now) {
    SpinGuard guard(lock_);
    const Entry* known =
        entries_.find(hash(mac), [&](const Entry& entry) { return entry.mac == mac; });
    return known == nullptr || now - known->seen >= aging_ns.load() ? 0 : known->port;
}

template <typename Match>
void BridgeTable::remove_if(Match&& match) {
    Entry* gone = nullptr;
    {
        SpinGuard guard(lock_);
        entries_.for_each([&](Entry& entry) {
            if (!match(entry))
                return;
            entries_.remove(hash(entry.mac), entry);
            count_ = count_ - 1;
            entry.next = gone;
            gone = &entry;
        });
    }
    while (gone != nullptr) {
        Entry* next = gone->next;
        delete gone;
        gone = next;
    }
}

void BridgeTable::forget_port(u32 port) {
    remove_if([port](const Entry& entry) { return entry.port == port; });
}

void BridgeTable::clear() {
    remove_if([](const Entry&) { return true; });
}

void BridgeTable::collect(u64 now) {
    const u64 aging = aging_ns.load();
    remove_if([&](const Entry& entry) { return now - entry.seen >= aging; });
}

} // namespace kernel::net
