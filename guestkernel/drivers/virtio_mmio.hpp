// A virtio device behind virtio-mmio version 2 (virtio 1.2, 4.2.2) with a register page that reads
// at memory speed. Every register write exits to the VMM (20 us), so only those writes are made
// that the device cannot know otherwise: registers that are zero after a reset are not zeroed
// again.
//
// Set-up, once, by one task:
//     VirtioDevice device;
//     TRY(device.open(registers, vector, VIRTIO_ID_RNG, wanted_features));   // up to FEATURES_OK
//     TRY(device.setup_queue(queue, 0, 64));                                 // ascending numbers
//     TRY(device.start());                                                   // DRIVER_OK
//     register_device_interrupt(vector, callback, context);                  //
//     arch/interrupts.hpp, if interrupts are used
// Interrupts are edges (MSI): there is no status to read and nothing to acknowledge; the callback
// looks at its queues. Vectors may be shared, so it may also be called for nothing.
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/drivers/virtqueue.hpp"

namespace kernel {

class VirtioDevice {
public:
    VirtioDevice() = default;
    VirtioDevice(const VirtioDevice&) = delete;
    VirtioDevice& operator=(const VirtioDevice&) = delete;

    // VIRTIO_ID_* of the device whose registers are there, without touching it; 0: none.
    static u32 identify(PhysAddr registers);
    // Configuration space of a device that need not be open (its tag, to choose by).
    static void peek_config(PhysAddr registers, u32 offset, void* to, usize bytes);

    // Takes the device: negotiates `wanted` (device-specific bits of the low 24, VIRTIO_F_* below
    // bit 32) as far as it is offered, plus VERSION_1, indirect descriptors and the event index.
    // ENODEV: another device or none; EIO.
    Result<void> open(PhysAddr registers, u32 vector, u32 device_id, u64 wanted);
    bool has_feature(unsigned bit) const { return (features_ >> bit & 1) != 0; }
    // Requires: before start(). The size is cut to what the device can. ENOENT: the device has no
    // such queue.
    Result<void> setup_queue(Virtqueue& queue, u16 index, u16 wanted_size);
    Result<void> start();

    // Configuration space; `offset` and the width as the device's structure says.
    u8 config8(u32 offset) const;
    u16 config16(u32 offset) const;
    u32 config32(u32 offset) const;
    u64 config64(u32 offset) const; // consistent by the generation counter
    void read_config(u32 offset, void* to, usize bytes) const;

    u32 vector() const { return vector_; }
    // The device found fault with us, or we with it.
    bool needs_reset() const;

private:
    friend class Virtqueue;
    u32 read(u32 offset) const;
    void write(u32 offset, u32 value);

    volatile u8* registers_ = nullptr;
    u64 features_ = 0;
    u32 vector_ = 0;
    u32 selected_queue_ = 0;
};

#ifdef JOEY_HOSTED
// Where register writes go in unit tests: a store to memory cannot exit there.
using MmioWriteHook = void (*)(volatile u8* registers, u32 offset, u32 value);
extern MmioWriteHook hosted_mmio_write;
#endif

} // namespace kernel
