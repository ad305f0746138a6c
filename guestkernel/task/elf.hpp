// ELF images: what a header page says, checked; nothing here touches an address space.
#pragma once

#include <span>

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

struct ElfSegment {
    u64 address = 0, file_size = 0, memory_size = 0, offset = 0;
    u32 protection = 0; // PROT_*
};

struct ElfImage {
    static constexpr unsigned max_segments = 64;
    bool position_independent = false;
    u64 entry = 0;
    u64 header_offset = 0;  // of the program headers in the file
    u64 header_address = 0; // of the program headers in memory (before relocation); 0: not mapped
    u32 header_count = 0;
    u64 interpreter_offset = 0, interpreter_size = 0; // PT_INTERP; size 0: none
    bool executable_stack = false;
    u64 alignment = 4096; // the largest of the segments'
    ElfSegment segments[max_segments];
    unsigned segment_count = 0;

    u64 low() const;  // page of the first byte
    u64 high() const; // page after the last
};

// `header`: the first bytes of the file (at least the ELF header); ENOEXEC unless this is an x86-64
// executable. Tells where the program headers are.
Result<void> check_elf_header(std::span<const u8> header, u64& table_offset, usize& table_bytes);
// `table`: the program headers.
Result<void> read_elf_segments(std::span<const u8> header, std::span<const u8> table,
                               ElfImage& image);

} // namespace kernel
