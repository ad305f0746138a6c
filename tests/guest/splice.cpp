// splice(2), tee(2), vmsplice(2).
#include <csignal>
#include <cstdint>
#include <fcntl.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "tests/guest/check.hpp"

namespace {

constexpr uint64_t words = 64 * 1024;

// Fills the pipe with numbers that count up, then closes it.
void write_numbers(int to) {
    std::vector<uint64_t> piece(512);
    for (uint64_t next = 0; next < words; next += piece.size()) {
        for (size_t i = 0; i < piece.size(); i++)
            piece[i] = next + i;
        const auto bytes = static_cast<ssize_t>(piece.size() * sizeof piece[0]);
        CHECK(write(to, piece.data(), static_cast<size_t>(bytes)) == bytes);
    }
    close(to);
}

std::vector<uint64_t> numbers_of(int file) {
    struct stat status = {};
    CHECK(fstat(file, &status) == 0 && status.st_size % sizeof(uint64_t) == 0);
    std::vector<uint64_t> out(static_cast<size_t>(status.st_size) / sizeof(uint64_t));
    CHECK(pread(file, out.data(), static_cast<size_t>(status.st_size), 0) == status.st_size);
    return out;
}

// Two that splice from one pipe, one of them by way of another pipe, and one that reads it: each
// byte is had once, and everybody has his in order.
void several_takers() {
    int ends[2], between[2];
    CHECK(pipe(ends) == 0 && pipe(between) == 0);
    int files[3];
    for (int& file : files)
        CHECK((file = memfd_create("taken", 0)) >= 0);
    std::thread writer(write_numbers, ends[1]);
    std::thread first([&] {
        ssize_t moved = 0;
        while ((moved = splice(ends[0], nullptr, files[0], nullptr, 24 * 1024, 0)) > 0) {
        }
        CHECK(moved == 0);
    });
    std::thread second([&] {
        ssize_t moved = 0;
        while ((moved = splice(ends[0], nullptr, between[1], nullptr, 8 * 1024, 0)) > 0)
            for (ssize_t left = moved; left > 0; left -= moved) {
                moved =
                    splice(between[0], nullptr, files[1], nullptr, static_cast<size_t>(left), 0);
                CHECK(moved > 0);
            }
        CHECK(moved == 0);
    });
    std::thread third([&] {
        std::vector<char> bytes(4096);
        ssize_t got = 0;
        while ((got = read(ends[0], bytes.data(), bytes.size())) > 0)
            CHECK(write(files[2], bytes.data(), static_cast<size_t>(got)) == got);
        CHECK(got == 0);
    });
    for (std::thread* thread : {&writer, &first, &second, &third})
        thread->join();
    std::vector<bool> seen(words);
    uint64_t count = 0;
    for (const int file : files) {
        const std::vector<uint64_t> numbers = numbers_of(file);
        for (size_t i = 0; i < numbers.size(); i++) {
            CHECK(numbers[i] < words && !seen[numbers[i]]);
            CHECK(i == 0 || numbers[i] > numbers[i - 1]);
            seen[numbers[i]] = true;
        }
        count += numbers.size();
        close(file);
    }
    CHECK(count == words);
    for (const int fd : {ends[0], between[0], between[1]})
        close(fd);
}

} // namespace

int main() {
    several_takers();
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
