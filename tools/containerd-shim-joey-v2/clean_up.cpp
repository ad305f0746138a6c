// delete: what a shim that was killed left of one container. containerd calls it for each.
#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <functional>
#include <poll.h>
#include <unistd.h>

#include "agent/os/files.hpp"
#include "agent/ttrpc/client.hpp"
#include "tools/containerd-shim-joey-v2/address.hpp"
#include "tools/containerd-shim-joey-v2/commands.hpp"
#include "tools/containerd-shim-joey-v2/engine_work.hpp"
#include "tools/containerd-shim-joey-v2/grouping.hpp"

namespace shim {

namespace {

constexpr int killed = 137;
// containerd kills this command after five seconds, and then forgets the container: the VM has this
// long to end by itself, and containerd its answer before that.
constexpr std::chrono::milliseconds patience_for_vm(1500);
constexpr std::chrono::milliseconds answer_within(4000);

// Files of a bundle may be missing: it may have been killed anywhere.
std::string content_of(const std::string& path) {
    const auto text = os::read_file(AT_FDCWD, path.c_str());
    return text ? *text : std::string();
}

// In a process of its own, which goes on if this one is killed. What it does is undone by nobody,
// so that an answer that does not come in time is not waited for.
os::Result<void> do_apart(os::EventLoop::Clock::time_point answer_by,
                          const std::function<os::Result<std::string>()>& work) {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
        return os::fail_errno(errno, "make a pipe");
    const os::UniqueFd near(ends[0]);
    os::UniqueFd far(ends[1]);
    const pid_t child = ::fork();
    if (child < 0)
        return os::fail_errno(errno, "fork");
    if (child == 0) {
        ::setsid();
        std::signal(SIGPIPE, SIG_IGN);
        // containerd waits for the end of this command's streams.
        const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int fd = 0; fd < 3; ++fd)
            ::dup2(null, fd);
        const auto done = work();
        const std::string said = done ? std::string() : done.error().message;
        static_cast<void>(!::write(far.get(), said.data(), said.size()));
        ::_exit(0);
    }
    far.reset();
    pollfd wanted{near.get(), POLLIN, 0};
    int ready = 0;
    do {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            answer_by - os::EventLoop::Clock::now());
        ready = ::poll(&wanted, 1, std::max(static_cast<int>(left.count()), 0));
    } while (ready < 0 && errno == EINTR);
    std::array<char, 1024> why{};
    const ssize_t got = ready > 0 ? ::read(near.get(), why.data(), why.size()) : 0;
    if (got > 0)
        return os::fail(os::Code::Internal,
                        std::string_view(why.data(), static_cast<std::size_t>(got)));
    return {};
}

// Where the container's shim listens, if there is one.
struct ShimPlace {
    std::string address;
    bool told = false; // `start` lived to say it
};

ShimPlace find_shim(const CommandLine& line, const std::string& bundle) {
    ShimPlace out{content_of(bundle + "/address"), true};
    if (!out.address.empty())
        return out;
    const auto group = group_of_bundle(bundle, line.id);
    return {socket_address(socket_folder, line.address, line.name_space, group ? *group : line.id),
            false};
}

// It does not, if it has containers.
void ask_to_end(const std::string& address, const std::string& id) {
    constexpr std::chrono::milliseconds limit(1000);
    const auto loop = os::EventLoop::create();
    auto socket = connect_to(path_of(address));
    if (!loop || !socket)
        return;
    const auto client = ttrpc::Client::start(**loop, std::move(*socket));
    if (!client)
        return;
    api::ShutdownRequest request;
    request.set_id(id);
    static_cast<void>(
        (*client)
            ->call_and_wait<wellknown::Empty>("containerd.task.v2.Task", "Shutdown", request, limit)
            .has_value());
}

} // namespace

os::Result<std::string> clean_up(const CommandLine& line) {
    const auto answer_by = os::EventLoop::Clock::now() + answer_within;
    std::string bundle = line.bundle;
    if (bundle.empty()) {
        char* here = ::getcwd(nullptr, 0);
        bundle = here == nullptr ? "" : here;
        std::free(here);
    }
    const std::string root = state_root(line.name_space);
    api::DeleteResponse response;
    response.set_exit_status(killed);
    set_time(*response.mutable_exited_at(), now());
    const pod::StateRoot state{root};
    if (const auto exit = pod::ExitRecord::load(state.container(line.id) + "/exit.json")) {
        response.set_exit_status(static_cast<std::uint32_t>(exit->status));
        set_time(*response.mutable_exited_at(), exit->at);
    }
    response.set_pid(
        static_cast<std::uint32_t>(std::atoi(content_of(bundle + "/init.pid").c_str())));
    const ShimPlace place = find_shim(line, bundle);
    const bool shim_lives = can_connect(place.address);
    if (!shim_lives)
        remove_socket(place.address);
    else if (!place.told)
        ask_to_end(place.address, line.id); // nobody else knows of it
    // containerd wants this after deletions of the ordinary kind, too: then it is no reason to take
    // the VM from those that share it.
    TRY(do_apart(answer_by, [&] {
        return shim_lives && has_others(state, line.id)
                   ? forget(root, line.id, bundle + "/rootfs")
                   : remove(root, line.id, bundle + "/rootfs", patience_for_vm);
    }));
    return response.SerializeAsString();
}

} // namespace shim
