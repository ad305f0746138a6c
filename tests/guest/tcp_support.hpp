// What the programs about TCP share: addresses, pairs of connected sockets over the loopback of a
// network namespace of their own, and cases that can be run by name.
#pragma once

#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <arpa/inet.h>
#include <linux/tcp.h> // netinet/tcp.h knows only the beginning of tcp_info
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "tests/guest/network_support.hpp"

namespace tcp_tests {

// tcpi_state: include/net/tcp_states.h of Linux.
enum {
    TCP_ESTABLISHED = 1,
    TCP_SYN_SENT,
    TCP_SYN_RECV,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_TIME_WAIT,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_CLOSING
};

inline sockaddr_in address4(const char* text, int port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(static_cast<uint16_t>(port));
    CHECK(inet_pton(AF_INET, text, &out.sin_addr) == 1);
    return out;
}

inline sockaddr_in6 address6(const char* text, int port) {
    sockaddr_in6 out{};
    out.sin6_family = AF_INET6;
    out.sin6_port = htons(static_cast<uint16_t>(port));
    CHECK(inet_pton(AF_INET6, text, &out.sin6_addr) == 1);
    return out;
}

template <typename A>
const sockaddr* general(const A& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

template <typename A>
sockaddr* general(A& address) {
    return reinterpret_cast<sockaddr*>(&address);
}

inline int stream(int family = AF_INET, int extra = 0) {
    const int fd = socket(family, SOCK_STREAM | extra, 0);
    CHECK(fd >= 0);
    return fd;
}

inline void set(int fd, int level, int name, int value) {
    CHECK(setsockopt(fd, level, name, &value, sizeof value) == 0);
}

inline int try_set(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value);
}

inline int get(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, level, name, &value, &length) == 0);
    CHECK(length == sizeof value);
    return value;
}

inline int port_of(int fd) {
    sockaddr_storage name{};
    socklen_t length = sizeof name;
    CHECK(getsockname(fd, general(name), &length) == 0);
    return ntohs(reinterpret_cast<sockaddr_in*>(&name)->sin_port);
}

// What is ready now, of everything that poll(2) can ask for.
inline int ready(int fd, short events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP) {
    pollfd one{fd, events, 0};
    CHECK(poll(&one, 1, 0) >= 0);
    return one.revents;
}

// Waits for an event; a minute is forever.
inline int wait_for(int fd, short events) {
    pollfd one{fd, events, 0};
    CHECK(poll(&one, 1, 60'000) == 1);
    return one.revents;
}

inline tcp_info info_of(int fd) {
    tcp_info info{};
    socklen_t length = sizeof info;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
    return info;
}

inline int state_of(int fd) {
    return info_of(fd).tcpi_state;
}

// States follow one another through the network: waits for one.
inline void reach_state(int fd, int state) {
    for (int i = 0; i < 30'000 && state_of(fd) != state; i++)
        usleep(1000);
    CHECK(state_of(fd) == state);
}

template <typename A>
int listening(const A& address, int family, int backlog = 16) {
    const int fd = stream(family);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CHECK(bind(fd, general(address), sizeof address) == 0);
    CHECK(listen(fd, backlog) == 0);
    return fd;
}

inline int listening(int backlog = 16) {
    return listening(address4("127.0.0.1", 0), AF_INET, backlog);
}

struct Pair {
    int client = -1, server = -1;
    void close() {
        ::close(client);
        ::close(server);
    }
};

inline Pair connected_to(int listener, int flags = 0) {
    sockaddr_in to{};
    socklen_t length = sizeof to;
    CHECK(getsockname(listener, general(to), &length) == 0);
    Pair out;
    out.client = stream(AF_INET, flags);
    CHECK(connect(out.client, general(to), sizeof to) == 0);
    out.server = accept(listener, nullptr, nullptr);
    CHECK(out.server >= 0);
    return out;
}

inline Pair connected() {
    const int listener = listening();
    const Pair out = connected_to(listener);
    close(listener);
    return out;
}

inline void non_blocking(int fd) {
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
}

inline void reset_on_close(int fd) {
    const linger now{1, 0};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
}

inline void send_all(int fd, const std::string& text, int flags = 0) {
    size_t done = 0;
    while (done < text.size()) {
        const ssize_t sent = send(fd, text.data() + done, text.size() - done, flags);
        CHECK(sent > 0);
        done += static_cast<size_t>(sent);
    }
}

inline std::string receive_exactly(int fd, size_t bytes) {
    std::string out(bytes, '\0');
    size_t done = 0;
    while (done < bytes) {
        const ssize_t got = recv(fd, out.data() + done, bytes - done, 0);
        CHECK(got > 0);
        done += static_cast<size_t>(got);
    }
    return out;
}

// A pattern in which a shifted or lost byte shows.
inline std::string pattern(size_t bytes, unsigned seed = 1) {
    std::string out(bytes, '\0');
    for (char& byte : out) {
        seed = seed * 1103515245 + 12345;
        byte = static_cast<char>(seed >> 16);
    }
    return out;
}

struct Case {
    const char* name;
    void (*run)();
};

// Without an argument all cases, each in a process and a network of its own; with names, those.
template <size_t N>
int run_cases(const Case (&cases)[N], int count, char** names) {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    int failed = 0;
    for (const Case& one : cases) {
        bool wanted = count < 2;
        for (int i = 1; i < count; i++)
            wanted = wanted || std::strcmp(names[i], one.name) == 0;
        if (!wanted)
            continue;
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            own_network();
            one.run();
            std::exit(0);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        if (status != 0) {
            std::fprintf(stderr, "%s: failed (status %#x)\n", one.name,
                         static_cast<unsigned>(status));
            failed++;
        }
    }
    return failed == 0 ? 0 : 1;
}

} // namespace tcp_tests
