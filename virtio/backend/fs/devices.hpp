// DeviceMap: the file systems mounted below a share. Ordinary ones are part of it. Those that show
// the host's kernel and processes in place of files (proc, sysfs, cgroup, ...) are not: this
// process's own memory is a file in /proc. Their mount points look like empty directories.
#pragma once

#include <cstdint>
#include <vector>

#include "virtio/backend/fs/host.hpp"
#include "virtio/guarded.hpp"

namespace virtio::fs {

class DeviceMap {
public:
    // Requires: `root`, the device of `fd`, is shareable(). Its inode numbers stay as they are.
    DeviceMap(int fd, std::uint64_t root) : root_(root), root_births_last_(births_last(fd, root)) {}

    // Whether the file system that holds `fd`, whose device is `device`, consists of files.
    static Result<bool> shareable(int fd, std::uint64_t device);
    // Whether its files keep their time of birth. Those of an overlay do not: it shows that of the
    // file which it has from a layer, and from the first change on that of a copy.
    static bool births_last(int fd, std::uint64_t device);
    // The same of a device that place() has seen; of another, what is safe.
    bool births_last(std::uint64_t device);

    struct Place {
        std::uint64_t guest_number; // the inode number for the guest, unique over all devices
        bool shared;
    };
    // Of what stat_at() found at `name` in `dir`.
    Result<Place> place(const struct statx& found, int dir, const char* name);
    // For d_ino of a directory on `device`, which must have been seen by place().
    std::uint64_t guest_number(std::uint64_t device, std::uint64_t number);

private:
    struct Known {
        std::uint64_t device;
        bool shared;
        bool births_last;
    };
    static std::uint64_t combine(std::size_t index, std::uint64_t device, std::uint64_t number);

    const std::uint64_t root_;
    const bool root_births_last_;
    Guarded<std::vector<Known>> known_;
};

} // namespace virtio::fs
