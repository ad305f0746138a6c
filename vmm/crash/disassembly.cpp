#include "vmm/crash/disassembly.hpp"

#include <capstone/capstone.h>

namespace vmm::crash {

std::vector<Instruction> disassemble(std::span<const std::byte> code, std::uint64_t address) {
    std::vector<Instruction> instructions;
    csh handle = 0;
    if (cs_open(CS_ARCH_X86, CS_MODE_64, &handle) != CS_ERR_OK)
        return instructions;
    cs_insn* decoded = nullptr;
    // SAFETY: unsigned char may alias any object.
    const std::size_t count = cs_disasm(handle, reinterpret_cast<const std::uint8_t*>(code.data()),
                                        code.size(), address, 0, &decoded);
    for (std::size_t i = 0; i < count; ++i) {
        const cs_insn& instruction = decoded[i];
        std::string text = instruction.mnemonic;
        if (instruction.op_str[0] != '\0')
            text.append(" ").append(instruction.op_str);
        instructions.push_back({instruction.address, std::move(text)});
    }
    if (count != 0)
        cs_free(decoded, count);
    cs_close(&handle);
    return instructions;
}

} // namespace vmm::crash
