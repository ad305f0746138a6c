// Generic netlink (genetlink): families that have a name instead of a number of their own, found by
// asking the controller ("nlctrl").
#pragma once

#include "guestkernel/net/netlink/protocol.hpp"

namespace kernel::net::netlink {

inline constexpr int protocol_generic = 16; // NETLINK_GENERIC

struct GenericHeader { // struct genlmsghdr
    u8 command, version;
    u16 reserved;
};

struct GenericOperation {
    u8 command = 0;
    bool dumps = false; // with NLM_F_DUMP, or only without
    bool administrator = false;
    Result<void> (*handle)(Request& request) = nullptr;
};

struct GenericFamily {
    std::string_view name; // 15 bytes at most
    u8 version = 1;
    u16 header_bytes = 0; // of its own, behind GenericHeader
    u16 most_attributes = 0;
    std::span<const GenericOperation> operations;
    std::span<const std::string_view> groups; // by name; their numbers are given at registration
    void (*released)(Endpoint& endpoint) = nullptr; // as Protocol's; may be null
    // --- given at registration
    u16 id = 0;
    u32 first_group = 0;
};
// At boot; the object stays the caller's.
void register_generic_family(GenericFamily& family);

void start_generic_protocol();
void start_task_stats();

} // namespace kernel::net::netlink
