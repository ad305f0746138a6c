// The pages of one file (or of a shared memory object), by page number. read(2), write(2) and mappings all
// go through it, so they see the same bytes.
#pragma once

#include <span>

#include "guestkernel/core/ref.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

// Where the pages come from and go to: implemented by file systems.
class PageSource {
public:
    virtual ~PageSource() = default;
    // Fills `frames` (consecutive pages from `first`, locked, not up to date); what lies past the end of the file
    // is zeroed. May sleep. An error leaves none of them up to date.
    virtual Result<void> read_pages(u64 first, std::span<Frame* const> frames) = 0;
    // Writes back consecutive dirty pages; `bytes` of the last one are inside the file.
    virtual Result<void> write_pages(u64 first, std::span<Frame* const> frames, u64 file_size) = 0;
    virtual u64 size() const = 0; // of the file, bytes
};

class PageCache : public RefCounted {
public:
    // `source` null: memory is the only home of the pages (tmpfs, shared anonymous memory); absent pages read as
    // zeros and pages are never reclaimed. The source must call detach() before it dies.
    explicit PageCache(PageSource* source);
    ~PageCache() override;
    void detach();

    // The page if it is here and up to date, without sleeping.
    FrameRef lookup(u64 index);
    // The page, read if need be, with read-ahead on sequential use. ENXIO past the end of the file.
    Result<FrameRef> get(u64 index);
    // The page for writing: like get(), but not read when the caller will overwrite all of it; created when
    // absent. The caller calls mark_dirty() after it wrote.
    Result<FrameRef> get_for_write(u64 index, bool whole_page);
    void mark_dirty(Frame& frame);

    // Drops pages at and past `first_byte` (zeroing the rest of a partial one), unmapping them from all address spaces.
    void truncate(u64 first_byte);
    void punch(u64 first_byte, u64 end_byte);
    Result<void> write_back(u64 first_byte, u64 end_byte);
    // Forgets clean pages (the file changed behind us).
    void invalidate();
    u64 resident_pages() const;

    // Next present page at or after `index` / next hole, for SEEK_DATA and SEEK_HOLE of memory-only caches.
    u64 next_present(u64 index, u64 limit);
    u64 next_hole(u64 index, u64 limit);

    PageSource* source() const { return source_; }
    bool memory_only() const { return memory_only_; }

    // Address spaces that map it register here (mm/ only), for truncate().
    struct Mappings;

private:
    friend class AddressSpace;
    PageSource* source_;
    bool memory_only_;
    struct Impl;
    Impl* impl_ = nullptr;
};

} // namespace kernel
