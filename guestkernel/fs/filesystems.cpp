// The file systems that mount(2) knows, by name.
#include <linux/errno.h>
#include <linux/mount.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/mqueue.hpp"

namespace kernel {

namespace {

// The value of `name=` in a comma-separated list; null data when it is not there.
std::string_view option(std::string_view list, std::string_view name) {
    while (!list.empty()) {
        usize end = 0;
        while (end < list.size() && list[end] != ',')
            end++;
        const std::string_view item = list.substr(0, end);
        if (item.size() > name.size() && item.starts_with(name) && item[name.size()] == '=')
            return item.substr(name.size() + 1);
        list = end < list.size() ? list.substr(end + 1) : std::string_view();
    }
    return {};
}

// lowerdir=A:B,upperdir=C,workdir=D. The work directory is for crash safety on disks, which memory
// needs not.
Result<Ref<Superblock>> mount_overlay(std::string_view options) {
    std::string_view lowers = option(options, "lowerdir");
    const std::string_view upper = option(options, "upperdir");
    if (lowers.empty())
        return fail(EINVAL);
    Vector<Path> layers;
    Path top;
    if (!upper.empty()) {
        if (option(options, "workdir").empty())
            return fail(EINVAL);
        TRY(top, lookup_path(at_fdcwd, upper, lookup_follow | lookup_directory));
        // What it holds already is the topmost layer; new changes live in the overlay itself.
        TRY(layers.push_back(top));
    }
    while (!lowers.empty()) {
        usize end = 0;
        while (end < lowers.size() && lowers[end] != ':')
            end++;
        TRY(Path layer,
            lookup_path(at_fdcwd, lowers.substr(0, end), lookup_follow | lookup_directory));
        TRY(layers.push_back(std::move(layer)));
        lowers = end < lowers.size() ? lowers.substr(end + 1) : std::string_view();
    }
    return make_overlay(layers.span(), top);
}

constexpr const char* types[] = {"sysfs",   "tmpfs",   "ramfs",    "devtmpfs", "devpts", "proc",
                                 "cgroup2", "overlay", "virtiofs", "mqueue",   nullptr};

} // namespace

const char* const* filesystem_types() {
    return types;
}

Result<Ref<Superblock>> make_filesystem(std::string_view type, std::string_view source,
                                        std::string_view options, u32 flags) {
    if (type == "tmpfs")
        return make_tmpfs(options);
    if (type == "ramfs")
        return make_tmpfs("size=0,mode=0755");
    if (type == "devtmpfs")
        return make_devtmpfs();
    if (type == "devpts")
        return make_devpts();
    if (type == "proc")
        return make_procfs();
    if (type == "sysfs")
        return make_sysfs();
    if (type == "mqueue")
        return mqueue_filesystem();
    if (type == "cgroup2")
        return make_cgroupfs();
    if (type == "overlay")
        return mount_overlay(options);
    if (type == "virtiofs")
        return make_virtiofs(source, (flags & MS_RDONLY) != 0);
    return fail(ENODEV);
}

} // namespace kernel
