// What a CNI plugin (or whoever else) set up in a pod's network namespace, and how the guest gets
// it: the interface's traffic goes to a TAP and back, by the host's traffic control, and the
// guest's interface has its addresses, routes, neighbours, MTU and MAC.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace pod {

struct Interface {
    struct Route {
        std::string destination; // "10.0.0.0/8", "0.0.0.0/0"
        std::string gateway;     // "0.0.0.0" or "::" if it is on the link
        bool on_link = false;
        unsigned prefix = 0;
    };
    struct Neighbour {
        std::string address;
        std::string mac;
    };
    int index = 0;
    std::string name;
    std::string mac;
    unsigned mtu = 0;
    std::vector<std::string> addresses; // "10.0.0.2/24"
    std::vector<Route> routes;          // a gateway's own route before what goes over it
    std::vector<Neighbour> neighbours;  // those that were set for good
};

// The first Ethernet interface in the calling thread's network namespace that is up and has an
// address; nothing if there is only loopback.
os::Result<std::optional<Interface>> find_interface();

// A TAP joined to the interface; a descriptor for each queue. It goes with the last of them.
os::Result<std::vector<os::UniqueFd>> join_tap(const Interface& interface, unsigned queues);

// The words for joey do, and for the agent.
std::vector<std::string> vm_words(const Interface& interface, const std::vector<os::UniqueFd>& tap);
std::vector<std::string> agent_words(const Interface& interface);

} // namespace pod
