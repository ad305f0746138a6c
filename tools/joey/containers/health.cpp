#include "tools/joey/containers/health.hpp"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>

#include <sys/epoll.h>
#include <sys/wait.h>

#include "agent/os/files.hpp"

namespace joey::containers {

namespace {

namespace proto = pod::proto;

constexpr std::size_t most_output = 4096;
constexpr std::size_t most_results = 5;
constexpr int timed_out = -1;

struct Answer {
    int status = 1;
    std::string output;
};

// In the container, within the time. In a process of its own: a guest that does not answer keeps
// nobody but this one waiting.
os::Result<Answer> ask(Registry& registry, const Container& container) {
    TRY(const pod::ContainerState state, registry.engine().state(container.id));
    TRY(const pod::Pod pod, pod::Pod::open(registry.engine().root(), state.record.pod));
    TRY(const auto loop, os::EventLoop::create());
    TRY(const auto agent, pod.connect(*loop));
    pod::Json process = state.record.process_template;
    process["args"] = container.health.command;
    process["terminal"] = false;
    proto::ExecRequest exec;
    exec.set_container_id(container.id);
    exec.set_exec_id(os::text("health-", ::getpid()));
    exec.set_process(pod::to_text(process));
    exec.mutable_streams()->set_output(true);
    TRY(agent->call<proto::ExecResponse>("Exec", exec));
    proto::StartRequest start;
    start.set_container_id(container.id);
    start.set_exec_id(exec.exec_id());
    TRY(agent->call<proto::StartResponse>("Start", start));

    Answer answer;
    bool ended = false;
    bool late = false;
    proto::ProcessRequest wait;
    wait.set_container_id(container.id);
    wait.set_exec_id(exec.exec_id());
    agent->call_later<proto::WaitResponse>(
        "Wait", wait, [&](const os::Result<proto::WaitResponse>& said) {
            answer.status = said ? static_cast<int>(said->exit().code() & 0xff) : 1;
            ended = true;
        });
    std::uint64_t received = 0;
    bool silent = false;
    std::function<void()> read = [&] {
        proto::ReadOutputRequest request;
        request.set_container_id(container.id);
        request.set_exec_id(exec.exec_id());
        request.set_offset(received);
        agent->call_later<proto::ReadOutputResponse>(
            "ReadOutput", request, [&](const os::Result<proto::ReadOutputResponse>& said) {
                if (!said || said->data().empty()) {
                    silent = true;
                    return;
                }
                received += said->data().size();
                const std::size_t room = most_output - answer.output.size();
                answer.output += said->data().substr(0, room);
                read();
            });
    };
    read();
    loop->after(std::chrono::nanoseconds(container.health.timeout_ns), [&late] { late = true; });
    while (!late && !(ended && silent))
        loop->run_once(std::chrono::milliseconds(-1));
    if (!ended)
        answer = {timed_out, os::text("Health check exceeded timeout (",
                                      container.health.timeout_ns / 1'000'000, " ms)")};
    proto::DeleteRequest remove;
    remove.set_container_id(container.id);
    remove.set_exec_id(exec.exec_id());
    remove.set_force(true);
    static_cast<void>(agent->call<proto::WaitResponse>("Delete", remove).has_value());
    return answer;
}

[[noreturn]] void be_check(Registry& registry, const Container& container, int answer) {
    os::close_all_but({answer});
    auto said = ask(registry, container);
    const std::string text =
        said ? os::text(said->status, " ", said->output) : os::text("1 ", said.error().message);
    static_cast<void>(!::write(answer, text.data(), text.size()));
    ::_exit(0);
}

} // namespace

Health::Health(os::EventLoop& loop, Registry& registry, const Container& container,
               std::function<void(const HealthState&)> changed)
    : loop_(loop), registry_(registry), container_(container), changed_(std::move(changed)),
      began_(std::chrono::steady_clock::now()) {
    state_.status = "starting";
    changed_(state_);
    schedule();
}

Health::~Health() {
    loop_.cancel(timer_);
    if (answer_)
        loop_.forget(answer_.get());
    if (child_ > 0) {
        ::kill(child_, SIGKILL);
        ::waitpid(child_, nullptr, 0);
    }
}

void Health::schedule() {
    timer_ =
        loop_.after(std::chrono::nanoseconds(container_.health.interval_ns), [this] { check(); });
}

void Health::check() {
    int ends[2] = {-1, -1};
    // What cannot be made now may be possible the next time.
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return schedule();
    answer_ = os::UniqueFd(ends[0]);
    os::UniqueFd far(ends[1]);
    asked_ = pod::timestamp();
    text_.clear();
    child_ = ::fork();
    if (child_ == 0)
        be_check(registry_, container_, far.get());
    if (child_ < 0)
        return schedule();
    static_cast<void>(
        loop_.watch(answer_.get(), EPOLLIN, [this](std::uint32_t) { read_answer(); }).has_value());
}

void Health::read_answer() {
    std::string piece(most_output, '\0');
    const ssize_t got = ::read(answer_.get(), piece.data(), piece.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (got > 0) {
        text_.append(piece, 0, static_cast<std::size_t>(got));
        return;
    }
    loop_.forget(answer_.get());
    answer_.reset();
    ::waitpid(child_, nullptr, 0);
    child_ = 0;
    const std::size_t blank = text_.find(' ');
    conclude(blank == std::string::npos ? 1 : std::atoi(text_.c_str()),
             blank == std::string::npos ? "the check has died" : text_.substr(blank + 1));
    schedule();
}

void Health::conclude(int status, const std::string& output) {
    state_.log.push_back(pod::Json{
        {"Start", asked_}, {"End", pod::timestamp()}, {"ExitCode", status}, {"Output", output}});
    if (state_.log.size() > most_results)
        state_.log.erase(state_.log.begin());
    const bool warming_up = std::chrono::steady_clock::now() - began_ <
                            std::chrono::nanoseconds(container_.health.start_period_ns);
    if (status == 0) {
        state_.failures = 0;
        state_.status = "healthy";
    } else if (!(warming_up && state_.status == "starting")) {
        ++state_.failures;
        if (state_.failures >= container_.health.retries)
            state_.status = "unhealthy";
    }
    changed_(state_);
}

} // namespace joey::containers
