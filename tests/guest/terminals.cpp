// Pseudo terminals: pty(7), termios(3), ioctl_tty(2): canonical and raw input, signals, echo,
// sizes, packet mode, hang-up.
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sched.h>
#include <string>
#include <termios.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

struct Pair {
    Pair() {
        master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
        char text[64];
        CHECK(ptsname_r(master, text, sizeof text) == 0);
        name = text;
        slave = open(text, O_RDWR | O_NOCTTY);
        CHECK(slave >= 0);
    }
    ~Pair() {
        if (master >= 0)
            close(master);
        if (slave >= 0)
            close(slave);
    }
    termios get() const {
        termios out;
        CHECK(tcgetattr(slave, &out) == 0);
        return out;
    }
    void set(const termios& t, int when = TCSANOW) const { CHECK(tcsetattr(slave, when, &t) == 0); }
    void raw() const {
        termios t = get();
        cfmakeraw(&t);
        set(t);
    }
    int master, slave;
    std::string name;
};

void put(int fd, const std::string& text) {
    CHECK(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

std::string take(int fd) {
    char text[4096];
    const ssize_t got = read(fd, text, sizeof text);
    CHECK(got >= 0);
    return std::string(text, static_cast<size_t>(got));
}

int pending(int fd, unsigned long what = FIONREAD) {
    int bytes = -1;
    CHECK(ioctl(fd, what, &bytes) == 0);
    return bytes;
}

// Input travels to the other side by itself, not within the write.
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        for (int i = 0; i < 5000 && !(condition); i++)                                             \
            usleep(1000);                                                                          \
        CHECK(condition);                                                                          \
    } while (false)

// Exactly this much comes.
void expect(int fd, const std::string& text) {
    std::string got;
    while (got.size() < text.size())
        got += take(fd);
    CHECK(got == text);
}

bool readable(int fd) {
    pollfd p{fd, POLLIN, 0};
    CHECK(poll(&p, 1, 0) >= 0);
    return (p.revents & POLLIN) != 0;
}

void opening() {
    const int master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    CHECK(master >= 0);
    int number = -1, locked = -1;
    CHECK(ioctl(master, TIOCGPTN, &number) == 0 && number >= 0);
    const std::string name = "/dev/pts/" + std::to_string(number);
    CHECK(ioctl(master, TIOCGPTLCK, &locked) == 0 && locked == 1);
    CHECK_FAILS(open(name.c_str(), O_RDWR | O_NOCTTY), EIO); // locked
    const int unlock = 0;
    CHECK(ioctl(master, TIOCSPTLCK, &unlock) == 0);
    const int slave = open(name.c_str(), O_RDWR | O_NOCTTY);
    CHECK(slave >= 0 && isatty(slave) == 1 && isatty(master) == 1);
    const int peer = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    CHECK(peer >= 0);
    struct stat a, b;
    CHECK(fstat(slave, &a) == 0 && fstat(peer, &b) == 0 && a.st_rdev == b.st_rdev);
    CHECK(S_ISCHR(a.st_mode) && a.st_uid == getuid());
    close(peer);
    char text[64];
    CHECK(ttyname_r(slave, text, sizeof text) == 0 && name == text);
    CHECK_FAILS(lseek(slave, 0, SEEK_SET), ESPIPE);
    CHECK_FAILS(ioctl(slave, TIOCGPTN, &number), ENOTTY);
    CHECK_FAILS(tcgetattr(open("/dev/null", O_RDONLY), nullptr), ENOTTY);
    close(slave);
    close(master);
    CHECK(access(name.c_str(), F_OK) != 0); // gone with its master
}

void canonical() {
    Pair t;
    termios mode = t.get();
    CHECK((mode.c_lflag & (ICANON | ECHO | ISIG)) == (ICANON | ECHO | ISIG));
    CHECK((mode.c_iflag & ICRNL) != 0 && (mode.c_oflag & (OPOST | ONLCR)) == (OPOST | ONLCR));
    CHECK(mode.c_iflag == (ICRNL | IXON)); // not IUTF8: that is a terminal emulator's to say
    CHECK((mode.c_cflag & ~static_cast<tcflag_t>(CBAUD)) == (CS8 | CREAD));
    CHECK(mode.c_cc[VINTR] == 3 && mode.c_cc[VEOF] == 4 && mode.c_cc[VERASE] == 127);
    put(t.master, "hel");
    CHECK(!readable(t.slave) && pending(t.slave) == 0); // no line yet
    expect(t.master, "hel");                            // the echo
    put(t.master, "lo\r");
    AWAIT(readable(t.slave) && pending(t.slave) == 6);
    expect(t.master, "lo\r\n");
    CHECK(take(t.slave) == "hello\n");
    // Erase, kill, word erase, literal next.
    put(t.master, "abX\x7f"
                  "c\n");
    CHECK(take(t.slave) == "abc\n");
    expect(t.master, "abX\b \bc\r\n");
    put(t.master, "wrong\x15"
                  "right\n");
    CHECK(take(t.slave) == "right\n");
    take(t.master);
    put(t.master, "one two\x17"
                  "three\n");
    CHECK(take(t.slave) == "one three\n");
    take(t.master);
    put(t.master, "\x16\x03\n");
    CHECK(take(t.slave) == "\x03\n");
    CHECK(take(t.master).find("^C") != std::string::npos);
    // End of file: what is there, or nothing.
    put(t.master, "part\x04");
    CHECK(take(t.slave) == "part");
    put(t.master, "\x04");
    CHECK(take(t.slave).empty());
    take(t.master);
    // A line is one read, whatever the buffer holds; a short buffer gets the rest later.
    put(t.master, "line1\nline2\n");
    char text[4];
    CHECK(read(t.slave, text, 4) == 4 && std::string(text, 4) == "line");
    CHECK(take(t.slave) == "1\n" && take(t.slave) == "line2\n");
    take(t.master);
    // Output is processed.
    put(t.slave, "a\nb");
    expect(t.master, "a\r\nb");
    mode.c_oflag &= ~static_cast<tcflag_t>(OPOST);
    mode.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    t.set(mode);
    put(t.slave, "a\nb");
    expect(t.master, "a\nb");
    put(t.master, "quiet\n");
    CHECK(take(t.slave) == "quiet\n" && !readable(t.master));
    // Flushing what nobody read.
    put(t.master, "flushed\n");
    AWAIT(readable(t.slave));
    CHECK(tcflush(t.slave, TCIFLUSH) == 0 && !readable(t.slave));
    CHECK_FAILS(tcflush(t.slave, 99), EINVAL);
    mode.c_iflag |= INLCR | IGNCR;
    t.set(mode);
    put(t.master, "x\ry\x04");
    CHECK(take(t.slave) == "xy");
}

void raw() {
    Pair t;
    t.raw();
    CHECK(fcntl(t.slave, F_SETFL, O_NONBLOCK) == 0);
    char byte;
    CHECK_FAILS(read(t.slave, &byte, 1), EAGAIN);
    put(t.master, "\x03\r\n\x7f");
    AWAIT(pending(t.slave) == 4);
    CHECK(take(t.slave) == "\x03\r\n\x7f" && !readable(t.master));
    CHECK(fcntl(t.slave, F_SETFL, 0) == 0);
    // VMIN and VTIME.
    termios mode = t.get();
    mode.c_cc[VMIN] = 0;
    mode.c_cc[VTIME] = 0;
    t.set(mode);
    CHECK(take(t.slave).empty());
    mode.c_cc[VTIME] = 1;
    t.set(mode);
    CHECK(take(t.slave).empty()); // after a tenth of a second
    put(t.master, "a");
    AWAIT(pending(t.slave) == 1);
    CHECK(take(t.slave) == "a");
    mode.c_cc[VMIN] = 3;
    mode.c_cc[VTIME] = 0;
    t.set(mode);
    put(t.master, "xy");
    const pid_t child = fork();
    if (child == 0) {
        put(t.master, "z");
        _exit(0);
    }
    CHECK(take(t.slave) == "xyz");
    CHECK(waitpid(child, nullptr, 0) == child);
    mode.c_cc[VMIN] = 1;
    t.set(mode);
    // A flood goes through unharmed.
    const std::string flood(200'000, 'f');
    const pid_t writer = fork();
    if (writer == 0) {
        put(t.slave, flood);
        _exit(0);
    }
    size_t sum = 0;
    while (sum < flood.size())
        sum += take(t.master).size();
    CHECK(sum == flood.size() && waitpid(writer, nullptr, 0) == writer);
}

void sizes_and_speed() {
    Pair t;
    winsize size{};
    CHECK(ioctl(t.slave, TIOCGWINSZ, &size) == 0 && size.ws_row == 0 && size.ws_col == 0);
    size = {24, 80, 1, 2};
    CHECK(ioctl(t.master, TIOCSWINSZ, &size) == 0);
    winsize got{};
    CHECK(ioctl(t.slave, TIOCGWINSZ, &got) == 0);
    CHECK(got.ws_row == 24 && got.ws_col == 80 && got.ws_xpixel == 1 && got.ws_ypixel == 2);
    termios mode = t.get();
    CHECK(cfsetspeed(&mode, B115200) == 0);
    t.set(mode);
    mode = t.get();
    CHECK(cfgetospeed(&mode) == B115200);
    CHECK(tcdrain(t.slave) == 0 && tcsendbreak(t.slave, 0) == 0);
    CHECK_FAILS(ioctl(t.slave, TIOCGWINSZ, 8), EFAULT);
    CHECK_FAILS(ioctl(t.slave, 0x54ff, 0), ENOTTY);
}

struct NumberedModes { // struct termios2, whose header does not stand beside the C library's
    tcflag_t input, output, control, local;
    cc_t line, characters[19];
    speed_t input_speed, output_speed;
};

// Speeds as numbers: TCSETS2 with BOTHER, and what the codes mean.
void speeds() {
    constexpr unsigned long get = _IOR('T', 0x2A, NumberedModes),
                            set = _IOW('T', 0x2B, NumberedModes);
    constexpr tcflag_t other = 0010000, codes = 0010017; // BOTHER, CBAUD
    Pair t;
    NumberedModes modes{};
    CHECK(ioctl(t.slave, get, &modes) == 0);
    CHECK(modes.input_speed == 38400 && modes.output_speed == 38400);
    modes.control = (modes.control & ~codes) | other;
    modes.input_speed = 99; // not asked for: as fast as the output
    modes.output_speed = 12345;
    CHECK(ioctl(t.slave, set, &modes) == 0 && ioctl(t.master, get, &modes) == 0);
    CHECK(modes.input_speed == 12345 && modes.output_speed == 12345);
    CHECK((modes.control & codes) == other);
    // Whole bytes pass, whatever is asked for.
    modes.control = (modes.control & ~static_cast<tcflag_t>(CSIZE | CREAD)) | CS7 | PARENB;
    CHECK(ioctl(t.slave, set, &modes) == 0);
    termios mode = t.get();
    CHECK((mode.c_cflag & (CSIZE | PARENB | CREAD)) == (CS8 | CREAD));
    t.set(mode); // has no numbers: they stay
    CHECK(ioctl(t.slave, get, &modes) == 0 && modes.output_speed == 12345);
    for (const auto& [code, speed] :
         {std::pair{B1200, 1200u}, {B57600, 57600u}, {B4000000, 4000000u}}) {
        mode.c_cflag = (mode.c_cflag & ~codes) | static_cast<tcflag_t>(code);
        t.set(mode);
        CHECK(ioctl(t.slave, get, &modes) == 0 && modes.output_speed == speed);
        CHECK(modes.input_speed == speed);
    }
}

// Root types for others: ioctl_tty(2), TIOCSTI.
void simulated_input() {
    Pair t;
    const char text[] = "hi\n";
    for (const char* at = text; *at != 0; at++)
        CHECK(ioctl(t.slave, TIOCSTI, at) == 0);
    AWAIT(readable(t.slave));
    CHECK(take(t.slave) == "hi\n");
    expect(t.master, "hi\r\n"); // with its echo
    CHECK_FAILS(ioctl(t.slave, TIOCSTI, nullptr), EFAULT);
    const pid_t child = fork();
    if (child == 0) {
        CHECK(setuid(65534) == 0);
        // Not its terminal; a Linux that lets nobody do it says EIO.
        CHECK(ioctl(t.slave, TIOCSTI, text) == -1 && (errno == EPERM || errno == EIO));
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

void packets() {
    Pair t;
    const int on = 1;
    CHECK(ioctl(t.master, TIOCPKT, &on) == 0);
    int state = 0;
    CHECK(ioctl(t.master, TIOCGPKT, &state) == 0 && state == 1);
    put(t.slave, "data");
    CHECK(take(t.master) == std::string("\0data", 5));
    CHECK(tcflush(t.slave, TCIFLUSH) == 0);
    const std::string control = take(t.master);
    CHECK(control.size() == 1 && (control[0] & TIOCPKT_FLUSHREAD) != 0);
}

// With a session of its own on the slave.
template <typename F>
int in_session(Pair& t, bool keeps_master, F work) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(setsid() > 0);
        CHECK(ioctl(t.slave, TIOCSCTTY, 0) == 0);
        work();
        _exit(0);
    }
    if (!keeps_master) {
        close(t.master);
        t.master = -1;
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

volatile int caught = 0;

void sessions() {
    {
        Pair t;
        CHECK(in_session(t, true, [&] {
                  CHECK(tcgetsid(t.slave) == getpid() && tcgetpgrp(t.slave) == getpid());
                  const int tty = open("/dev/tty", O_RDWR);
                  CHECK(tty >= 0);
                  close(t.slave);
                  put(tty, "to the terminal");
                  expect(t.master, "to the terminal");
                  // ^C, ^\ and a new size are signals to the foreground.
                  for (const int number : {SIGINT, SIGQUIT, SIGWINCH, SIGTSTP})
                      signal(number, [](int n) { caught = n; });
                  put(t.master, "\x03");
                  AWAIT(caught == SIGINT);
                  expect(t.master, "^C");
                  put(t.master, "\x1c");
                  AWAIT(caught == SIGQUIT);
                  take(t.master);
                  const winsize size{50, 100, 0, 0};
                  CHECK(ioctl(t.master, TIOCSWINSZ, &size) == 0);
                  AWAIT(caught == SIGWINCH);
                  put(t.master, "\x1a");
                  AWAIT(caught == SIGTSTP);
                  take(t.master);
                  const int signal_number = SIGINT;
                  CHECK(ioctl(t.master, TIOCSIG, signal_number) == 0);
                  AWAIT(caught == SIGINT);
                  for (const int number : {0, SIGHUP, SIGKILL, SIGTERM, SIGCONT, SIGSTOP, 64})
                      CHECK_FAILS(ioctl(t.master, TIOCSIG, number), EINVAL);
                  CHECK_FAILS(tcsetpgrp(tty, 0x3fff'fff0), ESRCH);
                  // A background group may not read.
                  const pid_t group = fork();
                  if (group == 0) {
                      CHECK(setpgid(0, 0) == 0);
                      signal(SIGTTIN, SIG_IGN);
                      char byte;
                      CHECK_FAILS(read(tty, &byte, 1), EIO);
                      signal(SIGTTOU, SIG_IGN);
                      CHECK(tcsetpgrp(tty, getpgrp()) == 0 && tcgetpgrp(tty) == getpgrp());
                      put(t.master, "mine now\n");
                      CHECK(take(tty) == "mine now\n");
                      _exit(0);
                  }
                  int status = -1;
                  CHECK(waitpid(group, &status, 0) == group && status == 0);
              }) == 0);
    }
    // The master closes: SIGHUP for the leader, end of file and errors on the slave.
    Pair t;
    const int status = in_session(t, false, [&] {
        signal(SIGHUP, [](int n) { caught = n; });
        close(t.master);
        AWAIT(caught == SIGHUP);
    });
    CHECK(status == 0);
    char byte;
    CHECK(read(t.slave, &byte, 1) == 0);
    CHECK_FAILS(write(t.slave, "x", 1), EIO);
    pollfd p{t.slave, POLLIN | POLLOUT, 0};
    CHECK(poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0);
}

// The master, too, tells of groups and sessions by the numbers that the caller knows.
void numbers_in_namespaces() {
    if (geteuid() != 0)
        return;
    Pair t;
    const pid_t outer = fork();
    CHECK(outer >= 0);
    if (outer == 0) {
        CHECK(unshare(CLONE_NEWPID) == 0);
        CHECK(in_session(t, true, [&] {
                  CHECK(getpid() == 1);
                  pid_t session = 0;
                  CHECK(tcgetpgrp(t.master) == 1 && tcgetpgrp(t.slave) == 1);
                  CHECK(ioctl(t.master, TIOCGSID, &session) == 0 && session == 1);
              }) == 0);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(outer, &status, 0) == outer && status == 0);
}

void hang_up() {
    Pair t;
    put(t.slave, "last words");
    close(t.slave);
    t.slave = -1;
    expect(t.master, "last words");
    char byte;
    CHECK_FAILS(read(t.master, &byte, 1), EIO); // nobody has the slave open
    pollfd p{t.master, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0);
    t.slave = open(t.name.c_str(), O_RDWR | O_NOCTTY); // it can be opened again
    CHECK(t.slave >= 0);
    put(t.slave, "again");
    expect(t.master, "again");
}

// struct termio: the low halves of the modes and the first characters.
void old_form_of_modes() {
    Pair t;
    const termios now = t.get();
    termio old{};
    CHECK(ioctl(t.slave, TCGETA, &old) == 0);
    CHECK(old.c_iflag == (now.c_iflag & 0xffff) && old.c_lflag == (now.c_lflag & 0xffff));
    CHECK(old.c_cc[VINTR] == 3 && old.c_cc[VEOF] == 4);
    old.c_lflag = static_cast<unsigned short>(old.c_lflag & ~ECHO);
    old.c_cc[VINTR] = 5;
    for (const unsigned long command : {TCSETA, TCSETAW, TCSETAF}) {
        CHECK(ioctl(t.master, command, &old) == 0); // the pair's modes are one
        const termios changed = t.get();
        CHECK((changed.c_lflag & ECHO) == 0 && changed.c_cc[VINTR] == 5);
        CHECK(changed.c_cflag == now.c_cflag && changed.c_cc[VSUSP] == now.c_cc[VSUSP]);
        t.set(now);
    }
    put(t.master, "typed\n");
    AWAIT(readable(t.slave));
    CHECK(ioctl(t.slave, TCSETAF, &old) == 0); // flushes
    CHECK(!readable(t.slave));
    CHECK_FAILS(ioctl(t.slave, TCSETA, nullptr), EFAULT);
    int local = -1;
    CHECK(ioctl(t.slave, TIOCGSOFTCAR, &local) == 0 && local == 0);
    local = 1;
    CHECK(ioctl(t.slave, TIOCSSOFTCAR, &local) == 0 && (t.get().c_cflag & CLOCAL) != 0);
}

// TIOCSLCKTRMIOS: what it names keeps its value.
void fixed_modes() {
    Pair t;
    termios fixed{};
    fixed.c_lflag = ECHO;
    fixed.c_cc[VMIN] = 1;
    CHECK(ioctl(t.slave, TIOCSLCKTRMIOS, &fixed) == 0);
    termios seen{};
    CHECK(ioctl(t.master, TIOCGLCKTRMIOS, &seen) == 0 && seen.c_lflag == ECHO);
    termios mode = t.get();
    mode.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
    mode.c_cc[VMIN] = 7;
    mode.c_cc[VTIME] = 9;
    CHECK(ioctl(t.slave, TCSETS, &mode) == 0);
    mode = t.get();
    CHECK((mode.c_lflag & (ECHO | ICANON)) == ECHO);
    CHECK(mode.c_cc[VMIN] == 1 && mode.c_cc[VTIME] == 9);
}

// TIOCEXCL: only who has CAP_SYS_ADMIN opens it again.
void exclusive() {
    Pair t;
    int is = -1;
    CHECK(ioctl(t.slave, TIOCGEXCL, &is) == 0 && is == 0);
    CHECK(ioctl(t.slave, TIOCEXCL) == 0);
    CHECK(ioctl(t.slave, TIOCGEXCL, &is) == 0 && is == 1);
    close(open(t.name.c_str(), O_RDWR | O_NOCTTY));
    CHECK(chmod(t.name.c_str(), 0666) == 0);
    const pid_t pid = fork();
    if (pid == 0) {
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(open(t.name.c_str(), O_RDWR | O_NOCTTY), EBUSY);
        const termios none{};
        CHECK_FAILS(ioctl(t.slave, TIOCSLCKTRMIOS, &none), EPERM);
        CHECK(ioctl(t.slave, TIOCNXCL) == 0);
        CHECK(open(t.name.c_str(), O_RDWR | O_NOCTTY) >= 0);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

void line_disciplines_and_numbers() {
    Pair t;
    int discipline = 0, none = 99;
    CHECK(ioctl(t.slave, TIOCSETD, &discipline) == 0);
    CHECK_FAILS(ioctl(t.slave, TIOCSETD, &none), EINVAL);
    struct stat about;
    unsigned number = 0;
    CHECK(fstat(t.slave, &about) == 0);
    CHECK(ioctl(t.master, TIOCGDEV, &number) == 0 && number == about.st_rdev);
    CHECK(ioctl(t.slave, TIOCSBRK) == 0 && ioctl(t.slave, TIOCCBRK) == 0);
    CHECK_FAILS(ioctl(t.master, TIOCGSID, &number), ENOTTY); // nobody's terminal
    // What the master has left answers nothing.
    close(t.master);
    t.master = -1;
    termios mode;
    CHECK_FAILS(ioctl(t.slave, TCGETS, &mode), EIO);
    CHECK_FAILS(ioctl(t.slave, TIOCSPGRP, &number), ENOTTY);
}

void interrupted(int) {}

void on_alarm(int flags) {
    struct sigaction action {};
    action.sa_handler = interrupted;
    action.sa_flags = flags;
    CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
}

// A master whose raw slave nobody reads, or has open: it waits, and can be interrupted.
void full_input() {
    Pair t;
    t.raw();
    on_alarm(0);
    const std::string much(200'000, 'x');
    for (int round = 0; round < 2; round++) {
        alarm(1);
        const ssize_t sent = write(t.master, much.data(), much.size());
        CHECK((sent > 0 && sent < static_cast<ssize_t>(much.size())) ||
              (sent == -1 && errno == EINTR));
        if (t.slave >= 0)
            close(t.slave);
        t.slave = -1;
    }
}

// A writer that shall not wait does not, whatever the size of its pieces.
void full_output() {
    Pair t;
    t.raw();
    CHECK(fcntl(t.slave, F_SETFL, O_NONBLOCK) == 0);
    alarm(10);
    size_t sent = 0;
    ssize_t piece = 0;
    char bytes[1000] = {};
    while ((piece = write(t.slave, bytes, sizeof bytes)) > 0)
        sent += static_cast<size_t>(piece);
    CHECK(piece == -1 && errno == EAGAIN);
    alarm(0);
    while (sent > 0)
        sent -= take(t.master).size();
}

// Behind a writer that waits for a reader, others need not wait, and may end.
void waiting_writers() {
    Pair t;
    t.raw();
    pid_t writers[2];
    for (pid_t& writer : writers) {
        writer = fork();
        CHECK(writer >= 0);
        if (writer == 0) {
            const std::string much(200'000, 'x');
            (void)!write(t.slave, much.data(), much.size());
            _exit(1);
        }
        usleep(50'000);
    }
    const int hasty = open(t.name.c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK);
    CHECK(hasty >= 0);
    alarm(10);
    CHECK_FAILS(write(hasty, "x", 1), EAGAIN);
    for (int i = 1; i >= 0; i--) {
        CHECK(kill(writers[i], SIGKILL) == 0);
        int status = -1;
        CHECK(waitpid(writers[i], &status, 0) == writers[i]);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    alarm(0);
    close(hasty);
}

// Signals that interrupt a writer make it write nothing twice.
void interrupted_output() {
    Pair t;
    t.raw();
    constexpr size_t all = 60'000;
    const auto byte_at = [](size_t at) { return static_cast<char>(at % 251); };
    on_alarm(SA_RESTART);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        std::string bytes;
        for (size_t i = 0; i < all; i++)
            bytes.push_back(byte_at(i));
        size_t sent = 0;
        size_t wanted = 100; // so that what follows does not end where a buffer does
        while (sent < all) {
            const ssize_t piece = write(t.slave, bytes.data() + sent, wanted);
            CHECK(piece > 0 || errno == EINTR);
            sent += piece > 0 ? static_cast<size_t>(piece) : 0;
            wanted = all - sent;
        }
        _exit(0); // what it wrote is still to be read
    }
    size_t got = 0;
    while (got < all) {
        usleep(10'000);
        kill(child, SIGALRM);
        usleep(2'000);
        for (const char byte : take(t.master))
            CHECK(byte == byte_at(got++));
    }
    CHECK(got == all);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

} // namespace

int main() {
    opening();
    canonical();
    raw();
    sizes_and_speed();
    speeds();
    simulated_input();
    packets();
    sessions();
    numbers_in_namespaces();
    hang_up();
    old_form_of_modes();
    fixed_modes();
    exclusive();
    line_disciplines_and_numbers();
    full_input();
    full_output();
    waiting_writers();
    interrupted_output();
}
