// cmp, range, bitwise, byteorder, immediate: registers among themselves.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/ruleset.hpp"
#include "guestkernel/net/filter/transaction.hpp"

namespace kernel::net::filter {

namespace {

class Compare final : public Expression {
public:
    u8 source = 0;
    u32 operation = 0;
    Data data;
    std::string_view name() const override { return "cmp"; }
    void evaluate(Evaluation& at) override {
        const int order = __builtin_memcmp(at.bytes(source), data.bytes, data.length);
        bool holds = false;
        switch (operation) {
        case NFT_CMP_EQ:
            holds = order == 0;
            break;
        case NFT_CMP_NEQ:
            holds = order != 0;
            break;
        case NFT_CMP_LT:
            holds = order < 0;
            break;
        case NFT_CMP_LTE:
            holds = order <= 0;
            break;
        case NFT_CMP_GT:
            holds = order > 0;
            break;
        case NFT_CMP_GTE:
            holds = order >= 0;
            break;
        default:
            break;
        }
        if (!holds)
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_CMP_SREG, source);
        put_be32(out, NFTA_CMP_OP, operation);
        dump_data(out, NFTA_CMP_DATA, data);
    }
};

class Range final : public Expression {
public:
    u8 source = 0;
    u32 operation = 0;
    Data from, to;
    std::string_view name() const override { return "range"; }
    void evaluate(Evaluation& at) override {
        const u8* value = at.bytes(source);
        const bool inside = __builtin_memcmp(value, from.bytes, from.length) >= 0 &&
                            __builtin_memcmp(value, to.bytes, to.length) <= 0;
        if (inside != (operation == NFT_RANGE_EQ))
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_RANGE_SREG, source);
        put_be32(out, NFTA_RANGE_OP, operation);
        dump_data(out, NFTA_RANGE_FROM_DATA, from);
        dump_data(out, NFTA_RANGE_TO_DATA, to);
    }
};

class Bitwise final : public Expression {
public:
    u8 source = 0, second = 0, target_word = 0;
    u32 length = 0, operation = 0;
    Data mask, exclusive, data;
    std::string_view name() const override { return "bitwise"; }
    void evaluate(Evaluation& at) override {
        const u32 words = (length + 3) / 4;
        const u32* from = at.words + source;
        u32* to = at.words + target_word;
        u32 result[16];
        switch (operation) {
        case NFT_BITWISE_MASK_XOR:
            for (u32 i = 0; i < words; i++)
                result[i] = (from[i] & word(mask, i)) ^ word(exclusive, i);
            break;
        case NFT_BITWISE_LSHIFT:
            shift_left(from, result, words, word(data, 0));
            break;
        case NFT_BITWISE_RSHIFT:
            shift_right(from, result, words, word(data, 0));
            break;
        default: {
            const u32* other = at.words + second;
            for (u32 i = 0; i < words; i++)
                result[i] = operation == bitwise_and  ? from[i] & other[i]
                            : operation == bitwise_or ? from[i] | other[i]
                                                      : from[i] ^ other[i];
        }
        }
        __builtin_memcpy(to, result, words * 4);
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_BITWISE_SREG, source);
        put_register(out, NFTA_BITWISE_DREG, target_word);
        put_be32(out, NFTA_BITWISE_LEN, length);
        put_be32(out, NFTA_BITWISE_OP, operation);
        if (operation == NFT_BITWISE_MASK_XOR) {
            dump_data(out, NFTA_BITWISE_MASK, mask);
            dump_data(out, NFTA_BITWISE_XOR, exclusive);
        } else if (operation <= NFT_BITWISE_RSHIFT) {
            dump_data(out, NFTA_BITWISE_DATA, data);
        } else {
            put_register(out, attribute_second, second);
        }
    }
    // Of Linux 6.13: newer than the headers.
    static constexpr u32 bitwise_and = 3, bitwise_or = 4, bitwise_xor = 5;
    static constexpr u16 attribute_second = 8;

private:
    static u32 word(const Data& from, u32 index) {
        u32 out;
        __builtin_memcpy(&out, from.bytes + 4 * index, sizeof out);
        return out;
    }
    static u32 big(u32 value) { return __builtin_bswap32(value); }
    // The register as one big-endian number.
    static void shift_left(const u32* from, u32* to, u32 words, u32 bits) {
        u32 carry = 0;
        for (u32 i = words; i-- > 0;) {
            const u32 value = big(from[i]);
            to[i] = big(value << bits | carry);
            carry = bits == 0 ? 0 : value >> (32 - bits);
        }
    }
    static void shift_right(const u32* from, u32* to, u32 words, u32 bits) {
        u32 carry = 0;
        for (u32 i = 0; i < words; i++) {
            const u32 value = big(from[i]);
            to[i] = big(carry | value >> bits);
            carry = bits == 0 ? 0 : value << (32 - bits);
        }
    }
};

class ByteOrder final : public Expression {
public:
    u8 source = 0, target_word = 0;
    u32 operation = 0, length = 0, size = 0;
    std::string_view name() const override { return "byteorder"; }
    void evaluate(Evaluation& at) override {
        u8 bytes[64];
        __builtin_memcpy(bytes, at.bytes(source), length);
        for (u32 i = 0; i + size <= length; i += size)
            for (u32 j = 0; j < size / 2; j++)
                std::swap(bytes[i + j], bytes[i + size - 1 - j]);
        __builtin_memcpy(at.bytes(target_word), bytes, length);
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_BYTEORDER_SREG, source);
        put_register(out, NFTA_BYTEORDER_DREG, target_word);
        put_be32(out, NFTA_BYTEORDER_OP, operation);
        put_be32(out, NFTA_BYTEORDER_LEN, length);
        put_be32(out, NFTA_BYTEORDER_SIZE, size);
    }
};

class Immediate final : public Expression {
public:
    u8 target_word = 0;
    Data data;
    std::string_view name() const override { return "immediate"; }
    void evaluate(Evaluation& at) override { use_data(at, data, target_word); }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_IMMEDIATE_DREG, target_word);
        dump_data(out, NFTA_IMMEDIATE_DATA, data);
    }
    const ChainKey* target() const override { return data.chain.get(); }
};

} // namespace

MadeExpression make_cmp(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_CMP_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_CMP_OP] == nullptr)
        return fail(EINVAL);
    TRY(Owned<Compare> out, make_owned<Compare>());
    out->operation = parts.number(NFTA_CMP_OP);
    if (out->operation > NFT_CMP_GTE)
        return fail(EINVAL);
    TRY(out->data, parse_value(context, parts[NFTA_CMP_DATA]));
    TRY(out->source, source_register(context, parts[NFTA_CMP_SREG], out->data.length));
    return made<Compare>(std::move(out));
}

MadeExpression make_range(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_RANGE_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_RANGE_OP] == nullptr)
        return fail(EINVAL);
    TRY(Owned<Range> out, make_owned<Range>());
    out->operation = parts.number(NFTA_RANGE_OP);
    TRY(out->from, parse_value(context, parts[NFTA_RANGE_FROM_DATA]));
    TRY(out->to, parse_value(context, parts[NFTA_RANGE_TO_DATA]));
    if (out->from.length != out->to.length || out->operation > NFT_RANGE_NEQ)
        return fail(EINVAL);
    TRY(out->source, source_register(context, parts[NFTA_RANGE_SREG], out->from.length));
    return made<Range>(std::move(out));
}

namespace {

Result<void> parse_bitwise_values(ParseContext& context,
                                  const Attributes<Bitwise::attribute_second + 2>& parts,
                                  Bitwise& out) {
    if (out.operation == NFT_BITWISE_MASK_XOR) {
        if (parts[NFTA_BITWISE_DATA] != nullptr)
            return fail(EINVAL);
        TRY(out.mask, parse_value(context, parts[NFTA_BITWISE_MASK]));
        TRY(out.exclusive, parse_value(context, parts[NFTA_BITWISE_XOR]));
        if (out.mask.length != out.length || out.exclusive.length != out.length)
            return fail(EINVAL);
        return {};
    }
    if (parts[NFTA_BITWISE_MASK] != nullptr || parts[NFTA_BITWISE_XOR] != nullptr)
        return fail(EINVAL);
    if (out.operation > NFT_BITWISE_RSHIFT) {
        TRY(out.second, source_register(context, parts[Bitwise::attribute_second], out.length));
        return {};
    }
    TRY(out.data, parse_value(context, parts[NFTA_BITWISE_DATA]));
    u32 bits = 0;
    __builtin_memcpy(&bits, out.data.bytes, sizeof bits);
    if (out.data.length != sizeof bits || bits >= 32)
        return fail(EINVAL);
    return {};
}

} // namespace

MadeExpression make_bitwise(ParseContext& context, RawAttributes attributes) {
    Attributes<Bitwise::attribute_second + 2> parts;
    TRY(parts.parse(attributes));
    TRY(Owned<Bitwise> out, make_owned<Bitwise>());
    out->length = parts.number(NFTA_BITWISE_LEN);
    if (parts[NFTA_BITWISE_LEN] == nullptr || out->length > 255)
        return fail(parts[NFTA_BITWISE_LEN] == nullptr ? EINVAL : ERANGE);
    TRY(out->source, source_register(context, parts[NFTA_BITWISE_SREG], out->length));
    TRY(out->target_word, target_register(context, parts[NFTA_BITWISE_DREG], out->length));
    out->operation = parts.number(NFTA_BITWISE_OP);
    if (out->operation > Bitwise::bitwise_xor)
        return fail(EOPNOTSUPP);
    TRY(parse_bitwise_values(context, parts, *out));
    return made<Bitwise>(std::move(out));
}

MadeExpression make_byteorder(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_BYTEORDER_MAX + 1> parts;
    TRY(parts.parse(attributes));
    for (const u16 needed : {NFTA_BYTEORDER_SREG, NFTA_BYTEORDER_DREG, NFTA_BYTEORDER_LEN,
                             NFTA_BYTEORDER_SIZE, NFTA_BYTEORDER_OP})
        if (parts[needed] == nullptr)
            return fail(EINVAL);
    TRY(Owned<ByteOrder> out, make_owned<ByteOrder>());
    out->operation = parts.number(NFTA_BYTEORDER_OP);
    out->size = parts.number(NFTA_BYTEORDER_SIZE);
    out->length = parts.number(NFTA_BYTEORDER_LEN);
    if (out->operation > NFT_BYTEORDER_HTON || (out->size != 2 && out->size != 4 && out->size != 8))
        return fail(EINVAL);
    if (out->length > 64)
        return fail(ERANGE);
    TRY(out->source, source_register(context, parts[NFTA_BYTEORDER_SREG], out->length));
    TRY(out->target_word, target_register(context, parts[NFTA_BYTEORDER_DREG], out->length));
    return made<ByteOrder>(std::move(out));
}

namespace {

// An anonymous chain is its rule's from now on, and goes with it.
Result<void> bind_target(ParseContext& context, const Data& data) {
    if (!data.chain)
        return {};
    const Chain* target = context.table.find_chain(*data.chain);
    if (target == nullptr || (target->flags & NFT_CHAIN_BINDING) == 0)
        return {};
    // They do not nest: one that leads to itself would go while its own rules are changed.
    if (context.chain != nullptr && (context.chain->flags & NFT_CHAIN_BINDING) != 0)
        return fail(EOPNOTSUPP);
    return context.transaction.bind(*target->key);
}

} // namespace

MadeExpression make_immediate(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_IMMEDIATE_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_IMMEDIATE_DREG] == nullptr || parts[NFTA_IMMEDIATE_DATA] == nullptr)
        return fail(EINVAL);
    TRY(Owned<Immediate> out, make_owned<Immediate>());
    TRY(out->data, parse_data(context, parts[NFTA_IMMEDIATE_DATA]));
    if (out->data.verdict) {
        if (parts.number(NFTA_IMMEDIATE_DREG) != NFT_REG_VERDICT)
            return fail(EINVAL);
        TRY(bind_target(context, out->data));
    } else {
        TRY(out->target_word,
            target_register(context, parts[NFTA_IMMEDIATE_DREG], out->data.length));
    }
    return made<Immediate>(std::move(out));
}

} // namespace kernel::net::filter
