// Network devices as programs see them beside rtnetlink(7): /sys/class/net, what udev hears of
// them, the settings of each, and generic netlink. In a network namespace of its own.
#include <cstdint>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <netpacket/packet.h>
#include <poll.h>
#include <sched.h>
#include <set>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/genetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <net/if.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "tests/guest/check.hpp"
#include "tests/guest/netlink_support.hpp"
#include "tests/guest/process_support.hpp"

namespace {

std::string sys; // where sysfs is mounted

std::string text_of(const std::string& path) {
    std::ifstream file(path);
    CHECK(file.good());
    std::ostringstream out;
    out << file.rdbuf();
    return out.str();
}

// One write; the error, or 0.
int store(const std::string& path, const std::string& text) {
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    const ssize_t done = write(fd, text.data(), text.size());
    const int error = done == static_cast<ssize_t>(text.size()) ? 0 : errno;
    close(fd);
    return error;
}

int read_error(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    char byte = 0;
    const int error = read(fd, &byte, 1) < 0 ? errno : 0;
    close(fd);
    return error;
}

std::set<std::string> names_in(const std::string& path) {
    DIR* const directory = opendir(path.c_str());
    CHECK(directory != nullptr);
    std::set<std::string> out;
    while (const dirent* entry = readdir(directory))
        if (entry->d_name[0] != '.')
            out.insert(entry->d_name);
    closedir(directory);
    return out;
}

std::string link_at(const std::string& path) {
    char text[256];
    const ssize_t length = readlink(path.c_str(), text, sizeof text);
    CHECK(length > 0);
    return {text, static_cast<size_t>(length)};
}

void own_network() {
    CHECK(unshare(CLONE_NEWNET | CLONE_NEWNS) == 0);
    CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    char place[] = "/tmp/net-devices-XXXXXX";
    CHECK(mkdtemp(place) != nullptr);
    CHECK(mount("sysfs", place, "sysfs", 0, nullptr) == 0);
    sys = place;
}

// A cable with these two ends.
int add_cable(int fd, const char* one, const char* other) {
    ifinfomsg link{};
    Builder peer(0, 0);
    peer.bytes.clear();
    peer.put(link).text(IFLA_IFNAME, other);
    Builder data(0, 0);
    data.bytes.clear();
    data.attribute(VETH_INFO_PEER, peer.bytes.data(), peer.bytes.size());
    Builder info(0, 0);
    info.bytes.clear();
    info.text(IFLA_INFO_KIND, "veth");
    info.attribute(IFLA_INFO_DATA, data.bytes.data(), data.bytes.size());
    Builder request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    request.put(link).text(IFLA_IFNAME, one);
    request.attribute(IFLA_LINKINFO, info.bytes.data(), info.bytes.size());
    return ask(fd, std::move(request));
}

int change_link(int fd, const char* name, const char* renamed) {
    ifinfomsg link{};
    link.ifi_index = static_cast<int>(if_nametoindex(name));
    CHECK(link.ifi_index != 0);
    Builder request(renamed != nullptr ? RTM_NEWLINK : RTM_DELLINK, NLM_F_ACK);
    request.put(link);
    if (renamed != nullptr)
        request.text(IFLA_IFNAME, renamed);
    return ask(fd, std::move(request));
}

// RTM_NEWLINK of one that is there, with the attributes that `fill` adds.
template <typename F>
int set_link(int fd, const char* name, F&& fill) {
    ifinfomsg link{};
    link.ifi_index = static_cast<int>(if_nametoindex(name));
    CHECK(link.ifi_index != 0);
    Builder request(RTM_NEWLINK, NLM_F_ACK);
    request.put(link);
    fill(request);
    return ask(fd, std::move(request));
}

int add_bridge(int fd, const char* name) {
    Builder info(0, 0);
    info.bytes.clear();
    info.text(IFLA_INFO_KIND, "bridge");
    Builder request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    request.put(ifinfomsg{}).text(IFLA_IFNAME, name);
    request.attribute(IFLA_LINKINFO, info.bytes.data(), info.bytes.size());
    return ask(fd, std::move(request));
}

// A process in a network namespace of its own, which stays until it is told to go. It has a netlink
// socket there.
class Elsewhere {
public:
    explicit Elsewhere(int besides = 0) {
        int ready[2], stay[2];
        CHECK(pipe2(ready, O_CLOEXEC) == 0 && pipe2(stay, O_CLOEXEC) == 0);
        child_ = start([&] {
            close(stay[1]);
            CHECK(unshare(CLONE_NEWNET | besides) == 0);
            const int fd = open_socket();
            CHECK(write(ready[1], &fd, sizeof fd) == sizeof fd);
            char byte = 0;
            CHECK(read(stay[0], &byte, 1) == 0);
        });
        close(stay[0]);
        close(ready[1]);
        CHECK(read(ready[0], &socket_, sizeof socket_) == sizeof socket_);
        close(ready[0]);
        stay_ = stay[1];
    }
    pid_t pid() const { return child_; }
    // The process's own, which keeps the rights of whoever opened it.
    int take_socket() const {
        const int process = static_cast<int>(syscall(SYS_pidfd_open, child_, 0));
        CHECK(process >= 0);
        const int fd = static_cast<int>(syscall(SYS_pidfd_getfd, process, socket_, 0));
        CHECK(fd >= 0);
        close(process);
        return fd;
    }
    void end() {
        close(stay_);
        int status = 0;
        CHECK(waitpid(child_, &status, 0) == child_ && status == 0);
    }

private:
    pid_t child_ = -1;
    int stay_ = -1, socket_ = -1;
};

// The next event about a device of this subsystem.
std::set<std::string> next_event(int fd, const std::string& subsystem) {
    for (;;) {
        pollfd ready{fd, POLLIN, 0};
        CHECK(poll(&ready, 1, 10'000) == 1);
        char text[4096];
        const ssize_t length = recv(fd, text, sizeof text, 0);
        CHECK(length > 0 && text[length - 1] == 0);
        std::set<std::string> out;
        for (const char* at = text; at < text + length; at += std::strlen(at) + 1)
            out.insert(at);
        if (out.count("SUBSYSTEM=" + subsystem) != 0)
            return out;
    }
}

int listen_for_events() {
    const int fd = open_socket(NETLINK_KOBJECT_UEVENT);
    sockaddr_nl own{};
    own.nl_family = AF_NETLINK;
    own.nl_groups = 1;
    CHECK(bind(fd, general(own), sizeof own) == 0);
    return fd;
}

void loopback_in_sysfs() {
    const std::string lo = sys + "/class/net/lo/";
    CHECK(names_in(sys + "/class/net") == std::set<std::string>{"lo"});
    CHECK(link_at(sys + "/class/net/lo") == "../../devices/virtual/net/lo");
    CHECK(link_at(lo + "subsystem") == "../../../../class/net");
    CHECK(text_of(lo + "address") == "00:00:00:00:00:00\n");
    CHECK(text_of(lo + "addr_len") == "6\n" && text_of(lo + "type") == "772\n");
    CHECK(text_of(lo + "ifindex") == "1\n" && text_of(lo + "iflink") == "1\n");
    CHECK(text_of(lo + "mtu") == "65536\n" && text_of(lo + "flags") == "0x8\n");
    CHECK(text_of(lo + "operstate") == "down\n");
    CHECK(read_error(lo + "carrier") == EINVAL && read_error(lo + "speed") == EINVAL);
    CHECK(text_of(lo + "uevent") == "INTERFACE=lo\nIFINDEX=1\n");
    CHECK(names_in(lo + "queues") == (std::set<std::string>{"rx-0", "tx-0"}));
    CHECK(text_of(lo + "statistics/rx_bytes") == "0\n");
    CHECK(store(lo + "flags", "0x9") == 0);
    CHECK(text_of(lo + "flags") == "0x9\n" && text_of(lo + "carrier") == "1\n");
    CHECK(text_of(lo + "operstate") == "unknown\n");
    CHECK(store(lo + "mtu", "1500\n") == 0 && text_of(lo + "mtu") == "1500\n");
    CHECK(store(lo + "mtu", "many") == EINVAL);
    CHECK(store(lo + "ifalias", "around") == 0 && text_of(lo + "ifalias") == "around\n");
    CHECK(store(lo + "tx_queue_len", "77") == 0 && text_of(lo + "tx_queue_len") == "77\n");
    CHECK(store(lo + "mtu", "65536") == 0);
    struct stat about {};
    CHECK(stat((sys + "/class/net/eth77").c_str(), &about) == -1 && errno == ENOENT);
}

// "all" and "default", beside the interfaces "there" and "renamed", which have no address.
void common_settings(const std::string& conf4, const std::string& conf6) {
    // IPv4: an interface follows "default" until somebody sets its own.
    for (const char* name : {"accept_local", "arp_announce", "arp_accept", "drop_gratuitous_arp",
                             "log_martians", "proxy_arp", "src_valid_mark"}) {
        const std::string what = std::string("/") + name;
        CHECK(store(conf4 + "default" + what, "1") == 0);
        CHECK(text_of(conf4 + "there" + what) == "1\n");
        CHECK(store(conf4 + "renamed" + what, "1") == 0);
        CHECK(store(conf4 + "default" + what, "0") == 0);
        CHECK(text_of(conf4 + "there" + what) == "0\n");
        CHECK(text_of(conf4 + "renamed" + what) == "1\n");
        // "all" counts together with it, and shows what was written.
        CHECK(store(conf4 + "all" + what, "1") == 0 && text_of(conf4 + "all" + what) == "1\n");
        CHECK(text_of(conf4 + "there" + what) == "0\n");
        CHECK(store(conf4 + "all" + what, "0") == 0);
    }
    // Two do not.
    for (const char* name : {"promote_secondaries", "route_localnet"}) {
        const std::string what = std::string("/") + name;
        CHECK(store(conf4 + "default" + what, "1") == 0);
        CHECK(text_of(conf4 + "there" + what) == "0\n");
        CHECK(store(conf4 + "default" + what, "0") == 0);
    }
    CHECK(store(conf4 + "all/accept_source_route", "0") == 0);
    CHECK(store(conf4 + "all/secure_redirects", "0") == 0);
    // IPv6: "default" is for interfaces to come, "all" mostly for nobody.
    for (const char* name : {"accept_ra", "accept_ra_defrtr", "accept_ra_pinfo", "autoconf"}) {
        const std::string what = std::string("/") + name;
        for (const char* who : {"all", "default"}) {
            CHECK(store(conf6 + who + what, "0") == 0 && text_of(conf6 + who + what) == "0\n");
            CHECK(text_of(conf6 + "there" + what) == "1\n");
            CHECK(store(conf6 + who + what, "1") == 0);
        }
    }
    CHECK(text_of(conf6 + "all/accept_dad") == "0\n" &&
          text_of(conf6 + "default/accept_dad") == "1\n");
    const int probe = socket(AF_INET6, SOCK_DGRAM, 0);
    CHECK(store(conf6 + "all/hop_limit", "33") == 0);
    int hops = 0;
    socklen_t length = sizeof hops;
    CHECK(getsockopt(probe, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &hops, &length) == 0 && hops == 33);
    close(probe);
    CHECK(store(conf6 + "all/hop_limit", "64") == 0 &&
          store(conf6 + "all/hop_limit", "0") == EINVAL);
    CHECK(text_of(conf6 + "there/hop_limit") == "64\n");
    CHECK(store(conf6 + "all/addr_gen_mode", "1") == 0);
    CHECK(text_of(conf6 + "there/addr_gen_mode") == "1\n" &&
          text_of(conf6 + "default/addr_gen_mode") == "1\n");
    CHECK(store(conf6 + "all/addr_gen_mode", "0") == 0);
    CHECK(store(conf6 + "all/disable_ipv6", "1") == 0);
    CHECK(text_of(conf6 + "default/disable_ipv6") == "1\n");
    CHECK(store(conf6 + "default/disable_ipv6", "0") == 0);
    CHECK(text_of(conf6 + "all/disable_ipv6") == "1\n");
    CHECK(store(conf6 + "all/disable_ipv6", "0") == 0);
}

// How many times the interface is in the group of addresses with this end (RFC 4291, 2.7.1).
unsigned users_of_group(const char* interface, const std::string& end) {
    std::istringstream in(text_of("/proc/net/igmp6"));
    unsigned index = 0, users = 0;
    std::string name, group, rest;
    while (in >> index >> name >> group >> users && std::getline(in, rest))
        if (name == interface && group == "ff0200000000000000000001ff" + end)
            return users;
    return 0;
}

// An address is added (NEWADDR), or removed (DELADDR).
int change_address(int fd, uint16_t type, const char* interface, const char* address) {
    in6_addr bytes{};
    CHECK(inet_pton(AF_INET6, address, &bytes) == 1);
    ifaddrmsg about{};
    about.ifa_family = AF_INET6;
    about.ifa_prefixlen = 64;
    about.ifa_flags = IFA_F_NODAD;
    about.ifa_index = if_nametoindex(interface);
    Builder request(type, NLM_F_ACK | (type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_EXCL : 0));
    request.put(about).attribute(IFA_LOCAL, &bytes, sizeof bytes);
    return ask(fd, std::move(request));
}

// A change of how addresses are made is none for those that are there: each is in its group once.
void address_modes() {
    const int fd = open_socket();
    CHECK(add_cable(fd, "here", "there") == 0);
    for (const char* name : {"here", "there"})
        CHECK(store(sys + "/class/net/" + name + "/flags", "0x1003") == 0);
    CHECK(change_address(fd, RTM_NEWADDR, "here", "fd00::1:2233") == 0);
    for (int i = 0; i < 200 && users_of_group("here", "012233") == 0; i++)
        usleep(10'000);
    CHECK(users_of_group("here", "012233") == 1);
    const std::string mode = "/proc/sys/net/ipv6/conf/here/addr_gen_mode";
    for (int i = 0; i < 3; i++)
        CHECK(store(mode, "1") == 0 && store(mode, "0") == 0);
    CHECK(users_of_group("here", "012233") == 1);
    CHECK(change_address(fd, RTM_DELADDR, "here", "fd00::1:2233") == 0);
    CHECK(users_of_group("here", "012233") == 0);
    CHECK(change_link(fd, "here", nullptr) == 0);
    close(fd);
}

void devices_come_and_go() {
    const int events = listen_for_events(), route = open_socket();
    CHECK(add_cable(route, "here", "there") == 0);
    std::set<std::string> names;
    for (int i = 0; i < 2; i++) {
        const std::set<std::string> added = next_event(events, "net");
        CHECK(added.count("ACTION=add") == 1);
        for (const char* name : {"here", "there"})
            if (added.count(std::string("INTERFACE=") + name) != 0) {
                names.insert(name);
                const std::string path = std::string("/devices/virtual/net/") + name;
                CHECK(added.count("add@" + path) == 1 && added.count("DEVPATH=" + path) == 1);
                CHECK(added.count("IFINDEX=" + std::to_string(if_nametoindex(name))) == 1);
            }
    }
    CHECK(names.size() == 2);
    CHECK(names_in(sys + "/class/net") == (std::set<std::string>{"here", "lo", "there"}));
    CHECK(text_of(sys + "/class/net/here/ifindex") ==
          std::to_string(if_nametoindex("here")) + "\n");
    CHECK(text_of(sys + "/class/net/here/iflink") ==
          std::to_string(if_nametoindex("there")) + "\n");
    CHECK(change_link(route, "here", "renamed") == 0);
    const std::set<std::string> moved = next_event(events, "net");
    CHECK(moved.count("move@/devices/virtual/net/renamed") == 1);
    CHECK(moved.count("DEVPATH_OLD=/devices/virtual/net/here") == 1);
    CHECK(moved.count("INTERFACE=renamed") == 1);
    CHECK(store(sys + "/class/net/renamed/uevent", "change") == 0);
    CHECK(next_event(events, "net").count("change@/devices/virtual/net/renamed") == 1);
    CHECK(store(sys + "/class/net/renamed/uevent", "nonsense") == EINVAL);
    // Each has settings of its own, which go with it.
    const std::string conf4 = "/proc/sys/net/ipv4/conf/", conf6 = "/proc/sys/net/ipv6/conf/";
    CHECK(store(conf4 + "renamed/rp_filter", "2") == 0);
    CHECK(text_of(conf4 + "renamed/rp_filter") == "2\n");
    CHECK(store(conf4 + "there/forwarding", "0") == 0);
    CHECK(store(conf4 + "renamed/forwarding", "1") == 0);
    CHECK(text_of(conf4 + "there/forwarding") != text_of(conf4 + "renamed/forwarding"));
    CHECK(store(conf6 + "renamed/accept_ra", "2") == 0);
    CHECK(text_of(conf6 + "renamed/accept_ra") == "2\n");
    CHECK(store(conf6 + "renamed/mtu", "1400") == 0 && text_of(conf6 + "renamed/mtu") == "1400\n");
    CHECK(store(conf6 + "renamed/mtu", "1000") == EINVAL);
    common_settings(conf4, conf6);
    CHECK(names_in(conf4).count("there") == 1);
    CHECK(change_link(route, "renamed", nullptr) == 0);
    names.clear();
    for (int i = 0; i < 2; i++) {
        const std::set<std::string> gone = next_event(events, "net");
        CHECK(gone.count("ACTION=remove") == 1);
        names.insert(gone.count("INTERFACE=there") != 0 ? "there" : "renamed");
    }
    CHECK(names.size() == 2);
    CHECK(names_in(sys + "/class/net") == std::set<std::string>{"lo"});
    CHECK(names_in(conf4) == (std::set<std::string>{"all", "default", "lo"}));
    close(route);
    close(events);
}

void without_ipv6() {
    const std::string setting = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";
    const std::string addresses = "/proc/net/if_inet6";
    CHECK(text_of(setting) == "0\n" && text_of(addresses).find(" lo\n") != std::string::npos);
    CHECK(store(setting, "1") == 0 && text_of(setting) == "1\n");
    CHECK(text_of(addresses).empty());
    CHECK(store(setting, "0") == 0);
    CHECK(text_of(addresses).find(" lo\n") != std::string::npos);
    const std::string all = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
    CHECK(store(all, "1") == 0 && text_of(setting) == "1\n" && text_of(addresses).empty());
    CHECK(store(all, "0") == 0 && text_of(setting) == "0\n");
}

Builder ask_controller(uint16_t flags, const char* name) {
    Builder out(GENL_ID_CTRL, flags);
    const genlmsghdr header{CTRL_CMD_GETFAMILY, 1, 0};
    out.put(header);
    if (name != nullptr)
        out.text(CTRL_ATTR_FAMILY_NAME, name);
    return out;
}

void generic_netlink() {
    const int fd = open_socket(NETLINK_GENERIC);
    ask_controller(0, "nlctrl").send(fd);
    const std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1 && got[0].header.nlmsg_type == GENL_ID_CTRL);
    CHECK(got[0].as<genlmsghdr>().cmd == CTRL_CMD_NEWFAMILY);
    CHECK(got[0].text(GENL_HDRLEN, CTRL_ATTR_FAMILY_NAME) == "nlctrl");
    CHECK(got[0].number(GENL_HDRLEN, CTRL_ATTR_VERSION) == 2);
    CHECK(!got[0].attribute(GENL_HDRLEN, CTRL_ATTR_OPS).empty());
    CHECK(!got[0].attribute(GENL_HDRLEN, CTRL_ATTR_MCAST_GROUPS).empty());
    CHECK(ask(fd, ask_controller(0, "nobody-s")) == ENOENT);
    CHECK(ask(fd, ask_controller(0, nullptr)) == EINVAL);
    Builder unknown(GENL_ID_CTRL + 2000, 0);
    unknown.put(genlmsghdr{1, 1, 0});
    CHECK(ask(fd, std::move(unknown)) == ENOENT);
    Builder operation(GENL_ID_CTRL, 0);
    operation.put(genlmsghdr{200, 1, 0});
    CHECK(ask(fd, std::move(operation)) == EOPNOTSUPP);
    int pieces = 0;
    bool seen = false;
    for (const Message& message : dump(fd, ask_controller(NLM_F_DUMP, nullptr), 65536, pieces))
        seen = seen || message.text(GENL_HDRLEN, CTRL_ATTR_FAMILY_NAME) == "nlctrl";
    CHECK(seen);
    const int group = GENL_ID_CTRL; // "notify"
    CHECK(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0);
    close(fd);
}

} // namespace

// What ethtool and libpcap ask.
void drivers() {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    const auto ask = [fd](const char* name, auto& question) {
        ifreq request{};
        std::strcpy(request.ifr_name, name);
        request.ifr_data = reinterpret_cast<char*>(&question);
        return ioctl(fd, SIOCETHTOOL, &request) == 0 ? 0 : errno;
    };
    ethtool_ts_info stamps{};
    stamps.cmd = ETHTOOL_GET_TS_INFO;
    CHECK(ask("lo", stamps) == 0 && stamps.phc_index == -1);
    constexpr uint32_t software = 1 << 3 | 1 << 4;
    CHECK((stamps.so_timestamping & software) == software);
    ethtool_value value{ETHTOOL_GLINK, 7};
    CHECK(ask("lo", value) == 0 && value.data == 1);
    value.cmd = ETHTOOL_GTSO;
    CHECK(ask("lo", value) == 0 && value.data == 1);
    value.cmd = 0xfff0;
    CHECK(ask("lo", value) == EOPNOTSUPP);
    CHECK(ask("nobody", value) == ENODEV);
    ethtool_drvinfo driver{};
    driver.cmd = ETHTOOL_GDRVINFO;
    CHECK(ask("lo", driver) == EOPNOTSUPP);
    const int route = open_socket();
    CHECK(add_cable(route, "here", "there") == 0);
    CHECK(ask("here", driver) == 0 && std::string(driver.driver) == "veth");
    value.cmd = ETHTOOL_GLINK;
    CHECK(ask("here", value) == 0 && value.data == 0);
    CHECK(change_link(route, "here", nullptr) == 0);
    close(route);
    close(fd);
}

// A port whose cable ends with a network namespace leaves its bridge: the bridge's address is that
// of the ports that are left.
void ports_go_with_their_cables() {
    const int fd = open_socket();
    CHECK(add_bridge(fd, "switch") == 0);
    CHECK(add_cable(fd, "here", "there") == 0 && add_cable(fd, "left", "right") == 0);
    for (const auto& [name, last] : {std::pair{"here", 0x10}, {"left", 0x20}}) {
        const unsigned char mac[6] = {2, 0, 0, 0, 0, static_cast<unsigned char>(last)};
        CHECK(set_link(fd, name, [&](Builder& to) {
                  to.attribute(IFLA_ADDRESS, mac, sizeof mac);
                  to.number(IFLA_MASTER, if_nametoindex("switch"));
              }) == 0);
    }
    const std::string address = sys + "/class/net/switch/address";
    CHECK(text_of(address) == "02:00:00:00:00:10\n");
    Elsewhere elsewhere;
    const auto pid = static_cast<uint32_t>(elsewhere.pid());
    CHECK(set_link(fd, "there", [&](Builder& to) { to.number(IFLA_NET_NS_PID, pid); }) == 0);
    elsewhere.end();
    // Linux takes the name away a moment before the bridge hears of it.
    for (int i = 0; if_nametoindex("here") != 0 || text_of(address) != "02:00:00:00:00:20\n"; i++) {
        CHECK(i < 1000);
        usleep(10'000);
    }
    CHECK(change_link(fd, "left", nullptr) == 0 && change_link(fd, "switch", nullptr) == 0);
    close(fd);
}

// What is sent into one port of a bridge comes out of another while the bridge is up.
void bridges_that_are_down() {
    constexpr unsigned short experimental = 0x88b5;
    const int fd = open_socket();
    CHECK(add_bridge(fd, "switch") == 0);
    CHECK(add_cable(fd, "in", "a") == 0 && add_cable(fd, "out", "b") == 0);
    const auto flag = [&](const char* name, bool up) {
        ifinfomsg link{};
        link.ifi_index = static_cast<int>(if_nametoindex(name));
        link.ifi_change = IFF_UP;
        link.ifi_flags = up ? unsigned{IFF_UP} : 0;
        Builder request(RTM_NEWLINK, NLM_F_ACK);
        CHECK(ask(fd, std::move(request.put(link))) == 0);
    };
    for (const char* port : {"a", "b"})
        CHECK(set_link(fd, port, [&](Builder& to) {
                  to.number(IFLA_MASTER, if_nametoindex("switch"));
              }) == 0);
    for (const char* name : {"in", "a", "out", "b", "switch"})
        flag(name, true);
    int ends[2];
    for (int i = 0; i < 2; i++) {
        ends[i] = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(experimental));
        sockaddr_ll at{};
        at.sll_family = AF_PACKET;
        at.sll_protocol = htons(experimental);
        at.sll_ifindex = static_cast<int>(if_nametoindex(i == 0 ? "in" : "out"));
        CHECK(ends[i] >= 0 && bind(ends[i], reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    }
    const auto passes = [&](int wait_ms) {
        const unsigned char frame[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,
                                         0,    0,    0,    0,    1,    0x88, 0xb5};
        CHECK(send(ends[0], frame, sizeof frame, 0) == sizeof frame);
        pollfd waiting = {ends[1], POLLIN, 0};
        if (poll(&waiting, 1, wait_ms) == 0)
            return false;
        char got[100];
        CHECK(recv(ends[1], got, sizeof got, 0) == sizeof frame);
        return true;
    };
    int tries = 0;
    while (!passes(100)) // ports take their time until they forward
        CHECK(++tries < 100);
    for (char late[100]; recv(ends[1], late, sizeof late, MSG_DONTWAIT) > 0;) {
    }
    flag("switch", false);
    CHECK(!passes(200));
    flag("switch", true);
    while (!passes(100))
        CHECK(++tries < 100);
    for (const int end : ends)
        close(end);
    for (const char* name : {"in", "out", "switch"})
        CHECK(change_link(fd, name, nullptr) == 0);
    close(fd);
}

// One request takes an interface to another network namespace, names it there, where it may be
// called as another one is here, and brings it up.
void moving_by_name() {
    const int fd = open_socket();
    CHECK(add_cable(fd, "here", "there") == 0);
    const int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    CHECK(own >= 0);
    Elsewhere elsewhere;
    ifinfomsg link{};
    link.ifi_index = static_cast<int>(if_nametoindex("there"));
    link.ifi_flags = link.ifi_change = IFF_UP;
    Builder request(RTM_NEWLINK, NLM_F_ACK);
    request.put(link).text(IFLA_IFNAME, "here");
    request.number(IFLA_NET_NS_PID, static_cast<uint32_t>(elsewhere.pid()));
    CHECK(ask(fd, std::move(request)) == 0);
    CHECK(if_nametoindex("there") == 0);
    const std::string place = "/proc/" + std::to_string(elsewhere.pid()) + "/ns/net";
    const int other = open(place.c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(other >= 0 && setns(other, CLONE_NEWNET) == 0);
    const int control = socket(AF_INET, SOCK_DGRAM, 0);
    ifreq moved{};
    std::strcpy(moved.ifr_name, "here");
    CHECK(ioctl(control, SIOCGIFFLAGS, &moved) == 0 && (moved.ifr_flags & IFF_UP) != 0);
    close(control);
    CHECK(setns(own, CLONE_NEWNET) == 0);
    close(own);
    close(other);
    CHECK(change_link(fd, "here", nullptr) == 0);
    elsewhere.end();
    close(fd);
}

// What a program writes into somebody else's socket does nothing to a network over which that one
// has no rights, whatever the program may do itself.
void sockets_of_strangers() {
    Elsewhere elsewhere(CLONE_NEWUSER);
    const int fd = elsewhere.take_socket();
    const auto make = [&](const char* name, pid_t where) {
        Builder info(0, 0);
        info.bytes.clear();
        info.text(IFLA_INFO_KIND, "veth");
        Builder request(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        request.put(ifinfomsg{}).text(IFLA_IFNAME, name);
        request.number(IFLA_NET_NS_PID, static_cast<uint32_t>(where));
        request.attribute(IFLA_LINKINFO, info.bytes.data(), info.bytes.size());
        return ask(fd, std::move(request));
    };
    CHECK(make("stranger", getpid()) == EPERM);
    CHECK(if_nametoindex("stranger") == 0);
    CHECK(make("own", elsewhere.pid()) == 0);
    close(fd);
    elsewhere.end();
}

// "ip route del default" of several takes away the one that packets take.
void the_lowest_metric_goes_first() {
    const int fd = open_socket();
    CHECK(add_cable(fd, "here", "there") == 0);
    ifinfomsg up{};
    up.ifi_index = static_cast<int>(if_nametoindex("here"));
    up.ifi_flags = up.ifi_change = IFF_UP;
    Builder bring(RTM_NEWLINK, NLM_F_ACK);
    CHECK(ask(fd, std::move(bring.put(up))) == 0);
    const auto change = [&](uint16_t type, uint32_t metric) {
        Builder request(type, type == RTM_NEWROUTE ? NLM_F_ACK | NLM_F_CREATE : NLM_F_ACK);
        rtmsg route{};
        route.rtm_family = AF_INET;
        route.rtm_table = RT_TABLE_MAIN;
        route.rtm_scope = type == RTM_NEWROUTE ? RT_SCOPE_LINK : RT_SCOPE_NOWHERE;
        route.rtm_type = type == RTM_NEWROUTE ? RTN_UNICAST : RTN_UNSPEC;
        request.put(route);
        if (metric != 0)
            request.number(RTA_PRIORITY, metric);
        if (type == RTM_NEWROUTE)
            request.number(RTA_OIF, if_nametoindex("here"));
        return ask(fd, std::move(request));
    };
    for (const uint32_t metric : {200u, 100u, 300u})
        CHECK(change(RTM_NEWROUTE, metric) == 0);
    CHECK(change(RTM_DELROUTE, 0) == 0);
    CHECK(change(RTM_DELROUTE, 100) == ESRCH);
    CHECK(change(RTM_DELROUTE, 0) == 0);
    CHECK(change(RTM_DELROUTE, 200) == ESRCH);
    CHECK(change(RTM_DELROUTE, 300) == 0);
    CHECK(change_link(fd, "here", nullptr) == 0);
    close(fd);
}

// route(8) and DHCP clients: routes that differ by their metric stand side by side, and go by it.
void routes_by_ioctl() {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    char device[IFNAMSIZ] = "lo";
    const auto change = [&](unsigned long command, short metric) {
        rtentry route{};
        const auto put = [](sockaddr& to, const char* text) {
            sockaddr_in address{};
            address.sin_family = AF_INET;
            CHECK(inet_pton(AF_INET, text, &address.sin_addr) == 1);
            std::memcpy(&to, &address, sizeof address);
        };
        put(route.rt_dst, "10.77.0.0");
        put(route.rt_genmask, "255.255.0.0");
        route.rt_flags = RTF_UP;
        route.rt_metric = metric;
        route.rt_dev = device;
        return ioctl(fd, command, &route) == 0 ? 0 : errno;
    };
    CHECK(change(SIOCADDRT, 4) == 0);
    CHECK(change(SIOCADDRT, 4) == EEXIST);
    CHECK(change(SIOCADDRT, 6) == 0);
    CHECK(change(SIOCDELRT, 5) == ESRCH);
    CHECK(change(SIOCDELRT, 6) == 0);
    CHECK(change(SIOCDELRT, 6) == ESRCH);
    CHECK(change(SIOCDELRT, 4) == 0);
    close(fd);
}

// Whoever administers the user namespace that a network belongs to may change it by ioctl(2), and
// nobody else's.
void administrators() {
    const auto bring_up = [] {
        const int fd = socket(AF_INET, SOCK_DGRAM, 0);
        ifreq request{};
        std::strcpy(request.ifr_name, "lo");
        request.ifr_flags = IFF_UP;
        const int error = ioctl(fd, SIOCSIFFLAGS, &request) == 0 ? 0 : errno;
        close(fd);
        return error;
    };
    in_child([&] {
        CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0);
        CHECK(bring_up() == 0);
    });
    in_child([&] {
        CHECK(unshare(CLONE_NEWUSER) == 0);
        CHECK(bring_up() == EPERM);
    });
}

int main() {
    own_network();
    loopback_in_sysfs();
    devices_come_and_go();
    address_modes();
    drivers();
    routes_by_ioctl();
    administrators();
    ports_go_with_their_cables();
    bridges_that_are_down();
    moving_by_name();
    sockets_of_strangers();
    the_lowest_metric_goes_first();
    without_ipv6();
    generic_netlink();
    CHECK(umount2(sys.c_str(), MNT_DETACH) == 0);
    rmdir(sys.c_str());
    return 0;
}
