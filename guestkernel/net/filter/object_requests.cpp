// Requests for named objects: counters, quotas, limits.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/requests.hpp"

namespace kernel::net::filter {

namespace {

using Parts = Attributes<NFTA_OBJ_MAX + 1>;

Result<void> note_object(Transaction& transaction, const Request& request, u16 message,
                         const Table& table, const Object& object) {
    MessageWriter out;
    if (!write_object(out, transaction.filter, message, table, object, Heading::of(request)))
        return fail(ENOMEM);
    return transaction.note(out, request);
}

ExpressionMaker maker_of(u32 type) {
    switch (type) {
    case NFT_OBJECT_COUNTER:
        return make_counter;
    case NFT_OBJECT_QUOTA:
        return make_quota;
    case NFT_OBJECT_LIMIT:
        return make_limit;
    default:
        return nullptr;
    }
}

} // namespace

Result<void> new_object(Transaction& transaction, Request& request) {
    Parts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    if (parts[NFTA_OBJ_TYPE] == nullptr || parts[NFTA_OBJ_DATA] == nullptr)
        return fail(EINVAL);
    TRY(String name, checked_name(request, parts[NFTA_OBJ_NAME]));
    TRY(Table * table, named_table(transaction, request, parts[NFTA_OBJ_TABLE]));
    const u32 type = parts.number(NFTA_OBJ_TYPE);
    if (table->find_object(name.view(), type) != nullptr) {
        if (request.wants(netlink::flag_exclusive))
            return request.refuse(EEXIST, parts[NFTA_OBJ_NAME], nullptr);
        return request.wants(netlink::flag_replace) ? Result<void>(fail(EOPNOTSUPP))
                                                    : Result<void>();
    }
    const ExpressionMaker make = maker_of(type);
    if (make == nullptr)
        return fail(ENOENT);
    TRY(Table * own, transaction.edit(*table));
    TRY(Ref<Object> object, make_ref<Object>());
    ParseContext context{.transaction = transaction,
                         .table = *own,
                         .chain = nullptr,
                         .family = own->family,
                         .ack = request.ack};
    TRY(object->state, make(context, parts.data(NFTA_OBJ_DATA)));
    object->name = std::move(name);
    object->type = type;
    object->handle = own->new_handle();
    TRY(object->user_data.append(parts.data(NFTA_OBJ_USERDATA)));
    Object& added = *object;
    TRY(own->objects.push_back(std::move(object)));
    return note_object(transaction, request, NFT_MSG_NEWOBJ, *own, added);
}

Result<void> delete_object(Transaction& transaction, Request& request) {
    Parts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    if (parts[NFTA_OBJ_TYPE] == nullptr ||
        (parts[NFTA_OBJ_NAME] == nullptr && parts[NFTA_OBJ_HANDLE] == nullptr))
        return fail(EINVAL);
    TRY(Table * table, named_table(transaction, request, parts[NFTA_OBJ_TABLE]));
    const u32 type = parts.number(NFTA_OBJ_TYPE);
    Object* object = nullptr;
    const Attribute* which =
        parts[NFTA_OBJ_HANDLE] != nullptr ? parts[NFTA_OBJ_HANDLE] : parts[NFTA_OBJ_NAME];
    if (which == parts[NFTA_OBJ_HANDLE]) {
        for (const Ref<Object>& one : table->objects)
            if (one->handle == parts.number64(NFTA_OBJ_HANDLE) && one->type == type)
                object = one.get();
    } else {
        object = table->find_object(which->text(), type);
    }
    if (object == nullptr) {
        if (message_of(request) == message_destroy_object)
            return {};
        return request.refuse(ENOENT, which, nullptr);
    }
    if (in_use(*table, *object))
        return request.refuse(EBUSY, which, nullptr);
    TRY(note_object(transaction, request, NFT_MSG_DELOBJ, *table, *object));
    TRY(Table * own, transaction.edit(*table));
    for (usize i = 0; i < own->objects.size(); i++)
        if (own->objects[i].get() == object) {
            own->objects.erase(i);
            break;
        }
    return {};
}

} // namespace kernel::net::filter
