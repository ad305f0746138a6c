#include <algorithm>
#include <cstring>
#include <optional>

#include <catch2/catch.hpp>

#include "boot/elf/elf_builder.hpp"
#include "boot/handover/boot_area.hpp"
#include "boot/handover/cpu_state.hpp"
#include "boot/protocol/layout.hpp"

namespace {

using boot::direct_map_base;
using boot::kernel_virt;

constexpr std::uint64_t present = 1, writable = 2, user = 4, accessed = 32, dirty = 64, large = 128;
constexpr std::uint64_t no_execute = 1ull << 63;

struct Walk {
    std::uint64_t phys;
    std::uint64_t flags; // of the leaf
    bool user_all_the_way = true;
};

struct Area {
    std::vector<std::byte> ram;
    std::uint64_t end = 0;

    template <typename T>
    T read(std::uint64_t at) const {
        T value{};
        std::memcpy(&value, ram.data() + at, sizeof(value));
        return value;
    }
    std::optional<Walk> walk(std::uint64_t virt) const {
        std::uint64_t table = boot::kernel_root_table_phys;
        Walk result{};
        for (unsigned level = 4;; --level) {
            const unsigned shift = 12 + 9 * (level - 1);
            const auto entry = read<std::uint64_t>(table + (virt >> shift & 511) * 8);
            if ((entry & present) == 0)
                return std::nullopt;
            REQUIRE((entry & accessed) != 0);
            result.user_all_the_way = result.user_all_the_way && (entry & user) != 0;
            const std::uint64_t address = entry & 0x000f'ffff'ffff'f000;
            if (level == 1 || (entry & large) != 0) {
                result.flags = entry & ~address;
                result.phys = address | (virt & ((1ull << shift) - 1));
                return result;
            }
            table = address;
        }
    }
};

boot::BootParameters parameters(boot::Privilege privilege) {
    boot::BootParameters parameters{};
    parameters.privilege = privilege;
    parameters.cpus = 3;
    parameters.low_ram_end = 32u << 20;
    parameters.tsc_khz = 2'000'000;
    parameters.wall_clock_ns = 5;
    parameters.wall_clock_tsc = 6;
    parameters.process_start_tsc = 7;
    return parameters;
}

boot::KernelImage kernel() {
    auto image = boot::parse_kernel_image(boot::testing::ElfBuilder::kernel().build());
    REQUIRE(image);
    return std::move(*image);
}

Area write(const boot::BootParameters& parameters, std::size_t tree_size = 100) {
    Area area;
    area.ram.resize(parameters.low_ram_end);
    const std::vector<std::byte> tree(tree_size, std::byte{0xd0});
    const auto end = boot::write_boot_area(area.ram, parameters, kernel(), tree);
    REQUIRE(end);
    area.end = *end;
    return area;
}

} // namespace

TEST_CASE("the boot block says where everything is") {
    const Area area = write(parameters(boot::Privilege::Ring3));
    const auto block = area.read<boot::BootBlock>(boot::boot_block_phys);
    CHECK(block.magic == boot::boot_block_magic);
    CHECK(block.version == boot::boot_block_version);
    CHECK(block.privilege == boot::Privilege::Ring3);
    CHECK(block.cpu_count == 3);
    CHECK(block.fdt_size == 100);
    CHECK(area.read<std::uint8_t>(block.fdt_phys) == 0xd0);
    CHECK(area.read<std::uint8_t>(block.fdt_phys + 99) == 0xd0);
    CHECK(block.fdt_phys % 8 == 0);
    CHECK(block.low_ram_end == 32u << 20);
    CHECK(block.high_ram_end == 0);
    CHECK(block.boot_area_end == area.end);
    CHECK(area.end % boot::page_size == 0);
    CHECK(block.kernel_size == 0x7000);
    CHECK(block.tsc_khz == 2'000'000);
    CHECK(block.wall_clock_ns == 5);
    CHECK(block.wall_clock_tsc == 6);
    CHECK(block.process_start_tsc == 7);
    CHECK(block.ram_is_zeroed == 1);
}

TEST_CASE("nothing is written beyond the boot area or into the CPU areas") {
    const Area area = write(parameters(boot::Privilege::Ring3));
    const auto zero = [](std::byte b) { return b == std::byte{0}; };
    const auto at = [&](std::uint64_t phys) {
        return area.ram.begin() + static_cast<std::ptrdiff_t>(phys);
    };
    CHECK(std::all_of(at(area.end), area.ram.end(), zero));
    CHECK(std::all_of(at(boot::cpu_areas_phys), at(boot::cpu_areas_phys + 3 * boot::cpu_area_size),
                      zero));
}

TEST_CASE("the direct map covers the first 4 GiB and high RAM, writable, not executable") {
    boot::BootParameters wanted = parameters(boot::Privilege::Ring0);
    wanted.high_ram_end = boot::high_ram_base + (1ull << 30) + (2u << 20);
    const Area area = write(wanted);
    for (const std::uint64_t phys :
         {std::uint64_t{0}, std::uint64_t{0x1234567}, boot::control_page,
          std::uint64_t{0xffff'ffff}, boot::high_ram_base, wanted.high_ram_end - 1}) {
        const auto found = area.walk(direct_map_base + phys);
        REQUIRE(found);
        CHECK(found->phys == phys);
        CHECK((found->flags & (writable | dirty | no_execute | user)) ==
              (writable | dirty | no_execute));
    }
    CHECK_FALSE(area.walk(direct_map_base + wanted.high_ram_end));
    CHECK_FALSE(area.walk(0));
    CHECK_FALSE(area.walk(0xffff'8000'0000'0000));
}

TEST_CASE("the kernel image has its segments' permissions") {
    const Area area = write(parameters(boot::Privilege::Ring0));
    const auto flags_at = [&](std::uint64_t offset) {
        const auto found = area.walk(kernel_virt + offset);
        REQUIRE(found);
        CHECK(found->phys == boot::kernel_phys + offset);
        return found->flags & (writable | no_execute | user);
    };
    CHECK(flags_at(0x10) == 0);
    CHECK(flags_at(0x1000) == no_execute);
    CHECK(flags_at(0x2000) == (writable | no_execute));
    CHECK(flags_at(0x6fff) == (writable | no_execute));
    CHECK_FALSE(area.walk(kernel_virt + 0x7000));
}

TEST_CASE("the U bit is set everywhere in ring 3 and nowhere in ring 0") {
    const Area ring3 = write(parameters(boot::Privilege::Ring3));
    const Area ring0 = write(parameters(boot::Privilege::Ring0));
    for (const std::uint64_t virt : {direct_map_base + boot::control_page, kernel_virt}) {
        CHECK(ring3.walk(virt)->user_all_the_way);
        CHECK((ring0.walk(virt)->flags & user) == 0);
    }
}

TEST_CASE("memory too small for what must go there is refused") {
    std::vector<std::byte> ram(0x11'0000);
    boot::BootParameters wanted = parameters(boot::Privilege::Ring3);
    wanted.cpus = 1;
    SECTION("it fits exactly") {
        CHECK(boot::write_boot_area(ram, wanted, kernel(), {}));
    }
    SECTION("no room for the CPU areas") {
        wanted.cpus = 3;
        CHECK_FALSE(boot::write_boot_area(ram, wanted, kernel(), {}));
    }
    SECTION("no room for the page tables") {
        ram.resize(ram.size() - 1);
        CHECK_FALSE(boot::write_boot_area(ram, wanted, kernel(), {}));
    }
    SECTION("no room for the device tree") {
        const std::vector<std::byte> tree(1);
        CHECK_FALSE(boot::write_boot_area(ram, wanted, kernel(), tree));
    }
}

TEST_CASE("each CPU starts with its own stack and tables in its ring") {
    const auto ring3 =
        boot::initial_cpu_state(2, boot::Privilege::Ring3, kernel_virt, {true, true, true});
    const std::uint64_t area = direct_map_base + boot::cpu_areas_phys + 2 * boot::cpu_area_size;
    CHECK(ring3.rsp == area + boot::boot_stack_top);
    CHECK(ring3.rsi == 2);
    CHECK(ring3.rdi == direct_map_base + boot::boot_block_phys);
    CHECK(ring3.rflags == 0x202);
    CHECK(ring3.code_selector == 0x33);
    CHECK(ring3.data_selector == 0x2b);
    CHECK(ring3.privilege_level == 3);
    CHECK(ring3.cr4 == 0x506a0);
    CHECK(ring3.cr0 == 0x8005'0033);
    CHECK(ring3.efer == 0xd01);
    CHECK(ring3.gdt_base == area);
    CHECK(ring3.tss_base == area + 0x100);
    CHECK(ring3.idt_base == area + 0x1000);

    const auto ring0 =
        boot::initial_cpu_state(0, boot::Privilege::Ring0, kernel_virt, {true, true, true});
    CHECK(ring0.rflags == 2);
    CHECK(ring0.code_selector == 0x10);
    CHECK(ring0.data_selector == 0x18);
    CHECK(ring0.privilege_level == 0);
    CHECK(ring0.cr4 == (0x506a0 | 1u << 20 | 1u << 21 | 1u << 11));
    CHECK(ring0.star == 0x0023'0010'0000'0000);
}
