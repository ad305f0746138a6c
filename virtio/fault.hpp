// DriverFault: the guest broke the protocol. The transport answers with DEVICE_NEEDS_RESET; the
// process lives on (virtio 1.2, 2.1.2).
#pragma once

#include <cstdint>

#include "base/result.hpp"

namespace virtio {

enum class FaultKind : std::uint8_t {
    None,
    QueueSize,             // not a power of two, zero, or above QueueNumMax
    QueueAlignment,        // 2.7: descriptor table 16, available ring 2, used ring 4
    QueueOutsideMemory,    // a ring is not wholly inside guest RAM
    AvailableIndex,        // the available index ran more than a queue ahead of us
    DescriptorIndex,       // head or next outside of the table
    HeadInFlight,          // a head offered again before it was returned
    ChainTooLong,          // a loop, or more descriptors than any chain may have
    ChainOutsideMemory,    // a descriptor names memory that is not guest RAM, or wraps
    ReadableAfterWritable, // 2.7.4.2
    IndirectTable,         // nested, not negotiated, empty, or not a whole number of descriptors
    Register,              // a register write that the protocol forbids
    Status,                // a status transition that the protocol forbids
    Features,              // features that were not offered
    Request,               // a device-specific request that makes no sense
};

struct DriverFault {
    FaultKind kind = FaultKind::None;
    std::uint16_t queue = 0;
    std::uint64_t detail = 0; // the offending value: index, address, register offset
};

// One phrase for reports: "descriptor outside of guest memory".
const char* describe(FaultKind kind);

template <typename T>
using Checked = base::Result<T, DriverFault>;

inline base::Failure<DriverFault> fault(FaultKind kind, std::uint64_t detail = 0,
                                        std::uint16_t queue = 0) {
    return base::Failure(DriverFault{kind, queue, detail});
}

} // namespace virtio
