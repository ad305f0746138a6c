// Pods whose VM answers late, wrongly or not at all, and users who go away in the middle: every
// call has an answer all the same, and nothing stays.
#include <csignal>
#include <deque>
#include <fcntl.h>
#include <unistd.h>

#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "tests/shim/user.hpp"
#include "tools/containerd-shim-joey-v2/address.hpp"

using namespace shim_test;

namespace {

// What the usual waits are divided by: a minute is a second.
constexpr unsigned hurry = 60;

using Scenario = std::function<void(User&)>;

// A whole life, whatever each call's answer is.
void live(User& user) {
    static_cast<void>(user.call<api::CreateTaskResponse>("Create", user.creation()).has_value());
    user.wait();
    static_cast<void>(
        user.call<api::StartResponse>("Start", user.about<api::StartRequest>()).has_value());
    user.write_input("hello\n");
    for (const char* name : {"a", "b"}) {
        static_cast<void>(user.call<Empty>("Exec", user.execution(name, *name == 'b')).has_value());
        user.wait(name);
        static_cast<void>(
            user.call<api::StartResponse>("Start", user.about<api::StartRequest>(name))
                .has_value());
    }
    auto size = user.about<api::ResizePtyRequest>("b");
    size.set_width(80);
    size.set_height(24);
    static_cast<void>(user.call<Empty>("ResizePty", size).has_value());
    static_cast<void>(user.call<Empty>("Pause", user.about<api::PauseRequest>()).has_value());
    static_cast<void>(user.call<Empty>("Resume", user.about<api::ResumeRequest>()).has_value());
    static_cast<void>(
        user.call<api::StatsResponse>("Stats", user.about<api::StatsRequest>()).has_value());
    auto update = user.about<api::UpdateTaskRequest>();
    update.mutable_resources()->set_value("{}");
    static_cast<void>(user.call<Empty>("Update", update).has_value());
    static_cast<void>(user.call<Empty>("Kill", user.signal(SIGKILL, "a")).has_value());
    static_cast<void>(
        user.call<api::DeleteResponse>("Delete", user.about<api::DeleteRequest>("a")).has_value());
    static_cast<void>(user.call<Empty>("Kill", user.signal(SIGTERM)).has_value());
}

// In a process of its own, so that many can wait at a time. What was wrong comes by the pipe.
struct Running {
    pid_t process = 0;
    os::UniqueFd report;
    std::string what;
};

Running begin(const std::string& what, const std::string& id, const Scenario& scenario) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    Running out{::fork(), os::UniqueFd(ends[0]), what};
    os::UniqueFd far(ends[1]);
    REQUIRE(out.process >= 0);
    if (out.process > 0)
        return out;
    adopt_orphans();
    std::string said;
    {
        User user(id, hurry);
        scenario(user);
        user.finish();
        said = user.complaints();
    }
    static_cast<void>(!::write(far.get(), said.data(), said.size()));
    ::_exit(0);
}

void end(const Running& running) {
    std::string said;
    char piece[512];
    for (ssize_t got = 0; (got = ::read(running.report.get(), piece, sizeof piece)) > 0;)
        said.append(piece, static_cast<std::size_t>(got));
    int status = 0;
    REQUIRE(::waitpid(running.process, &status, 0) == running.process);
    INFO(running.what);
    CHECK(said.empty());
    if (!said.empty())
        FAIL_CHECK(said);
    CHECK(status == 0);
}

class Many {
public:
    void add(const std::string& what, const Scenario& scenario) {
        constexpr std::size_t at_a_time = 8;
        if (running_.size() == at_a_time)
            take();
        running_.push_back(begin(what, os::text("pod-", ++last_), scenario));
    }
    ~Many() {
        while (!running_.empty())
            take();
    }

private:
    void take() {
        end(running_.front());
        running_.pop_front();
    }
    std::deque<Running> running_;
    static inline int last_ = 0;
};

} // namespace

namespace {

constexpr const char* methods[] = {"CONNECT", "Create", "Start",    "Wait",      "ReadOutput",
                                   "Exec",    "Signal", "Pause",    "Stats",     "Delete",
                                   "Resume",  "Update", "Shutdown", "NextEvents"};
constexpr const char* manners[] = {"never", "nonsense", "hangup", "dies", "refuse", "twice", "half",
                                   "noise", "late",     "other",  "long", "mumble", "asks"};

void live_beside(Many& many, const std::string& method, const std::string& manner) {
    many.add(os::text(method, " ", manner), [method, manner](User& user) {
        user.tell_vm(os::text(method, " ", manner));
        if (user.start_shim())
            live(user);
        else
            user.complain("the shim does not start");
    });
}

// Each call that a user can have sent when he goes away.
struct Sent {
    const char* method;
    std::function<void(User&)> send;
};

std::vector<Sent> all_sent() {
    const auto simple = []<typename Request>(const char* method, const Request& /*kind*/,
                                             const std::string& exec = "") {
        return Sent{method,
                    [method, exec](User& user) { user.send(method, user.about<Request>(exec)); }};
    };
    return {
        {"Create", [](User& user) { user.send("Create", user.creation()); }},
        simple("Wait", api::WaitRequest()),
        simple("Start", api::StartRequest()),
        {"Exec", [](User& user) { user.send("Exec", user.execution("x", true)); }},
        simple("Start", api::StartRequest(), "x"),
        simple("Wait", api::WaitRequest(), "x"),
        simple("Stats", api::StatsRequest()),
        simple("Pause", api::PauseRequest()),
        simple("Resume", api::ResumeRequest()),
        {"Kill", [](User& user) { user.send("Kill", user.signal(SIGKILL, "x")); }},
        simple("Delete", api::DeleteRequest(), "x"),
        {"Kill", [](User& user) { user.send("Kill", user.signal(SIGKILL)); }},
        simple("Delete", api::DeleteRequest()),
    };
}

// Goes through them all, comes back after each, and goes on when the shim is done with it. At
// `gone`, the user goes for good.
void leave_again_and_again(User& user, std::size_t gone) {
    user.tell_vm("* late");
    if (!user.start_shim()) {
        user.complain("the shim does not start");
        return;
    }
    const std::vector<Sent> all = all_sent();
    for (std::size_t i = 0; i < all.size(); ++i) {
        all[i].send(user);
        user.disconnect();
        if (i == gone)
            return;
        if (!user.connect()) {
            user.complain(os::text("no connection after ", all[i].method));
            return;
        }
        // Those that change something answer in their order.
        static_cast<void>(user.until([&] {
            const auto state =
                user.call<api::StateResponse>("State", user.about<api::StateRequest>());
            return !state || state->pid() != 0;
        }));
    }
}

} // namespace

TEST_CASE("whatever the agent answers and whenever, every call ends and nothing stays", "[life]") {
    enter_private_host();
    Many many;
    // The whole has a test of its own, which takes a minute.
    std::size_t turn = 0;
    for (const char* method : methods) {
        live_beside(many, method, manners[turn % std::size(manners)]);
        turn += 4;
    }
    live_beside(many, "READY", "never");
    live_beside(many, "Wait", "never");
    live_beside(many, "Signal", "dies");
}

TEST_CASE("whatever the agent answers: each method in each manner", "[.whole]") {
    enter_private_host();
    Many many;
    for (const char* method : methods) {
        for (const char* manner : manners)
            live_beside(many, method, manner);
    }
    for (const char* manner : {"never", "dies"})
        live_beside(many, "READY", manner);
}

TEST_CASE("a `start` that is killed at any moment leaves nothing once `delete` was called",
          "[life]") {
    enter_private_host();
    constexpr int rounds = 24;
    for (int round = 0; round < rounds; ++round) {
        User user(os::text("start-", round), hurry);
        const pid_t start = begin_shim(user.shim_call("start"), -1);
        ::usleep(static_cast<useconds_t>(round * 400));
        ::kill(start, SIGKILL);
        REQUIRE(::waitpid(start, nullptr, 0) == start);
        user.finish();
        CHECK(names_in("/run/containerd/s").empty());
        CHECK(user.complaints() == "");
    }
}

TEST_CASE("`delete` finds the shim and the socket of a `start` that did not say where", "[life]") {
    enter_private_host();
    User user("untold", hurry);
    REQUIRE(user.start_shim());
    const std::string address = user.address();
    REQUIRE(::unlink((user.bundle() + "/address").c_str()) == 0);
    user.disconnect();
    std::string answer;
    CHECK(run_shim(user.shim_call("delete"), answer) == 0);
    CHECK(end_children().empty());
    CHECK_FALSE(shim::can_connect(address));
    // One that was killed between its socket and its service.
    shim::listen_at(address)->reset();
    CHECK(run_shim(user.shim_call("delete"), answer) == 0);
    CHECK(names_in("/run/containerd/s").empty());
    // One with a container stays: others answer for it.
    User other("told", hurry);
    REQUIRE(other.start_shim());
    REQUIRE(other.call<api::CreateTaskResponse>("Create", other.creation()));
    auto stranger = other.shim_call("delete");
    stranger.words[3] = "stranger";
    stranger.bundle = user.bundle();
    CHECK(run_shim(stranger, answer) == 0);
    CHECK(other.call<api::StateResponse>("State", other.about<api::StateRequest>()));
    other.finish();
    CHECK(other.complaints() == "");
}

TEST_CASE("users who go away after each call, and for good after any, leave nothing", "[life]") {
    enter_private_host();
    Many many;
    const std::size_t calls = all_sent().size();
    for (std::size_t gone = 0; gone <= calls; gone += 2)
        many.add(os::text("gone after ", gone),
                 [gone](User& user) { leave_again_and_again(user, gone); });
}

TEST_CASE("containerd that was killed while it created or deleted a container ends the shim",
          "[life]") {
    enter_private_host();
    Many many;
    many.add("killed while it created", [](User& user) {
        user.tell_vm("Create late");
        if (!user.start_shim())
            user.complain("the shim does not start");
        user.send("Create", user.creation());
        user.disconnect();
        if (user.load())
            user.complain("a container that is being created has a process");
    });
    many.add("killed while it deleted", [](User& user) {
        user.tell_vm("Shutdown never");
        const bool runs = user.start_shim() &&
                          user.call<api::CreateTaskResponse>("Create", user.creation()) &&
                          user.call<api::StartResponse>("Start", user.about<api::StartRequest>());
        const auto ended = user.wait();
        if (!runs || !user.call<Empty>("Kill", user.signal(SIGKILL)) ||
            !user.until([&] { return ended->status.has_value(); }))
            user.complain("the container does not run and end");
        user.send("Delete", user.about<api::DeleteRequest>());
        user.disconnect();
        if (user.load())
            user.complain("a container that is being deleted has a process");
    });
    // After any other call it is kept or ended, too.
    const std::size_t calls = all_sent().size();
    for (std::size_t gone = 1; gone < calls; gone += 2)
        many.add(os::text("killed after call ", gone), [gone](User& user) {
            leave_again_and_again(user, gone);
            static_cast<void>(user.load());
        });
}

TEST_CASE("a shim that gets no container ends by itself", "[life]") {
    enter_private_host();
    User user("forgotten", 60 * 60);
    REQUIRE(user.start_shim());
    const std::string socket = shim::path_of(user.address());
    CHECK(::access(socket.c_str(), F_OK) == 0);
    CHECK(user.until([&] { return ::access(socket.c_str(), F_OK) != 0; }));
    CHECK(user.complaints() == "");
}
