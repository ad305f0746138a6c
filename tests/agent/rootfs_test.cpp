// Mounts, devices, what is hidden and read-only, and root directories that try to lead outside.
#include <filesystem>
#include <fstream>
#include <unistd.h>

#include <sys/mount.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "tests/agent/harness.hpp"

namespace {

using namespace agent_test;
namespace fs = std::filesystem;

// A directory outside of all containers, with a file in it.
struct Outside {
    Outside() {
        fs::create_directories(path + "/below");
        std::ofstream(path + "/file") << "outside";
    }
    ~Outside() { fs::remove_all(path); }
    std::string path = Agent::shared().directory() + "/outside";
};

// The usual mounts and one more.
std::string with_mount(const std::string& mount) {
    const std::string base = base_spec();
    const std::size_t list = base.find("\"mounts\": [") + 11;
    const std::size_t end = base.find("      ],", list);
    return os::text("{\"mounts\": [", base.substr(list, end - list), ", ", mount, "]}");
}

} // namespace

TEST_CASE("the root is the image's, and the old one is gone") {
    TestContainer container(
        script_spec("ls /; cat /mark; cat /proc/self/mountinfo | cut -d' ' -f5"));
    container.write("/mark", "here\n");
    const Outcome outcome = container.run();
    CHECK(outcome.out.find("here\n") != std::string::npos);
    CHECK(outcome.out.find(Agent::shared().directory()) == std::string::npos);
    CHECK(outcome.out.find("\n/proc\n") != std::string::npos);
}

TEST_CASE("a read-only root is read-only, its volumes are not") {
    const Outcome outcome =
        run_script("touch /x; touch /dev/shm/y && echo volume", R"({"root": {"readonly": true}})");
    CHECK(outcome.err == "touch: /x: Read-only file system\n");
    CHECK(outcome.out == "volume\n");
}

TEST_CASE("the default devices are there and work") {
    const Outcome outcome =
        run_script("for d in null zero full random urandom tty; do stat -c '%n %F %a %t:%T' "
                   "/dev/$d; done; head -c 4 /dev/zero | wc -c; echo x > /dev/full");
    CHECK(outcome.out == "/dev/null character special file 666 1:3\n/dev/zero character special "
                         "file 666 1:5\n/dev/full character special file 666 1:7\n"
                         "/dev/random character special file 666 1:8\n/dev/urandom character "
                         "special file 666 1:9\n/dev/tty character special file 666 5:0\n4\n");
    CHECK(outcome.err.find("No space left on device") != std::string::npos);
}

TEST_CASE("a mount in the place of a default device, or of one of the configuration, stays") {
    CHECK(run_script("stat -c %t:%T /dev/random",
                     with_mount(R"({"destination": "/dev/random", "type": "bind",
                                    "source": "/dev/urandom", "options": ["bind"]})"))
              .out == "1:9\n");
    const std::string mounted = with_mount(
        R"({"destination": "/dev/mine", "type": "bind", "source": "/dev/zero", "options": ["bind"]})");
    CHECK(run_script("stat -c %t:%T /dev/mine",
                     merged(mounted, R"({"linux": {"devices": [{"path": "/dev/mine", "type": "c",
                                                               "major": 1, "minor": 3}]}})"))
              .out == "1:5\n");
}

TEST_CASE("the usual links of /dev are there") {
    CHECK(run_script("for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done").out ==
          "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n");
}

TEST_CASE("devices of the configuration are made with mode and owner") {
    const Outcome outcome = run_script(
        "stat -c '%F %a %u:%g %t:%T' /dev/mine /dev/sub/fifo",
        R"({"linux": {"devices": [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 432, "uid": 7, "gid": 8},
                                                                 {"path": "/dev/sub/fifo", "type": "p", "fileMode": 384}]}})");
    CHECK(outcome.out == "character special file 660 7:8 1:3\nfifo 600 0:0 0:0\n");
}

// Which ways of opening a node of 10:229 the rules leave.
std::string ways_with_rules(const char* rules) {
    const char* script = "(: < /dev/mine) && echo r; (: > /dev/mine) && echo w; (: <> /dev/mine) "
                         "&& echo rw; (: <> /dev/null) && echo null";
    return run_script(script, os::text(R"({"linux": {
        "devices": [{"path": "/dev/mine", "type": "c", "major": 10, "minor": 229}],
        "resources": {"devices": )",
                                       rules, "}}}"))
        .out;
}

TEST_CASE("rules for devices are enforced, the last one first") {
    CHECK(ways_with_rules("[]") == "r\nw\nrw\nnull\n");
    CHECK(ways_with_rules(R"([{"allow": false, "access": "rwm"}])") == "null\n");
    CHECK(ways_with_rules(R"([{"allow": false}, {"allow": true, "type": "a"}])") ==
          "r\nw\nrw\nnull\n");
    const auto after_denial = [](const char* more) {
        return ways_with_rules(
            os::text(R"([{"allow": false, "access": "rwm"}, )", more, "]").c_str());
    };
    CHECK(
        after_denial(R"({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"})") ==
        "r\nnull\n");
    CHECK(after_denial(R"({"allow": true, "type": "c", "major": 10, "minor": -1})") ==
          "r\nw\nrw\nnull\n");
    CHECK(after_denial(R"({"allow": true, "type": "b", "major": 10, "minor": 229})") == "null\n");
    CHECK(after_denial(R"({"allow": true, "major": 10, "minor": 229})") == "r\nw\nrw\nnull\n");
    CHECK(after_denial(R"({"allow": true, "type": "c", "major": 10, "access": "rw"},
                          {"allow": false, "type": "c", "minor": 229, "access": "w"})") ==
          "r\nnull\n");
    CHECK(after_denial(R"({"allow": true, "type": "c", "major": 10, "access": "r"},
                          {"allow": true, "type": "c", "minor": 229, "access": "w"})") ==
          "r\nw\nrw\nnull\n");
}

TEST_CASE("a bind mount shows the outside, writable or not") {
    const Outside outside;
    const Outcome writable =
        run_script("cat /data/file; echo new > /data/made",
                   with_mount(os::text(R"({"destination": "/data", "type": "bind", "source": ")",
                                       outside.path, R"(", "options": ["rbind", "rw"]})")));
    CHECK(writable.out == "outside");
    CHECK(fs::exists(outside.path + "/made"));
    const Outcome read_only =
        run_script("cat /data/file; touch /data/no",
                   with_mount(os::text(R"({"destination": "/data", "source": ")", outside.path,
                                       R"(", "options": ["bind", "ro", "nosuid", "noexec"]})")));
    CHECK(read_only.out == "outside");
    CHECK(read_only.err == "touch: /data/no: Read-only file system\n");
}

TEST_CASE("a single file can be mounted, also where there is none") {
    const Outside outside;
    const Outcome outcome = run_script(
        "cat /deep/er/file",
        with_mount(os::text(R"({"destination": "/deep/er/file", "type": "bind", "source": ")",
                            outside.path, R"(/file", "options": ["bind"]})")));
    CHECK(outcome.out == "outside");
}

TEST_CASE("a single file can be mounted where a link leads to what is missing, inside") {
    const Outside outside;
    const std::string file =
        os::text(R"({"destination": "/etc/resolv.conf", "type": "bind", "source": ")", outside.path,
                 R"(/file", "options": ["bind"]})");
    for (const std::string& target : {std::string("../run/systemd/resolve/stub.conf"),
                                      std::string("second"), "/../.." + outside.path + "/made"}) {
        TestContainer container(script_spec("cat /etc/resolv.conf", with_mount(file)));
        fs::create_symlink("/var/lib/third", container.rootfs() + "/etc/second");
        fs::create_symlink(target, container.rootfs() + "/etc/resolv.conf");
        CHECK(container.run().out == "outside");
        CHECK_FALSE(fs::exists(outside.path + "/made"));
    }
    TestContainer container(script_spec("true", with_mount(file)));
    fs::create_symlink("resolv.conf", container.rootfs() + "/etc/resolv.conf");
    CHECK(container.run().error ==
          "mounts[7] (/etc/resolv.conf): /etc/resolv.conf: Too many levels of symbolic links");
}

TEST_CASE("rro makes what is mounted below read-only too, ro does not") {
    const Outside outside;
    REQUIRE(mount("tmpfs", (outside.path + "/below").c_str(), "tmpfs", 0, nullptr) == 0);
    const auto run = [&](const char* option) {
        return run_script("touch /data/x 2>/dev/null || echo top; touch /data/below/x 2>/dev/null "
                          "|| echo below",
                          with_mount(os::text(
                              R"({"destination": "/data", "type": "bind", "source": ")",
                              outside.path, R"(", "options": ["rbind", ")", option, R"("]})")))
            .out;
    };
    CHECK(run("ro") == "top\n");
    CHECK(run("rro") == "top\nbelow\n");
    umount((outside.path + "/below").c_str());
}

TEST_CASE("bind does not bring what is mounted below, rbind does") {
    const Outside outside;
    REQUIRE(mount("tmpfs", (outside.path + "/below").c_str(), "tmpfs", 0, nullptr) == 0);
    std::ofstream(outside.path + "/below/deep") << "x";
    const auto run = [&](const char* option) {
        return run_script(
                   "ls /data/below",
                   with_mount(os::text(R"({"destination": "/data", "type": "bind", "source": ")",
                                       outside.path, R"(", "options": [")", option, R"("]})")))
            .out;
    };
    CHECK(run("bind").empty());
    CHECK(run("rbind") == "deep\n");
    umount((outside.path + "/below").c_str());
}

TEST_CASE("mounts of the outside reach a container by rslave and rshared, and not by rprivate") {
    const Outside outside;
    REQUIRE(mount(outside.path.c_str(), outside.path.c_str(), nullptr, MS_BIND, nullptr) == 0);
    // The agent's namespace began as a copy of this one's; what both see is shared from here on.
    const auto [option, seen] = GENERATE(std::pair("rslave", true), std::pair("rshared", true),
                                         std::pair("rprivate", false));
    proto::MountRequest request;
    request.set_type("bind");
    request.set_source(outside.path);
    request.set_target(outside.path);
    request.add_options("bind");
    request.add_options("shared");
    REQUIRE(Agent::shared().call<proto::Empty>("Mount", request));
    {
        TestContainer container(script_spec(
            "exec sleep 1000",
            with_mount(os::text(R"({"destination": "/data", "type": "bind", "source": ")",
                                outside.path, R"(", "options": ["rbind", ")", option, R"("]})"))));
        container.must_run();
        proto::MountRequest later;
        later.set_type("tmpfs");
        later.set_target(outside.path + "/below");
        REQUIRE(Agent::shared().call<proto::Empty>("Mount", later));
        CHECK((container.exec("grep -c ' /data/below ' /proc/self/mountinfo").out == "1\n") ==
              seen);
        proto::UnmountRequest unmount;
        unmount.set_target(outside.path + "/below");
        REQUIRE(Agent::shared().call<proto::Empty>("Unmount", unmount));
    }
    proto::UnmountRequest unmount;
    unmount.set_target(outside.path);
    REQUIRE(Agent::shared().call<proto::Empty>("Unmount", unmount));
    umount2(outside.path.c_str(), MNT_DETACH);
}

TEST_CASE("tmpfs: size, mode and flags") {
    const Outcome outcome = run_script(
        "stat -c %a /data; grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6,9-; dd if=/dev/zero "
        "of=/data/x bs=1k count=100 2>/dev/null; stat -c %s /data/x",
        with_mount(
            R"({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noexec", "size=64k", "mode=750"]})"));
    CHECK(outcome.out ==
          "750\nrw,nosuid,nodev,noexec,relatime tmpfs rw,size=64k,mode=750\n65536\n");
}

TEST_CASE("rro of a new file system is not forgotten") {
    CHECK(run_script(
              "touch /data/x; touch /dev/x; grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6",
              R"({"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["rro"]},
                {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["noatime", "rro", "rnoexec", "rstrictatime"]}]})")
              .out == "ro,noexec\n");
}

TEST_CASE("a read-only tmpfs has what it covers, and places for the mounts in it") {
    const Outcome outcome = run_script(
        "head -n 1 /etc/passwd; touch /etc/x",
        R"({"mounts": [{"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"]},
            {"destination": "/etc/in/it", "type": "tmpfs", "source": "tmpfs"}]})");
    CHECK(outcome.error.empty());
    CHECK(outcome.out == "root:x:0:0:root:/root:/bin/sh\n");
    CHECK(outcome.err.find("touch: /etc/x: Read-only file system") != std::string::npos);
}

TEST_CASE("tmpfs takes the mode of the directory that it covers") {
    CHECK(run_script("stat -c %a /tmp",
                     with_mount(R"({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})"))
              .out == "1777\n");
}

TEST_CASE("tmpcopyup begins with what is covered") {
    const Outcome outcome = run_script(
        "cat /etc/passwd | head -n 1; echo x > /etc/new; ls -l /etc/link | sed 's/.*-> //'",
        with_mount(
            R"({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]})"));
    CHECK(outcome.out.find("root:x:0:0:root:/root:/bin/sh\n") == 0);
}

TEST_CASE("an unknown mount option of a file system is named") {
    const Outcome outcome =
        TestContainer(
            with_mount(
                R"({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["nonesuch=1"]})"))
            .run();
    INFO(outcome.error);
    CHECK(outcome.error.find("mounts[7] (/data): option nonesuch=1 (tmpfs: Unknown parameter "
                             "'nonesuch'): Invalid argument") == 0);
}

TEST_CASE("masked paths are empty, read-only paths are read-only") {
    const Outcome outcome = run_script(
        "cat /etc/passwd; ls /home; echo x > /etc/group; touch /var/new",
        R"({"linux": {"maskedPaths": ["/etc/passwd", "/home", "/nonesuch"], "readonlyPaths": ["/etc/group", "/var", "/nonesuch"]}})");
    CHECK(outcome.out.empty());
    CHECK(outcome.err.find("/etc/group: Read-only file system") != std::string::npos);
    CHECK(outcome.err.find("/var/new: Read-only file system") != std::string::npos);
}

TEST_CASE("/proc/sys is read-only and /proc/kcore empty, as the usual configuration wants") {
    const Outcome outcome = run_script(
        "echo 1 > /proc/sys/kernel/panic; head -c 4 /proc/kcore | wc -c; ls -d /proc/1 /proc/self");
    CHECK(outcome.err.find("Read-only file system") != std::string::npos);
    CHECK(outcome.out == "0\n/proc/1\n/proc/self\n");
}

TEST_CASE("a link of the image cannot take a mount outside") {
    const Outside outside;
    TestContainer container(
        script_spec("cat /data/file 2>/dev/null; ls /; touch /data/inside",
                    with_mount(R"({"destination": "/data", "type": "tmpfs", "source": "tmpfs"})")));
    fs::create_symlink("../../../../../../../.." + outside.path, container.rootfs() + "/data");
    const Outcome outcome = container.run();
    CHECK(outcome.error.empty());
    CHECK(outcome.out.find("outside") == std::string::npos);
    CHECK_FALSE(fs::exists(outside.path + "/inside"));
    // It led to the same path inside, which was made there.
    CHECK(fs::is_directory(container.rootfs() + outside.path));
}

TEST_CASE("links of the image cannot lead devices, masks and working directories outside") {
    const Outside outside;
    TestContainer container(script_spec(
        "cat /secret; pwd",
        R"({"process": {"cwd": "/cwd/new"}, "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"maskedPaths": ["/secret"], "readonlyPaths": ["/ro"], "devices": [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}]}})"));
    fs::remove_all(container.rootfs() + "/dev");
    fs::create_symlink(outside.path, container.rootfs() + "/dev");
    fs::create_symlink(outside.path + "/file", container.rootfs() + "/secret");
    fs::create_symlink(outside.path, container.rootfs() + "/ro");
    fs::create_symlink("/.." + outside.path, container.rootfs() + "/cwd");
    const Outcome outcome = container.run();
    INFO(outcome.error);
    CHECK_FALSE(fs::exists(outside.path + "/mine"));
    CHECK_FALSE(fs::exists(outside.path + "/null"));
    CHECK_FALSE(fs::exists(outside.path + "/new"));
    std::ifstream file(outside.path + "/file");
    std::string text;
    file >> text;
    CHECK(text == "outside");
}

TEST_CASE("a /dev from outside is left as it is, however its place is written") {
    const Outside outside;
    std::ofstream(outside.path + "/null") << "mine";
    const auto bind = [&](const char* place) {
        return os::text(R"({"destination": ")", place, R"(", "type": "bind", "source": ")",
                        outside.path, R"(", "options": ["bind"]})");
    };
    CHECK(run_script("cat /dev/file", with_mount(bind("/x/..//dev/."))).out == "outside");
    CHECK(fs::is_regular_file(outside.path + "/null"));
    CHECK_FALSE(fs::exists(outside.path + "/zero"));
    TestContainer container(
        script_spec("cat /dev/file", os::text(R"({"mounts": [)", bind("/brought"), "]}")));
    fs::remove_all(container.rootfs() + "/dev");
    fs::create_symlink("brought", container.rootfs() + "/dev");
    CHECK(container.run().out == "outside");
    CHECK(fs::is_regular_file(outside.path + "/null"));
    CHECK_FALSE(fs::exists(outside.path + "/zero"));
}

TEST_CASE("a read-only /dev is filled first, however its place is written") {
    CHECK(
        run_script(
            "echo x > /dev/null && echo null; touch /dev/x",
            R"({"mounts": [{"destination": "/dev/", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}]})")
            .out == "null\n");
}

TEST_CASE("proc cannot be mounted by way of a link") {
    TestContainer container(
        R"({"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}]})");
    fs::remove_all(container.rootfs() + "/proc");
    fs::create_directory(container.rootfs() + "/other");
    fs::create_symlink("other", container.rootfs() + "/proc");
    CHECK(container.run().error ==
          "mounts[0] (/proc): must be an ordinary directory, there is a symbolic link on the way");
}

TEST_CASE("no directory pretends to be /proc, and no link of the image leads a mount into it") {
    const Outside outside;
    CHECK(
        TestContainer(with_mount(os::text(R"({"destination": "/proc", "type": "bind", "source": ")",
                                          outside.path, R"(", "options": ["bind"]})")))
            .run()
            .error == "mounts[7] (/proc): only proc can be mounted at /proc");
    CHECK(run_script("cat /proc/self/comm", with_mount(R"({"destination": "/proc", "type": "bind",
                     "source": "/proc", "options": ["rbind", "ro"]})"))
              .error.empty());
    for (const char* target : {"/proc", "proc/sys", "/proc/self/attr"}) {
        for (
            const char* mount :
            {R"({"destination": "/data", "type": "tmpfs", "source": "tmpfs"})",
             R"({"destination": "/data", "type": "bind", "source": "/tmp", "options": ["bind"]})"}) {
            TestContainer container(with_mount(mount));
            fs::create_symlink(target, container.rootfs() + "/data");
            CHECK(container.run().error ==
                  "mounts[7] (/data): a symbolic link on the way leads into proc, where nothing is "
                  "mounted");
        }
    }
}

TEST_CASE("nothing is mounted inside of /proc but what lxcfs mounts") {
    CHECK(TestContainer(
              with_mount(R"({"destination": "/proc/self", "type": "tmpfs", "source": "tmpfs"})"))
              .run()
              .error == "mounts[7]: destination: nothing is mounted inside of /proc");
    const Outside outside;
    CHECK(run_script(
              "cat /proc/uptime",
              with_mount(os::text(R"({"destination": "/proc/uptime", "type": "bind", "source": ")",
                                  outside.path, R"(/file", "options": ["bind"]})")))
              .out == "outside");
}

TEST_CASE("the agent's own program cannot be written to from inside") {
    // The classic: the image's entry point is the process itself as it is before its program runs.
    TestContainer container(R"({"process": {"args": ["/entry"], "user": {"uid": 0, "gid": 0}}})");
    container.write("/entry", "#!/proc/self/exe\n", 0755);
    const Outcome outcome = container.run();
    CHECK(outcome.code != 0);
    struct stat before {};
    const char* program = std::getenv("JOEY_AGENT");
    REQUIRE(stat(program, &before) == 0);
    TestContainer holder(script_spec("exec sleep 1000"));
    holder.must_run();
    // A process that waits to be started runs the agent's program: can the container open it?
    REQUIRE(holder.create_exec("waits", R"({"args": ["true"]})"));
    const Outcome attack =
        holder.exec("for p in /proc/[0-9]*; do if [ $(cat $p/comm) = agent-builder ]; then echo "
                    "found; echo x > $p/exe && echo written; fi; done; exit 0");
    CHECK(attack.out.find("written") == std::string::npos);
    struct stat after {};
    REQUIRE(stat(program, &after) == 0);
    CHECK(before.st_mtime == after.st_mtime);
    CHECK(before.st_size == after.st_size);
}

TEST_CASE("what the agent's /dev/null is like is not a container's to change") {
    struct stat before {};
    REQUIRE(stat("/dev/null", &before) == 0);
    const std::string attack = "for f in /etc/group /proc/self/fd/0; do chmod 600 $f; chown 7:7 "
                               "$f; touch -d @1 $f; echo x > $f && echo written; done; cat; exit 0";
    const std::string masked = R"({"linux": {"maskedPaths": ["/etc/group"]}})";
    const Outcome outcome = run_script(attack, masked);
    TestContainer holder(script_spec("exec sleep 1000", masked));
    holder.must_run();
    const Outcome executed = holder.exec(attack);
    struct stat after {};
    REQUIRE(stat("/dev/null", &after) == 0);
    CHECK(after.st_mode == before.st_mode);
    CHECK(after.st_uid == before.st_uid);
    CHECK(after.st_mtime != 1);
    CHECK(outcome.out == "written\nwritten\n");
    CHECK(executed.out == "written\nwritten\n");
    // Without what is tested here, the damage is done.
    static_cast<void>(chmod("/dev/null", before.st_mode & 07777));
    static_cast<void>(chown("/dev/null", before.st_uid, before.st_gid));
}

TEST_CASE("the container sees its own control group as the root") {
    CHECK(
        run_script("cat /proc/self/cgroup | grep ^0; ls /sys/fs/cgroup | grep cgroup.procs").out ==
        "0::/\ncgroup.procs\n");
}

TEST_CASE("without a cgroup namespace it sees its group by a bind mount") {
    const Outcome outcome = run_script(
        "cat /sys/fs/cgroup/cgroup.procs | wc -l",
        R"({"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}]}})");
    CHECK(outcome.error.empty());
    CHECK(outcome.out != "0\n");
}

TEST_CASE("mqueue, shm and devpts are the container's own") {
    const Outcome outcome = run_script(
        "grep -E ' /dev/(mqueue|shm|pts) ' /proc/self/mountinfo | sed 's/.* - //' | cut -d' ' -f1");
    CHECK(outcome.out == "devpts\ntmpfs\nmqueue\n");
}
