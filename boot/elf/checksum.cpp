#include "boot/elf/checksum.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <elf.h>
#include <nmmintrin.h>

namespace boot {
namespace {

// e_ident ends in seven bytes of padding, which readers ignore (System V ABI, ELF Identification).
constexpr std::size_t checksum_offset = EI_NIDENT - sizeof(std::uint32_t);
static_assert(checksum_offset > EI_ABIVERSION);

// CRC-32C (RFC 3720, appendix B.4), by the instruction that every CPU with KVM has: 0.1 ms for the
// kernel.
__attribute__((target("sse4.2"))) std::uint32_t crc32c(std::uint32_t crc,
                                                       std::span<const std::byte> data) {
    std::uint64_t state = crc;
    while (data.size() >= sizeof(std::uint64_t)) {
        std::uint64_t word = 0;
        std::memcpy(&word, data.data(), sizeof word);
        state = _mm_crc32_u64(state, word);
        data = data.subspan(sizeof word);
    }
    auto tail = static_cast<std::uint32_t>(state);
    for (const std::byte byte : data)
        tail = _mm_crc32_u8(tail, static_cast<std::uint8_t>(byte));
    return tail;
}

std::uint32_t checksum(std::span<const std::byte> file, const KernelImage& image) {
    Elf64_Ehdr header{};
    std::memcpy(&header, file.data(), sizeof header);
    std::memset(header.e_ident + checksum_offset, 0, sizeof(std::uint32_t));
    std::uint32_t crc = crc32c(~std::uint32_t{0}, std::as_bytes(std::span(&header, 1)));
    crc =
        crc32c(crc, file.subspan(header.e_phoff, std::size_t{header.e_phnum} * sizeof(Elf64_Phdr)));
    for (const KernelSegment& segment : image.segments)
        crc = crc32c(crc, file.subspan(segment.file_offset, segment.file_size));
    return ~crc;
}

} // namespace

Result<void> verify_checksum(std::span<const std::byte> file, const KernelImage& image) {
    std::uint32_t stored = 0;
    std::memcpy(&stored, file.data() + checksum_offset, sizeof stored);
    if (stored != checksum(file, image))
        return fail("the kernel image is damaged: its checksum is wrong");
    return {};
}

Result<void> add_checksum(std::span<std::byte> file) {
    TRY(const KernelImage image, parse_kernel_image(file));
    const std::uint32_t sum = checksum(file, image);
    std::memcpy(file.data() + checksum_offset, &sum, sizeof sum);
    return {};
}

} // namespace boot
