#include "guestkernel/net/tcp/tcp_stack.hpp"

#include "guestkernel/net/tcp/listener.hpp"

namespace kernel::tcp {

namespace {
constexpr u8 protocol_number = 6;
}

TcpStack::TcpStack(net::Stack& stack)
    : stack_(stack), time_wait_timer_(stack.clock, time_wait_due, this),
      release_timer_(stack.clock, release_due, this) {}

TcpStack& TcpStack::of(net::Stack& stack) {
    return static_cast<TcpStack&>(*stack.part(protocol_number));
}

TcpStack::~TcpStack() {
    (void)time_wait_timer_.cancel();
    (void)release_timer_.cancel();
}

// --- TIME-WAIT

void TcpStack::add_time_wait(TimeWait& entry) {
    Counters::count(counters.time_waits);
    SpinGuard guard(lock_);
    entry.add_ref();
    entry.deadline = now() + TimeWait::length;
    time_waits_.push_back(entry);
    time_wait_count_.fetch_add(1, base::Order::Relaxed);
    if (!time_wait_timer_.pending())
        time_wait_timer_.arm(entry.deadline);
}

void TcpStack::restart_time_wait(TimeWait& entry) {
    SpinGuard guard(lock_);
    if (!entry.age_node.linked())
        return;
    entry.deadline = now() + TimeWait::length;
    time_waits_.remove(entry);
    time_waits_.push_back(entry);
}

void TcpStack::end_time_wait(TimeWait& entry) {
    {
        SpinGuard guard(lock_);
        if (!entry.age_node.linked())
            return;
        time_waits_.remove(entry);
        time_wait_count_.fetch_sub(1, base::Order::Relaxed);
    }
    (void)Table::get().remove(entry);
    stack_.tcp_ports.unbind(entry);
    entry.release();
}

void TcpStack::time_wait_due(net::NetTimer&, void* self) {
    auto& tcp = *static_cast<TcpStack*>(self);
    const u64 time = tcp.now();
    for (;;) {
        Ref<TimeWait> due;
        {
            SpinGuard guard(tcp.lock_);
            TimeWait* first = tcp.time_waits_.front();
            if (first == nullptr)
                return;
            if (first->deadline > time) {
                tcp.time_wait_timer_.arm(first->deadline);
                return;
            }
            due = Ref<TimeWait>::share(first);
        }
        tcp.end_time_wait(*due);
    }
}

// --- objects that must not die where they are

void TcpStack::release_later(Entry& entry) {
    SpinGuard guard(lock_);
    entry.doomed_next = doomed_;
    doomed_ = &entry;
    if (!release_timer_.pending())
        release_timer_.arm(now());
}

void TcpStack::release_due(net::NetTimer&, void* self) {
    auto& tcp = *static_cast<TcpStack*>(self);
    for (;;) {
        Entry* entry = nullptr;
        {
            SpinGuard guard(tcp.lock_);
            entry = tcp.doomed_;
            if (entry == nullptr)
                return;
            tcp.doomed_ = entry->doomed_next;
            entry->doomed_next = nullptr;
        }
        entry->release();
    }
}

// The namespace is gone, and with it every program that had a socket: what is left waits for
// peers that cannot answer any more.
void TcpStack::shutdown() {
    struct Collected {
        net::Stack* stack;
        Vector<Ref<Entry>> entries;
    };
    for (bool more = true; more;) {
        Collected collected{&stack_, {}};
        Table::get().for_each(
            [](Entry& entry, void* context) {
                auto& into = *static_cast<Collected*>(context);
                if (entry.stack == into.stack && into.entries.size() < 64)
                    (void)into.entries.push_back(Ref<Entry>::share(&entry));
            },
            &collected);
        more = collected.entries.size() != 0;
        for (const Ref<Entry>& entry : collected.entries) {
            if (entry->kind == EntryKind::TimeWait) {
                end_time_wait(static_cast<TimeWait&>(*entry));
            } else if (entry->kind == EntryKind::Connection) {
                auto& connection = static_cast<Connection&>(*entry);
                SpinGuard guard(connection.lock);
                connection.abort(0);
            }
            (void)Table::get().remove(*entry);
        }
    }
    (void)time_wait_timer_.cancel();
    (void)release_timer_.cancel();
    release_due(release_timer_, this);
}

// --- fast open

bool TcpStack::fast_open_cookie(const net::IpAddress& server, FastOpenCookie& cookie, u16& mss) {
    SpinGuard guard(lock_);
    const CachedCookie& slot = cookies_[server.hash() % cookie_slots];
    if (!slot.valid || !(slot.server == server))
        return false;
    cookie = slot.cookie;
    mss = slot.mss;
    return true;
}

void TcpStack::keep_fast_open_cookie(const net::IpAddress& server, const FastOpenCookie& cookie,
                                     u16 mss) {
    SpinGuard guard(lock_);
    CachedCookie& slot = cookies_[server.hash() % cookie_slots];
    slot.server = server;
    slot.cookie = cookie;
    slot.mss = mss;
    slot.valid = cookie.length != 0;
}

bool TcpStack::may_challenge() {
    const u64 second = now() / nanoseconds_per_second;
    SpinGuard guard(lock_);
    if (second != challenge_second_) {
        // Half of it, and a random half more: the count of a neighbour's must not tell (RFC 5961
        // as CVE-2016-5696 broke it).
        challenge_second_ = second;
        challenges_ = 0;
        challenge_budget_ =
            settings.challenge_limit / 2 + static_cast<u32>(hash_mix(stack_.secret() ^ second) %
                                                            (settings.challenge_limit / 2 + 1));
    }
    return challenges_++ < challenge_budget_;
}

} // namespace kernel::tcp
