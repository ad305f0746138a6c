// A user address space: its mappings (Vma), its page tables and what happens at a fault.
#pragma once

#include <span>

#include "base/atomic.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

class File;
class ForkedUserfaults;

// One mapping request: mmap(2) after its arguments have been checked.
struct MapRequest {
    VirtAddr hint{};
    u64 length = 0;     // bytes, a multiple of the page size
    u32 protection = 0; // PROT_*
    u32 flags = 0;      // MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN,
                        // MAP_POPULATE, MAP_LOCKED, ...
    Ref<File> file;     // null: anonymous
    u64 offset = 0;     // bytes, page aligned
    const char* name = nullptr; // "[stack]", "[heap]", "[vdso]" for /proc/PID/maps; a literal
};

// What /proc/PID/maps shows.
struct MappingInfo {
    VirtAddr start, end;
    u32 protection, flags;
    u64 offset;
    Ref<File> file;
    const char* name;
    u64 resident_pages, dirty_pages, shared_pages;
    u64 proportional_bytes;                          // each page divided by how many map it
    bool no_dump, no_fork, wiped_on_fork, at_random; // madvise(2)
    bool locked_on_fault;                            // mlock2(2)
    bool read_from_file;                             // what is absent is not zeros
    Ref<RefCounted> name_holder;                     // keeps `name`
};

// What /proc/PID/pagemap tells of a page.
struct PageView {
    u64 frame = 0; // number of the frame; 0: not there
    bool of_file = false, alone = false;
};

class AddressSpace : public RefCounted {
public:
    static Result<Ref<AddressSpace>> create();
    ~AddressSpace() override;
    // fork(2): a copy-on-write copy.
    Result<Ref<AddressSpace>> clone();

    // Drops all mappings and their memory, but not the page table itself: for the exit of the last
    // task that works here, which still has the table loaded. Requires: no task returns to user
    // mode in this space again.
    void release_memory();

    Result<VirtAddr> map(const MapRequest& request);
    Result<void> unmap(VirtAddr start, u64 length);
    Result<void> protect(VirtAddr start, u64 length, u32 protection);
    Result<VirtAddr> remap(VirtAddr old_start, u64 old_length, u64 new_length, u32 flags,
                           VirtAddr new_start);
    Result<void> advise(VirtAddr start, u64 length, int advice);
    // PR_SET_VMA_ANON_NAME; null: none any more.
    Result<void> set_name(VirtAddr start, u64 length, Ref<struct MappingName> name);
    // mbind(2), set_mempolicy_home_node(2): `policy` as Task::memory_policy; the policy at an
    // address.
    Result<void> set_policy(VirtAddr start, u64 length, u32 policy);
    Result<void> check_home_node(VirtAddr start, u64 length);
    Result<u32> policy_at(VirtAddr address);
    // process_mrelease(2): gives back what only this space, whose tasks are ending, has.
    void release_private();
    Result<void> sync(VirtAddr start, u64 length, int flags);
    // remap_file_pages(2): the shared mapping shows its object from `offset` on in this range.
    Result<void> show_other_part(VirtAddr start, u64 length, u64 offset, bool populate);
    Result<void> lock_range(VirtAddr start, u64 length, bool locked);
    Result<void> lock_range(VirtAddr start, u64 length, bool locked, bool on_fault);
    Result<void> lock_all(bool current, bool future,
                          bool on_fault); // mlockall(2); neither: munlockall(2)
    // One byte per page. `discreet`, for mincore(2): all of a file that the caller may not change
    // counts as resident.
    Result<void> resident(VirtAddr start, u64 length, u8* out, bool discreet = false);
    // brk(2): returns the new break, or the old one when the request cannot be met.
    VirtAddr set_break(VirtAddr wanted);
    // The program image's limits, set by execve.
    void init_break(VirtAddr start);
    // PR_SET_MM: the break is said to be here. Nothing is mapped for it. 0: stays where it is.
    struct Break {
        u64 start, end;
    };
    Break break_range();
    void set_break_range(const Break& range);

    // Serves a fault at `address`; `access` has the arch::fault_* bits. On failure `signal_code` =
    // signal << 8 | si_code.
    bool handle_fault(VirtAddr address, u64 access, u32& signal_code);
    bool handle_fault(VirtAddr address, u64 access, u32& signal_code,
                      bool& major); // ... whether it took I/O
    // A frame behind a user address, faulted in (futexes, ptrace, process_vm_*), with a reference.
    Result<FrameRef> frame_at(VirtAddr address, bool write);
    // Copies from or to an address space that need not be the current one; returns the bytes
    // copied.
    // `force`: whatever the mapping's protection says, as ptrace(2) does.
    usize read_foreign(VirtAddr from, void* to, usize bytes, bool force = true);
    // For who reads what everybody may see (/proc/PID/cmdline): only private memory of no file, as
    // far as the program may read it. A file's server or a userfaultfd(2) must not keep him
    // waiting.
    usize read_own_memory(VirtAddr from, void* to, usize bytes);
    usize write_foreign(VirtAddr to, const void* from, usize bytes, bool force = true);
    // The futex key of an address: for a shared mapping the object and offset, else this space and
    // the address.
    struct FutexKey {
        const void* object;
        u64 offset;
        // Of a cache: who waits holds nothing of it, and another may come to lie in its place.
        u64 number = 0;
        friend bool operator==(const FutexKey&, const FutexKey&) = default;
    };
    Result<FutexKey> futex_key(VirtAddr address, bool shared);

    // Calls back for each mapping in address order; may sleep; false from the callback ends it.
    void for_each_mapping(bool (*callback)(const MappingInfo&, void*), void* context,
                          bool count_pages, u64 from = 0);

    // From `start` on, page by page.
    void view_pages(VirtAddr start, std::span<PageView> out);
    void reset_peak(); // VmHWM starts from what is resident now

    PhysAddr root_table() const { return root_; }
    // CPUs that work in this space and must be told of changed translations; kept by the scheduler
    // at switches. A CPU that only borrows the page table (idle, kernel tasks) is not among them:
    // it uses the kernel's half, and compares generations before it works here again.
    base::Atomic<u64> active_cpus{0};
    // Counts the flushes that were asked for.
    base::Atomic<u64> flush_generation{0};
    // Removes stale translations of [start, start + pages * 4096) wherever they may be, after the
    // entries were changed. `skip_own`: this CPU's own are refreshed otherwise.
    void flush(VirtAddr start, usize pages, bool skip_own = false);

    // Tasks that have this as their address space. The last to leave calls release_memory(): others
    // may still hold references, or the page table loaded.
    void add_user() { users_.fetch_add(1, base::Order::Relaxed); }
    bool drop_user() { return users_.fetch_sub(1, base::Order::AcqRel) == 1; }
    u32 users() const { return users_.load(base::Order::Relaxed); }

    base::Atomic<u32> membarrier_registered{0}; // MEMBARRIER_CMD_PRIVATE_* this process may use

    struct Usage {
        u64 virtual_pages, resident_anonymous, resident_file, resident_shared, locked_pages,
            data_pages, stack_pages, text_pages, table_pages, peak_resident, peak_virtual;
    };
    Usage usage() const;
    // RLIMIT_AS, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_MEMLOCK, copied from the process when they
    // change. Bytes.
    struct Limits {
        u64 address_space = ~u64{0}, data = ~u64{0}, stack = 8 << 20, locked = ~u64{0};
    } limits;

    // Where the search for a free range begins, downwards. execve moves it below this, which leaves
    // room for a stack of `stack` bytes: mmap_base() of Linux.
    static u64 mappings_top_above(u64 stack);
    u64 mappings_top = mappings_top_above(limits.stack);

    // The program's layout, set by execve, shown in /proc/PID/{cmdline,environ,auxv,exe,stat}.
    struct Layout {
        u64 code_start = 0, code_end = 0, data_start = 0, data_end = 0, break_start = 0,
            stack_start = 0, args_start = 0, args_end = 0, env_start = 0, env_end = 0, vdso = 0;
        u64 auxv[48] = {};
        u32 auxv_words = 0;
    } layout;
    // The program's file; null before execve is done.
    Ref<File> program();
    void set_program(Ref<File> file);
    bool maps_program();
    Ref<RefCounted> aio; // the contexts of io_setup(2): ipc/aio.cpp

private:
    friend struct AddressSpaceImpl;
    template <typename T, typename... A>
    friend Result<Ref<T>> make_ref(A&&...);
    AddressSpace();
    Result<Ref<AddressSpace>> clone_mappings(ForkedUserfaults& userfaults);
    base::Atomic<u32> users_{0};
    SpinLock program_lock_{LockRank::Leaf}; // others look while it is exchanged
    Ref<File> program_;
    PhysAddr root_{};
    struct AddressSpaceImpl* impl_ = nullptr;
};

// The current task's address space.
AddressSpace* current_address_space();

} // namespace kernel
