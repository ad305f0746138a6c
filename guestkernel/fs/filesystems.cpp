// The file systems that mount(2) knows, by name.
#include <linux/errno.h>
#include <linux/mount.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/fs/virtiofs/fuse_connection.hpp"
#include "guestkernel/ipc/mqueue.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr const char* types[] = {"sysfs",   "tmpfs",   "ramfs",    "devtmpfs", "devpts", "proc",
                                 "cgroup2", "overlay", "virtiofs", "mqueue",   "fuse",   nullptr};

} // namespace

const char* const* filesystem_types() {
    return types;
}

Result<Ref<Superblock>> make_filesystem(std::string_view type, std::string_view source,
                                        std::string_view options, u32 flags) {
    if (type == "tmpfs") {
        // In a user namespace, its root may not be what number 0 is outside.
        const Credentials& mounter = *current_task().credentials;
        return make_owned_tmpfs(options, mounter.fsuid, mounter.fsgid);
    }
    if (type == "ramfs")
        return make_tmpfs("size=0,nr_inodes=0,mode=0755");
    if (type == "devtmpfs")
        return make_devtmpfs();
    if (type == "devpts")
        return make_devpts(options);
    if (type == "proc")
        return make_procfs(options);
    if (type == "sysfs")
        return make_sysfs();
    if (type == "mqueue")
        return mqueue_filesystem();
    if (type == "cgroup2")
        return make_cgroupfs();
    if (type == "overlay")
        return mount_overlay(options);
    if (is_fuse(type))
        return mount_fuse(type, options);
    if (type == "virtiofs")
        return make_virtiofs(source, (flags & MS_RDONLY) != 0);
    return fail(ENODEV);
}

} // namespace kernel
