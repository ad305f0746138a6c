// What people type and what is kept on disk: parsing and state.
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "agent/os/files.hpp"
#include "tests/unit/comes.hpp"
#include "tools/image/testing/archive_maker.hpp"
#include "tools/joey/containers/audience.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/copy.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/pod_network.hpp"
#include "tools/joey/containers/run_request.hpp"
#include "tools/joey/containers/security.hpp"
#include "tools/joey/containers/table.hpp"
#include "tools/joey/containers/watcher.hpp"
#include "tools/joey/control_characters.hpp"
#include "tools/joey/host.hpp"
#include "tools/joey/image_options.hpp"
#include "tools/joey/image_report.hpp"

using namespace joey::containers;
using image::testing::ScratchFolder;

namespace {

os::Result<Arguments> parse(const char* command, const std::vector<std::string>& words) {
    return Arguments::parse(*find_command(command), words);
}

bool has(const std::vector<std::string>& list, const std::string& wanted) {
    return std::find(list.begin(), list.end(), wanted) != list.end();
}

Container a_container(const std::string& name) {
    Container out;
    out.id = fresh_id();
    out.name = name;
    out.created = "2024-05-01T10:00:00Z";
    return out;
}

} // namespace

TEST_CASE("what is no ordinary file in a root directory is not waited for, nor read without end") {
    const ScratchFolder folder;
    const std::string root = folder.path();
    REQUIRE(::mkdir((root + "/etc").c_str(), 0755) == 0);
    REQUIRE(::mkfifo((root + "/etc/passwd").c_str(), 0644) == 0);
    REQUIRE(::symlink("passwd", (root + "/etc/hosts").c_str()) == 0);
    std::ofstream(root + "/etc/group") << "staff:x:50:\n";
    // In a process of its own: a pipe that nobody writes to is waited for without end.
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        const bool waits = joey::read_text_file_in(root, "etc/hosts", 100) ||
                           joey::resolve_user("somebody", root) ||
                           !joey::resolve_user("7:staff", root);
        ::_exit(waits ? 1 : 0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    CHECK(joey::read_text_file_in(root, "etc/group", 12));
    CHECK_FALSE(joey::read_text_file_in(root, "etc/group", 11));
}

TEST_CASE("no character that drives a terminal passes, in whichever way it is written") {
    CHECK(printable("a\x1b[31mb\x7f") == "a [31mb");
    CHECK(printable("a\xc2\x9b"
                    "31mb") == "a 31mb"); // U+009B, ESC [ in one
    CHECK(printable("caf\xc3\xa9 \xc2\xa9") == "caf\xc3\xa9 \xc2\xa9");
    CHECK(joey::with_controls_as("\xc2", '?') == "\xc2");
    CHECK(joey::with_controls_as("a\n\tb\r", '?', "\n\t") == "a\n\tb?");
    // Nor in a log's lines.
    CHECK(pod::to_text(pod::Json("\xc2\x9bx\x7f\xc2\xa9")) == "\"\\u009bx\\u007f\xc2\xa9\"");
}

TEST_CASE("options are taken as Docker's users type them, and the command's own are left alone") {
    const auto run = parse("run", {"-itd", "-p8080:80", "-e", "A=b", "--env=C=d", "--rm=false",
                                   "image", "ls", "-l", "--rm"});
    REQUIRE(run.has_value());
    CHECK(run->has("interactive"));
    CHECK(run->has("tty"));
    CHECK(run->has("detach"));
    CHECK_FALSE(run->has("rm"));
    CHECK(run->values("env") == std::vector<std::string>{"A=b", "C=d"});
    CHECK(run->value("publish") == "8080:80");
    CHECK(run->words() == std::vector<std::string>{"image", "ls", "-l", "--rm"});
    CHECK(parse("run", {"-h", "name", "x"})->value("hostname") == "name");
    CHECK(parse("rm", {"a", "-f", "b"})->words() == std::vector<std::string>{"a", "b"});
    CHECK(parse("logs", {"-h"})->wants_help());
    CHECK(parse("attach", {"--sig-proxy=false", "x"})->value("sig-proxy") == "false");
}

TEST_CASE("wrong options are refused with the way to help") {
    for (const std::vector<std::string>& words : {std::vector<std::string>{"--nonsense", "x"},
                                                  {"-Z", "x"},
                                                  {"x", "y"},
                                                  {},
                                                  {"--tail"},
                                                  {"--follow=maybe", "x"}}) {
        const auto wrong = parse("logs", words);
        REQUIRE_FALSE(wrong.has_value());
        CHECK(wrong.error().message.find("joey logs --help") != std::string::npos);
    }
}

TEST_CASE("every command's help names each of its options, and no option is there twice") {
    for (const Command& command : all_commands()) {
        const std::string help = help_of(command);
        for (const Option& option : command.options) {
            CHECK(help.find(std::string("--") + option.name) != std::string::npos);
            const auto same = [&](const Option& other) {
                return std::string_view(other.name) == option.name ||
                       (option.letter != '\0' && other.letter == option.letter);
            };
            CHECK(std::count_if(command.options.begin(), command.options.end(), same) == 1);
        }
    }
}

TEST_CASE("restart policies: what is taken, and when each starts again") {
    CHECK_FALSE(RestartPolicy::parse("no")->restarts(1, 0));
    CHECK(RestartPolicy::parse("always")->restarts(0, 1000));
    CHECK(RestartPolicy::parse("on-failure")->restarts(1, 1000));
    CHECK_FALSE(RestartPolicy::parse("on-failure")->restarts(0, 0));
    const auto twice = RestartPolicy::parse("on-failure:2");
    CHECK(twice->restarts(1, 1));
    CHECK_FALSE(twice->restarts(1, 2));
    CHECK(twice->text() == "on-failure:2");
    for (const char* wrong : {"", "sometimes", "always:3", "on-failure:x", "on-failure:-1"})
        CHECK_FALSE(RestartPolicy::parse(wrong).has_value());
}

TEST_CASE("names and IDs") {
    CHECK(check_name("web-1.a_b").has_value());
    for (const char* wrong : {"", "a", "-web", "a/b", "a b", "..", "a\n"})
        CHECK_FALSE(check_name(wrong).has_value());
    CHECK(fresh_id().size() == 64);
    CHECK(check_name(fresh_name()).has_value());
}

TEST_CASE("a container's records come back as they were written") {
    Container one = a_container("web");
    one.labels = {{"a", "b\n\x01"}};
    one.restart = *RestartPolicy::parse("on-failure:3");
    one.health.command = {"/bin/sh", "-c", "true"};
    one.log.files = 7;
    one.published = {"0.0.0.0:80->80/tcp"};
    const auto again = Container::parse(one.to_text(), "test");
    REQUIRE(again.has_value());
    CHECK(again->to_text() == one.to_text());
    Condition now;
    now.phase = Phase::Restarting;
    now.status = 3;
    now.restarts = 2;
    now.health.status = "healthy";
    const auto condition = Condition::parse(now.to_text(), "test");
    REQUIRE(condition.has_value());
    CHECK(condition->to_text() == now.to_text());
    for (const char* wrong :
         {"", "[]", "{}", R"({"id":"../x","name":"ab"})", R"({"phase":"odd"})"}) {
        CHECK_FALSE(Container::parse(wrong, "test").has_value());
        CHECK_FALSE(Condition::parse(wrong, "test").has_value());
    }
}

TEST_CASE("the registry: names are taken once, found by name, ID and its beginning") {
    const ScratchFolder folder;
    Registry registry(folder / "data", pod::StateRoot(folder / "run"));
    Container one = a_container("one");
    REQUIRE(registry.add(one).has_value());
    Container other = a_container("one");
    const auto taken = registry.add(other);
    REQUIRE_FALSE(taken.has_value());
    CHECK(taken.error().code == os::Code::AlreadyExists);
    Container nameless = a_container("");
    REQUIRE(registry.add(nameless).has_value());
    CHECK_FALSE(nameless.name.empty());
    CHECK(registry.find("one")->id == one.id);
    CHECK(registry.find(one.id)->id == one.id);
    CHECK(registry.find(one.id.substr(0, 20))->id == one.id);
    CHECK(registry.find("nobody").error().code == os::Code::NotFound);
    CHECK(registry.find("").error().code == os::Code::NotFound);
    // Whose monitor is gone has ended, whatever is written.
    Condition running;
    running.phase = Phase::Running;
    running.boot = boot_id();
    running.monitor = {1U << 22, 1};
    registry.store(one, running);
    CHECK(registry.condition(one).phase == Phase::Exited);
    CHECK(registry.condition(one).status == 137);
    registry.set_stopped(one, true);
    CHECK(registry.is_stopped(one));
    registry.set_stopped(one, false);
    CHECK_FALSE(registry.is_stopped(one));
    REQUIRE(registry.drop(one).has_value());
    CHECK_FALSE(registry.has("one"));
    CHECK(registry.list().size() == 1);
}

namespace {

Registry registry_in(const ScratchFolder& folder) {
    return Registry(folder / "data", pod::StateRoot(folder / "run"));
}

// As if the container had a monitor: this process.
Condition watched_here(Phase phase) {
    Condition out;
    out.phase = phase;
    out.boot = boot_id();
    out.monitor = *pod::ProcessId::of(::getpid());
    return out;
}

Condition without_monitor() {
    Condition out = watched_here(Phase::Running);
    out.monitor = {1U << 22, 1};
    return out;
}

bool is_asleep(pid_t pid) {
    const auto stat = os::read_file(AT_FDCWD, os::text("/proc/", pid, "/stat").c_str());
    return stat && stat->find(") S ") != std::string::npos;
}

bool waits_for_lock(pid_t pid) {
    const auto locks = os::read_file(AT_FDCWD, "/proc/locks");
    return !locks ||
           locks->find("-> FLOCK  ADVISORY  WRITE " + std::to_string(pid)) != std::string::npos;
}

// In a process of its own, which ends in any case; what it writes to stdout comes to `out`.
class Background {
public:
    template <typename Act>
    explicit Background(Act act) {
        int ends[2] = {-1, -1};
        REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
        out_ = os::UniqueFd(ends[0]);
        const os::UniqueFd write_end(ends[1]);
        std::fflush(stdout);
        pid_ = ::fork();
        if (pid_ == 0) {
            ::alarm(60);
            ::dup2(write_end.get(), STDOUT_FILENO);
            ::_exit(act());
        }
    }
    ~Background() {
        if (ended_)
            return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    Background(const Background&) = delete;
    Background& operator=(const Background&) = delete;
    pid_t pid() const { return pid_; }
    int status() {
        int status = 0;
        REQUIRE(::waitpid(pid_, &status, 0) == pid_);
        ended_ = true;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    std::string said() const {
        std::string out(4096, '\0');
        const ssize_t got = ::read(out_.get(), out.data(), out.size());
        out.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
        return out;
    }

private:
    pid_t pid_ = -1;
    os::UniqueFd out_;
    bool ended_ = false;
};

int command(const ScratchFolder& folder, const char* name, const std::vector<std::string>& words) {
    Session session{registry_in(folder), folder / "store"};
    const auto status = find_command(name)->run(session, *parse(name, words));
    return status ? *status : 1;
}

} // namespace

TEST_CASE("what a monitor was killed over is done for it: its pod's VM ends, and --rm removes") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.remove = true;
    REQUIRE(registry.add(one).has_value());
    registry.store(one, without_monitor());
    Container two = a_container("two");
    two.pod = "shared";
    REQUIRE(registry.add(two).has_value());
    REQUIRE(pod::make_directories(folder / "run/pods/shared").has_value());
    registry.store(two, without_monitor());
    CHECK(registry.condition(one).status == 137);
    CHECK_FALSE(pod::exists(registry.directory(one)));
    CHECK(registry.condition(two).status == 137);
    CHECK_FALSE(pod::exists(folder / "run/pods/shared"));
    CHECK(registry.has("two"));
}

TEST_CASE("a pod is not left by a container that was started again meanwhile") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.pod = "shared";
    REQUIRE(registry.add(one).has_value());
    REQUIRE(pod::make_directories(folder / "run/pods/shared").has_value());
    registry.store(one, watched_here(Phase::Starting));
    leave_pod(registry, one);
    CHECK(pod::exists(folder / "run/pods/shared"));
    registry.store(one, watched_here(Phase::Exited));
    leave_pod(registry, one);
    CHECK_FALSE(pod::exists(folder / "run/pods/shared"));
}

TEST_CASE("what is left of a removal that was killed goes when the next container is made") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    REQUIRE(registry.add(one).has_value());
    Container other = a_container("other");
    REQUIRE(registry.add(other).has_value());
    REQUIRE(pod::make_directories(registry.directory(other) + "/layer/upper/d").has_value());
    REQUIRE(::unlink((registry.directory(other) + "/container.json").c_str()) == 0);
    Container third = a_container("third");
    {
        // Not while somebody is at it.
        const auto held = pod::Lock::take(registry.directory(other) + "/lock");
        REQUIRE(held.has_value());
        REQUIRE(registry.add(third).has_value());
        CHECK(pod::exists(registry.directory(other)));
    }
    Container fourth = a_container("fourth");
    REQUIRE(registry.add(fourth).has_value());
    CHECK_FALSE(pod::exists(registry.directory(other)));
    CHECK(registry.list().size() == 3);
}

TEST_CASE("rm without --force looks again when it has the lock: the container may run by then") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    REQUIRE(registry.add(one).has_value());
    std::optional<pod::Lock> held(*registry.lock(one));
    Background removal([&] {
        held.reset(); // its copy alone
        return command(folder, "rm", {"one"});
    });
    CHECK(comes([&] { return waits_for_lock(removal.pid()); }));
    registry.store(one, watched_here(Phase::Running));
    held.reset();
    CHECK(removal.status() == 1);
    CHECK(registry.has("one"));
}

TEST_CASE("a container whose image says too much of it is not made: no command would find it") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.labels["long"] = std::string(4U << 20, 'x');
    CHECK(registry.add(one).error().code == os::Code::ResourceExhausted);
    CHECK(registry.list().empty());
    one.labels["long"].resize(1U << 20);
    REQUIRE(registry.add(one).has_value());
    CHECK(registry.has("one"));
}

TEST_CASE("what one command changes of a container another does not undo that began before") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    REQUIRE(registry.add(one).has_value());
    std::ofstream(registry.directory(one) + "/config.json") << R"({"linux": {"resources": {}}})";
    std::optional<pod::Lock> held(*registry.lock(one));
    Background update([&] {
        held.reset(); // its copy alone
        return command(folder, "update", {"--restart", "always", "one"});
    });
    CHECK(comes([&] { return waits_for_lock(update.pid()); }));
    REQUIRE(registry.rename(one, "other").has_value());
    held.reset();
    CHECK(update.status() == 0);
    REQUIRE(registry.has("other"));
    CHECK(registry.find("other")->restart.kind == RestartPolicy::Kind::Always);
}

TEST_CASE("update --memory of a container that is stopped makes its next VM larger") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.vm_memory = "193M";
    one.limits["Memory"] = 64U << 20;
    REQUIRE(registry.add(one).has_value());
    const std::string config = registry.directory(one) + "/config.json";
    std::ofstream(config) << R"({"annotations": {"io.joey.memory": "193M"},
                                 "linux": {"resources": {}}})";
    Background update([&] { return command(folder, "update", {"--memory", "1g", "one"}); });
    CHECK(update.status() == 0);
    const auto changed = pod::read_json(config);
    REQUIRE(changed.has_value());
    CHECK((*changed)["linux"]["resources"]["memory"]["limit"] == 1U << 30);
    CHECK((*changed)["annotations"]["io.joey.memory"] == "1153M");
    CHECK(registry.find("one")->vm_memory == "1153M");
}

TEST_CASE("cp comes to volumes as the container's programs do, through links") {
    const ScratchFolder folder;
    for (const char* name : {"root", "root/run", "root/run/app", "root/var", "root/data", "volume"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    REQUIRE(::symlink("../run", (folder / "root/var/run").c_str()) == 0);
    REQUIRE(::symlink("/run/app", (folder / "root/app").c_str()) == 0);
    REQUIRE(::symlink("/data", (folder / "volume/out").c_str()) == 0);
    REQUIRE(::symlink("round", (folder / "root/round").c_str()) == 0);
    folder.write("mine", "mine");
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.root = folder / "root";
    one.mounts.push_back(pod::Json{{"Type", "bind"},
                                   {"Source", folder / "volume"},
                                   {"Destination", "/var/run/app"},
                                   {"RW", true}});
    REQUIRE(registry.add(one).has_value());
    const auto copy = [&](const std::string& from, const std::string& to) {
        return Background([&] { return command(folder, "cp", {from, to}); }).status();
    };
    CHECK(copy(folder / "mine", "one:/var/run/app/first") == 0);
    CHECK(folder.read("volume/first") == "mine");
    CHECK(copy(folder / "mine", "one:/app") == 0);
    CHECK(folder.read("volume/mine") == "mine");
    CHECK(copy(folder / "mine", "one:/run/app/out/third") == 0);
    CHECK(folder.read("root/data/third") == "mine");
    CHECK(copy("one:/app/first", folder / "back") == 0);
    CHECK(folder.read("back") == "mine");
    CHECK(copy("one:/app/.", folder / "all") == 0);
    CHECK(folder.read("all/first") == "mine");
    CHECK(copy(folder / "mine", "one:/round/x") == 1);
}

TEST_CASE("start: of what runs it is no mistake; what is just being removed is not started") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    REQUIRE(registry.add(one).has_value());
    registry.store(one, watched_here(Phase::Running));
    Background again([&] { return command(folder, "start", {"one"}); });
    CHECK(again.status() == 0);
    CHECK(again.said() == "one\n");
    Container two = a_container("two");
    two.remove = true;
    REQUIRE(registry.add(two).has_value());
    registry.store(two, watched_here(Phase::Exited));
    Background late([&] { return command(folder, "start", {"two"}); });
    CHECK(late.status() == 1);
    CHECK(registry.peek(two).monitor.pid == ::getpid());
}

TEST_CASE("ps: names and IDs are looked for by regular expressions, as Docker's users write them") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("web");
    Container two = a_container("web-old");
    REQUIRE(registry.add(one).has_value());
    REQUIRE(registry.add(two).has_value());
    const auto found = [&](const std::string& filter) {
        Background listing([&] {
            return command(folder, "ps", {"-a", "--filter", filter, "--format", "{{.Names}}"});
        });
        CHECK(listing.status() == 0);
        return listing.said();
    };
    CHECK(found("name=^web$") == "web\n");
    CHECK(found("name=^/web$") == "web\n");
    CHECK(found("name=old|new") == "web-old\n");
    CHECK(found("name=eb-").size() == 8);
    CHECK(found("id=^" + one.id.substr(0, 12)) == "web\n");
    CHECK(found("id=" + one.id) == "web\n");
    Background wrong([&] { return command(folder, "ps", {"-a", "--filter", "name=("}); });
    CHECK(wrong.status() == 1);
}

TEST_CASE("wait: for the end, also if the monitor does not listen; of what is gone, no status") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    for (const bool is_removed : {false, true}) {
        Container one = a_container("one");
        REQUIRE(registry.add(one).has_value());
        registry.store(one, watched_here(Phase::Starting));
        Background waiter([&] { return command(folder, "wait", {"one"}); });
        CHECK(comes([&] { return is_asleep(waiter.pid()); }));
        if (is_removed) {
            REQUIRE(registry.drop(one).has_value());
            CHECK(waiter.status() == 1);
            CHECK(waiter.said().empty());
            continue;
        }
        Condition ended = watched_here(Phase::Exited);
        ended.status = 5;
        registry.store(one, ended);
        CHECK(waiter.status() == 0);
        CHECK(waiter.said() == "5\n");
        REQUIRE(registry.drop(one).has_value());
    }
}

TEST_CASE("who comes to watch while the monitor is busy with the end hears of it") {
    const ScratchFolder folder;
    const auto loop = os::EventLoop::create();
    REQUIRE(loop.has_value());
    Audience audience(**loop, {[](std::string_view) {}, [] {}, [](Size) {}, [] {}});
    audience.listen(std::move(*listen_in(folder.path())));
    const auto late = connect_in(folder.path());
    REQUIRE(late.has_value());
    tell(late->get(), Word::Hello, std::string_view("\0", 1), true);
    audience.tell_all(Word::Ended, "3");
    const auto heard = hear(late->get(), false);
    REQUIRE(heard.has_value());
    REQUIRE(heard->has_value());
    CHECK((*heard)->word == Word::Ended);
    CHECK((*heard)->data == "3");
}

TEST_CASE("a signal ends watching, also while nobody takes the input or the output") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    const Container one = a_container("one");
    const auto watching = [&](Line& line, const char* input) {
        return Background([&registry, &one, &line, input] {
            line.far.reset();
            ::dup2(::open(input, O_RDONLY | O_CLOEXEC), STDIN_FILENO);
            WatchOptions options;
            options.input = true;
            options.proxy_signals = false;
            const auto status = watch(registry, one, std::move(line.near), options);
            return status ? *status : 1;
        });
    };
    auto input = make_line();
    REQUIRE(input.has_value());
    Background writer = watching(*input, "/dev/zero");
    CHECK(comes([&] {
        int waiting = 0;
        return ::ioctl(input->far.get(), FIONREAD, &waiting) == 0 && waiting > 0 &&
               is_asleep(writer.pid());
    }));
    ::kill(writer.pid(), SIGTERM);
    CHECK(writer.status() == 128 + SIGTERM);

    auto output = make_line();
    REQUIRE(output.has_value());
    Background reader = watching(*output, "/dev/null");
    // Until neither the pipe nor the socket takes more.
    const std::string piece(largest_piece, 'x');
    CHECK(comes([&] {
        while (tell(output->far.get(), Word::Output, piece, false) == Told::Yes) {
        }
        int waiting = 0;
        return ::ioctl(output->near.get(), FIONREAD, &waiting) == 0 && waiting > 0 &&
               is_asleep(reader.pid());
    }));
    ::kill(reader.pid(), SIGTERM);
    CHECK(reader.status() == 128 + SIGTERM);
}

TEST_CASE("a log: lines, pieces of lines, files put aside, read in order") {
    const ScratchFolder folder;
    LogLimits limits;
    limits.file_bytes = 1000;
    limits.files = 3;
    LogWriter writer(folder.path(), limits);
    writer.write(Stream::Out, "be");
    writer.write(Stream::Error, "error\n");
    writer.write(Stream::Out, "gin\n");
    for (int i = 0; i < 30; ++i)
        writer.write(Stream::Out, "line " + std::to_string(i) + "\n");
    writer.write(Stream::Out, "end");
    writer.finish();
    std::vector<std::string> lines;
    LogReader reader(folder.path());
    reader.read([&](const LogLine& line) { lines.push_back(line.text); });
    REQUIRE(lines.size() > 10);
    CHECK(lines.back() == "end");
    CHECK(lines[lines.size() - 2] == "line 29\n");
    CHECK(lines[lines.size() - 12] == "line 19\n");
    CHECK_FALSE(pod::exists(folder / "container.log.3"));
    // More comes, over a change of files.
    for (int i = 0; i < 10; ++i)
        writer.write(Stream::Error, std::string(200, 'x') + "\n");
    lines.clear();
    reader.read([&](const LogLine& line) { lines.push_back(line.text); });
    CHECK_FALSE(lines.empty());
    CHECK_FALSE(parse_log_line("{\"log\":\"x\"").has_value());
    CHECK_FALSE(parse_log_line("{\"log\":1,\"stream\":\"x\"}").has_value());
}

TEST_CASE("a line without an end is cut in pieces of 16 KiB") {
    const ScratchFolder folder;
    LogWriter writer(folder.path(), {});
    writer.write(Stream::Out, std::string(40'000, 'a'));
    writer.finish();
    std::vector<std::size_t> sizes;
    LogReader(folder.path()).read([&](const LogLine& line) { sizes.push_back(line.text.size()); });
    CHECK(sizes == std::vector<std::size_t>{16384, 16384, 7232});
}

TEST_CASE("times and lengths of time") {
    constexpr std::int64_t second = 1'000'000'000;
    CHECK(*parse_duration("1h2m3s") == 3723 * second);
    CHECK(*parse_duration("1.5s") == 1'500'000'000);
    CHECK(*parse_duration("300ms") == 300'000'000);
    CHECK(*parse_duration("0") == 0);
    for (const char* wrong :
         {"", "5", "s", "5x", "-5s", "99999999999999999999h", "9999999h9999999h"})
        CHECK_FALSE(parse_duration(wrong).has_value());
    CHECK(nanoseconds_of("1970-01-01T00:00:01.25Z") == 1'250'000'000);
    CHECK(nanoseconds_of("1970-01-01T02:00:00+02:00") == 0);
    CHECK(*parse_time("12.5") == 12'500'000'000);
    CHECK(*parse_time("1970-01-02T00:00:00Z") == 86400 * second);
    CHECK_FALSE(parse_time("yesterday").has_value());
    CHECK(length_of_time(0) == "Less than a second");
    CHECK(length_of_time(90 * second) == "About a minute");
    CHECK(length_of_time(7200 * second) == "2 hours");
    CHECK(size_in_binary(1536) == "1.5KiB");
}

TEST_CASE(
    "a time without a zone is one of here, its end may be left out, and far ones are no error") {
    const char* before = std::getenv("TZ");
    const std::string kept = before != nullptr ? before : "";
    ::setenv("TZ", "EST5", 1);
    ::tzset();
    const std::int64_t noon = nanoseconds_of("2024-05-01T12:00:00Z");
    CHECK(*parse_time("2024-05-01T07:00:00") == noon);
    CHECK(*parse_time("2024-05-01T07:00:00.5") == noon + 500'000'000);
    CHECK(*parse_time("2024-05-01T07:00") == noon);
    CHECK(*parse_time("2024-05-01T07") == noon);
    CHECK(*parse_time("2024-05-01") == nanoseconds_of("2024-05-01T05:00:00Z"));
    CHECK(*parse_time("2024-05-01T14:00:00+02:00") == noon);
    CHECK(*parse_time("9999-12-31T23:59:59Z") == INT64_MAX);
    CHECK_FALSE(parse_time("2024-05-01T07:00:00+2").has_value());
    if (before != nullptr)
        ::setenv("TZ", kept.c_str(), 1);
    else
        ::unsetenv("TZ");
    ::tzset();
}

TEST_CASE("detach keys are found however they come, and what only begins like them goes on") {
    CHECK(*parse_keys("ctrl-p,ctrl-q") == "\x10\x11");
    CHECK(*parse_keys("a,ctrl-]") == "a\x1d");
    CHECK_FALSE(parse_keys("ctrl-p,F1").has_value());
    KeyFinder keys("\x10\x11");
    CHECK(keys.pass("ab\x10") == "ab");
    CHECK(keys.pass("c") == "\x10"
                            "c");
    CHECK(keys.pass("\x10\x10") == "\x10");
    CHECK_FALSE(keys.found());
    CHECK(keys.pass("\x11"
                    "after") == "");
    CHECK(keys.found());
}

TEST_CASE("volumes, mounts and tmpfs") {
    const auto bind = parse_volume("/a:/b:ro");
    REQUIRE(bind.has_value());
    CHECK(bind->kind == Volume::Kind::Bind);
    CHECK(bind->read_only);
    CHECK(parse_volume("name:/b")->kind == Volume::Kind::Named);
    CHECK(parse_volume("/b")->kind == Volume::Kind::Own);
    for (const char* wrong :
         {"", ":/b", "/a:b", "/a:/", "/a:/b:odd", "a b:/c", "/a:/b:ro:x", "../..:/"})
        CHECK_FALSE(parse_volume(wrong).has_value());
    const auto mount = parse_mount("type=bind,source=/a,target=/b,readonly");
    REQUIRE(mount.has_value());
    CHECK((mount->source == "/a" && mount->read_only));
    CHECK(parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m")->options == "size=1m");
    for (const char* wrong :
         {"", "type=bind,target=/b", "type=odd,target=/b", "target=b", "x=y,target=/b"})
        CHECK_FALSE(parse_mount(wrong).has_value());
    CHECK(parse_tmpfs("/t:size=1m")->options == "size=1m");
}

TEST_CASE("volumes: one at each place, however it is spelled, mounted from the outside in") {
    CHECK(parse_volume("name:/b//c/")->target == "/b/c");
    CHECK(parse_tmpfs("/t/./:size=1m")->target == "/t");
    CHECK_FALSE(parse_mount("type=tmpfs,dst=/b/..").has_value());
    const ScratchFolder folder;
    const Session session{registry_in(folder), {}};
    const auto given = parse("run", {"-v", "deep:/data/sub", "-v", "top:/data/", "box"});
    REQUIRE(given.has_value());
    image::ProcessDescription process;
    process.volumes = {"/data", "/data/sub/own"};
    const auto volumes = read_volumes(session, *given, process);
    REQUIRE((volumes.has_value() && volumes->size() == 3));
    CHECK((volumes->at(0).source == "top" && volumes->at(0).target == "/data"));
    CHECK((volumes->at(1).source == "deep" && volumes->at(1).target == "/data/sub"));
    CHECK(volumes->at(2).target == "/data/sub/own");
    CHECK_FALSE(read_volumes(session, *parse("run", {"-v", "a:/x", "-v", "b:/x/", "box"}), process)
                    .has_value());
}

TEST_CASE("a volume that two containers make at once is one, and is both's") {
    const ScratchFolder folder;
    for (const char* name : {"base", "base/data", "data"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    folder.write("base/data/seed", "seed");
    const auto place = [&] {
        const Session session{registry_in(folder), {}};
        RunRequest request;
        request.base.directory = os::UniqueFd(::open((folder / "base").c_str(), O_RDONLY));
        Volume volume;
        volume.kind = Volume::Kind::Named;
        volume.source = "shared";
        volume.target = "/data";
        request.volumes.push_back(volume);
        return place_volumes(session, request, folder / "data").has_value() ? 0 : 1;
    };
    Background one(place);
    Background other(place);
    CHECK(one.status() == 0);
    CHECK(other.status() == 0);
    CHECK(pod::names_in(folder / "volumes") == std::vector<std::string>{"shared"});
    CHECK(folder.read("volumes/shared/seed") == "seed");
}

TEST_CASE("published ports, with addresses, ranges and protocols") {
    const auto one = parse_ports("127.0.0.1:8080:80/udp");
    REQUIRE((one.has_value() && one->size() == 1));
    CHECK(one->front().address == "127.0.0.1");
    CHECK(one->front().host == 8080);
    CHECK(one->front().guest == 80);
    CHECK(one->front().protocol == "udp");
    CHECK(parse_ports("80")->front().host == 0);
    CHECK(parse_ports("[::1]:1:2")->front().address == "[::1]");
    const auto range = parse_ports("8000-8002:9000-9002");
    REQUIRE((range.has_value() && range->size() == 3));
    CHECK(range->back().guest == 9002);
    for (const char* wrong : {"", "x", "0", "1:2:3:4:", "80/icmp", "1-2:1", "70000", "5-3"})
        CHECK_FALSE(parse_ports(wrong).has_value());
}

TEST_CASE("capabilities: the usual ones, added, dropped, all") {
    CHECK(capabilities({}, {})->size() == 14);
    CHECK(*capabilities({"chown"}, {"ALL"}) == std::vector<std::string>{"CAP_CHOWN"});
    CHECK(has(*capabilities({"CAP_SYS_ADMIN"}, {}), "CAP_SYS_ADMIN"));
    CHECK_FALSE(has(*capabilities({}, {"mknod"}), "CAP_MKNOD"));
    CHECK(capabilities({"all"}, {"mknod"})->size() == 40);
    CHECK_FALSE(capabilities({"CAP_FLY"}, {}).has_value());
}

TEST_CASE("the usual filter allows namespaces to nobody but CAP_SYS_ADMIN") {
    const auto names = [](const pod::Json& profile) {
        std::vector<std::string> out;
        for (const pod::Json& rule : profile["syscalls"]) {
            if (!rule.contains("args") && rule["action"] == "SCMP_ACT_ALLOW")
                for (const pod::Json& name : rule["names"])
                    out.push_back(name);
        }
        return out;
    };
    const auto usual = names(usual_seccomp(*capabilities({}, {})));
    CHECK(has(usual, "openat"));
    for (const char* call : {"mount", "unshare", "setns", "clone", "clone3", "bpf", "kexec_load",
                             "io_uring_setup", "add_key", "keyctl", "userfaultfd", "swapon"})
        CHECK_FALSE(has(usual, call));
    CHECK(has(names(usual_seccomp(all_capabilities())), "mount"));
    std::vector<std::string> sorted = usual;
    std::sort(sorted.begin(), sorted.end());
    CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
}

TEST_CASE("copies stay in their directory, whatever links lie there") {
    const ScratchFolder folder;
    for (const char* name : {"inside", "outside", "inside/d", "inside/d/e"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    folder.write("outside/secret", "untouched");
    folder.write("inside/d/e/f", "content");
    folder.write("mine", "mine");
    REQUIRE(::symlink((folder / "outside").c_str(), (folder / "inside/out").c_str()) == 0);
    REQUIRE(::symlink("../../../../../..", (folder / "inside/up").c_str()) == 0);
    const os::UniqueFd root(::open((folder / "inside").c_str(), O_RDONLY | O_DIRECTORY));

    REQUIRE(copy_to_host(root.get(), "/d", false, folder / "copy", false).has_value());
    CHECK(folder.read("copy/e/f") == "content");
    REQUIRE(copy_from_host(folder / "mine", false, root.get(), "/d", true, false).has_value());
    CHECK(folder.read("inside/d/mine") == "mine");
    // A link is a link, and resolved in the root.
    CHECK_FALSE(
        copy_from_host(folder / "mine", false, root.get(), "/out/new", false, false).has_value());
    REQUIRE(
        copy_from_host(folder / "mine", false, root.get(), "/up/new", false, false).has_value());
    CHECK(folder.read("inside/new") == "mine");
    REQUIRE(copy_to_host(root.get(), "/out", false, folder / "link", false).has_value());
    struct stat about {};
    REQUIRE(::lstat((folder / "link").c_str(), &about) == 0);
    CHECK(S_ISLNK(about.st_mode));
    CHECK_FALSE(
        copy_to_host(root.get(), "/out/secret", false, folder / "stolen", false).has_value());
    CHECK_FALSE(copy_to_host(root.get(), "/out", true, folder / "stolen", false).has_value());
    CHECK(folder.read("outside/secret") == "untouched");
}

TEST_CASE("cp replaces files of this machine, also behind a link, and neither devices nor pipes") {
    const ScratchFolder folder;
    for (const char* name : {"inside", "real"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    folder.write("inside/f", "fresh");
    folder.write("real/f", "stale");
    REQUIRE(::symlink("real/f", (folder / "link").c_str()) == 0);
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    const os::UniqueFd root(::open((folder / "inside").c_str(), O_RDONLY | O_DIRECTORY));
    CHECK_FALSE(copy_to_host(root.get(), "/f", false, folder / "pipe", false).has_value());
    struct stat about {};
    REQUIRE(::lstat((folder / "pipe").c_str(), &about) == 0);
    CHECK(S_ISFIFO(about.st_mode));
    REQUIRE(copy_to_host(root.get(), "/f", false, folder / "link", false).has_value());
    REQUIRE(::lstat((folder / "link").c_str(), &about) == 0);
    CHECK(S_ISLNK(about.st_mode));
    CHECK(folder.read("real/f") == "fresh");
}

TEST_CASE("an archive with a hard link to its own root is refused") {
    const ScratchFolder folder;
    REQUIRE(::mkdir((folder / "inside").c_str(), 0755) == 0);
    const os::UniqueFd root(::open((folder / "inside").c_str(), O_RDONLY | O_DIRECTORY));
    for (const char* target : {".", "/", "a/.."}) {
        folder.write("bad.tar", image::testing::ArchiveMaker().hard_link("new", target).finish());
        const os::UniqueFd from(::open((folder / "bad.tar").c_str(), O_RDONLY));
        const auto done = read_archive(from.get(), root.get(), "/");
        REQUIRE_FALSE(done.has_value());
        CHECK(done.error().message.find("a hard link") != std::string::npos);
    }
}

namespace {

std::string formatted(const std::string& text, const pod::Json& document) {
    const auto done = FormatTemplate::parse(text);
    const auto out = done ? done->apply(document) : base::Failure(done.error());
    return out ? *out : "failed: " + out.error().message;
}

const pod::Json& example() {
    static const pod::Json document = *pod::parse_object(R"({
        "Name": "/web", "State": {"Status": "running", "Pid": 7, "Paused": false}, "Args": ["a", "b"],
        "Config": {"Labels": {"org.x": "y"}, "Image": ""}, "Nothing": null, "Count": 3,
        "Ports": {"80/tcp": [{"HostPort": "8080"}], "90/udp": null}})",
                                                         "example");
    return document;
}

} // namespace

TEST_CASE("a format is a template as Docker's users write it") {
    const auto [text, out] = GENERATE(
        std::pair("{{.Name}} is {{ .State.Status }}!", "/web is running!"),
        std::pair("{{.Count}} {{.State.Paused}} {{.Args}} {{.Nothing}}",
                  "3 false [a b] <no value>"),
        std::pair("{{json .State}}", R"({"Paused":false,"Pid":7,"Status":"running"})"),
        std::pair("{{.Config.Labels}}", "map[org.x:y]"),
        std::pair(R"({{index .Config.Labels "org.x"}}{{index .Config.Labels "no"}})", "y"),
        std::pair("{{range .Args}}<{{.}}>{{end}}", "<a><b>"),
        std::pair("{{range $i, $one := .Args}}{{$i}}={{$one}} {{end}}", "0=a 1=b "),
        std::pair(
            R"({{range $p, $c := .Ports}}{{if $c}}{{$p}}->{{(index $c 0).HostPort}}{{else}}-{{end}}{{end}})",
            "80/tcp->8080-"),
        std::pair("{{with .State}}{{.Pid}} {{$.Name}}{{end}}", "7 /web"),
        std::pair(R"({{if eq .State.Status "running"}}yes{{else}}no{{end}})", "yes"),
        std::pair("{{if and .Name (not .State.Paused)}}yes{{end}}", "yes"),
        std::pair("{{if .Nothing}}a{{else if .Config.Image}}b{{else if .Args}}c{{else}}d{{end}}!",
                  "c!"),
        std::pair("{{if .Name}}a{{else if .Args}}b{{end}}!", "a!"),
        std::pair("{{if .Nothing}}a{{else if .Config.Image}}b{{else}}c{{end}}!", "c!"),
        std::pair("{{with .Nothing}}a{{else with .State}}{{.Pid}}{{end}}", "7"),
        std::pair("{{if and .Nothing .Nothing.More}}a{{end}}{{or .Name .Nonesuch}}", "/web"),
        std::pair(R"({{if eq .State.Status "paused" "running"}}yes{{end}})", "yes"),
        std::pair(R"({{join .Args ", "}} {{.Name | upper}} {{len .Args}})", "a, b /WEB 2"),
        std::pair("a {{- .Count -}} b{{/* nothing */}}", "a3b"),
        std::pair(R"({{.Count}}\t{{.Name}}\n)", "3\t/web\n"), std::pair("{{`}`}}", "}"));
    CHECK(formatted(text, example()) == out);
}

TEST_CASE("a format that is wrong is refused with the reason") {
    const auto [text, why] = GENERATE(
        std::pair("{{.Nonesuch}}", "there is no field Nonesuch"),
        std::pair("{{.Name.More}}", "there is no field More"),
        std::pair("{{.Name", "{{ is not closed"), std::pair("{{}}", "{{}} is empty"),
        std::pair("{{end}}", "{{end}} has no beginning"),
        std::pair("{{else if .Name}}", "{{else if .Name}} has no beginning"),
        std::pair("{{range .Args}}{{else if .Name}}{{end}}",
                  "{{else if .Name}} does not go with {{range}}"),
        std::pair("{{if .Name}}{{else}}{{else if .Name}}{{end}}", "{{if}} has no {{end}}"),
        std::pair("{{if .Name}}", "{{if}} has no {{end}}"),
        std::pair("{{nonesuch .Name}}", "there is no function nonesuch of 1 values"),
        std::pair("{{index .Args 2}}", "index 2: there is no such element"),
        std::pair("{{index .Args \"x\"}}", "index \"x\": there is no such element"),
        std::pair("{{(.Name}}", "')' is missing"), std::pair("{{.Name )}}", "unexpected )"),
        std::pair("{{\"x}}", "a quotation mark is not closed"),
        std::pair("{{$x}}", "there is no variable $x"),
        std::pair("{{.Name | .Count}}", "after '|' there must be a function"),
        std::pair("{{%}}", "unexpected '%'"), std::pair("{{range}}x{{end}}", "a value is missing"));
    CHECK(formatted(text, example()) == std::string("failed: --format: ") + why);
    std::string deep;
    for (int i = 0; i < 1000; ++i)
        deep += "{{if .Name}}";
    CHECK(formatted(deep, example()) == "failed: --format: too many actions within each other");
    CHECK(formatted("{{" + std::string(1000, '('), example()).starts_with("failed"));
    CHECK(formatted("{{" + std::string(1000, '(') + "}}", example()) ==
          "failed: --format: a value is missing");
}

TEST_CASE("a table of a template has a heading and columns") {
    const pod::Json row = {{"ID", "abc"}, {"Names", "a\ttab"}};
    const pod::Json heading = {{"ID", "CONTAINER ID"}, {"Names", "NAMES"}};
    const auto out = format_all("table {{.ID}}\\t{{.Names}}", {row}, heading);
    REQUIRE(out);
    CHECK(*out == "CONTAINER ID   NAMES\nabc            a       tab\n");
    CHECK(*format_all("{{.ID}}", {row, row}, heading) == "abc\nabc\n");
}

TEST_CASE("a label is asked for by its name, and is a column by the last word of that") {
    const pod::Json row = {{"ID", "abc"}, {"Label", {{"com.docker.swarm.cpu", "2"}, {"a", "b"}}}};
    const pod::Json heading = {{"ID", "CONTAINER ID"}, {"Label", ""}};
    CHECK(*format_all(R"({{.Label "a"}}/{{.Label "none"}}/{{.Label "a" | upper}})", {row},
                      heading) == "b//B\n");
    CHECK(*format_all(R"({{if .Label "a"}}yes{{end}}{{if (.Label "none")}}no{{end}})", {row},
                      heading) == "yes\n");
    CHECK(*format_all(R"(table {{.ID}}\t{{.Label "com.docker.swarm.cpu"}}\t{{.Label "x.my-key"}})",
                      {row}, heading) == "CONTAINER ID   cpu   my key\nabc            2\n");
    CHECK(format_all(R"({{.ID "a"}})", {row}, heading).error().message ==
          "--format: ID is no function of 1 values");
    CHECK(format_all(R"({{.Label "a" "b"}})", {row}, heading).error().message ==
          "--format: Label is no function of 2 values");
    CHECK(format_all(R"({{.Label 7}})", {row}, heading).error().message ==
          "--format: Label is no function of 1 values");
    CHECK_FALSE(format_all(R"({{.Nonesuch "a"}})", {row}, heading));
}

namespace {

image::Image image_of(char digit, std::vector<image::Reference> names) {
    const image::Digest id = *image::Digest::parse("sha256:" + std::string(64, digit));
    const image::Descriptor descriptor{"", id, 0, {}, {}};
    image::Image out{id, descriptor, {descriptor, {}}, {}, std::move(names), 7 << 20};
    out.config.created = "2024-01-01T00:00:00Z";
    return out;
}

image::ImageList images() {
    image::ImageList out;
    out.images = {image_of('a', {*image::Reference::parse("debian:12"),
                                 *image::Reference::parse("reg.io/x/y:z")}),
                  image_of('b', {})};
    return out;
}

std::string listed(const joey::ListStyle& style) {
    constexpr std::int64_t three_weeks_later = 1704067200 + 21 * 86400;
    const auto out = joey::describe_list(images(), style, three_weeks_later);
    return out ? *out : "failed: " + out.error().message;
}

joey::Outcome<joey::ImageOptions> list_options(const std::string& format) {
    const std::vector<std::string> words = {"ls", "--no-trunc", "--format", format};
    return joey::parse_image_options(words);
}

} // namespace

TEST_CASE("images by a template, as Docker's users list them") {
    CHECK(listed({.format = "{{.ID}}: {{.Repository}}"}) == "aaaaaaaaaaaa: debian\n"
                                                            "aaaaaaaaaaaa: reg.io/x/y\n"
                                                            "bbbbbbbbbbbb: <none>\n");
    CHECK(listed({.format = "table {{.ID}}\\t{{.Repository}}\\t{{.Tag}}", .only = "debian"}) ==
          "IMAGE ID       REPOSITORY   TAG\naaaaaaaaaaaa   debian       12\n");
    CHECK(listed({.format = "{{.CreatedSince}}, {{.Size}}", .only = "debian"}) ==
          "3 weeks ago, 7 MiB\n");
    CHECK(listed({.format = "{{.ID}}", .whole = true, .only = "debian"}) ==
          "sha256:" + std::string(64, 'a') + "\n");
    CHECK(listed({.format = "{{.Nonesuch}}"}) == "failed: --format: there is no field Nonesuch");
}

TEST_CASE("which formats joey image ls takes") {
    CHECK(list_options("{{.ID}}")->format == "{{.ID}}");
    CHECK(list_options("{{.ID}}")->whole);
    CHECK(list_options("table {{.ID}}")->format == "table {{.ID}}");
    CHECK(list_options("{{json .}}")->json);
    CHECK(list_options("json")->json);
    CHECK(list_options("table")->format.empty());
    CHECK_FALSE(list_options("yaml"));
    const std::vector<std::string> history = {"history", "--format", "{{.ID}}", "x"};
    CHECK_FALSE(joey::parse_image_options(history));
}
