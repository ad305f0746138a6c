// AF_VSOCK: vsock(7). Connections need a transport. Inside a VM the loopback is always there; a
// Linux has it when its module vsock_loopback is loaded (tests/integration/qemu does that). With
// the argument "loopback" it must be there; without one, a system that has none is told so, and
// what needs no connection is checked all the same.
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <poll.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/sockios.h>
#include <linux/vm_sockets.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

constexpr unsigned local_cid = VMADDR_CID_LOCAL;
int pipe_signals = 0;

// Some of it is younger than the Linux that has a loopback to compare with. Joey's kernel has it,
// whatever release it gives.
bool linux_is_at_least(int major, int minor) {
    utsname name{};
    CHECK(uname(&name) == 0);
    if (std::strstr(name.version, "Joey") != nullptr)
        return true;
    int have_major = 0, have_minor = 0;
    CHECK(std::sscanf(name.release, "%d.%d", &have_major, &have_minor) == 2);
    return have_major > major || (have_major == major && have_minor >= minor);
}

sockaddr_vm address(unsigned cid, unsigned port) {
    sockaddr_vm out{};
    out.svm_family = AF_VSOCK;
    out.svm_cid = cid;
    out.svm_port = port;
    return out;
}

const sockaddr* raw(const sockaddr_vm& from) {
    return reinterpret_cast<const sockaddr*>(&from);
}

int make(int type) {
    const int fd = socket(AF_VSOCK, type, 0);
    CHECK(fd >= 0);
    return fd;
}

int bind_to(int fd, unsigned cid, unsigned port) {
    const sockaddr_vm where = address(cid, port);
    return bind(fd, raw(where), sizeof where);
}

int connect_to(int fd, unsigned cid, unsigned port) {
    const sockaddr_vm where = address(cid, port);
    return connect(fd, raw(where), sizeof where);
}

sockaddr_vm name_of(int fd) {
    sockaddr_vm out{};
    socklen_t length = sizeof out;
    CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&out), &length) == 0);
    CHECK(length == sizeof out && out.svm_family == AF_VSOCK);
    return out;
}

short events_of(int fd) {
    pollfd watched{fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    CHECK(poll(&watched, 1, 0) >= 0);
    return watched.revents;
}

// Until one of them is there.
short wait_for(int fd, short wanted) {
    pollfd watched{fd, wanted, 0};
    CHECK(poll(&watched, 1, 10'000) == 1);
    return watched.revents;
}

struct Listener {
    explicit Listener(int type, int backlog = 16, unsigned cid = VMADDR_CID_ANY) : fd(make(type)) {
        CHECK(bind_to(fd, cid, VMADDR_PORT_ANY) == 0);
        CHECK(listen(fd, backlog) == 0);
        port = name_of(fd).svm_port;
    }
    ~Listener() { close(fd); }
    int fd;
    unsigned port = 0;
};

struct Pair {
    explicit Pair(int type) {
        const Listener listener(type);
        client = make(type);
        CHECK(connect_to(client, local_cid, listener.port) == 0);
        server = accept(listener.fd, nullptr, nullptr);
        CHECK(server >= 0);
    }
    ~Pair() {
        if (client >= 0)
            close(client);
        if (server >= 0)
            close(server);
    }
    int client = -1, server = -1;
};

std::string pattern(std::size_t bytes) {
    std::string out(bytes, '\0');
    unsigned value = 12345;
    for (char& c : out) {
        value = value * 1103515245 + 12345;
        c = static_cast<char>(value >> 16);
    }
    return out;
}

void write_all(int fd, const std::string& data) {
    for (std::size_t at = 0; at < data.size();) {
        const ssize_t sent = write(fd, data.data() + at, data.size() - at);
        CHECK(sent > 0);
        at += static_cast<std::size_t>(sent);
    }
}

std::string read_to_end(int fd) {
    std::string out;
    std::vector<char> block(50'000);
    for (;;) {
        const ssize_t got = read(fd, block.data(), block.size());
        CHECK(got >= 0);
        if (got == 0)
            return out;
        out.append(block.data(), static_cast<std::size_t>(got));
    }
}

// --- what needs no transport

void creation() {
    CHECK_FAILS(socket(AF_VSOCK, SOCK_DGRAM, 0), ENODEV);
    CHECK_FAILS(socket(AF_VSOCK, SOCK_RAW, 0), ESOCKTNOSUPPORT);
    CHECK_FAILS(socket(AF_VSOCK, SOCK_STREAM, 1), EPROTONOSUPPORT);
    int ends[2];
    CHECK_FAILS(socketpair(AF_VSOCK, SOCK_STREAM, 0, ends), EOPNOTSUPP);
    const int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, AF_VSOCK);
    CHECK(fd >= 0);
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    int value = 0;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &length) == 0 && value == AF_VSOCK);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length) == 0 && value == SOCK_STREAM);
    ucred who{};
    length = sizeof who;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) == 0);
    CHECK(who.pid == 0 && who.uid == static_cast<uid_t>(-1) && who.gid == static_cast<gid_t>(-1));
    close(fd);
}

void unconnected(int type) {
    const int fd = make(type);
    char byte = 0;
    CHECK_FAILS(send(fd, "x", 1, MSG_NOSIGNAL), ENOTCONN);
    CHECK_FAILS(recv(fd, &byte, 1, 0), ENOTCONN);
    CHECK_FAILS(shutdown(fd, SHUT_RDWR), ENOTCONN);
    CHECK_FAILS(listen(fd, 1), EINVAL);
    CHECK_FAILS(accept(fd, nullptr, nullptr), EINVAL);
    sockaddr_vm peer{};
    socklen_t length = sizeof peer;
    CHECK_FAILS(getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length), ENOTCONN);
    const sockaddr_vm own = name_of(fd);
    CHECK(own.svm_cid == VMADDR_CID_ANY && own.svm_port == VMADDR_PORT_ANY);
    CHECK(events_of(fd) == POLLOUT);

    const sockaddr_vm where = address(VMADDR_CID_ANY, VMADDR_PORT_ANY);
    CHECK_FAILS(bind(fd, raw(where), sizeof where - 1), EINVAL);
    sockaddr_vm wrong = where;
    wrong.svm_family = AF_INET;
    CHECK_FAILS(bind(fd, raw(wrong), sizeof wrong), EINVAL);
    CHECK_FAILS(connect(fd, raw(wrong), sizeof wrong), EINVAL);
    CHECK_FAILS(bind_to(fd, 77777, 5000), EADDRNOTAVAIL);
    CHECK(bind_to(fd, VMADDR_CID_ANY, VMADDR_PORT_ANY) == 0);
    CHECK(name_of(fd).svm_port > 1023 && name_of(fd).svm_port != VMADDR_PORT_ANY);
    CHECK_FAILS(bind_to(fd, VMADDR_CID_ANY, VMADDR_PORT_ANY), EINVAL);
    const int other = make(type);
    CHECK_FAILS(bind_to(other, VMADDR_CID_ANY, name_of(fd).svm_port), EADDRINUSE);
    CHECK(listen(fd, 4) == 0);
    CHECK(events_of(fd) == 0);
    int value = 0;
    length = sizeof value;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value == 1);
    CHECK_FAILS(accept4(fd, nullptr, nullptr, 0x1234), EINVAL);
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    CHECK_FAILS(accept(fd, nullptr, nullptr), EAGAIN);
    CHECK_FAILS(shutdown(fd, SHUT_RD), ENOTCONN);
    close(other);
    close(fd);
}

void reserved_ports() {
    if (geteuid() != 0)
        return; // somebody else's right to have
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const int allowed = make(SOCK_STREAM);
        CHECK(bind_to(allowed, VMADDR_CID_ANY, 1001) == 0);
        CHECK(setuid(65534) == 0);
        const int fd = make(SOCK_STREAM);
        CHECK_FAILS(bind_to(fd, VMADDR_CID_ANY, 1000), EACCES);
        CHECK(bind_to(fd, VMADDR_CID_ANY, 1024) == 0);
        // Capabilities over a network namespace are none over ports, which no namespace has.
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)
            CHECK_FAILS(bind_to(make(SOCK_STREAM), VMADDR_CID_ANY, 1000), EACCES);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

unsigned long long buffer_option(int fd, int name) {
    unsigned long long value = 0;
    socklen_t length = sizeof value;
    CHECK(getsockopt(fd, AF_VSOCK, name, &value, &length) == 0 && length == sizeof value);
    return value;
}

void set_buffer_option(int fd, int name, unsigned long long value) {
    CHECK(setsockopt(fd, AF_VSOCK, name, &value, sizeof value) == 0);
}

void options() {
    const int fd = make(SOCK_STREAM);
    CHECK(buffer_option(fd, SO_VM_SOCKETS_BUFFER_SIZE) == 262144);
    CHECK(buffer_option(fd, SO_VM_SOCKETS_BUFFER_MIN_SIZE) == 128);
    CHECK(buffer_option(fd, SO_VM_SOCKETS_BUFFER_MAX_SIZE) == 262144);
    set_buffer_option(fd, SO_VM_SOCKETS_BUFFER_SIZE, 1'000'000);
    CHECK(buffer_option(fd, SO_VM_SOCKETS_BUFFER_SIZE) == 262144);
    set_buffer_option(fd, SO_VM_SOCKETS_BUFFER_MAX_SIZE, 500'000);
    set_buffer_option(fd, SO_VM_SOCKETS_BUFFER_SIZE, 1'000'000);
    CHECK(buffer_option(fd, SO_VM_SOCKETS_BUFFER_SIZE) == 500'000);
    set_buffer_option(fd, SO_VM_SOCKETS_BUFFER_MAX_SIZE, 1000);
    CHECK(buffer_option(fd, SO_VM_SOCKETS_BUFFER_SIZE) == 1000);
    set_buffer_option(fd, SO_VM_SOCKETS_BUFFER_SIZE, 1);
    CHECK(buffer_option(fd, SO_VM_SOCKETS_BUFFER_SIZE) == 128);

    int small = 4;
    CHECK_FAILS(setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &small, sizeof small), EINVAL);
    socklen_t length = sizeof small;
    CHECK_FAILS(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &small, &length), EINVAL);
    CHECK_FAILS(setsockopt(fd, AF_VSOCK, 99, &small, sizeof small), ENOPROTOOPT);
    CHECK_FAILS(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_PEER_HOST_VM_ID, &small, &length),
                ENOPROTOOPT);
    CHECK_FAILS(setsockopt(fd, 6, SO_VM_SOCKETS_BUFFER_SIZE, &small, sizeof small), ENOPROTOOPT);

    timeval time{};
    length = sizeof time;
    CHECK(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, &length) == 0);
    CHECK(time.tv_sec == 2 && time.tv_usec == 0);
    time = {3, 500'000};
    CHECK(setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, sizeof time) == 0);
    time = {};
    CHECK(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, &length) == 0);
    CHECK(time.tv_sec == 3 && time.tv_usec == 500'000);
    time = {-1, 0};
    CHECK_FAILS(setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, sizeof time),
                ERANGE);
    time = {0, 1'000'000};
    CHECK_FAILS(setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, sizeof time),
                ERANGE);
    time = {0, 0}; // the default again
    CHECK(setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, sizeof time) == 0);
    CHECK(getsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, &length) == 0);
    CHECK(time.tv_sec == 2);
    close(fd);
}

bool loopback_there() {
    const int fd = make(SOCK_STREAM);
    const bool there = bind_to(fd, local_cid, VMADDR_PORT_ANY) == 0;
    close(fd);
    return there;
}

void device_node() {
    const int fd = open("/dev/vsock", O_RDONLY);
    CHECK(fd >= 0 || errno == ENOENT || errno == EACCES);
    if (fd < 0)
        return; // the family without its node: /dev is what the system's owner makes it
    unsigned cid = 0;
    CHECK(ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) == 0);
    CHECK(cid == (loopback_there() ? local_cid : VMADDR_CID_ANY) || cid > VMADDR_CID_HOST);
    CHECK_FAILS(ioctl(fd, 0x7ff, &cid), ENOTTY);
    CHECK_FAILS(ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, nullptr), EFAULT);
    close(fd);
}

// --- the loopback

void names_and_states() {
    const Listener listener(SOCK_STREAM);
    const int client = make(SOCK_STREAM);
    CHECK(connect_to(client, local_cid, listener.port) == 0);
    CHECK(wait_for(listener.fd, POLLIN) == POLLIN);
    sockaddr_vm peer{};
    socklen_t length = sizeof peer;
    const int server = accept(listener.fd, reinterpret_cast<sockaddr*>(&peer), &length);
    CHECK(server >= 0 && length == sizeof peer);
    CHECK(peer.svm_family == AF_VSOCK && peer.svm_cid == local_cid);
    CHECK(peer.svm_port == name_of(client).svm_port && peer.svm_port > 1023);
    CHECK(name_of(server).svm_cid == local_cid && name_of(server).svm_port == listener.port);
    CHECK(getpeername(client, reinterpret_cast<sockaddr*>(&peer), &length) == 0);
    CHECK(peer.svm_cid == local_cid && peer.svm_port == listener.port);
    CHECK_FAILS(connect_to(client, local_cid, listener.port), EISCONN);
    CHECK_FAILS(connect_to(listener.fd, local_cid, listener.port), EINVAL);
    CHECK_FAILS(listen(client, 1), EINVAL);
    CHECK(events_of(client) == POLLOUT);
    const sockaddr_vm to = address(local_cid, listener.port);
    CHECK_FAILS(sendto(client, "x", 1, 0, raw(to), sizeof to), EISCONN);
    CHECK_FAILS(send(client, "x", 1, MSG_OOB), EOPNOTSUPP);
    char byte = 0;
    CHECK_FAILS(recv(client, &byte, 1, MSG_DONTWAIT), EAGAIN);
    CHECK_FAILS(recv(client, &byte, 1, MSG_OOB), EOPNOTSUPP);
    CHECK(recv(client, &byte, 0, 0) == 0);
    close(server);
    close(client);
}

void refusal() {
    unsigned port = 0;
    {
        const Listener gone(SOCK_STREAM);
        port = gone.port;
        const int wrong_type = make(SOCK_SEQPACKET);
        CHECK_FAILS(connect_to(wrong_type, local_cid, port), ECONNRESET);
        close(wrong_type);
    }
    const int fd = make(SOCK_STREAM);
    CHECK_FAILS(connect_to(fd, local_cid, port), ECONNRESET);
    CHECK_FAILS(send(fd, "x", 1, MSG_NOSIGNAL), ENOTCONN);
    close(fd);

    const int later = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(later >= 0);
    CHECK_FAILS(connect_to(later, local_cid, port), EINPROGRESS);
    CHECK((wait_for(later, POLLERR) & POLLERR) != 0);
    int error = 0;
    socklen_t length = sizeof error;
    CHECK(getsockopt(later, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == ECONNRESET);
    CHECK(getsockopt(later, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0);
    close(later);
}

void without_blocking() {
    const Listener listener(SOCK_STREAM);
    const int client = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(client >= 0);
    CHECK_FAILS(connect_to(client, local_cid, listener.port), EINPROGRESS);
    CHECK(wait_for(client, POLLOUT) == POLLOUT);
    int error = -1;
    socklen_t length = sizeof error;
    CHECK(getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0);
    const int server = accept(listener.fd, nullptr, nullptr);
    CHECK(server >= 0);
    // Fill it up: the sender is held back, not grown without end.
    const std::string block = pattern(10'000);
    std::string sent;
    for (;;) {
        const ssize_t wrote = write(client, block.data(), block.size());
        if (wrote < 0)
            break;
        sent.append(block.data(), static_cast<std::size_t>(wrote));
        CHECK(sent.size() < (64u << 20));
    }
    CHECK(errno == EAGAIN);
    CHECK(sent.size() >= 100'000);
    CHECK((events_of(client) & POLLOUT) == 0);
    CHECK(shutdown(client, SHUT_WR) == 0);
    CHECK(read_to_end(server) == sent);
    close(server);
    close(client);
}

void backlog() {
    const Listener listener(SOCK_STREAM, 1);
    std::vector<int> clients;
    int refused = 0;
    for (int i = 0; i < 4; i++) {
        const int client = make(SOCK_STREAM);
        if (connect_to(client, local_cid, listener.port) != 0) {
            CHECK(errno == ECONNRESET);
            refused++;
        }
        clients.push_back(client);
    }
    CHECK(refused == 2); // the backlog and one
    for (const int client : clients)
        close(client);
}

// However much is asked for, there is a limit: those that nobody accepts take memory.
void largest_backlog() {
    const Listener listener(SOCK_STREAM, -1);
    unsigned limit = 4096;
    std::ifstream("/proc/sys/net/core/somaxconn") >> limit;
    bool refused = false;
    for (unsigned i = 0; i < limit + 2 && !refused; i++) {
        const int client = make(SOCK_STREAM);
        refused = connect_to(client, local_cid, listener.port) != 0;
        CHECK(!refused || (errno == ECONNRESET && i > 16));
        close(client);
    }
    CHECK(refused);
}

void streams() {
    Pair pair(SOCK_STREAM);
    CHECK(write(pair.client, "hello", 5) == 5);
    CHECK(write(pair.client, " world", 6) == 6);
    char text[32] = {};
    CHECK(recv(pair.server, text, 11, MSG_WAITALL) == 11);
    CHECK(std::strcmp(text, "hello world") == 0);
    CHECK(write(pair.server, "abcdef", 6) == 6);
    wait_for(pair.client, POLLIN);
    CHECK(recv(pair.client, text, 3, MSG_PEEK) == 3 && std::memcmp(text, "abc", 3) == 0);
    if (linux_is_at_least(6, 17)) {
        int bytes = -1;
        CHECK(ioctl(pair.client, SIOCINQ, &bytes) == 0 && bytes == 6);
    }
    CHECK(recv(pair.client, text, sizeof text, 0) == 6);
    std::vector<char> large(1 << 20);
    CHECK_FAILS(recv(pair.client, large.data(), large.size(), MSG_WAITALL), ENOMEM); // the buffer

    // Far more than the buffers hold, in both directions at once.
    const std::string data = pattern(3'000'000);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(pair.client);
        std::vector<char> block(65'536);
        for (;;) {
            const ssize_t got = read(pair.server, block.data(), block.size());
            CHECK(got >= 0);
            if (got == 0)
                break;
            write_all(pair.server, std::string(block.data(), static_cast<std::size_t>(got)));
        }
        CHECK(shutdown(pair.server, SHUT_WR) == 0);
        _exit(0);
    }
    close(pair.server);
    pair.server = -1;
    const pid_t writer = fork();
    CHECK(writer >= 0);
    if (writer == 0) {
        write_all(pair.client, data);
        CHECK(shutdown(pair.client, SHUT_WR) == 0);
        _exit(0);
    }
    CHECK(read_to_end(pair.client) == data);
    int status = -1;
    CHECK(waitpid(writer, &status, 0) == writer && status == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

void half_closes() {
    {
        Pair pair(SOCK_STREAM);
        CHECK(write(pair.client, "last", 4) == 4);
        CHECK(shutdown(pair.client, SHUT_WR) == 0);
        CHECK_FAILS(send(pair.client, "x", 1, MSG_NOSIGNAL), EPIPE);
        CHECK((wait_for(pair.server, POLLRDHUP) & POLLRDHUP) != 0);
        CHECK((events_of(pair.server) & (POLLIN | POLLHUP)) == POLLIN);
        char text[16];
        CHECK(read(pair.server, text, sizeof text) == 4);
        CHECK(read(pair.server, text, sizeof text) == 0);
        CHECK(write(pair.server, "answer", 6) == 6); // the other way works
        CHECK(read(pair.client, text, sizeof text) == 6);
        CHECK_FAILS(connect_to(pair.client, local_cid, 1), EINVAL);
    }
    {
        Pair pair(SOCK_STREAM); // nobody reads any more
        CHECK(shutdown(pair.server, SHUT_RD) == 0);
        char byte = 0;
        CHECK(read(pair.server, &byte, 1) == 0);
        // The news needs a moment where the loopback has a thread of its own.
        while (send(pair.client, "x", 1, MSG_NOSIGNAL) == 1)
            usleep(1000);
        CHECK(errno == EPIPE);
    }
    {
        Pair pair(SOCK_STREAM);
        CHECK(write(pair.client, "kept", 4) == 4);
        close(pair.client);
        pair.client = -1;
        CHECK((wait_for(pair.server, POLLRDHUP) & POLLRDHUP) != 0);
        char text[16];
        CHECK(read(pair.server, text, sizeof text) == 4);
        CHECK(read(pair.server, text, sizeof text) == 0);
        CHECK(read(pair.server, text, sizeof text) == 0);
    }
}

void broken_pipes(int type) {
    Pair pair(type);
    close(pair.server);
    pair.server = -1;
    CHECK((wait_for(pair.client, POLLRDHUP) & POLLRDHUP) != 0);
    std::signal(SIGPIPE, [](int) { pipe_signals++; });
    pipe_signals = 0;
    CHECK_FAILS(send(pair.client, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK(pipe_signals == 0);
    if (linux_is_at_least(6, 8)) {
        CHECK_FAILS(send(pair.client, "x", 1, 0), EPIPE);
        CHECK(pipe_signals == (type == SOCK_STREAM ? 1 : 0));
    }
    std::signal(SIGPIPE, SIG_DFL);
    char byte = 0;
    CHECK(recv(pair.client, &byte, 1, 0) == 0);
}

ssize_t receive_message(int fd, char* text, std::size_t room, int flags, int& result_flags) {
    iovec piece{text, room};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    const ssize_t got = recvmsg(fd, &message, flags);
    result_flags = message.msg_flags;
    return got;
}

void packets() {
    Pair pair(SOCK_SEQPACKET);
    CHECK(send(pair.client, "one", 3, 0) == 3);
    CHECK(send(pair.client, "three", 5, MSG_EOR) == 5);
    CHECK(send(pair.client, "", 0, 0) == 0); // is nothing
    CHECK(send(pair.client, "seven77", 7, 0) == 7);
    char text[32] = {};
    int flags = 0;
    CHECK(receive_message(pair.server, text, sizeof text, 0, flags) == 3);
    CHECK((flags & (MSG_EOR | MSG_TRUNC)) == 0 && std::memcmp(text, "one", 3) == 0);
    wait_for(pair.server, POLLIN);
    if (linux_is_at_least(6, 6)) {
        CHECK(receive_message(pair.server, text, 2, MSG_PEEK, flags) == 2);
        CHECK((flags & MSG_TRUNC) != 0);
    }
    CHECK(receive_message(pair.server, text, sizeof text, 0, flags) == 5);
    CHECK((flags & MSG_EOR) != 0 && std::memcmp(text, "three", 5) == 0);
    CHECK(receive_message(pair.server, text, 4, MSG_TRUNC, flags) == 7);
    CHECK((flags & MSG_TRUNC) != 0 && std::memcmp(text, "seve", 4) == 0);
    CHECK_FAILS(recv(pair.server, text, sizeof text, MSG_DONTWAIT), EAGAIN); // the rest is gone

    const std::string large = pattern(200'000);
    CHECK(send(pair.client, large.data(), large.size(), 0) == static_cast<ssize_t>(large.size()));
    std::vector<char> room(300'000);
    CHECK(recv(pair.server, room.data(), room.size(), 0) == static_cast<ssize_t>(large.size()));
    CHECK(std::memcmp(room.data(), large.data(), large.size()) == 0);
    const std::string too_large(300'000, 'x');
    // Before 6.7 every error of a transport became ENOMEM.
    CHECK_FAILS(send(pair.client, too_large.data(), too_large.size(), 0),
                linux_is_at_least(6, 7) ? EMSGSIZE : ENOMEM);
    CHECK(send(pair.client, "end", 3, 0) == 3);
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    CHECK(recv(pair.server, text, sizeof text, 0) == 3);
    CHECK(recv(pair.server, text, sizeof text, 0) == 0);
}

void timeouts_and_signals() {
    Pair pair(SOCK_STREAM);
    const timeval short_time{0, 20'000};
    CHECK(setsockopt(pair.client, SOL_SOCKET, SO_RCVTIMEO, &short_time, sizeof short_time) == 0);
    char byte = 0;
    CHECK_FAILS(recv(pair.client, &byte, 1, 0), EAGAIN);
    struct sigaction action {};
    action.sa_handler = [](int) {};
    CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
    const itimerval timer{{0, 10'000}, {0, 10'000}};
    const itimerval none{};
    const timeval no_time{};
    CHECK(setsockopt(pair.client, SOL_SOCKET, SO_RCVTIMEO, &no_time, sizeof no_time) == 0);
    CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
    CHECK_FAILS(recv(pair.client, &byte, 1, 0), EINTR);
    CHECK(setitimer(ITIMER_REAL, &none, nullptr) == 0);

    // A listener that goes takes those with it that it has not accepted.
    const int client = make(SOCK_STREAM);
    {
        const Listener listener(SOCK_STREAM);
        CHECK(connect_to(client, local_cid, listener.port) == 0);
    }
    CHECK((wait_for(client, POLLRDHUP) & POLLRDHUP) != 0);
    CHECK(recv(client, &byte, 1, 0) == 0);
    close(client);
}

void many_at_once() {
    constexpr int count = 200;
    const Listener listener(SOCK_STREAM, count);
    const int watcher = epoll_create1(0);
    std::vector<int> clients, servers;
    for (int i = 0; i < count; i++) {
        const int client = make(SOCK_STREAM);
        CHECK(connect_to(client, local_cid, listener.port) == 0);
        const std::string text = "client " + std::to_string(i);
        CHECK(write(client, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
        clients.push_back(client);
    }
    for (int i = 0; i < count; i++) {
        const int server = accept(listener.fd, nullptr, nullptr);
        CHECK(server >= 0);
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.fd = server;
        CHECK(epoll_ctl(watcher, EPOLL_CTL_ADD, server, &event) == 0);
        servers.push_back(server);
    }
    for (int answered = 0; answered < count;) {
        epoll_event events[16];
        const int ready = epoll_wait(watcher, events, 16, 10'000);
        CHECK(ready > 0);
        for (int i = 0; i < ready; i++) {
            char text[32];
            const ssize_t got = read(events[i].data.fd, text, sizeof text);
            CHECK(got > 0);
            CHECK(write(events[i].data.fd, text, static_cast<std::size_t>(got)) == got);
            answered++;
        }
    }
    for (int i = 0; i < count; i++) {
        char text[32];
        const ssize_t got = read(clients[static_cast<std::size_t>(i)], text, sizeof text);
        CHECK(got > 0);
        CHECK(std::string(text, static_cast<std::size_t>(got)) == "client " + std::to_string(i));
    }
    for (const int fd : clients)
        close(fd);
    for (const int fd : servers)
        close(fd);
    close(watcher);
}

} // namespace

int main(int argc, char** argv) {
    alarm(120); // what hangs is a failure
    creation();
    unconnected(SOCK_STREAM);
    unconnected(SOCK_SEQPACKET);
    reserved_ports();
    options();
    device_node();
    if (!loopback_there()) {
        std::puts("no vsock loopback here: connections were not checked");
        return argc > 1 && std::strcmp(argv[1], "loopback") == 0 ? 1 : 0;
    }
    names_and_states();
    refusal();
    without_blocking();
    backlog();
    largest_backlog();
    streams();
    half_closes();
    broken_pipes(SOCK_STREAM);
    broken_pipes(SOCK_SEQPACKET);
    packets();
    timeouts_and_signals();
    many_at_once();
    return 0;
}
