#include "tools/joey/network_options.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>

#include <arpa/inet.h>

#include <fmt/format.h>

#include "tools/joey/sizes.hpp"

namespace joey {
namespace {

template <typename T>
std::optional<T> parse_number(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

// With the prefix of a single address.
std::optional<boot::NetworkAddress> parse_address(std::string_view text) {
    const std::string copy(text);
    boot::NetworkAddress address;
    if (::inet_pton(AF_INET, copy.c_str(), address.bytes) == 1) {
        address.version = 4;
        address.prefix = 32;
        return address;
    }
    if (::inet_pton(AF_INET6, copy.c_str(), address.bytes) != 1)
        return std::nullopt;
    address.version = 6;
    address.prefix = 128;
    return address;
}

std::optional<boot::NetworkAddress> parse_prefixed(std::string_view text) {
    const std::size_t slash = text.find('/');
    auto address = parse_address(text.substr(0, slash));
    if (!address || slash == std::string_view::npos)
        return address;
    const auto prefix = parse_number<std::uint8_t>(text.substr(slash + 1));
    if (!prefix || *prefix > address->prefix)
        return std::nullopt;
    address->prefix = *prefix;
    return address;
}

Outcome<boot::NetworkAddress> interpret_ip(const std::string& text) {
    const auto address = parse_prefixed(text);
    if (!address || text.find('/') == std::string::npos)
        return fail(fmt::format("--ip {}: give ADDRESS/PREFIX, such as 10.0.0.2/24", text));
    return *address;
}

Outcome<boot::NetworkRoute> interpret_route(const std::string& text) {
    const auto wrong = [&text] {
        return fail(
            fmt::format("--route {}: give default=GATEWAY or ADDRESS/PREFIX=GATEWAY", text));
    };
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos)
        return wrong();
    const std::string_view destination = std::string_view(text).substr(0, equals);
    const auto gateway = parse_address(std::string_view(text).substr(equals + 1));
    if (!gateway)
        return wrong();
    boot::NetworkRoute route;
    std::memcpy(route.gateway, gateway->bytes, sizeof route.gateway);
    if (destination == "default") {
        route.destination.version = gateway->version;
        return route;
    }
    const auto network = parse_prefixed(destination);
    if (!network || network->version != gateway->version)
        return wrong();
    route.destination = *network;
    return route;
}

// [IP:]HOST:GUEST[/udp|/tcp]; an IPv6 address in brackets.
Outcome<PublishOption> interpret_publish(const std::string& text) {
    const auto wrong = [&text] {
        return fail(
            fmt::format("--publish {}: give [IP:]PORT:GUEST-PORT, with /udp for UDP", text));
    };
    PublishOption option{.text = text, .port = {}};
    std::string_view rest = text;
    if (rest.ends_with("/udp"))
        option.port.udp = true;
    if (rest.ends_with("/udp") || rest.ends_with("/tcp"))
        rest.remove_suffix(4);
    const std::size_t last = rest.rfind(':');
    if (last == std::string_view::npos)
        return wrong();
    const auto guest = parse_number<std::uint16_t>(rest.substr(last + 1));
    rest = rest.substr(0, last);
    const std::size_t before = rest.rfind(':');
    const auto host =
        parse_number<std::uint16_t>(rest.substr(before == std::string_view::npos ? 0 : before + 1));
    if (!guest || !host || *guest == 0 || *host == 0)
        return wrong();
    option.port.host_port = *host;
    option.port.guest_port = *guest;
    if (before == std::string_view::npos)
        return option;
    std::string_view ip = rest.substr(0, before);
    if (ip.starts_with('[') && ip.ends_with(']'))
        ip = ip.substr(1, ip.size() - 2);
    const auto address = parse_address(ip);
    if (!address)
        return wrong();
    option.port.ipv6 = address->version == 6;
    if (option.port.ipv6)
        std::memcpy(&option.port.host6, address->bytes, sizeof option.port.host6);
    else
        std::memcpy(&option.port.host4, address->bytes, sizeof option.port.host4);
    return option;
}

} // namespace

Outcome<virtio::MacAddress> interpret_mac(std::string_view option, const std::string& text) {
    const auto wrong = [&] {
        return fail(fmt::format("{} {}: give the address of one machine, such as "
                                "52:54:00:12:34:56",
                                option, text));
    };
    virtio::MacAddress mac{};
    constexpr std::size_t length = 17;
    if (text.size() != length)
        return wrong();
    for (std::size_t i = 0; i < mac.size(); ++i) {
        const char* digits = text.data() + 3 * i;
        const auto [end, error] = std::from_chars(digits, digits + 2, mac[i], 16);
        if (error != std::errc() || end != digits + 2 || (i < 5 && digits[2] != ':'))
            return wrong();
    }
    // A group cannot be a sender, and nobody is all zeros.
    if ((mac[0] & 1) != 0 || mac == virtio::MacAddress{})
        return wrong();
    return mac;
}

namespace {

Outcome<std::uint16_t> interpret_mtu(const std::string& text) {
    constexpr std::uint16_t least = 1280; // of IPv6
    constexpr std::uint16_t most = 65520;
    const auto mtu = parse_number<std::uint16_t>(text);
    if (!mtu || *mtu < least || *mtu > most)
        return fail(fmt::format("--mtu {}: give a number from {} to {}", text, least, most));
    return *mtu;
}

// RATE[/BURST] in bytes, and in packets with a "p" behind the numbers; one of each at most.
Outcome<virtio::TrafficLimit> interpret_limit(const char* option, const std::string& text) {
    const auto wrong = [&] {
        return fail(fmt::format("{} {}: give BYTES[/BURST] a second, such as 10M, packets as "
                                "5000p, or both with a comma between them",
                                option, text));
    };
    virtio::TrafficLimit limit;
    std::string_view rest = text;
    for (bool more = true; more;) {
        const std::size_t comma = rest.find(',');
        std::string_view part = rest.substr(0, comma);
        more = comma != std::string_view::npos;
        rest = more ? rest.substr(comma + 1) : std::string_view();
        const bool packets = part.ends_with('p');
        if (packets)
            part.remove_suffix(1);
        const std::size_t slash = part.find('/');
        const auto rate = parse_size(part.substr(0, slash));
        const auto burst = slash == std::string_view::npos ? std::optional<std::uint64_t>(0)
                                                           : parse_size(part.substr(slash + 1));
        virtio::RateLimit& one = packets ? limit.packets : limit.bytes;
        // 0 would be read as "never" by some and as "no limit" by others.
        const bool empty_burst = slash != std::string_view::npos && burst && *burst == 0;
        if (!rate || *rate == 0 || !burst || empty_burst || one.rate != 0)
            return wrong();
        one = {.rate = *rate, .burst = *burst};
    }
    return limit;
}

Outcome<void> interpret_net(const std::string& text, NetworkOptions& options) {
    using Kind = NetworkOptions::Kind;
    if (text == "user" || text == "none") {
        options.kind = text == "user" ? Kind::User : Kind::None;
        return {};
    }
    if (text.starts_with("tap=") && text.size() > 4) {
        options.kind = Kind::Tap;
        options.tap_name = text.substr(4);
        return {};
    }
    constexpr std::string_view by_number = "tap-fd=";
    if (text.starts_with(by_number)) {
        options.kind = Kind::TapFd;
        std::string_view rest = std::string_view(text).substr(by_number.size());
        for (bool more = true; more;) {
            const std::size_t comma = rest.find(',');
            const auto fd = parse_number<int>(rest.substr(0, comma));
            constexpr int first = 3; // the standard streams are none
            if (!fd || *fd < first ||
                std::find(options.tap_fds.begin(), options.tap_fds.end(), *fd) !=
                    options.tap_fds.end())
                return fail(fmt::format("--net {}: give numbers of open descriptors", text));
            options.tap_fds.push_back(*fd);
            more = comma != std::string_view::npos;
            rest = more ? rest.substr(comma + 1) : std::string_view();
        }
        return {};
    }
    return fail(fmt::format("--net {}: give user, tap=NAME, tap-fd=N or none", text));
}

// What each kind of network has no use for.
Outcome<void> check_together(const NetworkOptions& options) {
    using Kind = NetworkOptions::Kind;
    if (options.kind != Kind::User && !options.published.empty())
        return fail("--publish: goes with --net user; a TAP has addresses of its own");
    const bool tap = options.kind == Kind::Tap || options.kind == Kind::TapFd;
    if (!tap && (!options.addresses.empty() || !options.routes.empty()))
        return fail("--ip and --route: go with --net tap=NAME or tap-fd=N");
    if (options.kind == Kind::None && (options.mac || options.mtu || !options.dns.empty()))
        return fail("--dns, --mac and --mtu: need a network; see --net");
    const virtio::TrafficLimit none;
    if (options.kind == Kind::None && (options.receive != none || options.send != none))
        return fail("--net-in and --net-out: need a network; see --net");
    if (options.addresses.size() > boot::max_network_addresses ||
        options.routes.size() > boot::max_network_routes)
        return fail(fmt::format("--ip and --route: at most {} addresses and {} routes",
                                boot::max_network_addresses, boot::max_network_routes));
    constexpr std::size_t most_resolvers = 3; // resolv.conf(5), MAXNS
    if (options.dns.size() > most_resolvers)
        return fail("--dns: at most 3, as /etc/resolv.conf has");
    return {};
}

} // namespace

std::string to_text(const boot::NetworkAddress& address) {
    char text[INET6_ADDRSTRLEN];
    ::inet_ntop(address.version == 4 ? AF_INET : AF_INET6, address.bytes, text, sizeof text);
    return text;
}

Outcome<NetworkOptions> interpret_network(const RawNetworkOptions& raw) {
    NetworkOptions options;
    options.kind = default_network;
    if (raw.net)
        TRY(interpret_net(*raw.net, options));
    for (const std::string& text : raw.publish) {
        TRY(PublishOption published, interpret_publish(text));
        options.published.push_back(std::move(published));
    }
    for (const std::string& text : raw.dns) {
        const auto address = parse_address(text);
        if (!address)
            return fail(fmt::format("--dns {}: give the address of a resolver", text));
        options.dns.push_back(*address);
    }
    for (const std::string& text : raw.ip) {
        TRY(const boot::NetworkAddress address, interpret_ip(text));
        options.addresses.push_back(address);
    }
    for (const std::string& text : raw.route) {
        TRY(const boot::NetworkRoute route, interpret_route(text));
        options.routes.push_back(route);
    }
    if (raw.mac) {
        TRY(options.mac, interpret_mac("--mac", *raw.mac));
    }
    if (raw.mtu) {
        TRY(options.mtu, interpret_mtu(*raw.mtu));
    }
    if (raw.receive_limit) {
        TRY(options.receive, interpret_limit("--net-in", *raw.receive_limit));
    }
    if (raw.send_limit) {
        TRY(options.send, interpret_limit("--net-out", *raw.send_limit));
    }
    TRY(check_together(options));
    return options;
}

} // namespace joey
