#include "guestkernel/ipc/inotify.hpp"

#include <linux/errno.h>
#include <linux/inotify.h>

#include "guestkernel/fs/fdinfo.hpp"
#include "guestkernel/fs/file_handle.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/ipc/inode_watches.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

namespace {

constexpr u32 max_watches = 1u << 20; // fs.inotify.max_user_watches, for all users together
constexpr u32 fionread = 0x541b;

constinit Mutex watches_mutex;
constinit u32 inotify_watches = 0; // in all
constinit base::IntrusiveList<InotifyWatch, &InotifyWatch::all_node> all_watches;

usize padded_name(std::string_view name) {
    if (name.empty())
        return 0;
    constexpr usize unit = sizeof(inotify_event);
    return (name.size() + 1 + unit - 1) / unit * unit;
}

bool same(InotifyFile::Event& event, i32 watch, u32 mask, std::string_view name) {
    return event.watch == watch && event.mask == mask && event.name_length == padded_name(name) &&
           std::string_view(event.name(), name.empty() ? 0 : name.size()) == name &&
           (name.empty() || event.name()[name.size()] == 0);
}

} // namespace

// Takes a watch off its lists. Requires: the mutex. What is left of it is the caller's to delete,
// without the mutex: its dentry may be the inode's last holder.
void end_watch(InotifyWatch& watch, bool tell) {
    if (tell)
        watch.owner->queue_event(watch.number, IN_IGNORED, 0, {});
    watch.owner->watch_count_--;
    watch.inode_node.unlink();
    watch.owner_node.unlink();
    watch.all_node.unlink();
    inotify_watches--;
    notify_watches.fetch_sub(1);
}

namespace {

// Watches that were ended, to be deleted when the mutex is no longer held.
class EndedWatches {
public:
    ~EndedWatches() {
        while (InotifyWatch* watch = list_.pop_front())
            delete watch;
    }
    void add(InotifyWatch& watch) { list_.push_back(watch); }

private:
    base::IntrusiveList<InotifyWatch, &InotifyWatch::owner_node> list_;
};

void tell_watches(Inode& inode, u32 mask, u32 cookie, std::string_view name, bool unlinked) {
    constexpr usize most_places = 16;
    Ref<Dentry> places[most_places]; // dropped after the mutex
    usize place_count = 0;
    EndedWatches ended;
    MutexGuard guard(watches_mutex);
    auto& list = inode.watches->inotify;
    for (InotifyWatch* watch = list.front(); watch != nullptr;) {
        InotifyWatch* following = list.next(*watch);
        const bool wanted =
            (mask & watch->mask & IN_ALL_EVENTS) != 0 && (mask & watch->mask & IN_EXCL_UNLINK) == 0;
        if (wanted)
            watch->owner->queue_event(watch->number, mask & ~u32{IN_EXCL_UNLINK}, cookie, name);
        if ((wanted && (watch->mask & IN_ONESHOT) != 0) || (mask & IN_DELETE_SELF) != 0) {
            end_watch(*watch, true);
            ended.add(*watch);
        } else if (unlinked && watch->place && place_count < most_places) {
            places[place_count++] = std::move(watch->place);
        }
        watch = following;
    }
}

void listen(Inode& inode, u32 mask, u32 cookie, std::string_view name) {
    if (inode.watches == nullptr)
        return;
    const bool unlinked = (mask & IN_ATTRIB) != 0 && name.empty() && is_unlinked(inode);
    tell_watches(inode, mask, cookie, name, unlinked);
}

} // namespace

void tell_inotify(const NotifyEvent& event) {
    const u32 mask = event.mask & (u32{IN_ALL_EVENTS} | IN_ISDIR | IN_EXCL_UNLINK);
    if ((mask & IN_ALL_EVENTS) == 0)
        return;
    if (event.directory != nullptr)
        listen(*event.directory, mask, event.cookie, event.name);
    if (event.object != nullptr && !event.entry)
        listen(*event.object, mask & ~u32{IN_EXCL_UNLINK}, event.cookie, {});
}

void end_inotify_watches(InodeWatches& watches) {
    EndedWatches ended;
    MutexGuard guard(watches_mutex);
    while (InotifyWatch* watch = watches.inotify.front()) {
        if ((watch->mask & IN_DELETE_SELF) != 0)
            watch->owner->queue_event(watch->number, IN_DELETE_SELF, 0, {});
        end_watch(*watch, true);
        ended.add(*watch);
    }
    guard.unlock();
}

void end_inotify_watches_of(const Superblock& superblock) {
    EndedWatches ended;
    MutexGuard guard(watches_mutex);
    for (InotifyWatch* watch = all_watches.front(); watch != nullptr;) {
        InotifyWatch* following = all_watches.next(*watch);
        if (watch->inode->superblock() == &superblock) {
            watch->owner->queue_event(watch->number, IN_UNMOUNT, 0, {});
            end_watch(*watch, true);
            ended.add(*watch);
        }
        watch = following;
    }
    guard.unlock();
}

InotifyFile::~InotifyFile() {
    {
        EndedWatches ended;
        MutexGuard guard(watches_mutex);
        while (InotifyWatch* watch = watches.front()) {
            end_watch(*watch, false);
            ended.add(*watch);
        }
        guard.unlock();
    }
    while (Event* event = first_) {
        first_ = event->next;
        kfree(event);
    }
}

Result<i32> InotifyFile::add_watch(const Path& path, u32 mask) {
    TRY(Owned<InotifyWatch> watch, make_owned<InotifyWatch>());
    Inode& inode = *path.dentry()->inode();
    TRY(InodeWatches * all, watches_of(inode));
    const u32 kept = mask & (u32{IN_ALL_EVENTS} | IN_ONESHOT | IN_EXCL_UNLINK);
    MutexGuard guard(watches_mutex);
    for (InotifyWatch& old : all->inotify) {
        if (old.owner != this)
            continue;
        if ((mask & IN_MASK_CREATE) != 0)
            return fail(EEXIST);
        old.mask = (mask & IN_MASK_ADD) != 0 ? old.mask | kept : kept;
        return old.number;
    }
    if (inotify_watches >= max_watches || last_number_ == 0x7fff'ffff)
        return fail(ENOSPC);
    watch->owner = this;
    watch->inode = &inode;
    watch->place = Ref<Dentry>::share(path.dentry());
    watch->number = ++last_number_;
    watch->mask = kept;
    watch_count_++;
    const i32 number = watch->number;
    all->inotify.push_back(*watch);
    all_watches.push_back(*watch);
    watches.push_back(*watch.leak());
    inotify_watches++;
    notify_watches.fetch_add(1);
    return number;
}

Result<void> InotifyFile::remove_watch(i32 number) {
    EndedWatches ended;
    MutexGuard guard(watches_mutex);
    for (InotifyWatch& watch : watches) {
        if (watch.number != number)
            continue;
        end_watch(watch, true);
        ended.add(watch);
        guard.unlock();
        return {};
    }
    return fail(EINVAL);
}

void InotifyFile::queue_event(i32 watch, u32 mask, u32 cookie, std::string_view name) {
    const usize padded = padded_name(name);
    auto* event = static_cast<Event*>(kmalloc(sizeof(Event) + padded));
    if (event != nullptr) {
        *event = {nullptr, watch, mask, cookie, static_cast<u32>(padded)};
        for (usize i = 0; i < padded; i++)
            event->name()[i] = i < name.size() ? name[i] : '\0';
    }
    {
        SpinGuard guard(lock_);
        if (last_ != nullptr && !overflowed_ && same(*last_, watch, mask, name)) {
            // inotify(7): identical to the newest unread event, so the two are one.
        } else if (event == nullptr || overflowed_ || queued_ >= max_queued) {
            overflowed_ = true;
        } else {
            if (last_ != nullptr)
                last_->next = event;
            else
                first_ = event;
            last_ = event;
            queued_++;
            bytes_ += sizeof(inotify_event) + padded;
            event = nullptr;
        }
    }
    kfree(event);
    waiters_.wake_all(poll_in | poll_rdnorm);
}

Result<usize> InotifyFile::read(IoBuffer& out, u64) {
    usize done = 0;
    for (;;) {
        Event* event = nullptr;
        bool overflow = false;
        {
            SpinGuard guard(lock_);
            event = first_;
            const usize needed =
                sizeof(inotify_event) + (event != nullptr ? event->name_length : 0);
            if ((event != nullptr || overflowed_) && out.remaining() < needed) {
                if (done > 0)
                    return done;
                return fail(EINVAL);
            }
            if (event != nullptr) {
                first_ = event->next;
                if (first_ == nullptr)
                    last_ = nullptr;
                queued_--;
                bytes_ -= needed;
            } else if (overflowed_) {
                overflow = true;
                overflowed_ = false;
            }
        }
        if (event == nullptr && !overflow) {
            if (done > 0)
                return done;
            if (non_blocking())
                return fail(EAGAIN);
            const auto ready = [&] { return first_ != nullptr || overflowed_; };
            if (wait_until(waiters_, ready) == WaitOutcome::Interrupted)
                return fail(restart_syscall);
            continue;
        }
        inotify_event header{};
        header.wd = overflow ? -1 : event->watch;
        header.mask = overflow ? IN_Q_OVERFLOW : event->mask;
        header.cookie = overflow ? 0 : event->cookie;
        header.len = overflow ? 0 : event->name_length;
        const usize bytes = sizeof header + header.len;
        usize copied = out.copy_out(&header, sizeof header);
        if (!overflow)
            copied += out.copy_out(event->name(), header.len);
        kfree(event);
        if (copied != bytes) {
            if (done > 0)
                return done;
            return fail(EFAULT);
        }
        done += bytes;
    }
}

u32 InotifyFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(waiters_);
    SpinGuard guard(lock_);
    return first_ != nullptr || overflowed_ ? poll_in | poll_rdnorm : 0;
}

Result<long> InotifyFile::ioctl(u32 command, u64 argument) {
    if (command != fionread)
        return fail(ENOTTY);
    int bytes = 0;
    {
        SpinGuard guard(lock_);
        bytes = static_cast<int>(bytes_ + (overflowed_ ? sizeof(inotify_event) : 0));
    }
    TRY(UserPtr<int>(argument).copy_out(bytes));
    return 0;
}

// Without the brackets of other anonymous files, as Linux has it.
bool InotifyFile::describe(String& out) {
    return out.append("anon_inode:inotify").has_value();
}

Result<void> InotifyFile::describe_state(String& out) {
    MutexGuard guard(watches_mutex);
    for (InotifyWatch& watch : watches) {
        const Inode& inode = *watch.inode;
        TRY(append_line(out, "inotify wd:{x} ino:{x} sdev:{x} mask:{x} ignored_mask:0 ",
                        static_cast<u32>(watch.number), inode.number(),
                        inode.superblock()->device_number, watch.mask));
        TRY(describe_file_handle(encode_file_handle(inode), out));
    }
    guard.unlock();
    return {};
}

Result<Ref<File>> make_inotify_file(u32 flags) {
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    TRY(Ref<InotifyFile> file, make_ref<InotifyFile>(std::move(inode), flags));
    return Ref<File>(std::move(file));
}

} // namespace kernel
