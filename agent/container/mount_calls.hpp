// The mount calls in steps (fsopen(2) and its like), by descriptors throughout: a path inside a
// container's root is resolved once, beneath that root, and never again.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace container {

struct Attributes {
    std::uint64_t set = 0;
    std::uint64_t clear = 0;
    std::uint64_t propagation = 0; // MS_SHARED and its like without MS_REC; 0: as it is
    bool recursive = false;
};

// A copy of what is mounted at `path`, attached nowhere. An empty path names `directory` itself.
os::Result<os::UniqueFd> clone_tree(int directory, const char* path, bool recursive);
// A copy of the agent's own file or device at `path` for use in a container. Its mode and owner are
// the agent's as well: root inside, who is root outside, must not change them. Devices can be
// written to all the same.
os::Result<os::UniqueFd> clone_read_only(const char* path);
// A new file system; `options` are "key=value" and "flag". `attributes` are MOUNT_ATTR_*.
os::Result<os::UniqueFd> new_filesystem(const std::string& type, const std::string& source,
                                        const std::vector<std::string>& options,
                                        std::uint64_t attributes);
os::Result<void> set_attributes(int mount, const Attributes& attributes);
// Puts a mount on top of the place that `target` (O_PATH) is open on.
os::Result<void> attach(int mount, int target);

// `path` inside of the directory `root`, where symbolic links cannot leave it. More RESOLVE_* flags
// may be given. Empty and "/" are the root itself.
os::Result<os::UniqueFd> open_in_root(int root, std::string_view path, int flags,
                                      std::uint64_t resolve = 0, unsigned mode = 0);
// The same for a directory or an (empty) file that is made, with its parents, where it is missing.
os::Result<os::UniqueFd> make_directory_in_root(int root, std::string_view path, unsigned mode);
os::Result<os::UniqueFd> make_file_in_root(int root, std::string_view path);
// The directory of `path` (made where it is missing), and the last part of the path.
struct Place {
    os::UniqueFd directory;
    std::string name;
};
os::Result<Place> place_in_root(int root, std::string_view path);

} // namespace container
