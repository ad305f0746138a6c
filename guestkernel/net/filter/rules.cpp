// Requests for rules.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/requests.hpp"

namespace kernel::net::filter {

namespace {

using Parts = Attributes<NFTA_RULE_MAX + 1>;

constexpr usize nowhere = ~usize{0};

usize place_of(const Chain& chain, u64 handle) {
    for (usize i = 0; i < chain.rules.size(); i++)
        if (chain.rules[i]->handle == handle)
            return i;
    return nowhere;
}

usize place_of_id(const Transaction& transaction, const Chain& chain, u32 id) {
    for (usize i = 0; i < chain.rules.size(); i++)
        if (chain.rules[i]->transaction == transaction.number && chain.rules[i]->id == id)
            return i;
    return nowhere;
}

Result<void> note_rule(Transaction& transaction, const Request& request, u16 message,
                       const Table& table, const Chain& chain, usize place) {
    if (!transaction.anybody_listens() && !request.wants(netlink::flag_echo))
        return {};
    MessageWriter out;
    const u64 previous = place > 0 ? chain.rules[place - 1]->handle : 0;
    Heading heading = Heading::of(request);
    if (message == NFT_MSG_NEWRULE)
        heading.flags =
            static_cast<u16>(request.flags() & (netlink::flag_append | netlink::flag_create));
    if (!write_rule(out, transaction.filter, message, table, chain, *chain.rules[place], previous,
                    heading))
        return fail(ENOMEM);
    return transaction.note(out, request);
}

Result<Chain*> named_chain(Transaction& transaction, Request& request, Table& table,
                           const Parts& parts) {
    if (const Attribute* name = parts[NFTA_RULE_CHAIN]) {
        Chain* chain = table.find_chain(name->text());
        if (chain == nullptr)
            return request.refuse(ENOENT, name, nullptr);
        return chain;
    }
    if (const Attribute* id = parts[NFTA_RULE_CHAIN_ID]) {
        Chain* chain = transaction.chain_by_id(table, id->as<Be32>().get());
        if (chain == nullptr)
            return request.refuse(ENOENT, id, nullptr);
        return chain;
    }
    return fail(EINVAL);
}

Result<Ref<Rule>> parse_rule(Transaction& transaction, Request& request, Table& own,
                             const Chain& chain, const Parts& parts) {
    TRY(Ref<Rule> rule, make_ref<Rule>());
    rule->transaction = transaction.number;
    rule->id = parts.number(NFTA_RULE_ID);
    rule->handle = own.new_handle();
    TRY(rule->user_data.append(parts.data(NFTA_RULE_USERDATA)));
    ParseContext context{.transaction = transaction,
                         .table = own,
                         .chain = &chain,
                         .family = own.family,
                         .ack = request.ack};
    if (parts[NFTA_RULE_COMPAT] != nullptr) {
        Attributes<NFTA_RULE_COMPAT_MAX + 1> compat;
        TRY(compat.parse(parts.data(NFTA_RULE_COMPAT)));
        if (compat[NFTA_RULE_COMPAT_PROTO] == nullptr || compat[NFTA_RULE_COMPAT_FLAGS] == nullptr)
            return fail(EINVAL);
        context.compat_protocol = static_cast<u8>(compat.number(NFTA_RULE_COMPAT_PROTO));
        context.compat_inverted = (compat.number(NFTA_RULE_COMPAT_FLAGS) & 2) != 0;
    }
    AttributeReader reader(parts.data(NFTA_RULE_EXPRESSIONS));
    Attribute one;
    while (reader.next(one)) {
        if (one.type != NFTA_LIST_ELEM || rule->expressions.size() == most_expressions)
            return fail(EINVAL);
        TRY(Owned<Expression> expression, parse_expression(context, one.data));
        TRY(rule->expressions.push_back(std::move(expression)));
    }
    return rule;
}

bool needs_check(const Rule& rule) {
    // Whether expressions may stand where they do depends on the chains that lead there.
    return !rule.expressions.empty();
}

// Where the new rule goes. `replace`: instead of the one that is there.
struct Position {
    usize place = 0;
    bool replace = false;
};

Result<Position> find_position(Transaction& transaction, Request& request, const Chain& chain,
                               const Parts& parts) {
    if (const Attribute* handle = parts[NFTA_RULE_HANDLE]) {
        const usize at = place_of(chain, parts.number64(NFTA_RULE_HANDLE));
        if (at == nowhere)
            return request.refuse(ENOENT, handle, nullptr);
        if (request.wants(netlink::flag_exclusive))
            return request.refuse(EEXIST, handle, nullptr);
        if (!request.wants(netlink::flag_replace))
            return fail(EOPNOTSUPP);
        return Position{at, true};
    }
    if (!request.wants(netlink::flag_create) || request.wants(netlink::flag_replace))
        return fail(EINVAL);
    const bool append = request.wants(netlink::flag_append);
    const Attribute* which = parts[NFTA_RULE_POSITION] != nullptr ? parts[NFTA_RULE_POSITION]
                                                                  : parts[NFTA_RULE_POSITION_ID];
    if (which == nullptr)
        return Position{append ? chain.rules.size() : 0, false};
    const usize at = which == parts[NFTA_RULE_POSITION]
                         ? place_of(chain, parts.number64(NFTA_RULE_POSITION))
                         : place_of_id(transaction, chain, parts.number(NFTA_RULE_POSITION_ID));
    if (at == nowhere)
        return request.refuse(ENOENT, which, nullptr);
    return Position{append ? at + 1 : at, false};
}

} // namespace

Result<void> drop_rule(Transaction& transaction, Table& own, const Rule& rule) {
    // A list rather than recursion: anonymous chains nest as deep as programs like.
    Vector<Ref<const Rule>> left;
    TRY(left.push_back(Ref<const Rule>::share(&rule)));
    while (!left.empty()) {
        const Ref<const Rule> going = left.back();
        left.pop_back();
        for (const Owned<Expression>& expression : going->expressions) {
            if (const Set* set = expression->set(); set != nullptr && set->anonymous())
                for (usize i = 0; i < own.sets.size(); i++)
                    if (own.sets[i].get() == set) {
                        own.sets.erase(i);
                        break;
                    }
            const ChainKey* target = expression->target();
            Chain* chain = target == nullptr ? nullptr : own.find_chain(*target);
            if (chain == nullptr || (chain->flags & NFT_CHAIN_BINDING) == 0)
                continue;
            for (const Ref<Rule>& inner : chain->rules)
                TRY(left.push_back(inner));
            transaction.forget_chain(*chain);
            for (usize i = 0; i < own.chains.size(); i++)
                if (own.chains[i].get() == chain) {
                    own.chains.erase(i);
                    break;
                }
        }
    }
    return {};
}

Result<void> new_rule(Transaction& transaction, Request& request) {
    Parts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    TRY(Table * table, named_table(transaction, request, parts[NFTA_RULE_TABLE]));
    TRY(Chain * chain, named_chain(transaction, request, *table, parts));
    if (chain->key->bound)
        return fail(EOPNOTSUPP);
    TRY(const Position position, find_position(transaction, request, *chain, parts));
    if (chain->rules.size() >= most_rules)
        return fail(EMFILE);
    TRY(Table * own, transaction.edit(*table));
    TRY(Chain * copy, transaction.edit(*own, *chain));
    TRY(Ref<Rule> rule, parse_rule(transaction, request, *own, *copy, parts));
    const bool check = needs_check(*rule);
    if (position.replace) {
        TRY(note_rule(transaction, request, NFT_MSG_DELRULE, *own, *copy, position.place));
        const Ref<Rule> old = copy->rules[position.place];
        copy->rules[position.place] = std::move(rule);
        TRY(drop_rule(transaction, *own, *old));
    } else {
        TRY(copy->rules.insert(position.place, std::move(rule)));
    }
    if (check) {
        transaction.check_needed = true;
        if (transaction.check_at_once)
            TRY(transaction.validate(*own));
    }
    return note_rule(transaction, request, NFT_MSG_NEWRULE, *own, *copy, position.place);
}

namespace {

Result<void> delete_at(Transaction& transaction, const Request& request, Table& own, Chain& chain,
                       usize place) {
    TRY(note_rule(transaction, request, NFT_MSG_DELRULE, own, chain, place));
    const Ref<Rule> going = chain.rules[place];
    chain.rules.erase(place);
    return drop_rule(transaction, own, *going);
}

Result<void> delete_all(Transaction& transaction, const Request& request, Table& own,
                        Chain& chain) {
    TRY(Chain * copy, transaction.edit(own, chain));
    while (!copy->rules.empty())
        TRY(delete_at(transaction, request, own, *copy, copy->rules.size() - 1));
    return {};
}

} // namespace

Result<void> delete_rule(Transaction& transaction, Request& request) {
    Parts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    TRY(Table * table, named_table(transaction, request, parts[NFTA_RULE_TABLE]));
    const bool destroy = message_of(request) == message_destroy_rule;
    if (parts[NFTA_RULE_CHAIN] == nullptr) {
        TRY(Table * own, transaction.edit(*table));
        // By name: anonymous chains go with the rules that lead to them.
        Vector<Ref<Chain>> all;
        TRY(all.append(own->chains.span()));
        for (const Ref<Chain>& chain : all)
            if (Chain* there = own->find_chain(*chain->key);
                there != nullptr && (there->flags & NFT_CHAIN_BINDING) == 0)
                TRY(delete_all(transaction, request, *own, *there));
        return {};
    }
    auto named = named_chain(transaction, request, *table, parts);
    if (!named)
        return destroy && named.error().code == ENOENT ? Result<void>()
                                                       : Result<void>(fail(named.error().code));
    Chain* chain = *named;
    if ((chain->flags & NFT_CHAIN_BINDING) != 0)
        return fail(EOPNOTSUPP);
    const Attribute* which =
        parts[NFTA_RULE_HANDLE] != nullptr ? parts[NFTA_RULE_HANDLE] : parts[NFTA_RULE_ID];
    if (which == nullptr) {
        TRY(Table * own, transaction.edit(*table));
        return delete_all(transaction, request, *own, *chain);
    }
    const usize place = which == parts[NFTA_RULE_HANDLE]
                            ? place_of(*chain, parts.number64(NFTA_RULE_HANDLE))
                            : place_of_id(transaction, *chain, parts.number(NFTA_RULE_ID));
    if (place == nowhere)
        return destroy ? Result<void>() : Result<void>(request.refuse(ENOENT, which, nullptr));
    TRY(Table * own, transaction.edit(*table));
    TRY(Chain * copy, transaction.edit(*own, *chain));
    return delete_at(transaction, request, *own, *copy, place);
}

} // namespace kernel::net::filter
