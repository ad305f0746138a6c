// Extension headers of IPv6 that programs see and send: RFC 3542, 6 to 9.
#pragma once

#include <span>

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/net/packet.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

// One header as a program gives it: EINVAL unless it is whole; what stands behind it is left out.
Result<std::span<const u8>> check_extension(std::span<const u8> given);

// The headers of a packet in the order in which they are sent. The last one names no protocol yet.
struct ExtensionChain {
    u8 first = 0; // the protocol number of the first
    Vector<u8> bytes;
    // Either may be empty. ENOMEM.
    static Result<ExtensionChain> make(std::span<const u8> hop_options,
                                       std::span<const u8> destination_options);
};
// Lets the last header of a chain that make() gave name what follows it.
void end_chain(std::span<u8> chain, u8 protocol);

// IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_DSTOPTS of a socket: what all its packets have.
struct StickyExtensions final : RefCounted {
    // Those before a routing header go with one only, which none of our packets has.
    Vector<u8> hop_options, before_routing, destination_options;
    ExtensionChain chain;
    Result<Ref<StickyExtensions>> copy() const;
};

class StickySlot {
public:
    Ref<StickyExtensions> get() const {
        SpinGuard guard(lock_);
        return current_;
    }
    void set(Ref<StickyExtensions> other) { // the former one goes without the lock
        SpinGuard guard(lock_);
        std::swap(current_, other);
        guard.unlock();
    }

private:
    mutable SpinLock lock_{LockRank::Leaf};
    Ref<StickyExtensions> current_; // not changed any more
};

// Calls function(protocol number, offset, bytes) for each extension header of a packet that begins
// with its network header, up to what is none.
template <typename F>
void for_extensions(const Packet& packet, F&& function) {
    u8 kind = 0;
    if (!packet.read(offsetof(Ipv6Header, next_header), kind))
        return;
    u32 at = sizeof(Ipv6Header);
    while (kind == proto_hop_options || kind == proto_routing ||
           kind == proto_destination_options) {
        u8 start[2];
        if (!packet.read(at, start))
            return;
        const u32 bytes = (start[1] + 1u) * 8;
        if (bytes > packet.length() - at)
            return;
        function(kind, at, bytes);
        kind = start[0];
        at += bytes;
    }
}

// Where the part of an IPv6 packet begins that fragments divide among them (RFC 8200, 4.5; as on
// Linux, options for the destination go with each unless a routing header comes before them).
// `previous`: the offset of the byte that names its protocol.
u32 unfragmentable_bytes(const Packet& packet, u32& previous);

} // namespace kernel::net
