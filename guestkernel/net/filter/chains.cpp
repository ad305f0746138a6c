// Requests for chains.
#include <linux/errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/net/filter/requests.hpp"

namespace kernel::net::filter {

namespace {

using Parts = Attributes<NFTA_CHAIN_MAX + 1>;

constexpr u32 known_flags = NFT_CHAIN_BASE | NFT_CHAIN_BINDING; // without offload
constexpr i32 priority_track = -200;

Result<void> note_chain(Transaction& transaction, const Request& request, u16 message,
                        const Table& table, const Chain& chain) {
    MessageWriter out;
    if (!write_chain(out, transaction.filter, message, table, chain, Heading::of(request)))
        return fail(ENOMEM);
    return transaction.note(out, request);
}

struct Hook {
    ChainType type = ChainType::Filter;
    HookPoint point = HookPoint::PreRouting;
    i32 priority = 0;
};

Result<ChainType> parse_type(Request& request, const Attribute* attribute, u8 family) {
    if (attribute == nullptr || attribute->text() == "filter")
        return ChainType::Filter;
    if (attribute->text() == "nat")
        return ChainType::Nat;
    if (attribute->text() == "route" && family != NFPROTO_UNSPEC)
        return ChainType::Route;
    return request.refuse(ENOENT, attribute, nullptr);
}

Result<Hook> parse_hook(Request& request, const Parts& parts, u8 family) {
    Attributes<NFTA_HOOK_MAX + 1> hook;
    TRY(hook.parse(parts.data(NFTA_CHAIN_HOOK)));
    if (hook[NFTA_HOOK_HOOKNUM] == nullptr || hook[NFTA_HOOK_PRIORITY] == nullptr)
        return request.refuse(ENOENT, parts[NFTA_CHAIN_HOOK], nullptr);
    Hook out;
    TRY(out.type, parse_type(request, parts[NFTA_CHAIN_TYPE], family));
    const u32 number = hook.number(NFTA_HOOK_HOOKNUM);
    out.priority = static_cast<i32>(hook.number(NFTA_HOOK_PRIORITY));
    if (number >= NF_INET_NUMHOOKS)
        return fail(EOPNOTSUPP);
    out.point = static_cast<HookPoint>(number);
    const bool fits = out.type == ChainType::Filter ||
                      (out.type == ChainType::Nat ? out.point != HookPoint::Forward
                                                  : out.point == HookPoint::Output);
    if (!fits || (out.type == ChainType::Nat && out.priority <= priority_track))
        return fail(EOPNOTSUPP);
    return out;
}

Result<Ref<ChainCounter>> parse_counters(const Attribute& attribute) {
    Attributes<NFTA_COUNTER_MAX + 1> parts;
    TRY(parts.parse(attribute.data));
    if (parts[NFTA_COUNTER_BYTES] == nullptr || parts[NFTA_COUNTER_PACKETS] == nullptr)
        return fail(EINVAL);
    TRY(Ref<ChainCounter> out, make_ref<ChainCounter>());
    out->values.bytes.store(parts.number64(NFTA_COUNTER_BYTES));
    out->values.packets.store(parts.number64(NFTA_COUNTER_PACKETS));
    return out;
}

Result<void> check_policy(Request& request, const Parts& parts, const Chain* chain) {
    const Attribute* policy = parts[NFTA_CHAIN_POLICY];
    if (policy == nullptr)
        return {};
    if (chain != nullptr ? !chain->base : parts[NFTA_CHAIN_HOOK] == nullptr)
        return request.refuse(EOPNOTSUPP, policy, nullptr);
    const u32 value = parts.number(NFTA_CHAIN_POLICY);
    return value == NF_DROP || value == NF_ACCEPT ? Result<void>() : Result<void>(fail(EINVAL));
}

Result<void> rename_chain(Transaction& transaction, Request& request, Table& own, Chain& chain,
                          const Attribute& name) {
    if (own.find_chain(name.text()) != nullptr)
        return request.refuse(EEXIST, &name, nullptr);
    TRY(String wanted, checked_name(request, &name));
    return transaction.rename(*chain.key, std::move(wanted));
}

Result<void> update_chain(Transaction& transaction, Request& request, Table& table, Chain& chain,
                          const Parts& parts) {
    if (parts[NFTA_CHAIN_HOOK] != nullptr) {
        if (!chain.base)
            return request.refuse(EEXIST, parts[NFTA_CHAIN_NAME], nullptr);
        TRY(const Hook hook, parse_hook(request, parts, table.family));
        if (hook.type != chain.type || hook.point != chain.point || hook.priority != chain.priority)
            return request.refuse(EEXIST, parts[NFTA_CHAIN_NAME], nullptr);
    }
    Ref<ChainCounter> counter;
    if (parts[NFTA_CHAIN_COUNTERS] != nullptr) {
        if (!chain.base)
            return fail(EOPNOTSUPP);
        TRY(counter, parse_counters(*parts[NFTA_CHAIN_COUNTERS]));
    }
    const bool renamed = parts[NFTA_CHAIN_HANDLE] != nullptr && parts[NFTA_CHAIN_NAME] != nullptr &&
                         parts.text(NFTA_CHAIN_NAME) != chain.name();
    TRY(Table * own, transaction.edit(table));
    TRY(Chain * copy, transaction.edit(*own, chain));
    if (renamed)
        TRY(rename_chain(transaction, request, *own, *copy, *parts[NFTA_CHAIN_NAME]));
    if (counter)
        copy->counter = counter;
    if (parts[NFTA_CHAIN_POLICY] != nullptr)
        copy->policy_drop = parts.number(NFTA_CHAIN_POLICY) == NF_DROP;
    return note_chain(transaction, request, NFT_MSG_NEWCHAIN, *own, *copy);
}

Result<void> add_chain(Transaction& transaction, Request& request, Table& table, const Parts& parts,
                       u32 flags) {
    TRY(Ref<Chain> chain, make_ref<Chain>());
    chain->transaction = transaction.number;
    chain->id = parts.number(NFTA_CHAIN_ID);
    chain->flags = flags & ~u32{NFT_CHAIN_BASE};
    if (parts[NFTA_CHAIN_HOOK] != nullptr) {
        if ((flags & NFT_CHAIN_BINDING) != 0)
            return fail(EOPNOTSUPP);
        TRY(const Hook hook, parse_hook(request, parts, table.family));
        chain->base = true;
        chain->flags |= NFT_CHAIN_BASE;
        chain->type = hook.type;
        chain->point = hook.point;
        chain->priority = hook.priority;
        chain->policy_drop = parts.number(NFTA_CHAIN_POLICY, NF_ACCEPT) == NF_DROP;
        if (parts[NFTA_CHAIN_COUNTERS] != nullptr) {
            TRY(chain->counter, parse_counters(*parts[NFTA_CHAIN_COUNTERS]));
        }
    } else if ((flags & NFT_CHAIN_BASE) != 0) {
        return fail(EINVAL);
    }
    TRY(Table * own, transaction.edit(table));
    TRY(chain->user_data.append(parts.data(NFTA_CHAIN_USERDATA)));
    if (parts[NFTA_CHAIN_NAME] != nullptr) {
        TRY(String name, checked_name(request, parts[NFTA_CHAIN_NAME]));
        TRY(chain->key, transaction.new_chain_key(*own, name.view()));
    } else {
        if ((flags & NFT_CHAIN_BINDING) == 0)
            return fail(EINVAL);
        char name[32];
        const usize length =
            log::format(name, sizeof name, "__chain{}", ++transaction.filter.last_chain_number);
        TRY(chain->key, transaction.new_chain_key(*own, std::string_view(name, length)));
    }
    Chain* added = chain.get();
    TRY(own->chains.push_back(std::move(chain)));
    return note_chain(transaction, request, NFT_MSG_NEWCHAIN, *own, *added);
}

} // namespace

Result<void> new_chain(Transaction& transaction, Request& request) {
    Parts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    TRY(Table * table, named_table(transaction, request, parts[NFTA_CHAIN_TABLE]));
    const Attribute* name = parts[NFTA_CHAIN_NAME];
    Chain* chain = nullptr;
    if (parts[NFTA_CHAIN_HANDLE] != nullptr) {
        chain = table->find_chain(parts.number64(NFTA_CHAIN_HANDLE));
        if (chain == nullptr)
            return request.refuse(ENOENT, parts[NFTA_CHAIN_HANDLE], nullptr);
    } else if (name != nullptr) {
        chain = table->find_chain(name->text());
    } else if (parts[NFTA_CHAIN_ID] == nullptr) {
        return fail(EINVAL);
    }
    TRY(check_policy(request, parts, chain));
    const u32 flags = parts.number(NFTA_CHAIN_FLAGS, chain != nullptr ? chain->flags : 0);
    if ((flags & ~known_flags) != 0)
        return fail(EOPNOTSUPP);
    if (chain == nullptr)
        return add_chain(transaction, request, *table, parts, flags);
    if ((chain->flags & NFT_CHAIN_BINDING) != 0)
        return fail(EINVAL);
    if (request.wants(netlink::flag_exclusive))
        return request.refuse(EEXIST, name, nullptr);
    if (request.wants(netlink::flag_replace))
        return fail(EOPNOTSUPP);
    return update_chain(transaction, request, *table, *chain, parts);
}

Result<void> delete_chain(Transaction& transaction, Request& request) {
    Parts parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    TRY(Table * table, named_table(transaction, request, parts[NFTA_CHAIN_TABLE]));
    const bool by_handle = parts[NFTA_CHAIN_HANDLE] != nullptr;
    const Attribute* which = by_handle ? parts[NFTA_CHAIN_HANDLE] : parts[NFTA_CHAIN_NAME];
    if (which == nullptr)
        return fail(EINVAL);
    Chain* chain = by_handle ? table->find_chain(parts.number64(NFTA_CHAIN_HANDLE))
                             : table->find_chain(which->text());
    if (chain == nullptr) {
        if (message_of(request) == message_destroy_chain)
            return {};
        return request.refuse(ENOENT, which, nullptr);
    }
    if ((chain->flags & NFT_CHAIN_BINDING) != 0)
        return fail(EOPNOTSUPP);
    const u32 jumps = uses_of(*table, *chain);
    if (request.wants(netlink::flag_replace) && jumps + chain->rules.size() > 0)
        return request.refuse(EBUSY, which, nullptr);
    // Jumps from its own rules go with it.
    u32 own_jumps = 0;
    for (const Ref<Rule>& rule : chain->rules)
        for (const Owned<Expression>& expression : rule->expressions)
            own_jumps += expression->target() == chain->key.get() ? 1 : 0;
    if (jumps > own_jumps)
        return request.refuse(EBUSY, which, nullptr);
    TRY(note_chain(transaction, request, NFT_MSG_DELCHAIN, *table, *chain));
    const Ref<Chain> going = Ref<Chain>::share(chain);
    TRY(Table * own, transaction.edit(*table));
    for (const Ref<Rule>& rule : going->rules)
        TRY(drop_rule(transaction, *own, *rule));
    for (usize i = 0; i < own->chains.size(); i++)
        if (own->chains[i].get() == going.get()) {
            own->chains.erase(i);
            break;
        }
    transaction.forget_chain(*going);
    return {};
}

} // namespace kernel::net::filter
