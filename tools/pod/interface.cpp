#include "tools/pod/interface.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fcntl.h>

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/tc_act/tc_mirred.h>
#include <sys/ioctl.h>

#include "agent/os/rtnetlink.hpp"

namespace pod {

namespace {

std::string address_text(int family, std::span<const std::byte> bytes) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const std::size_t wanted = family == AF_INET ? 4 : 16;
    if (bytes.size() < wanted ||
        ::inet_ntop(family, bytes.data(), text.data(), text.size()) == nullptr)
        return {};
    return text.data();
}

std::string mac_text(std::span<const std::byte> bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string out;
    for (const std::byte byte : bytes) {
        const auto value = std::to_integer<unsigned>(byte);
        if (!out.empty())
            out += ':';
        out += digits[value >> 4];
        out += digits[value & 15];
    }
    return out;
}

bool is_usable_family(int family) {
    return family == AF_INET || family == AF_INET6;
}

struct Address {
    int index = 0;
    int family = 0;
    unsigned prefix = 0;
    std::vector<std::byte> bytes;

    // The network it is in, as a route's destination is written.
    std::string network() const {
        std::vector<std::byte> out = bytes;
        for (std::size_t bit = prefix; bit < out.size() * 8; ++bit)
            out[bit / 8] &= ~(std::byte{0x80} >> (bit % 8));
        return os::text(address_text(family, out), "/", prefix);
    }
};

// Those that count elsewhere, too: not loopback's, and no link-local ones, of which the guest makes
// its own.
os::Result<std::vector<Address>> addresses(os::Rtnetlink& netlink) {
    std::vector<Address> out;
    TRY(netlink.dump(
        os::NetlinkRequest(RTM_GETADDR, 0, ifaddrmsg{}), [&](const os::NetlinkAnswer& one) {
            const auto about = one.fixed<ifaddrmsg>();
            auto bytes = one.attribute(sizeof about, IFA_LOCAL);
            if (bytes.empty())
                bytes = one.attribute(sizeof about, IFA_ADDRESS);
            if (!is_usable_family(about.ifa_family) || about.ifa_scope != RT_SCOPE_UNIVERSE ||
                address_text(about.ifa_family, bytes).empty())
                return;
            out.push_back({static_cast<int>(about.ifa_index),
                           about.ifa_family,
                           about.ifa_prefixlen,
                           {bytes.begin(), bytes.end()}});
        }));
    return out;
}

os::Result<std::vector<Interface>> interfaces(os::Rtnetlink& netlink) {
    std::vector<Interface> out;
    TRY(netlink.dump(
        os::NetlinkRequest(RTM_GETLINK, 0, ifinfomsg{}), [&](const os::NetlinkAnswer& one) {
            const auto about = one.fixed<ifinfomsg>();
            const auto name = one.attribute(sizeof about, IFLA_IFNAME);
            if (about.ifi_type != ARPHRD_ETHER || (about.ifi_flags & IFF_UP) == 0 || name.empty())
                return;
            Interface link;
            link.index = about.ifi_index;
            const auto* text = reinterpret_cast<const char*>(name.data());
            link.name.assign(text, ::strnlen(text, name.size()));
            link.mac = mac_text(one.attribute(sizeof about, IFLA_ADDRESS));
            link.mtu = one.value<std::uint32_t>(sizeof about, IFLA_MTU, 0);
            out.push_back(std::move(link));
        }));
    return out;
}

os::Result<void> add_routes(os::Rtnetlink& netlink, Interface& link) {
    TRY(netlink.dump(
        os::NetlinkRequest(RTM_GETROUTE, 0, rtmsg{}), [&](const os::NetlinkAnswer& one) {
            const auto about = one.fixed<rtmsg>();
            const auto index = one.value<std::int32_t>(sizeof about, RTA_OIF, 0);
            const auto table = one.value<std::uint32_t>(sizeof about, RTA_TABLE, about.rtm_table);
            if (!is_usable_family(about.rtm_family) || index != link.index ||
                about.rtm_type != RTN_UNICAST || table != RT_TABLE_MAIN)
                return;
            const char* any = about.rtm_family == AF_INET ? "0.0.0.0" : "::";
            Interface::Route route;
            route.prefix = about.rtm_dst_len;
            route.destination =
                address_text(about.rtm_family, one.attribute(sizeof about, RTA_DST));
            if (route.destination.empty())
                route.destination = any;
            if (route.destination.starts_with("fe80:"))
                return; // the guest's own
            route.destination += os::text("/", route.prefix);
            route.gateway =
                address_text(about.rtm_family, one.attribute(sizeof about, RTA_GATEWAY));
            route.on_link = route.gateway.empty();
            if (route.on_link)
                route.gateway = any;
            link.routes.push_back(std::move(route));
        }));
    std::stable_sort(link.routes.begin(), link.routes.end(), [](const auto& a, const auto& b) {
        return a.on_link != b.on_link ? a.on_link : a.prefix > b.prefix;
    });
    return {};
}

os::Result<void> add_neighbours(os::Rtnetlink& netlink, Interface& link) {
    return netlink.dump(
        os::NetlinkRequest(RTM_GETNEIGH, 0, ndmsg{}), [&](const os::NetlinkAnswer& one) {
            const auto about = one.fixed<ndmsg>();
            if (about.ndm_ifindex != link.index || (about.ndm_state & NUD_PERMANENT) == 0 ||
                about.ndm_type != RTN_UNICAST)
                return;
            Interface::Neighbour neighbour{
                address_text(about.ndm_family, one.attribute(sizeof about, NDA_DST)),
                mac_text(one.attribute(sizeof about, NDA_LLADDR))};
            if (!neighbour.address.empty() && !neighbour.mac.empty())
                link.neighbours.push_back(std::move(neighbour));
        });
}

// An address makes a route to its network. Where the namespace has none (ptp, for one), it is one
// of a network of its own.
void add_address(const Address& address, Interface& link) {
    const std::string network = address.network();
    const auto connected =
        std::find_if(link.routes.begin(), link.routes.end(), [&](const Interface::Route& route) {
            return route.on_link && route.destination == network;
        });
    unsigned prefix = address.family == AF_INET ? 32 : 128;
    if (connected != link.routes.end()) {
        link.routes.erase(connected);
        prefix = address.prefix;
    }
    link.addresses.push_back(os::text(address_text(address.family, address.bytes), "/", prefix));
}

// What comes in by `from` goes out by `to`, and nobody else sees it (tc-mirred(8)).
os::Result<void> redirect(os::Rtnetlink& netlink, int from, int to) {
    tcmsg place{};
    place.tcm_ifindex = from;
    place.tcm_handle = TC_H_MAKE(TC_H_INGRESS, 0);
    place.tcm_parent = TC_H_INGRESS;
    // One that an earlier pod of this namespace left: its TAP is gone.
    static_cast<void>(netlink.ask(os::NetlinkRequest(RTM_DELQDISC, 0, place)).has_value());
    os::NetlinkRequest queue(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, place);
    queue.add_text(TCA_KIND, "ingress");
    TRY(netlink.ask(queue));

    tcmsg where{};
    where.tcm_ifindex = from;
    where.tcm_parent = TC_H_MAKE(TC_H_INGRESS, 0);
    constexpr std::uint32_t priority = 1;
    where.tcm_info = TC_H_MAKE(priority << 16, htons(ETH_P_ALL));
    os::NetlinkRequest filter(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, where);
    filter.add_text(TCA_KIND, "u32");
    const std::size_t options = filter.open(TCA_OPTIONS);
    // A selector and one key of zeros: everything matches. The selector ends with an array of no
    // size, which is no C++: it is written by its fields' places.
    std::array<unsigned char, sizeof(tc_u32_sel) + sizeof(tc_u32_key)> all{};
    all[offsetof(tc_u32_sel, flags)] = TC_U32_TERMINAL;
    all[offsetof(tc_u32_sel, nkeys)] = 1;
    filter.add(TCA_U32_SEL, all);
    const std::size_t actions = filter.open(TCA_U32_ACT);
    const std::size_t first = filter.open(1);
    filter.add_text(TCA_ACT_KIND, "mirred");
    const std::size_t parameters = filter.open(TCA_ACT_OPTIONS);
    tc_mirred what{};
    what.action = TC_ACT_STOLEN;
    what.eaction = TCA_EGRESS_REDIR;
    what.ifindex = static_cast<std::uint32_t>(to);
    filter.add(TCA_MIRRED_PARMS, what);
    for (const std::size_t opened : {parameters, first, actions, options})
        filter.close(opened);
    return netlink.ask(filter);
}

os::Result<os::UniqueFd> open_queue(std::string& name, bool several) {
    os::UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (!fd)
        return os::fail_errno(errno, "open /dev/net/tun");
    ifreq request{};
    request.ifr_flags =
        static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (several ? IFF_MULTI_QUEUE : 0));
    std::memcpy(request.ifr_name, name.c_str(), std::min<std::size_t>(name.size(), IFNAMSIZ - 1));
    if (::ioctl(fd.get(), TUNSETIFF, &request) != 0)
        return os::fail_errno(errno, "make a TAP");
    name = request.ifr_name;
    return fd;
}

os::Result<int> set_up_tap(os::Rtnetlink& netlink, const std::string& name, unsigned mtu) {
    int index = 0;
    TRY(netlink.dump(
        os::NetlinkRequest(RTM_GETLINK, 0, ifinfomsg{}), [&](const os::NetlinkAnswer& one) {
            const auto about = one.fixed<ifinfomsg>();
            const auto found = one.attribute(sizeof about, IFLA_IFNAME);
            const auto* text = reinterpret_cast<const char*>(found.data());
            if (!found.empty() && name == std::string(text, ::strnlen(text, found.size())))
                index = about.ifi_index;
        }));
    if (index == 0)
        return os::fail(os::Code::Internal, "the TAP ", name, " is gone");
    ifinfomsg about{};
    about.ifi_index = index;
    about.ifi_flags = IFF_UP;
    about.ifi_change = IFF_UP;
    os::NetlinkRequest request(RTM_NEWLINK, 0, about);
    if (mtu != 0)
        request.add(IFLA_MTU, std::uint32_t{mtu});
    TRY(netlink.ask(request));
    return index;
}

} // namespace

os::Result<std::optional<Interface>> find_interface() {
    TRY(os::Rtnetlink netlink, os::Rtnetlink::open());
    TRY(const std::vector<Address> all, addresses(netlink));
    TRY(const std::vector<Interface> links, interfaces(netlink));
    const auto found = std::find_if(links.begin(), links.end(), [&](const Interface& link) {
        return std::any_of(all.begin(), all.end(),
                           [&](const Address& one) { return one.index == link.index; });
    });
    if (found == links.end())
        return std::optional<Interface>();
    Interface out = *found;
    TRY(add_routes(netlink, out));
    TRY(add_neighbours(netlink, out));
    for (const Address& address : all) {
        if (address.index == out.index)
            add_address(address, out);
    }
    return std::optional(std::move(out));
}

os::Result<std::vector<os::UniqueFd>> join_tap(const Interface& interface, unsigned queues) {
    std::string name = "joey%d"; // the kernel puts a number there
    std::vector<os::UniqueFd> out;
    for (unsigned i = 0; i < std::max(queues, 1u); ++i) {
        TRY(os::UniqueFd queue, open_queue(name, queues > 1));
        out.push_back(std::move(queue));
    }
    TRY(os::Rtnetlink netlink, os::Rtnetlink::open());
    TRY(const int tap, set_up_tap(netlink, name, interface.mtu));
    for (const auto& [from, to] : {std::pair(interface.index, tap), {tap, interface.index}}) {
        const auto done = redirect(netlink, from, to);
        if (!done)
            return os::fail(done.error().code, "join ", interface.name,
                            " to the VM by traffic control (tc's ingress, u32 and mirred): ",
                            done.error().message);
    }
    return out;
}

std::vector<std::string> vm_words(const Interface& interface,
                                  const std::vector<os::UniqueFd>& tap) {
    std::string descriptors = "tap-fd=";
    for (const os::UniqueFd& queue : tap)
        descriptors += os::text(descriptors.ends_with('=') ? "" : ",", queue.get());
    std::vector<std::string> out = {"--net", descriptors, "--mac", interface.mac};
    if (interface.mtu != 0) {
        out.emplace_back("--mtu");
        out.push_back(std::to_string(interface.mtu));
    }
    for (const std::string& address : interface.addresses) {
        out.emplace_back("--ip");
        out.push_back(address);
    }
    for (const Interface::Route& route : interface.routes) {
        out.emplace_back("--route");
        out.push_back(os::text(route.destination, "=", route.gateway));
    }
    return out;
}

std::vector<std::string> agent_words(const Interface& interface) {
    std::vector<std::string> out;
    for (const Interface::Neighbour& neighbour : interface.neighbours) {
        out.emplace_back("--neighbour");
        out.push_back(os::text(neighbour.address, "=", neighbour.mac));
    }
    return out;
}

} // namespace pod
