// Locks: one sleeping mutex for all interest lists, since a watched file that ends and an epoll
// file that ends meet in the same items; and a spin lock per epoll file for its ready list, taken
// from wake-ups with the source's queue locked.
#include "guestkernel/ipc/epoll.hpp"

#include <linux/errno.h>
#include <linux/eventpoll.h>

#include "guestkernel/fs/fdinfo.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constinit Mutex* registry = nullptr;
alignas(Mutex) u8 registry_storage[sizeof(Mutex)];
// As Linux: the ways by which a wake-up may go up through so many epoll files. It goes all its ways
// at once, by recursion and with spin locks held.
constexpr u32 most_ways[] = {1000, 500, 100, 50, 10};

Mutex& epoll_mutex() {
    // The first epoll file makes it; two that race build the same zeros.
    if (registry == nullptr)
        registry = ::new (static_cast<void*>(registry_storage)) Mutex();
    return *registry;
}

constexpr u32 always = poll_err | poll_hup;
constexpr u32 control_bits = EPOLLEXCLUSIVE | EPOLLWAKEUP | EPOLLONESHOT | EPOLLET;
// What may stand beside EPOLLEXCLUSIVE, epoll_ctl(2).
constexpr u32 with_exclusive = EPOLLIN | EPOLLOUT | always | EPOLLEXCLUSIVE | EPOLLWAKEUP | EPOLLET;

} // namespace

// Alive from add() to destroy(); the file is not referenced: its end removes the item.
struct EpollItem {
    struct Link final : Waiter {
        WaitQueue* queue = nullptr;
        Link* next = nullptr;
    };
    EpollFile* owner = nullptr;
    File* file = nullptr;
    int fd = -1;
    u32 events = 0; // with EPOLLERR and EPOLLHUP; none besides control ones: disabled
    u64 data = 0;
    EpollItem* next = nullptr; // of the owner
    EpollItem* previous = nullptr;
    EpollItem* next_of_file = nullptr; // of the file
    EpollItem* next_ready = nullptr;
    EpollItem* previous_ready = nullptr;
    bool ready = false; // on the ready list
    Link* links = nullptr;
    Ref<Process> signalled; // of a signalfd: whose queue the link is in

    static bool wake(Waiter& waiter, u32 events);
};

namespace {

class EpollTable final : public PollTable {
public:
    explicit EpollTable(EpollItem& item) : item_(item) {}
    void watch(WaitQueue& queue) override {
        auto* link = new (std::nothrow) EpollItem::Link();
        if (link == nullptr) {
            failed = true;
            return;
        }
        link->function = &EpollItem::wake;
        link->context = &item_;
        link->exclusive = (item_.events & EPOLLEXCLUSIVE) != 0;
        link->queue = &queue;
        link->next = item_.links;
        item_.links = link;
        // That queue is the process's, which may end before the item does.
        if (file_as<SignalFile>(*item_.file) != nullptr)
            item_.signalled = Ref<Process>::share(current_task().process);
        queue.add(*link);
    }
    bool failed = false;

private:
    EpollItem& item_;
};

// Requires: the epoll mutex held.
u32 look(EpollItem& item) {
    auto* nested = file_as<EpollFile>(*item.file);
    const u32 now = nested != nullptr ? nested->poll_locked() : item.file->poll(nullptr);
    return now & item.events & ~control_bits;
}

} // namespace

// --- the shape of epoll files in each other ------------------------------------------------------
//
// All of it with the epoll mutex held. Each file is looked at once in a walk, however many entries
// lead to it: there may be as many as descriptors, at each level. Recursion is as deep as add()
// lets files nest.

constinit u64 EpollFile::walks_ = 0;

// Whether this walk has not been here.
bool EpollFile::enter_walk() {
    if (walk_ == walks_)
        return false;
    walk_ = walks_;
    return true;
}

// How many epoll files are in a row from this one downwards, itself among them; more than
// max_nesting when `needle` is one of them.
unsigned EpollFile::depth_below(const EpollFile& needle) {
    if (this == &needle)
        return max_nesting + 1;
    if (!enter_walk())
        return depth_;
    unsigned deepest = 0;
    for (const EpollItem* item = items_; item != nullptr; item = item->next)
        if (auto* nested = file_as<EpollFile>(*item->file)) {
            const unsigned depth = nested->depth_below(needle);
            deepest = depth > deepest ? depth : deepest;
        }
    return depth_ = deepest + 1;
}

// The same upwards, without itself.
unsigned EpollFile::depth_above() {
    if (!enter_walk())
        return depth_;
    unsigned deepest = 0;
    for (const EpollItem* item = epoll_items; item != nullptr; item = item->next_of_file) {
        const unsigned depth = item->owner->depth_above() + 1;
        deepest = depth > deepest ? depth : deepest;
    }
    return depth_ = deepest;
}

bool EpollFile::nests_too_deep(EpollFile& inner) {
    walks_++;
    const unsigned below = inner.depth_below(*this);
    walks_++;
    return below + depth_above() > max_nesting;
}

// Counts the ways up to those that nobody watches. False: too many of one length.
bool EpollFile::count_ways(unsigned length, u32 (&counts)[max_nesting + 1]) const {
    for (const EpollItem* item = epoll_items; item != nullptr; item = item->next_of_file) {
        const EpollFile& above = *item->owner;
        const bool on = above.epoll_items != nullptr;
        if (on && (length == max_nesting || !above.count_ways(length + 1, counts)))
            return false;
        if (!on && ++counts[length] > most_ways[length])
            return false;
    }
    return true;
}

// Whether this one, or one below it, can be left by too many ways.
bool EpollFile::too_many_ways() {
    if (!enter_walk())
        return false;
    u32 counts[max_nesting + 1] = {};
    if (!count_ways(1, counts))
        return true;
    for (const EpollItem* item = items_; item != nullptr; item = item->next)
        if (auto* nested = file_as<EpollFile>(*item->file); nested && nested->too_many_ways())
            return true;
    return false;
}

bool EpollItem::wake(Waiter& waiter, u32 events) {
    auto& item = *static_cast<EpollItem*>(waiter.context);
    const u32 wanted = item.events & ~control_bits;
    if (wanted == 0 || (events != 0 && (events & wanted) == 0))
        return false; // disabled by EPOLLONESHOT, or not asked for
    item.owner->make_ready(item);
    return true;
}

void EpollFile::make_ready(EpollItem& item) {
    {
        SpinGuard guard(ready_lock_);
        if (!item.ready) {
            item.ready = true;
            ready_count_ = ready_count_ + 1;
            item.next_ready = nullptr;
            item.previous_ready = last_ready_;
            (last_ready_ != nullptr ? last_ready_->next_ready : first_ready_) = &item;
            last_ready_ = &item;
        }
    }
    waiters_.wake_one(poll_in | poll_rdnorm);
}

// A file is in few interest lists, while one of those may have very many files.
EpollItem* EpollFile::find(int fd, const File& file) {
    for (EpollItem* item = file.epoll_items; item != nullptr; item = item->next_of_file)
        if (item->owner == this && item->fd == fd)
            return item;
    return nullptr;
}

// Requires: ready_lock_ held, the item on the ready list.
void EpollFile::leave_ready(EpollItem& item) {
    (item.previous_ready != nullptr ? item.previous_ready->next_ready : first_ready_) =
        item.next_ready;
    (item.next_ready != nullptr ? item.next_ready->previous_ready : last_ready_) =
        item.previous_ready;
    item.next_ready = item.previous_ready = nullptr;
    item.ready = false;
    ready_count_ = ready_count_ - 1;
}

Result<void> EpollFile::add(int fd, File& file, u32 events, u64 data) {
    MutexGuard guard(epoll_mutex());
    auto* nested = file_as<EpollFile>(file);
    if ((events & EPOLLEXCLUSIVE) != 0 && (nested != nullptr || (events & ~with_exclusive) != 0))
        return fail(EINVAL);
    if (find(fd, file) != nullptr)
        return fail(EEXIST);
    if (nested != nullptr && nests_too_deep(*nested))
        return fail(ELOOP);
    TRY(Owned<EpollItem> item, make_owned<EpollItem>());
    item->owner = this;
    item->file = &file;
    item->fd = fd;
    item->events = events | always;
    item->data = data;
    item->next = items_;
    if (items_ != nullptr)
        items_->previous = item.get();
    items_ = item.get();
    item->next_of_file = file.epoll_items;
    file.epoll_items = item.get();
    EpollItem& added = *item.leak();
    walks_++;
    if (nested != nullptr && nested->too_many_ways()) {
        destroy(added);
        return fail(EINVAL);
    }
    EpollTable table(added);
    if (nested != nullptr)
        table.watch(nested->waiters_);
    else
        file.poll(&table);
    const u32 now = look(added);
    if (table.failed) {
        destroy(added);
        return fail(ENOMEM);
    }
    if (now != 0)
        make_ready(added);
    return {};
}

Result<void> EpollFile::modify(int fd, File& file, u32 events, u64 data) {
    MutexGuard guard(epoll_mutex());
    EpollItem* item = find(fd, file);
    if (item == nullptr)
        return fail(ENOENT);
    if (((item->events | events) & EPOLLEXCLUSIVE) != 0)
        return fail(EINVAL);
    item->events = events | always;
    item->data = data;
    if (look(*item) != 0)
        make_ready(*item);
    return {};
}

Result<void> EpollFile::remove(int fd, File& file) {
    MutexGuard guard(epoll_mutex());
    EpollItem* item = find(fd, file);
    if (item == nullptr)
        return fail(ENOENT);
    destroy(*item);
    return {};
}

// Requires: the epoll mutex held.
void EpollFile::destroy(EpollItem& item) {
    // First out of the queues: afterwards no wake-up can make it ready again.
    while (item.links != nullptr) {
        EpollItem::Link* link = item.links;
        item.links = link->next;
        link->queue->remove(*link);
        delete link;
    }
    EpollFile& owner = *item.owner;
    {
        SpinGuard guard(owner.ready_lock_);
        if (item.ready)
            owner.leave_ready(item);
    }
    (item.previous != nullptr ? item.previous->next : owner.items_) = item.next;
    if (item.next != nullptr)
        item.next->previous = item.previous;
    EpollItem** at = &item.file->epoll_items;
    while (*at != &item)
        at = &(*at)->next_of_file;
    *at = item.next_of_file;
    delete &item;
}

EpollFile::~EpollFile() {
    MutexGuard guard(epoll_mutex());
    while (items_ != nullptr)
        destroy(*items_);
}

void forget_epoll_items(File& file) {
    MutexGuard guard(epoll_mutex());
    while (file.epoll_items != nullptr)
        EpollFile::destroy(*file.epoll_items);
}

usize EpollFile::collect(std::span<Ready> out) {
    MutexGuard guard(epoll_mutex());
    usize count = 0;
    bool looked_at_all = false;
    // Each item that is on the list now is looked at once; level-triggered ones go back to its end.
    EpollItem* last = nullptr;
    {
        SpinGuard ready_guard(ready_lock_);
        last = last_ready_;
    }
    while (count < out.size()) {
        EpollItem* item = nullptr;
        {
            SpinGuard ready_guard(ready_lock_);
            item = first_ready_;
            if (item == nullptr)
                break;
            leave_ready(*item);
        }
        looked_at_all = item == last;
        const u32 events = look(*item);
        if (events != 0) {
            out[count++] = {events, item->data};
            if ((item->events & EPOLLONESHOT) != 0)
                item->events &= control_bits;
            else if ((item->events & EPOLLET) == 0)
                make_ready(*item);
        }
        if (looked_at_all)
            break;
    }
    // The others' wake-ups may have been this caller's alone.
    if (!looked_at_all && first_ready_ != nullptr)
        waiters_.wake_one(poll_in | poll_rdnorm);
    return count;
}

Result<usize> EpollFile::wait(std::span<Ready> out, u64 deadline_ns) {
    for (;;) {
        if (const usize count = collect(out); count > 0 || deadline_ns == 0)
            return count;
        const auto outcome = wait_until(
            waiters_, [&] { return first_ready_ != nullptr; }, deadline_ns,
            TaskState::Interruptible, true);
        if (outcome != WaitOutcome::Ready && first_ready_ != nullptr)
            waiters_.wake_one(poll_in | poll_rdnorm); // the wake-up may have been ours alone
        if (outcome == WaitOutcome::Interrupted)
            return fail(EINTR);
        if (outcome == WaitOutcome::TimedOut)
            return usize{0};
    }
}

u32 EpollFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(waiters_);
    if (first_ready_ == nullptr)
        return 0;
    MutexGuard guard(epoll_mutex());
    return poll_locked();
}

// An item on the list was ready once. Those that are not any more leave it, up to the first that
// is. The depth of epoll files in each other is bounded, and so is this recursion.
u32 EpollFile::poll_locked() {
    for (;;) {
        EpollItem* item = nullptr;
        {
            SpinGuard guard(ready_lock_);
            item = first_ready_;
            if (item == nullptr)
                return 0;
            leave_ready(*item);
        }
        if (look(*item) == 0)
            continue;
        SpinGuard guard(ready_lock_);
        if (!item->ready) { // else it was woken meanwhile
            item->ready = true;
            ready_count_ = ready_count_ + 1;
            item->next_ready = first_ready_;
            (first_ready_ != nullptr ? first_ready_->previous_ready : last_ready_) = item;
            first_ready_ = item;
        }
        return poll_in | poll_rdnorm;
    }
}

Result<Ref<File>> make_epoll_file() {
    epoll_mutex();
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    constexpr u32 read_write = 2;
    TRY(Ref<EpollFile> file, make_ref<EpollFile>(std::move(inode), read_write));
    return Ref<File>(std::move(file));
}

Result<Ref<File>> EpollFile::target(int fd, u32 index) {
    MutexGuard guard(epoll_mutex());
    for (EpollItem* item = items_; item != nullptr; item = item->next)
        if (item->fd == fd && index-- == 0 && item->file->try_add_ref())
            return Ref<File>::adopt(item->file);
    return fail(ENOENT);
}

Result<void> EpollFile::describe_state(String& out) {
    MutexGuard guard(epoll_mutex());
    for (const EpollItem* item = items_; item != nullptr; item = item->next) {
        const Inode* inode = item->file->inode();
        TRY(out.append("tfd: "));
        TRY(append_padded(out, static_cast<u32>(item->fd), 10, 8, ' '));
        TRY(out.append(" events: "));
        TRY(append_padded(out, item->events, 16, 8, ' '));
        TRY(out.append(" data: "));
        TRY(append_padded(out, item->data, 16, 16, ' '));
        TRY(append_line(out, "  pos:{} ino:{x} sdev:{x}\n", item->file->position(),
                        inode == nullptr ? u64{0} : inode->number(),
                        inode == nullptr || inode->superblock() == nullptr
                            ? u64{0}
                            : inode->superblock()->device_number));
    }
    guard.unlock();
    return {};
}

} // namespace kernel
