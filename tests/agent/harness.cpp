#include "tests/agent/harness.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sched.h>
#include <sstream>

#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

namespace agent_test {

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

[[noreturn]] void give_up(const std::string& why) {
    std::fprintf(stderr, "agent tests: %s (%s)\n", why.c_str(), strerrordesc_np(errno));
    std::exit(1);
}

void must(bool holds, const std::string& what) {
    if (!holds)
        give_up(what);
}

void make_rootfs(const std::string& path) {
    for (const char* name :
         {"bin", "dev", "etc", "proc", "sys", "tmp", "root", "home/user", "var/lib", "run"})
        fs::create_directories(path + "/" + name);
    fs::copy_file("/bin/busybox", path + "/bin/busybox");
    for (const char* applet :
         {"sh",      "cat",     "echo",     "ls",       "id",    "sleep", "mount",
          "umount",  "stat",    "ip",       "hostname", "kill",  "ps",    "touch",
          "mkdir",   "rm",      "ln",       "env",      "head",  "wc",    "tr",
          "grep",    "sed",     "readlink", "mknod",    "chown", "chmod", "dd",
          "test",    "true",    "false",    "stty",     "tty",   "uname", "cut",
          "nproc",   "sort",    "seq",      "awk",      "cp",    "pwd",   "unshare",
          "chroot",  "setsid",  "yes",      "ping",     "sync",  "date",  "dnsdomainname",
          "setarch", "linux32", "su",       "top"})
        fs::create_symlink("busybox", path + "/bin/" + applet);
    std::ofstream(path + "/etc/passwd")
        << "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    std::ofstream(path + "/etc/group") << "root:x:0:\nuser:x:1000:\n";
    fs::permissions(path + "/tmp", static_cast<fs::perms>(01777));
}

void copy_rootfs(const std::string& from, const std::string& to) {
    fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    // What the umask has taken away.
    fs::permissions(to + "/tmp", static_cast<fs::perms>(01777));
}

// A patch that does as `first` and then `second` do: unlike merge_patch(), it keeps a null, which
// takes something away from what the patch is for.
json combined(json first, const json& second) {
    if (!first.is_object() || !second.is_object())
        return second;
    for (const auto& [key, value] : second.items())
        first[key] = first.contains(key) ? combined(first[key], value) : value;
    return first;
}

} // namespace

Agent& Agent::shared() {
    static Agent agent;
    return agent;
}

Agent::Agent() : loop_(std::move(*os::EventLoop::create())) {
    must(geteuid() == 0, "must run as root: containers need mounts, namespaces and control groups");
    std::string name = "/tmp/joey-agent-XXXXXX";
    must(mkdtemp(name.data()) != nullptr, "make a directory");
    directory_ = name;
    must(chmod(directory_.c_str(), 0755) == 0, "open the directory");
    // Nothing of what is mounted here is seen elsewhere, and all of it goes with the last process.
    must(unshare(CLONE_NEWNS) == 0 &&
             mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0,
         "make a mount namespace");
    must(mount("tmpfs", directory_.c_str(), "tmpfs", 0, "mode=0755") == 0, "mount a tmpfs");
    fs::create_directories(directory_ + "/cgroup");
    fs::create_directories(directory_ + "/bundles");
    must(mount("cgroup2", (directory_ + "/cgroup").c_str(), "cgroup2", 0, nullptr) == 0,
         "mount control groups version 2");
    cgroup_root_ = os::text(directory_, "/cgroup/joey-agent-test-", getpid());
    must(mkdir(cgroup_root_.c_str(), 0755) == 0, "make a control group");
    make_rootfs(directory_ + "/template");
    start();
    std::string missing;
    for (const char* controller : {"cpu", "memory", "pids", "io", "cpuset"}) {
        if (!has_controller(controller))
            missing += os::text(" ", controller);
    }
    if (!missing.empty())
        std::fprintf(stderr,
                     "agent tests: THIS HOST'S CONTROL GROUPS VERSION 2 LACK:%s. Whether those "
                     "limits bite is "
                     "tested in the guest; here, that they are refused with the reason.\n",
                     missing.c_str());
}

pid_t Agent::start_another(const std::string& socket, const std::string& cgroup_root) {
    const char* program = std::getenv("JOEY_AGENT");
    must(program != nullptr, "JOEY_AGENT must name the agent's program");
    // The agent's own messages and a sanitizer's go where this program's go.
    const pid_t pid = fork();
    if (pid == 0) {
        const std::string listen = "unix:" + socket;
        // How much it holds is tested, too: of what is freed, a sanitizer keeps a little only.
        setenv("ASAN_OPTIONS", "quarantine_size_mb=8", 0);
        execl(program, program, "--listen", listen.c_str(), "--cgroup-root", cgroup_root.c_str(),
              nullptr);
        give_up(program);
    }
    return pid;
}

void Agent::start() {
    pid_ = start_another(directory_ + "/agent.sock", cgroup_root_);
    client_ = connect();
}

std::unique_ptr<ttrpc::Client> Agent::connect(const std::string& path) {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(address.sun_path, sizeof address.sun_path, "%s", path.c_str());
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const bool connected = eventually([&] {
        return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address),
                         sizeof address) == 0;
    });
    must(connected, "connect to the agent");
    return std::move(*ttrpc::Client::start(*loop_, std::move(socket)));
}

bool Agent::eventually(const std::function<bool()>& holds) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!holds()) {
        if (std::chrono::steady_clock::now() > deadline)
            return false;
        loop_->run_once(std::chrono::milliseconds(2));
        usleep(1000);
    }
    return true;
}

bool Agent::has_controller(const std::string& name) {
    const auto info = call<proto::InfoResponse>("Info", proto::InfoRequest());
    return info && std::count(info->controllers().begin(), info->controllers().end(), name) > 0;
}

Agent::~Agent() {
    static_cast<void>(call<proto::Empty>("Shutdown", proto::Empty()));
    int status = 0;
    waitpid(pid_, &status, 0);
    if (status != 0) {
        std::fprintf(stderr, "agent tests: the agent ended with wait status %d\n", status);
        std::_Exit(1);
    }
    rmdir(cgroup_root_.c_str());
    umount2((directory_ + "/cgroup").c_str(), MNT_DETACH);
    umount2(directory_.c_str(), MNT_DETACH);
    rmdir(directory_.c_str());
}

std::string merged(const std::string& base, const std::string& patch) {
    json out = json::parse(base);
    out.merge_patch(json::parse(patch));
    return out.dump();
}

std::string script_spec(const std::string& script, const std::string& patch) {
    json spec = {{"process", {{"args", {"sh", "-c", script}}}}};
    return combined(spec, json::parse(patch)).dump();
}

const std::string& base_spec() {
    static const std::string text = R"({
      "ociVersion": "1.0.2",
      "process": {
        "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/",
        "env": ["PATH=/bin", "TERM=xterm"],
        "capabilities": {
          "bounding": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"],
          "effective": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"],
          "permitted": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": true
      },
      "root": {"path": "rootfs", "readonly": false},
      "hostname": "joey-test",
      "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
      ],
      "linux": {
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
        "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
      }
    })";
    return text;
}

TestContainer::TestContainer(const std::string& patch) : spec_(merged(base_spec(), patch)) {
    static int count = 0;
    Agent& agent = Agent::shared();
    id_ = os::text("c", ++count);
    bundle_ = agent.directory() + "/bundles/" + id_;
    fs::create_directories(bundle_);
    copy_rootfs(agent.directory() + "/template", rootfs());
}

TestContainer::~TestContainer() {
    static_cast<void>(remove(true));
    Agent::shared().eventually([this] {
        for (const auto& entry : collected_) {
            if (entry->open_streams > 0)
                return false;
        }
        return true;
    });
    std::error_code ignored;
    fs::remove_all(bundle_, ignored);
}

void TestContainer::write(const std::string& path, const std::string& text, unsigned mode) const {
    fs::create_directories(fs::path(rootfs() + path).parent_path());
    std::ofstream(rootfs() + path) << text;
    fs::permissions(rootfs() + path, static_cast<fs::perms>(mode));
}

std::string TestContainer::read(const std::string& path) const {
    std::ostringstream out;
    out << std::ifstream(rootfs() + path).rdbuf();
    return out.str();
}

os::Result<proto::CreateResponse> TestContainer::create() {
    proto::CreateRequest request;
    request.set_container_id(id_);
    request.set_bundle(bundle_);
    request.set_spec(spec_);
    request.mutable_streams()->set_input(input);
    request.mutable_streams()->set_output(true);
    request.mutable_streams()->set_error(true);
    return Agent::shared().call<proto::CreateResponse>("Create", request);
}

os::Result<proto::StartResponse> TestContainer::start(const std::string& exec_id) {
    proto::StartRequest request;
    request.set_container_id(id_);
    request.set_exec_id(exec_id);
    return Agent::shared().call<proto::StartResponse>("Start", request);
}

os::Result<proto::Empty> TestContainer::kill(int signal, bool all, const std::string& exec_id) {
    proto::SignalRequest request;
    request.set_container_id(id_);
    request.set_exec_id(exec_id);
    request.set_signal(static_cast<std::uint32_t>(signal));
    request.set_all(all);
    return Agent::shared().call<proto::Empty>("Signal", request);
}

os::Result<proto::WaitResponse> TestContainer::wait(const std::string& exec_id) {
    proto::ProcessRequest request;
    request.set_container_id(id_);
    request.set_exec_id(exec_id);
    return Agent::shared().call<proto::WaitResponse>("Wait", request);
}

os::Result<proto::WaitResponse> TestContainer::remove(bool force, const std::string& exec_id) {
    proto::DeleteRequest request;
    request.set_container_id(id_);
    request.set_exec_id(exec_id);
    request.set_force(force);
    return Agent::shared().call<proto::WaitResponse>("Delete", request);
}

os::Result<proto::StateResponse> TestContainer::state(const std::string& exec_id) {
    proto::ProcessRequest request;
    request.set_container_id(id_);
    request.set_exec_id(exec_id);
    return Agent::shared().call<proto::StateResponse>("State", request);
}

os::Result<proto::Empty> TestContainer::simple(const std::string& method) {
    proto::ContainerRequest request;
    request.set_container_id(id_);
    return Agent::shared().call<proto::Empty>(method, request);
}

void TestContainer::read_more(const std::string& exec_id, proto::OutputStream stream,
                              Collected& into) {
    proto::ReadOutputRequest request;
    request.set_container_id(id_);
    request.set_exec_id(exec_id);
    request.set_stream(stream);
    request.set_offset((stream == proto::STDOUT ? into.out : into.err).size());
    Agent::shared().client().call<proto::ReadOutputResponse>(
        "joey.agent.v1.Agent", "ReadOutput", request, ttrpc::Client::no_limit,
        [this, exec_id, stream, &into](const os::Result<proto::ReadOutputResponse>& answer) {
            if (!answer || answer->data().empty()) {
                --into.open_streams;
                return;
            }
            (stream == proto::STDOUT ? into.out : into.err) += answer->data();
            read_more(exec_id, stream, into);
        });
}

Collected& TestContainer::collect(const std::string& exec_id) {
    Collected& into = *collected_.emplace_back(std::make_unique<Collected>());
    into.open_streams = 2;
    read_more(exec_id, proto::STDOUT, into);
    read_more(exec_id, proto::STDERR, into);
    return into;
}

os::Result<proto::Empty> TestContainer::write_input(const std::string& data,
                                                    const std::string& exec_id) {
    proto::WriteInputRequest request;
    request.set_container_id(id_);
    request.set_exec_id(exec_id);
    request.set_data(data);
    return Agent::shared().call<proto::Empty>("WriteInput", request);
}

os::Result<proto::Empty> TestContainer::close_input(const std::string& exec_id) {
    proto::ProcessRequest request;
    request.set_container_id(id_);
    request.set_exec_id(exec_id);
    return Agent::shared().call<proto::Empty>("CloseInput", request);
}

void TestContainer::must_run() {
    const auto created = create();
    INFO((created ? "" : created.error().message));
    REQUIRE(created);
    const auto started = start();
    INFO((started ? "" : started.error().message));
    REQUIRE(started);
}

Outcome TestContainer::run() {
    Outcome outcome;
    if (const auto created = create(); !created) {
        outcome.error = created.error().message;
        UNSCOPED_INFO("create: " << outcome.error);
        return outcome;
    }
    const Collected& collected = collect();
    if (const auto started = start(); !started) {
        outcome.error = started.error().message;
        UNSCOPED_INFO("start: " << outcome.error);
        return outcome;
    }
    const auto waited = wait();
    if (!waited) {
        outcome.error = waited.error().message;
        return outcome;
    }
    Agent::shared().eventually([&] { return collected.open_streams == 0; });
    outcome.code = static_cast<int>(waited->exit().code());
    outcome.signal = static_cast<int>(waited->exit().signal());
    outcome.out = collected.out;
    outcome.err = collected.err;
    if (!outcome.err.empty())
        UNSCOPED_INFO("standard error: " << outcome.err);
    return outcome;
}

os::Result<proto::ExecResponse>
TestContainer::create_exec(const std::string& exec_id, const std::string& process, bool with_input,
                           const std::vector<proto::Preserved>& preserved) {
    json base = json::parse(base_spec())["process"];
    base.erase("rlimits");
    base.merge_patch(json::parse(process));
    proto::ExecRequest request;
    request.set_container_id(id_);
    request.set_exec_id(exec_id);
    request.set_process(base.dump());
    request.mutable_streams()->set_input(with_input);
    request.mutable_streams()->set_output(true);
    request.mutable_streams()->set_error(true);
    for (const proto::Preserved kind : preserved)
        request.mutable_streams()->add_preserved(kind);
    return Agent::shared().call<proto::ExecResponse>("Exec", request);
}

Outcome TestContainer::exec(const std::string& script, const std::string& patch) {
    Outcome outcome;
    const std::string exec_id = os::text("e", ++executed_);
    const json process = combined({{"args", {"sh", "-c", script}}}, json::parse(patch));
    if (const auto created = create_exec(exec_id, process.dump()); !created) {
        outcome.error = created.error().message;
        return outcome;
    }
    const Collected& collected = collect(exec_id);
    if (const auto started = start(exec_id); !started) {
        outcome.error = started.error().message;
        return outcome;
    }
    const auto waited = wait(exec_id);
    Agent::shared().eventually([&] { return collected.open_streams == 0; });
    outcome.code = waited ? static_cast<int>(waited->exit().code()) : -1;
    outcome.signal = waited ? static_cast<int>(waited->exit().signal()) : 0;
    outcome.out = collected.out;
    outcome.err = collected.err;
    static_cast<void>(remove(false, exec_id));
    return outcome;
}

Outcome run_script(const std::string& script, const std::string& patch) {
    return TestContainer(script_spec(script, patch)).run();
}

} // namespace agent_test
