// The broker of a VM's vsock sockets: a process apart that owns the paths. It makes the connections
// that the guest asks for - to PATH_<port>, and nowhere else - and removes the listening sockets
// when its client is gone, however that ended. So the sandboxed VMM needs neither the right to make
// and connect sockets nor to remove files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/unique_fd.hpp"
#include "virtio/backend/vsock/channel.hpp"

namespace virtio {

// A Unix socket that listens at a path.
struct VsockListener {
    UniqueFd socket;
    std::string path;
    std::uint64_t device = 0, inode = 0; // so that only this one is removed
};
// Errors: EADDRINUSE, something is there already; ENAMETOOLONG; what bind(2) says.
base::Result<VsockListener, HostError> listen_for_vsock(const std::string& path, VsockType type);

// If it is still that one.
void remove_vsock_socket(const VsockListener& listener);

// The two sockets of one VM: streams at PATH, sequenced packets at PATH_seqpacket.
inline constexpr const char* vsock_seqpacket_suffix = "_seqpacket";
// So that the paths of all ports still fit (unix(7)).
inline constexpr std::size_t longest_vsock_path = 96;

// --- what client and broker say to each other, a packet each

struct BrokerRequest {
    std::uint64_t serial;
    std::uint32_t port;
    std::uint32_t seqpacket; // 0 or 1
};
struct BrokerAnswer { // with the connected socket, if error is 0
    std::uint64_t serial;
    std::int32_t error;
    std::uint32_t reserved;
};

// Serves requests on `client`, a SOCK_SEQPACKET socket, until it ends, then removes what
// `listeners` left at their paths. Their sockets are not used.
void serve_as_vsock_broker(int client, const std::string& path,
                           const std::vector<VsockListener>& listeners);

} // namespace virtio
