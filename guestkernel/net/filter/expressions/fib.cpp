// fib: what the routing tables say of a packet's addresses.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/address_type.hpp"
#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/ruleset.hpp"
#include "guestkernel/net/route.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net::filter {

namespace {

// Of linux/netfilter/nf_tables.h, where they are shifts in an enumeration.
constexpr u32 flag_source = 1, flag_destination = 2, flag_mark = 4, flag_in = 8, flag_out = 16,
              flag_present = 32;

class Fib final : public Expression {
public:
    u32 result = 0, flags = 0;
    u8 target_word = 0;
    std::string_view name() const override { return "fib"; }
    void evaluate(Evaluation& at) override {
        IpAddress source, destination;
        if (!read_addresses(*at.packet, at.hook.v6, source, destination)) {
            at.leave();
            return;
        }
        const IpAddress& address = (flags & flag_source) != 0 ? source : destination;
        const Interface* interface = (flags & flag_in) != 0    ? at.hook.in
                                     : (flags & flag_out) != 0 ? at.hook.out
                                                               : nullptr;
        u32* to = at.words + target_word;
        if (result == NFT_FIB_RESULT_ADDRTYPE) {
            *to = address_type(at.stack, address, interface);
            return;
        }
        Ref<Interface> found = route_interface(at, address, interface);
        if ((flags & flag_present) != 0) {
            *to = found ? 1 : 0;
        } else if (result == NFT_FIB_RESULT_OIF) {
            *to = found ? found->index() : 0;
        } else {
            u8 bytes[Interface::name_bytes] = {};
            if (found)
                __builtin_memcpy(bytes, found->name().data(), found->name().size());
            __builtin_memcpy(to, bytes, sizeof bytes);
        }
    }
    void dump(MessageWriter& out) const override {
        put_register(out, NFTA_FIB_DREG, target_word);
        put_be32(out, NFTA_FIB_RESULT, result);
        put_be32(out, NFTA_FIB_FLAGS, flags);
    }
    Result<void> validate(const Chain& from, u8 family) const override {
        (void)family;
        const HookPoint point = from.point;
        const bool incoming = point == HookPoint::PreRouting || point == HookPoint::Input ||
                              point == HookPoint::Forward;
        const bool outgoing = point == HookPoint::Output || point == HookPoint::PostRouting ||
                              point == HookPoint::Forward;
        if (result != NFT_FIB_RESULT_ADDRTYPE)
            return incoming ? Result<void>() : Result<void>(fail(EOPNOTSUPP));
        if (((flags & flag_in) != 0 && !incoming) || ((flags & flag_out) != 0 && !outgoing))
            return fail(EOPNOTSUPP);
        return {};
    }

private:
    Ref<Interface> route_interface(const Evaluation& at, const IpAddress& address,
                                   const Interface* wanted) const {
        if (at.hook.in != nullptr && at.hook.in->is_loopback())
            return Ref<Interface>::share(at.hook.in);
        RouteKey key;
        key.destination = address;
        if ((flags & flag_mark) != 0)
            key.mark = at.packet->mark;
        SpinGuard guard(at.stack.lock);
        auto found = at.stack.routes().find(key, at.stack.now());
        if (!found || (found->route->type != RouteType::Unicast))
            return {};
        if (wanted == nullptr)
            return found->hop->interface;
        for (const NextHop& hop : found->route->hops)
            if (hop.interface.get() == wanted)
                return hop.interface;
        return {};
    }
};

} // namespace

bool read_addresses(const Packet& packet, bool v6, IpAddress& source, IpAddress& destination) {
    if (v6) {
        Ipv6Header header;
        if (!packet.read(0, header))
            return false;
        source = IpAddress::v6(header.source);
        destination = IpAddress::v6(header.destination);
        return true;
    }
    Ipv4Header header;
    if (!packet.read(0, header))
        return false;
    source = IpAddress::v4(header.source.get());
    destination = IpAddress::v4(header.destination.get());
    return true;
}

u32 address_type(Stack& stack, const IpAddress& address, const Interface* interface) {
    const auto number = [](RouteType type) { return static_cast<u32>(type); };
    if (address.is_v4() && (address.is_any() || address.is_limited_broadcast()))
        return number(RouteType::Broadcast);
    if (address.is_multicast())
        return number(RouteType::Multicast);
    RouteKey key;
    key.destination = address;
    key.out_interface = 0;
    SpinGuard guard(stack.lock);
    auto found = stack.routes().find_in(table_local, key, stack.now());
    if (found) {
        if (interface != nullptr && found->hop != nullptr &&
            found->hop->interface.get() != interface &&
            !(found->hop->interface && found->hop->interface->is_loopback()))
            return number(RouteType::Unicast);
        return number(found->route->type);
    }
    auto other = stack.routes().find(key, stack.now());
    if (other)
        return number(other->route->type);
    switch (other.error().code) {
    case EINVAL:
        return number(RouteType::Blackhole);
    case EACCES:
        return number(RouteType::Prohibit);
    case EHOSTUNREACH:
        return number(RouteType::Unreachable);
    default:
        return number(address.is_v6() ? RouteType::Unreachable : RouteType::Unicast);
    }
}

MadeExpression make_fib(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_FIB_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_FIB_DREG] == nullptr || parts[NFTA_FIB_RESULT] == nullptr ||
        parts[NFTA_FIB_FLAGS] == nullptr)
        return fail(EINVAL);
    TRY(Owned<Fib> out, make_owned<Fib>());
    out->flags = parts.number(NFTA_FIB_FLAGS);
    out->result = parts.number(NFTA_FIB_RESULT);
    const u32 flags = out->flags;
    if (flags == 0 || (flags & ~63u) != 0)
        return fail(EINVAL);
    if ((flags & (flag_source | flag_destination)) == (flag_source | flag_destination) ||
        (flags & (flag_source | flag_destination)) == 0 ||
        (flags & (flag_in | flag_out)) == (flag_in | flag_out))
        return fail(EINVAL);
    u32 bytes = 4;
    switch (out->result) {
    case NFT_FIB_RESULT_OIF:
        if ((flags & flag_out) != 0)
            return fail(EINVAL);
        break;
    case NFT_FIB_RESULT_OIFNAME:
        if ((flags & flag_out) != 0)
            return fail(EINVAL);
        bytes = Interface::name_bytes;
        break;
    case NFT_FIB_RESULT_ADDRTYPE:
        break;
    default:
        return fail(EINVAL);
    }
    TRY(out->target_word, target_register(context, parts[NFTA_FIB_DREG], bytes));
    return made<Fib>(std::move(out));
}

} // namespace kernel::net::filter
