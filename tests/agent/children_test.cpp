// The agent's book of child processes, where numbers of processes come again.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <optional>
#include <sched.h>
#include <unistd.h>

#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "agent/os/files.hpp"
#include "agent/service/children.hpp"

namespace {

pid_t child_that_exits(int status) {
    const pid_t pid = fork();
    if (pid == 0)
        _exit(status);
    return pid;
}

// Has the next process that is made get the number `wanted`: this is the only one of its pid
// namespace that makes any. Not every kernel can be asked.
bool choose_next_number(pid_t wanted) {
    return os::write_file(AT_FDCWD, "/proc/sys/kernel/ns_last_pid", std::to_string(wanted - 1))
        .has_value();
}

pid_t child_that_waits() {
    const pid_t pid = fork();
    if (pid == 0) {
        for (;;)
            pause();
    }
    return pid;
}

const char* watch_a_number_that_came_again() {
    const auto loop = std::move(*os::EventLoop::create());
    const auto children = std::move(*service::Children::start(*loop));
    // As while a container is built: ends of processes that are not known yet are remembered.
    children->builder_begins();
    const pid_t first = child_that_exits(7);
    while (kill(first, 0) == 0)
        loop->run_once(std::chrono::milliseconds(1000));
    if (!choose_next_number(first))
        return "cannot choose";
    const pid_t second = child_that_waits();
    if (second != first)
        return "no second process with the number of the first";
    std::optional<int> status;
    children->watch(second, [&](int wait_status) { status = wait_status; });
    loop->run_once(std::chrono::milliseconds(0));
    if (status)
        return "the end of the first was taken for one of the second";
    kill(second, SIGKILL);
    while (!status)
        loop->run_once(std::chrono::milliseconds(1000));
    return WIFSIGNALED(*status) ? "" : "the second has the status of the first";
}

const char* watch_what_has_ended() {
    const auto loop = std::move(*os::EventLoop::create());
    const auto children = std::move(*service::Children::start(*loop));
    children->builder_begins();
    const pid_t pid = child_that_exits(7);
    while (kill(pid, 0) == 0)
        loop->run_once(std::chrono::milliseconds(1000));
    std::optional<int> status;
    children->watch(pid, [&](int wait_status) { status = wait_status; });
    while (!status)
        loop->run_once(std::chrono::milliseconds(1000));
    return WEXITSTATUS(*status) == 7 ? "" : "another status";
}

// What `body` has to say, as the first process of a pid namespace.
std::string said_alone(const char* (*body)()) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const pid_t outer = fork();
    if (outer == 0) {
        if (unshare(CLONE_NEWPID) == 0 && fork() == 0)
            dprintf(ends[1], "said: %s", body());
        else
            wait(nullptr);
        _exit(0);
    }
    close(ends[1]);
    std::string said;
    char bytes[256];
    for (ssize_t got = 0; (got = read(ends[0], bytes, sizeof bytes)) > 0;)
        said.append(bytes, static_cast<std::size_t>(got));
    close(ends[0]);
    waitpid(outer, nullptr, 0);
    return said;
}

} // namespace

TEST_CASE("the end of a process is not taken for that of another, which has its number now") {
    const std::string said = said_alone(watch_a_number_that_came_again);
    if (said == "said: cannot choose")
        WARN("this kernel has no /proc/sys/kernel/ns_last_pid: tested where there is one");
    else
        CHECK(said == "said: ");
}

TEST_CASE("a process that ended before it was known is told of") {
    CHECK(said_alone(watch_what_has_ended) == "said: ");
}
