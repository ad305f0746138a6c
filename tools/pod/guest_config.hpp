// What the guest is told: a container's configuration, as an engine wrote it for this host, in the
// terms of the pod's VM. Directories of the host become places in the pod's share; what belongs to
// the host's kernel (namespaces, control groups, labels, hooks) stays here.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tools/pod/block_io.hpp"
#include "tools/pod/json.hpp"

namespace pod {

// What is at a path that a configuration mounts.
enum class SourceKind {
    Files,     // reaches the guest by the share
    Interface, // of the kernel (proc, sysfs, a device): in the guest, its own
    SharedMemory,
    Missing,
};
SourceKind kind_of_source(const std::string& path, const std::string& destination);

struct GuestConfig {
    struct Source {
        std::string path; // on the host
        bool recursive = false;
        bool read_only = false;
        std::size_t mount = 0; // its number in spec.mounts; the root: none
        bool is_root = false;
    };
    Json spec;
    std::vector<Source> sources;                    // the root first
    std::map<std::string, std::string> pod_sysctls; // of the network, which is the pod's
    std::vector<std::string> pod_namespaces; // kinds to be shared with the pod's first container
    bool own_network = false;                // the configuration names a namespace for it
    std::string network_namespace;           // on the host; empty: a new one
    BlockIo block_io;                        // of the host's devices
    std::vector<std::string> warnings;

    // `path`: where the guest finds the source.
    void place(const Source& source, const std::string& path);
    // The namespaces of the pod's first container, whose pid in the guest this is.
    void join(unsigned pid);
};

using Classify = std::function<SourceKind(const std::string& path, const std::string& destination)>;
os::Result<GuestConfig> make_guest_config(Json config, const std::string& bundle,
                                          const Classify& classify = kind_of_source);

// The same for a process alone.
void make_guest_process(Json& process, std::vector<std::string>& warnings);

} // namespace pod
