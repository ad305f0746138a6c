// PR_SET_MM of prctl(2): a program says where its parts are, which file it is and what its
// auxiliary vector was, and /proc/PID shows that. What only CAP_SYS_RESOURCE may is checked where
// it is held. arch_prctl(2) of extended states.
#include <atomic>
#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <asm/prctl.h>
#include <linux/auxvec.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

int set(unsigned long option, unsigned long address, unsigned long size = 0,
        unsigned long rest = 0) {
    return prctl(PR_SET_MM, option, address, size, rest);
}
unsigned long address_of(const void* at) {
    return reinterpret_cast<unsigned long>(at);
}

std::string contents(const char* name) {
    std::ifstream file(name);
    std::ostringstream out;
    out << file.rdbuf();
    return out.str();
}

// Field `number` of /proc/self/stat, as proc(5) counts.
unsigned long field(int number) {
    const std::string text = contents("/proc/self/stat");
    std::istringstream in(text.substr(text.rfind(')') + 2));
    std::string word;
    for (int i = 3; i <= number; i++)
        in >> word;
    return std::stoul(word);
}

// As it is now. The break's end is not in /proc.
prctl_mm_map current_map() {
    prctl_mm_map map = {};
    map.start_code = field(26);
    map.end_code = field(27);
    map.start_stack = field(28);
    map.start_data = field(45);
    map.end_data = field(46);
    map.start_brk = field(47);
    map.brk = address_of(sbrk(0));
    map.arg_start = field(48);
    map.arg_end = field(49);
    map.env_start = field(50);
    map.env_end = field(51);
    map.exe_fd = ~0u;
    return map;
}
int set_map(const prctl_mm_map& map) {
    return set(PR_SET_MM_MAP, address_of(&map), sizeof map);
}

void sizes() {
    unsigned size = 0;
    CHECK(set(PR_SET_MM_MAP_SIZE, address_of(&size)) == 0 && size == sizeof(prctl_mm_map));
    CHECK(set(PR_SET_MM_MAP_SIZE, address_of(&size), 5) == 0);
    CHECK_FAILS(set(PR_SET_MM_MAP_SIZE, address_of(&size), 0, 1), EINVAL);
    CHECK_FAILS(set(PR_SET_MM_MAP_SIZE, 8), EFAULT);
    const prctl_mm_map map = current_map();
    CHECK_FAILS(set(PR_SET_MM_MAP, address_of(&map), sizeof map - 8), EINVAL);
    CHECK_FAILS(set(PR_SET_MM_MAP, 8, sizeof map), EFAULT);
    CHECK_FAILS(set(PR_SET_MM_START_CODE, map.start_code, 1), EINVAL);
}

void maps() {
    const prctl_mm_map before = current_map();
    CHECK(before.start_data != 0 && before.start_data <= before.end_data);
    CHECK(set_map(before) == 0);
    char* const words = static_cast<char*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::memcpy(words, "another\0name\0A=b\0", 17);
    prctl_mm_map map = before;
    map.arg_start = address_of(words);
    map.arg_end = map.env_start = map.arg_start + 13;
    map.env_end = map.arg_start + 17;
    map.start_code = 0x40'0000;
    map.end_code = 0x40'1000;
    CHECK(set_map(map) == 0);
    CHECK(contents("/proc/self/cmdline") == std::string("another\0name\0", 13));
    CHECK(contents("/proc/self/environ") == std::string("A=b\0", 4));
    CHECK(field(26) == 0x40'0000 && field(27) == 0x40'1000 && field(48) == map.arg_start);
    // Out of order, or no addresses of a program.
    prctl_mm_map bad = map;
    bad.arg_end = bad.arg_start - 1;
    CHECK_FAILS(set_map(bad), EINVAL);
    bad = map;
    bad.end_code = bad.start_code;
    CHECK_FAILS(set_map(bad), EINVAL);
    bad = map;
    bad.brk = bad.start_brk - 1;
    CHECK_FAILS(set_map(bad), EINVAL);
    for (const unsigned long wild : {0UL, 1UL << 47, ~0UL}) {
        bad = map;
        bad.start_stack = wild;
        CHECK_FAILS(set_map(bad), EINVAL);
    }
    CHECK(field(48) == map.arg_start);
    CHECK(set_map(before) == 0 && field(48) == before.arg_start);
    CHECK(munmap(words, 4096) == 0);
    // The break goes on from where it is said to be.
    CHECK(set_map(before) == 0);
    void* const old = sbrk(0);
    CHECK(sbrk(8192) == old);
    std::memset(old, 1, 8192);
    CHECK(sbrk(-8192) == static_cast<char*>(old) + 8192 && sbrk(0) == old);
}

// Everybody may read the arguments, and no program may keep a reader waiting: they are private
// memory of no file, that the program may read itself, or they are not shown.
void kinds_of_memory() {
    const prctl_mm_map before = current_map();
    const std::string words("ab\0cd", 6);
    constexpr size_t page = 4096;
    const auto shown = [&](char* at) {
        prctl_mm_map map = before;
        map.arg_start = map.env_start = address_of(at);
        map.arg_end = map.env_end = map.arg_start + words.size();
        CHECK(set_map(map) == 0);
        const std::string arguments = contents("/proc/self/cmdline");
        CHECK(contents("/proc/self/environ") == arguments);
        return arguments;
    };
    const auto memory = [](int flags, int fd) {
        void* const at = mmap(nullptr, page, PROT_READ | PROT_WRITE, flags, fd, 0);
        CHECK(at != MAP_FAILED);
        return static_cast<char*>(at);
    };
    const int fd = memfd_create("arguments", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, page) == 0 &&
          write(fd, words.data(), words.size()) == static_cast<ssize_t>(words.size()));
    CHECK(shown(memory(MAP_SHARED, fd)).empty());
    char* const copied = memory(MAP_PRIVATE, fd);
    copied[0] = 'A';
    CHECK(shown(copied).empty());
    char* const shared = memory(MAP_SHARED | MAP_ANONYMOUS, -1);
    std::memcpy(shared, words.data(), words.size());
    CHECK(shown(shared).empty());
    char* const own = memory(MAP_PRIVATE | MAP_ANONYMOUS, -1);
    std::memcpy(own, words.data(), words.size());
    CHECK(shown(own) == words);
    CHECK(mprotect(own, page, PROT_NONE) == 0 && shown(own).empty());
    const int served = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
    if (served >= 0) { // may be for those with more rights
        char* const absent = memory(MAP_PRIVATE | MAP_ANONYMOUS, -1);
        uffdio_api api = {UFFD_API, 0, 0};
        uffdio_register range = {{address_of(absent), page}, UFFDIO_REGISTER_MODE_MISSING, 0};
        CHECK(ioctl(served, UFFDIO_API, &api) == 0 && ioctl(served, UFFDIO_REGISTER, &range) == 0);
        CHECK(shown(absent).empty());
        close(served);
    }
    close(fd);
    CHECK(set_map(before) == 0);
}

// Without a NUL at the end of them, arguments are one string, a page of it at most (setproctitle).
// It goes on into the environment where that comes next, and nowhere else.
void titles() {
    const prctl_mm_map before = current_map();
    constexpr size_t page = 4096;
    char* const words = static_cast<char*>(
        mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    const auto shown = [&](size_t length, size_t environment, size_t rest) {
        prctl_mm_map map = before;
        map.arg_start = address_of(words);
        map.arg_end = map.arg_start + length;
        map.env_start = address_of(words + environment);
        map.env_end = map.env_start + rest;
        CHECK(set_map(map) == 0);
        return contents("/proc/self/cmdline");
    };
    std::memcpy(words, "title\0more\0another", 18);
    const std::string title("title\0", 6);
    CHECK(shown(3, 3, 8) == title && shown(3, 3, 1) == "titl" && shown(3, 3, 0) == "tit");
    CHECK(shown(3, page, 8) == "tit" && shown(3, 4, 8) == "tit" && shown(3, 2, 8) == "tit");
    CHECK(shown(8, page, 8) == title && shown(8, 8, 8) == title);
    CHECK(shown(6, 6, 8) == title && shown(0, 0, 8).empty());
    CHECK(shown(11, page, 8) == std::string("title\0more\0", 11));
    std::memset(words, 'x', page + page / 2);
    CHECK(shown(100, 100, 50) == std::string(150, 'x'));
    CHECK(shown(5, 5, page) == std::string(page, 'x'));
    CHECK(shown(page + 100, 0, 8) == std::string(page, 'x'));
    CHECK(set_map(before) == 0 && munmap(words, 2 * page) == 0);
}

void vectors() {
    prctl_mm_map map = current_map();
    const std::string before = contents("/proc/self/auxv");
    unsigned long words[] = {AT_PAGESZ, 4096, AT_UID, 12345, 0, 0};
    map.auxv_size = 32; // the end comes by itself
    CHECK_FAILS(set_map(map), EINVAL);
    map.auxv = reinterpret_cast<__u64*>(8);
    CHECK_FAILS(set_map(map), EFAULT);
    map.auxv = reinterpret_cast<__u64*>(words);
    map.auxv_size = 4096;
    CHECK_FAILS(set_map(map), EINVAL);
    map.auxv_size = 32;
    CHECK(set_map(map) == 0);
    const std::string now = contents("/proc/self/auxv");
    CHECK(now == std::string(reinterpret_cast<const char*>(words), sizeof words));
    // Back, without its end.
    map.auxv = reinterpret_cast<__u64*>(const_cast<char*>(before.data()));
    map.auxv_size = static_cast<unsigned>(before.size() - 16);
    CHECK(set_map(map) == 0 && contents("/proc/self/auxv") == before);
}

void programs(const std::string& scratch) {
    const int directory = open("/tmp", O_RDONLY | O_DIRECTORY);
    const int own = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const std::string name = scratch + "/program";
    const int plain = open(name.c_str(), O_RDWR | O_CREAT, 0600);
    CHECK(directory >= 0 && own >= 0 && plain >= 0);
    const auto set_program = [](int fd) {
        prctl_mm_map map = current_map();
        map.exe_fd = static_cast<unsigned>(fd);
        return set_map(map);
    };
    const int status = set_program(9999);
    if (status == -1 && errno == EPERM) // no CAP_CHECKPOINT_RESTORE
        return;
    CHECK(status == -1 && errno == EBADF);
    CHECK_FAILS(set_program(directory), EACCES);
    CHECK_FAILS(set_program(plain), EACCES); // not executable
    CHECK(fchmod(plain, 0700) == 0);
    CHECK_FAILS(set_program(plain), EBUSY); // the old one is mapped, and this open for writing
    CHECK_FAILS(set_program(open(name.c_str(), O_PATH)), EBADF);
    CHECK(close(plain) == 0);
    const int other = open(name.c_str(), O_RDONLY | O_CLOEXEC);
    CHECK_FAILS(set_program(other), EBUSY);
    CHECK_FAILS(set_program(own), EBUSY);
    for (const int fd : {directory, own, other})
        close(fd);
}

void single_words() {
    const prctl_mm_map before = current_map();
    if (set(PR_SET_MM_START_CODE, before.start_code) != 0) {
        CHECK(errno == EPERM);
        CHECK_FAILS(set(77, before.start_code), EPERM);
        return;
    }
    CHECK_FAILS(set(77, before.start_code), EINVAL);
    CHECK_FAILS(set(PR_SET_MM_START_CODE, 4096), EINVAL);
    CHECK_FAILS(set(PR_SET_MM_START_CODE, 1UL << 47), EINVAL);
    CHECK_FAILS(set(PR_SET_MM_START_CODE, before.end_code), EINVAL);
    CHECK_FAILS(set(PR_SET_MM_ARG_END, before.arg_start - 1), EINVAL);
    CHECK(set(PR_SET_MM_END_DATA, before.end_data + 1) == 0 && field(46) == before.end_data + 1);
    CHECK(set(PR_SET_MM_END_DATA, before.end_data) == 0);
    CHECK_FAILS(set(PR_SET_MM_BRK, before.start_brk - 1), EINVAL);
    CHECK(set(PR_SET_MM_BRK, before.brk) == 0 && sbrk(0) == reinterpret_cast<void*>(before.brk));
    CHECK(set(PR_SET_MM_START_BRK, before.start_brk) == 0);
    unsigned long words[] = {AT_PAGESZ, 8192};
    CHECK_FAILS(set(PR_SET_MM_AUXV, address_of(words), 4096), EINVAL);
    CHECK_FAILS(set(PR_SET_MM_AUXV, 8, 16), EFAULT);
    const std::string old = contents("/proc/self/auxv");
    CHECK(set(PR_SET_MM_AUXV, address_of(words), sizeof words) == 0);
    CHECK(contents("/proc/self/auxv") ==
          std::string(reinterpret_cast<const char*>(words), sizeof words) + old.substr(16));
    CHECK(set(PR_SET_MM_AUXV, address_of(old.data()), 16) == 0);
    CHECK_FAILS(set(PR_SET_MM_EXE_FILE, 9999), EBADF);
}

// One word is set, and the break does not go back to where it was when that began. Nothing here
// asks the library for memory meanwhile.
void by_two_threads() {
    const prctl_mm_map before = current_map();
    if (set(PR_SET_MM_ARG_START, before.arg_start) != 0)
        return; // needs CAP_SYS_RESOURCE
    std::atomic<bool> over{false};
    std::thread other([&] {
        while (!over)
            CHECK(set(PR_SET_MM_ARG_START, before.arg_start) == 0);
    });
    const unsigned long now = address_of(sbrk(0)), start = (now + 4095) / 4096 * 4096;
    bool moved = true;
    for (unsigned long i = 0; i < 2000 && moved; i++) {
        const unsigned long end = start + 4096 * (1 + i % 2);
        moved = syscall(SYS_brk, end) == static_cast<long>(end);
    }
    moved = syscall(SYS_brk, now) == static_cast<long>(now) && moved;
    over = true;
    other.join();
    CHECK(moved);
}

void extended_states() {
    unsigned long supported = 0, permitted = 0;
    if (syscall(SYS_arch_prctl, ARCH_GET_XCOMP_SUPP, &supported) != 0) {
        CHECK(errno == EINVAL); // Linux before 5.16
        return;
    }
    CHECK((supported & 3) == 3);
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &permitted) == 0);
    CHECK((permitted & 3) == 3 && (permitted & ~supported) == 0);
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_XCOMP_GUEST_PERM, &permitted) == 0);
    CHECK((permitted & 3) == 3);
    CHECK_FAILS(syscall(SYS_arch_prctl, ARCH_GET_XCOMP_SUPP, 8), EFAULT);
    for (const int request : {ARCH_REQ_XCOMP_PERM, ARCH_REQ_XCOMP_GUEST_PERM}) {
        CHECK_FAILS(syscall(SYS_arch_prctl, request, 1L), EOPNOTSUPP); // not one to ask for
        CHECK_FAILS(syscall(SYS_arch_prctl, request, 100L), EINVAL);
        CHECK_FAILS(syscall(SYS_arch_prctl, request, -1L), EINVAL);
    }
}

} // namespace

int main() {
    char scratch[] = "/tmp/joey-layout-XXXXXX";
    CHECK(mkdtemp(scratch) != nullptr);
    sizes();
    maps();
    kinds_of_memory();
    titles();
    vectors();
    programs(scratch);
    single_words();
    by_two_threads();
    extended_states();
    CHECK(unlink((std::string(scratch) + "/program").c_str()) == 0 && rmdir(scratch) == 0);
    // Who may nothing else may say where its own parts are.
    const pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0)
            CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
        sizes();
        maps();
        kinds_of_memory();
        titles();
        vectors();
        CHECK_FAILS(set(PR_SET_MM_START_CODE, 0x40'0000), EPERM);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}
