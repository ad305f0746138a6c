// A process group is hung up when it becomes orphaned with a stopped member, and only then.
#include <csignal>
#include <unistd.h>

#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

volatile sig_atomic_t hang_ups = 0;
void on_hang_up(int) {
    hang_ups = hang_ups + 1;
}

pid_t start_stopped() {
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        raise(SIGSTOP);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    return pid;
}

// Orphaned from its beginning: members come and go beside a stopped one.
int leader() {
    CHECK(setsid() > 0);
    signal(SIGHUP, on_hang_up);
    const pid_t stopped = start_stopped();
    const pid_t passing = fork();
    if (passing == 0)
        _exit(3);
    int status = 0;
    CHECK(waitpid(passing, &status, 0) == passing && WEXITSTATUS(status) == 3);
    CHECK(hang_ups == 0);
    CHECK(kill(stopped, SIGKILL) == 0);
    CHECK(waitpid(stopped, &status, 0) == stopped && WIFSIGNALED(status));
    return 0;
}

} // namespace

int main() {
    const pid_t pid = fork();
    if (pid == 0)
        _exit(leader());
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}
