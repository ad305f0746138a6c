// Connections that the packet filter tracks: nf_tables and conntrack by raw netlink(7), what
// /proc/net/nf_conntrack shows, and their settings. In a network namespace of its own.
#include <cstdint>
#include <cstring>
#include <endian.h>
#include <fcntl.h>
#include <fstream>
#include <functional>
#include <sched.h>
#include <sstream>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/guest/check.hpp"
#include "tests/guest/netlink_support.hpp"

namespace {

const std::string settings = "/proc/sys/net/netfilter/nf_conntrack_";

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
    if (fd < 0)
        return errno;
    const int error =
        write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : errno;
    close(fd);
    return error;
}

// The line of /proc/net/nf_conntrack with this in it; "" if there is none.
std::string tracked(const std::string& part) {
    std::istringstream all(text_of("/proc/net/nf_conntrack"));
    for (std::string line; std::getline(all, line);)
        if (line.find(part) != std::string::npos)
            return line;
    return {};
}

bool has(const std::string& line, const std::string& part) {
    return line.find(part) != std::string::npos;
}

void own_network() {
    CHECK(unshare(CLONE_NEWNET) == 0);
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    request.ifr_flags = IFF_UP;
    CHECK(fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &request) == 0);
    close(fd);
}

Builder message(uint16_t type, uint16_t flags, uint8_t family, uint16_t resource = 0) {
    Builder out(type, flags);
    return out.put(nfgenmsg{family, NFNETLINK_V0, htons(resource)});
}
Builder rules(uint16_t type, uint16_t flags) {
    return message(static_cast<uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type), flags, NFPROTO_IPV4);
}
Builder connections(uint16_t type, uint16_t flags, uint8_t family = AF_INET) {
    return message(static_cast<uint16_t>(NFNL_SUBSYS_CTNETLINK << 8 | type), flags, family);
}

// The attributes that `fill` adds, as the content of one.
template <typename F>
void nested(Builder& out, uint16_t type, F&& fill) {
    Builder inner(0, 0);
    inner.bytes.clear();
    fill(inner);
    out.attribute(static_cast<uint16_t>(type | NLA_F_NESTED), inner.bytes.data(),
                  inner.bytes.size());
}
Builder& big(Builder& out, uint16_t type, uint32_t value) {
    return out.number(type, htonl(value));
}

// Sends these as one batch.
void send_batch(int fd, std::vector<Builder> messages) {
    std::vector<char> all;
    const auto add = [&](Builder one) {
        const auto length = static_cast<uint32_t>(one.bytes.size());
        std::memcpy(one.bytes.data(), &length, sizeof length);
        all.insert(all.end(), one.bytes.begin(), one.bytes.end());
    };
    add(message(NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES));
    for (Builder& one : messages)
        add(std::move(one));
    add(message(NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES));
    CHECK(send(fd, all.data(), all.size(), 0) == static_cast<ssize_t>(all.size()));
}
// The last asks for an answer, or one is refused: its error.
int commit(int fd, std::vector<Builder> messages) {
    send_batch(fd, std::move(messages));
    const std::vector<Message> got = receive(fd);
    CHECK(!got.empty() && got[0].header.nlmsg_type == NLMSG_ERROR);
    return -got[0].as<nlmsgerr>().error;
}

// The errors of all that are refused.
std::vector<int> refusals(int fd, std::vector<Builder> messages) {
    send_batch(fd, std::move(messages));
    std::vector<int> out;
    char byte = 0;
    while (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1)
        for (const Message& one : receive(fd)) {
            CHECK(one.header.nlmsg_type == NLMSG_ERROR);
            out.push_back(-one.as<nlmsgerr>().error);
        }
    return out;
}

Builder new_table(const char* name) {
    Builder out = rules(NFT_MSG_NEWTABLE, NLM_F_CREATE);
    return out.text(NFTA_TABLE_NAME, name);
}
Builder new_chain(const char* table, const char* name) {
    Builder out = rules(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
    out.text(NFTA_CHAIN_TABLE, table).text(NFTA_CHAIN_NAME, name);
    nested(out, NFTA_CHAIN_HOOK, [](Builder& hook) {
        big(hook, NFTA_HOOK_HOOKNUM, NF_INET_LOCAL_OUT);
        big(hook, NFTA_HOOK_PRIORITY, 0);
    });
    return out.text(NFTA_CHAIN_TYPE, "filter");
}
// "ct state": nothing is asked of it; that a rule asks is what makes the kernel track.
Builder new_rule(const char* table, const char* chain, uint16_t flags,
                 uint32_t key = NFT_CT_STATE) {
    Builder out =
        rules(NFT_MSG_NEWRULE, static_cast<uint16_t>(NLM_F_CREATE | NLM_F_APPEND | flags));
    out.text(NFTA_RULE_TABLE, table).text(NFTA_RULE_CHAIN, chain);
    nested(out, NFTA_RULE_EXPRESSIONS, [&](Builder& list) {
        nested(list, NFTA_LIST_ELEM, [&](Builder& element) {
            element.text(NFTA_EXPR_NAME, "ct");
            nested(element, NFTA_EXPR_DATA, [&](Builder& data) {
                big(data, NFTA_CT_DREG, NFT_REG_1);
                big(data, NFTA_CT_KEY, key);
            });
        });
    });
    return out;
}

void start_tracking(int fd) {
    // All or nothing: the chain's table is not there, so the table before it is not made.
    CHECK(commit(fd, {new_table("first"), new_chain("missing", "out")}) == ENOENT);
    Builder get = rules(NFT_MSG_GETTABLE, 0);
    CHECK(ask(fd, std::move(get.text(NFTA_TABLE_NAME, "first"))) == ENOENT);
    CHECK(commit(fd, {new_table("t"), new_chain("t", "out"), new_rule("t", "out", NLM_F_ACK)}) ==
          0);
    // Neither is part of a rule that is wrong.
    CHECK(commit(fd, {new_rule("t", "out", 0, 200)}) == EOPNOTSUPP);
    CHECK(commit(fd, {new_rule("t", "nowhere", 0)}) == ENOENT);
    Builder list = rules(NFT_MSG_GETRULE, NLM_F_DUMP);
    int pieces = 0;
    const std::vector<Message> found =
        dump(fd, std::move(list.text(NFTA_RULE_TABLE, "t")), 65536, pieces);
    CHECK(found.size() == 1);
    CHECK(found[0].text(sizeof(nfgenmsg), NFTA_RULE_CHAIN) == "out");
}

Builder anonymous_chain(const char* table, const char* name) {
    Builder out = rules(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
    out.text(NFTA_CHAIN_TABLE, table).text(NFTA_CHAIN_NAME, name);
    return big(out, NFTA_CHAIN_FLAGS, NFT_CHAIN_BINDING);
}
void jump(Builder& rule, const char* target) {
    nested(rule, NFTA_RULE_EXPRESSIONS, [&](Builder& list) {
        nested(list, NFTA_LIST_ELEM, [&](Builder& element) {
            element.text(NFTA_EXPR_NAME, "immediate");
            nested(element, NFTA_EXPR_DATA, [&](Builder& data) {
                big(data, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
                nested(data, NFTA_IMMEDIATE_DATA, [&](Builder& value) {
                    nested(value, NFTA_DATA_VERDICT, [&](Builder& verdict) {
                        big(verdict, NFTA_VERDICT_CODE, static_cast<uint32_t>(NFT_JUMP));
                        verdict.text(NFTA_VERDICT_CHAIN, target);
                    });
                });
            });
        });
    });
}
Builder jump_rule(const char* table, const char* chain, const char* target) {
    Builder out = rules(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    out.text(NFTA_RULE_TABLE, table).text(NFTA_RULE_CHAIN, chain);
    jump(out, target);
    return out;
}
Builder replace_rule(const char* table, const char* chain, uint64_t handle) {
    Builder out = rules(NFT_MSG_NEWRULE, NLM_F_REPLACE | NLM_F_ECHO);
    out.text(NFTA_RULE_TABLE, table).text(NFTA_RULE_CHAIN, chain);
    const uint64_t wire = htobe64(handle);
    out.attribute(NFTA_RULE_HANDLE, &wire, sizeof wire);
    return out;
}

// The handles of a new table count from one: its chain's, then its rule's.
void anonymous_chains_are_one_rules(int fd) {
    // One that leads to itself would go with the rule that is replaced in it.
    CHECK(refusals(fd, {new_table("b"), anonymous_chain("b", "own"), jump_rule("b", "own", "own"),
                        replace_rule("b", "own", 2)}) == std::vector<int>({EOPNOTSUPP, ENOENT}));
    const std::vector<Builder> begin = {new_table("b"), new_chain("b", "out"),
                                        anonymous_chain("b", "own"), jump_rule("b", "out", "own")};
    std::vector<Builder> twice = begin, later = begin;
    twice.push_back(jump_rule("b", "out", "own"));
    CHECK(refusals(fd, std::move(twice)) == std::vector<int>{EINVAL});
    later.push_back(new_rule("b", "own", 0));
    CHECK(refusals(fd, std::move(later)) == std::vector<int>{EOPNOTSUPP});
    // Nothing of them is left, and what was bound is not.
    CHECK(refusals(fd, {new_rule("b", "own", 0)}) == std::vector<int>{ENOENT});
    CHECK(refusals(fd, begin).empty());
    Builder gone = rules(NFT_MSG_DELTABLE, 0);
    CHECK(refusals(fd, {gone.text(NFTA_TABLE_NAME, "b")}).empty());
}

struct Ends {
    int one, other;
    uint16_t one_port, other_port;
};
sockaddr_in loopback(uint16_t port = 0) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    out.sin_port = htons(port);
    return out;
}
uint16_t bound(int fd) {
    sockaddr_in own = loopback();
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&own), sizeof own) == 0);
    socklen_t length = sizeof own;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0);
    return ntohs(own.sin_port);
}
Ends datagram_sockets() {
    Ends out{};
    out.one = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    out.other = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK(out.one >= 0 && out.other >= 0);
    out.one_port = bound(out.one);
    out.other_port = bound(out.other);
    return out;
}
void say(int from, uint16_t to) {
    const sockaddr_in there = loopback(to);
    CHECK(sendto(from, "x", 1, 0, reinterpret_cast<const sockaddr*>(&there), sizeof there) == 1);
}
void hear(int fd) {
    char byte = 0;
    CHECK(recv(fd, &byte, 1, 0) == 1);
}
std::string ports(uint16_t from, uint16_t to) {
    return "src=127.0.0.1 dst=127.0.0.1 sport=" + std::to_string(from) +
           " dport=" + std::to_string(to) + " ";
}

// The fifth word of a line: how many seconds are left.
long seconds_left(const std::string& line) {
    std::istringstream words(line);
    std::string skipped;
    long out = -1;
    words >> skipped >> skipped >> skipped >> skipped >> out;
    return out;
}

void datagrams_are_shown() {
    CHECK(store(settings + "acct", "1") == 0);
    CHECK(store(settings + "udp_timeout", "77") == 0);
    const Ends ends = datagram_sockets();
    say(ends.one, ends.other_port);
    std::string line = tracked(ports(ends.one_port, ends.other_port));
    CHECK(line.compare(0, 24, "ipv4     2 udp      17 7") == 0);
    CHECK(seconds_left(line) > 60 && seconds_left(line) <= 77);
    CHECK(has(line, "packets=1 bytes=29 [UNREPLIED] " + ports(ends.other_port, ends.one_port)));
    CHECK(has(line, "packets=0 bytes=0 mark=0 zone=0 use=2"));
    hear(ends.other);
    say(ends.other, ends.one_port);
    hear(ends.one);
    line = tracked(ports(ends.one_port, ends.other_port));
    CHECK(!has(line, "UNREPLIED") && !has(line, "ASSURED"));
    CHECK(has(line, "packets=1 bytes=29 " + ports(ends.other_port, ends.one_port) +
                        "packets=1 bytes=29 mark=0"));
    CHECK(text_of(settings + "count") == "1\n");
    // One that began without being counted never is.
    CHECK(store(settings + "acct", "0") == 0 && store(settings + "udp_timeout", "30") == 0);
    const Ends silent = datagram_sockets();
    say(silent.one, silent.other_port);
    line = tracked(ports(silent.one_port, silent.other_port));
    CHECK(has(line, "udp      17 ") && !has(line, "packets="));
    CHECK(seconds_left(line) <= 30);
    CHECK(text_of(settings + "count") == "2\n");
    for (const int fd : {ends.one, ends.other, silent.one, silent.other})
        close(fd);
}

// Waits until the other side of the connection is known to be in this state.
void await(const std::string& connection, const std::string& state) {
    for (int tries = 0; tries < 1000; tries++) {
        if (has(tracked(connection), " " + state + " "))
            return;
        usleep(10'000);
    }
    CHECK(false);
}

uint16_t checksum_of(const std::vector<uint8_t>& bytes) {
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < bytes.size(); i += 2)
        sum += static_cast<uint32_t>(bytes[i] << 8 | bytes[i + 1]);
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(~sum);
}

// A reset in the name of `from`, somewhere in the window of `to`: beyond what `listening`, which
// hears all segments, has heard of `from`.
void guess_reset(int listening, uint16_t from, uint16_t to) {
    uint8_t heard[256];
    uint32_t sequence = 0;
    bool found = false;
    ssize_t got = 0;
    while ((got = recv(listening, heard, sizeof heard, MSG_DONTWAIT)) > 0) {
        const uint8_t* tcp = heard + (heard[0] & 15) * 4;
        if (got < 40 || (tcp[0] << 8 | tcp[1]) != from || (tcp[2] << 8 | tcp[3]) != to)
            continue;
        std::memcpy(&sequence, tcp + 4, sizeof sequence);
        sequence = ntohl(sequence);
        found = true;
    }
    CHECK(found);
    sequence += 1000;
    // The pseudo header, then the segment.
    std::vector<uint8_t> bytes = {127, 0, 0, 1, 127, 0, 0, 1, 0, 6, 0, 20};
    for (const uint16_t port : {from, to}) {
        bytes.push_back(static_cast<uint8_t>(port >> 8));
        bytes.push_back(static_cast<uint8_t>(port));
    }
    for (const int shift : {24, 16, 8, 0})
        bytes.push_back(static_cast<uint8_t>(sequence >> shift));
    const uint8_t rest[] = {0, 0, 0, 0, 0x50, 4, 0, 0, 0, 0, 0, 0};
    bytes.insert(bytes.end(), std::begin(rest), std::end(rest));
    const uint16_t sum = checksum_of(bytes);
    bytes[28] = static_cast<uint8_t>(sum >> 8);
    bytes[29] = static_cast<uint8_t>(sum);
    const sockaddr_in there = loopback(0);
    CHECK(sendto(listening, bytes.data() + 12, 20, 0, reinterpret_cast<const sockaddr*>(&there),
                 sizeof there) == 20);
}

void streams_are_shown() {
    const int raw = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP);
    CHECK(raw >= 0);
    const sockaddr_in here = loopback(0);
    CHECK(bind(raw, reinterpret_cast<const sockaddr*>(&here), sizeof here) == 0);
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(listener >= 0);
    const uint16_t port = bound(listener);
    CHECK(listen(listener, 1) == 0);
    const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const uint16_t own = bound(client);
    sockaddr_in there = loopback(port);
    CHECK(connect(client, reinterpret_cast<sockaddr*>(&there), sizeof there) == 0);
    const int server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    CHECK(server >= 0);
    const std::string which = ports(own, port);
    await(which, "ESTABLISHED");
    std::string line = tracked(which);
    CHECK(line.compare(0, 22, "ipv4     2 tcp      6 ") == 0 && has(line, "[ASSURED]"));
    CHECK(seconds_left(line) > 431'000);
    guess_reset(raw, own, port);
    close(raw);
    usleep(50'000);
    CHECK(has(tracked(which), " ESTABLISHED "));
    CHECK(store(settings + "tcp_timeout_time_wait", "55") == 0);
    close(client);
    await(which, "CLOSE_WAIT");
    CHECK(seconds_left(tracked(which)) <= 60);
    close(server);
    await(which, "TIME_WAIT");
    CHECK(seconds_left(tracked(which)) <= 55);
    close(listener);
}

void settings_have_bounds() {
    CHECK(store(settings + "acct", "2") == EINVAL);
    CHECK(store(settings + "tcp_loose", "2") == EINVAL);
    CHECK(store(settings + "checksum", "2") == EINVAL);
    CHECK(store(settings + "tcp_max_retrans", "300") == EINVAL);
    CHECK(store(settings + "udp_timeout", "99999999999") == EINVAL);
    CHECK(store(settings + "udp_timeout", "soon") == EINVAL);
    CHECK(text_of(settings + "tcp_max_retrans") == "3\n");
    CHECK(text_of(settings + "tcp_timeout_established") == "432000\n");
    CHECK(text_of(settings + "icmp_timeout") == "30\n");
    CHECK(text_of(settings + "generic_timeout") == "600\n");
    // The limit is that of all network namespaces: the first one's to set.
    CHECK(store(settings + "max", "3") == EACCES);
    CHECK(std::stol(text_of(settings + "max")) > 0);
    CHECK(std::stol(text_of(settings + "buckets")) > 0);
    CHECK(has(text_of("/proc/net/stat/nf_conntrack"), "entries"));
}

void name_tuple(Builder& out, const Ends& ends) {
    nested(out, CTA_TUPLE_ORIG, [&](Builder& tuple) {
        nested(tuple, CTA_TUPLE_IP, [](Builder& addresses) {
            big(addresses, CTA_IP_V4_SRC, INADDR_LOOPBACK);
            big(addresses, CTA_IP_V4_DST, INADDR_LOOPBACK);
        });
        nested(tuple, CTA_TUPLE_PROTO, [&](Builder& protocol) {
            const uint8_t udp = IPPROTO_UDP;
            const uint16_t from = htons(ends.one_port), to = htons(ends.other_port);
            protocol.attribute(CTA_PROTO_NUM, &udp, sizeof udp);
            protocol.attribute(CTA_PROTO_SRC_PORT, &from, sizeof from);
            protocol.attribute(CTA_PROTO_DST_PORT, &to, sizeof to);
        });
    });
}

void connections_by_netlink(int fd) {
    const Ends ends = datagram_sockets();
    say(ends.one, ends.other_port);
    const std::string which = ports(ends.one_port, ends.other_port);
    Builder get = connections(IPCTNL_MSG_CT_GET, 0);
    name_tuple(get, ends);
    get.send(fd);
    const std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1 &&
          got[0].header.nlmsg_type == (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW));
    CHECK(ntohl(got[0].number(sizeof(nfgenmsg), CTA_STATUS)) & IPS_CONFIRMED);
    CHECK(ntohl(got[0].number(sizeof(nfgenmsg), CTA_TIMEOUT)) <= 30);
    CHECK(!got[0].attribute(sizeof(nfgenmsg), CTA_TUPLE_REPLY).empty());
    // Its mark and its time can be changed.
    Builder change = connections(IPCTNL_MSG_CT_NEW, NLM_F_ACK);
    name_tuple(change, ends);
    big(change, CTA_MARK, 7);
    big(change, CTA_TIMEOUT, 1000);
    CHECK(ask(fd, std::move(change)) == 0);
    CHECK(has(tracked(which), "mark=7 ") && seconds_left(tracked(which)) > 900);
    int pieces = 0;
    CHECK(dump(fd, connections(IPCTNL_MSG_CT_GET, NLM_F_DUMP), 65536, pieces).size() >= 3);
    CHECK(dump(fd, connections(IPCTNL_MSG_CT_GET, NLM_F_DUMP, AF_INET6), 65536, pieces).empty());
    Builder wrong = connections(IPCTNL_MSG_CT_DELETE, NLM_F_ACK);
    name_tuple(wrong, {0, 0, ends.one_port, 1});
    CHECK(ask(fd, std::move(wrong)) == ENOENT);
    Builder gone = connections(IPCTNL_MSG_CT_DELETE, NLM_F_ACK);
    name_tuple(gone, ends);
    CHECK(ask(fd, std::move(gone)) == 0);
    CHECK(tracked(which).empty());
    CHECK(ask(fd, connections(IPCTNL_MSG_CT_DELETE, NLM_F_ACK)) == 0); // all
    CHECK(text_of("/proc/net/nf_conntrack").empty());
    CHECK(text_of(settings + "count") == "0\n");
    close(ends.one);
    close(ends.other);
}

// Nothing of many is left, however they lie in the kernel's table.
void all_go_at_once(int fd) {
    constexpr uint16_t many = 2000, first = 20'000;
    const int from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK(from >= 0);
    (void)bound(from);
    for (uint16_t i = 0; i < many; i++) {
        const sockaddr_in there = loopback(static_cast<uint16_t>(first + i));
        // Nobody is there: the error about one comes with the next.
        (void)sendto(from, "x", 1, 0, reinterpret_cast<const sockaddr*>(&there), sizeof there);
    }
    CHECK(std::stol(text_of(settings + "count")) > many / 4);
    // The family of a message in the first version is not looked at.
    CHECK(ask(fd, connections(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, AF_INET6)) == 0);
    CHECK(text_of("/proc/net/nf_conntrack").empty());
    CHECK(text_of(settings + "count") == "0\n");
    close(from);
}

// One thread goes on with a dump of rules while another begins one of connections, by the same
// socket: neither waits for the other for ever.
void dumps_of_two_threads() {
    const int fd = open_socket(NETLINK_NETFILTER);
    std::vector<Builder> all;
    for (int i = 0; i < 100; i++) // more than fit into one piece
        all.push_back(new_rule("t", "out", 0));
    CHECK(refusals(fd, std::move(all)).empty());
    const auto ask_and_drain = [fd](const std::function<Builder()>& request) {
        for (int i = 0; i < 60; i++) {
            request().send(fd);
            char piece[4096];
            while (recv(fd, piece, sizeof piece, MSG_DONTWAIT) > 0)
                ;
        }
    };
    std::thread other(
        [&] { ask_and_drain([] { return connections(IPCTNL_MSG_CT_GET, NLM_F_DUMP); }); });
    ask_and_drain([] { return rules(NFT_MSG_GETRULE, NLM_F_DUMP); });
    other.join();
    close(fd);
}

} // namespace

int main() {
    own_network();
    const int fd = open_socket(NETLINK_NETFILTER);
    CHECK(text_of("/proc/net/nf_conntrack").empty());
    settings_have_bounds();
    start_tracking(fd);
    anonymous_chains_are_one_rules(fd);
    datagrams_are_shown();
    streams_are_shown();
    connections_by_netlink(fd);
    all_go_at_once(fd);
    dumps_of_two_threads();
    close(fd);
    return 0;
}
