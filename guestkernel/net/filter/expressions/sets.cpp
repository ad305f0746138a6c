// lookup, dynset, objref: what rules do with sets and named objects.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/set.hpp"
#include "guestkernel/net/filter/transaction.hpp"

namespace kernel::net::filter {

namespace {

void use_state(Evaluation& at, Element& element) {
    for (const Owned<Expression>& expression : element.expressions) {
        expression->evaluate(at);
        if (at.verdict != Verdict::Continue)
            return;
    }
}

class Lookup final : public Expression {
public:
    Ref<Set> set_of;
    u8 source = 0, target_word = 0;
    bool has_target = false, invert = false, has_flags = false;
    std::string_view name() const override { return "lookup"; }
    void evaluate(Evaluation& at) override {
        const bool found = set_of->with(at.bytes(source), at.stack.now(), [&](Element& element) {
            if (invert)
                return;
            if (has_target && element.has_data)
                use_data(at, element.data, target_word);
            // State may end the rule; a verdict stands.
            if (at.verdict == Verdict::Continue)
                use_state(at, element);
        });
        if (found == invert)
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        out.text(NFTA_LOOKUP_SET, set_of->name.view());
        put_register(out, NFTA_LOOKUP_SREG, source);
        if (has_target)
            put_register(out, NFTA_LOOKUP_DREG, target_word);
        put_be32(out, NFTA_LOOKUP_FLAGS, invert ? NFT_LOOKUP_F_INV : 0);
    }
    const Set* set() const override { return set_of.get(); }
};

class ObjectReference final : public Expression {
public:
    Ref<Object> object_of;
    std::string_view name() const override { return "objref"; }
    void evaluate(Evaluation& at) override { object_of->state->evaluate(at); }
    void dump(MessageWriter& out) const override {
        out.text(NFTA_OBJREF_IMM_NAME, object_of->name.view());
        put_be32(out, NFTA_OBJREF_IMM_TYPE, object_of->type);
    }
    const Object* object() const override { return object_of.get(); }
};

class ObjectMap final : public Expression {
public:
    Ref<Set> set_of;
    u8 source = 0;
    std::string_view name() const override { return "objref"; }
    void evaluate(Evaluation& at) override {
        Ref<Object> found;
        (void)set_of->with(at.bytes(source), at.stack.now(),
                           [&](Element& element) { found = element.object; });
        if (found)
            found->state->evaluate(at);
        else
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_OBJREF_SET_SREG, source);
        out.text(NFTA_OBJREF_SET_NAME, set_of->name.view());
    }
    const Set* set() const override { return set_of.get(); }
};

class DynamicSet final : public Expression {
public:
    Ref<Set> set_of;
    u32 operation = 0;
    u8 source = 0, data_word = 0;
    bool has_data = false, invert = false;
    u64 timeout = 0;
    Vector<Owned<Expression>> own; // what its elements get; none: the set's
    std::string_view name() const override { return "dynset"; }
    void evaluate(Evaluation& at) override {
        const u64 now = at.stack.now();
        if (operation == NFT_DYNSET_OP_DELETE) {
            (void)set_of->remove_by_packet(at.bytes(source), now);
            return;
        }
        Data data;
        if (has_data) {
            data.length = set_of->data_length;
            __builtin_memcpy(data.bytes, at.bytes(data_word), data.length);
        }
        const bool update = operation == NFT_DYNSET_OP_UPDATE;
        const bool there = set_of->add_by_packet(
            at.bytes(source), has_data ? &data : nullptr, timeout, now, [&](Element& element) {
                if (update && element.has_timeout)
                    element.expires_at = now + element.timeout_ms * 1'000'000;
                if (element.expressions.empty())
                    for (const Owned<Expression>& one : own)
                        if (Owned<Expression> copy = one->clone(); copy)
                            (void)element.expressions.push_back(std::move(copy));
                use_state(at, element);
            });
        if (there == invert && at.verdict == Verdict::Continue)
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_DYNSET_SREG_KEY, source);
        if (has_data)
            put_register(out, NFTA_DYNSET_SREG_DATA, data_word);
        put_be32(out, NFTA_DYNSET_OP, operation);
        out.text(NFTA_DYNSET_SET_NAME, set_of->name.view());
        if (timeout != 0)
            put_be64(out, NFTA_DYNSET_TIMEOUT, timeout);
        // What the set gives its elements anyway is told with the set.
        const usize told = set_of->expressions.empty() ? own.size() : 0;
        if (told == 1) {
            dump_expression(out, NFTA_DYNSET_EXPR, *own[0]);
        } else if (told > 1) {
            const usize opened = out.open(NFTA_DYNSET_EXPRESSIONS, true);
            for (const Owned<Expression>& one : own)
                dump_expression(out, NFTA_LIST_ELEM, *one);
            out.close(opened);
        }
        put_be32(out, NFTA_DYNSET_FLAGS, invert ? NFT_DYNSET_F_INV : 0);
    }
    const Set* set() const override { return set_of.get(); }
};

// Anonymous sets belong to one rule.
Result<Ref<Set>> bind_set(ParseContext& context, std::string_view name, const Attribute* id) {
    Set* set = context.table.find_set(name);
    if (set == nullptr && id != nullptr)
        set = context.transaction.set_by_id(context.table, id->as<Be32>().get());
    if (set == nullptr)
        return fail(ENOENT);
    if (set->anonymous() && std::exchange(set->bound, true))
        return fail(EBUSY);
    return Ref<Set>::share(set);
}

Result<void> add_expressions(ParseContext& context, std::span<const u8> list,
                             Vector<Owned<Expression>>& out) {
    AttributeReader reader(list);
    Attribute one;
    while (reader.next(one)) {
        if (one.type != NFTA_LIST_ELEM || out.size() == Set::most_expressions_each)
            return fail(EINVAL);
        TRY(Owned<Expression> expression, parse_expression(context, one.data));
        if (!expression->stateful())
            return fail(EOPNOTSUPP);
        TRY(out.push_back(std::move(expression)));
    }
    return {};
}

} // namespace

MadeExpression make_lookup(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_LOOKUP_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_LOOKUP_SET] == nullptr || parts[NFTA_LOOKUP_SREG] == nullptr)
        return fail(EINVAL);
    TRY(Owned<Lookup> out, make_owned<Lookup>());
    TRY(out->set_of, bind_set(context, parts.text(NFTA_LOOKUP_SET), parts[NFTA_LOOKUP_SET_ID]));
    Set& set = *out->set_of;
    TRY(out->source, source_register(context, parts[NFTA_LOOKUP_SREG], set.key_length));
    const u32 flags = parts.number(NFTA_LOOKUP_FLAGS);
    if ((flags & ~u32{NFT_LOOKUP_F_INV}) != 0)
        return fail(EINVAL);
    out->invert = (flags & NFT_LOOKUP_F_INV) != 0;
    if (parts[NFTA_LOOKUP_DREG] != nullptr) {
        if (out->invert || !set.is_map())
            return fail(EINVAL);
        out->has_target = true;
        if (set.verdicts) {
            if (parts.number(NFTA_LOOKUP_DREG) != NFT_REG_VERDICT)
                return fail(EINVAL);
        } else {
            TRY(out->target_word,
                target_register(context, parts[NFTA_LOOKUP_DREG], set.data_length));
        }
    } else if (set.is_map()) {
        return fail(EINVAL);
    }
    return made<Lookup>(std::move(out));
}

MadeExpression make_objref(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_OBJREF_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_OBJREF_SET_SREG] != nullptr && parts[NFTA_OBJREF_SET_NAME] != nullptr) {
        TRY(Owned<ObjectMap> out, make_owned<ObjectMap>());
        TRY(out->set_of,
            bind_set(context, parts.text(NFTA_OBJREF_SET_NAME), parts[NFTA_OBJREF_SET_ID]));
        if (!out->set_of->objects())
            return fail(EINVAL);
        TRY(out->source,
            source_register(context, parts[NFTA_OBJREF_SET_SREG], out->set_of->key_length));
        return made<ObjectMap>(std::move(out));
    }
    if (parts[NFTA_OBJREF_IMM_NAME] == nullptr || parts[NFTA_OBJREF_IMM_TYPE] == nullptr)
        return fail(EOPNOTSUPP);
    Object* found = context.table.find_object(parts.text(NFTA_OBJREF_IMM_NAME),
                                              parts.number(NFTA_OBJREF_IMM_TYPE));
    if (found == nullptr)
        return fail(ENOENT);
    TRY(Owned<ObjectReference> out, make_owned<ObjectReference>());
    out->object_of = Ref<Object>::share(found);
    return made<ObjectReference>(std::move(out));
}

MadeExpression make_dynset(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_DYNSET_MAX + 1> parts;
    TRY(parts.parse(attributes));
    for (const u16 needed : {NFTA_DYNSET_SET_NAME, NFTA_DYNSET_OP, NFTA_DYNSET_SREG_KEY})
        if (parts[needed] == nullptr)
            return fail(EINVAL);
    TRY(Owned<DynamicSet> out, make_owned<DynamicSet>());
    const u32 flags = parts.number(NFTA_DYNSET_FLAGS);
    if ((flags & ~u32{NFT_DYNSET_F_INV | NFT_DYNSET_F_EXPR}) != 0)
        return fail(EOPNOTSUPP);
    out->invert = (flags & NFT_DYNSET_F_INV) != 0;
    TRY(out->set_of,
        bind_set(context, parts.text(NFTA_DYNSET_SET_NAME), parts[NFTA_DYNSET_SET_ID]));
    Set& set = *out->set_of;
    if (set.intervals() || set.objects() || set.verdicts)
        return fail(EOPNOTSUPP);
    if (set.constant())
        return fail(EBUSY);
    out->operation = parts.number(NFTA_DYNSET_OP);
    if (out->operation > NFT_DYNSET_OP_DELETE)
        return fail(EOPNOTSUPP);
    if (out->operation == NFT_DYNSET_OP_UPDATE && !set.timed())
        return fail(EOPNOTSUPP);
    if (parts[NFTA_DYNSET_TIMEOUT] != nullptr) {
        if (!set.timed())
            return fail(EOPNOTSUPP);
        out->timeout = parts.number64(NFTA_DYNSET_TIMEOUT);
    }
    TRY(out->source, source_register(context, parts[NFTA_DYNSET_SREG_KEY], set.key_length));
    out->has_data = parts[NFTA_DYNSET_SREG_DATA] != nullptr;
    if (out->has_data != set.is_map())
        return fail(EINVAL);
    if (out->has_data) {
        TRY(out->data_word,
            source_register(context, parts[NFTA_DYNSET_SREG_DATA], set.data_length));
    }
    if (parts[NFTA_DYNSET_EXPR] != nullptr) {
        TRY(Owned<Expression> one, parse_expression(context, parts.data(NFTA_DYNSET_EXPR)));
        if (!one->stateful())
            return fail(EOPNOTSUPP);
        TRY(out->own.push_back(std::move(one)));
    } else if (parts[NFTA_DYNSET_EXPRESSIONS] != nullptr) {
        TRY(add_expressions(context, parts.data(NFTA_DYNSET_EXPRESSIONS), out->own));
    }
    return made<DynamicSet>(std::move(out));
}

} // namespace kernel::net::filter
