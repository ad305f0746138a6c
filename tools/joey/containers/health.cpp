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

// One run of the health check's program in the container.
class Probe {
public:
    Probe(pod::AgentLink& agent, os::EventLoop& loop, const Container& container)
        : agent_(agent), loop_(loop), container_(container),
          name_(os::text("health-", ::getpid())) {}

    os::Result<void> start(pod::Json process) {
        process["args"] = container_.health.command;
        process["terminal"] = false;
        auto exec = about_it<proto::ExecRequest>();
        exec.set_process(pod::to_text(process));
        exec.mutable_streams()->set_output(true);
        TRY(agent_.call<proto::ExecResponse>("Exec", exec));
        TRY(agent_.call<proto::StartResponse>("Start", about_it<proto::StartRequest>()));
        return {};
    }

    // Its status and what it wrote, within the time.
    Answer wait() {
        agent_.call_later<proto::WaitResponse>(
            "Wait", about_it<proto::ProcessRequest>(),
            [this](const os::Result<proto::WaitResponse>& said) {
                answer_.status = said ? static_cast<int>(said->exit().code() & 0xff) : 1;
                ended_ = true;
            });
        read();
        bool late = false;
        loop_.after(std::chrono::nanoseconds(container_.health.timeout_ns),
                    [&late] { late = true; });
        while (!late && !(ended_ && silent_))
            loop_.run_once(std::chrono::milliseconds(-1));
        if (!ended_)
            answer_ = {timed_out, os::text("Health check exceeded timeout (",
                                           container_.health.timeout_ns / 1'000'000, " ms)")};
        return answer_;
    }

    void remove() {
        auto request = about_it<proto::DeleteRequest>();
        request.set_force(true);
        static_cast<void>(agent_.call<proto::WaitResponse>("Delete", request).has_value());
    }

private:
    template <typename Request>
    Request about_it() const {
        Request out;
        out.set_container_id(container_.id);
        out.set_exec_id(name_);
        return out;
    }

    void read() {
        auto request = about_it<proto::ReadOutputRequest>();
        request.set_offset(received_);
        agent_.call_later<proto::ReadOutputResponse>(
            "ReadOutput", request, [this](const os::Result<proto::ReadOutputResponse>& said) {
                if (!said || said->data().empty()) {
                    silent_ = true;
                    return;
                }
                received_ += said->data().size();
                const std::size_t room = most_output - answer_.output.size();
                answer_.output += said->data().substr(0, room);
                read();
            });
    }

    pod::AgentLink& agent_;
    os::EventLoop& loop_;
    const Container& container_;
    const std::string name_;
    Answer answer_;
    std::uint64_t received_ = 0;
    bool ended_ = false;
    bool silent_ = false;
};

// In a process of its own: a guest that does not answer keeps nobody but this one waiting.
os::Result<Answer> ask(Registry& registry, const Container& container) {
    TRY(const pod::ContainerState state, registry.engine().state(container.id));
    TRY(const pod::Pod pod, pod::Pod::open(registry.engine().root(), state.record.pod));
    TRY(const auto loop, os::EventLoop::create());
    TRY(const auto agent, pod.connect(*loop));
    Probe probe(*agent, *loop, container);
    TRY(probe.start(state.record.process_template));
    Answer answer = probe.wait();
    probe.remove();
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
    // As Docker: more often while it starts, until it has been healthy once.
    const std::int64_t interval = is_warming_up() && state_.status == "starting"
                                      ? container_.health.start_interval_ns
                                      : container_.health.interval_ns;
    timer_ = loop_.after(std::chrono::nanoseconds(interval), [this] { check(); });
}

bool Health::is_warming_up() const {
    return std::chrono::steady_clock::now() - began_ <
           std::chrono::nanoseconds(container_.health.start_period_ns);
}

bool Health::is_paused() const {
    const auto now = registry_.engine().state(container_.id);
    return now && now->status == pod::ContainerStatus::Paused;
}

void Health::check() {
    // Nothing can be executed in it, which says nothing of its health.
    if (is_paused())
        return schedule();
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
    if (!is_paused())
        conclude(blank == std::string::npos ? 1 : std::atoi(text_.c_str()),
                 blank == std::string::npos ? "the check has died" : text_.substr(blank + 1));
    schedule();
}

void Health::conclude(int status, const std::string& output) {
    state_.log.push_back(pod::Json{
        {"Start", asked_}, {"End", pod::timestamp()}, {"ExitCode", status}, {"Output", output}});
    if (state_.log.size() > most_results)
        state_.log.erase(state_.log.begin());
    if (status == 0) {
        state_.failures = 0;
        state_.status = "healthy";
    } else if (!(is_warming_up() && state_.status == "starting")) {
        ++state_.failures;
        if (state_.failures >= container_.health.retries)
            state_.status = "unhealthy";
    }
    changed_(state_);
}

} // namespace joey::containers
