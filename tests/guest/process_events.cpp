// The process events connector: forks, execs, ends and changes of identity told over netlink.
// connector.rst of Linux's documentation, linux/cn_proc.h.
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string>

#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "tests/guest/netlink_support.hpp"
#include "tests/guest/process_support.hpp"

namespace {

// The enumeration is the struct's own in older headers.
struct Events : proc_event {
    static constexpr unsigned none = PROC_EVENT_NONE, fork = PROC_EVENT_FORK,
                              exec = PROC_EVENT_EXEC, uid = PROC_EVENT_UID, gid = PROC_EVENT_GID,
                              sid = PROC_EVENT_SID, ptrace = PROC_EVENT_PTRACE,
                              comm = PROC_EVENT_COMM, core = PROC_EVENT_COREDUMP,
                              exit = static_cast<unsigned>(PROC_EVENT_EXIT);
};

int open_connector() {
    const int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR);
    CHECK(fd >= 0);
    sockaddr_nl own = {};
    own.nl_family = AF_NETLINK;
    own.nl_groups = CN_IDX_PROC;
    CHECK(bind(fd, general(own), sizeof own) == 0);
    // The machine's other processes are heard, too.
    const int room = 4 << 20;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    return fd;
}

struct Words {
    unsigned operation, events;
};

ssize_t say(int fd, unsigned operation, unsigned events = 0, unsigned ack = 0,
            unsigned index = CN_IDX_PROC, size_t cut = 0) {
    struct {
        nlmsghdr header;
        char connector[sizeof(cn_msg)];
        Words words;
    } message = {};
    const size_t words = events != 0 ? sizeof(Words) : sizeof(unsigned);
    const size_t length = offsetof(decltype(message), words) + words - cut;
    cn_msg connector = {};
    connector.id = {index, CN_VAL_PROC};
    connector.seq = 5;
    connector.ack = ack;
    connector.len = static_cast<unsigned short>(words);
    message.header.nlmsg_len = static_cast<unsigned>(length);
    message.header.nlmsg_type = NLMSG_DONE;
    std::memcpy(message.connector, &connector, sizeof connector);
    message.words = {operation, events};
    return send(fd, &message, length, 0);
}

struct Event {
    unsigned ack = 0; // of the connector's message
    proc_event event = {};
    unsigned what() const { return static_cast<unsigned>(event.what); }
};

// The next message; false: there is none, of a socket that need not wait.
bool receive(int fd, Event& out, int flags = 0) {
    char bytes[512];
    sockaddr_nl from = {};
    socklen_t length = sizeof from;
    const ssize_t got = recvfrom(fd, bytes, sizeof bytes, flags, general(from), &length);
    if (got < 0 && errno == EAGAIN)
        return false;
    nlmsghdr header = {};
    cn_msg connector = {};
    CHECK(got == static_cast<ssize_t>(sizeof header + sizeof connector + sizeof out.event));
    std::memcpy(&header, bytes, sizeof header);
    std::memcpy(&connector, bytes + sizeof header, sizeof connector);
    std::memcpy(&out.event, bytes + sizeof header + sizeof connector, sizeof out.event);
    out.ack = connector.ack;
    CHECK(from.nl_pid == 0 && from.nl_groups == CN_IDX_PROC);
    CHECK(header.nlmsg_len == got && header.nlmsg_type == NLMSG_DONE && header.nlmsg_flags == 0);
    CHECK(header.nlmsg_pid == 0 && header.nlmsg_seq == connector.seq);
    CHECK(connector.id.idx == CN_IDX_PROC && connector.id.val == CN_VAL_PROC);
    CHECK(connector.len == sizeof out.event && out.event.timestamp_ns > 0);
    return true;
}

// Whom it is about.
pid_t subject_of(const Event& event) {
    return event.what() == Events::fork ? event.event.event_data.fork.child_pid
                                        : event.event.event_data.exec.process_pid;
}

// The next one about a thread, which is to be of this kind.
Event expect(int fd, pid_t subject, unsigned what) {
    Event event;
    do
        CHECK(receive(fd, event));
    while (event.what() == Events::none || subject_of(event) != subject);
    if (event.what() != what)
        std::fprintf(stderr, "event %x instead of %x\n", event.what(), what);
    CHECK(event.what() == what);
    return event;
}

unsigned acknowledged(int fd, unsigned ack) {
    Event event;
    do
        CHECK(receive(fd, event));
    while (event.what() != Events::none || event.ack != ack + 1);
    return event.event.event_data.ack.err;
}

int open_listener() {
    const int fd = open_connector();
    CHECK(say(fd, PROC_CN_MCAST_LISTEN, 0, 77) > 0);
    CHECK(acknowledged(fd, 77) == 0);
    return fd;
}

void requests() {
    const int fd = open_listener();
    CHECK(say(fd, 9, 0, 100) > 0 && acknowledged(fd, 100) == EINVAL);
    // Nobody says anything about what is none: the next acknowledgement is that of the last one.
    CHECK(say(fd, 9, 0, 200, CN_IDX_PROC + 1) > 0);
    CHECK(say(fd, 9, 0, 200, CN_IDX_PROC, 2) > 0);
    CHECK(send(fd, "x", 1, 0) == 1);
    CHECK(say(fd, PROC_CN_MCAST_LISTEN, 0, 200) > 0 && acknowledged(fd, 200) == 0);
    close(fd);
}

void identity() {
    const int fd = open_listener();
    const pid_t child = fork();
    if (child == 0) {
        CHECK(setsid() > 0 && prctl(PR_SET_NAME, "hello") == 0);
        const int comm = open("/proc/self/comm", O_WRONLY);
        CHECK(write(comm, "world", 5) == 5);
        CHECK(setresgid(100, 101, 102) == 0 && setresgid(100, 101, 102) == 0);
        setfsgid(100);
        CHECK(setresuid(1000, 1001, 1002) == 0);
        _exit(3);
    }
    CHECK(waitpid(child, nullptr, 0) == child);
    const auto forked = expect(fd, child, Events::fork).event.event_data.fork;
    CHECK(forked.parent_pid == getpid() && forked.parent_tgid == getpid());
    CHECK(forked.child_tgid == child);
    CHECK(expect(fd, child, Events::sid).event.event_data.sid.process_tgid == child);
    CHECK(std::string(expect(fd, child, Events::comm).event.event_data.comm.comm) == "hello");
    CHECK(std::string(expect(fd, child, Events::comm).event.event_data.comm.comm) == "world");
    const auto group = expect(fd, child, Events::gid).event.event_data.id;
    CHECK(group.process_tgid == child && group.r.rgid == 100 && group.e.egid == 101);
    expect(fd, child, Events::gid); // setfsgid
    const auto user = expect(fd, child, Events::uid).event.event_data.id;
    CHECK(user.r.ruid == 1000 && user.e.euid == 1001);
    const auto ended = expect(fd, child, Events::exit).event.event_data.exit;
    CHECK(ended.process_tgid == child && ended.exit_code == 3 << 8);
    CHECK(ended.exit_signal == SIGCHLD);
    close(fd);
}

void threads() {
    const int fd = open_listener();
    int pipes[2] = {};
    CHECK(pipe(pipes) == 0);
    const pid_t child = fork();
    if (child == 0) {
        static int out;
        out = pipes[1];
        pthread_t thread;
        CHECK(pthread_create(
                  &thread, nullptr,
                  [](void*) -> void* {
                      const auto own = static_cast<pid_t>(syscall(SYS_gettid));
                      CHECK(write(out, &own, sizeof own) == sizeof own);
                      return nullptr;
                  },
                  nullptr) == 0);
        CHECK(pthread_join(thread, nullptr) == 0);
        execl("/proc/self/exe", "process_events", "exec", nullptr);
        _exit(1);
    }
    pid_t thread = 0;
    CHECK(read(pipes[0], &thread, sizeof thread) == sizeof thread && thread != child);
    expect(fd, child, Events::fork);
    const auto made = expect(fd, thread, Events::fork).event.event_data.fork;
    CHECK(made.child_tgid == child && made.parent_tgid == getpid());
    const auto ended = expect(fd, thread, Events::exit).event.event_data.exit;
    CHECK(ended.process_tgid == child && ended.exit_signal == ~0u && ended.exit_code == 0);
    CHECK(expect(fd, child, Events::exec).event.event_data.exec.process_tgid == child);
    expect(fd, child, Events::exit);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    for (const int end : {pipes[0], pipes[1], fd})
        close(end);
}

void deaths() {
    const int fd = open_listener();
    const pid_t child = fork();
    if (child == 0) {
        const rlimit none = {0, 0};
        CHECK(setrlimit(RLIMIT_CORE, &none) == 0);
        raise(SIGSEGV);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WTERMSIG(status) == SIGSEGV);
    expect(fd, child, Events::fork);
    const auto core = expect(fd, child, Events::core).event.event_data.coredump;
    CHECK(core.process_tgid == child);
    CHECK((expect(fd, child, Events::exit).event.event_data.exit.exit_code & 0x7f) == SIGSEGV);
    const pid_t other = fork();
    while (other == 0)
        pause();
    CHECK(kill(other, SIGKILL) == 0 && waitpid(other, nullptr, 0) == other);
    expect(fd, other, Events::fork);
    CHECK(expect(fd, other, Events::exit).event.event_data.exit.exit_code == SIGKILL);
    close(fd);
}

void tracers() {
    const int fd = open_listener();
    const pid_t child = fork();
    while (child == 0)
        pause();
    CHECK(ptrace(PTRACE_ATTACH, child, 0, 0) == 0 && waitpid(child, nullptr, 0) == child);
    CHECK(ptrace(PTRACE_DETACH, child, 0, 0) == 0);
    expect(fd, child, Events::fork);
    const auto begun = expect(fd, child, Events::ptrace).event.event_data.ptrace;
    CHECK(begun.process_tgid == child && begun.tracer_pid == getpid());
    CHECK(begun.tracer_tgid == getpid());
    const auto ended = expect(fd, child, Events::ptrace).event.event_data.ptrace;
    CHECK(ended.process_tgid == child && ended.tracer_pid == 0 && ended.tracer_tgid == 0);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, nullptr, 0) == child);
    close(fd);
}

void choices() {
    const int all = open_listener();
    const int ends = open_connector();
    CHECK(say(ends, PROC_CN_MCAST_LISTEN, Events::exit) > 0);
    const int silent = open_listener();
    CHECK(say(silent, PROC_CN_MCAST_IGNORE) > 0);
    Event event;
    while (receive(silent, event, MSG_DONTWAIT))
        continue;
    const pid_t child = fork();
    if (child == 0)
        _exit(0);
    CHECK(waitpid(child, nullptr, 0) == child);
    expect(ends, child, Events::exit); // and nothing of the fork
    expect(all, child, Events::fork);
    expect(all, child, Events::exit);
    CHECK(!receive(silent, event, MSG_DONTWAIT));
    for (const int fd : {all, ends, silent})
        close(fd);
}

// No acknowledgement of what is said there.
void unheard() {
    const int fd = open_connector();
    CHECK(say(fd, PROC_CN_MCAST_LISTEN, 0, 300) > 0);
    Event event;
    while (receive(fd, event, MSG_DONTWAIT))
        CHECK(event.what() != Events::none || event.ack != 301);
    close(fd);
}

void rights() {
    const int heard = open_listener(); // somebody listens: acknowledgements would be sent
    in_child([] {
        CHECK(setresuid(1000, 1000, 1000) == 0);
        const int fd = open_listener(); // anybody may
        const int group = 2;
        CHECK_FAILS(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group),
                    EPERM);
    });
    in_child([] {
        const int fd = open_connector();
        CHECK(unshare(CLONE_NEWUSER) == 0);
        CHECK(say(fd, PROC_CN_MCAST_LISTEN, 0, 300) > 0);
        Event event;
        while (receive(fd, event, MSG_DONTWAIT))
            CHECK(event.what() != Events::none || event.ack != 301);
        unheard();
    });
    in_child([] {
        CHECK(unshare(CLONE_NEWPID) == 0);
        in_child(unheard);
    });
    in_child([] {
        CHECK(unshare(CLONE_NEWNET) == 0);
        const int fd = open_connector();
        CHECK_FAILS(say(fd, PROC_CN_MCAST_LISTEN), ECONNREFUSED);
    });
    close(heard);
}

} // namespace

int main(int argc, char**) {
    if (argc > 1)
        return 0; // executed by threads()
    if (getuid() != 0)
        return 0;
    requests();
    identity();
    threads();
    deaths();
    tracers();
    choices();
    rights();
    return 0;
}
