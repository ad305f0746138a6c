// The function symbols of an ELF file, for crash reports. Damaged tables yield fewer symbols, never
// an error: a report with addresses only is better than none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace boot {

class SymbolTable {
public:
    struct Match {
        std::string_view name; // as in the file: mangled
        std::uint64_t offset;  // of the address from the symbol's start
        std::uint64_t size;    // of the symbol; 0 if the file does not say
    };

    SymbolTable() = default;
    // The names point into `file`, which must outlive the table.
    explicit SymbolTable(std::span<const std::byte> file);

    // The symbol that contains `address`, or, between symbols of unknown size, the nearest before
    // it.
    std::optional<Match> find(std::uint64_t address) const;
    // The address of the symbol so named, mangled name.
    std::optional<std::uint64_t> address_of(std::string_view name) const;
    bool empty() const { return symbols_.empty(); }

private:
    struct Symbol {
        std::uint64_t address;
        std::uint64_t size;
        std::string_view name;
    };
    std::vector<Symbol> symbols_; // ascending by address
};

} // namespace boot
