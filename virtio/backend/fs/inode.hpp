// Inode: what the server knows of one file of the host that the client has heard of. It is named
// after the file itself (device, number, time of birth), not after a path; the path is only how to
// find it again, so that a descriptor need not be kept for each.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "virtio/backend/fs/fd_cache.hpp"
#include "virtio/backend/fs/host.hpp"

namespace virtio::fs {

// Inode numbers are used again after a file is gone; the time of birth tells the two apart (0 where
// the file system has none). A file that is seen through two mounts is two: one of them may be
// read-only.
struct InodeKey {
    std::uint64_t device = 0;
    std::uint64_t number = 0;
    std::uint64_t birth = 0;
    std::uint64_t mount = 0;
    mode_t type = 0;
    bool operator==(const InodeKey&) const = default;

    static InodeKey of(const struct statx& found) {
        InodeKey key{device_of(found), found.stx_ino, 0, mount_of(found), type_of(found)};
        if ((found.stx_mask & STATX_BTIME) != 0)
            key.birth = static_cast<std::uint64_t>(found.stx_btime.tv_sec) * 1'000'000'000u +
                        found.stx_btime.tv_nsec;
        return key;
    }
    std::size_t hash() const {
        std::uint64_t mixed = (number * 0x9e3779b97f4a7c15u) ^ (device * 0xff51afd7ed558ccdu) ^
                              birth ^ (mount * 0xc2b2ae3d27d4eb4fu);
        mixed ^= mixed >> 32;
        return mixed * 0xc4ceb9fe1a85ec53u;
    }
};

class Inode;
using InodeRef = std::shared_ptr<Inode>;
class InodeTable;

class Inode {
public:
    Inode(InodeTable& table, const InodeKey& key, std::uint64_t id, std::uint64_t guest_number,
          bool sealed)
        : table_(table), key_(key), id_(id), guest_number_(guest_number), sealed_(sealed) {}
    Inode(const Inode&) = delete;
    Inode& operator=(const Inode&) = delete;
    ~Inode();

    const InodeKey& key() const { return key_; }
    std::uint64_t id() const { return id_; }
    std::uint64_t guest_number() const { return guest_number_; }
    bool is_directory() const { return S_ISDIR(key_.type); }
    bool is_regular() const { return S_ISREG(key_.type); }
    // The root of a mounted file system that is not shared (devices.hpp): an empty directory.
    bool sealed() const { return sealed_; }

private:
    friend class InodeTable;

    // Everything that changes is under the lock of the inode's shard.
    struct State {
        std::uint64_t lookups = 0; // the client's references
        InodeRef parent;           // null for the share's root, and for files without a name
        std::string name;
        std::weak_ptr<HostFd> any_fd;      // of any kind, O_PATH too
        std::weak_ptr<HostFd> readable_fd; // O_RDONLY
        std::uint64_t opened_version = 0;  // of the contents at the last open; 0: never
    };

    InodeTable& table_;
    const InodeKey key_;
    const std::uint64_t id_;
    const std::uint64_t guest_number_;
    const bool sealed_;
    State state_;
};

} // namespace virtio::fs
