// The kernel loader and the symbol table with any file at all. What the loader accepts must be
// inside of the file and of the kernel's address range; loading is done as the VMM does it for
// unaligned images, so that a wrong range is a sanitizer's finding.
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "boot/elf/kernel_image.hpp"
#include "boot/elf/symbols.hpp"
#include "boot/protocol/layout.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
    const boot::SymbolTable symbols(file);
    if (const auto match = symbols.find(boot::kernel_virt + size)) {
        if (match->name.data() < reinterpret_cast<const char*>(data) ||
            match->name.data() + match->name.size() > reinterpret_cast<const char*>(data + size))
            std::abort();
    }
    const auto image = boot::parse_kernel_image(file);
    if (!image)
        return 0;
    if (image->size > boot::max_kernel_size || image->size % boot::page_size != 0)
        std::abort();
    std::vector<std::byte> memory(image->size);
    std::uint64_t end = 0;
    for (const boot::KernelSegment& segment : image->segments) {
        if (segment.first_page() < end || segment.end_of_pages() > image->size)
            std::abort();
        end = segment.end_of_pages();
        if (segment.file_size != 0)
            std::memcpy(memory.data() + segment.image_offset, data + segment.file_offset,
                        segment.file_size);
    }
    return 0;
}
