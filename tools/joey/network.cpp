#include "tools/joey/network.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <ifaddrs.h>

#include <arpa/inet.h>
#include <sys/random.h>

#include <fmt/format.h>

#include "tools/joey/host.hpp"

namespace joey {
namespace {

// More than these serve a TAP no better: one already moves what one CPU can.
constexpr unsigned most_pairs = 4;

template <typename T>
boot::NetworkAddress address_of(const T& bytes, unsigned version, unsigned prefix) {
    boot::NetworkAddress address;
    address.version = static_cast<std::uint8_t>(version);
    address.prefix = static_cast<std::uint8_t>(prefix);
    static_assert(sizeof bytes <= sizeof address.bytes);
    std::memcpy(address.bytes, &bytes, sizeof bytes);
    return address;
}

boot::NetworkRoute default_route(const boot::NetworkAddress& gateway) {
    boot::NetworkRoute route;
    route.destination.version = gateway.version;
    std::memcpy(route.gateway, gateway.bytes, sizeof route.gateway);
    return route;
}

// Of the bits that everybody may choose (IEEE 802: locally administered), as other VMMs do.
virtio::MacAddress random_mac() {
    virtio::MacAddress mac = {0x52, 0x54, 0x00};
    if (::getrandom(mac.data() + 3, 3, 0) != 3)
        mac[5] = 1; // only if the host has no entropy at all: then one machine has it alone
    return mac;
}

// A network for the guest that is none of the host's own: those it could not reach.
std::uint32_t free_network() {
    constexpr std::array<std::uint32_t, 4> candidates = {0x0a000200, 0x0a004d00, 0xac1f4d00,
                                                         0xc0a84d00};
    constexpr std::uint32_t mask = 0xffffff00;
    struct ifaddrs* interfaces = nullptr;
    if (::getifaddrs(&interfaces) != 0)
        return candidates.front();
    const auto is_taken = [interfaces](std::uint32_t network) {
        for (const struct ifaddrs* one = interfaces; one != nullptr; one = one->ifa_next) {
            if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET)
                continue;
            sockaddr_in address{};
            std::memcpy(&address, one->ifa_addr, sizeof address);
            if ((ntohl(address.sin_addr.s_addr) & mask) == network)
                return true;
        }
        return false;
    };
    const auto found = std::find_if_not(candidates.begin(), candidates.end(), is_taken);
    const std::uint32_t network = found != candidates.end() ? *found : candidates.front();
    ::freeifaddrs(interfaces);
    return network;
}

virtio::UserNetConfig user_config(const NetworkOptions& options, const virtio::MacAddress& mac) {
    virtio::UserNetConfig config;
    config.network = free_network();
    config.guest_mac = mac;
    if (options.mtu)
        config.mtu = *options.mtu;
    return config;
}

void add_user_addresses(const virtio::UserNetConfig& config, boot::GuestNetwork& guest) {
    using Config = virtio::UserNetConfig;
    guest.addresses = {address_of(config.address4(Config::guest4), 4, Config::prefix4),
                       address_of(Config::address6(Config::guest6), 6, Config::prefix6)};
    guest.routes = {default_route(address_of(config.address4(Config::gateway), 4, 32)),
                    default_route(address_of(Config::address6(Config::gateway), 6, 128))};
}

// What the guest's resolv.conf takes from the host's (resolv.conf(5)).
struct HostResolver {
    std::string search; // the line with domains for names without a dot
    bool ipv4 = false;  // whether there are servers with such addresses
    bool ipv6 = false;
};

HostResolver host_resolver() {
    HostResolver found;
    const std::string text = read_text_file_in("/", "etc/resolv.conf", 64u << 10).value_or("");
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        const std::string line = text.substr(at, end - at);
        if (line.starts_with("search ") || line.starts_with("domain "))
            found.search = line + "\n"; // the last one counts
        else if (line.starts_with("nameserver "))
            (line.find(':') == std::string::npos ? found.ipv4 : found.ipv6) = true;
        at = end + 1;
    }
    return found;
}

// `user`: of user-mode networking, or null.
void add_files(const NetworkOptions& options, const virtio::UserNetConfig* user,
               const std::string& rootfs, const std::string& hostname, boot::GuestNetwork& guest) {
    using Config = virtio::UserNetConfig;
    const HostResolver host = host_resolver();
    std::vector<boot::NetworkAddress> resolvers = options.dns;
    if (resolvers.empty() && user != nullptr) {
        // Each leads to the host's first one of its kind.
        if (host.ipv4 || !host.ipv6)
            resolvers.push_back(address_of(user->address4(Config::resolver), 4, 32));
        if (host.ipv6)
            resolvers.push_back(address_of(Config::address6(Config::resolver), 6, 128));
    }
    // Without any, the root's own file stays: on a TAP it may well be right.
    for (const boot::NetworkAddress& resolver : resolvers)
        guest.resolv_conf += fmt::format("nameserver {}\n", to_text(resolver));
    if (!guest.resolv_conf.empty())
        guest.resolv_conf = host.search + guest.resolv_conf;

    // What the root knows, and the machine's own name.
    constexpr std::size_t most = std::size_t{256} << 10;
    guest.hosts = read_text_file_in(rootfs, "etc/hosts", most)
                      .value_or("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
    if (!guest.hosts.ends_with('\n'))
        guest.hosts += '\n';
    for (const boot::NetworkAddress& address : guest.addresses)
        guest.hosts += fmt::format("{}\t{}\n", to_text(address), hostname);
    if (guest.addresses.empty())
        guest.hosts += fmt::format("127.0.1.1\t{}\n", hostname);
}

} // namespace

Outcome<std::unique_ptr<Network>> Network::open(const NetworkOptions& options,
                                                const std::string& rootfs,
                                                const std::string& hostname, unsigned cpus) {
    std::unique_ptr<Network> network(new Network());
    network->device_options_.mac = options.mac ? *options.mac : random_mac();
    network->device_options_.receive = options.receive;
    network->device_options_.transmit = options.send;
    network->guest_.addresses = options.addresses;
    network->guest_.routes = options.routes;
    if (options.kind == NetworkOptions::Kind::User)
        TRY(network->open_user(options));
    else
        TRY(network->open_tap(options, cpus));
    network->make_files(options, rootfs, hostname);
    return network;
}

Outcome<void> Network::open_tap(const NetworkOptions& options, unsigned cpus) {
    if (options.kind == NetworkOptions::Kind::Tap) {
        auto opened = virtio::Tap::open(options.tap_name, std::min(cpus, most_pairs));
        if (!opened)
            return fail(fmt::format("--net tap={}: {}", options.tap_name, opened.error().reason));
        tap_ = std::move(*opened);
    } else {
        std::vector<virtio::UniqueFd> descriptors;
        for (const int fd : options.tap_fds) {
            if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
                return fail(fmt::format("--net tap-fd={}: {}", fd, std::strerror(errno)));
            descriptors.emplace_back(fd);
        }
        auto adopted = virtio::Tap::adopt(std::move(descriptors));
        if (!adopted)
            return fail(fmt::format("--net tap-fd={}: {}", options.tap_fds.front(),
                                    adopted.error().reason));
        tap_ = std::move(*adopted);
    }
    device_options_.mtu = options.mtu ? *options.mtu : tap_->mtu();
    return {};
}

Outcome<void> Network::open_user(const NetworkOptions& options) {
    const virtio::UserNetConfig config = user_config(options, device_options_.mac);
    device_options_.mtu = config.mtu;
    auto made = virtio::UserNet::create(config);
    if (!made)
        return fail(fmt::format("--net user: {}: {}", made.error().action,
                                std::strerror(made.error().code)));
    user_ = std::move(*made);
    for (const PublishOption& published : options.published) {
        if (auto done = user_->publish(published.port); !done)
            return fail(
                fmt::format("--publish {}: {}", published.text, std::strerror(done.error().code)));
    }
    add_user_addresses(config, guest_);
    return {};
}

void Network::make_files(const NetworkOptions& options, const std::string& rootfs,
                         const std::string& hostname) {
    const virtio::UserNetConfig* user = user_ ? &user_->config() : nullptr;
    add_files(options, user, rootfs, hostname, guest_);
}

boot::GuestNetwork plan_user_network(const NetworkOptions& options, const std::string& rootfs,
                                     const std::string& hostname) {
    boot::GuestNetwork guest;
    const virtio::UserNetConfig config = user_config(options, {});
    add_user_addresses(config, guest);
    add_files(options, &config, rootfs, hostname, guest);
    return guest;
}

Outcome<virtio::Net*> Network::connect(vmm::Vm& vm) {
    const unsigned pairs = tap_ ? tap_->pairs() : 1;
    std::vector<virtio::EventLoop*> loops;
    const auto thread_class = tap_ ? vmm::ThreadClass::Net : vmm::ThreadClass::UserNet;
    for (unsigned i = 0; i < pairs; ++i) {
        auto loop = vm.add_event_loop(thread_class, "net");
        if (!loop)
            return fail(vmm::describe(loop.error()));
        loops.push_back(*loop);
    }
    auto connected = tap_ ? tap_->connect(loops) : user_->connect(*loops.front());
    if (!connected)
        return fail(fmt::format("the network: {}: {}", connected.error().action,
                                std::strerror(connected.error().code)));
    virtio::NetBackend& backend =
        tap_ ? static_cast<virtio::NetBackend&>(*tap_) : static_cast<virtio::NetBackend&>(*user_);
    device_ = std::make_unique<virtio::Net>(backend, loops, device_options_);
    return device_.get();
}

} // namespace joey
