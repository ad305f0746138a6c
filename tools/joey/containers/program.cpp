#include "tools/joey/containers/program.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <utility>

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

namespace joey::containers {

namespace {

constexpr std::size_t most_input = 256U << 10;
constexpr int lost = 137; // of a program whose relay was killed
// After the program's end, what it wrote may still come: from a copy of its relay, if somebody who
// watches is slow. How long that may take while he is not; the copy also brings what programs write
// that were left behind, which is no reason to wait. How much it is at most: what a relay keeps,
// and the pipes. And how long whoever watches may take nothing, if somebody wants the end.
constexpr std::chrono::seconds longest_rest(5);
constexpr std::size_t most_rest = 8U << 20;
constexpr std::chrono::seconds longest_hold(3);

os::Result<void> make_nonblocking(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return os::fail_errno(errno, "prepare a stream");
    return {};
}

// A terminal's other side comes over a socket, whose name is short enough below the runtime's root.
os::Result<os::UniqueFd> listen_for_terminal(const std::string& path) {
    ::unlink(path.c_str());
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    if (path.size() >= sizeof address.sun_path)
        return os::fail(os::Code::InvalidArgument, path,
                        " is too long for a socket; choose a "
                        "shorter --root");
    std::memcpy(address.sun_path, path.data(), path.size());
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    constexpr int waiting = 1;
    if (!socket ||
        ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(socket.get(), waiting) != 0)
        return os::fail_errno(errno, path);
    return socket;
}

os::Result<os::UniqueFd> receive_descriptor(int socket) {
    char text[64];
    iovec part{text, sizeof text};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0)
        return os::fail(os::Code::Internal, "the container's terminal did not come");
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (header == nullptr || header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len != CMSG_LEN(sizeof(int)))
        return os::fail(os::Code::Internal, "the container's terminal did not come");
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return os::UniqueFd(fd);
}

} // namespace

Program::Program(os::EventLoop& loop, Registry& registry, const Container& container,
                 Handlers handlers)
    : loop_(loop), registry_(registry), container_(container), handlers_(std::move(handlers)) {}

Program::~Program() {
    loop_.cancel(end_of_patience_);
    for (const os::UniqueFd& output : outputs_) {
        if (output)
            loop_.forget(output.get());
    }
    if (input_)
        loop_.forget(input_.get());
    if (relay_)
        loop_.forget(relay_.get());
}

os::Result<void> Program::make_pipes(std::array<os::UniqueFd, 3>& far) {
    std::array<int, 2> ends{-1, -1};
    if (container_.open_stdin) {
        if (::pipe2(ends.data(), O_CLOEXEC) != 0)
            return os::fail_errno(errno, "make a pipe");
        far[0] = os::UniqueFd(ends[0]);
        input_ = os::UniqueFd(ends[1]);
        TRY(make_nonblocking(input_.get()));
    }
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
        if (::pipe2(ends.data(), O_CLOEXEC) != 0)
            return os::fail_errno(errno, "make a pipe");
        outputs_[i] = os::UniqueFd(ends[0]);
        far[i + 1] = os::UniqueFd(ends[1]);
        TRY(make_nonblocking(outputs_[i].get()));
    }
    return {};
}

// The streams of this process are those of the program while the engine takes them.
os::Result<void> Program::create_here(const std::string& console) {
    std::array<os::UniqueFd, 3> far;
    if (console.empty()) {
        TRY(make_pipes(far));
    }
    for (int fd = 0; fd < 3; ++fd) {
        if (far[static_cast<std::size_t>(fd)])
            ::dup2(far[static_cast<std::size_t>(fd)].get(), fd);
    }
    pod::CreateOptions options;
    options.id = container_.id;
    options.bundle = registry_.directory(container_);
    options.console_socket = console;
    options.pod = container_.pod;
    options.vm.options = container_.vm_options;
    const auto created = registry_.engine().create(options);
    const os::UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    for (int fd = 0; fd < 3; ++fd)
        ::dup2(null.get(), fd);
    if (!created)
        return base::Failure(created.error());
    return {};
}

os::Result<void> Program::accept_terminal(int listener) {
    const os::UniqueFd socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket)
        return os::fail_errno(errno, "the container's terminal");
    TRY(outputs_[0], receive_descriptor(socket.get()));
    TRY(make_nonblocking(outputs_[0].get()));
    // Apart: input and output of one descriptor cannot both be watched.
    input_ = os::UniqueFd(::fcntl(outputs_[0].get(), F_DUPFD_CLOEXEC, 3));
    resize(size_);
    return {};
}

os::Result<void> Program::watch_end() {
    TRY(const pod::ContainerState state, registry_.engine().state(container_.id));
    relay_pid_ = state.record.process.pid;
    relay_ = os::UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, relay_pid_, 0)));
    if (!relay_)
        return os::fail_errno(errno, "watch the container's process");
    return loop_.watch(relay_.get(), EPOLLIN, [this](std::uint32_t) {
        loop_.forget(relay_.get());
        int status = 0;
        const bool reaped = ::waitpid(relay_pid_, &status, 0) == relay_pid_;
        status_ = reaped && WIFEXITED(status) ? WEXITSTATUS(status) : lost;
        ended_ = true;
        try_to_finish();
    });
}

os::Result<void> Program::create() {
    if (container_.terminal) {
        const std::string path =
            os::text(registry_.engine().root().path(), "/tty-", container_.short_id());
        TRY(pod::make_directories(registry_.engine().root().path()));
        TRY(const os::UniqueFd listener, listen_for_terminal(path));
        auto created = create_here(path);
        if (created)
            created = accept_terminal(listener.get());
        ::unlink(path.c_str());
        TRY(created);
    } else {
        TRY(create_here({}));
    }
    for (std::size_t i = 0; i < outputs_.size(); ++i)
        watch_output(i);
    return watch_end();
}

os::Result<void> Program::start() {
    return registry_.engine().start(container_.id);
}

void Program::watch_output(std::size_t index) {
    const os::UniqueFd& output = outputs_[index];
    if (!output)
        return;
    const auto watched =
        loop_.watch(output.get(), EPOLLIN, [this, index](std::uint32_t) { take_ready(index); });
    if (!watched)
        close_output(index);
}

void Program::close_output(std::size_t index) {
    loop_.forget(outputs_[index].get());
    outputs_[index].reset();
}

void Program::take_ready(std::size_t index) {
    if (ended_)
        try_to_finish();
    else
        read_output(index);
}

void Program::read_output(std::size_t index) {
    std::string data(largest_piece, '\0');
    while (outputs_[index] && (!held_ || given_up_)) {
        const ssize_t got = ::read(outputs_[index].get(), data.data(), data.size());
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        // A terminal without the other side says EIO.
        if (got <= 0)
            return close_output(index);
        handlers_.output(index == 0 ? Stream::Out : Stream::Error,
                         std::string_view(data).substr(0, static_cast<std::size_t>(got)));
        if (!ended_)
            break; // others have their turn
        rest_ += static_cast<std::size_t>(got);
        if (rest_ > most_rest)
            return close_output(index);
    }
}

void Program::hold_output(bool hold) {
    if (hold == held_)
        return;
    held_ = hold;
    loop_.cancel(std::exchange(end_of_patience_, 0));
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
        // Not by watching for nothing: that the other side has gone would be told all the same.
        if (hold && outputs_[i])
            loop_.forget(outputs_[i].get());
        else
            watch_output(i);
    }
    if (!hold)
        try_to_finish();
}

void Program::try_to_finish() {
    if (!ended_ || finished_)
        return;
    for (std::size_t i = 0; i < outputs_.size(); ++i)
        read_output(i);
    finished_ = given_up_ || (!outputs_[0] && !outputs_[1]);
    if (!finished_ && !held_ && end_of_patience_ == 0)
        end_of_patience_ = loop_.after(longest_rest, [this] { give_up(); });
}

void Program::hurry() {
    if (ended_ && held_ && !finished_ && end_of_patience_ == 0)
        end_of_patience_ = loop_.after(longest_hold, [this] { give_up(); });
}

void Program::give_up() {
    given_up_ = true;
    try_to_finish();
}

void Program::write_input(std::string_view data) {
    if (!input_ || input_ends_)
        return;
    waiting_input_ += data;
    flush_input();
}

void Program::flush_input() {
    const auto stop = [this] {
        loop_.forget(input_.get());
        input_.reset();
        waiting_input_.clear();
    };
    while (!waiting_input_.empty()) {
        const ssize_t written = ::write(input_.get(), waiting_input_.data(), waiting_input_.size());
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno != EAGAIN) {
            stop(); // nobody reads
            break;
        }
        if (written < 0)
            break;
        waiting_input_.erase(0, static_cast<std::size_t>(written));
    }
    if (waiting_input_.size() > most_input)
        handlers_.input_full();
    else
        handlers_.input_free();
    if (!input_)
        return;
    loop_.forget(input_.get());
    if (!waiting_input_.empty())
        static_cast<void>(
            loop_.watch(input_.get(), EPOLLOUT, [this](std::uint32_t) { flush_input(); })
                .has_value());
    else if (input_ends_)
        stop();
}

void Program::end_input() {
    // A terminal's input has no end of its own.
    if (container_.terminal || !input_)
        return;
    input_ends_ = true;
    flush_input();
}

void Program::resize(Size size) {
    size_ = size;
    if (!container_.terminal || !outputs_[0] || size.columns == 0)
        return;
    winsize wanted{};
    wanted.ws_col = size.columns;
    wanted.ws_row = size.rows;
    ::ioctl(outputs_[0].get(), TIOCSWINSZ, &wanted);
}

} // namespace joey::containers
