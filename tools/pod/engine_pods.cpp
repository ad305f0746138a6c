// Pods as a whole: what there is of them, what they cost, and their end.
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/un.h>

#include "agent/os/files.hpp"
#include "tools/pod/engine.hpp"

namespace pod {

namespace {

// Field `wanted` of /proc/PID/stat, counted as in proc(5); the second is in parentheses and may
// hold anything.
std::uint64_t stat_field(std::string_view stat, int wanted) {
    std::size_t at = stat.rfind(')');
    constexpr int in_parentheses = 2;
    for (int field = in_parentheses; field < wanted && at != std::string_view::npos; ++field)
        at = stat.find(' ', at + 1);
    std::uint64_t out = 0;
    if (at != std::string_view::npos && at + 1 < stat.size())
        std::from_chars(stat.data() + at + 1, stat.data() + stat.size(), out);
    return out;
}

} // namespace

os::Result<PodState> Engine::pod(const std::string& id) const {
    TRY(const Pod found, Pod::open(root_, id));
    PodState out{.id = id,
                 .vm = found.vm(),
                 .running = found.is_running(),
                 .log = found.directory() + "/log",
                 .containers = {}};
    for (const std::string& name : root_.containers()) {
        const auto record = ContainerRecord::load(root_, name);
        if (record && record->pod == id)
            out.containers.push_back(name);
    }
    return out;
}

std::vector<PodState> Engine::pods() const {
    std::vector<PodState> out;
    for (const std::string& id : root_.pods()) {
        if (auto one = pod(id))
            out.push_back(std::move(*one));
    }
    return out;
}

os::Result<VmStats> Engine::vm_stats(const std::string& id) const {
    TRY(const Pod found, Pod::open(root_, id));
    const std::string proc = os::text("/proc/", found.vm().pid);
    const auto stat = os::read_file(AT_FDCWD, (proc + "/stat").c_str());
    const auto statm = os::read_file(AT_FDCWD, (proc + "/statm").c_str());
    if (!stat || !statm || !found.is_running())
        return os::fail(os::Code::Unavailable, "the VM of pod ", id, " has ended");
    constexpr int user_field = 14;
    constexpr int system_field = 15;
    constexpr int threads_field = 20;
    const auto nanoseconds = [](std::uint64_t ticks) {
        return ticks * (1'000'000'000 / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK)));
    };
    VmStats out;
    out.user_ns = nanoseconds(stat_field(*stat, user_field));
    out.system_ns = nanoseconds(stat_field(*stat, system_field));
    out.threads = stat_field(*stat, threads_field);
    std::uint64_t pages = 0;
    if (const std::size_t blank = statm->find(' '); blank != std::string::npos)
        std::from_chars(statm->data() + blank + 1, statm->data() + statm->size(), pages);
    out.memory = pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    return out;
}

namespace {

constexpr std::chrono::seconds patience_for_metrics(5);

// Until the other side has closed.
os::Result<std::string> read_all(int socket, std::chrono::steady_clock::time_point deadline) {
    constexpr std::size_t most = 8u << 20;
    std::string out;
    for (;;) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        pollfd wanted{socket, POLLIN, 0};
        const int ready = left.count() > 0 ? ::poll(&wanted, 1, static_cast<int>(left.count())) : 0;
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return os::fail(os::Code::DeadlineExceeded, "the VM does not answer");
        char piece[16384];
        const ssize_t got = ::recv(socket, piece, sizeof piece, MSG_DONTWAIT);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got < 0)
            return os::fail_errno(errno, "read the VM's metrics");
        if (got == 0)
            return out;
        out.append(piece, static_cast<std::size_t>(got));
        if (out.size() > most)
            return os::fail(os::Code::ResourceExhausted, "the VM says too much");
    }
}

} // namespace

os::Result<std::string> Engine::vm_metrics(const std::string& id) const {
    TRY(const Pod found, Pod::open(root_, id));
    const os::UniqueFd place(::open(found.directory().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    // By the directory's descriptor: its path may be longer than a socket's name can be.
    std::snprintf(name.sun_path, sizeof name.sun_path, "/proc/self/fd/%d/metrics", place.get());
    constexpr std::string_view request = "GET /metrics HTTP/1.1\r\nHost: vm\r\n\r\n";
    if (!place || !socket || !found.is_running() ||
        ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 ||
        ::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0)
        return os::fail(os::Code::Unavailable, "the VM of pod ", id, " tells no metrics");
    TRY(std::string answer,
        read_all(socket.get(), std::chrono::steady_clock::now() + patience_for_metrics));
    const std::size_t head = answer.find("\r\n\r\n");
    if (!answer.starts_with("HTTP/1.1 200 ") || head == std::string::npos)
        return os::fail(os::Code::Unavailable, "the VM of pod ", id, " gives an unknown answer");
    return answer.substr(head + 4);
}

os::Result<void> Engine::remove_pod(const std::string& id) {
    TRY(check_id(id));
    // The pod's own container last: its end is the VM's.
    std::vector<std::string> names = root_.containers();
    std::stable_partition(names.begin(), names.end(),
                          [&](const std::string& name) { return name != id; });
    os::Result<void> result;
    for (const std::string& name : names) {
        const auto record = ContainerRecord::load(root_, name);
        const auto begun = ContainerRecord::load_begun(root_, name);
        if ((record && record->pod == id) || (begun && begun->pod == id) || name == id) {
            auto removed = remove(name, true);
            if (!removed)
                result = base::Failure(removed.error());
        }
    }
    if (const auto left = Pod::open(root_, id))
        left->remove();
    return result;
}

os::Result<std::unique_ptr<AgentLink>> Engine::agent(const std::string& pod,
                                                     os::EventLoop& loop) const {
    TRY(const Pod found, Pod::open(root_, pod));
    return found.connect(loop);
}

} // namespace pod
