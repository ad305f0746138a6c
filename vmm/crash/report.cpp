#include "vmm/crash/report.hpp"

#include <algorithm>
#include <cstdlib>
#include <cxxabi.h>
#include <memory>
#include <vector>

#include <fmt/format.h>

#include "boot/protocol/layout.hpp"
#include "vmm/crash/disassembly.hpp"
#include "vmm/crash/guest_view.hpp"

namespace vmm::crash {
namespace {

constexpr std::size_t max_frames = 32;
constexpr std::uint64_t max_frame_size = 1u << 20;
constexpr std::size_t lines_before = 6;
constexpr std::size_t lines_after = 6;
// How far back a symbol's start may lie to decode from there.
constexpr std::uint64_t max_lead = 16384;

const char* exception_name(std::uint64_t vector) {
    constexpr std::array names{"divide error",
                               "debug",
                               "NMI",
                               "breakpoint",
                               "overflow",
                               "bound range",
                               "invalid opcode",
                               "no FPU",
                               "double fault",
                               "coprocessor overrun",
                               "invalid TSS",
                               "segment not present",
                               "stack fault",
                               "general protection",
                               "page fault",
                               "reserved",
                               "x87 error",
                               "alignment check",
                               "machine check",
                               "SIMD error",
                               "virtualization",
                               "control protection"};
    return vector < names.size() ? names[vector] : "interrupt";
}

std::string demangle(std::string_view name) {
    const std::string mangled(name);
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> plain(
        abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), &std::free);
    return status == 0 && plain != nullptr ? std::string(plain.get()) : mangled;
}

bool is_kernel_code(std::uint64_t address) {
    return address >= boot::kernel_virt && address - boot::kernel_virt < boot::max_kernel_size;
}

std::string place(const boot::SymbolTable& symbols, std::uint64_t address) {
    if (auto name = symbolize(symbols, address))
        return *name;
    return address >> 63 == 0 ? "(user address)" : "(no symbol)";
}

void write_registers(std::string& out, const CpuRegisters& r) {
    const auto to = std::back_inserter(out);
    fmt::format_to(to, "\n  rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}", r.rax, r.rbx,
                   r.rcx, r.rdx);
    fmt::format_to(to, "\n  rsi {:016x}  rdi {:016x}  rbp {:016x}  rsp {:016x}", r.rsi, r.rdi,
                   r.rbp, r.rsp);
    fmt::format_to(to, "\n  r8  {:016x}  r9  {:016x}  r10 {:016x}  r11 {:016x}", r.r8, r.r9, r.r10,
                   r.r11);
    fmt::format_to(to, "\n  r12 {:016x}  r13 {:016x}  r14 {:016x}  r15 {:016x}", r.r12, r.r13,
                   r.r14, r.r15);
    fmt::format_to(to, "\n  rip {:016x}  rflags {:x}  cs {:x}  ss {:x}  fs {:x}  gs {:x}", r.rip,
                   r.rflags, r.cs, r.ss, r.fs_base, r.gs_base);
    fmt::format_to(to, "\n  cr0 {:x}  cr2 {:016x}  cr3 {:x}  cr4 {:x}", r.cr0, r.cr2, r.cr3, r.cr4);
}

// By frame pointers: [rbp] = the caller's rbp, [rbp + 8] = the return address (System V ABI 3.2.2).
std::vector<std::uint64_t> return_addresses(const GuestView& view, std::uint64_t rbp) {
    std::vector<std::uint64_t> addresses;
    std::uint64_t frame = rbp;
    while (addresses.size() < max_frames) {
        const auto next = view.read_word(frame);
        const auto address = view.read_word(frame + 8);
        if (!next || !address || *address == 0)
            break;
        addresses.push_back(*address);
        // Stacks grow downwards: a caller's frame lies above, or the chain is broken.
        if (*next <= frame || *next - frame > max_frame_size)
            break;
        frame = *next;
    }
    return addresses;
}

void write_backtrace(std::string& out, const CpuRegisters& registers, const GuestView& view,
                     const boot::SymbolTable& symbols) {
    const auto to = std::back_inserter(out);
    fmt::format_to(to, "\nbacktrace:\n  {:016x} {}", registers.rip, place(symbols, registers.rip));
    const auto addresses = return_addresses(view, registers.rbp);
    for (const std::uint64_t address : addresses) {
        // A call's return address may already belong to the next function.
        fmt::format_to(to, "\n  {:016x} {}", address, place(symbols, address - 1));
    }
    if (addresses.size() >= 2)
        return;
    // A broken frame pointer: words on the stack that look like return addresses are a hint.
    constexpr std::uint64_t words = 128;
    std::string hints;
    for (std::uint64_t i = 0; i < words; ++i) {
        const auto word = view.read_word(registers.rsp + i * 8);
        if (!word)
            break;
        if (is_kernel_code(*word)) {
            if (const auto name = symbolize(symbols, *word - 1))
                hints += fmt::format("\n  {:016x} {}", *word, *name);
        }
    }
    if (!hints.empty())
        out += "\npossible callers, from the stack:" + hints;
}

void write_code(std::string& out, std::uint64_t rip, const GuestView& view,
                const boot::SymbolTable& symbols) {
    // Instructions have no marked beginnings, so decoding starts where a function does.
    const auto symbol = symbols.find(rip);
    const std::uint64_t lead = symbol && symbol->offset <= max_lead ? symbol->offset : 0;
    std::vector<std::byte> code(lead + 96);
    code.resize(view.read(rip - lead, code));
    auto instructions = disassemble(code, rip - lead);
    auto here = std::ranges::find(instructions, rip, &Instruction::address);
    if (here == instructions.end() && lead != 0) {
        code.erase(code.begin(), code.begin() + static_cast<std::ptrdiff_t>(
                                                    std::min<std::uint64_t>(lead, code.size())));
        instructions = disassemble(code, rip);
        here = instructions.begin();
    }
    out += "\ncode:";
    if (here == instructions.end()) {
        out += code.empty() ? " not mapped" : " no valid instruction";
        return;
    }
    const auto index = static_cast<std::size_t>(here - instructions.begin());
    const std::size_t first = index - std::min(index, lines_before);
    const std::size_t last = std::min(instructions.size(), index + lines_after + 1);
    for (std::size_t i = first; i < last; ++i)
        fmt::format_to(std::back_inserter(out), "\n{} {:016x}  {}", i == index ? "->" : "  ",
                       instructions[i].address, instructions[i].text);
}

} // namespace

std::optional<std::string> symbolize(const boot::SymbolTable& symbols, std::uint64_t address) {
    if (!is_kernel_code(address))
        return std::nullopt;
    const auto match = symbols.find(address);
    if (!match)
        return std::nullopt;
    return fmt::format("{}+{:#x}", demangle(match->name), match->offset);
}

std::string printable(std::string_view text) {
    std::string clean(text);
    for (char& c : clean) {
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f || (c & 0x80) != 0)
            c = '?';
    }
    return clean;
}

std::string write_report(const Crash& crash, const virtio::GuestMemory& memory,
                         const boot::SymbolTable& symbols) {
    const CpuRegisters& registers = crash.registers;
    const GuestView view(memory, registers.cr3);
    std::string out = printable(crash.title);
    if (crash.registers_lost) {
        fmt::format_to(
            std::back_inserter(out),
            "\nvCPU {} does not say where it stood: KVM reset it, and its registers are lost",
            crash.cpu);
        return out;
    }
    fmt::format_to(std::back_inserter(out), "\nvCPU {} at {}", crash.cpu,
                   place(symbols, registers.rip));
    if (crash.exception)
        fmt::format_to(std::back_inserter(out), ", exception {} ({}), error code {:#x}",
                       crash.exception->vector, exception_name(crash.exception->vector),
                       crash.exception->error_code);
    write_registers(out, registers);
    write_backtrace(out, registers, view, symbols);
    write_code(out, registers.rip, view, symbols);
    return out;
}

} // namespace vmm::crash
