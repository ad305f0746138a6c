// What the network cases run inside the VM: a static program that talks to the host, or to another
// VM.
//   show                            MAC, MTU and IPv4 address of eth0
//   cat FILE
//   refused ADDRESS PORT            how a TCP connection fails
//   ask ADDRESS PORT TEXT           sends TEXT by TCP, ends its direction, prints what comes back
//   source ADDRESS PORT BYTES       sends a pattern; prints its adler32
//   sink ADDRESS PORT               reads to the end; prints bytes and adler32
//   storm ADDRESS PORT COUNT        so many connections at once, each with a question of its own
//   datagrams ADDRESS PORT SIZE...  each goes and comes back the other way round; prints the sizes
//   serve PORT                      echoes TCP, turns UDP datagrams round; until one sends "quit"
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/integration/peer.hpp"

namespace {

using peer::give_up;
using peer::write_all;

struct Place {
    sockaddr_storage address{};
    socklen_t length = 0;
    int family = AF_INET;
    const sockaddr* generic() const { return reinterpret_cast<const sockaddr*>(&address); }
};

Place place(const char* text, const char* port) {
    Place made;
    const auto number = htons(static_cast<std::uint16_t>(std::strtoul(port, nullptr, 10)));
    sockaddr_in four{};
    sockaddr_in6 six{};
    if (inet_pton(AF_INET, text, &four.sin_addr) == 1) {
        four.sin_family = AF_INET;
        four.sin_port = number;
        made.length = sizeof four;
        std::memcpy(&made.address, &four, sizeof four);
    } else if (inet_pton(AF_INET6, text, &six.sin6_addr) == 1) {
        six.sin6_family = AF_INET6;
        six.sin6_port = number;
        made.length = sizeof six;
        std::memcpy(&made.address, &six, sizeof six);
        made.family = AF_INET6;
    } else {
        errno = EINVAL;
        give_up(text);
    }
    return made;
}

int try_connect(const Place& to, int type = SOCK_STREAM) {
    const int fd = socket(to.family, type, 0);
    if (fd < 0)
        give_up("socket");
    if (connect(fd, to.generic(), to.length) != 0) {
        const int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

int connected(const Place& to, int type = SOCK_STREAM) {
    const int fd = try_connect(to, type);
    if (fd < 0)
        give_up("connect");
    return fd;
}

int show() {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "eth0");
    const auto ask = [&](unsigned long what) { return ioctl(fd, what, &request) == 0; };
    if (!ask(SIOCGIFHWADDR)) {
        std::puts("no eth0");
        return 0;
    }
    for (int i = 0; i < 6; ++i)
        std::printf("%s%02x", i == 0 ? "" : ":",
                    static_cast<unsigned char>(request.ifr_hwaddr.sa_data[i]));
    if (!ask(SIOCGIFMTU))
        give_up("SIOCGIFMTU");
    std::printf(" mtu %d", request.ifr_mtu);
    if (ask(SIOCGIFADDR)) {
        sockaddr_in address{};
        std::memcpy(&address, &request.ifr_addr, sizeof address);
        std::printf(" %s", inet_ntoa(address.sin_addr));
        if (!ask(SIOCGIFNETMASK))
            give_up("SIOCGIFNETMASK");
        std::memcpy(&address, &request.ifr_addr, sizeof address);
        std::printf("/%d", __builtin_popcount(address.sin_addr.s_addr));
    }
    std::puts("");
    return 0;
}

int show_file(const char* name) {
    const int fd = open(name, O_RDONLY);
    if (fd < 0)
        give_up(name);
    char block[4096];
    for (ssize_t got = 0; (got = read(fd, block, sizeof block)) > 0;)
        write_all(STDOUT_FILENO, block, static_cast<std::size_t>(got));
    return 0;
}

int refused(const Place& to) {
    std::puts(try_connect(to) >= 0 ? "connected" : strerrorname_np(errno));
    return 0;
}

int ask(const Place& to, const char* text) {
    const int fd = connected(to);
    write_all(fd, text, std::strlen(text));
    if (shutdown(fd, SHUT_WR) != 0)
        give_up("shutdown");
    char block[4096];
    for (ssize_t got = 0; (got = read(fd, block, sizeof block)) > 0;)
        std::fwrite(block, 1, static_cast<std::size_t>(got), stdout);
    return 0;
}

int storm(const Place& to, int count) {
    std::vector<int> all;
    for (int i = 0; i < count; ++i)
        all.push_back(connected(to));
    const auto question = [](std::size_t i) { return "question " + std::to_string(i) + "\n"; };
    for (std::size_t i = 0; i < all.size(); ++i)
        write_all(all[i], question(i).data(), question(i).size());
    int right = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        std::string got;
        char block[64];
        while (got.size() < question(i).size()) {
            const ssize_t some = read(all[i], block, sizeof block);
            if (some <= 0)
                break;
            got.append(block, static_cast<std::size_t>(some));
        }
        right += got == question(i) ? 1 : 0;
    }
    std::printf("%d\n", right);
    return 0;
}

// Datagrams may be lost: each is sent again until its answer is there.
int datagrams(const Place& to, int count, char** sizes) {
    const int fd = connected(to, SOCK_DGRAM);
    constexpr int patience_ms = 2000;
    constexpr int attempts = 10;
    for (int i = 0; i < count; ++i) {
        std::string sent(std::strtoul(sizes[i], nullptr, 10), '\0');
        for (std::size_t k = 0; k < sent.size(); ++k)
            sent[k] = static_cast<char>('a' + (k * 7 + static_cast<std::size_t>(i)) % 26);
        std::string expected(sent.rbegin(), sent.rend());
        std::string got;
        for (int attempt = 0; attempt < attempts && got != expected; ++attempt) {
            if (send(fd, sent.data(), sent.size(), 0) < 0)
                give_up("send");
            pollfd ready{fd, POLLIN, 0};
            while (got != expected && poll(&ready, 1, patience_ms) == 1) {
                got.resize(70'000);
                const ssize_t bytes = recv(fd, got.data(), got.size(), 0);
                got.resize(bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
            }
        }
        std::printf("%s%zu%s", i == 0 ? "" : " ", got.size(), got == expected ? "" : " wrong");
    }
    std::puts("");
    return 0;
}

int listening(const char* port, int type) {
    const Place where = place("::", port);
    const int fd = socket(AF_INET6, type, 0);
    const int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, where.generic(), where.length) != 0 ||
        (type == SOCK_STREAM && listen(fd, 512) != 0))
        give_up("listen");
    return fd;
}

// True: somebody said "quit".
bool turn_round(int fd) {
    std::vector<char> block(70'000);
    sockaddr_storage from{};
    socklen_t length = sizeof from;
    const ssize_t got =
        recvfrom(fd, block.data(), block.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
    if (got == 4 && std::memcmp(block.data(), "quit", 4) == 0)
        return true;
    if (got >= 0) {
        std::reverse(block.begin(), block.begin() + got);
        sendto(fd, block.data(), static_cast<std::size_t>(got), 0,
               reinterpret_cast<const sockaddr*>(&from), length);
    }
    return false;
}

int serve(const char* port) {
    std::vector<pollfd> watched = {{listening(port, SOCK_STREAM), POLLIN, 0},
                                   {listening(port, SOCK_DGRAM), POLLIN, 0}};
    std::puts("serving");
    std::fflush(stdout);
    std::vector<char> block(std::size_t{1} << 16);
    for (;;) {
        if (poll(watched.data(), watched.size(), -1) < 0)
            give_up("poll");
        if (watched[0].revents != 0) {
            const int fd = accept(watched[0].fd, nullptr, nullptr);
            if (fd >= 0)
                watched.push_back({fd, POLLIN, 0});
        }
        if (watched[1].revents != 0 && turn_round(watched[1].fd))
            return 0;
        for (std::size_t i = 2; i < watched.size(); ++i) {
            if (watched[i].revents == 0)
                continue;
            const ssize_t got = read(watched[i].fd, block.data(), block.size());
            if (got == 4 && std::memcmp(block.data(), "quit", 4) == 0)
                return 0;
            // Short enough texts: a client that does not read holds the others up.
            if (got > 0 && send(watched[i].fd, block.data(), static_cast<std::size_t>(got),
                                MSG_NOSIGNAL) == got)
                continue;
            close(watched[i].fd);
            watched.erase(watched.begin() + static_cast<std::ptrdiff_t>(i));
            break; // the others' turn comes with the next poll
        }
    }
}

} // namespace

int main(int argc, char** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "show")
        return show();
    if (what == "cat" && argc == 3)
        return show_file(argv[2]);
    if (what == "serve" && argc == 3)
        return serve(argv[2]);
    if (argc < 4) {
        std::fprintf(stderr, "network_peer: what?\n");
        return 2;
    }
    const Place to = place(argv[2], argv[3]);
    const char* more = argc > 4 ? argv[4] : "";
    if (what == "refused")
        return refused(to);
    if (what == "ask")
        return ask(to, more);
    if (what == "source")
        return peer::send_pattern(connected(to), std::strtoull(more, nullptr, 10));
    if (what == "sink")
        return peer::sum_up(connected(to));
    if (what == "storm")
        return storm(to, std::atoi(more));
    if (what == "datagrams")
        return datagrams(to, argc - 4, argv + 4);
    std::fprintf(stderr, "network_peer: what is '%s'?\n", what.c_str());
    return 2;
}
