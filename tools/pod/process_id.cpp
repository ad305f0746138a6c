#include "tools/pod/process_id.hpp"

#include <cerrno>
#include <charconv>
#include <csignal>
#include <fcntl.h>
#include <poll.h>

#include <sys/syscall.h>

#include "agent/os/files.hpp"

namespace pod {

namespace {

struct Stat {
    char state = 0;
    std::uint64_t threads = 0;
    std::uint64_t start = 0;
};

std::optional<Stat> read_stat(pid_t pid) {
    const auto text = os::read_file(AT_FDCWD, os::text("/proc/", pid, "/stat").c_str());
    if (!text)
        return std::nullopt;
    // The second field is the program's name in parentheses, and may hold anything.
    std::size_t at = text->rfind(')');
    if (at == std::string::npos)
        return std::nullopt;
    Stat out;
    constexpr int state_field = 3;
    constexpr int threads_field = 20;
    constexpr int start_field = 22;
    for (int field = state_field; field <= start_field; ++field) {
        at = text->find(' ', at);
        if (at == std::string::npos || ++at >= text->size())
            return std::nullopt;
        if (field == state_field)
            out.state = (*text)[at];
        else if (field == threads_field)
            std::from_chars(text->data() + at, text->data() + text->size(), out.threads);
    }
    std::from_chars(text->data() + at, text->data() + text->size(), out.start);
    return out;
}

} // namespace

std::optional<ProcessId> ProcessId::of(pid_t pid) {
    const auto stat = pid > 0 ? read_stat(pid) : std::nullopt;
    if (!stat)
        return std::nullopt;
    return ProcessId{pid, stat->start};
}

ProcessId ProcessId::from_json(const Json& value) {
    ProcessId out;
    const std::int64_t pid = int_of(value, "pid");
    const std::int64_t start = int_of(value, "start");
    constexpr std::int64_t highest = 1 << 22; // proc(5), pid_max
    if (pid > 0 && pid <= highest && start > 0)
        out = {static_cast<pid_t>(pid), static_cast<std::uint64_t>(start)};
    return out;
}

Json ProcessId::to_json() const {
    return Json{{"pid", pid}, {"start", start}};
}

bool ProcessId::is_alive() const {
    const auto stat = pid > 0 ? read_stat(pid) : std::nullopt;
    // The state is that of the first thread; the others may still be on their way out.
    return stat && stat->start == start && stat->state != 'X' &&
           (stat->state != 'Z' || stat->threads > 1);
}

os::UniqueFd ProcessId::handle() const {
    if (pid <= 0)
        return {};
    os::UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    // The handle first, then the look at who it is.
    if (!is_alive())
        fd.reset();
    return fd;
}

os::Result<void> ProcessId::signal(int number) const {
    const os::UniqueFd fd = handle();
    if (!fd)
        return os::fail(os::Code::NotFound, "the process has ended");
    if (::syscall(SYS_pidfd_send_signal, fd.get(), number, nullptr, 0) != 0)
        return os::fail_errno(errno, "send a signal");
    return {};
}

bool ProcessId::wait_for_end(std::chrono::milliseconds limit) const {
    const os::UniqueFd fd = handle();
    if (!fd)
        return true;
    pollfd wanted{fd.get(), POLLIN, 0};
    int got = 0;
    do {
        got = ::poll(&wanted, 1, static_cast<int>(limit.count()));
    } while (got < 0 && errno == EINTR);
    return got > 0;
}

bool ProcessId::kill_and_wait(std::chrono::milliseconds limit) const {
    static_cast<void>(signal(SIGKILL));
    return wait_for_end(limit);
}

} // namespace pod
