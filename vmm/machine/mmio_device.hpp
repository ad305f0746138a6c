// What the machine knows of a device: a page of registers that the guest reads without an exit and
// writes with one, doorbells that may be ioeventfds, and one interrupt. The virtio-mmio transport
// is put behind it by VirtioMmioDevice (virtio_device.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace vmm {

// A write of `value`, 4 bytes wide, at `offset` of the register page signals `fd` in place of
// calling write(). The descriptor stays the device's.
struct Doorbell {
    std::uint64_t offset;
    std::uint32_t value;
    int fd;
};

class MmioDevice {
public:
    virtual ~MmioDevice() = default;

    // One page, page-aligned, mapped read-only into the guest for the machine's whole life.
    virtual std::span<std::byte> register_page() = 0;
    // Doorbells that the machine turns into ioeventfds, for the machine's whole life.
    virtual std::vector<Doorbell> doorbells() = 0;
    // An eventfd that raises the device's interrupt when it is signalled; the device's own.
    virtual int interrupt_fd() = 0;
    // A write that is no doorbell. Runs on the writing vCPU's thread, on several at once.
    virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

} // namespace vmm
