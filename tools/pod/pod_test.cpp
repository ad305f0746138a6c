// Records, locks, processes that may be gone, and configurations in the guest's terms: everything
// that needs no VM.
#include <array>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <thread>
#include <unistd.h>

#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "agent/os/files.hpp"
#include "agent/ttrpc/server.hpp"
#include "tests/unit/comes.hpp"
#include "tools/pod/engine.hpp"
#include "tools/pod/guest_config.hpp"
#include "tools/pod/hooks.hpp"
#include "tools/pod/host_cgroup.hpp"
#include "tools/pod/mount_namespace.hpp"
#include "tools/pod/preserved.hpp"
#include "tools/pod/records.hpp"
#include "tools/pod/vm_log.hpp"

using namespace pod;

namespace {

class Scratch {
public:
    Scratch() {
        std::string name = "/tmp/pod-test-XXXXXX";
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~Scratch() { static_cast<void>(remove_tree(path_).has_value()); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    const std::string& path() const { return path_; }

private:
    std::string path_;
};

SourceKind all_files(const std::string&, const std::string&) {
    return SourceKind::Files;
}

GuestConfig guest_of(const char* text) {
    auto config = parse_object(text, "config.json");
    REQUIRE(config);
    auto made = make_guest_config(*config, "/bundle", all_files);
    REQUIRE(made);
    return std::move(*made);
}

ContainerRecord sample() {
    ContainerRecord record;
    record.id = "one";
    record.pod = "pod-1";
    record.bundle = "/bundle";
    record.rootfs = "/bundle/rootfs";
    record.created = timestamp();
    record.oci_version = "1.0.2";
    record.annotations = {{"a", "b"}};
    record.process = {42, 4711};
    record.terminal = record.started = true;
    record.shared = {{"0123456789abcdef", 7, 9, true}};
    record.cgroups = {"/sys/fs/cgroup/x"};
    return record;
}

// The directory of a pod whose VM is that process, and the socket where its connections arrive.
os::UniqueFd listen_as_vm(const StateRoot& root, const std::string& pod, const ProcessId& vm) {
    REQUIRE(make_directories(root.pod(pod)));
    REQUIRE(write_quickly(root.pod(pod) + "/vm.json", to_text(vm.to_json())));
    const os::UniqueFd place(::open(root.pod(pod).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    os::UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(name.sun_path, sizeof name.sun_path, "/proc/self/fd/%d/vsock", place.get());
    REQUIRE(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
    REQUIRE(::listen(listener.get(), 16) == 0);
    return listener;
}

// One connection, asked for a port and not yet told that it has it.
os::UniqueFd accept_as_vm(int listener) {
    os::UniqueFd socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    char byte = 0;
    while (::read(socket.get(), &byte, 1) == 1 && byte != '\n') {
    }
    return socket;
}

void grant_as_vm(int socket) {
    static_cast<void>(!::send(socket, "OK 1024\n", 8, MSG_NOSIGNAL));
}

// A process that waits for nothing but its end.
pid_t idle_process() {
    const pid_t child = ::fork();
    if (child == 0) {
        for (;;)
            ::pause();
    }
    return child;
}

} // namespace

TEST_CASE("a container's id is a name and no path") {
    for (const char* good : {"a", "web-1", "a_b+c.d", "0123456789abcdef"})
        CHECK(check_id(good));
    for (const char* bad : {"", ".", "..", "a/b", "../x", "a b", "a\n", "\xc3\xa4"})
        CHECK_FALSE(check_id(bad));
    CHECK_FALSE(check_id(std::string(256, 'a')));
}

TEST_CASE("a record comes back as it was written") {
    const Scratch scratch;
    const StateRoot root(scratch / "state");
    const ContainerRecord written = sample();
    REQUIRE(make_directories(root.container("one")));
    REQUIRE(written.store(root));
    const auto read = ContainerRecord::load(root, "one");
    REQUIRE(read);
    CHECK(read->to_text() == written.to_text());
    CHECK(names_in(root.container("one")) == std::vector<std::string>{"record.json"});
}

TEST_CASE("a pod is used by what runs in it or is being created, but not by what has ended") {
    const Scratch scratch;
    const StateRoot root(scratch / "state");
    REQUIRE(make_directories(root.container("one")));
    REQUIRE(make_directories(root.container("two")));
    CHECK_FALSE(is_used(root, "pod-1", "two"));
    ContainerRecord one = sample();
    REQUIRE(one.store_begun(root));
    CHECK(is_used(root, "pod-1", "two"));
    CHECK_FALSE(is_used(root, "pod-1", "one"));
    CHECK_FALSE(is_used(root, "pod-2", "two"));
    REQUIRE(one.store(root)); // its process is none
    CHECK_FALSE(is_used(root, "pod-1", "two"));
    one.process = *ProcessId::of(::getpid());
    REQUIRE(one.store(root));
    CHECK(is_used(root, "pod-1", "two"));
    REQUIRE(ExitRecord{0, 1, false}.store(root.container("one") + "/exit.json"));
    CHECK_FALSE(is_used(root, "pod-1", "two"));
}

TEST_CASE("what a container that is being created shares with one that goes stays in the share") {
    const Scratch scratch;
    const StateRoot root(scratch / "state");
    ContainerRecord one = sample();
    ContainerRecord two = sample();
    two.id = "two";
    for (const ContainerRecord& each : {one, two})
        REQUIRE(make_directories(root.container(each.id)));
    const std::string place = root.pod("pod-1") + "/share/" + one.shared.front().name;
    REQUIRE(make_directories(place));
    REQUIRE(one.store_begun(root));
    REQUIRE(two.store(root));
    const auto shared_pod = Pod::open(root, "pod-1");
    REQUIRE(shared_pod);
    shared_pod->unshare(root, two.shared, "two");
    CHECK(exists(place));
    REQUIRE(remove_tree(root.container("two")));
    shared_pod->unshare(root, one.shared, "one");
    CHECK_FALSE(exists(place));
}

TEST_CASE("a record that is not one is refused") {
    for (const char* text :
         {"", "{", "[]", "null", "{}", R"({"id": "a"})", R"({"id": "../a", "pod": "b"})",
          R"({"id": "a", "pod": "b/c"})", R"({"id": 1, "pod": 2})",
          R"({"id": "a", "pod": "b", "shared": [{"name": "../../etc"}]})"})
        CHECK_FALSE(ContainerRecord::parse(text, "record"));
    // What is of another type counts as absent.
    const auto odd = ContainerRecord::parse(
        R"({"id": "a", "pod": "b", "process": {"pid": -5, "start": 1}, "shared": 7, "hooks": "x"})",
        "record");
    REQUIRE(odd);
    CHECK(odd->process.pid == 0);
    CHECK(odd->hooks.is_object());
    CHECK_FALSE(odd->process.is_alive());
}

TEST_CASE("documents that are too deep are refused and no danger to the stack") {
    CHECK_FALSE(parse_object(std::string(1'000'000, '['), "deep"));
    CHECK_FALSE(
        parse_object(R"({"a":)" + std::string(500, '[') + std::string(500, ']') + "}", "deep"));
}

TEST_CASE("a container that is not there is named as runc does it") {
    const Scratch scratch;
    const auto read = ContainerRecord::load(StateRoot(scratch.path()), "none");
    REQUIRE_FALSE(read);
    CHECK(read.error().message == "container does not exist");
    CHECK(read.error().code == os::Code::NotFound);
}

TEST_CASE("write_whole replaces, and leaves nothing behind when it cannot") {
    const Scratch scratch;
    REQUIRE(write_whole(scratch / "file", "first"));
    REQUIRE(write_whole(scratch / "file", "second"));
    CHECK(*os::read_file(AT_FDCWD, (scratch / "file").c_str()) == "second");
    REQUIRE(make_directories(scratch / "taken"));
    CHECK_FALSE(write_whole(scratch / "taken", "text"));
    CHECK(names_in(scratch.path()) == std::vector<std::string>{"file", "taken"});
}

TEST_CASE("remove_tree takes links, not what they lead to") {
    const Scratch scratch;
    REQUIRE(make_directories(scratch / "kept"));
    REQUIRE(write_whole(scratch / "kept/file", "x"));
    REQUIRE(make_directories(scratch / "gone/below"));
    REQUIRE(symlink((scratch / "kept").c_str(), (scratch / "gone/below/link").c_str()) == 0);
    REQUIRE(remove_tree(scratch / "gone"));
    CHECK_FALSE(exists(scratch / "gone"));
    CHECK(exists(scratch / "kept/file"));
    CHECK(remove_tree(scratch / "gone"));
}

TEST_CASE("a place in the share is common to containers that want the same of it") {
    const Scratch scratch;
    const StateRoot root(scratch / "state");
    ContainerRecord other = sample();
    REQUIRE(make_directories(root.container(other.id)));
    REQUIRE(make_directories(root.pod(other.pod)));
    REQUIRE(make_directories(scratch / "volume"));
    const auto of_pod = Pod::open(root, other.pod);
    REQUIRE(of_pod);
    const auto first = of_pod->place_for(root, {.source = scratch / "volume", .recursive = true});
    REQUIRE(first);
    CHECK(first->fresh);
    other.shared = {first->shared};
    REQUIRE(other.store(root));
    const auto is_fresh = [&](const Pod::Wanted& wanted) {
        const auto place = of_pod->place_for(root, wanted);
        REQUIRE(place);
        return place->fresh;
    };
    CHECK_FALSE(is_fresh({.source = scratch / "volume", .recursive = true}));
    CHECK(is_fresh({.source = scratch / "volume", .recursive = true, .alone = true}));
    CHECK(is_fresh({.source = scratch / "volume", .read_only = true, .recursive = true}));
    CHECK(is_fresh({.source = scratch / "volume"}));
}

TEST_CASE("what the host has mounted read-only is not shown by another's writable mount of it") {
    if (::geteuid() != 0)
        return; // mounts are root's
    const Scratch scratch;
    const StateRoot root(scratch / "state");
    ContainerRecord other = sample();
    REQUIRE(make_directories(root.container(other.id)));
    REQUIRE(make_directories(root.pod(other.pod)));
    REQUIRE(make_directories(scratch / "volume"));
    const pid_t child = ::fork();
    if (child == 0) {
        const std::string needed[] = {scratch.path(), "/proc"};
        const auto of_pod = Pod::open(root, other.pod);
        if (!of_pod || !enter_private_mounts(needed))
            ::_exit(1);
        const auto writable = of_pod->place_for(root, {.source = scratch / "volume"});
        if (!writable)
            ::_exit(1);
        other.shared = {writable->shared};
        if (!other.store(root) || !seal_directory(scratch / "volume"))
            ::_exit(1);
        const auto sealed = of_pod->place_for(root, {.source = scratch / "volume"});
        ::_exit(!sealed ? 1 : sealed->fresh ? 0 : 2);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

TEST_CASE("a VM's process cannot write in a pod's share, but in what is mounted there") {
    if (::geteuid() != 0)
        return; // mounts are root's
    const Scratch scratch;
    REQUIRE(make_directories(scratch / "share/place"));
    REQUIRE(make_directories(scratch / "volume"));
    std::array<int, 2> ready{-1, -1};
    std::array<int, 2> go_on{-1, -1};
    REQUIRE((::pipe(ready.data()) == 0 && ::pipe(go_on.data()) == 0));
    const pid_t child = ::fork();
    if (child == 0) {
        const std::string needed[] = {scratch.path(), "/proc"};
        const bool sealed = enter_private_mounts(needed) && seal_directory(scratch / "share");
        char byte = sealed ? '1' : '0';
        static_cast<void>(!::write(ready[1], &byte, 1));
        static_cast<void>(!::read(go_on[0], &byte, 1));
        const auto can_make = [&](const char* name) {
            return ::mkdir((scratch / name).c_str(), 0700) == 0;
        };
        const bool safe = !can_make("share/own") && errno == EROFS && !can_make("share/late/own") &&
                          ::rmdir((scratch / "share/place").c_str()) != 0 &&
                          ::symlink("/etc", (scratch / "share/link").c_str()) != 0;
        ::_exit(!safe ? 1 : can_make("share/place/made") ? 0 : 2);
    }
    char byte = 0;
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    REQUIRE(byte == '1');
    const auto process = ProcessId::of(child);
    REQUIRE(process);
    // The host goes on making places, and mounts there for that process.
    REQUIRE(make_directories(scratch / "share/late"));
    auto tree = copy_of_mount(scratch / "volume", true, false);
    REQUIRE(tree);
    std::vector<MountCopy> copies;
    copies.push_back({std::move(*tree), scratch / "share/place"});
    REQUIRE(mount_for(*process, copies));
    REQUIRE(::write(go_on[1], &byte, 1) == 1);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    CHECK(exists(scratch / "volume/made"));
    for (const int fd : {ready[0], ready[1], go_on[0], go_on[1]})
        ::close(fd);
}

TEST_CASE("a VM that takes no connections is not waited for longer than one wants to") {
    const Scratch scratch;
    const os::UniqueFd place(::open(scratch.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const os::UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(name.sun_path, sizeof name.sun_path, "/proc/self/fd/%d/vsock", place.get());
    const auto* address = reinterpret_cast<const sockaddr*>(&name);
    REQUIRE(::bind(listener.get(), address, sizeof name) == 0);
    REQUIRE(::listen(listener.get(), 0) == 0);
    std::vector<os::UniqueFd> waiting; // until the backlog is full
    do
        waiting.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    while (::connect(waiting.back().get(), address, sizeof name) == 0);
    REQUIRE(errno == EAGAIN);
    // In a process that does not outlive what it would wait for.
    const auto self = ProcessId::of(::getpid());
    REQUIRE(self);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        const auto loop = os::EventLoop::create();
        const auto link =
            AgentLink::connect(**loop, scratch.path(), *self, std::chrono::milliseconds(50));
        ::_exit(!link && link.error().code == os::Code::DeadlineExceeded ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

TEST_CASE("a guest that says nothing is asked for its figures for as long as one wants to") {
    const Scratch scratch;
    const StateRoot root(scratch.path());
    REQUIRE(root.make());
    const auto self = ProcessId::of(::getpid()); // in place of the VM and the relay
    REQUIRE(self);
    ContainerRecord record = sample();
    record.process = *self;
    REQUIRE(make_directories(root.container(record.id)));
    REQUIRE(record.store(root));
    const os::UniqueFd listener = listen_as_vm(root, record.pod, *self);
    const auto stats = Engine(root).stats(record.id, std::chrono::milliseconds(50));
    REQUIRE_FALSE(stats);
    CHECK(stats.error().code == os::Code::DeadlineExceeded);
    // A signal for it, too.
    const auto killed = Engine(root).kill(record.id, SIGTERM, false, std::chrono::milliseconds(50));
    REQUIRE_FALSE(killed);
    CHECK(killed.error().code == os::Code::DeadlineExceeded);
}

TEST_CASE("a VM that says nothing is ended, also if its time was over before it was asked to") {
    const Scratch scratch;
    const StateRoot root(scratch.path());
    const pid_t vm = idle_process();
    const auto process = ProcessId::of(vm);
    REQUIRE(process);
    const os::UniqueFd listener = listen_as_vm(root, "one", *process);
    constexpr std::chrono::milliseconds patience(1000);
    const pid_t caller = ::fork();
    if (caller == 0) {
        ::alarm(60);
        Pod::open(root, "one")->end(patience);
        ::_exit(0);
    }
    const os::UniqueFd socket = accept_as_vm(listener.get());
    // The connection is there in time; the caller, whom nobody lets run, is not.
    ::kill(caller, SIGSTOP);
    int status = 0;
    REQUIRE(::waitpid(caller, &status, WUNTRACED) == caller);
    grant_as_vm(socket.get());
    std::this_thread::sleep_for(patience + patience / 10);
    ::kill(caller, SIGCONT);
    if (WIFSTOPPED(status))
        REQUIRE(::waitpid(caller, &status, 0) == caller);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    CHECK_FALSE(process->is_alive());
    ::kill(vm, SIGKILL);
    ::waitpid(vm, nullptr, 0);
}

namespace {

constexpr int was_told_to_delete = 7;

// An agent in whose container a program has ended that left another one behind: its output goes on.
[[noreturn]] void be_agent(int listener) {
    ::alarm(120);
    const auto loop = os::EventLoop::create();
    ttrpc::Server server(**loop);
    constexpr const char* service = "joey.agent.v1.Agent";
    server.handle<proto::ExecRequest, proto::ExecResponse>(
        service, "Exec", [](const auto&, const ttrpc::Reply<proto::ExecResponse>& reply) {
            reply(proto::ExecResponse());
        });
    server.handle<proto::StartRequest, proto::StartResponse>(
        service, "Start", [](const auto&, const ttrpc::Reply<proto::StartResponse>& reply) {
            reply(proto::StartResponse());
        });
    server.handle<proto::ProcessRequest, proto::WaitResponse>(
        service, "Wait", [](const auto&, const ttrpc::Reply<proto::WaitResponse>& reply) {
            proto::WaitResponse ended;
            ended.mutable_exit()->set_code(3);
            reply(ended);
        });
    std::vector<ttrpc::Reply<proto::ReadOutputResponse>> waiting;
    server.handle<proto::ReadOutputRequest, proto::ReadOutputResponse>(
        service, "ReadOutput",
        [&waiting](const auto&, const ttrpc::Reply<proto::ReadOutputResponse>& reply) {
            waiting.push_back(reply);
        });
    server.handle<proto::DeleteRequest, proto::WaitResponse>(
        service, "Delete", [](const auto&, const ttrpc::Reply<proto::WaitResponse>& reply) {
            reply(proto::WaitResponse());
            ::_exit(was_told_to_delete);
        });
    os::UniqueFd socket = accept_as_vm(listener);
    grant_as_vm(socket.get());
    if (!server.serve(std::move(socket)))
        ::_exit(1);
    (*loop)->run();
    ::_exit(0);
}

// The VM of a container that runs.
pid_t start_agent(const StateRoot& root, ContainerRecord& record) {
    REQUIRE(root.make());
    const auto self = ProcessId::of(::getpid()); // in place of the container's relay
    REQUIRE(self);
    record.process = *self;
    REQUIRE(make_directories(root.container(record.id)));
    REQUIRE(record.store(root));
    const os::UniqueFd listener = listen_as_vm(root, record.pod, *self);
    const pid_t vm = ::fork();
    if (vm == 0)
        be_agent(listener.get());
    const auto process = ProcessId::of(vm);
    REQUIRE(process);
    REQUIRE(write_quickly(root.pod(record.pod) + "/vm.json", to_text(process->to_json())));
    return vm;
}

} // namespace

TEST_CASE("an executed process whose number cannot be written is not left in the guest") {
    const Scratch scratch;
    const StateRoot root(scratch.path());
    ContainerRecord record = sample();
    const pid_t vm = start_agent(root, record);
    const pid_t caller = ::fork();
    if (caller == 0) {
        ::alarm(60);
        const auto status = Engine(root).exec({.container = record.id,
                                               .process = Json{{"args", {"program"}}},
                                               .pid_file = scratch / "none/pid"});
        ::_exit(status ? 1 : 0);
    }
    int status = 0;
    REQUIRE(::waitpid(caller, &status, 0) == caller);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    CHECK(comes([&] { return !ProcessId::of(vm) || !ProcessId::of(vm)->is_alive(); }));
    ::kill(vm, SIGKILL);
    REQUIRE(::waitpid(vm, &status, 0) == vm);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == was_told_to_delete));
}

TEST_CASE("who serves the output of what an executed program left behind ends with the VM") {
    const Scratch scratch;
    const StateRoot root(scratch.path());
    ContainerRecord record = sample();
    const pid_t vm = start_agent(root, record);
    std::array<int, 2> out{-1, -1};
    REQUIRE(::pipe2(out.data(), O_CLOEXEC) == 0);
    const os::UniqueFd read_end(out[0]);
    os::UniqueFd write_end(out[1]);
    const pid_t caller = ::fork();
    if (caller == 0) {
        ::setsid();
        ::alarm(60);
        const auto status = Engine(root).exec({.container = record.id,
                                               .process = Json{{"args", {"program"}}},
                                               .streams = StreamFds{-1, write_end.get(), -1}});
        ::_exit(status && *status == 3 ? 0 : 1);
    }
    write_end.reset();
    int status = 0;
    REQUIRE(::waitpid(caller, &status, 0) == caller);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    // Somebody still has the stream.
    pollfd wanted{read_end.get(), POLLIN, 0};
    CHECK(::poll(&wanted, 1, 0) == 0);
    ::kill(vm, SIGKILL);
    ::waitpid(vm, nullptr, 0);
    constexpr int milliseconds = 30'000;
    CHECK(::poll(&wanted, 1, milliseconds) == 1);
    ::kill(-caller, SIGKILL);
}

TEST_CASE("of two who remove a container by force the second finds nothing, and that is no error") {
    const Scratch scratch;
    const StateRoot root(scratch.path());
    REQUIRE(make_directories(root.container("one")));
    std::optional<Lock> first(*Lock::take(root.container("one") + "/lock"));
    const pid_t second = ::fork();
    if (second == 0) {
        first.reset(); // its copy alone: the lock is the parent's as well
        ::alarm(60);
        ::_exit(Engine(root).remove("one", true) ? 0 : 1);
    }
    CHECK(comes([&] {
        const auto locks = os::read_file(AT_FDCWD, "/proc/locks");
        return !locks || locks->find("-> FLOCK  ADVISORY  WRITE " + std::to_string(second)) !=
                             std::string::npos;
    }));
    REQUIRE(remove_tree(root.container("one")));
    first.reset();
    int status = 0;
    REQUIRE(::waitpid(second, &status, 0) == second);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    const auto none = Engine(root).remove("one", false);
    REQUIRE_FALSE(none);
    CHECK(none.error().message == "container does not exist");
}

TEST_CASE("a lock keeps another process out until its holder is killed") {
    const Scratch scratch;
    const std::string path = scratch / "lock";
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    const pid_t holder = fork();
    if (holder == 0) {
        const auto held = Lock::take(path);
        static_cast<void>(!write(ready[1], "x", 1));
        pause();
        _exit(0);
    }
    char byte = 0;
    REQUIRE(read(ready[0], &byte, 1) == 1);
    const os::UniqueFd other(open(path.c_str(), O_RDWR | O_CLOEXEC));
    CHECK(flock(other.get(), LOCK_EX | LOCK_NB) != 0);
    kill(holder, SIGKILL);
    waitpid(holder, nullptr, 0);
    CHECK(Lock::take(path));
    close(ready[0]);
    close(ready[1]);
}

TEST_CASE("a process is known by its start too") {
    const auto self = ProcessId::of(getpid());
    REQUIRE(self);
    CHECK(self->is_alive());
    const ProcessId back = ProcessId::from_json(self->to_json());
    CHECK(back.is_alive());
    // Another's number: no signal reaches it.
    const ProcessId earlier{self->pid, self->start - 1};
    CHECK_FALSE(earlier.is_alive());
    CHECK_FALSE(earlier.signal(0));
    CHECK(self->signal(0));
    CHECK(earlier.wait_for_end(std::chrono::milliseconds(0)));
    CHECK_FALSE(self->wait_for_end(std::chrono::milliseconds(0)));
}

TEST_CASE("a zombie has ended") {
    const pid_t child = fork();
    if (child == 0)
        _exit(3);
    const auto process = ProcessId::of(child);
    siginfo_t info{};
    REQUIRE(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
    REQUIRE(process);
    CHECK_FALSE(process->is_alive());
    waitpid(child, nullptr, 0);
}

TEST_CASE("a process has not ended as long as one of its threads lives") {
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        std::thread([] {
            for (;;)
                ::pause();
        }).detach();
        ::syscall(SYS_exit, 0); // this thread alone
    }
    const auto process = ProcessId::of(child);
    REQUIRE(process);
    CHECK(comes([&] {
        const auto stat = os::read_file(AT_FDCWD, os::text("/proc/", child, "/stat").c_str());
        return stat && stat->find(") Z ") != std::string::npos;
    }));
    CHECK(process->is_alive());
    CHECK_FALSE(process->wait_for_end(std::chrono::milliseconds(0)));
    CHECK(process->kill_and_wait(std::chrono::milliseconds(30'000)));
    ::waitpid(child, nullptr, 0);
}

TEST_CASE("the root and bind mounts are sources, other mounts are the guest's") {
    GuestConfig guest = guest_of(R"({"root": {"path": "rootfs"}, "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]},
        {"destination": "/etc/hosts", "source": "hosts", "options": ["bind"]}]})");
    REQUIRE(guest.sources.size() == 3);
    CHECK(guest.sources[0].path == "/bundle/rootfs");
    CHECK(guest.sources[0].is_root);
    CHECK_FALSE(guest.sources[0].read_only);
    CHECK(guest.sources[1].path == "/srv/data");
    CHECK(guest.sources[1].recursive);
    CHECK(guest.sources[1].read_only);
    CHECK(guest.sources[2].path == "/bundle/hosts");
    CHECK_FALSE(guest.sources[2].recursive);
    guest.place(guest.sources[0], "/share/a");
    guest.place(guest.sources[2], "/share/b");
    CHECK(guest.spec["root"]["path"] == "/share/a");
    CHECK(guest.spec["mounts"][2]["source"] == "/share/b");
    CHECK(guest.spec["mounts"][0]["source"] == "proc");
}

TEST_CASE("namespaces: the network is the pod's, joined ones are those of its first container") {
    GuestConfig guest = guest_of(R"({"root": {"path": "/r"}, "linux": {"namespaces": [
        {"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/netns/x"},
        {"type": "ipc", "path": "/proc/77/ns/ipc"}, {"type": "user", "path": "/proc/77/ns/user"}],
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.msgmax": "2"}, "cgroupsPath": "/kube/x"}})");
    CHECK(guest.network_namespace == "/run/netns/x");
    CHECK(guest.pod_namespaces == std::vector<std::string>{"ipc"});
    CHECK(guest.pod_sysctls.size() == 1);
    CHECK_FALSE(guest.spec["linux"].contains("cgroupsPath"));
    guest.join(12);
    CHECK(guest.spec["linux"]["namespaces"].dump() ==
          R"([{"type":"mount"},{"type":"pid"},{"path":"/proc/12/ns/ipc","type":"ipc"}])");
    CHECK(guest.spec["linux"]["sysctl"].dump() == R"({"kernel.msgmax":"2"})");
}

TEST_CASE("hooks: the guest gets startContainer; labels of the host are left out, with a word") {
    const GuestConfig guest = guest_of(R"({"root": {"path": "/r"},
        "process": {"apparmorProfile": "docker-default"},
        "hooks": {"prestart": [{"path": "/a"}], "startContainer": [{"path": "/b"}], "poststop": []}})");
    CHECK(guest.spec["hooks"].dump() == R"({"startContainer":[{"path":"/b"}]})");
    CHECK_FALSE(guest.spec["process"].contains("apparmorProfile"));
    CHECK(guest.warnings.size() == 1);
}

TEST_CASE("interfaces of the kernel are the guest's own") {
    CHECK(kind_of_source("/proc/self", "/x") == SourceKind::Interface);
    CHECK(kind_of_source("/sys", "/x") == SourceKind::Interface);
    CHECK(kind_of_source("/dev/null", "/x") == SourceKind::Interface);
    CHECK(kind_of_source("/nonesuch", "/x") == SourceKind::Missing);
    CHECK(kind_of_source("/usr", "/x") == SourceKind::Files);
}

TEST_CASE(
    "a configuration without a root, or of the wrong shape, is refused or left to the agent") {
    for (const char* text : {"{}", R"({"root": []})", R"({"root": {"path": 7}})",
                             R"({"root": {"path": "/r"}, "mounts": [{"type": "bind"}]})"}) {
        const auto config = parse_object(text, "config.json");
        REQUIRE(config);
        CHECK_FALSE(make_guest_config(*config, "/bundle", all_files));
    }
    for (
        const char* text :
        {R"({"root": {"path": "/r"}, "mounts": {"a": 1}, "linux": [], "hooks": 3, "process": "x"})",
         R"({"root": {"path": "/r"}, "mounts": [1, "x", null, {}], "linux": {"namespaces": [1, {}]}})"}) {
        const auto config = parse_object(text, "config.json");
        REQUIRE(config);
        CHECK(make_guest_config(*config, "/bundle", all_files));
    }
}

TEST_CASE("the pod of a configuration") {
    CHECK(pod_of(Json::object(), "me") == "me");
    CHECK(pod_of(Json::parse(R"({"annotations": {"io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-id": "p"}})"),
                 "me") == "me");
    CHECK(pod_of(Json::parse(R"({"annotations": {"io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": "p"}})"),
                 "me") == "p");
}

TEST_CASE("hooks get the state, in turn, and the first failure ends them") {
    const Scratch scratch;
    const std::string out = scratch / "out";
    const auto hook = [&](const std::string& script) {
        return Json{{"path", "/bin/sh"}, {"args", {"sh", "-c", script}}, {"env", {"OUT=" + out}}};
    };
    const Json hooks = {{"prestart", {hook("cat >> $OUT"), hook("echo again >> $OUT")}},
                        {"poststop", {hook("exit 3"), hook("echo never >> $OUT")}},
                        {"poststart", {Json{{"path", "relative"}}}}};
    CHECK(run_hooks(hooks, "prestart", "{\"id\":\"x\"}"));
    const auto failed = run_hooks(hooks, "poststop", "");
    REQUIRE_FALSE(failed);
    CHECK(failed.error().message == "error running hook: poststop #0: exit status 3");
    CHECK_FALSE(run_hooks(hooks, "poststart", ""));
    CHECK(run_hooks(hooks, "createRuntime", ""));
    CHECK(*os::read_file(AT_FDCWD, out.c_str()) == "{\"id\":\"x\"}again\n");
}

TEST_CASE("what a hook says is the reason of its failure, and not the container's output") {
    const Scratch scratch;
    const auto hook = [](const std::string& script) {
        return Json{{"path", "/bin/sh"}, {"args", {"sh", "-c", script}}};
    };
    const Json hooks = {{"prestart", {hook("echo done")}},
                        {"poststart", {hook("echo first; echo no device >&2; exit 3")}},
                        {"poststop", {Json{{"path", "/nonesuch"}}}},
                        // What it leaves behind is not waited for.
                        {"createRuntime", {hook("while echo again; do :; done & exit 4")}}};
    const std::string place = scratch / "stdout";
    os::UniqueFd out(::open(place.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    const os::UniqueFd before(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    std::fflush(stdout);
    ::dup2(out.get(), STDOUT_FILENO);
    const auto good = run_hooks(hooks, "prestart", "");
    const auto bad = run_hooks(hooks, "poststart", "");
    const auto none = run_hooks(hooks, "poststop", "");
    const auto daemon = run_hooks(hooks, "createRuntime", "");
    ::dup2(before.get(), STDOUT_FILENO);
    CHECK(good);
    REQUIRE_FALSE(bad);
    CHECK(bad.error().message ==
          "error running hook: poststart #0: exit status 3: first\nno device");
    REQUIRE_FALSE(none);
    CHECK(none.error().message.starts_with(
        "error running hook: poststop #0: exit status 127: /nonesuch: "));
    CHECK_FALSE(daemon);
    CHECK(os::read_file(AT_FDCWD, place.c_str())->empty());
}

TEST_CASE("a hook that takes too long is killed") {
    const Json hooks = {
        {"prestart", {Json{{"path", "/bin/sleep"}, {"args", {"sleep", "1000"}}, {"timeout", 1}}}}};
    const auto failed = run_hooks(hooks, "prestart", "");
    REQUIRE_FALSE(failed);
    CHECK(failed.error().code == os::Code::DeadlineExceeded);
}

namespace {

// What is kept of what a process says on the two ways in.
template <typename Talk>
void keep_log_of(const Scratch& scratch, Talk talk) {
    std::array<int, 2> console{-1, -1};
    std::array<int, 2> messages{-1, -1};
    REQUIRE(::pipe2(console.data(), O_CLOEXEC) == 0);
    REQUIRE(::pipe2(messages.data(), O_CLOEXEC) == 0);
    const pid_t talker = ::fork();
    if (talker == 0) {
        talk(console[1], messages[1]);
        ::_exit(0);
    }
    ::close(console[1]);
    ::close(messages[1]);
    auto log = VmLog::open(scratch.path());
    REQUIRE(log);
    log->keep(console[0], messages[0]);
    ::close(console[0]);
    ::close(messages[0]);
    ::waitpid(talker, nullptr, 0);
}

void say(int to, std::string_view text) {
    static_cast<void>(!::write(to, text.data(), text.size()));
}

constexpr std::size_t most_of_log = 8u << 20;

} // namespace

TEST_CASE("a VM's log has a bound, and its end is the end of what was said") {
    const Scratch scratch;
    keep_log_of(scratch, [](int console, int) {
        const std::string piece(8192, 'x');
        for (int i = 0; i < 400; ++i)
            say(console, piece);
        say(console, "\nthe end");
    });
    const auto now = os::read_file(AT_FDCWD, (scratch / "log").c_str(), most_of_log);
    const auto before = os::read_file(AT_FDCWD, (scratch / "log.1").c_str(), most_of_log);
    REQUIRE(now);
    REQUIRE(before);
    CHECK(now->size() <= static_cast<std::size_t>(VmLog::largest));
    CHECK(before->size() <= static_cast<std::size_t>(VmLog::largest));
    CHECK(names_in(scratch.path()).size() == 2);
    std::string last;
    read_vm_log(*now, [&](const VmLogLine& line) { last = line.message; });
    CHECK(last == "the end");
}

TEST_CASE("a VM's log: messages without an end are not kept until they have one") {
    const Scratch scratch;
    keep_log_of(scratch, [](int, int messages) {
        const std::string piece(8192, 'x');
        for (int i = 0; i < 400; ++i)
            say(messages, piece);
        say(messages, "\n" + log_line("error", "vmm", "the end"));
    });
    const auto now = os::read_file(AT_FDCWD, (scratch / "log").c_str(), most_of_log);
    REQUIRE(now);
    CHECK(now->size() <= static_cast<std::size_t>(VmLog::largest));
    std::string last;
    read_vm_log(*now, [&](const VmLogLine& line) { last = line.message; });
    CHECK(last == "the end");
}

TEST_CASE("a VM's log: who said what, whatever the guest writes") {
    const Scratch scratch;
    keep_log_of(scratch, [](int console, int messages) {
        say(messages, log_line("warning", "kernel", "low on memory"));
        say(console, "one\r\n\n\xff\n{\"source\":\"vmm\",\"message\":\"I am not\"}\nend");
    });
    const auto text = os::read_file(AT_FDCWD, (scratch / "log").c_str(), most_of_log);
    REQUIRE(text);
    std::vector<std::string> agent;
    std::vector<std::string> others;
    read_vm_log(*text + "not a line\n{}", [&](const VmLogLine& line) {
        if (line.source == "agent")
            agent.push_back(line.message);
        else if (!line.source.empty())
            others.push_back(os::text(line.source, " ", line.level, " ", line.message));
    });
    CHECK(others == std::vector<std::string>{"kernel warning low on memory"});
    REQUIRE(agent.size() == 5);
    CHECK(agent[0] == "one");
    CHECK(agent[1].empty());
    CHECK(agent[3].find("I am not") != std::string::npos);
    CHECK(agent[4] == "end");
}

namespace {

// What is said of a descriptor 3; in a child, so that the number is free.
std::string verdict_on(int fd) {
    std::array<int, 2> ends{};
    REQUIRE(::pipe(ends.data()) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::close(ends[0]);
        const int answer = ::fcntl(ends[1], F_DUPFD, 100);
        if (fd >= 0)
            ::dup2(fd, 3); // dup2(2) of itself keeps the flag
        else
            ::close(3);
        if (fd == 3)
            ::fcntl(3, F_SETFD, 0);
        const auto judged = preserved_fds(1);
        const std::string text =
            judged ? proto::Preserved_Name(judged->front().kind) : judged.error().message;
        ::_exit(::write(answer, text.data(), text.size()) < 0);
    }
    ::close(ends[1]);
    std::string text(4096, '\0');
    const ssize_t got = ::read(ends[0], text.data(), text.size());
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    ::close(ends[0]);
    ::waitpid(child, nullptr, 0);
    return text;
}

std::string refusal(const char* what) {
    return std::string("descriptor 3 to preserve is ") + what + ", which cannot reach into a VM";
}

} // namespace

TEST_CASE(
    "descriptors to preserve: streams of bytes are relayed, all else is refused by its name") {
    const os::UniqueFd null(::open("/dev/null", O_RDWR));
    CHECK(verdict_on(null.get()) == "DEV_NULL");
    const os::UniqueFd reading(::open("/proc/self/exe", O_RDONLY));
    CHECK(verdict_on(reading.get()) == "INTO");
    const os::UniqueFd both(::open("/tmp", O_TMPFILE | O_RDWR, 0600));
    CHECK(verdict_on(both.get())
              .starts_with(refusal("a file or pipe that is open for both reading and writing")));
    const os::UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY));
    CHECK(verdict_on(directory.get()).starts_with(refusal("a directory")));
    std::array<int, 2> ends{};
    REQUIRE(::pipe(ends.data()) == 0);
    CHECK(verdict_on(ends[0]) == "INTO");
    CHECK(verdict_on(ends[1]) == "OUT_OF");
    const os::UniqueFd reader(ends[0]);
    const os::UniqueFd writer(ends[1]);
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0);
    const os::UniqueFd near(ends[0]);
    const os::UniqueFd far(ends[1]);
    CHECK(verdict_on(near.get()) == "BOTH");
    const os::UniqueFd listening(::socket(AF_INET, SOCK_STREAM, 0));
    CHECK(verdict_on(listening.get()).starts_with(refusal("a socket that is not connected")));
    REQUIRE(::listen(listening.get(), 1) == 0);
    CHECK(verdict_on(listening.get()).starts_with(refusal("a listening socket")));
    const os::UniqueFd messages(::socket(AF_INET, SOCK_DGRAM, 0));
    CHECK(verdict_on(messages.get()).starts_with(refusal("a socket that carries messages")));
    CHECK(verdict_on(-1) == "descriptor 3 to preserve (of 1) is not open");
    CHECK(preserved_fds(65).error().message == "descriptors to preserve: 65 are more than 64");
}

TEST_CASE("control groups: systemd's names become the directories that systemd makes") {
    const auto endings = [](std::string_view path, const std::string& wanted) {
        const auto places = cgroup_places(path);
        REQUIRE(places);
        return std::all_of(places->begin(), places->end(),
                           [&](const std::string& place) { return place.ends_with(wanted); });
    };
    CHECK(endings("user-1000.slice:libpod:abc", "/user.slice/user-1000.slice/libpod-abc.scope"));
    CHECK(endings("a-b-c.slice:x:y", "/a.slice/a-b.slice/a-b-c.slice/x-y.scope"));
    CHECK(endings(":x:y", "/system.slice/x-y.scope"));
    CHECK(endings("-.slice::y", "/y.scope"));
    CHECK(endings("/kube/pod/one", "/kube/pod/one"));
    CHECK_FALSE(cgroup_places("/kube/../one"));
}

TEST_CASE("control groups: memory, CPUs and processes are limited where there is a controller") {
    const Scratch scratch;
    const std::string one = scratch / "v1";
    const std::string two = scratch / "v2";
    REQUIRE(make_directories(one));
    REQUIRE(make_directories(two + "/below"));
    REQUIRE(write_whole(one + "/memory.limit_in_bytes", "-1"));
    REQUIRE(write_whole(two + "/cgroup.subtree_control", ""));
    REQUIRE(write_whole(two + "/below/memory.max", "max"));
    REQUIRE(write_whole(two + "/below/pids.max", "max"));
    REQUIRE(write_whole(two + "/below/cpu.max", "max 100000"));
    REQUIRE(write_whole(one + "/cpu.cfs_quota_us", "-1"));
    limit_cgroups({one, two + "/below", scratch / "none"}, {.memory = 4096});
    CHECK(*os::read_file(AT_FDCWD, (one + "/memory.limit_in_bytes").c_str()) == "4096");
    CHECK(*os::read_file(AT_FDCWD, (two + "/cgroup.subtree_control").c_str()) == "+memory");
    CHECK(*os::read_file(AT_FDCWD, (two + "/below/memory.max").c_str()) == "4096");
    CHECK(*os::read_file(AT_FDCWD, (two + "/below/pids.max").c_str()) == "max");
    limit_cgroups({one, two + "/below"}, {.cpus = 3, .processes = 70});
    const auto text = [](const std::string& path) {
        const auto read = os::read_file(AT_FDCWD, path.c_str());
        return read ? read->substr(0, read->find_first_of("\n")) : std::string();
    };
    CHECK(text(one + "/cpu.cfs_quota_us") == "300000");
    CHECK(text(two + "/below/cpu.max") == "300000 100000");
    CHECK(text(two + "/below/pids.max").starts_with("70"));
    CHECK(text(two + "/below/memory.max") == "4096");
    CHECK(names_in(one).size() == 2);
}

TEST_CASE("control groups: rates and weights of block devices are the VM's on the host") {
    const Scratch scratch;
    REQUIRE(write_quickly(scratch / "io.max", ""));
    REQUIRE(write_quickly(scratch / "io.weight", ""));
    const GuestConfig guest = guest_of(R"({"root": {"path": "/r"}, "linux": {"resources": {
        "pids": {"limit": 5},
        "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1048576}]}}}})");
    CHECK(guest.spec["linux"]["resources"] == Json({{"pids", {{"limit", 5}}}}));
    CHECK(guest.block_io.apply({scratch.path()}).empty());
    CHECK(*os::read_file(AT_FDCWD, (scratch / "io.max").c_str()) == "8:16 rbps=1048576");
    CHECK(*os::read_file(AT_FDCWD, (scratch / "io.weight").c_str()) == "default 4950");
    CHECK(guest.block_io.apply({scratch / "none"}).size() == 2);
    Json wrong = Json{{"blockIO", {{"weight", 5}}}};
    CHECK(BlockIo::take(wrong).error().message ==
          "linux.resources.blockIO.weight: must lie between 10 and 1000");
}

TEST_CASE("control groups: version 1 has files of its own for each rate") {
    const Scratch scratch;
    REQUIRE(write_quickly(scratch / "blkio.throttle.write_iops_device", ""));
    Json resources = Json{
        {"blockIO", {{"throttleWriteIOPSDevice", {{{"major", 8}, {"minor", 0}, {"rate", 9}}}}}}};
    const auto taken = BlockIo::take(resources);
    REQUIRE(taken);
    CHECK(taken->apply({scratch.path()}).empty());
    CHECK(*os::read_file(AT_FDCWD, (scratch / "blkio.throttle.write_iops_device").c_str()) ==
          "8:0 9");
}

TEST_CASE("a VM is limited on the host, also when nobody has said how large it is to be") {
    CHECK(limits_of({.memory = "512M"}).memory == (std::uint64_t{512} << 20) + vm_overhead_bytes);
    CHECK(limits_of({}).memory == largest_usual_memory + vm_overhead_bytes);
}

TEST_CASE("a named process's record and end are found until they are removed") {
    const Scratch scratch;
    const StateRoot root(scratch.path());
    REQUIRE(make_directories(root.container("one")));
    REQUIRE(ExecRecord{"worker.2", {12, 34}, true}.store(root, "one"));
    REQUIRE(ExitRecord{137, 5, true}.store(ExecRecord::exit_path(root, "one", "worker.2")));
    CHECK(ExecRecord::names(root, "one") == std::vector<std::string>{"worker.2"});
    const auto found = ExecRecord::load(root, "one", "worker.2");
    REQUIRE(found);
    CHECK(found->process.pid == 12);
    CHECK(found->terminal);
    const auto exit = ExitRecord::load(ExecRecord::exit_path(root, "one", "worker.2"));
    REQUIRE(exit);
    CHECK((exit->status == 137 && exit->at == 5 && exit->oom_killed));
    CHECK_FALSE(ExecRecord::load(root, "one", "../one/exec-worker.2"));
    ExecRecord::remove(root, "one", "worker.2");
    CHECK(names_in(root.container("one")).empty());
}

TEST_CASE("where a configuration wants its network") {
    CHECK_FALSE(guest_of(R"({"root": {"path": "r"}, "linux": {}})").own_network);
    const GuestConfig fresh =
        guest_of(R"({"root": {"path": "r"}, "linux": {"namespaces": [{"type": "network"}]}})");
    CHECK(fresh.own_network);
    CHECK(fresh.network_namespace.empty());
    const GuestConfig joined = guest_of(
        R"({"root": {"path": "r"}, "linux": {"namespaces": [{"type": "network", "path": "/n"}]}})");
    CHECK(joined.own_network);
    CHECK(joined.network_namespace == "/n");
}
