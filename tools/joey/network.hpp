// The guest's network: what is opened on the host for it, and what the guest is told.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "boot/fdt/guest_description.hpp"
#include "tools/joey/network_options.hpp"
#include "tools/joey/outcome.hpp"
#include "virtio/backend/net/tap.hpp"
#include "virtio/backend/net/user_net.hpp"
#include "virtio/device/net/net.hpp"
#include "vmm/machine/vm.hpp"

namespace joey {

class Network {
public:
    // Opens the TAP, or starts user-mode networking and listens on published ports. Before the
    // sandbox. `rootfs`: where /etc/hosts is taken from; `cpus`: how many queue pairs could be of
    // use.
    static Outcome<std::unique_ptr<Network>> open(const NetworkOptions& options,
                                                  const std::string& rootfs,
                                                  const std::string& hostname, unsigned cpus);

    bool user_mode() const { return user_ != nullptr; }
    // Addresses, routes and files.
    void describe(boot::GuestDescription& guest) const { guest.network = guest_; }
    // Makes the device, with threads of its own. Requires: run() of `vm` was not called.
    Outcome<virtio::Net*> connect(vmm::Vm& vm);

private:
    Network() = default;
    Outcome<void> open_tap(const NetworkOptions& options, unsigned cpus);
    Outcome<void> open_user(const NetworkOptions& options);
    void make_files(const NetworkOptions& options, const std::string& rootfs,
                    const std::string& hostname);

    boot::GuestNetwork guest_;
    virtio::NetOptions device_options_;
    std::unique_ptr<virtio::Tap> tap_;
    std::unique_ptr<virtio::UserNet> user_;
    std::unique_ptr<virtio::Net> device_;
};

// What a guest with user-mode networking is told, where nothing is opened for it yet. `rootfs` may
// be empty.
boot::GuestNetwork plan_user_network(const NetworkOptions& options, const std::string& rootfs,
                                     const std::string& hostname);

} // namespace joey
