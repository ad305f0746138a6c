// start: one shim per pod, detached, with its socket ready before it runs.
#include <cerrno>
#include <charconv>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>
#include <vector>

#include <sys/stat.h>

#include "agent/os/files.hpp"
#include "tools/containerd-shim-joey-v2/address.hpp"
#include "tools/containerd-shim-joey-v2/commands.hpp"
#include "tools/containerd-shim-joey-v2/grouping.hpp"
#include "tools/containerd-shim-joey-v2/options.hpp"
#include "tools/containerd-shim-joey-v2/reaper.hpp"
#include "tools/pod/host_cgroup.hpp"
#include "tools/pod/json.hpp"
#include "tools/pod/state_files.hpp"

namespace shim {

namespace {

constexpr int service_socket = 3;

// containerd gives the runtime's options on stdin.
os::Result<wellknown::Any> read_options() {
    constexpr std::size_t most = 1u << 20;
    wellknown::Any out;
    if (::isatty(STDIN_FILENO) != 0)
        return out;
    std::string bytes;
    char piece[4096];
    while (bytes.size() < most) {
        const ssize_t got = ::read(STDIN_FILENO, piece, sizeof piece);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        bytes.append(piece, static_cast<std::size_t>(got));
    }
    if (!out.ParseFromString(bytes))
        return os::fail(os::Code::InvalidArgument, "the runtime's options on stdin are no Any");
    return out;
}

os::Result<std::string> working_directory() {
    char path[PATH_MAX];
    if (::getcwd(path, sizeof path) == nullptr)
        return os::fail_errno(errno, "the working directory");
    return std::string(path);
}

// Ends only by becoming the service, or at once.
[[noreturn]] void become_service(const CommandLine& line, const std::string& address,
                                 const std::string& cgroup, int socket) {
    reset_signals();
    ::setsid();
    if (!cgroup.empty()) {
        if (const auto groups = pod::make_cgroups(cgroup))
            pod::join_cgroups(*groups);
    }
    const int null = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd < service_socket; ++fd)
        ::dup2(null, fd);
    // Not to be inherited by way of the number it happens to have.
    const int copy = ::fcntl(socket, F_DUPFD_CLOEXEC, service_socket + 1);
    ::dup2(copy, service_socket);
    os::close_all_but({service_socket});
    std::vector<std::string> words = {"containerd-shim-joey-v2",
                                      "-namespace",
                                      line.name_space,
                                      "-id",
                                      line.id,
                                      "-address",
                                      line.address,
                                      "-publish-binary",
                                      line.publish_binary,
                                      "-socket",
                                      address};
    if (line.debug)
        words.emplace_back("-debug");
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (std::string& word : words)
        arguments.push_back(word.data());
    arguments.push_back(nullptr);
    ::execv("/proc/self/exe", arguments.data());
    ::_exit(1);
}

// The socket of a shim that runs is in use; that of one that was killed is in the way.
os::Result<os::UniqueFd> listen_or_find(const std::string& address) {
    for (int attempt = 0; attempt < 3; ++attempt) {
        auto socket = listen_at(address);
        if (socket || socket.error().code != os::Code::AlreadyExists)
            return socket;
        if (can_connect(address))
            return os::UniqueFd();
        remove_socket(address);
    }
    return os::fail(os::Code::Unavailable, "socket ", path_of(address),
                    " is neither answered nor free");
}

} // namespace

// containerd 1 takes a bare address for version 2 over ttrpc. containerd 2 does so too, and asks
// the third version's service where it is told of it.
std::string bootstrap_answer(const std::string& address, const char* most_known) {
    constexpr int json_from = 3;
    int known = 0;
    const std::string_view text = most_known == nullptr ? "" : most_known;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), known);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || known < json_from)
        return address;
    return pod::to_text(
        pod::Json{{"version", json_from}, {"address", address}, {"protocol", "ttrpc"}});
}

os::Result<std::string> start(const CommandLine& line) {
    TRY(const wellknown::Any options, read_options());
    TRY(const std::string cgroup, cgroup_of(options));
    TRY(const std::string bundle, working_directory());
    TRY(const std::string group, group_of_bundle(bundle, line.id));
    const std::string address = socket_address(socket_folder, line.address, line.name_space, group);
    TRY(const os::UniqueFd socket, listen_or_find(address));
    if (socket) {
        const pid_t child = ::fork();
        if (child == 0)
            become_service(line, address, cgroup, socket.get());
        if (child < 0) {
            remove_socket(address);
            return os::fail_errno(errno, "fork");
        }
        TRY(pod::write_quickly(bundle + "/shim.pid", std::to_string(child)));
    }
    TRY(pod::write_quickly(bundle + "/address", address));
    return bootstrap_answer(address, std::getenv("MAX_SHIM_VERSION"));
}

} // namespace shim
