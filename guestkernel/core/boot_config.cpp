// Reading the device tree by libfdt. It comes from our own VMM, yet nothing of it is believed
// beyond its size.
#include "guestkernel/core/boot_config.hpp"

extern "C" {
#include <libfdt.h>
}

#include "guestkernel/arch/arch.hpp"

namespace kernel {

namespace {

constinit BootConfig config;
constinit boot::BootBlock block_copy = {};

std::string_view get_string(const void* tree, int node, const char* name,
                            std::string_view fallback) {
    int length = 0;
    const auto* text = static_cast<const char*>(fdt_getprop(tree, node, name, &length));
    if (text == nullptr || length <= 0 || text[length - 1] != '\0')
        return fallback;
    return std::string_view(text);
}

StringList get_list(const void* tree, int node, const char* name) {
    int length = 0;
    const auto* text = static_cast<const char*>(fdt_getprop(tree, node, name, &length));
    if (text == nullptr || length <= 0 || text[length - 1] != '\0')
        return {};
    return {text, static_cast<usize>(length)};
}

// Copies a property of big-endian cells; returns how many there were.
u32 get_cells(const void* tree, int node, const char* name, u32* out, u32 capacity) {
    int length = 0;
    const auto* cells = static_cast<const u8*>(fdt_getprop(tree, node, name, &length));
    if (cells == nullptr || length < 0)
        return 0;
    u32 count = static_cast<u32>(length) / 4;
    count = count < capacity ? count : capacity;
    for (u32 i = 0; i < count; i++)
        out[i] = u32{cells[4 * i]} << 24 | u32{cells[4 * i + 1]} << 16 |
                 u32{cells[4 * i + 2]} << 8 | cells[4 * i + 3];
    return count;
}

StreamKind parse_stream(std::string_view kind) {
    if (kind == "pipe")
        return StreamKind::Pipe;
    if (kind == "file")
        return StreamKind::File;
    if (kind == "terminal")
        return StreamKind::Terminal;
    return kind == "closed" ? StreamKind::Closed : StreamKind::Null;
}

void read_devices(const void* tree) {
    for (int node = fdt_node_offset_by_compatible(tree, -1, "virtio,mmio");
         node >= 0 && config.device_count < 64;
         node = fdt_node_offset_by_compatible(tree, node, "virtio,mmio")) {
        u32 reg[4] = {};
        u32 vector = 0;
        if (get_cells(tree, node, "reg", reg, 4) != 4 ||
            get_cells(tree, node, "interrupts", &vector, 1) != 1)
            continue;
        config.devices[config.device_count++] = {u64{reg[0]} << 32 | reg[1],
                                                 static_cast<u8>(vector)};
    }
}

void read_volumes(const void* tree) {
    const int parent = fdt_path_offset(tree, "/volumes");
    if (parent < 0)
        return;
    for (int node = fdt_first_subnode(tree, parent); node >= 0 && config.volume_count < 32;
         node = fdt_next_subnode(tree, node)) {
        Volume& volume = config.volumes[config.volume_count++];
        volume.tag = get_string(tree, node, "joey,tag", "");
        volume.destination = get_string(tree, node, "joey,destination", "");
        volume.read_only = fdt_getprop(tree, node, "joey,read-only", nullptr) != nullptr;
        volume.is_file = fdt_getprop(tree, node, "joey,is-file", nullptr) != nullptr;
    }
}

bool is_sound(const boot::NetworkAddress& address) {
    return (address.version == 4 && address.prefix <= 32) ||
           (address.version == 6 && address.prefix <= 128);
}
bool is_sound(const boot::NetworkRoute& route) {
    return is_sound(route.destination);
}

// An array of structures, in the order of bytes that it has on both sides.
template <typename T>
u32 get_array(const void* tree, int node, const char* name, T* out, u32 capacity) {
    int length = 0;
    const auto* bytes = static_cast<const u8*>(fdt_getprop(tree, node, name, &length));
    u32 count = 0;
    if (bytes == nullptr)
        return 0;
    for (u32 at = 0; at + sizeof(T) <= static_cast<u32>(length) && count < capacity;
         at += static_cast<u32>(sizeof(T))) {
        __builtin_memcpy(&out[count], bytes + at, sizeof(T));
        count += is_sound(out[count]) ? 1u : 0u;
    }
    return count;
}

void read_network(const void* tree) {
    const int node = fdt_path_offset(tree, "/network");
    if (node < 0)
        return;
    config.address_count =
        get_array(tree, node, "joey,addresses", config.addresses, boot::max_network_addresses);
    config.route_count =
        get_array(tree, node, "joey,routes", config.routes, boot::max_network_routes);
    config.resolv_conf = get_string(tree, node, "joey,resolv-conf", "");
    config.hosts = get_string(tree, node, "joey,hosts", "");
}

void read_chosen(const void* tree, int chosen) {
    config.arguments = get_list(tree, chosen, "joey,args");
    config.environment = get_list(tree, chosen, "joey,env");
    config.cwd = get_string(tree, chosen, "joey,cwd", "/");
    config.hostname = get_string(tree, chosen, "joey,hostname", "joey");
    config.strace_filter = get_string(tree, chosen, "joey,strace-filter", "");
    config.strace_time = fdt_getprop(tree, chosen, "joey,strace-time", nullptr) != nullptr;
    config.core_directory = get_string(tree, chosen, "joey,core-directory", "");
    config.root_tag = get_string(tree, chosen, "joey,root", "root");
    const std::string_view mode = get_string(tree, chosen, "joey,root-mode", "overlay");
    config.root_mode = mode == "rw"   ? RootMode::ReadWrite
                       : mode == "ro" ? RootMode::ReadOnly
                                      : RootMode::Overlay;
    u32 user[2] = {};
    if (get_cells(tree, chosen, "joey,user", user, 2) == 2) {
        config.uid = user[0];
        config.gid = user[1];
    }
    config.group_count = get_cells(tree, chosen, "joey,groups", config.groups, 64);
    config.strace = fdt_getprop(tree, chosen, "joey,strace", nullptr) != nullptr;
    get_cells(tree, chosen, "joey,log-level", &config.log_level, 1);
    const char* const names[3] = {"joey,stdin", "joey,stdout", "joey,stderr"};
    for (int i = 0; i < 3; i++)
        config.streams[i] = parse_stream(get_string(tree, chosen, names[i], "null"));
    u32 window[2] = {80, 24};
    if (get_cells(tree, chosen, "joey,window", window, 2) == 2) {
        config.columns = window[0];
        config.rows = window[1];
    }
    get_cells(tree, chosen, "joey,umask", &config.umask, 1);
    get_cells(tree, chosen, "joey,randomize", &config.address_randomization, 1);
    u32 limits[16 * 6];
    const u32 cells = get_cells(tree, chosen, "joey,rlimits", limits, 16 * 6);
    for (u32 i = 0; i + 6 <= cells; i += 6)
        config.rlimits[config.rlimit_count++] = {limits[i],
                                                 u64{limits[i + 2]} << 32 | limits[i + 3],
                                                 u64{limits[i + 4]} << 32 | limits[i + 5]};
}

} // namespace

usize StringList::count() const {
    usize n = 0;
    for_each([&](std::string_view) { n++; });
    return n;
}

std::string_view StringList::operator[](usize index) const {
    std::string_view found;
    usize n = 0;
    for_each([&](std::string_view text) {
        if (n++ == index)
            found = text;
    });
    return found;
}

const BootConfig& boot_config() {
    return config;
}
const boot::BootBlock& boot_block() {
    return block_copy;
}
void set_boot_block(const boot::BootBlock& block) {
    block_copy = block;
}

bool read_boot_config(const boot::BootBlock& block) {
    const void* tree = arch::phys_to_virt(PhysAddr(block.fdt_phys));
    if (fdt_check_header(tree) != 0 || fdt_totalsize(tree) > block.fdt_size)
        return false;
    const int chosen = fdt_path_offset(tree, "/chosen");
    if (chosen < 0)
        return false;
    read_chosen(tree, chosen);
    read_devices(tree);
    read_volumes(tree);
    read_network(tree);
    return true;
}

} // namespace kernel
