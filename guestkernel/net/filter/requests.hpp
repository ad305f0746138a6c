// nf_tables' requests: those that change something run within a transaction, those that ask
// without.
#pragma once

#include "guestkernel/net/filter/message.hpp"
#include "guestkernel/net/filter/transaction.hpp"

namespace kernel::net::filter {

using netlink::Request;
using Change = Result<void> (*)(Transaction& transaction, Request& request);

Result<void> new_table(Transaction& transaction, Request& request);
Result<void> delete_table(Transaction& transaction, Request& request);
Result<void> new_chain(Transaction& transaction, Request& request);
Result<void> delete_chain(Transaction& transaction, Request& request);
Result<void> new_rule(Transaction& transaction, Request& request);
Result<void> delete_rule(Transaction& transaction, Request& request);
Result<void> new_set(Transaction& transaction, Request& request);
Result<void> delete_set(Transaction& transaction, Request& request);
Result<void> new_elements(Transaction& transaction, Request& request);
Result<void> delete_elements(Transaction& transaction, Request& request);
Result<void> new_object(Transaction& transaction, Request& request);
Result<void> delete_object(Transaction& transaction, Request& request);

// GETTABLE and the others: single answers and dumps. Takes Filter::mutex.
Result<void> answer(Filter& filter, Request& request, u16 message);

// The change that a message is: null, none.
Change find_change(u16 message);

// --- what they have in common
inline constexpr usize most_name = 255;
// Messages that delete without minding that there is nothing (newer than the headers).
inline constexpr u16 message_destroy_table = 26, message_destroy_chain = 27,
                     message_destroy_rule = 28, message_destroy_set = 29,
                     message_destroy_element = 30, message_destroy_object = 31,
                     message_rule_reset = 25, message_element_reset = 33;
inline u16 message_of(const Request& request) {
    return static_cast<u16>(request.type() & 0xff);
}
u8 family_of(Request& request); // of struct nfgenmsg, which is there
// The table that the attribute names: EINVAL, ENOENT, EPERM (somebody else's).
Result<Table*> named_table(Transaction& transaction, Request& request, const Attribute* name);
Result<String> checked_name(Request& request, const Attribute* attribute); // EINVAL, ERANGE
bool may_change(const Table& table, const Request& request);
// Takes what hangs on a rule with it: its anonymous set, its anonymous chain.
Result<void> drop_rule(Transaction& transaction, Table& own, const Rule& rule);

} // namespace kernel::net::filter
