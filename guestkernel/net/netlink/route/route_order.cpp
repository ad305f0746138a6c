#include "guestkernel/net/netlink/route/route_order.hpp"

namespace kernel::net::netlink {

namespace {

int compare_bytes(const IpAddress& a, const IpAddress& b) {
    return __builtin_memcmp(a.bytes(), b.bytes(), 16);
}

// IPv4: by address, of one address the longer prefix first. IPv6: what lies within a prefix comes
// before it.
bool prefix_before(const Route& a, const Route& b) {
    if (!a.v6()) {
        const int order = compare_bytes(a.prefix, b.prefix);
        return order != 0 ? order < 0 : a.length > b.length;
    }
    if (a.length > b.length && a.prefix.in_prefix(b.prefix, b.length))
        return true;
    if (b.length > a.length && b.prefix.in_prefix(a.prefix, a.length))
        return false;
    return compare_bytes(a.prefix, b.prefix) < 0;
}

// Heap sort: no memory, no recursion.
void sift_down(std::span<const Route*> items, usize from) {
    for (;;) {
        usize largest = from;
        for (const usize child : {2 * from + 1, 2 * from + 2})
            if (child < items.size() && route_before(*items[largest], *items[child]))
                largest = child;
        if (largest == from)
            return;
        std::swap(items[from], items[largest]);
        from = largest;
    }
}

} // namespace

bool route_before(const Route& a, const Route& b) {
    if (a.table != b.table) {
        const u32 low_a = a.table & 0xff, low_b = b.table & 0xff;
        return low_a != low_b ? low_a < low_b : a.table < b.table;
    }
    if (a.length != b.length || !(a.prefix == b.prefix))
        return prefix_before(a, b);
    if (a.tos != b.tos)
        return a.tos > b.tos;
    if (a.metric != b.metric)
        return a.metric < b.metric;
    return a.serial < b.serial;
}

Result<void> routes_in_order(Stack& stack, bool v6, Vector<const Route*>& out) {
    struct Collected {
        Vector<const Route*>& out;
        bool failed = false;
    } collected{out};
    stack.routes().for_each(
        v6,
        [](const Route& route, void* context) {
            auto& to = *static_cast<Collected*>(context);
            if (!to.out.push_back(&route))
                to.failed = true;
        },
        &collected);
    if (collected.failed)
        return fail(enomem);
    const std::span<const Route*> items = out.span();
    for (usize i = items.size() / 2; i-- > 0;)
        sift_down(items, i);
    for (usize end = items.size(); end > 1; end--) {
        std::swap(items[0], items[end - 1]);
        sift_down(items.first(end - 1), 0);
    }
    return {};
}

} // namespace kernel::net::netlink
