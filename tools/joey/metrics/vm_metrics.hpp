// One VM's metrics, from what its machine and its devices count.
#pragma once

#include <string>
#include <vector>

#include "virtio/device/fs/fs.hpp"
#include "virtio/device/net/net.hpp"
#include "vmm/machine/vm.hpp"

namespace joey {

// A device of the machine, in the order of their numbers.
struct WatchedDevice {
    virtio::Device* device;
    std::string kind; // "console", "rng", "fs", "vsock", "net"
    std::string name; // of a share, its place in the guest; else empty
    const virtio::Fs* fs = nullptr;
    const virtio::Net* net = nullptr;
};

// `marks`: the caller's own and the machine's, by the host's TSC, which was `start_tsc` when the
// process began. Inside Vm::run(), on its thread.
std::string vm_metrics(const vmm::Vm& vm, const std::vector<WatchedDevice>& devices,
                       std::vector<vmm::TimingMark> marks, std::uint64_t start_tsc);

} // namespace joey
