#include "agent/startup/neighbours.hpp"

#include <array>
#include <cstdio>
#include <optional>

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/neighbour.h>

#include "agent/os/rtnetlink.hpp"

namespace startup {

namespace {

struct Neighbour {
    int family = AF_INET;
    std::array<unsigned char, 16> address{};
    std::array<unsigned char, 6> mac{};
};

std::optional<Neighbour> parse(const std::string& text) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos)
        return std::nullopt;
    Neighbour out;
    const std::string address = text.substr(0, equals);
    if (address.find(':') != std::string::npos)
        out.family = AF_INET6;
    if (::inet_pton(out.family, address.c_str(), out.address.data()) != 1)
        return std::nullopt;
    auto& mac = out.mac;
    int end = 0;
    if (std::sscanf(text.c_str() + equals + 1, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0],
                    &mac[1], &mac[2], &mac[3], &mac[4], &mac[5],
                    &end) != static_cast<int>(mac.size()) ||
        equals + 1 + static_cast<std::size_t>(end) != text.size())
        return std::nullopt;
    return out;
}

os::Result<int> first_interface(os::Rtnetlink& netlink) {
    int index = 0;
    const os::NetlinkRequest request(RTM_GETLINK, 0, ifinfomsg{});
    TRY(netlink.dump(request, [&index](const os::NetlinkAnswer& one) {
        const auto about = one.fixed<ifinfomsg>();
        if ((about.ifi_flags & IFF_LOOPBACK) == 0 && index == 0)
            index = about.ifi_index;
    }));
    if (index == 0)
        return os::fail(os::Code::FailedPrecondition, "there is no network interface");
    return index;
}

} // namespace

os::Result<void> add_neighbour(const std::string& text) {
    const auto wanted = parse(text);
    if (!wanted)
        return os::fail(os::Code::InvalidArgument, "--neighbour ", text, ": give ADDRESS=MAC");
    TRY(os::Rtnetlink netlink, os::Rtnetlink::open());
    ndmsg about{};
    about.ndm_family = static_cast<unsigned char>(wanted->family);
    TRY(about.ndm_ifindex, first_interface(netlink));
    about.ndm_state = NUD_PERMANENT;
    os::NetlinkRequest request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, about);
    constexpr std::size_t ipv4 = 4;
    request.add(NDA_DST, wanted->address.data(),
                wanted->family == AF_INET ? ipv4 : wanted->address.size());
    request.add(NDA_LLADDR, wanted->mac);
    const auto added = netlink.ask(request);
    if (!added)
        return os::fail(added.error().code, "--neighbour ", text, ": ", added.error().message);
    return {};
}

} // namespace startup
