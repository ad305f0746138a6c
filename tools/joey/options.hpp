// The command line of joey.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "boot/protocol/control.hpp"
#include "tools/joey/network_options.hpp"
#include "tools/joey/outcome.hpp"
#include "tools/joey/reporter.hpp"
#include "vmm/machine/vm.hpp"

namespace joey {

struct VolumeOption {
    std::string source;      // on the host, as typed
    std::string destination; // absolute, in the guest
    bool read_only = false;
};

struct VsockOption {
    std::string path;      // of the Unix socket, as typed
    std::uint32_t cid = 3; // of the guest
};

struct DoOptions {
    std::optional<unsigned> cpus;
    std::optional<std::uint64_t> memory_bytes;
    std::vector<std::string> env; // NAME=VALUE, over the caller's environment
    std::optional<std::string> cwd;
    std::optional<std::string> user; // UID[:GID] or names, resolved in the guest's root
    std::string hostname = "joey";
    vmm::PrivilegeChoice privilege = vmm::PrivilegeChoice::Auto;
    bool strace = false;
    std::string strace_filter; // call names, %groups, "missing"; empty: all
    bool strace_time = false;
    std::string core_directory; // empty: core files stay in the guest
    bool timing = false;
    bool terminal = false; // -t: a terminal in the guest even if the streams are none
    bool read_write = false;
    std::string rootfs = "/";
    std::vector<VolumeOption> volumes;
    std::optional<VsockOption> vsock;
    std::string metrics; // the path of its Unix socket; empty: none
    NetworkOptions network;
    std::string kernel; // empty: the one that belongs to this joey
    boot::LogLevel log_level = boot::LogLevel::Warning;
    ReportFormat log_format = ReportFormat::Text;
    int log_fd = 2;
    std::vector<std::string> command;
};

struct ShowText {
    std::string text;
};
using Command = std::variant<DoOptions, ShowText>;

// Reads the arguments after the program's name. Options end at `--` or at the first word that is
// none, so that the options of CMD stay its own.
Outcome<Command> parse_command_line(std::span<char* const> arguments);

// What a VM gets, for commands that call the option otherwise: `option` is its name in the error.
Outcome<unsigned> interpret_cpus(std::string_view option, const std::string& text);
Outcome<std::uint64_t> interpret_memory(std::string_view option, const std::string& text);
Outcome<vmm::PrivilegeChoice> interpret_privilege(const std::string& text);

} // namespace joey
