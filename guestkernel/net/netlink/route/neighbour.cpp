// RTM_NEWNEIGH, RTM_DELNEIGH and RTM_GETNEIGH.
#include <linux/errno.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include "guestkernel/net/netlink/route/family.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u8 inet = 2, inet6 = 10; // AF_INET, AF_INET6
using NeighbourAttributes = AttributeTable<NDA_MAX + 1>;

bool has_link_address(NeighbourState state) {
    constexpr u8 valid =
        NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY;
    return (static_cast<u8>(state) & valid) != 0;
}

// References to all of one version, taken under the table's lock and used without it.
struct Collected {
    Vector<Ref<Neighbour>> all;
    bool failed = false;
};

Result<void> collect(Stack& stack, bool v6, Collected& out) {
    stack.neighbours().for_each(
        v6,
        [](Neighbour& neighbour, void* context) {
            auto& to = *static_cast<Collected*>(context);
            if (!to.all.push_back(Ref<Neighbour>::share(&neighbour)))
                to.failed = true;
        },
        &out);
    return out.failed ? fail(enomem) : Result<void>();
}

struct NeighbourFilter final : DumpContext {
    u8 family = 0;
    u32 interface = 0, master = 0;
};

Result<bool> dump_neighbours(Dump& dump, MessageWriter& out) {
    const auto& filter = static_cast<const NeighbourFilter&>(*dump.context);
    Stack& stack = *dump.stack;
    for (; dump.words[0] < 2; dump.words[0]++, dump.words[1] = 0) {
        const bool v6 = dump.words[0] == 1;
        if (filter.family != 0 && filter.family != (v6 ? inet6 : inet))
            continue;
        Collected neighbours;
        TRY(collect(stack, v6, neighbours));
        for (; dump.words[1] < neighbours.all.size(); dump.words[1]++) {
            Neighbour& neighbour = *neighbours.all[dump.words[1]];
            if (filter.interface != 0 && neighbour.interface->index() != filter.interface)
                continue;
            if (filter.master != 0) {
                SpinGuard guard(stack.lock);
                const Interface* master = neighbour.interface->master;
                if (master == nullptr || master->index() != filter.master)
                    continue;
            }
            if (!fill_neighbour(out, stack, neighbour, Heading::of_dump(dump, RTM_NEWNEIGH)))
                return false;
        }
    }
    return true;
}

} // namespace

bool fill_neighbour(MessageWriter& out, Stack& stack, Neighbour& neighbour,
                    const Heading& heading) {
    const Neighbour::View view = neighbour.view();
    const bool v6 = neighbour.address.is_v6();
    heading.begin(out);
    ndmsg header{};
    header.ndm_family = v6 ? inet6 : inet;
    header.ndm_ifindex = static_cast<i32>(neighbour.interface->index());
    header.ndm_state = static_cast<u16>(view.state);
    header.ndm_flags = view.router ? NTF_ROUTER : 0;
    header.ndm_type = RTN_UNICAST;
    out.put(header);
    out.address(NDA_DST, neighbour.address);
    if (has_link_address(view.state))
        out.value(NDA_LLADDR, view.mac);
    const u64 now = stack.now();
    const auto age = [now](u64 then) { return clock_ticks_of(now > then ? now - then : 0); };
    out.value(NDA_CACHEINFO,
              nda_cacheinfo{age(view.confirmed), age(view.used), age(view.updated), 0});
    out.number32(NDA_PROBES, view.probes);
    return out.end();
}

namespace {

struct NeighbourRequest {
    ndmsg header;
    NeighbourAttributes attributes;
    Ref<Interface> interface;
    IpAddress address;
};

Result<void> parse(Request& request, NeighbourRequest& out) {
    TRY(out.header, request.payload_header<ndmsg>());
    TRY(out.attributes.parse(request.attributes_after<ndmsg>(), {}, request.strict(), request.ack));
    const Attribute* destination = out.attributes[NDA_DST];
    if (destination == nullptr)
        return request.refuse(EINVAL, "Network address not specified");
    if (out.header.ndm_family != inet && out.header.ndm_family != inet6)
        return fail(EAFNOSUPPORT);
    if (out.header.ndm_ifindex != 0) {
        out.interface = request.stack().interface(static_cast<u32>(out.header.ndm_ifindex));
        if (!out.interface)
            return fail(ENODEV);
    }
    const bool v6 = out.header.ndm_family == inet6;
    if (destination->data.size() < (v6 ? 16u : 4u))
        return request.refuse(EINVAL, "Invalid network address");
    TRY(out.address, address_of(*destination, v6));
    if ((out.header.ndm_flags & NTF_PROXY) != 0)
        return request.refuse(EOPNOTSUPP, "Proxies are not supported");
    return {};
}

} // namespace

Result<void> get_neighbour(Request& request) {
    if (!request.is_dump()) {
        NeighbourRequest wanted;
        TRY(parse(request, wanted));
        if (!wanted.interface)
            return request.refuse(EINVAL, "No device specified");
        const Ref<Neighbour> found =
            request.stack().neighbours().find(*wanted.interface, wanted.address);
        if (!found)
            return request.refuse(ENOENT, "Neighbour entry not found");
        MessageWriter out;
        if (!fill_neighbour(out, request.stack(), *found, Heading::of_reply(request, RTM_NEWNEIGH)))
            return fail(ENOBUFS);
        return request.reply(out);
    }
    TRY(Owned<NeighbourFilter> filter, make_owned<NeighbourFilter>());
    if (!request.payload().empty())
        filter->family = request.payload()[0];
    if (filter->family != inet && filter->family != inet6)
        filter->family = 0;
    bool proxies = false;
    if (request.payload().size() >= sizeof(ndmsg)) {
        TRY(const ndmsg header, request.payload_header<ndmsg>());
        if (request.strict() &&
            (header.ndm_ifindex != 0 || header.ndm_state != 0 || header.ndm_type != 0))
            return request.refuse(EINVAL, "Invalid values in header for neighbor dump request");
        proxies = (header.ndm_flags & NTF_PROXY) != 0;
        NeighbourAttributes attributes;
        TRY(attributes.parse(request.attributes_after<ndmsg>(), {}, request.strict(), request.ack));
        filter->interface = attributes.number(NDA_IFINDEX);
        filter->master = attributes.number(NDA_MASTER);
    }
    if (proxies) // there are none
        return request.start_dump([](Dump&, MessageWriter&) -> Result<bool> { return true; });
    const bool filtered = filter->interface != 0 || filter->master != 0;
    return request.start_dump(dump_neighbours, std::move(filter), false, filtered);
}

Result<void> new_neighbour(Request& request) {
    NeighbourRequest wanted;
    TRY(parse(request, wanted));
    if (!wanted.interface)
        return fail(EINVAL);
    Interface& interface = *wanted.interface;
    const Attribute* link = wanted.attributes[NDA_LLADDR];
    if (link != nullptr && link->data.size() < sizeof(MacAddress))
        return request.refuse(EINVAL, "Invalid link address");
    NeighbourTable& table = request.stack().neighbours();
    Ref<Neighbour> neighbour = table.find(interface, wanted.address);
    if (!neighbour) {
        if (!request.wants(NLM_F_CREATE))
            return fail(ENOENT);
        neighbour = table.find_or_make(interface, wanted.address);
        if (!neighbour)
            return fail(ENOBUFS);
    } else if (request.wants(NLM_F_EXCL)) {
        return fail(EEXIST);
    }
    const bool override_mac = request.wants(NLM_F_REPLACE) || request.wants(NLM_F_CREATE);
    MacAddress mac;
    if (link != nullptr)
        __builtin_memcpy(mac.bytes, link->data.data(), sizeof mac.bytes);
    const auto state = static_cast<NeighbourState>(wanted.header.ndm_state & 0xff);
    if (has_link_address(state) && link == nullptr && !has_link_address(neighbour->view().state))
        return fail(EINVAL);
    if ((wanted.header.ndm_flags & NTF_ROUTER) != 0)
        neighbour->router.store(true);
    if (wanted.header.ndm_state == 0 && (wanted.header.ndm_flags & NTF_USE) != 0)
        return {};
    neighbour->configure(link != nullptr ? &mac : nullptr, state, override_mac);
    request.stack().routes_changed();
    return {};
}

Result<void> delete_neighbour(Request& request) {
    NeighbourRequest wanted;
    TRY(parse(request, wanted));
    if (!wanted.interface)
        return fail(EINVAL);
    if (!request.stack().neighbours().remove(*wanted.interface, wanted.address))
        return fail(ENOENT);
    return {};
}

} // namespace kernel::net::netlink
