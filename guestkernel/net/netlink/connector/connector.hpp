// NETLINK_CONNECTOR, of which there is the process events connector: forks, execs, ends and changes
// of identity of all processes, told to who listens (linux/cn_proc.h).
#pragma once

#include <span>

#include "guestkernel/core/types.hpp"

namespace kernel::net::netlink {

// What a program says to the connector.
struct ConnectorRequest {
    u32 operation = 0; // PROC_CN_MCAST_*
    u32 events = 0;    // bits: which ones it wants to hear
    u32 sequence = 0, acknowledged = 0;
};
// From one datagram; false: it is none, and nobody says so.
bool read_connector_request(std::span<const u8> datagram, ConnectorRequest& out);
inline constexpr u32 all_process_events = 0xe000'03c7;

void start_connector();

} // namespace kernel::net::netlink
