// send(2), recv(2), sendfile(2), splice(2), io_uring(7) on TCP sockets: what arrives, in which
// pieces, with which flags; then many connections at once and one after the other.
#include <algorithm>
#include <thread>

#include <linux/errqueue.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tests/guest/tcp_support.hpp"

using namespace tcp_tests;

namespace {

char byte;

void flags_of_receiving() {
    Pair pair = connected();
    send_all(pair.client, "abcdef");
    (void)wait_for(pair.server, POLLIN);
    char text[64] = {};
    CHECK(recv(pair.server, text, 3, MSG_PEEK) == 3 && std::memcmp(text, "abc", 3) == 0);
    CHECK(recv(pair.server, text, sizeof text, MSG_PEEK) == 6);
    // MSG_TRUNC throws away instead of copying.
    std::memset(text, '#', sizeof text);
    CHECK(recv(pair.server, text, 2, MSG_TRUNC) == 2 && text[0] == '#');
    CHECK(recv(pair.server, nullptr, 1, MSG_TRUNC) == 1);
    CHECK(recv(pair.server, text, sizeof text, 0) == 3 && std::memcmp(text, "def", 3) == 0);
    CHECK_FAILS(recv(pair.server, text, sizeof text, MSG_DONTWAIT | MSG_PEEK), EAGAIN);
    CHECK_FAILS(recv(pair.server, text, sizeof text, MSG_ERRQUEUE), EAGAIN);
    // MSG_WAITALL waits for everything, MSG_DONTWAIT takes precedence.
    std::thread slow([&] {
        send_all(pair.client, "12");
        usleep(20'000);
        send_all(pair.client, "34");
        usleep(20'000);
        send_all(pair.client, "56");
    });
    CHECK(recv(pair.server, text, 6, MSG_WAITALL) == 6 && std::memcmp(text, "123456", 6) == 0);
    slow.join();
    send_all(pair.client, "tail");
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    CHECK(recv(pair.server, text, sizeof text, MSG_WAITALL) == 4); // the end comes first
    CHECK(recv(pair.server, text, sizeof text, MSG_WAITALL) == 0);
    // Addresses are not told by streams, and flags are.
    send_all(pair.server, "xyz");
    sockaddr_in from{};
    from.sin_port = 77;
    iovec parts[2] = {{text, 1}, {text + 1, 1}};
    msghdr message{};
    message.msg_name = &from;
    message.msg_namelen = sizeof from;
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    message.msg_flags = -1;
    CHECK(recvmsg(pair.client, &message, 0) == 2);
    CHECK(message.msg_namelen == 0 && message.msg_flags == 0 && from.sin_port == 77);
    CHECK_FAILS(recv(pair.client, reinterpret_cast<void*>(8), 8, 0), EFAULT);
    CHECK(recv(pair.client, &byte, 1, 0) == 1 && byte == 'z'); // it is there still
    pair.close();
}

void pieces_of_sending() {
    Pair pair = connected();
    std::string one(5000, '1'), two(1, '2'), three(70'000, '3');
    iovec parts[4] = {{one.data(), one.size()},
                      {nullptr, 0},
                      {two.data(), two.size()},
                      {three.data(), three.size()}};
    std::thread writer([&] { CHECK(writev(pair.client, parts, 4) == 75'001); });
    CHECK(receive_exactly(pair.server, 75'001) == one + two + three);
    writer.join();
    // An address is not looked at once connected.
    const sockaddr_in elsewhere = address4("192.0.2.7", 9);
    CHECK(sendto(pair.client, "x", 1, 0, general(elsewhere), sizeof elsewhere) == 1);
    CHECK(receive_exactly(pair.server, 1) == "x");
    // A bad address after good data: the good part goes.
    const long page = sysconf(_SC_PAGESIZE);
    auto* memory =
        static_cast<char*>(mmap(nullptr, static_cast<size_t>(2 * page), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(memory != MAP_FAILED && munmap(memory + page, static_cast<size_t>(page)) == 0);
    std::memset(memory, 'm', static_cast<size_t>(page));
    CHECK_FAILS(send(pair.client, memory + page, 10, 0), EFAULT);
    const ssize_t sent = send(pair.client, memory + page - 100, 200, 0);
    CHECK(sent == 100 || (sent == -1 && errno == EFAULT));
    if (sent == 100)
        CHECK(receive_exactly(pair.server, 100) == std::string(100, 'm'));
    CHECK(send(pair.client, "", 0, 0) == 0);
    CHECK(ready(pair.server) == POLLOUT);
    mmsghdr messages[3] = {};
    iovec letters[3];
    const char* words[3] = {"ab", "c", "def"};
    for (size_t i = 0; i < 3; i++) {
        letters[i] = {const_cast<char*>(words[i]), std::strlen(words[i])};
        messages[i].msg_hdr.msg_iov = &letters[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    CHECK(sendmmsg(pair.client, messages, 3, 0) == 3);
    CHECK(messages[2].msg_len == 3);
    CHECK(receive_exactly(pair.server, 6) == "abcdef");
    pair.close();
}

// More than all buffers hold, both ways at once, in odd pieces.
void bulk_both_ways() {
    Pair pair = connected();
    const std::string there = pattern(3'000'000, 7), back = pattern(2'000'000, 9);
    const auto write_all = [](int fd, const std::string& text, size_t step) {
        for (size_t at = 0; at < text.size();) {
            const ssize_t now = send(fd, text.data() + at, std::min(step, text.size() - at), 0);
            CHECK(now > 0);
            at += static_cast<size_t>(now);
        }
        CHECK(shutdown(fd, SHUT_WR) == 0);
    };
    std::thread first([&] { write_all(pair.client, there, 77'777); });
    std::thread second([&] { write_all(pair.server, back, 4'321); });
    std::thread third([&] { CHECK(receive_exactly(pair.client, back.size()) == back); });
    CHECK(receive_exactly(pair.server, there.size()) == there);
    first.join();
    second.join();
    third.join();
    CHECK(recv(pair.server, &byte, 1, 0) == 0 && recv(pair.client, &byte, 1, 0) == 0);
    pair.close();
}

void small_buffers() {
    const int listener = listening();
    set(listener, SOL_SOCKET, SO_RCVBUF, 1);
    const Pair pair = connected_to(listener);
    set(pair.client, SOL_SOCKET, SO_SNDBUF, 1);
    const std::string text = pattern(100'000, 3);
    std::thread writer([&] { send_all(pair.client, text); });
    CHECK(receive_exactly(pair.server, text.size()) == text);
    writer.join();
    // A buffer that shrinks while it is full, under a writer that waits.
    non_blocking(pair.client);
    size_t sent = 0;
    for (ssize_t now; (now = send(pair.client, text.data() + sent, text.size() - sent, 0)) > 0;)
        sent += static_cast<size_t>(now);
    set(pair.server, SOL_SOCKET, SO_RCVBUF, 1 << 16);
    CHECK(receive_exactly(pair.server, sent) == text.substr(0, sent));
    CHECK((wait_for(pair.client, POLLOUT) & POLLOUT) != 0);
    close(pair.client);
    close(pair.server);
    close(listener);
}

int file_with(const std::string& text) {
    char name[] = "/tmp/tcp_transfer.XXXXXX";
    const int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    CHECK(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

void files_to_sockets() {
    Pair pair = connected();
    const std::string text = pattern(500'001, 5);
    const int file = file_with(text);
    std::thread reader([&] { CHECK(receive_exactly(pair.server, text.size()) == text); });
    size_t done = 0;
    while (done < text.size()) {
        const ssize_t now = sendfile(pair.client, file, nullptr, text.size() - done);
        CHECK(now > 0);
        done += static_cast<size_t>(now);
    }
    reader.join();
    CHECK(sendfile(pair.client, file, nullptr, 10) == 0); // its end
    CHECK(lseek(file, 0, SEEK_CUR) == static_cast<off_t>(text.size()));
    off_t from = 12'345;
    CHECK(sendfile(pair.client, file, &from, 1000) == 1000 && from == 13'345);
    CHECK(receive_exactly(pair.server, 1000) == text.substr(12'345, 1000));
    // What is changed in the file afterwards may or may not be seen; what was read is the stream's.
    CHECK_FAILS(sendfile(file, pair.client, nullptr, 10), EINVAL);
    non_blocking(pair.client);
    from = 0;
    while (sendfile(pair.client, file, &from, text.size()) > 0)
        from = 0;
    CHECK(errno == EAGAIN);
    close(pair.server);
    CHECK((wait_for(pair.client, POLLERR) & POLLERR) != 0);
    pair.close();
    close(file);
}

void sockets_and_pipes() {
    Pair pair = connected();
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    const std::string text = pattern(200'000, 11);
    std::thread feeder([&] {
        for (size_t at = 0; at < text.size();) {
            const ssize_t now = write(pipes[1], text.data() + at, text.size() - at);
            CHECK(now > 0);
            at += static_cast<size_t>(now);
        }
    });
    std::thread mover([&] {
        for (size_t at = 0; at < text.size();) {
            const ssize_t now =
                splice(pipes[0], nullptr, pair.client, nullptr, text.size() - at, 0);
            CHECK(now > 0);
            at += static_cast<size_t>(now);
        }
    });
    CHECK(receive_exactly(pair.server, text.size()) == text);
    feeder.join();
    mover.join();
    // And from the socket into the pipe, no more than there is.
    send_all(pair.client, "into the pipe");
    CHECK(splice(pair.server, nullptr, pipes[1], nullptr, 1 << 16, 0) == 13);
    char out[16];
    CHECK(read(pipes[0], out, sizeof out) == 13 && std::memcmp(out, "into the pipe", 13) == 0);
    non_blocking(pair.server);
    CHECK_FAILS(splice(pair.server, nullptr, pipes[1], nullptr, 100, 0), EAGAIN);
    off_t offset = 0;
    CHECK_FAILS(splice(pair.server, &offset, pipes[1], nullptr, 100, 0), EINVAL);
    CHECK(shutdown(pair.client, SHUT_WR) == 0);
    CHECK(splice(pair.server, nullptr, pipes[1], nullptr, 100, 0) == 0);
    close(pipes[0]);
    close(pipes[1]);
    pair.close();
}

// MSG_ZEROCOPY: each send is numbered, and the error queue tells when its memory is free.
void zero_copy() {
    Pair pair = connected();
    const std::string text = pattern(100'000, 13);
    CHECK(send(pair.client, "ignored", 7, MSG_ZEROCOPY) == 7); // without SO_ZEROCOPY: a plain send
    CHECK(receive_exactly(pair.server, 7) == "ignored");
    CHECK_FAILS(recv(pair.client, &byte, 1, MSG_ERRQUEUE), EAGAIN);
    set(pair.client, SOL_SOCKET, SO_ZEROCOPY, 1);
    for (unsigned i = 0; i < 3; i++) {
        std::thread reader([&] { CHECK(receive_exactly(pair.server, text.size()) == text); });
        CHECK(send(pair.client, text.data(), text.size(), MSG_ZEROCOPY) == 100'000);
        reader.join();
    }
    unsigned next = 0;
    while (next < 3) {
        CHECK((wait_for(pair.client, 0) & POLLERR) != 0);
        alignas(cmsghdr) char control[128];
        msghdr message{};
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        CHECK(recvmsg(pair.client, &message, MSG_ERRQUEUE) == 0);
        CHECK((message.msg_flags & MSG_ERRQUEUE) != 0);
        const cmsghdr* header = CMSG_FIRSTHDR(&message);
        CHECK(header != nullptr && header->cmsg_level == SOL_IP && header->cmsg_type == IP_RECVERR);
        sock_extended_err told{};
        std::memcpy(&told, CMSG_DATA(header), sizeof told);
        CHECK(told.ee_errno == 0 && told.ee_origin == SO_EE_ORIGIN_ZEROCOPY);
        CHECK(told.ee_code == SO_EE_CODE_ZEROCOPY_COPIED); // over the loopback
        CHECK(told.ee_info == next && told.ee_data >= next);
        next = told.ee_data + 1;
    }
    CHECK(next == 3);
    CHECK(ready(pair.client) == POLLOUT);
    CHECK(get(pair.client, SOL_SOCKET, SO_ERROR) == 0);
    pair.close();
}

// The bytes that are left, by ancillary data: TCP_INQ.
void how_much_is_left() {
    Pair pair = connected();
    set(pair.server, IPPROTO_TCP, TCP_INQ, 1);
    send_all(pair.client, "0123456789");
    int waiting = 0;
    while (ioctl(pair.server, FIONREAD, &waiting) == 0 && waiting < 10)
        usleep(1000);
    char text[4];
    iovec one{text, sizeof text};
    alignas(cmsghdr) char control[64];
    msghdr message{};
    message.msg_iov = &one;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    CHECK(recvmsg(pair.server, &message, 0) == 4);
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    CHECK(header != nullptr && header->cmsg_level == IPPROTO_TCP &&
          header->cmsg_type == TCP_CM_INQ);
    std::memcpy(&waiting, CMSG_DATA(header), sizeof waiting);
    CHECK(waiting == 6);
    pair.close();
}

// A ring of io_uring, as little of it as this needs.
class Ring {
public:
    Ring() {
        io_uring_params params{};
        fd_ = static_cast<int>(syscall(SYS_io_uring_setup, 8, &params));
        CHECK(fd_ >= 0);
        const size_t sq_bytes = params.sq_off.array + params.sq_entries * sizeof(unsigned);
        const size_t cq_bytes = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
        auto* sq = static_cast<char*>(map(sq_bytes, IORING_OFF_SQ_RING));
        auto* cq = static_cast<char*>(map(cq_bytes, IORING_OFF_CQ_RING));
        entries_ = static_cast<io_uring_sqe*>(
            map(params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
        sq_tail_ = reinterpret_cast<unsigned*>(sq + params.sq_off.tail);
        sq_mask_ = *reinterpret_cast<unsigned*>(sq + params.sq_off.ring_mask);
        sq_array_ = reinterpret_cast<unsigned*>(sq + params.sq_off.array);
        cq_head_ = reinterpret_cast<unsigned*>(cq + params.cq_off.head);
        cq_tail_ = reinterpret_cast<unsigned*>(cq + params.cq_off.tail);
        cq_mask_ = *reinterpret_cast<unsigned*>(cq + params.cq_off.ring_mask);
        cqes_ = reinterpret_cast<io_uring_cqe*>(cq + params.cq_off.cqes);
    }
    ~Ring() { close(fd_); }
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    void submit(const io_uring_sqe& entry) {
        const unsigned tail = *sq_tail_;
        entries_[tail & sq_mask_] = entry;
        sq_array_[tail & sq_mask_] = tail & sq_mask_;
        __atomic_store_n(sq_tail_, tail + 1, __ATOMIC_RELEASE);
        CHECK(syscall(SYS_io_uring_enter, fd_, 1, 0, 0, nullptr, 0) == 1);
    }
    // The result of the one that is done next, which must be `wanted`.
    int result_of(uint64_t wanted) {
        while (__atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE) == *cq_head_)
            CHECK(syscall(SYS_io_uring_enter, fd_, 0, 1, IORING_ENTER_GETEVENTS, nullptr, 0) >= 0);
        const io_uring_cqe& done = cqes_[*cq_head_ & cq_mask_];
        CHECK(done.user_data == wanted);
        const int result = done.res;
        __atomic_store_n(cq_head_, *cq_head_ + 1, __ATOMIC_RELEASE);
        return result;
    }
    bool idle() const { return __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE) == *cq_head_; }

private:
    void* map(size_t bytes, off_t what) const {
        void* at =
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, what);
        CHECK(at != MAP_FAILED);
        return at;
    }
    int fd_ = -1;
    io_uring_sqe* entries_ = nullptr;
    unsigned *sq_tail_ = nullptr, *sq_array_ = nullptr, *cq_head_ = nullptr, *cq_tail_ = nullptr;
    unsigned sq_mask_ = 0, cq_mask_ = 0;
    io_uring_cqe* cqes_ = nullptr;
};

io_uring_sqe request(uint8_t opcode, int fd, const void* address, unsigned length, uint64_t mark) {
    io_uring_sqe out{};
    out.opcode = opcode;
    out.fd = fd;
    out.addr = reinterpret_cast<uint64_t>(address);
    out.len = length;
    out.user_data = mark;
    return out;
}

void rings() {
    Ring ring;
    const int listener = listening();
    const sockaddr_in to = address4("127.0.0.1", port_of(listener));
    ring.submit(request(IORING_OP_ACCEPT, listener, nullptr, 0, 1));
    CHECK(ring.idle());
    const int client = stream();
    io_uring_sqe entry = request(IORING_OP_CONNECT, client, &to, 0, 2);
    entry.off = sizeof to;
    Ring other;
    other.submit(entry);
    CHECK(other.result_of(2) == 0);
    const int server = ring.result_of(1);
    CHECK(server >= 0);
    // A receive that waits, then data.
    char text[16] = {};
    ring.submit(request(IORING_OP_RECV, server, text, sizeof text, 3));
    CHECK(ring.idle());
    other.submit(request(IORING_OP_SEND, client, "by ring", 7, 4));
    CHECK(other.result_of(4) == 7);
    CHECK(ring.result_of(3) == 7 && std::memcmp(text, "by ring", 7) == 0);
    // One that is larger than the buffers goes on in the background.
    const std::string large = pattern(3'000'000, 17);
    entry = request(IORING_OP_SEND, client, large.data(), static_cast<unsigned>(large.size()), 5);
    entry.msg_flags = MSG_WAITALL;
    other.submit(entry);
    CHECK(receive_exactly(server, large.size()) == large);
    CHECK(other.result_of(5) == static_cast<int>(large.size()));
    // The end wakes a receive, a reset tells its error.
    ring.submit(request(IORING_OP_RECV, server, text, sizeof text, 6));
    CHECK(shutdown(client, SHUT_WR) == 0);
    CHECK(ring.result_of(6) == 0);
    ring.submit(request(IORING_OP_RECV, client, text, sizeof text, 7));
    reset_on_close(server);
    close(server);
    CHECK(ring.result_of(7) == -ECONNRESET);
    close(client);
    close(listener);
    const int refused = stream();
    entry = request(IORING_OP_CONNECT, refused, &to, 0, 8);
    entry.off = sizeof to;
    ring.submit(entry);
    CHECK(ring.result_of(8) == -ECONNREFUSED);
    close(refused);
}

void many_connections() {
    constexpr int count = 2000;
    rlimit limit{};
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < 2 * count + 100) {
        limit.rlim_cur = 2 * count + 100;
        if (limit.rlim_max < limit.rlim_cur)
            limit.rlim_max = limit.rlim_cur;
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    }
    const int listener = listening(128);
    std::vector<Pair> pairs;
    for (int i = 0; i < count; i++)
        pairs.push_back(connected_to(listener));
    for (int i = 0; i < count; i++)
        CHECK(write(pairs[static_cast<size_t>(i)].client, &i, sizeof i) == sizeof i);
    for (int i = count - 1; i >= 0; i--) {
        int seen = -1;
        CHECK(read(pairs[static_cast<size_t>(i)].server, &seen, sizeof seen) == sizeof seen);
        CHECK(seen == i);
    }
    for (Pair& pair : pairs)
        pair.close();
    close(listener);
}

// A client that comes and goes: its ports lie in TIME-WAIT behind it, on the server's side. More of
// them than there are ports, if SHORT_CONNECTIONS says so.
void short_connections() {
    const char* const wanted = getenv("SHORT_CONNECTIONS");
    const int count = wanted != nullptr ? std::atoi(wanted) : 2'000;
    const int listener = listening(128);
    for (int i = 0; i < count; i++) {
        const Pair pair = connected_to(listener);
        CHECK(send(pair.server, "hello", 5, 0) == 5);
        close(pair.server);
        char text[8];
        CHECK(recv(pair.client, text, sizeof text, MSG_WAITALL) == 5);
        CHECK(std::memcmp(text, "hello", 5) == 0);
        close(pair.client);
    }
    close(listener);
}

} // namespace

int main(int argc, char** argv) {
    static constexpr Case cases[] = {
        {"flags_of_receiving", flags_of_receiving},
        {"pieces_of_sending", pieces_of_sending},
        {"bulk_both_ways", bulk_both_ways},
        {"small_buffers", small_buffers},
        {"files_to_sockets", files_to_sockets},
        {"sockets_and_pipes", sockets_and_pipes},
        {"zero_copy", zero_copy},
        {"how_much_is_left", how_much_is_left},
        {"rings", rings},
        {"many_connections", many_connections},
        {"short_connections", short_connections},
    };
    return run_cases(cases, argc, argv);
}
