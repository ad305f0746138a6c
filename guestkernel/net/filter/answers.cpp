// What programs ask for: single things, and dumps. A dump keeps the tables as they were when it
// began, so that it is consistent however long it takes; elements are told as they are.
#include <linux/errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/requests.hpp"

namespace kernel::net::filter {

namespace {

using netlink::Dump;

class TablesDump final : public netlink::DumpContext {
public:
    Ref<Stack> stack;
    Filter* filter = nullptr;
    Vector<Ref<Table>> tables;
    u8 family = 0;
    u16 message = 0;
    String table, name; // empty: any
    u32 type = 0;
    bool reset = false;

    bool wants(const Table& one) const {
        return (family == 0 || one.family == family) &&
               (table.empty() || one.name.view() == table.view());
    }
    bool wants_name(std::string_view one) const { return name.empty() || name.view() == one; }
};

// Goes through things in order; `words[0]` counts those that are told already.
class Walk {
public:
    Walk(Dump& dump, MessageWriter& out)
        : dump_(dump), out_(out), context_(static_cast<TablesDump&>(*dump.context)) {}
    TablesDump& context() { return context_; }
    MessageWriter& out() { return out_; }
    Heading heading() const { return Heading::of(dump_); }
    // True: this one is to be told now.
    bool due() { return at_++ >= dump_.words[0]; }
    // It was, or it did not fit. False: stop.
    bool told(bool fits) {
        if (fits)
            dump_.words[0]++;
        return fits;
    }

private:
    Dump& dump_;
    MessageWriter& out_;
    TablesDump& context_;
    u64 at_ = 0;
};

bool walk_tables(Walk& walk) {
    TablesDump& all = walk.context();
    for (const Ref<Table>& table : all.tables)
        if (all.wants(*table) && walk.due() &&
            !walk.told(
                write_table(walk.out(), *all.filter, NFT_MSG_NEWTABLE, *table, walk.heading())))
            return false;
    return true;
}

bool walk_chains(Walk& walk) {
    TablesDump& all = walk.context();
    for (const Ref<Table>& table : all.tables) {
        if (!all.wants(*table))
            continue;
        for (const Ref<Chain>& chain : table->chains)
            if (walk.due() && !walk.told(write_chain(walk.out(), *all.filter, NFT_MSG_NEWCHAIN,
                                                     *table, *chain, walk.heading())))
                return false;
    }
    return true;
}

void reset_rule(const Rule& rule) {
    for (const Owned<Expression>& expression : rule.expressions)
        expression->reset();
}

bool walk_rules_of(Walk& walk, const Table& table, const Chain& chain) {
    TablesDump& all = walk.context();
    u64 previous = 0;
    Heading heading = walk.heading();
    heading.flags |= netlink::flag_append;
    for (const Ref<Rule>& rule : chain.rules) {
        if (walk.due()) {
            if (!walk.told(write_rule(walk.out(), *all.filter, NFT_MSG_NEWRULE, table, chain, *rule,
                                      previous, heading)))
                return false;
            if (all.reset)
                reset_rule(*rule);
        }
        previous = rule->handle;
    }
    return true;
}

bool walk_rules(Walk& walk) {
    TablesDump& all = walk.context();
    for (const Ref<Table>& table : all.tables) {
        if (!all.wants(*table))
            continue;
        for (const Ref<Chain>& chain : table->chains)
            if (all.wants_name(chain->name()) && !walk_rules_of(walk, *table, *chain))
                return false;
    }
    return true;
}

bool walk_sets(Walk& walk) {
    TablesDump& all = walk.context();
    for (const Ref<Table>& table : all.tables) {
        if (!all.wants(*table))
            continue;
        for (const Ref<Set>& set : table->sets)
            if (walk.due() && !walk.told(write_set(walk.out(), *all.filter, NFT_MSG_NEWSET, *table,
                                                   *set, walk.heading())))
                return false;
    }
    return true;
}

bool walk_objects(Walk& walk) {
    TablesDump& all = walk.context();
    for (const Ref<Table>& table : all.tables) {
        if (!all.wants(*table))
            continue;
        for (const Ref<Object>& object : table->objects) {
            if ((all.type != 0 && object->type != all.type) || !walk.due())
                continue;
            if (!walk.told(write_object(walk.out(), *all.filter, NFT_MSG_NEWOBJ, *table, *object,
                                        walk.heading())))
                return false;
            if (all.reset)
                object->state->reset();
        }
    }
    return true;
}

// As many elements as fit into one message.
bool write_some_elements(Walk& walk, const Table& table, Set& set) {
    TablesDump& all = walk.context();
    MessageWriter& out = walk.out();
    const u64 now = all.filter->stack.now();
    begin_message(out, *all.filter, NFT_MSG_NEWSETELEM, table.family, walk.heading());
    out.text(NFTA_SET_ELEM_LIST_TABLE, table.name.view());
    out.text(NFTA_SET_ELEM_LIST_SET, set.name.view());
    const usize list = out.open(NFTA_SET_ELEM_LIST_ELEMENTS, true);
    constexpr usize most_of_list = 60000; // an attribute's length has 16 bits
    bool full = false;
    u64 told = 0;
    set.for_each([&](Element& element) {
        if (full || element.state == ElementState::Pending ||
            (element.expires_at != 0 && element.expires_at <= now) || !walk.due())
            return;
        const usize before = out.position();
        // An element's worst case is small; what would not fit is left for the next message.
        constexpr usize most_of_one = 1024;
        if (out.room() < most_of_one + element.user_data.size() || before - list > most_of_list) {
            full = true;
            return;
        }
        put_element(out, set, element, now);
        if (all.reset)
            for (const Owned<Expression>& one : element.expressions)
                one->reset();
        told++;
        (void)walk.told(true);
    });
    if (told == 0 && full) {
        out.cancel();
        return false;
    }
    out.close(list);
    return out.end() && !full;
}

bool walk_elements(Walk& walk) {
    TablesDump& all = walk.context();
    for (const Ref<Table>& table : all.tables)
        if (all.wants(*table))
            if (Set* set = table->find_set(all.name.view()))
                return write_some_elements(walk, *table, *set);
    return true;
}

Result<bool> step(Dump& dump, MessageWriter& out) {
    auto& context = static_cast<TablesDump&>(*dump.context);
    MutexGuard guard(context.filter->mutex);
    Walk walk(dump, out);
    switch (context.message) {
    case NFT_MSG_GETTABLE:
        return walk_tables(walk);
    case NFT_MSG_GETCHAIN:
        return walk_chains(walk);
    case NFT_MSG_GETRULE:
    case message_rule_reset:
        return walk_rules(walk);
    case NFT_MSG_GETSET:
        return walk_sets(walk);
    case NFT_MSG_GETSETELEM:
    case message_element_reset:
        return walk_elements(walk);
    case NFT_MSG_GETOBJ:
    case NFT_MSG_GETOBJ_RESET:
        return walk_objects(walk);
    default:
        return true; // flow tables: there are none
    }
}

// The attributes that dumps are filtered by: table, name, type.
struct Criteria {
    u16 table = 0, name = 0, type = 0;
};

Criteria criteria_of(u16 message) {
    switch (message) {
    case NFT_MSG_GETRULE:
    case message_rule_reset:
        return {NFTA_RULE_TABLE, NFTA_RULE_CHAIN, 0};
    case NFT_MSG_GETCHAIN:
        return {NFTA_CHAIN_TABLE, 0, 0};
    case NFT_MSG_GETSET:
        return {NFTA_SET_TABLE, 0, 0};
    case NFT_MSG_GETSETELEM:
    case message_element_reset:
        return {NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, 0};
    case NFT_MSG_GETOBJ:
    case NFT_MSG_GETOBJ_RESET:
        return {NFTA_OBJ_TABLE, 0, NFTA_OBJ_TYPE};
    default:
        return {};
    }
}

// What is to be told, as it is now.
Result<Owned<TablesDump>> prepare_dump(Filter& filter, Request& request, u16 message) {
    constexpr usize most_attributes = 20;
    Attributes<most_attributes> parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    const Criteria by = criteria_of(message);
    TRY(Owned<TablesDump> context, make_owned<TablesDump>());
    context->stack = Ref<Stack>::share(&filter.stack);
    context->filter = &filter;
    context->family = family_of(request);
    context->message = message;
    context->reset = message == message_rule_reset || message == NFT_MSG_GETOBJ_RESET ||
                     message == message_element_reset;
    if (by.table != 0)
        TRY(context->table.append(parts.text(by.table)));
    if (by.name != 0)
        TRY(context->name.append(parts.text(by.name)));
    if (by.type != 0)
        context->type = parts.number(by.type);
    TRY(context->tables.append(filter.tables.span()));
    if (message == NFT_MSG_GETSETELEM || message == message_element_reset) {
        bool found = false;
        for (const Ref<Table>& table : context->tables)
            found = found || (context->wants(*table) && table->find_set(context->name.view()));
        if (!found)
            return fail(ENOENT);
    }
    return context;
}

Result<void> start_dump(Filter& filter, Request& request, u16 message) {
    MutexGuard guard(filter.mutex);
    TRY(Owned<TablesDump> context, prepare_dump(filter, request, message));
    guard.unlock(); // the first step follows at once
    return request.start_dump(step, std::move(context), false);
}

Table* find_table(Filter& filter, Request& request, std::string_view name) {
    for (const Ref<Table>& table : filter.tables)
        if (table->family == family_of(request) && table->name.view() == name)
            return table.get();
    return nullptr;
}

Result<void> answer_elements(Filter& filter, Request& request, const Table& table, Set& set,
                             std::span<const u8> wanted, bool reset) {
    Transaction looking(filter); // for what expressions are parsed with; changes nothing
    ParseContext context{.transaction = looking,
                         .table = const_cast<Table&>(table),
                         .chain = nullptr,
                         .family = table.family,
                         .ack = request.ack};
    AttributeReader reader(wanted);
    Attribute one;
    while (reader.next(one)) {
        Attributes<NFTA_SET_ELEM_MAX + 1> parts;
        TRY(parts.parse(one.data));
        TRY(const Data key, parse_value(context, parts[NFTA_SET_ELEM_KEY]));
        if (key.length != set.key_length)
            return fail(EINVAL);
        Element like;
        __builtin_memcpy(like.key, key.bytes, key.length);
        __builtin_memcpy(like.key_end, key.bytes, key.length);
        like.interval_end = (parts.number(NFTA_SET_ELEM_FLAGS) & NFT_SET_ELEM_INTERVAL_END) != 0;
        MessageWriter out;
        const auto tell = [&](Element& found) {
            (void)write_element(out, filter, NFT_MSG_NEWSETELEM, table, set, found,
                                Heading::of(request));
            if (reset)
                for (const Owned<Expression>& expression : found.expressions)
                    expression->reset();
        };
        if (!set.with_exact(like, tell) && !set.with(like.key, filter.stack.now(), tell))
            return request.refuse(ENOENT, &one, nullptr);
        TRY(request.reply(out));
    }
    return {};
}

Result<void> answer_one(Filter& filter, Request& request, u16 message) {
    MutexGuard guard(filter.mutex);
    constexpr usize most_attributes = 20;
    Attributes<most_attributes> parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    // The table is the first attribute of all of them.
    static_assert(NFTA_TABLE_NAME == 1 && NFTA_CHAIN_TABLE == 1 && NFTA_RULE_TABLE == 1 &&
                  NFTA_SET_TABLE == 1 && NFTA_SET_ELEM_LIST_TABLE == 1 && NFTA_OBJ_TABLE == 1);
    if (parts[NFTA_TABLE_NAME] == nullptr)
        return fail(EINVAL);
    const Table* table = find_table(filter, request, parts.text(NFTA_TABLE_NAME));
    if (table == nullptr)
        return request.refuse(ENOENT, parts[NFTA_TABLE_NAME], nullptr);
    MessageWriter out;
    const Heading heading = Heading::of(request);
    switch (message) {
    case NFT_MSG_GETTABLE:
        (void)write_table(out, filter, NFT_MSG_NEWTABLE, *table, heading);
        break;
    case NFT_MSG_GETCHAIN: {
        const Chain* chain = table->find_chain(parts.text(NFTA_CHAIN_NAME));
        if (chain == nullptr)
            return request.refuse(ENOENT, parts[NFTA_CHAIN_NAME], nullptr);
        (void)write_chain(out, filter, NFT_MSG_NEWCHAIN, *table, *chain, heading);
        break;
    }
    case NFT_MSG_GETRULE:
    case message_rule_reset: {
        const Chain* chain = table->find_chain(parts.text(NFTA_RULE_CHAIN));
        if (chain == nullptr)
            return request.refuse(ENOENT, parts[NFTA_RULE_CHAIN], nullptr);
        const Rule* found = nullptr;
        for (const Ref<Rule>& rule : chain->rules)
            if (rule->handle == parts.number64(NFTA_RULE_HANDLE))
                found = rule.get();
        if (found == nullptr)
            return request.refuse(ENOENT, parts[NFTA_RULE_HANDLE], nullptr);
        (void)write_rule(out, filter, NFT_MSG_NEWRULE, *table, *chain, *found, 0, heading);
        if (message == message_rule_reset)
            reset_rule(*found);
        break;
    }
    case NFT_MSG_GETSET:
    case NFT_MSG_GETSETELEM:
    case message_element_reset: {
        static_assert(u32{NFTA_SET_NAME} == u32{NFTA_SET_ELEM_LIST_SET});
        Set* set = table->find_set(parts.text(NFTA_SET_NAME));
        if (set == nullptr)
            return request.refuse(ENOENT, parts[NFTA_SET_NAME], nullptr);
        if (message != NFT_MSG_GETSET)
            return answer_elements(filter, request, *table, *set,
                                   parts.data(NFTA_SET_ELEM_LIST_ELEMENTS),
                                   message == message_element_reset);
        (void)write_set(out, filter, NFT_MSG_NEWSET, *table, *set, heading);
        break;
    }
    case NFT_MSG_GETOBJ:
    case NFT_MSG_GETOBJ_RESET: {
        const Object* object =
            table->find_object(parts.text(NFTA_OBJ_NAME), parts.number(NFTA_OBJ_TYPE));
        if (object == nullptr)
            return request.refuse(ENOENT, parts[NFTA_OBJ_NAME], nullptr);
        (void)write_object(out, filter, NFT_MSG_NEWOBJ, *table, *object, heading);
        if (message == NFT_MSG_GETOBJ_RESET)
            object->state->reset();
        break;
    }
    default:
        return fail(ENOENT);
    }
    return request.reply(out);
}

} // namespace

Result<void> answer(Filter& filter, Request& request, u16 message) {
    switch (message) {
    case NFT_MSG_GETGEN: {
        MutexGuard guard(filter.mutex);
        MessageWriter out;
        (void)write_generation(out, filter, Heading::of(request));
        return request.reply(out);
    }
    case NFT_MSG_GETTABLE:
    case NFT_MSG_GETCHAIN:
    case NFT_MSG_GETRULE:
    case NFT_MSG_GETSET:
    case NFT_MSG_GETSETELEM:
    case NFT_MSG_GETOBJ:
    case NFT_MSG_GETOBJ_RESET:
    case NFT_MSG_GETFLOWTABLE:
    case message_rule_reset:
    case message_element_reset:
        return request.is_dump() ? start_dump(filter, request, message)
                                 : answer_one(filter, request, message);
    default:
        return fail(EINVAL);
    }
}

} // namespace kernel::net::filter
