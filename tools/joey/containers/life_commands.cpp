// stop, restart, kill, rm, pause, unpause, wait: what becomes of a container.
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>

#include "tools/image/process.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/pod_network.hpp"
#include "tools/joey/containers/watcher.hpp"

namespace joey::containers {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds patience(20'000);

// A guest that says nothing keeps nobody from ending it.
milliseconds patience_for_signal() {
    return pod::patience(milliseconds(10'000));
}

os::Result<void> not_running(const Container& container) {
    return os::fail(os::Code::FailedPrecondition, "container ", container.name, " is not running");
}

// Ends it for good. `grace`: before SIGKILL; negative: for ever.
os::Result<void> stop_one(Registry& registry, const Container& container, int signal,
                          std::int64_t grace) {
    const Condition now = registry.condition(container);
    if (!now.is_live())
        return {};
    registry.set_stopped(container, true);
    // If it waits to be started again, it need not.
    static_cast<void>(now.monitor.signal(SIGUSR1).has_value());
    if (now.phase == Phase::Paused)
        static_cast<void>(registry.engine().resume(container.id).has_value());
    static_cast<void>(
        registry.engine().kill(container.id, signal, false, patience_for_signal()).has_value());
    constexpr std::int64_t longest = 86'400;
    const milliseconds limit(grace < 0 ? longest * 1000 : std::min(grace, longest) * 1000);
    if (now.monitor.wait_for_end(limit))
        return {};
    static_cast<void>(
        registry.engine().kill(container.id, SIGKILL, true, patience_for_signal()).has_value());
    if (now.monitor.wait_for_end(patience))
        return {};
    // The guest does not answer, or the monitor does not. First the monitor: one that hangs, or was
    // stopped, may hold a lock that the end of the rest is waited for with.
    if (!now.monitor.kill_and_wait(patience))
        return os::fail(os::Code::DeadlineExceeded, "container ", container.name, " does not end");
    static_cast<void>(registry.condition(container));
    return {};
}

os::Result<std::int64_t> grace_of(const Arguments& arguments, const Container& container) {
    if (!arguments.has("timeout"))
        return container.stop_timeout;
    const std::string text = arguments.value("timeout");
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        return os::fail(os::Code::InvalidArgument, "--timeout ", text, ": give seconds");
    return value;
}

os::Result<int> signal_of(const Arguments& arguments, int otherwise) {
    return arguments.has("signal") ? image::parse_signal(arguments.value("signal"))
                                   : os::Result<int>(otherwise);
}

os::Result<void> stop_as_asked(Session& session, const Arguments& arguments,
                               const Container& container) {
    TRY(const std::int64_t grace, grace_of(arguments, container));
    TRY(const int signal, signal_of(arguments, container.stop_signal));
    TRY(stop_one(session.registry, container, signal, grace));
    session.registry.note(container, "stop");
    return {};
}

// With --rm, its monitor looks at its end whether the container is to be kept. A start takes that
// mark away: before the monitor has gone, it would take away what has just been started.
os::Result<void> await_monitor(const Registry& registry, const Container& container) {
    const Condition now = registry.peek(container);
    if (container.remove && now.phase == Phase::Exited && now.boot == boot_id() &&
        !now.monitor.wait_for_end(patience))
        return os::fail(os::Code::DeadlineExceeded, "container ", container.name,
                        " is just being removed");
    return {};
}

} // namespace

os::Result<int> stop(Session& session, const Arguments& arguments) {
    return for_each_container(
        session, arguments.words(),
        [&](const Container& container, const std::string& word) -> os::Result<void> {
            TRY(stop_as_asked(session, arguments, container));
            TRY(print(word + "\n"));
            return {};
        });
}

os::Result<int> restart(Session& session, const Arguments& arguments) {
    return for_each_container(
        session, arguments.words(),
        [&](const Container& container, const std::string& word) -> os::Result<void> {
            for (;;) {
                session.registry.set_kept(container, true);
                auto stopped = stop_as_asked(session, arguments, container);
                if (stopped)
                    stopped = await_monitor(session.registry, container);
                if (!stopped) {
                    session.registry.set_kept(container, false);
                    return stopped;
                }
                TRY(const pod::Lock held, session.registry.lock(container));
                // Another command has started it meanwhile: there is one monitor at a time.
                if (session.registry.peek(container).is_live())
                    continue;
                TRY(const os::UniqueFd socket, start_monitor(session.registry, container, {}));
                TRY(const std::optional<int> failed, await_start(socket.get()));
                if (failed)
                    return os::fail(os::Code::Internal, "container ", word, " did not start again");
                break;
            }
            TRY(print(word + "\n"));
            return {};
        });
}

os::Result<int> kill(Session& session, const Arguments& arguments) {
    TRY(const int number, signal_of(arguments, SIGKILL));
    return for_each_container(
        session, arguments.words(),
        [&](const Container& container, const std::string& word) -> os::Result<void> {
            const Condition now = session.registry.condition(container);
            if (!now.is_live())
                return not_running(container);
            // As Docker: ended by a person, no policy starts it again.
            const bool is_end = number == SIGKILL || number == container.stop_signal;
            if (is_end) {
                session.registry.set_stopped(container, true);
                static_cast<void>(now.monitor.signal(SIGUSR1).has_value());
            }
            if (now.phase == Phase::Paused && is_end)
                static_cast<void>(session.registry.engine().resume(container.id).has_value());
            if (now.phase != Phase::Restarting) {
                TRY(session.registry.engine().kill(container.id, number, false));
            }
            session.registry.note(container, "kill", {{"signal", std::to_string(number)}});
            TRY(print(word + "\n"));
            return {};
        });
}

os::Result<void> remove_container(Session& session, const Container& container, bool force) {
    Registry& registry = session.registry;
    std::optional<pod::Lock> lock;
    while (!lock) {
        if (!force && registry.condition(container).is_live())
            return os::fail(os::Code::FailedPrecondition, "container ", container.name,
                            " is running; 'joey stop' it first, or remove it with --force");
        TRY(stop_one(registry, container, SIGKILL, 1));
        auto held = registry.lock(container);
        if (!held)
            return {}; // with --rm, its monitor was faster
        // Who had the lock may have started it.
        if (!registry.peek(container).is_live())
            lock = std::move(*held);
    }
    TRY(registry.engine().remove(container.id, true));
    if (!container.pod.empty())
        leave_pod(registry, container);
    registry.note(container, "destroy");
    return registry.drop(container);
}

os::Result<int> remove(Session& session, const Arguments& arguments) {
    const bool force = arguments.has("force");
    int status = 0;
    for (const std::string& word : arguments.words()) {
        auto container = session.registry.find(word);
        if (!container && force && container.error().code == os::Code::NotFound)
            continue;
        os::Result<void> done;
        if (!container)
            done = base::Failure(container.error());
        else
            done = remove_container(session, *container, force);
        if (done)
            done = [&]() -> os::Result<void> {
                TRY(print(word + "\n"));
                return {};
            }();
        if (!done) {
            complain(printable(done.error().message));
            status = 1;
        }
    }
    return status;
}

os::Result<int> pause(Session& session, const Arguments& arguments) {
    return for_each_container(
        session, arguments.words(),
        [&](const Container& container, const std::string& word) -> os::Result<void> {
            const Condition now = session.registry.condition(container);
            if (now.phase == Phase::Paused)
                return os::fail(os::Code::FailedPrecondition, "container ", word,
                                " is paused already");
            if (now.phase != Phase::Running)
                return not_running(container);
            TRY(session.registry.engine().pause(container.id));
            session.registry.note(container, "pause");
            TRY(print(word + "\n"));
            return {};
        });
}

os::Result<int> unpause(Session& session, const Arguments& arguments) {
    return for_each_container(
        session, arguments.words(),
        [&](const Container& container, const std::string& word) -> os::Result<void> {
            if (session.registry.condition(container).phase != Phase::Paused)
                return os::fail(os::Code::FailedPrecondition, "container ", word, " is not paused");
            TRY(session.registry.engine().resume(container.id));
            session.registry.note(container, "unpause");
            TRY(print(word + "\n"));
            return {};
        });
}

namespace {

constexpr char no_flags = 0;

// Nothing: its monitor does not listen, or is gone.
std::optional<int> hear_of_end(const Registry& registry, const Container& container) {
    const auto socket = connect_in(registry.directory(container));
    if (!socket)
        return std::nullopt;
    tell(socket->get(), Word::Hello, std::string_view(&no_flags, 1), true);
    for (;;) {
        const auto heard = hear(socket->get(), true);
        if (!heard || !*heard)
            return std::nullopt;
        if ((*heard)->word == Word::Ended)
            return std::atoi((*heard)->data.c_str());
    }
}

// The status of the next end, or of the last one; with --rm, only its monitor can still tell.
os::Result<int> wait_for_end(Registry& registry, const Container& container) {
    for (;;) {
        const Condition now = registry.condition(container);
        if (now.phase == Phase::Created && !registry.has(container.id))
            return os::fail(os::Code::NotFound, "No such container: ", container.name);
        if (!now.is_live())
            return now.status;
        if (const auto status = hear_of_end(registry, container))
            return *status;
        // One that is just starting does not listen yet, and one whose audience is large enough
        // takes nobody more.
        constexpr milliseconds between(100);
        now.monitor.wait_for_end(between);
    }
}

} // namespace

os::Result<int> wait(Session& session, const Arguments& arguments) {
    return for_each_container(
        session, arguments.words(),
        [&](const Container& container, const std::string&) -> os::Result<void> {
            TRY(const int status, wait_for_end(session.registry, container));
            TRY(print(std::to_string(status) + "\n"));
            return {};
        });
}

} // namespace joey::containers
