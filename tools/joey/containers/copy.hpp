// Copying files between this machine and a container's directories, which its programs may change
// meanwhile: every step is taken from an open directory, follows no link, and so leads nowhere
// else.
#pragma once

#include <string>

#include "agent/os/error.hpp"

namespace joey::containers {

// What `path` is in the directory `root`, to `to` on this machine: into it, if it is a directory.
// Owners and set-id bits stay behind, as do devices. `contents`: of the directory, not itself.
os::Result<void> copy_to_host(int root, const std::string& path, bool follow, const std::string& to,
                              bool contents);
// The other way. `must_be_directory`: what it is copied to. `owners`: kept; else they are root's.
os::Result<void> copy_from_host(const std::string& from, bool follow, int root,
                                const std::string& path, bool must_be_directory, bool owners);

// The same as a tar archive.
os::Result<void> write_archive(int root, const std::string& path, bool follow, int to);
os::Result<void> read_archive(int from, int root, const std::string& path);

} // namespace joey::containers
