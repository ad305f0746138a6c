// A stack's life, and its interfaces.
#include "guestkernel/net/stack.hpp"

#include <linux/errno.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/loopback.hpp"
#include "guestkernel/net/ndp.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/packet_tap.hpp"
#include "guestkernel/net/raw.hpp"
#include "guestkernel/net/reassembly.hpp"
#include "guestkernel/net/route.hpp"

namespace kernel::net {

namespace {

constexpr usize most_protocols = 8;
constinit const TransportProtocol* protocols[256] = {};
constinit base::Atomic<ChangeListener> listener{nullptr};

} // namespace

void register_transport(const TransportProtocol& protocol) {
    protocols[protocol.number] = &protocol;
}
const TransportProtocol* find_transport(u8 number) {
    return protocols[number];
}

void set_change_listener(ChangeListener wanted) {
    listener.store(wanted, base::Order::Release);
}
void notify_change(Stack& stack, const Change& change) {
    switch (change.kind) {
    case ChangeKind::InterfaceChanged:
    case ChangeKind::NeighbourChanged:
    case ChangeKind::NeighbourRemoved:
        break;
    default:
        stack.change_sequence.fetch_add(1);
    }
    if (const ChangeListener told = listener.load(base::Order::Acquire))
        told(stack, change);
    if (change.kind != ChangeKind::InterfaceChanged)
        return;
    Ref<Interface> master;
    {
        SpinGuard guard(stack.lock);
        master = Ref<Interface>::share(change.interface->master);
    }
    if (master)
        master->port_changed();
}

Stack::Stack(const StackClock& stack_clock, UserNamespace* owner)
    : clock(stack_clock), owner_(Ref<UserNamespace>::share(owner)) {}

Stack::~Stack() {
    delete filter.load();
}

Result<Ref<Stack>> Stack::make(const StackClock& clock, UserNamespace* owner) {
    Stack* raw = new (std::nothrow) Stack(clock, owner);
    if (raw == nullptr)
        return fail(enomem);
    Ref<Stack> made = Ref<Stack>::adopt(raw);
    if (auto done = made->init(); !done) {
        made->shutdown(); // the loopback interface and the stack keep each other
        return fail(done.error().code);
    }
    return made;
}

Result<void> Stack::init() {
    random_bytes(&secret_, sizeof secret_);
    ip_id_.store(static_cast<u32>(random_u64()));
    TRY(counters.init());
    TRY(udp_ports.init());
    TRY(tcp_ports.init());
    TRY(routes_, make_owned<RouteTables>());
    TRY(routes_->init());
    TRY(neighbours_, make_owned<NeighbourTable>(*this));
    TRY(reassembly_, make_owned<Reassembly>(*this));
    TRY(path_mtus_, make_owned<PathMtuCache>());
    TRY(raw_, make_owned<RawTable>());
    TRY(taps_, make_owned<PacketTaps>());
    TRY(address_timer_, make_owned<AddressTimer>(*this));
    usize used = 0;
    for (const TransportProtocol* protocol : protocols) {
        if (protocol == nullptr || protocol->make_part == nullptr)
            continue;
        ASSERT(used < most_protocols);
        TRY(parts_[used].part, protocol->make_part(*this));
        parts_[used++].number = protocol->number;
    }
    TRY(Ref<LoopbackInterface> loopback, make_ref<LoopbackInterface>());
    loopback->flags_.store(iff_loopback | iff_lower_up | iff_running);
    loopback_ = loopback;
    return attach(std::move(loopback));
}

void Stack::shutdown() {
    // An interface that came after the last one went would keep the stack, and the stack it.
    {
        SpinGuard guard(lock);
        shut_down_ = true;
    }
    for (ProtocolPart& part : parts_)
        if (part.part)
            part.part->shutdown();
    while (Ref<Interface> last = next_interface(0))
        detach(*last);
}

StackPart* Stack::part(u8 protocol) {
    for (ProtocolPart& part : parts_)
        if (part.part && part.number == protocol)
            return part.part.get();
    return nullptr;
}

bool Stack::run_hook_slow(PacketHook hook, const HookContext& context, PacketPtr& packet) {
    switch (hook(*this, context, packet)) {
    case HookVerdict::Accept:
        return true;
    case HookVerdict::Drop:
        packet = {};
        return false;
    case HookVerdict::Stolen:
        return false;
    }
    return false;
}

bool Stack::may_send_icmp(const IpAddress& to, bool limited_type) {
    SpinGuard guard(icmp_lock_);
    // Under the lock: a time before the last one's would fill the bucket.
    const u64 time = now();
    const auto take = [time](IcmpBucket& bucket, u64 per_token_ns, u32 most) {
        const u64 fresh = per_token_ns == 0 ? most : (time - bucket.filled_at) / per_token_ns;
        if (fresh > 0) {
            bucket.tokens =
                fresh + bucket.tokens > most ? most : bucket.tokens + static_cast<u32>(fresh);
            bucket.filled_at = time;
        }
        if (bucket.tokens == 0)
            return false;
        bucket.tokens--;
        return true;
    };
    if (!limited_type)
        return true;
    const u32 rate = settings.icmp_messages_per_second;
    if (!take(icmp_global_, rate == 0 ? no_deadline : nanoseconds_per_second / rate,
              settings.icmp_burst))
        return false;
    const u64 key = to.hash(secret_);
    IcmpBucket& bucket = icmp_by_destination_[key % icmp_buckets];
    constexpr u32 burst = 6;
    if (bucket.key != key)
        bucket = {key, time, burst};
    return take(bucket, u64{settings.icmp_rate_limit_ms} * 1'000'000, burst);
}

// --- interfaces

namespace {

bool valid_name(std::string_view name) {
    if (name.empty() || name.size() >= Interface::name_bytes || name == "." || name == "..")
        return false;
    for (const char c : name)
        if (c == '/' || c == ':' || c == ' ' || (c >= '\t' && c <= '\r'))
            return false;
    return true;
}

} // namespace

Result<void> Stack::attach(Ref<Interface> interface, u32 wanted_index) {
    {
        SpinGuard guard(lock);
        if (shut_down_)
            return fail(ENODEV);
        std::string_view name = interface->name();
        char numbered[Interface::name_bytes];
        const auto taken = [&](std::string_view wanted) {
            for (const Ref<Interface>& other : interfaces_)
                if (other->name() == wanted)
                    return true;
            return false;
        };
        if (name.size() > 2 && name.substr(name.size() - 2) == "%d") {
            const std::string_view stem = name.substr(0, name.size() - 2);
            for (u32 number = 0;; number++) {
                const usize bytes = log::format(numbered, sizeof numbered, "{}{}", stem, number);
                name = std::string_view(numbered, bytes);
                if (!taken(name))
                    break;
            }
        }
        if (!valid_name(name))
            return fail(EINVAL);
        if (taken(name))
            return fail(EEXIST);
        u32 index = wanted_index != 0 ? wanted_index : last_index_ + 1;
        usize at = 0;
        while (at < interfaces_.size() && interfaces_[at]->index() < index)
            at++;
        if (at < interfaces_.size() && interfaces_[at]->index() == index)
            return fail(EEXIST);
        const Interface::Settings fresh = settings.default_interface;
        if (!interface->is_loopback())
            interface->settings = fresh;
        TRY(interfaces_.insert(at, interface));
        interface->set_name(name);
        interface->index_ = index;
        interface->taps.store(taps_of_all.load());
        if (index > last_index_)
            last_index_ = index;
        SpinGuard inner(interface->stack_lock_);
        interface->stack_ = Ref<Stack>::share(this);
    }
    Change change{ChangeKind::InterfaceAdded};
    change.interface = interface.get();
    notify_change(*this, change);
    return {};
}

// Without its addresses and what hangs on them.
void Stack::take_out(Interface& gone, bool for_good) {
    (void)set_flags(gone, 0, iff_up);
    while (true) {
        InterfaceAddress address;
        {
            SpinGuard guard(lock);
            if (gone.addresses.empty())
                break;
            address = gone.addresses.back();
        }
        (void)remove_address(gone, address.address, address.prefix_length);
    }
    neighbours_->flush(gone, true);
    Ref<Stack> self;
    {
        SpinGuard guard(lock);
        bool found = false;
        for (usize i = 0; i < interfaces_.size() && !found; i++)
            if (interfaces_[i].get() == &gone) {
                interfaces_.erase(i);
                found = true;
            }
        if (!found) // somebody else was faster
            return;
        SpinGuard inner(gone.stack_lock_);
        self = std::move(gone.stack_);
    }
    leave_master(gone);
    taps_->interface_gone(gone.index());
    routes_changed();
    Change change{ChangeKind::InterfaceRemoved};
    change.interface = &gone;
    notify_change(*this, change);
    if (for_good)
        gone.detached();
}

// From here on no master takes it: it is in no stack.
void Stack::leave_master(Interface& gone) {
    Ref<Interface> master;
    {
        SpinGuard guard(lock);
        master = Ref<Interface>::share(gone.master);
    }
    if (master)
        master->port_gone(*this, gone);
}

void Stack::detach(Interface& gone) {
    const Ref<Interface> keep = Ref<Interface>::share(&gone);
    take_out(gone, true);
}

Result<void> Stack::move(Interface& interface, Stack& to, std::string_view name, u32 index) {
    if (!interface.movable())
        return fail(EINVAL);
    const Ref<Interface> keep = Ref<Interface>::share(&interface);
    if (name.empty())
        name = interface.name();
    if (to.interface(name))
        return fail(EEXIST);
    const bool wanted = index != 0;
    if (!wanted && !to.interface(interface.index()))
        index = interface.index();
    if (wanted && to.interface(index))
        return fail(EBUSY);
    char own_name[Interface::name_bytes] = {};
    const usize bytes = name.size() < sizeof own_name ? name.size() : 0;
    __builtin_memcpy(own_name, name.data(), bytes);
    take_out(interface, false);
    const u32 old_index = interface.index();
    char old_name[Interface::name_bytes] = {};
    __builtin_memcpy(old_name, interface.name().data(), interface.name().size());
    interface.set_name(std::string_view(own_name, bytes));
    auto attached = to.attach(keep, index);
    if (!attached) { // somebody was faster there, or memory ran out: back where it was
        interface.set_name(old_name);
        if (!attach(keep, old_index))
            interface.detached();
    }
    return attached;
}

Ref<Interface> Stack::interface(u32 index) {
    SpinGuard guard(lock);
    for (const Ref<Interface>& known : interfaces_)
        if (known->index() == index)
            return known;
    return {};
}

Ref<Interface> Stack::interface(std::string_view name) {
    SpinGuard guard(lock);
    for (const Ref<Interface>& known : interfaces_)
        if (known->name() == name)
            return known;
    return {};
}

Ref<Interface> Stack::next_interface(u32 after_index) {
    SpinGuard guard(lock);
    for (const Ref<Interface>& known : interfaces_)
        if (known->index() > after_index)
            return known;
    return {};
}

namespace {

void tell_changed(Stack& stack, Interface& interface, u32 flags_changed = 0) {
    Change change{ChangeKind::InterfaceChanged};
    change.interface = &interface;
    change.flags_changed = flags_changed;
    notify_change(stack, change);
}

} // namespace

void Stack::bring_up(Interface& interface) {
    for (usize i = 0;; i++) {
        InterfaceAddress address;
        {
            SpinGuard guard(lock);
            if (i >= interface.addresses.size())
                break;
            address = interface.addresses[i];
        }
        if (address.address.is_v4())
            (void)add_address_routes(*this, interface, address);
    }
    // Linux gives a loopback interface its address when it comes up without one.
    if (interface.is_loopback()) {
        InterfaceAddress own;
        own.address = own.peer = IpAddress::loopback(false);
        own.broadcast = IpAddress::v4_any();
        own.prefix_length = 8;
        own.scope = scope_host;
        own.flags = 0x80; // IFA_F_PERMANENT
        __builtin_memcpy(own.label, "lo", 3);
        (void)add_address(interface, own); // EEXIST: it has it
    }
    ipv6_interface_up(*this, interface);
}

void Stack::bring_down(Interface& interface) {
    ipv6_interface_down(*this, interface);
    for (;;) {
        Owned<Route> gone;
        {
            SpinGuard guard(lock);
            gone = routes_->remove_of(interface);
        }
        if (!gone)
            break;
        Change change{ChangeKind::RouteRemoved};
        change.route = gone.get();
        notify_change(*this, change);
    }
    neighbours_->flush(interface, true);
}

Result<void> Stack::set_flags(Interface& interface, u32 flags, u32 mask) {
    constexpr u32 settable =
        iff_up | iff_promiscuous | iff_all_multicast | iff_no_arp | iff_multicast;
    mask &= settable;
    const u32 before = interface.flags();
    const u32 wanted = (before & ~mask) | (flags & mask);
    if (wanted == before)
        return {};
    if ((wanted & ~before & iff_up) != 0) {
        TRY(interface.open());
        interface.flags_.fetch_or(iff_up);
        bring_up(interface);
    } else if ((before & ~wanted & iff_up) != 0) {
        bring_down(interface);
        interface.flags_.fetch_and(~u32{iff_up});
        interface.close();
        taps_->interface_down(interface.index());
    }
    const u32 others = mask & ~u32{iff_up};
    interface.flags_.fetch_and(~(others & ~flags));
    interface.flags_.fetch_or(others & flags);
    interface.receive_filter_changed();
    routes_changed();
    tell_changed(*this, interface, wanted ^ before);
    return {};
}

Result<void> Stack::set_mtu(Interface& interface, u32 mtu) {
    TRY(interface.set_mtu(mtu));
    routes_changed();
    tell_changed(*this, interface);
    return {};
}

Result<void> Stack::set_mac(Interface& interface, const MacAddress& mac) {
    TRY(interface.set_mac(mac));
    neighbours_->flush(interface, false);
    tell_changed(*this, interface);
    return {};
}

namespace {

// The first address is called as its interface; others keep what stood behind the colon, or get
// their number there, as in Linux.
void relabel(char (&label)[16], std::string_view name, u32 number) {
    char suffix[16] = {};
    if (number > 1) {
        const char* colon = label;
        while (*colon != 0 && *colon != ':')
            colon++;
        if (*colon == ':')
            __builtin_memcpy(suffix, colon, static_cast<usize>(label + sizeof label - colon));
        else
            (void)log::format(suffix, sizeof suffix - 1, ":{}", number);
    }
    suffix[sizeof suffix - 1] = 0;
    const std::string_view tail(suffix);
    const usize room = sizeof label - 1 - tail.size();
    const usize head = name.size() < room ? name.size() : room;
    __builtin_memset(label, 0, sizeof label);
    __builtin_memcpy(label, name.data(), head);
    __builtin_memcpy(label + head, tail.data(), tail.size());
}

} // namespace

Result<void> Stack::rename(Interface& interface, std::string_view name) {
    char former[Interface::name_bytes] = {};
    usize former_length = 0;
    {
        SpinGuard guard(lock);
        if (!valid_name(name))
            return fail(EINVAL);
        for (const Ref<Interface>& other : interfaces_)
            if (other->name() == name)
                return fail(EEXIST);
        former_length = interface.name().size();
        __builtin_memcpy(former, interface.name().data(), former_length);
        interface.set_name(name);
        u32 labelled = 0;
        for (InterfaceAddress& address : interface.addresses) {
            if (address.address.is_v4())
                relabel(address.label, name, ++labelled);
        }
    }
    Change change{.kind = ChangeKind::InterfaceChanged, .interface = &interface};
    change.former_name = {former, former_length};
    notify_change(*this, change);
    return {};
}

} // namespace kernel::net
