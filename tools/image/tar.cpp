#include "tools/image/tar.hpp"

#include <algorithm>
#include <climits>
#include <clocale>
#include <cstdlib>

#include <sys/stat.h>

#include "tools/image/archive_library.hpp"

namespace image {
namespace {

// Names in pax headers are UTF-8 by the letter and bytes in fact. In a UTF-8 locale libarchive
// would put decomposed characters together, which changes names; in this one it leaves the bytes
// alone and warns.
class BytesLocale {
public:
    BytesLocale() : before_(::uselocale(plain())) {}
    BytesLocale(const BytesLocale&) = delete;
    BytesLocale& operator=(const BytesLocale&) = delete;
    ~BytesLocale() { ::uselocale(before_); }

private:
    static locale_t plain() {
        static const locale_t made =
            ::newlocale(LC_CTYPE_MASK, "C", static_cast<locale_t>(nullptr));
        return made;
    }
    locale_t before_;
};

bool is_charset_warning(archive* reader) {
    const char* text = libarchive().archive_error_string(reader);
    return text != nullptr &&
           std::string_view(text).find("current locale") != std::string_view::npos;
}

std::optional<std::uint32_t> as_id(la_int64_t value) {
    // The last one means "none" to the system calls.
    if (value < 0 || value >= UINT32_MAX)
        return std::nullopt;
    return static_cast<std::uint32_t>(value);
}

std::optional<TarEntry::Kind> kind_of(archive_entry* entry) {
    using Kind = TarEntry::Kind;
    if (libarchive().archive_entry_hardlink(entry) != nullptr)
        return Kind::HardLink;
    switch (libarchive().archive_entry_filetype(entry)) {
    case AE_IFREG:
        return Kind::File;
    case AE_IFDIR:
        return Kind::Directory;
    case AE_IFLNK:
        return Kind::SymbolicLink;
    case AE_IFIFO:
        return Kind::Pipe;
    case AE_IFCHR:
        return Kind::CharacterDevice;
    case AE_IFBLK:
        return Kind::BlockDevice;
    default:
        return std::nullopt;
    }
}

} // namespace

template <typename... Parts>
base::Failure<os::Error> TarReader::refuse(const TarEntry& entry, const Parts&... parts) const {
    return os::fail(os::Code::InvalidArgument, handle_.name(), ": '", entry.path.text(),
                    "': ", parts...);
}

os::Result<std::unique_ptr<TarReader>> TarReader::open(ByteSource& from, std::string name,
                                                       const Limits& limits) {
    TRY(load_libarchive());
    std::unique_ptr<TarReader> out(new TarReader(from, std::move(name), limits));
    if (libarchive().archive_read_support_format_tar(out->handle_.get()) != ARCHIVE_OK ||
        libarchive().archive_read_support_format_empty(out->handle_.get()) != ARCHIVE_OK)
        return out->handle_.failure();
    TRY(out->handle_.open());
    return out;
}

os::Result<std::optional<TarEntry>> TarReader::next() {
    const BytesLocale locale;
    archive_entry* entry = nullptr;
    const int status = libarchive().archive_read_next_header(handle_.get(), &entry);
    if (status == ARCHIVE_EOF)
        return std::optional<TarEntry>();
    if (status != ARCHIVE_OK && !(status == ARCHIVE_WARN && is_charset_warning(handle_.get())))
        return handle_.failure();
    TRY(TarEntry out, convert(entry));
    size_ = out.size;
    end_ = 0;
    return std::optional(std::move(out));
}

os::Result<TarEntry> TarReader::convert(archive_entry* entry) const {
    TarEntry out;
    const char* path = libarchive().archive_entry_pathname(entry);
    auto parsed = PathBeneath::parse(path != nullptr ? path : "");
    if (!parsed)
        return os::fail(parsed.error().code, handle_.name(), ": ", parsed.error().message);
    out.path = std::move(*parsed);
    const auto kind = kind_of(entry);
    if (!kind)
        return refuse(out, "an entry of a kind that root directories do not have");
    out.kind = *kind;
    if (out.kind == TarEntry::Kind::SymbolicLink) {
        const char* target = libarchive().archive_entry_symlink(entry);
        out.target = target != nullptr ? target : "";
        if (out.target.empty() || out.target.size() >= PATH_MAX)
            return refuse(out, "a symbolic link to nothing, or to a path that is too long");
    }
    if (out.kind == TarEntry::Kind::HardLink) {
        auto target = PathBeneath::parse(libarchive().archive_entry_hardlink(entry));
        if (!target)
            return refuse(out, "a hard link: ", target.error().message);
        out.link_target = std::move(*target);
    }
    if (out.kind != TarEntry::Kind::Directory && out.path.is_root())
        return refuse(out, "the root must be a directory");
    out.mode = static_cast<std::uint32_t>(libarchive().archive_entry_perm(entry)) & 07777;
    const auto uid = as_id(libarchive().archive_entry_uid(entry));
    const auto gid = as_id(libarchive().archive_entry_gid(entry));
    if (!uid || !gid)
        return refuse(out, "its owner is no number that a file can have");
    out.uid = *uid;
    out.gid = *gid;
    out.modified.tv_sec = libarchive().archive_entry_mtime(entry);
    const long nanoseconds = libarchive().archive_entry_mtime_nsec(entry);
    out.modified.tv_nsec = nanoseconds >= 0 && nanoseconds < 1'000'000'000 ? nanoseconds : 0;
    out.device = libarchive().archive_entry_rdev(entry);
    if (out.kind == TarEntry::Kind::File) {
        const la_int64_t size = libarchive().archive_entry_size(entry);
        if (size < 0 || static_cast<std::uint64_t>(size) > limits_.file_bytes)
            return refuse(out, "a file of more than ", human_size(limits_.file_bytes));
        out.size = static_cast<std::uint64_t>(size);
    }
    TRY(read_xattrs(entry, out));
    return out;
}

os::Result<void> TarReader::read_xattrs(archive_entry* entry, TarEntry& out) const {
    if (libarchive().archive_entry_xattr_reset(entry) > static_cast<int>(limits_.xattrs_per_file))
        return refuse(out, "more than ", limits_.xattrs_per_file, " extended attributes");
    const char* name = nullptr;
    const void* value = nullptr;
    std::size_t size = 0;
    while (libarchive().archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
        if (name == nullptr || size > limits_.xattr_bytes)
            return refuse(out, "an extended attribute of more than ",
                          human_size(limits_.xattr_bytes));
        // Writers say it in several dialects at once.
        const std::string_view wanted = name;
        const auto same = std::find_if(out.xattrs.begin(), out.xattrs.end(),
                                       [&](const Xattr& other) { return other.name == wanted; });
        Xattr& xattr = same != out.xattrs.end() ? *same : out.xattrs.emplace_back();
        xattr = {name, std::string(static_cast<const char*>(value), size)};
    }
    return {};
}

os::Result<std::optional<DataBlock>> TarReader::read_block() {
    const void* data = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    const int status = libarchive().archive_read_data_block(handle_.get(), &data, &size, &offset);
    if (status == ARCHIVE_EOF)
        return std::optional<DataBlock>();
    if (status != ARCHIVE_OK)
        return handle_.failure();
    const auto at = static_cast<std::uint64_t>(offset);
    // A sparse map may claim anything.
    if (offset < 0 || at < end_ || at > size_ || size > size_ - at)
        return os::fail(os::Code::InvalidArgument, handle_.name(),
                        ": a sparse file whose parts overlap or lie outside it");
    end_ = at + size;
    return std::optional(DataBlock{std::span(static_cast<const std::byte*>(data), size), at});
}

} // namespace image
