// Ports, groups and queues.
#include "guestkernel/net/netlink/endpoint.hpp"

#include <linux/errno.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/ipc/poll_events.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u32 readable_events = poll_in | poll_rdnorm;
constexpr usize most_protocols = 32; // MAX_LINKS of Linux
constinit const Protocol* protocols[most_protocols] = {};

} // namespace

// All endpoints of all network namespaces, in the order they were made.
class EndpointTable {
public:
    void add(Endpoint& endpoint) {
        SpinGuard guard(lock_);
        endpoint.serial_ = ++last_serial_;
        endpoint.listed_ = true;
        all_.push_back(endpoint);
    }
    void remove(Endpoint& endpoint) {
        SpinGuard guard(lock_);
        if (!endpoint.listed_)
            return;
        endpoint.listed_ = false;
        all_.remove(endpoint);
    }
    // Holds up to `capacity` that match and were made after `after`, which moves on.
    template <typename Match>
    usize hold(u64& after, Ref<Endpoint>* out, usize capacity, Match&& match) {
        SpinGuard guard(lock_);
        usize count = 0;
        for (Endpoint& endpoint : all_) {
            if (endpoint.serial_ <= after || !match(endpoint))
                continue;
            if (!endpoint.try_add_ref())
                continue;
            out[count++] = Ref<Endpoint>::adopt(&endpoint);
            after = endpoint.serial_;
            if (count == capacity)
                break;
        }
        return count;
    }
    template <typename Match>
    bool any(Match&& match) {
        SpinGuard guard(lock_);
        for (Endpoint& endpoint : all_)
            if (match(endpoint))
                return true;
        return false;
    }
    // Gives it the port, unless another one of its kind has it.
    bool claim(Endpoint& endpoint, u32 port) {
        SpinGuard guard(lock_);
        for (const Endpoint& other : all_)
            if (other.bound() && other.port() == port && &other.stack() == &endpoint.stack() &&
                &other.protocol() == &endpoint.protocol())
                return false;
        endpoint.port_.store(port, base::Order::Release);
        endpoint.bound_.store(true, base::Order::Release);
        return true;
    }

private:
    SpinLock lock_{LockRank::NetTable};
    base::IntrusiveList<Endpoint, &Endpoint::node_> all_;
    u64 last_serial_ = 0;
};

namespace {
constinit EndpointTable table;
} // namespace

void register_protocol(const Protocol& protocol) {
    protocols[protocol.number] = &protocol;
}
const Protocol* find_protocol(int number) {
    return number < 0 || static_cast<usize>(number) >= most_protocols ? nullptr : protocols[number];
}

// --- messages in queues

u8* QueuedMessage::data() {
    return static_cast<u8*>(static_cast<void*>(this + 1));
}

QueuedMessage* make_message(std::span<const u8> bytes, u32 port, u32 group,
                            SocketCredentials credentials) {
    void* memory = ::operator new(sizeof(QueuedMessage) + bytes.size(), std::nothrow);
    if (memory == nullptr)
        return nullptr;
    auto* message = ::new (memory) QueuedMessage;
    message->bytes = static_cast<u32>(bytes.size());
    message->port = port;
    message->group = group;
    message->credentials = credentials;
    __builtin_memcpy(message->data(), bytes.data(), bytes.size());
    return message;
}

void destroy_message(QueuedMessage* message) {
    message->~QueuedMessage();
    ::operator delete(static_cast<void*>(message));
}

// --- an endpoint's port and groups

Endpoint::Endpoint(Ref<Stack> stack, const Protocol& protocol)
    : stack_(std::move(stack)), protocol_(protocol) {
    table.add(*this);
    stack_->other_sockets.fetch_add(1);
}

Endpoint::~Endpoint() {
    stack_->other_sockets.fetch_sub(1);
    table.remove(*this);
    while (QueuedMessage* message = head_) {
        head_ = message->next;
        destroy_message(message);
    }
}

Result<void> Endpoint::bind_port(u32 wanted) {
    if (bound())
        return wanted == port() ? Result<void>() : Result<void>(fail(EINVAL));
    if (!table.claim(*this, wanted))
        return fail(EADDRINUSE);
    return {};
}

Result<void> Endpoint::autobind(u32 wanted) {
    constexpr int tries = 1000;
    for (int i = 0; i < tries && !bound(); i++) {
        if (table.claim(*this, wanted))
            return {};
        // Numbers that no process has: negative ones below -4096, as on Linux.
        wanted = 0x8000'0000u + static_cast<u32>(random_u64() % 0x7fff'f000u);
    }
    return bound() ? Result<void>() : Result<void>(fail(EADDRINUSE));
}

Result<void> Endpoint::join(u32 group) {
    if (group == 0 || group > protocol_.groups || group >= most_groups)
        return fail(EINVAL);
    if (protocol_.join != nullptr)
        TRY(protocol_.join(*this, group));
    groups_[group / 64].fetch_or(u64{1} << group % 64);
    joined_once = true;
    return {};
}

void Endpoint::leave(u32 group) {
    if (group < most_groups)
        groups_[group / 64].fetch_and(~(u64{1} << group % 64));
}

bool Endpoint::member_of(u32 group) const {
    return group < most_groups &&
           (groups_[group / 64].load(base::Order::Relaxed) >> group % 64 & 1) != 0;
}

u32 Endpoint::first_groups() const {
    // Group 1 is bit 0.
    return static_cast<u32>(groups_[0].load(base::Order::Relaxed) >> 1);
}

void Endpoint::close() {
    table.remove(*this);
    if (protocol_.released != nullptr)
        protocol_.released(*this);
    QueuedMessage* waiting = nullptr;
    {
        SpinGuard guard(lock_);
        closed_ = true;
        waiting = head_;
        head_ = tail_ = nullptr;
        queued_bytes_ = 0;
        congested_ = false; // whoever waits for room finds it closed
    }
    while (waiting != nullptr) {
        QueuedMessage* next = waiting->next;
        destroy_message(waiting);
        waiting = next;
    }
    room_waiters.wake_all();
    MutexGuard guard(dump_mutex_);
    dump_ = Dump();
    dumping_.store(false);
}

// --- the queue

Endpoint::Push Endpoint::push(QueuedMessage* message) {
    {
        SpinGuard guard(lock_);
        if (closed_)
            return Push::Closed;
        // As in Linux, a message that begins below the limit still fits.
        if (!has_room())
            return Push::Full;
        message->next = nullptr;
        if (tail_ == nullptr)
            head_ = message;
        else
            tail_->next = message;
        tail_ = message;
        queued_bytes_ = queued_bytes_ + message->charge();
    }
    read_waiters.wake_all(readable_events);
    return Push::Done;
}

void Endpoint::overrun() {
    drops.fetch_add(1);
    if (no_enobufs)
        return;
    bool first = false;
    {
        SpinGuard guard(lock_);
        first = !congested_ && !closed_;
        // The reader may have taken all of it meanwhile (and of what there was no memory for
        // nothing was there): then nobody would end it.
        congested_ = congested_ || (first && head_ != nullptr);
    }
    if (first)
        set_error(ENOBUFS);
}

void Endpoint::set_error(int number) {
    error.store(number);
    read_waiters.wake_all(readable_events | poll_err);
}

QueuedMessage* Endpoint::take() {
    QueuedMessage* first = nullptr;
    {
        SpinGuard guard(lock_);
        first = head_;
        if (first == nullptr)
            return nullptr;
        head_ = first->next;
        if (head_ == nullptr) {
            tail_ = nullptr;
            congested_ = false;
        }
        queued_bytes_ = queued_bytes_ - first->charge();
    }
    if (room_waiters.has_waiters() && has_room())
        room_waiters.wake_all();
    return first;
}

QueuedMessage* Endpoint::peek(usize bytes) {
    // Made before the lock: how large it has to be is known from the first look.
    for (;;) {
        const u32 whole = next_length();
        void* memory = ::operator new(sizeof(QueuedMessage) + whole, std::nothrow);
        if (memory == nullptr)
            return nullptr;
        auto* copy = ::new (memory) QueuedMessage;
        SpinGuard guard(lock_);
        const QueuedMessage* first = head_;
        if (first != nullptr && first->bytes <= whole) {
            copy->bytes = first->bytes;
            copy->port = first->port;
            copy->group = first->group;
            copy->credentials = first->credentials;
            const usize wanted = bytes < first->bytes ? bytes : first->bytes;
            __builtin_memcpy(copy->data(), const_cast<QueuedMessage*>(first)->data(), wanted);
            return copy;
        }
        const bool nothing = first == nullptr;
        guard.unlock();
        destroy_message(copy);
        if (nothing)
            return nullptr;
    }
}

u32 Endpoint::next_length() {
    SpinGuard guard(lock_);
    return head_ == nullptr ? 0 : head_->bytes;
}

// --- sending to others

namespace {

auto members(Stack& stack, int protocol, u32 group) {
    return [&stack, protocol, group](const Endpoint& endpoint) {
        return endpoint.member_of(group) && &endpoint.stack() == &stack &&
               endpoint.protocol().number == protocol;
    };
}

// To all that match, in the order they were made.
template <typename Match>
void send_to_all(Match&& match, u32 group, std::span<const u8> messages, u32 from_port,
                 SocketCredentials credentials) {
    constexpr usize at_once = 16;
    u64 after = 0;
    for (;;) {
        Ref<Endpoint> found[at_once];
        const usize count = table.hold(after, found, at_once, match);
        for (usize i = 0; i < count; i++) {
            QueuedMessage* message = make_message(messages, from_port, group, credentials);
            const auto pushed = message == nullptr ? Endpoint::Push::Full : found[i]->push(message);
            if (pushed == Endpoint::Push::Done)
                continue;
            if (message != nullptr)
                destroy_message(message);
            if (pushed == Endpoint::Push::Full)
                found[i]->overrun();
        }
        if (count < at_once)
            return;
    }
}

} // namespace

bool anybody_listens(Stack& stack, int protocol, u32 group) {
    return table.any(members(stack, protocol, group));
}

void broadcast_from(Stack& stack, int protocol, u32 group, std::span<const u8> messages,
                    u32 from_port, u32 except, SocketCredentials credentials) {
    const auto member = members(stack, protocol, group);
    send_to_all(
        [&](const Endpoint& endpoint) {
            return member(endpoint) && (except == 0 || endpoint.port() != except);
        },
        group, messages, from_port, credentials);
}

void broadcast_if(Stack& stack, int protocol, u32 group, std::span<const u8> messages,
                  bool (*wants)(const Endpoint& endpoint, const void* context),
                  const void* context) {
    const auto member = members(stack, protocol, group);
    send_to_all(
        [&](const Endpoint& endpoint) { return member(endpoint) && wants(endpoint, context); },
        group, messages, 0, {0, 0, 0});
}

void broadcast(Stack& stack, int protocol, u32 group, std::span<const u8> messages, u32 except) {
    broadcast_from(stack, protocol, group, messages, 0, except, {0, 0, 0});
}

Ref<Endpoint> find_endpoint(Stack& stack, int protocol, u32 port) {
    u64 after = 0;
    Ref<Endpoint> found;
    (void)table.hold(after, &found, 1, [&](const Endpoint& endpoint) {
        return endpoint.bound() && endpoint.port() == port && &endpoint.stack() == &stack &&
               endpoint.protocol().number == protocol;
    });
    return found;
}

Ref<Endpoint> next_endpoint(Stack& stack, u64& after) {
    Ref<Endpoint> found;
    (void)table.hold(after, &found, 1, [&](const Endpoint& endpoint) {
        return endpoint.bound() && &endpoint.stack() == &stack;
    });
    return found;
}

Result<void> unicast(Stack& stack, int protocol, u32 port, std::span<const u8> messages) {
    const Ref<Endpoint> to = find_endpoint(stack, protocol, port);
    if (!to)
        return fail(ECONNREFUSED);
    QueuedMessage* message = make_message(messages, 0, 0);
    const auto pushed = message == nullptr ? Endpoint::Push::Full : to->push(message);
    if (pushed == Endpoint::Push::Done)
        return {};
    if (message != nullptr)
        destroy_message(message);
    if (pushed == Endpoint::Push::Closed)
        return fail(ECONNREFUSED);
    to->overrun();
    return fail(EAGAIN);
}

} // namespace kernel::net::netlink
