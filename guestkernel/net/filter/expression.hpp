// Expressions: what rules are made of. Each reads registers and the packet, writes registers, or
// says where to go on.
#pragma once

#include "guestkernel/net/filter/evaluation.hpp"
#include "guestkernel/net/netlink/message.hpp"

namespace kernel::net::filter {

using netlink::Attribute;
using netlink::AttributeReader;
using netlink::ExtendedAck;
using netlink::MessageWriter;

struct Chain;
struct Table;
struct Object;
class Set;
class Transaction;

// What an expression is parsed for.
struct ParseContext {
    Transaction& transaction;
    Table& table; // the transaction's copy
    const Chain* chain;
    u8 family; // NFPROTO_*
    ExtendedAck& ack;
    u32 written = 0; // registers (words) that a rule has set so far
    // NFTA_RULE_COMPAT: the protocol that the rule is for; 0: any.
    u8 compat_protocol = 0;
    bool compat_inverted = false;
};

class Expression {
public:
    virtual ~Expression() = default;
    virtual std::string_view name() const = 0;
    virtual void evaluate(Evaluation& at) = 0;
    // The attributes of its NFTA_EXPR_DATA.
    virtual void dump(MessageWriter& out) const = 0;
    // Whether it may stand in the base chain `from`, from which it can be reached. EOPNOTSUPP, ...
    virtual Result<void> validate(const Chain& from, u8 family) const {
        (void)from;
        (void)family;
        return {};
    }
    // A chain that it may lead to; null: none.
    virtual const ChainKey* target() const { return nullptr; }
    // Goes through targets of the elements of its set.
    virtual const Set* set() const { return nullptr; }
    virtual const Object* object() const { return nullptr; }
    virtual bool tracks() const { return false; } // needs connection tracking
    // A fresh one for an element that a packet adds; null: it has no state, or no memory.
    virtual Owned<Expression> clone() const { return {}; }
    virtual bool stateful() const { return false; }
    virtual void reset() {}
};

using ExpressionMaker = Result<Owned<Expression>> (*)(ParseContext& context,
                                                      std::span<const u8> attributes);
ExpressionMaker find_expression(std::string_view name);
// From an attribute that has NFTA_EXPR_NAME and NFTA_EXPR_DATA.
Result<Owned<Expression>> parse_expression(ParseContext& context, std::span<const u8> attributes);
void dump_expression(MessageWriter& out, u16 attribute, const Expression& expression);

// --- what makers have in common
// Attributes by number, without checks of their lengths beyond what as<T>() does; ERANGE for
// numbers that are too short.
template <usize N>
class Attributes {
public:
    Result<void> parse(std::span<const u8> bytes) {
        AttributeReader reader(bytes);
        Attribute attribute;
        while (reader.next(attribute))
            if (attribute.type < N) {
                at_[attribute.type] = attribute;
                present_[attribute.type] = true;
            }
        return {};
    }
    const Attribute* operator[](usize type) const { return present_[type] ? &at_[type] : nullptr; }
    // Numbers come big-endian. What is missing is `otherwise`.
    u32 number(usize type, u32 otherwise = 0) const {
        return present_[type] ? at_[type].template as<Be32>().get() : otherwise;
    }
    u64 number64(usize type, u64 otherwise = 0) const {
        return present_[type] ? at_[type].template as<BigEndian<u64>>().get() : otherwise;
    }
    std::string_view text(usize type) const {
        return present_[type] ? at_[type].text() : std::string_view();
    }
    std::span<const u8> data(usize type) const {
        return present_[type] ? at_[type].data : std::span<const u8>();
    }

private:
    Attribute at_[N];
    bool present_[N] = {};
};

void put_be32(MessageWriter& out, u16 type, u32 value);
void put_be64(MessageWriter& out, u16 type, u64 value);
void put_be16(MessageWriter& out, u16 type, u16 value);

// Registers: the word where one begins. EINVAL, ERANGE, ENODATA (nothing was put there).
Result<u8> source_register(const ParseContext& context, const Attribute* attribute, u32 bytes);
Result<u8> target_register(ParseContext& context, const Attribute* attribute, u32 bytes);
void put_register(MessageWriter& out, u16 type, u8 word);

// NFTA_DATA_VALUE as bytes (at most 64), or NFTA_DATA_VERDICT.
struct Data {
    bool verdict = false;
    u32 length = 0;
    u8 bytes[64] = {};
    Verdict code = Verdict::Continue;
    Ref<ChainKey> chain; // of a jump or goto
};
Result<Data> parse_data(ParseContext& context, const Attribute* attribute);
void dump_data(MessageWriter& out, u16 type, const Data& data);
// A verdict becomes the packet's; other data goes to the register, its last word filled with zeros.
void use_data(Evaluation& at, const Data& data, u8 target_word);
Result<Data> parse_value(ParseContext& context, const Attribute* attribute); // no verdict: EINVAL

} // namespace kernel::net::filter
