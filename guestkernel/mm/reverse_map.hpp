// From the pages of a cache to the page-table entries that map them.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

class PageCache;

// Removes the translations of pages [first, end) of the cache from every address space.
// `with_copies`: private copies too (truncate; a later access is SIGBUS). Locked mappings are left
// alone if `skip_locked`.
void unmap_cached_pages(PageCache& cache, u64 first, u64 end, bool with_copies,
                        bool skip_locked = false);
// Makes the shared writable translations of [first, end) read-only, so that the next write is
// noticed.
void write_protect_cached_pages(PageCache& cache, u64 first, u64 end);

// Whether a mapping may change the pages, now or by mprotect(2). Requires: its mappings_lock().
bool has_writable_mapping(PageCache& cache);

} // namespace kernel
