// Which system calls the guest tests make: runs each program named on the command line on this
// machine's Linux under a seccomp filter that reports every call (and lets it go on), and compares
// what was seen with guestkernel/syscalls/syscalls.def. A call that the table calls served and that
// no program makes is a failure: nothing but a test can say that it works. So is a table with fewer
// served calls than were promised. A call that one program made is not reported of the next ones: a
// report costs two context switches, and some of them make a call a hundred thousand times.
//
// Programs that this filter disturbs (those that look at their own seccomp mode, or install a
// listener, of which Linux allows one) may fail here: what they do is judged by the suite
// guest-on-host. What counts here is which calls they made. A signal that comes between a call and
// its report makes the call fail with EINTR, whichever it is: a program that failed or hung runs
// again, with the calls that it has made by then unreported, until it ends well or makes no others.
#include <atomic>
#include <bitset>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace {

constexpr size_t most_calls = 512;
constexpr size_t promised_calls = 330;
constexpr auto time_for_one = std::chrono::seconds(60);

using Calls = std::bitset<most_calls>;

struct Served {
    unsigned number;
    const char* name;
};

constexpr Served served_calls[] = {
#define SYSCALL(number, name, support, note) {number, #name},
#define REFUSED(number, name, error, note)
#define MISSING(number, name)
#include "guestkernel/syscalls/syscalls.def"
#undef SYSCALL
#undef REFUSED
#undef MISSING
};

[[noreturn]] void die(const char* what) {
    std::fprintf(stderr, "coverage: %s: %s\n", what, std::strerror(errno));
    std::exit(2);
}

// The filter: reports execve, which says where the program begins, and all calls that are not in
// `known`. Two instructions for each of these.
std::vector<sock_filter> filter_for(const Calls& known) {
    std::vector<sock_filter> code = {{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)}};
    for (unsigned number = 0; number < most_calls; number++) {
        if (!known.test(number) || number == SYS_execve)
            continue;
        code.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 1, number});
        code.push_back({BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW});
    }
    code.push_back({BPF_RET | BPF_K, 0, 0, SECCOMP_RET_USER_NOTIF});
    return code;
}

// Installs the filter; its listener's number goes to `out` without a system call, for those are
// reported from now on and wait for an answer.
void install_filter(std::vector<sock_filter>& code, std::atomic<int>& out) {
    const sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
    // The superuser's programs lose nothing; others could not install a filter otherwise.
    if (geteuid() != 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        _exit(126);
    const long fd = syscall(
        SYS_seccomp, SECCOMP_SET_MODE_FILTER,
        SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
    out.store(static_cast<int>(fd));
}

struct Child {
    pid_t pid;
    int listener;
};

// Starts a program under the filter. The child shares the table of descriptors until its execve, so
// that the listener is this process's as well.
Child start(const char* path, const Calls& known) {
    std::vector<sock_filter> code = filter_for(known);
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        die("mmap");
    auto& listener = *new (page) std::atomic<int>(-2);
    const long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, 0);
    if (pid < 0)
        die("clone");
    if (pid == 0) {
        setsid();
        install_filter(code, listener);
        syscall(SYS_unshare, CLONE_FILES);
        const int quiet = open("/dev/null", O_RDWR);
        dup2(quiet, 0);
        dup2(quiet, 1);
        dup2(quiet, 2);
        execl(path, path, nullptr);
        _exit(127);
    }
    while (listener.load() == -2)
        if (waitpid(static_cast<pid_t>(pid), nullptr, WNOHANG) != 0)
            die("start under a seccomp filter");
        else
            sched_yield();
    const Child child = {static_cast<pid_t>(pid), listener.load()};
    if (child.listener < 0)
        die("seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER)");
    munmap(page, 4096);
    return child;
}

// One report: notes the call and lets it go on. What comes before the program's execve is this
// file's.
void serve(int listener, Calls& seen) {
    seccomp_notif request{};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request) != 0)
        return; // the caller died meanwhile
    if (seen.none() && request.data.nr != SYS_execve) {
        // not the program's yet
    } else if (request.data.nr >= 0 && static_cast<size_t>(request.data.nr) < most_calls)
        seen.set(static_cast<size_t>(request.data.nr));
    seccomp_notif_resp answer{};
    answer.id = request.id;
    answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

struct Outcome {
    bool in_time = true;
    int status = 0; // of waitpid(2)
    size_t new_calls = 0;
};

// Runs a program to the end of its last process; what it leaves running is ended with it. Adds to
// `all` what it calls.
Outcome record(const char* path, Calls& all) {
    const Child child = start(path, all);
    Calls seen;
    const auto begin = std::chrono::steady_clock::now();
    const auto end = begin + time_for_one;
    Outcome outcome;
    for (bool over = false;;) {
        pollfd ready{child.listener, POLLIN, 0};
        const int count = poll(&ready, 1, over ? 0 : 1000);
        if (count > 0 && (ready.revents & POLLIN) != 0) {
            serve(child.listener, seen);
            continue;
        }
        if ((ready.revents & POLLHUP) != 0 || over)
            break; // nobody runs under the filter any more
        siginfo_t gone{};
        over =
            waitid(P_PID, static_cast<id_t>(child.pid), &gone, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            gone.si_pid != 0;
        if (!over && std::chrono::steady_clock::now() > end) {
            outcome.in_time = false;
            // Where it and its children stand, for whoever looks for the reason.
            const std::string show =
                std::string("ps -eo pid,ppid,pgid,sid,stat,wchan:24,args | grep -F '") + path + "'";
            std::fflush(stdout);
            if (std::system(show.c_str()) != 0)
                std::printf("# nothing is known of its processes\n");
            kill(-child.pid, SIGKILL);
            kill(child.pid, SIGKILL);
            break;
        }
    }
    close(child.listener); // what still runs gets ENOSYS from now on
    waitpid(child.pid, &outcome.status, 0);
    kill(-child.pid, SIGKILL);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    outcome.new_calls = (seen & ~all).count();
    std::printf("# %s: %zu new calls, status %#x, %.1f s\n", path, outcome.new_calls,
                static_cast<unsigned>(outcome.status), seconds.count());
    std::fflush(stdout);
    all |= seen;
    return outcome;
}

} // namespace

int main(int count, char** programs) {
    Calls all;
    bool good = count > 1;
    for (int i = 1; i < count; i++) {
        Outcome outcome;
        do
            outcome = record(programs[i], all);
        while (outcome.status != 0 && outcome.new_calls != 0);
        if (!outcome.in_time) {
            std::printf("%s: did not end\n", programs[i]);
            good = false;
        }
    }
    for (const Served& call : served_calls) {
        if (call.number < most_calls && all.test(call.number))
            continue;
        std::printf("%s (%u): served, and no program of tests/guest makes this call\n", call.name,
                    call.number);
        good = false;
    }
    if (std::size(served_calls) < promised_calls) {
        std::printf("%zu calls are served, %zu were promised\n", std::size(served_calls),
                    promised_calls);
        good = false;
    }
    return good ? 0 : 1;
}
