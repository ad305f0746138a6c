// Requests for tables.
#include <linux/errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/requests.hpp"

namespace kernel::net::filter {

namespace {

constexpr u32 flag_dormant = NFT_TABLE_F_DORMANT, flag_owner = NFT_TABLE_F_OWNER;

bool known_family(u8 family) {
    return family == NFPROTO_INET || family == NFPROTO_IPV4 || family == NFPROTO_IPV6;
}

Result<void> note_table(Transaction& transaction, const Request& request, u16 message,
                        const Table& table) {
    MessageWriter out;
    if (!write_table(out, transaction.filter, message, table, Heading::of(request)))
        return fail(ENOMEM);
    return transaction.note(out, request);
}

} // namespace

u8 family_of(Request& request) {
    return request.payload()[0];
}

Result<String> checked_name(Request& request, const Attribute* attribute) {
    if (attribute == nullptr)
        return fail(EINVAL);
    const std::string_view name = attribute->text();
    if (name.size() > most_name)
        return request.refuse(ERANGE, attribute, nullptr);
    return String::from(name);
}

bool may_change(const Table& table, const Request& request) {
    return table.owner == 0 || table.owner == request.sender().port();
}

Result<Table*> named_table(Transaction& transaction, Request& request, const Attribute* name) {
    if (name == nullptr)
        return fail(EINVAL);
    Table* table = transaction.find_table(name->text(), family_of(request));
    if (table == nullptr)
        return request.refuse(ENOENT, name, nullptr);
    if (!may_change(*table, request))
        return request.refuse(EPERM, name, nullptr);
    return table;
}

namespace {

Result<void> update_table(Transaction& transaction, Request& request, Table& table,
                          const Attributes<NFTA_TABLE_MAX + 1>& parts) {
    if (parts[NFTA_TABLE_FLAGS] == nullptr)
        return {};
    const u32 flags = parts.number(NFTA_TABLE_FLAGS);
    if ((flags & ~(flag_dormant | flag_owner)) != 0)
        return fail(EINVAL);
    if (flags == table.flags)
        return {};
    if ((flags & flag_owner) != (table.flags & flag_owner))
        return fail(EOPNOTSUPP);
    TRY(Table * own, transaction.edit(table));
    own->flags = flags;
    return note_table(transaction, request, NFT_MSG_NEWTABLE, *own);
}

} // namespace

Result<void> new_table(Transaction& transaction, Request& request) {
    Attributes<NFTA_TABLE_MAX + 1> parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    TRY(String name, checked_name(request, parts[NFTA_TABLE_NAME]));
    const u8 family = family_of(request);
    if (Table* there = transaction.find_table(name.view(), family)) {
        if (!may_change(*there, request))
            return request.refuse(EPERM, parts[NFTA_TABLE_NAME], nullptr);
        if (request.wants(netlink::flag_exclusive))
            return request.refuse(EEXIST, parts[NFTA_TABLE_NAME], nullptr);
        if (request.wants(netlink::flag_replace))
            return fail(EOPNOTSUPP);
        return update_table(transaction, request, *there, parts);
    }
    if (!known_family(family))
        return fail(EOPNOTSUPP);
    const u32 flags = parts.number(NFTA_TABLE_FLAGS);
    if ((flags & ~(flag_dormant | flag_owner)) != 0)
        return fail(EOPNOTSUPP);
    TRY(Ref<Table> table, make_ref<Table>());
    table->family = family;
    table->name = std::move(name);
    table->flags = flags;
    if ((flags & flag_owner) != 0)
        table->owner = request.sender().port();
    TRY(table->user_data.append(parts.data(NFTA_TABLE_USERDATA)));
    TRY(Table * added, transaction.add_table(std::move(table)));
    return note_table(transaction, request, NFT_MSG_NEWTABLE, *added);
}

namespace {

Result<void> flush_tables(Transaction& transaction, Request& request, u8 family,
                          std::string_view name) {
    // Backwards on a copy of the list: each removal changes it.
    Vector<Ref<Table>> going;
    TRY(transaction.list_tables(going));
    for (const Ref<Table>& table : going) {
        if ((family != NFPROTO_UNSPEC && table->family != family) || !may_change(*table, request) ||
            (!name.empty() && table->name.view() != name))
            continue;
        TRY(note_table(transaction, request, NFT_MSG_DELTABLE, *table));
        TRY(transaction.remove_table(*table));
    }
    return {};
}

} // namespace

Result<void> delete_table(Transaction& transaction, Request& request) {
    Attributes<NFTA_TABLE_MAX + 1> parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    const u8 family = family_of(request);
    const Attribute* name = parts[NFTA_TABLE_NAME];
    const Attribute* handle = parts[NFTA_TABLE_HANDLE];
    if (family == NFPROTO_UNSPEC || (name == nullptr && handle == nullptr))
        return flush_tables(transaction, request, family, parts.text(NFTA_TABLE_NAME));
    Table* table = handle != nullptr
                       ? transaction.find_table(parts.number64(NFTA_TABLE_HANDLE), family)
                       : transaction.find_table(name->text(), family);
    if (table == nullptr) {
        if (message_of(request) == message_destroy_table)
            return {};
        return request.refuse(ENOENT, handle != nullptr ? handle : name, nullptr);
    }
    if (!may_change(*table, request))
        return request.refuse(EPERM, handle != nullptr ? handle : name, nullptr);
    // NLM_F_NONREC: only an empty one.
    if (request.wants(netlink::flag_replace) &&
        table->chains.size() + table->sets.size() + table->objects.size() > 0)
        return fail(EBUSY);
    TRY(note_table(transaction, request, NFT_MSG_DELTABLE, *table));
    return transaction.remove_table(*table);
}

} // namespace kernel::net::filter
