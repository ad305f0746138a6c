// Owner, mode, extended attributes and time of unpacked files. What this process may not give a
// file is written down in an attribute of it, in the form that container engines without privileges
// agree on (docs/design/images.md).
#pragma once

#include <cstdint>
#include <string>

#include "agent/os/error.hpp"
#include "tools/image/tar.hpp"

namespace image {

// uid:gid:mode, and the kind for what could not be made at all.
inline constexpr const char* override_xattr = "user.containers.override_stat";
// Before the name of an attribute that could not be set under its own.
inline constexpr const char* kept_xattr_prefix = "user.joey.xattr.";

struct AttributeCounts {
    std::uint64_t recorded = 0; // files whose owner, mode or kind is in the attribute
    std::uint64_t lost = 0;     // what could be neither set nor recorded
};

class AttributeWriter {
public:
    // Without root's rights files get no set-id bits, which would be those of this user on the
    // host, and stay readable for their owner, who serves them to the guest.
    explicit AttributeWriter(bool privileged) : privileged_(privileged) {}

    // `fd`: of a file or directory, open for more than O_PATH. An errno is an error that matters:
    // no space, a broken disk.
    base::Result<void, int> apply(int fd, const TarEntry& entry);
    // Of a symbolic link, pipe or device that lies in `directory`.
    base::Result<void, int> apply_at(int directory, const char* name, const TarEntry& entry);
    // `fd`: the empty file in the place of a device that could not be made.
    base::Result<void, int> record_device(int fd, const TarEntry& entry);

    const AttributeCounts& counts() const { return counts_; }

private:
    base::Result<void, int> set_xattrs(int fd, const TarEntry& entry);
    void record(int fd, const std::string& value);

    const bool privileged_;
    AttributeCounts counts_;
};

} // namespace image
