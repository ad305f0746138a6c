#include "guestkernel/net/tcp/secrets.hpp"

#include "base/atomic.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/core/time.hpp"

namespace kernel::tcp {

namespace {

// What hosts announce: link types and tunnels, most of them below 1460.
constexpr u16 cookie_sizes[8] = {64, 536, 1220, 1300, 1400, 1440, 1460, 8940};
constexpr u64 cookie_period = 64 * nanoseconds_per_second;
constexpr unsigned hash_bits = 24, size_bits = 3;

enum class Drawn : u8 { No, Busy, Yes };
constinit base::Atomic<Drawn> drawn{Drawn::No};
alignas(Secrets) constinit u8 storage[sizeof(Secrets)] = {};

} // namespace

Secrets::Secrets() {
    random_bytes(this, sizeof *this);
}

const Secrets& Secrets::get() {
    // SAFETY: the storage is aligned for it, and `drawn` says that it was constructed.
    auto* secrets = reinterpret_cast<Secrets*>(storage);
    if (drawn.load(base::Order::Acquire) == Drawn::Yes)
        return *secrets;
    Drawn expected = Drawn::No;
    if (drawn.compare_exchange(expected, Drawn::Busy)) {
        ::new (static_cast<void*>(storage)) Secrets();
        drawn.store(Drawn::Yes, base::Order::Release);
        return *secrets;
    }
    while (drawn.load(base::Order::Acquire) != Drawn::Yes)
        base::cpu_relax();
    return *secrets;
}

KeyedHash Secrets::hash(const HashKey& key, const Pair& pair) {
    KeyedHash out(key);
    u64 words[4];
    __builtin_memcpy(words, pair.local.address.bytes(), 16);
    __builtin_memcpy(words + 2, pair.remote.address.bytes(), 16);
    if (pair.local.address.is_v4()) {
        // The mapped prefix says nothing.
        out.add((words[1] >> 32) << 32 | words[3] >> 32);
    } else {
        for (const u64 word : words)
            out.add(word);
    }
    out.add(u64{pair.local.port} << 16 | pair.remote.port);
    return out;
}

// RFC 6528, 3: a clock of 64 ns plus a hash of the pair.
Sequence Secrets::initial_sequence(const Pair& pair, u64 now) const {
    return Sequence(static_cast<u32>(now >> 6) + static_cast<u32>(hash(sequence_, pair).finish()));
}

u32 Secrets::timestamp_offset(const Pair& pair) const {
    return static_cast<u32>(hash(timestamp_, pair).finish());
}

u32 Secrets::cookie_hash(const Pair& pair, Sequence peer_initial, u64 period,
                         u32 size_index) const {
    return static_cast<u32>(hash(cookie_, pair)
                                .add(u64{peer_initial.raw()} << 32 | size_index)
                                .add(period)
                                .finish()) &
           ((1u << hash_bits) - 1);
}

Sequence Secrets::syn_cookie(const Pair& pair, Sequence peer_initial, u16 mss, u64 now) const {
    u32 index = 0;
    while (index + 1 < 8 && cookie_sizes[index + 1] <= mss)
        index++;
    const u64 period = now / cookie_period;
    return Sequence(static_cast<u32>(period) << (hash_bits + size_bits) | index << hash_bits |
                    cookie_hash(pair, peer_initial, period, index));
}

std::optional<u16> Secrets::check_syn_cookie(const Pair& pair, Sequence peer_initial,
                                             Sequence cookie, u64 now) const {
    const u32 index = cookie.raw() >> hash_bits & ((1u << size_bits) - 1);
    const u32 told = cookie.raw() >> (hash_bits + size_bits);
    for (u64 age = 0; age < 2; age++) {
        const u64 period = now / cookie_period - age;
        if ((static_cast<u32>(period) & 31) == told &&
            cookie_hash(pair, peer_initial, period, index) ==
                (cookie.raw() & ((1u << hash_bits) - 1)))
            return cookie_sizes[index];
        if (now / cookie_period == 0)
            break;
    }
    return std::nullopt;
}

FastOpenCookie Secrets::fast_open_cookie(const Pair& pair) const {
    Pair addresses = pair; // ports change from connection to connection
    addresses.local.port = addresses.remote.port = 0;
    const u64 value = hash(fast_open_, addresses).finish();
    FastOpenCookie out;
    out.length = sizeof value;
    __builtin_memcpy(out.bytes, &value, sizeof value);
    return out;
}

} // namespace kernel::tcp
