#include "guestkernel/ipc/socket_rights.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/resource.h>

#include "guestkernel/ipc/unix_socket.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

// All messages of the system together: each file in flight pins memory that no descriptor shows.
constexpr u32 most_in_flight = 65536;
// Of one user without privileges, whatever its RLIMIT_NOFILE: the others pass files, too.
constexpr u64 most_of_one_user = most_in_flight / 2;

// Guards what is in flight: the count, the list, and each socket's own count and marks. Outside of
// unix_lock().
constinit SpinLock rights_lock{LockRank::Epoll};
constinit u32 files_in_flight = 0;
constinit base::IntrusiveList<UnixSocketFile, &UnixSocketFile::in_flight_node> sockets_in_flight;
constinit bool collecting = false;
// When so many are in flight, a sender looks for cycles: those of sockets that were closed while
// they were in each other's queues end no socket, which would have looked.
constexpr u32 few_in_flight = 2048;
constinit u32 next_collection = few_in_flight;

UnixSocketFile* unix_socket(File& file) {
    auto* socket = file_as<SocketFile>(file);
    return socket != nullptr && socket->family() == family_unix
               ? static_cast<UnixSocketFile*>(socket)
               : nullptr;
}

// Whose the files are. A worker of io_uring has its user's credentials, but counts against nobody.
Result<Ref<UserAccount>> senders_account() {
    const Task& task = current_task();
    if (task.account || !task.credentials)
        return Ref<UserAccount>(task.account);
    return user_account(task.credentials->uid);
}

// As Linux counts them: each user has as many beside its open files (unix(7), ETOOMANYREFS).
bool has_too_many(const Ref<UserAccount>& account) {
    if (!account)
        return false; // the kernel, or a unit test
    const u64 own = current_limit(RLIMIT_NOFILE);
    const u64 limit = own < most_of_one_user ? own : most_of_one_user;
    return account->files_in_flight.load() > limit && !capable(CAP_SYS_RESOURCE) &&
           !capable(CAP_SYS_ADMIN);
}

} // namespace

// The tasks that are closing the files of messages just now.
struct RightsDrain {
    Task* task = nullptr;
    FileRights* waiting = nullptr;
    RightsDrain* next = nullptr;

    static constinit SpinLock lock;
    static constinit RightsDrain* all;

    static RightsDrain* of_current_locked() {
        RightsDrain* drain = all;
        while (drain != nullptr && drain->task != &current_task())
            drain = drain->next;
        return drain;
    }
    void push(FileRights* rights) {
        rights->next_ = waiting;
        waiting = rights;
    }
    FileRights* pop() {
        FileRights* rights = waiting;
        if (rights != nullptr)
            waiting = rights->next_;
        return rights;
    }
    void leave() {
        SpinGuard guard(lock);
        RightsDrain** at = &all;
        while (*at != this)
            at = &(*at)->next;
        *at = next;
    }
};
constinit SpinLock RightsDrain::lock{LockRank::Leaf};
constinit RightsDrain* RightsDrain::all = nullptr;

void discard_rights(Owned<FileRights> rights) {
    RightsDrain own;
    {
        SpinGuard guard(RightsDrain::lock);
        if (RightsDrain* outer = RightsDrain::of_current_locked()) {
            outer->push(rights.leak()); // further up on this stack
            return;
        }
        own.task = &current_task();
        own.next = RightsDrain::all;
        RightsDrain::all = &own;
    }
    own.push(rights.leak());
    while (FileRights* next = own.pop())
        delete next;
    own.leave();
}

FileRights::FileRights() = default;

FileRights::~FileRights() {
    arrive();
}

Result<Owned<FileRights>> FileRights::clone() const {
    TRY(Owned<FileRights> copy, make_owned<FileRights>());
    TRY(copy->files_.append(files_.span()));
    // A collection that counted references before these were taken may go on for as long as it
    // likes, but not past the caller: with descriptors for what it peeked at and without the socket
    // in whose queue that lies, it would use queues that are taken apart.
    SpinGuard guard(rights_lock);
    guard.unlock();
    return copy;
}

Result<void> FileRights::depart() {
    TRY(account_, senders_account());
    if (has_too_many(account_)) {
        collect_unix_cycles(); // some of it may be garbage
        if (has_too_many(account_))
            return fail(ETOOMANYREFS);
    }
    {
        SpinGuard guard(rights_lock);
        if (files_in_flight + files_.size() < next_collection)
            return depart_locked();
    }
    collect_unix_cycles();
    SpinGuard guard(rights_lock);
    // Twice as many as live now: the cost stays in proportion to the messages.
    next_collection = 2 * files_in_flight > few_in_flight ? 2 * files_in_flight : few_in_flight;
    if (next_collection > most_in_flight)
        next_collection = most_in_flight;
    return depart_locked();
}

Result<void> FileRights::depart_locked() {
    if (files_in_flight + files_.size() > most_in_flight)
        return fail(ETOOMANYREFS);
    files_in_flight += static_cast<u32>(files_.size());
    in_flight_ = true;
    if (account_)
        account_->files_in_flight.fetch_add(static_cast<u32>(files_.size()));
    for (Ref<File>& file : files_)
        if (UnixSocketFile* socket = unix_socket(*file); socket && socket->in_flight++ == 0)
            sockets_in_flight.push_front(*socket);
    return {};
}

void FileRights::arrive() {
    if (!in_flight_)
        return;
    const Ref<UserAccount> account = std::move(account_); // let go of without the lock
    if (account)
        account->files_in_flight.fetch_sub(static_cast<u32>(files_.size()));
    SpinGuard guard(rights_lock);
    in_flight_ = false;
    files_in_flight -= static_cast<u32>(files_.size());
    for (Ref<File>& file : files_)
        if (UnixSocketFile* socket = unix_socket(*file); socket && --socket->in_flight == 0)
            sockets_in_flight.remove(*socket);
}

namespace {

// Calls for the segments that carry files, in the queue of an endpoint and in those of connections
// that wait for it to accept them.
template <typename F>
void for_each_carrier(UnixEndpoint& endpoint, F&& function) {
    const auto in_queue = [&](UnixEndpoint& of) {
        SpinGuard guard(of.lock);
        for (UnixSegment* segment = of.head; segment != nullptr; segment = segment->next)
            if (segment->rights != nullptr)
                function(*segment);
    };
    SpinGuard guard(unix_lock());
    in_queue(endpoint);
    for (UnixEndpoint* waiting = endpoint.first_pending; waiting != nullptr;
         waiting = waiting->next_pending)
        in_queue(*waiting);
}

template <typename F>
void for_each_socket_in(UnixSocketFile& socket, F&& function) {
    for_each_carrier(socket.endpoint(), [&](UnixSegment& segment) {
        for (Ref<File>& file : segment.rights->files())
            if (UnixSocketFile* child = unix_socket(*file))
                function(*child);
    });
}

// Leaves `suspected` only those that nothing but each other's queues refer to. A suspect is a
// socket all of whose references are in messages; suspects' queues explain references; what stays
// unexplained is reachable from outside, with everything in its queues, and so on. Messages that
// move meanwhile are of reachable sockets: they can only make fewer suspects (depart() and
// arrive(), which count, wait for the lock, and so does clone(), which takes references out).
void find_cycles_locked() {
    for (UnixSocketFile& s : sockets_in_flight) {
        s.suspected = s.ref_count() == s.in_flight;
        s.unexplained = s.in_flight;
    }
    for (UnixSocketFile& s : sockets_in_flight)
        if (s.suspected)
            for_each_socket_in(s, [](UnixSocketFile& child) { child.unexplained--; });
    UnixSocketFile* to_scan = nullptr;
    const auto clear = [&](UnixSocketFile& s) {
        s.suspected = false;
        s.next_to_scan = to_scan;
        to_scan = &s;
    };
    for (UnixSocketFile& s : sockets_in_flight)
        if (s.suspected && s.unexplained > 0)
            clear(s);
    while (UnixSocketFile* s = to_scan) {
        to_scan = s->next_to_scan;
        for_each_socket_in(*s, [&](UnixSocketFile& child) {
            if (child.suspected)
                clear(child);
        });
    }
}

} // namespace

void collect_unix_cycles() {
    // All that is found at once: a round goes through everything that is in flight, and there may
    // be as many cycles as that. Closing the files may make the next round's.
    for (;;) {
        RightsDrain found;
        {
            SpinGuard guard(rights_lock);
            if (sockets_in_flight.empty() || collecting)
                return;
            find_cycles_locked();
            for (UnixSocketFile& s : sockets_in_flight)
                if (s.suspected)
                    for_each_carrier(s.endpoint(), [&](UnixSegment& segment) {
                        found.push(std::exchange(segment.rights, nullptr));
                    });
            if (found.waiting == nullptr)
                return;
            collecting = true;
        }
        while (FileRights* rights = found.pop()) {
            rights->arrive();
            discard_rights(Owned<FileRights>(rights));
        }
        SpinGuard guard(rights_lock);
        collecting = false;
    }
}

} // namespace kernel
