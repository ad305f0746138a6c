// The life of a container: states, signals, exit status, what runs in it besides, errors.
#include <csignal>
#include <fstream>
#include <set>

#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "tests/agent/harness.hpp"

namespace {

using namespace agent_test;

const std::string sleeper = script_spec("exec sleep 1000");

} // namespace

TEST_CASE("a program's output, errors and exit status come back") {
    const Outcome outcome = run_script("echo out; echo err >&2; exit 7");
    CHECK(outcome.error.empty());
    CHECK(outcome.code == 7);
    CHECK(outcome.out == "out\n");
    CHECK(outcome.err == "err\n");
}

TEST_CASE("a program that a signal ends is reported with it") {
    const Outcome outcome = run_script("sleep 1000 & kill -9 $!; wait $!; echo $?");
    // pid 1 of a namespace is immune to its own signals, so its child is killed here.
    CHECK(outcome.out == "137\n");
    TestContainer container(sleeper);
    container.must_run();
    CHECK(container.kill(SIGKILL));
    const auto waited = container.wait();
    REQUIRE(waited);
    CHECK(waited->exit().code() == 137);
    CHECK(waited->exit().signal() == SIGKILL);
    CHECK_FALSE(waited->exit().oom_killed());
    CHECK(waited->exit().exited_at() > 0);
}

TEST_CASE("create builds, start runs: nothing of the program happens before") {
    TestContainer container(script_spec("touch /ran"));
    REQUIRE(container.create());
    CHECK(container.state()->status() == proto::CREATED);
    CHECK(container.read("/ran").empty());
    CHECK(access((container.rootfs() + "/ran").c_str(), F_OK) != 0);
    REQUIRE(container.start());
    REQUIRE(container.wait());
    CHECK(access((container.rootfs() + "/ran").c_str(), F_OK) == 0);
    CHECK(container.state()->status() == proto::STOPPED);
}

TEST_CASE("the state names pid, bundle, times and annotations") {
    TestContainer container(merged(sleeper, R"({"annotations": {"org.example": "yes"}})"));
    container.must_run();
    const auto state = container.state();
    REQUIRE(state);
    CHECK(state->status() == proto::RUNNING);
    CHECK(state->pid() > 1);
    CHECK(state->bundle() == container.bundle());
    CHECK(state->annotations().at("org.example") == "yes");
    CHECK(state->started_at() >= state->created_at());
    CHECK(state->created_at() > 0);
}

TEST_CASE("a container cannot be started twice, nor after its end") {
    TestContainer container(sleeper);
    container.must_run();
    const auto again = container.start();
    REQUIRE_FALSE(again);
    CHECK(again.error().code == os::Code::FailedPrecondition);
    REQUIRE(container.kill(SIGKILL));
    REQUIRE(container.wait());
    const auto after = container.start();
    REQUIRE_FALSE(after);
    CHECK(after.error().message == "the process has ended");
}

TEST_CASE("a name is given once, and again after its container is deleted") {
    TestContainer container(sleeper);
    container.must_run();
    const auto again = container.create();
    REQUIRE_FALSE(again);
    CHECK(again.error().code == os::Code::AlreadyExists);
    REQUIRE(container.remove(true));
    CHECK(container.create());
}

TEST_CASE("a running container is deleted by force only") {
    TestContainer container(sleeper);
    container.must_run();
    const auto refused = container.remove();
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == os::Code::FailedPrecondition);
    const auto removed = container.remove(true);
    REQUIRE(removed);
    CHECK(removed->exit().signal() == SIGKILL);
    const auto state = container.state();
    REQUIRE_FALSE(state);
    CHECK(state.error().code == os::Code::NotFound);
}

TEST_CASE("a container that was never started can be deleted") {
    TestContainer container(sleeper);
    const auto created = container.create();
    REQUIRE(created);
    REQUIRE(container.remove());
    CHECK(::kill(static_cast<pid_t>(created->pid()), 0) != 0);
}

TEST_CASE("a created container can be killed before its start") {
    TestContainer container(sleeper);
    REQUIRE(container.create());
    REQUIRE(container.kill(SIGKILL));
    REQUIRE(container.wait());
    CHECK_FALSE(container.start());
}

TEST_CASE("signals reach the program, and none reaches it after its end") {
    TestContainer container(
        script_spec("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.01; done"));
    REQUIRE(container.create());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    REQUIRE(Agent::shared().eventually([&] { return output.out == "ready\n"; }));
    REQUIRE(container.kill(SIGUSR1));
    REQUIRE(container.wait()->exit().code() == 3);
    const auto late = container.kill(SIGUSR1);
    REQUIRE_FALSE(late);
    CHECK(late.error().code == os::Code::NotFound);
}

TEST_CASE("a signal to all reaches every process of the container and no other") {
    TestContainer other(sleeper);
    other.must_run();
    TestContainer container(script_spec("sleep 1000 & sleep 1000 & trap 'echo term; wait; exit 9' "
                                        "TERM; echo ready; while :; do sleep 0.01; done"));
    REQUIRE(container.create());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    REQUIRE(Agent::shared().eventually([&] { return output.out == "ready\n"; }));
    REQUIRE(container.kill(SIGTERM, true));
    CHECK(container.wait()->exit().code() == 9);
    CHECK(other.state()->status() == proto::RUNNING);
}

TEST_CASE("a signal to all of an executed process reaches that one alone") {
    TestContainer container(sleeper);
    container.must_run();
    for (const char* name : {"a", "b"}) {
        REQUIRE(container.create_exec(name, R"({"args": ["sleep", "1000"]})"));
        REQUIRE(container.start(name));
    }
    REQUIRE(container.kill(SIGKILL, true, "a"));
    CHECK(container.wait("a")->exit().code() == 137);
    CHECK(container.state("b")->status() == proto::RUNNING);
    CHECK(container.state()->status() == proto::RUNNING);
}

TEST_CASE("an invalid signal is refused") {
    TestContainer container(sleeper);
    container.must_run();
    CHECK_FALSE(container.kill(0));
    CHECK_FALSE(container.kill(65));
    CHECK(container.state()->status() == proto::RUNNING);
}

TEST_CASE("the end of the first process ends all of them") {
    TestContainer container(script_spec("setsid sleep 1000 & exit 0"));
    container.must_run();
    REQUIRE(container.wait());
    CHECK(Agent::shared().eventually([&] {
        proto::ContainerRequest request;
        request.set_container_id(container.id());
        const auto listed = Agent::shared().call<proto::ProcessesResponse>("Processes", request);
        return listed && listed->pids_size() == 0;
    }));
}

TEST_CASE("without a pid namespace of its own, too, and nobody else's processes") {
    TestContainer other(sleeper);
    other.must_run();
    TestContainer container(script_spec("setsid sleep 1000 & exit 0", R"({"linux": {"namespaces":
        [{"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}]}})"));
    container.must_run();
    REQUIRE(container.wait());
    CHECK(container.remove());
    CHECK(other.state()->status() == proto::RUNNING);
}

TEST_CASE("processes of a container are listed by their numbers outside") {
    TestContainer container(script_spec("sleep 1000 & echo ready; wait"));
    REQUIRE(container.create());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    REQUIRE(Agent::shared().eventually([&] { return output.out == "ready\n"; }));
    proto::ContainerRequest request;
    request.set_container_id(container.id());
    const auto listed = Agent::shared().call<proto::ProcessesResponse>("Processes", request);
    REQUIRE(listed);
    CHECK(listed->pids_size() == 2);
    CHECK(listed->pids(0) == container.state()->pid());
}

TEST_CASE("a program that is not there, or cannot be executed, is said so at creation") {
    const Outcome missing = TestContainer(R"({"process": {"args": ["nonesuch"]}})").run();
    CHECK(missing.error ==
          "process.args[0]: exec: \"nonesuch\": executable file not found in $PATH");
    const Outcome path = TestContainer(R"({"process": {"args": ["/nonesuch"]}})").run();
    CHECK(path.error == "process.args[0]: exec: \"/nonesuch\": no such file or directory");
    TestContainer container(R"({"process": {"args": ["/plain"]}})");
    container.write("/plain", "text");
    CHECK(container.run().error == "process.args[0]: exec: \"/plain\": permission denied");
}

TEST_CASE("a program that the kernel refuses is said so at the start") {
    TestContainer container(R"({"process": {"args": ["/broken"]}})");
    container.write("/broken",
                    "\x7f"
                    "ELF and no more",
                    0755);
    REQUIRE(container.create());
    const auto started = container.start();
    REQUIRE_FALSE(started);
    CHECK(started.error().message == "process.args[0]: exec \"/broken\": Exec format error");
    CHECK(container.state()->status() == proto::STOPPED);
}

TEST_CASE("a failed creation leaves no container, no process and no control group") {
    TestContainer container(R"({"process": {"args": ["nonesuch"]}})");
    REQUIRE_FALSE(container.create());
    CHECK(container.state().error().code == os::Code::NotFound);
    CHECK(access((Agent::shared().cgroup_root() + "/" + container.id()).c_str(), F_OK) != 0);
}

TEST_CASE(
    "a container whose process was killed while it is built keeps its name until it is gone") {
    // A failed creation is cleaned up by the group's name. Whoever could delete it before that, and
    // take the name again, would have his new container killed.
    const std::string flag = Agent::shared().directory() + "/hold";
    std::ofstream(flag) << "x";
    TestContainer container(merged(
        sleeper,
        os::text(
            R"({"hooks": {"createRuntime": [{"path": "/bin/sh", "env": ["PATH=/usr/bin:/bin"], "args": ["sh", "-c", "echo x > )",
            flag, "-begun; while [ -e ", flag, R"( ]; do sleep 0.01; done; exit 1"]}]}})")));
    bool answered = false;
    proto::CreateRequest request;
    request.set_container_id(container.id());
    request.set_bundle(container.bundle());
    request.set_spec(container.spec());
    Agent::shared().client().call<proto::CreateResponse>(
        "joey.agent.v1.Agent", "Create", request, ttrpc::Client::no_limit,
        [&](const os::Result<proto::CreateResponse>& answer) { answered = !answer; });
    REQUIRE(
        Agent::shared().eventually([&] { return access((flag + "-begun").c_str(), F_OK) == 0; }));
    REQUIRE(container.kill(SIGKILL));
    REQUIRE(container.wait());
    const auto removed = container.remove(true);
    REQUIRE_FALSE(removed);
    CHECK(removed.error().message == "the container " + container.id() + " is being created");
    CHECK(container.create().error().code == os::Code::AlreadyExists);
    REQUIRE(unlink(flag.c_str()) == 0);
    REQUIRE(Agent::shared().eventually([&] { return answered; }));
    CHECK(container.state().error().code == os::Code::NotFound);
    unlink((flag + "-begun").c_str());
}

TEST_CASE("what a configuration does wrong is named by its field") {
    const auto [patch, message] = GENERATE(
        std::pair(R"({"process": {"cwd": "relative"}})", "process: cwd must be an absolute path"),
        std::pair(R"({"process": null})", "process: is missing"),
        std::pair(R"({"root": {"path": "nowhere"}})", "No such file or directory"),
        std::pair(R"({"mounts": [{"destination": "/x", "type": "bind", "source": "/nonesuch"}]})",
                  "mounts[0].source: /nonesuch: No such file or directory"),
        std::pair(R"({"mounts": [{"destination": "/x", "type": "nonesuchfs", "source": "x"}]})",
                  "mounts[0] (/x): file system type nonesuchfs"),
        std::pair(R"({"linux": {"namespaces": [{"type": "pid"}]}})",
                  "linux.namespaces: a container needs a mount namespace"),
        std::pair(R"({"linux": {"sysctl": {"kernel.panic": "1"}}})",
                  "linux.sysctl[\"kernel.panic\"]: does not belong to a namespace"));
    const Outcome outcome = TestContainer(patch).run();
    INFO(outcome.error);
    CHECK(outcome.error.find(message) != std::string::npos);
}

TEST_CASE("requests for what does not exist are answered, not obeyed") {
    proto::ProcessRequest request;
    request.set_container_id("nobody");
    const auto state = Agent::shared().call<proto::StateResponse>("State", request);
    REQUIRE_FALSE(state);
    CHECK(state.error().message == "there is no container \"nobody\"");
    proto::CreateRequest create;
    create.set_container_id("../escape");
    create.set_bundle("/tmp");
    const auto created = Agent::shared().call<proto::CreateResponse>("Create", create);
    REQUIRE_FALSE(created);
    CHECK(created.error().code == os::Code::InvalidArgument);
    TestContainer container(sleeper);
    container.must_run();
    CHECK(container.wait("nobody").error().code == os::Code::NotFound);
}

TEST_CASE("a paused container stands still until it is resumed") {
    TestContainer container(script_spec("while :; do echo tick; sleep 0.01; done"));
    REQUIRE(container.create());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    REQUIRE(Agent::shared().eventually([&] { return !output.out.empty(); }));
    REQUIRE(container.simple("Pause"));
    CHECK(container.state()->status() == proto::PAUSED);
    const auto frozen = [&] {
        std::string text;
        const std::string file =
            Agent::shared().cgroup_root() + "/" + container.id() + "/cgroup.events";
        if (FILE* events = std::fopen(file.c_str(), "r")) {
            char line[64];
            while (std::fgets(line, sizeof line, events) != nullptr)
                text += line;
            std::fclose(events);
        }
        return text.find("frozen 1") != std::string::npos;
    };
    CHECK(frozen()); // the answer comes when it is so
    CHECK(container.exec("true").error == "the container " + container.id() + " is paused");
    // What was in the pipe still comes; then nothing.
    std::size_t seen = 0;
    REQUIRE(Agent::shared().eventually(
        [&] { return std::exchange(seen, output.out.size()) == output.out.size(); }));
    REQUIRE(container.simple("Resume"));
    CHECK(Agent::shared().eventually([&] { return output.out.size() > seen; }));
    CHECK_FALSE(container.simple("Resume"));
}

TEST_CASE("a paused container can be killed and deleted") {
    TestContainer container(sleeper);
    container.must_run();
    REQUIRE(container.simple("Pause"));
    REQUIRE(container.remove(true));
}

TEST_CASE("one more process shares the namespaces and has a status of its own") {
    TestContainer container(sleeper);
    container.must_run();
    const Outcome outcome = container.exec(
        "hostname; ls /proc | grep -c '^[0-9]'; for n in pid mnt net ipc uts cgroup; do "
        "[ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo differs $n; done; "
        "exit 5");
    CHECK(outcome.error.empty());
    CHECK(outcome.code == 5);
    CHECK(outcome.out.substr(0, 10) == "joey-test\n");
    CHECK(outcome.out.find("differs") == std::string::npos);
    CHECK(container.state()->status() == proto::RUNNING);
}

TEST_CASE("one more process has its own user, directory, environment and capabilities") {
    TestContainer container(sleeper);
    container.must_run();
    const Outcome outcome = container.exec(
        "id -u; id -g; pwd; echo $X; grep CapEff /proc/self/status",
        R"({"user": {"uid": 1000, "gid": 1000}, "cwd": "/tmp", "env": ["PATH=/bin", "X=y"], "capabilities": null})");
    CHECK(outcome.out == "1000\n1000\n/tmp\ny\nCapEff:\t0000000000000000\n");
}

TEST_CASE("one more process has the container's limits and capabilities unless it names its own") {
    TestContainer container(script_spec(
        "exec sleep 1000",
        R"({"process": {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 66}]}})"));
    container.must_run();
    const char* script = "ulimit -n; ulimit -H -n; grep CapBnd /proc/self/status";
    const Outcome as_container = container.exec(script, R"({"capabilities": null})");
    CHECK(as_container.out == "66\n77\nCapBnd:\t00000000200004e1\n");
    const Outcome its_own =
        container.exec(script,
                       R"({"capabilities": {"bounding": null, "effective": null, "permitted": null},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 88, "soft": 88}]})");
    CHECK(its_own.out == "88\n88\nCapBnd:\t0000000000000000\n");
}

TEST_CASE("processes in a container: names once, errors by field, killed alone") {
    TestContainer container(sleeper);
    container.must_run();
    REQUIRE(container.create_exec("a", R"({"args": ["sleep", "1000"]})"));
    CHECK(container.create_exec("a", R"({"args": ["true"]})").error().code ==
          os::Code::AlreadyExists);
    CHECK(container.create_exec("b", R"({"args": ["nonesuch"]})")
              .error()
              .message.find("executable file not found") != std::string::npos);
    CHECK(container.create_exec("c", R"({"args": []})").error().message ==
          "process: args must name a program");
    REQUIRE(container.start("a"));
    CHECK(container.state()->exec_ids_size() == 1);
    CHECK_FALSE(container.remove(false, "a"));
    REQUIRE(container.kill(SIGKILL, false, "a"));
    CHECK(container.wait("a")->exit().code() == 137);
    CHECK(container.remove(false, "a"));
    CHECK(container.state()->status() == proto::RUNNING);
}

TEST_CASE("no process can be executed in a container that does not run") {
    TestContainer container(sleeper);
    REQUIRE(container.create());
    CHECK(container.exec("true").error == "the container " + container.id() + " is not running");
    REQUIRE(container.start());
    REQUIRE(container.kill(SIGKILL));
    REQUIRE(container.wait());
    CHECK(container.exec("true").error == "the container " + container.id() + " is not running");
}

TEST_CASE("a killed container takes no other with it") {
    TestContainer one(sleeper);
    TestContainer two(sleeper);
    one.must_run();
    two.must_run();
    REQUIRE(one.kill(SIGKILL));
    REQUIRE(one.wait());
    REQUIRE(one.remove());
    CHECK(two.state()->status() == proto::RUNNING);
    CHECK(two.exec("echo alive").out == "alive\n");
}

TEST_CASE("twenty containers at once") {
    std::vector<std::unique_ptr<TestContainer>> containers;
    for (int i = 0; i < 20; ++i) {
        containers.push_back(std::make_unique<TestContainer>(script_spec(os::text("exit ", i))));
        REQUIRE(containers.back()->create());
    }
    for (const auto& container : containers)
        REQUIRE(container->start());
    for (unsigned i = 0; i < 20; ++i)
        CHECK(containers[i]->wait()->exit().code() == i);
}

TEST_CASE("wait is answered to everybody who asked, also after the end") {
    TestContainer container(sleeper);
    container.must_run();
    int answers = 0;
    proto::ProcessRequest request;
    request.set_container_id(container.id());
    for (int i = 0; i < 5; ++i)
        Agent::shared().client().call<proto::WaitResponse>(
            "joey.agent.v1.Agent", "Wait", request, ttrpc::Client::no_limit,
            [&answers](const os::Result<proto::WaitResponse>& answer) {
                answers += answer && answer->exit().code() == 137 ? 1 : 0;
            });
    REQUIRE(container.kill(SIGKILL));
    CHECK(Agent::shared().eventually([&] { return answers == 5; }));
    CHECK(container.wait()->exit().code() == 137);
}

TEST_CASE("a client that asks for an end again and again leaves nothing with the agent") {
    TestContainer container(sleeper);
    container.must_run();
    const auto memory = [] {
        std::ifstream status(os::text("/proc/", Agent::shared().pid(), "/status"));
        std::string word;
        long kilobytes = 0;
        while (status >> word) {
            if (word == "VmRSS:")
                status >> kilobytes;
        }
        return kilobytes;
    };
    proto::ProcessRequest request;
    request.set_container_id(container.id());
    // A field that nobody knows travels along: 127, bytes, 1 MiB of them.
    const std::string payload = request.SerializeAsString() +
                                std::string("\xfa\x07\x80\x80\x40", 5) + std::string(1 << 20, 'x');
    const long before = memory();
    for (int i = 0; i < 100; ++i) {
        bool late = false;
        Agent::shared().client().call("joey.agent.v1.Agent", "Wait", payload,
                                      std::chrono::milliseconds(1),
                                      [&](const os::Result<std::string>& answer) {
                                          late = answer.error().code == os::Code::DeadlineExceeded;
                                      });
        REQUIRE(Agent::shared().eventually([&] { return late; }));
    }
    REQUIRE(container.state());
    CHECK(memory() - before < 50 * 1024);
}

TEST_CASE("what a container leaves behind is reaped") {
    TestContainer container(
        script_spec("for i in 1 2 3 4 5 6 7 8; do setsid sh -c 'sleep 0.01' & done; exit 0",
                    R"({"linux": {"namespaces": [{"type": "mount"}]}, "hostname": null})"));
    container.must_run();
    REQUIRE(container.wait());
    REQUIRE(container.remove());
    CHECK(Agent::shared().eventually([] {
        const std::string file =
            os::text("/proc/", Agent::shared().pid(), "/task/", Agent::shared().pid(), "/children");
        FILE* children = std::fopen(file.c_str(), "r");
        const int first = children != nullptr ? std::fgetc(children) : EOF;
        if (children != nullptr)
            std::fclose(children);
        return first == EOF;
    }));
}

TEST_CASE("events tell what happened, in order") {
    proto::NextEventsRequest request;
    std::uint64_t last = 0;
    for (;;) {
        // What earlier tests did.
        request.set_after(last);
        const auto events = Agent::shared().call<proto::NextEventsResponse>(
            "NextEvents", request, std::chrono::milliseconds(100));
        if (!events)
            break;
        last = events->events(events->events_size() - 1).number();
    }
    TestContainer container(script_spec("exit 4"));
    container.must_run();
    REQUIRE(container.wait());
    REQUIRE(container.remove());
    std::vector<int> kinds;
    request.set_after(last);
    const auto events = Agent::shared().call<proto::NextEventsResponse>("NextEvents", request);
    REQUIRE(events);
    for (const proto::Event& event : events->events()) {
        CHECK(event.container_id() == container.id());
        CHECK(event.number() == ++last);
        kinds.push_back(event.kind());
        if (event.kind() == proto::Event::EXITED)
            CHECK(event.exit().code() == 4);
    }
    CHECK(kinds == std::vector<int>{proto::Event::CREATED, proto::Event::STARTED,
                                    proto::Event::EXITED, proto::Event::DELETED});
}

TEST_CASE("a program that ends before its builder does is started and has ended, in that order") {
    const std::string file = Agent::shared().directory() + "/builder";
    TestContainer container(os::text(
        R"({"hooks": {"createRuntime": [{"path": "/bin/sh", "env": ["PATH=/usr/bin:/bin"], "args": ["sh", "-c", "echo $PPID > )",
        file, "; while [ -e ", file, R"( ]; do sleep 0.01; done"]}]}})"));
    proto::CreateRequest request;
    request.set_container_id(container.id());
    request.set_bundle(container.bundle());
    request.set_spec(container.spec());
    bool created = false;
    Agent::shared().client().call<proto::CreateResponse>(
        "joey.agent.v1.Agent", "Create", request, ttrpc::Client::no_limit,
        [&](const os::Result<proto::CreateResponse>& answer) { created = answer.has_value(); });
    pid_t builder = 0;
    REQUIRE(
        Agent::shared().eventually([&] { return std::ifstream(file) >> builder && builder > 1; }));
    // Held up at its end, with all that it has open.
    REQUIRE(ptrace(PTRACE_SEIZE, builder, nullptr, PTRACE_O_TRACEEXIT) == 0);
    REQUIRE(unlink(file.c_str()) == 0);
    int status = 0;
    do {
        REQUIRE(waitpid(builder, &status, __WALL) == builder);
        if (status >> 8 != (SIGTRAP | PTRACE_EVENT_EXIT << 8))
            ptrace(PTRACE_CONT, builder, nullptr, WSTOPSIG(status) == SIGCHLD ? SIGCHLD : 0);
    } while (status >> 8 != (SIGTRAP | PTRACE_EVENT_EXIT << 8));
    REQUIRE(Agent::shared().eventually([&] { return created; }));
    proto::StartRequest start;
    start.set_container_id(container.id());
    const auto started =
        Agent::shared().call<proto::StartResponse>("Start", start, std::chrono::seconds(5));
    CHECK(started);
    ptrace(PTRACE_DETACH, builder, nullptr, nullptr);
    REQUIRE(container.wait());
    proto::NextEventsRequest events;
    std::vector<int> kinds;
    for (std::uint64_t last = 0; kinds.size() < 3;) {
        events.set_after(last);
        const auto answer = Agent::shared().call<proto::NextEventsResponse>("NextEvents", events);
        REQUIRE(answer);
        for (const proto::Event& event : answer->events()) {
            last = event.number();
            if (event.container_id() == container.id())
                kinds.push_back(event.kind());
        }
    }
    CHECK(kinds ==
          std::vector<int>{proto::Event::CREATED, proto::Event::STARTED, proto::Event::EXITED});
}

TEST_CASE("the agent says what it is and what the kernel has") {
    const auto info = Agent::shared().call<proto::InfoResponse>("Info", proto::InfoRequest());
    REQUIRE(info);
    CHECK(info->protocol() == 2);
    CHECK_FALSE(info->version().empty());
    CHECK(std::set<std::string>(info->namespaces().begin(), info->namespaces().end())
              .contains("mnt"));
}

TEST_CASE("garbage on one connection leaves the agent to the others") {
    const auto bad = Agent::shared().connect();
    proto::CreateRequest request;
    request.set_container_id("garbage");
    request.set_bundle("/tmp");
    for (const std::string& spec :
         {std::string(), std::string("{"), std::string(1 << 20, '['), std::string("[]"),
          std::string("null"), std::string("{\"ociVersion\": 7}"), std::string("\xff\xfe"),
          std::string("{\"ociVersion\":\"1.0\",\"mounts\":{}}")}) {
        request.set_spec(spec);
        const auto created =
            bad->call_and_wait<proto::CreateResponse>("joey.agent.v1.Agent", "Create", request);
        REQUIRE_FALSE(created);
        CHECK(created.error().code == os::Code::InvalidArgument);
    }
    CHECK(run_script("echo fine").out == "fine\n");
}

TEST_CASE("what an executed process said last is its reader's, though the container has gone") {
    TestContainer container(sleeper);
    container.must_run();
    REQUIRE(container.create_exec(
        "e", R"({"args": ["sh", "-c", "echo last; echo words >&2; exec sleep 1000"]})"));
    REQUIRE(container.start("e"));
    proto::DeleteRequest request;
    request.set_container_id(container.id());
    request.set_force(true);
    bool removed = false;
    REQUIRE(Agent::shared().eventually([&] {
        // Both have been written: the shell has become sleep.
        const auto state = container.state("e");
        std::ifstream name(os::text("/proc/", state ? state->pid() : 0, "/comm"));
        std::string word;
        return name >> word && word == "sleep";
    }));
    Agent::shared().client().call<proto::WaitResponse>(
        "joey.agent.v1.Agent", "Delete", request, ttrpc::Client::no_limit,
        [&](const os::Result<proto::WaitResponse>& answer) { removed = answer.has_value(); });
    const auto ended = container.wait("e");
    REQUIRE(ended);
    CHECK(ended->exit().signal() == SIGKILL);
    const Collected& output = container.collect("e");
    REQUIRE(Agent::shared().eventually([&] { return output.open_streams == 0; }));
    CHECK(output.out == "last\n");
    CHECK(output.err == "words\n");
    CHECK_FALSE(removed);
    CHECK(container.remove(false, "e"));
    CHECK(Agent::shared().eventually([&] { return removed; }));
}

TEST_CASE("an executed process whose client is gone does not keep its container") {
    TestContainer container(sleeper);
    container.must_run();
    REQUIRE(container.create_exec("e", R"({"args": ["sh", "-c", "echo x; exec sleep 1000"]})"));
    REQUIRE(container.start("e"));
    {
        const auto client = Agent::shared().connect();
        proto::ProcessRequest request;
        request.set_container_id(container.id());
        request.set_exec_id("e");
        client->call<proto::WaitResponse>("joey.agent.v1.Agent", "Wait", request,
                                          ttrpc::Client::no_limit,
                                          [](const os::Result<proto::WaitResponse>&) {});
        REQUIRE(
            client->call_and_wait<proto::StateResponse>("joey.agent.v1.Agent", "State", request));
    }
    CHECK(container.remove(true));
}

TEST_CASE("a process that two ask to delete while it runs is deleted once, and the agent lives") {
    TestContainer container(sleeper);
    container.must_run();
    REQUIRE(container.create_exec("e", R"({"args": ["sleep", "1000"]})"));
    REQUIRE(container.start("e"));
    int deleted = 0;
    int refused = 0;
    proto::DeleteRequest request;
    request.set_container_id(container.id());
    request.set_exec_id("e");
    request.set_force(true);
    // Both are there before the agent hears of the end.
    for (int i = 0; i < 2; ++i)
        Agent::shared().client().call<proto::WaitResponse>(
            "joey.agent.v1.Agent", "Delete", request, ttrpc::Client::no_limit,
            [&](const os::Result<proto::WaitResponse>& answer) {
                ++(answer ? deleted : refused);
                CHECK((answer || answer.error().code == os::Code::NotFound));
            });
    REQUIRE(Agent::shared().eventually([&] { return deleted + refused == 2; }));
    CHECK(deleted == 1);
    CHECK(container.state()->status() == proto::RUNNING);
}

TEST_CASE("an agent that two shut down ends when all its containers are gone, and takes no more") {
    const std::string directory = Agent::shared().directory();
    const std::string group = Agent::shared().cgroup_root() + "/another";
    REQUIRE(mkdir(group.c_str(), 0755) == 0);
    const pid_t pid = Agent::start_another(directory + "/another.sock", group);
    const auto one = Agent::shared().connect(directory + "/another.sock");
    const auto two = Agent::shared().connect(directory + "/another.sock");
    const auto create = [&](const TestContainer& container) {
        proto::CreateRequest request;
        request.set_container_id(container.id());
        request.set_bundle(container.bundle());
        request.set_spec(container.spec());
        return one->call_and_wait<proto::CreateResponse>("joey.agent.v1.Agent", "Create", request);
    };
    const std::string log = directory + "/ended";
    const auto spec = [&](const char* seconds) {
        return merged(
            sleeper,
            os::text(
                R"({"hooks": {"poststop": [{"path": "/bin/sh", "env": ["PATH=/usr/bin:/bin"], "args": ["sh", "-c", "sleep )",
                seconds, "; echo ended >> ", log, R"("]}]}})"));
    };
    const TestContainer first(spec("0.1"));
    const TestContainer second(spec("1.5"));
    REQUIRE(create(first));
    REQUIRE(create(second));
    int answers = 0;
    for (const auto* client : {&one, &two})
        (*client)->call<proto::Empty>(
            "joey.agent.v1.Agent", "Shutdown", proto::Empty(), ttrpc::Client::no_limit,
            [&](const os::Result<proto::Empty>& answer) { answers += answer ? 1 : 0; });
    const auto late = create(first);
    REQUIRE_FALSE(late);
    CHECK(late.error().message == "the agent is being shut down");
    REQUIRE(Agent::shared().eventually([&] { return answers == 2; }));
    int status = -1;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
    std::string line;
    int ended = 0;
    for (std::ifstream lines(log); std::getline(lines, line);)
        ++ended;
    CHECK(ended == 2);
    CHECK(rmdir(group.c_str()) == 0);
}
