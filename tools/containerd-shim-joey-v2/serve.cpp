// The service: everything hangs on one loop of one thread.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "tools/containerd-shim-joey-v2/address.hpp"
#include "tools/containerd-shim-joey-v2/commands.hpp"
#include "tools/containerd-shim-joey-v2/engine_work.hpp"
#include "tools/containerd-shim-joey-v2/service.hpp"
#include "tools/pod/patience.hpp"

namespace shim {

namespace {

constexpr int service_socket = 3;
constexpr std::chrono::seconds patience_for_events(5);

os::Result<os::UniqueFd> inherited_socket() {
    int listens = 0;
    socklen_t size = sizeof listens;
    if (::getsockopt(service_socket, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 ||
        listens == 0)
        return os::fail(os::Code::FailedPrecondition,
                        "descriptor 3 is no listening socket; containerd runs this program with "
                        "`start`, which sees to it");
    return os::UniqueFd(service_socket);
}

// `containerd publish`, with the event on its stdin. In a worker.
os::Result<std::string> publish_by_program(const CommandLine& line, const std::string& topic,
                                           const std::string& event) {
    const os::UniqueFd file(::memfd_create("event", MFD_CLOEXEC));
    if (!file ||
        ::write(file.get(), event.data(), event.size()) != static_cast<ssize_t>(event.size()))
        return os::fail_errno(errno, "keep an event");
    ::lseek(file.get(), 0, SEEK_SET);
    const pid_t child = ::fork();
    if (child == 0) {
        ::dup2(file.get(), STDIN_FILENO);
        ::execlp(line.publish_binary.c_str(), line.publish_binary.c_str(), "--address",
                 line.address.c_str(), "publish", "--topic", topic.c_str(), "--namespace",
                 line.name_space.c_str(), nullptr);
        ::_exit(127);
    }
    int status = 0;
    while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (child < 0 || status != 0)
        return os::fail(os::Code::Unavailable, line.publish_binary, " publish: status ",
                        WEXITSTATUS(status));
    return std::string();
}

// A shim without a container is about to get its first, or to end. If neither comes, containerd was
// killed in between: it does not know of the shim when it is started again, or takes it for one
// with a container (its issue 6860). Two of these.
constexpr std::chrono::seconds before_forgotten(20);
constexpr std::chrono::milliseconds least_before_forgotten(2000); // in a hurry, too

void end_when_forgotten(os::EventLoop& loop, const Service& service,
                        const std::function<void()>& end, bool was_idle = false) {
    const auto wait = std::max(pod::patience(before_forgotten), least_before_forgotten);
    loop.after(wait, [&loop, &service, end, was_idle] {
        const bool idle = !service.has_tasks();
        if (idle && was_idle)
            end();
        else
            end_when_forgotten(loop, service, end, idle);
    });
}

} // namespace

os::Result<void> serve(const CommandLine& line) {
    TRY(os::UniqueFd socket, inherited_socket());
    TRY(const auto loop, os::EventLoop::create());
    const Log log = Log::open(".", line.name_space, line.debug);
    TRY(const auto reaper, Reaper::start(*loop));
    Workers workers(*loop, *reaper);
    const char* events_socket = std::getenv("TTRPC_ADDRESS");
    Publisher publisher(
        *loop, {events_socket == nullptr ? "" : events_socket, line.name_space},
        [&workers, line](const std::string& topic, const std::string& event, Publisher::Done done) {
            workers.run([line, topic, event] { return publish_by_program(line, topic, event); },
                        std::move(done));
        },
        log);
    Service service({*loop, *reaper, workers, publisher, log}, line.name_space);
    ttrpc::Server server(*loop);
    service.add_to(server);
    const auto end = [&] {
        // Whoever starts the pod's next shim must not find this one.
        remove_socket(line.socket);
        publisher.when_idle(pod::patience(patience_for_events), [&] { loop->stop(); });
    };
    service.on_shutdown(end);
    reaper->on_terminate(end);
    TRY(server.listen(std::move(socket)));
    // When the pod's start is long over.
    constexpr std::chrono::seconds before_sweep(60);
    loop->after(before_sweep, [&workers, root = state_root(line.name_space)] {
        workers.run([root] { return sweep(root); }, [](const os::Result<std::string>&) {});
    });
    end_when_forgotten(*loop, service, end);
    log.debug("the shim serves");
    loop->run();
    return {};
}

} // namespace shim
