#include "virtio/backend/fs/devices.hpp"

#include <algorithm>
#include <array>
#include <fcntl.h>

#include <linux/magic.h>
#include <sys/statfs.h>

namespace virtio::fs {

namespace {

// Not in linux/magic.h: the first is out of tree, the second newer than Debian 12's headers.
constexpr std::uint32_t zfs_magic = 0x2fc12fc1;
constexpr std::uint32_t bcachefs_magic = 0xca451a4e;

// File systems without a block device behind them that hold ordinary files.
constexpr std::array<std::uint32_t, 16> ordinary = {
    BTRFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC,      RAMFS_MAGIC,
    NFS_SUPER_MAGIC,   CIFS_SUPER_MAGIC,      SMB2_SUPER_MAGIC, FUSE_SUPER_MAGIC,
    V9FS_MAGIC,        CEPH_SUPER_MAGIC,      AFS_FS_MAGIC,     ECRYPTFS_SUPER_MAGIC,
    CODA_SUPER_MAGIC,  EROFS_SUPER_MAGIC_V1,  zfs_magic,        bcachefs_magic,
};

constexpr std::size_t max_devices = 1u << 14;

// Pseudo file systems and others without a block device have anonymous ones: major number 0.
bool is_anonymous(std::uint64_t device) {
    return (device >> 32) == 0;
}

Result<std::uint32_t> magic_of(int fd) {
    struct statfs found {};
    TRY(check(::fstatfs(fd, &found)));
    return static_cast<std::uint32_t>(found.f_type);
}

} // namespace

Result<bool> DeviceMap::shareable(int fd, std::uint64_t device) {
    if (!is_anonymous(device))
        return true;
    TRY(const std::uint32_t magic, magic_of(fd));
    return std::ranges::find(ordinary, magic) != ordinary.end();
}

bool DeviceMap::births_last(int fd, std::uint64_t device) {
    if (!is_anonymous(device))
        return true;
    const auto magic = magic_of(fd);
    return magic && *magic != OVERLAYFS_SUPER_MAGIC;
}

bool DeviceMap::births_last(std::uint64_t device) {
    if (device == root_)
        return root_births_last_;
    return known_.with([&](std::vector<Known>& known) {
        const auto at = std::ranges::find(known, device, &Known::device);
        return at != known.end() ? at->births_last : !is_anonymous(device);
    });
}

std::uint64_t DeviceMap::combine(std::size_t index, std::uint64_t device, std::uint64_t number) {
    // Bit 63 and a small device number above 48 bits of inode number. Where that does not fit, bits
    // 63 and 62 and a mixture, unique but for a collision of 62 bits.
    if (number < (std::uint64_t{1} << 48) && index < max_devices)
        return (std::uint64_t{1} << 63) | (std::uint64_t{index} << 48) | number;
    std::uint64_t mixed = (number ^ (device * 0x9e3779b97f4a7c15u)) * 0xff51afd7ed558ccdu;
    mixed ^= mixed >> 31;
    return (std::uint64_t{3} << 62) | mixed;
}

Result<DeviceMap::Place> DeviceMap::place(const struct statx& found, int dir, const char* name) {
    const std::uint64_t device = device_of(found);
    if (device == root_)
        return Place{found.stx_ino, true};

    const auto look = [&](std::vector<Known>& known) -> std::pair<std::size_t, bool> {
        const auto at = std::ranges::find(known, device, &Known::device);
        const auto index = static_cast<std::size_t>(at - known.begin());
        return {index, at != known.end() && at->shared};
    };
    const auto [index, shared, is_known] = known_.with([&](std::vector<Known>& known) {
        const auto [at, is_shared] = look(known);
        return std::tuple{at, is_shared, at != known.size()};
    });
    if (is_known)
        return Place{combine(index, device, found.stx_ino), shared};

    TRY(const UniqueFd fd, open_component(dir, *name == '\0' ? "." : name, O_PATH));
    TRY(const struct statx opened, stat_at(fd.get(), ""));
    if (device_of(opened) != device)
        return fail(ESTALE);
    TRY(const bool now_shared, shareable(fd.get(), device));
    const bool lasting = births_last(fd.get(), device);
    const std::size_t new_index = known_.with([&](std::vector<Known>& known) {
        const std::size_t at = look(known).first;
        if (at == known.size())
            known.push_back({device, now_shared, lasting});
        return at;
    });
    return Place{combine(new_index, device, found.stx_ino), now_shared};
}

std::uint64_t DeviceMap::guest_number(std::uint64_t device, std::uint64_t number) {
    if (device == root_)
        return number;
    const std::size_t index = known_.with([&](std::vector<Known>& known) {
        return static_cast<std::size_t>(std::ranges::find(known, device, &Known::device) -
                                        known.begin());
    });
    return combine(index, device, number);
}

} // namespace virtio::fs
