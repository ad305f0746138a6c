// The process object: users, capabilities, limits, seccomp, streams and terminals.
#include <csignal>
#include <unistd.h>

#include <linux/keyctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>

#include "tests/agent/harness.hpp"

namespace {

using namespace agent_test;

} // namespace

TEST_CASE("user, groups and umask are the configuration's") {
    const Outcome outcome = run_script(
        "id -u; id -g; id -G; umask",
        R"({"process": {"user": {"uid": 1000, "gid": 1000, "additionalGids": [5, 7], "umask": 63}}})");
    CHECK(outcome.out == "1000\n1000\n1000 5 7\n0077\n");
}

TEST_CASE("without a umask it is 0022, and HOME comes from the container's passwd") {
    CHECK(run_script("umask; echo $HOME").out == "0022\n/root\n");
    CHECK(run_script("echo $HOME", R"({"process": {"user": {"uid": 1000, "gid": 1000}}})").out ==
          "/home/user\n");
    CHECK(run_script("echo $HOME", R"({"process": {"env": ["PATH=/bin", "HOME=/given"]}})").out ==
          "/given\n");
}

TEST_CASE("the environment and the working directory are the configuration's alone") {
    const Outcome outcome = run_script(
        "pwd; env | sort",
        R"({"process": {"cwd": "/var/lib", "env": ["PATH=/bin", "A=1", "B=two words"]}})");
    CHECK(outcome.out.find("/var/lib\nA=1\nB=two words\nHOME=/root\n") == 0);
    CHECK(outcome.out.find("JOEY_AGENT") == std::string::npos);
}

TEST_CASE("a working directory that is missing is made") {
    CHECK(run_script("pwd", R"({"process": {"cwd": "/made/for/this"}})").out == "/made/for/this\n");
}

TEST_CASE("a working directory that is a file is refused") {
    TestContainer container(R"({"process": {"cwd": "/etc/passwd"}})");
    CHECK(container.run().error == "process.cwd /etc/passwd: Not a directory");
}

TEST_CASE("the five sets of capabilities are what was asked for") {
    const Outcome outcome =
        run_script("grep ^Cap /proc/self/status", R"({"process": {"capabilities": {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN", "CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}}})");
    // Root's program gains no more than root has, because of no-new-privileges.
    CHECK(outcome.out ==
          "CapInh:\t0000000000000020\nCapPrm:\t0000000000000021\nCapEff:\t0000000000000021\nCapBnd:"
          "\t0000000000002021\nCapAmb:\t0000000000000020\n");
}

TEST_CASE("ambient capabilities survive for a user who is not root") {
    const Outcome outcome =
        run_script("grep ^Cap /proc/self/status",
                   R"({"process": {"user": {"uid": 1000, "gid": 1000}, "capabilities": {
        "bounding": ["CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}}})");
    CHECK(outcome.out ==
          "CapInh:\t0000000000000020\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\nCapBnd:"
          "\t0000000000002020\nCapAmb:\t0000000000000020\n");
}

TEST_CASE("without capabilities there are none, and what needs them fails") {
    const Outcome outcome =
        run_script("grep -E '^Cap(Prm|Bnd)' /proc/self/status; chown 1000 /tmp && echo changed; "
                   "mount -t tmpfs x /tmp && echo mounted; exit 0",
                   R"({"process": {"capabilities": null}})");
    CHECK(outcome.out == "CapPrm:\t0000000000000000\nCapBnd:\t0000000000000000\n");
}

TEST_CASE("CAP_SYS_ADMIN, which the agent keeps to the last moment, is gone") {
    const Outcome outcome =
        run_script("hostname other; hostname", R"({"process": {"noNewPrivileges": false}})");
    CHECK(outcome.out == "joey-test\n");
}

TEST_CASE("an unknown capability is named") {
    CHECK(TestContainer(R"({"process": {"capabilities": {"bounding": ["CAP_NONESUCH"]}}})")
              .run()
              .error == "process.capabilities: bounding: there is no capability \"CAP_NONESUCH\"");
}

TEST_CASE("resource limits are the configuration's") {
    const Outcome outcome =
        run_script("ulimit -n; ulimit -Hn; ulimit -c; ulimit -s", R"({"process": {"rlimits": [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_STACK", "soft": 1048576, "hard": 1048576}]}})");
    CHECK(outcome.out == "100\n200\n0\n1024\n");
}

TEST_CASE("a limit so low that building would fail holds for the program alone") {
    const Outcome outcome = run_script(
        "ulimit -n; exit 0",
        R"({"process": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 4, "hard": 4}]}})");
    CHECK(outcome.error.empty());
    CHECK(outcome.out == "4\n");
}

TEST_CASE("no-new-privileges is set when asked for and not otherwise") {
    CHECK(run_script("grep NoNewPrivs /proc/self/status").out == "NoNewPrivs:\t1\n");
    CHECK(run_script("grep NoNewPrivs /proc/self/status",
                     R"({"process": {"noNewPrivileges": false}})")
              .out == "NoNewPrivs:\t0\n");
}

TEST_CASE("the OOM score is set") {
    CHECK(run_script("cat /proc/self/oom_score_adj", R"({"process": {"oomScoreAdj": 500}})").out ==
          "500\n");
}

TEST_CASE("one more process has the container's OOM score unless it names its own") {
    TestContainer container(script_spec("sleep 1000", R"({"process": {"oomScoreAdj": 500}})"));
    container.must_run();
    CHECK(container.exec("cat /proc/self/oom_score_adj").out == "500\n");
    CHECK(container.exec("cat /proc/self/oom_score_adj", R"({"oomScoreAdj": 600})").out == "600\n");
}

TEST_CASE("a container holds no keys of the agent's session") {
    // Perl, because it can make any system call: 250 is keyctl, 0 asks for the number of keyring
    // -3.
    const std::string script = "syscall(250, 0, -3, 0)";
    const std::string args = R"("args": ["/usr/bin/perl", "-e", "print )" + script + "\"]";
    std::string mounts = R"("mounts": [)";
    for (const char* path : {"/usr", "/lib", "/lib64"})
        mounts += os::text(R"({"destination": ")", path, R"(", "type": "bind", "source": ")", path,
                           R"(", "options": ["bind", "ro"]},)");
    mounts.back() = ']';
    const long own = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
    const Outcome first =
        TestContainer(os::text(R"({"process": {)", args, "}, ", mounts, "}")).run();
    const Outcome second =
        TestContainer(os::text(R"({"process": {)", args, "}, ", mounts, "}")).run();
    REQUIRE(!first.out.empty());
    CHECK(first.out != std::to_string(own));
    CHECK(first.out != second.out);
    TestContainer container(script_spec("exec sleep 1000", "{" + mounts + "}"));
    container.must_run();
    const Outcome executed = container.exec("perl", "{" + args + "}");
    REQUIRE(!executed.out.empty());
    CHECK(executed.out != std::to_string(own));
}

TEST_CASE("only the three standard streams are open in a container") {
    CHECK(run_script("ls /proc/self/fd | tr '\\n' ' '").out == "0 1 2 3 "); // 3 is ls's own
    TestContainer container(script_spec("exec sleep 1000"));
    container.must_run();
    CHECK(container.exec("ls /proc/self/fd | tr '\\n' ' '").out == "0 1 2 3 ");
}

TEST_CASE("the agent's own limit of descriptors is not its containers'") {
    rlimit own{};
    REQUIRE(getrlimit(RLIMIT_NOFILE, &own) == 0);
    CHECK(run_script("ulimit -n", R"({"process": {"rlimits": []}})").out ==
          std::to_string(own.rlim_cur) + "\n");
}

TEST_CASE("standard streams can be opened again by the container's user") {
    CHECK(run_script("echo again > /dev/stdout; echo err > /dev/stderr",
                     R"({"process": {"user": {"uid": 1000, "gid": 1000}}})")
              .out == "again\n");
}

TEST_CASE("standard input reaches the program, and its end as well") {
    TestContainer container(R"({"process": {"args": ["cat"]}})");
    container.input = true;
    REQUIRE(container.create());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    REQUIRE(container.write_input("hello\n"));
    REQUIRE(Agent::shared().eventually([&] { return output.out == "hello\n"; }));
    REQUIRE(container.write_input("more\n"));
    REQUIRE(container.close_input());
    REQUIRE(container.wait()->exit().code() == 0);
    CHECK(Agent::shared().eventually([&] { return output.open_streams == 0; }));
    CHECK(output.out == "hello\nmore\n");
    CHECK(container.write_input("late").error().message == "standard input is closed");
}

namespace {

os::Result<proto::Empty> write_to(const TestContainer& container, std::uint32_t descriptor,
                                  const std::string& data) {
    proto::WriteInputRequest request;
    request.set_container_id(container.id());
    request.set_exec_id("more");
    request.set_descriptor(descriptor);
    request.set_data(data);
    return Agent::shared().call<proto::Empty>("WriteInput", request);
}

os::Result<proto::Empty> end_of(const TestContainer& container, std::uint32_t descriptor) {
    proto::CloseInputRequest request;
    request.set_container_id(container.id());
    request.set_exec_id("more");
    request.set_descriptor(descriptor);
    return Agent::shared().call<proto::Empty>("CloseInput", request);
}

std::string read_all(const TestContainer& container, std::uint32_t descriptor) {
    std::string out;
    for (;;) {
        proto::ReadOutputRequest request;
        request.set_container_id(container.id());
        request.set_exec_id("more");
        request.set_descriptor(descriptor);
        request.set_offset(out.size());
        const auto got = Agent::shared().call<proto::ReadOutputResponse>("ReadOutput", request);
        if (!got || got->data().empty())
            return out;
        out += got->data();
    }
}

} // namespace

TEST_CASE(
    "descriptors beside the standard streams: pipes, a socket, /dev/null, each with its end") {
    TestContainer container(script_spec("exec sleep 1000"));
    container.must_run();
    const std::string script =
        R"json({"args": ["sh", "-c", "cat <&3 >&4; echo end >&4; exec 4>&-; cat <&5 >&5; echo $(ls /proc/self/fd) ; [ -c /proc/self/fd/6 ] && echo null"],
            "user": {"uid": 1000, "gid": 1000}})json";
    REQUIRE(container.create_exec("more", script, false,
                                  {proto::INTO, proto::OUT_OF, proto::BOTH, proto::DEV_NULL}));
    const Collected& output = container.collect("more");
    REQUIRE(container.start("more"));
    REQUIRE(write_to(container, 3, "three "));
    REQUIRE(end_of(container, 3));
    CHECK(read_all(container, 4) == "three end\n");
    REQUIRE(write_to(container, 5, "five"));
    REQUIRE(end_of(container, 5));
    REQUIRE(container.wait("more"));
    CHECK(read_all(container, 5) == "five");
    REQUIRE(Agent::shared().eventually([&] { return output.open_streams == 0; }));
    // 4 was closed, and is what ls reads.
    CHECK(output.out.starts_with("0 1 2 3 4 5 6"));
    CHECK(output.out.ends_with("null\n"));
    CHECK(write_to(container, 7, "x").error().code == os::Code::InvalidArgument);
    CHECK(write_to(container, 4, "x").error().message == "standard input is closed");
}

TEST_CASE("a program that is not there is still an error beside preserved descriptors") {
    TestContainer container(script_spec("exec sleep 1000"));
    container.must_run();
    const std::vector<proto::Preserved> many(64, proto::DEV_NULL);
    REQUIRE(container.create_exec("more", R"({"args": ["/bin/sh"]})", false, many));
    REQUIRE(container.start("more"));
    REQUIRE(container.wait("more")->exit().code() == 0);
    const auto refused = container.create_exec("other", R"({"args": ["/nonesuch"]})", false, many);
    CHECK(!refused);
    const std::vector<proto::Preserved> beyond(65, proto::DEV_NULL);
    CHECK(container.create_exec("third", R"({"args": ["/bin/sh"]})", false, beyond).error().code ==
          os::Code::InvalidArgument);
}

TEST_CASE("without standard input a program reads the end at once") {
    const Outcome outcome = run_script("cat; echo done");
    CHECK(outcome.out == "done\n");
}

TEST_CASE("a program that nobody reads from waits, and loses nothing") {
    TestContainer container(script_spec("seq 1 100000; echo end >&2"));
    REQUIRE(container.create());
    REQUIRE(container.start());
    // It cannot end while its pipe is full.
    proto::ProcessRequest request;
    request.set_container_id(container.id());
    const auto early =
        Agent::shared().call<proto::WaitResponse>("Wait", request, std::chrono::milliseconds(200));
    CHECK(early.error().code == os::Code::DeadlineExceeded);
    const Collected& output = container.collect();
    REQUIRE(container.wait());
    REQUIRE(Agent::shared().eventually([&] { return output.open_streams == 0; }));
    CHECK(output.out.size() == 588895);
    CHECK(output.out.substr(output.out.size() - 7) == "100000\n");
    CHECK(output.err == "end\n");
}

TEST_CASE("a program that does not read its input holds its writer up, and no one else") {
    TestContainer container(script_spec("read line; echo got; sleep 1000"));
    container.input = true;
    container.must_run();
    proto::WriteInputRequest request;
    request.set_container_id(container.id());
    request.set_data(std::string(1 << 20, 'x'));
    bool written = false;
    Agent::shared().client().call<proto::Empty>(
        "joey.agent.v1.Agent", "WriteInput", request, ttrpc::Client::no_limit,
        [&written](const os::Result<proto::Empty>&) { written = true; });
    CHECK(container.write_input("more").error().message ==
          "somebody writes to this stream already");
    CHECK(run_script("echo other").out == "other\n");
    CHECK_FALSE(written);
    REQUIRE(container.kill(SIGKILL));
    CHECK(Agent::shared().eventually([&] { return written; }));
}

TEST_CASE("a reader whose time is up takes nothing with it: what did not arrive is given again") {
    TestContainer container(script_spec("echo lost; read line; echo $line"));
    container.input = true;
    container.must_run();
    proto::ReadOutputRequest request;
    request.set_container_id(container.id());
    const auto read_at = [&request](std::uint64_t offset) {
        request.set_offset(offset);
        return Agent::shared().call<proto::ReadOutputResponse>("ReadOutput", request);
    };
    CHECK(read_at(0)->data() == "lost\n");
    CHECK(read_at(0)->data() == "lost\n");
    CHECK(read_at(3).error().code == os::Code::OutOfRange);
    CHECK_FALSE(Agent::shared().call<proto::ReadOutputResponse>(
        "ReadOutput", (request.set_offset(5), request), std::chrono::milliseconds(30)));
    REQUIRE(container.write_input("kept\n"));
    REQUIRE(container.wait());
    // The agent may learn of the time limit a little later.
    os::Result<proto::ReadOutputResponse> data = os::fail(os::Code::Unknown, "");
    REQUIRE(Agent::shared().eventually([&] {
        data = read_at(5);
        return data.has_value();
    }));
    CHECK(data->data() == "kept\n");
    CHECK(read_at(10)->data().empty());
}

TEST_CASE("a terminal: size, controlling terminal, both directions") {
    TestContainer container(script_spec(
        "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; read line; echo "
        "\"<$line>\"",
        R"({"process": {"terminal": true, "consoleSize": {"height": 33, "width": 77}}})"));
    REQUIRE(container.create());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    REQUIRE(
        Agent::shared().eventually([&] { return output.out.find("all") != std::string::npos; }));
    CHECK(output.out == "/dev/pts/0\r\n33 77\r\nall\r\n");
    REQUIRE(container.write_input("typed\n"));
    REQUIRE(container.wait()->exit().code() == 0);
    Agent::shared().eventually([&] { return output.out.find("<typed>") != std::string::npos; });
    CHECK(output.out.find("typed\r\n<typed>\r\n") != std::string::npos);
}

TEST_CASE("a terminal's resize reaches the program as a signal") {
    TestContainer container(
        script_spec("trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done",
                    R"({"process": {"terminal": true}})"));
    REQUIRE(container.create());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    REQUIRE(Agent::shared().eventually([&] { return output.out == "ready\r\n"; }));
    proto::ResizeTerminalRequest request;
    request.set_container_id(container.id());
    request.set_rows(10);
    request.set_columns(20);
    REQUIRE(Agent::shared().call<proto::Empty>("ResizeTerminal", request));
    REQUIRE(container.wait());
    CHECK(Agent::shared().eventually([&] { return output.out == "ready\r\n10 20\r\n"; }));
}

TEST_CASE("a terminal's interrupt character is a signal to the program") {
    TestContainer container(script_spec("sh -c 'trap \"echo interrupted; exit 4\" INT; echo ready; "
                                        "while :; do sleep 0.01; done'; exit $?",
                                        R"({"process": {"terminal": true}})"));
    REQUIRE(container.create());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    REQUIRE(Agent::shared().eventually([&] { return output.out == "ready\r\n"; }));
    REQUIRE(container.write_input("\x03"));
    REQUIRE(container.wait());
    CHECK(Agent::shared().eventually(
        [&] { return output.out.find("interrupted") != std::string::npos; }));
}

TEST_CASE("/dev/console of a container with a terminal is that terminal") {
    TestContainer container(
        script_spec("echo to console > /dev/console", R"({"process": {"terminal": true}})"));
    const Outcome outcome = container.run();
    CHECK(outcome.out == "to console\r\n");
}

TEST_CASE("a terminal that a program has closed, and opens again, goes on") {
    TestContainer container(
        script_spec("exec 0<&- 1>&- 2>&-; sleep 0.3; echo back > /dev/console; sleep 0.3; "
                    "echo again > /dev/console",
                    R"({"process": {"terminal": true}})"));
    CHECK(container.run().out == "back\r\nagain\r\n");
}

TEST_CASE("one more process with a terminal of its own") {
    TestContainer container(script_spec("exec sleep 1000"));
    container.must_run();
    const Outcome outcome = container.exec(
        "tty; stty size", R"({"terminal": true, "consoleSize": {"height": 5, "width": 6}})");
    CHECK(outcome.out == "/dev/pts/0\r\n5 6\r\n");
}

TEST_CASE("resizing what has no terminal is refused") {
    TestContainer container(script_spec("exec sleep 1000"));
    container.must_run();
    proto::ResizeTerminalRequest request;
    request.set_container_id(container.id());
    CHECK(Agent::shared().call<proto::Empty>("ResizeTerminal", request).error().message ==
          "the process has no terminal");
}

TEST_CASE("seccomp: a call fails with the errno of its rule") {
    const Outcome outcome = run_script(
        "mkdir /tmp/x; uname -s",
        R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}}})");
    CHECK(outcome.err == "mkdir: can't create directory '/tmp/x': No space left on device\n");
    CHECK(outcome.out == "Linux\n");
}

TEST_CASE("seccomp: without no-new-privileges it is installed as well") {
    const Outcome outcome = run_script(
        "mkdir /tmp/x; grep Seccomp: /proc/self/status",
        R"({"process": {"noNewPrivileges": false}, "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}}})");
    CHECK(outcome.err == "mkdir: can't create directory '/tmp/x': Operation not permitted\n");
    CHECK(outcome.out == "Seccomp:\t2\n");
}

TEST_CASE("seccomp: rules on arguments hold for those arguments") {
    // kill(2) with signal 0 is allowed, with others not.
    const Outcome outcome = run_script("kill -0 1 && echo asked; kill -9 1; echo $?",
                                       R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}]}}})");
    CHECK(outcome.out == "asked\n1\n");
}

TEST_CASE("seccomp: a call that kills") {
    const Outcome outcome = run_script("mkdir /tmp/x; echo $?",
                                       R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}}})");
    CHECK(outcome.out == "159\n"); // SIGSYS
}

TEST_CASE("seccomp: it holds for further processes too") {
    TestContainer container(
        script_spec("exec sleep 1000", R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}}})"));
    container.must_run();
    CHECK(container.exec("mkdir /tmp/x").code == 1);
}

TEST_CASE("seccomp: what cannot be done is refused with its field") {
    const auto [seccomp, message] = GENERATE(
        std::pair(R"({"defaultAction": "SCMP_ACT_NOTIFY"})",
                  "linux.seccomp: defaultAction: SCMP_ACT_NOTIFY is not supported"),
        std::pair(R"({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"})",
                  "linux.seccomp: listenerPath is not supported"),
        std::pair(
            R"({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "NO"}]})",
            "linux.seccomp.syscalls[0]: action: there is no action \"NO\""));
    CHECK(TestContainer(os::text(R"({"linux": {"seccomp": )", seccomp, "}}")).run().error ==
          message);
}

TEST_CASE("seccomp: a filter that the kernel would not take is refused at creation") {
    std::string rules;
    for (int value = 0; value < 6000; ++value)
        rules += os::text(value == 0 ? "" : ",",
                          R"({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": )",
                          value % 6, R"(, "value": )", value, R"(, "op": "SCMP_CMP_EQ"}]})");
    TestContainer container(
        os::text(R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [)",
                 rules, "]}}}"));
    const auto created = container.create();
    REQUIRE_FALSE(created);
    CHECK(created.error().code == os::Code::InvalidArgument);
    CHECK(created.error().message.find("instructions, the kernel takes 4096") != std::string::npos);
}

TEST_CASE("personality: a 32-bit one says so") {
    CHECK(run_script("uname -m", R"({"linux": {"personality": {"domain": "LINUX32"}}})").out ==
          "i686\n");
}

TEST_CASE("labels of security modules that are not there are refused") {
    CHECK(TestContainer(R"({"process": {"apparmorProfile": "some"}})").run().error ==
          "process: apparmorProfile: this system has no AppArmor");
    CHECK(TestContainer(R"({"process": {"selinuxLabel": "some"}})").run().error ==
          "process: selinuxLabel: this system has no SELinux");
    CHECK(run_script("echo ok", R"({"process": {"apparmorProfile": "unconfined"}})").out == "ok\n");
}
