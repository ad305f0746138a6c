#include "virtio/backend/fs/inode_table.hpp"

#include <fcntl.h>
#include <utility>
#include <vector>

namespace virtio::fs {

Inode::~Inode() {
    table_.gone(*this);

    // The parent may go with its last child, and its parent with it: taken one after the other, for
    // a client can make paths deeper than any stack.
    thread_local std::vector<InodeRef>* pending = nullptr;
    if (pending != nullptr) {
        pending->push_back(std::move(state_.parent));
        return;
    }
    std::vector<InodeRef> orphans;
    pending = &orphans;
    orphans.push_back(std::move(state_.parent));
    while (!orphans.empty()) {
        const InodeRef next = std::move(orphans.back());
        orphans.pop_back();
    }
    pending = nullptr;
}

InodeTable::InodeTable(UniqueFd directory, const struct statx& found, std::size_t max_cached_fds,
                       std::size_t max_fds, bool strict)
    : strict_(strict), max_fds_(max_fds), root_fd_(std::make_shared<HostFd>(std::move(directory))),
      devices_(root_fd_->get(), device_of(found)), cache_(max_cached_fds) {
    for (std::size_t i = 0; i < shard_count; ++i)
        shards_[i].with([&](Shard& shard) { shard.next_id = i + shard_count; });
    root_ = std::make_shared<Inode>(*this, key_of(found), FUSE_ROOT_ID, found.stx_ino, false);
    root_->state_.any_fd = root_fd_;
    shard_of_key(root_->key()).with([&](Shard& shard) { shard.by_key[root_->key()] = root_; });
}

InodeTable::~InodeTable() {
    clear();
    root_.reset();
}

void InodeTable::gone(Inode& inode) {
    std::array<FdRef, 2> fds = {inode.state_.any_fd.lock(), inode.state_.readable_fd.lock()};
    for (const FdRef& fd : fds) {
        if (fd)
            cache_.drop(fd);
    }
    shard_of_key(inode.key_).with([&](Shard& shard) {
        const auto at = shard.by_key.find(inode.key_);
        // Another may have taken its place already.
        if (at != shard.by_key.end() && at->second.expired())
            shard.by_key.erase(at);
    });
}

Result<InodeRef> InodeTable::find(std::uint64_t id) {
    if (id == FUSE_ROOT_ID)
        return root_;
    InodeRef found = shard_of_id(id).with([&](Shard& shard) {
        const auto at = shard.by_id.find(id);
        return at == shard.by_id.end() ? nullptr : at->second;
    });
    if (!found)
        return fail(ESTALE);
    return found;
}

Result<InodeRef> InodeTable::look_up(const struct statx& found, const InodeRef& parent, int dir,
                                     const char* name) {
    TRY(const DeviceMap::Place place, devices_.place(found, dir, name));
    const bool sealed = !place.shared;
    // A single file of a file system that is not shared, mounted on another file.
    if (sealed && !S_ISDIR(found.stx_mode))
        return fail(EACCES);

    const InodeKey key = key_of(found);
    if (key == root_->key())
        return root_;
    InodeRef previous_parent; // may be the last reference: let go outside of the lock
    return shard_of_key(key).with([&](Shard& shard) {
        std::weak_ptr<Inode>& entry = shard.by_key[key];
        InodeRef inode = entry.lock();
        if (!inode) {
            const std::uint64_t id = shard.next_id;
            shard.next_id += shard_count;
            inode = std::make_shared<Inode>(*this, key, id, place.guest_number, sealed);
            entry = inode;
        }
        Inode::State& state = inode->state_;
        if (state.parent != parent || state.name != name) {
            previous_parent = std::exchange(state.parent, parent);
            state.name = name;
        }
        if (state.lookups++ == 0)
            shard.by_id[inode->id()] = inode;
        return inode;
    });
}

Result<InodeRef> InodeTable::adopt(const struct statx& found, const FdRef& fd) {
    const InodeKey key = key_of(found);
    const std::uint64_t number = devices_.guest_number(key.device, key.number);
    return shard_of_key(key).with([&](Shard& shard) {
        const std::uint64_t id = shard.next_id;
        shard.next_id += shard_count;
        auto inode = std::make_shared<Inode>(*this, key, id, number, false);
        inode->state_.any_fd = fd;
        inode->state_.lookups = 1;
        shard.by_key[key] = inode;
        shard.by_id[id] = inode;
        return inode;
    });
}

void InodeTable::count(const InodeRef& inode) {
    if (inode == root_)
        return;
    shard_of(*inode).with([&](Shard& shard) {
        if (inode->state_.lookups++ == 0)
            shard.by_id[inode->id()] = inode;
    });
}

void InodeTable::forget(std::uint64_t id, std::uint64_t lookups) {
    if (id == FUSE_ROOT_ID)
        return;
    InodeRef forgotten; // destroyed after the lock
    shard_of_id(id).with([&](Shard& shard) {
        const auto at = shard.by_id.find(id);
        if (at == shard.by_id.end())
            return;
        std::uint64_t& count = at->second->state_.lookups;
        // More than there were: the client's mistake, and its own loss.
        count -= std::min(count, lookups);
        if (count == 0) {
            forgotten = std::move(at->second);
            shard.by_id.erase(at);
        }
    });
}

void InodeTable::clear() {
    std::vector<InodeRef> known;
    for (Guarded<Shard>& guarded : shards_) {
        guarded.with([&](Shard& shard) {
            // All of them, the forgotten ones too: renames on the host can tie parents in a ring.
            for (auto& [key, entry] : shard.by_key) {
                if (InodeRef inode = entry.lock())
                    known.push_back(std::move(inode));
            }
            // And those whose file is gone, and whose key is another file's by now: the last
            // reference must not go with the lock held.
            for (auto& [id, inode] : shard.by_id)
                known.push_back(std::move(inode));
            shard.by_id.clear();
        });
    }
    std::vector<InodeRef> parents;
    for (const InodeRef& inode : known) {
        if (inode == root_)
            continue;
        shard_of(*inode).with([&](Shard&) {
            inode->state_.lookups = 0;
            parents.push_back(std::move(inode->state_.parent));
        });
    }
    parents.clear();
    known.clear();
    cache_.clear();
}

void InodeTable::moved(const struct statx& found, const InodeRef& parent, const char* name) {
    const InodeKey key = key_of(found);
    InodeRef previous_parent;
    InodeRef inode;
    shard_of_key(key).with([&](Shard& shard) {
        const auto at = shard.by_key.find(key);
        if (at == shard.by_key.end())
            return;
        inode = at->second.lock();
        if (!inode || inode == root_)
            return;
        previous_parent = std::exchange(inode->state_.parent, parent);
        inode->state_.name = name;
    });
}

void InodeTable::keep_in_reach(const struct statx& found, const InodeRef& parent,
                               std::string_view name) {
    const InodeKey key = key_of(found);
    const InodeRef inode = shard_of_key(key).with([&](Shard& shard) {
        const auto at = shard.by_key.find(key);
        return at == shard.by_key.end() ? nullptr : at->second.lock();
    });
    if (!inode)
        return;
    const Location at = location(inode);
    // Best effort: without a descriptor it has to be looked up again.
    if (at.parent == parent && at.name == name)
        static_cast<void>(any_fd(inode).has_value());
}

InodeTable::Location InodeTable::location(const InodeRef& inode) {
    return shard_of(*inode).with([&](Shard&) {
        return Location{inode->state_.parent, inode->state_.name};
    });
}

InodeRef InodeTable::parent(const InodeRef& inode) {
    return shard_of(*inode).with([&](Shard&) { return inode->state_.parent; });
}

FdRef InodeTable::live_fd(const InodeRef& inode) {
    FdRef fd = shard_of(*inode).with([&](Shard&) {
        FdRef any = inode->state_.any_fd.lock();
        return any ? any : inode->state_.readable_fd.lock();
    });
    if (fd)
        fd->touch();
    return fd;
}

void InodeTable::offer_fd(const InodeRef& inode, const FdRef& fd) {
    shard_of(*inode).with([&](Shard&) { inode->state_.any_fd = fd; });
}

Result<InodeTable::Place> InodeTable::place(const InodeRef& inode) {
    if (!inode->sealed()) {
        if (FdRef fd = live_fd(inode))
            return Place{std::move(fd), {}};
    }
    Location at = location(inode);
    if (!at.parent)
        return fail(ESTALE);
    TRY(FdRef dir, any_fd(at.parent));
    return Place{std::move(dir), std::move(at.name)};
}

namespace {

// What the path leads to is not the inode: somebody on the host moved or removed it.
HostError not_there(HostError error) {
    switch (error.code) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
        return {ESTALE};
    default:
        return error;
    }
}

} // namespace

Result<struct statx> InodeTable::stat(const InodeRef& inode) {
    TRY(const Place at, place(inode));
    auto found = stat_at(at.dir->get(), at.name.c_str());
    if (!found)
        return base::Failure(not_there(found.error()));
    // A descriptor is the inode's own, whatever number the file has by now.
    if (!at.name.empty() && key_of(*found) != inode->key())
        return fail(ESTALE);
    return found;
}

Result<FdRef> InodeTable::any_fd(const InodeRef& inode) {
    if (inode->sealed())
        return fail(EACCES);
    if (FdRef fd = live_fd(inode))
        return fd;

    // Up to the nearest ancestor with a descriptor, then down again. Not by recursion: the client
    // decides how deep this is.
    std::vector<InodeRef> missing;
    FdRef dir;
    for (InodeRef at = inode; !dir;) {
        // Renames on the host may have made the remembered places contradict each other.
        if (missing.size() == max_walk)
            return fail(ESTALE);
        missing.push_back(at);
        InodeRef above = parent(at);
        if (!above)
            return fail(ESTALE);
        dir = live_fd(above);
        at = std::move(above);
    }
    for (; !missing.empty(); missing.pop_back()) {
        const InodeRef& next = missing.back();
        const std::string name = location(next).name;
        auto opened =
            with_descriptors([&] { return open_component(dir->get(), name.c_str(), O_PATH); });
        if (!opened)
            return base::Failure(not_there(opened.error()));
        TRY(const struct statx found, stat_at(opened->get(), ""));
        if (key_of(found) != next->key())
            return fail(ESTALE);
        dir = std::make_shared<HostFd>(std::move(*opened));
        offer_fd(next, dir);
        cache_.keep(dir);
    }
    return dir;
}

Result<FdRef> InodeTable::open_readable(const InodeRef& inode, const ProcFds& proc) {
    if (inode->sealed())
        return fail(EACCES);
    if (!inode->is_regular() && !inode->is_directory())
        return fail(S_ISLNK(inode->key().type) ? ELOOP : ENXIO);
    const int flags = O_RDONLY | (inode->is_directory() ? O_DIRECTORY : 0);
    Place at;
    if (strict_) {
        // The inode itself, by a descriptor that is held: other threads may push it out of the
        // cache, and by the name a device or a pipe could be opened that the client has moved
        // there.
        TRY(at.dir, any_fd(inode));
    } else {
        TRY(at, place(inode));
    }
    // By name straight away, if there is no descriptor yet. Should it have become something else
    // since, O_NONBLOCK keeps this from waiting, and it is closed again.
    auto opened = with_descriptors([&] {
        if (!at.name.empty())
            return open_component(at.dir->get(), at.name.c_str(), flags);
        return inode->is_directory() ? open_component(at.dir->get(), ".", flags)
                                     : proc.reopen(at.dir->get(), flags);
    });
    if (!opened)
        return base::Failure(not_there(opened.error()));
    if (!at.name.empty()) {
        TRY(const struct statx found, stat_at(opened->get(), ""));
        if (key_of(found) != inode->key())
            return fail(ESTALE);
    }
    return std::make_shared<HostFd>(std::move(*opened));
}

Result<FdRef> InodeTable::readable_fd(const InodeRef& inode, const ProcFds& proc) {
    FdRef fd = shard_of(*inode).with([&](Shard&) { return inode->state_.readable_fd.lock(); });
    if (fd) {
        fd->touch();
        return fd;
    }
    TRY(fd, open_readable(inode, proc));
    shard_of(*inode).with([&](Shard&) { inode->state_.readable_fd = fd; });
    cache_.keep(fd);
    return fd;
}

bool InodeTable::unchanged_since_open(const InodeRef& inode, const struct statx& found) {
    std::uint64_t version = found.stx_size;
    for (const statx_timestamp& time : {found.stx_mtime, found.stx_ctime}) {
        version = (version ^ static_cast<std::uint64_t>(time.tv_sec)) * 0x9e3779b97f4a7c15u;
        version = (version ^ time.tv_nsec) * 0xff51afd7ed558ccdu;
    }
    version |= 1; // never 0
    return shard_of(*inode).with(
        [&](Shard&) { return std::exchange(inode->state_.opened_version, version) == version; });
}

std::size_t InodeTable::size() {
    std::size_t sum = 0;
    for (Guarded<Shard>& guarded : shards_)
        sum += guarded.with([](Shard& shard) { return shard.by_key.size(); });
    return sum;
}

} // namespace virtio::fs
