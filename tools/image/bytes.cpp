#include "tools/image/bytes.hpp"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <unistd.h>

#include "tools/image/archive_library.hpp"

namespace image {
namespace {

constexpr std::size_t buffer_size = 256 << 10;

} // namespace

os::Result<std::size_t> FileSource::read(std::span<std::byte> out) {
    for (;;) {
        const ssize_t got = ::read(fd_.get(), out.data(), out.size());
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return os::fail_errno(errno, "cannot read ", name_);
        if (progress_ != nullptr && got > 0)
            progress_->advance(static_cast<std::uint64_t>(got));
        return static_cast<std::size_t>(got);
    }
}

os::Result<std::size_t> HashingSource::read(std::span<std::byte> out) {
    TRY(const std::size_t got, from_.read(out));
    hasher_.update(out.first(got));
    bytes_ += got;
    return got;
}

os::Result<Digest> HashingSource::finish() {
    std::array<std::byte, 65536> rest;
    for (;;) {
        TRY(const std::size_t got, read(rest));
        if (got == 0)
            return hasher_.finish();
    }
}

ArchiveHandle::ArchiveHandle(ByteSource& from, std::string name)
    : from_(from), name_(std::move(name)), archive_(libarchive().archive_read_new()),
      buffer_(std::make_unique<std::byte[]>(buffer_size)) {
    if (archive_ == nullptr)
        std::abort();
}

ArchiveHandle::~ArchiveHandle() {
    libarchive().archive_read_free(archive_);
}

long ArchiveHandle::read_callback(archive* reader, void* self, const void** out) {
    auto& handle = *static_cast<ArchiveHandle*>(self);
    auto got = handle.from_.read(std::span(handle.buffer_.get(), buffer_size));
    if (!got) {
        libarchive().archive_set_error(reader, EIO, "%s", got.error().message.c_str());
        handle.source_error_ = std::move(got.error());
        return -1;
    }
    *out = handle.buffer_.get();
    return static_cast<long>(*got);
}

os::Result<void> ArchiveHandle::open() {
    if (libarchive().archive_read_open(archive_, this, nullptr, read_callback, nullptr) !=
        ARCHIVE_OK)
        return failure();
    return {};
}

base::Failure<os::Error> ArchiveHandle::failure() {
    if (source_error_)
        return base::Failure(*source_error_);
    const char* reason = libarchive().archive_error_string(archive_);
    return os::fail(os::Code::InvalidArgument, name_,
                    ": damaged, or no archive: ", reason != nullptr ? reason : "unreadable");
}

os::Result<std::unique_ptr<Decompressor>> Decompressor::open(ByteSource& from, std::string name,
                                                             std::uint64_t limit) {
    TRY(load_libarchive());
    std::unique_ptr<Decompressor> out(new Decompressor(from, std::move(name), limit));
    archive* reader = out->handle_.get();
    // Each is built into Debian's libarchive; a warning would mean that a program is run instead.
    if (libarchive().archive_read_support_filter_gzip(reader) != ARCHIVE_OK ||
        libarchive().archive_read_support_filter_zstd(reader) != ARCHIVE_OK ||
        libarchive().archive_read_support_filter_xz(reader) != ARCHIVE_OK ||
        libarchive().archive_read_support_filter_bzip2(reader) != ARCHIVE_OK ||
        libarchive().archive_read_support_format_raw(reader) != ARCHIVE_OK ||
        libarchive().archive_read_support_format_empty(reader) != ARCHIVE_OK)
        return os::fail(os::Code::Internal,
                        "this libarchive was built without gzip, zstd, xz or bzip2");
    TRY(out->handle_.open());
    archive_entry* entry = nullptr;
    const int status = libarchive().archive_read_next_header(reader, &entry);
    if (status == ARCHIVE_EOF)
        out->empty_ = true;
    else if (status != ARCHIVE_OK)
        return out->handle_.failure();
    return out;
}

os::Result<std::size_t> Decompressor::read(std::span<std::byte> out) {
    if (empty_)
        return std::size_t{0};
    const la_ssize_t got = libarchive().archive_read_data(handle_.get(), out.data(), out.size());
    if (got < 0)
        return handle_.failure();
    bytes_ += static_cast<std::uint64_t>(got);
    if (bytes_ > limit_)
        return os::fail(os::Code::ResourceExhausted, handle_.name(), ": unpacks to more than ",
                        human_size(limit_), "; --max-size allows more");
    return static_cast<std::size_t>(got);
}

std::string human_size(std::uint64_t bytes) {
    constexpr std::array<std::string_view, 5> units = {" B", " KiB", " MiB", " GiB", " TiB"};
    std::size_t unit = 0;
    std::uint64_t tenths = bytes > UINT64_MAX / 10 ? UINT64_MAX : bytes * 10;
    while (tenths >= 10240 && unit + 1 < units.size()) {
        tenths /= 1024;
        ++unit;
    }
    if (unit == 0 || tenths % 10 == 0 || tenths >= 1000)
        return os::text(tenths / 10, units[unit]);
    return os::text(tenths / 10, ".", tenths % 10, units[unit]);
}

} // namespace image
