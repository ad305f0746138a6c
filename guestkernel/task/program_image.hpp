// A program in a fresh address space: its segments, its interpreter, the vDSO, the stack with
// arguments and auxiliary vector.
#pragma once

#include "guestkernel/fs/file.hpp"
#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/task/address_layout.hpp"
#include "guestkernel/task/elf.hpp"
#include "guestkernel/task/exec_strings.hpp"

namespace kernel {

struct ProgramImage {
    Ref<AddressSpace> space;
    u64 entry = 0;
    u64 stack_pointer = 0;
};

struct ProgramIds {
    u32 uid, euid, gid, egid; // for the auxiliary vector, as is the next
    bool secure;
    u32 personality;
};

// `file` is the program (an ELF file; `header` its first bytes), `name` what AT_EXECFN shows.
Result<ProgramImage> build_program(Ref<File> file, std::span<const u8> header,
                                   std::string_view name, const ExecStrings& strings,
                                   const ProgramIds& ids);

// Builds the stack in `space`: what is at the stack pointer is as the ABI supplement (x86-64
// psABI 3.4.1) says. `auxiliary` are pairs without the terminating AT_NULL; AT_RANDOM, AT_EXECFN
// and AT_PLATFORM are added here.
Result<u64> build_stack(AddressSpace& space, const AddressLayout& layout, std::string_view name,
                        const ExecStrings& strings, std::span<const u64> auxiliary,
                        bool executable);

} // namespace kernel
