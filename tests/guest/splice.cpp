// splice(2), tee(2), vmsplice(2).
#include <csignal>
#include <fcntl.h>
#include <string>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/uio.h>

#include "tests/guest/check.hpp"

int main() {
    char name[] = "/tmp/joey-splice-XXXXXX";
    const int file = mkstemp(name);
    CHECK(file >= 0);
    CHECK(unlink(name) == 0);
    std::string data(100'000, '\0');
    for (size_t i = 0; i < data.size(); i++)
        data[i] = static_cast<char>(i * 31);
    CHECK(write(file, data.data(), data.size()) == 100'000);
    int p[2], q[2];
    CHECK(pipe(p) == 0 && pipe(q) == 0);

    // From a file, as much as the pipe holds.
    loff_t offset = 10;
    ssize_t moved = splice(file, &offset, p[1], nullptr, 50'000, 0);
    CHECK(moved == 50'000 && offset == 50'010);
    // A copy into the second pipe, then both are read.
    CHECK(tee(p[0], q[1], 20'000, 0) == 20'000);
    std::string got(60'000, '\0');
    CHECK(read(q[0], got.data(), got.size()) == 20'000);
    CHECK(std::memcmp(got.data(), data.data() + 10, 20'000) == 0);
    const int out = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    CHECK(out >= 0);
    offset = 5;
    CHECK(splice(p[0], nullptr, out, &offset, 1 << 20, 0) == 50'000);
    CHECK(offset == 50'005);
    CHECK(pread(out, got.data(), got.size(), 5) == 50'000);
    CHECK(std::memcmp(got.data(), data.data() + 10, 50'000) == 0);
    CHECK_FAILS(splice(p[0], nullptr, q[1], nullptr, 10, SPLICE_F_NONBLOCK), EAGAIN);
    CHECK_FAILS(tee(p[0], q[1], 10, SPLICE_F_NONBLOCK), EAGAIN);

    // Between pipes and a socket.
    CHECK(write(p[1], "through", 7) == 7);
    CHECK(splice(p[0], nullptr, q[1], nullptr, 4, 0) == 4);
    CHECK(splice(p[0], nullptr, q[1], nullptr, 100, 0) == 3);
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK(splice(q[0], nullptr, s[0], nullptr, 100, 0) == 7);
    CHECK(splice(s[1], nullptr, p[1], nullptr, 100, 0) == 7);
    CHECK(read(p[0], got.data(), got.size()) == 7);
    CHECK(got.compare(0, 7, "through") == 0);

    iovec parts[2] = {{data.data(), 3}, {data.data() + 50, 4}};
    CHECK(vmsplice(p[1], parts, 2, 0) == 7);
    CHECK(read(p[0], got.data(), got.size()) == 7);
    CHECK(std::memcmp(got.data() + 3, data.data() + 50, 4) == 0);

    CHECK_FAILS(splice(file, nullptr, out, nullptr, 10, 0), EINVAL);
    CHECK_FAILS(splice(p[0], &offset, out, nullptr, 10, 0), ESPIPE);
    CHECK_FAILS(splice(p[0], nullptr, p[1], nullptr, 10, 0), EINVAL);
    CHECK_FAILS(splice(p[1], nullptr, out, nullptr, 10, 0), EBADF);
    CHECK_FAILS(splice(p[0], nullptr, out, nullptr, 10, 0x100), EINVAL);
    CHECK_FAILS(tee(file, p[1], 10, 0), EINVAL);
    // The end of the data.
    close(p[1]);
    CHECK(splice(p[0], nullptr, out, nullptr, 10, 0) == 0);
    CHECK(lseek(file, 0, SEEK_END) == 100'000);
    CHECK(splice(file, nullptr, q[1], nullptr, 10, 0) == 0);
    signal(SIGPIPE, SIG_IGN);
    close(q[0]);
    offset = 0;
    CHECK_FAILS(splice(file, &offset, q[1], nullptr, 10, 0), EPIPE);
}
