// What an image may cost: every figure is far above what real ones need, and bounds what a hostile
// one can make this machine spend.
#pragma once

#include <cstdint>

namespace image {

struct Limits {
    std::uint64_t unpacked_bytes = std::uint64_t{64} << 30; // data of all files of an image
    std::uint64_t input_bytes = std::uint64_t{64} << 30; // what an archive with an image unpacks to
    std::uint64_t file_bytes = std::uint64_t{1} << 40;   // one file's size, holes included
    std::uint64_t entries = 4'000'000;                   // of all layers, implied directories too
    std::uint64_t remembered_bytes = 512 << 20;          // of directories' paths, in memory
    std::uint64_t archive_members = 20'000;              // of an archive with an image
    std::uint64_t document_bytes = 4 << 20;              // manifest, index, configuration
    std::uint64_t layers = 512;
    unsigned index_depth = 4;             // indices in indices
    std::uint64_t xattr_bytes = 64 << 10; // one value; also Linux's XATTR_SIZE_MAX
    unsigned xattrs_per_file = 128;
};

} // namespace image
