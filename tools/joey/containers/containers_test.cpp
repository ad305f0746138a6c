// What people type and what is kept on disk: parsing and state.
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <catch2/catch.hpp>

#include "agent/os/files.hpp"
#include "tests/unit/comes.hpp"
#include "tools/image/importer.hpp"
#include "tools/image/tar.hpp"
#include "tools/image/testing/archive_maker.hpp"
#include "tools/joey/containers/audience.hpp"
#include "tools/joey/containers/changes.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/copy.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/people.hpp"
#include "tools/joey/containers/pod_network.hpp"
#include "tools/joey/containers/run_request.hpp"
#include "tools/joey/containers/security.hpp"
#include "tools/joey/containers/table.hpp"
#include "tools/joey/containers/variables.hpp"
#include "tools/joey/containers/watcher.hpp"
#include "tools/joey/control_characters.hpp"
#include "tools/joey/host.hpp"
#include "tools/joey/image_options.hpp"
#include "tools/joey/image_report.hpp"
#include "tools/joey/options.hpp"
#include "tools/joey/sizes.hpp"

using namespace joey::containers;
using image::testing::ScratchFolder;

namespace {

os::Result<Arguments> parse(const char* command, const std::vector<std::string>& words) {
    return Arguments::parse(*find_command(command), words);
}

// As main() has them. They are the words' own memory.
std::vector<char*> as_arguments(std::vector<std::string>& words) {
    std::vector<char*> out;
    for (std::string& word : words)
        out.push_back(word.data());
    return out;
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

TEST_CASE("options have Docker's other names and letters, and mean the same") {
    CHECK(parse("stop", {"--time", "3", "x"})->value("timeout") == "3");
    CHECK(parse("restart", {"--timeout=4", "x"})->value("timeout") == "4");
    CHECK(parse("stop", {"-t5", "x"})->value("timeout") == "5");
    CHECK(parse("run", {"--dns-opt", "a", "--dns-option", "b", "x"})->values("dns-option") ==
          std::vector<std::string>{"a", "b"});
    CHECK(parse("run", {"-c", "512", "x"})->value("cpu-shares") == "512");
    CHECK_FALSE(parse("run", {"--=x", "x"}).has_value());
}

TEST_CASE("files of variables and labels are read as Docker reads them") {
    ::setenv("JOEY_TEST_SET", "here", 1);
    ::unsetenv("JOEY_TEST_UNSET");
    const char* text = "\xef\xbb\xbf"
                       "A=1\r\n  B= 2 \n\n  # no\nJOEY_TEST_SET\nJOEY_TEST_UNSET\nC=";
    CHECK(*key_values(text, "file", true) ==
          std::vector<std::string>{"A=1", "B= 2 ", "JOEY_TEST_SET=here", "C="});
    CHECK(*key_values(text, "file", false) == std::vector<std::string>{"A=1", "B= 2 ", "C="});
    CHECK(key_values("=x", "file", true).error().message == "file: no variable name on line '=x'");
    CHECK(key_values("A=1\nB c=2", "file", true).error().message ==
          "file: variable 'B c' contains whitespaces");
    CHECK_FALSE(key_values(std::string_view("A=1\0B=2", 7), "file", true).has_value());
    // Of the command line, one that is not set stays, and takes the image's away.
    const ScratchFolder folder;
    folder.write("env", "X=file\n");
    const auto given = read_variables(*parse(
        "exec", {"--env-file", folder / "env", "-e", "JOEY_TEST_UNSET", "-eX=Y", "one", "true"}));
    CHECK(*given == std::vector<std::string>{"X=file", "JOEY_TEST_UNSET", "X=Y"});
    CHECK_FALSE(read_variables(*parse("run", {"-e", "=x", "i"})).has_value());
    CHECK_FALSE(read_labels(*parse("run", {"-l", "=x", "i"})).has_value());
    CHECK(read_labels(*parse("run", {"-l", "x", "-l", "y=z=", "i"}))->at("y") == "z=");
}

TEST_CASE("--add-host is a line of /etc/hosts, and never more than one") {
    CHECK(*line_for_hosts("db:10.0.0.1") == "10.0.0.1\tdb");
    CHECK(*line_for_hosts("db=::1") == "::1\tdb");
    CHECK(*line_for_hosts("db:[fe80::2]") == "fe80::2\tdb");
    for (const char* wrong : {"db", "db:", ":10.0.0.1", "db:10.0.0", "a\nb:10.0.0.1", "a b:::1",
                              "db:10.0.0.1\n10.0.0.2 evil", "db:[::1", "#:10.0.0.1"})
        CHECK_FALSE(line_for_hosts(wrong).has_value());
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

TEST_CASE("whose command it is: with options that an OCI runtime has not, it is for people") {
    const ScratchFolder folder;
    const auto is_ours = [](std::vector<std::string> words) {
        return is_command(as_arguments(words));
    };
    const std::string root = folder / "root";
    const std::string data = folder / "data";
    CHECK_FALSE(is_ours({"--root", root, "exec", "nobody", "true"}));
    CHECK(is_ours({"--root", root, "--data-root", data, "exec", "nobody", "true"}));
    CHECK(is_ours({"--store", data, "kill", "nobody"}));
    CHECK(is_ours({"--data-root=" + data, "update", "--memory", "much", "nobody"}));
    CHECK(is_ours({"container", "ls"}));
    CHECK(is_ours({"help", "exec"}));
    CHECK_FALSE(is_ours({"help"}));
    CHECK_FALSE(is_ours({"help", "image"}));
}

TEST_CASE("what is a command of Docker's alone is refused with what there is instead") {
    const auto why = [](std::vector<std::string> words) {
        return why_refused(as_arguments(words)).value_or("");
    };
    CHECK(why({"pull", "debian"}).find("'pull': there is no registry here") == 0);
    CHECK(why({"image", "build", "."}).find("'image build': images are not built here") == 0);
    CHECK(why({"--root", "/r", "network", "ls"}).find("'network': there are no networks") == 0);
    CHECK(why({"image", "context"}).empty());
    CHECK(why({"image", "ls"}).empty());
    CHECK(why({"do", "pull"}).empty());
}

TEST_CASE("what is no command says what may stand there") {
    const auto line_of = [](std::vector<std::string> words) {
        const auto parsed = joey::parse_command_line(as_arguments(words));
        return parsed ? std::string() : parsed.error().line;
    };
    CHECK(line_of({"--store", "/x", "image", "ls"}).find("unknown option '--store', or one that") ==
          0);
    CHECK(line_of({"container"}).find("joey container ls") != std::string::npos);
    CHECK(line_of({"system", "--help"}).find("joey system df") != std::string::npos);
    CHECK(line_of({"fly"}).find("unknown command 'fly'") == 0);
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
    one.health.start_interval_ns = 2'000'000'000;
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

TEST_CASE("a container's own volume stays as long as another has it by --volumes-from") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    REQUIRE(registry.add(one).has_value());
    const std::string place = registry.directory(one);
    for (const char* name : {"/volumes/0/d", "/layer/upper/d"})
        REQUIRE(pod::make_directories(place + name).has_value());
    Container other = a_container("other");
    REQUIRE(registry.add(other).has_value());
    other.mounts.push_back(
        pod::Json{{"Type", "bind"}, {"Name", ""}, {"Source", place + "/volumes/0"}, {"RW", true}});
    REQUIRE(registry.write_record(other, false).has_value());
    REQUIRE(registry.drop(one).has_value());
    CHECK_FALSE(registry.has("one"));
    CHECK(pod::exists(place + "/volumes/0/d"));
    CHECK_FALSE(pod::exists(place + "/layer"));
    Container third = a_container("third");
    REQUIRE(registry.add(third).has_value());
    CHECK(pod::exists(place + "/volumes/0/d"));
    REQUIRE(registry.drop(other).has_value());
    Container fourth = a_container("fourth");
    REQUIRE(registry.add(fourth).has_value());
    CHECK_FALSE(pod::exists(place));
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

TEST_CASE("a guest that says too much hides its container from nobody") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    REQUIRE(registry.add(one).has_value());
    // As long as an answer of the agent can be; in JSON, each of these is six characters.
    const std::string words(4U << 20, '\x01');
    Condition now = watched_here(Phase::Restarting);
    now.error = words;
    now.health.log = pod::Json::array({pod::Json{{"ExitCode", 1}, {"Output", words}}});
    registry.store(one, now);
    CHECK(registry.peek(one).phase == Phase::Restarting);
    CHECK(registry.peek(one).monitor.pid == ::getpid());
    CHECK(registry.peek(one).error.starts_with(words.substr(0, 1000)));
}

TEST_CASE("--cidfile is there if the container is, and never another's") {
    const ScratchFolder folder;
    REQUIRE(::mkdir((folder / "root").c_str(), 0755) == 0);
    const auto make = [&](const std::string& file) {
        Background create([&] {
            return command(folder, "create",
                           {"--name", "one", "--cidfile", folder / file, "--rootfs",
                            folder / "root", "/bin/true"});
        });
        return create.status();
    };
    CHECK(make("first") == 0);
    CHECK(folder.read("first") == registry_in(folder).find("one")->id);
    CHECK(make("second") == 1); // the name is taken
    CHECK_FALSE(pod::exists(folder / "second"));
    REQUIRE(registry_in(folder).drop(*registry_in(folder).find("one")).has_value());
    const std::string before = folder.read("first");
    CHECK(make("first") == 1); // the file is
    CHECK(folder.read("first") == before);
    CHECK_FALSE(registry_in(folder).has("one"));
}

TEST_CASE("inspect shows in Docker's words what was asked for, of volumes and images too") {
    const ScratchFolder folder;
    for (const char* name : {"root", "volumes", "volumes/vol"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    Background create([&] {
        return command(folder, "create",
                       {"--name",
                        "one",
                        "-e",
                        "A=b",
                        "--entrypoint",
                        "/bin/sh",
                        "-v",
                        "vol:/v:ro",
                        "--tmpfs",
                        "/t:size=1m",
                        "--expose",
                        "80",
                        "--cap-drop",
                        "CHOWN",
                        "--memory",
                        "64m",
                        "-c",
                        "512",
                        "--ulimit",
                        "nofile=5:-1",
                        "--restart",
                        "on-failure:3",
                        "--stop-signal",
                        "SIGUSR1",
                        "--health-cmd",
                        "true",
                        "-u",
                        "7:8",
                        "--privileged",
                        "--rootfs",
                        folder / "root",
                        "--",
                        "-c",
                        "true"});
    });
    REQUIRE(create.status() == 0);
    const auto shown = [&](const std::string& format) {
        Background asked([&] { return command(folder, "inspect", {"-f", format, "one"}); });
        return asked.status() == 0 ? asked.said() : "failed";
    };
    CHECK(shown("{{.Config.Entrypoint}} {{.Config.Cmd}} {{.Config.User}}") ==
          "[/bin/sh] [-c true] 7:8\n");
    CHECK(shown("{{.Path}} {{.Args}}") == "/bin/sh [-c true]\n");
    CHECK(shown("{{json .Config.ExposedPorts}} {{.Config.StopSignal}}") ==
          "{\"80/tcp\":{}} SIGUSR1\n");
    CHECK(shown("{{json .Config.Healthcheck.Test}}") == "[\"CMD-SHELL\",\"true\"]\n");
    CHECK(shown("{{.HostConfig.Binds}} {{.HostConfig.Tmpfs}}") == "[vol:/v:ro] map[/t:size=1m]\n");
    CHECK(shown("{{.HostConfig.Memory}} {{.HostConfig.CpuShares}} {{.HostConfig.Privileged}}") ==
          "67108864 512 true\n");
    CHECK(shown("{{json .HostConfig.Ulimits}}") ==
          "[{\"Hard\":-1,\"Name\":\"nofile\",\"Soft\":5}]\n");
    CHECK(shown("{{.HostConfig.RestartPolicy.Name}}") == "on-failure\n");
    CHECK(shown("{{json .HostConfig.PortBindings}} {{json .HostConfig.CapAdd}}") == "{} null\n");
    CHECK(shown("{{.NetworkSettings.IPAddress}}"
                "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}") == "\n");
    const auto of = [&](const std::vector<std::string>& words) {
        Background asked([&] { return command(folder, "inspect", words); });
        return asked.status() == 0 ? asked.said() : "failed";
    };
    CHECK(of({"-f", "{{.Mountpoint}}", "vol"}) == folder / "volumes/vol" + "\n");
    CHECK(of({"-s", "-f", "{{.SizeRw}}", "one"}) == "0\n");
    CHECK(of({"--type", "image", "one"}) == "failed");
    CHECK(of({"--type", "volume", "one"}) == "failed");
    CHECK(of({"--type", "odd", "one"}) == "failed");
    CHECK(of({"nobody"}) == "failed");
}

TEST_CASE("commit makes an image of what a container has changed, with what it was made with") {
    const ScratchFolder folder;
    image::testing::ArchiveMaker root;
    root.directory("etc").file("etc/gone", "1").file("etc/stays", "2").file("old/file", "3");
    folder.write("root.tar", root.finish());
    const auto store = image::Store::open(folder / "store");
    REQUIRE(store.has_value());
    image::ImportOptions options;
    options.input = folder / "root.tar";
    options.names = {"base:1"};
    REQUIRE(image::import(*store, options).has_value());
    const auto base = store->find("base:1");
    REQUIRE(base.has_value());
    // As an overlay leaves it.
    for (const char* name : {"layer", "layer/upper", "layer/upper/etc", "layer/upper/new"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    REQUIRE(::mknod((folder / "layer/upper/etc/gone").c_str(), S_IFCHR, 0) == 0);
    folder.write("layer/upper/new/file", "new");
    folder.write("layer/upper/etc/hosts", "of joey");
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.image_id = base->id.text();
    one.store = folder / "store";
    one.lower = store->use(*base)->path;
    one.layer = folder / "layer";
    one.labels = {{"a", "b"}};
    one.command = {"/bin/sh", "-c", "work"};
    one.config = {{"Cmd", {"-c", "work"}},
                  {"Entrypoint", {"/bin/sh"}},
                  {"Env", {"X=1"}},
                  {"WorkingDir", "/w"},
                  {"AttachStdin", true}};
    REQUIRE(registry.add(one).has_value());
    const auto commit = [&](const std::vector<std::string>& words) {
        Background asked([&] { return command(folder, "commit", words); });
        return asked.status() == 0 ? asked.said() : "failed";
    };
    const std::string said = commit({"-m", "message", "-a", "me", "-c", "ENV Y=2 X=3", "--change",
                                     R"(CMD ["run"])", "one", "made:2"});
    const auto made = store->find("made:2");
    REQUIRE(made.has_value());
    CHECK(said == made->id.text() + "\n");
    CHECK(made->manifest.layers.size() == 2);
    CHECK(made->config.command == std::vector<std::string>{"run"});
    CHECK(made->config.entrypoint == std::vector<std::string>{"/bin/sh"});
    CHECK(made->config.env == std::vector<std::string>{"X=3", "Y=2"});
    CHECK(made->config.working_directory == "/w");
    CHECK(made->config.labels.at("a") == "b");
    CHECK(made->config.author == "me");
    const auto tree = store->use(*made);
    REQUIRE(tree.has_value());
    CHECK(pod::exists(tree->path + "/new/file"));
    CHECK(pod::exists(tree->path + "/etc/stays"));
    CHECK(pod::exists(tree->path + "/old/file"));
    CHECK_FALSE(pod::exists(tree->path + "/etc/gone"));
    CHECK_FALSE(pod::exists(tree->path + "/etc/hosts"));
    // A second of the same container, without a name; and what is refused before anything is done.
    CHECK(commit({"one"}).starts_with("sha256:"));
    CHECK(commit({"-c", "RUN x", "one"}) == "failed");
    CHECK(commit({"one", "NOT/A/name:"}) == "failed");
    CHECK(commit({"nobody"}) == "failed");
    CHECK(store->list()->images.size() == 3);
}

namespace {

// A container whose overlay is made of two directories of the folder, "lower" and "layer/upper".
Container overlaid(const ScratchFolder& folder) {
    for (const char* name : {"lower", "layer", "layer/upper"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    Container out = a_container("one");
    out.image_id = "sha256:" + std::string(64, 'a');
    out.lower = folder / "lower";
    out.layer = folder / "layer";
    return out;
}

std::vector<std::string> changes_in(const Container& container) {
    const auto changes = changes_of(container);
    REQUIRE(changes.has_value());
    std::vector<std::string> out;
    for (const Change& one : changes->all)
        out.push_back(std::string(1, one.kind) + " " + one.path);
    return out;
}

} // namespace

TEST_CASE("what was removed with its directory is gone, also below the one made in its place") {
    const ScratchFolder folder;
    const Container one = overlaid(folder);
    for (const char* name : {"lower/old", "lower/old/sub", "lower/kept", "layer/upper/old",
                             "layer/upper/old/sub", "layer/upper/kept"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    folder.write("lower/old/secret", "1");
    folder.write("lower/old/sub/secret", "2");
    folder.write("lower/kept/file", "3");
    folder.write("layer/upper/old/sub/new", "4");
    // Only who may mount an overlay may set it; overlayfs sets it for the outermost one alone.
    if (::setxattr((folder / "layer/upper/old").c_str(), "trusted.overlay.opaque", "y", 1, 0) != 0)
        return;
    CHECK(changes_in(one) == std::vector<std::string>{"C /kept", "C /old", "D /old/secret",
                                                      "C /old/sub", "A /old/sub/new",
                                                      "D /old/sub/secret"});
}

TEST_CASE("a directory in the place of a link is not compared with where the link led") {
    const ScratchFolder folder;
    const Container one = overlaid(folder);
    for (const char* name :
         {"lower/usr", "lower/usr/lib", "layer/upper/way", "layer/upper/way/lib"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    REQUIRE(::symlink("usr", (folder / "lower/way").c_str()) == 0);
    folder.write("lower/usr/lib/file", "1");
    folder.write("layer/upper/way/lib/file", "2");
    CHECK(changes_in(one) == std::vector<std::string>{"C /way", "A /way/lib", "A /way/lib/file"});
}

TEST_CASE("a layer has the data of a file of which only the mode was changed") {
    const ScratchFolder folder;
    const Container one = overlaid(folder);
    folder.write("lower/file", "data of the image");
    folder.write("layer/upper/file", std::string(17, '\0'));
    // Only who may mount an overlay may set it.
    const std::string file = folder / "layer/upper/file";
    if (::setxattr(file.c_str(), "trusted.overlay.metacopy", "", 0, 0) != 0)
        return;
    const auto changes = changes_of(one);
    REQUIRE(changes.has_value());
    const auto layer = [&] {
        const os::UniqueFd to(
            ::open((folder / "layer.tar").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
        return write_layer(*changes, to.get()).has_value();
    };
    CHECK(layer());
    CHECK(folder.read("layer.tar").find("data of the image") != std::string::npos);
    // Renamed, it is another file's data.
    REQUIRE(::setxattr(file.c_str(), "trusted.overlay.redirect", "/other", 6, 0) == 0);
    CHECK_FALSE(layer());
}

TEST_CASE("a file that has two names is in a layer once, and has two names there") {
    const ScratchFolder folder;
    const Container one = overlaid(folder);
    const std::string data(200'000, 'x');
    folder.write("layer/upper/first", data);
    REQUIRE(::link((folder / "layer/upper/first").c_str(),
                   (folder / "layer/upper/second").c_str()) == 0);
    const auto changes = changes_of(one);
    REQUIRE(changes.has_value());
    {
        const os::UniqueFd to(::open((folder / "layer.tar").c_str(), O_WRONLY | O_CREAT, 0600));
        REQUIRE(write_layer(*changes, to.get()).has_value());
    }
    CHECK(folder.read("layer.tar").size() < 2 * data.size());
    const os::UniqueFd from(::open((folder / "layer.tar").c_str(), O_RDONLY));
    image::FileSource source(os::UniqueFd(::dup(from.get())), "layer");
    const image::Limits limits;
    const auto tar = image::TarReader::open(source, "layer", limits);
    REQUIRE(tar.has_value());
    std::vector<std::string> links;
    while (const auto entry = *(*tar)->next()) {
        if (entry->kind == image::TarEntry::Kind::HardLink)
            links.push_back(entry->path.text() + " is " + entry->link_target.text());
    }
    CHECK(links == std::vector<std::string>{"second is first"});
}

TEST_CASE("instructions of a Dockerfile change the configuration of an image") {
    const auto changed = [](std::vector<std::string> lines,
                            pod::Json config = pod::Json::object()) {
        const auto done = apply_instructions(lines, config);
        return done ? config.dump() : "failed: " + done.error().message;
    };
    CHECK(changed({"cmd echo a"}) == R"({"Cmd":["/bin/sh","-c","echo a"]})");
    CHECK(changed({R"(ENTRYPOINT ["/x", "y z"])"}) == R"({"Entrypoint":["/x","y z"]})");
    CHECK(changed({R"(ENV A="b c" D=e\ f)", "ENV G h i"}, {{"Env", {"A=0"}}}) ==
          R"({"Env":["A=b c","D=e f","G=h i"]})");
    const pod::Json before = {{"Cmd", {"old", "arguments"}}, {"Env", {"PATH=/bin:/usr/bin"}}};
    CHECK(changed({R"(ENTRYPOINT ["/x"])"}, before) ==
          R"({"Entrypoint":["/x"],"Env":["PATH=/bin:/usr/bin"]})");
    CHECK(changed({"CMD [\"a\"]", "ENTRYPOINT [\"/x\"]"}, before) ==
          R"({"Cmd":["a"],"Entrypoint":["/x"],"Env":["PATH=/bin:/usr/bin"]})");
    CHECK(changed({"ENV PATH=/opt:$PATH A=${PATH:-b}\\$X B='$PATH' C=${NO:-c} D=${PATH:+e}${NO}"},
                  {{"Env", {"PATH=/bin"}}}) ==
          R"({"Env":["PATH=/opt:/bin","A=/bin$X","B=$PATH","C=c","D=e"]})");
    CHECK(
        changed({"ENV G $PATH h", "WORKDIR ${G}x", "USER \"$NO\"", "CMD $PATH $ ${"},
                {{"Env", {"PATH=/bin"}}}) ==
        R"({"Cmd":["/bin/sh","-c","$PATH $ ${"],"Env":["PATH=/bin","G=/bin h"],"User":"","WorkingDir":"/bin hx"})");
    CHECK(changed({"LABEL a=b 'c d'=e"}) == R"({"Labels":{"a":"b","c d":"e"}})");
    CHECK(changed({"EXPOSE 80 53/udp"}) == R"({"ExposedPorts":{"53/udp":{},"80/tcp":{}}})");
    CHECK(changed({R"(VOLUME ["/a"])", "VOLUME /b /c"}, {{"Volumes", nullptr}}) ==
          R"({"Volumes":{"/a":{},"/b":{},"/c":{}}})");
    CHECK(changed({"USER web", "WORKDIR /a", "WORKDIR b", "STOPSIGNAL SIGINT"}) ==
          R"({"StopSignal":"SIGINT","User":"web","WorkingDir":"/a/b"})");
    for (const char* wrong :
         {"", "CMD", "RUN x", "ENV A", "ENV =b", "LABEL a=b c", "STOPSIGNAL odd"})
        CHECK(changed({wrong}).starts_with("failed: --change "));
}

TEST_CASE("volumes: labels, filters, templates; prune takes what nobody has named, unless told") {
    const ScratchFolder folder;
    const auto said = [&](const char* name, const std::vector<std::string>& words) {
        Background asked([&] { return command(folder, name, words); });
        return asked.status() == 0 ? asked.said() : "failed";
    };
    CHECK(said("volume-create", {"--label", "a=b", "--label", "c", "one"}) == "one\n");
    CHECK(said("volume-create", {"-d", "local", "--name", "two"}) == "two\n");
    CHECK(said("volume-create", {"--label", "a=other", "one"}) == "one\n"); // stays as it is
    const std::string nameless = said("volume-create", {});
    CHECK(nameless.size() == 65);
    for (const std::vector<std::string>& wrong : {std::vector<std::string>{"--name", "x1", "y1"},
                                                  {"-d", "nfs", "x1"},
                                                  {"../x"},
                                                  {"-o", "a=b", "x1"}})
        CHECK(said("volume-create", wrong) == "failed");
    CHECK(said("volume-ls", {"-q", "-f", "label=a=b"}) == "one\n");
    CHECK(said("volume-ls", {"-q", "-f", "label=c"}) == "one\n");
    CHECK(said("volume-ls", {"-q", "-f", "name=w"}) == "two\n");
    CHECK(said("volume-ls", {"-f", "name=one", "--format", "{{.Labels}}|{{.Label \"a\"}}"}) ==
          "a=b,c=|b\n");
    CHECK(said("volume-ls", {"--filter", "odd=x"}) == "failed");
    CHECK(said("volume-ls", {"--filter", "dangling=maybe"}) == "failed");
    CHECK(said("volume-inspect", {"-f", "{{.Labels.a}} {{.Mountpoint}}", "one"}) ==
          "b " + folder / "volumes/one" + "\n");
    CHECK(said("volume-inspect", {"nobody"}) == "failed");
    Registry registry = registry_in(folder);
    Container user = a_container("user");
    user.mounts.push_back(pod::Json{{"Type", "volume"}, {"Name", "two"}});
    REQUIRE(registry.add(user).has_value());
    CHECK(said("volume-ls", {"-q", "-f", "dangling=false"}) == "two\n");
    CHECK(said("volume-rm", {"two"}) == "failed");
    CHECK(said("volume-prune", {"-f"}).starts_with("Deleted Volumes:\n" + nameless));
    CHECK(said("volume-ls", {"-q"}) == "one\ntwo\n");
    CHECK(said("volume-prune", {"-af"}).starts_with("Deleted Volumes:\none\n"));
    CHECK(said("volume-ls", {"-q"}) == "two\n");
    // Of what was removed, nothing is known any more.
    CHECK(said("volume-create", {"one"}) == "one\n");
    CHECK(said("volume-ls", {"-q", "-f", "label=a"}).empty());
    CHECK(said("volume-rm", {"-f", "nobody", "one"}) == "nobody\none\n");
}

TEST_CASE("inspect shows the address that its last start has given a container") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.hostname = "box";
    REQUIRE(registry.add(one).has_value());
    const std::string directory = registry.directory(one);
    std::ofstream(directory + "/config.json") << R"({"process": {}, "root": {}})";
    std::ofstream(directory + "/hosts")
        << "127.0.0.1\tlocalhost\n10.0.2.15\tbox\nfd6a::15\tbox\n10.1.1.1\tnot-box\n";
    const auto address = [&] {
        Background asked([&] {
            return command(folder, "inspect",
                           {"-f",
                            "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}"
                            "{{end}}",
                            "one"});
        });
        CHECK(asked.status() == 0);
        return asked.said();
    };
    CHECK(address() == " \n");
    registry.store(one, watched_here(Phase::Running));
    CHECK(address() == "10.0.2.15 10.0.2.2\n");
}

TEST_CASE("version and info take templates") {
    const ScratchFolder folder;
    const auto said = [&](const char* name, const char* format) {
        Background asked([&] { return command(folder, name, {"--format", format}); });
        CHECK(asked.status() == 0);
        return asked.said();
    };
    CHECK(said("version", "{{.Client.Os}}/{{.Server.Arch}}") == "linux/amd64\n");
    CHECK(said("info", "{{.OSType}} {{.Containers}}") == "linux 0\n");
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

TEST_CASE("a volume is not removed while a container is made that has it") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    REQUIRE(command(folder, "volume-create", {"data"}) == 0);
    std::optional<pod::Lock> held(*pod::Lock::share(registry.volumes_lock()));
    Background removal([&] {
        held.reset(); // its copy alone
        return command(folder, "volume-rm", {"data"});
    });
    CHECK(comes([&] { return waits_for_lock(removal.pid()); }));
    Container one = a_container("one");
    one.mounts.push_back(pod::Json{{"Type", "volume"}, {"Name", "data"}});
    REQUIRE(registry.add(one).has_value());
    held.reset();
    CHECK(removal.status() == 1);
    CHECK(pod::exists(registry.volumes() + "/data"));
}

TEST_CASE("prune --filter: labels that are asked for and not wanted, and an age") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    for (const char* name : {"old", "new", "kept"}) {
        Container one = a_container(name);
        one.created = std::string(name) == "new" ? pod::timestamp() : "2020-01-01T00:00:00Z";
        one.labels = {{"for", name}};
        REQUIRE(registry.add(one).has_value());
    }
    CHECK(command(folder, "prune",
                  {"--force", "--filter", "until=24h", "--filter", "label!=for=kept"}) == 0);
    CHECK_FALSE(registry.has("old"));
    CHECK(registry.has("new"));
    CHECK(registry.has("kept"));
    CHECK(command(folder, "prune", {"--force", "--filter", "until=soon"}) == 1);
    CHECK(command(folder, "prune", {"--force", "--filter", "age=1"}) == 1);
    REQUIRE(command(folder, "volume-create", {"--label", "a=b", "one"}) == 0);
    REQUIRE(command(folder, "volume-create", {"two"}) == 0);
    CHECK(command(folder, "volume-prune",
                  {"--force", "--filter", "all=true", "--filter", "label=a=b"}) == 0);
    CHECK_FALSE(pod::exists(registry.volumes() + "/one"));
    CHECK(pod::exists(registry.volumes() + "/two"));
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

TEST_CASE("cp of a directory has what is mounted in it, and -L leads into volumes") {
    const ScratchFolder folder;
    for (const char* name : {"root", "root/srv", "root/srv/data", "root/srv/mem", "volume",
                             "volume/deep", "other", "to"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    folder.write("root/srv/own", "own");
    folder.write("root/srv/data/covered", "covered");
    folder.write("root/srv/mem/under", "under");
    folder.write("volume/file", "of the volume");
    folder.write("other/inner", "inner");
    folder.write("single", "a file");
    REQUIRE(::symlink("srv/data/file", (folder / "root/link").c_str()) == 0);
    REQUIRE(::symlink("/etc/passwd", (folder / "root/out").c_str()) == 0);
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.root = folder / "root";
    const auto mount = [&](const char* type, const std::string& source, const char* target) {
        one.mounts.push_back(pod::Json{{"Type", type},
                                       {"Source", source.empty() ? source : folder / source},
                                       {"Destination", target},
                                       {"RW", true}});
    };
    mount("bind", "volume", "/srv/data");
    mount("bind", "other", "/srv/data/deep");
    mount("bind", "single", "/srv/single"); // its place was never made
    mount("tmpfs", "", "/srv/mem");
    REQUIRE(registry.add(one).has_value());
    const auto copy = [&](const std::vector<std::string>& words) {
        return Background([&] { return command(folder, "cp", words); }).status();
    };
    CHECK(copy({"one:/srv", folder / "to"}) == 0);
    CHECK(folder.read("to/srv/own") == "own");
    CHECK(folder.read("to/srv/data/file") == "of the volume");
    CHECK(folder.read("to/srv/data/deep/inner") == "inner");
    CHECK(folder.read("to/srv/single") == "a file");
    CHECK(folder.read("to/srv/mem/under") == "under");
    CHECK_FALSE(pod::exists(folder / "to/srv/data/covered"));
    // Of the volume itself, what is in that.
    CHECK(copy({"one:/srv/data/.", folder / "flat"}) == 0);
    CHECK(folder.read("flat/deep/inner") == "inner");
    CHECK(copy({"-L", "one:/link", folder / "to"}) == 0);
    CHECK(folder.read("to/link") == "of the volume");
    CHECK(copy({"-L", "one:/out", folder / "to"}) == 1); // in the container, there is none
    CHECK(copy({"-q", "one:/link", folder / "as-link"}) == 0);
    struct stat about {};
    REQUIRE(::lstat((folder / "as-link").c_str(), &about) == 0);
    CHECK(S_ISLNK(about.st_mode));
    // An export has no volumes.
    Background exported([&] {
        return command(folder, "export", {"-o", folder / "out.tar", "one"});
    });
    CHECK(exported.status() == 0);
    CHECK(folder.read("out.tar").find("covered") != std::string::npos);
    CHECK(folder.read("out.tar").find("inner") == std::string::npos);
}

TEST_CASE("what is copied into a container goes to what is mounted there, as its programs see it") {
    const ScratchFolder folder;
    for (const char* name : {"root", "root/srv", "root/srv/data", "volume", "fixed", "from",
                             "from/data", "from/data/deep", "bad", "bad/fixed"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    folder.write("from/own", "own");
    folder.write("from/data/file", "1");
    folder.write("from/data/deep/file", "2");
    folder.write("bad/fixed/file", "3");
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.root = folder / "root";
    const auto mount = [&](const std::string& source, const char* target, bool writable) {
        one.mounts.push_back(pod::Json{{"Type", "bind"},
                                       {"Source", folder / source},
                                       {"Destination", target},
                                       {"RW", writable}});
    };
    mount("volume", "/srv/data", true);
    mount("fixed", "/srv/fixed", false);
    REQUIRE(registry.add(one).has_value());
    const auto copy = [&](const std::vector<std::string>& words) {
        return Background([&] { return command(folder, "cp", words); }).status();
    };
    CHECK(copy({folder / "from/.", "one:/srv"}) == 0);
    CHECK(folder.read("root/srv/own") == "own");
    CHECK(folder.read("volume/file") == "1");
    CHECK(folder.read("volume/deep/file") == "2");
    CHECK_FALSE(pod::exists(folder / "root/srv/data/file"));
    CHECK(copy({folder / "bad/.", "one:/srv"}) == 1);
    CHECK_FALSE(pod::exists(folder / "fixed/file"));
    CHECK(copy({folder / "from/own", "one:/srv/fixed"}) == 1);
    // The same from an archive, which has owners.
    if (::geteuid() != 0)
        return;
    const auto archived = [&](image::testing::ArchiveMaker& maker) {
        folder.write("in.tar", maker.finish());
        return Background([&] {
                   const os::UniqueFd from(::open((folder / "in.tar").c_str(), O_RDONLY));
                   ::dup2(from.get(), STDIN_FILENO);
                   return command(folder, "cp", {"-", "one:/"});
               })
            .status();
    };
    image::testing::ArchiveMaker good;
    good.directory("srv").directory("srv/data").file("srv/data/more", "4");
    CHECK(archived(good) == 0);
    CHECK(folder.read("volume/more") == "4");
    image::testing::ArchiveMaker bad;
    bad.file("srv/fixed/more", "5");
    CHECK(archived(bad) == 1);
    CHECK_FALSE(pod::exists(folder / "fixed/more"));
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

TEST_CASE("restart: a container that its monitor may yet remove is not started before") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.remove = true;
    REQUIRE(registry.add(one).has_value());
    // Leaves its pod, for instance, and then looks whether the container is kept.
    Background monitor([&] {
        if (!comes([&] { return registry.is_kept(one); }))
            return 1;
        constexpr unsigned while_it_leaves = 300'000; // microseconds
        ::usleep(while_it_leaves);
        const bool kept = registry.is_kept(one);
        static_cast<void>(registry.drop(one).has_value());
        return kept ? 0 : 1;
    });
    Condition ended = watched_here(Phase::Exited);
    ended.monitor = *pod::ProcessId::of(monitor.pid());
    registry.store(one, ended);
    Background again([&] { return command(folder, "restart", {"one"}); });
    CHECK(again.status() == 1);
    CHECK(monitor.status() == 0);
}

TEST_CASE("kill: what ends a container ends it for good, another signal does not") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    Container one = a_container("one");
    one.stop_signal = SIGQUIT;
    REQUIRE(registry.add(one).has_value());
    Background monitor([] {
        std::signal(SIGUSR1, SIG_IGN);
        return ::pause();
    });
    REQUIRE(comes([&] { return is_asleep(monitor.pid()); }));
    Condition running = watched_here(Phase::Running);
    running.monitor = *pod::ProcessId::of(monitor.pid());
    registry.store(one, running);
    // None of them arrives: there is no VM.
    const auto stopped_by = [&](const char* signal) {
        registry.set_stopped(one, false);
        Background kill([&] { return command(folder, "kill", {"-s", signal, "one"}); });
        CHECK(kill.status() == 1);
        return registry.is_stopped(one);
    };
    CHECK_FALSE(stopped_by("HUP"));
    CHECK_FALSE(stopped_by("TERM"));
    CHECK(stopped_by("QUIT"));
    CHECK(stopped_by("KILL"));
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

TEST_CASE("ps: filters, columns and sizes that Docker's users ask for") {
    const ScratchFolder folder;
    Registry registry = registry_in(folder);
    for (const char* name : {"upper", "upper/data"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    folder.write("upper/data/file", std::string(100'000, 'x'));
    Container one = a_container("one");
    one.image = "box:1";
    one.image_id = "sha256:" + std::string(64, 'a');
    one.lower = folder / "lower";
    one.layer = folder.path();
    one.published = {"0.0.0.0:8080->80/tcp", "[::]:53->53/udp"};
    one.exposed = {"443/tcp"};
    one.mounts = {pod::Json{{"Type", "volume"}, {"Name", "a-rather-long-name"}, {"Source", "/x"}},
                  pod::Json{{"Type", "bind"}, {"Name", ""}, {"Source", "/srv"}}};
    Container two = a_container("two");
    two.created = "2024-05-01T11:00:00Z";
    two.network = "none";
    REQUIRE(registry.add(one).has_value());
    REQUIRE(registry.add(two).has_value());
    const auto shown = [&](std::vector<std::string> words) {
        words.insert(words.begin(), "-a");
        Background listing([&] {
            ::setenv("TZ", "UTC", 1);
            return command(folder, "ps", words);
        });
        return listing.status() == 0 ? listing.said() : "failed";
    };
    const auto found = [&](const std::string& filter) {
        return shown({"-f", filter, "--format", "{{.Names}}"});
    };
    CHECK(found("before=two") == "one\n");
    CHECK(found("since=one") == "two\n");
    CHECK(found("publish=8080") == "one\n");
    CHECK(found("publish=8000-8100/tcp") == "one\n");
    CHECK(found("publish=80").empty());
    CHECK(found("publish=53").empty());
    CHECK(found("publish=53/udp") == "one\n");
    CHECK(found("expose=80") == "one\n");
    CHECK(found("expose=443/tcp") == "one\n");
    CHECK(found("network=none") == "two\n");
    CHECK(found("network=bridge") == "one\n");
    CHECK(found("ancestor=aaaaaaaaaaaa") == "one\n");
    CHECK(found("ancestor=sha256:aaaa") == "one\n");
    CHECK(found("ancestor=bbbb").empty());
    CHECK(found("status=created") == "two\none\n");
    // Also where there is nothing that they could be asked of.
    for (const char* wrong :
         {"status=odd", "bogus=1", "name", "publish=0", "publish=1-", "since=three"})
        CHECK(found(wrong) == "failed");
    CHECK(shown({"-f", "name=one", "--format", "{{.LocalVolumes}}|{{.Mounts}}|{{.CreatedAt}}"}) ==
          "1|a-rather-long-\u2026,/srv|2024-05-01 10:00:00 +0000 UTC\n");
    CHECK(shown({"-f", "name=one", "--no-trunc", "--format", "{{.Mounts}}"}) ==
          "a-rather-long-name,/srv\n");
    CHECK(shown({"-f", "name=two", "--format", "{{.Size}}"}) == "0 B\n");
    const std::string size = shown({"-f", "name=one", "--format", "{{.Size}}"});
    CHECK(size.find(" KiB (virtual ") != std::string::npos);
    CHECK(shown({"-s"}).find(" SIZE\n") != std::string::npos);
    CHECK(shown({}).find("SIZE") == std::string::npos);
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

TEST_CASE("sizes are taken as Docker and runc take them") {
    using joey::parse_size;
    for (const char* text : {"67108864", "67108864b", "64m", "64M", "64mb", "64MiB", "0.0625g"})
        CHECK(parse_size(text) == 64U << 20);
    CHECK(parse_size("1.5k") == 1536);
    CHECK(parse_size(".5k") == 512);
    CHECK(parse_size("0") == 0);
    CHECK(parse_size("1p") == std::uint64_t{1} << 50);
    CHECK(parse_size("18446744073709551615") == UINT64_MAX);
    for (const char* wrong : {"", "m", ".", ".m", "1x", "1mi", "1bb", "1mbb", "1ib", "-1", "1 m",
                              "18446744073709551616", "17179869184g", "1.m5"})
        CHECK_FALSE(parse_size(wrong).has_value());
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

TEST_CASE("filters, numbers and times that mean nothing are refused, whatever there is to list") {
    const ScratchFolder folder;
    const auto refusal = [&](const char* name, const std::vector<std::string>& words) {
        Session session{registry_in(folder), folder / "store"};
        const auto status = find_command(name)->run(session, *parse(name, words));
        return status ? std::string() : status.error().message;
    };
    CHECK(refusal("ps", {"--last", "many"}).find("--last many: give") == 0);
    const auto events = refusal("events", {"--filter", "name=web", "--until", "1s"});
    CHECK(events.find("events: --filter name=web: give event") == 0);
    CHECK(refusal("events", {"--since", "soon"}).find("--since soon: give a date") == 0);
}

TEST_CASE("a volume that was created first begins with what the image has, and with its mode") {
    const ScratchFolder folder;
    for (const char* name : {"base", "base/data", "data"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    REQUIRE(::chmod((folder / "base/data").c_str(), 01777) == 0);
    folder.write("base/data/seed", "seed");
    const auto mode = [&] {
        struct stat about {};
        return ::stat((folder / "volumes/early").c_str(), &about) == 0 ? about.st_mode & 07777 : 0;
    };
    Background create([&] { return command(folder, "volume-create", {"early"}); });
    REQUIRE(create.status() == 0);
    CHECK(mode() == 0755);
    const auto place = [&] {
        const Session session{registry_in(folder), {}};
        RunRequest request;
        request.base.directory = os::UniqueFd(::open((folder / "base").c_str(), O_RDONLY));
        Volume volume;
        volume.kind = Volume::Kind::Named;
        volume.source = "early";
        volume.target = "/data";
        request.volumes.push_back(volume);
        return place_volumes(session, request, folder / "data").has_value();
    };
    REQUIRE(place());
    CHECK(folder.read("volumes/early/seed") == "seed");
    CHECK(mode() == 01777);
    // What somebody has written stays.
    folder.write("volumes/early/seed", "mine");
    REQUIRE(place());
    CHECK(folder.read("volumes/early/seed") == "mine");
}

// Plays a container that has the volume mounted: when the first file comes, links to a file of the
// machine are in the place of all that are still to come.
int plant_links(const std::string& volume, const std::string& to, int files) {
    const auto name = [&](int number) { return os::text(volume, "/", number); };
    for (bool begun = false; !begun;) {
        for (int i = 0; i < files; ++i)
            begun = begun || pod::exists(name(i));
    }
    for (int i = 0; i < files; ++i)
        static_cast<void>(::symlink(to.c_str(), name(i).c_str()));
    return 0;
}

TEST_CASE("a container that has a volume cannot lead the copy of an image's files out of it") {
    const ScratchFolder folder;
    constexpr int files = 64;
    for (const char* name : {"base", "base/data", "data", "volumes", "volumes/shared"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    for (int i = 0; i < files; ++i)
        folder.write(os::text("base/data/", i), std::string(1 << 20, 'x'));
    folder.write("victim", "untouched");
    Background container(
        [&] { return plant_links(folder / "volumes/shared", folder / "victim", files); });
    const Session session{registry_in(folder), {}};
    RunRequest request;
    request.base.directory = os::UniqueFd(::open((folder / "base").c_str(), O_RDONLY));
    Volume volume;
    volume.kind = Volume::Kind::Named;
    volume.source = "shared";
    volume.target = "/data";
    request.volumes.push_back(volume);
    // It may fail: a link can come between the removal of another and the file.
    static_cast<void>(place_volumes(session, request, folder / "data").has_value());
    CHECK(container.status() == 0);
    CHECK(folder.read("victim") == "untouched");
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
    CHECK(parse_exposed("53/udp")->front().protocol == "udp");
    for (const char* wrong : {"x", "1:2", "0"}) {
        const auto refused = parse_exposed(wrong);
        REQUIRE_FALSE(refused.has_value());
        CHECK(refused.error().message.find("--expose ") == 0);
    }
    const auto range = parse_ports("8000-8002:9000-9002");
    REQUIRE((range.has_value() && range->size() == 3));
    CHECK(range->back().guest == 9002);
    for (const char* wrong : {"", "x", "0", "1:2:3:4:", "80/icmp", "1-2:1", "70000", "5-3",
                              "80:80:80:80", "here:80:80", ":1:2"})
        CHECK_FALSE(parse_ports(wrong).has_value());
}

TEST_CASE("what could not run is refused before there is a container, by the option's own name") {
    const ScratchFolder folder;
    REQUIRE(::mkdir((folder / "root").c_str(), 0755) == 0);
    const Session session{registry_in(folder), {}};
    const auto refusal = [&](const char* option, const std::string& value) {
        const auto given = parse("run", {option, value, "--rootfs", folder / "root", "true"});
        REQUIRE(given.has_value());
        const auto request = read_run_request(session, *given);
        return request ? std::string() : request.error().message;
    };
    CHECK(refusal("--vm-cpus", "100").find("--vm-cpus 100: give a number") == 0);
    CHECK(refusal("--vm-memory", "1").find("--vm-memory 1: give at least") == 0);
    CHECK(refusal("--privilege", "ring9").find("--privilege ring9: give auto") == 0);
    CHECK(refusal("--mac-address", "zz").find("--mac-address zz: give") == 0);
    CHECK(refusal("--attach", "stdlog").find("--attach stdlog: give stdin") == 0);
    CHECK(refusal("--detach-keys", "ctrl").find("--detach-keys: 'ctrl'") == 0);
    CHECK(refusal("--gpus", "all").find("--gpus: devices of this machine") == 0);
    CHECK(refusal("--link", "other").find("--link: there is no network") == 0);
    CHECK(refusal("--runtime", "runc") == "--runtime runc: there is joey only");
    CHECK(refusal("--runtime", "joey").empty());
    CHECK(refusal("--blkio-weight", "5") == "--blkio-weight 5: give a number from 10 to 1000");
    CHECK(refusal("--blkio-weight", "500").empty());
    CHECK(refusal("--device-read-bps", "/dev/null:1mb") ==
          "--device-read-bps /dev/null: is no block device");
    CHECK(refusal("--device-read-bps", "sda:1mb")
              .find("--device-read-bps sda:1mb: give PATH:NUMBER") == 0);
    CHECK(refusal("--device-write-iops", "/dev/null:1mb").find("give PATH:NUMBER") !=
          std::string::npos);
    CHECK(refusal("--oom-score-adj", "5000").find("--oom-score-adj 5000: give") == 0);
    CHECK(refusal("--oom-score-adj", "much").find("--oom-score-adj much: give") == 0);
    CHECK(refusal("--userns", "odd").find("private or host") != std::string::npos);
    CHECK(refusal("--uts", "odd").find("host, which") == std::string::npos);
    CHECK(refusal("--vm-cpus", "2").empty());
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
    const Below nothing;

    REQUIRE(copy_to_host({root.get(), "/d", "d", nothing}, folder / "copy", false).has_value());
    CHECK(folder.read("copy/e/f") == "content");
    REQUIRE(copy_from_host(folder / "mine", false, {root.get(), "/d", nothing}, true, false)
                .has_value());
    CHECK(folder.read("inside/d/mine") == "mine");
    // A link is a link, and resolved in the root.
    CHECK_FALSE(
        copy_from_host(folder / "mine", false, {root.get(), "/out/new", nothing}, false, false)
            .has_value());
    REQUIRE(copy_from_host(folder / "mine", false, {root.get(), "/up/new", nothing}, false, false)
                .has_value());
    CHECK(folder.read("inside/new") == "mine");
    REQUIRE(copy_to_host({root.get(), "/out", "out", nothing}, folder / "link", false).has_value());
    struct stat about {};
    REQUIRE(::lstat((folder / "link").c_str(), &about) == 0);
    CHECK(S_ISLNK(about.st_mode));
    CHECK_FALSE(
        copy_to_host({root.get(), "/out/secret", "secret", nothing}, folder / "stolen", false)
            .has_value());
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
    const Below nothing;
    CHECK_FALSE(copy_to_host({root.get(), "/f", "f", nothing}, folder / "pipe", false).has_value());
    struct stat about {};
    REQUIRE(::lstat((folder / "pipe").c_str(), &about) == 0);
    CHECK(S_ISFIFO(about.st_mode));
    REQUIRE(copy_to_host({root.get(), "/f", "f", nothing}, folder / "link", false).has_value());
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
        const Below nothing;
        const auto done = read_archive(from.get(), {root.get(), "/", nothing});
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
}

namespace {

joey::Outcome<joey::ImageOptions> image_options(const std::vector<std::string>& words) {
    return joey::parse_image_options(words);
}

std::string history(const joey::HistoryStyle& style) {
    image::Image image = image_of('a', {});
    image.manifest.layers = {image.manifest_descriptor};
    image.manifest.layers.front().size = 2048;
    const std::string config =
        R"({"history": [{"created": "2024-01-01T00:00:00Z", "created_by": "ADD x"},
                        {"created": "2024-01-08T00:00:00Z", "comment": "last", "empty_layer": true,
                         "created_by": "CMD [\"a line that is much longer than others are\"]"}]})";
    constexpr std::int64_t three_weeks_later = 1704067200 + 21 * 86400;
    const auto out = joey::describe_history(config, image, style, three_weeks_later);
    return out ? *out : "failed: " + out.error().message;
}

} // namespace

TEST_CASE("images are filtered as Docker's users filter them") {
    const auto ids = [](std::vector<std::string> filters, const std::string& only = "") {
        return listed({.format = "{{.Repository}}", .only = only, .filters = std::move(filters)});
    };
    CHECK(ids({"reference=deb*"}) == "debian\n");
    CHECK(ids({"reference=*:z"}).empty());
    CHECK(ids({"reference=reg.io/*/y:?"}) == "reg.io/x/y\n");
    CHECK(ids({"reference=debian:12", "reference=reg.io/x/y"}) == "debian\nreg.io/x/y\n");
    CHECK(ids({}, "deb*") == "debian\n");
    CHECK(ids({"dangling=true"}) == "<none>\n");
    CHECK(ids({"dangling=false"}) == "debian\nreg.io/x/y\n");
    CHECK(ids({"label=x"}).empty());
    CHECK(ids({"since=debian:12"}).empty());
    CHECK(ids({"before=bbbb"}).empty());
    for (const char* wrong : {"dangling", "dangling=odd", "odd=x", "before=nobody"})
        CHECK(ids({wrong}).starts_with("failed: --filter "));
}

TEST_CASE("the history of an image: IDs, templates, and figures for programs") {
    CHECK(history({.quiet = true}) == "aaaaaaaaaaaa\n<missing>\n");
    CHECK(history({.quiet = true, .whole = true}) ==
          "sha256:" + std::string(64, 'a') + "\n<missing>\n");
    CHECK(history({.format = "{{.ID}} {{.CreatedSince}} {{.Size}}"}) ==
          "aaaaaaaaaaaa 2 weeks ago 0 B\n<missing> 3 weeks ago 2 KiB\n");
    CHECK(history({.human = false, .format = "{{.CreatedSince}} {{.Size}}"}) ==
          "2024-01-08T00:00:00Z 0\n2024-01-01T00:00:00Z 2048\n");
    CHECK(history({.format = "{{.CreatedBy}}"}) ==
          "CMD [\"a line that is much longer than othe...\nADD x\n");
    CHECK(history({}).starts_with("IMAGE          CREATED       CREATED BY"));
    CHECK(history({.format = "{{.Nonesuch}}"}) == "failed: --format: there is no field Nonesuch");
}

TEST_CASE("joey image takes what Docker's users type") {
    CHECK(image_options({"load"})->words == std::vector<std::string>{"-"});
    CHECK(image_options({"load", "-q", "-i", "file"})->words == std::vector<std::string>{"file"});
    CHECK(image_options({"load", "--input=file"})->words == std::vector<std::string>{"file"});
    CHECK(image_options({"load", "file"})->words == std::vector<std::string>{"file"});
    CHECK_FALSE(image_options({"load", "-i", "file", "other"}));
    const auto import = image_options({"import", "root.tar", "mine:1"});
    CHECK(import->words == std::vector<std::string>{"root.tar"});
    CHECK(import->names == std::vector<std::string>{"mine:1"});
    CHECK(image_options({"ls", "-a", "-f", "dangling=true", "--filter=label=x"})->filters ==
          std::vector<std::string>{"dangling=true", "label=x"});
    CHECK(image_options({"rm", "-f", "--no-prune", "x"})->force);
    CHECK(image_options({"prune", "-af"})->all);
    CHECK(image_options({"history", "--format", "{{.ID}}", "x"})->format == "{{.ID}}");
    for (const char* human : {"-H", "--human", "--human=true"})
        CHECK(image_options({"history", "-q", human, "x"})->words == std::vector<std::string>{"x"});
    CHECK_FALSE(image_options({"history", "--human=false", "x"})->human);
    CHECK_FALSE(image_options({"help"})->help.empty());
}
