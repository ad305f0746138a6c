#include "guestkernel/mm/shared_pages.hpp"

#include "guestkernel/core/panic.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/vfs.hpp"

namespace kernel {

Result<Ref<SharedPages>> SharedPages::make(std::string_view name, u64 bytes) {
    TRY(Ref<SharedPages> made, make_ref<SharedPages>());
    const u64 size = page_up(bytes);
    TRY(made->file_, make_shared_memory_file(name, size, 0));
    PageCache& cache = *made->file_->inode()->page_cache();
    TRY(made->frames_.reserve(size >> page_shift));
    for (u64 i = 0; i < size >> page_shift; i++) {
        TRY(FrameRef frame, cache.get_for_write(i, false));
        TRY(made->frames_.push_back(std::move(frame)));
    }
    return made;
}

void* SharedPages::address(u64 offset, u64 size) {
    const u64 inside = offset % page_size;
    ASSERT(inside + size <= page_size);
    return frames_[offset >> page_shift].data() + inside;
}

} // namespace kernel
