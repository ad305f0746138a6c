#include "agent/container/rootfs.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sched.h>

#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "agent/container/mount_calls.hpp"
#include "agent/os/files.hpp"

// <sys/mount.h> does not stand beside <linux/mount.h>; these are its declarations of the C
// library's.
extern "C" {
int mount(const char* source, const char* target, const char* type, unsigned long flags,
          const void* data) noexcept;
int umount2(const char* target, int flags) noexcept;
}

namespace container {

namespace {

constexpr int detach = 2; // MNT_DETACH of <sys/mount.h>

bool is_cgroup(const spec::Mount& mount) {
    return mount.type == "cgroup" || mount.type == "cgroup2";
}

bool is_directory(int fd) {
    struct stat about {};
    return fstat(fd, &about) == 0 && S_ISDIR(about.st_mode);
}

bool is_proc(int fd) {
    struct statfs about {};
    return fstatfs(fd, &about) == 0 && about.f_type == PROC_SUPER_MAGIC;
}

bool same_device(int one, int other) {
    struct stat a {};
    struct stat b {};
    return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev;
}

bool same_file(int one, int other) {
    struct stat a {};
    struct stat b {};
    return same_device(one, other) && fstat(one, &a) == 0 && fstat(other, &b) == 0 &&
           a.st_ino == b.st_ino;
}

template <typename T>
os::Result<T> at(const std::string& path, os::Result<T> result) {
    if (result)
        return result;
    return os::fail(result.error().code, path, ": ", result.error().message);
}

// A copy of a mount is the peer of its original: mounts on the one would appear on the other. What
// the configuration does not ask to share, is cut off, one way.
os::Result<void> cut_off(int tree, const spec::MountOptions& options) {
    if (options.propagation.empty())
        return set_attributes(tree, {.propagation = MS_SLAVE, .recursive = true});
    for (const std::uint64_t flags : options.propagation)
        TRY(set_attributes(tree, {.propagation = flags & ~std::uint64_t{MS_REC},
                                  .recursive = (flags & MS_REC) != 0}));
    return {};
}

os::Result<os::UniqueFd> take_bind(const spec::Mount& mount) {
    const spec::MountOptions& options = mount.options;
    auto tree = clone_tree(AT_FDCWD, mount.source.c_str(), options.recursive_bind);
    if (!tree)
        return os::fail(tree.error().code, mount.path, ".source: ", tree.error().message);
    TRY(at(mount.path, cut_off(tree->get(), options)));
    TRY(at(mount.path, set_attributes(tree->get(), {.set = options.recursive_set,
                                                    .clear = options.recursive_clear,
                                                    .recursive = true})));
    TRY(at(mount.path, set_attributes(tree->get(), {.set = options.set, .clear = options.clear})));
    return tree;
}

// What shows a namespace is for its owner to mount (user_namespaces(7)): a container in a user
// namespace of its own is not the owner of those of the VM that it stays in.
bool is_not_its_own(const spec::Mount& mount, const spec::Linux& part) {
    if (part.find(CLONE_NEWUSER) == nullptr)
        return false;
    for (const auto& [type, flag] :
         {std::pair("proc", CLONE_NEWPID), std::pair("sysfs", CLONE_NEWNET),
          std::pair("mqueue", CLONE_NEWIPC)})
        if (mount.type == type)
            return part.find(flag) == nullptr;
    return false;
}

} // namespace

os::Result<Trees> take_trees(const spec::Spec& spec, const std::string& cgroup_directory) {
    Trees out;
    auto root = clone_tree(AT_FDCWD, spec.rootfs.c_str(), true);
    if (!root)
        return os::fail(root.error().code, "root.path: ", root.error().message);
    out.root = std::move(*root);
    if (!is_directory(out.root.get()))
        return os::fail(os::Code::InvalidArgument, "root.path: ", spec.rootfs, " is no directory");
    TRY(set_attributes(out.root.get(), {.propagation = MS_SLAVE, .recursive = true}));
    for (const spec::Mount& mount : spec.mounts) {
        os::UniqueFd tree;
        if (mount.options.bind) {
            TRY(tree, take_bind(mount));
        } else if (is_cgroup(mount) && spec.linux_part.find(CLONE_NEWCGROUP) == nullptr) {
            // Without a namespace of its own, a container sees its own group by a bind mount.
            TRY(tree, clone_tree(AT_FDCWD, cgroup_directory.c_str(), false));
            TRY(set_attributes(tree.get(),
                               {.set = mount.options.set_when_new(), .propagation = MS_PRIVATE}));
        } else if (is_not_its_own(mount, spec.linux_part)) {
            TRY(tree, new_filesystem(mount.type, mount.source.empty() ? mount.type : mount.source,
                                     mount.options.data, mount.options.set_when_new()));
        }
        out.mounts.push_back(std::move(tree));
    }
    return out;
}

os::Result<void> Rootfs::attach_root() {
    if (mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
        return os::fail_errno(errno, "cut the mount namespace off");
    const os::UniqueFd place(open(spec_.rootfs.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!place)
        return os::fail_errno(errno, "root.path: ", spec_.rootfs);
    return at("root.path", attach(root(), place.get()));
}

os::Result<void> Rootfs::mount_all() {
    for (std::size_t i = 0; i < spec_.mounts.size(); ++i) {
        const spec::Mount& mount = spec_.mounts[i];
        TRY(at(os::text(mount.path, " (", mount.destination, ")"),
               mount_one(mount, trees_.mounts[i])));
    }
    return {};
}

os::Result<void> Rootfs::mount_one(const spec::Mount& mount, os::UniqueFd& tree) {
    if (!mount.options.bind)
        return mount_filesystem(mount, tree);
    // A directory that pretends to be proc would get the masks that are meant for the real one.
    if (mount.destination == "/proc" && !is_proc(tree.get()))
        return os::fail(os::Code::InvalidArgument, "only proc can be mounted at /proc");
    TRY(const os::UniqueFd target, is_directory(tree.get())
                                       ? make_directory_in_root(root(), mount.destination, 0755)
                                       : make_file_in_root(root(), mount.destination));
    TRY(check_place(mount, target.get()));
    return attach(tree.get(), target.get());
}

// The configuration's words have been checked; what the image's links make of them has not.
os::Result<void> Rootfs::check_place(const spec::Mount& mount, int target) const {
    // Where the kernel's own files appear must not be a matter of links: what is masked later would
    // be masked elsewhere.
    if ((mount.destination == "/proc" || mount.type == "proc" || mount.type == "sysfs") &&
        !open_in_root(root(), mount.destination, O_PATH, RESOLVE_NO_SYMLINKS))
        return os::fail(os::Code::InvalidArgument,
                        "must be an ordinary directory, there is a symbolic link on the way");
    // A proc that the configuration has put elsewhere is another file system, or its own business.
    const auto proc = open_in_root(root(), "/proc", O_PATH);
    if (proc && is_proc(proc->get()) && same_device(proc->get(), target) &&
        mount.destination != "/proc" && !mount.destination.starts_with("/proc/"))
        return os::fail(os::Code::InvalidArgument,
                        "a symbolic link on the way leads into proc, where nothing is mounted");
    return {};
}

os::Result<void> Rootfs::mount_filesystem(const spec::Mount& mount, os::UniqueFd& tree) {
    const auto before = open_in_root(root(), mount.destination, O_PATH);
    TRY(const os::UniqueFd target, make_directory_in_root(root(), mount.destination, 0755));
    TRY(check_place(mount, target.get()));
    const spec::MountOptions& options = mount.options;
    const std::uint64_t attributes = options.set_when_new();
    const bool later = mount.destination == "/dev" || mount.type == "tmpfs";
    if (!tree) {
        std::vector<std::string> data = options.data;
        const auto is_mode = [](const std::string& option) { return option.starts_with("mode="); };
        struct stat about {};
        // As runc: a tmpfs takes the mode of what it covers.
        if (mount.type == "tmpfs" && before && std::none_of(data.begin(), data.end(), is_mode) &&
            fstat(before->get(), &about) == 0) {
            std::string octal;
            for (unsigned shift = 12; shift > 0; shift -= 3)
                octal += static_cast<char>('0' + (about.st_mode >> (shift - 3) & 7));
            data.push_back("mode=" + octal);
        }
        const std::uint64_t now =
            later ? attributes & ~std::uint64_t{MOUNT_ATTR_RDONLY} : attributes;
        TRY(tree, new_filesystem(is_cgroup(mount) ? "cgroup2" : mount.type,
                                 mount.source.empty() ? mount.type : mount.source, data, now));
        if (options.copy_up && before) {
            TRY(copy_up(before->get(), tree.get()));
        }
    }
    TRY(attach(tree.get(), target.get()));
    for (const std::uint64_t flags : options.propagation)
        TRY(set_attributes(tree.get(), {.propagation = flags & ~std::uint64_t{MS_REC},
                                        .recursive = (flags & MS_REC) != 0}));
    if (later && (attributes & MOUNT_ATTR_RDONLY) != 0)
        read_only_later_.push_back({mount.destination, std::move(tree)});
    return {};
}

os::Result<void> Rootfs::make_devices() {
    // By what is there, not by its name: a link of the image may lead to it. Nodes that are made
    // take the place of what has their names, and that would be the outside's.
    const auto dev = open_in_root(root(), "/dev", O_PATH);
    bool brought = false;
    for (std::size_t i = 0; i < spec_.mounts.size() && dev; ++i)
        brought |= spec_.mounts[i].options.bind && same_file(trees_.mounts[i].get(), dev->get());
    if (!brought) {
        TRY(make_device_nodes(root(), spec_));
    }
    // The working directory is made where it is missing, as runc does; if it cannot be, entering it
    // will say so.
    if (spec_.process)
        static_cast<void>(make_directory_in_root(root(), spec_.process->cwd, 0755));
    return {};
}

os::Result<void> Rootfs::connect_console(const Terminal& terminal) {
    if (!terminal.slave)
        return {};
    TRY(const os::UniqueFd target, make_file_in_root(root(), "/dev/console"));
    TRY(const os::UniqueFd tree, clone_tree(terminal.slave.get(), "", false));
    return at("/dev/console", attach(tree.get(), target.get()));
}

os::Result<void> Rootfs::mask(const std::string& path) {
    auto place = open_in_root(root(), path, O_PATH);
    if (!place && place.error().code == os::Code::NotFound)
        return {};
    if (!place)
        return base::Failure(std::move(place.error()));
    if (is_directory(place->get())) {
        TRY(const os::UniqueFd empty, new_filesystem("tmpfs", "tmpfs", {}, MOUNT_ATTR_RDONLY));
        return attach(empty.get(), place->get());
    }
    // The root is still the runtime's, and so is this /dev/null: nobody can have exchanged it.
    TRY(const os::UniqueFd null, clone_read_only("/dev/null"));
    return attach(null.get(), place->get());
}

os::Result<void> Rootfs::make_read_only(const std::string& path) {
    auto place = open_in_root(root(), path, O_PATH);
    if (!place && place.error().code == os::Code::NotFound)
        return {};
    if (!place)
        return base::Failure(std::move(place.error()));
    TRY(const os::UniqueFd tree, clone_tree(place->get(), "", true));
    TRY(set_attributes(tree.get(), {.set = MOUNT_ATTR_RDONLY, .recursive = true}));
    return attach(tree.get(), place->get());
}

os::Result<void> Rootfs::protect_paths() {
    for (const auto& [path, mount] : read_only_later_)
        TRY(at(path, set_attributes(mount.get(), {.set = MOUNT_ATTR_RDONLY})));
    for (const std::string& path : spec_.linux_part.readonly_paths)
        TRY(at("linux.readonlyPaths", make_read_only(path)));
    for (const std::string& path : spec_.linux_part.masked_paths)
        TRY(at("linux.maskedPaths", mask(path)));
    return {};
}

os::Result<void> Rootfs::change_root() {
    const os::UniqueFd old(open("/", O_DIRECTORY | O_RDONLY | O_CLOEXEC));
    if (!old || fchdir(root()) != 0 || syscall(SYS_pivot_root, ".", ".") != 0)
        return os::fail_errno(errno, "root.path: change the root");
    // The old root now lies on top of the new one.
    if (fchdir(old.get()) != 0 || mount(nullptr, ".", nullptr, MS_REC | MS_SLAVE, nullptr) != 0 ||
        umount2(".", detach) != 0 || chdir("/") != 0)
        return os::fail_errno(errno, "root.path: leave the old root");
    const os::UniqueFd now(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!now)
        return os::fail_errno(errno, "root.path: open the new root");
    const std::uint64_t propagation = spec_.linux_part.rootfs_propagation;
    TRY(at("linux.rootfsPropagation",
           set_attributes(now.get(), {.propagation = propagation & ~std::uint64_t{MS_REC},
                                      .recursive = (propagation & MS_REC) != 0})));
    if (!spec_.readonly_root)
        return {};
    return at("root.readonly", set_attributes(now.get(), {.set = MOUNT_ATTR_RDONLY}));
}

} // namespace container
