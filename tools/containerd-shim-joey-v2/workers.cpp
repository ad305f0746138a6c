#include "tools/containerd-shim-joey-v2/workers.hpp"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/prctl.h>

#include "agent/os/files.hpp"

namespace shim {

namespace {

constexpr char good = 'o';
constexpr char bad = 'e';
constexpr std::size_t longest_answer = 8u << 20;

std::string encode(const os::Result<std::string>& result) {
    if (result)
        return good + *result;
    return bad + os::text(static_cast<int>(result.error().code), " ", result.error().message);
}

os::Result<std::string> decode(const std::string& bytes) {
    if (bytes.empty())
        return os::fail(os::Code::Internal, "a process of the shim has died at its work");
    if (bytes.front() == good)
        return bytes.substr(1);
    const std::size_t blank = std::min(bytes.find(' '), bytes.size() - 1);
    return os::fail(static_cast<os::Code>(std::atoi(bytes.c_str() + 1)), bytes.substr(blank + 1));
}

void set_up_streams(const std::array<int, 3>& streams) {
    // Apart from 0, 1 and 2 first, whatever the numbers are.
    std::array<int, 3> copies{};
    for (std::size_t i = 0; i < copies.size(); ++i) {
        copies[i] = streams[i] >= 0 ? ::fcntl(streams[i], F_DUPFD_CLOEXEC, 3)
                                    : ::open("/dev/null", O_RDWR | O_CLOEXEC);
        if (copies[i] >= 0 && copies[i] < 3)
            copies[i] = ::fcntl(copies[i], F_DUPFD_CLOEXEC, 3);
    }
    for (std::size_t i = 0; i < copies.size(); ++i)
        ::dup2(copies[i], static_cast<int>(i));
}

[[noreturn]] void be_worker(pid_t parent, const std::array<int, 3>& streams,
                            const Workers::Work& work, int answer) {
    // Whoever cleans up after a dead shim must not meet its work still going on.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (::getppid() != parent)
        ::_exit(1);
    ::prctl(PR_SET_NAME, "joey-worker", 0, 0, 0);
    reset_signals();
    set_up_streams(streams);
    os::close_all_but({answer});
    std::signal(SIGPIPE, SIG_IGN);
    const std::string bytes = encode(work());
    std::size_t written = 0;
    while (written < bytes.size()) {
        const ssize_t put = ::write(answer, bytes.data() + written, bytes.size() - written);
        if (put < 0 && errno != EINTR)
            ::_exit(1);
        written += put > 0 ? static_cast<std::size_t>(put) : 0;
    }
    ::_exit(0);
}

} // namespace

struct Workers::Running {
    os::UniqueFd answer;
    std::string bytes;
    Done done;
};

void Workers::run(std::array<int, 3> streams, const Work& work, Done done) {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        done(os::fail_errno(errno, "make a pipe"));
        return;
    }
    os::UniqueFd near(ends[0]);
    os::UniqueFd far(ends[1]);
    ::fcntl(near.get(), F_SETFL, O_NONBLOCK);
    const pid_t parent = ::getpid();
    const pid_t child = ::fork();
    if (child == 0)
        be_worker(parent, streams, work, far.get());
    if (child < 0) {
        done(os::fail_errno(errno, "fork"));
        return;
    }
    far.reset();
    reaper_.remember();
    reaper_.expect(child, [](int) {});
    auto running = std::make_shared<Running>();
    running->answer = std::move(near);
    running->done = std::move(done);
    const auto watched = loop_.watch(running->answer.get(), EPOLLIN,
                                     [this, running](std::uint32_t) { read_some(running); });
    if (!watched) {
        reaper_.signal(child, SIGKILL);
        reaper_.forget();
        running->done(base::Failure(watched.error()));
    }
}

void Workers::read_some(const std::shared_ptr<Running>& running) {
    std::array<char, 65536> bytes{};
    const ssize_t got = ::read(running->answer.get(), bytes.data(), bytes.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0 && running->bytes.size() < longest_answer) {
        running->bytes.append(bytes.data(), static_cast<std::size_t>(got));
        return;
    }
    loop_.forget(running->answer.get());
    running->answer.reset();
    running->done(decode(running->bytes));
    reaper_.forget();
}

} // namespace shim
