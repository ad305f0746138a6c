// Who has which port, and who is connected with whom.
#include <linux/errno.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/ipc/vsock/endpoint.hpp"
#include "guestkernel/lib/hash_map.hpp"

namespace kernel {

namespace {

constexpr u32 last_reserved_port = 1023;

constinit HashTable<VsockEndpoint, &VsockEndpoint::bound_next, 64> bound;
constinit HashTable<VsockEndpoint, &VsockEndpoint::table_next, 256> connections;
constinit base::IntrusiveList<VsockEndpoint, &VsockEndpoint::deadline_node> with_deadline;
constinit u32 next_port = 0;

u64 connection_hash(VsockTransport transport, u32 local_port, u32 remote_port) {
    return hash_mix(u64{local_port} << 32 | remote_port) ^ static_cast<u64>(transport);
}

bool in_use(VsockAddress address) {
    return bound.find(hash_mix(address.port), [&](const VsockEndpoint& other) {
        return other.local.port == address.port &&
               (other.local.cid == address.cid || other.local.cid == vsock_any ||
                address.cid == vsock_any);
    }) != nullptr;
}

Result<void> choose_port(VsockAddress& address) {
    if (next_port == 0) {
        u32 random = 0;
        random_bytes(&random, sizeof random);
        next_port = last_reserved_port + 1 + random % (u32{1} << 30);
    }
    constexpr unsigned tries = 4096;
    for (unsigned i = 0; i < tries; i++) {
        address.port = next_port++;
        if (next_port == vsock_any || next_port <= last_reserved_port)
            next_port = last_reserved_port + 1;
        if (!in_use(address))
            return {};
    }
    return fail(EADDRNOTAVAIL);
}

void end_late(VsockEndpoint& endpoint) {
    if (endpoint.state == VsockState::Connecting) {
        endpoint.fail_connecting(ETIMEDOUT);
        return;
    }
    endpoint.forget_unsent();
    endpoint.say(say_reset);
    endpoint.ended();
    leave_vsock_connection(endpoint);
}

void on_deadline(Timer& timer, void*) {
    VsockGuard guard;
    const u64 now = monotonic_ns();
    u64 next = no_deadline;
    for (bool again = true; again;) {
        again = false;
        next = no_deadline;
        for (VsockEndpoint& endpoint : with_deadline) {
            if (endpoint.deadline <= now) {
                set_vsock_deadline(endpoint, 0);
                end_late(endpoint);
                again = true; // the list has changed
                break;
            }
            next = endpoint.deadline < next ? endpoint.deadline : next;
        }
    }
    if (next != no_deadline)
        timer.arm(next);
}

// One for all, so that no endpoint ends in a callback of its own.
constinit Timer* deadlines = nullptr;
alignas(Timer) u8 timer_memory[sizeof(Timer)];

} // namespace

Result<void> bind_vsock(VsockEndpoint& endpoint, VsockAddress wanted, bool privileged) {
    if (endpoint.bound)
        return fail(EINVAL);
    const bool known = wanted.cid == vsock_any || wanted.cid == vsock_cid_local ||
                       (vsock_device_present() && wanted.cid == vsock_guest_cid());
    if (!known)
        return fail(EADDRNOTAVAIL);
    if (wanted.port == vsock_any) {
        TRY(choose_port(wanted));
    } else {
        if (wanted.port <= last_reserved_port && !privileged)
            return fail(EACCES);
        if (in_use(wanted))
            return fail(EADDRINUSE);
    }
    endpoint.local = wanted;
    endpoint.bound = true;
    bound.insert(hash_mix(wanted.port), endpoint);
    return {};
}

void unbind_vsock(VsockEndpoint& endpoint) {
    if (endpoint.bound)
        bound.remove(hash_mix(endpoint.local.port), endpoint);
    endpoint.bound = false;
}

VsockEndpoint* find_bound_vsock(VsockAddress to, VsockTransport transport) {
    return bound.find(hash_mix(to.port), [&](const VsockEndpoint& endpoint) {
        if (endpoint.local.port != to.port)
            return false;
        // Bound to the local address, it is out of the host's reach.
        if (endpoint.local.cid == vsock_cid_local)
            return transport == VsockTransport::Loopback && to.cid == vsock_cid_local;
        return endpoint.local.cid == vsock_any || endpoint.local.cid == to.cid;
    });
}

void enter_vsock_connection(VsockEndpoint& endpoint) {
    endpoint.add_ref();
    endpoint.in_table = true;
    connections.insert(
        connection_hash(endpoint.transport, endpoint.local.port, endpoint.remote.port), endpoint);
}

void leave_vsock_connection(VsockEndpoint& endpoint) {
    set_vsock_deadline(endpoint, 0);
    if (!endpoint.in_table)
        return;
    connections.remove(
        connection_hash(endpoint.transport, endpoint.local.port, endpoint.remote.port), endpoint);
    endpoint.in_table = false;
    doom(endpoint);
}

VsockEndpoint* find_vsock_connection(VsockTransport transport, VsockAddress local,
                                     VsockAddress remote) {
    // The guest goes by several CIDs when it talks to itself: there the ports decide.
    return connections.find(
        connection_hash(transport, local.port, remote.port), [&](const VsockEndpoint& endpoint) {
            return endpoint.transport == transport && endpoint.local.port == local.port &&
                   endpoint.remote.port == remote.port &&
                   (transport == VsockTransport::Loopback || endpoint.remote.cid == remote.cid);
        });
}

void for_each_vsock_connection(void (*visit)(VsockEndpoint& endpoint)) {
    connections.for_each(visit);
}

void set_vsock_deadline(VsockEndpoint& endpoint, u64 deadline) {
    if (endpoint.deadline_node.linked())
        endpoint.deadline_node.unlink();
    endpoint.deadline = deadline;
    if (deadline == 0)
        return;
    with_deadline.push_back(endpoint);
    if (deadlines == nullptr)
        deadlines = ::new (timer_memory) Timer(on_deadline, nullptr);
    if (!deadlines->pending() || deadline < deadlines->deadline())
        deadlines->arm(deadline);
}

} // namespace kernel
