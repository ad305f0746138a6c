// Memory: mmap in all flags, protection, moving, advice, residence, locking, synchronising, the
// break, memory files and their seals. mmap(2), mprotect(2), mremap(2), madvise(2), mincore(2),
// mlock(2), msync(2), brk(2), memfd_create(2), fcntl(2), pkeys(7).
#include <csetjmp>
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "tests/guest/process_support.hpp"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace {

constexpr size_t page = 4096;

char* map(size_t pages, int protection = PROT_READ | PROT_WRITE,
          int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1, off_t offset = 0,
          void* hint = nullptr) {
    void* at = mmap(hint, pages * page, protection, flags, fd, offset);
    CHECK(at != MAP_FAILED);
    return static_cast<char*>(at);
}

void unmap(void* at, size_t pages) {
    CHECK(munmap(at, pages * page) == 0);
}

void* const failed = MAP_FAILED;

#define CHECK_MAP_FAILS(call, error)                                                               \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHECK((call) == failed);                                                                   \
        CHECK(errno == (error));                                                                   \
    } while (false)

sigjmp_buf escape;
void jump_out(int signal) {
    siglongjmp(escape, signal);
}

// 0: the access works, else the signal it raises.
template <typename F>
int signal_of(F&& access) {
    struct sigaction action = {};
    action.sa_handler = jump_out;
    CHECK(sigaction(SIGSEGV, &action, nullptr) == 0 && sigaction(SIGBUS, &action, nullptr) == 0);
    const int signal = sigsetjmp(escape, 1);
    if (signal == 0)
        access();
    return signal;
}
int read_signal(const volatile char* at) {
    return signal_of([at] { (void)*at; });
}
int write_signal(volatile char* at) {
    return signal_of([at] { *at = 1; });
}

int temporary_file(size_t bytes) {
    char name[] = "/tmp/joey-memory-XXXXXX";
    const int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    CHECK(ftruncate(fd, static_cast<off_t>(bytes)) == 0);
    return fd;
}

void mappings() {
    CHECK_MAP_FAILS(mmap(nullptr, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 100), EINVAL);
    CHECK_MAP_FAILS(mmap(nullptr, 1ul << 62, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                    ENOMEM);
    CHECK_MAP_FAILS(mmap(reinterpret_cast<void*>(0x1001), page, PROT_READ,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                    EINVAL);
    CHECK_MAP_FAILS(mmap(reinterpret_cast<void*>(0x7ffffffff000), 2 * page, PROT_READ,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                    ENOMEM);
    // Zeroed, and a hint is taken if it is free.
    char* at = map(16);
    for (size_t i = 0; i < 16 * page; i += 64)
        CHECK(at[i] == 0);
    unmap(at + 4 * page, 4);
    CHECK(map(4, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, at + 4 * page) == at + 4 * page);
    CHECK(map(1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, at) != at);
    // MAP_FIXED replaces, MAP_FIXED_NOREPLACE does not.
    at[0] = 5;
    CHECK(map(2, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0, at) == at);
    CHECK(at[0] == 0);
    CHECK_MAP_FAILS(
        mmap(at, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
        EEXIST);
    unmap(at, 1);
    CHECK(map(1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0, at) == at);
    unmap(at, 16);
    CHECK(munmap(at, 16 * page) == 0); // nothing there is no error
    CHECK_FAILS(munmap(at + 1, page), EINVAL);
    CHECK_FAILS(munmap(at, 0), EINVAL);
    // MAP_32BIT, MAP_NORESERVE, MAP_POPULATE, MAP_STACK, MAP_LOCKED.
    char* low = map(4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT);
    CHECK(reinterpret_cast<unsigned long>(low) < 0x80000000ul);
    unmap(low, 4);
    char* vast = map(1 << 24, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    vast[(1ul << 24) * page - 1] = 1;
    unmap(vast, 1 << 24);
    char* ready = map(8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE);
    unsigned char resident[8] = {};
    CHECK(mincore(ready, 8 * page, resident) == 0);
    for (const unsigned char byte : resident)
        CHECK((byte & 1) != 0);
    unmap(ready, 8);
    unmap(map(4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK), 4);
    // PROT_NONE reserves.
    char* none = map(2, PROT_NONE);
    CHECK(read_signal(none) == SIGSEGV && write_signal(none) == SIGSEGV);
    unmap(none, 2);
    CHECK(read_signal(none) == SIGSEGV);
    // A growing area.
    char* stack = map(64, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    unmap(stack, 64);
    stack = map(1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED,
                -1, 0, stack + 63 * page);
    CHECK(write_signal(stack - 1) == 0 && write_signal(stack - 10 * page) == 0);
    unmap(stack - 16 * page, 17);
    // Only private memory grows.
    const int fd = memfd_create("grows", 0);
    CHECK(fd >= 0 && ftruncate(fd, static_cast<off_t>(4 * page)) == 0);
    for (const int type : {MAP_SHARED, MAP_PRIVATE})
        CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ | PROT_WRITE, type | MAP_GROWSDOWN, fd, 0),
                        EINVAL);
    close(fd);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0),
                    EINVAL);
}

void file_mappings() {
    const int fd = temporary_file(3 * page + 100);
    CHECK(pwrite(fd, "hello", 5, 2 * page) == 5);
    char* shared = map(4, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    char* copy = map(4, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    CHECK(std::memcmp(shared + 2 * page, "hello", 5) == 0);
    CHECK(std::memcmp(copy + 2 * page, "hello", 5) == 0);
    std::memcpy(shared + 2 * page, "HELLO", 5);
    char text[6] = {};
    CHECK(pread(fd, text, 5, 2 * page) == 5 && std::strcmp(text, "HELLO") == 0);
    CHECK(std::memcmp(copy + 2 * page, "HELLO", 5) == 0); // not copied yet
    std::memcpy(copy + 2 * page, "yours", 5);
    CHECK(std::memcmp(shared + 2 * page, "HELLO", 5) == 0);
    CHECK(pwrite(fd, "other", 5, 2 * page) == 5);
    CHECK(std::memcmp(shared + 2 * page, "other", 5) == 0);
    CHECK(std::memcmp(copy + 2 * page, "yours", 5) == 0);
    // Beyond the end: the rest of the last page is zero, further pages are none.
    CHECK(shared[3 * page + 200] == 0);
    CHECK(ftruncate(fd, page) == 0);
    CHECK(read_signal(shared + page) == SIGBUS && read_signal(copy + 2 * page) == SIGBUS);
    CHECK(ftruncate(fd, 4 * page) == 0);
    CHECK(read_signal(shared + page) == 0 && shared[2 * page] == 0);
    // An offset.
    CHECK(pwrite(fd, "third", 5, 3 * page) == 5);
    char* part = map(1, PROT_READ, MAP_SHARED, fd, 3 * page);
    CHECK(std::memcmp(part, "third", 5) == 0);
    unmap(part, 1);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_SHARED, fd, 100), EINVAL);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_SHARED, fd, 0x7ffffffffffff000), EOVERFLOW);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_SHARED_VALIDATE | (1 << 23), fd, 0),
                    EOPNOTSUPP);
    part = map(1, PROT_READ, MAP_SHARED_VALIDATE, fd);
    unmap(part, 1);
    CHECK(msync(shared, 4 * page, MS_SYNC) == 0 && msync(shared, page, MS_ASYNC) == 0);
    CHECK(msync(shared, page, MS_INVALIDATE) == 0);
    CHECK(mlock(shared + page, page) == 0 && msync(shared, page, MS_INVALIDATE) == 0);
    CHECK_FAILS(msync(shared, 2 * page, MS_INVALIDATE), EBUSY);
    CHECK(munlock(shared + page, page) == 0 && msync(shared, 2 * page, MS_INVALIDATE) == 0);
    CHECK_FAILS(msync(shared, page, MS_SYNC | MS_ASYNC), EINVAL);
    CHECK_FAILS(msync(shared + 1, page, MS_SYNC), EINVAL);
    CHECK_FAILS(msync(shared, page, 0x100), EINVAL);
    unmap(shared + page, 1);
    CHECK_FAILS(msync(shared, 3 * page, MS_SYNC), ENOMEM);
    unmap(shared, 4);
    unmap(copy, 4);
    close(fd);
    // Access modes.
    char name[] = "/tmp/joey-memory-XXXXXX";
    const int both = mkstemp(name);
    CHECK(ftruncate(both, page) == 0);
    const int reader = open(name, O_RDONLY);
    const int writer = open(name, O_WRONLY);
    const int place = open(name, O_PATH);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0), EACCES);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_SHARED, writer, 0), EACCES);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_SHARED, place, 0), EBADF);
    char* seen = map(1, PROT_READ, MAP_SHARED, reader);
    CHECK_FAILS(mprotect(seen, page, PROT_READ | PROT_WRITE), EACCES);
    unmap(seen, 1);
    unmap(map(1, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader), 1);
    close(reader);
    close(writer);
    close(place);
    close(both);
    CHECK(unlink(name) == 0);
    int fds[2];
    CHECK(pipe(fds) == 0);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_SHARED, fds[0], 0), ENODEV);
    close(fds[0]);
    close(fds[1]);
    const int directory = open("/tmp", O_RDONLY | O_DIRECTORY);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ, MAP_SHARED, directory, 0), ENODEV);
    close(directory);
}

void protections() {
    char* at = map(8);
    at[0] = at[3 * page] = 7;
    CHECK(mprotect(at + 2 * page, 3 * page, PROT_READ) == 0);
    CHECK(read_signal(at + 3 * page) == 0 && at[3 * page] == 7);
    CHECK(write_signal(at + 3 * page) == SIGSEGV && write_signal(at + page) == 0);
    CHECK(mprotect(at, 8 * page, PROT_NONE) == 0);
    CHECK(read_signal(at) == SIGSEGV);
    CHECK(mprotect(at, 8 * page, PROT_READ | PROT_WRITE) == 0);
    CHECK(at[3 * page] == 7);
    CHECK(mprotect(at, 0, PROT_NONE) == 0);
    CHECK_FAILS(mprotect(at + 1, page, PROT_READ), EINVAL);
    CHECK_FAILS(mprotect(at, page, 0x100), EINVAL);
    CHECK_FAILS(mprotect(at, page, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP), EINVAL);
    CHECK_FAILS(mprotect(at, page, PROT_READ | PROT_GROWSDOWN), EINVAL);
    unmap(at + 4 * page, 1);
    CHECK_FAILS(mprotect(at + 2 * page, 4 * page, PROT_READ), ENOMEM);
    CHECK(write_signal(at + 3 * page) == SIGSEGV); // up to the hole it is done
    // Code.
    CHECK(mprotect(at, page, PROT_READ | PROT_WRITE) == 0);
    const unsigned char code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3}; // mov $42, %eax; ret
    std::memcpy(at, code, sizeof code);
    const auto function = reinterpret_cast<int (*)()>(at);
    CHECK(signal_of([&] { (void)function(); }) == SIGSEGV);
    CHECK(mprotect(at, page, PROT_READ | PROT_EXEC) == 0);
    CHECK(function() == 42);
    unmap(at, 8);
    // A fork's copy has protections of its own.
    at = map(2);
    at[0] = 1;
    in_child([&] {
        CHECK(mprotect(at, page, PROT_READ) == 0);
        CHECK(write_signal(at) == SIGSEGV);
    });
    CHECK(write_signal(at) == 0);
    unmap(at, 2);
    // Protection keys: none, or the CPU's.
    errno = 0;
    const long key = syscall(SYS_pkey_alloc, 0, 0);
    CHECK(key >= 0 || errno == ENOSPC || errno == EINVAL);
    if (key >= 0)
        CHECK(syscall(SYS_pkey_free, key) == 0);
    CHECK_FAILS(syscall(SYS_pkey_alloc, 1, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_pkey_free, 15), EINVAL);
    at = map(1);
    CHECK(syscall(SYS_pkey_mprotect, at, page, PROT_READ, -1) == 0);
    CHECK(write_signal(at) == SIGSEGV);
    CHECK_FAILS(syscall(SYS_pkey_mprotect, at, page, PROT_READ, 15), EINVAL);
    unmap(at, 1);
}

void moves() {
    char* at = map(8);
    std::strcpy(at + 3 * page, "here");
    // Smaller, and larger again where it stands.
    CHECK(mremap(at, 8 * page, 4 * page, 0) == at);
    CHECK(read_signal(at + 5 * page) == SIGSEGV);
    CHECK(mremap(at, 4 * page, 8 * page, 0) == at);
    CHECK(std::strcmp(at + 3 * page, "here") == 0 && at[7 * page] == 0);
    // Something in the way.
    char* wall = map(1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0, at + 7 * page);
    CHECK_MAP_FAILS(mremap(at, 7 * page, 9 * page, 0), ENOMEM);
    auto* moved = static_cast<char*>(mremap(at, 7 * page, 20 * page, MREMAP_MAYMOVE));
    CHECK(moved != failed && moved != at);
    CHECK(std::strcmp(moved + 3 * page, "here") == 0 && read_signal(at) == SIGSEGV);
    unmap(wall, 1);
    // To a place of the caller's choice, over what is there.
    char* target = map(20, PROT_NONE);
    CHECK(mremap(moved, 20 * page, 10 * page, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
    CHECK(std::strcmp(target + 3 * page, "here") == 0 && read_signal(moved) == SIGSEGV);
    CHECK(read_signal(target + 15 * page) == SIGSEGV);
    CHECK_MAP_FAILS(mremap(target, 4 * page, 4 * page, MREMAP_FIXED, moved), EINVAL);
    CHECK_MAP_FAILS(
        mremap(target, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, target + page), EINVAL);
    CHECK_MAP_FAILS(mremap(target, 4 * page, 0, MREMAP_MAYMOVE), EINVAL);
    CHECK_MAP_FAILS(mremap(target + 1, page, page, 0), EINVAL);
    CHECK_MAP_FAILS(mremap(target, page, page, 0x100), EINVAL);
    CHECK_MAP_FAILS(mremap(moved, page, 2 * page, MREMAP_MAYMOVE), EFAULT);
    // MREMAP_DONTUNMAP: the pages go, the mapping stays.
    constexpr int keep = MREMAP_MAYMOVE | 4;
    void* const anywhere = nullptr; // a hint, which the call reads
    auto* fresh = static_cast<char*>(mremap(target, 10 * page, 10 * page, keep, anywhere));
    CHECK(fresh != failed && std::strcmp(fresh + 3 * page, "here") == 0);
    CHECK(target[3 * page] == 0);
    unmap(fresh, 10);
    unmap(target, 20);
    // Old size 0 of a shared mapping makes another view of it.
    char* shared = map(2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    auto* view = static_cast<char*>(mremap(shared, 0, 2 * page, MREMAP_MAYMOVE));
    CHECK(view != failed && view != shared);
    shared[5] = 9;
    CHECK(view[5] == 9);
    unmap(view, 2);
    unmap(shared, 2);
    // Part of a mapping.
    at = map(6);
    at[2 * page] = 3;
    moved = static_cast<char*>(mremap(at + 2 * page, page, 2 * page, MREMAP_MAYMOVE));
    CHECK(moved != failed && moved[0] == 3 && read_signal(at + 2 * page) == SIGSEGV);
    CHECK(write_signal(at + 3 * page) == 0);
    unmap(moved, 2);
    unmap(at, 6);
}

// MREMAP_DONTUNMAP of what is not private anonymous memory: what stays shows the file again.
void moves_that_leave_files_behind() {
    constexpr int keep = MREMAP_MAYMOVE | 4;
    void* const anywhere = nullptr;
    const int file = memfd_create("moved", 0);
    CHECK(ftruncate(file, 2 * page) == 0 && pwrite(file, "f", 1, page) == 1);
    char* shared = map(2, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    auto* moved = static_cast<char*>(mremap(shared, 2 * page, 2 * page, keep, anywhere));
    CHECK(moved != failed && moved != shared && moved[page] == 'f');
    moved[page] = 'g';
    CHECK(shared[page] == 'g');
    unmap(moved, 2);
    unmap(shared, 2);
    // The program's own copy moves, the file's page is seen where it was.
    char* copy = map(2, PROT_READ | PROT_WRITE, MAP_PRIVATE, file);
    copy[page] = 'c';
    moved = static_cast<char*>(mremap(copy, 2 * page, 2 * page, keep, anywhere));
    CHECK(moved != failed && moved[page] == 'c' && copy[page] == 'g');
    unmap(moved, 2);
    unmap(copy, 2);
    close(file);
    char* common = map(2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    common[5] = 9;
    moved = static_cast<char*>(mremap(common, 2 * page, 2 * page, keep, anywhere));
    CHECK(moved != failed && moved[5] == 9 && common[5] == 9);
    unmap(moved, 2);
    // A free place that is asked for is taken; one inside of the old mapping or beside a page's
    // start is a mistake.
    char* hole = map(2);
    unmap(hole, 2);
    CHECK(mremap(common, 2 * page, 2 * page, keep, hole) == hole);
    CHECK_MAP_FAILS(mremap(common, 2 * page, 2 * page, keep, common + page), EINVAL);
    CHECK_MAP_FAILS(mremap(common, 2 * page, 2 * page, keep, hole + 1), EINVAL);
    unmap(hole, 2);
    unmap(common, 2);
}

// MADV_REMOVE takes the contents out of the file: not for those who may only read it.
void removal_of_others() {
    for (const char* directory : {"/tmp", "/dev/shm"}) {
        std::string name = std::string(directory) + "/joey-memory-XXXXXX";
        const int fd = mkstemp(name.data());
        CHECK(fd >= 0 && pwrite(fd, "data", 4, 0) == 4 && ftruncate(fd, page) == 0);
        const int reader = open(name.c_str(), O_RDONLY);
        CHECK(reader >= 0 && unlink(name.c_str()) == 0);
        char* view = map(1, PROT_READ, MAP_SHARED, reader);
        CHECK(std::memcmp(view, "data", 4) == 0);
        CHECK_FAILS(madvise(view, page, MADV_REMOVE), EACCES);
        CHECK(std::memcmp(view, "data", 4) == 0);
        char* copy = map(1, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
        CHECK_FAILS(madvise(copy, page, MADV_REMOVE), EACCES);
        unmap(copy, 1);
        // A mapping that is read-only by choice is enough.
        char* own = map(1, PROT_READ, MAP_SHARED, fd);
        CHECK(madvise(own, page, MADV_REMOVE) == 0 || errno == EOPNOTSUPP);
        unmap(own, 1);
        unmap(view, 1);
        close(reader);
        close(fd);
    }
}

// Where no programs may be, there are none by way of mprotect(2) either.
void mounts_without_programs() {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    CHECK(mount("memory", "/mnt", "tmpfs", MS_NOEXEC, "size=1m") == 0);
    const int fd = open("/mnt/file", O_RDWR | O_CREAT, 0755);
    CHECK(fd >= 0 && ftruncate(fd, page) == 0);
    for (const int flags : {MAP_SHARED, MAP_PRIVATE}) {
        CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ | PROT_EXEC, flags, fd, 0), EPERM);
        char* at = map(1, PROT_READ, flags, fd);
        CHECK_FAILS(mprotect(at, page, PROT_READ | PROT_EXEC), EACCES);
        CHECK(mprotect(at, page, PROT_READ | PROT_WRITE) == 0);
        unmap(at, 1);
    }
    close(fd);
}

// The size of a tmpfs holds for what comes by way of mappings.
void mounts_of_a_size() {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    CHECK(mount("memory", "/mnt", "tmpfs", 0, "size=16k") == 0);
    const auto free_pages = [] {
        struct statvfs status = {};
        CHECK(statvfs("/mnt", &status) == 0);
        return status.f_bfree;
    };
    const int fd = open("/mnt/file", O_RDWR | O_CREAT, 0644);
    CHECK(fd >= 0 && ftruncate(fd, 8 * page) == 0 && free_pages() == 4);
    char* at = map(8, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    for (size_t i = 0; i < 4; i++)
        CHECK(write_signal(at + i * page) == 0 && free_pages() == 3 - i);
    CHECK(write_signal(at + 4 * page) == SIGBUS && read_signal(at + 5 * page) == SIGBUS);
    CHECK_FAILS(pwrite(fd, "x", 1, 6 * page), ENOSPC);
    CHECK(write_signal(at + 3 * page) == 0); // what is there stays
    CHECK(madvise(at, page, MADV_REMOVE) == 0 && free_pages() == 1);
    CHECK(write_signal(at + 4 * page) == 0 && write_signal(at) == SIGBUS);
    CHECK(ftruncate(fd, 0) == 0 && free_pages() == 4);
    unmap(at, 8);
    // Of a write that is too long what fits is written.
    const std::string long_text(8 * page, 't');
    CHECK(pwrite(fd, long_text.data(), long_text.size(), 100) ==
          static_cast<ssize_t>(4 * page - 100));
    CHECK(free_pages() == 0);
    CHECK_FAILS(pwrite(fd, long_text.data(), page, 4 * page), ENOSPC);
    CHECK(pwrite(fd, long_text.data(), page, 3 * page + 100) == static_cast<ssize_t>(page - 100));
    close(fd);
}

void advice() {
    char* at = map(8);
    const int harmless[] = {MADV_NORMAL,   MADV_RANDOM,  MADV_SEQUENTIAL, MADV_WILLNEED,
                            MADV_COLD,     MADV_PAGEOUT, MADV_DONTDUMP,   MADV_DODUMP,
                            MADV_DONTFORK, MADV_DOFORK};
    std::strcpy(at, "kept");
    for (const int each : harmless)
        CHECK(madvise(at, 8 * page, each) == 0);
    CHECK(std::strcmp(at, "kept") == 0);
    for (const int each : {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_MERGEABLE, MADV_UNMERGEABLE})
        CHECK(madvise(at, 8 * page, each) == 0 || errno == EINVAL); // a matter of configuration
    CHECK_FAILS(madvise(at, page, 999), EINVAL);
    CHECK_FAILS(madvise(at + 1, page, MADV_NORMAL), EINVAL);
    CHECK(madvise(at, 0, MADV_DONTNEED) == 0);
    CHECK_FAILS(madvise(at, ~0ul, MADV_DONTNEED), EINVAL);
    // Gone, and zero again.
    at[3 * page] = 1;
    CHECK(madvise(at + 3 * page, page, MADV_DONTNEED) == 0);
    CHECK(at[3 * page] == 0 && std::strcmp(at, "kept") == 0);
    // MADV_FREE: the old contents or zeros, until it is written again.
    at[4 * page] = 5;
    CHECK(madvise(at + 4 * page, page, MADV_FREE) == 0);
    CHECK(at[4 * page] == 5 || at[4 * page] == 0);
    at[4 * page] = 6;
    CHECK(at[4 * page] == 6);
    // Filled beforehand.
    unsigned char resident[8] = {};
    CHECK(madvise(at, 8 * page, MADV_DONTNEED) == 0);
    CHECK(madvise(at, 8 * page, MADV_POPULATE_WRITE) == 0);
    CHECK(mincore(at, 8 * page, resident) == 0);
    for (const unsigned char byte : resident)
        CHECK((byte & 1) != 0);
    CHECK(mprotect(at, page, PROT_READ) == 0);
    CHECK_FAILS(madvise(at, page, MADV_POPULATE_WRITE), EINVAL);
    CHECK(madvise(at, page, MADV_POPULATE_READ) == 0);
    CHECK(mprotect(at, page, PROT_READ | PROT_WRITE) == 0);
    // Forks.
    at[0] = at[page] = at[2 * page] = 4;
    CHECK(madvise(at, page, MADV_WIPEONFORK) == 0 && madvise(at + page, page, MADV_DONTFORK) == 0);
    in_child([&] { CHECK(at[0] == 0 && at[2 * page] == 4 && read_signal(at + page) == SIGSEGV); });
    CHECK(madvise(at, page, MADV_KEEPONFORK) == 0 && madvise(at + page, page, MADV_DOFORK) == 0);
    in_child([&] { CHECK(at[0] == 4 && at[page] == 4); });
    // Holes.
    unmap(at + 4 * page, 1);
    CHECK_FAILS(madvise(at, 8 * page, MADV_DONTNEED), ENOMEM);
    CHECK(at[0] == 0 && at[7 * page] == 0); // what is there was done
    CHECK_FAILS(madvise(at, 8 * page, MADV_NORMAL), ENOMEM);
    CHECK_FAILS(madvise(at, 8 * page, MADV_POPULATE_READ), ENOMEM);
    // Locked memory stays, unless asked for by name.
    CHECK(mlock(at, page) == 0);
    CHECK_FAILS(madvise(at, page, MADV_DONTNEED), EINVAL);
    CHECK_FAILS(madvise(at, page, MADV_PAGEOUT), EINVAL);
    CHECK(madvise(at, page, 24) == 0); // MADV_DONTNEED_LOCKED
    CHECK(munlock(at, page) == 0);
    unmap(at, 8);
    // Shared memory: private advice does not reach the object, MADV_REMOVE does.
    char* shared = map(4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    shared[page] = 8;
    CHECK(madvise(shared, 4 * page, MADV_DONTNEED) == 0 && shared[page] == 8);
    CHECK_FAILS(madvise(shared, page, MADV_FREE), EINVAL);
    CHECK_FAILS(madvise(shared, page, MADV_WIPEONFORK), EINVAL);
    CHECK(madvise(shared + page, page, MADV_REMOVE) == 0 && shared[page] == 0);
    CHECK(mlock(shared, page) == 0);
    CHECK_FAILS(madvise(shared, page, MADV_REMOVE), EINVAL);
    unmap(shared, 4);
    removal_of_others();
    char* own = map(1);
    CHECK_FAILS(madvise(own, page, MADV_REMOVE), EINVAL);
    // Guard pages (Linux 6.13) or none.
    if (madvise(own, page, 102) == 0) {
        CHECK(read_signal(own) == SIGSEGV);
        CHECK(madvise(own, page, 103) == 0 && read_signal(own) == 0);
    } else {
        CHECK(errno == EINVAL);
    }
    unmap(own, 1);
}

void residence() {
    char* at = map(8);
    unsigned char resident[9];
    std::memset(resident, 0xff, sizeof resident);
    at[0] = at[5 * page] = 1;
    CHECK(mincore(at, 8 * page - 1, resident) == 0);
    CHECK((resident[0] & 1) == 1 && (resident[5] & 1) == 1 && resident[8] == 0xff);
    CHECK_FAILS(mincore(at + 1, page, resident), EINVAL);
    CHECK_FAILS(syscall(SYS_mincore, at, page, 16), EFAULT);
    CHECK(mincore(at, 0, resident) == 0);
    unmap(at + 4 * page, 1);
    CHECK_FAILS(mincore(at, 8 * page, resident), ENOMEM);
    CHECK_FAILS(mincore(at, ~0ul >> 1, resident), ENOMEM);
    unmap(at, 8);
    const int fd = temporary_file(4 * page);
    char* file = map(4, PROT_READ, MAP_SHARED, fd);
    (void)*static_cast<volatile char*>(file + page);
    CHECK(mincore(file, 4 * page, resident) == 0 && (resident[1] & 1) == 1);
    // What of others' files is in memory says what they do.
    if (getuid() == 0)
        in_child([&] {
            CHECK(ftruncate(fd, 64 * page) == 0 && fchmod(fd, 0644) == 0);
            CHECK(setuid(1000) == 0);
            char* foreign = map(64, PROT_READ, MAP_SHARED, fd);
            unsigned char all[64];
            CHECK(mincore(foreign, sizeof all * page, all) == 0);
            for (const unsigned char byte : all)
                CHECK((byte & 1) == 1);
        });
    unmap(file, 4);
    close(fd);
}

long locked_kib() {
    FILE* status = std::fopen("/proc/self/status", "r");
    CHECK(status != nullptr);
    char line[200];
    long value = -1;
    while (std::fgets(line, sizeof line, status) != nullptr)
        if (std::sscanf(line, "VmLck: %ld", &value) == 1)
            break;
    std::fclose(status);
    return value;
}

void locks() {
    CHECK(locked_kib() == 0);
    char* at = map(8);
    unsigned char resident[8] = {};
    CHECK(mlock(at + 100, 2 * page) == 0); // rounded outwards
    CHECK(locked_kib() == 12);
    CHECK(mincore(at, 3 * page, resident) == 0 && (resident[2] & 1) == 1);
    CHECK(munlock(at + page, page) == 0 && locked_kib() == 8);
    CHECK(mlock2(at + 4 * page, 2 * page, MLOCK_ONFAULT) == 0 && locked_kib() == 16);
    CHECK_FAILS(mlock2(at, page, 2), EINVAL);
    CHECK(munlock(at, 8 * page) == 0 && locked_kib() == 0);
    unmap(at + 4 * page, 1);
    CHECK_FAILS(mlock(at, 8 * page), ENOMEM);
    CHECK_FAILS(munlock(at, 8 * page), ENOMEM);
    CHECK_FAILS(mlock(at, ~0ul - page), EINVAL);
    CHECK(munlock(at, 4 * page) == 0);
    CHECK_FAILS(mlockall(0), EINVAL);
    CHECK_FAILS(mlockall(MCL_ONFAULT), EINVAL);
    CHECK_FAILS(mlockall(0x100), EINVAL);
    // The limit, for those without CAP_IPC_LOCK.
    in_child([&] {
        const rlimit limit = {4 * page, 4 * page};
        CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
        CHECK(setuid(1000) == 0);
        CHECK(mlock(at, 4 * page) == 0);
        CHECK_FAILS(mlock(at + 5 * page, page), ENOMEM);
        CHECK_FAILS(mlockall(MCL_CURRENT), ENOMEM);
        CHECK_MAP_FAILS(
            mmap(nullptr, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0),
            EAGAIN);
        CHECK(munlock(at, page) == 0 && mlock(at + 5 * page, page) == 0);
        const rlimit none = {0, 0};
        CHECK(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
        CHECK_FAILS(mlock(at, page), EPERM);
        CHECK_FAILS(mlockall(MCL_FUTURE), EPERM);
    });
    // ... and when it is used, not before: a large reservation takes no memory.
    in_child([] {
        CHECK(mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0);
        unsigned char bytes[64] = {};
        const auto all_absent = [&](void* start) {
            CHECK(mincore(start, sizeof bytes * page, bytes) == 0);
            for (const unsigned char byte : bytes)
                if ((byte & 1) != 0)
                    return false;
            return true;
        };
        char* later = map(64);
        CHECK(all_absent(later));
        void* moved = mremap(later, 64 * page, 128 * page, MREMAP_MAYMOVE);
        CHECK(moved != failed && all_absent(static_cast<char*>(moved) + 64 * page));
        const long old = syscall(SYS_brk, 0);
        auto* grown = reinterpret_cast<char*>((static_cast<size_t>(old) + page - 1) & ~(page - 1));
        CHECK(syscall(SYS_brk, grown + 64 * page) == reinterpret_cast<long>(grown + 64 * page));
        CHECK(all_absent(grown));
    });
    // What comes later, too; a fork's child starts without locks.
    in_child([] {
        CHECK(mlockall(MCL_FUTURE) == 0);
        char* later = map(4);
        CHECK(locked_kib() == 16);
        unsigned char bytes[4] = {};
        CHECK(mincore(later, 4 * page, bytes) == 0 && (bytes[3] & 1) == 1);
        in_child([] { CHECK(locked_kib() == 0); });
        CHECK(munlockall() == 0 && locked_kib() == 0);
        unmap(map(1), 1);
        CHECK(locked_kib() == 0);
    });
    unmap(at, 8);
}

void breaks() {
    in_child([] {
        auto* start = reinterpret_cast<char*>(syscall(SYS_brk, 0));
        CHECK(reinterpret_cast<char*>(syscall(SYS_brk, start + 3 * page + 17)) ==
              start + 3 * page + 17);
        start[3 * page + 16] = 1;
        CHECK(reinterpret_cast<char*>(syscall(SYS_brk, 16)) == start + 3 * page + 17); // refused
        CHECK(reinterpret_cast<char*>(syscall(SYS_brk, start)) == start);
        CHECK(reinterpret_cast<char*>(syscall(SYS_brk, start + 4 * page)) == start + 4 * page);
        CHECK(start[3 * page + 16] == 0);
        CHECK(reinterpret_cast<char*>(syscall(SYS_brk, start + (1ul << 46))) == start + 4 * page);
        const rlimit limit = {1 << 20, 1 << 20};
        CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
        CHECK(reinterpret_cast<char*>(syscall(SYS_brk, start + (4 << 20))) == start + 4 * page);
    });
    // RLIMIT_AS, set by oneself or from outside, reaches the running address space.
    in_child([] {
        const rlimit limit = {512 << 20, 512 << 20};
        CHECK(prlimit(0, RLIMIT_AS, &limit, nullptr) == 0);
        CHECK_MAP_FAILS(mmap(nullptr, 600 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                        ENOMEM);
        char* at = map(100);
        CHECK_MAP_FAILS(mremap(at, 100 * page, 600 << 20, MREMAP_MAYMOVE), ENOMEM);
        // What takes the place of a reservation is no more than that was.
        constexpr size_t reserved = (400 << 20) / page, used = (200 << 20) / page;
        constexpr int fixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
        char* room = map(reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
        CHECK(map(used, PROT_READ | PROT_WRITE, fixed, -1, 0, room) == room);
        CHECK_MAP_FAILS(mmap(room + (reserved - 1) * page, used * page, PROT_NONE, fixed, -1, 0),
                        ENOMEM);
        CHECK(room[0] == 0);
    });
    in_child([] {
        const rlimit limit = {64 << 20, 64 << 20};
        CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
        CHECK_MAP_FAILS(
            mmap(nullptr, 80 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            ENOMEM);
        unmap(map(20000, PROT_READ), 20000);
    });
}

void memory_files() {
    CHECK_FAILS(memfd_create("x", 0x1000), EINVAL);
    CHECK_FAILS(memfd_create(std::string(250, 'x').c_str(), 0), EINVAL);
    CHECK_FAILS(syscall(SYS_memfd_create, 16, 0), EFAULT);
    const int longest = memfd_create(std::string(249, 'x').c_str(), MFD_CLOEXEC);
    CHECK(longest >= 0 && (fcntl(longest, F_GETFD) & FD_CLOEXEC) != 0);
    close(longest);
    const int plain = memfd_create("plain", 0);
    CHECK(fcntl(plain, F_GET_SEALS) == F_SEAL_SEAL);
    CHECK_FAILS(fcntl(plain, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    close(plain);

    const int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && fcntl(fd, F_GET_SEALS) == 0);
    char target[100] = {};
    CHECK(readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target, sizeof target - 1) > 0);
    CHECK(std::string(target) == "/memfd:sealed (deleted)");
    CHECK(ftruncate(fd, 4 * page) == 0 && pwrite(fd, "data", 4, 0) == 4);
    CHECK_FAILS(fcntl(fd, F_ADD_SEALS, 0x1000), EINVAL);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    CHECK_FAILS(ftruncate(fd, page), EPERM);
    CHECK(ftruncate(fd, 5 * page) == 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) == 0);
    CHECK_FAILS(ftruncate(fd, 6 * page), EPERM);
    CHECK_FAILS(pwrite(fd, "x", 1, 5 * page), EPERM);
    CHECK_FAILS(fallocate(fd, 0, 5 * page, page), EPERM);
    // A writable shared mapping is in the way of F_SEAL_WRITE.
    char* view = map(1, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    CHECK_FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
    view[0] = 'D'; // what was mapped before goes on
    CHECK_FAILS(pwrite(fd, "x", 1, 0), EPERM);
    CHECK_FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page), EPERM);
    CHECK_FAILS(madvise(view, page, MADV_REMOVE), EPERM);
    CHECK_MAP_FAILS(mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
    unmap(view, 1);
    // Neither a private one is, whose writes do not get there, nor one that can never be writable.
    char* own = map(1, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    own[1] = 'A';
    const int reader = open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(reader >= 0);
    char* watched = map(1, PROT_READ, MAP_SHARED, reader);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL) == 0);
    own[0] = 'd';
    CHECK(std::memcmp(own, "dAta", 4) == 0 && std::memcmp(watched, "Data", 4) == 0);
    unmap(own, 1);
    unmap(watched, 1);
    close(reader);
    CHECK(fcntl(fd, F_GET_SEALS) ==
          (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL));
    CHECK_FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    CHECK_FAILS(write(fd, "x", 1), EPERM);
    CHECK_FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page), EPERM);
    view = map(1, PROT_READ, MAP_SHARED, fd);
    CHECK(std::memcmp(view, "Data", 4) == 0);
    CHECK_FAILS(mprotect(view, page, PROT_READ | PROT_WRITE), EACCES);
    CHECK_FAILS(madvise(view, page, MADV_REMOVE), EACCES);
    unmap(view, 1);
    view = map(1, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    view[0] = 'x';
    unmap(view, 1);
    close(fd);
    const int pipe_end = open("/dev/null", O_RDWR);
    CHECK_FAILS(fcntl(pipe_end, F_GET_SEALS), EINVAL);
    close(pipe_end);
}

// --- memory of others: process_vm_readv(2), process_vm_writev(2), process_madvise(2)

// /proc/PID/mem shows what lies behind PROT_NONE, and changes it for this process alone: proc(5).
void hidden_memory() {
    const int memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    CHECK(memory >= 0);
    char* area = map(2);
    std::strcpy(area, "behind it");
    in_child([&] { // shares the page with its parent
        CHECK(mprotect(area, 2 * page, PROT_NONE) == 0);
        const int own = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
        char text[10] = {};
        CHECK(pread(own, text, sizeof text, reinterpret_cast<off_t>(area)) == sizeof text);
        CHECK(std::strcmp(text, "behind it") == 0);
        CHECK(pread(own, text, 1, reinterpret_cast<off_t>(area + page)) == 1 && text[0] == 0);
        CHECK(pwrite(own, "B", 1, reinterpret_cast<off_t>(area)) == 1);
        CHECK(pwrite(own, "C", 1, reinterpret_cast<off_t>(area + page)) == 1);
        CHECK(signal_of([&] { (void)*static_cast<volatile char*>(area); }) == SIGSEGV);
        iovec local = {text, 1};
        iovec remote = {area, 1};
        CHECK_FAILS(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), EFAULT);
        CHECK(mprotect(area, 2 * page, PROT_READ) == 0);
        CHECK(std::strcmp(area, "Behind it") == 0 && area[page] == 'C');
    });
    CHECK(std::strcmp(area, "behind it") == 0 && area[page] == 0);
    char text[10] = {};
    CHECK(pread(memory, text, sizeof text, reinterpret_cast<off_t>(area)) == sizeof text);
    close(memory);
    unmap(area, 2);
}

void foreign_memory() {
    char* area = map(6);
    std::strcpy(area, "of the parent");
    int go[2];
    int done[2];
    CHECK(pipe(go) == 0 && pipe(done) == 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        std::strcpy(area, "of the child");
        std::memset(area + page, 'z', 2 * page);
        CHECK(mprotect(area + 3 * page, page, PROT_NONE) == 0);
        CHECK(mprotect(area + 4 * page, page, PROT_READ) == 0);
        CHECK(write(done[1], "x", 1) == 1);
        char byte = 0;
        CHECK(read(go[0], &byte, 1) == 1);
        _exit(std::strcmp(area, "by another") == 0 ? 0 : 1);
    }
    char byte = 0;
    CHECK(read(done[0], &byte, 1) == 1);
    char text[20] = {};
    iovec local = {text, sizeof text};
    iovec remote = {area, sizeof text};
    CHECK(process_vm_readv(child, &local, 1, &remote, 1, 0) == sizeof text);
    CHECK(std::strcmp(text, "of the child") == 0 && std::strcmp(area, "of the parent") == 0);
    // Pieces of different sizes on both sides.
    static char large[3 * page];
    iovec pieces[] = {{large, 100}, {large + 100, 0}, {large + 100, 2 * page - 100}};
    iovec others[] = {{area + page + 50, page}, {area + 2 * page, page}};
    CHECK(process_vm_readv(child, pieces, 3, others, 2, 0) == 2 * page);
    for (size_t i = 0; i < 2 * page; i++)
        CHECK(large[i] == 'z');
    // As far as it goes.
    local = {large, sizeof large};
    remote = {area + 2 * page, 3 * page};
    CHECK(process_vm_readv(child, &local, 1, &remote, 1, 0) == page);
    remote = {area + 3 * page, 10};
    CHECK_FAILS(process_vm_readv(child, &local, 1, &remote, 1, 0), EFAULT);
    remote = {area + 4 * page, 10};
    CHECK(process_vm_readv(child, &local, 1, &remote, 1, 0) == 10);
    CHECK_FAILS(process_vm_writev(child, &local, 1, &remote, 1, 0), EFAULT); // read-only there
    remote = {reinterpret_cast<void*>(~0ul - 5), 10};
    CHECK_FAILS(process_vm_readv(child, &local, 1, &remote, 1, 0), EFAULT);
    remote = {area, 10};
    CHECK_FAILS(process_vm_readv(child, &local, 1, &remote, 1, 1), EINVAL);
    CHECK_FAILS(process_vm_readv(child, &local, 1025, &remote, 1, 0), EINVAL);
    CHECK_FAILS(process_vm_readv(child, &local, 1, &remote, 1025, 0), EINVAL);
    CHECK_FAILS(process_vm_readv(0x3fffffff, &local, 1, &remote, 1, 0), ESRCH);
    CHECK_FAILS(process_vm_readv(child, reinterpret_cast<iovec*>(16), 1, &remote, 1, 0), EFAULT);
    CHECK_FAILS(process_vm_readv(child, &local, 1, reinterpret_cast<iovec*>(16), 1, 0), EFAULT);
    CHECK(process_vm_readv(child, nullptr, 0, nullptr, 0, 0) == 0);
    in_child([&] {
        CHECK(setuid(1000) == 0);
        CHECK_FAILS(process_vm_readv(child, &local, 1, &remote, 1, 0), EPERM);
        CHECK_FAILS(process_vm_writev(child, &local, 1, &remote, 1, 0), EPERM);
    });
    // Advice.
    const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
    CHECK(pidfd >= 0);
    iovec range = {area, 2 * page};
    CHECK(syscall(SYS_process_madvise, pidfd, &range, 1, MADV_COLD, 0) == 2 * page);
    CHECK(syscall(SYS_process_madvise, pidfd, &range, 1, MADV_WILLNEED, 0) == 2 * page);
    CHECK_FAILS(syscall(SYS_process_madvise, pidfd, &range, 1, MADV_COLD, 1), EINVAL);
    CHECK_FAILS(syscall(SYS_process_madvise, pidfd, &range, 1, MADV_DONTNEED, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_process_madvise, 9999, &range, 1, MADV_COLD, 0), EBADF);
    CHECK_FAILS(syscall(SYS_process_madvise, pidfd, &range, 5000, MADV_COLD, 0), EINVAL);
    close(pidfd);
    std::strcpy(text, "by another");
    local = {text, sizeof text};
    remote = {area, sizeof text};
    CHECK(process_vm_writev(child, &local, 1, &remote, 1, 0) == sizeof text);
    CHECK(write(go[1], "x", 1) == 1);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    for (const int fd : {go[0], go[1], done[0], done[1]})
        close(fd);
    unmap(area, 6);
}

void shared_and_copied() {
    char* shared = map(2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    char* own = map(600);
    for (size_t i = 0; i < 600; i++)
        own[i * page] = static_cast<char>(i);
    in_child([&] {
        shared[0] = 3;
        for (size_t i = 0; i < 600; i++) {
            CHECK(own[i * page] == static_cast<char>(i));
            own[i * page] = 1;
        }
        in_child([&] {
            shared[page] = 4;
            CHECK(own[599 * page] == 1);
            own[0] = 9;
        });
        CHECK(own[0] == 1);
    });
    CHECK(shared[0] == 3 && shared[page] == 4);
    for (size_t i = 0; i < 600; i++)
        CHECK(own[i * page] == static_cast<char>(i));
    unmap(own, 600);
    unmap(shared, 2);
}

// /proc/vmstat counts for the whole machine.
long counted(const char* name) {
    std::ifstream file("/proc/vmstat");
    std::string found;
    long value = -1;
    while (file >> found >> value)
        if (found == name)
            return value;
    return -1;
}
void counts() {
    const long before = counted("pgfault");
    char* pages = map(256);
    for (size_t i = 0; i < 256; i += 64)
        pages[i * page] = 1;
    CHECK(before > 0 && counted("pgfault") > before);
    CHECK(counted("pgmajfault") >= 0 && counted("oom_kill") >= 0);
    unmap(pages, 256);
}

void other_parts() {
    // remap_file_pages(2), emulated since Linux 4.0.
    const int fd = memfd_create("pages", 0);
    CHECK(ftruncate(fd, 3 * page) == 0 && pwrite(fd, "third", 5, 2 * page) == 5);
    char* file = map(3, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    CHECK(syscall(SYS_remap_file_pages, file, page, 0, 2, 0) == 0);
    CHECK(std::memcmp(file, "third", 5) == 0);
    CHECK_FAILS(syscall(SYS_remap_file_pages, file, page, PROT_READ, 2, 0), EINVAL);
    unmap(file, 3);
    close(fd);
    // Shared anonymous memory, in any order and over pieces that were remapped before.
    char* pages = map(4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    for (size_t i = 0; i < 4; i++)
        pages[i * page] = static_cast<char>('a' + i);
    const auto show = [&](size_t at, size_t count, size_t from) {
        return syscall(SYS_remap_file_pages, pages + at * page, count * page, 0, from, 0);
    };
    for (size_t i = 0; i < 4; i++)
        CHECK(show(i, 1, 3 - i) == 0);
    CHECK(pages[0] == 'd' && pages[page] == 'c' && pages[2 * page] == 'b' &&
          pages[3 * page] == 'a');
    pages[0] = 'D';
    CHECK(show(1, 2, 2) == 0 && pages[page] == 'c' && pages[2 * page] == 'D');
    CHECK(show(0, 4, 0) == 0 && pages[0] == 'a' && pages[page] == 'b' && pages[3 * page] == 'D');
    unmap(pages + 2 * page, 1);
    CHECK_FAILS(show(0, 4, 0), EINVAL);
    CHECK_FAILS(show(2, 1, 0), EINVAL);
    unmap(pages, 4);
    char* own = map(1);
    CHECK_FAILS(syscall(SYS_remap_file_pages, own, page, 0, 0, 0), EINVAL);
    unmap(own, 1);
}

} // namespace

int main() {
    mappings();
    file_mappings();
    protections();
    moves();
    moves_that_leave_files_behind();
    advice();
    residence();
    if (getuid() == 0) {
        locks();
        in_child(mounts_without_programs);
        in_child(mounts_of_a_size);
    }
    breaks();
    memory_files();
    if (getuid() == 0) {
        hidden_memory();
        foreign_memory();
    }
    shared_and_copied();
    other_parts();
    counts();
    return 0;
}
