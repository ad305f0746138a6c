// Where a shim listens: one socket per pod, which only root can reach.
#pragma once

#include <string>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace shim {

// Where containerd's shims have their sockets.
inline constexpr const char* socket_folder = "/run/containerd/s";

// "unix:///run/containerd/s/<SHA-256>": the same for all containers of a group, and another for
// another containerd or namespace.
std::string socket_address(const std::string& folder, const std::string& containerd,
                           const std::string& name_space, const std::string& group);
// What is behind "unix://"; empty if it is no such address.
std::string path_of(const std::string& address);

bool can_connect(const std::string& address);
// AlreadyExists if the socket's file is there, whoever made it.
os::Result<os::UniqueFd> listen_at(const std::string& address);
void remove_socket(const std::string& address);
os::Result<os::UniqueFd> connect_to(const std::string& path);

} // namespace shim
