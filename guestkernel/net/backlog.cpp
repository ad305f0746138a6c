#include "guestkernel/net/backlog.hpp"

#include "boot/protocol/layout.hpp"
#include "guestkernel/arch/arch.hpp"

namespace kernel::net {

namespace {

// Touched by their own CPU only, in task context: no lock.
struct alignas(64) Backlog {
    PacketList packets; // each with a reference to its interface
    bool running = false;
};
constinit Backlog backlogs[boot::max_cpus];

constexpr u32 limit = 4096; // packets; as many as a burst of every socket may need
constexpr u32 budget = 512; // at a time: others on this CPU want to run too

} // namespace

void queue_receive(Interface& interface, PacketPtr packet) {
    Backlog& own = backlogs[arch::cpu_id()];
    if (own.packets.size() >= limit) {
        count(interface.counters.rx_dropped);
        return;
    }
    interface.add_ref();
    packet->ingress = &interface;
    const bool first = own.packets.empty();
    own.packets.push_back(std::move(packet));
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
    if (!own.packets.empty())
        arch::raise_softirq(static_cast<u32>(Softirq::Network), arch::cpu_id());
}

void start_backlog() {
    set_network_softirq(run_backlog);
}

} // namespace kernel::net
