#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <optional>
#include <poll.h>
#include <unistd.h>

#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "agent/ttrpc/server.hpp"
#include "tools/containerd-shim-joey-v2/address.hpp"
#include "tools/containerd-shim-joey-v2/command_line.hpp"
#include "tools/containerd-shim-joey-v2/commands.hpp"
#include "tools/containerd-shim-joey-v2/console.hpp"
#include "tools/containerd-shim-joey-v2/grouping.hpp"
#include "tools/containerd-shim-joey-v2/log.hpp"
#include "tools/containerd-shim-joey-v2/metrics.hpp"
#include "tools/containerd-shim-joey-v2/options.hpp"
#include "tools/containerd-shim-joey-v2/pod_link.hpp"
#include "tools/containerd-shim-joey-v2/protocol/forward.pb.h"
#include "tools/containerd-shim-joey-v2/protocol/metrics.pb.h"
#include "tools/containerd-shim-joey-v2/protocol/runc_options.pb.h"
#include "tools/containerd-shim-joey-v2/protocol/runtime_options.pb.h"
#include "tools/containerd-shim-joey-v2/publisher.hpp"
#include "tools/containerd-shim-joey-v2/rootfs.hpp"
#include "tools/containerd-shim-joey-v2/settings.hpp"
#include "tools/containerd-shim-joey-v2/stdio.hpp"
#include "tools/containerd-shim-joey-v2/topics.hpp"
#include "tools/containerd-shim-joey-v2/workers.hpp"
#include "tools/pod/relay.hpp"
#include "tools/pod/state_files.hpp"

namespace {

class Folder {
public:
    Folder() { REQUIRE(::mkdtemp(path_) != nullptr); }
    ~Folder() { REQUIRE(std::system(("rm -rf " + path()).c_str()) == 0); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    std::string path() const { return path_; }
    std::string operator/(const char* name) const { return path() + "/" + name; }
    std::string with(const char* name, const std::string& text) const {
        const os::UniqueFd file(::open((*this / name).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
        REQUIRE(::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
        return *this / name;
    }

private:
    char path_[32] = "/tmp/joey-shim-XXXXXX";
};

os::Result<shim::CommandLine> parse(std::vector<std::string> words) {
    std::vector<char*> arguments;
    for (std::string& word : words)
        arguments.push_back(word.data());
    return shim::CommandLine::parse(arguments);
}

bool until(os::EventLoop& loop, const std::function<bool()>& there) {
    const auto end = os::EventLoop::Clock::now() + std::chrono::seconds(20);
    while (!there() && os::EventLoop::Clock::now() < end)
        loop.run_once(std::chrono::milliseconds(50));
    return there();
}

std::string error_of(const os::Result<shim::Settings>& result) {
    REQUIRE_FALSE(result);
    return result.error().message;
}

} // namespace

TEST_CASE("the words of containerd's call are understood", "[shim]") {
    const auto line = parse({"-namespace", "k8s.io", "-address", "/run/c.sock", "-publish-binary",
                             "/usr/bin/containerd", "-id", "abc", "-debug", "start"});
    REQUIRE(line);
    CHECK(line->name_space == "k8s.io");
    CHECK(line->address == "/run/c.sock");
    CHECK(line->publish_binary == "/usr/bin/containerd");
    CHECK(line->id == "abc");
    CHECK(line->action == "start");
    CHECK(line->debug);
    CHECK(parse({"--namespace=a", "--id=b", "-bundle", "/x", "delete"})->bundle == "/x");
    CHECK(parse({"-v"})->version);
    CHECK(parse({"-info"})->info);
    CHECK(parse({"--help"})->help);
}

TEST_CASE("a call that makes no sense is refused with a reason", "[shim]") {
    CHECK(parse({"-id", "a", "start"}).error().message == "-namespace is missing");
    CHECK(parse({"-namespace", "n", "start"}).error().message == "-id is missing");
    CHECK(parse({"-namespace", "../n", "-id", "a", "start"}).error().message ==
          "-namespace ../n is no valid name");
    CHECK_FALSE(parse({"-namespace", "..", "-id", "a", "start"}));
    CHECK_FALSE(parse({"-namespace", "n", "-id", "a/b", "start"}));
    CHECK_FALSE(parse({"-namespace", "n", "-id", "a", "stop"}));
    CHECK_FALSE(parse({"-nonesuch"}));
}

TEST_CASE("containers of a pod share a shim", "[shim]") {
    CHECK(*shim::group_of({}, "own") == "own");
    CHECK(*shim::group_of({{"io.kubernetes.cri.sandbox-id", "pod"},
                           {"io.kubernetes.cri.container-type", "container"}},
                          "own") == "pod");
    CHECK(*shim::group_of({{"io.containerd.runc.v2.group", "g"}}, "own") == "g");
    CHECK(*shim::group_of({{"io.containerd.runc.v2.group", ""}}, "own") == "own");
    CHECK_FALSE(shim::group_of({{"io.kubernetes.cri.sandbox-id", "../../x"}}, "own"));
}

TEST_CASE("the group is read from the bundle, whatever is in it", "[shim]") {
    const Folder folder;
    CHECK_FALSE(shim::group_of_bundle(folder.path(), "own"));
    folder.with("config.json", R"({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}})");
    CHECK(*shim::group_of_bundle(folder.path(), "own") == "pod");
    folder.with("config.json", R"({"annotations": 7})");
    CHECK(*shim::group_of_bundle(folder.path(), "own") == "own");
    folder.with("config.json", "[");
    CHECK_FALSE(shim::group_of_bundle(folder.path(), "own"));
}

TEST_CASE("a group has one address, and no two have the same", "[shim]") {
    const auto address = [](const char* name_space, const char* group) {
        return shim::socket_address("/run/s", "/run/c.sock", name_space, group);
    };
    CHECK(address("n", "g") == address("n", "g"));
    CHECK(address("n", "g") != address("n", "h"));
    CHECK(address("m", "g") != address("n", "g"));
    CHECK(address("n", "g").size() == std::string("unix:///run/s/").size() + 64);
    CHECK(shim::path_of(address("n", "g")).starts_with("/run/s/"));
    CHECK(shim::path_of("tcp://x").empty());
}

TEST_CASE("the socket is root's alone, and one that nobody answers on is told from one in use",
          "[shim]") {
    const Folder folder;
    const std::string address = "unix://" + (folder / "s/one");
    CHECK_FALSE(shim::can_connect(address));
    auto socket = shim::listen_at(address);
    REQUIRE(socket);
    struct stat about {};
    REQUIRE(::stat((folder / "s/one").c_str(), &about) == 0);
    CHECK((about.st_mode & 0777) == 0600);
    CHECK(shim::can_connect(address));
    CHECK(shim::listen_at(address).error().code == os::Code::AlreadyExists);
    socket->reset();
    CHECK_FALSE(shim::can_connect(address));
    shim::remove_socket(address);
    CHECK(shim::listen_at(address));
}

TEST_CASE("mount options are flags and data", "[shim]") {
    const auto overlay = shim::parse_options({"index=off", "ro", "nosuid", "lowerdir=/a:/b"});
    CHECK(overlay.flags == (MS_RDONLY | MS_NOSUID));
    CHECK(overlay.data == "index=off,lowerdir=/a:/b");
    CHECK(shim::parse_options({"rbind", "ro", "rw"}).flags == (MS_BIND | MS_REC));
    CHECK(shim::parse_options({"loop"}).loop);
    CHECK(shim::parse_options({}).data.empty());
}

TEST_CASE("an overlay with many layers fits into a page", "[shim]") {
    const auto shorter =
        shim::shorten_layers("upperdir=/u,lowerdir=/s/1/fs:/s/12/fs:/s/3/fs,index=off");
    CHECK(shorter.directory == "/s/");
    CHECK(shorter.data == "upperdir=/u,lowerdir=1/fs:12/fs:3/fs,index=off");
    CHECK(shim::shorten_layers("lowerdir=/a:/b").directory.empty());
    CHECK(shim::shorten_layers("lowerdir=a:b").directory.empty());
    CHECK(shim::shorten_layers("size=1").data == "size=1");
    CHECK(shim::shorten_layers("lowerdir=").directory.empty());
}

namespace {

// Records what is asked for, and fails at the call of a number.
class Calls : public shim::MountCalls {
public:
    std::vector<std::string> made;
    int fails_at = -1;
    int mounted = 0;

    int mount(const std::string& directory, const std::string& source, const std::string& target,
              const std::string& type, unsigned long flags, const std::string& data) override {
        made.push_back(
            os::text(directory, "|", source, "|", target, "|", type, "|", flags, "|", data));
        if (static_cast<int>(made.size()) == fails_at) {
            errno = EPERM;
            return -1;
        }
        mounted += (flags & MS_REMOUNT) == 0 ? 1 : 0;
        return 0;
    }
    int unmount(const std::string& /*target*/, int /*flags*/) override {
        if (mounted == 0) {
            errno = EINVAL;
            return -1;
        }
        --mounted;
        return 0;
    }
};

shim::Mount mount_of(const char* type, const char* source, std::vector<std::string> options) {
    shim::Mount out;
    out.set_type(type);
    out.set_source(source);
    for (std::string& option : options)
        out.add_options(std::move(option));
    return out;
}

} // namespace

TEST_CASE("the root directory is mounted as the snapshotter says", "[shim]") {
    const Folder folder;
    const std::string target = folder / "rootfs";
    Calls calls;
    REQUIRE(shim::mount_rootfs(calls,
                               {mount_of("overlay", "overlay", {"lowerdir=/a"}),
                                mount_of("bind", "/from", {"rbind", "ro"})},
                               target));
    REQUIRE(calls.made.size() == 3);
    CHECK(calls.made[0] == os::text("|overlay|", target, "|overlay|0|lowerdir=/a"));
    CHECK(calls.made[1] == os::text("|/from|", target, "||", MS_BIND | MS_REC, "|"));
    CHECK(calls.made[2] ==
          os::text("||", target, "||", MS_BIND | MS_REC | MS_RDONLY | MS_REMOUNT, "|"));
    CHECK(calls.mounted == 2);
    CHECK(shim::unmount_rootfs(calls, target));
    CHECK(calls.mounted == 0);
}

TEST_CASE("of a root directory that cannot be mounted whole, nothing stays", "[shim]") {
    const Folder folder;
    for (int fails_at = 1; fails_at <= 3; ++fails_at) {
        Calls calls;
        calls.fails_at = fails_at;
        const auto result = shim::mount_rootfs(calls,
                                               {mount_of("overlay", "overlay", {"lowerdir=/a"}),
                                                mount_of("bind", "/from", {"bind", "ro"})},
                                               folder / "rootfs");
        CHECK_FALSE(result);
        CHECK(calls.mounted == 0);
    }
    Calls calls;
    CHECK_FALSE(shim::mount_rootfs(calls, {mount_of("ext4", "/image", {"loop"})}, folder / "r"));
    shim::Mount outside = mount_of("tmpfs", "tmpfs", {});
    outside.set_target("/../../etc");
    CHECK_FALSE(shim::mount_rootfs(calls, {outside}, folder / "r"));
    CHECK(calls.made.empty());
}

TEST_CASE("links of the image lead no mount out of the root directory", "[shim]") {
    const Folder folder;
    const std::string target = folder / "rootfs";
    REQUIRE(pod::make_directories(target + "/etc"));
    REQUIRE(::symlink("/etc", (target + "/link").c_str()) == 0);
    REQUIRE(::symlink("../../../../../../../tmp", (target + "/away").c_str()) == 0);
    shim::Mount below = mount_of("tmpfs", "tmpfs", {});
    Calls calls;
    below.set_target("/link");
    REQUIRE(shim::mount_rootfs(calls, {below}, target));
    CHECK(calls.made.back() == os::text("|tmpfs|", target, "/etc|tmpfs|0|"));
    calls.made.clear();
    for (const char* wrong : {"/away", "/nothing"}) {
        below.set_target(wrong);
        CHECK_FALSE(shim::mount_rootfs(calls, {below}, target));
    }
    CHECK(calls.made.empty());
}

namespace {

os::UniqueFd connected_to(const std::string& path) {
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    REQUIRE(path.size() < sizeof name.sun_path);
    std::memcpy(name.sun_path, path.data(), path.size());
    REQUIRE(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
    return socket;
}

bool has_hung_up(int socket) {
    pollfd wanted{socket, POLLIN, 0};
    return ::poll(&wanted, 1, 0) > 0;
}

} // namespace

TEST_CASE("a relay that connects and sends no terminal keeps nobody waiting", "[shim]") {
    const Folder folder;
    const auto loop = os::EventLoop::create();
    REQUIRE(loop);
    std::array<int, 2> out{-1, -1};
    REQUIRE(::pipe2(out.data(), O_CLOEXEC | O_NONBLOCK) == 0);
    const os::UniqueFd read_end(out[0]);
    const os::UniqueFd write_end(out[1]);
    const auto console = shim::Console::listen(**loop, folder.path(), -1, write_end.get());
    REQUIRE(console);
    const os::UniqueFd silent = connected_to((*console)->socket_path());
    (*loop)->run_once(std::chrono::milliseconds(0));
    CHECK_FALSE(has_hung_up(silent.get()));
    // Another one does what it is for: then the first is in vain.
    const pid_t relay = ::fork();
    if (relay == 0) {
        auto made = pod::open_console((*console)->socket_path());
        ::_exit(made && ::write(made->get(), "hello", 5) == 5 ? 0 : 1);
    }
    std::string said;
    CHECK(until(**loop, [&] {
        char piece[64];
        const ssize_t got = ::read(read_end.get(), piece, sizeof piece);
        said.append(piece, got > 0 ? static_cast<std::size_t>(got) : 0);
        return said == "hello";
    }));
    int status = 0;
    REQUIRE(::waitpid(relay, &status, 0) == relay);
    CHECK(status == 0);
    CHECK(has_hung_up(silent.get())); // not before: the child had the other end, too
    CHECK(until(**loop, [&] { return (*console)->is_drained(); }));
}

TEST_CASE("streams go to fifos, files and programs", "[shim]") {
    using Kind = shim::StreamTarget::Kind;
    CHECK(shim::StreamTarget::parse("")->kind == Kind::None);
    CHECK(shim::StreamTarget::parse("/run/fifo/1")->kind == Kind::Path);
    CHECK(shim::StreamTarget::parse("fifo:///run/fifo/1")->path == "/run/fifo/1");
    const auto file = shim::StreamTarget::parse("file:///var/log/a%20b");
    CHECK(file->kind == Kind::File);
    CHECK(file->path == "/var/log/a b");
    const auto program = shim::StreamTarget::parse("binary:///bin/logger?tag=a+b&flag&x=%2f");
    CHECK(program->kind == Kind::Program);
    CHECK(program->path == "/bin/logger");
    CHECK(program->arguments == std::vector<std::string>{"tag", "a b", "flag", "", "x", "/"});
    CHECK_FALSE(shim::StreamTarget::parse("binary://relative"));
    CHECK_FALSE(shim::StreamTarget::parse("ftp:///x"));
}

TEST_CASE("output waits in the fifo while nobody reads, input does not end before it is closed",
          "[shim]") {
    const Folder folder;
    for (const char* name : {"in", "out"})
        REQUIRE(::mkfifo((folder / name).c_str(), 0600) == 0);
    auto stdio = shim::Stdio::open({folder / "in", folder / "out", "", false}, {"c", "n"});
    REQUIRE(stdio);
    const auto ends = (*stdio)->ends();
    CHECK(ends[2] == -1);
    REQUIRE(::write(ends[1], "out", 3) == 3);
    char byte = 0;
    CHECK(::read(ends[0], &byte, 1) == -1); // EAGAIN, no end
    const os::UniqueFd reader(::open((folder / "out").c_str(), O_RDONLY | O_NONBLOCK));
    char text[4] = {};
    CHECK(::read(reader.get(), text, 3) == 3);
    CHECK(std::string(text) == "out");
    (*stdio)->close_input();
    CHECK(::read(ends[0], &byte, 1) == 0);
    (*stdio)->ended();
    CHECK(::read(reader.get(), text, 3) == 0);
}

TEST_CASE("a program that logs gets both streams and says when it is ready", "[shim]") {
    const Folder folder;
    const std::string script =
        folder.with("logger", "#!/bin/sh\nexec 5>&-\n{ echo $CONTAINER_NAMESPACE/$CONTAINER_ID $1 "
                              "$2; cat <&3; cat <&4; } >" +
                                  (folder / "log") + "\n");
    REQUIRE(::chmod(script.c_str(), 0700) == 0);
    auto stdio = shim::Stdio::open({"", "binary://" + script + "?a=b", "", false}, {"c", "n"});
    REQUIRE(stdio);
    REQUIRE((*stdio)->logger() > 0);
    REQUIRE(::write((*stdio)->ends()[1], "one\n", 4) == 4);
    REQUIRE(::write((*stdio)->ends()[2], "two\n", 4) == 4);
    const pid_t logger = (*stdio)->logger();
    (*stdio)->ended();
    REQUIRE(::waitpid(logger, nullptr, 0) == logger);
    char text[64] = {};
    const os::UniqueFd log(::open((folder / "log").c_str(), O_RDONLY));
    REQUIRE(::read(log.get(), text, sizeof text - 1) > 0);
    CHECK(std::string(text) == "n/c a b\none\ntwo\n");
}

TEST_CASE("a program that logs is waited for by the loop, which goes on", "[shim]") {
    const Folder folder;
    const auto loop = os::EventLoop::create();
    REQUIRE(loop);
    const auto begin = [&](const std::string& path) {
        auto stdio = shim::Stdio::open({"", "binary://" + path, "", false}, {"c", "n"});
        REQUIRE(stdio);
        return std::move(*stdio);
    };
    std::optional<os::Result<void>> ready;
    const auto keep = [&](os::Result<void> result) { ready = std::move(result); };
    const auto settle = [&] {
        while (!ready)
            (*loop)->run_once(std::chrono::milliseconds(100));
    };

    // Not before it has been told to.
    const std::string go = folder / "go";
    REQUIRE(::mkfifo(go.c_str(), 0600) == 0);
    const std::string script =
        folder.with("logger", "#!/bin/sh\nread word <" + go + "\nexec 5>&-\ncat <&3\n");
    REQUIRE(::chmod(script.c_str(), 0700) == 0);
    const auto slow = begin(script);
    bool other = false;
    slow->when_ready(**loop, keep);
    (*loop)->defer([&] { other = true; });
    (*loop)->run_once(std::chrono::milliseconds(0));
    CHECK(other);
    CHECK_FALSE(ready);
    { std::ofstream(go) << "go\n"; }
    settle();
    CHECK(*ready);
    slow->ended();
    REQUIRE(::waitpid(slow->logger(), nullptr, 0) == slow->logger());

    // One that is not there.
    ready.reset();
    const auto none = begin("/nonesuch");
    none->when_ready(**loop, keep);
    settle();
    REQUIRE_FALSE(*ready);
    CHECK(ready->error().message.find("/nonesuch") != std::string::npos);
    REQUIRE(::waitpid(none->logger(), nullptr, 0) == none->logger());

    // Nobody to wait for.
    ready.reset();
    const auto plain = shim::Stdio::open({"", "", "", false}, {"c", "n"});
    REQUIRE(plain);
    (*plain)->when_ready(**loop, keep);
    REQUIRE(ready);
    CHECK(*ready);
}

TEST_CASE(
    "start answers with an address, and with the API's version where containerd knows the third") {
    const std::string address = "unix:///run/joey/s/1";
    CHECK(shim::bootstrap_answer(address, nullptr) == address);
    CHECK(shim::bootstrap_answer(address, "2") == address);
    CHECK(shim::bootstrap_answer(address, "") == address);
    CHECK(shim::bootstrap_answer(address, "3x") == address);
    for (const char* known : {"3", "4"}) {
        const auto answer = pod::parse_object(shim::bootstrap_answer(address, known), "answer");
        REQUIRE(answer);
        CHECK(*answer == pod::Json{{"version", 3}, {"address", address}, {"protocol", "ttrpc"}});
    }
}

TEST_CASE("settings are read, and what is wrong is named with its line", "[shim]") {
    const auto settings =
        shim::Settings::parse("[vm]\nvcpus = 2\nmemory = \"512M\"\nprivilege = \"ring3\"\n"
                              "[limits]\nvcpus = 4\nmemory = \"2G\"\n",
                              "file");
    REQUIRE(settings);
    CHECK(settings->vcpus == 2u);
    CHECK(settings->memory == "512M");
    CHECK(settings->privilege == "ring3");
    CHECK(settings->most_vcpus == 4u);
    CHECK(settings->most_memory == std::uint64_t{2} << 30);
    CHECK(shim::Settings::parse("", "file")->memory.empty());
    CHECK(error_of(shim::Settings::parse("[vm]\nvcpu = 2\n", "file")) ==
          "file, line 2: vcpu is no known setting; there are vcpus, memory, privilege");
    CHECK(error_of(shim::Settings::parse("[vm]\nvcpus = \"two\"\n", "file")) ==
          "file, line 2: vcpus is no number");
    CHECK(error_of(shim::Settings::parse("[vm]\nvcpus = 0\n", "file")) ==
          "file, line 2: vcpus: 0 is no number of CPUs (1 to 64)");
    CHECK(error_of(shim::Settings::parse("[vm]\nmemory = \"1X\"\n", "file")) ==
          "file, line 2: memory: 1X is no amount of memory, as 512M or 2G");
    CHECK(error_of(shim::Settings::parse("[vm]\nmemory = \"31M\"\n", "file")) ==
          "file, line 2: memory: 31M is too little for a VM, which needs 32M");
    CHECK(error_of(shim::Settings::parse("\n[limits]\nmemory = \"1K\"\n", "file")) ==
          "file, line 3: memory: 1K is too little for a VM, which needs 32M");
    CHECK(shim::Settings::parse("[vm]\nmemory = \"32M\"\n", "file"));
    CHECK(error_of(shim::Settings::parse("vm = 1\n", "file")) == "file: vm is no table");
    CHECK(error_of(shim::Settings::parse("[vm\n", "file")).starts_with("file, line 1: "));
    CHECK(error_of(shim::Settings::parse("[\n\n", "file")).starts_with("file, line "));
    CHECK(shim::Settings::parse("# \xcf\x8e\n[vm]\nvcpus = 2\n", "file")->vcpus == 2u);
    CHECK(error_of(shim::Settings::parse("[vm]\nvcpus\xcf\x8e = 2\n", "file"))
              .starts_with("file, line 2: "));
    CHECK_FALSE(shim::Settings::load("/nonesuch/config.toml"));
}

TEST_CASE("annotations ask for no more than is allowed", "[shim]") {
    shim::Settings settings;
    settings.most_vcpus = 2;
    settings.most_memory = std::uint64_t{1} << 30;
    CHECK(settings.check({{"io.joey.vcpus", "2"}, {"io.joey.memory", "1G"}, {"other", "x"}}));
    CHECK_FALSE(settings.check({{"io.joey.vcpus", "3"}}));
    CHECK_FALSE(settings.check({{"io.joey.vcpus", "-1"}}));
    CHECK_FALSE(settings.check({{"io.joey.vcpus", "1x"}}));
    CHECK_FALSE(settings.check({{"io.joey.memory", "2G"}}));
    CHECK_FALSE(settings.check({{"io.joey.memory", "99999999999G"}}));
    CHECK_FALSE(settings.check({{"io.joey.memory", "16M"}}));
    CHECK_FALSE(settings.check({{"io.joey.privilege", "ring1"}}));
    settings.annotations = false;
    CHECK_FALSE(settings.check({{"io.joey.vcpus", "1"}}));
    CHECK(settings.check({{"other", "x"}}));
}

TEST_CASE("runtime options: runc's are accepted, a file is named by the general ones", "[shim]") {
    const Folder folder;
    const shim::Log log;
    containerd::runc::v1::Options runc;
    runc.set_systemd_cgroup(true);
    runc.set_binary_name("/usr/bin/other");
    runc.set_shim_cgroup("/group");
    CHECK(shim::settings_of(shim::any_of(runc), log));
    CHECK(*shim::cgroup_of(shim::any_of(runc)) == "/group");
    runtimeoptions::v1::Options general;
    general.set_config_path(folder.with("config.toml", "[vm]\nvcpus = 3\n"));
    CHECK(shim::settings_of(shim::any_of(general), log)->vcpus == 3u);
    wellknown::Any broken = shim::any_of(general);
    broken.set_value("\xff\xff");
    CHECK_FALSE(shim::settings_of(broken, log));
    CHECK(shim::settings_of({}, log));
}

TEST_CASE("a line of the log is one of logrus's", "[shim]") {
    CHECK(shim::Log::line("T", "info", "a \"b\"\nc", "n", 7) ==
          "time=\"T\" level=info msg=\"a \\\"b\\\"\\nc\" namespace=n pid=7 "
          "runtime=io.containerd.joey.v2\n");
}

TEST_CASE("figures are those of control groups of version 2", "[shim]") {
    joey::agent::v1::StatsResponse stats;
    stats.mutable_cpu()->set_usage_usec(5);
    stats.mutable_memory()->set_usage(6);
    (*stats.mutable_memory()->mutable_stat())["anon"] = 7;
    (*stats.mutable_memory()->mutable_events())["oom_kill"] = 8;
    stats.mutable_pids()->set_limit(~std::uint64_t{0});
    const auto any = shim::metrics_of(stats);
    CHECK(any.type_url() == "io.containerd.cgroups.v2.Metrics");
    io::containerd::cgroups::v2::Metrics metrics;
    REQUIRE(metrics.ParseFromString(any.value()));
    CHECK(metrics.cpu().usage_usec() == 5);
    CHECK(metrics.memory().usage() == 6);
    CHECK(metrics.memory().anon() == 7);
    CHECK(metrics.memory_events().oom_kill() == 8);
    CHECK(metrics.pids().limit() == 0);
}

namespace {

namespace forward = ::containerd::services::events::ttrpc::v1;

// containerd, as far as events go.
class Receiver {
public:
    Receiver(os::EventLoop& loop, const std::string& path) : server_(loop) {
        server_.handle<forward::ForwardRequest, wellknown::Empty>(
            "containerd.services.events.ttrpc.v1.Events", "Forward",
            [this](const forward::ForwardRequest& request,
                   const ttrpc::Reply<wellknown::Empty>& reply) {
                if (refuse) {
                    reply(os::fail(os::Code::InvalidArgument, "no"));
                    ++refused;
                    return;
                }
                topics.push_back(request.envelope().topic());
                last = request.envelope();
                reply(wellknown::Empty());
            });
        auto socket = shim::listen_at("unix://" + path);
        REQUIRE(socket);
        REQUIRE(server_.listen(std::move(*socket)));
    }
    std::vector<std::string> topics;
    forward::Envelope last;
    bool refuse = false;
    int refused = 0;

private:
    ttrpc::Server server_;
};

shim::events::TaskStart start_event() {
    shim::events::TaskStart out;
    out.set_container_id("c");
    out.set_pid(7);
    return out;
}

const shim::Publisher::Fallback no_fallback = [](const std::string&, const std::string&,
                                                 const shim::Publisher::Done& done) {
    done(os::fail(os::Code::Unavailable, "none"));
};

} // namespace

TEST_CASE("events arrive in their order, those of a time without containerd too", "[shim]") {
    const Folder folder;
    const auto loop = *os::EventLoop::create();
    const shim::Log log;
    shim::Publisher publisher(*loop, {folder / "sock", "n"}, no_fallback, log);
    publisher.publish(shim::topic::create, shim::events::TaskCreate());
    publisher.publish(shim::topic::start, start_event());
    loop->run_once(std::chrono::milliseconds(0));
    CHECK(publisher.waiting() == 2);
    auto receiver = std::make_unique<Receiver>(*loop, folder / "sock");
    CHECK(until(*loop, [&] { return receiver->topics.size() == 2; }));
    CHECK(receiver->topics == std::vector<std::string>{"/tasks/create", "/tasks/start"});
    CHECK(receiver->last.namespace_() == "n");
    CHECK(receiver->last.event().type_url() == "containerd.events.TaskStart");
    CHECK(receiver->last.timestamp().seconds() > 0);
    // It goes and comes again.
    receiver.reset();
    ::unlink((folder / "sock").c_str());
    publisher.publish(shim::topic::exit, shim::events::TaskExit());
    loop->run_once(std::chrono::milliseconds(50));
    receiver = std::make_unique<Receiver>(*loop, folder / "sock");
    bool idle = false;
    publisher.when_idle(std::chrono::seconds(20), [&] { idle = true; });
    CHECK(until(*loop, [&] { return idle; }));
    CHECK(receiver->topics == std::vector<std::string>{"/tasks/exit"});
}

TEST_CASE("the queue of events has a bound, and an event that is refused does not stop the others",
          "[shim]") {
    const Folder folder;
    const auto loop = *os::EventLoop::create();
    const shim::Log log;
    shim::Publisher publisher(*loop, {folder / "sock", "n"}, no_fallback, log);
    for (std::size_t i = 0; i < shim::Publisher::most_waiting + 10; ++i)
        publisher.publish(shim::topic::start, start_event());
    CHECK(publisher.waiting() == shim::Publisher::most_waiting);
    Receiver receiver(*loop, folder / "sock");
    receiver.refuse = true;
    CHECK(until(*loop, [&] { return receiver.refused == 5; }));
    receiver.refuse = false;
    CHECK(until(*loop, [&] { return publisher.waiting() == 0; }));
    CHECK(receiver.topics.size() == shim::Publisher::most_waiting - 1);
}

TEST_CASE("without a socket, events go another way", "[shim]") {
    const auto loop = *os::EventLoop::create();
    const shim::Log log;
    std::vector<std::string> seen;
    shim::Publisher publisher(
        *loop, {"", "n"},
        [&](const std::string& topic, const std::string& event, const shim::Publisher::Done& done) {
            wellknown::Any any;
            REQUIRE(any.ParseFromString(event));
            seen.push_back(topic + " " + any.type_url());
            loop->defer([done] { done(std::string()); });
        },
        log);
    publisher.publish(shim::topic::start, start_event());
    publisher.publish(shim::topic::exit, shim::events::TaskExit());
    CHECK(until(*loop, [&] { return publisher.waiting() == 0; }));
    CHECK(seen == std::vector<std::string>{"/tasks/start containerd.events.TaskStart",
                                           "/tasks/exit containerd.events.TaskExit"});
}

TEST_CASE("a worker's answer comes back, its error, and its death", "[shim]") {
    const auto loop = *os::EventLoop::create();
    const auto reaper = *shim::Reaper::start(*loop);
    shim::Workers workers(*loop, *reaper);
    std::vector<std::string> said;
    const auto note = [&](const os::Result<std::string>& answer) {
        said.push_back(
            answer ? "ok " + *answer
                   : os::text(static_cast<int>(answer.error().code), " ", answer.error().message));
    };
    const std::string large(300'000, 'x');
    workers.run([&]() -> os::Result<std::string> { return large; }, note);
    REQUIRE(until(*loop, [&] { return said.size() == 1; }));
    CHECK(said[0] == "ok " + large);
    workers.run([]() -> os::Result<std::string> { return os::fail(os::Code::NotFound, "a b"); },
                note);
    REQUIRE(until(*loop, [&] { return said.size() == 2; }));
    CHECK(said[1] == "5 a b");
    workers.run(
        []() -> os::Result<std::string> {
            ::raise(SIGKILL);
            return std::string();
        },
        note);
    REQUIRE(until(*loop, [&] { return said.size() == 3; }));
    CHECK(said[2] == "13 a process of the shim has died at its work");
    shim::reset_signals();
}

TEST_CASE("what a worker leaves behind is this process's to reap, however soon it ends", "[shim]") {
    const auto loop = *os::EventLoop::create();
    const auto reaper = *shim::Reaper::start(*loop);
    shim::Workers workers(*loop, *reaper);
    for (const bool early : {true, false}) {
        int status = -1;
        workers.run(
            [early]() -> os::Result<std::string> {
                const pid_t child = ::fork();
                if (child == 0) {
                    ::usleep(early ? 0 : 100'000);
                    ::_exit(42);
                }
                return std::to_string(child);
            },
            [&](const os::Result<std::string>& answer) {
                REQUIRE(answer);
                reaper->expect(std::atoi(answer->c_str()), [&](int said) { status = said; });
            });
        CHECK(until(*loop, [&] { return status != -1; }));
        CHECK(status == 42);
    }
    shim::reset_signals();
}

namespace {

// A pod whose VM is a process that does nothing, with the socket where its connections arrive.
class IdleVm {
public:
    IdleVm() : root_(folder_.path()) {
        child_ = ::fork();
        if (child_ == 0) {
            ::alarm(60);
            for (;;)
                ::pause();
        }
        const auto process = pod::ProcessId::of(child_);
        REQUIRE(process);
        REQUIRE(pod::make_directories(root_.pod("p")));
        REQUIRE(pod::write_quickly(root_.pod("p") + "/vm.json", pod::to_text(process->to_json())));
        const os::UniqueFd place(::open(root_.pod("p").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        listener_ = os::UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
        std::snprintf(name.sun_path, sizeof name.sun_path, "/proc/self/fd/%d/vsock", place.get());
        REQUIRE(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) ==
                0);
        REQUIRE(::listen(listener_.get(), 4) == 0);
    }
    ~IdleVm() { end(); }
    IdleVm(const IdleVm&) = delete;
    IdleVm& operator=(const IdleVm&) = delete;

    void end() {
        if (child_ <= 0)
            return;
        ::kill(child_, SIGKILL);
        ::waitpid(std::exchange(child_, -1), nullptr, 0);
    }
    const pod::StateRoot& root() const { return root_; }
    int listener() const { return listener_.get(); }

private:
    Folder folder_;
    pod::StateRoot root_;
    os::UniqueFd listener_;
    pid_t child_ = -1;
};

} // namespace

TEST_CASE("a VM that does not answer delays nothing but what was asked of it") {
    IdleVm vm;
    const auto loop = std::move(*os::EventLoop::create());
    const shim::Log log = shim::Log::open("/nonesuch", "test", false);
    shim::PodLink link(*loop, log);
    const auto begin = os::EventLoop::Clock::now();
    link.connect(vm.root(), "p");
    std::optional<os::Code> answered;
    link.call<pod::proto::Empty>("Signal", pod::proto::SignalRequest(), std::chrono::seconds(1),
                                 [&](const os::Result<pod::proto::Empty>& answer) {
                                     answered = answer ? os::Code::Ok : answer.error().code;
                                 });
    bool other = false;
    loop->after(std::chrono::milliseconds(1), [&] { other = true; });
    while (!other)
        loop->run_once(std::chrono::milliseconds(-1));
    CHECK(os::EventLoop::Clock::now() - begin < std::chrono::seconds(1));
    CHECK_FALSE(answered);
    vm.end(); // and the connection with it, as the VM's process would
    const os::UniqueFd socket(::accept(vm.listener(), nullptr, nullptr));
    CHECK(::shutdown(socket.get(), SHUT_RDWR) == 0);
    while (!answered)
        loop->run_once(std::chrono::milliseconds(-1));
    CHECK(*answered == os::Code::Unavailable);
}

TEST_CASE("what is asked of a VM while it is being connected to is asked when that is done") {
    const IdleVm vm;
    const auto loop = std::move(*os::EventLoop::create());
    const shim::Log log = shim::Log::open("/nonesuch", "test", false);
    ttrpc::Server agent(*loop);
    agent.handle<pod::proto::SignalRequest, pod::proto::Empty>(
        "joey.agent.v1.Agent", "Signal",
        [](const auto&, const auto& reply) { reply(pod::proto::Empty()); });
    shim::PodLink link(*loop, log);
    link.connect(vm.root(), "p");
    std::optional<bool> answered;
    link.call<pod::proto::Empty>(
        "Signal", pod::proto::SignalRequest(), std::chrono::seconds(10),
        [&](const os::Result<pod::proto::Empty>& answer) { answered = answer.has_value(); });
    os::UniqueFd socket;
    while (!socket) {
        loop->run_once(std::chrono::milliseconds(1));
        socket = os::UniqueFd(::accept4(vm.listener(), nullptr, nullptr, SOCK_CLOEXEC));
    }
    std::string line;
    char byte = 0;
    while (byte != '\n' && ::read(socket.get(), &byte, 1) == 1)
        line += byte;
    CHECK(line == "CONNECT 1024\n");
    REQUIRE(::send(socket.get(), "OK 1024\n", 8, MSG_NOSIGNAL) == 8);
    REQUIRE(agent.serve(std::move(socket)));
    while (!answered)
        loop->run_once(std::chrono::milliseconds(-1));
    CHECK(*answered);
    CHECK(link.is_open());
}
