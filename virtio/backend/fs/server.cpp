#include "virtio/backend/fs/server.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>

#include <sys/resource.h>
#include <sys/stat.h>

#include "virtio/backend/fs/session.hpp"

namespace virtio {

namespace {

template <typename T>
using Result = base::Result<T, FsError>;

base::Failure<FsError> refuse(int code, const char* action) {
    return base::Failure(FsError{code, action});
}

// Descriptors for everything else in the process: KVM, devices, the caller's streams; where there
// are many, more of them, for the sockets of vsock and of the network.
constexpr std::size_t least_reserved_fds = 128;
std::size_t reserved_fds(std::size_t descriptors) {
    return std::max(least_reserved_fds, descriptors / 8);
}
constexpr std::size_t max_default_cached_fds = 4096;

std::size_t raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1024;
    if (limit.rlim_cur < limit.rlim_max) {
        const rlimit raised{limit.rlim_max, limit.rlim_max};
        if (::setrlimit(RLIMIT_NOFILE, &raised) == 0)
            limit = raised;
    }
    return static_cast<std::size_t>(std::min<rlim_t>(limit.rlim_cur, 1u << 20));
}

// The directory that `path` names or, if it names a regular file, the one that holds it.
Result<UniqueFd> open_root(const std::string& path, fs::Share& share) {
    UniqueFd root(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!root)
        return refuse(errno, "open the shared directory");
    struct stat found {};
    if (::fstat(root.get(), &found) != 0)
        return refuse(errno, "examine the shared directory");
    if (S_ISDIR(found.st_mode))
        return root;
    if (!S_ISREG(found.st_mode))
        return refuse(ENOTDIR, "share what is neither a directory nor a regular file");

    // By its real name, since the guest gets no symbolic link that leads out of the share.
    char* const resolved = ::realpath(path.c_str(), nullptr);
    if (resolved == nullptr)
        return refuse(errno, "resolve the path of the shared file");
    const std::string real = resolved;
    std::free(resolved);
    const std::size_t slash = real.rfind('/');
    share.only_name = real.substr(slash + 1);
    share.only_file = std::move(root);
    UniqueFd parent(::open(real.substr(0, slash + 1).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!parent)
        return refuse(errno, "open the directory of the shared file");
    return parent;
}

void prepare_process_for_writing() {
    ::umask(0);
    // A write beyond RLIMIT_FSIZE is to fail with EFBIG, not to end the process.
    struct sigaction action {};
    if (::sigaction(SIGXFSZ, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
        action.sa_handler = SIG_IGN;
        ::sigaction(SIGXFSZ, &action, nullptr);
    }
}

} // namespace

Result<std::unique_ptr<FsServer>> FsServer::create(ShareConfig config) {
    const std::size_t descriptors = raise_descriptor_limit();

    fs::Share share;
    if (config.directory) {
        share.directory = std::move(config.directory);
    } else {
        TRY(share.directory, open_root(config.path, share));
    }
    auto root = fs::stat_at(share.directory.get(), "");
    if (!root)
        return refuse(root.error().code, "examine the shared directory");
    share.root = *root;
    if (!S_ISDIR(share.root.stx_mode))
        return refuse(ENOTDIR, "share what is not a directory");
    const auto shareable =
        fs::DeviceMap::shareable(share.directory.get(), fs::device_of(share.root));
    if (!shareable)
        return refuse(EINVAL, "find out the type of the shared file system");
    if (!*shareable)
        return refuse(EINVAL, "share a file system that is an interface of the kernel");
    // openat2 exists, and lets us look inside.
    if (auto probe = fs::open_component(share.directory.get(), ".", O_PATH); !probe)
        return refuse(probe.error().code, "open the shared directory with openat2");

    auto proc = fs::ProcFds::open();
    if (!proc)
        return refuse(proc.error().code, "open /proc/self/fd");

    share.read_only = config.read_only;
    share.cache = config.cache;
    share.xattrs = config.xattrs;
    share.device_nodes = config.device_nodes;
    // Without this right an open that the host refuses has to be refused at the open, not later.
    share.zero_message_opens =
        config.read_only && config.zero_message_opens && fs::may_read_everything();
    share.switch_owner = !config.read_only && fs::may_switch_owner();
    const std::size_t reserved = reserved_fds(descriptors);
    const std::size_t usable =
        descriptors > 2 * reserved ? descriptors - reserved : descriptors / 2;
    share.max_cached_fds = std::clamp<std::size_t>(
        config.max_cached_fds != 0 ? config.max_cached_fds
                                   : std::min(usable / 4, max_default_cached_fds),
        8, usable);
    share.max_handles = usable;
    share.max_fds = config.max_fds != 0 ? config.max_fds : usable;
    if (!config.read_only)
        prepare_process_for_writing();

    auto session = std::make_unique<fs::Session>(std::move(share), std::move(*proc));
    return std::unique_ptr<FsServer>(new FsServer(std::move(session)));
}

FsServer::FsServer(std::unique_ptr<fs::Session> session) : session_(std::move(session)) {}
FsServer::~FsServer() = default;

std::size_t FsServer::handle(std::span<const struct iovec> in, std::span<const struct iovec> out,
                             Accept accept) noexcept {
    return session_->handle(in, out, accept);
}

std::array<std::uint64_t, FsServer::operation_count> FsServer::requests() const {
    return session_->requests();
}

void FsServer::reset() noexcept {
    session_->reset();
}

const std::string& FsServer::file_name() const {
    return session_->only_name();
}

} // namespace virtio
