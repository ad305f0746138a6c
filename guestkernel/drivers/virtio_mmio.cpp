#include "guestkernel/drivers/virtio_mmio.hpp"

#include <linux/errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "base/atomic.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/log.hpp"

namespace kernel {
namespace {

constexpr u32 mmio_magic = 0x74726976; // "virt"
constexpr u32 mmio_version = 2;
constexpr u64 indirect_bit = u64{1} << 28;    // VIRTIO_RING_F_INDIRECT_DESC
constexpr u64 event_index_bit = u64{1} << 29; // VIRTIO_RING_F_EVENT_IDX
constexpr u16 max_queue_size = 1024;          // keeps a queue's memory within a few frames

u32 read_register(const volatile u8* registers, u32 offset) {
    // SAFETY: inside the register page, aligned; MMIO is read in the width of the register.
    return *reinterpret_cast<const volatile u32*>(registers + offset);
}

} // namespace

#ifdef JOEY_HOSTED
MmioWriteHook hosted_mmio_write = nullptr;
#endif

u32 VirtioDevice::read(u32 offset) const {
    return read_register(registers_, offset);
}

void VirtioDevice::write(u32 offset, u32 value) {
#ifdef JOEY_HOSTED
    hosted_mmio_write(registers_, offset, value);
#else
    // A volatile store alone is not ordered with ordinary ones by the compiler; the CPU keeps
    // stores in order. The device acts during the store, so afterwards nothing may be read from
    // before it either.
    asm volatile("" ::: "memory");
    *reinterpret_cast<volatile u32*>(registers_ + offset) = value;
    asm volatile("" ::: "memory");
#endif
}

u32 VirtioDevice::identify(PhysAddr registers) {
    const auto* base = static_cast<const volatile u8*>(arch::phys_to_virt(registers));
    if (read_register(base, VIRTIO_MMIO_MAGIC_VALUE) != mmio_magic ||
        read_register(base, VIRTIO_MMIO_VERSION) != mmio_version)
        return 0;
    return read_register(base, VIRTIO_MMIO_DEVICE_ID);
}

Result<void> VirtioDevice::open(PhysAddr registers, u32 vector, u32 device_id, u64 wanted) {
    if (device_id == 0 || identify(registers) != device_id)
        return fail(ENODEV);
    registers_ = static_cast<volatile u8*>(arch::phys_to_virt(registers));
    vector_ = vector;
    if (read(VIRTIO_MMIO_STATUS) != 0)
        write(VIRTIO_MMIO_STATUS, 0);
    write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);

    // After a reset the selectors are 0. The upper word is taken as it must be: without VERSION_1
    // there is no version 2 transport, and the device refuses FEATURES_OK if we are wrong.
    const u64 offered = read(VIRTIO_MMIO_DEVICE_FEATURES);
    const u64 low = offered & (wanted | indirect_bit | event_index_bit);
    features_ = low | u64{1} << VIRTIO_F_VERSION_1;
    if (low != 0)
        write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<u32>(low));
    write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    write(VIRTIO_MMIO_DRIVER_FEATURES, 1u << (VIRTIO_F_VERSION_1 - 32));
    const u32 status =
        VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
    write(VIRTIO_MMIO_STATUS, status);
    if (read(VIRTIO_MMIO_STATUS) != status) {
        log::error("virtio device {x}: features {x} refused", registers.raw(), features_);
        write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_FAILED);
        return fail(EIO);
    }
    return {};
}

Result<void> VirtioDevice::setup_queue(Virtqueue& queue, u16 index, u16 wanted_size) {
    if (selected_queue_ != index) {
        write(VIRTIO_MMIO_QUEUE_SEL, index);
        selected_queue_ = index;
    }
    const u32 limit = read(VIRTIO_MMIO_QUEUE_NUM_MAX);
    if (limit == 0)
        return fail(ENOENT);
    if (read(VIRTIO_MMIO_QUEUE_READY) != 0)
        return fail(EBUSY);
    u32 size = 1;
    while (size * 2 <= limit && size * 2 <= wanted_size && size * 2 <= max_queue_size)
        size *= 2;
    TRY(queue.init(*this, index, static_cast<u16>(size), (features_ & event_index_bit) != 0,
                   (features_ & indirect_bit) != 0));

    const auto place = [this](u32 low_register, const void* area) {
        const u64 address = arch::virt_to_phys(area).raw();
        write(low_register, static_cast<u32>(address));
        if (address >> 32 != 0) // the high word is zero after a reset; it lies 4 bytes on (4.2.2)
            write(low_register + 4, static_cast<u32>(address >> 32));
    };
    write(VIRTIO_MMIO_QUEUE_NUM, size);
    place(VIRTIO_MMIO_QUEUE_DESC_LOW, queue.descriptors_);
    place(VIRTIO_MMIO_QUEUE_AVAIL_LOW, queue.available_);
    place(VIRTIO_MMIO_QUEUE_USED_LOW, queue.used_);
    write(VIRTIO_MMIO_QUEUE_READY, 1);
    if (read(VIRTIO_MMIO_QUEUE_READY) == 0 || needs_reset())
        return fail(EIO);
    return {};
}

Result<void> VirtioDevice::start() {
    write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                  VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
    if (needs_reset())
        return fail(EIO);
    return {};
}

bool VirtioDevice::needs_reset() const {
    return (read(VIRTIO_MMIO_STATUS) & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)) != 0;
}

u8 VirtioDevice::config8(u32 offset) const {
    return registers_[VIRTIO_MMIO_CONFIG + offset];
}
u16 VirtioDevice::config16(u32 offset) const {
    return *reinterpret_cast<const volatile u16*>(registers_ + VIRTIO_MMIO_CONFIG + offset);
}
u32 VirtioDevice::config32(u32 offset) const {
    return read(VIRTIO_MMIO_CONFIG + offset);
}
u64 VirtioDevice::config64(u32 offset) const {
    u64 value = 0;
    read_config(offset, &value, sizeof value);
    return value;
}

void VirtioDevice::peek_config(PhysAddr registers, u32 offset, void* to, usize bytes) {
    const auto* page = static_cast<const volatile u8*>(arch::phys_to_virt(registers));
    u32 generation = 0;
    do { // until nothing changed meanwhile (2.5.1)
        generation = read_register(page, VIRTIO_MMIO_CONFIG_GENERATION);
        base::fence(base::Order::Acquire);
        for (usize i = 0; i < bytes; i++)
            static_cast<u8*>(to)[i] = page[VIRTIO_MMIO_CONFIG + offset + i];
        base::fence(base::Order::Acquire);
    } while (generation != read_register(page, VIRTIO_MMIO_CONFIG_GENERATION));
}

void VirtioDevice::read_config(u32 offset, void* to, usize bytes) const {
    peek_config(arch::virt_to_phys(const_cast<const u8*>(registers_)), offset, to, bytes);
}

} // namespace kernel
