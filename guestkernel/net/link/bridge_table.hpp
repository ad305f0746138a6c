// Which port of a bridge an address was seen at. Bounded: when it is full, what is too old goes,
// and if nothing is, new addresses are not learned.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/net/ip_address.hpp"

namespace kernel::net {

class BridgeTable {
public:
    static constexpr u32 most = 4096;
    ~BridgeTable();
    void learn(const MacAddress& mac, u32 port, u64 now);
    u32 find(const MacAddress& mac, u64 now); // the port's index; 0: not known
    void forget_port(u32 port);
    void clear();
    void collect(u64 now);
    u32 count() const { return count_; }
    base::Atomic<u64> aging_ns{300 * nanoseconds_per_second};

private:
    struct Entry {
        MacAddress mac;
        u32 port = 0;
        u64 seen = 0;
        Entry* next = nullptr;
    };
    static u64 hash(const MacAddress& mac);
    template <typename Match>
    void remove_if(Match&& match);
    SpinLock lock_{LockRank::Leaf};
    HashTable<Entry, &Entry::next, 256> entries_;
    volatile u32 count_ = 0;
};

} // namespace kernel::net
