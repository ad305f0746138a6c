#include "guestkernel/net/backlog.hpp"

#include "boot/protocol/layout.hpp"
#include "guestkernel/arch/arch.hpp"

namespace kernel::net {

namespace {

// Touched by their own CPU only, in task context: no lock.
struct alignas(64) Backlog {
    PacketList packets; // each with a reference to its interface
    bool running = false;
    volatile u32 received = 0, dropped = 0, squeezed = 0, waiting = 0; // read by anybody
};
constinit Backlog backlogs[boot::max_cpus];

constexpr u32 limit = 4096; // packets; as many as a burst of every socket may need
constexpr u32 budget = 512; // at a time: others on this CPU want to run too

} // namespace

void queue_receive(Interface& interface, PacketPtr packet) {
    Backlog& own = backlogs[arch::cpu_id()];
    if (own.packets.size() >= limit) {
        count(interface.counters.rx_dropped);
        own.dropped = own.dropped + 1;
        return;
    }
    interface.add_ref();
    packet->ingress = &interface;
    const bool first = own.packets.empty();
    own.packets.push_back(std::move(packet));
    own.waiting = own.packets.size();
    if (first && !own.running)
        arch::raise_softirq(static_cast<u32>(Softirq::Network), arch::cpu_id());
}

bool backlog_pending() {
    return !backlogs[arch::cpu_id()].packets.empty();
}

void run_backlog() {
    Backlog& own = backlogs[arch::cpu_id()];
    if (own.running || own.packets.empty())
        return; // what is received now may send: the loop below goes on with it
    own.running = true;
    for (u32 done = 0; done < budget; done++) {
        PacketPtr packet = own.packets.pop_front();
        if (!packet)
            break;
        const Ref<Interface> interface = Ref<Interface>::adopt(packet->ingress);
        interface->receive(std::move(packet));
    }
    own.running = false;
    own.waiting = own.packets.size();
    if (own.packets.empty())
        return;
    own.squeezed = own.squeezed + 1;
    arch::raise_softirq(static_cast<u32>(Softirq::Network), arch::cpu_id());
}

ReceiveCounts receive_counts(u32 cpu) {
    const Backlog& of = backlogs[cpu];
    return {of.received, of.dropped, of.squeezed, of.waiting};
}

void count_received(u32 packets) {
    Backlog& own = backlogs[arch::cpu_id()];
    own.received = own.received + packets;
}

void start_backlog() {
    set_network_softirq(run_backlog);
}

} // namespace kernel::net
