// The words that containerd starts the shim with.
#pragma once

#include <span>
#include <string>

#include "agent/os/error.hpp"

namespace shim {

struct CommandLine {
    std::string name_space; // containerd's: default, k8s.io, moby
    std::string id;
    std::string address;        // containerd's own socket
    std::string publish_binary; // containerd, for events
    std::string socket;         // the address that descriptor 3 listens at
    std::string bundle;         // empty: the working directory
    std::string action;         // start, delete; empty: serve on descriptor 3
    bool debug = false;
    bool version = false;
    bool info = false;
    bool help = false;

    static os::Result<CommandLine> parse(std::span<char* const> arguments);
};

extern const char* const usage;

} // namespace shim
