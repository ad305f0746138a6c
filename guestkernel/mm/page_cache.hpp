// The pages of one file (or of a shared memory object), by page number. read(2), write(2) and
// mappings all go through it, so they see the same bytes.
#pragma once

#include <span>

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/mm/radix_tree.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

// Where the pages come from and go to: implemented by file systems.
class PageSource {
public:
    virtual ~PageSource() = default;
    // Fills `frames` (consecutive pages from `first`, locked, not up to date); what lies past the
    // end of the file is zeroed. May sleep. An error leaves none of them up to date.
    virtual Result<void> read_pages(u64 first, std::span<Frame* const> frames) = 0;
    // Writes back consecutive dirty pages; `bytes` of the last one are inside the file.
    virtual Result<void> write_pages(u64 first, std::span<Frame* const> frames, u64 file_size) = 0;
    virtual u64 size() const = 0; // of the file, bytes
};

// A mapping of a cache into an address space, on the cache's list (mm/ only; a Vma is one).
struct CacheMapping {
    base::ListNode cache_node;
};

class PageCache : public RefCounted {
public:
    // `source` null: memory is the only home of the pages (tmpfs, shared anonymous memory); absent
    // pages read as zeros and pages are never reclaimed. The source must call detach() before it
    // dies.
    explicit PageCache(PageSource* source);
    ~PageCache() override;
    void detach();

    // The page if it is here and up to date, without sleeping.
    FrameRef lookup(u64 index);
    // Takes references to the up-to-date pages among [first, first + out.size()); absent ones are
    // null.
    void lookup_range(u64 first, std::span<Frame*> out);
    // The page, read if need be, with read-ahead on sequential use. ENXIO past the end of the file.
    // To be read only: where memory is the only home, an absent page is one page of zeros that all
    // caches share.
    Result<FrameRef> get(u64 index);
    // The page for writing: like get(), but not read when the caller will overwrite all of it;
    // created when absent. The caller calls mark_dirty() after it wrote. With `whole_page`, an
    // absent page starts as zeros: a caller whose copy falls short must have asked for it without.
    Result<FrameRef> get_for_write(u64 index, bool whole_page);
    // Makes a frame of the caller's, up to date, the page; EEXIST if there is one. Where memory is
    // the only home.
    Result<void> insert(u64 index, FrameRef frame);
    void mark_dirty(Frame& frame);
    // Reads those of [first, first + pages) that are absent (readahead(2), MADV_WILLNEED).
    Result<void> read_ahead(u64 first, u64 pages);

    // Drops pages at and past `first_byte` (zeroing the rest of a partial one), unmapping them from
    // all address spaces.
    void truncate(u64 first_byte);
    void punch(u64 first_byte, u64 end_byte);
    Result<void> write_back(u64 first_byte, u64 end_byte);
    // Forgets clean pages (the file changed behind us).
    void invalidate();
    u64 resident_pages() const { return pages_.load(base::Order::Relaxed); }
    u64 dirty_pages() const { return dirty_.load(base::Order::Relaxed); }

    // Next present page at or after `index` / next hole, for SEEK_DATA and SEEK_HOLE of memory-only
    // caches.
    u64 next_present(u64 index, u64 limit);
    u64 next_hole(u64 index, u64 limit);

    // No other cache has or had it.
    u64 number() const { return number_; }
    PageSource* source() const { return source_; }
    bool memory_only() const { return memory_only_; }
    // memfd_secret(2): for who has it mapped, and nobody else.
    bool is_secret() const { return secret_; }
    void make_secret() { secret_ = true; } // before anybody knows it

    // --- for mm/ only
    // The page for a fault, without waiting for the source: null where read_for_fault() has to get
    // it first. Creates absent pages where memory is the only home.
    Result<FrameRef> get_for_fault(u64 index);
    // As get(), but reads around `index` inside [first, end). EINTR for a task that is being
    // killed.
    Result<FrameRef> read_for_fault(u64 index, u64 first, u64 end);
    void add_mapping(CacheMapping& mapping);
    void remove_mapping(CacheMapping& mapping);
    SpinLock& mappings_lock() { return mappings_lock_; }
    base::IntrusiveList<CacheMapping, &CacheMapping::cache_node>& mappings() { return mappings_; }
    // Takes a clean page that nobody uses out of the cache, for reclaim. The caller holds one
    // reference.
    bool evict(Frame& frame);
    base::ListNode dirty_node; // on the list of caches with dirty pages

private:
    FrameRef find_ready(u64 index, bool& present);
    Result<void> fill(u64 index, u64 first, u64 end);
    Result<void> read_window(u64 first, u64 count);
    Result<FrameRef> create(u64 index);
    u64 sequential_window(u64 index, u64 start_window, u64 limit);
    usize claim_dirty_run(u64& index, u64 end, std::span<Frame*> out);
    Result<void> write_run(u64 first, std::span<Frame*> run);
    bool attach_frame(u64 index, Frame& frame);
    void detach_frame(Frame& frame);
    void drop_range(u64 first, u64 end, bool only_clean);

    const u64 number_;
    PageSource* source_;
    bool memory_only_;
    bool secret_ = false;
    SpinLock lock_{LockRank::PageCache};
    RadixTree tree_;
    base::Atomic<u64> pages_{0};
    base::Atomic<u64> dirty_{0};
    SpinLock mappings_lock_{LockRank::MappingList};
    base::IntrusiveList<CacheMapping, &CacheMapping::cache_node> mappings_;
};

// Gives up pages that can be read again at any time; returns how many.
usize reclaim_clean_pages(usize wanted);
// Frees page tables that are kept for the next address spaces; returns how many.
usize release_kept_page_tables();
// Writes back the dirty pages of every cache: sync(2), and before the VM ends.
void write_back_all();

} // namespace kernel
