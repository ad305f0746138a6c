#include "boot/handover/page_tables.hpp"

#include <cstring>

#include "base/checked.hpp"
#include "boot/protocol/layout.hpp"

namespace boot {
namespace {

// Intel SDM 3A 4.5
constexpr std::uint64_t pte_present = 1u << 0;
constexpr std::uint64_t pte_writable = 1u << 1;
constexpr std::uint64_t pte_user = 1u << 2;
constexpr std::uint64_t pte_accessed = 1u << 5;
constexpr std::uint64_t pte_dirty = 1u << 6;
constexpr std::uint64_t pte_large = 1u << 7;
constexpr std::uint64_t pte_global = 1u << 8;
constexpr std::uint64_t pte_no_execute = 1ull << 63;
constexpr std::uint64_t address_mask = 0x000f'ffff'ffff'f000;
constexpr std::uint64_t large_page = 2u << 20;

// Index into the table of `level` (4 is the root).
constexpr std::uint64_t index_at(unsigned level, std::uint64_t virt) {
    return virt >> (12 + 9 * (level - 1)) & 511;
}

} // namespace

PageTableWriter::PageTableWriter(std::span<std::byte> ram, std::uint64_t next_table,
                                 Privilege privilege)
    : ram_(ram), next_(next_table), user_(privilege == Privilege::Ring3 ? pte_user : 0) {}

std::uint64_t PageTableWriter::read(std::uint64_t table, std::uint64_t index) const {
    std::uint64_t entry = 0;
    std::memcpy(&entry, ram_.data() + table + index * 8, sizeof(entry));
    return entry;
}

void PageTableWriter::write(std::uint64_t table, std::uint64_t index, std::uint64_t entry) {
    std::memcpy(ram_.data() + table + index * 8, &entry, sizeof(entry));
}

std::uint64_t PageTableWriter::child(std::uint64_t table, std::uint64_t index) {
    const std::uint64_t entry = read(table, index);
    if ((entry & pte_present) != 0)
        return entry & address_mask;
    if (next_ > ram_.size() || ram_.size() - next_ < page_size) {
        full_ = true;
        return 0;
    }
    const std::uint64_t made = next_;
    next_ += page_size;
    write(table, index, made | pte_present | pte_writable | pte_accessed | user_);
    return made;
}

void PageTableWriter::map_direct(std::uint64_t start, std::uint64_t end) {
    for (std::uint64_t phys = base::align_down(start, large_page); phys < end && !full_;) {
        const std::uint64_t virt = direct_map_base + phys;
        const std::uint64_t level3 = child(kernel_root_table_phys, index_at(4, virt));
        const std::uint64_t level2 = full_ ? 0 : child(level3, index_at(3, virt));
        if (full_)
            return;
        for (std::uint64_t i = index_at(2, virt); i < 512 && phys < end; ++i, phys += large_page) {
            write(level2, i,
                  phys | pte_present | pte_writable | pte_accessed | pte_dirty | pte_large |
                      pte_global | pte_no_execute | user_);
        }
    }
}

void PageTableWriter::map_pages(std::uint64_t virt, std::uint64_t phys, std::uint64_t size,
                                PagePermissions permissions) {
    const std::uint64_t flags = pte_present | pte_accessed | pte_dirty | pte_global | user_ |
                                (permissions.writable ? pte_writable : 0) |
                                (permissions.executable ? 0 : pte_no_execute);
    for (std::uint64_t done = 0; done < size; done += page_size) {
        const std::uint64_t level3 = child(kernel_root_table_phys, index_at(4, virt + done));
        const std::uint64_t level2 = full_ ? 0 : child(level3, index_at(3, virt + done));
        const std::uint64_t level1 = full_ ? 0 : child(level2, index_at(2, virt + done));
        if (full_)
            return;
        write(level1, index_at(1, virt + done), (phys + done) | flags);
    }
}

Result<std::uint64_t> PageTableWriter::finish() const {
    if (full_)
        return fail("the guest's memory is too small for its page tables");
    return next_;
}

} // namespace boot
