// tcp(7), socket(7): options of TCP sockets, their values and errors; urgent data; what is
// inherited.
#include <algorithm>
#include <csignal>

#include <linux/sockios.h>

#include "tests/guest/tcp_support.hpp"

using namespace tcp_tests;

namespace {

char byte;

void defaults() {
    const int fd = stream();
    struct {
        int level, name, value;
    } const expected[] = {
        {IPPROTO_TCP, TCP_NODELAY, 0},      {IPPROTO_TCP, TCP_MAXSEG, 536},
        {IPPROTO_TCP, TCP_CORK, 0},         {IPPROTO_TCP, TCP_KEEPIDLE, 7200},
        {IPPROTO_TCP, TCP_KEEPINTVL, 75},   {IPPROTO_TCP, TCP_KEEPCNT, 9},
        {IPPROTO_TCP, TCP_SYNCNT, 6},       {IPPROTO_TCP, TCP_LINGER2, 60},
        {IPPROTO_TCP, TCP_DEFER_ACCEPT, 0}, {IPPROTO_TCP, TCP_QUICKACK, 1},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, 0}, {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0},
        {IPPROTO_TCP, TCP_FASTOPEN, 0},     {IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 0},
        {IPPROTO_TCP, TCP_THIN_DUPACK, 0},  {IPPROTO_TCP, TCP_REPAIR, 0},
        {IPPROTO_TCP, TCP_SAVE_SYN, 0},     {IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 0},
        {IPPROTO_TCP, TCP_INQ, 0},          {SOL_SOCKET, SO_REUSEADDR, 0},
        {SOL_SOCKET, SO_KEEPALIVE, 0},      {SOL_SOCKET, SO_OOBINLINE, 0},
        {SOL_SOCKET, SO_RCVLOWAT, 1},       {SOL_SOCKET, SO_SNDLOWAT, 1},
        {SOL_SOCKET, SO_ERROR, 0},          {SOL_SOCKET, SO_PRIORITY, 0},
        {SOL_SOCKET, SO_RCVBUF, 131072},    {SOL_SOCKET, SO_SNDBUF, 16384},
        {SOL_SOCKET, SO_REUSEPORT, 0},      {SOL_SOCKET, SO_ZEROCOPY, 0},
        {SOL_SOCKET, SO_DONTROUTE, 0},      {SOL_SOCKET, SO_BROADCAST, 0},
        {SOL_SOCKET, SO_DEBUG, 0},          {SOL_SOCKET, SO_TIMESTAMP, 0},
    };
    for (const auto& one : expected) {
        const int value = get(fd, one.level, one.name);
        if (value != one.value)
            std::fprintf(stderr, "level %d option %d: %d\n", one.level, one.name, value);
        CHECK(value == one.value);
    }
    char name[16] = {};
    socklen_t length = sizeof name;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) == 0 && length == 16);
    CHECK(name[0] != 0);
    close(fd);
}

void numbers() {
    const int fd = stream();
    struct {
        int level, name, given, shown; // shown -1: EINVAL
    } const cases[] = {
        {IPPROTO_TCP, TCP_NODELAY, 5, 1},
        {IPPROTO_TCP, TCP_NODELAY, 0, 0},
        {IPPROTO_TCP, TCP_CORK, 7, 1},
        {IPPROTO_TCP, TCP_CORK, 0, 0},
        {IPPROTO_TCP, TCP_MAXSEG, 87, -1},
        {IPPROTO_TCP, TCP_MAXSEG, 32768, -1},
        {IPPROTO_TCP, TCP_MAXSEG, 1000, 1000},
        {IPPROTO_TCP, TCP_MAXSEG, -1, -1},
        {IPPROTO_TCP, TCP_MAXSEG, 88, 88},
        {IPPROTO_TCP, TCP_KEEPIDLE, 0, -1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 32768, -1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 32767, 32767},
        {IPPROTO_TCP, TCP_KEEPINTVL, 0, -1},
        {IPPROTO_TCP, TCP_KEEPINTVL, 1, 1},
        {IPPROTO_TCP, TCP_KEEPCNT, 128, -1},
        {IPPROTO_TCP, TCP_KEEPCNT, 127, 127},
        {IPPROTO_TCP, TCP_KEEPCNT, 0, -1},
        {IPPROTO_TCP, TCP_SYNCNT, 0, -1},
        {IPPROTO_TCP, TCP_SYNCNT, 128, -1},
        {IPPROTO_TCP, TCP_SYNCNT, 3, 3},
        {IPPROTO_TCP, TCP_LINGER2, -5, -1 - 1},
        {IPPROTO_TCP, TCP_LINGER2, 30, 30},
        {IPPROTO_TCP, TCP_LINGER2, 0, 60},
        {IPPROTO_TCP, TCP_DEFER_ACCEPT, 1, 1},
        {IPPROTO_TCP, TCP_DEFER_ACCEPT, 2, 3},
        {IPPROTO_TCP, TCP_DEFER_ACCEPT, 10, 15},
        {IPPROTO_TCP, TCP_DEFER_ACCEPT, -1, 0},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, -1, -1},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, 1500, 1500},
        {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4096, 4096},
        {IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 2, -1},
        {IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1, 1},
        {IPPROTO_TCP, TCP_THIN_DUPACK, 2, -1},
        {IPPROTO_TCP, TCP_INQ, 2, -1},
        {IPPROTO_TCP, TCP_INQ, 1, 1},
        {IPPROTO_TCP, TCP_SAVE_SYN, 3, -1},
        {IPPROTO_TCP, TCP_SAVE_SYN, 1, 1},
        {IPPROTO_TCP, TCP_FASTOPEN, -1, -1},
        {IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 2, -1},
        {IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1, 1},
        {IPPROTO_TCP, TCP_WINDOW_CLAMP, 1, 1152},
        {IPPROTO_TCP, TCP_WINDOW_CLAMP, 0, 0},
        {SOL_SOCKET, SO_RCVLOWAT, 0, 1},
        {SOL_SOCKET, SO_RCVLOWAT, 7, 7},
        {SOL_SOCKET, SO_RCVLOWAT, 500, 500},
        {SOL_SOCKET, SO_KEEPALIVE, 3, 1},
        {SOL_SOCKET, SO_SNDBUF, 10000, 20000},
        {SOL_SOCKET, SO_SNDBUF, 1, 4608},
        {SOL_SOCKET, SO_RCVBUF, 1, 2304},
        {SOL_SOCKET, SO_RCVBUF, 50000, 100000},
        {SOL_SOCKET, SO_PRIORITY, 4, 4},
        {SOL_SOCKET, SO_ZEROCOPY, 1, 1},
        {SOL_SOCKET, SO_ZEROCOPY, 2, -1},
    };
    for (const auto& one : cases) {
        const int wanted = one.name == TCP_LINGER2 && one.given < 0 ? -1 : one.shown;
        const bool refused = one.shown == -1;
        const int result = try_set(fd, one.level, one.name, one.given);
        const int value = refused ? 0 : get(fd, one.level, one.name);
        if (result != (refused ? -1 : 0) || (refused && errno != EINVAL) ||
            (!refused && value != wanted))
            std::fprintf(stderr, "level %d option %d set to %d: result %d, errno %d, shown %d\n",
                         one.level, one.name, one.given, result, errno, value);
        CHECK(result == (refused ? -1 : 0));
        CHECK(!refused || errno == EINVAL);
        CHECK(refused || value == wanted);
    }
    close(fd);
}

void lengths_and_errors() {
    const int fd = stream();
    int value = 1;
    socklen_t length = 2;
    CHECK_FAILS(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, 3), EINVAL);
    CHECK_FAILS(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, reinterpret_cast<void*>(8), 4), EFAULT);
    CHECK_FAILS(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, static_cast<socklen_t>(-1)),
                EINVAL);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, 8) == 0); // the rest is not looked at
    value = -1;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length) == 0 && length == 2);
    CHECK((value & 0xffff) == 1 && (value >> 16) == -1);
    length = 0;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length) == 0 && length == 0);
    length = static_cast<socklen_t>(-1);
    CHECK_FAILS(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length), EINVAL);
    length = 4;
    CHECK_FAILS(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, reinterpret_cast<void*>(8), &length),
                EFAULT);
    CHECK_FAILS(getsockopt(fd, IPPROTO_TCP, 200, &value, &length), ENOPROTOOPT);
    CHECK_FAILS(try_set(fd, IPPROTO_TCP, 200, 1), ENOPROTOOPT);
    CHECK_FAILS(try_set(fd, IPPROTO_UDP, 1, 1), ENOPROTOOPT);
    CHECK_FAILS(try_set(fd, SOL_SOCKET, 250, 1), ENOPROTOOPT);
    CHECK_FAILS(getsockopt(fd, SOL_SOCKET, 250, &value, &length), ENOPROTOOPT);
    CHECK_FAILS(try_set(fd, SOL_SOCKET, SO_TYPE, 1), ENOPROTOOPT);
    CHECK_FAILS(try_set(fd, SOL_SOCKET, SO_ERROR, 1), ENOPROTOOPT);
    CHECK_FAILS(try_set(fd, SOL_SOCKET, SO_ACCEPTCONN, 1), ENOPROTOOPT);
    CHECK_FAILS(try_set(fd, SOL_SOCKET, SO_SNDLOWAT, 1), ENOPROTOOPT);
    CHECK_FAILS(try_set(fd, IPPROTO_TCP, TCP_INFO, 1), ENOPROTOOPT);
    CHECK_FAILS(try_set(fd, IPPROTO_TCP, TCP_CC_INFO, 1), ENOPROTOOPT);
    // SO_PASSCRED is of Unix sockets.
    CHECK_FAILS(try_set(fd, SOL_SOCKET, SO_PASSCRED, 1), EOPNOTSUPP);
    CHECK_FAILS(getsockopt(fd, SOL_SOCKET, SO_PASSCRED, &value, &length), EOPNOTSUPP);
    ucred who{};
    length = sizeof who;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) == 0 && length == sizeof who);
    CHECK(who.pid == 0 && who.uid == static_cast<uid_t>(-1) && who.gid == static_cast<gid_t>(-1));
    // TCP_INFO comes as long as the caller's room is.
    tcp_info info{};
    info.tcpi_options = 77;
    length = 5;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 && length == 5);
    CHECK(info.tcpi_state == TCP_CLOSE && info.tcpi_options == 77);
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof value), EINVAL);
    const timeval odd{0, 1'000'000};
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &odd, sizeof odd), EDOM);
    close(fd);
}

void congestion_control() {
    const int fd = stream();
    char name[32] = {};
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0);
    socklen_t length = sizeof name;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) == 0 && length == 16);
    CHECK(std::strcmp(name, "reno") == 0);
    CHECK_FAILS(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "nonesuch", 8), ENOENT);
    CHECK_FAILS(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "", 0), EINVAL);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 6) == 0);
    length = 3;
    std::strcpy(name, "######");
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) == 0 && length == 3);
    CHECK(std::strncmp(name, "cub###", 6) == 0);
    CHECK_FAILS(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "nonesuch", 8), ENOENT);
    length = sizeof name;
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &length) == 0 && length == 0);
    close(fd);
}

void inheritance() {
    const int listener = listening();
    set(listener, IPPROTO_TCP, TCP_NODELAY, 1);
    set(listener, IPPROTO_TCP, TCP_KEEPIDLE, 99);
    set(listener, IPPROTO_TCP, TCP_USER_TIMEOUT, 4321);
    set(listener, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1234);
    set(listener, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(listener, SOL_SOCKET, SO_RCVBUF, 30000);
    set(listener, SOL_SOCKET, SO_SNDBUF, 20000);
    set(listener, SOL_SOCKET, SO_RCVLOWAT, 3);
    set(listener, SOL_SOCKET, SO_OOBINLINE, 1);
    set(listener, IPPROTO_IP, IP_TOS, 0x10);
    CHECK(get(listener, SOL_SOCKET, SO_PRIORITY) == 6); // what "low delay" means
    set(listener, SOL_SOCKET, SO_PRIORITY, 2);
    set(listener, IPPROTO_IP, IP_TTL, 44);
    CHECK(setsockopt(listener, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0);
    const timeval limit{7, 0};
    CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    const linger lingers{1, 5};
    CHECK(setsockopt(listener, SOL_SOCKET, SO_LINGER, &lingers, sizeof lingers) == 0);
    Pair pair = connected_to(listener);
    CHECK(get(pair.server, IPPROTO_TCP, TCP_NODELAY) == 1);
    CHECK(get(pair.server, IPPROTO_TCP, TCP_KEEPIDLE) == 99);
    CHECK(get(pair.server, IPPROTO_TCP, TCP_USER_TIMEOUT) == 4321);
    CHECK(get(pair.server, IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 1234);
    CHECK(get(pair.server, SOL_SOCKET, SO_REUSEADDR) == 1);
    CHECK(get(pair.server, SOL_SOCKET, SO_KEEPALIVE) == 1);
    CHECK(get(pair.server, SOL_SOCKET, SO_RCVBUF) == 60000);
    CHECK(get(pair.server, SOL_SOCKET, SO_SNDBUF) == 40000);
    CHECK(get(pair.server, SOL_SOCKET, SO_RCVLOWAT) == 3);
    CHECK(get(pair.server, SOL_SOCKET, SO_OOBINLINE) == 1);
    CHECK(get(pair.server, SOL_SOCKET, SO_PRIORITY) == 0); // not that
    CHECK(get(pair.server, IPPROTO_IP, IP_TOS) == 0x10);
    CHECK(get(pair.server, IPPROTO_IP, IP_TTL) == 44);
    char name[16] = {};
    socklen_t length = sizeof name;
    CHECK(getsockopt(pair.server, IPPROTO_TCP, TCP_CONGESTION, name, &length) == 0);
    CHECK(std::strcmp(name, "reno") == 0);
    timeval seen{};
    length = sizeof seen;
    CHECK(getsockopt(pair.server, SOL_SOCKET, SO_RCVTIMEO, &seen, &length) == 0);
    CHECK(seen.tv_sec == 7);
    linger kept{};
    length = sizeof kept;
    CHECK(getsockopt(pair.server, SOL_SOCKET, SO_LINGER, &kept, &length) == 0);
    CHECK(kept.l_onoff == 1 && kept.l_linger == 5);
    CHECK(get(pair.client, IPPROTO_TCP, TCP_NODELAY) == 0);
    pair.close();
    close(listener);
}

void information() {
    Pair pair = connected();
    tcp_info info = info_of(pair.client);
    CHECK(info.tcpi_state == TCP_ESTABLISHED && info.tcpi_ca_state == 0);
    CHECK((info.tcpi_options & (TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE)) == 7);
    CHECK(info.tcpi_snd_mss >= 32741 && info.tcpi_advmss == 65483);
    CHECK(get(pair.client, IPPROTO_TCP, TCP_MAXSEG) == static_cast<int>(info.tcpi_snd_mss));
    CHECK(info.tcpi_pmtu == 65535 || info.tcpi_pmtu == 65536);
    CHECK(info.tcpi_snd_cwnd == 10);
    CHECK(info.tcpi_rto >= 200'000 && info.tcpi_rto < 1'000'000);
    send_all(pair.client, std::string(1000, 'a'));
    (void)receive_exactly(pair.server, 1000);
    info = info_of(pair.client);
    CHECK(info.tcpi_bytes_acked == 1001); // the SYN counts
    CHECK(info_of(pair.server).tcpi_bytes_received == 1000);
    CHECK(info.tcpi_unacked == 0 && info.tcpi_notsent_bytes == 0);
    // What nobody takes waits: in the receiver's buffer, under way, or not sent.
    int waiting = -1;
    CHECK(ioctl(pair.client, SIOCOUTQ, &waiting) == 0 && waiting == 0);
    CHECK(ioctl(pair.client, SIOCOUTQNSD, &waiting) == 0 && waiting == 0);
    send_all(pair.client, "0123456789");
    (void)wait_for(pair.server, POLLIN);
    CHECK(ioctl(pair.server, FIONREAD, &waiting) == 0 && waiting == 10);
    non_blocking(pair.client);
    const std::string text(1 << 16, 'b');
    while (send(pair.client, text.data(), text.size(), 0) > 0) {
    }
    CHECK(ioctl(pair.client, SIOCOUTQ, &waiting) == 0 && waiting > 0);
    CHECK(ioctl(pair.client, SIOCOUTQNSD, &waiting) == 0 && waiting > 0);
    const int listener = listening();
    CHECK_FAILS(ioctl(listener, FIONREAD, &waiting), EINVAL);
    CHECK_FAILS(ioctl(listener, SIOCOUTQ, &waiting), EINVAL);
    close(listener);
    pair.close();
}

void corked() {
    Pair pair = connected();
    set(pair.client, IPPROTO_TCP, TCP_CORK, 1);
    CHECK(send(pair.client, "a", 1, 0) == 1);
    CHECK(send(pair.client, "b", 1, 0) == 1);
    CHECK(ready(pair.server) == POLLOUT);
    set(pair.client, IPPROTO_TCP, TCP_CORK, 0);
    CHECK(wait_for(pair.server, POLLIN) == POLLIN);
    char text[8];
    CHECK(recv(pair.server, text, sizeof text, 0) == 2);
    // TCP_NODELAY pushes what is corked, once.
    set(pair.client, IPPROTO_TCP, TCP_CORK, 1);
    CHECK(send(pair.client, "c", 1, 0) == 1);
    CHECK(ready(pair.server) == POLLOUT);
    set(pair.client, IPPROTO_TCP, TCP_NODELAY, 1);
    CHECK(wait_for(pair.server, POLLIN) == POLLIN);
    CHECK(recv(pair.server, text, sizeof text, 0) == 1);
    // MSG_MORE holds back until more comes without it.
    set(pair.client, IPPROTO_TCP, TCP_CORK, 0);
    set(pair.client, IPPROTO_TCP, TCP_NODELAY, 0);
    CHECK(send(pair.client, "d", 1, MSG_MORE) == 1);
    CHECK(ready(pair.server) == POLLOUT);
    CHECK(send(pair.client, "e", 1, 0) == 1);
    CHECK(wait_for(pair.server, POLLIN) == POLLIN);
    CHECK(recv(pair.server, text, sizeof text, MSG_WAITALL | MSG_DONTWAIT) == 2);
    // Nothing is held back for good.
    CHECK(send(pair.client, "x", 1, MSG_MORE) == 1);
    CHECK(wait_for(pair.server, POLLIN) == POLLIN);
    CHECK(recv(pair.server, text, sizeof text, 0) == 1);
    set(pair.client, IPPROTO_TCP, TCP_CORK, 1);
    CHECK(send(pair.client, "y", 1, 0) == 1);
    CHECK(wait_for(pair.server, POLLIN) == POLLIN);
    CHECK(recv(pair.server, text, sizeof text, 0) == 1);
    // The end of the stream pushes everything.
    CHECK(send(pair.client, "f", 1, MSG_MORE) == 1);
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    CHECK(recv(pair.server, text, sizeof text, MSG_WAITALL) == 1);
    pair.close();
}

void deferred_accept() {
    const int listener = listening();
    set(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
    non_blocking(listener);
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    const int client = stream();
    CHECK(connect(client, general(to), sizeof to) == 0);
    CHECK(state_of(client) == TCP_ESTABLISHED);
    CHECK(ready(listener) == 0); // until there are data
    CHECK_FAILS(accept(listener, nullptr, nullptr), EAGAIN);
    send_all(client, "now");
    CHECK(wait_for(listener, POLLIN) == POLLIN);
    const int server = accept(listener, nullptr, nullptr);
    CHECK(server >= 0);
    CHECK(receive_exactly(server, 3) == "now");
    close(server);
    close(client);
    close(listener);
}

volatile sig_atomic_t urgent_signals;
void on_urgent(int) {
    urgent_signals = urgent_signals + 1;
}

void urgent_data() {
    Pair pair = connected();
    struct sigaction action {};
    action.sa_handler = on_urgent;
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGURG, &action, nullptr) == 0);
    CHECK_FAILS(recv(pair.server, &byte, 1, MSG_OOB), EINVAL); // none came
    int at_mark = -1;
    CHECK(ioctl(pair.server, SIOCATMARK, &at_mark) == 0 && at_mark == 0);
    // Nobody owns the socket yet: no signal.
    CHECK(send(pair.client, "abX", 3, MSG_OOB) == 3);
    CHECK((wait_for(pair.server, POLLPRI) & POLLPRI) != 0);
    CHECK(urgent_signals == 0);
    CHECK(ready(pair.server) == (POLLIN | POLLOUT | POLLPRI));
    CHECK(recv(pair.server, &byte, 1, MSG_OOB | MSG_PEEK) == 1 && byte == 'X');
    CHECK(recv(pair.server, &byte, 1, MSG_OOB) == 1 && byte == 'X');
    CHECK_FAILS(recv(pair.server, &byte, 1, MSG_OOB), EINVAL); // taken
    CHECK((ready(pair.server) & POLLPRI) == 0);
    int waiting = -1;
    CHECK(ioctl(pair.server, FIONREAD, &waiting) == 0 && waiting == 2);
    // Reading stops at the mark, and the byte is not in the stream.
    send_all(pair.client, "cd");
    while (ioctl(pair.server, FIONREAD, &waiting) == 0 && waiting < 2)
        usleep(1000);
    char text[8] = {};
    CHECK(recv(pair.server, text, sizeof text, 0) == 2 && std::memcmp(text, "ab", 2) == 0);
    CHECK(ioctl(pair.server, SIOCATMARK, &at_mark) == 0 && at_mark == 1);
    CHECK(sockatmark(pair.server) == 1);
    CHECK(receive_exactly(pair.server, 2) == "cd");
    CHECK(ioctl(pair.server, SIOCATMARK, &at_mark) == 0 && at_mark == 0);
    // An owner gets SIGURG.
    CHECK(fcntl(pair.server, F_SETOWN, getpid()) == 0);
    CHECK(fcntl(pair.server, F_GETOWN) == getpid());
    CHECK(send(pair.client, "Y", 1, MSG_OOB) == 1);
    (void)wait_for(pair.server, POLLPRI);
    for (int i = 0; i < 10'000 && urgent_signals == 0; i++)
        usleep(1000);
    CHECK(urgent_signals == 1);
    // By recvmsg(2) the flags tell.
    iovec one{text, 1};
    msghdr message{};
    message.msg_iov = &one;
    message.msg_iovlen = 1;
    CHECK(recvmsg(pair.server, &message, MSG_OOB) == 1 && text[0] == 'Y');
    CHECK((message.msg_flags & MSG_OOB) != 0);
    CHECK_FAILS(recv(pair.server, text, sizeof text, MSG_DONTWAIT), EAGAIN); // passes it
    // In line it is read like any other byte, up to and from the mark.
    set(pair.server, SOL_SOCKET, SO_OOBINLINE, 1);
    CHECK(send(pair.client, "efZ", 3, MSG_OOB) == 3);
    (void)wait_for(pair.server, POLLPRI);
    CHECK_FAILS(recv(pair.server, &byte, 1, MSG_OOB), EINVAL);
    CHECK(recv(pair.server, text, sizeof text, 0) == 2 && std::memcmp(text, "ef", 2) == 0);
    CHECK(ioctl(pair.server, SIOCATMARK, &at_mark) == 0 && at_mark == 1);
    CHECK(recv(pair.server, text, sizeof text, 0) == 1 && text[0] == 'Z');
    // It is no exception to select(2) once it was read.
    CHECK((ready(pair.server) & POLLPRI) == 0);
    pair.close();
}

void low_water() {
    Pair pair = connected();
    set(pair.server, SOL_SOCKET, SO_RCVLOWAT, 10);
    send_all(pair.client, "12345");
    usleep(5000);
    CHECK(ready(pair.server) == POLLOUT);
    // recv(2) without waiting takes what there is all the same.
    char text[32];
    CHECK(recv(pair.server, text, 2, MSG_DONTWAIT) == 2);
    send_all(pair.client, "67890ab");
    CHECK(wait_for(pair.server, POLLIN) == POLLIN);
    CHECK(recv(pair.server, text, sizeof text, 0) == 10);
    // A change is looked at at once.
    send_all(pair.client, "123");
    usleep(5000);
    CHECK(ready(pair.server) == POLLOUT);
    set(pair.server, SOL_SOCKET, SO_RCVLOWAT, 3);
    CHECK(ready(pair.server) == (POLLIN | POLLOUT));
    // Half of the buffer is the most.
    set(pair.server, SOL_SOCKET, SO_RCVBUF, 10'000);
    set(pair.server, SOL_SOCKET, SO_RCVLOWAT, -1);
    CHECK(get(pair.server, SOL_SOCKET, SO_RCVLOWAT) == 10'000);
    // The end of the stream is readable whatever the mark is.
    set(pair.server, SOL_SOCKET, SO_RCVLOWAT, 10);
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    CHECK((wait_for(pair.server, POLLIN) & POLLIN) != 0);
    CHECK(recv(pair.server, text, sizeof text, 0) == 3);
    pair.close();
}

void not_sent_low_water() {
    Pair pair = connected();
    non_blocking(pair.client);
    const std::string text(1 << 16, 'b');
    while (send(pair.client, text.data(), text.size(), 0) > 0) {
    }
    set(pair.client, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1);
    CHECK((ready(pair.client) & POLLOUT) == 0);
    pair.close();
}

void fast_open() {
    // As it comes, a system asks for cookies and gives none; where it can be told to, it gives
    // them.
    const int control = open("/proc/sys/net/ipv4/tcp_fastopen", O_RDWR);
    const bool serves = control >= 0;
    if (serves) {
        CHECK(write(control, "3", 1) == 1);
        close(control);
    }
    const int listener = stream();
    const sockaddr_in any = address4("127.0.0.1", 0);
    CHECK(bind(listener, general(any), sizeof any) == 0);
    set(listener, IPPROTO_TCP, TCP_FASTOPEN, 5);
    CHECK(get(listener, IPPROTO_TCP, TCP_FASTOPEN) == 5);
    CHECK(listen(listener, 5) == 0);
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    // The first one gets the cookie, the second one uses it.
    for (int i = 0; i < 3; i++) {
        const int client = stream();
        CHECK(sendto(client, "early", 5, MSG_FASTOPEN, general(to), sizeof to) == 5);
        const int server = accept(listener, nullptr, nullptr);
        CHECK(server >= 0);
        CHECK(receive_exactly(server, 5) == "early");
        send_all(server, "yes");
        CHECK(receive_exactly(client, 3) == "yes");
        CHECK(((info_of(client).tcpi_options & TCPI_OPT_SYN_DATA) != 0) == (serves && i > 0));
        CHECK_FAILS(sendto(client, "x", 1, MSG_FASTOPEN, general(to), sizeof to), EISCONN);
        close(client);
        CHECK(recv(server, &byte, 1, 0) == 0);
        close(server);
    }
    // With TCP_FASTOPEN_CONNECT connect(2) only remembers the address.
    const int client = stream();
    set(client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
    CHECK(connect(client, general(to), sizeof to) == 0);
    CHECK(send(client, "late", 4, 0) == 4);
    const int server = accept(listener, nullptr, nullptr);
    CHECK(receive_exactly(server, 4) == "late");
    close(client);
    close(server);
    // Without an address it is no use.
    const int bare = stream();
    CHECK_FAILS(send(bare, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL), EINVAL);
    close(bare);
    close(listener);
}

void keepalive() {
    Pair pair = connected();
    set(pair.client, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(pair.client, IPPROTO_TCP, TCP_KEEPIDLE, 1);
    set(pair.client, IPPROTO_TCP, TCP_KEEPINTVL, 1);
    const unsigned before = info_of(pair.server).tcpi_segs_in;
    for (int i = 0; i < 60'000 && info_of(pair.server).tcpi_segs_in == before; i++)
        usleep(1000);
    CHECK(info_of(pair.server).tcpi_segs_in > before); // a probe came
    CHECK(ready(pair.client) == POLLOUT && state_of(pair.client) == TCP_ESTABLISHED);
    pair.close();
}

void device_bound() {
    const int fd = stream();
    char name[IFNAMSIZ] = {};
    socklen_t length = sizeof name;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &length) == 0 && length == 0);
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "nonesuch", 9), ENODEV);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) == 0);
    length = sizeof name;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &length) == 0 && length == 3);
    CHECK(std::strcmp(name, "lo") == 0);
    length = 5;
    CHECK_FAILS(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &length), EINVAL);
    CHECK(get(fd, SOL_SOCKET, SO_BINDTOIFINDEX) == 1);
    const int listener = listening();
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    CHECK(connect(fd, general(to), sizeof to) == 0);
    close(fd);
    close(listener);
}

void refused_features() {
    const int fd = stream();
    int value = 0;
    socklen_t length = sizeof value;
    CHECK_FAILS(getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &value, &length), EINVAL);
    CHECK_FAILS(try_set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, 1), EPERM);
    CHECK_FAILS(try_set(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, 1), EINVAL);
    close(fd);
}

void user_timeout() {
    // A peer that takes nothing: when the time is over the connection is.
    Pair pair = connected();
    set(pair.client, IPPROTO_TCP, TCP_USER_TIMEOUT, 300);
    set(pair.server, SOL_SOCKET, SO_RCVBUF, 2304);
    non_blocking(pair.client);
    const std::string text(1 << 16, 'u');
    while (send(pair.client, text.data(), text.size(), 0) > 0) {
    }
    CHECK((wait_for(pair.client, 0) & (POLLERR | POLLHUP)) == (POLLERR | POLLHUP));
    CHECK_FAILS(recv(pair.client, &byte, 1, 0), ETIMEDOUT);
    pair.close();
}

} // namespace

int main(int argc, char** argv) {
    static constexpr Case cases[] = {
        {"defaults", defaults},
        {"numbers", numbers},
        {"lengths_and_errors", lengths_and_errors},
        {"congestion_control", congestion_control},
        {"inheritance", inheritance},
        {"information", information},
        {"corked", corked},
        {"deferred_accept", deferred_accept},
        {"urgent_data", urgent_data},
        {"low_water", low_water},
        {"not_sent_low_water", not_sent_low_water},
        {"fast_open", fast_open},
        {"keepalive", keepalive},
        {"device_bound", device_bound},
        {"refused_features", refused_features},
        {"user_timeout", user_timeout},
    };
    return run_cases(cases, argc, argv);
}
