// The socket where a VM takes connections to its guest's vsock ports.
#pragma once

#include <string>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace pod {

// Not blocking. `directory` is open, and the pod's.
os::Result<os::UniqueFd> reach_vm(int directory);

// "CONNECT <port>" for the agent's, and the answer "OK <port>".
class PortRequest {
public:
    static os::Result<void> send(int socket);
    // What has come, without waiting: true when the port is granted, false when more has to come.
    os::Result<bool> take(int socket);

private:
    std::string line_;
};

} // namespace pod
