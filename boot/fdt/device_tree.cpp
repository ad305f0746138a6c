#include "boot/fdt/device_tree.hpp"

#include <array>
#include <cstdio>
#include <span>
#include <string_view>

#include <libfdt.h>

#include "boot/protocol/layout.hpp"

namespace boot {
namespace {

// Sequential writer over libfdt's; the first error sticks and is asked for once, at the end.
class Writer {
public:
    explicit Writer(std::size_t capacity) : buffer_(capacity) {
        note(fdt_create(buffer_.data(), static_cast<int>(buffer_.size())));
        note(fdt_finish_reservemap(buffer_.data()));
    }

    void begin(const char* name) { note(fdt_begin_node(buffer_.data(), name)); }
    void end() { note(fdt_end_node(buffer_.data())); }
    void bytes(const char* name, const void* data, std::size_t size) {
        note(fdt_property(buffer_.data(), name, data, static_cast<int>(size)));
    }
    void flag(const char* name) { bytes(name, nullptr, 0); }
    void number(const char* name, std::uint32_t value) {
        note(fdt_property_u32(buffer_.data(), name, value));
    }
    void string(const char* name, const std::string& value) {
        bytes(name, value.c_str(), value.size() + 1);
    }
    void strings(const char* name, const std::vector<std::string>& values) {
        std::string list;
        for (const std::string& value : values)
            list.append(value.c_str(), value.size() + 1);
        bytes(name, list.data(), list.size());
    }
    void numbers(const char* name, std::span<const std::uint32_t> values) {
        std::vector<fdt32_t> cells;
        for (const std::uint32_t value : values)
            cells.push_back(cpu_to_fdt32(value));
        bytes(name, cells.data(), cells.size() * sizeof(fdt32_t));
    }
    void wide_numbers(const char* name, std::span<const std::uint64_t> values) {
        std::vector<fdt64_t> cells;
        for (const std::uint64_t value : values)
            cells.push_back(cpu_to_fdt64(value));
        bytes(name, cells.data(), cells.size() * sizeof(fdt64_t));
    }

    Result<std::vector<std::byte>> finish() && {
        note(fdt_finish(buffer_.data()));
        if (error_ != 0)
            return fail("the device tree could not be written");
        buffer_.resize(fdt_totalsize(buffer_.data()));
        return std::move(buffer_);
    }

private:
    void note(int result) {
        if (error_ == 0 && result < 0)
            error_ = result;
    }

    std::vector<std::byte> buffer_;
    int error_ = 0;
};

std::size_t length_of(const std::vector<std::string>& strings) {
    std::size_t sum = 0;
    for (const std::string& string : strings)
        sum += string.size() + 1;
    return sum;
}

std::size_t network_bytes(const GuestDescription& guest) {
    if (!guest.network)
        return 0;
    return 256 + guest.network->addresses.size() * sizeof(NetworkAddress) +
           guest.network->routes.size() * sizeof(NetworkRoute) + guest.network->resolv_conf.size() +
           guest.network->hosts.size();
}

// An upper bound: fixed names and nodes are far below the constants here.
std::size_t capacity_for(const GuestDescription& guest, unsigned virtio_devices) {
    std::size_t volumes = 0;
    for (const Volume& volume : guest.volumes)
        volumes += 256 + volume.tag.size() + volume.destination.size();
    return 4096 + length_of(guest.args) + length_of(guest.env) + guest.cwd.size() +
           guest.hostname.size() + guest.root_tag.size() + guest.strace_filter.size() +
           guest.core_directory.size() + 4 * guest.groups.size() + 24 * guest.rlimits.size() +
           volumes + std::size_t{256} * virtio_devices + network_bytes(guest);
}

const char* name_of(StreamKind kind) {
    switch (kind) {
    case StreamKind::Pipe:
        return "pipe";
    case StreamKind::File:
        return "file";
    case StreamKind::Null:
        return "null";
    case StreamKind::Terminal:
        return "terminal";
    case StreamKind::Closed:
        return "closed";
    }
    return "null";
}

const char* name_of(RootMode mode) {
    switch (mode) {
    case RootMode::ReadOnly:
        return "ro";
    case RootMode::ReadWrite:
        return "rw";
    case RootMode::Overlay:
        return "overlay";
    }
    return "ro";
}

void write_virtio(Writer& tree, unsigned device) {
    const std::uint64_t address = virtio_mmio_base + device * virtio_mmio_stride;
    char name[32];
    std::snprintf(name, sizeof(name), "virtio@%llx", static_cast<unsigned long long>(address));
    tree.begin(name);
    tree.string("compatible", "virtio,mmio");
    tree.wide_numbers("reg", std::array<std::uint64_t, 2>{address, virtio_mmio_stride});
    tree.number("interrupts", device_vector(device));
    tree.end();
}

void write_chosen(Writer& tree, const GuestDescription& guest) {
    tree.begin("chosen");
    tree.strings("joey,args", guest.args);
    tree.strings("joey,env", guest.env);
    tree.string("joey,cwd", guest.cwd);
    tree.numbers("joey,user", std::array<std::uint32_t, 2>{guest.uid, guest.gid});
    tree.numbers("joey,groups", guest.groups);
    tree.string("joey,hostname", guest.hostname);
    if (guest.strace)
        tree.flag("joey,strace");
    if (!guest.strace_filter.empty())
        tree.string("joey,strace-filter", guest.strace_filter);
    if (guest.strace_time)
        tree.flag("joey,strace-time");
    if (!guest.core_directory.empty())
        tree.string("joey,core-directory", guest.core_directory);
    tree.number("joey,log-level", static_cast<std::uint32_t>(guest.log_level));
    if (!guest.root_tag.empty()) {
        tree.string("joey,root", guest.root_tag);
        tree.string("joey,root-mode", name_of(guest.root_mode));
    }
    tree.string("joey,stdin", name_of(guest.standard_input));
    tree.string("joey,stdout", name_of(guest.standard_output));
    tree.string("joey,stderr", name_of(guest.standard_error));
    if (guest.window)
        tree.numbers("joey,window",
                     std::array<std::uint32_t, 2>{guest.window->columns, guest.window->rows});
    tree.number("joey,umask", guest.umask);
    tree.number("joey,randomize", guest.address_randomization);
    std::vector<std::uint64_t> rlimits;
    for (const Rlimit& limit : guest.rlimits) {
        // <resource u32, pad u32>: big-endian, so the resource is the upper half.
        rlimits.push_back(std::uint64_t{limit.resource} << 32);
        rlimits.push_back(limit.soft);
        rlimits.push_back(limit.hard);
    }
    tree.wide_numbers("joey,rlimits", rlimits);
    tree.end();
}

void write_volumes(Writer& tree, const std::vector<Volume>& volumes) {
    tree.begin("volumes");
    for (std::size_t i = 0; i < volumes.size(); ++i) {
        const std::string name = "volume@" + std::to_string(i);
        tree.begin(name.c_str());
        tree.string("joey,tag", volumes[i].tag);
        tree.string("joey,destination", volumes[i].destination);
        if (volumes[i].read_only)
            tree.flag("joey,read-only");
        if (volumes[i].is_file)
            tree.flag("joey,is-file");
        tree.end();
    }
    tree.end();
}

void write_network(Writer& tree, const GuestNetwork& network) {
    tree.begin("network");
    tree.bytes("joey,addresses", network.addresses.data(),
               network.addresses.size() * sizeof(NetworkAddress));
    tree.bytes("joey,routes", network.routes.data(), network.routes.size() * sizeof(NetworkRoute));
    if (!network.resolv_conf.empty())
        tree.string("joey,resolv-conf", network.resolv_conf);
    if (!network.hosts.empty())
        tree.string("joey,hosts", network.hosts);
    tree.end();
}

} // namespace

Result<std::vector<std::byte>> build_device_tree(const GuestDescription& guest,
                                                 unsigned virtio_devices) {
    const std::size_t capacity = capacity_for(guest, virtio_devices);
    // libfdt counts in int; Linux, too, refuses more arguments and environment than a few MiB.
    if (capacity > (std::size_t{16} << 20))
        return fail("the program's arguments and environment are too long");
    Writer tree(capacity);
    tree.begin("");
    tree.string("compatible", "joey,vm");
    tree.number("#address-cells", 2);
    tree.number("#size-cells", 2);
    for (unsigned device = 0; device < virtio_devices; ++device)
        write_virtio(tree, device);
    write_chosen(tree, guest);
    write_volumes(tree, guest.volumes);
    if (guest.network)
        write_network(tree, *guest.network);
    tree.end();
    return std::move(tree).finish();
}

} // namespace boot
