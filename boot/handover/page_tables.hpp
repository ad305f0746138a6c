// Writes the kernel's first page tables: four levels, root at kernel_root_table_phys, further
// tables one after the other from a given place on. Accessed and dirty bits are preset, so that
// neither the CPU nor a shadow-paging KVM has to write them later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "boot/error.hpp"
#include "boot/protocol/boot_block.hpp"

namespace boot {

struct PagePermissions {
    bool writable;
    bool executable;
};

class PageTableWriter {
public:
    // `ram` is the host's view of guest-physical [0, ram.size()); tables are allocated from
    // `next_table` upwards and read as zeros. Requires: kernel_root_table_phys lies in `ram`.
    PageTableWriter(std::span<std::byte> ram, std::uint64_t next_table, Privilege privilege);

    // Maps physical [start, end), rounded outwards to 2 MiB, into the direct map: RW, NX.
    void map_direct(std::uint64_t start, std::uint64_t end);
    // Maps `size` bytes in 4 KiB pages. Requires: all are page aligned.
    void map_pages(std::uint64_t virt, std::uint64_t phys, std::uint64_t size,
                   PagePermissions permissions);
    // The first address after the tables, or the error that there was no room for them.
    Result<std::uint64_t> finish() const;

private:
    // The table one level below entry `index` of `table`, made if it is not there; 0 without room.
    std::uint64_t child(std::uint64_t table, std::uint64_t index);
    std::uint64_t read(std::uint64_t table, std::uint64_t index) const;
    void write(std::uint64_t table, std::uint64_t index, std::uint64_t entry);

    std::span<std::byte> ram_;
    std::uint64_t next_;
    std::uint64_t user_; // the U bit, or 0
    bool full_ = false;
};

} // namespace boot
