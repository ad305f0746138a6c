// io_uring(7), by its system calls and the memory of its rings.
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string>
#include <thread>
#include <unistd.h>

#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/stat.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"
#include "tests/guest/process_support.hpp"

namespace {

struct Ring {
    int fd = -1;
    io_uring_params parameters{};
    char* rings = nullptr;
    io_uring_sqe* entries = nullptr;
    size_t ring_bytes = 0;

    explicit Ring(unsigned size, unsigned flags = 0) {
        parameters.flags = flags;
        open(size);
    }
    Ring(unsigned size, const io_uring_params& wanted) : parameters(wanted) { open(size); }
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;
    ~Ring() {
        munmap(rings, ring_bytes);
        munmap(entries, parameters.sq_entries * sizeof(io_uring_sqe));
        close(fd);
    }
    void open(unsigned size) {
        fd = static_cast<int>(syscall(SYS_io_uring_setup, size, &parameters));
        CHECK(fd >= 0);
        const size_t sq = parameters.sq_off.array + parameters.sq_entries * sizeof(unsigned);
        const size_t cq = parameters.cq_off.cqes + parameters.cq_entries * sizeof(io_uring_cqe);
        ring_bytes = sq > cq ? sq : cq;
        rings = static_cast<char*>(
            mmap(nullptr, ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING));
        CHECK(rings != MAP_FAILED);
        entries = static_cast<io_uring_sqe*>(
            mmap(nullptr, parameters.sq_entries * sizeof(io_uring_sqe), PROT_READ | PROT_WRITE,
                 MAP_SHARED, fd, IORING_OFF_SQES));
        CHECK(entries != MAP_FAILED);
    }
    unsigned* sq(unsigned offset) { return reinterpret_cast<unsigned*>(rings + offset); }
    // A fresh entry, queued but not submitted.
    io_uring_sqe& add(int operation, int file, uint64_t data) {
        unsigned* tail = sq(parameters.sq_off.tail);
        const unsigned index = *tail & (parameters.sq_entries - 1);
        sq(parameters.sq_off.array)[index] = index;
        io_uring_sqe& entry = entries[index];
        memset(&entry, 0, sizeof entry);
        entry.opcode = static_cast<uint8_t>(operation);
        entry.fd = file;
        entry.user_data = data;
        __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
        return entry;
    }
    long enter(unsigned submit, unsigned least, unsigned flags = IORING_ENTER_GETEVENTS) {
        return syscall(SYS_io_uring_enter, fd, submit, least, flags, nullptr, 0);
    }
    bool next(io_uring_cqe& out) {
        unsigned* head = sq(parameters.cq_off.head);
        const unsigned tail = __atomic_load_n(sq(parameters.cq_off.tail), __ATOMIC_ACQUIRE);
        if (*head == tail)
            return false;
        out = reinterpret_cast<io_uring_cqe*>(
            rings + parameters.cq_off.cqes)[*head & (parameters.cq_entries - 1)];
        __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
        return true;
    }
    // Waits for one completion.
    io_uring_cqe wait() {
        io_uring_cqe out{};
        while (!next(out))
            CHECK(enter(0, 1) >= 0);
        return out;
    }
    // Submits what was added; the one completion of it.
    int run() {
        const unsigned count = *sq(parameters.sq_off.tail) - *sq(parameters.sq_off.head);
        CHECK(enter(count, 1) == static_cast<long>(count));
        return wait().res;
    }
    long registers(unsigned operation, const void* argument, unsigned count) {
        return syscall(SYS_io_uring_register, fd, operation, argument, count);
    }
};

uint64_t address(const void* pointer) {
    return reinterpret_cast<uint64_t>(pointer);
}

void setup() {
    io_uring_params parameters{};
    CHECK_FAILS(syscall(SYS_io_uring_setup, 0, &parameters), EINVAL);
    CHECK_FAILS(syscall(SYS_io_uring_setup, 4, nullptr), EFAULT);
    CHECK_FAILS(syscall(SYS_io_uring_setup, 1 << 20, &parameters), EINVAL);
    parameters.flags = 1u << 31;
    CHECK_FAILS(syscall(SYS_io_uring_setup, 4, &parameters), EINVAL);
    parameters = {};
    parameters.resv[1] = 1;
    CHECK_FAILS(syscall(SYS_io_uring_setup, 4, &parameters), EINVAL);
    Ring ring(5);
    CHECK(ring.parameters.sq_entries == 8 && ring.parameters.cq_entries == 16);
    CHECK((ring.parameters.features & IORING_FEAT_SINGLE_MMAP) != 0);
    CHECK((fcntl(ring.fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK_FAILS(syscall(SYS_io_uring_enter, ring.fd, 0, 0, 1u << 30, nullptr, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_io_uring_enter, -1, 0, 0, 0, nullptr, 0), EBADF);
    const int other = eventfd(0, 0);
    CHECK_FAILS(syscall(SYS_io_uring_enter, other, 0, 0, 0, nullptr, 0), EOPNOTSUPP);
    close(other);
    parameters = {};
    parameters.flags = IORING_SETUP_CQSIZE;
    parameters.cq_entries = 64;
    Ring sized(4, parameters);
    CHECK(sized.parameters.cq_entries == 64);
}

void plain_files() {
    Ring ring(8);
    ring.add(IORING_OP_NOP, -1, 42);
    CHECK(ring.enter(1, 1) == 1);
    io_uring_cqe done = ring.wait();
    CHECK(done.user_data == 42 && done.res == 0 && done.flags == 0);

    const int file = memfd_create("ring", 0);
    char text[] = "0123456789";
    io_uring_sqe* entry = &ring.add(IORING_OP_WRITE, file, 1);
    entry->addr = address(text);
    entry->len = 10;
    CHECK(ring.run() == 10);
    iovec parts[2] = {{text, 4}, {text + 4, 2}};
    entry = &ring.add(IORING_OP_WRITEV, file, 1);
    entry->addr = address(parts);
    entry->len = 2;
    entry->off = 10;
    CHECK(ring.run() == 6);
    char back[32] = {};
    entry = &ring.add(IORING_OP_READ, file, 1);
    entry->addr = address(back);
    entry->len = sizeof back;
    CHECK(ring.run() == 16 && memcmp(back, "0123456789012345", 16) == 0);
    entry = &ring.add(IORING_OP_FSYNC, file, 1);
    CHECK(ring.run() == 0);
    entry = &ring.add(IORING_OP_FALLOCATE, file, 1);
    entry->addr = 4096; // the length
    CHECK(ring.run() == 0);
    struct stat status {};
    CHECK(fstat(file, &status) == 0 && status.st_size == 4096);
    // The file's own position.
    CHECK(lseek(file, 3, SEEK_SET) == 3);
    entry = &ring.add(IORING_OP_READ, file, 1);
    entry->addr = address(back);
    entry->len = 2;
    entry->off = ~uint64_t{0};
    CHECK(ring.run() == 2 && back[0] == '3' && lseek(file, 0, SEEK_CUR) == 5);
    // What is refused.
    ring.add(IORING_OP_READ, -1, 1);
    CHECK(ring.run() == -EBADF);
    ring.add(200, file, 1);
    CHECK(ring.run() == -EINVAL);
    entry = &ring.add(IORING_OP_READ, file, 1);
    entry->addr = 8;
    entry->len = 8;
    CHECK(ring.run() == -EFAULT);
    // Registered buffers.
    iovec buffer{back, sizeof back};
    CHECK(ring.registers(IORING_REGISTER_BUFFERS, &buffer, 1) == 0);
    entry = &ring.add(IORING_OP_READ_FIXED, file, 1);
    entry->addr = address(back + 8);
    entry->len = 8;
    CHECK(ring.run() == 8 && memcmp(back + 8, "01234567", 8) == 0);
    entry = &ring.add(IORING_OP_READ_FIXED, file, 1);
    entry->addr = address(back + 28);
    entry->len = 8;
    CHECK(ring.run() == -EFAULT);
    CHECK(ring.registers(IORING_UNREGISTER_BUFFERS, nullptr, 0) == 0);
    CHECK_FAILS(ring.registers(IORING_UNREGISTER_BUFFERS, nullptr, 0), ENXIO);
    close(file);
}

void hostile_indices() {
    Ring ring(4);
    ring.add(IORING_OP_NOP, -1, 1);
    ring.sq(ring.parameters.sq_off.array)[0] = 0xffff'ffff;
    (void)ring.enter(1, 0);
    CHECK(*ring.sq(ring.parameters.sq_off.dropped) == 1);
    *ring.sq(ring.parameters.cq_off.head) += 0x1234'5678;
    *ring.sq(ring.parameters.sq_off.tail) += 0x7000'0000;
    (void)ring.enter(4, 0);
}

// An entry that cannot be a request ends the submission, unless IORING_SETUP_SUBMIT_ALL is set.
void malformed() {
    for (const unsigned flags : {0u, unsigned{IORING_SETUP_SUBMIT_ALL}}) {
        Ring ring(8, flags);
        char text[4];
        ring.add(IORING_OP_NOP, -1, 1);
        io_uring_sqe& entry = ring.add(IORING_OP_READ, -1, 2);
        entry.addr = address(text);
        entry.ioprio = 0xffff;
        ring.add(IORING_OP_NOP, -1, 3);
        CHECK(ring.enter(3, 2) == (flags != 0 ? 3 : 2));
        CHECK(ring.wait().res == 0);
        const io_uring_cqe done = ring.wait();
        CHECK(done.user_data == 2 && done.res == -EINVAL);
    }
}

void links() {
    Ring ring(16);
    const int file = memfd_create("links", 0);
    char text[] = "abcdef";
    io_uring_sqe* entry = &ring.add(IORING_OP_WRITE, file, 1);
    entry->addr = address(text);
    entry->len = 6;
    entry->flags = IOSQE_IO_LINK;
    char back[8] = {};
    entry = &ring.add(IORING_OP_READ, file, 2);
    entry->addr = address(back);
    entry->len = 6;
    CHECK(ring.enter(2, 2) == 2);
    CHECK(ring.wait().user_data == 1);
    CHECK(ring.wait().user_data == 2 && memcmp(back, "abcdef", 6) == 0);
    // A failure ends the chain, unless it is a hard one.
    ring.add(IORING_OP_FSYNC, -1, 3).flags = IOSQE_IO_LINK;
    ring.add(IORING_OP_NOP, -1, 4);
    CHECK(ring.enter(2, 2) == 2);
    io_uring_cqe done = ring.wait();
    CHECK(done.user_data == 3 && done.res == -EBADF);
    done = ring.wait();
    CHECK(done.user_data == 4 && done.res == -ECANCELED);
    ring.add(IORING_OP_FSYNC, -1, 5).flags = IOSQE_IO_HARDLINK;
    ring.add(IORING_OP_NOP, -1, 6);
    CHECK(ring.enter(2, 2) == 2);
    CHECK(ring.wait().res == -EBADF);
    CHECK(ring.wait().res == 0);
    // Success that is not told.
    ring.add(IORING_OP_NOP, -1, 7).flags = IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_LINK;
    ring.add(IORING_OP_NOP, -1, 8);
    CHECK(ring.enter(2, 1) == 2);
    CHECK(ring.wait().user_data == 8);
    CHECK(!ring.next(done));
    close(file);
}

// Drained: after all before it. (A ring that has skipped completions refuses this on Linux.)
void drained() {
    Ring ring(16);
    char back[8] = {};
    io_uring_sqe* entry = nullptr;
    io_uring_cqe done{};
    int ends[2];
    CHECK(pipe(ends) == 0);
    entry = &ring.add(IORING_OP_READ, ends[0], 9);
    entry->addr = address(back);
    entry->len = 1;
    ring.add(IORING_OP_NOP, -1, 10).flags = IOSQE_IO_DRAIN;
    CHECK(ring.enter(2, 0) == 2);
    CHECK(!ring.next(done));
    CHECK(write(ends[1], "x", 1) == 1);
    CHECK(ring.wait().user_data == 9);
    CHECK(ring.wait().user_data == 10);
    close(ends[0]);
    close(ends[1]);
}

void waiting() {
    Ring ring(8);
    int ends[2];
    CHECK(pipe(ends) == 0);
    char byte = 0;
    io_uring_cqe done{};
    // A read that waits, served while nobody is in the kernel for it.
    io_uring_sqe* entry = &ring.add(IORING_OP_READ, ends[0], 1);
    entry->addr = address(&byte);
    entry->len = 1;
    CHECK(ring.enter(1, 0) == 1);
    CHECK(!ring.next(done));
    CHECK(write(ends[1], "a", 1) == 1);
    pollfd watch{ring.fd, POLLIN, 0};
    CHECK(poll(&watch, 1, 10'000) == 1);
    CHECK(ring.next(done) && done.res == 1 && byte == 'a');
    // By a worker.
    entry = &ring.add(IORING_OP_READ, ends[0], 2);
    entry->addr = address(&byte);
    entry->len = 1;
    entry->flags = IOSQE_ASYNC;
    CHECK(ring.enter(1, 0) == 1);
    CHECK(write(ends[1], "b", 1) == 1);
    done = ring.wait();
    CHECK(done.user_data == 2 && done.res == 1 && byte == 'b');
    // Poll: once, and many times.
    ring.add(IORING_OP_POLL_ADD, ends[0], 3).poll32_events = POLLIN;
    CHECK(ring.enter(1, 0) == 1);
    CHECK(write(ends[1], "c", 1) == 1);
    done = ring.wait();
    CHECK(done.user_data == 3 && (done.res & POLLIN) != 0 && done.flags == 0);
    CHECK(read(ends[0], &byte, 1) == 1);
    entry = &ring.add(IORING_OP_POLL_ADD, ends[0], 4);
    entry->poll32_events = POLLIN;
    entry->len = IORING_POLL_ADD_MULTI;
    CHECK(ring.enter(1, 0) == 1);
    for (int i = 0; i < 3; i++) {
        CHECK(write(ends[1], "d", 1) == 1);
        done = ring.wait();
        CHECK(done.user_data == 4 && (done.res & POLLIN) != 0);
        CHECK((done.flags & IORING_CQE_F_MORE) != 0);
        CHECK(read(ends[0], &byte, 1) == 1);
    }
    ring.add(IORING_OP_POLL_REMOVE, -1, 5).addr = 4;
    CHECK(ring.enter(1, 2) == 1);
    int seen = 0;
    for (int i = 0; i < 2; i++) {
        done = ring.wait();
        seen += done.user_data == 5 && done.res == 0 ? 1 : 0;
        seen += done.user_data == 4 && done.res == -ECANCELED ? 10 : 0;
    }
    CHECK(seen == 11);
    // Cancelled.
    entry = &ring.add(IORING_OP_READ, ends[0], 6);
    entry->addr = address(&byte);
    entry->len = 1;
    CHECK(ring.enter(1, 0) == 1);
    ring.add(IORING_OP_ASYNC_CANCEL, -1, 7).addr = 6;
    CHECK(ring.enter(1, 2) == 1);
    seen = 0;
    for (int i = 0; i < 2; i++) {
        done = ring.wait();
        seen += done.user_data == 7 && done.res == 0 ? 1 : 0;
        seen += done.user_data == 6 && (done.res == -ECANCELED || done.res == -EINTR) ? 10 : 0;
    }
    CHECK(seen == 11);
    ring.add(IORING_OP_ASYNC_CANCEL, -1, 8).addr = 12345;
    CHECK(ring.run() == -ENOENT);
    close(ends[0]);
    close(ends[1]);
}

// One worker that has nothing to do gets two requests: what the first one waits for is what the
// second one brings.
void workers() {
    int ends[2];
    CHECK(pipe(ends) == 0);
    char byte = 0;
    for (int i = 0; i < 10; i++) {
        Ring ring(4);
        ring.add(IORING_OP_NOP, -1, 1).flags = IOSQE_ASYNC;
        CHECK(ring.run() == 0);
        usleep(5'000);
        io_uring_sqe* entry = &ring.add(IORING_OP_READ, ends[0], 2);
        entry->addr = address(&byte);
        entry->len = 1;
        entry->flags = IOSQE_ASYNC;
        entry = &ring.add(IORING_OP_WRITE, ends[1], 3);
        entry->addr = address("b");
        entry->len = 1;
        entry->flags = IOSQE_ASYNC;
        CHECK(ring.enter(2, 2) == 2);
        CHECK(ring.wait().res == 1);
        CHECK(ring.wait().res == 1);
    }
    close(ends[0]);
    close(ends[1]);
}

void timeouts() {
    Ring ring(8);
    __kernel_timespec brief{0, 5'000'000}, forever{1000, 0};
    io_uring_sqe* entry = &ring.add(IORING_OP_TIMEOUT, -1, 1);
    entry->addr = address(&brief);
    entry->len = 1;
    CHECK(ring.run() == -ETIME);
    // By a count of completions.
    entry = &ring.add(IORING_OP_TIMEOUT, -1, 2);
    entry->addr = address(&forever);
    entry->len = 1;
    entry->off = 1;
    ring.add(IORING_OP_NOP, -1, 3);
    CHECK(ring.enter(2, 2) == 2);
    int sum = 0;
    for (int i = 0; i < 2; i++) {
        const io_uring_cqe done = ring.wait();
        CHECK(done.res == 0);
        sum += static_cast<int>(done.user_data);
    }
    CHECK(sum == 5);
    // Removed.
    entry = &ring.add(IORING_OP_TIMEOUT, -1, 4);
    entry->addr = address(&forever);
    entry->len = 1;
    ring.add(IORING_OP_TIMEOUT_REMOVE, -1, 5).addr = 4;
    CHECK(ring.enter(2, 2) == 2);
    for (int i = 0; i < 2; i++) {
        const io_uring_cqe done = ring.wait();
        CHECK(done.res == (done.user_data == 4 ? -ECANCELED : 0));
    }
    ring.add(IORING_OP_TIMEOUT_REMOVE, -1, 5).addr = 99;
    CHECK(ring.run() == -ENOENT);
    // On a request.
    int ends[2];
    CHECK(pipe(ends) == 0);
    char byte = 0;
    entry = &ring.add(IORING_OP_READ, ends[0], 6);
    entry->addr = address(&byte);
    entry->len = 1;
    entry->flags = IOSQE_IO_LINK;
    entry = &ring.add(IORING_OP_LINK_TIMEOUT, -1, 7);
    entry->addr = address(&brief);
    entry->len = 1;
    CHECK(ring.enter(2, 2) == 2);
    for (int i = 0; i < 2; i++) {
        const io_uring_cqe done = ring.wait();
        if (done.user_data == 6)
            CHECK(done.res == -ECANCELED || done.res == -EINTR);
        else
            CHECK(done.user_data == 7 && done.res == -ETIME);
    }
    CHECK(write(ends[1], "y", 1) == 1);
    entry = &ring.add(IORING_OP_READ, ends[0], 8);
    entry->addr = address(&byte);
    entry->len = 1;
    entry->flags = IOSQE_IO_LINK;
    entry = &ring.add(IORING_OP_LINK_TIMEOUT, -1, 9);
    entry->addr = address(&forever);
    entry->len = 1;
    CHECK(ring.enter(2, 2) == 2);
    for (int i = 0; i < 2; i++) {
        const io_uring_cqe done = ring.wait();
        CHECK(done.res == (done.user_data == 8 ? 1 : -ECANCELED));
    }
    // The wait itself ends in time.
    __kernel_timespec moment{0, 2'000'000};
    io_uring_getevents_arg argument{};
    argument.ts = address(&moment);
    CHECK_FAILS(syscall(SYS_io_uring_enter, ring.fd, 0, 1,
                        IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument, sizeof argument),
                ETIME);
    CHECK_FAILS(syscall(SYS_io_uring_enter, ring.fd, 0, 1,
                        IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument, 3),
                EINVAL);
    close(ends[0]);
    close(ends[1]);
}

void sockets() {
    Ring ring(16);
    const std::string path = "/tmp/joey-ring-" + std::to_string(getpid());
    sockaddr_un where{};
    where.sun_family = AF_UNIX;
    strcpy(where.sun_path, path.c_str());
    io_uring_sqe* entry = &ring.add(IORING_OP_SOCKET, AF_UNIX, 1);
    entry->off = SOCK_STREAM;
    const int listener = ring.run();
    CHECK(listener >= 0);
    CHECK(bind(listener, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0);
    CHECK(listen(listener, 8) == 0);
    const int client = socket(AF_UNIX, SOCK_STREAM, 0);
    ring.add(IORING_OP_ACCEPT, listener, 2);
    CHECK(ring.enter(1, 0) == 1);
    entry = &ring.add(IORING_OP_CONNECT, client, 3);
    entry->addr = address(&where);
    entry->off = sizeof where;
    CHECK(ring.enter(1, 2) == 1);
    int server = -1;
    for (int i = 0; i < 2; i++) {
        const io_uring_cqe done = ring.wait();
        if (done.user_data == 2)
            server = done.res;
        else
            CHECK(done.res == 0);
    }
    CHECK(server >= 0);
    char text[16] = {};
    entry = &ring.add(IORING_OP_RECV, server, 4);
    entry->addr = address(text);
    entry->len = sizeof text;
    CHECK(ring.enter(1, 0) == 1);
    entry = &ring.add(IORING_OP_SEND, client, 5);
    entry->addr = address("hello");
    entry->len = 5;
    CHECK(ring.enter(1, 2) == 1);
    for (int i = 0; i < 2; i++)
        CHECK(ring.wait().res == 5);
    CHECK(memcmp(text, "hello", 5) == 0);
    iovec vector{text, sizeof text};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    entry = &ring.add(IORING_OP_RECVMSG, client, 6);
    entry->addr = address(&message);
    CHECK(ring.enter(1, 0) == 1);
    CHECK(send(server, "there", 5, 0) == 5);
    CHECK(ring.wait().res == 5 && memcmp(text, "there", 5) == 0);
    vector.iov_len = 3;
    entry = &ring.add(IORING_OP_SENDMSG, client, 7);
    entry->addr = address(&message);
    CHECK(ring.run() == 3);
    CHECK(recv(server, text, sizeof text, 0) == 3);
    // Buffers that are chosen when there is something for them.
    static char pool[4][32];
    entry = &ring.add(IORING_OP_PROVIDE_BUFFERS, 4, 8);
    entry->addr = address(pool);
    entry->len = 32;
    entry->buf_group = 7;
    CHECK(ring.run() >= 0);
    entry = &ring.add(IORING_OP_RECV, server, 9);
    entry->len = 32;
    entry->flags = IOSQE_BUFFER_SELECT;
    entry->buf_group = 7;
    CHECK(ring.enter(1, 0) == 1);
    CHECK(send(client, "chosen", 6, 0) == 6);
    io_uring_cqe done = ring.wait();
    CHECK(done.res == 6 && (done.flags & IORING_CQE_F_BUFFER) != 0);
    const unsigned id = done.flags >> IORING_CQE_BUFFER_SHIFT;
    CHECK(id < 4 && memcmp(pool[id], "chosen", 6) == 0);
    entry = &ring.add(IORING_OP_REMOVE_BUFFERS, 8, 10);
    entry->buf_group = 7;
    CHECK(ring.run() == 3);
    entry = &ring.add(IORING_OP_RECV, server, 11);
    entry->flags = IOSQE_BUFFER_SELECT;
    entry->buf_group = 7;
    entry->len = 32;
    CHECK(send(client, "none", 4, 0) == 4);
    CHECK(ring.run() == -ENOBUFS);
    CHECK(recv(server, text, sizeof text, 0) == 4);
    entry = &ring.add(IORING_OP_SHUTDOWN, client, 12);
    entry->len = SHUT_RDWR;
    CHECK(ring.run() == 0);
    CHECK(recv(server, text, sizeof text, 0) == 0);
    ring.add(IORING_OP_CLOSE, client, 13);
    CHECK(ring.run() == 0);
    CHECK_FAILS(fcntl(client, F_GETFD), EBADF);
    // Many connections by one request.
    entry = &ring.add(IORING_OP_ACCEPT, listener, 14);
    entry->ioprio = IORING_ACCEPT_MULTISHOT;
    CHECK(ring.enter(1, 0) == 1);
    for (int i = 0; i < 3; i++) {
        const int another = socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK(connect(another, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0);
        done = ring.wait();
        CHECK(done.user_data == 14 && done.res >= 0 && (done.flags & IORING_CQE_F_MORE) != 0);
        close(done.res);
        close(another);
    }
    close(server);
    close(listener);
    unlink(path.c_str());
}

// O_NONBLOCK is for the system calls: requests wait for their files all the same.
void waits_for_non_blocking(Ring& ring, uint8_t flags) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    char text[8] = {};
    io_uring_cqe done{};
    for (const int operation : {IORING_OP_RECV, IORING_OP_READ}) {
        io_uring_sqe& entry = ring.add(operation, ends[0], 1);
        entry.addr = address(text);
        entry.len = sizeof text;
        entry.flags = flags;
        CHECK(ring.enter(1, 0) == 1);
        CHECK(!ring.next(done));
        CHECK(send(ends[1], "wait", 4, 0) == 4);
        CHECK(ring.wait().res == 4 && memcmp(text, "wait", 4) == 0);
    }
    io_uring_sqe& entry = ring.add(IORING_OP_RECV, ends[0], 2);
    entry.addr = address(text);
    entry.len = sizeof text;
    entry.msg_flags = MSG_DONTWAIT;
    CHECK(ring.run() == -EAGAIN);
    CHECK_FAILS(recv(ends[0], text, sizeof text, 0), EAGAIN);
    close(ends[0]);
    close(ends[1]);
}

void connects_non_blocking(Ring& ring, bool accept_first) {
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof where;
    CHECK(bind(listener, reinterpret_cast<sockaddr*>(&where), length) == 0);
    CHECK(getsockname(listener, reinterpret_cast<sockaddr*>(&where), &length) == 0);
    CHECK(listen(listener, 1) == 0);
    const auto accept = [&] {
        ring.add(IORING_OP_ACCEPT, listener, 1);
        CHECK(ring.enter(1, 0) == 1);
    };
    if (accept_first)
        accept();
    io_uring_sqe& entry = ring.add(IORING_OP_CONNECT, client, 2);
    entry.addr = address(&where);
    entry.off = sizeof where;
    CHECK(ring.enter(1, 1) == 1);
    if (!accept_first)
        accept();
    for (int i = 0; i < 2; i++) {
        const io_uring_cqe done = ring.wait();
        CHECK(done.user_data == 1 ? done.res >= 0 : done.res == 0);
        if (done.user_data == 1)
            close(done.res);
    }
    close(client);
    close(listener);
}

void non_blocking() {
    Ring ring(8);
    waits_for_non_blocking(ring, 0);
    waits_for_non_blocking(ring, IOSQE_ASYNC);
    connects_non_blocking(ring, true);
    connects_non_blocking(ring, false);
}

// Beyond RLIMIT_FSIZE: an error, but no SIGXFSZ for the program.
void allocation_beyond_limit() {
    Ring ring(4);
    const int file = memfd_create("beyond", 0);
    rlimit before{};
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    rlimit small = before;
    small.rlim_cur = 4096;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    io_uring_sqe* entry = &ring.add(IORING_OP_FALLOCATE, file, 1);
    entry->addr = 8192; // the length
    CHECK(ring.run() == -EFBIG);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    entry = &ring.add(IORING_OP_FALLOCATE, file, 2);
    entry->addr = 8192;
    CHECK(ring.run() == 0);
    CHECK(lseek(file, 0, SEEK_END) == 8192);
    close(file);
}

void paths() {
    Ring ring(8);
    char place[] = "/tmp/joey-ring-XXXXXX";
    CHECK(mkdtemp(place) != nullptr);
    const std::string file = std::string(place) + "/file", other = std::string(place) + "/other",
                      folder = std::string(place) + "/folder";
    io_uring_sqe* entry = &ring.add(IORING_OP_OPENAT, AT_FDCWD, 1);
    entry->addr = address(file.c_str());
    entry->len = 0600;
    entry->open_flags = O_CREAT | O_RDWR;
    const int fd = ring.run();
    CHECK(fd >= 0 && write(fd, "xyz", 3) == 3);
    struct statx status {};
    entry = &ring.add(IORING_OP_STATX, AT_FDCWD, 2);
    entry->addr = address(file.c_str());
    entry->len = STATX_SIZE;
    entry->off = address(&status);
    CHECK(ring.run() == 0 && status.stx_size == 3);
    entry = &ring.add(IORING_OP_MKDIRAT, AT_FDCWD, 3);
    entry->addr = address(folder.c_str());
    entry->len = 0700;
    CHECK(ring.run() == 0);
    entry = &ring.add(IORING_OP_LINKAT, AT_FDCWD, 4);
    entry->addr = address(file.c_str());
    entry->len = static_cast<unsigned>(AT_FDCWD);
    entry->off = address(other.c_str());
    CHECK(ring.run() == 0);
    entry = &ring.add(IORING_OP_UNLINKAT, AT_FDCWD, 5);
    entry->addr = address(other.c_str());
    CHECK(ring.run() == 0);
    entry = &ring.add(IORING_OP_SYMLINKAT, AT_FDCWD, 6);
    entry->addr = address("file");
    entry->off = address(other.c_str());
    CHECK(ring.run() == 0);
    const std::string moved = folder + "/moved";
    entry = &ring.add(IORING_OP_RENAMEAT, AT_FDCWD, 7);
    entry->addr = address(other.c_str());
    entry->len = static_cast<unsigned>(AT_FDCWD);
    entry->off = address(moved.c_str());
    CHECK(ring.run() == 0);
    CHECK(unlink(moved.c_str()) == 0);
    entry = &ring.add(IORING_OP_UNLINKAT, AT_FDCWD, 8);
    entry->addr = address(folder.c_str());
    entry->unlink_flags = AT_REMOVEDIR;
    CHECK(ring.run() == 0);
    // Splice: with an offset by value.
    int ends[2];
    CHECK(pipe(ends) == 0);
    entry = &ring.add(IORING_OP_SPLICE, ends[1], 9);
    entry->splice_fd_in = fd;
    entry->splice_off_in = 1;
    entry->off = ~uint64_t{0};
    entry->len = 2;
    CHECK(ring.run() == 2);
    char text[4] = {};
    CHECK(read(ends[0], text, 4) == 2 && memcmp(text, "yz", 2) == 0);
    const int epoll = epoll_create1(0);
    epoll_event event{EPOLLIN, {}};
    entry = &ring.add(IORING_OP_EPOLL_CTL, epoll, 10);
    entry->off = static_cast<unsigned>(ends[0]);
    entry->len = EPOLL_CTL_ADD;
    entry->addr = address(&event);
    CHECK(ring.run() == 0);
    void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static_cast<char*>(memory)[0] = 1;
    entry = &ring.add(IORING_OP_MADVISE, -1, 11);
    entry->addr = address(memory);
    entry->len = 4096;
    entry->fadvise_advice = MADV_DONTNEED;
    CHECK(ring.run() == 0 && static_cast<char*>(memory)[0] == 0);
    munmap(memory, 4096);
    close(epoll);
    close(ends[0]);
    close(ends[1]);
    close(fd);
    CHECK(unlink(file.c_str()) == 0 && rmdir(place) == 0);
}

void registered() {
    Ring ring(8);
    const int file = memfd_create("fixed", 0);
    CHECK(write(file, "fixed", 5) == 5);
    int table[4] = {file, -1, -1, -1};
    CHECK(ring.registers(IORING_REGISTER_FILES, table, 4) == 0);
    CHECK_FAILS(ring.registers(IORING_REGISTER_FILES, table, 4), EBUSY);
    close(file);
    char text[8] = {};
    io_uring_sqe* entry = &ring.add(IORING_OP_READ, 0, 1);
    entry->addr = address(text);
    entry->len = 5;
    entry->flags = IOSQE_FIXED_FILE;
    CHECK(ring.run() == 5 && memcmp(text, "fixed", 5) == 0);
    ring.add(IORING_OP_FSYNC, 0, 2).flags = IOSQE_FIXED_FILE;
    CHECK(ring.run() == 0);
    ring.add(IORING_OP_FSYNC, 3, 2).flags = IOSQE_FIXED_FILE;
    CHECK(ring.run() == -EBADF);
    ring.add(IORING_OP_FSYNC, 77, 2).flags = IOSQE_FIXED_FILE;
    CHECK(ring.run() == -EBADF);
    // A direct descriptor.
    entry = &ring.add(IORING_OP_OPENAT, AT_FDCWD, 3);
    entry->addr = address("/dev/zero");
    entry->file_index = 2 + 1;
    CHECK(ring.run() == 0);
    entry = &ring.add(IORING_OP_READ, 2, 4);
    entry->addr = address(text);
    entry->len = 4;
    entry->flags = IOSQE_FIXED_FILE;
    CHECK(ring.run() == 4 && text[0] == 0);
    ring.add(IORING_OP_CLOSE, 0, 5).file_index = 2 + 1;
    CHECK(ring.run() == 0);
    CHECK(ring.registers(IORING_UNREGISTER_FILES, nullptr, 0) == 0);
    CHECK_FAILS(ring.registers(IORING_UNREGISTER_FILES, nullptr, 0), ENXIO);

    const int event = eventfd(0, EFD_NONBLOCK);
    CHECK(ring.registers(IORING_REGISTER_EVENTFD, &event, 1) == 0);
    ring.add(IORING_OP_NOP, -1, 6);
    CHECK(ring.run() == 0);
    uint64_t count = 0;
    CHECK(read(event, &count, sizeof count) == sizeof count && count >= 1);
    CHECK(ring.registers(IORING_UNREGISTER_EVENTFD, nullptr, 0) == 0);
    close(event);

    alignas(io_uring_probe) char room[sizeof(io_uring_probe) + 64 * sizeof(io_uring_probe_op)] = {};
    CHECK(ring.registers(IORING_REGISTER_PROBE, room, 64) == 0);
    const auto* probe = reinterpret_cast<const io_uring_probe*>(room);
    CHECK(probe->last_op >= IORING_OP_SOCKET && probe->ops_len > IORING_OP_SOCKET);
    CHECK(probe->ops[IORING_OP_READ].flags == IO_URING_OP_SUPPORTED);
    const long personality = ring.registers(IORING_REGISTER_PERSONALITY, nullptr, 0);
    CHECK(personality > 0);
    ring.add(IORING_OP_NOP, -1, 7).personality = static_cast<uint16_t>(personality);
    CHECK(ring.run() == 0);
    CHECK(ring.registers(IORING_UNREGISTER_PERSONALITY, nullptr,
                         static_cast<unsigned>(personality)) == 0);
    CHECK_FAILS(ring.registers(9999, nullptr, 0), EINVAL);

    // Restrictions.
    Ring limited(4, IORING_SETUP_R_DISABLED);
    CHECK_FAILS(limited.enter(0, 0), EBADFD);
    io_uring_restriction only[1] = {};
    only[0].opcode = IORING_RESTRICTION_SQE_OP;
    only[0].sqe_op = IORING_OP_NOP;
    CHECK(limited.registers(IORING_REGISTER_RESTRICTIONS, only, 1) == 0);
    CHECK(limited.registers(IORING_REGISTER_ENABLE_RINGS, nullptr, 0) == 0);
    limited.add(IORING_OP_NOP, -1, 1);
    CHECK(limited.run() == 0);
    limited.add(IORING_OP_FSYNC, 0, 2);
    CHECK(limited.run() == -EACCES);
    CHECK_FAILS(limited.registers(IORING_REGISTER_PROBE, room, 64), EACCES);

    // One ring tells another.
    Ring other(4);
    entry = &ring.add(IORING_OP_MSG_RING, other.fd, 8);
    entry->len = 4711;
    entry->off = 99;
    CHECK(ring.run() == 0);
    const io_uring_cqe done = other.wait();
    CHECK(done.user_data == 99 && done.res == 4711);

    io_uring_rsrc_update self{};
    self.offset = ~0u;
    self.data = static_cast<unsigned>(ring.fd);
    CHECK(ring.registers(IORING_REGISTER_RING_FDS, &self, 1) == 1);
    ring.add(IORING_OP_NOP, -1, 9);
    CHECK(syscall(SYS_io_uring_enter, self.offset, 1, 1,
                  IORING_ENTER_GETEVENTS | IORING_ENTER_REGISTERED_RING, nullptr, 0) == 1);
    CHECK(ring.wait().user_data == 9);
    CHECK_FAILS(ring.registers(IORING_UNREGISTER_RING_FDS, &self, 1), EINVAL);
    self.data = 0;
    CHECK(ring.registers(IORING_UNREGISTER_RING_FDS, &self, 1) == 1);
}

// Buffers' rings are in memory that is there.
void buffer_rings() {
    Ring ring(4);
    constexpr size_t page = 4096;
    void* place = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    io_uring_buf_reg wanted{};
    wanted.ring_addr = address(place);
    wanted.ring_entries = 16;
    CHECK(ring.registers(IORING_REGISTER_PBUF_RING, &wanted, 1) == 0);
    CHECK_FAILS(ring.registers(IORING_REGISTER_PBUF_RING, &wanted, 1), EEXIST);
    CHECK(ring.registers(IORING_UNREGISTER_PBUF_RING, &wanted, 1) == 0);
    CHECK(munmap(place, page) == 0);
    CHECK_FAILS(ring.registers(IORING_REGISTER_PBUF_RING, &wanted, 1), EFAULT);
}

// A request that ends without data keeps the buffer that it chose, or gives back its own: never one
// that another request has got meanwhile.
void buffer_ring_is_shared() {
    Ring ring(4);
    constexpr size_t page = 4096;
    void* place = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    static char bytes[4][16];
    auto* buffers = static_cast<io_uring_buf*>(place);
    for (unsigned i = 0; i < 4; i++) {
        buffers[i].addr = address(bytes[i]);
        buffers[i].len = sizeof bytes[i];
        buffers[i].bid = static_cast<uint16_t>(i);
    }
    __atomic_store_n(&buffers[0].resv, uint16_t{4}, __ATOMIC_RELEASE); // the tail
    io_uring_buf_reg wanted{};
    wanted.ring_addr = address(place);
    wanted.ring_entries = 4;
    CHECK(ring.registers(IORING_REGISTER_PBUF_RING, &wanted, 1) == 0);
    int empty[2], full[2];
    CHECK(pipe(empty) == 0 && pipe(full) == 0);
    const auto take = [&](int from, uint64_t name, unsigned flags) {
        io_uring_sqe& entry = ring.add(IORING_OP_READ, from, name);
        entry.off = ~uint64_t{0};
        entry.len = 4;
        entry.flags = static_cast<uint8_t>(IOSQE_BUFFER_SELECT | flags);
        CHECK(ring.enter(1, 0) == 1);
    };
    const auto taken = [&](uint64_t name) {
        const io_uring_cqe done = ring.wait();
        CHECK(done.user_data == name && done.res == 4);
        CHECK((done.flags & IORING_CQE_F_BUFFER) != 0);
        return done.flags >> IORING_CQE_BUFFER_SHIFT;
    };
    take(empty[0], 1, IOSQE_ASYNC);
    usleep(50'000); // it has begun, elsewhere
    CHECK(write(full[1], "full", 4) == 4);
    take(full[0], 2, 0);
    const unsigned first = taken(2);
    CHECK(close(empty[1]) == 0); // the end of file
    const io_uring_cqe end = ring.wait();
    CHECK(end.user_data == 1 && end.res == 0);
    CHECK(write(full[1], "more", 4) == 4);
    take(full[0], 3, 0);
    CHECK(taken(3) != first && memcmp(bytes[first], "full", 4) == 0);
    for (const int fd : {empty[0], full[0], full[1]})
        close(fd);
}

void overflow() {
    Ring ring(4); // eight completions
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 4; i++)
            ring.add(IORING_OP_NOP, -1, static_cast<uint64_t>(round * 4 + i));
        CHECK(ring.enter(4, 0) == 4);
    }
    CHECK((*ring.sq(ring.parameters.sq_off.flags) & IORING_SQ_CQ_OVERFLOW) != 0);
    for (uint64_t i = 0; i < 20; i++)
        CHECK(ring.wait().user_data == i);
    CHECK((*ring.sq(ring.parameters.sq_off.flags) & IORING_SQ_CQ_OVERFLOW) == 0);
}

void kernel_thread() {
    io_uring_params parameters{};
    parameters.flags = IORING_SETUP_SQPOLL;
    parameters.sq_thread_idle = 20;
    Ring ring(8, parameters);
    for (uint64_t i = 0; i < 50; i++) {
        ring.add(IORING_OP_NOP, -1, i);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if ((__atomic_load_n(ring.sq(ring.parameters.sq_off.flags), __ATOMIC_ACQUIRE) &
             IORING_SQ_NEED_WAKEUP) != 0)
            CHECK(ring.enter(1, 0, IORING_ENTER_SQ_WAKEUP) >= 0);
        CHECK(ring.wait().user_data == i);
        if (i == 25) {
            int ends[2];
            CHECK(pipe(ends) == 0 && write(ends[1], "z", 1) == 1);
            char byte = 0;
            io_uring_sqe& entry = ring.add(IORING_OP_READ, ends[0], 1000);
            entry.addr = address(&byte);
            entry.len = 1;
            entry.user_data = 1000;
            CHECK(ring.enter(1, 0, IORING_ENTER_SQ_WAKEUP) >= 0);
            const io_uring_cqe done = ring.wait();
            CHECK(done.user_data == 1000);
            close(ends[0]);
            close(ends[1]);
        }
    }
}

// However much the program says there is to submit, and that none of it is worth anything: the
// kernel's thread leaves its CPU to others.
void kernel_thread_is_fed_nonsense() {
    const cpu_set_t before = stay_on_one_cpu();
    {
        io_uring_params parameters{};
        parameters.flags = IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF;
        parameters.sq_thread_cpu = static_cast<unsigned>(sched_getcpu());
        parameters.sq_thread_idle = 20;
        Ring ring(8, parameters);
        for (unsigned i = 0; i < 8; i++)
            ring.sq(ring.parameters.sq_off.array)[i] = 0x1000'0000; // dropped, one at a time
        __atomic_store_n(ring.sq(ring.parameters.sq_off.tail), 0xffff'fff0, __ATOMIC_RELEASE);
        CHECK(ring.enter(1, 0, IORING_ENTER_SQ_WAKEUP) >= 0);
        for (int i = 0; i < 10; i++)
            usleep(2000);
        CHECK(__atomic_load_n(ring.sq(ring.parameters.sq_off.dropped), __ATOMIC_ACQUIRE) != 0);
    }
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
}

// A process ends, or runs another program, with requests that wait.
void ends() {
    for (int how = 0; how < 3; how++) {
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            auto* ring = new Ring(8);
            int pipes[2];
            CHECK(pipe(pipes) == 0);
            static char byte;
            for (int i = 0; i < 4; i++) {
                io_uring_sqe& entry = ring->add(IORING_OP_READ, pipes[0], 1);
                entry.addr = address(&byte);
                entry.len = 1;
                entry.flags = i % 2 == 0 ? 0 : IOSQE_ASYNC;
            }
            CHECK(ring->enter(4, 0) == 4);
            if (how == 0)
                _exit(0);
            if (how == 1) {
                raise(SIGKILL);
            } else {
                execl("/bin/true", "true", nullptr);
            }
            _exit(1);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(how == 1 ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    // Closing the ring is enough, too.
    for (int i = 0; i < 20; i++) {
        Ring ring(4);
        ring.add(IORING_OP_POLL_ADD, ring.fd, 1).poll32_events = POLLIN;
        int pipes[2];
        CHECK(pipe(pipes) == 0);
        ring.add(IORING_OP_POLL_ADD, pipes[0], 1).poll32_events = POLLIN;
        CHECK(ring.enter(2, 0) == 2);
        close(pipes[0]);
        close(pipes[1]);
    }
}

// Nor does it stay when a thread of the kernel's waits for what the process itself was to bring:
// all that it had open is closed.
void ends_in_a_fault() {
    if (geteuid() != 0)
        return; // the kernel's faults are nobody else's to serve
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        constexpr size_t page = 4096;
        void* missing =
            mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(missing != MAP_FAILED);
        const int faults = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
        uffdio_api api{UFFD_API, 0, 0};
        if (faults < 0 || ioctl(faults, UFFDIO_API, &api) != 0)
            _exit(0);
        uffdio_register wanted{{address(missing), page}, UFFDIO_REGISTER_MODE_MISSING, 0};
        CHECK(ioctl(faults, UFFDIO_REGISTER, &wanted) == 0);
        auto* ring = new Ring(4);
        io_uring_sqe& entry = ring->add(IORING_OP_WRITE, pipes[1], 1);
        entry.addr = address(missing);
        entry.len = 1;
        entry.off = ~uint64_t{0};
        entry.flags = IOSQE_ASYNC;
        CHECK(ring->enter(1, 0) == 1);
        pollfd fault{faults, POLLIN, 0};
        CHECK(poll(&fault, 1, 20'000) == 1); // it has begun
        _exit(0);
    }
    close(pipes[1]);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    pollfd closed{pipes[0], POLLIN, 0};
    CHECK(poll(&closed, 1, 10'000) == 1 && closed.revents == POLLHUP);
    close(pipes[0]);
}

// A ring that is closed with requests which have not begun is gone as a whole: nothing of it counts
// against the user's limit.
void unbegun_ends() {
    if (geteuid() != 0)
        return; // the user's other programs would count
    in_child([] {
        const rlimit limit{256 << 10, 256 << 10};
        CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
        CHECK(setresuid(54321, 54321, 54321) == 0);
        __kernel_timespec never{1000, 0};
        for (int i = 0; i < 16; i++) { // 8 KiB each
            Ring ring(64);
            io_uring_sqe& entry = ring.add(IORING_OP_TIMEOUT, -1, 1);
            entry.addr = address(&never);
            entry.len = 1;
            ring.add(IORING_OP_NOP, -1, 2).flags = IOSQE_IO_DRAIN | IOSQE_IO_LINK;
            ring.add(IORING_OP_NOP, -1, 3);
            ring.add(IORING_OP_NOP, -1, 4);
            CHECK(ring.enter(4, 0) == 4);
        }
        // One that needs nearly all, 200 KiB. Linux takes rings apart a little later.
        for (int tries = 0;; tries++) {
            io_uring_params parameters{};
            const long large = syscall(SYS_io_uring_setup, 2048, &parameters);
            if (large >= 0)
                break;
            CHECK(errno == ENOMEM && tries < 500);
            usleep(10'000);
        }
    });
}

void threads() {
    Ring ring(64);
    int ends[2];
    CHECK(pipe(ends) == 0);
    constexpr int count = 2000;
    std::thread writer([&] {
        for (int i = 0; i < count; i++)
            CHECK(write(ends[1], "t", 1) == 1);
    });
    int done = 0, sent = 0;
    static char bytes[64];
    while (done < count) {
        while (sent < count && sent - done < 32) {
            io_uring_sqe& entry = ring.add(IORING_OP_READ, ends[0], 1);
            entry.addr = address(bytes + sent % 64);
            entry.len = 1;
            sent++;
            CHECK(ring.enter(1, 0) == 1);
        }
        CHECK(ring.wait().res == 1);
        done++;
    }
    writer.join();
    close(ends[0]);
    close(ends[1]);
}

// IORING_SETUP_SINGLE_ISSUER: the ring is its maker's, or of who enables it.
void single_issuer() {
    Ring made(4, IORING_SETUP_SINGLE_ISSUER);
    std::thread([&] {
        made.add(IORING_OP_NOP, -1, 1);
        CHECK_FAILS(made.enter(1, 1), EEXIST);
        CHECK_FAILS(made.registers(IORING_UNREGISTER_EVENTFD, nullptr, 0), EEXIST);
    }).join();
    CHECK(made.run() == 0);
    Ring enabled(4,
                 IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED);
    std::thread([&] {
        CHECK(enabled.registers(IORING_REGISTER_ENABLE_RINGS, nullptr, 0) == 0);
        enabled.add(IORING_OP_NOP, -1, 2);
        CHECK(enabled.run() == 0);
        enabled.add(IORING_OP_NOP, -1, 3);
    }).join();
    CHECK_FAILS(enabled.enter(1, 1), EEXIST);
    CHECK_FAILS(enabled.enter(0, 0), EEXIST);
}

// A ring hears of its own completions, directly and by an epoll file.
void itself() {
    for (const bool by_epoll : {false, true}) {
        Ring ring(8);
        const int epoll = epoll_create1(0);
        epoll_event event{};
        event.events = EPOLLIN;
        CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, ring.fd, &event) == 0);
        ring.add(IORING_OP_POLL_ADD, by_epoll ? epoll : ring.fd, 1).poll32_events = POLLIN;
        __kernel_timespec soon = {0, 20'000'000};
        io_uring_sqe& timeout = ring.add(IORING_OP_TIMEOUT, -1, 2);
        timeout.addr = address(&soon);
        timeout.len = 1;
        CHECK(ring.enter(2, 1) == 2);
        io_uring_cqe done = ring.wait();
        CHECK(done.user_data == 2 && done.res == -ETIME);
        done = ring.wait();
        CHECK(done.user_data == 1 && done.res == POLLIN);
        close(epoll);
    }
}

// By the eventfd that it signals: that is told of once, since each telling would make the next.
void itself_by_eventfd() {
    Ring ring(8);
    const int event = eventfd(0, EFD_NONBLOCK);
    CHECK(event >= 0);
    CHECK(ring.registers(IORING_REGISTER_EVENTFD, &event, 1) == 0);
    io_uring_sqe& poll = ring.add(IORING_OP_POLL_ADD, event, 1);
    poll.poll32_events = POLLIN;
    poll.len = IORING_POLL_ADD_MULTI;
    ring.add(IORING_OP_NOP, -1, 2);
    CHECK(ring.enter(2, 1) == 2);
    unsigned told = 0;
    for (bool more = true; more;) {
        const io_uring_cqe done = ring.wait();
        if (done.user_data == 2)
            continue;
        CHECK(done.user_data == 1 && done.res == POLLIN && ++told < 8);
        more = (done.flags & IORING_CQE_F_MORE) != 0;
    }
    close(event);
}

// The result of opening a file by another thread of the kernel's.
int open_elsewhere(Ring& ring, const char* path) {
    io_uring_sqe& entry = ring.add(IORING_OP_OPENAT, AT_FDCWD, 9);
    entry.addr = address(path);
    entry.open_flags = O_RDONLY;
    entry.flags = IOSQE_ASYNC;
    return ring.run();
}

// What a request may is what its submitter might then: not what the ring's maker might, nor anybody
// in the first namespaces.
void rights() {
    char path[] = "/tmp/io_ring_XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0);
    close(file);
    in_child([&] {
        Ring ring(4);
        CHECK(open_elsewhere(ring, path) >= 0);
        const landlock_ruleset_attr attributes{LANDLOCK_ACCESS_FS_READ_FILE};
        const long rules = syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
        if (rules < 0)
            return; // switched off here
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        CHECK(syscall(SYS_landlock_restrict_self, rules, 0) == 0);
        CHECK(open_elsewhere(ring, path) == -EACCES);
    });
    if (geteuid() == 0) {
        in_child([&] {
            Ring ring(4);
            CHECK(setresuid(65534, 65534, 65534) == 0);
            CHECK(open_elsewhere(ring, path) == -EACCES);
        });
        in_child([] {
            sockaddr_un name{};
            name.sun_family = AF_UNIX;
            strcpy(name.sun_path + 1, "io_ring_rights");
            const socklen_t length = offsetof(sockaddr_un, sun_path) + 15;
            const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
            CHECK(bind(listener, reinterpret_cast<sockaddr*>(&name), length) == 0);
            CHECK(listen(listener, 1) == 0);
            CHECK(unshare(CLONE_NEWNET) == 0);
            Ring ring(4);
            const int client = socket(AF_UNIX, SOCK_STREAM, 0);
            io_uring_sqe& entry = ring.add(IORING_OP_CONNECT, client, 3);
            entry.addr = address(&name);
            entry.off = length;
            entry.flags = IOSQE_ASYNC;
            CHECK(ring.run() == -ECONNREFUSED);
        });
    }
    CHECK(unlink(path) == 0);
}

} // namespace

int main() {
    io_uring_params probe{};
    const long fd = syscall(SYS_io_uring_setup, 1, &probe);
    if (fd < 0 && (errno == EPERM || errno == ENOSYS))
        return 0; // switched off here
    close(static_cast<int>(fd));
    setup();
    plain_files();
    hostile_indices();
    malformed();
    links();
    drained();
    waiting();
    workers();
    timeouts();
    sockets();
    non_blocking();
    allocation_beyond_limit();
    paths();
    registered();
    buffer_rings();
    buffer_ring_is_shared();
    overflow();
    kernel_thread();
    kernel_thread_is_fed_nonsense();
    ends();
    ends_in_a_fault();
    unbegun_ends();
    threads();
    single_issuer();
    itself();
    itself_by_eventfd();
    rights();
    return 0;
}
