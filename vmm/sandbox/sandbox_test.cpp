// Each case in a process of its own, which gives up what joey does and then tries something.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <new>
#include <unistd.h>

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "base/sanitizers.hpp"
#include "vmm/sandbox/sandbox.hpp"

using vmm::ThreadClass;

namespace {

constexpr int refused = 125; // how a violation ends

// The status of a process in which `action` says what it ends with.
int status_of(const std::function<int()>& action) {
    const pid_t child = ::fork();
    if (child == 0) {
        const int null = ::open("/dev/null", O_WRONLY);
        ::dup2(null, STDERR_FILENO);
        ::_exit(action());
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

// `action` as a thread of that class does it.
int status_as(ThreadClass thread_class, const std::function<int()>& action) {
    return status_of([&] {
        if (!vmm::give_up_privileges({.kernel_path = "/dev/null"}) ||
            !vmm::confine_thread(thread_class, true))
            return 1;
        return action();
    });
}

constexpr ThreadClass classes[] = {ThreadClass::EventLoop, ThreadClass::Vcpu, ThreadClass::FsWorker,
                                   ThreadClass::Net, ThreadClass::UserNet};

} // namespace

TEST_CASE("sandbox: threads signal each other, and no other process") {
    const pid_t other = ::getpid();
    for (const ThreadClass one : classes) {
        CHECK(status_as(one, [] {
                  return static_cast<int>(::syscall(SYS_tgkill, ::getpid(), ::gettid(), 0));
              }) == 0);
        CHECK(status_as(one, [&] {
                  return static_cast<int>(::syscall(SYS_tgkill, other, other, 0));
              }) == refused);
        CHECK(status_as(one, [&] { return ::kill(other, 0); }) == refused);
    }
    // Stops and goes on, as one does that is told to.
    CHECK(status_as(ThreadClass::EventLoop, [] { return ::kill(::getpid(), 0); }) == 0);
}

TEST_CASE("sandbox: no descriptor signals another process either") {
    int ends[2] = {-1, -1};
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const pid_t other = ::getpid();
    for (const ThreadClass one : classes) {
        CHECK(status_as(one, [&] { return ::fcntl(ends[0], F_SETOWN, other); }) == refused);
        CHECK(status_as(one, [&] { return ::fcntl(ends[0], F_SETSIG, SIGKILL); }) == refused);
    }
    ::close(ends[0]);
    ::close(ends[1]);
}

TEST_CASE("sandbox: the network thread asks for an interface's number, by no Unix socket") {
    CHECK(status_as(ThreadClass::UserNet, [] {
              struct ifreq request {};
              std::strcpy(request.ifr_name, "lo");
              const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
              // A namespace may be without it.
              return ::ioctl(fd, SIOCGIFINDEX, &request) == 0 || errno == ENODEV ? 0 : 1;
          }) == 0);
    CHECK(status_as(ThreadClass::UserNet,
                    [] { return ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); }) == refused);
}

TEST_CASE("sandbox: whoever serves files has no calls that take a path alone") {
    for (const ThreadClass one : {ThreadClass::Vcpu, ThreadClass::FsWorker}) {
        CHECK(status_as(one, [] { return ::chmod("/nowhere", 0777); }) == refused);
        CHECK(status_as(one, [] { return ::truncate("/nowhere", 0); }) == refused);
        CHECK(status_as(one, [] {
                  return static_cast<int>(::syscall(SYS_setxattr, "/nowhere", "user.x", "x", 1, 0));
              }) == refused);
    }
}

TEST_CASE("sandbox: root keeps the right to make device nodes only where they are wanted") {
    if (::geteuid() != 0 || ::prctl(PR_CAPBSET_READ, 27 /* CAP_MKNOD */, 0, 0, 0) != 1)
        return;
    const vmm::SharedPath writable[] = {{::open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC), true}};
    const auto keeps = [&](bool device_nodes) {
        return status_of([&] {
            if (!vmm::give_up_privileges(
                    {.shares = writable, .kernel_path = "/dev/null", .device_nodes = device_nodes}))
                return 2;
            return ::prctl(PR_CAPBSET_READ, 27, 0, 0, 0);
        });
    };
    CHECK(keeps(false) == 0);
    CHECK(keeps(true) == 1);
    ::close(writable[0].fd);
}

#if !JOEY_WATCHES_MEMORY
TEST_CASE("sandbox: what is kept for the guest has a bound, and reaching it ends the VM") {
    constexpr std::uint64_t bound = std::uint64_t{256} << 20;
    const auto take = [&](std::uint64_t bytes) {
        return status_of([&] {
            if (!vmm::give_up_privileges({.kernel_path = "/dev/null", .most_memory = bound}))
                return 1;
            // Not seen through: an allocation without a use need not be made.
            static char* volatile taken = nullptr;
            taken = new char[bytes];
            return taken != nullptr ? 0 : 2;
        });
    };
    CHECK(take(bound / 4) == 0);
    CHECK(take(2 * bound) == refused);
}
#endif
