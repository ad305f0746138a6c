#include "tools/containerd-shim-joey-v2/stdio.hpp"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <fcntl.h>

#include <sys/epoll.h>
#include <sys/stat.h>

#include "agent/os/files.hpp"
#include "tools/containerd-shim-joey-v2/reaper.hpp"

namespace shim {

namespace {

constexpr std::chrono::seconds patience_for_logger(10);

int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    const int lower = std::tolower(static_cast<unsigned char>(c));
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// %20 and, in a query, + are a space.
std::string decoded(std::string_view text, bool query) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
            hex_digit(text[i + 2]) >= 0) {
            out += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
            i += 2;
        } else {
            out += query && text[i] == '+' ? ' ' : text[i];
        }
    }
    return out;
}

// "a=b&c": a b c "", as containerd's logging programs have it.
std::vector<std::string> query_words(std::string_view query) {
    std::vector<std::string> out;
    while (!query.empty()) {
        const std::size_t end = std::min(query.find('&'), query.size());
        const std::string_view pair = query.substr(0, end);
        query.remove_prefix(std::min(end + 1, query.size()));
        const std::size_t equals = std::min(pair.find('='), pair.size());
        if (pair.empty())
            continue;
        out.push_back(decoded(pair.substr(0, equals), true));
        out.push_back(decoded(pair.substr(std::min(equals + 1, pair.size())), true));
    }
    return out;
}

bool is_fifo(const std::string& path) {
    struct stat about {};
    return ::stat(path.c_str(), &about) == 0 && S_ISFIFO(about.st_mode);
}

os::Result<os::UniqueFd> open_fifo(const std::string& path, int flags) {
    os::UniqueFd out(::open(path.c_str(), flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (!out)
        return os::fail_errno(errno, "open ", path);
    return out;
}

os::Result<os::UniqueFd> open_log_file(const std::string& path) {
    for (std::size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) {
        if (::mkdir(path.substr(0, at).c_str(), 0755) != 0 && errno != EEXIST)
            return os::fail_errno(errno, "make ", path.substr(0, at));
    }
    os::UniqueFd out(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644));
    if (!out)
        return os::fail_errno(errno, "open ", path);
    return out;
}

struct Pipe {
    os::UniqueFd read;
    os::UniqueFd write;
};
os::Result<Pipe> make_pipe() {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
        return os::fail_errno(errno, "make a pipe");
    return Pipe{os::UniqueFd(ends[0]), os::UniqueFd(ends[1])};
}

// Descriptors 3, 4 and 5 are stdout, stderr and what it closes when it is ready.
[[noreturn]] void be_logger(const StreamTarget& target, const StreamOwner& owner,
                            const std::array<int, 3>& given, int failure) {
    constexpr int first = 3;
    constexpr int above = 10;
    reset_signals();
    std::array<int, 3> copies{};
    for (std::size_t i = 0; i < given.size(); ++i)
        copies[i] = ::fcntl(given[i], F_DUPFD_CLOEXEC, above);
    const int report = ::fcntl(failure, F_DUPFD_CLOEXEC, above);
    for (std::size_t i = 0; i < copies.size(); ++i)
        ::dup2(copies[i], first + static_cast<int>(i));
    os::close_all_but({first, first + 1, first + 2, report});
    std::vector<char*> words{const_cast<char*>(target.path.c_str())};
    for (const std::string& word : target.arguments)
        words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    std::string id = os::text("CONTAINER_ID=", owner.container);
    std::string name_space = os::text("CONTAINER_NAMESPACE=", owner.name_space);
    std::array<char*, 3> environment = {id.data(), name_space.data(), nullptr};
    ::execve(target.path.c_str(), words.data(), environment.data());
    const int why = errno;
    static_cast<void>(!::write(report, &why, sizeof why));
    ::_exit(1);
}

} // namespace

// A program's, until it is ready.
struct Stdio::Beginning {
    std::string path;
    os::UniqueFd ready;
    os::UniqueFd failure;

    // Requires: the other end of `ready` is closed, so the program runs, or there is an error.
    os::Result<void> outcome() const {
        int why = 0;
        if (::read(failure.get(), &why, sizeof why) == static_cast<ssize_t>(sizeof why))
            return os::fail_errno(why, "run ", path);
        return {};
    }
};

os::Result<StreamTarget> StreamTarget::parse(const std::string& text) {
    StreamTarget out;
    if (text.empty())
        return out;
    const std::size_t mark = text.find("://");
    if (mark == std::string::npos) {
        out.kind = Kind::Path;
        out.path = text;
        return out;
    }
    const std::string scheme = text.substr(0, mark);
    const std::string rest = text.substr(mark + 3);
    const std::size_t question = std::min(rest.find('?'), rest.size());
    out.path = decoded(rest.substr(0, question), false);
    if (!out.path.starts_with('/'))
        return os::fail(os::Code::InvalidArgument, text, ": the path is not absolute");
    if (scheme == "fifo") {
        out.kind = Kind::Path;
    } else if (scheme == "file") {
        out.kind = Kind::File;
    } else if (scheme == "binary") {
        out.kind = Kind::Program;
        out.arguments = query_words(rest.substr(std::min(question + 1, rest.size())));
    } else {
        return os::fail(os::Code::InvalidArgument, text,
                        ": streams go to fifo, file or binary, not ", scheme);
    }
    return out;
}

os::Result<std::unique_ptr<Stdio>> Stdio::open(const Streams& streams, const StreamOwner& owner) {
    auto out = std::make_unique<Stdio>();
    TRY(const StreamTarget target, StreamTarget::parse(streams.out));
    TRY(out->open_input(streams.in));
    if (target.kind == StreamTarget::Kind::Program) {
        TRY(out->start_logger(target, owner));
        return out;
    }
    TRY(out->ends_[1], out->open_output(streams.out));
    if (!streams.terminal) {
        TRY(out->ends_[2], out->open_output(streams.err));
    }
    return out;
}

os::Result<void> Stdio::open_input(const std::string& text) {
    TRY(const StreamTarget target, StreamTarget::parse(text));
    if (target.kind == StreamTarget::Kind::None)
        return {};
    if (target.kind != StreamTarget::Kind::Path)
        return os::fail(os::Code::InvalidArgument, text, ": input comes from a fifo");
    TRY(ends_[0], open_fifo(target.path, O_RDONLY));
    if (is_fifo(target.path)) {
        TRY(input_keeper_, open_fifo(target.path, O_WRONLY));
    }
    return {};
}

os::Result<os::UniqueFd> Stdio::open_output(const std::string& text) {
    TRY(const StreamTarget target, StreamTarget::parse(text));
    switch (target.kind) {
    case StreamTarget::Kind::None:
        return os::UniqueFd();
    case StreamTarget::Kind::File:
        return open_log_file(target.path);
    case StreamTarget::Kind::Program:
        return os::fail(os::Code::InvalidArgument, text,
                        ": a program that logs takes stdout and stderr; name it for stdout");
    case StreamTarget::Kind::Path:
        break;
    }
    if (is_fifo(target.path)) {
        // This end first: without a reader the other one could not be opened.
        TRY(os::UniqueFd keeper, open_fifo(target.path, O_RDONLY));
        output_keepers_.push_back(std::move(keeper));
        return open_fifo(target.path, O_WRONLY);
    }
    return open_fifo(target.path, O_WRONLY | O_APPEND);
}

os::Result<void> Stdio::start_logger(const StreamTarget& target, const StreamOwner& owner) {
    TRY(Pipe out, make_pipe());
    TRY(Pipe err, make_pipe());
    TRY(Pipe ready, make_pipe());
    TRY(Pipe failure, make_pipe());
    const pid_t child = ::fork();
    if (child == 0)
        be_logger(target, owner, {out.read.get(), err.read.get(), ready.write.get()},
                  failure.write.get());
    if (child < 0)
        return os::fail_errno(errno, "fork");
    logger_ = child;
    beginning_ = std::make_shared<Beginning>();
    beginning_->path = target.path;
    beginning_->ready = std::move(ready.read);
    beginning_->failure = std::move(failure.read);
    ends_[1] = std::move(out.write);
    ends_[2] = std::move(err.write);
    return {};
}

void Stdio::when_ready(os::EventLoop& loop, const Ready& done) {
    const auto one = std::exchange(beginning_, nullptr);
    if (!one) {
        done({});
        return;
    }
    const auto patience = loop.after(patience_for_logger, [&loop, one, done] {
        loop.forget(one->ready.get());
        done(os::fail(os::Code::DeadlineExceeded, one->path,
                      " does not say that it is ready (by closing descriptor 5)"));
    });
    const auto watched =
        loop.watch(one->ready.get(), EPOLLIN, [&loop, one, done, patience](std::uint32_t) {
            loop.cancel(patience);
            loop.forget(one->ready.get());
            done(one->outcome());
        });
    if (!watched) {
        loop.cancel(patience);
        done(base::Failure(watched.error()));
    }
}

std::array<int, 3> Stdio::ends() const {
    return {ends_[0].get(), ends_[1].get(), ends_[2].get()};
}

void Stdio::handed_over() {
    for (os::UniqueFd& end : ends_)
        end.reset();
}

void Stdio::ended() {
    handed_over();
    close_input();
    output_keepers_.clear();
}

} // namespace shim
