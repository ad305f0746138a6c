// File leases (F_SETLEASE), directory notification (F_NOTIFY), /proc/locks and the locks in fdinfo.
#include <csignal>
#include <ctime>
#include <thread>

#include <sys/file.h>

#include "tests/guest/file_support.hpp"

namespace {

volatile sig_atomic_t got_code = 0, got_fd = -1, got_band = 0;

// Blocked, so that each is taken where it is expected.
void take_signal(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    const timespec long_enough{20, 0};
    siginfo_t info{};
    CHECK(sigtimedwait(&set, &info, &long_enough) == number);
    got_code = info.si_code;
    got_fd = info.si_fd;
    got_band = static_cast<int>(info.si_band);
}

bool signal_comes(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    const timespec none{0, 0};
    return sigtimedwait(&set, nullptr, &none) == number;
}

int open_or_end(const std::string& name, int flags) {
    const int fd = open(name.c_str(), flags, 0644);
    CHECK(fd >= 0);
    return fd;
}

void lease_rules(const ScratchDirectory& dir) {
    const std::string name = dir.path("leased");
    make_file(name, "text");
    const int reader = open_or_end(name, O_RDONLY);
    CHECK(fcntl(reader, F_GETLEASE) == F_UNLCK);
    CHECK_FAILS(fcntl(reader, F_SETLEASE, F_UNLCK), EAGAIN);
    CHECK_FAILS(fcntl(reader, F_SETLEASE, 77), EINVAL);
    CHECK_FAILS(fcntl(dir.fd(), F_SETLEASE, F_RDLCK), EINVAL);
    CHECK(fcntl(reader, F_SETLEASE, F_RDLCK) == 0 && fcntl(reader, F_GETLEASE) == F_RDLCK);
    CHECK(fcntl(reader, F_GETOWN) == getpid());
    // Others may read as well, and hold such a lease; none may hold an exclusive one.
    const int other = open_or_end(name, O_RDONLY);
    CHECK(fcntl(other, F_GETLEASE) == F_UNLCK);
    CHECK(fcntl(other, F_SETLEASE, F_RDLCK) == 0);
    CHECK_FAILS(fcntl(other, F_SETLEASE, F_WRLCK), EAGAIN);
    close(other);
    // Alone, it may become one.
    CHECK(fcntl(reader, F_SETLEASE, F_WRLCK) == 0 && fcntl(reader, F_GETLEASE) == F_WRLCK);
    CHECK(fcntl(reader, F_SETLEASE, F_UNLCK) == 0 && fcntl(reader, F_GETLEASE) == F_UNLCK);
    // While somebody writes, nobody gets one for reading.
    const int writer = open_or_end(name, O_WRONLY);
    CHECK_FAILS(fcntl(reader, F_SETLEASE, F_RDLCK), EAGAIN);
    CHECK_FAILS(fcntl(writer, F_SETLEASE, F_WRLCK), EAGAIN); // read elsewhere
    close(reader);
    CHECK(fcntl(writer, F_SETLEASE, F_WRLCK) == 0);
    CHECK_FAILS(fcntl(writer, F_SETLEASE, F_RDLCK), EAGAIN); // it writes itself
    close(writer);                                           // which ends it
    const int again = open_or_end(name, O_RDWR | O_NONBLOCK);
    close(again);
    in_child([&] {
        const int own = open_or_end(name, O_RDONLY);
        CHECK(setuid(12345) == 0);
        CHECK_FAILS(fcntl(own, F_SETLEASE, F_RDLCK), EACCES);
    });
}

void broken_leases(const ScratchDirectory& dir) {
    const std::string name = dir.path("broken");
    make_file(name, "text");
    const int holder = open_or_end(name, O_RDONLY);
    CHECK(fcntl(holder, F_SETSIG, SIGRTMIN) == 0 && fcntl(holder, F_SETLEASE, F_RDLCK) == 0);
    // A reader does not mind; a writer is told to come again, and the holder that one came.
    close(open_or_end(name, O_RDONLY));
    CHECK(!signal_comes(SIGRTMIN));
    CHECK_FAILS(open(name.c_str(), O_WRONLY | O_NONBLOCK), EWOULDBLOCK);
    take_signal(SIGRTMIN);
    CHECK(got_fd == holder && got_code == POLL_MSG);
    CHECK(fcntl(holder, F_GETLEASE) == F_UNLCK); // what it is to become
    CHECK_FAILS(open(name.c_str(), O_WRONLY | O_NONBLOCK), EWOULDBLOCK);
    CHECK(!signal_comes(SIGRTMIN)); // told once
    CHECK(fcntl(holder, F_SETLEASE, F_UNLCK) == 0);
    CHECK(fcntl(holder, F_GETSIG) == 0 && fcntl(holder, F_GETOWN) == 0); // with it went the owner
    close(open_or_end(name, O_WRONLY | O_NONBLOCK));

    // One who waits goes on when the lease is given up; an exclusive one becomes a shared one for a
    // reader.
    CHECK(fcntl(holder, F_SETSIG, SIGRTMIN) == 0 && fcntl(holder, F_SETLEASE, F_WRLCK) == 0);
    std::thread reader([&] { close(open_or_end(name, O_RDONLY)); });
    take_signal(SIGRTMIN);
    CHECK(fcntl(holder, F_GETLEASE) == F_RDLCK);
    CHECK(fcntl(holder, F_SETLEASE, F_RDLCK) == 0);
    reader.join();
    CHECK(fcntl(holder, F_GETLEASE) == F_RDLCK);
    std::thread cutter([&] { CHECK(truncate(name.c_str(), 1) == 0); });
    take_signal(SIGRTMIN);
    CHECK(stat_of(name).st_size == 4);
    CHECK(fcntl(holder, F_SETLEASE, F_UNLCK) == 0);
    cutter.join();
    CHECK(stat_of(name).st_size == 1);

    // A holder that does nothing loses it when its time is over.
    const std::string time = contents_of("/proc/sys/fs/lease-break-time");
    CHECK(std::stoi(time) >= 0);
    make_file("/proc/sys/fs/lease-break-time", "1\n");
    CHECK(fcntl(holder, F_SETSIG, SIGRTMIN) == 0 && fcntl(holder, F_SETLEASE, F_RDLCK) == 0);
    close(open_or_end(name, O_WRONLY));
    take_signal(SIGRTMIN);
    CHECK(fcntl(holder, F_GETLEASE) == F_UNLCK);
    CHECK_FAILS(fcntl(holder, F_SETLEASE, F_UNLCK), EAGAIN);
    make_file("/proc/sys/fs/lease-break-time", time);
    close(holder);
}

void directory_notices(const ScratchDirectory& dir) {
    make_file(dir.path("file"), "text");
    CHECK(mkdir(dir.path("sub").c_str(), 0755) == 0);
    const int own = open_or_end(dir.name(), O_RDONLY | O_DIRECTORY);
    const int file = open_or_end(dir.path("file"), O_RDWR);
    CHECK_FAILS(fcntl(file, F_NOTIFY, DN_MODIFY), ENOTDIR);
    CHECK(fcntl(own, F_NOTIFY, 0) == 0);
    CHECK(fcntl(own, F_SETSIG, SIGRTMIN) == 0);
    CHECK(fcntl(own, F_NOTIFY, DN_CREATE) == 0);
    CHECK(fcntl(own, F_GETOWN) == getpid());
    CHECK(write(file, "x", 1) == 1); // not asked for
    CHECK(!signal_comes(SIGRTMIN));
    make_file(dir.path("new"));
    take_signal(SIGRTMIN);
    CHECK(got_fd == own && got_code == POLL_MSG);
    make_file(dir.path("newer")); // once was asked for
    CHECK(!signal_comes(SIGRTMIN));
    struct Case {
        unsigned long mask;
        std::function<void()> act;
    };
    char byte = 0;
    const Case cases[] = {
        {DN_ACCESS, [&] { CHECK(pread(file, &byte, 1, 0) == 1); }},
        {DN_MODIFY, [&] { CHECK(write(file, "x", 1) == 1); }},
        {DN_MODIFY, [&] { CHECK(ftruncate(file, 1) == 0); }},
        {DN_CREATE, [&] { CHECK(mkdir(dir.path("sub2").c_str(), 0755) == 0); }},
        {DN_DELETE, [&] { CHECK(rmdir(dir.path("sub2").c_str()) == 0); }},
        {DN_DELETE,
         [&] { CHECK(rename(dir.path("new").c_str(), dir.path("sub/new").c_str()) == 0); }},
        {DN_CREATE,
         [&] { CHECK(rename(dir.path("sub/new").c_str(), dir.path("new").c_str()) == 0); }},
        {DN_RENAME, [&] { CHECK(rename(dir.path("new").c_str(), dir.path("old").c_str()) == 0); }},
        {DN_ATTRIB, [&] { CHECK(chmod(dir.path("old").c_str(), 0600) == 0); }},
    };
    for (const Case& one : cases) {
        CHECK(fcntl(own, F_NOTIFY, one.mask | DN_MULTISHOT) == 0);
        one.act();
        take_signal(SIGRTMIN);
        while (signal_comes(SIGRTMIN)) {
        }
        CHECK(fcntl(own, F_NOTIFY, 0) == 0);
        make_file(dir.path("quiet"));
        unlink(dir.path("quiet").c_str());
        CHECK(!signal_comes(SIGRTMIN));
    }
    // Closing any descriptor of it by this process ends it.
    CHECK(fcntl(own, F_NOTIFY, DN_CREATE | DN_MULTISHOT) == 0);
    close(dup(own));
    make_file(dir.path("silent"));
    CHECK(!signal_comes(SIGRTMIN));
    close(own);
    close(file);
}

// The lines of /proc/locks that are about the file.
std::string locks_of(const std::string& name) {
    const std::string all = contents_of("/proc/locks");
    const std::string number = ":" + std::to_string(stat_of(name).st_ino) + " ";
    std::string out;
    for (size_t at = 0; at < all.size();) {
        const size_t end = all.find('\n', at);
        const std::string line = all.substr(at, end - at);
        if (line.find(number) != std::string::npos)
            out += line.substr(line.find(' ') + 1) + "\n";
        at = end + 1;
    }
    return out;
}

void lock_files(const ScratchDirectory& dir) {
    const std::string name = dir.path("locked");
    make_file(name, "text");
    const int fd = open_or_end(name, O_RDWR);
    const std::string pid = std::to_string(getpid());
    struct flock range {};
    range.l_type = F_WRLCK;
    range.l_start = 5;
    range.l_len = 10;
    CHECK(fcntl(fd, F_SETLK, &range) == 0);
    std::string lines = locks_of(name);
    CHECK(lines.rfind("POSIX  ADVISORY  WRITE " + pid + " ", 0) == 0);
    CHECK(lines.find(" 5 14\n") != std::string::npos);
    const std::string info = contents_of("/proc/self/fdinfo/" + std::to_string(fd));
    CHECK(info.find("lock:\t1: POSIX  ADVISORY  WRITE " + pid) != std::string::npos);
    range.l_type = F_UNLCK;
    CHECK(fcntl(fd, F_SETLK, &range) == 0);
    range.l_type = F_RDLCK;
    range.l_len = 0;
    CHECK(fcntl(fd, F_OFD_SETLK, &range) == 0);
    lines = locks_of(name);
    CHECK(lines.rfind("OFDLCK ADVISORY  READ -1 ", 0) == 0);
    CHECK(lines.find(" 5 EOF\n") != std::string::npos);
    range.l_type = F_UNLCK;
    CHECK(fcntl(fd, F_OFD_SETLK, &range) == 0);
    CHECK(flock(fd, LOCK_EX) == 0);
    lines = locks_of(name);
    CHECK(lines.rfind("FLOCK  ADVISORY  WRITE " + pid + " ", 0) == 0);
    CHECK(lines.find(" 0 EOF\n") != std::string::npos);
    CHECK(flock(fd, LOCK_UN) == 0);
    CHECK(fcntl(fd, F_SETLEASE, F_WRLCK) == 0);
    lines = locks_of(name);
    CHECK(lines.rfind("LEASE  ACTIVE    WRITE " + pid + " ", 0) == 0);
    CHECK_FAILS(open(name.c_str(), O_WRONLY | O_NONBLOCK), EWOULDBLOCK);
    lines = locks_of(name);
    CHECK(lines.find("LEASE  BREAKING  ") != std::string::npos);
    close(fd);
    CHECK(locks_of(name).empty());
}

} // namespace

int main() {
    umask(022);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGIO);
    CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
    on_each_file_system([](const ScratchDirectory& dir) {
        lease_rules(dir);
        broken_leases(dir);
        directory_notices(dir);
        lock_files(dir);
    });
}
