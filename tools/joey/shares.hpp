// The directories and files of the host that the guest gets, as virtio-fs devices.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "boot/fdt/guest_description.hpp"
#include "tools/joey/options.hpp"
#include "tools/joey/outcome.hpp"
#include "virtio/backend/unique_fd.hpp"
#include "virtio/device/fs/fs.hpp"
#include "vmm/sandbox/sandbox.hpp"

namespace joey {

class Shares {
public:
    // Opens the root and the volumes. `on_worker_start`: see virtio::FsOptions.
    static Outcome<Shares> open(const DoOptions& options,
                                const std::function<bool()>& on_worker_start);

    // What the sandbox must leave open; valid as long as this object.
    const std::vector<vmm::SharedPath>& paths() const { return paths_; }
    // Tells the kernel what is mounted where.
    void describe(boot::GuestDescription& guest) const;
    // Where a device's files are in the guest.
    std::string place(std::size_t device) const {
        return device == 0 ? "/" : volumes_[device - 1].destination;
    }
    // In the order of their tags; the root first.
    std::vector<std::unique_ptr<virtio::Fs>>& devices() { return devices_; }

private:
    Shares() = default;
    Outcome<void> add_core_directory(const std::string& directory,
                                     const std::function<bool()>& on_worker_start);
    Outcome<void> add(const std::string& path, const std::string& tag, virtio::ShareConfig config,
                      const std::function<bool()>& on_worker_start);

    boot::RootMode root_mode_ = boot::RootMode::Overlay;
    std::vector<boot::Volume> volumes_;
    std::string core_directory_; // its path inside
    std::vector<virtio::UniqueFd> fds_;
    std::vector<vmm::SharedPath> paths_;
    std::vector<std::unique_ptr<virtio::Fs>> devices_;
};

} // namespace joey
