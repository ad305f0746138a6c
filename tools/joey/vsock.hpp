// The VM's Unix sockets - those of its vsock, and the one of its metrics - the broker process that
// owns their paths, and the vsock device.
#pragma once

#include <functional>
#include <memory>

#include <sys/types.h>

#include "tools/joey/options.hpp"
#include "tools/joey/outcome.hpp"
#include "virtio/backend/vsock/unix_vsock.hpp"
#include "virtio/device/vsock/vsock.hpp"

namespace joey {

class VmSockets {
public:
    // Listens at the paths and forks the broker. The sockets' mode obeys `umask`. Requires: one
    // thread, and no sandbox yet.
    static Outcome<std::unique_ptr<VmSockets>> open(const std::optional<VsockOption>& vsock,
                                                    const std::string& metrics, mode_t umask);
    VmSockets(const VmSockets&) = delete;
    VmSockets& operator=(const VmSockets&) = delete;
    ~VmSockets() { finish(); }

    // The device, once there is a loop to run it; it refers to this object.
    Outcome<virtio::Device*> make_device(virtio::EventLoop& loop);
    bool has_device() const { return device_ != nullptr; }
    virtio::Vsock& device() { return *device_; }
    // Where callers ask for metrics; once, and nothing if there is none.
    virtio::UniqueFd take_metrics() { return std::move(metrics_); }
    // Waits until the broker has removed the sockets. If joey is killed, the broker does so by
    // itself.
    void finish();

private:
    VmSockets() = default;
    Outcome<void> listen(const std::string& path, virtio::VsockType type, const char* option);
    Outcome<void> listen_all(const std::optional<VsockOption>& vsock, const std::string& metrics);
    Outcome<void> start_broker(const std::string& path);

    std::uint32_t guest_cid_ = 0;
    std::vector<virtio::VsockListener> listeners_; // streams, sequenced packets; metrics
    virtio::UniqueFd metrics_;
    virtio::UniqueFd broker_client_;
    int broker_number_ = -1; // of the client's socket, wherever it went
    pid_t broker_ = -1;
    std::unique_ptr<virtio::UnixVsock> backend_;
    std::unique_ptr<virtio::Vsock> device_;
};

} // namespace joey
