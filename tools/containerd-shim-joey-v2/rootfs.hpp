// A container's root directory, mounted as containerd's snapshotter says.
#pragma once

#include <string>
#include <vector>

#include "agent/os/error.hpp"
#include "tools/containerd-shim-joey-v2/messages.hpp"

namespace shim {

// Mount options as fstab has them, as mount(2) wants them.
struct MountOptions {
    unsigned long flags = 0;
    unsigned long cleared = 0; // by an option that takes back
    std::string data;
    bool loop = false;
};
MountOptions parse_options(const std::vector<std::string>& options);

// mount(2) takes a page of data; layers of an overlay by names relative to a directory above all of
// them need less.
struct ShorterLayers {
    std::string directory; // empty: nothing can be done
    std::string data;
};
ShorterLayers shorten_layers(const std::string& data);

// The calls of the kernel, which a test replaces.
class MountCalls {
public:
    virtual ~MountCalls() = default;
    // Relative sources and layers begin at `directory`, unless that is empty.
    virtual int mount(const std::string& directory, const std::string& source,
                      const std::string& target, const std::string& type, unsigned long flags,
                      const std::string& data);
    virtual int unmount(const std::string& target, int flags);
};

// All of them, one over the other, on `target`, which is made if it is not there. If one fails,
// none stays. Requires: a process whose working directory is nobody's business.
os::Result<void> mount_rootfs(MountCalls& calls, const std::vector<Mount>& mounts,
                              const std::string& target);
// Whatever is mounted there, however often.
os::Result<void> unmount_rootfs(MountCalls& calls, const std::string& target);

} // namespace shim
