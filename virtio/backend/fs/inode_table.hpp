// InodeTable: all inodes that the client has heard of, by node id and by what file they are, and
// how to get at them on the host.
//
// Locks: one per shard, which holds the inode's entry and its changing state; none is held while
// another is taken, while the host is asked, or while the last reference to an inode may go.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "virtio/backend/fs/devices.hpp"
#include "virtio/backend/fs/fd_cache.hpp"
#include "virtio/backend/fs/host.hpp"
#include "virtio/backend/fs/inode.hpp"

namespace virtio::fs {

class InodeTable {
public:
    // `directory` is the share's root, which is never forgotten. `strict`: the client can rename
    // and make files, so one is opened only by a descriptor that is known to refer to the right
    // one; opening a device of the host, even for a moment, can have effects. `max_fds`: see
    // with_descriptors().
    InodeTable(UniqueFd directory, const struct statx& found, std::size_t max_cached_fds,
               std::size_t max_fds, bool strict);
    ~InodeTable();

    const InodeRef& root() const { return root_; }
    DeviceMap& devices() { return devices_; }
    FdCache& cache() { return cache_; }

    // ESTALE unless the client holds a reference to it.
    Result<InodeRef> find(std::uint64_t id);
    // The inode of what stat_at() found at `name` in `parent` (whose descriptor is `dir`), and
    // where it is from now on. Counts one lookup of the client.
    Result<InodeRef> look_up(const struct statx& found, const InodeRef& parent, int dir,
                             const char* name);
    // The same for a file that has no name.
    Result<InodeRef> adopt(const struct statx& found, const FdRef& fd);
    // Another lookup of one that is known.
    void count(const InodeRef& inode);
    void forget(std::uint64_t id, std::uint64_t lookups);
    // The client is gone. Requires: no request is being served.
    void clear();

    // What was found at `name` in `parent` is there because the client moved it.
    void moved(const struct statx& found, const InodeRef& parent, const char* name);
    // The client is about to take away `name` in `parent`, where `found` is. If it is remembered to
    // be there, it keeps a descriptor, by which it is still found.
    void keep_in_reach(const struct statx& found, const InodeRef& parent, std::string_view name);
    // Null for the root and files without a name.
    InodeRef parent(const InodeRef& inode);

    // Where an inode is on the host right now: itself, if `name` is empty, or `name` in `dir`.
    struct Place {
        FdRef dir;
        std::string name;
    };
    Result<Place> place(const InodeRef& inode);
    // Its attributes. ESTALE if the file is not where it was last seen.
    Result<struct statx> stat(const InodeRef& inode);
    // A descriptor of some kind. EACCES for a sealed inode.
    Result<FdRef> any_fd(const InodeRef& inode);
    // One for reading a regular file or a directory, kept for the next time.
    Result<FdRef> readable_fd(const InodeRef& inode, const ProcFds& proc);
    // The same, but a new one that is not kept.
    Result<FdRef> open_readable(const InodeRef& inode, const ProcFds& proc);
    // `fd` refers to the inode, and somebody keeps it open.
    void offer_fd(const InodeRef& inode, const FdRef& fd);

    // True if the contents are what they were at the last call; remembers them.
    bool unchanged_since_open(const InodeRef& inode, const struct statx& found);

    std::size_t size();

    // Does `open` again, after closing what is kept for later, if descriptors have run out. ENFILE
    // if all shares together have as many as they may: the rest of the process needs some, too, and
    // its sockets wait for connections that they could not take.
    template <typename F>
    auto with_descriptors(F&& open) -> decltype(open()) {
        if (HostFd::count() >= max_fds_)
            cache_.clear();
        if (HostFd::count() >= max_fds_)
            return fail(ENFILE);
        auto result = open();
        if (!result && (result.error().code == EMFILE || result.error().code == ENFILE)) {
            cache_.clear();
            return open();
        }
        return result;
    }

private:
    friend class Inode;

    struct HashKey {
        std::size_t operator()(const InodeKey& key) const { return key.hash(); }
    };
    struct Shard {
        std::uint64_t next_id = 0;
        // An inode is here as long as it exists, though the client may have forgotten it.
        std::unordered_map<InodeKey, std::weak_ptr<Inode>, HashKey> by_key;
        // Those that the client knows.
        std::unordered_map<std::uint64_t, InodeRef> by_id;
    };
    static constexpr std::size_t shard_count = 32; // a power of two

    // The id says which shard, so that one lock does for both maps.
    Guarded<Shard>& shard_of_id(std::uint64_t id) { return shards_[id % shard_count]; }
    Guarded<Shard>& shard_of_key(const InodeKey& key) {
        return shards_[(key.hash() >> 48) % shard_count];
    }
    Guarded<Shard>& shard_of(const Inode& inode) { return shard_of_id(inode.id()); }

    // Without the time of birth where it does not last: a file would be another one as soon as the
    // client changes it.
    InodeKey key_of(const struct statx& found) {
        InodeKey key = InodeKey::of(found);
        if (!devices_.births_last(key.device))
            key.birth = 0;
        return key;
    }
    struct Location {
        InodeRef parent;
        std::string name;
    };
    Location location(const InodeRef& inode);
    FdRef live_fd(const InodeRef& inode);
    void gone(Inode& inode);

    static constexpr std::size_t max_walk = 4096; // components opened anew for one request

    const bool strict_;
    const std::size_t max_fds_;
    FdRef root_fd_;
    DeviceMap devices_;
    FdCache cache_;
    std::array<Guarded<Shard>, shard_count> shards_;
    InodeRef root_; // id FUSE_ROOT_ID; in no shard's maps by key
};

} // namespace virtio::fs
