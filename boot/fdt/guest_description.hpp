// What the device tree tells the kernel to run, and with what: the host-side form of
// boot/protocol/device_tree.hpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "boot/protocol/control.hpp"
#include "boot/protocol/network.hpp"

namespace boot {

// What one of the caller's standard streams is.
enum class StreamKind : std::uint8_t { Pipe, File, Null, Terminal, Closed };
enum class RootMode : std::uint8_t { ReadOnly, ReadWrite, Overlay };

struct Volume {
    std::string tag;         // of its virtio-fs device
    std::string destination; // absolute path in the guest
    bool read_only = false;
    bool is_file = false; // the share's root holds one file, which is bound on `destination`
};

struct Rlimit {
    std::uint32_t resource; // RLIMIT_*
    std::uint64_t soft;
    std::uint64_t hard;
};

struct WindowSize {
    std::uint32_t columns;
    std::uint32_t rows;
};

// What the network interface has before the program starts, and the files that belong to it.
struct GuestNetwork {
    std::vector<NetworkAddress> addresses; // with their prefix
    std::vector<NetworkRoute> routes;
    std::string resolv_conf; // contents of /etc/resolv.conf; empty: the root's stays
    std::string hosts;       // of /etc/hosts; empty: the root's stays
};

struct GuestDescription {
    std::vector<std::string> args;
    std::vector<std::string> env;
    std::string cwd = "/";
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::vector<std::uint32_t> groups;
    std::string hostname = "joey";
    bool strace = false;
    std::string strace_filter;
    bool strace_time = false;
    std::string core_directory; // inside; empty: none
    LogLevel log_level = LogLevel::Warning;
    std::string root_tag; // empty: no root file system (test kernels)
    RootMode root_mode = RootMode::Overlay;
    StreamKind standard_input = StreamKind::Null;
    StreamKind standard_output = StreamKind::Null;
    StreamKind standard_error = StreamKind::Null;
    std::optional<WindowSize> window; // with a terminal
    std::uint32_t umask = 022;
    std::uint32_t address_randomization = 2; // kernel.randomize_va_space
    std::vector<Rlimit> rlimits;
    std::vector<Volume> volumes;
    std::optional<GuestNetwork> network;
};

} // namespace boot
