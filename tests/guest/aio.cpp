// Linux AIO: io_setup(2), io_submit(2), io_getevents(2), io_cancel(2), io_destroy(2), by their
// system calls.
#include <csignal>
#include <cstdint>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <linux/aio_abi.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

long setup(unsigned events, aio_context_t* context) {
    return syscall(SYS_io_setup, events, context);
}
long destroy(aio_context_t context) {
    return syscall(SYS_io_destroy, context);
}
long submit(aio_context_t context, long count, iocb** requests) {
    return syscall(SYS_io_submit, context, count, requests);
}
long getevents(aio_context_t context, long least, long most, io_event* events,
               const timespec* timeout) {
    return syscall(SYS_io_getevents, context, least, most, events, timeout);
}

iocb prepare(int operation, int fd, void* buffer, size_t bytes, long offset, uint64_t data) {
    iocb request{};
    request.aio_lio_opcode = static_cast<uint16_t>(operation);
    request.aio_fildes = static_cast<uint32_t>(fd);
    request.aio_buf = reinterpret_cast<uint64_t>(buffer);
    request.aio_nbytes = bytes;
    request.aio_offset = offset;
    request.aio_data = data;
    return request;
}

void contexts() {
    aio_context_t context = 0;
    CHECK_FAILS(setup(0, &context), EINVAL);
    CHECK_FAILS(setup(0xffffffff, &context), EINVAL);
    CHECK_FAILS(setup(4, nullptr), EFAULT);
    CHECK(setup(4, &context) == 0 && context != 0);
    aio_context_t again = context;
    CHECK_FAILS(setup(4, &again), EINVAL);
    const timespec none{0, 0};
    io_event event{};
    CHECK(getevents(context, 0, 1, &event, &none) == 0);
    CHECK(getevents(context, 1, 1, &event, &none) == 0);
    CHECK_FAILS(getevents(context, 2, 1, &event, &none), EINVAL);
    CHECK_FAILS(getevents(context, -1, 1, &event, &none), EINVAL);
    CHECK_FAILS(getevents(context + 4096, 0, 1, &event, &none), EINVAL);
    CHECK_FAILS(submit(context, -1, nullptr), EINVAL);
    CHECK(submit(context, 0, nullptr) == 0);
    CHECK_FAILS(submit(context, 1, nullptr), EFAULT);
    CHECK(destroy(context) == 0);
    CHECK_FAILS(destroy(context), EINVAL);
    CHECK_FAILS(submit(context, 0, nullptr), EINVAL);
}

void files() {
    const int file = memfd_create("aio", 0);
    CHECK(file >= 0);
    aio_context_t context = 0;
    CHECK(setup(16, &context) == 0);
    char text[] = "0123456789";
    char half[2][4] = {"ab", "cd"};
    iovec parts[2] = {{half[0], 2}, {half[1], 2}};
    iocb write_one = prepare(IOCB_CMD_PWRITE, file, text, 10, 0, 1);
    iocb write_two = prepare(IOCB_CMD_PWRITEV, file, parts, 2, 10, 2);
    iocb sync = prepare(IOCB_CMD_FSYNC, file, nullptr, 0, 0, 3);
    iocb* requests[3] = {&write_one, &write_two, &sync};
    CHECK(submit(context, 3, requests) == 3);
    io_event events[4] = {};
    CHECK(getevents(context, 3, 4, events, nullptr) == 3);
    long total = 0;
    for (int i = 0; i < 3; i++) {
        CHECK(events[i].obj == reinterpret_cast<uint64_t>(requests[events[i].data - 1]));
        total += static_cast<long>(events[i].data) * 100 + events[i].res;
    }
    CHECK(total == 614);
    char back[32] = {};
    iocb read_back = prepare(IOCB_CMD_PREAD, file, back, sizeof back, 0, 4);
    const int counter = eventfd(0, 0);
    read_back.aio_flags = IOCB_FLAG_RESFD;
    read_back.aio_resfd = static_cast<uint32_t>(counter);
    requests[0] = &read_back;
    CHECK(submit(context, 1, requests) == 1);
    uint64_t count = 0;
    CHECK(read(counter, &count, sizeof count) == sizeof count && count == 1);
    // The ring is there to be looked at.
    const auto* ring = reinterpret_cast<const volatile uint32_t*>(context);
    CHECK(ring[4] == 0xa10a10a1 && ring[7] == 32 && ring[2] != ring[3]);
    CHECK(getevents(context, 1, 1, events, nullptr) == 1);
    CHECK(events[0].res == 14 && memcmp(back, "0123456789abcd", 14) == 0);
    CHECK(ring[2] == ring[3]);

    // What is refused at once, and what was submitted before it.
    iocb bad = prepare(99, file, back, 1, 0, 5);
    requests[0] = &write_one;
    requests[1] = &bad;
    CHECK(submit(context, 2, requests) == 1);
    CHECK_FAILS(submit(context, 1, requests + 1), EINVAL);
    bad = prepare(IOCB_CMD_PREAD, -1, back, 1, 0, 5);
    CHECK_FAILS(submit(context, 1, requests + 1), EBADF);
    bad = prepare(IOCB_CMD_PREAD, file, back, 1, 0, 5);
    bad.aio_reserved2 = 1;
    CHECK_FAILS(submit(context, 1, requests + 1), EINVAL);
    bad = prepare(IOCB_CMD_PREAD, file, back, 1, 0, 5);
    bad.aio_flags = IOCB_FLAG_RESFD;
    bad.aio_resfd = static_cast<uint32_t>(file);
    CHECK_FAILS(submit(context, 1, requests + 1), EINVAL);
    const int read_only = open("/dev/null", O_RDONLY);
    bad = prepare(IOCB_CMD_PWRITE, read_only, back, 1, 0, 5);
    CHECK_FAILS(submit(context, 1, requests + 1), EBADF);
    CHECK(getevents(context, 1, 4, events, nullptr) == 1 && events[0].data == 1);

    // Many, in the order of their kind, past the end of the ring.
    for (int round = 0; round < 300; round++) {
        iocb one = prepare(IOCB_CMD_PREAD, file, back, 1, round % 10, 1000 + round);
        requests[0] = &one;
        CHECK(submit(context, 1, requests) == 1);
        CHECK(getevents(context, 1, 1, events, nullptr) == 1);
        CHECK(events[0].data == 1000u + round && events[0].res == 1 && back[0] == '0' + round % 10);
    }
    CHECK(destroy(context) == 0);
    close(file);
    close(read_only);
    close(counter);
}

void full_ring() {
    const int file = memfd_create("aio", 0);
    aio_context_t context = 0;
    CHECK(setup(1, &context) == 0);
    char byte = 'x';
    iocb request = prepare(IOCB_CMD_PWRITE, file, &byte, 1, 0, 1);
    iocb* requests[1] = {&request};
    int accepted = 0;
    while (submit(context, 1, requests) == 1)
        CHECK(++accepted < 100'000);
    CHECK(errno == EAGAIN && accepted >= 1);
    io_event events[64];
    int seen = 0;
    const timespec none{0, 0};
    for (;;) {
        const long got = getevents(context, 0, 64, events, &none);
        CHECK(got >= 0);
        if (got == 0)
            break;
        seen += static_cast<int>(got);
    }
    CHECK(seen == accepted);
    CHECK(destroy(context) == 0);
    close(file);
}

void polling() {
    aio_context_t context = 0;
    CHECK(setup(8, &context) == 0);
    int ends[2];
    CHECK(pipe(ends) == 0);
    iocb watch = prepare(IOCB_CMD_POLL, ends[0], nullptr, 0, 0, 7);
    watch.aio_buf = POLLIN;
    iocb* requests[1] = {&watch};
    CHECK(submit(context, 1, requests) == 1);
    io_event event{};
    const timespec none{0, 0};
    CHECK(getevents(context, 1, 1, &event, &none) == 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(write(ends[1], "x", 1) == 1 ? 0 : 1);
    CHECK(getevents(context, 1, 1, &event, nullptr) == 1);
    CHECK(event.data == 7 && (event.res & POLLIN) != 0);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    // Ready already.
    CHECK(submit(context, 1, requests) == 1);
    CHECK(getevents(context, 1, 1, &event, nullptr) == 1 && (event.res & POLLIN) != 0);
    // Cancelled: the event comes all the same.
    char byte = 0;
    CHECK(read(ends[0], &byte, 1) == 1);
    CHECK(submit(context, 1, requests) == 1);
    CHECK_FAILS(syscall(SYS_io_cancel, context, &watch, &event), EINPROGRESS);
    CHECK(getevents(context, 1, 1, &event, nullptr) == 1 && event.data == 7);
    CHECK_FAILS(syscall(SYS_io_cancel, context, &watch, &event), EINVAL);
    // One that still waits does not hold up the end of the context.
    CHECK(submit(context, 1, requests) == 1);
    CHECK(destroy(context) == 0);
    close(ends[0]);
    close(ends[1]);
}

void signal_mask() {
    aio_context_t context = 0;
    CHECK(setup(2, &context) == 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
    struct sigaction action {};
    action.sa_handler = [](int) {};
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    CHECK(raise(SIGUSR1) == 0);
    uint64_t open_mask = 0;
    struct {
        const void* mask;
        size_t size;
    } argument{&open_mask, sizeof open_mask};
    io_event event{};
    CHECK_FAILS(syscall(SYS_io_pgetevents, context, 1, 1, &event, nullptr, &argument), EINTR);
    argument.size = 3;
    CHECK_FAILS(syscall(SYS_io_pgetevents, context, 1, 1, &event, nullptr, &argument), EINVAL);
    const timespec brief{0, 10'000'000};
    CHECK(syscall(SYS_io_pgetevents, context, 1, 1, &event, &brief, nullptr) == 0);
    CHECK(destroy(context) == 0);
}

} // namespace

int main() {
    contexts();
    files();
    full_ring();
    polling();
    signal_mask();
    return 0;
}
