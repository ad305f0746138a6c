// TarReader: the entries of a tar archive, each checked and in plain types.
#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <sys/types.h>

#include "agent/os/error.hpp"
#include "tools/image/beneath.hpp"
#include "tools/image/bytes.hpp"
#include "tools/image/limits.hpp"

struct archive_entry;

namespace image {

struct Xattr {
    std::string name;
    std::string value;
};

struct TarEntry {
    enum class Kind : std::uint8_t {
        File,
        Directory,
        SymbolicLink,
        HardLink,
        Pipe,
        CharacterDevice,
        BlockDevice,
    };
    Kind kind = Kind::File;
    PathBeneath path;
    std::string target;      // of a symbolic link, as written
    PathBeneath link_target; // of a hard link
    std::uint32_t mode = 0;  // permissions, set-id and sticky bits
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    timespec modified{};
    dev_t device = 0;
    std::uint64_t size = 0; // of a file
    std::vector<Xattr> xattrs;
};

struct DataBlock {
    std::span<const std::byte> bytes;
    std::uint64_t offset = 0;
};

class TarReader {
public:
    static os::Result<std::unique_ptr<TarReader>> open(ByteSource& from, std::string name,
                                                       const Limits& limits);
    // The next one; nothing at the end.
    os::Result<std::optional<TarEntry>> next();
    // The next piece of the entry's data; what lies between pieces is zero. Nothing at the end.
    os::Result<std::optional<DataBlock>> read_block();

private:
    TarReader(ByteSource& from, std::string name, const Limits& limits)
        : handle_(from, std::move(name)), limits_(limits) {}
    os::Result<TarEntry> convert(archive_entry* entry) const;
    os::Result<void> read_xattrs(archive_entry* entry, TarEntry& out) const;
    template <typename... Parts>
    base::Failure<os::Error> refuse(const TarEntry& entry, const Parts&... parts) const;

    ArchiveHandle handle_;
    const Limits limits_;
    std::uint64_t size_ = 0; // of the present entry
    std::uint64_t end_ = 0;  // of its last block
};

} // namespace image
