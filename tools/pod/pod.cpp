#include "tools/pod/pod.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>

#include "tools/pod/mount_namespace.hpp"
#include "tools/pod/vm_log.hpp"

namespace pod {

namespace {

// No name is used twice in a share, so that nothing the guest remembers of it is ever wrong.
std::string fresh_name() {
    std::array<unsigned char, 8> bytes{};
    // Short only if the machine has no entropy at all; then the clash shows when it is made.
    static_cast<void>(::getrandom(bytes.data(), bytes.size(), 0) == 0);
    constexpr std::string_view digits = "0123456789abcdef";
    std::string out;
    for (const unsigned char byte : bytes) {
        out += digits[byte >> 4];
        out += digits[byte & 15];
    }
    return out;
}

os::Result<void> make_place(const std::string& path, bool directory) {
    if (directory) {
        if (::mkdir(path.c_str(), 0700) != 0)
            return os::fail_errno(errno, "make ", path);
        return {};
    }
    const os::UniqueFd file(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file)
        return os::fail_errno(errno, "make ", path);
    return {};
}

// In any mount namespace, what is mounted there goes with it.
void remove_place(const std::string& path) {
    if (::rmdir(path.c_str()) != 0 && errno == ENOTDIR)
        ::unlink(path.c_str());
}

// The log goes with the pod; what it ends with may say why.
std::string end_of(const std::string& path) {
    constexpr off_t most = 4096;
    const os::UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat about {};
    if (!file || ::fstat(file.get(), &about) != 0)
        return {};
    std::string text(static_cast<std::size_t>(std::min(about.st_size, most)), '\0');
    const ssize_t got = ::pread(file.get(), text.data(), text.size(),
                                about.st_size - static_cast<off_t>(text.size()));
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    std::string said;
    read_vm_log(text, [&said](const VmLogLine& line) {
        said += os::text(said.empty() ? "" : "\n", line.source == "vmm" ? "joey" : line.source,
                         ": ", line.message);
    });
    constexpr std::size_t longest = 600;
    return said.substr(said.size() - std::min(said.size(), longest));
}

// Where the guest's connections to that port arrive.
os::Result<std::shared_ptr<os::UniqueFd>> listen_for_agent(const std::string& directory) {
    const os::UniqueFd place(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    auto socket = std::make_shared<os::UniqueFd>(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // By the directory's descriptor: its path may be longer than a socket's name can be.
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(name.sun_path, sizeof name.sun_path, "/proc/self/fd/%d/vsock_%u", place.get(),
                  ready_port);
    if (!place || !*socket ||
        ::bind(socket->get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 ||
        ::listen(socket->get(), 1) != 0)
        return os::fail_errno(errno, "listen for the agent");
    return socket;
}

ProcessId vm_of(const std::string& directory) {
    const auto record = read_json(directory + "/vm.json");
    return record ? ProcessId::from_json(*record) : ProcessId();
}

} // namespace

std::string guest_path(const Shared& shared) {
    return os::text(guest_share, "/", shared.name);
}

os::Result<Pod> Pod::start(const StateRoot& root, const std::string& id, VmConfig config) {
    TRY(check_id(id));
    const std::string directory = root.pod(id);
    if (exists(directory))
        Pod(id, directory, vm_of(directory)).remove();
    TRY(make_directories(directory + "/share"));
    TRY(make_directories(directory + "/root"));
    // The guest's root directory has no more than places for mounts.
    if (::chmod((directory + "/root").c_str(), 0755) != 0)
        return os::fail_errno(errno, "prepare ", directory);
    for (const char* name : {"proc", "sys", "dev", "run", "tmp", "share"})
        TRY(make_directories(directory + "/root/" + name));
    config.directory = directory;
    Pod made(id, directory, {});
    TRY(made.ready_, listen_for_agent(directory));
    auto vm = start_vm(config);
    if (!vm) {
        made.remove();
        return base::Failure(vm.error());
    }
    made.vm_ = *vm;
    return made;
}

os::Result<Pod> Pod::open(const StateRoot& root, const std::string& id) {
    TRY(check_id(id));
    const std::string directory = root.pod(id);
    if (!exists(directory))
        return os::fail(os::Code::NotFound, "pod ", id, " does not exist");
    return Pod(id, directory, vm_of(directory));
}

os::Result<std::unique_ptr<AgentLink>> Pod::connect(os::EventLoop& loop,
                                                    std::chrono::milliseconds limit) const {
    auto link = is_running()
                    ? AgentLink::connect(loop, directory_, vm_, limit, ready_ ? ready_->get() : -1)
                    : os::fail(os::Code::Unavailable, "the VM of pod ", id_, " has ended");
    if (link) {
        if (ready_)
            ready_->reset(); // known by now
        return link;
    }
    const std::string said = end_of(directory_ + "/log");
    return os::fail(link.error().code, link.error().message,
                    said.empty() ? "" : "; its last words: ", said);
}

os::Result<Pod::Place> Pod::place_for(const StateRoot& root, const Wanted& wanted) const {
    const std::string& source = wanted.source;
    struct stat about {};
    struct statvfs mount {};
    if (::stat(source.c_str(), &about) != 0 || ::statvfs(source.c_str(), &mount) != 0)
        return os::fail_errno(errno, source);
    if (!S_ISDIR(about.st_mode) && !S_ISREG(about.st_mode) && !S_ISSOCK(about.st_mode) &&
        !S_ISFIFO(about.st_mode))
        return os::fail(os::Code::InvalidArgument, source, ": neither a directory nor a file");
    // The host may have mounted the same directory twice, and write-protected once.
    const Shared fresh{fresh_name(),     about.st_dev,     about.st_ino,
                       wanted.read_only, wanted.recursive, mount.f_flag & (ST_RDONLY | ST_NOEXEC)};
    for (const std::string& other : wanted.alone ? std::vector<std::string>() : root.containers()) {
        const auto record = ContainerRecord::load(root, other);
        if (!record || record->pod != id_)
            continue;
        const auto same =
            std::find_if(record->shared.begin(), record->shared.end(), [&](const Shared& one) {
                return one.device == fresh.device && one.inode == fresh.inode &&
                       one.read_only == fresh.read_only && one.recursive == fresh.recursive &&
                       one.mount_flags == fresh.mount_flags;
            });
        if (same != record->shared.end())
            return Place{*same, false};
    }
    return Place{fresh, true};
}

os::Result<void> Pod::share(const std::vector<Showing>& all) const {
    std::vector<MountCopy> copies;
    os::Result<void> done;
    const auto prepare = [&](const Showing& one) -> os::Result<void> {
        TRY(os::UniqueFd tree, copy_of_mount(one.source, one.recursive, one.shared.read_only));
        // What is shown is what was copied, whatever the name leads to by now.
        struct stat about {};
        if (::fstat(tree.get(), &about) != 0)
            return os::fail_errno(errno, one.source);
        const std::string place = directory_ + "/share/" + one.shared.name;
        TRY(make_place(place, S_ISDIR(about.st_mode)));
        copies.push_back({std::move(tree), place});
        return {};
    };
    for (const Showing& one : all) {
        if (done)
            done = prepare(one);
    }
    if (done && !copies.empty())
        done = mount_for(vm_, copies);
    for (const MountCopy& copy : copies) {
        if (!done)
            remove_place(copy.target);
    }
    return done;
}

void Pod::unshare(const StateRoot& root, const std::vector<Shared>& shared,
                  const std::string& except) const {
    std::vector<std::string> used;
    for (const std::string& other : root.containers()) {
        if (other == except)
            continue;
        // One that is being created may have been given a place that others have. It is asked for
        // first: what it has begun with goes when its record is there.
        for (const auto load : {ContainerRecord::load_begun, ContainerRecord::load}) {
            const auto record = load(root, other);
            if (!record || record->pod != id_)
                continue;
            for (const Shared& one : record->shared)
                used.push_back(one.name);
        }
    }
    for (const Shared& one : shared) {
        if (std::find(used.begin(), used.end(), one.name) == used.end())
            remove_place(directory_ + "/share/" + one.name);
    }
}

void Pod::end(std::chrono::milliseconds patience) const {
    if (!is_running())
        return;
    const auto deadline = std::chrono::steady_clock::now() + patience;
    const auto left = [deadline](std::chrono::milliseconds least) {
        return std::max(std::chrono::duration_cast<std::chrono::milliseconds>(
                            deadline - std::chrono::steady_clock::now()),
                        least);
    };
    const auto patience_for_answer = pod::patience(std::chrono::seconds(2));
    if (const auto loop = os::EventLoop::create()) {
        const auto link =
            AgentLink::connect(**loop, directory_, vm_, std::min(patience_for_answer, patience));
        if (link) {
            // To a call, no time at all is all the time there is.
            static_cast<void>((*link)
                                  ->call<proto::Empty>("Shutdown", proto::Empty(),
                                                       left(std::chrono::milliseconds(1)))
                                  .has_value());
            if (vm_.wait_for_end(left(std::chrono::milliseconds(0))))
                return;
        }
    }
    static_cast<void>(vm_.kill_and_wait(usual_patience()));
}

void Pod::end_unless_used(const StateRoot& root, const std::string& except) const {
    const auto held = lock();
    // Whoever has removed the pod meanwhile has ended its VM.
    if (held && !is_used(root, id_, except))
        end();
}

void Pod::remove(std::chrono::milliseconds patience) const {
    end(patience);
    static_cast<void>(remove_tree(directory_).has_value());
}

} // namespace pod
