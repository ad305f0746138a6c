#include "guestkernel/mm/address_space.hpp"

#include <asm/errno.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/userfaultfd.h>

#include "guestkernel/core/panic.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/secret_memory.hpp"
#include "guestkernel/mm/address_space_impl.hpp"

namespace kernel {
namespace {

constexpr u64 huge = u64{1} << 50; // no two sums of lengths below this wrap

bool alike(const Vma& low, const Vma& high) {
    if (low.end != high.start || low.protection != high.protection || low.flags != high.flags ||
        low.max_protection != high.max_protection || low.name != high.name ||
        !(low.userfault == high.userfault) || !(low.given_name == high.given_name) ||
        low.policy != high.policy || !(low.cache == high.cache) || !(low.file == high.file))
        return false;
    return !low.cache || low.offset + low.length() == high.offset;
}

// What RLIMIT_DATA counts: private writable memory other than the stack.
bool is_data(u32 protection, u32 flags) {
    return (protection & PROT_WRITE) != 0 && (flags & (vma_shared | vma_grows_down)) == 0;
}

u32 vma_flags(const MapRequest& request) {
    u32 flags = 0;
    if ((request.flags & MAP_TYPE) != MAP_PRIVATE)
        flags |= vma_shared;
    if ((request.flags & MAP_GROWSDOWN) != 0)
        flags |= vma_grows_down | vma_stack;
    if ((request.flags & MAP_NORESERVE) != 0)
        flags |= vma_no_reserve;
    if ((request.flags & MAP_LOCKED) != 0)
        flags |= vma_locked;
    if ((flags & vma_shared) != 0 && !request.file)
        flags |= vma_anonymous_shared;
    return flags;
}

// The cache behind a new mapping, and what it may become; checks the file's access mode. What has a
// cache does not grow downwards: it would have pages in front of the cache's first.
Result<void> prepare(const MapRequest& request, Vma& vma) {
    vma.protection = request.protection & (PROT_READ | PROT_WRITE | PROT_EXEC);
    vma.flags = vma_flags(request);
    vma.name = request.name;
    if (!request.file) {
        if (vma.shared()) {
            if ((vma.flags & vma_grows_down) != 0)
                return fail(EINVAL);
            TRY(vma.cache, make_ref<PageCache>(nullptr));
        }
        return {};
    }
    if (!request.file->readable())
        return fail(EACCES);
    if (vma.shared() && !request.file->writable()) {
        if ((request.protection & PROT_WRITE) != 0)
            return fail(EACCES);
        vma.max_protection &= ~u32{PROT_WRITE};
    }
    if (vma.shared() && request.file->writable() && request.file->inode() != nullptr &&
        request.file->inode()->is_append_only())
        return fail(EACCES);
    // A mount without programs (MS_NOEXEC) has none by way of mprotect(2) either.
    if (const Mount* mount = request.file->path().mount();
        mount != nullptr && (mount->flags() & MS_NOEXEC) != 0)
        vma.max_protection &= ~u32{PROT_EXEC};
    // A file that is sealed against writing stays so under mprotect(2).
    const Inode* inode = request.file->inode();
    if (vma.shared() && (request.protection & PROT_WRITE) == 0 && inode != nullptr &&
        inode->is_regular() && request.file->writable() &&
        !request.file->mapping(request.protection | PROT_WRITE, request.flags))
        vma.max_protection &= ~u32{PROT_WRITE};
    TRY(vma.cache, request.file->mapping(request.protection, request.flags));
    if ((vma.flags & vma_grows_down) != 0)
        return fail(EINVAL);
    vma.file = request.file;
    vma.offset = request.offset;
    if (file_as<SecretFile>(*request.file) != nullptr)
        vma.flags |= vma_secret | vma_locked | vma_dont_dump;
    return {};
}

// A seal against writing may have come between prepare() and the mapping's place on the cache's
// list, where a later one finds it. Requires: it is on the list.
Result<void> heed_seals(const MapRequest& request, Vma& vma) {
    if (!vma.file || !vma.shared() || !vma.cache->memory_only() ||
        (vma.max_protection & PROT_WRITE) == 0 || vma.file->inode() == nullptr ||
        !vma.file->inode()->is_regular())
        return {};
    auto allowed = vma.file->mapping(vma.protection | PROT_WRITE, request.flags);
    if (allowed)
        return {};
    if ((vma.protection & PROT_WRITE) != 0)
        return fail(allowed.error().code);
    vma.max_protection &= ~u32{PROT_WRITE};
    return {};
}

} // namespace

// Whoever serves a mapping's faults is told that it is gone.
RemovedVmas::~RemovedVmas() {
    while (CacheMapping* mapping = list_.pop_front()) {
        Vma* vma = static_cast<Vma*>(mapping);
        if (vma->userfault && (vma->flags & vma_unmapped) != 0 &&
            vma->userfault->has(UFFD_FEATURE_EVENT_UNMAP))
            vma->userfault->tell(UFFD_EVENT_UNMAP, vma->start, vma->end, 0);
        delete vma;
    }
}

AddressSpace::AddressSpace() = default;

Result<Ref<AddressSpace>> AddressSpace::create() {
    TRY(Ref<AddressSpace> space, make_ref<AddressSpace>());
    space->impl_ = new (std::nothrow) AddressSpaceImpl(*space);
    if (space->impl_ == nullptr)
        return fail(ENOMEM);
    TRY(space->impl_->table.create());
    space->root_ = space->impl_->table.root();
    return space;
}

AddressSpace::~AddressSpace() {
    if (impl_ == nullptr)
        return;
    release_memory();
    impl_->table.destroy();
    delete impl_;
}

void AddressSpace::release_memory() {
    aio = nullptr;
    RemovedVmas removed;
    MutexGuard guard(impl_->mutex);
    // Nobody runs in this space any more, so that no flush is needed: one CPU may still have the
    // table loaded, but uses the kernel's half only until it loads another.
    const u64 cpus = active_cpus.exchange(0);
    impl_->zap(0, user_max);
    active_cpus.fetch_or(cpus);
    while (Vma* vma = impl_->vmas.first())
        impl_->remove_vma(*vma, removed);
}

u64 AddressSpace::mappings_top_above(u64 stack) {
    constexpr u64 least = u64{128} << 20;
    constexpr u64 most = page_down(user_max / 6 * 5);
    const u64 gap = stack < least ? least : stack > most ? most : page_up(stack);
    return user_max - gap - stack_guard_gap;
}

Result<u64> AddressSpaceImpl::choose_address(const MapRequest& request) const {
    const u64 hint = request.hint.raw();
    const u64 length = request.length;
    if (length > user_max - user_min)
        return fail(ENOMEM);
    if ((request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0) {
        if (hint % page_size != 0)
            return fail(EINVAL);
        if (hint > user_max - length)
            return fail(ENOMEM);
        if (hint < user_min)
            return fail(EPERM); // vm.mmap_min_addr
        if ((request.flags & MAP_FIXED_NOREPLACE) != 0 && !vmas.range_free(hint, hint + length))
            return fail(EEXIST);
        return hint;
    }
    if (const u64 wanted = page_up(hint);
        hint != 0 && wanted >= user_min && wanted <= user_max - length) {
        const Vma* next = vmas.find_from(wanted);
        const u64 guard =
            next != nullptr && (next->flags & vma_grows_down) != 0 ? stack_guard_gap : 0;
        if (next == nullptr ||
            (next->start >= wanted + length && next->start - wanted - length >= guard))
            return wanted;
    }
    constexpr u64 limit_32bit = u64{1} << 31; // mmap(2), MAP_32BIT: in the first 2 GiB
    const bool low = (request.flags & MAP_32BIT) != 0;
    u64 found = vmas.find_gap(length, low ? limit_32bit : space.mappings_top);
    if (found == 0 && !low)
        found = vmas.find_gap(length, user_max - stack_guard_gap);
    if (found == 0)
        return fail(ENOMEM);
    return found;
}

u64 AddressSpaceImpl::mapped_pages(u64 start, u64 end) const {
    u64 pages = 0;
    for (const Vma* vma = vmas.find_from(start); vma != nullptr && vma->start < end;
         vma = VmaTree::next(*vma))
        pages += ((end < vma->end ? end : vma->end) - (start > vma->start ? start : vma->start)) >>
                 page_shift;
    return pages;
}

bool AddressSpaceImpl::limits_allow(u64 pages, u32 protection, u32 flags, u64 replaced) const {
    const u64 more = pages - replaced;
    if (pages > huge || total_pages + more > space.limits.address_space >> page_shift)
        return false;
    if (is_data(protection, flags) && data_pages + more > space.limits.data >> page_shift)
        return false;
    // Heuristic overcommit: only what could never fit is refused, and only if it wants to be
    // counted.
    if (is_data(protection, flags) && (flags & vma_no_reserve) == 0 && pages > memory_stats().total)
        return false;
    return true;
}

void AddressSpaceImpl::account(const Vma& vma, bool added) {
    const u64 pages = added ? vma.pages() : ~vma.pages() + 1;
    total_pages += pages;
    if (is_data(vma.protection, vma.flags))
        data_pages += pages;
    if ((vma.flags & vma_stack) != 0)
        stack_pages += pages;
    if ((vma.flags & vma_locked) != 0)
        locked_pages += pages;
    if ((vma.protection & PROT_EXEC) != 0 && (vma.protection & PROT_WRITE) == 0)
        text_pages += pages;
    if (total_pages > peak_pages)
        peak_pages = total_pages;
}

void AddressSpaceImpl::add_vma(Vma& vma) {
    vma.space = &space;
    vmas.insert(vma);
    account(vma, true);
    show_in_cache(vma);
}

// Puts the mapping on its cache's list, if it is not there yet.
void AddressSpaceImpl::show_in_cache(Vma& vma) {
    vma.space = &space;
    if (vma.cache && !vma.cache_node.linked())
        vma.cache->add_mapping(vma);
}

void AddressSpaceImpl::remove_vma(Vma& vma, RemovedVmas& removed) {
    account(vma, false);
    if (vma.cache)
        vma.cache->remove_mapping(vma);
    vmas.erase(vma);
    removed.add(vma);
}

Result<Vma*> AddressSpaceImpl::copy_vma(const Vma& vma, u64 start, u64 end) const {
    Vma* copy = new (std::nothrow) Vma;
    if (copy == nullptr)
        return fail(ENOMEM);
    copy->start = start;
    copy->end = end;
    copy->protection = vma.protection;
    copy->max_protection = vma.max_protection;
    copy->flags = vma.flags;
    copy->file = vma.file;
    copy->cache = vma.cache;
    copy->offset = vma.cache ? vma.offset + (start - vma.start) : 0;
    copy->name = vma.name;
    copy->given_name = vma.given_name;
    copy->userfault = vma.userfault;
    copy->policy = vma.policy;
    return copy;
}

Result<Vma*> AddressSpaceImpl::split(Vma& vma, u64 address) {
    if (vmas.count() >= max_mappings)
        return fail(ENOMEM);
    TRY(Vma * upper, copy_vma(vma, address, vma.end));
    // Before its part leaves `vma`: whoever takes pages out of the cache meets one or the other.
    show_in_cache(*upper);
    account(vma, false);
    vmas.set_bounds(vma, vma.start, address, vma.offset);
    account(vma, true);
    add_vma(*upper);
    return upper;
}

Result<void> AddressSpaceImpl::split_at(u64 address) {
    Vma* vma = vmas.find(address);
    if (vma != nullptr && vma->start < address)
        TRY(split(*vma, address));
    return {};
}

Vma& AddressSpaceImpl::merge(Vma& vma, RemovedVmas& removed) {
    Vma* at = &vma;
    const auto join = [&](Vma& low, Vma& high) {
        const u64 end = high.end;
        account(high, false);
        vmas.erase(high);
        account(low, false);
        vmas.set_bounds(low, low.start, end, low.offset);
        account(low, true);
        // Not before `low` shows its part: whoever takes pages out of the cache meets one of them.
        if (high.cache)
            high.cache->remove_mapping(high);
        removed.add(high);
    };
    if (Vma* low = VmaTree::prev(*at); low != nullptr && alike(*low, *at)) {
        join(*low, *at);
        at = low;
    }
    if (Vma* high = VmaTree::next(*at); high != nullptr && alike(*at, *high))
        join(*at, *high);
    return *at;
}

Result<void> AddressSpaceImpl::unmap_range(u64 start, u64 end, RemovedVmas& removed) {
    TRY(split_at(start));
    TRY(split_at(end));
    zap(start, end);
    for (Vma* vma = vmas.find_from(start); vma != nullptr && vma->start < end;) {
        Vma* next = VmaTree::next(*vma);
        remove_vma(*vma, removed);
        vma->flags |= vma_unmapped;
        vma = next;
    }
    return {};
}

Result<VirtAddr> AddressSpace::map(const MapRequest& request) {
    if (request.length == 0 || request.length % page_size != 0 || request.offset % page_size != 0)
        return fail(EINVAL);
    if (request.file && request.offset + request.length < request.offset)
        return fail(EOVERFLOW);
    TRY(Owned<Vma> vma, make_owned<Vma>());
    TRY(prepare(request, *vma));
    bool populate = (request.flags & MAP_POPULATE) != 0 && (request.flags & MAP_NONBLOCK) == 0;
    u64 start = 0;
    {
        RemovedVmas removed;
        MutexGuard guard(impl_->mutex);
        TRY(start, impl_->choose_address(request));
        const u64 end = start + request.length;
        vma->flags |= impl_->lock_future;
        const u64 pages = request.length >> page_shift;
        // Programs reserve address space and later map over parts of it.
        const u64 replaced = (request.flags & MAP_FIXED) != 0 ? impl_->mapped_pages(start, end) : 0;
        if (!impl_->limits_allow(pages, vma->protection, vma->flags, replaced) ||
            impl_->vmas.count() >= max_mappings)
            return fail(ENOMEM);
        if ((vma->flags & vma_locked) != 0) {
            if (impl_->locked_pages + pages > impl_->lock_limit() >> page_shift)
                return fail(EAGAIN);
            populate = populate || (vma->flags & (vma_lock_on_fault | vma_secret)) == 0;
        }
        if ((request.flags & MAP_FIXED) != 0 && !impl_->vmas.range_free(start, end))
            TRY(impl_->unmap_range(start, end, removed));
        vma->start = start;
        vma->end = end;
        Vma& added = *vma.leak();
        impl_->add_vma(added);
        if (auto heeded = heed_seals(request, added); !heeded) {
            impl_->remove_vma(added, removed);
            return fail(heeded.error().code);
        }
        // The first mapping of a library covers all of it and is replaced piece by piece
        // (MAP_FIXED): only the pieces.
        const bool constant = added.file && !added.shared() &&
                              (added.protection & PROT_WRITE) == 0 && added.protection != PROT_NONE;
        if (constant && ((request.flags & MAP_FIXED) != 0 || (added.protection & PROT_EXEC) != 0))
            impl_->map_ahead(added);
        if (!added.shared() || added.file)
            impl_->merge(added, removed);
    }
    // As on Linux, a mapping that cannot be populated is there all the same.
    if (populate && (request.protection & (PROT_READ | PROT_WRITE | PROT_EXEC)) != 0)
        (void)impl_->populate(start, start + request.length, (request.protection & PROT_WRITE) != 0,
                              true);
    return VirtAddr(start);
}

Result<void> AddressSpace::unmap(VirtAddr start, u64 length) {
    const u64 from = start.raw();
    if (from % page_size != 0 || length == 0 || length > user_max ||
        from > user_max - page_up(length))
        return fail(EINVAL);
    RemovedVmas removed;
    MutexGuard guard(impl_->mutex);
    return impl_->unmap_range(from, from + page_up(length), removed);
}

void AddressSpace::init_break(VirtAddr start) {
    MutexGuard guard(impl_->mutex);
    impl_->break_start = impl_->break_end = start.raw();
    layout.break_start = start.raw();
}

AddressSpace::Break AddressSpace::break_range() {
    SharedGuard guard(impl_->mutex);
    return {impl_->break_start, impl_->break_end};
}

void AddressSpace::set_break_range(const Break& range) {
    MutexGuard guard(impl_->mutex);
    if (range.start != 0)
        impl_->break_start = layout.break_start = range.start;
    if (range.end != 0)
        impl_->break_end = range.end;
}

Ref<File> AddressSpace::program() {
    SpinGuard guard(program_lock_);
    return program_;
}

void AddressSpace::set_program(Ref<File> file) {
    SpinGuard guard(program_lock_);
    std::swap(program_, file); // the old one goes with the argument, after the lock
}

bool AddressSpace::maps_program() {
    const Ref<File> old = program();
    struct Search {
        const File* file;
        bool found = false;
    } search{old.get()};
    const auto look = [](const MappingInfo& info, void* raw) {
        auto& it = *static_cast<Search*>(raw);
        it.found = info.file && info.file->path() == it.file->path();
        return !it.found;
    };
    if (old)
        for_each_mapping(look, &search, false);
    return search.found;
}

void AddressSpaceImpl::set_break_page(u64 wanted, RemovedVmas& removed) {
    const u64 old_end = page_up(break_end);
    const u64 new_end = page_up(wanted);
    if (new_end < old_end) {
        if (!unmap_range(new_end, old_end, removed))
            return;
    } else if (new_end > old_end) {
        // A page of distance to what comes next, as Linux keeps; the guard gap if that is a stack.
        const Vma* next = vmas.find_from(old_end);
        const u64 guard =
            next != nullptr && (next->flags & vma_grows_down) != 0 ? stack_guard_gap : page_size;
        if (!vmas.range_free(old_end, new_end + guard) ||
            !limits_allow((new_end - old_end) >> page_shift, PROT_READ | PROT_WRITE, 0))
            return;
        if (lock_future != 0 &&
            locked_pages + ((new_end - old_end) >> page_shift) > lock_limit() >> page_shift)
            return;
        Vma* vma = new (std::nothrow) Vma;
        if (vma == nullptr)
            return;
        vma->start = old_end;
        vma->end = new_end;
        vma->protection = PROT_READ | PROT_WRITE;
        vma->flags = lock_future;
        vma->name = "[heap]";
        add_vma(*vma);
        merge(*vma, removed);
    }
    break_end = wanted;
}

VirtAddr AddressSpace::set_break(VirtAddr wanted) {
    RemovedVmas removed;
    u64 populate_from = 0, end = 0;
    {
        MutexGuard guard(impl_->mutex);
        const u64 old = impl_->break_end;
        if (wanted.raw() >= impl_->break_start && wanted.raw() < user_max &&
            wanted.raw() - impl_->break_start <= limits.data)
            impl_->set_break_page(wanted.raw(), removed);
        end = impl_->break_end;
        if (impl_->lock_future == vma_locked && end > old)
            populate_from = page_up(old);
    }
    if (populate_from != 0)
        (void)impl_->populate(populate_from, page_up(end), true, true);
    return VirtAddr(end);
}

} // namespace kernel
