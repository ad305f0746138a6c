// Requests for elements of sets.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/requests.hpp"

namespace kernel::net::filter {

namespace {

using ListParts = Attributes<NFTA_SET_ELEM_LIST_MAX + 1>;
using Parts = Attributes<NFTA_SET_ELEM_MAX + 1>;

Result<Set*> named_set(Transaction& transaction, Request& request, Table& table,
                       const ListParts& parts) {
    const Attribute* name = parts[NFTA_SET_ELEM_LIST_SET];
    Set* set = name == nullptr ? nullptr : table.find_set(name->text());
    if (set == nullptr && parts[NFTA_SET_ELEM_LIST_SET_ID] != nullptr)
        set = transaction.set_by_id(table, parts.number(NFTA_SET_ELEM_LIST_SET_ID));
    if (set == nullptr)
        return request.refuse(ENOENT, name, nullptr);
    return set;
}

Result<void> parse_key(const Set& set, ParseContext& context, const Attribute* attribute, u8* out) {
    TRY(const Data data, parse_value(context, attribute));
    if (data.length != set.key_length)
        return fail(EINVAL);
    __builtin_memcpy(out, data.bytes, data.length);
    return {};
}

// What names an element: its key, and its flags.
Result<void> parse_identity(const Set& set, ParseContext& context, const Parts& parts,
                            Element& out) {
    const u32 flags = parts.number(NFTA_SET_ELEM_FLAGS);
    if ((flags & ~u32{NFT_SET_ELEM_INTERVAL_END | NFT_SET_ELEM_CATCHALL}) != 0)
        return fail(EOPNOTSUPP);
    out.interval_end = (flags & NFT_SET_ELEM_INTERVAL_END) != 0;
    out.catch_all = (flags & NFT_SET_ELEM_CATCHALL) != 0;
    if (out.interval_end && (!set.intervals() || out.catch_all))
        return fail(EINVAL);
    const bool has_key = parts[NFTA_SET_ELEM_KEY] != nullptr;
    if (has_key == out.catch_all)
        return fail(EINVAL);
    if (has_key)
        TRY(parse_key(set, context, parts[NFTA_SET_ELEM_KEY], out.key));
    if (parts[NFTA_SET_ELEM_KEY_END] != nullptr) {
        if (!set.ranges())
            return fail(EINVAL);
        TRY(parse_key(set, context, parts[NFTA_SET_ELEM_KEY_END], out.key_end));
        out.has_key_end = true;
    } else {
        __builtin_memcpy(out.key_end, out.key, sizeof out.key_end);
    }
    return {};
}

Result<void> parse_times(const Set& set, u64 now, const Parts& parts, Element& out) {
    u64 timeout = out.interval_end ? 0 : set.timeout_ms;
    if (parts[NFTA_SET_ELEM_TIMEOUT] != nullptr) {
        if (!set.timed())
            return fail(EINVAL);
        timeout = parts.number64(NFTA_SET_ELEM_TIMEOUT);
    }
    u64 left = timeout;
    if (parts[NFTA_SET_ELEM_EXPIRATION] != nullptr) {
        if (!set.timed() || timeout == 0)
            return fail(EINVAL);
        left = parts.number64(NFTA_SET_ELEM_EXPIRATION);
        if (left > timeout)
            return fail(ERANGE);
    }
    if (timeout == 0)
        return {};
    if (timeout > ~u64{0} / 4'000'000)
        return fail(ERANGE);
    out.has_timeout = true;
    out.timeout_ms = timeout;
    out.expires_at = now + left * 1'000'000;
    return {};
}

Result<void> parse_contents(const Set& set, ParseContext& context, const Parts& parts,
                            Element& out) {
    if (parts[NFTA_SET_ELEM_DATA] != nullptr) {
        if (!set.is_map() || out.interval_end)
            return fail(EINVAL);
        TRY(out.data, parse_data(context, parts[NFTA_SET_ELEM_DATA]));
        if (out.data.verdict != set.verdicts ||
            (!set.verdicts && out.data.length != set.data_length))
            return fail(EINVAL);
        // An anonymous chain is for one rule to lead to.
        if (const Chain* target =
                out.data.chain ? context.table.find_chain(*out.data.chain) : nullptr;
            target != nullptr && (target->flags & NFT_CHAIN_BINDING) != 0)
            return fail(EINVAL);
        out.has_data = true;
    } else if (set.is_map() && !out.interval_end) {
        return fail(EINVAL);
    }
    if (parts[NFTA_SET_ELEM_OBJREF] != nullptr) {
        if (!set.objects() || out.interval_end)
            return fail(EINVAL);
        Object* object =
            context.table.find_object(parts.text(NFTA_SET_ELEM_OBJREF), set.object_type);
        if (object == nullptr)
            return fail(ENOENT);
        out.object = Ref<Object>::share(object);
    }
    return {};
}

Result<void> parse_state(const Set& set, ParseContext& context, const Parts& parts, Element& out) {
    const auto add = [&](std::span<const u8> bytes) -> Result<void> {
        TRY(Owned<Expression> one, parse_expression(context, bytes));
        if (!one->stateful() || out.interval_end)
            return fail(EOPNOTSUPP);
        const usize index = out.expressions.size();
        if (!set.expressions.empty() &&
            (index >= set.expressions.size() || set.expressions[index]->name() != one->name()))
            return fail(EOPNOTSUPP);
        return out.expressions.push_back(std::move(one));
    };
    if (parts[NFTA_SET_ELEM_EXPR] != nullptr)
        return add(parts.data(NFTA_SET_ELEM_EXPR));
    if (parts[NFTA_SET_ELEM_EXPRESSIONS] != nullptr) {
        AttributeReader reader(parts.data(NFTA_SET_ELEM_EXPRESSIONS));
        Attribute one;
        while (reader.next(one)) {
            if (out.expressions.size() == Set::most_expressions_each)
                return fail(E2BIG);
            if (one.type != NFTA_LIST_ELEM)
                return fail(EINVAL);
            TRY(add(one.data));
        }
        return {};
    }
    if (out.interval_end)
        return {};
    for (const Owned<Expression>& one : set.expressions) {
        Owned<Expression> copy = one->clone();
        if (!copy)
            return fail(ENOMEM);
        TRY(out.expressions.push_back(std::move(copy)));
    }
    return {};
}

bool same_contents(const Element& a, const Element& b) {
    return a.has_data == b.has_data && a.object.get() == b.object.get() &&
           (!a.has_data ||
            (a.data.verdict == b.data.verdict && a.data.length == b.data.length &&
             a.data.code == b.data.code && a.data.chain == b.data.chain &&
             __builtin_memcmp(a.data.bytes, b.data.bytes, sizeof a.data.bytes) == 0));
}

Result<void> add_element(Transaction& transaction, Request& request, ParseContext& context,
                         Set& set, const Attribute& attribute) {
    Parts parts;
    TRY(parts.parse(attribute.data));
    TRY(Owned<Element> element, make_owned<Element>());
    const u64 now = transaction.filter.stack.now();
    TRY(parse_identity(set, context, parts, *element));
    TRY(parse_times(set, now, parts, *element));
    TRY(parse_contents(set, context, parts, *element));
    TRY(parse_state(set, context, parts, *element));
    TRY(element->user_data.append(parts.data(NFTA_SET_ELEM_USERDATA)));
    bool same = false, over = false;
    const bool there = set.with_exact(*element, [&](Element& old) {
        same = same_contents(old, *element);
        over = old.expires_at != 0 && old.expires_at <= now;
    });
    if (there && over)
        TRY(transaction.remove_element(set, *element));
    else if (there) {
        if (same && !request.wants(netlink::flag_exclusive))
            return {};
        return fail(EEXIST);
    }
    if (element->data.chain)
        transaction.check_needed = true;
    MessageWriter out;
    if (!set.anonymous() && (transaction.anybody_listens() || request.wants(netlink::flag_echo))) {
        if (!write_element(out, transaction.filter, NFT_MSG_NEWSETELEM, context.table, set,
                           *element, Heading::of(request)))
            return fail(ENOMEM);
        TRY(transaction.note(out, request));
    }
    return transaction.insert_element(set, std::move(element));
}

Result<void> remove_one(Transaction& transaction, Request& request, ParseContext& context, Set& set,
                        const Attribute& attribute, bool destroy) {
    Parts parts;
    TRY(parts.parse(attribute.data));
    TRY(Owned<Element> element, make_owned<Element>());
    TRY(parse_identity(set, context, parts, *element));
    if (transaction.anybody_listens() || request.wants(netlink::flag_echo)) {
        MessageWriter out;
        bool written = true;
        (void)set.with_exact(*element, [&](const Element& there) {
            written = write_element(out, transaction.filter, NFT_MSG_DELSETELEM, context.table, set,
                                    there, Heading::of(request));
        });
        if (!written)
            return fail(ENOMEM);
        if (!out.empty())
            TRY(transaction.note(out, request));
    }
    if (auto removed = transaction.remove_element(set, *element); !removed) {
        if (destroy && removed.error().code == ENOENT)
            return {};
        return request.refuse(removed.error().code, &attribute, nullptr);
    }
    return {};
}

ParseContext context_for(Transaction& transaction, Request& request, Table& own) {
    return {.transaction = transaction,
            .table = own,
            .chain = nullptr,
            .family = own.family,
            .ack = request.ack};
}

} // namespace

Result<void> new_elements(Transaction& transaction, Request& request) {
    ListParts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    if (parts[NFTA_SET_ELEM_LIST_ELEMENTS] == nullptr)
        return fail(EINVAL);
    TRY(Table * table, named_table(transaction, request, parts[NFTA_SET_ELEM_LIST_TABLE]));
    TRY(Set * set, named_set(transaction, request, *table, parts));
    if (set->constant() && (set->bound || in_use(*table, *set)))
        return fail(EBUSY);
    TRY(Table * own, transaction.edit(*table));
    ParseContext context = context_for(transaction, request, *own);
    AttributeReader reader(parts.data(NFTA_SET_ELEM_LIST_ELEMENTS));
    Attribute one;
    while (reader.next(one))
        if (auto added = add_element(transaction, request, context, *set, one); !added)
            return request.refuse(added.error().code, &one, nullptr);
    if (transaction.check_needed && transaction.check_at_once)
        TRY(transaction.validate(*own));
    return {};
}

Result<void> delete_elements(Transaction& transaction, Request& request) {
    ListParts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    TRY(Table * table, named_table(transaction, request, parts[NFTA_SET_ELEM_LIST_TABLE]));
    TRY(Set * set, named_set(transaction, request, *table, parts));
    if (set->anonymous())
        return fail(EOPNOTSUPP);
    if (set->constant() && in_use(*table, *set))
        return fail(EBUSY);
    TRY(Table * own, transaction.edit(*table));
    if (parts[NFTA_SET_ELEM_LIST_ELEMENTS] == nullptr)
        return transaction.flush_elements(*set);
    ParseContext context = context_for(transaction, request, *own);
    const bool destroy = message_of(request) == message_destroy_element;
    AttributeReader reader(parts.data(NFTA_SET_ELEM_LIST_ELEMENTS));
    Attribute one;
    while (reader.next(one))
        TRY(remove_one(transaction, request, context, *set, one, destroy));
    return {};
}

} // namespace kernel::net::filter
