// One mapping of an address space, and the ordered set of them.
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/lib/string.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/mm/userfault.hpp"

namespace kernel {

class AddressSpace;

// What was asked of a mapping beyond its protection.
enum VmaFlag : u32 {
    vma_shared = 1u << 0,
    vma_grows_down = 1u << 1,
    vma_no_reserve = 1u << 2,
    vma_locked = 1u << 3,
    vma_lock_on_fault = 1u << 4,
    vma_dont_fork = 1u << 5,
    vma_wipe_on_fork = 1u << 6,
    vma_anonymous_shared = 1u << 7, // MAP_SHARED | MAP_ANONYMOUS: a cache without a file
    vma_stack = 1u << 8,            // MAP_STACK or grows_down, for accounting
    vma_random = 1u << 9,           // MADV_RANDOM: nothing around a fault
    vma_dont_dump = 1u << 10,
    vma_fault_missing = 1u << 11, // userfaultfd(2): who registered these is in Vma::userfault
    vma_fault_write = 1u << 12,
    vma_fault_minor = 1u << 13,
    vma_secret = 1u << 15,   // memfd_secret(2): for nobody else, and always locked
    vma_unmapped = 1u << 14, // taken out for good, not joined with a neighbour
};
inline constexpr u32 vma_userfault = vma_fault_missing | vma_fault_write | vma_fault_minor;

// The name that a program gave to anonymous memory (PR_SET_VMA_ANON_NAME), as /proc/PID/maps shows
// it.
struct MappingName : RefCounted {
    String text, shared_text; // of private and of shared memory
};

struct Vma : CacheMapping {
    u64 start = 0;
    u64 end = 0;
    u32 protection = 0;     // PROT_*
    u32 max_protection = 7; // what mprotect(2) may make of it
    u32 flags = 0;          // VmaFlag
    Ref<File> file;
    Ref<PageCache> cache; // null: private anonymous memory
    u64 offset = 0;       // bytes, of `start` in the cache
    const char* name = nullptr;
    Ref<MappingName> given_name;
    Ref<UserfaultContext> userfault;
    u32 policy = 0; // mbind(2), as Task::memory_policy; 0: the task's
    AddressSpace* space = nullptr;
    // Sequential use: where the last fault's window ended, and how many pages it had. Hints, not
    // locked.
    base::Atomic<u64> next_fault{0};
    base::Atomic<u32> window{0};
    base::Atomic<u64> next_copy{0}; // the same of writes to shared pages
    base::Atomic<u32> copy_window{0};

    bool shared() const { return (flags & vma_shared) != 0; }
    u64 length() const { return end - start; }
    u64 pages() const { return length() >> page_shift; }
    u64 page_index(u64 address) const { return (address - start + offset) >> page_shift; }

private:
    friend class VmaTree;
    Vma* left_ = nullptr;
    Vma* right_ = nullptr;
    Vma* prev_ = nullptr; // in address order
    Vma* next_ = nullptr;
    u32 priority_ = 0;
    u64 max_gap_ = 0; // the largest hole in front of any mapping of this subtree
};

// The mappings of an address space: a treap by address, that also knows the holes. Its owner locks.
class VmaTree {
public:
    Vma* first() const { return first_; }
    static Vma* next(const Vma& vma) { return vma.next_; }
    static Vma* prev(const Vma& vma) { return vma.prev_; }
    u64 count() const { return count_; }

    Vma* find(u64 address) const;      // the one that contains it
    Vma* find_from(u64 address) const; // the first that ends after it
    void insert(Vma& vma);             // Requires: overlaps none
    void erase(Vma& vma);
    // Moves the bounds; its neighbours stay its neighbours.
    void set_bounds(Vma& vma, u64 start, u64 end, u64 offset);
    // The highest hole of `length` bytes in [user_min, limit), or 0.
    u64 find_gap(u64 length, u64 limit) const;
    bool range_free(u64 start, u64 end) const;

private:
    static u64 gap_before(const Vma& vma) {
        return vma.start - (vma.prev_ != nullptr ? vma.prev_->end : user_min);
    }
    static void update(Vma& vma);
    static void split(Vma* tree, u64 address, Vma*& low, Vma*& high);
    static Vma* join(Vma* low, Vma* high);
    static Vma* insert_at(Vma* tree, Vma& vma);
    static Vma* erase_at(Vma* tree, Vma& vma);
    static void refresh(Vma* tree, const Vma& vma);
    static u64 search_gap(const Vma* tree, u64 length, u64 limit);

    Vma* root_ = nullptr;
    Vma* first_ = nullptr;
    Vma* last_ = nullptr;
    u64 count_ = 0;
    u64 random_ = 0x2545'f491'4f6c'dd1d;
};

} // namespace kernel
