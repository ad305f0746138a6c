// An address space seen from outside: single frames, copies from and to it, its description.
#include <asm/errno.h>
#include <linux/mman.h>

#include "guestkernel/mm/address_space_impl.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

AddressSpace* current_address_space() {
    return current_task().address_space.get();
}

namespace {

// Calls `use(frame)` for the frame behind an address, with the page table's lock held: until it
// returns, the entry that allows the access stays.
template <typename F>
FaultOutcome with_frame(AddressSpaceImpl& impl, u64 address, bool write, Reach reach, F&& use) {
    const bool force = reach == Reach::Debugger;
    // Present pages of the right kind may go again between fault and look; a few rounds are plenty.
    for (unsigned attempt = 0; attempt < 16; attempt++) {
        FaultInfo info;
        info.force = force;
        info.own_memory = reach == Reach::OwnMemory;
        const FaultOutcome outcome = impl.fault(address, write ? arch::fault_write : 0, info);
        if (outcome != FaultOutcome::Done)
            return outcome;
        SpinGuard guard(impl.table.lock());
        const u64* entry = impl.table.find(address);
        // Behind PROT_NONE is what debuggers and core files are to see, too.
        if (entry == nullptr || *entry == 0 || ((*entry & arch::pte_present) == 0 && !force))
            continue;
        Frame* frame = frame_of(*entry);
        if (frame == nullptr)
            return FaultOutcome::BadAccess;
        if (const PageCache* cache = __atomic_load_n(&frame->cache, __ATOMIC_ACQUIRE);
            cache != nullptr && cache->is_secret())
            return FaultOutcome::BadAddress;
        // A forced store goes to a private copy that stays read-only.
        const bool own = (*entry & pte_private) != 0 && frame->refs.load(base::Order::Acquire) == 1;
        if (write && (*entry & arch::pte_write) == 0 && !(force && own))
            continue;
        use(*frame);
        return FaultOutcome::Done;
    }
    return FaultOutcome::NoMemory;
}

} // namespace

FaultOutcome AddressSpaceImpl::frame_at(u64 address, bool write, Reach reach, FrameRef& out) {
    return with_frame(*this, address, write, reach,
                      [&](Frame& frame) { out = FrameRef::share(frame); });
}

Result<FrameRef> AddressSpace::frame_at(VirtAddr address, bool write) {
    FrameRef frame;
    switch (impl_->frame_at(address.raw(), write, Reach::Program, frame)) {
    case FaultOutcome::Done:
        return frame;
    case FaultOutcome::NoMemory:
        return fail(ENOMEM);
    default:
        return fail(EFAULT);
    }
}

namespace {

usize read_within(AddressSpaceImpl& impl, VirtAddr from, void* to, usize bytes, Reach reach) {
    usize done = 0;
    while (done < bytes) {
        const u64 at = from.raw() + done;
        const usize rest = page_size - at % page_size;
        const usize part = bytes - done < rest ? bytes - done : rest;
        FrameRef frame;
        if (at >= user_max || impl.frame_at(at, false, reach, frame) != FaultOutcome::Done)
            break;
        __builtin_memcpy(static_cast<u8*>(to) + done, frame.data() + at % page_size, part);
        done += part;
    }
    return done;
}

} // namespace

usize AddressSpace::read_foreign(VirtAddr from, void* to, usize bytes, bool force) {
    return read_within(*impl_, from, to, bytes, force ? Reach::Debugger : Reach::Program);
}

usize AddressSpace::read_own_memory(VirtAddr from, void* to, usize bytes) {
    return read_within(*impl_, from, to, bytes, Reach::OwnMemory);
}

usize AddressSpace::write_foreign(VirtAddr to, const void* from, usize bytes, bool force) {
    usize done = 0;
    while (done < bytes) {
        const u64 at = to.raw() + done;
        const usize rest = page_size - at % page_size;
        const usize part = bytes - done < rest ? bytes - done : rest;
        // Under the lock, as if by an instruction of the program: a page that is written back
        // loses its mark first and its permission then, and a store after both would be nobody's
        // to write.
        const auto store = [&](Frame& frame) {
            __builtin_memcpy(static_cast<u8*>(frame_data(frame)) + at % page_size,
                             static_cast<const u8*>(from) + done, part);
        };
        const Reach reach = force ? Reach::Debugger : Reach::Program;
        if (at >= user_max || with_frame(*impl_, at, true, reach, store) != FaultOutcome::Done)
            break;
        done += part;
    }
    return done;
}

Result<AddressSpace::FutexKey> AddressSpace::futex_key(VirtAddr address, bool shared) {
    const u64 at = address.raw();
    if (at % sizeof(u32) != 0)
        return fail(EINVAL);
    if (at >= user_max)
        return fail(EFAULT);
    if (shared) {
        SharedGuard guard(impl_->mutex);
        const Vma* vma = impl_->vmas.find(at);
        if (vma == nullptr)
            return fail(EFAULT);
        if (vma->shared() && vma->cache)
            return FutexKey{vma->cache.get(), at - vma->start + vma->offset, vma->cache->number()};
    }
    return FutexKey{this, at};
}

namespace {

// How many page tables name the page, as far as that is known.
u32 sharers_of(u64 entry, const Frame& frame) {
    const u32 count = (entry & pte_private) != 0 ? frame.refs.load(base::Order::Relaxed)
                                                 : frame.map_count.load(base::Order::Relaxed);
    return count == 0 ? 1 : count;
}

void count_mapping(AddressSpaceImpl& impl, const Vma& vma, MappingInfo& info) {
    SpinGuard guard(impl.table.lock());
    impl.table.for_each_leaf(vma.start, vma.end, [&](const LeafRange& leaf) {
        for (unsigned i = leaf.first; i < leaf.end; i++) {
            const u64 entry = leaf.entries[i];
            if (entry == 0)
                continue;
            info.resident_pages++;
            const Frame* frame = frame_of(entry);
            if (frame == nullptr)
                continue;
            if ((entry & pte_private) != 0 ||
                (frame->flags.load(base::Order::Relaxed) & frame_dirty) != 0)
                info.dirty_pages++;
            const u32 sharers = sharers_of(entry, *frame);
            info.proportional_bytes += page_size / sharers;
            if (sharers != 1)
                info.shared_pages++;
        }
    });
}

} // namespace

void AddressSpace::for_each_mapping(bool (*callback)(const MappingInfo&, void*), void* context,
                                    bool count_pages, u64 from) {
    u64 at = from;
    for (;;) {
        MappingInfo info{};
        {
            SharedGuard guard(impl_->mutex);
            const Vma* vma = impl_->vmas.find_from(at);
            if (vma == nullptr)
                return;
            info.start = VirtAddr(vma->start);
            info.end = VirtAddr(vma->end);
            info.protection = vma->protection;
            info.flags = (vma->shared() ? u32{MAP_SHARED} : u32{MAP_PRIVATE}) |
                         ((vma->flags & vma_grows_down) != 0 ? u32{MAP_GROWSDOWN} : 0) |
                         ((vma->flags & vma_locked) != 0 ? u32{MAP_LOCKED} : 0) |
                         ((vma->flags & vma_no_reserve) != 0 ? u32{MAP_NORESERVE} : 0) |
                         (vma->file ? 0 : u32{MAP_ANONYMOUS});
            info.no_dump = (vma->flags & vma_dont_dump) != 0;
            info.no_fork = (vma->flags & vma_dont_fork) != 0;
            info.wiped_on_fork = (vma->flags & vma_wipe_on_fork) != 0;
            info.at_random = (vma->flags & vma_random) != 0;
            info.locked_on_fault = (vma->flags & vma_lock_on_fault) != 0;
            info.read_from_file = vma->cache && !vma->cache->memory_only();
            info.offset = vma->file ? vma->offset : 0;
            info.file = vma->file;
            info.name = vma->name;
            if ((vma->flags & vma_anonymous_shared) != 0)
                info.name = "/dev/zero (deleted)";
            if (vma->given_name) {
                info.name = vma->shared() ? vma->given_name->shared_text.c_str()
                                          : vma->given_name->text.c_str();
                info.name_holder = vma->given_name;
            }
            if (count_pages)
                count_mapping(*impl_, *vma, info);
            at = vma->end;
        }
        if (!callback(info, context))
            return;
    }
}

void AddressSpace::view_pages(VirtAddr start, std::span<PageView> out) {
    SharedGuard guard(impl_->mutex);
    SpinGuard table(impl_->table.lock());
    for (usize i = 0; i < out.size(); i++) {
        const u64 at = start.raw() + i * page_size;
        const u64* entry = at < user_max ? impl_->table.find(at) : nullptr;
        out[i] = {};
        if (entry == nullptr || *entry == 0)
            continue;
        const Frame* frame = frame_of(*entry);
        out[i].frame = pte_frame(*entry) >> page_shift;
        out[i].of_file = (*entry & pte_private) == 0;
        out[i].alone = frame != nullptr && sharers_of(*entry, *frame) == 1;
    }
}

void AddressSpace::reset_peak() {
    SpinGuard table(impl_->table.lock());
    impl_->peak_resident =
        impl_->resident_anonymous + impl_->resident_file + impl_->resident_shared;
}

AddressSpace::Usage AddressSpace::usage() const {
    // Without locks: these are figures for people, and the asker may be in the middle of ending
    // processes.
    const auto read = [](const u64& value) { return __atomic_load_n(&value, __ATOMIC_RELAXED); };
    Usage usage{};
    usage.virtual_pages = read(impl_->total_pages);
    usage.resident_anonymous = read(impl_->resident_anonymous);
    usage.resident_file = read(impl_->resident_file);
    usage.resident_shared = read(impl_->resident_shared);
    usage.locked_pages = read(impl_->locked_pages);
    usage.data_pages = read(impl_->data_pages);
    usage.stack_pages = read(impl_->stack_pages);
    usage.text_pages = read(impl_->text_pages);
    usage.table_pages = impl_->table.table_count();
    usage.peak_resident = read(impl_->peak_resident);
    usage.peak_virtual = read(impl_->peak_pages);
    return usage;
}

} // namespace kernel
