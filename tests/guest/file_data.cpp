// read(2), write(2) and their kin, lseek(2), truncate(2), fallocate(2), copy_file_range(2),
// sendfile(2), mmap(2) against read and write, fsync(2).
#include <climits>
#include <csignal>
#include <cstdint>
#include <poll.h>
#include <vector>

#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tests/guest/file_support.hpp"

namespace {

std::string pattern(size_t bytes, unsigned seed = 1) {
    std::string out(bytes, '\0');
    for (size_t i = 0; i < bytes; i++)
        out[i] = static_cast<char>((i * 131 + (i >> 8) * seed) ^ seed);
    return out;
}

std::string part(int fd, off_t from, size_t bytes) {
    std::string out(bytes, '?');
    const ssize_t got = pread(fd, out.data(), bytes, from);
    CHECK(got >= 0);
    out.resize(static_cast<size_t>(got));
    return out;
}

off_t size_of(int fd) {
    struct stat s;
    CHECK(fstat(fd, &s) == 0);
    return s.st_size;
}

int fresh(const ScratchDirectory& dir, const char* name = "data") {
    const int fd = open(dir.path(name).c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    return fd;
}

// What is wrong is told in one order. Who asks by a transfer at an offset whether a file has
// positions hears so, whatever else is wrong.
void errors_of_transfers(const ScratchDirectory& dir) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    char byte = 0;
    void* const wild = reinterpret_cast<void*>(-4096);
    const iovec v = {&byte, 1};
    const auto* const wild_vector = reinterpret_cast<const iovec*>(8);
    CHECK_FAILS(syscall(SYS_pread64, ends[0], wild, 1, 0L), ESPIPE);
    CHECK_FAILS(syscall(SYS_pread64, ends[1], &byte, 1, 0L), ESPIPE); // not even open for it
    CHECK_FAILS(syscall(SYS_pread64, ends[0], &byte, 1, -1L), EINVAL);
    CHECK_FAILS(syscall(SYS_pread64, 9999, &byte, 1, -1L), EINVAL);
    CHECK_FAILS(syscall(SYS_pread64, 9999, &byte, 1, 0L), EBADF);
    CHECK_FAILS(syscall(SYS_pwrite64, ends[0], &byte, 1, 0L), ESPIPE);
    CHECK_FAILS(syscall(SYS_pwrite64, ends[1], &byte, 0, 0L), ESPIPE);
    CHECK_FAILS(syscall(SYS_preadv, ends[1], wild_vector, 1, 0L, 0L), ESPIPE);
    CHECK_FAILS(syscall(SYS_preadv, ends[0], &v, 5000, 0L, 0L), ESPIPE);
    CHECK_FAILS(syscall(SYS_preadv, 9999, &v, 1, -1L, 0L), EINVAL);
    CHECK_FAILS(syscall(SYS_pwritev, ends[0], &v, 1, 0L, 0L), ESPIPE);
    CHECK_FAILS(syscall(SYS_preadv2, ends[0], &v, 1, 0L, 0L, 0x4000'0000), ESPIPE);
    const int fd = fresh(dir);
    CHECK(write(fd, "x", 1) == 1);
    const int by_path = open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_PATH);
    CHECK_FAILS(syscall(SYS_pread64, by_path, &byte, 1, 0L), EBADF);
    CHECK_FAILS(syscall(SYS_pread64, by_path, &byte, 1, -1L), EINVAL);
    CHECK_FAILS(syscall(SYS_pread64, fd, wild, 1, -1L), EINVAL);
    CHECK_FAILS(syscall(SYS_preadv2, fd, wild_vector, 1, 0L, 0L, 0x4000'0000), EFAULT);
    CHECK(syscall(SYS_preadv2, fd, &v, 0, 0L, 0L, 0x4000'0000) == 0);
    CHECK_FAILS(syscall(SYS_preadv2, 9999, &v, 1, 0L, 0L, 0x4000'0000), EBADF);
    for (const int used : {fd, by_path, ends[0], ends[1]})
        close(used);
}

// FIOASYNC is refused by what sends no signals, where F_SETFL says nothing. FIBMAP.
void file_ioctls(const ScratchDirectory& dir) {
    const int fd = fresh(dir), event = eventfd(0, 0);
    for (const int quiet : {fd, event}) {
        int on = 1;
        CHECK_FAILS(ioctl(quiet, FIOASYNC, &on), ENOTTY);
        CHECK_FAILS(ioctl(quiet, FIOASYNC, 8), EFAULT);
        CHECK(fcntl(quiet, F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
        CHECK((fcntl(quiet, F_GETFL) & (O_ASYNC | O_NONBLOCK)) == O_NONBLOCK);
        on = 0;
        CHECK(ioctl(quiet, FIOASYNC, &on) == 0);
    }
    int ends[2];
    CHECK(pipe(ends) == 0);
    int on = 1;
    CHECK(ioctl(ends[0], FIOASYNC, &on) == 0 && (fcntl(ends[0], F_GETFL) & O_ASYNC) != 0);
    on = 0;
    CHECK(ioctl(ends[0], FIOASYNC, &on) == 0 && (fcntl(ends[0], F_GETFL) & O_ASYNC) == 0);
    int block = 0;
    CHECK_FAILS(ioctl(ends[0], FIBMAP, &block), ENOTTY);
    const int memory = memfd_create("blocks", 0); // whose file system has none
    const bool may = ioctl(memory, FIBMAP, 8) == -1 && errno == EFAULT;
    CHECK(may || errno == EPERM);
    CHECK_FAILS(ioctl(memory, FIBMAP, &block), may ? EINVAL : EPERM);
    for (const int used : {fd, event, memory, ends[0], ends[1]})
        close(used);
}

void transfer(const ScratchDirectory& dir) {
    const int fd = fresh(dir);
    const std::string data = pattern(300'000);
    CHECK(write(fd, data.data(), data.size()) == 300'000);
    CHECK(part(fd, 0, 400'000) == data && part(fd, 299'999, 10) == data.substr(299'999));
    CHECK(part(fd, 300'000, 10).empty() && part(fd, 1'000'000, 10).empty());
    char byte;
    CHECK_FAILS(pread(fd, &byte, 1, -1), EINVAL);
    CHECK_FAILS(pwrite(fd, &byte, 1, -1), EINVAL);
    CHECK_FAILS(read(fd, reinterpret_cast<void*>(-4096), 1), EFAULT);
    CHECK_FAILS(pread(fd, reinterpret_cast<void*>(8), 1, 0), EFAULT);
    CHECK_FAILS(pwrite(fd, reinterpret_cast<void*>(8), 1, 0), EFAULT);
    CHECK_FAILS(syscall(SYS_read, fd, &byte, -1L), EFAULT);
    CHECK(read(fd, reinterpret_cast<void*>(8), 1) == 0); // at the end nothing is copied
    // Up to the page that cannot be read.
    char* pages = static_cast<char*>(
        mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(munmap(pages + 4096, 4096) == 0);
    std::memset(pages, 'p', 4096);
    CHECK(lseek(fd, 300'000, SEEK_SET) == 300'000);
    const ssize_t partial = write(fd, pages + 4000, 200);
    CHECK(partial == 96 || (partial == -1 && errno == EFAULT));
    CHECK(lseek(fd, 0, SEEK_CUR) == 300'000 + (partial > 0 ? partial : 0));
    CHECK(pread(fd, pages + 4000, 200, 0) == 96);
    CHECK(std::memcmp(pages + 4000, data.data(), 96) == 0);
    CHECK(munmap(pages, 4096) == 0);
    CHECK(ftruncate(fd, 300'000) == 0);

    char a[10], b[20];
    iovec v[3] = {{a, 10}, {nullptr, 0}, {b, 20}};
    CHECK(lseek(fd, 100, SEEK_SET) == 100 && readv(fd, v, 3) == 30);
    CHECK(std::memcmp(a, &data[100], 10) == 0 && std::memcmp(b, &data[110], 20) == 0);
    CHECK(lseek(fd, 0, SEEK_CUR) == 130);
    CHECK(preadv(fd, v, 3, 299'985) == 15 && pwritev(fd, v, 3, 0) == 30);
    CHECK(part(fd, 0, 10) == data.substr(299'985, 10));
    CHECK(readv(fd, v, 0) == 0);
    CHECK_FAILS(readv(fd, v, -1), EINVAL);
    CHECK_FAILS(readv(fd, v, 1025), EINVAL);
    v[0].iov_len = SIZE_MAX;
    CHECK_FAILS(readv(fd, v, 3), EINVAL);
    v[0].iov_len = 10;
    CHECK_FAILS(preadv(fd, v, 3, -1), EINVAL);
    // Per call flags.
    CHECK(lseek(fd, 7, SEEK_SET) == 7);
    CHECK(preadv2(fd, v, 1, -1, 0) == 10 && lseek(fd, 0, SEEK_CUR) == 17);
    CHECK(preadv2(fd, v, 1, 50, RWF_HIPRI) == 10 && lseek(fd, 0, SEEK_CUR) == 17);
    CHECK(pwritev2(fd, v, 1, 0, RWF_DSYNC) == 10 && pwritev2(fd, v, 1, 0, RWF_SYNC) == 10);
    CHECK(pwritev2(fd, v, 1, 0, RWF_APPEND) == 10 && size_of(fd) == 300'010);
    CHECK(lseek(fd, 0, SEEK_CUR) == 17);
    CHECK(pwritev2(fd, v, 1, -1, RWF_APPEND) == 10 && lseek(fd, 0, SEEK_CUR) == 300'020);
    CHECK_FAILS(preadv2(fd, v, 1, 0, 0x4000'0000), EOPNOTSUPP);
    const ssize_t at_once = preadv2(fd, v, 1, 0, RWF_NOWAIT); // not on overlayfs, tmpfs
    CHECK(at_once == 10 || (at_once == -1 && errno == EOPNOTSUPP));
    // A stream that has nothing would have to be waited for; one that has something need not.
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK_FAILS(preadv2(ends[0], v, 1, -1, RWF_NOWAIT), EAGAIN);
    CHECK(pwritev2(ends[1], v, 1, -1, RWF_NOWAIT) == 10);
    CHECK(preadv2(ends[0], v, 1, -1, RWF_NOWAIT) == 10);
    CHECK_FAILS(preadv2(ends[0], v, 1, -1, RWF_NOWAIT), EAGAIN);
    close(ends[0]);
    close(ends[1]);
    CHECK_FAILS(preadv2(fd, v, 1, -2, 0), EINVAL);

    CHECK_FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
    CHECK_FAILS(lseek(fd, 0, 99), EINVAL);
    CHECK_FAILS(lseek(fd, LLONG_MAX, SEEK_END), EINVAL);
    CHECK(lseek(fd, 0, SEEK_END) == 300'020 && lseek(fd, -20, SEEK_CUR) == 300'000);
    CHECK(lseek(fd, 1'000'000, SEEK_SET) == 1'000'000 && write(fd, "!", 1) == 1);
    CHECK(size_of(fd) == 1'000'001 && part(fd, 500'000, 4) == std::string(4, '\0'));
    close(fd);

    // Limits.
    in_child([&] {
        signal(SIGXFSZ, SIG_IGN);
        const rlimit limit{5000, 5000};
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        const int f = fresh(dir, "limited");
        CHECK(write(f, data.data(), 6000) == 5000);
        CHECK_FAILS(write(f, data.data(), 1), EFBIG);
        CHECK_FAILS(pwrite(f, data.data(), 1, 5000), EFBIG);
        CHECK(pwrite(f, data.data(), 10, 4995) == 5);
        CHECK_FAILS(ftruncate(f, 5001), EFBIG);
        CHECK_FAILS(truncate(dir.path("limited").c_str(), 5001), EFBIG);
        CHECK_FAILS(fallocate(f, 0, 0, 6000), EFBIG);
        CHECK(ftruncate(f, 4000) == 0 && fallocate(f, 0, 0, 5000) == 0);
    });
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        const rlimit limit{5000, 5000}, none{0, 0};
        setrlimit(RLIMIT_CORE, &none);
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        const int f = fresh(dir, "limited");
        CHECK(ftruncate(f, 5000) == 0);
        CHECK(pwrite(f, "x", 1, 5000) == -1);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
          WTERMSIG(status) == SIGXFSZ);
}

void truncation(const ScratchDirectory& dir) {
    const int fd = fresh(dir);
    const std::string data = pattern(20'000);
    CHECK(write(fd, data.data(), data.size()) == 20'000);
    CHECK(ftruncate(fd, 5'000) == 0 && ftruncate(fd, 20'000) == 0);
    CHECK(part(fd, 0, 5'000) == data.substr(0, 5'000));
    CHECK(part(fd, 5'000, 15'000) == std::string(15'000, '\0'));
    CHECK_FAILS(ftruncate(fd, -1), EINVAL);
    CHECK_FAILS(truncate(dir.path("data").c_str(), -1), EINVAL);
    CHECK_FAILS(truncate(dir.name().c_str(), 0), EISDIR);
    CHECK_FAILS(truncate(dir.path("no").c_str(), 0), ENOENT);
    CHECK_FAILS(truncate(dir.path("data/x").c_str(), 0), ENOTDIR);
    const int reader = open(dir.path("data").c_str(), O_RDONLY);
    CHECK_FAILS(ftruncate(reader, 0), EINVAL);
    CHECK_FAILS(ftruncate(dir.fd(), 0), EINVAL);
    close(reader);
    CHECK_FAILS(ftruncate(reader, 0), EBADF);
    // A mapping sees the end move.
    char* map =
        static_cast<char*>(mmap(nullptr, 20'480, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    CHECK(map != MAP_FAILED);
    map[6000] = 'm';
    CHECK(part(fd, 6000, 1) == "m");
    CHECK(ftruncate(fd, 6'001) == 0 && map[6001] == '\0' && map[6000] == 'm');
    CHECK(ftruncate(fd, 10'000) == 0);
    CHECK(part(fd, 6'001, 1'000) == std::string(1'000, '\0'));
    in_child([&] {
        signal(SIGBUS, [](int) { _exit(0); });
        map[13'000] = 1;
        CHECK(false);
    });
    CHECK(ftruncate(fd, 20'000) == 0);
    map[13'000] = 1;
    CHECK(munmap(map, 20'480) == 0);
    // Sparse and large.
    CHECK(ftruncate(fd, off_t{1} << 40) == 0 && size_of(fd) == off_t{1} << 40);
    CHECK(part(fd, (off_t{1} << 39) + 5, 3) == std::string(3, '\0'));
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && s.st_blocks < 1000);
    CHECK(pwrite(fd, "end", 3, (off_t{1} << 40) - 3) == 3);
    CHECK(part(fd, (off_t{1} << 40) - 4, 10) == std::string("\0end", 4));
    CHECK(ftruncate(fd, 0) == 0 && fstat(fd, &s) == 0 && s.st_size == 0);
    close(fd);
}

void allocation(const ScratchDirectory& dir) {
    const int fd = fresh(dir);
    CHECK_FAILS(fallocate(fd, 0, 0, 0), EINVAL);
    CHECK_FAILS(fallocate(fd, 0, -1, 10), EINVAL);
    CHECK_FAILS(fallocate(fd, 0, LLONG_MAX, 10), EFBIG);
    CHECK_FAILS(fallocate(fd, 0x4000, 0, 10), EOPNOTSUPP);
    CHECK_FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10), EOPNOTSUPP);
    CHECK_FAILS(fallocate(dir.fd(), 0, 0, 10), EBADF);
    const int reader = open(dir.path("data").c_str(), O_RDONLY);
    CHECK_FAILS(fallocate(reader, 0, 0, 10), EBADF);
    close(reader);
    CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 100'000) == 0 && size_of(fd) == 0);
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && s.st_size == 0);
    CHECK(fallocate(fd, 0, 0, 50'000) == 0 && size_of(fd) == 50'000);
    CHECK(part(fd, 0, 50'000) == std::string(50'000, '\0'));
    const std::string data = pattern(50'000);
    CHECK(pwrite(fd, data.data(), data.size(), 0) == 50'000);
    CHECK(fallocate(fd, 0, 10, 1'000) == 0 && part(fd, 0, 50'000) == data);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5'000, 20'000) == 0);
    CHECK(part(fd, 0, 50'000) ==
          data.substr(0, 5'000) + std::string(20'000, '\0') + data.substr(25'000));
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 49'000, 20'000) == 0);
    CHECK(size_of(fd) == 50'000 &&
          part(fd, 48'999, 3) == data.substr(48'999, 1) + std::string(2, '\0'));
    if (fallocate(fd, FALLOC_FL_ZERO_RANGE, 30'000, 1'000) == 0)
        CHECK(part(fd, 30'000, 1'000) == std::string(1'000, '\0'));
    else
        CHECK(errno == EOPNOTSUPP); // tmpfs
    CHECK(posix_fallocate(fd, 60'000, 1) == 0 && size_of(fd) == 60'001);
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK_FAILS(fallocate(p[1], 0, 0, 10), ESPIPE);
    close(p[0]);
    close(p[1]);
    close(fd);

    // Holes and data: what is told must agree with the contents.
    const int sparse = fresh(dir, "sparse");
    CHECK(ftruncate(sparse, 1 << 20) == 0);
    CHECK(lseek(sparse, 0, SEEK_HOLE) == 0);
    CHECK_FAILS(lseek(sparse, 0, SEEK_DATA), ENXIO);
    CHECK(pwrite(sparse, "data", 4, 512 * 1024) == 4);
    const off_t start = lseek(sparse, 0, SEEK_DATA);
    CHECK(start > 0 && start <= 512 * 1024);
    const off_t end = lseek(sparse, start, SEEK_HOLE);
    CHECK(end >= 512 * 1024 + 4 && end < 1 << 20);
    CHECK(lseek(sparse, 512 * 1024 + 1, SEEK_DATA) == 512 * 1024 + 1);
    CHECK_FAILS(lseek(sparse, end, SEEK_DATA), ENXIO);
    CHECK_FAILS(lseek(sparse, 1 << 20, SEEK_DATA), ENXIO);
    CHECK_FAILS(lseek(sparse, 1 << 20, SEEK_HOLE), ENXIO);
    CHECK_FAILS(lseek(sparse, -1, SEEK_DATA), ENXIO);
    close(sparse);
}

void copies(const ScratchDirectory& dir) {
    const int in = fresh(dir, "in"), out = fresh(dir, "out");
    const std::string data = pattern(500'000, 7);
    CHECK(write(in, data.data(), data.size()) == 500'000);
    off_t from = 1'000, to = 5;
    CHECK(copy_file_range(in, &from, out, &to, 400'000, 0) == 400'000);
    CHECK(from == 401'000 && to == 400'005 && part(out, 5, 400'000) == data.substr(1'000, 400'000));
    CHECK(lseek(in, 499'990, SEEK_SET) == 499'990 && lseek(out, 0, SEEK_SET) == 0);
    CHECK(copy_file_range(in, nullptr, out, nullptr, 100, 0) == 10);
    CHECK(lseek(in, 0, SEEK_CUR) == 500'000 && lseek(out, 0, SEEK_CUR) == 10);
    CHECK(copy_file_range(in, nullptr, out, nullptr, 100, 0) == 0);
    CHECK_FAILS(copy_file_range(in, nullptr, out, nullptr, 100, 1), EINVAL);
    CHECK_FAILS(copy_file_range(dir.fd(), nullptr, out, nullptr, 100, 0), EISDIR);
    from = 100, to = 150;
    CHECK_FAILS(copy_file_range(in, &from, in, &to, 100, 0), EINVAL); // overlapping
    // ... which it is as far as the file goes, whatever the count says.
    const int tail = memfd_create("tail", MFD_CLOEXEC);
    CHECK(write(tail, "0123456789", 10) == 10);
    off_t near = 0, behind = 100;
    CHECK(copy_file_range(tail, &near, tail, &behind, 4096, 0) == 10);
    CHECK(near == 10 && behind == 110);
    close(tail);
    to = 1'000;
    CHECK(copy_file_range(in, &from, in, &to, 100, 0) == 100);
    CHECK(part(in, 1'000, 100) == data.substr(100, 100));
    const int append = open(dir.path("out").c_str(), O_WRONLY | O_APPEND);
    CHECK_FAILS(copy_file_range(in, nullptr, append, nullptr, 1, 0), EBADF);
    CHECK_FAILS(copy_file_range(append, nullptr, out, nullptr, 1, 0), EBADF);
    close(append);
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK_FAILS(copy_file_range(p[0], nullptr, out, nullptr, 1, 0), EINVAL);

    // sendfile: to pipes, sockets, files.
    from = 10;
    CHECK(sendfile(p[1], in, &from, 1'000) == 1'000 && from == 1'010);
    std::string got(1'000, ' ');
    CHECK(read(p[0], got.data(), 1'000) == 1'000 && got == part(in, 10, 1'000));
    CHECK(lseek(in, 0, SEEK_CUR) == 500'000);
    CHECK(lseek(in, 499'999, SEEK_SET) == 499'999 && sendfile(p[1], in, nullptr, 10) == 1);
    CHECK(lseek(in, 0, SEEK_CUR) == 500'000 && read(p[0], got.data(), 10) == 1);
    CHECK(ftruncate(out, 0) == 0 && lseek(out, 0, SEEK_SET) == 0);
    from = 0;
    CHECK(sendfile(out, in, &from, 1 << 20) == 500'000);
    CHECK(part(out, 0, 500'000) == part(in, 0, 500'000));
    CHECK_FAILS(sendfile(in, p[0], nullptr, 10), EINVAL);
    from = -1;
    CHECK_FAILS(sendfile(out, in, &from, 10), EINVAL);
    CHECK_FAILS(sendfile(out, in, reinterpret_cast<off_t*>(8), 10), EFAULT);
    CHECK_FAILS(sendfile(p[0], in, nullptr, 10), EBADF);
    CHECK(fcntl(p[1], F_SETFL, O_NONBLOCK) == 0);
    from = 0;
    CHECK(sendfile(p[1], in, &from, 500'000) == 65'536 && from == 65'536);
    CHECK_FAILS(sendfile(p[1], in, &from, 10), EAGAIN);
    close(p[0]);
    close(p[1]);
    close(in);
    close(out);
}

void coherence(const ScratchDirectory& dir) {
    const int fd = fresh(dir);
    const std::string data = pattern(40'960, 3);
    CHECK(write(fd, data.data(), data.size()) == 40'960);
    char* shared =
        static_cast<char*>(mmap(nullptr, 40'960, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    char* own =
        static_cast<char*>(mmap(nullptr, 40'960, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
    CHECK(shared != MAP_FAILED && own != MAP_FAILED);
    CHECK(std::memcmp(shared, data.data(), data.size()) == 0);
    CHECK(pwrite(fd, "written", 7, 5'000) == 7);
    CHECK(std::memcmp(shared + 5'000, "written", 7) == 0);
    CHECK(std::memcmp(own + 5'000, "written", 7) == 0); // not touched before
    own[5'001] = 'R';
    CHECK(shared[5'001] == 'r' && part(fd, 5'001, 1) == "r");
    std::memcpy(shared + 10'000, "mapped", 6);
    CHECK(part(fd, 10'000, 6) == "mapped");
    CHECK(msync(shared, 40'960, MS_SYNC) == 0 && msync(shared, 4'096, MS_ASYNC) == 0);
    CHECK_FAILS(msync(shared + 1, 4'096, MS_SYNC), EINVAL);
    CHECK_FAILS(msync(shared, 4'096, MS_SYNC | MS_ASYNC), EINVAL);
    in_child([&] {
        shared[20'000] = 'C';
        own[20'000] = 'X';
    });
    CHECK(shared[20'000] == 'C' && part(fd, 20'000, 1) == "C" && own[20'000] == 'C');
    // Another open file and name of the same file: the same pages.
    CHECK(link(dir.path("data").c_str(), dir.path("data2").c_str()) == 0);
    const int other = open(dir.path("data2").c_str(), O_RDWR);
    CHECK(pwrite(other, "other", 5, 30'000) == 5);
    CHECK(std::memcmp(shared + 30'000, "other", 5) == 0);
    // From a file into a mapping of itself.
    CHECK(pread(fd, shared + 8'192, 4'096, 0) == 4'096);
    CHECK(std::memcmp(shared + 8'192, shared, 4'096) == 0);
    CHECK(pwrite(fd, shared + 4'096, 4'096, 4'096) == 4'096);
    close(other);
    // A mapping outlives descriptor and name.
    CHECK(unlink(dir.path("data").c_str()) == 0 && unlink(dir.path("data2").c_str()) == 0);
    close(fd);
    shared[100] = 'L';
    CHECK(shared[100] == 'L');
    CHECK(munmap(shared, 40'960) == 0 && munmap(own, 40'960) == 0);
    const int reader = fresh(dir);
    close(reader);
    const int ro = open(dir.path("data").c_str(), O_RDONLY);
    CHECK(mmap(nullptr, 4'096, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0) == MAP_FAILED &&
          errno == EACCES);
    CHECK(mmap(nullptr, 4'096, PROT_READ, MAP_SHARED, dir.fd(), 0) == MAP_FAILED &&
          errno == ENODEV);
    CHECK(mmap(nullptr, 4'096, PROT_READ, MAP_SHARED, ro, 100) == MAP_FAILED && errno == EINVAL);
    void* map = mmap(nullptr, 4'096, PROT_READ, MAP_SHARED, ro, 0);
    CHECK(map != MAP_FAILED);
    CHECK_FAILS(mprotect(map, 4'096, PROT_READ | PROT_WRITE), EACCES);
    CHECK(munmap(map, 4'096) == 0);
    close(ro);
}

void syncs(const ScratchDirectory& dir) {
    const int fd = fresh(dir);
    CHECK(write(fd, "sync", 4) == 4);
    CHECK(fsync(fd) == 0 && fdatasync(fd) == 0 && fsync(dir.fd()) == 0 && syncfs(fd) == 0);
    sync();
    CHECK(sync_file_range(fd, 0, 0,
                          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                              SYNC_FILE_RANGE_WAIT_AFTER) == 0);
    CHECK(sync_file_range(fd, 0, 4, 0) == 0);
    CHECK_FAILS(sync_file_range(fd, 0, 4, 8), EINVAL);
    CHECK_FAILS(sync_file_range(fd, -1, 4, 0), EINVAL);
    CHECK_FAILS(sync_file_range(fd, 0, -1, 0), EINVAL);
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK_FAILS(sync_file_range(p[0], 0, 0, 0), ESPIPE);
    CHECK_FAILS(readahead(p[0], 0, 10), EINVAL);
    CHECK(posix_fadvise(p[0], 0, 0, POSIX_FADV_NORMAL) == ESPIPE);
    close(p[0]);
    close(p[1]);
    CHECK(readahead(fd, 0, 4096) == 0);
    const int w = open(dir.path("data").c_str(), O_WRONLY);
    CHECK_FAILS(readahead(w, 0, 10), EBADF);
    CHECK_FAILS(readahead(dir.fd(), 0, 10), EINVAL);
    close(w);
    for (int advice = POSIX_FADV_NORMAL; advice <= POSIX_FADV_NOREUSE; advice++)
        CHECK(posix_fadvise(fd, 0, 0, advice) == 0);
    CHECK(part(fd, 0, 4) == "sync"); // POSIX_FADV_DONTNEED loses nothing
    CHECK(posix_fadvise(fd, 0, 0, 99) == EINVAL && posix_fadvise(999, 0, 0, 0) == EBADF);
    CHECK(posix_fadvise(fd, 0, -1, 0) == EINVAL);
    CHECK_FAILS(fsync(999), EBADF);
    CHECK_FAILS(syncfs(999), EBADF);
    const int s = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_FAILS(fsync(s), EINVAL);
    close(s);
    const int null = open("/dev/null", O_RDWR);
    CHECK_FAILS(fsync(null), EINVAL);
    close(null);
    close(fd);
}

void direct(const ScratchDirectory& dir) {
    const int fd = open(dir.path("direct").c_str(), O_RDWR | O_CREAT | O_DIRECT, 0600);
    if (fd < 0) {
        CHECK(errno == EINVAL); // tmpfs before Linux 6.6
        return;
    }
    void* page = nullptr;
    CHECK(posix_memalign(&page, 4'096, 4'096) == 0);
    std::memset(page, 'd', 4'096);
    CHECK(write(fd, page, 4'096) == 4'096);
    std::memset(page, 0, 4'096);
    CHECK(pread(fd, page, 4'096, 0) == 4'096 && static_cast<char*>(page)[4'095] == 'd');
    std::free(page);
    close(fd);
}

// ioctl(2) of every file system.
void questions(const ScratchDirectory& dir) {
    const int fd = fresh(dir);
    CHECK(write(fd, "questions", 9) == 9 && fsync(fd) == 0);
    struct stat status;
    CHECK(fstat(fd, &status) == 0);
    int number = 0;
    CHECK(ioctl(fd, FIGETBSZ, &number) == 0 && number >= 512 && number <= 65'536);
    CHECK(ioctl(dir.fd(), FIGETBSZ, &number) == 0 && number >= 512);
    CHECK_FAILS(ioctl(fd, FIGETBSZ, 8), EFAULT);
    loff_t bytes = -1;
    CHECK(ioctl(fd, FIOQSIZE, &bytes) == 0 && bytes == status.st_blocks * 512);
    CHECK(ioctl(dir.fd(), FIOQSIZE, &bytes) == 0 && bytes >= 0);
    CHECK(lseek(fd, 4, SEEK_SET) == 4 && ioctl(fd, FIONREAD, &number) == 0 && number == 5);
    CHECK(lseek(fd, 19, SEEK_SET) == 19 && ioctl(fd, FIONREAD, &number) == 0 && number == -10);
    CHECK_FAILS(ioctl(fd, FICLONE, 999), EBADF);
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK(ioctl(p[0], FIGETBSZ, &number) == 0 && number == 4'096);
    CHECK_FAILS(ioctl(p[0], FIOQSIZE, &bytes), ENOTTY);
    fiemap map = {};
    CHECK_FAILS(ioctl(p[0], FS_IOC_FIEMAP, &map), EOPNOTSUPP);
    close(p[0]);
    close(p[1]);
    close(fd);
}

} // namespace

int main() {
    umask(022);
    on_each_file_system([](const ScratchDirectory& dir) {
        errors_of_transfers(dir);
        file_ioctls(dir);
        transfer(dir);
        truncation(dir);
        allocation(dir);
        copies(dir);
        coherence(dir);
        syncs(dir);
        direct(dir);
        questions(dir);
    });
}
