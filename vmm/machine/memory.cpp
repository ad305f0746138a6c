#include "vmm/machine/memory.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>

#include <sys/mman.h>
#include <sys/stat.h>

#include "base/checked.hpp"
#include "boot/elf/checksum.hpp"

namespace vmm {
namespace {

using boot::KernelSegment;
using boot::page_size;

enum Slot : std::uint32_t {
    slot_first_ram,
    slot_low_ram,
    slot_high_ram,
    slot_kernel,
    slot_device_pages
};

// What attach_first() gives of RAM: more than a guest can touch while attach_rest() runs.
constexpr std::uint64_t first_ram_bytes = std::uint64_t{128} << 20;

// What populate() backs of RAM from the CPU areas on, and of each data segment: what a guest has
// touched when its first program ends.
constexpr std::uint64_t boot_ram_bytes = std::uint64_t{3} << 20;
constexpr std::uint64_t boot_data_bytes = std::uint64_t{512} << 10;

// A kernel with all of its debug information is some 20 MiB.
constexpr off_t max_kernel_file = off_t{512} << 20;

// Maps what of the segment is in the file over `memory`; its last page is shared with whatever
// follows in the file, and that is zeroed as far as it is the segment's own.
Result<void> map_segment(const Mapping& memory, int file, const KernelSegment& segment) {
    const std::uint64_t start = segment.first_page();
    const std::uint64_t lead = segment.image_offset - start;
    void* const at = memory.data() + start;
    if (mmap(at, lead + segment.file_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file,
             static_cast<off_t>(segment.file_offset - lead)) == MAP_FAILED)
        return fail(errno, "map the kernel image");
    const std::uint64_t end = segment.image_offset + segment.file_size;
    const std::uint64_t zeros =
        std::min(base::align_up(end, page_size) - end, segment.memory_size - segment.file_size);
    if (zeros != 0)
        std::memset(memory.data() + end, 0, zeros);
    return {};
}

} // namespace

Result<MachineMemory> MachineMemory::create(std::uint64_t ram_bytes,
                                            const std::string& kernel_path) {
    MachineMemory memory;
    memory.ram_file_ = virtio::UniqueFd(memfd_create("joey-ram", MFD_CLOEXEC));
    if (!memory.ram_file_)
        return fail(errno, "memfd_create");
    if (ftruncate(memory.ram_file_.get(), static_cast<off_t>(ram_bytes)) < 0)
        return fail(errno, "reserve the guest's memory");
    TRY(memory.ram_, Mapping::create(ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                                     memory.ram_file_.get(), "map the guest's memory"));
    memory.low_bytes_ = std::min(ram_bytes, boot::low_ram_limit);
    TRY(memory.load_kernel(kernel_path));
    TRY(memory.device_pages_,
        Mapping::create(boot::max_virtio_devices * boot::virtio_mmio_stride, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, "map device registers"));

    bool added =
        memory.guest_.add_region({virtio::GuestAddr(0), memory.ram_.data(), memory.low_bytes_});
    if (ram_bytes > memory.low_bytes_)
        added = added && memory.guest_.add_region({virtio::GuestAddr(boot::high_ram_base),
                                                   memory.ram_.data() + memory.low_bytes_,
                                                   ram_bytes - memory.low_bytes_});
    added = added &&
            memory.guest_.add_region({virtio::GuestAddr(boot::kernel_phys),
                                      memory.kernel_memory_.data(), memory.kernel_memory_.size()});
    if (!added)
        return fail(EINVAL, "lay out the guest's memory");
    return memory;
}

Result<void> MachineMemory::load_kernel(const std::string& path) {
    const virtio::UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file)
        return fail(errno, "open the kernel image");
    struct stat status {};
    if (fstat(file.get(), &status) < 0)
        return fail(errno, "read the kernel image");
    if (!S_ISREG(status.st_mode) || status.st_size <= 0 || status.st_size > max_kernel_file)
        return fail(0, "the kernel image is not a regular file of a sensible size");
    TRY(kernel_file_, Mapping::create(static_cast<std::size_t>(status.st_size), PROT_READ,
                                      MAP_PRIVATE, file.get(), "map the kernel image"));
    auto image = boot::parse_kernel_image(kernel_file_.bytes());
    if (!image)
        return fail(0, image.error().reason);
    if (auto sound = boot::verify_checksum(kernel_file_.bytes(), *image); !sound)
        return fail(0, sound.error().reason);
    // From here on the file is read for a crash report only.
    madvise(kernel_file_.data(), kernel_file_.size(), MADV_DONTNEED);
    kernel_ = std::move(*image);
    TRY(kernel_memory_, Mapping::create(kernel_.size, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                                        "map the kernel's memory"));
    for (const KernelSegment& segment : kernel_.segments) {
        if (segment.file_size == 0)
            continue;
        if (segment.mappable())
            TRY(map_segment(kernel_memory_, file.get(), segment));
        else
            std::memcpy(kernel_memory_.data() + segment.image_offset,
                        kernel_file_.data() + segment.file_offset, segment.file_size);
    }
    return {};
}

std::uint64_t MachineMemory::backed_bytes() const {
    struct stat about {};
    constexpr std::uint64_t block = 512;
    return fstat(ram_file_.get(), &about) == 0 ? static_cast<std::uint64_t>(about.st_blocks) * block
                                               : 0;
}

std::uint64_t MachineMemory::high_ram_end() const {
    const std::uint64_t high = ram_.size() - low_bytes_;
    return high == 0 ? 0 : boot::high_ram_base + high;
}

std::span<std::byte, boot::page_size> MachineMemory::device_page(unsigned device) const {
    return device_pages_.bytes()
        .subspan(device * boot::virtio_mmio_stride)
        .first<boot::page_size>();
}

void MachineMemory::populate() const {
    // Linux 5.14; without it pages are backed as they are touched.
    const auto back = [](std::span<std::byte> range) {
        // In pieces: the rest of the set-up, too, needs the address space's lock.
        while (!range.empty()) {
            const auto piece = range.first(std::min<std::size_t>(range.size(), 32 * page_size));
            madvise(piece.data(), piece.size(), MADV_POPULATE_WRITE);
            range = range.subspan(piece.size());
        }
    };
    back(low_ram().subspan(boot::boot_block_phys, 2 * page_size));
    const std::uint64_t end = std::min(low_bytes_, boot::cpu_areas_phys + boot_ram_bytes);
    back(low_ram().subspan(boot::cpu_areas_phys, end - boot::cpu_areas_phys));
    for (const KernelSegment& segment : kernel_.segments) {
        const std::uint64_t size = segment.end_of_pages() - segment.first_page();
        if (segment.writable)
            back(kernel_memory_.bytes().subspan(segment.first_page(),
                                                std::min(size, boot_data_bytes)));
    }
}

Result<void> MachineMemory::attach_first(kvm::VmHandle& vm) const {
    const std::uint64_t first = std::min(low_bytes_, first_ram_bytes);
    TRY(vm.set_memory(slot_first_ram, 0, low_ram().first(first), kvm::SlotAccess::ReadWrite));
    TRY(vm.set_memory(slot_kernel, boot::kernel_phys, kernel_memory_.bytes(),
                      kvm::SlotAccess::ReadWrite));
    return vm.set_memory(slot_device_pages, boot::virtio_mmio_base, device_pages_.bytes(),
                         kvm::SlotAccess::ReadOnly);
}

Result<void> MachineMemory::attach_rest(kvm::VmHandle& vm) const {
    if (low_bytes_ > first_ram_bytes)
        TRY(vm.set_memory(slot_low_ram, first_ram_bytes, low_ram().subspan(first_ram_bytes),
                          kvm::SlotAccess::ReadWrite));
    if (ram_.size() > low_bytes_)
        TRY(vm.set_memory(slot_high_ram, boot::high_ram_base, ram_.bytes().subspan(low_bytes_),
                          kvm::SlotAccess::ReadWrite));
    return {};
}

} // namespace vmm
