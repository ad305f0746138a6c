// The counters of /proc/net/snmp and netstat, per CPU.
#pragma once

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
    IcmpInUnreachable,
    IcmpInTimeExceeded,
    IcmpInEchos,
    IcmpInEchoReplies,
    IcmpOutMessages,
    IcmpOutErrors,
    IcmpOutRateLimited,
    IcmpOutUnreachable,
    IcmpOutTimeExceeded,
    IcmpOutEchoReplies,
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

private:
    // Rounded up to cache lines.
    static constexpr usize per_cpu = (static_cast<usize>(Counter::Count) + 7) & ~usize{7};
    u64* values_ = nullptr;
    usize cpus_ = 0;
};

} // namespace kernel::net
