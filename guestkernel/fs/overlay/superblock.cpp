#include <linux/errno.h>
#include <linux/magic.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/overlay/overlay.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/mm/frame.hpp"

namespace kernel {
namespace {

usize bucket_of(const Inode* lower, usize buckets) {
    return hash_mix(reinterpret_cast<u64>(lower) >> 4) & (buckets - 1);
}

} // namespace

Result<Ref<OverlaySuperblock>> OverlaySuperblock::create(std::span<const Path> lower,
                                                         bool writable) {
    TRY(auto fs, make_ref<OverlaySuperblock>());
    fs->read_only = !writable;
    Vector<Ref<Inode>> roots;
    for (const Path& layer : lower) {
        Inode* inode = layer.dentry()->inode();
        if (inode == nullptr || !inode->is_directory())
            return fail(ENOTDIR);
        // Layers are looked at by inode: the objects must be found again without a dentry that
        // holds them.
        if (!layer.mount()->superblock().can_drop_dentries())
            return fail(EINVAL);
        TRY(roots.push_back(Ref<Inode>::share(inode)));
        TRY(fs->layers_.push_back(layer));
    }
    TRY(fs->root_, fs->wrap(std::move(roots)));
    return fs;
}

OverlaySuperblock::~OverlaySuperblock() {
    root_ = nullptr;
    for (usize i = 0; i < buckets; i++)
        for (;;) {
            OverlayInode* pinned = nullptr;
            {
                SpinGuard guard(table_lock_);
                for (pinned = table_[i]; pinned != nullptr && !pinned->pinned_;)
                    pinned = pinned->table_next_;
                if (pinned != nullptr)
                    pinned->pinned_ = false;
            }
            if (pinned == nullptr)
                break;
            pinned->release(); // and leaves the table with its last reference
        }
}

Ref<Inode> OverlaySuperblock::root() {
    return root_;
}

// The changes are in memory, so memory is what there is to fill.
Result<FileSystemStats> OverlaySuperblock::stats() {
    const MemoryStats memory = memory_stats();
    FileSystemStats stats{};
    stats.type = OVERLAYFS_SUPER_MAGIC;
    stats.block_size = page_size;
    stats.blocks = memory.total;
    stats.free_blocks = stats.available_blocks = memory.free + memory.cached;
    stats.name_max = Dentry::name_limit;
    return stats;
}

bool OverlaySuperblock::dentry_valid(Inode& parent, std::string_view name, Inode* inode,
                                     u64 cached_at_ns) {
    auto& directory = static_cast<OverlayInode&>(parent);
    if (directory.lower_ == nullptr)
        return true;
    if (directory.entries_pointer_.load(base::Order::Acquire) != nullptr) {
        SpinGuard guard(directory.attributes_lock());
        if (directory.entries_->find(name) != nullptr)
            return true;
    }
    auto* child = static_cast<OverlayInode*>(inode);
    for (usize i = 0; i < directory.layer_count(); i++) {
        Inode& layer = directory.layer(i);
        // Which layer the child came from is not kept: of several layers, only a missing name is
        // asked for in each.
        Inode* below = child == nullptr ? nullptr : child->lower_.get();
        if (below != nullptr && below->superblock() != layer.superblock())
            continue;
        if (!layer.superblock()->dentry_valid(layer, name, below, cached_at_ns))
            return false;
    }
    return true;
}

Result<Ref<OverlayInode>> OverlaySuperblock::wrap(Vector<Ref<Inode>> lowers) {
    Inode* lower = lowers[0].get();
    const usize bucket = bucket_of(lower, buckets);
    const auto find = [&]() -> OverlayInode* {
        for (OverlayInode* at = table_[bucket]; at != nullptr; at = at->table_next_)
            if (at->lower_.get() == lower && at->try_add_ref())
                return at;
        return nullptr;
    };
    {
        SpinGuard guard(table_lock_);
        if (OverlayInode* found = find())
            return Ref<OverlayInode>::adopt(found);
    }
    TRY(auto fresh, make_ref<OverlayInode>(*this, lower->number(), lower->mode_));
    TRY(fresh->adopt_lowers(std::move(lowers)));
    Ref<OverlayInode> answer = fresh;
    {
        SpinGuard guard(table_lock_);
        if (OverlayInode* found = find()) {
            answer = Ref<OverlayInode>::adopt(found); // does not drop the last reference of `fresh`
        } else {
            fresh->table_next_ = table_[bucket];
            table_[bucket] = fresh.get();
            fresh->in_table_ = true;
        }
    }
    return answer;
}

void OverlaySuperblock::remove_from_table(OverlayInode& inode) {
    if (!inode.in_table_)
        return;
    SpinGuard guard(table_lock_);
    for (OverlayInode** at = &table_[bucket_of(inode.lower_.get(), buckets)]; *at != nullptr;
         at = &(*at)->table_next_)
        if (*at == &inode) {
            *at = inode.table_next_;
            return;
        }
}

void OverlaySuperblock::pin(OverlayInode& inode) {
    if (!inode.in_table_)
        return; // what was made here lives by its names alone
    SpinGuard guard(table_lock_);
    if (!inode.pinned_) {
        inode.pinned_ = true;
        inode.add_ref();
    }
}

void OverlaySuperblock::unpin(OverlayInode& inode) {
    {
        SpinGuard guard(table_lock_);
        if (!std::exchange(inode.pinned_, false))
            return;
    }
    inode.release();
}

Result<Ref<Superblock>> make_overlay(std::span<const Path> lower, const Path& upper) {
    if (lower.empty())
        return fail(EINVAL);
    // The changes live in the overlay itself. Only where that cannot be told from a file system in
    // memory that nobody else looks at is it an upper layer.
    if (upper && std::string_view(upper.mount()->superblock().type()) != "tmpfs")
        return fail(EINVAL);
    TRY(auto fs, OverlaySuperblock::create(lower, static_cast<bool>(upper)));
    return Ref<Superblock>(std::move(fs));
}

} // namespace kernel
