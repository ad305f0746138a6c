// Requests for sets.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/net/filter/requests.hpp"

namespace kernel::net::filter {

namespace {

using Parts = Attributes<NFTA_SET_MAX + 1>;

constexpr u32 known_flags = NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | NFT_SET_INTERVAL | NFT_SET_MAP |
                            NFT_SET_TIMEOUT | NFT_SET_EVAL | NFT_SET_OBJECT | NFT_SET_CONCAT |
                            NFT_SET_EXPR;
constexpr u32 verdict_bytes = 16; // sizeof(struct nft_verdict)
constexpr u32 most_object_type = 10;

Result<void> note_set(Transaction& transaction, const Request& request, u16 message,
                      const Table& table, const Set& set) {
    if (set.anonymous())
        return {};
    MessageWriter out;
    if (!write_set(out, transaction.filter, message, table, set, Heading::of(request)))
        return fail(ENOMEM);
    return transaction.note(out, request);
}

Result<void> parse_flags(const Parts& parts, Set& set) {
    set.flags = parts.number(NFTA_SET_FLAGS);
    if ((set.flags & ~known_flags) != 0)
        return fail(EOPNOTSUPP);
    if ((set.flags & (NFT_SET_MAP | NFT_SET_OBJECT)) == (NFT_SET_MAP | NFT_SET_OBJECT))
        return fail(EOPNOTSUPP);
    if ((set.flags & (NFT_SET_EVAL | NFT_SET_OBJECT)) == (NFT_SET_EVAL | NFT_SET_OBJECT))
        return fail(EOPNOTSUPP);
    constexpr u32 fixed = NFT_SET_ANONYMOUS | NFT_SET_TIMEOUT | NFT_SET_EVAL;
    if ((set.flags & NFT_SET_ANONYMOUS) != 0 && (set.flags & fixed) != NFT_SET_ANONYMOUS)
        return fail(EOPNOTSUPP);
    if ((set.flags & NFT_SET_CONSTANT) != 0 && (set.flags & (NFT_SET_EVAL | NFT_SET_TIMEOUT)) != 0)
        return fail(EOPNOTSUPP);
    return {};
}

Result<void> parse_types(const Parts& parts, Set& set) {
    set.key_type = parts.number(NFTA_SET_KEY_TYPE);
    if ((set.key_type & NFT_DATA_RESERVED_MASK) == NFT_DATA_RESERVED_MASK)
        return fail(EINVAL);
    set.key_length = parts.number(NFTA_SET_KEY_LEN);
    if (set.key_length == 0 || set.key_length > Set::longest_key)
        return fail(EINVAL);
    if (parts[NFTA_SET_DATA_TYPE] != nullptr) {
        if (!set.is_map())
            return fail(EINVAL);
        set.data_type = parts.number(NFTA_SET_DATA_TYPE);
        set.verdicts = set.data_type == NFT_DATA_VERDICT;
        if ((set.data_type & NFT_DATA_RESERVED_MASK) == NFT_DATA_RESERVED_MASK && !set.verdicts)
            return fail(EINVAL);
        set.data_length = set.verdicts ? verdict_bytes : parts.number(NFTA_SET_DATA_LEN);
        if (set.data_length == 0 || set.data_length > NFT_DATA_VALUE_MAXLEN)
            return fail(EINVAL);
    } else if (set.is_map()) {
        return fail(EINVAL);
    }
    if (parts[NFTA_SET_OBJ_TYPE] != nullptr) {
        set.object_type = parts.number(NFTA_SET_OBJ_TYPE);
        if (!set.objects() || set.object_type == 0 || set.object_type > most_object_type)
            return fail(EINVAL);
    } else if (set.objects()) {
        return fail(EINVAL);
    }
    return {};
}

Result<void> parse_times(const Parts& parts, Set& set) {
    if (parts[NFTA_SET_TIMEOUT] != nullptr) {
        if (!set.timed())
            return fail(EINVAL);
        set.timeout_ms = parts.number64(NFTA_SET_TIMEOUT);
        if (set.timeout_ms > ~u64{0} / 4'000'000)
            return fail(ERANGE);
    }
    if (parts[NFTA_SET_GC_INTERVAL] != nullptr) {
        if (!set.timed())
            return fail(EINVAL);
        set.collect_interval = parts.number(NFTA_SET_GC_INTERVAL);
    }
    set.policy = parts.number(NFTA_SET_POLICY, NFT_SET_POL_PERFORMANCE);
    return {};
}

Result<void> parse_fields(std::span<const u8> list, Set& set) {
    AttributeReader reader(list);
    Attribute one;
    u32 total = 0;
    while (reader.next(one)) {
        if (one.type != NFTA_LIST_ELEM)
            return fail(EINVAL);
        Attributes<NFTA_SET_FIELD_MAX + 1> field;
        TRY(field.parse(one.data));
        const u32 bytes = field.number(NFTA_SET_FIELD_LEN);
        if (set.fields == Set::most_fields)
            return fail(E2BIG);
        if (bytes == 0 || bytes > Set::longest_key)
            return fail(E2BIG);
        set.field_lengths[set.fields++] = bytes;
        total += (bytes + 3) & ~3u;
    }
    return total == set.key_length ? Result<void>() : Result<void>(fail(EINVAL));
}

Result<void> parse_description(const Parts& parts, Set& set) {
    Attributes<NFTA_SET_DESC_MAX + 1> description;
    TRY(description.parse(parts.data(NFTA_SET_DESC)));
    set.size = description.number(NFTA_SET_DESC_SIZE);
    if (description[NFTA_SET_DESC_CONCAT] != nullptr)
        TRY(parse_fields(description.data(NFTA_SET_DESC_CONCAT), set));
    if ((set.flags & NFT_SET_CONCAT) != 0 && set.fields == 0 && set.intervals())
        return fail(EINVAL);
    return {};
}

Result<void> parse_set_expressions(Transaction& transaction, Request& request, Table& own,
                                   const Parts& parts, Set& set) {
    ParseContext context{.transaction = transaction,
                         .table = own,
                         .chain = nullptr,
                         .family = own.family,
                         .ack = request.ack};
    const auto add = [&](std::span<const u8> bytes) -> Result<void> {
        TRY(Owned<Expression> one, parse_expression(context, bytes));
        if (!one->stateful())
            return fail(EOPNOTSUPP);
        return set.expressions.push_back(std::move(one));
    };
    if (parts[NFTA_SET_EXPR] != nullptr)
        return add(parts.data(NFTA_SET_EXPR));
    AttributeReader reader(parts.data(NFTA_SET_EXPRESSIONS));
    Attribute one;
    while (reader.next(one)) {
        if (set.expressions.size() == Set::most_expressions_each)
            return fail(E2BIG);
        if (one.type != NFTA_LIST_ELEM)
            return fail(EINVAL);
        TRY(add(one.data));
    }
    return {};
}

// "__set%d" becomes the first that is free.
Result<String> free_name(const Table& table, std::string_view pattern) {
    const usize at = pattern.find("%d");
    if (at == std::string_view::npos)
        return String::from(pattern);
    if (pattern.substr(at + 2).find('%') != std::string_view::npos || at + 2 != pattern.size())
        return fail(EINVAL);
    for (u32 number = 0; number < most_sets; number++) {
        char digits[16];
        const usize length = log::format(digits, sizeof digits, "{}", number);
        TRY(String name, String::from(pattern.substr(0, at)));
        TRY(name.append(std::string_view(digits, length)));
        if (table.find_set(name.view()) == nullptr)
            return name;
    }
    return fail(ENFILE);
}

} // namespace

Result<void> new_set(Transaction& transaction, Request& request) {
    Parts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    for (const u16 needed : {NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_KEY_LEN, NFTA_SET_ID})
        if (parts[needed] == nullptr)
            return fail(EINVAL);
    TRY(String name, checked_name(request, parts[NFTA_SET_NAME]));
    TRY(Ref<Set> set, make_ref<Set>());
    TRY(parse_flags(parts, *set));
    TRY(parse_types(parts, *set));
    TRY(parse_times(parts, *set));
    TRY(parse_description(parts, *set));
    TRY(Table * table, named_table(transaction, request, parts[NFTA_SET_TABLE]));
    if (Set* there = table->find_set(name.view())) {
        if (request.wants(netlink::flag_exclusive))
            return request.refuse(EEXIST, parts[NFTA_SET_NAME], nullptr);
        if (request.wants(netlink::flag_replace))
            return fail(EOPNOTSUPP);
        const bool same = there->key_length == set->key_length && there->flags == set->flags &&
                          there->data_length == set->data_length &&
                          there->object_type == set->object_type;
        return same ? Result<void>()
                    : Result<void>(request.refuse(EEXIST, parts[NFTA_SET_NAME], nullptr));
    }
    if (!request.wants(netlink::flag_create))
        return fail(ENOENT);
    if (table->sets.size() >= most_sets)
        return fail(ENFILE);
    TRY(Table * own, transaction.edit(*table));
    TRY(parse_set_expressions(transaction, request, *own, parts, *set));
    if (set->anonymous()) {
        TRY(set->name, free_name(*own, name.view()));
    } else {
        set->name = std::move(name);
    }
    set->id = parts.number(NFTA_SET_ID);
    set->transaction = transaction.number;
    set->handle = own->new_handle();
    TRY(set->user_data.append(parts.data(NFTA_SET_USERDATA)));
    Set& added = *set;
    TRY(own->sets.push_back(std::move(set)));
    return note_set(transaction, request, NFT_MSG_NEWSET, *own, added);
}

Result<void> delete_set(Transaction& transaction, Request& request) {
    Parts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    TRY(Table * table, named_table(transaction, request, parts[NFTA_SET_TABLE]));
    const bool by_handle = parts[NFTA_SET_HANDLE] != nullptr;
    const Attribute* which = by_handle ? parts[NFTA_SET_HANDLE] : parts[NFTA_SET_NAME];
    if (which == nullptr)
        return fail(EINVAL);
    Set* set = by_handle ? table->find_set(parts.number64(NFTA_SET_HANDLE))
                         : table->find_set(which->text());
    if (set == nullptr) {
        if (message_of(request) == message_destroy_set)
            return {};
        return request.refuse(ENOENT, which, nullptr);
    }
    if (in_use(*table, *set) || (request.wants(netlink::flag_replace) && set->count() > 0))
        return request.refuse(EBUSY, which, nullptr);
    TRY(note_set(transaction, request, NFT_MSG_DELSET, *table, *set));
    TRY(Table * own, transaction.edit(*table));
    for (usize i = 0; i < own->sets.size(); i++)
        if (own->sets[i].get() == set) {
            own->sets.erase(i);
            break;
        }
    return {};
}

} // namespace kernel::net::filter
