#include <string_view>

#include <catch2/catch.hpp>

#include "boot/elf/checksum.hpp"
#include "boot/elf/elf_builder.hpp"
#include "boot/elf/kernel_image.hpp"
#include "boot/elf/symbols.hpp"

using boot::kernel_virt;
using boot::testing::ElfBuilder;

namespace {

bool is_refused(const ElfBuilder& elf, std::string_view reason) {
    const auto image = boot::parse_kernel_image(elf.build());
    return !image && std::string_view(image.error().reason).find(reason) != std::string_view::npos;
}

} // namespace

TEST_CASE("a kernel's segments are found with their permissions") {
    const auto image = boot::parse_kernel_image(ElfBuilder::kernel().build());
    REQUIRE(image);
    CHECK(image->entry == kernel_virt + 0x10);
    CHECK(image->size == 0x7000);
    REQUIRE(image->segments.size() == 3);
    CHECK(image->segments[0].executable);
    CHECK_FALSE(image->segments[0].writable);
    CHECK_FALSE(image->segments[1].executable);
    CHECK(image->segments[2].writable);
    CHECK(image->segments[2].memory_size == 0x5000);
    CHECK(image->segments[2].file_offset == 0x3000);
    CHECK(image->segments[2].mappable());
    CHECK(image->segments[2].end_of_pages() == 0x7000);
}

TEST_CASE("a segment that is not aligned in the file is not mappable") {
    ElfBuilder elf = ElfBuilder::kernel();
    elf.segments[1].p_offset += 8;
    const auto image = boot::parse_kernel_image(elf.build());
    REQUIRE(image);
    CHECK_FALSE(image->segments[1].mappable());
}

TEST_CASE("what is no kernel is refused with the reason") {
    ElfBuilder elf = ElfBuilder::kernel();
    SECTION("no ELF") {
        elf.header.e_ident[0] = 'X';
        CHECK(is_refused(elf, "not an ELF file"));
    }
    SECTION("another machine") {
        elf.header.e_machine = EM_AARCH64;
        CHECK(is_refused(elf, "x86-64"));
    }
    SECTION("position-independent") {
        elf.header.e_type = ET_DYN;
        CHECK(is_refused(elf, "static executable"));
    }
    SECTION("dynamically linked") {
        elf.segments[1].p_type = PT_INTERP;
        CHECK(is_refused(elf, "dynamically linked"));
    }
    SECTION("program headers beyond the file") {
        elf.header.e_phnum = 60000;
        CHECK(is_refused(elf, "nothing to load") == false);
        CHECK_FALSE(boot::parse_kernel_image(elf.build()));
    }
    SECTION("a segment beyond the file") {
        elf.segments[0].p_offset = 0x3fff;
        CHECK(is_refused(elf, "truncated"));
    }
    SECTION("an offset that wraps") {
        elf.segments[0].p_offset = ~0ull - 0x10;
        CHECK(is_refused(elf, "truncated"));
    }
    SECTION("more in the file than in memory") {
        elf.segments[0].p_memsz = 0x7ff;
        CHECK(is_refused(elf, "larger in the file"));
    }
    SECTION("below the kernel's range") {
        elf.segments[0].p_vaddr = kernel_virt - 0x1000;
        CHECK(is_refused(elf, "outside"));
    }
    SECTION("above the kernel's range") {
        elf.segments[2].p_memsz = boot::max_kernel_size;
        CHECK(is_refused(elf, "outside"));
    }
    SECTION("memory that wraps") {
        elf.segments[2].p_memsz = ~0ull;
        CHECK(is_refused(elf, "outside"));
    }
    SECTION("segments that share a page") {
        elf.segments[1].p_vaddr = kernel_virt + 0x800;
        CHECK(is_refused(elf, "overlap"));
    }
    SECTION("writable code") {
        elf.segments[0].p_flags |= PF_W;
        CHECK(is_refused(elf, "writable and executable"));
    }
    SECTION("an entry in data") {
        elf.header.e_entry = kernel_virt + 0x2000;
        CHECK(is_refused(elf, "entry point"));
    }
    SECTION("an entry below the kernel") {
        elf.header.e_entry = 0x1000;
        CHECK(is_refused(elf, "entry point"));
    }
}

TEST_CASE("a kernel cut off anywhere is refused or complete, never read beyond its end") {
    const auto whole = ElfBuilder::kernel().build();
    for (std::size_t length = 0; length < whole.size(); length += 7) {
        // A copy of exactly this size, so that a sanitizer sees a read beyond it.
        const std::vector<std::byte> cut(whole.begin(),
                                         whole.begin() + static_cast<std::ptrdiff_t>(length));
        const auto image = boot::parse_kernel_image(cut);
        CHECK(image.has_value() == (length >= 0x3100));
    }
}

TEST_CASE("addresses are found in the symbol that contains them") {
    ElfBuilder elf = ElfBuilder::kernel();
    elf.functions = {{"second", kernel_virt + 0x100, 0x40}, {"first", kernel_virt + 0x10, 0x20}};
    const auto file = elf.build();
    const boot::SymbolTable symbols(file);
    REQUIRE(symbols.find(kernel_virt + 0x11));
    CHECK(symbols.find(kernel_virt + 0x11)->name == "first");
    CHECK(symbols.find(kernel_virt + 0x11)->offset == 1);
    CHECK(symbols.find(kernel_virt + 0x120)->name == "second");
    CHECK_FALSE(symbols.find(kernel_virt));
    CHECK_FALSE(symbols.find(kernel_virt + 0x80));
    CHECK_FALSE(symbols.find(kernel_virt + 0x141));
    CHECK(symbols.address_of("second") == kernel_virt + 0x100);
    CHECK_FALSE(symbols.address_of("third"));
}

TEST_CASE("a damaged symbol table yields fewer symbols, not a failure") {
    ElfBuilder elf = ElfBuilder::kernel();
    elf.functions = {{"only", kernel_virt + 0x10, 0x20}};
    auto file = elf.build();
    const auto length = GENERATE(range(0, 400, 9));
    file.resize(file.size() - static_cast<std::size_t>(length));
    const boot::SymbolTable symbols(file);
    CHECK(symbols.empty() == (length != 0));
}

TEST_CASE("the checksum tells of any damage to the headers and to what is loaded") {
    std::vector<std::byte> file = ElfBuilder::kernel().build();
    const auto image = boot::parse_kernel_image(file);
    REQUIRE(image);
    CHECK_FALSE(boot::verify_checksum(file, *image));
    REQUIRE(boot::add_checksum(file));
    CHECK(boot::verify_checksum(file, *image));
    const auto damage_is_seen = [&](std::size_t at) {
        file[at] ^= std::byte{1};
        const auto damaged = boot::parse_kernel_image(file);
        const bool seen = !damaged || !boot::verify_checksum(file, *damaged);
        file[at] ^= std::byte{1};
        return seen;
    };
    for (std::size_t at = 0; at < sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr); ++at) {
        INFO(at);
        CHECK(damage_is_seen(at));
    }
    for (const boot::KernelSegment& segment : image->segments) {
        for (std::size_t at = 0; at < segment.file_size; ++at)
            REQUIRE(damage_is_seen(segment.file_offset + at));
    }
    std::vector<std::byte> other(64);
    CHECK_FALSE(boot::add_checksum(other));
}
