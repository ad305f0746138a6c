#include "guestkernel/net/filter/message.hpp"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net::filter {

Heading Heading::of(const netlink::Request& request, u16 message_flags) {
    return {message_flags, request.sequence(), request.sender().port()};
}

void begin_message(MessageWriter& out, const Filter& filter, u16 message, u8 family,
                   const Heading& heading) {
    out.begin(static_cast<u16>(NFNL_SUBSYS_NFTABLES << 8 | message), heading.flags,
              heading.sequence, heading.port);
    FamilyHeader header;
    header.family = family;
    header.version = NFNETLINK_V0;
    header.resource.set(static_cast<u16>(filter.generation));
    out.put(header);
}

bool write_table(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                 const Heading& heading) {
    begin_message(out, filter, message, table.family, heading);
    out.text(NFTA_TABLE_NAME, table.name.view());
    put_be32(out, NFTA_TABLE_USE,
             static_cast<u32>(table.chains.size() + table.sets.size() + table.objects.size()));
    put_be64(out, NFTA_TABLE_HANDLE, table.handle);
    put_be32(out, NFTA_TABLE_FLAGS, table.flags);
    if (table.owner != 0)
        put_be32(out, NFTA_TABLE_OWNER, table.owner);
    if (!table.user_data.empty())
        out.attribute(NFTA_TABLE_USERDATA, table.user_data.data(), table.user_data.size());
    return out.end();
}

u32 uses_of(const Table& table, const Chain& chain) {
    u32 uses = 0;
    for_each_expression(
        table, [&](const Expression& one) { uses += one.target() == chain.key.get() ? 1 : 0; });
    for (const Ref<Set>& set : table.sets)
        if (set->verdicts)
            set->for_each([&](const Element& element) {
                uses += element.state != ElementState::Doomed &&
                                element.data.chain.get() == chain.key.get()
                            ? 1
                            : 0;
            });
    return uses;
}

bool in_use(const Table& table, const Set& set) {
    bool used = false;
    for_each_expression(table, [&](const Expression& one) { used = used || one.set() == &set; });
    return used;
}

bool in_use(const Table& table, const Object& object) {
    bool used = false;
    for_each_expression(table,
                        [&](const Expression& one) { used = used || one.object() == &object; });
    for (const Ref<Set>& set : table.sets)
        if (set->objects())
            set->for_each([&](const Element& element) {
                used = used ||
                       (element.state != ElementState::Doomed && element.object.get() == &object);
            });
    return used;
}

namespace {

u32 hook_number(HookPoint point) {
    switch (point) {
    case HookPoint::PreRouting:
        return NF_INET_PRE_ROUTING;
    case HookPoint::Input:
        return NF_INET_LOCAL_IN;
    case HookPoint::Forward:
        return NF_INET_FORWARD;
    case HookPoint::Output:
        return NF_INET_LOCAL_OUT;
    case HookPoint::PostRouting:
        return NF_INET_POST_ROUTING;
    }
    return 0;
}

std::string_view type_name(ChainType type) {
    return type == ChainType::Filter ? "filter" : type == ChainType::Nat ? "nat" : "route";
}

void put_base(MessageWriter& out, const Chain& chain) {
    const usize hook = out.open(NFTA_CHAIN_HOOK, true);
    put_be32(out, NFTA_HOOK_HOOKNUM, hook_number(chain.point));
    put_be32(out, NFTA_HOOK_PRIORITY, static_cast<u32>(chain.priority));
    out.close(hook);
    put_be32(out, NFTA_CHAIN_POLICY, chain.policy_drop ? NF_DROP : NF_ACCEPT);
    out.text(NFTA_CHAIN_TYPE, type_name(chain.type));
    if (chain.counter) {
        const usize counters = out.open(NFTA_CHAIN_COUNTERS, true);
        put_be64(out, NFTA_COUNTER_PACKETS, chain.counter->values.packets.load());
        put_be64(out, NFTA_COUNTER_BYTES, chain.counter->values.bytes.load());
        out.close(counters);
    }
}

} // namespace

bool write_chain(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                 const Chain& chain, const Heading& heading) {
    begin_message(out, filter, message, table.family, heading);
    out.text(NFTA_CHAIN_TABLE, table.name.view());
    out.text(NFTA_CHAIN_NAME, chain.name());
    put_be64(out, NFTA_CHAIN_HANDLE, chain.key->handle);
    if (chain.base)
        put_base(out, chain);
    if (chain.flags != 0)
        put_be32(out, NFTA_CHAIN_FLAGS, chain.flags);
    put_be32(out, NFTA_CHAIN_USE, static_cast<u32>(chain.rules.size()) + uses_of(table, chain));
    if (!chain.user_data.empty())
        out.attribute(NFTA_CHAIN_USERDATA, chain.user_data.data(), chain.user_data.size());
    return out.end();
}

bool write_rule(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                const Chain& chain, const Rule& rule, u64 previous, const Heading& heading) {
    begin_message(out, filter, message, table.family, heading);
    out.text(NFTA_RULE_TABLE, table.name.view());
    out.text(NFTA_RULE_CHAIN, chain.name());
    put_be64(out, NFTA_RULE_HANDLE, rule.handle);
    if (previous != 0)
        put_be64(out, NFTA_RULE_POSITION, previous);
    const usize list = out.open(NFTA_RULE_EXPRESSIONS, true);
    for (const Owned<Expression>& expression : rule.expressions)
        dump_expression(out, NFTA_LIST_ELEM, *expression);
    out.close(list);
    if (!rule.user_data.empty())
        out.attribute(NFTA_RULE_USERDATA, rule.user_data.data(), rule.user_data.size());
    return out.end();
}

namespace {

void put_description(MessageWriter& out, const Set& set) {
    const usize description = out.open(NFTA_SET_DESC, true);
    if (set.size != 0)
        put_be32(out, NFTA_SET_DESC_SIZE, set.size);
    if (set.fields > 1) {
        const usize fields = out.open(NFTA_SET_DESC_CONCAT, true);
        for (u32 i = 0; i < set.fields; i++) {
            const usize field = out.open(NFTA_LIST_ELEM, true);
            put_be32(out, NFTA_SET_FIELD_LEN, set.field_lengths[i]);
            out.close(field);
        }
        out.close(fields);
    }
    out.close(description);
}

void put_expressions(MessageWriter& out, const Vector<Owned<Expression>>& list, u16 one_type,
                     u16 list_type) {
    if (list.size() == 1) {
        dump_expression(out, one_type, *list[0]);
    } else if (list.size() > 1) {
        const usize opened = out.open(list_type, true);
        for (const Owned<Expression>& one : list)
            dump_expression(out, NFTA_LIST_ELEM, *one);
        out.close(opened);
    }
}

} // namespace

bool write_set(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
               const Set& set, const Heading& heading) {
    begin_message(out, filter, message, table.family, heading);
    out.text(NFTA_SET_TABLE, table.name.view());
    out.text(NFTA_SET_NAME, set.name.view());
    put_be64(out, NFTA_SET_HANDLE, set.handle);
    if (set.flags != 0)
        put_be32(out, NFTA_SET_FLAGS, set.flags);
    put_be32(out, NFTA_SET_KEY_TYPE, set.key_type);
    put_be32(out, NFTA_SET_KEY_LEN, set.key_length);
    if (set.is_map()) {
        put_be32(out, NFTA_SET_DATA_TYPE, set.data_type);
        put_be32(out, NFTA_SET_DATA_LEN, set.data_length);
    }
    if (set.objects())
        put_be32(out, NFTA_SET_OBJ_TYPE, set.object_type);
    if (set.timeout_ms != 0)
        put_be64(out, NFTA_SET_TIMEOUT, set.timeout_ms);
    if (set.collect_interval != 0)
        put_be32(out, NFTA_SET_GC_INTERVAL, set.collect_interval);
    if (set.policy != NFT_SET_POL_PERFORMANCE)
        put_be32(out, NFTA_SET_POLICY, set.policy);
    if (!set.user_data.empty())
        out.attribute(NFTA_SET_USERDATA, set.user_data.data(), set.user_data.size());
    put_description(out, set);
    put_expressions(out, set.expressions, NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS);
    return out.end();
}

namespace {

void put_key(MessageWriter& out, u16 type, const u8* bytes, u32 length) {
    const usize opened = out.open(type, true);
    out.attribute(NFTA_DATA_VALUE, bytes, length);
    out.close(opened);
}

} // namespace

void put_element(MessageWriter& out, const Set& set, const Element& element, u64 now) {
    const usize whole = out.open(NFTA_LIST_ELEM, true);
    if (!element.catch_all)
        put_key(out, NFTA_SET_ELEM_KEY, element.key, set.key_length);
    if (element.has_key_end && !element.catch_all)
        put_key(out, NFTA_SET_ELEM_KEY_END, element.key_end, set.key_length);
    if (element.has_data)
        dump_data(out, NFTA_SET_ELEM_DATA, element.data);
    put_expressions(out, element.expressions, NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_EXPRESSIONS);
    if (element.object)
        out.text(NFTA_SET_ELEM_OBJREF, element.object->name.view());
    const u32 flags = (element.interval_end ? u32{NFT_SET_ELEM_INTERVAL_END} : 0u) |
                      (element.catch_all ? u32{NFT_SET_ELEM_CATCHALL} : 0u);
    if (flags != 0)
        put_be32(out, NFTA_SET_ELEM_FLAGS, flags);
    if (element.has_timeout) {
        if (element.timeout_ms != set.timeout_ms)
            put_be64(out, NFTA_SET_ELEM_TIMEOUT, element.timeout_ms);
        const u64 left = element.expires_at > now ? (element.expires_at - now) / 1'000'000 : 0;
        put_be64(out, NFTA_SET_ELEM_EXPIRATION, left);
    }
    if (!element.user_data.empty())
        out.attribute(NFTA_SET_ELEM_USERDATA, element.user_data.data(), element.user_data.size());
    out.close(whole);
}

bool write_element(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                   const Set& set, const Element& element, const Heading& heading) {
    begin_message(out, filter, message, table.family, heading);
    out.text(NFTA_SET_ELEM_LIST_TABLE, table.name.view());
    out.text(NFTA_SET_ELEM_LIST_SET, set.name.view());
    const usize list = out.open(NFTA_SET_ELEM_LIST_ELEMENTS, true);
    put_element(out, set, element, filter.stack.now());
    out.close(list);
    return out.end();
}

bool write_object(MessageWriter& out, const Filter& filter, u16 message, const Table& table,
                  const Object& object, const Heading& heading) {
    begin_message(out, filter, message, table.family, heading);
    out.text(NFTA_OBJ_TABLE, table.name.view());
    out.text(NFTA_OBJ_NAME, object.name.view());
    put_be32(out, NFTA_OBJ_TYPE, object.type);
    put_be32(out, NFTA_OBJ_USE, in_use(table, object) ? 1 : 0);
    put_be64(out, NFTA_OBJ_HANDLE, object.handle);
    const usize data = out.open(NFTA_OBJ_DATA, true);
    object.state->dump(out);
    out.close(data);
    if (!object.user_data.empty())
        out.attribute(NFTA_OBJ_USERDATA, object.user_data.data(), object.user_data.size());
    return out.end();
}

bool write_generation(MessageWriter& out, const Filter& filter, const Heading& heading) {
    begin_message(out, filter, NFT_MSG_NEWGEN, 0, heading);
    put_be32(out, NFTA_GEN_ID, filter.generation);
    const Task& task = current_task(); // who asks, or made it
    put_be32(out, NFTA_GEN_PROC_PID,
             task.process ? static_cast<u32>(visible_pid(task.process->pid)) : 0);
    out.text(NFTA_GEN_PROC_NAME, std::string_view(task.name));
    return out.end();
}

} // namespace kernel::net::filter
