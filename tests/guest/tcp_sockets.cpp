// tcp(7), socket(7), connect(2), listen(2), accept(2), shutdown(2), close(2): the life of TCP
// sockets and what poll(2) and epoll(7) say of it, over the loopback of a network namespace of its
// own.
#include <csignal>
#include <ctime>
#include <thread>

#include <sys/epoll.h>
#include <sys/time.h>
#include <sys/un.h>

#include "tests/guest/tcp_support.hpp"

using namespace tcp_tests;

namespace {

char byte;

// linux/in.h, which does not get on with netinet/in.h.
constexpr int IP_LOCAL_PORT_RANGE = 51;

void fresh_socket() {
    const int fd = stream();
    CHECK(ready(fd) == (POLLOUT | POLLHUP));
    CHECK(state_of(fd) == TCP_CLOSE);
    CHECK(port_of(fd) == 0);
    sockaddr_in name{};
    socklen_t length = sizeof name;
    CHECK_FAILS(getpeername(fd, general(name), &length), ENOTCONN);
    CHECK_FAILS(recv(fd, &byte, 1, 0), ENOTCONN);
    CHECK_FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_FAILS(shutdown(fd, SHUT_RDWR), ENOTCONN);
    CHECK_FAILS(accept(fd, nullptr, nullptr), EINVAL);
    int waiting = -1;
    CHECK(ioctl(fd, FIONREAD, &waiting) == 0 && waiting == 0);
    CHECK(get(fd, SOL_SOCKET, SO_ERROR) == 0);
    CHECK(get(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM);
    CHECK(get(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP);
    CHECK(get(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET);
    CHECK(get(fd, SOL_SOCKET, SO_ACCEPTCONN) == 0);
    close(fd);
    CHECK_FAILS(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
    CHECK_FAILS(socket(AF_INET, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
    CHECK_FAILS(socketpair(AF_INET, SOCK_STREAM, 0, &waiting), EOPNOTSUPP);
    const int named = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    CHECK(fcntl(named, F_GETFL) == (O_RDWR | O_NONBLOCK));
    CHECK(fcntl(named, F_GETFD) == FD_CLOEXEC);
    close(named);
}

void bad_addresses() {
    const int fd = stream();
    sockaddr_in to = address4("127.0.0.1", 9);
    CHECK_FAILS(connect(fd, general(to), 8), EINVAL);
    CHECK_FAILS(connect(fd, general(to), 1), EINVAL);
    CHECK_FAILS(connect(fd, reinterpret_cast<sockaddr*>(8), sizeof to), EFAULT);
    CHECK_FAILS(bind(fd, general(to), 8), EINVAL);
    to.sin_family = AF_UNIX;
    CHECK_FAILS(connect(fd, general(to), sizeof to), EAFNOSUPPORT);
    CHECK_FAILS(bind(fd, general(to), sizeof to), EAFNOSUPPORT);
    const sockaddr_in group = address4("224.0.0.1", 9);
    CHECK_FAILS(connect(fd, general(group), sizeof group), ENETUNREACH);
    const sockaddr_in everybody = address4("255.255.255.255", 9);
    CHECK_FAILS(connect(fd, general(everybody), sizeof everybody), ENETUNREACH);
    const sockaddr_in nowhere = address4("192.0.2.1", 9);
    CHECK_FAILS(connect(fd, general(nowhere), sizeof nowhere), ENETUNREACH);
    CHECK_FAILS(bind(fd, general(nowhere), sizeof nowhere), EADDRNOTAVAIL);
    // AF_UNSPEC of the any address stands for AF_INET, of another not.
    sockaddr_in unspecified = address4("0.0.0.0", 0);
    unspecified.sin_family = AF_UNSPEC;
    sockaddr_in wrong = address4("127.0.0.1", 0);
    wrong.sin_family = AF_UNSPEC;
    CHECK_FAILS(bind(fd, general(wrong), sizeof wrong), EAFNOSUPPORT);
    CHECK(bind(fd, general(unspecified), sizeof unspecified) == 0);
    CHECK(port_of(fd) != 0);
    CHECK_FAILS(bind(fd, general(unspecified), sizeof unspecified), EINVAL);
    close(fd);
    const int six = stream(AF_INET6);
    const sockaddr_in6 six_to = address6("::1", 9);
    CHECK_FAILS(connect(six, general(six_to), 20), EINVAL);
    const sockaddr_in four = address4("127.0.0.1", 9);
    sockaddr_in6 in_six{};
    std::memcpy(&in_six, &four, sizeof four);
    CHECK_FAILS(connect(six, general(in_six), sizeof in_six), EAFNOSUPPORT);
    CHECK_FAILS(bind(six, general(in_six), sizeof in_six), EAFNOSUPPORT);
    close(six);
}

void refused() {
    const int listener = listening();
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    close(listener);
    const int fd = stream();
    CHECK_FAILS(connect(fd, general(to), sizeof to), ECONNREFUSED);
    CHECK(get(fd, SOL_SOCKET, SO_ERROR) == 0); // connect(2) told it
    CHECK(ready(fd) == (POLLOUT | POLLHUP));
    CHECK_FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_FAILS(connect(fd, general(to), sizeof to), ECONNREFUSED); // may be tried again
    const int late = listening(to, AF_INET);
    CHECK(connect(fd, general(to), sizeof to) == 0);
    close(fd);
    close(late);
    // The same without waiting: poll(2) and SO_ERROR tell.
    const int quick = stream(AF_INET, SOCK_NONBLOCK);
    CHECK_FAILS(connect(quick, general(to), sizeof to), EINPROGRESS);
    CHECK((wait_for(quick, POLLOUT) & (POLLOUT | POLLERR | POLLHUP)) ==
          (POLLOUT | POLLERR | POLLHUP));
    CHECK(get(quick, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
    CHECK(get(quick, SOL_SOCKET, SO_ERROR) == 0);
    CHECK(ready(quick) == (POLLIN | POLLOUT | POLLHUP | POLLRDHUP));
    // A second connect(2) reports what SO_ERROR has taken as aborted.
    CHECK_FAILS(connect(quick, general(to), sizeof to), ECONNABORTED);
    CHECK_FAILS(connect(quick, general(to), sizeof to), EINPROGRESS);
    (void)wait_for(quick, POLLOUT);
    CHECK_FAILS(recv(quick, &byte, 1, 0), ECONNREFUSED);
    CHECK(recv(quick, &byte, 1, 0) == 0);
    close(quick);
}

void non_blocking_connect() {
    const int listener = listening();
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    const int fd = stream(AF_INET, SOCK_NONBLOCK);
    CHECK_FAILS(connect(fd, general(to), sizeof to), EINPROGRESS);
    CHECK(wait_for(fd, POLLOUT) == POLLOUT);
    CHECK(get(fd, SOL_SOCKET, SO_ERROR) == 0);
    CHECK(connect(fd, general(to), sizeof to) == 0); // tells of success once
    CHECK_FAILS(connect(fd, general(to), sizeof to), EISCONN);
    CHECK_FAILS(recv(fd, &byte, 1, 0), EAGAIN);
    sockaddr_in peer{};
    socklen_t length = sizeof peer;
    CHECK(getpeername(fd, general(peer), &length) == 0 && length == sizeof peer);
    CHECK(peer.sin_port == to.sin_port && peer.sin_addr.s_addr == to.sin_addr.s_addr);
    const int server = accept4(listener, general(peer), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(server >= 0 && ntohs(peer.sin_port) == port_of(fd));
    CHECK(fcntl(server, F_GETFL) == (O_RDWR | O_NONBLOCK));
    CHECK_FAILS(listen(fd, 1), EINVAL);
    CHECK_FAILS(bind(fd, general(to), sizeof to), EINVAL);
    close(fd);
    close(server);
    close(listener);
}

void backlog() {
    const int listener = listening(1);
    non_blocking(listener);
    CHECK(ready(listener) == 0);
    CHECK(state_of(listener) == TCP_LISTEN);
    CHECK(get(listener, SOL_SOCKET, SO_ACCEPTCONN) == 1);
    CHECK_FAILS(accept(listener, nullptr, nullptr), EAGAIN);
    CHECK_FAILS(recv(listener, &byte, 1, 0), ENOTCONN);
    CHECK_FAILS(send(listener, "x", 1, MSG_NOSIGNAL), EPIPE);
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    CHECK_FAILS(connect(listener, general(to), sizeof to), EISCONN);
    CHECK(listen(listener, 0) == 0); // one less
    CHECK(info_of(listener).tcpi_sacked == 0);
    CHECK(listen(listener, 1) == 0);
    CHECK(info_of(listener).tcpi_sacked == 1); // tcp(7) hides the backlog here
    // Backlog plus one wait to be accepted; who comes then hears nothing.
    int clients[3];
    for (int& one : clients)
        one = stream(AF_INET, SOCK_NONBLOCK);
    for (int i = 0; i < 2; i++) {
        CHECK_FAILS(connect(clients[i], general(to), sizeof to), EINPROGRESS);
        CHECK(wait_for(clients[i], POLLOUT) == POLLOUT);
    }
    CHECK(info_of(listener).tcpi_unacked == 2); // waiting to be accepted
    CHECK_FAILS(connect(clients[2], general(to), sizeof to), EINPROGRESS);
    CHECK_FAILS(connect(clients[2], general(to), sizeof to), EALREADY);
    CHECK(state_of(clients[2]) == TCP_SYN_SENT);
    CHECK(ready(clients[2]) == 0);
    CHECK_FAILS(send(clients[2], "x", 1, 0), EAGAIN);
    CHECK_FAILS(recv(clients[2], &byte, 1, 0), EAGAIN);
    sockaddr_in peer{};
    socklen_t length = sizeof peer;
    CHECK_FAILS(getpeername(clients[2], general(peer), &length), ENOTCONN);
    CHECK(port_of(clients[2]) != 0);
    CHECK(ready(listener) == POLLIN);
    const int first = accept(listener, general(peer), &length);
    CHECK(first >= 0 && ntohs(peer.sin_port) == port_of(clients[0]));
    CHECK((fcntl(first, F_GETFL) & O_NONBLOCK) == 0); // not inherited
    // The third one's SYN is sent again, and now there is room.
    CHECK(wait_for(clients[2], POLLOUT) == POLLOUT);
    const int second = accept(listener, nullptr, nullptr),
              third = accept(listener, nullptr, nullptr);
    CHECK(second >= 0 && third >= 0);
    for (const int fd : {first, second, third, clients[0], clients[1], clients[2], listener})
        close(fd);
}

void listener_closes() {
    const int listener = listening();
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    const int waiting = stream();
    CHECK(connect(waiting, general(to), sizeof to) == 0);
    // accept(2) of another thread ends with the listening, not with the descriptor.
    std::thread acceptor([&] {
        const int taken = accept(listener, nullptr, nullptr);
        CHECK(taken >= 0);
        close(taken);
        CHECK_FAILS(accept(listener, nullptr, nullptr), EINVAL);
    });
    usleep(20'000);
    CHECK(shutdown(listener, SHUT_WR) == 0); // nothing
    CHECK(ready(listener) == 0);
    const int unaccepted = [&] {
        CHECK(shutdown(listener, SHUT_RD) == 0);
        acceptor.join();
        CHECK(ready(listener) == (POLLOUT | POLLHUP) ||
              ready(listener) == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
        CHECK(state_of(listener) == TCP_CLOSE);
        const int fd = stream();
        CHECK_FAILS(connect(fd, general(to), sizeof to), ECONNREFUSED);
        // Again, on another port: one that bind(2) chose goes with the listening.
        CHECK(listen(listener, 5) == 0);
        const sockaddr_in now = address4("127.0.0.1", port_of(listener));
        CHECK(connect(fd, general(now), sizeof now) == 0);
        return fd;
    }();
    // Whom nobody accepted is reset when the listener goes.
    close(listener);
    CHECK((wait_for(unaccepted, POLLIN) & (POLLERR | POLLHUP)) == (POLLERR | POLLHUP));
    CHECK_FAILS(recv(unaccepted, &byte, 1, 0), ECONNRESET);
    close(unaccepted);
    close(waiting);
}

void gone_before_accept() {
    const int listener = listening();
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    // Closed in order: data and end of stream are there.
    int client = stream();
    CHECK(connect(client, general(to), sizeof to) == 0);
    const int port = port_of(client);
    CHECK(send(client, "bye", 3, 0) == 3);
    close(client);
    sockaddr_in peer{};
    socklen_t length = sizeof peer;
    int server = accept(listener, general(peer), &length);
    CHECK(server >= 0 && ntohs(peer.sin_port) == port);
    CHECK(receive_exactly(server, 3) == "bye");
    CHECK(recv(server, &byte, 1, 0) == 0);
    close(server);
    // Reset: it is accepted all the same, and its address is told.
    client = stream();
    CHECK(connect(client, general(to), sizeof to) == 0);
    const int gone = port_of(client);
    reset_on_close(client);
    close(client);
    length = sizeof peer;
    server = accept(listener, general(peer), &length);
    CHECK(server >= 0 && ntohs(peer.sin_port) == gone);
    CHECK_FAILS(getpeername(server, general(peer), &length), ENOTCONN);
    CHECK_FAILS(recv(server, &byte, 1, 0), ECONNRESET);
    CHECK(recv(server, &byte, 1, 0) == 0);
    close(server);
    close(listener);
}

void half_close() {
    Pair pair = connected();
    CHECK(ready(pair.client) == POLLOUT);
    CHECK(send(pair.client, "last", 4, 0) == 4);
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    CHECK(ready(pair.client) == POLLOUT); // an error would be told at once
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    CHECK_FAILS(send(pair.client, "x", 1, MSG_NOSIGNAL), EPIPE);
    reach_state(pair.client, TCP_FIN_WAIT2);
    CHECK(state_of(pair.server) == TCP_CLOSE_WAIT);
    CHECK(ready(pair.server) == (POLLIN | POLLOUT | POLLRDHUP));
    CHECK(receive_exactly(pair.server, 4) == "last");
    CHECK(recv(pair.server, &byte, 1, 0) == 0);
    CHECK(recv(pair.server, &byte, 1, 0) == 0); // and again
    // The other direction is open still.
    send_all(pair.server, "answer");
    CHECK(receive_exactly(pair.client, 6) == "answer");
    CHECK_FAILS(recv(pair.client, &byte, 1, MSG_DONTWAIT), EAGAIN);
    CHECK(shutdown(pair.server, SHUT_WR) == 0);
    CHECK(wait_for(pair.client, POLLIN) == (POLLIN | POLLHUP));
    CHECK(ready(pair.client) == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
    CHECK(ready(pair.server) == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
    CHECK(recv(pair.client, &byte, 1, 0) == 0);
    reach_state(pair.server, TCP_CLOSE);
    CHECK(state_of(pair.client) == TCP_CLOSE); // TIME-WAIT is not the socket's any more
    CHECK_FAILS(shutdown(pair.server, SHUT_WR), ENOTCONN);
    sockaddr_in peer{};
    socklen_t length = sizeof peer;
    CHECK_FAILS(getpeername(pair.client, general(peer), &length), ENOTCONN);
    CHECK(port_of(pair.client) != 0);
    pair.close();
}

void read_shut() {
    Pair pair = connected();
    CHECK(shutdown(pair.server, SHUT_RD) == 0);
    CHECK(recv(pair.server, &byte, 1, 0) == 0);
    CHECK(ready(pair.server) == (POLLIN | POLLOUT | POLLRDHUP));
    // What comes is read nevertheless: Linux tells nobody.
    CHECK(send(pair.client, "abc", 3, 0) == 3);
    usleep(1000);
    CHECK(receive_exactly(pair.server, 3) == "abc");
    CHECK(recv(pair.server, &byte, 1, 0) == 0);
    CHECK(shutdown(pair.server, SHUT_WR) == 0);
    CHECK(ready(pair.server) == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
    CHECK_FAILS(shutdown(pair.server, 3), EINVAL);
    pair.close();
}

void close_with_unread_data() {
    Pair pair = connected();
    CHECK(send(pair.client, "unread", 6, 0) == 6);
    (void)wait_for(pair.server, POLLIN);
    close(pair.server);
    CHECK((wait_for(pair.client, POLLIN) & (POLLERR | POLLHUP)) == (POLLERR | POLLHUP));
    CHECK(ready(pair.client) == (POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP));
    CHECK(get(pair.client, SOL_SOCKET, SO_ERROR) == ECONNRESET);
    CHECK(recv(pair.client, &byte, 1, 0) == 0);
    CHECK_FAILS(send(pair.client, "x", 1, MSG_NOSIGNAL), EPIPE);
    close(pair.client);
    // Half of it read makes no difference.
    pair = connected();
    CHECK(send(pair.client, "unread", 6, 0) == 6);
    CHECK(receive_exactly(pair.server, 3) == "unr");
    close(pair.server);
    CHECK_FAILS(recv(pair.client, &byte, 1, 0), ECONNRESET);
    close(pair.client);
    // All of it does.
    pair = connected();
    CHECK(send(pair.client, "read", 4, 0) == 4);
    CHECK(receive_exactly(pair.server, 4) == "read");
    close(pair.server);
    CHECK(recv(pair.client, &byte, 1, 0) == 0);
    CHECK(state_of(pair.client) == TCP_CLOSE_WAIT);
    // Whoever sends to one that is gone is told with the second try.
    CHECK(send(pair.client, "x", 1, 0) == 1);
    (void)wait_for(pair.client, POLLERR | POLLHUP);
    CHECK(ready(pair.client) == (POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP));
    CHECK_FAILS(send(pair.client, "x", 1, MSG_NOSIGNAL), EPIPE);
    close(pair.client);
}

void unread_data_survive_a_reset() {
    Pair pair = connected();
    send_all(pair.server, "kept?");
    (void)wait_for(pair.client, POLLIN);
    reset_on_close(pair.server);
    close(pair.server);
    (void)wait_for(pair.client, POLLHUP);
    // Linux gives what has come before the error.
    char text[8];
    CHECK(recv(pair.client, text, sizeof text, 0) == 5);
    CHECK_FAILS(recv(pair.client, text, sizeof text, 0), ECONNRESET);
    CHECK(recv(pair.client, text, sizeof text, 0) == 0);
    close(pair.client);
}

void broken_pipe() {
    Pair pair = connected();
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        (void)!write(pair.client, "x", 1);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
    signal(SIGPIPE, SIG_IGN);
    CHECK_FAILS(write(pair.client, "x", 1), EPIPE);
    CHECK(send(pair.client, "", 0, 0) == -1 && errno == EPIPE);
    pair.close();
}

void lingering() {
    // On, with no time: a reset.
    Pair pair = connected();
    reset_on_close(pair.client);
    linger seen{};
    socklen_t length = sizeof seen;
    CHECK(getsockopt(pair.client, SOL_SOCKET, SO_LINGER, &seen, &length) == 0);
    CHECK(length == sizeof seen && seen.l_onoff == 1 && seen.l_linger == 0);
    close(pair.client);
    CHECK_FAILS(recv(pair.server, &byte, 1, 0), ECONNRESET);
    close(pair.server);
    // On, with time: close(2) waits until the other side has everything.
    pair = connected();
    const linger patient{1, 30};
    CHECK(setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &patient, sizeof patient) == 0);
    set(pair.server, SOL_SOCKET, SO_RCVBUF, 4096);
    const std::string text = pattern(60'000);
    non_blocking(pair.client);
    size_t sent = 0;
    for (;;) {
        const ssize_t now = send(pair.client, text.data() + sent, text.size() - sent, 0);
        if (now <= 0)
            break;
        sent += static_cast<size_t>(now);
        if (sent == text.size())
            break;
    }
    std::thread reader([&] {
        usleep(20'000);
        CHECK(receive_exactly(pair.server, sent) == text.substr(0, sent));
    });
    CHECK(fcntl(pair.client, F_SETFL, 0) == 0);
    close(pair.client);
    reader.join();
    CHECK(recv(pair.server, &byte, 1, 0) == 0);
    close(pair.server);
    const int fd = stream();
    CHECK_FAILS(setsockopt(fd, SOL_SOCKET, SO_LINGER, &patient, 4), EINVAL);
    close(fd);
}

// What a process leaves behind does not keep it from ending, whichever way it ends.
void lingering_at_exit() {
    for (const bool killed : {false, true}) {
        const Pair pair = connected();
        const linger patient{1, 30};
        CHECK(setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &patient, sizeof patient) == 0);
        set(pair.server, SOL_SOCKET, SO_RCVBUF, 4096);
        non_blocking(pair.client);
        const std::string text = pattern(60'000);
        while (send(pair.client, text.data(), text.size(), 0) > 0) {
        }
        int gate[2];
        CHECK(pipe(gate) == 0);
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(read(gate[0], &byte, 1) == 1);
            _exit(0);
        }
        close(pair.client); // the child has the last descriptor
        const time_t before = time(nullptr);
        if (killed)
            CHECK(kill(child, SIGKILL) == 0);
        else
            CHECK(write(gate[1], "x", 1) == 1);
        CHECK(waitpid(child, nullptr, 0) == child);
        CHECK(time(nullptr) - before < 15);
        for (const int fd : {pair.server, gate[0], gate[1]})
            close(fd);
    }
}

void disconnect() {
    const int listener = listening();
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    sockaddr nothing{};
    nothing.sa_family = AF_UNSPEC;
    Pair pair = connected_to(listener);
    CHECK(connect(pair.client, &nothing, sizeof nothing) == 0);
    CHECK(ready(pair.client) == (POLLOUT | POLLHUP | POLLERR));
    CHECK(get(pair.client, SOL_SOCKET, SO_ERROR) == ECONNRESET);
    CHECK(ready(pair.client) == (POLLOUT | POLLHUP));
    CHECK_FAILS(recv(pair.server, &byte, 1, 0), ECONNRESET);
    close(pair.server);
    CHECK_FAILS(recv(pair.client, &byte, 1, 0), ENOTCONN);
    // It can be connected again, and works.
    CHECK(connect(pair.client, general(to), sizeof to) == 0);
    pair.server = accept(listener, nullptr, nullptr);
    send_all(pair.client, "again");
    CHECK(receive_exactly(pair.server, 5) == "again");
    send_all(pair.server, "and back");
    CHECK(receive_exactly(pair.client, 8) == "and back");
    pair.close();
    // A port that the program chose stays.
    const int fd = stream();
    const sockaddr_in own = address4("127.0.0.1", 9009);
    CHECK(bind(fd, general(own), sizeof own) == 0);
    CHECK(connect(fd, general(to), sizeof to) == 0);
    CHECK(port_of(fd) == 9009);
    CHECK(connect(fd, &nothing, sizeof nothing) == 0);
    CHECK(port_of(fd) == 9009);
    const int rival = stream();
    CHECK_FAILS(bind(rival, general(own), sizeof own), EADDRINUSE);
    close(rival);
    close(accept(listener, nullptr, nullptr));
    close(fd);
    // A listener stops listening.
    CHECK(connect(listener, &nothing, sizeof nothing) == 0);
    CHECK(get(listener, SOL_SOCKET, SO_ACCEPTCONN) == 0);
    const int late = stream();
    CHECK_FAILS(connect(late, general(to), sizeof to), ECONNREFUSED);
    close(late);
    close(listener);
}

// A connection attempt that is given up leaves nothing behind: the next one is as good as any.
void shut_while_connecting() {
    for (const int how : {SHUT_RD, SHUT_WR, SHUT_RDWR}) {
        const int full = listening(0);
        const sockaddr_in to = address4("127.0.0.1", port_of(full));
        const int first = stream();
        CHECK(connect(first, general(to), sizeof to) == 0);
        // There is no room for more: the SYN goes unanswered.
        const int client = stream(AF_INET, SOCK_NONBLOCK);
        CHECK_FAILS(connect(client, general(to), sizeof to), EINPROGRESS);
        CHECK(state_of(client) == TCP_SYN_SENT);
        CHECK(shutdown(client, how) == 0);
        CHECK(state_of(client) == TCP_CLOSE);
        CHECK(get(client, SOL_SOCKET, SO_ERROR) == ECONNRESET);
        const int other = listening();
        const sockaddr_in there = address4("127.0.0.1", port_of(other));
        CHECK_FAILS(connect(client, general(there), sizeof there), EINPROGRESS);
        const int server = accept(other, nullptr, nullptr);
        CHECK(server >= 0);
        CHECK(wait_for(client, POLLOUT) == POLLOUT);
        CHECK(state_of(client) == TCP_ESTABLISHED && state_of(server) == TCP_ESTABLISHED);
        CHECK_FAILS(recv(client, &byte, 1, 0), EAGAIN);
        CHECK(send(client, "x", 1, 0) == 1);
        CHECK(recv(server, &byte, 1, 0) == 1 && byte == 'x');
        for (const int fd : {full, first, client, other, server})
            close(fd);
    }
}

// Nor does one that was refused: the port that was bound is there for any address again, and for
// anybody who knocks.
void listening_after_a_refusal() {
    const int other = listening();
    const sockaddr_in nowhere = address4("127.0.0.1", port_of(other));
    close(other);
    const int spare = listening();
    const sockaddr_in any = address4("0.0.0.0", port_of(spare));
    close(spare);
    for (const bool dissolved : {false, true}) {
        const int fd = stream();
        CHECK(bind(fd, general(any), sizeof any) == 0);
        if (dissolved) {
            const int target = listening();
            const sockaddr_in to = address4("127.0.0.1", port_of(target));
            CHECK(connect(fd, general(to), sizeof to) == 0);
            sockaddr nobody{};
            nobody.sa_family = AF_UNSPEC;
            CHECK(connect(fd, &nobody, sizeof nobody) == 0);
            close(target);
        } else {
            CHECK_FAILS(connect(fd, general(nowhere), sizeof nowhere), ECONNREFUSED);
        }
        sockaddr_in own{};
        socklen_t length = sizeof own;
        CHECK(getsockname(fd, general(own), &length) == 0);
        CHECK(own.sin_addr.s_addr == htonl(INADDR_ANY) && own.sin_port == any.sin_port);
        CHECK(listen(fd, 5) == 0);
        const int client = stream();
        const sockaddr_in to = address4("127.0.0.1", ntohs(any.sin_port));
        CHECK(connect(client, general(to), sizeof to) == 0);
        reset_on_close(client);
        close(client);
        close(fd);
    }
}

void addresses_in_use() {
    const int listener = listening();
    const int port = port_of(listener);
    const sockaddr_in same = address4("127.0.0.1", port), any = address4("0.0.0.0", port),
                      other = address4("127.0.0.2", port);
    int fd = stream();
    CHECK_FAILS(bind(fd, general(same), sizeof same), EADDRINUSE);
    CHECK_FAILS(bind(fd, general(any), sizeof any), EADDRINUSE);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CHECK_FAILS(bind(fd, general(same), sizeof same), EADDRINUSE); // it listens
    CHECK(bind(fd, general(other), sizeof other) == 0);
    CHECK(listen(fd, 1) == 0);
    close(fd);
    // Connections that a listener left behind: SO_REUSEADDR lets a new one in.
    Pair pair = connected_to(listener);
    close(listener);
    fd = stream();
    CHECK_FAILS(bind(fd, general(same), sizeof same), EADDRINUSE);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CHECK(bind(fd, general(same), sizeof same) == 0);
    CHECK(listen(fd, 1) == 0);
    close(fd);
    // In TIME-WAIT likewise.
    close(pair.server);
    CHECK(recv(pair.client, &byte, 1, 0) == 0);
    close(pair.client);
    usleep(10'000);
    fd = stream();
    CHECK_FAILS(bind(fd, general(same), sizeof same), EADDRINUSE);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CHECK(bind(fd, general(same), sizeof same) == 0);
    close(fd);
    // Two that do not listen share with SO_REUSEADDR; one can listen, then the other cannot.
    const int one = stream(), two = stream();
    set(one, SOL_SOCKET, SO_REUSEADDR, 1);
    set(two, SOL_SOCKET, SO_REUSEADDR, 1);
    CHECK(bind(one, general(same), sizeof same) == 0);
    CHECK(bind(two, general(same), sizeof same) == 0);
    CHECK(listen(one, 1) == 0);
    CHECK_FAILS(listen(two, 1), EADDRINUSE);
    close(one);
    CHECK(listen(two, 1) == 0);
    close(two);
    // The option may come after bind(2).
    const int early = stream(), late = stream();
    const sockaddr_in another = address4("127.0.0.1", 9010);
    CHECK(bind(early, general(another), sizeof another) == 0);
    set(late, SOL_SOCKET, SO_REUSEADDR, 1);
    CHECK_FAILS(bind(late, general(another), sizeof another), EADDRINUSE);
    set(early, SOL_SOCKET, SO_REUSEADDR, 1);
    CHECK(bind(late, general(another), sizeof another) == 0);
    close(early);
    close(late);
}

void shared_ports() {
    const int first = stream(), second = stream();
    set(first, SOL_SOCKET, SO_REUSEPORT, 1);
    set(second, SOL_SOCKET, SO_REUSEPORT, 1);
    sockaddr_in at = address4("127.0.0.1", 0);
    CHECK(bind(first, general(at), sizeof at) == 0);
    at.sin_port = htons(static_cast<uint16_t>(port_of(first)));
    CHECK(bind(second, general(at), sizeof at) == 0);
    CHECK(listen(first, 64) == 0);
    CHECK(listen(second, 64) == 0);
    const int third = stream();
    CHECK_FAILS(bind(third, general(at), sizeof at), EADDRINUSE);
    close(third);
    // Connections are shared out among both.
    std::vector<int> clients;
    for (int i = 0; i < 40; i++) {
        clients.push_back(stream());
        CHECK(connect(clients.back(), general(at), sizeof at) == 0);
    }
    non_blocking(first);
    non_blocking(second);
    int counts[2] = {};
    for (int which = 0; which < 2; which++)
        for (int fd; (fd = accept(which == 0 ? first : second, nullptr, nullptr)) >= 0;
             counts[which]++)
            clients.push_back(fd);
    CHECK(counts[0] + counts[1] == 40 && counts[0] > 0 && counts[1] > 0);
    for (const int fd : clients)
        close(fd);
    // All go to the one that is left.
    close(first);
    const int fd = stream();
    CHECK(connect(fd, general(at), sizeof at) == 0);
    CHECK(wait_for(second, POLLIN) == POLLIN);
    close(fd);
    close(second);
}

void both_versions() {
    // A socket of AF_INET6 serves IPv4, too, and shows its addresses as mapped ones.
    const int listener = listening(address6("::", 0), AF_INET6);
    const int port = port_of(listener);
    CHECK(get(listener, IPPROTO_IPV6, IPV6_V6ONLY) == 0);
    CHECK_FAILS(try_set(listener, IPPROTO_IPV6, IPV6_V6ONLY, 1), EINVAL); // too late
    int client = stream();
    sockaddr_in to4 = address4("127.0.0.1", port);
    CHECK(connect(client, general(to4), sizeof to4) == 0);
    sockaddr_in6 peer{};
    socklen_t length = sizeof peer;
    int server = accept(listener, general(peer), &length);
    CHECK(server >= 0 && length == sizeof peer && peer.sin6_family == AF_INET6);
    CHECK(IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr));
    CHECK(getsockname(server, general(peer), &length) == 0);
    const sockaddr_in6 mapped = address6("::ffff:127.0.0.1", port);
    CHECK(std::memcmp(&peer.sin6_addr, &mapped.sin6_addr, 16) == 0);
    close(client);
    close(server);
    client = stream(AF_INET6);
    sockaddr_in6 to6 = address6("::1", port);
    CHECK(connect(client, general(to6), sizeof to6) == 0);
    server = accept(listener, general(peer), &length);
    CHECK(std::memcmp(&peer.sin6_addr, &to6.sin6_addr, 16) == 0);
    send_all(client, "six");
    CHECK(receive_exactly(server, 3) == "six");
    close(client);
    close(server);
    // An AF_INET6 client to a mapped address speaks IPv4; with IPV6_V6ONLY it cannot.
    client = stream(AF_INET6);
    CHECK(connect(client, general(mapped), sizeof mapped) == 0);
    server = accept(listener, nullptr, nullptr);
    CHECK(getsockname(client, general(peer), &length) == 0);
    CHECK(IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr));
    close(client);
    close(server);
    client = stream(AF_INET6);
    set(client, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    CHECK_FAILS(connect(client, general(mapped), sizeof mapped), ENETUNREACH);
    close(client);
    // The port is taken in both versions, unless one of them wants IPv6 only.
    const int four = stream();
    to4 = address4("0.0.0.0", port);
    CHECK_FAILS(bind(four, general(to4), sizeof to4), EADDRINUSE);
    close(listener);
    const int only = stream(AF_INET6);
    set(only, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    const sockaddr_in6 any6 = address6("::", port);
    CHECK(bind(only, general(any6), sizeof any6) == 0);
    CHECK(bind(four, general(to4), sizeof to4) == 0);
    CHECK(listen(only, 1) == 0 && listen(four, 1) == 0);
    client = stream();
    to4 = address4("127.0.0.1", port);
    CHECK(connect(client, general(to4), sizeof to4) == 0);
    CHECK(ready(only) == 0 && wait_for(four, POLLIN) == POLLIN);
    close(client);
    close(only);
    close(four);
}

void to_itself() {
    // Simultaneous open: a socket that connects to its own port is its own peer.
    const int fd = stream();
    sockaddr_in at = address4("127.0.0.1", 0);
    CHECK(bind(fd, general(at), sizeof at) == 0);
    at.sin_port = htons(static_cast<uint16_t>(port_of(fd)));
    CHECK(connect(fd, general(at), sizeof at) == 0);
    CHECK(state_of(fd) == TCP_ESTABLISHED);
    send_all(fd, "me");
    CHECK(receive_exactly(fd, 2) == "me");
    CHECK(shutdown(fd, SHUT_WR) == 0);
    CHECK(recv(fd, &byte, 1, 0) == 0);
    close(fd);
    // Port 0 is nobody's.
    const int other = stream();
    const sockaddr_in zero = address4("127.0.0.1", 0);
    CHECK_FAILS(connect(other, general(zero), sizeof zero), ECONNREFUSED);
    close(other);
    // The any address stands for this machine.
    const int listener = listening(address4("0.0.0.0", 0), AF_INET);
    const sockaddr_in any = address4("0.0.0.0", port_of(listener));
    const int client = stream();
    CHECK(connect(client, general(any), sizeof any) == 0);
    sockaddr_in peer{};
    socklen_t length = sizeof peer;
    CHECK(getpeername(client, general(peer), &length) == 0);
    CHECK(peer.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    close(client);
    close(listener);
}

int taken(int epoll, epoll_event (&events)[4], int timeout = 0) {
    return epoll_wait(epoll, events, 4, timeout);
}

void edge_triggered() {
    Pair pair = connected();
    const int epoll = epoll_create1(0);
    epoll_event wanted{};
    wanted.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    epoll_event events[4];
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, pair.server, &wanted) == 0);
    CHECK(taken(epoll, events) == 1 && events[0].events == EPOLLOUT);
    CHECK(taken(epoll, events) == 0);
    // Each arrival is an edge, even with data unread.
    for (int i = 0; i < 3; i++) {
        CHECK(send(pair.client, "x", 1, 0) == 1);
        CHECK(taken(epoll, events, 10'000) == 1 && events[0].events == (EPOLLIN | EPOLLOUT));
        CHECK(taken(epoll, events) == 0);
    }
    CHECK(receive_exactly(pair.server, 3) == "xxx");
    CHECK(taken(epoll, events) == 0);
    // Room in the send buffer is an edge only after there was none.
    non_blocking(pair.server);
    const std::string text(65536, 'y');
    while (send(pair.server, text.data(), text.size(), 0) > 0) {
    }
    CHECK(errno == EAGAIN);
    (void)taken(epoll, events);
    CHECK(ready(pair.server) == 0);
    char drain[65536];
    non_blocking(pair.client);
    bool edge = false;
    for (int i = 0; i < 10'000 && !edge; i++) {
        while (recv(pair.client, drain, sizeof drain, 0) > 0) {
        }
        edge = taken(epoll, events, 10) == 1 && (events[0].events & EPOLLOUT) != 0;
    }
    CHECK(edge);
    while (recv(pair.client, drain, sizeof drain, 0) > 0) {
    }
    (void)taken(epoll, events);
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    CHECK(taken(epoll, events, 10'000) == 1);
    CHECK(events[0].events == (EPOLLIN | EPOLLOUT | EPOLLRDHUP));
    CHECK(taken(epoll, events) == 0);
    // With EPOLLONESHOT it is quiet until asked again.
    wanted.events = EPOLLIN | EPOLLONESHOT;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, pair.server, &wanted) == 0);
    CHECK(taken(epoll, events) == 1 && taken(epoll, events) == 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, pair.server, &wanted) == 0);
    CHECK(taken(epoll, events) == 1);
    close(epoll);
    pair.close();
    // A listener: an edge per connection.
    const int listener = listening();
    const int watch = epoll_create1(0);
    wanted.events = EPOLLIN | EPOLLET;
    CHECK(epoll_ctl(watch, EPOLL_CTL_ADD, listener, &wanted) == 0);
    CHECK(taken(watch, events) == 0);
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    for (int i = 0; i < 2; i++) {
        const int client = stream();
        CHECK(connect(client, general(to), sizeof to) == 0);
        CHECK(taken(watch, events, 10'000) == 1 && events[0].events == EPOLLIN);
        CHECK(taken(watch, events) == 0);
        close(client);
    }
    close(watch);
    close(listener);
}

void shared_descriptors() {
    Pair pair = connected();
    // Closing one of several is not the end.
    const int copy = dup(pair.client);
    close(pair.client);
    CHECK(ready(pair.server) == POLLOUT);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(pair.server);
        send_all(copy, "child");
        _exit(0);
    }
    CHECK(receive_exactly(pair.server, 5) == "child");
    CHECK(waitpid(child, nullptr, 0) == child);
    CHECK(ready(pair.server) == POLLOUT); // the parent has it still
    // By a Unix socket, on the way there it is alive.
    int unix_pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, unix_pair) == 0);
    iovec one{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &one;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &copy, sizeof copy);
    CHECK(sendmsg(unix_pair[0], &message, 0) == 1);
    close(copy);
    CHECK(ready(pair.server) == POLLOUT);
    CHECK(recvmsg(unix_pair[1], &message, 0) == 1);
    int arrived = -1;
    std::memcpy(&arrived, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof arrived);
    send_all(arrived, "moved");
    CHECK(receive_exactly(pair.server, 5) == "moved");
    close(arrived);
    CHECK(recv(pair.server, &byte, 1, 0) == 0);
    close(pair.server);
    // One that lies unread in a Unix socket ends with it.
    pair = connected();
    std::memcpy(CMSG_DATA(header), &pair.client, sizeof pair.client);
    message.msg_controllen = sizeof control;
    CHECK(sendmsg(unix_pair[0], &message, 0) == 1);
    close(pair.client);
    close(unix_pair[0]);
    close(unix_pair[1]);
    CHECK(recv(pair.server, &byte, 1, 0) == 0);
    close(pair.server);
}

void on_alarm(int) {}

void interrupted_calls() {
    struct sigaction action {};
    action.sa_handler = on_alarm;
    CHECK(sigaction(SIGALRM, &action, nullptr) == 0); // without SA_RESTART
    const int listener = listening();
    const itimerval soon{{0, 30'000}, {0, 30'000}},
        never{}; // again and again: none comes too early
    CHECK(setitimer(ITIMER_REAL, &soon, nullptr) == 0);
    CHECK_FAILS(accept(listener, nullptr, nullptr), EINTR);
    CHECK(setitimer(ITIMER_REAL, &never, nullptr) == 0);
    Pair pair = connected_to(listener);
    CHECK(setitimer(ITIMER_REAL, &soon, nullptr) == 0);
    CHECK_FAILS(recv(pair.client, &byte, 1, 0), EINTR);
    CHECK(setitimer(ITIMER_REAL, &never, nullptr) == 0);
    const timeval limit{0, 30'000};
    CHECK(setsockopt(pair.client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    CHECK_FAILS(recv(pair.client, &byte, 1, 0), EAGAIN);
    CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    CHECK_FAILS(accept(listener, nullptr, nullptr), EAGAIN);
    CHECK(setsockopt(pair.client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
    const std::string text(1 << 20, 'z');
    ssize_t sent = 0;
    while ((sent = send(pair.client, text.data(), text.size(), 0)) > 0) {
    }
    CHECK(sent == -1 && errno == EAGAIN);
    pair.close();
    close(listener);
    // connect(2) under a time limit: it goes on by itself.
    const int full = listening(0);
    const sockaddr_in to = address4("127.0.0.1", port_of(full));
    const int first = stream();
    CHECK(connect(first, general(to), sizeof to) == 0);
    const int second = stream();
    CHECK(setsockopt(second, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
    CHECK_FAILS(connect(second, general(to), sizeof to), EINPROGRESS);
    CHECK_FAILS(connect(second, general(to), sizeof to), EALREADY);
    CHECK(state_of(second) == TCP_SYN_SENT);
    CHECK(shutdown(second, SHUT_WR) == 0);
    CHECK(state_of(second) == TCP_CLOSE);
    close(first);
    close(second);
    close(full);
}

void ports_run_out() {
    const auto limited = [] {
        const int fd = stream();
        set(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, 40009 << 16 | 40000);
        return fd;
    };
    const int one = listening(address4("127.0.0.1", 9001), AF_INET);
    const int two = listening(address4("127.0.0.1", 9002), AF_INET);
    const sockaddr_in to = address4("127.0.0.1", 9001), other = address4("127.0.0.1", 9002);
    std::vector<int> clients;
    for (int i = 0; i < 10; i++) {
        clients.push_back(limited());
        CHECK(connect(clients.back(), general(to), sizeof to) == 0);
        close(accept(one, nullptr, nullptr));
    }
    const int late = limited();
    CHECK_FAILS(connect(late, general(to), sizeof to), EADDRNOTAVAIL);
    // To another peer the same ports serve again.
    CHECK(connect(late, general(other), sizeof other) == 0);
    const int unbound = limited();
    const sockaddr_in any = address4("127.0.0.1", 0);
    CHECK_FAILS(bind(unbound, general(any), sizeof any), EADDRINUSE);
    for (const int fd : clients)
        close(fd);
    for (const int fd : {late, unbound, one, two})
        close(fd);
}

} // namespace

int main(int argc, char** argv) {
    static constexpr Case cases[] = {
        {"fresh_socket", fresh_socket},
        {"bad_addresses", bad_addresses},
        {"refused", refused},
        {"non_blocking_connect", non_blocking_connect},
        {"backlog", backlog},
        {"listener_closes", listener_closes},
        {"gone_before_accept", gone_before_accept},
        {"half_close", half_close},
        {"read_shut", read_shut},
        {"close_with_unread_data", close_with_unread_data},
        {"unread_data_survive_a_reset", unread_data_survive_a_reset},
        {"broken_pipe", broken_pipe},
        {"lingering", lingering},
        {"lingering_at_exit", lingering_at_exit},
        {"disconnect", disconnect},
        {"shut_while_connecting", shut_while_connecting},
        {"listening_after_a_refusal", listening_after_a_refusal},
        {"addresses_in_use", addresses_in_use},
        {"shared_ports", shared_ports},
        {"both_versions", both_versions},
        {"to_itself", to_itself},
        {"edge_triggered", edge_triggered},
        {"shared_descriptors", shared_descriptors},
        {"interrupted_calls", interrupted_calls},
        {"ports_run_out", ports_run_out},
    };
    return run_cases(cases, argc, argv);
}
