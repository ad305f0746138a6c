// What tells a damaged kernel image: a CRC-32C in the padding of the ELF header, over the headers
// and every byte that is loaded. It guards against accidents, not against forgery: who can replace
// the image can compute it as well.
#pragma once

#include <cstddef>
#include <span>

#include "boot/elf/kernel_image.hpp"
#include "boot/error.hpp"

namespace boot {

// Fails if the image does not bear the checksum of its contents. Requires: `image` was parsed from
// `file`.
Result<void> verify_checksum(std::span<const std::byte> file, const KernelImage& image);

// Puts the checksum in. Fails if `file` is not a kernel image.
Result<void> add_checksum(std::span<std::byte> file);

} // namespace boot
