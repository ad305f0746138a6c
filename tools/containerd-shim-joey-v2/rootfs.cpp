#include "tools/containerd-shim-joey-v2/rootfs.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>

#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "tools/pod/state_files.hpp"

namespace shim {

namespace {

struct Known {
    std::string_view name;
    unsigned long flag;
    bool clears;
};
constexpr std::array known = {
    Known{"async", MS_SYNCHRONOUS, true},
    Known{"atime", MS_NOATIME, true},
    Known{"bind", MS_BIND, false},
    Known{"defaults", 0, false},
    Known{"dev", MS_NODEV, true},
    Known{"diratime", MS_NODIRATIME, true},
    Known{"dirsync", MS_DIRSYNC, false},
    Known{"exec", MS_NOEXEC, true},
    Known{"mand", MS_MANDLOCK, false},
    Known{"noatime", MS_NOATIME, false},
    Known{"nodev", MS_NODEV, false},
    Known{"nodiratime", MS_NODIRATIME, false},
    Known{"noexec", MS_NOEXEC, false},
    Known{"nomand", MS_MANDLOCK, true},
    Known{"norelatime", MS_RELATIME, true},
    Known{"nostrictatime", MS_STRICTATIME, true},
    Known{"nosuid", MS_NOSUID, false},
    Known{"rbind", MS_BIND | MS_REC, false},
    Known{"relatime", MS_RELATIME, false},
    Known{"remount", MS_REMOUNT, false},
    Known{"ro", MS_RDONLY, false},
    Known{"rw", MS_RDONLY, true},
    Known{"strictatime", MS_STRICTATIME, false},
    Known{"suid", MS_NOSUID, true},
    Known{"sync", MS_SYNCHRONOUS, false},
};

constexpr std::size_t most_data = 4095;
constexpr std::string_view layers_option = "lowerdir=";

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> out;
    for (;;) {
        const std::size_t end = std::min(text.find(separator), text.size());
        out.emplace_back(text.substr(0, end));
        if (end == text.size())
            return out;
        text.remove_prefix(end + 1);
    }
}

std::string join(const std::vector<std::string>& parts, char separator) {
    std::string out;
    for (const std::string& part : parts) {
        if (!out.empty())
            out += separator;
        out += part;
    }
    return out;
}

// The longest directory that is above, or is, all of them.
std::string common_directory(const std::vector<std::string>& paths) {
    std::string common = paths.front().substr(0, paths.front().rfind('/') + 1);
    for (const std::string& path : paths) {
        while (!path.starts_with(common))
            common.erase(common.rfind('/', common.size() - 2) + 1);
    }
    return common;
}

os::Result<void> mount_one(MountCalls& calls, const Mount& mount, const std::string& target) {
    const MountOptions options = parse_options({mount.options().begin(), mount.options().end()});
    if (options.loop)
        return os::fail(os::Code::Unimplemented, "mount ", mount.source(),
                        ": loop devices are not set up; use a snapshotter with directories");
    const bool bind = (options.flags & MS_BIND) != 0;
    ShorterLayers layers{{}, options.data};
    if (options.data.size() > most_data)
        layers = shorten_layers(options.data);
    if (layers.data.size() > most_data)
        return os::fail(os::Code::InvalidArgument, "mount ", mount.type(), " on ", target,
                        ": the options are longer than a page");
    constexpr unsigned long kept_by_bind = MS_BIND | MS_REC;
    const unsigned long first = bind ? options.flags & kept_by_bind : options.flags;
    if (calls.mount(layers.directory, mount.source(), target, bind ? "" : mount.type(), first,
                    layers.data) != 0)
        return os::fail_errno(errno, "mount ", mount.type(), " ", mount.source(), " on ", target);
    if (bind && (options.flags & ~kept_by_bind) != 0 &&
        calls.mount({}, "", target, "", options.flags | MS_REMOUNT, "") != 0) {
        const int why = errno;
        calls.unmount(target, MNT_DETACH);
        return os::fail_errno(why, "change the options of ", target);
    }
    return {};
}

// Where a descriptor leads: a path without links.
os::Result<std::string> path_behind(int fd) {
    char path[PATH_MAX];
    const ssize_t length =
        ::readlink(os::text("/proc/self/fd/", fd).c_str(), path, sizeof path - 1);
    if (length <= 0)
        return os::fail_errno(errno, "find the place of a mount");
    return std::string(path, static_cast<std::size_t>(length));
}

// In the mount's root, as containerd has it. What is mounted there already is the image's, and its
// links are followed as the container would follow them: none leads out.
os::Result<std::string> place_of(const Mount& mount, const std::string& target) {
    if (mount.target().empty() || mount.target() == "/")
        return target;
    if (mount.target().find("..") != std::string::npos)
        return os::fail(os::Code::InvalidArgument, "mount target ", mount.target(),
                        " leads out of the root");
    const os::UniqueFd root(::open(target.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root)
        return os::fail_errno(errno, target);
    struct open_how how {};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    const os::UniqueFd place(static_cast<int>(
        ::syscall(SYS_openat2, root.get(), mount.target().c_str(), &how, sizeof how)));
    if (!place)
        return os::fail_errno(errno, "mount target ", mount.target());
    TRY(const std::string top, path_behind(root.get()));
    TRY(std::string path, path_behind(place.get()));
    if (!path.starts_with(top + "/"))
        return os::fail(os::Code::InvalidArgument, "mount target ", mount.target(),
                        " is not inside of the root");
    return path;
}

} // namespace

MountOptions parse_options(const std::vector<std::string>& options) {
    MountOptions out;
    std::vector<std::string> data;
    for (const std::string& option : options) {
        const auto* found = std::find_if(known.begin(), known.end(),
                                         [&](const Known& one) { return one.name == option; });
        if (option == "loop") {
            out.loop = true;
        } else if (found == known.end()) {
            data.push_back(option);
        } else if (found->clears) {
            out.flags &= ~found->flag;
            out.cleared |= found->flag;
        } else {
            out.flags |= found->flag;
        }
    }
    out.data = join(data, ',');
    return out;
}

ShorterLayers shorten_layers(const std::string& data) {
    std::vector<std::string> options = split(data, ',');
    const auto found = std::find_if(options.begin(), options.end(), [](const std::string& option) {
        return option.starts_with(layers_option);
    });
    if (found == options.end())
        return {{}, data};
    std::vector<std::string> layers = split(found->substr(layers_option.size()), ':');
    if (!std::all_of(layers.begin(), layers.end(),
                     [](const std::string& layer) { return layer.starts_with('/'); }))
        return {{}, data};
    const std::string common = common_directory(layers);
    if (common.size() < 2)
        return {{}, data};
    for (std::string& layer : layers)
        layer = layer.size() > common.size() ? layer.substr(common.size()) : ".";
    *found = os::text(layers_option, join(layers, ':'));
    return {common, join(options, ',')};
}

int MountCalls::mount(const std::string& directory, const std::string& source,
                      const std::string& target, const std::string& type, unsigned long flags,
                      const std::string& data) {
    if (!directory.empty() && ::chdir(directory.c_str()) != 0)
        return -1;
    const int done = ::mount(source.c_str(), target.c_str(), type.empty() ? nullptr : type.c_str(),
                             flags, data.empty() ? nullptr : data.c_str());
    const int why = errno;
    // Not to keep busy what the next one is to be mounted on.
    if (!directory.empty() && ::chdir("/") != 0)
        return -1;
    errno = why;
    return done;
}

int MountCalls::unmount(const std::string& target, int flags) {
    return ::umount2(target.c_str(), flags | UMOUNT_NOFOLLOW);
}

os::Result<void> mount_rootfs(MountCalls& calls, const std::vector<Mount>& mounts,
                              const std::string& target) {
    if (mounts.empty())
        return {};
    TRY(pod::make_directories(target));
    for (std::size_t i = 0; i < mounts.size(); ++i) {
        auto done = place_of(mounts[i], target);
        auto mounted = done ? mount_one(calls, mounts[i], *done)
                            : os::Result<void>(base::Failure(done.error()));
        if (mounted)
            continue;
        if (i > 0)
            static_cast<void>(unmount_rootfs(calls, target).has_value());
        return mounted;
    }
    return {};
}

os::Result<void> unmount_rootfs(MountCalls& calls, const std::string& target) {
    // One that is busy goes when nobody uses it any more.
    constexpr int most = 128;
    for (int i = 0; i < most; ++i) {
        if (calls.unmount(target, 0) == 0)
            continue;
        if (errno == EBUSY && calls.unmount(target, MNT_DETACH) == 0)
            continue;
        if (errno == EINVAL || errno == ENOENT)
            return {}; // nothing is mounted there
        return os::fail_errno(errno, "unmount ", target);
    }
    return os::fail(os::Code::Internal, "unmount ", target, ": it does not end");
}

} // namespace shim
