#include "guestkernel/net/netlink/route/conf.hpp"

#include <linux/ip.h>

namespace kernel::net::netlink {

void conf4(Stack&, const Interface::Settings& settings, i32 (&out)[conf4_values]) {
    for (i32& value : out)
        value = 0;
    const auto set = [&](int number, i32 value) { out[number - 1] = value; };
    set(IPV4_DEVCONF_FORWARDING, settings.forwarding4);
    set(IPV4_DEVCONF_ACCEPT_REDIRECTS, settings.accept_redirects);
    set(IPV4_DEVCONF_SECURE_REDIRECTS, 1);
    set(IPV4_DEVCONF_SEND_REDIRECTS, settings.send_redirects);
    set(IPV4_DEVCONF_SHARED_MEDIA, 1);
    set(IPV4_DEVCONF_RP_FILTER, settings.rp_filter);
    set(IPV4_DEVCONF_ARPFILTER, settings.arp_filter);
    set(IPV4_DEVCONF_ARP_ANNOUNCE, settings.arp_announce);
    set(IPV4_DEVCONF_ARP_IGNORE, settings.arp_ignore);
    set(IPV4_DEVCONF_PROMOTE_SECONDARIES, settings.promote_secondaries);
    set(IPV4_DEVCONF_PROXY_ARP, settings.proxy_arp);
    set(IPV4_DEVCONF_LOG_MARTIANS, settings.log_martians);
    set(IPV4_DEVCONF_ACCEPT_SOURCE_ROUTE, settings.accept_source_route);
    set(IPV4_DEVCONF_SRC_VMARK, settings.src_valid_mark);
    set(IPV4_DEVCONF_ARP_ACCEPT, settings.arp_accept);
    set(IPV4_DEVCONF_DROP_GRATUITOUS_ARP, settings.drop_gratuitous_arp);
    set(IPV4_DEVCONF_ACCEPT_LOCAL, settings.accept_local);
    set(IPV4_DEVCONF_ROUTE_LOCALNET, settings.route_localnet);
    set(IPV4_DEVCONF_IGMPV2_UNSOLICITED_REPORT_INTERVAL, 10000);
    set(IPV4_DEVCONF_IGMPV3_UNSOLICITED_REPORT_INTERVAL, 1000);
}

namespace {

// DEVCONF_* of linux/ipv6.h, which does not stand beside the C library's headers.
enum Conf6 : u8 {
    Forwarding = 0,
    HopLimit = 1,
    Mtu6 = 2,
    AcceptRa = 3,
    AcceptRedirects = 4,
    Autoconf = 5,
    DadTransmits = 6,
    RouterSolicits = 7,
    UseTempAddr = 10,
    MaxAddresses = 15,
    AcceptRaDefrtr = 17,
    AcceptRaPinfo = 18,
    DisableIpv6 = 28,
    AcceptDad = 29,
};

} // namespace

void conf6(const Interface& interface, i32 (&out)[conf6_values]) {
    const Interface::Settings& settings = interface.settings;
    for (i32& value : out)
        value = 0;
    out[Forwarding] = settings.forwarding6;
    out[HopLimit] = settings.hop_limit;
    out[Mtu6] = static_cast<i32>(settings.mtu6 != 0 ? settings.mtu6 : interface.mtu());
    out[AcceptRa] = settings.accept_ra;
    out[AcceptRedirects] = settings.accept_redirects;
    out[Autoconf] = settings.autoconf;
    out[DadTransmits] = settings.dad_transmits;
    out[RouterSolicits] = -1;
    out[UseTempAddr] = settings.use_tempaddr;
    out[MaxAddresses] = 16;
    out[AcceptRaDefrtr] = settings.accept_ra_defrtr;
    out[AcceptRaPinfo] = settings.accept_ra_pinfo;
    out[DisableIpv6] = settings.disable_ipv6;
    out[AcceptDad] = settings.accept_dad;
}

} // namespace kernel::net::netlink
