#include "agent/service/process.hpp"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>

#include <sys/epoll.h>
#include <sys/wait.h>

#include "agent/container/terminal.hpp"
#include "agent/service/event_log.hpp"

namespace service {

namespace {

// The channel that tells why a program could not be executed is open until it is, when the
// preserved descriptors have their numbers.
os::UniqueFd above_preserved(os::UniqueFd channel, const WantedStreams& wanted) {
    const int above = first_preserved + static_cast<int>(wanted.preserved.size());
    if (channel.get() >= above)
        return channel;
    return os::UniqueFd(fcntl(channel.get(), F_DUPFD_CLOEXEC, above));
}

} // namespace

Process::~Process() {
    if (report_) {
        loop_.forget(report_.get());
        children_.builder_ends();
    }
    if (start_)
        loop_.forget(start_.get());
    if (exists())
        children_.forget(pid_);
}

void Process::launch(const spec::Process& process, const WantedStreams& wanted,
                     const std::function<void(container::ProcessPlan)>& build, Done done) {
    auto report = os::make_channel();
    auto start = os::make_channel();
    terminal_ = process.terminal;
    // A terminal comes from inside; until then, and if it never comes, nothing else is connected.
    auto pipes =
        make_pipes(streams_, terminal_ ? WantedStreams{.preserved = wanted.preserved} : wanted);
    if (start)
        start->far = above_preserved(std::move(start->far), wanted);
    launched_ = std::move(done);
    if (!report || !start || !start->far || !pipes) {
        settle(os::fail(os::Code::ResourceExhausted, "make the pipes of a process"));
        return;
    }
    const pid_t builder = fork();
    if (builder < 0) {
        settle(os::fail_errno(errno, "start a builder"));
        return;
    }
    if (builder == 0) {
        const auto& stdio = pipes->stdio;
        container::ProcessPlan plan{.process = &process,
                                    .stdio = {stdio[0].get(), stdio[1].get(), stdio[2].get()},
                                    .preserved = {},
                                    .report = report->far.get(),
                                    .start = start->far.get()};
        for (const os::UniqueFd& fd : pipes->preserved)
            plan.preserved.push_back(fd.get());
        build(std::move(plan));
        _exit(1);
    }
    children_.builder_begins();
    report_ = std::move(report->near);
    start_ = std::move(start->near);
    const auto watching =
        loop_.watch(report_.get(), EPOLLIN, [this](std::uint32_t) { on_report(); });
    if (!watching)
        fail(watching.error());
}

void Process::on_report() {
    const std::shared_ptr<Process> self = shared_from_this();
    auto word = os::receive_message(report_.get());
    if (!word)
        fail(word.error());
    else if (!*word)
        fail({os::Code::Aborted, "the builder ended early"});
    else
        on_word(std::move(**word));
}

void Process::on_word(os::Message word) {
    switch (word.kind) {
    case container::message::born:
        pid_ = static_cast<pid_t>(std::atoi(word.text.c_str()));
        children_.watch(pid_, [self = weak_from_this()](int status) {
            if (const auto process = self.lock())
                process->ended(status);
        });
        return;
    case container::message::terminal:
        streams_.terminal = std::make_shared<os::UniqueFd>(std::move(word.fd));
        streams_.input.open(streams_.terminal, true);
        streams_.output.open(streams_.terminal, exists());
        return;
    case container::message::failed:
        fail(container::decode_error(word.text));
        return;
    case container::message::ready:
        stop_listening();
        // It may have been killed since it said so.
        if (stage_ == Stage::Creating)
            stage_ = Stage::Created;
        created_at_ = now();
        settle({});
        return;
    default:
        fail({os::Code::Internal, "the builder said something that is no message"});
    }
}

void Process::stop_listening() {
    if (!report_)
        return;
    loop_.forget(report_.get());
    report_.reset();
    children_.builder_ends();
}

void Process::settle(const os::Result<void>& result) {
    if (const Done done = std::exchange(launched_, nullptr))
        done(result);
}

void Process::fail(const os::Error& error) {
    stop_listening();
    if (!exists()) {
        stage_ = Stage::Stopped;
        settle(base::Failure(error));
        return;
    }
    // What was born of the attempt goes first: then nothing of it is in anybody's way.
    kill(pid_, SIGKILL);
    on_exit([this, error] { settle(base::Failure(error)); });
}

void Process::start(Done done) {
    if (stage_ != Stage::Created || started_) {
        done(os::fail(os::Code::FailedPrecondition,
                      stage_ == Stage::Stopped    ? "the process has ended"
                      : stage_ == Stage::Creating ? "the process is not created yet"
                                                  : "the process was started before"));
        return;
    }
    const auto sent = os::send_message(start_.get(), container::message::start);
    if (!sent) {
        done(os::fail(os::Code::FailedPrecondition, "the process ended before its start"));
        return;
    }
    started_ = std::move(done);
    const auto watching =
        loop_.watch(start_.get(), EPOLLIN, [this](std::uint32_t) { on_start_word(); });
    if (!watching)
        std::exchange(started_, nullptr)(base::Failure(watching.error()));
}

// The channel closes with the process's execve(2), or brings a word on why there was none.
void Process::on_start_word() {
    const std::shared_ptr<Process> self = shared_from_this();
    const auto word = os::receive_message(start_.get());
    loop_.forget(start_.get());
    start_.reset();
    const Done done = std::exchange(started_, nullptr);
    if (word && *word) {
        const os::Error error = container::decode_error((*word)->text);
        on_exit([done, error] { done(base::Failure(error)); });
        return;
    }
    if (stage_ == Stage::Created)
        stage_ = Stage::Running;
    started_at_ = now();
    done({});
}

os::Result<void> Process::signal(int number) const {
    if (!exists())
        return os::fail(os::Code::NotFound, "the process has finished");
    if (kill(pid_, number) != 0)
        return os::fail_errno(errno, "signal ", number);
    return {};
}

std::uint64_t Process::on_exit(Exited exited) {
    if (stage_ == Stage::Stopped) {
        exited();
        return 0;
    }
    exited_.emplace(++last_waiting_, std::move(exited));
    return last_waiting_;
}

void Process::ended(int wait_status) {
    const std::shared_ptr<Process> self = shared_from_this();
    // A process that died between its start and its program, or whose end is heard of before its
    // start: that comes first, or those who follow events hear of a start without an end.
    if (started_ && start_)
        on_start_word();
    stage_ = Stage::Stopped;
    constexpr std::uint32_t signal_base = 128;
    if (WIFSIGNALED(wait_status)) {
        exit_.set_signal(static_cast<std::uint32_t>(WTERMSIG(wait_status)));
        exit_.set_code(signal_base + exit_.signal());
    } else {
        exit_.set_code(static_cast<std::uint32_t>(WEXITSTATUS(wait_status)));
    }
    exit_.set_exited_at(now());
    streams_.close_inputs();
    streams_.output.writer_ended();
    if (exit_hook_)
        exit_hook_();
    std::map<std::uint64_t, Exited> exited;
    exited.swap(exited_);
    for (const auto& [number, action] : exited)
        action();
}

os::Result<void> Process::resize(std::uint16_t rows, std::uint16_t columns) const {
    if (!streams_.terminal || !*streams_.terminal)
        return os::fail(os::Code::FailedPrecondition, "the process has no terminal");
    return container::resize(streams_.terminal->get(), rows, columns);
}

} // namespace service
