// Serving page faults. A fault costs about 11 us on its way here and back where KVM shadows the
// page tables, a filled entry 20 ns: so each fault fills the neighbourhood, in aligned groups.
#include <asm/errno.h>
#include <asm/signal.h>
#include <linux/mman.h>

#include "boot/protocol/layout.hpp"
#include "guestkernel/arch/counters.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/mm/address_space_impl.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/task/task.hpp"

// asm-generic/siginfo.h needs sigval_t and the rest of <signal.h>'s world
namespace {
constexpr kernel::u32 segv_maperr = 1; // SEGV_MAPERR
constexpr kernel::u32 segv_accerr = 2; // SEGV_ACCERR
constexpr kernel::u32 bus_adrerr = 2;  // BUS_ADRERR
constexpr kernel::u32 si_kernel = 0x80;
} // namespace

namespace kernel {
namespace {

// Powers of two that divide a leaf table. What is absent is read in smaller pieces than what is
// resident is mapped.
constexpr u64 map_around_pages = 64;
constexpr u64 copy_around_pages = 16;

struct Window {
    u64 start, end;
    u64 pages() const { return (end - start) >> page_shift; }
};

// The aligned window of `pages` around an address, inside of the mapping.
Window window_around(const Vma& vma, u64 page, u64 pages) {
    const u64 span = pages << page_shift;
    const u64 start = page & ~(span - 1);
    return {start > vma.start ? start : vma.start, start + span < vma.end ? start + span : vma.end};
}

bool allows(const Vma& vma, u64 access) {
    if ((access & arch::fault_write) != 0)
        return (vma.protection & PROT_WRITE) != 0;
    if ((access & arch::fault_fetch) != 0)
        return (vma.protection & PROT_EXEC) != 0;
    return (vma.protection & (PROT_READ | PROT_WRITE | PROT_EXEC)) !=
           0; // x86: each implies reading
}

// Past the end of a file that has no other home than memory.
bool beyond_end(const Vma& vma, u64 page) {
    if (!vma.cache || !vma.cache->memory_only() || !vma.file || vma.file->inode() == nullptr)
        return false;
    const Result<Attributes> attributes = vma.file->inode()->attributes();
    return attributes && vma.file->inode()->is_regular() &&
           vma.page_index(page) >= page_up(attributes->size) >> page_shift;
}

// Of a mapping of a file of tmpfs; null: it is none.
Superblock* of_memory_file_system(const Vma& vma) {
    if (!vma.cache->memory_only() || !vma.file || vma.file->inode() == nullptr)
        return nullptr;
    Superblock* home = vma.file->inode()->superblock();
    return home != nullptr && home->type() == std::string_view("tmpfs") ? home : nullptr;
}

// The page would be a new one of a file in memory: whether its file system, which may be limited in
// size, has room for it. Linux raises SIGBUS, too, where there is none.
bool has_room(const Vma& vma, u64 index) {
    Superblock* home = of_memory_file_system(vma);
    if (home == nullptr || vma.cache->lookup(index))
        return true;
    const auto stats = home->stats();
    return !stats || stats->blocks == 0 || stats->free_blocks > 0;
}

} // namespace

Result<void> make_room_for_tables() {
    if (reclaim_clean_pages(leaves_per_step) == 0 && release_kept_page_tables() == 0)
        return fail(ENOMEM);
    return {};
}

FaultOutcome AddressSpaceImpl::make_table(u64 page) {
    // The allocation under the spin lock found nothing: make room without it.
    Frame* frame = alloc_frame();
    if (frame == nullptr)
        return FaultOutcome::NoMemory;
    put_frame(*frame);
    SpinGuard guard(table.lock());
    return table.make(page) != nullptr ? FaultOutcome::Done : FaultOutcome::NoMemory;
}

FaultOutcome AddressSpaceImpl::fault_anonymous(Vma& vma, u64 page, u64 least_window) {
    // Grows with use in order: to touch memory from end to end is the common way.
    u64 pages = around_pages;
    if (page == vma.next_fault.load(base::Order::Relaxed))
        pages = u64{vma.window.load(base::Order::Relaxed)} * 2;
    if (pages < least_window)
        pages = least_window;
    if (pages < around_pages || pages > most_around)
        pages = pages > most_around ? most_around : around_pages;
    if ((vma.flags & vma_random) != 0 || frames_are_scarce())
        pages = 1;
    const Window window = window_around(vma, page, pages);
    vma.window.store(static_cast<u32>(pages), base::Order::Relaxed);
    vma.next_fault.store(window.end, base::Order::Relaxed);

    usize wanted = 0;
    {
        SpinGuard guard(table.lock());
        const u64* entry = table.make(window.start);
        for (u64 i = 0; entry != nullptr && i < window.pages(); i++)
            wanted += entry[i] == 0 ? 1 : 0;
        if (entry != nullptr && table.find(page)[0] != 0)
            return FaultOutcome::Done; // another task was faster
    }
    if (wanted == 0) {
        if (make_table(page) != FaultOutcome::Done)
            return FaultOutcome::NoMemory;
        wanted = 1;
    }
    Frame* frames[most_around];
    usize got = 0;
    while (got < wanted) {
        // What comes along with the page itself is not worth killing for, in a group at its limit.
        const bool may_reclaim = got == 0 || current_memory_owner() == 0;
        Frame* frame = as_kind(FrameKind::Anonymous, alloc_zeroed_frame(may_reclaim));
        if (frame == nullptr)
            break;
        frames[got++] = frame;
    }
    if (got == 0)
        return FaultOutcome::NoMemory;
    usize used = 0;
    {
        SpinGuard guard(table.lock());
        const bool writable = (vma.protection & PROT_WRITE) != 0;
        // The page itself first: there may be fewer frames than holes.
        const auto fill = [&](u64 address) {
            u64* entry = table.find(address);
            if (*entry != 0 || used == got)
                return;
            *entry = make_entry(frame_to_phys(*frames[used++]).raw(), vma.protection, writable,
                                pte_private);
            note_resident(pte_private, 1, false);
        };
        fill(page);
        for (u64 at = window.start; at < window.end; at += page_size)
            fill(at);
    }
    while (used < got)
        put_frame(*frames[--got]);
    return FaultOutcome::Done;
}

FaultOutcome AddressSpaceImpl::install_cached(Vma& vma, u64 page, FrameRef frame, bool write) {
    const bool writable =
        vma.shared() && (vma.protection & PROT_WRITE) != 0 && (write || !tracks_dirty(vma));
    SpinGuard guard(table.lock());
    u64* entry = table.make(page);
    if (entry == nullptr)
        return FaultOutcome::NoMemory;
    if (*entry != 0)
        return FaultOutcome::Done; // another task was faster: the access tells
    if (write && tracks_dirty(vma))
        vma.cache->mark_dirty(*frame); // before the store is possible, as in fault_read_only()
    if (__atomic_load_n(&frame->cache, __ATOMIC_ACQUIRE) != vma.cache.get())
        return FaultOutcome::Done; // truncated meanwhile
    *entry = make_entry(frame_to_phys(*frame).raw(), vma.protection, writable, 0);
    frame->map_count.fetch_add(1, base::Order::Relaxed);
    note_resident(0, 1, vma.cache->memory_only());
    frame.leak();
    return FaultOutcome::Done;
}

// Maps the resident neighbours of a page of a file.
void AddressSpaceImpl::map_around(Vma& vma, u64 page) {
    const Window window = window_around(vma, page, map_around_pages);
    map_resident(vma, window.start, window.end);
}

// Maps what is resident of [start, end), inside of one leaf table.
void AddressSpaceImpl::map_resident(Vma& vma, u64 start, u64 end) {
    const u64 pages = (end - start) >> page_shift;
    Frame* frames[map_around_pages];
    vma.cache->lookup_range(vma.page_index(start), {frames, pages});
    const bool writable = vma.shared() && (vma.protection & PROT_WRITE) != 0 && !tracks_dirty(vma);
    u64 used = 0;
    {
        SpinGuard guard(table.lock());
        u64* entries = table.find(start);
        for (u64 i = 0; entries != nullptr && i < pages; i++) {
            if (frames[i] == nullptr || entries[i] != 0 ||
                __atomic_load_n(&frames[i]->cache, __ATOMIC_ACQUIRE) != vma.cache.get())
                continue;
            entries[i] = make_entry(frame_to_phys(*frames[i]).raw(), vma.protection, writable, 0);
            frames[i]->map_count.fetch_add(1, base::Order::Relaxed);
            used++;
            frames[i] = nullptr;
        }
        note_resident(0, static_cast<i64>(used), vma.cache->memory_only());
    }
    for (u64 i = 0; i < pages; i++)
        if (frames[i] != nullptr)
            put_frame(*frames[i]);
}

// A new mapping of code or constants that are resident: what will be touched next is mapped without
// a fault.
void AddressSpaceImpl::map_ahead(Vma& vma) {
    const u64 end =
        vma.pages() < map_around_pages ? vma.end : vma.start + map_around_pages * page_size;
    for (u64 at = vma.start; at < end;) {
        const Window window = window_around(vma, at, map_around_pages);
        const u64 stop = window.end < end ? window.end : end;
        bool ready = false;
        {
            SpinGuard guard(table.lock());
            ready = table.make(at) != nullptr;
        }
        if (ready)
            map_resident(vma, at, stop);
        at = stop;
    }
}

// Copies resident neighbours of a private page that is being written: the relocations of a program
// or library go through all of its small data segment.
void AddressSpaceImpl::copy_around(Vma& vma, u64 page) {
    const Window window = window_around(vma, page, copy_around_pages);
    Frame* frames[copy_around_pages];
    vma.cache->lookup_range(vma.page_index(window.start), {frames, window.pages()});
    for (u64 i = 0; i < window.pages(); i++) {
        if (frames[i] == nullptr)
            continue;
        FrameRef from = FrameRef::adopt(frames[i]);
        const u64 address = window.start + (i << page_shift);
        {
            SpinGuard guard(table.lock());
            const u64* entry = table.find(address);
            if (entry == nullptr || *entry != 0)
                continue;
        }
        FrameRef copy = FrameRef::adopt(as_kind(FrameKind::Anonymous, alloc_frame(false)));
        if (!copy)
            continue;
        __builtin_memcpy(copy.data(), from.data(), page_size);
        SpinGuard guard(table.lock());
        u64* entry = table.find(address);
        if (*entry != 0 || __atomic_load_n(&from->cache, __ATOMIC_ACQUIRE) != vma.cache.get())
            continue;
        *entry = make_entry(frame_to_phys(*copy).raw(), vma.protection, true, pte_private);
        note_resident(pte_private, 1, false);
        copy.leak();
    }
}

// Puts a private copy of `from` where `expected` stands.
FaultOutcome AddressSpaceImpl::install_copy(Vma& vma, u64 page, u64 expected, Frame& from,
                                            FaultInfo& info) {
    FrameRef copy = FrameRef::adopt(as_kind(FrameKind::Anonymous, alloc_frame()));
    if (!copy)
        return FaultOutcome::NoMemory;
    __builtin_memcpy(copy.data(), frame_data(from), page_size);
    Gather gather(*this);
    SpinGuard guard(table.lock());
    u64* entry = table.make(page);
    if (entry == nullptr)
        return FaultOutcome::NoMemory;
    if (*entry != expected)
        return FaultOutcome::Done;
    if (expected == 0 && __atomic_load_n(&from.cache, __ATOMIC_ACQUIRE) != vma.cache.get())
        return FaultOutcome::Done;
    const bool writable = (vma.protection & PROT_WRITE) != 0;
    if (expected != 0) {
        // Other CPUs may go on reading the old frame unless told, and are told before any can find
        // the new one: else what one of them writes there would be missing for another that was
        // told of it. This CPU is about to repeat the store, which refreshes its translation
        // without the 7 us of an INVLPG; fault() does that store itself.
        *entry = 0;
        space.flush(VirtAddr(page), 1, writable);
    }
    *entry = make_entry(frame_to_phys(*copy).raw(), vma.protection, writable, pte_private);
    note_resident(pte_private, 1, false);
    copy.leak();
    if (expected == 0)
        return FaultOutcome::Done;
    note_resident(expected, -1, vma.cache && vma.cache->memory_only());
    Frame* old = frame_of(expected);
    if ((expected & pte_private) == 0 && old != nullptr)
        old->map_count.fetch_sub(1, base::Order::Relaxed);
    info.touch = writable && (space.active_cpus.load() >> arch::cpu_id() & 1) != 0;
    if (old != nullptr)
        gather.release(*old);
    return FaultOutcome::Done;
}

// Pages that were shared with a copy that is gone: a window of them becomes writable again with one
// fault. Returns how many. Requires: the page table's lock is held.
u64 AddressSpaceImpl::reuse_around(Vma& vma, u64 page, u64 pages) {
    const Window window = window_around(vma, page, pages);
    u64* entries = table.find(window.start);
    u64 changed = 0;
    for (u64 i = 0; entries != nullptr && i < window.pages(); i++) {
        const u64 entry = entries[i];
        if ((entry & (arch::pte_present | arch::pte_write | pte_private | pte_guarded)) !=
            (arch::pte_present | pte_private))
            continue;
        const Frame* frame = frame_of(entry);
        if (frame == nullptr || frame->refs.load(base::Order::Acquire) != 1)
            continue;
        entries[i] = entry | arch::pte_write;
        changed++;
    }
    vma.next_copy.store(window.end, base::Order::Relaxed);
    return changed;
}

// A store to a page that is present and read-only, though the mapping is writable (or the store is
// forced; then it may be hidden, too).
FaultOutcome AddressSpaceImpl::fault_read_only(Vma& vma, u64 page, u64 seen, FaultInfo& info) {
    FrameRef from;
    {
        SpinGuard guard(table.lock());
        u64* entry = table.find(page);
        if (entry == nullptr || *entry != seen)
            return FaultOutcome::Done;
        Frame* frame = frame_of(seen);
        if (frame == nullptr)
            return FaultOutcome::BadAccess;
        const bool writable = (vma.protection & PROT_WRITE) != 0;
        if (vma.shared()) {
            if (!writable)
                return FaultOutcome::BadAccess;
            // The mark first, and under this lock: a write-back that takes it away takes the
            // permission afterwards, and a page with the mark is not dropped as a clean one.
            if (tracks_dirty(vma))
                vma.cache->mark_dirty(*frame);
            if (__atomic_load_n(&frame->cache, __ATOMIC_ACQUIRE) == vma.cache.get()) {
                *entry = seen | arch::pte_write;
                return FaultOutcome::Done;
            }
        } else if ((seen & pte_private) != 0 && frame->refs.load(base::Order::Acquire) == 1) {
            if (!writable)
                return FaultOutcome::Done;
            note_written(vma, page);
            // Nothing need be flushed; but where use goes in order, it makes KVM take over all of
            // the new permissions at once, instead of by a fault of 7 us for each page.
            const bool in_order = vma.copy_window.load(base::Order::Relaxed) >= 8;
            const u64 changed = reuse_around(vma, page, in_order ? most_around : u64{around_pages});
            if (in_order && changed > 4)
                info.reload = (space.active_cpus.load() >> arch::cpu_id() & 1) != 0;
            return FaultOutcome::Done;
        } else {
            get_frame(*frame);
            from = FrameRef::adopt(frame);
        }
    }
    if (vma.shared()) {
        // Out of its cache already and about to leave the page tables: the store goes to the page
        // that takes its place.
        zap(page, page + page_size, true);
        return FaultOutcome::Done;
    }
    const FaultOutcome outcome = install_copy(vma, page, seen, *from, info);
    if ((seen & pte_private) != 0 && (vma.protection & PROT_WRITE) != 0) {
        note_written(vma, page);
        copy_ahead(vma, page);
    }
    return outcome;
}

FaultOutcome AddressSpaceImpl::fault_cached(Vma& vma, u64 page, bool write, FaultInfo& info) {
    PageCache& cache = *vma.cache;
    const u64 index = vma.page_index(page);
    if (beyond_end(vma, page) || !has_room(vma, index))
        return FaultOutcome::BusError;
    const u64 around = (vma.flags & vma_random) != 0 ? 1 : around_pages;
    Result<FrameRef> found = cache.get_for_fault(index);
    if (!found)
        return found.error().code == ENOMEM ? FaultOutcome::NoMemory : FaultOutcome::BusError;
    if (!*found) {
        const Window window = window_around(vma, page, around);
        const u64 first = vma.page_index(window.start);
        info.absent = {vma.cache, vma.file, index, first, first + window.pages()};
        return FaultOutcome::Absent;
    }
    if (of_memory_file_system(vma) != nullptr)
        (void)vma.file->inode()->attributes(); // counts the page, if it is new
    if (write && !vma.shared()) {
        const FaultOutcome outcome = install_copy(vma, page, 0, **found, info);
        if (outcome == FaultOutcome::NoMemory)
            return make_table(page); // and the access tries again
        if (outcome == FaultOutcome::Done && vma.pages() <= 256 &&
            (vma.protection & PROT_WRITE) != 0)
            copy_around(vma, page);
        return outcome;
    }
    FaultOutcome outcome = install_cached(vma, page, std::move(*found), write);
    if (outcome == FaultOutcome::NoMemory)
        outcome = make_table(page); // and the access tries again
    // Where minor faults are somebody's to serve, a page that is there is not to be seen yet.
    if (around > 1 && (vma.flags & vma_fault_minor) == 0)
        map_around(vma, page);
    return outcome;
}

// Absent: the page is there, and the fault starts anew.
FaultOutcome AddressSpaceImpl::read_absent(u64 access, FaultInfo& info) {
    const AbsentPage page = std::move(info.absent);
    info.major = true;
    // A server that takes back what it gave does not hold who is being killed.
    const bool killed = info.read && fatal_signal_pending();
    Result<FrameRef> read = killed ? Result<FrameRef>(fail(EINTR))
                                   : page.cache->read_for_fault(page.index, page.first, page.end);
    if (read) {
        info.read = std::move(*read);
        return FaultOutcome::Absent;
    }
    // A signal is served first and the instruction repeated; or the task ends.
    if (read.error().code == EINTR && (access & arch::fault_user) != 0 && signal_pending())
        return FaultOutcome::Done;
    return read.error().code == ENOMEM ? FaultOutcome::NoMemory : FaultOutcome::BusError;
}

FaultOutcome AddressSpaceImpl::resolve(Vma& vma, u64 address, bool write, u64 least_window,
                                       FaultInfo& info) {
    const u64 page = page_down(address);
    u64 seen = 0;
    {
        SpinGuard guard(table.lock());
        if (const u64* entry = table.find(page))
            seen = *entry;
    }
    if ((seen & arch::pte_present) != 0) {
        if (!write || (seen & arch::pte_write) != 0)
            return FaultOutcome::Done;
        if ((seen & pte_guarded) != 0 && asks_userfault(vma, page, write, info.userfault_flags)) {
            info.userfault = vma.userfault;
            return FaultOutcome::Userfault;
        }
        return fault_read_only(vma, page, seen, info);
    }
    if (seen != 0) { // hidden behind PROT_NONE
        if (!info.force)
            return FaultOutcome::BadAccess;
        return write ? fault_read_only(vma, page, seen, info) : FaultOutcome::Done;
    }
    if (vma.userfault && !beyond_end(vma, page) &&
        asks_userfault(vma, page, write, info.userfault_flags)) {
        info.userfault = vma.userfault;
        return FaultOutcome::Userfault;
    }
    return vma.cache ? fault_cached(vma, page, write, info)
                     : fault_anonymous(vma, page, least_window);
}

// Extends the stack above `address` down to it. Requires: `mutex` is held exclusively.
bool AddressSpaceImpl::grow_stack(u64 address) {
    Vma* vma = vmas.find_from(address);
    if (vma == nullptr || (vma->flags & vma_grows_down) == 0)
        return false;
    if (vma->start <= address)
        return true;
    const Vma* below = VmaTree::prev(*vma);
    const u64 lowest = below != nullptr && (below->protection & 7) != 0
                           ? below->end + stack_guard_gap
                       : below != nullptr ? below->end
                                          : user_min;
    // The program's stack by a window's worth at once where that is allowed: the pages come with
    // the fault anyway. Others as far as Linux does: their owners know where they end.
    const u64 top = space.layout.stack_start;
    const bool in_windows = vma->start <= top && top < vma->end;
    const u64 window = in_windows ? around_pages * page_size : page_size;
    for (const u64 start : {address & ~(window - 1), page_down(address)}) {
        const u64 pages = (vma->start - start) >> page_shift;
        if (start < lowest || vma->end - start > space.limits.stack ||
            !limits_allow(pages, 0, vma->flags) ||
            ((vma->flags & vma_locked) != 0 && locked_pages + pages > lock_limit() >> page_shift))
            continue;
        account(*vma, false);
        vmas.set_bounds(*vma, start, vma->end,
                        vma->cache ? vma->offset - (pages << page_shift) : 0);
        account(*vma, true);
        return true;
    }
    return false;
}

FaultOutcome AddressSpaceImpl::fault(u64 address, u64 access, FaultInfo& info) {
    for (;;) {
        FaultOutcome outcome = fault_once(address, access, info);
        if (outcome == FaultOutcome::Absent)
            outcome = read_absent(access, info);
        else if (outcome == FaultOutcome::Userfault)
            outcome = info.own_memory ? FaultOutcome::BadAccess
                                      : wait_for_userfault(address, access, info);
        if (outcome != FaultOutcome::Userfault && outcome != FaultOutcome::Absent)
            return outcome;
    }
}

FaultOutcome AddressSpaceImpl::fault_once(u64 address, u64 access, FaultInfo& info) {
    if (address < user_min || address >= user_max)
        return FaultOutcome::BadAddress;
    FaultOutcome outcome = FaultOutcome::BadAddress;
    for (unsigned attempt = 0; attempt < 2; attempt++) {
        {
            SharedGuard guard(mutex);
            Vma* vma = vmas.find_from(address);
            if (vma == nullptr)
                return FaultOutcome::BadAddress;
            if (vma->start <= address) {
                const bool write = (access & arch::fault_write) != 0;
                if (!allows(*vma, access) &&
                    !(info.force && (!write || !vma->shared()) && vma->max_protection != 0))
                    return FaultOutcome::BadAccess;
                if (info.own_memory && vma->cache)
                    return FaultOutcome::BadAccess;
                outcome = resolve(*vma, address, write, 0, info);
                break;
            }
            if ((vma->flags & vma_grows_down) == 0)
                return FaultOutcome::BadAddress;
        }
        MutexGuard guard(mutex);
        if (!grow_stack(address))
            return FaultOutcome::BadAddress;
    }
    if (info.reload)
        arch::flush_local(VirtAddr(page_down(address)), most_around);
    if (info.touch && outcome == FaultOutcome::Done) {
        // Writes nothing new. Without the lock: if the page has gone again, that fault is served
        // like any other.
        u32 found = 0;
        (void)arch::compare_exchange_user(address & ~u64{3}, 0, 0, found);
    }
    return outcome;
}

bool AddressSpace::handle_fault(VirtAddr address, u64 access, u32& signal_code) {
    bool major = false;
    return handle_fault(address, access, signal_code, major);
}

bool AddressSpace::handle_fault(VirtAddr address, u64 access, u32& signal_code, bool& major) {
    FaultInfo info;
    const FaultOutcome outcome = impl_->fault(address.raw(), access, info);
    major = info.major;
    switch (outcome) {
    case FaultOutcome::Done:
        return true;
    case FaultOutcome::BadAddress:
        signal_code = SIGSEGV << 8 | segv_maperr;
        return false;
    case FaultOutcome::BadAccess:
        signal_code = SIGSEGV << 8 | segv_accerr;
        return false;
    case FaultOutcome::BusError:
        signal_code = SIGBUS << 8 | bus_adrerr;
        return false;
    case FaultOutcome::NoMemory:
        // Either this process was chosen to end, then the signal is pending, or nothing is left to
        // end but it.
        signal_code = SIGKILL << 8 | si_kernel;
        return false;
    case FaultOutcome::Userfault: // fault() waits for these
    case FaultOutcome::Absent:
        break;
    }
    return false;
}

} // namespace kernel

namespace kernel::arch {

bool handle_user_fault(u64 address, u64 error_code, bool from_user, u32& signal_code) {
    signal_code = SIGSEGV << 8 | segv_maperr;
    Task& task = current_task();
    AddressSpace* space = task.address_space.get();
    if (space == nullptr || (task.faults_disabled != 0 && !from_user))
        return false;
    bool major = false;
    const u64 access = from_user ? error_code | fault_user : error_code & ~fault_user;
    const bool served = space->handle_fault(VirtAddr(address), access, signal_code, major);
    // After the wait for a page, which may have ended on another CPU.
    boot::CpuCounters& counters = arch::counters(task.cpu);
    arch::bump(major ? counters.major_faults : counters.minor_faults);
    if (major)
        task.major_faults++;
    else
        task.minor_faults++;
    return served;
}

} // namespace kernel::arch
