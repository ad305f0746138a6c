#include "virtio/backend/net/loopback_guard.hpp"

#include <algorithm>
#include <cstring>

#include "virtio/backend/net/internet_checksum.hpp"

namespace virtio {

namespace {

// Offsets in headers: RFC 791, 8200, 9293.
constexpr std::size_t ipv4_total_length = 2, ipv4_ttl = 8, ipv4_sum = 10, ipv4_source = 12,
                      ipv4_destination = 16, ipv4_header = 20;
constexpr std::size_t ipv6_length = 4, ipv6_hop_limit = 7, ipv6_source = 8, ipv6_destination = 24,
                      ipv6_header = 40;
constexpr std::size_t tcp_sequence = 4, tcp_acknowledgement = 8, tcp_offset = 12, tcp_flags = 13,
                      tcp_sum = 16, tcp_header = 20;
constexpr std::size_t udp_length = 4, udp_sum = 6, udp_header = 8;
constexpr unsigned tcp_syn = 0x02, tcp_rst = 0x04, tcp_ack = 0x10;
constexpr std::uint8_t icmpv6_echo_request = 128;
constexpr std::uint16_t dns_port = 53;

unsigned byte_at(std::span<const std::byte> bytes, std::size_t at) {
    return std::to_integer<unsigned>(bytes[at]);
}

std::uint16_t word_at(std::span<const std::byte> bytes, std::size_t at) {
    return static_cast<std::uint16_t>(byte_at(bytes, at) << 8 | byte_at(bytes, at + 1));
}

void put_word(std::span<std::byte> bytes, std::size_t at, std::size_t value) {
    bytes[at] = static_cast<std::byte>(value >> 8);
    bytes[at + 1] = static_cast<std::byte>(value);
}

PacketLayout layout_of(std::span<const std::byte> frame) {
    return read_layout(frame.first(std::min<std::size_t>(frame.size(), net_head_bytes)));
}

in6_addr address6_at(std::span<const std::byte> bytes, std::size_t at) {
    in6_addr address{};
    std::memcpy(&address, bytes.data() + at, sizeof address);
    return address;
}

bool same_network6(const in6_addr& a, const in6_addr& b) {
    return std::memcmp(&a, &b, UserNetConfig::prefix6 / 8) == 0;
}

bool is_link_local(const in6_addr& address) {
    return address.s6_addr[0] == 0xfe && (address.s6_addr[1] & 0xc0) == 0x80;
}

// Not of the host's link, but what a cloud's machine finds there by IPv6 (fd00:ec2::254).
bool is_metadata_service(const in6_addr& address) {
    constexpr std::uint8_t bytes[sizeof address] = {0xfd, 0, 0x0e, 0xc2, 0, 0, 0,    0,
                                                    0,    0, 0,    0,    0, 0, 0x02, 0x54};
    return std::memcmp(&address, bytes, sizeof bytes) == 0;
}

// Only what follows the header at once: libslirp does not look further either.
bool carries(const PacketLayout& layout, std::uint8_t protocol) {
    return layout.protocol == protocol && !layout.fragment;
}

bool begins_connection(std::span<const std::byte> frame, const PacketLayout& layout) {
    return carries(layout, IPPROTO_TCP) && layout.payload != 0 &&
           (byte_at(frame, layout.transport + tcp_flags) & (tcp_syn | tcp_ack | tcp_rst)) ==
               tcp_syn;
}

bool asks_resolver(std::span<const std::byte> frame, const PacketLayout& layout) {
    return layout.payload != 0 && (carries(layout, IPPROTO_UDP) || carries(layout, IPPROTO_TCP)) &&
           word_at(frame, layout.transport + 2u) == dns_port;
}

// What has an address on the host's link only: the credentials that a cloud gives to its machine
// (169.254.169.254), and not to whoever runs in it, lie there. No router sends packets on to it
// (RFC 3927, 7), and the gateway is none of the link's machines. A resolver there, which somebody
// may have named, is asked nevertheless.
LoopbackGuard::Verdict judge_host_link(std::span<const std::byte> frame,
                                       const PacketLayout& layout) {
    if (asks_resolver(frame, layout))
        return LoopbackGuard::Verdict::Pass;
    return begins_connection(frame, layout) ? LoopbackGuard::Verdict::Refuse
                                            : LoopbackGuard::Verdict::Drop;
}

} // namespace

in_addr UserNetConfig::address4(std::uint8_t host) const {
    return {htonl(network | host)};
}

in6_addr UserNetConfig::address6(std::uint8_t host) {
    in6_addr address{};
    constexpr std::uint8_t prefix[] = {0xfd, 0x6a, 0x6f, 0x65, 0x79};
    std::copy(std::begin(prefix), std::end(prefix), address.s6_addr);
    address.s6_addr[15] = host;
    return address;
}

struct LoopbackGuard::Addressed {
    std::span<const std::byte> frame;
    PacketLayout layout;
    bool is_gateway;
    bool is_resolver;
};

LoopbackGuard::LoopbackGuard(const UserNetConfig& config) : network_(config.network) {}

LoopbackGuard::Verdict LoopbackGuard::judge(std::span<const std::byte> frame,
                                            std::uint64_t now_ms) {
    const PacketLayout layout = layout_of(frame);
    if (layout.ip_version == 4) {
        const std::size_t at = layout.network + ipv4_destination;
        const std::uint32_t to = std::uint32_t{word_at(frame, at)} << 16 | word_at(frame, at + 2);
        // Linux takes 0.0.0.0 for itself as well. 224.0.0.0/24 does not leave its link (RFC 5771).
        if (to >> 24 == 127 || to >> 24 == 0 || to == 0xffffffff || to >> 8 == 0xe00000)
            return Verdict::Drop;
        if (to >> 16 == 0xa9fe)
            return judge_host_link(frame, layout);
        if ((to & ~std::uint32_t{0xff}) != network_)
            return Verdict::Pass;
        const auto host = static_cast<std::uint8_t>(to);
        return judge_own_network(
            {frame, layout, host == UserNetConfig::gateway, host == UserNetConfig::resolver},
            now_ms);
    }
    if (layout.ip_version != 6)
        return Verdict::Pass; // ARP; what libslirp does not know it drops
    const in6_addr to = address6_at(frame, layout.network + ipv6_destination);
    if (IN6_IS_ADDR_LOOPBACK(&to) || IN6_IS_ADDR_UNSPECIFIED(&to) || IN6_IS_ADDR_V4MAPPED(&to) ||
        IN6_IS_ADDR_V4COMPAT(&to))
        return Verdict::Drop;
    const in6_addr own = UserNetConfig::address6(0);
    // ff02::1, all that are on the link, is the host's loopback to libslirp too.
    const bool local = same_network6(to, own) || is_link_local(to) || IN6_IS_ADDR_MC_LINKLOCAL(&to);
    const auto ends_with = [&to](std::uint8_t host) {
        const in6_addr address = UserNetConfig::address6(host);
        return std::memcmp(to.s6_addr + 8, address.s6_addr + 8, 8) == 0;
    };
    const bool gateway = local && ends_with(UserNetConfig::gateway);
    const bool resolver = local && ends_with(UserNetConfig::resolver);
    // Neighbour discovery comes with all kinds of addresses; libslirp answers it itself, and echo
    // requests for its own addresses. It has no way out for others, and would say so on stderr.
    if (carries(layout, IPPROTO_ICMPV6)) {
        const bool echo = frame.size() <= layout.transport ||
                          byte_at(frame, layout.transport) == icmpv6_echo_request;
        return echo && !gateway && !resolver ? Verdict::Drop : Verdict::Pass;
    }
    if (!local)
        return is_metadata_service(to) ? judge_host_link(frame, layout) : Verdict::Pass;
    if (!same_network6(to, own))
        return Verdict::Drop;
    return judge_own_network({frame, layout, gateway, resolver}, now_ms);
}

LoopbackGuard::Verdict LoopbackGuard::judge_own_network(const Addressed& to, std::uint64_t now_ms) {
    const PacketLayout& layout = to.layout;
    if (carries(layout, IPPROTO_ICMP))
        return to.is_gateway || to.is_resolver ? Verdict::Pass : Verdict::Drop;
    if (layout.payload == 0) // no whole header of TCP or UDP
        return Verdict::Drop;
    const std::uint16_t from_port = word_at(to.frame, layout.transport);
    const std::uint16_t to_port = word_at(to.frame, layout.transport + 2u);
    if (to.is_resolver && asks_resolver(to.frame, layout))
        return Verdict::Pass;
    if (begins_connection(to.frame, layout))
        return Verdict::Refuse;
    // Of connections that a client on this machine has made: libslirp knows them, and begins none
    // without a SYN.
    if (carries(layout, IPPROTO_TCP) && to.is_gateway &&
        (byte_at(to.frame, layout.transport + tcp_flags) & (tcp_syn | tcp_ack)) != tcp_syn)
        return Verdict::Pass;
    if (!carries(layout, IPPROTO_UDP) || !to.is_gateway)
        return Verdict::Drop;
    Flow* flow = find(layout.ip_version, to_port, from_port);
    if (flow == nullptr || now_ms - flow->seen_ms > flow_ms)
        return Verdict::Drop;
    flow->seen_ms = now_ms;
    return Verdict::Pass;
}

void LoopbackGuard::delivered(std::span<const std::byte> frame, std::uint64_t now_ms) {
    const PacketLayout layout = layout_of(frame);
    if (layout.payload == 0 || !carries(layout, IPPROTO_UDP))
        return;
    if (layout.ip_version == 4) {
        const std::size_t at = layout.network + ipv4_source;
        if ((std::uint32_t{word_at(frame, at)} << 16 | word_at(frame, at + 2)) !=
            (network_ | UserNetConfig::gateway))
            return;
    } else {
        const in6_addr from = address6_at(frame, layout.network + ipv6_source);
        const in6_addr gateway = UserNetConfig::address6(UserNetConfig::gateway);
        if (std::memcmp(&from, &gateway, sizeof from) != 0)
            return;
    }
    const std::uint16_t client_port = word_at(frame, layout.transport);
    const std::uint16_t guest_port = word_at(frame, layout.transport + 2u);
    Flow* flow = find(layout.ip_version, client_port, guest_port);
    if (flow == nullptr)
        flow = &*std::min_element(flows_.begin(), flows_.end(), [](const Flow& a, const Flow& b) {
            return a.seen_ms < b.seen_ms;
        });
    *flow = {layout.ip_version, client_port, guest_port, now_ms};
}

LoopbackGuard::Flow* LoopbackGuard::find(std::uint8_t ip_version, std::uint16_t client_port,
                                         std::uint16_t guest_port) {
    const auto found = std::find_if(flows_.begin(), flows_.end(), [&](const Flow& flow) {
        return flow.ip_version == ip_version && flow.client_port == client_port &&
               flow.guest_port == guest_port;
    });
    return found != flows_.end() ? &*found : nullptr;
}

std::optional<std::vector<std::byte>> with_gateway_source(std::span<const std::byte> frame,
                                                          const UserNetConfig& config) {
    const PacketLayout layout = layout_of(frame);
    if (layout.payload == 0 || !carries(layout, IPPROTO_UDP))
        return std::nullopt;
    const bool v4 = layout.ip_version == 4;
    const std::size_t source = layout.network + (v4 ? ipv4_source : ipv6_source);
    if (v4) {
        if (byte_at(frame, source) != 127)
            return std::nullopt;
    } else {
        const in6_addr from = address6_at(frame, source);
        if (!IN6_IS_ADDR_LOOPBACK(&from))
            return std::nullopt;
    }
    std::vector<std::byte> changed(frame.begin(), frame.end());
    const std::span<std::byte> header =
        std::span(changed).subspan(layout.network, std::size_t{layout.transport} - layout.network);
    const std::size_t address = v4 ? sizeof(in_addr) : sizeof(in6_addr);
    if (v4) {
        const in_addr gateway = config.address4(UserNetConfig::gateway);
        std::memcpy(changed.data() + source, &gateway, sizeof gateway);
        put_word(header, ipv4_sum, 0);
        const std::uint16_t sum = internet_checksum(header);
        std::memcpy(header.data() + ipv4_sum, &sum, sizeof sum);
    } else {
        const in6_addr gateway = UserNetConfig::address6(UserNetConfig::gateway);
        std::memcpy(changed.data() + source, &gateway, sizeof gateway);
    }
    // What the datagram has beyond its own length is none of it.
    const std::span<std::byte> rest = std::span(changed).subspan(layout.transport);
    const std::size_t length =
        std::clamp<std::size_t>(word_at(rest, udp_length), udp_header, rest.size());
    const std::span<std::byte> datagram = rest.first(length);
    put_word(datagram, udp_sum, 0);
    const std::uint64_t pseudo =
        std::uint64_t{htons(IPPROTO_UDP)} + htons(static_cast<std::uint16_t>(length)) +
        static_cast<std::uint16_t>(
            ~internet_checksum(std::span(changed).subspan(source, 2 * address)));
    std::uint16_t sum = internet_checksum(datagram, pseudo);
    if (sum == 0)
        sum = 0xffff; // RFC 768: 0 is none
    std::memcpy(datagram.data() + udp_sum, &sum, sizeof sum);
    return changed;
}

std::optional<std::vector<std::byte>> refusal(std::span<const std::byte> frame) {
    const PacketLayout layout = layout_of(frame);
    if (!begins_connection(frame, layout))
        return std::nullopt;
    const bool v4 = layout.ip_version == 4;
    const std::size_t ip = v4 ? ipv4_header : ipv6_header;
    const std::size_t ethernet = layout.network;
    std::vector<std::byte> answer(ethernet + ip + tcp_header);
    constexpr std::size_t mac = 6;
    const auto copy = [&](std::size_t from, std::size_t length, std::size_t to) {
        std::memcpy(answer.data() + to, frame.data() + from, length);
    };
    copy(mac, mac, 0);
    copy(0, mac, mac);
    copy(2 * mac, ethernet - 2 * mac, 2 * mac); // with what names a VLAN
    const std::span<std::byte> header = std::span(answer).subspan(ethernet, ip);
    constexpr auto hops = std::byte{64};
    std::size_t addresses = ipv6_source;
    std::size_t address = sizeof(in6_addr);
    if (v4) {
        addresses = ipv4_source;
        address = sizeof(in_addr);
        header[0] = std::byte{0x45};
        put_word(header, ipv4_total_length, ip + tcp_header);
        header[ipv4_ttl] = hops;
        header[ipv4_ttl + 1] = std::byte{IPPROTO_TCP};
    } else {
        header[0] = std::byte{0x60};
        put_word(header, ipv6_length, tcp_header);
        header[ipv6_hop_limit - 1] = std::byte{IPPROTO_TCP};
        header[ipv6_hop_limit] = hops;
    }
    copy(ethernet + addresses, address, ethernet + addresses + address);
    copy(ethernet + addresses + address, address, ethernet + addresses);
    if (v4) {
        const std::uint16_t sum = internet_checksum(header);
        std::memcpy(header.data() + ipv4_sum, &sum, sizeof sum);
    }
    const std::span<std::byte> tcp = std::span(answer).subspan(ethernet + ip);
    copy(layout.transport + 2u, 2, ethernet + ip);
    copy(layout.transport, 2, ethernet + ip + 2);
    const std::uint32_t sequence =
        (std::uint32_t{word_at(frame, layout.transport + tcp_sequence)} << 16 |
         word_at(frame, layout.transport + tcp_sequence + 2)) +
        1;
    put_word(tcp, tcp_acknowledgement, sequence >> 16);
    put_word(tcp, tcp_acknowledgement + 2, sequence);
    tcp[tcp_offset] = std::byte{(tcp_header / 4) << 4};
    tcp[tcp_flags] = std::byte{tcp_rst | tcp_ack};
    // The pseudo header: addresses, protocol, length; the same sum in both protocols.
    const std::uint64_t pseudo =
        std::uint64_t{htons(IPPROTO_TCP)} + htons(tcp_header) +
        static_cast<std::uint16_t>(~internet_checksum(header.subspan(addresses, 2 * address)));
    const std::uint16_t sum = internet_checksum(tcp, pseudo);
    std::memcpy(tcp.data() + tcp_sum, &sum, sizeof sum);
    return answer;
}

} // namespace virtio
