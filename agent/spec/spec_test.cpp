// What is taken from a configuration, and what is refused with which words.
#include <sched.h>

#include <linux/mount.h>

#include <catch2/catch.hpp>
#include <seccomp.h>

#include "agent/spec/parts.hpp"

namespace {

constexpr std::uint64_t ms_rec = 1U << 14;
constexpr std::uint64_t ms_slave = 1U << 19;

std::string config(const std::string& members) {
    return R"({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {"namespaces": [{"type": "mount"}]}, )" +
           members + "}";
}

std::string error_of(const std::string& text) {
    const auto parsed = spec::parse_spec(text, "/bundle");
    return parsed ? "" : parsed.error().message;
}

std::string process_error(const std::string& members) {
    const auto parsed = spec::parse_process(R"({"args": ["x"], "cwd": "/", )" + members + "}");
    return parsed ? "" : parsed.error().message;
}

spec::MountOptions options(const std::vector<std::string>& list) {
    return *spec::parse_mount_options(list, "options");
}

std::string setting(const std::string& resources, const std::string& file) {
    const auto parsed = spec::parse_resources(resources);
    if (!parsed)
        return parsed.error().message;
    for (const spec::CgroupSetting& entry : parsed->settings) {
        if (entry.file == file)
            return entry.value;
    }
    return "(none)";
}

} // namespace

TEST_CASE("a small configuration is taken") {
    const auto parsed = spec::parse_spec(
        config(R"("process": {"args": ["sh"], "cwd": "/"}, "hostname": "")"), "/bundle");
    REQUIRE(parsed);
    CHECK(parsed->rootfs == "/bundle/rootfs");
    CHECK(parsed->process->args == std::vector<std::string>{"sh"});
    CHECK(parsed->linux_part.is_new(CLONE_NEWNS));
}

TEST_CASE("unknown members are passed over, null is as good as absent") {
    CHECK(
        error_of(config(R"("future": {"x": [1]}, "mounts": null, "hooks": null, "process": null)"))
            .empty());
}

TEST_CASE("text that is no configuration is refused with the place") {
    CHECK(error_of("") == "the document: no valid JSON at byte 1");
    CHECK(error_of(R"({"a": 1,})") == "the document: no valid JSON at byte 9");
    CHECK(error_of("[]") == "the document: must be an object");
    CHECK(error_of("\"\xff\"").find("the document: no valid JSON") == 0);
    CHECK(error_of(std::string(100000, '[')) == "the document: is nested more than 64 levels deep");
    CHECK(error_of("{}") == "the document: ociVersion is missing");
    CHECK(error_of(R"({"ociVersion": "2.0"})") ==
          "the document: ociVersion \"2.0\" is not supported, versions 1.x are");
    CHECK(error_of(R"({"ociVersion": "1.0"})") == "root: path is missing");
    CHECK(error_of(config(R"("freebsd": {})")) == "freebsd: this is no configuration for Linux");
}

TEST_CASE("wrong types are named by their field") {
    CHECK(error_of(config(R"("hostname": 5)")) == "hostname: must be a string");
    CHECK(error_of(config(R"("mounts": {})")) == "mounts: must be an array");
    CHECK(error_of(config(R"("mounts": [5])")) == "mounts[0]: must be an object");
    CHECK(error_of(config(R"("process": [])")) == "process: must be an object");
    CHECK(error_of(config(R"("annotations": {"a": 1})")) == "annotations[\"a\"]: must be a string");
    CHECK(process_error(R"("terminal": "yes")") == "process.terminal: must be true or false");
    CHECK(process_error(R"("user": {"uid": -1})") ==
          "process.user.uid: must lie between 0 and 4294967295");
    CHECK(process_error(R"("user": {"uid": 1.5})") == "process.user.uid: must be an integer");
    CHECK(process_error(R"("user": {"uid": 4294967296})") ==
          "process.user.uid: must lie between 0 and 4294967295");
    CHECK(process_error(R"("env": ["A=\u0000"])") == "process.env[0]: must not contain a NUL byte");
}

TEST_CASE("a process is checked") {
    CHECK(process_error(R"("user": {"uid": 4294967295})") ==
          "process.user: 4294967295 is no user and no group");
    CHECK(process_error(R"("user": {"umask": 512})") ==
          "process.user: umask must lie between 0 and 0777");
    CHECK(process_error(R"("rlimits": [{"type": "RLIMIT_X"}])") ==
          "process.rlimits[0]: there is no resource limit \"RLIMIT_X\"");
    CHECK(process_error(R"("rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}])") ==
          "process.rlimits[0]: the soft limit is above the hard one");
    CHECK(process_error(R"("rlimits": [{"type": "RLIMIT_CPU"}, {"type": "RLIMIT_CPU"}])") ==
          "process.rlimits[1]: RLIMIT_CPU is given twice");
    CHECK(process_error(R"("capabilities": {"bounding": ["chown"]})") ==
          "process.capabilities: bounding: there is no capability \"chown\"");
    CHECK(process_error(R"("capabilities": {"effective": ["CAP_CHOWN"]})") ==
          "process.capabilities: effective holds capabilities that permitted does not");
    CHECK(process_error(R"("oomScoreAdj": 1001)") ==
          "process.oomScoreAdj: must lie between -1000 and 1000");
    CHECK(process_error(R"("consoleSize": {"height": 70000})") ==
          "process.consoleSize: height and width must lie between 0 and 65535");
    CHECK(process_error(R"("ioPriority": {"class": "X"})") ==
          "process.ioPriority: class: there is no class \"X\"");
    CHECK(process_error(R"("scheduler": {"policy": "SCHED_FIFO"})") ==
          "process.scheduler: is not supported");
    CHECK(
        spec::parse_process(
            R"({"args": ["x"], "cwd": "/", "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 18446744073709551615, "hard": 18446744073709551615}]})")
            ->rlimits[0]
            .hard == RLIM_INFINITY);
}

TEST_CASE("of variables with one name the last counts, and an empty HOME is none") {
    const auto env = [](const char* list) {
        return spec::parse_process(os::text(R"({"args": ["x"], "cwd": "/", "env": )", list, "}"))
            ->env;
    };
    CHECK(env(R"(["A=1", "B=2", "A=3", "HOME=/x", "HOME="])") ==
          std::vector<std::string>{"B=2", "A=3"});
    CHECK(env(R"(["HOME=", "HOME=/x", "AB=1", "A=2", "A"])") ==
          std::vector<std::string>{"HOME=/x", "AB=1", "A"});
}

TEST_CASE("mount options are attributes, propagation or data") {
    const spec::MountOptions plain =
        options({"ro", "nosuid", "nodev", "size=64k", "mode=755", "sync", "rprivate", "defaults"});
    CHECK(plain.set == (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
    CHECK(plain.data == std::vector<std::string>{"size=64k", "mode=755", "sync"});
    CHECK(plain.propagation.size() == 1);
    CHECK(options({"rslave"}).propagation[0] == (ms_slave | ms_rec));
    CHECK(options({"ro", "rw"}).set == 0);
    CHECK(options({"ro", "rw"}).clear == MOUNT_ATTR_RDONLY);
    CHECK(options({"rro"}).recursive_set == MOUNT_ATTR_RDONLY);
    CHECK(options({"rro"}).set == 0);
    CHECK(options({"rbind"}).recursive_bind);
}

TEST_CASE("the kinds of access times replace each other") {
    CHECK(options({"noatime"}).set == MOUNT_ATTR_NOATIME);
    CHECK(options({"noatime", "strictatime"}).set == MOUNT_ATTR_STRICTATIME);
    CHECK(options({"noatime", "relatime"}).set == 0);
    CHECK(options({"relatime"}).clear == MOUNT_ATTR__ATIME);
    CHECK(options({"nodiratime"}).set == MOUNT_ATTR_NODIRATIME);
}

TEST_CASE("mounts are checked") {
    const auto mount_error = [](const std::string& mount) {
        return error_of(config(R"("mounts": [)" + mount + "]"));
    };
    CHECK(mount_error(R"({"type": "tmpfs"})") == "mounts[0]: destination is missing");
    CHECK(mount_error(R"({"destination": "/x"})") ==
          "mounts[0]: type is missing, and no option says \"bind\"");
    CHECK(mount_error(R"({"destination": "/x", "type": "bind"})") ==
          "mounts[0]: source is missing");
    CHECK(mount_error(R"({"destination": "/", "type": "tmpfs"})") ==
          "mounts[0]: destination: the root is not mounted over");
    CHECK(mount_error(R"({"destination": "/x/../", "type": "tmpfs"})") ==
          "mounts[0]: destination: the root is not mounted over");
    CHECK(mount_error(R"({"destination": "/proc", "type": "tmpfs"})") ==
          "mounts[0]: destination: only proc can be mounted at /proc");
    CHECK(mount_error(R"({"destination": "//proc/./sys", "type": "tmpfs"})") ==
          "mounts[0]: destination: nothing is mounted inside of /proc");
    CHECK(mount_error(R"({"destination": "/x", "type": "tmpfs", "options": ["remount"]})") ==
          "mounts[0].options: the option \"remount\" is not supported");
    CHECK(
        mount_error(
            R"({"destination": "/x", "type": "bind", "source": "/y", "uidMappings": [{"size": 1}]})") ==
        "mounts[0].uidMappings: mounts with mapped ids are not supported");
    CHECK(
        mount_error(R"({"destination": "/proc/uptime", "type": "bind", "source": "/y"})").empty());
    CHECK(
        spec::parse_spec(
            config(R"("mounts": [{"destination": "x", "type": "bind", "source": "y"}])"), "/bundle")
            ->mounts[0]
            .source == "/bundle/y");
}

TEST_CASE("memory limits become files of version 2") {
    CHECK(setting(R"({"memory": {"limit": 1048576}})", "memory.max") == "1048576");
    CHECK(setting(R"({"memory": {"limit": -1}})", "memory.max") == "max");
    CHECK(setting(R"({"memory": {"limit": 100, "swap": 150}})", "memory.swap.max") == "50");
    CHECK(setting(R"({"memory": {"limit": 100, "swap": -1}})", "memory.swap.max") == "max");
    CHECK(setting(R"({"memory": {"limit": -1}})", "memory.swap.max") == "max");
    CHECK(setting(R"({"memory": {"limit": -1, "swap": 150}})", "memory.swap.max") == "150");
    CHECK(setting(R"({"memory": {"limit": 100, "swap": 100}})", "memory.swap.max") == "0");
    CHECK(setting(R"({"memory": {"reservation": 5}})", "memory.low") == "5");
    CHECK(spec::parse_resources(R"({"memory": {"checkBeforeUpdate": true}})")->check_usage);
    CHECK(setting(R"({"memory": {"limit": 100, "swap": 50}})", "") ==
          "linux.resources.memory.swap: memory and swap together are less than memory alone");
    CHECK(setting(R"({"memory": {"swap": 50}})", "") ==
          "linux.resources.memory.swap: a limit of memory and swap needs one of memory");
    CHECK(setting(R"({"memory": {"limit": -2}})", "") ==
          "linux.resources.memory.limit: must be -1 (no limit) or more");
}

TEST_CASE("cpu limits become files of version 2") {
    CHECK(setting(R"({"cpu": {"shares": 1024}})", "cpu.weight") == "39");
    CHECK(setting(R"({"cpu": {"shares": 2}})", "cpu.weight") == "1");
    CHECK(setting(R"({"cpu": {"shares": 262144}})", "cpu.weight") == "10000");
    CHECK(setting(R"({"cpu": {"quota": 50000}})", "cpu.max") == "50000 100000");
    CHECK(setting(R"({"cpu": {"quota": -1, "period": 20000}})", "cpu.max") == "max 20000");
    CHECK(setting(R"({"cpu": {"cpus": "0-1", "mems": "0"}})", "cpuset.mems") == "0");
    CHECK(setting(R"({"cpu": {"quota": 10}})", "") ==
          "linux.resources.cpu.quota: the quota must be 1000 microseconds or more");
    CHECK(setting(R"({"cpu": {"period": 10}})", "") ==
          "linux.resources.cpu.period: the period must lie between 1000 and 1000000 microseconds");
    CHECK(setting(R"({"cpu": {"realtimeRuntime": 10}})", "") ==
          "linux.resources.cpu.realtimeRuntime: control groups version 2 do not have it");
}

TEST_CASE("limits of block devices become files of version 2") {
    CHECK(setting(R"({"blockIO": {"weight": 10}})", "io.weight") == "default 1");
    CHECK(setting(R"({"blockIO": {"weight": 1000}})", "io.weight") == "default 10000");
    CHECK(setting(
              R"({"blockIO": {"throttleWriteBpsDevice": [{"major": 8, "minor": 1, "rate": 512}]}})",
              "io.max") == "8:1 wbps=512");
    CHECK(setting(R"({"blockIO": {"weight": 5}})", "") ==
          "linux.resources.blockIO.weight: must lie between 10 and 1000");
}

TEST_CASE("rules for devices are read with their defaults") {
    const auto rules = [](const char* text) {
        const auto read = spec::parse_resources(os::text(R"({"devices": )", text, "}"));
        return read ? read->devices : std::vector<spec::DeviceRule>();
    };
    const auto read = rules(R"([{"allow": false}, {"allow": true, "type": "c", "major": 1,
                                "minor": -1, "access": "rm"}])");
    REQUIRE(read.size() == 2);
    CHECK_FALSE(read[0].allow);
    CHECK(read[0].type == 'a');
    CHECK_FALSE(read[0].major);
    CHECK(read[0].accesses == 7);
    CHECK(read[1].allow);
    CHECK(read[1].major == 1U);
    CHECK_FALSE(read[1].minor);
    CHECK(read[1].accesses == 3);
    CHECK(setting(R"({"devices": [{"allow": true, "type": "p"}]})", "") ==
          R"(linux.resources.devices[0].type: "p" must be "a", "c" or "b")");
    CHECK(setting(R"({"devices": [{"allow": true, "access": "x"}]})", "") ==
          R"(linux.resources.devices[0].access: "x" must be made of r, w and m)");
    CHECK(setting(R"({"devices": [{"allow": true, "major": 4294967296}]})", "")
              .starts_with("linux.resources.devices[0].major: "));
}

TEST_CASE("unified settings name files of controllers only") {
    CHECK(setting(R"({"unified": {"memory.high": "1000"}})", "memory.high") == "1000");
    const auto lines = spec::parse_resources(
        R"({"unified": {"io.max": "8:0 rbps=1\n8:16 wbps=2\n", "memory.high": ""}})");
    REQUIRE(lines->settings.size() == 3);
    CHECK(lines->settings[0].value == "8:0 rbps=1");
    CHECK(lines->settings[1].value == "8:16 wbps=2");
    CHECK(lines->settings[2].value.empty());
    CHECK(setting(R"({"unified": {"cgroup.procs": "1"}})", "") ==
          "linux.resources.unified: \"cgroup.procs\" is no file of a controller");
    CHECK(setting(R"({"unified": {"../x.y": "1"}})", "") ==
          "linux.resources.unified: \"../x.y\" is no file of a controller");
}

TEST_CASE("namespaces are checked") {
    const auto error = [](const std::string& list) {
        return error_of(
            R"({"ociVersion": "1.0.2", "root": {"path": "r"}, "linux": {"namespaces": )" + list +
            "}}");
    };
    CHECK(error(R"([{"type": "space"}])") ==
          "linux.namespaces[0]: type: there is no namespace \"space\"");
    CHECK(error(R"([{"type": "pid"}, {"type": "pid"}])") ==
          "linux.namespaces[1]: the pid namespace is given twice");
    CHECK(error(R"([{"type": "pid", "path": "x"}])") ==
          "linux.namespaces[0]: path must be absolute");
    CHECK(error("[]") == "linux.namespaces: a container needs a mount namespace");
}

TEST_CASE("sysctls need a namespace of their own") {
    const auto error = [](const std::string& key, const std::string& kind) {
        return error_of(
            R"({"ociVersion": "1.0.2", "root": {"path": "r"}, "linux": {"namespaces": [{"type": "mount"}, {"type": ")" +
            kind + R"("}], "sysctl": {")" + key + R"(": "1"}}})");
    };
    CHECK(error("net.ipv4.ip_forward", "network").empty());
    CHECK(error("net/ipv4/conf/eth0.1/forwarding", "network").empty());
    CHECK(
        error("net.ipv4.ip_forward", "uts") ==
        "linux.sysctl[\"net.ipv4.ip_forward\"]: needs a network namespace of the container's own");
    CHECK(error("kernel.shmmax", "ipc").empty());
    CHECK(error("kernel.hostname", "uts") ==
          "linux.sysctl[\"kernel.hostname\"]: is set by hostname");
    CHECK(error("vm.swappiness", "ipc") ==
          "linux.sysctl[\"vm.swappiness\"]: does not belong to a namespace");
    CHECK(error("net/../../x", "network") != "");
}

TEST_CASE("paths of control groups stay below") {
    const auto error = [](const std::string& path) {
        return error_of(
            R"({"ociVersion": "1.0.2", "root": {"path": "r"}, "linux": {"namespaces": [{"type": "mount"}], "cgroupsPath": ")" +
            path + "\"}}");
    };
    CHECK(error("/a/../../b") == "linux.cgroupsPath: must be free of \"..\"");
    CHECK(error("..:docker:b") == "linux.cgroupsPath: must be free of \"..\"");
    CHECK(error(".:docker:b") == "linux.cgroupsPath: must be free of \"..\"");
    CHECK(error("system.slice:docker:b").empty());
}

TEST_CASE("devices and mappings are checked") {
    const auto error = [](const std::string& members) {
        return error_of(
            R"({"ociVersion": "1.0.2", "root": {"path": "r"}, "linux": {"namespaces": [{"type": "mount"}], )" +
            members + "}}");
    };
    CHECK(error(R"("devices": [{"path": "/dev/x", "type": "z"}])") ==
          "linux.devices[0]: type must be \"c\", \"b\", \"u\" or \"p\"");
    CHECK(error(R"("devices": [{"path": "/dev/x", "type": "c"}])") ==
          "linux.devices[0]: major and minor are missing");
    CHECK(error(R"("devices": [{"path": "/dev/../x", "type": "p"}])") ==
          "linux.devices[0]: path must be absolute and free of \"..\"");
    CHECK(error(R"("uidMappings": [{"size": 1}])") ==
          "linux.uidMappings: there are mappings without a user namespace");
    CHECK(error(R"("uidMappings": [{"containerID": 0}])") ==
          "linux.uidMappings[0]: size must be 1 or more");
    CHECK(error(R"("intelRdt": {})") == "linux.intelRdt: is not supported");
    CHECK(error(R"("netDevices": {"eth0": {}})") == "linux.netDevices: is not supported");
    CHECK(error(R"("memoryPolicy": {"mode": "MPOL_BIND"})") ==
          "linux.memoryPolicy: is not supported");
    CHECK(error(R"("personality": {"domain": "BSD"})") ==
          "linux.personality: domain must be \"LINUX\" or \"LINUX32\"");
    CHECK(error(R"("rootfsPropagation": "wide")") ==
          "linux: rootfsPropagation: there is no propagation \"wide\"");
}

TEST_CASE("hooks are checked") {
    CHECK(error_of(config(R"("hooks": {"prestart": [{"path": "x"}]})")) ==
          "hooks.prestart[0]: path must be absolute");
    CHECK(error_of(config(R"("hooks": {"poststop": [{"path": "/x", "timeout": 0}]})")) ==
          "hooks.poststop[0].timeout: must lie between 1 and 86400");
    const auto parsed = spec::parse_spec(
        config(R"("hooks": {"createRuntime": [{"path": "/b"}], "prestart": [{"path": "/a"}]})"),
        "/");
    REQUIRE(parsed->hooks.create_runtime.size() == 2);
    CHECK(parsed->hooks.create_runtime[0].path == "/a");
    CHECK(parsed->hooks.create_runtime[1].args == std::vector<std::string>{"/b"});
}

TEST_CASE("seccomp profiles become libseccomp's numbers") {
    const auto document = spec::JsonDocument::parse(
        R"({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_ARM"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}]})",
        "s");
    const auto parsed = spec::read_seccomp(document->root());
    REQUIRE(parsed);
    CHECK(parsed->default_action == SCMP_ACT_ERRNO(38));
    CHECK(parsed->architectures == std::vector<std::uint32_t>{SCMP_ARCH_X86_64});
    CHECK(parsed->rules[0].action == SCMP_ACT_ALLOW);
    CHECK(parsed->rules[0].args[0].comparison == SCMP_CMP_MASKED_EQ);
    CHECK(parsed->rules[0].args[0].value_two == 3);
}

TEST_CASE("text becomes a JSON string, whatever it holds") {
    CHECK(spec::quote("a\"b\n") == R"("a\"b\n")");
    CHECK(spec::quote("\xff").size() > 2);
}
