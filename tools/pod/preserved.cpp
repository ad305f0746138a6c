#include "tools/pod/preserved.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <optional>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace pod {

namespace {

namespace proto = joey::agent::v1;

constexpr int first = 3;
constexpr unsigned most = 64; // what the agent takes

struct Verdict {
    proto::Preserved kind = proto::DEV_NULL;
    const char* refusal = nullptr;
};

int option_of(int fd, int option) {
    int value = 0;
    socklen_t size = sizeof value;
    return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

Verdict judge_socket(int fd) {
    if (option_of(fd, SO_ACCEPTCONN) == 1)
        return {.refusal = "a listening socket"};
    if (option_of(fd, SO_TYPE) != SOCK_STREAM)
        return {.refusal = "a socket that carries messages"};
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0)
        return {.refusal = "a socket that is not connected"};
    return {.kind = proto::BOTH};
}

// Bytes that go one way.
Verdict judge_access(int flags) {
    switch (flags & O_ACCMODE) {
    case O_RDONLY:
        return {.kind = proto::INTO};
    case O_WRONLY:
        return {.kind = proto::OUT_OF};
    default:
        return {.refusal = "a file or pipe that is open for both reading and writing"};
    }
}

Verdict judge(int fd, int flags) {
    struct stat about {};
    if (::fstat(fd, &about) != 0 || (flags & O_PATH) != 0)
        return {.refusal = "a place without contents (O_PATH)"};
    if (S_ISSOCK(about.st_mode))
        return judge_socket(fd);
    if (S_ISREG(about.st_mode) || S_ISFIFO(about.st_mode))
        return judge_access(flags);
    if (S_ISCHR(about.st_mode) && about.st_rdev == makedev(1, 3))
        return {.kind = proto::DEV_NULL};
    if (S_ISDIR(about.st_mode))
        return {.refusal = "a directory"};
    if (::isatty(fd) != 0)
        return {.refusal = "a terminal"};
    return {.refusal = S_ISCHR(about.st_mode) || S_ISBLK(about.st_mode)
                           ? "a device"
                           : "an object of the kernel"};
}

std::optional<unsigned> number_in(const char* variable) {
    const char* text = std::getenv(variable);
    unsigned value = 0;
    if (text == nullptr)
        return {};
    const char* end = text + std::strlen(text);
    const auto parsed = std::from_chars(text, end, value);
    return parsed.ec == std::errc() && parsed.ptr == end ? std::optional(value) : std::nullopt;
}

} // namespace

os::Result<std::vector<PreservedFd>> preserved_fds(unsigned count) {
    std::vector<PreservedFd> out;
    if (count > most)
        return os::fail(os::Code::InvalidArgument, "descriptors to preserve: ", count,
                        " are more than ", most);
    for (unsigned index = 0; index < count; ++index) {
        const int fd = first + static_cast<int>(index);
        const int flags = ::fcntl(fd, F_GETFL);
        // One that is closed on exec was not handed over: this program has opened it.
        if (flags < 0 || (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0)
            return os::fail(os::Code::InvalidArgument, "descriptor ", fd, " to preserve (of ",
                            count, ") is not open");
        const Verdict verdict = judge(fd, flags);
        if (verdict.refusal != nullptr)
            return os::fail(os::Code::InvalidArgument, "descriptor ", fd, " to preserve is ",
                            verdict.refusal, ", which cannot reach into a VM; pipes, files open ",
                            "for one of reading and writing, connected stream sockets and ",
                            "/dev/null can");
        out.push_back({fd, verdict.kind});
    }
    return out;
}

unsigned passed_by_service_manager() {
    const auto whose = number_in("LISTEN_PID");
    if (!whose || *whose != static_cast<unsigned>(::getpid()))
        return 0;
    return std::min(number_in("LISTEN_FDS").value_or(0), most + 1); // too many are refused
}

} // namespace pod
