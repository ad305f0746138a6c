// What a stranger must not be able to guess: initial sequence numbers (RFC 6528), SYN cookies,
// timestamp offsets (RFC 7323, 5.4) and fast-open cookies (RFC 7413), all by keyed hashes.
#pragma once

#include <optional>

#include "guestkernel/net/ip_address.hpp"
#include "guestkernel/net/tcp/hash.hpp"
#include "guestkernel/net/tcp/header.hpp"

namespace kernel::tcp {

// The four numbers that name a connection, as this side sees them.
struct Pair {
    net::Endpoint local, remote;
    friend bool operator==(const Pair&, const Pair&) = default;
};

class Secrets {
public:
    // Draws the keys at first use.
    static const Secrets& get();

    Sequence initial_sequence(const Pair& pair, u64 now) const;
    u32 timestamp_offset(const Pair& pair) const;
    u64 table_hash(const Pair& pair) const { return hash(table_, pair).finish(); }
    u64 port_offset(const Pair& pair) const { return hash(port_, pair).finish(); }

    // A SYN-ACK's sequence number that says what a connection request would have kept: the peer's
    // segment size, rounded down to one of eight.
    Sequence syn_cookie(const Pair& pair, Sequence peer_initial, u16 mss, u64 now) const;
    // The segment size, if the number is one that syn_cookie() gave for this pair in the last two
    // minutes.
    std::optional<u16> check_syn_cookie(const Pair& pair, Sequence peer_initial, Sequence cookie,
                                        u64 now) const;
    FastOpenCookie fast_open_cookie(const Pair& pair) const;

private:
    Secrets();
    static KeyedHash hash(const HashKey& key, const Pair& pair);
    u32 cookie_hash(const Pair& pair, Sequence peer_initial, u64 period, u32 size_index) const;
    HashKey sequence_, timestamp_, table_, port_, cookie_, fast_open_;
};

} // namespace kernel::tcp
