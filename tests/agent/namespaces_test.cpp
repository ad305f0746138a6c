// Namespaces new and joined, users mapped, sysctls, hooks, control groups.
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <sys/stat.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "tests/agent/harness.hpp"

namespace {

using namespace agent_test;
namespace fs = std::filesystem;

std::string text_of(const std::string& path) {
    std::ostringstream out;
    out << std::ifstream(path).rdbuf();
    return out.str();
}

const std::string all_kinds =
    R"([{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "user"}])";
const std::string mapped =
    R"("uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}], "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}])";

} // namespace

TEST_CASE("new namespaces differ from the agent's") {
    const Outcome outcome = run_script(
        "for n in pid mnt net ipc uts cgroup user; do echo $n $(readlink /proc/self/ns/$n); done");
    std::istringstream lines(outcome.out);
    std::string kind;
    std::string name;
    int seen = 0;
    while (lines >> kind >> name) {
        ++seen;
        CHECK((fs::read_symlink("/proc/self/ns/" + kind).string() == name) == (kind == "user"));
    }
    CHECK(seen == 7);
}

TEST_CASE("the program is process 1 and sees its own processes only") {
    CHECK(run_script("echo $$; ls /proc > /tmp/all; grep -c '^[0-9]' /tmp/all").out == "1\n2\n");
}

TEST_CASE("the network namespace has its loopback interface up") {
    CHECK(run_script("ping -c 1 -W 2 127.0.0.1 >/dev/null 2>&1; grep -c lo: /proc/net/dev; cat "
                     "/sys/class/net/lo/flags")
              .out == "1\n0x9\n");
}

TEST_CASE("host and domain name are the container's own") {
    CHECK(run_script("hostname; dnsdomainname 2>/dev/null; cat /proc/sys/kernel/domainname",
                     R"({"hostname": "inside", "domainname": "example.org"})")
              .out == "inside\nexample.org\n");
    char name[65] = {};
    gethostname(name, sizeof name);
    CHECK(std::string(name) != "inside");
}

TEST_CASE("containers of a pod share namespaces by path") {
    TestContainer first(script_spec("exec sleep 1000", R"({"hostname": "pod"})"));
    first.must_run();
    const std::string ns = os::text("/proc/", first.state()->pid(), "/ns/");
    const std::string namespaces = os::text(
        R"({"hostname": null, "linux": {"namespaces": [{"type": "mount"}, {"type": "cgroup"}, {"type": "pid", "path": ")",
        ns, R"(pid"}, {"type": "network", "path": ")", ns, R"(net"}, {"type": "ipc", "path": ")",
        ns, R"(ipc"}, {"type": "uts", "path": ")", ns, R"(uts"}]}})");
    TestContainer second(script_spec("hostname; for n in pid net ipc uts; do readlink "
                                     "/proc/self/ns/$n; done; [ $$ = 1 ] || echo not first",
                                     namespaces));
    const Outcome outcome = second.run();
    CHECK(outcome.error.empty());
    std::string expected = "pod\n";
    for (const char* kind : {"pid", "net", "ipc", "uts"})
        expected += fs::read_symlink(ns + kind).string() + "\n";
    CHECK(outcome.out == expected + "not first\n");
    REQUIRE(second.remove());
    CHECK(first.state()->status() == proto::RUNNING);
}

TEST_CASE("a path that is no namespace, or one of another kind, is refused") {
    CHECK(
        TestContainer(
            R"({"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/etc/passwd"}]}, "hostname": null})")
            .run()
            .error == "linux.namespaces: /etc/passwd is no network namespace");
    CHECK(
        TestContainer(
            R"({"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/uts"}]}, "hostname": null})")
            .run()
            .error == "linux.namespaces: /proc/self/ns/uts is no network namespace");
    const Outcome missing =
        TestContainer(
            R"({"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/nonesuch"}]}, "hostname": null})")
            .run();
    CHECK(missing.error ==
          "linux.namespaces: the network namespace: open /nonesuch: No such file or directory");
}

TEST_CASE("a path to the agent's own namespace does not make it the container's") {
    const auto error = [](const char* kind, const char* file, const char* more) {
        const std::string path = os::text("/proc/", Agent::shared().pid(), "/ns/", file);
        const std::string mount = std::string(kind) == "mount" ? "" : R"({"type": "mount"}, )";
        return TestContainer(os::text(R"({"hostname": null, "linux": {"namespaces": [)", mount,
                                      R"({"type": ")", kind, R"(", "path": ")", path, R"("}])",
                                      more))
            .run()
            .error;
    };
    CHECK(error("mount", "mnt", "}}") ==
          "linux.namespaces: the mount namespace is the agent's own");
    CHECK(error("uts", "uts", R"(}, "hostname": "mine"})") ==
          "linux.namespaces: the uts namespace is the agent's own, where nothing can be set");
    CHECK(error("network", "net", R"(, "sysctl": {"net.ipv4.ip_forward": "0"}}})") ==
          "linux.namespaces: the network namespace is the agent's own, where nothing can be set");
    CHECK(error("ipc", "ipc", R"(, "sysctl": {"kernel.msgmax": "8192"}}})") ==
          "linux.namespaces: the ipc namespace is the agent's own, where nothing can be set");
    CHECK(error("network", "net", "}}").empty());
}

TEST_CASE("a user namespace maps ids, and root inside is nobody outside") {
    TestContainer container(
        script_spec("id -u; cat /proc/self/uid_map; touch /dev/shm/x; stat -c %u /dev/shm/x; stat "
                    "-c '%t:%T' /dev/null; echo y > /dev/null && echo null; sleep 1000",
                    os::text(R"({"linux": {"namespaces": )", all_kinds, ", ", mapped, "}}")));
    REQUIRE([&] {
        const auto created = container.create();
        INFO((created ? "" : created.error().message));
        CHECK(created);
        return created.has_value();
    }());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    Agent::shared().eventually(
        [&] { return output.out.find("null\n") != std::string::npos || !output.err.empty(); });
    CHECK(output.out == "0\n         0     100000      65536\n0\n1:3\nnull\n");
    struct stat about {};
    REQUIRE(stat(os::text("/proc/", container.state()->pid()).c_str(), &about) == 0);
    CHECK(about.st_uid == 100000);
    const Outcome executed = container.exec(
        "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user | sed 's/^/1 /'");
    CHECK(executed.out.substr(0, 2) == "0\n");
}

TEST_CASE("users of a user namespace must be mapped") {
    CHECK(
        TestContainer(os::text(R"({"process": {"user": {"uid": 70000}}, "linux": {"namespaces": )",
                               all_kinds, ", ", mapped, "}}"))
            .run()
            .error == "process.user.uid: linux.uidMappings does not map it");
    CHECK(TestContainer(os::text(R"({"linux": {"namespaces": )", all_kinds, "}}")).run().error ==
          "linux.uidMappings: a new user namespace needs uidMappings and gidMappings");
}

TEST_CASE("a container can join another's user namespace") {
    TestContainer first(script_spec("exec sleep 1000", os::text(R"({"linux": {"namespaces": )",
                                                                all_kinds, ", ", mapped, "}}")));
    first.must_run();
    const std::string user = os::text("/proc/", first.state()->pid(), "/ns/user");
    const Outcome outcome =
        TestContainer(
            script_spec(
                "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user",
                os::text(
                    R"({"linux": {"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "user", "path": ")",
                    user, R"("}]}})")))
            .run();
    CHECK(outcome.error.empty());
    CHECK(outcome.out ==
          os::text("0\n         0     100000      65536\n", fs::read_symlink(user).string(), "\n"));
}

TEST_CASE("a container that joins a user and a pid namespace is known by its number outside") {
    TestContainer first(script_spec("exec sleep 1000", os::text(R"({"linux": {"namespaces": )",
                                                                all_kinds, ", ", mapped, "}}")));
    first.must_run();
    const std::string ns = os::text("/proc/", first.state()->pid(), "/ns/");
    TestContainer second(script_spec(
        "exec sleep 1001",
        os::text(
            R"({"linux": {"namespaces": [{"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "pid", "path": ")",
            ns, R"(pid"}, {"type": "user", "path": ")", ns, R"(user"}]}})")));
    second.must_run();
    const std::string own = os::text("/proc/", second.state()->pid());
    CHECK(Agent::shared().eventually(
        [&] { return text_of(own + "/cmdline") == std::string("sleep\0001001\0", 11); }));
    CHECK(fs::read_symlink(own + "/ns/pid").string() == fs::read_symlink(ns + "pid").string());
    CHECK(text_of(Agent::shared().cgroup_root() + "/" + second.id() + "/cgroup.procs") ==
          os::text(second.state()->pid(), "\n"));
    REQUIRE(second.remove(true));
    CHECK(first.state()->status() == proto::RUNNING);
}

TEST_CASE("a time namespace has the offsets of the configuration") {
    const Outcome outcome = run_script(
        "cut -d. -f1 /proc/uptime",
        R"({"linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "time"}], "timeOffsets": {"boottime": {"secs": 10000000}}}})");
    INFO(outcome.error);
    CHECK(std::stol(outcome.out) >= 10000000);
}

TEST_CASE("sysctls are set in the container's namespaces alone") {
    const std::string before = text_of("/proc/sys/net/ipv4/ip_forward");
    const Outcome outcome = run_script(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax",
        R"({"linux": {"sysctl": {"net.ipv4.ip_unprivileged_port_start": "77", "kernel.msgmax": "4096"}}})");
    CHECK(outcome.error.empty());
    CHECK(outcome.out == "77\n4096\n");
    CHECK(text_of("/proc/sys/net/ipv4/ip_unprivileged_port_start") != "77\n");
    CHECK(text_of("/proc/sys/net/ipv4/ip_forward") == before);
}

TEST_CASE("a sysctl that is not there, or takes no such value, is named") {
    CHECK(TestContainer(R"({"linux": {"sysctl": {"net.nonesuch": "1"}}})").run().error ==
          "linux.sysctl[\"net.nonesuch\"]: /sys/net/nonesuch: No such file or directory");
    CHECK(TestContainer(R"({"linux": {"sysctl": {"kernel.msgmax": "words"}}})").run().error ==
          "linux.sysctl[\"kernel.msgmax\"]: write \"words\": Invalid argument");
}

TEST_CASE("hooks run in their order and places, with the state on their input") {
    const std::string log = Agent::shared().directory() + "/hooks.log";
    fs::remove(log);
    const auto hook = [&](const std::string& name) {
        return os::text(R"([{"path": "/bin/sh", "args": ["sh", "-c", "echo )", name,
                        " $(tr ',' '\\n' | grep -E '\\\"(status|id)\\\"' | tr '\\n' ' ') >> ", log,
                        R"("], "env": ["PATH=/usr/bin:/bin"]}])");
    };
    TestContainer container(
        script_spec("exec sleep 1000", os::text(R"({"hooks": {"prestart": )", hook("prestart"),
                                                R"(, "createRuntime": )", hook("createRuntime"),
                                                R"(, "createContainer": )", hook("createContainer"),
                                                R"(, "poststart": )", hook("poststart"),
                                                R"(, "poststop": )", hook("poststop"), "}}")));
    container.must_run();
    REQUIRE(container.remove(true));
    const std::string id = "\"id\":\"" + container.id() + "\"";
    CHECK(text_of(log) == os::text("prestart ", id, " \"status\":\"creating\"\ncreateRuntime ", id,
                                   " \"status\":\"creating\"\ncreateContainer ", id,
                                   " \"status\":\"creating\"\npoststart ", id,
                                   " \"status\":\"running\"\npoststop ", id,
                                   " \"status\":\"stopped\"\n"));
}

TEST_CASE("startContainer hooks run inside, after start and before the program") {
    const Outcome outcome = run_script(
        "cat /order; echo program",
        R"({"hooks": {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "/bin/busybox hostname > /order"]}]}})");
    CHECK(outcome.error.empty());
    CHECK(outcome.out == "joey-test\nprogram\n");
}

TEST_CASE("files that hooks make are not everybody's to write") {
    const std::string log = Agent::shared().directory() + "/umask.log";
    TestContainer container(os::text(
        R"({"hooks": {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "umask > )", log,
        R"("]}]}})"));
    REQUIRE(container.create());
    CHECK(text_of(log) == "0022\n");
}

TEST_CASE("a hook is over when it ends, whatever it has left behind writes on") {
    CHECK(
        TestContainer(
            R"({"hooks": {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "while echo again; do :; done & exit 3"]}]}})")
            .run()
            .error.starts_with("hooks.createRuntime[0] (/bin/sh): exit status 3"));
}

TEST_CASE("a hook that fails ends the creation, with what it said") {
    CHECK(
        TestContainer(
            R"({"hooks": {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 3"]}]}})")
            .run()
            .error == "hooks.createRuntime[0] (/bin/sh): exit status 3: no luck");
    CHECK(TestContainer(R"({"hooks": {"createContainer": [{"path": "/nonesuch"}]}})").run().error ==
          "hooks.createContainer[0] (/nonesuch): exit status 127: execute: No such file or "
          "directory");
    CHECK(TestContainer(R"({"hooks": {"startContainer": [{"path": "/bin/false"}]}})").run().error ==
          "hooks.startContainer[0] (/bin/false): exit status 1");
    CHECK(TestContainer(R"({"hooks": {"poststart": [{"path": "/bin/false"}]}})").run().error ==
          "hooks.poststart[0] (/bin/false): exit status 1");
}

TEST_CASE("a poststop hook that fails keeps no other from running") {
    const std::string log = Agent::shared().directory() + "/poststop.log";
    TestContainer container(os::text(
        R"({"hooks": {"poststop": [{"path": "/bin/false"}, {"path": "/nonesuch"}, {"path": "/bin/sh", "args": ["sh", "-c", "echo ran > )",
        log, R"("]}]}})"));
    container.must_run();
    REQUIRE(container.wait());
    REQUIRE(container.remove());
    CHECK(text_of(log) == "ran\n");
}

TEST_CASE("a hook that takes too long is ended, and the creation with it") {
    CHECK(
        TestContainer(
            R"({"hooks": {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "sleep 1000"], "timeout": 1, "env": ["PATH=/usr/bin:/bin"]}]}})")
            .run()
            .error == "hooks.createRuntime[0] (/bin/sh): ran longer than 1 seconds");
}

TEST_CASE("a container's control group is where it was asked to be, and goes with it") {
    const auto [path, place] = GENERATE(std::pair("/some/where", "/some/where"),
                                        std::pair("slice:joey:name", "/slice/joey-name.scope"));
    TestContainer container(
        script_spec("exec sleep 1000", os::text(R"({"linux": {"cgroupsPath": ")", path, R"("}})")));
    container.must_run();
    const std::string directory = Agent::shared().cgroup_root() + place;
    CHECK(text_of(directory + "/cgroup.procs") == os::text(container.state()->pid(), "\n"));
    REQUIRE(container.remove(true));
    CHECK_FALSE(fs::exists(directory));
    CHECK_FALSE(fs::exists(fs::path(directory).parent_path()));
}

TEST_CASE("a control group that another container has is refused") {
    TestContainer first(script_spec("exec sleep 1000", R"({"linux": {"cgroupsPath": "/taken"}})"));
    first.must_run();
    TestContainer second(R"({"linux": {"cgroupsPath": "/taken"}})");
    CHECK(second.run().error == "linux.cgroupsPath: container " + first.id() + " has this group");
    CHECK(TestContainer(R"({"linux": {"cgroupsPath": "/taken/below"}})").run().error ==
          "linux.cgroupsPath: container " + first.id() + " has this group");
    CHECK(first.state()->status() == proto::RUNNING);
}

TEST_CASE("the agent's own control group, and one that has processes, are left alone") {
    CHECK(TestContainer(R"({"linux": {"cgroupsPath": "/"}})").run().error ==
          "linux.cgroupsPath: names the agent's own group");
    const std::string group = Agent::shared().cgroup_root() + "/others";
    fs::create_directory(group);
    const pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    std::ofstream(group + "/cgroup.procs") << pid;
    const Outcome outcome = TestContainer(R"({"linux": {"cgroupsPath": "/others"}})").run();
    CHECK(outcome.error.find("has processes already") != std::string::npos);
    CHECK(waitpid(pid, nullptr, WNOHANG) == 0);
    ::kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    CHECK(Agent::shared().eventually([&] { return rmdir(group.c_str()) == 0; }));
}

TEST_CASE("groups that a container has made below its own go with it") {
    TestContainer container(script_spec(
        "mkdir -p /sys/fs/cgroup/a/b /sys/fs/cgroup/.hidden && d=/sys/fs/cgroup && for i in $(seq "
        "80); do d=$d/deep; mkdir $d; done && echo $$ > /sys/fs/cgroup/a/b/cgroup.procs && echo "
        "ready; "
        "exec sleep 1000",
        R"({"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/sys", "type": "sysfs", "source": "sysfs"}, {"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup"}]})"));
    REQUIRE(container.create());
    const Collected& output = container.collect();
    REQUIRE(container.start());
    REQUIRE(Agent::shared().eventually([&] { return output.out == "ready\n"; }));
    REQUIRE(container.remove(true));
    CHECK_FALSE(fs::exists(Agent::shared().cgroup_root() + "/" + container.id()));
}

TEST_CASE("a control group that cannot be made leaves none behind") {
    const Outcome outcome =
        TestContainer(R"({"linux": {"cgroupsPath": "/halfway/there/two\nlines"}})").run();
    CHECK(outcome.error == "linux.cgroupsPath: make the control group " +
                               Agent::shared().cgroup_root() +
                               "/halfway/there/two\nlines: Invalid argument");
    CHECK_FALSE(fs::exists(Agent::shared().cgroup_root() + "/halfway"));
}

TEST_CASE("a process is executed in a container that has divided its control group") {
    // Any controller that is no matter of threads: with it, a group has processes or groups.
    const std::string own = Agent::shared().cgroup_root() + "/cgroup.subtree_control";
    const std::string top = Agent::shared().directory() + "/cgroup/cgroup.subtree_control";
    std::string controller;
    bool had = true;
    for (const char* name : {"hugetlb", "memory"}) {
        had = Agent::shared().has_controller(name);
        if (!had)
            std::ofstream(top) << "+" << name;
        controller = name;
        if (Agent::shared().has_controller(name))
            break;
        controller.clear();
    }
    if (controller.empty()) {
        WARN("this host's control groups lack hugetlb and memory: groups can be divided freely");
        return;
    }
    {
        TestContainer container(script_spec(
            os::text("cd /sys/fs/cgroup; mkdir init; echo $$ > init/cgroup.procs; echo +",
                     controller, " > cgroup.subtree_control && echo divided; exec sleep 1000"),
            R"({"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/sys", "type": "sysfs", "source": "sysfs"}, {"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup"}]})"));
        REQUIRE(container.create());
        const Collected& output = container.collect();
        REQUIRE(container.start());
        REQUIRE(Agent::shared().eventually([&] { return output.out == "divided\n"; }));
        const Outcome outcome = container.exec("grep ^0 /proc/self/cgroup");
        CHECK(outcome.error.empty());
        CHECK(outcome.out == "0::/init\n");
    }
    if (!had) {
        std::ofstream(own) << "-" << controller;
        std::ofstream(top) << "-" << controller;
    }
}

TEST_CASE("limits bite, or are refused with the controller that is missing") {
    const auto [resources, controller, file, value] = GENERATE(
        std::tuple(R"({"memory": {"limit": 33554432}})", "memory", "memory.max", "33554432\n"),
        std::tuple(R"({"pids": {"limit": 7}})", "pids", "pids.max", "7\n"),
        std::tuple(R"({"cpu": {"quota": 20000, "period": 100000}})", "cpu", "cpu.max",
                   "20000 100000\n"),
        std::tuple(R"({"cpu": {"cpus": "0"}})", "cpuset", "cpuset.cpus", "0\n"));
    TestContainer container(
        script_spec("exec sleep 1000", os::text(R"({"linux": {"resources": )", resources, "}}")));
    const auto created = container.create();
    if (!Agent::shared().has_controller(controller)) {
        WARN("this host's control groups lack the controller "
             << controller << ": that the limit bites is tested in the guest");
        REQUIRE_FALSE(created);
        CHECK(created.error().code == os::Code::FailedPrecondition);
        CHECK(created.error().message.find(os::text(": there is no ", file, " here")) !=
              std::string::npos);
        return;
    }
    REQUIRE(created);
    CHECK(text_of(Agent::shared().cgroup_root() + "/" + container.id() + "/" + file) == value);
}

TEST_CASE("more memory than the limit: the OOM killer's work is reported") {
    TestContainer container(script_spec(
        "dd if=/dev/zero of=/dev/null bs=200M count=1",
        R"({"linux": {"resources": {"memory": {"limit": 33554432, "swap": 33554432}}}})"));
    if (!Agent::shared().has_controller("memory")) {
        WARN("this host's control groups lack the controller memory: tested in the guest");
        REQUIRE_FALSE(container.create());
        return;
    }
    container.must_run();
    const auto waited = container.wait();
    REQUIRE(waited);
    CHECK(waited->exit().oom_killed());
}

TEST_CASE("statistics are there for what the group has") {
    TestContainer container(script_spec("exec sleep 1000"));
    container.must_run();
    proto::ContainerRequest request;
    request.set_container_id(container.id());
    const auto stats = Agent::shared().call<proto::StatsResponse>("Stats", request);
    REQUIRE(stats);
    CHECK(stats->taken_at() > 0);
    CHECK(stats->cpu().usage_usec() > 0);
    CHECK(stats->has_memory() == Agent::shared().has_controller("memory"));
}

TEST_CASE("resources that a kernel with version 2 lacks are refused or told") {
    CHECK(TestContainer(
              R"({"linux": {"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}}})")
              .run()
              .error ==
          "linux.resources.hugepageLimits: is not supported: the kernel has no such controller");
    CHECK(run_script("echo fine", R"({"linux": {"resources": {"hugepageLimits": [
                                     {"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 0}]}}})")
              .out == "fine\n");
    TestContainer container(R"({"linux": {"resources": {"memory": {"swappiness": 10}}}})");
    const auto created = container.create();
    REQUIRE(created);
    REQUIRE(created->warnings_size() == 1);
    CHECK(created->warnings(0) ==
          "linux.resources.memory.swappiness: control groups version 2 do not have it");
}

TEST_CASE("an update of resources says what is wrong with it") {
    TestContainer container(script_spec("exec sleep 1000"));
    container.must_run();
    proto::UpdateRequest request;
    request.set_container_id(container.id());
    request.set_resources(R"({"cpu": {"shares": 1}})");
    CHECK(Agent::shared().call<proto::Empty>("Update", request).error().message ==
          "linux.resources.cpu.shares: must lie between 2 and 262144");
    request.set_resources("{}");
    CHECK(Agent::shared().call<proto::Empty>("Update", request));
}

TEST_CASE("an update below what is in use is refused when that was asked for") {
    TestContainer container(script_spec("exec sleep 1000"));
    container.must_run();
    proto::UpdateRequest request;
    request.set_container_id(container.id());
    request.set_resources(R"({"memory": {"limit": 4096, "checkBeforeUpdate": true}})");
    const auto updated = Agent::shared().call<proto::Empty>("Update", request);
    REQUIRE_FALSE(updated);
    CHECK(updated.error().code == os::Code::FailedPrecondition);
    if (!Agent::shared().has_controller("memory")) {
        WARN("this host's control groups lack the controller memory: tested in the guest");
        return;
    }
    CHECK(updated.error().message.find("linux.resources.memory.limit: 4096 is not more than") == 0);
    CHECK(container.state()->status() == proto::RUNNING);
}

TEST_CASE("mounts for the sandbox are made and taken away") {
    const std::string target = Agent::shared().directory() + "/sandbox/mount";
    proto::MountRequest request;
    request.set_type("tmpfs");
    request.set_target(target);
    request.add_options("size=64k");
    request.add_options("nosuid");
    REQUIRE(Agent::shared().call<proto::Empty>("Mount", request));
    CHECK(text_of(os::text("/proc/", Agent::shared().pid(), "/mountinfo")).find(target) !=
          std::string::npos);
    proto::UnmountRequest unmount;
    unmount.set_target(target);
    REQUIRE(Agent::shared().call<proto::Empty>("Unmount", unmount));
    CHECK_FALSE(Agent::shared().call<proto::Empty>("Unmount", unmount));
    request.set_target("relative");
    CHECK(Agent::shared().call<proto::Empty>("Mount", request).error().message ==
          "target: must be an absolute path free of \"..\"");
}
