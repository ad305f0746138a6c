#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>

#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "agent/container/mount_calls.hpp"
#include "agent/container/rootfs.hpp"

namespace container {

namespace {

// The runtime-spec's default devices.
constexpr std::array<std::pair<const char*, std::pair<unsigned, unsigned>>, 6> default_devices = {{
    {"/dev/null", {1, 3}},
    {"/dev/zero", {1, 5}},
    {"/dev/full", {1, 7}},
    {"/dev/random", {1, 8}},
    {"/dev/urandom", {1, 9}},
    {"/dev/tty", {5, 0}},
}};

struct Link {
    const char* path;
    const char* target;
};
constexpr std::array links = {
    Link{"/dev/fd", "/proc/self/fd"}, Link{"/dev/stdin", "/proc/self/fd/0"},
    Link{"/dev/stdout", "/proc/self/fd/1"}, Link{"/dev/stderr", "/proc/self/fd/2"},
    Link{"/dev/ptmx", "pts/ptmx"}};

// In a user namespace no device can be made, but one of the outside can be mounted on a file. The
// path is then the outside's path as well.
os::Result<void> bind_device(int root, const spec::Device& device) {
    struct stat about {};
    if (stat(device.path.c_str(), &about) != 0)
        return os::fail_errno(errno, device.path);
    if ((about.st_mode & S_IFMT) != device.type ||
        about.st_rdev != makedev(device.major, device.minor))
        return os::fail(os::Code::FailedPrecondition, device.path,
                        ": is another device outside, and cannot be made here");
    TRY(const os::UniqueFd tree, clone_read_only(device.path.c_str()));
    TRY(const os::UniqueFd target, make_file_in_root(root, device.path));
    return attach(tree.get(), target.get());
}

os::Result<void> make_node(int root, const spec::Device& device) {
    TRY(const Place place, place_in_root(root, device.path));
    // An image may have a node there; what matters is that it is the right one and no link.
    struct stat about {};
    if (fstatat(place.directory.get(), place.name.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0 &&
        !S_ISDIR(about.st_mode) && unlinkat(place.directory.get(), place.name.c_str(), 0) != 0) {
        const bool is_mounted_over = errno == EBUSY;
        const bool is_right = (about.st_mode & S_IFMT) == device.type &&
                              about.st_rdev == makedev(device.major, device.minor);
        // A mount of the configuration has the say (-v /dev/urandom:/dev/random), as with runc; and
        // where nothing can be removed, nothing need be made again.
        if (is_mounted_over || is_right)
            return {};
    }
    const mode_t mode = device.type | device.mode;
    if (mknodat(place.directory.get(), place.name.c_str(), mode,
                makedev(device.major, device.minor)) != 0) {
        if (errno == EPERM && device.type != S_IFIFO)
            return bind_device(root, device);
        return os::fail_errno(errno, device.path);
    }
    // On a mount with "nodev", or of a user namespace, it exists and cannot be opened.
    if (fchownat(place.directory.get(), place.name.c_str(), device.uid, device.gid,
                 AT_SYMLINK_NOFOLLOW) != 0)
        return os::fail_errno(errno, device.path, ": set its owner");
    return {};
}

} // namespace

os::Result<void> make_device_nodes(int root, const spec::Spec& spec) {
    const std::vector<spec::Device>& own = spec.linux_part.devices;
    for (const auto& [path, number] : default_devices) {
        const char* name = path;
        if (std::any_of(own.begin(), own.end(),
                        [name](const spec::Device& device) { return device.path == name; }))
            continue;
        TRY(make_node(
            root, {.path = path, .type = S_IFCHR, .major = number.first, .minor = number.second}));
    }
    for (const spec::Device& device : own) {
        const auto made = make_node(root, device);
        if (!made)
            return os::fail(made.error().code, "linux.devices: ", made.error().message);
    }
    for (const Link& link : links) {
        TRY(const Place place, place_in_root(root, link.path));
        // A file of the image's in their place is the image's business, but for ptmx: that one must
        // be the container's own.
        if (link.target[0] != '/')
            unlinkat(place.directory.get(), place.name.c_str(), 0);
        if (symlinkat(link.target, place.directory.get(), place.name.c_str()) != 0 &&
            errno != EEXIST)
            return os::fail_errno(errno, link.path);
    }
    return {};
}

} // namespace container
