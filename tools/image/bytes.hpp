// Streams of bytes on their way into a store: files, what they decompress to, and hashes of both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"
#include "tools/image/digest.hpp"

struct archive;

namespace image {

// Who wants to know how far an import is.
class Progress {
public:
    virtual ~Progress() = default;
    // A new phase, and how many bytes it will take, if that is known.
    virtual void begin(std::string_view what, std::optional<std::uint64_t> total) = 0;
    virtual void advance(std::uint64_t bytes) = 0;
};

class ByteSource {
public:
    virtual ~ByteSource() = default;
    // Up to `out.size()` bytes; 0 at the end.
    virtual os::Result<std::size_t> read(std::span<std::byte> out) = 0;
};

class FileSource final : public ByteSource {
public:
    // `name` is for messages; `progress` may be null.
    FileSource(os::UniqueFd fd, std::string name, Progress* progress = nullptr)
        : fd_(std::move(fd)), name_(std::move(name)), progress_(progress) {}
    os::Result<std::size_t> read(std::span<std::byte> out) override;
    int fd() const { return fd_.get(); }

private:
    os::UniqueFd fd_;
    std::string name_;
    Progress* progress_;
};

class HashingSource final : public ByteSource {
public:
    explicit HashingSource(ByteSource& from,
                           Digest::Algorithm algorithm = Digest::Algorithm::Sha256)
        : from_(from), hasher_(algorithm) {}
    os::Result<std::size_t> read(std::span<std::byte> out) override;
    std::uint64_t bytes() const { return bytes_; }
    // Reads what is left; the digest of all.
    os::Result<Digest> finish();

private:
    ByteSource& from_;
    Hasher hasher_;
    std::uint64_t bytes_ = 0;
};

// A libarchive reader over a ByteSource. Its charset conversions are off: names are bytes.
// Requires: load_libarchive().
class ArchiveHandle {
public:
    ArchiveHandle(ByteSource& from, std::string name);
    ArchiveHandle(const ArchiveHandle&) = delete;
    ArchiveHandle& operator=(const ArchiveHandle&) = delete;
    ~ArchiveHandle();

    archive* get() { return archive_; }
    const std::string& name() const { return name_; }
    os::Result<void> open();
    // What the last call of libarchive failed with: the source's own error if that was the cause.
    base::Failure<os::Error> failure();

private:
    static long read_callback(archive* reader, void* self, const void** out);

    ByteSource& from_;
    std::string name_;
    archive* archive_;
    std::unique_ptr<std::byte[]> buffer_;
    std::optional<os::Error> source_error_;
};

// What gzip, zstd, xz and bzip2 made, plain; what is compressed by none of them comes as it is.
// Nothing is ever given to another program, which libarchive would do for rarer formats.
class Decompressor final : public ByteSource {
public:
    // More than `limit` bytes are an error.
    static os::Result<std::unique_ptr<Decompressor>> open(ByteSource& from, std::string name,
                                                          std::uint64_t limit);
    os::Result<std::size_t> read(std::span<std::byte> out) override;

private:
    Decompressor(ByteSource& from, std::string name, std::uint64_t limit)
        : handle_(from, std::move(name)), limit_(limit) {}

    ArchiveHandle handle_;
    std::uint64_t limit_;
    std::uint64_t bytes_ = 0;
    bool empty_ = false;
};

// "64 MiB", for messages.
std::string human_size(std::uint64_t bytes);

} // namespace image
