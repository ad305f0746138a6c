// fork(2): a copy of an address space that shares what it can.
#include <asm/errno.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>

#include "guestkernel/lib/vector.hpp"
#include "guestkernel/mm/address_space_impl.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {
namespace {

// Mappings of files are cheap to fault in again, a neighbourhood at a time; but up to this size
// copying what is present (20 ns an entry) costs less than the first fault would.
constexpr u64 largest_copied_file_mapping = u64{16} << 20;

// False: there is no memory for the child's table, and nothing was copied. Requires: the parent's
// page table lock is held; nobody else knows the child.
bool copy_leaf(AddressSpaceImpl& child, const LeafRange& leaf, bool copy_file_pages,
               bool keep_guard, Gather& gather) {
    u64* to = nullptr;
    for (unsigned i = leaf.first; i < leaf.end; i++) {
        u64 entry = leaf.entries[i];
        if (entry == 0 || ((entry & pte_private) == 0 && !copy_file_pages))
            continue;
        Frame* frame = frame_of(entry);
        if (frame == nullptr)
            continue;
        if (to == nullptr) {
            to = child.table.make(leaf.base);
            if (to == nullptr)
                return false;
        }
        if ((entry & arch::pte_write) != 0) {
            entry &= ~arch::pte_write;
            leaf.entries[i] = entry;
            gather.changed(leaf.address(i));
        }
        get_frame(*frame);
        if ((entry & pte_private) == 0)
            frame->map_count.fetch_add(1, base::Order::Relaxed);
        to[i] = keep_guard ? entry : entry & ~pte_guarded;
        child.note_resident(entry, 1, false);
    }
    return true;
}

Result<void> copy_pages(AddressSpaceImpl& parent, AddressSpaceImpl& child, const Vma& vma,
                        bool keep_guard, Gather& gather) {
    const bool copy_file_pages =
        vma.cache && vma.length() <= largest_copied_file_mapping && !vma.cache->memory_only();
    for (u64 at = vma.start; at < vma.end;) {
        u64 wanting = 0; // the first page whose table there is no memory for
        {
            SpinGuard guard(parent.table.lock());
            at = parent.table.for_some_leaves(
                at, vma.end, leaves_per_step, [&](const LeafRange& leaf) {
                    if (wanting == 0 &&
                        !copy_leaf(child, leaf, copy_file_pages, keep_guard, gather))
                        wanting = leaf.address(leaf.first);
                });
        }
        if (wanting != 0) {
            at = wanting;
            TRY(make_room_for_tables());
        }
        if (at < vma.end)
            cond_resched();
    }
    return {};
}

// Gives the child its own copy of a page that either side is about to write; the parent's is its
// own again. Requires: no other CPU can have changed either entry since they were made equal, which
// the parent's mutex sees to.
void copy_now(AddressSpaceImpl& parent, AddressSpaceImpl& child, u64 page) {
    const Vma* vma = parent.vmas.find(page);
    if (vma == nullptr || vma->shared() || (vma->protection & PROT_WRITE) == 0)
        return;
    FrameRef copy = FrameRef::adopt(as_kind(FrameKind::Anonymous, alloc_frame(false)));
    if (!copy)
        return;
    SpinGuard guard(parent.table.lock());
    u64* from = parent.table.find(page);
    u64* to = child.table.find(page);
    if (from == nullptr || to == nullptr || *from != *to ||
        (*from & (arch::pte_present | arch::pte_write | pte_private | pte_guarded)) !=
            (arch::pte_present | pte_private))
        return;
    Frame* shared = frame_of(*from);
    if (shared == nullptr || shared->refs.load(base::Order::Acquire) != 2)
        return;
    __builtin_memcpy(copy.data(), frame_data(*shared), page_size);
    *to = make_entry(frame_to_phys(*copy).raw(), vma->protection, true, pte_private);
    copy.leak();
    put_frame(*shared);
    *from |= arch::pte_write;
}

// The stack's page and the thread's own (glibc notes its new number there), and what was written
// after earlier forks.
void copy_soon_written(AddressSpaceImpl& parent, AddressSpaceImpl& child) {
    Task* task = arch::current();
    if (task != nullptr && task->address_space.get() == &parent.space) {
        copy_now(parent, child, page_down(arch::user_frame(*task).rsp));
        copy_now(parent, child, page_down(arch::get_fs_base(*task)));
    }
    for (const base::Atomic<u64>& page : parent.written_after_fork->pages)
        if (const u64 address = page.load(base::Order::Relaxed))
            copy_now(parent, child, address);
}

} // namespace

// The child's twins of the contexts that want to know of forks (UFFD_FEATURE_EVENT_FORK).
class ForkedUserfaults {
public:
    Result<Ref<UserfaultContext>> twin_of(const Ref<UserfaultContext>& context,
                                          const Ref<AddressSpace>& child) {
        for (const Pair& pair : pairs_.span())
            if (pair.parent == context)
                return pair.child;
        TRY(Ref<UserfaultContext> twin, make_ref<UserfaultContext>(child, context->user_mode_only));
        twin->features.store(context->features.load());
        TRY(pairs_.push_back({context, twin}));
        return twin;
    }
    // There is no child after all: a context and the space it serves hold each other.
    void give_up() {
        for (Pair& pair : pairs_.span())
            pair.child->close();
    }
    // The reader gets a descriptor of the twin. What nobody takes serves nothing.
    void tell() {
        for (Pair& pair : pairs_.span()) {
            Ref<UserfaultContext> twin = pair.child;
            pair.parent->tell(UFFD_EVENT_FORK, 0, 0, 0, std::move(pair.child));
            if (!twin->taken.load())
                twin->close();
        }
    }

private:
    struct Pair {
        Ref<UserfaultContext> parent, child;
    };
    Vector<Pair> pairs_;
};

Result<Ref<AddressSpace>> AddressSpace::clone() {
    ForkedUserfaults userfaults;
    Result<Ref<AddressSpace>> copy = clone_mappings(userfaults);
    if (copy)
        userfaults.tell();
    else
        userfaults.give_up();
    return copy;
}

Result<Ref<AddressSpace>> AddressSpace::clone_mappings(ForkedUserfaults& userfaults) {
    TRY(Ref<AddressSpace> copy, create());
    AddressSpaceImpl& child = *copy->impl_;
    copy->limits = limits;
    copy->mappings_top = mappings_top;
    copy->layout = layout;
    copy->set_program(program());
    copy->membarrier_registered.store(membarrier_registered.load());
    MutexGuard guard(impl_->mutex);
    if (!impl_->written_after_fork) {
        TRY(impl_->written_after_fork, make_ref<WrittenAfterFork>());
    }
    child.written_after_fork = impl_->written_after_fork;
    child.break_start = impl_->break_start;
    child.break_end = impl_->break_end;
    Gather gather(*impl_); // one flush, when all is copied; before the lock is released
    for (Vma* vma = impl_->vmas.first(); vma != nullptr; vma = VmaTree::next(*vma)) {
        if ((vma->flags & vma_dont_fork) != 0)
            continue;
        TRY(Vma * twin, child.copy_vma(*vma, vma->start, vma->end));
        twin->flags &= ~u32{vma_locked | vma_lock_on_fault}; // mlock(2): not inherited
        if (vma->userfault && vma->userfault->has(UFFD_FEATURE_EVENT_FORK)) {
            auto context = userfaults.twin_of(vma->userfault, copy);
            if (!context) {
                delete twin;
                return fail(context.error().code);
            }
            twin->userfault = std::move(*context);
        } else {
            twin->userfault = nullptr;
            twin->flags &= ~vma_userfault;
        }
        child.add_vma(*twin);
        if ((vma->flags & vma_wipe_on_fork) == 0 && !vma->shared())
            TRY(copy_pages(*impl_, child, *vma, (twin->flags & vma_fault_write) != 0, gather));
    }
    copy_soon_written(*impl_, child);
    return copy;
}

// --- afterwards, when a store meets a page that the other side has as well (fault.cpp)

void AddressSpaceImpl::note_written(Vma& vma, u64 page) {
    if (written_after_fork)
        written_after_fork->note(page);
    // Writes in order, to what a fork shares: the window doubles.
    u32 window = 1;
    if (page == vma.next_copy.load(base::Order::Relaxed)) {
        window = 2 * vma.copy_window.load(base::Order::Relaxed);
        window = window > around_pages ? u32{around_pages} : window;
    }
    vma.copy_window.store(window, base::Order::Relaxed);
    vma.next_copy.store(page + u64{window} * page_size, base::Order::Relaxed);
}

// After `page`, copies the rest of the window that note_written() chose. One flush for all: it also
// makes KVM look at the whole table again, instead of at each page as it is touched (7 us each).
void AddressSpaceImpl::copy_ahead(Vma& vma, u64 page) {
    u64 end = vma.next_copy.load(base::Order::Relaxed);
    if (end > vma.end)
        end = vma.end;
    struct Ahead {
        u64 at = 0, seen = 0;
        FrameRef copy;
    };
    Ahead copies[around_pages];
    u64 count = 0;
    Gather gather(*this);
    for (u64 at = page + page_size; at < end && count < around_pages; at += page_size) {
        u64 seen = 0;
        FrameRef from;
        {
            SpinGuard guard(table.lock());
            u64* entry = table.find(at);
            seen = entry != nullptr ? *entry : 0;
            if ((seen & (arch::pte_present | arch::pte_write | pte_private | pte_guarded)) !=
                (arch::pte_present | pte_private))
                continue;
            Frame* frame = frame_of(seen);
            if (frame->refs.load(base::Order::Acquire) == 1) {
                *entry = seen | arch::pte_write;
                gather.changed(at);
                continue;
            }
            from = FrameRef::share(*frame);
        }
        // No memory is worth waiting for here; and nothing may sleep between the exchange of
        // `page`'s frame and the store that rids this CPU of its old translation
        // (FaultInfo::touch): another thread would read the old frame here, whoever has it by then.
        FrameRef copy = FrameRef::adopt(as_kind(FrameKind::Anonymous, alloc_frame(false)));
        if (!copy)
            break;
        __builtin_memcpy(copy.data(), from.data(), page_size);
        copies[count++] = {at, seen, std::move(copy)};
    }
    // The old ones are nobody's any more before the new ones can be found: see install_copy().
    SpinGuard guard(table.lock());
    for (Ahead& ahead : std::span(copies, count)) {
        u64* entry = table.find(ahead.at);
        if (*entry != ahead.seen) {
            ahead.copy.reset();
            continue;
        }
        *entry = 0;
        gather.changed(ahead.at);
        gather.release(*frame_of(ahead.seen));
    }
    gather.flush();
    for (Ahead& ahead : std::span(copies, count))
        if (ahead.copy)
            *table.find(ahead.at) = make_entry(frame_to_phys(*ahead.copy.leak()).raw(),
                                               vma.protection, true, pte_private);
}

} // namespace kernel
