// The instructions around one address, by Zydis.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace vmm::crash {

struct Instruction {
    std::uint64_t address;
    std::string text;
};

// Decodes `code`, which lies at `address`, from its start to its end or the first bad instruction.
std::vector<Instruction> disassemble(std::span<const std::byte> code, std::uint64_t address);

} // namespace vmm::crash
