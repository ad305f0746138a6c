// A line of the kernel log about a packet, in the form that log readers know.
#pragma once

#include <string_view>

namespace kernel {
class NetNamespace; // before stack.hpp names it
}

#include "guestkernel/net/filter/evaluation.hpp"

namespace kernel::net::filter {

// `level` as syslog(2) has it. `flags`: NF_LOG_*. Of other namespaces than the initial one nothing
// is logged, as their programs could fill everybody's log.
void log_packet(Evaluation& at, std::string_view prefix, u32 level, u32 flags);

} // namespace kernel::net::filter
