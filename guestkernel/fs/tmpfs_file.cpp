// Regular files of tmpfs, and memory objects without a name.
#include <linux/errno.h>
#include <linux/falloc.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <linux/mount.h>

#include "guestkernel/fs/attributes.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/internal_mount.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/reverse_map.hpp"

namespace kernel {

Result<Ref<TmpfsFile>> TmpfsFile::make(TmpfsSuperblock& home, u32 mode, u32 uid, u32 gid) {
    TRY(Ref<PageCache> cache, make_ref<PageCache>(nullptr));
    TRY(const u64 number, home.take_inode());
    TRY(Ref<TmpfsFile> made, make_ref<TmpfsFile>(home, number, mode, u64{0}, uid, gid));
    made->cache_ = std::move(cache);
    return made;
}

TmpfsFile::~TmpfsFile() {
    home().account(accounted_pages_.load(), 0);
}

Result<Ref<File>> TmpfsFile::open(const Path& path, u32 flags) {
    TRY(Ref<TmpfsRegularFile> file,
        make_ref<TmpfsRegularFile>(path, Ref<Inode>::share(this), flags));
    return Ref<File>(std::move(file));
}

void TmpfsFile::account() {
    const u64 now = cache_->resident_pages();
    home().account(accounted_pages_.exchange(now), now);
}

// Pages come by way of mappings, too: a fault looks at the attributes before and after.
u64 TmpfsFile::visible_pages() {
    account();
    return cache_->resident_pages();
}

Result<void> TmpfsFile::extend(u64 size) {
    size_.store(size, base::Order::Relaxed);
    return {};
}

void TmpfsFile::note_modified() {
    TmpfsInode::note_modified();
    account();
}

Result<void> TmpfsFile::resize(u64 size) {
    const u64 old = file_size();
    if ((size < old && (seals_ & F_SEAL_SHRINK) != 0) ||
        (size > old && (seals_ & F_SEAL_GROW) != 0))
        return fail(EPERM);
    size_.store(size, base::Order::Relaxed);
    if (size < old) {
        cache_->truncate(size);
        account();
    }
    return {};
}

// Pages that are here already need no room.
Result<u64> TmpfsFile::room_for(u64 offset, u64 bytes) {
    const u64 first = offset >> page_shift;
    const u64 end = page_up(offset + bytes) >> page_shift;
    u64 left = home().free_pages();
    if (end - first <= left)
        return bytes;
    for (u64 at = first; at < end;) {
        const u64 hole = cache_->next_hole(at, end);
        at = cache_->next_present(hole, end);
        if (at - hole > left) {
            const u64 limit = (hole + left) << page_shift;
            return limit > offset ? Result<u64>(limit - offset) : Result<u64>(fail(ENOSPC));
        }
        left -= at - hole;
    }
    return bytes;
}

Result<void> TmpfsFile::allocate(int mode, u64 offset, u64 length) {
    if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) != 0)
        return fail(EOPNOTSUPP);
    if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) {
        if ((mode & FALLOC_FL_KEEP_SIZE) == 0)
            return fail(EOPNOTSUPP);
        if ((seals_ & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0)
            return fail(EPERM);
        cache_->punch(offset, offset + length);
        note_modified();
        return {};
    }
    const bool grows = offset + length > file_size() && (mode & FALLOC_FL_KEEP_SIZE) == 0;
    if (grows && (seals_ & F_SEAL_GROW) != 0)
        return fail(EPERM);
    if (grows)
        TRY(limit_file_size(offset + length - 1, 1));
    TRY(const u64 room, room_for(offset, length));
    if (room < length)
        return fail(ENOSPC);
    for (u64 index = offset >> page_shift; index < page_up(offset + length) >> page_shift;
         index++) {
        TRY(FrameRef frame, cache_->get_for_write(index, true));
        cache_->mark_dirty(*frame);
        if (fatal_signal_pending())
            return fail(EINTR);
        cond_resched();
    }
    if (grows)
        size_.store(offset + length, base::Order::Relaxed);
    note_modified();
    return {};
}

Result<void> TmpfsFile::add_seals(u32 seals) {
    constexpr u32 known =
        F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
    if ((seals & ~known) != 0)
        return fail(EINVAL);
    MutexGuard guard(mutex());
    if ((seals_ & F_SEAL_SEAL) != 0)
        return fail(EPERM);
    if ((seals & F_SEAL_WRITE) != 0 && (seals_ & F_SEAL_WRITE) == 0) {
        // fcntl(2): not while there are shared mappings that are writable, or may become it. With
        // the lock held, so that one that comes now finds the seal (AddressSpace::map()).
        SpinGuard mappings(cache_->mappings_lock());
        if (has_writable_mapping(*cache_))
            return fail(EBUSY);
        seals_ = seals_ | seals;
    }
    seals_ = seals_ | seals;
    return {};
}

Result<u64> TmpfsRegularFile::seek(i64 offset, int whence) {
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return RegularFile::seek(offset, whence);
    const u64 size = file().file_size();
    const auto at = static_cast<u64>(offset);
    if (offset < 0 || at >= size)
        return fail(ENXIO);
    PageCache& cache = *file().page_cache();
    const u64 end = page_up(size) >> page_shift;
    const u64 index = at >> page_shift;
    const u64 found =
        whence == SEEK_DATA ? cache.next_present(index, end) : cache.next_hole(index, end);
    if (whence == SEEK_DATA && found >= end)
        return fail(ENXIO);
    u64 position = found == index ? at : found << page_shift;
    if (position > size)
        position = size;
    set_position(position);
    return position;
}

Result<void> TmpfsRegularFile::allocate(int mode, u64 offset, u64 length) {
    MutexGuard guard(file().mutex());
    return file().allocate(mode, offset, length);
}

Result<usize> TmpfsRegularFile::before_write(u64 offset, usize bytes) {
    const u32 seals = file().seals();
    if ((seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0)
        return fail(EPERM);
    if ((seals & F_SEAL_GROW) != 0 && offset + bytes > file().file_size())
        return fail(EPERM);
    return file().room_for(offset, bytes);
}

Result<Ref<PageCache>> TmpfsRegularFile::mapping(u32 protection, u32 map_flags) {
    if ((map_flags & MAP_SHARED) != 0 && (protection & PROT_WRITE) != 0 &&
        (file().seals() & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0)
        return fail(EPERM);
    return RegularFile::mapping(protection, map_flags);
}

namespace {

Result<Ref<Superblock>> make_memory_store() {
    TRY(Ref<Superblock> out, make_tmpfs_superblock("nr_blocks=0,nr_inodes=0", "tmpfs"));
    return out;
}
constinit InternalMount memory_files{make_memory_store, MS_NOSUID | MS_NODEV};

} // namespace

// `flags`: MFD_ALLOW_SEALING as memfd_create(2) has them; the descriptor's are the caller's
// business.
Result<Ref<File>> make_shared_memory_file(std::string_view name, u64 size, u32 flags) {
    TRY(const Ref<Mount> mount, memory_files.get());
    auto& superblock = static_cast<TmpfsSuperblock&>(mount->superblock());
    const u32 mode = mode_regular | 0777u;
    TRY(Ref<TmpfsFile> inode, TmpfsFile::make(superblock, mode, current_fsuid(), current_fsgid()));
    inode->change_links(-1);
    if ((flags & (MFD_ALLOW_SEALING)) != 0)
        inode->set_seals(0);
    TRY(inode->extend(size));
    TRY(Ref<Dentry> dentry,
        DentryCache::make_unhashed(mount->root(), name.substr(0, Dentry::name_limit),
                                   Ref<Inode>(inode), true));
    return inode->open(Path(mount, std::move(dentry)), O_RDWR | O_LARGEFILE);
}

} // namespace kernel
