// seccomp(2): strict mode, filters and all their actions, what is refused, threads, supervisors;
// PR_SET_SYSCALL_USER_DISPATCH.
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <initializer_list>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

using Program = std::vector<sock_filter>;

sock_filter statement(int code, std::uint32_t k) {
    return {static_cast<std::uint16_t>(code), 0, 0, k};
}
sock_filter jump(int code, std::uint32_t k, std::uint8_t yes, std::uint8_t no) {
    return {static_cast<std::uint16_t>(code), yes, no, k};
}

// Answers `answer` for one call and allows all others.
Program only(long number, std::uint32_t answer) {
    return {statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
            jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 1),
            statement(BPF_RET | BPF_K, answer), statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
}

long install(Program program, unsigned flags = 0) {
    sock_fprog wire = {static_cast<unsigned short>(program.size()), program.data()};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &wire);
}

template <typename F>
int status_of(F&& body) {
    std::fflush(nullptr);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        body();
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

bool killed_by(int status, int signal) {
    return WIFSIGNALED(status) && WTERMSIG(status) == signal;
}

void questions() {
    for (const std::uint32_t action :
         {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO,
          SECCOMP_RET_USER_NOTIF, SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW})
        CHECK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0);
    const std::uint32_t unknown = 0x10000;
    CHECK_FAILS(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &unknown), EOPNOTSUPP);
    CHECK_FAILS(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 1, &unknown), EINVAL);
    seccomp_notif_sizes sizes = {};
    CHECK(syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) == 0);
    CHECK(sizes.seccomp_notif == sizeof(seccomp_notif) && sizes.seccomp_data == 64);
    CHECK_FAILS(syscall(SYS_seccomp, 77, 0, nullptr), EINVAL);
    CHECK_FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, nullptr), EINVAL);
    CHECK_FAILS(prctl(PR_SET_SECCOMP, 99, 0, 0, 0), EINVAL);
    CHECK(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0);
}

void strict_mode() {
    int status = status_of([] {
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
        syscall(SYS_write, 1, "", 0);
        syscall(SYS_exit, 5);
    });
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    status = status_of([] {
        CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, nullptr) == 0);
        syscall(SYS_getpid);
    });
    CHECK(killed_by(status, SIGKILL));
}

void refused_programs() {
    const int status = status_of([] {
        const sock_filter allow = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        CHECK_FAILS(install({}), EINVAL);
        const std::vector<Program> bad = {
            {statement(BPF_LD | BPF_W | BPF_ABS, 2), allow},
            {statement(BPF_LD | BPF_W | BPF_ABS, 64), allow},
            {statement(BPF_LD | BPF_B | BPF_ABS, 0), allow},
            {statement(BPF_LD | BPF_W | BPF_IND, 0), allow},
            {statement(BPF_ALU | BPF_DIV | BPF_K, 0), allow},
            {statement(BPF_ALU | BPF_MOD | BPF_K, 2), allow},
            {statement(BPF_ALU | BPF_LSH | BPF_K, 32), allow},
            {statement(BPF_LD | BPF_MEM, 0), allow},
            {statement(BPF_ST, 16), allow},
            {jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), allow},
            {statement(BPF_JMP | BPF_JA, 1), allow},
            {statement(BPF_JMP | BPF_JA, 0xffffffff), allow},
            {statement(BPF_LD | BPF_IMM, 1)},
            {statement(0xffff, 1), allow},
            // Stored on one of two ways only.
            {jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), statement(BPF_ST, 3),
             statement(BPF_LD | BPF_MEM, 3), allow},
        };
        for (const Program& program : bad)
            CHECK_FAILS(install(program), EINVAL);
        CHECK_FAILS(install({allow}, 1 << 20), EINVAL);
        CHECK_FAILS(install({allow}, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_NEW_LISTENER),
                    EINVAL);
        CHECK_FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, 8), EFAULT);
        sock_fprog wire = {1, reinterpret_cast<sock_filter*>(8)};
        CHECK_FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &wire), EFAULT);
        // The longest there is; and too much in all.
        Program longest(BPF_MAXINSNS, statement(BPF_LD | BPF_IMM, 0));
        longest.back() = allow;
        CHECK(install(longest) == 0);
        int more = 0;
        while (install(longest) == 0)
            more++;
        CHECK(errno == ENOMEM && more == 6);
        CHECK_FAILS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0), EINVAL);
    });
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (geteuid() != 0)
        return;
    const pid_t pid = fork();
    if (pid == 0) { // without PR_SET_NO_NEW_PRIVS and capabilities
        CHECK(setgid(12345) == 0 && setuid(12345) == 0);
        CHECK_FAILS(install(only(SYS_getppid, SECCOMP_RET_ALLOW)), EACCES);
        _exit(0);
    }
    int other = 0;
    CHECK(waitpid(pid, &other, 0) == pid && other == 0);
}

volatile sig_atomic_t trap_number = 0, trap_errno = 0, trap_code = 0;
void on_sigsys(int, siginfo_t* info, void*) {
    trap_number = info->si_syscall;
    trap_errno = info->si_errno;
    trap_code = info->si_code;
}

void actions() {
    int status = status_of([] {
        CHECK(install(only(SYS_getppid, SECCOMP_RET_ERRNO | EXDEV)) == 0);
        CHECK(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2);
        CHECK_FAILS(syscall(SYS_getppid), EXDEV);
        CHECK(install(only(SYS_getppid, SECCOMP_RET_ERRNO | 0xffff)) == 0);
        // The newest of two equal actions counts, and no error number is above 4095.
        CHECK(syscall(SYS_getppid) == -1 && errno == 4095);
        CHECK(install(only(SYS_getuid, SECCOMP_RET_ERRNO)) == 0);
        CHECK(syscall(SYS_getuid) == 0);
        CHECK(install(only(SYS_getgid, SECCOMP_RET_LOG)) == 0);
        CHECK(syscall(SYS_getgid) == static_cast<long>(getegid()));
        CHECK(install(only(SYS_geteuid, SECCOMP_RET_TRACE)) == 0);
        CHECK_FAILS(syscall(SYS_geteuid), ENOSYS);
        char text[4096] = {};
        const int fd = open("/proc/self/status", O_RDONLY);
        CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
        CHECK(std::strstr(text, "Seccomp:\t2\n") != nullptr);
        CHECK(std::strstr(text, "NoNewPrivs:\t1\n") != nullptr);
        // Children and new programs are under the same filters.
        const pid_t child = fork();
        if (child == 0)
            _exit(syscall(SYS_getppid) == -1 && errno == 4095 ? 0 : 1);
        int ended = 0;
        CHECK(waitpid(child, &ended, 0) == child && ended == 0);
    });
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    status = status_of([] {
        struct sigaction action = {};
        action.sa_sigaction = on_sigsys;
        action.sa_flags = SA_SIGINFO;
        CHECK(sigaction(SIGSYS, &action, nullptr) == 0);
        CHECK(install(only(SYS_getppid, SECCOMP_RET_TRAP | 17)) == 0);
        CHECK(syscall(SYS_getppid) == SYS_getppid);
        CHECK(trap_number == SYS_getppid && trap_errno == 17 && trap_code == 1);
        signal(SIGSYS, SIG_IGN); // cannot be ignored
        syscall(SYS_getppid);
    });
    CHECK(killed_by(status, SIGSYS));
    for (const std::uint32_t action :
         {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, std::uint32_t{0x12340000}})
        CHECK(killed_by(status_of([&] {
                            signal(SIGSYS, SIG_IGN);
                            CHECK(install(only(SYS_getppid, action)) == 0);
                            syscall(SYS_getppid);
                        }),
                        SIGSYS));
}

void arguments() {
    const int status = status_of([] {
        // lseek of descriptor 77 to an offset whose low half, doubled, is 84, by way of memory, X
        // and a division.
        const Program program = {
            statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
            jump(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
            statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
            statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
            jump(BPF_JMP | BPF_JEQ | BPF_K, SYS_lseek, 0, 9),
            statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args) + 8),
            statement(BPF_ALU | BPF_MUL | BPF_K, 2),
            statement(BPF_ST, 5),
            statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)),
            statement(BPF_MISC | BPF_TAX, 0),
            statement(BPF_LD | BPF_MEM, 5),
            statement(BPF_ALU | BPF_SUB | BPF_X, 0),
            jump(BPF_JMP | BPF_JEQ | BPF_K, 7, 0, 1),
            statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EMLINK),
            statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        CHECK(install(program) == 0);
        CHECK_FAILS(lseek(77, 42, SEEK_SET), EMLINK);
        CHECK_FAILS(lseek(77, 43, SEEK_SET), EBADF);
        CHECK(getppid() > 0);
        // Division by a zero in X ends the program with 0: the thread is killed.
        CHECK(install({statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args) + 8),
                       statement(BPF_MISC | BPF_TAX, 0),
                       statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                       jump(BPF_JMP | BPF_JEQ | BPF_K, SYS_lseek, 0, 1),
                       statement(BPF_ALU | BPF_DIV | BPF_X, 0),
                       statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}) == 0);
        CHECK_FAILS(lseek(77, 1, SEEK_SET), EBADF);
        lseek(77, 0, SEEK_SET);
    });
    CHECK(killed_by(status, SIGSYS));
}

struct Threads {
    pthread_barrier_t before, after;
    long seen = 0;
    bool own_filter = false;
    pid_t tid = 0;
};

void* thread_body(void* raw) {
    auto& threads = *static_cast<Threads*>(raw);
    threads.tid = static_cast<pid_t>(syscall(SYS_gettid));
    if (threads.own_filter)
        CHECK(install(only(SYS_getuid, SECCOMP_RET_ALLOW)) == 0);
    pthread_barrier_wait(&threads.before);
    pthread_barrier_wait(&threads.after);
    errno = 0;
    threads.seen = syscall(SYS_getppid) == -1 ? errno : 0;
    return nullptr;
}

void threads() {
    const int status = status_of([] {
        for (const int way : {0, 1, 2}) { // alone, with TSYNC, TSYNC hindered
            Threads threads;
            threads.own_filter = way == 2;
            pthread_barrier_init(&threads.before, nullptr, 2);
            pthread_barrier_init(&threads.after, nullptr, 2);
            pthread_t thread;
            CHECK(pthread_create(&thread, nullptr, thread_body, &threads) == 0);
            pthread_barrier_wait(&threads.before);
            const Program program = only(SYS_getppid, SECCOMP_RET_ERRNO | (EXDEV + way));
            if (way == 0)
                CHECK(install(program) == 0);
            if (way == 1)
                CHECK(install(program, SECCOMP_FILTER_FLAG_TSYNC) == 0);
            if (way == 2) {
                CHECK(install(program, SECCOMP_FILTER_FLAG_TSYNC) == threads.tid);
                CHECK_FAILS(
                    install(program, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH),
                    ESRCH);
            }
            pthread_barrier_wait(&threads.after);
            CHECK(pthread_join(thread, nullptr) == 0);
            CHECK(threads.seen == (way == 0 ? 0 : EXDEV + 1));
        }
        // One thread of two is killed: the other one goes on.
        pthread_t thread;
        CHECK(pthread_create(
                  &thread, nullptr,
                  [](void*) -> void* {
                      CHECK(install(only(SYS_getgid, SECCOMP_RET_KILL_THREAD)) == 0);
                      syscall(SYS_getgid);
                      _exit(1);
                  },
                  nullptr) == 0);
        CHECK(pthread_join(thread, nullptr) == 0);
        CHECK(syscall(SYS_getgid) >= 0);
    });
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// A thread installs a filter of its own while another one gives it one: whoever comes second, both
// are asked.
void crossing_filters() {
    const int status = status_of([] {
        // Takes long to look through, and allows everything.
        static Program own(BPF_MAXINSNS, statement(BPF_LD | BPF_W | BPF_ABS, 0));
        own.back() = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        for (unsigned attempt = 0; attempt < 100; attempt++) {
            std::fflush(nullptr);
            const pid_t child = fork();
            CHECK(child >= 0);
            if (child != 0) {
                int end = 0;
                CHECK(waitpid(child, &end, 0) == child && end == 0);
                continue;
            }
            static pthread_barrier_t begin, done;
            static bool given = false;
            pthread_barrier_init(&begin, nullptr, 2);
            pthread_barrier_init(&done, nullptr, 2);
            pthread_t thread;
            CHECK(pthread_create(
                      &thread, nullptr,
                      [](void*) -> void* {
                          pthread_barrier_wait(&begin);
                          CHECK(install(own) == 0);
                          pthread_barrier_wait(&done);
                          CHECK(!given || (syscall(SYS_getppid) == -1 && errno == EXDEV));
                          return nullptr;
                      },
                      nullptr) == 0);
            pthread_barrier_wait(&begin);
            for (unsigned spin = 0; spin < attempt * 5000; spin++)
                asm volatile("");
            given = install(only(SYS_getppid, SECCOMP_RET_ERRNO | EXDEV),
                            SECCOMP_FILTER_FLAG_TSYNC) == 0;
            pthread_barrier_wait(&done);
            CHECK(pthread_join(thread, nullptr) == 0);
            _exit(0);
        }
    });
    CHECK(status == 0);
}

void tracer() {
    const pid_t pid = fork();
    if (pid == 0) {
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        CHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
        raise(SIGSTOP);
        CHECK(install(only(SYS_getppid, SECCOMP_RET_TRACE | 33)) == 0);
        _exit(syscall(SYS_getppid) == getpid() ? 4 : 5);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
    CHECK(ptrace(PTRACE_SETOPTIONS, pid, nullptr, reinterpret_cast<void*>(PTRACE_O_TRACESECCOMP)) ==
          0);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8));
    unsigned long message = 0;
    CHECK(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &message) == 0 && message == 33);
    __ptrace_syscall_info info = {};
    CHECK(ptrace(PTRACE_GET_SYSCALL_INFO, pid, reinterpret_cast<void*>(sizeof info), &info) > 0);
    CHECK(info.op == PTRACE_SYSCALL_INFO_SECCOMP && info.seccomp.nr == SYS_getppid &&
          info.seccomp.ret_data == 33);
    constexpr std::uintptr_t orig_rax = 15 * 8;
    CHECK(ptrace(PTRACE_POKEUSER, pid, reinterpret_cast<void*>(orig_rax),
                 reinterpret_cast<void*>(SYS_getpid)) == 0);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 4);
}

void* supervise(void* raw) {
    const int listener = *static_cast<int*>(raw);
    for (int i = 0; i < 4; i++) {
        pollfd ready = {listener, POLLIN, 0};
        CHECK(poll(&ready, 1, -1) == 1 && (ready.revents & POLLIN) != 0);
        seccomp_notif call = {};
        CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0);
        CHECK(call.data.nr == SYS_getppid && call.pid != 0);
        CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &call.id) == 0);
        seccomp_notif_resp answer = {};
        answer.id = call.id + 1000;
        CHECK_FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), ENOENT);
        answer.id = call.id;
        if (i == 0)
            answer.val = 4711;
        if (i == 1)
            answer.error = -EMLINK;
        if (i == 2) {
            answer.val = 1;
            answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
            CHECK_FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), EINVAL);
            answer.val = 0;
        }
        if (i == 3) {
            seccomp_notif_addfd add = {};
            add.id = call.id;
            add.srcfd = 0;
            add.newfd = 99;
            CHECK_FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), EINVAL);
            add.flags = SECCOMP_ADDFD_FLAG_SETFD;
            // As a later kernel may know it: longer, and perhaps written to.
            struct Longer {
                seccomp_notif_addfd known;
                std::uint64_t more;
            } longer = {add, 1};
            CHECK_FAILS(ioctl(listener, SECCOMP_IOW(3, Longer), &longer), E2BIG);
            CHECK_FAILS(ioctl(listener, SECCOMP_IOWR(3, Longer), &longer), E2BIG);
            longer.more = 0;
            CHECK(ioctl(listener, SECCOMP_IOWR(3, Longer), &longer) == 99);
            CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) == 99);
            CHECK(fcntl(99, F_GETFD) == 0);
        }
        CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) == 0);
        CHECK_FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), errno);
        CHECK(errno == ENOENT || errno == EINPROGRESS);
    }
    return nullptr;
}

void supervisors() {
    const int status = status_of([] {
        // The supervisor first: it is not under the filter.
        static int listener = -1;
        static pthread_barrier_t barrier;
        pthread_barrier_init(&barrier, nullptr, 2);
        pthread_t thread;
        CHECK(pthread_create(
                  &thread, nullptr,
                  [](void*) -> void* {
                      pthread_barrier_wait(&barrier);
                      return supervise(&listener);
                  },
                  nullptr) == 0);
        const Program program = only(SYS_getppid, SECCOMP_RET_USER_NOTIF);
        listener = static_cast<int>(install(program, SECCOMP_FILTER_FLAG_NEW_LISTENER));
        CHECK(listener >= 0);
        CHECK(fcntl(listener, F_GETFD) == FD_CLOEXEC);
        CHECK_FAILS(install(program, SECCOMP_FILTER_FLAG_NEW_LISTENER), EBUSY);
        seccomp_notif dirty = {};
        dirty.id = 1;
        CHECK_FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &dirty), EINVAL);
        pthread_barrier_wait(&barrier);
        CHECK(syscall(SYS_getppid) == 4711);
        CHECK_FAILS(syscall(SYS_getppid), EMLINK);
        CHECK(syscall(SYS_getppid) > 0);
        CHECK(syscall(SYS_getppid) == 0);
        CHECK(pthread_join(thread, nullptr) == 0);
        // Nobody is left who could answer.
        close(listener);
        CHECK_FAILS(syscall(SYS_getppid), ENOSYS);
    });
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// The supervisor learns the caller's number as its own pid namespace counts: a look into a table
// with a lock of its own.
// Runs `body` under a filter that has the supervisor decide about getppid(2), and `decide` with the
// descriptor for that. Returns how `body`'s process ended.
template <typename Body, typename Decide>
int supervised(const Body& body, const Decide& decide) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        const int listener = static_cast<int>(
            install(only(SYS_getppid, SECCOMP_RET_USER_NOTIF), SECCOMP_FILTER_FLAG_NEW_LISTENER));
        CHECK(listener >= 0 && write(ends[1], &listener, sizeof listener) == sizeof listener);
        char go = 0;
        CHECK(read(ends[1], &go, 1) == 1);
        _exit(body() ? 0 : 1);
    }
    int number = -1;
    CHECK(read(ends[0], &number, sizeof number) == sizeof number);
    const int process = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    const int listener = static_cast<int>(syscall(SYS_pidfd_getfd, process, number, 0));
    CHECK(listener >= 0 && write(ends[0], "", 1) == 1);
    decide(listener);
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    for (const int fd : {ends[0], ends[1], process, listener})
        close(fd);
    return status;
}

constexpr int restart_order = 512; // what Linux's kernel calls ERESTARTSYS

// Results that the kernel has a meaning for are just numbers when a filter made them up.
void verbatim_results() {
    CHECK(status_of([] {
              CHECK(install(only(SYS_getppid, SECCOMP_RET_ERRNO | restart_order)) == 0);
              CHECK_FAILS(syscall(SYS_getppid), restart_order);
          }) == 0);
    const auto answer = [](int listener) {
        seccomp_notif call = {};
        CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0);
        seccomp_notif_resp response = {};
        response.id = call.id;
        response.error = -restart_order;
        CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) == 0);
    };
    const auto ask = [] { return syscall(SYS_getppid) == -1 && errno == restart_order; };
    CHECK(supervised(ask, answer) == 0);
    // Filters are asked about -1 too.
    CHECK(status_of([] {
              CHECK(install(only(-1, SECCOMP_RET_ERRNO | EMLINK)) == 0);
              CHECK_FAILS(syscall(-1), EMLINK);
          }) == 0);
}

// What a supervisor gives away counts against the limit of who gets it.
void limit_of_target() {
    const auto body = [] {
        const rlimit few = {20, 20};
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        while (dup(0) >= 0) {
        }
        CHECK(errno == EMFILE);
        return syscall(SYS_getppid) == 1;
    };
    CHECK(supervised(body, [](int listener) {
              seccomp_notif call = {};
              CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0);
              seccomp_notif_addfd add = {};
              add.id = call.id;
              CHECK_FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), EMFILE);
              add.flags = SECCOMP_ADDFD_FLAG_SETFD;
              add.newfd = 20;
              CHECK_FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), EBADF);
              add.newfd = 19;
              CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) == 19);
              seccomp_notif_resp response = {};
              response.id = call.id;
              response.val = 1;
              CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) == 0);
          }) == 0);
    // And a low one of the supervisor does not.
    CHECK(status_of([] {
              CHECK(supervised([] { return syscall(SYS_getppid) == 1; },
                               [](int listener) {
                                   const rlimit none = {0, 0};
                                   CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
                                   seccomp_notif call = {};
                                   CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0);
                                   seccomp_notif_addfd add = {};
                                   add.id = call.id;
                                   CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) > 0);
                                   seccomp_notif_resp response = {};
                                   response.id = call.id;
                                   response.val = 1;
                                   CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) == 0);
                               }) == 0);
          }) == 0);
}

// A call that a filter kills for is its process's end: a tracer hears of that end and cannot
// avert it. The tracer's change of the number comes before the filters.
void tracer_of_killed() {
    for (const long number : {SYS_getppid, SYS_getpid}) {
        const pid_t pid = fork();
        if (pid == 0) {
            CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
            CHECK(install(only(SYS_getppid, SECCOMP_RET_KILL_THREAD)) == 0);
            CHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
            raise(SIGSTOP);
            syscall(number);
            _exit(1);
        }
        int status = 0;
        CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
        CHECK(ptrace(PTRACE_SETOPTIONS, pid, nullptr,
                     reinterpret_cast<void*>(PTRACE_O_TRACESYSGOOD)) == 0);
        for (;;) {
            CHECK(ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr) == 0);
            CHECK(waitpid(pid, &status, 0) == pid);
            if (!WIFSTOPPED(status))
                break;
            CHECK(WSTOPSIG(status) == (SIGTRAP | 0x80));
            constexpr std::uintptr_t orig_rax = 15 * 8;
            void* const place = reinterpret_cast<void*>(orig_rax);
            if (ptrace(PTRACE_PEEKUSER, pid, place, nullptr) == SYS_getpid)
                CHECK(ptrace(PTRACE_POKEUSER, pid, place, reinterpret_cast<void*>(SYS_getppid)) ==
                      0);
        }
        CHECK(killed_by(status, SIGSYS));
    }
}

void supervisors_in_pid_namespaces() {
    const int status = status_of([] {
        CHECK(unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0);
        const int inner = status_of([] {
            CHECK(getpid() == 1);
            // Made before the filter is there, so not under it.
            static int listener = -1;
            static pthread_barrier_t installed;
            CHECK(pthread_barrier_init(&installed, nullptr, 2) == 0);
            pthread_t supervisor;
            const auto answer_one = [](void*) -> void* {
                pthread_barrier_wait(&installed);
                seccomp_notif call = {};
                CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0);
                CHECK(call.pid == 1 && call.data.nr == SYS_getppid);
                seccomp_notif_resp answer = {};
                answer.id = call.id;
                answer.val = 4712;
                CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) == 0);
                return nullptr;
            };
            CHECK(pthread_create(&supervisor, nullptr, answer_one, nullptr) == 0);
            const Program program = only(SYS_getppid, SECCOMP_RET_USER_NOTIF);
            listener = static_cast<int>(install(program, SECCOMP_FILTER_FLAG_NEW_LISTENER));
            CHECK(listener >= 0);
            pthread_barrier_wait(&installed);
            CHECK(syscall(SYS_getppid) == 4712);
            CHECK(pthread_join(supervisor, nullptr) == 0);
        });
        CHECK(WIFEXITED(inner) && WEXITSTATUS(inner) == 0);
    });
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// A tracer suspends the filters of others only when it has none: a child that it makes would be out
// of them.
void suspension() {
    const int status = status_of([] {
        CHECK(install(only(SYS_getppid, SECCOMP_RET_ERRNO | EXDEV)) == 0);
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
            raise(SIGSTOP);
            CHECK_FAILS(syscall(SYS_getppid), EXDEV);
            _exit(0);
        }
        int end = 0;
        CHECK(waitpid(child, &end, 0) == child && WIFSTOPPED(end));
        constexpr long suspend = 1 << 21; // PTRACE_O_SUSPEND_SECCOMP
        CHECK(ptrace(PTRACE_SETOPTIONS, child, nullptr, suspend) == -1);
        CHECK(errno == EPERM || errno == EINVAL); // EINVAL: a kernel without
        CHECK(ptrace(PTRACE_CONT, child, nullptr, nullptr) == 0);
        CHECK(waitpid(child, &end, 0) == child && end == 0);
        const pid_t seized = fork();
        CHECK(seized >= 0);
        if (seized == 0)
            for (;;)
                pause();
        CHECK(ptrace(PTRACE_SEIZE, seized, nullptr, suspend) == -1);
        CHECK(kill(seized, SIGKILL) == 0 && waitpid(seized, &end, 0) == seized);
    });
    CHECK(status == 0);
}

// --- PR_SET_SYSCALL_USER_DISPATCH

long dispatch(unsigned long mode, const void* start = nullptr, std::size_t length = 0,
              volatile char* selector = nullptr) {
    return prctl(PR_SET_SYSCALL_USER_DISPATCH, mode, start, length, selector);
}

// By no function of the C library, which would make calls of its own.
long call_here(long number) {
    long result = 0;
    asm volatile("syscall" : "=a"(result) : "0"(number) : "rcx", "r11", "memory");
    return result;
}

volatile char* selector;
siginfo_t dispatched;
std::uintptr_t came_from;

void serve(int, siginfo_t* info, void* context) {
    *selector = SYSCALL_DISPATCH_FILTER_ALLOW; // rt_sigreturn(2) is a call as well
    dispatched = *info;
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    came_from = static_cast<std::uintptr_t>(registers[REG_RIP]);
    registers[REG_RAX] += 4000;
}

void call_dispatch() {
    CHECK_FAILS(dispatch(99), EINVAL);
    CHECK_FAILS(dispatch(PR_SYS_DISPATCH_OFF, nullptr, 1), EINVAL);
    CHECK_FAILS(dispatch(PR_SYS_DISPATCH_ON, reinterpret_cast<void*>(1), ~std::size_t{0}), EINVAL);
    CHECK_FAILS(dispatch(PR_SYS_DISPATCH_ON, nullptr, 0,
                         reinterpret_cast<volatile char*>(std::uintptr_t{1} << 63)),
                EFAULT);
    void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    selector = static_cast<volatile char*>(memory);
    // mov $SYS_getpid, %eax; syscall; ret
    constexpr unsigned char code[] = {0xb8, SYS_getpid, 0, 0, 0, 0x0f, 0x05, 0xc3};
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    std::memcpy(page, code, sizeof code);
    CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
    const auto from_page = reinterpret_cast<long (*)()>(page);
    const long own = getpid();

    struct sigaction action = {};
    action.sa_sigaction = serve;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGSYS, &action, nullptr) == 0);
    CHECK(dispatch(PR_SYS_DISPATCH_ON, page, 4096, selector) == 0);
    CHECK(getpid() == own); // allowed
    *selector = SYSCALL_DISPATCH_FILTER_BLOCK;
    const long inside = from_page();
    const long outside = call_here(SYS_getppid);
    CHECK(*selector == SYSCALL_DISPATCH_FILTER_ALLOW);
    CHECK(inside == own && outside == SYS_getppid + 4000);
    CHECK(dispatched.si_signo == SIGSYS && dispatched.si_code == 2 && dispatched.si_errno == 0);
    CHECK(dispatched.si_syscall == SYS_getppid && dispatched.si_arch == AUDIT_ARCH_X86_64);
    CHECK(reinterpret_cast<std::uintptr_t>(dispatched.si_call_addr) == came_from);
    // Also a number that names no call.
    *selector = SYSCALL_DISPATCH_FILTER_BLOCK;
    CHECK(call_here(100'000) == 104'000 && dispatched.si_syscall == 100'000);
    // Children go without, and programs.
    CHECK(status_of([&] {
              *selector = SYSCALL_DISPATCH_FILTER_BLOCK;
              _exit(call_here(SYS_getppid) == own ? 0 : 1);
          }) == 0);
    CHECK(status_of([&] {
              CHECK(dispatch(PR_SYS_DISPATCH_ON, page, 4096, selector) == 0);
              execl("/proc/self/exe", "guest-seccomp", "nothing", nullptr);
          }) == 0);
    // Other values of the selector, and none that can be read, are the end whatever the handler.
    const auto end_by = [&](const auto& spoil) {
        return status_of([&] {
            CHECK(dispatch(PR_SYS_DISPATCH_ON, page, 4096, selector) == 0);
            spoil();
            call_here(SYS_getpid);
        });
    };
    const auto ended = [](int status) { return WIFSIGNALED(status) ? WTERMSIG(status) : 0; };
    CHECK(ended(end_by([] { *selector = 7; })) == SIGSYS);
    CHECK(ended(end_by([&] { munmap(memory, 4096); })) == SIGSEGV);
    // Without a selector all calls from outside are refused: the handler cannot even return.
    CHECK(ended(end_by([&] { dispatch(PR_SYS_DISPATCH_ON, page, 4096); })) == SIGSYS);
    CHECK(dispatch(PR_SYS_DISPATCH_OFF) == 0);
    *selector = SYSCALL_DISPATCH_FILTER_BLOCK;
    CHECK(call_here(SYS_getpid) == own);
}

// A set-user-ID program and a filter from another thread at about the same moment: one of the two
// comes first, and then there is no program of root's under a filter of somebody else's.
void synchronised_in_execve() {
    if (geteuid() != 0)
        return;
    constexpr uid_t nobody = 65534;
    constexpr int filtered_root = 6;
    char path[] = "/tmp/seccomp_XXXXXX";
    const int program = mkstemp(path);
    const int self = open("/proc/self/exe", O_RDONLY);
    CHECK(program >= 0 && self >= 0);
    static char piece[65536];
    for (ssize_t got; (got = read(self, piece, sizeof piece)) > 0;)
        CHECK(write(program, piece, static_cast<size_t>(got)) == got);
    CHECK(fchmod(program, 04755) == 0);
    close(program);
    close(self);
    static volatile bool go;
    static int delay;
    for (delay = 0; delay < 16; delay++) {
        const pid_t target = fork();
        CHECK(target >= 0);
        if (target == 0) {
            CHECK(setresgid(nobody, nobody, nobody) == 0 && setresuid(nobody, nobody, nobody) == 0);
            pthread_t thread;
            CHECK(pthread_create(
                      &thread, nullptr,
                      [](void*) -> void* {
                          while (!go)
                              ;
                          for (int i = 0; i < delay * 1500; i++)
                              asm volatile("pause");
                          (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                          (void)install(only(SYS_getppid, SECCOMP_RET_ERRNO | EXDEV),
                                        SECCOMP_FILTER_FLAG_TSYNC);
                          for (;;)
                              pause();
                      },
                      nullptr) == 0);
            go = true;
            execl(path, path, "risen", nullptr);
            _exit(errno == EAGAIN ? 0 : 1);
        }
        int status = -1;
        CHECK(waitpid(target, &status, 0) == target);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) != filtered_root);
    }
    CHECK(unlink(path) == 0);
}

} // namespace

int main(int count, char** words) {
    if (count > 1 && std::strcmp(words[1], "risen") == 0) {
        const bool bound = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
        return geteuid() == 0 && bound ? 6 : 0;
    }
    if (count > 1)
        return 0; // a program that was started under call dispatch
    questions();
    strict_mode();
    refused_programs();
    actions();
    arguments();
    threads();
    crossing_filters();
    tracer();
    supervisors();
    verbatim_results();
    limit_of_target();
    tracer_of_killed();
    supervisors_in_pid_namespaces();
    suspension();
    call_dispatch();
    synchronised_in_execve();
}
