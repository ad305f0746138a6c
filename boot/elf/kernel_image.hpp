// The kernel's ELF file, checked: what of the file goes where, and with which permissions. Nothing
// is read or copied here but headers; the caller maps or copies the segments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "boot/error.hpp"

namespace boot {

struct KernelSegment {
    std::uint64_t image_offset; // from the start of the image: virtual address - kernel_virt
    std::uint64_t file_offset;
    std::uint64_t file_size;
    std::uint64_t memory_size; // >= file_size; the rest reads as zeros
    bool writable;
    bool executable;

    // Whether whole pages of the file are whole pages of the image, so that it can be mapped.
    bool mappable() const;
    std::uint64_t first_page() const;   // image offset of the first page it lies on
    std::uint64_t end_of_pages() const; // image offset past its last page
};

struct KernelImage {
    std::uint64_t entry;                 // virtual address, within an executable segment
    std::uint64_t size;                  // bytes from kernel_virt, whole pages
    std::vector<KernelSegment> segments; // ascending; no two share a page
};

// Ensures: every segment's file range lies within `file`, its memory within [0, size), size is at
// most max_kernel_size. Any input is answered, however damaged.
Result<KernelImage> parse_kernel_image(std::span<const std::byte> file);

} // namespace boot
