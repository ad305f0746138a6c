#include "boot/elf/symbols.hpp"

#include <algorithm>
#include <cstring>
#include <elf.h>

#include "base/checked.hpp"

namespace boot {
namespace {

using Bytes = std::span<const std::byte>;

// More symbols than any kernel has: bounds the work on a damaged file.
constexpr std::uint64_t max_symbols = 1u << 20;

std::optional<Bytes> section_bytes(Bytes file, const Elf64_Shdr& section) {
    if (section.sh_offset > file.size() || file.size() - section.sh_offset < section.sh_size)
        return std::nullopt;
    return file.subspan(section.sh_offset, section.sh_size);
}

std::optional<Elf64_Shdr> section_header(Bytes file, const Elf64_Ehdr& header,
                                         std::uint64_t index) {
    if (index >= header.e_shnum)
        return std::nullopt;
    const auto at = base::checked_add(std::uint64_t{header.e_shoff}, index * sizeof(Elf64_Shdr));
    if (!at || *at > file.size() || file.size() - *at < sizeof(Elf64_Shdr))
        return std::nullopt;
    Elf64_Shdr section{};
    std::memcpy(&section, file.data() + *at, sizeof(section));
    return section;
}

std::string_view string_at(Bytes strings, std::uint64_t offset) {
    if (offset >= strings.size())
        return {};
    // SAFETY: char may alias any object; the range is inside `strings`.
    const char* start = reinterpret_cast<const char*>(strings.data()) + offset;
    return {start, strnlen(start, strings.size() - offset)};
}

} // namespace

SymbolTable::SymbolTable(Bytes file) {
    Elf64_Ehdr header{};
    if (file.size() < sizeof(header))
        return;
    std::memcpy(&header, file.data(), sizeof(header));
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
        header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr))
        return;
    for (std::uint64_t i = 0; i < header.e_shnum; ++i) {
        const auto table = section_header(file, header, i);
        if (!table || table->sh_type != SHT_SYMTAB || table->sh_entsize != sizeof(Elf64_Sym))
            continue;
        const auto entries = section_bytes(file, *table);
        const auto names = section_header(file, header, table->sh_link);
        if (!entries || !names)
            continue;
        const auto strings = section_bytes(file, *names);
        if (!strings)
            continue;
        const std::uint64_t count =
            std::min<std::uint64_t>(entries->size() / sizeof(Elf64_Sym), max_symbols);
        for (std::uint64_t n = 0; n < count; ++n) {
            Elf64_Sym symbol{};
            std::memcpy(&symbol, entries->data() + n * sizeof(symbol), sizeof(symbol));
            const unsigned type = ELF64_ST_TYPE(symbol.st_info);
            // Assembly labels are STT_NOTYPE; absolute constants are not places in the code.
            if ((type != STT_FUNC && type != STT_NOTYPE) || symbol.st_shndx == SHN_UNDEF ||
                symbol.st_shndx == SHN_ABS)
                continue;
            const std::string_view name = string_at(*strings, symbol.st_name);
            if (!name.empty())
                symbols_.push_back({symbol.st_value, symbol.st_size, name});
        }
        break; // at most one SHT_SYMTAB (ELF specification)
    }
    // Of several names for one address the sized one comes last and so is found first.
    std::sort(symbols_.begin(), symbols_.end(), [](const Symbol& a, const Symbol& b) {
        return a.address != b.address ? a.address < b.address : a.size < b.size;
    });
}

std::optional<SymbolTable::Match> SymbolTable::find(std::uint64_t address) const {
    auto after = std::upper_bound(symbols_.begin(), symbols_.end(), address,
                                  [](std::uint64_t a, const Symbol& s) { return a < s.address; });
    if (after == symbols_.begin())
        return std::nullopt;
    const Symbol& symbol = *(after - 1);
    const std::uint64_t offset = address - symbol.address;
    // One past the end still belongs to it: the return address of a call that does not return.
    if (symbol.size != 0 && offset > symbol.size)
        return std::nullopt;
    return Match{symbol.name, offset, symbol.size};
}

std::optional<std::uint64_t> SymbolTable::address_of(std::string_view name) const {
    for (const Symbol& symbol : symbols_) {
        if (symbol.name == name)
            return symbol.address;
    }
    return std::nullopt;
}

} // namespace boot
