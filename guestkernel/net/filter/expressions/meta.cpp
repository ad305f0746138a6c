// meta: what is known of a packet besides its bytes.
#include <linux/errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/ruleset.hpp"

namespace kernel::net::filter {

namespace {

constexpr u32 name_bytes = Interface::name_bytes;

u32 bytes_of(u32 key) {
    switch (key) {
    case NFT_META_NFPROTO:
    case NFT_META_L4PROTO:
    case NFT_META_PKTTYPE:
    case NFT_META_TIME_DAY:
        return 1;
    case NFT_META_PROTOCOL:
    case NFT_META_IIFTYPE:
    case NFT_META_OIFTYPE:
        return 2;
    case NFT_META_LEN:
    case NFT_META_PRIORITY:
    case NFT_META_MARK:
    case NFT_META_IIF:
    case NFT_META_OIF:
    case NFT_META_SKUID:
    case NFT_META_CPU:
    case NFT_META_IIFGROUP:
    case NFT_META_OIFGROUP:
    case NFT_META_PRANDOM:
    case NFT_META_TIME_HOUR:
        return 4;
    case NFT_META_TIME_NS:
        return 8;
    case NFT_META_IIFNAME:
    case NFT_META_OIFNAME:
    case NFT_META_IIFKIND:
    case NFT_META_OIFKIND:
        return name_bytes;
    default:
        return 0;
    }
}

void put_text(u32* to, std::string_view text) {
    u8 bytes[name_bytes] = {};
    const usize length = text.size() < name_bytes ? text.size() : name_bytes - 1;
    for (usize i = 0; i < length; i++)
        bytes[i] = static_cast<u8>(text[i]);
    __builtin_memcpy(to, bytes, sizeof bytes);
}

const Interface* interface_for(const Evaluation& at, u32 key) {
    switch (key) {
    case NFT_META_IIF:
    case NFT_META_IIFNAME:
    case NFT_META_IIFTYPE:
    case NFT_META_IIFGROUP:
    case NFT_META_IIFKIND:
        return at.hook.in;
    default:
        return at.hook.out;
    }
}

// Of the interface's: what is not there counts as empty for names, else ends the rule.
bool load_interface(Evaluation& at, u32 key, u32* to) {
    const Interface* interface = interface_for(at, key);
    switch (key) {
    case NFT_META_IIF:
    case NFT_META_OIF:
        *to = interface == nullptr ? 0 : interface->index();
        return true;
    case NFT_META_IIFNAME:
    case NFT_META_OIFNAME:
        put_text(to, interface == nullptr ? std::string_view() : interface->name());
        return true;
    default:
        break;
    }
    if (interface == nullptr)
        return false;
    switch (key) {
    case NFT_META_IIFTYPE:
    case NFT_META_OIFTYPE:
        *to = static_cast<u16>(interface->type());
        return true;
    case NFT_META_IIFGROUP:
    case NFT_META_OIFGROUP:
        *to = interface->group;
        return true;
    default:
        if (interface->kind().empty())
            return false;
        put_text(to, interface->kind());
        return true;
    }
}

constexpr i64 second = 1'000'000'000, day_seconds = 86400;

bool load_packet(Evaluation& at, u32 key, u32* to) {
    const Packet& packet = *at.packet;
    switch (key) {
    case NFT_META_LEN:
        *to = packet.length();
        return true;
    case NFT_META_PROTOCOL: {
        const Be16 protocol(at.hook.v6 ? u16{0x86dd} : u16{0x0800});
        *to = protocol.raw();
        return true;
    }
    case NFT_META_NFPROTO:
        *to = at.hook.v6 ? NFPROTO_IPV6 : NFPROTO_IPV4;
        return true;
    case NFT_META_L4PROTO:
        *to = at.protocol;
        return at.has_transport;
    case NFT_META_PRIORITY:
        *to = packet.priority;
        return true;
    case NFT_META_MARK:
        *to = packet.mark;
        return true;
    case NFT_META_SKUID:
        *to = at.hook.flow == nullptr ? 0 : at.hook.flow->uid;
        return at.hook.flow != nullptr && packet.ingress == nullptr;
    case NFT_META_PKTTYPE:
        *to = at.hook.out != nullptr && at.hook.out->is_loopback() ? 5u // PACKET_LOOPBACK
                                                                   : static_cast<u32>(packet.kind);
        return true;
    case NFT_META_CPU:
        *to = 0;
        return true;
    case NFT_META_PRANDOM:
        *to = static_cast<u32>(random_u64());
        return true;
    default:
        break;
    }
    const i64 now = at.stack.clock.wall_time();
    switch (key) {
    case NFT_META_TIME_NS:
        __builtin_memcpy(to, &now, sizeof now);
        return true;
    case NFT_META_TIME_DAY: // 1970 began on a Thursday
        *to = static_cast<u32>((now / second / day_seconds + 4) % 7);
        return true;
    default: // NFT_META_TIME_HOUR
        *to = static_cast<u32>(now / second % day_seconds);
        return true;
    }
}

bool of_interface(u32 key) {
    switch (key) {
    case NFT_META_IIF:
    case NFT_META_OIF:
    case NFT_META_IIFNAME:
    case NFT_META_OIFNAME:
    case NFT_META_IIFTYPE:
    case NFT_META_OIFTYPE:
    case NFT_META_IIFGROUP:
    case NFT_META_OIFGROUP:
    case NFT_META_IIFKIND:
    case NFT_META_OIFKIND:
        return true;
    default:
        return false;
    }
}

class MetaLoad final : public Expression {
public:
    u32 key = 0;
    u8 target_word = 0;
    std::string_view name() const override { return "meta"; }
    void evaluate(Evaluation& at) override {
        u32* to = at.words + target_word;
        if (!(of_interface(key) ? load_interface(at, key, to) : load_packet(at, key, to)))
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        put_be32(out, NFTA_META_KEY, key);
        put_register(out, NFTA_META_DREG, target_word);
    }
};

class MetaStore final : public Expression {
public:
    u32 key = 0;
    u8 source = 0;
    std::string_view name() const override { return "meta"; }
    void evaluate(Evaluation& at) override {
        const u32 value = at.words[source];
        switch (key) {
        case NFT_META_MARK:
            at.packet->mark = value;
            break;
        case NFT_META_PRIORITY:
            at.packet->priority = static_cast<u8>(value);
            break;
        case NFT_META_PKTTYPE:
            if (at.packet->kind != static_cast<PacketKind>(value & 0xff) && (value & 0xff) <= 3)
                at.packet->kind = static_cast<PacketKind>(value & 0xff);
            break;
        default: // NFT_META_NFTRACE: nobody traces
            break;
        }
    }
    void dump(MessageWriter& out) const override {
        put_be32(out, NFTA_META_KEY, key);
        put_register(out, NFTA_META_SREG, source);
    }
};

MadeExpression make_store(ParseContext& context, const Attributes<NFTA_META_MAX + 1>& parts) {
    TRY(Owned<MetaStore> out, make_owned<MetaStore>());
    out->key = parts.number(NFTA_META_KEY);
    u32 bytes = 4;
    switch (out->key) {
    case NFT_META_MARK:
    case NFT_META_PRIORITY:
        break;
    case NFT_META_NFTRACE:
    case NFT_META_PKTTYPE:
        bytes = 1;
        break;
    default:
        return fail(EOPNOTSUPP);
    }
    TRY(out->source, source_register(context, parts[NFTA_META_SREG], bytes));
    return made<MetaStore>(std::move(out));
}

} // namespace

MadeExpression make_meta(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_META_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_META_KEY] == nullptr)
        return fail(EINVAL);
    if (parts[NFTA_META_DREG] != nullptr && parts[NFTA_META_SREG] != nullptr)
        return fail(EINVAL);
    if (parts[NFTA_META_SREG] != nullptr)
        return make_store(context, parts);
    if (parts[NFTA_META_DREG] == nullptr)
        return fail(EINVAL);
    TRY(Owned<MetaLoad> out, make_owned<MetaLoad>());
    out->key = parts.number(NFTA_META_KEY);
    const u32 bytes = bytes_of(out->key);
    if (bytes == 0)
        return fail(EOPNOTSUPP);
    TRY(out->target_word, target_register(context, parts[NFTA_META_DREG], bytes));
    return made<MetaLoad>(std::move(out));
}

} // namespace kernel::net::filter
