// TASKSTATS over generic netlink: what threads and processes have used, and of those that end.
#include <csignal>
#include <cstddef>
#include <ctime>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/acct.h>
#include <linux/genetlink.h>
#include <linux/taskstats.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"
#include "tests/guest/netlink_support.hpp"

namespace {

constexpr uint16_t number = 1; // CTRL_ATTR_FAMILY_ID

Builder family_request() {
    Builder request(GENL_ID_CTRL, 0);
    request.put(genlmsghdr{CTRL_CMD_GETFAMILY, 1, 0});
    request.text(CTRL_ATTR_FAMILY_NAME, TASKSTATS_GENL_NAME);
    return request;
}

uint16_t family_of(int fd) {
    family_request().send(fd);
    const std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1 && got[0].header.nlmsg_type == GENL_ID_CTRL);
    CHECK(got[0].text(GENL_HDRLEN, CTRL_ATTR_FAMILY_NAME) == TASKSTATS_GENL_NAME);
    const std::vector<char> id = got[0].attribute(GENL_HDRLEN, number);
    uint16_t out = 0;
    CHECK(id.size() == sizeof out);
    std::memcpy(&out, id.data(), sizeof out);
    return out;
}

Builder command(uint16_t family, uint16_t flags = 0) {
    Builder request(family, flags);
    request.put(genlmsghdr{TASKSTATS_CMD_GET, TASKSTATS_GENL_VERSION, 0});
    return request;
}

// What an answer or a notice says of `kind` (TASKSTATS_TYPE_PID, _TGID): zeroes if it says nothing.
taskstats stats_in(const Message& message, uint16_t aggregate, uint16_t kind, uint32_t& whose) {
    CHECK(message.as<genlmsghdr>().cmd == TASKSTATS_CMD_NEW);
    Message inner;
    inner.data = message.attribute(GENL_HDRLEN, aggregate);
    taskstats out{};
    whose = 0;
    if (inner.data.empty())
        return out;
    whose = inner.number(0, kind);
    const std::vector<char> stats = inner.attribute(0, TASKSTATS_TYPE_STATS);
    CHECK(stats.size() >= offsetof(taskstats, ac_btime64)); // later versions are longer
    std::memcpy(&out, stats.data(), std::min(stats.size(), sizeof out));
    return out;
}

taskstats ask_for(int fd, uint16_t family, pid_t pid, bool process) {
    Builder request = command(family);
    request.number(process ? TASKSTATS_CMD_ATTR_TGID : TASKSTATS_CMD_ATTR_PID,
                   static_cast<uint32_t>(pid));
    request.send(fd);
    const std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1 && got[0].header.nlmsg_type == family);
    uint32_t whose = 0;
    const taskstats out =
        stats_in(got[0], process ? TASKSTATS_TYPE_AGGR_TGID : TASKSTATS_TYPE_AGGR_PID,
                 process ? TASKSTATS_TYPE_TGID : TASKSTATS_TYPE_PID, whose);
    CHECK(whose == static_cast<uint32_t>(pid) && out.version >= 10);
    return out;
}

void spend_time() {
    const clock_t until = clock() + CLOCKS_PER_SEC / 20;
    while (clock() < until) {
    }
}

void one_thread(int fd, uint16_t family) {
    spend_time();
    char byte = 0;
    const int zero = open("/dev/zero", O_RDONLY);
    CHECK(read(zero, &byte, 1) == 1);
    close(zero);
    const taskstats self = ask_for(fd, family, getpid(), false);
    CHECK(self.ac_pid == static_cast<uint32_t>(getpid()));
    CHECK(self.ac_ppid == static_cast<uint32_t>(getppid()));
    CHECK(self.ac_uid == getuid() && self.ac_gid == getgid());
    CHECK(std::string(self.ac_comm) == std::string("guest-task_stats").substr(0, 15));
    CHECK(self.cpu_run_virtual_total >= 30'000'000 && self.ac_utime + self.ac_stime >= 10'000);
    CHECK(self.ac_etime >= 30'000 && self.ac_nice == 0 && self.ac_sched == SCHED_OTHER);
    CHECK(self.ac_minflt > 0 && self.hiwater_rss > 0 && self.hiwater_vm >= self.hiwater_rss);
    CHECK(self.ac_exitcode == 0 && (self.ac_flag & (AXSIG | AFORK)) == 0);
    const auto now = static_cast<uint64_t>(time(nullptr));
    CHECK(self.ac_btime64 <= now + 1 && self.ac_btime64 + 600 > now);
    CHECK(self.ac_btime == self.ac_btime64);
    if (self.version >= 12) {
        struct stat program;
        CHECK(stat("/proc/self/exe", &program) == 0 && self.ac_exe_inode == program.st_ino);
        CHECK(self.ac_tgid == self.ac_pid);
    }
    const taskstats whole = ask_for(fd, family, getpid(), true);
    CHECK(whole.cpu_run_virtual_total >= self.cpu_run_virtual_total);
    CHECK(whole.nvcsw >= self.nvcsw && whole.ac_etime >= self.ac_etime);
    CHECK(whole.ac_pid == 0 && whole.ac_comm[0] == 0); // not of a process
}

void refusals(int fd, uint16_t family) {
    constexpr uint32_t nobody = 0x3fff'fff0;
    CHECK(ask(fd, std::move(command(family).number(TASKSTATS_CMD_ATTR_PID, nobody))) == ESRCH);
    CHECK(ask(fd, std::move(command(family).number(TASKSTATS_CMD_ATTR_TGID, nobody))) == ESRCH);
    CHECK(ask(fd, command(family, NLM_F_ACK)) == EINVAL); // of whom?
    CHECK(ask(fd, std::move(command(family).attribute(TASKSTATS_CMD_ATTR_PID, "", 1))) == ERANGE);
    CHECK(ask(fd, std::move(command(family).text(TASKSTATS_CMD_ATTR_REGISTER_CPUMASK, "zz"))) ==
          EINVAL);
    Builder other(family, 0);
    other.put(genlmsghdr{TASKSTATS_CMD_NEW, TASKSTATS_GENL_VERSION, 0});
    CHECK(ask(fd, std::move(other)) == EOPNOTSUPP);
    const pid_t child = fork();
    if (child == 0) {
        CHECK(setuid(65534) == 0);
        const int own = open_socket(NETLINK_GENERIC);
        CHECK(ask(own, std::move(command(family).number(
                           TASKSTATS_CMD_ATTR_PID, static_cast<uint32_t>(getpid())))) == EPERM);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

// The notice that `pid` has ended, among those of others.
Message end_of(int fd, uint16_t family, uint32_t pid) {
    for (;;)
        for (const Message& message : receive(fd)) {
            CHECK(message.header.nlmsg_type == family);
            uint32_t whose = 0;
            (void)stats_in(message, TASKSTATS_TYPE_AGGR_PID, TASKSTATS_TYPE_PID, whose);
            if (whose == pid)
                return message;
        }
}

void* short_thread(void* tid) {
    *static_cast<pid_t*>(tid) = static_cast<pid_t>(syscall(SYS_gettid));
    return nullptr;
}

// Only who sees all numbers may listen: in a namespace of pids or users Linux says EINVAL.
bool may_listen() {
    char pids[64] = {}, users[64] = {};
    CHECK(readlink("/proc/self/ns/pid", pids, sizeof pids - 1) > 0);
    CHECK(readlink("/proc/self/ns/user", users, sizeof users - 1) > 0);
    return std::string(pids) == "pid:[4026531836]" && std::string(users) == "user:[4026531837]";
}

void ends(int fd, uint16_t family) {
    const std::string cpus = "0-" + std::to_string(sysconf(_SC_NPROCESSORS_CONF) - 1);
    const int error = ask(
        fd,
        std::move(
            command(family, NLM_F_ACK).text(TASKSTATS_CMD_ATTR_REGISTER_CPUMASK, cpus.c_str())));
    CHECK(error == (may_listen() ? 0 : EINVAL));
    if (error != 0) {
        std::puts("not in the initial namespaces: nothing to hear of ends");
        return;
    }
    const pid_t quiet = fork();
    if (quiet == 0)
        _exit(7);
    CHECK(waitpid(quiet, nullptr, 0) == quiet);
    uint32_t whose = 0;
    Message message = end_of(fd, family, static_cast<uint32_t>(quiet));
    taskstats stats = stats_in(message, TASKSTATS_TYPE_AGGR_PID, TASKSTATS_TYPE_PID, whose);
    CHECK(stats.ac_exitcode == 7 << 8 && stats.ac_ppid == static_cast<uint32_t>(getpid()));
    CHECK((stats.ac_flag & (AFORK | AXSIG)) == AFORK); // it executed nothing
    (void)stats_in(message, TASKSTATS_TYPE_AGGR_TGID, TASKSTATS_TYPE_TGID, whose);
    CHECK(whose == 0); // it was one thread
    const pid_t killed = fork();
    if (killed == 0) {
        pause();
        _exit(0);
    }
    CHECK(kill(killed, SIGKILL) == 0 && waitpid(killed, nullptr, 0) == killed);
    message = end_of(fd, family, static_cast<uint32_t>(killed));
    stats = stats_in(message, TASKSTATS_TYPE_AGGR_PID, TASKSTATS_TYPE_PID, whose);
    CHECK(stats.ac_exitcode == SIGKILL && (stats.ac_flag & AXSIG) != 0);
    // A thread of this process; others do not hear of it.
    const int deaf = open_socket(NETLINK_GENERIC);
    pid_t tid = 0;
    pthread_t thread;
    CHECK(pthread_create(&thread, nullptr, short_thread, &tid) == 0);
    CHECK(pthread_join(thread, nullptr) == 0);
    message = end_of(fd, family, static_cast<uint32_t>(tid));
    stats = stats_in(message, TASKSTATS_TYPE_AGGR_PID, TASKSTATS_TYPE_PID, whose);
    CHECK(stats.ac_pid == static_cast<uint32_t>(tid));
    char byte = 0;
    CHECK_FAILS(recv(deaf, &byte, 1, MSG_DONTWAIT), EAGAIN);
    close(deaf);
    CHECK(ask(fd, std::move(command(family, NLM_F_ACK)
                                .text(TASKSTATS_CMD_ATTR_DEREGISTER_CPUMASK, cpus.c_str()))) == 0);
    const pid_t unheard = fork();
    if (unheard == 0)
        _exit(0);
    CHECK(waitpid(unheard, nullptr, 0) == unheard);
    CHECK_FAILS(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
}

// A listener that closes is forgotten; of itself a thread hears in every network.
void namespaces(uint16_t family) {
    const int heard = open_socket(NETLINK_GENERIC);
    CHECK(
        ask(heard,
            std::move(command(family, NLM_F_ACK).text(TASKSTATS_CMD_ATTR_REGISTER_CPUMASK, "0"))) ==
        (may_listen() ? 0 : EINVAL));
    close(heard);
    const pid_t child = fork();
    if (child == 0) {
        CHECK(unshare(CLONE_NEWNET | CLONE_NEWPID) == 0);
        const pid_t first = fork(); // whose number is 1 where it is
        if (first == 0) {
            const int fd = open_socket(NETLINK_GENERIC);
            CHECK(family_of(fd) == family);
            const taskstats self = ask_for(fd, family, 1, false);
            CHECK(self.ac_pid == 1 && self.ac_ppid == 0);
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(first, &status, 0) == first && status == 0);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

} // namespace

int main() {
    const int fd = open_socket(NETLINK_GENERIC);
    const timeval patience = {60, 0}; // a notice that does not come is a failure
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    const uint16_t family = family_of(fd);
    one_thread(fd, family);
    refusals(fd, family);
    ends(fd, family);
    namespaces(family);
}
