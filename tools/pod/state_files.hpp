// Files that say what there is: written whole or not at all, so that whoever is killed at whatever
// moment leaves either the old or the new one; and locks that end with their holder.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"
#include "tools/pod/json.hpp"

namespace pod {

// Letters, digits and "_+-.", as runc has it; never a path.
os::Result<void> check_id(std::string_view id);

os::Result<void> write_whole(const std::string& path, std::string_view text);
// The same for files that a crash of the machine may take: not synced, which costs milliseconds on
// a disk. What is found empty after a crash counts as not there.
os::Result<void> write_quickly(const std::string& path, std::string_view text,
                               unsigned mode = 0600);
os::Result<Json> read_json(const std::string& path);

// Seen from where this is run.
std::string absolute_path(const std::string& path);

// Makes the directory and those above it, for this user only.
os::Result<void> make_directories(const std::string& path);
// Removes a directory and what is in it. It does not go into what is mounted there, and a directory
// that something is mounted on in another mount namespace goes, and the mount with it.
os::Result<void> remove_tree(const std::string& path);
std::vector<std::string> names_in(const std::string& directory);
bool exists(const std::string& path);

// Held until it is destroyed; flock(2), so the kernel lets go of it when the holder dies.
class Lock {
public:
    // Waits for it.
    static os::Result<Lock> take(const std::string& path);
    // Together with others who share it, and with nobody who takes it.
    static os::Result<Lock> share(const std::string& path);

private:
    static os::Result<Lock> acquire(const std::string& path, int how);
    explicit Lock(os::UniqueFd fd) : fd_(std::move(fd)) {}
    os::UniqueFd fd_;
};

} // namespace pod
