// ct and notrack: what connection tracking knows of a packet.
#include <linux/errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/conntrack.hpp"
#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/ruleset.hpp"

namespace kernel::net::filter {

namespace {

constexpr u8 no_direction = 0xff;

// As NF_CT_STATE_BIT() has them.
u32 state_bits(const Packet& packet) {
    switch (tracking_of(packet)) {
    case Tracking::Established:
        return 2;
    case Tracking::Related:
        return 4;
    case Tracking::New:
        return 8;
    case Tracking::Untracked:
        return 64;
    default:
        return 1;
    }
}

u32 bytes_of(u32 key, u8 family) {
    switch (key) {
    case NFT_CT_DIRECTION:
    case NFT_CT_L3PROTOCOL:
    case NFT_CT_PROTOCOL:
        return 1;
    case NFT_CT_PROTO_SRC:
    case NFT_CT_PROTO_DST:
    case NFT_CT_ZONE:
        return 2;
    case NFT_CT_STATE:
    case NFT_CT_STATUS:
    case NFT_CT_MARK:
    case NFT_CT_EXPIRATION:
    case NFT_CT_SRC_IP:
    case NFT_CT_DST_IP:
    case NFT_CT_ID:
        return 4;
    case NFT_CT_PKTS:
    case NFT_CT_BYTES:
    case NFT_CT_AVGPKT:
        return 8;
    case NFT_CT_SRC:
    case NFT_CT_DST:
        return family == NFPROTO_IPV4 ? 4 : 16;
    case NFT_CT_SRC_IP6:
    case NFT_CT_DST_IP6:
        return 16;
    default:
        return 0;
    }
}

class ConnectionLoad final : public Expression {
public:
    u32 key = 0, bytes = 0;
    u8 direction = no_direction, target_word = 0;
    std::string_view name() const override { return "ct"; }
    bool tracks() const override { return true; }
    void evaluate(Evaluation& at) override {
        u32* to = at.words + target_word;
        const Packet& packet = *at.packet;
        if (key == NFT_CT_STATE) {
            *to = state_bits(packet);
            return;
        }
        const auto* connection = static_cast<const Connection*>(packet.connection.get());
        if (connection == nullptr || !load(at, *connection, to))
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        put_be32(out, NFTA_CT_KEY, key);
        put_register(out, NFTA_CT_DREG, target_word);
        if (direction != no_direction)
            out.number8(NFTA_CT_DIRECTION, direction);
    }

private:
    bool load(const Evaluation& at, const Connection& connection, u32* to) const {
        const u8 side = direction == no_direction ? 0 : direction;
        const Tuple& tuple = connection.ends[side].tuple;
        switch (key) {
        case NFT_CT_DIRECTION:
            *to = (at.packet->tracking & tracking_reply) != 0 ? 1 : 0;
            return true;
        case NFT_CT_STATUS:
            *to = connection.status.load();
            return true;
        case NFT_CT_MARK:
            *to = connection.mark.load();
            return true;
        case NFT_CT_EXPIRATION: {
            const u64 end = connection.expires.load(), now = at.stack.now();
            *to = end > now ? static_cast<u32>((end - now) / 1'000'000) : 0;
            return true;
        }
        case NFT_CT_L3PROTOCOL:
            *to = tuple.v6() ? NFPROTO_IPV6 : NFPROTO_IPV4;
            return true;
        case NFT_CT_PROTOCOL:
            *to = tuple.protocol;
            return true;
        case NFT_CT_PROTO_SRC:
            *to = Be16(tuple.source_port).raw();
            return true;
        case NFT_CT_PROTO_DST:
            *to = Be16(tuple.destination_port).raw();
            return true;
        case NFT_CT_ZONE:
            *to = 0;
            return true;
        case NFT_CT_ID:
            *to = connection.id;
            return true;
        case NFT_CT_PKTS:
        case NFT_CT_BYTES:
        case NFT_CT_AVGPKT:
            return load_counter(connection, to);
        default:
            return load_address(tuple, to);
        }
    }
    bool load_counter(const Connection& connection, u32* to) const {
        u64 packets = 0, all_bytes = 0;
        for (u8 i = 0; i < 2; i++) {
            if (direction != no_direction && direction != i)
                continue;
            packets += connection.packets[i].load();
            all_bytes += connection.bytes[i].load();
        }
        const u64 value = key == NFT_CT_PKTS    ? packets
                          : key == NFT_CT_BYTES ? all_bytes
                          : packets == 0        ? 0
                                                : all_bytes / packets;
        __builtin_memcpy(to, &value, sizeof value);
        return true;
    }
    bool load_address(const Tuple& tuple, u32* to) const {
        const bool source = key == NFT_CT_SRC || key == NFT_CT_SRC_IP || key == NFT_CT_SRC_IP6;
        const IpAddress& address = source ? tuple.source : tuple.destination;
        if (address.wire_bytes() != bytes && key != NFT_CT_SRC && key != NFT_CT_DST)
            return false;
        __builtin_memset(to, 0, bytes);
        if (address.wire_bytes() > bytes)
            return false;
        __builtin_memcpy(to, address.wire(), address.wire_bytes());
        return true;
    }
};

class ConnectionStore final : public Expression {
public:
    u32 key = 0;
    u8 source = 0;
    std::string_view name() const override { return "ct"; }
    bool tracks() const override { return true; }
    void evaluate(Evaluation& at) override {
        auto* connection = static_cast<Connection*>(at.packet->connection.get());
        if (connection != nullptr)
            connection->mark.store(at.words[source]);
    }
    void dump(MessageWriter& out) const override {
        put_be32(out, NFTA_CT_KEY, key);
        put_register(out, NFTA_CT_SREG, source);
    }
};

class NoTrack final : public Expression {
public:
    std::string_view name() const override { return "notrack"; }
    void evaluate(Evaluation& at) override {
        if (!at.packet->connection && at.packet->tracking == 0)
            at.packet->tracking = static_cast<u8>(Tracking::Untracked);
    }
    void dump(MessageWriter& out) const override { (void)out; }
};

MadeExpression make_store(ParseContext& context, const Attributes<NFTA_CT_MAX + 1>& parts) {
    TRY(Owned<ConnectionStore> out, make_owned<ConnectionStore>());
    out->key = parts.number(NFTA_CT_KEY);
    if (out->key != NFT_CT_MARK || parts[NFTA_CT_DIRECTION] != nullptr)
        return fail(out->key == NFT_CT_MARK ? EINVAL : EOPNOTSUPP);
    TRY(out->source, source_register(context, parts[NFTA_CT_SREG], 4));
    return made<ConnectionStore>(std::move(out));
}

} // namespace

MadeExpression make_ct(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_CT_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_CT_KEY] == nullptr ||
        (parts[NFTA_CT_DREG] != nullptr) == (parts[NFTA_CT_SREG] != nullptr))
        return fail(EINVAL);
    if (parts[NFTA_CT_SREG] != nullptr)
        return make_store(context, parts);
    TRY(Owned<ConnectionLoad> out, make_owned<ConnectionLoad>());
    out->key = parts.number(NFTA_CT_KEY);
    out->bytes = bytes_of(out->key, context.family);
    if (out->bytes == 0)
        return fail(EOPNOTSUPP);
    const bool has_direction = parts[NFTA_CT_DIRECTION] != nullptr;
    if (has_direction) {
        out->direction = parts[NFTA_CT_DIRECTION]->as<u8>();
        if (out->direction > 1)
            return fail(EINVAL);
    }
    switch (out->key) {
    case NFT_CT_STATE:
    case NFT_CT_DIRECTION:
    case NFT_CT_STATUS:
    case NFT_CT_MARK:
    case NFT_CT_EXPIRATION:
        if (has_direction)
            return fail(EINVAL);
        break;
    case NFT_CT_SRC:
    case NFT_CT_DST:
    case NFT_CT_PROTO_SRC:
    case NFT_CT_PROTO_DST:
    case NFT_CT_SRC_IP:
    case NFT_CT_DST_IP:
    case NFT_CT_SRC_IP6:
    case NFT_CT_DST_IP6:
        if (!has_direction)
            return fail(EINVAL);
        break;
    default:
        break;
    }
    TRY(out->target_word, target_register(context, parts[NFTA_CT_DREG], out->bytes));
    return made<ConnectionLoad>(std::move(out));
}

MadeExpression make_notrack(ParseContext& context, RawAttributes attributes) {
    (void)context;
    (void)attributes;
    return made<NoTrack>(make_owned<NoTrack>());
}

} // namespace kernel::net::filter
