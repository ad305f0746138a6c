// The compatibility part of nf_tables: matches and targets of iptables by their names, with the
// structures that iptables puts together for them.
#pragma once

#include "guestkernel/net/filter/requests.hpp"

namespace kernel::net::filter {

// Whether a match or target is known in a revision (NFNL_MSG_COMPAT_GET).
Result<void> answer_compat(Request& request);

} // namespace kernel::net::filter
