#include "agent/container/terminal.hpp"

#include <cerrno>
#include <fcntl.h>

#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include "agent/container/mount_calls.hpp"

namespace container {

namespace {

bool is_devpts(int fd) {
    struct statfs about {};
    return fstatfs(fd, &about) == 0 && about.f_type == DEVPTS_SUPER_MAGIC;
}

} // namespace

os::Result<Terminal> open_terminal(int root, std::uint16_t rows, std::uint16_t columns) {
    Terminal out;
    // What it is comes first: opening a device for reading may act on it.
    auto place = open_in_root(root, "/dev/pts/ptmx", O_PATH, RESOLVE_NO_SYMLINKS);
    if (!place || !is_devpts(place->get()))
        return os::fail(os::Code::FailedPrecondition,
                        "process.terminal: no devpts is mounted at /dev/pts");
    TRY(out.master,
        open_in_root(root, "/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK, RESOLVE_NO_SYMLINKS));
    if (!is_devpts(out.master.get()))
        return os::fail(os::Code::FailedPrecondition,
                        "process.terminal: /dev/pts/ptmx was exchanged");
    int locked = 0;
    if (ioctl(out.master.get(), TIOCSPTLCK, &locked) != 0)
        return os::fail_errno(errno, "process.terminal: unlock the terminal");
    // By the master, not by a name that leads somewhere else.
    out.slave = os::UniqueFd(ioctl(out.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!out.slave)
        return os::fail_errno(errno, "process.terminal: open the terminal");
    if (rows != 0 || columns != 0) {
        TRY(resize(out.master.get(), rows, columns));
    }
    return out;
}

os::Result<void> resize(int terminal, std::uint16_t rows, std::uint16_t columns) {
    const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    if (ioctl(terminal, TIOCSWINSZ, &size) != 0)
        return os::fail_errno(errno, "set the terminal's size");
    return {};
}

} // namespace container
