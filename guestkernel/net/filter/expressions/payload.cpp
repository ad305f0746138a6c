// payload: bytes of the packet into registers, and back with the sums put right.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/mangle.hpp"
#include "guestkernel/net/filter/ruleset.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net::filter {

namespace {

// Where the base begins, from the packet's data. False: the packet has none.
bool base_offset(const Evaluation& at, u32 base, i64& out) {
    const Packet& packet = *at.packet;
    switch (base) {
    case NFT_PAYLOAD_LL_HEADER:
        if (!packet.has_link())
            return false;
        out = packet.link_offset();
        return true;
    case NFT_PAYLOAD_NETWORK_HEADER:
        out = 0;
        return true;
    case NFT_PAYLOAD_TRANSPORT_HEADER:
        out = at.transport;
        return at.has_transport && at.fragment_offset == 0;
    case NFT_PAYLOAD_INNER_HEADER: {
        if (!at.has_transport || at.fragment_offset != 0)
            return false;
        if (at.protocol == proto_tcp) {
            TcpHeader header;
            if (!packet.read(at.transport, header) || header.header_bytes() < sizeof header)
                return false;
            out = at.transport + header.header_bytes();
            return true;
        }
        out = i64{at.transport} + 8;
        return at.protocol == proto_udp || at.protocol == proto_icmp || at.protocol == proto_icmpv6;
    }
    default:
        return false;
    }
}

class PayloadLoad final : public Expression {
public:
    u32 base = 0, offset = 0, length = 0;
    u8 target_word = 0;
    std::string_view name() const override { return "payload"; }
    void evaluate(Evaluation& at) override {
        i64 start = 0;
        u8* to = at.bytes(target_word);
        if (base_offset(at, base, start)) {
            // The last word's rest is zero.
            at.words[target_word + (length - 1) / 4] = 0;
            start += offset;
            if (start >= 0 && at.packet->copy_out(static_cast<u32>(start), to, length))
                return;
            // A link header lies before the data.
            if (start < 0 && base == NFT_PAYLOAD_LL_HEADER && start + length <= 0) {
                __builtin_memcpy(to, at.packet->data() + start, length);
                return;
            }
        }
        at.leave();
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_PAYLOAD_DREG, target_word);
        put_be32(out, NFTA_PAYLOAD_BASE, base);
        put_be32(out, NFTA_PAYLOAD_OFFSET, offset);
        put_be32(out, NFTA_PAYLOAD_LEN, length);
    }
};

class PayloadStore final : public Expression {
public:
    u32 base = 0, offset = 0, length = 0;
    u8 source = 0;
    u32 checksum_type = 0, checksum_at = 0, checksum_flags = 0;
    std::string_view name() const override { return "payload"; }
    void evaluate(Evaluation& at) override {
        i64 start = 0;
        if (!base_offset(at, base, start)) {
            at.leave();
            return;
        }
        const u32 place = static_cast<u32>(start) + offset;
        Packet& packet = *at.packet;
        if (place + length > packet.length() || packet.linear(place + length) == nullptr) {
            at.leave();
            return;
        }
        u8 before[64], after[64];
        __builtin_memcpy(before, packet.data() + place, length);
        __builtin_memcpy(after, at.bytes(source), length);
        const bool sums = checksum_type == NFT_PAYLOAD_CSUM_INET;
        // A UDP datagram without a sum stays without.
        if (sums && !fix_sums(at, static_cast<u32>(start) + checksum_at, before, after)) {
            at.leave();
            return;
        }
        __builtin_memcpy(packet.data() + place, after, length);
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_PAYLOAD_SREG, source);
        put_be32(out, NFTA_PAYLOAD_BASE, base);
        put_be32(out, NFTA_PAYLOAD_OFFSET, offset);
        put_be32(out, NFTA_PAYLOAD_LEN, length);
        put_be32(out, NFTA_PAYLOAD_CSUM_TYPE, checksum_type);
        put_be32(out, NFTA_PAYLOAD_CSUM_OFFSET, checksum_at);
        put_be32(out, NFTA_PAYLOAD_CSUM_FLAGS, checksum_flags);
    }

private:
    bool fix_sums(Evaluation& at, u32 field, const u8* before, const u8* after) const {
        Packet& packet = *at.packet;
        if (packet.linear(field + 2) == nullptr)
            return false;
        const bool transport = base == NFT_PAYLOAD_TRANSPORT_HEADER;
        if (transport) {
            // The sum that the device will make covers what is changed here.
            if (packet.checksum_state == ChecksumState::Partial)
                return true;
            u16 sum = 0;
            __builtin_memcpy(&sum, packet.data() + field, sizeof sum);
            if (at.protocol == proto_udp && sum == 0)
                return true;
        }
        replace_in_sum(packet.data() + field, before, after, length, (offset & 1) != 0, false);
        if ((checksum_flags & NFT_PAYLOAD_L4CSUM_PSEUDOHDR) != 0 && at.has_transport &&
            at.fragment_offset == 0)
            fix_transport_sum(packet, at.protocol, at.transport, before, after, length);
        return true;
    }
};

Result<void> parse_position(const Attributes<NFTA_PAYLOAD_MAX + 1>& parts, u32& base, u32& offset,
                            u32& length) {
    for (const u16 needed : {NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN})
        if (parts[needed] == nullptr)
            return fail(EINVAL);
    base = parts.number(NFTA_PAYLOAD_BASE);
    offset = parts.number(NFTA_PAYLOAD_OFFSET);
    length = parts.number(NFTA_PAYLOAD_LEN);
    if (base > NFT_PAYLOAD_INNER_HEADER)
        return fail(EOPNOTSUPP);
    if (offset > 0xffff || length > 255)
        return fail(ERANGE);
    return {};
}

} // namespace

MadeExpression make_payload(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_PAYLOAD_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_PAYLOAD_SREG] == nullptr) {
        TRY(Owned<PayloadLoad> out, make_owned<PayloadLoad>());
        TRY(parse_position(parts, out->base, out->offset, out->length));
        TRY(out->target_word, target_register(context, parts[NFTA_PAYLOAD_DREG], out->length));
        return made<PayloadLoad>(std::move(out));
    }
    if (parts[NFTA_PAYLOAD_DREG] != nullptr)
        return fail(EINVAL);
    TRY(Owned<PayloadStore> out, make_owned<PayloadStore>());
    TRY(parse_position(parts, out->base, out->offset, out->length));
    TRY(out->source, source_register(context, parts[NFTA_PAYLOAD_SREG], out->length));
    if (out->base != NFT_PAYLOAD_NETWORK_HEADER && out->base != NFT_PAYLOAD_TRANSPORT_HEADER)
        return fail(EOPNOTSUPP);
    out->checksum_type = parts.number(NFTA_PAYLOAD_CSUM_TYPE);
    out->checksum_at = parts.number(NFTA_PAYLOAD_CSUM_OFFSET);
    out->checksum_flags = parts.number(NFTA_PAYLOAD_CSUM_FLAGS);
    if (out->checksum_type > NFT_PAYLOAD_CSUM_INET)
        return fail(EOPNOTSUPP);
    if (out->checksum_at > 0xffff ||
        (out->checksum_flags & ~u32{NFT_PAYLOAD_L4CSUM_PSEUDOHDR}) != 0)
        return fail(EINVAL);
    return made<PayloadStore>(std::move(out));
}

} // namespace kernel::net::filter
