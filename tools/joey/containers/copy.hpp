// Copying files between this machine and a container's directories, which its programs may change
// meanwhile: every step is taken from an open directory, follows no link, and so leads nowhere
// else.
#pragma once

#include <map>
#include <string>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace joey::containers {

// What is mounted below a directory that is copied, or copied to, by its place in that ("a/b"): it
// is there instead of what it covers.
struct Mount {
    os::UniqueFd node; // opened by O_PATH
    bool read_only = false;
};
using Below = std::map<std::string, Mount>;

// What is copied from a container.
struct Copied {
    int root = -1;
    std::string path; // in that directory
    std::string name; // what it is called; empty: it has no name
    const Below& below;
};

// What is copied to in a container.
struct Destination {
    int root = -1;
    std::string path; // in that directory
    const Below& below;
};

// To `to` on this machine: into it, if it is a directory. Owners and set-id bits stay behind, as do
// devices. `contents`: of the directory, not itself.
os::Result<void> copy_to_host(const Copied& from, const std::string& to, bool contents);
// The other way. `must_be_directory`: what it is copied to. `owners`: kept; else they are root's.
os::Result<void> copy_from_host(const std::string& from, bool follow, const Destination& to,
                                bool must_be_directory, bool owners);

// What is in a directory to another one, with owners, modes and devices.
os::Result<void> copy_content(int from, int to);

// The same as a tar archive.
os::Result<void> write_archive(const Copied& from, int to);
os::Result<void> read_archive(int from, const Destination& to);

} // namespace joey::containers
