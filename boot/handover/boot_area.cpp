#include "boot/handover/boot_area.hpp"

#include <cstring>

#include "base/checked.hpp"
#include "boot/handover/page_tables.hpp"
#include "boot/protocol/layout.hpp"

namespace boot {

Result<std::uint64_t> write_boot_area(std::span<std::byte> low_ram,
                                      const BootParameters& parameters, const KernelImage& kernel,
                                      std::span<const std::byte> device_tree) {
    const std::uint64_t tables = cpu_areas_phys + parameters.cpus * cpu_area_size;
    if (tables > low_ram.size())
        return fail("the guest's memory is too small for its CPUs");
    PageTableWriter writer(low_ram, tables, parameters.privilege);
    writer.map_direct(0, high_ram_base);
    if (parameters.high_ram_end > high_ram_base)
        writer.map_direct(high_ram_base, parameters.high_ram_end);
    for (const KernelSegment& segment : kernel.segments) {
        writer.map_pages(kernel_virt + segment.first_page(), kernel_phys + segment.first_page(),
                         segment.end_of_pages() - segment.first_page(),
                         {segment.writable, segment.executable});
    }
    TRY(const std::uint64_t tree_at, writer.finish());
    if (low_ram.size() - tree_at < device_tree.size())
        return fail("the guest's memory is too small for the program's arguments and environment");
    if (!device_tree.empty())
        std::memcpy(low_ram.data() + tree_at, device_tree.data(), device_tree.size());
    const std::uint64_t end = base::align_up(tree_at + device_tree.size(), page_size);

    BootBlock block{};
    block.magic = boot_block_magic;
    block.version = boot_block_version;
    block.privilege = parameters.privilege;
    block.cpu_count = parameters.cpus;
    block.fdt_size = static_cast<std::uint32_t>(device_tree.size());
    block.fdt_phys = tree_at;
    block.low_ram_end = parameters.low_ram_end;
    block.high_ram_end = parameters.high_ram_end;
    block.boot_area_end = end;
    block.kernel_size = kernel.size;
    block.tsc_khz = parameters.tsc_khz;
    block.wall_clock_ns = parameters.wall_clock_ns;
    block.wall_clock_tsc = parameters.wall_clock_tsc;
    block.process_start_tsc = parameters.process_start_tsc;
    block.ram_is_zeroed = 1;
    std::memcpy(low_ram.data() + boot_block_phys, &block, sizeof(block));
    return end;
}

} // namespace boot
