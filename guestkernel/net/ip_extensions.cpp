#include "guestkernel/net/ip_extensions.hpp"

#include <linux/errno.h>

#include "guestkernel/net/wire.hpp"

namespace kernel::net {

namespace {

constexpr usize longest_extension = 8 * 255; // as Linux has it

Result<void> append(Vector<u8>& to, std::span<const u8> from) {
    const usize before = to.size();
    TRY(to.resize(before + from.size()));
    __builtin_memcpy(to.data() + before, from.data(), from.size());
    return {};
}

} // namespace

Result<std::span<const u8>> check_extension(std::span<const u8> given) {
    if (given.size() < 2)
        return fail(EINVAL);
    const usize bytes = (given[1] + usize{1}) * 8;
    if (bytes > given.size() || bytes > longest_extension)
        return fail(EINVAL);
    return given.first(bytes);
}

Result<ExtensionChain> ExtensionChain::make(std::span<const u8> hop_options,
                                            std::span<const u8> destination_options) {
    ExtensionChain out;
    out.first = hop_options.empty() ? proto_destination_options : proto_hop_options;
    if (!hop_options.empty()) {
        TRY(append(out.bytes, hop_options));
        out.bytes[0] = proto_destination_options;
    }
    if (!destination_options.empty())
        TRY(append(out.bytes, destination_options));
    return out;
}

void end_chain(std::span<u8> chain, u8 protocol) {
    usize at = 0;
    for (;;) {
        const usize next = at + (chain[at + 1] + usize{1}) * 8;
        if (next >= chain.size())
            break;
        at = next;
    }
    chain[at] = protocol;
}

Result<Ref<StickyExtensions>> StickyExtensions::copy() const {
    TRY(Ref<StickyExtensions> out, make_ref<StickyExtensions>());
    TRY(append(out->hop_options, hop_options.span()));
    TRY(append(out->before_routing, before_routing.span()));
    TRY(append(out->destination_options, destination_options.span()));
    return out;
}

u32 unfragmentable_bytes(const Packet& packet, u32& previous) {
    u32 end = sizeof(Ipv6Header);
    previous = offsetof(Ipv6Header, next_header);
    bool routed = false, over = false;
    for_extensions(packet, [&](u8 kind, u32 at, u32 bytes) {
        over = over || (routed && kind == proto_destination_options);
        if (over)
            return;
        routed = routed || kind == proto_routing;
        previous = at;
        end = at + bytes;
    });
    return end;
}

} // namespace kernel::net
