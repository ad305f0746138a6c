// The crash report: what a person sees when the guest kernel panics, faults thrice, or executes
// what KVM cannot emulate. Nothing of KVM in it; the guest's memory and registers may hold
// anything.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "boot/elf/symbols.hpp"
#include "virtio/memory/guest_memory.hpp"

namespace vmm::crash {

struct CpuRegisters {
    std::uint64_t rip = 0, rsp = 0, rbp = 0, rflags = 0;
    std::uint64_t rax = 0, rbx = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0;
    std::uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0, r12 = 0, r13 = 0, r14 = 0, r15 = 0;
    std::uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0;
    std::uint16_t cs = 0, ss = 0;
    std::uint64_t fs_base = 0, gs_base = 0;
};

struct Exception {
    std::uint64_t vector;
    std::uint64_t error_code;
};

struct Crash {
    std::string title; // first line: what happened, with the guest's own message
    unsigned cpu = 0;
    CpuRegisters registers;
    bool registers_lost = false;        // then nothing but the title can be told
    std::optional<Exception> exception; // what the kernel says it was handling
};

// Several lines, without a newline at the end.
std::string write_report(const Crash& crash, const virtio::GuestMemory& memory,
                         const boot::SymbolTable& symbols);

// "joey::mm::Buddy::free(unsigned long)+0x1c", or nothing for an address in no symbol.
std::optional<std::string> symbolize(const boot::SymbolTable& symbols, std::uint64_t address);

// The guest's bytes made fit for a terminal: what is not printable ASCII becomes '?'.
std::string printable(std::string_view text);

} // namespace vmm::crash
