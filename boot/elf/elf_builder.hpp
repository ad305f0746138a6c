// Makes small ELF files for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <elf.h>
#include <string>
#include <vector>

#include "boot/protocol/layout.hpp"

namespace boot::testing {

struct ElfBuilder {
    struct Function {
        std::string name;
        std::uint64_t address;
        std::uint64_t size;
    };

    Elf64_Ehdr header{};
    std::vector<Elf64_Phdr> segments;
    std::vector<Function> functions;
    std::size_t file_size = 0x4000;

    // Text, read-only data and data with zeros behind, as the kernel has them.
    static ElfBuilder kernel() {
        ElfBuilder elf;
        std::memcpy(elf.header.e_ident, ELFMAG, SELFMAG);
        elf.header.e_ident[EI_CLASS] = ELFCLASS64;
        elf.header.e_ident[EI_DATA] = ELFDATA2LSB;
        elf.header.e_ident[EI_VERSION] = EV_CURRENT;
        elf.header.e_type = ET_EXEC;
        elf.header.e_machine = EM_X86_64;
        elf.header.e_version = EV_CURRENT;
        elf.header.e_entry = kernel_virt + 0x10;
        elf.header.e_ehsize = sizeof(Elf64_Ehdr);
        elf.header.e_phentsize = sizeof(Elf64_Phdr);
        elf.header.e_shentsize = sizeof(Elf64_Shdr);
        elf.add_segment(0x1000, 0, 0x800, 0x800, PF_R | PF_X);
        elf.add_segment(0x2000, 0x1000, 0x200, 0x200, PF_R);
        elf.add_segment(0x3000, 0x2000, 0x100, 0x5000, PF_R | PF_W);
        return elf;
    }

    void add_segment(std::uint64_t offset, std::uint64_t image_offset, std::uint64_t in_file,
                     std::uint64_t in_memory, std::uint32_t flags) {
        Elf64_Phdr segment{};
        segment.p_type = PT_LOAD;
        segment.p_flags = flags;
        segment.p_offset = offset;
        segment.p_vaddr = kernel_virt + image_offset;
        segment.p_filesz = in_file;
        segment.p_memsz = in_memory;
        segment.p_align = page_size;
        segments.push_back(segment);
    }

    std::vector<std::byte> build() const {
        std::vector<std::byte> file(file_size);
        Elf64_Ehdr head = header;
        head.e_phoff = sizeof(head);
        if (head.e_phnum == 0)
            head.e_phnum = static_cast<Elf64_Half>(segments.size());
        for (std::size_t i = 0; i < segments.size(); ++i)
            std::memcpy(file.data() + sizeof(head) + i * sizeof(Elf64_Phdr), &segments[i],
                        sizeof(Elf64_Phdr));
        append_symbols(file, head);
        std::memcpy(file.data(), &head, sizeof(head));
        return file;
    }

private:
    static void append(std::vector<std::byte>& file, const void* data, std::size_t size) {
        const std::size_t at = file.size();
        file.resize(at + size);
        std::memcpy(file.data() + at, data, size);
    }

    void append_symbols(std::vector<std::byte>& file, Elf64_Ehdr& head) const {
        if (functions.empty())
            return;
        std::string names(1, '\0');
        std::vector<Elf64_Sym> symbols(1);
        for (const Function& function : functions) {
            Elf64_Sym symbol{};
            symbol.st_name = static_cast<Elf64_Word>(names.size());
            symbol.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC);
            symbol.st_shndx = 1;
            symbol.st_value = function.address;
            symbol.st_size = function.size;
            symbols.push_back(symbol);
            names += function.name + '\0';
        }
        Elf64_Shdr table{};
        table.sh_type = SHT_SYMTAB;
        table.sh_offset = file.size();
        table.sh_size = symbols.size() * sizeof(Elf64_Sym);
        table.sh_entsize = sizeof(Elf64_Sym);
        table.sh_link = 2;
        append(file, symbols.data(), table.sh_size);
        Elf64_Shdr strings{};
        strings.sh_type = SHT_STRTAB;
        strings.sh_offset = file.size();
        strings.sh_size = names.size();
        append(file, names.data(), names.size());
        const Elf64_Shdr none{};
        head.e_shoff = file.size();
        head.e_shnum = 3;
        append(file, &none, sizeof(none));
        append(file, &table, sizeof(table));
        append(file, &strings, sizeof(strings));
    }
};

} // namespace boot::testing
