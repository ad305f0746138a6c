// The driver holds no data of its own: packets are made when the ring has room for them
// (next_vsock_packet), and what arrives is handed to the endpoints in the buffers it came in.
#include "guestkernel/drivers/vsock.hpp"

#include <linux/errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>

#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/drivers/virtio_mmio.hpp"
#include "guestkernel/ipc/vsock/endpoint.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

namespace {

constexpr u16 receive_size = 64, transmit_size = 64, event_size = 4;
// So many buffers never leave the ring: with none there, the device could not tell of anything.
constexpr u16 least_posted = 8;
constexpr unsigned batch = 64;

// What the device reads and writes, besides the segments: in memory of the heap's own.
struct SharedMemory {
    VsockHeader headers[transmit_size] = {}; // of packets without data
    virtio_vsock_event happened[event_size] = {};
};

struct VsockDevice {
    ~VsockDevice() { kfree(shared); }
    VirtioDevice device;
    Virtqueue receive, transmit, events;
    // Outside of the vsock lock. Held while packets go in or out, so that they keep their order.
    SpinLock lock{LockRank::Device};
    SharedMemory* shared = nullptr;
    u16 free_headers[transmit_size] = {};
    u16 free_header_count = 0;
    u16 posted = 0;
    u32 in_flight = 0;
    WaitQueue idle;
};
VsockDevice* vsock = nullptr;

// --- out

void reclaim_locked() {
    Virtqueue::Used used;
    while (vsock->transmit.take_used(used)) {
        vsock->in_flight--;
        auto* header = static_cast<VsockHeader*>(used.token);
        VsockHeader* const own = vsock->shared->headers;
        if (header >= own && header < own + transmit_size)
            vsock->free_headers[vsock->free_header_count++] = static_cast<u16>(header - own);
        else
            free_vsock_segment(static_cast<VsockSegment*>(used.token));
    }
}

bool room_locked() {
    for (;;) {
        if (vsock->transmit.free_descriptors() > 0 && vsock->free_header_count > 0)
            return true;
        if (vsock->transmit.enable_interrupts()) // else some came back just now
            return false;
        reclaim_locked();
        if (vsock->transmit.broken())
            return false;
    }
}

void submit_locked(const VsockPacket& packet) {
    VsockHeader* header = nullptr;
    void* token = packet.data;
    if (packet.data != nullptr) {
        header = &packet.data->header;
    } else {
        header = &vsock->shared->headers[vsock->free_headers[--vsock->free_header_count]];
        token = header;
    }
    *header = packet.header;
    const DeviceSegment segment[] = {
        device_segment(header, sizeof(VsockHeader) + packet.header.len)};
    if (vsock->transmit.submit(segment, {}, token))
        vsock->in_flight++;
}

void transmit_packets() {
    bool notify = false;
    {
        SpinGuard guard(vsock->lock);
        reclaim_locked();
        while (room_locked()) {
            VsockPacket packet;
            {
                VsockGuard sockets(VsockGuard::At::Quiet);
                if (!next_vsock_packet(VsockTransport::Device, packet))
                    break;
            }
            submit_locked(packet);
        }
        notify = vsock->transmit.needs_notification();
    }
    if (notify)
        vsock->transmit.notify_now();
}

constexpr VsockDeviceDriver driver = {transmit_packets};

// --- in

bool post_locked(VsockSegment* segment) {
    segment->next = nullptr;
    segment->start = segment->end = segment->flags = 0;
    const DeviceSegment room[] = {
        device_segment(&segment->header, sizeof(VsockHeader) + segment->capacity)};
    if (!vsock->receive.submit({}, room, segment))
        return false;
    vsock->posted++;
    return true;
}

// A page each: smaller ones would cost more exits, larger ones more memory that idles.
void fill_locked() {
    constexpr usize head = __builtin_offsetof(VsockSegment, header) + sizeof(VsockHeader);
    while (vsock->posted < vsock->receive.size()) {
        VsockSegment* segment = allocate_vsock_segment(page_size - head);
        if (segment == nullptr)
            return; // the next packet tries again
        if (!post_locked(segment)) {
            free_vsock_segment(segment);
            return;
        }
    }
}

void receive_locked(const Virtqueue::Used& used) {
    auto* segment = static_cast<VsockSegment*>(used.token);
    vsock->posted--;
    const VsockHeader header = segment->header; // once: the memory was the host's
    bool kept = false;
    if (used.written >= sizeof header && header.len <= used.written - sizeof header) {
        segment->end = header.len;
        VsockGuard sockets(VsockGuard::At::Quiet);
        kept = receive_vsock_packet(VsockTransport::Device, header, segment,
                                    vsock->posted >= least_posted);
    }
    if (!kept && !post_locked(segment))
        free_vsock_segment(segment);
}

void receive_packets() {
    for (bool more = true; more;) {
        bool notify = false;
        {
            SpinGuard guard(vsock->lock);
            Virtqueue::Used used;
            unsigned count = 0;
            while (count < batch && vsock->receive.take_used(used)) {
                receive_locked(used);
                count++;
            }
            fill_locked();
            notify = vsock->receive.needs_notification();
            more = count == batch || !vsock->receive.enable_interrupts();
            if (vsock->receive.broken())
                more = false;
        }
        if (notify)
            vsock->receive.notify_now();
    }
}

// --- what happens to the device

void post_event_locked(virtio_vsock_event& event) {
    const DeviceSegment room[] = {device_segment(&event, sizeof event)};
    (void)vsock->events.submit({}, room, &event);
}

void serve_events() {
    bool replaced = false;
    {
        SpinGuard guard(vsock->lock);
        do {
            Virtqueue::Used used;
            while (vsock->events.take_used(used)) {
                auto* event = static_cast<virtio_vsock_event*>(used.token);
                replaced = replaced || (used.written >= sizeof *event &&
                                        event->id == VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
                post_event_locked(*event);
            }
        } while (!vsock->events.enable_interrupts() && !vsock->events.broken());
    }
    vsock->events.notify();
    if (replaced)
        reset_vsock_transport(vsock->device.config32(0));
}

void on_interrupt(void*) {
    receive_packets();
    serve_events();
    transmit_packets();
    vsock->idle.wake_all();
}

Result<void> start(const VirtioSlot& slot) {
    TRY(Owned<VsockDevice> fresh, make_owned<VsockDevice>());
    void* memory = kmalloc(sizeof(SharedMemory));
    if (memory == nullptr)
        return fail(ENOMEM);
    fresh->shared = ::new (memory) SharedMemory();
    TRY(fresh->device.open(PhysAddr(slot.phys), slot.vector, VIRTIO_ID_VSOCK,
                           u64{1} << VIRTIO_VSOCK_F_SEQPACKET));
    TRY(fresh->device.setup_queue(fresh->receive, 0, receive_size));
    TRY(fresh->device.setup_queue(fresh->transmit, 1, transmit_size));
    TRY(fresh->device.setup_queue(fresh->events, 2, event_size));
    TRY(fresh->device.start());
    vsock = fresh.leak(); // lives as long as the machine
    for (u16 i = 0; i < transmit_size; i++)
        vsock->free_headers[vsock->free_header_count++] = i;
    {
        SpinGuard guard(vsock->lock);
        fill_locked();
        for (virtio_vsock_event& event : vsock->shared->happened)
            post_event_locked(event);
    }
    // A CID has 32 bits; the field has room for more (virtio 1.2, 5.10.4).
    attach_vsock_device(driver, vsock->device.config32(0));
    arch::register_device_interrupt(slot.vector, on_interrupt, nullptr);
    vsock->receive.notify();
    vsock->events.notify();
    // The host may have been knocking since the queues were there, when nobody listened to
    // interrupts: what came is taken and answered now, and interrupts are asked for from here on.
    on_interrupt(nullptr);
    return {};
}

} // namespace

Result<void> init_vsock_device() {
    const BootConfig& config = boot_config();
    for (u32 i = 0; i < config.device_count; i++)
        if (VirtioDevice::identify(PhysAddr(config.devices[i].phys)) == VIRTIO_ID_VSOCK)
            return start(config.devices[i]);
    return {};
}

void flush_vsock_device() {
    if (vsock == nullptr)
        return;
    transmit_packets();
    const auto taken = [] {
        SpinGuard guard(vsock->lock);
        reclaim_locked();
        while (vsock->in_flight > 0 && !vsock->transmit.enable_interrupts() &&
               !vsock->transmit.broken())
            reclaim_locked();
        return vsock->in_flight == 0 || vsock->transmit.broken();
    };
    constexpr u64 patience = 2 * nanoseconds_per_second;
    (void)wait_until(vsock->idle, taken, monotonic_ns() + patience, TaskState::Uninterruptible);
}

#ifdef JOEY_HOSTED
void vsock_device_interrupt() {
    on_interrupt(nullptr);
}

void forget_vsock_device() {
    detach_vsock_device();
    delete vsock;
    vsock = nullptr;
}
#endif

} // namespace kernel
