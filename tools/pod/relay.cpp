#include "tools/pod/relay.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <utility>

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tools/pod/records.hpp"

namespace pod {

namespace {

constexpr std::array forwarded = {SIGHUP,  SIGINT,  SIGQUIT,   SIGUSR1, SIGUSR2, SIGALRM,
                                  SIGTERM, SIGCONT, SIGTSTP,   SIGTTIN, SIGTTOU, SIGURG,
                                  SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO,   SIGPWR};

// As much as a pipe that is writable takes without waiting (pipe(7)).
constexpr std::size_t piece = 4096;
constexpr std::size_t largest_input = 64u << 10;
// What is received at an end before it is delivered: more than the guest's pipe holds.
constexpr std::size_t most_kept = 2u << 20;
constexpr int lost_status = 128 + SIGKILL; // of a program whose VM is gone

bool is_ready(int fd, short events) {
    pollfd wanted{fd, events, 0};
    return ::poll(&wanted, 1, 0) > 0;
}

// A socket that is writable may still take less than a piece at once.
ssize_t write_some(int fd, const char* data, std::size_t size) {
    const ssize_t sent = ::send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 && errno == ENOTSOCK ? ::write(fd, data, size) : sent;
}

} // namespace

int close_input_signal() {
    return SIGRTMIN + 2;
}

int status_of(const proto::ExitStatus& exit) {
    return static_cast<int>(exit.code() & 0xff);
}

// What comes out of the program. One request at a time: the agent's pipe is the buffer.
struct Relay::Output {
    proto::OutputStream stream = proto::STDOUT;
    std::uint32_t descriptor = 0; // of the program; 0: as `stream` says
    int fd = -1;
    os::UniqueFd own; // the same, if the relay alone has it
    std::string data; // received, not yet written
    std::uint64_t received = 0;
    bool asked = false;   // a request is on its way
    bool watched = false; // until the descriptor takes more
    bool broken = false;  // nobody reads any more: what comes is dropped
    bool drained = false; // all has been received
    bool ended() const { return drained && data.empty(); }
    // The program has closed its end: so do we, for whoever reads on ours.
    void close_if_ended() {
        if (!ended() || !own || watched)
            return;
        ::shutdown(own.get(), SHUT_WR); // a socket's other direction has a copy
        own.reset();
        broken = true;
    }
};

template <typename Request>
Request Relay::addressed() const {
    Request request;
    request.set_container_id(config_.container);
    request.set_exec_id(config_.exec);
    return request;
}

// What goes into it. A descriptor is watched only while it is waited for: one whose other side is
// gone is always ready.
class Relay::Input {
public:
    Input(Relay& relay, int fd) : relay_(relay), fd_(fd) {}
    // Of a descriptor that is the relay's own.
    Input(Relay& relay, os::UniqueFd fd, std::uint32_t descriptor)
        : relay_(relay), fd_(fd.get()), own_(std::move(fd)), descriptor_(descriptor) {}
    void read() {
        if (stopped_)
            return;
        if (!is_ready(fd_, POLLIN))
            return finishing_ ? end() : wait();
        std::string data(largest_input, '\0');
        const ssize_t got = ::read(fd_, data.data(), data.size());
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            return wait();
        if (got <= 0)
            return end();
        data.resize(static_cast<std::size_t>(got));
        relay_.look_at_typed(descriptor_, data);
        if (data.empty())
            return relay_.left_ ? stop() : wait();
        auto request = relay_.addressed<proto::WriteInputRequest>();
        request.set_data(std::move(data));
        request.set_descriptor(descriptor_);
        relay_.agent_.call_later<proto::Empty>("WriteInput", request,
                                               [this](const os::Result<proto::Empty>& written) {
                                                   if (written && !relay_.left_)
                                                       read();
                                                   else
                                                       stop(); // the program does not read
                                               });
    }
    void stop() {
        if (std::exchange(stopped_, true))
            return;
        relay_.loop_.forget(fd_);
        close_own();
    }
    // After what is there already.
    void finish() {
        finishing_ = true;
        if (!waiting_ || stopped_)
            return; // what is on its way comes back to read()
        stop_waiting();
        read();
    }

private:
    void wait() {
        const auto watched = relay_.loop_.watch(fd_, EPOLLIN, [this](std::uint32_t) {
            stop_waiting();
            read();
        });
        waiting_ = watched.has_value();
        if (!watched)
            end();
    }

    void stop_waiting() {
        waiting_ = false;
        relay_.loop_.forget(fd_);
    }

    void end() {
        stopped_ = true;
        if (relay_.is_on_terminal() && descriptor_ == 0) {
            relay_.send_signal(SIGHUP); // the other side of the terminal is gone
            return;
        }
        auto request = relay_.addressed<proto::CloseInputRequest>();
        request.set_descriptor(descriptor_);
        relay_.agent_.call_later<proto::Empty>("CloseInput", request,
                                               [](const os::Result<proto::Empty>&) {});
        close_own();
    }

    // Whoever writes on the other side sees that nobody reads any more.
    void close_own() {
        if (own_)
            ::shutdown(own_.get(), SHUT_RD); // a socket's other direction has a copy
        own_.reset();
    }

    Relay& relay_;
    int fd_;
    os::UniqueFd own_;
    std::uint32_t descriptor_ = 0; // of the program; 0: its standard input
    bool stopped_ = false;
    bool waiting_ = false;
    bool finishing_ = false;
};

struct Relay::Saved {
    termios mode{};
};

Relay::Relay(os::EventLoop& loop, AgentLink& agent, RelayConfig config)
    : loop_(loop), agent_(agent), config_(std::move(config)) {}

Relay::~Relay() {
    restore_terminal();
}

void Relay::restore_terminal() {
    if (saved_)
        ::tcsetattr(config_.streams[0], TCSADRAIN, &saved_->mode);
    saved_.reset();
}

os::Result<void> Relay::prepare() {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int number : forwarded)
        ::sigaddset(&set, number);
    ::sigaddset(&set, SIGWINCH);
    ::sigaddset(&set, close_input_signal());
    if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0)
        return os::fail_errno(errno, "block signals");
    std::signal(SIGPIPE, SIG_IGN);
    signals_ = os::UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_)
        return os::fail_errno(errno, "make a signalfd");
    if (!is_on_terminal())
        return {};
    if (config_.take_terminal)
        ::ioctl(config_.streams[0], TIOCSCTTY, 0);
    Saved saved;
    if (::tcgetattr(config_.streams[0], &saved.mode) != 0)
        return os::fail_errno(errno, "the terminal");
    termios raw = saved.mode;
    ::cfmakeraw(&raw);
    if (::tcsetattr(config_.streams[0], TCSANOW, &raw) != 0)
        return os::fail_errno(errno, "put the terminal in raw mode");
    if (!config_.take_terminal)
        saved_ = std::make_unique<Saved>(saved);
    return {};
}

void Relay::send_signal(std::uint32_t number) {
    auto request = addressed<proto::SignalRequest>();
    request.set_signal(number);
    agent_.call_later<proto::Empty>("Signal", request, [](const os::Result<proto::Empty>&) {});
}

void Relay::send_size() {
    winsize size{};
    if (!is_on_terminal() || ::ioctl(config_.streams[0], TIOCGWINSZ, &size) != 0 ||
        (size.ws_row == 0 && size.ws_col == 0))
        return;
    auto request = addressed<proto::ResizeTerminalRequest>();
    request.set_rows(size.ws_row);
    request.set_columns(size.ws_col);
    agent_.call_later<proto::Empty>("ResizeTerminal", request,
                                    [](const os::Result<proto::Empty>&) {});
}

void Relay::close_input() {
    if (!inputs_.empty() && inputs_.front())
        inputs_.front()->finish();
}

void Relay::take_signals() {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        if (info.ssi_signo == SIGWINCH)
            send_size();
        else if (info.ssi_signo == static_cast<std::uint32_t>(close_input_signal()))
            close_input();
        else
            send_signal(info.ssi_signo);
    }
}

void Relay::read_more(const std::shared_ptr<Output>& output) {
    if (output->asked || output->drained)
        return;
    output->asked = true;
    auto request = addressed<proto::ReadOutputRequest>();
    request.set_stream(output->stream);
    request.set_descriptor(output->descriptor);
    request.set_offset(output->received);
    agent_.call_later<proto::ReadOutputResponse>(
        "ReadOutput", request, [this, output](os::Result<proto::ReadOutputResponse> answer) {
            output->asked = false;
            if (!answer || answer->data().empty()) {
                output->drained = true;
                output->close_if_ended();
                return;
            }
            output->received += answer->data().size();
            output->data += answer->data();
            deliver(output);
        });
}

void Relay::deliver(const std::shared_ptr<Output>& output) {
    std::size_t written = 0;
    while (written < output->data.size() && !output->broken) {
        // Not by O_NONBLOCK: the descriptor's flags are those of whoever else has it.
        if (!is_ready(output->fd, POLLOUT))
            break;
        const ssize_t got = write_some(output->fd, output->data.data() + written,
                                       std::min(piece, output->data.size() - written));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        output->broken = got < 0;
        written += got > 0 ? static_cast<std::size_t>(got) : 0;
    }
    output->data.erase(0, output->broken ? output->data.size() : written);
    output->close_if_ended();
    // The guest goes at the end, and must not keep what its program said last.
    if (output->data.empty() || (exited_ && output->data.size() < most_kept))
        read_more(output);
    if (output->data.empty() || output->watched)
        return;
    const auto watched = loop_.watch(output->fd, EPOLLOUT, [this, output](std::uint32_t) {
        loop_.forget(output->fd);
        output->watched = false;
        deliver(output);
    });
    output->watched = watched.has_value();
    if (!watched) {
        output->drained = true;
        output->data.clear();
    }
}

void Relay::wait_for_exit() {
    agent_.call_later<proto::WaitResponse>("Wait", addressed<proto::ProcessRequest>(),
                                           [this](const os::Result<proto::WaitResponse>& answer) {
                                               exited_ = true;
                                               status_ =
                                                   answer ? status_of(answer->exit()) : lost_status;
                                               oom_killed_ = answer && answer->exit().oom_killed();
                                           });
}

void Relay::open_streams() {
    inputs_.push_back(config_.streams[0] >= 0 ? std::make_unique<Input>(*this, config_.streams[0])
                                              : nullptr);
    for (std::size_t i = 0; i < 2; ++i) {
        int fd = config_.streams[i + 1];
        if (config_.terminal) {
            if (i == 1)
                continue;
        }
        if (is_on_terminal()) {
            // Apart: input and output of one descriptor cannot both be watched.
            terminal_out_ = os::UniqueFd(::fcntl(config_.streams[0], F_DUPFD_CLOEXEC, 3));
            fd = terminal_out_.get();
        }
        if (fd < 0)
            continue;
        auto output = std::make_shared<Output>();
        output->stream = i == 0 ? proto::STDOUT : proto::STDERR;
        output->fd = fd;
        add_output(output);
    }
    open_preserved();
    for (const auto& input : inputs_) {
        if (input)
            input->read();
    }
}

void Relay::add_output(const std::shared_ptr<Output>& output) {
    outputs_.push_back(output);
    read_more(output);
}

void Relay::add_preserved_output(std::uint32_t descriptor, os::UniqueFd fd) {
    auto output = std::make_shared<Output>();
    output->descriptor = descriptor;
    output->own = std::move(fd);
    output->fd = output->own.get();
    add_output(output);
}

void Relay::open_preserved() {
    std::uint32_t descriptor = 2;
    for (const PreservedFd& preserved : config_.preserved) {
        ++descriptor;
        os::UniqueFd fd(preserved.fd);
        if (preserved.kind == proto::OUT_OF) {
            add_preserved_output(descriptor, std::move(fd));
            continue;
        }
        // Apart: input and output of one descriptor cannot both be watched.
        if (preserved.kind == proto::BOTH)
            add_preserved_output(descriptor, os::UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3)));
        if (preserved.kind == proto::INTO || preserved.kind == proto::BOTH)
            inputs_.push_back(std::make_unique<Input>(*this, std::move(fd), descriptor));
    }
}

bool Relay::all_received() const {
    return std::all_of(outputs_.begin(), outputs_.end(),
                       [](const auto& output) { return output->drained; });
}

bool Relay::all_delivered() const {
    return std::all_of(outputs_.begin(), outputs_.end(),
                       [](const auto& output) { return output->ended(); });
}

void Relay::tell_received() {
    if (!std::exchange(told_received_, true) && config_.received)
        config_.received();
}

// In a copy of this process: until everything has come, or cannot come any more.
void Relay::deliver_rest() {
    while (!all_received() && agent_.client().is_open())
        loop_.run_once(std::chrono::milliseconds(-1));
    tell_received();
    if (config_.ended)
        config_.ended();
    while (!all_delivered())
        loop_.run_once(std::chrono::milliseconds(-1));
}

void Relay::look_at_typed(std::uint32_t descriptor, std::string& data) {
    if (is_on_terminal() && descriptor == 0 && config_.leaves)
        left_ = config_.leaves(data);
}

// The program runs on, without anybody who types or reads.
int Relay::leave() {
    for (const auto& input : inputs_) {
        if (input)
            input->stop();
    }
    restore_terminal();
    if (::fork() > 0) {
        loop_.leave_to_copy();
        return 0;
    }
    ::setsid();
    for (const auto& output : outputs_) {
        output->broken = true;
        if (std::exchange(output->watched, false))
            loop_.forget(output->fd);
        deliver(output);
    }
    while (!exited_)
        loop_.run_once(std::chrono::milliseconds(-1));
    deliver_rest();
    ::_exit(0);
}

void Relay::record_exit() const {
    if (config_.exit_record.empty())
        return;
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    // Where it cannot be written, the status of this process still says it.
    static_cast<void>(ExitRecord{status_, now.tv_sec * 1'000'000'000 + now.tv_nsec, oom_killed_}
                          .store(config_.exit_record)
                          .has_value());
}

int Relay::run() {
    const auto watched =
        loop_.watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { take_signals(); });
    if (!watched)
        return lost_status;
    wait_for_exit();
    send_size();
    open_streams();
    while (!exited_ && !left_)
        loop_.run_once(std::chrono::milliseconds(-1));
    if (left_ && !exited_)
        return leave();
    for (const auto& input : inputs_) {
        if (input)
            input->stop();
    }
    for (const auto& output : outputs_)
        deliver(output);
    // What was written before the end comes before the end. A process that is left behind may keep
    // the streams open for good: then the status does not wait for it.
    constexpr std::chrono::milliseconds patience(500);
    bool waited = false;
    loop_.after(patience, [&waited] { waited = true; });
    while (!all_received() && !waited)
        loop_.run_once(std::chrono::milliseconds(-1));
    if (all_received())
        tell_received();
    while (!all_delivered() && !waited)
        loop_.run_once(std::chrono::milliseconds(-1));
    record_exit();
    restore_terminal();
    if (!all_delivered()) {
        if (::fork() == 0) {
            deliver_rest();
            ::_exit(0);
        }
        loop_.leave_to_copy();
    } else if (config_.ended) {
        config_.ended();
    }
    return status_;
}

os::Result<os::UniqueFd> open_console(const std::string& console_socket) {
    os::UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    char name[64];
    if (!master || ::grantpt(master.get()) != 0 || ::unlockpt(master.get()) != 0 ||
        ::ptsname_r(master.get(), name, sizeof name) != 0)
        return os::fail_errno(errno, "make a terminal");
    os::UniqueFd slave(::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!slave)
        return os::fail_errno(errno, "open ", name);
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    if (console_socket.size() >= sizeof address.sun_path)
        return os::fail(os::Code::InvalidArgument, "console socket ", console_socket,
                        ": its path is too long");
    std::memcpy(address.sun_path, console_socket.data(), console_socket.size());
    const os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket ||
        ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
        return os::fail_errno(errno, "console socket ", console_socket);
    iovec text{name, std::strlen(name)};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &text;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = master.get();
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (::sendmsg(socket.get(), &message, MSG_NOSIGNAL) < 0)
        return os::fail_errno(errno, "console socket ", console_socket);
    return slave;
}

} // namespace pod
