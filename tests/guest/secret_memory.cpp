// memfd_secret(2): memory for those who have it mapped and for nobody else. Where Linux has it
// switched off (secretmem.enable) there is nothing to check.
#include <csignal>
#include <fcntl.h>
#include <string>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

constexpr size_t page = 4096;

int make(int flags = 0) {
    return static_cast<int>(syscall(447, flags)); // SYS_memfd_secret
}
char* map(int fd, size_t length, int protection = PROT_READ | PROT_WRITE, int flags = MAP_SHARED) {
    return static_cast<char*>(mmap(nullptr, length, protection, flags, fd, 0));
}
void expect_no_map(int fd, int protection, int flags, int error) {
    errno = 0;
    CHECK(map(fd, page, protection, flags) == MAP_FAILED && errno == error);
}

void files(int fd) {
    CHECK_FAILS(make(1), EINVAL);
    const int closed_on_exec = make(O_CLOEXEC);
    CHECK((fcntl(closed_on_exec, F_GETFD) & FD_CLOEXEC) != 0 && close(closed_on_exec) == 0);
    struct stat status = {};
    CHECK(fstat(fd, &status) == 0 && status.st_mode == (S_IFREG | 0600) && status.st_size == 0);
    struct statfs home = {};
    CHECK(fstatfs(fd, &home) == 0 && home.f_type == 0x5345434d);
    CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
    const std::string name = "/proc/self/fd/" + std::to_string(fd);
    char target[64] = {};
    CHECK(readlink(name.c_str(), target, sizeof target) > 0);
    CHECK(std::string(target) == "/secretmem (deleted)");
    CHECK_FAILS(open(name.c_str(), O_RDWR), ENXIO);
    char byte = 1;
    CHECK_FAILS(read(fd, &byte, 1), EINVAL);
    CHECK_FAILS(write(fd, &byte, 1), EINVAL);
    CHECK_FAILS(pread(fd, &byte, 1, 0), ESPIPE);
    CHECK_FAILS(lseek(fd, 0, SEEK_END), ESPIPE);
    CHECK_FAILS(fallocate(fd, 0, 0, page), EOPNOTSUPP);
    CHECK_FAILS(fsync(fd), EINVAL);
    CHECK_FAILS(fcntl(fd, F_GET_SEALS), EINVAL);
}

void mappings(int fd) {
    expect_no_map(fd, PROT_READ, MAP_PRIVATE, EINVAL);
    expect_no_map(fd, PROT_READ | PROT_EXEC, MAP_SHARED, EPERM);
    char* const at = map(fd, 2 * page);
    CHECK(at != MAP_FAILED);
    // The size is set once.
    CHECK(ftruncate(fd, 2 * page) == 0);
    for (const long size : {0L, long{page}, long{2 * page}, long{4 * page}})
        CHECK_FAILS(ftruncate(fd, size), EINVAL);
    std::strcpy(at, "secret");
    at[page] = 'x';
    CHECK_FAILS(mprotect(at, page, PROT_READ | PROT_EXEC), EACCES);
    // It stays locked.
    CHECK_FAILS(madvise(at, page, MADV_DONTNEED), EINVAL);
    CHECK(munlock(at, 2 * page) == 0);
    CHECK_FAILS(madvise(at, page, MADV_DONTNEED), EINVAL);
    CHECK(munlockall() == 0);
    CHECK_FAILS(madvise(at, page, MADV_DONTNEED), EINVAL);
    char* const twin = map(fd, 2 * page);
    CHECK(twin != MAP_FAILED && std::string(twin) == "secret" && twin[page] == 'x');
    CHECK(munmap(twin, 2 * page) == 0);
    // Nobody looks into it from outside, but the program gives away what it wants to.
    char text[16] = {};
    const iovec local = {text, 7}, remote = {at, 7};
    CHECK_FAILS(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), EFAULT);
    CHECK_FAILS(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), EFAULT);
    const int memory = open("/proc/self/mem", O_RDONLY);
    CHECK_FAILS(pread(memory, text, 7, static_cast<off_t>(reinterpret_cast<long>(at))), EIO);
    int ends[2];
    CHECK(pipe(ends) == 0 && write(ends[1], at, 7) == 7 && read(ends[0], text, 7) == 7);
    CHECK(std::string(text) == "secret");
    for (const int used : {memory, ends[0], ends[1]})
        close(used);
    // Children have it, too.
    const pid_t child = fork();
    if (child == 0) {
        const bool seen = std::string(at) == "secret";
        at[0] = 'S';
        _exit(seen ? 0 : 1);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0 && std::string(at) == "Secret");
    CHECK(munmap(at, 2 * page) == 0);
}

// Behind the end, and beyond what may be locked.
void limits(int fd) {
    const pid_t beyond = fork();
    if (beyond == 0) {
        const rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        volatile char* const at = map(fd, 3 * page);
        (void)at[2 * page];
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(beyond, &status, 0) == beyond);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    const pid_t child = fork();
    if (child == 0) {
        const rlimit few = {2 * page, 2 * page};
        CHECK(setrlimit(RLIMIT_MEMLOCK, &few) == 0);
        if (geteuid() == 0)
            CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK(map(fd, 2 * page) != MAP_FAILED);
        expect_no_map(fd, PROT_READ, MAP_SHARED, EAGAIN);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

} // namespace

int main() {
    const int fd = make();
    if (fd < 0) {
        CHECK(errno == ENOSYS);
        return 0;
    }
    files(fd);
    mappings(fd);
    limits(fd);
    return close(fd);
}
