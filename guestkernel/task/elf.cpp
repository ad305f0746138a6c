#include "guestkernel/task/elf.hpp"

#include <linux/elf.h>
#include <linux/errno.h>
#include <linux/mman.h>

namespace kernel {

namespace {

u32 protection_of(u32 flags) {
    u32 protection = 0;
    if ((flags & PF_R) != 0)
        protection |= PROT_READ;
    if ((flags & PF_W) != 0)
        protection |= PROT_WRITE;
    if ((flags & PF_X) != 0)
        protection |= PROT_EXEC;
    return protection;
}

Result<void> add_segment(const Elf64_Phdr& entry, ElfImage& image) {
    const u64 page_offset = page_size - 1;
    const u64 end = entry.p_vaddr + entry.p_memsz;
    if (entry.p_filesz > entry.p_memsz || end < entry.p_vaddr || end > user_max ||
        ((entry.p_vaddr ^ entry.p_offset) & page_offset) != 0 ||
        entry.p_offset + entry.p_filesz < entry.p_offset)
        return fail(ENOEXEC);
    if (entry.p_memsz == 0)
        return {};
    if (image.segment_count == ElfImage::max_segments)
        return fail(ENOEXEC);
    // The specification wants ascending addresses; mapping relies on it.
    if (image.segment_count != 0) {
        const ElfSegment& last = image.segments[image.segment_count - 1];
        if (entry.p_vaddr < last.address)
            return fail(ENOEXEC);
    }
    image.segments[image.segment_count++] = {entry.p_vaddr, entry.p_filesz, entry.p_memsz,
                                             entry.p_offset, protection_of(entry.p_flags)};
    if (entry.p_align > image.alignment && (entry.p_align & (entry.p_align - 1)) == 0)
        image.alignment = entry.p_align;
    // Where the headers themselves end up in memory: AT_PHDR.
    if (entry.p_offset <= image.header_offset &&
        image.header_offset < entry.p_offset + entry.p_filesz)
        image.header_address = image.header_offset - entry.p_offset + entry.p_vaddr;
    return {};
}

} // namespace

u64 ElfImage::low() const {
    return page_down(segments[0].address);
}

u64 ElfImage::high() const {
    u64 end = 0;
    for (unsigned i = 0; i < segment_count; i++)
        if (segments[i].address + segments[i].memory_size > end)
            end = segments[i].address + segments[i].memory_size;
    return page_up(end);
}

Result<void> check_elf_header(std::span<const u8> header, u64& table_offset, usize& table_bytes) {
    Elf64_Ehdr elf;
    if (header.size() < sizeof elf)
        return fail(ENOEXEC);
    __builtin_memcpy(&elf, header.data(), sizeof elf);
    const auto* ident = elf.e_ident;
    if (ident[EI_MAG0] != ELFMAG0 || ident[EI_MAG1] != 'E' || ident[EI_MAG2] != 'L' ||
        ident[EI_MAG3] != 'F' || ident[EI_CLASS] != ELFCLASS64 || ident[EI_DATA] != ELFDATA2LSB)
        return fail(ENOEXEC);
    if ((elf.e_type != ET_EXEC && elf.e_type != ET_DYN) || elf.e_machine != EM_X86_64)
        return fail(ENOEXEC);
    if (elf.e_phentsize != sizeof(Elf64_Phdr) || elf.e_phnum == 0 ||
        elf.e_phnum > 4096 / sizeof(Elf64_Phdr) * 16)
        return fail(ENOEXEC);
    table_offset = elf.e_phoff;
    table_bytes = elf.e_phnum * sizeof(Elf64_Phdr);
    return {};
}

Result<void> read_elf_segments(std::span<const u8> header, std::span<const u8> table,
                               ElfImage& image) {
    Elf64_Ehdr elf;
    __builtin_memcpy(&elf, header.data(), sizeof elf);
    image.position_independent = elf.e_type == ET_DYN;
    image.entry = elf.e_entry;
    image.header_offset = elf.e_phoff;
    image.header_count = elf.e_phnum;
    for (usize at = 0; at + sizeof(Elf64_Phdr) <= table.size(); at += sizeof(Elf64_Phdr)) {
        Elf64_Phdr entry;
        __builtin_memcpy(&entry, table.data() + at, sizeof entry);
        switch (entry.p_type) {
        case PT_LOAD:
            TRY(add_segment(entry, image));
            break;
        case PT_INTERP:
            // A path with its NUL, not longer than a path may be.
            if (entry.p_filesz < 2 || entry.p_filesz > 4096)
                return fail(ENOEXEC);
            image.interpreter_offset = entry.p_offset;
            image.interpreter_size = entry.p_filesz;
            break;
        case PT_GNU_STACK:
            image.executable_stack = (entry.p_flags & PF_X) != 0;
            break;
        default:
            break;
        }
    }
    if (image.segment_count == 0)
        return fail(ENOEXEC);
    return {};
}

} // namespace kernel
