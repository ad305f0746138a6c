// What the host offers, and who asks: the defaults of `joey do`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "boot/fdt/guest_description.hpp"
#include "tools/joey/outcome.hpp"

namespace joey {

// CPUs that this process may use: its affinity, cut by the CPU quota of its cgroup.
unsigned usable_cpus();
// Half of what this process may use (the host's RAM or its cgroup's limit), within 256 MiB .. 4
// GiB.
std::uint64_t default_memory_bytes();

// The soft and hard limits of this process, for the program.
std::vector<boot::Rlimit> current_rlimits();
// Whether programs' addresses are to be random, as for this process's own: the host's
// kernel.randomize_va_space, or 0 by personality(2).
std::uint32_t current_address_randomization();
// Core files of any size: somebody asked for them.
void lift_core_limit(std::vector<boot::Rlimit>& limits);
// Raises this process's own limit of open files to the hard one: a virtio-fs server holds one
// descriptor per file that the guest knows.
void raise_open_file_limit();

// A text below `rootfs`, whose links stay below it; nullopt: none, or larger than `most` bytes, or
// with a NUL in it.
std::optional<std::string> read_text_file_in(const std::string& rootfs, const char* path,
                                             std::size_t most);

struct Identity {
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::vector<std::uint32_t> groups;
};
Identity caller_identity();
// UID[:GID], by number or by name; names, the primary group and the supplementary groups come from
// /etc/passwd and /etc/group below `rootfs`.
Outcome<Identity> resolve_user(const std::string& text, const std::string& rootfs);

} // namespace joey
