#include "boot/elf/kernel_image.hpp"

#include <cstring>
#include <elf.h>

#include "base/checked.hpp"
#include "boot/protocol/layout.hpp"

namespace boot {
namespace {

// Reads a T at `offset`, wherever it is aligned. Nothing if it is not wholly inside.
template <typename T>
bool read_at(std::span<const std::byte> file, std::uint64_t offset, T& out) {
    if (offset > file.size() || file.size() - offset < sizeof(T))
        return false;
    std::memcpy(&out, file.data() + offset, sizeof(T));
    return true;
}

Result<Elf64_Ehdr> read_header(std::span<const std::byte> file) {
    Elf64_Ehdr header{};
    if (!read_at(file, 0, header))
        return fail("the kernel image is too short to be an ELF file");
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
        return fail("the kernel image is not an ELF file");
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_ident[EI_VERSION] != EV_CURRENT || header.e_machine != EM_X86_64)
        return fail("the kernel image is not for x86-64");
    if (header.e_type != ET_EXEC)
        return fail("the kernel image is not a static executable (ET_EXEC)");
    if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
        header.e_phnum == PN_XNUM)
        return fail("the kernel image has no usable program headers");
    return header;
}

Result<KernelSegment> check_segment(const Elf64_Phdr& segment, std::uint64_t file_size) {
    if (segment.p_filesz > segment.p_memsz)
        return fail("a segment of the kernel image is larger in the file than in memory");
    if (segment.p_offset > file_size || file_size - segment.p_offset < segment.p_filesz)
        return fail("the kernel image is truncated: a segment ends beyond the file");
    if (segment.p_vaddr < kernel_virt || segment.p_vaddr - kernel_virt >= max_kernel_size ||
        segment.p_memsz > max_kernel_size - (segment.p_vaddr - kernel_virt))
        return fail("a segment of the kernel image lies outside the kernel's address range");
    const bool writable = (segment.p_flags & PF_W) != 0;
    const bool executable = (segment.p_flags & PF_X) != 0;
    if (writable && executable)
        return fail("a segment of the kernel image is writable and executable");
    return KernelSegment{segment.p_vaddr - kernel_virt,
                         segment.p_offset,
                         segment.p_filesz,
                         segment.p_memsz,
                         writable,
                         executable};
}

bool entry_is_code(const KernelImage& image) {
    for (const KernelSegment& segment : image.segments) {
        if (segment.executable && image.entry >= kernel_virt &&
            image.entry - kernel_virt >= segment.image_offset &&
            image.entry - kernel_virt - segment.image_offset < segment.file_size)
            return true;
    }
    return false;
}

} // namespace

bool KernelSegment::mappable() const {
    return image_offset % page_size == file_offset % page_size;
}

std::uint64_t KernelSegment::first_page() const {
    return base::align_down(image_offset, page_size);
}

std::uint64_t KernelSegment::end_of_pages() const {
    return base::align_up(image_offset + memory_size, page_size);
}

Result<KernelImage> parse_kernel_image(std::span<const std::byte> file) {
    TRY(const Elf64_Ehdr header, read_header(file));
    KernelImage image{header.e_entry, 0, {}};
    for (std::uint64_t i = 0; i < header.e_phnum; ++i) {
        Elf64_Phdr segment{};
        const auto at = base::checked_add(std::uint64_t{header.e_phoff}, i * sizeof(Elf64_Phdr));
        if (!at || !read_at(file, *at, segment))
            return fail("the kernel image is truncated: its program headers end beyond the file");
        if (segment.p_type == PT_INTERP || segment.p_type == PT_DYNAMIC)
            return fail("the kernel image is dynamically linked");
        if (segment.p_type != PT_LOAD || segment.p_memsz == 0)
            continue;
        TRY(const KernelSegment checked, check_segment(segment, file.size()));
        // Ascending order is required by the ELF specification for PT_LOAD; pages are not shared,
        // because permissions are per page.
        if (checked.first_page() < image.size)
            return fail("segments of the kernel image overlap or are out of order");
        image.size = checked.end_of_pages();
        image.segments.push_back(checked);
    }
    if (image.segments.empty())
        return fail("the kernel image has nothing to load");
    if (!entry_is_code(image))
        return fail("the kernel image's entry point is not in its code");
    return image;
}

} // namespace boot
