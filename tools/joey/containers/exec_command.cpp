// exec, top: programs in a container that runs.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <memory>
#include <unistd.h>

#include "tools/image/accounts.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/layer.hpp"
#include "tools/joey/containers/monitor.hpp"
#include "tools/joey/containers/security.hpp"
#include "tools/joey/containers/variables.hpp"
#include "tools/joey/containers/watcher.hpp"

namespace joey::containers {

using pod::Json;

os::Result<OpenRoot> open_root(Registry& registry, const Container& container) {
    OpenRoot out;
    std::string path = container.root;
    Condition now = registry.condition(container);
    if (!container.lower.empty() && !now.is_live()) {
        TRY(out.held, registry.lock(container));
        // Who had the lock may have started it.
        now = registry.peek(container);
        if (now.is_live())
            out.held.reset();
    }
    if (!container.lower.empty() && now.is_live()) {
        path = os::text("/proc/", now.monitor.pid, "/root", container.root);
    } else if (!container.lower.empty()) {
        TRY(enter_own_mounts());
        TRY(mount_root(container));
    }
    out.directory = os::UniqueFd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!out.directory || (now.is_live() && !now.monitor.is_alive()))
        return os::fail_errno(errno, "the root directory of ", container.name);
    return out;
}

namespace {

os::Result<Container> find_running(Session& session, const std::string& word) {
    TRY(Container container, session.registry.find(word));
    const Condition now = session.registry.condition(container);
    if (now.phase == Phase::Paused)
        return os::fail(os::Code::FailedPrecondition, "container ", word,
                        " is paused; 'joey unpause' it first");
    if (now.phase != Phase::Running)
        return os::fail(os::Code::FailedPrecondition, "container ", word, " is not running");
    return container;
}

// "NAME=VALUE"; a name alone takes it away.
void set_variable(Json& process, const std::string& variable) {
    Json& env = process["env"];
    const std::string start = variable.substr(0, variable.find('=')) + "=";
    if (env.is_array())
        env.erase(std::remove_if(env.begin(), env.end(),
                                 [&](const Json& one) {
                                     return one.is_string() &&
                                            one.get_ref<const std::string&>().starts_with(start);
                                 }),
                  env.end());
    if (variable.size() >= start.size())
        env.push_back(variable);
}

os::Result<void> set_user(Registry& registry, const Container& container, const std::string& user,
                          Json& process) {
    TRY(const OpenRoot root, open_root(registry, container));
    TRY(const image::Account account, image::find_account_in(user, root.directory.get()));
    process["user"] = Json{{"uid", account.uid}, {"gid", account.gid}};
    if (!account.groups.empty())
        process["user"]["additionalGids"] = account.groups;
    set_variable(process, "HOME=" + account.home);
    return {};
}

void set_capabilities(bool privileged, Json& process) {
    const Json bounding =
        privileged ? Json(all_capabilities()) : process["capabilities"]["bounding"];
    process["capabilities"] = Json{{"bounding", bounding}};
    if (pod::int_of(process["user"], "uid") == 0 || privileged) {
        process["capabilities"]["effective"] = bounding;
        process["capabilities"]["permitted"] = bounding;
    }
}

os::Result<Json> process_of(Session& session, const Arguments& arguments,
                            const Container& container) {
    TRY(const pod::ContainerState state, session.registry.engine().state(container.id));
    Json process = state.record.process_template;
    const std::vector<std::string>& words = arguments.words();
    process["args"] = std::vector<std::string>(words.begin() + 1, words.end());
    process["terminal"] = arguments.has("tty") && !arguments.has("detach");
    process.erase("consoleSize");
    if (arguments.has("user")) {
        TRY(set_user(session.registry, container, arguments.value("user"), process));
    }
    if (arguments.has("tty"))
        set_variable(process, "TERM=xterm");
    TRY(const std::vector<std::string> variables, read_variables(arguments));
    for (const std::string& variable : variables)
        set_variable(process, variable);
    if (arguments.has("workdir")) {
        const std::string place = arguments.value("workdir");
        if (!place.starts_with('/'))
            return os::fail(os::Code::InvalidArgument, "--workdir ", place,
                            ": give an absolute path");
        process["cwd"] = place;
    }
    set_capabilities(arguments.has("privileged"), process);
    return process;
}

// Of exec itself: the program's own failures to start have statuses of their own.
os::Result<int> execute(Session& session, const Container& container, Json process, bool detach,
                        const std::string& detach_keys) {
    // In the background, it does not have this process's streams: whoever reads them waits for
    // their end.
    std::optional<pod::StreamFds> streams;
    if (detach)
        streams = pod::StreamFds{-1, -1, -1};
    const auto finder = std::make_shared<KeyFinder>(detach_keys);
    const auto status = session.registry.engine().exec({.container = container.id,
                                                        .process = std::move(process),
                                                        .console_socket = {},
                                                        .pid_file = {},
                                                        .detach = detach,
                                                        .streams = streams,
                                                        .leaves = [finder](std::string& typed) {
                                                            typed = finder->pass(typed);
                                                            return finder->found();
                                                        }});
    if (finder->found())
        std::fputs("read escape sequence\n", stderr);
    if (status)
        return *status;
    complain(printable(status.error().message));
    const int mapped = status_of_failure(status.error());
    return mapped == 125 ? 1 : mapped;
}

void silence_input() {
    const os::UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    ::dup2(null.get(), STDIN_FILENO);
}

} // namespace

os::Result<int> exec(Session& session, const Arguments& arguments) {
    TRY(const Container container, find_running(session, arguments.words().front()));
    TRY(Json process, process_of(session, arguments, container));
    const bool terminal = pod::bool_of(process, "terminal");
    if (terminal && ::isatty(STDIN_FILENO) != 1)
        return os::fail(os::Code::InvalidArgument,
                        "exec: the input device is not a TTY; leave -t out");
    TRY(const std::string keys, parse_keys(arguments.value("detach-keys", "ctrl-p,ctrl-q")));
    if (!terminal && (!arguments.has("interactive") || arguments.has("detach")))
        silence_input();
    session.registry.note(container, "exec_start: " + arguments.words()[1]);
    return execute(session, container, std::move(process), arguments.has("detach"), keys);
}

os::Result<int> top(Session& session, const Arguments& arguments) {
    TRY(const Container container, find_running(session, arguments.words().front()));
    TRY(const pod::ContainerState state, session.registry.engine().state(container.id));
    Json process = state.record.process_template;
    std::vector<std::string> args = arguments.words();
    args.front() = "ps";
    process["args"] = args;
    process["terminal"] = false;
    silence_input();
    const auto status = session.registry.engine().exec({.container = container.id,
                                                        .process = std::move(process),
                                                        .console_socket = {},
                                                        .pid_file = {},
                                                        .detach = false});
    if (status)
        return *status;
    // Without a ps of its own, there are the numbers that the guest's kernel knows.
    TRY(const std::vector<std::uint32_t> pids, session.registry.engine().processes(container.id));
    std::string out = "PID\n";
    for (const std::uint32_t pid : pids)
        out += std::to_string(pid) + "\n";
    return print(out);
}

} // namespace joey::containers
