// The inside of an AddressSpace, for mm/ only.
//
// Locks: `mutex` guards the mappings (shared: faults and lookups; exclusive: changes); inside of it
// the page table's spin lock guards entries and the counts of resident pages. A fault sleeps for
// memory with `mutex` shared and without the spin lock, and looks again when it has what it needs.
// To read a page of a file it lets go of both and starts anew: the file's server may be slow, or a
// thread that changes mappings before it answers.
#pragma once

#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/mm/page_table.hpp"
#include "guestkernel/mm/vma.hpp"

namespace kernel {

inline constexpr u64 max_mappings = 65530;              // vm.max_map_count
inline constexpr u64 stack_guard_gap = 256 * page_size; // below a growing stack

// Long work on page tables is done so many leaf tables (of 2 MiB) at a time: in between others get
// the spin lock and the CPU. Address space that is reserved but empty costs next to nothing.
inline constexpr u64 leaves_per_step = 16;

// Userfault: the mapping's program has to serve it first (FaultInfo::userfault). Absent: the page
// has to be read first (FaultInfo::absent).
enum class FaultOutcome : u8 { Done, BadAddress, BadAccess, BusError, NoMemory, Userfault, Absent };

// What a fault brings along at least where nothing speaks against it: a power of two that divides a
// leaf table.
inline constexpr u64 around_pages = 16;
inline constexpr u64 most_around = 64; // and at most

// How far an access from outside goes.
enum class Reach : u8 {
    Program,   // as far as the program's own
    Debugger,  // whatever the protection (ptrace(2))
    OwnMemory, // the program's, without files and without waiting for anybody
};

// A store to this mapping is noticed by a fault, so that the page is written back.
inline bool tracks_dirty(const Vma& vma) {
    return vma.shared() && !vma.cache->memory_only();
}

// A page of a file that a fault has to read, around it what is inside of [first, end).
struct AbsentPage {
    Ref<PageCache> cache;
    Ref<File> file; // its mapping may go meanwhile, and the source needs the file open
    u64 index = 0, first = 0, end = 0;
};

// How a fault was served.
struct FaultInfo {
    // A file had to be read.
    bool major = false;
    // Write to a private mapping whatever its protection (ptrace(2)): the copy stays read-only.
    bool force = false;
    // Only what is the program's alone, private memory of no file; and nobody is asked for it.
    bool own_memory = false;
    // The frame was exchanged: this CPU may still hold the old translation, read-only.
    bool touch = false;
    // Many entries became writable: a flush on this CPU spares faults.
    bool reload = false;
    // Whom to ask, and about what (UFFD_PAGEFAULT_FLAG_*).
    Ref<UserfaultContext> userfault;
    u64 userfault_flags = 0;
    // What to read, without `mutex`; and what was read: its reference keeps it from being reclaimed
    // before the next attempt finds it.
    AbsentPage absent;
    FrameRef read;
};

// Mappings that were taken out and wait to be destroyed without the lock (closing a file may
// sleep).
struct RemovedVmas {
    RemovedVmas() = default;
    RemovedVmas(const RemovedVmas&) = delete;
    RemovedVmas& operator=(const RemovedVmas&) = delete;
    ~RemovedVmas();
    void add(Vma& vma) { list_.push_back(vma); }

private:
    base::IntrusiveList<CacheMapping, &CacheMapping::cache_node>
        list_; // the node is free once off the cache's list
};

// Pages that were written soon after a fork, by either side: the next fork of this family copies
// them at once instead of having both sides fault (twice 11 us against 1 us for the copy).
struct WrittenAfterFork : RefCounted {
    static constexpr unsigned size = 16;
    base::Atomic<u64> pages[size];
    base::Atomic<u32> next{0};

    void note(u64 page) {
        for (const base::Atomic<u64>& known : pages)
            if (known.load(base::Order::Relaxed) == page)
                return;
        pages[next.fetch_add(1, base::Order::Relaxed) % size].store(page, base::Order::Relaxed);
    }
};

struct AddressSpaceImpl {
    explicit AddressSpaceImpl(AddressSpace& owner) : space(owner) {}
    static AddressSpaceImpl& of(AddressSpace& space) { return *space.impl_; }
    static const AddressSpaceImpl& of(const AddressSpace& space) { return *space.impl_; }

    AddressSpace& space;
    RwMutex mutex;
    VmaTree vmas;
    PageTable table;
    u64 break_start = 0, break_end = 0;
    u32 lock_future = 0; // vma_locked, vma_lock_on_fault: what new mappings get (mlockall(2))
    Ref<WrittenAfterFork> written_after_fork; // of the whole family; null until the first fork
    // Pages, under `mutex`.
    u64 total_pages = 0, locked_pages = 0, data_pages = 0, stack_pages = 0, text_pages = 0;
    u64 peak_pages = 0;
    // Pages, under the page table's lock.
    u64 resident_anonymous = 0, resident_file = 0, resident_shared = 0, peak_resident = 0;

    // Bytes that may be locked: RLIMIT_MEMLOCK, of which CAP_IPC_LOCK frees (mlock(2)).
    u64 lock_limit() const;

    // --- address_space.cpp; `mutex` is held exclusively
    Result<u64> choose_address(const MapRequest& request) const;
    // `replaced`: pages that are mapped where the new ones come.
    bool limits_allow(u64 pages, u32 protection, u32 flags, u64 replaced = 0) const;
    u64 mapped_pages(u64 start, u64 end) const;
    void account(const Vma& vma, bool added);
    void add_vma(Vma& vma);
    void show_in_cache(Vma& vma);
    void remove_vma(Vma& vma, RemovedVmas& removed);
    // Cuts so that `address` is no mapping's inside.
    Result<void> split_at(u64 address);
    Result<Vma*> split(Vma& vma, u64 address); // the upper part
    // Joins `vma` with its neighbours where they are alike; returns what it has become.
    Vma& merge(Vma& vma, RemovedVmas& removed);
    Result<void> unmap_range(u64 start, u64 end, RemovedVmas& removed);
    Result<Vma*> copy_vma(const Vma& vma, u64 start, u64 end) const;
    void set_break_page(u64 wanted, RemovedVmas& removed);

    // --- zap.cpp
    // Removes the translations of [start, end), gives the frames back and flushes. `only_cached`:
    // leaves private copies.
    void zap(u64 start, u64 end, bool only_cached = false);
    void note_resident(u64 entry, i64 by, bool memory_only);

    // --- fault.cpp
    FaultOutcome fault(u64 address, u64 access, FaultInfo& info);
    FaultOutcome fault_once(u64 address, u64 access, FaultInfo& info);
    // Makes one page of a mapping present; `mutex` is held.
    FaultOutcome resolve(Vma& vma, u64 address, bool write, u64 least_window, FaultInfo& info);
    FaultOutcome fault_anonymous(Vma& vma, u64 page, u64 least_window);
    FaultOutcome fault_cached(Vma& vma, u64 page, bool write, FaultInfo& info);
    FaultOutcome read_absent(u64 access, FaultInfo& info); // without `mutex`
    FaultOutcome fault_read_only(Vma& vma, u64 page, u64 seen, FaultInfo& info);
    void map_around(Vma& vma, u64 page);
    void map_resident(Vma& vma, u64 start, u64 end);
    void map_ahead(Vma& vma);
    void copy_around(Vma& vma, u64 page);
    u64 reuse_around(Vma& vma, u64 page, u64 pages);
    void copy_ahead(Vma& vma, u64 page);
    void note_written(Vma& vma, u64 page);
    FaultOutcome install_copy(Vma& vma, u64 page, u64 expected, Frame& from, FaultInfo& info);
    FaultOutcome install_cached(Vma& vma, u64 page, FrameRef frame, bool write);
    FaultOutcome make_table(u64 page);
    bool grow_stack(u64 address);
    FaultOutcome frame_at(u64 address, bool write, Reach reach, FrameRef& out);

    // --- populate.cpp
    // Faults in what is absent of [start, end), as far as mappings allow; for MAP_POPULATE,
    // mlock(2), madvise(2).
    Result<void> populate(u64 start, u64 end, bool write, bool ignore_holes);
    Result<void> populate_part(u64& start, u64 end, bool write, bool ignore_holes, FaultInfo& info);

    // --- userfault.cpp, userfault_fill.cpp
    bool asks_userfault(Vma& vma, u64 page, bool write, u64& flags);
    FaultOutcome wait_for_userfault(u64 address, u64 access, FaultInfo& info);
    Vma& leave_userfault(Vma& vma, RemovedVmas& removed);
    void set_guard(u64 start, u64 end, bool guarded);
    Result<void> fill_private(Vma& vma, u64 page, FrameRef frame, bool guarded);
    Result<void> fill_shared(Vma& vma, u64 page, FrameRef frame);
};

// Where a table was wanted under a spin lock and the reserve of frames is used up: gives clean page
// cache up, or ENOMEM. Nothing is written back for it: the caller holds the mutex exclusively,
// which a FUSE server among the program's own threads may be waiting for.
Result<void> make_room_for_tables();

// Translations that are gone or lost a permission, and frames to give back, once no CPU can use
// them any more.
class Gather {
public:
    explicit Gather(AddressSpaceImpl& impl) : impl_(impl) {}
    Gather(const Gather&) = delete;
    Gather& operator=(const Gather&) = delete;
    ~Gather() { flush(); }
    void changed(u64 address) {
        if (address < low_)
            low_ = address;
        if (address + page_size > high_)
            high_ = address + page_size;
    }
    // Takes over the reference.
    void release(Frame& frame);
    void flush();

private:
    static constexpr unsigned capacity = 128;
    AddressSpaceImpl& impl_;
    u64 low_ = ~u64{0};
    u64 high_ = 0;
    base::IntrusiveList<Frame, &Frame::node> private_frames_; // of no cache: their node is free
    Frame* frames_[capacity];
    unsigned count_ = 0;
};

} // namespace kernel
