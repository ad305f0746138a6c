// Translation of addresses and ports.
#pragma once

#include "guestkernel/net/filter/conntrack.hpp"
#include "guestkernel/net/filter/evaluation.hpp"

namespace kernel::net::filter {

// What a rule wants: NF_NAT_RANGE_* of linux/netfilter/nf_nat.h.
struct NatRange {
    static constexpr u32 map_addresses = 1, ports_given = 2, random = 4, persistent = 8,
                         fully_random = 16, offset = 32, map_prefix = 64;
    u32 flags = 0;
    IpAddress first, last;
    u16 first_port = 0, last_port = 0, base_port = 0;
};

// The hook's step: a new connection goes through the nat chains, every packet is rewritten as its
// connection says.
HookVerdict translate(Evaluation& at);

// For the expressions and targets. Accept, or Drop where no free combination is left. `source`:
// what the hook changes must be that.
Verdict set_up(Evaluation& at, const NatRange& range, bool source);
Verdict masquerade(Evaluation& at, NatRange range);
Verdict redirect(Evaluation& at, NatRange range);

} // namespace kernel::net::filter
