#include "tools/joey/shares.hpp"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>

#include <sys/stat.h>

#include <fmt/format.h>

namespace joey {
namespace {

constexpr const char* root_tag = "root";

} // namespace

Outcome<void> Shares::add(const std::string& path, const std::string& tag,
                          virtio::ShareConfig config,
                          const std::function<bool()>& on_worker_start) {
    virtio::UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (fd.get() < 0)
        return fail(fmt::format("cannot share {}: {}", path, std::strerror(errno)));
    paths_.push_back({fd.get(), !config.read_only});
    fds_.push_back(std::move(fd));
    config.path = path;
    auto server = virtio::FsServer::create(std::move(config));
    if (!server)
        return fail(fmt::format("cannot share {}: {}: {}", path, server.error().action,
                                std::strerror(server.error().code)));
    if (tag != root_tag)
        volumes_.back().is_file = !(*server)->file_name().empty();
    virtio::FsOptions options;
    options.on_worker_start = on_worker_start;
    devices_.push_back(std::make_unique<virtio::Fs>(tag, std::move(*server), std::move(options)));
    return {};
}

Outcome<Shares> Shares::open(const DoOptions& options,
                             const std::function<bool()>& on_worker_start) {
    Shares shares;
    struct stat status {};
    if (::stat(options.rootfs.c_str(), &status) != 0)
        return fail(fmt::format("--rootfs {}: {}; give a directory that holds a root file system",
                                options.rootfs, std::strerror(errno)));
    if (!S_ISDIR(status.st_mode))
        return fail(fmt::format("--rootfs {}: not a directory", options.rootfs));
    virtio::ShareConfig root;
    root.read_only = !options.read_write;
    // Under the overlay the root is taken for a snapshot: that is what lets the guest keep names
    // and pages. A root that is written to is shared with whoever else writes to it.
    root.cache = options.read_write ? virtio::Cache::Auto : virtio::Cache::Always;
    root.device_nodes = options.read_write;
    shares.root_mode_ = options.read_write ? boot::RootMode::ReadWrite : boot::RootMode::Overlay;
    TRY(shares.add(options.rootfs, root_tag, std::move(root), on_worker_start));

    for (const VolumeOption& option : options.volumes) {
        if (::stat(option.source.c_str(), &status) != 0)
            return fail(fmt::format("--volume {}: {}; give a directory or file of this machine",
                                    option.source, std::strerror(errno)));
        if (!S_ISDIR(status.st_mode) && !S_ISREG(status.st_mode))
            return fail(fmt::format("--volume {}: neither a directory nor a file", option.source));
        const std::string tag = fmt::format("volume{}", shares.volumes_.size());
        shares.volumes_.push_back({tag, option.destination, option.read_only, false});
        virtio::ShareConfig config;
        config.read_only = option.read_only;
        TRY(shares.add(option.source, tag, std::move(config), on_worker_start));
    }
    if (!options.core_directory.empty())
        TRY(shares.add_core_directory(options.core_directory, on_worker_start));
    return shares;
}

// The directory lies inside where it lies on the host, so that nothing new appears in the root.
Outcome<void> Shares::add_core_directory(const std::string& directory,
                                         const std::function<bool()>& on_worker_start) {
    char resolved[PATH_MAX];
    struct stat status {};
    if (::realpath(directory.c_str(), resolved) == nullptr || ::stat(resolved, &status) != 0)
        return fail(fmt::format("--core {}: {}; give a directory of this machine", directory,
                                std::strerror(errno)));
    core_directory_ = resolved;
    if (!S_ISDIR(status.st_mode) || core_directory_ == "/")
        return fail(fmt::format("--core {}: give a directory, not {}", directory,
                                core_directory_ == "/" ? "the root" : "a file"));
    const std::string tag = fmt::format("volume{}", volumes_.size());
    volumes_.push_back({tag, core_directory_, false, false});
    return add(core_directory_, tag, virtio::ShareConfig{}, on_worker_start);
}

void Shares::describe(boot::GuestDescription& guest) const {
    guest.root_tag = root_tag;
    guest.root_mode = root_mode_;
    guest.volumes = volumes_;
    guest.core_directory = core_directory_;
}

} // namespace joey
