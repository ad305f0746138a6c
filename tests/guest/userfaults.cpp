// userfaultfd(2): absent pages, write protection, minor faults, events of forks, moves, removals
// and unmapping; process_mrelease(2); and the names of anonymous memory (PR_SET_VMA_ANON_NAME).
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <fcntl.h>
#include <fstream>
#include <functional>
#include <poll.h>
#include <string>
#include <thread>
#include <unistd.h>

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

namespace {

constexpr size_t page = 4096;

int open_userfault(uint64_t features, int flags = O_CLOEXEC | O_NONBLOCK) {
    const int fd = static_cast<int>(syscall(SYS_userfaultfd, flags));
    CHECK(fd >= 0);
    uffdio_api api = {UFFD_API, features, 0};
    CHECK(ioctl(fd, UFFDIO_API, &api) == 0);
    CHECK((api.features & features) == features && api.api == UFFD_API);
    CHECK((api.ioctls & 1ull << _UFFDIO_REGISTER) != 0);
    return fd;
}

char* memory(size_t pages, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1) {
    void* at = mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(at != MAP_FAILED);
    return static_cast<char*>(at);
}

uffdio_range range_of(const char* at, size_t pages) {
    return {reinterpret_cast<uintptr_t>(at), pages * page};
}

uint64_t enter(int fd, const char* at, size_t pages, uint64_t mode) {
    uffdio_register request = {range_of(at, pages), mode, 0};
    CHECK(ioctl(fd, UFFDIO_REGISTER, &request) == 0);
    return request.ioctls;
}

int copy(int fd, const char* to, const char* from, size_t pages, uint64_t mode, int64_t& done) {
    uffdio_copy request = {reinterpret_cast<uintptr_t>(to), reinterpret_cast<uintptr_t>(from),
                           pages * page, mode, 0};
    const int result = ioctl(fd, UFFDIO_COPY, &request);
    done = request.copy;
    return result;
}

int zero(int fd, const char* at, size_t pages, int64_t& done) {
    uffdio_zeropage request = {range_of(at, pages), 0, 0};
    const int result = ioctl(fd, UFFDIO_ZEROPAGE, &request);
    done = request.zeropage;
    return result;
}

int protect(int fd, const char* at, size_t pages, bool on) {
    uffdio_writeprotect request = {range_of(at, pages), on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    return ioctl(fd, UFFDIO_WRITEPROTECT, &request);
}

// The next message; waits for it.
uffd_msg next(int fd) {
    pollfd ready = {fd, POLLIN, 0};
    CHECK(poll(&ready, 1, 20'000) == 1 && ready.revents == POLLIN);
    uffd_msg message;
    CHECK(read(fd, &message, sizeof message) == sizeof message);
    return message;
}

void interface() {
    CHECK_FAILS(syscall(SYS_userfaultfd, 0x10), EINVAL);
    const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    CHECK(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    uffd_msg message;
    CHECK_FAILS(read(fd, &message, sizeof message), EINVAL); // not agreed upon yet
    pollfd ready = {fd, POLLIN, 0};
    CHECK(poll(&ready, 1, 0) == 1 && ready.revents == POLLERR);
    char* at = memory(1);
    uffdio_register request = {range_of(at, 1), UFFDIO_REGISTER_MODE_MISSING, 0};
    CHECK_FAILS(ioctl(fd, UFFDIO_REGISTER, &request), EINVAL);
    uffdio_api api = {UFFD_API, 1ull << 50, 0};
    CHECK_FAILS(ioctl(fd, UFFDIO_API, &api), EINVAL);
    CHECK(api.features == 0 && api.ioctls == 0);
    api = {1, 0, 0};
    CHECK_FAILS(ioctl(fd, UFFDIO_API, &api), EINVAL);
    api = {UFFD_API, 0, 0};
    CHECK(ioctl(fd, UFFDIO_API, &api) == 0);
    CHECK_FAILS(ioctl(fd, UFFDIO_API, &api), EINVAL); // once
    CHECK_FAILS(read(fd, &message, sizeof message), EAGAIN);
    CHECK_FAILS(read(fd, &message, 1), EINVAL);
    CHECK(poll(&ready, 1, 0) == 0);
    CHECK_FAILS(write(fd, &message, sizeof message), EBADF);
    request.mode = 0;
    CHECK_FAILS(ioctl(fd, UFFDIO_REGISTER, &request), EINVAL);
    request = {{request.range.start + 1, page}, UFFDIO_REGISTER_MODE_MISSING, 0};
    CHECK_FAILS(ioctl(fd, UFFDIO_REGISTER, &request), EINVAL);
    request = {{reinterpret_cast<uintptr_t>(at), 0}, UFFDIO_REGISTER_MODE_MISSING, 0};
    CHECK_FAILS(ioctl(fd, UFFDIO_REGISTER, &request), EINVAL);
    // A file's pages are the file's.
    const int file = open("/proc/self/exe", O_RDONLY);
    void* mapped = mmap(nullptr, page, PROT_READ, MAP_PRIVATE, file, 0);
    CHECK(mapped != MAP_FAILED);
    request = {range_of(static_cast<char*>(mapped), 1), UFFDIO_REGISTER_MODE_MISSING, 0};
    CHECK_FAILS(ioctl(fd, UFFDIO_REGISTER, &request), EINVAL);
    close(file);
    // Two cannot serve the same memory; an area that is not mapped cannot be served.
    const int other = open_userfault(0);
    enter(fd, at, 1, UFFDIO_REGISTER_MODE_MISSING);
    request = {range_of(at, 1), UFFDIO_REGISTER_MODE_MISSING, 0};
    CHECK_FAILS(ioctl(other, UFFDIO_REGISTER, &request), EBUSY);
    close(fd); // lets go of it
    CHECK(ioctl(other, UFFDIO_REGISTER, &request) == 0);
    munmap(at, page);
    CHECK_FAILS(ioctl(other, UFFDIO_REGISTER, &request), EINVAL);
    int64_t done = 0;
    CHECK_FAILS(zero(other, at, 1, done), ENOENT);
    CHECK(done == -ENOENT);
    close(other);
    const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device >= 0) {
        const int made = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
        CHECK(made >= 0);
        close(made);
        CHECK_FAILS(ioctl(device, USERFAULTFD_IOC_NEW, 0x10), EINVAL);
        close(device);
    }
}

void missing_pages(int map_flags) {
    const int fd = open_userfault(0);
    char* at = memory(8, map_flags);
    const uint64_t ioctls = enter(fd, at, 8, UFFDIO_REGISTER_MODE_MISSING);
    CHECK((ioctls & 1ull << _UFFDIO_COPY) != 0 && (ioctls & 1ull << _UFFDIO_WAKE) != 0 &&
          (ioctls & 1ull << _UFFDIO_ZEROPAGE) != 0);
    char source[2 * page];
    std::memset(source, 'a', page);
    std::memset(source + page, 'b', page);
    // Before anybody touches it.
    int64_t done = 0;
    CHECK(copy(fd, at, source, 2, 0, done) == 0 && done == 2 * page);
    CHECK(at[0] == 'a' && at[page] == 'b' && at[2 * page - 1] == 'b');
    CHECK_FAILS(copy(fd, at, source, 1, 0, done), EEXIST);
    CHECK(done == -EEXIST);
    CHECK_FAILS(copy(fd, at + 8 * page, source, 1, 0, done), ENOENT);
    CHECK_FAILS(copy(fd, at + 1, source, 1, 0, done), EINVAL);
    CHECK_FAILS(copy(fd, at + 2 * page, reinterpret_cast<char*>(16), 1, 0, done), EFAULT);
    CHECK(zero(fd, at + 2 * page, 1, done) == 0 && done == page && at[2 * page] == 0);
    // Reads and writes of a thread wait; what falls short of the range tells how far it got.
    for (const bool writes : {false, true}) {
        const size_t where = writes ? 4 : 3;
        std::thread toucher([&] {
            volatile char* byte = at + where * page + 7;
            if (writes)
                *byte = 'w';
            else
                CHECK(*byte == 'a');
        });
        const uffd_msg message = next(fd);
        CHECK(message.event == UFFD_EVENT_PAGEFAULT);
        CHECK(message.arg.pagefault.address == reinterpret_cast<uintptr_t>(at + where * page));
        CHECK(((message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0) == writes);
        CHECK((message.arg.pagefault.flags &
               (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_MINOR)) == 0);
        CHECK(copy(fd, at + where * page, source, 1, 0, done) == 0);
        toucher.join();
        CHECK(at[where * page] == 'a' && at[where * page + 7] == (writes ? 'w' : 'a'));
    }
    // Filled without waking; then woken.
    std::thread toucher([&] { CHECK(at[5 * page] == 'a'); });
    CHECK(next(fd).arg.pagefault.address == reinterpret_cast<uintptr_t>(at + 5 * page));
    CHECK(copy(fd, at + 5 * page, source, 1, UFFDIO_COPY_MODE_DONTWAKE, done) == 0);
    uffdio_range woken = range_of(at + 5 * page, 1);
    CHECK(ioctl(fd, UFFDIO_WAKE, &woken) == 0);
    toucher.join();
    // Woken without a page: asks again. A system call's copy waits like the program.
    int ends[2];
    CHECK(pipe(ends) == 0 && write(ends[1], "xyz", 3) == 3);
    std::thread reader([&] { CHECK(read(ends[0], at + 6 * page, 3) == 3); });
    woken = range_of(at + 6 * page, 1);
    for (int round = 0; round < 2; round++) {
        CHECK(next(fd).arg.pagefault.address == woken.start);
        CHECK(round == 1 || ioctl(fd, UFFDIO_WAKE, &woken) == 0);
    }
    CHECK(zero(fd, at + 6 * page, 1, done) == 0);
    reader.join();
    CHECK(std::memcmp(at + 6 * page, "xyz", 3) == 0);
    close(ends[0]);
    close(ends[1]);
    // Unregistered memory fills itself again.
    uffdio_range all = range_of(at, 8);
    CHECK(ioctl(fd, UFFDIO_UNREGISTER, &all) == 0);
    CHECK(at[7 * page] == 0);
    close(fd);
    munmap(at, 8 * page);
}

void exact_address_and_thread() {
    const int fd = open_userfault(UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EXACT_ADDRESS);
    char* at = memory(1);
    enter(fd, at, 1, UFFDIO_REGISTER_MODE_MISSING);
    pid_t thread = 0;
    std::thread toucher([&] {
        __atomic_store_n(&thread, static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_SEQ_CST);
        CHECK(*(volatile char*)(at + 123) == 0);
    });
    const uffd_msg message = next(fd);
    CHECK(message.arg.pagefault.address == reinterpret_cast<uintptr_t>(at + 123));
    CHECK(message.arg.pagefault.feat.ptid ==
          static_cast<uint32_t>(__atomic_load_n(&thread, __ATOMIC_SEQ_CST)));
    close(fd); // the fault goes on as if there had been no such descriptor
    toucher.join();
    munmap(at, page);
}

sigjmp_buf jump;
void on_bus(int) {
    siglongjmp(jump, 1);
}

void bus_errors() {
    const int fd = open_userfault(UFFD_FEATURE_SIGBUS);
    char* at = memory(2);
    enter(fd, at, 2, UFFDIO_REGISTER_MODE_MISSING);
    struct sigaction action = {};
    action.sa_handler = on_bus;
    CHECK(sigaction(SIGBUS, &action, nullptr) == 0);
    volatile bool got = false;
    if (sigsetjmp(jump, 1) == 0)
        *(volatile char*)at = 1;
    else
        got = true;
    CHECK(got);
    int ends[2];
    CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
    CHECK_FAILS(read(ends[0], at, 1), EFAULT);
    close(ends[0]);
    close(ends[1]);
    int64_t done = 0;
    CHECK(zero(fd, at, 1, done) == 0 && at[0] == 0);
    signal(SIGBUS, SIG_DFL);
    close(fd);
    munmap(at, 2 * page);
    // Of the user's mode only: the kernel's own accesses fail.
    const int user_only = open_userfault(0, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    at = memory(1);
    enter(user_only, at, 1, UFFDIO_REGISTER_MODE_MISSING);
    CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
    CHECK_FAILS(read(ends[0], at, 1), EFAULT);
    close(ends[0]);
    close(ends[1]);
    close(user_only);
    munmap(at, page);
}

void write_protection() {
    const int fd = open_userfault(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    char* at = memory(8);
    std::memset(at, 'x', 8 * page);
    const uint64_t ioctls = enter(fd, at, 8, UFFDIO_REGISTER_MODE_WP);
    CHECK((ioctls & 1ull << _UFFDIO_WRITEPROTECT) != 0);
    CHECK(protect(fd, at, 4, true) == 0);
    CHECK(at[0] == 'x' && at[3 * page] == 'x'); // reads go on
    at[4 * page] = 'y';                         // not protected
    std::thread writer([&] { *(volatile char*)(at + page) = 'z'; });
    const uffd_msg message = next(fd);
    CHECK(message.event == UFFD_EVENT_PAGEFAULT);
    CHECK(message.arg.pagefault.flags == (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP));
    CHECK(message.arg.pagefault.address == reinterpret_cast<uintptr_t>(at + page));
    CHECK(at[page] == 'x');
    CHECK(protect(fd, at + page, 1, false) == 0);
    writer.join();
    CHECK(at[page] == 'z');
    // mprotect(2) there and back does not lift it, nor do the neighbours' faults.
    CHECK(mprotect(at, 8 * page, PROT_READ) == 0 &&
          mprotect(at, 8 * page, PROT_READ | PROT_WRITE) == 0);
    at[page + 1] = 'z';
    std::thread second([&] { *(volatile char*)(at + 2 * page) = 'z'; });
    CHECK(next(fd).arg.pagefault.address == reinterpret_cast<uintptr_t>(at + 2 * page));
    // A child has its own copy, that nobody serves.
    const pid_t child = fork();
    if (child == 0) {
        at[3 * page] = 'c';
        _exit(at[3 * page] == 'c' ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    uffdio_range all = range_of(at, 8);
    CHECK(ioctl(fd, UFFDIO_UNREGISTER, &all) == 0);
    CHECK(ioctl(fd, UFFDIO_WAKE, &all) == 0);
    second.join();
    CHECK(at[2 * page] == 'z');
    at[3 * page] = 'z';
    CHECK_FAILS(protect(fd, at, 1, true), ENOENT);
    // Filled and protected in one.
    char* fresh = memory(1);
    char source[page] = "copied";
    int64_t done = 0;
    enter(fd, fresh, 1, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
    CHECK(copy(fd, fresh, source, 1, UFFDIO_COPY_MODE_WP, done) == 0);
    std::thread third([&] { *(volatile char*)fresh = 'C'; });
    CHECK((next(fd).arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0);
    CHECK(protect(fd, fresh, 1, false) == 0);
    third.join();
    CHECK(std::strcmp(fresh, "Copied") == 0);
    close(fd);
    munmap(fresh, page);
    munmap(at, 8 * page);
}

void minor_faults() {
    const int fd = open_userfault(UFFD_FEATURE_MINOR_SHMEM);
    const int file = memfd_create("pages", MFD_CLOEXEC);
    CHECK(ftruncate(file, 2 * page) == 0);
    char* one = memory(2, MAP_SHARED, file);
    char* two = memory(2, MAP_SHARED, file);
    const uint64_t ioctls = enter(fd, two, 2, UFFDIO_REGISTER_MODE_MINOR);
    CHECK((ioctls & 1ull << _UFFDIO_CONTINUE) != 0);
    one[0] = 'f';
    std::thread reader([&] { CHECK(*(volatile char*)two == 'g'); });
    const uffd_msg message = next(fd);
    CHECK((message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0);
    CHECK(message.arg.pagefault.address == reinterpret_cast<uintptr_t>(two));
    one[0] = 'g';
    uffdio_continue request = {range_of(two, 1), 0, 0};
    CHECK(ioctl(fd, UFFDIO_CONTINUE, &request) == 0 && request.mapped == page);
    reader.join();
    CHECK_FAILS(ioctl(fd, UFFDIO_CONTINUE, &request), EEXIST);
    request = {range_of(two + page, 1), 0, 0};
    CHECK_FAILS(ioctl(fd, UFFDIO_CONTINUE, &request), EFAULT); // there is no page
    two[page] = 'h';                                           // absent pages are not asked for
    CHECK(one[page] == 'h');
    close(fd);
    close(file);
    munmap(one, 2 * page);
    munmap(two, 2 * page);
}

// Runs `work` in a thread, and checks that it waits until its event was read.
uffd_msg event_of(int fd, const std::function<void()>& work) {
    std::thread worker(work);
    const uffd_msg message = next(fd);
    worker.join();
    return message;
}

void events() {
    const int fd = open_userfault(UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                                  UFFD_FEATURE_EVENT_UNMAP);
    char* at = memory(8);
    enter(fd, at, 8, UFFDIO_REGISTER_MODE_MISSING);
    int64_t done = 0;
    CHECK(zero(fd, at, 8, done) == 0);
    uffd_msg message = event_of(fd, [&] { CHECK(madvise(at + page, page, MADV_DONTNEED) == 0); });
    CHECK(message.event == UFFD_EVENT_REMOVE);
    CHECK(message.arg.remove.start == reinterpret_cast<uintptr_t>(at + page));
    CHECK(message.arg.remove.end == reinterpret_cast<uintptr_t>(at + 2 * page));
    CHECK(zero(fd, at + page, 1, done) == 0); // absent again
    message = event_of(fd, [&] { CHECK(munmap(at + 6 * page, 2 * page) == 0); });
    CHECK(message.event == UFFD_EVENT_UNMAP);
    CHECK(message.arg.remove.start == reinterpret_cast<uintptr_t>(at + 6 * page));
    CHECK(message.arg.remove.end == reinterpret_cast<uintptr_t>(at + 8 * page));
    at[0] = 'm';
    char* target = memory(6);
    char* moved = nullptr;
    std::thread mover([&] {
        moved = static_cast<char*>(
            mremap(at, 6 * page, 6 * page, MREMAP_MAYMOVE | MREMAP_FIXED, target));
    });
    message = next(fd);
    CHECK(message.event == UFFD_EVENT_REMAP);
    CHECK(message.arg.remap.from == reinterpret_cast<uintptr_t>(at));
    CHECK(message.arg.remap.to == reinterpret_cast<uintptr_t>(target) &&
          message.arg.remap.len == 6 * page);
    message = next(fd); // and the old place is unmapped
    CHECK(message.event == UFFD_EVENT_UNMAP);
    CHECK(message.arg.remove.start == reinterpret_cast<uintptr_t>(at));
    CHECK(message.arg.remove.end == reinterpret_cast<uintptr_t>(at + 6 * page));
    mover.join();
    CHECK(moved == target);
    CHECK(moved[0] == 'm');
    // The new place is served.
    message = event_of(fd, [&] { CHECK(madvise(moved, page, MADV_DONTNEED) == 0); });
    CHECK(message.event == UFFD_EVENT_REMOVE);
    CHECK(zero(fd, moved, 1, done) == 0);
    close(fd);
    munmap(moved, 6 * page);
}

void forks() {
    const int fd = open_userfault(UFFD_FEATURE_EVENT_FORK);
    char* at = memory(2);
    enter(fd, at, 2, UFFDIO_REGISTER_MODE_MISSING);
    pid_t child = -1;
    const uffd_msg message = event_of(fd, [&] {
        child = fork();
        if (child == 0)
            _exit(*(volatile char*)at == 'k' && *(volatile char*)(at + page) == 0 ? 0 : 1);
    });
    CHECK(child > 0 && message.event == UFFD_EVENT_FORK);
    const int of_child = static_cast<int>(message.arg.fork.ufd);
    CHECK(of_child > fd && (fcntl(of_child, F_GETFL) & O_NONBLOCK) != 0);
    CHECK(next(of_child).arg.pagefault.address == reinterpret_cast<uintptr_t>(at));
    char source[page] = {'k'};
    int64_t done = 0;
    CHECK(copy(of_child, at, source, 1, 0, done) == 0);
    CHECK(next(of_child).arg.pagefault.address == reinterpret_cast<uintptr_t>(at + page));
    CHECK(zero(of_child, at + page, 1, done) == 0);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_FAILS(copy(of_child, at, source, 1, 0, done), ESRCH);
    CHECK(zero(fd, at, 2, done) == 0); // the parent's are its own
    close(of_child);
    close(fd);
    munmap(at, 2 * page);
}

void signals_while_waiting() {
    const int fd = open_userfault(0);
    char* at = memory(1);
    enter(fd, at, 1, UFFDIO_REGISTER_MODE_MISSING);
    // Killed while it waits for a page that never comes.
    const pid_t child = fork();
    if (child == 0) {
        const int own = open_userfault(0);
        char* mine = memory(1);
        enter(own, mine, 1, UFFDIO_REGISTER_MODE_MISSING);
        kill(getppid(), SIGUSR1);
        *(volatile char*)mine = 1;
        _exit(0);
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigwaitinfo(&set, nullptr) == SIGUSR1);
    CHECK(kill(child, SIGKILL) == 0);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
          WTERMSIG(status) == SIGKILL);
    close(fd);
    munmap(at, page);
}

// The memory of a process that has been killed.
void released_memory() {
    CHECK_FAILS(syscall(SYS_process_mrelease, -1, 0), EBADF);
    const pid_t child = fork();
    if (child == 0) {
        std::memset(memory(256), 1, 256 * page);
        raise(SIGSTOP);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    const int fd = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
    CHECK(fd >= 0);
    CHECK_FAILS(syscall(SYS_process_mrelease, fd, 1), EINVAL);
    CHECK_FAILS(syscall(SYS_process_mrelease, fd, 0), EINVAL); // it lives
    CHECK(kill(child, SIGKILL) == 0);
    // Ending, or ended already.
    CHECK(syscall(SYS_process_mrelease, fd, 0) == 0 || errno == ESRCH);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    CHECK_FAILS(syscall(SYS_process_mrelease, fd, 0), ESRCH);
    close(fd);
}

std::string line_of(const char* at) {
    char start[32];
    std::snprintf(start, sizeof start, "%lx-", reinterpret_cast<unsigned long>(at));
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
        if (line.rfind(start, 0) == 0)
            return line;
    return "";
}

void names() {
    char* at = memory(4);
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, page, "x") != 0) {
        CHECK(errno == EINVAL); // a kernel that is built without
        munmap(at, 4 * page);
        return;
    }
    CHECK(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at + page, page, "cache of joey") == 0);
    CHECK(line_of(at + page).find("[anon:cache of joey]") != std::string::npos);
    CHECK(line_of(at + 2 * page).find("[anon") == std::string::npos);
    CHECK_FAILS(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, page, "a[b"), EINVAL);
    CHECK_FAILS(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, page, std::string(80, 'n').c_str()),
                EINVAL);
    CHECK_FAILS(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at + 1, page, "n"), EINVAL);
    CHECK_FAILS(prctl(PR_SET_VMA, 1, at, page, "n"), EINVAL);
    CHECK(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, 4 * page, nullptr) == 0);
    CHECK(line_of(at).find("[anon") == std::string::npos);
    munmap(at + 2 * page, page);
    CHECK_FAILS(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, 4 * page, "holes"), ENOMEM);
    munmap(at, 4 * page);
    const int file = open("/proc/self/exe", O_RDONLY);
    void* mapped = mmap(nullptr, page, PROT_READ, MAP_PRIVATE, file, 0);
    CHECK_FAILS(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, mapped, page, "n"), EBADF);
    munmap(mapped, page);
    close(file);
}

} // namespace

int main() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
    interface();
    missing_pages(MAP_PRIVATE | MAP_ANONYMOUS);
    missing_pages(MAP_SHARED | MAP_ANONYMOUS);
    exact_address_and_thread();
    bus_errors();
    write_protection();
    minor_faults();
    events();
    forks();
    signals_while_waiting();
    released_memory();
    names();
    return 0;
}
