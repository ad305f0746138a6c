// AF_UNIX as programs see it: states, errors, boundaries, readiness. unix(7).
#include <csignal>
#include <cstddef>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

struct Pair {
    int a, b;
    explicit Pair(int type) {
        int fds[2];
        CHECK(socketpair(AF_UNIX, type, 0, fds) == 0);
        a = fds[0];
        b = fds[1];
    }
    ~Pair() {
        close(a);
        close(b);
    }
};

struct Name {
    sockaddr_un address{};
    socklen_t length;
    explicit Name(const std::string& text) {
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, text.data(), text.size());
        length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + text.size() +
                                        (text[0] == '\0' ? 0 : 1));
    }
    const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

std::string directory;

std::string abstract(const char* text) {
    return std::string("\0joey-test-", 11) + std::to_string(getpid()) + text;
}

short ready(int fd, short events = POLLIN | POLLOUT | POLLRDHUP | POLLPRI) {
    pollfd request{fd, events, 0};
    CHECK(poll(&request, 1, 0) >= 0);
    return request.revents;
}

int bound(int type, const Name& name) {
    const int fd = socket(AF_UNIX, type, 0);
    CHECK(fd >= 0);
    CHECK(bind(fd, name.get(), name.length) == 0);
    return fd;
}

int option(int fd, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0);
    CHECK(length == sizeof value);
    return value;
}

void creation() {
    CHECK_FAILS(socket(AF_UNIX, 99, 0), EINVAL);
    CHECK_FAILS(socket(AF_UNIX, SOCK_RDM, 0), ESOCKTNOSUPPORT);
    CHECK_FAILS(socket(AF_UNIX, SOCK_STREAM, 77), EPROTONOSUPPORT);
    CHECK_FAILS(socket(4000, SOCK_STREAM, 0), EAFNOSUPPORT);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(fd, F_GETFL) == (O_RDWR | O_NONBLOCK));
    CHECK(option(fd, SO_TYPE) == SOCK_STREAM);
    CHECK(option(fd, SO_DOMAIN) == AF_UNIX);
    CHECK(option(fd, SO_PROTOCOL) == 0);
    CHECK(option(fd, SO_ERROR) == 0);
    CHECK(option(fd, SO_ACCEPTCONN) == 0);
    char byte = 0;
    CHECK_FAILS(read(fd, &byte, 1), EINVAL);
    CHECK_FAILS(send(fd, &byte, 1, 0), ENOTCONN);
    CHECK_FAILS(lseek(fd, 0, SEEK_CUR), ESPIPE);
    CHECK_FAILS(listen(fd, 1), EINVAL);
    CHECK_FAILS(accept(fd, nullptr, nullptr), EINVAL);
    CHECK(ready(fd) == (POLLOUT | POLLHUP));
    sockaddr_un name;
    socklen_t length = sizeof name;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) == 0);
    CHECK(length == sizeof(sa_family_t));
    CHECK_FAILS(getpeername(fd, reinterpret_cast<sockaddr*>(&name), &length), ENOTCONN);
    CHECK_FAILS(shutdown(fd, 9), EINVAL);
    CHECK_FAILS(send(0x7fff, &byte, 1, 0), EBADF);
    struct stat status;
    CHECK(fstat(fd, &status) == 0);
    CHECK(S_ISSOCK(status.st_mode));
    char link[64];
    const ssize_t bytes =
        readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), link, sizeof link);
    CHECK(bytes > 8 && std::memcmp(link, "socket:[", 8) == 0);
    close(fd);
    int pipe_ends[2];
    CHECK(pipe(pipe_ends) == 0);
    CHECK_FAILS(listen(pipe_ends[0], 1), ENOTSOCK);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

void stream_pair() {
    Pair pair(SOCK_STREAM);
    char buffer[64];
    CHECK(ready(pair.a) == POLLOUT);
    CHECK(write(pair.a, "hello ", 6) == 6);
    CHECK(write(pair.a, "world", 5) == 5);
    CHECK(ready(pair.b) == (POLLIN | POLLOUT));
    int queued = 0;
    CHECK(ioctl(pair.b, FIONREAD, &queued) == 0);
    CHECK(queued == 11);
    CHECK(recv(pair.b, buffer, 3, MSG_PEEK) == 3);
    CHECK(recv(pair.b, buffer, sizeof buffer, MSG_PEEK) == 11);
    CHECK(recv(pair.b, buffer, 4, 0) == 4);
    CHECK(std::memcmp(buffer, "hell", 4) == 0);
    CHECK(read(pair.b, buffer, sizeof buffer) == 7);
    CHECK(std::memcmp(buffer, "o world", 7) == 0);
    CHECK_FAILS(recv(pair.b, buffer, 1, MSG_DONTWAIT), EAGAIN);
    CHECK(send(pair.a, buffer, 0, 0) == 0);
    CHECK_FAILS(recv(pair.b, buffer, 1, MSG_DONTWAIT), EAGAIN);
    CHECK_FAILS(sendto(pair.a, "x", 1, 0, Name(abstract("none")).get(), 20), EISCONN);
    iovec parts[2] = {{buffer, 2}, {buffer + 2, 3}};
    CHECK(writev(pair.a, parts, 2) == 5);
    CHECK(readv(pair.b, parts, 2) == 5);

    // Half closes.
    CHECK(send(pair.a, "tail", 4, 0) == 4);
    CHECK(shutdown(pair.a, SHUT_WR) == 0);
    CHECK_FAILS(send(pair.a, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK(ready(pair.b) == (POLLIN | POLLOUT | POLLRDHUP));
    CHECK(read(pair.b, buffer, sizeof buffer) == 4);
    CHECK(read(pair.b, buffer, sizeof buffer) == 0);
    CHECK(send(pair.b, "back", 4, 0) == 4);
    CHECK(read(pair.a, buffer, sizeof buffer) == 4);
    CHECK(shutdown(pair.a, SHUT_RD) == 0);
    CHECK(ready(pair.a) == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
    CHECK_FAILS(send(pair.b, "x", 1, MSG_NOSIGNAL), EPIPE);
}

volatile sig_atomic_t broken_pipes = 0;

void closed_peers() {
    char buffer[16];
    {
        Pair pair(SOCK_STREAM);
        CHECK(write(pair.a, "left", 4) == 4);
        close(pair.a);
        pair.a = -1;
        CHECK(ready(pair.b) == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
        CHECK(read(pair.b, buffer, sizeof buffer) == 4);
        CHECK(read(pair.b, buffer, sizeof buffer) == 0);
        signal(SIGPIPE, [](int) { broken_pipes = broken_pipes + 1; });
        CHECK_FAILS(write(pair.b, "x", 1), EPIPE);
        CHECK(broken_pipes == 1);
        CHECK_FAILS(send(pair.b, "x", 1, MSG_NOSIGNAL), EPIPE);
        CHECK(broken_pipes == 1);
    }
    {
        Pair pair(SOCK_STREAM); // unread data make it a reset
        CHECK(write(pair.b, "lost", 4) == 4);
        close(pair.a);
        pair.a = -1;
        CHECK((ready(pair.b) & POLLERR) != 0);
        CHECK_FAILS(read(pair.b, buffer, 1), ECONNRESET);
        CHECK(read(pair.b, buffer, 1) == 0);
    }
    {
        Pair pair(SOCK_SEQPACKET);
        close(pair.a);
        pair.a = -1;
        CHECK(read(pair.b, buffer, 1) == 0);
        CHECK_FAILS(send(pair.b, "x", 1, MSG_NOSIGNAL), EPIPE);
    }
    {
        Pair pair(SOCK_DGRAM);
        close(pair.a);
        pair.a = -1;
        CHECK_FAILS(send(pair.b, "x", 1, 0), ECONNREFUSED);
        CHECK_FAILS(send(pair.b, "x", 1, 0), ENOTCONN);
    }
}

void packets(int type) {
    Pair pair(type);
    char buffer[64];
    CHECK(send(pair.a, "one", 3, 0) == 3);
    CHECK(send(pair.a, "", 0, 0) == 0);
    CHECK(send(pair.a, "three", 5, 0) == 5);
    CHECK(recv(pair.b, buffer, sizeof buffer, MSG_PEEK) == 3);
    CHECK(recv(pair.b, buffer, sizeof buffer, 0) == 3);
    CHECK(recv(pair.b, buffer, sizeof buffer, 0) == 0);
    iovec part{buffer, 2};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    CHECK(recvmsg(pair.b, &message, MSG_PEEK | MSG_TRUNC) == 5);
    CHECK((message.msg_flags & MSG_TRUNC) != 0);
    CHECK(recvmsg(pair.b, &message, 0) == 2);
    CHECK((message.msg_flags & MSG_TRUNC) != 0);
    CHECK_FAILS(recv(pair.b, buffer, 1, MSG_DONTWAIT), EAGAIN);
    const std::string large(1 << 20, 'x');
    CHECK_FAILS(send(pair.a, large.data(), large.size(), 0), EMSGSIZE);
    const std::string fits(60000, 'y');
    CHECK(send(pair.a, fits.data(), fits.size(), 0) == 60000);
    std::string got(70000, '\0');
    CHECK(recv(pair.b, got.data(), got.size(), 0) == 60000);
    CHECK(got.compare(0, 60000, fits) == 0);
}

void filled_stream() {
    Pair pair(SOCK_STREAM | SOCK_NONBLOCK);
    const std::string block(10000, 'z');
    size_t sent = 0;
    for (;;) {
        const ssize_t done = write(pair.a, block.data(), block.size());
        if (done < 0) {
            CHECK(errno == EAGAIN);
            break;
        }
        sent += static_cast<size_t>(done);
        CHECK(sent < 10'000'000);
    }
    CHECK(sent > 50'000);
    CHECK(ready(pair.a) == 0);
    std::string got(65536, '\0');
    size_t received = 0;
    for (;;) {
        const ssize_t done = read(pair.b, got.data(), got.size());
        if (done < 0) {
            CHECK(errno == EAGAIN);
            break;
        }
        received += static_cast<size_t>(done);
    }
    CHECK(received == sent);
    CHECK(ready(pair.a) == POLLOUT);
}

void listening(const std::string& text, int type) {
    const Name name(text);
    const int client = socket(AF_UNIX, type, 0);
    CHECK_FAILS(connect(client, name.get(), name.length), text[0] == '\0' ? ECONNREFUSED : ENOENT);
    const int server = bound(type, name);
    const Name other(abstract("other"));
    CHECK_FAILS(bind(server, other.get(), other.length), EINVAL);
    const int second = socket(AF_UNIX, type, 0);
    CHECK_FAILS(bind(second, name.get(), name.length), EADDRINUSE);
    close(second);
    CHECK_FAILS(connect(client, name.get(), name.length), ECONNREFUSED);
    CHECK(listen(server, 1) == 0);
    CHECK(option(server, SO_ACCEPTCONN) == 1);
    CHECK(ready(server) == 0);
    CHECK(connect(client, name.get(), name.length) == 0);
    CHECK(ready(client) == POLLOUT);
    CHECK(ready(server) == POLLIN);
    CHECK_FAILS(connect(client, name.get(), name.length), EISCONN);
    CHECK(send(client, "early", 5, 0) == 5); // before it is accepted

    sockaddr_un peer{};
    socklen_t length = sizeof peer;
    const int served =
        accept4(server, reinterpret_cast<sockaddr*>(&peer), &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    CHECK(served >= 0);
    CHECK(length == sizeof(sa_family_t)); // the client has no name
    CHECK(fcntl(served, F_GETFD) == FD_CLOEXEC);
    CHECK((fcntl(served, F_GETFL) & O_NONBLOCK) != 0);
    char buffer[16];
    CHECK(read(served, buffer, sizeof buffer) == 5);
    length = sizeof peer;
    CHECK(getsockname(served, reinterpret_cast<sockaddr*>(&peer), &length) == 0);
    CHECK(length == name.length && std::memcmp(&peer, &name.address, length) == 0);
    std::memset(&peer, 0, sizeof peer);
    length = sizeof peer;
    CHECK(getpeername(client, reinterpret_cast<sockaddr*>(&peer), &length) == 0);
    CHECK(length == name.length && std::memcmp(&peer, &name.address, length) == 0);
    ucred credentials{};
    length = sizeof credentials;
    CHECK(getsockopt(served, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0);
    CHECK(credentials.pid == getpid() && credentials.uid == geteuid() &&
          credentials.gid == getegid());

    // A backlog of one takes two.
    int waiting[3];
    for (int i = 0; i < 3; i++) {
        waiting[i] = socket(AF_UNIX, type | SOCK_NONBLOCK, 0);
        if (i < 2)
            CHECK(connect(waiting[i], name.get(), name.length) == 0);
        else
            CHECK_FAILS(connect(waiting[i], name.get(), name.length), EAGAIN);
    }
    CHECK(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    const int another = accept(server, nullptr, nullptr);
    CHECK(another >= 0);
    CHECK(connect(waiting[2], name.get(), name.length) == 0);
    close(another);
    close(server); // those who were not accepted are reset
    CHECK_FAILS(recv(waiting[1], buffer, 1, 0), ECONNRESET);
    for (const int fd : waiting)
        close(fd);
    CHECK_FAILS(connect(socket(AF_UNIX, type, 0), name.get(), name.length), ECONNREFUSED);
    CHECK(write(client, "still", 5) == 5);
    CHECK(read(served, buffer, sizeof buffer) == 5);
    close(client);
    close(served);
    if (text[0] != '\0')
        CHECK(unlink(text.c_str()) == 0);
}

void datagrams() {
    const Name left(directory + "/left");
    const Name right(abstract("right"));
    const int a = bound(SOCK_DGRAM, left);
    const int b = bound(SOCK_DGRAM, right);
    char buffer[32];
    CHECK(sendto(a, "ping", 4, 0, right.get(), right.length) == 4);
    sockaddr_un from{};
    socklen_t length = sizeof from;
    CHECK(recvfrom(b, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &length) == 4);
    CHECK(length == left.length && std::memcmp(&from, &left.address, length) == 0);
    CHECK(sendto(b, "pong", 4, 0, reinterpret_cast<sockaddr*>(&from), length) == 4);
    CHECK(recv(a, buffer, sizeof buffer, 0) == 4);
    // From a nameless one.
    const int nameless = socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK(sendto(nameless, "?", 1, 0, left.get(), left.length) == 1);
    length = sizeof from;
    CHECK(recvfrom(a, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &length) == 1);
    CHECK(length == 0);
    // Connected to one other only.
    CHECK(connect(a, right.get(), right.length) == 0);
    CHECK(send(a, "1", 1, 0) == 1);
    CHECK_FAILS(sendto(nameless, "?", 1, 0, left.get(), left.length), EPERM);
    CHECK_FAILS(connect(nameless, left.get(), left.length), EPERM);
    const sockaddr nobody{AF_UNSPEC, {}};
    CHECK(connect(a, &nobody, sizeof nobody) == 0);
    CHECK_FAILS(send(a, "2", 1, 0), ENOTCONN);
    // The queue of a receiver that does not read fills.
    CHECK(connect(nameless, right.get(), right.length) == 0);
    int sent = 0;
    while (send(nameless, "fill", 4, MSG_DONTWAIT) == 4)
        CHECK(++sent < 10000);
    CHECK(errno == EAGAIN);
    CHECK(sent >= 5);
    CHECK(ready(nameless) == 0);
    while (recv(b, buffer, sizeof buffer, MSG_DONTWAIT) > 0) {
    }
    CHECK(ready(nameless) == POLLOUT);
    const int stream = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_FAILS(connect(stream, left.get(), left.length), EPROTOTYPE);
    CHECK_FAILS(listen(a, 1), EOPNOTSUPP);
    // A name of its own choice.
    const sa_family_t only_family = AF_UNIX;
    const int automatic = socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK(bind(automatic, reinterpret_cast<const sockaddr*>(&only_family), sizeof only_family) ==
          0);
    length = sizeof from;
    CHECK(getsockname(automatic, reinterpret_cast<sockaddr*>(&from), &length) == 0);
    CHECK(length == sizeof(sa_family_t) + 6 && from.sun_path[0] == '\0');
    for (const int fd : {a, b, nameless, stream, automatic})
        close(fd);
    CHECK_FAILS(sendto(bound(SOCK_DGRAM, Name(abstract("x"))), "", 0, 0, left.get(), left.length),
                ECONNREFUSED);
    CHECK(unlink(left.address.sun_path) == 0);
}

void many_messages() {
    Pair pair(SOCK_DGRAM);
    char out[4][8] = {"a", "bb", "ccc", "dddd"};
    char in[4][8] = {};
    iovec parts[4];
    mmsghdr messages[4] = {};
    for (unsigned i = 0; i < 4; i++) {
        parts[i] = {out[i], i + 1};
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    CHECK(sendmmsg(pair.a, messages, 3, 0) == 3);
    CHECK(messages[2].msg_len == 3);
    for (unsigned i = 0; i < 4; i++)
        parts[i] = {in[i], 8};
    CHECK(recvmmsg(pair.b, messages, 4, MSG_WAITFORONE, nullptr) == 3);
    CHECK(messages[1].msg_len == 2 && std::memcmp(in[2], "ccc", 3) == 0);
}

void timeouts() {
    Pair pair(SOCK_STREAM);
    const timeval timeout{0, 20'000};
    CHECK(setsockopt(pair.a, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0);
    timeval shown{};
    socklen_t length = sizeof shown;
    CHECK(getsockopt(pair.a, SOL_SOCKET, SO_RCVTIMEO, &shown, &length) == 0);
    CHECK(shown.tv_sec == 0 && shown.tv_usec >= 16'000 && shown.tv_usec <= 24'000);
    char byte;
    CHECK_FAILS(read(pair.a, &byte, 1), EAGAIN);
}

// When the next message of a pair was sent, as its receiver is told; nothing: it is not.
long long stamp_of(const Pair& pair, int type, time_t& second) {
    CHECK(send(pair.a, "x", 1, 0) == 1);
    char byte;
    alignas(cmsghdr) char control[256];
    iovec part{&byte, 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    CHECK(recvmsg(pair.b, &message, 0) == 1);
    const cmsghdr* head = CMSG_FIRSTHDR(&message);
    if (head == nullptr)
        return -1;
    CHECK(head->cmsg_level == SOL_SOCKET && head->cmsg_type == type);
    CHECK(head->cmsg_len == CMSG_LEN(sizeof(timespec)));
    timespec stamp;
    std::memcpy(&stamp, CMSG_DATA(head), sizeof stamp);
    second = stamp.tv_sec;
    return stamp.tv_nsec;
}

void timestamps() {
    const int on = 1, off = 0;
    const time_t begin = time(nullptr);
    time_t second = 0;
    for (const int type : {SOCK_DGRAM, SOCK_SEQPACKET}) {
        const Pair pair(type);
        CHECK(option(pair.b, SO_TIMESTAMP) == 0);
        CHECK(setsockopt(pair.b, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on) == 0);
        CHECK(option(pair.b, SO_TIMESTAMP) == 1 && option(pair.b, SO_TIMESTAMPNS) == 0);
        const long long micro = stamp_of(pair, SCM_TIMESTAMP, second);
        CHECK(micro >= 0 && micro < 1'000'000 && second >= begin && second <= begin + 60);
        CHECK(setsockopt(pair.b, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) == 0);
        CHECK(option(pair.b, SO_TIMESTAMP) == 0 && option(pair.b, SO_TIMESTAMPNS) == 1);
        const long long nano = stamp_of(pair, SCM_TIMESTAMPNS, second);
        CHECK(nano >= 0 && nano < 1'000'000'000 && second >= begin && second <= begin + 60);
        CHECK(setsockopt(pair.b, SOL_SOCKET, SO_TIMESTAMPNS, &off, sizeof off) == 0);
        CHECK(stamp_of(pair, 0, second) == -1);
    }
    const Pair stream(SOCK_STREAM); // has no messages
    CHECK(setsockopt(stream.b, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on) == 0);
    CHECK(stamp_of(stream, 0, second) == -1);
}

void conversation() {
    Pair pair(SOCK_STREAM);
    const pid_t child = fork();
    CHECK(child >= 0);
    char buffer[16];
    if (child == 0) {
        close(pair.a);
        for (;;) {
            const ssize_t got = read(pair.b, buffer, sizeof buffer);
            if (got == 0)
                _exit(0);
            if (got < 0 || write(pair.b, buffer, static_cast<size_t>(got)) != got)
                _exit(1);
        }
    }
    for (int i = 0; i < 200; i++) {
        CHECK(write(pair.a, &i, sizeof i) == sizeof i);
        int back = -1;
        CHECK(recv(pair.a, &back, sizeof back, MSG_WAITALL) == sizeof back);
        CHECK(back == i);
    }
    CHECK(shutdown(pair.a, SHUT_WR) == 0);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

void bulk() {
    Pair pair(SOCK_STREAM);
    constexpr size_t total = 2 << 20;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        std::string data(100'000, '\0');
        for (size_t sent = 0; sent < total;) {
            size_t piece = total - sent < data.size() ? total - sent : data.size();
            for (size_t i = 0; i < piece; i++)
                data[i] = static_cast<char>((sent + i) * 7);
            const ssize_t done = write(pair.a, data.data(), piece);
            if (done <= 0)
                _exit(1);
            sent += static_cast<size_t>(done);
        }
        _exit(0);
    }
    close(pair.a);
    pair.a = -1;
    std::string got(33'333, '\0');
    size_t received = 0;
    for (;;) {
        const ssize_t done = read(pair.b, got.data(), got.size());
        CHECK(done >= 0);
        if (done == 0)
            break;
        for (size_t i = 0; i < static_cast<size_t>(done); i++)
            CHECK(got[i] == static_cast<char>((received + i) * 7));
        received += static_cast<size_t>(done);
    }
    CHECK(received == total);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

void edges() {
    Pair pair(SOCK_STREAM);
    const int watcher = epoll_create1(0);
    epoll_event wanted{};
    wanted.events = EPOLLIN | EPOLLET | EPOLLRDHUP;
    CHECK(epoll_ctl(watcher, EPOLL_CTL_ADD, pair.b, &wanted) == 0);
    epoll_event got{};
    CHECK(epoll_wait(watcher, &got, 1, 0) == 0);
    CHECK(write(pair.a, "x", 1) == 1);
    CHECK(epoll_wait(watcher, &got, 1, 0) == 1 && got.events == EPOLLIN);
    CHECK(epoll_wait(watcher, &got, 1, 0) == 0);
    CHECK(write(pair.a, "y", 1) == 1);
    CHECK(epoll_wait(watcher, &got, 1, 0) == 1);
    CHECK(shutdown(pair.a, SHUT_WR) == 0);
    CHECK(epoll_wait(watcher, &got, 1, 0) == 1 && got.events == (EPOLLIN | EPOLLRDHUP));
    close(watcher);
}

volatile sig_atomic_t urgent_signals;
void on_urgent(int) {
    urgent_signals = urgent_signals + 1;
}

std::string read_some(int fd, int flags = 0) {
    char text[32];
    const ssize_t done = recv(fd, text, sizeof text, flags | MSG_DONTWAIT);
    return done < 0 ? std::string(errno == EAGAIN ? "(none)" : "(error)")
                    : std::string(text, static_cast<size_t>(done));
}
int at_mark(int fd) {
    int answer = -1;
    CHECK(ioctl(fd, SIOCATMARK, &answer) == 0);
    return answer;
}
void send_urgent(int fd, const std::string& text) {
    CHECK(send(fd, text.data(), text.size(), MSG_OOB) == static_cast<ssize_t>(text.size()));
}

// MSG_OOB: the last byte is urgent, and reading stops in front of it.
void urgent_byte() {
    Pair pair(SOCK_STREAM);
    CHECK_FAILS(recv(pair.b, nullptr, 0, MSG_OOB), EINVAL); // none came
    CHECK_FAILS(send(pair.a, "", 0, MSG_OOB), EOPNOTSUPP);
    send_urgent(pair.a, "abX");
    CHECK(write(pair.a, "cd", 2) == 2);
    CHECK(ready(pair.b) == (POLLIN | POLLOUT | POLLPRI) && at_mark(pair.b) == 0);
    CHECK(read_some(pair.b, MSG_OOB | MSG_PEEK) == "X" && read_some(pair.b, MSG_PEEK) == "ab");
    char text[8];
    iovec whole{text, sizeof text};
    msghdr message{};
    message.msg_iov = &whole;
    message.msg_iovlen = 1;
    CHECK(recvmsg(pair.b, &message, MSG_OOB) == 1 && text[0] == 'X');
    CHECK((message.msg_flags & MSG_OOB) != 0);
    CHECK_FAILS(recv(pair.b, text, 1, MSG_OOB), EINVAL); // taken
    CHECK(ready(pair.b) == (POLLIN | POLLOUT));
    CHECK(read_some(pair.b) == "ab" && at_mark(pair.b) == 1); // the mark stays
    CHECK(read_some(pair.b, MSG_PEEK) == "cd" && at_mark(pair.b) == 1);
    CHECK(read_some(pair.b) == "cd" && at_mark(pair.b) == 0);
    // One that nobody takes is lost when reading goes past it.
    send_urgent(pair.a, "X");
    CHECK(at_mark(pair.b) == 1 && read_some(pair.b, MSG_PEEK) == "(none)");
    CHECK(ready(pair.b) == (POLLIN | POLLOUT | POLLPRI));
    CHECK(read_some(pair.b) == "(none)" && ready(pair.b) == POLLOUT);
    CHECK_FAILS(recv(pair.b, text, 1, MSG_OOB), EINVAL);
    // There is one at a time: an older one becomes a byte like others.
    send_urgent(pair.a, "abX");
    send_urgent(pair.a, "cdY");
    CHECK(read_some(pair.b, MSG_OOB) == "Y" && read_some(pair.b) == "abXcd");
    CHECK(at_mark(pair.b) == 1 && read_some(pair.b) == "(none)" && at_mark(pair.b) == 0);
    int on = 1;
    CHECK(setsockopt(pair.b, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on) == 0);
    send_urgent(pair.a, "abX");
    CHECK(write(pair.a, "cd", 2) == 2);
    CHECK_FAILS(recv(pair.b, text, 1, MSG_OOB), EINVAL);
    CHECK(read_some(pair.b, MSG_PEEK) == "ab" && read_some(pair.b) == "ab");
    CHECK(at_mark(pair.b) == 1 && read_some(pair.b, MSG_PEEK) == "Xcd");
    CHECK(read_some(pair.b) == "Xcd" && at_mark(pair.b) == 0);
    CHECK(shutdown(pair.b, SHUT_RD) == 0);
    CHECK_FAILS(send(pair.a, "X", 1, MSG_OOB | MSG_NOSIGNAL), EPIPE);
}

void urgent_byte_and_others() {
    struct sigaction action {};
    action.sa_handler = on_urgent;
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGURG, &action, nullptr) == 0);
    Pair pair(SOCK_STREAM);
    send_urgent(pair.a, "X");
    CHECK(read_some(pair.b, MSG_OOB) == "X" && urgent_signals == 0); // nobody's
    CHECK(fcntl(pair.b, F_SETOWN, getpid()) == 0);
    send_urgent(pair.a, "X");
    for (int i = 0; i < 10'000 && urgent_signals == 0; i++)
        usleep(1000);
    CHECK(urgent_signals == 1 && read_some(pair.b, MSG_OOB) == "X");
    // Bytes that are always taken cost the sender nothing in the end.
    for (int i = 0; i < 2'000; i++) {
        CHECK(send(pair.a, "X", 1, MSG_OOB | MSG_DONTWAIT) == 1);
        CHECK(read_some(pair.b, MSG_OOB) == "X");
    }
    // A mark is nothing unread: no ECONNRESET.
    close(pair.b);
    CHECK(read_some(pair.a).empty());
    pair.b = -1;
    Pair other(SOCK_STREAM);
    send_urgent(other.a, "abX");
    close(other.a);
    CHECK((ready(other.b) & (POLLPRI | POLLHUP)) == (POLLPRI | POLLHUP));
    CHECK(read_some(other.b, MSG_OOB) == "X" && read_some(other.b) == "ab");
    CHECK(read_some(other.b, MSG_PEEK).empty() && read_some(other.b).empty());
    other.a = -1;
    Pair packet(SOCK_SEQPACKET);
    CHECK_FAILS(send(packet.a, "X", 1, MSG_OOB), EOPNOTSUPP);
    CHECK_FAILS(recv(packet.b, nullptr, 0, MSG_OOB), EOPNOTSUPP);
}

// A peek waits for what it could see.
void peek_behind_urgent_byte() {
    Pair pair(SOCK_STREAM);
    send_urgent(pair.a, "X");
    const pid_t child = fork();
    if (child == 0) {
        usleep(20'000);
        _exit(write(pair.a, "y", 1) == 1 ? 0 : 1);
    }
    char byte = 0;
    CHECK(recv(pair.b, &byte, 1, MSG_PEEK) == 1 && byte == 'y');
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

// What SO_PEERGROUPS, SO_PEERPIDFD and SO_PASSPIDFD say; older headers do not have them all.
constexpr int peer_groups = 59, pass_pidfd = 76, peer_pidfd = 77, message_pidfd = 4;

pid_t pid_of(int pidfd) {
    char text[512] = {};
    const std::string name = "/proc/self/fdinfo/" + std::to_string(pidfd);
    const int fd = open(name.c_str(), O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    const char* line = std::strstr(text, "Pid:");
    CHECK(line != nullptr);
    return std::atoi(line + 4);
}

void peers() {
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    gid_t own[64], told[64];
    const int count = getgroups(64, own);
    socklen_t length = sizeof told;
    CHECK(getsockopt(s[0], SOL_SOCKET, peer_groups, told, &length) == 0);
    CHECK(length == count * sizeof(gid_t) && std::memcmp(own, told, length) == 0);
    if (count > 0) {
        length = sizeof(gid_t) - 1;
        CHECK_FAILS(getsockopt(s[0], SOL_SOCKET, peer_groups, told, &length), ERANGE);
        CHECK(length == count * sizeof(gid_t));
    }
    int pidfd = -1;
    length = sizeof pidfd;
    CHECK(getsockopt(s[0], SOL_SOCKET, peer_pidfd, &pidfd, &length) == 0);
    CHECK(length == sizeof pidfd && fcntl(pidfd, F_GETFD) == FD_CLOEXEC);
    CHECK(pid_of(pidfd) == getpid());
    close(pidfd);
    const int alone = socket(AF_UNIX, SOCK_STREAM, 0), other = socket(AF_INET, SOCK_STREAM, 0);
    for (const int fd : {alone, other})
        for (const int name : {peer_groups, peer_pidfd}) {
            length = sizeof told;
            CHECK_FAILS(getsockopt(fd, SOL_SOCKET, name, told, &length), ENODATA);
        }
    const int on = 1;
    CHECK_FAILS(setsockopt(other, SOL_SOCKET, pass_pidfd, &on, sizeof on), EOPNOTSUPP);
    for (const int fd : {alone, other, s[0], s[1]})
        close(fd);
}

// The descriptor of who sent a message comes with it.
void senders(int type) {
    int s[2];
    CHECK(socketpair(AF_UNIX, type, 0, s) == 0);
    int on = 1;
    CHECK(setsockopt(s[1], SOL_SOCKET, pass_pidfd, &on, sizeof on) == 0);
    on = 0;
    socklen_t length = sizeof on;
    CHECK(getsockopt(s[1], SOL_SOCKET, pass_pidfd, &on, &length) == 0 && on == 1);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(write(s[0], "c", 1) == 1 ? 0 : 1);
    siginfo_t info{};
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0 && info.si_status == 0);
    CHECK(write(s[0], "p", 1) == 1);
    for (const pid_t from : {child, getpid()}) {
        char text[2] = {};
        alignas(cmsghdr) char control[256];
        iovec piece = {text, sizeof text};
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        // Of a stream, too, the pieces of two senders are not one.
        CHECK(recvmsg(s[1], &message, 0) == 1 && text[0] == (from == child ? 'c' : 'p'));
        const cmsghdr* first = CMSG_FIRSTHDR(&message);
        CHECK(first != nullptr && first->cmsg_level == SOL_SOCKET);
        CHECK(first->cmsg_type == message_pidfd && first->cmsg_len == CMSG_LEN(sizeof(int)));
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(first), sizeof fd);
        CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && pid_of(fd) == from);
        close(fd);
    }
    CHECK(waitpid(child, nullptr, 0) == child);
    // No room: it says so, and no descriptor is left behind.
    CHECK(write(s[0], "x", 1) == 1);
    char byte;
    iovec piece = {&byte, 1};
    alignas(cmsghdr) char little[sizeof(cmsghdr)];
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = little;
    message.msg_controllen = sizeof little;
    CHECK(recvmsg(s[1], &message, 0) == 1 && message.msg_controllen == 0);
    CHECK((message.msg_flags & MSG_CTRUNC) != 0);
    close(s[0]);
    close(s[1]);
}

int peek_offset(int fd) {
    int offset = -2;
    socklen_t length = sizeof offset;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, &length) == 0);
    return offset;
}

void peek_from(int fd, int offset) {
    CHECK(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0);
}

std::string peeked(int fd, size_t room, int flags = 0) {
    char text[64] = {};
    const ssize_t got = recv(fd, text, room, MSG_PEEK | MSG_DONTWAIT | flags);
    return got < 0 ? "error" : std::string(text, static_cast<size_t>(got));
}

void peeking() {
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK(peek_offset(s[0]) == -1);
    CHECK(write(s[0], "abcd", 4) == 4 && write(s[0], "efgh", 4) == 4);
    CHECK(peeked(s[1], 2) == "ab" && peeked(s[1], 2) == "ab");
    peek_from(s[1], 3);
    CHECK(peeked(s[1], 3) == "def" && peek_offset(s[1]) == 6);
    char text[16];
    CHECK(read(s[1], text, 5) == 5 && peek_offset(s[1]) == 1); // moves with what is read
    CHECK(peeked(s[1], 8) == "gh" && peeked(s[1], 8) == "error" && errno == EAGAIN);
    const pid_t child = fork();
    if (child == 0) {
        usleep(20'000);
        _exit(write(s[0], "ij", 2) == 2 ? 0 : 1);
    }
    CHECK(recv(s[1], text, sizeof text, MSG_PEEK) == 2 && std::memcmp(text, "ij", 2) == 0);
    CHECK(waitpid(child, nullptr, 0) == child && peek_offset(s[1]) == 5);
    peek_from(s[1], -1);
    CHECK(peeked(s[1], 16) == "fghij");
    close(s[0]);
    CHECK(read(s[1], text, sizeof text) == 5 && peeked(s[1], 1).empty());
    close(s[1]);

    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
    for (const char* datagram : {"one", "", "three"})
        CHECK(send(s[0], datagram, std::strlen(datagram), 0) >= 0);
    peek_from(s[1], 0);
    CHECK(peeked(s[1], 2) == "on" && peeked(s[1], 8) == "e" && peeked(s[1], 8).empty());
    CHECK(peeked(s[1], 8) == "three" && peeked(s[1], 8) == "error" && errno == EAGAIN);
    CHECK(peek_offset(s[1]) == 8);
    CHECK(recv(s[1], text, sizeof text, 0) == 3 && peek_offset(s[1]) == 5);
    peek_from(s[1], 1);
    CHECK(recv(s[1], text, 1, MSG_PEEK | MSG_TRUNC) == 4 && text[0] == 'h');
    close(s[0]);
    close(s[1]);
}

} // namespace

int main() {
    char name[] = "/tmp/joey-sockets-XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    directory = name;
    creation();
    stream_pair();
    closed_peers();
    packets(SOCK_DGRAM);
    packets(SOCK_SEQPACKET);
    filled_stream();
    for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
        listening(directory + "/socket", type);
        listening(abstract("server"), type);
    }
    datagrams();
    many_messages();
    timeouts();
    timestamps();
    peers();
    for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET})
        senders(type);
    peeking();
    conversation();
    bulk();
    edges();
    urgent_byte();
    urgent_byte_and_others();
    peek_behind_urgent_byte();
    CHECK(rmdir(name) == 0);
}
