#include "tools/joey/containers/monitor.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fcntl.h>

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent/os/event_loop.hpp"
#include "agent/os/files.hpp"
#include "tools/image/store.hpp"
#include "tools/joey/containers/audience.hpp"
#include "tools/joey/containers/health.hpp"
#include "tools/joey/containers/layer.hpp"
#include "tools/joey/containers/pod_network.hpp"
#include "tools/joey/containers/program.hpp"
#include "tools/joey/containers/vm_log.hpp"
#include "tools/joey/outcome.hpp"
#include "tools/pod/vm_process.hpp"

namespace joey::containers {

namespace {

using Clock = std::chrono::steady_clock;

// Between an end and the next start; doubled each time, unless the program ran for a while.
constexpr std::chrono::milliseconds first_delay(100);
constexpr std::chrono::milliseconds longest_delay(60'000);
constexpr std::chrono::seconds long_enough(10);
// For those who watch, after the end.
constexpr std::chrono::seconds in_a_hurry(3);
constexpr std::chrono::seconds without_hurry(365 * 86'400);
// Typed while nothing runs.
constexpr std::size_t most_early_input = 64U << 10;

} // namespace

int status_of_failure(const os::Error& error) {
    const auto says = [&](const char* words) {
        return error.message.find(words) != std::string::npos;
    };
    if (!says("exec: "))
        return exit_joey_failed;
    return says("not found") || says("o such file") ? exit_not_found : exit_not_executable;
}

namespace {

class Monitor {
public:
    Monitor(os::EventLoop& loop, Registry& registry, Container container)
        : loop_(loop), registry_(registry), container_(std::move(container)),
          log_(registry.directory(container_) + "/log", container_.log),
          audience_(loop,
                    {[this](std::string_view data) { input(data); }, [this] { end_of_input(); },
                     [this](Size size) { resize(size); }, [this] { hold_output(false); }}) {}

    void run(os::UniqueFd first);

private:
    os::Result<void> prepare();
    os::Result<void> start_once();
    void run_until_end();
    bool wait_for_restart(std::chrono::milliseconds delay);
    void take_signals();
    void end_for_good();
    void output(Stream stream, std::string_view data);
    void input(std::string_view data) {
        if (program_)
            program_->write_input(data);
        else if (early_input_.size() < most_early_input)
            early_input_ += data;
    }
    void end_of_input() {
        input_ended_ = true;
        if (program_ && container_.attached_stdin)
            program_->end_input();
    }
    void resize(Size size) {
        size_ = size;
        if (program_)
            program_->resize(size);
    }
    void hold_output(bool hold) {
        if (program_)
            program_->hold_output(hold);
    }
    void set_phase(Phase phase) {
        now_.phase = phase;
        registry_.store(container_, now_);
    }
    // Of now: `update` changes it.
    RestartPolicy policy() const {
        const auto known = registry_.find(container_.id);
        return known ? known->restart : container_.restart;
    }
    void take_health(const HealthState& state);

    os::EventLoop& loop_;
    Registry& registry_;
    const Container container_;
    Condition now_;
    LogWriter log_;
    os::UniqueFd signals_;
    std::optional<image::Rootfs> image_root_;
    std::unique_ptr<Program> program_;
    Audience audience_;
    std::string early_input_;
    bool input_ended_ = false;
    Size size_;
};

os::Result<void> Monitor::prepare() {
    now_ = registry_.peek(container_);
    now_.error.clear();
    now_.restarts = 0;
    now_.boot = boot_id();
    const auto self = pod::ProcessId::of(::getpid());
    if (!self)
        return os::fail(os::Code::Internal, "/proc does not show this process");
    now_.monitor = *self;
    // Before anybody knows whom to send one.
    sigset_t set;
    ::sigemptyset(&set);
    for (const int number : {SIGUSR1, SIGTERM, SIGHUP, SIGINT, SIGQUIT})
        ::sigaddset(&set, number);
    ::sigprocmask(SIG_SETMASK, &set, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    set_phase(Phase::Starting);
    signals_ = os::UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_)
        return os::fail_errno(errno, "make a signalfd");
    TRY(loop_.watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { take_signals(); }));
    TRY(os::UniqueFd listener, listen_in(registry_.directory(container_)));
    audience_.listen(std::move(listener));
    if (!container_.image_id.empty()) {
        // Kept from removal for as long as this runs.
        TRY(const image::Store store, image::Store::open(container_.store));
        TRY(const image::Image image, store.find(container_.image_id));
        TRY(image_root_, store.use(image));
    }
    // Before: where programs are is known by this one's place.
    TRY(pod::find_agent());
    TRY(enter_own_mounts());
    return mount_root(container_);
}

void Monitor::take_signals() {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        // Whoever ends the monitor means the container.
        if (info.ssi_signo != SIGUSR1) {
            registry_.set_stopped(container_, true);
            static_cast<void>(
                registry_.engine().kill(container_.id, container_.stop_signal, false).has_value());
        }
    }
}

void Monitor::output(Stream stream, std::string_view data) {
    log_.write(stream, data);
    audience_.tell_all(stream == Stream::Out ? Word::Output : Word::ErrorOutput, data);
    if (audience_.is_full())
        hold_output(true);
}

void Monitor::take_health(const HealthState& state) {
    const bool is_new = state.status != now_.health.status && state.status != "starting";
    now_.health = state;
    registry_.store(container_, now_);
    if (is_new)
        registry_.note(container_, "health_status: " + state.status);
}

os::Result<void> Monitor::start_once() {
    static_cast<void>(registry_.engine().remove(container_.id, true).has_value());
    TRY(write_network_files(registry_, container_, registry_.directory(container_)));
    TRY(join_pod(registry_, container_));
    program_ = std::make_unique<Program>(
        loop_, registry_, container_,
        Program::Handlers{[this](Stream stream, std::string_view data) { output(stream, data); },
                          [this] { audience_.hold_input(true); },
                          [this] { audience_.hold_input(false); }});
    program_->resize(size_);
    TRY(program_->create());
    // Whoever stopped it meanwhile found nothing that takes a signal.
    if (registry_.is_stopped(container_))
        return os::fail(os::Code::FailedPrecondition, "container ", container_.name,
                        " was stopped before its program began");
    TRY(program_->start());
    program_->write_input(early_input_);
    early_input_.clear();
    if (input_ended_ && container_.attached_stdin)
        program_->end_input();
    now_.started = pod::timestamp();
    now_.finished.clear();
    now_.out_of_memory = false;
    now_.error.clear();
    set_phase(Phase::Running);
    registry_.note(container_, "start");
    return {};
}

void Monitor::run_until_end() {
    std::optional<Health> health;
    if (!container_.health.command.empty())
        health.emplace(loop_, registry_, container_,
                       [this](const HealthState& state) { take_health(state); });
    while (!program_->status()) {
        loop_.run_once(std::chrono::milliseconds(-1));
        if (program_->has_ended() && registry_.is_stopped(container_))
            program_->hurry();
    }
    health.reset();
    now_.status = *program_->status();
    now_.health.status.clear();
    log_.finish();
    keep_vm_log(registry_, container_);
    const auto state = registry_.engine().state(container_.id);
    now_.out_of_memory = state && state->exit && state->exit->oom_killed;
    if (now_.out_of_memory)
        registry_.note(container_, "oom");
    registry_.note(container_, "die", {{"exitCode", std::to_string(now_.status)}});
}

// False: it is not to be started again after all.
bool Monitor::wait_for_restart(std::chrono::milliseconds delay) {
    bool late = false;
    const auto timer = loop_.after(delay, [&late] { late = true; });
    while (!late && !registry_.is_stopped(container_))
        loop_.run_once(std::chrono::milliseconds(-1));
    loop_.cancel(timer);
    return late && !registry_.is_stopped(container_);
}

void Monitor::end_for_good() {
    program_.reset();
    static_cast<void>(registry_.engine().remove(container_.id, true).has_value());
    unmount_root(container_);
    now_.finished = pod::timestamp();
    set_phase(now_.phase == Phase::Starting ? Phase::Created : Phase::Exited);
    if (!container_.pod.empty())
        leave_pod(registry_, container_);
    if (container_.remove && !registry_.is_kept(container_)) {
        registry_.note(container_, "destroy");
        static_cast<void>(registry_.drop(container_).has_value());
    }
}

void Monitor::run(os::UniqueFd first) {
    audience_.add(std::move(first));
    auto started = prepare();
    std::chrono::milliseconds delay = first_delay;
    bool has_run = false;
    for (;;) {
        const Clock::time_point began = Clock::now();
        if (started)
            started = start_once();
        if (started && !has_run)
            audience_.tell_all(Word::Started, {});
        if (started) {
            has_run = true;
            run_until_end();
        } else if (!has_run || !registry_.is_stopped(container_)) {
            now_.status = status_of_failure(started.error());
            now_.error = started.error().message;
        }
        if (!has_run || registry_.is_stopped(container_) ||
            !policy().restarts(now_.status, now_.restarts))
            break;
        // Who watches sees one run.
        audience_.tell_all(Word::Ended, std::to_string(now_.status));
        program_.reset();
        now_.finished = pod::timestamp();
        set_phase(Phase::Restarting);
        delay = Clock::now() - began > long_enough ? first_delay : delay;
        if (!wait_for_restart(delay))
            break;
        delay = std::min(delay * 2, longest_delay);
        ++now_.restarts;
        started = {};
    }
    // Who reads slowly gets all of it, unless somebody waits for the end.
    const auto patience = registry_.is_stopped(container_) ? in_a_hurry : without_hurry;
    end_for_good();
    if (has_run)
        audience_.tell_all(Word::Ended, std::to_string(now_.status));
    else
        audience_.tell_all(Word::Failed, os::text(now_.status, " ", now_.error));
    image_root_.reset();
    audience_.finish(patience);
}

[[noreturn]] void be_monitor(Registry& registry, const Container& container, int socket) {
    ::setsid();
    ::prctl(PR_SET_NAME, "joey-monitor", 0, 0, 0);
    os::close_all_but({socket});
    const os::UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    for (int fd = 0; fd < 3; ++fd)
        ::dup2(null.get(), fd);
    if (::chdir("/") != 0)
        ::_exit(1);
    ::umask(022);
    const auto loop = os::EventLoop::create();
    if (!loop)
        ::_exit(1);
    Monitor(**loop, registry, container).run(os::UniqueFd(socket));
    ::_exit(0);
}

} // namespace

os::Result<os::UniqueFd> start_monitor(Registry& registry, const Container& container,
                                       const Start& start) {
    registry.set_stopped(container, false);
    registry.set_kept(container, false);
    TRY(Line line, make_line());
    const char wants = static_cast<char>(start.wants);
    tell(line.near.get(), Word::Hello, std::string_view(&wants, 1), true);
    if (start.size.columns != 0)
        tell(line.near.get(), Word::Size, size_text(start.size.columns, start.size.rows), true);
    // Twice: it is nobody's child but init's.
    const pid_t between = ::fork();
    if (between == 0) {
        if (::fork() == 0)
            be_monitor(registry, container, line.far.get());
        ::_exit(0);
    }
    if (between < 0)
        return os::fail_errno(errno, "fork");
    while (::waitpid(between, nullptr, 0) < 0 && errno == EINTR) {
    }
    return std::move(line.near);
}

} // namespace joey::containers
