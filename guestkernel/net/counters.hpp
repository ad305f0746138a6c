// The counters of /proc/net/snmp and netstat, per CPU.
#pragma once

#include "base/atomic.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel::net {

// In groups, in the order of /proc/net/snmp and snmp6; add at the end of a group.
enum class Counter : u8 {
    IpInReceives,
    IpInHeaderErrors,
    IpInAddressErrors,
    IpForwarded,
    IpInUnknownProtocols,
    IpInDiscards,
    IpInDelivers,
    IpOutRequests,
    IpOutDiscards,
    IpOutNoRoutes,
    IpReassemblyTimeouts,
    IpReassemblyRequired,
    IpReassembled,
    IpReassemblyFailed,
    IpFragmented,
    IpFragmentFailed,
    IpFragmentsMade,
    Ip6InReceives,
    Ip6InHeaderErrors,
    Ip6InTooBig,
    Ip6InNoRoutes,
    Ip6InAddressErrors,
    Ip6InUnknownProtocols,
    Ip6InTruncated,
    Ip6InDiscards,
    Ip6InDelivers,
    Ip6OutForwarded,
    Ip6OutRequests,
    Ip6OutDiscards,
    Ip6OutNoRoutes,
    Ip6ReassemblyTimeouts,
    Ip6ReassemblyRequired,
    Ip6Reassembled,
    Ip6ReassemblyFailed,
    Ip6Fragmented,
    Ip6FragmentFailed,
    Ip6FragmentsMade,
    IcmpInMessages,
    IcmpInErrors,
    IcmpInChecksumErrors,
    IcmpOutMessages,
    IcmpOutErrors,
    IcmpOutRateLimited,
    Icmp6InMessages,
    Icmp6InErrors,
    Icmp6InChecksumErrors,
    Icmp6OutMessages,
    Icmp6OutErrors,
    Icmp6OutRateLimited,
    UdpInDatagrams,
    UdpNoPorts,
    UdpInErrors,
    UdpOutDatagrams,
    UdpReceiveBufferErrors,
    UdpSendBufferErrors,
    UdpInChecksumErrors,
    UdpIgnoredMulticast,
    Udp6InDatagrams,
    Udp6NoPorts,
    Udp6InErrors,
    Udp6OutDatagrams,
    Udp6ReceiveBufferErrors,
    Udp6SendBufferErrors,
    Udp6InChecksumErrors,
    Udp6IgnoredMulticast,
    IpReversePathFilter, // of /proc/net/netstat from here on, and snmp6
    IpInNoRoutes,
    IpInTruncated,
    IpInMulticast,
    IpOutMulticast,
    IpInBroadcast,
    IpOutBroadcast,
    IpInBytes,
    IpOutBytes,
    IpInMulticastBytes,
    IpOutMulticastBytes,
    IpInBroadcastBytes,
    IpOutBroadcastBytes,
    IpInChecksumErrors,
    IpInEcn, // and the next three: by the field's value, in the order 0 to 3
    IpInEcn1,
    IpInEcn2,
    IpInEcn3,
    Ip6InMulticast,
    Ip6OutMulticast,
    Ip6InBytes,
    Ip6OutBytes,
    Ip6InMulticastBytes,
    Ip6OutMulticastBytes,
    Ip6InEcn,
    Ip6InEcn1,
    Ip6InEcn2,
    Ip6InEcn3,
    // TCP counts in its own part.
    Count,
};

class CounterSet {
public:
    CounterSet() = default;
    CounterSet(const CounterSet&) = delete;
    CounterSet& operator=(const CounterSet&) = delete;
    ~CounterSet();
    Result<void> init();
    void count(Counter which, u64 by = 1) {
        // One CPU's words are its own: the kernel is not preempted.
        values_[arch::cpu_id() * per_cpu + static_cast<usize>(which)] += by;
    }
    u64 sum(Counter which) const;
    // By a message's type; rare enough for all CPUs to share.
    struct IcmpTypes {
        base::Atomic<u64> in[256] = {}, out[256] = {};
    };
    const IcmpTypes& icmp_types(bool v6) const { return types_[v6 ? 1 : 0]; }
    void count_icmp(bool v6, bool out, u8 type) {
        IcmpTypes& types = types_[v6 ? 1 : 0];
        (out ? types.out : types.in)[type].fetch_add(1, base::Order::Relaxed);
    }

private:
    // Rounded up to cache lines.
    static constexpr usize per_cpu = (static_cast<usize>(Counter::Count) + 7) & ~usize{7};
    u64* values_ = nullptr;
    IcmpTypes* types_ = nullptr; // of IPv4 and IPv6
    usize cpus_ = 0;
};

} // namespace kernel::net
