// The queues of userfaultfd(2), and which mappings a context serves.
#include "guestkernel/mm/userfault.hpp"

#include <asm/errno.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/mm/address_space_impl.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

UserfaultContext::UserfaultContext(Ref<AddressSpace> for_space, bool only_user_mode)
    : space(std::move(for_space)), user_mode_only(only_user_mode) {}

UserfaultContext::~UserfaultContext() = default;

bool UserfaultContext::queue(UserfaultNotice& notice) {
    {
        SpinGuard guard(lock_);
        if (closed_)
            return false;
        if (notice.event == UFFD_EVENT_PAGEFAULT)
            faults_.push_back(notice);
        else
            events_.push_back(notice);
    }
    readers.wake_all(poll_in);
    return true;
}

void UserfaultContext::withdraw(UserfaultNotice& notice) {
    SpinGuard guard(lock_);
    if (notice.node.linked()) // an event that was read is out already
        notice.node.unlink();
}

bool UserfaultContext::wait(UserfaultNotice& notice, bool interruptible) {
    const auto over = [&] { return notice.done || closed_; };
    const WaitOutcome outcome =
        wait_until(sleepers_, over, no_deadline,
                   interruptible ? TaskState::Interruptible : TaskState::Killable);
    withdraw(notice);
    return outcome == WaitOutcome::Ready;
}

void UserfaultContext::tell(u32 event, u64 first, u64 second, u64 third,
                            Ref<UserfaultContext> child) {
    UserfaultNotice notice;
    notice.event = event;
    notice.words[0] = first;
    notice.words[1] = second;
    notice.words[2] = third;
    notice.child = std::move(child);
    changing.fetch_add(1);
    if (queue(notice))
        (void)wait(notice, false);
    changing.fetch_sub(1);
}

// Events come after the faults that are older than what they tell, as in Linux.
bool UserfaultContext::take(UserfaultNotice& out) {
    bool event = false;
    {
        SpinGuard guard(lock_);
        UserfaultNotice* found = nullptr;
        for (UserfaultNotice& fault : faults_)
            if (!fault.read) {
                found = &fault;
                break;
            }
        if (found == nullptr) {
            found = events_.front();
            event = found != nullptr;
        }
        if (found == nullptr)
            return false;
        out.event = found->event;
        for (unsigned i = 0; i < 3; i++)
            out.words[i] = found->words[i];
        found->read = true;
        if (event) {
            out.child = std::move(found->child);
            if (out.child)
                out.child->taken.store(true);
            found->node.unlink();
            found->done = true;
        }
    }
    if (event)
        sleepers_.wake_all();
    return true;
}

bool UserfaultContext::something_to_read() {
    SpinGuard guard(lock_);
    if (!events_.empty())
        return true;
    for (const UserfaultNotice& fault : faults_)
        if (!fault.read)
            return true;
    return false;
}

void UserfaultContext::wake(u64 start, u64 length) {
    bool any = false;
    {
        SpinGuard guard(lock_);
        for (UserfaultNotice& fault : faults_)
            if (fault.page - start < length) {
                fault.done = true;
                any = true;
            }
    }
    if (any)
        sleepers_.wake_all();
}

void UserfaultContext::close() {
    AddressSpaceImpl& impl = AddressSpaceImpl::of(*space);
    {
        RemovedVmas removed;
        MutexGuard guard(impl.mutex);
        for (Vma* vma = impl.vmas.first(); vma != nullptr;) {
            if (vma->userfault.get() == this)
                vma = &impl.leave_userfault(*vma, removed);
            vma = VmaTree::next(*vma);
        }
    }
    {
        SpinGuard guard(lock_);
        closed_ = true;
    }
    sleepers_.wake_all();
    readers.wake_all(poll_hup);
}

Result<void> check_userfault_range(UserfaultRange range) {
    if (range.start % page_size != 0 || range.length % page_size != 0 || range.length == 0 ||
        range.start < user_min || range.start >= user_max || range.length > user_max - range.start)
        return fail(EINVAL);
    return {};
}

// Takes the mapping out of its context's hands. Requires: the mutex is held exclusively.
Vma& AddressSpaceImpl::leave_userfault(Vma& vma, RemovedVmas& removed) {
    if ((vma.flags & vma_fault_write) != 0)
        set_guard(vma.start, vma.end, false);
    vma.flags &= ~vma_userfault;
    vma.userfault = nullptr;
    return merge(vma, removed);
}

// Sets or takes away the guard of what is present. Requires: the mutex is held.
void AddressSpaceImpl::set_guard(u64 start, u64 end, bool guarded) {
    Gather gather(*this);
    SpinGuard guard(table.lock());
    table.for_each_leaf(start, end, [&](const LeafRange& leaf) {
        for (unsigned i = leaf.first; i < leaf.end; i++) {
            u64& entry = leaf.entries[i];
            if ((entry & arch::pte_present) == 0)
                continue;
            if (!guarded) {
                entry &= ~pte_guarded; // a store faults, and is allowed then
                continue;
            }
            if ((entry & arch::pte_write) != 0)
                gather.changed(leaf.address(i));
            entry = (entry & ~arch::pte_write) | pte_guarded;
        }
    });
}

namespace {

bool is_memory(const Vma& vma) {
    return (vma.flags & vma_secret) == 0 && (!vma.cache || vma.cache->memory_only());
}

// Whether every mapping of the range may be served. Requires: the mutex is held.
Result<void> check_mappings(AddressSpaceImpl& impl, const UserfaultContext& context,
                            UserfaultRange range, u32 modes) {
    const u64 end = range.start + range.length;
    const Vma* vma = impl.vmas.find_from(range.start);
    if (vma == nullptr || vma->start >= end)
        return fail(EINVAL);
    for (; vma != nullptr && vma->start < end; vma = VmaTree::next(*vma)) {
        if (vma->name != nullptr && !vma->cache && vma->max_protection == 0)
            return fail(EINVAL);
        if (!is_memory(*vma) || ((modes & vma_fault_write) != 0 && vma->cache) ||
            ((modes & vma_fault_minor) != 0 && !(vma->cache && vma->shared())))
            return fail(EINVAL);
        if (modes != 0 && (vma->max_protection & PROT_WRITE) == 0)
            return fail(EPERM);
        if (vma->userfault && vma->userfault.get() != &context)
            return fail(modes != 0 ? EBUSY : EINVAL);
    }
    return {};
}

} // namespace

Result<void> register_userfault(UserfaultContext& context, UserfaultRange range, u32 modes,
                                u64& ioctls) {
    TRY(check_userfault_range(range));
    AddressSpaceImpl& impl = AddressSpaceImpl::of(*context.space);
    const u64 end = range.start + range.length;
    RemovedVmas removed;
    MutexGuard guard(impl.mutex);
    TRY(check_mappings(impl, context, range, modes));
    TRY(impl.split_at(range.start));
    TRY(impl.split_at(end));
    for (Vma* vma = impl.vmas.find_from(range.start); vma != nullptr && vma->start < end;
         vma = VmaTree::next(*vma)) {
        if ((vma->flags & vma_fault_write) != 0 && (modes & vma_fault_write) == 0)
            impl.set_guard(vma->start, vma->end, false);
        vma->flags = (vma->flags & ~vma_userfault) | modes;
        vma->userfault = Ref<UserfaultContext>::share(&context);
        vma = &impl.merge(*vma, removed);
    }
    ioctls = u64{1} << _UFFDIO_WAKE | u64{1} << _UFFDIO_COPY | u64{1} << _UFFDIO_ZEROPAGE;
    if ((modes & vma_fault_write) != 0)
        ioctls |= u64{1} << _UFFDIO_WRITEPROTECT;
    if ((modes & vma_fault_minor) != 0)
        ioctls |= u64{1} << _UFFDIO_CONTINUE;
    return {};
}

Result<void> unregister_userfault(UserfaultContext& context, UserfaultRange range) {
    TRY(check_userfault_range(range));
    AddressSpaceImpl& impl = AddressSpaceImpl::of(*context.space);
    const u64 end = range.start + range.length;
    {
        RemovedVmas removed;
        MutexGuard guard(impl.mutex);
        TRY(check_mappings(impl, context, range, 0));
        TRY(impl.split_at(range.start));
        TRY(impl.split_at(end));
        for (Vma* vma = impl.vmas.find_from(range.start); vma != nullptr && vma->start < end;
             vma = VmaTree::next(*vma))
            if (vma->userfault)
                vma = &impl.leave_userfault(*vma, removed);
    }
    context.wake(range.start, range.length);
    return {};
}

// Which fault the program has to serve here (UFFD_PAGEFAULT_FLAG_*), if any. Requires: the mutex is
// held.
bool AddressSpaceImpl::asks_userfault(Vma& vma, u64 page, bool write, u64& flags) {
    if (!vma.userfault)
        return false;
    u64 seen = 0;
    {
        SpinGuard guard(table.lock());
        if (const u64* entry = table.find(page))
            seen = *entry;
    }
    flags = write ? UFFD_PAGEFAULT_FLAG_WRITE : 0;
    if ((seen & arch::pte_present) != 0) {
        flags |= UFFD_PAGEFAULT_FLAG_WP;
        return write && (seen & pte_guarded) != 0;
    }
    if (seen != 0)
        return false;
    if (!vma.cache)
        return (vma.flags & vma_fault_missing) != 0;
    const bool here = static_cast<bool>(vma.cache->lookup(vma.page_index(page)));
    if (here)
        flags |= UFFD_PAGEFAULT_FLAG_MINOR;
    return (vma.flags & (here ? vma_fault_minor : vma_fault_missing)) != 0;
}

// Waits until the program has served the fault. Called without the mutex.
FaultOutcome AddressSpaceImpl::wait_for_userfault(u64 address, u64 access, FaultInfo& info) {
    const Ref<UserfaultContext> context = std::move(info.userfault);
    const bool from_user = (access & arch::fault_user) != 0;
    if (context->has(UFFD_FEATURE_SIGBUS) || (context->user_mode_only && !from_user))
        return FaultOutcome::BusError;
    UserfaultNotice notice;
    notice.event = UFFD_EVENT_PAGEFAULT;
    notice.page = page_down(address);
    notice.words[0] = info.userfault_flags;
    notice.words[1] = context->has(UFFD_FEATURE_EXACT_ADDRESS) ? address : notice.page;
    notice.words[2] =
        context->has(UFFD_FEATURE_THREAD_ID) ? static_cast<u64>(current_task().own_tid) : 0;
    if (!context->queue(notice))
        return FaultOutcome::Userfault;
    bool still = false;
    {
        SharedGuard guard(mutex);
        u64 flags = 0;
        Vma* vma = vmas.find(address);
        still = vma != nullptr && vma->userfault.get() == context.get() &&
                asks_userfault(*vma, notice.page, (access & arch::fault_write) != 0, flags);
    }
    if (!still) {
        context->withdraw(notice);
        return FaultOutcome::Userfault;
    }
    if (context->wait(notice, from_user))
        return FaultOutcome::Userfault;
    // A signal is served first and the instruction repeated; or the task ends.
    return from_user ? FaultOutcome::Done : FaultOutcome::BadAccess;
}

} // namespace kernel
