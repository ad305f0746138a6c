// Extended attributes of any inode by a descriptor of any kind.
#pragma once

#include <cstddef>
#include <span>

#include "virtio/backend/fs/host.hpp"

namespace virtio::fs {

class Xattrs {
public:
    // Whether the kernel has getxattrat and its relatives (6.13), which reach a file by its entry
    // in /proc/self/fd relative to a descriptor.
    static bool native_available();

    // `proc` must outlive this. Without `native` calls a file is opened for reading first; then
    // attributes of files that are neither regular nor directories are "not supported", and
    // those of files that this process may not read look as if there were none.
    Xattrs(const ProcFds& proc, bool native) : proc_(proc), native_(native) {}

    bool native() const { return native_; }
    // Of `path` in `dir`, a single component, not followed. Requires: native().
    static Result<std::size_t> get_named(int dir, const char* path, const char* name,
                                         std::span<std::byte> value);
    static Result<std::size_t> list_named(int dir, const char* path, std::span<std::byte> names);

    // An empty `value` or `names` asks for the length.
    Result<std::size_t> get(int fd, mode_t type, const char* name,
                            std::span<std::byte> value) const;
    Result<std::size_t> list(int fd, mode_t type, std::span<std::byte> names) const;
    Result<void> set(int fd, mode_t type, const char* name, std::span<const std::byte> value,
                     int flags) const;
    Result<void> remove(int fd, mode_t type, const char* name) const;

private:
    Result<UniqueFd> opened(int fd, mode_t type) const;

    const ProcFds& proc_;
    const bool native_;
};

} // namespace virtio::fs
