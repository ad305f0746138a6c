#include "agent/service/streams.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>

#include <sys/epoll.h>
#include <sys/socket.h>

#include "agent/container/mount_calls.hpp"
#include "agent/os/files.hpp"

namespace service {

namespace {

constexpr std::size_t most_at_once = 1U << 20;
constexpr std::size_t usual = 64U << 10;
constexpr std::chrono::milliseconds look_again(50);

// By way of a read-only mount of its own, so that the container cannot change the agent's.
os::Result<os::UniqueFd> open_null() {
    TRY(const os::UniqueFd null, container::clone_read_only("/dev/null"));
    return os::open_path(AT_FDCWD, os::text("/proc/self/fd/", null.get()).c_str(), O_RDWR);
}

} // namespace

void OutputStream::read(std::uint64_t offset, std::size_t most, Done done) {
    if (done_) {
        done(os::fail(os::Code::FailedPrecondition, "somebody reads this stream already"));
        return;
    }
    was_read_ = true;
    if (offset == before_last_ && !last_.empty()) {
        done(last_);
        return;
    }
    if (offset != before_last_ + last_.size()) {
        done(os::fail(os::Code::OutOfRange, "offset: ", offset,
                      " is not where this stream stands, ", before_last_ + last_.size()));
        return;
    }
    before_last_ = offset;
    last_.clear();
    if (ended_) {
        done(std::string());
        return;
    }
    if (!fd_ || !*fd_) {
        done(os::fail(os::Code::FailedPrecondition, "this stream is not connected"));
        return;
    }
    most_ = std::min(most == 0 ? usual : most, most_at_once);
    done_ = std::move(done);
    if (!read_now())
        wait();
}

void OutputStream::wait() {
    // For epoll, a terminal that nobody has open is always ready.
    if (hung_up_) {
        timer_ = loop_.after(look_again, [this] {
            timer_ = 0;
            if (!read_now())
                wait();
        });
        return;
    }
    watched_ = os::UniqueFd(fcntl(fd_->get(), F_DUPFD_CLOEXEC, 0));
    const auto watching = loop_.watch(watched_.get(), EPOLLIN, [this](std::uint32_t) {
        if (read_now()) {
            stop_watching();
        } else if (hung_up_) {
            stop_watching();
            wait();
        }
    });
    if (!watching)
        std::exchange(done_, nullptr)(base::Failure(watching.error()));
}

void OutputStream::writer_ended() {
    reopens_ = false;
    if (timer_ == 0)
        return;
    stop_watching();
    if (!read_now())
        wait();
}

// True when the reader has been answered.
bool OutputStream::read_now() {
    std::string data(most_, '\0');
    const ssize_t got = ::read(fd_->get(), data.data(), data.size());
    hung_up_ = got < 0 && errno == EIO;
    // EIO: nobody has the terminal open now. A program that lives may open it again: by
    // /dev/console, as systemd does for each line, or by /dev/tty.
    if (got < 0 && (errno == EAGAIN || errno == EINTR || (hung_up_ && reopens_)))
        return false;
    if (got <= 0) {
        ended_ = true;
        fd_.reset();
    }
    data.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    last_ = data;
    std::exchange(done_, nullptr)(std::move(data));
    return true;
}

void OutputStream::stop_watching() {
    if (timer_ != 0)
        loop_.cancel(std::exchange(timer_, 0));
    if (!watched_)
        return;
    loop_.forget(watched_.get());
    watched_.reset();
}

void OutputStream::cancel() {
    stop_watching();
    done_ = nullptr;
    was_read_ = false;
}

void OutputStream::close() {
    stop_watching();
    fd_.reset();
    ended_ = true;
    if (const Done done = std::exchange(done_, nullptr))
        done(std::string());
}

void InputStream::write(std::string data, Done done) {
    if (done_) {
        done(os::fail(os::Code::FailedPrecondition, "somebody writes to this stream already"));
        return;
    }
    if (closed_ || close_later_ || !fd_ || !*fd_) {
        done(os::fail(os::Code::FailedPrecondition, closed_ || close_later_
                                                        ? "standard input is closed"
                                                        : "standard input is not connected"));
        return;
    }
    data_ = std::move(data);
    written_ = 0;
    done_ = std::move(done);
    if (write_now())
        return;
    watched_ = os::UniqueFd(fcntl(fd_->get(), F_DUPFD_CLOEXEC, 0));
    const auto watching = loop_.watch(watched_.get(), EPOLLOUT, [this](std::uint32_t) {
        if (write_now())
            stop_watching();
    });
    if (!watching)
        finish(base::Failure(watching.error()));
}

bool InputStream::write_now() {
    while (written_ < data_.size()) {
        const ssize_t put = ::write(fd_->get(), data_.data() + written_, data_.size() - written_);
        if (put < 0 && (errno == EAGAIN || errno == EINTR))
            return false;
        if (put < 0) {
            const int error = errno;
            closed_ = true;
            finish(os::fail(os::Code::FailedPrecondition,
                            "standard input is closed: ", os::describe(error)));
            return true;
        }
        written_ += static_cast<std::size_t>(put);
    }
    finish({});
    return true;
}

void InputStream::finish(os::Result<void> result) {
    data_.clear();
    data_.shrink_to_fit();
    if (close_later_ || closed_) {
        closed_ = true;
        stop_watching();
        let_go();
    }
    if (const Done done = std::exchange(done_, nullptr))
        done(std::move(result));
}

void InputStream::close_when_written() {
    if (terminal_)
        return;
    if (done_)
        close_later_ = true;
    else
        close();
}

void InputStream::stop_watching() {
    if (!watched_)
        return;
    loop_.forget(watched_.get());
    watched_.reset();
}

void InputStream::let_go() {
    // A socket's other direction may go on, with the same descriptor; what is none, refuses.
    if (fd_ && *fd_)
        ::shutdown(fd_->get(), SHUT_WR);
    fd_.reset();
}

void InputStream::close() {
    stop_watching();
    let_go();
    closed_ = true;
    if (const Done done = std::exchange(done_, nullptr))
        done(os::fail(os::Code::FailedPrecondition, "standard input is closed"));
}

InputStream* Streams::input_of(std::uint32_t descriptor) {
    if (descriptor == 0)
        return &input;
    const std::size_t index = std::size_t{descriptor} - first_preserved; // below it: beyond any
    return index < preserved.size() ? &preserved[index]->input : nullptr;
}

OutputStream* Streams::output_of(std::uint32_t descriptor) {
    const std::size_t index = std::size_t{descriptor} - first_preserved;
    return index < preserved.size() ? &preserved[index]->output : nullptr;
}

void Streams::close_inputs() {
    input.close();
    for (const auto& one : preserved)
        one->input.close();
}

bool Streams::is_output_owed() const {
    return output.is_owed() || error.is_owed() ||
           std::any_of(preserved.begin(), preserved.end(),
                       [](const auto& one) { return one->output.is_owed(); });
}

namespace {

struct Ends {
    os::UniqueFd far;
    std::shared_ptr<os::UniqueFd> near;
};

// `near` does not block: each end has flags of its own.
os::Result<Ends> make_ends(WantedStreams::Preserved kind) {
    std::array<int, 2> ends{};
    const bool made = kind == WantedStreams::Preserved::Both
                          ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0
                          : pipe2(ends.data(), O_CLOEXEC) == 0;
    if (!made)
        return os::fail_errno(errno, "make a pipe");
    const bool into = kind == WantedStreams::Preserved::Into;
    Ends out{.far = os::UniqueFd(ends[into ? 0 : 1]),
             .near = std::make_shared<os::UniqueFd>(ends[into ? 1 : 0])};
    if (fcntl(out.near->get(), F_SETFL, O_NONBLOCK) != 0)
        return os::fail_errno(errno, "make a pipe non-blocking");
    return out;
}

os::Result<std::vector<os::UniqueFd>>
make_preserved(Streams& streams, const std::vector<WantedStreams::Preserved>& wanted) {
    using Kind = WantedStreams::Preserved;
    std::vector<os::UniqueFd> out;
    const int above = first_preserved + static_cast<int>(wanted.size());
    for (const Kind kind : wanted) {
        auto stream = std::make_unique<PreservedStream>(streams.loop);
        os::UniqueFd far;
        if (kind == Kind::Null) {
            TRY(far, open_null());
        } else {
            TRY(Ends ends, make_ends(kind));
            far = std::move(ends.far);
            if (kind != Kind::OutOf)
                stream->input.open(ends.near, false);
            if (kind != Kind::Into)
                stream->output.open(ends.near, false);
        }
        out.emplace_back(fcntl(far.get(), F_DUPFD_CLOEXEC, above));
        if (!out.back())
            return os::fail_errno(errno, "make a pipe");
        streams.preserved.push_back(std::move(stream));
    }
    return out;
}

} // namespace

os::Result<ProcessEnds> make_pipes(Streams& streams, const WantedStreams& wanted) {
    ProcessEnds all;
    TRY(all.preserved, make_preserved(streams, wanted.preserved));
    std::array<os::UniqueFd, 3>& out = all.stdio;
    const std::array<bool, 3> connected{wanted.input, wanted.output, wanted.error};
    for (std::size_t number = 0; number < 3; ++number) {
        if (!connected[number]) {
            TRY(out[number], open_null());
            continue;
        }
        using Kind = WantedStreams::Preserved;
        TRY(Ends ends, make_ends(number == 0 ? Kind::Into : Kind::OutOf));
        out[number] = std::move(ends.far);
        if (number == 0)
            streams.input.open(ends.near, false);
        else
            (number == 1 ? streams.output : streams.error).open(ends.near, false);
    }
    return all;
}

} // namespace service
