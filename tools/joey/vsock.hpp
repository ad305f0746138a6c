// The VM's vsock: its Unix sockets, the broker process that owns their paths, and the device.
#pragma once

#include <functional>
#include <memory>

#include <sys/types.h>

#include "tools/joey/options.hpp"
#include "tools/joey/outcome.hpp"
#include "virtio/backend/vsock/unix_vsock.hpp"
#include "virtio/device/vsock/vsock.hpp"

namespace joey {

class VsockSockets {
public:
    // Listens at the paths and forks the broker. The sockets' mode obeys `umask`. Requires: one
    // thread, and no sandbox yet.
    static Outcome<std::unique_ptr<VsockSockets>> open(const VsockOption& option, mode_t umask);
    VsockSockets(const VsockSockets&) = delete;
    VsockSockets& operator=(const VsockSockets&) = delete;
    ~VsockSockets() { finish(); }

    // The device, once there is a loop to run it; it refers to this object.
    Outcome<virtio::Device*> make_device(virtio::EventLoop& loop);
    virtio::Vsock& device() { return *device_; }
    // Waits until the broker has removed the sockets. If joey is killed, the broker does so by
    // itself.
    void finish();

private:
    VsockSockets() = default;
    Outcome<void> start_broker(const std::string& path);

    std::uint32_t guest_cid_ = 0;
    std::vector<virtio::VsockListener> listeners_; // streams, sequenced packets
    virtio::UniqueFd broker_client_;
    int broker_number_ = -1; // of the client's socket, wherever it went
    pid_t broker_ = -1;
    std::unique_ptr<virtio::UnixVsock> backend_;
    std::unique_ptr<virtio::Vsock> device_;
};

} // namespace joey
