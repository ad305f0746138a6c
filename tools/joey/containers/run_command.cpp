// run, start, attach: a container begins, and somebody watches it.
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <functional>
#include <unistd.h>

#include "tools/image/store.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/layer.hpp"
#include "tools/joey/containers/run_request.hpp"
#include "tools/joey/containers/watcher.hpp"

namespace joey::containers {

namespace {

// All that belongs to it on disk. Requires: it has its name.
os::Result<void> make_container(Session& session, RunRequest& request) {
    Container& container = request.container;
    Registry& registry = session.registry;
    const std::string directory = registry.directory(container);
    if (request.base.id.empty()) {
        container.root = request.base.root;
    } else {
        TRY(const image::Store store, image::Store::open(container.store));
        TRY(store.claim(container.image_id, container.id, directory + "/container.json"));
        TRY(prepare_layer(container, directory, request.base.root));
    }
    // Until there is a record of them: volumes that nobody has can be removed.
    TRY(const pod::Lock held, pod::Lock::share(registry.volumes_lock()));
    TRY(place_volumes(session, request, directory));
    request.config["root"]["path"] = container.root;
    const std::string config = directory + "/config.json";
    TRY(container.remove ? pod::write_quickly(config, pod::to_text(request.config))
                         : pod::write_whole(config, pod::to_text(request.config)));
    TRY(registry.write_record(container, !container.remove));
    registry.note(container, "create");
    return {};
}

// Until somebody watches: then they are the program's.
void hold_signals() {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT})
        ::sigaddset(&set, number);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

os::Result<int> begin(Session& session, const Container& container, const Start& how,
                      const std::function<os::Result<int>(os::UniqueFd)>& then) {
    os::UniqueFd socket;
    // What a monitor that was killed has left goes before the lock is taken.
    static_cast<void>(session.registry.condition(container));
    if (how.wants != 0)
        hold_signals();
    {
        TRY(const pod::Lock held, session.registry.lock(container));
        const Condition now = session.registry.peek(container);
        if (now.is_live())
            return os::fail(os::Code::FailedPrecondition, "container ", container.name,
                            " is running already");
        // With --rm that is what its monitor does last.
        if (container.remove && now.phase == Phase::Exited && now.boot == boot_id() &&
            now.monitor.is_alive())
            return os::fail(os::Code::FailedPrecondition, "container ", container.name,
                            " is just being removed");
        TRY(socket, start_monitor(session.registry, container, how));
        TRY(const std::optional<int> failed, await_start(socket.get()));
        if (failed)
            return *failed;
    }
    return then(std::move(socket));
}

// --cidfile: made first, so that two commands do not write to one; it goes again, unless there is a
// container by what it says.
class IdFile {
public:
    static os::Result<IdFile> make(const std::string& path) {
        IdFile out(path);
        if (path.empty())
            return out;
        out.file_ = os::UniqueFd(
            ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
        if (!out.file_ && errno == EEXIST)
            return os::fail(os::Code::AlreadyExists, "--cidfile ", path, ": is there already");
        if (!out.file_)
            return os::fail_errno(errno, "--cidfile ", path);
        return out;
    }
    IdFile(IdFile&&) = default;
    IdFile& operator=(IdFile&&) = default;
    ~IdFile() {
        if (file_ && !is_kept_)
            ::unlink(path_.c_str());
    }

    os::Result<void> write(const std::string& id) const {
        if (file_ && ::write(file_.get(), id.data(), id.size()) != static_cast<ssize_t>(id.size()))
            return os::fail_errno(errno, "--cidfile ", path_);
        return {};
    }
    void keep() { is_kept_ = true; }

private:
    explicit IdFile(std::string path) : path_(std::move(path)) {}

    std::string path_;
    os::UniqueFd file_;
    bool is_kept_ = false;
};

} // namespace

namespace {

os::Result<void> make_whole(Session& session, const Arguments& arguments, RunRequest& request) {
    TRY(IdFile file, IdFile::make(arguments.value("cidfile")));
    auto made = session.registry.add(request.container);
    const bool is_taken = !made && made.error().code == os::Code::AlreadyExists;
    if (made)
        made = file.write(request.container.id);
    if (made)
        made = make_container(session, request);
    if (made)
        file.keep();
    else if (!is_taken)
        static_cast<void>(session.registry.drop(request.container).has_value());
    return made;
}

} // namespace

os::Result<int> create(Session& session, const Arguments& arguments) {
    TRY(RunRequest request, read_run_request(session, arguments));
    TRY(make_whole(session, arguments, request));
    return print(request.container.id + "\n");
}

os::Result<int> run(Session& session, const Arguments& arguments) {
    TRY(RunRequest request, read_run_request(session, arguments));
    const Container& container = request.container;
    if (container.terminal && container.open_stdin && !request.detach &&
        ::isatty(STDIN_FILENO) != 1)
        return os::fail(os::Code::InvalidArgument,
                        "run: the input device is not a TTY; leave -t out, or -i");
    TRY(make_whole(session, arguments, request));
    const Start how{request.wants, request.detach ? Size{} : own_size()};
    return begin(session, container, how, [&](os::UniqueFd socket) -> os::Result<int> {
        if (request.detach)
            return print(container.id + "\n");
        const WatchOptions options{container.open_stdin, container.terminal, request.proxy_signals,
                                   request.detach_keys};
        return watch(session.registry, container, std::move(socket), options);
    });
}

os::Result<int> start(Session& session, const Arguments& arguments) {
    const bool attached = arguments.has("attach") || arguments.has("interactive");
    if (attached && arguments.words().size() > 1)
        return os::fail(os::Code::InvalidArgument, "start: only one container can be attached to");
    int result = 0;
    const int status = for_each_container(
        session, arguments.words(),
        [&](const Container& container, const std::string& word) -> os::Result<void> {
            // As Docker: to start what runs is no mistake.
            const Phase phase = session.registry.condition(container).phase;
            if (!attached && (phase == Phase::Running || phase == Phase::Restarting)) {
                TRY(print(word + "\n"));
                return {};
            }
            const bool input = arguments.has("interactive") && container.open_stdin;
            const unsigned wants =
                attached ? (input ? wants_input : 0U) | wants_output | wants_errors : 0U;
            TRY(result, begin(session, container, {wants, attached ? own_size() : Size{}},
                              [&](os::UniqueFd socket) -> os::Result<int> {
                                  if (!attached)
                                      return print(word + "\n");
                                  return watch(session.registry, container, std::move(socket),
                                               {input, container.terminal, true,
                                                arguments.value("detach-keys", "ctrl-p,ctrl-q")});
                              }));
            return {};
        });
    return status != 0 ? status : result;
}

os::Result<int> attach(Session& session, const Arguments& arguments) {
    TRY(const Container container, session.registry.find(arguments.words().front()));
    const Condition now = session.registry.condition(container);
    if (now.phase == Phase::Paused)
        return os::fail(os::Code::FailedPrecondition, "container ", container.name,
                        " is paused; 'joey unpause' it first");
    if (!now.is_live())
        return os::fail(os::Code::FailedPrecondition, "container ", container.name,
                        " is not running");
    TRY(os::UniqueFd socket, connect_in(session.registry.directory(container)));
    const bool input = container.open_stdin && !arguments.has("no-stdin");
    const char wants = static_cast<char>((input ? wants_input : 0U) | wants_output | wants_errors);
    tell(socket.get(), Word::Hello, std::string_view(&wants, 1), true);
    return watch(session.registry, container, std::move(socket),
                 {input, container.terminal, arguments.value("sig-proxy", "true") == "true",
                  arguments.value("detach-keys", "ctrl-p,ctrl-q")});
}

} // namespace joey::containers
