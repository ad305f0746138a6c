#include "guestkernel/fs/root.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/directory_ops.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/open.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/mqueue.hpp"

namespace kernel {

namespace {

// A place of the new tree. Every directory mounted on here is part of any sane root; one without it
// goes without the mount.
void mount_optional(const Path& root, std::string_view where, Result<Ref<Superblock>> superblock,
                    u32 flags, std::string_view source) {
    auto place = lookup_path_from(root, where, lookup_follow | lookup_directory);
    if (!place) {
        log::info("the root has no {}: not mounted there", where);
        return;
    }
    if (!superblock) {
        log::warning("{}: error {}", where, superblock.error().code);
        return;
    }
    if (auto done = mount_at(*place, std::move(*superblock), flags, source); !done)
        log::warning("{} cannot be mounted: error {}", where, done.error().code);
}

Result<Path> mount_share(const BootConfig& config) {
    TRY(Ref<Superblock> share,
        make_virtiofs(config.root_tag, config.root_mode != RootMode::ReadWrite));
    if (config.root_mode != RootMode::Overlay)
        return mount_root(std::move(share),
                          config.root_mode == RootMode::ReadOnly ? u32{MS_RDONLY} : 0,
                          config.root_tag);
    TRY(Path lower, detached_mount(std::move(share), MS_RDONLY, config.root_tag));
    TRY(Ref<Superblock> memory, make_tmpfs("mode=0755"));
    TRY(Path upper, detached_mount(std::move(memory), 0, "tmpfs"));
    const Path lowers[] = {lower};
    TRY(Ref<Superblock> overlay, make_overlay(lowers, upper));
    return mount_root(std::move(overlay), 0, "overlay");
}

// The directory (or file) that a volume goes over; made, with its parents, where the root lets us.
Result<Path> prepare_mount_point(std::string_view destination, bool is_file) {
    for (usize end = destination.find('/', 1);; end = destination.find('/', end + 1)) {
        const bool last = end == std::string_view::npos;
        const std::string_view part = destination.substr(0, end);
        if (!lookup_path(at_fdcwd, part, lookup_follow)) {
            if (last && is_file)
                TRY(make_node(at_fdcwd, part, mode_regular | 0644, 0));
            else
                TRY(make_directory(at_fdcwd, part, 0755));
        }
        if (last)
            break;
    }
    return lookup_path(at_fdcwd, destination,
                       lookup_follow | (is_file ? 0u : u32{lookup_directory}));
}

// Keeps the first name besides "." and "..".
class FirstName : public DirectorySink {
public:
    bool add(std::string_view name, u64, u32, u64) override {
        if (name == "." || name == "..")
            return true;
        failed = !name_.append(name);
        return false;
    }
    std::string_view name() const { return name_.view(); }
    bool failed = false;

private:
    String name_;
};

// The share of a file is a directory with nothing else in it.
Result<Path> only_file(const Path& share) {
    TRY(Ref<File> directory, open_checked(share, O_RDONLY | O_DIRECTORY, true));
    FirstName first;
    TRY(directory->read_directory(first, 0));
    if (first.failed)
        return fail(ENOMEM);
    if (first.name().empty())
        return fail(ENOENT);
    return lookup_path_from(share, first.name(), 0);
}

Result<void> mount_volume(const Volume& volume) {
    TRY(Ref<Superblock> share, make_virtiofs(volume.tag, volume.read_only));
    TRY(Path place, prepare_mount_point(volume.destination, volume.is_file));
    const u32 flags = volume.read_only ? u32{MS_RDONLY} : 0;
    if (!volume.is_file)
        return mount_at(place, std::move(share), flags, volume.tag);
    TRY(Path whole, detached_mount(std::move(share), flags, volume.tag));
    TRY(Path file, only_file(whole));
    return MountTree::bind(file, place, false);
}

} // namespace

Result<void> mount_first_root() {
    const BootConfig& config = boot_config();
    TRY(Path root, mount_share(config));
    mount_optional(root, "/dev", make_devtmpfs(), MS_NOSUID, "dev");
    mount_optional(root, "/dev/pts", make_devpts("gid=5,mode=620,ptmxmode=666"),
                   MS_NOSUID | MS_NOEXEC, "devpts");
    mount_optional(root, "/dev/shm", make_tmpfs("mode=1777"), MS_NOSUID | MS_NODEV, "shm");
    mount_optional(root, "/dev/mqueue", mqueue_filesystem(), MS_NOSUID | MS_NODEV | MS_NOEXEC,
                   "mqueue");
    mount_optional(root, "/proc", make_procfs({}), MS_NOSUID | MS_NODEV | MS_NOEXEC, "proc");
    mount_optional(root, "/sys", make_sysfs(), MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY,
                   "sysfs");
    mount_optional(root, "/sys/fs/cgroup", make_cgroupfs(), MS_NOSUID | MS_NODEV | MS_NOEXEC,
                   "cgroup2");
    for (u32 i = 0; i < config.volume_count; i++)
        if (auto done = mount_volume(config.volumes[i]); !done) {
            log::error("volume {} cannot be mounted: error {}", config.volumes[i].destination,
                       done.error().code);
            return fail(done.error().code);
        }
    return {};
}

} // namespace kernel
