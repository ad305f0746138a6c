// userfaultfd(2): page faults that a program serves. A context is registered for mappings
// (Vma::userfault); whoever meets a fault there queues a notice and sleeps until the range is
// woken. Changes of such mappings are told as well, and wait until they have been read.
//
// Locks: the context's spin lock guards its queues. A fault queues up first and then looks again,
// under the address space's mutex, whether it still has to wait: whoever fills a page does so
// before waking.
#pragma once

#include "base/atomic.hpp"
#include "base/intrusive_list.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

class AddressSpace;
class UserfaultContext;

// What a reader gets, and its sleeper's place in the queue (on the sleeper's stack).
struct UserfaultNotice {
    base::ListNode node;
    u32 event = 0;               // UFFD_EVENT_*
    u64 words[3] = {};           // of a fault: flags, address, thread; else the event's arguments
    u64 page = 0;                // of a fault
    Ref<UserfaultContext> child; // of UFFD_EVENT_FORK
    bool read = false;
    volatile bool done = false;
};

class UserfaultContext : public RefCounted {
public:
    UserfaultContext(Ref<AddressSpace> for_space, bool only_user_mode);
    ~UserfaultContext() override;

    Ref<AddressSpace> space;
    const bool user_mode_only;
    u32 descriptor_flags = 0; // O_CLOEXEC, O_NONBLOCK: what descriptors of its children get too
    // UFFD_FEATURE_*, and this bit once UFFDIO_API was called.
    static constexpr u64 ready = u64{1} << 63;
    base::Atomic<u64> features{0};
    // Mappings are changing and the reader does not know yet: filling fails with EAGAIN.
    base::Atomic<u32> changing{0};
    base::Atomic<bool> taken{false}; // has a descriptor

    bool has(u64 feature) const { return (features.load(base::Order::Relaxed) & feature) != 0; }

    // Queues the notice; false if the file is closed.
    bool queue(UserfaultNotice& notice);
    // Sleeps until the notice is done. False: a signal came first (a fatal one, unless
    // `interruptible`). Out of the queue either way.
    bool wait(UserfaultNotice& notice, bool interruptible);
    void withdraw(UserfaultNotice& notice);
    // An event of the mappings: queued, and waited for until it is read.
    void tell(u32 event, u64 first, u64 second, u64 third, Ref<UserfaultContext> child = {});

    // The next notice to read, copied; false: there is none.
    bool take(UserfaultNotice& out);
    bool something_to_read();
    // Those who wait for pages of [start, start + length) try again.
    void wake(u64 start, u64 length);
    // The file is closed: its mappings are nobody's, and nobody waits any more.
    void close();

    WaitQueue readers;

private:
    SpinLock lock_{LockRank::Leaf};
    base::IntrusiveList<UserfaultNotice, &UserfaultNotice::node> faults_; // read or not
    base::IntrusiveList<UserfaultNotice, &UserfaultNotice::node> events_;
    volatile bool closed_ = false;
    WaitQueue sleepers_;
};

// Ranges are checked: whole pages of the user's half.
struct UserfaultRange {
    u64 start, length;
};
Result<void> check_userfault_range(UserfaultRange range);
// `modes`: VmaFlag bits. EINVAL, EBUSY, EPERM. `ioctls` gets what can be asked of the range.
Result<void> register_userfault(UserfaultContext& context, UserfaultRange range, u32 modes,
                                u64& ioctls);
Result<void> unregister_userfault(UserfaultContext& context, UserfaultRange range);

enum class UserfaultFill : u8 { Copy, Zero, Continue };
// Fills absent pages; the bytes that were filled, an error if none was. `source`: user memory, for
// Copy. `guarded`: write-protected from the start.
Result<u64> fill_userfault(UserfaultContext& context, UserfaultRange range, UserfaultFill how,
                           u64 source, bool guarded);
Result<void> guard_userfault(UserfaultContext& context, UserfaultRange range, bool guarded);

} // namespace kernel
