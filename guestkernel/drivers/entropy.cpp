#include "guestkernel/drivers/entropy.hpp"

#include <linux/virtio_ids.h>

#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/drivers/virtio_mmio.hpp"

namespace kernel {

namespace {

struct Entropy {
    VirtioDevice device;
    Virtqueue queue;
    u8 seed[64];
};

void on_interrupt(void* context) {
    auto& entropy = *static_cast<Entropy*>(context);
    Virtqueue::Used used;
    while (entropy.queue.take_used(used))
        add_entropy(entropy.seed,
                    used.written <= sizeof entropy.seed ? used.written : sizeof entropy.seed);
}

Result<void> start(const VirtioSlot& slot) {
    TRY(Owned<Entropy> entropy, make_owned<Entropy>());
    TRY(entropy->device.open(PhysAddr(slot.phys), slot.vector, VIRTIO_ID_RNG, 0));
    TRY(entropy->device.setup_queue(entropy->queue, 0, 2));
    TRY(entropy->device.start());
    const DeviceSegment segment[] = {device_segment(entropy->seed, sizeof entropy->seed)};
    if (entropy->queue.submit({}, segment, entropy.get())) {
        arch::register_device_interrupt(slot.vector, on_interrupt, entropy.get());
        (void)entropy->queue.enable_interrupts();
        entropy->queue.notify();
    }
    entropy.leak(); // lives as long as the machine
    return {};
}

} // namespace

void init_entropy() {
    const BootConfig& config = boot_config();
    for (u32 i = 0; i < config.device_count; i++)
        if (VirtioDevice::identify(PhysAddr(config.devices[i].phys)) == VIRTIO_ID_RNG) {
            (void)start(config.devices[i]); // RDRAND has seeded the generator already
            return;
        }
}

} // namespace kernel
