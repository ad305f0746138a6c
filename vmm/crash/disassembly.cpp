#include "vmm/crash/disassembly.hpp"

#include <Zydis/Zydis.h>

namespace vmm::crash {

std::vector<Instruction> disassemble(std::span<const std::byte> code, std::uint64_t address) {
    std::vector<Instruction> instructions;
    ZydisDisassembledInstruction decoded{};
    while (!code.empty() &&
           ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, address, code.data(),
                                              code.size(), &decoded))) {
        instructions.push_back({address, decoded.text});
        code = code.subspan(decoded.info.length);
        address += decoded.info.length;
    }
    return instructions;
}

} // namespace vmm::crash
