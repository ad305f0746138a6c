// Descriptors and credentials through Unix sockets. unix(7), cmsg(3).
#include <atomic>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <linux/io_uring.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

ssize_t try_to_send(int through, const std::vector<int>& files, const char* text) {
    alignas(cmsghdr) char control[CMSG_SPACE(253 * sizeof(int))] = {};
    iovec part{const_cast<char*>(text), std::strlen(text)};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(files.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(files.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), files.data(), files.size() * sizeof(int));
    return sendmsg(through, &message, 0);
}

void send_files(int through, const std::vector<int>& files, const char* text) {
    CHECK(try_to_send(through, files, text) == static_cast<ssize_t>(std::strlen(text)));
}

struct Received {
    std::string text;
    std::vector<int> files;
    bool has_credentials = false;
    ucred credentials{};
    int flags = 0;
};

Received receive(int from, size_t room_for, int flags = 0, size_t bytes = 64) {
    alignas(cmsghdr) char control[1024];
    std::string buffer(bytes, '\0');
    iovec part{buffer.data(), buffer.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = room_for;
    const ssize_t got = recvmsg(from, &message, flags);
    CHECK(got >= 0);
    Received out;
    out.text = buffer.substr(0, static_cast<size_t>(got));
    out.flags = message.msg_flags;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
        CHECK(header->cmsg_level == SOL_SOCKET);
        if (header->cmsg_type == SCM_RIGHTS) {
            out.files.resize((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            std::memcpy(out.files.data(), CMSG_DATA(header), out.files.size() * sizeof(int));
        } else {
            CHECK(header->cmsg_type == SCM_CREDENTIALS);
            CHECK(header->cmsg_len == CMSG_LEN(sizeof(ucred)));
            out.has_credentials = true;
            std::memcpy(&out.credentials, CMSG_DATA(header), sizeof(ucred));
        }
    }
    return out;
}

bool open_here(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

void passing(int type) {
    int s[2], p[2];
    CHECK(socketpair(AF_UNIX, type, 0, s) == 0);
    CHECK(pipe(p) == 0);
    send_files(s[0], {p[0], p[1]}, "pipe");
    Received peeked = receive(s[1], 256, MSG_PEEK);
    CHECK(peeked.files.size() == 2);
    Received got = receive(s[1], 256, MSG_CMSG_CLOEXEC);
    CHECK(got.text == "pipe" && got.files.size() == 2);
    CHECK(fcntl(got.files[0], F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(peeked.files[0], F_GETFD) == 0);
    CHECK(write(p[1], "x", 1) == 1);
    char byte = 0;
    CHECK(read(got.files[0], &byte, 1) == 1 && byte == 'x');
    // Without room for all, the others are closed.
    send_files(s[0], {p[0], p[0], p[0]}, "more");
    Received some = receive(s[1], CMSG_LEN(sizeof(int)));
    CHECK(some.files.size() == 1 && (some.flags & MSG_CTRUNC) != 0);
    send_files(s[0], {p[0]}, "none");
    CHECK((receive(s[1], 0).flags & MSG_CTRUNC) != 0);
    for (const auto* files : {&peeked.files, &got.files, &some.files})
        for (const int fd : *files)
            close(fd);
    // The last writer is in a message: when the message goes, so does it.
    send_files(s[0], {p[1]}, "last");
    close(p[1]);
    pollfd watched{p[0], POLLIN, 0};
    CHECK(poll(&watched, 1, 0) == 0);
    close(s[1]);
    CHECK(poll(&watched, 1, 0) == 1 && (watched.revents & POLLHUP) != 0);
    close(s[0]);
    close(p[0]);
}

void boundaries() {
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK(write(s[0], "before ", 7) == 7);
    send_files(s[0], {0}, "with");
    CHECK(write(s[0], " after", 6) == 6);
    Received first = receive(s[1], 256);
    CHECK(first.text == "before with" && first.files.size() == 1);
    Received second = receive(s[1], 256);
    CHECK(second.text == " after" && second.files.empty());
    close(first.files[0]);
    send_files(s[0], {0}, "read drops them");
    char buffer[64];
    const int next = dup(0);
    close(next);
    CHECK(read(s[1], buffer, sizeof buffer) == 15);
    CHECK(!open_here(next));
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    iovec part{buffer, 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int wrong = 999;
    std::memcpy(CMSG_DATA(header), &wrong, sizeof wrong);
    CHECK_FAILS(sendmsg(s[0], &message, 0), EBADF);
    header->cmsg_len = 4;
    CHECK_FAILS(sendmsg(s[0], &message, 0), EINVAL);
    close(s[0]);
    close(s[1]);
}

// What is only a place can be passed, and stays no more than that.
void places() {
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    const int root = open("/", O_PATH | O_DIRECTORY);
    CHECK(root >= 0);
    send_files(s[0], {root}, "place");
    const Received got = receive(s[1], 256);
    CHECK(got.files.size() == 1);
    struct stat sent {
    }, arrived{};
    CHECK(fstat(root, &sent) == 0 && fstat(got.files[0], &arrived) == 0);
    CHECK(sent.st_ino == arrived.st_ino && sent.st_dev == arrived.st_dev);
    CHECK((fcntl(got.files[0], F_GETFL) & O_PATH) != 0);
    char byte;
    CHECK_FAILS(read(got.files[0], &byte, 1), EBADF);
    for (const int fd : {s[0], s[1], root, got.files[0]})
        close(fd);
}

// A ring that has a socket registered would keep it, and in that socket's queue be kept by it.
void rings() {
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
    io_uring_params parameters{};
    const int ring = static_cast<int>(syscall(SYS_io_uring_setup, 1, &parameters));
    if (ring >= 0) // it may be forbidden
        CHECK_FAILS(try_to_send(s[0], {s[1], ring}, "ring"), EINVAL);
    char byte;
    CHECK_FAILS(recv(s[1], &byte, 1, MSG_DONTWAIT), EAGAIN);
    for (const int fd : {s[0], s[1], ring})
        close(fd);
}

void credentials() {
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
    const int on = 1;
    CHECK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    CHECK(write(s[0], "who", 3) == 3);
    Received got = receive(s[1], 256);
    CHECK(got.has_credentials && got.credentials.pid == getpid() &&
          got.credentials.uid == getuid() && got.credentials.gid == getgid());
    send_files(s[0], {0}, "both");
    got = receive(s[1], 256);
    CHECK(got.has_credentials && got.files.size() == 1);
    close(got.files[0]);
    close(s[0]);
    close(s[1]);
}

// Sockets that only lie in each other's queues must not stay: the pipe's writer is among them.
void cycles() {
    int p[2];
    CHECK(pipe(p) == 0);
    for (int round = 0; round < 50; round++) {
        int a[2], b[2];
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, a) == 0);
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, b) == 0);
        send_files(a[0], {b[1]}, "b in a");
        send_files(b[0], {a[1]}, "a in b");
        send_files(a[0], {p[1]}, "pipe in a");
        for (const int fd : {a[0], a[1], b[0], b[1]})
            close(fd);
    }
    int self[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, self) == 0);
    send_files(self[0], {self[1], p[1]}, "itself");
    close(self[1]);
    close(self[0]);
    close(p[1]);
    // The kernel may take its time (Linux collects in a work queue).
    pollfd watched{p[0], POLLIN, 0};
    CHECK(poll(&watched, 1, 5000) == 1 && (watched.revents & POLLHUP) != 0);
    close(p[0]);
}

// Closed cycles count no longer when others are sent, although no socket has ended meanwhile: in
// all these are more than may be in flight at once.
void many_cycles() {
    // Linux lets others than root have no more in flight than they may have open.
    const int rounds = geteuid() == 0 ? 300 : 3;
    for (int round = 0; round < rounds; round++) {
        int s[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
        send_files(s[0], std::vector<int>(240, s[round % 2]), "one of the two");
        send_files(s[1], std::vector<int>(2, s[(round + 1) % 2]), "the other");
        close(s[0]);
        close(s[1]);
    }
}

// Who may not have more files open may not have more of them in messages, either: else one user
// could take what all can have in flight. What has arrived counts no longer.
void one_users_share() {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        constexpr rlim_t most = 64;
        const rlimit limit{most, most};
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        constexpr uid_t nobody_else = 61234;
        if (geteuid() == 0)
            CHECK(setresuid(nobody_else, nobody_else, nobody_else) == 0);
        int s[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
        unsigned sent = 0;
        while (sent <= 2 * most && try_to_send(s[0], {s[0]}, "x") == 1)
            sent++;
        CHECK(errno == ETOOMANYREFS && sent <= most + 1);
        CHECK_FAILS(try_to_send(s[0], {s[0]}, "x"), ETOOMANYREFS);
        for (unsigned i = 0; i < sent; i++)
            for (const int fd : receive(s[1], 256, 0, 1).files)
                close(fd);
        CHECK(try_to_send(s[0], {s[0]}, "x") == 1);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

// A socket that is peeked out of a queue is not garbage, although the queue's own socket is closed
// right after that and all that refers to either was in messages when somebody began to count. The
// sockets between the two in the list of those in flight make counting take its time.
void peeking() {
    constexpr int fillers = 200, rounds = 50;
    std::vector<int> filler;
    for (int i = 0; i < fillers / 2; i++) {
        int s[2];
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
        filler.insert(filler.end(), {s[0], s[1]});
    }
    int p[2];
    CHECK(pipe(p) == 0);
    std::atomic<bool> over{false};
    std::thread collector([&] {
        while (!over) {
            int s[2];
            CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
            close(s[0]); // each end of a socket looks for cycles
            close(s[1]);
        }
    });
    for (int round = 0; round < rounds; round++) {
        int a[2], b[2], c[2], between[2];
        for (int* pair : {a, b, c, between})
            CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
        send_files(b[0], {p[1]}, "kept");
        send_files(c[0], {a[1]}, "a in c");
        send_files(between[0], filler, "between");
        send_files(a[0], {b[1]}, "b in a");
        send_files(a[0], {c[1]}, "c in a");
        for (const int fd : {a[0], b[0], b[1], c[0], c[1]})
            close(fd);
        for (int wait = 0; wait < round % 50; wait++)
            sched_yield();
        const Received peeked = receive(a[1], 256, MSG_PEEK);
        close(a[1]);
        CHECK(peeked.files.size() == 1);
        const Received kept = receive(peeked.files[0], 256, MSG_DONTWAIT);
        CHECK(kept.text == "kept" && kept.files.size() == 1);
        for (const int fd : {kept.files[0], peeked.files[0], between[0], between[1]})
            close(fd);
    }
    over = true;
    collector.join();
    filler.insert(filler.end(), {p[0], p[1]});
    for (const int fd : filler)
        close(fd);
}

// Closing the outermost closes all.
void chain() {
    int p[2], outer[2];
    CHECK(pipe(p) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, outer) == 0);
    int inner = p[1];
    for (int depth = 0; depth < 100; depth++) {
        int s[2];
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0);
        send_files(s[0], {inner}, "deeper");
        close(inner);
        close(s[0]);
        inner = s[1];
        if (depth == 2)
            break; // Linux refuses long chains (ETOOMANYREFS)
    }
    send_files(outer[0], {inner}, "outermost");
    close(inner);
    close(outer[0]);
    close(outer[1]);
    pollfd watched{p[0], POLLIN, 0};
    CHECK(poll(&watched, 1, 5000) == 1 && (watched.revents & POLLHUP) != 0);
    close(p[0]);
}

} // namespace

int main() {
    for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET})
        passing(type);
    boundaries();
    places();
    rings();
    credentials();
    cycles();
    many_cycles();
    one_users_share();
    peeking();
    chain();
}
