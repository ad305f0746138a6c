#include "tools/image/source.hpp"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/image/store_lock.hpp"
#include "tools/image/tar.hpp"

namespace image {
namespace {

// Old Dockers wrote a layer that occurs twice as a link to its first place.
constexpr int most_links = 10;
constexpr std::size_t shortest_hex_name = 12;
constexpr std::size_t copy_size = 256 << 10;

std::string_view as_text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()),
            bytes.size()}; // NOLINT: bytes as characters
}

// What archives with images have at their top, and root directories have not.
bool belongs_to_image(const PathBeneath& path) {
    if (path.is_root())
        return true;
    const std::string& top = path.part(0);
    for (const std::string_view known :
         {"oci-layout", "index.json", "manifest.json", "repositories", "blobs"}) {
        if (top == known)
            return true;
    }
    const std::size_t digits = std::min(top.find_first_not_of("0123456789abcdef"), top.size());
    const std::string_view rest = std::string_view(top).substr(digits);
    return digits >= shortest_hex_name &&
           (rest.empty() || rest == ".json" || rest == ".tar" || rest.starts_with(".tar."));
}

os::Result<void> check_digest(const std::string& path, const Digest& expected,
                              const Digest& found) {
    if (expected == found)
        return {};
    return os::fail(os::Code::InvalidArgument, path, " is damaged: its digest is ", found.text(),
                    ", and should be ", expected.text());
}

} // namespace

os::Result<Blob> copy_to(ByteSource& from, int to, std::uint64_t limit, const std::string& name,
                         Digest::Algorithm algorithm) {
    HashingSource hashing(from, algorithm);
    std::vector<std::byte> buffer(copy_size);
    for (;;) {
        TRY(const std::size_t got, hashing.read(buffer));
        if (got == 0)
            break;
        if (hashing.bytes() > limit)
            return os::fail(os::Code::ResourceExhausted, name, ": has more than ",
                            human_size(limit), "; --max-size allows more");
        if (auto written = write_all(to, as_text(std::span(buffer).first(got))); !written)
            return os::fail_errno(written.error(), "cannot write to the image store");
    }
    const std::uint64_t size = hashing.bytes();
    TRY(Digest digest, hashing.finish());
    return Blob{std::move(digest), size};
}

// ---- a directory --------------------------------------------------------------------------------

bool DirectorySource::has(const std::string& path) const {
    return open_in_root(directory_.get(), path, O_PATH).has_value();
}

os::Result<std::string> DirectorySource::read(const std::string& path, std::uint64_t limit) const {
    TRY(std::optional<std::string> text, read_in_root(directory_.get(), path, limit));
    if (!text)
        return os::fail(os::Code::NotFound, path, " is missing");
    return std::move(*text);
}

os::Result<Blob> DirectorySource::take(const std::string& path, const Digest* expected,
                                       Staging& staging) {
    auto fd = open_in_root(directory_.get(), path, O_RDONLY);
    if (!fd)
        return os::fail_errno(fd.error(), "cannot read ", path);
    struct stat status {};
    if (::fstat(fd->get(), &status) != 0 || !S_ISREG(status.st_mode))
        return os::fail(os::Code::InvalidArgument, path, " is no file");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (expected != nullptr && staging.hold_blob(*expected)) {
        if (progress_ != nullptr)
            progress_->advance(size);
        return Blob{*expected, size};
    }
    FileSource from(std::move(*fd), path, progress_);
    TRY(const os::UniqueFd to, staging.create("incoming"));
    const auto algorithm = expected != nullptr ? expected->algorithm() : Digest::Algorithm::Sha256;
    TRY(Blob blob, copy_to(from, to.get(), limits_.input_bytes, path, algorithm));
    if (expected != nullptr)
        TRY(check_digest(path, *expected, blob.digest));
    if (!staging.hold_blob(blob.digest))
        TRY(staging.adopt_blob("incoming", blob.digest));
    return blob;
}

// ---- an archive ---------------------------------------------------------------------------------

os::Result<void> ArchiveSource::add(TarReader& tar, const TarEntry& entry) {
    const std::string path = entry.path.text();
    if (entry.kind == TarEntry::Kind::SymbolicLink || entry.kind == TarEntry::Kind::HardLink) {
        std::string target = entry.link_target.text();
        if (entry.kind == TarEntry::Kind::SymbolicLink) {
            // Within the archive, from where the link stands.
            const std::string from = entry.path.text_of(entry.path.depth() - 1);
            const std::string joined =
                entry.target.starts_with('/') ? entry.target : os::text(from, "/", entry.target);
            TRY(const PathBeneath resolved, PathBeneath::parse(joined));
            target = resolved.text();
        }
        members_.insert_or_assign(path, Member{"", Hasher::of(""), 0, std::move(target), false});
        return {};
    }
    if (entry.kind == TarEntry::Kind::Directory)
        return {};
    if (entry.kind != TarEntry::Kind::File)
        return os::fail(os::Code::InvalidArgument, path, ": neither a file nor a directory");
    // By a number of its own: an archive may have one path twice, and then there are fewer members
    // than files.
    Member member{os::text("member-", files_++), Hasher::of(""), 0, "", false};
    TRY(const os::UniqueFd to, staging_.create(member.file));
    Hasher hasher;
    for (;;) {
        TRY(const std::optional<DataBlock> block, tar.read_block());
        if (!block)
            break;
        // A blob with holes would be hashed without them.
        if (block->offset != member.size)
            return os::fail(os::Code::InvalidArgument, path, ": a sparse file");
        hasher.update(block->bytes);
        member.size += block->bytes.size();
        if (auto written = write_all(to.get(), as_text(block->bytes)); !written)
            return os::fail_errno(written.error(), "cannot write to the image store ",
                                  staging_.store().path());
    }
    if (member.size != entry.size)
        return os::fail(os::Code::InvalidArgument, path, ": a sparse file");
    member.digest = hasher.finish();
    members_.insert_or_assign(path, std::move(member));
    return {};
}

os::Result<std::unique_ptr<ArchiveSource>> ArchiveSource::open(ByteSource& from,
                                                               const std::string& name,
                                                               const Limits& limits,
                                                               Staging& staging) {
    std::unique_ptr<ArchiveSource> source(new ArchiveSource(staging));
    TRY(const std::unique_ptr<Decompressor> plain,
        Decompressor::open(from, name, limits.input_bytes));
    TRY(const std::unique_ptr<TarReader> tar, TarReader::open(*plain, name, limits));
    std::uint64_t count = 0;
    for (;;) {
        TRY(const std::optional<TarEntry> entry, tar->next());
        if (!entry)
            break;
        if (!belongs_to_image(entry->path))
            return std::unique_ptr<ArchiveSource>();
        if (++count > limits.archive_members)
            return os::fail(os::Code::ResourceExhausted, name, ": more than ",
                            limits.archive_members, " members");
        TRY(source->add(*tar, *entry));
    }
    if (source->find("manifest.json") == nullptr && source->find("index.json") == nullptr)
        return std::unique_ptr<ArchiveSource>();
    return source;
}

const ArchiveSource::Member* ArchiveSource::find(const std::string& path) const {
    std::string at = path;
    for (int links = 0; links < most_links; ++links) {
        const auto parsed = PathBeneath::parse(at);
        if (!parsed)
            return nullptr;
        const auto found = members_.find(parsed->text());
        if (found == members_.end())
            return nullptr;
        if (found->second.link.empty())
            return &found->second;
        at = found->second.link;
    }
    return nullptr;
}

ArchiveSource::Member* ArchiveSource::find(const std::string& path) {
    return const_cast<Member*>(std::as_const(*this).find(path)); // NOLINT: it is a member of ours
}

bool ArchiveSource::has(const std::string& path) const {
    return find(path) != nullptr;
}

os::Result<std::string> ArchiveSource::read(const std::string& path, std::uint64_t limit) const {
    const Member* member = find(path);
    if (member == nullptr)
        return os::fail(os::Code::NotFound, path, " is missing in the archive");
    if (member->taken)
        return os::fail(os::Code::InvalidArgument, path, " is both a document and a layer");
    TRY(std::optional<std::string> text, read_in_root(staging_.directory(), member->file, limit));
    if (!text)
        return os::fail(os::Code::NotFound, path, " is missing in the archive");
    return std::move(*text);
}

os::Result<Blob> ArchiveSource::take(const std::string& path, const Digest* expected,
                                     Staging& staging) {
    Member* member = find(path);
    if (member == nullptr)
        return os::fail(os::Code::NotFound, path, " is missing in the archive");
    Blob blob{member->digest, member->size};
    if (member->taken)
        return blob;
    if (expected != nullptr && expected->algorithm() != Digest::Algorithm::Sha256) {
        auto fd = open_in_root(staging.directory(), member->file, O_RDONLY);
        if (!fd)
            return os::fail_errno(fd.error(), "cannot read ", path);
        FileSource file(std::move(*fd), path);
        HashingSource hashing(file, expected->algorithm());
        TRY(blob.digest, hashing.finish());
    }
    if (expected != nullptr)
        TRY(check_digest(path, *expected, blob.digest));
    if (!staging.hold_blob(blob.digest))
        TRY(staging.adopt_blob(member->file, blob.digest));
    member->digest = blob.digest;
    member->taken = true;
    return blob;
}

} // namespace image
