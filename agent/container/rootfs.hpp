// A container's root directory, from inside of its mount namespace: what is mounted, hidden and
// made read-only, and the change of root. Everything below the root may be hostile, and another
// container may be changing it at the same time: places are opened beneath the root and used by
// descriptor.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "agent/container/terminal.hpp"
#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"
#include "agent/spec/spec.hpp"

namespace container {

// Copies of mounts of the outside, taken where they can be reached: before the namespaces change.
struct Trees {
    os::UniqueFd root;
    std::vector<os::UniqueFd> mounts; // by index of Spec::mounts; empty where none is needed
};
os::Result<Trees> take_trees(const spec::Spec& spec, const std::string& cgroup_directory);

class Rootfs {
public:
    // Both outlive it.
    Rootfs(const spec::Spec& spec, Trees& trees) : spec_(spec), trees_(trees) {}

    // In this order. Nothing of this mount namespace reaches others from the first on.
    os::Result<void> attach_root();
    os::Result<void> mount_all();
    os::Result<void> make_devices();
    os::Result<void> connect_console(const Terminal& terminal);
    os::Result<void> protect_paths();
    os::Result<void> change_root();

    int root() const { return trees_.root.get(); }

private:
    os::Result<void> mount_one(const spec::Mount& mount, os::UniqueFd& tree);
    os::Result<void> mount_filesystem(const spec::Mount& mount, os::UniqueFd& tree);
    os::Result<void> check_place(const spec::Mount& mount, int target) const;
    os::Result<void> mask(const std::string& path);
    os::Result<void> make_read_only(const std::string& path);

    const spec::Spec& spec_;
    Trees& trees_;
    // A read-only /dev, or tmpfs, is filled first: with nodes, with what it covers, with places for
    // the mounts in it. Each with its path, for messages.
    std::vector<std::pair<std::string, os::UniqueFd>> read_only_later_;
};

// devices.cpp: the nodes and links of /dev, and those of linux.devices.
os::Result<void> make_device_nodes(int root, const spec::Spec& spec);

// copy_up.cpp: the contents of directory `from` into directory `to`.
os::Result<void> copy_up(int from, int to);

} // namespace container
