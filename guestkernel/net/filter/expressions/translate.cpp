// nat, masq, redir: what a new connection's addresses become.
#include <linux/errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/nat.hpp"
#include "guestkernel/net/filter/ruleset.hpp"

namespace kernel::net::filter {

namespace {

constexpr u32 known_flags = 0x7f; // NF_NAT_RANGE_MASK

// Registers with the ports of a range.
struct PortRegisters {
    u8 first = 0, last = 0;
    bool given = false;

    Result<void> parse(const ParseContext& context, const Attribute* low, const Attribute* high) {
        if (low == nullptr)
            return {};
        TRY(first, source_register(context, low, 2));
        last = first;
        if (high != nullptr) {
            TRY(last, source_register(context, high, 2));
        }
        given = true;
        return {};
    }
    void read(Evaluation& at, NatRange& range) const {
        if (!given)
            return;
        Be16 low, high;
        __builtin_memcpy(&low, at.bytes(first), sizeof low);
        __builtin_memcpy(&high, at.bytes(last), sizeof high);
        range.flags |= NatRange::ports_given;
        range.first_port = low.get();
        range.last_port = high.get();
    }
    void dump(MessageWriter& out, u16 low, u16 high) const {
        if (!given)
            return;
        put_register(out, low, first);
        put_register(out, high, last);
    }
};

Result<void> in_nat_chain(const Chain& from, bool source, bool on_the_way_out_only) {
    if (from.type != ChainType::Nat)
        return fail(EOPNOTSUPP);
    const HookPoint point = from.point;
    const bool fits = source ? point == HookPoint::PostRouting ||
                                   (point == HookPoint::Input && !on_the_way_out_only)
                             : point == HookPoint::PreRouting || point == HookPoint::Output;
    return fits ? Result<void>() : Result<void>(fail(EOPNOTSUPP));
}

class Nat final : public Expression {
public:
    bool source = false, has_address = false;
    u8 family = 0, first = 0, last = 0;
    PortRegisters ports;
    u32 flags = 0;
    std::string_view name() const override { return "nat"; }
    bool tracks() const override { return true; }
    void evaluate(Evaluation& at) override {
        NatRange range;
        range.flags = flags;
        const bool v6 = family == NFPROTO_IPV6;
        if (has_address) {
            if (v6 != at.hook.v6) {
                at.leave();
                return;
            }
            range.flags |= NatRange::map_addresses;
            range.first = IpAddress::from_wire(v6, at.bytes(first));
            range.last = IpAddress::from_wire(v6, at.bytes(last));
        }
        ports.read(at, range);
        if ((flags & NatRange::map_prefix) != 0)
            map_prefix(at, range, v6);
        at.verdict = set_up(at, range, source);
    }
    void dump(MessageWriter& out) const override {
        put_be32(out, NFTA_NAT_TYPE, source ? NFT_NAT_SNAT : NFT_NAT_DNAT);
        put_be32(out, NFTA_NAT_FAMILY, family);
        if (has_address) {
            put_register(out, NFTA_NAT_REG_ADDR_MIN, first);
            put_register(out, NFTA_NAT_REG_ADDR_MAX, last);
        }
        ports.dump(out, NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_REG_PROTO_MAX);
        if (flags != 0)
            put_be32(out, NFTA_NAT_FLAGS, flags);
    }
    Result<void> validate(const Chain& from, u8 of) const override {
        (void)of;
        return in_nat_chain(from, source, false);
    }

private:
    // The host part stays: what the two ends of the range have in common is the network's.
    void map_prefix(Evaluation& at, NatRange& range, bool v6) const {
        const auto* connection = static_cast<const Connection*>(at.packet->connection.get());
        if (connection == nullptr || !has_address)
            return;
        const Tuple& tuple = connection->ends[0].tuple;
        const IpAddress& own = source ? tuple.source : tuple.destination;
        u8 out[16];
        const u32 bytes = v6 ? 16 : 4;
        for (u32 i = 0; i < bytes; i++) {
            const u8 mask = static_cast<u8>(~(range.first.wire()[i] ^ range.last.wire()[i]));
            out[i] = static_cast<u8>((range.first.wire()[i] & mask) | (own.wire()[i] & ~mask));
        }
        range.first = range.last = IpAddress::from_wire(v6, out);
    }
};

class Masquerade final : public Expression {
public:
    PortRegisters ports;
    u32 flags = 0;
    std::string_view name() const override { return "masq"; }
    bool tracks() const override { return true; }
    void evaluate(Evaluation& at) override {
        NatRange range;
        range.flags = flags;
        ports.read(at, range);
        at.verdict = masquerade(at, range);
    }
    void dump(MessageWriter& out) const override {
        if (flags != 0)
            put_be32(out, NFTA_MASQ_FLAGS, flags);
        ports.dump(out, NFTA_MASQ_REG_PROTO_MIN, NFTA_MASQ_REG_PROTO_MAX);
    }
    Result<void> validate(const Chain& from, u8 of) const override {
        (void)of;
        return in_nat_chain(from, true, true);
    }
};

class Redirect final : public Expression {
public:
    PortRegisters ports;
    u32 flags = 0;
    std::string_view name() const override { return "redir"; }
    bool tracks() const override { return true; }
    void evaluate(Evaluation& at) override {
        NatRange range;
        range.flags = flags;
        ports.read(at, range);
        at.verdict = redirect(at, range);
    }
    void dump(MessageWriter& out) const override {
        ports.dump(out, NFTA_REDIR_REG_PROTO_MIN, NFTA_REDIR_REG_PROTO_MAX);
        if (flags != 0)
            put_be32(out, NFTA_REDIR_FLAGS, flags);
    }
    Result<void> validate(const Chain& from, u8 of) const override {
        (void)of;
        return in_nat_chain(from, false, false);
    }
};

} // namespace

MadeExpression make_nat(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_NAT_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_NAT_TYPE] == nullptr ||
        (parts[NFTA_NAT_REG_ADDR_MIN] == nullptr && parts[NFTA_NAT_REG_PROTO_MIN] == nullptr))
        return fail(EINVAL);
    TRY(Owned<Nat> out, make_owned<Nat>());
    const u32 type = parts.number(NFTA_NAT_TYPE);
    if (type > NFT_NAT_DNAT)
        return fail(EINVAL);
    out->source = type == NFT_NAT_SNAT;
    if (parts[NFTA_NAT_FAMILY] == nullptr)
        return fail(EINVAL);
    const u32 family = parts.number(NFTA_NAT_FAMILY);
    if (context.family != NFPROTO_INET && family != context.family)
        return fail(EOPNOTSUPP);
    if (family != NFPROTO_IPV4 && family != NFPROTO_IPV6 && family != NFPROTO_INET)
        return fail(EAFNOSUPPORT);
    out->family = static_cast<u8>(family);
    out->flags = parts.number(NFTA_NAT_FLAGS);
    if ((out->flags & ~known_flags) != 0)
        return fail(EOPNOTSUPP);
    if (parts[NFTA_NAT_REG_ADDR_MIN] != nullptr) {
        if (family == NFPROTO_INET)
            return fail(EINVAL);
        const u32 bytes = family == NFPROTO_IPV4 ? 4 : 16;
        TRY(out->first, source_register(context, parts[NFTA_NAT_REG_ADDR_MIN], bytes));
        out->last = out->first;
        if (parts[NFTA_NAT_REG_ADDR_MAX] != nullptr) {
            TRY(out->last, source_register(context, parts[NFTA_NAT_REG_ADDR_MAX], bytes));
        }
        out->has_address = true;
        out->flags |= NatRange::map_addresses;
    }
    TRY(out->ports.parse(context, parts[NFTA_NAT_REG_PROTO_MIN], parts[NFTA_NAT_REG_PROTO_MAX]));
    if (out->ports.given)
        out->flags |= NatRange::ports_given;
    return made<Nat>(std::move(out));
}

MadeExpression make_masq(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_MASQ_MAX + 1> parts;
    TRY(parts.parse(attributes));
    TRY(Owned<Masquerade> out, make_owned<Masquerade>());
    out->flags = parts.number(NFTA_MASQ_FLAGS);
    if ((out->flags & ~known_flags) != 0)
        return fail(EINVAL);
    TRY(out->ports.parse(context, parts[NFTA_MASQ_REG_PROTO_MIN], parts[NFTA_MASQ_REG_PROTO_MAX]));
    return made<Masquerade>(std::move(out));
}

MadeExpression make_redir(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_REDIR_MAX + 1> parts;
    TRY(parts.parse(attributes));
    TRY(Owned<Redirect> out, make_owned<Redirect>());
    out->flags = parts.number(NFTA_REDIR_FLAGS);
    if ((out->flags & ~known_flags) != 0)
        return fail(EINVAL);
    TRY(out->ports.parse(context, parts[NFTA_REDIR_REG_PROTO_MIN],
                         parts[NFTA_REDIR_REG_PROTO_MAX]));
    if (out->ports.given)
        out->flags |= NatRange::ports_given;
    return made<Redirect>(std::move(out));
}

} // namespace kernel::net::filter
