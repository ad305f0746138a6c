// --net and what goes with it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "boot/protocol/network.hpp"
#include "tools/joey/outcome.hpp"
#include "virtio/backend/net/user_net.hpp"
#include "virtio/device/net/rate_limiter.hpp"

namespace joey {

struct PublishOption {
    std::string text; // as given, for errors
    virtio::PublishedPort port;
};

struct NetworkOptions {
    enum class Kind : std::uint8_t { None, User, Tap, TapFd };
    Kind kind = Kind::None;
    std::string tap_name;
    std::vector<int> tap_fds;
    std::vector<PublishOption> published;
    std::vector<boot::NetworkAddress> dns; // the prefix means nothing here
    std::vector<boot::NetworkAddress> addresses;
    std::vector<boot::NetworkRoute> routes;
    std::optional<virtio::MacAddress> mac;
    std::optional<std::uint16_t> mtu;
    virtio::TrafficLimit receive; // towards the guest
    virtio::TrafficLimit send;    // from it
};

// As typed.
struct RawNetworkOptions {
    std::optional<std::string> net;
    std::vector<std::string> publish;
    std::vector<std::string> dns;
    std::vector<std::string> ip;
    std::vector<std::string> route;
    std::optional<std::string> mac;
    std::optional<std::string> mtu;
    std::optional<std::string> receive_limit;
    std::optional<std::string> send_limit;
};

// Without --net.
inline constexpr NetworkOptions::Kind default_network = NetworkOptions::Kind::User;

Outcome<NetworkOptions> interpret_network(const RawNetworkOptions& raw);
// `option` is its name in the error.
Outcome<virtio::MacAddress> interpret_mac(std::string_view option, const std::string& text);

// "10.0.2.15", "fd00::1".
std::string to_text(const boot::NetworkAddress& address);

} // namespace joey
