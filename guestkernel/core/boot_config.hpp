// What the VMM asked for, read from the device tree once at boot. Strings point into the tree,
// which stays.
#pragma once

#include <span>
#include <string_view>

#include "boot/protocol/boot_block.hpp"
#include "boot/protocol/network.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

enum class StreamKind : u8 { Closed, Pipe, File, Null, Terminal };
enum class RootMode : u8 { ReadOnly, ReadWrite, Overlay };

// A NUL-separated, NUL-terminated list.
struct StringList {
    const char* data = nullptr;
    usize bytes = 0;
    usize count() const;
    std::string_view operator[](usize index) const; // O(index); empty past the end
    template <typename F>
    void for_each(F&& function) const {
        for (usize at = 0; at < bytes;) {
            const std::string_view text(data + at);
            function(text);
            at += text.size() + 1;
        }
    }
};

struct VirtioSlot {
    u64 phys = 0;
    u8 vector = 0;
};
struct Volume {
    std::string_view tag, destination;
    bool read_only = false;
    bool is_file = false;
};
struct RlimitSetting {
    u32 resource;
    u64 soft, hard;
};

struct BootConfig {
    StringList arguments, environment;
    std::string_view cwd = "/", hostname = "joey";
    u32 uid = 0, gid = 0;
    u32 groups[64] = {};
    u32 group_count = 0;
    bool strace = false;
    std::string_view strace_filter; // names, %groups, "missing"; empty: all
    bool strace_time = false;
    std::string_view core_directory; // core files go there; empty: by the pattern "core"
    u32 log_level = 1;
    std::string_view root_tag = "root";
    RootMode root_mode = RootMode::Overlay;
    StreamKind streams[3] = {StreamKind::Null, StreamKind::Null, StreamKind::Null};
    u32 columns = 80, rows = 24;
    u32 umask = 022;
    u32 address_randomization = 2; // kernel.randomize_va_space
    RlimitSetting rlimits[16] = {};
    u32 rlimit_count = 0;
    VirtioSlot devices[64] = {};
    u32 device_count = 0;
    Volume volumes[32] = {};
    u32 volume_count = 0;
    boot::NetworkAddress addresses[boot::max_network_addresses] = {};
    u32 address_count = 0;
    boot::NetworkRoute routes[boot::max_network_routes] = {};
    u32 route_count = 0;
    std::string_view resolv_conf, hosts; // contents of the files; empty: the root's stay

    std::span<const boot::NetworkAddress> network_addresses() const {
        return {addresses, address_count};
    }
    std::span<const boot::NetworkRoute> network_routes() const { return {routes, route_count}; }
};

const BootConfig& boot_config();
const boot::BootBlock& boot_block();
void set_boot_block(const boot::BootBlock& block); // first thing at boot
// Called once by the boot code. False: the tree is damaged.
bool read_boot_config(const boot::BootBlock& block);

} // namespace kernel
