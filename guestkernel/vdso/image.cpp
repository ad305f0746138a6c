// The vDSO's pages as a file that execve maps: the data page, then the ELF image.
#include <linux/errno.h>

#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/vdso.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/vdso/data.hpp"
#include "vdso_image.inc"

namespace kernel {

namespace {

constinit VdsoImage* image = nullptr;
constinit vdso::Data* data = nullptr;

} // namespace

Result<void> init_vdso() {
    TRY(Owned<VdsoImage> fresh, make_owned<VdsoImage>());
    fresh->size = page_size + page_up(sizeof vdso_elf_bytes);
    fresh->elf_offset = page_size;
    TRY(fresh->file, make_shared_memory_file("vdso", fresh->size, 0));
    PageCache* cache = fresh->file->inode()->page_cache();
    if (cache == nullptr)
        return fail(ENODEV);
    TRY(FrameRef first, cache->get_for_write(0, true));
    // SAFETY: the page belongs to a file that nobody else writes; the reference is kept for good.
    data = reinterpret_cast<vdso::Data*>(first.data());
    __builtin_memset(first.data(), 0, page_size);
    cache->mark_dirty(*first.leak());
    for (usize at = 0; at < sizeof vdso_elf_bytes; at += page_size) {
        const usize left = sizeof vdso_elf_bytes - at;
        const usize piece = left < page_size ? left : page_size;
        TRY(FrameRef page, cache->get_for_write(1 + at / page_size, true));
        __builtin_memcpy(page.data(), vdso_elf_bytes + at, piece);
        __builtin_memset(page.data() + piece, 0, page_size - piece);
        cache->mark_dirty(*page);
    }
    image = fresh.leak();
    update_vdso_clock();
    return {};
}

const VdsoImage& vdso_image() {
    return *image;
}

void update_vdso_clock() {
    static constinit SpinLock lock{LockRank::Leaf};
    SpinGuard guard(lock); // two at once would show each other's halves
    const ClockParameters now = clock_parameters();
    __atomic_fetch_add(&data->sequence, 1, __ATOMIC_SEQ_CST);
    data->base_tsc = now.base_tsc;
    data->ns_per_tick = now.ns_per_tick;
    data->realtime_offset = now.realtime_offset;
    __atomic_fetch_add(&data->sequence, 1, __ATOMIC_SEQ_CST);
}

} // namespace kernel
