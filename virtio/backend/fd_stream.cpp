#include "virtio/backend/fd_stream.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

namespace virtio {

namespace {

// A terminal that polls writable takes at least this much (n_tty, WAKEUP_CHARS); a pipe takes
// PIPE_BUF (pipe(7)).
constexpr std::size_t terminal_room = 256;

bool is_terminal_line(int fd) {
    // Not the master side: opening that anew through /proc makes another terminal (pts(4)).
    unsigned number = 0;
    return ::isatty(fd) == 1 && ::ioctl(fd, TIOCGPTN, &number) != 0;
}

UniqueFd open_anew(int fd, FdStream::Direction direction) {
    std::array<char, 32> path{};
    std::snprintf(path.data(), path.size(), "/proc/self/fd/%d", fd);
    const int access = direction == FdStream::Direction::Input ? O_RDONLY : O_WRONLY;
    return UniqueFd(::open(path.data(), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

int piece_count(std::span<const struct iovec> pieces) {
    return static_cast<int>(std::min<std::size_t>(pieces.size(), IOV_MAX));
}

struct msghdr message(std::span<const struct iovec> pieces) {
    struct msghdr header {};
    header.msg_iov = const_cast<struct iovec*>(pieces.data()); // the kernel does not write to it
    header.msg_iovlen = static_cast<std::size_t>(piece_count(pieces));
    return header;
}

template <typename Call>
ssize_t restarting(Call call) {
    for (;;) {
        const ssize_t result = call();
        if (result >= 0 || errno != EINTR)
            return result;
    }
}

} // namespace

base::Result<std::unique_ptr<FdStream>, HostError> FdStream::open(EventLoop& loop, int fd,
                                                                  Direction direction) {
    TRY(Prepared prepared, prepare(fd, direction));
    return std::make_unique<FdStream>(loop, std::move(prepared));
}

base::Result<FdStream::Prepared, HostError> FdStream::prepare(int fd, Direction direction) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0)
        return base::Failure(HostError{errno, "use a standard stream"});
    const int wrong = direction == Direction::Input ? O_WRONLY : O_RDONLY;
    if ((flags & O_ACCMODE) == wrong)
        return base::Failure(HostError{EBADF, direction == Direction::Input
                                                  ? "read from a standard stream"
                                                  : "write to a standard stream"});
    struct stat status {};
    if (::fstat(fd, &status) != 0)
        return base::Failure(HostError{errno, "examine a standard stream"});

    const bool terminal = S_ISCHR(status.st_mode) && is_terminal_line(fd);
    if (S_ISFIFO(status.st_mode) || terminal) {
        // Fails for streams of another user (sudo), without /proc, and for a pipe nobody reads.
        UniqueFd own = open_anew(fd, direction);
        if (own)
            return Prepared{std::move(own), Kind::NonBlocking, direction, 0};
    }
    UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!copy)
        return base::Failure(HostError{errno, "duplicate a standard stream"});
    Kind kind = Kind::PollFirst;
    if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode) || S_ISDIR(status.st_mode))
        kind = Kind::NeverBlocks;
    else if (S_ISSOCK(status.st_mode))
        kind = Kind::Socket;
    return Prepared{std::move(copy), kind, direction,
                    S_ISFIFO(status.st_mode) ? PIPE_BUF : terminal_room};
}

FdStream::~FdStream() {
    if (watching_)
        loop_.remove(stream_.fd.get());
}

bool FdStream::ready_now() const {
    const short events = stream_.direction == Direction::Input ? POLLIN : POLLOUT;
    struct pollfd watched {
        stream_.fd.get(), events, 0
    };
    // POLLERR and POLLHUP come unasked: then the transfer fails or ends, but does not block.
    return ::poll(&watched, 1, 0) > 0;
}

Transfer FdStream::read(std::span<const struct iovec> into) {
    if (stream_.kind == Kind::PollFirst && !ready_now())
        return {};
    const int fd = stream_.fd.get();
    const ssize_t got = restarting([&] {
        if (stream_.kind != Kind::Socket)
            return ::readv(fd, into.data(), piece_count(into));
        struct msghdr header = message(into);
        return ::recvmsg(fd, &header, MSG_DONTWAIT);
    });
    return got == 0 ? ended(0) : finish(got);
}

Transfer FdStream::write(std::span<const struct iovec> from) {
    const int fd = stream_.fd.get();
    if (stream_.kind == Kind::PollFirst) {
        if (!ready_now())
            return {};
        const struct iovec& first = from.front();
        const std::size_t length = std::min(first.iov_len, stream_.write_limit);
        return finish(restarting([&] { return ::write(fd, first.iov_base, length); }));
    }
    return finish(restarting([&] {
        if (stream_.kind != Kind::Socket)
            return ::writev(fd, from.data(), piece_count(from));
        struct msghdr header = message(from);
        return ::sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    }));
}

Transfer FdStream::finish(ssize_t moved) {
    if (moved > 0)
        return {Transfer::Outcome::Done, static_cast<std::size_t>(moved)};
    if (moved == 0 || errno == EAGAIN)
        return {};
    return ended(errno);
}

Transfer FdStream::ended(int reason) {
    end_reason_ = reason;
    return {Transfer::Outcome::Ended, 0};
}

void FdStream::watch() {
    if (watching_)
        return;
    const bool input = stream_.direction == Direction::Input;
    const auto added =
        loop_.add(stream_.fd.get(), {.read = input, .write = !input}, [this](Readiness) {
            // Removed, not paused: an interest in nothing still reports a hangup, over and over.
            // This destroys the closure that runs, so nothing of it is used afterwards.
            FdStream& self = *this;
            self.watching_ = false;
            self.loop_.remove(self.stream_.fd.get());
            self.ready_();
        });
    if (added)
        watching_ = true;
    else
        loop_.post([this] { ready_(); }); // cannot be watched, so it cannot block for long either
}

} // namespace virtio
