#include "virtio/fault.hpp"

namespace virtio {

const char* describe(FaultKind kind) {
    switch (kind) {
    case FaultKind::None:
        return "no fault";
    case FaultKind::QueueSize:
        return "bad queue size";
    case FaultKind::QueueAlignment:
        return "ring not aligned";
    case FaultKind::QueueOutsideMemory:
        return "ring outside of guest memory";
    case FaultKind::AvailableIndex:
        return "available index too far ahead";
    case FaultKind::DescriptorIndex:
        return "descriptor index outside of the table";
    case FaultKind::HeadInFlight:
        return "chain offered twice";
    case FaultKind::ChainTooLong:
        return "descriptor chain too long or looped";
    case FaultKind::ChainOutsideMemory:
        return "descriptor outside of guest memory";
    case FaultKind::ReadableAfterWritable:
        return "readable descriptor after a writable one";
    case FaultKind::IndirectTable:
        return "bad indirect descriptor table";
    case FaultKind::Register:
        return "forbidden register write";
    case FaultKind::Status:
        return "forbidden status transition";
    case FaultKind::Features:
        return "features set at the wrong time";
    case FaultKind::Request:
        return "bad device request";
    }
    return "unknown fault";
}

} // namespace virtio
