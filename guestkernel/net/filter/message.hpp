// nf_tables' messages to programs: each describes one thing, for dumps, answers and notifications.
#pragma once

#include "guestkernel/net/filter/filter.hpp"
#include "guestkernel/net/filter/set.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/net/netlink/protocol.hpp"

namespace kernel::net::filter {

struct Heading {
    u16 flags = 0;
    u32 sequence = 0, port = 0;
    static Heading of(const netlink::Dump& dump) {
        return {dump.message_flags, dump.sequence, dump.port};
    }
    static Heading of(const netlink::Request& request, u16 message_flags = 0);
};

// struct nfgenmsg; the resource is the generation.
struct FamilyHeader {
    u8 family, version;
    Be16 resource;
};
static_assert(sizeof(FamilyHeader) == 4);

void begin_message(MessageWriter& out, const Filter& filter, u16 message, u8 family,
                   const Heading& heading);
// All of these: false, it did not fit.
bool write_table(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                 const Heading& heading);
bool write_chain(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                 const Chain& chain, const Heading& heading);
bool write_rule(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                const Chain& chain, const Rule& rule, u64 previous, const Heading& heading);
bool write_set(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
               const Set& set, const Heading& heading);
bool write_object(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                  const Object& object, const Heading& heading);
bool write_generation(MessageWriter& out, const Filter& filter, const Heading& heading);
// One element as NFTA_LIST_ELEM. Locks: the set's.
void put_element(MessageWriter& out, const Set& set, const Element& element, u64 now);
// A message with that one element.
bool write_element(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                   const Set& set, const Element& element, const Heading& heading);

u32 uses_of(const Table& table, const Chain& chain); // jumps to it
bool in_use(const Table& table, const Set& set);
bool in_use(const Table& table, const Object& object);

} // namespace kernel::net::filter
