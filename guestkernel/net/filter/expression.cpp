// What the makers of expressions have in common, and the table of them.
#include "guestkernel/net/filter/expression.hpp"

#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/transaction.hpp"

namespace kernel::net::filter {

namespace {

struct KnownExpression {
    std::string_view name;
    ExpressionMaker make;
};

constexpr KnownExpression known[] = {
    {"bitwise", make_bitwise}, {"byteorder", make_byteorder},
    {"cmp", make_cmp},         {"counter", make_counter},
    {"ct", make_ct},           {"dynset", make_dynset},
    {"fib", make_fib},         {"immediate", make_immediate},
    {"limit", make_limit},     {"log", make_log},
    {"lookup", make_lookup},   {"masq", make_masq},
    {"match", make_match},     {"meta", make_meta},
    {"nat", make_nat},         {"notrack", make_notrack},
    {"numgen", make_numgen},   {"objref", make_objref},
    {"payload", make_payload}, {"quota", make_quota},
    {"range", make_range},     {"redir", make_redir},
    {"reject", make_reject},   {"target", make_target},
};

} // namespace

ExpressionMaker find_expression(std::string_view name) {
    for (const KnownExpression& one : known)
        if (one.name == name)
            return one.make;
    return nullptr;
}

Result<Owned<Expression>> parse_expression(ParseContext& context, std::span<const u8> attributes) {
    Attributes<NFTA_EXPR_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_EXPR_NAME] == nullptr)
        return fail(EINVAL);
    const ExpressionMaker make = find_expression(parts.text(NFTA_EXPR_NAME));
    if (make == nullptr) {
        context.ack.bad_attribute =
            parts[NFTA_EXPR_NAME]->data.data() - sizeof(netlink::AttributeHeader);
        return fail(ENOENT);
    }
    return make(context, parts.data(NFTA_EXPR_DATA));
}

void dump_expression(MessageWriter& out, u16 attribute, const Expression& expression) {
    const usize whole = out.open(attribute, true);
    out.text(NFTA_EXPR_NAME, expression.name());
    const usize data = out.open(NFTA_EXPR_DATA, true);
    expression.dump(out);
    out.close(data);
    out.close(whole);
}

void put_be16(MessageWriter& out, u16 type, u16 value) {
    out.value(type, Be16(value));
}
void put_be32(MessageWriter& out, u16 type, u32 value) {
    out.value(type, Be32(value));
}
void put_be64(MessageWriter& out, u16 type, u64 value) {
    out.value(type, BigEndian<u64>(value));
}

// --- registers

namespace {

constexpr u32 first_data_word = 4;

Result<u8> register_word(const Attribute* attribute) {
    if (attribute == nullptr)
        return fail(EINVAL);
    const u32 number = attribute->as<Be32>().get();
    if (number <= NFT_REG_4)
        return static_cast<u8>(number * 4);
    if (number >= NFT_REG32_00 && number <= NFT_REG32_15)
        return static_cast<u8>(number - NFT_REG32_00 + first_data_word);
    return fail(ERANGE);
}

Result<u8> checked_register(const Attribute* attribute, u32 bytes) {
    TRY(const u8 word, register_word(attribute));
    if (word < first_data_word || bytes == 0)
        return fail(EINVAL);
    if (word * 4u + bytes > register_words * 4)
        return fail(ERANGE);
    return word;
}

u32 words_mask(u8 word, u32 bytes) {
    return ((1u << (bytes + 3) / 4) - 1) << word;
}

} // namespace

Result<u8> source_register(const ParseContext& context, const Attribute* attribute, u32 bytes) {
    TRY(const u8 word, checked_register(attribute, bytes));
    const u32 wanted = words_mask(word, bytes);
    if ((context.written & wanted) != wanted)
        return fail(ENODATA);
    return word;
}

Result<u8> target_register(ParseContext& context, const Attribute* attribute, u32 bytes) {
    TRY(const u8 word, checked_register(attribute, bytes));
    context.written |= words_mask(word, bytes);
    return word;
}

void put_register(MessageWriter& out, u16 type, u8 word) {
    const u32 number = word % 4 == 0 ? word / 4u : word - first_data_word + NFT_REG32_00;
    put_be32(out, type, number);
}

// --- data

namespace {

Result<Data> parse_verdict(ParseContext& context, std::span<const u8> bytes) {
    Attributes<NFTA_VERDICT_MAX + 1> parts;
    TRY(parts.parse(bytes));
    if (parts[NFTA_VERDICT_CODE] == nullptr)
        return fail(EINVAL);
    Data out;
    out.verdict = true;
    out.length = 16;
    switch (static_cast<i32>(parts.number(NFTA_VERDICT_CODE))) {
    case 0: // NF_DROP
        out.code = Verdict::Drop;
        return out;
    case 1: // NF_ACCEPT
        out.code = Verdict::Accept;
        return out;
    case NFT_CONTINUE:
        out.code = Verdict::Continue;
        return out;
    case NFT_BREAK:
        out.code = Verdict::Break;
        return out;
    case NFT_RETURN:
        out.code = Verdict::Return;
        return out;
    case NFT_JUMP:
        out.code = Verdict::Jump;
        break;
    case NFT_GOTO:
        out.code = Verdict::Goto;
        break;
    default:
        return fail(EINVAL);
    }
    Chain* chain = nullptr;
    if (parts[NFTA_VERDICT_CHAIN] != nullptr)
        chain = context.table.find_chain(parts.text(NFTA_VERDICT_CHAIN));
    else if (parts[NFTA_VERDICT_CHAIN_ID] != nullptr)
        chain = context.transaction.chain_by_id(context.table, parts.number(NFTA_VERDICT_CHAIN_ID));
    else
        return fail(EINVAL);
    if (chain == nullptr)
        return fail(ENOENT);
    if (chain->base)
        return fail(EOPNOTSUPP);
    if (chain->key->bound)
        return fail(EINVAL);
    out.chain = chain->key;
    return out;
}

} // namespace

Result<Data> parse_data(ParseContext& context, const Attribute* attribute) {
    if (attribute == nullptr)
        return fail(EINVAL);
    Attributes<NFTA_DATA_MAX + 1> parts;
    TRY(parts.parse(attribute->data));
    if (parts[NFTA_DATA_VALUE] != nullptr) {
        const auto bytes = parts.data(NFTA_DATA_VALUE);
        Data out;
        if (bytes.empty() || bytes.size() > sizeof out.bytes)
            return fail(EINVAL);
        out.length = static_cast<u32>(bytes.size());
        __builtin_memcpy(out.bytes, bytes.data(), bytes.size());
        return out;
    }
    if (parts[NFTA_DATA_VERDICT] != nullptr)
        return parse_verdict(context, parts.data(NFTA_DATA_VERDICT));
    return fail(EINVAL);
}

Result<Data> parse_value(ParseContext& context, const Attribute* attribute) {
    TRY(Data data, parse_data(context, attribute));
    if (data.verdict)
        return fail(EINVAL);
    return data;
}

void use_data(Evaluation& at, const Data& data, u8 target_word) {
    if (data.verdict) {
        at.verdict = data.code;
        at.target = data.chain.get();
        at.target_slot = data.chain ? data.chain->slot : 0;
        return;
    }
    u8* to = at.bytes(target_word);
    const u32 whole = data.length & ~3u;
    __builtin_memset(to + whole, 0, whole != data.length ? 4 : 0);
    __builtin_memcpy(to, data.bytes, data.length);
}

void dump_data(MessageWriter& out, u16 type, const Data& data) {
    const usize whole = out.open(type, true);
    if (!data.verdict) {
        out.attribute(NFTA_DATA_VALUE, data.bytes, data.length);
        out.close(whole);
        return;
    }
    const usize verdict = out.open(NFTA_DATA_VERDICT, true);
    i32 code = 0;
    switch (data.code) {
    case Verdict::Drop:
        code = 0;
        break;
    case Verdict::Accept:
        code = 1;
        break;
    case Verdict::Continue:
        code = NFT_CONTINUE;
        break;
    case Verdict::Break:
        code = NFT_BREAK;
        break;
    case Verdict::Return:
        code = NFT_RETURN;
        break;
    case Verdict::Jump:
        code = NFT_JUMP;
        break;
    case Verdict::Goto:
        code = NFT_GOTO;
        break;
    }
    put_be32(out, NFTA_VERDICT_CODE, static_cast<u32>(code));
    if (data.chain)
        out.text(NFTA_VERDICT_CHAIN, data.chain->name.view());
    out.close(verdict);
    out.close(whole);
}

} // namespace kernel::net::filter
