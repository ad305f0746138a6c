// What a machine counts: of its vCPUs, by itself, by KVM and by the guest's kernel; of its devices'
// notifications and interrupts; of its memory.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/atomic.hpp"
#include "boot/protocol/counters.hpp"
#include "vmm/kvm/statistics.hpp"

namespace vmm {

// Why a vCPU came out of KVM_RUN to its thread here. What KVM serves by itself is in its own
// statistics.
enum class ExitKind : std::uint8_t {
    Device,      // a write to a device's registers, an inline notification among them
    Control,     // the control page
    Memory,      // RAM that was not attached yet
    Interrupted, // a signal
    Other,       // the machine's end
};
inline constexpr std::array exit_kinds = {ExitKind::Device, ExitKind::Control, ExitKind::Memory,
                                          ExitKind::Interrupted, ExitKind::Other};
const char* name_of(ExitKind kind);

// Written by the vCPU's thread alone.
class ExitCounters {
public:
    void count(ExitKind kind) {
        base::Atomic<std::uint64_t>& counter = counts_[static_cast<std::size_t>(kind)];
        counter.store(counter.load(base::Order::Relaxed) + 1, base::Order::Relaxed);
    }
    std::uint64_t of(ExitKind kind) const {
        return counts_[static_cast<std::size_t>(kind)].load(base::Order::Relaxed);
    }

private:
    std::array<base::Atomic<std::uint64_t>, exit_kinds.size()> counts_{};
};

struct VcpuMetrics {
    std::array<std::uint64_t, exit_kinds.size()> exits{}; // by ExitKind
    std::uint64_t cpu_ns = 0;                             // of its thread
    std::vector<kvm::Statistic> kvm;                      // none if KVM has none
    // Of the guest's kernel, as it claims.
    boot::CpuCounters guest{};
};

struct DeviceMetrics {
    std::uint32_t id = 0; // VIRTIO_ID_*
    std::uint64_t notifications = 0;
    std::uint64_t interrupts = 0;
};

struct MachineMetrics {
    std::vector<VcpuMetrics> cpus;
    std::vector<DeviceMetrics> devices; // by number
    std::uint64_t ram_bytes = 0;
    std::uint64_t ram_backed_bytes = 0; // what the host has given, because it was touched
    std::uint64_t process_cpu_ns = 0;   // of the whole process
    std::uint64_t since_start_ns = 0;   // of the process
};

} // namespace vmm
