// clang-format off
// Names in the device tree, by which the VMM tells the kernel what to run and what there is. Lists of
// strings are NUL-separated and NUL-terminated, as device-tree string lists are; numbers are u32 or u64.
//
//   / { compatible = "joey,vm";
//     virtio@c0010000 { compatible = "virtio,mmio"; reg = <addr u64, size u64>; interrupts = <vector>; };
//     chosen {
//       joey,args      string list: the program and its arguments
//       joey,env       string list: NAME=VALUE
//       joey,cwd       string
//       joey,user      <uid gid>; joey,groups <gid...>
//       joey,hostname  string
//       joey,strace    empty property: present = on;  joey,strace-filter string: which calls;  joey,strace-time
//                      empty property: with times
//       joey,core-directory string: core files go there
//       joey,log-level <LogLevel>
//       joey,root      string: virtio-fs tag of the root;  joey,root-mode "ro" | "rw" | "overlay"
//       joey,stdin, joey,stdout, joey,stderr  string: "pipe" | "file" | "null" | "terminal" | "closed": what the
//                      caller's stream is; "terminal" = the console port is a terminal line
//       joey,window    <columns rows> with a terminal
//       joey,umask     <mode>
//       joey,randomize <0..2>: kernel.randomize_va_space
//       joey,rlimits   <resource u32, pad u32, soft u64, hard u64>...
//     };
//     volumes { volume@0 { joey,tag = "..."; joey,destination = "/path"; joey,read-only; joey,is-file; }; };
//     network { joey,addresses = NetworkAddress...; joey,routes = NetworkRoute...; (network.hpp) of the network device;
//               joey,resolv-conf, joey,hosts string: contents of /etc/resolv.conf and /etc/hosts, if they are to be made; };
//   };
//
// virtio-console ports, by number; each is a pair of queues (virtio 1.2, 5.3.2):
//   0 stdin and stdout  (a terminal: all of its traffic; otherwise guest input = stdin, guest output = stdout)
//   1 stderr            (guest output only)
//   2 control           (ControlMessage records in both directions)
// clang-format on
#pragma once

#include <cstdint>

namespace boot {

inline constexpr std::uint32_t console_port_stdio = 0;
inline constexpr std::uint32_t console_port_stderr = 1;
inline constexpr std::uint32_t console_port_control = 2;

// Host to guest on the control port, fixed size records.
enum class ControlMessageType : std::uint32_t {
    // a = signal number, for the program's process group leader (terminal: foreground group)
    signal = 1,
    window = 2, // a = columns, b = rows
    stdin_closed = 3,
};
struct ControlMessage {
    ControlMessageType type;
    std::uint32_t a;
    std::uint32_t b;
    std::uint32_t reserved;
};
static_assert(sizeof(ControlMessage) == 16);

} // namespace boot
